"""Fringes of one spectrum as waves of learned power: predictions against a slow version, what is left, what is kept."""

from __future__ import annotations

import numpy as np

from mrsxr.fringes import _wave_kernels as kernels
from mrsxr.fringes import correct_spectra


def made():
    """Return (wavelength, level, fringed) of a spectrum of 1B: three periods near each other, a drift, a harmonic."""
    wave = np.linspace(5.7, 6.6, 1100)
    k = 1e4 / wave
    level = 3.0 + 0.4 * np.sin(wave * 2.0)
    drift = 0.8 * np.sin((k - k.min()) / 60)
    fringes = 0.012 * np.cos(2 * np.pi * k / 2.91 + drift) + 0.006 * np.cos(2 * np.pi * k / 3.04)
    fringes += 0.004 * np.cos(2 * np.pi * k / 2.78 + 1) + 0.002 * np.cos(2 * np.pi * k / 1.46)
    return wave, level, level * (1 + fringes) * (1 + 0.003 * np.random.default_rng(8).standard_normal(k.size))


def test_a_window_left_out_is_as_if_it_were_no_data():
    rng = np.random.default_rng(6)
    basis, used = rng.standard_normal((60, 12)), rng.uniform(1, 3, 60)
    used[20] = 0
    mean, precision = rng.standard_normal(60), rng.uniform(0.5, 2, 12)
    covariance, amplitude = kernels._posterior(basis, used, mean, precision)
    residual = mean - basis @ amplitude
    change, more = kernels._leave_window(basis @ covariance, basis, used, residual, 4, 22, 18, 27)
    rest = used.copy()
    rest[18:27] = 0
    slow_covariance = np.linalg.inv((basis.T * rest) @ basis + np.diag(precision))
    slow = slow_covariance @ (basis.T @ (rest * mean))
    np.testing.assert_allclose(amplitude + change, slow, rtol=1e-9)
    wave = np.where(np.arange(12) < 4, 0, basis[22])
    np.testing.assert_allclose(wave @ covariance @ wave + more, wave @ slow_covariance @ wave, rtol=1e-9)


def test_boxes_stand_out_of_what_is_fitted_without_them():
    """Boxes of bins that were fitted whole, in part, or not at all."""
    rng = np.random.default_rng(1)
    basis, whole, share = rng.standard_normal((80, 12)), rng.uniform(1, 3, 80), np.ones(80)
    share[[20, 24, 30, 31, 32, 50]] = 0, 0.3, 0.7, 0, 0.2, 0.9
    mean, precision = rng.standard_normal(80), rng.uniform(0.5, 2, 12)
    covariance, amplitude = kernels._posterior(basis, whole * share, mean, precision)
    full, gram = basis @ covariance @ basis.T, np.zeros((80, 17))
    for shift in range(-8, 9):
        gram[max(-shift, 0) : 80 - max(shift, 0), 8 + shift] = np.diag(full, shift)
    for first, last in ((18, 27), (0, 5), (28, 37), (30, 33), (60, 61), (20, 21), (46, 55)):
        rest = whole * share
        rest[first:last] = 0
        spread, slow = kernels._posterior(basis, rest, mean, precision)
        spread = (basis @ spread @ basis.T)[first:last, first:last] + np.diag(1 / whole[first:last])
        best = np.linalg.solve(spread, np.ones(last - first))
        found = kernels._stands_out(gram, whole, share, mean - basis @ amplitude, first, last)
        np.testing.assert_allclose(found, best @ (mean - basis @ slow)[first:last] / np.sqrt(best.sum()), rtol=1e-8)


def test_the_power_of_a_part_is_learned_without_what_lies_there():
    """As the power of all data is, by rows of the basis that are not there."""
    rng = np.random.default_rng(3)
    basis, used, n_smooth, active = rng.standard_normal((70, 9)), rng.uniform(1, 3, 70), 3, np.array([1, 2, 4])
    mean, power = rng.standard_normal(70), np.array([0.1, 0.4, 0.9, 0.4, 0.05, 0.2])
    precision = np.append(np.full(3, 2.5), np.tile(1 / power[active], 2))
    away = np.ones(70, bool)
    away[30:45] = False
    (whole, right), (lost, aside) = kernels._normal(basis, used, mean), kernels._normal(*(
        np.ascontiguousarray(a[~away]) for a in (basis, used, mean)))  # fmt: skip
    found = kernels._learn_without(whole - lost, right - aside, power, active, precision, n_smooth)
    again, own = power.copy(), precision.copy()
    again[active] = np.sqrt(power[active] * np.prod(power[active]) ** (1 / 3))
    own[n_smooth:] = np.tile(1 / again[active], 2)
    for _ in range(kernels.AGAIN):
        covariance = np.linalg.inv((basis[away].T * used[away]) @ basis[away] + np.diag(own))
        amplitude, spread = covariance @ (basis[away].T @ (used * mean)[away]), np.diag(covariance)
        new = np.zeros(6)
        for j, i in enumerate(active):
            at = [n_smooth + j, n_smooth + 3 + j]
            share = max(1 - 0.5 * spread[at].sum() / again[i], 0) + 0.5 * kernels.SPARSE
            new[i] = (0.5 * np.sum(amplitude[at] ** 2) / share) ** kernels.FASTER * again[i] ** (1 - kernels.FASTER)
        again = 0.5 * new + 0.25 * (np.append(new[1:], new[-1]) + np.insert(new[:-1], 0, new[0]))
        own[n_smooth:] = np.tile(1 / again[active], 2)
    np.testing.assert_allclose(found, own, rtol=1e-8)
    assert np.ptp(found[n_smooth:]) > 0


