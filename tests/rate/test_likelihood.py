"""Ramp fits against stored results of jwst 3.0.0, against dense algebra, and against the truth of simulated ramps."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_step, make_ramp, make_reference
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsxr import dq
from mrsxr.errors import MrsxrError, MrsxrWarning
from mrsxr.rate._likelihood_kernels import find_jumps_gls, fit_gls
from mrsxr.rate.jump import flag_jumps
from mrsxr.rate.ramp_fit import fit_integrations, fit_ramps

STORED = Path(__file__).parents[1] / "parity" / "data" / "ramp_fit.npz"
GROUP_TIME, GAIN, NOISE = 2.775, 4.0, 6.0  # s, electron/DN, DN of one read
READ = np.float32(NOISE * np.sqrt(2))  # of a difference, as reference files have it, float32


def image(shape, value, dtype="f4"):
    return np.full(shape, value, dtype)


def noise_of(shape, gain=GAIN, noise=NOISE):
    return {"gain": make_reference("gain", gain=image(shape, gain)),
            "readnoise": make_reference("readnoise", read_noise=image(shape, noise * np.sqrt(2)))}  # fmt: skip


def ramps(rate, n_integration, n_group, shape, seed, hits=0.0, rise=100.0):
    """Poisson and read noise on a constant rate [DN/s]; hits of 5 to 5 * rise sigma in a fraction of the groups."""
    rng = np.random.default_rng(seed)
    size = (1, n_integration, n_group, *shape)
    steps = rng.poisson(rate * GROUP_TIME * GAIN, size) / GAIN
    hit = rng.random(size) < hits
    hit[:, :, 0] = False
    sigma = np.sqrt(2 * NOISE**2 + rate * GROUP_TIME / GAIN)
    steps = steps + np.where(hit, 5 * sigma * rise ** rng.random(size), 0)
    return (9000 + np.cumsum(steps, axis=2) + rng.normal(0, NOISE, size)).astype("f4"), hit


def as_ramp(sci, **attrs):
    return make_ramp(sci).assign_attrs(group_time=GROUP_TIME, **attrs)


# --- jwst ---


def stored_cases(algorithm):
    with np.load(STORED) as file:
        cases = json.loads(str(file["cases"]))
    found = [(n, case) for n, case in enumerate(cases) if case.get("algorithm", "OLS_C") == algorithm]
    return [pytest.param(n, case, id=f"{n}") for n, case in found]


def run(number, case):
    """Return our rate and rateints of a stored case, and jwst's arrays."""
    with np.load(STORED) as file:
        mine = {k.partition("_in_")[2]: file[k] for k in file.files if k.startswith(f"{number}_in_")}
        theirs = {k.partition("_out_")[2]: file[k] for k in file.files if k.startswith(f"{number}_out_")}
    ds = make_ramp(mine["data"][None]).assign_attrs(average_dark_current=np.float32(0.2))
    ds["group_dq"][:] = mine["group_dq"]
    ds["pixel_dq"][:] = mine["pixel_dq"]
    options = {k: case[k] for k in ("suppress_one_group", "firstgroup", "lastgroup") if k in case}
    options |= {"gain": make_reference("gain", gain=mine["gain"]),
                "readnoise": make_reference("readnoise", read_noise=mine["read_noise"])}  # fmt: skip
    if case["n_group"] == 1:  # jwst takes the level for a slope, whatever was asked for
        options["suppress_one_group"] = False
    algorithm = "likelihood" if case.get("algorithm") == "LIKELY" else "ols"
    return {"rate": fit_ramps(ds, method=algorithm, **options),
            "rateints": fit_integrations(ds, method=algorithm, **options)}, theirs  # fmt: skip


few_groups = pytest.mark.filterwarnings("ignore:12A. ramps of . group:mrsxr.errors.MrsxrWarning")
JWST_FLAGS = ~np.uint32(dq.FLAGS["UNRELIABLE_SLOPE"])  # which jwst does not set


