"""Kernels of the pixel background on plain arrays. Bits: DO_NOT_USE 1."""

import math

import numpy as np

from mrsxr._clip_kernels import clip
from mrsxr._median_kernels import median_of
from mrsxr.compiled import Array, njit


@njit(cache=True, nogil=True)
def _clipped_mean(rate, dq, sigma, maxiters, level, flags):
    n_exposure, n_y, n_x = rate.shape
    values, work = np.empty(n_exposure), np.empty(n_exposure)
    for y in range(n_y):
        for x in range(n_x):
            n, total, bits = 0, 0.0, np.uint32(0)
            for e in range(n_exposure):
                bits |= dq[e, y, x]
                if math.isfinite(rate[e, y, x]):
                    values[n] = rate[e, y, x]
                    n += 1
            flags[y, x] = bits
            low, high = -np.inf, np.inf
            if sigma <= 1.000001 + math.sqrt(max(n - 1.0, 0.0)):  # else no value can be that far off the median
                _, low, high = clip(values, n, sigma, maxiters, work)
            n = 0
            for e in range(n_exposure):
                if low <= rate[e, y, x] <= high:
                    total += rate[e, y, x]
                    n += 1
            level[y, x] = total / n if n > 0 else 0.0


@njit(cache=True, nogil=True)
def _reject(values, var, n, sigma, maxiters, work):
    """Move those of values[:n] within sigma of their median, by their own variance, to the front; return how many."""
    iteration = 0
    while n > 2 and (maxiters < 0 or iteration < maxiters):
        work[:n] = values[:n]
        middle, kept = median_of(work, n), 0
        for k in range(n):
            if (values[k] - middle) ** 2 <= sigma * sigma * var[k]:
                values[kept], var[kept] = values[k], var[k]
                kept += 1
        if kept == n or kept == 0:
            break
        n = kept
        iteration += 1
    return n


@njit(cache=True, nogil=True)
def _usable(rate, dq, poisson, read):
    return (dq & 1) == 0 and math.isfinite(rate) and poisson >= 0.0 and read >= 0.0 and poisson + read > 0.0


@njit(cache=True, nogil=True)
def _weighted_mean(rate, dq, poisson, read, time, sigma, maxiters, level, variance, flags):
    n_exposure, n_y, n_x = rate.shape
    values, var = np.empty(n_exposure), np.empty(n_exposure)
    seconds, work = np.empty(n_exposure), np.empty(n_exposure)
    for y in range(n_y):
        for x in range(n_x):
            n, bits = 0, np.uint32(1)
            for e in range(n_exposure):
                bits |= dq[e, y, x]
                if _usable(rate[e, y, x], dq[e, y, x], poisson[e, y, x], read[e, y, x]):
                    values[n], var[n], seconds[n] = rate[e, y, x], read[e, y, x], time[e]
                    work[n] = poisson[e, y, x] * time[e]
                    n += 1
            flags[y, x] = 0 if n > 0 else bits
            level[y, x] = variance[y, x] = np.nan
            if n == 0:
                continue
            photons = median_of(work, n)
            for k in range(n):
                var[k] += photons / seconds[k]
            n = _reject(values, var, n, sigma, maxiters, work)
            total = weights = 0.0
            for k in range(n):
                total += values[k] / var[k]
                weights += 1.0 / var[k]
            level[y, x] = total / weights
            excess = 1.0
            if n == 2:  # which of two is wrong cannot be told: both count, with an error that holds for both
                chi2 = (values[0] - values[1]) ** 2 / (var[0] + var[1])
                excess = chi2 if chi2 > sigma * sigma else 1.0
            variance[y, x] = excess / weights


def _rounds(maxiters):
    return -1 if maxiters is None else int(maxiters)


def clipped_mean(rate: Array, dq: Array, sigma: float = 3.0, maxiters: int | None = None) -> tuple[Array, Array]:
    """Return (mean [DN/s], flags) (y, x) of exposures (exposure, y, x): clipped mean of what is finite, flags OR-ed.

    0 where no exposure is finite, as jwst has it.
    """
    level, flags = np.empty(rate.shape[1:], np.float32), np.empty(rate.shape[1:], np.uint32)
    _clipped_mean(rate, dq, float(sigma), _rounds(maxiters), level, flags)
    return level, flags


def weighted_mean(
    rate: Array, dq: Array, var_poisson: Array, var_read: Array, time: Array, sigma: float = 3.0,
    maxiters: int | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return (mean [DN/s], its variance [DN2/s2], flags) (y, x) of exposures (exposure, y, x) with times [s].

    NaN and the flags of all exposures with DO_NOT_USE where no exposure contributes, else no flags.
    """
    shape = rate.shape[1:]
    level, variance, flags = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.uint32)
    times = np.asarray(time, np.float64)
    _weighted_mean(rate, dq, var_poisson, var_read, times, float(sigma), _rounds(maxiters), level, variance, flags)
    return level, variance, flags


def subtract(rate: Array, dq: Array, level: Array, flags: Array, factor: Array) -> tuple[Array, Array]:
    """Return (rate - factor * level, dq | flags); rate, dq (dither, y, x), level, flags (y, x), factor (1, x)."""
    return (rate - level * factor).astype(np.float32, copy=False), dq | flags


def subtract_both(
    rate: Array, dq: Array, level: Array, flags: Array, factor: Array, variance: Array
) -> tuple[Array, Array, Array]:
    """Return the same and the variance that comes with it, factor^2 * variance, for every dither."""
    out, out_dq = subtract(rate, dq, level, flags, factor)
    return out, out_dq, np.broadcast_to(variance * (factor * factor), rate.shape).copy()
