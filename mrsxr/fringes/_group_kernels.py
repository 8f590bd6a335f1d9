"""Kernels that correct the columns of a slice together: fringes whose amplitude and phase vary smoothly.

A component is Re[c(k, t) exp(-2 pi i f k)] with one frequency f for the group and a complex amplitude c. t is the
*track*, the place along the slice in columns: traces are bent, so that a source crosses columns but stays on its
track. c is estimated in cells of one period of the wavenumber k and one track by local regression: weights fall off
exponentially along k and as a Gaussian over the tracks. A cell and two neighbours to each side along k are left out
of its own estimate. So a line, however faint, cannot change the fringes at its own place; and the squared errors of
these predictions (cross-validation) choose the widths and tell whether a track gets anything at all.

Moments of a cell: sums of w cos cos, w cos sin, w sin sin times u^0, u^1, u^2 (u: place along k), then w r cos and
w r sin times u^0, u^1: 13 numbers.
"""

import math

import numpy as np
from numba import njit

from ._column_kernels import LEAST_SAMPLES, TINY, gather, keep_continuum, noise_of
from ._line_kernels import bounds, common_lines, judge_column
from ._sine_kernels import add_power, fill_waves, strongest
from ._spline_kernels import choose_knots, fit_background

N_MOMENT = 13
BLOCKS = 1.0  # blocks a period
HOLE = 2  # blocks to each side of a block that are left out with it
MOST = 4  # components
BRIGHT = 6  # columns that the frequency is sought in
LEAST_GAIN = 9.0  # chi2 by which the prediction must be better than none


@njit(cache=True, nogil=True, fastmath=True)
def _add_moments(x, track, rest, weights, frequency, low, size, middle, half, out):
    """Add the moments of one column to out (track, block, 13)."""
    n = x.size
    cosine, sine = np.empty(n), np.empty(n)
    fill_waves(x - middle, frequency, cosine, sine)
    for k in range(n):
        w = weights[k]
        if w <= 0.0:
            continue
        row = out[round(track[k]), min(max(int((x[k] - low) / size), 0), out.shape[1] - 1)]
        u = (x[k] - middle) / half
        c, s, r = cosine[k], sine[k], rest[k]
        cc, cs, ss, rc, rs = w * c * c, w * c * s, w * s * s, w * r * c, w * r * s
        row[0] += cc
        row[1] += cc * u
        row[2] += cc * u * u
        row[3] += cs
        row[4] += cs * u
        row[5] += cs * u * u
        row[6] += ss
        row[7] += ss * u
        row[8] += ss * u * u
        row[9] += rc
        row[10] += rc * u
        row[11] += rs
        row[12] += rs * u


@njit(cache=True, nogil=True, fastmath=True)
def _over_tracks(moments, column, sigma, out):
    """Fill the sum of the moments of neighbouring tracks, Gaussian weights of width sigma [tracks], 0: own only."""
    out[:] = moments[column]
    reach = math.ceil(3.0 * sigma)
    for c in range(max(0, column - reach), min(moments.shape[0], column + reach + 1)):
        if c != column:
            g = math.exp(-0.5 * ((c - column) / sigma) ** 2)
            for j in range(out.shape[0]):
                for i in range(N_MOMENT):
                    out[j, i] += g * moments[c, j, i]


@njit(cache=True, nogil=True, fastmath=True)
def _along_blocks(moments, decay, out):
    """Fill sums of moments with weights decay^distance, without the HOLE blocks to each side."""
    n = moments.shape[0]
    near = decay ** (HOLE + 1)
    out[:] = 0.0
    run = np.zeros(N_MOMENT)
    for j in range(HOLE + 1, n):
        for i in range(N_MOMENT):
            run[i] = decay * run[i] + near * moments[j - HOLE - 1, i]
            out[j, i] += run[i]
    run[:] = 0.0
    for j in range(n - HOLE - 2, -1, -1):
        for i in range(N_MOMENT):
            run[i] = decay * run[i] + near * moments[j + HOLE + 1, i]
            out[j, i] += run[i]


