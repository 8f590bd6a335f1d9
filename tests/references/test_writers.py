"""The files that the writers make: layout, headers, atomic writing, refusals. (Reading back: test_readers.)"""

from __future__ import annotations

import asdf
import numpy as np
import pytest
import reference_set as rs
from astropy.io import fits

from mrsxr import dq, mrs
from mrsxr.errors import ReferenceFileError
from mrsxr.references.headers import KINDS, read_facts
from mrsxr.simulate.reference_files import multichannel_wavelengths, write_reference


def test_every_kind_but_the_geometry_is_written_and_says_what_it_is(reference_folder):
    kinds = [read_facts(path).kind for path in reference_folder.iterdir()]
    assert sorted(kinds) == sorted(set(KINDS) - {"distortion", "specwcs", "regions", "wavelengthrange"})


@pytest.mark.parametrize(
    ("name", "extensions"),
    [
        ("jwst_miri_mask_0007.fits", ["DQ", "DQ_DEF"]),
        ("sat.fits", ["SCI", "DQ", "DQ_DEF"]),
        ("lin.fits", ["COEFFS", "DQ", "DQ_DEF"]),
        ("gain.fits", ["SCI"]),
        ("rscd.fits", ["RSCD_GROUP_SKIP"]),
        ("flat.fits", ["SCI", "ERR", "DQ", "DQ_DEF"]),
        ("freq.fits", ["RFC_FREQ_SHORT", "RFC_FREQ_MEDIUM", "RFC_FREQ_LONG", "MAX_AMP"]),
        ("photom.fits", ["SCI", "ERR", "DQ", "DQ_DEF", "PIXSIZ", *(f"TIMECOEFF_POWERLAW_CH{n}" for n in (1, 2, 3, 4))]),
        ("xart.fits", [f"CH{band}" for band in mrs.BANDS]),
    ],
)
def test_extensions_are_those_of_the_crds_formats(reference_folder, name, extensions):
    with fits.open(reference_folder / name) as hdus:
        assert [hdu.name for hdu in hdus[1:]] == extensions
        assert hdus[0].header["TELESCOP"] == "JWST"
        assert hdus[0].header["FILENAME"] == name
        for keyword in ("REFTYPE", "USEAFTER", "AUTHOR", "PEDIGREE", "DESCRIP", "DATAMODL"):
            assert hdus[0].header[keyword]


def test_dark_header_and_flags_have_the_layout_of_miri_darks(reference_folder):
    with fits.open(reference_folder / "dark.fits") as hdus:
        header = hdus[0].header
        assert header["AVDRKCUR"] == 0.12
        assert (header["NINTS"], header["NGROUPS"], header["NFRAMES"], header["GROUPGAP"]) == (2, 5, 1, 0)
        assert (header["SUBARRAY"], header["SUBSTRT1"], header["SUBSIZE1"], header["SUBSIZE2"]) == ("FULL", 1, 24, 16)
        assert hdus["DQ"].data.shape == (2, 1, *rs.SHAPE)
        assert hdus["DQ"].data.dtype == np.uint32


def test_flags_are_stored_in_few_bits_and_named(reference_folder):
    with fits.open(reference_folder / "jwst_miri_mask_0007.fits") as hdus:
        stored, table = hdus["DQ"].data, hdus["DQ_DEF"].data
        assert list(table["NAME"]) == ["DO_NOT_USE", "HOT", "REFERENCE_PIXEL"]
        assert list(table["VALUE"]) == [1, 2, 4]
        assert stored[2, 3] == 3
        assert stored[4, 5] == 4


def test_rscd_keeps_the_column_names_that_stdatamodels_looks_for(reference_folder):
    with fits.open(reference_folder / "rscd.fits") as hdus:
        assert hdus[1].columns.names == ["subarray", "readpatt", "group_skip1", "group_skip"]


def test_photom_writes_all_channels_of_the_time_law(reference_folder):
    with fits.open(reference_folder / "photom.fits") as hdus:
        np.testing.assert_allclose(hdus["TIMECOEFF_POWERLAW_CH1"].data["YEAR1VALUE"], [0.9, 0.8], rtol=1e-6)
        np.testing.assert_array_equal(hdus["TIMECOEFF_POWERLAW_CH3"].data["YEAR1VALUE"], [1, 1])
        np.testing.assert_array_equal(hdus["TIMECOEFF_POWERLAW_CH3"].data["ALPHA"], [0, 0])
        area = hdus[0].header["PIXAR_A2"]
        np.testing.assert_allclose(hdus[0].header["PIXAR_SR"], area * (np.pi / 648000) ** 2, rtol=1e-9)
        np.testing.assert_allclose(hdus[0].header["PHOTMJSR"], np.median(rs.image(9)), rtol=1e-6)


