from __future__ import annotations

import json

import io_files
import numpy as np
import pytest
from helpers import no_compute

from mrsxr import schema
from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.io import find_files, open_exposures, open_observation, summarize
from mrsxr.notes import listen

SHAPE = (4, 1032)


def observation(folder, product="uncal", settings=("12A", "34A"), dithers=(1, 2), **more):
    folder.mkdir(parents=True, exist_ok=True)
    return [
        io_files.write(folder, product, setting, dither, shape=SHAPE, n_groups=3, **more)
        for setting in settings
        for dither in dithers
    ]


def test_exposures_are_sorted_by_dither_and_lazy(tmp_path):
    paths = observation(tmp_path, settings=("12A",), dithers=(3, 1, 2))
    with no_compute():
        ds = open_exposures(paths)
    schema.validate(ds)
    assert ds.exposure.values.tolist() == [f"jw02732004001_02101_{i:05d}_mirifushort" for i in (1, 2, 3)]
    assert ds.dither.values.tolist() == [1, 2, 3]
    np.testing.assert_allclose(ds.ra_ref, 339.01 + 1e-5 * np.array([1, 2, 3]), rtol=0, atol=1e-12)
    assert ds.sci.chunks[0] == (1, 1, 1)
    for i, path in enumerate(sorted(paths)):
        np.testing.assert_array_equal(ds.sci[i].values, open_exposures(path).sci[0].values)


def test_mixed_settings_products_and_sizes_are_refused_by_name(tmp_path):
    a = io_files.write(tmp_path, "uncal", "12A", 1, shape=SHAPE)
    b = io_files.write(tmp_path, "uncal", "34B", 1, shape=SHAPE)
    with pytest.raises(InputFileError, match=r"mix the settings 12A, 34B.*mirifushort.*mirifulong"):
        open_exposures([a, b])
    with pytest.raises(InputFileError, match="mix the products rate, uncal"):
        open_exposures([a, io_files.write(tmp_path, "rate", "12A", 2, shape=SHAPE)])
    with pytest.raises(InputFileError, match="is a s3d product"):
        open_exposures(io_files.write_cube(tmp_path / "x_s3d.fits"))
    with pytest.raises(InputFileError, match="no files"):
        open_exposures([])
    other = io_files.write(tmp_path, "uncal", "12A", 3, shape=SHAPE, n_groups=6)
    with pytest.raises(Exception, match="differ in size"):
        open_exposures([a, other])


def test_folder_with_subfolders_backgrounds_and_strangers(tmp_path):
    observation(tmp_path / "uncal")
    observation(tmp_path / "Background" / "uncal", observation="005")
    observation(tmp_path / "refs", dithers=(7,))
    observation(tmp_path / ".hidden", dithers=(8,))
    io_files.write(
        tmp_path / "uncal" / "jw02732004001_03101_00001_mirimage_uncal.fits", EXP_TYPE="MIR_IMAGE", shape=SHAPE
    )
    with no_compute():
        tree = open_observation(tmp_path)
    assert sorted(node.path for node in tree.leaves) == [
        "/background/12A", "/background/34A", "/science/12A", "/science/34A",
    ]  # fmt: skip
    assert tree["science/12A"].sizes["dither"] == 2
    assert tree["science/12A"].attrs["background"] == 0
    assert tree["background/12A"].attrs["background"] == 1
    assert tree.attrs["target"] == "NGC-7319"
    assert tree.attrs["product"] == "uncal"
    found = find_files(tmp_path)
    assert [("mirimage" in name, "imager" in what) for name, what in found.ignored.items()] == [(True, True)]


def test_a_run_takes_no_products_of_another_for_its_input(tmp_path):
    """Its folder lies among the raw data, as by default; named, or where nothing else is, it is what is meant."""
    observation(tmp_path, settings=("12A",))
    out = tmp_path / "deeper" / "my out"
    (out / ".mrsxr").mkdir(parents=True)
    observation(out / "stage1", "rate", settings=("12A",))
    with listen() as told:
        assert {info.product for info in find_files(tmp_path, of_runs=False)} == {"uncal"}
        assert "2 files (2 uncal)" in str(summarize(tmp_path))
    assert told == [f"{out}: products of a run, left out; name this folder to begin from them"]
    assert {info.product for info in find_files(tmp_path)} == {"uncal", "rate"}
    for source in (tmp_path / "deeper", out, out / "stage1"):
        assert {info.product for info in find_files(source, of_runs=False)} == {"rate"}


