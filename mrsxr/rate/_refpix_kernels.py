"""Kernels of the refpix step on plain arrays. Bits: DO_NOT_USE 1.

The four amplifiers read the columns x with x mod 4 = 0 ... 3; the reference pixels of amplifier k are the columns k
and 1028 + k. side 0 is left, 1 right. Samples are taken relative to the first group of their integration.
"""

from collections.abc import Sequence

import numpy as np

from mrsxr._clip_kernels import MAD_TO_SIGMA
from mrsxr.compiled import Array, njit, read_only

OUTLIER = 4.5  # sigma of a difference beyond which it is a hit


@njit(cache=True, nogil=True)
def _clipped_mean(values, n, limit):
    """Mean and standard deviation of values[:n] after repeated clipping at limit sigma; n is 0: NaN."""
    while n > 0:
        mean = 0.0
        for k in range(n):
            mean += values[k]
        mean /= n
        square = 0.0
        for k in range(n):
            square += (values[k] - mean) ** 2
        sigma = np.sqrt(square / n)
        kept = 0
        for k in range(n):
            if mean - limit * sigma <= values[k] <= mean + limit * sigma:
                values[kept] = values[k]
                kept += 1
        if kept == n or sigma == 0.0:
            return mean, sigma
        n = kept
    return np.nan, np.nan


@njit(cache=True, nogil=True)
def _side_means(reference, good, limit, n_parity, work, mean, sigma):
    """Clipped mean (side, amplifier, parity) of one group; reference (side, amplifier, y)."""
    for s in range(2):
        for k in range(4):
            for p in range(n_parity):
                n = 0
                for y in range(p, reference.shape[2], n_parity):
                    if good[s, k, y] and np.isfinite(reference[s, k, y]):
                        work[n] = reference[s, k, y]
                        n += 1
                mean[s, k, p], sigma[s, k, p] = _clipped_mean(work, n, limit)


@njit(cache=True, nogil=True)
def _average(left, right):
    """Average of two sides; one alone where the other is NaN, 0 for none."""
    if left != left:
        return right if right == right else 0.0
    return left if right != right else 0.5 * (left + right)


@njit(cache=True, nogil=True)
def _constants(reference, good, limit, n_parity, out, mean, sigma):
    """Fill out (plane, amplifier, y) with the mean of both sides of each row parity, and the means of the sides."""
    n_plane, _, _, n_y = reference.shape
    work = np.empty(n_y, dtype=np.float64)
    for g in range(n_plane):
        _side_means(reference[g], good, limit, n_parity, work, mean[g], sigma[g])
        for k in range(4):
            for y in range(n_y):
                p = y % n_parity
                out[g, k, y] = _average(mean[g, 0, k, p], mean[g, 1, k, p])


@njit(cache=True, nogil=True)
def _residuals(reference, good, limit, n_parity, mean, sigma, out):
    """Replace mean-subtracted reference samples in out (plane, side, amplifier, y); NaN where bad or clipped."""
    for g in range(out.shape[0]):
        for s in range(2):
            for k in range(4):
                for y in range(out.shape[3]):
                    p = y % n_parity
                    value = reference[g, s, k, y] - mean[g, s, k, p]
                    fine = good[s, k, y] and abs(value) <= limit * sigma[g, s, k, p]
                    out[g, s, k, y] = value if fine else np.nan


@njit(cache=True, nogil=True)
def _running_mean(total, count, window, least, out):
    """Mean over ``window`` rows, moved inwards at the edges; drawn to 0 where fewer than ``least`` samples are in it.

    total, count : sums of samples and their numbers in each row.
    """
    n_y = total.shape[0]
    half = window // 2
    sums, numbers = np.empty(n_y + 1), np.empty(n_y + 1)
    sums[0] = numbers[0] = 0.0
    for y in range(n_y):
        sums[y + 1] = sums[y] + total[y]
        numbers[y + 1] = numbers[y] + count[y]
    for y in range(n_y):
        low = min(max(0, y - half), max(0, n_y - window))
        high = min(low + window, n_y)
        n = numbers[high] - numbers[low]
        out[y] = (sums[high] - sums[low]) / max(n, least) if n > 0 else 0.0


