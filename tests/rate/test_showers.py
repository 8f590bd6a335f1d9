"""Showers: the search of jwst against stored results of stcal, and the removal of diffuse charge against the truth."""

from __future__ import annotations

import ast

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, make_ramp, make_reference, no_compute, of_jwst
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from mrsxr import dq
from mrsxr.errors import MrsxrError
from mrsxr.rate import _shower_kernels as kernels
from mrsxr.rate import _shower_model as modelling
from mrsxr.rate._shower_model_kernels import CELL, coarse_maps, subtract_model
from mrsxr.rate.showers import flag_showers, remove_showers, shower_model

GAIN, NOISE = 4.0, 8.0


# --- the search of jwst ---


def cases():
    stored = of_jwst("shower_cases")
    numbers = sorted({int(name.partition("_")[0]) for name in stored})
    return [{k.partition("_")[2]: v for k, v in stored.items() if k.startswith(f"{n}_")} for n in numbers]


CASES = cases()


def prepared(case):
    sci = np.where(case["sci"] == 65535, np.nan, case["sci"]).astype("f4")
    ds = make_ramp(sci[None])
    ds["group_dq"] = ds.group_dq.copy(data=case["group_dq"][None])
    ds["pixel_dq"] = ds.pixel_dq.copy(data=case["pixel_dq"][None])
    references = {
        "gain": make_reference("gain", gain=case["gain"]),
        "readnoise": make_reference("readnoise", read_noise=case["noise"]),
    }
    return ds, references, ast.literal_eval(str(case["options"]))


@pytest.mark.parametrize("number", range(len(CASES)))
def test_equal_to_stcal(number):
    case = CASES[number]
    ds, references, options = prepared(case)
    for chunked in (ds, ds.chunk(y=7), ds.chunk(y=12)):  # the last block has two rows, less than a ring
        out = flag_showers(chunked, **references, **options)
        np.testing.assert_array_equal(out.group_dq[0], case["out"])
    assert ((case["out"] != case["group_dq"]).sum() > 20) == (number < 4)


def test_search_keeps_the_promises_of_a_step():
    ds, references, options = prepared(CASES[0])
    assert_step(flag_showers, ds, **references, **options)


@given(inner=st.floats(0, 2.5), width=st.floats(1.0, 3.0), seed=st.integers(0, 100))
def test_ring_against_convolution(inner, width, seed):
    rng = np.random.default_rng(seed)
    planes = rng.normal(1, 0.3, (1, 19, 23)).astype("f4")
    planes[rng.random(planes.shape) < 0.1] = np.nan
    outer = inner + width
    depth = int(outer)
    y, x = np.mgrid[-depth : depth + 1, -depth : depth + 1]
    square = y * y + x * x
    ring = ((square >= inner**2) & (square <= outer**2)).astype(float)
    good = np.isfinite(planes[0])
    total = ndimage.convolve(np.where(good, planes[0], 0.0).astype(float), ring, mode="constant")
    number = ndimage.convolve(good.astype(float), ring, mode="constant", cval=1.0)
    expected = np.where(good & (number > 0.5), total / np.maximum(number, 1), 0)
    found = kernels.ring_mean(planes, inner, outer)[0]
    inside = slice(depth, -depth)
    np.testing.assert_allclose(found[inside], expected[inside], rtol=2e-5, atol=1e-6)


@given(seed=st.integers(0, 200), filled=st.floats(0.05, 0.6))
def test_areas_against_scipy(seed, filled):
    rng = np.random.default_rng(seed)
    frame = rng.random((21, 27)) < filled
    labels, _ = ndimage.label(frame, np.ones((3, 3)))
    box = np.ones((3, 3))
    expected = {}
    for k, place in enumerate(ndimage.find_objects(labels), 1):
        area = labels[place] == k
        expected[k] = int(ndimage.binary_fill_holes(area, box).sum())
    left = frame.copy()
    ys, xs = np.empty(frame.size, dtype=np.int64), np.empty(frame.size, dtype=np.int64)
    for y, x in zip(*np.nonzero(frame), strict=True):
        if left[y, x]:
            count = kernels._take_area(left, y, x, ys, xs)
            k = labels[y, x]
            assert set(zip(ys[:count].tolist(), xs[:count].tolist(), strict=True)) == set(
                zip(*(c.tolist() for c in np.nonzero(labels == k)), strict=True)
            )
            assert kernels._filled_size(ys[:count], xs[:count]) == expected.pop(k)
    assert not expected


