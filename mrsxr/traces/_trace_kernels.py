"""Kernels of point sources in smooth light: cubic B-splines in wavelength, smooth light as splines over the field.

The light of a pixel is sum_k star_k(s) profile_k + sum_m host_m(s) B_m(x, y): s counts samples of wavelength; x, y in
-1 ... 1 over the box around the sources. The unknowns of a sample stand together: the stars, then ``(n + degree)^2`` of
the host. All stars have one profile, corrected by B-splines of the place from each. Simpler, in
:func:`spectrum_equations`: stars, linear between samples, and a plane of light around them.
"""

import math

import numpy as np

from mrsxr._solve_kernels import cholesky
from mrsxr.compiled import Array, njit, read_only

_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)


@njit(cache=True, nogil=True)
def cubic(t, weights):
    """Fill the four cubic B-splines that are not zero at t, counted in knots; return the number of the first."""
    first = math.floor(t)
    s = t - first
    weights[0] = (1 - s) ** 3 / 6
    weights[1] = (3 * s**3 - 6 * s**2 + 4) / 6
    weights[2] = (-3 * s**3 + 3 * s**2 + 3 * s + 1) / 6
    weights[3] = s**3 / 6
    return first


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
def _host(x, y, degree, n, a, b, values, where, count, first):
    """Append the splines of the host that reach a pixel, numbered from ``first``; return how many there are then."""
    if n == 0:
        return count
    i, j = _low(x, n, degree, a), _low(y, n, degree, b)
    for k in range(degree + 1):
        for m in range(degree + 1):
            values[count] = a[k] * b[m]
            where[count] = first + (i + k) * (n + degree) + j + m
            count += 1
    return count


@njit(cache=True, nogil=True)
def light_equations(
    sample: Array, profile: Array, x: Array, y: Array, degree: int, n: int, flux: Array, weight: Array, band: Array,
    right: Array,
) -> None:  # fmt: skip
    """Add pixels to the banded equations of stars and host.

    Parameters
    ----------
    sample, x, y, flux, weight : float64 (pixel)
    profile : float64 (star, pixel)
    degree, n : int
    band : float64 (4 wide, size), changed
        Lower form of ``scipy.linalg.solveh_banded``; ``wide`` unknowns a sample.
    right : float64 (size), changed
    """
    stars = profile.shape[0]
    a, b, c = np.empty(3), np.empty(3), np.empty(4)
    values, where = np.empty(stars + 9), np.arange(stars + 9)
    row, column = np.empty(4 * stars + 36), np.empty(4 * stars + 36, np.int64)
    wide, size, flat = stars + (n + degree) ** 2, right.size, band.reshape(-1)
    for p in range(sample.size):
        if not weight[p] > 0:
            continue
        k = cubic(sample[p], c)
        for s in range(stars):
            values[s] = profile[s, p]
        count = _host(x[p], y[p], degree, n, a, b, values, where, stars, stars)
        total = 0
        for q in range(4):
            for m in range(count):
                row[total] = c[q] * values[m]
                column[total] = (k + q) * wide + where[m]
                total += 1
        for m in range(total):
            w, at = weight[p] * row[m], column[m]
            right[np.uint64(at)] += w * flux[p]
            for q in range(m + 1):
                flat[np.uint64((at - column[q]) * size + column[q])] += w * row[q]


@njit(cache=True, nogil=True)
def light_at(sample: Array, x: Array, y: Array, degree: int, n: int, found: Array, stars: Array, host: Array) -> None:
    """Fill stars (star, pixel) and host at pixels; ``found`` (sample, unknown)."""
    a, b, c = np.empty(3), np.empty(3), np.empty(4)
    values, where = np.empty(9), np.empty(9, np.int64)
    for p in range(sample.size):
        k = cubic(sample[p], c)
        count = _host(x[p], y[p], degree, n, a, b, values, where, 0, stars.shape[0])
        host[p] = 0.0
        stars[:, p] = 0.0
        for q in range(4):
            for s in range(stars.shape[0]):
                stars[s, p] += c[q] * found[k + q, s]
            for m in range(count):
                host[p] += c[q] * values[m] * found[k + q, where[m]]


