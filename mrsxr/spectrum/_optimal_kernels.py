"""Kernels of optimal extraction: the weights of the spaxels that measure a profile on a constant with least noise."""

import math

import numpy as np

from mrsxr.compiled import Array, njit


@njit(cache=True, nogil=True)
def smooth_variance(var, good, half, out):
    """Fill the running mean of the good variances over ``half`` planes to each side: no noise of single planes."""
    n_planes, n_y, n_x = var.shape
    for j in range(n_y):
        for i in range(n_x):
            total, count = 0.0, 0
            low, high = 0, 0
            for k in range(n_planes):
                while high < min(k + half + 1, n_planes):
                    if good[high, j, i] and math.isfinite(var[high, j, i]):
                        total += var[high, j, i]
                        count += 1
                    high += 1
                while low < k - half:
                    if good[low, j, i] and math.isfinite(var[low, j, i]):
                        total -= var[low, j, i]
                        count -= 1
                    low += 1
                out[k, j, i] = total / count if count > 0 and total > 0.0 else 0.0


@njit(cache=True, nogil=True)
def enclosed(radius, sigma, share):
    """Return the part of the light of a profile within a radius about its centre."""
    core = 1.0 - math.exp(-0.5 * (radius / sigma[0]) ** 2)
    wing = 1.0 - math.exp(-0.5 * (radius / sigma[1]) ** 2)
    return (1.0 - share) * core + share * wing


@njit(cache=True, nogil=True)
def aperture_light(radii, sigma, share, subtract):
    """Return the part of the light that a circle holds, less that of the annulus on its area where subtracted."""
    inside = enclosed(radii[0], sigma, share)
    ring = radii[2] ** 2 - radii[1] ** 2
    if not subtract or ring <= 0.0:
        return inside
    outer = enclosed(radii[2], sigma, share) - enclosed(radii[1], sigma, share)
    return inside - outer * radii[0] ** 2 / ring


@njit(cache=True, nogil=True)
def profile_plane(x, y, sigma, share, out):
    """Fill the light of a profile of total 1 in every spaxel."""
    core = (1.0 - share) / (2.0 * math.pi * sigma[0] ** 2)
    wing = share / (2.0 * math.pi * sigma[1] ** 2)
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            square = (i - x) ** 2 + (j - y) ** 2
            out[j, i] = core * math.exp(-0.5 * square / sigma[0] ** 2) + wing * math.exp(-0.5 * square / sigma[1] ** 2)


@njit(cache=True, nogil=True)
def _moments(weight, profile, flux):
    total, first, second, light, both = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            w = weight[j, i]
            if w > 0.0:
                p = profile[j, i]
                total += w
                first += w * p
                second += w * p * p
                light += w * flux[j, i]
                both += w * p * flux[j, i]
    return total, first, second, light, both


@njit(cache=True, nogil=True)
def _reject(weight, profile, flux, variance, amplitude, level, clip, slack):
    """Set the weight of the worst outliers to 0, as one bends the fit and makes outliers of others; return how many."""
    worst = 0.0
    for round_ in range(2):
        count = 0
        for j in range(weight.shape[0]):
            for i in range(weight.shape[1]):
                if weight[j, i] <= 0.0:
                    continue
                model = amplitude * profile[j, i]
                limit = clip * math.sqrt(variance[j, i] + (slack * model) ** 2)
                off = abs(flux[j, i] - model - level)
                if round_ == 0 and limit > 0.0:
                    worst = max(worst, off / limit)
                elif round_ == 1 and off > limit * max(1.0, 0.7 * worst):
                    weight[j, i] = 0.0
                    count += 1
        if worst <= 1.0:
            return 0
    return count


