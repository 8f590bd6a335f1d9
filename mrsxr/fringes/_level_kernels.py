"""Kernels of the continuum below fringes: local parabolas, so that a feature is felt no further than its window."""

import numpy as np

from mrsxr.compiled import njit

WIDTH = 0.5  # sigma of the window, of a period: 4 % of a fringe stay in the continuum
REACH = 3.0  # sigma, where the window (1 - u^2 / 9)^4 ends
STEP = 1.0  # sigma between the nodes where parabolas are fitted
LEAST = 1e-3  # weight in a window over that of a full one; below, there is no continuum


@njit(cache=True, nogil=True, fastmath=True)
def _parabola(x, y, weights, first, last, at, width, out):
    """Fill (level, slope, curvature) at ``at`` of the samples first ... last - 1, in units of the width.

    Return the weight in the window.
    """
    per_width = 1.0 / width
    s0 = s1 = s2 = s3 = s4 = r0 = r1 = r2 = 0.0
    for k in range(first, last):
        u = (x[k] - at) * per_width
        bell = 1.0 - u * u / (REACH * REACH)
        bell *= bell
        w = weights[k] * bell * bell
        v = w * u
        q = v * u
        s0 += w
        s1 += v
        s2 += q
        s3 += q * u
        s4 += q * u * u
        r0 += w * y[k]
        r1 += v * y[k]
        r2 += q * y[k]
    out[:] = 0.0
    if not s0 > 0.0:
        return 0.0
    ridge = 1e-3 * s0  # of a window filled on one side only
    s2r, s4r = s2 + ridge, s4 + 3.0 * ridge
    a, b, c = s2r * s4r - s3 * s3, s1 * s4r - s2 * s3, s1 * s3 - s2 * s2r
    det = s0 * a - s1 * b + s2 * c
    if not det > 0.0:
        out[0] = r0 / s0
        return s0
    out[0] = (r0 * a - s1 * (r1 * s4r - s3 * r2) + s2 * (r1 * s3 - s2r * r2)) / det
    out[1] = (s0 * (r1 * s4r - s3 * r2) - r0 * b + s2 * (s1 * r2 - r1 * s2)) / det
    out[2] = (s0 * (s2r * r2 - r1 * s3) - s1 * (s1 * r2 - r1 * s2) + r0 * c) / det
    return s0


@njit(cache=True, nogil=True)
def local_level(x, y, weights, period, out):
    """Fill the continuum of a column by rising x, 0 where there is none; return whether there is any.

    Parabolas with bell-shaped weights are fitted at nodes; between two nodes theirs are mixed.
    """
    width = WIDTH * period
    step = STEP * width
    n = x.size
    out[:] = 0.0
    total = weights.sum()
    if not total > 0.0:
        return False
    n_node = int((x[n - 1] - x[0]) / step) + 2
    full = total / (x[n - 1] - x[0]) * width  # weight in a window of this width
    node = np.empty((n_node, 3))
    known = np.empty(n_node, dtype=np.bool_)
    first = last = 0
    for i in range(n_node):
        at = x[0] + i * step
        while first < n and x[first] < at - REACH * width:
            first += 1
        while last < n and x[last] <= at + REACH * width:
            last += 1
        known[i] = _parabola(x, y, weights, first, last, at, width, node[i]) > LEAST * full
    for k in range(n):
        i = min(int((x[k] - x[0]) / step), n_node - 2)
        t = (x[k] - x[0]) / step - i
        if known[i] and known[i + 1]:
            u, v = t * STEP, (t - 1.0) * STEP
            left = node[i, 0] + u * (node[i, 1] + u * node[i, 2])
            right = node[i + 1, 0] + v * (node[i + 1, 1] + v * node[i + 1, 2])
            out[k] = (1.0 - t) * left + t * right
    return True
