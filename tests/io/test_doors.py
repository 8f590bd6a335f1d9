"""Datasets as objects of other packages, and back."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.io import fits
from astropy.nddata import InverseVariance
from test_io_products import exposures, make_cube, make_spectrum

from mrsxr import schema
from mrsxr.dq import DO_NOT_USE, SATURATED
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.io import from_specutils, save, to_hdulist, to_specutils

quiet = pytest.mark.filterwarnings("ignore")  # of their packages


@pytest.fixture
def specutils():
    return pytest.importorskip("specutils")


def test_hdulist_is_what_is_saved(tmp_path):
    (tmp_path / "in").mkdir()
    rate = exposures(tmp_path / "in", "rate", 2)
    for ds, options in ((make_cube(), {}), (make_spectrum(), {}), (rate, {"dither": 2})):
        path = save(ds, tmp_path)[-1]
        with fits.open(path) as saved:
            found = to_hdulist(ds, **options)
            assert fits.FITSDiff(found, saved, ignore_hdus=["MRSXR"], ignore_keywords=["DATE"], rtol=1e-12).identical
    with pytest.raises(MrsxrError, match="2 exposures"):
        to_hdulist(rate)
    with pytest.raises(MrsxrError, match="no dither 7; expected one of 1, 2"):
        to_hdulist(rate, 7)


@quiet
@pytest.mark.parametrize("variable", ["flux", "surface_brightness"])
def test_spectrum_there_and_back(specutils, variable):
    ours = make_spectrum()
    ours["dq"][:] = 0
    ours["flux"][1], ours["dq"][2], ours["dq"][3] = np.nan, DO_NOT_USE | SATURATED, SATURATED
    found = to_specutils(ours, variable)
    variance = {"flux": "var", "surface_brightness": "surface_brightness_var"}[variable]
    np.testing.assert_array_equal(found.flux.value, ours[variable])
    np.testing.assert_allclose(found.uncertainty.array**2, ours[variance], rtol=1e-6)
    assert found.mask[[1, 2, 3]].tolist() == [variable == "flux", True, False]
    assert found.flux.unit == {"flux": u.Jy, "surface_brightness": u.MJy / u.sr}[variable]
    back = from_specutils(found)
    xr.testing.assert_allclose(back, ours, rtol=1e-6)
    assert back.attrs == ours.attrs
    twice = from_specutils(found * 2.0)
    np.testing.assert_allclose(twice[variable], 2 * ours[variable], rtol=1e-6)
    np.testing.assert_allclose(twice[variance], 4 * ours[variance], rtol=1e-6)
    bare = to_specutils(ours.drop_vars(variance), variable)
    assert bare.uncertainty is None
    assert np.isnan(from_specutils(bare)[variance]).all()


@quiet
def test_spectrum_of_others(specutils):
    axis = np.linspace(5e4, 6e4, 30) * u.AA
    flux = np.linspace(1, 2, 30) * u.Unit("erg s-1 cm-2 AA-1")
    other = specutils.Spectrum(
        flux=flux,
        spectral_axis=axis,
        mask=np.arange(30) == 4,
        uncertainty=InverseVariance(np.full(30, 4.0) / flux.unit**2),
    )
    ours = from_specutils(other)
    schema.validate(ours)
    np.testing.assert_allclose(ours.wavelength, np.linspace(5, 6, 30), rtol=1e-12)
    expected = flux.to_value("Jy", equivalencies=u.spectral_density(axis))
    np.testing.assert_allclose(ours.flux, expected, rtol=1e-6)
    np.testing.assert_allclose(np.sqrt(ours["var"]) / ours.flux, 0.5 / flux.value, rtol=1e-6)
    assert np.flatnonzero(ours.dq).tolist() == [4]
    bare = from_specutils(specutils.Spectrum(flux=flux, spectral_axis=axis))
    assert np.isnan(bare["var"]).all()
    with pytest.raises(MrsxrError, match="expected one spectrum, or a cube"):
        from_specutils(specutils.Spectrum(flux=np.ones((4, 30)) * u.Jy, spectral_axis=axis))


@quiet
@pytest.mark.parametrize("kind", ["linear", "unequal"])
def test_cube_there_and_back(specutils, kind):
    ours = make_cube(n=(12, 7, 5))
    if kind == "unequal":
        ours = ours.assign_coords(wavelength=("wavelength", np.geomspace(5, 20, 12), {"units": "um"}))
        ours.attrs.update(band="1A,2A,3A", bands=["1A", "2A", "3A"])
    found = to_specutils(ours.chunk(wavelength=4))
    np.testing.assert_array_equal(np.moveaxis(found.flux.value, found.spectral_axis_index, 0), ours.flux)
    np.testing.assert_allclose(found.spectral_axis.to_value("um"), ours.wavelength, rtol=1e-7)
    x, y = 2.0, 4.0
    sky = found.wcs.celestial.pixel_to_world(x, y)
    back = from_specutils(found)
    assert abs(float(back.ra[4, 2]) - sky.ra.deg) < 1e-9
    xr.testing.assert_allclose(back.drop_vars(["ra", "dec"]), ours, rtol=1e-6)
    assert back.attrs == ours.attrs
    found.meta.clear()  # as of others: all from the WCS
    alone = from_specutils(found)
    schema.validate(alone)
    np.testing.assert_allclose(alone.ra, back.ra, rtol=0, atol=1e-9)
    np.testing.assert_allclose(alone.flux, ours.flux, rtol=1e-6)


def test_wrong_data_are_refused(specutils, tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    with pytest.raises(LevelError, match="level spectrum or cube, got rate"):
        to_specutils(exposures(tmp_path / "in", "rate", 1))
    with pytest.raises(MrsxrError, match="no 'surface_brightness'"):
        to_specutils(make_cube(), "surface_brightness")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MrsxrError, match="pip install specutils"):
        to_specutils(make_spectrum())
