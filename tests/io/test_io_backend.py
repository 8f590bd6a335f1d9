from __future__ import annotations

import gzip
import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import io_files
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import no_compute
from xarray.core.indexing import BasicIndexer, OuterIndexer

from mrsxr import schema
from mrsxr.chunks import ramp_rows
from mrsxr.errors import InputFileError, MrsxrWarning
from mrsxr.io import load, open_exposures
from mrsxr.io._backend import JwstBackendEntrypoint, open_file
from mrsxr.io.fitsarray import ConstantArray, FitsArray

MAIN = {"uncal": "sci", "ramp": "sci", "rate": "rate", "rateints": "rate", "cal": "flux", "crf": "flux"}


def section(path, name="SCI", **options):
    from mrsxr.io.headers import read_layout

    return read_layout(path).image(name, **options)


@pytest.mark.parametrize("product", MAIN)
def test_every_detector_product_opens_lazily_with_its_values(tmp_path, product):
    path = io_files.write(tmp_path, product)
    with no_compute():
        ds = open_exposures(path)
    schema.validate(ds)
    with fits.open(path) as hdulist:
        np.testing.assert_array_equal(ds[MAIN[product]].values[0], hdulist["SCI"].data)
        if product == "ramp":
            np.testing.assert_array_equal(ds.group_dq.values[0], hdulist["GROUPDQ"].data)
            np.testing.assert_array_equal(ds.pixel_dq.values[0], hdulist["PIXELDQ"].data)
        elif product == "uncal":
            np.testing.assert_array_equal(ds.refout.values[0], hdulist["REFOUT"].data)
            assert not ds.group_dq.values.any()
            assert not ds.pixel_dq.values.any()
            assert ds.sci.dtype == "uint16"
        else:
            np.testing.assert_array_equal(ds.dq.values[0], hdulist["DQ"].data)
            np.testing.assert_array_equal(ds.var_read.values[0], hdulist["VAR_RNOISE"].data)
    assert ds.attrs["setting"] == "12A"
    assert ds.sizes["dither"] == 1
    assert all(variable.dtype.isnative for variable in ds.variables.values() if variable.dtype.kind in "fiu")
    assert ds.exposure.item() == "jw02732004001_02101_00001_mirifushort"
    assert ds.ra_ref.item() == pytest.approx(339.01001)
    assert ds.velosys.item() == -26520.99


def test_chunks_of_a_ramp_keep_whole_rows_and_all_groups(tmp_path):
    ds = open_exposures(io_files.write(tmp_path, "uncal", n_groups=40, shape=(300, 1032)))
    rows = ramp_rows(2, 40)
    expected = (*[rows] * (300 // rows), 300 % rows)
    assert ds.sci.chunks == ((1,), (2,), (40,), expected, (1032,))
    assert ds.group_dq.chunks == ds.sci.chunks
    assert ds.pixel_dq.chunks == ((1,), expected, (1032,))


def test_lazy_array_is_small_picklable_and_reads_parts(tmp_path):
    path = io_files.write(tmp_path, "uncal")
    array = section(path)
    assert isinstance(array, FitsArray)
    packed = pickle.dumps(array)
    assert len(packed) < 1200
    copy = pickle.loads(packed)
    with fits.open(path) as hdulist:
        data = hdulist["SCI"].data
        np.testing.assert_array_equal(copy[BasicIndexer((1, slice(0, 4, 2), slice(3, 9), 5))], data[1, 0:4:2, 3:9, 5])
        rows = np.array([4, 1, 9])
        key = OuterIndexer((slice(None), slice(None), rows, np.array([0, 1031])))
        np.testing.assert_array_equal(copy[key], data[:, :, rows][..., [0, 1031]])
    assert copy[BasicIndexer((0, 0, 0, 0))].dtype == "uint16"


def test_many_threads_read_the_same(tmp_path):
    array = section(io_files.write(tmp_path, "uncal"))
    whole = array[BasicIndexer((slice(None),) * 4)]

    def read(i):
        return np.array_equal(array[BasicIndexer((slice(None), slice(None), slice(i, i + 2)))], whole[:, :, i : i + 2])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, [i % 14 for i in range(80)]))


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [("u1", None), ("i1", None), ("i2", None), ("u2", None), ("i4", None), ("u4", None), ("i8", None), ("u8", None),
     ("f4", None), ("f8", None), ("i2", (0.5, 10.0))],
)  # fmt: skip
def test_every_number_type_of_fits(tmp_path, dtype, scale):
    path = tmp_path / "image.fits"
    if scale:
        hdu = fits.ImageHDU(np.arange(-6, 6, dtype=dtype).reshape(3, 4), name="SCI")
        hdu.header["BSCALE"], hdu.header["BZERO"] = scale
        hdu = fits.ImageHDU(np.arange(-6, 6, dtype=dtype).reshape(3, 4) * scale[0] + scale[1], name="SCI")
        hdu.scale("int16", bscale=scale[0], bzero=scale[1])
    else:
        kind = np.dtype(dtype)
        limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
        values = np.array([limits.min, limits.max, 0, 1, 2, 3], dtype=kind).reshape(2, 3)
        if dtype == "i1":
            hdu = fits.ImageHDU((values.astype("i2") + 128).astype("u1"), name="SCI")
            hdu.header["BZERO"] = -128
        else:
            hdu = fits.ImageHDU(values, name="SCI")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    array = section(path)
    with fits.open(path) as hdulist:
        expected = hdulist["SCI"].data
        found = array[BasicIndexer((slice(None), slice(None)))]
        np.testing.assert_array_equal(found, expected)
    assert found.dtype.isnative
    if not scale:
        assert found.dtype == dtype


