"""Errors and scores of background matching: what the residuals show, place by place, where they are not noise.

Residuals beside a source are common to many wavelengths and to the bands that see the place. The covariance is
therefore that of the scores (what each patch of the sky adds to the normal equations), which assumes nothing about
what happens inside a patch (White 1980, Econometrica 48, 817; Cameron & Miller 2015, J. Human Resources 50, 317), and
nowhere smaller than the errors of the samples alone give. The solution follows patches of much weight, whose residuals
are therefore too small: their scores are raised by what they hold of the solution (CR2 of Bell & McCaffrey 2002, Survey
Methodology 28, 169).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from mrsxr.threads import each

from ._background_match_misfit import Bin, Table, cluster, places, squares
from ._background_match_solve import Solution, Unknowns, eliminate, residuals, solve, whole

#: Nodes of the sky to a side of a patch, and patches to a side of what is left out together with its like.
_PATCH, _FOLD = 3, 2
#: Share of the solution that the other patches hold at least.
_LEAST_OTHERS = 0.02
#: Turns in which the functions of a group are left out to judge them.
_TURNS = 8


@dataclass(frozen=True)
class Scores:
    """What patches of the sky (patch, unknown) and the noise of samples (unknown, unknown) add to the equations.

    ``part`` (patch, unknown): how much of an unknown a patch holds.
    """

    shown: sparse.csr_array
    noise: sparse.csr_array
    part: np.ndarray


def _patches(table: Table) -> tuple[np.ndarray, np.ndarray]:
    return np.floor(table.x / _PATCH).astype(np.int64), np.floor(table.y / _PATCH).astype(np.int64)


def scores(table: Table, bins: list[Bin], unknowns: Unknowns, found: Solution, sigma: np.ndarray) -> Scores:
    """Return the scores of every patch at the solution, and their covariance by the errors ``sigma`` of the samples."""
    from . import _background_match_sky_kernels as kernels

    label = cluster(table.grid, *_patches(table))
    size, n_patch = unknowns.size, int(label.max(initial=-1)) + 1
    pull, loud = found.weight * found.residual, (found.weight * sigma) ** 2
    patches: list[list[tuple[np.ndarray, ...]]] = [[] for _ in range(n_patch)]
    noises: list[tuple[np.ndarray, ...]] = []
    sets: dict[bytes, list[int]] = {}
    for k, one in enumerate(bins):
        sets.setdefault(one.members.tobytes(), []).append(k)
    for ours in sets.values():
        way, columns = unknowns.way(bins[ours[0]].members)
        n, here = way.shape[0], np.unique(np.concatenate([label[bins[k].rows] for k in ours]))
        total, held, noise = np.zeros((here.size, n)), np.zeros((here.size, n, n)), np.zeros((n, n))
        for k in ours:
            rows = bins[k].rows
            inside, number = np.unique(label[rows], return_inverse=True)
            kernels.add_scores(
                bins[k], table.terms[rows], pull[rows], found.weight[rows], loud[rows], number, found.sky.factors[k],
                np.searchsorted(here, inside), total, held, noise,
            )  # fmt: skip
        for patch, score, matrix in zip(here, total, whole(held), strict=True):
            patches[patch].append((columns, way.T @ score, way.T @ (way.T @ matrix).T))
        noise = way.T @ (way.T @ whole(noise)).T
        noises.append((np.repeat(columns, columns.size), np.tile(columns, columns.size), noise.ravel()))
    shown: list[tuple[np.ndarray, ...]] = []
    inverses: dict[bytes, np.ndarray] = {}
    part = np.zeros((n_patch, size))
    for patch, of_patch in enumerate(patches) if size else ():
        columns, total, matrix = _together(of_patch)
        key = columns.tobytes()
        if not columns.size:
            continue
        if key not in inverses:
            inverses[key] = _solved(found, columns)[columns]
        shown.append((np.full(columns.size, patch), columns, _raised(total, matrix, inverses[key])))
        part[patch, columns] = np.diag(matrix)
    part /= np.maximum(part.sum(axis=0), 1e-300)
    return Scores(
        _added(shown, (n_patch, size)) if shown else sparse.csr_array((0, size)), _added(noises, (size, size)), part
    )


def _together(seen: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all unknowns of what a patch adds to the equations, and the sums of its scores and matrices."""
    columns = np.unique(np.concatenate([one for one, _, _ in seen]))
    total, matrix = np.zeros(columns.size), np.zeros((columns.size, columns.size))
    for own, score, square in seen:
        at = np.searchsorted(columns, own)
        total[at] += score
        matrix[np.ix_(at, at)] += square
    return columns, total, matrix


