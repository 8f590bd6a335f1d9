"""A trace model of several sources: the waves of each go, and the light of each stays where it is."""

import functools

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from star_scene import made, pixel_psf

from mrsxr import Recipe
from mrsxr.cal import fit_trace_model, measure_offsets, point_source, replace_pixels, subtract_point_source
from mrsxr.cube import build_cube
from mrsxr.errors import MrsxrError
from mrsxr.pipeline.cube_chain import make_target_cube
from mrsxr.traces import Pixels
from mrsxr.traces.fit import Fit
from mrsxr.traces.model import EDGE

FIRST, NEAR, FAR = (0.0, 0.0), (0.42, -0.30), (0.80, -0.70)  # arcsec
LIMITS = {"band": "1A", "wavelength_min": 5.0, "wavelength_max": 5.045}


def sky(place):
    return place[0] / 3600 % 360, place[1] / 3600


def pair(there, noise=0.3, stars=1):
    """Return a star and, somewhere, another of 0.6 of its light and another colour, in smooth light."""

    def rest(a, b, wave):
        other = 100 * (1 - 4 * (wave - 5.02)) * pixel_psf(a - there[0], b - there[1], wave)
        return stars * other + 20 + 3 * a - 2 * b

    return made(lambda wave: stars * 160 * (1 + 5 * (wave - 5.02)), rest, noise=noise)


@functools.cache
def fitted(there):
    """Return the place of the other star, a pair and the model of both."""
    ds = pair(there)
    return there, ds, fit_trace_model(ds, band="1A", source=FIRST, others=[sky(there)])


@pytest.fixture(params=[NEAR, FAR], ids=["near", "far"])
def both(request):
    return fitted(request.param)


def near(cube, place, radius):
    """Return which spaxels lie within a radius of a place."""
    east = (cube.ra.values + 180) % 360 - 180
    return np.hypot(3600 * east - place[0], 3600 * cube.dec.values - place[1]) < radius


def waves(cube, place):
    """Return the rms over wavelength, less a parabola, of the spaxels near a place over their brightest."""
    flux = cube.flux.values[4:-4][:, near(cube, place, 0.2)]
    x = np.linspace(-1, 1, len(flux))
    return np.std(flux - np.vander(x, 3) @ np.polyfit(x, flux, 2), axis=0).max() / flux.max()


def test_the_waves_of_each_source_go_and_apertures_keep_their_light(both):
    there, ds, model = both
    assert model.sizes["source"] == 2
    assert model.used.values.any(axis=(1, 2, 3)).all()
    plain, better = build_cube(ds, **LIMITS), build_cube(ds, trace_model=model, **LIMITS)
    for place in (FIRST, there):
        assert waves(plain, place) > 0.01
        assert waves(better, place) < 0.35 * waves(plain, place)
        light = [np.nansum(one.flux.values[4:-4][:, near(one, place, 0.42)], axis=1) for one in (plain, better)]
        np.testing.assert_allclose(light[1].mean(), light[0].mean(), rtol=1e-3)
    for name in ("var", "weight", "dq"):
        np.testing.assert_array_equal(better[name], plain[name])


def test_places_and_spectra_are_those_of_the_sources(both):
    there, _, model = both
    place = model.place.values
    np.testing.assert_allclose(place[1] - place[0], np.tile(there, (4, 1)), atol=0.01)
    first, second = model.sel(sample=slice(5.005, 5.04)).spectrum.values
    wave = model.sample.sel(sample=slice(5.005, 5.04)).values
    true = 0.625 * (1 - 4 * (wave - 5.02)) / (1 + 5 * (wave - 5.02))
    np.testing.assert_allclose(np.median(second / first / true), 1, atol=0.01)


