"""Regions: objects of the ``regions`` package, DS9 text or files, on the sky or in spaxels of a cube."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from mrsxr.errors import MrsxrError
from mrsxr.geometry.place import sky_of
from mrsxr.notes import caught_warnings, tell
from mrsxr.spaxels import spaxel_size

if TYPE_CHECKING:
    from astropy.wcs import WCS

_SUBPIXELS = 10
_MOST_ROOM = 500  # spaxels around a cube in which the area of a region is measured
_FORMATS = {".crtf": "crtf"}
_EXAMPLE = "DS9 text such as 'icrs; circle(339.0, 33.9, 1\")'"


def read_region(region: Any, wcs: WCS | None = None) -> list[Any]:
    """Return the sky regions of an argument.

    Parameters
    ----------
    region : str, path, Region or sequence of these
        DS9 text (``icrs; circle(339.015, 33.976, 1.5")``), a DS9 or CRTF file, or objects of the ``regions`` package;
        a union (``a | b``) of them is taken apart.
    wcs : WCS, optional
        Of the cube whose spaxels regions in pixels are of.

    Returns
    -------
    list of SkyRegion

    Raises
    ------
    MrsxrError
        Where a file is missing, the text holds no region, a region has no area or is in pixels of no known cube (a
        region must mean the same place in every band), or an intersection cannot be written as DS9 text.
    """
    from regions import PixelRegion

    found = _parts(region)
    if not found:
        raise MrsxrError(f"region '{_short(region)}' holds no region; expected {_EXAMPLE}")
    for one in found:
        if not hasattr(one, "to_mask") and not hasattr(one, "to_pixel"):
            raise MrsxrError(f"region is {_short(one)}; expected a region of the sky, {_EXAMPLE} or a file")
        if type(one).__name__.startswith(("Point", "Line", "Text")):
            raise MrsxrError(f"a {type(one).__name__} has no area; expected a circle, ellipse, box, polygon or annulus")
    in_pixels = [one for one in found if isinstance(one, PixelRegion)]
    if in_pixels and wcs is None:
        raise MrsxrError(
            "the region is given in pixels, which are others in every band; give it in sky coordinates (icrs or fk5), "
            "or to extract_spectrum with the cube whose spaxels are meant"
        )
    found = [_on_sky(one, wcs) if isinstance(one, PixelRegion) else one for one in found]
    if not any(_is_included(one) for one in found):
        raise MrsxrError("the region only cuts out; expected at least one that is not marked '-'")
    return found


def region_text(region: Any, wcs: WCS | None = None) -> str:
    """Return regions as DS9 text of the sky, which :func:`read_region` reads back."""
    from regions import Regions

    return Regions(read_region(region, wcs)).serialize(format="ds9", precision=12).strip()


def _parts(region: Any) -> list[Any]:
    """Return the single regions of text, files, objects, unions and sequences of these."""
    from regions import CompoundPixelRegion, CompoundSkyRegion, Region

    if isinstance(region, CompoundSkyRegion | CompoundPixelRegion):
        if region.operator is not operator.or_:
            raise MrsxrError(
                "an intersection or difference of regions cannot be kept as DS9 text; expected a list of regions, of "
                "which those with meta['include'] = False are cut out, or an annulus"
            )
        return _parts(region.region1) + _parts(region.region2)
    if isinstance(region, Region):
        return [region]
    if isinstance(region, str | os.PathLike):
        return _read_text(*_text_of(region))
    if np.iterable(region):
        return [part for one in region for part in _parts(one)]
    return [region]


def _text_of(region: str | os.PathLike[str]) -> tuple[str, str]:
    """Return text and its format; of a path that of the file."""
    path = Path(region)
    is_text = isinstance(region, str) and ("(" in region or "\n" in region)
    if is_text and not (len(str(region)) < 256 and "\n" not in str(region) and path.is_file()):
        return str(region), "ds9"
    looks_like_a_file = not isinstance(region, str) or path.suffix or os.sep in region
    if not str(region).strip() or not path.exists():
        if looks_like_a_file:
            raise MrsxrError(f"{path}: no such region file; expected one, or {_EXAMPLE}")
        return str(region), "ds9"
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise MrsxrError(f"{path}: the region file cannot be read ({reason}); expected DS9 text") from error
    return text, "crtf" if text.startswith("#CRTF") else _FORMATS.get(path.suffix.lower(), "ds9")


def _read_text(text: str, kind: str) -> list[Any]:
    from regions import Regions

    try:
        with caught_warnings(UserWarning) as skipped:  # what it cannot read it skips with a warning
            found = list(Regions.parse(text, format=kind))
    except Exception as error:  # what the parser raises is of many kinds
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise MrsxrError(f"region '{_short(text)}' cannot be read as {kind.upper()} text ({reason})") from error
    if found:
        for why in skipped:
            tell(f"region: {_short(why)}")
    elif skipped:
        raise MrsxrError(f"region '{_short(text)}' holds no region ({_short(skipped[0])}); expected {_EXAMPLE}")
    return found


def _on_sky(region: Any, wcs: Any) -> Any:
    found = region.to_sky(wcs)
    found.meta = region.meta.copy()
    return found


def _is_included(region: Any) -> bool:
    return bool(region.meta.get("include", True))


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def region_weights(cube: xr.Dataset, region: Any) -> np.ndarray:
    """Return the share of each spaxel that lies in a region, float64 (y, x).

    Parameters
    ----------
    cube : Dataset, level "cube"
        Only its grid is used.
    region : str, path, Region or sequence of these
        As of :func:`read_region`; several are united, those marked ``-`` in DS9 text are cut out. In pixels: spaxels of
        this cube, counted from 0 (in DS9 text from 1).

    Returns
    -------
    float64 array (y, x)
        0 outside, 1 inside, the covered share on the border.

    Raises
    ------
    MrsxrError
        Where no spaxel lies in the region.
    """
    spaxel_size(cube)  # circles on the sky are circles in square spaxels only
    wcs, shape = sky_of(cube), (cube.sizes["y"], cube.sizes["x"])
    shares = _shares(read_region(region, wcs), wcs, shape)
    if not shares.any():
        raise MrsxrError(
            f"the region lies outside cube {cube.attrs.get('band')}; its tangent point is RA "
            f"{wcs.wcs.crval[0] % 360.0:.6f}, Dec {wcs.wcs.crval[1]:.6f}"
        )
    return shares


def region_area(cube: xr.Dataset, region: Any) -> float:
    """Return the area [spaxel] of a region, of its parts outside the cube too."""
    wcs, (ny, nx) = sky_of(cube), (cube.sizes["y"], cube.sizes["x"])
    regions = read_region(region, wcs)
    boxes = [one.to_pixel(wcs).bounding_box for one in regions]
    edge = [box.ixmin for box in boxes] + [box.iymin for box in boxes]
    edge += [nx - box.ixmax for box in boxes] + [ny - box.iymax for box in boxes]
    room = int(np.clip(-min(edge), 0, _MOST_ROOM)) + 1
    wcs.wcs.crpix += room
    return float(_shares(regions, wcs, (ny + 2 * room, nx + 2 * room)).sum())


def _shares(regions: list[Any], wcs: WCS, shape: tuple[int, int]) -> np.ndarray:
    """Return the share of each spaxel of a grid that lies in the regions."""
    shares = np.zeros(shape)
    for one in sorted(regions, key=_is_included, reverse=True):
        covered = _covered(one.to_pixel(wcs), shape)
        shares = np.maximum(shares, covered) if _is_included(one) else np.minimum(shares, 1.0 - covered)
    return shares


def _covered(region: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return the share of each pixel in a pixel region: exact where the library can, else by subpixels."""
    rings = _rings(region)
    if rings:
        outer, inner = (_covered(ring, shape) for ring in rings)
        return outer - inner
    try:
        mask = region.to_mask(mode="exact")
    except NotImplementedError:
        mask = region.to_mask(mode="subpixels", subpixels=_SUBPIXELS)
    image = mask.to_image(shape)
    return np.zeros(shape) if image is None else image


def _rings(region: Any) -> list[Any]:
    """Return the outer and the inner region of an annulus, nothing of others."""
    from regions import CirclePixelRegion, EllipsePixelRegion, RectanglePixelRegion

    shape = {"Ellipse": EllipsePixelRegion, "Rectangle": RectanglePixelRegion}
    name = type(region).__name__.removesuffix("AnnulusPixelRegion")
    if name == "Circle":
        return [CirclePixelRegion(region.center, radius) for radius in (region.outer_radius, region.inner_radius)]
    if name not in shape:
        return []
    return [
        shape[name](region.center, width, height, region.angle)
        for width, height in ((region.outer_width, region.outer_height), (region.inner_width, region.inner_height))
    ]
