"""The output grid of a cube: tangent plane, spaxels, wavelength planes and their FITS header."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr import units
from mrsxr.errors import MrsxrError
from mrsxr.spaxels import even_step, header_of_text, plane_widths, spaxel_size

from .place import Place
from .sky import Pointing, slicer_to_sky, tangent_frame, tangent_offsets, tangent_to_sky, wrap

#: Least part of a grid that its exposures must cover.
LEAST_COVER = 0.05
#: How far beyond the corners of the exposures a cube may have its centre [arcsec].
FARTHEST_CENTER = 60.0
ARCSEC2_TO_SR = 2.3504e-11  # as jwst rounds it in PIXAR_SR


@dataclass(frozen=True)
class CubeGrid:
    """The grid of a cube: a tangent plane cut into square spaxels, and planes of wavelength.

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
        Width of a plane [um]; of unequal planes the median.
    nz : int
        Number of planes.
    position_angle : float, optional
        Rotation r of the axes [deg]: x' = xi cos r + eta sin r, y' = -xi sin r + eta cos r, where xi grows to
        the west and eta to the north. 0: north up, east left.
    crpix : (float, float), optional
        Spaxel of the tangent point along x and y, counted from 1 (FITS); by default the central one.
    centres, widths : tuple of float, optional
        Centres and widths of the planes [um] where these are not of equal width, see :meth:`with_planes`.
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
    centres: tuple[float, ...] | None = field(default=None, repr=False)
    widths: tuple[float, ...] | None = field(default=None, repr=False)

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
        if self.centres is not None:
            return np.array(self.centres)
        return self.wavelength_start + (np.arange(self.nz) + 0.5) * self.wavelength_step

    @property
    def wavelength_edges(self) -> np.ndarray:
        """Edges of the planes of equal width [um], one more than there are planes; see :attr:`planes` for others."""
        if self.centres is not None:
            raise MrsxrError("the planes of the grid are of unequal width; use planes")
        return self.wavelength_start + np.arange(self.nz + 1) * self.wavelength_step

    @property
    def planes(self) -> np.ndarray:
        """Lower and upper edges of the planes [um], (2, plane)."""
        if self.centres is None or self.widths is None:
            edges = self.wavelength_edges
            return np.stack([edges[:-1], edges[1:]])
        half = 0.5 * np.array(self.widths)
        return np.stack([self.wavelengths - half, self.wavelengths + half])

    def with_planes(self, centres: np.ndarray, widths: np.ndarray | None = None) -> CubeGrid:
        """Return the grid with other planes.

        Parameters
        ----------
        centres : array_like of float
            Rising wavelengths [um].
        widths : array_like of float, optional
            [um]; by default a plane reaches halfway to its neighbours.
        """
        centres = np.asarray(centres, float).ravel()
        if centres.size == 0 or not (np.diff(centres) > 0).all():
            raise MrsxrError(f"the {centres.size} wavelengths of the planes do not rise; expected rising numbers")
        if widths is None:
            if centres.size == 1:
                raise MrsxrError("one plane has no neighbours: give its width")
            middle = 0.5 * (centres[1:] + centres[:-1])
            edges = np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
            widths = 2 * np.minimum(centres - edges[:-1], edges[1:] - centres)
        widths = np.broadcast_to(np.asarray(widths, float), centres.shape)
        return replace(
            self, nz=centres.size, wavelength_start=float(centres[0] - 0.5 * widths[0]),
            wavelength_step=float(np.median(widths)), centres=tuple(map(float, centres)),
            widths=tuple(map(float, widths)),
        )  # fmt: skip

    @property
    def frame(self) -> np.ndarray:
        """Axes of the tangent plane, see :func:`mrsxr.geometry.sky.tangent_frame`."""
        return tangent_frame(*self.crval, self.position_angle)

    def sky_to_offsets(self, ra: np.ndarray | float, dec: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Take sky positions [deg] to offsets (x, y) [arcsec] along the axes; NaN where behind the plane."""
        return tangent_offsets(ra, dec, self.frame)

    def offsets_to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take offsets (x, y) [arcsec] along the axes to right ascension and declination [deg]."""
        return tangent_to_sky(x, y, self.frame)

    def sky_to_pixels(self, ra: np.ndarray | float, dec: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Take sky positions [deg] to positions (x, y) in spaxels, counted from 0 at the first centre."""
        x, y = self.sky_to_offsets(ra, dec)
        return x / self.spaxel_size + self._crpix[0] - 1.0, y / self.spaxel_size + self._crpix[1] - 1.0

    def header(self) -> fits.Header:
        """Return the FITS WCS of the cube as ``jwst`` writes it; of unequal planes that of the sky alone."""
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
        if self.centres is not None:
            cards = [(key, 2 if key == "WCSAXES" else value, text) for key, value, text in cards
                     if not key.endswith("3") and "3_" not in key]  # fmt: skip
        return fits.Header(cards)

    def facts(self) -> dict[str, float]:
        """Return the attributes of a cube that tell its spaxels: side [arcsec] and solid angle [sr, arcsec2]."""
        area = self.spaxel_size**2
        solid = area * units.ARCSEC2_TO_SR
        return {"pixel_scale": float(self.spaxel_size), "pixar_sr": float(solid), "pixar_a2": float(area)}

    def coords(self) -> dict[str, xr.Variable]:
        """Return the dimension coordinates ``wavelength`` [um], ``y``, ``x`` [arcsec] of a cube Dataset.

        Unequal planes come with their width, ``wavelength_width`` [um].
        """
        out = {
            "wavelength": xr.Variable("wavelength", self.wavelengths, {"units": "um"}),
            "y": xr.Variable("y", self.y, {"units": "arcsec"}),
            "x": xr.Variable("x", self.x, {"units": "arcsec"}),
        }
        if self.widths is not None:
            text = {"units": "um", "long_name": "width of the plane"}
            out["wavelength_width"] = xr.Variable("wavelength", np.array(self.widths), text)
        return out

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

        The plane is that of ``attrs["wcs"]``; which spaxels and planes are left is read from the coordinates ``x``,
        ``y`` and ``wavelength``, so that ``CubeGrid.of(ds).header()`` is right for what is left, also of every second
        spaxel or of means over several. Spaxels that are not square, flipped axes and falling wavelengths raise
        MrsxrError. Where the wcs tells the sky alone, or planes are missing between others, the planes are those of the
        coordinates ``wavelength`` and, where known, ``wavelength_width``.
        """
        place, header = Place.of(ds), header_of_text(str(ds.attrs.get("wcs", "")))
        size = spaxel_size(ds)
        (east_x, east_y), (north_x, north_y) = place.plane.turn
        upright = np.allclose([east_x, east_y], [-north_y, north_x], atol=1e-6) and min(place.step) > 0
        if not upright:
            raise MrsxrError("the cube is flipped: expected x and y rising, y 90 degrees to the right of x on the sky")
        waves = np.asarray(ds["wavelength"].values, float)
        built = float(header.get("CDELT3", math.nan))
        step = even_step(waves, built) if "CTYPE3" in header else None
        if step is not None and abs(step / built - 1.0) < 1e-3:
            step = built  # of the header, free of rounding
        linear, step = (True, step) if step is not None and step > 0 else (False, 1.0)
        grid = cls(
            crval=(float(wrap(place.plane.crval[0])), place.plane.crval[1]), spaxel_size=size, nx=place.x.size,
            ny=place.y.size, wavelength_start=float(waves[0]) - 0.5 * step,
            wavelength_step=step, nz=waves.size, crpix=place.crpix,
            position_angle=math.degrees(math.atan2(north_x, north_y)),
        )  # fmt: skip
        return grid if linear else grid.with_planes(waves, plane_widths(ds))


def make_grid(
    corner_ra: np.ndarray,
    corner_dec: np.ndarray,
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
        Corners of all footprints [deg], of :func:`mrsxr.geometry.footprint.corners_on_sky`; RA may wrap at 0 / 360.
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

    Raises
    ------
    MrsxrError
        Where the corners are not finite, or the exposures cover next to nothing of the grid (:func:`check_cover`).

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
    if center is not None:
        _check_center(center, middle, ra, dec)
    lower, upper = float(band_limits[0]), float(band_limits[1])
    spread = float(np.float32(upper)) - float(np.float32(lower))
    grid = CubeGrid(
        crval=middle if center is None else (float(center[0]), float(center[1])),
        spaxel_size=float(spaxel), nx=1, ny=1, wavelength_start=lower, wavelength_step=float(step),
        nz=math.ceil(spread / float(np.float32(step))), position_angle=float(position_angle),
    )  # fmt: skip
    if shape is None:
        x, y = grid.sky_to_offsets(ra, dec)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise MrsxrError("the exposures lie on opposite sides of the sky from each other or from center")
        nx, ny = (math.ceil(float(np.abs(v).max()) / spaxel) + 1 for v in (x, y))
        check_cover(x, y, (grid.nz, 2 * ny + 1, 2 * nx + 1), float(spaxel))
    else:
        ny, nx = (int(n) // 2 for n in shape)
    return replace(grid, nx=2 * nx + 1, ny=2 * ny + 1, crpix=(nx + 1.0, ny + 1.0))


def check_cover(x: np.ndarray, y: np.ndarray, shape: tuple[int, int, int], spaxel: float) -> None:
    """Raise where exposures cover next to nothing of a grid: they lie apart, or its centre is not where they are.

    Parameters
    ----------
    x, y : array of float
        Corners of the footprints [arcsec], four of each exposure.
    shape : (int, int, int)
        Planes, rows and columns.
    spaxel : float
        [arcsec].
    """
    if x.size % 4:
        return
    area = shape[1] * shape[2] * spaxel**2
    covered = min(_union_of_boxes(x.reshape(-1, 4), y.reshape(-1, 4)), area)
    size = 16.0 * math.prod(shape)  # bytes
    if covered >= LEAST_COVER * area and (covered >= 5 * LEAST_COVER * area or size < 0.5 * _memory()):
        return
    wide, high = (float(np.ptp(v)) for v in (x, y))
    raise MrsxrError(
        f"the exposures lie up to {max(wide, high):.0f} arcsec apart and cover {100 * covered / area:.1f} % of the "
        f"cube that would hold them ({shape[0]} x {shape[1]} x {shape[2]} voxels, {size / 1e9:.1f} GB); build a cube "
        "of each field, leave out center, or give shape"
    )


def _union_of_boxes(x: np.ndarray, y: np.ndarray) -> float:
    """Return the area that boxes around corners (box, corner) cover together, to the cells of a raster."""
    lows, highs = (np.stack([f(x, axis=1), f(y, axis=1)], axis=1) for f in (np.min, np.max))
    corner = lows.min(axis=0)
    cell = max(float((highs.max(axis=0) - corner).max()) / 1000, 1e-6)
    first = np.floor((lows - corner) / cell).astype(int)
    last = np.maximum(np.ceil((highs - corner) / cell).astype(int), first + 1)
    raster = np.zeros(tuple(last.max(axis=0)), dtype=bool)
    for (i, j), (k, m) in zip(first, last, strict=True):
        raster[i:k, j:m] = True
    return float(raster.sum()) * cell**2


def _memory() -> float:
    """Return the memory of the machine [byte]; without end where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # not on Windows
        return math.inf


def _check_center(center: tuple[float, float], middle: tuple[float, float], ra: np.ndarray, dec: np.ndarray) -> None:
    """Refuse a centre far from the footprints (corners [deg] about their middle), saying where it is swapped."""
    frame = tangent_frame(*middle)
    reach = float(np.hypot(*tangent_offsets(ra, dec, frame)).max()) + FARTHEST_CENTER
    distance = float(np.hypot(*tangent_offsets(*center, frame)))
    if distance <= reach:
        return
    swapped = -90.0 <= center[0] <= 90.0 and float(np.hypot(*tangent_offsets(*center[::-1], frame))) <= reach
    raise MrsxrError(
        f"center (RA {center[0]:.6f}, Dec {center[1]:.6f} deg) lies off the field, whose middle is RA {middle[0]:.6f}, "
        f"Dec {middle[1]:.6f}; " + ("right ascension and declination are swapped" if swapped else "give a place in it")
    )


def slicer_angle(band: str, model: xr.Dataset, pointing: Pointing) -> float:
    """Return the position angle [deg] of a grid whose x axis runs along alpha (``ifualign`` of ``jwst``).

    ``90 + atan2(dRA cos Dec, dDec)`` of the line from alpha = 0 to alpha = 2 arcsec at beta = 0.
    """
    ra, dec = slicer_to_sky([0.0, 2.0], [0.0, 0.0], band, model, pointing)
    east = ((ra[1] - ra[0] + 180.0) % 360.0 - 180.0) * math.cos(math.radians(dec[0]))
    return 90.0 + math.degrees(math.atan2(east, dec[1] - dec[0]))


def unwrap_ra(ra: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return right ascensions [deg], flat, all on one side of the 0 / 360 border."""
    ra = np.asarray(ra, float).ravel()
    if ra.size == 0:
        return ra
    return ra[0] + (ra - ra[0] + 180.0) % 360.0 - 180.0
