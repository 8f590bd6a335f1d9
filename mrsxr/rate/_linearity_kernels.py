"""Kernels of the linearity step on plain arrays. Bits: NO_LIN_CORR 2^20, SATURATED 2."""

import numpy as np

from mrsxr.compiled import Array, njit

NO_LIN_CORR = 1 << 20


@njit(cache=True, nogil=True)
def _linearize(sci, group_dq, coefficients, skip, any_skipped, out):
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    n_order = coefficients.shape[0]
    work = np.empty((n_order + 2, n_x), dtype=np.float32)  # coefficients of a row, its samples, their polynomials
    samples, total = work[n_order], work[n_order + 1]
    for y in range(n_y):
        work[:n_order] = coefficients[:, y]
        for d in range(n_dither):
            for i in range(n_integration):
                for g in range(n_group):
                    row, flags, done = sci[d, i, g, y], group_dq[d, i, g, y], out[d, i, g, y]
                    for x in range(n_x):
                        samples[x] = row[x]
                    total[:] = work[n_order - 1]
                    for k in range(n_order - 2, -1, -1):
                        for x in range(n_x):
                            work[n_order + 1, x] = work[n_order + 1, x] * work[n_order, x] + work[k, x]
                    for x in range(n_x):
                        done[x] = total[x]
                    seen = np.uint8(2) if any_skipped[y] else np.uint8(0)
                    for x in range(n_x):
                        seen |= flags[x]
                    for x in range(n_x if seen & np.uint8(2) else 0):
                        if skip[y, x] or flags[x] & np.uint8(2):
                            done[x] = row[x]


def flag_unusable(coefficients: Array, dq: Array) -> Array:
    """Return dq with NO_LIN_CORR where a coefficient is NaN or the linear term 0. coefficients: (order, y, x)."""
    unusable = np.isnan(coefficients).any(axis=0) | (coefficients[1] == 0)
    return np.where(unusable, dq | np.uint32(NO_LIN_CORR), dq).astype(np.uint32)


def linearize(sci: Array, group_dq: Array, coefficients: Array, dq: Array) -> Array:
    """Return the polynomial of each sample [DN]; saturated samples and NO_LIN_CORR pixels stay as they are."""
    out = np.empty(sci.shape, dtype=np.float32)
    skip = (dq & np.uint32(NO_LIN_CORR)) != 0
    _linearize(sci, np.broadcast_to(group_dq, sci.shape), coefficients, skip, skip.any(axis=-1), out)
    return out
