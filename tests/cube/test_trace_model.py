"""A trace model takes the waves out of single spaxels and leaves apertures and smooth skies as they are."""

import numpy as np
import pytest
import test_cube_build as made
import xarray as xr
from scipy.interpolate import BSpline

from mrsxr.cal import fit_trace_model, learn_psf
from mrsxr.cube import build_cube
from mrsxr.errors import MrsxrError
from mrsxr.geometry.sky import Pointing, sky_to_v2v3, v2v3_to_slicer
from mrsxr.traces import Pixels
from mrsxr.traces.fit import Fit, _score, _solve_chain
from mrsxr.traces.model import KNOT, N_SPLINE, PARTS, REACH, continuum, faded, finer, trace_profile
from mrsxr.traces.pixels import gathered, in_circle, lit_pixels, places_of

PLACE = (339.015, 33.976)


def lopsided_star(peak=1000.0, seed=5):
    """Return a lopsided star, two pixels along the slice away after all rows, in smooth light and noise of 0.3."""
    tilted = made.wcs_model()
    tilted = tilted.assign(alpha_coefficients=tilted.alpha_coefficients.copy(deep=True))
    tilted.alpha_coefficients[:, 1, 0] = 0.01
    tilted.alpha_coefficients[:, 0, 0] = -0.2
    ds = made.make_cal(4, model=tilted)
    flux = np.full(ds.flux.shape, np.nan)
    for d in range(4):
        alpha, beta = v2v3_to_slicer(*sky_to_v2v3(*PLACE, Pointing.of(ds, d)), "1A", ds)
        a, b = ds.alpha.values - alpha - 0.02 * (d % 2), ds.beta.values - beta - 0.01 * d
        core = np.exp(-4 * np.log(2) * ((a / 0.27) ** 2 + (b / 0.30) ** 2 + 0.1 * a * b / 0.08))
        lobe = np.exp(-4 * np.log(2) * (((a - 0.2) / 0.2) ** 2 + ((b + 0.1) / 0.25) ** 2))
        flux[d] = peak * (core + 0.1 * lobe) + 5.0 + a
    rng = np.random.default_rng(seed)
    noise = np.where(ds["slice"].values > 0, 0.3, np.nan) * rng.normal(size=flux.shape)
    return ds.assign(flux=(ds.flux.dims, (flux + noise).astype("f4"), ds.flux.attrs))


@pytest.fixture(scope="module")
def star():
    return lopsided_star()


def waves(cube):
    """Return the rms over wavelength [of the peak] of the spaxels near the star, and the light within 0.4 arcsec."""
    near = np.hypot(cube.x.values[None] - 0.0, cube.y.values[:, None]) < 0.2
    flux = cube.flux.values[4:-4]
    aperture = np.hypot(cube.x.values[None], cube.y.values[:, None]) < 0.42
    return np.std(flux[:, near], axis=0).max() / np.nanmax(flux), flux[:, aperture].sum(axis=1)


def test_waves_of_single_spaxels_go_and_the_light_of_apertures_stays(star):
    model = fit_trace_model(star, band="1A", source=PLACE)
    plain, better = made.build(star), made.build(star, trace_model=model)
    (before, light), (after, same) = waves(plain), waves(better)
    assert before > 0.01
    assert after < 0.25 * before
    np.testing.assert_allclose(same.mean(), light.mean(), rtol=6e-4)
    np.testing.assert_allclose(same, light, rtol=3e-3)
    for name in ("var", "weight", "dq"):
        np.testing.assert_array_equal(better[name], plain[name])
    lazy = made.build(star.chunk(dither=1), trace_model=model)
    np.testing.assert_array_equal(lazy.flux.values, better.flux.values)


def test_slices_are_found_by_their_labels(star):
    model = fit_trace_model(star, band="1A", source=PLACE)
    other = model.assign_coords(slice_label=model.slice_label + 1000).assign(used=~model.used)
    more = xr.concat([other, model], "slice_label", data_vars="minimal")
    np.testing.assert_array_equal(*(made.build(star, trace_model=one).flux.values for one in (more, model)))
    with pytest.raises(MrsxrError, match="other slices"):
        made.build(star, trace_model=other)


def test_a_line_wider_on_the_sky_than_the_star_stays(star):
    """What a cube has more with the line than without it is the line, near the star too (5 % off, were it moved)."""
    light = np.zeros(star.flux.shape)
    for d in range(4):
        alpha, beta = v2v3_to_slicer(*sky_to_v2v3(*PLACE, Pointing.of(star, d)), "1A", star)
        across = np.hypot(star.alpha.values - alpha - 0.05, star.beta.values - beta)
        velocity = (star.wavelength.values - 5.013) / 0.0016
        light[d] = 150 * np.exp(-4 * np.log(2) * (across / 0.6) ** 2 - 0.5 * velocity**2)
    alone, both = (
        star.assign(flux=(base + light).astype("f4").assign_attrs(star.flux.attrs))
        for base in (0 * star.flux, star.flux)
    )
    true = made.build(alone)
    with_line, without = (
        made.build(ds, trace_model=fit_trace_model(ds, band="1A", source=PLACE)) for ds in (both, star)
    )
    assert not np.array_equal(with_line.flux, made.build(both).flux)
    near = np.hypot(true.x.values[None], true.y.values[:, None]) < 0.35
    on = np.abs(true.wavelength.values - 5.013) < 0.004
    found, expected = (flux.values[on][:, near].sum(axis=0) for flux in (with_line.flux - without.flux, true.flux))
    np.testing.assert_allclose(found, expected, rtol=0.017)


