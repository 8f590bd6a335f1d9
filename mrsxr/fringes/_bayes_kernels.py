"""Kernels that fit sums of sines on the very path of jwst, whose fits stop before they have converged.

The path is that of a Levenberg-Marquardt fit with half steps, stopped where chi2 changes by less than a tolerance (an
absolute one where chi2 < 1, as it is for relative fringes), inside a shell of robust weights, from amplitudes of 1.
Where such a fit stops depends on every step, so the steps are repeated one by one. Sources: BayesicFitting 3.3
(LevenbergMarquardtFitter, RobustShell, BaseFitter.getLogZ; Kester 2002, eq. 18) and jwst 3.0
(``fit_1d_fringes_bayes_evidence_1d``).

Parameters of sine m are p[3 m] (frequency), p[3 m + 1] (cosine) and p[3 m + 2] (sine); design (3 m, n) holds the
derivatives. x is the wavenumber over its minimum.
"""

import math

import numpy as np

from mrsxr.compiled import njit

from ._sine_kernels import add_power, dot, fill_waves

CONVERGED = 1e-12  # of chi2: the least change that counts
CUT = 10.0  # sigma: Tukey's biweight is 0 beyond
SCALE_RANGE = math.log(1.0 / 0.001)  # of the evidence: prior of the noise
MOST_STEPS = 1000  # a parameter


@njit(cache=True, nogil=True, fastmath=True)
def _dot4(a, b0, b1, b2, b3, out):
    s0 = s1 = s2 = s3 = 0.0
    for k in range(a.size):
        v = a[k]
        s0 += v * b0[k]
        s1 += v * b1[k]
        s2 += v * b2[k]
        s3 += v * b3[k]
    out[0], out[1], out[2], out[3] = s0, s1, s2, s3


@njit(cache=True, nogil=True)
def _products(design, rows, weights, work, a):
    """Fill the lower and the upper half of a = design weights design^T for the given rows of the design."""
    n = rows.size
    four = np.empty(4)
    for i in range(n):
        np.multiply(weights, design[rows[i]], work)
        j = 0
        while j + 4 <= i + 1:
            _dot4(work, design[rows[j]], design[rows[j + 1]], design[rows[j + 2]], design[rows[j + 3]], four)
            a[i, j : j + 4] = four
            j += 4
        while j <= i:
            a[i, j] = dot(work, design[rows[j]])
            j += 1
    for i in range(n):
        for j in range(i):
            a[j, i] = a[i, j]


@njit(cache=True, nogil=True)
def eliminate(a, n, b):
    """Solve a x = b in place with partial pivoting; return (sign of det, ln |det|), sign 0 where a is singular."""
    sign, log_det = 1.0, 0.0
    for i in range(n):
        best = i
        for r in range(i + 1, n):
            if abs(a[r, i]) > abs(a[best, i]):
                best = r
        if not abs(a[best, i]) > 0.0:
            return 0.0, -np.inf
        if best != i:
            sign = -sign
            for c in range(i, n):
                a[i, c], a[best, c] = a[best, c], a[i, c]
            b[i], b[best] = b[best], b[i]
        pivot = a[i, i]
        sign = sign if pivot > 0.0 else -sign
        log_det += math.log(abs(pivot))
        for r in range(i + 1, n):
            part = a[r, i] / pivot
            if part != 0.0:
                for c in range(i + 1, n):
                    a[r, c] -= part * a[i, c]
                b[r] -= part * b[i]
    for i in range(n - 1, -1, -1):
        for c in range(i + 1, n):
            b[i] -= a[i, c] * b[c]
        b[i] /= a[i, i]
    return sign, log_det


@njit(cache=True, nogil=True, fastmath=True)
def _model(x, m, p, design, out):
    """Fill the sum of m sines and the rows of the design."""
    out[:] = 0.0
    for i in range(m):
        slope, cosine, sine = design[3 * i], design[3 * i + 1], design[3 * i + 2]
        fill_waves(x, p[3 * i], cosine, sine)
        a, b = p[3 * i + 1], p[3 * i + 2]
        for k in range(x.size):
            out[k] += a * cosine[k] + b * sine[k]
            slope[k] = 2.0 * math.pi * x[k] * (b * cosine[k] - a * sine[k])


