"""Kernels of background matching: the sky of one wavelength bin, eliminated by a Cholesky factorisation of its band.

The nodes of the sky are numbered along the rows of their grid, so that its normal matrix is a band. Flux (column 0) and
the terms of all members (member, term) of the bin hang on to it as columns of a border.
"""

import math
from typing import Any

import numpy as np

from mrsxr.compiled import Array, njit


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _splines(first, u, v, column, weight):
    """Fill in the numbers and weights of the nine nodes around a sample, u and v from the node below it."""
    across_0, across_1, across_2 = 0.5 * (1 - u) * (1 - u), 0.5 + u * (1 - u), 0.5 * u * u
    along_0, along_1, along_2 = 0.5 * (1 - v) * (1 - v), 0.5 + v * (1 - v), 0.5 * v * v
    for row, along in enumerate((along_0, along_1, along_2)):
        for k, across in enumerate((across_0, across_1, across_2)):
            column[3 * row + k] = first[row] + k
            weight[3 * row + k] = along * across


@njit(cache=True, nogil=True, error_model="numpy")
def _assemble(first, u, v, place, terms, flux, weight, band, border, left):
    """Add the samples of a bin to the normal matrix of its sky, to the border and to the equations of the terms."""
    n_term = terms.shape[1]
    column, share = np.empty(9, dtype=np.int64), np.empty(9)
    for i in range(flux.size):
        w = weight[i]
        if w == 0.0:
            continue
        _splines(first[i], u[i], v[i], column, share)
        at = 1 + n_term * place[i]
        for p in range(9):
            ours = w * share[p]
            for r in range(p, 9):
                band[column[p], column[r] - column[p]] += ours * share[r]
            border[column[p], 0] += ours * flux[i]
            for t in range(n_term):
                border[column[p], at + t] += ours * terms[i, t]
        for t in range(n_term):
            left[at + t, 0] += w * terms[i, t] * flux[i]
            for s in range(t + 1):
                left[at + t, at + s] += w * terms[i, t] * terms[i, s]


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _take_off(factor, row, out):
    """Take a multiple of the beginning of a row off another."""
    if factor != 0.0:
        for k in range(out.size):
            out[k] -= factor * row[k]


@njit(cache=True, nogil=True, error_model="numpy")
def _factorise(least, band, border, left):
    """Turn normal matrix and border into their factor, and take what it holds off the lower triangle of ``left``."""
    n_node, width = band.shape
    for k in range(n_node):
        band[k, 0] += 1e-8 * band[k, 0] + least
    for k in range(n_node):
        own, hung = band[k], border[k]
        scale = 1.0 / math.sqrt(own[0])
        own *= scale
        hung *= scale
        for m in range(1, min(width, n_node - k)):
            _take_off(own[m], own[m:], band[k + m, : width - m])
            _take_off(own[m], hung, border[k + m])
        for a in range(1, hung.size):
            _take_off(hung[a], hung, left[a, : a + 1])


def eliminate(bin_: Any, terms: Array, flux: Array, weight: Array, least: float) -> tuple[Array, Array, Array]:
    """Return the factor (node, band) of the sky of a bin, its border (node, column), and the equations without it.

    terms (sample, term), flux and weight are those of the samples of the bin; ``least`` is added to the diagonal. The
    equations (column, column), their lower triangle: 0 is the right side, the others are the terms of the members.
    """
    size = 1 + bin_.members.size * terms.shape[1]
    band, border = np.zeros((bin_.n_node, bin_.width)), np.zeros((bin_.n_node, size))
    left = np.zeros((size, size))
    _assemble(bin_.first, bin_.u, bin_.v, bin_.place, terms, flux, weight, band, border, left)
    _factorise(least, band, border, left)
    return band, border, left


@njit(cache=True, nogil=True, error_model="numpy")
def _residuals(first, u, v, place, terms, flux, band, border, local, out):
    """Fill in the residuals of the samples of a bin."""
    n_term, (n_node, width) = terms.shape[1], band.shape
    sky, column, share = np.empty(n_node), np.empty(9, dtype=np.int64), np.empty(9)
    for k in range(n_node - 1, -1, -1):
        total, own, hung = border[k, 0], band[k], border[k, 1:]
        for a in range(local.size):
            total -= hung[a] * local[a]
        after = sky[k:]
        for m in range(1, min(width, n_node - k)):
            total -= own[m] * after[m]
        sky[k] = total / own[0]
    for i in range(flux.size):
        _splines(first[i], u[i], v[i], column, share)
        total = flux[i]
        for p in range(9):
            total -= share[p] * sky[column[p]]
        for t in range(n_term):
            total -= terms[i, t] * local[n_term * place[i] + t]
        out[i] = total


def residuals(bin_: Any, terms: Array, flux: Array, factor: tuple[Array, Array], local: Array, out: Array) -> None:
    """Fill in the residuals of a bin for coefficients ``local`` (member, term) and the sky that goes with them."""
    _residuals(bin_.first, bin_.u, bin_.v, bin_.place, terms, flux, *factor, local.ravel(), out)


