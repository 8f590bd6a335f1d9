"""Keywords of what was made of several exposures: times of all of them, HDRTAB, one frame of wavelengths, histories."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from click.testing import CliRunner

import mrsxr as mx
import mrsxr.cal
import mrsxr.rate
from mrsxr import schema, tree
from mrsxr.attributes import alone, apart, of_each, require_done, require_undone, share_done
from mrsxr.cli import main
from mrsxr.errors import MrsxrError
from mrsxr.io import load, open_exposures, products_header, save
from mrsxr.io._blend import blend
from mrsxr.step import STEPS, branches, history_of, join_histories, read_history

sys.path.insert(0, str(Path(__file__).parent))
import io_files

TIMES = ("EFFEXPTM", "DURATION", "EXPSTART", "EXPMID", "EXPEND")


def blended(times):
    """Return what jwst makes of the keywords of exposures: sums, first, mean, last."""
    by = {"EFFEXPTM": sum, "DURATION": sum, "EXPSTART": min, "EXPMID": np.mean, "EXPEND": max}
    return {key: by[key]([one[key] for one in times]) for key in TIMES}


def test_times_of_a_product_are_those_of_all_exposures(reduced):
    cals = [fits.getheader(p) for p in sorted(reduced.files["cal"]) if "background" not in p.parts]
    assert len(cals) == 2
    expected = blended(cals)
    assert expected["EFFEXPTM"] > 1.9 * cals[0]["EFFEXPTM"]
    products = [p for level in ("cube", "spectrum", "stitched") for p in reduced.files[level] if p.suffix == ".fits"]
    for path in products:
        found = fits.getheader(path)
        assert {key: found[key] for key in TIMES} == pytest.approx(expected, rel=1e-12), path.name
        assert (found["DATE-BEG"], found["DATE-END"]) == (cals[0]["DATE-BEG"], cals[1]["DATE-END"])
    whole = load(next(p for p in reduced.files["stitched"] if p.suffix == ".nc"))
    assert json.loads(whole.attrs["fits_header"])["PRIMARY"]["EFFEXPTM"] == pytest.approx(expected["EFFEXPTM"])
    assert whole.attrs["exposures"] == [p.name.removesuffix("_cal.fits") for p in sorted(reduced.files["cal"])
                                        if "background" not in p.parts]  # fmt: skip
    again = load(next(p for p in reduced.files["stitched"] if p.suffix == ".fits"))
    for name in ("exposures", "bands"):
        assert again.attrs[name] == whole.attrs[name], name


def test_a_cube_has_a_row_for_each_exposure(reduced):
    cals = [p for p in sorted(reduced.files["cal"]) if "background" not in p.parts]
    with fits.open(reduced.files["cube"][0]) as hdus:
        rows = hdus["HDRTAB"].data
        assert not {"DATE", "MRSXKEY"} & set(rows.names)
        assert [str(name) for name in rows["FILENAME"]] == [p.name for p in cals]
        for key in ("EXPSTART", "EFFEXPTM", "RA_REF", "DEC_REF", "ROLL_REF", "VELOSYS", "PATT_NUM"):
            values = [fits.getheader(p).get(key, fits.getheader(p, "SCI").get(key)) for p in cals]
            np.testing.assert_allclose(rows[key].astype(float), values, rtol=1e-14)
        assert all(str(region).startswith("POLYGON ICRS") for region in rows["S_REGION"])
        assert list(rows["BKGDTARG"]) == [False, False]
        assert hdus["SCI"].header["SPECSYS"] == "BARYCENT"


@pytest.mark.parametrize("format", ["fits", "netcdf"])
def test_the_rows_come_back(reduced, tmp_path, format):
    cube = load(reduced.files["cube"][0])
    again = load(save(cube.isel(wavelength=slice(0, 20)), tmp_path, format))
    assert json.loads(again.attrs["fits_header"])["HDRTAB"] == json.loads(cube.attrs["fits_header"])["HDRTAB"]
    assert again.attrs["exposures"] == cube.attrs["exposures"]


def test_rows_of_a_real_cube_are_kept(shared_data, tmp_path):
    path = shared_data / "s3d_ngc7469" / "NGC7469_ch4-short_s3d.fits.gz"
    cube = load(path)
    again = save(cube.isel(wavelength=slice(0, 9)).compute(), tmp_path)[0]
    with fits.open(path) as old, fits.open(again) as new:
        one, two = old["HDRTAB"].data, new["HDRTAB"].data
        assert one.names == two.names
        for name in one.names:
            a, b = one[name], two[name]
            if a.dtype.kind in "US":
                assert [str(v).rstrip() for v in a] == [str(v).rstrip() for v in b], name
            else:
                np.testing.assert_array_equal(a.astype(float), b.astype(float), err_msg=name)
        for key in (*TIMES, "DATE-END", "NEXPOSUR"):
            assert new[0].header[key] == old[0].header[key]
        assert new["SCI"].header["SPECSYS"] == old["SCI"].header["SPECSYS"]


def test_our_rules_are_those_of_the_real_cube(shared_data):
    """HDRTAB and header of a cube of jwst: blending the rows gives its header."""
    header = json.loads(load(shared_data / "s3d_ngc7469" / "NGC7469_ch4-long_s3d.fits.gz").attrs["fits_header"])
    rows = [dict(zip(header["HDRTAB"], values, strict=True)) for values in zip(*header["HDRTAB"].values(), strict=True)]
    found = blend(rows, {})["PRIMARY"]
    theirs = {**header["SCI"], **header["PRIMARY"]}
    ours = {"BENDTIME", "HENDTIME", "BMIDTIME", "HMIDTIME"}  # jwst keeps those of the first exposure
    of_files = {
        "DATE",
        "FILENAME",
        "DATAMODL",
        "CHANNEL",
        "S_REGION",
        "S_IFUCUB",
        "S_OUTLIR",
        "TIME-OBS",
        "PIXAR_A2",
        "PIXAR_SR",
        "SRCTYPE",
    }
    compared = set(found) & set(theirs) - ours - of_files
    assert len(compared) > 150
    for key in compared:
        if isinstance(theirs[key], float):
            assert found[key] == pytest.approx(theirs[key], rel=1e-12), key
        else:
            assert found[key] == theirs[key], key
    assert found["BENDTIME"] == max(row["BENDTIME"] for row in rows)


def test_blended_by_hand():
    rows = [
        {"EFFEXPTM": 100.0, "EXPEND": 5.0, "NGROUPS": 40, "DETECTOR": "MIRIFUSHORT", "S_DARK": "COMPLETE",
         "R_DARK": "a.fits", "TMEASURE": 1.0, "DATE-OBS": "2022-07-05", "TIME-OBS": "00:10:00", "TITLE": "x"},
        {"EFFEXPTM": 50.0, "EXPEND": 4.0, "NGROUPS": 20, "DETECTOR": "MIRIFULONG", "S_DARK": "SKIPPED",
         "R_DARK": "b.fits", "DATE-OBS": "2022-07-04", "TIME-OBS": "23:50:00", "TITLE": "x"},
    ]  # fmt: skip
    out = blend(rows, {"TITLE": "SCI"})
    assert out["SCI"] == {"TITLE": "x"}
    assert out["PRIMARY"] == {
        "EFFEXPTM": 150.0, "EXPEND": 5.0, "DETECTOR": "MULTIPLE", "S_DARK": "PARTIAL", "R_DARK": "MULTIPLE",
        "DATE-OBS": "2022-07-04", "TIME-OBS": "23:50:00",
    }  # fmt: skip
    assert out["HDRTAB"]["NGROUPS"] == [40, 20]
    assert out["HDRTAB"]["TMEASURE"] == [1.0, None]


def test_an_exposure_counts_once_in_stitched_bands():
    """1A and 2A are of the same exposures, 3A is of others."""

    def header(names):
        return blend([{"FILENAME": n, "EFFEXPTM": 10.0, "EXPEND": float(i)} for i, n in enumerate(names)], {})

    short, long = header(["a", "b"]), header(["c", "d", "e"])
    assert products_header([short, short])["PRIMARY"]["EFFEXPTM"] == 20.0
    assert products_header([short, short, long])["PRIMARY"] == {"EFFEXPTM": 50.0, "EXPEND": 2.0, "FILENAME": "a"}
    bare = {"PRIMARY": {"EFFEXPTM": 10.0, "EXPEND": 9.0, "TITLE": "x"}, "SCI": {}}
    assert products_header([short, bare])["PRIMARY"] == {"EXPEND": 9.0}  # a sum that nobody knows is not given


@pytest.mark.parametrize(("known", "frame"), [([1, 1], "BARYCENT"), ([0, 0], "TOPOCENT"), ([1, 0], None)])
def test_frame_of_the_wavelengths(reduced, tmp_path, known, frame):
    """SPECSYS says what was done: without VELOSYS the wavelengths stay as they were observed."""
    paths = [p for p in reduced.files["cal"] if "background" not in p.parts]
    ds = open_exposures(paths)
    speed = np.where(known, ds.velosys.values, np.nan)
    headers = [json.loads(text) for text in ds.fits_header.values]
    for header, there in zip(headers, known, strict=True):
        if not there:
            header["SCI"].pop("VELOSYS")
    ds = ds.assign_coords(velosys=("dither", speed, ds.velosys.attrs),
                          fits_header=("dither", [json.dumps(h) for h in headers]))  # fmt: skip
    for path, there in zip(save(ds, tmp_path / "cal"), known, strict=True):
        header = fits.getheader(path, "SCI")
        assert header["SPECSYS"] == ("BARYCENT" if there else "TOPOCENT")
        assert ("VELOSYS" in header) == bool(there)
    options = {"band": "1A", "wavelength_min": 5.0, "wavelength_max": 5.02}
    if frame is None:
        with pytest.warns(UserWarning, match=r"00002_mirifushort: VELOSYS is missing"):
            cube = mx.cube.build_cube(ds, **options)
        assert any("VELOSYS" in note for note in cube.attrs["notes"])
    else:
        cube = mx.cube.build_cube(ds, **options)
    header = fits.getheader(save(cube, tmp_path)[0], "SCI")
    assert header.get("SPECSYS") == frame
    rows = json.loads(cube.attrs["fits_header"])["HDRTAB"]["SPECSYS"]
    assert rows == ["BARYCENT" if there else "TOPOCENT" for there in known]


def cal(path, **attrs):
    return open_exposures(path).assign_attrs(attrs)


def entry(step, **refs):
    return {"step": step, "keyword": STEPS[step].facts.keyword, "version": "0", "params": {}, "refs": refs}


DARKS = [entry("rate.subtract_dark", dark="a.fits"), entry("rate.subtract_dark", dark="b.fits")]
FIRST, FLAT = entry("rate.flag_bad_pixels", mask="m.fits"), entry("cal.divide_flat")
APART = [[FIRST, DARKS[0], FLAT], [FIRST, DARKS[1]]]


@pytest.fixture
def two(tmp_path):
    paths = [io_files.write(tmp_path, "cal", dither=i, n_groups=n) for i, n in ((1, 5), (2, 9))]
    return [cal(p, history_json=json.dumps(h), program="02732") for p, h in zip(paths, APART, strict=True)]


def test_histories_of_all_dithers_are_kept(two, tmp_path):
    joined = tree.join_dithers(two)
    history = read_history(joined)
    names = [str(name) for name in joined.exposure.values]
    assert history[0] == FIRST
    assert history[1]["inputs"] == {names[0]: APART[0][1:], names[1]: APART[1][1:]}
    assert branches(history) == APART
    assert [history_of(history, name) for name in names] == APART
    later = json.dumps([*history, entry("cal.calibrate_flux", photom="p.fits")])
    paths = save(joined.assign_attrs(history_json=later), tmp_path / "out")
    headers = [fits.getheader(p) for p in paths]
    assert [h["R_DARK"] for h in headers] == ["a.fits", "b.fits"]
    assert [h.get("S_FLAT") for h in headers] == ["COMPLETE", "SKIPPED"]
    assert [h["S_PHOTOM"] for h in headers] == ["COMPLETE", "COMPLETE"]
    assert [read_history(load(p))[:-1] for p in paths] == APART
    text = CliRunner().invoke(main, ["history", str(paths[1])]).output
    assert "dark=b.fits" in text
    whole = save(joined, tmp_path / "joined.nc")[0]
    text = CliRunner().invoke(main, ["history", str(whole)]).output
    assert all(f"   {name}:" in text for name in names)
    assert text.index("dark=a.fits") < text.index(names[1]) < text.index("dark=b.fits")
    xr.testing.assert_identical(load(whole).compute().drop_encoding(), joined.compute().drop_encoding())


def test_what_was_done_to_one_is_not_done_to_all(two, tmp_path):
    both = {"master_background": 1, "background_match": 1}
    joined = tree.join_dithers([two[0].assign_attrs(both), two[1].assign_attrs(background_match=1)])
    assert joined.attrs["background_match"] == 1
    assert joined["master_background"].values.tolist() == [1, 0]
    assert [share_done(joined, mark) for mark in (*both, "fringe_flat")] == [0.5, 1.0, 0.0]
    names = joined.exposure.values
    with pytest.raises(MrsxrError, match=rf"was not subtracted in {names[1]} \(1 of 2 exposures\); give it"):
        require_done(joined, "master_background", "give it")
    with pytest.raises(MrsxrError, match=rf"subtracted already in {names[0]} \(1 of 2 exposures\), again"):
        require_undone(joined, "pixel_background")  # of the three backgrounds one only is subtracted
    require_undone(joined, "fringe_flat")
    back = [load(path).attrs.get("master_background") for path in save(joined, tmp_path)]
    assert back == [1, 0]
    assert "master_background" not in joined.isel(dither=[1]).attrs
    again = tree.join_dithers([joined.isel(dither=[1]), two[0].assign_attrs(both)])
    assert again["master_background"].values.tolist() == [0, 1]


@pytest.mark.parametrize("values", [("a", "b"), ("a", None), (3, None), (1.5, 2), ([1.0, 2.0], None), ("", {"x": [1]})])
def test_no_attribute_is_lost_in_joins(two, tmp_path, values):
    given = [
        ds.assign_attrs({"mine": value}) if value is not None else ds for ds, value in zip(two, values, strict=True)
    ]
    joined = tree.join_dithers(given)
    whole = load(save(joined, tmp_path / "joined.nc")[0])
    for ds in (joined, whole, load(save(joined, tmp_path / "joined.zarr")[0]), open_exposures(save(joined, tmp_path))):
        assert of_each(ds, "mine") == list(values)
    assert [alone(joined.isel(dither=[k])).attrs.get("mine") for k in (0, 1)] == list(values)


def test_equal_histories_stay_one(two):
    joined = tree.join_dithers([ds.assign_attrs(history_json=json.dumps(APART[0])) for ds in two])
    assert read_history(joined) == APART[0]
    assert join_histories({"a": [], "b": []}) == []
    nested = tree.join_dithers([tree.join_dithers(two), two[0].assign_coords(exposure=("dither", ["third"]))])
    assert branches(read_history(nested)) == [*APART, APART[0]]


def test_attributes_that_differ_are_not_those_of_the_first(two, tmp_path):
    two[1] = two[1].assign_attrs(target="OTHER", crds_context="jwst_0002.pmap")
    two[0] = two[0].assign_attrs(crds_context="jwst_0001.pmap")
    joined = schema.validate(tree.join_dithers(two))
    assert sorted(apart(joined)) == ["crds_context", "n_groups", "target"]
    assert not {"n_groups", "target", "crds_context"} & set(joined.attrs)
    assert joined.attrs["program"] == "02732"
    paths = save(joined, tmp_path / "out")
    assert [fits.getheader(p)["NGROUPS"] for p in paths] == [5, 9]
    back = [load(p) for p in paths]
    assert [ds.attrs["n_groups"] for ds in back] == [5, 9]
    assert apart(back[0]) == []
    again = open_exposures(paths)
    assert again.n_groups.values.tolist() == [5, 9]


def test_ramps_of_unequal_darks_are_not_joined(tmp_path):
    ramps = [open_exposures(io_files.write(tmp_path, "ramp", dither=i)) for i in (1, 2)]
    one, other = (ds.assign_attrs(average_dark_current=value) for ds, value in zip(ramps, (0.2, 0.3), strict=True))
    with pytest.raises(MrsxrError, match=r"differ in average_dark_current: 0\.2 .* and 0\.3 .*; open them apart"):
        tree.join_dithers([one, other])


def test_cubes_of_several_settings_keep_all_histories():
    from mrsxr.tree import common_attrs

    made = [
        xr.Dataset(attrs={"history_json": json.dumps(h), "setting": s, "program": "02732", "notes": [s]})
        for h, s in zip(APART, ("12A", "34A"), strict=True)
    ]
    attrs = common_attrs(made)
    assert branches(json.loads(attrs["history_json"])) == APART
    assert "setting" not in attrs
    assert attrs["program"] == "02732"


def test_entries_that_name_the_exposure_itself_are_one():
    """refpix takes the columns of its own exposure: no difference between exposures."""
    own = {name: [FIRST, entry("rate.subtract_reference_pixels", reference_columns=name)] for name in ("a1", "b1")}
    joined = join_histories(own)
    assert [step["step"] for step in joined] == [FIRST["step"], "rate.subtract_reference_pixels"]
    assert joined[1]["refs"] == {"reference_columns": "a1, b1"}
    assert join_histories({"a1": joined, "b1": joined}) == joined
    other = {**own, "b1": [FIRST, entry("rate.subtract_reference_pixels", reference_columns="c1")]}
    assert branches(join_histories(other)) == list(other.values())


def test_dithers_of_a_run_have_one_history(reduced):
    paths = [p for p in reduced.files["cal"] if "background" not in p.parts]
    assert len(branches(read_history(open_exposures(paths)))) == 1
