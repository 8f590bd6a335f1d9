"""The index of any image on the sky: nothing here is of the MRS."""

from __future__ import annotations

import ast
import inspect
import pickle

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS, Sip

from mrsxr.geometry import celestial
from mrsxr.geometry.celestial import CelestialIndex, cut_wcs, with_celestial_index

SHAPE = (30, 40)


def image_wcs(projection="TAN", frame=("RA--", "DEC-"), centre=(83.822, -5.391), turn=37.0, scale=3e-5, **more) -> WCS:
    """A WCS of an image with turned axes, in the CD form of cameras."""
    a = np.radians(turn)
    cd = scale * np.array([[-np.cos(a), np.sin(a)], [np.sin(a), np.cos(a)]])
    header = fits.Header({
        "CTYPE1": f"{frame[0]:-<4}-{projection}", "CTYPE2": f"{frame[1]:-<4}-{projection}",
        "CRPIX1": 18.5, "CRPIX2": 7.25,
        "CRVAL1": centre[0], "CRVAL2": centre[1], "CD1_1": cd[0, 0], "CD1_2": cd[0, 1], "CD2_1": cd[1, 0],
        "CD2_2": cd[1, 1], "CUNIT1": "deg", "CUNIT2": "deg", **more,
    })  # fmt: skip
    return WCS(header)


def distorted() -> WCS:
    wcs = image_wcs("TAN-SIP")
    a = np.zeros((4, 4))
    a[2, 0], a[0, 2], a[1, 1] = 3e-4, -1e-4, 2e-4
    wcs.sip = Sip(a, a.T.copy(), None, None, wcs.wcs.crpix)
    return wcs


MADE = {
    "TAN": image_wcs,
    "SIN": lambda: image_wcs("SIN"),
    "ZEA at the pole": lambda: image_wcs("ZEA", centre=(10, 89.9999)),
    "across 0 h": lambda: image_wcs(centre=(0.0002, 12.0)),
    "whole sky": lambda: image_wcs("CAR", centre=(0, 0), scale=2.0),
    "declination first": lambda: image_wcs(frame=("DEC-", "RA--"), centre=(-5.391, 83.822)),
    "SIP": distorted,
}


def image(wcs, shape=SHAPE, **sizes) -> xr.Dataset:
    dims, full = (*sizes, "y", "x"), (*sizes.values(), *shape)
    return with_celestial_index(xr.Dataset({"light": (dims, np.arange(np.prod(full)).reshape(full))}), wcs)


def test_is_free_of_the_rest_of_the_package():
    tree = ast.parse(inspect.getsource(celestial))
    names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= {
        "__future__",
        "collections",
        "typing",
        "warnings",
        "numpy",
        "xarray",
        "astropy",
    }


@pytest.mark.parametrize("name", MADE)
def test_any_projection_finds_its_pixels(name):
    wcs = MADE[name]()
    ds = image(wcs)
    sky = SkyCoord(wcs.pixel_to_world([3.2, 30.0, 0.0], [4.1, 22.3, 0.0]))
    for k, (y, x) in enumerate([(4, 3), (22, 30), (0, 0)]):
        assert int(ds.sel(ra=sky[k].ra, dec=sky[k].dec).light) == y * SHAPE[1] + x
    many = ds.sel(ra=xr.DataArray(sky.ra.deg, dims="star"), dec=xr.DataArray(sky.dec.deg, dims="star"))
    assert many.light.values.tolist() == [4 * 40 + 3, 22 * 40 + 30, 0]
    cut = ds.isel(y=slice(20, 4, -3), x=slice(2, None, 5))
    y, x = np.meshgrid(np.arange(20, 4, -3), np.arange(2, 40, 5), indexing="ij")
    whole = SkyCoord(wcs.pixel_to_world(x, y))
    assert SkyCoord(cut.ra.values, cut.dec.values, unit="deg").separation(whole).max() < 1e-9 * u.deg
    again = cut.sel(ra=float(cut.ra[2, 3]), dec=float(cut.dec[2, 3]))
    assert int(again.light) == int(cut.light[2, 3])
    if not wcs.has_distortion:
        assert with_celestial_index(cut, cut.xindexes["ra"].wcs).xindexes["ra"].equals(cut.xindexes["ra"])
    assert not cut.xindexes["ra"].equals(ds.xindexes["ra"])


@pytest.mark.parametrize("name", ["TAN", "SIN", "SIP"])
def test_what_no_pixel_shows_is_outside(name):
    ds = image(MADE[name]())
    for ra, dec in ((263.822, 5.391), (83.822, 5.391), (83.9, -5.391), (np.nan, 0.0), (173.0, 80.0)):
        with pytest.raises(KeyError, match="outside the field; the field of 30 x 40 pixels"):
            ds.sel(ra=ra, dec=dec)


