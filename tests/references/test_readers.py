"""Reading every kind of reference file: numbers, names, units, laziness, flags by name, clear refusals."""

from __future__ import annotations

import gzip
import shutil

import dask
import numpy as np
import pytest
import reference_set as rs
from astropy.io import fits

from mrsxr import dq, mrs, units
from mrsxr.errors import ReferenceFileError
from mrsxr.references import KINDS, read_facts, read_reference
from mrsxr.references.headers import scan
from mrsxr.references.readers import Window
from mrsxr.simulate import write_reference

NAMES = ("kind", "ref_id", "useafter", "detector", "band", "channels", "readpatt", "subarray")


def test_every_kind_has_its_attributes_and_units(reference_folder):
    seen = set()
    for path in reference_folder.iterdir():
        ds = read_reference(path)
        seen.add(ds.attrs["kind"])
        assert ds.attrs["level"] == "reference"
        assert ds.attrs["ref_id"] == path.name
        assert set(NAMES) <= set(ds.attrs)
        for name, variable in ds.variables.items():
            if variable.dtype.kind == "f":
                units.parse(variable.attrs["units"])
            assert variable.dtype.isnative, name
    assert seen == set(KINDS) - {"distortion", "specwcs", "regions", "wavelengthrange"}


@pytest.mark.parametrize(
    ("file", "name", "dims", "expected"),
    [
        ("sat.fits", "threshold", ("y", "x"), rs.image(1)),
        ("dark.fits", "dark", ("integration", "group", "y", "x"), rs.image(3, (2, rs.N_GROUPS, *rs.SHAPE))),
        ("reset.fits", "reset", ("integration", "group", "y", "x"), rs.image(3, (2, rs.N_GROUPS, *rs.SHAPE))[:1]),
        ("gain.fits", "gain", ("y", "x"), rs.image(4)),
        ("noise.fits", "read_noise", ("y", "x"), rs.image(5)),
        ("flat.fits", "flat", ("y", "x"), rs.image(6)),
        ("flat.fits", "flat_err", ("y", "x"), rs.image(7)),
        ("fringe.fits", "fringe", ("y", "x"), rs.image(8)),
        ("photom.fits", "conversion", ("y", "x"), rs.image(9)),
        ("photom.fits", "pixel_area", ("y", "x"), np.full(rs.SHAPE, 0.03, np.float32)),
    ],
)
def test_images_are_lazy_float32_and_exact(reference_folder, file, name, dims, expected):
    with dask.config.set(scheduler=_refuse):
        ds = read_reference(reference_folder / file, rows=4)
    assert ds[name].dims == dims
    assert ds[name].dtype == np.float32
    assert ds[name].chunksizes["y"] == (4, 4, 4, 4)
    assert all(len(ds[name].chunksizes[dim]) == 1 for dim in dims if dim != "y")
    assert not ds.coords.keys() & {"y", "x", "group", "integration"}
    assert ds[name].data.name == read_reference(reference_folder / file, rows=4)[name].data.name
    np.testing.assert_array_equal(ds[name], expected)


def _refuse(*_args, **_kwargs):
    raise AssertionError("reading computed something")


@pytest.mark.parametrize("file", ["jwst_miri_mask_0007.fits", "sat.fits", "dark.fits", "reset.fits", "flat.fits"])
def test_flags_come_back_in_standard_bits(reference_folder, file):
    ds = read_reference(reference_folder / file, rows=8)
    assert ds.dq.dims == ("y", "x")
    assert ds.dq.dtype == np.uint32
    assert ds.dq.chunksizes["y"] == (8, 8)
    np.testing.assert_array_equal(ds.dq, rs.flags())


def rewrite(source, target, change):
    with fits.open(source) as hdus:
        change(hdus)
        hdus.writeto(target)
    return target


def test_flags_are_mapped_by_name_not_by_number(reference_folder, tmp_path):
    def change(hdus):
        hdus["DQ_DEF"].data["NAME"] = ["HOT", "DEAD", "NO_SUCH_FLAG"]

    ds = read_reference(rewrite(reference_folder / "jwst_miri_mask_0007.fits", tmp_path / "m.fits", change))
    expected = np.zeros(rs.SHAPE, np.uint32)
    expected[2, 3] = dq.value("HOT", "DEAD")  # stored 1 and 2; the stored 4 has no standard name and is dropped
    np.testing.assert_array_equal(ds.dq, expected)