@njit(cache=True, nogil=True)
def _sum_rows(residual, first_side, last_side, first_k, last_k, total, count):
    """Sum the residuals (side, amplifier, y) of some sides and amplifiers in each row."""
    total[:] = 0.0
    count[:] = 0.0
    for s in range(first_side, last_side):
        for k in range(first_k, last_k):
            for y in range(total.shape[0]):
                value = residual[s, k, y]
                if value == value:
                    total[y] += value
                    count[y] += 1.0


@njit(cache=True, nogil=True)
def _prediction_error(residual, window, common):
    """Mean square of (samples of one side - running mean of the other); window 0: of the samples alone."""
    n_plane, _, _, n_y = residual.shape
    total, count, smooth = np.empty(n_y), np.empty(n_y), np.zeros(n_y)
    square, n = 0.0, 0
    for g in range(n_plane):
        for s in range(2):
            for k in range(4):
                if window > 0 and (k == 0 or not common):
                    _sum_rows(residual[g], 1 - s, 2 - s, 0 if common else k, 4 if common else k + 1, total, count)
                    _running_mean(total, count, window, 1.0, smooth)
                for y in range(n_y):
                    value = residual[g, s, k, y] - smooth[y]
                    if value == value:
                        square += value * value
                        n += 1
    return square / n if n > 0 else np.inf


@njit(cache=True, nogil=True)
def _add_smooth(residual, window, common, least, out):
    """Add the running means of the residuals of both sides to out (plane, amplifier, y)."""
    n_plane, _, _, n_y = residual.shape
    total, count, smooth = np.empty(n_y), np.empty(n_y), np.zeros(n_y)
    for g in range(n_plane):
        for k in range(4):
            if k == 0 or not common:
                _sum_rows(residual[g], 0, 2, 0 if common else k, 4 if common else k + 1, total, count)
                _running_mean(total, count, window, least, smooth)
            for y in range(n_y):
                out[g, k, y] += smooth[y]