@few_groups
@pytest.mark.parametrize(("number", "case"), stored_cases("OLS_C"))
def test_least_squares_equal_jwst(number, case):
    ours, theirs = run(number, case)
    # jwst gives slope 0 without a flag where no group is good, and a level for a slope where good groups stand alone
    refused = ((ours["rateints"].dq.values[0] & ~theirs["rateints_dq"] & 1) > 0).any(axis=0)
    assert refused.sum() <= 2
    for label, ds in ours.items():
        flags, expected = ds.dq.values[0] & JWST_FLAGS, theirs[f"{label}_dq"]
        same = np.broadcast_to(~refused, flags.shape)
        np.testing.assert_array_equal(flags[same], expected[same], err_msg=label)
        for name, key in (("rate", "data"), ("var_poisson", "var_poisson"), ("var_read", "var_rnoise")):
            good = same & ((flags & 1) == 0)
            np.testing.assert_allclose(ds[name].values[0][good], theirs[f"{label}_{key}"][good], rtol=5e-5, atol=1e-6)


@few_groups
@pytest.mark.parametrize(("number", "case"), stored_cases("LIKELY"))
def test_likelihood_equals_jwst(number, case):
    ours, theirs = run(number, case)
    for label, ds in ours.items():
        rate, expected = ds.rate.values[0], theirs[f"{label}_data"]
        sigma = np.sqrt(ds.var_poisson + ds.var_read).values[0]
        good = np.isfinite(rate)
        with np.errstate(invalid="ignore"):
            same = np.abs(rate - expected) <= 0.01 * sigma
            for name, key in (("var_poisson", "var_poisson"), ("var_read", "var_rnoise")):
                other = theirs[f"{label}_{key}"]
                same &= np.abs(ds[name].values[0] - other) <= 1e-3 * np.abs(other)
        # with two differences left jwst releases one, both or none by rounding
        assert same[good].mean() >= (0.999 if case["n_group"] > 6 else 0.95)
        np.testing.assert_array_equal(ds.dq.values[0][same] & JWST_FLAGS, theirs[f"{label}_dq"][same])
        assert ((ds.dq.values[0] & dq.DO_NOT_USE) > 0)[~good].all()  # jwst: NaN, often without a flag


# --- dense algebra ---


def dense(sci, flags, kappa_rate, slope_of=None):
    """Rate, its variances and chi2 of one ramp (group) with a full matrix; the covariance is that of a given rate."""
    use = np.nonzero((flags & 3) == 0)[0]
    t = use * GROUP_TIME
    response = np.ones(len(use)) if slope_of is None else slope_of(sci[use])
    d, dt = np.diff(sci[use]), np.diff(t)
    keep = np.array([not (flags[a + 1 : b + 1] & 4).any() for a, b in itertools.pairwise(use)])
    first = np.eye(len(use))[1:] - np.eye(len(use))[:-1]
    read = first @ np.diag((NOISE * response) ** 2) @ first.T
    photon = np.diag(kappa_rate * dt / GAIN * (response[1:] + response[:-1]) / 2)
    read, photon, d, dt = read[np.ix_(keep, keep)], photon[np.ix_(keep, keep)], d[keep], dt[keep]
    inverse = np.linalg.inv(read + photon)
    w = inverse @ dt / (dt @ inverse @ dt)
    rate = w @ d
    left = d - rate * dt
    return rate, w @ photon @ w, w @ read @ w, left @ inverse @ left / (len(d) - 1), len(d)


