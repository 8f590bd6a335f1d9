"""Kernel of the dark step on plain arrays."""

import numpy as np

from mrsxr.compiled import njit


@njit(cache=True, nogil=True)
def _subtract_dark(sci, dark, use, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_dark_group = dark.shape[1]
    for d in range(n_dither):
        for i in range(n_integration):
            j = use[i]
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


def subtract(sci, dark, use):
    """Return sci - dark [DN]: integration i takes dark[use[i]]; NaN counts as 0.

    A short dark goes on with its last group-to-group difference.
    """
    out = np.empty(sci.shape, dtype=np.float32)
    _subtract_dark(sci, dark, np.asarray(use, dtype=np.int64), out)
    return out
