"""What belongs together, by headers alone: exposures, segments, duplicates, fields, pointings, backgrounds."""

from __future__ import annotations

import json
import re
import shutil

import io_files
import numpy as np
import pytest
from astropy.io import fits

from mrsxr.errors import InputFileError, MrsxrWarning
from mrsxr.geometry.fields import fields, separation
from mrsxr.io import find_files, open_exposures, open_observation, summarize
from mrsxr.io.grouping import plan
from mrsxr.notes import notes_of
from mrsxr.simulate.pointing import DITHERS, aim_at

SHAPE = (4, 1032)
RA, DEC, ROLL = 12.5, -60.0, 77.0


def write(folder, product="uncal", setting="12A", dither=1, observation="004", offset=(0.0, 0.0), sci=None, **more):
    """Write an exposure of the four-point pattern at RA, Dec + offset [arcsec], with the keywords of real headers."""
    folder.mkdir(parents=True, exist_ok=True)
    x, y = DITHERS["EXTENDED"][dither - 1]
    east, north = offset
    aim = aim_at(RA + east / 3600 / np.cos(np.radians(DEC)), DEC + north / 3600, ROLL, (x, y), 1.0, 0.0)
    place = {key.upper(): getattr(aim.pointing, key) for key in ("ra_ref", "dec_ref", "roll_ref", "v2_ref", "v3_ref")}
    more = {"XOFFSET": x, "YOFFSET": y, "VISITGRP": "02", "SEQ_ID": "1",
            "ACT_ID": {"A": "01", "B": "03", "C": "05"}[setting[2]]} | more  # fmt: skip
    more.setdefault("n_groups", 3)
    return io_files.write(
        folder, product, setting, dither, shape=SHAPE, observation=observation, sci=place | (sci or {}), **more
    )


def planned(path, **options):
    return plan(find_files(path).files, **options)


# --- one exposure, several files ---


def test_an_exposure_counts_once_however_its_files_are_called(tmp_path):
    first = write(tmp_path, dither=1)
    fits.setval(first, "FILENAME", value=first.name)
    write(tmp_path, dither=2)
    (tmp_path / "copies").mkdir()
    shutil.copy(first, tmp_path / "copies" / first.name)
    shutil.copy(first, tmp_path / "backup_of_a_uncal.fits")
    found = planned(tmp_path)
    assert [e.info.dither for e in found.exposures] == [1, 2]
    assert found.exposures[0].info.path == first
    (note,) = found.notes
    assert "is there 3 times and counted once" in note
    assert "backup_of_a_uncal.fits" in note
    table = summarize(tmp_path)
    assert [row.n_dithers for row in table.rows] == [2, 2]
    assert any("counted once" in problem for problem in table.problems)
    with pytest.warns(MrsxrWarning, match="counted once"):
        tree = open_observation(tmp_path)
    assert tree["science/12A"].sizes["dither"] == 2
    with pytest.warns(MrsxrWarning, match="counted once"):
        assert open_exposures([first, tmp_path / "backup_of_a_uncal.fits"]).sizes["dither"] == 1


def test_of_several_products_one_is_taken(tmp_path):
    write(tmp_path, "rate", dither=1)
    write(tmp_path / "raw", "uncal", dither=1)
    write(tmp_path / "raw", "uncal", dither=2)
    best = planned(tmp_path)
    assert [e.info.product for e in best.exposures] == ["rate", "uncal"]
    assert best.notes == ["1 exposures are there as rate and uncal: the rate is taken"]
    assert [e.info.product for e in planned(tmp_path, prefer="raw").exposures] == ["uncal", "uncal"]


def test_two_different_exposures_of_one_name_are_refused(tmp_path):
    write(tmp_path / "a", dither=1)
    write(tmp_path / "b", dither=1, offset=(0.0, 1.0))
    (text,) = planned(tmp_path).problems
    assert re.search("have one name and differ in pointing; keep one", text)
    with pytest.raises(InputFileError, match="have one name"):
        open_observation(tmp_path)


