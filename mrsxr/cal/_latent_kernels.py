"""Kernels of the latent model on plain arrays. Bits: SATURATED 2.

A component k traps the share a of the charge and releases it with the time constant tau:
``dL/dt = (a S - L) / tau``, so that the latent slope L [DN/s] grows towards a S under a slope S and decays as
exp(-t / tau).
"""

import math

import numpy as np

from mrsxr.compiled import njit


@njit(cache=True, nogil=True)
def _advance(state, rate, dq, gap_decay, amplitude, saturated_amplitude, charge, saturated_rate, out):
    n_dither, n_component, n_y, n_x = state.shape
    for d in range(n_dither):
        for y in range(n_y):
            for x in range(n_x):
                slope = 1.0 * rate[d, y, x]
                saturated = dq[d, y, x] & np.uint32(2) != 0
                if not math.isfinite(slope):
                    slope = saturated_rate if saturated else 0.0
                slope = max(slope, 0.0)
                for k in range(n_component):
                    share = saturated_amplitude[k] if saturated else amplitude[k]
                    before = gap_decay[k] * state[d, k, y, x]
                    out[d, k, y, x] = before * (1.0 - charge[k]) + share * slope * charge[k]


def advance(state, rate, dq, *, gap_decay, amplitude, saturated_amplitude, charge, saturated_rate):
    """Return the latent slopes at the end of an exposure, float32 (dither, component, y, x) [DN/s].

    state : latent slopes at the time that the gap before the exposure starts
    rate, dq : slope [DN/s] and flags (dither, y, x) of the exposure; NaN counts as saturated_rate [DN/s] where it is
        SATURATED, else as none
    gap_decay, amplitude, saturated_amplitude, charge : one for each component: exp(-gap / tau); shares that a pixel
        traps; 1 - exp(-T / tau)
    """
    out = np.empty(state.shape, dtype=np.float32)
    values = [np.asarray(v, dtype=np.float64) for v in (gap_decay, amplitude, saturated_amplitude, charge)]
    _advance(state, rate, dq, *values, float(saturated_rate), out)  # type: ignore[call-arg]
    return out


@njit(cache=True, nogil=True)
def _predict(state, weight, relative_error, latent, variance):
    n_dither, n_component, n_y, n_x = state.shape
    for d in range(n_dither):
        for y in range(n_y):
            for x in range(n_x):
                total, square = 0.0, 0.0
                for k in range(n_component):
                    part = weight[k] * state[d, k, y, x]
                    total += part
                    square += (relative_error[k] * part) ** 2
                latent[d, y, x] = total
                variance[d, y, x] = square


def predict(state, *, weight, relative_error):
    """Return the latent slope [DN/s] that a fit measures in the next exposure and its variance, float32 (dither, y, x).

    state : latent slopes at the end of the exposure before (dither, component, y, x)
    weight, relative_error : one for each component: share of the slope that is left, on the mean over the exposure;
        relative error of the amplitude
    """
    shape = (state.shape[0], *state.shape[2:])
    latent, variance = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    _predict(
        state, np.asarray(weight, dtype=np.float64), np.asarray(relative_error, dtype=np.float64), latent, variance
    )
    return latent, variance
