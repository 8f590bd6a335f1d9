"""The spaxels that are left of a cube or of maps: their pitch, their solid angle, the widths of the planes.

A cube may have been cut, strided, flipped or coarsened since ``attrs`` were written. What is left is told by its
coordinates: the offsets ``y``, ``x`` [arcsec] from the tangent point of ``attrs["wcs"]``, and ``wavelength``.
``attrs["pixel_scale"]`` [arcsec] and ``attrs["pixar_sr"]`` [sr] are those of the spaxels as they were built; light that
is counted per spaxel (W m-2 of maps, Jy/pix) is counted per such a spaxel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from . import units
from .errors import MrsxrError, SchemaError
from .notes import tell

AXES = ("x", "y")  # in the order of FITS
_EVEN = 1e-3  # part of a spaxel, or of a plane, by which places may be off a regular row
_WHOLE = 1e-6
Sky = xr.Dataset | xr.DataArray


@dataclass(frozen=True)
class Plane:
    """The grid of ``attrs["wcs"]``: a tangent plane with spaxels, x before y.

    ``crval`` [deg], ``crpix`` (from 1), ``cdelt`` [deg, signed]; ``turn``: unit vectors along the axes, east and north
    of each, ((east x, east y), (north x, north y)).
    """

    crval: tuple[float, float]
    crpix: tuple[float, float]
    cdelt: tuple[float, float]
    turn: tuple[tuple[float, float], tuple[float, float]]
    radesys: str = "ICRS"

    @property
    def scale(self) -> tuple[float, float]:
        """Signed step from spaxel to spaxel [arcsec]."""
        return self.cdelt[0] * 3600.0, self.cdelt[1] * 3600.0


@dataclass(frozen=True)
class Row:
    """The spaxels along an axis, in those of the plane: the ``first`` (from 0) and the ``stride``; may be fractions."""

    first: float
    stride: float
    size: int


def header_of_text(text: str) -> fits.Header:
    """Return the FITS header of a text: 80-character cards, or cards on lines."""
    return fits.Header.fromstring(text, sep="\n" if "\n" in text else "")


@lru_cache(maxsize=64)
def plane_of(text: str) -> Plane:
    """Return the plane of the text of a FITS header with RA---TAN and DEC--TAN as axes 1 and 2."""
    header = header_of_text(text)
    found = tuple(str(header.get(f"CTYPE{k}", "none")).strip() for k in (1, 2))
    if found != ("RA---TAN", "DEC--TAN"):
        raise MrsxrError(f"the axes of the header are {found}; expected RA---TAN, DEC--TAN")
    degree = [3600.0 if str(header.get(f"CUNIT{k}", "deg")).strip() == "arcsec" else 1.0 for k in (1, 2)]
    cdelt = [float(header.get(f"CDELT{k}", 1.0)) / degree[k - 1] for k in (1, 2)]
    turn = np.array([[float(header.get(f"PC{i}_{k}", float(i == k))) for k in (1, 2)] for i in (1, 2)])
    if not (np.isfinite(cdelt).all() and all(cdelt) and np.isfinite(turn).all() and np.linalg.det(turn)):
        raise MrsxrError(
            f"CDELT of the header is {cdelt[0]}, {cdelt[1]} with PC {turn.tolist()}; expected a grid in degrees"
        )
    # CDELT multiplies the axes of the sky, after PC; here steps are those along the axes of the spaxels
    turn = turn * (np.array(cdelt)[:, None] / np.array(cdelt)[None, :])
    length = np.hypot(*turn)
    for k in (0, 1):
        if abs(length[k] - 1.0) > 1e-7:
            turn[:, k] /= length[k]
            cdelt[k] *= float(length[k])
    pole = math.radians(float(header.get("LONPOLE", 180.0)) - 180.0)
    if pole:
        turn = np.array([[math.cos(pole), math.sin(pole)], [-math.sin(pole), math.cos(pole)]]) @ turn
    crpix = float(header.get("CRPIX1", 0.0)), float(header.get("CRPIX2", 0.0))
    crval = float(header.get("CRVAL1", 0.0)), float(header.get("CRVAL2", 0.0))
    (a, b), (c, d) = turn.tolist()
    return Plane(crval, crpix, (cdelt[0], cdelt[1]), ((a, b), (c, d)), str(header.get("RADESYS", "ICRS")).strip())


def rows_of(ds: Sky, plane: Plane) -> tuple[Row, Row]:
    """Return the spaxels that are left along x and y.

    Raises
    ------
    MrsxrError
        Where the coordinates ``y``, ``x`` are missing, no offsets, or not equally spaced.
    """
    rows = [_row(ds, dim, plane, k) for k, dim in enumerate(AXES)]
    for k, dim in enumerate(AXES):
        lone, other = rows[k], rows[1 - k]
        if lone.size > 1:
            continue
        if _broken(lone.first) or (other.size > 1 and _broken(other.stride)):
            raise MrsxrError(
                f"the width of the only spaxel along {dim} is not known: the spaxels are no more those of attrs['wcs'] "
                f"({abs(plane.scale[k]):.4g} arcsec); keep two or more"
            )
    return rows[0], rows[1]


def _broken(value: float) -> bool:
    return abs(value - round(value)) > _EVEN


def _row(ds: Sky, dim: str, plane: Plane, k: int) -> Row:
    if dim not in ds.sizes:
        raise MrsxrError(f"the Dataset has no dimension '{dim}'; expected spaxels on (y, x)")
    if dim not in ds.coords:
        raise MrsxrError(
            f"the coordinate '{dim}' [arcsec] is missing, which tells where the spaxels lie; do not drop it"
        )
    unit = ds[dim].attrs.get("units")
    offsets = np.asarray(ds[dim].values, float)
    step = even_step(offsets, plane.scale[k])
    if step is None:
        raise MrsxrError(
            f"the spaxels along {dim} are not consecutive: {_shown(offsets)} arcsec are not equally spaced, so that no "
            "FITS header says where they lie; select with slices, or save as netcdf or zarr"
        )
    first = float(offsets[0]) / plane.scale[k] + plane.crpix[k] - 1.0
    stride = step / plane.scale[k]
    on_grid = not _broken(first) and abs(stride - 1.0) < _EVEN
    if unit != "arcsec" and not (unit is None and on_grid):
        raise MrsxrError(
            f"the coordinate '{dim}' is in '{unit or 'no unit'}'; expected offsets from the tangent point in arcsec"
        )
    return Row(_round(first, 2), _round(stride, 1), offsets.size)


def even_step(places: np.ndarray, lone: float) -> float | None:
    """Return the step of equally spaced places, ``lone`` of a single one, None where they are not."""
    if places.size == 0 or not np.isfinite(places).all():
        return None
    if places.size == 1:
        return lone
    step = float(places[-1] - places[0]) / (places.size - 1)
    steps = places[0] + step * np.arange(places.size)
    return step if step and bool(np.abs(places - steps).max() <= _EVEN * abs(step)) else None


def _round(value: float, parts: int) -> float:
    """Return a number free of rounding where it is a whole number of parts."""
    near = round(value * parts) / parts
    return near if abs(value - near) <= _WHOLE * max(abs(near), 1.0) else value


def _shown(values: np.ndarray) -> str:
    text = ", ".join(f"{v:.4g}" for v in values[:4])
    return f"{text}, ..." if values.size > 4 else text


def pitch(ds: Sky) -> tuple[float, float]:
    """Return the steps along y and x from spaxel to spaxel that is left [arcsec], above 0.

    Where the offsets do not tell them (no coordinates, a lone spaxel), ``attrs["pixel_scale"]``.

    Raises
    ------
    SchemaError
        Where neither tells.
    MrsxrError
        Where the spaxels are not equally spaced.
    """
    if ds.attrs.get("wcs"):
        plane = plane_of(str(ds.attrs["wcs"]))
        x, y = (abs(row.stride * scale) for row, scale in zip(rows_of(ds, plane), plane.scale, strict=True))
        return y, x
    out = []
    for dim in AXES:
        told = dim in ds.sizes and dim in ds.coords and ds[dim].attrs.get("units") == "arcsec"
        step = even_step(np.asarray(ds[dim].values, float), math.nan) if told else math.nan
        if step is None:
            raise MrsxrError(f"the spaxels along {dim} are not equally spaced, so that their area is unknown")
        out.append(abs(step) if math.isfinite(step) else _built(ds))
    return out[1], out[0]


def _built(ds: Sky) -> float:
    if "pixel_scale" not in ds.attrs:
        raise SchemaError(
            "attribute 'pixel_scale' is missing, and no offsets y, x [arcsec] tell it: the area of a spaxel is unknown"
        )
    return float(ds.attrs["pixel_scale"])


def spaxel_size(ds: Sky) -> float:
    """Return the side of the square spaxels that are left [arcsec].

    Raises
    ------
    MrsxrError
        Where they are not square.
    """
    along_y, along_x = pitch(ds)
    built = float(ds.attrs.get("pixel_scale", along_x))
    if abs(along_y - along_x) > _EVEN * along_x:
        raise MrsxrError(
            f"the spaxels are {along_y:.4g} x {along_x:.4g} arcsec (y, x); expected square ones: bring the cube onto "
            "such by regrid(cube, like=...), or coarsen and stride both axes alike"
        )
    return built if abs(along_x / built - 1.0) < _WHOLE else along_x


def spaxel_area(ds: Sky) -> float:
    """Return the area of a spaxel that is left [arcsec2]."""
    along_y, along_x = pitch(ds)
    built = float(ds.attrs.get("pixel_scale", math.nan)) ** 2
    area = along_y * along_x
    return built if abs(area / built - 1.0) < _WHOLE else area


def solid_angle(ds: Sky) -> float:
    """Return the solid angle [sr] of a spaxel that is left: ``attrs["pixar_sr"]`` times what it grew, or its area."""
    area, built = spaxel_area(ds), ds.attrs.get("pixar_sr")
    if built is None or "pixel_scale" not in ds.attrs:
        return area * units.ARCSEC2_TO_SR
    grown = area / float(ds.attrs["pixel_scale"]) ** 2
    return float(built) * (1.0 if abs(grown - 1.0) < _WHOLE else grown)


def counted_solid_angle(ds: Sky) -> float:
    """Return the solid angle [sr] of the spaxel per which light is counted in W m-2 or Jy/pix: that of ``attrs``."""
    built = ds.attrs.get("pixar_sr")
    return float(built) if built is not None else _built(ds) ** 2 * units.ARCSEC2_TO_SR


def facts_of(ds: Sky) -> dict[str, float]:
    """Return ``pixel_scale`` [arcsec], ``pixar_sr`` [sr] and ``pixar_a2`` [arcsec2] of the spaxels that are left."""
    area, solid = spaxel_area(ds), solid_angle(ds)
    built = float(ds.attrs.get("pixel_scale", math.nan))
    scale = built if area == built**2 else math.sqrt(area)
    return {"pixel_scale": scale, "pixar_sr": solid, "pixar_a2": area}


def tell_growth(ds: Sky) -> float:
    """Return how many spaxels per which light is counted make one that is left, and tell it where it is not 1."""
    if "pixel_scale" not in ds.attrs:
        return 1.0
    grown = spaxel_area(ds) / _built(ds) ** 2
    if abs(grown - 1.0) < _WHOLE:
        return 1.0
    tell(
        f"the light is taken for counted per spaxel of {_built(ds):.4g} arcsec (attrs['pixel_scale']), {grown:.4g} of "
        "which make one of what is left; of sums over spaxels set attrs['pixel_scale'] and attrs['pixar_sr'] to those "
        "of the new ones"
    )
    return grown


def plane_widths(ds: xr.Dataset) -> np.ndarray:
    """Return the widths of the planes of a cube, or of the samples of a spectrum [um].

    ``wavelength_width`` where there is one; else of equally spaced planes their step; of others
    ``attrs["wavelength_step"]``, or, where that is not known or of one of several bands, half the way to both
    neighbours in the band (NaN of a band of one).

    Raises
    ------
    SchemaError
        Where they are not known.
    """
    if "wavelength_width" in ds.variables:
        return np.asarray(ds["wavelength_width"].values, float)
    wave = np.asarray(ds["wavelength"].values, float)
    built = float(ds.attrs.get("wavelength_step") or math.nan) if ds.attrs.get("level") == "cube" else math.nan
    step = even_step(wave, built)
    if step is not None and math.isfinite(step):
        return np.full(wave.size, abs(built if abs(abs(step) / built - 1.0) < _EVEN else step))
    band: Any = ds["band"].values if "band" in ds.variables else np.zeros(wave.size)
    band = np.broadcast_to(band, wave.shape)
    names = np.unique(band)
    if math.isfinite(built) and names.size == 1:
        return np.full(wave.size, abs(built))
    if wave.size < 2:
        raise SchemaError("the widths of the planes are unknown; set attrs['wavelength_step'] [um]")
    out = np.full(wave.size, np.nan)
    for own in (np.flatnonzero(band == name) for name in names):
        if own.size > 1:
            out[own] = np.abs(np.gradient(wave[own]))
    return out
