"""Kernels of the comparison of dithers on the sky, on plain arrays. Bit 1 of a flag is DO_NOT_USE.

Contrast: a pixel less the median of the others around it in its column, within its slice. What is smooth along the
spectrum (continuum and the shape of a point source on the slices) drops out; lines and outliers stay.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrsxr._clip_kernels import MAD_TO_SIGMA
from mrsxr._median_kernels import TILE, median_of, sort_columns, sorting_pairs
from mrsxr.compiled import Array, njit, read_only
from mrsxr.geometry._detector_kernels import TOGETHER, add_powers

#: Expected range of the samples of a neighbourhood of 18 pixels, in units of their noise.
NOISE_RANGE = 3.64
#: Variance of a contrast in units of that of a pixel: the median of 8 others adds pi / 2 / 8.
MEDIAN_NOISE = 1.2
FEWEST = 12  # samples for a measure of the noise of a block
ALONE = 0.85  # of the noise of a single column of a block, which is uncertain by as much


@njit(cache=True, nogil=True)
def _medians(flux, labels, half, y, x, values, means):
    """Return the median of the pixels above and below one in its slice, and that of the means of pairs; NaN for few."""
    n_y, label, nan = flux.shape[0], labels[y, x], np.float32(np.nan)
    up, down = 0, 0  # rows of the slice on either side
    while up < half and y + up + 1 < n_y and labels[y + up + 1, x] == label:
        up += 1
    while down < half and y - down - 1 >= 0 and labels[y - down - 1, x] == label:
        down += 1
    both, n = min(up, down), 0
    if both < 2:
        return nan, nan
    for step in range(1, both + 1):  # in pairs: a slope along the column drops out
        if math.isfinite(flux[y - step, x]) and math.isfinite(flux[y + step, x]):
            values[n], values[n + 1] = flux[y - step, x], flux[y + step, x]
            means[n // 2] = np.float32(0.5) * (values[n] + values[n + 1])
            n += 2
    if n < 2:
        return nan, nan
    return median_of(values, n), median_of(means, n // 2)


@njit(cache=True, nogil=True)
def _take_beside(flux, labels, half, y, x, values, means, total, other):
    """Fill in what :func:`_medians` takes for the pixels of a tile, and 0 where all of it counts."""
    for t in range(TILE):
        total[t], other[t] = 0.0, 0
    own = labels[y, x : x + TILE]
    for step in range(1, half + 1):
        low, high = flux[y - step, x : x + TILE], flux[y + step, x : x + TILE]
        first, last, mean = values[2 * step - 2], values[2 * step - 1], means[step - 1]
        below, above = labels[y - step, x : x + TILE], labels[y + step, x : x + TILE]
        for t in range(TILE):
            a, b = low[t], high[t]
            first[t], last[t], mean[t] = a, b, np.float32(0.5) * (a + b)
            total[t] += a * np.float32(0) + b * np.float32(0)
        for t in range(TILE):
            other[t] |= (below[t] ^ own[t]) | (above[t] ^ own[t])


# A hit beside a pixel spoils its median where the column slopes, but only one of the means of pairs; a hit on three
# pixels spoils most pairs, but not the median of the singles. The one that is closer to the pixel counts.
@njit(cache=True, nogil=True)
def _contrast(flux, variance, labels, half, order, order_of_means, out, level):
    n_y, n_x = flux.shape
    values, means = np.empty((2 * half, TILE), dtype=np.float32), np.empty((half, TILE), dtype=np.float32)
    few, few_means = np.empty(2 * half, dtype=np.float32), np.empty(half, dtype=np.float32)
    total, other, middle = np.empty(TILE, dtype=np.float32), np.empty(TILE, dtype=np.int16), (half - 1) >> 1
    for y in range(n_y):
        inside = half <= y < n_y - half and n_x >= TILE
        for begin in range(0, n_x, TILE):
            x0 = max(min(begin, n_x - TILE), 0)
            if inside:
                _take_beside(flux, labels, half, y, x0, values, means, total, other)
                sort_columns(values, order)
                sort_columns(means, order_of_means)
            for t in range(min(TILE, n_x)):
                x = x0 + t
                out[y, x] = np.nan
                level[y, x] = np.nan
                if labels[y, x] <= 0 or not math.isfinite(flux[y, x]) or not variance[y, x] >= 0:
                    continue
                if inside and total[t] == 0 and other[t] == 0:
                    single = np.float32(0.5) * (values[half - 1, t] + values[half, t])
                    paired = np.float32(0.5) * (means[middle, t] + means[half >> 1, t])
                else:
                    single, paired = _medians(flux, labels, half, y, x, few, few_means)
                closer = single if abs(flux[y, x] - single) < abs(flux[y, x] - paired) else paired
                level[y, x] = closer
                out[y, x] = flux[y, x] - closer


@njit(cache=True, nogil=True)
def _block_medians(values, rows, least, out):
    """Fill out (block, x) with the medians of |values| in blocks of rows of a column; NaN of fewer finite ones."""
    work = np.empty(rows, dtype=np.float32)
    for b in range(out.shape[0]):
        for x in range(out.shape[1]):
            n = 0
            for y in range(b * rows, min((b + 1) * rows, values.shape[0])):
                if math.isfinite(values[y, x]):
                    work[n] = abs(values[y, x])
                    n += 1
            out[b, x] = median_of(work, n) if n >= least else np.float32(np.nan)


@njit(cache=True, nogil=True)
def _block_noise(score, rows, out):
    """Fill out with the robust width of score in blocks of rows of a column, no smaller than 1.

    The mean with the columns beside it has less noise; a column that is much noisier than they are counts by itself.
    """
    n_y, n_x = score.shape
    n_blocks = (n_y + rows - 1) // rows
    known = np.empty((n_blocks, n_x), dtype=np.float32)
    _block_medians(score, rows, FEWEST, known)
    known *= MAD_TO_SIGMA
    typical = np.nanmedian(known)
    if not typical >= 1:
        typical = np.float32(1)
    for b in range(n_blocks):
        for x in range(n_x):
            own, total, n = known[b, x], 0.0, 0
            for i in range(max(x - 1, 0), min(x + 2, n_x)):
                if not math.isnan(known[b, i]):
                    total += known[b, i]
                    n += 1
            width = total / n if n > 0 else typical
            width = max(1.0, width, ALONE * own if not math.isnan(own) else 0.0)
            for y in range(b * rows, min((b + 1) * rows, n_y)):
                out[y, x] = width


def contrast(
    flux: Array, dq: Array, variance: Array, labels: Array, half: int, rows: int
) -> tuple[Array, Array, Array, Array]:
    """Return (contrast, variance, variance that the data show, level) of one frame, float32 (y, x).

    level : what was subtracted, the smooth part; it and the contrast are NaN where a pixel is not usable.
    labels : int16, slice of each pixel, 0 for none; half : rows to each side of the running median; rows : height of
    the blocks of a column in which the scatter is measured; where it is larger than the variance says, it counts.
    """
    value = np.where(dq & np.uint32(1), np.float32(np.nan), flux)
    out = np.empty(flux.shape, dtype=np.float32)
    level, width = np.empty_like(out), np.empty_like(out)
    _contrast(value, variance, *read_only(labels), half, *map(sorting_pairs, (2 * half, half)), out, level)
    with np.errstate(invalid="ignore", divide="ignore"):
        _block_noise(out / np.sqrt(variance), rows, width)
    return out, variance, width * width * variance, level


@njit(cache=True, nogil=True)
def _around(values, shown, labels, out):
    n_y, n_x = values.shape
    lowest, highest = np.empty(n_x, dtype=np.float32), np.empty(n_x, dtype=np.float32)
    total, n = np.empty(n_x, dtype=np.float32), np.empty(n_x, dtype=np.float32)
    for y in range(n_y):
        lowest[:], highest[:], total[:], n[:] = np.inf, -np.inf, 0.0, 0.0
        for j in range(max(y - 1, 0), min(y + 2, n_y)):
            for i in range(-1, 2):
                for x in range(max(0, -i), min(n_x, n_x - i)):
                    one = values[j, x + i]
                    known = (labels[j, x + i] == labels[y, x]) & (one == one)
                    lowest[x] = one if known & (one < lowest[x]) else lowest[x]
                    highest[x] = one if known & (one > highest[x]) else highest[x]
                    total[x] += shown[j, x + i] if known else np.float32(0)
                    n[x] += np.float32(1) if known else np.float32(0)
        for x in range(n_x):
            out[y, x, 0], out[y, x, 1], out[y, x, 2], out[y, x, 3] = lowest[x], highest[x], total[x], n[x]


def around(values: Array, shown: Array, labels: Array) -> Array:
    """Return lowest, highest, sum of noise and number of the usable pixels of a slice around each, (y, x, 4) float32.

    values, shown : float32 (y, x), contrast and its variance as the data show it; labels : int16 (y, x)
    """
    out = np.empty((*values.shape, 4), dtype=np.float32)
    _around(values, shown, *read_only(labels), out)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _sample(values, variance, shown, labels, label, px, py, own):
    """Return value, variance, weight at (px, py) in one slice; lowest, highest, sum of noise, number around it.

    The pixel ``own`` of the flattened frame is left out unless it lies at the very place: it is no witness of itself.
    """
    n_y, n_x = values.shape
    value, noise, weights, lowest, highest, total, n = 0.0, 0.0, 0.0, np.inf, -np.inf, 0.0, 0.0
    near_x, near_y = int(px + 0.5), int(py + 0.5)
    for j in range(max(near_y - 1, 0), min(near_y + 2, n_y)):
        weight_y = max(0.0, 1.0 - abs(j - py))
        for i in range(max(near_x - 1, 0), min(near_x + 2, n_x)):  # no branches: a choice costs less than a guess
            weight = weight_y * max(0.0, 1.0 - abs(i - px))
            seen = (labels[j, i] == label) & ~((j * n_x + i == own) & (weight < 0.5))
            one = np.float64(values[j, i]) if seen else np.float64(np.nan)
            known = 0.0 if math.isnan(one) else 1.0
            lowest, highest = one if one < lowest else lowest, one if one > highest else highest
            total += shown[j, i] if known > 0.0 else 0.0
            value += weight * one if known > 0.0 else 0.0
            noise += weight * weight * variance[j, i] if known > 0.0 else 0.0
            weights += weight * known
            n += known
    return value, noise, weights, lowest, highest, total, n


@njit(cache=True, nogil=True, error_model="numpy")
def _samples(values, variance, shown, near, labels, label, n, px, py, own, out):
    """Fill out (7, n) with what :func:`_sample` finds at n places; what lies around is known but at borders and own."""
    n_y, n_x = values.shape
    for k in range(n):
        x, y = px[k], py[k]
        if not (-0.5 < x < n_x - 0.5 and -0.5 < y < n_y - 0.5):
            for m in range(7):
                out[m, k] = 0.0
            out[3, k], out[4, k] = np.inf, -np.inf
            continue
        near_x, near_y, i, j = int(x + 0.5), int(y + 0.5), math.floor(x), math.floor(y)
        away = abs(near_y * n_x + near_x - own[k])
        inside = (i >= 0) & (j >= 0) & (i + 1 < n_x) & (j + 1 < n_y)
        if inside & (labels[near_y, near_x] == label) & (away > 1) & (abs(away - n_x) > 1):
            right, low = x - i, y - j
            left, high = 1.0 - right, 1.0 - low
            value, noise, weights = 0.0, 0.0, 0.0
            for q in range(4):  # no other has a weight
                jj, ii = j + (q >> 1), i + (q & 1)
                weight = (low if q > 1 else high) * (right if q & 1 else left)
                one = np.float64(values[jj, ii])
                known = (labels[jj, ii] == label) & (one == one)
                value += weight * one if known else 0.0
                noise += weight * weight * variance[jj, ii] if known else 0.0
                weights += weight if known else 0.0
            out[3, k], out[4, k] = near[near_y, near_x, 0], near[near_y, near_x, 1]
            out[5, k], out[6, k] = near[near_y, near_x, 2], near[near_y, near_x, 3]
        else:
            value, noise, weights, out[3, k], out[4, k], out[5, k], out[6, k] = _sample(
                values, variance, shown, labels, label, x, y, own[k]
            )
        if weights > 0.0:
            value /= weights
            noise /= weights * weights
        out[0, k], out[1, k], out[2, k] = value, noise, weights


@njit(cache=True, nogil=True)
def _row():
    return np.empty(TOGETHER)


@njit(cache=True, nogil=True)
def _series(matrix, s, t):
    """Return sum matrix[s, i] t^i by Horner's rule."""
    total = 0.0
    for i in range(matrix.shape[1] - 1, -1, -1):
        total = total * t + matrix[s, i]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _places_in(q, n, a, w, x_of, y_of, origin, extent, u, v, row, px, py):
    """Fill px, py with the detector pixels of n places in slice q, NaN off it."""
    first, step, last, width = origin[q, 0], extent[q, 0], origin[q, 1], extent[q, 1]
    for k in range(n):
        u[k], v[k], px[k], py[k] = (a[k] - first) / step, (w[k] - last) / width, 0.0, 0.0
    add_powers(x_of, q, n, u, v, row, px)
    add_powers(y_of, q, n, u, v, row, py)
    for k in range(n):
        px[k] = px[k] if (abs(u[k]) < 1.2) & (abs(v[k]) < 1.05) else np.nan


