"""Which exposures make a product each, and which background goes with which."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrsxr.errors import InputFileError
from mrsxr.io.files import BACKGROUND, SCIENCE, FileInfo
from mrsxr.notes import listen
from mrsxr.pipeline.observations import apart, observations


def info(program, observation, place, *, dither=1, target="", role=SCIENCE, setting="12A") -> FileInfo:
    name = f"jw{program}{observation}001_02101_0000{dither}_{'mirifushort' if setting[0] == '1' else 'mirifulong'}"
    keywords = {
        "PROGRAM": program, "OBSERVTN": observation, "VISIT": "001", "EXPOSURE": str(dither), "EXPSTART": 59000.0,
        "DETECTOR": "MIRIFUSHORT" if setting[0] == "1" else "MIRIFULONG", "BAND": "SHORT", "PATT_NUM": dither,
        "TARGNAME": target, "SUBARRAY": "FULL", "READPATT": "FASTR1", "NGROUPS": 5, "NINTS": 1,
    }  # fmt: skip
    pointing = dict(zip(("RA_REF", "DEC_REF"), place, strict=True))
    return FileInfo(Path(f"/data/{name}_uncal.fits"), "uncal", setting, role, name, keywords, pointing)


def found(files, **options):
    asked = {"allow_missing": False, "one_product": False, "all_backgrounds": False} | options
    with listen() as told:
        apart, refused = observations(files, lambda plan: plan.check("there", one_product=False), **asked)
        return (apart, told) if not refused else (apart, refused)


def test_one_product_keeps_the_folder():
    files = [info("01234", "004", (10.0, 5.0), dither=k) for k in (1, 2)]
    files += [info("01234", "005", (10.1, 5.0), role=BACKGROUND)]
    ((one,), told) = found(files)
    assert (one.title, len(one.files), told) == ("", 3, [])


def test_programs_and_targets_have_folders_of_their_own_with_the_nearest_background():
    files = []
    for dither in (1, 2):
        files += [info("01234", "004", (10.0, 5.0), dither=dither, target="M 1"),
                  info("01234", "006", (50.0, -5.0), dither=dither, target="M 2"),
                  info("07777", "001", (50.5, -5.0), dither=dither, target="M 3")]  # fmt: skip
    files += [info("01234", "007", (50.1, -5.0), role=BACKGROUND), info("01234", "005", (10.1, 5.0), role=BACKGROUND)]
    products, told = found(files)
    names = {one.title: sorted({f.keywords["OBSERVTN"] for f in one.files}) for one in products}
    assert names == {"01234-o004": ["004", "005"], "01234-o006": ["006", "007"], "07777-o001": ["001"]}
    assert any("3 fields" in text and "background-from" in text for text in told)
    for_all, _ = found(files, all_backgrounds=True)
    assert sorted({f.keywords["OBSERVTN"] for f in for_all[2].files}) == ["001", "007"]


def test_each_setting_has_a_background_of_its_own():
    files = [info("01234", "004", (10.0, 5.0), setting=setting, dither=k) for setting in ("12A", "34A") for k in (1, 2)]
    files += [info("01234", "009", (90.0, 5.0), target="far")]
    files += [info("01234", "005", (10.1, 5.0), role=BACKGROUND), info("01234", "006", (10.3, 5.0), role=BACKGROUND,
                                                                      setting="34A")]  # fmt: skip
    products, _ = found(files)
    first = [(f.node, f.keywords["OBSERVTN"]) for f in products[0].files if f.role == BACKGROUND]
    assert first == [("12A", "005"), ("34A", "006")]


def test_fields_of_one_observation_are_named_by_target_or_number():
    files = [info("01234", "004", (10.0, 5.0), target="M 1"), info("01234", "004", (12.0, 5.0), dither=2, target="M 2"),
             info("01234", "004", (14.0, 5.0), dither=3, target="M 2")]  # fmt: skip
    products, _ = found(files)
    assert [one.title for one in products] == ["01234-o004_m-1", "01234-o004_m-2-1", "01234-o004_m-2-2"]


def test_what_stands_against_one_product_does_not_cost_the_others():
    files = [info("01234", "004", (10.0, 5.0)), info("01234", "006", (50.0, 5.0))]
    lame = FileInfo(Path("/else/jw01234006001_02101_00001-seg002_mirifushort_uncal.fits"), "uncal", "12A", SCIENCE,
                    "jw01234006001_02101_00001-seg002_mirifushort",
                    files[1].keywords | {"EXSEGNUM": 2, "EXSEGTOT": 3, "EXPOSURE": "5"}, files[1].pointing)  # fmt: skip
    (one,), refused = found([*files, lame])
    assert (one.title, list(refused)) == ("01234-o004", ["01234-o006"])
    assert "segment 1, 3 of 3 is missing" in refused["01234-o006"]
    with pytest.raises(InputFileError, match="segment 1, 3 of 3 is missing"):
        found([files[1], lame])


def test_a_file_that_cannot_be_read_costs_the_observation_of_its_visit_alone():
    files = [info("01234", "004", (10.0, 5.0)), info("01234", "006", (50.0, 5.0)), info("01235", "004", (90.0, 5.0))]
    parts, _ = found(files)
    names = {
        "jw01234006001_03101_00002_mirifulong_uncal.fits": [1],
        "JW01234004002_02101_00001_mirifushort_rate.fits": [0],  # another visit
        "jw01234009001_02101_00001_mirifushort_uncal.fits": [],  # nothing of it could be read
        "first try.fits": [0, 1, 2],
        "jw01235004001.fits.gz": [0, 1, 2],
        "jw01235004001_02101_00001_mirifushort_cal.fits": [2],
    }
    for name, wanted in names.items():
        of_each = apart({f"/data/x y/{name}": "it is truncated"}, parts)
        assert [k for k, files in enumerate(of_each) if files] == wanted
