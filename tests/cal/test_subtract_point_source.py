"""A point source is taken off the detector, and the light around it stays."""

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step
from scipy.special import erf
from star_scene import PLACES, REST, line, made

from mrsxr import Recipe, dq, schema
from mrsxr.cal import (
    fit_point_source,
    fit_trace_model,
    learn_psf,
    measure_offsets,
    psf_of_images,
    replace_pixels,
    subtract_point_source,
)
from mrsxr.cube import build_cube
from mrsxr.errors import MrsxrError
from mrsxr.mrs import psf_fwhm
from mrsxr.pipeline.combine_chain import combine
from mrsxr.references import References
from mrsxr.simulate import write_reference
from mrsxr.spectrum import fit_spectrum
from mrsxr.step import read_history
from mrsxr.traces.point import typical_of
from mrsxr.traces.source import images_of
from mrsxr.tree import join_dithers

PEAK = 1300.0  # MJy/sr


def spectrum(wave):
    return 140.0 * (1 + 10 * (wave - 5.02)) * (1 + 0.5 * line(wave, 5.011))


def host(a, b, wave):
    """A disc, wider than the PSF, of a continuum and a line that rotates."""
    return np.exp(-0.5 * (a**2 + (1.5 * b) ** 2) / 0.7**2) * (6 + 60 * line(wave, REST + 0.0006 * np.tanh(a / 0.6)))


def from_star(ds):
    """Return how far pixels are from the star [FWHM]."""
    a, b = (ds[name].values - PLACES[:, k, None, None] for k, name in enumerate(("alpha", "beta")))
    return np.hypot(a, b) / psf_fwhm(ds.wavelength.values)


@pytest.fixture(scope="module")
def alone():
    ds = made(spectrum)
    return ds, fit_trace_model(ds, band="1A", source=(0.0, 0.0))


def test_a_lone_star_of_another_psf_goes(alone):
    ds, model = alone
    out = subtract_point_source(ds, trace_model=model, around="level")
    schema.validate(out)
    left = made(spectrum, noise=1e-9).flux.values - (ds.flux.values - out.flux.values)
    away = from_star(ds)
    assert np.std(left[away < 0.7]) < 0.01 * PEAK
    assert np.std(left[(away > 1) & (away < 3)]) < 0.003 * PEAK
    np.testing.assert_array_equal(out.flux.values[away > 6], ds.flux.values[away > 6])
    for name in ("var_poisson", "dq"):
        np.testing.assert_array_equal(out[name], ds[name])
    assert out.attrs["point_source_off"] == "1A"
    assert read_history(out)[-1]["step"] == "cal.subtract_point_source"


def test_models_that_are_fitted_give_the_same(alone):
    ds, model = alone
    out = assert_step(subtract_point_source, ds, trace_model=model, around="level")
    fitted = fit_point_source(ds, trace_model=model, around="level")
    assert fitted.settled == 1
    lazy = ds.assign(flux=ds.flux.chunk(dither=1, y=25))
    for one in (ds, lazy):
        left = subtract_point_source(one, trace_model=fitted).flux
        assert left.chunks == one.flux.chunks
        np.testing.assert_array_equal(left.values, out.flux.values)


def test_the_host_and_its_line_stay():
    ds = made(spectrum, host, noise=0.05)
    fitted = fit_point_source(ds, trace_model=fit_trace_model(ds, band="1A", source=(0.0, 0.0)))
    left = subtract_point_source(ds, trace_model=fitted).flux.values
    a, b = (ds[name].values - PLACES[:, k, None, None] for k, name in enumerate(("alpha", "beta")))
    wave, true = ds.wavelength.values, host(a, b, ds.wavelength.values)
    near, beside = np.abs(wave - REST) < 0.003, np.abs(np.abs(wave - REST) - 0.006) < 0.002
    for low, high, limit in ((0, 0.5, 0.12), (0.5, 1, 0.08), (1, 2, 0.03)):
        ring = (from_star(ds) >= low) & (from_star(ds) < high)
        flux = [one[ring & near].mean() - one[ring & beside].mean() for one in (left, true)]
        assert flux[0] == pytest.approx(flux[1], rel=limit)
        assert np.abs(left - true)[ring & beside].mean() < (0.012 if low < 1 else 0.005) * PEAK
    assert np.hypot((fitted.ra + 180) % 360 - 180, fitted.dec) * 3600 < 0.05
    assert (fitted.residual < 0.01).all()