def test_bins_keep_weighted_means():
    rng = np.random.default_rng(2)
    x, y, weights = np.sort(rng.uniform(50, 60, 80)), rng.standard_normal(80), rng.uniform(0.5, 1, 80)
    middle, total, mean = np.empty(80), np.empty(80), np.empty(80)
    n, bins = kernels._fill_bins(x, y, weights, 0.7, middle, total, mean)
    assert n == len(np.unique(bins)) < 20
    for i in range(n):
        at = bins == i
        np.testing.assert_allclose(mean[i], np.average(y[at], weights=weights[at]))
        np.testing.assert_allclose(middle[i], x[at].mean())
        np.testing.assert_allclose(total[i], weights[at].sum())


def test_fringes_of_many_periods_fall_to_the_noise_and_lines_stay():
    wave, level, fringed = made()
    clean, variance = correct_spectra(wave, fringed, channel=1, method="slices")
    assert np.std((clean / level)[20:-20]) < 1.15 * 0.003 < 0.4 * np.std(fringed / level)
    assert (variance[20:-20] > 0).all()
    for at, sigma, height in ((5.93, 55.0, 0.04), (6.21, 110.0, -0.05), (6.4, 240.0, 0.08)):
        speed = (wave / at - 1) * 299792.458
        line = height * level * np.exp(-0.5 * (speed / sigma) ** 2)
        more, _ = correct_spectra(wave, fringed + line, channel=1, method="slices")
        near = np.abs(speed) < 3 * sigma
        np.testing.assert_allclose((more - clean)[near].sum() / (line * clean / fringed)[near].sum(), 1, atol=0.025)


def test_a_line_flips_no_choice_elsewhere():
    """Where and how wide a line is stays, however the boxes around it and elsewhere stand out."""
    wave, level, fringed = made()
    plain = correct_spectra(wave, fringed, channel=1, method="slices")[0]
    for at, height in ((5.735, 0.045), (6.06, 0.03), (6.555, 0.06)):
        speed = (wave / at - 1) * 299792.458
        line = height * level * np.exp(-0.5 * (speed / 130.0) ** 2)
        found = correct_spectra(wave, fringed + line, channel=1, method="slices")[0] - plain
        near, share = np.abs(speed) < 5 * 130.0, plain / fringed
        places = [np.average(speed[near], weights=one[near]) for one in (found, line * share)]
        assert abs(places[0] - places[1]) < 3.0
        np.testing.assert_allclose(found[near].sum() / (line * share)[near].sum(), 1, atol=0.02)


def test_a_comb_of_other_spacing_than_fringes_stays():
    """As of CO: lines at 3.75 to 4.05 1/cm, as wide as half of that."""
    wave, level, fringed = made()
    lines = 1e4 / 5.75 - 3.75 * np.arange(62) - 0.0024 * np.arange(62) ** 2
    comb = 0.025 * level * np.exp(-0.5 * ((1e4 / wave[:, None] - lines) / 0.9) ** 2).sum(axis=1)
    plain, more = (correct_spectra(wave, one, channel=1, method="slices")[0] for one in (fringed, fringed + comb))
    inner, wanted = slice(60, -60), comb * plain / fringed
    found, wanted = (((one / level) - np.convolve(one / level, np.ones(25) / 25, "same"))[inner] for one in
                     (more - plain, wanted))  # fmt: skip
    np.testing.assert_allclose(found @ wanted / (wanted @ wanted), 1, atol=0.15)
    assert np.std(plain[inner] / level[inner]) < 0.5 * np.std((fringed / level)[inner])


def test_noise_without_fringes_is_hardly_touched():
    wave, level, _ = made()
    flux = level * (1 + 0.004 * np.random.default_rng(4).standard_normal(wave.size))
    clean, _ = correct_spectra(wave, flux, channel=2, method="slices")
    assert np.std(clean / flux) < 0.0005
