from __future__ import annotations

import numpy as np
import pytest

from mrsxr import mrs, units
from mrsxr.errors import MrsxrError
from mrsxr.geometry.detector import slicer_to_detector
from mrsxr.simulate import instrument, pointing, render, scene
from mrsxr.simulate._exposure_kernels import psf_in_pixels


@pytest.fixture(scope="module")
def geometry():
    return instrument.make_geometry("12A")


@pytest.fixture(scope="module")
def pixels(geometry):
    return instrument.footprints(geometry)["2A"]


@pytest.fixture(scope="module")
def aim():
    return pointing.aim_at(150.0, 20.0, 33.0, (0.1, -0.2), 1.00005, 15000.0)


def dark_scene(**parts):
    return scene.Scene(150.0, 20.0, background=scene.Background(scale=0.0), **parts)


def tiles(wavelength, step=0.02, half=9.0):
    """PSF on square tiles around the source, their radius and area."""
    edges = np.arange(-half, half, step)
    a, b = (v.ravel() for v in np.meshgrid(edges, edges + step / 2, indexing="ij"))
    shape = psf_in_pixels(a, a + step, b, np.full(a.size, step), np.full(a.size, wavelength), 0.0, 0.0,
                          scene.PSF_SIGMAS, scene.PSF_WEIGHTS, 0.0265, 0.05)  # fmt: skip
    return shape, np.hypot(a + step / 2, b), step**2


def test_encircled_energy_is_the_integral_of_the_psf():
    shape, radius, area = tiles(12.0)
    assert np.sum(shape) * area == pytest.approx(1.0, abs=2e-4)
    for r in (0.3, 0.6, 1.0, 2.0):
        found = np.sum(shape[radius < r]) * area
        assert found == pytest.approx(float(scene.encircled_energy(r, 12.0)), abs=4e-3)
    at_two_fwhm = scene.encircled_energy(2 * scene.psf_fwhm(12.0), 12.0)
    assert 0.85 < at_two_fwhm < 0.95


def test_psf_has_the_measured_width():
    shape, radius, _ = tiles(20.0, step=0.05)
    peak = shape.max()
    half = shape[np.argmin(np.abs(radius - 0.5 * scene.psf_fwhm(20.0)))]
    assert half / peak == pytest.approx(0.5, abs=0.05)
    assert scene.encircled_energy(1.0, 20.0, blur=0.3) < scene.encircled_energy(1.0, 20.0)


def test_line_keeps_its_flux_and_width():
    line = scene.Line("a", 8.0, 3e-17, velocity=100.0, fwhm=300.0)
    edges = np.linspace(7.9, 8.3, 3001)
    flux = scene.line_in_bins(line, 0.02, edges[:-1], edges[1:])  # Jy
    wave = 0.5 * (edges[1:] + edges[:-1])
    per_um = flux * 2.99792458e14 / wave**2 * 1e-26  # W/m2/um
    weight = per_um * np.diff(edges)
    assert weight.sum() == pytest.approx(3e-17, rel=1e-6)
    centre = np.sum(weight * wave) / weight.sum()
    assert centre == pytest.approx(8.0 * 1.02 * (1 + 100.0 / scene.C_KM_S), rel=1e-6)
    sigma = np.sqrt(np.sum(weight * (wave - centre) ** 2) / weight.sum())
    expected = centre * np.hypot(1 / mrs.resolving_power(centre), 300.0 / scene.C_KM_S) / 2.3548
    assert sigma == pytest.approx(expected, rel=1e-3)


def test_line_falls_on_the_row_that_the_geometry_predicts(geometry, pixels, aim):
    line = scene.Line("a", 8.0, 1e-16, fwhm=50.0)
    source = scene.PointSource(150.0, 20.0, scene.PowerLaw(0.0), (line,), redshift=0.01)
    bright = render.render(dark_scene(points=(source,)), aim, geometry, pixels).point
    alpha, beta = pointing.sky_to_slicer(150.0, 20.0, aim, "2A", geometry.distortion)
    model = geometry.distortion.merge(geometry.specwcs, combine_attrs="override")
    observed = 8.0 * 1.01 * (1 + aim.velosys / 299792458.0)
    x, y, label = slicer_to_detector(alpha, beta, observed, "2A", model)
    here = (pixels.label == label) & (np.abs(pixels.y - y) < 12)
    weight = bright[here] * (pixels.wavelength_high - pixels.wavelength_low)[here]
    on_axis = np.abs(pixels.x[here] - x) < 1.0
    row = np.sum((weight * pixels.y[here])[on_axis]) / weight[on_axis].sum()
    assert row == pytest.approx(float(y), abs=0.1)
    column = np.sum(weight * pixels.x[here]) / weight.sum()
    assert column == pytest.approx(float(x), abs=0.1)