@njit(cache=True, nogil=True, error_model="numpy")
def _predict(contrasts, variance, shown, near, labels, slices, pixels, inverse, pair, out):
    label_of, beta_first, width, middle, half = slices
    slice_of, alpha, wavelength, index = pixels
    x_of, y_of, origin, extent = inverse
    alpha_there, beta_there, ratio = pair
    n_slices, n_pixels = label_of.shape[0], slice_of.size
    a, w, place, u, v, row = _row(), _row(), _row(), _row(), _row(), _row()
    px, py, px_beside, py_beside = _row(), _row(), _row(), _row()
    one, two = np.empty((7, TOGETHER)), np.empty((7, TOGETHER))
    first, out[0] = 0, np.nan
    while first < n_pixels:
        s, n, nearest, second = slice_of[first], 0, 0, 0
        while n < TOGETHER and first + n < n_pixels and slice_of[first + n] == s:
            t = (alpha[first + n] - middle[s]) / half[s]
            a[n], w[n] = _series(alpha_there, s, t), wavelength[first + n] * ratio
            place[n] = (_series(beta_there, s, t) - beta_first) / width
            q = math.floor(place[n] + 0.5)
            r = q + 1 if place[n] > q else q - 1
            if n and (q != nearest or r != second):
                break
            nearest, second, n = q, r, n + 1
        if 0 <= nearest < n_slices:
            _places_in(nearest, n, a, w, x_of, y_of, origin, extent, u, v, row, px, py)
            both = 0 <= second < n_slices
            if both:
                _places_in(second, n, a, w, x_of, y_of, origin, extent, u, v, row, px_beside, py_beside)
            own = index[first : first + n]
            _samples(contrasts, variance, shown, near, labels, label_of[nearest], n, px, py, own, one)
            if both:
                _samples(contrasts, variance, shown, near, labels, label_of[second], n, px_beside, py_beside, own, two)
            for k in range(n):
                p = first + k
                if not one[2, k] >= 0.5:
                    continue
                value, noise, lowest, highest = one[0, k], one[1, k], one[3, k], one[4, k]
                total, count = one[5, k], one[6, k]
                if both:
                    lowest, highest = min(lowest, two[3, k]), max(highest, two[4, k])
                    total, count = total + two[5, k], count + two[6, k]
                    if two[2, k] >= 0.5:
                        share = abs(place[k] - nearest)
                        value = (1.0 - share) * value + share * two[0, k]
                        noise = (1.0 - share) ** 2 * noise + share**2 * two[1, k]
                out[0, p], out[1, p] = value, noise
                out[2, p] = max(0.0, highest - lowest - NOISE_RANGE * math.sqrt(total / count))
        first += n


