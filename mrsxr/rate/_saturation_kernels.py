"""Kernels of the saturation step on plain arrays. Bits: SATURATED 2, AD_FLOOR | DO_NOT_USE 65, NO_SAT_CHECK 2^21."""

import numpy as np

from mrsxr.compiled import Array, njit

NO_SAT_CHECK = 1 << 21
NEVER = 65536.0  # DN, beyond the 16-bit converter


@njit(cache=True, nogil=True)
def _first_saturated(sci, threshold, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    first = np.empty(n_x, dtype=np.float32)
    for d in range(n_dither):
        for i in range(n_integration):
            for y in range(n_y):
                first[:] = n_group
                for g in range(n_group - 1, -1, -1):
                    group, row, limit = np.float32(g), sci[d, i, g, y], threshold[y]
                    for x in range(n_x):
                        later = first[x]
                        first[x] = group if row[x] >= limit[x] else later
                for x in range(n_x):
                    out[d, i, y, x] = np.int16(first[x])


@njit(cache=True, nogil=True)
def _flag_groups(sci, group_dq, first, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    for d in range(n_dither):
        for i in range(n_integration):
            for g in range(n_group):
                for y in range(n_y):
                    for x in range(n_x):
                        flags = group_dq[d, i, g, y, x]
                        if g >= first[d, i, y, x]:
                            flags |= np.uint8(2)
                        if sci[d, i, g, y, x] <= 0:
                            flags |= np.uint8(65)
                        out[d, i, g, y, x] = flags


def checked_threshold(threshold: Array, dq: Array) -> tuple[Array, Array]:
    """Return (threshold [DN], dq): never reached and NO_SAT_CHECK where there is no threshold."""
    missing = np.isnan(threshold)
    unchecked = missing | ((dq & np.uint32(NO_SAT_CHECK)) != 0)
    flags = np.where(missing, dq | np.uint32(NO_SAT_CHECK), dq)
    return np.where(unchecked, NEVER, threshold).astype(np.float32), flags.astype(np.uint32)


def first_saturated(sci: Array, threshold: Array) -> Array:
    """Return the first group [int16] at or above threshold; the number of groups where there is none."""
    out = np.empty(sci.shape[:2] + sci.shape[-2:], dtype=np.int16)
    _first_saturated(sci, threshold, out)
    return out


def grow_first(first: Array, n_grow: int = 1) -> Array:
    """Return the smallest value of the (2 n + 1)^2 box around each pixel."""
    for axis in (-2, -1):
        first = lower(first, first, axis, n_grow)
    return first


def lower(values: Array, source: Array, axis: int, reach: int = 1) -> Array:
    """Return values, lowered to those of a source up to ``reach`` pixels before and behind them on an axis."""
    out = values.copy()
    along, of = np.moveaxis(out, axis, 0), np.moveaxis(source, axis, 0)
    for k in range(1, reach + 1):
        np.minimum(along[k:], of[:-k], out=along[k:])
        np.minimum(along[:-k], of[k:], out=along[:-k])
    return out


def flag_groups(sci: Array, group_dq: Array, first: Array) -> Array:
    """Return group flags with SATURATED from group ``first`` on and AD_FLOOR | DO_NOT_USE where sci <= 0."""
    out = np.empty(sci.shape, dtype=np.uint8)
    _flag_groups(sci, np.broadcast_to(group_dq, sci.shape), first, out)
    return out
