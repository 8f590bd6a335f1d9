"""Step refpix: stored results of jwst 3.0.0, sides without good pixels, and drifts along the rows."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_step, make_ramp, of_jwst

from mrsxr.errors import MrsxrError
from mrsxr.rate._refpix_kernels import _clipped_mean, _running_mean, choose_window, measure
from mrsxr.rate.refpix import subtract_reference_pixels

COLUMNS = np.r_[0:8, 500:508, 1024:1032]
NOISE = 6.0


def ramp_of(sci, columns, pixel_dq=None, chunks=None):
    ds = make_ramp(sci.astype("f4")).assign_coords(x=columns)
    if pixel_dq is not None:
        ds.pixel_dq[:] = pixel_dq
    return ds.chunk({"dither": 1, **chunks}) if chunks else ds


@pytest.fixture(scope="module")
def stored():
    return of_jwst("simple_refpix")


@pytest.mark.parametrize("name", ["parity", "all_rows"])
def test_equals_jwst(stored, name):
    ds = ramp_of(stored["input"][None], stored["columns"], stored["pixel_dq"])
    out = assert_step(subtract_reference_pixels, ds, odd_even_rows=name == "parity")
    np.testing.assert_allclose(out.sci[0, :, :, :24], stored[name], rtol=2e-7, atol=0.001)
    assert np.abs(out.sci - ds.sci).max() > 5


def drifting(seed=0, slow=True, n_y=256, n_group=5):
    """A frame with amplifier offsets, and a drift along the rows; returns the Dataset and its drift."""
    rng = np.random.default_rng(seed)
    shape = (2, 2, n_group, n_y)
    y = np.arange(n_y)
    phase = rng.uniform(0, 6, shape[:-1])[..., None]
    wave = 8 * np.sin(y / 25 + phase) if slow else np.zeros(shape)
    offset = rng.normal(0, 10, (2, 2, n_group, 2, 4))
    drift = offset[:, :, :, y % 2][..., COLUMNS % 4] + wave[..., None]
    ramp = 8000.0
    sci = ramp + drift + rng.normal(0, NOISE, (*shape, len(COLUMNS)))
    return ramp_of(sci, COLUMNS), drift - drift[:, :, :1]


def left_over(out, ds, drift):
    """Rms of (subtracted - true drift) over pixels between the reference columns, later groups."""
    error = (ds.sci.values - out.sci.values) - drift
    return float(np.sqrt(np.mean(error[:, :, 1:, :, 8:16] ** 2)))


def test_smooth_follows_drifts_along_rows():
    ds, drift = drifting()
    constant = subtract_reference_pixels(ds)
    smooth = assert_step(subtract_reference_pixels, ds, method="smooth")
    assert left_over(constant, ds, drift) > 6
    assert left_over(smooth, ds, drift) < 0.3 * NOISE
    by_hand = subtract_reference_pixels(ds, method="smooth", window=21)
    assert left_over(by_hand, ds, drift) < 0.3 * NOISE


def test_smooth_adds_little_noise_where_nothing_drifts():
    ds, drift = drifting(slow=False, n_y=512)
    constant, smooth = (subtract_reference_pixels(ds, method=m) for m in ("constant", "smooth"))
    floor = left_over(constant, ds, drift)
    assert left_over(smooth, ds, drift) < 1.1 * floor
    forced = subtract_reference_pixels(ds, method="smooth", window=13)
    assert left_over(forced, ds, drift) < np.sqrt(floor**2 + (0.105 * np.sqrt(2) * NOISE) ** 2)
    none = subtract_reference_pixels(ds, method="smooth", window=0)
    np.testing.assert_array_equal(none.sci, constant.sci)


@pytest.mark.parametrize("method", ["constant", "smooth"])
def test_columns_given_apart_and_blocks(method):
    ds, _ = drifting(n_y=50)
    expected = subtract_reference_pixels(ds, method=method)
    apart = ds.isel(x=np.r_[0:8, 16:24])
    for chunk in (7, 16, 50):
        lazy = subtract_reference_pixels(ds.chunk(dither=1, y=chunk), reference_columns=apart.chunk(y=9), method=method)
        assert lazy.sci.chunksizes["y"][0] == chunk
        np.testing.assert_array_equal(lazy.sci, expected.sci)
    columns = subtract_reference_pixels(ds.chunk(x=5), reference_columns=apart, method=method)
    np.testing.assert_array_equal(columns.sci, expected.sci)
    middle = subtract_reference_pixels(ds.isel(x=slice(8, 16)), reference_columns=apart, method=method)
    np.testing.assert_array_equal(middle.sci, expected.sci[..., 8:16])


@pytest.mark.parametrize("bad", [1, np.nan])
def test_a_lost_side_leaves_the_other(bad):
    ds, _ = drifting(slow=False)
    whole = subtract_reference_pixels(ds)
    ds = ds.copy(deep=True)
    lost = dict(x=COLUMNS == 2, y=slice(0, None, 2))  # left side, amplifier 2, even rows
    if bad == 1:
        ds.pixel_dq[lost] = 1
    else:
        ds.sci[lost] = np.nan
    out = subtract_reference_pixels(ds)
    taken = (ds.sci - out.sci).values
    right = ds.sci.values[..., 0::2, COLUMNS == 1030]
    mean = np.clip(right - right[:, :, :1], -60, 60).mean(axis=(-1, -2))
    np.testing.assert_allclose(taken[:, :, 1:, 0, 10], mean[:, :, 1:], atol=0.5)
    same = np.delete(np.arange(len(COLUMNS)), np.flatnonzero(COLUMNS % 4 == 2))
    np.testing.assert_array_equal(out.sci.values[..., same], whole.sci.values[..., same])
    ds.pixel_dq[dict(x=COLUMNS == 1030)] = 1
    neither = subtract_reference_pixels(ds, method="smooth", window=0)
    np.testing.assert_array_equal(neither.sci[..., 0::2, 10], ds.sci[..., 0::2, 10])
    ds.pixel_dq[:] = 1
    for method in ("constant", "smooth"):
        np.testing.assert_array_equal(subtract_reference_pixels(ds, method=method).sci, ds.sci)


def test_one_group_and_subarrays_stay():
    ds, _ = drifting(n_y=20)
    for method in ("constant", "smooth"):
        one = subtract_reference_pixels(ds.isel(group=[0]), method=method)
        np.testing.assert_array_equal(one.sci, ds.sci[:, :, :1])
    sub = assert_step(subtract_reference_pixels, ds.assign_attrs(subarray="SUB256"))
    np.testing.assert_array_equal(sub.sci, ds.sci)


def test_refuses_what_it_cannot_do():
    ds, _ = drifting(n_y=20)
    with pytest.raises(MrsxrError, match="method is 'median'"):
        subtract_reference_pixels(ds, method="median")
    with pytest.raises(MrsxrError, match="column 1028 is not in the data"):
        subtract_reference_pixels(ds.isel(x=slice(0, 16)))
    with pytest.raises(MrsxrError, match="has 10 along y, the data 20"):
        subtract_reference_pixels(ds, reference_columns=ds.isel(y=slice(0, 10)))
    with pytest.raises(MrsxrError, match="noise_share is 0"):
        subtract_reference_pixels(ds, noise_share=0)


def test_kernels_equal_obvious_versions():
    from scipy.stats import sigmaclip

    rng = np.random.default_rng(6)
    values = np.r_[rng.normal(3, 2, 300), rng.normal(80, 3, 9)]
    mean, _ = _clipped_mean(values.copy(), len(values), 3.0)
    assert mean == pytest.approx(sigmaclip(values, 3.0, 3.0)[0].mean(), abs=1e-12)
    assert np.isnan(_clipped_mean(values, 0, 3.0)[0])
    assert _clipped_mean(np.full(5, 2.0), 5, 3.0) == (2.0, 0.0)
    total, count, out = rng.normal(0, 1, 40), np.ones(40), np.empty(40)
    count[5:9] = total[5:9] = 0
    for window in (1, 6, 13, 99):
        _running_mean(total, count, window, 1.0, out)
        for y in range(40):
            low = min(max(0, y - window // 2), max(0, 40 - window))
            n = count[low : low + window].sum()
            assert out[y] == pytest.approx(total[low : low + window].sum() / n if n else 0.0, abs=1e-12)
    full = out.copy()
    _running_mean(total, count, 6, 1.0, full)
    _running_mean(total, count, 6, 6.0, out)
    assert out[7] == pytest.approx(full[7] * count[4:10].sum() / 6)
    assert out[20] == full[20]


def test_window_is_chosen_by_prediction():
    rng = np.random.default_rng(8)
    y = np.arange(1024)
    noise = rng.normal(0, 6, (20, 2, 4, 1024))
    one_for_all = noise + 5 * np.sin(y / 20 + rng.uniform(0, 6, (20, 1, 1, 1)))
    each = noise + 9 * np.sin(y / 80 + rng.uniform(0, 6, (20, 1, 4, 1)))
    window, common = choose_window(one_for_all.astype("f4"), 0.1)
    assert common
    assert 13 <= window <= 52
    window, common = choose_window(each.astype("f4"), 0.1)
    assert not common
    assert 50 <= window <= 200
    assert choose_window(noise.astype("f4"), 0.1)[0] in (0, 400, 416, 800, 832)


def test_drifts_of_one_amplifier_are_followed_past_outliers():
    rng = np.random.default_rng(9)
    y = np.arange(1024)
    drift = 8 * np.sin(y / 80 + rng.uniform(0, 6, (2, 6, 4, 1)))
    sides = np.concatenate([drift, drift], axis=2) + rng.normal(0, NOISE, (2, 6, 8, 1024))
    sides[rng.random(sides.shape) < 0.02] += 400
    beside = np.moveaxis(drift[:, :, [0, 3]] + rng.normal(0, NOISE, (2, 6, 2, 1024)), 2, -1)
    columns = np.concatenate([beside, np.moveaxis(sides, 2, -1)], axis=-1)
    correction, score = measure(columns, np.zeros((1024, 10), "u4"), tuple(range(2, 10)), (0, 1), (0, 3), smooth=True)
    assert score < 0.7
    error = (correction - (drift - drift[:, :1]))[:, 1:]
    assert error.std() < 0.25 * NOISE
    assert drift.std() > 0.9 * NOISE
