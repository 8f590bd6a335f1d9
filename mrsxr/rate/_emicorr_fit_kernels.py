"""Kernels of the emicorr step that fit the interference to the small sums of :mod:`._emicorr_kernels`.

Every fit returns waves packed by ``pack_wave``: (dither, wave, number). A fit without data returns a wave of 0 DN.
"""

import math

import numpy as np

from mrsxr.compiled import Array, njit

from ._emicorr_kernels import pack_wave

N_TRIAL = 500  # trial phases of the joint fit
N_PIECES = 512  # of a wave made of harmonics
MAX_CYCLES = 0.5  # by which a refined frequency may shift the phase over the exposure
CONVERGED = 1e-4  # cycles over the exposure: a change so small ends the refinement of a frequency ...
ROUNDS = 12  # ... and without one the frequency stays as it was given
MIN_POWER = 0.01  # of a wave, left without level and slope of the ramps; a steadier one is not fitted
SHORTEST_HALF = 3  # groups of a ramp, of which level and slope leave one
MIN_SIGNIFICANCE = 10.0  # sigma; a fainter wave does not refine its frequency


# --- joint: amplitude and phase of a known waveform, together with straight ramps ------------------------------------


@njit(cache=True, nogil=True)
def _trial_sums(sums, pieces, steps, times, a, b):
    """Fill the quadratic forms a c^2 + b c of chi^2 for amplitude c (integration, trial phase)."""
    n_integration, n_bin, n_group = sums.shape[0], sums.shape[1], sums.shape[2] - 1
    n_trial = a.shape[1]
    s_t = times.sum()
    s_tt = (times * times).sum()
    delta = n_group * s_tt - s_t * s_t
    residual = np.empty((n_integration, n_bin, n_group))
    for i in range(n_integration):
        for m in range(n_bin):
            y = sums[i, m, :n_group]
            s_y = y.sum()
            s_ty = (times * y).sum()
            level = (s_tt * s_y - s_t * s_ty) / delta
            slope = (n_group * s_ty - s_t * s_y) / delta
            for g in range(n_group):
                residual[i, m, g] = y[g] - level - slope * times[g]
    z = np.empty(n_group)
    for k in range(n_trial):
        for m in range(n_bin):
            s_z, s_tz, s_zz = 0.0, 0.0, 0.0
            for g in range(n_group):
                phase = (m + 0.5) / n_bin + steps[g] + k / n_trial
                place = (phase - math.floor(phase)) * n_bin + 0.5
                n = int(place)
                f = place - n
                value = pieces[n, 0] + f * (pieces[n, 1] + f * (pieces[n, 2] + f * pieces[n, 3]))
                z[g] = value
                s_z += value
                s_tz += times[g] * value
                s_zz += value * value
            spread = s_zz - (s_tt * s_z * s_z - 2.0 * s_t * s_z * s_tz + n_group * s_tz * s_tz) / delta
            for i in range(n_integration):
                product = 0.0
                for g in range(n_group):
                    product += z[g] * residual[i, m, g]
                a[i, k] += sums[i, m, n_group] * spread
                b[i, k] -= 2.0 * product


def _amplitudes(a, b, phases, gaps, integrations):
    """Return chi^2 (up to a constant) and amplitude for phases of the first integration."""
    grid = np.arange(N_TRIAL) * 1.0 / N_TRIAL
    total_a, total_b = np.zeros(len(phases)), np.zeros(len(phases))
    for i in integrations:  # the nearest trial phase at or above the one that the integration has
        nearest = np.argmin(np.abs((grid - np.asarray(phases)[:, None] - gaps[i]) % 1), axis=1)
        total_a += a[i, nearest]
        total_b += b[i, nearest]
    usable = (np.abs(total_a) > 1e-8) & np.isfinite(total_a) & np.isfinite(total_b)
    amplitude = np.divide(-total_b, 2 * total_a, out=np.zeros_like(total_a), where=usable)
    return np.where(usable, total_a * amplitude**2 + total_b * amplitude, np.nan), amplitude


def _lowest(chi2):
    """Return the phase of the lowest chi^2: the vertex of the parabola through the best three trial phases."""
    if not np.isfinite(chi2).any():
        return 0.0
    best = int(np.nanargmin(chi2))
    below, at, above = chi2[best - 1], chi2[best], chi2[(best + 1) % len(chi2)]
    curvature = below - 2 * at + above
    away = 0.5 * (below - above) / curvature if np.isfinite(curvature) and curvature > 0 else 0.0
    return (best + away) / len(chi2)


