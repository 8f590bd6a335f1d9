"""Kernels of the emicorr step that pass over the ramps: what the fits need is reduced here, the wave subtracted.

Four neighbouring columns (a quad) are read at the same time, one by each amplifier. Times are clocks of 10 us:
sample (i, g) of column x in row y is read at ``starts[i, g] + rows[y] + quads[x // 4]``; ``starts`` (integration,
group), ``rows`` (y), ``quads`` (x // 4) are float64. Ramps are (dither, integration, group, y, x) [DN].
"""

import math

import numpy as np

from mrsxr._median_kernels import TILE, median_of, median_of_sorted, sort_columns, sorting_pairs
from mrsxr.compiled import Array, njit, read_only

_DO_NOT_USE = np.uint32(1)
_OUTLIER = np.float32(25.0)  # square of the sigmas beyond which a difference of two groups spoils its ramp
_JUMPED = 16.0  # times the variance of the rest: a row whose ramps all jump, lost samples for example
_EVERY = 3  # ramps of a row serve for its median: enough of them, of all amplifiers
_RUN = 64  # quads added up in float32: sums of 256 whole numbers below 2^16 are exact


@njit(cache=True, nogil=True)
def _scatter(sci, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    total = np.empty(n_x, dtype=np.float32)
    squares = np.empty(n_x, dtype=np.float32)
    share = np.float32(1.0 / n_group)
    for d in range(n_dither):
        for i in range(n_integration):
            for y in range(n_y):
                first = sci[d, i, 0, y]
                total[:] = np.float32(0)
                squares[:] = np.float32(0)
                for g in range(1, n_group):
                    row = sci[d, i, g, y]
                    for x in range(n_x):
                        value = row[x] - first[x]
                        total[x] += value
                        squares[x] += value * value
                for x in range(n_x):
                    variance = (squares[x] - total[x] * total[x] * share) * share
                    out[d, i, y, x] = np.float32(0) if variance < 0 else np.sqrt(variance)


def ramp_scatter(sci: Array) -> Array:
    """Return the standard deviation [DN] of each ramp over its groups (dither, integration, y, x)."""
    out = np.empty((*sci.shape[:2], *sci.shape[3:]), dtype=np.float32)
    _scatter(sci, out)
    return out


def twice_median(scatter: Array) -> Array:
    """Return twice the median of (dither, integration, y, x) for each dither, NaN where nothing is finite."""
    out = np.full(len(scatter), np.nan)
    for d, values in enumerate(scatter):
        finite = values[np.isfinite(values)]
        if finite.size:
            out[d] = np.float32(2) * np.median(finite)
    return out


@njit(cache=True, nogil=True, fastmath={"reassoc", "nsz"})
def _phase_sums(sci, scatter, pixel_dq, limit, rows, quads, period, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_bin = out.shape[2]
    n_quad = n_x // 4
    bins = np.empty(n_quad, dtype=np.int64)
    edges = np.empty(n_quad + 1, dtype=np.int64)  # of runs of quads in the same bin
    good = np.empty(n_x, dtype=np.bool_)
    rise = np.empty(n_x, dtype=np.float32)
    for d in range(n_dither):
        for y in range(n_y):
            for k in range(n_quad):
                phase = (rows[y] + quads[k]) / period
                bins[k] = min(n_bin - 1, int((phase - math.floor(phase)) * n_bin))
            n_run = 0
            for k in range(n_quad):
                if k == 0 or bins[k] != bins[k - 1] or k - edges[n_run - 1] == _RUN:
                    edges[n_run] = k
                    n_run += 1
            edges[n_run] = n_quad
            for i in range(n_integration):
                for x in range(n_x):
                    good[x] = scatter[d, i, y, x] < limit[d] and pixel_dq[d, y, x] == 0
                good[4:12] = False  # the second and third quad lie on bad reference columns
                start = sci[d, i, 0, y]
                for g in range(n_group):
                    row = sci[d, i, g, y]
                    for x in range(n_x):  # nothing is left of the first group: its place serves to count the pixels
                        value = row[x] - start[x] if g > 0 else np.float32(1)
                        rise[x] = value if good[x] else np.float32(0)
                    for r in range(n_run):
                        total = np.float32(0)
                        for x in range(4 * edges[r], 4 * edges[r + 1]):
                            total += rise[x]
                        out[d, i, bins[edges[r]], g if g > 0 else n_group] += total


def phase_sums(
    sci: Array, scatter: Array, pixel_dq: Array, limit: Array, rows: Array, quads: Array, *, period: float,
    n_bins: int,
) -> Array:  # fmt: skip
    """Return sums of the samples of good pixels [DN], less their first sample, by phase of the pixel in that.

    The result is (dither, 1, 1, integration, bin, group + 1); its last column counts the pixels. Good are those
    whose scatter is below ``limit`` (dither) and that have no flag.
    """
    out = np.zeros((len(sci), sci.shape[1], n_bins, sci.shape[2] + 1))
    _phase_sums(sci, scatter, pixel_dq, limit, rows, quads, period, out)
    return out[:, None, None]


@njit(cache=True, nogil=True, forceinline=True)
def _scatter_of_steps(ramps, squares, largest):
    """Fill the sum and the largest (x) of the squares of differences of ramps (group, x) around their mean."""
    n_group, n_x = ramps.shape
    share = np.float32(1.0 / (n_group - 1))
    squares[:] = np.float32(0)
    largest[:] = np.float32(0)
    for g in range(1, n_group):
        for x in range(n_x):
            away = ramps[g, x] - ramps[g - 1, x] - (ramps[n_group - 1, x] - ramps[0, x]) * share
            square = away * away
            squares[x] += square
            largest[x] = square if square > largest[x] else largest[x]


@njit(cache=True, nogil=True)
def _judge(ramps, usable, squares, largest, work, good):
    """Fill ``good`` (1 or 0) for the ramps (group, x) of a row and return their weight, 1 / variance of a difference.

    Reference is the median over the row of the squares of differences around their mean: a ramp with an outlying
    difference (cosmic ray, saturation), much noise (bright) or none at all (dead, saturated throughout) is bad.
    """
    n_group, n_x = ramps.shape
    n_free = n_group - 2
    _scatter_of_steps(ramps, squares, largest)
    n = 0
    for x in range(0, n_x, _EVERY):
        if usable[x] and squares[x] > 0 and squares[x] < np.inf:
            work[n] = squares[x]
            n += 1
    if n == 0:
        good[:] = np.float32(0)
        return 0.0
    middle = median_of(work, n)
    variance = middle / n_free
    limit = middle * np.float32(1.0 + 5.0 * math.sqrt(2.0 / n_free))
    for x in range(n_x):
        fine = usable[x] and squares[x] > 0 and squares[x] < limit and largest[x] < _OUTLIER * variance
        good[x] = np.float32(1) if fine else np.float32(0)
    return 1.0 / variance


@njit(cache=True, nogil=True, forceinline=True, fastmath={"reassoc", "nsz"})
def _add_cells(ramps, good, edges, totals, counts):
    """Fill the sums (group, amplifier, cell) of the good ramps (group, x) of a row and how many there are."""
    n_group, n_amplifier, n_cell = totals.shape
    for c in range(n_cell):  # parts of rows, whose places begin at 0, are put side by side by the compiler
        low, high = 4 * edges[c], 4 * edges[c + 1]
        fine = good[low:high]
        for a in range(n_amplifier):
            counts[a, c] = np.float32(0)
            for x in range(a, fine.size, 1 if n_amplifier == 1 else 4):
                counts[a, c] += fine[x]
            totals[0, a, c] = np.float32(0)
        for g in range(1, n_group):
            row = ramps[g, low:high]
            for a in range(n_amplifier):
                total = np.float32(0)
                if n_amplifier == 1:
                    for x in range(row.size):
                        total += row[x] if fine[x] > 0 else np.float32(0)
                else:
                    for x in range(a, row.size, 4):
                        total += row[x] if fine[x] > 0 else np.float32(0)
                totals[g, a, c] = total


@njit(cache=True, nogil=True, forceinline=True)
def _less_mean(ramps, edges, totals, counts, out):
    """Subtract the mean of their cell from the ramps of a row."""
    n_group, n_amplifier, n_cell = totals.shape
    for c in range(n_cell):
        low, high = 4 * edges[c], 4 * edges[c + 1]
        for g in range(n_group):
            row, left = ramps[g, low:high], out[g, low:high]
            for a in range(n_amplifier):
                mean = totals[g, a, c] / max(counts[a, c], np.float32(1))
                if n_amplifier == 1:
                    for x in range(row.size):
                        left[x] = row[x] - mean
                else:
                    for x in range(a, row.size, 4):
                        left[x] = row[x] - mean


@njit(cache=True, nogil=True)
def _cell_sums(sci, pixel_dq, edges, low, high, sums):
    n_dither, n_integration, _, n_y, n_x = sci.shape
    n_amplifier, n_cell = sums.shape[1], sums.shape[5]
    ramps = np.empty((high - low, n_x), dtype=np.float32)
    rest = np.empty((high - low, n_x), dtype=np.float32)
    totals = np.empty((high - low, n_amplifier, n_cell), dtype=np.float32)
    counts = np.empty((n_amplifier, n_cell), dtype=np.float32)
    squares, largest = np.empty(n_x, dtype=np.float32), np.empty(n_x, dtype=np.float32)
    work, good = np.empty(n_x, dtype=np.float32), np.empty(n_x, dtype=np.float32)
    usable = np.empty(n_x, dtype=np.bool_)
    for d in range(n_dither):
        for y in range(n_y):
            for x in range(n_x):
                usable[x] = (pixel_dq[d, y, x] & _DO_NOT_USE) == 0
            for i in range(n_integration):
                first = sci[d, i, low, y]
                for g in range(high - low):
                    row, ramp = sci[d, i, low + g, y], ramps[g]
                    for x in range(n_x):
                        ramp[x] = row[x] - first[x]
                before = _judge(ramps, usable, squares, largest, work, good)
                _add_cells(ramps, good, edges, totals, counts)
                # once more without what all ramps of a cell have in common, which holds the wave: a test that sees
                # the wave prefers ramps whose noise is opposed to it, and its amplitude comes out too low. A row
                # that jumps as a whole keeps the low weight that it had before
                _less_mean(ramps, edges, totals, counts, rest)
                after = _judge(rest, usable, squares, largest, work, good)
                weight = np.float32(after if before > after / _JUMPED else before)
                _add_cells(ramps, good, edges, totals, counts)
                for a in range(n_amplifier):
                    for c in range(n_cell):
                        sums[d, a, i, high - low, y, c] = counts[a, c] * weight
                        for g in range(high - low):
                            sums[d, a, i, g, y, c] = totals[g, a, c] * weight


def cell_sums(sci: Array, pixel_dq: Array, *, edges: Array, low: int, high: int, n_amplifiers: int) -> Array:
    """Return weighted sums of the good ramps of each row and cell (quads edges[c] to edges[c + 1]).

    The result is (dither, amplifier, integration, group + 1, y, cell): groups ``low`` to ``high - 1`` less the first
    of them [1/DN], and last the sum of weights [1/DN^2].
    """
    n_dither, n_integration, _, n_y, _ = sci.shape
    edges = np.asarray(edges, dtype=np.int64)
    shape = (n_dither, n_amplifiers, n_integration, high - low + 1, n_y, len(edges) - 1)
    out = np.zeros(shape, dtype=np.float32)
    _cell_sums(*read_only(sci, pixel_dq), edges, low, high, out)
    return out


@njit(cache=True, nogil=True)
def _quad_residuals(sci, pairs, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n = n_group - 2  # the slope and the level come from all groups but the first and the last
    tile = np.zeros((n_group, TILE), dtype=np.float32)
    ordered = np.empty((n, TILE), dtype=np.float32)
    count = np.empty(TILE, dtype=np.int32)
    t_mean = (n - 1) / 2.0
    norm = n * (n * n - 1.0) / 12.0
    for d in range(n_dither):
        for i in range(n_integration):
            for y in range(n_y):
                for x0 in range(0, n_x, TILE):
                    width = min(TILE, n_x - x0)
                    _straighten(sci[d, i], y, x0, width, t_mean, norm, tile)
                    count[:] = 0
                    for g in range(n):
                        for t in range(TILE):
                            value = tile[g + 1, t]
                            usable = not np.isnan(value)
                            ordered[g, t] = value if usable else np.float32(np.inf)
                            count[t] += np.int32(usable)
                    sort_columns(ordered, pairs)
                    for k in range(width // 4):
                        for g in range(n_group):
                            total = np.float32(0)
                            for t in range(4 * k, 4 * k + 4):
                                level = ordered[0, t] if n <= 2 else median_of_sorted(ordered, count, t)
                                total += tile[g, t] - level
                            out[d, i, g, y, x0 // 4 + k] = total * np.float32(0.25)
                for g in range(n_group):
                    quad = out[d, i, g, y]
                    if quad.size > 3:  # the second and third quad lie on bad reference columns
                        between = (quad[0] + quad[3]) * np.float32(0.5)
                        quad[1] = between
                        quad[2] = between


@njit(cache=True, nogil=True)
def _straighten(ramp, y, x0, width, t_mean, norm, tile):
    """Fill ``tile`` (group, TILE) with the ramps less their slope times the group number."""
    n_group = ramp.shape[0]
    for t in range(width):
        slope = 0.0
        for g in range(1, n_group - 1):
            slope += (g - 1 - t_mean) * ramp[g, y, x0 + t]
        slope /= norm
        for g in range(n_group):
            tile[g, t] = np.float32(ramp[g, y, x0 + t] - slope * g)


def quad_residuals(sci: Array) -> Array:
    """Return the ramps less slope and level, mean of the four amplifiers (dither, integration, group, y, quad) [DN]."""
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    out = np.empty((n_dither, n_integration, n_group, n_y, n_x // 4), dtype=np.float32)
    _quad_residuals(sci, sorting_pairs(n_group - 2), out)
    return out


@njit(cache=True, nogil=True)
def _subtract_wave(sci, numbers, phases, pieces, starts, rows, quads, out):
    n_integration, n_group, n_y, n_x = sci.shape
    period, scale, offset = numbers
    n_amplifier, n_table, n_piece = pieces.shape[:3]
    wave = np.empty((4, n_x // 4), dtype=np.float32)
    places = np.empty(n_x // 4)
    for i in range(n_integration):
        for g in range(n_group):
            for y in range(n_y):
                for a in range(n_amplifier):
                    table = pieces[a, i if n_table > 1 else 0]
                    for k in range(n_x // 4):
                        phase = (starts[i, g] + rows[y] + quads[k]) / period + phases[i]
                        places[k] = (phase - math.floor(phase)) * scale + offset
                    for k in range(n_x // 4):
                        n = min(n_piece - 1, int(places[k]))
                        f = places[k] - n
                        wave[a, k] = table[n, 0] + f * (table[n, 1] + f * (table[n, 2] + f * table[n, 3]))
                row, target = sci[i, g, y], out[i, g, y]
                for x in range(n_x):
                    target[x] = row[x] - wave[x & 3 if n_amplifier > 1 else 0, x >> 2]


def subtract_waves(
    sci: Array, waves: Array, rows: Array, quads: Array, *, starts: Array, n_amplifiers: int, n_tables: int
) -> Array:
    """Return the ramps less the fitted waves (dither, wave, number), packed by :func:`pack_wave`."""
    out = np.empty(sci.shape, dtype=np.float32)
    n_integration = sci.shape[1]
    starts, rows, quads = (np.asarray(clocks, dtype=np.float64) for clocks in (starts, rows, quads))
    for d in range(len(sci)):
        source = np.ascontiguousarray(sci[d])
        for wave in waves[d]:
            numbers, phases = wave[:3], wave[3 : 3 + n_integration]
            pieces = np.ascontiguousarray(wave[3 + n_integration :]).reshape(n_amplifiers, n_tables, -1, 4)
            _subtract_wave(source, numbers, phases, pieces, starts, rows, quads, out[d])
            source = out[d]
    return out


def pack_wave(period, scale, offset, phases, pieces):
    """Return the numbers of a wave as one vector.

    Parameters
    ----------
    period : float
        In clocks.
    scale, offset : float
        The phase in [0, 1) times scale plus offset is the place in the table of pieces.
    phases : ndarray (integration,)
        Phase at clock 0, in cycles.
    pieces : ndarray (amplifier, 1 or integration, piece, 4)
        Cubic polynomials [DN] of the fraction of the place, the constant first.
    """
    return np.concatenate([[period, scale, offset], phases, np.ravel(pieces)])
