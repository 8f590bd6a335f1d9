"""Kernels that predict the fringes of one spectrum from all of it but a window about each place.

Continuum and fringes are sums of waves of a Fourier series over somewhat more than the band. The amplitudes of each
wave have a Gaussian prior; that of the continuum is given, the power of the fringes at each frequency is learned:
no frequency is chosen, no smoothness, so that nothing jumps. What lies within a window about a place, wider than any
line, is left out of the prediction there, of continuum and fringes alike, and of the learning of the power: a line
changes nothing at its own place. Lines that stand out of such predictions are left out of all.
"""

import math

import numpy as np

from mrsxr._clip_kernels import MAD_TO_SIGMA
from mrsxr._solve_kernels import cholesky, substitute
from mrsxr.compiled import njit

from ._sine_kernels import dot, fill_waves

BIN = 0.115  # of the period: samples are averaged over it
LONGER = 1.3  # period of the series over the length of the band
SPAN, OVERTONE = 0.25, 0.13  # of the period, to each side: where waves are, and those about half the period
SMOOTH = 0.35  # highest frequency of the continuum [1 / period of fringes]
LEVEL, KNEE = 0.01, 0.087  # relative power of the continuum, and frequency [1 / period of fringes] where it falls off
ROUNDS, MASKED = 12, 2  # of learning, and those between two searches for lines
PARTS, AGAIN = 32, 3  # of the spectrum, whose waves the rest learns anew in some rounds
FASTER = 0.7  # power of the changes of a round
SPARSE = 3.0  # weight of a prior that has power at few frequencies: 1 / power
LEAST_POWER = 0.02  # of the noise of an amplitude: below, there is no wave
STANDS_OUT, GONE = 4.0, 7.0  # sigma, from which on a box counts less, and not at all
WIDEST = 4  # bins to each side of the middle of a box, as which lines are sought
LEAST_GAIN, SOFT = 50.0, 10.0  # chi2 by which predictions must be better than none to count half, and e times less
LEAST_NOISE = 0.25  # of its variance: residuals do not say that there is less


@njit(cache=True, nogil=True)
def _fill_bins(x, y, weights, size, middle, total, mean):
    """Fill place, weight and mean of the bins that hold samples; return their number and the bin of each sample."""
    n = x.size
    bins = np.empty(n, dtype=np.int64)
    at, place = -1, -1
    number = np.zeros(n)
    for k in range(n):
        here = int((x[k] - x[0]) / size)
        if here != place:
            place = here
            at += 1
            middle[at] = total[at] = mean[at] = 0.0
        bins[k] = at
        middle[at] += x[k]
        number[at] += 1.0
        total[at] += weights[k]
        mean[at] += weights[k] * y[k]
    for i in range(at + 1):
        middle[i] /= number[i]
        if total[i] > 0.0:
            mean[i] /= total[i]
    return at + 1, bins


@njit(cache=True, nogil=True)
def _fill_basis(x, origin, frequencies, out):
    """Fill cosines, then sines, of all frequencies (sample, 2 x frequency)."""
    n, m = x.size, frequencies.size
    cosine, sine, away = np.empty(n), np.empty(n), x - origin
    for j in range(m):
        fill_waves(away, frequencies[j], cosine, sine)
        out[:, j] = cosine
        out[:, m + j] = sine


@njit(cache=True, nogil=True)
def _normal(basis, weights, y):
    """Return the normal matrix of the amplitudes and its right side, without a prior."""
    weighted = basis.copy()
    for i in range(basis.shape[0]):
        weighted[i] *= weights[i]
    return np.dot(weighted.T, basis), np.dot(weighted.T, y)


@njit(cache=True, nogil=True)
def _solved(normal, right, precision):
    """Return covariance and mean of the amplitudes of a normal matrix."""
    system = normal.copy()
    for j in range(precision.size):
        system[j, j] += precision[j]
    covariance = np.linalg.inv(system)
    return covariance, np.dot(covariance, right)


@njit(cache=True, nogil=True)
def _posterior(basis, weights, y, precision):
    """Return covariance and mean of the amplitudes."""
    normal, right = _normal(basis, weights, y)
    return _solved(normal, right, precision)


