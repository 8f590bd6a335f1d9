"""What slices tell of showers: the light that they spill into the gaps between, and whether a shower lies on them.

A shower is looked for in the gaps, so that the light of the slices is data that no fit of a shower has seen. Slices are
known by their labels (y, x), channel * 100 + slice, 0 between.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from mrsxr._clip_kernels import MAD_TO_SIGMA

from ._clean_showers_kernels import UNFIT

_DEEP = 3  # pixels of a slice, all but the outermost, whose mean is the light beside its edge
_BEND, _FADES = 3, (0.45, 1.5)  # degree of an edge along rows; pixels over which what is spilled falls
_ROUGH = 0.15  # of what is spilled, by which it differs from the model
_FEWEST, _BLOCK, _ROUNDS, _CLIP = 100, 64, 20, 3.0  # pixels of a gap, rows judged as one, rounds, sigma
_DEGREE, _LEAST_ROWS, _BESIDE_ROWS = 3, 16, 20  # of the light of a slice along rows, and around a shower
_LIT = 0.1, 0.02  # shares of the highest light of a shower in a slice: slices, and rows, that tell of it
_GAIN, _SURE, _TOO_MUCH = 0.5, 3.0, 2.0  # share of a shower that is found on slices, sigma
_FEWEST_PLACES = 4  # where what it holds by chance is looked at
_LEAST_UNSURE, _OTHER_FORM = 0.03, 0.04  # shares of a model, and of what slices tell, uncertain whatever they say
_MOST_ALIKE = 0.95  # correlation of the misfits of rows beside each other


@dataclass(frozen=True)
class Gap:
    """Pixels between two slices: rows and columns, what each of the sides spills there by unit of light, (n, fades)."""

    rows: np.ndarray
    columns: np.ndarray
    spilled: tuple[np.ndarray, ...]
    edges: tuple[tuple[np.ndarray, int], ...]


def gaps_of(labels: np.ndarray, between: np.ndarray) -> list[Gap]:
    """Return the gaps of slices, with the pixels ``between`` (y, x) that are used."""
    n_y, n_x = labels.shape
    every = np.arange(n_y)
    edges = []  # of slices by their place: side (1 left), first or last column by row, place of the edge by row
    for label in np.unique(labels[labels > 0]):
        here = labels == label
        rows = np.flatnonzero(here.any(axis=1))
        if rows.size > 10 * _BEND:
            left, right = here.argmax(axis=1), n_x - 1 - here[:, ::-1].argmax(axis=1)
            for way, column in ((1, left), (-1, right)):
                bend = _smooth_edge(rows, column[rows] - 0.5 * way, every)
                column = np.where(here.any(axis=1), column, np.clip(np.round(bend + 0.5 * way), 0, n_x - 1).astype(int))
                edges.append((way, column, bend))
    edges.sort(key=lambda edge: (edge[2][n_y // 2], edge[0]))
    out = []
    for k in range(-1, len(edges)):  # from the right edge k of a slice to the left one of the next
        before, after = (edges[k] if k >= 0 else None), (edges[k + 1] if k + 1 < len(edges) else None)
        if (before and before[0] > 0) or (after and after[0] < 0):
            continue
        first = before[1] if before else np.full(n_y, -1)
        last = after[1] if after else np.full(n_y, n_x)
        low, high = max(int(first.min()), 0), min(int(last.max()), n_x)
        columns = np.arange(low, high)
        rows, at = np.nonzero(between[:, low:high] & (columns > first[:, None]) & (columns < last[:, None]))
        if rows.size >= _FEWEST:
            sides = [edge for edge in (before, after) if edge]
            spilled = tuple(
                np.exp(-np.maximum(way * (bend[rows] - columns[at]), 0.0)[:, None] / np.array(_FADES))
                for way, _, bend in sides
            )
            out.append(Gap(rows, columns[at], spilled, tuple((column, way) for way, column, _ in sides)))
    return out


def _smooth_edge(rows: np.ndarray, column: np.ndarray, every: np.ndarray) -> np.ndarray:
    """Return a polynomial along rows that goes, as far as it can, within half a pixel of a column in whole pixels."""
    place = column
    for _ in range(_ROUNDS):
        bend = np.polynomial.Polynomial.fit(rows, place, _BEND)
        place = np.clip(bend(rows), column - 0.5, column + 0.5)
    return np.asarray(bend(every))


def spilled_light(
    values: np.ndarray, known: np.ndarray, noise: np.ndarray, light: np.ndarray, flags: np.ndarray, gaps: list[Gap]
) -> np.ndarray:
    """Return the light (y, x) that slices spill into the gaps, 0 where left-out rows show no gain.

    values, known, noise (y) : light between the slices, which pixels are usable, their noise. light, flags (y, x) :
    of the slices, without showers.
    """
    out = np.zeros_like(values)
    for gap in gaps:
        at = gap.rows, gap.columns
        used = known[at]
        if used.sum() < _FEWEST:
            continue
        parts = [
            spilled * _beside(light, flags, *edge)[gap.rows, None]
            for spilled, edge in zip(gap.spilled, gap.edges, strict=True)
        ]
        matrix = np.concatenate(parts, axis=1)
        used &= np.isfinite(matrix).all(axis=1)
        matrix, found, sigma, rows = matrix[used], values[at][used], noise[gap.rows[used]], gap.rows[used]
        if used.sum() < _FEWEST or not np.median(sigma) > 0:
            continue
        matrix, found = matrix / sigma[:, None], found / sigma
        if _gains(matrix, found, rows // _BLOCK):
            out[gap.rows[used], gap.columns[used]] = matrix @ _shares(matrix, found) * sigma
    return out


def _beside(light: np.ndarray, flags: np.ndarray, column: np.ndarray, way: int) -> np.ndarray:
    """Return the mean of the usable pixels (y) of a slice beside its edge."""
    columns = np.clip(column[:, None] + way * (1 + np.arange(_DEEP)), 0, light.shape[1] - 1)
    rows = np.arange(len(light))[:, None]
    good = ((flags[rows, columns] & UNFIT) == 0) & np.isfinite(light[rows, columns])
    total = np.where(good, light[rows, columns], 0.0).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(good.any(axis=1), total, np.nan) / np.maximum(good.sum(axis=1), 1))


def _shares(matrix: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return the factors >= 0 of columns (n, k) that fit values in units of noise best, showers clipped."""
    weight = np.ones(found.size)
    shares: np.ndarray = np.zeros(matrix.shape[1])
    for k in range(_ROUNDS):
        before = shares
        shares = nnls(matrix * weight[:, None], found * weight)[0]
        if np.allclose(shares, before, rtol=1e-3, atol=1e-9):
            break
        told = matrix @ shares
        off = np.abs(found - told) / np.hypot(1.0, _ROUGH * told)
        if k < _ROUNDS // 2:  # least absolute misfits
            weight = 1.0 / np.sqrt(np.maximum(off, 0.3))
        else:
            weight = np.maximum(1.0 - (off / (_CLIP * max(MAD_TO_SIGMA * np.median(off), 1.0))) ** 2, 0.0)
        weight /= np.hypot(1.0, _ROUGH * told)
    return shares


