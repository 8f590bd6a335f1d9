"""Kernels that reduce ramps to coarse maps of charge beyond the slope, and bring a coarse model back to the pixels.

Symbols: d = difference of neighbouring groups [electron], m = its median over all integrations and groups of a
pixel, r = CDS read noise [electron]. A cell is a square of CELL pixels. Bits: DO_NOT_USE 1, SATURATED 2, JUMP_DET 4.
"""

import math

import numpy as np

from mrsxr._median_kernels import TILE, median_of_sorted, sort_columns, sorting_pairs
from mrsxr.compiled import njit

from ._shower_kernels import gather

CELL = 8  # pixels
_CLIP = np.float32(4.0)  # sigma, rows of a cell against their median
_BRIGHT = np.float32(8.0)  # pixels of more than so many times the read variance are left out
_FEWEST = 3  # pixels of a row of a cell
_REFERENCE_PIXEL = np.uint32(2**31)


@njit(cache=True, nogil=True)
def _row_medians(diffs, m, inverse, n_diffs, cell, pairs, block, count, middle, weight):
    """Median of d - m of the pixels of one row of a cell, and its inverse variance, for all differences."""
    total, n_pixel = np.float32(0), 0
    for t in range(CELL * cell, CELL * cell + CELL):
        total += inverse[t]
        n_pixel += int(inverse[t] > 0)
    for k0 in range(0, n_diffs, TILE):
        width = min(TILE, n_diffs - k0)
        count[:] = 0
        for t in range(CELL):
            at = CELL * cell + t
            for k in range(width):
                value = diffs[k0 + k, at] - m[at]
                usable = not np.isnan(value) and inverse[at] > 0
                block[t, k] = value if usable else np.float32(np.inf)
                count[k] += np.int32(usable)
        sort_columns(block, pairs)
        for k in range(width):
            n = count[k]
            if n < _FEWEST:
                middle[k0 + k] = 0
                weight[k0 + k] = 0
                continue
            middle[k0 + k] = median_of_sorted(block, count, k)
            each = total / np.float32(n_pixel)  # the mean of 1 / sigma
            weight[k0 + k] = np.float32(2.0 / math.pi) * np.float32(n) * each * each


@njit(cache=True, nogil=True)
def _combine(middle, weight, k, n_row):
    """Weighted mean of the rows of a cell without outliers, and its weight."""
    good = np.empty(CELL, dtype=np.float32)
    n = 0
    for row in range(n_row):
        if weight[row, k] > 0:
            good[n] = middle[row, k]
            n += 1
    if n == 0:
        return np.float32(0), np.float32(0)
    kept = good[:n]
    kept.sort()
    median = np.float32(0.5) * (kept[(n - 1) >> 1] + kept[n >> 1])
    total, weights = np.float32(0), np.float32(0)
    for row in range(n_row):
        w = weight[row, k]
        if w > 0 and abs(middle[row, k] - median) * np.sqrt(w) <= _CLIP:
            total += w * middle[row, k]
            weights += w
    if weights == 0:
        return median, np.float32(0)
    return total / weights, weights