def test_what_is_kept_of_a_file_is_that_of_its_last_state(tmp_path, monkeypatch):
    from mrsxr.io import headers

    path = io_files.write(tmp_path, "cal")
    first = headers.read_layout(path)
    monkeypatch.setattr(headers.fits, "open", lambda *_, **__: pytest.fail("the file is read again"))
    again = headers.read_layout(path)
    assert again.header == first.header == headers.read_layout(path).header
    again.header["PRIMARY"]["TARGNAME"] = "of one reader"
    assert headers.read_header(path)[0] == first.header["PRIMARY"]
    monkeypatch.undo()
    fits.setval(path, "TARGNAME", value="EDITED")
    assert headers.read_layout(path).header["PRIMARY"]["TARGNAME"] == "EDITED"
    assert headers.read_header(path)[0]["TARGNAME"] == "EDITED"
    path.unlink()
    with pytest.raises(InputFileError):
        headers.read_layout(path)


def test_tables_that_are_kept_stay_as_they_are(tmp_path):
    from mrsxr.io.headers import read_layout

    table = fits.BinTableHDU.from_columns([fits.Column("A", "D", array=np.arange(3.0))], name="TABLE")
    path = tmp_path / "table.fits"
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    read_layout(path).table("TABLE")["A"][:] = -1
    np.testing.assert_array_equal(read_layout(path).table("TABLE")["A"], np.arange(3.0))


def test_a_changed_file_is_refused(tmp_path):
    path = io_files.write(tmp_path, "rate")
    ds = open_exposures(path)
    path.write_bytes(path.read_bytes() + b"\0" * 2880)
    with pytest.raises(InputFileError, match=r"rate\.fits: the file was changed"):
        ds.rate.values  # noqa: B018
    path.unlink()
    with pytest.raises(InputFileError, match="cannot be read"):
        ds.rate.values  # noqa: B018


def test_constant_flags_take_no_memory():
    array = ConstantArray((1, 2, 40, 1024, 1032), "u1")
    assert len(pickle.dumps(array)) < 400
    block = array[BasicIndexer((0, slice(None), 3, slice(0, 8), slice(None)))]
    assert block.shape == (2, 8, 1032)
    assert not block.any()
    assert block.flags.writeable
    assert (ConstantArray((3,), "f4", np.nan)[BasicIndexer((slice(None),))] != 0).all()


def test_gzip_is_read_at_once_without_warning(tmp_path):
    path = io_files.write(tmp_path, "cal")
    packed = tmp_path / f"{path.name}.gz"
    with open(path, "rb") as plain, gzip.open(packed, "wb") as out:
        shutil.copyfileobj(plain, out)
    one, other = open_file(path), open_file(packed)
    assert other.encoding["read_eagerly"] is True
    assert one.encoding["read_eagerly"] is False
    xr.testing.assert_identical(one.compute(), other.compute())
    cut = tmp_path / "cut_cal.fits.gz"
    cut.write_bytes(packed.read_bytes()[:20000])
    with pytest.raises(InputFileError, match=r"cut_cal\.fits\.gz: the gzip file is damaged"):
        open_file(cut)


