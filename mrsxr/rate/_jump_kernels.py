"""Kernels of the two-point difference jump test on plain arrays. Bits: DO_NOT_USE 1, SATURATED 2, JUMP_DET 4.

Symbols: d = difference of neighbouring groups [electron], m = its median over all integrations and groups of a
pixel, sigma^2 = |m| + r^2 with r the CDS read noise [electron], ratio = |d - m| / sigma.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrsxr._median_kernels import (
    TILE,
    empty_tiles,
    median_of,
    median_of_sorted,
    put_row,
    sort_columns,
    sorting_pairs,
    take_row,
)
from mrsxr.compiled import Array, njit, read_only

SKIP, SINGLE_PASS, ITERATIVE, CLIP_INTEGRATIONS, CLIP_ALL = range(5)  # ways to find jumps
CLIP_ITERATIONS = 5  # as jwst, converged or not


@njit(cache=True, nogil=True)
def _clipped_median(values, n):
    """Median of absolute differences: without the largest for n >= 4, the smaller for n = 2 (jwst's rule)."""
    if n < 2:
        return np.float32(np.nan)
    if n == 2:
        return min(values[0], values[1])
    if n == 3:
        return median_of(values, 3)
    largest = values[0]
    for k in range(1, n):
        if values[k] > largest:
            largest = values[k]
    kept = 0
    for k in range(n):  # every difference equal to the largest is left out
        if values[k] != largest:
            values[kept] = values[k]
            kept += 1
    return median_of(values, kept)


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
def gather(tile, tile_dq, gain, keep_jumps, diffs, ordered, count):
    """Fill diffs (n_diffs, TILE) [electron], NaN where unusable, and ordered, +inf there; count the usable ones.

    tile, tile_dq (integration, group, TILE) are samples, which are lost, and flags; gain (at most TILE).
    """
    one_gain = np.ones(TILE, dtype=np.float32)
    one_gain[: gain.size] = gain
    alone = np.uint8(0 if keep_jumps else 4)
    n_integration, n_group = tile_dq.shape[:2]
    count[:] = 0
    k = 0
    for i in range(n_integration):
        values, flags = tile[i], tile_dq[i]
        for g in range(n_group):
            for t in range(TILE):
                charge = values[g, t] * one_gain[t]
                lost = (flags[g, t] & np.uint8(3) != 0) | ((flags[g, t] == alone) & (alone != 0))
                values[g, t] = np.float32(np.nan) if lost else charge
        for g in range(n_group - 1):
            for t in range(TILE):
                difference = values[g + 1, t] - values[g, t]
                usable = not np.isnan(difference)
                diffs[k, t] = difference
                ordered[k, t] = difference if usable else np.float32(np.inf)
                count[t] += np.int32(usable)
            k += 1


@njit(cache=True, nogil=True, error_model="numpy")
def _mark(diffs, m, sigma, threshold, neighbours, jump, near):
    """Set 4 (else 0) in jump (n_diffs, TILE) above the threshold (NaN: nowhere), in near between ``neighbours``."""
    low, high = neighbours[0], neighbours[1]
    for k in range(diffs.shape[0]):
        for t in range(TILE):
            ratio = abs(diffs[k, t] - m[t]) / sigma[t]
            jump[k, t] = np.uint8(np.float32(4) if ratio > threshold else np.float32(0))
            near[k, t] = np.uint8(np.float32(4) if (ratio > low) & (ratio < high) else np.float32(0))


@njit(cache=True, nogil=True)
def _add_jumps(jump, near, tile_dq, spread):
    """Add the flags of jumps to those of a tile and mark what flags its neighbours; eight at a time."""
    n_integration, n_group = tile_dq.shape[:2]
    added, marked, held, marks = (
        jump.view(np.uint64), near.view(np.uint64), tile_dq.view(np.uint64), spread.view(np.uint64)
    )  # fmt: skip
    for i in range(n_integration):
        for g in range(1, n_group):
            k = i * (n_group - 1) + g - 1
            for t in range(TILE // 8):
                held[i, g, t] |= added[k, t]
                marks[i, g, t] = (marked[k, t] & held[i, g, t]) >> np.uint64(2)


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
        jump[k, t] = np.uint8(4) if flagged[k] else np.uint8(0)


@njit(cache=True, nogil=True)
def clip_sorted(values, n, limit):
    """Return the first and one past the last of the sorted values[:n] that sigma clipping about the median keeps."""
    first, last = 0, n
    for _ in range(CLIP_ITERATIONS):
        count = last - first
        if count == 0:
            break
        mean = 0.0
        for k in range(first, last):
            mean += values[k]
        mean /= count
        square = 0.0
        for k in range(first, last):
            square += (values[k] - mean) ** 2
        width = limit * np.sqrt(square / count)
        median = 0.5 * (values[first + ((count - 1) >> 1)] + values[first + (count >> 1)])
        before = count
        while first < last and values[first] < median - width:
            first += 1
        while last > first and values[last - 1] > median + width:
            last -= 1
        if last - first == before:
            break
    return first, last


@njit(cache=True, nogil=True)
def _find_by_clipping(diffs, n_integration, over_integrations, limit, t, work, jump):
    """Set column t of jump where sigma clipping over the integrations, or over all differences, drops a value."""
    n_diffs = diffs.shape[0]
    n_each = n_diffs // n_integration
    n_sets = n_each if over_integrations else 1
    for g in range(n_sets):
        n = 0
        for k in range(g, n_diffs, n_sets):
            if np.isfinite(diffs[k, t]):
                work[n] = diffs[k, t]
                n += 1
        work[:n].sort()
        first, last = clip_sorted(work, n, limit)
        for k in range(g, n_diffs, n_sets):
            value = np.float64(diffs[k, t])
            inside = first < last and value >= work[first] and value <= work[last - 1]
            jump[k, t] = np.uint8(4) if np.isfinite(value) and not inside else np.uint8(0)


@njit(cache=True, nogil=True)
def _find_jumps(sci, group_dq, read_noise, gain, thresholds, mode, neighbours, pairs, out_dq, out_spread):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_diffs = n_integration * (n_group - 1)
    tiles, tiles_dq = empty_tiles(n_x, n_integration, n_group)
    spread = np.zeros(tiles.shape, dtype=np.uint8)
    diffs = np.empty((n_diffs, TILE), dtype=np.float32)
    ordered = np.empty((n_diffs, TILE), dtype=np.float32)
    jump, near = np.zeros((n_diffs, TILE), dtype=np.uint8), np.zeros((n_diffs, TILE), dtype=np.uint8)
    count = np.zeros(TILE, dtype=np.int32)
    m = np.empty(TILE, dtype=np.float32)
    sigma = np.empty(TILE, dtype=np.float32)
    buffers = (
        np.empty(n_diffs, dtype=np.float32),
        np.empty(n_diffs, dtype=np.float32),
        np.zeros(n_diffs, dtype=np.bool_),
    )
    sorted_work = np.empty(n_diffs, dtype=np.float64)
    threshold = thresholds[0] if mode == SINGLE_PASS else np.float32(np.nan)
    for d in range(n_dither):
        for y in range(n_y):
            take_row(sci, d, y, tiles)
            take_row(group_dq, d, y, tiles_dq)
            for n, x0 in enumerate(range(0, n_x, TILE)):
                width = min(TILE, n_x - x0)
                gather(tiles[n], tiles_dq[n], gain[y, x0 : x0 + width], True, diffs, ordered, count)
                sort_columns(ordered, pairs)
                for t in range(width):
                    r = read_noise[y, x0 + t] * gain[y, x0 + t]
                    m[t] = median_of_sorted(ordered, count, t)
                    sigma[t] = np.sqrt(abs(m[t]) + r * r)
                    if not sigma[t] > 0:
                        sigma[t] = np.nan
                _mark(diffs, m, sigma, threshold, neighbours, jump, near)
                for t in range(width if mode != SINGLE_PASS else 0):
                    if mode == ITERATIVE:
                        r = read_noise[y, x0 + t] * gain[y, x0 + t]
                        _find_iteratively(diffs, r * r, thresholds, t, buffers, jump)
                    else:
                        over = mode == CLIP_INTEGRATIONS
                        _find_by_clipping(diffs, n_integration, over, thresholds[0], t, sorted_work, jump)
                _add_jumps(jump, near, tiles_dq[n], spread[n])
            put_row(tiles_dq, d, y, out_dq)
            put_row(spread, d, y, out_spread)


def choose_mode(usable, minimum_groups=3, min_diffs_single_pass=10, minimum_sigclip_groups=100, only_use_ints=True):
    """Return how jumps are looked for, from the usable groups of each integration (jwst's rules)."""
    total = len(usable) if only_use_ints else int(np.sum(usable))
    if total >= minimum_sigclip_groups:
        return CLIP_INTEGRATIONS if only_use_ints else CLIP_ALL
    fewest = int(np.min(usable))
    if fewest < minimum_groups:
        return SKIP
    return SINGLE_PASS if fewest - 1 >= min_diffs_single_pass else ITERATIVE


def find_jumps(
    sci: Array, group_dq: Array, read_noise: Array, gain: Array, usable: Array | None = None,
    thresholds: Sequence[float] | Array = (4.0, 5.0, 6.0), neighbours: Sequence[float] | Array = (10.0, 1000.0),
    **rules: Any,
) -> tuple[Array, Array]:  # fmt: skip
    """Return (group flags with JUMP_DET, bool: jumps that also flag their neighbours).

    ``usable`` (dither, integration, y, x) is the number of groups that are not lost, the same in all pixels; ``rules``
    are those of :func:`choose_mode`.
    """
    n_dither, n_integration, n_group = sci.shape[:3]
    if usable is None:
        usable = np.full((n_dither, n_integration, 1, 1), n_group)
    out_dq = np.empty(sci.shape, dtype=np.uint8)
    out_spread = np.empty(sci.shape, dtype=np.bool_)
    marks = out_spread.view(np.uint8)
    sci, group_dq, read_noise, gain = read_only(sci, np.broadcast_to(group_dq, sci.shape), read_noise, gain)
    pairs = sorting_pairs(n_integration * (n_group - 1))
    thresholds, neighbours = (np.asarray(values, dtype=np.float32) for values in (thresholds, neighbours))
    for d in range(n_dither):
        one = slice(d, d + 1)
        mode = choose_mode(usable[d, :, 0, 0], **rules)
        if mode == SKIP:
            out_dq[one], out_spread[one] = group_dq[one], False
            continue
        _find_jumps(
            sci[one], group_dq[one], read_noise, gain, thresholds, mode, neighbours, pairs, out_dq[one], marks[one]
        )
    return out_dq, out_spread


def dilate(spread: Array) -> Array:
    """Return ``spread`` (..., y, x) with every set pixel's four neighbours set."""
    out = spread.copy()
    out[..., 1:, :] |= spread[..., :-1, :]
    out[..., :-1, :] |= spread[..., 1:, :]
    out[..., 1:] |= spread[..., :-1]
    out[..., :-1] |= spread[..., 1:]
    return out


@njit(cache=True, nogil=True)
def _merge(flags, spread, out):
    """Eight samples at a time."""
    each = np.uint64(0x0101010101010101)
    for k in range(flags.size):
        unused = (flags[k] | (flags[k] >> np.uint64(1))) & each
        out[k] = (flags[k] | (spread[k] << np.uint64(2))) & ~(unused << np.uint64(2))


def merge(group_dq: Array, spread: Array) -> Array:
    """Return the group flags with JUMP_DET of the neighbours added and removed from unused samples."""
    out = np.empty(-(-group_dq.size // 8), dtype=np.uint64)
    _merge(*read_only(_eight(group_dq), _eight(spread)), out)
    return out.view(np.uint8)[: group_dq.size].reshape(group_dq.shape)


def _eight(values: Array) -> Array:
    """Return bytes as numbers of eight, filled up with zeros."""
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return (np.pad(flat, (0, -flat.size % 8)) if flat.size % 8 else flat).view(np.uint64)


@njit(cache=True, nogil=True)
def _differences_of(ramps, flags, gain, diffs, work):
    """Fill diffs (integration, group - 1) [electron] of one pixel, NaN where unusable; return their median."""
    n = 0
    for i in range(ramps.shape[0]):
        for g in range(ramps.shape[1] - 1):
            unused = (flags[i, g] | flags[i, g + 1]) & np.uint8(3) != 0
            value = np.float32(np.nan) if unused else ramps[i, g + 1] * gain - ramps[i, g] * gain
            diffs[i, g] = value
            if not np.isnan(value):
                work[n] = value
                n += 1
    return median_of(work, n)


@njit(cache=True, nogil=True)
def _flag_after_one(diffs, flags, m, limits, n_after, out):
    """Flag the groups after the large jumps of one ramp."""
    last = 0  # last group that an earlier jump flags
    for g in range(1, flags.size):
        if flags[g] & np.uint8(4):
            for k in range(2):
                if diffs[g - 1] - m >= limits[k]:
                    last = max(last, g + n_after[k])
        if g <= last and flags[g] & np.uint8(3) == 0:
            out[g] = flags[g] | np.uint8(4)


@njit(cache=True, nogil=True)
def _flag_after(sci, group_dq, gain, limits, n_after, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    diffs = np.empty((n_integration, n_group - 1), dtype=np.float32)
    work = np.empty(diffs.size, dtype=np.float32)
    for d in range(n_dither):
        out[d] = group_dq[d]
        for y in range(n_y):
            for x in range(n_x):
                jumps = np.uint8(0)
                for i in range(n_integration):
                    for g in range(n_group):
                        jumps |= group_dq[d, i, g, y, x]
                if jumps & np.uint8(4) == 0:
                    continue
                m = _differences_of(sci[d, :, :, y, x], group_dq[d, :, :, y, x], gain[y, x], diffs, work)
                for i in range(n_integration):
                    _flag_after_one(diffs[i], group_dq[d, i, :, y, x], m, limits, n_after, out[d, i, :, y, x])


def flag_after_jumps(
    sci: Array, group_dq: Array, gain: Array, typical_gain: Array, judged: Array | None = None,
    dn: Sequence[float] = (0.0, 0.0), n_after: Sequence[int] = (0, 0),
) -> Array:  # fmt: skip
    """Return group flags with JUMP_DET on the ``n_after`` groups after jumps of at least ``dn`` [DN].

    ``typical_gain`` (y, x) holds one number, with which the limits become electrons. Dithers with a score ``judged``
    (dither, y, x) below 1 stay as they are.
    """
    out = np.empty(sci.shape, dtype=np.uint8)
    limits = np.asarray(dn, dtype=np.float32) * np.float32(typical_gain[0, 0])
    group_dq = np.broadcast_to(group_dq, sci.shape)
    _flag_after(sci, group_dq, gain, limits, np.asarray(n_after, dtype=np.int64), out)
    if judged is not None:
        taken = judged[:, 0, 0] < 1.0
        out[taken] = group_dq[taken]
    return out
