"""The spectrum of a point source from the detector pixels, against fluxes that numpy made."""

import functools
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step

from mrsxr import dq, save
from mrsxr.cal import fit_point_source, fit_trace_model, learn_psf, replace_pixels, subtract_point_source
from mrsxr.errors import MrsxrError, MrsxrWarning
from mrsxr.notes import notes_of
from mrsxr.spectrum import fit_spectrum
from mrsxr.units import MJYSR_TO_JY_PER_ARCSEC2

sys.path.insert(0, str(Path(__file__).parents[1] / "cal"))
import star_scene
from star_scene import PLACES, REST, enclosed, line, made, pixel_psf

SKY = 7.0
#: Jy within 2 FWHM of a unit of flux.
LEVEL = MJYSR_TO_JY_PER_ARCSEC2 * enclosed(2.0)


def sky(a, b, wave):
    return SKY + 0 * wave


def spectrum(wave):
    return 20.0 * (1 + 5 * (wave - 5.02)) * (1 + 0.8 * line(wave, 5.011))


def measured(ds, **options):
    model = fit_trace_model(ds, band="1A", source=(0.0, 0.0))
    return inner(fit_spectrum(ds, trace_model=model, **options))


@functools.cache
def bright():
    """Return exposures of the star on an even sky, their trace model and their spectrum."""
    ds = made(spectrum, sky, noise=0.3)
    model = fit_trace_model(ds, band="1A", source=(0.0, 0.0))
    return ds, model, fit_spectrum(ds, trace_model=model, around="level")


@functools.cache
def flat():
    """Return exposures of a star of one brightness on an even sky, and their spectrum."""
    ds = made(lambda wave: 20.0 + 0 * wave, sky, noise=0.1)
    return ds, measured(ds, around="level")


@functools.cache
def alone():
    """Return exposures of the star by itself, their trace model and the point source that was fitted by it."""
    ds = made(spectrum, noise=0.5)
    model = fit_trace_model(ds, band="1A", source=(0.0, 0.0))
    return ds, model, fit_point_source(ds, trace_model=model, around="level")


def inner(found):
    """Return a spectrum without its ends."""
    return found.isel(wavelength=np.flatnonzero(np.isfinite(found.flux))[4:-4])


def test_flux_and_errors_of_a_lone_star():
    pulls = []
    for seed in (1, 2):
        found = measured(made(lambda w: 2.0 + 10 * (w - 5.02), sky, noise=1.5, seed=seed), around="level")
        wave = found.wavelength.values
        true = (2.0 + 10 * (wave - 5.02)) * LEVEL
        ratio = found.flux / true
        assert np.abs(ratio.values - 1).max() < 0.3  # S/N 10 a pixel does not tell the PSF
        spread = np.sqrt(found["var"].values) / true
        pulls.append(np.diff(ratio.values) / np.hypot(spread[1:], spread[:-1]))
        np.testing.assert_allclose(found.background.values, SKY, atol=1.0)
    assert 0.85 < np.std(np.concatenate(pulls)) < 1.2


def test_flux_of_a_bright_star():
    ds, model, _ = bright()
    found = assert_step(fit_spectrum, ds, trace_model=model, around="level")
    assert abs(found.attrs["aperture_dec"]) * 3600 < 0.05
    found = inner(found)
    ratio = found.flux.values / (spectrum(found.wavelength.values) * LEVEL)
    np.testing.assert_allclose(ratio.mean(), 1.0, atol=0.02)  # the blur of pixels and spaxels takes 1.3 %
    assert np.std(ratio) < 0.01
    assert found.attrs["extraction"] == "detector"


def test_lines_of_nucleus_and_host_are_told_apart():
    def host(a, b, wave):
        disc = np.exp(-0.5 * (a**2 + (1.5 * b) ** 2) / 0.7**2)
        return disc * (2 + 30 * line(wave, REST + 0.0006 * np.tanh(a / 0.6)))

    found = measured(made(spectrum, host, noise=0.02))
    wave = found.wavelength.values
    ratio, continuum = found.flux.values / LEVEL, 20.0 * (1 + 5 * (wave - 5.02))
    for at, reach in ((5.011, 0.004), (REST, 0.003)):
        line_here = np.abs(wave - at) < reach
        beside = ~line_here & (np.abs(wave - at) < reach + 0.003)
        scale = np.polyval(np.polyfit(wave[beside] - at, ratio[beside] / spectrum(wave[beside]), 1), wave - at)
        rest = ratio / scale - continuum
        if at == REST:  # a line of 30 where the PSF has 10 / arcsec2
            assert np.abs(rest[line_here]).mean() < 0.1 * 30 / 10
        else:
            assert rest[line_here].sum() == pytest.approx((spectrum(wave) - continuum)[line_here].sum(), rel=0.04)


