"""The least squares behind background matching: sky and functions of all exposures at once, on plain arrays.

A sample i of member m (one band of one exposure) measures ``d_i = S(x_i, y_i, bin_i) + F_m(alpha_i, beta_i, bin_i)``.
The sky S is of quadratic splines on the nodes of a square grid, another one in every wavelength bin; it is eliminated
bin by bin, so that only the coefficients of the functions are unknown at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from ._background_match_misfit import Batch, Block, Table, freedom, misfit, scatter

#: Tukey's constant and the most rounds of reweighting.
_TUKEY, _HUBER, _ROUNDS, _HUBER_ROUNDS = 4.685, 1.345, 50, 6
#: Samples times members that are eliminated together.
_BATCH = 2_000_000
#: Samples that two members must share to count as overlapping.
_LEAST_SHARED = 30


@dataclass(frozen=True)
class Unknowns:
    """Where the coefficients of a member lie: ``first[m]``, -1 for a member that is held at zero, and those common
    to a group of members, ``common[m]``, -1 for none.
    """

    first: np.ndarray
    common: np.ndarray
    size: int


def corner_nodes(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys (sample, 4) and bilinear weights of the nodes around positions in units of their spacing."""
    ix, iy = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    u, v = x - ix, y - iy
    keys = np.stack([node_key(ix + i, iy + j) for j in (0, 1) for i in (0, 1)], axis=1)
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v], axis=1)
    return keys, weights


