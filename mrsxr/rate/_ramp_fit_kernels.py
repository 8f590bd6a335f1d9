"""Kernels of the slope fit. Bits: DO_NOT_USE 1, SATURATED 2, JUMP_DET 4, PERSISTENCE 32, CHARGELOSS 128,
UNRELIABLE_SLOPE 2^24 (of pixels).

Symbols: tg = group time [s], g = gain [electron/DN], r = CDS read noise [DN], n = groups of a segment, x = group
number, y = sample [DN], P = weight exponent of Fixsen et al. 2000. The weights w = |2x/(n-1) - 1|^P are symmetric, so
the weighted slope is a plain dot product: slope = sum(c y) / tg, c = w (x - mid) / sum(w (x - mid)^2), and c depends on
n and P only: it is tabulated once.

Sums of an integration, (SUMS, TILE): 0 sum of weights W of its segments, 1 sum of W slope, 2 and 3 sum (n - 1) and
sum (n^3 - n), 4 groups used, 5 jumps, 6 whether a group is saturated. As in jwst, segments are weighted by read noise,
W = n^3 - n, and the dark current [electron/s] is added to the rate [DN/s].
"""

from collections.abc import Sequence

import numpy as np

from mrsxr._median_kernels import TILE, empty_tiles, median_of_sorted, sort_columns, sorting_pairs, take_row
from mrsxr.compiled import Array, njit, read_only

POWERS = np.array([0.0, 0.4, 1.0, 3.0, 6.0, 10.0])
SNR_LIMITS = np.array([5.0, 10.0, 20.0, 50.0, 100.0])
LARGE_VARIANCE = 1.0e6  # from here on jwst writes a variance as 0
SUMS = 7
ALL_LOST = np.uint64(0x0101010101010101)  # DO_NOT_USE eight times