@pytest.mark.parametrize(("cusp", "limit"), [(True, 1.2), (False, 0.65)])
def test_a_line_of_the_nucleus_in_that_of_its_host_has_its_error(cusp, limit):
    """Host light that is sharp within the PSF goes to the nucleus: no fit tells them apart, the error says so."""

    def host(a, b, wave):
        r = np.hypot(a, 1.3 * b)
        return (2 + 40 * line(wave)) * (np.exp(-r / 0.45) if cusp else np.exp(-0.5 * (r / 0.8) ** 2))

    def nucleus(wave):
        return 25.0 + 3 * line(wave)

    ds = made(nucleus, host, noise=0.05, seed=11)
    fitted = fit_point_source(ds, trace_model=fit_trace_model(ds, band="1A", source=(0.0, 0.0)))
    found = fit_spectrum(ds, trace_model=fitted)
    peak, error, off = fitted.peak.values[0], fitted.line_error.values[0], fitted["sample"].values - REST
    here, beside = np.abs(off) < 0.0035, (np.abs(off) > 0.0045) & (np.abs(off) < 0.012)
    level = np.polyval(np.polyfit(off[beside], peak[beside], 1), off)
    strength, known = (
        one[here].sum() / line(REST + off[here]).sum() for one in (25 * (peak / level - 1), 25 * error / level)
    )
    assert abs(strength - 3) < 1.5 * known + 0.05
    assert known < limit
    assert (error[beside] < 0.05 * error[here].max()).all()
    part = np.sqrt(found.var_systematic.values[here]) / found.flux.values[here]
    assert (part > 0.999 * error[here] / peak[here]).all()


def test_a_line_of_the_host_has_its_error_where_noise_hides_it():
    """With this noise the coarser host changes the source by a fifteenth of what it takes of the line, by chance."""

    def disc(a, b, wave):
        x, y = 0.87 * a + 0.5 * b, (0.87 * b - 0.5 * a) / 0.64
        return 0.3 * np.exp(-np.hypot(x, y) / 0.8) * (2 + 40 * line(wave, REST + 0.0005 * np.tanh(x / 0.6)))

    ds = made(lambda wave: 25.0 * (1 + 5 * (wave - 5.02)), disc, noise=0.6, seed=83)
    fitted = fit_point_source(ds, trace_model=fit_trace_model(ds, band="1A", source=(0.0, 0.0)))
    peak, error, wave = fitted.peak.values[0], fitted.line_error.values[0], fitted["sample"].values
    here, beside = np.abs(wave - REST) < 0.0035, (np.abs(wave - REST) > 0.0045) & (np.abs(wave - REST) < 0.012)
    true, more = 12 * line(wave[here]), peak - np.polyval(np.polyfit(wave[beside] - REST, peak[beside], 1), wave - REST)
    taken, told = (true @ one[here] / (true @ true) for one in (more, error))
    noise = np.sqrt(true**2 @ fitted.peak_var.values[0][here]) / (true @ true)
    assert abs(taken) < 2.5 * np.hypot(told, noise)
    assert told < 0.2


def test_a_fit_that_does_not_settle_says_so():
    """Light without a source has no place; two stars of which one is told have not the shape of a PSF."""

    def other(a, b, wave):
        return SKY + 20 * pixel_psf(a - 0.3, b - 0.15, wave)

    for star, around, noise in ((lambda w: 0.02 + 0 * w, sky, 2.0), (spectrum, other, 0.3)):
        ds = made(star, around, noise=noise)
        model = fit_trace_model(ds, band="1A", source=(0.0, 0.0))
        with pytest.warns(MrsxrWarning, match="did not settle"):
            fitted = fit_point_source(ds, trace_model=model, around="level")
        assert fitted.settled == 0
        for product in (
            fit_spectrum(ds, trace_model=fitted), subtract_point_source(ds, trace_model=fitted)
        ):  # fmt: skip
            assert "band 1A: places or PSF of the sources did not settle" in str(notes_of(product))
    with pytest.warns(MrsxrWarning, match="did not settle"):
        found = fit_spectrum(ds, trace_model=model, around="level")
    assert "did not settle" in str(notes_of(found))
    assert "settle" not in str(notes_of(bright()[2]))


