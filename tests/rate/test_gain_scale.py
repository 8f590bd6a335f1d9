"""Step gain_scale: slopes by the factor, variances by its square."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, detector_attrs, dither_coords, make_reference

from mrsxr.errors import ReferenceFileError
from mrsxr.rate.gain_scale import scale_gain

SHAPE = (2, 6, 5)
VARIABLES = {"rate": "DN/s", "var_poisson": "DN2/s2", "var_read": "DN2/s2"}


@pytest.fixture(params=["rate", "rateints"])
def slopes(request):
    extra = ("integration",) if request.param == "rateints" else ()
    dims = ("dither", *extra, "y", "x")
    shape = (2, *(3 for _ in extra), 6, 5)
    rng = np.random.default_rng(1)
    variables = {name: (dims, rng.uniform(1, 9, shape).astype("f4"), {"units": u}) for name, u in VARIABLES.items()}
    variables["dq"] = (dims, np.zeros(shape, "u4"), {"units": "1"})
    attrs = detector_attrs(request.param, "12A", 6, 3)
    return xr.Dataset(variables, {**dither_coords(2), "y": np.arange(6), "x": np.arange(5)}, attrs)


def gain(**attrs):
    return make_reference("gain", attrs=attrs, gain=np.full(SHAPE[-2:], 4, "f4"))


def test_scales_slopes_and_variances(slopes):
    out = assert_step(scale_gain, slopes, gain=gain(gain_factor=2.5))
    np.testing.assert_allclose(out.rate, slopes.rate * 2.5, rtol=1e-6)
    np.testing.assert_allclose(out.var_poisson, slopes.var_poisson * 6.25, rtol=1e-6)
    np.testing.assert_allclose(out.var_read, slopes.var_read * 6.25, rtol=1e-6)
    assert out.rate.dtype == out.var_read.dtype == "float32"
    assert out.attrs["gain_factor"] == 2.5


@pytest.mark.parametrize("attrs", [{}, {"gain_factor": 1.0}])
def test_does_nothing_without_a_factor(slopes, attrs):
    out = assert_step(scale_gain, slopes, gain=gain(**attrs))
    np.testing.assert_array_equal(out.rate, slopes.rate)
    assert "gain_factor" not in out.attrs


def test_the_header_of_the_exposure_wins(slopes):
    texts = np.array([json.dumps({"PRIMARY": {"GAINFACT": 3.0}}), "{}"])
    out = scale_gain(slopes.assign_coords(fits_header=("dither", texts)), gain=gain(gain_factor=2.0))
    np.testing.assert_allclose(out.rate[0], slopes.rate[0] * 3, rtol=1e-6)
    np.testing.assert_allclose(out.rate[1], slopes.rate[1] * 2, rtol=1e-6)


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf])
def test_refuses_a_senseless_factor(slopes, factor):
    with pytest.raises(ReferenceFileError, match="expected a positive number"):
        scale_gain(slopes, gain=gain(gain_factor=factor))
