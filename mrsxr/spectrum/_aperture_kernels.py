"""Kernels of aperture extraction: sigma clipping, sums over the planes of a cube."""

import math

import numpy as np

from mrsxr._clip_kernels import clip, moments
from mrsxr.compiled import Array, njit

NO_BACKGROUND, ANNULUS, ANNULUS_JWST, APERTURE = 0, 1, 2, 3
#: Columns of the result of ``extract_planes``.
SUM, VARIANCE, AREA, BACKGROUND, BACKGROUND_VARIANCE, BACKGROUND_AREA = 0, 1, 2, 3, 4, 5
SYSTEMATIC, BACKGROUND_SYSTEMATIC, N_COLUMNS = 6, 7, 8


@njit(cache=True, nogil=True)
def clip_limits(values, sigma, iterations):
    """Return mean -/+ sigma * std of values clipped about their median, as astropy's sigma_clip.

    jwst clips 5 times, converged or not; as many times as there are values always converge, as each takes one at least.
    """
    kept = values.copy()
    n, _, _ = clip(kept, kept.size, sigma, iterations, np.empty(kept.size))
    mean, spread = moments(kept, n)
    return mean - sigma * spread, mean + sigma * spread


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
        out[BACKGROUND], out[BACKGROUND_VARIANCE], out[BACKGROUND_AREA] = (total / norm, variance / norm**2, norm)
        out[BACKGROUND_SYSTEMATIC] = systematic / norm


@njit(cache=True, nogil=True)
def extract_planes(
    flux: Array, var: Array, weight: Array, common: Array, share: Array, ring: Array, mode: int, sigma: float
) -> Array:
    """Sum every plane of a cube over an aperture and measure its background.

    Parameters
    ----------
    flux, var, weight : arrays (plane, y, x)
        Spaxels of weight 0 or without a finite value are left out; an error that is not finite is that of the sum.
    common : array (plane, y, x)
        Variance that is common to all spaxels, whose errors add up linearly; (plane, 0, 0) where there is none.
    share, ring : float64 arrays (plane, y, x)
        Part of each spaxel in the aperture and in the annulus.
    mode : int
        0 no background; 1 annulus, clipped on itself; 2 annulus as jwst: clipped on the whole plane, clipped
        spaxels still counted in the area; 3 clipped mean of the aperture itself.
    sigma : float
        Clipping limit.

    Returns
    -------
    float64 array (plane, 8)
        Sum, its variance and area [pixel] before any subtraction; background, its variance and its area; common error
        of the sum and of the background.
    """
    n_planes, n_y, n_x = flux.shape
    out = np.zeros((n_planes, N_COLUMNS))
    good = np.empty((n_y, n_x), dtype=np.bool_)
    for k in range(n_planes):
        out[k, BACKGROUND] = out[k, BACKGROUND_VARIANCE] = np.nan
        for j in range(n_y):
            for i in range(n_x):
                f, part = flux[k, j, i], share[k, j, i]
                good[j, i] = weight[k, j, i] > 0.0 and math.isfinite(f)
                if good[j, i] and part > 0.0:
                    out[k, SUM] += part * f
                    out[k, VARIANCE] += part * var[k, j, i]
                    out[k, AREA] += part
                    if common.size:
                        out[k, SYSTEMATIC] += part * math.sqrt(common[k, j, i])
        if mode != NO_BACKGROUND:
            of = share[k] if mode == APERTURE else ring[k]
            _background(flux[k], var[k], common[k], good, of, mode, sigma, out[k])
    return out


@njit(cache=True, nogil=True)
def net_weights(flux: Array, weight: Array, share: Array, ring: Array, mode: int, sigma: float) -> Array:
    """Return the weight of every spaxel in the sum of each plane less its background, float64 (plane, y, x).

    The parameters are those of :func:`extract_planes`; ``sum(weights * flux)`` is its sum less area times background.
    """
    out = share.copy()
    for k in range(flux.shape[0]):
        good = (weight[k] > 0.0) & np.isfinite(flux[k])
        out[k] *= good
        if mode != ANNULUS and mode != ANNULUS_JWST:
            continue
        of = ring[k] * good
        values = flux[k].ravel()[(good if mode == ANNULUS_JWST else of > 0.0).ravel()].astype(np.float64)
        if values.size == 0:
            continue
        low, high = clip_limits(values, sigma, values.size if mode == ANNULUS else 5)
        whole = of.sum()
        for j in range(flux.shape[1]):
            for i in range(flux.shape[2]):
                if not low <= flux[k, j, i] <= high:
                    of[j, i] = 0.0
        norm = of.sum() if mode == ANNULUS else whole
        if norm > 0.0:
            out[k] -= out[k].sum() / norm * of
    return out
