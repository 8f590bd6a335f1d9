"""The planes of a cube, block by block: pixels of all exposures to sums over voxels, to planes; incomplete planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import dask
import dask.array as da
import numpy as np

from mrsxr import dq as flags
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.operator import Placement, Sums, Weighting
from mrsxr.geometry.pixels import BandPixels, Frame, block_operator

NO_COVERAGE = flags.DO_NOT_USE | flags.NON_SCIENCE
PLANES = {"flux": np.float32, "var": np.float32, "weight": np.float32, "dq": np.uint32}
#: Cubes larger than this [byte] are not held until the last block is counted: their coverage is computed twice.
HOLD_BYTES = 2**28
#: Parts of pixels of each exposure and by how much the light differs there; none without a trace model.
Finer = Sequence[tuple[BandPixels, Frame]]
#: Pixels, exposures, places of the slices, weighting and parts of pixels of one band.
Part = tuple[BandPixels, Sequence[Frame], Sequence[Placement], Weighting, Finer]


@dataclass(frozen=True)
class Source:
    """One band of one setting for the graph: delayed pixels, frames and placements, and what wavelengths it reaches.

    ``span`` are the barycentric wavelengths [um] that the planes must meet, region of interest included.
    """

    pixels: Any
    frames: list[Any]
    places: Any
    weighting: Weighting
    span: tuple[float, float]
    finer: list[Any] = field(default_factory=list)

    def part(self) -> Any:
        """Return what a block needs of it: one Delayed, as dask walks the whole graph for each list of them."""
        weighting = dask.delayed(self.weighting, traverse=False)
        both = (*self.frames, *self.finer)
        return dask.delayed(_part, pure=True)(self.pixels, self.places, weighting, len(self.frames), *both)


def _part(pixels: BandPixels, places: Sequence[Placement], weighting: Weighting, n: int, *frames: Any) -> Part:
    return pixels, frames[:n], places, weighting, frames[n:]


def drizzle_planes(start: int, size: int, grid: CubeGrid, systematic: bool, *parts: Part) -> tuple[np.ndarray, ...]:
    """Bring all exposures of all bands onto the planes ``start .. start + size - 1`` of a grid.

    Parameters
    ----------
    start, size : int
        First plane and number of planes.
    grid : CubeGrid
    systematic : bool
        Whether the frames carry a systematic error.
    *parts : (BandPixels, frames, placements, Weighting, finer), one per band

    Returns
    -------
    tuple of arrays (size, ny, nx)
        flux [MJy/sr], var [MJy2/sr2], weight (number of pixels), dq, and var_systematic where asked for.
    """
    planes = grid.planes[:, start : start + size]
    sums = Sums.zeros(1 + systematic, 1, size, grid.ny * grid.nx)
    for pixels, frames, places, weighting, finer in parts:
        for frame, place in zip(frames, places, strict=True):
            part, operator = block_operator(pixels, frame, place, planes, (grid.ny, grid.nx), weighting)
            operator.add(frame.linear[:, part], frame.square[:, part], sums)
        _add_finer(sums, finer, places, planes, grid, weighting)
    return _planes_of(sums, (size, grid.ny, grid.nx))


def _add_finer(
    sums: Sums, finer: Finer, places: Any, planes: np.ndarray, grid: CubeGrid, weighting: Weighting,
) -> None:  # fmt: skip
    """Add to the light by how much it differs in parts of pixels; weights, variances and counts are of whole pixels."""
    if not finer:
        return
    more = Sums.zeros(1, 0, planes.shape[1], grid.ny * grid.nx)
    for (pixels, frame), place in zip(finer, places, strict=True):
        part, operator = block_operator(pixels, frame, place, planes, (grid.ny, grid.nx), weighting)
        operator.add(frame.linear[:, part], frame.square[:, part], more)
    sums.linear[0] += more.linear[0]


def count_planes(start: int, size: int, grid: CubeGrid, *parts: Part) -> np.ndarray:
    """Return the number of good spaxels of each plane of a block without making the block."""
    planes = grid.planes[:, start : start + size]
    sums = Sums.zeros(0, 0, size, grid.ny * grid.nx)
    for pixels, frames, places, weighting, _ in parts:
        for frame, place in zip(frames, places, strict=True):
            part, operator = block_operator(pixels, frame, place, planes, (grid.ny, grid.nx), weighting)
            operator.add(frame.linear[:0, part], frame.square[:0, part], sums)
    return np.count_nonzero(sums.weight > 0, axis=1)


def _planes_of(sums: Sums, shape: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    """Return the planes of a cube from the sums over its voxels."""
    good = sums.weight > 0
    divisor = np.where(good, sums.weight, 1.0)
    nan = np.float32(np.nan)
    dq = np.where(good, 0, np.where(sums.hole > 0, flags.DO_NOT_USE, NO_COVERAGE)).astype(np.uint32)
    dq |= np.where(sums.hole & 2, flags.SATURATED, 0).astype(np.uint32)
    out = [
        np.where(good, sums.linear[0] / divisor, nan).astype(np.float32),
        np.where(good, sums.square[0] / divisor**2, nan).astype(np.float32),
        sums.count.astype(np.float32),
        dq,
    ]
    out += [np.where(good, (systematic / divisor) ** 2, nan).astype(np.float32) for systematic in sums.linear[1:]]
    return tuple(plane.reshape(shape) for plane in out)


def good_spaxels(dq: np.ndarray) -> np.ndarray:
    """Return the number of good spaxels of each plane."""
    return np.count_nonzero((dq & np.uint32(flags.DO_NOT_USE)) == 0, axis=(1, 2))


def incomplete_planes(counts: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """Return True for each plane of the cube whose number of good spaxels is too low.

    Parameters
    ----------
    counts : sequence of int arrays
        Good spaxels of each plane, block by block.
    threshold : float
        Fraction of the 3rd percentile of the planes that hold data (jwst: 0.75).

    Returns
    -------
    bool array (wavelength)
    """
    good = np.concatenate(list(counts))
    return (good > 0) & (good < threshold * np.percentile(good[good > 0], 3)) if good.any() else good > 0


def blank_planes(
    block: Sequence[np.ndarray], incomplete: np.ndarray, start: int,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Return a block of the cube with its incomplete planes set to NaN, weight 0 and DO_NOT_USE | NON_SCIENCE."""
    mine = incomplete[start : start + block[0].shape[0]]
    if not mine.any():
        return tuple(block)
    nan = np.float32(np.nan)
    fill = (nan, nan, np.float32(0), np.uint32(NO_COVERAGE), *[nan] * (len(block) - 4))
    out = []
    for plane, value in zip(block, fill, strict=True):
        changed = plane.copy()
        changed[mine] = value
        out.append(changed)
    return tuple(out)


