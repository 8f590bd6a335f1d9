from __future__ import annotations

import numpy as np
import pytest

from mrsxr.simulate import exposure
from mrsxr.simulate._exposure_kernels import MAPS, fill_rows

GROUP_TIME = 2.77504


def ramps(rate=30.0, *, n_integrations=1, n_groups=12, rows=4, seed=5, first_row=0, **changed):
    """Raw ramps of a few rows of a plain detector, (integration, group, row, column)."""
    values = dict.fromkeys(MAPS, 0.0) | {"signal": rate, "bias": 10000.0, "gain": 4.0, "full_well": 60000.0}
    values |= {name: changed.pop(name) for name in MAPS if name in changed}
    maps = np.broadcast_to([values[name] for name in MAPS], (rows, 1032, len(MAPS))).copy()
    out = np.empty((n_integrations, n_groups, rows, 1032), dtype=np.uint16)
    shapes = np.zeros((3, n_integrations, n_groups))
    shapes[2] = changed.pop("offset", 0.0)
    timing = np.array([GROUP_TIME, float(changed.pop("photon_noise", True))])
    fill_rows(
        out, first_row, np.uint64(seed), maps, 0.0, shapes, np.zeros((n_integrations, n_groups, 4, 2)),
        changed.pop("hits", np.zeros((0, 3))),
        changed.pop("hit_start", np.zeros(n_integrations * 1024 + 1, dtype=np.int64)),
        changed.pop("showers", np.zeros((0, 8))), changed.pop("emi", np.zeros(3)), timing,
    )  # fmt: skip
    assert not changed
    return out


def test_noiseless_ramp_is_straight():
    out = ramps(30.0, photon_noise=False).astype(float)[0]
    expected = 10000.0 + 30.0 * GROUP_TIME * np.arange(1, 13)
    assert np.abs(out - expected[:, None, None]).max() <= 0.51


@pytest.mark.parametrize("rate", [0.6, 5.0, 200.0])
def test_differences_have_photon_and_read_noise(rate):
    out = ramps(rate, rows=8, n_groups=20, read_noise=6.0)[0].astype(float)
    steps = np.diff(out, axis=0)[:, :, 4:1028]
    mean = rate * GROUP_TIME
    assert steps.mean() == pytest.approx(mean, abs=5 * np.sqrt((mean / 4 + 72) / 20 / 8 / 1024))
    variance = mean / 4.0 + 2 * 6.0**2 + 2 / 12  # photon noise, two reads, rounding of both
    assert steps.var() == pytest.approx(variance, rel=0.02)
    neighbours = np.mean((steps[1:] - mean) * (steps[:-1] - mean))
    assert neighbours == pytest.approx(-36.0 - 1 / 12, rel=0.05)


def test_poisson_numbers_are_skewed_as_they_should_be():
    for rate in (1.0, 5.0):  # 11 and 55 electrons a group: both branches of the generator
        out = ramps(rate, rows=8, n_groups=30, gain=4.0)[0].astype(float)
        # electrons come in steps of a quarter DN: two rounded reads blur them by 2/12 DN2
        steps = np.diff(out, axis=0)[:, :, 4:1028]
        third = np.mean((steps - steps.mean()) ** 3) * 4.0**3
        assert third == pytest.approx(rate * GROUP_TIME * 4.0, rel=0.3)


def test_linearity_polynomial_undoes_the_detector():
    c2, c3 = 6e-7, 2e-12
    raw = ramps(300.0, c2=c2, c3=c3, photon_noise=False)[0].astype(float)
    linear = raw + c2 * raw**2 + c3 * raw**3
    steps = np.diff(linear, axis=0)
    assert np.abs(steps - 300.0 * GROUP_TIME).max() < 1.3
    assert np.diff(raw, axis=0)[-1].mean() < np.diff(raw, axis=0)[0].mean()


def test_bright_pixels_stop_at_the_full_well_and_at_16_bits():
    assert ramps(5000.0, full_well=53000.0, photon_noise=False).max() == 53000
    assert ramps(50000.0, full_well=90000.0, photon_noise=False).max() == 65535