def spline_nodes(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys (sample, 9) and weights of the quadratic splines around positions in units of their spacing."""
    ix, iy = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    across, along = (np.stack([0.5 * (1 - t) ** 2, 0.5 + t * (1 - t), 0.5 * t**2], axis=1) for t in (x - ix, y - iy))
    keys = np.stack([node_key(ix + i, iy + j) for j in (-1, 0, 1) for i in (-1, 0, 1)], axis=1)
    return keys, (along[:, :, None] * across[:, None, :]).reshape(-1, 9)


def node_key(ix: np.ndarray, iy: np.ndarray) -> np.ndarray:
    """Return one number for each pair of numbers along x and y."""
    shift = np.int64(1) << 30
    return (iy + shift // 2) * shift + ix + shift // 2


def shared_samples(table: Table) -> np.ndarray:
    """Return which samples lie where two or more members see all of their nodes."""
    keep = np.zeros(table.flux.size, dtype=bool)
    for rows in _runs(table.sky_bin):
        keys, weights = corner_nodes(table.x[rows], table.y[rows])
        node, number = np.unique(keys, return_inverse=True)
        number = number.reshape(keys.shape)
        member, local = np.unique(table.member[rows], return_inverse=True)
        seen = np.zeros((node.size, member.size), dtype=bool)
        touched = weights > 0.1
        for corner in range(4):
            t = touched[:, corner]
            seen[number[t, corner], local[t]] = True
        several = seen.sum(axis=1) >= 2
        keep[rows] = (several[number] | ~touched).all(axis=1)
    return keep


def make_batches(table: Table) -> list[Batch]:
    """Cut the table into batches of sky bins."""
    batches: list[Batch] = []
    waiting: list[slice] = []
    size = 0
    for rows in _runs(table.sky_bin):
        members = np.unique(table.member[rows]).size
        entries = (rows.stop - rows.start) * members
        if waiting and size + entries > _BATCH:
            batches.append(_batch(table, waiting))
            waiting, size = [], 0
        waiting.append(rows)
        size += entries
    return [*batches, _batch(table, waiting)] if waiting else batches


def _batch(table: Table, runs: list[slice]) -> Batch:
    rows = slice(runs[0].start, runs[-1].stop)
    n, n_term = rows.stop - rows.start, table.terms.shape[1]
    keys, weights = spline_nodes(table.x[rows], table.y[rows])
    columns = np.empty(keys.shape, dtype=np.int64)
    blocks, parts, n_node = [], [], 0
    for run in runs:
        inside = slice(run.start - rows.start, run.stop - rows.start)
        node, number = np.unique(keys[inside], return_inverse=True)
        columns[inside] = number.reshape(keys[inside].shape) + n_node
        members, first, local = np.unique(table.member[run], return_index=True, return_inverse=True)
        nodes = slice(n_node, n_node + node.size)
        blocks.append(Block(inside, nodes, members, table.spectral_bin[run][first]))
        parts.append(local)
        n_node = nodes.stop
    widest = max(b.members.size for b in blocks)
    design = np.zeros((n, widest, n_term))
    design[np.arange(n), np.concatenate(parts)] = table.terms[rows]
    starts = np.arange(n + 1) * keys.shape[1]
    sky = sparse.csr_array((weights.ravel(), columns.ravel(), starts), shape=(n, n_node))
    return Batch(rows, sky, design.reshape(n, -1), blocks)


def components(table: Table, band_of_member: np.ndarray) -> np.ndarray:
    """Return for each member the number of the group of members of its band that see the same sky, directly or not."""
    n_member = band_of_member.size
    ties = sparse.csr_array((n_member, n_member))
    for rows in _runs(table.sky_bin):
        keys, _ = corner_nodes(table.x[rows], table.y[rows])
        node, number = np.unique(keys[:, 0], return_inverse=True)
        ones = np.ones(number.size)
        incidence = sparse.csr_array((ones, (table.member[rows], number)), shape=(n_member, node.size))
        ties = ties + incidence @ incidence.T
    ties = sparse.coo_array(ties)
    same = (ties.data >= _LEAST_SHARED) & (band_of_member[ties.row] == band_of_member[ties.col])
    graph = sparse.coo_array((ties.data[same], (ties.row[same], ties.col[same])), shape=ties.shape)
    return _connected(graph)


def tied_groups(table: Table, component: np.ndarray) -> np.ndarray:
    """Return for each component the number of the group of components that share sky bins and places."""
    near = touching_constants(table, component[table.member], np.arange(int(component.max()) + 1))
    return _connected(sparse.csr_array(near))


def _connected(graph: sparse.sparray) -> np.ndarray:
    """Return the number of the connected component of each node."""
    from scipy.sparse.csgraph import connected_components

    return connected_components(graph, directed=False)[1]


def touching_constants(table: Table, label: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which of some labels (n, n) have samples at common places of common sky bins; ``label`` of each sample."""
    place = np.full(int(labels.max()) + 2, -1)
    place[labels] = np.arange(labels.size)  # label -1 is the last entry
    own = place[label]
    ties = sparse.csr_array((labels.size, labels.size))
    for rows in _runs(table.sky_bin):
        inside = own[rows]
        if inside.min() == inside.max():
            continue
        keys, _ = corner_nodes(table.x[rows], table.y[rows])
        node, number = np.unique(keys[:, 0], return_inverse=True)
        incidence = sparse.csr_array((np.ones(inside.size), (inside, number)), shape=(labels.size, node.size))
        ties = ties + incidence @ incidence.T
    return ties.toarray() >= _LEAST_SHARED


@dataclass
class Solution:
    """Coefficients of all unknowns, the factorised normal matrix, and weights and residuals of the samples."""

    values: np.ndarray
    factor: object
    weight: np.ndarray
    residual: np.ndarray
    scale: np.ndarray  # of each band, how much larger the scatter is than the errors
    rounds: int
    converged: bool
    grids: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))  # values by other grids of nodes, less those