def test_point_source_flux_is_conserved(geometry, pixels, aim):
    source = scene.PointSource(150.0, 20.0, scene.PowerLaw(20.0, 0.0))
    bright = render.render(dark_scene(points=(source,)), aim, geometry, pixels).point
    some = np.abs(pixels.wavelength - 8.1) < 0.05
    area = (pixels.alpha_high - pixels.alpha_low) * pixels.width * (pixels.wavelength_high - pixels.wavelength_low)
    total = np.sum((bright * area)[some]) * units.MJYSR_TO_JY_PER_ARCSEC2 / 0.1
    in_field = float(scene.encircled_energy(2.0, 8.1))  # the field reaches 2 arcsec and more around the source
    assert in_field * 0.02 * 0.99 < total < 0.02 * 1.01


def test_disc_is_conserved_and_turns_the_right_way(geometry, pixels, aim):
    line = scene.Line("a", 8.1, 1e-16, fwhm=50.0)
    disc = scene.LineDisc(150.0, 20.0, scale_length=0.25, position_angle=90.0, rotation=300.0, turn=0.1, lines=(line,))
    bright = render.render(dark_scene(discs=(disc,)), aim, geometry, pixels).extended
    area = (pixels.alpha_high - pixels.alpha_low) * pixels.width * (pixels.wavelength_high - pixels.wavelength_low)
    weight = bright * area * units.MJYSR_TO_JY_PER_ARCSEC2 * 2.99792458e14 / pixels.wavelength**2 * 1e-26
    assert weight.sum() == pytest.approx(1e-16, rel=0.04)
    east = pointing.sky_to_slicer(150.0 + 0.5 / 3600 / np.cos(np.radians(20.0)), 20.0, aim, "2A", geometry.distortion)
    west = pointing.sky_to_slicer(150.0 - 0.5 / 3600 / np.cos(np.radians(20.0)), 20.0, aim, "2A", geometry.distortion)

    def velocity(place):
        near = np.hypot(pixels.alpha - place[0], pixels.beta - place[1]) < 0.4
        wave = np.sum((weight * pixels.wavelength)[near]) / weight[near].sum() / (1 + aim.velosys / 299792458.0)
        return (wave / 8.1 - 1) * scene.C_KM_S

    assert velocity(east) > 40
    assert velocity(west) < -40
    assert abs(velocity(east) + velocity(west)) < 25


def test_background_rises_and_scales():
    background = scene.Background()
    assert 5 < background(10.0) < 20
    assert 200 < background(25.0) < 600
    sky = scene.Scene(0.0, 0.0).brighter_background(1.5)
    assert sky.background(12.0) == pytest.approx(1.5 * background(12.0))
    assert not scene.Scene.default().empty().points
    own = scene.Scene(0.0, 0.0, background=lambda wavelength: 2.0 * wavelength).brighter_background(1.5)
    assert own.background(12.0) == pytest.approx(36.0)
    with pytest.raises(MrsxrError, match=r"background is 3\.0; expected a Background"):
        scene.Scene(0.0, 0.0, background=3.0)


def test_leak_adds_half_wavelength_light_to_3a_only(aim):
    source = scene.PointSource(150.0, 20.0, scene.PowerLaw(10.0, 0.0))
    geometry = instrument.make_geometry("34A")
    for band, pixels in instrument.footprints(geometry).items():
        with_leak = render.render(dark_scene(points=(source,)), aim, geometry, pixels, leak=True).point
        without = render.render(dark_scene(points=(source,)), aim, geometry, pixels).point
        ratio = with_leak.sum() / without.sum()
        assert (ratio > 1.001) == (band == "3A")
    assert render.leak_fraction(12.217) == pytest.approx(0.0275)


def test_target_lands_at_its_dither_offset(geometry):
    for offset in pointing.DITHERS["POINT"]:
        aim = pointing.aim_at(10.0, -70.0, 120.0, offset, 1.00007, 0.0)
        v2, v3 = pointing.sky_to_v2v3(10.0, -70.0, aim.pointing)
        assert -(v2 - pointing.V2_REF) == pytest.approx(offset[0], abs=1e-7)
        assert v3 - pointing.V3_REF == pytest.approx(offset[1], abs=1e-7)
