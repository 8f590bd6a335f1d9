"""Kernels of stray light: what of their shape is free, and how free it is.

Symbols: s = logarithms of the factors on the numbers of the reference table of a half, the same in all rows; r = what
the kernel has more at a distance, on knots, over a table of wider Gaussians.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mrsxr.compiled import read_only

from ._straylight_kernels import fill_table, fill_tables

#: Rows of the parameters that each factor is on: width of the Lorentzian, offset, width and scales of the Gaussians.
_ROWS = ([0], [3], [2], [4, 5])
#: Standard deviations expected of s.
DEVIATIONS = np.array([0.2, 0.15, 0.3, 0.5])
_FARTHEST = 3.0  # standard deviations
_LIKELY = 20.0  # sum of squares of s in these units: a chance of 1 in 2000, beyond which it makes up for another shape
_STEP = 0.02  # of s, for the change of the kernels with it
#: How free the kernels may be, stiff ones first: s, in units of what is expected, and the standard deviations of what
#: in r is correlated over the short, middle and long of _LENGTHS.
FREEDOMS = (
    (0.0, 0.03, 0.03, 0.03), (0.0, 0.03, 0.03, 0.3), (1.0, 0.03, 0.03, 0.03), (1.0, 0.03, 0.03, 0.3),
    (0.0, 0.2, 0.2, 0.2), (1.0, 0.2, 0.2, 0.2), (0.0, 0.03, 0.3, 1.0), (1.0, 0.03, 0.3, 1.0),
    (1.0, 1.0, 1.0, 1.0), (1.0, 0.3, 1.0, 2.0),
)  # fmt: skip
STIFF_SHAPE = FREEDOMS[2]  # s is found with
_NO_WORSE = 10.0  # by which chi2 of left-out gaps may exceed the least
_DOUBTED, _HARDLY = 2.0, 0.25  # standard deviations, and share of chi2, that do not tell against the table
_DISAGREE = 0.004  # of the light of both halves, by which freedoms differ where no gap sees it
UNSEEN = 8  # pixels, from the middle of a slice to the next gap
_REACH, _SPACING, _CURVE = 600.0, 3.0, 20.0  # pixels: last knot, distance of the first ones, where it grows
_LENGTHS = (4.0, 12.0, 40.0)  # over which r is correlated, in units of asinh
_NEAR, _NEAR_SHARE = 4.0, 0.3  # pixels, standard deviation of r there
_BALANCE = 0.01


def of_bins(parameters: np.ndarray, rows: int) -> np.ndarray:
    """Return the parameters (half, parameter, bin) of the middle rows of bins of so many rows."""
    n = parameters.shape[2]
    return parameters[:, :, np.minimum(np.arange(-(-n // rows)) * rows + rows // 2, n - 1)]


def reshaped(parameters: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Return the parameters (half, parameter, y) of s (half, factor)."""
    out = parameters.copy()
    for k, rows in enumerate(_ROWS):
        out[:, rows] *= np.exp(s[:, k])[:, None, None]
    return out


def bounded(s: np.ndarray) -> np.ndarray:
    """Return s (half, factor) within what is plausible."""
    return np.clip(s, -_FARTHEST * DEVIATIONS, _FARTHEST * DEVIATIONS)


def is_likely(s: np.ndarray) -> bool:
    """Return whether s (half, factor) of each half is one that may be expected."""
    return bool((np.sum((s / DEVIATIONS) ** 2, axis=1) <= _LIKELY).all())


