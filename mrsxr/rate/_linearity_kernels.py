"""Kernels of the linearity step on plain arrays. Bits: NO_LIN_CORR 2^20, SATURATED 2."""

import numpy as np

from mrsxr.compiled import njit

NO_LIN_CORR = 1 << 20


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


def flag_unusable(coefficients, dq):
    """Return dq with NO_LIN_CORR where a coefficient is NaN or the linear term 0. coefficients: (order, y, x)."""
    unusable = np.isnan(coefficients).any(axis=0) | (coefficients[1] == 0)
    return np.where(unusable, dq | np.uint32(NO_LIN_CORR), dq).astype(np.uint32)


def linearize(sci, group_dq, coefficients, dq):
    """Return the polynomial of each sample [DN]; saturated samples and NO_LIN_CORR pixels stay as they are."""
    out = np.empty(sci.shape, dtype=np.float32)
    skip = (dq & np.uint32(NO_LIN_CORR)) != 0
    _linearize(sci, np.broadcast_to(group_dq, sci.shape), coefficients, skip, out)
    return out