def test_galactic_axes_and_names_of_ones_own():
    wcs = image_wcs(frame=("GLON", "GLAT"), centre=(120.0, 3.0))
    ds = image(wcs, wavelength=3)
    sky = wcs.pixel_to_world(11, 5)
    assert ds.sel(l=sky.l, b=sky.b).light.values.tolist() == [5 * 40 + 11 + 1200 * k for k in range(3)]
    assert ds["l"].attrs["long_name"].startswith("galactic longitude")
    named = with_celestial_index(xr.DataArray(np.eye(3), dims=("row", "col")), wcs, ("row", "col"), ("lon", "lat"))
    assert float(named.sel(lon=float(named.lon[1, 1]), lat=float(named.lat[1, 1]))) == 1.0


def test_index_of_coordinates_that_are_there():
    ds, wcs = image(image_wcs()), image_wcs()
    plain = ds.drop_indexes(["ra", "dec"]).load()
    with pytest.raises(ValueError, match="set_xindex"):
        plain.sel(ra=83.82, dec=-5.39)
    with pytest.raises(ValueError, match="needs wcs="):
        plain.set_xindex(("ra", "dec"), CelestialIndex)
    found = plain.set_xindex(("ra", "dec"), CelestialIndex, wcs=wcs)
    assert found.xindexes["ra"].equals(ds.xindexes["ra"])


@pytest.mark.parametrize(
    "cut",
    [
        lambda ds: ds.isel(y=[4, 7, 10]), lambda ds: ds.isel(x=np.arange(39)[:3:-2]), lambda ds: ds.isel(x=[-3]),
        lambda ds: ds.isel(y=np.arange(30) % 2 == 1), lambda ds: ds.where(ds.row > 11, drop=True),
        lambda ds: xr.concat([ds.isel(x=slice(0, 9)), ds.isel(x=slice(9, 31))], "x"),
        lambda ds: xr.align(ds.isel(y=slice(5, 20)), ds.isel(y=slice(11, None)), join="inner")[0],
        lambda ds: xr.align(ds.isel(x=slice(5, 20)), ds.isel(x=slice(11, 30)), join="outer")[1].isel(x=slice(6, None)),
        lambda ds: ds.reindex_like(ds.isel(y=slice(25, 2, -3))), lambda ds: ds.isel(y=slice(1, 9)).combine_first(ds),
        lambda ds: pickle.loads(pickle.dumps(ds.chunk(y=7).persist())).transpose("x", "y"),
    ],
)  # fmt: skip
def test_index_goes_with_the_pixels(cut):
    ds = image(image_wcs())
    ds = ds.assign(
        ra_then=ds.ra.drop_indexes(["ra", "dec"]).load(), row=ds.light * 0 + xr.DataArray(range(30), dims="y")
    )
    left = cut(ds.drop_vars("y", errors="ignore"))
    assert isinstance(left.xindexes["ra"], CelestialIndex)
    np.testing.assert_allclose(left.ra, left.ra_then.transpose(*left.ra.dims), rtol=0, atol=1e-11)
    at = left.isel(y=-1, x=-1)
    assert left.sel(ra=float(at.ra), dec=float(at.dec)).light == at.light


def test_what_makes_other_pixels_loses_the_index():
    ds = image(image_wcs()).assign_coords(y=np.arange(30.0), x=np.arange(40.0))
    for other in (ds.interp(y=np.arange(29) + 0.5), ds.sortby("y"), ds.pad(x=2), ds.roll(y=3, roll_coords=True)):
        assert "ra" not in other.xindexes
    for apart in (ds.isel(y=slice(0, 9, 2)), image(image_wcs(centre=(83.9, -5.4)))):
        with pytest.raises(xr.AlignmentError, match="different sky grids"):
            ds + apart
    with pytest.raises(xr.AlignmentError, match="different sky grids"):
        xr.concat([ds.isel(x=slice(0, 9)), ds.isel(x=slice(10, 31))], "x")


def test_coarsened_image():
    wcs = image_wcs()
    ds = image(wcs)
    wide = ds.drop_vars(["ra", "dec"]).coarsen(y=3, x=4).mean()
    wide = with_celestial_index(wide, cut_wcs(wcs, (1.5, 1.0), (4, 3)))
    sky = wcs.pixel_to_world(4 * 6 + 1.5, 3 * 2 + 1.0)
    assert float(wide.sel(ra=sky.ra, dec=sky.dec).light) == float(wide.light[2, 6])
    assert abs(float(wide.ra[2, 6]) - sky.ra.deg) < 1e-10


def test_wrong_wcs_is_refused():
    wcs = image_wcs()
    wcs.array_shape = SHAPE
    with pytest.raises(ValueError, match="15 x 40 pixels, the WCS is of 30 x 40"):
        image(wcs, (15, 40))
    with pytest.raises(ValueError, match="no dimension 'y'"):
        with_celestial_index(xr.Dataset({"light": (("row", "x"), np.zeros((2, 2)))}), wcs)
    with pytest.raises(ValueError, match="a longitude and a latitude"):
        image(WCS(fits.Header({"CTYPE1": "WAVE", "CTYPE2": "FREQ", "NAXIS": 2})))
    with pytest.raises(ValueError, match="distorted"):
        cut_wcs(distorted(), (1, 1))