def test_what_does_not_fit_is_refused(alone):
    ds, model = alone
    with pytest.raises(MrsxrError, match="use fit_trace_model"):
        subtract_point_source(ds, trace_model=xr.Dataset())
    with pytest.raises(MrsxrError, match="knows no exposure"):
        subtract_point_source(ds, trace_model=model.isel(dither=[0, 1]))
    once = ds.assign_attrs(point_source_off="1A")
    with pytest.raises(MrsxrError, match="taken off already"):
        subtract_point_source(once, trace_model=model)


def test_a_source_that_is_off_is_put_back_by_nothing(alone):
    """Nor taken off twice where exposures that lost it are joined with others; what is left may be fitted anew."""
    ds, model = alone
    off = subtract_point_source(ds, trace_model=model, around="level")
    joined = join_dithers([off.isel(dither=[0]), ds.isel(dither=[1])])
    assert joined["point_source_off"].values.tolist() == ["1A", "json:null"]
    for call in (
        lambda one: subtract_point_source(one, trace_model=model),
        lambda one: build_cube(one, band="1A", trace_model=model),
        lambda one: replace_pixels(one, method="trace_model", trace_model=model),
        lambda one: fit_point_source(one, trace_model=model),
        lambda one: fit_spectrum(one, trace_model=model),
    ):
        for one in (off, joined, off.chunk(dither=1)):
            with pytest.raises(MrsxrError, match=r"the point source (of the model )?was taken off already"):
                call(one)
    left = fit_trace_model(off, band="1A", source=(0.0, 0.0))
    assert left.attrs["point_source_off"] == "1A"
    cubes = [build_cube(off, band="1A", trace_model=one, spaxel_size=0.2) for one in (left, None)]
    assert float(abs(cubes[0].flux - cubes[1].flux).max()) < 0.01 * PEAK
    two = subtract_point_source(ds.assign_attrs(point_source_off="2A"), trace_model=model, around="level")
    assert two.attrs["point_source_off"] == "2A 1A"


@pytest.mark.parametrize("cut", [{"dither": slice(0)}, {"y": slice(0)}, {"x": slice(20, 21)}, {}])
def test_exposures_without_the_band_are_refused_by_all_that_take_several(alone, cut):
    """There are none, or none has a pixel in a slice of the band: all lie between slices, or in the other channel."""
    ds, model = alone
    band = "1A" if cut else "2A"
    model = model.assign_attrs(band=band)
    fitted = model.assign_attrs(kind="point_source")
    calls = [(fit_trace_model, {"band": band}), (fit_point_source, {"trace_model": model})]
    calls += [(work, {"bands": [band]}) for work in (learn_psf, subtract_point_source)]
    for one in (model, fitted):
        calls += [(work, {"trace_model": one}) for work in (subtract_point_source, fit_spectrum)]
        calls.append((replace_pixels, {"trace_model": one, "method": "trace_model"}))
    for given in (ds.isel(cut), ds.isel(cut).chunk(dither=1)):
        for work, options in calls:
            with pytest.raises(MrsxrError, match=f"band {band}: no exposure has a pixel in a slice of it"):
                work(given, **options)
    if cut:
        with pytest.raises(MrsxrError, match="no band shows a point source"):
            measure_offsets(ds.isel(cut))


def test_splines_are_those_of_scipy():
    from scipy.interpolate import BSpline

    from mrsxr.traces import _trace_kernels as kernels

    rng = np.random.default_rng(3)
    degree, n, n_sample = 2, 3, 6
    s, x, y = rng.uniform(0, n_sample - 1, 40), rng.uniform(-1, 1, 40), rng.uniform(-1, 1, 40)
    found = rng.normal(size=(n_sample + 3, 2 + (n + degree) ** 2))
    stars, light = np.empty((2, 40)), np.empty(40)
    kernels.light_at(s, x, y, degree, n, found, stars, light)
    along = BSpline.design_matrix(s, np.arange(-3, n_sample + 4) * 1.0, 3).toarray()[:, : n_sample + 3]
    knots = np.arange(-degree, n + degree + 1) * 2.0 / n - 1.0
    field = [BSpline.design_matrix(v, knots, degree).toarray() for v in (x, y)]
    np.testing.assert_allclose(stars, (along @ found[:, :2]).T, rtol=1e-10)
    each = np.einsum("pi,pj->pij", *field).reshape(40, -1)
    np.testing.assert_allclose(light, np.einsum("pk,km,pm->p", along, found[:, 2:], each), rtol=1e-9)
    profile, flux, weight = rng.uniform(0, 1, (2, 40)), rng.normal(size=40), rng.uniform(1, 2, 40)
    band, right = np.zeros((4 * found.shape[1], found.size)), np.zeros(found.size)
    kernels.light_equations(s, profile, x, y, degree, n, flux, weight, band, right)
    design = np.einsum("pk,pm->pkm", along, np.column_stack([profile.T, each])).reshape(40, -1)
    normal = design.T @ (design * weight[:, None])
    np.testing.assert_allclose(right, design.T @ (weight * flux), atol=1e-10)
    for k in range(band.shape[0]):
        np.testing.assert_allclose(band[k, : found.size - k], np.diagonal(normal, -k), atol=1e-10)


