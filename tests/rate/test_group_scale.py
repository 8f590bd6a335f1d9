"""Step group_scale: its own numbers and what it leaves alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import assert_step, make_ramp

from mrsxr.errors import InputFileError
from mrsxr.rate.group_scale import scale_groups


def ramp_with(*keywords):
    sci = np.arange(2 * 2 * 3 * 6 * 5, dtype="u2").reshape(2, 2, 3, 6, 5)
    ds = make_ramp(sci)
    texts = [json.dumps({"PRIMARY": one, "SCI": {}}) for one in keywords]
    return ds.assign_coords(fits_header=("dither", np.array(texts)))


def test_scales_each_exposure_by_its_own_keywords():
    ds = ramp_with({"NFRAMES": 5, "FRMDIVSR": 8}, {"NFRAMES": 4, "FRMDIVSR": 4})
    out = assert_step(scale_groups, ds)
    assert out.sci.dtype == "float32"
    np.testing.assert_allclose(out.sci[0], ds.sci[0].values * 1.6, rtol=1e-7)
    np.testing.assert_array_equal(out.sci[1], ds.sci[1])


@pytest.mark.parametrize("header", [{}, {"NFRAMES": 1, "FRMDIVSR": 1}, {"NFRAMES": 8}, {"FRMDIVSR": 4}])
def test_leaves_equal_or_missing_keywords_alone(header):
    ds = ramp_with(header, header)
    out = assert_step(scale_groups, ds)
    assert out.sci.dtype == "uint16"
    np.testing.assert_array_equal(out.sci, ds.sci)


def test_refuses_a_broken_header():
    with pytest.raises(InputFileError, match="NFRAMES is 0 and FRMDIVSR 4"):
        scale_groups(ramp_with({"NFRAMES": 0, "FRMDIVSR": 4}, {}))
