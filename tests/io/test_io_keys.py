"""Products carry their keys in every format, and are known as inputs by them."""

from __future__ import annotations

import os

import pytest
import xarray as xr
from astropy.io import fits
from test_io_products import exposures, make_cube, make_spectrum

from mrsxr.convert import convert_units
from mrsxr.io import key_of, load, save
from mrsxr.pipeline.keys import of_file
from mrsxr.step import STEPS, step
from mrsxr.tree import join_dithers

KEY = "0123456789abcdef"


@step(needs="cal")
def mask_nothing(ds: xr.Dataset) -> xr.Dataset:
    return ds


STEPS.pop("test_io_keys.mask_nothing")


def cal(folder):
    (inputs := folder / "in").mkdir()
    return exposures(inputs, "cal", 1)


@pytest.mark.parametrize("form", ["fits", "netcdf", "zarr"])
@pytest.mark.parametrize("make", [cal, lambda _: make_cube(), lambda _: make_spectrum()])
def test_a_product_carries_its_key(tmp_path, form, make):
    ds = make(tmp_path).assign_attrs(key=KEY)
    (path,) = save(ds, tmp_path, form)
    assert key_of(path) == KEY
    back = load(path)
    assert back.attrs["key"] == KEY
    assert "MRSXKEY" not in str(back.attrs) + str(back.coords.get("fits_header", ""))
    del back.attrs["key"]
    (other,) = save(back, tmp_path / "next", form)
    assert key_of(other) is None
    first = of_file(path)
    os.utime(path, ns=(0, 0))
    assert of_file(path) == first != of_file(other)


def test_an_edit_of_the_header_of_a_product_is_another_input(tmp_path):
    (path,) = save(cal(tmp_path).assign_attrs(key=KEY), tmp_path)
    first = of_file(path)
    fits.setval(path, "DATE", value="2001-01-01T00:00:00.000")
    assert of_file(path) == first
    fits.setval(path, "TARGNAME", value="NGC 1068")
    assert of_file(path) != first


def test_what_is_made_of_a_product_has_no_key(tmp_path):
    both = exposures(tmp_path, "cal", 2)
    one, two = (both.isel(dither=[i]).assign_attrs(key=str(i) * 16) for i in (0, 1))
    assert "key" not in convert_units(one, "Jy/arcsec2").attrs
    assert "key" not in mask_nothing(one).attrs
    joined = join_dithers([one, two])
    assert "key" not in joined.attrs
    assert "key" not in joined.coords
    assert "key" not in join_dithers([one, two.assign_attrs(key="0" * 16)]).attrs
    assert one.attrs["key"] == "0" * 16
