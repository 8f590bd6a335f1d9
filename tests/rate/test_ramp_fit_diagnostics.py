"""What the slope fit tells beside the slope, one pass for rate and rateints, and the parameters of least squares."""

from __future__ import annotations

import dask
import numpy as np
import pytest
from helpers import assert_step, make_ramp, make_reference, no_compute
from hypothesis import given, settings
from hypothesis import strategies as st
from xarray.testing import assert_identical

from mrsxr import dq, io, schema
from mrsxr.rate import _ramp_fit_kernels
from mrsxr.rate.ramp_fit import fit_integrations, fit_ramps, fit_ramps_and_integrations

SHAPE = (1, 2, 12, 6, 40)
GROUP_TIME = 2.77504


def image(value, dtype="f4"):
    return np.full(SHAPE[-2:], value, dtype)


NOISE = {"gain": make_reference("gain", gain=image(4)), "readnoise": make_reference("readnoise", read_noise=image(8))}


def random_ramp(seed, shape=SHAPE):
    """Straight ramps with noise; flags of every kind, the first two groups and the last lost."""
    rng = np.random.default_rng(seed)
    rate = rng.uniform(1, 400, shape[-2:])
    sci = 9000 + rate * GROUP_TIME * np.arange(shape[2])[:, None, None] + rng.normal(0, 5, shape)
    ds = make_ramp(sci.astype("f4")).assign_attrs(average_dark_current=0.4)
    flags = np.where(rng.random(shape) < 0.04, rng.choice([1, 4, 4, 32, 65], shape), 0).astype("u1")
    full = rng.random((shape[0], shape[1], 1, *shape[-2:])) < 0.1
    flags |= np.where(full & (np.arange(shape[2])[:, None, None] > 7), 2, 0).astype("u1")
    flags[:, :, :2] |= 1
    flags[:, :, -1] |= 1
    flags[(flags & 3) > 0] &= 251
    ds["group_dq"][:] = flags
    return ds


def segments_of(flags):
    """Runs of good groups of one ramp whose first two groups and last are lost, each with a jump that begins it."""
    flags = flags[2:-1].copy()
    flags[0] &= 251
    runs, start = [], None
    for k, bits in enumerate([*(int(b) & 223 for b in flags), 1]):
        if bits == 0 and start is None:
            start = k - 1 if k and int(flags[k - 1]) & 223 == 4 else k
        elif bits and start is not None:
            runs.append((start, k))
            start = None
    longer = [run for run in runs if run[1] - run[0] > 1]
    return longer, int(((flags & 7) == 4).sum())


@given(seed=st.integers(0, 200))
@settings(max_examples=15, deadline=None)
def test_counts_against_a_slow_version(seed):
    ds = random_ramp(seed, (1, 2, 12, 1, 40))
    noise = {"gain": make_reference("gain", gain=image(4)[:1]),
             "readnoise": make_reference("readnoise", read_noise=image(8)[:1])}  # fmt: skip
    each = fit_integrations(ds, **noise)
    rate = fit_ramps(ds, **noise)
    used, jumps = each.groups_used.values[0], each.n_jumps.values[0]
    for i in range(2):
        for x in range(40):
            runs, n_jumps = segments_of(ds.group_dq.values[0, i, :, 0, x])
            assert used[i, 0, x] == sum(b - a for a, b in runs)
            assert jumps[i, 0, x] == n_jumps
            assert np.isnan(each.rate.values[0, i, 0, x]) == (not runs)
    np.testing.assert_array_equal(rate.groups_used[0], used.sum(axis=0))
    np.testing.assert_array_equal(rate.n_jumps[0], jumps.sum(axis=0))


def test_flags_beside_change_no_ramp():
    """Ramps fitted side by side and one by one give the same, with leading groups lost too."""
    ds = random_ramp(3)
    ds["group_dq"][:] = 0
    ds.group_dq[:, :, :3] = 1
    ds.group_dq[:, :, -1] = 1
    together = fit_ramps(ds, **NOISE)
    ds.group_dq[:, :, 0, :, ::2] |= 16  # a flag that sends these ramps nowhere: the group is lost anyway
    ds.group_dq[0, 1, 4:, :, 1::2] = 2
    apart = fit_ramps(ds, **NOISE)
    np.testing.assert_array_equal(apart.rate[..., ::2], together.rate[..., ::2])
    assert (together.groups_used == 16).all()
    assert (apart.groups_used[..., ::2] == 16).all()
    assert (apart.groups_used[..., 1::2] == 8).all()  # a single good group of the second integration is no slope
    cut = ds.isel(group=slice(3, 11)).assign_attrs(n_groups=8)
    np.testing.assert_allclose(fit_ramps(cut, **NOISE).rate, apart.rate, rtol=1e-6)