@pytest.mark.parametrize("dithers", [1, 4])
def test_a_psf_learnt_from_a_brighter_star_serves_a_fainter_one(star, dithers):
    """It tells the pixels left out better than what a faint star tells of itself."""
    psf = learn_psf(star, bands="1A", source=PLACE)
    faint = lopsided_star(peak=20.0, seed=8).isel(dither=slice(dithers))
    models = [fit_trace_model(faint, band="1A", source=PLACE, psf=known) for known in (None, psf)]
    own, better = (one.score_trace_model for one in models)
    assert float((better / own).mean()) < 0.95
    assert models[1].used.sum() >= models[0].used.sum()
    lazy = fit_trace_model(faint.assign(flux=faint.flux.chunk(dither=1)), band="1A", source=PLACE, psf=psf).compute()
    xr.testing.assert_identical(lazy, models[1])
    with pytest.raises(MrsxrError, match="band 1A: the PSF is of 2A"):
        fit_trace_model(
            faint, band="1A", source=PLACE, psf=psf.assign_coords(psf_band=psf.psf_band.str.replace("1A", "2A"))
        )


def test_the_continuum_of_a_source_has_no_lines():
    """Samples without pixels (0) count nowhere; of lines of 350 and of 900 km/s an eighth is left, a slope stays."""
    sample = np.arange(300.0)
    slope = np.where((sample > 20) & (sample < 260), 50.0 + 0.1 * sample, 0.0)
    lines = [40 * np.exp(-0.5 * ((sample - at) / wide) ** 2) for at, wide in ((120, 3), (190, 8))]
    found = continuum(np.stack([slope, np.where(slope > 0, slope + sum(lines), 0.0), 0 * slope]))
    assert (found[:, slope == 0] == 0).all()
    assert (found[2] == 0).all()
    np.testing.assert_allclose(found[0, 80:200], slope[80:200], rtol=1e-9)
    np.testing.assert_allclose(found[0, slope > 0], slope[slope > 0], rtol=0.05)
    np.testing.assert_allclose(found[1], found[0], atol=5)


def test_in_light_without_a_source_the_cube_stays():
    """A window that passes by chance among those of smooth light, and of a star as bright as the noise: none of 200."""
    passed = []
    for seed, peak in enumerate((0.0, 0.0, 0.3, 0.3)):
        ds = lopsided_star(peak, seed)
        model = fit_trace_model(ds, band="1A", source=PLACE)
        passed.append(model.used.values[np.isfinite(model.score_trace_model.values)])
        if not seed:
            np.testing.assert_array_equal(*(made.build(ds, trace_model=one).flux for one in (model, None)))
    assert np.concatenate(passed).size > 100
    assert not np.concatenate(passed).any()


@pytest.mark.parametrize("elsewhere", [3.0, 0.1])
def test_a_window_passes_only_where_the_others_of_its_wavelength_gain(elsewhere):
    """One slice in which the model happens to be better does not tell a source from noise."""
    rng = np.random.default_rng(2)
    label = np.repeat(np.arange(20), 100)
    flux, zero = rng.normal(size=label.size), np.zeros(label.size)
    beside = flux + np.where(label == 3, 3.0, elsewhere)  # the model is off by the noise
    pixels = Pixels(zero.astype(int), label, zero, zero, zero + 5.0, flux, zero + 1, beside, zero + 0.5, zero == 0)
    found = _score(Fit(pixels, np.zeros((1, 1, 2)), 1, 5.0, 1.0, 2), np.arange(20))
    assert (found < 1).all() if elsewhere > 1 else (found >= 1).all()


def test_no_model_is_used_where_another_star_is_near(star):
    alpha, beta = v2v3_to_slicer(*sky_to_v2v3(*PLACE, Pointing.of(star, 0)), "1A", star)
    away = np.hypot(star.alpha.values - alpha - 0.4, star.beta.values - beta)
    flux = star.flux.isel(dither=[0]) + (600 * np.exp(-4 * np.log(2) * (away / 0.28) ** 2)).astype("f4")
    both = star.isel(dither=[0]).assign(flux=flux.assign_attrs(star.flux.attrs))
    assert fit_trace_model(star.isel(dither=[0]), band="1A", source=PLACE).used.values.any()
    assert not fit_trace_model(both, band="1A", source=PLACE).used.values.any()