def test_tile_compressed_images_are_read_by_section(tmp_path):
    path = io_files.write(tmp_path, "uncal")
    tiled = tmp_path / "tiled_uncal.fits"
    with fits.open(path) as hdulist:
        data = hdulist["SCI"].data
        hdu = fits.CompImageHDU(data, hdulist["SCI"].header, name="SCI", compression_type="RICE_1",
                                tile_shape=(1, 1, 4, 1032))  # fmt: skip
        fits.HDUList([hdulist[0].copy(), hdu]).writeto(tiled)
    ds = open_exposures(tiled)
    np.testing.assert_array_equal(ds.sci.values[0], data)
    np.testing.assert_array_equal(ds.sci[0, 1, 2:4, 5, ::7].values, data[1, 2:4, 5, ::7])
    assert ds.sci.dtype == "uint16"


def test_truncated_file_is_named_with_its_sizes(tmp_path):
    path = io_files.write(tmp_path, "uncal")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    with pytest.raises(
        InputFileError, match=rf"uncal\.fits: the file is truncated within SCI.*found {len(whole) // 3}"
    ):
        open_exposures(path)
    path.write_bytes(whole[: len(whole) - 6000])
    with pytest.raises(InputFileError, match="truncated within REFOUT"):
        open_exposures(path)
    path.write_bytes(whole[:1000])
    with pytest.raises(InputFileError, match=r"truncated within the header of PRIMARY.* 1000 bytes"):
        open_exposures(path)
    path.write_bytes(b"")
    with pytest.raises(InputFileError, match=r"uncal\.fits"):
        open_exposures(path)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"INSTRUME": "NIRSPEC", "EXP_TYPE": "NRS_IFU"}, r"is a NIRSPEC file \(NRS_IFU\)"),
        ({"EXP_TYPE": "MIR_IMAGE"}, r"is a MIRI imager exposure \(MIR_IMAGE\)"),
        ({"EXP_TYPE": "MIR_LRS-FIXEDSLIT"}, "MIRI LRS"),
        ({"INSTRUME": ...}, "no JWST file"),
        ({"REFTYPE": "DARK"}, "reference file of type DARK"),
        ({"DETECTOR": "MIRIMAGE"}, "MIRIMAGE"),
        ({"BAND": "SHORT-LONG"}, "BAND 'SHORT-LONG' is not supported"),
        ({"NGROUPS": ...}, "keyword NGROUPS is missing"),
        ({"TGROUP": ...}, "keyword TGROUP is missing"),
        ({"BAND": ...}, "keyword BAND is missing"),
        ({"NGROUPS": 7}, "NGROUPS is 7, but SCI holds 5"),
    ],
)
def test_wrong_files_say_what_they_are(tmp_path, keywords, text):
    path = io_files.write(tmp_path / "one_uncal.fits", **keywords)
    with pytest.raises(InputFileError, match=rf"one_uncal\.fits.*{text}"):
        open_file(path)


def test_cal_needs_its_pointing_and_a_ramp_does_not(tmp_path):
    path = io_files.write(tmp_path, "cal", sci={"RA_REF": ...})
    with pytest.raises(InputFileError, match="keyword RA_REF is missing"):
        open_file(path)
    ramp = open_file(io_files.write(tmp_path, "uncal", sci={"RA_REF": ..., "VELOSYS": ..., "VA_SCALE": ...}))
    assert np.isnan(ramp.ra_ref.item())
    assert np.isnan(ramp.velosys.item())
    assert ramp.va_scale.item() == 1.0


def test_missing_extensions_are_filled(tmp_path):
    path = io_files.write(tmp_path, "cal")
    with fits.open(path) as hdulist:
        short = fits.HDUList([hdulist[0].copy(), hdulist["SCI"].copy(), hdulist["ERR"].copy()])
        error = hdulist["ERR"].data.copy()
        short.writeto(tmp_path / "short_cal.fits")
    with pytest.warns(MrsxrWarning, match="no extension"):
        ds = schema.validate(open_file(tmp_path / "short_cal.fits"))
    assert [text.split("extension ")[1] for text in ds.attrs["notes"]] == [
        "DQ: no pixel is flagged", "VAR_POISSON: the squared ERR stands in its place",
        "VAR_RNOISE, VAR_FLAT: it counts as 0",
    ]  # fmt: skip
    np.testing.assert_allclose(ds.var_poisson.values[0], error**2, rtol=1e-6)
    assert not ds.var_read.values.any()
    assert not ds.dq.values.any()
    with fits.open(path) as hdulist:
        fits.HDUList([hdulist[0].copy(), hdulist["ERR"].copy()]).writeto(tmp_path / "none_cal.fits")
    with pytest.raises(InputFileError, match="neither a SCI image nor"):
        open_file(tmp_path / "none_cal.fits")