def test_pixels_of_a_large_area_are_drawn_and_kept():
    frame = np.zeros((1, 4, 40, 50), "f4")
    y, x = np.mgrid[:40, :50]
    disk = (y - 20) ** 2 + (x - 30) ** 2 <= 49
    frame[0, 1][disk] = 2.0
    frame[0, 1, 2:5, 2:5] = 2.0  # too small
    packed = kernels.pack_above(frame[None], 1.0)
    lost = np.zeros((1, 1, 4), bool)
    drawn = kernels.draw_showers(packed, lost, 50, 90, 1.1, 400, 1, 3)
    bits = np.unpackbits(drawn, axis=-1)[0, 0, :, :, :50].astype(bool)
    assert not bits[0].any()
    assert not bits[3].any()
    np.testing.assert_array_equal(bits[1], bits[2])
    assert (bits[1] & disk).sum() > 0.95 * disk.sum()
    assert not bits[1][:10].any()
    assert bits[1].sum() < 1.4 * disk.sum()
    lost[:] = True
    assert not kernels.draw_showers(packed, lost, 50, 90, 1.1, 400, 1, 3).any()


# --- diffuse charge ---


def made(n_int=2, n_group=16, n_y=128, n_x=200, seed=1, line=0.0):
    """Ramps of a faint scene with a bright line and single hits; no shower. Return (ds, references)."""
    rng = np.random.default_rng(seed)
    rate = np.full((n_y, n_x), 40.0)  # electron a group
    rate[:, 40:44] += line
    steps = rng.poisson(rate, (n_int, n_group, n_y, n_x)).astype(float)
    hits = rng.random(steps.shape) < 0.002
    steps[hits] += rng.lognormal(7.0, 1.0, hits.sum())
    sci = 5000 + np.cumsum(steps, axis=1) / GAIN + rng.normal(0, NOISE / np.sqrt(2), steps.shape)
    ds = make_ramp(sci.astype("f4")[None])
    ds.group_dq[:, :, -1] = dq.DO_NOT_USE
    shape = (n_y, n_x)
    references = {
        "gain": make_reference("gain", gain=np.full(shape, GAIN, "f4")),
        "readnoise": make_reference("readnoise", read_noise=np.full(shape, NOISE, "f4")),
    }
    return ds, references


def blob(n_group=16, n_y=128, n_x=200, peak=90.0, at=(60.0, 70.0), size=(9.0, 12.0), onset=5, fade=3.0):
    """Charge [DN] that a shower has left up to each group."""
    y, x = np.mgrid[:n_y, :n_x]
    shape = peak / GAIN * np.exp(-0.5 * (((y - at[0]) / size[0]) ** 2 + ((x - at[1]) / size[1]) ** 2))
    after = np.arange(n_group) - onset
    return np.cumsum(np.where(after >= 0, np.exp(-after / fade), 0))[:, None, None] * shape


def with_shower(ds, charge, integration=0):
    out = ds.copy(deep=True)
    out.sci[0, integration] += charge.astype("f4")
    return out


@pytest.mark.parametrize("peak", [60.0, 120.0, 240.0])
def test_a_shower_is_removed(peak):
    ds, references = made()
    charge = blob(peak=peak)
    out = assert_step(remove_showers, with_shower(ds, charge, 1), **references)
    left = (out.sci - ds.sci)[0].values
    np.testing.assert_allclose(left[0], 0, atol=1e-3)  # the other integration
    np.testing.assert_array_equal(left[1, :5], 0)  # before it
    last = slice(-2, -1)
    y, x = np.mgrid[:128, :200]
    near = np.hypot((y - 60) / 9, (x - 70) / 12) < 2.5
    assert abs(left[1, last][..., near].sum()) < 0.1 * charge[last].sum()
    assert np.abs(left[1]).max() < 0.2 * charge.max()


