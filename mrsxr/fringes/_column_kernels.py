"""Kernels that correct columns one by one, as jwst's residual_fringe does.

A batch holds one spectrum a row: (column, sample). Families (column, family, 5) hold period and half range [1/cm],
largest number of sines, least S/N, least number of periods.
"""

import math

import numpy as np

from mrsxr.compiled import Array, njit

from ._sine_kernels import fit_sines
from ._spline_kernels import bridge, choose_knots, envelopes, fit_background, mask_tall_features

TINY = 1e-8
LEAST_SAMPLES = 50
BOXCAR = 7  # samples over which the dichroic fringes are averaged before features are sought
COARSE = 1.5  # 1/cm: families of shorter periods get straight-line splines without rejection of outliers


@njit(cache=True, nogil=True)
def gather(wavenumber, flux, error, use, order, x, y, snr, good):
    """Copy the samples of a column that have a wavenumber, by rising wavenumber; return how many.

    Samples that are bad (``use`` False or NaN) are bridged by straight lines.
    """
    n = 0
    for k in range(wavenumber.size):
        if np.isfinite(wavenumber[k]) and wavenumber[k] > 0:
            order[n] = k
            n += 1
    if n < 2:
        return n
    if wavenumber[order[0]] > wavenumber[order[n - 1]]:
        order[:n] = order[:n][::-1].copy()
    for i in range(n):
        k = order[i]
        x[i] = wavenumber[k]
        fine = use[k] and np.isfinite(flux[k])
        good[i] = fine
        y[i] = flux[k] if fine else 0.0
        snr[i] = flux[k] / error[k] if fine and error[k] > 0 else np.nan
    for i in range(1, n):
        if x[i] <= x[i - 1]:
            return 0
    bridge(y[:n], good[:n].astype(np.float64), 0.5)
    return n


@njit(cache=True, nogil=True)
def noise_of(y):
    """Return the noise of a column: DER_SNR (Stoehr et al. 2008)."""
    n = y.size
    if n < 5:
        return 0.0
    return 1.482602 / math.sqrt(6.0) * np.median(np.abs(2.0 * y[2 : n - 2] - y[0 : n - 4] - y[4:n]))


@njit(cache=True, nogil=True)
def _boxcar(y, width, out):
    half = width // 2
    n = y.size
    for k in range(n):
        low, high = max(0, k - half), min(n, k + half + 1)
        out[k] = y[low:high].mean()


@njit(cache=True, nogil=True)
def keep_continuum(y, snr, limit, smooth_too, keep):
    """Set keep False at features taller than the largest contrast, and in the smoothed column where asked for."""
    n = y.size
    lower, upper, ratio, smooth = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    envelopes(y, 1, lower, upper)
    for k in range(n):
        value = abs(y[k] / lower[k]) - 1.0 if lower[k] != 0.0 else 0.0
        ratio[k] = value if snr[k] > 10.0 else 0.0
    mask_tall_features(ratio, limit, keep)
    if smooth_too:
        _boxcar(y, BOXCAR, smooth)
        envelopes(smooth, 1, lower, upper)
        for k in range(n):
            ratio[k] = abs(y[k] / lower[k]) - 1.0 if lower[k] != 0.0 else 0.0
        mask_tall_features(ratio, limit, keep)


@njit(cache=True, nogil=True)
def reject_beats(fit, limit, rejected):
    """Set a fit to 0 from node to node of its upper envelope where both envelopes together exceed the limit."""
    n = fit.size
    lower, upper = np.empty(n), np.empty(n)
    envelopes(fit, 1, lower, upper)
    nodes = np.empty(n, dtype=np.int64)
    nodes[0] = 0
    count = 1
    for k in range(1, n - 1):
        if upper[k] < upper[k - 1] and upper[k] < upper[k + 1]:
            nodes[count] = k
            count += 1
    nodes[count] = n - 1
    count += 1
    for j in range(count - 1):
        low, high = nodes[j], nodes[j + 1]
        for k in range(low, high + 1):
            if abs(lower[k]) + abs(upper[k]) > limit[k]:
                fit[low:high] = 0.0
                rejected[low:high] = True
                break