def test_header_keeps_keywords_and_no_structure(tmp_path):
    header = json.loads(open_file(io_files.write(tmp_path, "uncal")).fits_header.item())
    assert header["PRIMARY"]["TITLE"].startswith("A program with a long title")
    assert header["PRIMARY"]["ZEROFRAM"] is False
    assert header["SCI"]["ROLL_REF"] == 249.123456789012
    structure = {"NAXIS", "NAXIS1", "BITPIX", "BZERO", "BSCALE", "EXTNAME", "XTENSION", "SIMPLE", "COMMENT", ""}
    assert not structure & (set(header["PRIMARY"]) | set(header["SCI"]))
    assert "TSAMPLE" in header["PRIMARY"]


def test_cube_axes_linear_and_tabular(tmp_path):
    linear = load(io_files.write_cube(tmp_path / "a_ch1-short_s3d.fits"))
    schema.validate(linear)
    np.testing.assert_allclose(linear.wavelength, 4.9004 + 0.0008 * np.arange(6))
    np.testing.assert_allclose(linear.x, (np.arange(4) + 1 - 2.5) * 0.13)
    assert linear.attrs["band"] == "1A"
    assert linear.attrs["pixel_scale"] == pytest.approx(0.13)
    with fits.open(tmp_path / "a_ch1-short_s3d.fits") as hdulist:
        np.testing.assert_allclose(linear["var"].values, hdulist["ERR"].data ** 2, rtol=1e-6)
    tabular = load(io_files.write_cube(tmp_path / "b_s3d.fits", tabular=True))
    np.testing.assert_allclose(tabular.wavelength, np.geomspace(5, 6, 6), rtol=1e-6)
    assert "WAVE" not in tabular.attrs["wcs"]


def test_cube_sky_agrees_with_astropy(tmp_path):
    pytest.importorskip("mrsxr.geometry.index")
    from astropy.wcs import WCS

    path = io_files.write_cube(tmp_path / "a_s3d.fits")
    with no_compute():
        cube = load(path)
    with fits.open(path) as hdulist:
        ra, dec = WCS(hdulist["SCI"].header).celestial.wcs_pix2world(*np.meshgrid(np.arange(4), np.arange(5)), 0)
    np.testing.assert_allclose(cube.ra, ra, rtol=0, atol=1e-9)
    np.testing.assert_allclose(cube.dec, dec, rtol=0, atol=1e-9)


def test_engine_drops_variables_and_guesses_by_name(tmp_path):
    path = io_files.write(tmp_path, "cal")
    ds = xr.open_dataset(path, engine=JwstBackendEntrypoint, drop_variables=["var_flat"])
    assert "var_flat" not in ds
    guess = JwstBackendEntrypoint().guess_can_open
    assert guess(str(path))
    assert guess("x_s3d.fits.gz")
    assert not guess("x.nc")
    assert not guess(b"x")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["short", "medium", "long"])
def test_real_cubes_of_a_galaxy(shared_data, name):
    path = shared_data / "s3d_ngc7469" / f"NGC7469_ch4-{name}_s3d.fits.gz"
    cube = schema.validate(open_file(path))
    first = {"short": 17.703, "medium": 20.693, "long": 24.403}[name]
    assert cube.wavelength[0].item() == pytest.approx(first, abs=1e-3)
    assert cube.attrs["band"] == {"short": "4A", "medium": "4B", "long": "4C"}[name]
    assert cube.attrs["target"] == "NGC 7469"
    assert cube.attrs["source_type"] == "EXTENDED"
    assert len(cube.attrs["exposures"]) == 4
    with fits.open(path) as hdulist:
        np.testing.assert_array_equal(cube.flux.values, hdulist["SCI"].data)
        np.testing.assert_array_equal(cube.dq.values, hdulist["DQ"].data)


