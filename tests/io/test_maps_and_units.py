"""Maps of every kind and cubes in any unit have a FITS layout: the same again, at the right place, in units of FITS."""

from __future__ import annotations

import sys
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from mrsxr import convert_units
from mrsxr.cube import regrid
from mrsxr.errors import MrsxrError, SchemaError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.io import load, save
from mrsxr.lines import bin_spaxels, channel_maps, fit_line, line_ratio, moments, subtract_continuum
from mrsxr.spaxels import solid_angle
from mrsxr.spectrum import extract_spectrum
from mrsxr.units import fits_text

sys.path.insert(0, str(Path(__file__).parents[1] / "lines"))
from line_cubes import S_III, Z, line_cube

SPEEDS = {"redshift": Z}
SEEN = ("x", "y", "wavelength")
EVERY, BACK = slice(None, None, 2), slice(None, None, -1)


@pytest.fixture(scope="module")
def cube():
    y, x = np.mgrid[:9, :12]
    flux = 2e-18 * np.exp(-0.5 * ((x - 7) ** 2 + (y - 3) ** 2) / 9.0)
    return line_cube(flux, velocity=40.0, noise=0.02, continuum=20.0)


MAPS = {
    "moments": lambda c: moments(c, S_III, **SPEEDS),
    "channel maps": lambda c: channel_maps(c, S_III, width=200.0, **SPEEDS),
    "uneven channels": lambda c: channel_maps(c, S_III, edges=[-600, -100, 0, 600], **SPEEDS),
    "fit": lambda c: fit_line(c, S_III, **SPEEDS),
    "ratio": lambda c: line_ratio(moments(c, S_III, **SPEEDS), S_III, S_III, snr=0.0),
    "bins": lambda c: bin_spaxels(c, line=S_III, snr=20.0, method="tessellation", **SPEEDS)[0]
    if False else c.drop_vars(list(c.data_vars)).drop_dims("wavelength").assign(
        bin=(("y", "x"), np.arange(108).reshape(9, 12) // 4)).assign_attrs(level="bins"),
}  # fmt: skip
CHANGES = {
    "whole": lambda ds: ds,
    "cut": lambda ds: ds.isel(x=slice(2, 10), y=slice(1, None)),
    "flipped": lambda ds: ds.isel(x=BACK, y=slice(7, 1, -1)),
    "transposed": lambda ds: ds.transpose("x", "y", ...),
    "every second": lambda ds: ds.isel(x=EVERY, y=EVERY),
}


def sky_of(cube, ds):
    grid = CubeGrid.of(cube)
    return grid.offsets_to_sky(*np.meshgrid(ds.x.values, ds.y.values))


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", MAPS)
def test_maps_are_the_same_again_at_the_right_place(cube, kind, change, tmp_path):
    ds = CHANGES[change](MAPS[kind](cube))
    (path,) = save(ds, tmp_path)
    ra, dec = sky_of(cube, ds)
    names = [n for n in ds.data_vars if {"y", "x"} <= set(ds[n].dims)]
    with fits.open(path) as hdus:
        assert hdus[1].name == {"moments": "MOMENT0", "ratio": "RATIO", "bins": "BIN"}.get(kind, "FLUX")
        for name in names:
            image = hdus[str(name).upper()]
            wcs = WCS(image.header).celestial
            j, i = np.indices(ra.shape)
            there = wcs.wcs_pix2world(i, j, 0)
            np.testing.assert_allclose(there[0] % 360, ra, rtol=0, atol=1e-9)
            np.testing.assert_allclose(there[1], dec, rtol=0, atol=1e-9)
            np.testing.assert_array_equal(image.data, ds[name].transpose(..., "y", "x"))
            unit = u.Unit(image.header.get("BUNIT", ""), format="fits")
            assert unit == u.Unit(ds[name].attrs.get("units", ""))
        if kind == "channel maps":
            found = WCS(hdus["FLUX"].header).spectral.pixel_to_world(np.arange(ds.sizes["velocity"]))
            np.testing.assert_allclose(found.to_value("km/s"), ds.velocity)
        header = hdus[1].header
        if kind in ("moments", "fit") or "channel" in kind:  # light is counted per spaxel of the cube
            assert header["PIXAR_SR"] == pytest.approx(solid_angle(cube))
            assert ("COMMENT" in hdus[0].header) == (change == "every second")
    back = load(path)
    told = {"notes": back.attrs["notes"]} if "notes" in back.attrs else {}
    np.testing.assert_allclose(back.ra, ra, rtol=0, atol=1e-10)
    xr.testing.assert_identical(
        back.drop_vars(["ra", "dec"]),
        ds.drop_vars(["ra", "dec"], errors="ignore").transpose(..., "y", "x").compute().assign_attrs(told),
    )
    for form in ("netcdf", "zarr") if change == "flipped" and kind == "moments" else ():
        again = load(*save(ds, tmp_path, form))
        np.testing.assert_allclose(again.ra, ra, rtol=0, atol=1e-10)
        np.testing.assert_array_equal(again.moment0, ds.moment0)


def test_maps_that_fits_cannot_place_are_refused(cube, tmp_path):
    maps = moments(cube, S_III, **SPEEDS)
    for odd, message in (
        (maps.isel(x=[0, 1, 4]), "not equally spaced"), (maps.isel(y=2), r"isel\(y=\[k\]\)"),
        (maps.drop_vars("y"), "coordinate 'y'"),
    ):  # fmt: skip
        with pytest.raises(MrsxrError, match=message):
            save(odd, tmp_path / "a.fits")
        back = load(*save(odd, tmp_path / "a.nc"))
        np.testing.assert_array_equal(back.moment0, odd.moment0)
    one = maps.isel(y=3, x=7)
    back = load(*save(one, tmp_path / "one.fits"))
    assert float(back.ra) == float(one.ra)
    assert float(back.moment0) == float(one.moment0)


UNITS = (
    ("mJy/arcsec2", False), ("Jy/pix", False), ("W m-2 um-1 sr-1", False), ("W m-2 sr-1", False), ("W m-2", True),
    ("erg s-1 cm-2 Angstrom-1 arcsec-2", False), ("photon s-1 cm-2 um-1 arcsec-2", False), ("Jy/spaxel", False),
    ("W m-2 Hz-1 sr-1", False),
)  # fmt: skip


@pytest.mark.parametrize(("unit", "per_sample"), UNITS)
def test_cubes_in_other_units(cube, unit, per_sample, tmp_path):
    ds = convert_units(cube.isel(y=BACK), unit, per_sample=per_sample)
    for given in (ds, ds.chunk({"wavelength": 7})):
        (path,) = save(given, tmp_path / "a_s3d.fits")
        with fits.open(path) as hdus:
            for hdu, name, power in (("SCI", "flux", 1), ("ERR", "flux", 1), ("VAR", "flux", 2)):
                found = u.Unit(hdus[hdu].header["BUNIT"], format="fits")
                wanted = u.Unit(ds[name].attrs["units"].replace("spaxel", "pix")) ** power
                assert (found / wanted).decompose().scale == pytest.approx(1.0)
                assert (found / wanted).decompose() == u.dimensionless_unscaled
            np.testing.assert_allclose(hdus["ERR"].data, np.sqrt(ds["var"]), rtol=1e-6)
            assert hdus["SCI"].header["PIXAR_SR"] == pytest.approx(solid_angle(cube))
        back = load(path).compute()
        xr.testing.assert_identical(back.drop_vars(["ra", "dec"]).drop_encoding(), ds.drop_vars(["ra", "dec"]))
        native = convert_units(back, "MJy/sr")
        np.testing.assert_allclose(native.flux, cube.isel(y=BACK).flux, rtol=1e-5)
    with fits.open(path) as hdus:  # and without what only this package knows
        fits.HDUList([h for h in hdus if h.name != "MRSXR"]).writeto(tmp_path / "plain_s3d.fits")
    with fits.open(tmp_path / "plain_s3d.fits", mode="update") as hdus:
        hdus[0].header.pop("CAL_VER", None)
    if not per_sample:
        plain = convert_units(load(tmp_path / "plain_s3d.fits"), "MJy/sr")
        np.testing.assert_allclose(plain.flux, cube.isel(y=BACK).flux, rtol=1e-5)
        np.testing.assert_allclose(plain["var"], cube["var"], rtol=1e-4)


@pytest.mark.parametrize("unit", ["mJy", "W m-2 um-1", "mJy/arcsec2"])
def test_spectra_in_other_units(cube, unit, tmp_path):
    spectrum = convert_units(extract_spectrum(cube, source_type="EXTENDED"), unit)
    (path,) = save(spectrum, tmp_path / "a_x1d.fits")
    with fits.open(path) as hdus:
        units = {c.name: c.unit for c in hdus["EXTRACT1D"].columns}
    column, name = ("SURF_BRIGHT", "surface_brightness") if "arcsec" in unit else ("FLUX", "flux")
    assert u.Unit(units[column], format="fits") == u.Unit(unit)
    error = {"SURF_BRIGHT": "SB_ERROR", "FLUX": "FLUX_ERROR"}[column]
    assert u.Unit(units[error], format="fits") == u.Unit(unit)
    back = load(path)
    np.testing.assert_allclose(back[name], spectrum[name])
    assert back[name].units == spectrum[name].units
    for text in units.values():
        u.Unit(text or "", format="fits")


def test_counted_light_of_coarsened_cubes_comes_back(cube):
    light = convert_units(cube, "Jy/pix").isel(x=EVERY, y=EVERY)
    np.testing.assert_allclose(convert_units(light, "MJy/sr").flux, cube.flux.isel(x=EVERY, y=EVERY), rtol=1e-5)
    coarse = cube[["flux"]].coarsen(x=2, y=2, boundary="trim").mean()
    light = convert_units(coarse, "Jy/pix")
    assert light.attrs["pixar_sr"] == pytest.approx(4 * solid_angle(cube))
    total = float(convert_units(cube[["flux"]], "Jy/pix").flux.isel(y=slice(8), wavelength=3).sum())
    assert float(light.flux.isel(wavelength=3).sum()) == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(convert_units(light, "MJy/sr").flux, coarse.flux, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_maps_of_coarsened_cubes_count_all_light(cube):
    whole = moments(cube.isel(y=slice(8)), S_III, threshold=None, **SPEEDS)
    coarse = cube.isel(y=slice(8)).coarsen(x=2, y=2).mean()
    few = moments(coarse, S_III, threshold=None, **SPEEDS)
    assert float(few.moment0.sum()) == pytest.approx(float(whole.moment0.sum()), rel=1e-3)
    assert few.attrs["pixel_scale"] == pytest.approx(2 * cube.attrs["pixel_scale"])
    fit = [float(fit_line(c, S_III, **SPEEDS).flux.sum()) for c in (cube.isel(y=slice(8)), coarse)]
    assert fit[1] == pytest.approx(fit[0], rel=1e-2)
    light = float(moments(cube, S_III, threshold=None, **SPEEDS).moment0.sum())
    thin = moments(cube.isel(wavelength=EVERY), S_III, threshold=None, degree=0, window=4000.0, **SPEEDS)
    assert float(thin.moment0.sum()) == pytest.approx(light, rel=0.1)
    back = moments(cube.isel(wavelength=BACK).transpose("x", "y", "wavelength"), S_III, threshold=None, **SPEEDS)
    np.testing.assert_allclose(back.moment0, moments(cube, S_III, threshold=None, **SPEEDS).moment0, rtol=1e-9)
    there = regrid(whole, few)
    assert float(there.moment0.sum()) == pytest.approx(float(whole.moment0.sum()), rel=1e-6)
    strided = regrid(whole.isel(x=EVERY, y=EVERY), whole, min_coverage=0.0)
    assert any("counted per spaxel" in note for note in strided.attrs["notes"])
    assert float(np.nansum(strided.moment0)) == pytest.approx(float(whole.moment0.sum()), rel=0.1)


def test_units_of_fits():
    for text, wanted in (("MJy/sr", "MJy/sr"), ("1", ""), ("", ""), ("Jy/spaxel", "Jy pix-1"), ("DN/s", "DN/s"),
                         ("micron", "um"), ("mJy2 / arcsec4", "mJy2 / arcsec4")):  # fmt: skip
        assert fits_text(text) == wanted
    for odd in ("0.3 Jy", "furlong", "K_x"):
        with pytest.raises(SchemaError):
            fits_text(odd)


def test_every_unit_of_our_products_is_one_of_fits(cube, tmp_path):
    spectrum = extract_spectrum(cube, source_type="EXTENDED")
    products = [cube, subtract_continuum(cube, S_III, **SPEEDS), spectrum, fit_line(spectrum, S_III, **SPEEDS)]
    products += [make(cube) for make in MAPS.values()]
    for k, ds in enumerate(products):
        (path,) = save(ds, tmp_path / f"{k}.fits")
        with fits.open(path) as hdus:
            found = [str(v) for h in hdus for key, v in h.header.items() if key == "BUNIT" or key.startswith("TUNIT")]
        assert found or ds.attrs["level"] in ("bins", "line_ratio")
        for text in found:
            u.Unit(text, format="fits")
