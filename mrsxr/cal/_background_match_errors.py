"""Errors and scores of background matching: what the residuals show, place by place, where they are not noise.

Residuals beside a source are common to many wavelengths and to the bands that see the place. The covariance is
therefore that of the scores (what each patch of the sky adds to the normal equations), which assumes nothing about
what happens inside a patch (White 1980, Econometrica 48, 817; Cameron & Miller 2015, J. Human Resources 50, 317), and
nowhere smaller than the errors of the samples alone give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ._background_match_misfit import Batch, Table, cluster, places, squares
from ._background_match_solve import Lift, Solution, eliminate, residuals, solve_once

#: Nodes of the sky to a side of a patch, and patches to a side of what is left out together with its like.
_PATCH, _FOLD = 3, 2
#: Turns in which the functions of a group are left out to judge them.
_TURNS = 8


@dataclass(frozen=True)
class Scores:
    """What patches of the sky (patch, unknown) and the noise of samples (unknown, unknown) add to the equations."""

    shown: sparse.csr_array
    noise: sparse.csr_array


def _patches(table: Table) -> tuple[np.ndarray, np.ndarray]:
    return np.floor(table.x / _PATCH).astype(np.int64), np.floor(table.y / _PATCH).astype(np.int64)


def scores(table: Table, batches: list[Batch], lift: Lift, found: Solution, sigma: np.ndarray) -> Scores:
    """Return the scores of every patch at the solution, and their covariance by the errors ``sigma`` of the samples."""
    label = cluster(table.grid, *_patches(table))
    size = lift.unknowns.size
    shape = (int(label.max(initial=-1)) + 1, size)
    shown, noise = sparse.csr_array(shape), sparse.csr_array((size, size))
    for batch in batches:
        free = batch.design - batch.sky @ eliminate(table, batch, found.weight).way
        pull, loud = ((found.weight * v)[batch.rows, None] * free for v in (found.residual, sigma))
        parts, noises = [], []
        for block in batch.blocks:
            up, columns = lift.of(block)
            here, number = np.unique(label[batch.rows][block.rows], return_inverse=True)
            q = up.shape[0]
            sums = np.stack([np.bincount(number, v, here.size) for v in pull[block.rows, :q].T], axis=1) @ up
            parts.append(_entries(here, columns, sums))
            half = loud[block.rows, :q] @ up
            noises.append(_entries(columns, columns, half.T @ half))
        shown, noise = shown + _added(parts, shape), noise + _added(noises, noise.shape)
    return Scores(shown, noise)


def _entries(rows: np.ndarray, columns: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    return np.repeat(rows, columns.size), np.tile(columns, rows.size), values.ravel()


def _added(parts: list[tuple[np.ndarray, ...]], shape: tuple[int, ...]) -> sparse.csr_array:
    rows, columns, values = (np.concatenate(p) for p in zip(*parts, strict=True))
    return sparse.coo_array((values, (rows, columns)), shape=shape).tocsr()


def covariance(found: Solution, score: Scores, columns: np.ndarray) -> np.ndarray:
    """Return the covariance of some unknowns: that of the scores, and in no direction less than that of the noise."""
    unit = np.zeros((found.values.size, columns.size))
    unit[columns, np.arange(columns.size)] = 1.0
    way = found.factor.solve(unit)  # type: ignore[attr-defined]
    noise, half = way.T @ (score.noise @ way), score.shown @ way
    size, axes = np.linalg.eigh(0.5 * (noise + noise.T))
    good = size > 1e-12 * max(float(size.max(initial=0.0)), 1e-300)
    root, inverse = axes[:, good] * np.sqrt(size[good]), axes[:, good] / np.sqrt(size[good])
    grown, turn = np.linalg.eigh((half @ inverse).T @ (half @ inverse))
    full = root @ turn
    return (full * np.maximum(grown, 1.0)) @ full.T


def held_out(
    table: Table, batches: list[Batch], lift: Lift, weight: np.ndarray, group: np.ndarray, n_each: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the functions of members, and of the constants of groups, on patches that were not fitted.

    A score is the misfit of the samples of a member (for the constants: of a group, where it meets others in
    wavelength) with what was found on the other patches, over that without the function, or without all constants.
    Functions are left out in turns, every eighth of a group at once. NaN: there is none.
    """
    first, common = lift.unknowns.first, np.unique(lift.unknowns.common[lift.unknowns.common >= 0])
    x, y = _patches(table)
    fold = (y % _FOLD) * _FOLD + x % _FOLD
    own, mean_of = group[table.member], places(table)
    turn = np.array([np.sum((group[:m] == group[m]) & (first[:m] >= 0)) for m in range(group.size)]) % _TURNS
    turns = np.unique(turn[first >= 0])
    several = np.zeros(own.size, dtype=bool)
    for batch in batches:
        for block in batch.blocks:
            several[batch.rows][block.rows] = np.unique(group[block.members]).size > 1
    with_it, without = np.zeros(group.size), np.zeros(group.size)
    tied, untied = np.zeros(group.max() + 1), np.zeros(group.max() + 1)
    for number in range(_FOLD**2):
        out = fold == number
        values, _, _ = solve_once(table, batches, lift, np.where(out, 0.0, weight))
        judged = np.where(out, weight, 0.0)
        skies = [eliminate(table, batch, judged) for batch in batches]

        def misfits(changed, judged=judged, skies=skies):
            return squares(mean_of, residuals(table, batches, skies, lift, changed), judged)

        full = misfits(values)
        with_it += np.bincount(table.member, full, group.size)
        tied += np.bincount(own[several], full[several], tied.size)
        for k in turns:
            ours = np.flatnonzero((turn == k) & (first >= 0))
            changed = values.copy()
            for m in ours:
                changed[first[m] : first[m] + n_each] = 0.0
            without[ours] += np.bincount(table.member, misfits(changed), group.size)[ours]
        if common.size:
            changed = values.copy()
            changed[common] = 0.0
            none = misfits(changed)
            untied += np.bincount(own[several], none[several], tied.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        return with_it / without, tied / untied
