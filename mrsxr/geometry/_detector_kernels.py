"""Polynomials of detector and slice coordinates, compiled. numpy, math and numba only."""

from __future__ import annotations

import math

import numpy as np

from mrsxr.compiled import Array, njit

TOGETHER = 64  # points of a slice that are taken together


@njit(cache=True, nogil=True)
def horner(coefficients, t):
    """Return sum coefficients[i] t^i by Horner's rule."""
    total = 0.0
    for power in range(coefficients.shape[0] - 1, -1, -1):
        total = total * t + coefficients[power]
    return total


@njit(cache=True, nogil=True)
def polynomial(matrix, a, b):
    """Return sum matrix[i, j] a^i b^j by Horner's rule in both arguments."""
    total = 0.0
    for i in range(matrix.shape[0] - 1, -1, -1):
        total = total * a + horner(matrix[i], b)
    return total


@njit(cache=True, nogil=True, forceinline=True)
def add_powers(matrix, s, n, a, b, row, out):
    """Turn n zeros of out into sum matrix[s, i, j] a^i b^j, coefficient by coefficient."""
    for i in range(matrix.shape[1] - 1, -1, -1):
        for k in range(n):
            row[k] = 0.0
        for j in range(matrix.shape[2] - 1, -1, -1):
            c = matrix[s, i, j]
            for k in range(n):
                row[k] = row[k] * b[k] + c
        for k in range(n):
            out[k] = out[k] * a[k] + row[k]


@njit(cache=True, nogil=True)
def pixels_to_coordinate(x: Array, y: Array, label: Array, lookup: Array, matrix: Array, shift: Array) -> Array:
    """Return alpha [arcsec] or wavelength [um] of points (x, y) [pix] with their slice labels (1-D).

    Points that follow one another within a slice are taken together, coefficient by coefficient.
    """
    out = np.empty(x.size)
    b, row = np.empty(TOGETHER), np.empty(TOGETHER)
    start = 0
    while start < x.size:
        n = 1
        while n < TOGETHER and start + n < x.size and label[start + n] == label[start]:
            n += 1
        s = lookup[label[start]] if 0 <= label[start] < lookup.size else -1
        here, a = out[start : start + n], y[start : start + n]
        here[:] = 0.0 if s >= 0 else math.nan
        for k in range(n if s >= 0 else 0):
            b[k] = x[start + k] - shift[s]
        if s >= 0:
            add_powers(matrix, s, n, a, b, row, here)
        start += n
    return out


@njit(cache=True, nogil=True)
def _collapse(matrix, a, out):
    """Sum the powers of ``a``: out[j] = sum_i matrix[i, j] a^i."""
    for j in range(matrix.shape[1]):
        total = 0.0
        for i in range(matrix.shape[0] - 1, -1, -1):
            total = total * a + matrix[i, j]
        out[j] = total


@njit(cache=True, nogil=True)
def grid_to_slicer(
    labels: Array, y0: int, x0: int, lookup: Array, alpha_matrix: Array, alpha_shift: Array, wave_matrix: Array,
    wave_shift: Array, slice_beta: Array,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return alpha, beta [arcsec], wavelength [um] of every pixel of a label map whose corner is (y0, x0).

    The powers of y are summed once for each row and slice, so a pixel costs two polynomials in x.
    """
    ny, nx = labels.shape
    n_slices = slice_beta.size
    alpha, beta, wavelength = np.empty((ny, nx)), np.empty((ny, nx)), np.empty((ny, nx))
    alpha_rows = np.empty((n_slices, alpha_matrix.shape[2]))
    wave_rows = np.empty((n_slices, wave_matrix.shape[2]))
    for r in range(ny):
        for s in range(n_slices):
            _collapse(alpha_matrix[s], float(r + y0), alpha_rows[s])
            _collapse(wave_matrix[s], float(r + y0), wave_rows[s])
        for c in range(nx):
            label = labels[r, c]
            s = lookup[label] if 0 <= label < lookup.size else -1
            if s < 0:
                alpha[r, c] = beta[r, c] = wavelength[r, c] = math.nan
                continue
            alpha[r, c] = horner(alpha_rows[s], c + x0 - alpha_shift[s])
            wavelength[r, c] = horner(wave_rows[s], c + x0 - wave_shift[s])
            beta[r, c] = slice_beta[s]
    return alpha, beta, wavelength


@njit(cache=True, nogil=True)
def slicer_to_pixels(
    alpha: Array, wavelength: Array, label: Array, lookup: Array, x_matrix: Array, x_shift: Array, y_matrix: Array,
    y_shift: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Return x, y [pix] of points (alpha [arcsec], wavelength [um]) in labelled slices (1-D)."""
    n = alpha.size
    x, y = np.empty(n), np.empty(n)
    for k in range(n):
        s = lookup[label[k]] if 0 <= label[k] < lookup.size else -1
        if s < 0:
            x[k] = y[k] = math.nan
            continue
        x[k] = polynomial(x_matrix[s], wavelength[k] - x_shift[s], alpha[k])
        y[k] = polynomial(y_matrix[s], wavelength[k] - y_shift[s], alpha[k])
    return x, y


@njit(cache=True, nogil=True)
def fill_slice(
    labels: Array, label: int, left: Array, right: Array, alpha_matrix: Array, alpha_shift: float, wave_matrix: Array,
    wave_shift: float, limits: Array,
) -> None:  # fmt: skip
    """Write ``label`` into the pixels of one slice.

    In row r the pixels between columns left[r] and right[r] are tried (two more at either side); those whose
    alpha [arcsec] lies in limits[0:2] and whose wavelength [um] lies in limits[2:4] are taken.
    """
    ny, nx = labels.shape
    alpha_row = np.empty(alpha_matrix.shape[1])
    wave_row = np.empty(wave_matrix.shape[1])
    for r in range(ny):
        if not (math.isfinite(left[r]) and math.isfinite(right[r])):
            continue
        _collapse(alpha_matrix, float(r), alpha_row)
        _collapse(wave_matrix, float(r), wave_row)
        first = max(math.floor(min(left[r], right[r])) - 2, 0)
        last = min(math.ceil(max(left[r], right[r])) + 2, nx - 1)
        for c in range(first, last + 1):
            alpha = horner(alpha_row, c - alpha_shift)
            wave = horner(wave_row, c - wave_shift)
            if limits[0] <= alpha <= limits[1] and limits[2] <= wave <= limits[3]:
                labels[r, c] = label
