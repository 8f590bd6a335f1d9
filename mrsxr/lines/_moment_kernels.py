"""Kernels of continua and moments: a robust polynomial through the side bands of every spectrum, and sums over lines.

Arrays are (plane, spaxel); ``good`` marks voxels with data. Every spectrum is worked on alone.
"""

import math

import numpy as np

from mrsxr._clip_kernels import MAD_TO_SIGMA
from mrsxr._median_kernels import select
from mrsxr.compiled import Array, njit

from ._range_kernels import SURE, cut_to, find_line

ROUNDS = 12
_LAGS = 4
ROUNDING = 1e-9  # residuals below this part of the data are not clipped


@njit(cache=True, nogil=True)
def _invert(matrix, inverse, n):
    """Invert a small symmetric matrix by elimination with pivots; False where it is singular."""
    for i in range(n):
        for j in range(n):
            inverse[i, j] = 1.0 if i == j else 0.0
    for k in range(n):
        pivot = k
        for i in range(k + 1, n):
            if abs(matrix[i, k]) > abs(matrix[pivot, k]):
                pivot = i
        if abs(matrix[pivot, k]) < 1e-12 * abs(matrix[0, 0]) or matrix[pivot, k] == 0.0:
            return False
        for j in range(n):
            matrix[k, j], matrix[pivot, j] = matrix[pivot, j], matrix[k, j]
            inverse[k, j], inverse[pivot, j] = inverse[pivot, j], inverse[k, j]
        scale = 1.0 / matrix[k, k]
        for j in range(n):
            matrix[k, j] *= scale
            inverse[k, j] *= scale
        for i in range(n):
            if i != k:
                factor = matrix[i, k]
                for j in range(n):
                    matrix[i, j] -= factor * matrix[k, j]
                    inverse[i, j] -= factor * inverse[k, j]
    return True


@njit(cache=True, nogil=True)
def _polynomial(coefficients, n, t):
    total = 0.0
    for k in range(n - 1, -1, -1):
        total = total * t + coefficients[k]
    return total


@njit(cache=True, nogil=True)
def _least_squares(values, used, t, n, coefficients, inverse):
    """Fit a polynomial of n coefficients to the used values; return their number, 0 where it is impossible."""
    matrix, right = np.zeros((n, n)), np.zeros(n)
    count = 0
    for i in range(values.size):
        if used[i]:
            count += 1
            a = 1.0
            for j in range(n):
                right[j] += a * values[i]
                b = 1.0
                for k in range(n):
                    matrix[j, k] += a * b
                    b *= t[i]
                a *= t[i]
    if count <= n or not _invert(matrix, inverse, n):
        return 0
    for j in range(n):
        coefficients[j] = 0.0
        for k in range(n):
            coefficients[j] += inverse[j, k] * right[k]
    return count


