"""Errors and scores of background matching: what the residuals show, place by place, where they are not noise.

Residuals beside a source are common to many wavelengths and to the bands that see the place. The covariance is
therefore that of the scores (what each patch of the sky adds to the normal equations), which assumes nothing about
what happens inside a patch (White 1980, Econometrica 48, 817; Cameron & Miller 2015, J. Human Resources 50, 317), and
nowhere smaller than the errors of the samples alone give. The solution follows patches of much weight, whose residuals
are therefore too small: their scores are raised by what they hold of the solution (CR2 of Bell & McCaffrey 2002, Survey
Methodology 28, 169). A covariance that few patches or grids show is itself unsure, by a freedom of Satterthwaite (1946,
Biometrics 2, 110), as there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

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

    ``part`` (patch, unknown): how much of an unknown a patch holds; ``grids`` (grid, unknown): by how much the scores
    of each grid of nodes differ from their mean; ``noise_of_one`` (unknown, unknown): of the scores of a single grid.
    """

    shown: sparse.csr_array
    noise: sparse.csr_array
    part: np.ndarray
    grids: np.ndarray
    noise_of_one: sparse.csr_array


def _patches(table: Table) -> tuple[np.ndarray, np.ndarray]:
    return np.floor(table.x / _PATCH).astype(np.int64), np.floor(table.y / _PATCH).astype(np.int64)


def scores(table: Table, grids: list[list[Bin]], unknowns: Unknowns, found: Solution, sigma: np.ndarray) -> Scores:
    """Return the scores of every patch at the solution, and their covariance by the errors ``sigma`` of the samples."""
    label = cluster(table.grid, *_patches(table))
    size, n_patch = unknowns.size, int(label.max(initial=-1)) + 1
    sets: dict[bytes, list[int]] = {}
    for k, one in enumerate(grids[0]):
        sets.setdefault(one.members.tobytes(), []).append(k)
    coefficients = unknowns.coefficients(found.values)
    left = [residuals(table, bins, sky, coefficients) for bins, sky in zip(grids, found.skies, strict=True)]
    of_set = partial(_of_set, table, grids, unknowns, found, sigma, label, left)
    patches: list[list[tuple[np.ndarray, ...]]] = [[] for _ in range(n_patch)]
    noises: list[list[tuple[np.ndarray, ...]]] = [[], []]
    apart = np.zeros((len(grids), size))
    for columns, here, of_patches, of_noise, of_grids in each(of_set, list(sets.values())):
        for patch, score, matrix in zip(here, *of_patches, strict=True):
            patches[patch].append((columns, score, matrix))
        for kept, matrix in zip(noises, of_noise, strict=True):
            kept.append((np.repeat(columns, columns.size), np.tile(columns, columns.size), matrix.ravel()))
        apart[:, columns] += of_grids
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
    of_all, of_one = (_added(one, (size, size)) for one in noises)
    return Scores(
        _added(shown, (n_patch, size)) if shown else sparse.csr_array((0, size)), of_all, part,
        apart - apart.mean(axis=0), of_one,
    )  # fmt: skip


