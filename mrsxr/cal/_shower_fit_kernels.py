"""Kernels of the shower fit on plain arrays: cells of pixels between the slices, and a smooth field through them.

The covariance of a field over (x, y) is that of a Gaussian of lengths and tilt, and a share of one of half the lengths,
for profiles with a cusp: C(d) = height^2 [(1 - fine) exp(-q / 2) + fine exp(-2 q)], q = (u/long)^2 + (v/wide)^2 with
(u, v) = d turned by the tilt. What scattered light may add is known to be as the doubt of the cells, smooth otherwise.
"""

import math

import numpy as np

from mrsxr._solve_kernels import forward, log_determinant
from mrsxr.compiled import Array, njit

CELL_Y, CELL_X = 4, 6  # pixels
_OUTLIER, _SLACK = 5.0, 0.6  # sigma, and share of the median of a cell, beyond which a pixel counts nothing
_DOUBT_X, _DOUBT_Y = 60.0, 30.0  # pixels over which what light scatters is alike
_LOST = 1e30


@njit(cache=True, nogil=True)
def fill_cells(values: Array, known: Array, noise: Array, doubts: Array, out: Array) -> None:
    """Fill ``out`` (5, cell y, cell x) with mean value, variance, doubt, x and y of the known pixels of each cell.

    Variance 0: no pixel. Pixels far off the median of the cell (single hits) count nothing.
    """
    n_y, n_x = values.shape
    found = np.empty(CELL_Y * CELL_X)
    out[:] = 0.0
    for cy in range(out.shape[1]):
        for cx in range(out.shape[2]):
            n = 0
            for y in range(CELL_Y * cy, min(n_y, CELL_Y * cy + CELL_Y)):
                for x in range(CELL_X * cx, min(n_x, CELL_X * cx + CELL_X)):
                    if known[y, x] and noise[y] > 0.0:
                        found[n] = values[y, x]
                        n += 1
            if n < 3:
                continue
            middle = np.median(found[:n])
            weights = value = doubt = place_x = place_y = 0.0
            for y in range(CELL_Y * cy, min(n_y, CELL_Y * cy + CELL_Y)):
                for x in range(CELL_X * cx, min(n_x, CELL_X * cx + CELL_X)):
                    if not (known[y, x] and noise[y] > 0.0):
                        continue
                    room = _OUTLIER * math.hypot(noise[y], doubts[y, x]) + _SLACK * abs(middle)
                    if abs(values[y, x] - middle) > room:
                        continue
                    w = 1.0 / (noise[y] ** 2 + doubts[y, x] ** 2)
                    weights += w
                    value += w * values[y, x]
                    doubt += w * doubts[y, x]
                    place_x += w * x
                    place_y += w * y
            if weights > 0.0:
                out[0, cy, cx], out[1, cy, cx], out[2, cy, cx] = value / weights, 1.0 / weights, doubt / weights
                out[3, cy, cx], out[4, cy, cx] = place_x / weights, place_y / weights


@njit(cache=True, nogil=True)
def _turn(form):
    """Cosine and sine of the tilt of a form."""
    return math.cos(form[3]), math.sin(form[3])


@njit(cache=True, nogil=True)
def _alike(dx, dy, form, turn):
    """Covariance of the field at a distance; form: height, length, width [pix], tilt [rad], fine."""
    cosine, sine = turn
    u, v = (cosine * dx + sine * dy) / form[1], (cosine * dy - sine * dx) / form[2]
    q = u * u + v * v
    if q > 80.0:
        return 0.0
    one = math.exp(-0.5 * q)
    return form[0] ** 2 * ((1.0 - form[4]) * one + form[4] * one * one * one * one)


@njit(cache=True, nogil=True)
def factor(cells: Array, form: Array, out: Array) -> float:
    """Fill ``out`` (n, n) with the Cholesky root of the covariance of cells (5, n); return its log determinant."""
    n, turn = cells.shape[1], _turn(form)
    for i in range(n):
        for j in range(i + 1):
            dx, dy = cells[3, i] - cells[3, j], cells[4, i] - cells[4, j]
            near = math.exp(-0.5 * ((dx / _DOUBT_X) ** 2 + (dy / _DOUBT_Y) ** 2))
            value = _alike(dx, dy, form, turn) + cells[2, i] * cells[2, j] * near
            if i == j:
                value += cells[1, i] + 1e-6 * form[0] ** 2
            out[i, j] = value
    return log_determinant(out, n)


@njit(cache=True, nogil=True)
def misfit(cells: Array, form: Array, lower: Array) -> float:
    """Return -log likelihood of the cells, but for a constant."""
    total = 0.5 * factor(cells, form, lower)
    if total != total:
        return _LOST
    white = cells[0].copy()
    forward(lower, white.size, white)
    for value in white:
        total += 0.5 * value * value
    return total


@njit(cache=True, nogil=True)
def expect(cells: Array, weights: Array, form: Array, xs: Array, ys: Array, out: Array) -> None:
    """Fill ``out`` (y, x) with the field at rows ys and columns xs, from weights = covariance^-1 values."""
    turn = _turn(form)
    for i in range(ys.size):
        for j in range(xs.size):
            total = 0.0
            for k in range(weights.size):
                total += weights[k] * _alike(xs[j] - cells[3, k], ys[i] - cells[4, k], form, turn)
            out[i, j] = total


@njit(cache=True, nogil=True)
def doubt_field(cells: Array, lower: Array, form: Array, xs: Array, ys: Array, out: Array) -> None:
    """Fill ``out`` (y, x) with the variance of the field at rows ys and columns xs."""
    there, turn = np.empty(cells.shape[1]), _turn(form)
    for i in range(ys.size):
        for j in range(xs.size):
            for k in range(there.size):
                there[k] = _alike(xs[j] - cells[3, k], ys[i] - cells[4, k], form, turn)
            forward(lower, there.size, there)
            out[i, j] = max(form[0] ** 2 - np.sum(there * there), 0.0)
