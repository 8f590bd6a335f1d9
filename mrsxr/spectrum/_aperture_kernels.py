"""Kernels of aperture extraction: circle-pixel overlaps, sigma clipping, sums over the planes of a cube."""

import math

import numpy as np

from mrsxr.compiled import njit

NO_BACKGROUND, ANNULUS, ANNULUS_JWST, APERTURE = 0, 1, 2, 3
#: Columns of the result of ``extract_planes``.
SUM, VARIANCE, AREA, BACKGROUND, BACKGROUND_VARIANCE, BACKGROUND_AREA = 0, 1, 2, 3, 4, 5
SYSTEMATIC, BACKGROUND_SYSTEMATIC, N_COLUMNS = 6, 7, 8


@njit(cache=True, nogil=True)
def _cap(b, r):
    """Area of the circle above the line y = b."""
    b = min(max(b, -r), r)
    half = math.sqrt((r - b) * (r + b))
    return r * r * math.atan2(half, b) - b * half


@njit(cache=True, nogil=True)
def _quarter(a, b, r):
    """Area of the circle within x >= a and y >= b."""
    if a >= r or b >= r:
        return 0.0
    if a < 0.0:
        return _cap(b, r) - _quarter(-a, b, r)
    if b < 0.0:
        return _cap(a, r) - _quarter(a, -b, r)
    if a * a + b * b >= r * r:
        return 0.0
    xb, ya = math.sqrt((r - b) * (r + b)), math.sqrt((r - a) * (r + a))
    angle = math.atan2(ya, a) - math.atan2(b, xb)
    return 0.5 * (r * r * angle - b * (xb - a) - a * (ya - b))


@njit(cache=True, nogil=True)
def circle_overlap(x, y, r, subpixels):
    """Return the fraction of the unit pixel centred on (x, y) that lies in the circle of radius r about 0.

    Parameters
    ----------
    x, y, r : float
        [pixel]; an infinite radius takes every pixel whole.
    subpixels : int
        0: exact; n: share of the n x n subpixel centres inside the circle.
    """
    if r <= 0.0:
        return 0.0
    far, near = (
        math.hypot(abs(x) + 0.5, abs(y) + 0.5),
        math.hypot(max(abs(x) - 0.5, 0.0), max(abs(y) - 0.5, 0.0)),
    )
    if far <= r:
        return 1.0
    if near >= r:
        return 0.0
    if subpixels > 0:
        inside = 0
        for j in range(subpixels):
            dy = y - 0.5 + (j + 0.5) / subpixels
            for i in range(subpixels):
                dx = x - 0.5 + (i + 0.5) / subpixels
                if dx * dx + dy * dy < r * r:
                    inside += 1
        return inside / (subpixels * subpixels)
    x0, x1, y0, y1 = x - 0.5, x + 0.5, y - 0.5, y + 0.5
    area = _quarter(x0, y0, r) - _quarter(x1, y0, r) - _quarter(x0, y1, r) + _quarter(x1, y1, r)
    return min(max(area, 0.0), 1.0)


@njit(cache=True, nogil=True)
def clip_limits(values, sigma, iterations):
    """Return mean -/+ sigma * std of values clipped about their median, as astropy's sigma_clip.

    jwst clips 5 times, settled or not; as many times as there are values always settle, as each takes one at least.
    """
    kept = values
    for _ in range(iterations):
        middle, spread = np.median(kept), sigma * np.std(kept)
        inside = kept[np.abs(kept - middle) <= spread]
        if inside.size == kept.size or inside.size == 0:
            break
        kept = inside
    mean, spread = np.mean(kept), sigma * np.std(kept)
    return mean - spread, mean + spread


@njit(cache=True, nogil=True)
def _background(flux, var, common, good, share, mode, sigma, out):
    """Write background, its errors and its area of one plane; ``share`` is the weight of each spaxel."""
    if mode == ANNULUS_JWST:
        sample = good.ravel()
    else:
        sample = (good & (share > 0.0)).ravel()
    values = flux.ravel()[sample].astype(np.float64)
    if values.size == 0:
        return
    low, high = clip_limits(values, sigma, values.size if mode == ANNULUS else 5)
    total, variance, area, kept_area, systematic = 0.0, 0.0, 0.0, 0.0, 0.0
    for j in range(flux.shape[0]):
        for i in range(flux.shape[1]):
            if not good[j, i] or share[j, i] <= 0.0:
                continue
            inside = low <= flux[j, i] <= high
            area += share[j, i]
            if inside:
                total += share[j, i] * flux[j, i]
                kept_area += share[j, i]
                if common.size:
                    systematic += share[j, i] * math.sqrt(common[j, i])
            if inside or mode == ANNULUS_JWST:
                variance += share[j, i] * var[j, i]
    norm = area if mode == ANNULUS_JWST else kept_area
    if norm > 0.0:
        out[BACKGROUND], out[BACKGROUND_VARIANCE], out[BACKGROUND_AREA] = (
            total / norm,
            variance / norm**2,
            norm,
        )
        out[BACKGROUND_SYSTEMATIC] = systematic / norm


