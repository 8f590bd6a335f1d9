"""Cubes and spectra that are simulated without the detector hold the light, the widths and the noise of the scene."""

from __future__ import annotations

import numpy as np
import pytest

from mrsxr import mrs, schema
from mrsxr.errors import MrsxrError
from mrsxr.simulate import Line, LineDisc, PointSource, PowerLaw, Scene
from mrsxr.simulate.products import simulate_cube, simulate_spectrum
from mrsxr.simulate.scene import line_width
from mrsxr.units import MJYSR_TO_JY_PER_ARCSEC2

RA, DEC, Z = 150.0, 2.0, 0.01
NEON = Line("[Ne II]", 12.81355, 4e-17, 50.0, 300.0)
POINT = PointSource(RA, DEC, PowerLaw(20.0), (NEON,), Z)
DISC = LineDisc(RA, DEC, scale_length=0.5, rotation=150.0, lines=(Line("[Ne II]", 12.81355, 3e-17),), redshift=Z)
NEAR = (12.85, 13.05)


def light(cube):
    """Return the flux of the field [Jy] in each plane."""
    return cube.flux.sum(("y", "x")).values * cube.pixel_scale**2 * MJYSR_TO_JY_PER_ARCSEC2


def line_flux(wavelength, jansky, step):
    return np.sum(jansky * 2.99792458e-12 / wavelength**2) * step


def test_cube_and_spectrum_are_of_their_level_and_hold_the_same_light():
    scene = Scene(RA, DEC, points=(POINT,), discs=(DISC,))
    cube = simulate_cube(scene, "3A", size=12.0, noise=0.0, wavelength=NEAR)
    spectrum = simulate_spectrum(scene, "3A", snr=1e6)
    schema.validate(cube)
    schema.validate(spectrum)
    assert cube.attrs["redshift"] == spectrum.attrs["redshift"] == Z
    np.testing.assert_allclose(light(cube), spectrum.flux.sel(wavelength=cube.wavelength, method="nearest"), rtol=6e-3)


def test_line_of_a_disc_has_its_flux_and_moves_with_the_rotation():
    cube = simulate_cube(Scene(RA, DEC, discs=(DISC,)), "3A", size=14.0, noise=0.0, wavelength=NEAR)
    wave = cube.wavelength.values
    assert line_flux(wave, light(cube), 0.0025) == pytest.approx(3e-17, rel=5e-3)
    flux = cube.flux.sel(y=slice(-2, 2), x=slice(-2, 2))
    place = (flux * cube.wavelength).sum("wavelength") / flux.sum("wavelength")
    v = 299792.458 * (place / (12.81355 * (1 + Z)) - 1)
    top = 150.0 * np.sin(np.deg2rad(45.0))
    north_east = v.sel(x=-0.9, y=1.1, method="nearest")  # position angle 40 deg, x grows to the west
    assert 0.7 * top < float(north_east) < top
    assert float(v.sel(x=0.9, y=-1.1, method="nearest")) == pytest.approx(-float(north_east), abs=5.0)


def test_point_source_has_the_width_of_cubes_and_its_place():
    here = PointSource(RA + 0.4 / 3600, DEC - 0.3 / 3600, PowerLaw(20.0))
    cube = simulate_cube(Scene(RA, DEC, points=(here,)), "1A", noise=0.0, size=6.0, wavelength=(5.0, 5.01))
    image = cube.flux.isel(wavelength=0)
    peak = image.where(image == image.max(), drop=True)
    off = np.hypot((peak.ra - here.ra) * np.cos(np.deg2rad(DEC)), peak.dec - here.dec) * 3600
    assert float(off.squeeze()) < 0.13
    area = float(image.sum() / image.max()) * 0.13**2  # of the PSF, wings included
    core = np.pi * mrs.psf_fwhm(5.0) ** 2 / (4 * np.log(2.0))
    assert core < area < 2.5 * core


def test_width_of_a_line_is_that_of_gas_and_instrument():
    spectrum = simulate_spectrum(Scene(RA, DEC, points=(POINT,)), "3A", snr=1e7)
    near = spectrum.sel(wavelength=slice(*NEAR))
    wave = near.wavelength.values
    above = near.flux.values - 1e-3 * PowerLaw(20.0)(wave)
    mean = np.average(wave, weights=above / wave**2)
    centre, sigma = line_width(NEON, Z)
    assert mean == pytest.approx(centre, abs=2e-4)
    second = np.sqrt(np.average((wave - mean) ** 2, weights=above / wave**2))
    assert second == pytest.approx(np.hypot(sigma, 0.0025 / np.sqrt(12.0)), rel=0.01)


def test_noise_is_that_of_the_variance_and_repeats_with_the_seed():
    scene = Scene(RA, DEC, points=(POINT,))
    cube = simulate_cube(scene, "3A", wavelength=NEAR, seed=3)
    clean = simulate_cube(scene, "3A", wavelength=NEAR, noise=0.0)
    pull = ((cube.flux - clean.flux) / np.sqrt(cube["var"])).values
    assert abs(pull.mean()) < 0.02
    assert pull.std() == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(cube.flux, simulate_cube(scene, "3A", wavelength=NEAR, seed=3).flux)
    assert not np.array_equal(cube.flux, simulate_cube(scene, "3A", wavelength=NEAR, seed=4).flux)
    spectra = [simulate_spectrum(scene, "3A", snr=snr, seed=1) for snr in (20.0, 1e7)]
    pull = ((spectra[0].flux - spectra[1].flux) / np.sqrt(spectra[0]["var"])).values
    assert pull.std() == pytest.approx(1.0, abs=0.08)


def test_errors_tell_what_is_wrong():
    with pytest.raises(MrsxrError, match="no MRS band"):
        simulate_cube(band="5A")
    with pytest.raises(MrsxrError, match="no plane lies"):
        simulate_cube(band="1A", wavelength=(20.0, 21.0))
    with pytest.raises(MrsxrError, match=r"snr is 0\.0; expected a number above 0"):
        simulate_spectrum(band="1A", snr=0.0)
