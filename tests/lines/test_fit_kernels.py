from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares
from scipy.special import ndtr

from mrsxr.lines import _descent_kernels as descent
from mrsxr.lines._fit_kernels import draw, fit
from mrsxr.lines._residual_kernels import correlation, fringe

C = 299792.458
MU0, STEP, INST = 12.8, 0.0025, 43.0
WAVE = MU0 + STEP * (np.arange(70) - 34.7)
LO, HI = WAVE - STEP / 2, WAVE + STEP / 2
HI[:-1] = LO[1:]
T = (WAVE - WAVE.mean()) / np.ptp(WAVE) * 2
OPTIONS = {"n_cont": 2, "both_signs": False, "narrowest": 0.7, "widest": 700.0}


def gaussian(flux, v, w, mu0=MU0):
    mu, s = mu0 * (1 + v / C), w * mu0 / C
    return flux * (ndtr((HI - mu) / s) - ndtr((LO - mu) / s)) / (HI - LO)


def run(values, errors, k_max=1, mu0=(MU0,), inst=(INST,), group=(0,), reach=(1000.0,), shape=None, **more):
    values = np.atleast_2d(values)
    spectra = (values, np.broadcast_to(errors, values.shape), LO, HI, T, np.ones_like(T) if shape is None else shape)
    options = {**OPTIONS, "k_max": k_max, "always": True, "limit_width": 100.0, **more}
    return fit(spectra, (mu0, inst, group, reach), **options)


