from __future__ import annotations

import json
import re
import subprocess
import sys
import weakref

import dask
import dask.array as da
import io_files
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import make_ramp, no_compute

from mrsxr import dq, mrs, schema, tree
from mrsxr.attributes import keyword
from mrsxr.errors import InputFileError, MrsxrError, MrsxrWarning
from mrsxr.io import load, open_exposures, open_observation, save, write_fits
from mrsxr.io._out_spectral import write_cube
from mrsxr.io.atomic import replacing
from mrsxr.spectrum.profile import Profile
from mrsxr.spectrum.stitch import stitch_bands

PRODUCTS = ("uncal", "ramp", "rate", "rateints", "cal")
SHAPE = (8, 1032)
HISTORY = json.dumps([
    {"step": "rate.flag_saturation", "keyword": "S_SATURA", "version": "0.1.0", "params": {},
     "refs": {"saturation": "jwst_miri_saturation_0035.fits"}},
    {"step": "rate.jump.detect_jumps", "keyword": "S_JUMP", "version": "0.1.0", "params": {"threshold": 4.0},
     "refs": {"gain": "gain_made.fits", "read_noise": "by hand"}},
])  # fmt: skip


def exposures(folder, product, n=2, setting="12A", **more):
    return open_exposures([io_files.write(folder, product, setting, i + 1, shape=SHAPE, **more) for i in range(n)])


