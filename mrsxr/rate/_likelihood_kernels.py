"""Kernels of the likelihood fits: jwst's LIKELY (:func:`fit_likelihood`) and the better one (:func:`fit_gls`).

Outputs of both: rate [DN/s], var_poisson, var_read [DN2/s2], dq, groups_used, n_jumps, chi2 (reduced), and the same of
each integration. Bits: DO_NOT_USE 1, SATURATED 2, JUMP_DET 4, NO_GAIN_VALUE 524288. For the algebra see _gls_kernels.
"""

from collections.abc import Sequence

import numpy as np

from mrsxr._median_kernels import TILE, empty_tiles, median_of_sorted, sort_columns, sorting_pairs, take_row
from mrsxr.compiled import Array, njit, read_only

from ._gls_kernels import (
    ACTIVE,
    BEST,
    BLOCK,
    C0,
    DARK,
    DIFF,
    KAPPA,
    LANES,
    LIMIT_ONE,
    LIMIT_TWO,
    LINK,
    ONE,
    PER_GAIN,
    PER_S2,
    PHOTON,
    READ,
    S2,
    START,
    SUM_A,
    SUM_B,
    SUM_C,
    SUM_N,
    TIME,
    USED,
    W0,
    W1,
    W2,
    ZERO,
    fill_terms,
    find_worst,
    forward,
    gather_bridged,
    gather_plain,
    new_terms,
    release,
    set_kappa,
    split_variance,
)  # fmt: skip
from ._gls_search_kernels import UNTESTED, common_rate, finish, move, search, suspects

HUGE = np.float32(1.0e30)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _describe_pixels(pixel_dq, read_noise, gain, dark, tg, electrons, place, width, lanes, base):
    """Fill S2 = s^2 [DN2], PER_S2, PER_GAIN = 1/(gain s^2), DARK [DN/group]; base: flags of the pixel."""
    d, y, x0 = place
    for t in range(TILE):
        inside = t < width
        x = x0 + t if inside else x0
        g, rn = gain[y, x], read_noise[y, x]
        base[t] = pixel_dq[d, y, x]
        if not g > ZERO:
            base[t] |= np.uint32(524288 | 1)
        if not rn > ZERO:
            base[t] |= np.uint32(1)
        good = inside and g > ZERO and rn > ZERO and rn < HUGE
        s2 = np.float32(0.5) * rn * rn if good else ONE
        lanes[S2 + t], lanes[PER_S2 + t] = s2, ONE / s2
        lanes[PER_GAIN + t] = ONE / (g * s2) if good else ONE
        current = np.float32(dark[y, x] * tg)
        lanes[DARK + t] = (current if electrons else current / g) if good and abs(current) < HUGE else ZERO


