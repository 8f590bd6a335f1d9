"""Apertures: overlaps, clipping, centre, radii, corrections."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from astropy.stats import sigma_clipped_stats
from photutils.aperture import CircularAperture
from test_extract_1d import make_cube

from mrsxr import mrs
from mrsxr.errors import MrsxrError, MrsxrWarning
from mrsxr.spectrum import aperture, centre
from mrsxr.spectrum._aperture_kernels import clip_limits


@pytest.mark.parametrize(("method", "subpixels"), [("exact", 0), ("subpixel", 10)])
@pytest.mark.parametrize(("x", "y", "r"), [(10.3, 9.7, 4.2), (10, 9, 0.3), (10.49, 9.51, 0.9), (1.2, 0.1, 6.6)])
def test_overlap_equals_photutils(method, subpixels, x, y, r):
    shape = (20, 21)
    expected = CircularAperture((x, y), r).to_mask(method=method, subpixels=10).to_image(shape)
    found, ring = aperture.circle_shares(shape, (x, y), np.array([[r, 0.6 * r, 1.3 * r]]), subpixels)
    np.testing.assert_allclose(found[0], expected, atol=1e-12)
    parts = [CircularAperture((x, y), k * r).to_mask(method=method, subpixels=10).to_image(shape) for k in (0.6, 1.3)]
    np.testing.assert_allclose(ring[0], parts[1] - parts[0], atol=1e-12)


def test_overlap_of_the_whole_plane_and_of_nothing():
    (whole, none, small), ring = aperture.circle_shares(
        (5, 7), (3.0, 2.0), np.array([[np.inf], [0], [0.1]]) * [1, 1, 1], 0
    )
    assert (whole == 1.0).all()
    assert (none == 0.0).all()
    assert small.sum() == small[2, 3] == pytest.approx(np.pi * 0.01, rel=1e-12)
    assert (ring == 0.0).all()


def test_clipping_equals_astropy():
    values = np.random.default_rng(2).normal(10, 1, 300)
    values[:12] += np.linspace(3, 60, 12)
    mean, _, std = sigma_clipped_stats(values, sigma=3, maxiters=5)
    np.testing.assert_allclose(clip_limits(values, 3.0, 5), (mean - 3 * std, mean + 3 * std), rtol=1e-12)


def gaussian(shape, x, y, fwhm, flux=100.0):
    j, i = np.indices(shape)
    return flux * np.exp(-4 * np.log(2) * ((i - x) ** 2 + (j - y) ** 2) / fwhm**2)


@pytest.mark.parametrize(("x", "y"), [(12.31, 15.77), (5.0, 20.5), (16.49, 9.02)])
def test_source_is_found_to_a_twentieth_of_a_spaxel(x, y):
    rng = np.random.default_rng(1)
    image = 20 + gaussian((31, 27), x, y, 2.6) + rng.normal(0, 0.5, (31, 27))
    image[:3] = image[:, :3] = image[-3:] = np.nan
    image[8, 4] = np.nan
    found = centre.find_source(image, 2.4)
    assert np.hypot(found[0] - x, found[1] - y) < 0.05


def test_source_beside_the_missing_edge_is_not_pulled_inside():
    image = 5 + gaussian((25, 25), 4.6, 12.2, 2.6)
    image[:, :4] = np.nan
    found = centre.find_source(image, 2.6)
    assert np.hypot(found[0] - 4.6, found[1] - 12.2) < 0.05


def test_noise_and_emptiness_have_no_source():
    rng = np.random.default_rng(3)
    assert centre.find_source(rng.normal(0, 1, (25, 25)), 2.5) is None
    assert centre.find_source(np.full((25, 25), np.nan), 2.5) is None


def test_radii_by_rule_and_by_reference():
    wave = np.array([5.0, 10.0, 28.0])
    radius, inner, outer = aperture.aperture_radii(wave, None, 1.5)
    np.testing.assert_allclose(radius, 1.5 * mrs.psf_fwhm(wave))
    assert (inner > radius).all()
    assert (outer > inner).all()
    table = xr.Dataset(
        {
            "radius": ("wavelength", [1.0, 2.0]),
            "inner_background": ("wavelength", [2.0, 3.0]),
            "outer_background": ("wavelength", [3.0, 4.5]),
        },
        {"wavelength": [5.0, 10.0]},
    )
    radius, inner, outer = aperture.aperture_radii(np.array([5.0, 7.5, 11.0]), table, 3.0)
    np.testing.assert_allclose(radius, np.array([1.0, 1.5, 2.2]) * 1.5)
    np.testing.assert_allclose(inner, [2.0, 2.5, 3.2])
    np.testing.assert_allclose(outer, [3.0, 3.75, 4.8])
    with pytest.raises(MrsxrError, match="radius_factor"):
        aperture.aperture_radii(wave, None, 0.0)


@pytest.fixture
def apcorr():
    return xr.Dataset(
        {
            "radius": (("aperture", "wavelength"), [[0.5, 1.0], [1.0, 2.0]]),
            "correction": (("aperture", "wavelength"), [[1.4, 1.6], [1.2, 1.3]]),
        },
        {"wavelength": [5.0, 10.0]},
        {"ref_id": "apcorr_made.asdf"},
    )


def test_correction_is_linear_in_wavelength_and_radius(apcorr):
    found = aperture.aperture_correction(np.array([5.0, 7.5, 10.0]), np.array([0.75, 0.75, 2.0]), apcorr)
    np.testing.assert_allclose(found, [1.3, 1.5, 1.3])


@pytest.mark.parametrize(("wave", "radius", "expected"), [(4.0, 1.0, 1.2), (12.0, 1.0, 1.6), (5.0, 9.0, 1.2)])
def test_correction_is_clamped_with_a_warning(apcorr, wave, radius, expected):
    with pytest.warns(MrsxrWarning, match="outside"):
        found = aperture.aperture_correction(np.array([wave]), np.array([radius]), apcorr)
    np.testing.assert_allclose(found, [expected])


def test_correction_can_be_continued_as_a_straight_line(apcorr):
    found = aperture.aperture_correction(np.array([5.0, 4.0, 10.0]), np.array([1.5, 0.4, 2.0]), apcorr, "extrapolate")
    np.testing.assert_allclose(found, [1.0, 1.36, 1.3])
    with pytest.raises(MrsxrError, match="expected 'clamp' or 'extrapolate'"):
        aperture.aperture_correction(np.array([5.0]), np.array([1.0]), apcorr, "nearest")


def test_source_as_jwst_finds_it():
    image = 20 + gaussian((31, 27), 12.31, 15.77, 3.0) + np.random.default_rng(1).normal(0, 0.5, (31, 27))
    cube = xr.Dataset(
        {"flux": (("wavelength", "y", "x"), np.repeat(image[None], 3, axis=0))}, {"wavelength": [5.0, 5.1, 5.2]}
    )
    found = centre.find_source_dao(cube)
    assert np.hypot(found.x - 12.31, found.y - 15.77) < 0.15
    assert centre.find_source_dao(cube * 0 + 1.0) is None
    assert centre.find_source_dao(cube * np.nan) is None


def star(x, y, planes=8, signal=300.0, seed=2, shape=(27, 31), fwhm=3.4):
    """Return a cube of a lopsided star that is no Gaussian, with noise of its own in every plane."""
    j, i = np.indices(shape)
    core = (1 + ((i - x) ** 2 + 1.15 * (j - y) ** 2) / (0.9 * fwhm) ** 2) ** -2.5
    noise = np.random.default_rng(seed).normal(0, 1, (planes, *shape))
    flux = signal * core + 40 + noise
    cube = make_cube(flux)
    return cube.drop_attrs(deep=False).assign_attrs({k: v for k, v in cube.attrs.items() if not k.startswith("target")})


def place_of(cube, search="fit"):
    return centre.centre_of(cube, None, search, lambda w: 3.4 * cube.attrs["pixel_scale"])


def test_the_fitted_centre_is_judged_on_left_out_planes(monkeypatch):
    cube = star(14.31, 12.78)
    (x, y), judged = place_of(cube)
    (plain, _), none = place_of(cube, "daofind")
    assert none == {}
    value = float(judged["score_centering"])
    assert judged["score_centering"].attrs["held_out"] == "left-out planes"
    assert value < 1.0
    assert np.hypot(x - 14.31, y - 12.78) < 0.05
    find = centre.find_place
    monkeypatch.setattr(centre, "find_place", lambda *a, **k: replace(find(*a, **k), x=find(*a, **k).x + 0.7))
    (x, y), judged = place_of(cube)
    assert float(judged["score_centering"]) > 1.0
    assert x == plain


def test_a_slope_does_not_speak_for_the_place_that_it_draws_aside():
    y, x = np.mgrid[:25, :25]
    true, aside = centre.Place(12.2, 11.9), centre.Place(12.45, 12.15)
    image = centre.shape_of((x - true.x) ** 2 + (y - true.y) ** 2, 3.4) + 0.06 * (x + y)

    def on_a_flat_field(place):
        near = np.hypot(x - 12.3, y - 12.0) <= 1.5 * 3.4
        shape = centre.shape_of((x - place.x) ** 2 + (y - place.y) ** 2, 3.4)[near]
        terms = np.stack([shape, np.ones_like(shape)], axis=1)
        return np.linalg.lstsq(terms, image[near], rcond=None)[1][0]

    assert on_a_flat_field(aside) < on_a_flat_field(true)
    assert centre._left(image, true, 3.4, (12.3, 12.0)) < 0.1 * centre._left(image, aside, 3.4, (12.3, 12.0))


def test_a_source_is_not_given_up_for_target_coordinates_with_nothing_there(monkeypatch):
    """The distance of the target from itself is 0: that "fit" finds nothing is judged on what is seen."""
    cube = star(24.3, 13.2)
    ra, dec = aperture.pixel_to_sky(cube, 12.0, 13.0)
    cube = cube.assign_attrs(target_ra=ra, target_dec=dec)
    with pytest.warns(MrsxrWarning, match=r"1\.6 arcsec from the target"):
        (plain, _), _ = place_of(cube, "daofind")
    monkeypatch.setattr(centre, "find_place", lambda *a, **k: None)
    with pytest.warns(MrsxrWarning, match=r"1\.6 arcsec from the target"):
        (x, _), judged = place_of(cube)
    assert judged["score_centering"].attrs["held_out"] == "left-out planes"
    assert float(judged["score_centering"]) > 1
    assert x == plain


def test_of_two_sources_the_target_tells(monkeypatch):
    cube = star(8.2, 9.1)
    brighter = star(22.4, 18.3, signal=900.0)
    cube["flux"] = cube.flux + brighter.flux - 40
    ra, dec = aperture.pixel_to_sky(cube, 8.6, 9.4)
    here = cube.assign_attrs(target_ra=ra, target_dec=dec)
    with pytest.warns(MrsxrWarning, match="a brighter place"):
        (x, y), judged = place_of(here)
    assert np.hypot(x - 8.2, y - 9.1) < 0.2
    assert judged["score_centering"].attrs["held_out"] == "the target coordinates"
    assert 0 < float(judged["score_centering"]) < 0.1
    (x, _), judged = place_of(cube)  # no target: both are at the brighter one
    assert abs(x - 22.4) < 0.2
    assert judged["score_centering"].attrs["held_out"] == "left-out planes"