def test_models_of_others_are_refused(star):
    model = xr.Dataset(attrs={"kind": "trace_model", "band": "2A"})
    with pytest.raises(MrsxrError, match="of band 2A"):
        made.build(star, trace_model=model)
    with pytest.raises(MrsxrError, match="goes with weighting 'drizzle'"):
        build_cube(star, band="1A", weighting="emsm", cubepar=made.emsm_table(), trace_model=model)


def test_parts_of_pixels_show_what_pixels_of_all_phases_show():
    """By a slow way: the mean over pixels that hold a place is that of a finer sum; all light that is moved arrives."""
    c, width = np.zeros((1, N_SPLINE, N_SPLINE)), 0.7
    c[0, 4:8, 5:9] = 0.2

    def shown(u):
        return faded(u, np.full(u.size, 0.3), np.zeros(u.size), np.full(u.size, 0.02), c)

    phases = np.arange(400) / 400 * width
    u = (np.arange(-6, 7) * width + phases[:, None]).ravel()
    v, one = np.full(u.size, 0.3), np.ones(u.size)
    out = finer(u, v, width * one, 0 * one, 0.02 * one, c)
    np.testing.assert_allclose(out.sum(), 0.0, atol=1e-4 * np.abs(out).sum())
    place = (u[:, None] + width * ((np.arange(PARTS) + 0.5) / PARTS - 0.5)).ravel()
    parts, fine = (out + shown(u)[:, None]).ravel(), np.linspace(-0.5, 0.5, 201) * width
    for x in (-1.2, 0.0, 0.4, 1.7):
        near = np.abs(place - x) < width / (2 * PARTS)
        np.testing.assert_allclose(parts[near].mean(), shown(x + fine).mean(), atol=2e-3)


def test_the_profile_is_a_product_of_splines():
    rng = np.random.default_rng(3)
    c = rng.normal(size=(2, N_SPLINE, N_SPLINE))
    u, v, node = rng.uniform(-1.9, 1.9, 50), rng.uniform(-1.9, 1.9, 50), rng.uniform(0, 1, 50)
    knots = -REACH + KNOT * np.arange(-3, N_SPLINE + 1)
    along, across = (BSpline.design_matrix(x, knots, 3).toarray() for x in (u, v))
    each = np.einsum("pi,kij,pj->kp", along, c, across)
    moffat = (1 + 4 * (2**0.4 - 1) * (u**2 + v**2)) ** -2.5
    out = trace_profile(u, v, node, c)
    np.testing.assert_allclose(out, moffat * (1 + (1 - node) * each[0] + node * each[1]), rtol=1e-10)


def test_tied_nodes_are_solved_as_one_system():
    rng = np.random.default_rng(4)
    n_node, m, tie = 3, 4, 0.7
    normal = np.stack([a @ a.T + 3 * np.eye(m) for a in rng.normal(size=(n_node, m, m))])
    right, whole = rng.normal(size=(n_node, m, 2)), np.zeros((n_node * m, n_node * m))
    for k in range(n_node):
        whole[k * m : (k + 1) * m, k * m : (k + 1) * m] = normal[k]
    whole += -tie * (np.eye(n_node * m, k=m) + np.eye(n_node * m, k=-m))
    found = _solve_chain(np.triu(normal), right, tie)
    np.testing.assert_allclose(found.reshape(-1, 2), np.linalg.solve(whole, right.reshape(-1, 2)), rtol=1e-9)


def test_a_fit_says_whether_it_came_to_rest(star):
    assert fit_trace_model(star, band="1A", source=PLACE).settled == 1
    pixels = gathered(lit_pixels(star, "1A"), in_circle(lit_pixels(star, "1A"), places_of(star, "1A", PLACE), 1.95))
    fit = Fit(pixels, places_of(star, "1A", PLACE)[None], 2, 4.99, 1e-3, 45)
    assert not fit.run(1)
    assert fit.run(30)
    place = fit.place.copy()
    fit.run(1)
    assert np.abs(fit.place - place).max() < 2e-4


class Creeping(Fit):
    """A fit each of whose rounds goes a fifth of the way to where it would come to rest."""

    def __init__(self):
        self.place, self.profile, self.prior = np.zeros((1, 2, 2)), np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
        self.unit, self.light = 0.3, np.ones((1, 4))

    def weights(self, fitted=None):
        return None

    def fit_spectra(self, weight):
        pass

    def fit_places(self, weight):
        pass

    def model(self):
        return np.full(4, 1 + self.profile.sum())

    def fit_profile(self, weight):
        self.place = self.place + 0.2 * (0.01 - self.place)
        self.profile = self.profile + 0.2 * (0.5 - self.profile)


def test_rounds_that_creep_are_led_on():
    fit = Creeping()
    assert fit.run(12)  # by themselves they would need 30
    np.testing.assert_allclose(fit.place, 0.01, rtol=1e-3)
    np.testing.assert_allclose(fit.profile, 0.5, rtol=1e-3)
