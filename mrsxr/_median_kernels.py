"""Medians: of one column by selection, of many short ones at once by a sorting network.

Batcher's odd-even merge sort (Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M): a fixed list of
compare-exchange pairs sorts any column; every pair is applied to TILE pixels side by side, without a branch, so that
the compiler can work on all of them.
Columns are padded with +inf for values that do not count.
"""

import numpy as np

from mrsxr.compiled import njit

TILE = 32  # pixels of a row whose ramps are worked on together


_PAIRS: dict[int, np.ndarray] = {}


def sorting_pairs(n):
    """Return the compare-exchange pairs (n_pairs, 2) that sort n values: the same array each time, to read only."""
    if n not in _PAIRS:
        _PAIRS[n] = _make_pairs(n)
    return _PAIRS[n]


def _make_pairs(n):
    pairs = []
    top = 1
    while top < n:
        top *= 2
    p = top // 2
    while p > 0:
        q, r, d = top // 2, 0, p
        while d > 0:
            pairs += [(i, i + d) for i in range(top - d) if (i & p) == r and i + d < n]
            d, q, r = q - p, q // 2, p
        p //= 2
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


@njit(cache=True, nogil=True)
def empty_tiles(n_x, n_integration, n_group):
    """Return tiles of a row of samples, NaN, and of their flags, DO_NOT_USE, as beyond the row."""
    shape = ((n_x + TILE - 1) // TILE, n_integration, n_group, TILE)
    return np.full(shape, np.nan, dtype=np.float32), np.ones(shape, dtype=np.uint8)


@njit(cache=True, nogil=True)
def take_row(ramps, d, y, tiles):
    """Fill tiles (tile, integration, group, TILE) with row y of ramps (dither, integration, group, y, x).

    Row by row: a tile at a time each sample would be on another page of memory. What is beyond the row stays.
    """
    n_integration, n_group, n_x = ramps.shape[1], ramps.shape[2], ramps.shape[4]
    whole = n_x // TILE
    for i in range(n_integration):
        for g in range(n_group):
            row = ramps[d, i, g, y]
            for n in range(whole):
                part = row[n * TILE : (n + 1) * TILE]
                for t in range(TILE):
                    tiles[n, i, g, t] = part[t]
            rest = row[whole * TILE :]
            for t in range(n_x - whole * TILE):
                tiles[whole, i, g, t] = rest[t]


@njit(cache=True, nogil=True)
def put_row(tiles, d, y, ramps):
    """Write tiles into row y of ramps, the way back of :func:`take_row`."""
    n_integration, n_group, n_x = ramps.shape[1], ramps.shape[2], ramps.shape[4]
    whole = n_x // TILE
    for i in range(n_integration):
        for g in range(n_group):
            row = ramps[d, i, g, y]
            for n in range(whole):
                part = row[n * TILE : (n + 1) * TILE]
                for t in range(TILE):
                    part[t] = tiles[n, i, g, t]
            rest = row[whole * TILE :]
            for t in range(n_x - whole * TILE):
                rest[t] = tiles[whole, i, g, t]


@njit(cache=True, nogil=True)
def sort_columns(values, pairs):
    """Sort each column of values (n, TILE) in place, ascending."""
    for k in range(pairs.shape[0]):
        low = values[pairs[k, 0]]
        high = values[pairs[k, 1]]
        for t in range(TILE):
            a = low[t]
            b = high[t]
            low[t] = a if a < b else b
            high[t] = b if a < b else a


@njit(cache=True, nogil=True)
def median_of_sorted(values, count, t):
    """Median of the first count values of sorted column t; NaN for none."""
    n = count[t]
    if n == 0:
        return np.float32(np.nan)
    return np.float32(0.5) * (values[(n - 1) >> 1, t] + values[n >> 1, t])


@njit(cache=True, nogil=True)
def select(values, n, k):
    """Quickselect: the k-th smallest (0-based) of values[:n]; the array is partly ordered on the way."""
    low, high = 0, n - 1
    while low < high:
        pivot = values[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while pivot < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@njit(cache=True, nogil=True)
def median_of(values, n):
    """Median of values[:n], the mean of the middle two where n is even; NaN for none. The array is reordered."""
    if n == 0:
        return values.dtype.type(np.nan)
    upper = select(values, n, n >> 1)
    if n & 1:
        return upper
    lower = values[0]
    for k in range(1, n >> 1):
        if values[k] > lower:
            lower = values[k]
    return values.dtype.type(0.5) * (lower + upper)
