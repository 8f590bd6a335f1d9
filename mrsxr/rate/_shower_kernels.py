"""Kernels of the search for showers by connected areas on plain arrays. Bits: DO_NOT_USE 1, SATURATED 2, JUMP_DET 4.

Symbols: d = difference of neighbouring groups [electron], m = its median over all integrations and groups of a
pixel, sigma^2 = |m| + r^2 with r the CDS read noise [electron], ratio = |d - m| / sigma. Frames of one bit a pixel
are packed along x as by ``numpy.packbits``.
"""

import math

import numpy as np

from mrsxr._median_kernels import TILE, empty_tiles, median_of_sorted, sort_columns, sorting_pairs, take_row
from mrsxr.compiled import Array, njit, read_only

from ._jump_kernels import clip_sorted, gather

_CLIP_LIMIT = 5.0  # sigma
_REFERENCE_PIXEL = np.uint32(2**31)


@njit(cache=True, nogil=True)
def _ratios_over_integrations(diffs, n_integration, t, work):
    """Replace column t of diffs by its ratios to median and scatter of the same difference in all integrations."""
    n_each = diffs.shape[0] // n_integration
    for g in range(n_each):
        n = 0
        for k in range(g, diffs.shape[0], n_each):
            if np.isfinite(diffs[k, t]):
                work[n] = diffs[k, t]
                n += 1
        work[:n].sort()
        first, last = clip_sorted(work, n, _CLIP_LIMIT)
        kept = work[first:last]
        median = 0.5 * (kept[(kept.size - 1) >> 1] + kept[kept.size >> 1]) if kept.size else np.nan
        scatter = np.std(kept) if kept.size else np.nan
        for k in range(g, diffs.shape[0], n_each):
            diffs[k, t] = abs(diffs[k, t] - median) / scatter if scatter > 0 else np.nan


