"""Kernels that reduce ramps to coarse maps of charge beyond the slope, and bring a coarse model back to the pixels.

Symbols: d = difference of neighbouring groups [electron], m = its median over all integrations and groups of a
pixel, r = CDS read noise [electron]. A cell is a square of CELL pixels. Bits: DO_NOT_USE 1, SATURATED 2, JUMP_DET 4.
"""

import math

import numpy as np

from mrsxr._median_kernels import TILE, empty_tiles, median_of_sorted, sort_columns, sorting_pairs, take_row
from mrsxr.compiled import Array, njit, read_only

from ._jump_kernels import gather

CELL = 8  # pixels
CELLS = TILE // CELL
_CLIP = np.float32(4.0)  # sigma, rows of a cell against their median
_BRIGHT = np.float32(8.0)  # pixels of more than so many times the read variance are left out
_FEWEST = 3  # pixels of a row of a cell
_REFERENCE_PIXEL = np.uint32(2**31)


@njit(cache=True, nogil=True)
def _row_weights(inverse, each):
    """Fill each (differences x cells of a block) with the inverse variance of the median of one pixel of its cell.

    It comes from the mean of 1 / sigma of the row.
    """
    for c in range(CELLS):
        total, n_pixel = np.float32(0), 0
        for t in range(CELL * c, CELL * c + CELL):
            total += inverse[t]
            n_pixel += int(inverse[t] > 0)
        mean = total / np.float32(max(n_pixel, 1))
        for q in range(c, TILE, CELLS):
            each[q] = np.float32(2.0 / math.pi) * mean * mean


@njit(cache=True, nogil=True)
def _row_medians(diffs, m, inverse, each, pairs, block, count, line, middle, weight):
    """Median of d - m of the pixels of one row of each cell and its inverse variance (difference x cell).

    A block (CELL, TILE) holds the pixels of a row of a cell in its columns: eight differences of four cells at a time.
    """
    for k0 in range(0, diffs.shape[0], CELL):
        n = min(CELL, diffs.shape[0] - k0)
        for k in range(n):
            one = diffs[k0 + k]
            for t in range(TILE):
                value = one[t] - m[t]
                line[t] = value if (inverse[t] > 0) & (value == value) else np.float32(np.inf)
            for t in range(CELL):
                for c in range(CELLS):
                    block[t, CELLS * k + c] = line[CELL * c + t]
        sort_columns(block, pairs)
        _middle(block, count, line)
        for q in range(TILE):
            enough = count[q] >= _FEWEST
            middle[CELLS * k0 + q] = line[q] if enough else np.float32(0)
            weight[CELLS * k0 + q] = count[q] * each[q] if enough else np.float32(0)


@njit(cache=True, nogil=True)
def _middle(block, count, median):
    """Fill median (TILE) of sorted columns (CELL, TILE), and the number of values, the others of which are +inf.

    It is 0 where there is none. Choices in place of places, so that columns are worked on side by side.
    """
    for q in range(TILE):
        n, one = np.float32(0), np.float32(1)
        for t in range(CELL):
            n += one if block[t, q] < np.float32(np.inf) else np.float32(0)
        low = block[2, q] if n < 7 else block[3, q]
        low = low if n > 4 else block[1, q]
        low = low if n > 2 else block[0, q]
        high = block[3, q] if n < 8 else block[4, q]
        high = high if n > 5 else block[2, q]
        high = high if n > 3 else block[1, q]
        high = high if n > 1 else block[0, q]
        median[q] = np.float32(0.5) * (low + high) if n > 0 else np.float32(0)
        count[q] = n


@njit(cache=True, nogil=True, error_model="numpy")
def _combine(middle, weight, pairs, block, count, line, total, weights):
    """Weighted mean of the rows (row, TILE) of cells without outliers into total (TILE), and its weight."""
    for row in range(CELL):
        for q in range(TILE):
            block[row, q] = middle[row, q] if weight[row, q] > 0 else np.float32(np.inf)
    sort_columns(block, pairs)
    _middle(block, count, line)
    total[:], weights[:] = 0, 0
    for row in range(CELL):
        its_middle, its_weight = middle[row], weight[row]
        for q in range(TILE):
            w = its_weight[q]
            w = w if abs(its_middle[q] - line[q]) * np.sqrt(w) <= _CLIP else np.float32(0)
            total[q] += w * its_middle[q]
            weights[q] += w
    for q in range(TILE):
        total[q] = total[q] / weights[q] if weights[q] > 0 else line[q]


