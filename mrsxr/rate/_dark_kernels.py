"""Kernel of the dark and the reset step on plain arrays."""

import numpy as np

from mrsxr.compiled import Array, njit, read_only


@njit(cache=True, nogil=True)
def _subtract(sci, reference, use, goes_on, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_known = reference.shape[1]
    for d in range(n_dither):
        for i in range(n_integration):
            j = use[i]
            for g in range(n_group):
                if g >= n_known and not goes_on:
                    out[d, i, g] = sci[d, i, g]
                    continue
                h = min(g, n_known - 1)
                beyond = np.float32(g - h)
                for y in range(n_y):
                    for x in range(n_x):
                        value = reference[j, h, y, x]
                        if beyond > 0:
                            value += beyond * (reference[j, h, y, x] - reference[j, h - 1, y, x])
                        if np.isnan(value):
                            value = np.float32(0)
                        out[d, i, g, y, x] = sci[d, i, g, y, x] - value


def subtract(sci: Array, reference: Array, use: Array, goes_on: bool) -> Array:
    """Return sci - reference [DN]: integration i takes reference[use[i]]; NaN counts as 0.

    Beyond its last group it goes on with its last difference, or sci stays as it is.
    """
    out = np.empty(sci.shape, dtype=np.float32)
    _subtract(*read_only(sci, reference), np.asarray(use, dtype=np.int64), bool(goes_on), out)
    return out
