"""Method "slices": its kernels against slow versions, and what it leaves of lines and of fringes."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from astropy.io import fits

from mrsxr.fringes import _cell_kernels as cells
from mrsxr.fringes import _line_kernels as lines
from mrsxr.fringes import correct_spectra, correct_where_gained
from mrsxr.fringes._level_kernels import local_level

LIGHT_SPEED = 299792.458


def slow_level(x, y, weights, at, width):
    u = (x - at) / width
    w = np.where(np.abs(u) < 3, weights * (1 - u**2 / 9) ** 4, 0.0)
    design = np.stack([np.ones_like(u), u, u**2], axis=1)
    normal = design.T @ (w[:, None] * design) + np.diag([0, 1e-3, 3e-3]) * w.sum()
    return np.linalg.solve(normal, design.T @ (w * y))[0]


def test_level_is_that_of_local_parabolas():
    rng = np.random.default_rng(4)
    x = np.sort(rng.uniform(700, 760, 500))
    y = 3 + 0.02 * (x - 730) + 0.3 * np.sin(x / 9)
    weights = rng.uniform(0.5, 2, x.size)
    weights[200:206] = 0
    out = np.empty(x.size)
    assert local_level(x, y, weights, 2.9, out)
    slow = [slow_level(x, y, weights, at, 1.45) for at in x]
    np.testing.assert_allclose(out, slow, rtol=3e-4)
    spoilt = y + np.where(np.abs(x - 730) < 0.5, 5.0, 0.0)
    other = np.empty(x.size)
    local_level(x, spoilt, weights, 2.9, other)
    far = np.abs(x - 730) > 0.5 + 1.45 * 4  # the window and a step between nodes
    np.testing.assert_allclose(other[far], out[far], rtol=1e-9)
    assert not local_level(x, y, 0 * weights, 2.9, out)


@pytest.mark.parametrize(("order", "number"), [(0, 5), (1, 13)])
def test_a_cell_and_its_hole_are_left_out_of_its_own_sums(order, number):
    moments = np.random.default_rng(1).uniform(size=(30, 13))
    out = np.zeros((30, 13))
    cells._along_blocks(moments, 0.8, 2, order, out)
    slow = [sum((0.8 ** abs(i - j) * moments[i] for i in range(30) if abs(i - j) > 2), np.zeros(13)) for j in range(30)]
    np.testing.assert_allclose(out[:, :number], np.array(slow)[:, :number], rtol=1e-12)


def test_faint_lines_are_masked_against_what_most_samples_follow():
    x = np.linspace(360, 400, 600)
    y = 2 + 0.01 * (x - 380) + 0.2 * np.exp(-0.5 * ((x - 371) / 0.3) ** 2)
    y += 0.02 * np.random.default_rng(2).standard_normal(x.size)
    e, keep = np.zeros((1, 600)), np.zeros((1, 600), dtype=bool)
    good = np.ones((1, 600), dtype=bool)
    lines.robust_residual(x, y, np.full(600, 0.02), good[0], 2.9, 6, e[0])
    lines.mask_lines(x[None], np.array([600]), e, good, keep)
    assert not keep[0, np.abs(x - 371) < 0.45].any()
    assert keep[0, np.abs(x - 371) > 2].mean() > 0.98


def made(seed=5, noise=0.004):
    """Return (wavelength, level, fringed) of a spectrum of 4B: dichroic fringes that beat and drift, steps of level."""
    rng = np.random.default_rng(seed)
    wave = np.linspace(20.70, 24.47, 620)
    k = 1e4 / wave
    level = 0.8 + 0.1 * (wave - 22) + 0.05 * np.tanh((wave - 22.5) / 0.4)
    phase = 2 * np.pi * (k / 0.357 + 0.4 * np.cos((k - k.min()) / 25))
    fringes = 0.012 * np.cos(phase) * (1 + 0.3 * np.sin(k / 12)) + 0.004 * np.cos(2 * np.pi * k / 0.363 + 1)
    return wave, level, level * (1 + fringes) * (1 + noise * rng.standard_t(6, k.size))


def share_kept(wave, level, fringed, at, sigma, height, **options):
    line = height * level * np.exp(-0.5 * ((wave / at - 1) * LIGHT_SPEED / sigma) ** 2)
    plain, more = (correct_spectra(wave, f, method="slices", **options)[0] for f in (fringed, fringed + line))
    near = np.abs(wave / at - 1) * LIGHT_SPEED < 2 * sigma
    expected = line * plain / fringed
    return (more - plain)[near].sum() / expected[near].sum()


def test_lines_like_fringes_are_kept_and_fringes_fall():
    wave, level, fringed = made()
    clean, _ = correct_spectra(wave, fringed, channel=4, method="slices")
    inner = slice(20, -20)
    assert np.std((clean / level)[inner]) < 0.7 * np.std((fringed / level)[inner])
    for at, sigma, height in ((21.4, 90.0, 0.06), (22.6, 150.0, 0.1), (23.5, 220.0, 0.25)):
        assert share_kept(wave, level, fringed, at, sigma, height, channel=4) == pytest.approx(1, abs=0.03)


def test_what_gains_is_taken_and_the_rest_stays():
    wave, level, fringed = made()
    out, variance, score = correct_where_gained(wave, fringed, channel=4, method="slices")
    assert score < 0.9
    assert (variance > 0).any()
    noise = level * (1 + 0.01 * np.random.default_rng(3).standard_normal(wave.size))
    out, variance, score = correct_where_gained(wave, noise, channel=4, method="slices")
    assert not score < 1
    np.testing.assert_array_equal(out, noise)
    assert not variance.any()


@pytest.mark.shared
def test_lines_in_a_measured_star(shared_data):
    path = shared_data / "calibrators_mirideep" / "hd163466_0624_per_dither.fits.gz"
    with gzip.open(path) as raw, fits.open(raw) as file:
        table = file["CH3_LONG"].data
        wave, flux = table["WAVELENGTH"].astype(float), table["FLUX_D2"].astype(float)
    good = np.isfinite(flux) & (flux > 0)
    wave, flux = wave[good], flux[good]
    level = np.polyval(np.polyfit(wave - wave.mean(), flux, 5), wave - wave.mean())
    clean, _ = correct_spectra(wave, flux, channel=3, method="slices")
    assert np.std((clean / level)[50:-50]) < 0.85 * np.std((flux / level)[50:-50])
    kept = [share_kept(wave, level, flux, at, 130.0, 0.07, channel=3) for at in (15.9, 16.6, 17.2)]
    np.testing.assert_allclose(kept, 1, atol=0.03)
