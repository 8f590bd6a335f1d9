"""Position-velocity cuts: the light of a line along a path on the sky."""

from __future__ import annotations

from typing import Annotated, Any

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr.arguments import as_arcsec, as_kms, as_kms_extent, reads
from mrsxr.chunks import CUBE_PLANES
from mrsxr.errors import MrsxrError
from mrsxr.geometry.path import as_path, boxes_along, through
from mrsxr.geometry.place import Place
from mrsxr.limits import Angle, Arcsec, LineName, Range, Redshift, Share, checked
from mrsxr.limits import Place as SkyPlace
from mrsxr.spaxels import pitch
from mrsxr.step import recorded

from ._side_bands import frame_of, need_cube
from ._window import redshift_of
from .linelist import find_line
from .moment_maps import Degree, HalfWidth, subtract_continuum
from .velocity import with_velocity


@reads(path=as_path, length=as_arcsec, width=as_arcsec, step=as_arcsec, window=as_kms, extent=as_kms_extent)
@checked
def position_velocity(
    cube: xr.Dataset, line: LineName, path: Any = None, *, center: SkyPlace | None = None,
    position_angle: Angle = 0.0, length: Arcsec = 4.0, width: Arcsec | None = None, step: Arcsec | None = None,
    redshift: Redshift | None = None, continuum: bool = False,
    extent: float | tuple[float, float] = 600.0, window: HalfWidth = 2500.0, degree: Degree = 1,
    coverage: Annotated[Share, Range(above=0)] = 0.5,
) -> xr.Dataset:  # fmt: skip
    """Cut a cube along a path on the sky: position along it against the velocity of a line.

    Parameters
    ----------
    cube : Dataset, level "cube"
        ``flux`` [MJy/sr], ``var``, ``dq``.
    line, redshift
        As of :func:`mrsxr.lines.moments`.
    path : SkyCoord, region or sequence of places, optional
        Two or more corners of the path; offsets count from the first one.
    center : (ra, dec), optional
        In place of ``path``: a straight cut through this place [deg, SkyCoord or text], from which offsets count.
    position_angle : float
        Of that cut, from north to east [deg]; offsets rise this way.
    length : float
        Of that cut [arcsec].
    width, step : float, optional
        Size of the boxes across and along the path [arcsec]; by default that of a spaxel.
    continuum : bool
        Leave the continuum in. Else that of each spaxel is subtracted first, see :func:`subtract_continuum`.
    extent, window, degree
        As of :func:`subtract_continuum`; ``window`` [km/s] is the half width of what is returned.
    coverage : float
        Boxes with data in less than this part of their area are NaN and DO_NOT_USE.

    Returns
    -------
    Dataset, level "position_velocity", on (wavelength, offset)
        ``flux`` [MJy/sr], the mean of the box; ``var``, as of independent voxels, and ``dq``. Coordinates ``velocity``
        [km/s] (with an index), ``offset`` [arcsec], ``ra`` and ``dec`` [deg] of the middles. Lazy where the cube is.

    Raises
    ------
    MrsxrError
        Where there is neither path nor center, or the path does not cross the cube.

    Notes
    -----
    Spaxels count by the exact area that a box covers of them. At a bend the boxes of both sides overlap.

    Examples
    --------
    >>> nucleus = SkyCoord(cube.ra.mean(), cube.dec.mean(), unit="deg")
    >>> cut = mx.lines.position_velocity(cube, "[Fe II] 5.34", center=nucleus, position_angle=35, length=2 * u.arcsec)
    >>> sorted(cut.sizes), cut.velocity.attrs["units"]
    (['offset', 'wavelength'], 'km/s')
    """
    if (path is None) == (center is None):
        raise MrsxrError("a cut needs a path, or a center with position_angle and length; give one of the two")
    cube = need_cube(cube, "position_velocity")
    label, rest = find_line(line)
    redshift = redshift_of(cube, redshift)
    place, (along_y, along_x) = Place.of(cube), pitch(cube)
    side = float(np.sqrt(along_y * along_x))
    corners = path if path is not None else through(center, position_angle, length)  # type: ignore[arg-type]
    boxes = boxes_along(place, corners, step or side, width or side, middle=path is None)
    if not boxes.part.size:
        raise MrsxrError("the path does not cross the cube; expected places in its field")
    if continuum:
        around = with_velocity(cube, line, redshift=redshift)
        light = cube.isel(wavelength=np.abs(around["velocity"].values) <= window)
    else:
        light = subtract_continuum(cube, line, redshift=redshift, extent=extent, window=window, degree=degree)
    table = {"start": boxes.start, "spaxel": boxes.spaxel, "part": boxes.part, "least": coverage * boxes.area}
    found = _over_boxes(light, boxes.offset.size, table)
    dims, text = ("wavelength", "offset"), {"units": "arcsec", "long_name": "offset along the path"}
    out = frame_of(cube, "position_velocity").drop_dims(["y", "x"]).drop_vars(["ra", "dec"], errors="ignore")
    out = out.assign_coords(
        wavelength=light["wavelength"], offset=("offset", boxes.offset, text), line=((), label),
        ra=("offset", boxes.ra, {"units": "deg"}), dec=("offset", boxes.dec, {"units": "deg"}),
        wavelength_rest=((), rest, {"units": "um", "long_name": "rest wavelength"}),
    )  # fmt: skip
    blind = found[0] != found[0]
    out = out.assign(
        flux=(dims, found[0], cube["flux"].attrs), var=(dims, found[1], cube["var"].attrs),
        dq=(dims, blind.astype(np.uint32) * np.uint32(flags.DO_NOT_USE), dict(flags.PIXEL_DQ_ATTRS)),
    ).assign_attrs(redshift=redshift)  # fmt: skip
    params = {"line": label, "redshift": redshift, "path": [list(one) for one in corners], "continuum": continuum}
    params |= {"width": width or side, "step": step or side, "window": window, "coverage": coverage}
    return recorded(cube, with_velocity(out, line, redshift=redshift), "lines.position_velocity", **params)


