"""Steps of stage 1 that judge themselves: what the truth says they decide, and without a gain they are the baseline."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step

from mrsxr import dq, rate
from mrsxr.rate import _slope_score as judges
from mrsxr.rate._emicorr_fit_kernels import _refine, early_and_late, odd_and_even
from mrsxr.rate._refpix_kernels import held_out

PLACE = Path(__file__).parents[2] / "benchmarks" / "_truth_rate.py"
SPEC = importlib.util.spec_from_file_location("_truth_rate", PLACE)
truths = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(truths)


@pytest.fixture
def others(monkeypatch):
    """The module of ramps of another electronics."""
    monkeypatch.syspath_prepend(str(PLACE.parent))
    return importlib.import_module("_truth_ramps")


def joined(*each):
    """Return exposures as the dithers of one Dataset."""
    return xr.concat([one.assign_coords(dither=[n]) for n, one in enumerate(each, start=1)], "dither")


# --- emicorr ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scene", "taken"),
    [({"emi": 0.7, "frequency": 10.0401}, True), ({"bend": 0.5, "n_int": 2}, False), ({"rows": 3.0, "seed": 4}, False),
     ({"emi": 4.0, "n_group": 7}, False), ({"emi": 4.0, "n_group": 5, "n_int": 3}, True)],
)  # fmt: skip
def test_a_wave_is_subtracted_where_the_other_half_shows_it(scene, taken):
    counts, wave = truths.emi_ramps(n_y=64, n_x=128, **scene)
    ds = truths.dataset(counts)
    out = assert_step(rate.correct_emi, ds, emicorr=truths.emi_reference(), method="harmonics")
    score = out.score_emicorr.values
    assert bool(score < 1) is taken
    assert np.isnan(score[0]) == (scene.get("n_group") == 7)  # five groups of one integration are not halved
    if taken:
        left = truths.slope_error(out.sci.values[0] - (counts - wave).astype("f4"))
        assert left < 0.2 * truths.slope_error(wave)
    else:
        np.testing.assert_array_equal(out.sci, ds.sci)


def test_halves_of_ramps():
    assert early_and_late(9, 3) == [(slice(None), slice(0, 4)), (slice(None), slice(4, 9))]
    assert early_and_late(10, 5, first=1) == [(slice(None), slice(1, 6)), (slice(None), slice(6, 11))]
    assert odd_and_even(3, 5, 3, first=2) == [(slice(0, None, 2), slice(2, 7)), (slice(1, None, 2), slice(2, 7))]
    assert early_and_late(5, 3) == odd_and_even(1, 5, 3) == odd_and_even(4, 2, 3) == []


def test_a_frequency_that_does_not_settle_stays_as_it_is(monkeypatch):
    rng = np.random.default_rng(3)
    starts = np.arange(30.0)[None] * 5000.0
    cells = np.sort(rng.uniform(0, 4000, 60))
    clock = starts[0][:, None] + cells
    sums = np.ones((1, 31, 60), "f4")
    sums[0, :30] = 50 * np.sin(2 * np.pi * (clock / 997.0)) + rng.normal(0, 1, clock.shape)
    given = np.array([1 / 997.02])
    assert abs(_refine(sums, starts, cells, given, np.array([1]))[0] * 997.0 - 1) < 1e-5
    from mrsxr.rate import _emicorr_fit_kernels as fits

    monkeypatch.setattr(fits, "CONVERGED", 0.0)  # no change is small enough
    np.testing.assert_array_equal(_refine(sums, starts, cells, given, np.array([1])), given)


@pytest.mark.parametrize("seed", [46, 48, 54, 82])
def test_light_that_jitters_is_no_interference(others, seed):
    """All pixels share the noise of a frame: as if it were white, the first three would pass for interference."""
    counts, flags, _ = others.ramps(seed, n_group=16, n_y=48, n_x=64, level=300.0, jitter=0.08)
    ds = truths.dataset(counts, flags=flags)
    out = rate.correct_emi(ds, emicorr=truths.emi_reference(), method="harmonics")
    assert out.score_emicorr.values[0] > 1
    np.testing.assert_array_equal(out.sci, ds.sci)


def test_ramps_that_bend_are_no_shower(others, monkeypatch):
    counts, flags, truth = others.ramps(61, n_y=256, n_x=256, level=2.0, tilt=5.0, bend=0.3)
    ds, refs = truths.dataset(counts, flags=flags), truths.noise_references(*truth.shape)
    np.testing.assert_array_equal(rate.remove_showers(ds, **refs).sci, ds.sci)
    from mrsxr.rate import _shower_model

    monkeypatch.setattr(_shower_model, "_bends", lambda *found: False)
    assert np.abs(rate.remove_showers(ds, **refs).sci - ds.sci).max() > 100


# --- refpix ----------------------------------------------------------------------------------------------------------


def test_drifts_of_the_reference_pixels_alone_are_not_followed():
    scenes = {"n_group": 8, "n_y": 512}
    both = [truths.outer_ramps(**scenes, **more) for more in ({"own": 3.0, "seed": 2}, {"drift": 3.0, "seed": 3})]
    ds = joined(*(truths.dataset(counts, truths.OUTER) for counts, _ in both))
    smooth = assert_step(rate.subtract_reference_pixels, ds, method="smooth")
    constant = rate.subtract_reference_pixels(ds)
    assert smooth.score_refpix.values[0] > 1.02
    assert smooth.score_refpix.values[1] < 0.95
    np.testing.assert_array_equal(smooth.sci[0], constant.sci[0])
    left = ((ds.sci - smooth.sci).values[1] - both[1][1])[..., 8:16].std()
    assert left < 0.4 * ((ds.sci - constant.sci).values[1] - both[1][1])[..., 8:16].std()


def test_without_pixels_beside_them_nothing_is_judged():
    counts, _ = truths.outer_ramps(n_group=6, n_y=300, drift=4.0)
    ds = truths.dataset(counts, truths.OUTER)
    blind = ds.isel(x=np.flatnonzero((truths.OUTER < 4) | (truths.OUTER >= 1028)))
    out = rate.subtract_reference_pixels(ds, reference_columns=blind, method="smooth")
    assert np.isnan(out.score_refpix.values[0])
    np.testing.assert_array_equal(out.sci, rate.subtract_reference_pixels(ds).sci)
    by_hand = rate.subtract_reference_pixels(ds, method="smooth", window=26)
    assert "score_refpix" not in by_hand
    assert np.abs(by_hand.sci - out.sci).max() > 1


def test_the_score_of_the_smooth_part_is_the_plain_one():
    """No hits, one noise: the scatter of differences with the smooth part over that without, plus two errors."""
    rng = np.random.default_rng(5)
    smooth = rng.normal(0, 1.5, (1, 30, 200, 1)) * np.ones(4)
    pixels = smooth + rng.normal(0, 2, smooth.shape) + 40.0 * np.arange(30)[:, None, None]
    steps = np.diff(pixels - 40.0 * np.arange(30)[:, None, None], axis=1)
    before, after = np.sum(steps**2), np.sum((steps - np.diff(smooth, axis=1)) ** 2)
    assert held_out(pixels, np.ones((200, 4), bool), 0.0 * smooth, smooth) == pytest.approx(after / before, abs=0.04)
    assert held_out(pixels, np.zeros((200, 4), bool), 0.0 * smooth, smooth) != 0
    assert held_out(pixels, np.ones((200, 4), bool), smooth, 0.0 * smooth) == 1.0


# --- jumps and slopes ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exposures():
    """A dither of heavy tails, where both gain; one of flicker noise, where likelihood finds jumps that are none."""
    kinds = ({"noise": "laplace", "level": 1.0}, {"noise": "1/f", "level": 1.0, "hits": 0.0})
    made = [truths.light_ramps(n_group=24, n_x=400, **kind) for kind in kinds]
    ds = joined(*(truths.dataset(counts, flags=flags) for counts, flags, _ in made))
    return ds, truths.noise_references(32, 400), np.stack([truth for *_, truth in made])


def test_jumps_are_found_by_the_better_test_of_each_dither(exposures):
    ds, refs, _ = exposures
    found = assert_step(
        rate.flag_jumps, ds, method="judged", **refs, after_jump_flag_dn1=5.0, after_jump_flag_time1=6.0
    )
    assert found.score_jump.values[0] < 1 < found.score_jump.values[1]
    likelihood = rate.flag_jumps(ds, method="likelihood", **refs)
    two_point = rate.flag_jumps(ds, **refs, after_jump_flag_dn1=5.0, after_jump_flag_time1=6.0)
    np.testing.assert_array_equal(found.group_dq[0], likelihood.group_dq[0])
    np.testing.assert_array_equal(found.group_dq[1], two_point.group_dq[1])
    assert (likelihood.group_dq[1] != two_point.group_dq[1]).any()
    for rows in (5, 16):
        lazy = rate.flag_jumps(ds.chunk(dither=1, y=rows), method="judged", **refs)
        np.testing.assert_array_equal(lazy.score_jump, found.score_jump)


def test_loaded_ramps_and_lazy_references(exposures):
    ds, refs, _ = exposures
    lazy = {name: ref.chunk(y=8) for name, ref in refs.items()}
    found, expected = rate.flag_jumps(ds, method="judged", **lazy), rate.flag_jumps(ds, method="judged", **refs)
    xr.testing.assert_equal(found.compute(), expected)
    fits = [rate.fit_ramps(expected, **which, method="gls", judged=True) for which in (lazy, refs)]
    xr.testing.assert_equal(fits[0].compute(), fits[1])


def test_slopes_are_those_of_the_better_fit(exposures):
    ds, refs, _ = exposures
    bent = ds.assign(sci=ds.sci.copy(data=(10000 + 30 * (ds.sci - 10000) - (ds.sci - 10000) ** 2 / 20).values))
    ds = xr.concat([ds.isel(dither=[0]), bent.isel(dither=[1])], "dither")
    refs["readnoise"] = refs["readnoise"].copy(deep=True)
    flagged = rate.flag_jumps(ds, **refs)
    options = {"method": "gls", "find_jumps": False}
    out = assert_step(rate.fit_ramps, flagged, **refs, **options, judged=True)
    ints = rate.fit_integrations(flagged, **refs, **options, judged=True)
    assert out.score_ramp_fit.values[0] < 1
    assert not out.score_ramp_fit.values[1] < 1
    gls, ols = rate.fit_ramps(flagged, **refs, **options), rate.fit_ramps(flagged, **refs)
    for name in ("rate", "var_poisson", "var_read", "dq", "groups_used", "n_jumps"):
        np.testing.assert_array_equal(out[name][0], gls[name][0])
        np.testing.assert_array_equal(out[name][1], ols[name][1])
        np.testing.assert_array_equal(ints[name][1], rate.fit_integrations(flagged, **refs)[name][1])
    assert out.chi2[1].isnull().all()
    assert out.chi2[0].notnull().any()


def test_ramps_too_short_to_be_judged_are_the_baseline(exposures):
    ds, refs, _ = exposures
    ds = ds.isel(dither=[0], group=slice(0, 9)).assign_attrs(n_groups=9)
    flagged = rate.flag_jumps(ds, method="judged", **refs)
    out = rate.fit_ramps(flagged, **refs, method="gls", judged=True)
    plain = rate.fit_ramps(rate.flag_jumps(ds, **refs), **refs)
    assert np.isnan(out.score_jump.values[0])
    assert np.isnan(out.score_ramp_fit.values[0])
    for name in plain.data_vars:
        np.testing.assert_array_equal(out[name], plain[name])
    two = rate.flag_jumps(ds.isel(group=slice(0, 2)), method="judged", **refs)
    assert np.isnan(two.score_jump.values[0])


def test_losses_are_those_of_a_gaussian():
    rng = np.random.default_rng(0)
    a, b = rng.normal(5, 2, (2, 4000))
    halves = [(x, np.full(4000, 3.0), np.full(4000, 1.0), np.zeros(4000, int)) for x in (a, b)]
    plain = [np.log(8.0) + min((p - q) ** 2 / 8.0, 25.0) for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(judges.loss(*halves)[0], plain)
    np.testing.assert_allclose(judges.loss(*halves)[1], plain, atol=0.7)  # what 4000 pixels share by chance
    wrong = [(x, np.full(4000, 1.0), np.full(4000, 1.0), np.zeros(4000, int)) for x in (a, b)]
    wide = [(x, np.full(4000, 9.0), np.full(4000, 7.0), np.zeros(4000, int)) for x in (a, b)]
    right = judges.loss(*halves)
    for other in (wrong, wide):
        assert judges.score(judges.change_of(right, judges.loss(*other))) < 0.9
        assert judges.score(judges.change_of(judges.loss(*other), right)) > 1.1
    lost = np.where(np.arange(4000) % 50 == 0, np.nan, right)
    assert judges.score(judges.change_of(lost, right)) > 1.2  # a method does not gain by giving up pixels
    assert judges.score(judges.change_of(right, lost)) == 1.0
    assert np.isnan(judges.score(judges.change_of(right[:, :90], right[:, :90])))


def test_what_all_pixels_share_is_no_gain():
    """By chance the halves agree with the one method, and differ by the same of every slope with the other."""
    rng = np.random.default_rng(2)
    truth, noise = 30.0 * rng.lognormal(0, 1, 3000), rng.normal(0, 2, (2, 3000))
    right, shaken = ([(truth * (1 + size * k) + noise[k], np.full(3000, 4.0), np.zeros(3000), np.zeros(3000, int))
                      for k in (0, 1)] for size in (0.0, 0.05))  # fmt: skip
    losses = judges.loss(*right), judges.loss(*shaken)
    np.testing.assert_allclose(losses[0][1], losses[1][1], atol=0.8)
    change = judges.change_of(*losses)
    assert judges.score(change[:1]) < 0.8  # what is taken for a gain of the one ...
    assert 0.99 < judges.score(change) < 1.05
    assert judges.score(-change) > 1.25  # ... counts as harm of the other


def changes_of_all(ds, refs, parts):
    """Return the changes of loss (2, pixel), every pixel fitted in whole frames by the wrappers of the steps."""
    pixels = (refs["readnoise"].read_noise.values, refs["gain"].gain.values, np.zeros(ds.sci.shape[-2:], "f4"))
    fits, flags = [], []
    for find in (partial(rate.flag_jumps, method="likelihood"), rate.flag_jumps):
        halves = [find(ds.isel(integration=i, group=g), **refs) for i, g in parts]
        flags.append(np.concatenate([half.group_dq.values.reshape(-1, *ds.sci.shape[-2:]) for half in halves]))
        ramps = [(np.ascontiguousarray(one.sci.values), one.group_dq.values, one.pixel_dq.values) for one in halves]
        fits.append(
            [judges.fit_gls(*one, *pixels, group_time=ds.group_time, find_jumps=False)[:4] for one in ramps]
        )  # fmt: skip
    differ = (flags[0] != flags[1]).any(axis=0)
    change = np.zeros((2, *differ.shape))
    change[:, differ] = judges.change_of(
        *(judges.loss(*[[a[0][differ] for a in half] for half in one]) for one in fits)
    )
    return change.reshape(2, -1)


def test_whole_ramps_of_other_integrations_tell_a_small_gain():
    """Faint hits are 0.3 % of the pixels: halves of ramps do not show the gain, nor harm."""
    counts, flags, _ = truths.light_ramps(n_int=3, n_group=20, n_x=500, level=1.0, hits=5e-4, seed=11)
    ds, refs = truths.dataset(counts, flags=flags), truths.noise_references(32, 500)
    odd, early = (changes_of_all(ds, refs, parts) for parts in (odd_and_even(3, 20, 4), early_and_late(20, 5)))
    found = rate.flag_jumps(ds, method="judged", **refs)
    np.testing.assert_allclose(found.score_jump, max(judges.score(odd), judges.score(early, -2.0)), rtol=1e-6)
    assert float(found.score_jump[0]) < 1


def test_what_settles_alike_in_all_integrations_is_no_gain():
    """The jumps that likelihood finds in a tail draw the integrations together, and their slopes off the truth."""
    counts, flags, truth = truths.light_ramps(n_int=2, n_group=24, n_y=24, n_x=400, level=1.0, hits=0.0, seed=4)
    tail = 100.0 * np.exp(np.random.default_rng(1).normal(0, 1, (24, 400)) - np.arange(24)[:, None, None] / 6.0)
    counts = counts + np.stack([1.3 * tail, 0.7 * tail])
    ds, refs = truths.dataset(counts, flags=flags), truths.noise_references(24, 400)
    assert judges.score(changes_of_all(ds, refs, odd_and_even(2, 24, 4))) < 1
    found = rate.flag_jumps(ds, method="judged", **refs)
    assert found.score_jump.values[0] > 1
    xr.testing.assert_equal(found.group_dq, rate.flag_jumps(ds, **refs).group_dq)
    losses = {way: truths.describe(*made, truth)[0] for way, made in truths.three_ways(ds, refs).items()}
    assert np.nanmean(losses["before"]) > np.nanmean(losses["baseline"])


@pytest.mark.slow
@pytest.mark.shared
def test_real_dark_ramps_are_left_to_the_baseline(shared_data, monkeypatch):
    """Their noise is not white: likelihood finds eight times as many jumps, of which few are hits."""
    path = shared_data.parent / truths.REAL
    if not path.is_file():
        pytest.skip("the ramps of the test rig are not here")
    monkeypatch.syspath_prepend(str(PLACE.parent))
    from real_ramps import read_ramp

    ds, refs = read_ramp(path, rows=slice(20, 60))
    ds = ds.isel(integration=slice(1, None), group=slice(8, -1)).assign_attrs(n_integrations=4, n_groups=41)
    found = rate.flag_jumps(ds, method="judged", **refs)
    out = rate.fit_ramps(found, **refs, method="gls", judged=True, find_jumps=False)
    assert found.score_jump.values[0] > 1
    assert out.score_ramp_fit.values[0] > 1
    xr.testing.assert_equal(found.group_dq, rate.flag_jumps(ds, **refs).group_dq)
    xr.testing.assert_equal(out.rate, rate.fit_ramps(rate.flag_jumps(ds, **refs), **refs).rate)
    assert ((rate.flag_jumps(ds, method="likelihood", **refs).group_dq & dq.JUMP_DET) > 0).sum() > 3 * (
        (found.group_dq & dq.JUMP_DET) > 0
    ).sum()
