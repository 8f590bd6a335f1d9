"""Kernels of the slope fit on plain arrays. Bits: DO_NOT_USE 1, SATURATED 2, JUMP_DET 4, PERSISTENCE 32.

Symbols: tg = group time [s], g = gain [electron/DN], r = CDS read noise [DN], n = groups of a segment, x = group
number, y = sample [DN], P = weight exponent of Fixsen et al. 2000. The weights w = |2x/(n-1) - 1|^P are symmetric, so
the weighted slope is a plain dot product: slope = sum(c y) / tg, c = w (x - mid) / sum(w (x - mid)^2), and c depends on
n and P only: it is tabulated once.
"""

import numpy as np
from numba import njit

from ._median_kernels import TILE, median_of_sorted, sort_columns, sorting_pairs

POWERS = np.array([0.0, 0.4, 1.0, 3.0, 6.0, 10.0])
SNR_LIMITS = np.array([5.0, 10.0, 20.0, 50.0, 100.0])
LARGE_VARIANCE = 1.0e6  # from here on jwst writes a variance as 0


@njit(cache=True, nogil=True)
def _gather_tile(sci, group_dq, d, y, x0, width, tile, tile_dq, good, any_flag):
    """Copy the ramps of a tile; NaN samples become DO_NOT_USE. Count good groups, OR the flags but the last's."""
    n_integration, n_group = sci.shape[1], sci.shape[2]
    for i in range(n_integration):
        for t in range(TILE):
            good[i, t] = 0
            any_flag[i, t] = 0
        for k in range(n_group):
            for t in range(width):
                value = sci[d, i, k, y, x0 + t]
                flags = group_dq[d, i, k, y, x0 + t]
                if np.isnan(value):
                    flags |= np.uint8(1)
                tile[i, k, t] = value
                tile_dq[i, k, t] = flags
                good[i, t] += np.int32((flags & np.uint8(223)) == 0)
            if k < n_group - 1:
                for t in range(width):
                    any_flag[i, t] |= tile_dq[i, k, t]


@njit(cache=True, nogil=True)
def _median_rates(tile, tile_dq, n_integration, n_group, tg, pairs, ordered, count, median):
    """Mean over integrations of the median difference [DN/s]; differences into a JUMP or a flagged sample are out."""
    median[:] = 0.0
    for i in range(n_integration):
        count[:] = 0
        for k in range(n_group - 1):
            for t in range(TILE):
                difference = tile[i, k + 1, t] - tile[i, k, t]
                usable = ((tile_dq[i, k, t] & np.uint8(3)) | (tile_dq[i, k + 1, t] & np.uint8(7))) == 0
                ordered[k, t] = difference if usable else np.float32(np.inf)
                count[t] += np.int32(usable)
        sort_columns(ordered, pairs)
        for t in range(TILE):
            if count[t] > 0:
                median[t] += np.float64(median_of_sorted(ordered, count, t)) / tg
            elif not (tile_dq[i, 0, t] & 3):
                median[t] += tile[i, 0, t] / tg
    for t in range(TILE):
        median[t] /= n_integration


@njit(cache=True, nogil=True)
def _find_segments(flags, n_group, start, length):
    """Runs of unflagged groups; a group flagged JUMP only starts the next. Single groups count only alone."""
    n_segment = 0
    in_segment = False
    longest = 0
    for k in range(n_group + 1):
        good = k < n_group and (flags[k] & 223) == 0
        if good and not in_segment:
            start[n_segment] = k - 1 if k > 0 and (flags[k - 1] & 223) == 4 else k
            in_segment = True
        elif in_segment and not good:
            length[n_segment] = k - start[n_segment]
            longest = max(longest, length[n_segment])
            n_segment += 1
            in_segment = False
    if n_segment < 2:
        return n_segment
    if longest < 2:
        return 1
    kept = 0
    for s in range(n_segment):
        if length[s] > 1:
            start[kept], length[kept] = start[s], length[s]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _fit_segment(y, start, n, tg, g, rn, power_table, power_offset):
    """Slope [DN/s] of one segment of n groups. rn: read noise of one read [electron]."""
    if n == 1:
        return y[start] / tg
    if n == 2:
        return (y[start + 1] - y[start]) / tg
    rise = y[start + n - 1] - y[start]
    variance = rn * rn + rise * g
    snr = 0.0
    if variance > 0.0 and g != 0.0:
        snr = max(rise * g / np.sqrt(variance), 0.0)
    p = 0
    while p < 5 and not snr < SNR_LIMITS[p]:
        p += 1
    first = power_offset[n]
    total = 0.0
    for k in range(n):
        value = y[start + k]
        if not np.isnan(value):
            total += power_table[p, first + k] * value
    return total / tg


