"""Optimal extraction and the profile that it rests on."""

import numpy as np
import pytest
import xarray as xr
from scenes import image_of
from test_extract_1d import DEC, RA, make_cube
from test_extract_1d import point_source as make_source

from mrsxr import dq, mrs, schema
from mrsxr.errors import MrsxrError, MrsxrWarning
from mrsxr.spectrum import extract_spectrum, extraction_weights
from mrsxr.spectrum.profile import Profile, expected, fit_profile

N_PLANES = 80


def star(signal, *, kind="point", planes=N_PLANES, seed=1, wavelength=5.3):
    """A star of total light 1000 on a level of 40, noise of the brightest spaxel over ``signal``."""
    rng = np.random.default_rng(seed)
    image = 1000 * image_of(kind, 2.0, (15.2, 14.7), wavelength, 0.13)
    sigma = image.max() / signal
    flux = image + 40.0 + rng.normal(0, sigma, (planes, *image.shape))
    flux[:, :2] = flux[:, :, -2:] = np.nan
    cube = make_cube(flux, np.full(flux.shape, sigma**2), wave0=wavelength, step=0.0008)
    return cube, (15.2, 14.7)


def both(cube, **options):
    return [extract_spectrum(cube, source_type="POINT", method=m, **options) for m in ("aperture", "optimal")]


@pytest.mark.parametrize("signal", [300, 30, 5])
def test_light_is_that_of_the_aperture_with_less_noise(signal):
    circle, profile = both(star(signal)[0])
    schema.validate(profile)
    error = float(np.sqrt(circle["var"].mean())) / np.sqrt(N_PLANES)
    assert float(profile.flux.mean()) == pytest.approx(float(circle.flux.mean()), rel=0.002, abs=1.5 * error)
    assert (profile["var"] < 0.45 * circle["var"]).all()
    if signal <= 30:
        assert float(profile.flux.std()) < 0.7 * float(circle.flux.std())
        assert float(profile.flux.std()) == pytest.approx(float(np.sqrt(profile["var"].mean())), rel=0.25)
    assert float(profile.background.mean()) == pytest.approx(40.0, rel=0.02)
    assert profile.attrs["aperture_x"] == pytest.approx(15.2, abs=0.15)


@pytest.mark.parametrize("options", [{}, {"background": None}, {"center": (RA, DEC)}])
def test_weights_give_the_flux_back(options):
    cube, _ = star(20, planes=30)
    cube["flux"][7, 10:12, 14] = 9e3
    out = both(cube, **options)[1]
    weights = extraction_weights(cube, out)
    total = np.nansum(weights.values * cube.flux.values.astype(float), axis=(1, 2))
    np.testing.assert_allclose(total, out.flux.values, rtol=1e-9)
    variance = np.nansum(weights.values**2 * cube["var"].values.astype(float), axis=(1, 2))
    np.testing.assert_allclose(variance, out["var"].values, rtol=1e-9)


@pytest.mark.filterwarnings("ignore:spectrum 1A. 1 of 80 samples lack:mrsxr.errors.MrsxrWarning")
def test_holes_are_made_up_for_and_outliers_left_out():
    cube, _ = star(100)
    whole = both(cube)[1]
    broken = cube.copy(deep=True)
    broken["flux"][20, 14:16, 15] = np.nan
    broken["flux"][40, 12, 13] = 1e4
    circle, profile = both(broken)
    assert float(profile.flux[20]) == pytest.approx(float(whole.flux[20]), rel=0.02)
    assert float(profile.flux[40]) == pytest.approx(float(whole.flux[40]), rel=0.02)
    assert np.isnan(circle.flux[20])
    assert profile.dq[20] == dq.FLAGS["FLUX_ESTIMATED"]
    assert float(circle.flux[40]) > 2 * float(whole.flux[40])


def test_planes_without_data_are_flagged():
    cube, _ = star(100, planes=20)
    cube["flux"][3] = np.nan
    out = both(cube)[1]
    assert np.isnan(out.flux[3])
    assert out.dq.values.tolist() == [0, 0, 0, 1] + [0] * 16


