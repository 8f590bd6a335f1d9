"""Kernels that find the lines in what is left of the continuum and the fringes, to leave them out of the fits."""

import math

import numpy as np

from mrsxr._clip_kernels import MAD_TO_SIGMA
from mrsxr.compiled import njit

from ._level_kernels import local_level

OUTLIER, EDGE = 5.0, 2.0  # sigma


@njit(cache=True, nogil=True)
def bounds(x, counts):
    """Return the lowest and highest wavenumber of a group."""
    low, high = np.inf, -np.inf
    for c in range(x.shape[0]):
        if counts[c] > 0:
            low, high = min(low, x[c, 0]), max(high, x[c, counts[c] - 1])
    return low, high


@njit(cache=True, nogil=True)
def _find_lines(e, off):
    """Set off True at runs of 1 to 15 samples whose mean is off by more than OUTLIER sigma, and at their wings.

    e : residuals in units of their noise, 0 where bad. Runs must also stand out from the spread of the column. The
    wings reach as far as runs of the same length are off by more than EDGE sigma to the same side.
    """
    n = e.size
    total = np.zeros(n + 1)
    for k in range(n):
        total[k + 1] = total[k] + e[k]
    for width in (1, 3, 7, 15):
        sums = np.empty(n - width + 1)
        for k in range(n - width + 1):
            sums[k] = (total[k + width] - total[k]) / math.sqrt(width)
        spread = max(1.0, MAD_TO_SIGMA * np.median(np.abs(sums)))
        for sign in (-1.0, 1.0):
            start, peak = 0, 0.0
            for k in range(n - width + 2):
                value = sign * sums[k] / spread if k < n - width + 1 else 0.0
                if value > EDGE:
                    peak = max(peak, value)
                    continue
                if peak > OUTLIER:
                    off[start : min(k - 1 + width, n)] = True
                start, peak = k + 1, 0.0


@njit(cache=True, nogil=True)
def robust_residual(x, y, sigma, keep, period, rounds, e):
    """Fill what stands out of a continuum that follows most samples, not their mean, in units of the noise.

    e : residuals of an earlier call or 0, from which the rounds of weights start.
    """
    n = x.size
    weights, level = np.empty(n), np.empty(n)
    for _ in range(rounds):
        scale = max(MAD_TO_SIGMA * np.median(np.abs(e[keep])), 1.0) if keep.any() else 1.0
        for k in range(n):
            weights[k] = scale / (sigma[k] * (scale + abs(e[k]))) if keep[k] else 0.0
        if not local_level(x, y, weights, period, level):
            e[:] = 0.0
            return
        for k in range(n):
            e[k] = (y[k] - level[k]) / sigma[k] if keep[k] and level[k] > 0.0 else 0.0


@njit(cache=True, nogil=True)
def mask_lines(x, counts, e, base, keep):
    """Leave out of ``base`` the lines that stand out of the residuals of a column, or of all columns together."""
    n_column, n_sample = x.shape
    low, high = bounds(x, counts)
    size = (high - low) / n_sample
    total, number = np.zeros(n_sample), np.zeros(n_sample)
    for c in range(n_column):
        for k in range(counts[c]):
            if base[c, k]:
                j = min(int((x[c, k] - low) / size), n_sample - 1)
                total[j] += e[c, k]
                number[j] += 1.0
    common, off = np.zeros(n_sample, dtype=np.bool_), np.zeros(n_sample, dtype=np.bool_)
    if (counts > 0).sum() > 1:
        _find_lines(total / np.sqrt(np.maximum(number, 1.0)), common)
    for c in range(n_column):
        n = counts[c]
        if n == 0:
            continue
        off[:n] = False
        _find_lines(e[c, :n], off[:n])
        for k in range(n):
            at_line = off[k] or common[min(int((x[c, k] - low) / size), n_sample - 1)]
            keep[c, k] = base[c, k] and not at_line
        if keep[c, :n].sum() < 0.5 * base[c, :n].sum():
            keep[c, :n] = base[c, :n]