def test_background_by_keyword_by_argument_and_course_layout(tmp_path):
    observation(tmp_path / "a", settings=("12A",))
    observation(tmp_path / "a", settings=("12A",), observation="005", BKGDTARG=True)
    assert set(open_observation(tmp_path / "a").children) == {"science", "background"}
    observation(tmp_path / "b", settings=("12A",))
    observation(tmp_path / "c", settings=("12A",), observation="005")
    tree = open_observation(tmp_path / "b", background=tmp_path / "c")
    assert tree["background/12A"].exposure.values[0].startswith("jw02732005")
    observation(tmp_path / "d" / "Source", settings=("12A",))
    observation(tmp_path / "d" / "Background", settings=("12A",), observation="005")
    assert {info.role for info in find_files(tmp_path / "d")} == {"science", "background"}
    assert {info.role for info in find_files(tmp_path / "d" / "Background")} == {"background"}


def test_glob_and_list(tmp_path):
    paths = observation(tmp_path)
    assert len(open_observation(str(tmp_path / "*mirifulong*"))["science/34A"].dither) == 2
    assert set(open_observation(paths[:1])["science"].children) == {"12A"}
    more = observation(tmp_path / "more", settings=("12A",), observation="009")
    assert {info.path for info in find_files([tmp_path / "more", paths[0]])} == {*more, paths[0]}


def test_different_ramps_of_a_setting_stand_in_nodes_of_their_own(tmp_path):
    io_files.write(tmp_path, "uncal", "12A", 1, shape=SHAPE, n_groups=3)
    io_files.write(tmp_path, "uncal", "12A", 2, shape=SHAPE, n_groups=5)
    io_files.write(tmp_path, "uncal", "12A", 3, shape=SHAPE, n_groups=3)
    tree = open_observation(tmp_path)
    assert tree["science/12A"].sizes["group"] == 3
    assert tree["science/12A"].sizes["dither"] == 2
    assert tree["science/12A_2"].sizes["group"] == 5


def test_bands_of_an_observation(tmp_path):
    observation(tmp_path, settings=("12A", "34A", "34B"))
    cube = io_files.write_cube(tmp_path / "jw02732-o004_t004_miri_ch1-short_s3d.fits")
    for bands, nodes in (
        ("1A", ["12A"]), ("ch3-medium", ["34B"]), (4, ["34A", "34B"]), ("short", ["12A", "34A"]),
        ("2a, 4b", ["12A", "34B"]), (["34A"], ["34A"]), (None, ["12A", "34A", "34B"]),
    ):  # fmt: skip
        assert list(open_observation(tmp_path, level="uncal", bands=bands)["science"].children) == nodes, bands
    assert list(open_observation(tmp_path, level="s3d", bands=1)["science"].children) == ["1A"]
    for bands, message in (("1B", "no files of band or channel 1B; there are those of 1A, 2A, 3A, 3B, 4A, 4B"),
                           ("5", "no band or channel"), ("", "is empty")):  # fmt: skip
        with pytest.raises(MrsxrError, match=message):
            open_observation(tmp_path, bands=bands)
    with pytest.raises(InputFileError, match="no s3d files"):
        open_observation(tmp_path, level="s3d", bands="34A")
    with pytest.raises(MrsxrError, match="no files of band or channel 2"):
        open_observation(cube, bands=2)


def test_level_rule(tmp_path):
    observation(tmp_path)
    observation(tmp_path, "rate")
    observation(tmp_path, "cal", settings=("12A",))
    assert open_observation(tmp_path).attrs["product"] == "rate"  # the most advanced that all have
    tree = open_observation(tmp_path, level="cal")
    assert list(tree["science"].children) == ["12A"]
    assert open_observation(tmp_path, level="uncal")["science/12A"].attrs["level"] == "ramp"
    with pytest.raises(InputFileError, match="no s3d files; found cal, rate, uncal"):
        open_observation(tmp_path, level="s3d")
    io_files.write_cube(tmp_path / "jw02732-o004_t004_miri_ch1-short_s3d.fits")
    assert open_observation(tmp_path, level="s3d")["science/1A"].attrs["level"] == "cube"


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(InputFileError, match="no MIRI MRS files"):
        open_observation(tmp_path)
    with pytest.raises(InputFileError, match=r"^[^:]*nowhere: the file cannot be read \(no such file"):
        open_observation(tmp_path / "nowhere")
    io_files.write(tmp_path / "one_uncal.fits", EXP_TYPE="MIR_IMAGE", shape=SHAPE)
    with pytest.raises(InputFileError, match=r"1 other FITS files.*imager"):
        open_observation(tmp_path)