@given(seed=st.integers(0, 500), level=st.floats(0.5, 3.3))
@settings(max_examples=25, deadline=None)
def test_gls_equals_dense_algebra(seed, level):
    rng = np.random.default_rng(seed)
    sci, _ = ramps(10**level, 1, 9, (1, 33), seed)
    flags = np.where(rng.random(sci.shape) < 0.15, rng.choice([1, 4, 4, 64 | 1], sci.shape), 0).astype("u1")
    one = np.ones((1, 33), "f4")
    args = (READ * one, GAIN * one, 0 * one)
    for orders in ((), (0, 1, 2e-6, 1e-11), (0, 1, 2e-6, 1e-11, 0, 0, 1e-27)):
        linearity = (np.stack([c * one for c in orders]).astype("f4"), np.zeros((1, 33), bool)) if orders else ()
        out = fit_gls(
            sci, flags, np.zeros((1, 1, 33), "u4"), *args, *linearity, group_time=GROUP_TIME, find_jumps=False
        )
        rate, var_p, var_r, dq_out, _, _, chi2 = (a[0, 0] for a in out[:7])
        for x in range(33):
            expected = None
            if linearity:
                level_of, polynomial = np.linspace(0, 70000, 20001), np.polynomial.Polynomial(orders)

                def expected(v, p=polynomial, b=level_of):
                    return p.deriv()(np.interp(v, p(b), b))

            ramp, bits = sci[0, 0, :, 0, x].astype("f8"), flags[0, 0, :, 0, x]
            if ((bits & 3) == 0).sum() < 2 or np.isnan(rate[x]):
                assert dq_out[x] & dq.DO_NOT_USE
                continue
            found = dense(ramp, bits, max(rate[x], 0), expected)
            sigma = np.sqrt(found[1] + found[2])
            assert abs(rate[x] - found[0]) < 0.02 * sigma
            np.testing.assert_allclose((var_p[x], var_r[x]), found[1:3], rtol=0.02, atol=1e-3 * sigma**2)
            if found[4] > 1:
                np.testing.assert_allclose(chi2[x], found[3], rtol=0.05, atol=0.01)


def test_fall_of_chi2_equals_dense_algebra():
    """A jump is flagged where leaving its difference free lowers chi2 by the threshold, and not where by less."""
    sci, _ = ramps(30, 1, 8, (1, 32), 3)
    sci[0, 0, 4:] += np.linspace(0, 120, 32)
    one = np.ones((1, 32), "f4")
    args = (READ * one, GAIN * one, 0 * one)
    none = np.zeros(sci.shape, "u1")
    out, _ = find_jumps_gls(sci, none, *args, group_time=GROUP_TIME, threshold_two_omit=1e9)
    plain = fit_gls(sci, none, np.zeros((1, 1, 32), "u4"), *args, group_time=GROUP_TIME, find_jumps=False)
    for x in range(32):
        ramp = sci[0, 0, :, 0, x].astype("f8")
        start = max((ramp[-1] - ramp[0]) / 7 / GROUP_TIME, 0)  # the search begins with the covariance of the mean
        total = dense(ramp, none[0, 0, :, 0, x], start)[3] * 6
        falls = []
        for k in range(1, 8):
            flags = none[0, 0, :, 0, x].copy()
            flags[k] = 4
            falls.append(total - dense(ramp, flags, start)[3] * 5)
        if abs(max(falls) - 20.25) > 0.5:
            assert bool(out[0, 0, :, 0, x].any()) == (max(falls) > 20.25)
            if max(falls) > 20.25:
                assert out[0, 0, 1 + int(np.argmax(falls)), 0, x] == dq.JUMP_DET
    assert 5 < (out > 0).any(axis=(1, 2, 3)).sum() < 32
    assert np.isfinite(plain[0]).all()


# --- truth ---


@pytest.mark.parametrize(("rate", "n"), [(0.1, 5), (1, 2), (10, 1), (100, 1), (2000, 1)])
def test_slopes_are_true(rate, n):
    found, errors, jumps, size = [], [], 0, 0
    for seed in range(n):
        sci, _ = ramps(rate, 2, 40, (64, 256), seed)
        one = np.ones((64, 256), "f4")
        out = fit_gls(sci, np.zeros(sci.shape, "u1"), np.zeros((1, 64, 256), "u4"), READ * one,
                      GAIN * one, 0 * one, group_time=GROUP_TIME)  # fmt: skip
        found.append(out[0].ravel().astype("f8"))
        errors.append(np.sqrt(out[1].astype("f8") + out[2]).ravel())
        jumps, size = jumps + int(out[5].sum()), size + sci.size
    found, errors = np.concatenate(found), np.concatenate(errors)
    pull = (found - rate) / errors
    uncertain = found.std() / np.sqrt(found.size)
    assert abs(found.mean() - rate) < 1e-3 * rate + 3 * uncertain
    assert abs(pull.std() - 1) < 0.03
    assert jumps / size < 1e-4
    np.testing.assert_allclose(np.mean(out[6]), 1, atol=0.01)