def test_files_without_the_facts_are_told_by_their_names(tmp_path):
    write(tmp_path, dither=1, EXPSTART=...)
    write(tmp_path, "rate", dither=1)
    assert [e.info.product for e in planned(tmp_path).exposures] == ["rate"]


# --- segments ---


def segment(folder, number, total, first, last, n_ints=5, product="uncal", **more):
    """Write a segment: NINTS is that of the exposure, the file holds some of its integrations."""
    held = last - first + 1
    path = write(folder, product, dither=1, n_ints=held, EXSEGNUM=number, EXSEGTOT=total, INTSTART=first,
                 INTEND=last, NINTS=n_ints, EFFINTTM=2.77504 * 3, **more)  # fmt: skip
    name = path.with_name(path.name.replace("00001_", f"00001-seg{number:03d}_"))
    return path.rename(name)


def test_segments_are_joined_in_order_along_the_integrations(tmp_path):
    parts = [segment(tmp_path / "x", *facts, seed=n) for n, facts in enumerate([(2, 2, 3, 5), (1, 2, 1, 2)])]
    tree = open_observation(tmp_path)
    ds = tree["science/12A"].to_dataset()
    assert ds.sizes["integration"] == 5
    assert ds.sizes["dither"] == 1
    assert ds.integration.values.tolist() == [1, 2, 3, 4, 5]
    assert ds.attrs["n_integrations"] == 5
    assert str(ds.exposure.values[0]) == "jw02732004001_02101_00001_mirifushort"
    assert float(ds.exposure_time[0]) == pytest.approx(5 * 3 * 2.77504)
    later, earlier = (fits.getdata(path, "SCI") for path in parts)
    np.testing.assert_array_equal(ds.sci.values[0, :2], earlier)
    np.testing.assert_array_equal(ds.sci.values[0, 2:], later)
    header = json.loads(str(ds.fits_header.values[0]))["PRIMARY"]
    assert (header["NINTS"], header["INTSTART"], header["INTEND"], header["EXSEGTOT"]) == (5, 1, 5, 1)
    assert open_exposures(parts).sizes["integration"] == 5
    (row, _) = summarize(tmp_path).rows
    assert (row.n_integrations, row.n_dithers) == (5, 1)


def test_a_missing_segment_is_refused_or_told(tmp_path):
    segment(tmp_path, 1, 3, 1, 2)
    segment(tmp_path, 3, 3, 4, 5)
    with pytest.raises(InputFileError, match="segment 2 of 3 is missing; find it, or take the rest by allow_missing"):
        open_observation(tmp_path)
    with pytest.warns(MrsxrWarning, match="segment 2 of 3 is missing; the rest is used"):
        tree = open_observation(tmp_path, allow_missing=True)
    ds = tree["science/12A"].to_dataset()
    assert ds.integration.values.tolist() == [1, 2, 4, 5]
    assert any("segment 2 of 3" in note for note in notes_of(ds))
    assert any("segment 2 of 3" in problem for problem in summarize(tmp_path).problems)


def test_segments_that_overlap_or_leave_a_gap_are_refused(tmp_path):
    segment(tmp_path / "a", 1, 2, 1, 3)
    segment(tmp_path / "a", 2, 2, 3, 5)
    with pytest.raises(InputFileError, match=r"seg002.*begins with integration 3, but segment 1 ends with 3"):
        open_observation(tmp_path / "a")
    segment(tmp_path / "b", 1, 2, 1, 2)
    segment(tmp_path / "b", 2, 2, 4, 5)
    with pytest.raises(InputFileError, match=r"begins with integration 4, but segment 1 ends with 2"):
        open_observation(tmp_path / "b")


def test_segments_that_are_slopes_count_as_exposures_with_a_note(tmp_path):
    segment(tmp_path, 1, 2, 1, 2, product="rate")
    segment(tmp_path, 2, 2, 3, 5, product="rate")
    found = planned(tmp_path)
    assert len(found.exposures) == 2
    assert any("2 segments are slopes already" in note for note in found.notes)


# --- targets, fields and roles ---