@njit(cache=True, nogil=True)
def fit_continuum(values, good, side, t, n, clip, coefficients, inverse, used, work):
    """Fit the side bands, residuals above ``clip`` robust sigma left out; return how many are used, 0 for none.

    From round ROUNDS on what was left out stays out, so that it settles: a set of samples can take turns with another.
    """
    top = 0.0
    for i in range(values.size):
        used[i] = good[i] and side[i]
        if used[i]:
            top = max(top, abs(values[i]))
    for round_ in range(ROUNDS + values.size):
        count = _least_squares(values, used, t, n, coefficients, inverse)
        if count == 0 or clip <= 0.0:
            return count
        m = 0
        for i in range(values.size):
            if used[i]:
                work[m] = abs(values[i] - _polynomial(coefficients, n, t[i]))
                m += 1
        limit = clip * MAD_TO_SIGMA * select(work, m, m // 2) * math.sqrt(m / (m - n)) + ROUNDING * top
        changed = False
        for i in range(values.size):
            if good[i] and side[i]:
                keep = abs(values[i] - _polynomial(coefficients, n, t[i])) <= limit
                keep = keep and (used[i] or round_ < ROUNDS)
                changed = changed or keep != used[i]
                used[i] = keep
        if not changed:
            return count
    return _least_squares(values, used, t, n, coefficients, inverse)


@njit(cache=True, nogil=True)
def _correlation(rest, used, count):
    """Return 1 + 2 sum of the correlations of residuals with the next ones, up to the first that noise explains."""
    length, square = 1.0, 0.0
    for i in range(rest.size):
        if used[i]:
            square += rest[i] ** 2
    for lag in range(1, _LAGS + 1):
        total, pairs = 0.0, 0
        for i in range(rest.size - lag):
            if used[i] and used[i + lag]:
                total += rest[i] * rest[i + lag]
                pairs += 1
        if not (pairs > 0 and total > 2.0 * math.sqrt(pairs) / count * square):
            break
        length += 2.0 * total / pairs * count / square
    return length


@njit(cache=True, nogil=True)
def _noise(values, var, used, count, t, n, coefficients, inflate, residual, alike, rest, sigma2):
    """Fill the variance of every voxel; return (scale on the given errors, variance of side bands for smooth sums).

    Sums over many voxels err by 1 + 2 sum(alike) times the mean variance, ``alike``: correlations with the next ones.
    Where residuals are correlated over more, all variances are larger by that.

    ``residual``: the given variances are scaled so that their mean is the scatter around the continuum; where they
    are all zero the scatter itself is taken. As the scatter of few voxels is uncertain itself, variances are those of
    Student's distribution, f / (f - 2) larger for f degrees of freedom.
    """
    scatter, mean = 0.0, 0.0
    for i in range(values.size):
        rest[i] = values[i] - _polynomial(coefficients, n, t[i])
        if used[i]:
            scatter += rest[i] ** 2
            mean += var[i]
    scatter, mean = inflate * scatter / (count - n), mean / count
    scale = scatter / mean if mean > 0.0 else np.nan
    wider = (count - n) / max(count - n - 2.0, 1.0)
    length = 2.0 * alike.sum() - 1.0
    more = max(_correlation(rest, used, count) / length, 1.0)
    wider *= more
    for i in range(values.size):
        if not residual:
            sigma2[i] = more * var[i] if var[i] > 0.0 else np.nan
        elif mean > 0.0:
            sigma2[i] = wider * scale * var[i]
        else:
            sigma2[i] = wider * scatter
    return math.sqrt(scale), length * (wider * scatter if residual else (more * mean if mean > 0.0 else np.nan))


@njit(cache=True, nogil=True)
def _sum_variance(part, sigma2, alike):
    """Return the variance of sum(part x) of voxels x that are correlated with the next ones by ``alike`` (lag 0: 1)."""
    total = 0.0
    for i in range(part.size):
        if part[i] != 0.0:
            total += part[i] ** 2 * sigma2[i]
            for lag in range(1, min(alike.size, part.size - i)):
                if part[i + lag] != 0.0:
                    total += 2.0 * alike[lag] * part[i] * part[i + lag] * math.sqrt(sigma2[i] * sigma2[i + lag])
    return total


@njit(cache=True, nogil=True)
def _neighbours(good, i):
    """Return the nearest places with data below and above; -1 and the size where there is none."""
    low, high = i - 1, i + 1
    while low >= 0 and not good[low]:
        low -= 1
    while high < good.size and not good[high]:
        high += 1
    return low, high


@njit(cache=True, nogil=True)
def _bridge(share, good, out):
    """Hand the share of missing voxels to their neighbours with data, by distance; return the part missing."""
    total, missing = 0.0, 0.0
    for i in range(share.size):
        out[i] = 0.0
        total += share[i]
    for i in range(share.size):
        if share[i] == 0.0:
            continue
        if good[i]:
            out[i] += share[i]
            continue
        missing += share[i]
        low, high = _neighbours(good, i)
        if low >= 0 and high < share.size:
            part = (i - low) / (high - low)
            out[low] += share[i] * (1.0 - part)
            out[high] += share[i] * part
        elif low >= 0:
            out[low] += share[i]
        elif high < share.size:
            out[high] += share[i]
    return missing / total if total > 0.0 else 1.0


@njit(cache=True, nogil=True)
def _doubt(share, power, lines, good, out):
    """Fill the variance that bridged voxels bring, the light that was put there; return the sum."""
    total = 0.0
    for i in range(share.size):
        out[i] = 0.0
        if share[i] > 0.0 and not good[i]:
            low, high = _neighbours(good, i)
            light = 0.0
            if low >= 0 and high < share.size:
                light = lines[low] + (lines[high] - lines[low]) * (i - low) / (high - low)
            elif low >= 0:
                light = lines[low]
            elif high < share.size:
                light = lines[high]
            out[i] = (share[i] * power[i] * light) ** 2
            total += out[i]
    return total


@njit(cache=True, nogil=True)
def _quadratic(gradient, inverse, n, variance):
    total = 0.0
    for j in range(n):
        for k in range(n):
            total += gradient[j] * inverse[j, k] * gradient[k]
    return total * variance


@njit(cache=True, nogil=True)
def _coverage(good):
    count = 0
    for i in range(good.size):
        if good[i]:
            count += 1
    return count / good.size


@njit(cache=True, nogil=True)
def _copy_spectrum(flux, var, bad, j, values, noise, good):
    """Take one spectrum out of the block."""
    for i in range(values.size):
        values[i], noise[i] = flux[i, j], var[i, j]
        good[i] = not bad[i, j] and math.isfinite(values[i]) and math.isfinite(noise[i]) and noise[i] >= 0.0
        if not good[i]:
            values[i], noise[i] = 0.0, 0.0


@njit(cache=True, nogil=True)
def continua(
    flux: Array, var: Array, bad: Array, t: Array, side: Array, n: int, clip: float, inflate: float, residual: bool,
    least: float, alike: Array, out: Array,
) -> None:  # fmt: skip
    """Fill the continuum and its variance (2, plane, spaxel); NaN where less than ``least`` of the planes have data."""
    size = t.size
    values, noise, sigma2, work = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    good, used = np.empty(size, np.bool_), np.empty(size, np.bool_)
    coefficients, inverse, gradient = np.empty(n), np.empty((n, n)), np.empty(n)
    for j in range(flux.shape[1]):
        _copy_spectrum(flux, var, bad, j, values, noise, good)
        out[:, :, j] = np.nan
        if _coverage(good) < least:
            continue
        count = fit_continuum(values, good, side, t, n, clip, coefficients, inverse, used, work)
        if count == 0:
            continue
        _, level = _noise(values, noise, used, count, t, n, coefficients, inflate, residual, alike, work, sigma2)
        for i in range(size):
            gradient[0] = 1.0
            for k in range(1, n):
                gradient[k] = gradient[k - 1] * t[i]
            out[0, i, j] = _polynomial(coefficients, n, t[i])
            out[1, i, j] = _quadratic(gradient, inverse, n, level)


@njit(cache=True, nogil=True)
def channel_sums(
    flux: Array, var: Array, bad: Array, t: Array, side: Array, n: int, clip: float, inflate: float, residual: bool,
    least: float, alike: Array, shares: Array, power: Array, out: Array,
) -> None:  # fmt: skip
    """Fill sums over channels and their errors (2, channel, spaxel), the continuum taken off."""
    size = t.size
    values, noise, sigma2, work = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    good, used, share = np.empty(size, np.bool_), np.empty(size, np.bool_), np.empty(size)
    coefficients, inverse, gradient = np.empty(n), np.empty((n, n)), np.empty(n)
    for j in range(flux.shape[1]):
        _copy_spectrum(flux, var, bad, j, values, noise, good)
        out[:, :, j] = np.nan
        if _coverage(good) < least:
            continue
        count = fit_continuum(values, good, side, t, n, clip, coefficients, inverse, used, work)
        if count == 0:
            continue
        _, level = _noise(values, noise, used, count, t, n, coefficients, inflate, residual, alike, work, sigma2)
        for i in range(size):
            values[i] -= _polynomial(coefficients, n, t[i])
        for c in range(shares.shape[0]):
            if _bridge(shares[c], good, share) > 1.0 - least:
                continue
            total = 0.0
            gradient[:] = 0.0
            for i in range(size):
                share[i] *= power[i]
                if share[i] > 0.0:
                    total += share[i] * values[i]
                    for k in range(n):
                        gradient[k] += share[i] * t[i] ** k
            square = _sum_variance(share, sigma2, alike) + _doubt(shares[c], power, values, good, work)
            out[0, c, j] = total
            out[1, c, j] = math.sqrt(square + _quadratic(gradient, inverse, n, level))


@njit(cache=True, nogil=True)
def _central(lines, sigma2, weight, doubt, velocity, t, n, inverse, level, alike, out):
    """Fill mean velocity, its error, second central moment and its error from ``lines``, the light of the line."""
    out[:] = np.nan
    flux, first, count = 0.0, 0.0, 0
    size = lines.size
    for i in range(size):
        if weight[i] > 0.0:
            flux += weight[i] * lines[i]
            first += weight[i] * lines[i] * velocity[i]
            count += 1
    if count < 2 or not flux > 0.0:
        return
    mean = first / flux
    second = 0.0
    for i in range(size):
        second += weight[i] * lines[i] * (velocity[i] - mean) ** 2
    second /= flux
    var1, var2 = 0.0, 0.0
    grad1, grad2 = np.zeros(n), np.zeros(n)
    first_part, second_part = np.zeros(size), np.zeros(size)
    for i in range(size):
        var1 += doubt[i] * ((velocity[i] - mean) / flux) ** 2
        var2 += doubt[i] * (((velocity[i] - mean) ** 2 - second) / flux) ** 2
        if weight[i] > 0.0:
            a = weight[i] * (velocity[i] - mean) / flux
            b = weight[i] * ((velocity[i] - mean) ** 2 - second) / flux
            first_part[i], second_part[i] = a, b
            for k in range(n):
                grad1[k] += a * t[i] ** k
                grad2[k] += b * t[i] ** k
    var1 += _sum_variance(first_part, sigma2, alike)
    var2 += _sum_variance(second_part, sigma2, alike)
    out[0], out[1] = mean, math.sqrt(var1 + _quadratic(grad1, inverse, n, level))
    if count >= 3:
        out[2], out[3] = second, math.sqrt(var2 + _quadratic(grad2, inverse, n, level))


@njit(cache=True, nogil=True)
def _of_range(
    lines, sigma2, weight, doubt, speed, t, n, inverse, level, alike, shapes, gauss, threshold, out
):  # fmt: skip
    """Fill what :func:`_central` does of the planes that hold the line, NaN where it is fainter than ``threshold``.

    They reach as far as the Gaussian that fits best is seen; on either side farther by its sigma while the light there
    is sure.
    """
    out[:] = np.nan
    best, found, reach = find_line(lines, sigma2, weight, shapes, 2.0 * alike.sum() - 1.0)
    if best < 0 or not found >= threshold:
        return
    part, unsure, sigma = np.empty(lines.size), np.empty(lines.size), gauss[1, best]
    ends = np.empty(2)
    for side in range(2):
        sign = 2.0 * side - 1.0
        ends[side] = gauss[0, best] + sign * reach * sigma
        while True:  # each step leaves planes behind: it ends with the weights
            farther = ends[side] + sign * sigma
            cut_to(weight, speed[1], speed[2], min(ends[side], farther), max(ends[side], farther), part)
            light = 0.0
            for i in range(lines.size):
                light += part[i] * lines[i]
            if not light > SURE * math.sqrt(_sum_variance(part, sigma2, alike)):
                break
            ends[side] = farther
    cut_to(weight, speed[1], speed[2], ends[0], ends[1], part)
    cut_to(doubt, speed[1], speed[2], ends[0], ends[1], unsure)
    _central(lines, sigma2, part, unsure, speed[0], t, n, inverse, level, alike, out)


@njit(cache=True, nogil=True)
def line_moments(
    flux: Array, var: Array, bad: Array, t: Array, side: Array, n: int, clip: float, inflate: float, residual: bool,
    least: float, alike: Array, share: Array, power: Array, speed: Array, t_line: float, threshold: float,
    shapes: Array, gauss: Array, out: Array,
) -> None:  # fmt: skip
    """Fill (10, spaxel): flux, error, velocity, error, variance, error, continuum, error, noise scale, coverage.

    ``speed`` (3, plane): middle, low and high end. ``shapes`` (shape, plane): Gaussians of which ``gauss`` (2, shape)
    has centre and sigma, by which the planes of velocity and variance are found; none: all of the extent count.
    """
    size = t.size
    values, noise, sigma2, work = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    good, used, weight = np.empty(size, np.bool_), np.empty(size, np.bool_), np.empty(size)
    coefficients, inverse, gradient = np.empty(n), np.empty((n, n)), np.empty(n)
    central = np.empty(4)
    for j in range(flux.shape[1]):
        _copy_spectrum(flux, var, bad, j, values, noise, good)
        out[:, j] = np.nan
        out[9, j] = _coverage(good)
        if out[9, j] < least or _bridge(share, good, weight) > 1.0 - least:
            continue
        count = fit_continuum(values, good, side, t, n, clip, coefficients, inverse, used, work)
        if count == 0:
            continue
        scale, level = _noise(values, noise, used, count, t, n, coefficients, inflate, residual, alike, work, sigma2)
        total = 0.0
        gradient[:] = 0.0
        for i in range(size):
            weight[i] *= power[i]
            values[i] -= _polynomial(coefficients, n, t[i])
            if weight[i] > 0.0:
                total += weight[i] * values[i]
                for k in range(n):
                    gradient[k] += weight[i] * t[i] ** k
        square = _sum_variance(weight, sigma2, alike) + _doubt(share, power, values, good, work)
        out[0, j], out[1, j] = total, math.sqrt(square + _quadratic(gradient, inverse, n, level))
        if shapes.shape[0]:
            _of_range(
                values, sigma2, weight, work, speed, t, n, inverse, level, alike, shapes, gauss, threshold, central
            )
        else:
            _central(values, sigma2, weight, work, speed[0], t, n, inverse, level, alike, central)
        out[2:6, j] = central
        for k in range(n):
            gradient[k] = t_line**k
        out[6, j] = _polynomial(coefficients, n, t_line)
        out[7, j] = math.sqrt(_quadratic(gradient, inverse, n, level))
        out[8, j] = scale