def _of_set(
    table: Table, grids: list[list[Bin]], unknowns: Unknowns, found: Solution, sigma: np.ndarray, label: np.ndarray,
    left: list[np.ndarray], ours: list[int],
) -> tuple[Any, ...]:  # fmt: skip
    """Return of bins that the same members see: the unknowns, the patches, their scores and what they hold of the
    equations, the noise of the mean over grids and of one, the scores of each grid.
    """
    from . import _background_match_sky_kernels as kernels

    way, columns = unknowns.way(grids[0][ours[0]].members)
    n, here = way.shape[0], np.unique(np.concatenate([label[grids[0][k].rows] for k in ours]))
    total, held = np.zeros((len(grids), here.size, n)), np.zeros((here.size, n, n))
    noise, of_one = np.zeros((2, n, n))
    for k in ours:
        rows = grids[0][k].rows
        terms, weight = table.terms[rows], found.weight[rows]
        inside, number = np.unique(label[rows], return_inverse=True)
        at, loud = np.searchsorted(here, inside), (weight * sigma[rows]) ** 2
        free = np.zeros((weight.size, grids[0][k].members.size * terms.shape[1]))
        for bins, sky, residual, score in zip(grids, found.skies, left, total, strict=True):
            pull = found.steep[rows] * weight * residual[rows]
            kernels.add_pulls(bins[k], terms, pull, weight, loud, number, sky.factors[k], at, score, of_one, free)
        free /= len(grids)
        kernels.add_shares(free, weight, loud, number, grids[0][k].basis, at, held, noise)

    def lowered(matrix: np.ndarray) -> np.ndarray:
        return way.T @ (way.T @ matrix).T

    return (
        columns, here, (total.mean(axis=0) @ way, [lowered(one) for one in whole(held)]),
        (lowered(whole(noise)), lowered(whole(of_one)) / len(grids)), total.sum(axis=1) @ way,
    )  # fmt: skip


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


def covariance(found: Solution, score: Scores, columns: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the covariance of some unknowns, that of the scores, and in no direction less than that of the noise; and
    its degrees of freedom, those of patches and grids where they make most of it.

    The scores exceed the noise in a direction where they do so by more than the largest that chance makes of as many
    patches, each counted by what it holds, and unknowns (Marchenko & Pastur 1967). What grids of nodes differ by beyond
    what noise makes them differ is added. Few patches and grids tell of few directions: where misfit exceeds the noise,
    no direction is surer than by what it does so on average.
    """
    way = _solved(found, columns)
    noise, half = way.T @ (score.noise @ way), score.shown @ way
    size, axes = np.linalg.eigh(0.5 * (noise + noise.T))
    good = size > 1e-12 * max(float(size.max(initial=0.0)), 1e-300)
    root, inverse = axes[:, good] * np.sqrt(size[good]), axes[:, good] / np.sqrt(size[good])
    of_patches = (half @ inverse).T @ (half @ inverse)
    part = score.part[:, columns].sum(axis=1)
    n_patch = max(1.0, float(part.sum() ** 2 / max(float(part @ part), 1e-300)))
    grown, turn = np.linalg.eigh(of_patches)
    grown = np.where(grown > (1.0 + np.sqrt(columns.size / n_patch)) ** 2, grown, 1.0)
    of_grids = _between_grids(score, way @ inverse)
    square = np.sum((half @ inverse) ** 2, axis=1)
    unsure = np.sum(grown - 1.0) ** 2 * np.sum(square**2) / max(float(square.sum() ** 2), 1e-300)
    unsure += np.trace(of_grids) ** 2 / max(len(score.grids) - 1, 1)
    grown, turn = np.linalg.eigh((turn * grown) @ turn.T + of_grids)
    least = float(np.trace(of_patches + of_grids)) / max(len(grown), 1)
    grown, full = np.maximum(grown, least), root @ turn
    return (full * grown) @ full.T, float(grown.sum() ** 2 / max(unsure, 1e-9))


def _between_grids(score: Scores, way: np.ndarray) -> np.ndarray:
    """Return the covariance of what grids differ by, less what noise alone makes of it, in some directions."""
    off = score.grids @ way
    free = max(len(off) - 1, 1)
    found, chance = off.T @ off / free, way.T @ (score.noise_of_one - score.noise) @ way * len(off) / free
    by_noise = max(float(np.trace(chance)), 0.0)
    # of as many independent squares as there are directions and grids
    many = free * by_noise**2 / max(float(np.sum(chance**2)), 1e-300)
    excess = float(np.trace(found)) / max(by_noise, 1e-300)
    return found * (1.0 - 1.0 / excess if excess > 1.0 + 2.0 * np.sqrt(2.0 / max(many, 1e-300)) else 0.0)


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