def test_an_aperture_correction_and_a_model_that_is_fitted():
    ds, _, fitted = alone()
    table = {"radius": (("aperture", "wavelength"), [[0.3, 0.3], [0.8, 0.8]], {"units": "arcsec"})}
    table["correction"] = (("aperture", "wavelength"), [[1.5, 1.5], [1.1, 1.1]], {"units": "1"})
    apcorr = xr.Dataset(table, {"wavelength": [4.0, 6.0]}, {"level": "reference", "kind": "apcorr", "ref_id": "x"})
    plain, corrected = (fit_spectrum(ds, trace_model=fitted, apcorr=one) for one in (None, apcorr))
    by = np.interp(plain.aperture_radius, [0.3, 0.8], [1.5, 1.1])
    np.testing.assert_allclose(corrected.flux, plain.flux * by, rtol=1e-9)
    np.testing.assert_allclose(corrected["var"], plain["var"] * by**2, rtol=1e-9)
    with pytest.raises(MrsxrError, match="use fit_trace_model"):
        fit_spectrum(ds, trace_model=apcorr)


def test_models_are_kept_by_netcdf_and_say_so(tmp_path):
    ds, model, fitted = alone()
    for one in (model, fitted):
        for name in ("one.fits", "one.nc"):
            with pytest.raises(MrsxrError, match=rf"a {one.kind} is no product: keep it by to_netcdf"):
                save(one, tmp_path / name)
        one.to_netcdf(tmp_path / "kept.nc")
        back = xr.load_dataset(tmp_path / "kept.nc")
        both = [subtract_point_source(ds, trace_model=it, around="level").flux for it in (one, back)]
        np.testing.assert_array_equal(*both)


def test_two_stars_are_fitted_together():
    apart = np.array([0.33, -0.27])  # arcsec, 1.6 FWHM

    def fainter(wave):
        return 8.0 - 40 * (wave - 5.02) + 3 * line(wave, REST)

    ds = made(spectrum, lambda a, b, wave: SKY + fainter(wave) * pixel_psf(a - apart[0], b - apart[1], wave), noise=0.3)
    model = fit_trace_model(ds, band="1A", source=(0.0, 0.0))
    told = tuple((apart + np.array([0.03, 0.02])) / 3600)
    pair = fit_point_source(ds, trace_model=model, around="level", others=[told])
    moved = (pair.place[1] - pair.place[0]).values
    np.testing.assert_allclose(moved, np.broadcast_to(apart, (4, 2)), atol=0.01)
    np.testing.assert_allclose([(pair.ra[1] - pair.ra[0]) % 360, pair.dec[1] - pair.dec[0]], apart / 3600, atol=3e-6)
    means = []
    for which, true in enumerate((spectrum, fainter)):
        found = inner(fit_spectrum(ds, trace_model=pair, which=which))
        ratio = found.flux.values / (true(found.wavelength.values) * LEVEL)
        means.append(ratio.mean())
        assert np.std(ratio) < 0.02
        assert found.attrs["aperture_dec"] * 3600 == pytest.approx(which * apart[1], abs=0.05)
    np.testing.assert_allclose(means, 1.0, atol=0.04)  # both as far off as their PSF is
    np.testing.assert_allclose(means[1], means[0], atol=0.015)
    left = subtract_point_source(ds, trace_model=pair, which=[0]).flux.values - SKY
    a, b = (ds[name].values - PLACES[:, k, None, None] - apart[k] for k, name in enumerate(("alpha", "beta")))
    alone, wave = fainter(ds.wavelength.values) * pixel_psf(a, b, ds.wavelength.values), ds.wavelength.values
    near = (np.hypot(a, b) < 1) & (wave > 5.005) & (wave < 5.04)
    assert np.std((left - alone)[near]) < 0.02 * alone[near].max()
    with pytest.raises(MrsxrError, match="the model has 2"):
        fit_spectrum(ds, trace_model=pair, which=2)
    with pytest.raises(MrsxrError, match="others go with a trace model"):
        subtract_point_source(ds, trace_model=pair, others=[told])
    for off, text in ((0.05, "told apart"), (2.0, "fit those beyond by themselves")):
        with pytest.raises(MrsxrError, match=text):
            fit_point_source(ds, trace_model=model, others=[(0.0, off / 3600)])


