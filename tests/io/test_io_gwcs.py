"""The gWCS and the keywords of the sky in files of rate and cal data."""

from __future__ import annotations

import importlib.util
import io
import json

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import detector_attrs, dither_coords
from xarray.testing import assert_identical

from mrsxr import cal, dq, mrs, rate, schema  # noqa: F401 - they fill STEPS
from mrsxr.cal.wcs import assign_wcs
from mrsxr.geometry.footprint import s_region
from mrsxr.geometry.sky import with_sky
from mrsxr.io import _gwcs, load, save
from mrsxr.io._keywords import MJSR_TO_UJA2, step_keywords
from mrsxr.simulate.instrument import make_geometry
from mrsxr.step import STEPS

SHAPE = mrs.DETECTOR_SHAPE
STEP = (slice(2, None, 5), slice(1, None, 3))
needs_gwcs = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gwcs", "stdatamodels")),
    reason="gwcs is not installed (pip install 'mrsxr[jwst]')",
)


def make_cal(setting: str = "12A", shape=SHAPE, origin=(0, 0)) -> xr.Dataset:
    """Return two located exposures that differ in pointing, velocity and aberration."""
    dims, size = ("dither", "y", "x"), (2, *shape)
    names = ("flux", "var_poisson", "var_read", "var_flat")
    planes = {
        n: (dims, np.full(size, k + 1.0, "f4"), {"units": schema.units_of("cal", n)}) for k, n in enumerate(names)
    }
    ds = xr.Dataset(
        planes,
        coords={"y": np.arange(*_range(origin[0], shape[0])), "x": np.arange(*_range(origin[1], shape[1]))},
        attrs=detector_attrs("cal", setting, 10, 2),
    ).assign_coords(dither_coords(2, setting))
    ds["dq"] = (dims, np.zeros(size, "u4"), dq.PIXEL_DQ_ATTRS)
    ds["va_scale"] = ("dither", [1.00006, 1.0], ds.va_scale.attrs)
    ds["velosys"] = ("dither", [12005.0, np.nan], ds.velosys.attrs)
    made = make_geometry(setting)
    return assign_wcs(ds, distortion=made.distortion, specwcs=made.specwcs, regions=made.regions)


def _range(first: int, n: int) -> tuple[int, int]:
    return first, first + n


@pytest.fixture(scope="module")
def cal_ds():
    return make_cal()


@pytest.fixture(scope="module")
def files(cal_ds, tmp_path_factory):
    return save(cal_ds, tmp_path_factory.mktemp("cal"))


def tree_of(path):
    """Return the ASDF tree of a file."""
    import asdf

    with fits.open(path) as hdulist:
        document = hdulist["ASDF"].data["ASDF_METADATA"].tobytes()
        assert hdulist[-1].name == "ASDF"
    with asdf.open(io.BytesIO(document), lazy_load=False, memmap=False, validate_checksums=True) as file:
        return document, file.tree


@needs_gwcs
@pytest.mark.parametrize("k", [0, 1])
def test_the_gwcs_of_a_file_gives_our_coordinates(cal_ds, files, k):
    document, tree = tree_of(files[k])
    wcs = tree["meta"]["wcs"]
    assert wcs.available_frames == ["detector", "alpha_beta", "v2v3", "v2v3vacorr", "world"]
    assert b"@" not in document.split(b"\n...\n")[0]
    y, x = (v[STEP] for v in np.mgrid[: SHAPE[0], : SHAPE[1]])
    alpha, beta, wave = wcs.transform("detector", "alpha_beta", x, y)
    ra, dec, world_wave = wcs(x, y)
    sky = with_sky(cal_ds)
    found = {"alpha": alpha, "beta": beta, "wavelength_barycentric": wave, "ra": ra, "dec": dec}
    for name, values in found.items():
        wanted = sky[name].values[(k, *STEP) if "dither" in sky[name].dims else STEP]
        scale = 3600 if name in ("ra", "dec") else 1
        np.testing.assert_allclose(values * scale, wanted * scale, rtol=0, atol=1e-12 if "wave" in name else 5e-7)
    np.testing.assert_array_equal(wave, world_wave)
    lit = cal_ds.slice.values[STEP] > 0
    assert 0.5 < lit.mean() < 1
    np.testing.assert_array_equal(np.isfinite(ra), lit)
    back_x, back_y = wcs.backward_transform(ra[lit], dec[lit], wave[lit])
    assert np.abs(back_x - x[lit]).max() < 0.05
    assert np.abs(back_y - y[lit]).max() < 0.05
    assert tuple(wcs.bounding_box.bounding_box(order="F")) == ((-0.5, 1031.5), (-0.5, 1023.5))
    np.testing.assert_allclose(tree["meta"]["wcsinfo"]["spectral_region"], [np.nanmin(sky.wavelength_barycentric[k]),
                               np.nanmax(sky.wavelength_barycentric[k])], rtol=1e-14)  # fmt: skip


