"""Kernels of flat, fringe and photom: factors from reference files, frames and their variances times a factor.

Bits: DO_NOT_USE 1, NO_FLAT_FIELD 1 << 18. Frames are (dither, y, x); a factor may lack the dither.
"""

import numpy as np

from mrsxr.compiled import njit

DO_NOT_USE = np.uint32(1)
NO_FLAT_FIELD = np.uint32(1 << 18)


@njit(cache=True, nogil=True)
def _times(values, factor, out, bad):
    """Set out to values * factor and mark what is not finite."""
    for k in range(values.size):
        value = values[k] * factor[k]
        out[k] = value
        bad[k] |= not np.isfinite(value)


@njit(cache=True, nogil=True)
def _times_square(values, factor, out, bad):
    """Set out to values * factor^2 and mark what is not finite."""
    for k in range(values.size):
        value = values[k] * (factor[k] * factor[k])
        out[k] = value
        bad[k] |= not np.isfinite(value)


@njit(cache=True, nogil=True)
def _square_of_product(values, factor, out, bad):
    """Set out to (values * factor)^2 and mark what is not finite."""
    for k in range(values.size):
        value = values[k] * factor[k]
        value *= value
        out[k] = value
        bad[k] |= not np.isfinite(value)


@njit(cache=True, nogil=True)
def _mark(values, bad):
    """Mark what is not finite."""
    for k in range(values.size):
        bad[k] |= not np.isfinite(values[k])


@njit(cache=True, nogil=True)
def _or(flags, more, out):
    for k in range(flags.size):
        out[k] = flags[k] | more[k]


@njit(cache=True, nogil=True)
def _agree(flags, bad):
    """Bring flags and marks of bad pixels to one mind."""
    for k in range(flags.size):
        bad[k] |= (flags[k] & DO_NOT_USE) != 0
        flags[k] |= np.uint32(bad[k])


@njit(cache=True, nogil=True)
def _blank(out, bad):
    for k in range(out.size):
        out[k] = np.float32(np.nan) if bad[k] else out[k]


def scale_frames(data, flags, *planes, factor, relative, more, match):
    """Multiply frames by a factor, their variances by its square, and add the variance of the factor.

    Parameters
    ----------
    data : float32 (dither, y, x)
    flags : uint32 (dither, y, x)
    *planes : arrays
        In this order, those that are told of below: the factor, its relative error, flags to add, each (y, x) or
        (dither, y, x); then any number of variances (dither, y, x).
    factor, relative, more : bool
        Which of the three are there.
    match : bool
        Make everything NaN and DO_NOT_USE where anything is not finite or DO_NOT_USE.

    Returns
    -------
    tuple of arrays (dither, y, x)
        Data, flags, variances in the order given, and, with ``relative``, the variance (data relative)^2.
    """
    rest = list(planes)
    scales, errors, added = (rest.pop(0) if there else None for there in (factor, relative, more))
    values = [_contiguous(a, np.float32) for a in (data, *rest)]
    outs = [np.empty(data.shape, dtype=np.float32) for _ in range(len(values) + bool(relative))]
    out_flags = np.empty(data.shape, dtype=np.uint32)
    for d in range(data.shape[0]):
        bad = np.zeros(data[d].size, dtype=np.bool_)
        target = [o[d].reshape(-1) for o in outs]
        _scale_one([v[d].reshape(-1) for v in values], _frame(scales, d), _frame(errors, d), target, bad)
        old = _contiguous(flags[d], np.uint32).reshape(-1)
        new = out_flags[d].reshape(-1)
        if added is None:
            new[:] = old
        else:
            _or(old, _frame(added, d, np.uint32), new)
        if match:
            _agree(new, bad)
            for one in target:
                _blank(one, bad)
    return (outs[0], out_flags, *outs[1:])


def _scale_one(values, scales, errors, target, bad):
    for number, (one, out) in enumerate(zip(values, target, strict=False)):
        if scales is None:
            out[:] = one
            _mark(out, bad)
        elif number == 0:
            _times(one, scales, out, bad)
        else:
            _times_square(one, scales, out, bad)
    if errors is not None:
        _square_of_product(target[0], errors, target[-1], bad)


def _contiguous(array, dtype):
    return np.ascontiguousarray(array, dtype=dtype)


def _frame(array, d, dtype=np.float32):
    """Return one frame of an array, flat; one without dithers, or with one, serves all of them."""
    if array is None:
        return None
    if array.ndim == 3:
        array = array[d if array.shape[0] > 1 else 0]
    return _contiguous(array, dtype).reshape(-1)


@njit(cache=True, nogil=True)
def _flat_pixels(flat, error, dq, factor, relative, flags):
    for k in range(flat.size):
        value, bits = flat[k], dq[k]
        if not np.isfinite(value) or value == 0.0:
            bits |= NO_FLAT_FIELD
        if bits & NO_FLAT_FIELD:
            bits |= DO_NOT_USE
        if bits & DO_NOT_USE:
            value = np.float32(1.0)
        factor[k] = np.float32(1.0) / value
        relative[k] = error[k] / value
        flags[k] = bits


