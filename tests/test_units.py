"""Units of light: parsing, the law between two of them, and convert_units on every level."""

from __future__ import annotations

import astropy.units as u
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers import no_compute

from mrsxr import schema, units
from mrsxr.convert import convert_units
from mrsxr.errors import LevelError, SchemaError
from mrsxr.step import read_history

LIGHT_UM = 299792458.0 * 1e6  # um/s
SR = (np.pi / 648000) ** 2  # of an arcsec2
SURFACE = ["MJy/sr", "mJy/arcsec2", "Jy/pix", "Jy/spaxel", "W m-2 um-1 sr-1", "W m-2 sr-1", "W m-2 Hz-1 sr-1",
           "erg/s/cm2/Angstrom/arcsec2", "W m-2 um-1/pix", "photon s-1 cm-2 um-1 sr-1"]  # fmt: skip
FLUX = ["Jy", "mJy", "W m-2 um-1", "erg s-1 cm-2 um-1", "W m-2 Hz-1", "W m-2", "photon s-1 cm-2 um-1"]


def cube(wavelength=None):
    rng = np.random.default_rng(1)
    wavelength = np.linspace(4.9, 28.0, 7) if wavelength is None else wavelength
    dims, shape = ("wavelength", "y", "x"), (wavelength.size, 3, 4)
    flux = rng.normal(50, 30, shape).astype("f4")
    flux[0, 0, 0] = np.nan
    return xr.Dataset(
        {
            "flux": (dims, flux, {"units": "MJy/sr", "long_name": "surface brightness"}),
            "var": (dims, rng.uniform(0.1, 3, shape).astype("f4"), {"units": "MJy2/sr2"}),
            "var_systematic": (dims, rng.uniform(0.1, 3, shape).astype("f4"), {"units": "MJy2/sr2"}),
            "weight": (dims, np.ones(shape, "f4"), {"units": "1"}),
            "dq": (dims, np.zeros(shape, "u4"), {"units": "1"}),
        },
        coords={"wavelength": ("wavelength", wavelength, {"units": "um"})},
        attrs={"level": "cube", "pixel_scale": 0.13, "wavelength_step": 0.002, "history_json": "[]"},
    )


def cal():
    rng = np.random.default_rng(2)
    dims, shape = ("dither", "y", "x"), (2, 4, 5)
    names = ("flux", "var_poisson", "var_read", "var_flat", "var_photom")
    wavelength = np.linspace(5, 6, 4)[:, None] * np.ones(5)
    wavelength[:, 0] = np.nan
    coords = {
        "wavelength": (("y", "x"), wavelength, {"units": "um"}),
        "pixel_area": (("y", "x"), rng.uniform(0.02, 0.05, (4, 5)).astype("f4"), {"units": "arcsec2"}),
    }
    variables = {n: (dims, rng.uniform(1, 5, shape).astype("f4"), {"units": schema.units_of("cal", n)}) for n in names}
    return xr.Dataset(variables, coords, {"level": "cal", "history_json": "[]"})


def spectrum():
    rng = np.random.default_rng(3)
    wavelength = np.concatenate([np.linspace(5.0, 5.7, 8), np.linspace(5.6, 6.6, 11)])
    names = ("flux", "var", "surface_brightness", "surface_brightness_var", "background")
    variables = {
        n: ("wavelength", rng.uniform(1, 2, 19), {"units": schema.units_of("spectrum", n)}) for n in names
    }  # fmt: skip
    band = np.array(["1A"] * 8 + ["1B"] * 11)
    coords = {"wavelength": ("wavelength", wavelength, {"units": "um"}), "band": ("wavelength", band)}
    return xr.Dataset(variables, coords, {"level": "spectrum", "history_json": "[]"})


def test_parse_and_what_a_unit_is_per():
    assert units.parse("Jy/spaxel") == units.parse("Jy pix-1")
    assert units.parse("erg/s/cm2/um") == u.erg / u.s / u.cm**2 / u.um
    found = {text: units.density_per(units.parse(text)) for text in ("mJy/arcsec2", "W m-2/pix", "erg s-1 cm-2")}
    assert found == {"mJy/arcsec2": "sr", "W m-2/pix": "pix", "erg s-1 cm-2": ""}
    for wrong in ("K", "DN/s", "Jy2", "W"):
        with pytest.raises(SchemaError, match="measures no density of light"):
            units.density_per(units.parse(wrong))
    with pytest.raises(SchemaError, match="'None' is no unit"):
        units.parse(None)


@pytest.mark.parametrize("target", FLUX)
@pytest.mark.parametrize("source", FLUX)
def test_law_between_two_units_is_that_of_astropy(source, target):
    first, last = units.parse(source), units.parse(target)
    scale, power = units.spectral_law(first, last)
    for wavelength in (4.9, 28.0):
        by = u.spectral_density(wavelength * u.um)
        expected = first.to(u.Jy, 1.0, by) / last.to(u.Jy, 1.0, by)
        assert scale * wavelength**power == pytest.approx(expected, rel=1e-12)


