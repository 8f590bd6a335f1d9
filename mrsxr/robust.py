"""Statistics of arrays that outliers do not move; those of compiled code stand in ``_clip_kernels``."""

from __future__ import annotations

from typing import Any

import numpy as np

#: Standard deviation of a normal distribution over its median absolute deviation.
MAD_TO_SIGMA = 1.4826


def middle_and_scatter(values: np.ndarray) -> tuple[Any, Any]:
    """Return the median of some finite values, and the standard deviation by absolute deviations from it."""
    middle = np.median(values)
    return middle, MAD_TO_SIGMA * np.median(np.abs(values - middle))


def real_variances(values: np.ndarray) -> np.ndarray:
    """Return variances with NaN in place of negative ones, which are no errors; the very array where there are none."""
    wrong = values < 0
    return np.where(wrong, values.dtype.type(np.nan), values) if wrong.any() else values


def median_image(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the median along the first axis, NaN left out, of the places that are known; NaN elsewhere."""
    out = np.full(known.shape, np.nan)
    if known.any():
        each = np.sort(values[:, known].T, axis=1)  # NaN are last; numpy's nanmedian takes one place after the other
        count = np.count_nonzero(~np.isnan(each), axis=1)[:, None]
        low, high = (np.take_along_axis(each, k, axis=1)[:, 0] for k in ((count - 1) // 2, count // 2))
        out[known] = 0.5 * (low + high)
    return out
