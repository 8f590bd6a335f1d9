"""Kernels that predict the complex amplitude of a wave in cells of one period and one track from other cells.

c is estimated by local regression: weights fall off exponentially along k and as a Gaussian over the tracks. A cell
and a hole to each side along k are left out of its own estimate. So a line, however faint, cannot change the fringes
at its own place; and the squared errors of these predictions (cross-validation) weigh the widths and lengths against
each other and against no fringes at all.

Moments of a cell: sums of w times cos cos, cos sin, sin sin, r cos, r sin, all that constant amplitudes need; then cos
cos, cos sin and sin sin each times u and u^2 (u: place along k), r cos and r sin times u: 13 numbers.
"""

import math

import numpy as np

from mrsxr.compiled import njit

from ._line_kernels import bounds
from ._sine_kernels import fill_waves

N_MOMENT, N_CONSTANT = 13, 5
LEAST_GAIN = 12.0  # chi2 by which the prediction must be better than none to weigh as much as none
SOFT = 4.0  # chi2 by which predictions differ that weigh e times as much as others
LEAST_SHARE, LEAST_TOTAL = 0.01, 0.1  # weight of a prediction, and of those of a track together, to be drawn


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
        row[5] += cc * u
        row[6] += cc * u * u
        row[1] += cs
        row[7] += cs * u
        row[8] += cs * u * u
        row[2] += ss
        row[9] += ss * u
        row[10] += ss * u * u
        row[3] += rc
        row[11] += rc * u
        row[4] += rs
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
def _along_blocks(moments, decay, hole, order, out):
    """Fill sums of the moments that the order needs with weights decay^distance, without a cell and its hole."""
    n = moments.shape[0]
    number = N_CONSTANT if order == 0 else N_MOMENT
    near = decay ** (hole + 1)
    run = np.zeros(N_MOMENT)
    for j in range(n):
        out[j, :number] = 0.0
        if j > hole:
            for i in range(number):
                run[i] = decay * run[i] + near * moments[j - hole - 1, i]
                out[j, i] = run[i]
    run[:] = 0.0
    for j in range(n - hole - 2, -1, -1):
        for i in range(number):
            run[i] = decay * run[i] + near * moments[j + hole + 1, i]
            out[j, i] += run[i]


@njit(cache=True, nogil=True, fastmath=True)
def _amplitude(m, u, order):
    """Return (a, b, variance of the wave) of one block at place u by regression of order 0 or 1; 0 without data."""
    weight = 1e-6 * (m[0] + m[2])
    if not weight > 0.0:
        return 0.0, 0.0, 0.0
    cc, cs, ss, rc, rs = m[0] + weight, m[1], m[2] + weight, m[3], m[4]
    if order == 1:  # the slopes are eliminated
        c1, x1, s1 = m[5] - u * m[0], m[7] - u * m[1], m[9] - u * m[2]
        c2 = m[6] - 2.0 * u * m[5] + u * u * m[0]
        x2 = m[8] - 2.0 * u * m[7] + u * u * m[1]
        s2 = m[10] - 2.0 * u * m[9] + u * u * m[2]
        ridge = 1e-3 * (c2 + s2)
        c2 += ridge
        s2 += ridge
        det = c2 * s2 - x2 * x2
        if det > 0.0:
            ic, ix, i_s = s2 / det, -x2 / det, c2 / det
            g00, g01 = c1 * ic + x1 * ix, c1 * ix + x1 * i_s
            g10, g11 = x1 * ic + s1 * ix, x1 * ix + s1 * i_s
            r1, q1 = m[11] - u * m[3], m[12] - u * m[4]
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
WIDTHS = (0.0, 2.0, 8.0)


@njit(cache=True, nogil=True, fastmath=True)
def _gain(moments, spread, places, order):
    """Return the gain in chi2 by the prediction."""
    gain = 0.0
    for j in range(places.size):
        p, q, _ = _amplitude(spread[j], places[j], order)
        m = moments[j]
        gain += 2.0 * (p * m[3] + q * m[4]) - p * p * m[0] - 2.0 * p * q * m[1] - q * q * m[2]
    return gain


@njit(cache=True, nogil=True)
def _decay(length):
    return math.exp(-1.0 / length) if length > 0.0 else 1.0


@njit(cache=True, nogil=True)
def _all_gains(moments, places, hole, gains):
    """Fill the gains (track, width, length) of all predictions.

    Constant amplitudes are tried with all widths, sloping ones with the best width only.
    """
    n_track, n_block = moments.shape[:2]
    gains[:] = 0.0
    smooth, spread = np.empty((n_block, N_MOMENT)), np.empty((n_block, N_MOMENT))
    for t in range(n_track):
        for w in range(len(WIDTHS) if n_track > 1 else 1):
            _over_tracks(moments, t, WIDTHS[w], smooth)
            for i in range(3):
                _along_blocks(smooth, _decay(LENGTHS[i]), hole, ORDERS[i], spread)
                gains[t, w, i] = _gain(moments[t], spread, places, ORDERS[i])
        best = np.argmax(gains[t].ravel()) // len(LENGTHS)
        _over_tracks(moments, t, WIDTHS[best], smooth)
        for i in range(3, len(LENGTHS)):
            _along_blocks(smooth, _decay(LENGTHS[i]), hole, ORDERS[i], spread)
            gains[t, best, i] = _gain(moments[t], spread, places, ORDERS[i])


