"""Kernels of the straylight step on plain arrays.

Pixels lie on whole columns, so the light that one column scatters over its row is the same row of numbers at every
column, only shifted: a *table* of the kernel at all distances is made once a row and half, and added to the row once
for each column that shines. Rows of kernel parameters: half width of the Lorentzian, its scale, sigma and offset of
the Gaussians, their scales 1 and 2. Bits: DO_NOT_USE 1, NON_SCIENCE 512, DEAD 1024, HOT 2048.
"""

import math

import numpy as np

from mrsxr._clip_kernels import MAD_TO_SIGMA, clip, moments
from mrsxr._median_kernels import median_of
from mrsxr.compiled import Array, njit, read_only

UNFIT = np.uint32(1 | 512 | 1024 | 2048)
HALVES = ((0, 516), (516, 1024))  # columns that scatter with the kernel of the left and of the right half
STRIP_ROWS = (50, 974)
EDGE = 4  # reference columns on each side, which get no correction
FILL_ROWS, FILL_COLUMNS = 8, 4  # pixels that a bad pixel is filled over
LEAK = 1.5  # pixels over which the light of a slice fades beyond its edge
CELL = 24  # pixels over which showers are searched for
OUTLIER = 6.0  # sigma
_REACH = 7.0  # sigma to which a Gaussian counts
_CLIPS, _CLIP_SIGMA = 5, 3.0


@njit(cache=True, nogil=True)
def clipped_statistics(values: Array) -> tuple[float, float, float]:
    """Mean, median and standard deviation after clipping five times at 3 sigma about the median; NaN for nothing.

    ``values`` is spoiled.
    """
    if values.size == 0:
        return np.nan, np.nan, np.nan
    work = np.empty(values.size)
    n, _, _ = clip(values, values.size, _CLIP_SIGMA, _CLIPS, work)
    mean, spread = moments(values, n)
    return mean, median_of(values, n), spread


@njit(cache=True, nogil=True)
def strip_values(image: Array, model: Array, first: int, last: int, nan_as_zero: bool) -> Array:
    """Values of image - model between the channels; NaN and infinite values of the image are 0 or left out."""
    out = np.empty((STRIP_ROWS[1] - STRIP_ROWS[0]) * (last - first))
    n, n_finite = 0, 0
    for y in range(STRIP_ROWS[0], STRIP_ROWS[1]):
        for x in range(first, last):
            value = image[y, x]
            if math.isfinite(value):
                n_finite += 1
            elif nan_as_zero:
                value = 0.0
            else:
                continue
            out[n] = value - model[y, x]
            n += 1
    return out[: n if n_finite > 0 else 0]


@njit(cache=True, nogil=True)
def _add_gaussian(table, centre, sigma, scale):
    """Add scale (G(d - centre) + G(d + centre)), peak of G 1, at the distances d >= 0."""
    for side in (-1.0, 1.0):
        low = max(0, math.ceil(-side * centre - _REACH * sigma))
        high = min(table.size - 1, math.floor(-side * centre + _REACH * sigma))
        for d in range(low, high + 1):
            table[d] += scale * math.exp(-0.5 * ((d + side * centre) / sigma) ** 2)


@njit(cache=True, nogil=True)
def fill_table(parameters: Array, half: Array, table: Array) -> bool:
    """Fill ``table`` (2 n - 1) with the kernel at the distances 1 - n ... n - 1; False where it is 0 or not a number.

    half : work space of n.
    """
    width, scale, sigma, offset, first, second = parameters
    n = half.size
    half[:] = 0.0
    if scale != 0.0 and width > 0.0:
        square = width * width
        for d in range(n):
            half[d] = scale * square / (square + float(d) * float(d))
    if sigma > 0.0:
        if first != 0.0:
            _add_gaussian(half, offset, sigma, first)
        if second != 0.0:
            _add_gaussian(half, 2.0 * offset, 2.0 * sigma, second)
    total = 0.0
    for d in range(n):
        total += half[d]
        table[n - 1 + d] = half[d]
        table[n - 1 - d] = half[d]
    return math.isfinite(total) and total != 0.0


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def spread_row(source, first, last, table, out):
    """Add to ``out`` what the columns first ... last - 1 of a row scatter; columns of no light cost nothing."""
    n = out.size
    lit = np.empty(last - first, dtype=np.int64)
    count = 0
    for x in range(first, last):
        if source[x] != 0.0:
            lit[count] = n - 1 - x
            count += 1
    k = 0
    while k + 4 <= count:
        a, b, c, d = lit[k], lit[k + 1], lit[k + 2], lit[k + 3]
        f, g, h, i = source[n - 1 - a], source[n - 1 - b], source[n - 1 - c], source[n - 1 - d]
        one, two, three, four = table[a : a + n], table[b : b + n], table[c : c + n], table[d : d + n]
        for x in range(n):
            out[x] += (f * one[x] + g * two[x]) + (h * three[x] + i * four[x])
        k += 4
    while k < count:
        a = lit[k]
        f, one = source[n - 1 - a], table[a : a + n]
        for x in range(n):
            out[x] += f * one[x]
        k += 1


