"""Kernels of sums of sines: periodogram, joint fit of all frequencies, evidence, and the check of beats.

Frequencies are cycles per unit of wavenumber [cm], wavenumbers [1/cm] count from the start of the column.
"""

import math

import numpy as np

from mrsxr._solve_kernels import cholesky, log_determinant, substitute
from mrsxr.compiled import njit


@njit(cache=True, nogil=True, fastmath=True)
def fill_waves(x, frequency, cosine, sine):
    """Fill cos and sin of 2 pi frequency x, to 1e-9."""
    for k in range(x.size):
        turns = frequency * x[k]
        h = math.pi * (turns - np.floor(turns + 0.5))  # half the angle, within +- pi / 2
        q = h * h
        s = h * (1.0 + q * (-1.0 / 6 + q * (1.0 / 120 + q * (-1.0 / 5040 + q * (1.0 / 362880 + q * (
            -1.0 / 39916800 + q * (1.0 / 6227020800 - q / 1307674368000)))))))  # fmt: skip
        c = 1.0 + q * (-0.5 + q * (1.0 / 24 + q * (-1.0 / 720 + q * (1.0 / 40320 + q * (
            -1.0 / 3628800 + q * (1.0 / 479001600 - q / 87178291200))))))  # fmt: skip
        sine[k] = 2.0 * s * c
        cosine[k] = 1.0 - 2.0 * s * s


@njit(cache=True, nogil=True, fastmath=True)
def _powers(real, imag, dreal, dimag, y, power):
    n = y.size
    for f in range(power.size):
        a = b = np.float32(0.0)
        for k in range(n):
            a += y[k] * real[k]
            b += y[k] * imag[k]
        power[f] = a * a + b * b
        for k in range(n):
            old = real[k]
            real[k] = old * dreal[k] - imag[k] * dimag[k]
            imag[k] = old * dimag[k] + imag[k] * dreal[k]


@njit(cache=True, nogil=True)
def add_power(x, y, weights, low, step, power):
    """Add |sum w (y - mean) exp(2 pi i f x)|^2 / sum w at the frequencies low + step * j."""
    n = x.size
    total = weights.sum()
    if total <= 0.0:
        return
    mean = np.sum(weights * y) / total
    cosine, sine = np.empty(n), np.empty(n)
    fill_waves(x, low, cosine, sine)
    real, imag = cosine.astype(np.float32), sine.astype(np.float32)
    fill_waves(x, step, cosine, sine)
    found = np.empty(power.size, dtype=np.float32)
    scaled = (weights * (y - mean)).astype(np.float32)
    _powers(real, imag, cosine.astype(np.float32), sine.astype(np.float32), scaled, found)
    for f in range(power.size):
        power[f] += found[f] / total


@njit(cache=True, nogil=True)
def strongest(power, low, step):
    """Return the frequency of the peak of a power spectrum, refined by the parabola through it."""
    j = np.argmax(power)
    shift = 0.0
    if 0 < j < power.size - 1:
        bend = power[j - 1] - 2.0 * power[j] + power[j + 1]
        if bend < 0.0:
            shift = 0.5 * (power[j - 1] - power[j + 1]) / bend
    return low + step * (j + shift)


@njit(cache=True, nogil=True, fastmath=True)
def dot(a, b):
    """Return the sum of products."""
    total = 0.0
    for k in range(a.size):
        total += a[k] * b[k]
    return total


@njit(cache=True, nogil=True, fastmath=True)
def _model(x, n, frequency, amplitude, design, out):
    """Fill the sum of n sines, and the rows cos, sin and d/d frequency of the design."""
    out[:] = 0.0
    for m in range(n):
        cosine, sine, slope = design[3 * m], design[3 * m + 1], design[3 * m + 2]
        fill_waves(x, frequency[m], cosine, sine)
        a, b = amplitude[2 * m], amplitude[2 * m + 1]
        for k in range(x.size):
            out[k] += a * cosine[k] + b * sine[k]
            slope[k] = 2.0 * math.pi * x[k] * (b * cosine[k] - a * sine[k])


@njit(cache=True, nogil=True, fastmath=True)
def _robust(y, fit, weights, robust, scale, out):
    """Fill weights times Tukey's biweight, cut at 10 x scale; return the weighted sum of squares."""
    chi = 0.0
    for k in range(y.size):
        d = (y[k] - fit[k]) ** 2
        w = weights[k]
        if robust and scale > 0.0:
            part = 1.0 - d / (100.0 * scale)
            w = w * part * part if part > 0.0 else 0.0
        out[k] = w
        chi += w * d
    return chi


@njit(cache=True, nogil=True)
def _add_sine(y, weights, n, design, fit, amplitude, work):
    """Set the amplitudes of the last of n sines by a linear fit of its cos and sin to what the others leave."""
    cosine, sine = design[3 * n - 3], design[3 * n - 2]
    rest = y - fit
    np.multiply(weights, cosine, work)
    cc, cs, cr = dot(work, cosine), dot(work, sine), dot(work, rest)
    np.multiply(weights, sine, work)
    ss, sr = dot(work, sine), dot(work, rest)
    det = cc * ss - cs * cs
    if det > 0.0:
        amplitude[2 * n - 2] = (ss * cr - cs * sr) / det
        amplitude[2 * n - 1] = (cc * sr - cs * cr) / det


