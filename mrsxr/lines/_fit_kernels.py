"""Kernels that fit lines spectrum after spectrum: starts, choice of the best, covariance, limits, draws.

The words and tuples are those of ``_descent_kernels``.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrsxr._solve_kernels import cholesky, substitute
from mrsxr.compiled import Array, njit

from ._descent_kernels import C, descend, evaluate, freeze, gram, line_width, normal, profile, project
from ._residual_kernels import correlation, fringe
from ._start_kernels import (
    N_FIRST,
    N_ITER,
    N_SHIFTS,
    SHIFT,
    farther,
    first_start,
    held,
    known,
    next_start,
    overlap,
    settle,
)  # fmt: skip

CONVERGED, AT_BOUND, TRIED = 1, 2, 4  # bits of the status of a fit
_N_TRIES, _N_BEST = 6, 2


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_one(found, low, high, reach, both_signs, setup, voxels, m, work, second):
    """Fill the best of several fits with one component and the next best elsewhere; return (converged, excess of that).

    Each start goes to the end; of lines that overlap, those that come to what another one found are left there.
    """
    several = setup[0].size > 1
    n_first = 3 if several else 2
    n_tries = n_first + (N_SHIFTS if setup[0].size > setup[3].size else 0)
    tries, score, done = np.empty((n_tries, found.size)), np.full(n_tries, np.inf), np.zeros(n_tries, dtype=np.bool_)
    rest, plain, best, at = voxels[4].copy(), 0.0, np.inf, 0
    for i in range(m):
        plain += rest[i] ** 2
    for number in range(n_first):
        if number == 1 and done[0] and not several and not held(found, low, high):
            break
        voxels[4][:m] = rest[:m]
        x = tries[number]
        first_start(number, voxels, m, setup, reach, both_signs, x)
        for q in range(found.size):
            x[q] = min(max(x[q], low[q]), high[q])
        if n_tries > n_first and number > 0 and overlap(found, setup):
            descend(x, low, high, 1, False, N_FIRST, setup, voxels, m, work)
            if known(number, tries, score, setup):
                continue
        score[number], done[number] = descend(x, low, high, 1, False, N_ITER, setup, voxels, m, work)
        gain = 0.0 if number == 0 else farther(x, found, setup) * SHIFT * best / m
        if score[number] < best - gain or (score[number] == best and done[number]):
            best, at = score[number], number
            found[:] = x
    if n_tries == n_first or not best < np.inf:
        return done[at], np.inf
    at, other, excess = settle(at, tries, score, done, low, high, both_signs, plain, setup, voxels, m, work)
    found[:] = tries[at]
    if other >= 0:
        second[:] = tries[other]
    return done[at], excess


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_more(k, before, found, low, high, reach, both_signs, setup, voxels, m, work, second):
    """Fill the best of several fits with k > 1 components and the next best; return (converged, excess of that).

    Short fits go out from all starts; the best of them go on.
    """
    tries, score = np.empty((_N_TRIES, found.size)), np.full(_N_TRIES, np.inf)
    rest, final = voxels[4].copy(), score.copy()  # of k - 1 components
    best, at, ended = np.inf, 0, False
    for number in range(_N_TRIES + _N_BEST):
        index, n_iter = number, N_FIRST
        if number < _N_TRIES:
            voxels[4][:m] = rest[:m]
            next_start(number, k, before, voxels, m, setup, reach, both_signs, tries[number])
            for q in range(found.size):
                tries[number, q] = min(max(tries[number, q], low[q]), high[q])
        else:
            index, n_iter = int(np.argmin(score)), N_ITER
            if not score[index] < np.inf:
                break
        chi2, done = descend(tries[index], low, high, k, not both_signs, n_iter, setup, voxels, m, work)
        if chi2 < best or (chi2 == best and done):
            best, at, ended = chi2, index, done
            found[:] = tries[index]
        score[index] = chi2
        if number >= _N_TRIES:
            score[index], final[index] = np.inf, chi2
    final[at] = np.inf
    second[:] = tries[int(np.argmin(final))]
    return ended, np.min(final) - best


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _invert(matrix, n, frozen, slope, factor):
    """Invert a matrix in place, scaled to a unit diagonal; frozen parameters get 0. False where it is singular."""
    freeze(matrix, n, frozen)
    for a in range(n):
        slope[a] = 1.0 / math.sqrt(matrix[a, a]) if matrix[a, a] > 0.0 else 0.0
    for a in range(n):
        for b in range(n):
            factor[a, b] = matrix[a, b] * slope[a] * slope[b]
    if not cholesky(factor, n):
        return False
    column = np.empty(n)
    for a in range(n):
        column[:] = 0.0
        column[a] = 1.0
        substitute(factor, n, column)
        for b in range(n):
            matrix[b, a] = 0.0 if frozen[a] or frozen[b] else column[b] * slope[a] * slope[b]
    return True


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _parameters(x, k, setup, coef, theta):
    """Fill continuum, then flux, velocity, width of each feature."""
    mu0, inst, group, reference, n_cont = setup
    theta[:n_cont] = coef[:n_cont]
    for f in range(mu0.size * k):
        line = f // k
        a, j = n_cont + 3 * f, 2 * (group[line] * k + f % k)
        theta[a], theta[a + 1] = coef[n_cont + f], x[j]
        theta[a + 2] = line_width(x[j + 1], inst[line], reference[group[line]])


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _covariance(x, low, high, k, setup, voxels, m, work, theta, cov):
    """Fill parameters (continuum, then flux, velocity, width of each feature) and covariance; return the status."""
    mu0, _, group, _, n_cont = setup
    coef, slope, frozen, matrix, factor = work[2:]
    n_lin = n_cont + mu0.size * k
    n, size = n_lin + x.size, n_cont + 3 * mu0.size * k
    normal(x, low, high, k, setup, voxels, m, work)
    for q in range(x.size):
        frozen[n_lin + q] = frozen[n_lin + q] or x[q] <= low[q] or x[q] >= high[q]
    frozen[:n_lin] = False
    good = _invert(matrix, n, frozen, slope, factor)
    index, by = np.arange(size), np.ones(size)
    _parameters(x, k, setup, coef, theta)
    for f in range(mu0.size * k):
        a, j = n_cont + 3 * f, 2 * (group[f // k] * k + f % k)
        index[a], index[a + 1], index[a + 2], by[a + 2] = n_cont + f, n_lin + j, n_lin + j + 1, x[j + 1] / theta[a + 2]
    for a in range(size):
        for b in range(size):
            cov[a, b] = by[a] * by[b] * matrix[index[a], index[b]] if good else np.nan
    return AT_BOUND if held(x, low, high) else 0


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _limits(width, setup, voxels, m, work, out):
    """Fill the error of the flux of each line at velocity 0 and a given intrinsic width [km/s], alone and in turn."""
    mu0, inst, _, _, n_cont = setup
    rows, slopes, factor = work[0], work[1], work[6]
    column = np.zeros(n_cont + 1)
    for line in range(mu0.size):
        scale = mu0[line] / C
        s = math.sqrt(inst[line] ** 2 + width * width) * scale
        profile(
            voxels[2], voxels[3], voxels[1], m, mu0[line], s, scale, scale, rows[n_cont], slopes[0, 0], slopes[1, 0]
        )
        gram(rows, n_cont + 1, m, factor)
        out[line] = np.nan
        if cholesky(factor, n_cont + 1):
            column[:] = 0.0
            column[n_cont] = 1.0
            substitute(factor, n_cont + 1, column)
            out[line] = math.sqrt(column[n_cont])


@njit(cache=True, nogil=True, error_model="numpy")
def _gather(spectra, s, n_cont, voxels, rows):
    """Fill the good voxels of a spectrum, divided by their errors, and the rows of the continuum; return how many."""
    values, errors, lo, hi, t, shape = spectra
    y, inv, low_edge, high_edge, _ = voxels
    m = 0
    for i in range(values.shape[1]):
        if math.isfinite(values[s, i]) and math.isfinite(errors[s, i]) and errors[s, i] > 0.0:
            inv[m] = 1.0 / errors[s, i]
            y[m], low_edge[m], high_edge[m] = values[s, i] * inv[m], lo[i], hi[i]
            power = inv[m] * shape[i]
            for a in range(n_cont):
                rows[a, m] = power
                power *= t[i]
            m += 1
    return m


@njit(cache=True, nogil=True, error_model="numpy")
def _bounds(k, setup, reach, widest, narrowest, low, high):
    reference = setup[3]
    for g in range(reference.size):
        for c in range(k):
            j = 2 * (g * k + c)
            low[j], high[j] = -reach[g], reach[g]
            low[j + 1], high[j + 1] = narrowest * reference[g], max(widest, 2.0 * reference[g])


@njit(cache=True, nogil=True, error_model="numpy")
def _core(theta, n_cont, k, mu0, voxels, m, out):
    """Count the good voxels within 1.5 widths (1.5 voxels at least) of the first component of each line."""
    lo, hi = voxels[2], voxels[3]
    for line in range(mu0.size):
        a, scale = n_cont + 3 * line * k, mu0[line] / C
        mu = mu0[line] + theta[a + 1] * scale
        out[line] = 0
        for i in range(m):
            if abs(0.5 * (lo[i] + hi[i]) - mu) <= max(1.5 * theta[a + 2] * scale, 1.5 * (hi[i] - lo[i])):
                out[line] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _room(n_vox, n_cont, n_lines, n_groups, k):
    """Return empty tuples voxels and work."""
    size = n_cont + (n_lines + 2 * n_groups) * k
    voxels = (np.empty(n_vox), np.empty(n_vox), np.empty(n_vox), np.empty(n_vox), np.empty(n_vox))
    work = (
        np.empty((size, n_vox)), np.empty((2, n_lines * k, n_vox)), np.empty(size), np.empty(size),
        np.zeros(size, dtype=np.bool_), np.empty((size, size)), np.empty((size, size)),
    )  # fmt: skip
    return voxels, work


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_batch(
    spectra, lines, n_cont, k_max, always, both_signs, narrowest, widest, limit_width, theta, cov, chi2, status, count,
    core, limits, waves, length, other, excess,
):  # fmt: skip
    """Fit the continuum alone and 1 .. k_max components to each spectrum; see the wrapper :func:`fit`."""
    mu0, inst, group, reference, reach = lines
    n_lines, n_groups = mu0.size, reach.size
    setup = (mu0, inst, group, reference, n_cont)
    voxels, work = _room(spectra[0].shape[1], n_cont, n_lines, n_groups, k_max)
    low, high = np.empty(2 * n_groups * k_max), np.empty(2 * n_groups * k_max)
    for s in range(spectra[0].shape[0]):
        m = _gather(spectra, s, n_cont, voxels, work[0])
        count[s] = m
        if m < n_cont + 3:
            continue
        _limits(limit_width, setup, voxels, m, work, limits[s])
        chi2[s, 0] = project(voxels, m, n_cont, n_cont, both_signs, work)
        before = low[:0].copy()
        for k in range(1, k_max + 1):
            n_x = 2 * n_groups * k
            if m < n_cont + n_lines * k + n_x + 2:
                break
            if k > 1 and not always and (chi2[s, 0] - chi2[s, k - 1]) * (m - n_cont) < 9.0 * chi2[s, k - 1]:
                break
            _bounds(k, setup, reach, widest, narrowest, low, high)
            found, second = np.empty(n_x), np.empty(n_x)
            limits_of = (low[:n_x], high[:n_x], reach, both_signs)
            if k == 1:
                ended, excess[s, 0] = _fit_one(found, *limits_of, setup, voxels, m, work, second)
            else:
                ended, excess[s, k - 1] = _fit_more(k, before, found, *limits_of, setup, voxels, m, work, second)
            n_lin, positive = n_cont + n_lines * k, k > 1 and not both_signs
            if excess[s, k - 1] < np.inf:
                evaluate(second, k, setup, voxels, m, work)
                project(voxels, m, n_cont, n_lin, positive, work)
                _parameters(second, k, setup, work[2], other[s, k - 1])
            evaluate(found, k, setup, voxels, m, work)
            chi2[s, k] = project(voxels, m, n_cont, n_lin, positive, work)
            bound = _covariance(found, low[:n_x], high[:n_x], k, setup, voxels, m, work, theta[s, k - 1], cov[s, k - 1])
            status[s, k - 1] = TRIED | bound | (CONVERGED if ended else 0)
            _core(theta[s, k - 1], n_cont, k, mu0, voxels, m, core[s, k - 1])
            fringe(voxels, m, theta[s, k - 1], n_cont, mu0, k, waves[s, k - 1])
            length[s, k - 1] = correlation(voxels[4], m)
            before = found


@njit(cache=True, nogil=True, error_model="numpy")
def _random(state):
    """Advance a generator (splitmix64, Steele et al. 2014) and return a number in (0, 1)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (float(z >> np.uint64(11)) + 0.5) / 9007199254740992.0


