"""Kernels of the profile of stray light: which share of it each distance adds to the pixels between the slices.

A *bin* is a few rows whose light is added up: stray light of a sum is the sum of stray lights, as long as the kernel is
that of all its rows. ``knots``: distances [pix], negative to the left, between which the profile is linear.
"""

import numpy as np

from mrsxr.compiled import Array, njit

from ._straylight_kernels import EDGE, HALVES, OUTLIER, product


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
                if residual[y, x] != residual[y, x]:
                    continue
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
def _over_knots(back, x, first, last, table, low, high, index, out):
    """Fill ``out`` (1 + knot) with what the columns first ... last - 1 scatter to x: by the table, over the knots.

    back: the light from the last column to the first, so that the distances follow each other. table, low, high
    (2 n - 1): the kernels, the last two those that the knot below and above of a distance take part of.
    """
    n = back.size
    i, end = max(x - last + n, 0), x - first + n
    out[0] = product(back[i - x : end - x], table[i:end])
    while i < end:
        k, j = index[i], i + 1
        while j < end and index[j] == k:
            j += 1
        out[1 + k] += product(back[i - x : j - x], low[i:j])
        out[2 + k] += product(back[i - x : j - x], high[i:j])
        i = j


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
    table, low = np.empty(2 * n_x - 1, dtype=np.float32), np.empty(2 * n_x - 1, dtype=np.float32)
    high, back = np.empty_like(table), np.empty(n_x, dtype=np.float32)
    out[:] = 0.0
    begin = 0
    while begin < bins.size:
        b, end = bins[begin], begin
        while end < bins.size and bins[end] == b:
            end += 1
        y = min(n_y - 1, b * rows + rows // 2)
        for x in range(n_x):
            back[x] = light[b, n_x - 1 - x]
        for side in range(2):
            if scatters[side, y]:
                for i in range(2 * n_x - 1):
                    d = abs(i - (n_x - 1))
                    table[i], high[i] = tables[side, y, d], broad[side, y, d] * share[i]
                    low[i] = broad[side, y, d] - high[i]
                first, last = max(HALVES[side][0], EDGE), min(HALVES[side][1], n_x - EDGE)
                for k in range(begin, end):
                    place = out[k, side * n_out : (side + 1) * n_out]
                    _over_knots(back, columns[k], first, last, table, low, high, index, place)
        begin = end


@njit(cache=True, nogil=True)
def scatter_to(light: Array, tables: Array, bins: Array, columns: Array, out: Array) -> None:
    """Fill ``out`` (pixel, half) with what each half scatters by tables (half, bin, n), alike on both sides."""
    n_x = light.shape[1]
    back, table = np.empty(n_x, dtype=np.float32), np.empty(2 * n_x - 1, dtype=np.float32)
    out[:] = 0.0
    for side in range(2):
        first, last = max(HALVES[side][0], EDGE), min(HALVES[side][1], n_x - EDGE)
        low, high = n_x - last, n_x - first
        now = -1
        for k in range(bins.size):
            b, x = bins[k], columns[k]
            if b != now:
                now = b
                for i in range(n_x):
                    back[i] = light[b, n_x - 1 - i]
                    table[n_x - 1 + i] = table[n_x - 1 - i] = tables[side, b, i]
            out[k, side] = product(back[low:high], table[low + x : high + x])


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