def test_all_nan_and_zero_variance_are_no_exceptions():
    cube, _ = star(100, planes=10)
    zero = cube.assign(var=cube["var"] * 0)
    assert np.isfinite(both(zero)[1].flux).all()
    empty = cube.assign(flux=cube.flux * np.nan)
    with pytest.warns(MrsxrWarning, match="no sample could be measured"):
        out = extract_spectrum(empty, source_type="POINT", method="optimal", center=(RA, DEC))
    assert np.isnan(out.flux).all()
    assert (out.dq == 1).all()


def test_a_faint_source_gets_the_profile_that_is_expected():
    rng = np.random.default_rng(5)
    cube = make_cube(
        make_source(jansky=1e-4, x=21.0, y=21.0, nz=40) + rng.normal(0, 30, (40, 43, 43)), np.full((40, 43, 43), 900.0)
    )
    out = extract_spectrum(cube, source_type="POINT", method="optimal", center=(RA, DEC))
    profile = Profile.of(out)
    assert not profile.fitted
    np.testing.assert_allclose(out.psf_factor, 1.0, atol=0.02)
    np.testing.assert_allclose(out.psf_fwhm, mrs.psf_fwhm(out.wavelength.values))


def test_a_galaxy_is_told():
    """A nucleus whose share of the light grows along the band is no point source."""
    cube, _ = star(200, planes=150)
    disc = image_of("exponential", 3.0, (15.2, 14.7), 5.3, 0.13)
    ramp = np.linspace(0, 1500, 150)[:, None, None]
    cube["flux"] = cube.flux + (ramp * disc).astype("f4")
    with pytest.warns(MrsxrWarning, match="the source is no point source; take method 'exact'"):
        both(cube)


def test_extended_data_and_unknown_methods_are_refused():
    cube, _ = star(20, planes=3)
    with pytest.raises(MrsxrError, match="'optimal' is for source type POINT"):
        extract_spectrum(cube, source_type="EXTENDED", method="optimal")
    with pytest.raises(MrsxrError, match="expected one of aperture, optimal"):
        extract_spectrum(cube, method="best")
    with pytest.raises(MrsxrError, match="expected one of fit, daofind"):
        extract_spectrum(cube, centering="guess")


def test_lazy_cube_gives_the_same():
    cube, _ = star(50, planes=12)
    lazy = extract_spectrum(cube.chunk(wavelength=4), source_type="POINT", method="optimal", center=(RA, DEC))
    eager = extract_spectrum(cube, source_type="POINT", method="optimal", center=(RA, DEC))
    xr.testing.assert_identical(lazy.drop_attrs(), eager.drop_attrs())


def test_common_errors_of_a_factor_scale_with_the_flux():
    cube, _ = star(1000, planes=6)
    cube["var_systematic"] = ((0.03 * cube.flux) ** 2).assign_attrs(units="MJy2/sr2")
    out = both(cube)[1]
    np.testing.assert_allclose(np.sqrt(out.var_systematic) / out.flux, 0.03, rtol=0.01)


def test_profile_is_fitted_to_the_cube():
    cube, place = star(500)
    found = fit_profile(cube, (15.0, 15.0))
    assert found.fitted
    assert np.hypot(found.x - place[0], found.y - place[1]) < 0.15
    assert 0.8 < found.width < 1.1
    wide = fit_profile(cube, (15.0, 15.0), psf=lambda w: 0.5 * mrs.psf_fwhm(w))
    assert wide.width == pytest.approx(2 * found.width, rel=0.05)
    held = fit_profile(cube, (15.0, 15.0), fixed=True)
    assert (held.x, held.y) == pytest.approx((15.0, 15.0), abs=1e-4)
    assert Profile.of(xr.Dataset(attrs=found.attrs())) == found


def test_a_psf_without_width_is_refused():
    with pytest.raises(MrsxrError, match="expected a positive FWHM"):
        expected(np.array([5.0, 6.0]), lambda w: 0.0 * w)
