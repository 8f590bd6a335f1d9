"""Step persistence: stored results of jwst 3.0.0, a slow version, windows handed on."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_step, make_ramp, of_jwst

from mrsxr import dq
from mrsxr.errors import MrsxrError
from mrsxr.rate.persistence import flag_persistence, persistence_windows

GROUP_TIME = 2.77504
CASES = {
    "plain": {"persistence_time": 20},
    "threshold": {"persistence_time": 20, "dn_threshold": 30000.0, "persistence_dnu": True},
}


@pytest.mark.parametrize("case", CASES)
def test_equals_jwst(case):
    stored = of_jwst("simple_steps")
    ds = make_ramp(stored["sci"][None])
    ds.group_dq[0] = stored["group_dq"]
    out = assert_step(flag_persistence, ds, **CASES[case])
    np.testing.assert_array_equal(out.group_dq[0], stored[f"persistence_{case}_group_dq"])
    assert 0.01 < ((out.group_dq & 32) > 0).mean() < 0.9
    own = {k: v for k, v in CASES[case].items() if k != "persistence_dnu"}
    end = persistence_windows(ds, **own).window_end[0].values
    expected = stored[f"persistence_{case}_end"]
    np.testing.assert_allclose(np.where(end > 0, end - 59760, 0), expected, atol=2e-11)
    assert (expected > 0).any()


def saturating(at):
    ds = make_ramp(np.full((1, 1, 10, 4, 3), 100, "f4"))
    ds.group_dq[0, 0, at:, 1, 2] = dq.SATURATED
    return ds


def test_a_window_has_its_length():
    out = flag_persistence(saturating(3), persistence_time=GROUP_TIME * 2.5)
    flagged = (out.group_dq.values[0, 0, :, 1, 2] & dq.FLAGS["PERSISTENCE"]) > 0
    assert flagged.tolist() == [False] * 3 + [True] * 3 + [False] * 4
    assert ((out.group_dq.values & dq.FLAGS["PERSISTENCE"]) > 0).sum() == 3


def test_windows_are_handed_on():
    time = GROUP_TIME * 12
    end = persistence_windows(saturating(9), persistence_time=time)
    ds = make_ramp(np.full((1, 1, 10, 4, 3), 100, "f4"))
    later = ds.assign_coords(start_time=ds.start_time + 10.5 * GROUP_TIME / 86400)
    out = assert_step(flag_persistence, later, persistence_time=time, windows=end)
    flagged = (out.group_dq.values[0, 0, :, 1, 2] & dq.FLAGS["PERSISTENCE"]) > 0
    # the window ends 22 groups after the first start, groups of the later exposure are read 11.5, 12.5 ... after it
    assert flagged.tolist() == [True] * 10
    assert ((out.group_dq.values & dq.FLAGS["PERSISTENCE"]) > 0).sum() == 10
    much_later = ds.assign_coords(start_time=ds.start_time + 18.5 * GROUP_TIME / 86400)
    out = flag_persistence(much_later, persistence_time=time, windows=end)
    assert ((out.group_dq.values[0, 0, :, 1, 2] & 32) > 0).tolist() == [True] * 3 + [False] * 7
    other = flag_persistence(later, persistence_time=2 * time, windows=end)
    assert not other.group_dq.values.any()


def test_all_saturated_and_all_nan_give_flags():
    ds = make_ramp(np.full((1, 2, 4, 3, 3), np.nan, "f4"))
    assert not flag_persistence(ds, persistence_time=9, dn_threshold=1.0).group_dq.values.any()
    ds.group_dq[:] = dq.SATURATED
    assert (flag_persistence(ds, persistence_time=99).group_dq == 34).all()


@pytest.mark.parametrize("time", [0, -5, None])
def test_refuses_a_time_that_is_none(time):
    with pytest.raises(MrsxrError, match=r"persistence_time is .*expected a number above 0"):
        flag_persistence(saturating(2), persistence_time=time)
