"""The output grid of a cube: tangent plane, spaxels, wavelength planes and their FITS header."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr.errors import MrsxrError
from mrsxr.mrs import BANDS, CUBE_COLUMNS

from .detector import detector_to_slicer
from .sky import ARCSEC, Pointing, slicer_to_sky, tangent_frame, tangent_offsets, wrap

ARCSEC2_TO_SR = 2.3504e-11  # as jwst rounds it in PIXAR_SR


@dataclass(frozen=True)
class CubeGrid:
    """The grid of a cube: a tangent plane cut into square spaxels, and equal steps of wavelength.

    Parameters
    ----------
    crval : (float, float)
        Right ascension and declination of the tangent point [deg].
    spaxel_size : float
        Side of a spaxel [arcsec].
    nx, ny : int
        Spaxels along x and y.
    wavelength_start : float
        Lower edge of the first plane [um].
    wavelength_step : float
        Width of a plane [um].
    nz : int
        Number of planes.
    position_angle : float, optional
        Rotation r of the axes [deg]: x' = xi cos r + eta sin r, y' = -xi sin r + eta cos r, where xi grows to
        the west and eta to the north. 0: north up, east left.
    crpix : (float, float), optional
        Spaxel of the tangent point along x and y, counted from 1 (FITS); by default the central one.
    """

    crval: tuple[float, float]
    spaxel_size: float
    nx: int
    ny: int
    wavelength_start: float
    wavelength_step: float
    nz: int
    position_angle: float = 0.0
    crpix: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.crpix is None:
            object.__setattr__(self, "crpix", ((self.nx + 1) / 2, (self.ny + 1) / 2))
        if min(self.nx, self.ny, self.nz) < 1 or not (self.spaxel_size > 0 and self.wavelength_step > 0):
            raise MrsxrError(
                f"a cube grid of {self.nz} x {self.ny} x {self.nx} voxels of {self.spaxel_size} arcsec and "
                f"{self.wavelength_step} um is impossible; expected positive numbers"
            )

    @property
    def ra(self) -> float:
        """Right ascension of the tangent point [deg]."""
        return self.crval[0]

    @property
    def dec(self) -> float:
        """Declination of the tangent point [deg]."""
        return self.crval[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of planes, rows and columns."""
        return self.nz, self.ny, self.nx

    @property
    def _crpix(self) -> tuple[float, float]:
        return self.crpix or (1.0, 1.0)

    @property
    def x(self) -> np.ndarray:
        """Offsets of the spaxel centres along x from the tangent point [arcsec]."""
        return (np.arange(self.nx) + 1.0 - self._crpix[0]) * self.spaxel_size

    @property
    def y(self) -> np.ndarray:
        """Offsets of the spaxel centres along y from the tangent point [arcsec]."""
        return (np.arange(self.ny) + 1.0 - self._crpix[1]) * self.spaxel_size

    @property
    def wavelengths(self) -> np.ndarray:
        """Wavelengths of the centres of the planes [um]."""
        return self.wavelength_start + (np.arange(self.nz) + 0.5) * self.wavelength_step

    @property
    def wavelength_edges(self) -> np.ndarray:
        """Edges of the planes [um], one more than there are planes."""
        return self.wavelength_start + np.arange(self.nz + 1) * self.wavelength_step

    @property
    def frame(self) -> np.ndarray:
        """Axes of the tangent plane, see :func:`mrsxr.geometry.sky.tangent_frame`."""
        return tangent_frame(*self.crval, self.position_angle)

    def projection(self, pointing: Pointing) -> np.ndarray:
        """Return the 3 x 3 matrix from telescope unit vectors to the axes of this plane."""
        return self.frame @ pointing.matrix

    def sky_to_offsets(self, ra, dec) -> tuple[np.ndarray, np.ndarray]:
        """Take sky positions [deg] to offsets (x, y) [arcsec] along the axes; NaN where behind the plane."""
        return tangent_offsets(ra, dec, self.frame)

    def offsets_to_sky(self, x, y) -> tuple[np.ndarray, np.ndarray]:
        """Take offsets (x, y) [arcsec] along the axes to right ascension and declination [deg]."""
        x, y = np.broadcast_arrays(np.asarray(x, float) * ARCSEC, np.asarray(y, float) * ARCSEC)
        w = np.tensordot(self.frame.T, np.stack([np.ones(x.shape), x, y]), axes=1)
        return wrap(np.degrees(np.arctan2(w[1], w[0]))), np.degrees(np.arctan2(w[2], np.hypot(w[0], w[1])))

    def sky_to_pixels(self, ra, dec) -> tuple[np.ndarray, np.ndarray]:
        """Take sky positions [deg] to positions (x, y) in spaxels, counted from 0 at the first centre."""
        x, y = self.sky_to_offsets(ra, dec)
        return x / self.spaxel_size + self._crpix[0] - 1.0, y / self.spaxel_size + self._crpix[1] - 1.0

    def header(self) -> fits.Header:
        """Return the FITS WCS of the cube as ``jwst`` writes it for linear wavelengths."""
        r = math.radians(self.position_angle)
        cards = [
            ("WCSAXES", 3, "number of World Coordinate System axes"),
            ("CRPIX1", float(self._crpix[0]), "axis 1 coordinate of the reference pixel"),
            ("CRPIX2", float(self._crpix[1]), "axis 2 coordinate of the reference pixel"),
            ("CRPIX3", 1.0, "axis 3 coordinate of the reference pixel"),
            ("CRVAL1", float(self.ra), "first axis value at the reference pixel"),
            ("CRVAL2", float(self.dec), "second axis value at the reference pixel"),
            ("CRVAL3", self.wavelength_start + self.wavelength_step / 2, "third axis value"),
            ("CTYPE1", "RA---TAN", "Axis 1 type"),
            ("CTYPE2", "DEC--TAN", "Axis 2 type"),
            ("CTYPE3", "WAVE", "Axis 3 type"),
            ("CUNIT1", "deg", "Axis 1 units"),
            ("CUNIT2", "deg", "Axis 2 units"),
            ("CUNIT3", "um", "Axis 3 units"),
            ("CDELT1", self.spaxel_size / 3600, "Axis 1 coordinate increment at reference point"),
            ("CDELT2", self.spaxel_size / 3600, "Axis 2 coordinate increment at reference point"),
            ("CDELT3", self.wavelength_step, "Axis 3 coordinate increment at reference point"),
            ("PC1_1", -math.cos(r), "linear transformation matrix element"),
            ("PC1_2", math.sin(r), "linear transformation matrix element"),
            ("PC1_3", 0.0, "linear transformation matrix element"),
            ("PC2_1", math.sin(r), "linear transformation matrix element"),
            ("PC2_2", math.cos(r), "linear transformation matrix element"),
            ("PC2_3", 0.0, "linear transformation matrix element"),
            ("PC3_1", 0.0, "linear transformation matrix element"),
            ("PC3_2", 0.0, "linear transformation matrix element"),
            ("PC3_3", 1.0, "linear transformation matrix element"),
            ("RADESYS", "ICRS", "Name of the coordinate reference frame"),
            ("PIXAR_A2", self.spaxel_size**2, "Nominal pixel area in arcsec^2"),
            ("PIXAR_SR", self.spaxel_size**2 * ARCSEC2_TO_SR, "Nominal pixel area in steradians"),
        ]
        return fits.Header(cards)

    def coords(self) -> dict[str, xr.Variable]:
        """Return the dimension coordinates ``wavelength`` [um], ``y``, ``x`` [arcsec] of a cube Dataset."""
        return {
            "wavelength": xr.Variable("wavelength", self.wavelengths, {"units": "um"}),
            "y": xr.Variable("y", self.y, {"units": "arcsec"}),
            "x": xr.Variable("x", self.x, {"units": "arcsec"}),
        }

    @classmethod
    def from_header(cls, header: fits.Header | str, shape: tuple[int, int, int] | None = None) -> CubeGrid:
        """Return the grid of a FITS header (RA---TAN, DEC--TAN, linear WAVE) or of its text.

        Parameters
        ----------
        header : Header or str
        shape : (int, int, int), optional
            Planes, rows, columns; by default NAXIS3, NAXIS2, NAXIS1.
        """
        header = header_of_text(header) if isinstance(header, str) else header
        found = tuple(str(header.get(f"CTYPE{k}", "none")).strip() for k in (1, 2, 3))
        if found != ("RA---TAN", "DEC--TAN", "WAVE"):
            raise MrsxrError(f"the axes of the header are {found}; expected RA---TAN, DEC--TAN, WAVE")
        if shape is None:
            if "NAXIS1" not in header:
                raise MrsxrError("the header has no NAXIS1: give the shape of the cube")
            shape = (int(header["NAXIS3"]), int(header["NAXIS2"]), int(header["NAXIS1"]))
        step = float(header["CDELT3"])
        start = float(header["CRVAL3"]) + (0.5 - float(header.get("CRPIX3", 1.0))) * step
        angle = math.degrees(math.atan2(float(header.get("PC2_1", 0.0)), float(header.get("PC2_2", 1.0))))
        return cls(
            crval=(float(wrap(header["CRVAL1"])), float(header["CRVAL2"])),
            spaxel_size=float(header["CDELT2"]) * 3600, nx=shape[2], ny=shape[1],
            wavelength_start=start, wavelength_step=step, nz=shape[0], position_angle=angle,
            crpix=(float(header["CRPIX1"]), float(header["CRPIX2"])),
        )  # fmt: skip

    @classmethod
    def of(cls, ds: xr.Dataset) -> CubeGrid:
        """Return the grid of a cube Dataset, also of one that was cut along x, y or wavelength.

        The plane is that of ``attrs["wcs"]``; where the cut lies is read from the coordinates ``x``, ``y``
        and ``wavelength``, so that ``CubeGrid.of(ds).header()`` is right for what is left. Steps other than 1
        along x or y have no square spaxels and raise MrsxrError.
        """
        grid = cls.from_header(_wcs_text(ds), shape=(ds.sizes["wavelength"], ds.sizes["y"], ds.sizes["x"]))
        position = []
        for axis in ("x", "y"):
            offsets = np.asarray(ds[axis].values, float) / grid.spaxel_size
            if offsets.size > 1 and not np.allclose(np.diff(offsets), 1.0, atol=1e-4):
                raise MrsxrError(f"the spaxels along {axis} are not consecutive: no grid of square spaxels fits")
            position.append(1.0 - float(offsets[0]))
        start = float(ds["wavelength"].values[0]) - grid.wavelength_step / 2
        return replace(grid, crpix=(position[0], position[1]), wavelength_start=start)