@njit(cache=True, nogil=True)
def scatter(image, flags, pedestal, limit, parameters, out):
    """Fill ``out`` (y, x) with the light that usable pixels of at least ``limit`` scatter along their rows."""
    n_y, n_x = image.shape
    source, half = np.empty(n_x, dtype=np.float32), np.empty(n_x, dtype=np.float32)
    table = np.empty(2 * n_x - 1, dtype=np.float32)
    out[:] = 0.0
    for y in range(n_y):
        for x in range(n_x):
            value = image[y, x]
            if value != value or (flags[y, x] & UNFIT) != 0:
                source[x] = 0.0
                continue
            if not math.isfinite(value):
                value = np.float32(0.0)
            source[x] = max(value - pedestal, np.float32(0.0)) if value >= limit else np.float32(0.0)
        for side in range(2):
            if fill_table(parameters[side, :, y], half, table):
                spread_row(source, HALVES[side][0], HALVES[side][1], table, out[y])
        out[y, :EDGE] = 0.0
        out[y, n_x - EDGE :] = 0.0


@njit(cache=True, nogil=True)
def subtract_kernel(image: Array, flags: Array, parameters: Array, first: int, last: int, out: Array) -> None:
    """Baseline on one image (y, x): scattered light of significant pixels, then the pedestal of the strip."""
    model = np.zeros(image.shape, dtype=np.float32)
    mean, _, spread = clipped_statistics(strip_values(image, model, first, last, True))
    pedestal = np.float32(mean) if mean == mean else np.float32(0.0)
    limit = np.float32(mean + 3.0 * spread) if mean == mean else np.float32(0.0)
    scatter(image, flags, pedestal, limit, parameters, model)
    _, median, _ = clipped_statistics(strip_values(image, model, first, last, True))
    if median != median:
        median = 0.0
    n_y, n_x = image.shape
    for y in range(n_y):
        for x in range(n_x):
            level = median if EDGE <= x < n_x - EDGE else 0.0
            out[y, x] = image[y, x] - model[y, x] - np.float32(level)


@njit(cache=True, nogil=True)
def _is_spike(image, flags, y, x, level, limit):
    """True where a pixel stands out of all its neighbours by more than any light could: four times and ``limit``."""
    best = np.float32(0.0)
    for v in range(max(0, y - 1), min(image.shape[0], y + 2)):
        for u in range(max(0, x - 1), min(image.shape[1], x + 2)):
            if (v != y or u != x) and math.isfinite(image[v, u]) and (flags[v, u] & UNFIT) == 0:
                best = max(best, image[v, u] - level)
    return image[y, x] - level > 4.0 * best + limit


@njit(cache=True, nogil=True)
def _between(image, good, y, x, step_y, step_x, reach):
    """Value at (y, x) on the line between the nearest good pixels up and down a direction; NaN without any."""
    n_y, n_x = image.shape
    up = down = 0
    for k in range(1, reach + 1):
        v, u = y - k * step_y, x - k * step_x
        if up == 0 and v >= 0 and u >= 0 and good[v, u]:
            up = k
        v, u = y + k * step_y, x + k * step_x
        if down == 0 and v < n_y and u < n_x and good[v, u]:
            down = k
    if up == 0 and down == 0:
        return np.float32(np.nan)
    before = image[y - up * step_y, x - up * step_x]
    after = image[y + down * step_y, x + down * step_x]
    if up == 0 or down == 0:
        return after if up == 0 else before
    return (before * down + after * up) / np.float32(up + down)


