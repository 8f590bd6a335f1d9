"""Kernels of background matching on plain arrays: robust means of small cells, and functions on detector pixels."""

import numpy as np

from mrsxr._clip_kernels import MAD_TO_SIGMA
from mrsxr._median_kernels import median_of
from mrsxr._solve_kernels import invert
from mrsxr.compiled import Array, njit, read_only

_MOST_ROUNDS, _STILL = 200, 1e-3  # of a reweighted fit; of the error of a mean


@njit(cache=True, nogil=True)
def _cell_means(flux, var, order, start, along, wave, clip, least, out):
    """Fill out (cell, 5): mean flux, its variance, mean along, mean wave, number; number 0 where too few are good."""
    n_cell = start.size - 1
    widest = 0
    for c in range(n_cell):
        widest = max(widest, start[c + 1] - start[c])
    work = np.empty(widest)
    for c in range(n_cell):
        n = 0
        for k in range(start[c], start[c + 1]):
            value = flux[order[k]]
            if np.isfinite(value) and np.isfinite(var[order[k]]):
                work[n] = value
                n += 1
        if n < least * (start[c + 1] - start[c]) or n == 0:
            continue
        middle = median_of(work, n)
        for k in range(n):
            work[k] = abs(work[k] - middle)
        limit = clip * MAD_TO_SIGMA * median_of(work, n)
        kept, total, variance, place, colour = 0, 0.0, 0.0, 0.0, 0.0
        for k in range(start[c], start[c + 1]):
            i = order[k]
            if np.isfinite(flux[i]) and np.isfinite(var[i]) and abs(flux[i] - middle) <= limit:
                kept += 1
                total += flux[i]
                variance += var[i]
                place += along[i]
                colour += wave[i]
        out[c, 0] = total / kept
        out[c, 1] = variance / kept / kept
        out[c, 2] = place / kept
        out[c, 3] = colour / kept
        out[c, 4] = kept


def cell_means(
    flux: Array, var: Array, order: Array, start: Array, along: Array, wave: Array, clip: float, least: float
) -> Array:
    """Return the robust mean of every cell of a frame.

    flux, var, along and wave are flattened frames, order[start[c] : start[c + 1]] the pixels of cell c. Pixels beyond
    ``clip`` sigma (by the median absolute deviation) of the median are left out, as are NaN; a cell needs the share
    ``least`` of its pixels. Returns (cell, 5): mean, variance of the mean, mean of along and of wave, number of pixels.
    """
    out = np.zeros((start.size - 1, 5))
    _cell_means(np.ascontiguousarray(flux), np.ascontiguousarray(var), order, start, along, wave, clip, least, out)
    return out


@njit(cache=True, nogil=True)
def _fill_terms(a, b, terms):
    """Fill in 1, alpha, beta, alpha^2, alpha beta, beta^2 as far as there is room."""
    terms[0] = 1.0
    if terms.size > 1:
        terms[1] = a
        terms[2] = b
    if terms.size > 3:
        terms[3] = a * a
        terms[4] = a * b
        terms[5] = b * b


@njit(cache=True, nogil=True, forceinline=True)
def _level(table, row, terms):
    """Sum of the coefficients in a row of a table times terms."""
    total = 0.0
    for p in range(terms.size):
        total += table[row, p] * terms[p]
    return total


@njit(cache=True, nogil=True, forceinline=True)
def _spread(table, row, terms):
    """Variance of that sum; the upper triangle of the covariance follows the coefficients, row by row."""
    total, k = 0.0, terms.size
    for p in range(terms.size):
        total += table[row, k] * terms[p] * terms[p]
        k += 1
        for q in range(p + 1, terms.size):
            total += 2.0 * table[row, k] * terms[p] * terms[q]
            k += 1
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _functions(flux, known, alpha, beta, wavelength, side, table, facts, n_term, independent, out, spread):
    """Take the tables (side node, entry) of one exposure off a frame; nothing where side is negative."""
    n_node = table.shape[0] // facts.shape[0]
    last, terms = n_node - 1, np.empty(n_term)
    for y in range(flux.shape[0]):
        for x in range(flux.shape[1]):
            s, level, variance, place = side[y, x], 0.0, 0.0, np.nan
            if s >= 0:
                place = 0.0
                if last > 0:
                    place = (wavelength[y, x] - facts[s, 2]) / (facts[s, 3] - facts[s, 2]) * last
            if np.isfinite(place):
                place = min(max(place, 0.0), float(last))
                k = min(int(place), max(last - 1, 0))
                t, low, high = place - k, s * n_node + k, s * n_node + min(k + 1, last)
                _fill_terms(np.float64(alpha[y, x]), np.float64(beta[y, x]), terms)
                level = (1 - t) * _level(table, low, terms) + t * _level(table, high, terms)
                below, above = _spread(table, low, terms), _spread(table, high, terms)
                variance = (1 - t) * below + t * above
                if independent == 1:
                    variance -= t * (1 - t) * (table[low, n_term] + table[high, n_term])
                elif independent == 2:
                    variance -= t * (1 - t) * (below + above)
                variance = facts[s, 0] * facts[s, 0] * max(variance, 0.0) + facts[s, 1] * level * level
                level *= facts[s, 0]
            out[y, x] = flux[y, x] - level
            spread[y, x] = known[y, x] + variance if np.isfinite(flux[y, x]) else np.nan


