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
def _gather_tile(sci, group_dq, d, y, x0, width, tile, tile_dq, any_flag):
    """Copy the ramps of a tile; NaN samples become DO_NOT_USE; any_flag collects the flags but those of the last."""
    n_integration, n_group = sci.shape[1], sci.shape[2]
    for i in range(n_integration):
        for t in range(TILE):
            any_flag[i, t] = 0
        for k in range(n_group):
            values = sci[d, i, k, y, x0 : x0 + width]
            flags = group_dq[d, i, k, y, x0 : x0 + width]
            for t in range(width):
                tile[i, k, t] = values[t]
            for t in range(width):
                tile_dq[i, k, t] = flags[t] | np.uint8(values[t] != values[t])
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
def _power_of(rise, g, rn):
    """Index of the weight exponent of a segment that rises by so many DN."""
    variance = rn * rn + rise * g
    if not (variance > 0.0 and rise > 0.0):
        return 0
    snr = rise * g / np.sqrt(variance)
    p = 0
    while p < 5 and snr >= SNR_LIMITS[p]:
        p += 1
    return p


@njit(cache=True, nogil=True)
def _fit_segment(y, start, n, tg, g, rn, power_table, power_offset):
    """Slope [DN/s] of one segment of n groups. rn: read noise of one read [electron]."""
    if n == 1:
        return y[start] / tg
    rise = y[start + n - 1] - y[start]
    if n == 2:
        return rise / tg
    return _dot(power_table, _power_of(rise, g, rn), power_offset[n], y, start, n) / tg


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(table, p, first, y, start, n):
    """Sum of n products; the compiler may take them in any order."""
    total = 0.0
    for k in range(n):
        total += table[p, first + k] * y[start + k]
    return total


@njit(cache=True, nogil=True)
def _variance(one, total):
    """Variance one / total; 0 where jwst writes 0."""
    if not (total > 0.0 and one > 0.0):
        return 0.0
    variance = one / total
    return 0.0 if variance >= LARGE_VARIANCE else variance