def test_two_targets_in_a_folder_are_refused_with_what_to_pass(tmp_path):
    for dither in (1, 2):
        write(tmp_path, dither=dither)
        write(tmp_path, dither=dither, observation="007", TARGNAME="ARP-220")
    with pytest.raises(InputFileError, match=r"2 fields.*NGC-7319 \(obs\w* 004.*ARP-220 \(obs\w* 007.*give the"):
        open_observation(tmp_path)
    assert any("2 fields" in problem for problem in summarize(tmp_path).problems)
    with pytest.raises(InputFileError, match="2 fields"):
        open_exposures(sorted(tmp_path.glob("*.fits")))
    assert open_observation(sorted(tmp_path.glob("*004001*")))["science/12A"].sizes["dither"] == 2


@pytest.mark.parametrize("offset", [(0.0, 40.0), (-70.0, 10.0)])
def test_a_background_field_without_its_keyword_is_refused_until_it_is_named(tmp_path, offset):
    write(tmp_path, dither=1)
    background = write(tmp_path, dither=1, observation="005", offset=offset)
    with pytest.raises(InputFileError, match=rf"2 fields.*{np.hypot(*offset):.0f} arcsec apart.*background-from"):
        open_observation(tmp_path)
    tree = open_observation(tmp_path, background=background)
    assert tree["background/12A"].sizes["dither"] == tree["science/12A"].sizes["dither"] == 1
    marked = tmp_path / "z_uncal.fits"
    shutil.copy(background, marked)
    fits.setval(marked, "BKGDTARG", value=True)
    with pytest.raises(InputFileError, match="mix the roles"):
        open_exposures([marked, next(tmp_path.glob("*004001*"))])


def test_a_mosaic_is_one_field_and_so_are_other_spellings_and_epochs(tmp_path):
    for k, north in enumerate((0.0, 6.0, 12.0, 18.0), 1):
        write(tmp_path, dither=1, observation=f"00{k}", offset=(0.0, north), TARGNAME=("NGC 7319", "ngc-7319")[k % 2])
    found = planned(tmp_path)
    assert len(found.fields) == 1
    assert found.mixed is None
    assert found.notes == []
    assert open_observation(tmp_path)["science/12A"].sizes["dither"] == 4


def test_moving_targets_have_no_place(tmp_path):
    write(tmp_path, dither=1, TARGTYPE="MOVING")
    write(tmp_path, dither=2, TARGTYPE="MOVING", offset=(0.0, 90.0))
    found = planned(tmp_path)
    assert found.mixed is None
    assert found.notes == []


def test_an_association_says_what_is_one_product(tmp_path):
    files = [write(tmp_path, "cal", dither=1), write(tmp_path, "cal", dither=1, observation="009", TARGNAME="TILE-2")]
    members = [{"expname": path.name, "exptype": "science"} for path in files]
    asn = tmp_path / "asn.json"
    asn.write_text(json.dumps({"asn_type": "spec3", "products": [{"name": "jw1-c1001_t1_miri", "members": members}]}))
    assert planned(tmp_path).mixed
    assert open_observation(asn)["science/12A"].sizes["dither"] == 2


def test_fields_are_counted_on_the_sphere():
    assert fields([359.9999, 0.0001, 0.0], [10, 10, 10.5]).tolist() == [0, 0, 1]
    assert fields([10.0, 20.0], [89.9999, 89.9999]).tolist() == [0, 0]
    assert fields([1.0, np.nan, 1.0], [1.0, np.nan, 2.0]).tolist() == [0, 0, 1]
    assert float(separation(10.0, 0.0, 10.0 + 1 / 3600, 0.0)) == pytest.approx(1.0, rel=1e-9)


# --- pointings ---


@pytest.mark.parametrize(("error", "told"), [(0.2, False), (0.5, True), (4.0, True)])
def test_a_pointing_that_contradicts_its_dither_offset_is_told(tmp_path, error, told):
    for setting in ("12A", "34A"):
        for dither in (1, 2, 3, 4):
            write(tmp_path, setting=setting, dither=dither, offset=(0.0, error * (dither == 3)))
    found = planned(tmp_path)
    assert len(found.notes) == 2 * told
    for note in found.notes:
        assert re.search(rf"00003_mirifu(short|long): its pointing is {error:.2f} arcsec off", note)
    if told:
        assert any("arcsec off" in problem for problem in summarize(tmp_path).problems)
        with pytest.warns(MrsxrWarning, match="arcsec off"):
            tree = open_observation(tmp_path)
        assert notes_of(tree["science/12A"]) == [note for note in found.notes if "short" in note]
    else:
        open_observation(tmp_path)