def test_splines_without_pixels_do_not_decide_what_is_typical():
    assert typical_of(np.array([0.0, 2.0, 8.0])) == 2.0
    assert typical_of(np.array([0.0, 0.0, 0.0, 8.0])) == 2.0


def test_the_profile_of_two_stars_is_one():
    """The equations of the corrections at one node, of two stars that share splines, by dense matrices."""
    from scipy.interpolate import BSpline

    from mrsxr.traces import _trace_kernels as kernels

    rng = np.random.default_rng(4)
    reach, knot, m = 2.0, 0.5, 11
    u, v, scale = rng.uniform(-1.9, 1.9, (2, 30)), rng.uniform(-1.9, 1.9, (2, 30)), rng.uniform(1, 2, (2, 30))
    x, y, rest, weight = (rng.uniform(-1, 1, 30) for _ in range(4))
    weight = np.abs(weight)
    more = rng.uniform(-1, 1, (1, 30))
    normal, right = np.zeros((2, m**2 + 5, m**2 + 5)), np.zeros((2, m**2 + 5))
    kernels.correction_equations(
        u, v, np.zeros(30), scale, x, y, 1, 1, more, rest, weight, reach, knot, normal, right
    )  # fmt: skip
    knots = -reach + knot * np.arange(-3, m + 1)
    design = np.zeros((30, m**2))
    for one in range(2):
        sides = [BSpline.design_matrix(axis[one], knots, 3).toarray() for axis in (u, v)]
        design += scale[one][:, None] * np.einsum("pi,pj->pij", *sides).reshape(30, -1)
    plane = np.einsum("pi,pj->pij", *(np.stack([1 - a, 1 + a], 1) / 2 for a in (x, y))).reshape(30, 4)
    design = np.hstack([design, plane, more.T])
    np.testing.assert_allclose(right[0], design.T @ (weight * rest), atol=1e-12)
    np.testing.assert_allclose(np.triu(normal[0]), np.triu(design.T @ (design * weight[:, None])), atol=1e-12)
    assert not normal[1].any()


def test_a_learnt_psf_serves_another_source_and_travels_as_a_file(alone, tmp_path):
    ds, _ = alone
    psf = learn_psf(ds, bands="1A", source=(0.0, 0.0))
    path = write_reference(tmp_path / "psf.fits", "psf", {"detector": "MIRIFUSHORT", "band": "SHORT"}, psf=psf)
    read = References(tmp_path).get("psf", ds)
    np.testing.assert_allclose(read.psf, psf.psf)
    np.testing.assert_array_equal(read.psf_band, psf.psf_band)
    assert read.attrs["ref_id"] == path.name
    other = made(spectrum, host, noise=1.0, seed=9)
    model, true = fit_trace_model(other, band="1A", source=(0.0, 0.0)), made(spectrum, noise=1e-9).flux.values
    left = []
    for one in (None, read):
        fitted = fit_point_source(other, trace_model=model, psf=one)
        taken = other.flux.values - subtract_point_source(other, trace_model=fitted).flux.values
        left.append(np.nanstd((true - taken)[from_star(ds) < 1]))
    assert left[1] < 0.8 * left[0]
    with pytest.raises(MrsxrError, match="the PSF is of 1A"):
        images_of(read, "2A")


def test_images_of_an_optical_model_are_seen_through_pixels_and_slices():
    axis = 0.02 * np.arange(-60, 61)
    image = np.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / 0.12**2)
    psf = psf_of_images([image], [5.0], step=0.02, band="1A", pixel=0.19)
    root = np.sqrt(2) * 0.12
    exact = [erf((axis + s / 2) / root) - erf((axis - s / 2) / root) for s in (0.19, 0.17721)]
    exact = exact[0][:, None] * exact[1]
    np.testing.assert_allclose(psf.psf[0], exact / exact.max(), atol=2e-3)