def predict(
    frames: Sequence[Array], labels: Array, slices: tuple[Any, ...], pixels: Sequence[Array],
    inverse: tuple[Any, ...], pair: tuple[Any, ...], out: Array,
) -> None:  # fmt: skip
    """Fill out, float32 zeros (3, pixel), with what another exposure says about each pixel.

    Its rows are contrast, variance and the range around the pixel.

    frames : (contrast, variance, variance shown by the data, level, what is around) of the other exposure
    slices : (label, beta of the first [arcsec], width [arcsec], middle and half width of alpha of each slice)
    pixels : (place of the slice, alpha [arcsec], wavelength [um], place in the flattened frame) of each pixel
    inverse : (x, y) as power series (slice, power of alpha, power of wavelength) of scaled arguments, their middles
        and half widths (slice, 2)
    pair : power series (slice, power) of alpha and beta in the other exposure, and the ratio of its wavelengths

    Within a slice bilinear, linear between the two slices next to the place. The range is that of the 3 x 3 pixels
    around the place in both slices, less what noise makes. NaN where the other exposure has nothing usable.
    """
    _predict(*frames[:3], frames[4], *read_only(labels), slices, pixels, inverse, pair, out)


@njit(cache=True, nogil=True)
def _sort_few(values, n):
    for i in range(1, n):
        value = values[i]
        j = i
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value