@njit(cache=True, nogil=True)
def _weigh(gains, scale, share):
    """Fill the weights (track, width, length) of the predictions; what lacks to 1 is that of no fringes.

    They follow the gains, in which neighbouring tracks have half a vote, smoothly: no prediction is worth e times as
    much as another for a few of chi2.

    scale : power of the noise at other frequencies of the family over what the noise of the samples makes; the gains
    count the less.
    """
    n_track = gains.shape[0]
    for t in range(n_track):
        total = gains[t].copy()
        for near in (t - 1, t + 1):
            if 0 <= near < n_track:
                total += 0.5 * gains[near]
        worth = np.minimum(total, 2.0 * gains[t]) / scale
        top = max(worth.max(), LEAST_GAIN)
        share[t] = np.where(worth > 0.0, np.exp((worth - top) / SOFT), 0.0)
        tried = max((worth > 0.0).sum(), 1)
        share[t] /= share[t].sum() + tried * math.exp((LEAST_GAIN - top) / SOFT)
        share[t] = np.where(share[t] > LEAST_SHARE, share[t], 0.0)


@njit(cache=True, nogil=True)
def _misfit(moments, amplitudes):
    """Return the variance of the wave by which the amplitudes found in each cell differ from the predicted ones."""
    excess = weight = 0.0
    for j in range(moments.shape[0]):
        m, p, q = moments[j], amplitudes[j, 0], amplitudes[j, 1]
        if m[0] > 0.0 and m[2] > 0.0:
            excess += (m[3] - p * m[0] - q * m[1]) ** 2 / m[0] + (m[4] - p * m[1] - q * m[2]) ** 2 / m[2] - 2.0
            weight += m[0] + m[2]
    return excess / weight if excess > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _amplitudes(moments, voting, places, hole, first, last, share, out):
    """Fill amplitudes (track, block, 3): a, b and the variance of the wave; return the number of tracks that gain.

    Cells ``first`` ... ``last`` - 1 are predicted from the moments of all others, the rest from those that vote.
    """
    n_track, n_block = moments.shape[:2]
    smooth, spread = np.empty((n_block, N_MOMENT)), np.empty((n_block, N_MOMENT))
    gained = 0
    out[:] = 0.0
    for t in range(n_track):
        if share[t].sum() < LEAST_TOTAL:
            continue
        for w in range(len(WIDTHS)):
            if not share[t, w].any():
                continue
            for inside in range(2 if last > first else 1):
                _over_tracks(moments if inside else voting, t, WIDTHS[w], smooth)
                for i in range(len(LENGTHS)):
                    part = share[t, w, i]
                    if part == 0.0:
                        continue
                    _along_blocks(smooth, _decay(LENGTHS[i]), hole, ORDERS[i], spread)
                    scale = part * (0.5 if LENGTHS[i] > 0 else 1.0) * (0.7071 if w > 0 else 1.0)
                    for j in range(first if inside else 0, last if inside else n_block):
                        if not inside and first <= j < last:
                            continue
                        p, q, v = _amplitude(spread[j], places[j], ORDERS[i])
                        out[t, j, 0] += part * p
                        out[t, j, 1] += part * q
                        out[t, j, 2] += scale * v
        gained += _shrink(voting[t], out[t])
    return gained


@njit(cache=True, nogil=True)
def _shrink(moments, amplitudes):
    """Scale the amplitudes (block, 3) of a track to what the cells themselves hold of them; return whether any."""
    rp = pp = 0.0
    for j in range(moments.shape[0]):
        m, p, q = moments[j], amplitudes[j, 0], amplitudes[j, 1]
        rp += p * m[3] + q * m[4]
        pp += p * p * m[0] + 2.0 * p * q * m[1] + q * q * m[2]
    if not (rp > 0.0 and pp > 0.0):
        amplitudes[:] = 0.0
        return 0
    shrink = min(rp / pp, 1.0)
    amplitudes[:, :2] *= shrink
    amplitudes[:, 2] *= shrink * shrink
    amplitudes[:, 2] += _misfit(moments, amplitudes)
    return 1


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
def fit_component(
    x, tracks, n_track, counts, rest, weights, frequency, period, hole, silent, active, scale, model, variance
):
    """Fill one component (column, sample) and its variance; return how many tracks gained by it.

    hole : cells (of a period) to each side of a cell that are left out with it; silent : lowest and highest
    wavenumber between which cells have no vote: they only predict each other; scale : of chi2.
    """
    low, high = bounds(x, counts)
    n_block = max(int((high - low) / period) + 1, 2)
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    places = (low + period * (np.arange(n_block) + 0.5) - middle) / half
    moments = np.zeros((n_track, n_block, N_MOMENT))
    for c in range(x.shape[0]):
        n = counts[c]
        if n > 0:
            _add_moments(
                x[c, :n], tracks[c, :n], rest[c, :n], weights[c, :n], frequency, low, period, middle, half, moments
            )
    first = math.floor((min(max(silent[0], low), high) - low) / period)
    last = math.ceil((min(max(silent[1], low), high) - low) / period)
    gains = np.zeros((n_track, len(WIDTHS), len(LENGTHS)))
    share = np.zeros(gains.shape)
    voting = moments.copy()
    voting[:, first:last] = 0.0
    _all_gains(voting, places, hole, gains)
    _weigh(gains, scale, share)
    amplitudes = np.empty((n_track, n_block, 3))
    gained = _amplitudes(moments, voting, places, hole, first, last, share, amplitudes)
    for c in range(x.shape[0]):
        n = counts[c]
        model[c, :] = 0.0
        variance[c, :] = 0.0
        if active[c] and gained > 0:
            _draw(x[c, :n], tracks[c, :n], frequency, low, period, middle, amplitudes, model[c, :n], variance[c, :n])
    return gained
