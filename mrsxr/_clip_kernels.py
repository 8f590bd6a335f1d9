"""Sigma clipping about the median in compiled code."""

import math

import numpy as np

from mrsxr._median_kernels import median_of
from mrsxr.compiled import njit

MAD_TO_SIGMA = 1.4826  # standard deviation of a normal distribution over its median absolute deviation


@njit(cache=True, nogil=True)
def moments(values, n):
    """Return mean and standard deviation of values[:n]."""
    mean, square = 0.0, 0.0
    for k in range(n):
        mean += values[k]
    mean /= n
    for k in range(n):
        square += (values[k] - mean) ** 2
    return mean, math.sqrt(square / n)


@njit(cache=True, nogil=True)
def clip(values, n, sigma, rounds, work):
    """Move those of values[:n] to the front that repeated clipping keeps, as astropy's sigma_clip.

    rounds : negative for as many as it takes; work : room for n. Returns how many are kept, and the last limits.
    """
    low, high, round_ = np.nan, np.nan, 0
    while n > 0 and round_ != rounds:
        work[:n] = values[:n]
        middle, (_, spread) = median_of(work, n), moments(values, n)
        low, high = middle - sigma * spread, middle + sigma * spread
        kept = 0
        for k in range(n):
            if low <= values[k] <= high:
                values[kept] = values[k]
                kept += 1
        if kept == n or kept == 0:
            break
        n = kept
        round_ += 1
    return n, low, high