def test_an_arcsec2_is_exact():
    assert units.ARCSEC2_TO_SR == pytest.approx(SR, rel=1e-14)
    assert units.spectral_law(units.parse("MJy/sr"), units.parse("Jy/arcsec2")) == (
        pytest.approx(1e6 * SR, rel=1e-12),
        0,
    )


def test_numbers_of_a_cube():
    ds = cube()
    ds["flux"] = ds.flux.fillna(7.0)
    wave, flux = ds.wavelength.values[:, None, None], ds.flux.values.astype(float)
    nu = LIGHT_UM / wave
    expected = {
        "mJy/arcsec2": flux * 1e9 * SR, "Jy/pix": flux * 1e6 * SR * 0.13**2, "Jy": flux * 1e6 * SR * 0.13**2,
        "W m-2 um-1 sr-1": flux * 1e-20 * nu / wave, "W m-2 sr-1": flux * 1e-20 * nu,
        "W m-2": flux * 1e-20 * nu * SR * 0.13**2,
    }  # fmt: skip
    for unit, values in expected.items():
        out = convert_units(ds, unit)
        np.testing.assert_allclose(out.flux.values, values, rtol=2e-7, err_msg=unit)
        ratio = (values / flux) ** 2
        np.testing.assert_allclose(out["var"].values, ds["var"].values * ratio, rtol=4e-7, err_msg=unit)
        assert units.parse(out["var_systematic"].attrs["units"]) == units.parse(out.flux.attrs["units"]) ** 2
        assert out.flux.attrs["long_name"] == "surface brightness"
        assert (out.weight.values == 1).all()
    assert convert_units(ds, "Jy").flux.attrs["units"] == "Jy/pix"
    assert read_history(convert_units(ds, "Jy"))[-1]["params"] == {"unit": "Jy", "per_sample": False}


def test_power_in_the_sample_sums_to_the_flux_of_a_line():
    wavelength = np.arange(6.9, 7.1, 0.002)
    ds = cube(wavelength)
    line = 1e-20  # W m-2 a spaxel, a Gaussian of 0.01 um
    profile = np.exp(-0.5 * ((wavelength - 7.0) / 0.01) ** 2) / (0.01 * np.sqrt(2 * np.pi))
    nu_squared_over_c = LIGHT_UM / wavelength**2
    brightness = line * profile / (SR * 0.13**2) / nu_squared_over_c / 1e-20
    ds["flux"] = ds.flux.copy(data=np.broadcast_to(brightness[:, None, None], ds.flux.shape).astype("f4"))
    out = convert_units(ds, "W m-2", per_sample=True)
    np.testing.assert_allclose(out.flux.sum("wavelength"), line, rtol=1e-5)
    assert out.flux.attrs["per_sample"] == 1
    plain = convert_units(ds, "W m-2")
    near = np.abs(wavelength - 7) < 0.06
    ratio = (plain.flux / out.flux)[near, 1, 2]
    np.testing.assert_allclose(ratio, wavelength[near] / 0.002, rtol=1e-5)
    for back in (convert_units(out, "MJy/sr"), convert_units(convert_units(out, "W m-2"), "MJy/sr")):
        np.testing.assert_allclose(back.flux[near], ds.flux[near], rtol=4e-7)
        assert "per_sample" not in back.flux.attrs


@pytest.mark.parametrize("make", [cube, cal])
@pytest.mark.parametrize("unit", SURFACE)
def test_round_trip_is_exact_to_float32(make, unit):
    ds = make()
    back = convert_units(convert_units(ds, unit), "MJy/sr")
    for name in ds.data_vars:
        assert back[name].dtype == ds[name].dtype
        assert back[name].attrs == ds[name].attrs
        known = np.isfinite(back[name])
        assert known.sum() >= (0.75 * known.size)
        np.testing.assert_allclose(back[name].where(known), ds[name].where(known), rtol=2.5e-7)


@pytest.mark.parametrize("unit", FLUX)
def test_spectra_convert_flux_or_surface_brightness(unit):
    ds = spectrum()
    out = convert_units(ds, unit)
    assert out.flux.attrs["units"] == unit
    expected = (ds.flux.values * u.Jy).to(units.parse(unit), u.spectral_density(ds.wavelength.values * u.um)).value
    np.testing.assert_allclose(out.flux, expected, rtol=1e-12)
    np.testing.assert_allclose(out["var"], ds["var"] * (expected / ds.flux.values) ** 2, rtol=1e-12)
    assert (out.surface_brightness == ds.surface_brightness).all()
    xr.testing.assert_allclose(convert_units(out, "Jy"), ds, rtol=1e-12)
    surface = convert_units(ds, "mJy/arcsec2")
    for name in ("surface_brightness", "background"):
        np.testing.assert_allclose(surface[name], ds[name] * 1e9 * SR, rtol=1e-12)
    np.testing.assert_allclose(surface.surface_brightness_var, ds.surface_brightness_var * (1e9 * SR) ** 2, rtol=1e-12)
    assert (surface.flux == ds.flux).all()


