"""Kernels that correct the columns of a slice together: fringes whose amplitude and phase vary smoothly.

A component is Re[c(k, t) exp(-2 pi i f k)] with one frequency f for the group and a complex amplitude c. t is the
*track*, the place along the slice in columns: traces are bent, so that a source crosses columns but stays on its
track. :mod:`._cell_kernels` predict c at each place from what lies beyond all that a line there can touch: the line
itself, and the continuum around it (:mod:`._level_kernels`). The fringes of one spectrum alone are waves of all
frequencies at once (:mod:`._wave_kernels`): a line flips no choice of one there.
"""

import math

import numpy as np

from mrsxr._clip_kernels import MAD_TO_SIGMA
from mrsxr.compiled import Array, njit

from ._cell_kernels import fit_component
from ._column_kernels import LEAST_SAMPLES, TINY, gather, keep_continuum, noise_of
from ._level_kernels import local_level
from ._line_kernels import bounds, mask_lines, robust_residual
from ._sine_kernels import add_power, strongest
from ._wave_kernels import predict_fringes

LINE = 800.0 / 299792.458  # reach of a line to each side, of its wavenumber
RINGING = 0.5  # periods over which a line changes the continuum
MOST = 4  # components
HALF = math.log(2.0)  # median of the power of white noise
BRIGHT = 6  # columns that the frequency is sought in
COARSE, STIFF = 2.9, 0.004  # 1/cm, and of the wavenumber: lines are sought against a continuum of this period
ROUNDS = 3  # of weights towards its least sum of absolute residuals, each turn
CAUCHY = 3.0  # sigma, where samples have half their weight
#: Parts of the wavenumbers, each judged by the others: where a fringe is as narrow as a line, and where there are few
#: periods, so that one line weighs much. Else fringes drift more than a line weighs.
FOLDS = 4
NARROW, FEW = 1.0, 35  # 1/cm, periods
FLAT = 8.6  # periods over which the level below the fringes of one spectrum is straight


@njit(cache=True, nogil=True)
def _find_frequency(x, counts, rest, weights, snr, low, high):
    """Return the frequency of the strongest wave in the brightest columns, and the power of noise beside it, >= 1."""
    span = 0.0
    for c in range(x.shape[0]):
        if counts[c] > 0:
            span = max(span, x[c, counts[c] - 1] - x[c, 0])
    step = 1.0 / (4.0 * span)
    power = np.zeros(max(int((high - low) / step) + 1, 3))
    order = np.argsort(-snr)
    used = 0
    for c in order[: min(BRIGHT, order.size)]:
        n = counts[c]
        if n > 0 and snr[c] > 0:
            add_power(x[c, :n], rest[c, :n], weights[c, :n], low, step, power)
            used += 1
    noise = np.median(power) / (HALF * max(used, 1))
    return strongest(power, low, step), max(noise, 1.0)


@njit(cache=True, nogil=True)
def _relative(x, y, sigma, keep, other, fringe, period, rest, weights):
    """Fill y / (continuum x other) - 1 and its inverse variance; 0 where there is no continuum."""
    n = x.size
    flat, trust, background = np.empty(n), np.empty(n), np.empty(n)
    for k in range(n):
        divisor = other[k] * (1.0 + fringe[k])
        flat[k] = y[k] / divisor
        trust[k] = divisor / sigma[k] if keep[k] else 0.0
    local_level(x, flat, trust, period, background)
    for k in range(n):
        level = background[k] * other[k]
        fine = keep[k] and level > 0.0
        rest[k] = y[k] / level - 1.0 if fine else 0.0
        weights[k] = (level / sigma[k]) ** 2 if fine else 0.0


@njit(cache=True, nogil=True)
def _find_lines(x, y, sigma, base, keep, counts, other, fringe, rounds, e):
    """Leave out the lines that stand out of the data less their fringes."""
    for c in range(x.shape[0]):
        n = counts[c]
        if n > 0:
            divisor = other[c, :n] * (1.0 + fringe[c, :n])
            stiff = max(COARSE, STIFF * x[c, n - 1])
            robust_residual(x[c, :n], y[c, :n] / divisor, sigma[c, :n] / divisor, base[c, :n], stiff, rounds, e[c, :n])
    mask_lines(x, counts, e, base, keep)


@njit(cache=True, nogil=True)
def _scale_noise(rest, fringe, keep, weights, e):
    """Lower the weights of a column to the spread of its residuals, and those of samples that stand out of it."""
    values = np.abs(rest - fringe)[keep] * np.sqrt(weights[keep])
    if values.size <= 10:
        return
    spread = CAUCHY * MAD_TO_SIGMA * np.median(np.abs(e[keep]))
    weights /= max(1.0, (MAD_TO_SIGMA * np.median(values)) ** 2)
    if spread > 0.0:
        weights /= 1.0 + (e / spread) ** 2