def test_without_definitions_the_flags_are_taken_as_standard(reference_folder, tmp_path):
    def change(hdus):
        del hdus["DQ_DEF"]

    ds = read_reference(rewrite(reference_folder / "jwst_miri_mask_0007.fits", tmp_path / "m.fits", change))
    assert int(ds.dq[2, 3]) == 3


def test_dark_flags_are_joined_over_integrations_first_group_only(reference_folder, tmp_path):
    def change(hdus):
        planes = np.zeros((2, 2, *rs.SHAPE), np.uint32)
        planes[0, 0, 1, 1], planes[1, 0, 1, 2], planes[0, 1, 1, 3] = 1, 2, 1
        hdus["DQ"].data = planes

    ds = read_reference(rewrite(reference_folder / "dark.fits", tmp_path / "d.fits", change))
    assert [int(v) for v in ds.dq[1, 1:4]] == [dq.DO_NOT_USE, dq.value("HOT"), 0]


def test_a_file_without_flags_has_none_set(reference_folder, tmp_path):
    def change(hdus):
        del hdus["DQ"], hdus["DQ_DEF"], hdus["ERR"]

    ds = read_reference(rewrite(reference_folder / "flat.fits", tmp_path / "f.fits", change), rows=8)
    assert ds.dq.dtype == np.uint32
    assert not ds.dq.values.any()
    np.testing.assert_array_equal(ds.flat_err, np.zeros(rs.SHAPE, np.float32))


def test_scalars_of_the_header(reference_folder, tmp_path):
    assert read_reference(reference_folder / "dark.fits").attrs["average_dark_current"] == 0.12
    assert read_reference(reference_folder / "gain.fits").attrs["gain_factor"] == 1.0
    path = write_reference(tmp_path / "g.fits", "gain", rs.SHORT, gain=rs.image(), gain_factor=2.5)
    assert read_reference(path).attrs["gain_factor"] == 2.5


def test_photom_time_law_is_on_channel_and_bin(reference_folder):
    ds = read_reference(reference_folder / "photom.fits")
    law = ds.sel(channel=2)
    np.testing.assert_allclose(law.time_wavelength, [8, 11])
    np.testing.assert_allclose(law.time_alpha, [-0.1, -0.2], rtol=1e-6)
    np.testing.assert_allclose(ds.sel(channel=4).time_year1value, [1, 1])
    assert list(ds.channel.values) == [1, 2, 3, 4]


def test_photom_without_law_and_area_uses_the_mean_area(reference_folder, tmp_path):
    def change(hdus):
        del hdus["PIXSIZ"]
        for channel in (1, 2, 3, 4):
            del hdus[f"TIMECOEFF_POWERLAW_CH{channel}"]

    ds = read_reference(rewrite(reference_folder / "photom.fits", tmp_path / "p.fits", change))
    assert "time_alpha" not in ds
    assert "channel" not in ds.dims
    np.testing.assert_allclose(ds.pixel_area, 0.03, rtol=1e-6)


def test_rscd_takes_a_missing_first_skip_as_one(reference_folder):
    ds = read_reference(reference_folder / "rscd.fits")
    slow = ds.isel(row=int(np.flatnonzero(ds.readpatt.values == "SLOWR1")[0]))
    assert [int(v) for v in ds.group_skip1] == [4, 1]
    assert int(slow.group_skip) == 1
    assert str(slow.subarray.values) == "FULL"


def test_cross_artifact_kernels(reference_folder, tmp_path):
    ds = read_reference(reference_folder / "xart.fits")
    assert list(ds.band.values) == list(mrs.BANDS)
    np.testing.assert_array_equal(ds.gau_xoff.sel(band="2A"), np.arange(rs.SHAPE[0]) + 303)
    np.testing.assert_array_equal(ds.yrow.sel(band="1A"), np.arange(rs.SHAPE[0]))
    part = write_reference(tmp_path / "x.fits", "mrsxartcorr", {}, tables=rs.xart_tables(("1A", "2A")))
    assert list(read_reference(part).band.values) == ["1A", "2A"]


