"""Step emicorr: kernels against slow obvious versions, jwst's stored results, and what is left of a known wave."""

from __future__ import annotations

import warnings
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from helpers import assert_step, make_ramp, no_compute
from scipy.interpolate import interp1d

from mrsxr.errors import MrsxrError, MrsxrWarning, ReferenceFileError
from mrsxr.rate import _emicorr_fit_kernels as fits
from mrsxr.rate import _emicorr_kernels as kernels
from mrsxr.rate.emicorr import _spline_pieces, correct_emi
from mrsxr.references.table_readers import read_emicorr

PARITY = Path(__file__).parents[1] / "parity"
STORED = (slice(None), slice(None, None, 3), slice(None, None, 5), slice(None, None, 3))
RUNS = {
    "full-joint": {}, "full-joint_separate": {"fit_ints_separately": True}, "short-joint": {}, "slow-joint": {},
    "sub64-joint": {}, "sub64-sequential": {"method": "sequential"},
    "sub64-sequential_unscaled": {"method": "sequential", "scale_reference": False, "use_n_cycles": None,
                                  "nbins": 60},
    "sub64-sequential_by_hand": {"method": "sequential", "onthefly_corr_freq": [390.625], "nints_to_phase": 2},
}  # fmt: skip
HZ10 = 10.039216
N_Y, N_X = 64, 64
ROW = 271
FRAME = N_Y * ROW + (1024 - N_Y) * 7


def make_emicorr(frequencies=(HZ10,), waves=None, case="FULL_FAST", freqs=None, row=ROW, frame=FRAME, names=None):
    """Return a reference Dataset; waves of different lengths are padded with NaN as the reader does."""
    waves = waves or [np.sin(2 * np.pi * (np.arange(500) + 0.5) / 500)] * len(frequencies)
    names = names or [f"Hz{round(f)}" for f in frequencies]
    held = zip(names, frequencies, waves, strict=True)
    cases = {case: {"rowclocks": row, "frameclocks": frame, "freqs": freqs or {"FAST": names}}}
    tree = {"frequencies": {n: {"frequency": f, "phase_amplitudes": w} for n, f, w in held}, "subarray_cases": cases}
    made, _ = read_emicorr(tree, "emicorr_made.fits")
    return made.assign_attrs(level="reference", kind="emicorr", ref_id="emicorr_made.fits")


def clock_of(shape, row=ROW, frame=FRAME):
    i, g, y, x = np.ogrid[: shape[0], : shape[1], : shape[2], : shape[3]]
    return (i * (shape[1] + 1) + g) * frame + y * row + x // 4


def make_waves(shape, harmonics=((5.0, 0.6),), frequency=HZ10):
    """Return the interference (integration, group, y, x): amplitudes and phases of the harmonics."""
    angle = 2 * np.pi * ((clock_of(shape) * frequency * 1e-5) % 1)
    return sum(a * np.sin(h * angle + phase) for h, (a, phase) in enumerate(harmonics, start=1))