def make_grid(
    corner_ra,
    corner_dec,
    band_limits: tuple[float, float],
    spaxel: float,
    step: float,
    *,
    position_angle: float = 0.0,
    center: tuple[float, float] | None = None,
    shape: tuple[int, int] | None = None,
) -> CubeGrid:
    """Lay a grid over the footprints of the exposures, as ``jwst`` does.

    Parameters
    ----------
    corner_ra, corner_dec : array_like of float
        Corners of all footprints [deg], of :func:`band_footprint`; RA may wrap at 0 / 360.
    band_limits : (float, float)
        Lower and upper wavelength [um] (cubepar WAVEMIN, WAVEMAX).
    spaxel, step : float
        Spaxel size [arcsec] and wavelength step [um].
    position_angle : float, optional
        Rotation of the axes [deg], see :class:`CubeGrid`; for axes along the slices use :func:`slicer_angle`.
    center : (float, float), optional
        Right ascension and declination of the centre [deg]; by default the middle of the corners.
    shape : (int, int), optional
        Rows and columns; even numbers grow by one, so that the centre is a spaxel.

    Returns
    -------
    CubeGrid

    Notes
    -----
    ``jwst.cube_build.ifu_cube.set_geometry``: tangent point at the middle of the extreme RA and Dec;
    symmetric, ``n = ceil(largest offset / spaxel) + 1`` spaxels on either side of the central one. Planes:
    ``ceil((upper - lower) / step)`` counted with the numbers rounded to float32, which is what a cubepar file
    stores; the upper limit moves up to a whole plane. Where half of the corners lie on each side of RA = 0,
    ``jwst`` 3.0.0 takes the innermost for the extreme ones; here the wrap is always undone.
    """
    ra = unwrap_ra(corner_ra)
    dec = np.asarray(corner_dec, float).ravel()
    if ra.size == 0 or not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        raise MrsxrError("the corners of the footprint are empty or not finite: no cube grid can be made")
    middle = (float(wrap((ra.min() + ra.max()) / 2)), float((dec.min() + dec.max()) / 2))
    lower, upper = float(band_limits[0]), float(band_limits[1])
    spread = float(np.float32(upper)) - float(np.float32(lower))
    grid = CubeGrid(
        crval=middle if center is None else (float(center[0]), float(center[1])),
        spaxel_size=float(spaxel), nx=1, ny=1, wavelength_start=lower, wavelength_step=float(step),
        nz=math.ceil(spread / float(np.float32(step))), position_angle=float(position_angle),
    )  # fmt: skip
    if shape is None:
        x, y = grid.sky_to_offsets(ra, dec)
        nx, ny = (math.ceil(float(np.abs(v).max()) / spaxel) + 1 for v in (x, y))
    else:
        ny, nx = (int(n) // 2 for n in shape)
    return replace(grid, nx=2 * nx + 1, ny=2 * ny + 1, crpix=(nx + 1.0, ny + 1.0))


def band_footprint(
    model, slice_map, band: str, pointing: Pointing, *, whole_exposure: bool | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return four corners of the sky footprint of a band in one exposure, as ``jwst`` finds them.

    Parameters
    ----------
    model : Dataset or mapping
        Coefficients as in :func:`mrsxr.geometry.detector.detector_to_slicer` and of V2, V3.
    slice_map : array_like of int, (y, x)
        Slice label of each pixel.
    band : str
        "1A" ... "4C".
    pointing : Pointing
    whole_exposure : bool, optional
        False: the pixels with the extreme RA and Dec among the columns of the channel. True: the box around
        both channels of the exposure (keyword S_REGION). By default what ``jwst`` does for north-up cubes of
        one band: S_REGION for channels 2 and 4, the pixels for 1 and 3.

    Returns
    -------
    ra, dec : ndarray of float64, (4,)
        [deg], 0 <= ra < 360.

    Notes
    -----
    ``jwst.cube_build.cube_build_wcs_util.find_corners_miri`` and ``assign_wcs.util.update_s_region_mrs``.
    Pixel centres are used; the margin of :func:`make_grid` covers their halves.
    """
    labels = np.asarray(slice_map)
    if whole_exposure is None:
        whole_exposure = band[0] in "24"
    bands = [str(item) for item in np.asarray(model["band"])] if whole_exposure else [band]
    pieces = [_band_pixels(model, labels, item, pointing, whole_exposure) for item in bands]
    ra = unwrap_ra(np.concatenate([piece[0] for piece in pieces]))
    dec = np.concatenate([piece[1] for piece in pieces])
    if ra.size == 0:
        raise MrsxrError(f"no pixel of the slice map belongs to band {band}: no footprint")
    if whole_exposure:
        corner_ra = np.array([ra.min(), ra.max(), ra.max(), ra.min()])
        corner_dec = np.array([dec.min(), dec.min(), dec.max(), dec.max()])
    else:
        k = [ra.argmin(), ra.argmax(), dec.argmin(), dec.argmax()]
        corner_ra, corner_dec = ra[k], dec[k]
    return wrap(corner_ra), corner_dec


def _band_pixels(model, labels: np.ndarray, band: str, pointing: Pointing, every_column: bool):
    if band not in BANDS:
        raise MrsxrError(f"'{band}' is no MRS band; expected one of {', '.join(BANDS)}")
    lit = labels // 100 == int(band[0])
    if not every_column:
        first, last = CUBE_COLUMNS[int(band[0])]
        lit[:, :first] = False
        lit[:, last:] = False
    y, x = np.nonzero(lit)
    alpha, beta, _ = detector_to_slicer(x, y, labels[lit], model)
    return slicer_to_sky(alpha, beta, band, model, pointing)


def slicer_angle(band: str, model, pointing: Pointing) -> float:
    """Return the position angle [deg] of a grid whose x axis runs along alpha (``ifualign`` of ``jwst``).

    ``90 + atan2(dRA cos Dec, dDec)`` of the line from alpha = 0 to alpha = 2 arcsec at beta = 0.
    """
    ra, dec = slicer_to_sky([0.0, 2.0], [0.0, 0.0], band, model, pointing)
    east = ((ra[1] - ra[0] + 180.0) % 360.0 - 180.0) * math.cos(math.radians(dec[0]))
    return 90.0 + math.degrees(math.atan2(east, dec[1] - dec[0]))


def nearest_pixel(ds: xr.Dataset, coord) -> tuple[int, int]:
    """Return row and column of the spaxel that holds a sky position; the plain way without an index.

    Parameters
    ----------
    ds : Dataset
        A cube (or image) with coordinates ``ra``, ``dec`` on (y, x), or with ``attrs["wcs"]``, ``x`` and
        ``y``.
    coord : SkyCoord or (float, float)
        ICRS position, or right ascension and declination [deg].

    Returns
    -------
    y, x : int
        From 0.

    Raises
    ------
    KeyError
        Where the position lies outside the field.
    """
    ra, dec = (coord.icrs.ra.deg, coord.icrs.dec.deg) if hasattr(coord, "icrs") else coord
    if "ra" in ds.coords and "dec" in ds.coords:
        grid_ra, grid_dec = np.asarray(ds["ra"].values), np.asarray(ds["dec"].values)
    else:
        grid_ra, grid_dec = CubeGrid.of(ds).offsets_to_sky(*np.meshgrid(ds["x"].values, ds["y"].values))
    west, north = tangent_offsets(grid_ra, grid_dec, tangent_frame(float(ra), float(dec)))
    distance = np.where(np.isfinite(west), np.hypot(west, north), np.inf)
    y, x = np.unravel_index(int(np.argmin(distance)), distance.shape)
    if not np.isfinite(distance[y, x]) or not _inside(west, north, int(y), int(x)):
        raise KeyError(f"ra {float(ra):.6f}, dec {float(dec):.6f} lies outside the field of the cube")
    return int(y), int(x)


def _inside(west: np.ndarray, north: np.ndarray, y: int, x: int) -> bool:
    """Return whether the origin lies within half a spaxel of pixel (y, x), in the frame of its neighbours."""
    rows, columns = west.shape
    if rows < 2 or columns < 2:
        return True
    j, i = (y + 1 if y + 1 < rows else y - 1), (x + 1 if x + 1 < columns else x - 1)
    along_y = np.array([west[j, x] - west[y, x], north[j, x] - north[y, x]])
    along_x = np.array([west[y, i] - west[y, x], north[y, i] - north[y, x]])
    steps = np.linalg.solve(np.column_stack([along_x, along_y]), [-west[y, x], -north[y, x]])
    return bool(np.all(np.abs(steps) <= 0.5 + 1e-6))


def unwrap_ra(ra: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return right ascensions [deg], flat, all on one side of the 0 / 360 border."""
    ra = np.asarray(ra, float).ravel()
    if ra.size == 0:
        return ra
    return ra[0] + (ra - ra[0] + 180.0) % 360.0 - 180.0


def header_of_text(text: str) -> fits.Header:
    """Return the FITS header of a text: 80-character cards, or cards on lines."""
    return fits.Header.fromstring(text, sep="\n" if "\n" in text else "")


def _wcs_text(ds: xr.Dataset) -> str:
    if "wcs" not in ds.attrs:
        raise MrsxrError("the Dataset has no attribute 'wcs': no sky grid is known")
    return str(ds.attrs["wcs"])
