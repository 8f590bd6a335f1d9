"""Kernels of the detector-level outlier test on plain arrays: difference with the neighbours, running median."""

import numpy as np

from mrsxr._median_kernels import TILE, sort_columns, sorting_pairs
from mrsxr.compiled import Array, njit, read_only


@njit(cache=True, nogil=True)
def _side_difference(flux, dq, out):
    n_y, n_x = flux.shape
    for y in range(n_y):
        for x in range(n_x):
            out[y, x] = np.nan
            if dq[y, x] & np.uint32(1):
                continue
            here = np.float64(flux[y, x])
            for side in (-1, 1):
                other = 0.0
                if 0 <= x + side < n_x:
                    other = np.nan if dq[y, x + side] & np.uint32(1) else np.float64(flux[y, x + side])
                difference = abs(here - other)
                if difference < out[y, x] or (np.isnan(out[y, x]) and not np.isnan(difference)):
                    out[y, x] = difference


def side_difference(flux: Array, dq: Array) -> Array:
    """Return the smaller of the absolute differences with the left and the right neighbour, float64.

    flux (..., y, x), dq alike: DO_NOT_USE pixels count as NaN. Beyond the frame the neighbour is 0, as in jwst; NaN
    where the pixel or both neighbours are NaN.
    """
    out = np.empty(flux.shape, dtype=np.float64)
    flux, dq = read_only(flux, dq)
    for plane in np.ndindex(*flux.shape[:-2]):
        _side_difference(flux[plane], dq[plane], out[plane])
    return out


@njit(cache=True, nogil=True)
def _running_median(wide, rows, columns, pairs, out):
    values, count = np.empty((rows * columns, TILE)), np.empty(TILE, dtype=np.int64)
    for y in range(out.shape[0]):
        for x in range(0, out.shape[1], TILE):
            count[:] = 0
            for k in range(rows * columns):
                some, line = wide[y + k // columns, x + k % columns : x + k % columns + TILE], values[k]
                for t in range(TILE):
                    known = some[t] == some[t]
                    line[t] = some[t] if known else np.inf
                    count[t] += np.int64(known)
            sort_columns(values, pairs)
            for t in range(min(TILE, out.shape[1] - x)):
                if not np.isnan(out[y, x + t]):
                    out[y, x + t] = 0.5 * (values[(count[t] - 1) >> 1, t] + values[count[t] >> 1, t])


def running_median(image, rows, columns):
    """Return the median of the valid pixels in a window of odd size around each valid pixel, NaN elsewhere.

    image : float64 (y, x); beyond the frame it is 0, as in jwst.
    """
    out, (half_y, half_x) = image.copy(), (rows // 2, columns // 2)
    wide = np.pad(image, ((half_y, half_y), (half_x, half_x + TILE)))
    _running_median(wide, rows, columns, sorting_pairs(rows * columns), out)
    return out


def normalise(minimum, rows, columns, floor_fraction):
    """Return the differences in units of their local median, which is no smaller than a share of the global one.

    minimum : float64 (y, x)
    """
    if np.isnan(minimum).all():
        return minimum.copy()
    local = running_median(minimum, rows, columns)
    floor = np.nanmedian(minimum) * floor_fraction
    local[local < floor] = floor
    with np.errstate(divide="ignore", invalid="ignore"):
        return minimum / local


def mark(minimum: Array, rows: int, columns: int, percent: float, second_check: bool, bits: int) -> Array:
    """Return flags uint32 (y, x) of the pixels above a percentile of the normalised differences.

    minimum : float64 (y, x); percent : threshold, over all but the outer four rows and columns;
    second_check : flag the pixels without a difference as well; bits : what to set.
    """
    score = normalise(minimum, rows, columns, 1 / 3)
    inner = score[4:-4, 4:-4]
    inner = inner[~np.isnan(inner)]
    found = np.zeros(score.shape, dtype=bool)
    if inner.size:
        with np.errstate(invalid="ignore"):
            found = score > np.percentile(inner, percent)
    if second_check:
        found |= np.isnan(minimum)
    return found.astype(np.uint32) * np.uint32(bits)