@njit(cache=True, nogil=True, error_model="numpy")
def _add_segment(y, start, n, tg, g, rn, median_rate, dark, tables, offsets, sums):
    """Add one segment to sums = (1/var_r, 1/var_p, 1/var_total, slope/var_r)."""
    slope = _fit_segment(y, start, n, tg, g, rn, tables, offsets)
    m = max(n, 2)
    var_r = 12.0 * (rn / tg) ** 2 / ((m * m * m - m) * g * g)
    var_p = (max(median_rate, 0.0) + dark) / (tg * g * (m - 1))
    sums[0] += 1.0 / var_r
    if var_p > 0.0:
        sums[1] += 1.0 / var_p
    sums[2] += 1.0 / (var_p + var_r)
    sums[3] += slope / var_r


@njit(cache=True, nogil=True)
def _inverse(total):
    """1/total as a variance; 0 where jwst writes 0."""
    if not total > 0.0:
        return 0.0
    variance = 1.0 / total
    return 0.0 if variance >= LARGE_VARIANCE else variance


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_one(tile, tile_dq, i, t, good, any_flag, n_group, tg, g, rn, median, dark, tables, offsets, buffers, sums):
    """Fit integration i of pixel t of the tile into sums; return (flags, the ramp saturates somewhere)."""
    y, dq, start, length = buffers
    sums[:] = 0.0
    last = tile_dq[i, n_group - 1, t]
    seen = any_flag | last
    flags = np.uint32(seen & 36)
    if (any_flag & 223) == 0 and good >= 3:  # the common ramp: nothing flagged, or the last group only
        for k in range(good):
            y[k] = tile[i, k, t]
        _add_segment(y, 0, good, tg, g, rn, median, dark, tables, offsets, sums)
        return flags, (seen & 2) != 0
    unusable = saturated = 0
    for k in range(n_group):
        y[k] = tile[i, k, t]
        dq[k] = tile_dq[i, k, t]
        unusable += 1 if dq[k] & 3 else 0
        saturated += 1 if dq[k] & 2 else 0
    if dq[0] & 2:
        flags |= np.uint32(3)
    elif unusable == n_group:
        flags |= np.uint32(1 if saturated < n_group else 3)
    else:
        n_segment = _find_segments(dq, n_group, start, length)
        for s in range(n_segment):
            _add_segment(y, start[s], length[s], tg, g, rn, median, dark, tables, offsets, sums)
        if n_segment == 0:
            flags |= np.uint32(1)
    return flags, saturated > 0


@njit(cache=True, nogil=True)
def _suppress_single_groups(tile_dq, good, any_flag):
    """Flag every group of an integration that has a single good one."""
    n_integration, n_group = tile_dq.shape[:2]
    for i in range(n_integration):
        for t in range(TILE):
            if good[i, t] == 1:
                good[i, t] = 0
                any_flag[i, t] |= np.uint8(1)
                for k in range(n_group):
                    tile_dq[i, k, t] |= np.uint8(1)


