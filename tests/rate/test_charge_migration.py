"""Step charge_migration: stored results of jwst 3.0.0, neighbours across blocks, short ramps."""

from __future__ import annotations

import numpy as np
from helpers import assert_step, make_ramp, of_jwst

from mrsxr import dq
from mrsxr.rate.charge_migration import flag_charge_migration

BITS = dq.FLAGS["CHARGELOSS"] | dq.DO_NOT_USE


def test_equals_jwst():
    stored = of_jwst("simple_steps")
    ds = make_ramp(stored["sci"][None])
    ds.group_dq[0] = stored["group_dq"]
    out = assert_step(flag_charge_migration, ds)
    np.testing.assert_array_equal(out.group_dq[0], stored["migration_group_dq"])
    assert 0.01 < (out.group_dq == BITS).mean() < 0.9


def test_neighbours_across_blocks():
    sci = np.full((1, 2, 5, 9, 6), 1000, "f4")
    sci[0, 1, 2, 4, 3] = 30000
    sci[0, 0, 1, 0, 0] = np.nan
    for chunk in (1, 2, 4, 9):
        out = flag_charge_migration(make_ramp(sci, {"y": chunk}), signal_threshold=20000.0).group_dq.values[0]
        assert not out[0].any()
        assert not out[1, :2].any()
        for plane in out[1, 2:]:
            assert set(zip(*np.nonzero(plane == BITS), strict=True)) == {(4, 3), (3, 3), (5, 3), (4, 2), (4, 4)}


def test_samples_out_of_use_do_not_count_and_short_ramps_stay():
    sci = np.full((1, 1, 4, 6, 4), 30000, "f4")
    ds = make_ramp(sci)
    ds.group_dq[:] = dq.DO_NOT_USE
    np.testing.assert_array_equal(flag_charge_migration(ds).group_dq, ds.group_dq)
    short = make_ramp(sci[:, :, :2])
    assert not assert_step(flag_charge_migration, short).group_dq.values.any()