def flat_factor(flat, error, dq):
    """Return 1/flat, its relative error and the flags of a flat; 1 where the flat is of no use (y, x)."""
    arrays = [_contiguous(a, t) for a, t in ((flat, np.float32), (error, np.float32), (dq, np.uint32))]
    factor, relative, flags = (np.empty_like(a) for a in arrays)
    _flat_pixels(*(a.reshape(-1) for a in (*arrays, factor, relative, flags)))
    return factor, relative, flags


@njit(cache=True, nogil=True)
def _fringe_pixels(fringe, error, factor, relative):
    for k in range(fringe.size):
        value = fringe[k]
        known = np.isfinite(value) and value != 0.0
        factor[k] = np.float32(1.0) / value if known else np.float32(1.0)
        share = error[k] / value if known else np.float32(0.0)
        relative[k] = share if np.isfinite(share) else np.float32(0.0)


def fringe_factor(fringe, error=None):
    """Return 1/fringe and, with an error, its relative error; 1 and 0 where there is no fringe value (y, x)."""
    value = _contiguous(fringe, np.float32)
    spread = np.zeros_like(value) if error is None else _contiguous(error, np.float32)
    factor, relative = np.empty_like(value), np.empty_like(value)
    _fringe_pixels(*(a.reshape(-1) for a in (value, spread, factor, relative)))
    return factor if error is None else (factor, relative)


@njit(cache=True, nogil=True)
def throughput_at(wavelength, side, bins, values, out):
    """Fill out (y, x) with the throughput of each pixel: linear in wavelength, continued beyond the bins.

    Parameters
    ----------
    wavelength : float64 (y, x)
        NaN between slices: the throughput is 1.
    side : integer (x)
        Row of ``bins`` that a column follows; -1: the throughput is 1.
    bins, values : float64 (side, bin)
        Rising wavelengths, NaN after the last, and the throughput there. Where the result is NaN or not positive it
        is 1.
    out : float64 (y, x), changed
    """
    count = np.zeros(bins.shape[0], dtype=np.int64)
    for s in range(bins.shape[0]):
        while count[s] < bins.shape[1] and np.isfinite(bins[s, count[s]]):
            count[s] += 1
    for y in range(wavelength.shape[0]):
        k = 0
        for x in range(wavelength.shape[1]):
            out[y, x] = 1.0
            w, s = wavelength[y, x], side[x]
            if s < 0 or count[s] == 0 or not np.isfinite(w):
                continue
            if count[s] == 1:
                value = values[s, 0]
            else:
                k = min(k, count[s] - 2)
                while k < count[s] - 2 and w > bins[s, k + 1]:
                    k += 1
                while k > 0 and w < bins[s, k]:
                    k -= 1
                share = (w - bins[s, k]) / (bins[s, k + 1] - bins[s, k])
                value = values[s, k] * (1.0 - share) + values[s, k + 1] * share
            if value > 0.0:
                out[y, x] = value


@njit(cache=True, nogil=True)
def _photom_pixels(conversion, error, throughput, loss_error, factor, relative):
    for k in range(conversion.size):
        value, left = conversion[k], throughput[k]
        known = np.isfinite(value) and value != 0.0
        factor[k] = value / left if known else np.nan
        share = error[k] / value if known else 0.0
        share = share if np.isfinite(share) else 0.0
        lost = loss_error * (1.0 - left) / left
        relative[k] = np.sqrt(share * share + lost * lost)


def photom_factor(conversion, *planes, loss_error, error, law):
    """Return the factor of the flux calibration and its relative error; NaN where there is no conversion.

    Parameters
    ----------
    conversion : (y, x)
    *planes : arrays
        In this order, those that are told of below: the error of the conversion (y, x); then those of the time law:
        wavelength (y, x), side (1, x), bins (side, bin, 1, 1), values (dither, side, bin, 1, 1) and barycentric
        factor (dither, 1, 1) on the wavelength.
    loss_error : float
        Standard error of the lost share 1 - throughput, relative to it.
    error, law : bool
        Which of the two are there.

    Returns
    -------
    factor, relative error : float32 (y, x), with a time law (dither, y, x)
    """
    value = _contiguous(conversion, np.float32)
    rest = list(planes)
    spread = _contiguous(rest.pop(0), np.float32) if error else np.zeros_like(value)
    if not law:
        return _photom_frame(value, spread, np.ones(value.shape), loss_error)
    wavelength, side, bins, values, doppler = rest
    wavelength = _contiguous(wavelength, np.float64)
    side, bins = _contiguous(side[0], np.int64), _contiguous(bins[..., 0, 0], np.float64)
    shape = (values.shape[0], *value.shape)
    factor, relative = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    left = np.empty(value.shape)
    for d in range(shape[0]):
        stretch = float(doppler[d, 0, 0])
        throughput_at(wavelength, side, bins / stretch, _contiguous(values[d, ..., 0, 0], np.float64), left)
        factor[d], relative[d] = _photom_frame(value, spread, left, loss_error)
    return factor, relative


def _photom_frame(value, spread, left, loss_error):
    factor, relative = np.empty_like(value), np.empty_like(value)
    flat = (a.reshape(-1) for a in (value, spread, left))
    _photom_pixels(*flat, float(loss_error), factor.reshape(-1), relative.reshape(-1))  # type: ignore[call-arg]
    return factor, relative