def test_special_groups():
    offset = np.zeros((2, 6))
    offset[0, 0], offset[1] = -40.0, -20.0 * np.exp(-np.arange(6) / 0.45)
    offset[:, -1] += 35.0
    plain = ramps(10.0, n_integrations=2, n_groups=6, photon_noise=False).astype(int)
    out = ramps(10.0, n_integrations=2, n_groups=6, photon_noise=False, offset=offset).astype(int)
    change = (out - plain)[:, :, :, 500].mean(axis=-1)
    assert change[0, 0] == -40
    assert change[0, 1] == 0
    assert change[1, 0] == -20
    np.testing.assert_allclose(change[:, -1], 35, atol=1)  # rounded twice
    assert not (out - plain)[..., :4].any()  # reference pixels see none of it


def test_a_hit_stays_in_later_groups_of_its_integration():
    start = np.zeros(2 * 1024 + 1, dtype=np.int64)
    start[1024 + 3 :] = 1  # integration 1 (of 0, 1), row 2
    kwargs = {"n_integrations": 2, "photon_noise": False}
    out = ramps(hits=np.array([[7.0, 600.0, 4000.0]]), hit_start=start, **kwargs).astype(int)
    change = out - ramps(**kwargs).astype(int)
    assert change[1, 7:, 2, 600].tolist() == [1000] * 5
    change[1, 7:, 2, 600] = 0
    assert not change.any()


def test_rows_do_not_depend_on_the_block():
    whole = ramps(rows=6, read_noise=6.0)
    part = ramps(rows=3, first_row=3, read_noise=6.0)
    np.testing.assert_array_equal(whole[:, :, 3:], part)
    assert (ramps(rows=2) != ramps(rows=2, seed=6)).any()


def test_interference_follows_the_pixel_clock():
    out = ramps(0.0, photon_noise=False, emi=np.array([20.0, 10.039216, 0.3]), rows=8)[0].astype(float) - 10000
    y, x, group = 5, 403, 7
    time = 1e-5 * (y * 271 + x // 4) + GROUP_TIME * group
    assert out[group, y, x] == pytest.approx(20 * np.sin(2 * np.pi * 10.039216 * time + 0.3), abs=0.51)


def test_showers_glow_and_fade():
    shower = np.array([[0.0, 3.0, 2.0, 500.0, 20.0, 30.0, 400.0, 3.0]])
    out = ramps(0.0, showers=shower, photon_noise=False)[0].astype(float)
    steps = np.diff(out, axis=0)[:, 2]
    assert np.all(steps[:2, 500] == 0)
    assert steps[2, 500] == pytest.approx(100, abs=1)
    assert steps[5, 500] == pytest.approx(100 * np.exp(-1), abs=1)
    assert steps[2, 530] == pytest.approx(100 * np.exp(-0.5), abs=1)


def test_cosmic_rays_have_the_asked_rate_and_lie_on_the_detector():
    rays = exposure.make_cosmic_rays(np.random.default_rng(3), 60.0, 2, 40, GROUP_TIME)
    per_hit = 5 * 2.9  # samples of a track: itself and four neighbours
    expected = 60.0 * GROUP_TIME * 80 * per_hit
    assert rays.y.size == pytest.approx(expected, rel=0.2)
    assert rays.x.min() >= 4
    assert rays.x.max() < 1028
    key = rays.integration * 1024 + rays.y
    assert np.all(np.diff(key) >= 0)
    row = int(key[1000])
    np.testing.assert_array_equal(key[rays.start[row] : rays.start[row + 1]], row)
    none = exposure.make_cosmic_rays(np.random.default_rng(3), 0.0, 1, 5, GROUP_TIME)
    assert none.start[-1] == 0


def test_scattered_light_is_the_sum_over_sources_in_the_row():
    image = np.zeros((1024, 1032))
    image[300, 200], image[300, 700] = 100.0, 50.0
    out = exposure.scattered(image, "12A")
    table = exposure.artifact_tables()
    x = np.arange(1032.0)
    expected = np.zeros(1032)
    for band, column, flux in (("1A", 200, 100.0), ("2A", 700, 50.0)):
        row = {key: float(value[300]) for key, value in table[band].items()}
        half, sigma = row["LOR_FWHM"] / 2, row["GAU_FWHM"] / 2.3548
        dx = x - column
        kernel = row["LOR_SCALE"] * half**2 / (half**2 + dx**2)
        for k in (1, 2):
            for side in (-1, 1):
                offset = dx - side * k * row["GAU_XOFF"]
                kernel += row[f"GAU_SCALE{k}"] * np.exp(-0.5 * (offset / (k * sigma)) ** 2)
        expected += flux * kernel
    expected[:4] = expected[-4:] = 0
    np.testing.assert_allclose(out[300], expected, atol=1e-9)
    assert np.abs(out[301]).max() < 1e-12
