"""Kernels of pixel_replace on plain arrays. Bits: DO_NOT_USE 1, NON_SCIENCE 512, FLUX_ESTIMATED 2^28.

Planes are (plane, y, x): the first holds the data, the others variances.
"""

import math

import numpy as np

from mrsxr._median_kernels import median_of
from mrsxr.compiled import Array, njit, read_only

EDGE = 2  # first and last but one row and column that are filled, as in jwst
LEAST_SNR, MOST = 5.0, 1e20
_ESTIMATED = np.uint32(1 << 28)
_KEEP = np.uint32(0xFFFFFFFE)


@njit(cache=True, nogil=True)
def _gradient(before, after):
    """Absolute difference of a pair; inf where it is not finite."""
    step = abs(before - after)
    return step if math.isfinite(step) else np.inf


@njit(cache=True, nogil=True)
def _joined(labels, y, x, b, a):
    """Whether a neighbour is of the same slice; without labels all are."""
    return labels.shape[0] == 0 or labels[b, a] == labels[y, x]


@njit(cache=True, nogil=True)
def _mingrad(data, variances, dq, labels, out, out_variances, out_dq):
    n_y, n_x = data.shape
    for y in range(EDGE, n_y - EDGE + 1):
        for x in range(EDGE, n_x - EDGE + 1):
            if math.isfinite(data[y, x]) or (labels.shape[0] > 0 and labels[y, x] == 0):
                continue
            along_x = along_y = np.inf
            if _joined(labels, y, x, y, x - 1) and _joined(labels, y, x, y, x + 1):
                along_x = _gradient(data[y, x - 1], data[y, x + 1])
            if _joined(labels, y, x, y - 1, x) and _joined(labels, y, x, y + 1, x):
                along_y = _gradient(data[y - 1, x], data[y + 1, x])
            if along_x == np.inf and along_y == np.inf:
                continue
            dy, dx = (0, 1) if along_x <= along_y else (1, 0)
            out[y, x] = (data[y - dy, x - dx] + data[y + dy, x + dx]) / np.float32(2)
            for v in range(variances.shape[0]):
                before, after = variances[v, y - dy, x - dx], variances[v, y + dy, x + dx]
                sigma = (np.sqrt(before) + np.sqrt(after)) / np.float32(2)
                out_variances[v, y, x] = sigma * sigma
            flags = dq[y, x]
            if flags & np.uint32(512) == 0:
                flags &= _KEEP
            out_dq[y, x] = flags | _ESTIMATED


@njit(cache=True, nogil=True)
def _good(dq, labels, label, y, x):
    return labels[y, x] == label and dq[y, x] & np.uint32(1) == 0


@njit(cache=True, nogil=True)
def _slice_box(dq, labels, label):
    """First column and one beyond the last that hold a good pixel of a slice."""
    low, high = labels.shape[1], 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            if _good(dq, labels, label, y, x):
                low, high = min(low, x), max(high, x + 1)
    return low, high


@njit(cache=True, nogil=True)
def _row_facts(data, total, dq, labels, label, low, high, facts):
    """Fill facts (y, 4) of a slice: good pixels, pixels to fill, largest |data| and largest S/N of usable pixels."""
    for y in range(data.shape[0]):
        facts[y, 0] = facts[y, 1] = 0.0
        facts[y, 2] = facts[y, 3] = np.nan
        for x in range(low, high):
            if labels[y, x] != label:
                continue
            bits = dq[y, x]
            if bits & np.uint32(513) == 0:
                facts[y, 0] += 1.0
            if bits & np.uint32(1):
                facts[y, 1] += 0.0 if bits & np.uint32(512) else 1.0
                continue
            value, var = abs(data[y, x]), total[y, x]
            if value == value and not facts[y, 2] >= value:
                facts[y, 2] = value
            snr = value / np.sqrt(var) if var > 0.0 else (np.inf if value > 0.0 and var == 0.0 else np.nan)
            if snr == snr and not facts[y, 3] >= snr:
                facts[y, 3] = snr


@njit(cache=True, nogil=True, error_model="numpy")
def _profile(plane, root, dq, labels, label, rows, n_rows, scales, x, values):
    """Median over neighbouring rows of a plane (its root for a variance) at column x, each row over its scale."""
    n = 0
    for k in range(n_rows):
        y = rows[k]
        if not _good(dq, labels, label, y, x):
            continue
        value = np.sqrt(plane[y, x]) if root else plane[y, x]
        value = value / scales[k]
        if value == value:
            values[n] = value
            n += 1
    return median_of(values, n)