@njit(cache=True, nogil=True, error_model="numpy")
def _totals(x, k, setup, coef, out):
    """Fill flux, mean velocity and second moment [km/s, squared] of each line."""
    mu0, inst, group, reference, n_cont = setup
    for line in range(mu0.size):
        total = mean = square = 0.0
        for c in range(k):
            j, flux = 2 * (group[line] * k + c), coef[n_cont + line * k + c]
            w = line_width(x[j + 1], inst[line], reference[group[line]])
            total += flux
            mean += flux * x[j]
            square += flux * (w * w + x[j] * x[j])
        out[line, 0], out[line, 1] = total, mean / total
        out[line, 2] = square / total - (mean / total) ** 2


@njit(cache=True, nogil=True, error_model="numpy")
def _draw_batch(
    spectra, lines, n_cont, k_max, both_signs, narrowest, widest, start, components, noise, seeds, out
):  # fmt: skip
    """Fit noisy copies of the fitted models; see the wrapper :func:`draw`."""
    mu0, inst, group, reference, reach = lines
    n_groups = reach.size
    setup = (mu0, inst, group, reference, n_cont)
    voxels, work = _room(spectra[0].shape[1], n_cont, mu0.size, n_groups, k_max)
    low, high = np.empty(2 * n_groups * k_max), np.empty(2 * n_groups * k_max)
    state = np.empty(1, dtype=np.uint64)
    for s in range(spectra[0].shape[0]):
        k = components[s]
        if k == 0:
            continue
        n_x, positive = 2 * n_groups * k, k > 1 and not both_signs
        m = _gather(spectra, s, n_cont, voxels, work[0])
        _bounds(k, setup, reach, widest, narrowest, low, high)
        evaluate(start[s, :n_x], k, setup, voxels, m, work)
        project(voxels, m, n_cont, n_cont + mu0.size * k, positive, work)
        model = voxels[0][:m] - voxels[4][:m]
        state[0] = seeds[s]
        for n in range(out.shape[1]):
            for i in range(m):
                radius = math.sqrt(-2.0 * math.log(_random(state)))
                voxels[0][i] = model[i] + noise[s] * radius * math.cos(2.0 * math.pi * _random(state))
            x = start[s, :n_x].copy()
            descend(x, low[:n_x], high[:n_x], k, positive, N_ITER, setup, voxels, m, work)
            _totals(x, k, setup, work[2], out[s, n])


