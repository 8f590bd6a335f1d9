from __future__ import annotations

import copy

import dask.array
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS
from helpers import nearest_pixel
from hypothesis import given
from hypothesis import strategies as st

from mrsxr.errors import MrsxrError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.index import CelestialIndex, attach_index, cut_wcs

CENTRES = st.tuples(
    st.one_of(st.floats(0, 359.99), st.sampled_from([0.0, 1e-5, 359.99999])),
    st.one_of(st.floats(-80, 80), st.sampled_from([-89.99, 89.99])),
)


def make_cube(crval=(0.0001, 33.0), angle=20.0, chunks=None) -> xr.Dataset:
    g = CubeGrid(crval, 0.13, 15, 11, 4.9, 0.0008, 6, position_angle=angle)
    data = np.arange(np.prod(g.shape), dtype="f4").reshape(g.shape)
    ds = xr.Dataset(
        {"flux": (("wavelength", "y", "x"), data)}, g.coords(), {"level": "cube", "wcs": g.header().tostring(sep="\n")}
    )
    return attach_index(ds if chunks is None else ds.chunk(chunks))


def position(ds: xr.Dataset, y: float, x: float) -> tuple[float, float]:
    ra, dec = ds.xindexes["ra"].wcs.wcs_pix2world(x, y, 0)
    return float(ra), float(dec)


@given(crval=CENTRES, angle=st.floats(-180, 360), y=st.floats(-0.49, 10.49), x=st.floats(-0.49, 14.49))
def test_scalar_selection_finds_the_spaxel(crval, angle, y, x):
    ds = make_cube(crval, angle)
    ra, dec = position(ds, y, x)
    out = ds.sel(ra=ra, dec=dec)
    assert out.sizes == {"wavelength": 6}
    expected = ds.flux.isel(y=round_half_up(y), x=round_half_up(x))
    if min(abs(y % 1 - 0.5), abs(x % 1 - 0.5)) > 1e-4:
        np.testing.assert_array_equal(out.flux, expected)
        assert nearest_pixel(ds, (ra, dec)) == (round_half_up(y), round_half_up(x))


def round_half_up(value: float) -> int:
    return int(np.floor(value + 0.5))


def test_coordinates_are_those_of_the_wcs_and_stay_lazy():
    ds = make_cube()
    y, x = np.indices((11, 15))
    ra, dec = WCS(fits.Header.fromstring(ds.attrs["wcs"], sep="\n")).celestial.wcs_pix2world(x, y, 0)
    np.testing.assert_allclose(ds.ra, ra % 360, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ds.dec, dec, rtol=0, atol=1e-12)
    assert ds.ra.attrs["units"] == ds.dec.attrs["units"] == "deg"
    assert type(ds.ra.variable._data).__name__ == "CoordinateTransformIndexingAdapter"
    assert isinstance(ds.xindexes["ra"], CelestialIndex)
    assert ds.xindexes["ra"] is ds.xindexes["dec"]
    assert (ds.ra.values.min(), ds.ra.values.max()) > (0, 359)


def test_pointwise_selection():
    ds = make_cube()
    pairs = [(2, 3), (10, 14), (0, 0)]
    ra, dec = np.array([position(ds, *p) for p in pairs]).T
    for kind in (xr.DataArray, lambda data, dims: xr.Variable(dims, data)):
        out = ds.sel(ra=kind(ra, dims="source"), dec=kind(dec, dims="source"))
        assert out.flux.dims == ("wavelength", "source")
        for k, (y, x) in enumerate(pairs):
            np.testing.assert_array_equal(out.flux[:, k], ds.flux[:, y, x])
    ra[1] += 1.0
    with pytest.raises(KeyError, match="outside the field"):
        ds.sel(ra=xr.DataArray(ra, dims="s"), dec=xr.DataArray(dec, dims="s"))


def test_outside_the_field_is_a_key_error_and_never_wraps():
    ds = make_cube()
    for y, x in [(-0.51, 3), (10.51, 3), (4, -0.51), (4, 14.51), (-1, -1), (5000, 3)]:
        with pytest.raises(KeyError, match="outside the field"):
            ds.sel(dict(zip(("ra", "dec"), position(ds, y, x), strict=True)))
    ra, dec = position(ds, 5, 7)
    for far in [(ra + 180, -dec), (ra + 90, 0.0), (ra + 180, dec), (np.nan, dec)]:
        with pytest.raises(KeyError, match="centred on ra"):
            ds.sel(ra=far[0], dec=far[1])