def _raised(score: np.ndarray, matrix: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """Return the score of a patch over the root of what the other patches hold of the solution.

    ``matrix``: what the patch adds to the normal matrix, ``inverse``: of the whole of that.
    """
    size, axes = np.linalg.eigh(0.5 * (inverse + inverse.T))
    root = np.sqrt(np.maximum(size, 1e-12 * size.max(initial=0.0)))
    half = axes * root
    held, turn = np.linalg.eigh(half.T @ matrix @ half)
    return (axes / root) @ (turn @ (np.maximum(1.0 - held, _LEAST_OTHERS) ** -0.5 * (turn.T @ (half.T @ score))))


def _solved(found: Solution, columns: np.ndarray) -> np.ndarray:
    """Return columns of the inverse of the normal matrix."""
    unit = np.zeros((found.values.size, columns.size))
    unit[columns, np.arange(columns.size)] = 1.0
    return found.factor.solve(unit)


def _added(parts: list[tuple[np.ndarray, ...]], shape: tuple[int, ...]) -> sparse.csr_array:
    nothing = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
    rows, columns, values = (np.concatenate(p) for p in zip(nothing, *parts, strict=True))
    return sparse.coo_array((values, (rows, columns)), shape=shape).tocsr()


def covariance(found: Solution, score: Scores, columns: np.ndarray) -> np.ndarray:
    """Return the covariance of some unknowns: that of the scores, and in no direction less than that of the noise.

    The scores exceed the noise in a direction where they do so by more than the largest that chance makes of as many
    patches, each counted by what it holds, and unknowns (Marchenko & Pastur 1967). What the solutions by other
    grids of nodes differ by is added. Few patches and grids tell of few directions: where misfit exceeds the noise, no
    direction is surer than by what it does so on average.
    """
    way = _solved(found, columns)
    noise, half = way.T @ (score.noise @ way), score.shown @ way
    size, axes = np.linalg.eigh(0.5 * (noise + noise.T))
    good = size > 1e-12 * max(float(size.max(initial=0.0)), 1e-300)
    root, inverse = axes[:, good] * np.sqrt(size[good]), axes[:, good] / np.sqrt(size[good])
    of_patches = (half @ inverse).T @ (half @ inverse)
    of_grids = found.grids[:, columns] @ inverse
    of_grids = of_grids.T @ of_grids / max(len(of_grids) - 1, 1)
    part = score.part[:, columns].sum(axis=1)
    n_patch = max(1.0, float(part.sum() ** 2 / max(float(part @ part), 1e-300)))
    grown, turn = np.linalg.eigh(of_patches)
    grown = np.where(grown > (1.0 + np.sqrt(columns.size / n_patch)) ** 2, grown, 1.0)
    grown, turn = np.linalg.eigh((turn * grown) @ turn.T + of_grids)
    least = float(np.trace(of_patches + of_grids)) / max(len(grown), 1)
    full = root @ turn
    return (full * np.maximum(grown, least)) @ full.T


def held_out(
    table: Table, bins: list[Bin], unknowns: Unknowns, weight: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the functions of members, and of the constants of groups, on patches that were not fitted.

    A score is the misfit of the samples of a member (for the constants: of a group, where it meets others in
    wavelength) with what was found on the other patches, over that without the function, or without all constants.
    Functions are left out in turns, every eighth of a group at once. NaN: there is none.
    """
    first, common = unknowns.first, np.unique(unknowns.common[unknowns.common >= 0])
    x, y = _patches(table)
    fold = (y % _FOLD) * _FOLD + x % _FOLD
    own, mean_of = group[table.member], places(table)
    turn = np.array([np.sum((group[:m] == group[m]) & (first[:m] >= 0)) for m in range(group.size)]) % _TURNS
    turns = np.unique(turn[first >= 0])
    several = np.zeros(own.size, dtype=bool)
    for one in bins:
        several[one.rows] = np.unique(group[one.members]).size > 1

    def judged(number: int) -> tuple[np.ndarray, ...]:
        """Return the misfits of one fold: of members with and without, of groups with and without the constants."""
        out = fold == number
        values, _ = solve(eliminate(table, bins, np.where(out, 0.0, weight)).equations, unknowns)
        seen = np.where(out, weight, 0.0)
        sky = eliminate(table, bins, seen)

        def misfits(changed: np.ndarray) -> np.ndarray:
            return squares(mean_of, residuals(table, bins, sky, unknowns.coefficients(changed)), seen)

        def of_groups(found: np.ndarray) -> np.ndarray:
            return np.bincount(own[several], found[several], group.max() + 1)

        full, without = misfits(values), np.zeros(group.size)
        for k in turns:
            ours = np.flatnonzero((turn == k) & (first >= 0))
            changed = values.copy()
            for m in ours:
                changed[first[m] : first[m] + unknowns.n_term * unknowns.n_knot] = 0.0
            without[ours] = np.bincount(table.member, misfits(changed), group.size)[ours]
        changed = values.copy()
        changed[common] = 0.0
        none = misfits(changed) if common.size else np.zeros(own.size)
        return np.bincount(table.member, full, group.size), without, of_groups(full), of_groups(none)

    with_it, without, tied, untied = (sum(parts) for parts in zip(*each(judged, range(_FOLD**2)), strict=True))
    with np.errstate(invalid="ignore", divide="ignore"):
        return with_it / without, tied / untied
