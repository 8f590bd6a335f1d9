"""Whether fringes that were predicted from elsewhere make data smoother: the score of a correction."""

from __future__ import annotations

import numpy as np

from mrsxr.robust import MAD_TO_SIGMA

OUTLIER = 4.0  # spreads, beyond which a sample is of a line, or bad
SURE = 3.0  # standard errors that are added: many slices are judged, those that the fit itself finds worth it
LEAST_BLOCKS = 5
OVERTONE = 0.3  # of the wave, from which on it is a comb of lines: fringes are sines, their overtones a percent


def judge(wavenumber: np.ndarray, flux: np.ndarray, factor: np.ndarray, use: np.ndarray, period: float) -> float:
    """Return the mean square roughness of flux / factor over that of flux, plus three standard errors of the change.

    Parameters
    ----------
    wavenumber, flux : (spectrum, sample)
        Of spectra that were corrected together, in order along the wavenumber [1/cm].
    factor : (spectrum, sample)
        1 + fringes, each predicted without the samples around it.
    use : (spectrum, sample) bool
        Samples that count.
    period : float
        The longest of the fringes [1/cm].

    Returns
    -------
    float
        Below 1 where the fringes are there; 1 where nothing was changed, NaN where too little is to be seen. Not below
        1 where what was predicted is a comb of lines (of molecules as CO or HCN): its peaks are narrower than its gaps,
        or the other way round, by overtones that are in step with it.

    Notes
    -----
    Roughness: relative to a running level (Gaussian, sigma of half a period), without what stands out of it before or
    after, each spectrum weighed by its own. The error comes from the scatter between stretches of a period, in all
    spectra together: there they share the prediction.
    """
    change, before, block, combs = [], [], [], []
    for k, y, f, good in zip(wavenumber, flux, factor, use, strict=True):
        good = good & np.isfinite(k) & np.isfinite(y) & (y > 0)
        if good.sum() <= 10:
            continue
        sigma = 0.5 * period / float(np.median(np.abs(np.diff(k[good]))))
        rough = np.stack([_rough(y, good, sigma), _rough(y / f, good, sigma)])
        spread = MAD_TO_SIGMA * np.median(np.abs(rough[0, good]))
        seen = good & (np.abs(rough) < OUTLIER * spread).all(axis=0)
        if not seen.any():
            continue
        scale = float(np.mean(rough[0, seen] ** 2))
        change.append((rough[1, seen] ** 2 - rough[0, seen] ** 2) / scale)
        before.append(rough[0, seen] ** 2 / scale)
        block.append((k[seen] / period).astype(int))
        combs.append(_overtones(y, f, good, sigma) / spread**2)
    if not change:
        return np.nan
    every = np.concatenate(block)
    every -= every.min()
    sums = np.bincount(every, np.concatenate(change))[np.bincount(every) > 0]
    if sums.size < LEAST_BLOCKS:
        return np.nan
    error = float(np.sqrt(sums.size * np.var(sums, ddof=1)))
    score = 1.0 + float((sums.sum() + SURE * error) / np.concatenate(before).sum())
    with_square, squares, waves, noise = np.sum(combs, axis=0)
    overtone = abs(with_square) - SURE * np.sqrt(noise)
    return max(score, 1.0) if overtone > OVERTONE * np.sqrt(squares * waves) else score


def _overtones(values: np.ndarray, factor: np.ndarray, good: np.ndarray, sigma: float) -> np.ndarray:
    """Return sums over samples: flux times the square of the fringes, that square squared, fringes squared, and the
    variance of the first.
    """
    from scipy.ndimage import gaussian_filter1d

    wave = factor[good] - np.mean(factor[good])
    square = wave**2 - gaussian_filter1d(wave**2, 2 * sigma)
    rest = _rough(values, good, sigma)[good] - wave
    limit = OUTLIER * MAD_TO_SIGMA * np.median(np.abs(rest))
    rest = np.clip(rest, -limit, limit)
    square /= float(np.sqrt(np.mean(wave**2))) or 1.0
    squared = square @ square
    return np.array([(wave + rest) @ square, squared, wave @ wave, np.mean(rest**2) * squared])


def _rough(values: np.ndarray, good: np.ndarray, sigma: float) -> np.ndarray:
    """Return values over their running level less 1."""
    from scipy.ndimage import gaussian_filter1d

    weight = gaussian_filter1d(good.astype(float), sigma, mode="constant")
    with np.errstate(invalid="ignore", divide="ignore"):
        level = gaussian_filter1d(np.where(good, values, 0.0), sigma, mode="constant") / weight
        return np.where(good & (level > 0), values / level - 1.0, 0.0)