def subtract_functions(
    flux: Array, known: Array, alpha: Array, beta: Array, wavelength: Array, side: Array, table: Array, facts: Array,
    *, n_side: int, n_term: int, independent: int,
) -> tuple[Array, Array]:  # fmt: skip
    """Return flux less a function of (alpha, beta, wavelength), and its variance added to ``known``.

    flux and known (dither, y, x); side (y, x) int8 the row of ``table`` of each pixel, -1 for none. table
    (dither, side * node * entry, 1, 1): a node holds the coefficients of 1, alpha, beta, alpha^2, alpha beta, beta^2,
    as many as ``n_term``, and the upper triangle of their covariance; between nodes, which lie at equal steps of the
    wavelength, values and variances are interpolated, beyond the ends they stay. facts (dither, side * 4, 1, 1): factor
    of the function, variance of the factor, wavelength of the first and of the last node [um].
    """
    n_entry = n_term + n_term * (n_term + 1) // 2
    flux, known, side, table, facts = read_only(flux, known, side, table, facts)
    table, facts = table.reshape(table.shape[0], -1, n_entry), facts.reshape(facts.shape[0], n_side, 4)
    out, spread = np.empty(flux.shape, dtype=np.float32), np.empty(flux.shape, dtype=np.float32)
    alpha, beta, wavelength = read_only(
        *(one.astype(kind, copy=False) for one, kind in ((alpha, "f4"), (beta, "f4"), (wavelength, "f8")))
    )
    for d in range(flux.shape[0]):
        _functions(flux[d], known[d], alpha, beta, wavelength, side, table[d], facts[d], n_term, independent, out[d],
                   spread[d])  # fmt: skip
    return out, spread


@njit(cache=True, nogil=True)
def _fit_weighted(values, alpha, beta, weight, inverse, answer):
    """Weighted least squares of a polynomial over the field; False where the pixels do not determine it."""
    n_term = answer.size
    terms, vector, matrix = np.empty(n_term), np.zeros(n_term), np.zeros((n_term, n_term))
    for i in range(values.size):
        if weight[i] == 0.0:
            continue
        _fill_terms(alpha[i], beta[i], terms)
        for p in range(n_term):
            vector[p] += weight[i] * values[i] * terms[p]
            for q in range(n_term):
                matrix[p, q] += weight[i] * terms[p] * terms[q]
    if not invert(matrix, inverse, 1e-12):
        return False
    for p in range(n_term):
        answer[p] = 0.0
        for q in range(n_term):
            answer[p] += inverse[p, q] * vector[q]
    return True


@njit(cache=True, nogil=True)
def _residuals(values, alpha, beta, answer, residual, work):
    """Fill in the residuals; return their sigma by the median absolute deviation."""
    table, terms = np.expand_dims(answer, 0), np.empty(answer.size)
    for i in range(values.size):
        _fill_terms(alpha[i], beta[i], terms)
        residual[i] = values[i] - _level(table, 0, terms)
        work[i] = abs(residual[i])
    return MAD_TO_SIGMA * median_of(work, values.size)