@pytest.mark.parametrize("angle", [0.6, 2.4])
@pytest.mark.parametrize("part", [0.5, 0.04])
def test_stars_an_fwhm_apart_are_right_within_their_errors_or_not_told_apart(part, angle):
    away = 0.29 * np.array([np.cos(angle), np.sin(angle)])  # arcsec, 1.05 FWHM

    def other(a, b, wave):
        return SKY + part * 20 * (1 - 5 * (wave - 5.02)) * pixel_psf(a - away[0], b - away[1], wave)

    ds = made(lambda wave: 20.0 + 0 * wave, other, noise=0.3)
    model = fit_trace_model(ds, band="1A", source=(0.0, 0.0))
    told = tuple((away + np.array([0.06, -0.05])) / 3600)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        pair = fit_point_source(ds, trace_model=model, around="level", others=[told])
    for which, true in enumerate((20.0, part * 20)):
        found = fit_spectrum(ds, trace_model=pair, which=which)
        seen = np.isfinite(found.flux.values)
        if not seen.any():
            assert which == 1
            assert "are not told apart" in str([one.message for one in heard])
            continue
        off = found.flux.values[seen].mean() / (true * LEVEL) / 0.987 - 1
        assert abs(off) < 2.5 * float((np.sqrt(found.var_systematic) / found.flux).mean()) + 0.01


def saturated(ds, above):
    """Return data in which pixels above a level [MJy/sr] are lost."""
    bad = ds.flux.values > above
    bits = (ds.dq.values | np.where(bad, dq.SATURATED | dq.DO_NOT_USE, 0)).astype("u4")
    return ds.assign(flux=ds.flux.where(~bad), dq=(ds.dq.dims, bits, ds.dq.attrs))


def test_a_core_that_no_exposure_sees_is_told_by_a_psf_alone():
    """Of the wings of the data alone the peak would be off by half: it is NaN."""
    psf = learn_psf(made(lambda wave: 12.0 + 0 * wave, sky, noise=0.1, seed=9), bands="1A", source=(0.0, 0.0))
    ds, _ = flat()
    holes = saturated(ds, 0.1 * np.nanmax(ds.flux.values))
    model = fit_trace_model(holes, band="1A", source=(0.0, 0.0))
    with pytest.warns(MrsxrWarning, match="its spectrum is NaN there, and nothing is filled; give psf="):
        fitted = fit_point_source(holes, trace_model=model, around="level")
    none, filled = (
        fit_spectrum(holes, trace_model=fitted),
        replace_pixels(holes, method="trace_model", trace_model=fitted),
    )
    assert np.isnan(none.flux).all()
    assert (none.dq.values & dq.DO_NOT_USE).all()
    np.testing.assert_array_equal(filled.flux, holes.flux)
    with pytest.warns(MrsxrWarning, match=r"off the field\); it is known to"):
        fitted = fit_point_source(holes, trace_model=model, around="level", psf=psf)
    found = inner(fit_spectrum(holes, trace_model=fitted))
    told = float((np.sqrt(found.var_systematic) / found.flux).mean())
    assert abs(found.flux.values.mean() / (20 * LEVEL) - 1) < 2 * told < 0.1
    assert (found.dq.values & dq.FLAGS["FLUX_ESTIMATED"]).all()
    made_up = replace_pixels(holes, method="trace_model", trace_model=fitted).flux.values
    bad = np.isnan(holes.flux.values) & np.isfinite(ds.flux.values)
    assert np.nanstd((made_up - ds.flux.values)[bad]) < 0.03 * np.nanmax(ds.flux.values)
    with pytest.raises(MrsxrError, match="no exposure sees the core of the star"), pytest.warns(MrsxrWarning):
        learn_psf(holes, bands="1A", source=(0.0, 0.0))


def test_a_core_that_one_exposure_sees_is_known():
    ds, _ = flat()
    holes = saturated(ds, 0.1 * np.nanmax(ds.flux.values)).copy(deep=True)
    holes.flux[0], holes.dq[0] = ds.flux[0], ds.dq[0]
    found = measured(holes, around="level")
    np.testing.assert_allclose(found.flux.values.mean(), 20 * LEVEL, rtol=0.02)
    assert float(found.lost_light.max()) < 0.01
    assert not found.dq.values.any()


def test_a_core_that_no_exposure_sees_in_a_host_is_as_sure_as_the_host():
    """What a finer host changes is its error: in a bright disc, of whose light the core takes 6 %, it is not known."""
    psf = learn_psf(made(lambda wave: 12.0 + 0 * wave, None, noise=0.1, seed=9), bands="1A", source=(0.0, 0.0))
    for level in (0.6, 8.0):
        disc = functools.partial(lambda level, a, b, _: level * np.exp(-np.hypot(a, 1.4 * b)), level)
        ds = made(lambda wave: 20.0 + 0 * wave, disc, noise=0.05)
        holes = saturated(ds, 0.2 * np.nanmax(ds.flux.values))
        model = fit_trace_model(holes, band="1A", source=(0.0, 0.0), psf=psf)
        with pytest.warns(MrsxrWarning, match="no exposure sees"):
            found = fit_spectrum(holes, trace_model=model, psf=psf)
        if level > 1:
            assert np.isnan(found.flux).all()
        else:
            found = inner(found)
            off = found.flux.values.mean() / (20 * LEVEL) - 1
            assert abs(off) < 2 * float((np.sqrt(found.var_systematic) / found.flux).mean()) < 0.1