def test_a_recipe_gives_the_same_and_all_sources_are_taken_off():
    _, ds, model = fitted(NEAR)
    others = [sky(NEAR)]
    recipe = Recipe.of("optimal").set("trace_model", source=FIRST, others=others)
    lazy = ds.assign(flux=ds.flux.chunk(dither=1))
    built = make_target_cube(lazy, "1A", None, recipe.set("cube_build", wavelength_min=5.0, wavelength_max=5.045))
    np.testing.assert_array_equal(built.flux.values, build_cube(ds, trace_model=model, **LIMITS).flux.values)
    assert built.score_trace_model.dims == ("source", "dither", "slice_label", "node")
    left = subtract_point_source(ds, trace_model=model, around="level").flux.values
    true, host = (pair(NEAR, noise=1e-9, stars=k).flux.values for k in (1, 0))
    for place in model.place.values:
        near = np.hypot(*(ds[n].values - place[:, k, None, None] for k, n in enumerate(("alpha", "beta")))) < 0.3
        assert np.std((left - host)[near]) < 0.01 * np.nanmax(true)


def test_bad_pixels_at_the_peak_of_another_source_are_filled(monkeypatch):
    """They are not where the model is used at the first source alone."""
    monkeypatch.setattr(point_source, "bands_of_setting", lambda _: ["1A"])  # these data have one band
    _, ds, model = fitted(NEAR)
    true, bad = pair(NEAR, noise=1e-9).flux.values, np.zeros(ds.flux.shape, bool)
    for d, place in enumerate(model.place.values[1]):
        away = np.hypot(ds.alpha - place[0], ds.beta - place[1]).where(ds.y == 20 + 5 * d).values
        y, x = np.unravel_index(np.nanargmin(away), away.shape)
        bad[d, y - 1 : y + 2, x - 1 : x + 2] = True
    flags = (ds.dq.dims, ds.dq.values | bad.astype("u4"), ds.dq.attrs)
    holes = ds.assign(flux=ds.flux.where(~bad), dq=flags)
    options = {"method": "trace_model", "source": FIRST, "others": [sky(NEAR)]}
    out = replace_pixels(holes, **options)
    assert np.abs(out.flux.values[bad] - true[bad]).max() < 0.015 * np.nanmax(true)
    model = fit_trace_model(holes, band="1A", source=FIRST, others=[sky(NEAR)])
    used = model.used.values.astype(bool)
    used[1] = False
    first = replace_pixels(holes, method="trace_model", trace_model=model.assign(used=(model.used.dims, used)))
    assert not (np.abs(first.flux.values[bad] - true[bad]) < 0.05 * np.nanmax(true)).all()


def test_sources_apart_have_a_plane_of_their_own_and_those_too_close_are_refused():
    n, zero = 40, np.zeros(40)
    pixels = Pixels(zero.astype(int), zero.astype(int), np.linspace(-2, 2, n), zero, zero + 5.0, zero, zero + 1, zero,
                    zero + 1, zero == 0)  # fmt: skip
    reach = 2 * EDGE * 0.271
    for steps, groups in (([0, 0.9, 1.8], [0, 0, 0]), ([0, 1.1, 2.2], [0, 1, 2]), ([0, 2.4, 0.9], [0, 1, 0])):
        place = np.array([[[reach * step, 0.0]] for step in steps])
        fit = Fit(pixels, place, 2, 5.0, 1.0, 2)
        np.testing.assert_array_equal(fit.group, groups)
        np.testing.assert_array_equal(fit.nearest, np.abs(pixels.alpha - place[:, 0, :1]).argmin(axis=0))
    with pytest.raises(MrsxrError, match="are told apart from"):
        fit_trace_model(pair(NEAR), band="1A", source=FIRST, others=[sky((0.05, 0.0))])


def test_places_are_read_as_people_write_them_and_exposures_may_come_as_a_dict():
    star, place = pair(FAR).isel(y=slice(0, 40)), SkyCoord(0.0, 0.0, unit="deg")
    models = [fit_trace_model(star, band="1A", source=one) for one in (FIRST, place, "00h00m00s +00d00m00s")]
    for model in models[1:]:
        np.testing.assert_array_equal(model.spectrum, models[0].spectrum)
    offsets = [measure_offsets(one, position=at) for one, at in ((star, FIRST), ({"12A": star}, place))]
    np.testing.assert_array_equal(offsets[0].east, offsets[1].east)
    with pytest.raises(MrsxrError, match="one place; expected a list of places"):
        fit_trace_model(star, band="1A", source=place, others=(0.0, 0.0001))
