"""Every step of rate: its own numbers, the promises of a step, and its kernels against slow versions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import assert_step, make_ramp, make_reference
from hypothesis import given
from hypothesis import strategies as st

from mrsxr import dq, rate
from mrsxr._median_kernels import TILE, median_of, sort_columns, sorting_pairs
from mrsxr.errors import LevelError, MrsxrError, ReferenceFileError
from mrsxr.rate._jump_kernels import find_jumps
from mrsxr.rate._ramp_fit_kernels import fit_ols

SHAPE = (1, 2, 12, 9, 40)
GROUP_TIME = 2.77504


@pytest.fixture
def ramp():
    rng = np.random.default_rng(5)
    n_y, n_x = SHAPE[-2:]
    slope = rng.uniform(1, 400, (n_y, n_x))
    counts = 9000 + slope * GROUP_TIME * np.arange(SHAPE[2])[:, None, None]
    sci = np.broadcast_to(counts, SHAPE) + rng.normal(0, 5, SHAPE)
    sci[0, 0, 6:, 4, 10] += 4000
    sci[0, 1, 3:, 2, 2] = 60000
    sci[0, 0, 2, 7, 7] = 0
    return make_ramp(np.rint(sci).astype("u2"))


def image(value, dtype="f4"):
    return np.full(SHAPE[-2:], value, dtype)


NOISE = {"gain": make_reference("gain", gain=image(4)), "readnoise": make_reference("readnoise", read_noise=image(8))}


def as_float(ds):
    return ds.assign(sci=ds.sci.astype("f4").assign_attrs(ds.sci.attrs))


def test_bad_pixels(ramp):
    mask = image(0, "u4")
    mask[3, 3], mask[3, 4] = dq.DO_NOT_USE | dq.FLAGS["DEAD"], dq.FLAGS["HOT"]
    out = assert_step(rate.flag_bad_pixels, ramp, mask=make_reference("mask", dq=mask))
    assert (out.pixel_dq[0] == mask).all()
    assert (out.group_dq.values[..., 3, 3] == 1).all()
    assert out.group_dq.values.sum() == np.prod(SHAPE[:3])


def test_saturation(ramp):
    threshold = image(50000)
    threshold[0, 0] = np.nan
    ref = make_reference("saturation", threshold=threshold, dq=image(0, "u4"))
    out = assert_step(rate.flag_saturation, as_float(ramp), saturation=ref)
    flags = out.group_dq.values[0]
    assert (flags[1, 3:, 1:4, 1:4] & dq.SATURATED).all()
    assert not (flags[1, :3] & dq.SATURATED).any()
    assert not (flags[0] & dq.SATURATED).any()
    assert flags[0, 2, 7, 7] == dq.AD_FLOOR | dq.DO_NOT_USE
    assert out.pixel_dq[0, 0, 0] == dq.NO_SAT_CHECK
    alone = rate.flag_saturation(as_float(ramp), saturation=ref, n_pix_grow_sat=0)
    assert (alone.group_dq.values[0, 1] & dq.SATURATED).sum() == dq.SATURATED * 9


@given(value=st.integers(0, 11), y=st.integers(0, 8), x=st.integers(0, 39), chunk=st.integers(1, 9))
def test_saturation_grows_across_blocks(value, y, x, chunk):
    sci = np.full(SHAPE, 100, "f4")
    sci[0, 0, value:, y, x] = 60000
    ref = make_reference("saturation", threshold=image(50000), dq=image(0, "u4"))
    out = rate.flag_saturation(make_ramp(sci, {"y": chunk}), saturation=ref).group_dq.values[0, 0]
    expected = np.zeros(SHAPE[-2:], bool)
    expected[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
    assert ((out[value:] & dq.SATURATED > 0) == expected).all()
    assert not out[:value].any()


def test_last_frame(ramp):
    out = assert_step(rate.flag_last_frame, ramp)
    assert (out.group_dq.values[:, :, -1] == 1).all()
    assert not out.group_dq.values[:, :, :-1].any()
    short = ramp.isel(group=slice(0, 2))
    assert not rate.flag_last_frame(short).group_dq.values.any()


def test_linearity(ramp):
    c = np.stack([image(1.5), image(1), image(2e-6)])
    c[1, 0, 0] = 0
    ref = make_reference("linearity", coefficients=(("order", "y", "x"), c), dq=image(0, "u4"))
    ds = as_float(ramp)
    ds.group_dq[0, 1, 3:, 2, 2] = dq.SATURATED
    out = assert_step(rate.correct_linearity, ds, linearity=ref)
    f = ds.sci.values.astype("f8")
    expected = 1.5 + f + 2e-6 * f * f
    expected[..., 0, 0] = f[..., 0, 0]
    expected[0, 1, 3:, 2, 2] = 60000
    np.testing.assert_allclose(out.sci, expected, rtol=3e-7)
    assert out.pixel_dq[0, 0, 0] == dq.NO_LIN_CORR


def test_dark(ramp):
    values = np.arange(12, dtype="f4")[None, :, None, None] * np.ones((1, 1, *SHAPE[-2:]), "f4")
    ref = make_reference("dark", attrs={"average_dark_current": 0.3}, dq=image(0, "u4"),
                         dark=(("integration", "group", "y", "x"), values))  # fmt: skip
    out = assert_step(rate.subtract_dark, as_float(ramp), dark=ref)
    np.testing.assert_array_equal(out.sci, ramp.sci.values - values)
    assert out.attrs["average_dark_current"] == 0.3
    with pytest.warns(UserWarning, match="continued"):
        short = rate.subtract_dark(as_float(ramp), dark=ref.isel(group=slice(0, 4)))
    np.testing.assert_array_equal(short.sci, out.sci)
    with pytest.raises(ReferenceFileError, match="1 group"):
        rate.subtract_dark(ramp, dark=ref.isel(group=[0]))


def test_jump(ramp):
    ds = as_float(ramp).isel(integration=[0])
    out = assert_step(rate.flag_jumps, ds, **NOISE)
    flags = out.group_dq.values[0, 0]
    assert flags[6, 4, 10] == dq.JUMP_DET
    single = rate.flag_jumps(ds, **NOISE, max_jump_to_flag_neighbors=1e5).group_dq.values[0, 0]
    assert (single[6, [3, 5, 4, 4], [10, 10, 9, 11]] == dq.JUMP_DET).all()
    bad = make_reference("gain", gain=np.where(np.arange(40) == 3, np.nan, image(4)).astype("f4"))
    flagged = rate.flag_jumps(ds, gain=bad, readnoise=NOISE["readnoise"])
    assert (flagged.pixel_dq.values[0, :, 3] == dq.NO_GAIN_VALUE | dq.DO_NOT_USE).all()


def test_jump_neighbours_cross_blocks():
    sci = np.full((1, 1, 14, 12, 8), 1000.0, "f4")
    sci[0, 0, 7:, 3, 4] += 500
    for chunk in (1, 2, 3, 4, 5, 12):
        noise = {"gain": make_reference("gain", gain=np.full((12, 8), 4, "f4")),
                 "readnoise": make_reference("readnoise", read_noise=np.full((12, 8), 8, "f4"))}  # fmt: skip
        out = rate.flag_jumps(make_ramp(sci, {"y": chunk}), **noise).group_dq.values[0, 0]
        assert set(zip(*np.nonzero(out[7]), strict=True)) == {(3, 4), (2, 4), (4, 4), (3, 3), (3, 5)}
        assert not np.delete(out, 7, axis=0).any()


@given(slope=st.floats(0, 500), jump=st.floats(0, 1e4), at=st.integers(1, 10))
def test_slope_is_exact_without_noise(slope, jump, at):
    t = GROUP_TIME * np.arange(12)
    sci = np.broadcast_to((1000 + slope * t)[:, None, None], SHAPE).astype("f4").copy()
    sci[:, :, at:] += np.float32(jump)
    ds = make_ramp(sci)
    ds.group_dq[:, :, at] = dq.JUMP_DET
    out = rate.fit_ramps(ds, **NOISE)
    np.testing.assert_allclose(out.rate, slope, rtol=1e-5, atol=2e-3)
    assert (out.dq == dq.JUMP_DET).all()


def test_fit_is_recorded_and_lazy(ramp):
    ds = as_float(ramp).assign_attrs(average_dark_current=0.2)
    ds.group_dq[0, :, -1] = 1
    out = assert_step(rate.fit_ramps, ds, **NOISE)
    entry = json.loads(out.attrs["history_json"])[-1]
    assert entry["step"] == "rate.fit_ramps"
    assert entry["refs"] == {"gain": "gain_made.fits", "readnoise": "readnoise_made.fits"}
    assert "group" not in out.coords


def test_integrations_average_to_the_rate(ramp):
    ds = as_float(ramp)
    each = assert_step(rate.fit_integrations, ds, **NOISE)
    assert each.rate.dims == ("dither", "integration", "y", "x")
    both = rate.fit_ramps(ds, **NOISE)
    weight = 1 / each.var_read
    np.testing.assert_allclose(
        (each.rate * weight).sum("integration") / weight.sum("integration"), both.rate, rtol=1e-5
    )
    np.testing.assert_allclose(1 / weight.sum("integration"), both.var_read, rtol=1e-5)


def test_pathologies_give_flags():
    sci = np.full((1, 2, 6, 3, 8), 1000.0, "f4")
    ds = make_ramp(sci)
    ds.group_dq[..., 0, 0] = dq.SATURATED
    ds.group_dq[..., 1:, 0, 1] = 0
    ds.group_dq[:, :, 1:, 0, 1] = dq.SATURATED
    ds.sci[..., 0, 2] = np.nan
    ds.group_dq[0, 0, :, 0, 3] = dq.DO_NOT_USE
    gain = np.full((3, 8), 4, "f4")
    gain[1, 0], gain[1, 1] = 0, np.nan
    noise = np.full((3, 8), 8, "f4")
    noise[1, 2] = np.nan
    out = rate.fit_ramps(
        ds, gain=make_reference("gain", gain=gain), readnoise=make_reference("readnoise", read_noise=noise)
    )
    flags = out.dq.values[0]
    for place in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)):
        assert flags[place] & dq.DO_NOT_USE, place
        assert np.isnan(out.rate.values[0][place])
    assert flags[0, 0] & dq.SATURATED
    assert flags[0, 3] == 0
    assert abs(out.rate.values[0, 0, 3]) < 1e-6


def test_wrong_level_and_group_time(ramp):
    with pytest.raises(LevelError, match="fit_ramps needs data of level ramp"):
        rate.fit_ramps(ramp.assign_attrs(level="cal"), **NOISE)
    with pytest.raises(MrsxrError, match="group_time"):
        rate.fit_ramps(ramp.assign_attrs(group_time=0.0), **NOISE)


# --- kernels against slow versions ---


@given(n=st.integers(1, 80), seed=st.integers(0, 1000))
def test_sorting_network(n, seed):
    values = np.random.default_rng(seed).normal(size=(n, TILE)).astype("f4")
    values[np.random.default_rng(seed + 1).random(values.shape) < 0.1] = np.inf
    expected = np.sort(values, axis=0)
    sort_columns(values, sorting_pairs(n))
    np.testing.assert_array_equal(values, expected)


@given(n=st.integers(1, 60), seed=st.integers(0, 1000), dtype=st.sampled_from(["f4", "f8"]))
def test_median_of_the_first_values(n, seed, dtype):
    values = np.random.default_rng(seed).normal(0, 3, size=n + 5).round(1).astype(dtype)
    work = values.copy()
    assert median_of(work, n) == np.median(values[:n])
    np.testing.assert_array_equal(np.sort(work[:n]), np.sort(values[:n]))
    np.testing.assert_array_equal(work[n:], values[n:])
    assert np.isnan(median_of(work, 0))


def slow_jumps(sci, flags, noise, gain, threshold):
    data = np.where(flags & 3, np.nan, sci * gain)
    diffs = np.diff(data, axis=2)
    m = np.nanmedian(diffs, axis=(1, 2), keepdims=True)
    sigma = np.sqrt(np.abs(m) + (noise * gain) ** 2)
    out = flags.copy()
    out[:, :, 1:][np.abs(diffs - m) / sigma > threshold] |= dq.JUMP_DET
    return out


@given(seed=st.integers(0, 1000))
def test_single_pass_against_numpy(seed):
    rng = np.random.default_rng(seed)
    sci = np.cumsum(rng.normal(50, 20, (1, 2, 11, 3, 37)), axis=2).astype("f4")
    flags = np.where(rng.random(sci.shape) < 0.05, rng.integers(1, 4, sci.shape), 0).astype("u1")
    noise, gain = np.full((3, 37), 3, "f4"), np.full((3, 37), 2, "f4")
    ours, _ = find_jumps(sci, flags, noise, gain)
    np.testing.assert_array_equal(ours, slow_jumps(sci, flags, noise, gain, 4))


def slow_slope(y, gain, noise, tg):
    n = len(y)
    rise = (y[-1] - y[0]) * gain
    rn = noise * gain / np.sqrt(2)
    snr = max(rise / np.sqrt(rn**2 + rise), 0) if rn**2 + rise > 0 else 0
    power = np.select([snr < s for s in (5, 10, 20, 50, 100)], [0, 0.4, 1, 3, 6], 10)
    x = np.arange(n)
    w = np.abs((x - (n - 1) / 2) / ((n - 1) / 2)) ** power
    sw, sx, sy, sxx, sxy = w.sum(), (w * x).sum(), (w * y).sum(), (w * x * x).sum(), (w * x * y).sum()
    return (sw * sxy - sx * sy) / (sw * sxx - sx**2) / tg


@given(n=st.integers(3, 40), slope=st.floats(0, 3000), seed=st.integers(0, 99))
def test_ols_against_sums(n, slope, seed):
    rng = np.random.default_rng(seed)
    y = (slope * GROUP_TIME * np.arange(n) + rng.normal(0, 6, n)).astype("f4")
    sci = np.broadcast_to(y[None, None, :, None, None], (1, 1, n, 1, 5)).copy()
    one = np.ones((1, 5), "f4")
    out = fit_ols(sci, np.zeros(sci.shape, "u1"), np.zeros((1, 1, 5), "u4"), 8 * one, 4 * one, 0 * one, GROUP_TIME)
    expected = slow_slope(y.astype("f8"), 4.0, 8.0, GROUP_TIME)
    np.testing.assert_allclose(out[0], expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(out[2], 12 * (8 / np.sqrt(2) / GROUP_TIME) ** 2 / (n**3 - n), rtol=1e-5)
