"""Kernels of the two-point difference jump test on plain arrays. Bits: DO_NOT_USE 1, SATURATED 2, JUMP_DET 4.

Symbols: d = difference of neighbouring groups [electron], m = its median over all integrations and groups of a
pixel, sigma^2 = |m| + r^2 with r the CDS read noise [electron], ratio = |d - m| / sigma.
"""

import numpy as np
from numba import njit

from ._median_kernels import TILE, median_of_sorted, sort_columns, sorting_pairs


@njit(cache=True, nogil=True)
def _select(values, n, k):
    """Quickselect: the k-th smallest (0-based) of values[:n]; the array is partly ordered on the way."""
    low, high = 0, n - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@njit(cache=True, nogil=True)
def _median(values, n):
    """Median of values[:n] (reordered); NaN for none; the mean of the middle two for an even number."""
    if n == 0:
        return np.float32(np.nan)
    upper = _select(values, n, n >> 1)
    if n & 1:
        return upper
    lower = values[0]
    for k in range(1, n >> 1):
        if values[k] > lower:
            lower = values[k]
    return np.float32(0.5) * (lower + upper)


@njit(cache=True, nogil=True)
def _clipped_median(values, n):
    """Median of absolute differences: without the largest for n >= 4, the smaller for n = 2 (jwst's rule)."""
    if n < 2:
        return np.float32(np.nan)
    if n == 2:
        return min(values[0], values[1])
    if n == 3:
        return _median(values, 3)
    largest = values[0]
    for k in range(1, n):
        if values[k] > largest:
            largest = values[k]
    kept = 0
    for k in range(n):  # every difference equal to the largest is left out
        if values[k] != largest:
            values[kept] = values[k]
            kept += 1
    return _median(values, kept)


@njit(cache=True, nogil=True)
def _flag_iteratively(diffs, n_diffs, read_variance, thresholds, work, jump):
    """Flag the largest ratio above its threshold, leave it out, repeat. diffs are absolute; NaN is unusable."""
    for _ in range(n_diffs):
        n = 0
        for k in range(n_diffs):
            if not np.isnan(diffs[k]):
                work[n] = diffs[k]
                n += 1
        if n < 2:
            return
        threshold = thresholds[0] if n >= 4 else (thresholds[1] if n == 3 else thresholds[2])
        m = _clipped_median(work, n)
        sigma = np.sqrt(abs(m) + read_variance)
        if not sigma > 0:
            return
        largest = np.float32(-1)
        for k in range(n_diffs):
            ratio = abs(diffs[k] - m) / sigma
            if ratio > largest:
                largest = ratio
        if not largest > threshold:
            return
        for k in range(n_diffs):
            if abs(diffs[k] - m) / sigma == largest:
                jump[k] = True
                diffs[k] = np.nan


@njit(cache=True, nogil=True)
def _gather_differences(sci, group_dq, gain, d, y, x0, width, tile, diffs, work, count):
    """Fill diffs (n_diffs, TILE) [electron], NaN where unusable, and work, +inf there; count the usable ones."""
    n_integration, n_group = sci.shape[1], sci.shape[2]
    count[:] = 0
    k = 0
    for i in range(n_integration):
        for g in range(n_group):
            for t in range(width):
                value = sci[d, i, g, y, x0 + t] * gain[y, x0 + t]
                tile[g, t] = np.float32(np.nan) if group_dq[d, i, g, y, x0 + t] & np.uint8(3) else value
        for g in range(n_group - 1):
            for t in range(TILE):
                difference = tile[g + 1, t] - tile[g, t]
                usable = not np.isnan(difference)
                diffs[k, t] = difference
                work[k, t] = difference if usable else np.float32(np.inf)
                count[t] += np.int32(usable)
            k += 1


@njit(cache=True, nogil=True)
def _write_tile(diffs, m, sigma, jump, threshold, neighbours, group_dq, d, y, x0, width, out_dq, out_spread):
    """Write flags and neighbour marks of a tile; jumps by ratio, or by ``jump`` where threshold is NaN."""
    n_integration, n_group = group_dq.shape[1], group_dq.shape[2]
    given = np.isnan(threshold)
    for i in range(n_integration):
        for t in range(width):
            out_dq[d, i, 0, y, x0 + t] = group_dq[d, i, 0, y, x0 + t]
            out_spread[d, i, 0, y, x0 + t] = False
        for g in range(n_group - 1):
            k = i * (n_group - 1) + g
            for t in range(width):
                ratio = abs(diffs[k, t] - m[t]) / sigma[t]
                hit = jump[k, t] if given else ratio > threshold
                flags = group_dq[d, i, g + 1, y, x0 + t]
                out_dq[d, i, g + 1, y, x0 + t] = flags | np.uint8(4) if hit else flags
                out_spread[d, i, g + 1, y, x0 + t] = hit and ratio > neighbours[0] and ratio < neighbours[1]