@njit(cache=True, nogil=True, error_model="numpy")
def _row_scale(data, dq, labels, label, y, low, high, rows, n_rows, scales, values):
    """Return (factor, usable): what turns the median profile into row y, by least squares of absolute values."""
    peak, count = np.float32(-np.inf), 0
    for x in range(low, high):
        if _good(dq, labels, label, y, x) and data[y, x] == data[y, x]:
            peak = max(peak, data[y, x])
            count += 1
    if count == 0:
        return 1.0, False
    both = square = most_profile = most_data = 0.0
    for x in range(low, high):
        if _good(dq, labels, label, y, x) and data[y, x] == data[y, x]:
            profile = abs(_profile(data, False, dq, labels, label, rows, n_rows, scales, x, values))
            value = abs(data[y, x] / peak) if peak != 0.0 else np.inf
            most_data = max(most_data, value)
            if profile == profile:
                most_profile = max(most_profile, profile)
                both += profile * value
                square += profile * profile
    if not (most_profile < MOST and most_data < MOST and square > 0.0):
        return 1.0, True
    return both / square * peak, True


@njit(cache=True, nogil=True)
def _fill_row(data, variances, dq, labels, label, y, low, high, rows, n_rows, scales, values, fit, outs):
    out, out_variances, out_dq = outs
    factor = 1.0
    usable = False
    for x in range(low, high):
        usable = usable or (_good(dq, labels, label, y, x) and data[y, x] == data[y, x])
    if not usable:
        return
    if fit:
        factor, usable = _row_scale(data, dq, labels, label, y, low, high, rows, n_rows, scales, values)
    for x in range(low, high):
        bits = dq[y, x]
        if labels[y, x] != label or bits & np.uint32(1) == 0 or bits & np.uint32(512):
            continue
        value = _profile(data, False, dq, labels, label, rows, n_rows, scales, x, values) * factor
        out[y, x] = value
        if value == value:
            out_dq[y, x] = (bits & _KEEP) | _ESTIMATED
        for v in range(variances.shape[0]):
            sigma = _profile(variances[v], True, dq, labels, label, rows, n_rows, scales, x, values) * factor
            out_variances[v, y, x] = sigma * sigma


@njit(cache=True, nogil=True)
def _fit_profile(data, variances, total, dq, labels, label, n_adjacent, outs):
    n_y = data.shape[0]
    facts = np.empty((n_y, 4))
    low, high = _slice_box(dq, labels, label)
    _row_facts(data, total, dq, labels, label, low, high, facts)
    rows, order = np.empty(2 * n_adjacent, dtype=np.int64), np.empty(2 * n_adjacent, dtype=np.float32)
    scales, values = np.empty(2 * n_adjacent, dtype=np.float32), np.empty(2 * n_adjacent, dtype=np.float32)
    for y in range(n_y):
        if facts[y, 0] == 0.0 or facts[y, 1] == 0.0:
            continue
        n_rows, n, snr = 0, 0, np.nan
        for other in range(max(0, y - n_adjacent), min(n_y, y + n_adjacent + 1)):
            if other != y and facts[other, 0] > 0.0:
                rows[n_rows], scales[n_rows] = other, facts[other, 2]
                n_rows += 1
                if facts[other, 2] == facts[other, 2]:
                    order[n] = facts[other, 2]
                    n += 1
                if facts[other, 3] == facts[other, 3] and not snr >= facts[other, 3]:
                    snr = facts[other, 3]
        if n_rows == 0:
            continue
        fit = True
        if snr < LEAST_SNR:
            scales[:n_rows] = 1.0
            fit = False
        else:
            fit = median_of(order, n) != 1.0
        _fill_row(data, variances, dq, labels, label, y, low, high, rows, n_rows, scales, values, fit, outs)


