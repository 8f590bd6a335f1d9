"""Step firstframe: flags against stored results of jwst 3.0.0 and the counts for the jump test."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_step, make_ramp, of_jwst

from mrsxr import dq
from mrsxr.rate.firstframe import flag_first_frame
from mrsxr.rate.lastframe import flag_last_frame


@pytest.fixture(scope="module")
def stored():
    return of_jwst("simple_steps")


@pytest.mark.parametrize("bright", [True, False])
def test_equals_jwst(stored, bright):
    ds = make_ramp(stored["sci"][None])
    ds.group_dq[0] = stored["group_dq"]
    out = assert_step(flag_first_frame, ds, bright_use_group1=bright)
    np.testing.assert_array_equal(out.group_dq[0], stored[f"firstframe_{bright}_group_dq"])
    np.testing.assert_array_equal(out.pixel_dq[0], stored[f"firstframe_{bright}_pixel_dq"])
    assert (out.pixel_dq == dq.FLAGS["FLUX_ESTIMATED"]).any() == bright


def test_first_and_last_group_are_unusable():
    ds = flag_last_frame(make_ramp(np.ones((1, 1, 6, 4, 4), "f4")))
    out = flag_first_frame(ds)
    assert (out.group_dq.values & 1).all(axis=(0, 1, 3, 4)).tolist() == [True, *[False] * 4, True]
    assert (flag_first_frame(out).group_dq.values == out.group_dq.values).all()


def test_short_ramps_stay():
    ds = make_ramp(np.ones((1, 2, 3, 6, 4), "f4"))
    out = assert_step(flag_first_frame, ds)
    assert not out.group_dq.values.any()