@njit(cache=True, nogil=True)
def _ratio_map(sci, group_dq, pixel_dq, read_noise, gain, clip, pairs, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_diffs = n_integration * (n_group - 1)
    tiles, tiles_dq = empty_tiles(n_x, n_integration, n_group)
    diffs = np.empty((n_diffs, TILE), dtype=np.float32)
    ordered = np.empty((n_diffs, TILE), dtype=np.float32)
    count = np.zeros(TILE, dtype=np.int32)
    m = np.zeros(TILE, dtype=np.float32)
    inverse = np.ones(TILE, dtype=np.float32)
    work = np.empty(n_diffs, dtype=np.float64)
    nan = np.float32(np.nan)
    for d in range(n_dither):
        for y in range(n_y):
            take_row(sci, d, y, tiles)
            take_row(group_dq, d, y, tiles_dq)
            for n, x0 in enumerate(range(0, n_x, TILE)):
                width = min(TILE, n_x - x0)
                gather(tiles[n], tiles_dq[n], gain[y, x0 : x0 + width], False, diffs, ordered, count)
                if clip:
                    for t in range(width):
                        _ratios_over_integrations(diffs, n_integration, t, work)
                else:
                    sort_columns(ordered, pairs)
                    for t in range(width):
                        r = read_noise[y, x0 + t] * gain[y, x0 + t]
                        m[t] = median_of_sorted(ordered, count, t)
                        sigma = np.sqrt(abs(m[t]) + r * r)
                        inverse[t] = np.float32(1) / sigma if sigma > 0 else nan
                for i in range(n_integration):
                    for t in range(width):
                        out[d, i, 0, y, x0 + t] = nan
                    for g in range(1, n_group):
                        k = i * (n_group - 1) + g - 1
                        for t in range(width):
                            own = pixel_dq[d, y, x0 + t]
                            flags = np.uint32(group_dq[d, i, g, y, x0 + t]) | own
                            masked = flags & np.uint32(7) != 0 or own == _REFERENCE_PIXEL
                            value = abs(diffs[k, t] - m[t]) * inverse[t]
                            out[d, i, g, y, x0 + t] = nan if masked else value


@njit(cache=True, nogil=True)
def _box_sums(row, n_levels, sums):
    """Fill sums[a, x] with the sum of row[x - a .. x + a]; row is padded by n_levels - 1 on both sides."""
    pad = n_levels - 1
    n_x = sums.shape[1]
    for x in range(n_x):
        sums[0, x] = row[x + pad]
    for a in range(1, n_levels):
        low, high = row[pad - a :], row[pad + a :]
        inner, outer = sums[a - 1], sums[a]
        for x in range(n_x):
            outer[x] = inner[x] + (low[x] + high[x])


@njit(cache=True, nogil=True)
def _ring_mean(planes, outer, inner, out):
    """Mean over a ring around each pixel; outer and inner hold the half widths of its rows, inner -1 for no hole."""
    n_plane, n_y, n_x = planes.shape
    depth = outer.size // 2
    levels = np.max(outer) + 1
    pad = levels - 1
    value, good = np.zeros(n_x + 2 * pad, dtype=np.float32), np.ones(n_x + 2 * pad, dtype=np.float32)
    sums = np.zeros((outer.size, levels, n_x), dtype=np.float32)
    counts = np.zeros((outer.size, levels, n_x), dtype=np.float32)
    total, number = np.empty(n_x, dtype=np.float32), np.empty(n_x, dtype=np.float32)
    for p in range(n_plane):
        for y in range(n_y):
            for x in range(n_x):
                v = planes[p, y, x]
                usable = np.isfinite(v)
                value[x + pad] = v if usable else np.float32(0)
                good[x + pad] = np.float32(usable)
            slot = y % outer.size
            _box_sums(value, levels, sums[slot])
            _box_sums(good, levels, counts[slot])
            if y < 2 * depth:
                continue
            centre = y - depth
            total[:], number[:] = 0, 0
            for k in range(outer.size):
                row = (centre + k - depth) % outer.size
                s, c = sums[row, outer[k]], counts[row, outer[k]]
                for x in range(n_x):
                    total[x] += s[x]
                    number[x] += c[x]
                if inner[k] >= 0:
                    s, c = sums[row, inner[k]], counts[row, inner[k]]
                    for x in range(n_x):
                        total[x] -= s[x]
                        number[x] -= c[x]
            for x in range(n_x):
                known = number[x] > np.float32(0.5) and np.isfinite(planes[p, centre, x])
                out[p, centre, x] = total[x] / number[x] if known else np.float32(0)


@njit(cache=True, nogil=True)
def _take_area(frame, y, x, ys, xs):
    """List and clear the set pixels that hang together with (y, x) along sides and corners; return their number."""
    n_y, n_x = frame.shape
    frame[y, x] = False
    ys[0], xs[0] = y, x
    n, at = 1, 0
    while at < n:
        for b in range(max(0, ys[at] - 1), min(n_y, ys[at] + 2)):
            for a in range(max(0, xs[at] - 1), min(n_x, xs[at] + 2)):
                if frame[b, a]:
                    frame[b, a] = False
                    ys[n], xs[n] = b, a
                    n += 1
        at += 1
    return n


@njit(cache=True, nogil=True)
def _filled_size(ys, xs):
    """Return the number of pixels of an area with its holes; a hole touches the outside not even at corners."""
    y0, x0 = ys.min(), xs.min()
    box = np.ones((ys.max() - y0 + 3, xs.max() - x0 + 3), dtype=np.bool_)
    for k in range(ys.size):
        box[ys[k] - y0 + 1, xs[k] - x0 + 1] = False
    around_y, around_x = np.empty(box.size, dtype=np.int64), np.empty(box.size, dtype=np.int64)
    return box.size - _take_area(box, 0, 0, around_y, around_x)


@njit(cache=True, nogil=True)
def _ellipse(ys, xs, ratio, widest):
    """Return centre (y, x), half axes (along, across) in whole pixels and angle of the ellipse of an area."""
    yc, xc = ys.mean(), xs.mean()
    yy, xx, xy = 0.0, 0.0, 0.0
    for k in range(ys.size):
        yy += (ys[k] - yc) ** 2
        xx += (xs[k] - xc) ** 2
        xy += (ys[k] - yc) * (xs[k] - xc)
    yy, xx, xy = yy / ys.size, xx / ys.size, xy / ys.size
    root = math.sqrt((0.5 * (yy - xx)) ** 2 + xy * xy)
    along = 4.0 * math.sqrt(0.5 * (yy + xx) + root) - 1.0
    across = 4.0 * math.sqrt(max(0.0, 0.5 * (yy + xx) - root)) - 1.0
    along = min(along + (ratio - 1.0) * across, widest)
    across = min(across * ratio, widest)
    if yy == xx:
        angle = 0.25 * math.pi if xy > 0 else -0.25 * math.pi
    else:
        angle = 0.5 * math.atan2(2.0 * xy, yy - xx)
    return np.rint(yc), np.rint(xc), np.rint(0.5 * along), np.rint(0.5 * across), angle % math.pi


@njit(cache=True, nogil=True)
def _draw(packed, n_x, yc, xc, along, across, angle):
    """Set the bits of the pixels inside an ellipse; packed is (group, y, byte)."""
    if along == 0 or across == 0:
        return
    sine, cosine = math.sin(angle), math.cos(angle)
    reach_y = abs(along * cosine) + across * sine
    reach_x = along * sine + abs(across * cosine)
    for y in range(max(0, math.ceil(yc - reach_y)), min(packed.shape[1], math.floor(yc + reach_y) + 1)):
        for x in range(max(0, math.ceil(xc - reach_x)), min(n_x, math.floor(xc + reach_x) + 1)):
            u = ((y - yc) * cosine + (x - xc) * sine) / along
            v = ((y - yc) * sine - (x - xc) * cosine) / across
            if u * u + v * v < 1.0:
                bit = np.uint8(128 >> (x & 7))
                for g in range(packed.shape[0]):
                    packed[g, y, x >> 3] |= bit


@njit(cache=True, nogil=True)
def _draw_showers(packed, n_x, min_area, ratio, widest, n_after, out):
    n_integration, n_group, n_y, n_byte = packed.shape
    frame = np.zeros((n_y, 8 * n_byte), dtype=np.bool_)
    ys, xs = np.empty(n_y * n_x, dtype=np.int64), np.empty(n_y * n_x, dtype=np.int64)
    for i in range(n_integration):
        for g in range(1, n_group):
            for y in range(n_y):
                for b in range(n_byte):
                    bits = packed[i, g, y, b]
                    for k in range(8):
                        frame[y, 8 * b + k] = bits & np.uint8(128 >> k) != 0
            for y in range(n_y):
                for b in range(n_byte):
                    if packed[i, g, y, b] == 0:
                        continue
                    for x in range(8 * b, 8 * b + 8):
                        if not frame[y, x]:
                            continue
                        n = _take_area(frame, y, x, ys, xs)
                        rows, columns = ys[:n], xs[:n]
                        box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
                        if box >= min_area and _filled_size(rows, columns) >= min_area:
                            yc, xc, along, across, angle = _ellipse(rows, columns, ratio, widest)
                            _draw(out[i, g : g + n_after + 1], n_x, yc, xc, along, across, angle)


@njit(cache=True, nogil=True)
def _mean_difference(sci, group_dq, gain, bits, bit, use_bits):
    """Mean of the differences of unflagged samples of one ramp; those of a shower count as flagged on request."""
    total, n = np.float32(0), 0
    before = np.float32(np.nan)
    for g in range(sci.size):
        flagged = group_dq[g] & np.uint8(7) != 0
        if use_bits and bits[g] & bit and group_dq[g] & np.uint8(2) == 0:
            flagged = True
        now = np.float32(np.nan) if flagged else sci[g] * gain
        if not np.isnan(now - before):
            total += now - before
            n += 1
        before = now
    return total / np.float32(n) if n else np.float32(np.nan)


@njit(cache=True, nogil=True)
def _flag_showers(sci, group_dq, pixel_dq, gain, packed, limit, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    for d in range(n_dither):
        for i in range(n_integration):
            out[d, i] = group_dq[d, i]
            for y in range(n_y):
                for b in range(packed.shape[4]):
                    together = np.uint8(0)
                    for g in range(n_group):
                        together |= packed[d, i, g, y, b]
                    for x in range(8 * b, min(8 * b + 8, n_x)) if together else range(0):
                        bit = np.uint8(128 >> (x & 7))
                        if together & bit == 0 or pixel_dq[d, y, x] == _REFERENCE_PIXEL:
                            continue
                        ramp, flags, bits = sci[d, i, :, y, x], group_dq[d, i, :, y, x], packed[d, i, :, y, b]
                        before = _mean_difference(ramp, flags, gain[y, x], bits, bit, False)
                        after = _mean_difference(ramp, flags, gain[y, x], bits, bit, True)
                        if not abs(before - after) <= limit:
                            continue
                        for g in range(n_group):
                            if bits[g] & bit and flags[g] & np.uint8(2) == 0:
                                out[d, i, g, y, x] = flags[g] | np.uint8(4)


def ratio_map(
    sci: Array, group_dq: Array, pixel_dq: Array, read_noise: Array, gain: Array, minimum_sigclip_groups: int = 100
) -> Array:
    """Return |d - m| / sigma of each difference at its later group; NaN where a sample is flagged."""
    out = np.empty(sci.shape, dtype=np.float32)
    pairs = sorting_pairs(sci.shape[1] * (sci.shape[2] - 1))
    clip = sci.shape[1] >= minimum_sigclip_groups
    group_dq = np.broadcast_to(group_dq, sci.shape)
    _ratio_map(*read_only(sci, group_dq, pixel_dq, read_noise, gain), clip, pairs, out)
    return out


def ring_rows(inner_radius, outer_radius):
    """Return the half widths of the rows of a ring and of its hole, -1 for no hole, from its top row to its bottom."""
    depth = int(outer_radius)
    outer, inner = np.full(2 * depth + 1, -1), np.full(2 * depth + 1, -1)
    for k, dy in enumerate(range(-depth, depth + 1)):
        distance = [dy * dy + dx * dx for dx in range(depth + 1)]
        outer[k] = sum(square <= outer_radius**2 for square in distance) - 1
        inner[k] = sum(square < inner_radius**2 for square in distance) - 1
    return outer, inner


def ring_mean(planes: Array, inner_radius: float = 1.0, outer_radius: float = 3.6) -> Array:
    """Return the mean of the finite values in a ring around each finite pixel, else 0.

    The outer int(outer_radius) rows are not set; beyond the first and last column lie zeros.
    """
    (flat,) = read_only(planes.reshape(-1, *planes.shape[-2:]))
    out = np.zeros(flat.shape, dtype=np.float32)
    _ring_mean(flat, *ring_rows(inner_radius, outer_radius), out)
    return out.reshape(planes.shape)


def pack_above(planes: Array, threshold: float) -> Array:
    """Return one bit a pixel (..., byte): True where ``planes`` (..., x) exceeds the threshold."""
    return np.packbits(planes > np.float32(threshold), axis=-1)


def draw_showers(
    packed: Array, lost: Array, n_x: int, min_area: float, ratio: float, widest: float, n_after: int, min_diffs: int
) -> Array:
    """Return the pixels (..., integration, group, y, byte) inside the ellipses of all large areas of set pixels.

    ``lost`` (..., integration, group) tells groups without data; with less than ``min_diffs`` differences left
    nothing is drawn.
    """
    flat = np.ascontiguousarray(packed).reshape(-1, *packed.shape[-4:])
    out = np.zeros(flat.shape, dtype=np.uint8)
    n_integration, n_group = flat.shape[1:3]
    for frames, gone, drawn in zip(flat, lost.reshape(-1, n_integration, n_group), out, strict=True):
        if n_integration * (n_group - 1) - gone.sum() >= min_diffs:
            _draw_showers(frames, n_x, float(min_area), float(ratio), float(widest), n_after, drawn)
    return out.reshape(packed.shape)


def flag_drawn(sci: Array, group_dq: Array, pixel_dq: Array, gain: Array, packed: Array, limit: float) -> Array:
    """Return group flags with JUMP_DET in the drawn pixels whose mean difference changes by no more than the limit.

    ``packed`` is (dither, integration, group, byte, y, 1); the limit [electron].
    """
    out = np.empty(sci.shape, dtype=np.uint8)
    drawn = np.ascontiguousarray(np.moveaxis(packed[..., 0], 3, 4))
    group_dq = np.broadcast_to(group_dq, sci.shape)
    _flag_showers(sci, group_dq, pixel_dq, gain, drawn, np.float32(limit), out)
    return out
