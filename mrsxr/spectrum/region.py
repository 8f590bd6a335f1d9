"""Regions of the sky: circle, ellipse, box, polygon as objects of the ``regions`` package or as DS9 text."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.wcs import WCS

from mrsxr.errors import MrsxrError
from mrsxr.geometry.grid import CubeGrid

_SUBPIXELS = 10
_MOST_ROOM = 500  # spaxels around a cube in which the area of a region is measured


def read_region(region: Any) -> list[Any]:
    """Return the sky regions of an argument.

    Parameters
    ----------
    region : str, path, SkyRegion or sequence of SkyRegion
        DS9 text (``icrs; circle(339.015, 33.976, 1.5")``), a DS9 file, or objects of the ``regions`` package.

    Returns
    -------
    list of SkyRegion

    Raises
    ------
    MrsxrError
        Where the text holds no region, or one in pixels: a region must mean the same place in every band.
    """
    from regions import Region, Regions, SkyRegion

    if isinstance(region, Region):
        found = [region]
    elif isinstance(region, str | Path):
        is_file = isinstance(region, Path) or ("(" not in region and Path(region).exists())
        text = Path(region).read_text() if is_file else str(region)
        try:
            with warnings.catch_warnings():  # what it cannot read it skips with a warning
                warnings.simplefilter("ignore")
                found = list(Regions.parse(text, format="ds9"))
        except (ValueError, KeyError, IndexError) as error:
            raise MrsxrError(f"region '{str(region)[:60]}' cannot be read as DS9 text ({error})") from error
    else:
        found = list(region)
    if not found:
        raise MrsxrError(
            f"region '{str(region)[:60]}' holds no region; expected DS9 text such as 'icrs; circle(339.0, 33.9, 1\")'"
        )
    if not all(isinstance(one, SkyRegion) for one in found):
        raise MrsxrError("the region is given in pixels; give it in sky coordinates (icrs or fk5)")
    return found


def region_weights(cube: xr.Dataset, region: Any) -> np.ndarray:
    """Return the share of each spaxel that lies in a region, float64 (y, x).

    Parameters
    ----------
    cube : Dataset, level "cube"
        Only its grid is used.
    region : str, path, SkyRegion or sequence of SkyRegion
        Several regions are united; those marked ``-`` in DS9 text are cut out.

    Returns
    -------
    float64 array (y, x)
        0 outside, 1 inside, the covered share on the border.

    Raises
    ------
    MrsxrError
        Where no spaxel lies in the region.
    """
    grid = CubeGrid.of(cube)
    shares = _shares(read_region(region), WCS(grid.header()).celestial, (grid.ny, grid.nx))
    if not shares.any():
        raise MrsxrError(
            f"the region lies outside cube {cube.attrs.get('band')}; its centre is RA {grid.ra:.6f}, Dec {grid.dec:.6f}"
        )
    return shares


def region_area(cube: xr.Dataset, region: Any) -> float:
    """Return the area [spaxel] of a region, of its parts outside the cube too."""
    grid = CubeGrid.of(cube)
    regions, wcs = read_region(region), WCS(grid.header()).celestial
    boxes = [_mask(one.to_pixel(wcs)).bbox for one in regions]
    edge = [box.ixmin for box in boxes] + [box.iymin for box in boxes]
    edge += [grid.nx - box.ixmax for box in boxes] + [grid.ny - box.iymax for box in boxes]
    room = int(np.clip(-min(edge), 0, _MOST_ROOM)) + 1
    wcs.wcs.crpix += room
    return float(_shares(regions, wcs, (grid.ny + 2 * room, grid.nx + 2 * room)).sum())


def _shares(regions: list[Any], wcs: WCS, shape: tuple[int, int]) -> np.ndarray:
    """Return the share of each spaxel of a grid that lies in the regions."""
    shares = np.zeros(shape)
    for one in regions:
        mask = _mask(one.to_pixel(wcs)).to_image(shares.shape)
        if mask is None:
            continue
        if one.meta.get("include", True):
            shares = np.maximum(shares, mask)
        else:
            shares = np.minimum(shares, 1.0 - mask)
    return shares


def _mask(region: Any) -> Any:
    """Return the mask of a pixel region: exact where the library can, else by subpixels."""
    try:
        return region.to_mask(mode="exact")
    except NotImplementedError:
        return region.to_mask(mode="subpixels", subpixels=_SUBPIXELS)
