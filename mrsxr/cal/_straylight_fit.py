"""Method "fitted" of the straylight step: the light freed of what is scattered, kernels from between the slices.

Symbols: a = amount of stray light over that of the reference table, on knots along the rows of each half; s = logs
of factors on its width, offset and scales; r = what the profile has more than that at a distance, over a table of wider
Gaussians, on knots of distance; all follow from the pixels between the slices by least squares with priors, level and
leaks with them. How free s and r are, pixels left out decide; what no pixel between slices sees stays near the table.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mrsxr._solve_kernels import solve
from mrsxr.compiled import read_only
from mrsxr.robust import middle_and_scatter

from . import _straylight_shape as shapes
from ._straylight_kernels import (
    CELL,
    EDGE,
    HALVES,
    UNFIT,
    block_noise,
    cell_pulls,
    clean_sources,
    clipped_statistics,
    direct_light,
    drop_cells,
    gap_residuals,
    leaked_light,
    scatter_between,
    scatter_halves,
    strip_values,
    subtract_kernel,
)
from ._straylight_profile_kernels import bin_gaps, bin_light, design, knot_weights, normal_matrix, scatter_to
from ._straylight_shape import DEVIATIONS, FREEDOMS, STIFF_SHAPE, best_freedom

_STAGES = (2, 0, 1, 2)  # what the first fits look for, see Fit.improve: amounts first
FIRST_FIT, MOST_SWEEPS = 2, 20  # the kernels are fitted from which of the sweeps on; with all light one more ends
CONVERGED = 0.02  # of the noise of a pixel, by which the stray light of a block changes from sweep to sweep
PATIENCE = 2  # sweeps over which the change must fall fast enough to get there
MAX_AMPLITUDE, LEAST_STRIP = 4.0, 1000  # and pixels of the strip
SHOWER = 4.0  # by which the light of a cell exceeds the scatter of the others where it is a shower
BIN = 8  # rows
FOLDS = 4  # parts of the gaps, each left out once
SHAPE_ROUNDS = 6  # in which s is found
ATTEMPTS = 3
_BROAD = 2.5  # by which the Gaussians are wider that r counts in
_DOUBT = 0.5  # of the light that leaks out of the slices
_SCORE_BINS = 4
MARGIN = 2  # pixels beside the slices that are not asked
LIMIT = 0.95  # of the score


class Fit:
    """The kernels of both halves, level and leaks of one image; improves with every sweep."""

    def __init__(
        self, image: np.ndarray, between: np.ndarray, inside: np.ndarray, parameters: np.ndarray, rows: int,
        prior: float, step: float, freedoms: Any = FREEDOMS,
    ) -> None:  # fmt: skip
        self.image, self.between, self.inside, self.rows = image, between, inside, rows
        self.parameters, self.broad = parameters, parameters.copy()
        self.broad[:, 2] *= _BROAD
        n_y, n_x = image.shape
        (tables, scatters), (broad, _) = shapes.tables_of(parameters, n_x), shapes.tables_of(self.broad, n_x)
        self.kernels = tables, broad, scatters
        self.n = n = max(2, -(-n_y // rows) + 1)
        place = np.arange(n_y) / (n_y - 1) * (n - 1)
        low = np.minimum(place.astype(int), n - 2)
        self.hat = np.zeros((n_y, n))
        self.hat[np.arange(n_y), low] = 1.0 - (place - low)
        self.hat[np.arange(n_y), low + 1] = place - low
        self.knots = shapes.profile_knots()
        self.m = m = len(self.knots)
        self.index, self.share = np.empty(2 * n_x - 1, dtype=np.int64), np.empty(2 * n_x - 1, dtype=np.float32)
        knot_weights(self.knots, n_x, self.index, self.share)
        difference = np.diff(np.eye(n), axis=0)
        self.rigid = difference.T @ difference / step**2 + np.full((n, n), (1.0 / (n * prior)) ** 2)
        self.free = {freedom: shapes.profile_precision(self.knots, freedom[1:]) for freedom in freedoms}
        self.balance = shapes.balance_of(self.knots, self.broad)
        k = DEVIATIONS.size
        self.places = np.cumsum([0, n, n, m, m, k, k, 1, 1, 1])  # a, r, s of left and right, level, leaks
        self.found = np.concatenate([np.ones(2 * n), np.zeros(2 * (m + k) + 3)])
        self.found[-3] = float(np.median(image[between]))
        self.precision, self.level_variance = np.eye(len(self.found)), np.inf
        self.freedom, self.inflation, self.shaped = freedoms[0], 1.0, False  # whether s is looked for
        self.showers = np.zeros([-(-k // CELL) for k in image.shape], dtype=bool)
        self.gap = _gap_numbers(inside[BIN // 2 :: BIN])
        self.judged: Any = None

    def part(self, k: int) -> np.ndarray:
        """Return one of a left and right, r, s, level, leak left and right."""
        return self.found[self.places[k] : self.places[k + 1]]

    @property
    def amplitude(self) -> np.ndarray:
        """Amount a (half, y)."""
        return np.clip(np.stack([self.hat @ self.part(0), self.hat @ self.part(1)]), 0.0, MAX_AMPLITUDE)

    @property
    def profile(self) -> np.ndarray:
        """Profile r (half, 2 n - 1) at all distances."""
        r = np.stack([self.part(2), self.part(3)])
        found = r[:, self.index] * (1.0 - self.share) + r[:, self.index + 1] * self.share
        return found.astype(np.float32, order="C")

    @property
    def shape(self) -> np.ndarray:
        """Shape s (half, factor)."""
        return np.stack([self.part(4), self.part(5)])

    def _moved(self, found: np.ndarray) -> np.ndarray:
        """Return what was found, s within its bounds."""
        here = slice(self.places[4], self.places[6])
        found[here] = shapes.bounded(found[here].reshape(2, -1)).ravel()
        return found

    @property
    def level(self) -> float:
        """Pedestal [DN/s] of all pixels between the slices."""
        return float(self.part(6)[0])

    def improve(self, light: np.ndarray, models: Any, other: Any, stage: int) -> None:
        """Fit once to the residuals about ``models`` of the present kernels; ``other``: residuals of the baseline.

        stage : 0 chooses how free the profile is; 1 looks for showers; 2 leaves both as they are.
        """
        self.judged = None  # whose arrays are large
        leaked, residual = np.empty_like(light), np.empty_like(light)
        leaked_light(light, self.inside, leaked)
        leak = np.concatenate([self.part(7), self.part(8)])
        gap_residuals(self.image, self.between, self.level, self.amplitude, leak, models, leaked, residual)
        noise = block_noise(residual, self.rows, np.empty(self.rows * light.shape[1], dtype=np.float32))
        if stage == 1:
            self.showers = _showers(cell_pulls(residual, noise, self.rows))
        drop_cells(residual, self.showers)
        doubt = np.float32(_DOUBT) * np.maximum(np.abs(leaked) * np.float32(np.abs(leak).max()), 0)
        pixels = _Pixels(self, light, leaked, residual, other, noise, doubt)
        self.inflation = pixels.inflation
        scale = 1.0 / self.inflation
        normal = [pixels.normal(fold) for fold in range(FOLDS)]
        if stage == 0 and len(self.free) > 1:
            normal = self._choose(pixels, normal)
        whole = sum(normal)
        matrix, vector = self._with_priors(scale * whole, self.freedom)
        self.precision = matrix.copy()
        self.found = self._moved(solve(matrix, vector))
        if self.shaped:
            self.kernels[0][:] = shapes.tables_of(shapes.reshaped(self.parameters, self.shape), light.shape[1])[0]
        self.level_variance = float(solve(self.precision.copy(), np.eye(len(vector))[-3])[-3])
        self.judged = pixels, [scale * (whole - one) for one in normal]

    def _choose(self, pixels: Any, fixed: Any) -> Any:
        """Find s and choose how free the kernels are; return the normal matrices of the folds that go with it."""
        start, p = self.found.copy(), self.places
        self.shaped = STIFF_SHAPE in self.free
        if self.shaped:  # amounts that make up for another shape lie far from it: from those of the table
            self.found[: p[2]], self.found[p[2] : p[6]] = 1.0, 0.0
            pixels.linearise(self)
        for _ in range(SHAPE_ROUNDS if self.shaped else 0):
            shaped = [pixels.normal(fold) for fold in range(FOLDS)]
            self.found = self._moved(solve(*self._with_priors(sum(shaped) / self.inflation, STIFF_SHAPE)))
            pixels.linearise(self)
        shaped = [pixels.normal(fold) for fold in range(FOLDS)]
        self.freedom = self._best_freedom(fixed, shaped)
        if self.freedom[0]:
            return shaped
        self.found, self.shaped = start, False
        pixels.linearise(self)
        return fixed

    @property
    def scores(self) -> np.ndarray:
        """Scores (half) of the last fit, see :meth:`_Pixels.scores`."""
        pixels, normal = self.judged
        return pixels.scores([solve(*self._with_priors(one, self.freedom)) for one in normal])

    def _best_freedom(self, fixed: Any, shaped: Any) -> Any:
        """Return how free the kernels are, by the gaps of each fold left out; fixed, shaped: s is 0, s is found."""
        p, row, n = self.places, self.parameters.shape[2] // 2, len(self.free)
        here = slice(row, row + 1)
        table, wide = self.parameters[:, :, here], self.broad[:, :, here]
        known = shapes.unseen_share(table, wide, (1.0, 1.0), self.knots, np.zeros((2, self.m)))
        misfit, change = np.empty((n, FOLDS)), np.empty(n)
        for i, freedom in enumerate(self.free):
            normal = shaped if freedom[0] else fixed
            whole = sum(normal)
            for j, one in enumerate(normal):
                p_one = np.append(solve(*self._with_priors((whole - one) / self.inflation, freedom)), -1.0)
                misfit[i, j] = p_one @ one @ p_one / self.inflation
            found = self._moved(solve(*self._with_priors(whole / self.inflation, freedom)))
            a, r, s = (found[p[k] : p[k + 2]].reshape(2, -1) for k in (0, 2, 4))
            share = shapes.unseen_share(shapes.reshaped(table, s), wide, a.mean(axis=1), self.knots, r)
            change[i] = np.abs(share - known).sum()
        return list(self.free)[best_freedom(misfit, change, np.array([not one[0] for one in self.free]))]

    def _with_priors(self, normal: Any, freedom: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return (matrix, vector) of the normal matrix, whose last row and column is the target, with the priors."""
        p = self.places
        matrix, vector = normal[:-1, :-1].copy(), normal[:-1, -1].copy()
        for k in (0, 1):
            here = slice(p[k], p[k + 1])
            matrix[here, here] += self.rigid
            vector[here] += self.rigid.sum(axis=1)
        for k in (2, 3):
            here = slice(p[k], p[k + 1])
            matrix[here, here] += self.free[freedom] + self.balance[k - 2]
        of_s = np.arange(p[4], p[6])
        matrix[of_s, of_s] += np.tile(1.0 / (max(freedom[0], 1e-4) * DEVIATIONS) ** 2, 2)
        known = np.diag(matrix)
        return matrix + np.diag(np.where(known > 0, 1e-12 * known, 1.0)), vector

    def fill_jacobian(self, mean: Any, parts: Any, bins: np.ndarray, columns: np.ndarray, slopes: np.ndarray) -> Any:
        """Fill ``slopes`` (pixel, a, r and s) with d model / d parameter by what the halves scatter over the knots.

        Return the model.
        """
        parameters, scattered = shapes.of_bins(self.parameters, BIN), np.empty((bins.size, 2), dtype=np.float32)
        middle = np.minimum(bins * BIN + BIN // 2, len(self.hat) - 1)
        hat, amplitude = self.hat[middle].astype(np.float32), self.amplitude[:, middle].astype(np.float32)
        p, model = self.places, 0.0
        for side in (0, 1):
            part = parts[:, side * (self.m + 1) : (side + 1) * (self.m + 1)]
            shape = part @ np.append(1.0, self.part(2 + side)).astype(np.float32)
            np.multiply(hat, shape[:, None], out=slopes[:, p[side] : p[side + 1]])
            np.multiply(amplitude[side][:, None], part[:, 1:], out=slopes[:, p[2 + side] : p[3 + side]])
            model = model + amplitude[side] * shape
        slopes[:, p[4] : p[6]] = 0.0
        for k, change in enumerate(shapes.changes_of(parameters, self.shape, mean.shape[1]) if self.shaped else ()):
            scatter_to(mean, change, bins, columns, scattered)
            for side in (0, 1):
                slopes[:, p[4 + side] + k] = amplitude[side] * scattered[:, side]
        return model

    def relative_variance(self, light: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the variance (y, x) of the stray light by that of a and r."""
        n_bin, n_x = -(-len(light) // BIN), light.shape[1]
        mean = np.empty((n_bin, n_x), dtype=np.float32)
        bin_light(light, BIN, mean)
        columns = np.arange(EDGE, n_x - EDGE, 4)
        bins, at = (a.ravel() for a in np.meshgrid(np.arange(n_bin), columns, indexing="ij"))
        parts = np.empty((bins.size, 2 * self.m + 2), dtype=np.float32)
        tables, broad, scatters = self.kernels
        design(mean, tables, broad, scatters, BIN, self.index, self.share, bins, at, parts)
        k = self.places[6]
        slopes = np.empty((bins.size, k), dtype=np.float32)
        model = self.fill_jacobian(mean, parts, bins, at, slopes)
        variance = np.einsum("ij,ij->i", slopes @ np.linalg.inv(self.precision)[:k, :k].astype(np.float32), slopes)
        shape = n_bin, columns.size
        return variance.reshape(shape), np.asarray(model).reshape(shape), columns


class _Pixels:
    """The usable bins of pixels between the slices: their derivatives, targets and weights."""

    def __init__(
        self, fit: Any, light: np.ndarray, leaked: np.ndarray, residual: np.ndarray, other: np.ndarray,
        noise: np.ndarray, doubt: np.ndarray,
    ) -> None:  # fmt: skip
        shape = -(-len(light) // BIN), light.shape[1]
        mean, leaks, value, second, weight = (np.empty(shape, dtype=np.float32) for _ in range(5))
        bin_light(light, BIN, mean)
        bin_light(leaked, BIN, leaks)
        bin_gaps(residual, other, noise, fit.rows, doubt, BIN, value, second, weight)
        bins, columns = (np.ascontiguousarray(places) for places in np.nonzero(weight))
        here = bins, columns
        parts = np.empty((bins.size, 2 * fit.m + 2), dtype=np.float32)
        tables, broad, scatters = fit.kernels
        design(mean, tables, broad, scatters, BIN, fit.index, fit.share, bins, columns, parts)
        self.rows = rows = np.empty((bins.size, fit.found.size + 1), dtype=np.float32)
        model = fit.fill_jacobian(mean, parts, bins, columns, rows)
        left = columns < HALVES[0][1]
        rows[:, -4] = 1.0
        rows[:, -3], rows[:, -2] = np.where(left, leaks[here], 0), np.where(left, 0, leaks[here])
        self.mean, self.parts, self.bins, self.columns = mean, parts, bins, columns
        # model + residual, about the point where the fit stands: f + J (p - p0) = target
        rows[:, -1] = value[here] + rows[:, :-1] @ fit.found.astype(np.float32)
        self.seen = value[here] + model + rows[:, -4:-1] @ fit.found[-3:].astype(np.float32)
        self.weight, self.left, self.second, self.leaks = weight[here], left, second[here], rows[:, -3:-1].astype(float)
        self.fold = fit.gap[here] % FOLDS
        self.cell = (fit.gap[here] * (shape[0] // _SCORE_BINS + 1) + bins // _SCORE_BINS).astype(int)
        self.inflation = _inflation(value[here], self.weight, bins)

    def linearise(self, fit: Any) -> None:
        """Fill the derivatives and targets about where the fit stands now."""
        rows, parameters = self.rows, shapes.reshaped(shapes.of_bins(fit.parameters, BIN), fit.shape)
        scattered = np.empty((self.bins.size, 2), dtype=np.float32)
        scatter_to(self.mean, shapes.tables_of(parameters, self.mean.shape[1])[0], self.bins, self.columns, scattered)
        self.parts[:, 0], self.parts[:, fit.m + 1] = scattered.T
        model = fit.fill_jacobian(self.mean, self.parts, self.bins, self.columns, rows)
        model = model + rows[:, -4:-1] @ fit.found[-3:].astype(np.float32)
        rows[:, -1] = self.seen - model + rows[:, :-1] @ fit.found.astype(np.float32)

    def normal(self, fold: int) -> np.ndarray:
        """Return the normal matrix (parameters and target) of a fold."""
        return normal_matrix(self.rows, self.weight, self.fold == fold)

    def scores(self, solutions: Any) -> np.ndarray:
        """Return (half) the misfit of the left-out cells over that of the baseline, whose leaks are fitted as well."""
        ours, theirs = np.empty_like(self.second), np.empty_like(self.second)
        for fold, found in enumerate(solutions):
            out, kept = self.fold == fold, self.fold != fold
            ours[out] = self.rows[out, -1] - self.rows[out, :-1] @ found.astype(np.float32)
            weighted = self.leaks[kept] * self.weight[kept, None]
            square = weighted.T @ self.leaks[kept]
            leak = np.linalg.lstsq(square, weighted.T @ self.second[kept], rcond=None)[0]
            theirs[out] = self.second[out] - self.leaks[out] @ leak
        scores = np.full(2, np.nan)
        for side, here in enumerate((self.left, ~self.left)):
            total = np.bincount(self.cell[here], self.weight[here])
            used = total > 0
            if used.sum() >= 2 * FOLDS:
                sums = [np.bincount(self.cell[here], self.weight[here] * off[here])[used] for off in (ours, theirs)]
                squares = [np.sum(one**2 / total[used]) for one in sums]
                scores[side] = np.sqrt(squares[0] / squares[1]) if squares[1] > 0 else np.nan
        return scores


def _gap_numbers(inside: np.ndarray) -> np.ndarray:
    """Return how many slices begin left of each pixel of some rows."""
    begins = inside[:, 1:] & ~inside[:, :-1]
    return np.concatenate([np.zeros((len(inside), 1), dtype=int), np.cumsum(begins, axis=1)], axis=1)


def subtract_fitted(
    image: np.ndarray, flags: np.ndarray, variance: np.ndarray, inside: np.ndarray, parameters: np.ndarray, first: int,
    last: int, rows: int, prior: float, step: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return corrected image, its added variance and scores (half) of one image (y, x); inside: slices.

    A half whose score is not below LIMIT gets the image of the baseline and no variance. Where the iteration has not
    converged, the scores are NaN.
    """
    plain = np.empty(image.shape, dtype=np.float32)
    image, flags, inside, parameters = read_only(image, flags, inside, parameters)
    subtract_kernel(image, flags, parameters, first, last, plain)
    good = np.isfinite(image) & ((flags & UNFIT) == 0)
    between = good & ~np.any([np.roll(inside, k, axis=1) for k in range(-MARGIN, MARGIN + 1)], axis=0)
    between[:, :EDGE] = between[:, -EDGE:] = False
    if not between.any():
        return plain, np.zeros_like(plain), np.full(2, np.nan)
    freedoms: Any = FREEDOMS
    for attempt in range(ATTEMPTS):
        fit = Fit(image, between, inside, parameters, rows, prior, step, freedoms)
        total, level, light, pedestal, converged = _free(image, flags, plain, fit, first, last)
        if (converged := converged and shapes.is_likely(fit.shape)) or fit.freedom == FREEDOMS[0]:
            break
        # of next to no stray light the profile is any: then a stiffer one, at last that of the table
        freedoms = FREEDOMS[: 1 if attempt == ATTEMPTS - 2 else FREEDOMS.index(fit.freedom)]
    scores = fit.scores if converged else np.full(2, np.nan)
    added = np.zeros_like(plain)
    if (scores < LIMIT).any():
        out = image - total
        out[:, EDGE:-EDGE] -= level
        weight = np.where(good, np.nan_to_num(variance, nan=0.0, posinf=0.0), 0.0).astype(np.float32)
        found = _variance(fit, light, weight, total) + np.float32(pedestal)
        for side, (begin, end) in enumerate(((0, HALVES[0][1]), (HALVES[0][1], image.shape[1]))):
            if scores[side] < LIMIT:
                plain[:, begin:end], added[:, begin:end] = out[:, begin:end], found[:, begin:end]
        added[:, :EDGE] = added[:, -EDGE:] = 0.0
    return plain, added, scores


def _free(
    image: np.ndarray, flags: np.ndarray, plain: np.ndarray, fit: Any, first: int, last: int,
) -> tuple[np.ndarray, Any, np.ndarray, Any, bool]:  # fmt: skip
    """Iterate light and kernels. Return (stray light, level, light, variance of the level, whether it converged)."""
    models = np.zeros((2, *image.shape), dtype=np.float32)
    _, middle, spread = clipped_statistics(strip_values(image, models[0], first, last, False))
    level, noise = (np.float32(middle), np.float32(spread)) if middle == middle else (np.float32(0), np.float32(0))
    sources, light = np.empty_like(models[0]), np.empty_like(models[0])
    clean_sources(image, flags, level, np.float32(10.0) * noise, sources)
    (tables, broad, scatters), amplitude = fit.kernels, fit.amplitude  # arrays that the fit changes in place
    old, converged, pedestal = None, False, 0.0
    changes: list[Any] = []
    for sweep in range(MOST_SWEEPS + 1):
        direct_light(sources, level, amplitude, models, light)
        last_one = converged or sweep == MOST_SWEEPS
        if sweep >= FIRST_FIT and not last_one:  # a pixel must not predict its own noise
            light[fit.between] = 0.0
            scatter_between(light, tables, broad, scatters, fit.profile, fit.between, models)
            fit.improve(light, models, plain, _STAGES[min(sweep - FIRST_FIT, len(_STAGES) - 1)])
            amplitude = fit.amplitude
        scatter_halves(light, tables, broad, scatters, fit.profile, False, models)
        total = _combined(models, amplitude)
        level, pedestal = _pedestal(_quiet_strip(image, total, first, last, fit), fit)
        if last_one:
            break
        means = _block_means(total)
        if sweep >= FIRST_FIT + len(_STAGES):
            changes.append(np.abs(means - old).max())
            limit = CONVERGED * noise + 1e-4 * np.abs(means).max()
            converged = changes[-1] <= limit
            if not converged and _is_lost(changes, limit, MOST_SWEEPS - sweep):
                break
        old = means
    return total, level, light, pedestal, converged


def _is_lost(changes: list[Any], limit: Any, sweeps: int) -> bool:
    """Return True where changes that go on as they did are above a limit after so many more sweeps."""
    if len(changes) <= PATIENCE:
        return False
    now, before = changes[-1], changes[-1 - PATIENCE]
    return bool(now >= before or now * (now / before) ** (sweeps / PATIENCE) > limit)


def _block_means(image: np.ndarray) -> np.ndarray:
    n_y, n_x = (k // 16 * 16 for k in image.shape)
    return image[:n_y, :n_x].reshape(n_y // 16, 16, n_x // 16, 16).mean(axis=(1, 3))


def _variance(fit: Any, light: np.ndarray, weight: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Return the variance (y, x) of the stray light: noise of the sources, and of the kernels as of their bins."""
    squares = np.empty((2, *light.shape), dtype=np.float32)
    tables, broad, scatters = fit.kernels
    scatter_halves(weight, tables, broad, scatters, fit.profile, True, squares)
    out = _combined(squares, fit.amplitude**2)
    found, model, columns = fit.relative_variance(light)
    x = np.arange(light.shape[1])
    for b in range(len(found)):
        here = slice(b * BIN, (b + 1) * BIN)
        mean = np.interp(x, columns, model[b])
        ratio = np.divide(total[here], mean, out=np.ones_like(total[here]), where=np.abs(mean) > 1e-9)
        out[here] += np.clip(ratio, 0.2, 5.0) ** 2 * np.interp(x, columns, found[b]).astype(np.float32)
    return out


def _quiet_strip(image: np.ndarray, model: np.ndarray, first: int, last: int, fit: Any) -> np.ndarray:
    """Return the values of the strip where no shower was seen, of all of it where that is too little."""
    if fit.showers.any():
        quiet = image.copy()
        drop_cells(quiet, fit.showers)
        (quiet,) = read_only(quiet)
        strip = strip_values(quiet, model, first, last, False)
        if strip.size >= LEAST_STRIP:
            return strip
    return strip_values(image, model, first, last, False)


def _pedestal(strip: np.ndarray, fit: Any) -> tuple[Any, Any]:
    """Return (pedestal, its variance): of all pixels between the slices where the strip agrees, else of the strip."""
    n = strip.size
    _, median, noise = clipped_statistics(strip)
    if not median == median:
        return np.float32(0.0), 0.0
    variance = 0.5 * np.pi * noise**2 / n * fit.inflation
    if fit.level_variance < variance and (fit.level - median) ** 2 < 9.0 * variance:
        return np.float32(fit.level), fit.level_variance
    return np.float32(median), variance


def _combined(models: Any, amplitude: np.ndarray) -> np.ndarray:
    weights = amplitude.astype(np.float32)[:, :, None]
    return weights[0] * models[0] + weights[1] * models[1]


def _showers(pulls: np.ndarray) -> np.ndarray:
    """Return True for the cells that stand out of the others, and their neighbours: what lies there is no model's."""
    known = np.isfinite(pulls)
    if known.sum() < 20:
        return np.zeros(pulls.shape, dtype=bool)
    middle, spread = middle_and_scatter(pulls[known])
    far = np.zeros((pulls.shape[0] + 2, pulls.shape[1] + 2), dtype=bool)
    far[1:-1, 1:-1] = known & (np.abs(pulls - middle) > SHOWER * max(1.0, spread))
    n_y, n_x = pulls.shape
    shifts = [far[i : i + n_y, j : j + n_x] for i in range(3) for j in range(3)]
    return np.any(shifts, axis=0)


def _inflation(value: np.ndarray, weight: np.ndarray, bins: np.ndarray) -> float:
    """Return by how much the variance of the means of bins of rows exceeds that of independent pixels, at least 1."""
    total = np.bincount(bins, weight)
    known = total > 0
    if known.sum() < 10:
        return 1.0
    pulls = np.bincount(bins, weight * value)[known] / np.sqrt(total[known])
    return max(1.0, float(middle_and_scatter(pulls)[1] ** 2))


def fitted_wrapper(
    rate: np.ndarray, dq: np.ndarray, variance: np.ndarray, inside: np.ndarray, parameters: np.ndarray,
    first: int = 503, last: int = 516, rows: int = 64, prior: float = 0.3, step: float = 0.05,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return rates and variance of the correction (dither, y, x) and scores (dither, half).

    inside (y, x), parameters (half, 6, y).
    """
    out, added = (np.empty(rate.shape, dtype=np.float32) for _ in range(2))
    scores = np.empty((len(rate), 2), dtype=np.float32)
    table, inside = np.ascontiguousarray(parameters, dtype=np.float64), np.asarray(inside, dtype=bool)
    for d in range(len(rate)):
        out[d], added[d], scores[d] = subtract_fitted(
            rate[d], dq[d], variance[d], inside, table, first, last, rows, prior, step
        )
    return out, added, scores
