"""Pixel background: against jwst, against plain numpy and astropy, unbiased, and its errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from astropy.stats import sigma_clip
from helpers import assert_step, detector_attrs, dither_coords, of_jwst
from numpy.testing import assert_allclose, assert_array_equal

from mrsxr import dq
from mrsxr.cal.background import _safe_mode, combine, fit_background_scale, subtract_background
from mrsxr.errors import LevelError, MrsxrError

DIMS = ("dither", "y", "x")


def make_rate(rate, read=0.04, poisson=0.01, setting="12A", flags=None):
    """Return a rate Dataset around slopes (dither, y, x)."""
    rate = np.asarray(rate, "f4")
    photons, noise = (np.broadcast_to(var, rate.shape) for var in (poisson, read))
    planes = {"rate": rate, "var_poisson": photons, "var_read": noise}
    units = {"rate": "DN/s", "var_poisson": "DN2/s2", "var_read": "DN2/s2"}
    ds = xr.Dataset(
        {k: (DIMS, v.astype("f4"), {"units": units[k]}) for k, v in planes.items()},
        coords={"y": np.arange(rate.shape[1]), "x": np.arange(rate.shape[2]), **dither_coords(len(rate), setting)},
        attrs=detector_attrs("rate", setting, 10, 2),
    )
    ds["dq"] = (DIMS, np.zeros(rate.shape, "u4") if flags is None else flags, dq.PIXEL_DQ_ATTRS)
    return ds


def spoiled(n, seed=1, shape=(12, 1032)):
    """Return n background exposures with outliers, NaN and flags."""
    rng = np.random.default_rng(seed)
    rate = rng.normal(0.3, 0.2, (n, *shape)).astype("f4")
    rate[rng.random(rate.shape) < 0.02] += 30
    flags = np.zeros(rate.shape, "u4")
    bad = rng.random(rate.shape) < 0.05
    rate[bad], flags[bad] = np.nan, dq.DO_NOT_USE
    rate[:, 0, :5], flags[:, 0, :5] = np.nan, dq.DO_NOT_USE | dq.FLAGS["DEAD"]
    flags[rng.random(rate.shape) < 0.1] |= dq.JUMP_DET
    return rate, flags


@pytest.mark.parametrize(("n", "maxiters"), [(1, None), (2, None), (5, None), (12, None), (12, 1), (13, 2)])
def test_mean_is_that_of_astropy(n, maxiters):
    rate, flags = spoiled(n)
    science = make_rate(np.full((2, 12, 1032), 2.0))
    out = assert_step(subtract_background, science, background=make_rate(rate, flags=flags), maxiters=maxiters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clipped = sigma_clip(rate.astype("f8"), sigma=3.0, maxiters=maxiters, axis=0)
    mean = clipped.mean(axis=0).filled(0.0)
    assert_allclose(out.rate[0], 2.0 - mean.astype("f4"), rtol=1e-6, atol=1e-6)
    assert_array_equal(out.dq[1], np.bitwise_or.reduce(flags, axis=0))
    assert_array_equal(out.var_read, science.var_read)
    assert (n < 8) == (not (clipped.mask & np.isfinite(rate)).any())


def slow_weighted(values, poisson, read, time, sigma=3.0):
    photons = np.median(poisson * time)
    var = photons / time + read
    while len(values) > 2:
        keep = (values - np.median(values)) ** 2 <= sigma**2 * var
        if keep.all() or not keep.any():
            break
        values, var = values[keep], var[keep]
    spread = 1 / np.sum(1 / var)
    if len(values) == 2:
        chi2 = (values[0] - values[1]) ** 2 / var.sum()
        spread *= chi2 if chi2 > sigma**2 else 1
    return np.sum(values / var) / np.sum(1 / var), spread


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_weighted_mean_is_the_obvious_one(n):
    rng = np.random.default_rng(n)
    rate, flags = spoiled(n, seed=n, shape=(3, 1032))
    poisson, read = rng.uniform(0.005, 0.02, rate.shape), rng.uniform(0.02, 0.08, rate.shape)
    background = make_rate(rate, read, poisson, flags=flags)
    background["exposure_time"] = ("dither", np.linspace(100.0, 300.0, n), {"units": "s"})
    out = assert_step(subtract_background, make_rate(np.full((2, 3, 1032), 2.0)), background=background,
                      method="weighted")  # fmt: skip
    times = background.exposure_time.values
    none = 0
    for y in range(3):
        for x in range(0, 1032, 7):
            good = np.isfinite(rate[:, y, x])
            if not good.any():
                none += 1
                assert np.isnan(out.rate[0, y, x])
                assert np.isnan(out.var_background[0, y, x])
                assert out.dq[0, y, x] == np.bitwise_or.reduce(flags[:, y, x]) | dq.DO_NOT_USE
                continue
            f4 = (a[good, y, x].astype("f4").astype("f8") for a in (poisson, read))
            mean, spread = slow_weighted(rate[good, y, x].astype("f8"), *f4, times[good])
            assert_allclose(out.rate[0, y, x], 2 - mean, rtol=1e-5, atol=1e-5)
            assert_allclose(out.var_background[1, y, x], spread, rtol=1e-5)
            assert out.dq[0, y, x] == 0
    assert none > 0


@pytest.mark.parametrize("n", [1, 2, 4])
def test_identical_sky_leaves_nothing_and_its_errors_hold(n):
    """Science and background alike: zero mean, pulls of unit width, the variance of both; also with few photons."""
    rng = np.random.default_rng(5)
    shape, seconds, gain, read = (200, 1032), 50.0, 5.5, 0.02

    def expose(m):
        electrons = rng.poisson(0.8 * gain * seconds, (m, *shape))
        rate = electrons / gain / seconds + rng.normal(0, read, electrons.shape)
        return make_rate(rate, read**2, np.maximum(rate, 0) / gain / seconds)  # each believes its own photons

    out = subtract_background(expose(1), background=expose(n), method="weighted")
    variance = (out.var_poisson + out.var_read + out.var_background).values[0]
    pull = out.rate.values[0] / np.sqrt(variance)
    assert abs(out.rate.values.mean(dtype="f8")) < 4 * np.sqrt(variance.mean() / variance.size)
    assert_allclose(pull.std(), 1.0, atol=0.02)
    assert_allclose(np.median(variance / (out.var_poisson + out.var_read).values[0]), 1 + 1 / n, rtol=0.02)


def test_two_that_disagree_widen_the_error():
    rate = np.full((2, 4, 1032), 1.0)
    rate[1, 2, 7] = 11.0
    out = subtract_background(make_rate(np.zeros((1, 4, 1032))), background=make_rate(rate), method="weighted")
    assert_allclose(out.rate[0, 2, 7], -6.0, rtol=1e-6)
    assert_allclose(out.var_background[0, 2, 7], 25.0, rtol=1e-5)
    assert_allclose(out.var_background[0, 2, 8], 0.025, rtol=1e-5)
    assert not out.dq.values.any()
    three = make_rate(np.concatenate([rate, rate[:1]]))
    again = subtract_background(make_rate(np.zeros((1, 4, 1032))), background=three, method="weighted")
    assert_allclose(again.rate[0, 2, 7], -1.0, rtol=1e-6)


def test_scale_of_each_band():
    background = make_rate(np.ones((2, 4, 1032)), setting="34A")
    science = make_rate(np.full((1, 4, 1032), 5.0), setting="34A")
    out = subtract_background(science, background=background, method="weighted", scale={"4A": 2.0})
    assert_allclose(out.rate[0, 0, [100, 490, 491, 1000]], [3, 3, 4, 4])
    assert_allclose(out.var_background[0, 0, [100, 1000]], [0.1, 0.025], rtol=1e-5)
    both = assert_step(subtract_background, science, background=background, scale=1.5)
    assert_allclose(both.rate, 3.5)
    for wrong, text in (({"1A": 2.0}, "band 1A; setting 34A has 3A, 4A"), (np.nan, "expected a finite number"),
                        ("fit", "expected a finite number")):  # fmt: skip
        with pytest.raises(MrsxrError, match=text):
            subtract_background(science, background=background, scale=wrong)


def sliced(rate, **more):
    """Return a rate Dataset with straight slices 24 pixels wide in both channels."""
    ds = make_rate(rate, **more)
    labels = np.zeros(rate.shape[1:], "i2")
    for k in range(15):
        labels[:, 20 + 32 * k : 44 + 32 * k] = 101 + k
        labels[:, 530 + 32 * k : 554 + 32 * k] = 201 + k
    return ds.assign_coords(slice=(("y", "x"), labels), channel=(("y", "x"), (labels // 100).astype("i1")))


def test_fitted_scale_is_that_of_the_sky_or_refused():
    rng = np.random.default_rng(8)
    shape, noise = (128, 1032), 0.2
    sky = np.linspace(0.5, 2.0, shape[0])[:, None] * np.ones(shape)
    background = make_rate(sky + rng.normal(0, noise, (2, *shape)), noise**2, 0)
    source = np.zeros(shape)
    source[:, 20 : 20 + 32 * 6] = 3.0  # six of the fifteen slices of channel 1
    source[60:64] = 50.0  # a line over the whole field
    science = sliced(1.08 * sky + source + rng.normal(0, noise, (1, *shape)), read=noise**2, poisson=0)
    found = fit_background_scale(science, background=background)
    assert_allclose([found["1A"], found["2A"]], 1.08, atol=0.005)
    filled = science.assign(rate=science.rate + np.float32(0.3) * np.arange(1032, dtype="f4") % 7)
    with pytest.raises(MrsxrError, match="is not safe"):
        fit_background_scale(filled, background=background)
    with pytest.raises(MrsxrError, match="only 0 blocks show enough background"):
        fit_background_scale(science, background=background.assign(rate=background.rate * 0))
    with pytest.raises(MrsxrError, match="assign_wcs must run before"):
        fit_background_scale(make_rate(sky[None]), background=background)


def test_wrong_background_is_refused():
    science = make_rate(np.ones((1, 4, 1032)))
    good = make_rate(np.ones((2, 4, 1032)))
    cases = (
        (make_rate(np.ones((2, 4, 1032)), setting="34A"), "background has detector MIRIFULONG, the data MIRIFUSHORT"),
        (make_rate(np.ones((2, 4, 1032)), setting="12B"), "has setting 12B, the data 12A"),
        (good.assign_attrs(readpatt="SLOWR1"), "has readpatt SLOWR1, the data FASTR1"),
        (make_rate(np.ones((2, 5, 1032))), "has 5 pixels along y, the data 4"),
        (good.isel(dither=slice(0, 0)), "holds no exposure"),
    )
    for background, text in cases:
        with pytest.raises(MrsxrError, match=text):
            subtract_background(science, background=background)
    with pytest.raises(LevelError, match="must be of level rate, got reference"):
        subtract_background(science, background=good.assign_attrs(level="reference"))
    for option, text in (({"method": "median"}, "expected one of mean, weighted"), ({"sigma": 0.0}, "sigma is 0.0"),
                         ({"maxiters": 0}, "maxiters is 0")):  # fmt: skip
        with pytest.raises(MrsxrError, match=text):
            subtract_background(science, background=good, **option)


def test_it_is_subtracted_once():
    science, background = make_rate(np.ones((1, 4, 1032))), make_rate(np.ones((2, 4, 1032)))
    out = subtract_background(science, background=background)
    assert out.attrs["pixel_background"] == 1
    with pytest.raises(MrsxrError, match="subtracted pixel by pixel already"):
        subtract_background(out, background=background)


def test_all_pixels_of_all_exposures_lost():
    flags = np.full((2, 4, 1032), dq.DO_NOT_USE, "u4")
    lost = make_rate(np.full((2, 4, 1032), np.nan), flags=flags)
    level, variance, bits = combine(lost, method="weighted")
    assert np.isnan(level).all()
    assert np.isnan(variance).all()
    assert (bits == 1).all()
    out = subtract_background(make_rate(np.ones((1, 4, 1032))), background=lost)
    assert (out.rate == 1).all()  # as jwst: under the flag
    assert (out.dq == 1).all()


def test_mean_equals_jwst():
    stored = of_jwst("stage2_background")
    for n in (2, 10):
        background = make_rate(stored["background_rate"][:n], flags=stored["background_dq"][:n])
        science = make_rate(stored["science_rate"][None], flags=stored["science_dq"][None])
        out = subtract_background(science, background=background)
        assert_allclose(out.rate[0], stored[f"rate_{n}"], rtol=1e-6, atol=1e-6)
        assert_array_equal(out.dq[0], stored[f"dq_{n}"])


def test_a_scale_that_does_not_settle_is_refused(monkeypatch):
    rng = np.random.default_rng(12)
    ratio, error = 1.3 + 0.01 * rng.standard_t(3, 200), np.full(200, 0.01)
    assert abs(_safe_mode(ratio, error, "2C") - 1.3) < 0.005
    monkeypatch.setattr("mrsxr.cal.background.MODE_ROUNDS", 1)
    with pytest.raises(MrsxrError, match="band 2C: the scale of the background did not converge in 1 rounds"):
        _safe_mode(ratio, error, "2C")