def with_slices(ds, setting="12A"):
    """Add the slice coordinates and a made-up WCS model to cal data."""
    from mrsxr.geometry.detector import slicer_grid

    labels = np.array([101, 102, 201, 202])
    rng = np.random.default_rng(5)
    image, sky = ("slice_label", "power_y", "power_x"), ("band", "power_alpha", "power_beta")
    model = xr.Dataset(
        {
            "alpha_coefficients": (image, rng.normal(0, 1e-3, (4, 3, 3)), {"units": "arcsec"}),
            "alpha_x_shift": ("slice_label", rng.uniform(0, 1000, 4), {"units": "pix"}),
            "wavelength_coefficients": (image, rng.normal(5, 1e-3, (4, 3, 3)), {"units": "um"}),
            "wavelength_x_shift": ("slice_label", rng.uniform(0, 1000, 4), {"units": "pix"}),
            "slice_beta": ("slice_label", rng.normal(0, 1, 4), {"units": "arcsec"}),
            "slice_width": ("band", np.array([0.17721, 0.27972]), {"units": "arcsec"}),
            "v2_coefficients": (sky, rng.normal(0, 1, (2, 2, 2)), {"units": "arcsec"}),
            "v3_coefficients": (sky, rng.normal(0, 1, (2, 2, 2)), {"units": "arcsec"}),
        },
        {"slice_label": labels.astype("i2"), "band": list(mrs.bands_of_setting(setting))},
    )  # fmt: skip
    y0, x0 = int(ds.y[0]), int(ds.x[0])
    regions = np.zeros((ds.sizes["y"], ds.sizes["x"]), dtype="i2")
    for i, label in enumerate(labels):
        regions[:, 30 + 60 * i : 80 + 60 * i] = label
    alpha, beta, wavelength = slicer_grid(model, regions, (y0, x0))
    maps = {
        "slice": (regions, "1"), "channel": ((regions // 100).astype("i1"), "1"),
        "alpha": (alpha.astype("f4"), "arcsec"), "beta": (beta.astype("f4"), "arcsec"),
        "wavelength": (wavelength, "um"),
    }  # fmt: skip
    ds = ds.assign_coords({name: (("y", "x"), values, {"units": unit}) for name, (values, unit) in maps.items()})
    return ds.assign({name: model[name] for name in model.data_vars})


EXPOSURES = [f"jw02732004001_02101_{i:05d}_mirifushort" for i in (1, 2)]


def make_cube(band="1A", n=(6, 5, 4), **attrs):
    rng = np.random.default_rng(1)
    dims = ("wavelength", "y", "x")
    step, size = mrs.WAVELENGTH_STEP[int(band[0])], mrs.SPAXEL_SIZE[int(band[0])]
    wavelength = mrs.WAVELENGTH_LIMITS[band][0] + step * (np.arange(n[0]) + 0.5)
    header = fits.Header()
    header.update({
        "WCSAXES": 3, "CRPIX1": 2.5, "CRPIX2": 3.0, "CRPIX3": 1.0, "CRVAL1": 339.0149, "CRVAL2": 33.9758,
        "CRVAL3": float(wavelength[0]), "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "WAVE", "CUNIT1": "deg",
        "CUNIT2": "deg", "CUNIT3": "um", "CDELT1": size / 3600, "CDELT2": size / 3600, "CDELT3": step, "PC1_1": -1.0,
        "PC2_2": 1.0, "RADESYS": "ICRS",
    })  # fmt: skip
    planes = {
        "flux": (rng.normal(10, 1, n).astype("f4"), "MJy/sr"), "var": (rng.uniform(1, 2, n).astype("f4"), "MJy2/sr2"),
        "weight": (rng.integers(0, 9, n).astype("f4"), "1"), "dq": (rng.choice([0, 1, 513], n).astype("u4"), "1"),
    }  # fmt: skip
    planes["flux"][0][0, 0, 0] = np.nan
    return xr.Dataset(
        {name: (dims, values, {"units": unit}) for name, (values, unit) in planes.items()},
        {
            "wavelength": ("wavelength", wavelength, {"units": "um"}),
            "y": ("y", (np.arange(n[1]) - 2) * size, {"units": "arcsec"}),
            "x": ("x", (np.arange(n[2]) - 1.5) * size, {"units": "arcsec"}),
        },
        {
            "level": "cube", "band": band, "channels": band[0], "wcs": header.tostring(sep="\n"), "pixel_scale": size,
            "wavelength_step": step, "weighting": "drizzle", "target": "NGC 7319", "program": "02732",
            "target_ra": 339.0149, "target_dec": float("nan"), "source_type": "EXTENDED", "background": 0,
            "exposures": EXPOSURES, "history_json": HISTORY, **attrs,
        },
    )  # fmt: skip


def make_spectrum(bands=("1A",), n=5, dtype="f8", **attrs):
    rng = np.random.default_rng(2)
    size = n * len(bands)
    wavelength = np.concatenate([np.linspace(*mrs.WAVELENGTH_LIMITS[band], n) for band in bands])
    names = {
        "flux": "Jy", "var": "Jy2", "surface_brightness": "MJy/sr", "surface_brightness_var": "MJy2/sr2",
        "background": "MJy/sr", "n_pixels": "1",
    }  # fmt: skip
    variables = {name: ("wavelength", rng.uniform(1, 2, size).astype(dtype), {"units": u}) for name, u in names.items()}
    variables["dq"] = ("wavelength", rng.integers(0, 2**32, size).astype("u4"), {"units": "1"})
    coords = {
        "wavelength": ("wavelength", wavelength, {"units": "um"}),
        "band": ("wavelength", np.repeat(np.array(bands), n)),
    }
    return xr.Dataset(variables, coords, {
        "level": "spectrum", "bands": list(bands), "source_type": "POINT", "target": "NGC 7319", "program": "02732",
        "history_json": HISTORY, "exposures": EXPOSURES, **attrs,
    })  # fmt: skip


def plain(ds):
    return ds.compute().drop_encoding()


@pytest.mark.parametrize("format", ["fits", "netcdf", "zarr"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_saving_and_loading_detector_levels_is_the_identity(tmp_path, product, format):
    (tmp_path / "in").mkdir()
    ds = exposures(tmp_path / "in", product).assign_attrs(history_json=HISTORY)
    if format == "zarr":
        pytest.importorskip("zarr")
    paths = save(ds, tmp_path / "out", format)
    with no_compute():
        back = load(paths)
    xr.testing.assert_identical(plain(back), plain(ds))
    assert {n: v.dtype for n, v in back.variables.items() if v.dtype.kind in "fiu"} == {
        n: v.dtype for n, v in ds.variables.items() if v.dtype.kind in "fiu"
    }
    schema.validate(back)
    assert all(back[name].chunks for name in back.data_vars)
    if format == "fits":
        suffix = {"uncal": "ramp"}.get(product, product)
        assert [p.name for p in paths] == [f"jw02732004001_02101_0000{i}_mirifushort_{suffix}.fits" for i in (1, 2)]


@pytest.mark.parametrize("format", ["fits", "netcdf", "zarr"])
@pytest.mark.parametrize("product", ["cal", "rate"])
def test_slice_coordinates_come_back_exactly(tmp_path, product, format):
    pytest.importorskip("mrsxr.geometry.detector")
    (tmp_path / "in").mkdir()
    ds = with_slices(exposures(tmp_path / "in", product))
    paths = save(ds, tmp_path / "out", format)
    back = load(paths)
    xr.testing.assert_identical(plain(back), plain(ds))
    assert back.alpha.dtype == "float32"
    if format == "fits":
        with fits.open(paths[0]) as hdulist:
            names = {hdu.name for hdu in hdulist}
            assert {"REGIONS", "MRS-SLICES", "MRS-BANDS", "MRSXR"} <= names
            assert "ALPHA" not in names
            assert hdulist["REGIONS"].data.dtype == ">i2"


def of_level(level, folder):
    """Return a product with all that is by exposure or by band: marks, attributes, levels, scale factors."""
    if level == "cube":
        return make_cube(residual_fringe=0.25, mt_avra=339.0)
    if level == "spectrum":
        profile = Profile(2.5, 3.25, 1.1, fitted=True)
        bands = [make_spectrum((band,), band=band, extraction="optimal", **profile.attrs()) for band in ("1A", "1B")]
        bands[1] = bands[1].assign_attrs(psf_x=1.0, region="circle(1, 2, 3)")
        with pytest.warns(MrsxrWarning, match="joined unscaled"):
            return stitch_bands(bands, method="multiplicative")
    made = with_slices(exposures(folder, level))
    if level == "cal":
        made["background_level"] = (("dither", "band"), np.array([[0.5, -1.25], [0.0, 3.0]]), {"units": "MJy/sr"})
    one, other = (made.isel(dither=[k]) for k in (0, 1))
    one = one.assign_attrs(pixel_background=1, source_type="POINT", crds_context="jwst_1364.pmap")
    joined = tree.join_dithers([one, other.assign_attrs(source_type="EXTENDED")])
    static = [n for n in made.variables if "dither" not in made[n].dims]
    return joined.assign({n: made[n] for n in static if n in made.data_vars})


@pytest.mark.parametrize("level", ["rate", "cal", "cube", "spectrum"])
def test_all_roads_lead_to_the_same(tmp_path, level):
    (tmp_path / "in").mkdir()
    ds = of_level(level, tmp_path / "in")
    found = ds
    for number, format in enumerate(("fits", "netcdf", "zarr", "fits")):
        found = load(save(found, tmp_path / str(number), format))
        bare = plain(found).drop_vars(["ra", "dec"], errors="ignore")
        xr.testing.assert_identical(bare, plain(ds))
        part = {"dither": [1]} if "dither" in ds.dims else {"wavelength": slice(3, 5)}
        xr.testing.assert_identical(bare.isel(part), plain(ds.isel(part)))


def test_others_read_the_scale_of_each_band(tmp_path):
    ds = of_level("spectrum", tmp_path)
    with fits.open(*save(ds, tmp_path)) as hdulist:
        table = hdulist["STITCHED_BAND"]
        assert table.data["stitched_band"].tolist() == ["1A", "1B"]
        np.testing.assert_array_equal(table.data["scale_error"], ds.scale_error)
        assert table.data["psf_x"].tolist() == [2.5, 1.0]
        assert table.columns["flux_offset"].unit == "Jy"


def test_a_file_says_what_its_step_keywords_do(tmp_path):
    """Of files of jwst the marks are those of their keywords, of each exposure by itself."""
    paths = [io_files.write(tmp_path, "rate", "12A", i, shape=SHAPE) for i in (1, 2)]
    for path, keywords in zip(paths, ({"S_BKDSUB": "COMPLETE", "S_FRINGE": "COMPLETE"}, {"S_FRINGE": "COMPLETE"}),
                              strict=True):  # fmt: skip
        with fits.open(path, mode="update") as hdulist:
            hdulist[0].header.update(keywords)
    ds = open_exposures(paths)
    assert (ds.attrs["fringe_flat"], ds.pixel_background.values.tolist()) == (1, [1, 0])


def test_cut_out_and_changed_coordinates_come_back(tmp_path):
    pytest.importorskip("mrsxr.geometry.detector")
    (tmp_path / "in").mkdir()
    cut = with_slices(exposures(tmp_path / "in", "cal").isel(y=slice(2, 7), x=slice(8, 600)))
    cut["note"] = ((), "kept")
    cut["extra"] = (("dither", "y", "x"), np.ones((2, 5, 592), "f4"), {"units": "DN"})
    cut = cut.assign_coords(alpha=cut.alpha + np.float32(0.1))
    back = load(save(cut, tmp_path / "out"))
    xr.testing.assert_identical(plain(back), plain(cut))
    odd = cut.isel(y=[0, 2, 3])
    xr.testing.assert_identical(plain(load(save(odd, tmp_path / "odd"))), plain(odd))


def test_files_of_different_distortions_do_not_join(tmp_path):
    pytest.importorskip("mrsxr.geometry.detector")
    (tmp_path / "in").mkdir()
    ds = with_slices(exposures(tmp_path / "in", "cal"))
    first = save(ds.isel(dither=[0]), tmp_path / "out")
    moved = ds.isel(dither=[1]).assign(slice_beta=ds.slice_beta + 1)
    with pytest.raises(InputFileError, match="slice coordinates of the files differ"):
        open_exposures(first + save(moved, tmp_path / "out"))


def test_dither_numbers_survive(tmp_path):
    (tmp_path / "in").mkdir()
    ds = exposures(tmp_path / "in", "rate", 3).isel(dither=[0, 2])
    back = load(save(ds, tmp_path / "out"))
    assert back.dither.values.tolist() == [1, 3]
    xr.testing.assert_identical(plain(back), plain(ds))


@pytest.mark.parametrize("format", ["fits", "netcdf", "zarr"])
def test_cube_round_trip(tmp_path, format):
    cube = make_cube()
    (path,) = save(cube, tmp_path, format)
    suffix = {"fits": ".fits", "netcdf": ".nc", "zarr": ".zarr"}[format]
    assert path.name == f"jw02732-o004_ngc-7319_miri_ch1-short_s3d{suffix}"
    back = load(path)
    assert back.flux.chunks
    if format == "zarr":  # one file a shard, chunks inside it
        array = xr.open_zarr(path, consolidated=False, chunks=None).flux
        assert array.encoding["shards"] == array.shape
        assert array.encoding["chunks"][1:] == array.shape[1:]
    xr.testing.assert_identical(plain(back).drop_vars(["ra", "dec"], errors="ignore"), cube)
    schema.validate(back)


def test_cube_file_is_what_others_read(tmp_path):
    from astropy.wcs import WCS

    cube = make_cube()
    (path,) = save(cube, tmp_path / "a_s3d.fits")
    with fits.open(path) as hdulist:
        assert [hdu.name for hdu in hdulist][:5] == ["PRIMARY", "SCI", "ERR", "DQ", "WMAP"]
        sci = hdulist["SCI"].header
        wcs = WCS(sci)
        np.testing.assert_allclose(wcs.spectral.pixel_to_world(np.arange(6)).to_value("um"), cube.wavelength)
        assert sci["BUNIT"] == "MJy/sr"
        assert sci["SRCTYPE"] == "EXTENDED"
        assert sci["PIXAR_A2"] == pytest.approx(0.13**2)
        assert sci["PIXAR_SR"] == pytest.approx(0.13**2 * 2.3504430539e-11)
        np.testing.assert_allclose(hdulist["ERR"].data, np.sqrt(cube["var"]), rtol=1e-6)
        assert hdulist["DQ"].data.dtype == "uint32"
        primary = hdulist[0].header
        assert (primary["CHANNEL"], primary["BAND"], primary["DATAMODL"]) == ("1", "SHORT", "IFUCubeModel")
        assert (primary["S_SATURA"], primary["S_JUMP"]) == ("COMPLETE", "COMPLETE")
        assert primary["R_SATURA"] == "crds://jwst_miri_saturation_0035.fits"
        assert primary["R_GAIN"] == "gain_made.fits"
        assert "R_READNO" not in primary


def cards_but_date(path):
    return [card for card in re.findall(rb".{80}", path.read_bytes(), re.DOTALL) if not card.startswith(b"DATE    =")]


@pytest.mark.parametrize("case", ["plain", "unequal steps", "more variables", "some computed"])
def test_a_lazy_cube_is_streamed_to_the_same_file(tmp_path, case):
    cube = make_cube(n=(40, 7, 5))
    cube["var"][3, 2, 2], cube["var"][4, 1, 1], cube["dq"][5] = np.nan, -1.0, 2**31 + 513
    chunks = {"wavelength": 7, "y": 3}
    lazy = cube.chunk(chunks)
    if case == "unequal steps":
        cube = cube.assign_coords(wavelength=("wavelength", np.geomspace(5, 20, 40), {"units": "um"}))
        lazy = cube.chunk(chunks)
    elif case == "more variables":  # of a type that is streamed, of one that is not, and a map of y, x
        cube["var_systematic"] = (2 * cube["var"]).assign_attrs(units="MJy2/sr2")
        cube["tried"] = (cube.flux.dims, (cube.flux.values > 10).astype("i1"), {"units": "1"})
        cube["share"] = cube.weight.isel(wavelength=0, drop=True).astype("f8")
        lazy = cube.chunk(chunks)
    elif case == "some computed":
        lazy = cube.assign(flux=lazy.flux, dq=lazy.dq)
    for name, ds in (("whole", cube), ("streamed", lazy)):
        assert write_cube(ds, tmp_path / name / "a_s3d.fits") == tmp_path / name / "a_s3d.fits"
    assert cards_but_date(tmp_path / "streamed" / "a_s3d.fits") == cards_but_date(tmp_path / "whole" / "a_s3d.fits")
    back = load(tmp_path / "streamed" / "a_s3d.fits")
    xr.testing.assert_identical(plain(back).drop_vars(["ra", "dec"], errors="ignore"), cube)
    assert write_cube(lazy, tmp_path / "a_s3d.fits.gz").stat().st_size < 0.9 * cube.nbytes
    np.testing.assert_array_equal(load(tmp_path / "a_s3d.fits.gz").flux, cube.flux)


def test_a_streamed_cube_is_never_whole(tmp_path):
    """Every block is made once for all images of the file, and written before the next is made."""
    cube = make_cube(n=(40, 7, 5))
    alive, made = [], []

    def block(k):
        alive.append(len([one for one in made if one() is not None]))
        values = cube.flux.values[4 * k : 4 * k + 4].copy()
        made.append(weakref.ref(values))
        return values

    shape = (4, *cube.flux.shape[1:])
    parts = [da.from_delayed(dask.delayed(block, pure=False)(k), shape, "f4") for k in range(10)]
    flux = da.concatenate(parts)
    lazy = cube.assign(
        flux=(cube.flux.dims, flux, cube.flux.attrs), var=(cube.flux.dims, flux**2, cube["var"].attrs)
    )  # fmt: skip
    with dask.config.set(scheduler="synchronous"):
        write_cube(lazy, tmp_path / "a_s3d.fits")
    assert len(made) == 10
    assert max(alive) <= 2
    np.testing.assert_allclose(fits.getdata(tmp_path / "a_s3d.fits", "ERR"), np.abs(cube.flux))


def test_a_failed_stream_leaves_the_old_file(tmp_path):
    (path,) = save(make_cube(), tmp_path)
    old = path.read_bytes()

    def fail(values):
        raise OSError("cannot be read")

    lazy = make_cube().chunk(wavelength=2)
    lazy["flux"] = lazy.flux.copy(data=da.map_blocks(fail, lazy.flux.data, meta=np.empty((0, 0, 0), "f4")))
    with pytest.raises(OSError, match="cannot be read"):
        write_cube(lazy, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_moved_wcs_counts(tmp_path):
    (path,) = save(make_cube(), tmp_path)
    with fits.open(path, mode="update") as hdulist:
        hdulist["SCI"].header["CRVAL1"] += 0.001
    assert "339.0159" in load(path).attrs["wcs"]


def test_unequally_spaced_cube(tmp_path):
    cube = make_cube()
    cube = cube.assign_coords(wavelength=("wavelength", np.geomspace(5, 20, 6), {"units": "um"}))
    cube.attrs.update(band="1A,2A,3A", bands=["1A", "2A", "3A"])
    (path,) = save(cube, tmp_path)
    assert path.name == "jw02732-o004_ngc-7319_miri_ch1-2-3-short_s3d.fits"
    xr.testing.assert_identical(plain(load(path)).drop_vars(["ra", "dec"], errors="ignore"), cube)
    from astropy.wcs import WCS

    with fits.open(path) as hdulist:
        assert hdulist["SCI"].header["CTYPE3"] == "WAVE-TAB"
        found = WCS(hdulist["SCI"].header, hdulist).all_pix2world(np.zeros(6), np.zeros(6), np.arange(6), 0)[2]
        np.testing.assert_allclose(np.asarray(found), cube.wavelength, rtol=1e-6)


@pytest.mark.parametrize("format", ["fits", "netcdf", "zarr"])
@pytest.mark.parametrize(("bands", "dtype"), [(("1A",), "f8"), (("1A", "1B", "3C"), "f4")])
def test_spectrum_round_trip(tmp_path, bands, dtype, format):
    spectrum = make_spectrum(bands, dtype=dtype)
    spectrum["rf_flux"] = ("wavelength", spectrum.flux.values.astype("f8"), {"units": "Jy"})
    (path,) = save(spectrum, tmp_path, format)
    stem = "ch1-short_x1d" if len(bands) == 1 else "ch1a-1b-3c_x1d"
    assert path.name.startswith(f"jw02732-o004_ngc-7319_miri_{stem}")
    back = load(path)
    xr.testing.assert_identical(plain(back), spectrum)
    assert back.flux.dtype == dtype


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("source_type", ["POINT", "EXTENDED"])
def test_specutils_opens_the_spectrum(tmp_path, source_type):
    specutils = pytest.importorskip("specutils")
    ds = make_spectrum(source_type=source_type)
    (path,) = save(ds, tmp_path)
    found = specutils.Spectrum.read(str(path), format="JWST x1d")
    name = "flux" if source_type == "POINT" else "surface_brightness"
    np.testing.assert_allclose(found.flux.value, ds[name])
    assert found.flux.unit.to_string() == ("Jy" if source_type == "POINT" else "MJy / sr")
    assert str(found.spectral_axis.unit) == "um"
    error = ds["var" if source_type == "POINT" else "surface_brightness_var"] ** 0.5
    np.testing.assert_allclose(found.uncertainty.array, error)


def test_x1d_columns_and_units(tmp_path):
    (path,) = save(make_spectrum(("1A", "2A")), tmp_path)
    with fits.open(path) as hdulist:
        table = hdulist["EXTRACT1D"]
        assert table.columns.names[:3] == ["WAVELENGTH", "FLUX", "FLUX_ERROR"]
        assert table.columns.names[-1] == "BAND"
        units = {column.name: column.unit for column in table.columns}
        assert (units["WAVELENGTH"], units["FLUX"], units["BKGD_VAR_FLAT"]) == ("um", "Jy", "MJy2 sr-2")
        assert table.data["DQ"].dtype == "uint32"
        assert set(table.data["BAND"]) == {"1A", "2A"}
        assert table.header["SRCTYPE"] == "POINT"
        assert hdulist[0].header["CHANNEL"] == "12"


def test_rate_file_has_the_jwst_layout_and_all_keywords(tmp_path):
    (tmp_path / "in").mkdir()
    ds = exposures(tmp_path / "in", "rate", 1).assign_attrs(history_json=HISTORY, background=1)
    ds = ds.assign_coords(ra_ref=ds.ra_ref + 0.01)
    (path,) = save(ds, tmp_path / "out")
    with fits.open(path) as hdulist:
        names = "PRIMARY SCI ERR DQ VAR_POISSON VAR_RNOISE MRSXR ASDF"
        assert {hdu.name for hdu in hdulist} == set(names.split())
        header, sci = hdulist[0].header, hdulist["SCI"].header
        before = json.loads(ds.fits_header.item())
        assert before["PRIMARY"].items() - header.items() == {("BKGDTARG", False)}
        assert sci["RA_REF"] == pytest.approx(339.02001)
        assert sci["VELOSYS"] == -26520.99
        assert (sci["BUNIT"], header["FILENAME"], header["DATAMODL"]) == ("DN/s", path.name, "IFUImageModel")
        assert (header["BKGDTARG"], header["S_JUMP"]) == (True, "COMPLETE")
        np.testing.assert_allclose(hdulist["ERR"].data ** 2, (ds.var_poisson + ds.var_read)[0], rtol=1e-5)
        assert hdulist["DQ"].data.dtype == "uint32"
        assert hdulist["DQ"].header["BZERO"] == 2**31
    xr.testing.assert_identical(plain(load(path)), plain(ds))


def test_edited_keywords_count(tmp_path):
    (tmp_path / "in").mkdir()
    ds = exposures(tmp_path / "in", "rate", 1)
    (path,) = save(ds, tmp_path / "out")
    with fits.open(path, mode="update") as hdulist:
        hdulist["SCI"].header["RA_REF"] = 12.5
        hdulist[0].header["NEWKEY"] = "new"
        hdulist[0].header["TARG_RA"] = 341.5
        del hdulist[0].header["TITLE"]
    back = load(path)
    assert back.ra_ref.item() == 12.5
    header = json.loads(back.fits_header.item())
    assert header["SCI"]["RA_REF"] == 12.5
    assert header["PRIMARY"]["NEWKEY"] == "new"
    assert "TITLE" not in header["PRIMARY"]
    assert "DATAMODL" not in header["PRIMARY"]
    (again,) = save(back, tmp_path / "again")
    assert keyword(load(again), "TARG_RA") == [341.5]


@pytest.mark.parametrize("format", ["fits", "netcdf", "zarr"])
def test_tree_round_trip(tmp_path, format):
    for setting in ("12A", "34B"):
        io_files.write(tmp_path, "rate", setting, 1, shape=SHAPE)
        io_files.write(tmp_path, "rate", setting, 1, shape=SHAPE, observation="005", BKGDTARG=True)
    tree = open_observation(tmp_path)
    paths = save(tree, tmp_path / "out", format)
    assert len(paths) == (4 if format == "fits" else 1)
    back = load(tmp_path / "out" if format == "fits" else paths[0])
    assert [node.path for node in back.leaves] == [node.path for node in tree.leaves]
    assert back.attrs == tree.attrs
    for node in tree.leaves:
        xr.testing.assert_identical(plain(back[node.path].to_dataset()), plain(node.to_dataset()))


def test_a_made_ramp_without_keywords_saves(tmp_path):
    ds = make_ramp(np.arange(2 * 2 * 3 * 4 * 5, dtype="f4").reshape(2, 2, 3, 4, 5), {"y": 2})
    ds["group_dq"] = ds.group_dq + np.uint8(dq.SATURATED)
    back = load(save(ds, tmp_path))
    np.testing.assert_array_equal(back.sci.values, ds.sci.values)
    np.testing.assert_array_equal(back.group_dq.values, ds.group_dq.values)
    np.testing.assert_array_equal(back.ra_ref.values, ds.ra_ref.values)
    assert back.attrs == ds.attrs


def test_writing_computes_one_dither_at_a_time(tmp_path):
    import dask

    (tmp_path / "in").mkdir()
    ds = exposures(tmp_path / "in", "rate", 3)
    seen = []

    def scheduler(graph, keys, **kwargs):
        seen.append(len(list(dask.core.flatten(keys))))
        return dask.get(graph, keys, **kwargs)

    with dask.config.set(scheduler=scheduler):
        save(ds, tmp_path / "out")
    assert seen == [4, 4, 4]  # rate, var_poisson, var_read and dq of each dither together


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a_rate.fits"
    path.write_bytes(b"old")

    class Broken(fits.HDUList):
        def writeto(self, name, **_):
            with open(name, "wb") as stream:
                stream.write(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_fits(Broken([fits.PrimaryHDU()]), path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a_rate.fits"]
    write_fits(fits.HDUList([fits.PrimaryHDU()]), path)
    assert path.read_bytes().startswith(b"SIMPLE")

    def interrupted():
        with replacing(path) as temporary:
            temporary.write_bytes(b"x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["a_rate.fits"]


def test_a_failed_netcdf_leaves_nothing(tmp_path):
    cube = make_cube()
    cube["odd"] = ("y", np.array([object()] * 5))
    with pytest.raises(Exception, match=r"odd|object|serializ"):
        save(cube, tmp_path, "netcdf")
    with pytest.raises(MrsxrError, match="'odd' is object"):
        save(cube, tmp_path, "fits")
    assert list(tmp_path.iterdir()) == []


def test_saving_over_the_file_that_is_read(tmp_path):
    (tmp_path / "in").mkdir()
    ds = exposures(tmp_path / "in", "rate", 1)
    (path,) = save(ds, tmp_path / "out")
    lazy = load(path)
    lazy["rate"] = lazy.rate * np.float32(2)
    expected = lazy.rate.values
    save(lazy, path)
    np.testing.assert_array_equal(load(path).rate.values, expected)


def test_clear_refusals(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    ds = exposures(tmp_path / "in", "rate", 2)
    with pytest.raises(MrsxrError, match="2 dithers and become 2 files; give a folder"):
        save(ds, tmp_path / "one.fits")
    with pytest.raises(MrsxrError, match="format 'hdf' is unknown"):
        save(ds, tmp_path, "hdf")
    with pytest.raises(MrsxrError, match="no attribute 'level'"):
        save(xr.Dataset({"a": 1}), tmp_path)
    with pytest.raises(MrsxrError, match="two products would have the name"):
        save(xr.concat([ds, ds], "dither", data_vars="minimal"), tmp_path)
    with pytest.raises(MrsxrError, match="a tree becomes several FITS files"):
        save(xr.DataTree.from_dict({"/science/12A": ds}), tmp_path / "one.fits")
    with pytest.raises(InputFileError, match="no such file"):
        load(tmp_path / "gone.nc")
    with pytest.raises(InputFileError, match="gone"):
        load(tmp_path / "gone.fits")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MrsxrError, match="zarr is not installed"):
        save(ds, tmp_path, "zarr")


@pytest.mark.parametrize("format", ["fits", "netcdf", "zarr"])
def test_what_is_there_is_kept_where_asked(tmp_path, format):
    (tmp_path / "in").mkdir()
    ds = exposures(tmp_path / "in", "rate", 2)
    out = tmp_path / "out"
    first = save(ds.isel(dither=[1]), out, format, overwrite=False)
    before = {path: stamp(path) for path in first}
    changed = ds.assign(rate=ds.rate + 1)
    tree = xr.DataTree.from_dict({"/science/12A": changed})
    same_name = changed.isel(dither=[1]) if format != "fits" else changed
    with pytest.raises(MrsxrError, match=f"{re.escape(str(first[0]))}: exists already; nothing was written") as error:
        save(same_name, out, format, overwrite=False)
    assert "\n" not in str(error.value)
    assert {path: stamp(path) for path in first} == before
    assert len(list(out.iterdir())) == 1
    both = save(tree, out / "tree", format, overwrite=False)
    with pytest.raises(MrsxrError, match="exists already" + (" and 1 more" if format == "fits" else "")):
        save(tree, out / "tree", format, overwrite=False)
    file = out / {"fits": "one.fits", "netcdf": "one.nc", "zarr": "one.zarr"}[format]
    save(changed.isel(dither=[0]), file, overwrite=False)
    with pytest.raises(MrsxrError, match="one"):
        save(changed.isel(dither=[0]), file, overwrite=False)
    assert save(same_name, out, format)[-1] == first[0]  # the default replaces
    assert float(load(first[0]).rate.mean()) == pytest.approx(float(changed.isel(dither=[1]).rate.mean()))
    assert len(both) == (2 if format == "fits" else 1)


def stamp(path):
    """Return what a file, or a folder of files, holds."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file): file.read_bytes() for file in files if file.is_file()}


def test_default_folder_and_suffix(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    ds = exposures(tmp_path / "in", "cal", 1)
    monkeypatch.chdir(tmp_path)
    (path,) = save(ds, suffix="o004_crf")
    assert path.name == "jw02732004001_02101_00001_mirifushort_o004_crf.fits"
    assert load(path).attrs["level"] == "cal"


def test_importing_io_stays_light():
    code = "import sys, mrsxr.io; print([m for m in ('numba', 'zarr', 'netCDF4', 'distributed') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.shared
def test_real_cube_survives_a_round_trip(shared_data, tmp_path):
    cube = load(shared_data / "s3d_ngc7469" / "NGC7469_ch4-short_s3d.fits.gz")
    (path,) = save(cube, tmp_path)
    back = load(path)
    xr.testing.assert_identical(plain(back.drop_vars(["ra", "dec"])), plain(cube.drop_vars(["ra", "dec"])))
    np.testing.assert_allclose(back.ra, cube.ra, rtol=0, atol=1e-12)
    with fits.open(path) as new, fits.open(shared_data / "s3d_ngc7469" / "NGC7469_ch4-short_s3d.fits.gz") as old:
        np.testing.assert_allclose(new["ERR"].data, old["ERR"].data, rtol=3e-7)
        for key in ("CRVAL1", "CRVAL2", "CRVAL3", "CDELT3", "PC1_1", "PC1_2", "VELOSYS", "PIXAR_SR"):
            assert new["SCI"].header[key] == pytest.approx(old["SCI"].header[key], rel=1e-6)
        assert new[0].header["TITLE"] == old[0].header["TITLE"]


@pytest.mark.shared
def test_flight_distortion_comes_back_exactly(shared_data, tmp_path):
    from mrsxr.cal.wcs import assign_wcs
    from mrsxr.references.readers import read_reference

    folder = shared_data / "coords_flt9"
    refs = {
        kind: read_reference(folder / f"jwst_miri_mrs34C_{kind}_flt9.asdf", kind) for kind in ("distortion", "specwcs")
    }
    (tmp_path / "in").mkdir()
    ds = open_exposures(io_files.write(tmp_path / "in", "rate", "34C", shape=(1024, 1032))).isel(y=slice(400, 500))
    ds = assign_wcs(ds, **refs)
    back = load(save(ds, tmp_path / "out"))
    assert np.isfinite(back.wavelength).any()
    xr.testing.assert_identical(plain(back), plain(ds))