def fit_joint(
    sums: Array, *, pieces: Array, starts: Array, times: Array, period: float, fit_ints_separately: bool
) -> Array:
    """Fit amplitude and phase of a waveform to sums (dither, integration, bin, group + 1) of ``phase_sums``."""
    n_integration, n_bin = sums.shape[1:3]
    steps = ((starts[0] - starts[0, 0]) / period) % 1
    gaps = starts[:, 0] / period
    waves = []
    for one in sums:
        a, b = np.zeros((2, n_integration, N_TRIAL))
        _trial_sums(np.ascontiguousarray(one), pieces, steps, times, a, b)
        groups = [[i] for i in range(n_integration)] if fit_ints_separately else [list(range(n_integration))]
        found = []
        for integrations in groups:
            phase = _lowest(_amplitudes(a, b, np.arange(N_TRIAL) / N_TRIAL, gaps, integrations)[0])
            found += [(phase, _amplitudes(a, b, [phase], gaps, integrations)[1][0])]
        phases = np.resize([phase for phase, _ in found], n_integration)
        scaled = np.array([amplitude * pieces for _, amplitude in found])[None]
        waves.append(pack_wave(period, n_bin, 0.5, phases, scaled))
    return np.stack(waves)[:, None]


# --- sequential: waveform of the residuals, folded with the period ---------------------------------------------------


@njit(cache=True, nogil=True)
def _fold(residuals, levels, starts, rows, quads, period, n_bin, count, begin, out):
    """Count the finite samples of each phase bin, or with ``begin`` sort them into ``out`` bin by bin."""
    n_integration, n_group, n_y, n_quad = residuals.shape
    for i in range(n_integration):
        for g in range(n_group):
            for y in range(n_y):
                for k in range(n_quad):
                    value = residuals[i, g, y, k] - levels[i, g]
                    phase = (starts[i, g] + rows[y] + quads[k]) / period
                    m = min(n_bin, math.ceil((phase - math.floor(phase)) * n_bin)) - 1
                    if m < 0 or not np.isfinite(value):
                        continue
                    if out.size:
                        out[begin[m] + count[m]] = value
                    count[m] += 1


