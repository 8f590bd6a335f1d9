"""How the correction of fringes is judged on plain arrays: lines put in, what is kept of them, fringes left."""

from __future__ import annotations

import numpy as np

LIGHT_SPEED = 299792.458  # km/s
PERIOD = 2.9  # 1/cm, of the detector's fringes


def inject(wave: np.ndarray, level: np.ndarray, places, sigma: float, share: float) -> np.ndarray:
    """Return Gaussian lines (..., sample) in the unit of ``level`` (..., sample), the local continuum.

    sigma : km/s; share : peak over the continuum at each place [um].
    """
    out = np.zeros(np.broadcast_shapes(np.shape(wave), np.shape(level)))
    for at in np.atleast_1d(places):
        near = int(np.argmin(np.abs(wave - at)))
        height = share * np.asarray(level)[..., near, None]
        out = out + height * np.exp(-0.5 * ((wave - at) / (sigma / LIGHT_SPEED * at)) ** 2)
    return out


def kept(wave: np.ndarray, found: np.ndarray, line: np.ndarray, at: float, sigma: float) -> np.ndarray:
    """Return (share of the flux kept, shift [km/s], ratio of widths) of a line at ``at`` um of (..., sample).

    A Gaussian with free centre and width above a straight line is fitted to ``found`` (corrected with the line less
    corrected without) and to the injected ``line``, over +- 5 sigma, at least 5 samples to each side.
    """
    step = float(np.median(np.abs(np.diff(wave))))
    width = sigma / LIGHT_SPEED * at
    near = np.abs(wave - at) < max(5.0 * width, 5.5 * step)
    t = (wave[near] - at) / width
    both = [_gaussian(t, values[..., near]) for values in (np.asarray(found, float), np.asarray(line, float))]
    flux = [p[..., 0] * p[..., 2] for p in both]
    shift = (both[0][..., 1] - both[1][..., 1]) * sigma
    return np.stack([flux[0] / flux[1], shift, both[0][..., 2] / both[1][..., 2]])


def _gaussian(t, values):
    """Return (height, centre, width, offset, slope) of Gaussians (..., sample) by Gauss-Newton steps."""
    values = np.nan_to_num(values)
    top = np.max(np.abs(values), axis=-1)
    top = np.where(top > 0, top, 1.0)
    y = values / top[..., None]
    zero, one = np.zeros(y.shape[:-1]), np.ones(y.shape[:-1])
    p = np.stack([one, zero, one, zero, zero], axis=-1)
    for _ in range(25):
        u = (t - p[..., 1, None]) / p[..., 2, None]
        g = np.exp(-0.5 * u**2)
        model = p[..., 0, None] * g + p[..., 3, None] + p[..., 4, None] * t
        hg = p[..., 0, None] * g / p[..., 2, None]
        design = np.stack([g, hg * u, hg * u**2, np.ones_like(g), np.broadcast_to(t, g.shape)], axis=-1)
        normal = np.einsum("...ki,...kj->...ij", design, design) + 1e-9 * np.eye(5)
        right = np.einsum("...ki,...k->...i", design, y - model)
        move = np.linalg.solve(normal, right[..., None])[..., 0]
        p = p + np.clip(move, -0.3, 0.3)
        p[..., 2] = np.clip(p[..., 2], 0.2, 5.0)
    p[..., (0, 3, 4)] *= top[..., None]
    return p


def high_pass(wave: np.ndarray, flux: np.ndarray, line_free=None) -> np.ndarray:
    """Return flux over its smooth level less 1, (..., sample): local parabolas in wavenumber, Gaussian weights.

    Their sigma is half a period of the detector's fringes, so that 4 % of these are in the level; NaN where not
    ``line_free`` (..., sample).
    """
    k = 1e4 / wave
    rows = np.atleast_2d(np.asarray(flux, float))
    use = np.isfinite(rows) & (True if line_free is None else line_free)
    u = (k[None, :] - k[:, None]) / (0.5 * PERIOD)
    kernel = np.where(np.abs(u) < 4, np.exp(-0.5 * u**2), 0.0)
    powers = [kernel * u**j for j in range(5)]
    sums = [use @ p.T for p in powers]
    values = [np.where(use, rows, 0.0) @ p.T for p in powers[:3]]
    normal = np.stack([np.stack([sums[i + j] for j in range(3)], -1) for i in range(3)], -2)
    right = np.stack(values, -1)[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        level = np.linalg.solve(normal + 1e-9 * np.eye(3), right)[..., 0, 0]
        out = np.where(use & (level > 0), rows / level - 1.0, np.nan)
    return out.reshape(np.shape(flux))


def fringe_rms(wave: np.ndarray, flux: np.ndarray, line_free=None) -> np.ndarray:
    """Return the rms (...) of the high-passed flux without what stands out by 5 sigma."""
    left = high_pass(wave, flux, line_free)
    spread = 1.4826 * np.nanmedian(np.abs(left), axis=-1, keepdims=True)
    return np.sqrt(np.nanmean(np.where(np.abs(left) < 5 * spread, left, np.nan) ** 2, axis=-1))
