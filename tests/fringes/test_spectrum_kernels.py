"""The 1-D fit "columns": number for number jwst's, and its parts against slow obvious versions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.stats import sigma_clipped_stats
from astropy.timeseries import LombScargle
from helpers import of_jwst
from scipy.interpolate import LSQUnivariateSpline

from mrsxr.fringes import _bayes_kernels as bayes
from mrsxr.fringes import _spectrum_kernels as kernels
from mrsxr.fringes import correct_spectra, spectrum_families

STORED = of_jwst("fringes_1d")
NAMES = ("one", "many", "both", "long", "holes", "faint", "deep", "clean")


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def stored(name):
    """Return (channel, wavelength, flux, relative change by jwst) of a stored spectrum."""
    channel, start, step = STORED[f"{name}_axis"]
    flux = STORED[f"{name}_flux"].astype(float)
    return int(channel), start + step * np.arange(flux.size), flux, STORED[f"{name}_ratio"]


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_those_of_jwst(name):
    channel, wave, flux, ratio = stored(name)
    out, _ = correct_spectra(wave, flux, channel=channel)
    with np.errstate(invalid="ignore", divide="ignore"):
        ours = np.where(flux > 0, out / flux - 1, 0.0)
    np.testing.assert_allclose(ours, ratio, rtol=0, atol=5e-8)
    assert np.ptp(ratio) > 1e-3
    if name == "deep":
        assert (ratio == 0).mean() > 0.5


@pytest.mark.parametrize("name", ["both", "holes"])
def test_order_of_samples_and_batches_change_nothing(name):
    channel, wave, flux, _ = stored(name)
    alone, _ = correct_spectra(wave, flux, channel=channel)
    back, _ = correct_spectra(wave[::-1], flux[::-1], channel=channel)
    np.testing.assert_array_equal(back[::-1], alone)
    both, _ = correct_spectra(wave, np.stack([flux, np.nan * flux, flux]), channel=channel)
    np.testing.assert_array_equal(both, np.stack([alone, np.nan * flux, alone]))


def test_unit_and_tolerance_matter_as_documented():
    channel, wave, flux, _ = stored("both")
    first, _ = correct_spectra(wave, flux, channel=channel)
    other, _ = correct_spectra(wave, 1e-8 * flux, channel=channel)
    assert 1e-6 < np.std(1e8 * other / first) < 2e-2
    channel, wave, flux, _ = stored("clean")
    early, late = (correct_spectra(wave, flux, channel=channel, tolerance=t)[0] for t in (1e-4, 0.0))
    again, _ = correct_spectra(wave, flux, channel=channel, tolerance=1e-10)
    assert np.std(early / late) > 20 * np.std(again / late)


def slow_knots(n, n_knots, weights, flux):
    """The rule of jwst's make_knots in plain Python."""
    step = n / n_knots
    start = [round(i * step) for i in range(n_knots)] + [n - 1]
    last = start[-1] - start[-2]
    knots = [0.0, *(i * step + last / 2 for i in range(n_knots)), n - 1.0]
    used = weights * (flux > 1e-3)
    more = []
    for k in range(n - 1):
        pair = used[k : k + 2]
        if pair.max() > 1e-3 and math.isclose(pair.max(), abs(pair[1] - pair[0]), rel_tol=0.1):
            place = k + int(np.argmax(pair))
            if place - 1 not in knots and place + 1 not in knots:
                more.append(place)
    return np.unique(np.array(knots + more).astype(int))


@pytest.mark.parametrize("n_knots", [9, 23, 100])
def test_knots(rng, n_knots):
    flux = rng.uniform(0.0, 3.0, 400)
    flux[300:] *= 1e-4
    weights = np.where(rng.random(400) < 0.1, 1e-8, flux / np.median(flux))
    weights[50:60] = 1e-8
    found = kernels.place_knots(400, n_knots, weights, flux)
    np.testing.assert_array_equal(found, slow_knots(400, n_knots, weights, flux))
    assert 0 < (found > 300).sum() < (found < 100).sum()


@pytest.mark.parametrize("degree", [1, 2])
def test_splines_are_those_of_fitpack_over_gaps_too(rng, degree):
    x = np.sort(rng.uniform(1.0, 1.2, 300))
    y = 5 + np.sin(80 * x) + 0.01 * rng.standard_normal(300)
    weights = y / np.median(y)
    weights[100:140] = 1e-8
    knots = x[[0, 30, 70, 99, 110, 120, 130, 140, 200, 250, 299]]
    out = np.empty(300)
    assert kernels.fit_continuum(x, y, weights, knots, degree, False, out)
    expected = LSQUnivariateSpline(x, y, knots[1:-1], w=weights, k=degree)(x)
    np.testing.assert_allclose(out, expected, rtol=1e-7)
    y[20] += 30.0
    assert kernels.fit_continuum(x, y, weights, knots, degree, True, out)
    assert abs(out[20] - expected[20]) < 0.05
    assert not kernels.fit_continuum(x, y, 0 * weights, knots, degree, False, out)