@njit(cache=True, nogil=True)
def _subtract(sci, correction, amplifier, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    pattern = np.empty(n_x, dtype=np.float32)
    for d in range(n_dither):
        for i in range(n_integration):
            for g in range(n_group):
                for y in range(n_y):
                    for x in range(n_x):
                        pattern[x] = correction[d, i, g, amplifier[x], y, 0]
                    row, first = sci[d, i, g, y], sci[d, i, 0, y]
                    for x in range(n_x):  # in the order of jwst, which decides the last bit
                        out[d, i, g, y, x] = ((row[x] - first[x]) - pattern[x]) + first[x]


def choose_window(residual, noise_share):
    """Return (window [rows], whether all amplifiers share it) that predicts one side best from the other.

    residual : (plane, side, amplifier, y). The candidates keep the noise of the correction below ``noise_share`` of
    that of a sample; window 0 means no smooth part.
    """
    best = (_prediction_error(residual, 0, False), 0, False)
    for common in (True, False):
        window = max(1, int(np.ceil(1.0 / (noise_share**2 * (8 if common else 2)))))
        while window < residual.shape[-1]:
            found = (_prediction_error(residual, window, common), window, common)
            best = min(best, found)
            window *= 2
    return best[1:]


def _smooth_part(planes, good, mean, sigma, limit, n_parity, window, noise_share):
    """Return the running means (plane, amplifier, y) of what is left of the reference pixels; 0 where none helps."""
    out = np.zeros((len(planes), 4, planes.shape[-1]), dtype=np.float32)
    residual = np.empty(planes.shape, dtype=np.float32)
    _residuals(planes, good, limit, n_parity, mean, sigma, residual)
    rows, common = choose_window(residual, noise_share) if window is None else (int(window), True)
    usable = np.isfinite(residual).mean() if residual.size else 0.0
    if rows > 0 and usable > 0:
        rows = min(int(np.ceil(rows / usable)), planes.shape[-1])
        _add_smooth(residual, rows, common, 1.0 / noise_share**2, out)
    return out


def held_out(neighbours, good, constant, smooth):
    """Return the score of the smooth part on pixels beside the reference pixels, which had no part in it.

    neighbours : (integration, group, y, pixel), good : (y, pixel); constant, smooth : (integration, group, y, pixel),
    the corrections of these pixels. What they leave of the differences of groups is compared, each pixel by its own
    noise, without its slope and without hits; two standard errors are added. NaN: nothing to judge by.
    """
    if neighbours.shape[1] < 2 or not neighbours.size:
        return np.nan
    steps, change = (
        np.ascontiguousarray(np.diff(ramps, axis=1)).reshape(-1, *neighbours.shape[2:]).astype(float)
        for ramps in (neighbours - constant, smooth)
    )
    if not change.any():
        return 1.0
    good = good & np.isfinite(steps).all(axis=0)
    steps[:, ~good] = 0.0
    middle = steps - 0.5 * change  # hits are told half way between the two, which favours neither
    level = np.median(middle, axis=0)
    middle -= level
    noise = MAD_TO_SIGMA * np.median(np.abs(middle), axis=0)
    used = good & (noise > 0) & (np.abs(middle) < OUTLIER * noise)
    steps = (steps - level) * used
    weight = used / np.where(noise > 0, noise, 1.0) ** 2
    before = float(np.sum(weight * steps**2))
    gain = np.sum(weight * change * (2.0 * steps - change), axis=-1)  # of each row, whose pixels share their noise
    error = float(np.std(gain)) * np.sqrt(gain.size)
    return (before - float(np.sum(gain)) + 2.0 * error) / before if before > 0 else np.nan


def measure(
    sci: Array, pixel_dq: Array, columns: Sequence[int], beside: Sequence[int] | Array = (),
    amplifiers: Sequence[int] = (), n_parity: int = 2, limit: float = 3.0, smooth: bool = False,
    window: int | None = None, noise_share: float = 0.1,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the correction [DN] (..., integration, group, amplifier, y) from reference columns, and its score (...).

    sci : (..., integration, group, y, x), pixel_dq : (..., y, x).
    columns : places along x of the eight reference columns, left four, right four.
    beside : those of other columns, of ``amplifiers``, on which the smooth part is judged.
    window : rows of the running mean, shared by the amplifiers, taken unjudged (score NaN); None chooses.
    """
    n_y = sci.shape[-2]
    neighbours, neighbour_dq = sci[..., list(beside)], pixel_dq[..., list(beside)]
    sci, pixel_dq = sci[..., list(columns)], pixel_dq[..., list(columns)]
    samples = np.moveaxis(sci.astype(np.float32), -1, -2).reshape(-1, *sci.shape[-4:-2], 2, 4, n_y)
    good = (np.moveaxis(pixel_dq, -1, -2).reshape(-1, 2, 4, n_y) & 1) == 0
    (good,) = read_only(np.broadcast_to(good, (samples.shape[0], *good.shape[1:])))
    samples = samples - samples[:, :, :1]
    beside = neighbours.astype(np.float32).reshape(len(samples), *neighbours.shape[-4:])
    fine = np.broadcast_to((neighbour_dq & 1) == 0, (*neighbours.shape[:-4], *neighbours.shape[-2:]))
    fine = fine.reshape(len(samples), *neighbours.shape[-2:])
    out = np.zeros((*samples.shape[:3], 4, n_y), dtype=np.float32)
    score = np.full(len(samples), np.nan, dtype=np.float32)
    for n, (one, result) in enumerate(zip(samples, out, strict=True)):
        planes = np.ascontiguousarray(one[:, 1:]).reshape(-1, 2, 4, n_y)
        mean, sigma = np.empty((2, len(planes), 2, 4, n_parity))
        correction = np.zeros((len(planes), 4, n_y), dtype=np.float32)
        _constants(planes, good[n], limit, n_parity, correction, mean, sigma)
        result[:, 1:] = correction.reshape(result.shape[0], -1, 4, n_y)
        if not smooth:
            continue
        more = np.zeros_like(result)
        more[:, 1:] = _smooth_part(planes, good[n], mean, sigma, limit, n_parity, window, noise_share).reshape(
            result.shape[0], -1, 4, n_y
        )
        if window is None:
            parts = [np.moveaxis(part[:, :, list(amplifiers)], 2, -1) for part in (result, more)]
            score[n] = held_out(beside[n], fine[n], *parts)
        if window is not None or score[n] < 1.0:
            result += more
    return out.reshape(*sci.shape[:-2], 4, n_y), score.reshape(sci.shape[:-4])


def subtract(sci: Array, correction: Array, amplifier: Array) -> Array:
    """Return sci - correction [DN]; correction (dither, integration, group, amplifier, y, 1), amplifier (1, x)."""
    out = np.empty(sci.shape, dtype=np.float32)
    _subtract(sci, correction, np.asarray(amplifier[0], dtype=np.int64), out)
    return out