@njit(cache=True, nogil=True)
def _amplitude(m, u, order):
    """Return (a, b, variance of the wave) of one block at place u by regression of order 0 or 1; 0 without data."""
    weight = 1e-6 * (m[0] + m[6])
    if not weight > 0.0:
        return 0.0, 0.0, 0.0
    cc, cs, ss, rc, rs = m[0] + weight, m[3], m[6] + weight, m[9], m[11]
    if order == 1:  # the slopes are eliminated
        c1, x1, s1 = m[1] - u * m[0], m[4] - u * m[3], m[7] - u * m[6]
        c2 = m[2] - 2.0 * u * m[1] + u * u * m[0]
        x2 = m[5] - 2.0 * u * m[4] + u * u * m[3]
        s2 = m[8] - 2.0 * u * m[7] + u * u * m[6]
        ridge = 1e-3 * (c2 + s2)
        c2 += ridge
        s2 += ridge
        det = c2 * s2 - x2 * x2
        if det > 0.0:
            ic, ix, i_s = s2 / det, -x2 / det, c2 / det
            g00, g01 = c1 * ic + x1 * ix, c1 * ix + x1 * i_s
            g10, g11 = x1 * ic + s1 * ix, x1 * ix + s1 * i_s
            r1, q1 = m[10] - u * m[9], m[12] - u * m[11]
            cc -= g00 * c1 + g01 * x1
            cs -= g00 * x1 + g01 * s1
            ss -= g10 * x1 + g11 * s1
            rc -= g00 * r1 + g01 * q1
            rs -= g10 * r1 + g11 * q1
    det = cc * ss - cs * cs
    if not det > 0.0:
        return 0.0, 0.0, 0.0
    return (ss * rc - cs * rs) / det, (cc * rs - cs * rc) / det, 0.5 * (cc + ss) / det


#: e-folding length along k [periods] (0: none), order of the regression; width over columns.
LENGTHS = (5.0, 12.0, 0.0, 12.0, 30.0, 0.0)
ORDERS = (0, 0, 0, 1, 1, 1)
WIDTHS = (0.0, 1.5, 4.0, 12.0)


@njit(cache=True, nogil=True)
def _gain(moments, spread, places, order):
    """Return (gain in chi2 by the prediction, sum r p, sum p p)."""
    rp = pp = 0.0
    for j in range(places.size):
        p, q, _ = _amplitude(spread[j], places[j], order)
        m = moments[j]
        rp += p * m[9] + q * m[11]
        pp += p * p * m[0] + 2.0 * p * q * m[3] + q * q * m[6]
    return 2.0 * rp - pp, rp, pp


@njit(cache=True, nogil=True)
def _decay(length):
    return math.exp(-1.0 / (BLOCKS * length)) if length > 0.0 else 1.0


@njit(cache=True, nogil=True)
def _choose(moments, places, chosen):
    """Fill the best (width, length) of each track, -1 where no prediction is worth it.

    Constant amplitudes are tried with all widths, sloping ones with the best width. Neighbours have half a vote.
    """
    n_track, n_block = moments.shape[:2]
    gains = np.zeros((n_track, len(WIDTHS), len(LENGTHS)))
    smooth, spread = np.empty((n_block, N_MOMENT)), np.empty((n_block, N_MOMENT))
    for t in range(n_track):
        for w in range(len(WIDTHS) if n_track > 1 else 1):
            _over_tracks(moments, t, WIDTHS[w], smooth)
            for i in range(3):
                _along_blocks(smooth, _decay(LENGTHS[i]), spread)
                gains[t, w, i] = _gain(moments[t], spread, places, ORDERS[i])[0]
        best = np.argmax(gains[t].ravel()) // len(LENGTHS)
        _over_tracks(moments, t, WIDTHS[best], smooth)
        for i in range(3, len(LENGTHS)):
            _along_blocks(smooth, _decay(LENGTHS[i]), spread)
            gains[t, best, i] = _gain(moments[t], spread, places, ORDERS[i])[0]
    for t in range(n_track):
        total = gains[t].copy()
        for near in (t - 1, t + 1):
            if 0 <= near < n_track:
                total += 0.5 * gains[near]
        own = gains[t].ravel()
        best = np.argmax(total.ravel() * (own > 0.0))
        chosen[t] = best if own[best] > 0.5 * LEAST_GAIN and total.ravel()[best] > LEAST_GAIN else -1