@needs_gwcs
def test_the_data_model_of_jwst_reads_the_file(cal_ds, files):
    from stdatamodels.jwst import datamodels

    with datamodels.open(files[0]) as model:
        assert type(model).__name__ == "IFUImageModel"
        assert model.meta.wcs.output_frame.name == "world"
        assert model.meta.wcsinfo.s_region == s_region(cal_ds, 0)
        assert model.meta.wcsinfo.dispersion_direction == 2
        assert (model.meta.exposure.type, model.meta.instrument.channel) == ("MIR_MRS", "12")
        assert len(model.meta.wcsinfo.spectral_region) == 2
        np.testing.assert_array_equal(model.data, cal_ds.flux[0])
        np.testing.assert_array_equal(model.regions, cal_ds.slice)
        np.testing.assert_allclose(model.err, np.sqrt(2.0 + 3.0 + 4.0))


def test_saving_and_loading_changes_nothing(cal_ds, files):
    back = load(files)
    schema.validate(back)
    names = ["mrsxr_version", "history_json"]
    assert {k: back.attrs[k] for k in names} == {k: cal_ds.attrs[k] for k in names}
    assert_identical(back.compute(), cal_ds)


def test_keywords_of_the_sky_are_set_and_forgotten_again(cal_ds, files):
    for k, path in enumerate(files):
        header = fits.getheader(path, "SCI")
        assert header["S_REGION"] == s_region(cal_ds, k)
        assert (header["DISPAXIS"], header["SPECSYS"]) == (2, ("BARYCENT", "TOPOCENT")[k])
        assert json.loads(load(path).fits_header.item())["SCI"] == {}
        assert fits.getheader(path)["DATAMODL"] == "IFUImageModel"


def test_facts_that_steps_leave_become_keywords(tmp_path):
    ds = make_cal(shape=(16, 1032), origin=(100, 0)).isel(dither=[0])
    ds.attrs |= {"source_type": "POINT", "rscd_skip_int1": 4, "rscd_skip_int2": 2, "photmjsr": 732.0, "pixar_a2": 0.036,
                 "pixar_sr": 8.6e-13}  # fmt: skip
    for name, value in (("var_fringe", 7.0), ("var_photom", 50.0)):  # the latter is common to all pixels
        ds[name] = (ds.flux.dims, np.full(ds.flux.shape, value, "f4"), {"units": "MJy2/sr2"})
    (path,) = save(ds, tmp_path)
    sci, primary = fits.getheader(path, "SCI"), fits.getheader(path)
    assert sci["SRCTYPE"] == "POINT"
    assert (primary["INT1SKIP"], primary["INT2SKIP"]) == (4, 2)
    assert [sci[key] for key in ("PHOTMJSR", "PIXAR_A2", "PIXAR_SR")] == [732.0, 0.036, 8.6e-13]
    assert sci["PHOTUJA2"] == pytest.approx(732.0 * MJSR_TO_UJA2)
    assert pytest.approx(23.50443, rel=1e-6) == MJSR_TO_UJA2
    np.testing.assert_allclose(fits.getdata(path, "ERR"), 4.0)
    assert_identical(load(path).compute(), ds)


