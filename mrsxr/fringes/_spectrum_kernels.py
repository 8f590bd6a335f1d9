"""Kernels that correct spectra one by one, number for number as jwst's ``fit_residual_fringes_1d``.

Samples run by rising wavelength and are only those with positive flux, as there. Knots, weights and the tolerance of
the continuum depend on the order of samples and on the unit of the flux; both are kept.
"""

import math

import numpy as np

from mrsxr._median_kernels import median_of
from mrsxr.compiled import Array, njit, read_only

from ._bayes_kernels import fit_fringes
from ._spline_kernels import bridge, envelopes, evaluate, spline_basis

NOTHING = 1e-8  # weight of what is left out
FAINT = 1e-3  # flux, in its unit, and weight below which no knots are set at the edges of gaps
COARSE = 1.5  # 1/cm: families of shorter periods get straight-line splines without rejection of outliers
RESOLUTION = 0.001  # 1/cm, of the grid of periods
LEAST_SAMPLES = 10
CLIPS = 5
MOST_REPEATS = 1000


@njit(cache=True, nogil=True)
def _middle(rising, n):
    """Median of the first n of sorted values."""
    return 0.5 * (rising[(n - 1) // 2] + rising[n // 2])


@njit(cache=True, nogil=True)
def clip_features(signal, sigma, keep):
    """Set keep False where the signal is at or above median + sigma x spread, both after five clippings upwards."""
    values = np.sort(signal)
    n = values.size
    for _ in range(CLIPS):
        kept = np.searchsorted(values[:n], _middle(values, n) + sigma * np.std(values[:n]), side="right")
        if kept == n:
            break
        n = kept
    limit = _middle(values, n) + sigma * np.std(values[:n])
    for k in range(signal.size):
        if not signal[k] < limit:
            keep[k] = False


@njit(cache=True, nogil=True)
def place_knots(n, n_knots, weights, flux):
    """Return the samples of knots: evenly spread at broken places, and at both sides of gaps in the weights.

    A gap's knot is left out only beside a knot at a whole sample, which evenly spread ones rarely are.
    """
    step = n / n_knots
    last = (n - 1) - round((n_knots - 1) * step)
    here, whole = np.zeros(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    here[0] = here[n - 1] = whole[0] = whole[n - 1] = True
    for i in range(n_knots):
        at = i * step + 0.5 * last
        j = min(max(int(at), 0), n - 1)
        here[j] = True
        whole[j] = whole[j] or at == j
    used = weights * (flux > FAINT)
    for k in range(n - 1):
        big, small = max(used[k], used[k + 1]), min(used[k], used[k + 1])
        if big > FAINT and abs(big - abs(used[k + 1] - used[k])) <= 0.1 * max(big, big - small):
            i = k if used[k] >= used[k + 1] else k + 1
            if not (i > 0 and whole[i - 1]) and not (i < n - 1 and whole[i + 1]):
                here[i] = True
    return np.nonzero(here)[0]


@njit(cache=True, nogil=True)
def solve_spline(y, weights, first, basis, n_coefficient, a, coefficient):
    """Fit a weighted spline row by row with Givens rotations, as FITPACK's fpcurf; return whether it could.

    Holds weights of 1 and of 1e-8 side by side, which the normal equations do not.
    """
    width = basis.shape[1]
    a[:n_coefficient] = 0.0
    coefficient[:n_coefficient] = 0.0
    row = np.empty(width)
    for k in range(y.size):
        value = y[k] * weights[k]
        for i in range(width):
            row[i] = basis[k, i] * weights[k]
        for i in range(width):
            pivot = row[i]
            if pivot == 0.0:
                continue
            j = first[k] + i
            length = math.sqrt(a[j, 0] ** 2 + pivot**2)
            cosine, sine = a[j, 0] / length, pivot / length
            a[j, 0] = length
            old = coefficient[j]
            coefficient[j] = cosine * old + sine * value
            value = cosine * value - sine * old
            for q in range(i + 1, width):
                old = a[j, q - i]
                a[j, q - i] = cosine * old + sine * row[q]
                row[q] = cosine * row[q] - sine * old
    for i in range(n_coefficient - 1, -1, -1):
        if a[i, 0] == 0.0:
            return False
        for q in range(1, min(width, n_coefficient - i)):
            coefficient[i] -= a[i, q] * coefficient[i + q]
        coefficient[i] /= a[i, 0]
    return True


@njit(cache=True, nogil=True)
def fit_continuum(x, y, weights, knots, degree, robust, out):
    """Fill the spline through a spectrum by rising x; return whether it was found.

    robust: repeated fits with Tukey's biweight, cut at 10 sigma, until the sum of squares (in the unit of the flux)
    changes by less than 1e-4, or by that share where it is above 1.
    """
    n = x.size
    first, basis = np.empty(n, dtype=np.int64), np.empty((n, degree + 1))
    count = spline_basis(x, knots, degree, first, basis)
    coefficient, a = np.empty(count), np.empty((count, degree + 1))
    if not solve_spline(y, weights, first, basis, count, a, coefficient):
        return False
    evaluate(first, basis, coefficient, out)
    if not robust:
        return True
    freedom = weights.sum() - (knots.size - 2 + 2 * (degree + 1))
    chi = np.sum((y - out) ** 2 * weights)
    if not freedom > 0.0:
        return False
    changed = np.empty(n)
    for _ in range(MOST_REPEATS):
        scale = 100.0 * chi / freedom
        for k in range(n):
            part = 1.0 - (y[k] - out[k]) ** 2 / scale if scale > 0.0 else 0.0
            changed[k] = weights[k] * part * part if part > 0.0 else 0.0
        if not solve_spline(y, changed, first, basis, count, a, coefficient):
            return False
        evaluate(first, basis, coefficient, out)
        new = np.sum((y - out) ** 2 * changed)
        if abs(chi - new) < 1e-4 * max(1.0, new):
            break
        chi = new
    return True


@njit(cache=True, nogil=True)
def drop_beats(fit, limit):
    """Set a fit to 0 between the nodes of its upper envelope where both envelopes together exceed the limit."""
    n = fit.size
    lower, upper = np.empty(n), np.empty(n)
    envelopes(fit, 1, lower, upper)
    low = 0
    for k in range(1, n):
        if k < n - 1 and not (upper[k] < upper[k - 1] and upper[k] < upper[k + 1]):
            continue
        for j in range(low + 1, k + 1):
            if abs(lower[j]) + abs(upper[j]) > limit:
                fit[low:k] = 0.0
                break
        low = k


@njit(cache=True, nogil=True)
def _features(flux, sigma, keep):
    n = flux.size
    lower, upper, off = np.empty(n), np.empty(n), np.empty(n)
    envelopes(flux, 2, lower, upper)
    for k in range(n):
        middle = 0.5 * (lower[k] + upper[k])
        off[k] = abs((flux[k] - middle) / middle) if middle != 0.0 else np.inf
    clip_features(off, sigma, keep)


@njit(cache=True, nogil=True)
def _correct_one(wavenumber, flux, ignore, families, limit, sigma, prior_range, tolerance, factor):
    """Fill the factor (1 + fringes) of one spectrum by rising wavelength; return the number of sines."""
    n = flux.size
    keep = ~ignore
    level = median_of(flux.copy(), n)
    if not keep.any() or not level > 0.0:
        return 0
    _features(flux, sigma, keep)
    share, weights = flux / level, np.empty(n)
    for k in range(n):
        weights[k] = share[k] if keep[k] and share[k] > 0.0 else NOTHING
    unit = wavenumber[n - 1]
    x = wavenumber / unit
    span = wavenumber[0] - unit
    work, rest, fit, continuum = flux.copy(), np.empty(n), np.empty(n), np.empty(n)
    done = 0
    for f in range(families.shape[0]):
        period, half, most, _, least_periods = families[f]
        if math.floor(span / period) < least_periods:
            return done
        knots = x[place_knots(n, int(span / period), weights, work)][::-1].copy()
        coarse = period > COARSE
        back = np.empty(n)
        if not fit_continuum(x[::-1].copy(), work[::-1].copy(), weights[::-1].copy(), knots, 2 if coarse else 1,
                             coarse, back):  # fmt: skip
            continue
        continuum[:] = back[::-1]
        bridge(continuum, weights, 1e-5)
        for k in range(n):
            value = work[k] / continuum[k] - 1.0 if continuum[k] != 0.0 else NOTHING - 1.0
            rest[k] = (value if share[k] > 1e-7 else value * NOTHING) if np.isfinite(value) else 0.0
        count = round(2.0 * half / RESOLUTION)
        step = 2.0 * half / unit / (count - 1)
        found, _ = fit_fringes(
            x, rest, weights, (period - half) / unit, step, count, int(most), prior_range, tolerance, fit
        )
        if found == 0:
            continue
        done += found
        drop_beats(fit, limit)
        for k in range(n):
            value = 1.0 + fit[k] if share[k] > 1e-5 else 1.0
            if value != 0.0:
                factor[k] *= value
                work[k] /= value
    return done


def correct_each(
    wavelength: Array, flux: Array, use: Array, ignore: Array, families: Array, limit: float, sigma: float,
    prior_range: float, tolerance: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Return (1 + fringes) of (spectrum, sample), 1 where nothing was done, and the number of sines (spectrum).

    families : (family, 5), of all spectra; limit : largest amplitude; sigma : of the clipping of features.
    """
    factor, n_sines = np.ones(flux.shape), np.zeros(len(flux), dtype=np.int64)
    wavelength, flux = np.asarray(wavelength, dtype=np.float64), np.asarray(flux, dtype=np.float64)
    used = np.asarray(use, dtype=bool) & (flux > 0) & (wavelength > 0) & np.isfinite(flux) & np.isfinite(wavelength)
    (families,) = read_only(np.asarray(families, dtype=np.float64))
    options = float(limit), float(sigma), float(prior_range), float(tolerance)
    for c in np.flatnonzero(used.sum(axis=1) > LEAST_SAMPLES):
        order = np.flatnonzero(used[c])
        steps = np.diff(wavelength[c, order])
        if (steps < 0).all():
            order = order[::-1]
        elif not (steps > 0).all():
            continue
        one = 1e4 / wavelength[c, order], flux[c, order], np.asarray(ignore, dtype=bool)[c, order]
        found = np.ones(order.size)
        n_sines[c] = _correct_one(*one, families, *options, found)
        factor[c, order] = found
    return factor, n_sines
