"""Kernel of the linearity step on plain arrays."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _linearize(sci, group_dq, coefficients, skip, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_order = coefficients.shape[0]
    total = np.empty(n_x, dtype=np.float32)
    for d in range(n_dither):
        for i in range(n_integration):
            for g in range(n_group):
                for y in range(n_y):
                    row = sci[d, i, g, y]
                    flags = group_dq[d, i, g, y]
                    total[:] = coefficients[n_order - 1, y]
                    for k in range(n_order - 2, -1, -1):
                        c = coefficients[k, y]
                        for x in range(n_x):
                            total[x] = total[x] * row[x] + c[x]
                    for x in range(n_x):
                        keep = skip[y, x] or (flags[x] & np.uint8(2)) != 0
                        out[d, i, g, y, x] = row[x] if keep else total[x]


def linearize(sci, group_dq, coefficients, skip):
    """Return the polynomial of each sample [DN]; saturated samples and ``skip`` pixels stay as they are."""
    out = np.empty(sci.shape, dtype=np.float32)
    _linearize(sci, np.broadcast_to(group_dq, sci.shape), coefficients, skip, out)
    return out
