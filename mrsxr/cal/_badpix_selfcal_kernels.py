"""Kernels of badpix_selfcal on plain arrays: a median filter along the dispersion (y) and what stands out of it.

The filter sorts the windows of TILE neighbouring columns side by side by a sorting network: Batcher's odd-even merge
sort (Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M).
"""

import math

import numpy as np

from mrsxr._clip_kernels import MAD_TO_SIGMA
from mrsxr._median_kernels import TILE, median_of_sorted, sort_columns, sorting_pairs
from mrsxr.compiled import Array, njit, read_only

#: Share of a pixel's own excess that light lets its neighbours have at least: the sum of both along y, where lines are
#: 1.7 pixels wide or more; the sum of both along x, where the narrowest point source is 1.4 pixels wide; the fainter
#: one along x, where a line or a fringe too narrow along y goes on along the slice.
SUM_Y, SUM_X, FAINTER_X = 0.6, 0.3, 0.3
#: Errors by which the neighbours have to fall short of that.
LIGHT = 2.0


@njit(cache=True, nogil=True)
def _fill_window(image, y, first, width, zero_edges, values, count):
    """Fill values (size, TILE) with the window about row y; NaN and what is beyond the edge become +inf."""
    size = values.shape[0]
    n_y = image.shape[0]
    count[:] = 0
    for j in range(size):
        row = y + j - size // 2
        lane = values[j]
        if 0 <= row < n_y:
            source = image[row]
            for t in range(width):
                value = source[first + t]
                known = value == value
                lane[t] = value if known else np.float32(np.inf)
                count[t] += 1 if known else 0
        else:
            for t in range(width):
                lane[t] = np.float32(0.0) if zero_edges else np.float32(np.inf)
                count[t] += 1 if zero_edges else 0


@njit(cache=True, nogil=True)
def _median_filter(image, pairs, size, zero_edges, out):
    n_y, n_x = image.shape
    values = np.zeros((size, TILE), dtype=np.float32)
    count = np.zeros(TILE, dtype=np.int64)
    for first in range(0, n_x, TILE):
        width = min(TILE, n_x - first)
        for y in range(n_y):
            _fill_window(image, y, first, width, zero_edges, values, count)
            sort_columns(values, pairs)
            for t in range(width):
                out[y, first + t] = median_of_sorted(values, count, t)


def _significance(rate, smooth, var, factor, relative):
    """Return the excess over the smooth image and its inverse variance (0 where unknown), float32."""
    with np.errstate(all="ignore"):
        excess = rate - smooth
        square = factor * factor * var.astype(float) + (relative * smooth.astype(float)) ** 2
        known = np.isfinite(excess) & np.isfinite(square) & (square > 0)
        return np.where(known, excess, np.float32(0)), np.where(known, 1.0 / square, 0.0).astype(np.float32)


def _accumulate(excess, inverse, sign, total, weight, top_z, top_weight):
    """Add one exposure to the sums of w * excess and w, and remember the exposure that stands out most."""
    w, value = inverse.astype(float), sign * excess.astype(float)
    total += w * value
    weight += w
    z = value * np.sqrt(inverse)
    higher = (w > 0) & ((top_weight == 0) | (z > top_z))
    np.copyto(top_z, z, where=higher)
    np.copyto(top_weight, w, where=higher)


def _combine(planes, drop):
    """Return mean excess and its error without the exposure that stands out most (kept where it is the only one)."""
    total, weight, top_z, top_weight = planes
    out = (weight > top_weight * 1.000001) if drop else np.zeros(weight.shape, bool)
    w = np.where(out, weight - top_weight, weight)
    sums = np.where(out, total - top_z * np.sqrt(top_weight), total)
    with np.errstate(all="ignore"):
        return np.where(w > 0, sums / w, 0.0), np.where(w > 0, 1.0 / np.sqrt(w), np.inf)


@njit(cache=True, nogil=True)
def _neighbours(mean, spread, y, x, dy, dx):
    """Excess and squared error of the two neighbours along one axis; 0 where unknown."""
    found = np.zeros(4)
    for k, side in enumerate((-1, 1)):
        b, a = y + side * dy, x + side * dx
        if 0 <= b < mean.shape[0] and 0 <= a < mean.shape[1] and spread[b, a] < np.inf:
            found[k], found[2 + k] = mean[b, a], spread[b, a] ** 2
    return found


@njit(cache=True, nogil=True)
def _below(expected, found, square, share, own_square, limit):
    """Whether neighbours show less than light would, by limit errors."""
    return expected - max(found, 0.0) > limit * math.sqrt(share * share * own_square + square)