def test_offsets_of_the_other_sign_and_missing_ones(tmp_path):
    for dither in (1, 2, 3, 4):
        x, y = DITHERS["EXTENDED"][dither - 1]
        write(tmp_path / "a", dither=dither, XOFFSET=-x, YOFFSET=-y)
        write(tmp_path / "b", dither=dither, XOFFSET=..., YOFFSET=...)
    assert planned(tmp_path / "a").notes == []
    assert planned(tmp_path / "b").notes == []
    write(tmp_path / "b", setting="34A", dither=2, XOFFSET=..., YOFFSET=..., ACT_ID="01", offset=(1.0, 0.0))
    assert planned(tmp_path / "b").notes == []  # dithers of unknown offsets say nothing of each other


@pytest.mark.parametrize(("offset", "told"), [(0.1, 0), (0.6, 2), (5.0, 2)])
def test_a_setting_that_lies_off_the_others_is_told(tmp_path, offset, told):
    for setting, north in (("12A", 0.0), ("12B", 0.0), ("12C", offset)):
        for dither in (1, 2):
            write(tmp_path, setting=setting, dither=dither, offset=(0.0, north))
    notes = planned(tmp_path).notes
    assert len(notes) == told
    assert all("02105" in note and f"{offset:.2f} arcsec off" in note for note in notes)


def test_tiles_of_a_visit_are_no_errors(tmp_path):
    for tile, (east, activities) in enumerate(((0.0, "123"), (5.0, "456"))):
        for setting, activity in zip(("12A", "12B", "12C"), activities, strict=True):
            for dither in (1, 2):
                write(tmp_path / f"{tile}", setting=setting, dither=dither, offset=(east, 0.0), ACT_ID=f"0{activity}",
                      EXPSTART=59764.0 + tile).rename(
                          tmp_path / f"jw02732004001_021{activity}_{dither:05d}_mirifushort_uncal.fits")  # fmt: skip
    assert planned(tmp_path).notes == []


def test_a_planned_pointing_is_told(tmp_path):
    write(tmp_path, dither=1, ENGQLPTG="CALCULATED")
    write(tmp_path, dither=2, ENGQLPTG="PLANNED")
    (note,) = planned(tmp_path).notes
    assert note.startswith("jw02732004001_02101_00002_mirifushort: its pointing is the planned one")
    with pytest.warns(MrsxrWarning, match="planned"):
        ds = open_observation(tmp_path)["science/12A"].to_dataset()
    assert notes_of(ds) == [note]


# --- backgrounds and associations ---


def test_an_empty_background_is_refused(tmp_path):
    write(tmp_path / "a", dither=1)
    (tmp_path / "b").mkdir()
    for reader in (open_observation, summarize, find_files):
        with pytest.raises(InputFileError, match=r"the background .*b: no MIRI MRS files"):
            reader(tmp_path / "a", background=tmp_path / "b")
    (tmp_path / "b" / "x_uncal.fits").write_bytes(b"no FITS")
    with pytest.raises(InputFileError, match=r"1 could not be read"):
        find_files(tmp_path / "a", tmp_path / "b", on_error="skip")


def test_a_copy_of_a_background_exposure_stays_background(tmp_path):
    write(tmp_path / "a", dither=1)
    background = write(tmp_path / "b", dither=1, observation="005")
    shutil.copy(background, tmp_path / "a")
    with pytest.warns(MrsxrWarning, match="there 2 times and counted once"):
        tree = open_observation(tmp_path / "a", background=tmp_path / "b")
    assert tree["science/12A"].exposure.values.tolist() == ["jw02732004001_02101_00001_mirifushort"]
    assert tree["background/12A"].exposure.values.tolist() == ["jw02732005001_02101_00001_mirifushort"]