@pytest.mark.shared
@pytest.mark.parametrize("setting", ["12A", "12B", "12C", "34A", "34B", "34C"])
def test_real_cal_files_of_an_old_jwst(shared_data, setting):
    path = shared_data / "cal_templates" / f"template_{setting}.fits.gz"
    ds = schema.validate(open_file(path))
    assert ds.attrs["setting"] == setting
    assert ds.v2_ref.item() == pytest.approx(-503.65, abs=0.01)
    with fits.open(path) as hdulist:
        np.testing.assert_array_equal(ds.dq.values[0], hdulist["DQ"].data)


@pytest.mark.shared
def test_real_cube_of_a_star(shared_data):
    cube = schema.validate(open_file(shared_data / "s3d_example" / "16CygB_ch4-short_s3d_cutout.fits.gz"))
    assert cube.sizes == {"wavelength": 542, "y": 13, "x": 13}
    assert cube.attrs["source_type"] == "POINT"


def test_engine_gives_the_same_as_open_exposures(tmp_path):
    path = io_files.write(tmp_path, "rate")
    ds = xr.open_dataset(path, engine=JwstBackendEntrypoint, chunks={})
    assert ds.rate.chunks == ((1,), (16,), (1032,))
    xr.testing.assert_identical(ds.compute().drop_encoding(), open_exposures(path).compute().drop_encoding())


@pytest.mark.parametrize("name", ["", "*_uncal.fits"])
def test_folders_and_patterns_are_for_observations(tmp_path, name):
    io_files.write(tmp_path, "uncal", n_groups=2, shape=(8, 1032))
    with pytest.raises(InputFileError, match="expected files of one setting; open_observation takes folders"):
        open_exposures(tmp_path / name if name else tmp_path)


def test_a_cube_has_its_index_and_a_folder_is_a_tree(tmp_path):
    import test_io_products

    from mrsxr.io import load, save

    cube = test_io_products.make_cube(n=(9, 6, 5))
    (path,) = save(cube, tmp_path)
    ours = load(path)
    ra, dec = float(ours.ra[2, 3]), float(ours.dec[2, 3])
    for options in ({}, {"chunks": {}}):
        found = xr.open_dataset(path, engine="jwst", **options)
        assert found.xindexes["ra"].equals(ours.xindexes["ra"])
        np.testing.assert_array_equal(found.sel(ra=ra, dec=dec).flux, cube.flux[:, 2, 3])
        np.testing.assert_array_equal(found.transpose("x", "y", ...).sel(ra=ra, dec=dec).flux, cube.flux[:, 2, 3])
    assert "ra" not in xr.open_dataset(path, engine="jwst", drop_variables=["ra", "dec"]).coords
    tree = xr.open_datatree(tmp_path, engine="jwst", chunks={}, drop_variables="weight")
    assert [node.path for node in tree.leaves] == ["/science/1A"]
    assert "weight" not in tree["science/1A"]
    np.testing.assert_array_equal(tree["science/1A"].to_dataset().sel(ra=ra, dec=dec).flux, cube.flux[:, 2, 3])
    assert list(xr.open_groups(tmp_path, engine="jwst")) == ["/", "/science", "/science/1A"]


def test_plain_files_and_coarsened_cubes_say_how_to_get_the_index(tmp_path):
    import test_io_products

    import mrsxr as mx

    (path,) = mx.save(test_io_products.make_cube(n=(4, 6, 8)), tmp_path)
    ds = mx.load(path)
    ds[["flux"]].drop_attrs(deep=False).to_netcdf(tmp_path / "plain.nc")
    for plain in (xr.load_dataset(tmp_path / "plain.nc"), ds.coarsen(y=2, x=2).mean()):
        with pytest.raises(ValueError, match="set_xindex"):
            plain.sel(ra=1.0, dec=2.0)
        assert "mrsxr.attach_index(ds)" in plain.ra.attrs["comment"]
    wide = mx.attach_index(plain)
    at = {"ra": float(plain.ra[1, 2]), "dec": float(plain.dec[1, 2])}
    np.testing.assert_array_equal(wide.sel(at).flux, plain.flux[:, 1, 2])
    with pytest.raises(mx.MrsxrError, match="no attribute 'wcs'"):
        mx.attach_index(xr.load_dataset(tmp_path / "plain.nc"))
