"""Kernels of the profile of stray light: which share of it each distance adds to the pixels between the slices.

A *bin* is a few rows whose light is added up: stray light of a sum is the sum of stray lights, as long as the kernel is
that of all its rows. ``knots``: distances [pix], negative to the left, between which the profile is linear.
"""

import numpy as np

from mrsxr.compiled import njit

from ._straylight_kernels import EDGE, HALVES, OUTLIER, fill_table


@njit(cache=True, nogil=True)
def knot_weights(knots, n, index, share):
    """Fill, for the distances 1 - n ... n - 1, the knot below and the share of the one above it."""
    k = 0
    for i in range(2 * n - 1):
        d = np.float32(i - (n - 1))
        while k + 2 < knots.size and d >= knots[k + 1]:
            k += 1
        index[i] = k
        share[i] = min(max((d - knots[k]) / (knots[k + 1] - knots[k]), np.float32(0.0)), np.float32(1.0))


@njit(cache=True, nogil=True)
def bin_light(light, rows, out):
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
def bin_gaps(residual, other, noise, noise_rows, doubt, rows, value, second, weight):
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


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _spread_over_knots(light, first, last, table, broad, index, share, x, out):
    """Add to ``out`` what the columns first ... last - 1 scatter to column x: by the table, by ``broad`` over knots."""
    n = light.size
    for u in range(first, last):
        if light[u] != 0.0:
            i = x - u + n - 1
            out[0] += light[u] * table[i]
            value = light[u] * broad[i]
            part = value * share[i]
            out[1 + index[i]] += value - part
            out[2 + index[i]] += part


@njit(cache=True, nogil=True)
def design(light, parameters, broad, rows, index, share, bins, columns, out):
    """Fill ``out`` (pixel, half x (1 + knot)) with what each half scatters: by its table, by ``broad`` over knots.

    light (bin, x); parameters, broad (half, 6, y), of the middle row of a bin; bins, columns: of the pixels, by bins.
    """
    n_x, n_y, n_out = light.shape[1], parameters.shape[2], out.shape[1] // 2
    half, tables = np.empty(n_x, dtype=np.float32), np.empty((2, 2, 2 * n_x - 1), dtype=np.float32)
    scatters = np.zeros(2, dtype=np.bool_)
    out[:] = 0.0
    now = -1
    for k in range(bins.size):
        b = bins[k]
        if b != now:
            now, y = b, min(n_y - 1, b * rows + rows // 2)
            for side in range(2):
                scatters[side] = fill_table(parameters[side, :, y], half, tables[side, 0])
                fill_table(broad[side, :, y], half, tables[side, 1])
        for side in range(2):
            if scatters[side]:
                first, last = max(HALVES[side][0], EDGE), min(HALVES[side][1], n_x - EDGE)
                place = out[k, side * n_out : (side + 1) * n_out]
                table, more = tables[side, 0], tables[side, 1]
                _spread_over_knots(light[b], first, last, table, more, index, share, columns[k], place)


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def normal_matrix(rows, weight, chosen):
    """Return rows^T weight rows of the chosen rows, as rows (n, m); no BLAS, whose threads would fight with ours."""
    n, m = rows.shape
    out = np.zeros((m, m))
    for k in range(n):
        if chosen[k]:
            row = rows[k]
            for i in range(m):
                factor = weight[k] * row[i]
                if factor != 0.0:
                    line = out[i]
                    for j in range(i, m):
                        line[j] += factor * row[j]
    for i in range(m):
        for j in range(i):
            out[i, j] = out[j, i]
    return out