@njit(cache=True, nogil=True)
def _new_tile(n_integration, n_group):
    """Return what a tile needs: blocks of regular ramps, lanes, rates (rate, weight), flags, jumps, results, base."""
    blocks = np.zeros((n_integration, max(n_group - 1, 1), BLOCK), dtype=np.float32)  # what is never used is absent
    blocks[:, :, TIME : TIME + TILE] = ONE
    blocks[:, :, PHOTON : PHOTON + TILE] = ONE
    blocks[:, :, LINK : LINK + TILE] = ONE
    blocks[:, :, READ : READ + TILE] = ONE + ONE
    return (
        blocks, np.zeros(LANES, dtype=np.float32), np.zeros((2, n_integration, TILE), dtype=np.float32),
        np.zeros((n_integration, TILE), dtype=np.uint8), np.zeros((n_integration, TILE), dtype=np.int32),
        np.zeros((n_integration, 6, TILE), dtype=np.float32), np.zeros(TILE, dtype=np.uint32),
    )  # fmt: skip


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _solve(lanes, rate):
    """Fill rate (TILE) [DN/group]; the start where nothing is used."""
    for t in range(TILE):
        rate[t] = lanes[START + t] + (lanes[SUM_B + t] / lanes[SUM_C + t] if lanes[SUM_C + t] > ZERO else ZERO)


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _finish(block, lanes, rate, result):
    """Fill result (6, TILE): rate [DN/group], var_poisson, var_read, chi2, differences used, groups used."""
    split_variance(block, lanes)
    for t in range(TILE):
        per_c = ONE / lanes[SUM_C + t] if lanes[SUM_C + t] > ZERO else ZERO
        result[0, t] = rate[t]
        result[1, t] = lanes[KAPPA + t] * lanes[S2 + t] * lanes[W0 + t] * per_c * per_c
        result[2, t] = lanes[S2 + t] * lanes[W1 + t] * per_c * per_c
        result[3, t] = (lanes[SUM_A + t] - lanes[SUM_B + t] * lanes[SUM_B + t] * per_c) * lanes[PER_S2 + t]
        result[4, t] = lanes[SUM_N + t]
        result[5, t] = lanes[W2 + t]


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _write(at, good, values, flags, n_jump, tg, images):
    """Write one result (6) of a pixel where ``at`` says; NaN, 0 and DO_NOT_USE where it is not good."""
    rate, var_p, var_r, dq, used, jumps, chi2 = images
    rate[at] = values[0] / tg if good else np.nan
    var_p[at] = values[1] / (tg * tg) if good else 0.0
    var_r[at] = values[2] / (tg * tg) if good else 0.0
    dq[at] = flags if good else flags | np.uint32(1)
    used[at] = values[5] if good else 0
    jumps[at] = n_jump
    chi2[at] = values[3] if good else np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def _average_apart(results, good, t, total):
    """Fill total (6) with the mean over integrations weighted by variance, rescaled to a common rate; as jwst."""
    n_integration = results.shape[0]
    found = np.empty(n_integration)
    n = 0
    for i in range(n_integration):
        if good[i]:
            found[n] = results[i, 0, t]
            n += 1
    total[:] = 0.0
    if n == 0:
        return False
    slope = np.median(found[:n])
    for _ in range(1 if n_integration == 1 else 2):
        weight = weighted = 0.0
        total[:3] = 0.0
        for i in range(n_integration):
            if not good[i]:
                continue
            scale = slope / results[i, 0, t] if n_integration > 1 else 1.0
            scale = scale if scale >= 0.0 and scale < np.inf else 0.0
            v_p, v_r = results[i, 1, t] * scale, np.float64(results[i, 2, t])
            w = 1.0 / (v_p + v_r)
            weight += w
            weighted += w * results[i, 0, t]
            total[1] += v_p * w * w
            total[2] += v_r * w * w
        slope = weighted / weight
        total[0], total[1], total[2] = slope, total[1] / (weight * weight), total[2] / (weight * weight)
    return True


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _average_alike(results, good, t, total):
    """Fill total (6) with the mean over integrations weighted by variance; all rest on one rate already."""
    total[:] = 0.0
    weight = 0.0
    for i in range(results.shape[0]):
        if good[i]:
            w = 1.0 / (np.float64(results[i, 1, t]) + np.float64(results[i, 2, t]))
            weight += w
            total[0] += w * results[i, 0, t]
            total[1] += w * w * results[i, 1, t]
            total[2] += w * w * results[i, 2, t]
    if not weight > 0.0:
        return False
    total[0] /= weight
    total[1] /= weight * weight
    total[2] /= weight * weight
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _combine(place, width, tg, alike, base, flags, n_jump, results, images, ints):
    """Write the integrations of a tile and their mean."""
    d, y, x0 = place
    n_integration = results.shape[0]
    good = np.zeros(n_integration, dtype=np.bool_)
    total, one = np.zeros(6), np.zeros(6)
    for t in range(width):
        seen, n_bad, jumps = base[t] & np.uint32(0xFFFFFFFE), 0, 0
        chi2 = free = groups = 0.0
        for i in range(n_integration):
            bits = base[t] | np.uint32(flags[i, t] & 6)
            bits |= np.uint32(4 if n_jump[i, t] > 0 else 0)
            good[i] = (bits & 1) == 0 and results[i, 4, t] > ZERO and results[i, 2, t] > ZERO
            n_bad += 0 if good[i] else 1
            for row in range(6):
                one[row] = results[i, row, t]
            if good[i]:
                chi2 += one[3]
                free += one[4] - 1.0
                groups += one[5]
            one[3] = one[3] / (one[4] - 1.0) if one[4] > 1.0 else np.nan
            _write((d, i, y, x0 + t), good[i], one, bits, n_jump[i, t], tg, ints)
            seen |= bits & np.uint32(0xFFFFFFFE)
            jumps += n_jump[i, t]
        fitted = _average_alike(results, good, t, total) if alike else _average_apart(results, good, t, total)
        total[3], total[5] = chi2 / free if free > 0.0 else np.nan, groups
        _write((d, y, x0 + t), fitted and n_bad < n_integration, total, seen, jumps, tg, images)