@njit(cache=True, nogil=True)
def host_splines(x: Array, y: Array, degree: int, n: int, out: Array) -> None:
    """Fill the splines of the host at pixels, (pixel, spline)."""
    a, b = np.empty(3), np.empty(3)
    values, where = np.empty(9), np.empty(9, np.int64)
    for p in range(x.size):
        for m in range(_host(x[p], y[p], degree, n, a, b, values, where, 0, 0)):
            out[p, where[m]] = values[m]


@njit(cache=True, nogil=True)
def host_sums(
    number: Array, x: Array, y: Array, degree: int, n: int, rest: Array, weight: Array, top: Array, bottom: Array
) -> None:
    """Add what is left of pixels to sums over each spline of the host at the sample that each pixel is nearest to.

    Parameters
    ----------
    number : int64 (pixel)
    x, y, rest, weight : float64 (pixel)
    top, bottom : float64 (sample, spline), changed
        Weighted sums of rest times spline, and of the square of the spline.
    """
    a, b = np.empty(3), np.empty(3)
    values, where = np.empty(9), np.empty(9, np.int64)
    for p in range(number.size):
        for m in range(_host(x[p], y[p], degree, n, a, b, values, where, 0, 0)):
            top[number[p], where[m]] += weight[p] * rest[p] * values[m]
            bottom[number[p], where[m]] += weight[p] * values[m] * values[m]


@njit(cache=True, nogil=True)
def _splines(u, v, reach, knot, a, b):
    """Fill the splines over the profile at a place; return the numbers of the first, -1 outside."""
    if not (abs(u) < reach and abs(v) < reach):
        return -1, -1
    return cubic((u + reach) / knot, a), cubic((v + reach) / knot, b)


@njit(cache=True, nogil=True)
def correction_at(u: Array, v: Array, node: Array, c: Array, reach: float, knot: float, out: Array) -> None:
    """Fill sum_ij c_ij B_i(u) B_j(v), linear in wavelength between nodes; 0 outside of ``reach``."""
    a, b = np.empty(4), np.empty(4)
    for p in range(u.size):
        out[p] = 0.0
        i, j = _splines(u[p], v[p], reach, knot, a, b)
        if i < 0:
            continue
        k = min(max(int(node[p]), 0), max(c.shape[0] - 2, 0))
        share = min(max(node[p] - k, 0.0), 1.0) if c.shape[0] > 1 else 0.0
        low, high, total = c[k], c[k + 1] if share > 0 else c[k], 0.0
        for m in range(4):
            for n in range(4):
                value = (1 - share) * low[i + m, j + n] + share * high[i + m, j + n]
                total += a[m] * b[n] * value
        out[p] = total


@njit(cache=True, nogil=True, forceinline=True)
def _add_four(flat, at, w, v0, v1, v2, v3):
    """Add a multiple of four values to four places: all are read before one is written, so that they go as one."""
    to = np.uint64(at)  # never counted from the end
    a, b, c, d = flat[to], flat[to + _ONE], flat[to + _TWO], flat[to + _THREE]
    flat[to], flat[to + _ONE], flat[to + _TWO], flat[to + _THREE] = a + w * v0, b + w * v1, c + w * v2, d + w * v3


@njit(cache=True, nogil=True, forceinline=True)
def _add_star(value, star, first, n_spline, rest, weight, node, flat, right):
    """Add the splines of one star, four by four from number ``first``, to those of a node, of the lower triangle too.

    ``value`` from place ``star`` on. ``flat`` are the normal equations of all nodes.
    """
    size = right.shape[1]
    for m in range(4):
        for n in range(4):
            at, w = first + m * n_spline + n, weight * value[np.uint64(star + 4 * m + n)]
            right[node, at] += w * rest
            row = (node * size + at) * size + first
            for k in range(m, 4):
                q = np.uint64(star + 4 * k)
                v0, v1, v2, v3 = value[q], value[q + _ONE], value[q + _TWO], value[q + _THREE]
                _add_four(flat, row + k * n_spline, w, v0, v1, v2, v3)


@njit(cache=True, nogil=True, forceinline=True)
def _add_crossed(value, where, star, seen, weight, normal):
    """Add the products of one star with those after it, upper triangle; one that stands twice counts as both."""
    for m in range(star, star + 16):
        w = weight * value[m]
        for q in range(star + 16, seen):
            first, last = min(where[m], where[q]), max(where[m], where[q])
            normal[np.uint64(first), np.uint64(last)] += w * value[q] * (2.0 if first == last else 1.0)


