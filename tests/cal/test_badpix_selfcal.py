"""badpix_selfcal: against jwst, against numpy; bad pixels are found, lines and sources are not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from helpers import assert_step, named, of_jwst
from numpy.testing import assert_allclose, assert_array_equal
from test_background import make_rate

from mrsxr import dq
from mrsxr.cal._badpix_selfcal_kernels import flag_fraction, median_filter
from mrsxr.cal.badpix_selfcal import BITS, find_bad_pixels, self_calibrate_bad_pixels
from mrsxr.errors import LevelError, MrsxrError

SHAPE, NOISE = (160, 1032), 0.3


def slow_median(image, size, zeros):
    padded = np.pad(image, ((size // 2, size // 2), (0, 0)), constant_values=0.0 if zeros else np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.nanmedian(windows, axis=-1)


@pytest.mark.parametrize("size", [1, 3, 15, 41])
@pytest.mark.parametrize("zeros", [True, False])
def test_median_filter_is_the_obvious_one(size, zeros):
    rng = np.random.default_rng(size)
    image = rng.normal(0, 1, (37, 45)).astype("f4")
    image[rng.random(image.shape) < 0.2] = np.nan
    image[:, 3], image[5:30, 4] = np.nan, np.nan
    assert_array_equal(median_filter(image, size, zero_edges=zeros), slow_median(image, size, zeros))


def test_fraction_equals_jwst():
    stored = of_jwst("stage2_selfcal")
    for name in ("default", "wide", "upper"):
        lower, upper, size = stored[f"{name}_options"]
        bad = flag_fraction(stored["least"][None], lower=lower, upper=upper, size=int(size), rows=(0, 0),
                            columns=(0, 0))  # fmt: skip
        assert_array_equal(bad, stored[f"{name}_bad"], err_msg=name)


def scene(n, seed=1, lines=True):
    """Return exposures of a continuum with lines over whole slices and point sources with lines that move."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    sky = np.where((x // 24) % 4 == 3, 0.02, 1.0 + 0.3 * np.sin(y / 25)) * np.ones(SHAPE)
    if lines:
        for centre, flux in ((30.3, 200.0), (61.5, 4.0), (99.8, 30.0), (130.0, 1.0)):
            sky = sky + flux * np.exp(-2.77 * ((y - centre) / 2.0) ** 2) * ((x // 24) % 4 != 3)
    frames = []
    for k in range(n):
        trace = 60 * np.exp(-2.77 * ((x - 250 - 9.4 * k - y / 40) / 1.5) ** 2)
        trace = trace * (1 + 4 * np.exp(-2.77 * ((y - 75.4) / 2.0) ** 2)) * lines
        frames.append(sky + trace)
    truth = np.array(frames)
    var = NOISE**2 + 0.002 * truth
    frames = truth + rng.normal(0, 1, truth.shape) * np.sqrt(var)
    return named(make_rate(frames, NOISE**2, 0.002 * truth), seed), truth


def hot(seed=2, n=60):
    rng = np.random.default_rng(seed)
    mask = np.zeros(SHAPE, bool)
    mask[rng.integers(3, SHAPE[0] - 3, n), rng.integers(6, 1026, n)] = True
    return mask


def test_significant_finds_the_bad_and_leaves_the_light():
    science, truth = scene(3)
    background, _ = scene(2, seed=7, lines=False)
    quiet = find_bad_pixels([science, background], method="significance").bad.values
    assert quiet.sum() <= 2  # of 165000
    mask = hot()
    glow = np.float32(3.0) * mask
    spoiled = [one.assign(rate=one.rate + glow) for one in (science, background)]
    found = find_bad_pixels(spoiled, method="significance").bad.values
    faint = mask & (truth.max(axis=0) < 20)
    assert found[faint].mean() > 0.95
    assert (found & ~mask).sum() <= 2
    by_fraction = find_bad_pixels(spoiled).bad.values
    assert (by_fraction & ~mask).sum() > 100


def test_one_exposure_of_lines_stays_clean():
    science, _ = scene(1)
    assert find_bad_pixels([science], method="significance").bad.values.sum() <= 2


def test_dead_pixels_and_glitches_of_one_exposure():
    science, _ = scene(4, lines=False)
    rate = science.rate.values.copy()
    rate[:, 50, 200:206:2] = -3.0  # low in all
    rate[1, 80, 300:306:2] = 40.0  # a glitch in one
    out = self_calibrate_bad_pixels(science.assign(rate=(science.rate.dims, rate, science.rate.attrs)),
                                    method="significance")  # fmt: skip
    flagged = (out.dq.values & BITS) == BITS
    assert flagged[:, 50, 200:206:2].all()
    assert not flagged[:, 80, 300:306:2].any()


def test_step_flags_every_dither():
    science, _ = scene(2)
    background, _ = scene(2, seed=7, lines=False)
    for method in ("fraction", "significance"):
        out = assert_step(self_calibrate_bad_pixels, science, others=[background], method=method)
        bad = find_bad_pixels([science, background], method=method).bad.values
        assert_array_equal((out.dq.values & BITS) == BITS, np.broadcast_to(bad, out.dq.shape))
        for name in ("rate", "var_poisson", "var_read"):
            assert_array_equal(np.isnan(out[name].values), np.broadcast_to(bad, out.dq.shape))
            assert_allclose(out[name].values[:, ~bad], science[name].values[:, ~bad])
    share = find_bad_pixels([science], flagfrac_lower=0.0, flagfrac_upper=0.01).bad.values.mean()
    assert_allclose(share, 0.01, rtol=0.02)


def test_mask_may_be_given():
    science, _ = scene(2)
    found = find_bad_pixels([science])
    out = assert_step(self_calibrate_bad_pixels, science, bad_pixels=found)
    assert_array_equal(out.rate, self_calibrate_bad_pixels(science).rate)
    with pytest.raises(MrsxrError, match="expected what find_bad_pixels returns"):
        self_calibrate_bad_pixels(science, bad_pixels=found.assign_attrs(kind="mask"))


def test_lost_frames_give_no_flags():
    science, _ = scene(2)
    lost = named(science, 7).assign(rate=science.rate * np.float32(np.nan), dq=science.dq | np.uint32(dq.DO_NOT_USE))
    for method in ("fraction", "significance"):
        assert not find_bad_pixels([lost], method=method).bad.values.any()
        assert_array_equal(find_bad_pixels([science, lost], method="fraction").bad, find_bad_pixels([science]).bad)


def test_wrong_input_is_refused():
    science, _ = scene(2)
    one = science.isel(dither=[0])
    with pytest.raises(MrsxrError, match="has only the exposure jw02732001001_02101_00001_mirifushort"):
        self_calibrate_bad_pixels(one)
    assert self_calibrate_bad_pixels(one, force_single=True).attrs["level"] == "rate"
    long = make_rate(np.ones((1, *SHAPE)), setting="34A")
    cases = (
        ({"others": [long]}, "differ in detector: MIRIFUSHORT and MIRIFULONG"),
        ({"others": [named(science.isel(y=slice(0, 5)), 7)]}, "differ in size"),
        ({"kernel_size": 4}, "expected an odd number"),
        ({"flagfrac_upper": 0.6}, "expected a number from 0 to 0.5"),
        ({"method": "sigma"}, "expected one of fraction, significance"),
        ({"threshold": 0.0}, "threshold is 0.0"),
    )
    for options, text in cases:
        with pytest.raises(MrsxrError, match=text):
            self_calibrate_bad_pixels(science, **options)
    with pytest.raises(LevelError, match="needs exposures of level rate, got cal"):
        self_calibrate_bad_pixels(science, others=[science.assign_attrs(level="cal")])