def fit(
    spectra: Sequence[Any], lines: Sequence[Any], *, n_cont: int, k_max: int, always: bool, both_signs: bool,
    narrowest: float, widest: float, limit_width: float,
) -> dict[str, Array]:  # fmt: skip
    """Fit many spectra of one window; wavelengths in um, velocities in km/s.

    Parameters
    ----------
    spectra : tuple
        Values and errors (spectrum, voxel): flux per um; voxels that are not finite or have no positive error are left
        out. Then on (voxel), by wavelength: lower and upper edges; the variable of the polynomial, within -1 .. 1, and
        what the polynomial is multiplied by.
    lines : tuple
        On (line): wavelength at velocity 0, instrument sigma, number of the group that shares kinematics; on (group):
        largest absolute velocity.
    n_cont, k_max : int
        Terms of the polynomial; most components.
    always : bool
        Fit several components also where one gains little on the continuum.
    both_signs : bool
        Fluxes of several components may be negative; that of one always may.
    narrowest, widest : float
        Limits of the observed width, in instrument widths and in km/s.
    limit_width : float
        Intrinsic width of upper limits.

    Returns
    -------
    dict
        ``theta`` (spectrum, model, parameter: continuum, then flux, velocity, observed width of each component of
        each line), ``cov``, ``chi2`` (spectrum, 0 .. k_max components), ``status`` (bits CONVERGED, AT_BOUND, TRIED),
        ``count`` of good voxels, ``core`` (those at each line), ``limits`` (error of the flux at fixed shape) and
        ``fringe`` (chance that the residuals hold no wave, and its amplitude), ``length`` (of the correlation of the
        residuals, in voxels), ``other`` (``theta`` of the next likely solution elsewhere) and ``excess`` (chi2 by which
        that is less likely, inf where there is none); NaN where there is no fit. Parameters at a bound have
        covariance 0.
    """
    n, n_lines = len(spectra[0]), len(lines[0])
    size = n_cont + 3 * n_lines * k_max
    out = {
        "theta": np.full((n, k_max, size), np.nan), "cov": np.full((n, k_max, size, size), np.nan),
        "chi2": np.full((n, k_max + 1), np.nan), "status": np.zeros((n, k_max), dtype=np.int64),
        "count": np.zeros(n, dtype=np.int64), "core": np.zeros((n, k_max, n_lines), dtype=np.int64),
        "limits": np.full((n, n_lines), np.nan), "fringe": np.ones((n, k_max, 2)),
        "length": np.ones((n, k_max)), "other": np.full((n, k_max, size), np.nan),
        "excess": np.full((n, k_max), np.inf),
    }  # fmt: skip
    arrays, facts = _arrays(spectra, lines)
    _fit_batch(
        arrays, facts, int(n_cont), int(k_max), bool(always), bool(both_signs), float(narrowest), float(widest),
        float(limit_width), out["theta"], out["cov"], out["chi2"], out["status"], out["count"], out["core"],
        out["limits"], out["fringe"], out["length"], out["other"], out["excess"],
    )  # fmt: skip
    return out