@njit(cache=True, nogil=True, error_model="numpy")
def _lift(matrix, basis, n_term, out):
    """Add blocks of the lower triangle of a matrix (member term, member term), knot by knot, to one of all knots."""
    n_knot = basis.shape[1]
    for a in range(matrix.shape[0]):
        for c in range(a + 1):
            if matrix[a, c] == 0.0:
                continue
            across = basis[c // n_term]
            for k in range(n_knot):
                factor, row = matrix[a, c] * basis[a // n_term, k], out[a * n_knot + k, c * n_knot :]
                for m in range(n_knot):
                    row[m] += factor * across[m]


@njit(cache=True, nogil=True, error_model="numpy")
def _lift_row(row, basis, n_term, out):
    """Add a row (member term), knot by knot, to one of all knots."""
    n_knot = basis.shape[1]
    for a in range(row.size):
        for k in range(n_knot):
            out[a * n_knot + k] += row[a] * basis[a // n_term, k]


@njit(cache=True, nogil=True, error_model="numpy")
def _add_equations(left, basis, n_term, matrix, vector):
    """Add the equations of a bin to those of the knots of its members."""
    _lift(left[1:, 1:].copy(), basis, n_term, matrix)
    _lift_row(left[1:, 0].copy(), basis, n_term, vector)


def add_equations(left: Array, basis: Array, n_term: int, matrix: Array, vector: Array) -> None:
    """Add the equations of a bin to those of the coefficients (member, term, knot), the lower triangle alone.

    left : of :func:`eliminate`; basis (member, knot): the values of all splines in the bin.
    """
    _add_equations(left, basis, n_term, matrix, vector)


@njit(cache=True, nogil=True, error_model="numpy")
def _back(band, border):
    """Return what the nodes of a bin take of each term (node, term)."""
    n_node, width = band.shape
    way = border[:, 1:].copy()
    for k in range(n_node - 1, -1, -1):
        own = band[k]
        for m in range(1, min(width, n_node - k)):
            _take_off(own[m], way[k + m], way[k])
        way[k] /= own[0]
    return way


@njit(cache=True, nogil=True, error_model="numpy")
def _add_squares(factor, row, out):
    """Add a multiple of the squares of a row to the lower triangle of a matrix."""
    for a in range(row.size):
        _take_off(-factor * row[a], row, out[a, : a + 1])


@njit(cache=True, nogil=True, error_model="numpy")
def _add_pulls(first, u, v, place, terms, pull, weight, loud, number, band, border, basis, here, total, noise, free):
    """Add the scores of the samples of a bin, patch by patch, their noise, and what the sky of a grid leaves free."""
    n_term, size, way = terms.shape[1], border.shape[1] - 1, _back(band, border)
    own, column, share = np.empty(size), np.empty(9, dtype=np.int64), np.empty(9)
    pulls, louds = np.zeros((here.size, size)), np.zeros((size, size))
    for i in range(pull.size):
        if weight[i] == 0.0:
            continue
        _splines(first[i], u[i], v[i], column, share)
        own[:] = 0.0
        for p in range(9):
            _take_off(share[p], way[column[p]], own)
        for t in range(n_term):
            own[n_term * place[i] + t] += terms[i, t]
        _take_off(-pull[i], own, pulls[number[i]])
        _add_squares(loud[i], own, louds)
        _take_off(-1.0, own, free[i])
    for patch in range(here.size):
        _lift_row(pulls[patch], basis, n_term, total[here[patch]])
    _lift(louds, basis, n_term, noise)


def add_pulls(
    bin_: Any, terms: Array, pull: Array, weight: Array, loud: Array, number: Array, factor: tuple[Array, Array],
    here: Array, total: Array, noise: Array, free: Array,
) -> None:  # fmt: skip
    """Add what the samples of a bin tell of the coefficients (member, term, knot), without what the sky takes of it.

    pull, weight, loud (sample): what a sample pulls by, its weight, the variance of its pull. Sample i is of the patch
    ``here[number[i]]`` of total (patch, coefficient), the scores; noise (coefficient, coefficient) is the covariance of
    the scores of all, its lower triangle; free (sample, member term): by how much a sample tells of each.
    """
    _add_pulls(bin_.first, bin_.u, bin_.v, bin_.place, terms, pull, weight, loud, number, *factor, bin_.basis, here,
               total, noise, free)  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _add_shares(free, weight, loud, number, n_term, basis, here, held, noise):
    """Add what the samples of a bin hold of the equations, patch by patch, and the noise of their scores."""
    matrices, louds = np.zeros((here.size, free.shape[1], free.shape[1])), np.zeros((free.shape[1], free.shape[1]))
    for i in range(weight.size):
        _add_squares(weight[i], free[i], matrices[number[i]])
        _add_squares(loud[i], free[i], louds)
    for patch in range(here.size):
        _lift(matrices[patch], basis, n_term, held[here[patch]])
    _lift(louds, basis, n_term, noise)


def add_shares(
    free: Array, weight: Array, loud: Array, number: Array, basis: Array, here: Array, held: Array, noise: Array
) -> None:
    """Add what patches hold of the equations, held (patch, coefficient, coefficient), and the noise of all scores.

    free (sample, member term): that of :func:`add_pulls`, the mean over grids. Of matrices the lower triangle is
    filled in.
    """
    _add_shares(free, weight, loud, number, free.shape[1] // len(basis), basis, here, held, noise)