@njit(cache=True, nogil=True)
def _combine(index, contrasts, variance, predictions, difference, score, sigma, structure, alone):
    n_other = predictions.shape[0]
    values, ranges = np.empty(n_other), np.empty(n_other)
    for p in range(index.size):
        i = index[p]
        mine = contrasts[i]
        if math.isnan(mine):
            continue
        n, noise = 0, 0.0
        for e in range(n_other):
            if not math.isnan(predictions[e, 0, p]):
                values[n], ranges[n] = predictions[e, 0, p], predictions[e, 2, p]
                noise += predictions[e, 1, p]
                n += 1
        if n == 0:
            alone[i] = True
            continue
        _sort_few(values, n)
        _sort_few(ranges, n)
        noise /= n
        usual = mine - 0.5 * (values[(n - 1) >> 1] + values[n >> 1])
        usual_noise = noise * (0.5 * math.pi / n if n >= 3 else 1.0 / n)
        score[i] = usual / math.sqrt((variance[i] + usual_noise) * MEDIAN_NOISE)
        if n >= 3:
            away, noise = usual, usual_noise
            structure[i] = 0.5 * (ranges[(n - 1) >> 1] + ranges[n >> 1])
        else:  # an outlier differs from both sides and, with one witness, from its own column too
            low, high = values[0], values[n - 1]
            if n == 1:
                low, high = min(low, 0.0), max(high, 0.0)
            away = mine - high if mine > high else (mine - low if mine < low else 0.0)
            structure[i] = ranges[n - 1]
        difference[i] = away
        sigma[i] = math.sqrt((variance[i] + noise) * MEDIAN_NOISE)