def test_point_source_tables(reference_folder):
    ds = read_reference(reference_folder / "pt.fits")
    np.testing.assert_allclose(ds.frac_leak.interp(wavelength=12.1), (0.002 + 0.0267) / 2, rtol=1e-5)
    assert float(ds.tracor_t_wmin_edge.sel(channel=2)) == pytest.approx(92.2)
    assert float(ds.wavcorr_optical_srp_max.sel(sub_band="1B")) == 3600
    assert float(ds.wavcorr_xslice_max[0]) == pytest.approx(0.002)
    assert float(ds.wavcorr_shift_ds_max.sel(beta_off=0.5)) == pytest.approx(0.2)


def test_fringe_frequencies_join_bands_that_differ_in_slices(reference_folder):
    ds = read_reference(reference_folder / "freq.fits")
    assert ds.ffreq.dims == ("band", "slice_label", "family")
    assert ds.sizes["family"] == 2
    np.testing.assert_allclose(ds.ffreq.sel(band="SHORT", slice_label=102), 2.9)
    assert np.isnan(ds.ffreq.sel(band="MEDIUM", slice_label=102)).all()
    np.testing.assert_allclose(ds.max_amplitude.interp(wavelength=16.5), 0.15)


def test_cubepar_gives_the_decimal_numbers(reference_folder):
    ds = read_reference(reference_folder / "cubepar.fits")
    one = ds.sel(band="1A")
    assert (float(one.spaxel_size), float(one.wavelength_step)) == (0.13, 0.0008)
    assert (float(one.wavelength_min), float(one.wavelength_max)) == (4.90, 5.74)
    assert float(ds.sel(band="4C").msm_roi_spatial) == 0.4
    assert float(ds.sel(band="4C").emsm_scalerad) == 0.1
    assert ds.multichannel_wavelength.size == 7


def test_extraction_files(reference_folder):
    ds = read_reference(reference_folder / "x1d.asdf")
    fwhm = mrs.psf_fwhm(ds.wavelength.values)
    np.testing.assert_allclose(ds.radius, 2 * fwhm, rtol=1e-6)
    np.testing.assert_allclose(ds.outer_background, 4 * fwhm, rtol=1e-6)
    assert (ds.attrs["subtract_background"], ds.attrs["method"], ds.attrs["subpixels"]) == (1, "subpixel", 10)
    ds = read_reference(reference_folder / "apcorr.asdf")
    assert ds.correction.dims == ("aperture", "wavelength")
    np.testing.assert_allclose(ds.correction.isel(aperture=1), 1.2, rtol=1e-6)
    np.testing.assert_allclose(ds.radius.isel(aperture=1), 2 * fwhm, rtol=1e-6)
    assert not ds.correction_err.values.any()


def test_emicorr_pads_short_waveforms(reference_folder):
    ds = read_reference(reference_folder / "emi.asdf")
    assert float(ds.frequency.sel(name="Hz390")) == 390.6
    np.testing.assert_array_equal(ds.waveform.sel(name="Hz390"), [1, -1, np.nan, np.nan])
    assert float(ds.row_clocks.sel(case="FULL_FAST")) == 271
    assert ds.order.sel(case="FULL_FAST", detector="MIRIFULONG").values.tolist() == [[1, 0], [0, 0]]


def test_ipc_kernel_is_read_at_once(reference_folder):
    ds = read_reference(reference_folder / "ipc.fits")
    assert ds.kernel.dims == ("kernel_y", "kernel_x")
    assert ds.kernel.chunks is None
    np.testing.assert_array_equal(ds.kernel, np.eye(3))


def test_window_cuts_before_anything_is_read(reference_folder):
    ds = read_reference(reference_folder / "dark.fits", rows=(3, 2), window=Window(4, 2, 5, 7))
    np.testing.assert_array_equal(ds.dark, rs.image(3, (2, rs.N_GROUPS, *rs.SHAPE))[..., 4:9, 2:9])
    np.testing.assert_array_equal(ds.dq, rs.flags()[4:9, 2:9])
    assert ds.dark.chunksizes["y"] == (3, 2)
    with pytest.raises(ReferenceFileError, match="holds 16 rows and 24 columns, the exposure needs rows 14-18"):
        read_reference(reference_folder / "dark.fits", window=Window(14, 2, 5, 7))