@njit(cache=True, nogil=True)
def extract_planes(flux, var, weight, common, x, y, radii, mode, sigma, subpixels):
    """Sum every plane of a cube over a circle and measure its background.

    Parameters
    ----------
    flux, var, weight : arrays (plane, y, x)
        Spaxels of weight 0 or without a finite value are left out; an error that is not finite is that of the sum.
    common : array (plane, y, x)
        Variance that is common to all spaxels, whose errors add up linearly; (plane, 0, 0) where there is none.
    x, y : float
        Centre [pixel], counted from 0 at the centre of the first spaxel.
    radii : float64 (plane, 3)
        Aperture radius, inner and outer radius of the annulus [pixel].
    mode : int
        0 no background; 1 annulus, clipped on itself; 2 annulus as jwst: clipped on the whole plane, clipped
        spaxels still counted in the area; 3 clipped mean of the aperture itself.
    sigma : float
        Clipping limit.
    subpixels : int
        0: exact overlaps.

    Returns
    -------
    float64 array (plane, 8)
        Sum, its variance and area [pixel] before any subtraction; background, its variance and its area; common error
        of the sum and of the background.
    """
    n_planes, n_y, n_x = flux.shape
    out = np.zeros((n_planes, N_COLUMNS))
    share = np.empty((n_y, n_x))
    good = np.empty((n_y, n_x), dtype=np.bool_)
    for k in range(n_planes):
        out[k, BACKGROUND] = out[k, BACKGROUND_VARIANCE] = np.nan
        for j in range(n_y):
            for i in range(n_x):
                f, v = flux[k, j, i], var[k, j, i]
                good[j, i] = weight[k, j, i] > 0.0 and math.isfinite(f)
                part = circle_overlap(i - x, j - y, radii[k, 0], subpixels)
                if good[j, i] and part > 0.0:
                    out[k, SUM] += part * f
                    out[k, VARIANCE] += part * v
                    out[k, AREA] += part
                    if common.size:
                        out[k, SYSTEMATIC] += part * math.sqrt(common[k, j, i])
                if mode == ANNULUS or mode == ANNULUS_JWST:
                    outer = circle_overlap(i - x, j - y, radii[k, 2], subpixels)
                    part = outer - circle_overlap(i - x, j - y, radii[k, 1], subpixels)
                share[j, i] = part
        if mode != NO_BACKGROUND:
            _background(flux[k], var[k], common[k], good, share, mode, sigma, out[k])
    return out


@njit(cache=True, nogil=True)
def weigh_planes(flux, var, weight, common, share, sigma):
    """Sum every plane of a cube over a region and measure its clipped mean.

    Parameters
    ----------
    flux, var, weight : arrays (plane, y, x)
        Spaxels of weight 0 or without a finite value are left out; an error that is not finite is that of the sum.
    common : array (plane, y, x)
        Variance that is common to all spaxels, whose errors add up linearly; (plane, 0, 0) where there is none.
    share : float64 array (y, x)
        Part of each spaxel that lies in the region.
    sigma : float
        Clipping limit.

    Returns
    -------
    float64 array (plane, 8)
        As of :func:`extract_planes`; the background is the clipped mean of the region itself.
    """
    n_planes, n_y, n_x = flux.shape
    out = np.zeros((n_planes, N_COLUMNS))
    good = np.empty((n_y, n_x), dtype=np.bool_)
    for k in range(n_planes):
        out[k, BACKGROUND] = out[k, BACKGROUND_VARIANCE] = np.nan
        for j in range(n_y):
            for i in range(n_x):
                f, v = flux[k, j, i], var[k, j, i]
                good[j, i] = weight[k, j, i] > 0.0 and math.isfinite(f)
                if good[j, i] and share[j, i] > 0.0:
                    out[k, SUM] += share[j, i] * f
                    out[k, VARIANCE] += share[j, i] * v
                    out[k, AREA] += share[j, i]
                    if common.size:
                        out[k, SYSTEMATIC] += share[j, i] * math.sqrt(common[k, j, i])
        _background(flux[k], var[k], common[k], good, share, APERTURE, sigma, out[k])
    return out


@njit(cache=True, nogil=True)
def _circle_shares(good, x, y, radius, subpixels, share):
    """Write the part of each good spaxel inside a circle; return the sum."""
    total = 0.0
    for j in range(good.shape[0]):
        for i in range(good.shape[1]):
            share[j, i] = circle_overlap(i - x, j - y, radius, subpixels) if good[j, i] else 0.0
            total += share[j, i]
    return total


@njit(cache=True, nogil=True)
def net_weights(flux, weight, x, y, radii, mode, sigma, subpixels):
    """Return the weight of every spaxel in the sum of each plane less its background, float64 (plane, y, x).

    The parameters are those of :func:`extract_planes`; ``sum(weights * flux)`` is its sum less area times background.
    """
    n_planes, n_y, n_x = flux.shape
    out = np.zeros((n_planes, n_y, n_x))
    share, inner = np.zeros((n_y, n_x)), np.zeros((n_y, n_x))
    for k in range(n_planes):
        good = (weight[k] > 0.0) & np.isfinite(flux[k])
        area = _circle_shares(good, x, y, radii[k, 0], subpixels, out[k])
        if mode != ANNULUS and mode != ANNULUS_JWST:
            continue
        _circle_shares(good, x, y, radii[k, 2], subpixels, share)
        _circle_shares(good, x, y, radii[k, 1], subpixels, inner)
        share -= inner
        values = flux[k].ravel()[(good if mode == ANNULUS_JWST else share > 0.0).ravel()].astype(np.float64)
        if values.size == 0:
            continue
        low, high = clip_limits(values, sigma, values.size if mode == ANNULUS else 5)
        norm = 0.0 if mode == ANNULUS else share.sum()
        for j in range(n_y):
            for i in range(n_x):
                if not low <= flux[k, j, i] <= high:
                    share[j, i] = 0.0
        norm = share.sum() if mode == ANNULUS else norm
        if norm > 0.0:
            out[k] -= area / norm * share
    return out