def make_ramps(shape=(2, 20, N_Y, N_X), noise=4.0, hits=60, seed=1):
    """Return ramps without interference: bias, bright and faint pixels, read noise, cosmic rays, a drift."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.4, 8.0, shape[2:])
    ramp = 9000 + rng.normal(0, 60, shape[2:]) + rate * np.arange(shape[1])[:, None, None]
    ramp = ramp + rng.normal(0, noise, shape) + np.cumsum(rng.normal(0, 2.0, shape[:2]), axis=1)[..., None, None]
    for _ in range(hits):
        i, g, y, x = (rng.integers(n) for n in shape)
        ramp[i, g:, y, x] += 10 ** rng.uniform(1.5, 4)
    return ramp


def left(out, clean, frequency=HZ10):
    """Return the amplitude [DN] of the fundamental that is left in the first dither."""
    rest = out - clean
    angle = 2 * np.pi * clock_of(rest.shape) * frequency * 1e-5 * np.ones_like(rest)
    basis = np.stack([np.cos(angle).ravel(), np.sin(angle).ravel()], axis=1)
    return float(np.hypot(*np.linalg.lstsq(basis, rest.ravel(), rcond=None)[0]))


# --- against jwst ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS)
def test_correction_equals_jwst(run):
    label, name = run.split("-")
    with np.load(PARITY / f"emicorr_{label}.npz") as file:
        stored = dict(file)
    slow = label == "slow"
    known = {"Hz10": HZ10, "Hz390": 390.625, "Hz218": 218.52055}
    names = [k.removeprefix("wave_") for k in stored if k.startswith("wave_")]
    detector = "MIRIFULONG" if slow else "MIRIFUSHORT"
    reference = make_emicorr(
        [known[n] for n in names], [stored[f"wave_{n}"].astype(float) for n in names], str(stored["case"]),
        {"SLOW": {detector: names}} if slow else {"FAST": names},
        int(stored["row_clocks"]), int(stored["frame_clocks"]), names,
    )  # fmt: skip
    ds = make_ramp(stored["data"][None], {"y": 17})
    ds = ds.assign(pixel_dq=ds.pixel_dq.copy(data=stored["flags"][None]))
    ds = ds.assign_attrs(
        readpatt="SLOWR1" if slow else "FASTR1", detector=detector, subarray=str(stored["case"]).split("_")[0]
    )
    out = correct_emi(ds, emicorr=reference, **RUNS[run]).sci.values[0]
    theirs = stored[f"correction_{name}"]
    ours = (stored["data"].astype(float) - out)[STORED]
    assert np.std(theirs) > 1.0
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # DN; ramps near 300 DN are rounded to 3e-5


# --- what every step promises ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"fit_ints_separately": True}, {"method": "sequential"}, {"method": "harmonics"},
                {"method": "harmonics", "per_amplifier": True, "fit_ints_separately": True, "n_harmonics": 2}],
)  # fmt: skip
def test_step_keeps_its_promises(options):
    shape = (2, 12, N_Y, 32)
    ramps = np.rint(make_ramps(shape) + make_waves(shape))
    ds = make_ramp(np.stack([ramps, ramps[::-1]]).astype("u2"))
    out = assert_step(correct_emi, ds, emicorr=make_emicorr(), **options)
    assert out.sci.dtype == "float32"
    assert not np.allclose(out.sci.values, ds.sci.values, atol=1.0)


@pytest.mark.parametrize(("algorithm", "passes"), [("joint", 3), ("harmonics", 2), ("sequential", 2)])
def test_ramps_are_read_again_for_every_pass_and_not_held(algorithm, passes):
    reads = []

    def read(block_info=None):
        reads.append(block_info[None]["chunk-location"])
        return np.random.default_rng(5).normal(100, 4, block_info[None]["chunk-shape"]).astype("f4")

    ds = make_ramp(np.zeros((1, 1, 12, N_Y, 32), "f4"))
    chunks = ((1,), (1,), (12,), (16,) * 4, (32,))
    ds = ds.assign(sci=ds.sci.copy(data=da.map_blocks(read, chunks=chunks, dtype="f4", meta=np.empty((0,) * 5, "f4"))))
    with no_compute():
        out = correct_emi(ds, emicorr=make_emicorr(), method=algorithm)
    assert not reads
    with dask.config.set(scheduler="synchronous"):
        out.sci.compute()
    assert len(reads) == passes * 4


def test_a_part_of_the_columns_gets_the_wave_of_the_whole():
    shape = (2, 12, N_Y, N_X)
    ds = make_ramp((make_ramps(shape) + make_waves(shape)).astype("f4")[None], {"y": 16})
    part = ds.isel(x=[*range(8), *range(56, 64)])
    whole = correct_emi(ds, emicorr=make_emicorr()).sci
    some = correct_emi(part, emicorr=make_emicorr(), measured_on=ds).sci
    np.testing.assert_array_equal(some.values, whole.isel(x=[*range(8), *range(56, 64)]).values)
    with pytest.raises(MrsxrError, match="not next to each other"):
        correct_emi(part, emicorr=make_emicorr())


def test_a_part_of_the_exposure_keeps_its_clocks():
    shape = (2, 20, N_Y, N_X)
    clean = make_ramps(shape, hits=0)
    ds = make_ramp((clean + make_waves(shape)).astype("f4")[None], {"y": 16})
    part = {"integration": [1], "group": slice(3, 18), "y": slice(10, 60), "x": slice(8, 56)}
    out = correct_emi(ds.isel(part), emicorr=make_emicorr(), method="harmonics", fit_frequency=False)
    rest = out.sci.values[0] - clean[1:, 3:18, 10:60, 8:56]
    assert np.sqrt(np.mean(rest**2)) < 0.1 < np.sqrt(np.mean(make_waves(shape) ** 2))


# --- truth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "limit"), [("joint", 0.3), ("sequential", 0.5), ("harmonics", 0.12)])
def test_little_is_left_of_a_wave(algorithm, limit):
    clean = make_ramps()
    data = np.rint(clean + make_waves(clean.shape)).astype("u2")
    out = correct_emi(make_ramp(data[None], {"y": 16}), emicorr=make_emicorr(), method=algorithm)
    assert left(data, clean) == pytest.approx(5.0, abs=0.05)
    assert left(out.sci.values[0], clean) < limit


def test_harmonics_find_the_shape_of_the_wave_and_a_drifted_frequency():
    shape = (2, 20, N_Y, N_X)
    clean = make_ramps(shape)
    frequency = HZ10 + 0.3 / (clock_of(shape).max() * 1e-5)  # a third of a cycle over the exposure
    wave = make_waves(shape, ((6.0, 0.3), (3.0, 1.2), (1.5, -0.7)), frequency)
    ds = make_ramp((clean + wave).astype("f4")[None], {"y": 16})
    options = {"emicorr": make_emicorr(), "method": "harmonics", "n_harmonics": 3}
    rms = [float(np.std(correct_emi(ds, **options, fit_frequency=fit).sci.values[0] - clean)) for fit in (True, False)]
    assert rms[0] < 0.15
    assert rms[1] > 1.0


def test_harmonics_fit_two_frequencies_at_once_and_need_no_reference():
    shape = (1, 12, 64, 64)
    clean = make_ramps(shape)
    clock = clock_of(shape, 28, 8512)
    freqs = (390.625, 218.52055)
    wave = sum(6.0 * np.sin(2 * np.pi * clock * f * 1e-5 + f) for f in freqs)
    ds = make_ramp((clean + wave).astype("f4")[None], {"y": 16}).assign_attrs(subarray="SUB64")
    out = correct_emi(ds, method="harmonics", onthefly_corr_freq=freqs)
    assert np.std(out.sci.values[0] - clean) < 0.3
    together = correct_emi(ds, method="joint", emicorr=make_emicorr(freqs, None, "SUB64", None, 28, 8512))
    assert np.std(together.sci.values[0] - clean) < 1.0


def test_amplifiers_may_differ():
    clean = make_ramps()
    gain = np.tile([1.0, 0.5, 1.5, 0.0], N_X // 4)
    data = (clean + gain * make_waves(clean.shape)).astype("f4")
    out = correct_emi(make_ramp(data[None], {"y": 16}), emicorr=make_emicorr(), method="harmonics", per_amplifier=True)
    for amplifier in range(4):
        rest = (out.sci.values[0] - clean)[..., amplifier::4]
        assert np.std(rest) < 0.25


def test_joint_finds_a_wave_that_starts_at_phase_zero():
    """The parabola through the best three trial phases goes on across phase 0."""
    chi2 = 1 - np.cos(2 * np.pi * (np.arange(500) / 500 - 0.9993))
    assert fits._lowest(chi2) % 1 == pytest.approx(0.9993, abs=1e-5)
    assert fits._lowest(np.roll(chi2, 7)) % 1 == pytest.approx(0.9993 + 7 / 500 - 1, abs=1e-5)
    assert fits._lowest(np.full(500, np.nan)) == 0.0


# --- kernels against slow versions -----------------------------------------------------------------------------------


@pytest.fixture
def block():
    rng = np.random.default_rng(3)
    sci = make_ramps((2, 12, 16, 64)).astype("f4")[None]
    sci[0, 1, 4, 3, 20] = np.nan
    flags = (rng.random((1, 16, 64)) < 0.05).astype("u4")
    return sci, flags, 100.0 + ROW * np.arange(16.0), np.arange(16.0)


def test_scatter_is_the_standard_deviation(block):
    expected = np.std(block[0].astype(float), axis=2)
    found = kernels.ramp_scatter(block[0])
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert kernels.twice_median(found)[0] == pytest.approx(2 * np.nanmedian(found))
    assert np.isnan(kernels.twice_median(np.full((1, 1, 2, 2), np.nan, "f4"))[0])


@pytest.mark.parametrize("period", [9961.0, 97.3])
def test_phase_sums(block, period):
    sci, flags, rows, quads = block
    scatter = kernels.ramp_scatter(sci)
    limit = kernels.twice_median(scatter)
    found = kernels.phase_sums(sci, scatter, flags, limit, rows, quads, period=period, n_bins=50)[0, 0, 0]
    expected = np.zeros((2, 50, 13))
    for i, y, x in np.ndindex(2, 16, 64):
        if scatter[0, i, y, x] < limit[0] and flags[0, y, x] == 0 and not 4 <= x < 12:
            place = int(((rows[y] + quads[x // 4]) / period % 1) * 50)
            expected[i, place, :12] += sci[0, i, :, y, x].astype(float) - sci[0, i, 0, y, x]
            expected[i, place, 12] += 1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=0.05)
    assert expected[..., 12].sum() > 500


@pytest.mark.parametrize("n_amplifiers", [1, 4])
def test_cell_sums(block, n_amplifiers):
    sci, flags, _, _ = block
    edges = [0, 5, 16]
    found = kernels.cell_sums(sci, flags, edges=edges, low=1, high=11, n_amplifiers=n_amplifiers)[0]
    used = 0
    for i, y in np.ndindex(2, 16):
        ramps = sci[0, i, 1:11, y].astype(float)
        ramps = ramps - ramps[0]
        usable = flags[0, y] & 1 == 0
        good, first_weight = judged(ramps, usable)
        cells = [np.arange(4 * edges[c] + a, 4 * edges[c + 1], n_amplifiers) for a, c in np.ndindex(n_amplifiers, 2)]
        rest = ramps.copy()
        for at in cells:
            rest[:, at] -= ramps[:, at[good[at]]].mean(axis=1)[:, None]
        good, second_weight = judged(rest, usable)
        weight = second_weight if first_weight > second_weight / 16 else first_weight
        for (a, c), at in zip(np.ndindex(n_amplifiers, 2), cells, strict=True):
            expected = weight * ramps[:, at[good[at]]].sum(axis=1)
            np.testing.assert_allclose(found[a, i, :10, y, c], expected, rtol=1e-4, atol=0.02)
            assert found[a, i, 10, y, c] == pytest.approx(weight * good[at].sum(), rel=1e-4)
        used += good.sum()
    assert 0.7 * 2 * 16 * 64 < used < 0.98 * 2 * 16 * 64


def judged(ramps, usable):
    """Return the good ramps (group, x) of a row and their weight, from differences around their mean."""
    away = np.diff(ramps, axis=0)
    away = (away - away.mean(axis=0)) ** 2
    squares = away.sum(axis=0)
    n_free = len(away) - 1
    with np.errstate(invalid="ignore"):
        counted = (usable & (squares > 0))[::3]
        middle = np.median(squares[::3][counted])
        good = usable & (squares > 0) & (squares < middle * (1 + 5 * np.sqrt(2 / n_free)))
        good &= away.max(axis=0) < 25 * middle / n_free
    return good, n_free / middle


def test_quad_residuals(block):
    sci = np.nan_to_num(block[0], nan=9000.0)
    found = kernels.quad_residuals(sci)[0]
    t = np.arange(12)
    for i, y in np.ndindex(2, 16):
        ramps = sci[0, i, :, y].astype(float)
        rest = ramps - np.polyfit(t[1:-1], ramps[1:-1], 1)[0] * t[:, None]
        rest -= np.median(rest[1:-1], axis=0)
        quads = rest.reshape(12, 16, 4).mean(axis=2)
        quads[:, 1] = quads[:, 2] = (quads[:, 0] + quads[:, 3]) / 2
        np.testing.assert_allclose(found[i, :, y], quads, atol=0.01)


def test_clipped_mean_and_folding(block):
    rng = np.random.default_rng(9)
    values = np.concatenate([rng.normal(2, 1, 400), rng.normal(0, 30, 40)]).astype("f4")
    kept = values.astype(float)
    for _ in range(5):
        kept = kept[np.abs(kept - np.median(kept)) <= 3 * np.std(kept)]
    assert fits.clipped_mean(values) == pytest.approx(np.mean(kept), abs=1e-9)
    assert np.isnan(fits.clipped_mean(values[:0]))
    residuals = rng.normal(0, 1, (2, 3, 16, 16)).astype("f4")
    residuals[0, 0, 0, 0] = np.nan
    starts = 5000.0 * np.arange(6).reshape(2, 3)
    phase = ((starts[..., None, None] + block[2][:, None] + block[3]) / 321.7) % 1
    level = residuals - np.nanmedian(residuals, axis=(2, 3), keepdims=True)
    found = fits.folded_wave(residuals, starts, block[2], block[3], 321.7, 8)
    for m in range(8):
        inside = level[(phase > m / 8) & (phase <= (m + 1) / 8)]
        assert found[m] == pytest.approx(fits.clipped_mean(inside[np.isfinite(inside)]), abs=1e-6)


def test_subtracted_wave_is_the_cubic_spline(block):
    sci, _, rows, quads = block
    rng = np.random.default_rng(2)
    wave = np.sin(2 * np.pi * np.arange(40) / 40) + rng.normal(0, 0.1, 40)
    phases, starts = np.array([0.2, 0.7]), FRAME * (np.arange(12.0) + 13 * np.arange(2)[:, None])
    packed = kernels.pack_wave(9961.0, 40, 0.5, phases, 3.0 * _spline_pieces(wave))[None, None]
    out = kernels.subtract_waves(sci, packed, rows, quads, starts=starts, n_amplifiers=1, n_tables=1)
    spline = interp1d((np.arange(42) - 0.5) / 40, [wave[-1], *wave, wave[0]], kind="cubic")
    clocks = starts[..., None, None] + rows[:, None] + np.repeat(quads, 4)
    expected = sci[0] - 3.0 * spline((clocks / 9961.0 + phases[:, None, None, None]) % 1)
    np.testing.assert_allclose(out[0], expected, atol=2e-3)


def test_joint_amplitude_is_that_of_least_squares():
    """With the phase known, the amplitude is that of a fit of level, slope and wave to every phase bin."""
    rng = np.random.default_rng(4)
    wave = np.sin(2 * np.pi * (np.arange(20) + 0.5) / 20)
    starts = np.round(1234.5 * np.arange(8.0) / 50) * 50  # whole bins, so that the waveform needs no interpolation
    counts = rng.integers(1, 9, 20)
    z = np.array([[wave[int(m + s // 50) % 20] for s in starts] for m in range(20)])
    y = counts[:, None] * (3.0 * z + rng.normal(0, 5, (20, 1)) * np.arange(8) + 7) + rng.normal(0, 1, (20, 8))
    sums = np.concatenate([y, counts[:, None]], axis=1)[None, None]
    a, b = np.zeros((2, 1, 500))
    fits._trial_sums(sums[0], _spline_pieces(wave), starts / 1000 % 1, np.arange(8.0), a, b)
    lines = np.linalg.qr(np.stack([np.ones(8), np.arange(8)], axis=1))[0]
    rest = z - z @ lines @ lines.T
    assert a[0, 0] == pytest.approx(np.sum(counts[:, None] * rest**2), rel=1e-4)
    assert b[0, 0] == pytest.approx(-2 * np.sum(rest * y), rel=1e-4)


def test_harmonics_are_those_of_plain_least_squares():
    """Level and slope of every cell, a level of every group and the waves, in one large design matrix."""
    rng = np.random.default_rng(6)
    n_group, n_cell = 7, 9
    starts, cells = 3210.0 * np.arange(n_group), 311.0 * np.arange(n_cell)
    weights = rng.uniform(1, 4, n_cell)
    y = rng.normal(0, 1, (n_group, n_cell)) + rng.normal(0, 3, (n_group, 1))
    frequencies, harmonics = np.array([1 / 997.0, 1 / 641.0]), np.array([2, 1])
    sums = np.concatenate([y * weights, weights[None]])[None].astype("f4")
    weights = sums[0, -1].astype(float)
    y = sums[0, :-1] / weights
    normal, right, chi2, free = fits._equations(sums, starts[None], cells, frequencies, harmonics)
    found = np.linalg.solve(normal, right)
    g, c = (m.ravel() for m in np.mgrid[:n_group, :n_cell])
    t = starts[g] + cells[c]
    waves = [f(2 * np.pi * h * t * w) for w, n in zip(frequencies, harmonics, strict=True)
             for h in range(1, n + 1) for f in (np.cos, np.sin)]  # fmt: skip
    nuisance = [
        *(g == k for k in range(n_group)),
        *(c == k for k in range(n_cell)),
        *((c == k) * g for k in range(n_cell)),
    ]
    design = np.stack([*waves, *nuisance], axis=1).astype(float) * np.sqrt(weights[c])[:, None]
    data = y.ravel() * np.sqrt(weights[c])
    solution = np.linalg.lstsq(design, data, rcond=None)[0]
    np.testing.assert_allclose(found, solution[:6], rtol=1e-6)
    assert chi2 - found @ right == pytest.approx(np.sum((data - design @ solution) ** 2), rel=1e-6)
    assert free == (n_cell - 1) * (n_group - 2)


def test_harmonic_pieces_follow_the_wave():
    pieces = fits._harmonic_pieces(np.array([1.0, -2.0, 0.3, 0.4]))
    phase = np.random.default_rng(0).random(50)
    n, f = np.divmod(phase * fits.N_PIECES, 1)
    angle = 2 * np.pi * phase
    expected = np.cos(angle) - 2 * np.sin(angle) + 0.3 * np.cos(2 * angle) + 0.4 * np.sin(2 * angle)
    found = sum(pieces[n.astype(int), k] * f**k for k in range(4))
    np.testing.assert_allclose(found, expected, atol=1e-8)


# --- refusals and pathologies ----------------------------------------------------------------------------------------


def ramp_of(n_group=12, **attrs):
    return make_ramp(make_ramps((1, n_group, N_Y, 32), hits=0).astype("f4")[None]).assign_attrs(attrs)


@pytest.mark.parametrize(
    ("attrs", "match"),
    [({"readpatt": "FASTGRPAVG"}, "FASTGRPAVG"), ({"subarray": "MASK1065"}, "no frequency for MASK1065"),
     ({"readpatt": "SLOWR1"}, "no frequency for FULL_SLOW")],
)  # fmt: skip
def test_without_a_case_the_ramps_stay(attrs, match):
    ds = ramp_of(**attrs)
    with pytest.warns(MrsxrWarning, match=match):
        out = correct_emi(ds, emicorr=make_emicorr())
    np.testing.assert_array_equal(out.sci.values, ds.sci.values)


@pytest.mark.parametrize(("algorithm", "n_group"), [("joint", 2), ("harmonics", 2), ("sequential", 3)])
def test_too_few_groups_stay(algorithm, n_group):
    ds = ramp_of(n_group)
    with pytest.warns(MrsxrWarning, match=f"{n_group} groups"):
        out = correct_emi(ds, emicorr=make_emicorr(), method=algorithm)
    np.testing.assert_array_equal(out.sci.values, ds.sci.values)


def test_few_groups_recommend_joint():
    with pytest.warns(MrsxrWarning, match="use method='joint'"):
        correct_emi(ramp_of(6), emicorr=make_emicorr(), method="sequential")


def test_errors_are_clear():
    with pytest.raises(ReferenceFileError, match="onthefly_corr_freq"):
        correct_emi(ramp_of())
    with pytest.raises(ReferenceFileError, match="asks for the frequency 'Hz390' but holds Hz10"):
        correct_emi(ramp_of(), emicorr=make_emicorr(freqs={"FAST": ["Hz390"]}))
    with pytest.raises(ReferenceFileError, match="at least 4 finite samples"):
        correct_emi(ramp_of(), emicorr=make_emicorr(waves=[np.full(9, np.nan)]))
    with pytest.raises(MrsxrError, match="whole groups of four"):
        correct_emi(ramp_of().isel(x=slice(1, 21)), emicorr=make_emicorr())
    with pytest.raises(MrsxrError, match="expected one of joint, sequential, harmonics"):
        correct_emi(ramp_of(), emicorr=make_emicorr(), method="fourier")


@pytest.mark.parametrize("algorithm", ["joint", "sequential", "harmonics"])
@pytest.mark.parametrize("value", [np.nan, 65535.0, 0.0])
def test_ramps_without_signal_stay_as_they_are(algorithm, value):
    ds = make_ramp(np.full((1, 2, 12, 16, 32), value, "f4"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = correct_emi(ds, emicorr=make_emicorr(), method=algorithm)
    np.testing.assert_array_equal(out.sci.values, ds.sci.values)


@pytest.mark.parametrize("algorithm", ["joint", "sequential", "harmonics"])
def test_lost_groups_and_bad_pixels_do_not_spoil_the_rest(algorithm):
    clean = make_ramps()
    data = (clean + make_waves(clean.shape)).astype("f4")
    data[0, :, 5:9, 8:20] = np.nan
    data[1, 7:, 30:34] = 65535.0
    out = correct_emi(make_ramp(data[None], {"y": 16}), emicorr=make_emicorr(), method=algorithm).sci.values[0]
    assert np.array_equal(np.isnan(out), np.isnan(data))
    good = np.isfinite(data) & (data < 65000)
    assert np.std((out - clean)[good]) < 0.25 * np.std((data - clean)[good])
