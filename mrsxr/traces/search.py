"""Pointings that are off by more than a fit can follow: images of the exposures, matched against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.geometry.sky import (
    Pointing,
    sky_to_v2v3,
    slicer_to_sky,
    tangent_frame,
    tangent_offsets,
    tangent_to_sky,
    v2v3_to_slicer,
)
from mrsxr.mrs import SLICE_WIDTH, psf_fwhm

from .pixels import on_sky

#: Rows that images are made of, at least; width of their cells along a slice [arcsec]; pixels that a cell needs.
_ROWS, _CELL, _ENOUGH = 256, (0.1, 0.2), 8
_WHOLE = 0.7  # of the cells must have them, and of the pixels of a cell must be usable
_FEWEST = 60  # cells of an image
_FIELD = 10.0  # arcsec from the source, of cells
_RANGE = 1.7  # arcsec, by which pointings may be off
#: Least offset that is looked for, in arcsec and in FWHM: less a fit finds itself.
_LEAST = 0.25, 0.3
#: What is left of the light of an image beside another one: at most, at most of what is left by the pointings, of all
#: wavelengths and of each half of them.
_LEFT, _OF_TOLD, _OF_TOLD_HALF = 0.3, 0.5, 0.7
_NEXT_BEST = 0.8  # of what is left at any other place
_ALIKE = 0.5  # by the pointings, of images that agree
#: Light of the source in others, over the spread of that of the field, and part of it in one which misses the source.
_SEEN, _MISSED = 5.0, 0.3
_AROUND = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
_SAME = 0.15  # arcsec, between offsets that are one
_NEXT = 3  # exposures that each is held against
_NUGGET = 0.01  # of the variance of an image, that the light beside does not tell
_GRID = 6  # places to an FWHM


@dataclass
class Searched:
    """What a search found.

    ``place`` (dither, axis): where to start from for the source [arcsec]; ``off`` (dither, axis): by how much pointings
    are off, to the east and north [arcsec], 0 where they are right or nothing tells, NaN where an exposure does not
    show the source.
    """

    place: np.ndarray
    off: np.ndarray

    @property
    def shows(self) -> np.ndarray:
        """Return which exposures show the source, or may."""
        return ~np.isnan(self.off).any(axis=1)


def first_right(off: np.ndarray) -> int:
    """Return the first exposure whose pointing is right; the first where there is none."""
    return int((np.abs(off).sum(axis=1) == 0).argmax())


def said(band: str, names: Any, off: np.ndarray) -> str:
    """Return what is said of pointings that are off (dither, 2) [arcsec]."""
    parts = [
        f"{name} by {east:+.2f}, {north:+.2f} arcsec (east, north)"
        if np.isfinite(east)
        else f"{name} does not show the source where it points"
        for name, (east, north) in zip(names, off, strict=True)
        if east or north
    ]
    return f"band {band}: pointings are off: {'; '.join(parts)}; cubes need measure_offsets and tie_bands"


@dataclass
class Pair:
    """Two exposures: by how much the pointing of the first is off against the second [arcsec], 0 where they agree."""

    first: int
    second: int
    off: np.ndarray


class Grid:
    """Places on the sky around a source, so many to an FWHM, that hold the pictures of all exposures."""

    def __init__(self, fwhm: float, reach: float) -> None:
        self.step = fwhm / _GRID
        self.half = int(np.ceil((reach + _RANGE) / self.step)) + 2
        self.axis = self.step * np.arange(-self.half, self.half + 1)
        n = int(_RANGE / self.step)
        moves = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
        self.moves = moves[np.hypot(*moves.T) * self.step < _RANGE]

    def flat(self, steps: np.ndarray) -> np.ndarray:
        """Return the numbers of places (..., 2), in steps from the middle; of moves their differences."""
        return steps[..., 0] * self.axis.size + steps[..., 1]


class Picture:
    """The light of an exposure, medians over wavelength less the median of the field, and between its pixels.

    ``cells`` (cell, 2) [arcsec] to the west and north; ``light`` (whole and both halves of the wavelengths, cell).
    """

    grid: Grid

    def __init__(self, cells: np.ndarray, light: np.ndarray, middle: np.ndarray) -> None:
        self.cells, self.light, self.middle = cells, light, middle
        self.energy = np.maximum((light**2).sum(axis=1), 1e-30)

    def spread(self, grid: Grid, fwhm: float, width: float) -> None:
        """Take the light to a grid: the most probable of all that is no sharper than the PSF; and where it is known."""
        from scipy.linalg import solve

        x, y = self.cells.T
        sigma = 0.6 * fwhm

        def near(axis: np.ndarray, at: np.ndarray, sigma: float) -> Any:
            return np.exp(-0.5 * ((axis[:, None] - at) / sigma) ** 2)

        alike = near(x, x, sigma) * near(y, y, sigma) + _NUGGET * np.eye(x.size)
        weights = solve(alike, self.light.T, assume_a="pos").T
        across, along = near(grid.axis, x, sigma), near(grid.axis, y, sigma)
        self.image = np.stack([((across * one) @ along.T).ravel() for one in weights])
        known = near(grid.axis, x, 0.5 * width) @ near(grid.axis, y, 0.5 * width).T
        self.known = known.ravel() > 0.5
        self.at = grid.flat(np.rint(self.cells / grid.step).astype(int) + grid.half)

    def left(self, other: Picture, moved: np.ndarray, which: int) -> np.ndarray:
        """Return which part of the light is left (move) beside that of another exposure, moved on the grid."""
        at = self.at - moved[:, None]
        light, rest = self.light[which], np.where(other.known[at], other.image[which][at], 0.0)
        return ((light - rest) ** 2).sum(axis=1) / self.energy[which]


def searched(lit: xr.Dataset, band: str, place: np.ndarray, source: tuple[float, float] | None) -> Searched:
    """Find exposures whose pointings are off by 0.25 to 1.7 arcsec against the others, or that miss the source.

    Images of the exposures, medians over wavelength, are matched against each other, so that whatever shines on the sky
    tells: stars, a host. The largest group of exposures that agree is right; of groups as large that in which the
    source is brightest. What lies alike on the detector in both exposures tells nothing. An exposure that matches none
    of the group, and shows where the source should be a small part of its light, misses it.

    Parameters
    ----------
    lit : Dataset
        Of :func:`mrsxr.traces.pixels.lit_pixels`, in memory.
    band : str
    place : float64 (dither, 2)
        alpha, beta of the source by the pointings [arcsec].
    source : (float, float), optional
        Where it was looked for [deg]; by default ``place`` is right in the exposure where it is brightest.

    Returns
    -------
    Searched
        ``place`` is the very array given where no pointing is off.
    """
    n = lit.sizes["dither"]
    nothing = Searched(place, np.zeros((n, 2)))
    if n < 2:
        return nothing
    wave = lit["wavelength"].values[lit["slice"].values // 100 == int(band[0])]
    fwhm, frame = float(psf_fwhm(np.nanmedian(wave))), tangent_frame(*on_sky(place[0], band, lit, 0))
    pictures = _pictures(lit, band, frame, fwhm)
    matched = [_match(first, second, pictures, fwhm) for first, second in _neighbours(sorted(pictures))]
    pairs = [pair for pair in matched if pair is not None]
    if len(pairs) == len(matched) and not any(pair.off.any() for pair in pairs):
        return nothing
    told = {d: np.array(tangent_offsets(*on_sky(place[d], band, lit, d), frame)) for d in pictures}
    bright = np.array([_brightness(pictures[d], told[d], fwhm) if d in pictures else -np.inf for d in range(n)])
    off, right, linked = _of_exposures(n, pairs, bright)
    for d in sorted(set(pictures) - linked):
        if _misses(pictures[d], told[d], [(pictures[e], told[e]) for e in pictures if e in right], fwhm):
            off[d] = np.nan
    if not np.any(off):
        return nothing
    start = np.nan_to_num(off - off[bright.argmax()] if source is None else off)
    out = place.copy()
    for d in np.flatnonzero(start.any(axis=1)).tolist():
        x, y = told[d] + start[d]
        there = tangent_to_sky(x, y, frame)
        out[d] = v2v3_to_slicer(*sky_to_v2v3(*there, Pointing.of(lit, d)), band, lit)
    return Searched(out, off * [-1.0, 1.0])


def _pictures(lit: xr.Dataset, band: str, frame: np.ndarray, fwhm: float) -> dict[int, Picture]:
    """Return pictures of the exposures that have enough pixels, on one grid."""
    small = lit.isel(y=slice(None, None, max(lit.sizes["y"] // _ROWS, 1)))
    out = {}
    for d in range(lit.sizes["dither"]):
        cells, light = _cells(small, band, d)
        if len(cells) >= _FEWEST:
            sky = [slicer_to_sky(a, b, band, lit, Pointing.of(lit, d)) for a, b in (cells.T, (0.0, 0.0))]
            places, middle = (np.stack(tangent_offsets(*one, frame), -1) for one in sky)
            near = np.abs(places).max(axis=1) < _FIELD
            if near.sum() >= _FEWEST:
                out[d] = Picture(places[near], light[:, near], middle)
    width = SLICE_WIDTH[int(band[0])]
    grid = Grid(fwhm, max((float(np.abs(one.cells).max()) for one in out.values()), default=0.0))
    for one in out.values():
        one.grid = grid
        one.spread(grid, fwhm, width)
    return out


def _cells(lit: xr.Dataset, band: str, dither: int) -> tuple[np.ndarray, np.ndarray]:
    """Return alpha, beta (cell, 2) of parts of slices and their light: of the whole and of each half of the rows."""
    none = np.zeros((0, 2)), np.zeros((3, 0))
    flux, labels = lit["flux"].values[dither], lit["slice"].values
    ours = labels // 100 == int(band[0])
    good = np.isfinite(flux) & ours
    row = np.broadcast_to(np.arange(flux.shape[0])[:, None], flux.shape)[good]
    values, alpha, beta = flux[good], lit["alpha"].values[good], lit["beta"].values[good]
    for width in _CELL:
        number = (labels[ours] % 100).astype(int) * 400 + np.rint(lit["alpha"].values[ours] / width).astype(int) + 200
        key, every = 2 * number[good[ours]] + (row >= flux.shape[0] // 2), np.bincount(number)
        count = np.bincount(key)
        if key.size and (count[count > 0] >= _ENOUGH).mean() > _WHOLE:
            break
    else:
        return none
    order = np.argsort(key.astype(np.int32), kind="stable")
    key, values, alpha, beta = key[order], values[order], alpha[order], beta[order]
    first = np.flatnonzero(np.r_[True, np.diff(key) > 0])
    parts = {
        int(key[a]): slice(a, b) for a, b in zip(first, np.r_[first[1:], key.size], strict=True) if b - a >= _ENOUGH
    }
    usable = np.bincount(key // 2, minlength=every.size) > _WHOLE * every
    both = [one for one in parts if not one % 2 and one + 1 in parts and usable[one // 2]]
    cells = np.array([[alpha[parts[one]].mean(), beta[parts[one]].mean()] for one in both]).reshape(-1, 2)
    halves = np.array([[np.median(values[parts[one + half]]) for one in both] for half in (0, 1)]).reshape(2, -1)
    light = np.concatenate([halves.mean(axis=0)[None], halves]).astype(float)
    return (cells, light - np.median(light, axis=1, keepdims=True)) if both else none


def _neighbours(shown: list[int]) -> list[tuple[int, int]]:
    """Return pairs of exposures: each with some of the next, around."""
    pairs = {
        tuple(sorted((one, shown[(i + k) % len(shown)]))) for i, one in enumerate(shown) for k in range(1, _NEXT + 1)
    }
    return [(first, second) for first, second in sorted(pairs) if first != second]


def _match(first: int, second: int, pictures: dict[int, Picture], fwhm: float) -> Pair | None:
    """Return by how much one exposure is off against another; none where nothing tells."""
    one, other = pictures[first], pictures[second]
    grid = one.grid

    def left(moves: np.ndarray, which: int = 0) -> np.ndarray:
        moved = grid.flat(moves)
        return 0.5 * (one.left(other, moved, which) + other.left(one, -moved, which))

    coarse = grid.moves[(grid.moves % 2 == 0).all(axis=1)]
    rest, none = left(coarse), np.zeros((1, 2), int)
    best = coarse[rest.argmin()] + np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), -1).reshape(-1, 2)
    fine = left(best)
    found, least = best[fine.argmin()][None], float(fine.min())
    told, off = float(left(none)[0]), grid.step * found[0]
    if np.hypot(*off) < max(_LEAST[0], _LEAST[1] * fwhm):
        return Pair(first, second, np.zeros(2)) if told < _ALIKE else None
    away = np.hypot(*(coarse - found).T) * grid.step > max(fwhm, _LEAST[0])
    alike = one.middle - other.middle  # of what lies alike on the detector
    clear = np.hypot(*(off - alike)) > _SAME or np.hypot(*alike) < _LEAST[0]
    if np.hypot(*alike) < _RANGE:
        clear &= float(left(np.rint(alike / grid.step).astype(int)[None])[0]) > _ALIKE
    clear &= least < min(_LEFT, _OF_TOLD * told, _NEXT_BEST * float(rest[away].min()))
    for half in (1, 2):
        clear = clear and bool(left(found, half)[0] < _OF_TOLD_HALF * left(none, half)[0])
    return Pair(first, second, off) if clear else None


def _brightness(picture: Picture, place: np.ndarray, fwhm: float, which: int = 0) -> float:
    """Return the light at a place on the sky above that around; minus infinity where it is not seen."""
    away = np.hypot(*(picture.cells - place).T) / fwhm
    core, ring = (picture.light[which][one] for one in (away < 0.7, (away > 1.2) & (away < 2.5)))
    return float(core.mean() - np.median(ring)) if core.size and ring.size else -np.inf


def _misses(picture: Picture, told: np.ndarray, right: list[tuple[Picture, np.ndarray]], fwhm: float) -> bool:
    """Return whether an exposure does not show, in either half of the wavelengths, the source that others show."""
    if len(right) == 1 and not _is_point(*right[0], fwhm):
        return False
    if _core(picture, told, fwhm) < _WHOLE * np.median([_core(*one, fwhm) for one in right]):
        return False
    spread = 1.5 * float(np.median(np.abs(picture.light[0] - np.median(picture.light[0]))))
    for half in (1, 2):
        here = max(_brightness(picture, told + step, fwhm, half) for step in _LEAST[0] * _AROUND)
        there = np.median([_brightness(*one, fwhm, half) for one in right])
        if not (np.isfinite(here) and there > _SEEN * spread and here < _MISSED * there):
            return False
    return True


def _core(picture: Picture, place: np.ndarray, fwhm: float) -> int:
    """Return how many parts of slices an exposure shows at a place."""
    return int((np.hypot(*(picture.cells - place).T) < 0.7 * fwhm).sum())


def _is_point(picture: Picture, place: np.ndarray, fwhm: float) -> bool:
    """Return whether light at a place on the sky fades as that of a point does."""
    away = np.hypot(*(picture.cells - place).T) / fwhm
    core, beside, ring = (
        picture.light[0][one] for one in (away < 0.6, (away > 0.9) & (away < 1.3), (away > 2) & (away < 3))
    )
    if not min(core.size, beside.size, ring.size):
        return False
    far = np.median(ring)
    return bool(np.median(beside) - far < 0.4 * (core.mean() - far))


def _of_exposures(n: int, pairs: list[Pair], bright: np.ndarray) -> tuple[np.ndarray, set[int], set[int]]:
    """Return by how much pointings are off against the largest group of exposures that agree (dither, 2).

    And the exposures of the group, and all that are known.
    """
    group, linked = np.arange(n), np.arange(n)
    for pair in pairs:
        linked[linked == linked[pair.first]] = linked[pair.second]
        if not pair.off.any():
            group[group == group[pair.first]] = group[pair.second]

    def size(one: int) -> tuple[int, int, float]:
        ours = group == one
        return int(ours.sum()), int((linked == linked[ours][0]).sum()), float(bright[ours].max())

    right = max(np.unique(group).tolist(), key=size)
    off, known = np.zeros((n, 2)), {right}
    while True:
        links: dict[int, list[np.ndarray]] = {}
        for pair in pairs:
            for d, e, sign in ((pair.first, pair.second, 1), (pair.second, pair.first, -1)):
                if group[d] not in known and group[e] in known and pair.off.any():
                    links.setdefault(int(group[d]), []).append(off[e] + sign * pair.off)
        if not links:
            ours = set(np.flatnonzero(group == right).tolist())
            return off, ours, set(np.flatnonzero(np.isin(group, list(known))).tolist())
        for one, found in links.items():
            middle = np.median(found, axis=0)
            if np.hypot(*(np.array(found) - middle).T).max() < _SAME:
                off[group == one] = middle
            known.add(one)