@njit(cache=True, nogil=True)
def _steepness(level, y, x):
    """Return the level of a pixel and its bend across the columns, of which a slanted trace makes contrasts."""
    here, bend = abs(level[y, x]), 0.0
    if 0 < x < level.shape[1] - 1:
        bend = abs(level[y, x - 1] - 2.0 * level[y, x] + level[y, x + 1])
    return here + bend if math.isfinite(bend) else here


@njit(cache=True, nogil=True)
def _cut(difference, sigma, width, structure, level, snr, snr_beside, scale, systematic, out, steep):
    n_y, n_x = difference.shape
    weak = np.zeros((n_y, n_x), dtype=np.bool_)
    for y in range(n_y):
        for x in range(n_x):
            if math.isnan(difference[y, x]):
                continue
            noise, bend = sigma[y, x] * width[y, x], _steepness(level, y, x)
            away = abs(difference[y, x]) - scale * structure[y, x] - systematic * bend
            steep[y, x] = bend / noise if noise > 0.0 else np.nan
            out[y, x] = away > snr * noise
            weak[y, x] = away > snr_beside * noise
    strong = out.copy()
    for y in range(n_y):
        for x in range(n_x):
            if strong[y, x]:
                for j in range(max(y - 1, 0), min(y + 2, n_y)):
                    for i in range(max(x - 1, 0), min(x + 2, n_x)):
                        out[j, i] |= weak[j, i]