def slow(values, errors, start, mu0=(MU0,)):
    """Fit by scipy: continuum, then flux, v, w of each component of one line."""

    def residual(p):
        model = p[0] + p[1] * T
        for i in range(2, len(p), 3):
            model = model + gaussian(*p[i : i + 3], mu0=mu0[0])
        return (values - model) / errors

    out = least_squares(residual, start, x_scale=np.abs(start) + 1e-3, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    return out.x, np.linalg.inv(out.jac.T @ out.jac), 2 * out.cost


def test_profile_is_the_mean_over_voxels_and_has_its_derivatives():
    mu, s = MU0 + 0.3 * STEP, 0.7 * STEP
    inv = np.linspace(1.0, 2.0, T.size)

    def mean(mu, s):
        fine = np.linspace(0, 1, 20001)[:, None] * (HI - LO) + LO
        return inv * np.trapezoid(np.exp(-0.5 * ((fine - mu) / s) ** 2) / s / np.sqrt(2 * np.pi), dx=5e-5, axis=0)

    basis, d_v, d_w = np.empty((3, T.size))
    descent.profile(LO, HI, inv, T.size, mu, s, 2.0, 3.0, basis, d_v, d_w)
    np.testing.assert_allclose(basis, mean(mu, s), atol=1e-6 * basis.max())
    e = 1e-6 * STEP
    np.testing.assert_allclose(d_v, 2 * (mean(mu + e, s) - mean(mu - e, s)) / 2 / e, atol=1e-5 * np.abs(d_v).max())
    np.testing.assert_allclose(d_w, 3 * (mean(mu, s + e) - mean(mu, s - e)) / 2 / e, atol=1e-5 * np.abs(d_w).max())


def test_voxels_without_a_common_edge_are_computed_on_their_own():
    gap = np.r_[0:30, 40:70]
    basis, d_v, d_w = np.empty((3, gap.size))
    descent.profile(LO[gap], HI[gap], np.ones(60), 60, MU0, 3 * STEP, 1.0, 1.0, basis, d_v, d_w)
    np.testing.assert_allclose(basis, gaussian(1.0, 0.0, 3 * STEP / MU0 * C)[gap], atol=1e-12 * basis.max())


@pytest.mark.parametrize("snr", [3.0, 30.0])
def test_one_component_agrees_with_scipy(snr):
    rng = np.random.default_rng(int(snr))
    truth = 5 + 0.3 * T + gaussian(1.0, 50.0, 108.0)
    errors = gaussian(1.0, 0.0, 108.0).max() / snr * np.linspace(0.8, 1.2, T.size)
    values = truth + errors * rng.normal(size=(5, T.size))
    out = run(values, errors)
    for i in range(5):
        x, cov, chi2 = slow(values[i], errors, [5.0, 0.3, 1.0, 50.0, 108.0])
        sigma = np.sqrt(np.diag(cov))
        assert np.abs((out["theta"][i, 0] - x) / sigma).max() < 2e-3
        np.testing.assert_allclose(np.sqrt(np.diag(out["cov"][i, 0])), sigma, rtol=5e-3)
        assert out["chi2"][i, 1] == pytest.approx(chi2, rel=1e-6)


def test_two_components_agree_with_scipy_from_no_start():
    rng = np.random.default_rng(5)
    parts = [(1.0, 20.0, 70.0), (0.7, -150.0, 220.0)]
    errors = np.full(T.size, 0.02 * gaussian(1.0, 0.0, 70.0).max())
    truth = 5 + 0.3 * T + sum(gaussian(*p) for p in parts)
    values = truth + errors * rng.normal(size=(4, T.size))
    out = run(values, errors, k_max=2)
    for i in range(4):
        x, cov, chi2 = slow(values[i], errors, [5.0, 0.3, *np.ravel(parts)])
        theta = out["theta"][i, 1].copy()
        order = np.argsort(theta[4::3])  # the narrow one first
        theta[2:] = theta[2:].reshape(2, 3)[order].ravel()
        assert np.abs((theta - x) / np.sqrt(np.diag(cov))).max() < 5e-3
        assert out["chi2"][i, 2] <= chi2 * (1 + 1e-6)
        keep = np.r_[0, 1, *(2 + 3 * o + np.arange(3) for o in order)]
        found, sigma = out["cov"][i, 1][np.ix_(keep, keep)], np.sqrt(np.diag(cov))
        np.testing.assert_allclose(np.sqrt(np.diag(found)), sigma, rtol=0.01)
        np.testing.assert_allclose(found / np.outer(sigma, sigma), cov / np.outer(sigma, sigma), atol=0.02)


def test_three_components_are_told_apart():
    parts = [(1.0, 0.0, 50.0), (0.5, -300.0, 60.0), (0.4, 350.0, 120.0)]
    truth = 2 + sum(gaussian(*p) for p in parts)
    out = run(truth, 0.01 * truth.max(), k_max=3)
    found = out["theta"][0, 2, 2:].reshape(3, 3)
    np.testing.assert_allclose(found[np.argsort(-found[:, 0])], parts, rtol=1e-3, atol=0.05)


def test_a_blend_with_tied_kinematics_shares_velocity_and_intrinsic_width():
    mu0, inst = (12.79, 12.82), (40.0, 60.0)
    widths = np.hypot(80.0, inst)
    truth = 3 + gaussian(1.0, 60.0, widths[0], mu0[0]) + gaussian(0.4, 60.0, widths[1], mu0[1])
    out = run(truth, 0.01 * truth.max(), mu0=mu0, inst=inst, group=(0, 0))
    theta, cov = out["theta"][0, 0], out["cov"][0, 0]
    np.testing.assert_allclose(theta[2:], [1.0, 60.0, widths[0], 0.4, 60.0, widths[1]], rtol=1e-4)
    assert cov[3, 3] == cov[6, 6]
    assert cov[7, 7] == pytest.approx(cov[4, 4] * (widths[0] / widths[1]) ** 2, rel=1e-3)
    free = run(truth, 0.01 * truth.max(), mu0=mu0, inst=inst, group=(0, 1), reach=(300.0, 300.0))
    assert free["cov"][0, 0, 3, 3] != free["cov"][0, 0, 6, 6]


def test_of_two_places_the_smaller_velocity_is_taken():
    mu0 = (MU0, MU0 * (1 + 450.0 / C))  # a lone line at the second place
    truth = 3 + gaussian(1.0, 10.0, 70.0, mu0[1])
    out = run(truth, 0.02 * truth.max(), mu0=mu0, inst=(INST, INST), group=(0, 0))
    assert out["theta"][0, 0, 3] == pytest.approx(10.0, abs=1.0)
    assert out["theta"][0, 0, 5] == pytest.approx(1.0, rel=0.01)


def test_fluxes_may_be_negative_for_one_component_only():
    truth = 5 - gaussian(1.0, 0.0, 100.0)
    errors = 0.02 * gaussian(1.0, 0.0, 100.0).max()
    one = run(truth, errors, both_signs=True)
    assert one["theta"][0, 0, 2] == pytest.approx(-1.0, rel=1e-3)
    two = run(truth, errors, k_max=2)
    assert (two["theta"][0, 1, [2, 5]] >= 0).all()


def test_polynomial_is_multiplied_by_its_shape():
    shape = 1 + 0.2 * T**2
    truth = shape * (4 + 0.5 * T) + gaussian(1.0, 0.0, 90.0)
    out = run(truth, 0.01 * truth.max(), shape=shape)
    np.testing.assert_allclose(out["theta"][0, 0], [4, 0.5, 1, 0, 90], rtol=1e-5, atol=1e-3)


def test_parameters_stop_at_their_bounds_and_say_so():
    truth = 5 + gaussian(1.0, 300.0, 90.0)
    out = run(truth, 0.01, reach=(200.0,))
    assert out["theta"][0, 0, 3] == 200.0
    assert out["status"][0, 0] & 2
    assert out["cov"][0, 0, 3, 3] == 0.0
    assert out["cov"][0, 0, 2, 2] > 0.0


def test_bad_spectra_are_left_out_without_harm():
    truth = 5 + gaussian(1.0, 0.0, 90.0)
    values = np.stack(
        [np.full(T.size, np.nan), truth, np.zeros(T.size), truth, np.where(np.arange(70) < 3, 1.0, np.nan)]
    )
    errors = np.full(values.shape, 0.05)
    errors[3] = 0.0
    out = run(values, errors, k_max=2)
    assert out["count"].tolist() == [0, 70, 70, 0, 3]
    assert (out["status"][[0, 3, 4]] == 0).all()
    assert np.isnan(out["theta"][[0, 3, 4]]).all()
    assert out["theta"][1, 0, 2] == pytest.approx(1.0, rel=1e-3)
    assert out["theta"][2, 0, 2] == 0.0


def test_limit_is_the_error_of_the_flux_at_fixed_shape():
    errors = np.full(T.size, 0.3)
    out = run(5 + 0 * T, errors)
    design = np.stack([np.ones_like(T), T, gaussian(1.0, 0.0, np.hypot(INST, 100.0))], axis=1) / 0.3
    expected = np.sqrt(np.linalg.inv(design.T @ design)[2, 2])
    assert out["limits"][0, 0] == pytest.approx(expected, rel=1e-9)


def test_draws_scatter_like_the_covariance_whatever_is_beside_them():
    errors = np.full(T.size, 0.03 * gaussian(1.0, 0.0, 108.0).max())
    values = 5 + gaussian(1.0, 50.0, 108.0) + errors * np.random.default_rng(2).normal(size=(3, T.size))
    out = run(values, errors)
    spectra = (values, np.broadcast_to(errors, values.shape), LO, HI, T, np.ones_like(T))
    facts = {**OPTIONS, "k_max": 1, "n_draws": 400}
    lines = ([MU0], [INST], [0], [1000.0])
    drawn = draw(spectra, lines, **facts, theta=out["theta"], components=[1, 0, 1], noise=[1.0, 1.0, 2.0],
                 seeds=np.array([7, 8, 9], dtype="u8"))  # fmt: skip
    sigma = np.sqrt(out["cov"][:, 0, [2, 3], [2, 3]])
    np.testing.assert_allclose(drawn[0, :, 0, :2].std(axis=0), sigma[0], rtol=0.12)
    np.testing.assert_allclose(drawn[2, :, 0, :2].std(axis=0), 2 * sigma[2], rtol=0.12)
    assert np.isnan(drawn[1]).all()
    part = tuple(a[2:] if a.ndim == 2 else a for a in spectra)
    alone = draw(part, lines, **facts, theta=out["theta"][2:], components=[1], noise=[2.0],
                 seeds=np.array([9], dtype="u8"))  # fmt: skip
    np.testing.assert_array_equal(alone[0], drawn[2])


def waves(values):
    """Return chance and amplitude of a wave in residuals with errors of 0.5, beside a line of width 50 km/s."""
    out = np.empty(2)
    voxels = (values * 2, np.full(values.size, 2.0), LO, HI, values * 2)
    fringe(voxels, values.size, np.array([0.0, 0.0, 1.0, 0.0, 50.0]), 2, np.array([MU0]), 1, out)
    return out


def test_waves_of_fringes_are_found_and_noise_is_not():
    rng = np.random.default_rng(3)
    noise = 0.5 * rng.normal(size=(300, T.size))
    chances = np.array([waves(n)[0] for n in noise])
    assert (chances < 0.01).mean() < 0.03
    chance, amplitude = waves(noise[0] + 1.5 * np.sin(2 * np.pi * 1e4 / WAVE / 2.9))
    assert chance < 1e-6
    assert amplitude == pytest.approx(1.5, rel=0.25)


def test_correlation_length_is_that_of_the_noise():
    rng = np.random.default_rng(4)
    white = rng.normal(size=(400, 200))
    lengths = np.array([correlation(row, 200) for row in white])
    assert np.mean(lengths == 1.0) > 0.95
    smooth = (white[:, :-2] + 2 * white[:, 1:-1] + white[:, 2:]) / 4  # correlations 2/3 and 1/6
    lengths = np.array([correlation(np.ascontiguousarray(row), row.size) for row in smooth])
    assert np.median(lengths) == pytest.approx(1 + 2 * (2 / 3 + 1 / 6), rel=0.15)


def doublet(gap, fluxes, v, width, noise, seed, n=3):
    """Return spectra of two lines, and the places and chi2 of the least of a fine grid of velocities and widths."""
    mu0 = (MU0, MU0 * (1 + gap / C))
    truth = 4 + 0.2 * T + sum(gaussian(f, v, width, mu) for f, mu in zip(fluxes, mu0, strict=True))
    values = truth + noise * np.random.default_rng(seed).normal(size=(n, T.size))
    least = np.full(n, np.inf)
    for u in np.arange(-500, 501, 4.0):
        for w in np.arange(36.0, 200.0, 4.0):
            design = np.stack([np.ones_like(T), T, *(gaussian(1.0, u, w, mu) for mu in mu0)], axis=1)
            rest = values.T - design @ np.linalg.lstsq(design, values.T, rcond=None)[0]
            least = np.minimum(least, (rest**2).sum(axis=0) / noise**2)
    return mu0, values, least


@pytest.mark.parametrize(
    ("gap", "fluxes", "v"), [(210.0, (1.0, 0.3), 240.0), (230.0, (0.35, 1.0), -190.0), (110.0, (1.0, 1.0), 100.0)]
)
def test_of_the_places_of_a_doublet_the_likely_one_is_found(gap, fluxes, v):
    """Chi2 has up to three minima over the velocity, half and whole gaps of the lines from each other."""
    noise = 0.02 * gaussian(1.0, 0.0, 55.0).max()
    mu0, values, least = doublet(gap, fluxes, v, 55.0, noise, seed=int(gap))
    out = run(values, noise, mu0=mu0, inst=(INST, INST), group=(0, 0))
    assert (out["chi2"][:, 1] < least + 1.0).all()
    np.testing.assert_allclose(out["theta"][:, 0, 3], v, atol=15.0)
    np.testing.assert_allclose(out["theta"][:, 0, [2, 5]], np.tile(fluxes, (3, 1)), atol=0.15)


def test_the_next_likely_place_is_told():
    noise = 0.1 * gaussian(1.0, 0.0, 70.0).max()
    mu0, values, _ = doublet(120.0, (1.0, 0.7), 0.0, 70.0, noise, seed=8, n=20)
    out = run(values, noise, mu0=mu0, inst=(INST, INST), group=(0, 0))
    told = np.isfinite(out["excess"][:, 0])
    assert told.sum() > 10
    for theta, other in zip(out["theta"][told, 0], out["other"][told, 0], strict=True):
        assert abs(other[3] - theta[3]) > 10.0
        assert other[3] == other[6]
        assert other[2] + other[5] == pytest.approx(theta[2] + theta[5], rel=0.25)
    assert np.isnan(out["other"][~told, 0]).all()


def test_no_other_place_is_told_of_lines_that_stand_apart_or_alone():
    noise = 0.05 * gaussian(1.0, 0.0, 60.0).max()
    mu0, values, _ = doublet(600.0, (1.0, 0.6), 50.0, 60.0, noise, seed=9)
    apart = run(values, noise, mu0=mu0, inst=(INST, INST), group=(0, 0))
    assert np.isinf(apart["excess"]).all()
    assert np.isinf(run(values, noise)["excess"]).all()
