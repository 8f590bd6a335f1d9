"""The samples of background matching, and how far they scatter about a fit: noise, and what the model cannot follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mrsxr.robust import MAD_TO_SIGMA

#: Free samples from which the scatter of a band is measured, and the least that is believed.
_MANY, _LEAST_SCATTER = 500, 1.0
#: Limit of the residuals that count for the scatter, and the variance of a normal distribution within it.
_CLIP, _CLIPPED_VARIANCE = 3.0, 0.973
#: Wavelength bins over which the misfit of a place counts as common, and the factor of variance that is believed.
_CHUNK, _LEAST_EXCESS = 12, 1.5
#: Power of that factor: neighbouring places are misfitted alike, so that they count for less than by the factor alone.
_ALIKE = 1.5


@dataclass
class Table:
    """All samples, sorted by sky bin; ``member`` numbers one band of one exposure."""

    member: np.ndarray
    sky_bin: np.ndarray  # number of the wavelength bin, apart for every band where bands are not tied
    spectral_bin: np.ndarray
    x: np.ndarray  # in units of the spacing of the nodes
    y: np.ndarray
    terms: np.ndarray  # (sample, term): 1, alpha [arcsec], beta [arcsec], or 1 alone
    flux: np.ndarray
    sigma: np.ndarray
    grid: np.ndarray  # number of the spacing of the nodes: places of samples of one grid can be compared

    def take(self, index: np.ndarray) -> Table:
        """Return some of the samples."""
        return Table(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Bin:
    """One sky bin: its samples, where they lie among its nodes, and the members that see it."""

    rows: slice  # of the table
    n_node: int
    width: int  # of the band of its normal matrix
    members: np.ndarray
    basis: np.ndarray  # (member, knot): the values of all splines along wavelength
    place: np.ndarray  # of each sample: the place of its member among those
    first: np.ndarray  # (sample, 3): the first of three nodes in each of three rows
    u: np.ndarray  # from the node below each sample, along the rows and across
    v: np.ndarray


def misfit(table: Table, group: np.ndarray, residual: np.ndarray, weight: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return by how much the variances are too small where the sky is not linear between its nodes, of each sample.

    Residuals of noise average out along wavelength; those of a steep source do not. The mean square of the means over
    wavelength of the samples of a member at a place, in units of their noise, is that factor: with it, errors that are
    common to all wavelengths count as what they are.
    """
    out = np.ones(table.flux.size)
    ix, iy = (np.floor(v).astype(np.int64) for v in (table.x, table.y))
    for key in np.unique(group * 64 + table.grid):
        rows = np.flatnonzero(group * 64 + table.grid == key)
        x, y = ix[rows] - ix[rows].min(), iy[rows] - iy[rows].min()
        shape = (int(y.max()) + 3, int(x.max()) + 3)
        place = (y + 1) * shape[1] + x + 1
        total = np.ones(shape)
        for chunk in (table.spectral_bin[rows] // _CHUNK, np.zeros(rows.size, dtype=np.int64)):
            number = cluster(chunk, table.member[rows], place)
            at = np.empty(int(number.max()) + 1, dtype=np.int64)
            at[number] = place
            pull, norm = (np.bincount(number, v) for v in (weight[rows] * residual[rows], weight[rows]))
            chi2 = pull**2 / np.where(norm > 0, norm, 1.0) / share[group[rows[0]]]
            square, count = (_around(np.bincount(at, v, total.size).reshape(shape)) for v in (chi2, norm > 0))
            total = np.maximum(total, square / np.maximum(count, 1))
        out[rows] = total.ravel()[place]
    return np.where(out > _LEAST_EXCESS, out, 1.0) ** _ALIKE


def cluster(*keys: np.ndarray) -> np.ndarray:
    """Return numbers from 0 of the samples that have all keys, integers, in common."""
    out = np.zeros(keys[0].size, dtype=np.int64)
    for key in keys:
        key = key - key.min(initial=0)
        out = out * (int(key.max(initial=0)) + 1) + key
        out = np.unique(out, return_inverse=True)[1] if out.max(initial=0) > 1 << 31 else out
    return np.unique(out, return_inverse=True)[1]


def places(table: Table) -> np.ndarray:
    """Return numbers of member, place and chunk of wavelength of each sample, to take means of."""
    x, y = (np.floor(v).astype(np.int64) for v in (table.x, table.y))
    return cluster(table.member, table.grid, table.spectral_bin // _CHUNK, x, y)


def squares(number: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return for each sample its part of the squares of the means of those of the same number."""
    pull, norm = np.bincount(number, weight * residual), np.bincount(number, weight)
    return weight * (pull / np.where(norm > 0, norm, 1.0))[number] ** 2


def _around(a: np.ndarray) -> np.ndarray:
    """Return the sums over 3 x 3 neighbours; the edge has none."""
    rows = a[:, :-2] + a[:, 1:-1] + a[:, 2:]
    out = np.zeros_like(a)
    out[1:-1, 1:-1] = rows[:-2] + rows[1:-1] + rows[2:]
    return out


def scatter(
    off: np.ndarray, share: np.ndarray, group: np.ndarray, enough: np.ndarray, smooth: np.ndarray
) -> np.ndarray:
    """Return the scatter of each band in units of the errors; bands with few free samples take that of all.

    The mean square of the residuals without outliers over the ``share`` of samples that the sky leaves free: where it
    leaves few, many residuals are next to nothing and their median would say too little.
    """
    if off.size == 0:
        return np.ones(share.size)
    square = off**2 / share[group]
    found = np.empty(share.size)
    for g in range(share.size):
        inside = square[smooth & (group == g)] if enough[g] else square[smooth]
        if inside.size < _MANY:
            inside = square[smooth] if smooth.sum() >= _MANY else np.ones(1)
        limit = (_CLIP * MAD_TO_SIGMA) ** 2 * float(np.median(inside))
        found[g] = float(np.mean(inside[inside <= limit])) / _CLIPPED_VARIANCE
    return np.maximum(np.sqrt(found), _LEAST_SCATTER)


def freedom(bins: list[Bin], group: np.ndarray, n_group: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each band the share of its samples that the sky does not use up, and if they are many."""
    nodes, samples = np.zeros(n_group), np.zeros(n_group)
    for one in bins:
        count = np.bincount(group[one.rows], minlength=n_group)
        samples += count
        nodes += one.n_node * count / count.sum()
    share = np.clip(1.0 - nodes / np.maximum(samples, 1), 0.05, 1.0)
    return share, samples - nodes > _MANY