def test_diagnostics_are_optional_and_in_the_schema():
    ds = random_ramp(1)
    rate = assert_step(fit_ramps, ds, **NOISE)
    each = assert_step(fit_integrations, ds, **NOISE)
    assert {"groups_used", "n_jumps"} <= set(rate) & set(each)
    assert "chi2" not in rate
    plain = fit_ramps(ds, diagnostics=False, **NOISE)
    assert set(plain) == {"rate", "var_poisson", "var_read", "dq"}
    assert_identical(plain.rate, rate.rate)
    gls = fit_integrations(ds, method="gls", **NOISE)
    schema.validate(gls)
    assert np.isnan(gls.chi2.values[np.isnan(gls.rate.values)]).all()


@pytest.mark.parametrize("algorithm", ["ols", "gls"])
@pytest.mark.parametrize("chunks", [None, {"y": 2}])
def test_both_from_one_pass(algorithm, chunks, monkeypatch):
    ds = random_ramp(2)
    lazy = ds if chunks is None else ds.chunk({"dither": 1, **chunks})
    expected = fit_ramps(ds, method=algorithm, **NOISE), fit_integrations(ds, method=algorithm, **NOISE)
    calls = []
    if algorithm == "ols":
        original = _ramp_fit_kernels._fit_ramps
        monkeypatch.setattr(_ramp_fit_kernels, "_fit_ramps", lambda *a: (calls.append(1), original(*a)))
    if chunks is None:
        both = fit_ramps_and_integrations(lazy, method=algorithm, **NOISE)
        assert not both[0].chunks
    else:
        with no_compute():
            both = fit_ramps_and_integrations(lazy, method=algorithm, **NOISE)
        both = dask.compute(*both, scheduler="synchronous")
    for found, wanted in zip(both, expected, strict=True):
        assert_identical(found, wanted)
    assert algorithm != "ols" or len(calls) == (1 if chunks is None else 3)


@pytest.mark.parametrize("algorithm", ["ols", "gls"])
@pytest.mark.parametrize("format", ["fits", "netcdf"])
def test_diagnostics_are_saved_and_read(tmp_path, algorithm, format):
    ds = random_ramp(4)
    for made in (fit_ramps(ds, method=algorithm, **NOISE), fit_integrations(ds, method=algorithm, **NOISE)):
        (path,) = io.save(made, tmp_path / f"made_{made.attrs['level']}{'.fits' if format == 'fits' else '.nc'}")
        back = io.load(path).compute()
        for name in ("groups_used", "n_jumps", "chi2"):
            if name in made:
                np.testing.assert_array_equal(back[name], made[name], err_msg=name)
                assert back[name].dtype == made[name].dtype
                assert back[name].dims == made[name].dims


def test_dark_current_in_its_unit():
    ds = make_ramp(np.full(SHAPE, 100, "f4")).assign_attrs(average_dark_current=0.4)
    jwst = fit_ramps(ds, **NOISE)
    gls = fit_ramps(ds, method="gls", **NOISE)
    np.testing.assert_allclose(jwst.var_poisson, 0.4 / (GROUP_TIME * 4 * 22), rtol=1e-6)
    assert 0.09 < float((gls.var_poisson * GROUP_TIME * 4 * 22).median()) < 0.12
    current = np.linspace(0, 1, 240, dtype="f4").reshape(SHAPE[-2:])
    image_of = fit_ramps(ds.assign(average_dark_current=(("y", "x"), current)), **NOISE)
    np.testing.assert_allclose(image_of.var_poisson[0], current / (GROUP_TIME * 4 * 22), rtol=1e-6)


def test_first_and_last_group():
    ds = random_ramp(5)
    limited = fit_ramps(ds, firstgroup=3, lastgroup=8, **NOISE)
    ds.group_dq[:, :, :3] |= 1
    ds.group_dq[:, :, 9:] |= 1
    flagged = fit_ramps(ds, **NOISE)
    for name in limited:
        np.testing.assert_array_equal(limited[name], flagged[name], err_msg=name)


def test_lone_good_groups_are_no_slope():
    ds = make_ramp(np.full((1, 1, 6, 1, 4), 9000, "f4"))
    ds.group_dq[0, 0, :, 0, 0] = [0, 1, 0, 1, 0, 1]
    ds.group_dq[0, 0, :, 0, 1] = [1, 0, 1, 1, 1, 1]
    noise = {"gain": make_reference("gain", gain=np.full((1, 4), 4, "f4")),
             "readnoise": make_reference("readnoise", read_noise=np.full((1, 4), 8, "f4"))}  # fmt: skip
    out = fit_ramps(ds, **noise)
    assert (out.dq.values[0, 0, :2] == dq.DO_NOT_USE).all()
    assert (out.groups_used.values[0, 0] == [0, 0, 6, 6]).all()
    jwst = fit_ramps(ds, suppress_one_group=False, **noise)
    np.testing.assert_allclose(jwst.rate.values[0, 0, :2], 9000 / GROUP_TIME, rtol=1e-6)