@njit(cache=True, nogil=True, forceinline=True)
def _add_further(value, where, seen, count, rest, weight, normal, right):
    """Add what follows the splines of the stars, upper triangle: their numbers are larger and rise."""
    for m in range(count):
        w, row = weight * value[m], normal[np.uint64(where[m])]
        for q in range(max(m, seen), count):
            row[np.uint64(where[q])] += w * value[q]
        if m >= seen:
            right[np.uint64(where[m])] += w * rest


@njit(cache=True, nogil=True, forceinline=True)
def _add_pixel(value, where, seen, count, n_spline, rest, weight, node, normal, flat, right):
    """Add a pixel to the equations of a node, ``normal``; the first ``seen`` unknowns are splines of stars."""
    for star in range(0, seen, 16):
        _add_star(value, star, where[star], n_spline, rest, weight, node, flat, right)
        if star + 16 < seen:
            _add_crossed(value, where, star, seen, weight, normal)
    if count > seen:
        _add_further(value, where, seen, count, rest, weight, normal, right[node])


@njit(cache=True, nogil=True)
def _correction_equations(u, v, node, scale, x, y, more, rest, weight, degree, n, reach, knot, normal, right):
    stars = u.shape[0]
    a, b, low, high = np.empty(4), np.empty(4), np.empty(3), np.empty(3)
    size = 16 * stars + 9 + more.shape[0]
    value, where = np.empty(size), np.empty(size, np.int64)
    n_spline, flat = round(2 * reach / knot) + 3, normal.reshape(-1)
    for p in range(node.size):
        if not weight[p] > 0:
            continue
        count = 0
        for s in range(stars):
            i, j = _splines(u[s, p], v[s, p], reach, knot, a, b)
            if i < 0:
                continue
            for m in range(4):
                for q in range(4):
                    value[count] = scale[s, p] * a[m] * b[q]
                    where[count] = (i + m) * n_spline + j + q
                    count += 1
        seen = count
        if seen == 0:
            continue
        count = _host(x[p], y[p], degree, n, low, high, value, where, count, n_spline**2)
        for m in range(more.shape[0]):
            value[count], where[count] = more[m, p], right.shape[1] - more.shape[0] + m
            count += 1
        for k in range(right.shape[0]):
            near = weight[p] * (1 - abs(node[p] - k))
            if near > 0:
                _add_pixel(value, where, seen, count, n_spline, rest[p], near, k, normal[k], flat, right)


def correction_equations(
    u: Array, v: Array, node: Array, scale: Array, x: Array, y: Array, degree: int, n: int, more: Array, rest: Array,
    weight: Array, reach: float, knot: float, normal: Array, right: Array,
) -> None:  # fmt: skip
    """Add pixels to the equations of profile and host at each node, weighted by how near they are.

    Parameters
    ----------
    u, v, scale : float64 (star, pixel)
        Places from the stars, and what a unit of the correction gives.
    node : float64 (pixel)
    x, y, degree, n
        As of :func:`light_equations`; no host where n is 0.
    more : float64 (unknown, pixel)
        What further unknowns give.
    rest : float64 (pixel)
        Flux less all else.
    weight : float64 (pixel)
    reach, knot : float
    normal, right : float64 (node, m, m), (node, m), changed
        The upper triangle counts; first the splines of the profile, then those of the host, then what is more.
    """
    _correction_equations(
        *read_only(u, v, node, scale, x, y, more, rest, weight), degree, n, reach, knot, normal, right
    )  # fmt: skip


