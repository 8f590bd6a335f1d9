"""Which pixels of which exposures made a voxel of a cube: the weights of the cube builder, read backwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import xarray as xr

from mrsxr.cube._layout import BandData
from mrsxr.cube.cube_build import make_source
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.operator import Weighting
from mrsxr.geometry.pixels import BandPixels, Frame, block_operator

_ONE = {"scheduler": "synchronous"}


@dataclass(frozen=True)
class Behind:
    """Pixels of one exposure that reach a voxel, and what they hold.

    ``weight`` is what the cube builder gives a pixel there, ``status`` 0 good, 1 unusable, 2 not of the sky, 3
    saturated; ``value`` and ``error`` [MJy/sr], ``wavelength`` [um] of the middle of the pixel, barycentric.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    status: np.ndarray
    value: np.ndarray
    error: np.ndarray
    wavelength: np.ndarray


def pixels_behind(
    ds: xr.Dataset, band: str, grid: CubeGrid, voxel: tuple[int, int, int], exposure_weights: str = "none"
) -> Behind:
    """Return the pixels of an exposure that reach a voxel.

    Parameters
    ----------
    ds : Dataset, level "cal"
        One dither, as it went into the cube.
    band : str
    grid : CubeGrid
        That of the cube.
    voxel : (int, int, int)
        Plane, row and column, counted from 0.
    exposure_weights : str
        As of :func:`mrsxr.cube.build_cube`.
    """
    plane, row, column = voxel
    source = make_source(BandData.of(ds, band), grid, Weighting(), exposure_weights)  # type: ignore[arg-type]
    pixels, (place,) = dask.compute(source.pixels, source.places, **_ONE)
    planes, shape = grid.planes[:, plane : plane + 1], (grid.ny, grid.nx)
    n = pixels.index.size
    blank = Frame(
        np.zeros((1, n), np.float32), np.zeros((1, n), np.float32), np.zeros(n, np.uint8), np.ones(n, np.float32)
    )
    part, operator = block_operator(pixels, blank, place, planes, shape, Weighting())
    spread = np.flatnonzero(operator.spaxel == row * grid.nx + column)
    pixel = np.searchsorted(operator.sky_start, spread, side="right") - 1
    first, last = operator.wave_start[pixel], operator.wave_start[pixel + 1]
    met = last > first  # one plane: a pixel has one length or none
    share = operator.area[spread[met]] * operator.length[first[met]]
    return _held(source.frames[0], pixels, part.start + pixel[met], share, place.scale, ds.sizes["x"])


def _held(frame: Any, pixels: BandPixels, found: np.ndarray, share: np.ndarray, scale: float, nx: int) -> Behind:
    """Return what the pixels hold; a frame of which none is met is not read."""
    index = pixels.index[found]
    wave = 0.5 * (pixels.low[found] + pixels.high[found]) * scale
    if not found.size:
        none = np.zeros(0, np.float32)
        return Behind(index, index, share, none, none, none, wave)
    (held,) = dask.compute(frame, **_ONE)
    return Behind(
        index % nx, index // nx, share * held.weight[found], held.status[found], held.linear[0, found],
        np.sqrt(held.square[0, found]), wave,
    )  # fmt: skip