@pytest.mark.parametrize("rate", [0.1, 30, 300, 2000])
def test_cosmic_rays_are_found(rate):
    sci, hit = ramps(rate, 2, 40, (48, 256), 5, hits=0.005)
    one = np.ones((48, 256), "f4")
    args = (READ * one, GAIN * one, 0 * one)
    flags, _ = find_jumps_gls(sci, np.zeros(sci.shape, "u1"), *args, group_time=GROUP_TIME)
    found = (flags & 4) > 0
    assert found[hit].mean() > 0.98
    assert (found & ~hit).mean() < 1e-4
    out = fit_gls(sci, np.zeros(sci.shape, "u1"), np.zeros((1, 48, 256), "u4"), *args, group_time=GROUP_TIME)
    assert abs(int(out[5].sum()) - int(found.sum())) <= 2
    again = fit_gls(sci, flags, np.zeros((1, 48, 256), "u4"), *args, group_time=GROUP_TIME, find_jumps=False)
    np.testing.assert_array_equal(again[5], out[5])
    pull = (out[0] - rate) / np.sqrt(out[1] + out[2])
    assert abs(np.median(pull)) < 0.1
    assert abs(1.4826 * np.median(np.abs(pull - np.median(pull))) - 1) < 0.05


def test_what_is_found_in_a_pixel_rests_on_it_alone():
    """The search goes on in pixels with jumps, put together as they come: which others there are changes nothing."""
    sci, _ = ramps(50, 2, 20, (3, 200), 6, hits=0.01, rise=20.0)
    order = np.random.default_rng(1).permutation(200)
    one = np.ones((3, 200), "f4")
    args = (READ * one, GAIN * one, 0 * one)
    whole, shuffled, alone = (
        find_jumps_gls(np.ascontiguousarray(part), np.zeros(part.shape, "u1"),
                       *(np.ascontiguousarray(a[:, : part.shape[-1]]) for a in args), group_time=GROUP_TIME)
        for part in (sci, sci[..., order], sci[..., :33])
    )  # fmt: skip
    for first, second, third in zip(whole, shuffled, alone, strict=True):
        assert first.any()
        np.testing.assert_array_equal(first[..., order], second)
        np.testing.assert_array_equal(first[..., :33], third)


@pytest.mark.parametrize("rate", [0.5, 40, 900])
def test_no_ramp_with_a_jump_is_passed_over(rate):
    """The search looks closer at suspicious ramps alone; that of the fit looks at all of them, and finds no more."""
    sci, _ = ramps(rate, 2, 24, (40, 256), 8, hits=0.01, rise=1.5)  # many at the limit
    flags = np.random.default_rng(9).choice([0, 1, 2, 4], size=sci.shape, p=[0.9, 0.06, 0.02, 0.02]).astype("u1")
    one = np.ones((40, 256), "f4")
    args = (READ * one, GAIN * one, 0 * one)
    found, _ = find_jumps_gls(sci, flags, *args, group_time=GROUP_TIME)
    cut = fit_gls(sci, found, np.zeros((1, 40, 256), "u4"), *args, group_time=GROUP_TIME, find_jumps=False)[12]
    whole = fit_gls(sci, flags, np.zeros((1, 40, 256), "u4"), *args, group_time=GROUP_TIME)[12]
    assert (found != flags).mean() > 0.002
    assert (cut != whole).sum() <= 2  # a fall that equals the limit


def test_a_lost_group_costs_little():
    sci, _ = ramps(2, 1, 20, (16, 64), 1)
    ds = as_ramp(sci)
    whole = fit_ramps(ds, method="gls", **noise_of((16, 64)))
    ds.group_dq[:, :, 5] = dq.DO_NOT_USE
    bridged = fit_ramps(ds, method="gls", **noise_of((16, 64)))
    gap = fit_ramps(ds, method="likelihood", **noise_of((16, 64)))
    total = [float((out.var_poisson + out.var_read).mean()) for out in (whole, bridged, gap)]
    assert total[0] < total[1] < 1.05 * total[0]
    assert total[2] > 1.2 * total[0]
    assert (bridged.groups_used == 19).all()