@pytest.mark.parametrize(
    ("step", "keyword"),
    [
        ("rate.flag_persistence", "S_PERSIS"),
        ("rate.flag_charge_migration", "S_CHGMIG"),
        ("rate.subtract_reference_pixels", "S_REFPIX"),
        ("rate.correct_emi", "S_MIREMI"),
        ("rate.flag_jumps", "S_JUMP"),
        ("rate.flag_first_frame", "S_FRSTFR"),
        ("cal.assign_wcs", "S_WCS"),
        ("cal.assign_mtwcs", "S_MTWCS"),
        ("cal.self_calibrate_bad_pixels", "S_BPXSLF"),
        ("cal.subtract_background", "S_BKDSUB"),
        ("cal.set_source_type", "S_SRCTYP"),
        ("cal.subtract_straylight", "S_STRAY"),
        ("cal.correct_residual_fringe", "S_RESFRI"),
        ("cal.replace_pixels", "S_PXREPL"),
    ],
)
def test_every_step_has_its_keyword(step, keyword):
    entry = {"step": step, "keyword": STEPS[step].facts.keyword}
    assert step_keywords([entry]) == {keyword: "COMPLETE"}


@pytest.mark.parametrize("case", ["pointing", "cut", "slices", "polynomials"])
def test_what_cannot_be_located_is_saved_without_gwcs(cal_ds, tmp_path, case):
    ds = cal_ds.isel(dither=[0])
    if case == "pointing":
        ds["v2_ref"] = ("dither", [np.nan], {"units": "arcsec"})
    elif case == "cut":
        ds = ds.isel(x=slice(0, 500))
    elif case == "slices":
        ds = ds.assign_coords(slice=ds.slice * np.int16(0))
    else:
        ds = ds.drop_vars(["v2_coefficients", "v3_coefficients"])
    assert not _gwcs.has_wcs(ds)
    (path,) = save(ds, tmp_path)
    assert dict(tree_of(path)[1]["meta"]) == {}
    assert ("S_REGION" in fits.getheader(path, "SCI")) == (case == "cut")
    assert_identical(load(path).compute(), ds)


@needs_gwcs
def test_the_work_of_a_setting_is_done_once(cal_ds):
    before = _gwcs._template.cache_info().misses
    one = cal_ds.isel(dither=[0])
    documents = []
    for shift in (0.0, 1e-3):
        moved = one.assign_coords(ra_ref=one.ra_ref + shift)
        documents.append(_gwcs.extension(moved).data["ASDF_METADATA"].tobytes())
    assert _gwcs._template.cache_info().misses - before <= 1
    assert documents[0] != documents[1]
    other = one.assign_coords(slice_beta=one.slice_beta + 0.01)
    assert _gwcs.extension(other).data["ASDF_METADATA"].tobytes() != documents[0]
    assert _gwcs._template.cache_info().misses - before >= 1


@needs_gwcs
def test_pixels_past_the_range_of_jwst_have_no_sky():
    import asdf

    ds = make_cal("34C").isel(dither=[0])
    limit = _gwcs.WAVELENGTH_RANGES["4C"][1]
    late = ds.assign_coords(wavelength_coefficients=ds.wavelength_coefficients.copy())
    late.wavelength_coefficients.loc[{"slice_label": late.slice_label >= 400, "power_y": 0, "power_x": 0}] += 0.4
    shifted = late.wavelength.where(late.channel != 4, late.wavelength + 0.4)
    late = late.assign_coords(wavelength=shifted.assign_attrs(units="um"))
    past = (late.channel == 4) & (late.wavelength / (1 + 12005.0 / 299792458.0) > limit)
    assert past.any()
    with asdf.open(io.BytesIO(_gwcs.extension(late).data["ASDF_METADATA"].tobytes())) as file:
        wcs, region = file["meta"]["wcs"], file["meta"]["wcsinfo"]["spectral_region"]
        y, x = (v[::50] for v in np.nonzero(late.slice.values))
        np.testing.assert_array_equal(np.isnan(wcs(x, y)[0]), past.values[y, x])
        assert limit - 0.01 < region[1] <= limit
