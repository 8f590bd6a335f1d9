"""Weights of an extraction and the variance of its result with the covariance of the voxels."""

import numpy as np
import pytest
from helpers import assert_step
from test_extract_1d import DEC, RA, make_cube
from test_extract_1d import point_source as make_source

from mrsxr import schema
from mrsxr.errors import MrsxrError
from mrsxr.spectrum import extract_spectrum
from mrsxr.spectrum.exact_errors import extraction_weights, set_exact_errors

REGION = f'icrs; ellipse({RA},{DEC},1.4",0.7",30)'


@pytest.fixture
def cube():
    rng = np.random.default_rng(7)
    flux = make_source()
    flux = flux + rng.normal(0, 0.3, flux.shape)
    flux[:, 5:8, 30:33] = np.nan
    flux[2, 30, 12] = 1e4  # clipped in the annulus
    return make_cube(flux)


@pytest.mark.parametrize(
    "options",
    [
        {"background": None}, {"background": "annulus"}, {"like_jwst": True},
        {"like_jwst": True, "background": None}, {"source_type": "EXTENDED"}, {"region": REGION},
        {"source_type": "EXTENDED", "center": (RA, DEC), "radius": 0.8},
    ],
)  # fmt: skip
def test_weights_give_the_flux_back(cube, options):
    spectrum = extract_spectrum(cube, **options)
    weights = extraction_weights(cube, spectrum)
    total = np.nansum(weights.values * cube.flux.values.astype(float), axis=(1, 2))
    np.testing.assert_allclose(total, spectrum.flux.values, rtol=1e-9)


@pytest.mark.parametrize("method", ["aperture", "optimal"])
def test_weights_find_the_aperture_in_a_cube_that_was_cut_otherwise(cube, method):
    spectrum = extract_spectrum(cube, method=method)
    cut = cube.isel(x=slice(2, None), y=slice(3, None))
    whole, part = (extraction_weights(c, spectrum).values for c in (cube, cut))
    np.testing.assert_allclose(part, whole[:, 3:, 2:], rtol=1e-6, atol=1e-9)
    with pytest.raises(MrsxrError, match="spaxels are of other sizes"):
        extraction_weights(cube.isel(x=slice(None, None, 2), y=slice(None, None, 2)), spectrum)


def test_exact_variance_takes_the_place_of_the_simple_one(cube):
    spectrum = extract_spectrum(cube)
    exact = spectrum[["var"]].drop_vars("band") * 4.0
    exact["var_systematic"] = exact["var"] * 0 + 1e-6
    out = assert_step(set_exact_errors, spectrum, variance=exact)
    np.testing.assert_allclose(out["var"], 4 * spectrum["var"])
    np.testing.assert_allclose(out.surface_brightness_var, 4 * spectrum.surface_brightness_var)
    np.testing.assert_allclose(out.var_simple, spectrum["var"])
    assert out.var_systematic.attrs["units"] == "Jy2"
    schema.validate(out)


def test_a_spectrum_of_another_cube_is_refused(cube):
    spectrum = extract_spectrum(cube)
    with pytest.raises(MrsxrError, match="was not extracted from the cube"):
        extraction_weights(cube.isel(wavelength=slice(0, 3)), spectrum)
    rest = spectrum.isel(wavelength=slice(3, 6))
    with pytest.raises(MrsxrError, match="take the very cube of the spectrum"):  # as many planes, others
        extraction_weights(cube.isel(wavelength=slice(0, 3)), rest)
    with pytest.raises(MrsxrError, match=r"the variance \(3 samples, .* is not that of the spectrum"):
        set_exact_errors(rest, variance=spectrum[["var"]].isel(wavelength=slice(0, 3)))