def draw(
    spectra: Sequence[Any], lines: Sequence[Any], *, n_cont: int, k_max: int, both_signs: bool,
    narrowest: float, widest: float, theta: Array, components: Array, noise: Array, seeds: Array, n_draws: int,
) -> Array:  # fmt: skip
    """Fit noisy copies of fitted models.

    Parameters
    ----------
    spectra, lines, n_cont, k_max, both_signs, narrowest, widest
        As of :func:`fit`.
    theta : (spectrum, model, parameter)
        From :func:`fit`.
    components : (spectrum) int
        The model of each spectrum, 0 for none.
    noise : (spectrum)
        Factor to the errors.
    seeds : (spectrum) uint64
    n_draws : int

    Returns
    -------
    (spectrum, draw, line, 3) float64
        Flux, mean velocity and second moment [km2/s2] of each line; NaN without a model.
    """
    n, groups, n_groups = len(spectra[0]), np.asarray(lines[2]), len(lines[3])
    start = np.zeros((n, 2 * n_groups * k_max))
    for k in range(1, k_max + 1):
        some = np.flatnonzero(np.asarray(components) == k)
        for g in range(n_groups):
            line = int(np.flatnonzero(groups == g)[0])
            for c in range(k):
                at = n_cont + 3 * (line * k + c)
                start[some, 2 * (g * k + c)] = theta[some, k - 1, at + 1]
                start[some, 2 * (g * k + c) + 1] = theta[some, k - 1, at + 2]
    out = np.full((n, n_draws, len(lines[0]), 3), np.nan)
    arrays, facts = _arrays(spectra, lines)
    _draw_batch(
        arrays, facts, int(n_cont), int(k_max), bool(both_signs), float(narrowest), float(widest), start,
        np.ascontiguousarray(components, dtype=np.int64), np.ascontiguousarray(noise, dtype=np.float64),
        np.ascontiguousarray(seeds, dtype=np.uint64), out,
    )  # fmt: skip
    return out


def _arrays(spectra, lines):
    """Return both tuples as the kernels want them, with the instrument width of the first line of each group."""
    mu0, inst = (np.array(a, dtype=np.float64) for a in lines[:2])
    group, reach = np.array(lines[2], dtype=np.int64), np.array(lines[3], dtype=np.float64)
    first = np.unique(group, return_index=True)[1]
    doubles = tuple(np.array(a, dtype=np.float64, order="C") for a in spectra)
    return doubles, (mu0, inst, group, inst[first], reach)
