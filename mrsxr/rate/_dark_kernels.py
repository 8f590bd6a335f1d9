"""Kernel of the dark step on plain arrays."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _subtract_dark(sci, dark, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_dark_integration, n_dark_group = dark.shape[:2]
    for d in range(n_dither):
        for i in range(n_integration):
            j = min(i, n_dark_integration - 1)
            for g in range(n_group):
                h = min(g, n_dark_group - 1)
                beyond = np.float32(g - h)
                for y in range(n_y):
                    for x in range(n_x):
                        value = dark[j, h, y, x]
                        if beyond > 0:
                            value += beyond * (dark[j, h, y, x] - dark[j, h - 1, y, x])
                        if np.isnan(value):
                            value = np.float32(0)
                        out[d, i, g, y, x] = sci[d, i, g, y, x] - value


def subtract(sci, dark):
    """Return sci - dark [DN]; a short dark goes on with its last group-to-group difference, NaN counts as 0."""
    out = np.empty(sci.shape, dtype=np.float32)
    _subtract_dark(sci, dark, out)
    return out