def compare(
    frames: Sequence[Array], index: Sequence[Array], predictions: Sequence[Array], rows: int, snr: float,
    snr_beside: float, scale: float, systematic: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return (outlier, without a witness), bool (y, x), and steepness [noise] of one exposure against the others.

    frames : (contrast, variance, variance shown by the data, level) of the exposure
    index, predictions : for each band the places of its pixels in the flattened frame and the predictions of the other
        exposures (exposure, 3, pixel)
    rows : height of the blocks in which the scatter of the differences is measured
    snr, snr_beside : limit in units of the noise, and that for pixels beside an outlier
    scale, systematic : shares of the range and of the smooth part of the source that may separate two exposures
    """
    shape = frames[0].shape
    difference, score, sigma, steep = (np.full(shape, np.float32(np.nan)) for _ in range(4))
    structure, width = (np.zeros(shape, dtype=np.float32) for _ in range(2))
    alone, out = (np.zeros(shape, dtype=np.bool_) for _ in range(2))
    flat = [np.ascontiguousarray(a).reshape(-1) for a in frames[:2]]
    for places, found in zip(index, predictions, strict=True):
        rest = [a.reshape(-1) for a in (difference, score, sigma, structure, alone)]
        _combine(places, *flat, found, *rest)
    _block_noise(score, rows, width)
    _cut(difference, sigma, width, structure, frames[3], snr, snr_beside, scale, systematic, out, steep)
    return out, alone, steep


def judge(outlier: Array, steep: Array, index: Array, rows: int) -> tuple[float, Array]:
    """Return how many more outliers steep places have than the others, over what chance allows, and which are steep.

    Hits know nothing of the source, so that a tenth of the pixels, those of the blocks of a column in which the light
    is steepest, should have a tenth of them; twice that, three sigma and ten are allowed. Above 1 the light of the
    source is among them. NaN, and all, where fewer than 1000 pixels were compared.

    outlier, steep : (y, x), what :func:`compare` found; index : places of the pixels of a band in the flattened frame
    rows : height of the blocks
    """
    inside = np.zeros(steep.size, dtype=np.bool_)
    inside[index] = True
    inside = inside.reshape(steep.shape) & np.isfinite(steep)
    n = int(inside.sum())
    if n < 1000:
        return np.nan, inside
    n_y, n_x = steep.shape
    middle = np.empty((-(-n_y // rows), n_x), dtype=np.float32)
    _block_medians(np.where(inside, steep, np.float32(np.nan)), rows, 1, middle)
    of_pixel = np.repeat(middle, rows, axis=0)[:n_y]
    out = inside & (of_pixel > np.quantile(of_pixel[inside], 0.9))
    on, off = int((outlier & out).sum()), int((outlier & inside & ~out).sum())
    usual = 2.0 * off * int(out.sum()) / max(n - int(out.sum()), 1)
    return on / (usual + 3.0 * math.sqrt(usual) + 10.0), out
