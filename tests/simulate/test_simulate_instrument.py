from __future__ import annotations

import itertools

import numpy as np
import pytest

from mrsxr import mrs
from mrsxr.errors import ReferenceFileError
from mrsxr.geometry.detector import detector_to_slicer, slice_map, slicer_to_detector
from mrsxr.references import distortion as geometry_files
from mrsxr.simulate import instrument, write_geometry

SETTINGS = ["12A", "34C"]


@pytest.fixture(scope="module", params=SETTINGS)
def geometry(request):
    return instrument.make_geometry(request.param)


@pytest.fixture(scope="module")
def pixels(geometry):
    return instrument.footprints(geometry)


def model_of(geometry):
    return geometry.distortion.merge(geometry.specwcs, combine_attrs="override")


def test_footprints_agree_with_the_geometry_room(geometry, pixels):
    for here in pixels.values():
        some = slice(None, None, 37)
        alpha, beta, wave = detector_to_slicer(here.x[some], here.y[some], here.label[some], model_of(geometry))
        np.testing.assert_allclose(here.alpha[some], alpha, atol=1e-9)
        np.testing.assert_allclose(here.beta[some], beta, atol=1e-9)
        np.testing.assert_allclose(here.wavelength[some], wave, atol=1e-9)


def test_inverse_polynomials_close_below_a_hundredth_of_a_pixel(geometry, pixels):
    for band, here in pixels.items():
        x, y, label = slicer_to_detector(here.alpha, here.beta, here.wavelength, band, model_of(geometry))
        assert np.abs(x - here.x).max() < 0.01
        assert np.abs(y - here.y).max() < 0.01
        np.testing.assert_array_equal(label, here.label)


def test_every_slice_is_lit_and_covers_the_band(geometry, pixels):
    for band, here in pixels.items():
        channel = int(band[0])
        labels = np.unique(here.label)
        np.testing.assert_array_equal(labels, 100 * channel + 1 + np.arange(mrs.N_SLICES[channel]))
        low, high = instrument.COMMON_RANGE[band]
        for label in labels:
            middle = (here.label == label) & (np.abs(here.alpha) < 0.2)
            assert here.wavelength[middle].min() < low + 0.002
            assert here.wavelength[middle].max() > high - 0.002


def test_signs_follow_the_instrument(pixels):
    for band, here in pixels.items():
        one = here.label == here.label[here.label.size // 2]
        row = one & (here.y == 500)
        column = one & (here.x == np.median(here.x[row]))
        along = np.polyfit(here.x[row], here.alpha[row], 1)[0]
        up = np.polyfit(here.y[column], here.wavelength[column], 1)[0]
        assert np.sign(along) == {"1": 1, "2": -1, "3": -1, "4": 1}[band[0]]
        assert np.sign(up) == (1 if band[0] in "12" else -1)
        assert np.all(here.alpha_high > here.alpha_low)
        assert np.all(here.wavelength_high > here.wavelength_low)


def test_gap_between_the_channels_is_dark_and_planes_shrink(geometry):
    planes = geometry.regions.regions.values
    gap = slice(503, 517) if geometry.setting.startswith("12") else slice(474, 508)
    assert not planes[0, 50:974, gap].any()
    lit = [(plane > 0).sum() for plane in planes]
    assert all(a > b for a, b in itertools.pairwise(lit))
    np.testing.assert_array_equal(slice_map(geometry.regions), planes[7])
    np.testing.assert_array_equal(planes[7] > 0, geometry.throughput >= 0.8)


@pytest.mark.parametrize("kind", ["distortion", "specwcs", "wavelengthrange"])
def test_files_hold_the_same_geometry(tmp_path, kind):
    geometry = instrument.make_geometry("34A")
    made = getattr(geometry, kind)
    path = write_geometry(tmp_path / f"{kind}.asdf", made)
    read = getattr(geometry_files, f"read_{kind}")(path)
    for name in made.data_vars:
        np.testing.assert_allclose(read[name].values, made[name].values, rtol=1e-12, err_msg=name)


def test_missing_geometry_file_is_named(tmp_path):
    with pytest.raises(ReferenceFileError, match=r"12A.*distortion"):
        instrument.find_geometry_file("12A", tmp_path, "distortion")


@pytest.mark.shared
def test_flight_geometry_is_close_to_the_parametric_one(shared_data):
    flight = instrument.load_geometry("12A", shared_data / "coords_flt9")
    real = instrument.footprints(flight)["1A"]
    made = instrument.footprints(instrument.make_geometry("12A"))["1A"]
    for label in (101, 111, 121):
        a, b = (np.median(one.x[(one.label == label) & (one.y == 512)]) for one in (real, made))
        assert abs(a - b) < 4
    assert abs(real.wavelength.mean() - made.wavelength.mean()) < 0.02
    assert abs(real.y.size / made.y.size - 1) < 0.15