def solve_robustly(table: Table, batches: list[Batch], lift: Lift, band_of_member: np.ndarray) -> Solution:
    """Solve by iteratively reweighted least squares: Huber's weights first, then Tukey's.

    The scatter about the fit, in units of the errors, is measured band by band and scales the errors.
    """
    group = band_of_member[table.member]
    weight = table.sigma**-2.0
    base = weight.copy()
    values = np.zeros(lift.unknowns.size)
    n_group = int(band_of_member.max()) + 1
    scale, rounds = np.ones(n_group), 0
    share, enough = freedom(batches, group, n_group)
    enough &= np.bincount(band_of_member, minlength=n_group)[:n_group] > 1
    excess, converged = np.ones(table.flux.size), False
    for rounds in range(1, _ROUNDS + 1):
        before = values
        values, factor, residual = solve_once(table, batches, lift, weight)
        off = np.abs(residual) / table.sigma
        scale = scatter(off, share, group, enough, excess < 1.5)
        off /= scale[group] * np.sqrt(excess)
        if rounds <= _HUBER_ROUNDS:
            robust = np.minimum(1.0, _HUBER / np.maximum(off, 1e-9))
            excess = misfit(table, group, residual, robust * base / scale[group] ** 2, share)
        else:
            robust = np.where(off < _TUKEY, (1.0 - (off / _TUKEY) ** 2) ** 2, 0.0)
        weight = base * robust / scale[group] ** 2 / excess
        if rounds > _HUBER_ROUNDS and np.abs(values - before).max(initial=0.0) <= 0.02 * np.sqrt(
            _typical_variance(factor, values.size)
        ):
            converged = True
            break
    values, factor, residual = solve_once(table, batches, lift, weight)
    return Solution(values, factor, weight, residual, scale, rounds, converged)


def _typical_variance(factor: Any, size: int) -> float:
    if size == 0:
        return 0.0
    probe = np.random.default_rng(0).choice([-1.0, 1.0], size)
    return max(float(probe @ factor.solve(probe)) / max(size, 1), 0.0)


def other_grids(table: Table) -> Iterator[list[Batch]]:
    """Yield the batches of grids of nodes that lie half a spacing beside the first, along x, y and both."""
    for dx, dy in ((0.5, 0.0), (0.0, 0.5), (0.5, 0.5)):
        yield make_batches(replace(table, x=table.x + dx, y=table.y + dy))