def test_a_whole_rate_comes_before_the_segments_it_was_made_of(tmp_path):
    segment(tmp_path / "raw", 1, 2, 1, 2)
    segment(tmp_path / "raw", 2, 2, 3, 5)
    write(tmp_path, "rate", dither=1, NINTS=5)
    (one,) = planned(tmp_path).exposures
    assert (one.info.product, len(one.files)) == ("rate", 1)
    assert open_observation(tmp_path).attrs["product"] == "rate"
    (tmp_path / "raw").rename(tmp_path / "segments")
    assert len(planned(tmp_path, prefer="raw").exposures[0].files) == 2


def test_a_background_that_lacks_a_band_is_told_by_info(tmp_path):
    for setting in ("12A", "12B"):
        write(tmp_path, setting=setting, dither=1)
    write(tmp_path, setting="12A", dither=1, observation="005", BKGDTARG=True)
    assert "no background exposures of the bands 1B, 2B" in summarize(tmp_path).problems


@pytest.mark.parametrize("layout", ["beside", "json at the top", "json in the tree", "json in its own folder"])
def test_members_are_found_where_mast_puts_them(tmp_path, layout):
    names = []
    home = {"json at the top": tmp_path, "json in the tree": tmp_path / "mastDownload" / "JWST",
            "json in its own folder": tmp_path / "mastDownload" / "JWST" / "jw02732-o004_spec3"}  # fmt: skip
    for setting in ("12A", "34A"):
        path = write(tmp_path / "x", "cal", setting=setting, dither=1)
        root = path.name.rpartition("_")[0]
        folder = tmp_path / "y" if layout == "beside" else tmp_path / "mastDownload" / "JWST" / root
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
        names.append(path.name)
    home = home.get(layout, tmp_path / "y")
    home.mkdir(parents=True, exist_ok=True)
    members = [{"expname": name, "exptype": "science"} for name in names]
    asn = home / "asn.json"
    asn.write_text(json.dumps({"asn_type": "spec3", "products": [{"name": "p", "members": members}]}))
    assert set(open_observation(asn)["science"].children) == {"12A", "34A"}
    members += [{"expname": f"jw02732004001_02101_0000{k}_mirifushort_cal.fits", "exptype": "science"} for k in (3, 4)]
    asn.write_text(json.dumps({"asn_type": "spec3", "products": [{"name": "p", "members": members}]}))
    with pytest.raises(InputFileError, match=r"2 of 4 members were not found.*00003_mirifush.*00004_mirifush"):
        open_observation(asn)


@pytest.mark.shared
def test_members_of_real_associations_are_named(shared_data):
    for path in sorted((shared_data / "asn").glob("*.json")):
        with pytest.raises(InputFileError, match=r"of \d+ members were not found|no MIRI MRS files"):
            find_files(path)


# --- what did not arrive ---


def test_an_unreadable_file_is_missed_in_the_setting_of_its_activity(tmp_path):
    """Also where that setting is not worked on; of an activity that nobody knows it may be of any."""
    from mrsxr.pipeline.arrivals import Arrivals

    for setting in ("12A", "12B", "34A"):
        write(tmp_path, setting=setting, dither=1)
    damaged = write(tmp_path, setting="12B", dither=2)
    damaged.write_bytes(damaged.read_bytes()[:3000])
    found = find_files(tmp_path, on_error="skip")
    came = ["jw02732004001_02101_00001_mirifushort"]
    only = plan([info for info in found.files if info.node == "12A"])
    missing = Arrivals.of(only, found.skipped, False, found.files).missing
    assert missing("science", "12A", came) == []
    assert missing("science", "12B", []) == [damaged.name]
    assert missing("science", "34A", ["jw02732004001_02101_00001_mirifulong"]) == []
    damaged.rename(tmp_path / "jw02732004001_02107_00001_mirifushort_uncal.fits")
    found = find_files(tmp_path, on_error="skip")
    missing = Arrivals.of(only, found.skipped, False, found.files).missing
    assert len(missing("science", "12A", came)) == 1
    assert missing("science", "34A", ["jw02732004001_02101_00001_mirifulong"]) == []
