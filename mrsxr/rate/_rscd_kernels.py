"""Kernels of the rscd step on plain arrays. Bits: DO_NOT_USE 1, SATURATED 2."""

from collections.abc import Sequence

import numpy as np

from mrsxr.compiled import Array, njit


@njit(cache=True, nogil=True)
def _count_skipped(group_dq, skip, out):
    n_dither, n_integration, n_group, n_y, n_x = group_dq.shape
    for d in range(n_dither):
        for i in range(n_integration):
            n = skip[i]
            for y in range(n_y):
                for x in range(n_x):
                    left = n
                    group = n + 1
                    if not group_dq[d, i, 0, y, x] & 2:
                        while 0 < group < n_group and group_dq[d, i, group, y, x] & 2:
                            left = max(left - 1, 0)
                            group -= 1
                    out[d, i, y, x] = left


@njit(cache=True, nogil=True)
def _flag_first(group_dq, n_first, n_most, out):
    n_dither, n_integration, n_group, n_y, n_x = group_dq.shape
    for d in range(n_dither):
        for i in range(n_integration):
            for g in range(min(n_most, n_group)):
                for y in range(n_y):
                    for x in range(n_x):
                        flag = np.uint8(g < n_first[d, i, y, x])
                        out[d, i, g, y, x] = group_dq[d, i, g, y, x] | flag


@njit(cache=True, nogil=True)
def _last_signal(ramp, flags):
    """Signal accumulated by the end of an integration [DN]; NaN where fewer than two samples are good."""
    n_group = ramp.shape[0]
    first, last, filled = -1, -1, n_group
    for g in range(n_group):
        if flags[g] & 2 and filled == n_group:
            filled = g + 1
        if not flags[g] & 3 and ramp[g] == ramp[g]:
            if first < 0:
                first = g
            last = g
    if last <= first:
        return np.float32(np.nan)
    return (ramp[last] - ramp[first]) / np.float32(last - first) * np.float32(filled)


@njit(cache=True, nogil=True)
def _remove_decay(sci, group_dq, amplitude, decay_time, usable, group_time, follows, out, unknown):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_term = amplitude.shape[0]
    excess = np.empty((n_group, n_x), dtype=np.float32)
    for d in range(n_dither):
        for y in range(n_y):
            for i in range(n_integration):
                excess[:] = np.float32(0)
                if follows[i]:
                    for x in range(n_x):
                        signal = _last_signal(out[d, i - 1, :, y, x], group_dq[d, i - 1, :, y, x])
                        if not usable[y, x] or signal != signal:
                            unknown[d, y, x] = True
                            continue
                        for k in range(n_term):
                            fall = np.float32(np.exp(-group_time / decay_time[k, y, x]))
                            part = amplitude[k, y, x] * signal
                            for g in range(n_group):
                                part *= fall
                                excess[g, x] += part
                for g in range(n_group):
                    for x in range(n_x):
                        out[d, i, g, y, x] = sci[d, i, g, y, x] - excess[g, x]


def count_skipped(group_dq: Array, skip: Array) -> Array:
    """Return how many first groups [uint8] of each pixel are to be dropped: ``skip`` or fewer (jwst's relaxation)."""
    out = np.empty(group_dq.shape[:2] + group_dq.shape[-2:], dtype=np.uint8)
    _count_skipped(group_dq, np.asarray(skip, dtype=np.int64), out)
    return out


def flag_first(group_dq: Array, n_first: Array, n_most: int) -> Array:
    """Return group flags with DO_NOT_USE in the first ``n_first`` groups of each pixel, ``n_most`` at most."""
    out = np.array(group_dq, dtype=np.uint8)
    _flag_first(group_dq, n_first, n_most, out)
    return out


def remove_decay(
    sci: Array, group_dq: Array, amplitude: Array, decay_time: Array, group_time: float, follows: Sequence[bool]
) -> tuple[Array, Array]:
    """Return (sci without the decay [DN], bool (dither, y, x): a decay that could not be told).

    amplitude, decay_time [s] : (term, y or 1, x or 1); follows : for each integration, whether the one before it in
    the array is the one before it in time.
    """
    shape = (amplitude.shape[0], *sci.shape[-2:])
    amplitude = np.broadcast_to(amplitude, shape).astype(np.float32)
    decay_time = np.broadcast_to(decay_time, shape).astype(np.float32)
    usable = (np.isfinite(amplitude) & np.isfinite(decay_time) & (decay_time > 0)).all(axis=0)
    out = np.empty(sci.shape, dtype=np.float32)
    unknown = np.zeros((sci.shape[0], *sci.shape[-2:]), dtype=np.bool_)
    _remove_decay(
        sci, np.broadcast_to(group_dq, sci.shape), amplitude, decay_time, usable, np.float32(group_time),
        np.asarray(follows, dtype=np.bool_), out, unknown,
    )  # fmt: skip
    return out, unknown