@njit(cache=True, nogil=True)
def _stands_out(gram, whole, share, residual, first, last):
    """Return the mean of bins, predicted without any of them, in units of its error.

    gram (bin, 2 x reach + 1): covariance of the model between a bin and its neighbours; whole, share: weights of the
    bins, and the part with which each was fitted.
    """
    n, half = last - first, gram.shape[1] // 2
    free, partly, m = np.ones(n), np.empty(n, dtype=np.int64), 0
    height = total = 0.0
    for i in range(n):
        k = first + i
        for j in range(n):
            free[i] -= gram[k, half + j - i] * whole[first + j] * share[first + j]
        if share[k] < 1.0:
            partly[m] = i
            m += 1
        else:
            height += whole[k] * residual[k]
            total += whole[k] * free[i]
    if m > 0:
        system, both = np.empty((m, m)), np.empty((2, m))
        for a in range(m):
            i = partly[a]
            both[0, a], both[1, a] = residual[first + i], free[i]
            for b in range(m):
                system[a, b] = gram[first + i, half + partly[b] - i]
            system[a, a] += 1.0 / (whole[first + i] * (1.0 - share[first + i]))
        if not cholesky(system, m):
            return 0.0
        substitute(system, m, both[0])
        substitute(system, m, both[1])
        for a in range(m):
            part = 1.0 / (1.0 - share[first + partly[a]])
            for j in range(n):
                if share[first + j] == 1.0:
                    part -= whole[first + j] * gram[first + j, half + partly[a] - j]
            height += part * both[0, a]
            total += part * both[1, a]
    return height / math.sqrt(total) if total > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _mask(part, basis, residual, whole, share, keep):
    """Fill keep with 0 at boxes that stand out of what the rest predicts, each where it does so most, else 1.

    Between the limits it falls from 1 to 0, so that a little more or less of something flips nothing.

    part : basis x covariance of the amplitudes; share : of the weights ``whole``, with which bins were fitted.
    """
    n = residual.size
    reach = 2 * WIDEST
    gram = np.zeros((n, 2 * reach + 1))
    for i in range(n):
        for j in range(i, min(i + reach + 1, n)):
            gram[i, reach + j - i] = gram[j, reach + i - j] = dot(part[i], basis[j])
    keep[:] = 1.0
    height = np.empty(n)
    for half in range(WIDEST + 1):
        for i in range(n):
            height[i] = abs(_stands_out(gram, whole, share, residual, max(i - half, 0), min(i + half + 1, n)))
        scale = max(1.0, MAD_TO_SIGMA * np.median(height))
        for i in range(n):
            left = (GONE - height[i] / scale) / (GONE - STANDS_OUT)
            if left < 1.0 and height[i] >= height[max(i - half, 0) : i + half + 1].max():
                for j in range(max(i - half - 1, 0), min(i + half + 2, n)):
                    keep[j] = min(keep[j], max(left, 0.0))


@njit(cache=True, nogil=True)
def _relearn(power, active, amplitude, variance, n_smooth):
    """Change the power of the fringes towards its most likely value and mix it with its neighbours'."""
    m = active.size
    new = np.zeros(power.size)
    for j in range(m):
        i = active[j]
        found = 0.5 * (amplitude[n_smooth + j] ** 2 + amplitude[n_smooth + m + j] ** 2)
        unsure = 0.5 * (variance[n_smooth + j] + variance[n_smooth + m + j])
        found /= max(1.0 - unsure / power[i], 0.0) + 0.5 * SPARSE
        new[i] = found**FASTER * power[i] ** (1.0 - FASTER)
    last = power.size - 1
    for i in range(power.size):
        power[i] = 0.5 * new[i] + 0.25 * (new[max(i - 1, 0)] + new[min(i + 1, last)])


@njit(cache=True, nogil=True)
def _select(smooth, waves, power, smooth_power, active):
    """Return the basis of the continuum and of the active waves, and the precision of their prior."""
    n, n_smooth, m, every = smooth.shape[0], smooth.shape[1], active.size, power.size
    basis, precision = np.empty((n, n_smooth + 2 * m)), np.empty(n_smooth + 2 * m)
    basis[:, :n_smooth] = smooth
    precision[:n_smooth] = 1.0 / smooth_power
    for j in range(m):
        basis[:, n_smooth + j] = waves[:, active[j]]
        basis[:, n_smooth + m + j] = waves[:, every + active[j]]
        precision[n_smooth + j] = precision[n_smooth + m + j] = 1.0 / power[active[j]]
    return basis, precision


