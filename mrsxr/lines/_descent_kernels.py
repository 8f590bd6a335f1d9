"""Kernels that move the kinematics of lines to the least chi2: bin-integrated Gaussians on a polynomial.

Words: a *line* l has a place ``mu0`` [um] at velocity 0 and an instrument width ``inst`` [km/s, sigma]; lines of one
*group* share their kinematics; each group has ``k`` *components*, each with velocity v and observed width w [km/s] (of
the first line of the group, whose instrument width is ``reference``). Feature f = l k + c is component c of line l.
Linear parameters: continuum, then fluxes of the features; non-linear ones: x[2 (g k + c)] = v, x[2 (g k + c) + 1] = w.

Tuples that travel together: ``setup`` = (mu0, inst, group, reference, n_cont), ``voxels`` = (y, inv, lo, hi, rest) of
which the first m are used, y and rest in errors, inv = 1 / error, and ``work`` = (rows, slopes, coef, slope, frozen,
matrix, factor): rows of the design (continuum, features, non-linear) in errors, derivatives of the features by v and w,
linear parameters, gradient, parameters that are held, and room for two matrices.
"""

import math

import numpy as np

from mrsxr._solve_kernels import cholesky, substitute
from mrsxr.compiled import njit

C = 299792.458  # km/s
_ROOT_HALF = math.sqrt(0.5)
_NORM = 1.0 / math.sqrt(2.0 * math.pi)
_TOLERANCE = 1e-7  # squared distance to the minimum, in errors scaled to a reduced chi2 of 1


@njit(cache=True, nogil=True, error_model="numpy")
def profile(lo, hi, inv, m, mu, s, by_v, by_w, basis, d_v, d_w):
    """Fill the mean of a Gaussian of unit flux over each voxel, and its derivatives by velocity and width.

    Mean over (lo, hi): [Phi(b) - Phi(a)] / (hi - lo), a = (lo - mu) / s, b = (hi - mu) / s; its derivatives are
    -[phi(b) - phi(a)] / s by mu and -[b phi(b) - a phi(a)] / s by s, over (hi - lo). Factors ``by_v`` = dmu/dv and
    ``by_w`` = ds/dw. Voxels that share an edge share its erf.
    """
    edge = np.nan
    a = cdf_a = pdf_a = 0.0
    for i in range(m):
        if lo[i] != edge:
            a = (lo[i] - mu) / s
            cdf_a, pdf_a = 0.5 * math.erf(a * _ROOT_HALF), 0.0
            if abs(a) < 8.0:
                pdf_a = _NORM * math.exp(-0.5 * a * a)
        edge = hi[i]
        b = (edge - mu) / s
        cdf_b, pdf_b = (0.5 if b > 0.0 else -0.5), 0.0
        if abs(b) < 8.0:
            cdf_b, pdf_b = 0.5 * math.erf(b * _ROOT_HALF), _NORM * math.exp(-0.5 * b * b)
        f = inv[i] / (hi[i] - lo[i])
        basis[i] = (cdf_b - cdf_a) * f
        d_v[i] = -(pdf_b - pdf_a) * f / s * by_v
        d_w[i] = -(b * pdf_b - a * pdf_a) * f / s * by_w
        a, cdf_a, pdf_a = b, cdf_b, pdf_b


@njit(cache=True, nogil=True, error_model="numpy")
def line_width(w, inst, reference):
    """Return the observed width of a line [km/s] whose group has width w at the instrument width ``reference``."""
    return math.sqrt(max(w * w + inst * inst - reference * reference, 0.09 * inst * inst))


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate(x, k, setup, voxels, m, work):
    """Fill the rows of all features and their derivatives at x."""
    mu0, inst, group, reference, n_cont = setup
    rows, slopes = work[0], work[1]
    for line in range(mu0.size):
        scale = mu0[line] / C
        for c in range(k):
            j, f = 2 * (group[line] * k + c), line * k + c
            w = line_width(x[j + 1], inst[line], reference[group[line]])
            profile(voxels[2], voxels[3], voxels[1], m, mu0[line] + x[j] * scale, w * scale, scale,
                    scale * x[j + 1] / w, rows[n_cont + f], slopes[0, f], slopes[1, f])  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def dot(rows, a, vector, m):
    """Return the product of a row and a vector."""
    total = 0.0
    for i in range(m):
        total += rows[a, i] * vector[i]
    return total


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def gram(rows, n, m, matrix):
    """Fill the products of the first n rows."""
    for a in range(n):
        for b in range(a + 1):
            total = 0.0
            for i in range(m):
                total += rows[a, i] * rows[b, i]
            matrix[a, b] = matrix[b, a] = total


