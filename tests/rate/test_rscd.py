"""Step rscd: stored results of jwst 3.0.0, the counts for the jump test, and the decay taken away."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_step, make_ramp, make_reference, of_jwst

from mrsxr import dq
from mrsxr.errors import MrsxrError, MrsxrWarning, ReferenceFileError
from mrsxr.rate.firstframe import flag_first_frame
from mrsxr.rate.lastframe import flag_last_frame
from mrsxr.rate.rscd import correct_rscd, count_relaxed, flag_rscd

CASES = ["long", "deep", "five", "four", "three", "two", "one_int", "nearly"]
GROUP_TIME = 2.77504


def table(first=1, later=4, readpatt="FASTR1"):
    rows = {"group_skip1": ("row", np.array([9, first])), "group_skip": ("row", np.array([9, later]))}
    ds = make_reference("rscd", **rows)
    return ds.assign_coords(subarray=("row", ["FULL", "FULL"]), readpatt=("row", ["SLOWR1", readpatt]))


@pytest.fixture(scope="module")
def stored():
    return of_jwst("simple_steps")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*keep the first, which rscd drops:mrsxr.errors.MrsxrWarning")
def test_equals_jwst(stored, case):
    flags = stored[f"rscd_{case}_input"]
    ds = make_ramp(np.zeros((1, *flags.shape), "f4"))
    ds.group_dq[0] = flags
    rscd = table(*stored[f"rscd_{case}_case"])
    out = assert_step(flag_rscd, ds, rscd=rscd)
    np.testing.assert_array_equal(out.group_dq[0], stored[f"rscd_{case}_group_dq"])
    np.testing.assert_array_equal(out.pixel_dq[0], stored[f"rscd_{case}_pixel_dq"])
    int1, lowered1, kept1, int2, lowered2, kept2 = (int(n) for n in stored[f"rscd_{case}_facts"])
    assert (out.attrs.get("rscd_skip_int1", -1), out.attrs.get("rscd_skip_int2", -1)) == (int1, int2)
    counts = count_relaxed(out, rscd=rscd).isel(dither=0)
    assert counts.n_lowered.values.tolist() == [max(0, lowered1), max(0, lowered2)]
    if 0 not in (int1, int2):  # where no group is to be dropped, jwst counts every pixel
        assert counts.n_first_kept.values.tolist() == [max(0, kept1), max(0, kept2)]
    if case in ("long", "deep"):
        assert (out.pixel_dq == dq.FLAGS["FLUX_ESTIMATED"]).any()


def test_drops_groups_once_and_tells_them_of_the_integrations_that_are_there():
    ds = flag_last_frame(make_ramp(np.zeros((1, 2, 20, 4, 4), "f4")))
    out = flag_rscd(ds, rscd=table())
    unusable = [int((out.group_dq.values & 1).all(axis=(0, 3, 4))[i].sum()) for i in (0, 1)]
    assert unusable == [2, 5]  # the last group is one of them
    both = flag_rscd(flag_first_frame(ds), rscd=table())
    assert ((both.group_dq.values & 1) == (out.group_dq.values & 1)).all()
    alone = flag_rscd(ds.isel(integration=[0]), rscd=table())
    assert (alone.group_dq.values == out.group_dq.values[:, :1]).all()
    assert "rscd_skip_int2" not in alone.attrs
    second = flag_rscd(ds.isel(integration=[1]), rscd=table())
    assert (second.group_dq.values == out.group_dq.values[:, 1:]).all()
    assert "rscd_skip_int1" not in second.attrs


def test_other_readout_warns_and_old_tables_drop_one():
    ds = make_ramp(np.zeros((1, 2, 9, 4, 4), "f4"))
    with pytest.warns(MrsxrWarning, match="no row for FULL FASTR1"):
        out = flag_rscd(ds, rscd=table(readpatt="FAST"))
    assert not out.group_dq.values.any()
    old = flag_rscd(ds, rscd=table(first=-1))
    assert old.group_dq.values[0, 0, :, 0, 0].tolist() == [1] + [0] * 8


def decaying(scale=(0.02, -0.005), times=(8.0, 30.0), seed=0, noise=0.0):
    """Ramps whose later integrations carry the decay of the one before; returns the Dataset and the clean ramps."""
    rng = np.random.default_rng(seed)
    slope = rng.uniform(50, 900, (6, 7))
    clean = np.broadcast_to(slope * np.arange(1, 16)[:, None, None], (1, 3, 15, 6, 7)).astype("f8").copy()
    t = GROUP_TIME * np.arange(1, 16)
    decay = sum(a * np.exp(-t / tau) for a, tau in zip(scale, times, strict=True))
    measured = clean + rng.normal(0, noise, clean.shape)
    measured[:, 1:] += decay[:, None, None] * slope * 15
    return make_ramp(measured.astype("f4")), clean


def coefficients(scale=(0.02, -0.005), times=(8.0, 30.0), by_pixel=False):
    a, tau = np.array(scale, "f4"), np.array(times, "f4")
    if by_pixel:
        shape = (len(a), 6, 7)
        a, tau = (np.broadcast_to(v[:, None, None], shape).copy() for v in (a, tau))
    dims = ("term", "y", "x")[: a.ndim]
    return make_reference("rscd", amplitude=(dims, a), decay_time=(dims, tau))


@pytest.mark.parametrize("by_pixel", [False, True])
def test_decay_is_taken_away(by_pixel):
    ds, clean = decaying()
    before = np.abs(ds.sci.values - clean).max()
    out = assert_step(correct_rscd, ds, rscd=coefficients(by_pixel=by_pixel))
    assert before > 50
    np.testing.assert_array_equal(out.sci[:, 0], ds.sci[:, 0])
    # the integration before ends a little high or low by its own decay: second order
    assert np.abs(out.sci.values - clean).max() < 0.002 * before
    assert not out.pixel_dq.values.any()


def test_slopes_are_less_biased_and_sharper_than_with_dropped_groups():
    terms = {"scale": (0.02, 0.01), "times": (8.0, 40.0)}
    ds, clean = decaying(**terms, noise=5.0)
    x = np.arange(15.0)

    def slope(ramp, first):
        return np.polyfit(x[first:], ramp[0, 1, first:].reshape(15 - first, -1), 1)[0]

    truth = slope(clean, 0)
    dropped = slope(ds.sci.values, 4) - truth
    corrected = slope(correct_rscd(ds, rscd=coefficients(**terms)).sci.values, 0) - truth
    assert np.mean(dropped / truth) < -0.003
    assert abs(np.mean(corrected / truth)) < 0.0003
    assert np.std(corrected) < 0.8 * np.std(dropped)


def test_saturated_ramp_counts_until_full():
    ds, _ = decaying()
    ds.group_dq[0, 0, 6:] = dq.SATURATED
    ds.sci[0, 0, 6:] = 60000
    out = correct_rscd(ds, rscd=coefficients())
    full = correct_rscd(decaying()[0], rscd=coefficients())
    share = (ds.sci - out.sci)[0, 1] / (ds.sci - full.sci)[0, 1]
    np.testing.assert_allclose(share, 7 / 15, rtol=2e-3)


def test_pathologies_are_flagged():
    ds, _ = decaying()
    ds.group_dq[0, 0, :, 0, 0] = dq.SATURATED
    ds.group_dq[0, 0, 1:, 0, 1] = dq.DO_NOT_USE
    ds.sci[0, 0, :, 0, 2] = np.nan
    ref = coefficients(by_pixel=True)
    ref.amplitude[0, 1, 0], ref.decay_time[1, 1, 1] = np.nan, 0
    out = assert_step(correct_rscd, ds, rscd=ref)
    bad = {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)}
    assert set(zip(*np.nonzero(out.pixel_dq.values[0]), strict=True)) == bad
    assert (out.pixel_dq.values[0, 0, :3] == dq.FLAGS["UNRELIABLE_SLOPE"]).all()
    np.testing.assert_array_equal(out.sci[0, 1, :, 1, 0], ds.sci[0, 1, :, 1, 0])
    assert np.isfinite(out.sci[0, 1:]).all()
    with pytest.raises(ReferenceFileError, match="lacks 'decay_time'"):
        correct_rscd(ds, rscd=ref.drop_vars("decay_time"))
    with pytest.raises(MrsxrError, match="group_time"):
        correct_rscd(ds.assign_attrs(group_time=0.0), rscd=ref)
