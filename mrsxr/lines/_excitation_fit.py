"""Straight lines, and sums of two exponentials, through many excitation diagrams at once."""

from __future__ import annotations

import numpy as np

_ROUNDS = 400
_LEAST_LEVER = 1.2  # ratio of both slopes below which two temperatures are not told apart


def fit_temperatures(energy: np.ndarray, ln: np.ndarray, error: np.ndarray, temperatures: int) -> dict[str, np.ndarray]:
    """Fit ln = ln(sum exp(intercept - slope energy)) by weighted least squares.

    Parameters
    ----------
    energy : float64 (level)
        [K], rising.
    ln, error : float64 (level, ...)
        Logarithms of the columns and their errors, NaN where a level is not seen.
    temperatures : {1, 2}

    Returns
    -------
    dict
        ``intercept``, ``slope`` [1/K], ``var_intercept``, ``var_slope``, ``covariance`` (temperature, ...), the
        steepest (coldest) first; ``model`` (level, ...); ``chi2``, ``dof`` (...). NaN where the levels are too few or
        the fit does not converge; ``not_converged`` (...), True for the latter.
    """
    shape = ln.shape[1:]
    y = np.moveaxis(ln.reshape(len(energy), -1), 0, 1)
    s = np.moveaxis(error.reshape(len(energy), -1), 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(np.isfinite(y) & np.isfinite(s) & (s > 0), 1.0 / s**2, 0.0)
    y = np.where(weight > 0, y, 0.0)
    scale = float(energy.max())
    x = energy / scale
    one, inverse = _straight(x, y, weight)
    enough, converged = (weight > 0).sum(axis=1) >= 2, np.ones(len(y), dtype=bool)
    if temperatures == 2:
        one, inverse, converged = _two(x, y, weight)
        enough = (weight > 0).sum(axis=1) >= 4
        with np.errstate(invalid="ignore", divide="ignore"):
            measured = one[:, 1] > _LEAST_LEVER * one[:, 3]
        enough &= measured & (one[:, 3] > 0)
    not_converged = enough & ~converged
    model = _model(x, one)
    chi2 = np.sum(weight * (y - model) ** 2, axis=1)
    dof = (weight > 0).sum(axis=1) - 2 * temperatures
    part = [inverse[:, 2 * k + i, 2 * k + j] for i, j in ((0, 0), (1, 1), (0, 1)) for k in range(temperatures)]
    rows = {
        "intercept": one[:, 0::2].T, "slope": one[:, 1::2].T / scale,
        "var_intercept": np.stack(part[:temperatures]),
        "var_slope": np.stack(part[temperatures : 2 * temperatures]) / scale**2,
        "covariance": np.stack(part[2 * temperatures :]) / scale,
        "model": model.T, "chi2": chi2, "dof": dof.astype(float),
    }  # fmt: skip
    found = {k: np.where(enough & converged, v, np.nan).reshape((*v.shape[:-1], *shape)) for k, v in rows.items()}
    return {**found, "not_converged": not_converged.reshape(shape)}


def _model(x: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Return ln of the sum of the exponentials (diagram, level)."""
    terms = [parameters[:, k, None] - parameters[:, k + 1, None] * x for k in range(0, parameters.shape[1], 2)]
    out: np.ndarray = terms[0] if len(terms) == 1 else np.logaddexp(*terms)
    return out


def _straight(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (intercept, slope) (diagram, 2) of falling lines and their covariance (diagram, 2, 2)."""
    basis = np.stack([np.ones_like(x), -x])
    normal = np.einsum("ni,ai,bi->nab", weight, basis, basis)
    right = np.einsum("ni,ai,ni->na", weight, basis, y)
    inverse = _inverse(normal)
    return np.einsum("nab,nb->na", inverse, right), inverse


def _inverse(normal: np.ndarray) -> np.ndarray:
    """Return inverse matrices, NaN where there is none."""
    size = np.sqrt(np.maximum(np.einsum("naa->na", normal), 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = normal / (size[:, :, None] * size[:, None, :])
    good = np.isfinite(unit).all(axis=(1, 2))
    good[good] = np.linalg.det(unit[good]) > 1e-12
    out = np.full(normal.shape, np.nan)
    if good.any():
        out[good] = np.linalg.inv(unit[good]) / (size[good][:, :, None] * size[good][:, None, :])
    return out


def _two(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (intercept, slope) of the cold and the hot gas (diagram, 4), their covariance, and which fits converged.

    Levenberg-Marquardt; a fit has converged where a step gains nothing more, or none, however short, gains anything.
    """
    p = _start(x, y, weight)
    damping = np.full(len(y), 1e-3)
    best = _cost(x, y, weight, p)
    converged = np.zeros(len(y), dtype=bool)
    for _ in range(_ROUNDS):
        normal, gradient = _normal(x, y, weight, p)
        diagonal = np.einsum("naa->na", normal)
        ridge = damping[:, None] * diagonal + 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-30
        damped = normal + ridge[:, :, None] * np.eye(4)
        step = np.linalg.solve(damped, gradient[..., None])[..., 0]
        step = np.clip(np.nan_to_num(step), -2.0, 2.0)
        new = p + step
        new[:, 1::2] = np.maximum(new[:, 1::2], 1e-3)
        cost = _cost(x, y, weight, new)
        better = (cost <= best) & ~converged  # a diagram does not depend on those beside it
        p = np.where(better[:, None], new, p)
        done = better & (best - cost <= 1e-10 * (1.0 + best))
        best, damping = np.where(better, cost, best), np.where(better, 0.3 * damping, 5.0 * damping)
        converged |= done | (damping > 1e8)
        if converged.all():
            break
    swap = p[:, 3] > p[:, 1]
    p = np.where(swap[:, None], p[:, [2, 3, 0, 1]], p)
    return p, _inverse(_normal(x, y, weight, p)[0]), converged


def _start(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return lines through the lower and the upper half of the levels that are seen."""
    rank = np.cumsum(weight > 0, axis=1)
    half = (rank[:, -1:] + 1) // 2
    low, _ = _straight(x, y, np.where(rank <= half, weight, 0.0))
    high, _ = _straight(x, y, np.where(rank > half, weight, 0.0))
    whole, _ = _straight(x, y, weight)
    low, high = (np.where(np.isfinite(v), v, np.nan_to_num(whole)) for v in (low, high))
    p = np.concatenate([low, high], axis=1)
    p[:, 1::2] = np.maximum(p[:, 1::2], 0.05)
    p[:, 1] = np.maximum(p[:, 1], 1.5 * p[:, 3])
    return p


def _cost(x: np.ndarray, y: np.ndarray, weight: np.ndarray, p: np.ndarray) -> np.ndarray:
    out: np.ndarray = np.sum(weight * (y - _model(x, p)) ** 2, axis=1)
    return out


def _normal(x: np.ndarray, y: np.ndarray, weight: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    model = _model(x, p)
    cold, hot = (np.exp(p[:, k, None] - p[:, k + 1, None] * x - model) for k in (0, 2))
    jacobian = np.stack([cold, -x * cold, hot, -x * hot], axis=1)
    normal = np.einsum("ni,nai,nbi->nab", weight, jacobian, jacobian)
    return normal, np.einsum("ni,nai,ni->na", weight, jacobian, y - model)