@njit(cache=True, nogil=True)
def _fit_family(x, tracks, n_track, y, sigma, good, keep, counts, snr, active, other, family, fringe, variance):
    """Fill the fringes of one family (column, sample) and their variance; return the number of components.

    Lines stand out from fringes that were predicted without them: a first pass shows them; the second leaves them out
    and fits the continuum below the fringes found first. In the second each of the folds, parts of the wavenumbers,
    has fringes whose frequencies and smoothness the other parts have chosen.
    """
    shape = x.shape
    period = family[0]
    if (counts > 0).sum() == 1:
        return _fit_alone(x, y, sigma, good, counts, other, family, fringe, variance)
    low, high = bounds(x, counts)
    folds = FOLDS if period < NARROW or high - low < FEW * period else 1
    margin = LINE * high + (RINGING + 0.5) * period
    rest, weights, e = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    found, spread = np.zeros(shape), np.zeros(shape)
    fringe[:] = 0.0
    variance[:] = 0.0
    count = 0
    for turn in range(2):
        _find_lines(x, y, sigma, good, keep, counts, other, fringe, ROUNDS, e)
        for c in range(shape[0]):
            n = counts[c]
            if n > 0:
                _relative(
                    x[c, :n], y[c, :n], sigma[c, :n], keep[c, :n], other[c, :n], fringe[c, :n], period, rest[c, :n],
                    weights[c, :n],
                )  # fmt: skip
                _scale_noise(rest[c, :n], fringe[c, :n], keep[c, :n], weights[c, :n], e[c, :n])
        if turn == 0:
            count = _fit_components(
                x, tracks, n_track, counts, rest, weights, snr, active, family, (low - 1.0, low - 1.0), fringe, variance
            )
            if count == 0:
                return 0
            continue
        size = (high - low) / folds
        for fold in range(folds):
            start = low + fold * size
            end = start + size if fold < folds - 1 else np.inf
            silent = (start - margin, end + margin) if folds > 1 else (low - 1.0, low - 1.0)
            count += _fit_components(
                x, tracks, n_track, counts, rest, weights, snr, active, family, silent, found, spread
            )  # fmt: skip
            for c in range(shape[0]):
                for k in range(counts[c]):
                    if start <= x[c, k] < end:
                        fringe[c, k], variance[c, k] = found[c, k], spread[c, k]
    return count


@njit(cache=True, nogil=True)
def _fit_alone(x, y, sigma, good, counts, other, family, fringe, variance):
    """Fill the fringes of the only column and their variance; return 1 where there are any, else 0."""
    c = np.argmax(counts)
    n = counts[c]
    flat, noise, e = y[c, :n] / other[c, :n], sigma[c, :n] / other[c, :n], np.zeros(n)
    robust_residual(x[c, :n], flat, noise, good[c, :n], FLAT * family[0], ROUNDS, e)
    level = np.where(good[c, :n], flat - e * noise, 0.0)
    keep = level > 0.0
    for k in range(n):
        flat[k] = flat[k] / level[k] if keep[k] else 1.0
        noise[k] = noise[k] / level[k] if keep[k] else 1.0
    found = predict_fringes(x[c, :n], flat, noise, keep, family[0], family[1], LINE, fringe[c, :n], variance[c, :n])
    return 1 if found else 0


@njit(cache=True, nogil=True)
def _fit_components(x, tracks, n_track, counts, rest, weights, snr, active, family, silent, fringe, variance):
    """Fill the sum of the components of a family, one after the other while any track gains; return how many."""
    shape = x.shape
    period, half = family[0], family[1]
    hole = math.ceil(LINE * bounds(x, counts)[1] / period + RINGING)
    left, part, spread, voting = rest.copy(), np.zeros(shape), np.zeros(shape), weights.copy()
    for c in range(shape[0]):
        for k in range(counts[c]):
            if silent[0] <= x[c, k] <= silent[1]:
                voting[c, k] = 0.0
    fringe[:] = 0.0
    variance[:] = 0.0
    for m in range(min(MOST, int(family[2]))):
        frequency, scale = _find_frequency(x, counts, left, voting, snr, 1.0 / (period + half), 1.0 / (period - half))
        gained = fit_component(
            x, tracks, n_track, counts, left, weights, frequency, period, hole, silent, active, scale, part, spread
        )
        if gained == 0:
            return m
        fringe += part
        variance += spread
        left -= part
    return min(MOST, int(family[2]))


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
        good[c, :n] = keep[c, :n]


@njit(cache=True, nogil=True)
def _correct_group(
    wavenumber, track, flux, error, use, ignore, families, limit, smooth_too, share, factor, relative_variance, rejected
):
    shape = wavenumber.shape
    order, counts = np.zeros(shape, dtype=np.int64), np.zeros(shape[0], dtype=np.int64)
    x, y, sigma = np.zeros(shape), np.zeros(shape), np.ones(shape)
    good, keep = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    snr = np.zeros(shape[0])
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
                x, tracks, n_track, y, sigma, good, keep, counts, snr, active, other, families[f], fringe, variance
            )
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


def correct_group(
    wavenumber: Array, track: Array, flux: Array, error: Array, use: Array, ignore: Array, families: Array,
    limit: float | Array, smooth_too: bool, share: float,
) -> tuple[Array, Array, Array, int]:  # fmt: skip
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