@njit(cache=True, nogil=True)
def _normal_equations(y, fit, weights, n, design, a, b, work):
    for i in range(3 * n):
        np.multiply(weights, design[i], work)
        b[i] = dot(work, y) - dot(work, fit)
        for j in range(i + 1):
            a[i, j] = dot(work, design[j])


@njit(cache=True, nogil=True)
def fit_sines(x, y, weights, low, high, most, robust, unit, prior_range, always_one, out):
    """Fit sines one after the other, all parameters free each time, while the evidence rises by a factor of 10.

    Parameters
    ----------
    x, y, weights : (n)
        Wavenumber from the start, what is left of the continuum, weights (0: leave out).
    low, high : float
        Range of frequencies.
    most : int
        Largest number of sines.
    robust : bool
        Tukey's biweight, cut at 10 sigma.
    unit, prior_range : float
        The prior of the evidence: each parameter is flat over ``prior_range``, frequencies in 1 / unit.
    always_one : bool
        Compare the first sine with a constant level of one, as jwst does, so that it is always taken.
    out : (n)
        Filled with the sum.

    Returns
    -------
    n_sines, frequency of the first
    """
    n = x.size
    out[:] = 0.0
    total = weights.sum()
    span = x[n - 1] - x[0]
    if total <= 3.0 or span <= 0.0:
        return 0, 0.0
    step = 1.0 / (4.0 * span)
    power = np.empty(max(int((high - low) / step) + 1, 3))
    frequency, amplitude = np.zeros(most), np.zeros(2 * most)
    tried_frequency, tried = np.zeros(most), np.zeros(2 * most)
    design, fit, work, robust_weights = np.empty((3 * most, n)), np.zeros(n), np.empty(n), weights.copy()
    a, b = np.empty((3 * most, 3 * most)), np.empty(3 * most)
    equal = (weights > 1e-5).astype(np.float64)
    null = np.sum(weights * (y - (1.0 if always_one else 0.0)) ** 2)
    best = _log_evidence(null, total, 0, 0.0, prior_range)
    count = 0
    for m in range(1, most + 1):
        power[:] = 0.0
        add_power(x, y - out, equal, low, step, power)
        tried_frequency[: m - 1], tried[: 2 * m - 2] = frequency[: m - 1], amplitude[: 2 * m - 2]
        tried_frequency[m - 1] = strongest(power, low, step)
        tried[2 * m - 2 : 2 * m] = 0.0
        _model(x, m, tried_frequency, tried, design, fit)
        _add_sine(y, robust_weights, m, design, fit, tried, work)
        chi, log_det, used = _gauss_newton(
            x, y, weights, m, low, high, robust, tried_frequency, tried, design, fit, work, robust_weights, a, b
        )
        log_det -= 2.0 * m * math.log(unit)  # of the frequencies, in their unit of the prior
        found = _log_evidence(chi, used, 3 * m, log_det, prior_range)
        if not found - best > math.log(10.0):
            break
        best, count = found, m
        frequency[:m], amplitude[: 2 * m] = tried_frequency[:m], tried[: 2 * m]
        out[:] = fit
    return count, frequency[0]


@njit(cache=True, nogil=True)
def _gauss_newton(x, y, weights, m, low, high, robust, frequency, amplitude, design, fit, work, robust_weights, a, b):
    """Improve m sines by Gauss-Newton steps under robust weights; return (chi2, ln det of the Hessian, sum of weights).

    The last frequency moves by less than a quarter of the resolution a step.
    """
    limit = 0.25 / (x[x.size - 1] - x[0])
    total = weights.sum()
    _model(x, m, frequency, amplitude, design, fit)
    chi = _robust(y, fit, weights, False, 0.0, robust_weights)
    scale = chi / total
    for repeat in range(4):
        new = _robust(y, fit, weights, robust, scale, robust_weights)
        total = robust_weights.sum()
        if total <= 3 * m:
            return np.inf, 0.0, total
        if repeat > 0 and abs(new - chi) < 1e-4 * new:
            chi = new
            break
        chi, scale = new, new / total
        if repeat == 3:
            break
        _normal_equations(y, fit, robust_weights, m, design, a, b, work)
        for i in range(3 * m):
            a[i, i] *= 1.0 + 1e-9
        if not cholesky(a, 3 * m, 0.0):
            return np.inf, 0.0, total
        substitute(a, 3 * m, b)
        for i in range(m):
            amplitude[2 * i] += b[3 * i]
            amplitude[2 * i + 1] += b[3 * i + 1]
            move = min(max(b[3 * i + 2], -limit), limit)
            frequency[i] = min(max(frequency[i] + move, low), high)
        _model(x, m, frequency, amplitude, design, fit)
    _normal_equations(y, fit, robust_weights, m, design, a, b, work)
    return chi, log_determinant(a, 3 * m), total


@njit(cache=True, nogil=True)
def _log_evidence(chi, total, n_parameter, log_det, prior_range):
    """Return ln of the evidence in Gaussian approximation (Kester 2002, eq. 18), up to a constant."""
    freedom = total - n_parameter
    if freedom <= 0.0 or not chi > 0.0 or np.isnan(log_det):
        return -np.inf
    variance = chi / freedom
    log_likelihood = -0.5 * (total * math.log(2.0 * math.pi * variance) + freedom)
    occam = 0.5 * math.log(math.pi * freedom) - n_parameter * math.log(prior_range)
    if n_parameter > 0:
        occam += 0.5 * (n_parameter * math.log(2.0 * math.pi * variance) - log_det)
    return log_likelihood + occam