@njit(cache=True, nogil=True)
def _series(x, middle, period, half):
    """Return the basis of continuum and fringes at the bins, the power of the continuum, frequencies, and origin.

    A family that reaches down to half its period is that of the detector: periods near its own and near half of it. No
    star has others (HD 163466, all bands), but molecules have, as CO with 3.5 to 4.3 1/cm.
    """
    length, origin = LONGER * (x[-1] - x[0]), 0.5 * (x[0] + x[-1])
    first = math.ceil(length / (period + half))
    frequencies = np.arange(first, max(int(length / (period - half)), first + 1)) / length
    if half >= 0.5 * period:
        off = 1.0 / (frequencies * period)
        frequencies = frequencies[(np.abs(off - 1.0) < SPAN) | (np.abs(off - 0.5) < 0.5 * OVERTONE)]
    slow = np.arange(1, int(SMOOTH * length / period) + 1) / length
    smooth, waves = np.ones((middle.size, 2 * slow.size + 1)), np.empty((middle.size, 2 * frequencies.size))
    _fill_basis(middle, origin, slow, smooth[:, 1:])
    _fill_basis(middle, origin, frequencies, waves)
    power = np.ones(smooth.shape[1])
    for j in range(slow.size):
        power[1 + j] = power[1 + slow.size + j] = LEVEL**2 / (1.0 + (slow[j] * period / KNEE) ** 4)
    return smooth, waves, power, frequencies, origin


@njit(cache=True, nogil=True)
def _learn(smooth, waves, smooth_power, total, mean):
    """Return the power of the fringes, which frequencies are active, basis and precision, and weights of the bins.

    total, mean : (bin), weight and mean of the data.
    """
    n_smooth, n_wave = smooth.shape[1], waves.shape[1] // 2
    power = np.full(n_wave, np.median(1.0 / total[total > 0.0]) / n_wave)
    clear, used, scale = np.ones(total.size), total.copy(), 1.0
    for turn in range(ROUNDS + 1):
        active = np.nonzero(power > LEAST_POWER * scale / total.sum())[0]
        basis, precision = _select(smooth, waves, power, smooth_power, active)
        covariance, amplitude = _posterior(basis, used, mean, precision)
        if turn == ROUNDS or active.size == 0:
            break
        if turn > 0 and turn % MASKED == 0:
            whole = np.maximum(total, 1e-6 * total.max()) / scale
            share = clear.copy()
            _mask(np.dot(basis, covariance), basis, mean - np.dot(basis, amplitude), whole, share, clear)
            covariance, amplitude = _posterior(basis, total * clear / scale, mean, precision)
        spread = np.diag(covariance).copy()
        residual = mean - np.dot(basis, amplitude)
        off = (np.abs(residual) * np.sqrt(total))[total > 0.0]  # their median: a line changes no noise
        free = max(off.size - np.sum(1.0 - spread * precision), 10.0)
        scale = max((MAD_TO_SIGMA * np.median(off)) ** 2 * off.size / free, LEAST_NOISE)
        used = total * clear / scale
        _relearn(power, active, amplitude, spread, n_smooth)
    return power, active, basis, precision, used


@njit(cache=True, nogil=True)
def _learn_without(normal, right, power, active, precision, n_smooth):
    """Return the precision of the waves as data without some bins tell it.

    It begins half way between the power that all data tell and the same for all waves, and so forgets what these bins
    put there.
    """
    again, own, m = power.copy(), precision.copy(), active.size
    again[active] = np.sqrt(power[active] * math.exp(np.mean(np.log(power[active]))))
    for turn in range(AGAIN + 1):
        if turn > 0:
            covariance, amplitude = _solved(normal, right, own)
            _relearn(again, active, amplitude, np.diag(covariance).copy(), n_smooth)
        for j in range(m):
            own[n_smooth + j] = own[n_smooth + m + j] = 1.0 / max(again[active[j]], 1e-30)
    return own