def test_one_spike_is_two_differences():
    sci = np.zeros((1, 1, 12, 2, 40), "f4") + 100 * np.arange(12, dtype="f4")[:, None, None]
    sci[0, 0, 6, 0, 5] += 200
    out = fit_ramps(as_ramp(sci), method="gls", **noise_of((2, 40)))
    assert out.n_jumps.values[0, 0, 5] == 2
    assert out.n_jumps.sum() == 2
    assert out.groups_used.values[0, 0, 5] == 11
    np.testing.assert_allclose(out.rate, 100 / GROUP_TIME, rtol=1e-4)


# --- promises, pathologies, parameters ---


@pytest.mark.parametrize("algorithm", ["likelihood", "gls"])
def test_likelihood_steps_keep_their_promises(algorithm):
    sci, _ = ramps(40, 2, 10, (9, 40), 2, hits=0.01)
    ds = as_ramp(sci, average_dark_current=0.2)
    ds.group_dq[:, :, -1] = dq.DO_NOT_USE
    linearity = make_reference("linearity", dq=image((9, 40), 0, "u4"), coefficients=(("order", "y", "x"), np.stack(
        [image((9, 40), v) for v in (0, 1, 1e-6, 1e-12)])))  # fmt: skip
    options = {"method": algorithm, "linearity": linearity, **noise_of((9, 40))}
    rate = assert_step(fit_ramps, ds, **options)
    each = assert_step(fit_integrations, ds, **options)
    assert rate.n_jumps.sum() == each.n_jumps.sum() > 0
    assert json.loads(rate.attrs["history_json"])[-1]["refs"]["linearity"] == "linearity_made.fits"


def test_jump_step_flags_neighbours_across_blocks():
    sci = np.full((1, 1, 14, 12, 8), 1000.0, "f4")
    sci[0, 0, 7:, 3, 4] += 500
    noise = noise_of((12, 8))
    assert_step(flag_jumps, as_ramp(sci), method="likelihood", **noise)
    for chunk in (1, 3, 4, 12):
        ds = as_ramp(sci).chunk({"dither": 1, "y": chunk})
        out = flag_jumps(ds, method="likelihood", **noise).group_dq.values[0, 0]
        assert set(zip(*np.nonzero(out[7]), strict=True)) == {(3, 4), (2, 4), (4, 4), (3, 3), (3, 5)}
        assert not np.delete(out, 7, axis=0).any()
    alone = flag_jumps(as_ramp(sci), method="likelihood", flag_4_neighbors=False, **noise).group_dq.values
    assert np.argwhere(alone).tolist() == [[0, 0, 7, 3, 4]]
    short = as_ramp(sci).isel(group=slice(0, 2))
    assert not flag_jumps(short, method="likelihood", **noise).group_dq.values.any()


@pytest.mark.parametrize("algorithm", ["likelihood", "gls"])
def test_pathologies_give_flags(algorithm):
    sci = np.full((1, 2, 6, 3, 8), 1000.0, "f4")
    ds = as_ramp(sci)
    ds.group_dq[..., 0, 0] = dq.SATURATED
    ds.group_dq[:, :, 1:, 0, 1] = dq.SATURATED
    ds.sci[..., 0, 2] = np.nan
    ds.group_dq[0, 0, :, 0, 3] = dq.DO_NOT_USE
    ds.sci[0, 0, 3, 0, 4] = np.inf
    ds.pixel_dq[0, 0, 5] = dq.DO_NOT_USE
    gain, noise = image((3, 8), 4), image((3, 8), 8)
    gain[1, 0], gain[1, 1], noise[1, 2], noise[1, 3], noise[1, 4] = 0, np.nan, np.nan, 0, np.inf
    refs = {"gain": make_reference("gain", gain=gain), "readnoise": make_reference("readnoise", read_noise=noise)}
    out = fit_ramps(ds, method=algorithm, **refs)
    flags, rate = out.dq.values[0], out.rate.values[0]
    for place in ((0, 0), (0, 1), (0, 2), (0, 5), (1, 0), (1, 1), (1, 2), (1, 3)):
        assert flags[place] & dq.DO_NOT_USE, place
        assert np.isnan(rate[place]), place
        assert out.groups_used.values[0][place] == 0, place
    assert flags[0, 0] & flags[0, 1] & dq.SATURATED
    assert flags[1, 0] & flags[1, 1] & dq.NO_GAIN_VALUE
    for place in ((0, 3), (0, 4), (2, 2)):
        assert flags[place] == 0
        assert abs(rate[place]) < 1e-4
    assert (np.isnan(rate) == ((flags & 1) > 0)).all()
    with pytest.warns(MrsxrWarning, match="1 group give no slope"):
        one = fit_ramps(as_ramp(sci[:, :, :1]), method=algorithm, **noise_of((3, 8)))
    assert np.isnan(one.rate).all()
    assert (one.dq & dq.DO_NOT_USE).all()


