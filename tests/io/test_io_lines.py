"""Line fits and maps: FITS and netCDF give them back, other programs see images with a sky."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

import mrsxr as mx
from mrsxr.simulate import simulate_cube, simulate_spectrum


@pytest.fixture(scope="module")
def maps():
    cube = simulate_cube(band="3A", size=3.0).sel(wavelength=slice(12.9, 13.3))
    return mx.lines.fit_line(cube, "[Ne II] 12.81", components="auto").compute()


@pytest.fixture(scope="module")
def table():
    return mx.lines.fit_lines(simulate_spectrum(band="3A"), ["[Ne II] 12.81", "H2 S(2) 12.28"])


@pytest.mark.parametrize("name", ["maps.fits", "maps.nc", "maps.zarr"])
def test_maps_come_back_as_they_were(maps, tmp_path, name):
    (path,) = mx.save(maps, tmp_path / name)
    back = mx.schema.validate(mx.load(path))
    sky = ["ra", "dec"]
    xr.testing.assert_identical(back.drop_vars(sky), maps.drop_vars(sky))
    spot = {"ra": float(maps.ra[4, 5]), "dec": float(maps.dec[4, 5])}
    np.testing.assert_array_equal(back.flux.sel(spot).values, maps.flux.isel(y=4, x=5).values)


def test_maps_in_fits_have_a_sky_and_units(maps, tmp_path):
    (path,) = mx.save(maps, tmp_path)
    assert path.name.endswith("_ch3-short_ne-ii-12-81_maps_lines.fits")
    with fits.open(path) as hdus:
        assert hdus[1].name == "FLUX"
        header = hdus["FLUX"].header
        assert header["BUNIT"] == "W m-2"
        assert header["LINE1"] == "[Ne II] 12.81"
        sky = WCS(header).celestial.pixel_to_world(5, 4)
        np.testing.assert_allclose([sky.ra.deg, sky.dec.deg], [maps.ra[4, 5], maps.dec[4, 5]], atol=1e-7)
        np.testing.assert_array_equal(hdus["VELOCITY"].data, maps.velocity.values)


def test_table_of_a_spectrum(table, tmp_path):
    (path,) = mx.save(table, tmp_path / "lines.fits")
    with fits.open(path) as hdus:
        rows = hdus["LINES"].data
        assert list(rows["LINE"]) == list(table.line.values)
        np.testing.assert_array_equal(rows["FLUX"], table.flux.values)
        assert hdus["LINES"].columns["FLUX"].unit == "W m-2"
    xr.testing.assert_identical(mx.load(path), table)


@pytest.mark.parametrize(("key", "value", "attr", "kept"), [("BKGDTARG", True, "background", 1),
                                                            ("TARGNAME", "OTHER", "target", "OTHER")])  # fmt: skip
def test_keywords_that_are_added_later_count(table, tmp_path, key, value, attr, kept):
    known = table.assign_attrs(background=0, target="")
    (path,) = mx.save(known, tmp_path / "lines.fits")
    with fits.open(path, mode="update") as hdus:
        assert not hdus[0].header.get(key)
        hdus[0].header[key] = value
    assert mx.load(path).attrs[attr] == kept


def test_a_band_that_is_added_later_is_refused(table, tmp_path):
    (path,) = mx.save(table.assign_attrs(detector="MIRIFULONG"), tmp_path / "lines.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["DETECTOR"] = "MIRIFUSHORT"
    with pytest.raises(mx.InputFileError, match="DETECTOR is MIRIFUSHORT, but the file was saved with MIRIFULONG"):
        mx.load(path)