def _over_dithers(frame, planes, *options):
    """Run frame(data, variances, dq, outs, *options) for each dither of planes (data, variances ..., dq)."""
    outs = [np.empty_like(plane) for plane in planes]
    for d in range(planes[0].shape[0]):
        data, dq = planes[0][d], planes[-1][d]
        variances = np.stack([plane[d] for plane in planes[1:-1]])
        result = data.copy(), variances.copy(), dq.copy()
        frame(data, variances, dq, result, *options)
        for out, one in zip(outs, (result[0], *result[1], result[2]), strict=True):
            out[d] = one
    return tuple(outs)


def _mingrad_frame(data, variances, dq, outs, labels):
    _mingrad(data, variances, dq, labels, *outs)


def _profile_frame(data, variances, dq, outs, labels, n_adjacent):
    total = variances.sum(axis=0)
    for label in np.unique(labels[labels > 0]):
        _fit_profile(data, variances, total, dq, labels, label, n_adjacent, outs)


def fill_mingrad(*planes: Array) -> tuple[Array, ...]:
    """Return data, variances and dq (dither, y, x) with the mean of the pair of smaller difference where data are NaN.

    planes : data, variances ..., dq.
    """
    return fill_mingrad_in_slices(np.empty((0, 0), np.int16), *planes)


def fill_mingrad_in_slices(labels: Array, *planes: Array) -> tuple[Array, ...]:
    """Return the same, but only within slices and from pixels of the same slice; labels (y, x)."""
    return _over_dithers(_mingrad_frame, planes, *read_only(labels))


def fill_profile(labels: Array, *planes: Array, n_adjacent: int = 3) -> tuple[Array, ...]:
    """Return data, variances and dq (dither, y, x) with the scaled profile of neighbouring rows where DO_NOT_USE."""
    return _over_dithers(_profile_frame, planes, labels, int(n_adjacent))


@njit(cache=True, nogil=True)
def _over_star(data, variances, dq, labels, star, error, out, out_variances, out_dq, reach):
    n_y, n_x = data.shape
    place = np.empty(2, np.int64)
    for y in range(n_y):
        for x in range(n_x):
            bad = not math.isfinite(data[y, x]) or dq[y, x] & np.uint32(1) != 0
            if not bad or labels[y, x] == 0 or star[y, x] == 0:
                continue
            place[:] = -1
            for side in range(2):
                for k in range(1, reach + 1):
                    a = x + (k if side else -k)
                    if a < 0 or a >= n_x or labels[y, a] != labels[y, x]:
                        break
                    if math.isfinite(data[y, a]) and dq[y, a] & np.uint32(1) == 0:
                        place[side] = a
                        break
            if place[0] < 0 and place[1] < 0:
                continue
            first, last = place[0] if place[0] >= 0 else place[1], place[1] if place[1] >= 0 else place[0]
            share = np.float32((x - first) / (last - first)) if last > first else np.float32(0)
            before, after = data[y, first] - star[y, first], data[y, last] - star[y, last]
            out[y, x] = star[y, x] + before + share * (after - before)
            rest = 1 - share
            for v in range(variances.shape[0]):
                out_variances[v, y, x] = rest * rest * variances[v, y, first] + share * share * variances[v, y, last]
            if variances.shape[0]:  # of the model, which counts by what the line between both lacks of it
                part = error[y, x] * (1 - (rest * star[y, first] + share * star[y, last]) / star[y, x])
                out_variances[-1, y, x] += part * part
            out_dq[y, x] = (dq[y, x] & _KEEP) | _ESTIMATED


def fill_over_star(star: Array, error: Array, labels: Array, *planes: Array, reach: int = 4) -> tuple[Array, ...]:
    """Return flux, variances and flags in which bad pixels hold a star and what lies beside it in the row.

    Parameters
    ----------
    star, error : float32 (dither, y, x)
        Light of the star, 0 where nothing is filled, and its error, which goes into the last variance.
    labels : int16 (y, x)
    *planes : (dither, y, x)
        flux, variances, dq.
    reach : int
        Columns, within the slice, to the nearest good pixels on both sides, between which flux less star is linear.
    """
    data, *variances, dq = planes
    out = [np.array(plane) for plane in planes]
    spread = np.stack(variances, axis=1) if variances else np.empty((len(data), 0, *data.shape[1:]), np.float32)
    filled = spread.copy()
    for d in range(data.shape[0]):
        _over_star(data[d], spread[d], dq[d], labels, star[d], error[d], out[0][d], filled[d], out[-1][d], reach)
    return (out[0], *np.moveaxis(filled, 1, 0), out[-1])