def test_the_score_tells_whether_a_shower_was_there():
    ds, references = made(n_y=96, n_x=160)
    charge = blob(peak=80.0, n_y=96, n_x=160, at=(40, 80))
    with_one = remove_showers(with_shower(ds, charge), **references)
    assert 0.05 < float(with_one.score_showers[0]) < 0.9
    nothing = remove_showers(ds, **references)
    assert np.isnan(nothing.score_showers[0])
    np.testing.assert_array_equal(nothing.sci, ds.sci)


def test_a_shower_that_tells_nothing_of_left_out_cells_is_none(monkeypatch):
    ds, references = made(n_y=96, n_x=160)
    data = with_shower(ds, blob(peak=80.0, n_y=96, n_x=160, at=(40, 80)))
    monkeypatch.setattr(modelling, "left_out", lambda *args: np.array([1.0, 1.0]))
    out = remove_showers(data, **references)
    np.testing.assert_array_equal(out.sci, data.sci)
    assert np.isnan(out.score_showers[0])


def test_left_out_cells_against_numpy():
    rng = np.random.default_rng(7)
    value, weight = rng.normal(1, 0.3, (1, 6, 12, 12)).astype("f4"), np.full((1, 6, 12, 12), 4, "f4")
    exposure = modelling.Exposure(value, weight, np.ones((1, 6), bool), weight[0, 0], np.full((12, 12), np.nan, "f4"))
    shape, share = np.ones((12, 12), "f4"), np.array([0, 0, 1, 0.5, 0.2, 0], "f4")
    found = modelling.left_out(exposure, 0, shape > 0, shape, share)
    here = value[0, 2:5].astype("f8")
    assert found[1] == pytest.approx((4 * here**2).sum(), rel=1e-5)
    map_ = np.einsum("g,gyx->yx", share[2:5], here) / (share[2:5] ** 2).sum()
    told, even = np.zeros((12, 12)), np.indices((12, 12)).sum(axis=0) % 2 == 0
    for kept in (even, ~even):
        mean = modelling.smooth(np.where(kept, map_, 0).astype("f4"), np.where(kept, 1, 0).astype("f4"), 0.8125)
        told = np.where(kept, told, mean)
    misfit = 4 * (here - share[2:5, None, None] * told) ** 2
    error = np.std((4 * here**2 - misfit).sum(axis=0)) * 12
    assert found[0] == pytest.approx(misfit.sum() + 2 * error, rel=0.02)


def test_shares_on_a_line_are_ramps_that_bend():
    group, rng = np.arange(24), np.random.default_rng(8)
    error = np.where((group == 0) | (group == 23), np.inf, 0.02)
    noise = rng.normal(0, 0.02, 24)
    for first, time in ((2, 8.0), (5, 3.0), (15, 1.0)):
        decay = np.where(group >= first, np.exp(-(group - first) / time), 0.0)
        line = np.maximum(0.0, 1.0 - (group - first) / 10.0) * (group >= first)
        assert not modelling._bends(decay - decay.mean() + noise, error, decay)
        assert modelling._bends(1.0 - (group - first) / 10.0 + noise, error, line)


def test_a_bright_wide_shower_is_removed():
    ds, references = made(n_group=12, n_y=200, n_x=264)
    y, x = np.mgrid[:200, :264]
    after = np.arange(12) - 4
    share = np.cumsum(np.where(after >= 0, np.exp(-after / 3.0), 0))[:, None, None]
    charge = share * 4000.0 / GAIN * (0.5 - 0.5 * np.tanh(np.hypot(y - 100, x - 130) / 15.0 - 3.0))
    out = remove_showers(with_shower(ds, charge), **references)
    left = (out.sci - ds.sci)[0, 0, -2].values
    assert abs(left.sum()) < 0.1 * charge[-2].sum()