@njit(cache=True, nogil=True)
def _look_at_tile(width, limits, tile, tile_dq, lost, any_flag, starts):
    """Return (first, stop): the groups that most pixels of a tile can use.

    NaN samples and groups outside ``limits`` become DO_NOT_USE. ``starts`` gets the first such group of each
    integration, and any_flag (integration, TILE) the flags from ``first`` on but those of the last group; of the groups
    before an integration's start bit 1 tells that one of them can be used. ``lost``: work space.
    """
    n_integration, n_group = tile.shape[:2]
    held, seen = tile_dq.view(np.uint64), any_flag.view(np.uint64)  # eight at a time
    for i in range(n_integration):
        _add_lost(tile[i].reshape(lost.size), lost, held[i].reshape(lost.size // 8))
        for k in range(n_group):
            if k < limits[0] or k > limits[1]:
                for t in range(TILE // 8):
                    held[i, k, t] |= ALL_LOST
        starts[i] = _start_of(tile_dq[i : i + 1], width)
    first = _start_of(tile_dq, width)
    stop = n_group - 1 if first < n_group - 1 and _is_lost(tile_dq, n_group - 1, width) else n_group
    for i in range(n_integration):
        any_flag[i, :] = 0
        for k in range(first, n_group - 1):
            known = ALL_LOST if k < starts[i] else np.uint64(0)
            for t in range(TILE // 8):
                seen[i, t] |= held[i, k, t] ^ known
    return first, stop


@njit(cache=True, nogil=True)
def _add_lost(samples, lost, held):
    """Add DO_NOT_USE to flags, of which eight are one, where samples are NaN; ``lost``: work space."""
    for k in range(samples.size):
        lost[k] = np.uint8(np.float32(1) if samples[k] != samples[k] else np.float32(0))
    for k, more in enumerate(lost.view(np.uint64)):
        held[k] |= more


@njit(cache=True, nogil=True)
def _start_of(tile_dq, width):
    """Return the first group that is not lost; 0 where none but the last is left."""
    n_group, first = tile_dq.shape[1], 0
    while first < n_group - 1 and _is_lost(tile_dq, first, width):
        first += 1
    return 0 if first == n_group - 1 else first


@njit(cache=True, nogil=True)
def _is_lost(tile_dq, k, width):
    """Tell whether most pixels of a tile have group k flagged DO_NOT_USE in every integration."""
    bad = 0
    for t in range(width):
        lost = np.uint8(1)
        for i in range(tile_dq.shape[0]):
            lost &= tile_dq[i, k, t]
        bad += 1 if lost else 0
    return 2 * bad > width


@njit(cache=True, nogil=True)
def _median_rates(tile, tile_dq, first, tg, pairs, ordered, count, median):
    """Mean over integrations of the median difference [DN/s]; differences into a JUMP or a flagged sample are out."""
    n_integration, n_group = tile.shape[:2]
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
            elif not tile_dq[i, first, t] & 3:
                median[t] += tile[i, first, t] / tg
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
def _fit_whole_ramps(tile, n, tables, first, taken, slopes):
    """Slopes [DN/group] (power, TILE) of n groups of a tile (group, TILE), for the weight exponents that are taken."""
    for p in range(tables.shape[0]):
        if taken[p]:
            slope = slopes[p]
            slope[:] = 0.0
            for k in range(n):
                c = tables[p, first + k]
                for t in range(TILE):
                    slope[t] += c * tile[k, t]


@njit(cache=True, nogil=True)
def _weight(n, sums, t):
    """Add the weight of a segment of n groups to the sums of pixel t and return it."""
    m = float(max(n, 2))
    w = m * m * m - m
    sums[2, t] += m - 1.0
    sums[3, t] += w
    sums[0, t] += w
    return w


@njit(cache=True, nogil=True)
def _copy_ramp(tile, tile_dq, t, first, stop, y, dq):
    """Copy groups first to stop of pixel t; return the number of saturated ones, unusable ones, jumps, and the flags.

    A jump into the first group is none where groups were left out before it.
    """
    saturated = unusable = n_jump = 0
    flags = np.uint32(0)
    for k in range(stop - first):
        y[k] = tile[first + k, t]
        dq[k] = tile_dq[first + k, t]
        if k == 0 and first > 0:
            dq[k] &= np.uint8(251)
        flags |= np.uint32(dq[k])
        saturated += 1 if dq[k] & 2 else 0
        unusable += 1 if dq[k] & 3 else 0
        n_jump += 1 if (dq[k] & 7) == 4 else 0
    return saturated, unusable, n_jump, flags


@njit(cache=True, nogil=True)
def _own_extent(tile_dq, t, extent):
    """Return (first, stop) of a pixel that can use groups beyond those that most pixels of its tile can use."""
    first, stop = extent
    while first > 0 and not tile_dq[first - 1, t] & 1:
        first -= 1
    while stop < tile_dq.shape[0] and not tile_dq[stop, t] & 1:
        stop += 1
    return first, stop


@njit(cache=True, nogil=True)
def _restored_weight(dq, n, start, length):
    """Sum of n^3 - n of the segments with the groups flagged CHARGELOSS taken as good; dq is changed."""
    for k in range(n):
        if dq[k] & 128:
            dq[k] ^= np.uint8(129)
    total = 0.0
    for s in range(_find_segments(dq, n, start, length)):
        m = float(max(length[s], 2))
        total += m * m * m - m
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_cut_ramp(tile, tile_dq, t, extent, physics, suppress_one, tables, offsets, buffers, sums):
    """Fit a ramp of several segments; fill column t of sums and return its flags."""
    first, stop = _own_extent(tile_dq, t, extent)
    tg, g, rn = physics
    y, dq, start, length = buffers
    n = stop - first
    for row in range(SUMS):
        sums[row, t] = 0.0
    saturated, unusable, n_jump, flags = _copy_ramp(tile, tile_dq, t, first, stop, y, dq)
    sums[5, t] = n_jump
    sums[6, t] = flags & 2
    out = flags & np.uint32(36)
    if dq[0] & 2 or saturated == n:
        return out | np.uint32(3)
    n_segment = _find_segments(dq, n, start, length) if unusable < n else 0
    if n_segment == 1 and length[0] == 1:
        out |= np.uint32(0 if suppress_one else 16777216)
        n_segment = 0 if suppress_one else 1
    for s in range(n_segment):
        w = _weight(length[s], sums, t)
        sums[1, t] += w * _fit_segment(y, start[s], length[s], tg, g, rn, tables, offsets)
        sums[4, t] += length[s]
    if n_segment > 0 and flags & 128:
        sums[3, t] = _restored_weight(dq, n, start, length)
    return out | np.uint32(1 if n_segment == 0 else 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_integration(
    tile, tile_dq, any_flag, extent, start, width, tg, gain, noise, suppress_one, tables, offsets, buffers, slopes,
    sums, flags,
):  # fmt: skip
    """Fit one integration of a tile into sums (SUMS, TILE) and flags (TILE).

    Ramps with nothing flagged from the first group of the integration to the last are fitted side by side; the others
    one by one. ``extent`` is (first, stop) of the groups, ``start`` that of the integration.
    """
    first, stop = extent
    start = max(start, first)
    n = stop - start
    last = tile_dq[stop - 1]
    power, taken = np.full(TILE, -1), np.zeros(tables.shape[0], dtype=np.bool_)
    for t in range(width if n >= 3 else 0):
        seen = any_flag[t] | last[t]
        if (seen & 223) == 0 and (first == 0 or tile_dq[first - 1, t] & 1):
            rise = np.float64(tile[stop - 1, t]) - np.float64(tile[start, t])
            power[t] = _power_of(rise, gain[t], noise[t])
            taken[power[t]] = True
    if n >= 3:
        _fit_whole_ramps(tile[start:], n, tables, offsets[n], taken, slopes)
    for t in range(width):
        if power[t] >= 0:
            sums[:, t] = 0.0
            sums[1, t] = _weight(n, sums, t) * slopes[power[t], t] / tg
            sums[4, t] = n
            flags[t] = np.uint32((any_flag[t] | last[t]) & 32)
        else:
            physics = (tg, gain[t], noise[t])
            flags[t] = _fit_cut_ramp(tile, tile_dq, t, extent, physics, suppress_one, tables, offsets, buffers, sums)


@njit(cache=True, nogil=True)
def _suppress_single_groups(tile_dq, any_flag, first, starts):
    """Flag every group of an integration that has a single good one."""
    n_integration, n_group = tile_dq.shape[:2]
    for i in range(n_integration):
        for t in range(TILE):
            if (any_flag[i, t] & 223) == 0 and n_group - max(starts[i], first) > 2:
                continue
            good = 0
            for k in range(n_group):
                good += 1 if (tile_dq[i, k, t] & 223) == 0 else 0
            if good == 1:
                any_flag[i, t] |= np.uint8(1)
                for k in range(n_group):
                    tile_dq[i, k, t] |= np.uint8(1)


@njit(cache=True, nogil=True, error_model="numpy")
def _combine(base, width, one_p, one_r, sums, whole, flags, d, y, x0, images, ints):
    """Turn the sums of a tile (integration, SUMS, TILE) into the images and those of each integration."""
    rate, var_p, var_r, out_dq, used, n_jump = images
    rate_i, var_p_i, var_r_i, dq_i, used_i, n_jump_i = ints
    n_integration = sums.shape[0]
    whole[:] = 0.0
    for t in range(width):
        x = x0 + t
        n_bad = n_sat = 0
        seen = base[t]
        for i in range(n_integration):
            flags_i = flags[i, t] | base[t]
            n_bad += 1 if flags_i & 1 else 0
            n_sat += 1 if flags_i & 2 else 0
            for row in range(SUMS):
                whole[row, t] += sums[i, row, t]
            invalid = (flags_i & 3) != 0
            flags_out = flags_i | np.uint32(2 if sums[i, 6, t] > 0.0 else 0)
            seen |= flags_out & np.uint32(16777216 + 38)
            v_p, v_r = _variance(one_p[t], sums[i, 2, t]), _variance(one_r[t], sums[i, 3, t])
            slope = sums[i, 1, t] / sums[i, 0, t]
            if not invalid and (np.isnan(slope) or not one_r[t] > 0.0):
                invalid, flags_out = True, flags_out | np.uint32(1)
            rate_i[d, i, y, x] = np.nan if invalid else slope
            var_p_i[d, i, y, x] = 0.0 if invalid else v_p
            var_r_i[d, i, y, x] = 0.0 if invalid else v_r
            dq_i[d, i, y, x] = flags_out
            used_i[d, i, y, x] = 0 if invalid else sums[i, 4, t]
            n_jump_i[d, i, y, x] = sums[i, 5, t]
        slope = whole[1, t] / whole[0, t] if whole[0, t] > 0.0 and one_r[t] > 0.0 else np.nan
        if n_bad == n_integration or np.isnan(slope):
            seen |= np.uint32(1)
        invalid = (seen & 1) != 0 or n_sat == n_integration or (base[t] & 2) != 0
        v_p, v_r = _variance(one_p[t], whole[2, t]), _variance(one_r[t], whole[3, t])
        rate[d, y, x] = np.nan if invalid else slope
        var_p[d, y, x] = 0.0 if invalid else v_p
        var_r[d, y, x] = 0.0 if invalid else v_r
        out_dq[d, y, x] = seen
        used[d, y, x] = 0 if invalid else whole[4, t]
        n_jump[d, y, x] = whole[5, t]


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_ramps(
    sci, group_dq, pixel_dq, read_noise, gain, dark, tg, limits, suppress_one, tables, offsets, pairs, images, ints
):  # fmt: skip
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    tiles, tiles_dq = empty_tiles(n_x, n_integration, n_group)
    lost = np.empty(n_group * TILE, dtype=np.uint8)
    any_flag, starts = np.zeros((n_integration, TILE), dtype=np.uint8), np.zeros(n_integration, dtype=np.int64)
    ordered = np.empty((max(n_group - 1, 1), TILE), dtype=np.float32)
    count = np.zeros(TILE, dtype=np.int32)
    median, g, rn = np.zeros(TILE), np.ones(TILE), np.ones(TILE)
    one_p, one_r = np.ones(TILE), np.ones(TILE)  # var_p = one_p / (n - 1), var_r = one_r / (n^3 - n)
    base = np.zeros(TILE, dtype=np.uint32)
    slopes = np.zeros((tables.shape[0], TILE))
    sums, whole = np.zeros((n_integration, SUMS, TILE)), np.zeros((SUMS, TILE))
    flags = np.zeros((n_integration, TILE), dtype=np.uint32)
    size = n_group + 1
    buffers = (
        np.empty(size), np.empty(size, dtype=np.uint8), np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    )  # fmt: skip
    for d in range(n_dither):
        for y in range(n_y):
            take_row(sci, d, y, tiles)
            take_row(group_dq, d, y, tiles_dq)
            for m, x0 in enumerate(range(0, n_x, TILE)):
                width, tile, tile_dq = min(TILE, n_x - x0), tiles[m], tiles_dq[m]
                first, stop = _look_at_tile(width, limits, tile, tile_dq, lost, any_flag, starts)
                if suppress_one:
                    _suppress_single_groups(tile_dq, any_flag, first, starts)
                _median_rates(tile, tile_dq, first, tg, pairs, ordered, count, median)
                for t in range(width):
                    g[t] = gain[y, x0 + t]
                    rn[t] = read_noise[y, x0 + t] * g[t] / np.sqrt(2.0)
                    base[t] = pixel_dq[d, y, x0 + t] | np.uint32(0 if g[t] > 0.0 else 524288 | 1)
                    one_p[t] = (max(median[t], 0.0) + np.float64(dark[y, x0 + t])) / (tg * g[t])
                    one_r[t] = 12.0 * (rn[t] / tg) ** 2 / (g[t] * g[t])
                for i in range(n_integration):
                    _fit_integration(
                        tile[i], tile_dq[i], any_flag[i], (first, stop), starts[i], width, tg, g, rn, suppress_one,
                        tables, offsets, buffers, slopes, sums[i], flags[i],
                    )  # fmt: skip
                _combine(base, width, one_p, one_r, sums, whole, flags, d, y, x0, images, ints)


def _make_tables(n_group):
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


_TABLES: dict[int, tuple[np.ndarray, np.ndarray]] = {}


def weight_tables(n_group):
    """Return (table (power, position), offset by n): the coefficients c of every segment length up to n_group."""
    if n_group not in _TABLES:
        _TABLES[n_group] = _make_tables(n_group)
    return _TABLES[n_group]


def fit_ols(
    sci: Array, group_dq: Array, pixel_dq: Array, read_noise: Array, gain: Array, dark: Array,
    group_time: float = 1.0, suppress_one_group: bool = True, limits: Sequence[int] = (0, 65535),
) -> tuple[Array, ...]:  # fmt: skip
    """Return rate, var_poisson, var_read, dq, groups_used, n_jumps, and the same six of each integration."""
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    images, ints = empty_outputs((n_dither, n_y, n_x)), empty_outputs((n_dither, n_integration, n_y, n_x))
    tables, offsets = weight_tables(n_group)
    _fit_ramps(
        *read_only(
            sci, np.broadcast_to(group_dq, sci.shape), np.broadcast_to(pixel_dq, (n_dither, n_y, n_x)), read_noise,
            gain, dark,
        ), float(group_time), (int(limits[0]), int(limits[1])),
        bool(suppress_one_group), tables, offsets, sorting_pairs(n_group - 1), images, ints,
    )  # fmt: skip
    return *images, *ints


def empty_outputs(shape):
    """Return empty rate, var_poisson, var_read, dq, groups_used, n_jumps of a shape."""
    types = (np.float32, np.float32, np.float32, np.uint32, np.uint16, np.uint16)
    return tuple(np.empty(shape, dtype=dtype) for dtype in types)