@njit(cache=True, nogil=True, fastmath=True)
def _chi2(y, fit, weights):
    total = 0.0
    for k in range(y.size):
        total += weights[k] * (y[k] - fit[k]) ** 2
    return total


@njit(cache=True, nogil=True)
def _step(hessian, damped, lam, start, gradient, n, b):
    """Fill b with half a damped step; damping adds up over the failed trials as in the fitter. Return success."""
    a = np.empty((n, n))
    for i in range(n):
        damped[i] *= 1.0 + lam
        for j in range(n):
            a[i, j] = hessian[i, j]
        a[i, i] = damped[i]
        b[i] = gradient[i]
    sign, _ = eliminate(a, n, b)
    for i in range(n):
        b[i] = start[i] + 0.5 * b[i]
    return sign != 0.0


@njit(cache=True, nogil=True)
def _descend_linear(hessian, gradient, chi0, n, tolerance, d):
    """Follow the fit of amplitudes at fixed frequencies, where chi2 = chi0 - 2 g d + d H d, from d = 0; success."""
    d[:n] = 0.0
    chi, lam, steps = chi0 + 1.0, 1e-3, 0
    b, rest, damped = np.empty(n), np.empty(n), np.empty(n)
    while steps < MOST_STEPS * n:
        for i in range(n):
            rest[i], damped[i] = gradient[i], hessian[i, i]
            for j in range(n):
                rest[i] -= hessian[i, j] * d[j]
        while True:
            if not _step(hessian, damped, lam, d, rest, n, b):
                return False
            new = chi0
            for i in range(n):
                new -= b[i] * gradient[i]
                value = gradient[i]
                for j in range(n):
                    value -= hessian[i, j] * b[j]
                new -= b[i] * value
            steps += 1
            if new <= chi:
                break
            if steps >= MOST_STEPS * n or new != new:
                return False
            lam = lam * 10.0 if lam < 1e20 else lam
        d[:n] = b
        done = abs(chi - new) <= max(tolerance * max(1.0, chi), CONVERGED * chi)
        chi = new
        if done:
            return True
        lam = lam * 0.1 if lam > 1e-100 else lam
    return False


@njit(cache=True, nogil=True)
def _fit_amplitudes(x, y, weights, m, p, tolerance, design, fit, work):
    """Improve the amplitudes at fixed frequencies; return chi2, NaN where that failed."""
    n = 2 * m
    rows = np.empty(n, dtype=np.int64)
    for i in range(m):
        rows[2 * i], rows[2 * i + 1] = 3 * i + 1, 3 * i + 2
    hessian, gradient, d = np.empty((n, n)), np.empty(n), np.empty(n)
    _model(x, m, p, design, fit)
    _products(design, rows, weights, work, hessian)
    np.multiply(weights, y - fit, work)
    for i in range(n):
        gradient[i] = dot(work, design[rows[i]])
    if not _descend_linear(hessian, gradient, _chi2(y, fit, weights), n, tolerance, d):
        return np.nan
    for i in range(n):
        p[rows[i]] += d[i]
        for k in range(x.size):
            fit[k] += d[i] * design[rows[i], k]
    return _chi2(y, fit, weights)


