"""Loops of the simulator: polynomials of the detector, PSF in a pixel, ramps with noise. numpy, math, numba only."""

import math

import numpy as np

from mrsxr.compiled import Array, njit
from mrsxr.geometry._detector_kernels import polynomial

_SQRT_HALF = math.sqrt(0.5)
_TO_UNIT = 1.0 / 9007199254740992.0  # 2**-53


@njit(cache=True, nogil=True)
def polynomials(coefficients: Array, shift: Array, index: Array, first: Array, second: Array) -> Array:
    """Return sum c[k, i, j] first**i (second - shift[k])**j with k = ``index`` for flat float64 arrays."""
    out = np.empty(first.size)
    for n in range(first.size):
        k = index[n]
        out[n] = polynomial(coefficients[k], first[n], second[n] - shift[k])
    return out


@njit(cache=True, nogil=True)
def psf_in_pixels(
    alpha_low: Array, alpha_high: Array, beta: Array, width: Array, wavelength: Array, centre_alpha: float,
    centre_beta: float, scale: Array, weights: Array, slope: float, offset: float,
) -> Array:  # fmt: skip
    """Return the mean of the PSF [1/arcsec2] over each pixel footprint; the sum of Gaussians is integrated exactly."""
    out = np.empty(alpha_low.size)
    for n in range(alpha_low.size):
        total = 0.0
        fwhm = slope * wavelength[n] + offset
        for k in range(weights.size):
            root = _SQRT_HALF / (scale[k] * fwhm)
            along = math.erf((alpha_high[n] - centre_alpha) * root) - math.erf((alpha_low[n] - centre_alpha) * root)
            across = math.erf((beta[n] + 0.5 * width[n] - centre_beta) * root) - math.erf(
                (beta[n] - 0.5 * width[n] - centre_beta) * root
            )
            total += 0.25 * weights[k] * along * across
        out[n] = total / (abs(alpha_high[n] - alpha_low[n]) * width[n])
    return out


@njit(cache=True, nogil=True)
def _splitmix(value):
    value = np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(cache=True, nogil=True)
def _seed(state, seed, row):
    value = _splitmix(np.uint64(seed) ^ _splitmix(np.uint64(row) + np.uint64(1)))
    for i in range(4):
        value = _splitmix(value + np.uint64(i))
        state[i] = value


@njit(cache=True, nogil=True)
def _uniform(state):
    """Return a number in (0, 1) by xoshiro256+ (Blackman & Vigna 2018)."""
    result = state[0] + state[3]
    shifted = state[1] << np.uint64(17)
    state[2] ^= state[0]
    state[3] ^= state[1]
    state[1] ^= state[2]
    state[0] ^= state[3]
    state[2] ^= shifted
    state[3] = (state[3] << np.uint64(45)) | (state[3] >> np.uint64(19))
    return (float(result >> np.uint64(11)) + 0.5) * _TO_UNIT


@njit(cache=True, nogil=True)
def _normal_pair(state):
    """Return two independent normal numbers by Marsaglia's polar method."""
    while True:
        a = 2.0 * _uniform(state) - 1.0
        b = 2.0 * _uniform(state) - 1.0
        square = a * a + b * b
        if 0.0 < square < 1.0:
            factor = math.sqrt(-2.0 * math.log(square) / square)
            return a * factor, b * factor


@njit(cache=True, nogil=True)
def _poisson(state, mean, exp_minus_mean, normal):
    """Return a Poisson number: by inversion below 30, else the normal approximation with its skewness."""
    if mean <= 0.0:
        return 0.0
    if mean >= 30.0:
        return max(0.0, math.floor(mean + math.sqrt(mean) * normal + (normal * normal - 1.0) / 6.0 + 0.5))
    left = _uniform(state)
    term = exp_minus_mean
    count = 0.0
    while left > term and count < 200.0:
        left -= term
        count += 1.0
        term *= mean / count
    return count


@njit(cache=True, nogil=True)
def _raw_level(linear, c2, c3):
    """Return F of F + c2 F^2 + c3 F^3 = ``linear`` by Newton's method."""
    level = linear / (1.0 + c2 * linear)
    for _ in range(4):
        value = level * (1.0 + level * (c2 + level * c3)) - linear
        step = value / (1.0 + level * (2.0 * c2 + 3.0 * c3 * level))
        level -= step
        if abs(step) < 1e-3:
            break
    return level


#: Order of the last axis of ``maps``; signal and dark rate in linear DN/s, the others in DN, gain in electron/DN.
MAPS = ("signal", "dark_rate", "settle", "reset", "bias", "gain", "c2", "c3", "full_well", "read_noise")