def _over_boxes(cube: xr.Dataset, size: int, table: dict[str, Any]) -> Any:
    """Return mean and variance (2, plane, box) of the boxes, by blocks of planes; lazy where the cube is."""
    arrays = [cube[name].variable.data for name in ("flux", "var", "dq")]
    if not any(isinstance(a, da.Array) for a in arrays):
        return means_of_boxes(*arrays, **table)
    chunks = (min(CUBE_PLANES, cube.sizes["wavelength"]), -1, -1)
    lazy = [a.rechunk(chunks) if isinstance(a, da.Array) else da.from_array(a, chunks=chunks) for a in arrays]
    return da.map_blocks(
        means_of_boxes, *lazy, dtype=np.float32, drop_axis=(1, 2), new_axis=(0, 2),
        chunks=((2,), lazy[0].chunks[0], (size,)), meta=np.empty((0, 0, 0), np.float32), **table,
    )  # fmt: skip


def means_of_boxes(
    flux: np.ndarray, var: np.ndarray, dq: np.ndarray, *, start: np.ndarray, spaxel: np.ndarray, part: np.ndarray,
    least: float,
) -> np.ndarray:  # fmt: skip
    """Return mean and its variance (2, plane, box) over the usable spaxels of boxes, NaN where these are too few."""
    from scipy import sparse

    planes = len(flux)
    share: Any = sparse.csr_array((part, spaxel, start), shape=(start.size - 1, flux[0].size))
    flux, var, dq = (np.asarray(a).reshape(planes, -1).T for a in (flux, var, dq))
    good = np.isfinite(flux) & ((dq & np.uint32(flags.DO_NOT_USE)) == 0)
    area = share @ good.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (share @ np.where(good, flux, 0.0).astype(float)) / area
        square = (share.power(2) @ np.where(good, var, 0.0).astype(float)) / area**2
    out = np.where(area >= least, np.stack([mean, square]), np.nan)
    return out.transpose(0, 2, 1).astype(np.float32)