def test_units_and_wrap_of_labels():
    ds = make_cube()
    ra, dec = position(ds, 4, 6)
    expected = ds.flux.isel(y=4, x=6)
    for label in (ra, ra + 360, ra - 360, ra * u.deg, np.float64(ra)):
        np.testing.assert_array_equal(ds.sel(ra=label, dec=dec, method="nearest").flux, expected)
    np.testing.assert_array_equal(ds.sel(ra=(ra / 15) * u.hourangle, dec=dec * 60 * u.arcmin).flux, expected)


def test_wrong_labels_are_explained():
    ds = make_cube()
    ra, dec = position(ds, 4, 6)
    with pytest.raises(KeyError, match="dec is missing"):
        ds.sel(ra=ra)
    with pytest.raises(ValueError, match="pad"):
        ds.sel(ra=ra, dec=dec, method="pad")
    with pytest.raises(ValueError, match="tolerance"):
        ds.sel(ra=ra, dec=dec, method="nearest", tolerance=1.0)
    with pytest.raises(TypeError, match="DataArrays"):
        ds.sel(ra=[ra, ra], dec=[dec, dec])
    with pytest.raises(TypeError, match="same dimensions"):
        ds.sel(ra=xr.DataArray([ra], dims="a"), dec=xr.DataArray([dec], dims="b"))
    with pytest.raises(TypeError, match="slices for ra and dec"):
        ds.sel(ra=slice(ra, ra + 1e-4), dec=dec)
    with pytest.raises(ValueError, match="no step"):
        ds.sel(ra=slice(ra, ra + 1e-4, 2))
    with pytest.raises(ValueError, match="both limits of ra"):
        ds.sel(ra=slice(ra, None))


