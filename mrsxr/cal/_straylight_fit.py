"""Method "fitted" of the straylight step: the light freed of what is scattered, amplitudes from between the slices."""

from __future__ import annotations

import numpy as np

from ._straylight_kernels import (
    CELL,
    EDGE,
    UNFIT,
    block_noise,
    cell_pulls,
    clean_sources,
    clipped_statistics,
    direct_light,
    drop_cells,
    gap_moments,
    gap_residuals,
    leaked_light,
    model_variance,
    plain_parameters,
    scatter_halves,
    strip_values,
)

FIRST_FIT, SWEEPS = 2, 5  # amplitudes are fitted from which of the sweeps on; one more with all light ends
MAX_AMPLITUDE, LEAST_STRIP = 3.0, 1000  # and pixels of the strip
SHOWER = 4.0  # by which the light of a cell exceeds the scatter of the others where it is a shower


class _Fit:
    """Amplitudes of both halves on knots along the rows, level and leaks, by robust least squares with priors."""

    def __init__(self, image, between, inside, rows, prior, step):
        self.image, self.between, self.inside, self.rows = image, between, inside, rows
        n_y = len(image)
        self.n = n = max(2, -(-n_y // rows) + 1)
        place = np.arange(n_y) / (n_y - 1) * (n - 1)
        low = np.minimum(place.astype(int), n - 2)
        self.hat = np.zeros((n_y, n))
        self.hat[np.arange(n_y), low] = 1.0 - (place - low)
        self.hat[np.arange(n_y), low + 1] = place - low
        difference = np.diff(np.eye(n), axis=0)
        one = difference.T @ difference / step**2 + np.full((n, n), (1.0 / (n * prior)) ** 2)
        self.precision = np.zeros((2 * n + 3, 2 * n + 3))
        self.precision[:n, :n] = self.precision[n : 2 * n, n : 2 * n] = one
        self.target = np.zeros(2 * n + 3)
        self.target[: 2 * n] = np.tile(one @ np.ones(n), 2)
        self.amplitude, self.leak = np.ones((2, n_y)), np.zeros(2)
        self.level = float(np.median(image[between]))
        self.level_variance, self.inflation = np.inf, 1.0
        self.showers = np.zeros([-(-n // CELL) for n in image.shape], dtype=bool)

    def improve(self, light, models):
        """Return amplitude (half, y) and its covariance (3, y) after two robust steps."""
        leaked, residual = np.empty_like(light), np.empty_like(light)
        work = np.empty(self.rows * light.shape[1], dtype=np.float32)
        moments, sums = np.empty((len(light), 6, 6)), np.empty((len(light), 2))
        leaked_light(light, self.inside, leaked)
        covariance = np.zeros((3, len(light)))
        for _ in range(2):
            gap_residuals(self.image, self.between, self.level, self.amplitude, self.leak, models, leaked, residual)
            noise = block_noise(residual, self.rows, work)
            self.showers = _showers(cell_pulls(residual, noise, self.rows))
            drop_cells(residual, self.showers)
            gap_moments(self.image, residual, noise, self.rows, models, leaked, moments, sums)
            self.inflation = _inflation(sums)
            covariance = self._solve(moments / self.inflation)
        return self.amplitude, covariance

    def _solve(self, moments):
        n, hat = self.n, self.hat
        matrix, vector = self.precision.copy(), self.target.copy()
        places = [slice(0, n), slice(n, 2 * n), *(slice(k, k + 1) for k in range(2 * n, 2 * n + 3))]
        columns = [hat, hat, *[np.ones((len(hat), 1))] * 3]
        for i, (here, one) in enumerate(zip(places, columns, strict=True)):
            vector[here] += one.T @ moments[:, i, 5]
            for j, (there, two) in enumerate(zip(places, columns, strict=True)):
                matrix[here, there] += one.T @ (moments[:, i, j, None] * two)
        known = np.diag(matrix)
        covariance = np.linalg.inv(matrix + np.diag(np.where(known > 0, 1e-12 * known, 1.0)))
        found = covariance @ vector
        self.amplitude = np.clip(np.stack([hat @ found[:n], hat @ found[n : 2 * n]]), 0.0, MAX_AMPLITUDE)
        self.level, self.leak = float(found[2 * n]), found[2 * n + 1 :]
        self.level_variance = float(covariance[2 * n, 2 * n])
        pairs = ((0, 0), (1, 1), (0, 1))
        return np.stack([np.einsum("yi,ij,yj->y", hat, covariance[places[i], places[j]], hat) for i, j in pairs])


def subtract_fitted(image, flags, variance, inside, parameters, first, last, rows, prior, step):
    """Return corrected image, its added variance and amplitudes (half, y) of one image (y, x); inside: slices."""
    models = np.zeros((2, *image.shape), dtype=np.float32)
    _, level, noise = clipped_statistics(strip_values(image, models[0], first, last, False))
    level, noise = (np.float32(level), np.float32(noise)) if level == level else (np.float32(0), np.float32(0))
    sources, light = np.empty_like(models[0]), np.empty_like(models[0])
    clean_sources(image, flags, level, np.float32(10.0) * noise, sources)
    good = np.isfinite(image) & ((flags & UNFIT) == 0)
    between = good & ~inside & ~np.roll(inside, 1, axis=1) & ~np.roll(inside, -1, axis=1)
    between[:, :EDGE] = between[:, -EDGE:] = False
    fit = _Fit(image, between, inside, rows, prior, step) if between.any() else None
    amplitude, covariance = np.ones((2, len(image))), np.zeros((3, len(image)))
    pedestal = 0.0
    for sweep in range(SWEEPS + 1):
        direct_light(sources, level, amplitude, models, light)
        fits = FIRST_FIT <= sweep < SWEEPS
        if fits:  # a pixel must not predict its own noise
            light[between] = 0.0
        scatter_halves(light, parameters, False, models)
        if fits and fit is not None:
            amplitude, covariance = fit.improve(light, models)
        total = _combined(models, amplitude)
        level, pedestal = _pedestal(_quiet_strip(image, total, first, last, fit), fit)
    out = image - total
    out[:, EDGE:-EDGE] -= level
    weight = np.where(good, np.nan_to_num(variance, nan=0.0, posinf=0.0), 0.0).astype(np.float32)
    squares = np.empty_like(models)
    scatter_halves(weight, parameters, True, squares)
    model_variance(models, covariance, squares, amplitude, pedestal, light)
    return out, light, amplitude


def _quiet_strip(image, model, first, last, fit):
    """Return the values of the strip where no shower was seen, of all of it where that is too little."""
    if fit is not None and fit.showers.any():
        quiet = image.copy()
        drop_cells(quiet, fit.showers)
        strip = strip_values(quiet, model, first, last, False)
        if strip.size >= LEAST_STRIP:
            return strip
    return strip_values(image, model, first, last, False)


def _pedestal(strip, fit):
    """Return (pedestal, its variance): of all pixels between the slices where the strip agrees, else of the strip."""
    n = strip.size
    _, median, noise = clipped_statistics(strip)
    if not median == median:
        return np.float32(0.0), 0.0
    inflation = fit.inflation if fit is not None else 1.0
    variance = 0.5 * np.pi * noise**2 / n * inflation
    if fit is not None and fit.level_variance < variance and (fit.level - median) ** 2 < 9.0 * variance:
        return np.float32(fit.level), fit.level_variance
    return np.float32(median), variance


def _combined(models, amplitude):
    weights = amplitude.astype(np.float32)[:, :, None]
    return weights[0] * models[0] + weights[1] * models[1]


def _showers(pulls):
    """Return True for the cells that stand out of the others, and their neighbours: what lies there is no model's."""
    known = np.isfinite(pulls)
    if known.sum() < 20:
        return np.zeros(pulls.shape, dtype=bool)
    middle = np.median(pulls[known])
    spread = max(1.0, 1.4826 * np.median(np.abs(pulls[known] - middle)))
    far = np.zeros((pulls.shape[0] + 2, pulls.shape[1] + 2), dtype=bool)
    far[1:-1, 1:-1] = known & (np.abs(pulls - middle) > SHOWER * spread)
    n_y, n_x = pulls.shape
    shifts = [far[i : i + n_y, j : j + n_x] for i in range(3) for j in range(3)]
    return np.any(shifts, axis=0)


def _inflation(sums):
    """Return by how much the variance of row means exceeds that of independent pixels, at least 1."""
    known = sums[:, 1] > 0
    if known.sum() < 10:
        return 1.0
    pulls = sums[known, 0] / np.sqrt(sums[known, 1])
    return max(1.0, (1.4826 * np.median(np.abs(pulls - np.median(pulls)))) ** 2)


def fitted_door(rate, dq, variance, inside, parameters, first=503, last=516, rows=64, prior=0.3, step=0.05):
    """Return (rates, variance of the correction), each (dither, y, x); inside (y, x), parameters (half, 6, y, 1)."""
    out, added = (np.empty(rate.shape, dtype=np.float32) for _ in range(2))
    table, inside = plain_parameters(parameters), np.asarray(inside, dtype=bool)
    for d in range(len(rate)):
        out[d], added[d], _ = subtract_fitted(
            rate[d], dq[d], variance[d], inside, table, first, last, rows, prior, step
        )
    return out, added
