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
    return terms[0] if len(terms) == 1 else np.logaddexp(*terms)


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
    """Return (intercept, slope) of cold and hot gas (diagram, 4), their covariance, and which fits converged."""
    from scipy.optimize import least_squares

    p = _start(x, y, weight)
    normal, converged = np.full((len(y), 4, 4), np.nan), np.ones(len(y), dtype=bool)
    for k in np.flatnonzero((weight > 0).sum(axis=1) >= 4):
        root = np.sqrt(weight[k])
        fit = least_squares(
            lambda q, k=k, root=root: root * (_model(x, q[None])[0] - y[k]), p[k], bounds=([-np.inf, 1e-3] * 2, np.inf),
            x_scale="jac", ftol=1e-12, xtol=1e-12, gtol=None, max_nfev=_ROUNDS,
        )  # fmt: skip
        p[k], normal[k], converged[k] = fit.x, fit.jac.T @ fit.jac, fit.status > 0
    swap = p[:, 3] > p[:, 1]
    order = np.where(swap[:, None], [2, 3, 0, 1], [0, 1, 2, 3])
    rows = np.arange(len(p))[:, None]
    return p[rows, order], _inverse(normal[rows[:, :, None], order[:, :, None], order[:, None, :]]), converged


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