@given(
    crval=st.sampled_from([(0.0, 0.0), (359.9999, 60.0), (120.0, -75.0)]), angle=st.floats(0, 360),
    wide=st.floats(0.3, 3.0), high=st.floats(0.3, 3.0), swap=st.booleans(),
)  # fmt: skip
def test_box_on_the_sky(crval, angle, wide, high, swap):
    ds = make_cube(crval, angle)
    half = wide / 2 / 3600 / np.cos(np.radians(crval[1]))
    ra = ((crval[0] - half) % 360, (crval[0] + half) % 360)
    dec = (crval[1] - high / 2 / 3600, crval[1] + high / 2 / 3600)
    box = {"ra": slice(*(ra[::-1] if swap else ra)), "dec": slice(*(dec[::-1] if swap else dec))}
    out = ds.sel(box)
    assert isinstance(out.xindexes["ra"], CelestialIndex)
    away = (ds.ra.values - crval[0] + 180) % 360 - 180
    lit = (np.abs(away) <= half) & (ds.dec.values >= dec[0]) & (ds.dec.values <= dec[1])
    rows, columns = np.nonzero(lit.any(1))[0], np.nonzero(lit.any(0))[0]
    expected = ds.flux[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    np.testing.assert_array_equal(out.flux, expected)


def test_box_of_one_coordinate_and_empty_box():
    ds = make_cube(angle=0.0)
    dec = ds.dec.values[:, 7]
    out = ds.sel(dec=slice(float(dec[3]) - 1e-7, float(dec[6]) + 1e-7))
    assert out.sizes["x"] == 15
    assert 4 <= out.sizes["y"] <= 5
    assert ds.sel(dec=slice(None, float(dec[3]))).sizes["y"] < ds.sel(dec=slice(None, None)).sizes["y"] == 11
    with pytest.raises(KeyError, match="no pixel"):
        ds.sel(ra=slice(10, 11), dec=slice(10, 11))


@pytest.mark.parametrize(
    ("y", "x"),
    [
        (slice(2, 9), slice(None)), (slice(1, None, 2), slice(0, 15, 3)),
        (slice(None, None, -1), slice(12, 3, -2)), (slice(-4, None), slice(-5, -1)), (slice(3, 4), slice(5, 6)),
    ],
)  # fmt: skip
def test_isel_keeps_an_exact_index(y, x):
    ds = make_cube()
    cut = ds.isel(y=y, x=x)
    assert isinstance(cut.xindexes["ra"], CelestialIndex)
    np.testing.assert_allclose(cut.ra, ds.ra.values[y, x], rtol=0, atol=1e-12)
    np.testing.assert_allclose(cut.dec, ds.dec.values[y, x], rtol=0, atol=1e-12)
    last = {"ra": float(cut.ra[-1, -1]), "dec": float(cut.dec[-1, -1])}
    np.testing.assert_array_equal(cut.sel(last).flux, ds.flux.values[:, y, x][:, -1, -1])
    again = attach_index(cut.drop_vars(["ra", "dec"]))
    assert again.xindexes["ra"].equals(cut.xindexes["ra"])


def test_isel_that_leaves_no_image_gives_plain_coordinates():
    ds = make_cube()
    for cut in (ds.isel(y=3), ds.isel(y=3, x=4), ds.isel(x=[1, 5, 6]), ds.isel(y=xr.DataArray([1, 2], dims="s"))):
        assert "ra" not in cut.xindexes
        assert "ra" in cut.coords
    np.testing.assert_allclose(ds.isel(y=3).ra, ds.ra.values[3])
    assert ds.isel(wavelength=2).xindexes["ra"].equals(ds.xindexes["ra"])


def test_lives_beside_the_offsets():
    ds = make_cube()
    cut = ds.sel(x=slice(-0.3, 0.3), y=slice(-0.2, 0.5), wavelength=slice(4.901, 4.903))
    assert {"x", "y", "wavelength", "ra", "dec"} == set(cut.xindexes)
    ra, dec = position(ds, 6, 7)
    np.testing.assert_array_equal(cut.sel(ra=ra, dec=dec).flux, ds.flux.isel(y=6, x=7, wavelength=slice(1, 4)))
    one = ds.flux.sel(ra=ra, dec=dec)
    assert float(one.x) == pytest.approx(0.0, abs=1e-12)
    assert float(one.y) == pytest.approx(0.13)


def test_equality_and_arithmetic():
    ds, same, other = make_cube(), make_cube(), make_cube(angle=21.0)
    index = ds.xindexes["ra"]
    assert index.equals(same.xindexes["ra"])
    assert not index.equals(other.xindexes["ra"])
    assert not index.equals(make_cube((0.0002, 33.0)).xindexes["ra"])
    assert not index.equals(ds.isel(x=slice(0, 14)).xindexes["ra"])
    assert not index.equals(ds.xindexes["x"])
    twice = ds + same
    assert isinstance(twice.xindexes["ra"], CelestialIndex)
    np.testing.assert_array_equal(twice.flux, 2 * ds.flux)
    with pytest.raises(xr.AlignmentError, match="different sky grids"):
        ds + other
    joined = xr.concat([ds.isel(wavelength=slice(0, 2)), ds.isel(wavelength=slice(2, 6))], "wavelength")
    xr.testing.assert_identical(joined, ds)
    assert isinstance(joined.xindexes["ra"], CelestialIndex)
    assert isinstance(ds.mean("wavelength").xindexes["ra"], CelestialIndex)
    assert "ra" not in ds.coarsen(x=3, y=2, boundary="trim").mean().xindexes
    assert copy.deepcopy(ds).xindexes["ra"].equals(index)
    renamed = ds.rename(ra="alpha2000", dec="delta2000")
    ra, dec = position(ds, 2, 2)
    np.testing.assert_array_equal(renamed.sel(alpha2000=ra, delta2000=dec).flux, ds.flux.isel(x=2, y=2))
    assert "centred on ra" in repr(index)


def test_dask_data_stay_lazy_and_coordinates_do_not_become_dask():
    ds = make_cube(chunks={"wavelength": 2})
    assert isinstance(ds.flux.data, dask.array.Array)
    assert not isinstance(ds.ra.variable._data, dask.array.Array)
    ra, dec = position(ds, 5, 9)
    out = ds.sel(ra=ra, dec=dec)
    assert isinstance(out.flux.data, dask.array.Array)
    assert not isinstance(out.ra.variable._data, dask.array.Array)
    np.testing.assert_array_equal(out.flux, make_cube().flux.isel(y=5, x=9))
    box = ds.sel(ra=slice(ra - 1e-4, ra + 1e-4), dec=slice(dec - 1e-4, dec + 1e-4))
    assert isinstance(box.flux.data, dask.array.Array)
    # chunking the whole object afterwards turns ra, dec to dask; attaching again mends it
    chunked = ds.chunk(wavelength=3)
    np.testing.assert_array_equal(chunked.sel(ra=ra, dec=dec).flux, out.flux)
    assert not isinstance(attach_index(chunked).ra.variable._data, dask.array.Array)


def test_netcdf_round_trip(tmp_path):
    ds = make_cube().isel(x=slice(2, 12), y=slice(1, None, 2))
    ds.to_netcdf(tmp_path / "cube.nc")
    with xr.open_dataset(tmp_path / "cube.nc") as stored:
        assert "ra" not in stored.xindexes
        back = attach_index(stored)
        assert back.xindexes["ra"].equals(ds.xindexes["ra"])
        np.testing.assert_allclose(back.ra, stored.ra, rtol=0, atol=1e-12)
        ra, dec = float(ds.ra[2, 4]), float(ds.dec[2, 4])
        np.testing.assert_array_equal(back.sel(ra=ra, dec=dec).flux, ds.flux.isel(y=2, x=4))


def test_attach_index_errors():
    ds = make_cube().drop_vars(["ra", "dec"])
    with pytest.raises(MrsxrError, match="wcs"):
        attach_index(ds.drop_attrs())
    with pytest.raises(MrsxrError, match="dimension 'x'"):
        attach_index(ds.isel(x=0))
    shifted = ds.assign_coords(x=ds.x + 0.05)
    shifted.x.attrs["units"] = "arcsec"
    wcs = attach_index(ds).xindexes["ra"].wcs
    np.testing.assert_allclose(
        attach_index(shifted).dec[2, 3], wcs.wcs_pix2world(3 + 0.05 / 0.13, 2, 0)[1], rtol=0, atol=1e-9
    )
    with pytest.raises(MrsxrError, match="spaxels along x are not consecutive"):
        attach_index(ds.isel(x=[0, 1, 3]))
    with pytest.raises(MrsxrError, match=r"coordinate 'y' \[arcsec\] is missing"):
        attach_index(ds.drop_vars("y"))
    with pytest.raises(MrsxrError, match="in 'pix'; expected offsets"):
        attach_index(ds.assign_coords(y=("y", np.arange(11.0), {"units": "pix"})))
    with pytest.raises(MrsxrError, match="RA---TAN"):
        attach_index(ds.assign_attrs(wcs="CTYPE1  = 'MRSALPHA'\nCTYPE2  = 'MRSBETA '"))


@given(first=st.tuples(st.integers(-5, 9), st.integers(-5, 9)), step=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_cut_wcs_is_exact(first, step):
    wcs = make_cube((10.0, 50.0), 33.0).xindexes["ra"].wcs
    cut = cut_wcs(wcs, first, step)
    k = np.arange(5)
    np.testing.assert_allclose(
        cut.wcs_pix2world(k, k, 0), wcs.wcs_pix2world(first[0] + step[0] * k, first[1] + step[1] * k, 0), atol=1e-11
    )


@pytest.mark.shared
def test_real_rotated_cube(shared_data):
    with fits.open(shared_data / "s3d_ngc7469" / "NGC7469_ch4-short_s3d.fits.gz") as hdus:
        header = hdus["SCI"].header
        image = hdus["SCI"].data[300].astype("f4")
    grid = CubeGrid.from_header(header)
    coords = {name: v for name, v in grid.coords().items() if name != "wavelength"}
    ds = attach_index(xr.Dataset({"flux": (("y", "x"), image)}, coords, {"wcs": header.tostring()}))
    y, x = np.indices(image.shape)
    ra, dec = WCS(header, fix=False).celestial.wcs_pix2world(x, y, 0)
    np.testing.assert_allclose(ds.ra, ra % 360, rtol=0, atol=1e-11)
    np.testing.assert_allclose(ds.dec, dec, rtol=0, atol=1e-11)
    # the nucleus of NGC 7469 (NED) is the brightest spaxel, to about the 0.3 arcsec of the telescope
    bright = np.unravel_index(np.nanargmax(image), image.shape)
    found = nearest_pixel(ds, (345.815096, 8.873880))
    assert np.hypot(found[0] - bright[0], found[1] - bright[1]) <= 2
    assert float(ds.sel(ra=345.815096, dec=8.873880).flux) == image[found]
