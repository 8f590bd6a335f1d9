"""Kernels of the profile of stray light: which share of it each distance adds to the pixels between the slices.

A *bin* is a few rows whose light is added up: stray light of a sum is the sum of stray lights, as long as the kernel is
that of all its rows. ``knots``: distances [pix], negative to the left, between which the profile is linear.
"""

import numpy as np

from mrsxr.compiled import Array, njit

from ._straylight_kernels import EDGE, HALVES, OUTLIER


@njit(cache=True, nogil=True)
def knot_weights(knots: Array, n: int, index: Array, share: Array) -> None:
    """Fill, for the distances 1 - n ... n - 1, the knot below and the share of the one above it."""
    k = 0
    for i in range(2 * n - 1):
        d = np.float32(i - (n - 1))
        while k + 2 < knots.size and d >= knots[k + 1]:
            k += 1
        index[i] = k
        share[i] = min(max((d - knots[k]) / (knots[k + 1] - knots[k]), np.float32(0.0)), np.float32(1.0))


@njit(cache=True, nogil=True)
def bin_light(light: Array, rows: int, out: Array) -> None:
    """Fill ``out`` (bin, x) with the mean light of the rows of each bin."""
    n_y, n_x = light.shape
    for b in range(out.shape[0]):
        out[b] = 0.0
        last = min(n_y, (b + 1) * rows)
        for y in range(b * rows, last):
            for x in range(n_x):
                out[b, x] += light[y, x]
        out[b] /= np.float32(last - b * rows)


@njit(cache=True, nogil=True)
def bin_gaps(
    residual: Array, other: Array, noise: Array, noise_rows: int, doubt: Array, rows: int, value: Array,
    second: Array, weight: Array,
) -> None:  # fmt: skip
    """Fill value and second (bin, x) with the means of the residuals and of others, weight with the inverse variance.

    residual : NaN where a pixel is not usable; noise : by blocks of ``noise_rows``; doubt (y, x): how far the light
    that spills over the edge of a slice makes a pixel uncertain. Pixels beyond OUTLIER sigma count nothing, those
    beyond 2 less; the others go with the same weights.
    """
    n_y, n_x = residual.shape
    for b in range(value.shape[0]):
        for x in range(n_x):
            total = others = weights = 0.0
            for y in range(b * rows, min(n_y, (b + 1) * rows)):
                sigma = np.sqrt(noise[y // noise_rows] ** 2 + doubt[y, x] ** 2)
                if not (sigma > 0.0 and abs(residual[y, x]) < OUTLIER * sigma):
                    continue
                pull = abs(residual[y, x]) / sigma
                robust = (1.0 if pull < 2.0 else 2.0 / pull) / sigma**2
                total += robust * residual[y, x]
                others += robust * other[y, x]
                weights += robust
            value[b, x] = total / weights if weights > 0.0 else 0.0
            second[b, x] = others / weights if weights > 0.0 else 0.0
            weight[b, x] = weights


@njit(cache=True, nogil=True, fastmath={"contract"})
def _spread_over_knots(light, first, last, table, broad, index, share, out):
    """Add to ``out`` (1 + knot, x) what the columns first ... last - 1 scatter: by the table, by ``broad`` over knots.

    table, broad (n): at the distances 0 ... n - 1. All columns that lie so far away are worked on together.
    """
    n = light.size
    whole = out[0]
    for i in range(2 * n - 1):
        d = i - (n - 1)
        x0, x1 = max(first + d, 0), min(last + d, n)
        if x1 <= x0:
            continue
        kernel, wide, part, k = table[abs(d)], broad[abs(d)], share[i], index[i]
        source = light[x0 - d : x1 - d]
        total, low, high = whole[x0:x1], out[1 + k, x0:x1], out[2 + k, x0:x1]
        for x in range(source.size):
            total[x] += source[x] * kernel
        for x in range(source.size):
            value = source[x] * wide
            low[x] += value - value * part
        for x in range(source.size):
            high[x] += source[x] * wide * part


@njit(cache=True, nogil=True)
def design(
    light: Array, tables: Array, broad: Array, scatters: Array, rows: int, index: Array, share: Array, bins: Array,
    columns: Array, out: Array,
) -> None:  # fmt: skip
    """Fill ``out`` (pixel, half x (1 + knot)) with what each half scatters: by its table, by ``broad`` over knots.

    light (bin, x); tables, broad (half, y, n) and scatters of :func:`fill_tables`: those of the middle row of a bin;
    bins, columns: of the pixels, by bins.
    """
    n_x, n_y, n_out = light.shape[1], tables.shape[1], out.shape[1] // 2
    found = np.empty((n_out, n_x), dtype=np.float32)
    out[:] = 0.0
    begin = 0
    while begin < bins.size:
        b, end = bins[begin], begin
        while end < bins.size and bins[end] == b:
            end += 1
        y = min(n_y - 1, b * rows + rows // 2)
        for side in range(2):
            if scatters[side, y]:
                first, last = max(HALVES[side][0], EDGE), min(HALVES[side][1], n_x - EDGE)
                found[:] = 0.0
                _spread_over_knots(light[b], first, last, tables[side, y], broad[side, y], index, share, found)
                for k in range(begin, end):
                    place = out[k, side * n_out : (side + 1) * n_out]
                    for j in range(n_out):
                        place[j] = found[j, columns[k]]
        begin = end


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def normal_matrix(rows: Array, weight: Array, chosen: Array) -> Array:
    """Return rows^T weight rows of the chosen rows, as rows (n, m); no BLAS, whose threads would fight with ours.

    Four rows at a time, the last ones filled up with weight 0.
    """
    n, m = rows.shape
    out = np.zeros((m, m))
    four, share, count = np.zeros((4, m), dtype=np.float32), np.zeros(4, dtype=np.float32), 0
    for k in range(n):
        if chosen[k]:
            four[count], share[count] = rows[k], weight[k]
            count += 1
        if count == 4:
            _add_four(four, share, out)
            count = 0
    share[count:] = 0.0
    _add_four(four, share, out)
    for i in range(m):
        for j in range(i):
            out[i, j] = out[j, i]
    return out


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _add_four(four, share, out):
    """Add the products of four rows, those right of the diagonal."""
    m = out.shape[0]
    for i in range(m):
        a, b, c, d = share[0] * four[0, i], share[1] * four[1, i], share[2] * four[2, i], share[3] * four[3, i]
        if a != 0.0 or b != 0.0 or c != 0.0 or d != 0.0:
            line, one, two, three, last = out[i, i:], four[0, i:], four[1, i:], four[2, i:], four[3, i:]
            for j in range(m - i):
                line[j] += (a * one[j] + b * two[j]) + (c * three[j] + d * last[j])