@njit(cache=True, nogil=True)
def _misfit(moments, amplitudes):
    """Return the variance of the wave by which the amplitudes found in each cell differ from the predicted ones."""
    excess = weight = 0.0
    for j in range(moments.shape[0]):
        m, p, q = moments[j], amplitudes[j, 0], amplitudes[j, 1]
        if m[0] > 0.0 and m[6] > 0.0:
            excess += (m[9] - p * m[0] - q * m[3]) ** 2 / m[0] + (m[11] - p * m[3] - q * m[6]) ** 2 / m[6] - 2.0
            weight += m[0] + m[6]
    return excess / weight if excess > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _amplitudes(moments, places, chosen, out):
    """Fill amplitudes (track, block, 3): a, b and the variance of the wave; return the number of tracks that gain."""
    n_track, n_block = moments.shape[:2]
    smooth, spread = np.empty((n_block, N_MOMENT)), np.empty((n_block, N_MOMENT))
    gained = 0
    out[:] = 0.0
    for t in range(n_track):
        if chosen[t] < 0:
            continue
        width, i = WIDTHS[chosen[t] // len(LENGTHS)], chosen[t] % len(LENGTHS)
        _over_tracks(moments, t, width, smooth)
        _along_blocks(smooth, _decay(LENGTHS[i]), spread)
        gain, rp, pp = _gain(moments[t], spread, places, ORDERS[i])
        if gain <= 0.0:
            continue
        gained += 1
        shrink = min(max(rp / pp, 0.0), 1.0)
        scale = shrink * shrink * (0.5 if LENGTHS[i] > 0 else 1.0) * (0.7071 if width > 0 else 1.0)
        for j in range(n_block):
            p, q, v = _amplitude(spread[j], places[j], ORDERS[i])
            out[t, j, 0], out[t, j, 1], out[t, j, 2] = shrink * p, shrink * q, scale * v
        out[t, :, 2] += _misfit(moments[t], out[t])
    return gained


@njit(cache=True, nogil=True, fastmath=True)
def _draw(x, track, frequency, low, size, middle, amplitudes, model, variance):
    """Fill the wave of one column, between the centres of the cells by straight lines."""
    n = x.size
    n_track, n_block = amplitudes.shape[:2]
    cosine, sine = np.empty(n), np.empty(n)
    fill_waves(x - middle, frequency, cosine, sine)
    for k in range(n):
        place = (x[k] - low) / size - 0.5
        j = min(max(int(place), 0), n_block - 2)
        t = min(max(place - j, 0.0), 1.0)
        i = min(int(track[k]), max(n_track - 2, 0))
        o = min(i + 1, n_track - 1)
        s = track[k] - i
        first, last = amplitudes[i], amplitudes[o]
        w00, w01, w10, w11 = (1.0 - s) * (1.0 - t), (1.0 - s) * t, s * (1.0 - t), s * t
        p = w00 * first[j, 0] + w01 * first[j + 1, 0] + w10 * last[j, 0] + w11 * last[j + 1, 0]
        q = w00 * first[j, 1] + w01 * first[j + 1, 1] + w10 * last[j, 1] + w11 * last[j + 1, 1]
        model[k] = p * cosine[k] + q * sine[k]
        variance[k] = w00 * first[j, 2] + w01 * first[j + 1, 2] + w10 * last[j, 2] + w11 * last[j + 1, 2]


@njit(cache=True, nogil=True)
def _fit_component(x, tracks, counts, rest, weights, frequency, period, active, chosen, choose, model, variance):
    """Fill one component (column, sample) and its variance; return how many tracks gained by it."""
    low, high = bounds(x, counts)
    size = period / BLOCKS
    n_block = max(int((high - low) / size) + 1, 2 * HOLE + 3)
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    places = (low + size * (np.arange(n_block) + 0.5) - middle) / half
    moments = np.zeros((chosen.size, n_block, N_MOMENT))
    for c in range(x.shape[0]):
        n = counts[c]
        if n > 0:
            _add_moments(
                x[c, :n], tracks[c, :n], rest[c, :n], weights[c, :n], frequency, low, size, middle, half, moments
            )
    if choose:
        _choose(moments, places, chosen)
    amplitudes = np.empty((chosen.size, n_block, 3))
    gained = _amplitudes(moments, places, chosen, amplitudes)
    for c in range(x.shape[0]):
        n = counts[c]
        model[c, :] = 0.0
        variance[c, :] = 0.0
        if active[c] and gained > 0:
            _draw(x[c, :n], tracks[c, :n], frequency, low, size, middle, amplitudes, model[c, :n], variance[c, :n])
    return gained


@njit(cache=True, nogil=True)
def _find_frequency(x, counts, rest, weights, snr, low, high):
    """Return the frequency of the strongest wave in the brightest columns."""
    span = 0.0
    for c in range(x.shape[0]):
        if counts[c] > 0:
            span = max(span, x[c, counts[c] - 1] - x[c, 0])
    step = 1.0 / (4.0 * span)
    power = np.zeros(max(int((high - low) / step) + 1, 3))
    order = np.argsort(-snr)
    for c in order[: min(BRIGHT, order.size)]:
        n = counts[c]
        if n > 0 and snr[c] > 0:
            add_power(x[c, :n], rest[c, :n], weights[c, :n], low, step, power)
    return strongest(power, low, step)


@njit(cache=True, nogil=True)
def _continuum(x, y, sigma, keep, period, robust, out):
    """Fill the spline continuum of a column; False where there is none."""
    n = x.size
    weights = np.empty(n)
    for k in range(n):
        weights[k] = 1.0 / sigma[k] if keep[k] else 0.0
    total = weights.sum()
    if not total > 0.0:
        return False
    weights *= keep.sum() / total
    knots = x[choose_knots(n, max(int((x[n - 1] - x[0]) / period), 1), np.ones(n))]
    return fit_background(x, y, weights, knots, 2, robust, out)


@njit(cache=True, nogil=True)
def _relative(x, y, sigma, keep, other, fringe, period, robust, rest, weights):
    """Fill y / (continuum x other) - 1 and its inverse variance; False: no continuum."""
    n = x.size
    flat, noise, background = np.empty(n), np.empty(n), np.empty(n)
    for k in range(n):
        divisor = other[k] * (1.0 + fringe[k])
        flat[k], noise[k] = y[k] / divisor, sigma[k] / divisor
    if not _continuum(x, flat, noise, keep, period, robust, background):
        return False
    for k in range(n):
        level = background[k] * other[k]
        fine = keep[k] and level > 0.0
        rest[k] = y[k] / level - 1.0 if fine else 0.0
        weights[k] = (level / sigma[k]) ** 2 if fine else 0.0
    return True


@njit(cache=True, nogil=True)
def _fit_family(x, tracks, n_track, y, sigma, good, keep, counts, snr, active, other, family, noise, fringe, variance):
    """Fill the fringes of one family (column, sample) and their variance; return the number of components.

    A first pass shows the lines, which stand out from fringes that were predicted without them; the second leaves
    them out and fits the continuum below the fringes found first.
    """
    n_column, n_sample = x.shape
    period, half = family[0], family[1]
    low, high = 1.0 / (period + half), 1.0 / (period - half)
    rest, weights = np.zeros((n_column, n_sample)), np.zeros((n_column, n_sample))
    left = np.zeros((n_column, n_sample))
    parts, spreads = np.zeros((MOST, n_column, n_sample)), np.zeros((MOST, n_column, n_sample))
    frequency, chosen = np.zeros(MOST), np.full((MOST, n_track), -1)
    count = 0
    fringe[:] = 0.0
    for turn in range(2):
        for c in range(n_column):
            n = counts[c]
            if n > 0 and not _relative(
                x[c, :n], y[c, :n], sigma[c, :n], keep[c, :n], other[c, :n], fringe[c, :n], period, turn == 0,
                rest[c, :n], weights[c, :n],
            ):  # fmt: skip
                weights[c, :n] = 0.0
            weights[c, :n] /= noise[c]
        for m in range(min(MOST, int(family[2])) if turn == 0 else count):
            left[:] = rest - (fringe - parts[m])
            if turn == 0:
                frequency[m] = _find_frequency(x, counts, left, weights, snr, low, high)
            gained = _fit_component(
                x, tracks, counts, left, weights, frequency[m], period, active, chosen[m], turn == 0, parts[m],
                spreads[m],
            )  # fmt: skip
            _add_up(parts, fringe)
            _add_up(spreads, variance)
            if turn == 0 and gained == 0:
                break
            count = max(count, m + 1)
        if turn == 0:
            common = common_lines(x, counts, rest, weights, fringe)
            for c in range(n_column):
                noise[c] *= judge_column(
                    x[c], good[c], keep[c], counts[c], rest[c], weights[c], fringe[c], period, common
                )
    return count


@njit(cache=True, nogil=True)
def _add_up(parts, out):
    out[:] = 0.0
    for m in range(parts.shape[0]):
        out += parts[m]


@njit(cache=True, nogil=True)
def _prepare(wavenumber, flux, error, use, ignore, limit, smooth_too, order, counts, x, y, sigma, good, keep, snr):
    """Gather the columns of a group, each scaled to a mean of 1; counts is 0 for those without use."""
    n_sample = wavenumber.shape[1]
    ratio = np.empty(n_sample)
    for c in range(wavenumber.shape[0]):
        n = gather(wavenumber[c], flux[c], error[c], use[c], order[c], x[c], y[c], ratio, good[c])
        counts[c] = 0
        snr[c] = 0.0
        if n <= LEAST_SAMPLES or good[c, :n].sum() <= LEAST_SAMPLES:
            continue
        level, noise = y[c, :n].mean(), noise_of(y[c, :n])
        if not (level > 0.0 and noise > 0.0):
            continue
        counts[c], snr[c] = n, level / noise
        limits = np.empty(n)
        for k in range(n):
            i = order[c, k]
            y[c, k] /= level
            s = error[c, i] / level
            sigma[c, k] = s if s > 0.0 and np.isfinite(s) else noise / level
            limits[k] = 2.0 * limit[c, i]
            good[c, k] = good[c, k] and not ignore[c, i]
            keep[c, k] = good[c, k]
        positive = np.maximum(y[c, :n], TINY)
        keep_continuum(positive, ratio[:n], limits, smooth_too, keep[c, :n])
        if keep[c, :n].sum() < 0.5 * n:
            keep[c, :n] = good[c, :n]


@njit(cache=True, nogil=True)
def _correct_group(
    wavenumber, track, flux, error, use, ignore, families, limit, smooth_too, share, factor, relative_variance, rejected
):
    shape = wavenumber.shape
    order, counts = np.zeros(shape, dtype=np.int64), np.zeros(shape[0], dtype=np.int64)
    x, y, sigma = np.zeros(shape), np.zeros(shape), np.ones(shape)
    good, keep = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    snr, noise = np.zeros(shape[0]), np.ones(shape[0])
    _prepare(wavenumber, flux, error, use, ignore, limit, smooth_too, order, counts, x, y, sigma, good, keep, snr)
    other, fringe, variance = np.ones(shape), np.zeros(shape), np.zeros(shape)
    active, tracks = np.zeros(shape[0], dtype=np.bool_), np.zeros(shape)
    for c in range(shape[0]):
        for k in range(counts[c]):
            tracks[c, k] = track[c, order[c, k]]
    n_track = math.ceil(tracks.max()) + 1
    done = 0
    for f in range(families.shape[0]):
        period, half, most, least_snr, least_periods = families[f]
        if not period > 1e-3 or most < 1 or half <= 0.0 or half >= period:
            continue
        for c in range(shape[0]):
            n = counts[c]
            active[c] = n > 0 and snr[c] > share * least_snr and (x[c, n - 1] - x[c, 0]) >= least_periods * period
        if active.any():
            done += _fit_family(
                x, tracks, n_track, y, sigma, good, keep, counts, snr, active, other, families[f], noise, fringe,
                variance,
            )  # fmt: skip
            _multiply(fringe, variance, limit, order, counts, other, factor, relative_variance, rejected)
    return done


@njit(cache=True, nogil=True)
def _multiply(fringe, variance, limit, order, counts, other, factor, relative_variance, rejected):
    """Multiply the factors by (1 + fringe) but where it exceeds the largest amplitude; add relative variances."""
    for c in range(fringe.shape[0]):
        for k in range(counts[c]):
            i, value = order[c, k], fringe[c, k]
            if value == 0.0:
                continue
            if abs(value) > limit[c, i]:
                rejected[c, i] = True
                continue
            other[c, k] *= 1.0 + value
            factor[c, i] *= 1.0 + value
            relative_variance[c, i] += variance[c, k] / (1.0 + value) ** 2


def correct_group(wavenumber, track, flux, error, use, ignore, families, limit, smooth_too, share):
    """Return (1 + fringes, its relative variance, rejected) of neighbouring columns (column, sample) and a count.

    track : (column, sample), from 0, place along the slice in columns.
    """
    shape = wavenumber.shape
    factor, variance = np.ones(shape), np.zeros(shape)
    rejected = np.zeros(shape, dtype=np.bool_)
    k, t, y, e, f, m = (
        np.ascontiguousarray(a, dtype=np.float64) for a in (wavenumber, track, flux, error, families, limit)
    )
    use, ignore = (np.ascontiguousarray(a, dtype=np.bool_) for a in (use, ignore))
    count = _correct_group(k, t, y, e, use, ignore, f, m, bool(smooth_too), float(share), factor, variance, rejected)
    return factor, variance, rejected, count