@njit(cache=True, nogil=True)
def _find_iteratively(diffs, read_variance, thresholds, t, buffers, jump):
    """Set column t of jump by the iterative test."""
    column, work, flagged = buffers
    n_diffs = diffs.shape[0]
    for k in range(n_diffs):
        column[k] = abs(diffs[k, t])
        flagged[k] = False
    _flag_iteratively(column, n_diffs, read_variance, thresholds, work, flagged)
    for k in range(n_diffs):
        jump[k, t] = flagged[k]


@njit(cache=True, nogil=True)
def _find_jumps(sci, group_dq, read_noise, gain, thresholds, single_pass, neighbours, pairs, out_dq, out_spread):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_diffs = n_integration * (n_group - 1)
    tile = np.full((n_group, TILE), np.nan, dtype=np.float32)
    diffs = np.empty((n_diffs, TILE), dtype=np.float32)
    ordered = np.empty((n_diffs, TILE), dtype=np.float32)
    jump = np.zeros((n_diffs, TILE), dtype=np.bool_)
    count = np.zeros(TILE, dtype=np.int32)
    m = np.empty(TILE, dtype=np.float32)
    sigma = np.empty(TILE, dtype=np.float32)
    buffers = (
        np.empty(n_diffs, dtype=np.float32),
        np.empty(n_diffs, dtype=np.float32),
        np.zeros(n_diffs, dtype=np.bool_),
    )
    threshold = thresholds[0] if single_pass else np.float32(np.nan)
    for d in range(n_dither):
        for y in range(n_y):
            for x0 in range(0, n_x, TILE):
                width = min(TILE, n_x - x0)
                _gather_differences(sci, group_dq, gain, d, y, x0, width, tile, diffs, ordered, count)
                sort_columns(ordered, pairs)
                for t in range(width):
                    r = read_noise[y, x0 + t] * gain[y, x0 + t]
                    m[t] = median_of_sorted(ordered, count, t)
                    sigma[t] = np.sqrt(abs(m[t]) + r * r)
                    if not sigma[t] > 0:
                        sigma[t] = np.nan
                    if not single_pass:
                        _find_iteratively(diffs, r * r, thresholds, t, buffers, jump)
                _write_tile(diffs, m, sigma, jump, threshold, neighbours, group_dq, d, y, x0, width, out_dq, out_spread)


@njit(cache=True, nogil=True)
def _dilate(spread, out):
    """Spread each set pixel to its four neighbours; leading dims are flattened to one."""
    n_plane, n_y, n_x = spread.shape
    for p in range(n_plane):
        for y in range(n_y):
            for x in range(n_x):
                hit = spread[p, y, x]
                if y > 0:
                    hit |= spread[p, y - 1, x]
                if y + 1 < n_y:
                    hit |= spread[p, y + 1, x]
                if x > 0:
                    hit |= spread[p, y, x - 1]
                if x + 1 < n_x:
                    hit |= spread[p, y, x + 1]
                out[p, y, x] = hit


@njit(cache=True, nogil=True)
def _merge(group_dq, spread, out):
    n_dither, n_integration, n_group, n_y, n_x = group_dq.shape
    for d in range(n_dither):
        for i in range(n_integration):
            for g in range(n_group):
                for y in range(n_y):
                    for x in range(n_x):
                        flags = group_dq[d, i, g, y, x]
                        if flags & np.uint8(3):
                            flags &= np.uint8(251)  # JUMP_DET says nothing where the sample is not used
                        elif spread[d, i, g, y, x]:
                            flags |= np.uint8(4)
                        out[d, i, g, y, x] = flags


def find_jumps(
    sci, group_dq, read_noise, gain, thresholds=(4.0, 5.0, 6.0), single_pass=True, neighbours=(10.0, 1000.0)
):
    """Return (group flags with JUMP_DET, bool: jumps that also flag their neighbours)."""
    out_dq = np.empty(sci.shape, dtype=np.uint8)
    out_spread = np.empty(sci.shape, dtype=np.bool_)
    _find_jumps(
        sci, np.broadcast_to(group_dq, sci.shape), read_noise, gain, np.asarray(thresholds, dtype=np.float32),
        single_pass, np.asarray(neighbours, dtype=np.float32),
        sorting_pairs(sci.shape[1] * (sci.shape[2] - 1)), out_dq, out_spread,
    )  # fmt: skip
    return out_dq, out_spread


def dilate(spread):
    """Return ``spread`` (..., y, x) with every set pixel's four neighbours set."""
    flat = np.ascontiguousarray(spread).reshape(-1, *spread.shape[-2:])
    out = np.empty_like(flat)
    _dilate(flat, out)
    return out.reshape(spread.shape)


def merge(group_dq, spread):
    """Return the group flags with JUMP_DET of the neighbours added and removed from unused samples."""
    out = np.empty(group_dq.shape, dtype=np.uint8)
    _merge(group_dq, spread, out)
    return out