def test_samples_of_a_stitched_spectrum_are_as_wide_as_those_of_their_band():
    ds = spectrum()
    ratio = convert_units(ds, "W m-2", per_sample=True).flux / convert_units(ds, "W m-2 um-1").flux
    np.testing.assert_allclose(ratio, np.where(ds.band == "1A", 0.1, 0.1), rtol=1e-9)
    short = ds.isel(wavelength=slice(7, None))  # one sample of 1A: no width
    assert np.isnan(convert_units(short, "W m-2", per_sample=True).flux[0])


def test_detector_pixels_have_areas_of_their_own():
    ds = cal()
    out = convert_units(ds, "mJy/pix")
    np.testing.assert_allclose(out.flux, ds.flux * (ds.pixel_area.astype(float) * SR * 1e9), rtol=2e-7)
    assert out.flux.dims == ds.flux.dims
    assert out.var_photom.attrs["units"] == "mJy2 / pix2"


def test_lazy_data_stay_lazy():
    for make in (cube, cal):
        ds = make()
        lazy = ds.copy()
        for name in ds.data_vars:
            lazy[name] = ds[name].chunk({ds[name].dims[0]: 1})
        with no_compute():
            out = convert_units(lazy, "W m-2 um-1 sr-1")
        assert isinstance(out.flux.data, da.Array)
        assert out.flux.chunks == lazy.flux.chunks
        xr.testing.assert_identical(out.compute(), convert_units(ds, "W m-2 um-1 sr-1"))
        assert ds.flux.attrs["units"] == "MJy/sr"  # pure


def test_float32_is_left_where_it_cannot_hold_the_variance():
    out = convert_units(cube(), "W m-2 Hz-1/pix")
    assert out["var"].dtype == "float64"
    assert (out["var"].values > 0).all()
    assert convert_units(cube(), "mJy/arcsec2")["var"].dtype == "float32"


@pytest.mark.parametrize(
    ("make", "change", "unit", "error", "message"),
    [
        (cube, {}, "K", SchemaError, "'K' measures no density of light"),
        (cube, {}, "Jy/beam", SchemaError, "measures no density"),
        (cube, {}, "MJy/strad", SchemaError, "'MJy/strad' is no unit"),
        (spectrum, {}, "Jy/pix", SchemaError, "spectra have no pixels"),
        (cube, {"attrs": {"level": "rate"}}, "Jy", LevelError, "needs data of level cal, cube or spectrum, got rate"),
        (cube, {"drop": "flux"}, "Jy", SchemaError, "variable 'flux' is missing"),
        (cal, {"drop": "wavelength"}, "W m-2 um-1 sr-1", SchemaError, "'wavelength' is missing.*run assign_wcs"),
        (cal, {"drop": "pixel_area"}, "Jy/pix", SchemaError, "'pixel_area' is missing"),
        (cube, {"attrs": {"level": "cube"}}, "Jy/pix", SchemaError, "attribute 'pixel_scale' is missing"),
    ],
)  # fmt: skip
def test_errors_are_clear(make, change, unit, error, message):
    ds = make()
    if "drop" in change:
        ds = ds.drop_vars(change["drop"])
    if "attrs" in change:
        ds.attrs = change["attrs"]
    with pytest.raises(error, match=message):
        convert_units(ds, unit)


def test_errors_of_powers_and_of_data_without_units():
    with pytest.raises(SchemaError, match="detector pixels have no common wavelength samples"):
        convert_units(cal(), "W m-2/pix", per_sample=True)
    with pytest.raises(SchemaError, match="per_sample gives a power"):
        convert_units(cube(), "Jy/pix", per_sample=True)
    ds = cube()
    ds["flux"] = ds.flux.drop_attrs()
    with pytest.raises(SchemaError, match="'flux' has no units"):
        convert_units(ds, "Jy/pix")


def test_steps_and_fits_files_want_the_units_of_the_level(tmp_path):
    import mrsxr as mx

    ds = cube().assign_attrs(band="1A")
    other = convert_units(ds, "mJy/arcsec2")
    message = "needs flux in MJy/sr, got mJy/arcsec2; use convert_units"
    with pytest.raises(SchemaError, match=message):
        mx.spectrum.extract_spectrum(other)
    with pytest.raises(mx.MrsxrError, match="FITS products hold flux in MJy/sr, got mJy/arcsec2"):
        mx.save(convert_units(cal(), "mJy/arcsec2").assign_attrs(level="cal"), tmp_path)
    (path,) = mx.save(other, tmp_path / "cube.nc")
    again = mx.load(path).compute()
    xr.testing.assert_allclose(convert_units(again, "MJy/sr").flux, ds.flux, rtol=3e-7)