# --- jwst's LIKELY ---


@njit(cache=True, nogil=True)
def _search_plain(block, lanes, limit, n_jump):
    """Release one difference at a time until none is worth it (jwst's mask_jumps); the sums are those of the last."""
    lanes[LIMIT_ONE : LIMIT_ONE + TILE] = limit
    lanes[LIMIT_TWO : LIMIT_TWO + TILE] = UNTESTED
    for _ in range(block.shape[0] + 1):
        forward(block, lanes)
        for t in range(TILE):
            if lanes[SUM_N + t] < np.float32(2.5):
                lanes[LIMIT_ONE + t] = UNTESTED
        find_worst(block, lanes)
        if release(block, lanes, n_jump) == 0:
            return
        for t in range(TILE):
            if not lanes[BEST + t] > ZERO or lanes[SUM_N + t] < np.float32(4.5):
                lanes[LIMIT_ONE + t] = UNTESTED


@njit(cache=True, nogil=True)
def _median_difference(block, ordered, pairs, count, median):
    """Fill median (TILE) of all differences, used or not."""
    count[:] = block.shape[0]
    for k in range(block.shape[0]):
        ordered[k] = block[k, DIFF : DIFF + TILE]
    sort_columns(ordered, pairs)
    for t in range(TILE):
        median[t] = median_of_sorted(ordered, count, t)


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_plain(sci, group_dq, pixel_dq, read_noise, gain, dark, tg, extent, limit, pairs, images, ints):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    tile = _new_tile(n_integration, n_group)
    blocks, lanes, rates, flags, n_jump, results, base = tile
    tiles, tiles_dq = empty_tiles(n_x, n_integration, n_group)
    ordered, count = np.zeros((n_group - 1, TILE), dtype=np.float32), np.zeros(TILE, dtype=np.int32)
    for d in range(n_dither):
        for y in range(n_y):
            take_row(sci, d, y, tiles)
            take_row(group_dq, d, y, tiles_dq)
            for n in range(tiles.shape[0]):
                place, width = (d, y, n * TILE), min(TILE, n_x - n * TILE)
                _describe_pixels(pixel_dq, read_noise, gain, dark, tg, True, place, width, lanes, base)
                n_jump[:] = 0
                for i in range(n_integration):
                    rate = rates[0, i]
                    gather_plain(tiles[n, i], tiles_dq[n, i], extent, blocks[i], lanes, flags[i])
                    _median_difference(blocks[i], ordered, pairs, count, rate)
                    lanes[START : START + TILE] = rate
                    set_kappa(rate, ZERO, lanes)
                    _search_plain(blocks[i], lanes, limit, n_jump[i])
                    _solve(lanes, rate)
                    lanes[START : START + TILE] = rate
                    set_kappa(np.maximum(rate, ZERO), ONE, lanes)
                    forward(blocks[i], lanes)
                    _solve(lanes, rate)
                    _finish(blocks[i], lanes, rate, results[i])
                _combine(place, width, tg, False, base, flags, n_jump, results, images, ints)


# --- the better fit ---


@njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
def _start_by_means(blocks, lanes, rates, rate):
    """Fill the rate of each integration with its mean difference, rate (TILE) with the lowest of them."""
    rate[:] = HUGE
    for i in range(blocks.shape[0]):
        lanes[W0 : W1 + TILE] = ZERO
        for k in range(blocks.shape[1]):
            one = blocks[i, k]
            for t in range(TILE):
                lanes[W0 + t] += one[DIFF + t] * one[USED + t]
                lanes[W1 + t] += one[TIME + t] * one[USED + t]
        for t in range(TILE):
            rates[0, i, t] = lanes[W0 + t] / lanes[W1 + t] if lanes[W1 + t] > ZERO else ZERO
            rate[t] = min(rate[t], rates[0, i, t] if lanes[W1 + t] > ZERO else HUGE)
    for t in range(TILE):
        rate[t] = rate[t] if rate[t] < HUGE else ZERO