@njit(cache=True, nogil=True)
def _fit_all(x, y, weights, m, p, tolerance, design, fit, work):
    """Improve all parameters of m sines; return chi2, NaN where that failed."""
    n = 3 * m
    rows = np.arange(n)
    hessian, gradient, b, damped = np.empty((n, n)), np.empty(n), np.empty(n), np.empty(n)
    _model(x, m, p, design, fit)
    chi, lam, steps = _chi2(y, fit, weights) + 1.0, 1e-3, 0
    while steps < MOST_STEPS * n:
        _products(design, rows, weights, work, hessian)
        np.multiply(weights, y - fit, work)
        for i in range(n):
            gradient[i], damped[i] = dot(work, design[i]), hessian[i, i]
        while True:
            if not _step(hessian, damped, lam, p, gradient, n, b):
                return np.nan
            _model(x, m, b, design, fit)
            new = _chi2(y, fit, weights)
            steps += 1
            if new <= chi:
                break
            if steps >= MOST_STEPS * n or new != new:
                return np.nan
            lam = lam * 10.0 if lam < 1e20 else lam
        p[:n] = b
        done = abs(chi - new) <= max(tolerance * max(1.0, chi), CONVERGED * chi)
        chi = new
        if done:
            return chi if chi > 0.0 else np.nan
        lam = lam * 0.1 if lam > 1e-100 else lam
    return np.nan


@njit(cache=True, nogil=True)
def _fit_robustly(x, y, weights, m, p, fixed, tolerance, design, fit, work, robust):
    """Repeat a fit under Tukey's biweight until chi2 converges; fill ``robust``; return (chi2, sum of weights)."""
    free = 2 * m if fixed else 3 * m
    robust[:] = weights
    chi, total = 0.0, 0.0
    for repeat in range(MOST_STEPS):
        if repeat > 0:
            if not total - free > 0.0:
                return np.nan, total
            square = chi / (total - free) * CUT * CUT
            for k in range(y.size):
                part = 1.0 - (y[k] - fit[k]) ** 2 / square
                robust[k] = weights[k] * part * part if part > 0.0 else 0.0
        total = robust.sum()
        if fixed:
            new = _fit_amplitudes(x, y, robust, m, p, tolerance, design, fit, work)
        else:
            new = _fit_all(x, y, robust, m, p, tolerance, design, fit, work)
        if not new > 0.0:
            return np.nan, total
        if repeat > 0 and abs(chi - new) <= max(tolerance * max(1.0, new), CONVERGED * new):
            return new, total
        chi = new
    return chi, total


@njit(cache=True, nogil=True)
def log_evidence(chi, total, n_parameter, log_det, prior_range):
    """Return log10 of the evidence in Gaussian approximation, -inf where there are no degrees of freedom."""
    freedom = total - n_parameter
    if not freedom > 0.0 or not chi > 0.0:
        return -np.inf
    variance = chi / freedom
    found = -0.5 * (total * math.log(2.0 * math.pi * variance) + freedom)
    found += 0.5 * math.log(math.pi * freedom) - SCALE_RANGE
    if n_parameter > 0:
        found -= math.log(SCALE_RANGE) + n_parameter * math.log(prior_range)
        found += 0.5 * (n_parameter * math.log(2.0 * math.pi * variance) - log_det)
    return found / math.log(10.0)


@njit(cache=True, nogil=True, fastmath=True)
def floating_power(x, y, frequency, cosine, sine):
    """Return the power of a periodogram with floating mean (Zechmeister & Kuerster 2009), times sum y^2 / n.

    y : mean 0.
    """
    fill_waves(x, frequency, cosine, sine)
    c = s = cc = cs = yc = ys = 0.0
    n = x.size
    for k in range(n):
        u, v, w = cosine[k], sine[k], y[k]
        c += u
        s += v
        cc += u * u
        cs += u * v
        yc += w * u
        ys += w * v
    c, s, cc, cs, yc, ys = c / n, s / n, cc / n, cs / n, yc / n, ys / n
    ss = 1.0 - cc - s * s
    cc -= c * c
    cs -= c * s
    det = cc * ss - cs * cs
    return (ss * yc * yc + cc * ys * ys - 2.0 * cs * yc * ys) / det if det > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _climb(x, y, first, step, count, j, cosine, sine):
    """Return (place, power) of the maximum of the power on the grid of periods that is uphill of place j."""
    j = min(max(j, 0), count - 1)
    here = floating_power(x, y, 1.0 / (first + step * j), cosine, sine)
    for direction in (1, -1):
        moved = False
        while 0 <= j + direction < count:
            there = floating_power(x, y, 1.0 / (first + step * (j + direction)), cosine, sine)
            if there <= here:
                break
            j, here, moved = j + direction, there, True
        if moved:
            break
    return j, here


