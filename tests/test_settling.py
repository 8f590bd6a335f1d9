"""Fits in rounds say whether they settled: each is given what does not, or what settles late."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mrsxr.cal.offsets import _settle
from mrsxr.geometry import sky
from mrsxr.lines import _excitation_fit as excitation
from mrsxr.lines._moment_kernels import ROUNDS, fit_continuum
from mrsxr.rate._likelihood_kernels import fit_gls
from mrsxr.simulate import simulate_spectrum
from mrsxr.spectrum import correct_wavelengths, measure_velocity, wavelengths
from mrsxr.spectrum._aperture_kernels import clip_limits
from mrsxr.spectrum._optimal_kernels import _fit_plane


def slow_continuum(values, t, clip, free, most=1000):
    """Return (samples used, whether they settled): a line, residuals above ``clip`` left out, some rounds freely."""
    used = np.ones(values.size, bool)
    for number in range(most):
        line = np.polyval(np.polyfit(t[used], values[used], 1), t)
        size = np.sort(np.abs(values - line)[used])
        m = size.size
        keep = np.abs(values - line) <= clip * 1.4826 * size[m // 2] * np.sqrt(m / (m - 2))
        keep &= used | (number < free)
        if (keep == used).all():
            return used, True
        used = keep
    return used, False


@pytest.mark.parametrize("seed", [59, 205, 311])
def test_side_bands_that_take_turns_settle(seed):
    """Clipped freely, these samples come and go for ever."""
    values, t = np.random.default_rng(seed).standard_t(1.5, 14), np.linspace(-1, 1, 14)
    assert not slow_continuum(values, t, 2.0, free=1000)[1]
    wanted, converged = slow_continuum(values, t, 2.0, free=ROUNDS)
    assert converged
    everywhere, used = np.ones(14, bool), np.zeros(14, bool)
    coefficients, inverse, work = np.zeros(2), np.zeros((2, 2)), np.zeros(14)
    count = fit_continuum(values, everywhere, everywhere, t, 2, 2.0, coefficients, inverse, used, work)
    np.testing.assert_array_equal(used, wanted)
    assert count == wanted.sum()
    np.testing.assert_allclose(coefficients[::-1], np.polyfit(t[used], values[used], 1))


def test_outliers_of_falling_size_are_all_rejected():
    """Each round takes the largest: forty of them take more rounds than a few."""
    y, x = np.mgrid[:21, :21] - 10.0
    profile = np.exp(-0.5 * (x**2 + y**2) / 9.0)
    flux = 50.0 * profile + np.random.default_rng(4).normal(0, 1e-3, profile.shape)
    hit = np.random.default_rng(2).permutation(np.flatnonzero(profile < 0.5))[:40]
    flux.ravel()[hit] += 1e7 * 0.6 ** np.arange(40)
    weight, out = np.ones(flux.shape), np.zeros(flux.shape)
    level, fitted = _fit_plane(flux, np.full(flux.shape, 1e-6), weight, profile, True, 5.0, 0.0, out)
    assert fitted
    assert not weight.ravel()[hit].any()
    assert np.sum(out * flux) == pytest.approx(50.0, abs=0.01)
    assert level == pytest.approx(0.0, abs=0.01)


def test_clipping_settles_or_ends_as_jwst_ends():
    values = np.concatenate([np.random.default_rng(6).normal(0, 1, 400), 8.0 * 1.35 ** np.arange(30)])
    low, high = clip_limits(values, 3.0, values.size)
    kept = values
    while (inside := kept[np.abs(kept - np.median(kept)) <= 3.0 * np.std(kept)]).size < kept.size:
        kept = inside
    assert (low, high) == pytest.approx((kept.mean() - 3 * kept.std(), kept.mean() + 3 * kept.std()))
    assert clip_limits(values, 3.0, 5)[1] > 1.05 * high


def test_two_temperatures_that_do_not_settle_are_lost(monkeypatch):
    energy = np.array([510.0, 1015.0, 1682.0, 2504.0, 3474.0, 4586.0])
    ln = np.log(np.exp(45.0 - energy / 250.0) + np.exp(40.0 - energy / 900.0))[:, None] * [1.0, 1.0]
    error = np.full(ln.shape, 0.05)
    found = excitation.fit_temperatures(energy, ln, error, 2)
    assert not found["not_converged"].any()
    assert 1 / found["slope"][0, 0] == pytest.approx(250.0, rel=0.02)
    monkeypatch.setattr(excitation, "_ROUNDS", 1)
    found = excitation.fit_temperatures(energy, ln, error, 2)
    assert found["not_converged"].all()
    assert np.isnan(found["slope"]).all()
    assert np.isnan(found["model"]).all()


def test_places_that_no_polynomial_reaches_are_lost():
    bent = np.array([[0.0, 0.1, 0.0], [1.0, 0.0, 0.0], [0.02, 0.0, 0.0]])  # v2 = alpha + 0.02 alpha^2 + 0.1 beta
    straight = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    alpha, beta = sky._invert(np.array([3.0, -60.0]), np.array([1.0, 1.0]), bent, straight)
    assert alpha[0] + 0.02 * alpha[0] ** 2 + 0.1 == pytest.approx(3.0, abs=1e-9)
    assert beta[0] == pytest.approx(1.0)
    assert np.isnan(alpha[1])


@pytest.mark.parametrize("find", [False, True])
@pytest.mark.parametrize(("n_int", "n_group", "slope"), [(1, 4, 8.0), (2, 25, 0.2), (1, 30, 300.0)])
def test_two_rounds_settle_slopes(find, n_int, n_group, slope):
    """Dense matrices, twenty rounds of rate and weights."""
    rng = np.random.default_rng(3)
    gain, read, n = 4.0, 5.0, 60
    light = np.cumsum(rng.poisson(slope * gain, (n_int, n_group, n)), axis=1) / gain
    sci = (8000 + light + rng.normal(0, read, light.shape)).astype("f4")
    shape = (1, n_int, n_group, 1, n)
    images = [np.full((1, n), v, "f4") for v in (read * np.sqrt(2), gain, 0.0)]
    flags = np.zeros(shape, "u1"), np.zeros((1, 1, n), "u4")
    found = fit_gls(sci.reshape(shape), *flags, *images, find_jumps=find)
    steps = np.diff(sci.astype(float), axis=1)
    band = read**2 * (2 * np.eye(n_group - 1) - np.eye(n_group - 1, k=1) - np.eye(n_group - 1, k=-1))
    for k in np.flatnonzero(found[5][0, 0] == 0):
        rate = steps[:, :, k].mean()
        for _ in range(20):
            weights = np.linalg.solve(band + max(rate, 0.0) / gain * np.eye(n_group - 1), np.ones(n_group - 1))
            rate = np.mean(steps[:, :, k] @ weights) / weights.sum()
        assert abs(found[0][0, 0, k] - rate) < 0.003 / np.sqrt(n_int * weights.sum())


def test_places_that_move_on_are_not_settled():
    fit = SimpleNamespace(place=np.zeros((2, 2)))

    def move(by):
        fit.place = by(fit.place)

    assert not _settle(lambda: move(lambda place: place + 0.01), fit, 30)
    assert fit.place[0, 0] == pytest.approx(0.3)
    assert _settle(lambda: move(lambda place: 0.5 * place), fit, 30)
    assert 0 < fit.place[0, 0] < 2e-4


def test_a_velocity_that_does_not_settle_is_none(monkeypatch):
    one, other = (simulate_spectrum(band="1C", snr=300, seed=k) for k in (1, 2))
    assert abs(measure_velocity(correct_wavelengths(one, velocity=-12.0), reference=other)[0] - 12.0) < 4.0
    monkeypatch.setattr(wavelengths, "_ROUNDS", 4)
    assert np.isnan(measure_velocity(one, reference=other)).all()
