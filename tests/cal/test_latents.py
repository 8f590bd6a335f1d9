"""Residual latents: the decay after earlier exposures is removed from simulated ramps; promises, errors."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, detector_attrs, dither_coords, no_compute

from mrsxr import dq
from mrsxr.cal.latents import DAY, _Exposure, _integrations, latent_state, mean_decay, subtract_latents
from mrsxr.errors import LevelError, MrsxrError, ReferenceFileError
from mrsxr.tree import join_dithers

NY, NX = 6, 8
TAU, SHARE = np.array([40.0, 300.0, 20000.0]), np.array([4e-3, 2e-3, 1e-3])
SATURATED = 3 * SHARE
GROUP_TIME, N_GROUPS, N_INTEGRATIONS = 2.77504, 40, 2
LENGTH = GROUP_TIME * N_GROUPS * N_INTEGRATIONS


def make_latent(**more) -> xr.Dataset:
    columns = {"decay_time": TAU, "amplitude": SHARE, "amplitude_err": 0.1 * SHARE, "saturated_amplitude": SATURATED}
    columns |= more
    return xr.Dataset(
        {name: ("component", np.asarray(v, float)) for name, v in columns.items()},
        attrs={"kind": "latent", "ref_id": "latent.fits", "detector": "MIRIFUSHORT", "full_well": 55000.0},
    )


def make_rate(slopes: np.ndarray, starts: np.ndarray, setting: str = "12A", name: str = "a") -> xr.Dataset:
    """Return rate data of slopes (dither, y, x) [DN/s] that start at times [s]."""
    dims = ("dither", "y", "x")
    n = len(slopes)
    start = 59760.0 + np.asarray(starts) / DAY
    coords = {"y": np.arange(slopes.shape[1]), "x": np.arange(slopes.shape[2]), **dither_coords(n, setting)}
    coords["start_time"] = ("dither", start, {"units": "d"})
    coords["mid_time"] = ("dither", start + 0.5 * LENGTH / DAY, {"units": "d"})
    coords["exposure"] = ("dither", np.array([f"{name}{i}" for i in range(n)]))
    attrs = {**detector_attrs("rate", setting, N_GROUPS, N_INTEGRATIONS), "group_time": GROUP_TIME}
    ones = np.ones(slopes.shape, "f4")
    variables = {
        "rate": (dims, slopes.astype("f4"), {"units": "DN/s"}), "var_poisson": (dims, 0.01 * ones, {"units": "DN2/s2"}),
        "var_read": (dims, 0.01 * ones, {"units": "DN2/s2"}), "dq": (dims, 0 * ones.astype("u4"), dq.PIXEL_DQ_ATTRS),
    }  # fmt: skip
    return xr.Dataset(variables, coords, attrs)


def ramp_slopes(truth: list[np.ndarray], starts: np.ndarray, share=SHARE) -> list[np.ndarray]:
    """Return the slopes that line fits find where traps fill and empty in small steps of time.

    truth : slopes of the sky (y, x) [DN/s] of each exposure, in the order of their starts [s].
    """
    trapped = np.zeros((len(TAU), *truth[0].shape))
    found, clock = [], starts[0]
    for slope, start in zip(truth, starts, strict=True):
        trapped *= np.exp(-(start - clock) / TAU)[:, None, None]
        fits = []
        for _ in range(N_INTEGRATIONS):
            counts, groups, dt = np.zeros_like(slope), [], GROUP_TIME / 8
            for step in range(N_GROUPS * 8):
                latent = trapped.sum(axis=0)
                counts = counts + dt * (slope + latent)
                trapped += dt * (share[:, None, None] * (slope + latent) - trapped) / TAU[:, None, None]
                if step % 8 == 7:
                    groups.append(counts)
            fits.append(np.polyfit(np.arange(N_GROUPS) * GROUP_TIME, np.reshape(groups, (N_GROUPS, -1)), 1)[0])
        found.append(np.mean(fits, axis=0).reshape(slope.shape))
        clock = start + LENGTH
    return found


def a_bright_star_and_what_follows():
    """Return truth and measured slopes of five exposures: a star, two settings in turn after it."""
    rng = np.random.default_rng(1)
    sky = [rng.uniform(0, 2, (NY, NX)) for _ in range(5)]
    sky[0][2:4, 3:5] += 2000.0
    sky[2][1, 1] += 500.0
    starts = np.array([0.0, 260.0, 600.0, 1000.0, 2500.0])
    return sky, ramp_slopes(sky, starts), starts


def test_latents_are_removed_to_less_than_five_per_cent():
    sky, measured, starts = a_bright_star_and_what_follows()
    own = make_rate(np.stack([measured[i] for i in (0, 2, 4)]), starts[[0, 2, 4]])
    other = make_rate(np.stack([measured[i] for i in (1, 3)]), starts[[1, 3]], "12B", "b")
    total, left = [], []
    for ds, history, indices in ((own, other, (0, 2, 4)), (other, own, (1, 3))):
        out = subtract_latents(ds, latent=make_latent(), history=history)
        for d, i in enumerate(indices):
            own_part = ramp_slopes([sky[i]], starts[[i]])[0]  # what the exposure traps and releases itself stays
            total.append(measured[i] - own_part)
            left.append(out.rate.values[d] - own_part)
    total, left = np.stack(total), np.stack(left)
    assert total.max() > 1.0
    assert np.abs(left).max() < 0.02 * total.max()
    bright = total > 0.05
    assert bright.sum() > 8
    assert (np.abs(left[bright]) < 0.05 * total[bright]).all()


def test_flags_and_variance_follow_the_latent():
    _, measured, starts = a_bright_star_and_what_follows()
    ds = make_rate(np.stack(measured), starts)
    out = subtract_latents(ds, latent=make_latent(), n_sigma=3.0)
    latent = ds.rate.values - out.rate.values
    flagged = dq.has(out.dq.values, "PERSISTENCE")
    np.testing.assert_array_equal(flagged, latent > 3 * np.sqrt(0.02))
    assert flagged[1:3, 2:4, 3:5].all()
    assert not flagged[0].any()
    error = np.sqrt(out.var_latent.values[flagged]) / latent[flagged]
    assert (error <= 0.1001).all()
    assert (error >= 0.1 / np.sqrt(3) - 1e-3).all()
    assert out.var_latent.attrs["units"] == "DN2/s2"


def test_the_state_carries_over_to_another_run():
    _, measured, starts = a_bright_star_and_what_follows()
    ds = make_rate(np.stack(measured), starts)
    whole = subtract_latents(ds, latent=make_latent())
    early, late = ds.isel(dither=slice(0, 2)), ds.isel(dither=slice(2, None))
    state = latent_state(early, latent=make_latent())
    np.testing.assert_allclose(
        subtract_latents(late, latent=make_latent(), state=state).rate.values, whole.rate.values[2:], rtol=1e-6
    )
    np.testing.assert_allclose(
        subtract_latents(late, latent=make_latent(), history=[early]).rate.values, whole.rate.values[2:], rtol=1e-6
    )
    assert state.latent_slope.dims == ("component", "y", "x")
    assert state.attrs["time"] == pytest.approx(59760.0 + (starts[1] + LENGTH) / DAY, abs=1e-9)


def test_the_order_of_the_dithers_does_not_matter_and_names_count_once():
    _, measured, starts = a_bright_star_and_what_follows()
    ds = make_rate(np.stack(measured), starts)
    turned = ds.isel(dither=[3, 0, 4, 2, 1])
    wanted = subtract_latents(ds, latent=make_latent()).rate
    found = subtract_latents(turned, latent=make_latent(), history=[ds])
    np.testing.assert_array_equal(found.rate.values, wanted.values[[3, 0, 4, 2, 1]])
    np.testing.assert_array_equal(found.exposure.values, turned.exposure.values)


def test_saturated_pixels_leave_more():
    slopes = np.zeros((2, NY, NX))
    slopes[0] = 1000.0
    slopes[0, 0, 1], slopes[0, 0, 2] = np.nan, np.nan
    ds = make_rate(slopes, np.array([0.0, 300.0]))
    ds.dq.values[0, 0, :2] = dq.SATURATED
    latent = ds.rate.values[1] - subtract_latents(ds, latent=make_latent()).rate.values[1]
    assert latent[0, 0] == pytest.approx(3 * latent[1, 1], rel=1e-5)
    assert latent[0, 1] == pytest.approx(3 * latent[1, 1] * 55000 / GROUP_TIME / 1000, rel=1e-5)
    assert latent[0, 2] == 0.0
    assert np.isnan(subtract_latents(ds, latent=make_latent()).rate.values[0, 0, 1])


def test_step_keeps_its_promises():
    _, measured, starts = a_bright_star_and_what_follows()
    ds = make_rate(np.stack(measured[2:]), starts[2:])
    before = make_rate(np.stack(measured[:2]), starts[:2], "12B", "b")
    out = assert_step(subtract_latents, ds, latent=make_latent(), history=[before])
    assert out.rate.dtype == np.float32
    lazy = [d.assign({n: d[n].chunk({"dither": 1}) for n in d.data_vars}) for d in (before, ds)]
    with no_compute():
        state = latent_state(lazy, latent=make_latent())
    assert state.latent_slope.chunks is not None


def test_mean_decay_is_that_of_a_line_fit():
    t = (np.arange(4000) + 0.5) / 4000 * 100.0
    for tau in (5.0, 60.0, 1e5):
        current = np.exp(-np.concatenate([t, t + 100]) / tau)
        fits = [np.polyfit(t, np.cumsum(part) * 100.0 / 4000, 1)[0] for part in np.split(current, 2)]
        assert mean_decay(200.0, np.array([tau]), 2, "parabola")[0] == pytest.approx(np.mean(fits), rel=5e-3)
        assert mean_decay(200.0, np.array([tau]), 2, "uniform")[0] == pytest.approx(current.mean(), rel=1e-3)


def test_errors_name_what_is_wrong():
    ds = make_rate(np.ones((1, NY, NX)), np.array([0.0]))
    with pytest.raises(ReferenceFileError, match=r"latent.fits has no amplitude_err"):
        subtract_latents(ds, latent=make_latent().drop_vars("amplitude_err"))
    with pytest.raises(ReferenceFileError, match="is of MIRIFULONG, the data are of MIRIFUSHORT"):
        subtract_latents(ds, latent=make_latent().assign_attrs(detector="MIRIFULONG"))
    with pytest.raises(ReferenceFileError, match="decay times above 0"):
        subtract_latents(ds, latent=make_latent(decay_time=-TAU))
    with pytest.raises(MrsxrError, match="weighting is 'x'; expected one of parabola, uniform"):
        subtract_latents(ds, latent=make_latent(), weighting="x")
    with pytest.raises(MrsxrError, match="n_sigma is 0"):
        subtract_latents(ds, latent=make_latent(), n_sigma=0)
    with pytest.raises(MrsxrError, match="differ in detector: MIRIFUSHORT and MIRIFULONG"):
        subtract_latents(ds, latent=make_latent(), history=ds.assign_attrs(detector="MIRIFULONG"))
    with pytest.raises(LevelError, match="level rate, got cal"):
        subtract_latents(ds, latent=make_latent(), history=ds.assign_attrs(level="cal"))
    with pytest.raises(MrsxrError, match="has no start time"):
        subtract_latents(ds.assign_coords(start_time=ds.start_time * np.nan), latent=make_latent())
    with pytest.raises(MrsxrError, match="not of 3 components of MIRIFUSHORT"):
        subtract_latents(ds, latent=make_latent(), state=xr.Dataset())
    with pytest.raises(MrsxrError, match="at least one exposure"):
        latent_state([], latent=make_latent())


def test_joined_exposures_count_their_own_integrations():
    ds = make_rate(np.ones((2, NY, NX)), np.array([0.0, 1000.0]))
    two = [ds.isel(dither=[k]).assign_attrs(n_integrations=n) for k, n in ((0, 3), (1, 5))]
    ds = join_dithers(two)
    assert [_integrations(_Exposure(ds, i, 0.0, 1.0)) for i in (0, 1)] == [3, 5]
    ds = two[0]
    assert _integrations(_Exposure(ds.assign_attrs(n_integrations=2), 0, 0.0, 1.0)) == 2