def tables_of(parameters: np.ndarray, n_x: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernels (half, y, distance) and whether there is one (half, y)."""
    tables = np.empty((2, parameters.shape[2], n_x), dtype=np.float32)
    scatters = np.empty(tables.shape[:2], dtype=bool)
    fill_tables(read_only(parameters)[0], tables, scatters)
    return tables, scatters


def changes_of(parameters: np.ndarray, s: np.ndarray, n_x: int) -> np.ndarray:
    """Return the change (factor, half, y, distance) of the kernels with s."""
    out = np.empty((len(_ROWS), 2, parameters.shape[2], n_x), dtype=np.float32)
    for k, one in enumerate(np.eye(len(_ROWS))):
        more, less = (tables_of(reshaped(parameters, s + h * one), n_x)[0] for h in (_STEP, -_STEP))
        out[k] = (more - less) / np.float32(2.0 * _STEP)
    return out


def unseen_share(parameters: np.ndarray, wide: np.ndarray, amount: Any, knots: np.ndarray, r: Any) -> np.ndarray:
    """Return the share (half) of the light that goes no farther than UNSEEN pixels.

    parameters, wide (half, parameter, 1): of the kernels, and of those that r (half, knot) counts in; amount (half).
    """
    d = np.arange(-UNSEEN, UNSEEN + 1)
    one, other = (tables_of(each, UNSEEN + 1)[0][:, 0, np.abs(d)] for each in (parameters, wide))
    more = np.stack([np.interp(d, knots, of_half) for of_half in r])
    return np.asarray(amount) * (one + more * other).sum(axis=1)


def best_freedom(misfit: np.ndarray, change: np.ndarray, table: np.ndarray) -> int:
    """Return the place of the stiffest freedom that tells left-out gaps as well as any, within noise.

    Where it changes what no gap sees by more than one does that keeps to the shape of the table, and the gaps hardly
    tell the two apart, it is that one.

    misfit (freedom, fold): chi2 of the gaps left out, stiff ones first; change: of the light that no gap sees; table:
    whether s is 0.
    """
    total = misfit.sum(axis=1)
    best = int(np.argmin(total))
    noise = np.sqrt(misfit.shape[1]) * np.std(misfit - misfit[best], axis=1, ddof=1)  # of the sum over the folds
    more = total - total[best]
    stiffest = int(np.argmax(more <= np.maximum(_NO_WORSE, noise)))
    accepted = table & (more <= np.maximum(_NO_WORSE, np.minimum(_DOUBTED * noise, _HARDLY * total[best])))
    least = int(np.argmin(np.where(accepted, change, np.inf)))
    return least if accepted[least] and change[stiffest] - change[least] > _DISAGREE else stiffest


def profile_knots() -> np.ndarray:
    """Return the distances [pix] of the knots, negative ones first; near ones lie close."""
    far = _CURVE * np.arcsinh(_REACH / _CURVE)
    u = np.linspace(0.0, far, 1 + round(far / _SPACING))
    d = _CURVE * np.sinh(u / _CURVE)
    return np.concatenate([-d[:0:-1], d]).astype(np.float32)


def profile_precision(knots: np.ndarray, freedom: tuple[float, ...]) -> np.ndarray:
    """Return the inverse covariance of r of standard deviations: smooth over the distance, alike on both sides.

    Near 0, where no pixel between the slices sees it and the flux calibration holds it, r is small.
    """
    u = _CURVE * np.arcsinh(knots.astype(float) / _CURVE)
    known = 1.0 - (1.0 - _NEAR_SHARE) * np.exp(-0.5 * (knots.astype(float) / _NEAR) ** 2)
    covariance = 1e-6 * np.eye(len(u))
    for x in (np.abs(u)[:, None] - np.abs(u)[None, :], u[:, None] - u[None, :]):
        for deviation, length in zip(freedom, _LENGTHS, strict=True):
            covariance += 0.5 * deviation**2 * np.exp(-0.5 * (x / length) ** 2)
    return np.linalg.inv(covariance * known[:, None] * known[None, :] + 1e-3 * max(freedom) ** 2 * np.eye(len(u)))


def balance_of(knots: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Return (half, knot, knot) the precision that leaves the mean of r over the kernel of the table to a."""
    out = np.zeros((2, knots.size, knots.size))
    n = 1 + int(knots[-1])
    half, table = np.empty(n, dtype=np.float32), np.empty(2 * n - 1, dtype=np.float32)
    near = np.abs(knots) < n - 1
    for side in (0, 1):
        if fill_table(parameters[side, :, parameters.shape[2] // 2], half, table):
            share = np.where(near, table[np.rint(knots).astype(int).clip(1 - n, n - 1) + n - 1], 0) * np.gradient(knots)
            share /= share.sum()
            out[side] = np.outer(share, share) / _BALANCE**2
    return out