def test_features_are_clipped_as_by_astropy(rng):
    signal = np.abs(rng.standard_normal(500)) ** 3
    keep = np.ones(500, bool)
    kernels.clip_features(signal, 3.0, keep)
    _, median, spread = sigma_clipped_stats(signal, sigma_lower=np.inf, sigma_upper=3.0)
    np.testing.assert_array_equal(keep, signal < median + 3.0 * spread)
    assert 10 < (~keep).sum() < 200


def slow_drop(fit, limit):
    """The rule of jwst's check_res_fringes in plain Python, on envelopes of ours."""
    from mrsxr.fringes._spline_kernels import envelopes

    lower, upper, out = np.empty(fit.size), np.empty(fit.size), fit.copy()
    envelopes(fit, 1, lower, upper)
    inner = [k for k in range(1, fit.size - 1) if upper[k] < upper[k - 1] and upper[k] < upper[k + 1]]
    nodes = np.array([0, *inner, fit.size - 1])
    for k in np.nonzero(np.abs(lower) + np.abs(upper) > limit)[0]:
        j = np.searchsorted(nodes, k)
        out[nodes[j - 1] : nodes[j]] = 0
    return out


def test_beats_above_the_limit_are_dropped():
    k = np.arange(600.0)
    fit = 0.15 * np.cos(k / 3) + 0.1 * np.cos(k / 3.1)
    for limit in (0.2, 0.4, 0.45, 0.6):
        out = fit.copy()
        kernels.drop_beats(out, limit)
        np.testing.assert_array_equal(out, slow_drop(fit, limit))
    assert (out == fit).all()
    kernels.drop_beats(out, 0.4)
    assert 0 < (out == 0).mean() < 1


@pytest.mark.parametrize(("family", "step"), [((2.9, 1.5), 0.001), ((0.4, 0.15), 0.001)])
def test_period_is_the_best_of_the_grid(rng, family, step):
    period, half = family
    count = round(2 * half / step)
    for _ in range(5):
        k = np.linspace(1740, 2040, 900)[rng.random(900) < 0.9] / 1740
        y = 0.3 + 0.01 * rng.standard_normal(k.size)
        for _ in range(4):
            y += 0.01 * np.cos(2 * np.pi * k * 1740 / rng.uniform(period - half, period + half) + rng.uniform(0, 6))
        grid = np.linspace(period - half, period + half, count) / 1740
        best = grid[np.argmax(LombScargle(k, y).power(1 / grid))]
        found = bayes.strongest_period(k[::-1], y[::-1], grid[0], grid[1] - grid[0], count)
        assert found == pytest.approx(best, rel=1e-9)


def test_elimination(rng):
    a = rng.standard_normal((12, 12))
    b = rng.standard_normal(12)
    expected, (sign, log_det) = np.linalg.solve(a, b), np.linalg.slogdet(a)
    found = bayes.eliminate(a.copy(), 12, b)
    np.testing.assert_allclose(b, expected, rtol=1e-9)
    np.testing.assert_allclose(found, (sign, log_det), rtol=1e-9)
    assert bayes.eliminate(np.zeros((3, 3)), 3, np.ones(3))[0] == 0


def test_fits_come_to_the_minimum_where_asked(rng):
    x = np.linspace(1.0, 1.17, 800)
    truth = 0.02 * np.cos(2 * np.pi * 600 * x + 0.4) + 0.01 * np.sin(2 * np.pi * 640 * x)
    y, out = truth + 0.001 * rng.standard_normal(800), np.empty(800)
    grid = (1 / 900, (1 / 400 - 1 / 900) / 2999, 3000)
    n, frequency = bayes.fit_fringes(x, y, np.ones(800), *grid, 10, 1002.0, 0.0, out)
    assert n == 2
    np.testing.assert_allclose(np.sort(frequency), [600, 640], atol=0.2)
    assert np.std(out - truth) < 2 * 0.001 * np.sqrt(6 / 800)
    rough = np.empty(800)
    bayes.fit_fringes(x, y, np.ones(800), *grid, 10, 1002.0, 1e-4, rough)
    assert np.sum((y - rough) ** 2) > np.sum((y - out) ** 2)


def test_pathologies_stay_as_they_are():
    channel, wave, flux, _ = stored("one")
    part = np.where(np.arange(flux.size) < 40, flux, np.nan)
    for given in (np.full_like(flux, np.nan), 0 * flux, -flux, part):
        out, added = correct_spectra(wave, given, channel=channel)
        np.testing.assert_array_equal(out, given)
        assert not np.nansum(added)
    for wrong in (wave * np.nan, np.full_like(wave, 5.0), np.roll(wave, 1)):
        np.testing.assert_array_equal(correct_spectra(wrong, flux, channel=channel)[0], flux)
    out, _ = correct_spectra(wave, np.where(np.arange(flux.size) == 500, np.inf, flux), channel=channel)
    assert np.isfinite(np.delete(out, 500)).all()
    out, _ = correct_spectra(wave, flux, channel=channel, ignore=((0.0, 30.0),))
    np.testing.assert_array_equal(out, flux)
    constant, _ = correct_spectra(wave, np.ones_like(flux), channel=channel)
    np.testing.assert_allclose(constant, 1.0, atol=1e-3)
    assert spectrum_families(4).shape == (2, 5)
