"""The compiled parts of the fringe fits against slow obvious versions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import LSQUnivariateSpline, pchip

from mrsxr.fringes import _sine_kernels as sines
from mrsxr.fringes import _spline_kernels as splines


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.mark.parametrize("reach", [1, 2])
def test_envelopes_are_monotone_cubics_through_troughs_and_peaks(rng, reach):
    signal = np.cumsum(rng.standard_normal(200)) + 10
    lower, upper = np.empty((2, 200))
    splines.envelopes(signal, reach, lower, upper)
    for sign, found in ((-1, lower), (1, upper)):
        places = [0]
        for k in range(reach, 200 - reach):
            others = [signal[k + s] for s in range(-reach, reach + 1) if s]
            if all(sign * signal[k] > sign * o for o in others):
                places.append(k)
        places.append(199)
        np.testing.assert_allclose(found, pchip(places, signal[places])(np.arange(200)), rtol=1e-10)


def slow_tall_features(signal, limit):
    """The rule of jwst's find_lines in plain Python."""
    keep, check = np.ones(signal.size, bool), signal.copy()
    peaks, troughs = [], []
    for k in range(1, signal.size - 1):
        if np.allclose(signal[k - 1 : k + 2], 0):
            continue
        if signal[k] > signal[k - 1] and signal[k] > signal[k + 1]:
            peaks.append(k)
        if signal[k] < signal[k - 1] and signal[k] < signal[k + 1]:
            troughs.append(k)
    for k in peaks:
        if signal[k] > limit[k]:
            for at in (k - 1, k, k + 1):
                near = sorted(troughs, key=lambda t, at=at: (abs(t - at), t))[:2]
                if near:
                    check[min(near) : max(near)] = 0
                    keep[min(near) : max(near)] = False
    keep[check > 2 * limit] = False
    return keep


def test_tall_features(rng):
    signal = np.abs(rng.standard_normal(300)) * 0.05
    signal[100:110] += np.hanning(10)
    signal[200] = 5.0
    limit = np.full(300, 0.2)
    keep = np.ones(300, bool)
    splines.mask_tall_features(signal, limit, keep)
    np.testing.assert_array_equal(keep, slow_tall_features(signal, limit))
    assert not keep[104]
    assert keep.mean() > 0.9


@pytest.mark.parametrize("degree", [1, 2])
def test_spline_is_that_of_fitpack(rng, degree):
    x = np.sort(rng.uniform(0, 10, 400))
    y = np.sin(x) + 0.1 * rng.standard_normal(400)
    weights = rng.uniform(0.2, 1, 400)
    places = np.r_[0, np.arange(30, 390, 30), 399]
    out = np.empty(400)
    assert splines.fit_background(x, y, weights, x[places], degree, False, out)
    expected = LSQUnivariateSpline(x, y, x[places[1:-1]], w=weights, k=degree)(x)
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_robust_spline_leaves_out_an_outlier(rng):
    x = np.linspace(0, 10, 300)
    y = 5 + np.sin(x) + 0.01 * rng.standard_normal(300)
    y[150] += 3
    knots, out = x[np.r_[0:300:20, 299]], np.empty(300)
    assert splines.fit_background(x, y, np.ones(300), knots, 2, True, out)
    assert np.abs(out - 5 - np.sin(x)).max() < 0.05
    assert not splines.fit_background(x, y, np.zeros(300), knots, 2, True, out)


def test_knots_stand_at_the_edges_of_gaps():
    weights = np.ones(200)
    weights[61:75] = 1e-8
    knots = splines.choose_knots(200, 10, weights)
    assert {0, 199, 60, 75} <= set(knots)
    assert 10 <= knots.size <= 15
    np.testing.assert_array_equal(np.diff(splines.choose_knots(200, 10, np.ones(200)))[1:-1], 20)


def test_waves_are_exact():
    x = np.linspace(0, 300, 1000)
    cosine, sine = np.empty((2, 1000))
    sines.fill_waves(x, 0.345, cosine, sine)
    np.testing.assert_allclose(cosine + 1j * sine, np.exp(2j * np.pi * 0.345 * x), atol=2e-8)


def test_power_is_that_of_the_fourier_sum(rng):
    x, y, weights = np.sort(rng.uniform(0, 100, 500)), rng.standard_normal(500), rng.uniform(0, 1, 500)
    power = np.zeros(40)
    sines.add_power(x, y, weights, 0.2, 0.0025, power)
    mean = np.sum(weights * y) / weights.sum()
    frequency = 0.2 + 0.0025 * np.arange(40)
    wave = np.exp(2j * np.pi * frequency[:, None] * x)
    expected = np.abs((wave * weights * (y - mean)).sum(axis=1)) ** 2 / weights.sum()
    np.testing.assert_allclose(power, expected, rtol=2e-3, atol=1e-3)


def fit(x, y, **more):
    out = np.empty(x.size)
    options = {"robust": True, "unit": 1.0, "prior_range": 13.0, "always_one": False, "most": 10} | more
    count, first = sines.fit_sines(x, y, np.ones(x.size), 1 / 4.4, 1 / 1.4, out=out, **options)
    return count, first, out


def test_sines_are_found_and_refined(rng):
    x = np.linspace(0, 200, 900)
    truth = 0.05 * np.cos(2 * np.pi * x / 2.87 + 1) + 0.02 * np.sin(2 * np.pi * x / 2.6)
    y = truth + 0.002 * rng.standard_normal(900)
    y[400] = 1.0
    count, first, out = fit(x, y)
    assert 2 <= count <= 4
    assert abs(1 / first - 2.87) < 1e-3
    assert np.abs(out - truth).max() < 2e-3


def test_noise_has_no_evidence_of_a_sine_but_for_the_level_of_one(rng):
    x, y = np.linspace(0, 200, 900), 0.01 * rng.standard_normal(900)
    count, _, out = fit(x, y)
    assert count == 0
    assert (out == 0).all()
    assert fit(x, y, always_one=True)[0] >= 1


def test_pathological_columns_give_no_sines():
    x = np.linspace(0, 200, 100)
    for y in (np.zeros(100), np.ones(100)):
        assert (fit(x, y)[2] == 0).all()
    out = np.ones(100)
    assert sines.fit_sines(x, x, np.zeros(100), 0.2, 0.7, 3, True, 1.0, 13.0, True, out)[0] == 0
    assert (out == 0).all()


def test_beats_above_the_limit_are_rejected_from_node_to_node():
    from mrsxr.fringes._column_kernels import reject_beats

    x = np.arange(600.0)
    wave = 0.1 * np.sin(np.pi * x / 200) * np.cos(2 * np.pi * x / 10)  # three beats
    limit, rejected = np.full(600, 1.0), np.zeros(600, bool)
    limit[250:350] = 0.15
    found = wave.copy()
    reject_beats(found, limit, rejected)
    assert rejected[210:390].all()
    assert not rejected[:180].any()
    assert not rejected[420:].any()
    assert (found[rejected] == 0).all()
    np.testing.assert_array_equal(found[~rejected], wave[~rejected])
