"""Kernels that look at what a fit leaves: waves of the period of fringes, and correlation of neighbouring voxels."""

import math

import numpy as np

from mrsxr.compiled import njit

from ._descent_kernels import C

_LAGS = 4
_PERIODS = (1.4, 4.4)  # of fringes [1/cm]: 2.9 +- 1.5


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def fringe(voxels, m, theta, n_cont, mu0, k, out):
    """Fill the chance that noise gives the strongest wave of the periods of fringes (1: none) and its amplitude.

    Sines are fitted to the residuals beside the lines; periods that the window holds less than twice are left out.
    """
    _, inv, lo, hi, rest = voxels
    number, value = np.empty(m), np.empty(m)
    n, chi2, weight = 0, 0.0, 0.0
    for i in range(m):
        wave = 0.5 * (lo[i] + hi[i])
        free = True
        for f in range(mu0.size * k):
            place, at = mu0[f // k], mu0[f // k] / C
            free = free and abs(wave - place - theta[n_cont + 3 * f + 1] * at) > 2.5 * theta[n_cont + 3 * f + 2] * at
        if free:
            number[n], value[n] = 1e4 / wave, rest[i]
            chi2, weight = chi2 + rest[i] ** 2, weight + inv[i]
            n += 1
    out[0], out[1] = 1.0, 0.0
    if n < 12 or not chi2 > 0.0:
        return
    span = abs(number[n - 1] - number[0])
    first, last = max(1.0 / _PERIODS[1], 2.0 / span), 1.0 / _PERIODS[0]
    if not first < last:
        return
    trials = math.ceil((last - first) * span * 2.0) + 1
    more = 2.0 * math.pi * (last - first) / max(trials - 1, 1)
    wave_c, wave_s, turn_c, turn_s = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        angle = 2.0 * math.pi * first * number[i]
        wave_c[i], wave_s[i] = math.cos(angle), math.sin(angle)
        turn_c[i], turn_s[i] = math.cos(more * number[i]), math.sin(more * number[i])
    best = 0.0
    for _ in range(trials):
        cc = ss = cs = cy = sy = 0.0
        for i in range(n):
            c, s = wave_c[i], wave_s[i]
            cc, ss, cs = cc + c * c, ss + s * s, cs + c * s
            cy, sy = cy + c * value[i], sy + s * value[i]
            wave_c[i], wave_s[i] = c * turn_c[i] - s * turn_s[i], s * turn_c[i] + c * turn_s[i]
        det = cc * ss - cs * cs
        if det > 1e-9 * n * n:
            a, b = (cy * ss - sy * cs) / det, (sy * cc - cy * cs) / det
            if a * cy + b * sy > best:
                best, out[1] = a * cy + b * sy, math.sqrt(a * a + b * b) * n / weight
    left = max(1.0 - best / chi2, 1e-12)
    out[0] = min(1.0, 0.5 * (trials + 1) * left ** (0.5 * (n - 3)))


@njit(cache=True, nogil=True, error_model="numpy")
def correlation(rest, m):
    """Return 1 + 2 sum of the correlations of neighbouring residuals, up to the first that noise explains."""
    length, chi2 = 1.0, 0.0
    for i in range(m):
        chi2 += rest[i] ** 2
    for lag in range(1, _LAGS + 1):
        total = 0.0
        for i in range(m - lag):
            total += rest[i] * rest[i + lag]
        if not total > 2.0 / math.sqrt(m) * chi2:
            break
        length += 2.0 * total / chi2
    return length