@njit(cache=True, nogil=True)
def strongest_period(x, y, first, step, count):
    """Return the period first + step * j, j < count, of the largest power with floating mean.

    Where the grid is finer than a peak, the maxima of a quick periodogram are climbed; else all periods are tried.
    """
    n = x.size
    centred = y - y.mean()
    cosine, sine = np.empty(n), np.empty(n)
    span = abs(x[n - 1] - x[0])
    best, place = -1.0, 0
    if step > 0.2 * first**2 / span:
        for j in range(count):
            power = floating_power(x, centred, 1.0 / (first + step * j), cosine, sine)
            if power > best:
                best, place = power, j
        return first + step * place
    low, high = 1.0 / (first + step * (count - 1)), 1.0 / first
    size = 1.0 / (4.0 * span)
    power = np.zeros(int((high - low) / size) + 2)
    add_power(x, centred, np.ones(n), low, size, power)
    least = 0.7 * power.max()
    last = power.size - 1
    for j in range(power.size):
        if power[j] < least or (j > 0 and power[j] < power[j - 1]) or (j < last and power[j] < power[j + 1]):
            continue
        shift = 0.0
        if 0 < j < last:
            bend = power[j - 1] - 2.0 * power[j] + power[j + 1]
            shift = 0.5 * (power[j - 1] - power[j + 1]) / bend if bend < 0.0 else 0.0
        at = round((1.0 / (low + size * (j + shift)) - first) / step)
        found, value = _climb(x, centred, first, step, count, at, cosine, sine)
        if value > best:
            best, place = value, found
    return first + step * place


@njit(cache=True, nogil=True)
def fit_fringes(x, y, weights, first, step, count, most, prior_range, tolerance, out):
    """Fit sines one after the other while each raises the evidence by more than a factor of 10.

    Parameters
    ----------
    x, y, weights : (n)
        Wavenumber over its minimum, what is left of the continuum, weights (below 1e-5: not searched for periods).
    first, step, count
        Grid of periods to start from, in units of x.
    most : int
        Largest number of sines.
    prior_range : float
        The prior of each parameter in the evidence is flat over it.
    tolerance : float
        A fit ends where chi2 changes by less, by that share where chi2 is above 1; jwst: 1e-4.
    out : (n)
        Filled with the sum.

    Returns
    -------
    n_sines, frequencies [1 / unit of x] of the fit
    """
    n = x.size
    out[:] = 0.0
    seen = weights > 1e-5
    p, start, best_p = np.zeros(3 * most), np.ones(most), np.zeros(3 * most)
    design, fit, work, robust = np.empty((3 * most, n)), np.empty(n), np.empty(n), np.empty(n)
    # the model without fringes is a constant of one, unweighted but for the number of samples: sine one always wins
    best = log_evidence(np.sum((y - 1.0) ** 2), weights.sum(), 0, 0.0, prior_range)
    done = 0
    for m in range(1, most + 1):
        if seen.sum() < 5:
            break
        start[m - 1] = 1.0 / strongest_period(x[seen], (y - out)[seen], first, step, count)
        for i in range(m):
            p[3 * i], p[3 * i + 1], p[3 * i + 2] = start[i], 1.0, 1.0
        chi, _ = _fit_robustly(x, y, weights, m, p, True, tolerance, design, fit, work, robust)
        if chi != chi:
            break
        chi, total = _fit_robustly(x, y, weights, m, p, False, tolerance, design, fit, work, robust)
        if chi != chi:
            break
        hessian = np.empty((3 * m, 3 * m))
        _products(design, np.arange(3 * m), robust, work, hessian)
        sign, log_det = eliminate(hessian, 3 * m, np.zeros(3 * m))
        found = log_evidence(chi, total, 3 * m, log_det, prior_range) if sign > 0.0 else -np.inf
        if not found - best > 1.0:
            break
        best, done = found, m
        best_p[: 3 * m] = p[: 3 * m]
        out[:] = fit
    return done, best_p[0 : 3 * done : 3].copy()
