"""Kernels of the ipc step on plain arrays: convolution of every group with a small kernel.

out(y, x) = sum over (j, i) of k(j, i) * in(y + n_j - 1 - j - n_j // 2, x + n_i - 1 - i - n_i // 2). Pixels beyond the
array and reference pixels count as 0, and the latter stay as they are. The middle, the largest number, is added last.
"""

import numpy as np

from mrsxr.compiled import Array, njit, read_only


@njit(cache=True, nogil=True)
def _fill(plane, inside, left, work):
    """Copy a plane with zeros for the columns that are not inside; ``left`` zero columns come before."""
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            work[y, left + x] = plane[y, x] if inside[x] else np.float32(0)


@njit(cache=True, nogil=True)
def _add(weight, row, total):
    """Add weight * row to total, the weight one number or one a pixel."""
    if weight.shape[0] == 1:
        w = weight[0]
        for x in range(total.shape[0]):
            total[x] += w * row[x]
    else:
        for x in range(total.shape[0]):
            total[x] += weight[x] * row[x]


@njit(cache=True, nogil=True)
def _convolve(padded, kernel, inside, depth, out):
    """Planes (n_plane, y + 2 depth, x) -> (n_plane, y, x); kernel (n_j, n_i, y or 1, x or 1)."""
    n_plane, n_y, n_x = out.shape
    n_j, n_i, n_rows = kernel.shape[:3]
    middle_j, middle_i = n_j // 2, n_i // 2
    work = np.zeros((padded.shape[1], n_x + n_i - 1), dtype=np.float32)
    total = np.empty(n_x, dtype=np.float32)
    for p in range(n_plane):
        _fill(padded[p], inside, middle_i, work)
        for y in range(n_y):
            row = y if n_rows > 1 else 0
            total[:] = np.float32(0)
            for j in range(n_j):
                line = work[y + depth + n_j - 1 - j - middle_j]
                for i in range(n_i):
                    if j != middle_j or i != middle_i:
                        _add(kernel[j, i, row], line[n_i - 1 - i :], total)
            line = work[y + depth + n_j - 1 - 2 * middle_j]
            _add(kernel[middle_j, middle_i, row], line[n_i - 1 - middle_i :], total)
            for x in range(n_x):
                value = total[x]
                out[p, y, x] = value if inside[x] and value == value else padded[p, y + depth, x]


def _run(padded, kernel, inside, depth, out):
    planes = np.ascontiguousarray(padded, dtype=np.float32).reshape(-1, *padded.shape[-2:])
    weights = np.ascontiguousarray(kernel, dtype=np.float32)
    weights = weights[:, :, None, None] if weights.ndim == 2 else weights
    _convolve(planes, *read_only(weights), np.asarray(inside, dtype=np.bool_), depth, out)


def convolve(padded: Array, kernel: Array, inside: tuple[bool, ...], depth: int) -> Array:
    """Return ``padded`` (..., y, x) convolved with (n_j, n_i); ``depth`` rows on both sides are neighbours only.

    Samples that come out NaN and the columns that are not ``inside`` stay as they are.
    """
    out = np.empty((padded.size // (padded.shape[-2] * padded.shape[-1]), *padded.shape[-2:]), dtype=np.float32)
    _run(padded, kernel, inside, depth, out[:, depth : padded.shape[-2] - depth])
    return out.reshape(padded.shape)


def shift_rows(array: Array, by: int) -> Array:
    """Return (..., y, x) with the row y + by in the place of y; rows that this leaves empty are 0."""
    out = np.zeros_like(array)
    n = array.shape[-2]
    out[..., max(0, -by) : n - max(0, by), :] = array[..., max(0, by) : n - max(0, -by), :]
    return out


def convolve_by_pixel(
    array: Array, before: Array, after: Array, kernel: Array, inside: tuple[bool, ...], depth: int
) -> Array:
    """Return ``array`` convolved with a kernel (n_j, n_i, y, x); ``before``, ``after``: shifted by -, + depth rows."""
    n_y = array.shape[-2]
    above = before[..., :depth, :]
    below = after[..., n_y - depth :, :]
    padded = np.concatenate([above, array, below], axis=-2)
    out = np.empty((array.size // (n_y * array.shape[-1]), n_y, array.shape[-1]), dtype=np.float32)
    _run(padded, kernel, inside, depth, out)
    return out.reshape(array.shape)