def test_clusters_of_bad_pixels_at_the_peak_are_filled(alone):
    ds, model = alone
    bad, true = np.zeros(ds.flux.shape, bool), ds.flux.values
    for d in range(4):
        y, x = np.unravel_index(np.nanargmax(np.where(ds.wavelength > 5.02, true[d], np.nan)), true.shape[1:])
        bad[d, y - 1 : y + 2, x - 1 : x + 2] = True
    holes = ds.assign(
        flux=ds.flux.where(~bad), dq=(ds.dq.dims, ds.dq.values | bad.astype("u4"), ds.dq.attrs)
    )  # fmt: skip
    out = assert_step(replace_pixels, holes, method="trace_model", trace_model=model)
    made_up, peak = out.flux.values[bad], np.nanmax(true)
    assert np.isfinite(made_up).all()
    assert np.abs(made_up - true[bad]).max() < 0.015 * peak
    assert (out.dq.values[bad] == dq.value("FLUX_ESTIMATED")).all()
    np.testing.assert_array_equal(out.flux.values[~bad], true[~bad])
    unused = model.assign(used=model.used.astype(bool) & False)
    assert np.isnan(replace_pixels(holes, method="trace_model", trace_model=unused).flux.values[bad]).all()


@pytest.mark.parametrize(("noise", "worst"), [(0.5, 0.012), (12.0, 0.06)])
def test_clusters_in_a_line_of_the_host_are_filled_within_their_errors(noise, worst):
    """The line is brighter than the star's continuum is uncertain, and not linear over the columns of a cluster."""
    ds, true = (made(spectrum, lambda a, b, wave: 2 * host(a, b, wave), noise=one) for one in (noise, 1e-9))
    true, bad = true.flux.values, np.zeros(ds.flux.shape, bool)
    for d, row in enumerate((27, 30, 33, 45)):
        y, x = np.unravel_index(np.nanargmax(np.where(ds.y.values[:, None] == row, true[d], np.nan)), ds.slice.shape)
        bad[d, y - 1 : y + 2, x - 1 : x + 2] = True
    flags = (ds.dq.dims, ds.dq.values | bad.astype("u4"), ds.dq.attrs)
    holes = ds.assign(flux=ds.flux.where(~bad), dq=flags)
    model = fit_trace_model(holes, band="1A", source=(0.0, 0.0))
    out = replace_pixels(holes, method="trace_model", trace_model=model)
    off, variance = out.flux.values[bad] - true[bad], sum(out[name].values[bad] for name in schema.RANDOM)
    assert np.abs(off).max() < worst * np.nanmax(true)
    assert 0.6 < np.sqrt(np.mean(off**2 / variance)) < 1.6


def test_a_recipe_may_take_the_source_off(alone):
    recipe = Recipe.of("baseline").adding(
        "cube.subtract_point_source", "subtract_point_source", before="cube_build", around="level", bands=["1A"],
        source=(0.0, 0.0),
    )  # fmt: skip
    assert Recipe.of(recipe).values("cube.subtract_point_source")["around"] == "level"
    ds, model = alone
    (out,) = combine({"12A": ds}, recipe.skipping("outlier_detection", "master_background")).values()
    np.testing.assert_array_equal(out.flux, subtract_point_source(ds, trace_model=model, around="level").flux)


def test_models_of_several_bands_go_through_as_they_are(alone):
    ds, model = alone
    one = subtract_point_source(ds, trace_model=model, around="level")
    other = model.assign_attrs(band="1B")
    for several in ([model], [other, model], {"1B": other, "1A": model}):
        np.testing.assert_array_equal(subtract_point_source(ds, trace_model=several, around="level").flux, one.flux)
    for wrong, known in (([], "none"), ([other], "1B"), ([model, model], "1A, 1A")):
        with pytest.raises(MrsxrError, match=f"has bands {known}; expected one each of 1A or 2A"):
            subtract_point_source(ds, trace_model=wrong)
    flux = ds.flux.values.copy()
    flux[1, 30, np.nanargmax(flux[1, 30])] = np.nan
    holes = ds.assign(flux=ds.flux.copy(data=flux), dq=ds.dq | np.isnan(flux).astype("u4"))
    filled = [replace_pixels(holes, method="trace_model", trace_model=given).flux for given in (model, [other, model])]
    np.testing.assert_array_equal(*filled)
    assert np.isfinite(filled[0].values[1, 30][ds["slice"].values[30] > 0]).all()
