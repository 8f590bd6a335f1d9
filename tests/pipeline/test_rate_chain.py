"""Stage 1 as a whole: both modes, pathological pixels, and the two ways of refpix."""

from __future__ import annotations

from dataclasses import replace

import dask
import numpy as np
import pytest
from helpers import make_ramp, make_reference

import mrsxr as mx
from mrsxr import dq
from mrsxr.errors import MrsxrWarning
from mrsxr.pipeline import RateConfig, make_rate_and_ints
from mrsxr.pipeline.rate_chain import ramp_steps

SHAPE = (1, 2, 12, 16, 1032)
SLOPE = 40.0  # DN/s
SATURATED, ONE_GROUP, NAN, GAIN_0, GAIN_NAN, NOISE_NAN, NO_THRESHOLD, NO_LINEARITY = range(100, 108)
BAD = (SATURATED, ONE_GROUP, NAN, GAIN_0, GAIN_NAN, NOISE_NAN)
CONFIGS = {
    "baseline": RateConfig.baseline(),
    "likelihood": replace(RateConfig.baseline(), algorithm="likelihood"),
    "optimal": replace(RateConfig.optimal(), emicorr="none", showers="none"),
}


def image(value):
    return np.full(SHAPE[-2:], value, dtype="f4")


@pytest.fixture
def ramp():
    rng = np.random.default_rng(4)
    light = np.cumsum(rng.poisson(4.0 * SLOPE * 2.77504, SHAPE), axis=2) / 4.0
    sci = 10000.0 + light + rng.normal(0, 4.0, SHAPE)
    sci[..., :4] = sci[..., -4:] = 10000.0
    sci[..., SATURATED] = 60000.0
    sci[:, :, 2:, :, ONE_GROUP] = 60000.0
    sci[..., NAN] = np.nan
    return make_ramp(sci.astype("f4"), {"y": 8})


@pytest.fixture
def refs():
    gain, noise, threshold = image(4.0), image(4.0 * np.sqrt(2)), image(50000.0)
    gain[:, GAIN_0], gain[:, GAIN_NAN], noise[:, NOISE_NAN] = 0.0, np.nan, np.nan
    threshold[:, NO_THRESHOLD] = np.nan
    coefficients = np.zeros((3, *SHAPE[-2:]), "f4")
    coefficients[1] = 1.0
    coefficients[:, :, NO_LINEARITY] = np.nan
    short = np.zeros((1, 5, *SHAPE[-2:]), "f4")  # a dark with fewer groups than the exposure
    none = np.zeros(SHAPE[-2:], "u4")
    none[:, :4] = none[:, -4:] = dq.REFERENCE_PIXEL
    zero = np.zeros(SHAPE[-2:], "u4")
    return mx.References({
        "mask": make_reference("mask", dq=none), "gain": make_reference("gain", gain=gain),
        "readnoise": make_reference("readnoise", read_noise=noise),
        "saturation": make_reference("saturation", threshold=threshold, dq=zero),
        "linearity": make_reference("linearity", coefficients=(("order", "y", "x"), coefficients), dq=zero),
        "dark": make_reference("dark", dark=(("integration", "group", "y", "x"), short), dq=zero),
    })  # fmt: skip


@pytest.mark.parametrize("mode", CONFIGS)
@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_pathologies_give_flags(ramp, refs, mode):
    # the second group of a pixel with one good group is the first of two only where a later step takes it away
    ramp = ramp.assign(group_dq=ramp.group_dq | (ramp.group == 2).astype("u1") * (ramp.x == ONE_GROUP).astype("u1"))
    ramp = ramp.assign(group_dq=ramp.group_dq.transpose(*ramp.sci.dims).assign_attrs(dq.GROUP_DQ_ATTRS))
    out, ints = dask.compute(*make_rate_and_ints(ramp, refs, CONFIGS[mode]))
    for result, dims in ((out, 1), (ints, 2)):
        bad = result.isel(x=list(BAD))
        assert np.isnan(bad.rate).all()
        assert ((bad.dq & dq.DO_NOT_USE) != 0).all()
        assert result.rate.isel(x=slice(4, 90)).notnull().all()
        assert result.rate.ndim == dims + 2
    assert ((out.dq.isel(x=SATURATED) & dq.SATURATED) != 0).all()
    assert ((out.dq.isel(x=[GAIN_0, GAIN_NAN]) & dq.NO_GAIN_VALUE) != 0).all()
    assert ((out.dq.isel(x=NO_THRESHOLD) & dq.NO_SAT_CHECK) != 0).all()
    assert ((out.dq.isel(x=NO_LINEARITY) & dq.NO_LIN_CORR) != 0).all()
    good = out.isel(x=slice(4, -4)).drop_isel(x=[x - 4 for x in BAD])
    pull = (good.rate - SLOPE) / np.sqrt(good.var_poisson + good.var_read)
    assert abs(float(pull.mean())) < 0.05
    assert 0.95 < float(pull.std()) < 1.05
    assert int(good.groups_used.max()) <= 2 * SHAPE[2] - 2


def test_what_is_missing_is_told(ramp, refs):
    with pytest.warns(MrsxrWarning) as told:
        names = [name for name, _ in ramp_steps(ramp, refs, RateConfig.baseline())]
    assert names == ["group_scale", "dq_init", "saturation", "lastframe", "linearity", "dark_current", "refpix", "jump"]
    assert any("the reset anomaly stays" in str(w.message) for w in told)
    assert any("the first groups are used" in str(w.message) for w in told)


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_outer_columns_apart_equal_the_whole(ramp, refs):
    config = RateConfig.baseline()
    apart = mx.make_rate(ramp, refs, config).compute()
    whole = mx.make_rate(ramp.compute(), refs, config)  # in memory: refpix measures in the data itself
    np.testing.assert_array_equal(apart.rate, whole.rate)
    assert apart.attrs["history_json"].count("subtract_reference_pixels") == 1
