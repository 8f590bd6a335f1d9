"""The judge of fringe corrections: true fringes gain, noise and copies of it do not, lines do not count."""

import numpy as np
import pytest

from mrsxr.fringes.judge import judge

K = np.linspace(1900.0, 2050.0, 800)[None].repeat(6, axis=0)
LEVEL = 100.0 * (1 + 0.3 * np.sin(K / 60))


def fringes(amplitude, period=2.9, phase=0.0):
    return 1 + amplitude * np.cos(2 * np.pi * K / period + phase + 0.2 * np.arange(6)[:, None])


def test_gain_where_fringes_are_predicted():
    rng, use = np.random.default_rng(1), np.ones(K.shape, dtype=bool)
    noise = 1 + 0.01 * rng.standard_normal(K.shape)
    flux, factor = LEVEL * fringes(0.02) * noise, fringes(0.02)
    assert judge(K, flux, factor, use, 2.9) < 0.5
    back = judge(K[:, ::-1], flux[:, ::-1], factor[:, ::-1], use, 2.9)
    assert back == pytest.approx(judge(K, flux, factor, use, 2.9), rel=1e-9)
    assert judge(K, flux, fringes(0.02, phase=np.pi), use, 2.9) > 1.5
    assert judge(K, flux, np.ones(K.shape), use, 2.9) == 1


def test_no_gain_in_noise():
    use = np.ones(K.shape, dtype=bool)
    taken = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        flux = LEVEL * (1 + 0.01 * rng.standard_normal(K.shape))
        taken += judge(K, flux, fringes(0.004, phase=rng.uniform(0, 6)), use, 2.9) < 1
    assert taken <= 1


def test_lines_and_blind_samples_do_not_count():
    rng, use = np.random.default_rng(2), np.ones(K.shape, dtype=bool)
    flux = LEVEL * fringes(0.02) * (1 + 0.01 * rng.standard_normal(K.shape))
    line = flux * (1 + 3.0 * np.exp(-0.5 * ((K - 1970) / 0.3) ** 2))
    assert judge(K, line, fringes(0.02), use, 2.9) < 0.5
    use[:, 200:300] = False
    blind = np.where(use, flux, np.nan)
    assert judge(K, blind, fringes(0.02), use, 2.9) < 0.5
    use[:, 10:] = False
    assert np.isnan(judge(K, flux, fringes(0.02), use, 2.9))


@pytest.mark.parametrize(("sign", "width"), [(1, 0.25), (-1, 0.35)])
def test_combs_of_lines_are_no_fringes(sign, width):
    """Lines at even distances, in emission and absorption, predicted as they are; a fringe that grows is one."""
    rng, use = np.random.default_rng(5), np.ones(K.shape, dtype=bool)
    away = (K + 1.3) % 3.1 - 1.55
    comb = 1 + sign * 0.06 * np.exp(-0.5 * (away / width) ** 2) * (1 + 0.4 * np.sin(K / 25))
    flux = LEVEL * comb * (1 + 0.01 * rng.standard_normal(K.shape))
    assert judge(K, flux, comb, use, 3.1) >= 1
    grown = 1 + (fringes(0.03, period=3.1) - 1) * (1 + 0.4 * np.sin(K / 25))
    assert judge(K, LEVEL * grown * comb[:, :1] * (1 + 0.01 * rng.standard_normal(K.shape)), grown, use, 3.1) < 0.5
