"""Kernel of the reset step on plain arrays."""

import numpy as np

from mrsxr.compiled import njit


@njit(cache=True, nogil=True)
def _subtract_reset(sci, reset, use, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_reset = reset.shape[1]
    for d in range(n_dither):
        for i in range(n_integration):
            for g in range(n_group):
                for y in range(n_y):
                    row = sci[d, i, g, y]
                    if g < n_reset:
                        anomaly = reset[use[i], g, y]
                        for x in range(n_x):
                            value = anomaly[x]
                            out[d, i, g, y, x] = row[x] - (value if value == value else np.float32(0))
                    else:
                        out[d, i, g, y] = row


def subtract(sci, reset, use):
    """Return sci - reset [DN]: integration i takes reset[use[i]]; groups beyond it stay, NaN counts as 0."""
    out = np.empty(sci.shape, dtype=np.float32)
    _subtract_reset(sci, reset, np.asarray(use, dtype=np.int64), out)
    return out