@njit(cache=True, nogil=True)
def _coarse_maps(sci, group_dq, pixel_dq, read_noise, gain, spread, pairs, cell_pairs, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_diffs = n_integration * (n_group - 1)
    tiles, tiles_dq = empty_tiles(n_x, n_integration, n_group)
    n_tile = tiles.shape[0]
    diffs = np.full((n_diffs, TILE), np.nan, dtype=np.float32)
    ordered = np.empty((n_diffs, TILE), dtype=np.float32)
    count = np.zeros(TILE, dtype=np.int32)
    m, inverse = np.zeros(TILE, dtype=np.float32), np.zeros(TILE, dtype=np.float32)
    line, value, its_weight = np.zeros_like(m), np.zeros_like(m), np.zeros_like(m)
    each, number = np.zeros(TILE, dtype=np.float32), np.zeros(TILE, dtype=np.float32)
    n_column = (n_diffs + CELL - 1) // CELL * TILE  # of differences x cells, in whole blocks
    middle = np.zeros((n_tile, CELL, n_column), dtype=np.float32)
    weight = np.zeros_like(middle)
    block = np.full((CELL, TILE), np.inf, dtype=np.float32)
    for d in range(n_dither):
        for y0 in range(0, n_y, CELL):
            weight[:] = 0
            for y in range(y0, min(y0 + CELL, n_y)):
                take_row(sci, d, y, tiles)
                take_row(group_dq, d, y, tiles_dq)
                for n in range(n_tile):
                    x0, width = n * TILE, min(TILE, n_x - n * TILE)
                    gather(tiles[n], tiles_dq[n], gain[y, x0 : x0 + width], True, diffs, ordered, count)
                    sort_columns(ordered, pairs)
                    inverse[:] = 0
                    for t in range(width):
                        m[t] = median_of_sorted(ordered, count, t)
                        r = read_noise[y, x0 + t] * gain[y, x0 + t]
                        variance = abs(m[t]) + r * r + (spread * m[t]) ** 2
                        known = gain[y, x0 + t] > 0 and r * r > 0 and pixel_dq[d, y, x0 + t] & _REFERENCE_PIXEL == 0
                        if known and variance <= _BRIGHT * r * r:
                            inverse[t] = np.float32(1) / np.sqrt(variance)
                    _row_weights(inverse, each)
                    _row_medians(
                        diffs, m, inverse, each, cell_pairs, block, number, line, middle[n, y - y0], weight[n, y - y0]
                    )  # fmt: skip
            for n in range(n_tile):
                n_cell = (min(TILE, n_x - n * TILE) + CELL - 1) // CELL
                for q0 in range(0, n_column, TILE):
                    columns = slice(q0, q0 + TILE)
                    _combine(
                        middle[n, :, columns], weight[n, :, columns], cell_pairs, block, number, line, value, its_weight
                    )  # fmt: skip
                    for q in range(min(TILE, CELLS * n_diffs - q0)):
                        k, c = (q0 + q) // CELLS, q % CELLS
                        if c < n_cell:
                            i, g = k // (n_group - 1), k % (n_group - 1) + 1
                            out[d, 0, i, g, y0 // CELL, n * CELLS + c] = value[q]
                            out[d, 1, i, g, y0 // CELL, n * CELLS + c] = its_weight[q]


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


def coarse_maps(
    sci: Array, group_dq: Array, pixel_dq: Array, read_noise: Array, gain: Array, *, spread: float = 0.03
) -> Array:
    """Return (dither, part, integration, group, cell y, cell x): mean of d - m [electron] and its inverse variance.

    Pixels weigh by ``|m| + r^2 + (spread m)^2``, bright ones and reference pixels not at all. A row of a cell counts
    by its median, so that single hits do not.
    """
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_cells = (n_y + CELL - 1) // CELL, (n_x + CELL - 1) // CELL
    out = np.zeros((n_dither, 2, n_integration, n_group, *n_cells), dtype=np.float32)
    pairs, cell_pairs = sorting_pairs(n_integration * (n_group - 1)), sorting_pairs(CELL)
    inputs = read_only(sci, np.broadcast_to(group_dq, sci.shape), pixel_dq, read_noise, gain)
    _coarse_maps(*inputs, np.float32(spread), pairs, cell_pairs, out)
    return out


def subtract_model(sci: Array, pixel_dq: Array, gain: Array, model: Array, row: Array) -> Array:
    """Return ``sci`` [DN] without the model [electron] (dither, integration, group, cell y, cell x, 1, 1).

    The model is the charge collected up to each group; ``row`` (y, 1) holds the row numbers of the block.
    """
    model = np.ascontiguousarray(model[..., 0, 0])
    if not model.any():
        return sci
    out = np.empty(sci.shape, dtype=np.float32)
    _subtract(*read_only(sci, pixel_dq, gain, model), int(row[0, 0]), out)
    return out


def flag_model(
    group_dq: Array, pixel_dq: Array, read_noise: Array, gain: Array, model: Array, row: Array, limit: float
) -> Array:
    """Return group flags with JUMP_DET where the model grows by more than ``limit`` times the read noise."""
    model = np.ascontiguousarray(model[..., 0, 0])
    if not model.any():
        return group_dq
    out = np.empty(group_dq.shape, dtype=np.uint8)
    _flag(*read_only(group_dq, pixel_dq, read_noise, gain, model), int(row[0, 0]), np.float32(limit), out)
    return out