@njit(cache=True, nogil=True, error_model="numpy")
def freeze(matrix, n, frozen):
    """Take the frozen parameters out of normal equations."""
    for a in range(n):
        if frozen[a]:
            for b in range(n):
                matrix[a, b] = matrix[b, a] = 0.0
            matrix[a, a] = 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def project(voxels, m, n_cont, n_lin, positive, work):
    """Solve for continuum and fluxes at fixed kinematics, fill the residuals and return chi2 (inf where singular).

    With ``positive``, the most negative flux is held at 0, then the next, until none is negative.
    """
    y, rest = voxels[0], voxels[4]
    rows, coef, frozen, factor = work[0], work[2], work[4], work[6]
    frozen[:n_lin] = False
    for _ in range(n_lin - n_cont + 1):
        gram(rows, n_lin, m, factor)
        for a in range(n_lin):
            frozen[a] = frozen[a] or not factor[a, a] > 0.0
            coef[a] = 0.0 if frozen[a] else dot(rows, a, y, m)
        freeze(factor, n_lin, frozen)
        if not cholesky(factor, n_lin):
            return np.inf
        substitute(factor, n_lin, coef)
        worst, lowest = -1, 0.0
        for a in range(n_cont, n_lin):
            if positive and coef[a] < lowest:
                worst, lowest = a, coef[a]
        if worst < 0:
            break
        frozen[worst] = True
    chi2 = 0.0
    for i in range(m):
        value = y[i]
        for a in range(n_lin):
            value -= coef[a] * rows[a, i]
        rest[i] = value
        chi2 += value * value
    return chi2


@njit(cache=True, nogil=True, error_model="numpy")
def normal(x, low, high, k, setup, voxels, m, work):
    """Fill rows of the non-linear parameters, normal matrix and gradient; freeze what is held at a bound."""
    rows, slopes, coef, slope, frozen, matrix, _ = work
    group, n_cont = setup[2], setup[4]
    n_lin, n_x = n_cont + group.size * k, x.size
    rows[n_lin : n_lin + n_x, :m] = 0.0
    for line in range(group.size):
        for c in range(k):
            f, j = line * k + c, n_lin + 2 * (group[line] * k + c)
            flux = coef[n_cont + f]
            for i in range(m):
                rows[j, i] += flux * slopes[0, f, i]
                rows[j + 1, i] += flux * slopes[1, f, i]
    gram(rows, n_lin + n_x, m, matrix)
    slope[:n_lin] = 0.0
    for q in range(n_x):
        a = n_lin + q
        slope[a] = dot(rows, a, voxels[4], m)
        held = (x[q] <= low[q] and slope[a] < 0.0) or (x[q] >= high[q] and slope[a] > 0.0)
        frozen[a] = held or not matrix[a, a] > 0.0
        if frozen[a]:
            slope[a] = 0.0


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _propose(x, low, high, n_lin, damping, work, trial):
    """Fill the damped step from x, within the bounds; return the gain that is promised, negative where singular."""
    slope, frozen, matrix, factor = work[3], work[4], work[5], work[6]
    n = n_lin + x.size
    for a in range(n):
        for b in range(n):
            factor[a, b] = matrix[a, b]
        if a >= n_lin:
            factor[a, a] *= 1.0 + damping
    freeze(factor, n, frozen)
    if not cholesky(factor, n):
        return -1.0
    step = slope[:n].copy()
    substitute(factor, n, step)
    gain = 0.0
    for q in range(x.size):
        reach = (2.0 if q % 2 == 0 else 0.5) * x[q - q % 2 + 1]
        trial[q] = min(max(x[q] + min(max(step[n_lin + q], -reach), reach), low[q]), high[q])
        gain += (trial[q] - x[q]) * slope[n_lin + q]
    return max(gain, 0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def descend(x, low, high, k, positive, n_iter, setup, voxels, m, work):
    """Move x to the minimum by Levenberg-Marquardt on the projected problem; return (chi2, converged).

    The step of the non-linear parameters from the full normal equations, undamped in the linear ones, is that of
    variable projection after Kaufman (1975, BIT 15, 49). At the end rows, slopes, coef and residuals are those of x.
    """
    n_cont = setup[4]
    n_lin = n_cont + setup[0].size * k
    trial = x.copy()
    evaluate(x, k, setup, voxels, m, work)
    chi2 = project(voxels, m, n_cont, n_lin, positive, work)
    least, damping, converged, moved = 1e-14 * chi2, 1e-3, False, True
    for i in range(m):
        least += 1e-15 * voxels[0][i] ** 2
    for _ in range(n_iter):
        normal(x, low, high, k, setup, voxels, m, work)
        moved = False
        for _ in range(12):
            gain = _propose(x, low, high, n_lin, damping, work, trial)
            if gain < 0.0:
                damping = max(10.0 * damping, 1e-3)
                continue
            evaluate(trial, k, setup, voxels, m, work)
            new = project(voxels, m, n_cont, n_lin, positive, work)
            converged = gain <= max(_TOLERANCE * chi2 / max(m - n_lin - x.size, 1), least)
            if new <= chi2:
                good = chi2 - new > 0.6 * gain  # what a step that overshoots does not gain
                damping = max(0.1 * damping, 1e-9) if good else min(max(4.0 * damping, 0.1), 1e3)
                moved, chi2 = True, new
                x[:] = trial
            if moved or converged:
                break
            damping = max(8.0 * damping, 1e-4)
        if converged or not moved:
            break
    if not moved:
        evaluate(x, k, setup, voxels, m, work)
        chi2 = project(voxels, m, n_cont, n_lin, positive, work)
    return chi2, converged
