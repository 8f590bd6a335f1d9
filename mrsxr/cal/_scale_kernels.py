"""Kernels of flat, fringe and photom: factors from reference files, frames and their variances times a factor.

Bits: DO_NOT_USE 1, NO_FLAT_FIELD 1 << 18. Frames are (dither, y, x); a factor may lack the dither.
"""

import numpy as np

from mrsxr.compiled import Array, njit, read_only

DO_NOT_USE = np.uint32(1)
NO_FLAT_FIELD = np.uint32(1 << 18)


def scale_frames(
    data: Array, flags: Array, *planes: Array, factor: bool, relative: bool, more: bool, match: bool
) -> tuple[Array, ...]:
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
    outs = [np.empty(data.shape, dtype=np.float32) for _ in range(1 + len(rest) + relative)]
    bits = flags.astype(np.uint32) if added is None else flags.astype(np.uint32) | added
    with np.errstate(all="ignore"):
        for number, (one, out) in enumerate(zip((data, *rest), outs, strict=False)):
            if scales is None:
                out[:] = one
            else:
                np.multiply(one, scales if number == 0 else scales * scales, out=out, dtype=np.float32)
        if errors is not None:
            np.multiply(outs[0], errors, out=outs[-1], dtype=np.float32)
            np.square(outs[-1], out=outs[-1])
    if match:
        bad = (bits & DO_NOT_USE) != 0
        for one in outs:
            bad |= ~np.isfinite(one)
        bits |= bad
        for one in outs:
            np.copyto(one, np.nan, where=bad)
    return (outs[0], bits, *outs[1:])


def flat_factor(flat: Array, error: Array, dq: Array) -> tuple[Array, Array, Array]:
    """Return 1/flat, its relative error and the flags of a flat; 1 where the flat is of no use (y, x)."""
    flat, error, bits = flat.astype(np.float32), error.astype(np.float32), dq.astype(np.uint32)
    bits |= (~np.isfinite(flat) | (flat == 0)) * NO_FLAT_FIELD
    bits |= ((bits & NO_FLAT_FIELD) != 0) * DO_NOT_USE
    np.copyto(flat, 1.0, where=(bits & DO_NOT_USE) != 0)
    with np.errstate(all="ignore"):
        return np.float32(1.0) / flat, error / flat, bits


def fringe_factor(fringe: Array, error: Array | None = None) -> Array | tuple[Array, Array]:
    """Return 1/fringe and, with an error, its relative error; 1 and 0 where there is no fringe value (y, x)."""
    fringe = fringe.astype(np.float32)
    factor, relative = _inverse(fringe, error)
    return factor if error is None else (factor, relative)


def _inverse(values, error):
    """Return 1 / values and the relative error of values, float32; 1 and 0 where there is no value."""
    known = np.isfinite(values) & (values != 0)
    with np.errstate(all="ignore"):
        factor = np.float32(1.0) / np.where(known, values, np.float32(1.0))
        relative = np.zeros_like(factor) if error is None else error.astype(np.float32) / values
    return factor, np.where(known & np.isfinite(relative), relative, np.float32(0.0))


@njit(cache=True, nogil=True)
def throughput_at(wavelength: Array, side: Array, bins: Array, values: Array, out: Array) -> None:
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


def photom_factor(conversion: Array, *planes: Array, loss_error: float, error: bool, law: bool) -> tuple[Array, Array]:
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
    value = conversion.astype(np.float32)
    rest = list(planes)
    spread = rest.pop(0) if error else None
    if not law:
        return _photom_frame(value, spread, 1.0, loss_error)
    wavelength, side, bins, values, doppler = rest
    wavelength, bins, values = read_only(*(one.astype(np.float64, copy=False) for one in (wavelength, bins, values)))
    side, bins, values = side[0].astype(np.int64), bins[..., 0, 0], values[..., 0, 0]
    factor, relative = np.empty((2, values.shape[0], *value.shape), dtype=np.float32)
    left = np.empty(value.shape)
    for d in range(values.shape[0]):
        throughput_at(wavelength, side, bins / float(doppler[d, 0, 0]), values[d], left)
        factor[d], relative[d] = _photom_frame(value, spread, left, loss_error)
    return factor, relative


def _photom_frame(value, spread, left, loss_error):
    _, share = _inverse(value, spread)
    lost = loss_error * (1.0 - left) / left
    with np.errstate(all="ignore"):
        factor = np.where(np.isfinite(value) & (value != 0), value / left, np.nan).astype(np.float32)
        return factor, np.sqrt(share.astype(float) ** 2 + lost * lost).astype(np.float32)