@njit(cache=True, nogil=True)
def _leave_window(part, basis, used, residual, n_smooth, i, first, last):
    """Return by how much the amplitudes change where bins first ... last - 1 are left out, and variance at bin i.

    part : basis x covariance of the amplitudes.
    """
    inside = first + np.nonzero(used[first:last] > 0.0)[0]
    wave = basis[i].copy()
    wave[:n_smooth] = 0.0
    right = np.empty((inside.size, 2))
    system = -np.dot(part[inside], basis[inside].T)
    for j in range(inside.size):
        system[j, j] += 1.0 / used[inside[j]]
    felt = np.dot(part[inside], wave)
    right[:, 0], right[:, 1] = residual[inside], felt
    found = np.linalg.solve(system, right)
    return -np.dot(part[inside].T, found[:, 0].copy()), np.sum(felt * found[:, 1])


@njit(cache=True, nogil=True)
def _reached(middle, reach, i):
    """Return the first bin within the reach of bin i, and that after the last."""
    first = np.searchsorted(middle, middle[i] * (1.0 - reach))
    return first, np.searchsorted(middle, middle[i] * (1.0 + reach), side="right")


@njit(cache=True, nogil=True)
def _predict(x, bins, middle, mean, used, power, active, basis, precision, waves, reach, fringe, variance):
    """Fill the fringes, each bin without the data of its window; return how much of them the data there bear out.

    The power of the waves at the bins of a part is learned without these and their windows.

    waves : (sample, 2 x frequency), the basis of the fringes at the samples.
    """
    n, n_smooth = middle.size, basis.shape[1] - waves.shape[1]
    normal, right = _normal(basis, used, mean)
    gain = square = 0.0
    k = 0
    for p in range(PARTS):
        start, end = p * n // PARTS, (p + 1) * n // PARTS
        if start == end:
            continue
        first, last = _reached(middle, reach, start)[0], _reached(middle, reach, end - 1)[1]
        lost, aside = _normal(basis[first:last], used[first:last], mean[first:last])
        own = _learn_without(normal - lost, right - aside, power, active, precision, n_smooth)
        covariance, amplitude = _solved(normal, right, own)
        part = np.dot(basis, covariance)
        residual = mean - np.dot(basis, amplitude)
        fringes_alone = covariance[n_smooth:, n_smooth:].copy()
        for i in range(start, end):
            first, last = _reached(middle, reach, i)
            change, more = _leave_window(part, basis, used, residual, n_smooth, i, first, last)
            change += amplitude
            felt = np.dot(fringes_alone, basis[i, n_smooth:])
            while k < x.size and bins[k] == i:
                fringe[k] = np.dot(waves[k], change[n_smooth:])
                variance[k] = np.dot(felt, basis[i, n_smooth:]) + more
                k += 1
            wave = np.dot(basis[i, n_smooth:], change[n_smooth:])
            gain += used[i] * wave * (mean[i] - np.dot(basis[i, :n_smooth], change[:n_smooth]))
            square += used[i] * wave * wave
    if not gain > 0.0:
        return 0.0
    better = 2.0 * gain - square
    return min(gain / square, 1.0) / (1.0 + math.exp(min((LEAST_GAIN - better) / SOFT, 100.0)))


@njit(cache=True, nogil=True)
def predict_fringes(x, y, sigma, keep, period, half, reach, fringe, variance):
    """Fill the fringes of a spectrum and their variance; return whether they were found.

    Parameters
    ----------
    x, y, sigma, keep : (n)
        Wavenumber by rising order, flux over its level, noise, samples to use.
    period, half : float
        Period of the fringes and half the range of periods [1/cm].
    reach : float
        Half a window, of its wavenumber.
    fringe, variance : (n)
        Filled.
    """
    fringe[:] = 0.0
    variance[:] = 0.0
    weights = np.where(keep, 1.0 / (sigma * sigma), 0.0)
    middle, total, mean = np.empty(x.size), np.empty(x.size), np.empty(x.size)
    n, bins = _fill_bins(x, y - 1.0, weights, BIN * period, middle, total, mean)
    middle, total, mean = middle[:n].copy(), total[:n].copy(), mean[:n].copy()
    if not total.sum() > 0.0:
        return False
    smooth, waves, power, frequencies, origin = _series(x, middle, period, half)
    learned, active, basis, precision, used = _learn(smooth, waves, power, total, mean)
    if active.size == 0:
        return False
    drawn = np.empty((x.size, 2 * active.size))
    _fill_basis(x, origin, frequencies[active], drawn)
    share = _predict(
        x, bins, middle, mean, used, learned, active, basis, precision, drawn, reach, fringe, variance
    )  # fmt: skip
    fringe *= share
    variance *= share * share
    return share > 0.0