@njit(cache=True, nogil=True)
def clean_sources(image: Array, flags: Array, level: np.float32, limit: np.float32, out: Array) -> None:
    """Fill ``out`` with the image as the light fell on it: bad pixels and spikes from their neighbours, else ``level``.

    A bad pixel takes the line between the nearest good ones of its column, at most FILL_ROWS away, or of its row: the
    light of a dead or saturated pixel scatters all the same, that of a hot pixel is none.
    """
    n_y, n_x = image.shape
    good = np.zeros(image.shape, dtype=np.bool_)
    for y in range(n_y):
        for x in range(EDGE, n_x - EDGE):
            if math.isfinite(image[y, x]) and (flags[y, x] & UNFIT) == 0:
                faint = image[y, x] - level <= limit
                good[y, x] = faint or not _is_spike(image, flags, y, x, level, limit)
    for y in range(n_y):
        out[y, :EDGE] = level
        out[y, n_x - EDGE :] = level
        for x in range(EDGE, n_x - EDGE):
            value = image[y, x]
            if not good[y, x]:
                value = _between(image, good, y, x, 1, 0, FILL_ROWS)
                if value != value:
                    value = _between(image, good, y, x, 0, 1, FILL_COLUMNS)
            out[y, x] = value if value == value else level


@njit(cache=True, nogil=True)
def direct_light(sources: Array, level: np.float32, amplitude: Array, models: Array, out: Array) -> None:
    """Fill ``out`` with sources - level - scattered light, 0 in the reference columns; amplitude (half, y)."""
    n_y, n_x = sources.shape
    for y in range(n_y):
        a, b = np.float32(amplitude[0, y]), np.float32(amplitude[1, y])
        for x in range(n_x):
            out[y, x] = sources[y, x] - level - a * models[0, y, x] - b * models[1, y, x]
        out[y, :EDGE] = 0.0
        out[y, n_x - EDGE :] = 0.0


@njit(cache=True, nogil=True)
def fill_tables(parameters: Array, tables: Array, scatters: Array) -> None:
    """Fill tables (half, y, n) with the kernels at the distances 0 ... n - 1, scatters (half, y): whether there is one.

    They are alike on both sides, see :func:`fill_table`.
    """
    n = tables.shape[2]
    half, table = np.empty(n, dtype=np.float32), np.empty(2 * n - 1, dtype=np.float32)
    for side in range(2):
        for y in range(parameters.shape[2]):
            scatters[side, y] = fill_table(parameters[side, :, y], half, table)
            tables[side, y] = half


@njit(cache=True, nogil=True)
def _whole_table(one, wide, share, squared, table):
    """Fill ``table`` (2 n - 1) with the kernel of a row and half; arguments as in :func:`scatter_halves`."""
    n = one.size
    for k in range(n):
        right, left = n - 1 + k, n - 1 - k
        table[right] = max(one[k] + share[right] * wide[k], np.float32(0.0))
        table[left] = max(one[k] + share[left] * wide[k], np.float32(0.0))
    if squared:
        table *= table


@njit(cache=True, nogil=True)
def scatter_halves(
    light: Array, tables: Array, broad: Array, scatters: Array, profile: Array, squared: bool, models: Array
) -> None:
    """Fill ``models`` (half, y, x) with what each half scatters; ``squared`` with the squares of the kernels.

    tables, broad (half, y, n), scatters: of :func:`fill_tables`. profile (half, 2 n - 1): share of the broad kernels
    that is added at the distances 1 - n ... n - 1, right of a pixel positive; no kernel becomes negative.
    """
    n_y, n_x = light.shape
    table = np.empty(2 * n_x - 1, dtype=np.float32)
    models[:] = 0.0
    for y in range(n_y):
        for side in range(2):
            if scatters[side, y]:
                _whole_table(tables[side, y], broad[side, y], profile[side], squared, table)
                spread_row(light[y], HALVES[side][0], HALVES[side][1], table, models[side, y])
            models[side, y, :EDGE] = 0.0
            models[side, y, n_x - EDGE :] = 0.0


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def product(one: Array, other: Array) -> np.float32:
    """Return the sum of the products of two arrays."""
    total = np.float32(0.0)
    for j in range(one.size):
        total += one[j] * other[j]
    return total


@njit(cache=True, nogil=True)
def scatter_between(
    light: Array, tables: Array, broad: Array, scatters: Array, profile: Array, between: Array, models: Array
) -> None:
    """Fill what :func:`scatter_halves` does in the pixels ``between`` (y, x), a few of a row, alone."""
    n_y, n_x = light.shape
    table, back = np.empty(2 * n_x - 1, dtype=np.float32), np.empty(n_x, dtype=np.float32)
    for y in range(n_y):
        for x in range(n_x):
            back[x] = light[y, n_x - 1 - x]
        for side in range(2):
            model = models[side, y]
            model[:] = 0.0
            if scatters[side, y]:
                _whole_table(tables[side, y], broad[side, y], profile[side], False, table)
                low, high = n_x - HALVES[side][1], n_x - HALVES[side][0]
                for x in range(n_x):
                    if between[y, x]:
                        model[x] = product(back[low:high], table[low + x : high + x])