@pytest.mark.parametrize("empty", [0, 3])
def test_an_exposure_without_a_usable_pixel_changes_nothing(empty):
    ds = made(spectrum, sky, noise=0.3)
    flux = ds.flux.values.copy()
    flux[empty] = np.nan
    rest = [d for d in range(4) if d != empty]
    found = []
    for one in (ds.assign(flux=(ds.flux.dims, flux, ds.flux.attrs)), ds.isel(dither=rest)):
        model = fit_trace_model(one, band="1A", source=(0.0, 0.0))
        found.append(fit_spectrum(one, trace_model=model, around="level"))
    for name in ("flux", "var"):
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-6)


@pytest.mark.parametrize("seen", [[0], [1], [2], [3], [0, 1]])
def test_few_exposures_know_the_light_that_all_do(seen):
    """Pixels lie side by side: what they show between them is known, also where few exposures show the profile."""
    ds, whole = flat()
    whole, part = xr.align(whole, measured(ds.isel(dither=seen), around="level"))
    off = float((part.flux / whole.flux).mean()) - 1
    told = np.hypot(*(float((np.sqrt(one.var_systematic) / one.flux).mean()) for one in (whole, part)))
    assert abs(off) < 0.01
    assert abs(off) < 3 * told < 0.03


@pytest.mark.filterwarnings("ignore:band 1A")
@pytest.mark.parametrize(
    ("shift", "least", "most"), [((0.0, 1.0), 0.0, 0.02), ((2.1, 0.3), 0.02, 0.3), ((0, 1.6), 0.3, 1)]
)
def test_light_beside_the_field_is_lost(monkeypatch, shift, least, most):
    """The slices end 1.44 and 1.9 arcsec from the middle; places of the star are within 0.41."""
    monkeypatch.setattr(star_scene, "PLACES", PLACES + np.array(shift))
    ds = made(spectrum, sky, noise=0.3)
    found = fit_spectrum(ds, trace_model=fit_trace_model(ds, band="1A", source=(0.0, 0.0)), around="level")
    seen = np.isfinite(found.flux.values)
    assert least <= found.lost_light.values.max() <= most
    if most == 1:
        assert not seen.any()
    else:
        true = spectrum(found.wavelength.values[seen]) * LEVEL
        np.testing.assert_allclose(found.flux.values[seen][4:-4].mean(), true[4:-4].mean(), rtol=0.03)
        flagged = found.dq.values[seen] & dq.FLAGS["FLUX_ESTIMATED"] > 0
        assert flagged.all() if least else not flagged.any()


@pytest.mark.parametrize("where", [slice(24, 34), slice(50, 60)])
def test_rows_that_all_exposures_lost_are_no_light_of_the_source(where):
    """They took the whole spectrum: a quarter of the light of a source was said to be lost."""
    ds = made(spectrum, sky)
    flux = ds.flux.values.copy()
    flux[:, where] = np.nan
    found, whole = (measured(one, around="level") for one in (ds.assign(flux=(ds.flux.dims, flux, ds.flux.attrs)), ds))
    assert found.wavelength.size > 0.6 * whole.wavelength.size
    assert found.lost_light.max() < 0.1
    ratio = found.flux / whole.flux.sel(wavelength=found.wavelength)
    assert float(np.abs(ratio.median() - 1)) < 0.002


@pytest.mark.parametrize("off", [0.6, 1.2])
@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_an_exposure_whose_pointing_is_off_makes_an_error_that_is_told(off):
    """A target that moved or another guide star: the flux was off by a fifth and more, 2 % was told."""
    ds = made(spectrum, sky)
    there = ds.ra_ref.values + np.array([0, off, 0, 0]) / 3600
    wrong = measured(ds.assign_coords(ra_ref=("dither", there, ds.ra_ref.attrs)), around="level")
    true = spectrum(wrong.wavelength.values) * LEVEL
    error = np.sqrt(wrong.var_systematic.values + wrong["var"].values)
    assert np.median(np.abs(wrong.flux.values - true) / error) < 2.0