def clipped_mean(values):
    """Return the mean without values beyond 3 sigma of the median, five times over as jwst; NaN for none."""
    values = np.sort(values).astype(np.float64)  # what is kept is a range; its sums are differences of running sums
    sums = np.concatenate([[0.0], np.cumsum(values)])
    squares = np.concatenate([[0.0], np.cumsum(values * values)])
    low, high = 0, values.size
    for _ in range(5):
        n = high - low
        if n == 0:
            return np.nan
        mean = (sums[high] - sums[low]) / n
        limit = 3.0 * math.sqrt(max(0.0, (squares[high] - squares[low]) / n - mean * mean))
        middle = 0.5 * (values[low + (n - 1) // 2] + values[low + n // 2])
        before = low, high
        low = max(low, int(np.searchsorted(values, middle - limit, "left")))
        high = min(high, int(np.searchsorted(values, middle + limit, "right")))
        if (low, high) == before:
            break
    return (sums[high] - sums[low]) / (high - low) if high > low else np.nan


def folded_wave(residuals, starts, rows, quads, period, n_bins):
    """Return the clipped mean [DN] of residuals (integration, group, y, quad) by phase; NaN in empty bins."""
    with np.errstate(invalid="ignore"):
        levels = np.array([[_finite_median(frame) for frame in frames] for frames in residuals], dtype=np.float32)
    count = np.zeros(n_bins, dtype=np.int64)
    starts, rows, quads = (np.asarray(clocks, dtype=np.float64) for clocks in (starts, rows, quads))
    _fold(residuals, levels, starts, rows, quads, period, n_bins, count, count, np.empty(0, np.float32))
    begin = np.concatenate([[0], np.cumsum(count)])
    ordered = np.empty(begin[-1], dtype=np.float32)
    if ordered.size:
        _fold(residuals, levels, starts, rows, quads, period, n_bins, np.zeros_like(count), begin, ordered)
    return np.array([clipped_mean(ordered[begin[m] : begin[m + 1]]) for m in range(n_bins)])


def _finite_median(values):
    finite = values[np.isfinite(values)]
    return np.median(finite) if finite.size else np.nan


def nearest_lower(values: Array, length: float) -> Array:
    """Return ``values`` stretched to a length [samples, need not be whole] by the sample at or below."""
    step = len(values) / length
    return values[(np.arange(math.ceil(len(values) / step)) * step).astype(int)]


def _fill_empty(wave):
    """Return a folded wave with its empty bins bridged around the circle; 0 where all are empty."""
    good = np.flatnonzero(np.isfinite(wave))
    return np.interp(np.arange(len(wave)), good, wave[good], period=len(wave)) if good.size else np.zeros_like(wave)


def _aligned(wave, reference, period, scale_reference):
    """Return the reference waveform at the phase, and on request the amplitude, of a folded wave."""
    stretched = nearest_lower(wave, len(reference))
    centred = np.fft.rfft(reference - reference.mean())
    match = np.fft.irfft(np.conj(centred) * np.fft.rfft(stretched - stretched.mean()), len(reference))
    table = nearest_lower(np.roll(reference, int(np.argmax(match))), period)
    if not scale_reference:
        return table
    from_mean = table - table.mean()
    power = float(np.sum(from_mean**2))
    return table * (float(from_mean @ nearest_lower(wave, period)) / power if power > 0 else 0.0)


def fit_sequential(
    residuals: Array, rows: Array, quads: Array, *, starts: Array, period: float, n_bins: int, reference: Array | None,
    scale_reference: bool,
) -> Array:  # fmt: skip
    """Fold residuals (dither, integration, group, y, quad) of ``quad_residuals`` and return a look-up table."""
    waves = []
    for one in residuals:
        wave = folded_wave(one, starts[: len(one)], rows, quads, period, n_bins)
        wave = _fill_empty(wave - (np.nanmedian(wave) if np.isfinite(wave).any() else 0.0))
        table = nearest_lower(wave, period) if reference is None else _aligned(wave, reference, period, scale_reference)
        pieces = np.zeros((1, 1, len(table), 4))
        pieces[0, 0, :, 0] = table
        waves.append(pack_wave(period, period, 0.0, np.zeros(len(starts)), pieces))
    return np.stack(waves)[:, None]


# --- harmonics: least squares in the sines and cosines of all frequencies --------------------------------------------


@njit(cache=True, nogil=True)
def _basis(out, t, middle, span, frequencies, harmonics, drift):
    """Fill cosines and sines of one sample and, where ``drift`` holds coefficients, the change with the frequency."""
    n = 0
    n_wave = 2 * harmonics.sum()
    for f in range(frequencies.size):
        angle = 2.0 * math.pi * (t * frequencies[f] - math.floor(t * frequencies[f]))
        c, s = math.cos(angle), math.sin(angle)
        real, imaginary, change = 1.0, 0.0, 0.0
        for h in range(1, harmonics[f] + 1):
            real, imaginary = real * c - imaginary * s, real * s + imaginary * c
            out[n], out[n + 1] = real, imaginary
            if drift.size:
                change += 2.0 * math.pi * h * (drift[n + 1] * real - drift[n] * imaginary)
            n += 2
        if drift.size:
            out[n_wave + f] = change * (t - middle) / span


@njit(cache=True, nogil=True)
def _project(values, lines):
    """Take the parts along orthonormal lines (line, group) out of the columns of values (group, column)."""
    for line in lines:
        for p in range(values.shape[1]):
            along = 0.0
            for g in range(line.size):
                along += line[g] * values[g, p]
            for g in range(line.size):
                values[g, p] -= line[g] * along


@njit(cache=True, nogil=True)
def _add_products(z, n, products):
    """Add n times the products of the columns of z (group, column) by group, the lower triangle."""
    for g in range(z.shape[0]):
        for p in range(z.shape[1]):
            scaled = n * z[g, p]
            for q in range(p + 1):
                products[g, p, q] += scaled * z[g, q]


@njit(cache=True, nogil=True)
def _normal_equations(sums, starts, cells, centre, frequencies, harmonics, drift, lines, products):
    """Add the products (group, ...) of model and data of one integration, sums (group + 1, cell) at clocks ``starts`` +
    ``cells``.

    The last row and column of ``products`` are the data. Level and slope of the ramps (orthonormal ``lines``) are
    projected out, as is a level of each group that all cells have in common (drifts of the detector). ``centre`` is
    (middle, span) of the exposure in clocks. Returns the number of free samples.
    """
    n_group, n_cell = sums.shape[0] - 1, sums.shape[1]
    m = products.shape[1]
    z = np.empty((n_group, m))
    mean = np.zeros((n_group, m))
    weight, used = 0.0, 0
    for c in range(n_cell):
        n = np.float64(sums[n_group, c])
        if not n > 0:
            continue
        for g in range(n_group):
            _basis(z[g], starts[g] + cells[c], centre[0], centre[1], frequencies, harmonics, drift)
            z[g, m - 1] = sums[g, c] / n
        _project(z, lines)
        _add_products(z, n, products)
        mean += n * z
        weight += n
        used += 1
    if weight > 0:
        _add_products(mean, -1.0 / weight, products)
    return max(0, used - 1) * (n_group - 2)


def _equations(sums, starts, cells, frequencies, harmonics, drift=(), by_frame=False):
    """Return (normal matrix, right side, chi^2, free samples) over integrations; frequencies in cycles a clock.

    ``by_frame``: the first three (frame, ...) of each group of each integration, whose sums they else are.
    """
    n_group, starts = starts.shape[1], np.asarray(starts, dtype=np.float64)
    lines = np.linalg.qr(np.stack([np.ones(n_group), starts[0] - starts[0].mean()], axis=1))[0].T
    centre = np.array([0.5 * (starts[0, 0] + starts[-1, -1] + cells[-1]), starts[-1, -1] + cells[-1] - starts[0, 0]])
    n = 2 * int(harmonics.sum()) + (len(frequencies) if len(drift) else 0)
    products, free = np.zeros((len(sums), n_group, n + 1, n + 1)), 0
    for i, one in enumerate(sums):
        free += _normal_equations(
            one, starts[i], cells, centre, frequencies, harmonics, np.asarray(drift, dtype=float),
            np.ascontiguousarray(lines), products[i],
        )  # fmt: skip
    products = products.reshape(-1, n + 1, n + 1) if by_frame else products.sum(axis=(0, 1))
    products += np.swapaxes(np.tril(products, -1), -1, -2)
    return products[..., :n, :n], products[..., :n, n], products[..., n, n], free


def _solve(normal, right, power):
    """Return the least-squares solution, 0 for what the data do not constrain; a whole wave has a ``power``."""
    scale = np.sqrt(np.diag(normal))
    scale = np.divide(1.0, scale, out=np.zeros_like(scale), where=np.diag(normal) > MIN_POWER * power)
    return scale * (np.linalg.pinv(normal * np.outer(scale, scale), rcond=1e-3, hermitian=True) @ (scale * right))


def _power(sums):
    """Return the sum of squares of a cosine at the samples of sums (integration, group + 1, cell)."""
    return 0.5 * (sums.shape[1] - 1) * float(sums[:, -1].sum(dtype=np.float64))


def _refine(sums, starts, cells, frequencies, harmonics):
    """Return frequencies improved by Gauss-Newton steps, the given ones where the wave is faint or none converges."""
    span = starts[-1, -1] + cells[-1] - starts[0, 0]
    refined = frequencies.copy()
    for _ in range(ROUNDS):
        normal, right, chi2, free = _equations(sums, starts, cells, refined, harmonics)
        found = _solve(normal, right, _power(sums))
        gain = float(found @ right)
        noise = (chi2 - gain) / max(1, free - len(right))
        if not gain > MIN_SIGNIFICANCE**2 * max(noise, 0.0):
            return frequencies
        normal, right, _, _ = _equations(sums, starts, cells, refined, harmonics, found)
        change = _solve(normal, right, 0.0)[len(found) :] / span
        refined = refined + change
        if np.any(np.abs(refined - frequencies) * span > MAX_CYCLES):
            return frequencies
        if np.all(np.abs(change) * span < CONVERGED):
            return refined
    return frequencies


def _harmonic_pieces(coefficients):
    """Return cubic pieces (N_PIECES, 4) [DN] of a sum of harmonics: exact values and slopes at their ends."""
    angle = 2.0 * np.pi * np.arange(N_PIECES + 1) / N_PIECES
    value, slope = np.zeros((2, N_PIECES + 1))
    for h, (c, s) in enumerate(coefficients.reshape(-1, 2), start=1):
        value += c * np.cos(h * angle) + s * np.sin(h * angle)
        slope += 2.0 * np.pi / N_PIECES * h * (s * np.cos(h * angle) - c * np.sin(h * angle))
    rise, low, high = np.diff(value), slope[:-1], slope[1:]
    return np.stack([value[:-1], low, 3 * rise - 2 * low - high, low + high - 2 * rise], axis=1)


def early_and_late(n_group: int, shortest: int, first: int = 0) -> list[tuple[slice, slice]]:
    """Return two (slice of integrations, slice of groups), the early and the late half of all ramps; none: too short.

    What repeats from integration to integration at the same group, as the curvature of bright ramps does, cannot tell
    one from the other.
    """
    middle, end = first + n_group // 2, first + n_group
    return [(slice(None), slice(first, middle)), (slice(None), slice(middle, end))] if n_group >= 2 * shortest else []


def odd_and_even(n_integration: int, n_group: int, shortest: int, first: int = 0) -> list[tuple[slice, slice]]:
    """Return two (slice of integrations, slice of groups), every second integration; none: too few or too short."""
    enough = n_integration > 1 and n_group >= shortest
    return [(slice(k, None, 2), slice(first, first + n_group)) for k in (0, 1)] if enough else []


def _held_out(sums, starts, cells, frequencies, harmonics):
    """Return (squares of what is left of each half without, with the wave of the other half, variance of the gain).

    ``sums`` (integration, group + 1, cell) as in :func:`_equations`: level and slope are those of the half. All zero
    where there are too few ramps. The variance is that of white noise, or that by which the gain differs from frame to
    frame where this is larger: pixels share what light that jitters, or electronics, do to a frame.
    """
    halves = []
    n_integration, n_group = starts.shape
    for integrations, groups in early_and_late(n_group, SHORTEST_HALF) or odd_and_even(
        n_integration, n_group, SHORTEST_HALF
    ):
        part = np.concatenate([sums[integrations, groups], sums[integrations, -1:]], axis=1)
        times = np.ascontiguousarray(starts[integrations, groups])
        halves.append((*_equations(part, times, cells, frequencies, harmonics, by_frame=True), _power(part)))
    out = np.zeros(3)
    for (normal, right, chi2, free, _), (other, other_right, _, _, power) in zip(halves, halves[::-1], strict=True):
        wave = _solve(other.sum(axis=0), other_right.sum(axis=0), power)
        energy, before = normal @ wave @ wave, float(chi2.sum())
        gain = 2.0 * right @ wave - energy  # of each frame
        variance = max(4.0 * float(energy.sum()) * before / max(1, free), gain.size * float(np.var(gain, ddof=1)))
        out += before, before - float(gain.sum()), variance
    return out


def fit_harmonics(
    sums: Array, rows: Array, *, cells: Array, width: float, starts: Array, frequencies: Array, harmonics: Array,
    fit_ints_separately: bool, fit_frequency: bool,
) -> Array:  # fmt: skip
    """Fit harmonics of all frequencies [cycles a clock] to ``cell_sums``; a wave for each frequency.

    ``sums`` is (dither, amplifier, integration, group + 1, y, cell); ``cells`` are the mean clocks of the cells of a
    row and ``width`` is what they span. The last number of a wave is the score of all of them together: what is left
    of ramps that they were not fitted to, plus two standard errors, over what is there. A wave that does not gain is 0.
    """
    clocks = (rows[:, None] + cells).ravel()
    harmonics = np.asarray(harmonics, dtype=np.int64)
    ends = np.cumsum(2 * harmonics)
    frequencies = np.asarray(frequencies, dtype=float)
    n_integration = sums.shape[2]
    parts = [slice(i, i + 1) for i in range(n_integration)] if fit_ints_separately else [slice(None)]
    waves = []
    for one in sums.reshape(*sums.shape[:4], -1):
        own = _refine(one.sum(axis=0), starts, clocks, frequencies, harmonics) if fit_frequency else frequencies
        pieces = np.zeros((len(own), len(one), len(parts), N_PIECES, 4))
        judged = np.zeros(3)
        for a, amplifier in enumerate(one):
            for j, part in enumerate(parts):
                judged += _held_out(amplifier[part], starts[part], clocks, own, harmonics)
                normal, right, _, _ = _equations(amplifier[part], starts[part], clocks, own, harmonics)
                found = _solve(normal, right, _power(amplifier[part]))
                for f, coefficients in enumerate(np.split(found, ends[:-1])):
                    smearing = np.repeat(np.sinc(own[f] * width * np.arange(1, harmonics[f] + 1)), 2)
                    pieces[f, a, j] = _harmonic_pieces(coefficients / smearing)
        score = (judged[1] + 2.0 * math.sqrt(judged[2])) / judged[0] if judged[0] > 0 else np.nan
        pieces *= score < 1.0
        phases = np.zeros(n_integration)
        waves.append([
            [*pack_wave(1 / f, N_PIECES, 0.0, phases, table), score] for f, table in zip(own, pieces, strict=True)
        ])  # fmt: skip
    return np.array(waves)