class Lift:
    """From the coefficients of all functions to the terms of the members of a block."""

    def __init__(self, unknowns: Unknowns, basis: list[dict[int, np.ndarray]], n_term: int):
        self.unknowns = unknowns
        self.basis = basis  # of each member: the values of all splines in every spectral bin
        self.n_term = n_term
        self._columns: dict[bytes, np.ndarray] = {}

    def of(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Return the matrix (terms of all members, unknown of the block) and the numbers of these unknowns."""
        columns = self.columns(block.members)
        out = np.zeros((self.n_term * block.members.size, columns.size))
        at = 0
        for place, (member, spectral) in enumerate(zip(block.members, block.spectral_bin, strict=True)):
            values = self.basis[member][int(spectral)]
            rows = self.n_term * place
            for term in range(self.n_term) if self.unknowns.first[member] >= 0 else ():
                out[rows + term, at : at + values.size] = values
                at += values.size
            if self.unknowns.common[member] >= 0:
                out[rows, np.searchsorted(columns, self.unknowns.common[member])] = 1.0
        return out, columns

    def columns(self, members: np.ndarray) -> np.ndarray:
        """Return the numbers of the unknowns of some members, rising: ``Unknowns`` puts the common ones last."""
        key = members.tobytes()
        if key not in self._columns:
            first, common = self.unknowns.first[members], self.unknowns.common[members]
            n = self.n_term * len(next(iter(self.basis[members[0]].values())))
            own = [np.arange(f, f + n) for f in first if f >= 0]
            self._columns[key] = np.concatenate([*own, np.unique(common[common >= 0])]).astype(np.int64)
        return self._columns[key]


def solve_once(table: Table, batches: list[Batch], lift: Lift, weight: np.ndarray) -> Any:
    """Solve the weighted least squares; return coefficients, factorised normal matrix and residuals."""
    size = lift.unknowns.size
    sums: dict[bytes, list[np.ndarray]] = {}
    right = np.zeros(size)
    skies = [eliminate(table, batch, weight) for batch in batches]
    for batch, sky in zip(batches, skies, strict=True):
        w, d = weight[batch.rows], table.flux[batch.rows]
        weighted = w[:, None] * batch.design
        for block in batch.blocks:
            up, columns = lift.of(block)
            q = up.shape[0]
            own, near, far = batch.design[block.rows, :q], sky.left[block.nodes, :q], sky.way[block.nodes, :q]
            matrix = own.T @ weighted[block.rows, :q] - near.T @ far
            vector = weighted[block.rows, :q].T @ d[block.rows] - far.T @ sky.both[block.nodes]
            total = sums.setdefault(block.members.tobytes(), [columns, np.zeros((columns.size, columns.size))])
            total[1] += up.T @ matrix @ up
            right[columns] += up.T @ vector
    solver = _factorise(list(sums.values()), size) if size else None
    values = solver.solve(right) if solver is not None else np.zeros(0)
    return values, solver, residuals(table, batches, skies, lift, values)


def residuals(table: Table, batches: list[Batch], skies: list[Sky], lift: Lift, values: np.ndarray) -> np.ndarray:
    """Return the residuals of functions of given coefficients and the sky that goes with them."""
    residual = np.empty(table.flux.size)
    for batch, sky in zip(batches, skies, strict=True):
        model, pull = np.zeros(batch.design.shape[0]), sky.both.copy()
        for block in batch.blocks:
            up, columns = lift.of(block)
            local = up @ values[columns]
            model[block.rows] = batch.design[block.rows, : local.size] @ local
            pull[block.nodes] -= sky.left[block.nodes, : local.size] @ local
        residual[batch.rows] = table.flux[batch.rows] - model - batch.sky @ sky.factor.solve(pull)
    return residual


def _factorise(sums: list[list[np.ndarray]], size: int) -> Any:
    """Add the normal matrices of the sets of members up and factorise them."""
    from scipy.sparse.linalg import splu

    rows = np.concatenate([np.repeat(c, c.size) for c, _ in sums])
    columns = np.concatenate([np.tile(c, c.size) for c, _ in sums])
    normal = sparse.csc_array(
        sparse.coo_array((np.concatenate([m.ravel() for _, m in sums]), (rows, columns)), shape=(size, size))
    )
    ridge = 1e-9 * max(float(normal.diagonal().mean()), 1e-30)
    return splu(sparse.csc_array(normal + ridge * sparse.eye_array(size)))


@dataclass(frozen=True)
class Sky:
    """The sky of a batch, eliminated: A^T W A factorised, A^T W d, A^T W F and (A^T W A)^-1 A^T W F."""

    factor: Any
    both: np.ndarray
    left: np.ndarray
    way: np.ndarray


def eliminate(table: Table, batch: Batch, weight: np.ndarray) -> Sky:
    """Factorise the normal matrix of the sky of a batch."""
    from scipy.sparse.linalg import splu

    a, w = batch.sky, weight[batch.rows]
    weighted = sparse.csr_array((a.data * np.repeat(w, np.diff(a.indptr)), a.indices, a.indptr), a.shape)
    normal = a.T @ weighted
    # nodes that bright sources have left without weight hang on to this ridge alone
    least = 1e-8 * float(np.median(w[w > 0])) if (w > 0).any() else 1.0
    normal = sparse.csc_array(normal + sparse.diags_array(1e-8 * normal.diagonal() + least))
    factor = splu(normal, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    left = a.T @ (w[:, None] * batch.design)
    return Sky(factor, a.T @ (w * table.flux[batch.rows]), left, factor.solve(left))


def _runs(key: np.ndarray) -> list[slice]:
    """Return the runs of equal numbers in a sorted array."""
    edges = np.flatnonzero(np.diff(key)) + 1
    ends = [0, *edges.tolist(), key.size]
    return [slice(a, b) for a, b in pairwise(ends) if b > a]


def spline_basis(knots: np.ndarray, wavelength: np.ndarray) -> np.ndarray:
    """Return the cardinal cubic splines (wavelength, knot): each is 1 at its knot and 0 at the others.

    Not-a-knot at the ends, which imposes nothing there. One, two and three knots give a constant, a straight line and a
    parabola. Beyond the outer knots the end values stay.
    """
    from scipy.interpolate import make_interp_spline

    if knots.size == 1:
        return np.ones((np.size(wavelength), 1))
    spline = make_interp_spline(knots, np.eye(knots.size), k=min(3, knots.size - 1))
    return spline(np.clip(wavelength, knots[0], knots[-1]))