@njit(cache=True, nogil=True)
def correction_sums(
    u: Array, v: Array, scale: Array, other: Array, number: Array, weight: Array, reach: float, knot: float,
    cross: Array, small: Array,
) -> None:  # fmt: skip
    """Add pixels to sums over samples of the products of other unknowns with the profile's and with each other.

    Parameters
    ----------
    u, v, scale : float64 (star, pixel)
        As of :func:`correction_equations`.
    other : float64 (unknown, pixel)
        What a unit of each other unknown gives.
    number : int64 (pixel)
        The sample of each pixel.
    weight : float64 (pixel)
    reach, knot : float
    cross, small : float64 (sample, unknown, spline), (sample, unknown, unknown), changed
    """
    a, b, n_other, size = np.empty(4), np.empty(4), other.shape[0], cross.shape[2]
    n_spline, mine, flat = round(2 * reach / knot) + 3, np.empty(n_other), cross.reshape(-1)
    for p in range(number.size):
        if not weight[p] > 0:
            continue
        k = number[p]
        for m in range(n_other):
            mine[m] = other[m, p]
        for m in range(n_other):
            w = weight[p] * mine[m]
            for q in range(n_other):
                small[k, m, q] += w * mine[q]
        for s in range(u.shape[0]):
            i, j = _splines(u[s, p], v[s, p], reach, knot, a, b)
            if i < 0:
                continue
            b0, b1, b2, b3 = b[0], b[1], b[2], b[3]
            for m in range(n_other):
                w, at = weight[p] * scale[s, p] * mine[m], (k * n_other + m) * size + i * n_spline + j
                for q in range(4):
                    _add_four(flat, at + q * n_spline, w * a[q], b0, b1, b2, b3)


@njit(cache=True, nogil=True, error_model="numpy")
def take_up(lit: Array, cross: Array, small: Array, ridge: Array, out: Array) -> None:
    """Fill out (sample, free, spline + others) with what the first unknowns of samples, the free ones, take up.

    Its products are what is to be taken from the equations of splines and others: of each sample L^-1 (cross, small),
    L the Cholesky factor of the equations of the free unknowns.

    Parameters
    ----------
    lit : int64 (sample)
        The samples that are taken.
    cross, small : float64
        As of :func:`correction_sums`.
    ridge : float64 (free)
        Added to the equations of each free unknown.
    out : float64, changed
    """
    free, splines = ridge.size, cross.shape[2]
    factor = np.empty((free, free))
    for g in range(lit.size):
        k = lit[g]
        factor[:] = small[k, :free, :free]
        for i in range(free):
            factor[i, i] += ridge[i]
        if not cholesky(factor, free, 0.0):
            out[g] = np.nan
            continue
        for i in range(free):
            for c in range(splines):
                out[g, i, c] = cross[k, i, c]
            for c in range(free, small.shape[1]):
                out[g, i, splines + c - free] = small[k, i, c]
            for j in range(i):
                f = factor[i, j]
                for c in range(out.shape[2]):
                    out[g, i, c] -= f * out[g, j, c]
            f = 1.0 / factor[i, i]
            for c in range(out.shape[2]):
                out[g, i, c] *= f


@njit(cache=True, nogil=True)
def spectrum_equations(
    place: Array, profile: Array, along: Array, across: Array, flux: Array, weight: Array, band: Array, right: Array
) -> None:
    """Add the pixels of one exposure to the banded equations of its spectra, linear between nodes a pixel apart.

    The ``wide`` unknowns of a node are the stars, and a level and two slopes of the light around them.

    Parameters
    ----------
    place : float64 (pixel)
        Fractional number of the node of the wavelength of each pixel.
    profile : float64 (star, pixel)
        What a unit of each star gives.
    along, across : float64 (pixel)
        The same of the slopes.
    flux, weight : float64 (pixel)
    band : float64 (2 wide, wide nodes), changed
        Lower form of ``scipy.linalg.solveh_banded``.
    right : float64 (wide nodes), changed
    """
    stars = profile.shape[0]
    wide = stars + 3
    row = np.empty(2 * wide)
    n_nodes = right.size // wide
    for p in range(place.size):
        if not weight[p] > 0:
            continue
        k = min(max(int(place[p]), 0), n_nodes - 2)
        share = min(max(place[p] - k, 0.0), 1.0)
        for side in range(2):
            part = share if side else 1 - share
            for s in range(stars):
                row[side * wide + s] = part * profile[s, p]
            row[side * wide + stars] = part
            row[side * wide + stars + 1] = part * along[p]
            row[side * wide + stars + 2] = part * across[p]
        for m in range(2 * wide):
            w = weight[p] * row[m]
            right[k * wide + m] += w * flux[p]
            for n in range(m + 1):
                band[m - n, k * wide + n] += w * row[n]
