"""Kernels of a point source in smooth light: cubic B-splines in wavelength, smooth light as splines over the field.

The light of a pixel is star(s) profile + sum_m host_m(s) B_m(x, y): s counts samples of wavelength; x, y in -1 ... 1
over the box around the source. The unknowns of a sample stand together: the star, then ``(n + degree)^2`` of the host.
"""

import math

import numpy as np

from mrsxr.compiled import njit

from ._trace_kernels import cubic


@njit(cache=True, nogil=True)
def _low(x, n, degree, weights):
    """Fill the ``degree + 1`` B-splines (1, 2) not zero at x in -1 ... 1, of n intervals; return the first."""
    t = min(max(0.5 * (x + 1.0) * n, 0.0), n - 1e-9)
    first = math.floor(t)
    s = t - first
    if degree == 1:
        weights[0], weights[1] = 1 - s, s
    else:
        weights[0], weights[1], weights[2] = 0.5 * (1 - s) ** 2, 0.5 + s - s * s, 0.5 * s * s
    return first


@njit(cache=True, nogil=True)
def _row(profile, x, y, degree, n, a, b, values, where):
    """Fill values and numbers of the unknowns of one sample that reach a pixel; return how many."""
    i, j = _low(x, n, degree, a), _low(y, n, degree, b)
    values[0], where[0], count = profile, 0, 1
    for k in range(degree + 1):
        for m in range(degree + 1):
            values[count] = a[k] * b[m]
            where[count] = 1 + (i + k) * (n + degree) + j + m
            count += 1
    return count


@njit(cache=True, nogil=True)
def light_equations(sample, profile, x, y, degree, n, flux, weight, band, right):
    """Add pixels to the banded equations of star and host.

    Parameters
    ----------
    sample, profile, x, y, flux, weight : float64 (pixel)
    degree, n : int
    band : float64 (4 wide, size), changed
        Lower form of ``scipy.linalg.solveh_banded``; ``wide`` unknowns a sample.
    right : float64 (size), changed
    """
    a, b, c = np.empty(3), np.empty(3), np.empty(4)
    values, where = np.empty(10), np.empty(10, np.int64)
    row, column = np.empty(40), np.empty(40, np.int64)
    wide = 1 + (n + degree) ** 2
    for p in range(sample.size):
        if not weight[p] > 0:
            continue
        k = cubic(sample[p], c)
        count = _row(profile[p], x[p], y[p], degree, n, a, b, values, where)
        total = 0
        for q in range(4):
            for m in range(count):
                row[total] = c[q] * values[m]
                column[total] = (k + q) * wide + where[m]
                total += 1
        for m in range(total):
            w = weight[p] * row[m]
            right[column[m]] += w * flux[p]
            for q in range(m + 1):
                band[column[m] - column[q], column[q]] += w * row[q]


@njit(cache=True, nogil=True)
def light_at(sample, x, y, degree, n, found, star, host):
    """Fill star and host at pixels; ``found`` (sample, unknown)."""
    a, b, c = np.empty(3), np.empty(3), np.empty(4)
    values, where = np.empty(10), np.empty(10, np.int64)
    for p in range(sample.size):
        k = cubic(sample[p], c)
        count = _row(1.0, x[p], y[p], degree, n, a, b, values, where)
        star[p], host[p] = 0.0, 0.0
        for q in range(4):
            star[p] += c[q] * found[k + q, 0]
            for m in range(1, count):
                host[p] += c[q] * values[m] * found[k + q, where[m]]


@njit(cache=True, nogil=True)
def host_splines(x, y, degree, n, out):
    """Fill the splines of the host at pixels, (pixel, spline)."""
    a, b = np.empty(3), np.empty(3)
    values, where = np.empty(10), np.empty(10, np.int64)
    for p in range(x.size):
        count = _row(1.0, x[p], y[p], degree, n, a, b, values, where)
        for m in range(1, count):
            out[p, where[m] - 1] = values[m]


@njit(cache=True, nogil=True)
def host_sums(number, x, y, degree, n, rest, weight, top, bottom):
    """Add what is left of pixels to sums over each spline of the host at the sample that each pixel is nearest to.

    Parameters
    ----------
    number : int64 (pixel)
    x, y, rest, weight : float64 (pixel)
    top, bottom : float64 (sample, unknown), changed
        Weighted sums of rest times spline, and of the square of the spline.
    """
    a, b = np.empty(3), np.empty(3)
    values, where = np.empty(10), np.empty(10, np.int64)
    for p in range(number.size):
        count = _row(1.0, x[p], y[p], degree, n, a, b, values, where)
        for m in range(1, count):
            top[number[p], where[m] - 1] += weight[p] * rest[p] * values[m]
            bottom[number[p], where[m] - 1] += weight[p] * values[m] * values[m]


@njit(cache=True, nogil=True)
def _splines(u, v, reach, knot, a, b):
    """Fill the splines over the profile at a place; return the numbers of the first, -1 outside."""
    if not (abs(u) < reach and abs(v) < reach):
        return -1, -1
    return cubic((u + reach) / knot, a), cubic((v + reach) / knot, b)


@njit(cache=True, nogil=True)
def correction_at(u, v, node, c, reach, knot, out):
    """Fill sum_ij c_ij B_i(u) B_j(v), linear in wavelength between nodes; 0 outside of ``reach``."""
    a, b = np.empty(4), np.empty(4)
    for p in range(u.size):
        out[p] = 0.0
        i, j = _splines(u[p], v[p], reach, knot, a, b)
        if i < 0:
            continue
        k = min(max(int(node[p]), 0), c.shape[0] - 2)
        share = min(max(node[p] - k, 0.0), 1.0)
        for m in range(4):
            for n in range(4):
                value = (1 - share) * c[k, i + m, j + n] + share * c[k + 1, i + m, j + n]
                out[p] += a[m] * b[n] * value


@njit(cache=True, nogil=True)
def correction_equations(u, v, node, scale, x, y, degree, n, rest, weight, reach, knot, normal, right):
    """Add pixels to the equations of profile and host at each node, weighted by how near they are.

    Parameters
    ----------
    u, v, node : float64 (pixel)
    scale : float64 (pixel)
        What a unit of the correction gives.
    x, y, degree, n
        As of :func:`light_equations`.
    rest : float64 (pixel)
        Flux less all else.
    weight : float64 (pixel)
    reach, knot : float
    normal, right : float64 (node, m, m), (node, m), changed
        Upper triangle; first the splines of the profile, then those of the host.
    """
    a, b = np.empty(4), np.empty(4)
    value, where = np.empty(26), np.empty(26, np.int64)
    low, high, values, places = np.empty(3), np.empty(3), np.empty(10), np.empty(10, np.int64)
    n_spline = round(2 * reach / knot) + 3
    for p in range(u.size):
        if not weight[p] > 0:
            continue
        i, j = _splines(u[p], v[p], reach, knot, a, b)
        if i < 0:
            continue
        for m in range(4):
            for q in range(4):
                value[4 * m + q] = scale[p] * a[m] * b[q]
                where[4 * m + q] = (i + m) * n_spline + j + q
        count = _row(0.0, x[p], y[p], degree, n, low, high, values, places)
        for m in range(1, count):
            value[15 + m], where[15 + m] = values[m], n_spline**2 - 1 + places[m]
        for k in range(right.shape[0]):
            near = weight[p] * (1 - abs(node[p] - k))
            if near > 0:
                for m in range(15 + count):
                    w = near * value[m]
                    right[k, where[m]] += w * rest[p]
                    for q in range(m, 15 + count):
                        normal[k, where[m], where[q]] += w * value[q]
