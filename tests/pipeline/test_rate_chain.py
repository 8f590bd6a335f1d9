"""Stage 1 as a whole: both modes, pathological pixels, and the two ways of refpix."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from helpers import make_ramp, make_reference

import mrsxr as mx
from mrsxr import dq
from mrsxr.errors import InputFileError, MrsxrWarning
from mrsxr.pipeline import Recipe, make_rate_and_ints
from mrsxr.pipeline.rate_chain import ramp_steps

SHAPE = (1, 2, 12, 16, 1032)
SLOPE = 40.0  # DN/s
SATURATED, ONE_GROUP, NAN, GAIN_0, GAIN_NAN, NOISE_NAN, NO_THRESHOLD, NO_LINEARITY = range(100, 108)
BAD = (SATURATED, ONE_GROUP, NAN, GAIN_0, GAIN_NAN, NOISE_NAN)
CONFIGS = {
    "baseline": Recipe.of(),
    "likelihood": Recipe.of().set("ramp_fit", method="likelihood"),
    "optimal": Recipe.of("optimal").skipping("emicorr", "find_showers"),
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
        names = [name for name, _ in ramp_steps(ramp, refs, Recipe.of())]
    assert names == ["group_scale", "dq_init", "saturation", "lastframe", "linearity", "dark_current", "refpix", "jump"]
    assert any("the reset anomaly stays" in str(w.message) for w in told)
    assert any("the first groups are used" in str(w.message) for w in told)


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_outer_columns_apart_equal_the_whole(ramp, refs):
    recipe = Recipe.of()
    apart = mx.make_rate(ramp, refs, recipe).compute()
    whole = mx.make_rate(ramp.compute(), refs, recipe)  # in memory: refpix measures in the data itself
    np.testing.assert_array_equal(apart.rate, whole.rate)
    assert apart.attrs["history_json"].count("subtract_reference_pixels") == 1


def spoiled(ramp, n_groups):
    """Return ramps of some groups whose first lies low and whose last lies high, as the reset leaves them."""
    short = ramp.isel(group=slice(0, n_groups)).compute()
    short = short.assign_attrs(n_groups=n_groups)
    short.sci[:, 0, 0, :, 4:-4] -= 40.0
    short.sci[:, :, -1, :, 4:-4] += 35.0
    return short


RSCD = {
    "rscd": xr.Dataset(
        {name: ("row", np.array([skip])) for name, skip in (("group_skip1", 1), ("group_skip", 1))},
        {"subarray": ("row", ["FULL"]), "readpatt": ("row", ["FASTR1"])},
        {"level": "reference", "kind": "rscd", "ref_id": "made"},
    )
}


@pytest.mark.parametrize("mode", CONFIGS)
@pytest.mark.parametrize("n_groups", [1, 2, 3])
def test_ramps_of_which_nothing_remains_are_refused(ramp, refs, mode, n_groups):
    with pytest.raises(InputFileError, match=rf"_mirifushort: ramps of {n_groups} group.*leave the exposure out"):
        mx.make_rate(spoiled(ramp, n_groups), refs, CONFIGS[mode])


@pytest.mark.parametrize("mode", CONFIGS)
@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_four_groups_give_the_slope(ramp, refs, mode):
    out = mx.make_rate(spoiled(ramp, 4), refs, CONFIGS[mode].set("firstframe")).isel(x=slice(4, 90))
    assert abs(float((out.rate / SLOPE).median()) - 1) < 0.01
    assert not (out.dq & dq.FLAGS["UNRELIABLE_SLOPE"]).any()


@pytest.mark.parametrize("algorithm", ["ols", "likelihood", "gls"])
@pytest.mark.parametrize("n_groups", [2, 3])
@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_groups_that_the_reset_spoils_are_flagged_where_they_are_taken(ramp, refs, algorithm, n_groups):
    recipe = Recipe.of().set("ramp_fit", method=algorithm).skipping("lastframe", "rscd")
    for out in make_rate_and_ints(spoiled(ramp, n_groups), refs, recipe):
        good = out.isel(x=slice(4, 90))
        assert abs(float((good.rate / SLOPE).median()) - 1) > 0.1  # that is why
        assert ((good.dq & dq.FLAGS["UNRELIABLE_SLOPE"]) != 0).all()
        assert any("cannot do without the first and the last" in note for note in out.attrs["notes"])


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_three_groups_keep_the_first_with_a_note(ramp):
    out = mx.rate.flag_rscd(spoiled(ramp, 3), **RSCD)
    assert out.attrs["notes"] == ["12A: ramps of 3 groups keep the first, which rscd drops"]
    assert "notes" not in mx.rate.flag_rscd(spoiled(ramp, 4), **RSCD).attrs