@njit(cache=True, nogil=True)
def _reweighted(values, alpha, beta, clip, median, rounds, answer, covariance, work):
    """Fit by rounds of weighted least squares from ``answer`` on; 1 where it converged, 0 where not, -1 without a fit.

    Weights drop what lies beyond ``clip`` sigma or, with ``median``, make the squares absolute deviations. It has
    converged where the model [rms] moves by less than a thousandth of the error of a mean, in a round or, as a pixel at
    the limit may go in and out, in two.
    """
    n, n_term = values.size, answer.size
    residual, weight, terms = np.empty(n), np.empty(n), np.empty(n_term)
    before, earlier, moved = np.full(n_term, 1e150), np.empty(n_term), np.empty((2, n_term))
    for _ in range(rounds):
        sigma = _residuals(values, alpha, beta, answer, residual, work)
        for i in range(n):
            if median:
                weight[i] = 1.0 / max(abs(residual[i]), 0.02 * sigma + 1e-30)
            else:
                weight[i] = 1.0 if abs(residual[i]) <= clip * sigma else 0.0
        earlier[:] = before
        before[:] = answer
        if not _fit_weighted(values, alpha, beta, weight, covariance, answer):
            return -1
        moved[0], moved[1] = before - answer, earlier - answer
        once, twice = 0.0, 0.0
        for i in range(n):
            _fill_terms(alpha[i], beta[i], terms)
            once += _level(moved, 0, terms) ** 2
            twice += _level(moved, 1, terms) ** 2
        if min(once, twice) <= (_STILL * sigma) ** 2:
            return 1
    return 0


@njit(cache=True, nogil=True)
def _fit_one(values, alpha, beta, clip, median, rounds, answer, covariance, means):
    """Fit one bin; return the number of pixels that count, 0 where it could not be fitted, and whether it converged."""
    n, n_term = values.size, answer.size
    residual, work, weight, terms = np.empty(n), values.copy(), np.empty(n), np.empty(n_term)
    answer[:] = 0.0
    answer[0] = median_of(work, n)
    converged = _reweighted(values, alpha, beta, clip, False, rounds, answer, covariance, work)
    if median and n_term > 1 and converged >= 0:  # least absolute deviations begin where least squares end
        converged = _reweighted(values, alpha, beta, clip, True, rounds, answer, covariance, work)
    if converged < 0:
        return 0, False
    sigma = _residuals(values, alpha, beta, answer, residual, work)
    kept, square = 0, 0.0
    means[:] = 0.0
    for i in range(n):
        weight[i] = 1.0 if abs(residual[i]) <= clip * sigma else 0.0
        if weight[i] > 0.0:
            kept += 1
            square += residual[i] * residual[i]
            _fill_terms(alpha[i], beta[i], terms)
            means += terms
    means /= max(kept, 1)
    last = answer.copy()
    if kept <= n_term or not _fit_weighted(values, alpha, beta, weight, covariance, last):
        return 0, False
    if median and n_term == 1:
        work[:] = values
        answer[0] = median_of(work, n)
    covariance *= square / (kept - n_term) * (0.5 * np.pi if median else 1.0)
    return kept, converged == 1 or (median and n_term == 1)


@njit(cache=True, nogil=True)
def _fit_bins(flux, order, start, along, across, clip, median, rounds, out, covariance, means, number, converged):
    """Fit every bin of a frame robustly; see fit_bins."""
    n_term = out.shape[1]
    for c in range(start.size - 1):
        pixels = order[start[c] : start[c + 1]]
        pixels = pixels[np.isfinite(flux[pixels])]
        if pixels.size < 4 * n_term:
            continue
        number[c], converged[c] = _fit_one(flux[pixels], along[pixels], across[pixels], clip, median, rounds, out[c],
                                         covariance[c], means[c])  # fmt: skip
        if number[c] == 0:
            out[c], covariance[c], means[c] = np.nan, np.nan, np.nan


def fit_bins(
    flux: Array, order: Array, start: Array, along: Array, across: Array, n_term: int, clip: float, median: bool
) -> tuple[Array, Array, Array, Array, Array]:
    """Fit a polynomial over the field to the pixels of every bin of a frame, without outliers.

    flux, along (alpha) and across (beta) are flattened frames, order[start[c] : start[c + 1]] the pixels of bin c. The
    mean (least squares without pixels beyond ``clip`` sigma) or the median (least absolute deviations). Returns
    coefficients (bin, term), NaN where too few pixels are good, their covariance by the scatter of the pixels, the
    means of the terms, the number of pixels and whether the fit converged.
    """
    n = start.size - 1
    out, means = np.full((n, n_term), np.nan), np.full((n, n_term), np.nan)
    covariance, number = np.full((n, n_term, n_term), np.nan), np.zeros(n, dtype=np.int64)
    converged = np.zeros(n, dtype=np.bool_)
    _fit_bins(np.ascontiguousarray(flux), order, start, along, across, clip, median, _MOST_ROUNDS,
              out, covariance, means, number, converged)  # fmt: skip
    return out, covariance, means, number, converged
