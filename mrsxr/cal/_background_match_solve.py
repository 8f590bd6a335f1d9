"""The least squares behind background matching: sky and functions of all exposures at once, on plain arrays.

A sample i of member m (one band of one exposure) measures ``d_i = S(x_i, y_i, bin_i) + F_m(alpha_i, beta_i, bin_i)``.
The sky S is of quadratic splines on the nodes of a square grid, another one in every wavelength bin; it is eliminated
bin by bin, so that only the coefficients of the functions are unknown at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from mrsxr.threads import each

from ._background_match_misfit import Bin, Table, freedom, misfit, scatter

#: Tukey's constant and the most rounds of reweighting.
_TUKEY, _HUBER, _ROUNDS, _HUBER_ROUNDS = 4.685, 1.345, 50, 6
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
    n_term: int
    n_knot: int

    def way(self, members: np.ndarray) -> tuple[sparse.csr_array, np.ndarray]:
        """Return the matrix from unknowns to the coefficients (member, term, knot), and the numbers of the unknowns."""
        n = self.n_term * self.n_knot
        rows, columns = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
        for place, member in enumerate(members):
            for at, step, size in ((self.first[member], 1, n), (self.common[member], 0, self.n_knot)):
                if at >= 0:
                    rows.append(place * n + np.arange(size))
                    columns.append(at + step * np.arange(size))
        row, column = np.concatenate(rows), np.concatenate(columns)
        unknown, number = np.unique(column, return_inverse=True)
        shape = (n * members.size, unknown.size)
        return sparse.csr_array((np.ones(row.size), (row, number)), shape=shape), unknown

    def coefficients(self, values: np.ndarray) -> np.ndarray:
        """Return the coefficients (member, term, knot) with the constants of their groups."""
        out = np.zeros((self.first.size, self.n_term, self.n_knot))
        for m, (first, common) in enumerate(zip(self.first, self.common, strict=True)):
            if first >= 0:
                out[m] = values[first : first + out[m].size].reshape(out[m].shape)
            if common >= 0:
                out[m, 0] += values[common]
        return out


def corner_nodes(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys (sample, 4) and bilinear weights of the nodes around positions in units of their spacing."""
    ix, iy = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    u, v = x - ix, y - iy
    keys = np.stack([node_key(ix + i, iy + j) for j in (0, 1) for i in (0, 1)], axis=1)
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v], axis=1)
    return keys, weights


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


def make_bins(
    table: Table, basis: Sequence[dict[int, np.ndarray]], shift: tuple[float, float] = (0.0, 0.0)
) -> list[Bin]:
    """Put the samples on the nodes of a grid, sky bin by sky bin; ``basis`` of each member in each spectral bin.

    Nodes are numbered along the shorter side of the field, so that the bands of normal matrices are narrow.
    """
    x, y = table.x + shift[0], table.y + shift[1]
    if x.size and np.ptp(x) > np.ptp(y):
        x, y = y, x
    ix, iy = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    u, v, key = x - ix, y - iy, node_key(ix, iy)
    corners = (node_key(*np.meshgrid([-1, 0, 1], [-1, 0, 1])) - node_key(np.zeros(1, int), np.zeros(1, int))).ravel()
    bins = []
    for rows in _runs(table.sky_bin):
        node = np.unique(np.unique(key[rows])[:, None] + corners)
        first = np.searchsorted(node, key[rows][:, None] + corners[::3])
        members, one, place = np.unique(table.member[rows], return_index=True, return_inverse=True)
        spectral = table.spectral_bin[rows][one]
        of_bin = np.stack([basis[m][int(k)] for m, k in zip(members, spectral, strict=True)])
        width = int((first[:, 2] - first[:, 0]).max()) + 3
        bins.append(Bin(rows, node.size, width, members, of_bin, place, first, u[rows], v[rows]))
    return bins


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
    """Coefficients of all unknowns, the factorised normal matrix, the sky on every grid, and weights of the samples."""

    values: np.ndarray
    factor: Any
    skies: list[Sky]
    weight: np.ndarray
    steep: np.ndarray  # (sample), by how much a fit with new weights would move further than one with these
    scale: np.ndarray  # of each band, how much larger the scatter is than the errors
    rounds: int
    converged: bool


def solve_robustly(table: Table, bins: list[Bin], unknowns: Unknowns, band_of_member: np.ndarray) -> Solution:
    """Solve by iteratively reweighted least squares: Huber's weights first, then Tukey's.

    The scatter about the fit, in units of the errors, is measured band by band and scales the errors.
    """
    group = band_of_member[table.member]
    weight = table.sigma**-2.0
    base = weight.copy()
    values = np.zeros(unknowns.size)
    n_group = int(band_of_member.max()) + 1
    scale, rounds = np.ones(n_group), 0
    share, enough = freedom(bins, group, n_group)
    enough &= np.bincount(band_of_member, minlength=n_group)[:n_group] > 1
    excess, converged = np.ones(table.flux.size), False
    for rounds in range(1, _ROUNDS + 1):
        before = values
        values, factor, _, residual = _solve_once(table, bins, unknowns, weight)
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
    values, factor, sky, _ = _solve_once(table, bins, unknowns, weight)
    return Solution(values, factor, [sky], weight, _steep(off, weight, group), scale, rounds, converged)