def test_what_settles_after_a_reset_does_not_end_the_search():
    """Many patches rise in the first difference and fall again, as on the test rig: the shower after them is found."""
    rng = np.random.default_rng(3)
    value = rng.normal(0, 1.0, (2, 16, 40, 44)).astype("f4")
    settling = np.kron(rng.random((20, 22)) < 0.08, np.ones((2, 2)))
    value[:, 1:4] += np.array([150.0, -130.0, -30.0])[:, None, None] * settling
    y, x = np.mgrid[:40, :44]
    shower = 12.0 * np.exp(-0.5 * ((y - 20) ** 2 + (x - 22) ** 2) / 9.0)
    share = np.where(np.arange(16) >= 8, np.exp(-(np.arange(16) - 8) / 2.0), 0)
    value[0] += (share[:, None, None] * shower).astype("f4")
    weight = np.ones_like(value)
    weight[:, 0] = value[:, 0] = 0
    used = np.ones((2, 16), bool)
    used[:, 0] = False
    exposure = modelling.Exposure(value, weight, used, weight[0, 1], np.full((40, 44), np.nan, "f4"))
    found, _ = modelling._find_showers(exposure, 7.0)
    assert found[0, 8].sum() == pytest.approx(shower.sum(), rel=0.2)


def test_two_showers_of_one_integration():
    ds, references = made()
    first = blob(at=(40, 50), onset=4)
    second = blob(at=(80, 150), onset=9, fade=2.0, peak=130)
    out = remove_showers(with_shower(ds, first + second), **references)
    left = (out.sci - ds.sci)[0, 0, -2].values
    for part, total in ((slice(0, 100), first), (slice(100, 200), second)):
        assert abs(left[:, part].sum()) < 0.15 * total[-2].sum()


@pytest.mark.parametrize("seed", range(4))
def test_clean_ramps_stay_as_they_are(seed):
    ds, references = made(seed=seed, line=3000.0)
    out = remove_showers(ds, **references)
    np.testing.assert_array_equal(out.sci, ds.sci)
    flagged = remove_showers(ds, **references, method="flag")
    np.testing.assert_array_equal(flagged.group_dq, ds.group_dq)


def test_what_all_integrations_do_is_no_shower():
    ds, references = made()
    charge = blob(peak=60)
    both = with_shower(with_shower(ds, charge, 0), charge, 1)
    np.testing.assert_array_equal(remove_showers(both, **references).sci, both.sci)


def test_a_drift_of_the_frame_is_no_shower():
    ds, references = made()
    ds.sci[0, 1, 6:] += np.linspace(-20, 60, 200, dtype="f4")
    np.testing.assert_array_equal(remove_showers(ds, **references).sci, ds.sci)