@njit(cache=True, nogil=True)
def _too_sharp(mean, spread, y, x, limit):
    """Whether an excess is narrower than light: along x, or along y without going on along x."""
    value, own = mean[y, x], spread[y, x] ** 2
    along = _neighbours(mean, spread, y, x, 0, 1)
    if _below(SUM_X * value, along[0] + along[1], along[2] + along[3], SUM_X, own, limit):
        return True
    fainter = 0 if along[0] < along[1] else 1
    if not _below(FAINTER_X * value, along[fainter], along[2 + fainter], FAINTER_X, own, limit):
        return False
    up = _neighbours(mean, spread, y, x, 1, 0)
    return _below(SUM_Y * value, up[0] + up[1], up[2] + up[3], SUM_Y, own, limit)


@njit(cache=True, nogil=True)
def _flag(mean, spread, threshold, limit, bad):
    """Flag what is above the threshold and too sharp for light."""
    for y in range(mean.shape[0]):
        for x in range(mean.shape[1]):
            if mean[y, x] > threshold * spread[y, x] and _too_sharp(mean, spread, y, x, limit):
                bad[y, x] = True


def median_filter(image, size, *, zero_edges=True):
    """Return the median of the size pixels about each pixel along y; NaN do not count.

    zero_edges : count zeros beyond the frame, as jwst; else the window is cut off there.
    """
    out = np.empty(image.shape, np.float32)
    _median_filter(*read_only(image.astype(np.float32, copy=False)), sorting_pairs(size), int(size), zero_edges, out)
    return out


def pedestal_of(plane, rows, columns):
    """Return the median of a strip of a frame; 0 where nothing is known there."""
    strip = plane[rows[0] : rows[1], columns[0] : columns[1]]
    known = strip[~np.isnan(strip)]
    return np.median(known) if known.size else np.float32(0)


def flag_fraction(
    *stacks: Array, lower: float, upper: float, size: int, rows: tuple[int, int], columns: tuple[int, int]
) -> Array:
    """Return where (y, x) the least of all frames, less its median filter, is beyond the quantiles, as jwst.

    stacks : (exposure, y, x) [DN/s]; rows, columns : the strip of the pedestal.
    """
    least = np.full(stacks[0].shape[1:], np.nan, np.float32)
    for stack in stacks:
        for plane in stack:
            np.fmin(least, plane - np.float32(pedestal_of(plane, rows, columns)), out=least)
    left = least - median_filter(least, size)
    if np.isnan(left).all():
        return np.zeros(left.shape, bool)
    low, high = np.nanpercentile(left, [lower * 100, (1 - upper) * 100])
    return (left > high) | (left < low)


def flag_significant(*stacks: Array, threshold: float, relative_error: float, size: int) -> Array:
    """Return where (y, x) pixels stand out of their column in all exposures, by their errors and too sharp for light.

    stacks : rate and variance (exposure, y, x) of each Dataset in turn.
    """
    shape = stacks[0].shape[1:]
    sums = {sign: tuple(np.zeros(shape, np.float64) for _ in range(4)) for sign in (1.0, -1.0)}
    n = 0
    for rates, variances in zip(stacks[::2], stacks[1::2], strict=True):
        for rate, var in zip(rates, variances, strict=True):
            smooth = median_filter(rate, size, zero_edges=False)
            wider = excess_noise(*_significance(rate, smooth, var, 1.0, relative_error))
            excess, inverse = _significance(rate, smooth, var, wider, relative_error)
            for sign, planes in sums.items():
                _accumulate(excess, inverse, sign, *planes)
            n += 1
    bad = np.zeros(shape, bool)
    for planes in sums.values():
        _flag(*_combine(planes, n > 1), float(threshold), LIGHT, bad)
    return bad


def excess_noise(excess, inverse):
    """Return how much wider than its errors the excess of a frame scatters, at least 1."""
    known = inverse > 0
    if not known.any():
        return 1.0
    return max(1.0, MAD_TO_SIGMA * float(np.median(np.abs(excess[known]) * np.sqrt(inverse[known]))))


def apply_flags(bad: Array, dq: Array, *planes: Array, bits: int) -> tuple[Array, ...]:
    """Return dq with bits, and data and variances with NaN, where bad (y, x)."""
    nan = np.float32(np.nan)
    return dq | (bad * np.uint32(bits)).astype(np.uint32), *(np.where(bad, nan, plane) for plane in planes)