@njit(cache=True, nogil=True)
def _coarse_maps(sci, group_dq, pixel_dq, read_noise, gain, spread, pairs, cell_pairs, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_diffs = n_integration * (n_group - 1)
    tile = np.full((n_group, TILE), np.nan, dtype=np.float32)
    diffs = np.full((n_diffs, TILE), np.nan, dtype=np.float32)
    ordered = np.empty((n_diffs, TILE), dtype=np.float32)
    count = np.zeros(TILE, dtype=np.int32)
    m, inverse = np.zeros(TILE, dtype=np.float32), np.zeros(TILE, dtype=np.float32)
    n_cell = TILE // CELL
    middle = np.zeros((n_cell, CELL, n_diffs), dtype=np.float32)
    weight = np.zeros((n_cell, CELL, n_diffs), dtype=np.float32)
    block = np.empty((CELL, TILE), dtype=np.float32)
    for d in range(n_dither):
        for y0 in range(0, n_y, CELL):
            n_row = min(CELL, n_y - y0)
            for x0 in range(0, n_x, TILE):
                width = min(TILE, n_x - x0)
                for row in range(n_row):
                    y = y0 + row
                    gather(sci, group_dq, gain, d, y, x0, width, True, tile, diffs, ordered, count)
                    sort_columns(ordered, pairs)
                    inverse[:] = 0
                    for t in range(width):
                        m[t] = median_of_sorted(ordered, count, t)
                        r = read_noise[y, x0 + t] * gain[y, x0 + t]
                        variance = abs(m[t]) + r * r + (spread * m[t]) ** 2
                        known = gain[y, x0 + t] > 0 and r * r > 0 and pixel_dq[d, y, x0 + t] & _REFERENCE_PIXEL == 0
                        if known and variance <= _BRIGHT * r * r:
                            inverse[t] = np.float32(1) / np.sqrt(variance)
                    for c in range(n_cell):
                        _row_medians(
                            diffs, m, inverse, n_diffs, c, cell_pairs, block, count, middle[c, row], weight[c, row]
                        )
                for c in range(min(n_cell, (width + CELL - 1) // CELL)):
                    for i in range(n_integration):
                        for g in range(1, n_group):
                            k = i * (n_group - 1) + g - 1
                            value, its_weight = _combine(middle[c], weight[c], k, n_row)
                            out[d, 0, i, g, y0 // CELL, x0 // CELL + c] = value
                            out[d, 1, i, g, y0 // CELL, x0 // CELL + c] = its_weight


@njit(cache=True, nogil=True)
def _weights_between(place, n, at, weights):
    """Fill the four weights of cubic interpolation (Keys 1981) at ``place`` and the cells they belong to."""
    low = math.floor(place)
    s = place - low
    weights[0] = ((-0.5 * s + 1.0) * s - 0.5) * s
    weights[1] = (1.5 * s - 2.5) * s * s + 1.0
    weights[2] = ((-1.5 * s + 2.0) * s + 0.5) * s
    weights[3] = (0.5 * s - 0.5) * s * s
    for k in range(4):
        at[k] = min(max(low - 1 + k, 0), n - 1)


@njit(cache=True, nogil=True)
def _between(n_pixel, first, n_cell):
    """Return cells (n_pixel, 4) and weights (n_pixel, 4) for pixels from ``first`` on."""
    at = np.empty((n_pixel, 4), dtype=np.int64)
    weights = np.empty((n_pixel, 4), dtype=np.float32)
    for k in range(n_pixel):
        _weights_between((first + k + 0.5) / CELL - 0.5, n_cell, at[k], weights[k])
    return at, weights


@njit(cache=True, nogil=True)
def _row_of_model(model, at_y, weights_y, at_x, weights_x, cells, values):
    """Fill values (x) with the model of one row of pixels; return the range of x where it is not zero."""
    n_cell = model.shape[1]
    first, last = n_cell, -1
    for c in range(n_cell):
        cells[c] = 0
        for k in range(4):
            cells[c] += weights_y[k] * model[at_y[k], c]
        if cells[c] != 0:
            first, last = min(first, c), c
    if last < 0:
        return 0, 0
    x0, x1 = max(0, CELL * (first - 2)), min(values.size, CELL * (last + 3))
    for x in range(x0, x1):
        total = np.float32(0)
        for k in range(4):
            total += weights_x[x, k] * cells[at_x[x, k]]
        values[x] = total
    return x0, x1


@njit(cache=True, nogil=True)
def _subtract(sci, pixel_dq, gain, model, first_row, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    at_y, weights_y = _between(n_y, first_row, model.shape[3])
    at_x, weights_x = _between(n_x, 0, model.shape[4])
    cells, values = np.empty(model.shape[4], dtype=np.float32), np.zeros(n_x, dtype=np.float32)
    for d in range(n_dither):
        for i in range(n_integration):
            for g in range(n_group):
                for y in range(n_y):
                    x0, x1 = _row_of_model(
                        model[d, i, g], at_y[y], weights_y[y], at_x, weights_x, cells, values
                    )  # fmt: skip
                    out[d, i, g, y] = sci[d, i, g, y]
                    for x in range(x0, x1):
                        if gain[y, x] > 0 and pixel_dq[d, y, x] & _REFERENCE_PIXEL == 0:
                            out[d, i, g, y, x] -= values[x] / gain[y, x]


@njit(cache=True, nogil=True)
def _flag(group_dq, pixel_dq, read_noise, gain, model, first_row, limit, out):
    n_dither, n_integration, n_group, n_y, n_x = group_dq.shape
    at_y, weights_y = _between(n_y, first_row, model.shape[3])
    at_x, weights_x = _between(n_x, 0, model.shape[4])
    cells, values = np.empty(model.shape[4], dtype=np.float32), np.zeros(n_x, dtype=np.float32)
    for d in range(n_dither):
        for i in range(n_integration):
            out[d, i, 0] = group_dq[d, i, 0]
            for g in range(1, n_group):
                step = model[d, i, g] - model[d, i, g - 1]
                for y in range(n_y):
                    x0, x1 = _row_of_model(step, at_y[y], weights_y[y], at_x, weights_x, cells, values)
                    out[d, i, g, y] = group_dq[d, i, g, y]
                    for x in range(x0, x1):
                        raised = values[x] > limit * read_noise[y, x] * gain[y, x]
                        lit = pixel_dq[d, y, x] & _REFERENCE_PIXEL == 0
                        if raised and lit and group_dq[d, i, g, y, x] & np.uint8(3) == 0:
                            out[d, i, g, y, x] |= np.uint8(4)


def coarse_maps(sci, group_dq, pixel_dq, read_noise, gain, *, spread=0.03):
    """Return (dither, part, integration, group, cell y, cell x): mean of d - m [electron] and its inverse variance.

    Pixels weigh by ``|m| + r^2 + (spread m)^2``, bright ones and reference pixels not at all. A row of a cell counts
    by its median, so that single hits do not.
    """
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_cells = (n_y + CELL - 1) // CELL, (n_x + CELL - 1) // CELL
    out = np.zeros((n_dither, 2, n_integration, n_group, *n_cells), dtype=np.float32)
    pairs, cell_pairs = sorting_pairs(n_integration * (n_group - 1)), sorting_pairs(CELL)
    group_dq = np.broadcast_to(group_dq, sci.shape)
    _coarse_maps(sci, group_dq, pixel_dq, read_noise, gain, np.float32(spread), pairs, cell_pairs, out)
    return out


def subtract_model(sci, pixel_dq, gain, model, row):
    """Return ``sci`` [DN] without the model [electron] (dither, integration, group, cell y, cell x, 1, 1).

    The model is the charge collected up to each group; ``row`` (y, 1) holds the row numbers of the block.
    """
    model = np.ascontiguousarray(model[..., 0, 0])
    if not model.any():
        return sci
    out = np.empty(sci.shape, dtype=np.float32)
    _subtract(sci, pixel_dq, gain, model, int(row[0, 0]), out)
    return out


def flag_model(group_dq, pixel_dq, read_noise, gain, model, row, limit):
    """Return group flags with JUMP_DET where the model grows by more than ``limit`` times the read noise."""
    model = np.ascontiguousarray(model[..., 0, 0])
    if not model.any():
        return group_dq
    out = np.empty(group_dq.shape, dtype=np.uint8)
    _flag(group_dq, pixel_dq, read_noise, gain, model, int(row[0, 0]), np.float32(limit), out)
    return out