@njit(cache=True, nogil=True, error_model="numpy")
def _refit(blocks, lanes, rates, searched, results):
    """Fit with the covariance of the common rate; where nothing was searched, fit for that rate first.

    Two rounds are enough: the rate is a stationary point of its own weights, so that an error of s in the rate that
    sets them changes the next by its square; they end within 0.003 sigma of where more would.
    """
    for last in (False, True):
        if searched and not last:
            continue
        for i in range(blocks.shape[0]):
            lanes[START : START + TILE] = rates[0, i]
            forward(blocks[i], lanes)
            _solve(lanes, rates[0, i])
            rates[1, i] = lanes[SUM_C : SUM_C + TILE]
            if last:
                _finish(blocks[i], lanes, rates[0, i], results[i])
        if not last:
            common_rate(rates, lanes)
            set_kappa(lanes[W0 : W0 + TILE], ONE, lanes)


@njit(cache=True, nogil=True, error_model="numpy")
def _prepare(ramps, pixel_dq, read_noise, gain, dark, linear, tg, extent, by_jumps, place, width, tile, terms):
    """Gather the ramps (samples and flags) of a tile and set the start of its fit."""
    blocks, lanes, rates, flags, n_jump, _, base = tile
    _, y, x0 = place
    _describe_pixels(pixel_dq, read_noise, gain, dark, tg, False, place, width, lanes, base)
    fill_terms(linear[0], linear[1], y, x0, width, terms)
    for i in range(blocks.shape[0]):
        gather_bridged(
            ramps[0][i], ramps[1][i], extent, terms, linear[2], by_jumps, blocks[i], lanes, flags[i], n_jump[i]
        )  # fmt: skip
    _start_by_means(blocks, lanes, rates, lanes[C0 : C0 + TILE])
    set_kappa(lanes[C0 : C0 + TILE], ONE, lanes)


@njit(cache=True, nogil=True, error_model="numpy")
def _fit_better(
    sci, group_dq, pixel_dq, read_noise, gain, dark, linear, tg, extent, by_jumps, thresholds, images, ints
):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    tile = _new_tile(n_integration, n_group)
    blocks, lanes, rates, flags, n_jump, results, base = tile
    tiles, tiles_dq = empty_tiles(n_x, n_integration, n_group)
    terms = new_terms(linear[0].shape[0])
    searched = thresholds[0] < UNTESTED
    for d in range(n_dither):
        for y in range(n_y):
            take_row(sci, d, y, tiles)
            take_row(group_dq, d, y, tiles_dq)
            for n in range(tiles.shape[0]):
                place, width = (d, y, n * TILE), min(TILE, n_x - n * TILE)
                _prepare(
                    (tiles[n], tiles_dq[n]), pixel_dq, read_noise, gain, dark, linear, tg, extent, by_jumps, place,
                    width, tile, terms,
                )  # fmt: skip
                if searched:
                    lanes[ACTIVE : ACTIVE + TILE] = ONE
                    search(blocks, lanes, thresholds, rates, n_jump, n_group - 1)
                _refit(blocks, lanes, rates, searched, results)
                _combine(place, width, tg, True, base, flags, n_jump, results, images, ints)


@njit(cache=True, nogil=True, error_model="numpy")
def _find(sci, group_dq, pixel_dq, read_noise, gain, dark, linear, tg, thresholds, bounds, out_dq, out_spread):
    """Look for jumps, a tile at a time, in the pixels that may have one."""
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    tile = _new_tile(n_integration, n_group)
    blocks, lanes, rates, _, _, _, base = tile
    tiles, tiles_dq = empty_tiles(n_x, n_integration, n_group)
    terms = new_terms(linear[0].shape[0])
    before = np.zeros((n_integration, n_group - 1, TILE), dtype=np.float32)
    queue, places, q = (_new_tile(n_integration, n_group), before), np.zeros((3, TILE), np.int64), 0
    for d in range(n_dither):
        for y in range(n_y):
            take_row(sci, d, y, tiles)
            take_row(group_dq, d, y, tiles_dq)
            for n in range(tiles.shape[0]):
                place, width = (d, y, n * TILE), min(TILE, n_x - n * TILE)
                _prepare(
                    (tiles[n], tiles_dq[n]), pixel_dq, read_noise, gain, dark, linear, tg, (0, n_group), np.uint8(4),
                    place, width, tile, terms,
                )  # fmt: skip
                for t in range(TILE):
                    if base[t] & 1:
                        blocks[:, :, USED + t] = ZERO
                    lanes[ACTIVE + t] = ONE if t < width else ZERO
                if suspects(blocks, lanes, thresholds, rates) == 0:
                    continue
                for t in range(width):
                    if lanes[W2 + t] > ZERO:
                        move(tile, t, place, queue, places, q)
                        q += 1
                    if q == TILE:
                        finish(queue, places, q, thresholds, bounds, out_dq, out_spread)
                        q = 0
    finish(queue, places, q, thresholds, bounds, out_dq, out_spread)


