"""Kernels of the clean_showers step on plain arrays: smooth light between the slices. Bits: DO_NOT_USE 1.

A Gaussian over rows and columns is one over columns after one over rows, so smoothing costs a few taps a pixel.
"""

import math

import numpy as np

from mrsxr._clip_kernels import MAD_TO_SIGMA
from mrsxr.compiled import Array, njit, read_only

UNFIT = np.uint32(1 | (1 << 31))  # DO_NOT_USE, REFERENCE_PIXEL
_REACH_Y = 8.0  # sigma; jwst's square of taps ends at four of the wider sigma
_LEAST_WEIGHT, _LEAST_PIXELS = 1e-12, 1000
NOISE_ROWS = 64
LINE_ROWS, _LINE_FACTOR = 15.0, 20.0  # rows that tell a line; its doubt against that of steady light
_FADE = 40.0  # pixels over which the light of a row counts as what may be scattered at a place


def gaussian_taps(stddev: float, other: float) -> Array:
    """Return the taps 0 ... r of a Gaussian, sum over -r ... r 1, cut where jwst cuts its square of taps."""
    reach = (math.ceil(8.0 * max(stddev, other)) // 2 * 2 + 1) // 2
    size = min(reach, math.ceil(_REACH_Y * stddev))
    taps = np.exp(-0.5 * (np.arange(size + 1) / stddev) ** 2)
    return (taps / (2.0 * taps.sum() - taps[0])).astype(np.float32)


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _add_taps(padded, taps, middle, out):
    """Add to ``out`` a row smoothed by symmetric taps; padded has ``middle`` zeros on both sides."""
    n, last = out.size, taps.size - 1
    t = 1
    while t + 1 <= last:
        g, h = taps[t], taps[t + 1]
        a, b = padded[middle - t : middle - t + n], padded[middle + t : middle + t + n]
        c, d = padded[middle - t - 1 : middle - t - 1 + n], padded[middle + t + 1 : middle + t + 1 + n]
        for x in range(n):
            out[x] += g * (a[x] + b[x]) + h * (c[x] + d[x])
        t += 2
    if t == last:
        a, b, g = padded[middle - t : middle - t + n], padded[middle + t : middle + t + n], taps[t]
        for x in range(n):
            out[x] += g * (a[x] + b[x])


@njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _add_rows(rows, y, taps, out):
    """Add to ``out`` the rows around y with symmetric taps; rows beyond the image are 0."""
    n_y, n_x = rows.shape
    for t in range(1, taps.size):
        g = taps[t]
        if y - t >= 0 and y + t < n_y:
            above, below = rows[y - t], rows[y + t]
            for x in range(n_x):
                out[x] += g * (above[x] + below[x])
        elif y - t >= 0 or y + t < n_y:
            one = rows[y - t] if y - t >= 0 else rows[y + t]
            for x in range(n_x):
                out[x] += g * one[x]


@njit(cache=True, nogil=True)
def smooth(image: Array, taps_x: Array, taps_y: Array, out: Array) -> None:
    """Fill ``out`` with an image (y, x) smoothed by taps along x and y; beyond its edges it is 0."""
    n_y, n_x = image.shape
    middle = taps_x.size - 1
    padded = np.zeros(n_x + 2 * middle, dtype=np.float32)
    rows = np.empty(image.shape, dtype=np.float32)
    for y in range(n_y):
        padded[middle : middle + n_x] = image[y]
        rows[y] = taps_x[0] * image[y]
        _add_taps(padded, taps_x, middle, rows[y])
    for y in range(n_y):
        out[y] = taps_y[0] * rows[y]
        _add_rows(rows, y, taps_y, out[y])


@njit(cache=True, nogil=True)
def keep_between(
    image: Array, flags: Array, inside: Array, low: float, high: float, values: Array, weight: Array
) -> None:
    """Fill values with the pixels between the slices within low ... high, else 0, and weight with 1 there, else 0."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            value = image[y, x]
            good = (not inside[y, x]) and (flags[y, x] & UNFIT) == 0 and low <= value <= high
            values[y, x] = value if good else np.float32(0.0)
            weight[y, x] = np.float32(1.0) if good else np.float32(0.0)


def _beyond(taps, n):
    """Return the share of the taps around each of n pixels in line that lies beyond the ends."""
    tail = np.append(np.cumsum(taps[::-1].astype(np.float64))[::-1], 0.0)  # the sum of the taps from k on
    place = np.arange(n)
    left, right = (np.minimum(distance + 1, len(taps)) for distance in (place, n - 1 - place))
    return tail[left] + tail[right]


@njit(cache=True, nogil=True)
def _divide(total, weight, beyond_x, beyond_y, out):
    """Fill ``out`` with total / weight, 0 where nothing is near; the weight beyond the edges, of 0 DN/s, is added."""
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            w = weight[y, x] + beyond_x[x] + beyond_y[y] - beyond_x[x] * beyond_y[y]
            out[y, x] = total[y, x] / w if w > _LEAST_WEIGHT else 0.0


def _limits(image, flags, inside, low, high):
    """Return percentiles of the usable pixels between the slices, None without any."""
    values = image[~inside & ((flags & UNFIT) == 0)]
    values = values[np.isfinite(values)]
    return None if values.size == 0 else (np.percentile(values, low), np.percentile(values, high))


def smooth_model(image, flags, inside, x_stddev, y_stddev, low, high):
    """Return the smooth light (y, x) of the pixels between the slices, 0 where there are none."""
    model = np.zeros(image.shape, dtype=np.float32)
    limits = _limits(image, flags, inside, low, high)
    if limits is None:
        return model
    taps_x, taps_y = gaussian_taps(x_stddev, y_stddev), gaussian_taps(y_stddev, x_stddev)
    values, weight = np.empty_like(model), np.empty_like(model)
    image, flags, inside = read_only(image, flags, inside)
    keep_between(image, flags, inside, float(limits[0]), float(limits[1]), values, weight)
    smooth(values, taps_x, taps_y, values)
    smooth(weight, taps_x, taps_y, weight)
    beyond_y, beyond_x = (_beyond(t, n) for t, n in zip((taps_y, taps_x), image.shape, strict=True))
    _divide(values, weight, beyond_x, beyond_y, model)
    return model


@njit(cache=True, nogil=True)
def light_nearby(image: Array, flags: Array, inside: Array, out: Array) -> None:
    """Fill ``out`` with the mean light of the slices in the row, weights falling as exp(-distance / _FADE)."""
    fade = np.float32(math.exp(-1.0 / _FADE))
    share = (np.float32(1.0) - fade) / (np.float32(1.0) + fade)
    n_y, n_x = image.shape
    lit = np.empty(n_x, dtype=np.float32)
    for y in range(n_y):
        for x in range(n_x):
            value = image[y, x]
            good = inside[y, x] and math.isfinite(value) and (flags[y, x] & UNFIT) == 0
            lit[x] = max(value, np.float32(0.0)) if good else np.float32(0.0)
        carried = np.float32(0.0)
        for x in range(n_x):
            carried = carried * fade + lit[x]
            out[y, x] = share * carried
        carried = np.float32(0.0)
        for x in range(n_x - 1, -1, -1):
            out[y, x] += share * carried
            carried = (carried + lit[x]) * fade


@njit(cache=True, nogil=True)
def doubt_light(light: Array, usual: Array, protection: np.float32) -> None:
    """Replace the light nearby by how far it makes the light between the slices uncertain.

    usual : its mean over the rows around; what a row has more than that is a line, whose row its neighbours replace.
    """
    for y in range(light.shape[0]):
        for x in range(light.shape[1]):
            line = max(light[y, x] - usual[y, x], np.float32(0.0))
            light[y, x] = protection * (light[y, x] + _LINE_FACTOR * line)


@njit(cache=True, nogil=True)
def noise_of_rows(values: Array, known: Array, work: Array, out: Array) -> None:
    """Fill ``out`` (y) with the noise of a pixel in blocks of rows, from differences of neighbours; NaN if unknown."""
    n_y, n_x = values.shape
    for first in range(0, n_y, NOISE_ROWS):
        last, n = min(n_y, first + NOISE_ROWS), 0
        for y in range(first, last):
            for x in range(n_x - 1):
                if known[y, x] and known[y, x + 1]:
                    work[n] = abs(values[y, x + 1] - values[y, x])
                    n += 1
        out[first:last] = MAD_TO_SIGMA * np.median(work[:n]) / math.sqrt(2.0) if n >= 20 else np.nan


def level_of(values: Array, chosen: Array, doubts: Array, threshold: float) -> tuple[np.float32, ...]:
    """Return (level of the chosen pixels, its share that counts, its variance): what all of the image has in common."""
    if chosen.sum() < _LEAST_PIXELS:
        return np.float32(0.0), np.float32(0.0), np.float32(0.0)
    found = values[chosen]
    for _ in range(4):  # showers are the wing that clipping removes
        middle = np.median(found)
        spread = MAD_TO_SIGMA * np.median(np.abs(found - middle))
        found = found[np.abs(found - middle) <= 2.0 * spread]
    level = np.median(found)
    unsure = 0.5 * np.pi * spread**2 / len(found) + np.mean(doubts[chosen]) ** 2
    ratio = threshold**2 * unsure
    share = 1.0 - (ratio / level**2) ** 2 if level**2 > ratio else 0.0
    return np.float32(level), np.float32(share), np.float32(unsure)


def smooth_wrapper(
    rate: Array, dq: Array, inside: Array, x_stddev: float = 18.0, y_stddev: float = 5.0, low: float = 0.1,
    high: float = 99.9,
) -> Array:  # fmt: skip
    """Return rates (dither, y, x) less the smooth light between the slices; inside (y, x)."""
    inside = np.asarray(inside, dtype=bool)
    out = np.empty(rate.shape, dtype=np.float32)
    for image, flags, result in zip(rate, dq, out, strict=True):
        np.subtract(image, smooth_model(image, flags, inside, x_stddev, y_stddev, low, high), out=result)
    return out