@few_groups
def test_two_groups_and_a_hit_keep_the_smaller_step():
    sci = np.zeros((1, 1, 3, 1, 4), "f4")
    sci[0, 0, :, 0] = np.array([[0, 100, 5000], [0, 5000, 5100], [0, 100, 200], [0, 100, -5000]]).T
    out = fit_ramps(as_ramp(sci), method="gls", **noise_of((1, 4)))
    np.testing.assert_allclose(out.rate.values[0, 0, :3] * GROUP_TIME, 100, rtol=1e-3)
    assert out.n_jumps.values[0, 0].tolist() == [1, 1, 0, 1]


def test_jumps_that_were_flagged_are_cut_or_not():
    sci, _ = ramps(50, 1, 12, (2, 40), 4)
    ds = as_ramp(sci)
    ds.sci[:, :, 6:] += 3000
    ds.group_dq[:, :, 6] = dq.JUMP_DET
    refs = noise_of((2, 40))
    cut = fit_ramps(ds, method="gls", find_jumps=False, **refs)
    assert (cut.n_jumps == 1).all()
    assert (cut.dq == dq.JUMP_DET).all()
    np.testing.assert_allclose(cut.rate.mean(), 50, atol=1)
    assert fit_ramps(ds, method="gls", find_jumps=False, use_jump_flags=False, **refs).rate.mean() > 80
    found = fit_ramps(ds, method="gls", use_jump_flags=False, **refs)
    np.testing.assert_allclose(found.rate, cut.rate, rtol=1e-3)


def test_noise_follows_the_response():
    shape = (40, 128)
    rng = np.random.default_rng(1)
    steps = rng.poisson(1200 * GROUP_TIME * GAIN, (1, 1, 14, *shape)) / GAIN
    linear = 9000 + np.cumsum(steps, axis=2)
    raw = (np.sqrt(1 + 4 * 4e-6 * linear) - 1) / (2 * 4e-6) + rng.normal(0, 30, linear.shape)
    ds = as_ramp((raw + 4e-6 * raw**2).astype("f4"))
    linearity = make_reference("linearity", dq=image(shape, 0, "u4"), coefficients=(("order", "y", "x"), np.stack(
        [image(shape, v) for v in (0, 1, 4e-6)])))  # fmt: skip
    refs = noise_of(shape, noise=30)
    plain = fit_ramps(ds, method="gls", **refs)
    scaled = fit_ramps(ds, method="gls", linearity=linearity, scale_photon_noise=False, **refs)
    assert abs(float(scaled.chi2.mean()) - 1) < 0.02
    assert float(plain.chi2.mean()) > 1.1
    both = fit_ramps(ds, method="gls", linearity=linearity, **refs)
    assert float(both.var_poisson.mean()) > 1.1 * float(scaled.var_poisson.mean())


def test_unknown_words_and_limits_are_refused():
    ds, refs = as_ramp(np.zeros((1, 1, 6, 2, 4), "f4")), noise_of((2, 4))
    with pytest.raises(MrsxrError, match="method is 'ml'; expected one of ols, likelihood, gls"):
        fit_ramps(ds, method="ml", **refs)
    with pytest.warns(MrsxrWarning, match="leave no ramp of 6 groups"):
        fit_ramps(ds, firstgroup=4, lastgroup=4, **refs)
    with pytest.raises(MrsxrError, match="group_time"):
        flag_jumps(ds.assign_attrs(group_time=0.0), method="likelihood", **refs)