def _steep(off: np.ndarray, weight: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return the mean of Tukey's weights over that of the derivative of his function, for each sample that of its band.

    The equations of a fit whose weights follow the residuals are less steep by that (Huber 1981, Robust Statistics).
    """
    square = np.minimum((off / _TUKEY) ** 2, 1.0)
    derivative = weight * (1.0 - 5.0 * square) / np.where(square < 1.0, 1.0 - square, 1.0)
    whole, slope = np.bincount(group, weight), np.bincount(group, derivative)
    return (whole / np.maximum(slope, np.maximum(0.5 * whole, 1e-300)))[group]


def _solve_once(
    table: Table, bins: list[Bin], unknowns: Unknowns, weight: np.ndarray
) -> tuple[np.ndarray, Any, Sky, np.ndarray]:
    """Return the unknowns, the factor of their equations, the sky that goes with them, and the residuals."""
    sky = eliminate(table, bins, weight)
    values, factor = solve(sky.equations, unknowns)
    return values, factor, sky, residuals(table, bins, sky, unknowns.coefficients(values))


def _typical_variance(factor: Any, size: int) -> float:
    if size == 0:
        return 0.0
    probe = np.random.default_rng(0).choice([-1.0, 1.0], size)
    return max(float(probe @ factor.solve(probe)) / max(size, 1), 0.0)


@dataclass(frozen=True)
class Equations:
    """The normal equations that are left for the coefficients (member, term, knot) of some members."""

    members: np.ndarray
    matrix: np.ndarray
    vector: np.ndarray


@dataclass(frozen=True)
class Sky:
    """The sky, eliminated: factor and border of each bin, and the equations of each set of members that share bins."""

    factors: list[tuple[np.ndarray, np.ndarray]]
    equations: list[Equations]


def eliminate(table: Table, bins: list[Bin], weight: np.ndarray) -> Sky:
    """Eliminate the sky, bin by bin."""
    from . import _background_match_sky_kernels as kernels

    n_term = table.terms.shape[1]
    # nodes that bright sources have left without weight hang on to this ridge alone
    least = 1e-8 * float(np.median(weight[weight > 0])) if (weight > 0).any() else 1.0
    factors, sets = [], {}  # type: ignore[var-annotated]

    def reduced(one: Bin) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return kernels.eliminate(one, table.terms[one.rows], table.flux[one.rows], weight[one.rows], least)

    for one, (band, border, left) in zip(bins, each(reduced, bins), strict=True):
        factors.append((band, border))
        n = one.basis.size * n_term
        found = sets.setdefault(one.members.tobytes(), Equations(one.members, np.zeros((n, n)), np.zeros(n)))
        kernels.add_equations(left, one.basis, n_term, found.matrix, found.vector)
    return Sky(factors, [replace(one, matrix=whole(one.matrix)) for one in sets.values()])


def mean_of(skies: list[Sky]) -> list[Equations]:
    """Return the mean of the equations that the grids of some skies leave."""
    return [
        Equations(same[0].members, *(sum(getattr(one, k) for one in same) / len(same) for k in ("matrix", "vector")))
        for same in zip(*(sky.equations for sky in skies), strict=True)
    ]


def whole(lower: np.ndarray) -> np.ndarray:
    """Return symmetric matrices of which the lower triangle is given."""
    return np.tril(lower) + np.swapaxes(np.tril(lower, -1), -1, -2)


def solve(equations: list[Equations], unknowns: Unknowns) -> tuple[np.ndarray, Any]:
    """Return the values of the unknowns and their factorised normal matrix."""
    right = np.zeros(unknowns.size)
    if not unknowns.size:
        return right, None
    sums = []
    for one in equations:
        way, columns = unknowns.way(one.members)
        sums.append((columns, way.T @ (way.T @ one.matrix).T))
        right[columns] += way.T @ one.vector
    factor = _factorise(sums, unknowns.size)
    return factor.solve(right), factor


def residuals(table: Table, bins: list[Bin], sky: Sky, coefficients: np.ndarray) -> np.ndarray:
    """Return the residuals of functions of given coefficients (member, term, knot) and the sky that goes with them."""
    from . import _background_match_sky_kernels as kernels

    residual = np.empty(table.flux.size)

    def fill(number: int) -> None:
        one, factor = bins[number], sky.factors[number]
        local = np.einsum("mtk,mk->mt", coefficients[one.members], one.basis)
        kernels.residuals(one, table.terms[one.rows], table.flux[one.rows], factor, local, residual[one.rows])

    each(fill, range(len(bins)))
    return residual


def _factorise(sums: list[tuple[np.ndarray, np.ndarray]], size: int) -> Any:
    """Add the normal matrices of the sets of members up and factorise them."""
    from scipy.sparse.linalg import splu

    rows = np.concatenate([np.repeat(c, c.size) for c, _ in sums])
    columns = np.concatenate([np.tile(c, c.size) for c, _ in sums])
    normal = sparse.csc_array(
        sparse.coo_array((np.concatenate([m.ravel() for _, m in sums]), (rows, columns)), shape=(size, size))
    )
    ridge = 1e-9 * max(float(normal.diagonal().mean()), 1e-30)
    return splu(sparse.csc_array(normal + ridge * sparse.eye_array(size)))


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