def drizzle_and_blank(
    start: int, size: int, grid: CubeGrid, systematic: bool, incomplete: np.ndarray, *parts: Part,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Return a block of the cube with its incomplete planes blanked, in one task: none is made before these are known.

    As two tasks dask would make all blocks while it counts, and hold the whole cube.
    """
    return blank_planes(drizzle_planes(start, size, grid, systematic, *parts), incomplete, start)


def lazy_planes(
    sources: Sequence[Source], grid: CubeGrid, *, systematic: bool, threshold: float | None, planes_per_block: int
) -> dict[str, da.Array]:
    """Return the planes of the cube as dask arrays in blocks of wavelength.

    Parameters
    ----------
    sources : sequence of Source
        A block depends on those whose wavelengths it meets.
    grid : CubeGrid
    systematic : bool
        Whether the frames carry a systematic error.
    threshold : float or None
        See :func:`incomplete_planes`.
    planes_per_block : int

    Returns
    -------
    dict of name to array (wavelength, y, x)
    """
    names = [*PLANES, *(["var_systematic"] if systematic else [])]
    drizzle = dask.delayed(drizzle_planes, pure=True, nout=len(names))
    starts = range(0, grid.nz, planes_per_block)
    sizes = [min(planes_per_block, grid.nz - start) for start in starts]
    limits, shared = grid.planes, dask.delayed(grid, traverse=False)
    whole, parts = [(s, s.part()) for s in sources], []
    for start, size in zip(starts, sizes, strict=True):
        low, high = limits[0, start], limits[1, start + size - 1]
        parts.append([part for s, part in whole if s.span[0] < high and s.span[1] > low])
    each = list(zip(starts, sizes, parts, strict=True))
    find = dask.delayed(incomplete_planes, pure=True)
    if threshold is None:
        blocks = [drizzle(i, n, shared, systematic, *part) for i, n, part in each]
    elif grid.nz * grid.ny * grid.nx * 4 * len(names) > HOLD_BYTES:
        count = dask.delayed(count_planes, pure=True)
        incomplete = find([count(i, n, shared, *part) for i, n, part in each], threshold)
        drizzle = dask.delayed(drizzle_and_blank, pure=True, nout=len(names))
        blocks = [drizzle(i, n, shared, systematic, incomplete, *part) for i, n, part in each]
    else:
        blocks = [drizzle(i, n, shared, systematic, *part) for i, n, part in each]
        good = dask.delayed(good_spaxels, pure=True)
        incomplete = find([good(block[3]) for block in blocks], threshold)
        blank = dask.delayed(blank_planes, pure=True, nout=len(names))
        blocks = [blank(block, incomplete, start) for block, start in zip(blocks, starts, strict=True)]
    return {
        name: da.concatenate(
            [
                da.from_delayed(block[number], (size, grid.ny, grid.nx), PLANES.get(name, np.float32))
                for block, size in zip(blocks, sizes, strict=True)
            ],
            axis=0,
        )
        for number, name in enumerate(names)
    }