@njit(cache=True, nogil=True)
def fill_rows(
    out: Array, first_row: int, seed: int, maps: Array, reset_noise: float, shapes: Array, drift: Array, hits: Array,
    hit_start: Array, showers: Array, emi: Array, timing: Array,
) -> None:  # fmt: skip
    """Fill ``out`` (integration, group, row, column) uint16 with the raw ramps of a block of rows.

    ``maps`` is (row, column, map) in the order of MAPS. ``shapes`` is (3, integration, group): factors of settle and
    of reset, and an offset [DN] of the lit pixels. ``drift`` is (integration, group, amplifier, parity) in DN. The
    rows of ``hits`` are (group, column, electrons), addressed by ``hit_start[integration * detector rows + y]``;
    those of ``showers`` (integration, group, y, x, sigma_y, sigma_x, electrons per group, decay in groups). ``emi`` is
    (amplitude DN, frequency Hz, phase); ``timing`` is (group time s, 1 for photon noise or 0).
    """
    n_integrations, n_groups, n_rows, n_columns = out.shape
    state = np.empty(4, np.uint64)
    jumps = np.zeros((n_columns, n_groups))
    extra = np.zeros((n_columns, n_groups))
    ramps = np.empty((n_columns, n_groups), np.uint16)
    for row in range(n_rows):
        y = first_row + row
        _seed(state, seed, y)
        for integration in range(n_integrations):
            jumps[:] = 0.0
            place = integration * (hit_start.size // n_integrations) + y
            for n in range(hit_start[place], hit_start[place + 1]):
                jumps[int(hits[n, 1]), int(hits[n, 0])] += hits[n, 2]
            any_extra = _add_showers(extra, showers, integration, y)
            start_clock = 2.71e-3 * y + timing[0] * integration * (n_groups + 1)
            for x in range(n_columns):
                offsets = shapes[:, integration]
                fall = drift[integration, :, x % 4, y % 2]
                clock = start_clock + 1e-5 * (x // 4)
                light = 4 <= x < 1028
                values = maps[row, x]
                _one_ramp(ramps[x], state, values, reset_noise, offsets, fall, jumps[x], extra[x], any_extra, light,
                          emi, clock, timing)  # fmt: skip
            out[integration, :, row] = ramps.T


@njit(cache=True, nogil=True)
def _add_showers(extra, showers, integration, y):
    found = False
    extra[:] = 0.0
    n_columns, n_groups = extra.shape
    for n in range(showers.shape[0]):
        if int(showers[n, 0]) != integration:
            continue
        away = (y - showers[n, 2]) / showers[n, 4]
        if abs(away) > 4.0:
            continue
        found = True
        row_factor = math.exp(-0.5 * away * away) * showers[n, 6]
        for x in range(n_columns):
            aside = (x - showers[n, 3]) / showers[n, 5]
            if abs(aside) > 4.0:
                continue
            peak = row_factor * math.exp(-0.5 * aside * aside)
            for group in range(int(showers[n, 1]), n_groups):
                extra[x, group] += peak * math.exp(-(group - showers[n, 1]) / showers[n, 7])
    return found


@njit(cache=True, nogil=True)
def _one_ramp(ramp, state, values, reset_noise, offsets, drift, jumps, extra, any_extra, light, emi, clock, timing):
    signal, dark_rate, settle, reset, bias, gain, c2, c3, full_well, read_noise = values
    group_time = timing[0]
    mean = max(0.0, (signal + dark_rate) * group_time * gain)
    chance = math.exp(-mean) if mean < 30.0 else 0.0
    start = bias
    if reset_noise > 0.0:
        start += reset_noise * _normal_pair(state)[0]
    linear = start * (1.0 + start * (c2 + start * c3))
    for group in range(ramp.size):
        shot, noise = _normal_pair(state)
        electrons = mean
        if any_extra and light:
            electrons = mean + extra[group]
            chance = math.exp(-electrons) if electrons < 30.0 else 0.0
        if timing[1] > 0.0:
            electrons = _poisson(state, electrons, chance, shot)
        if light:
            electrons += jumps[group]
        linear += electrons / gain
        level = linear + (settle * offsets[0, group] if light else 0.0)
        level = min(_raw_level(level, c2, c3), full_well)
        level += reset * offsets[1, group] + drift[group] + read_noise * noise
        if light:
            level += offsets[2, group]
        if emi[0] != 0.0:
            level += emi[0] * math.sin(2.0 * math.pi * emi[1] * (clock + group_time * group) + emi[2])
        ramp[group] = np.uint16(min(65535.0, max(0.0, math.floor(level + 0.5))))


@njit(cache=True, nogil=True)
def spread_hits(
    y: Array, x: Array, charge: Array, length: Array, angle: Array, decay: float, rows: Array, columns: Array,
    charges: Array,
) -> int:  # fmt: skip
    """Spread cosmic-ray hits along their tracks and to neighbours; fill the output arrays and return their count.

    A track deposits its charge evenly over ``length`` pixels at ``angle``; each sample leaks ``decay`` of it to
    each of the four neighbours.
    """
    count = 0
    for n in range(y.size):
        samples = max(1, math.ceil(length[n]))
        for k in range(samples):
            centre_y = math.floor(y[n] + k * math.sin(angle[n]) + 0.5)
            centre_x = math.floor(x[n] + k * math.cos(angle[n]) + 0.5)
            part = charge[n] / samples
            for step in range(5):
                here_y = centre_y + (1 if step == 1 else -1 if step == 2 else 0)
                here_x = centre_x + (1 if step == 3 else -1 if step == 4 else 0)
                if here_y < 0 or here_y > 1023 or here_x < 4 or here_x > 1027 or count >= rows.size:
                    continue
                rows[count] = n
                columns[count] = here_y * 1032 + here_x
                charges[count] = part * (1.0 - 4.0 * decay) if step == 0 else part * decay
                count += 1
    return count