@pytest.mark.parametrize("name", ["x1d.asdf", "apcorr.asdf", "emi.asdf"])
def test_asdf_arrays_are_inline(reference_folder, name):
    with asdf.open(reference_folder / name) as document:
        assert document["meta"]["telescope"] == "JWST"
        assert len(document._blocks.blocks) == 0


def test_multichannel_wavelengths_rise_by_half_a_resolution_element():
    waves = multichannel_wavelengths()
    step = np.diff(waves)
    assert waves[0] == 4.9
    assert 28.6 < waves[-1] < 28.7
    assert np.all(step > 0)
    near = np.searchsorted(waves, 10.0)
    assert waves[near] / step[near] / 2 == pytest.approx(3400, rel=0.02)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = write_reference(tmp_path / "gain.fits", "gain", rs.SHORT, gain=rs.image())
    before = path.read_bytes()

    def broken(self, file, **kwargs):
        file.write_bytes(b"SIMPLE")
        raise OSError("no space left")

    monkeypatch.setattr(fits.HDUList, "writeto", broken)
    with pytest.raises(OSError, match="no space left"):
        write_reference(path, "gain", rs.SHORT, gain=rs.image(1))
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["gain.fits"]


def test_writing_twice_gives_the_same_bytes(tmp_path):
    one = write_reference(tmp_path / "flat.fits", "flat", rs.SETTING, flat=rs.image(), dq=rs.flags()).read_bytes()
    two = write_reference(tmp_path / "flat.fits", "flat", rs.SETTING, flat=rs.image(), dq=rs.flags()).read_bytes()
    assert one == two


def test_writers_refuse_what_does_not_fit(tmp_path):
    path = tmp_path / "a.fits"
    with pytest.raises(ReferenceFileError, match=r"dark has 2 axes \(16, 24\), expected 4"):
        write_reference(path, "dark", rs.READ, dark=rs.image())
    with pytest.raises(ReferenceFileError, match="unknown key 'grating'"):
        write_reference(path, "gain", {"grating": "SHORT"}, gain=rs.image())
    with pytest.raises(ReferenceFileError, match=r"dq has shape \(3, 3\)"):
        write_reference(path, "flat", rs.SETTING, flat=rs.image(), dq=np.zeros((3, 3), np.uint32))
    with pytest.raises(ReferenceFileError, match="'ERR_LEAK' does not fit"):
        write_reference(path, "mrsptcorr", {}, tables={"LEAKCOR": {"WAVELENGTH": [1], "FRAC_LEAK": [1]}})
    with pytest.raises(ReferenceFileError, match="differ in length"):
        write_reference(path, "mrsptcorr", {}, tables={"WAVCORR_XSLICE": {"XSLICE_MIN": [1, 2], "XSLICE_MAX": [1]}})
    with pytest.raises(ReferenceFileError, match="mrsxartcorr has no table 'CH5A'"):
        write_reference(path, "mrsxartcorr", {}, tables={"CH5A": {}})
    with pytest.raises(ReferenceFileError, match=r"must be \(aperture, 3\)"):
        write_reference(path, "apcorr", {}, wavelength=[1, 2, 3], radius=np.ones((2, 2)), correction=np.ones((2, 2)))
    with pytest.raises(ReferenceFileError, match="flat has no 'fringe'; known: flat, flat_err"):
        write_reference(path, "flat", rs.SETTING, fringe=rs.image())
    with pytest.raises(ReferenceFileError, match="pixel_area is missing"):
        write_reference(path, "photom", rs.SETTING, conversion=rs.image())
    with pytest.raises(ReferenceFileError, match=r"apcorr: .* got an unexpected keyword argument 'dq'"):
        write_reference(path, "apcorr", {}, dq=rs.flags())
    assert not path.exists()


def test_no_flags_at_all_are_written_as_zeros(tmp_path):
    path = write_reference(tmp_path / "f.fits", "fringe", rs.SETTING, fringe=rs.image())
    with fits.open(path) as hdus:
        assert not hdus["DQ"].data.any()
        assert list(hdus["DQ_DEF"].data["NAME"]) == ["DO_NOT_USE"]
    assert dq.DO_NOT_USE == 1