def test_compressed_files_are_read(reference_folder, tmp_path):
    packed = tmp_path / "gain.fits.gz"
    with open(reference_folder / "gain.fits", "rb") as source, gzip.open(packed, "wb") as target:
        shutil.copyfileobj(source, target)
    np.testing.assert_array_equal(read_reference(packed).gain, rs.image(4))


def test_kind_is_checked(reference_folder):
    assert read_reference(reference_folder / "gain.fits", "gain").attrs["kind"] == "gain"
    with pytest.raises(ReferenceFileError, match=r"gain\.fits: is a reference file of kind gain, expected dark"):
        read_reference(reference_folder / "gain.fits", "dark")
    with pytest.raises(ReferenceFileError, match="'gains' is no reference kind"):
        read_reference(reference_folder / "gain.fits", "gains")


def test_damaged_files_are_refused_in_one_line(reference_folder, tmp_path):
    whole = (reference_folder / "dark.fits").read_bytes()
    cut = tmp_path / "cut.fits"
    cut.write_bytes(whole[: len(whole) // 2])
    text = tmp_path / "text.fits"
    text.write_text("not a FITS file")
    tree = tmp_path / "tree.asdf"
    tree.write_text("#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n%YAML 1.1\n--- {[\n...\n")
    for path, words in ((cut, "truncated"), (text, "text.fits"), (tree, "no readable ASDF")):
        with pytest.raises(ReferenceFileError, match=words) as caught:
            read_reference(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ReferenceFileError, match="cannot be read"):
        read_reference(tmp_path / "nowhere.fits")


def test_missing_extensions_axes_and_columns_are_named(reference_folder, tmp_path):
    def without_sci(hdus):
        del hdus["SCI"]

    def with_cube(hdus):
        hdus["SCI"].data = np.zeros((2, *rs.SHAPE), np.float32)

    with pytest.raises(ReferenceFileError, match="no SCI extension"):
        read_reference(rewrite(reference_folder / "gain.fits", tmp_path / "a.fits", without_sci))
    with pytest.raises(ReferenceFileError, match=r"SCI has the shape \(2, 16, 24\), expected axes \(y, x\)"):
        read_reference(rewrite(reference_folder / "gain.fits", tmp_path / "b.fits", with_cube))

    def without_column(hdus):
        hdus[1] = fits.BinTableHDU.from_columns(hdus[1].columns[:2], name="RSCD_GROUP_SKIP")

    with pytest.raises(ReferenceFileError, match="lacks the column GROUP_SKIP"):
        read_reference(rewrite(reference_folder / "rscd.fits", tmp_path / "c.fits", without_column))


def test_facts_know_wildcards_patterns_and_other_files(reference_folder, tmp_path):
    def change(hdus):
        hdus[0].header["P_READPA"] = "FASTR1|SLOWR1|"
        hdus[0].header["SUBARRAY"] = "GENERIC"

    facts = read_facts(rewrite(reference_folder / "noise.fits", tmp_path / "n.fits", change))
    assert facts.fields["readpatt"] == ("FASTR1", "SLOWR1")
    assert facts.fields["subarray"] == ()
    assert facts.value("readpatt") == ""
    assert (facts.start, facts.shape) == ((0, 0), rs.SHAPE)
    fits.PrimaryHDU().writeto(tmp_path / "other.fits")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ReferenceFileError, match="no REFTYPE"):
        read_facts(tmp_path / "other.fits")
    assert [f.ref_id for f in scan(tmp_path)[0]] == ["n.fits"]


@pytest.mark.shared
def test_real_geometry_files_are_read(shared_data):
    ds = read_reference(shared_data / "coords_flt9" / "jwst_miri_mrs12A_distortion_flt9.asdf")
    assert (ds.attrs["kind"], ds.attrs["detector"], ds.attrs["band"]) == ("distortion", "MIRIFUSHORT", "SHORT")
    assert ds.attrs["channels"] == "12"
    assert ds.sizes["slice_label"] == mrs.N_SLICES[1] + mrs.N_SLICES[2]