def test_between_the_slices():
    ds, references = made(n_x=240)
    labels = np.where(np.arange(240) // 12 % 2 == 0, 101, 0) * np.ones((128, 1), int)
    slices = make_reference("regions", regions=(("plane", "y", "x"), labels[None].astype("i2")))
    charge = blob(n_x=240, at=(60, 120), size=(12, 25))
    on_lit = np.where(labels > 0, charge, 0)
    for real, given_charge in ((True, charge), (False, on_lit)):
        data = with_shower(ds, given_charge)
        for how in (slices, slices.regions.isel(plane=0)):
            assert (remove_showers(data, **references, regions=how).sci != data.sci).any() == real
    assert_step(remove_showers, with_shower(ds, charge), **references, regions=slices)
    with pytest.raises(MrsxrError, match="regions has shape"):
        remove_showers(ds, **references, regions=slices.isel(x=slice(0, 9)))


def test_flagging():
    ds, references = made()
    charge = blob(peak=120)
    data = with_shower(ds, charge)
    data.group_dq[0, 0, 6, 60, 70] = dq.SATURATED
    out = assert_step(remove_showers, data, **references, method="flag")
    new = (out.group_dq.values[0] & dq.JUMP_DET) != 0
    assert not new[1].any()
    assert not new[0, :5].any()
    assert not new[0, 6, 60, 70]
    grown = np.diff(charge, axis=0, prepend=0)
    assert new[0, :-1][grown[:-1] > 0.35 * NOISE].mean() > 0.98
    assert new[0, :-1][grown[:-1] < 0.1 * NOISE].mean() < 0.02
    np.testing.assert_array_equal(out.sci, data.sci)


def test_model_is_lazy_and_tells_where():
    ds, references = made()
    data = with_shower(ds, blob(), 1).chunk(y=24)
    with no_compute():
        model = shower_model(data, **references)
    model = model.compute()
    assert model.dims == ("dither", "integration", "group", "cell_y", "cell_x")
    assert model.attrs["units"] == "electron"
    last = model[0, 1, -1]
    place = last.where(last == last.max(), drop=True)
    assert abs(float(place.cell_y[0]) - 60) <= CELL
    assert abs(float(place.cell_x[0]) - 70) <= CELL
    assert not model[0, 0].any()
    xr.testing.assert_allclose(model, shower_model(data.compute(), **references), rtol=1e-5, atol=1e-3)


def test_reference_pixels_take_no_part():
    ds, references = made()
    data = with_shower(ds, blob(at=(60, 8)))
    data.pixel_dq[0, :, :4] = dq.REFERENCE_PIXEL
    out = remove_showers(data, **references)
    np.testing.assert_array_equal(out.sci[..., :4], data.sci[..., :4])
    assert (out.sci[0, 0, -1, 60, 4:12] < data.sci[0, 0, -1, 60, 4:12] - 5).all()


def test_pathologies():
    ds, references = made(n_y=16, n_x=24)
    data = with_shower(ds, blob(n_y=16, n_x=24, at=(8, 12), size=(4, 4)))
    shape = (16, 24)
    unchanged = [
        (data.assign(sci=data.sci * np.float32(np.nan)), references),
        (data.assign(group_dq=data.group_dq | np.uint8(dq.SATURATED)), references),
        (data.isel(group=slice(0, 5)), references),
        (data, references | {"gain": make_reference("gain", gain=np.zeros(shape, "f4"))}),
        (data, references | {"gain": make_reference("gain", gain=np.full(shape, np.nan, "f4"))}),
        (data, references | {"readnoise": make_reference("readnoise", read_noise=np.full(shape, np.nan, "f4"))}),
    ]
    for broken, refs in unchanged:
        np.testing.assert_array_equal(remove_showers(broken, **refs).sci, broken.sci)
        np.testing.assert_array_equal(flag_showers(broken, **refs).group_dq, broken.group_dq)
    for options, message in (
        ({"method": "hide"}, "expected one of subtract, flag"), ({"threshold": 0}, "threshold is 0"),
        ({"method": "flag", "flag_above": 0}, "flag_above"),
    ):  # fmt: skip
        with pytest.raises(MrsxrError, match=message):
            remove_showers(ds, **references, **options)
    with pytest.raises(MrsxrError, match="group_time"):
        flag_showers(ds.assign_attrs(group_time=0.0), **references)
    with pytest.raises(MrsxrError, match="extend_inner_radius is 0"):
        flag_showers(ds, **references, extend_inner_radius=0, extend_outer_radius=0.5)


# --- kernels and fits ---


def test_cells_against_numpy():
    rng = np.random.default_rng(3)
    sci = (1000 + np.cumsum(rng.normal(20, 5, (1, 2, 9, 16, 20)), axis=2)).astype("f4")
    flags = np.where(rng.random(sci.shape) < 0.03, 1, 0).astype("u1")
    gain, noise = rng.normal(4, 0.1, (16, 20)).astype("f4"), rng.normal(8, 0.5, (16, 20)).astype("f4")
    value, weight = coarse_maps(sci, flags, np.zeros((1, 16, 20), "u4"), noise, gain)[0]
    data = np.where(flags[0] & 3, np.nan, sci[0] * gain)
    diffs = np.diff(data, axis=1)
    m = np.nanmedian(diffs, axis=(0, 1))
    sigma = np.sqrt(np.abs(m) + (noise * gain) ** 2 + (0.03 * m) ** 2)
    for i, g, cy, cx in ((0, 0, 0, 0), (1, 3, 1, 1), (0, 7, 1, 2)):
        place = (slice(8 * cy, 8 * cy + 8), slice(8 * cx, 8 * cx + 8))
        residual = (diffs[i, g] - m)[place]
        known = np.isfinite(residual).sum(axis=1)
        rows = np.nanmedian(residual, axis=1)
        w = np.where(known >= 3, 2 / np.pi * known * np.mean(1 / sigma[place], axis=1) ** 2, 0)
        near = np.abs(rows - np.median(rows[w > 0])) * np.sqrt(w) <= 4
        np.testing.assert_allclose(
            value[i, g + 1, cy, cx], np.average(rows[near], weights=w[near]), rtol=1e-3, atol=0.01
        )
        np.testing.assert_allclose(weight[i, g + 1, cy, cx], w[near].sum(), rtol=1e-4)
    assert not weight[:, 0].any()


def test_cubic_interpolation_keeps_a_plane():
    y, x = np.mgrid[:6, :7] * CELL + 0.5 * (CELL - 1)
    model = (300 + 2.0 * y - 1.5 * x).astype("f4")[None, None, None]
    sci = np.zeros((1, 1, 1, 48, 56), "f4")
    pixel_dq, gain = np.zeros((1, 48, 56), "u4"), np.full((48, 56), 2, "f4")
    row = np.arange(48)[:, None]
    out = subtract_model(sci, pixel_dq, gain, model[..., None, None], row)[0, 0, 0]
    py, px = np.mgrid[:48, :56]
    inside = (slice(12, -12), slice(12, -12))
    np.testing.assert_allclose(out[inside], -0.5 * (300 + 2.0 * py - 1.5 * px)[inside], rtol=1e-4)
    half = subtract_model(sci[..., 24:, :], pixel_dq[:, 24:], gain[24:], model[..., None, None], row[24:])
    np.testing.assert_array_equal(half[0, 0, 0], out[24:])


@given(tau=st.floats(0.5, 10), first=st.floats(0.2, 1.2), constant=st.floats(-0.2, 0.2), onset=st.integers(1, 6))
def test_decay_is_found(tau, first, constant, onset):
    after = np.arange(20) - onset
    truth = np.where(after > 0, np.exp(-np.maximum(after - 1, 0) / tau), 0)
    truth[onset] = first
    shares = np.full((2, 20), constant)
    shares[1] += truth
    shares[0, 7] += 5  # another shower in the other integration
    error = np.full((2, 20), 0.01)
    error[:, 0] = np.inf
    found = modelling.decay(shares, error, 1, onset)
    np.testing.assert_allclose(found, truth, atol=0.02)


def test_no_decay_is_found_in_a_constant():
    assert modelling.decay(np.full((2, 20), 0.3), np.full((2, 20), 0.01), 1, 4) is None
    assert modelling.decay(np.full((2, 20), np.float64(0)), np.full((2, 20), np.inf), 1, 4) is None


def test_smoothing_keeps_the_peak():
    y, x = np.mgrid[:40, :40]
    truth = np.exp(-0.5 * ((y - 20) ** 2 + (x - 20) ** 2) / 9.0).astype("f4")
    weight = np.ones_like(truth)
    weight[18:22, 10:14] = 0
    found = modelling.smooth(np.where(weight > 0, truth, 0), weight, 1.2)
    np.testing.assert_allclose(found, truth, atol=0.03)