def _gains(matrix: np.ndarray, found: np.ndarray, block: np.ndarray) -> bool:
    """Return whether shares of other blocks of rows tell the values of a block better than nothing, by two errors."""
    gain = np.zeros(block.max() + 1)
    for k in (0, 1):
        away = block % 2 == k
        if away.all() or not away.any():
            return False
        left = np.abs(found[away] - matrix[away] @ _shares(matrix[~away], found[~away]))
        gain += np.bincount(block[away], np.minimum(np.abs(found[away]), 5.0) - np.minimum(left, 5.0), gain.size)
    gain = gain[np.bincount(block) > 0]
    return bool(gain.sum() > 2.0 * np.sqrt(np.sum((gain - gain.mean()) ** 2)))


class Slices:
    """The light of each slice along its rows, on which showers that were found between slices are judged."""

    def __init__(self, image: np.ndarray, flags: np.ndarray, labels: np.ndarray):
        inner = (labels > 0) & (np.roll(labels, 1, axis=1) == labels) & (np.roll(labels, -1, axis=1) == labels)
        self.labels = labels
        self.names, number = np.unique(labels[inner], return_inverse=True)
        self.shape = (len(self.names), image.shape[0])
        self.place = np.full(labels.shape, -1, dtype=np.int32)
        self.place[inner] = number * image.shape[0] + np.nonzero(inner)[0]
        good = ((flags & UNFIT) == 0) & np.isfinite(image)
        values = np.where(good, image, 0.0)
        around, n = (np.zeros(image.shape) for _ in range(2))
        for way in (1, -1):  # a pixel that is missing is like those above and below
            around += np.roll(values, way, axis=0)
            n += np.roll(good, way, axis=0)
        values = np.where(good, values, around / np.maximum(n, 1))
        self.known = inner & (good | (n > 0))
        self.count = self._sum(np.ones(image.shape), (slice(None), slice(None)))
        with np.errstate(invalid="ignore"):
            self.light = self._sum(values, (slice(None), slice(None))) / self.count

    def copy(self) -> Slices:
        """Return slices whose light is one of its own."""
        out = copy(self)
        out.light = self.light.copy()
        return out

    def _sum(self, image: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
        known = self.known[box]
        place = self.place[box][known]
        return np.bincount(place, image[known], self.shape[0] * self.shape[1]).reshape(self.shape)

    def take(self, shape: np.ndarray) -> None:
        """Take light (slice, y) off that of the slices."""
        self.light -= shape

    def judge(self, shower: np.ndarray, box: tuple[slice, slice]) -> tuple[Any, ...] | None:
        """Return what slices tell of a shower (y, x) of a box.

        The squared misfits with it and without, what stays of its squared light, where it lies (y, x), and its light
        (slice, y).

        Slices that contradict it are left out: it does not lie there. None where the others do not show that most
        of it lies on them, by three times what they hold of the same light at other rows.
        """
        with np.errstate(invalid="ignore"):
            shape = np.nan_to_num(self._sum(shower, box) / self.count)
        top = np.abs(shape).max(axis=1, initial=0.0)
        told = np.flatnonzero(top > _LIT[0] * top.max(initial=0.0))
        lit = np.flatnonzero((np.abs(shape[told]) > _LIT[1] * top[told, None]).any(axis=0))
        if not lit.size:
            return None
        share, variance, least = _shares_of(self.light[told], shape[told], lit, 0)
        agree = share + _SURE * np.sqrt(variance) >= _GAIN
        left = np.nansum([least + (share - agree) ** 2 / variance, least + share**2 / variance], axis=1)
        power = np.sum(shape[told] ** 2, axis=1)
        stays = [np.nansum(power * (values**2 + variance)) for values in (share - agree, share)]
        out, told, share, variance = told[~agree], told[agree], share[agree], variance[agree]
        if not told.size or not _GAIN < _mean(share, variance) < _TOO_MUCH:
            return None
        rest = self.light[told] - share[:, None] * shape[told]
        step, middle = max(1, (lit[-1] - lit[0] + 1) // 4), (lit[0] + lit[-1]) // 2
        away = [k for k in range(-step * (middle // step), rest.shape[1] - middle, step) if k]
        others = [abs(_mean(*_shares_of(rest, shape[told], lit, k)[:2])) for k in away]
        if len(others) < _FEWEST_PLACES or not _mean(share, variance) > _SURE * MAD_TO_SIGMA * np.median(others):
            return None
        shape[out] = 0.0
        return left, stays[0] / stays[1], ~np.isin(self.labels[box], self.names[out]), shape

    def amounts(self, shape: np.ndarray, unsure: np.ndarray, box: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
        """Return by slice how much of the light of a shower lies on it, and by what its variance is multiplied.

        The mean of 1, what the gaps say, and of the share that is found on the slice, where the shower may be longer,
        shorter or moved along rows, weighted by their variances. The variance of the share is what such shares at other
        rows hold of the rest, at least that of the fit, and what other forms may add; that of 1 what the model says, or
        what shares scatter about 1 beyond their noise, the larger.

        Parameters
        ----------
        shape, unsure : ndarray
            Light of the shower (slice, y), see :meth:`judge`, and variance of the model (y, x) in the box.
        """
        amount, rest = (np.ones(len(self.names)) for _ in range(2))
        top = np.abs(shape).max(axis=1, initial=0.0)
        told = np.flatnonzero(top > _LIT[0] * top.max(initial=0.0))
        lit = np.flatnonzero((np.abs(shape[told]) > _LIT[1] * top[told, None]).any(axis=0))
        if not lit.size:
            return amount, rest
        with np.errstate(invalid="ignore"):
            doubt = np.nan_to_num(self._sum(unsure, box) / self.count)[told].sum(axis=1)
        share, variance, _ = _shares_of(self.light[told], shape[told], lit, 0, True)
        left = self.light[told] - np.nan_to_num(share, nan=1.0)[:, None] * shape[told]
        step, middle = max(1, (lit[-1] - lit[0] + 1) // 2), (lit[0] + lit[-1]) // 2
        away = [k for k in range(-step * (middle // step), left.shape[1] - middle, step) if k]
        if not away:
            return amount, rest
        squares = np.square([_shares_of(left, shape[told], lit, k, True)[0] for k in away])
        seen = np.isfinite(squares).sum(axis=0)
        chance = np.where(seen >= _FEWEST_PLACES, np.nansum(squares, axis=0) / np.maximum(seen, 1), np.inf)
        noise = np.fmax(variance, chance) + _OTHER_FORM**2
        amount[told], rest[told] = _weighed(share, noise, doubt / np.sum(shape[told] ** 2, axis=1))
        return amount, rest

    def spread(self, values: np.ndarray, box: tuple[slice, slice]) -> np.ndarray:
        """Return values of slices at the pixels (y, x) of a box, 1 between slices."""
        of_label = np.ones(int(self.labels.max()) + 1)
        of_label[self.names] = values
        return of_label[np.maximum(self.labels[box], 0)]


def _weighed(share: np.ndarray, noise: np.ndarray, doubt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of 1 and shares, of variances doubt, if not larger, and noise, and its variance over doubt."""
    doubt = np.maximum(doubt, _LEAST_UNSURE**2)
    told = np.isfinite(share) & np.isfinite(noise)
    off, noise = np.where(told, share - 1.0, 0.0), np.where(told, noise, np.inf)
    trust = 1.0 / (noise + doubt) ** 2
    beyond = np.sum(trust * (off**2 - np.where(told, noise, 0.0))) / max(np.sum(trust), 1e-300)
    model = np.maximum(doubt, beyond)
    weight = model / (model + noise)
    return np.clip(1.0 + weight * off, _GAIN, _TOO_MUCH), (1.0 - weight) * model / doubt


def _mean(values: np.ndarray, variance: np.ndarray) -> float:
    return float(np.nansum(values / variance) / np.nansum(1.0 / variance))


def _shares_of(
    light: np.ndarray, shape: np.ndarray, lit: np.ndarray, away: int, moves: bool = False
) -> tuple[np.ndarray, ...]:
    """Return by slice the share of a shape (slice, y), moved by rows, in its light, variance, squared misfits.

    moves : whether the shape may be elsewhere along rows, and longer or shorter with the same light; what the border of
    the detector cuts tells nothing then.
    """
    more = max(_BESIDE_ROWS, (lit[-1] - lit[0]) // 2)
    rows = np.arange(max(lit[0] + away - more, 0), min(lit[-1] + away + more + 1, light.shape[1]))
    usual = np.polynomial.legendre.legvander(np.linspace(-1, 1, rows.size), _DEGREE)
    place = rows - away
    moved = np.where((place >= 0) & (place < shape.shape[1]), shape[:, np.clip(place, 0, shape.shape[1] - 1)], 0.0)
    out = np.full((3, len(light)), np.nan)
    for k, (one, form) in enumerate(zip(light[:, rows], moved, strict=True)):
        good, top = np.isfinite(one), np.abs(form).max(initial=0.0)
        cut = moves and max(abs(form[0]), abs(form[-1])) > _LIT[0] * top
        if good.sum() >= _LEAST_ROWS and top > _LIT[0] * np.abs(shape[k]).max() and not cut:
            scale = np.array([top, top * top, 1.0])
            matrix = [usual, form / top] if not moves else [usual, *_other_forms(form / top), form / top]
            out[:, k] = _share_of(one[good], np.column_stack(matrix)[good], moves) / scale
    return tuple(out)


def _other_forms(form: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return by what a form along rows changes where it is moved, and where it is longer with the same light."""
    rows = np.arange(form.size) - np.sum(np.arange(form.size) * np.abs(form)) / np.sum(np.abs(form))
    slope = np.gradient(form)
    return slope, form + rows * slope


def _share_of(values: np.ndarray, matrix: np.ndarray, alike: bool = False) -> np.ndarray:
    """Return (factor of the last column, its variance, squared misfits), outliers clipped; NaN: not told.

    alike : whether misfits that are like those of the rows beside, as of another form, make the variance larger.
    """
    weight = np.ones(values.size)
    for _ in range(_ROUNDS):
        normal = (matrix * weight[:, None]).T @ matrix
        normal.flat[:: len(normal) + 1] *= 1.0 + 1e-9
        found = np.linalg.solve(normal, matrix.T @ (weight * values))
        off = np.abs(values - matrix @ found)
        spread = MAD_TO_SIGMA * np.median(off)
        if not spread > 0:
            return np.full(3, np.nan)
        before, weight = weight, np.minimum(1.0, 1.5 * spread / np.maximum(off, 1e-30))
        if np.allclose(weight, before, atol=1e-2):
            break
    variance = np.linalg.inv(normal)[-1, -1] * np.mean(weight * off**2)
    if alike:
        rest = np.sqrt(weight) * (values - matrix @ found)
        shared = np.clip(np.sum(rest[1:] * rest[:-1]) / np.sum(rest**2), 0.0, _MOST_ALIKE)
        variance *= (1.0 + shared) / (1.0 - shared)
    return np.array([found[-1], variance, values.size])
