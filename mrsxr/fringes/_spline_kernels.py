"""Kernels of the continuum below fringes: envelopes, features to leave out, knots and weighted splines.

All work on one column of n samples, sorted by rising wavenumber; weights 0 mean "leave out".
"""

import math

import numpy as np

from mrsxr.compiled import njit


@njit(cache=True, nogil=True)
def _pchip_slopes(x, y, n, slope):
    """Fill the slopes of the monotone cubic through n points (Fritsch & Butland 1984, as scipy's pchip)."""
    if n == 2:
        slope[0] = slope[1] = (y[1] - y[0]) / (x[1] - x[0])
        return
    for i in range(1, n - 1):
        h0, h1 = x[i] - x[i - 1], x[i + 1] - x[i]
        d0, d1 = (y[i] - y[i - 1]) / h0, (y[i + 1] - y[i]) / h1
        if d0 * d1 <= 0.0:
            slope[i] = 0.0
        else:
            w0, w1 = 2.0 * h1 + h0, h1 + 2.0 * h0
            slope[i] = (w0 + w1) / (w0 / d0 + w1 / d1)
    for edge, inner, second in ((0, 1, 2), (n - 1, n - 2, n - 3)):
        h0, h1 = abs(x[inner] - x[edge]), abs(x[second] - x[inner])
        d0 = (y[inner] - y[edge]) / (x[inner] - x[edge])
        d1 = (y[second] - y[inner]) / (x[second] - x[inner])
        value = ((2.0 * h0 + h1) * d0 - h0 * d1) / (h0 + h1)
        if value * d0 <= 0.0:
            value = 0.0
        elif d0 * d1 <= 0.0 and abs(value) > 3.0 * abs(d0):
            value = 3.0 * d0
        slope[edge] = value


@njit(cache=True, nogil=True)
def _pchip(x, y, n, out):
    """Fill out[x[0] ... x[n - 1]] with the monotone cubic through n points at whole numbers x."""
    slope = np.empty(n)
    _pchip_slopes(x, y, n, slope)
    for i in range(n - 1):
        first, last = int(x[i]), int(x[i + 1])
        h = x[i + 1] - x[i]
        for k in range(first, last + 1):
            t = (k - x[i]) / h
            s = 1.0 - t
            out[k] = (
                y[i] * (1.0 + 2.0 * t) * s * s
                + y[i + 1] * (1.0 + 2.0 * s) * t * t
                + h * (slope[i] * t * s * s - slope[i + 1] * s * t * t)
            )


@njit(cache=True, nogil=True)
def envelopes(signal, reach, lower, upper):
    """Fill the curves through the troughs and the peaks of a column; reach: neighbours to each side to compare."""
    n = signal.size
    x, y = np.empty((2, n)), np.empty((2, n))
    for side in range(2):
        sign = -1.0 if side == 0 else 1.0
        x[side, 0], y[side, 0] = 0.0, signal[0]
        count = 1
        for k in range(reach, n - reach):
            extreme = True
            for step in range(1, reach + 1):
                if sign * (signal[k] - signal[k - step]) <= 0 or sign * (signal[k] - signal[k + step]) <= 0:
                    extreme = False
            if extreme:
                x[side, count], y[side, count] = k, signal[k]
                count += 1
        x[side, count], y[side, count] = n - 1, signal[n - 1]
        _pchip(x[side], y[side], count + 1, lower if side == 0 else upper)


@njit(cache=True, nogil=True)
def _nearest_two(places, count, at):
    """Return the two nearest of count sorted places, the lower first; the same twice where there is one."""
    j = np.searchsorted(places[:count], at)
    low, high = j - 1, j
    found = np.empty(2, dtype=np.int64)
    for i in range(2):
        take_high = low < 0 or (high < count and places[high] - at < at - places[low])
        if take_high and high >= count:
            found[i] = found[0]
        elif take_high:
            found[i] = places[high]
            high += 1
        else:
            found[i] = places[low]
            low -= 1
    return min(found[0], found[1]), max(found[0], found[1])


@njit(cache=True, nogil=True)
def mask_tall_features(signal, limit, keep):
    """Set keep False between the troughs around peaks of the signal above the limit, and above twice the limit."""
    n = signal.size
    peaks, troughs = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    n_peak = n_trough = 0
    for k in range(1, n - 1):
        before, here, after = signal[k - 1], signal[k], signal[k + 1]
        if abs(before) <= 1e-8 and abs(here) <= 1e-8 and abs(after) <= 1e-8:
            continue
        if here > before and here > after:
            peaks[n_peak] = k
            n_peak += 1
        if here < before and here < after:
            troughs[n_trough] = k
            n_trough += 1
    for p in range(n_peak if n_trough > 0 else 0):
        k = peaks[p]
        if signal[k] > limit[k]:
            for at in range(k - 1, k + 2):
                low, high = _nearest_two(troughs, n_trough, at)
                for i in range(low, high):
                    keep[i] = False
    for k in range(n):
        if signal[k] > 2.0 * limit[k]:
            keep[k] = False


@njit(cache=True, nogil=True)
def choose_knots(n, n_knots, weights):
    """Return the samples at which knots stand: evenly spread, and at both sides of gaps in the weights."""
    here = np.zeros(n, dtype=np.bool_)
    step = n / n_knots
    last = (n - 1) - round((n_knots - 1) * step)
    here[0] = here[n - 1] = True
    for i in range(n_knots):
        here[min(max(int(i * step + 0.5 * last), 0), n - 1)] = True
    even = here.copy()
    for k in range(n - 1):
        big, small = max(weights[k], weights[k + 1]), min(weights[k], weights[k + 1])
        if big > 1e-3 and small <= 0.1 * big:
            i = k if weights[k] >= weights[k + 1] else k + 1
            if not (i > 0 and even[i - 1]) and not (i < n - 1 and even[i + 1]):
                here[i] = True
    return np.nonzero(here)[0]