def test_bad_file_is_named_or_skipped(tmp_path):
    paths = observation(tmp_path)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputFileError, match=rf"{paths[1].name}.*truncated"):
        open_observation(tmp_path)
    tree = open_observation(tmp_path, on_error="skip")
    skipped = json.loads(tree.attrs["skipped"])
    assert list(skipped) == [str(paths[1])]
    assert "truncated" in skipped[str(paths[1])]
    assert tree["science/12A"].sizes["dither"] == 1
    assert tree["science/34A"].sizes["dither"] == 2
    # cut after SCI: the header of SCI alone does not show it
    paths[1].write_bytes(whole[:-4000])
    tree = open_observation(tmp_path, on_error="skip")
    assert "REFOUT" in json.loads(tree.attrs["skipped"])[str(paths[1])]
    with pytest.raises(MrsxrError, match="on_error"):
        open_observation(tmp_path, on_error="ignore")


def test_association_of_level_3(tmp_path):
    (tmp_path / "cal").mkdir()
    cal = observation(tmp_path / "cal", "cal")
    observation(tmp_path, "rate")
    spectrum = make_spectrum(tmp_path / "jw02732005001_02101_00001_mirifushort_x1d.fits")
    members = [{"expname": f"cal/{path.name}", "exptype": "science"} for path in cal]
    members.append({"expname": spectrum.name, "exptype": "background"})
    asn = {"asn_type": "spec3", "products": [{"name": "jw02732-o004_t004_miri", "members": members}]}
    path = tmp_path / "asn.json"
    path.write_text(json.dumps(asn))
    tree = open_observation(path)
    assert set(tree["science"].children) == {"12A", "34A"}
    assert tree.attrs["product"] == "cal"
    assert tree.attrs["product_name"] == "jw02732-o004_t004_miri"
    assert json.loads(tree.attrs["background_spectra"]) == [str(spectrum)]
    members.append({"expname": "gone_cal.fits", "exptype": "science"})
    path.write_text(json.dumps(asn))
    with pytest.raises(InputFileError, match=r"asn\.json: 1 of 6 members were not found.*gone_cal\.fits"):
        open_observation(path)
    assert "gone_cal.fits" in open_observation(path, on_error="skip").attrs["skipped"]
    path.write_text("{}")
    with pytest.raises(InputFileError, match="no JWST association"):
        open_observation(path)


def test_association_of_level_2_with_backgrounds(tmp_path):
    science = observation(tmp_path, "rate", settings=("12A",), dithers=(1,))
    background = observation(tmp_path, "rate", settings=("12A",), observation="005")
    members = [{"expname": science[0].name, "exptype": "science"}]
    members += [{"expname": path.name, "exptype": "background"} for path in background]
    members.append({"expname": background[0].name, "exptype": "selfcal"})
    path = tmp_path / "asn2.json"
    path.write_text(json.dumps({"asn_type": "spec2", "products": [{"name": "a", "members": members}]}))
    tree = open_observation(path)
    assert tree["science/12A"].sizes["dither"] == 1
    assert tree["background/12A"].sizes["dither"] == 2
    assert json.loads(tree.attrs["selfcal"]) == [str(background[0])]


def make_spectrum(path):
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    primary.header.update(io_files.primary_keywords(CHANNEL="1"))
    names = ("WAVELENGTH", "FLUX", "FLUX_ERROR", "SURF_BRIGHT", "SB_ERROR", "BACKGROUND", "NPIXELS")
    columns = [fits.Column(name=name, format="D", array=np.linspace(1, 2, 7) * (i + 1)) for i, name in enumerate(names)]
    columns.append(fits.Column(name="DQ", format="J", bzero=2**31, array=np.arange(7, dtype="u4")))
    table = fits.BinTableHDU.from_columns(columns, name="EXTRACT1D")
    table.header["SRCTYPE"] = "POINT"
    fits.HDUList([primary, table]).writeto(path)
    return path


def test_spectrum_of_jwst(tmp_path):
    from mrsxr.io import load

    ds = schema.validate(load(make_spectrum(tmp_path / "a_x1d.fits")))
    np.testing.assert_allclose(ds["var"], ds.flux**2 * 2.25)
    assert ds.attrs["source_type"] == "POINT"
    assert set(ds.band.values) == {"1A"}
    assert ds.dq.values.tolist() == list(range(7))
