"""Kernels that find the lines in what is left of the continuum and the fringes, to leave them out of the fits."""

import math

import numpy as np
from numba import njit

OUTLIER = 5.0  # sigma


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
    """Set off True at runs of 1 to 15 samples whose mean is off by more than OUTLIER sigma.

    e : residuals in units of their noise, 0 where bad. Runs must also stand out from the spread of the column.
    """
    n = e.size
    total = np.zeros(n + 1)
    for k in range(n):
        total[k + 1] = total[k] + e[k]
    for width in (1, 3, 7, 15):
        sums = np.empty(n - width + 1)
        for k in range(n - width + 1):
            sums[k] = (total[k + width] - total[k]) / math.sqrt(width)
        spread = max(1.0, 1.4826 * np.median(np.abs(sums)))
        for k in range(n - width + 1):
            if abs(sums[k]) > OUTLIER * spread:
                off[k : k + width] = True


@njit(cache=True, nogil=True)
def common_lines(x, counts, rest, weights, fringe):
    """Return (start, size of a bin, then 1 where a line stands out of the residuals of all columns together)."""
    low, high = bounds(x, counts)
    n = x.shape[1]
    size = (high - low) / n
    total, number = np.zeros(n), np.zeros(n)
    for c in range(x.shape[0]):
        for k in range(counts[c]):
            if weights[c, k] > 0.0:
                j = min(int((x[c, k] - low) / size), n - 1)
                total[j] += (rest[c, k] - fringe[c, k]) * math.sqrt(weights[c, k])
                number[j] += 1.0
    for j in range(n):
        total[j] /= math.sqrt(max(number[j], 1.0))
    off = np.zeros(n, dtype=np.bool_)
    _find_lines(total, off)
    out = np.zeros(n + 2)
    out[0], out[1] = low, size
    out[2:] = off
    return out


@njit(cache=True, nogil=True)
def judge_column(x, good, keep, n, rest, weights, fringe, period, common):
    """Leave out the lines of a column; return the square by which its residuals exceed the noise, at least 1."""
    if n == 0:
        return 1.0
    e = np.zeros(n)
    for k in range(n):
        e[k] = (rest[k] - fringe[k]) * math.sqrt(weights[k])
    off = np.zeros(n, dtype=np.bool_)
    _find_lines(e, off)
    for k in range(n):
        j = min(max(int((x[k] - common[0]) / common[1]), 0), common.size - 3)
        off[k] = off[k] or common[j + 2] > 0.0
    found = keep[:n] & good[:n]
    reach = min(max(3, int(0.5 * period * n / (x[n - 1] - x[0]))), 25)
    for k in range(n):
        if off[k]:
            found[max(0, k - reach) : min(n, k + reach + 1)] = False
    if found.sum() > 0.5 * n:
        keep[:n] = found
    values = np.abs(e[found])
    return max(1.0, (1.4826 * np.median(values)) ** 2) if values.size > 10 else 1.0