@njit(cache=True, nogil=True, error_model="numpy")
def _combine(base, flags_all, n_bad, n_sat, n_integration, total_r, total_p, total_slope):
    """Return rate, var_p, var_r, flags of a pixel from the sums over its integrations."""
    flags = base | flags_all
    slope = total_slope / total_r if total_r > 0.0 else np.nan
    if n_bad == n_integration or np.isnan(slope):
        flags |= np.uint32(1)
    if (flags & 1) != 0 or n_sat == n_integration or (base & 2) != 0:
        return np.nan, 0.0, 0.0, flags
    return slope, _inverse(total_p), _inverse(total_r), flags


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_pixel(tiles, t, x, y, d, base, tg, g, rn, median, dark, tables, offsets, buffers, sums, ints):
    """Fit the integrations of pixel t of the tile, write them where asked for, and return the combined pixel."""
    tile, tile_dq, good, any_flag = tiles
    rate_i, var_p_i, var_r_i, dq_i = ints
    n_integration, n_group = tile_dq.shape[:2]
    total_r = total_p = total_slope = 0.0
    flags_all = np.uint32(0)
    n_bad = n_sat = 0
    for i in range(n_integration):
        flags_i, saturated = _fit_one(
            tile, tile_dq, i, t, good[i, t], any_flag[i, t], n_group, tg, g, rn, median, dark, tables, offsets, buffers,
            sums,
        )  # fmt: skip
        flags_i |= base
        n_bad += 1 if flags_i & 1 else 0
        n_sat += 1 if flags_i & 2 else 0
        total_r += sums[0]
        total_p += sums[1]
        total_slope += sums[3]
        flags_out = flags_i | np.uint32(2 if saturated else 0)
        flags_all |= flags_out & np.uint32(38)
        if rate_i.size > 0:
            invalid = (flags_i & 3) != 0
            rate_i[d, i, y, x] = np.nan if invalid else sums[3] / sums[0]
            var_p_i[d, i, y, x] = 0.0 if invalid else _inverse(sums[1])
            var_r_i[d, i, y, x] = 0.0 if invalid else _inverse(sums[0])
            dq_i[d, i, y, x] = flags_out
    return _combine(base, flags_all, n_bad, n_sat, n_integration, total_r, total_p, total_slope)


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_ramps(
    sci, group_dq, pixel_dq, read_noise, gain, tg, dark, suppress_one, tables, offsets, pairs, rate, var_p, var_r,
    out_dq, ints,
):  # fmt: skip
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    tile = np.zeros((n_integration, n_group, TILE), dtype=np.float32)
    tile_dq = np.zeros((n_integration, n_group, TILE), dtype=np.uint8)
    good = np.zeros((n_integration, TILE), dtype=np.int32)
    any_flag = np.zeros((n_integration, TILE), dtype=np.uint8)
    ordered = np.empty((max(n_group - 1, 1), TILE), dtype=np.float32)
    count = np.zeros(TILE, dtype=np.int32)
    median = np.zeros(TILE)
    size = n_group + 1
    buffers = (
        np.empty(size), np.empty(size, dtype=np.uint8), np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    )  # fmt: skip
    sums = np.zeros(4)
    tiles = (tile, tile_dq, good, any_flag)
    for d in range(n_dither):
        for y in range(n_y):
            for x0 in range(0, n_x, TILE):
                width = min(TILE, n_x - x0)
                _gather_tile(sci, group_dq, d, y, x0, width, tile, tile_dq, good, any_flag)
                if suppress_one:
                    _suppress_single_groups(tile_dq, good, any_flag)
                _median_rates(tile, tile_dq, n_integration, n_group, tg, pairs, ordered, count, median)
                for t in range(width):
                    x = x0 + t
                    g = np.float64(gain[y, x])
                    rn = np.float64(read_noise[y, x]) * g / np.sqrt(2.0)
                    base = pixel_dq[d, y, x]
                    if not g > 0.0:
                        base |= np.uint32(524288 | 1)
                    rate[d, y, x], var_p[d, y, x], var_r[d, y, x], out_dq[d, y, x] = _fit_pixel(
                        tiles, t, x, y, d, base, tg, g, rn, median[t], dark, tables, offsets, buffers, sums, ints
                    )


def weight_tables(n_group):
    """Return (table (power, position), offset by n): the coefficients c of every segment length up to n_group."""
    offsets = np.zeros(n_group + 1, dtype=np.int64)
    rows = [[] for _ in POWERS]
    position = 0
    for n in range(3, n_group + 1):
        offsets[n] = position
        x = np.arange(n) - (n - 1) / 2.0
        for row, power in zip(rows, POWERS, strict=True):
            weight = np.abs(x / ((n - 1) / 2.0)).astype(np.float32) ** np.float32(power)
            weight = weight.astype(np.float64)
            row.append(weight * x / np.sum(weight * x * x))
        position += n
    if position == 0:
        return np.zeros((len(POWERS), 1)), offsets
    return np.ascontiguousarray([np.concatenate(row) for row in rows]), offsets


def fit_ols(
    sci, group_dq, pixel_dq, read_noise, gain, group_time=1.0, dark=0.0, suppress_one_group=True, integrations=False
):
    """Return rate, var_poisson, var_read, dq; with ``integrations`` the same four of each integration behind them."""
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    shape = (n_dither, n_y, n_x)
    rate, var_p, var_r = (np.empty(shape, dtype=np.float32) for _ in range(3))
    out_dq = np.empty(shape, dtype=np.uint32)
    shape_i = (n_dither, n_integration, n_y, n_x) if integrations else (0, 0, 0, 0)
    ints = (*(np.empty(shape_i, dtype=np.float32) for _ in range(3)), np.empty(shape_i, dtype=np.uint32))
    tables, offsets = weight_tables(n_group)
    _fit_ramps(
        sci, np.broadcast_to(group_dq, sci.shape), np.broadcast_to(pixel_dq, shape), read_noise, gain, float(group_time),
        float(dark), suppress_one_group, tables, offsets, sorting_pairs(n_group - 1), rate, var_p, var_r, out_dq, ints,
    )  # fmt: skip
    return (rate, var_p, var_r, out_dq, *ints) if integrations else (rate, var_p, var_r, out_dq)