# --- wrappers ---


def fit_likelihood(
    sci: Array, group_dq: Array, pixel_dq: Array, read_noise: Array, gain: Array, dark: Array,
    group_time: float = 1.0, limits: Sequence[int] = (0, 65535), threshold_one_omit: float = 20.25,
) -> tuple[Array, ...]:  # fmt: skip
    """Return the outputs of jwst's LIKELY; see the head of the module."""
    shape = sci.shape
    images, ints = _empty_outputs((shape[0], *shape[3:])), _empty_outputs((shape[0], shape[1], *shape[3:]))
    _fit_plain(
        *read_only(
            sci, np.broadcast_to(group_dq, shape), np.broadcast_to(pixel_dq, images[0].shape), read_noise, gain, dark
        ),
        float(group_time), (int(limits[0]), int(limits[1])),
        np.float32(threshold_one_omit), sorting_pairs(shape[2] - 1), images, ints,
    )  # fmt: skip
    return *images, *ints


def _empty_outputs(shape):
    """Return empty rate, var_poisson, var_read, dq, groups_used, n_jumps, chi2 of a shape."""
    types = (np.float32, np.float32, np.float32, np.uint32, np.uint16, np.uint16, np.float32)
    return tuple(np.empty(shape, dtype=dtype) for dtype in types)


def fit_gls(
    sci: Array, group_dq: Array, pixel_dq: Array, read_noise: Array, gain: Array, dark: Array, *linearity: Array,
    group_time: float = 1.0, limits: Sequence[int] = (0, 65535), find_jumps: bool = True, use_jump_flags: bool = True,
    threshold_one_omit: float = 20.25, threshold_two_omit: float = 23.8, scale_photon_noise: bool = True,
) -> tuple[Array, ...]:  # fmt: skip
    """Return the outputs of the better fit; ``linearity``: coefficients (order, y, x) and skip (y, x), or nothing."""
    shape = sci.shape
    images, ints = _empty_outputs((shape[0], *shape[3:])), _empty_outputs((shape[0], shape[1], *shape[3:]))
    limit = (threshold_one_omit, threshold_two_omit) if find_jumps else (UNTESTED, UNTESTED)
    _fit_better(
        *read_only(
            sci, np.broadcast_to(group_dq, shape), np.broadcast_to(pixel_dq, images[0].shape), read_noise, gain, dark
        ),
        _linear(linearity, shape, scale_photon_noise), float(group_time), (int(limits[0]), int(limits[1])),
        np.uint8(4 if use_jump_flags else 0), np.array(limit, dtype=np.float32), images, ints,
    )  # fmt: skip
    return *images, *ints


def find_jumps_gls(
    sci: Array, group_dq: Array, read_noise: Array, gain: Array, dark: Array, *linearity: Array,
    group_time: float = 1.0, threshold_one_omit: float = 20.25, threshold_two_omit: float = 23.8,
    neighbours: Sequence[float] = (10.0, 1000.0), scale_photon_noise: bool = True,
) -> tuple[Array, Array]:  # fmt: skip
    """Return (group flags with JUMP_DET, bool: jumps that also flag their neighbours)."""
    out_dq, out_spread = np.broadcast_to(group_dq, sci.shape).copy(), np.zeros(sci.shape, dtype=np.bool_)
    no_flags = np.zeros((sci.shape[0], *sci.shape[3:]), dtype=np.uint32)
    _find(
        *read_only(sci, np.broadcast_to(group_dq, sci.shape), no_flags, read_noise, gain, dark),
        _linear(linearity, sci.shape, scale_photon_noise), float(group_time),
        np.array((threshold_one_omit, threshold_two_omit), dtype=np.float32),
        np.asarray(neighbours, dtype=np.float32), out_dq, out_spread,
    )  # fmt: skip
    return out_dq, out_spread


def _linear(linearity, shape, scale_photon_noise):
    none = np.zeros((0, *shape[3:]), dtype=np.float32), np.zeros(shape[3:], dtype=np.bool_)
    return *read_only(*(linearity or none)), bool(linearity) and bool(scale_photon_noise)