@njit(cache=True, nogil=True)
def spline_basis(x, knots, degree, first, basis):
    """Fill the B-splines of each sample and the number of the first one; return how many there are.

    x : rising samples; knots : rising, the ends among them; first (n), basis (n, degree + 1); degree 1 ... 3.
    """
    m = knots.size
    t = np.empty(m + 2 * degree)
    for i in range(degree):
        t[i], t[degree + m + i] = knots[0], knots[m - 1]
    t[degree : degree + m] = knots
    j = degree
    left, right = np.empty(4), np.empty(4)
    for k in range(x.size):
        while j < degree + m - 2 and x[k] >= t[j + 1]:
            j += 1
        first[k] = j - degree
        row = basis[k]
        row[0] = 1.0
        for d in range(1, degree + 1):
            left[d], right[d] = x[k] - t[j + 1 - d], t[j + d] - x[k]
            saved = 0.0
            for r in range(d):
                value = row[r] / (right[r + 1] + left[d - r])
                row[r] = saved + right[r + 1] * value
                saved = left[d - r] * value
            row[d] = saved
    return m + degree - 1


@njit(cache=True, nogil=True)
def fit_banded(y, weights, first, basis, n_coefficient, ridge, coefficient):
    """Solve a weighted spline fit by a banded Cholesky factor; ridge holds second differences of what has no data."""
    width = basis.shape[1]
    band = max(width, 3)
    a = np.zeros((n_coefficient, band))
    coefficient[:n_coefficient] = 0.0
    for k in range(y.size):
        w = weights[k]
        if w <= 0.0:
            continue
        for i in range(width):
            row = first[k] + i
            value = w * basis[k, i]
            coefficient[row] += value * y[k]
            for j in range(i, width):
                a[row, j - i] += value * basis[k, j]
    largest = a[:, 0].max()
    return largest > 0.0 and _solve_banded(a, n_coefficient, ridge * largest, coefficient)


@njit(cache=True, nogil=True)
def _solve_banded(a, n, stiff, b):
    """Solve (a + stiff x second differences) x = b in place; a (n, band) is an upper band; return whether it could."""
    band = a.shape[1]
    for i in range(n - 2):
        a[i, 0] += stiff
        a[i, 1] -= 2.0 * stiff
        a[i, 2] += stiff
        a[i + 1, 0] += 4.0 * stiff
        a[i + 1, 1] -= 2.0 * stiff
        a[i + 2, 0] += stiff
    for i in range(n):
        a[i, 0] += 1e-3 * stiff
        if a[i, 0] <= 0.0:
            return False
        a[i] /= math.sqrt(a[i, 0])
        for p in range(1, min(band, n - i)):
            for q in range(p, min(band, n - i)):
                a[i + p, q - p] -= a[i, p] * a[i, q]
    for i in range(n):
        b[i] /= a[i, 0]
        for p in range(1, min(band, n - i)):
            b[i + p] -= a[i, p] * b[i]
    for i in range(n - 1, -1, -1):
        for p in range(1, min(band, n - i)):
            b[i] -= a[i, p] * b[i + p]
        b[i] /= a[i, 0]
    return True


@njit(cache=True, nogil=True)
def evaluate(first, basis, coefficient, out):
    """Fill the values of a spline."""
    for k in range(out.size):
        value = 0.0
        for i in range(basis.shape[1]):
            value += basis[k, i] * coefficient[first[k] + i]
        out[k] = value


@njit(cache=True, nogil=True)
def fit_background(x, y, weights, knots, degree, robust, out):
    """Fill the spline continuum of a column; return whether it was found.

    weights multiply residuals (their squares enter the sums, as in FITPACK). robust: repeated fits with Tukey's
    biweight, cut at 10 sigma, until the sum of squares changes by less than 1e-4.
    """
    n = x.size
    first, basis = np.empty(n, dtype=np.int64), np.empty((n, degree + 1))
    coefficient = np.empty(knots.size + degree)
    count = spline_basis(x, knots, degree, first, basis)
    square = weights * weights
    if not fit_banded(y, square, first, basis, count, 1e-10, coefficient):
        return False
    evaluate(first, basis, coefficient, out)
    if not robust:
        return True
    freedom = max(weights.sum() - (knots.size - 2 + 2 * (degree + 1)), 1.0)
    chi = np.sum((y - out) ** 2 * weights)
    for _ in range(10):
        scale = 100.0 * chi / freedom
        new_chi = 0.0
        for k in range(n):
            part = 1.0 - (y[k] - out[k]) ** 2 / scale if scale > 0 else 1.0
            square[k] = (weights[k] * part * part) ** 2 if part > 0.0 else 0.0
        if not fit_banded(y, square, first, basis, count, 1e-10, coefficient):
            return False
        evaluate(first, basis, coefficient, out)
        for k in range(n):
            new_chi += (y[k] - out[k]) ** 2 * math.sqrt(square[k])
        if abs(new_chi - chi) < 1e-4 * max(1.0, new_chi):
            break
        chi = new_chi
    return True


@njit(cache=True, nogil=True)
def bridge(values, weights, least):
    """Replace the values at weights below ``least`` by straight lines between their neighbours; ends stay flat."""
    n = values.size
    last = -1
    for k in range(n):
        if weights[k] < least:
            continue
        for i in range(last + 1, k):
            if last < 0:
                values[i] = values[k]
            else:
                values[i] = values[last] + (values[k] - values[last]) * (i - last) / (k - last)
        last = k
    if last >= 0:
        for i in range(last + 1, n):
            values[i] = values[last]
