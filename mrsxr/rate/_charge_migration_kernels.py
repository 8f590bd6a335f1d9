"""Kernels of the charge migration step on plain arrays. Bits: DO_NOT_USE 1, CHARGELOSS 128."""

import numpy as np

from mrsxr.compiled import njit

from ._saturation_kernels import lower


@njit(cache=True, nogil=True)
def _first_above(sci, group_dq, threshold, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    for d in range(n_dither):
        for i in range(n_integration):
            for y in range(n_y):
                for x in range(n_x):
                    out[d, i, y, x] = n_group
            for g in range(n_group - 1, -1, -1):
                for y in range(n_y):
                    for x in range(n_x):
                        if sci[d, i, g, y, x] > threshold and group_dq[d, i, g, y, x] != 1:
                            out[d, i, y, x] = g


@njit(cache=True, nogil=True)
def _flag_from(group_dq, first, out):
    n_dither, n_integration, n_group, n_y, n_x = group_dq.shape
    for d in range(n_dither):
        for i in range(n_integration):
            for g in range(n_group):
                for y in range(n_y):
                    for x in range(n_x):
                        flags = group_dq[d, i, g, y, x]
                        out[d, i, g, y, x] = flags | np.uint8(129) if g >= first[d, i, y, x] else flags


def first_above(sci, group_dq, threshold):
    """Return the first group [int16] above threshold [DN] whose flags are not DO_NOT_USE alone, else their number."""
    out = np.empty(sci.shape[:2] + sci.shape[-2:], dtype=np.int16)
    _first_above(sci, np.broadcast_to(group_dq, sci.shape), np.float32(threshold), out)
    return out


def spread_first(first):
    """Return the smallest value of each pixel and its four neighbours."""
    return lower(lower(first, first, -2), first, -1)


def flag_from(group_dq, first):
    """Return group flags with CHARGELOSS | DO_NOT_USE from group ``first`` on."""
    out = np.empty(group_dq.shape, dtype=np.uint8)
    _flag_from(group_dq, first, out)
    return out