@njit(cache=True, nogil=True)
def leaked_light(light: Array, inside: Array, out: Array) -> None:
    """Fill ``out`` with the light of the slices that lies close: its sum with weights exp(-distance / LEAK)."""
    fade = np.float32(math.exp(-1.0 / LEAK))
    n_y, n_x = light.shape
    for y in range(n_y):
        carried = np.float32(0.0)
        for x in range(n_x):
            carried = carried * fade + (light[y, x] if inside[y, x] else np.float32(0.0))
            out[y, x] = carried
        carried = np.float32(0.0)
        for x in range(n_x - 1, -1, -1):
            out[y, x] += carried
            carried = (carried + (light[y, x] if inside[y, x] else np.float32(0.0))) * fade


@njit(cache=True, nogil=True)
def gap_residuals(
    image: Array, between: Array, level: float, amplitude: Array, leak: Array, models: Array, leaked: Array,
    out: Array,
) -> None:  # fmt: skip
    """Fill ``out`` with image - model between the slices, NaN elsewhere; leak (half)."""
    n_y, n_x = image.shape
    for y in range(n_y):
        a, b = amplitude[0, y], amplitude[1, y]
        for x in range(n_x):
            if between[y, x]:
                model = a * models[0, y, x] + b * models[1, y, x] + leak[0 if x < HALVES[0][1] else 1] * leaked[y, x]
                out[y, x] = image[y, x] - level - model
            else:
                out[y, x] = np.nan


@njit(cache=True, nogil=True)
def block_noise(residual: Array, rows: int, work: Array) -> Array:
    """Robust standard deviation about 0 of each block of rows; NaN where it has fewer than 20 values."""
    n_block = (residual.shape[0] + rows - 1) // rows
    out = np.full(n_block, np.nan)
    for k in range(n_block):
        n = 0
        for y in range(k * rows, min(residual.shape[0], (k + 1) * rows)):
            for x in range(residual.shape[1]):
                value = abs(residual[y, x])
                if value == value:
                    work[n] = value
                    n += 1
        if n >= 20:
            out[k] = MAD_TO_SIGMA * np.median(work[:n])
    return out


@njit(cache=True, nogil=True)
def cell_pulls(residual: Array, noise: Array, rows: int) -> Array:
    """Sum of residual / noise, each at most 3, over the square root of their number in cells of CELL; NaN if empty."""
    n_y, n_x = -(-residual.shape[0] // CELL), -(-residual.shape[1] // CELL)
    total, count = np.zeros((n_y, n_x)), np.zeros((n_y, n_x))
    for y in range(residual.shape[0]):
        sigma = noise[y // rows]
        if not sigma > 0.0:
            continue
        for x in range(residual.shape[1]):
            value = residual[y, x] / sigma
            if value == value:
                total[y // CELL, x // CELL] += min(max(value, -3.0), 3.0)
                count[y // CELL, x // CELL] += 1.0
    for y in range(n_y):
        for x in range(n_x):
            total[y, x] = total[y, x] / math.sqrt(count[y, x]) if count[y, x] >= 10.0 else np.nan
    return total


@njit(cache=True, nogil=True)
def drop_cells(residual: Array, drop: Array) -> None:
    """Set residuals NaN in the cells to drop."""
    for y in range(residual.shape[0]):
        for x in range(residual.shape[1]):
            if drop[y // CELL, x // CELL]:
                residual[y, x] = np.nan


def kernel_wrapper(rate: Array, dq: Array, parameters: Array, first: int = 503, last: int = 516) -> Array:
    """Return rates (dither, y, x) less scattered light and pedestal; parameters (half, 6, y, 1)."""
    out = np.empty(rate.shape, dtype=np.float32)
    rate, dq, table = read_only(rate, dq, plain_parameters(parameters))
    for image, flags, result in zip(rate, dq, out, strict=True):
        subtract_kernel(image, flags, table, first, last, result)
    return out


def plain_parameters(parameters):
    """Return parameters (half, 6, y) of those with a last dim of size 1."""
    return np.ascontiguousarray(parameters[..., 0], dtype=np.float64)