@njit(cache=True, nogil=True)
def _correct_column(x, y, good, weights, fit_weights, families, snr, limit, prior_range, factor, rejected):
    """Fill the factor (1 + fit) of one column, family after family; return the number of sines."""
    n = x.size
    work, rest, fit = y.copy(), np.empty(n), np.empty(n)
    background, use = np.empty(n), np.empty(n)
    span = x[n - 1] - x[0]
    done = 0
    for f in range(families.shape[0]):
        period, half, most, least_snr, least_periods = families[f]
        if not period > 1e-3 or not snr > least_snr or most < 1:
            continue
        if math.floor(span / period) < least_periods or half <= 0 or half >= period:
            continue
        coarse = period > COARSE
        knots = x[choose_knots(n, int(span / period), weights)]
        if not fit_background(x, work, weights, knots, 2 if coarse else 1, coarse, background):
            continue
        bridge(background, weights, 1e-5)
        for k in range(n):
            fine = good[k] and background[k] != 0.0
            rest[k] = work[k] / background[k] - 1.0 if fine else 0.0
            use[k] = fit_weights[k] if fine else 0.0
        count, _ = fit_sines(
            x - x[0], rest, use, 1.0 / (period + half), 1.0 / (period - half), int(most), coarse, x[0], prior_range,
            True, fit,  # always one sine, as jwst
        )  # fmt: skip
        if count == 0:
            continue
        reject_beats(fit, limit, rejected)
        done += count
        for k in range(n):
            value = 1.0 + fit[k] if good[k] else 1.0
            if value > 0.0:
                factor[k] *= value
                work[k] = max(work[k] / value, TINY)
    return done


@njit(cache=True, nogil=True)
def _correct_batch(
    wavenumber, flux, error, use, ignore, families, limit, smooth_too, prior_range,
    factor, rejected, n_sines,
):  # fmt: skip
    samples = wavenumber.shape[1]
    order = np.empty(samples, dtype=np.int64)
    x_all, y_all, snr_all = np.empty(samples), np.empty(samples), np.empty(samples)
    good_all = np.empty(samples, dtype=np.bool_)
    for c in range(wavenumber.shape[0]):
        n = gather(wavenumber[c], flux[c], error[c], use[c], order, x_all, y_all, snr_all, good_all)
        if n <= LEAST_SAMPLES or good_all[:n].sum() <= LEAST_SAMPLES:
            continue
        x, y, good, pixel_snr = x_all[:n], y_all[:n], good_all[:n], snr_all[:n]
        for k in range(n):
            good[k] = good[k] and y[k] > 0.0
            y[k] = max(y[k], TINY * abs(y[k]))
        level = y.mean()
        if not level > 0.0:
            continue
        noise = noise_of(y)
        snr = level / noise if noise > 0.0 else 0.0
        enough = False
        for f in range(families.shape[1]):
            enough = enough or snr > families[c, f, 3]
        if not enough:
            continue
        y /= level
        keep = np.ones(n, dtype=np.bool_)
        limits = np.empty(n)
        for k in range(n):
            limits[k] = limit[c, order[k]] * 2.0
        keep_continuum(y, pixel_snr, limits, smooth_too[c], keep)
        weights, fit_weights = np.empty(n), np.empty(n)
        for k in range(n):
            value = y[k] if good[k] and keep[k] and not ignore[c, order[k]] else 0.0
            weights[k] = value if value > 0.003 else TINY
            strong = pixel_snr[k] > 10.0
            fit_weights[k] = weights[k] if weights[k] > TINY and strong else 0.0
        column, bad = np.ones(n), np.zeros(n, dtype=np.bool_)
        n_sines[c] = _correct_column(
            x, y, good, weights, fit_weights, families[c], snr, limits, prior_range, column, bad
        )
        for k in range(n):
            factor[c, order[k]] = column[k]
            rejected[c, order[k]] = bad[k]


def correct_columns(
    wavenumber: Array, flux: Array, error: Array, use: Array, ignore: Array, families: Array, limit: float | Array,
    smooth_too: Array, prior_range: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return (1 + fringes, rejected) of (column, sample) and the number of sines (column); 1 where nothing was done."""
    shape = wavenumber.shape
    factor = np.ones(shape)
    rejected = np.zeros(shape, dtype=np.bool_)
    n_sines = np.zeros(shape[0], dtype=np.int64)
    _correct_batch(
        np.ascontiguousarray(wavenumber, dtype=np.float64), np.ascontiguousarray(flux, dtype=np.float64),
        np.ascontiguousarray(error, dtype=np.float64), np.ascontiguousarray(use, dtype=np.bool_),
        np.ascontiguousarray(ignore, dtype=np.bool_), np.ascontiguousarray(families, dtype=np.float64),
        np.ascontiguousarray(limit, dtype=np.float64), np.ascontiguousarray(smooth_too, dtype=np.bool_),
        float(prior_range), factor, rejected, n_sines,
    )  # fmt: skip
    return factor, rejected, n_sines
