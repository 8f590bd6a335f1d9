"""Small symmetric positive systems in compiled code, by Cholesky; no BLAS, whose threads would fight with ours."""

import math

import numpy as np

from mrsxr.compiled import Array, njit


@njit(cache=True, nogil=True, error_model="numpy")
def cholesky(matrix, n, least=1e-14):
    """Factorise matrix[:n, :n] in place (lower triangle); False where it is not positive.

    least : part of a diagonal element that must be left of it.
    """
    for a in range(n):
        size = matrix[a, a]
        for b in range(a + 1):
            total = matrix[a, b]
            for c in range(b):
                total -= matrix[a, c] * matrix[b, c]
            if a != b:
                matrix[a, b] = total / matrix[b, b]
            elif total > least * size:
                matrix[a, a] = math.sqrt(total)
            else:
                return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def log_determinant(matrix, n):
    """Return ln det of a matrix, which becomes its factor; NaN where it is not positive.

    The numbers of :func:`cholesky`, column by column, which goes side by side where a matrix is large.
    """
    total, column = 0.0, np.empty(n)
    for c in range(n):
        if not matrix[c, c] > 0.0:
            return np.nan
        root = math.sqrt(matrix[c, c])
        matrix[c, c] = root
        total += math.log(root)
        for a in range(c + 1, n):
            column[a] = matrix[a, c] = matrix[a, c] / root
        for a in range(c + 1, n):
            row, known, f = matrix[a, c + 1 : a + 1], column[c + 1 : a + 1], column[a]
            for b in range(a - c):
                row[b] -= f * known[b]
    return 2.0 * total


@njit(cache=True, nogil=True, error_model="numpy")
def forward(matrix, n, vector):
    """Replace a vector by L^-1 vector, with L of :func:`cholesky`."""
    for a in range(n):
        total = vector[a]
        for b in range(a):
            total -= matrix[a, b] * vector[b]
        vector[a] = total / matrix[a, a]


@njit(cache=True, nogil=True, error_model="numpy")
def backward(matrix, n, vector):
    """Replace a vector by L^-T vector."""
    for a in range(n - 1, -1, -1):
        total = vector[a]
        for b in range(a + 1, n):
            total -= matrix[b, a] * vector[b]
        vector[a] = total / matrix[a, a]


@njit(cache=True, nogil=True, error_model="numpy")
def substitute(matrix: Array, n: int, vector: Array) -> None:
    """Solve in place with the factor of :func:`cholesky`."""
    forward(matrix, n, vector)
    backward(matrix, n, vector)


@njit(cache=True, nogil=True, error_model="numpy")
def solve(matrix: Array, vector: Array) -> Array:
    """Return the solution of a system; ``matrix`` is spoiled, NaN where it is not positive."""
    out = vector.copy()
    if cholesky(matrix, vector.size, 0.0):
        substitute(matrix, vector.size, out)
    else:
        out[:] = np.nan
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def invert(matrix, inverse, least):
    """Fill in the inverse; False where the matrix, which is spoiled, is not positive."""
    n = matrix.shape[0]
    if not cholesky(matrix, n, least):
        return False
    column = np.empty(n)
    for a in range(n):
        column[:] = 0.0
        column[a] = 1.0
        substitute(matrix, n, column)
        inverse[:, a] = column
    return True