@njit(cache=True, nogil=True)
def _fit_plane(flux, variance, weight, profile, subtract, clip, slack, out):
    """Fill the weights that give the amplitude of the profile; return (level, fitted).

    Outliers are rejected until there are none: each round takes one at least, and what is left is fitted or nothing is.
    """
    level = 0.0
    for _ in range(weight.size + 1):
        total, first, second, light, both = _moments(weight, profile, flux)
        mean = first / total if subtract and total > 0.0 else 0.0
        norm = second - mean * first
        if not norm > 1e-12 * second or second <= 0.0:
            return np.nan, False
        amplitude = (both - mean * light) / norm
        level = (light - amplitude * first) / total if subtract else 0.0
        if clip <= 0.0 or _reject(weight, profile, flux, variance, amplitude, level, clip, slack) == 0:
            break
    for j in range(weight.shape[0]):
        for i in range(weight.shape[1]):
            out[j, i] = weight[j, i] * (profile[j, i] - mean) / norm if weight[j, i] > 0.0 else 0.0
    return level, True


@njit(cache=True, nogil=True)
def _weigh(good, circle, ring, subtract, smooth, use):
    """Fill the inverse variances of the spaxels of circle and annulus; return the area of the circle with data."""
    largest, area = smooth.max(), 0.0
    for j in range(good.shape[0]):
        for i in range(good.shape[1]):
            use[j, i] = 0.0
            if not good[j, i]:
                continue
            area += circle[j, i]
            taken = circle[j, i] + (ring[j, i] if subtract else 0.0)
            if smooth[j, i] <= 0.0:  # light without an error counts little
                smooth[j, i] = largest
            if taken > 0.0:
                use[j, i] = taken / smooth[j, i] if largest > 0.0 else taken
    return area


@njit(cache=True, nogil=True)
def optimal_weights(
    flux: Array, var: Array, weight: Array, x: float, y: float, sigmas: Array, share: float, radii: Array,
    circle: Array, ring: Array, subtract: bool, half: int, clip: float, slack: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the weight of every spaxel in the flux of a profile on a constant.

    Parameters
    ----------
    flux, var, weight : arrays (plane, y, x)
        Spaxels of weight 0 or without a finite value are left out.
    x, y : float
        Centre of the source [pixel], counted from 0.
    sigmas : float64 (plane, 2)
        Of core and wing [pixel].
    share : float
        Part of the light in the wing.
    radii : float64 (plane, 3)
        Aperture radius, inner and outer radius of the annulus [pixel].
    circle, ring : float64 (plane, y, x)
        Part of each spaxel in the circle and in the annulus: those in the circle are used and, where a constant is
        fitted, those in the annulus.
    subtract : bool
        Fit a constant.
    half : int
        Planes to each side over which variances are averaged for the weights.
    clip, slack : float
        Spaxels off the fit by ``clip`` times the root of variance + (slack x profile)^2 are left out.

    Returns
    -------
    float64 (plane, y, x), float64 (plane, 4)
        ``sum(weights * flux)`` is the light that the circle holds, less the mean of the annulus on its area where a
        constant is fitted; constant, variance of it, area of the circle with data, and 1 where the plane was fitted.
    """
    n_planes, n_y, n_x = flux.shape
    out, facts = np.zeros((n_planes, n_y, n_x)), np.zeros((n_planes, 4))
    good = np.zeros((n_planes, n_y, n_x), dtype=np.bool_)
    for k in range(n_planes):
        good[k] = (weight[k] > 0.0) & np.isfinite(flux[k])
    smooth = np.zeros((n_planes, n_y, n_x))
    smooth_variance(var, good, half, smooth)
    profile, use = np.zeros((n_y, n_x)), np.zeros((n_y, n_x))
    for k in range(n_planes):
        profile_plane(x, y, sigmas[k], share, profile)
        facts[k, 2] = _weigh(good[k], circle[k], ring[k], subtract, smooth[k], use)
        level, fitted = _fit_plane(flux[k], smooth[k], use, profile, subtract, clip, slack, out[k])
        total = 0.0
        spread = 0.0
        for j in range(n_y):
            for i in range(n_x):
                total += use[j, i]
                if use[j, i] > 0.0:
                    spread += use[j, i] ** 2 * var[k, j, i]
        facts[k, 0] = level if subtract else np.nan
        facts[k, 1] = spread / total**2 if subtract and total > 0.0 else np.nan
        facts[k, 3] = 1.0 if fitted else 0.0
        out[k] *= aperture_light(radii[k], sigmas[k], share, subtract) if fitted else 0.0
    return out, facts