@njit(cache=True, nogil=True, fastmath={"contract"})
def _fit_whole_ramps(tile, n, tables, first, slopes):
    """Slopes [DN/group] (power, TILE) of n groups of a tile (group, TILE), for every weight exponent."""
    n_power = tables.shape[0]
    slopes[:] = 0.0
    for k in range(n):
        for p in range(n_power):
            c = tables[p, first + k]
            for t in range(TILE):
                slopes[p, t] += c * tile[k, t]


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_cut_ramp(tile, tile_dq, t, tg, g, rn, tables, offsets, buffers):
    """Fit a ramp of several segments; return sum of n^3 - n, sum of n - 1, sum of slope (n^3 - n), flags."""
    y, dq, start, length = buffers
    n_group = tile.shape[0]
    unusable = saturated = 0
    flags = np.uint32(0)
    for k in range(n_group):
        y[k] = tile[k, t]
        dq[k] = tile_dq[k, t]
        flags |= np.uint32(dq[k] & 36)
        unusable += 1 if dq[k] & 3 else 0
        saturated += 1 if dq[k] & 2 else 0
    sum_r = sum_p = sum_slope = 0.0
    if dq[0] & 2 or saturated == n_group:
        return sum_r, sum_p, sum_slope, flags | np.uint32(3)
    n_segment = _find_segments(dq, n_group, start, length) if unusable < n_group else 0
    for s in range(n_segment):
        m = float(max(length[s], 2))
        sum_r += m * m * m - m
        sum_p += m - 1.0
        sum_slope += (m * m * m - m) * _fit_segment(y, start[s], length[s], tg, g, rn, tables, offsets)
    return sum_r, sum_p, sum_slope, flags | np.uint32(1 if n_segment == 0 else 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_integration(tile, tile_dq, any_flag, width, tg, gain, noise, tables, offsets, buffers, slopes, sums, flags):
    """Fit one integration of a tile into sums (3, TILE) = (n^3 - n, n - 1, slope (n^3 - n)) and flags (TILE).

    Ramps with nothing flagged, or the last group only, are fitted side by side; the others one by one.
    """
    n_group = tile.shape[0]
    last = tile_dq[n_group - 1]
    n = n_group - 1 if last[0] & 223 else n_group
    if n >= 3:
        _fit_whole_ramps(tile, n, tables, offsets[n], slopes)
    m = float(n)
    for t in range(width):
        whole = n_group - 1 if last[t] & 223 else n_group
        if n >= 3 and whole == n and (any_flag[t] & 223) == 0:
            rise = np.float64(tile[n - 1, t]) - np.float64(tile[0, t])
            p = _power_of(rise, gain[t], noise[t])
            sums[0, t] = m * m * m - m
            sums[1, t] = m - 1.0
            sums[2, t] = (m * m * m - m) * slopes[p, t] / tg
            flags[t] = np.uint32((any_flag[t] | last[t]) & 36)
        else:
            sums[0, t], sums[1, t], sums[2, t], flags[t] = _fit_cut_ramp(
                tile, tile_dq, t, tg, gain[t], noise[t], tables, offsets, buffers
            )


@njit(cache=True, nogil=True)
def _suppress_single_groups(tile_dq, any_flag):
    """Flag every group of an integration that has a single good one."""
    n_integration, n_group = tile_dq.shape[:2]
    for i in range(n_integration):
        for t in range(TILE):
            if (any_flag[i, t] & 223) == 0 and n_group > 2:
                continue
            good = 0
            for k in range(n_group):
                good += 1 if (tile_dq[i, k, t] & 223) == 0 else 0
            if good == 1:
                any_flag[i, t] |= np.uint8(1)
                for k in range(n_group):
                    tile_dq[i, k, t] |= np.uint8(1)


@njit(cache=True, nogil=True, error_model="numpy")
def _combine(base, width, tg, dark, gain, noise, median, any_flag, tile_dq, sums, flags, d, y, x0, images, ints):
    """Turn the sums of a tile (integration, 3, TILE) into the images, and those of each integration where asked."""
    rate, var_p, var_r, out_dq = images
    rate_i, var_p_i, var_r_i, dq_i = ints
    n_integration, n_group = tile_dq.shape[:2]
    for t in range(width):
        x = x0 + t
        g, rn = gain[t], noise[t]
        var_r1 = 12.0 * (rn / tg) ** 2 / (g * g)  # var_r = var_r1 / (n^3 - n), var_p = var_p1 / (n - 1)
        var_p1 = (max(median[t], 0.0) + dark) / (tg * g)
        total_r = total_p = total_slope = 0.0
        n_bad = n_sat = 0
        seen = base[t]
        for i in range(n_integration):
            flags_i = flags[i, t] | base[t]
            saturated = ((any_flag[i, t] | tile_dq[i, n_group - 1, t]) & 2) != 0
            n_bad += 1 if flags_i & 1 else 0
            n_sat += 1 if flags_i & 2 else 0
            total_r += sums[i, 0, t]
            total_p += sums[i, 1, t]
            total_slope += sums[i, 2, t]
            flags_out = flags_i | np.uint32(2 if saturated else 0)
            seen |= flags_out & np.uint32(38)
            if rate_i.size > 0:
                invalid = (flags_i & 3) != 0
                rate_i[d, i, y, x] = np.nan if invalid else sums[i, 2, t] / sums[i, 0, t]
                var_p_i[d, i, y, x] = 0.0 if invalid else _variance(var_p1, sums[i, 1, t])
                var_r_i[d, i, y, x] = 0.0 if invalid else _variance(var_r1, sums[i, 0, t])
                dq_i[d, i, y, x] = flags_out
        slope = total_slope / total_r if total_r > 0.0 and var_r1 > 0.0 else np.nan
        if n_bad == n_integration or np.isnan(slope):
            seen |= np.uint32(1)
        invalid = (seen & 1) != 0 or n_sat == n_integration or (base[t] & 2) != 0
        rate[d, y, x] = np.nan if invalid else slope
        var_p[d, y, x] = 0.0 if invalid else _variance(var_p1, total_p)
        var_r[d, y, x] = 0.0 if invalid else _variance(var_r1, total_r)
        out_dq[d, y, x] = seen


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_ramps(
    sci, group_dq, pixel_dq, read_noise, gain, tg, dark, suppress_one, tables, offsets, pairs, images, ints
):  # fmt: skip
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    tile = np.zeros((n_integration, n_group, TILE), dtype=np.float32)
    tile_dq = np.zeros((n_integration, n_group, TILE), dtype=np.uint8)
    any_flag = np.zeros((n_integration, TILE), dtype=np.uint8)
    ordered = np.empty((max(n_group - 1, 1), TILE), dtype=np.float32)
    count = np.zeros(TILE, dtype=np.int32)
    median, g, rn = np.zeros(TILE), np.ones(TILE), np.ones(TILE)
    base = np.zeros(TILE, dtype=np.uint32)
    slopes = np.zeros((tables.shape[0], TILE))
    sums = np.zeros((n_integration, 3, TILE))
    flags = np.zeros((n_integration, TILE), dtype=np.uint32)
    size = n_group + 1
    buffers = (
        np.empty(size), np.empty(size, dtype=np.uint8), np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    )  # fmt: skip
    for d in range(n_dither):
        for y in range(n_y):
            for x0 in range(0, n_x, TILE):
                width = min(TILE, n_x - x0)
                for t in range(width):
                    g[t] = gain[y, x0 + t]
                    rn[t] = read_noise[y, x0 + t] * g[t] / np.sqrt(2.0)
                    base[t] = pixel_dq[d, y, x0 + t] | np.uint32(0 if g[t] > 0.0 else 524288 | 1)
                _gather_tile(sci, group_dq, d, y, x0, width, tile, tile_dq, any_flag)
                if suppress_one:
                    _suppress_single_groups(tile_dq, any_flag)
                _median_rates(tile, tile_dq, n_integration, n_group, tg, pairs, ordered, count, median)
                for i in range(n_integration):
                    _fit_integration(
                        tile[i], tile_dq[i], any_flag[i], width, tg, g, rn, tables, offsets, buffers, slopes, sums[i],
                        flags[i],
                    )  # fmt: skip
                _combine(base, width, tg, dark, g, rn, median, any_flag, tile_dq, sums, flags, d, y, x0, images, ints)


def weight_tables(n_group):
    """Return (table (power, position), offset by n): the coefficients c of every segment length up to n_group."""
    offsets = np.zeros(n_group + 1, dtype=np.int64)
    rows: list[list[np.ndarray]] = [[] for _ in POWERS]
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
        sci, np.broadcast_to(group_dq, sci.shape), np.broadcast_to(pixel_dq, shape), read_noise, gain,
        float(group_time),
        float(dark), suppress_one_group, tables, offsets, sorting_pairs(n_group - 1),
        (rate, var_p, var_r, out_dq), ints,
    )  # fmt: skip
    return (rate, var_p, var_r, out_dq, *ints) if integrations else (rate, var_p, var_r, out_dq)
