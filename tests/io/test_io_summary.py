from __future__ import annotations

import json

import io_files
import pytest

from mrsxr.errors import InputFileError
from mrsxr.io import summarize

SETTINGS = ("12A", "12B", "12C", "34A", "34B", "34C")


def program_2732(folder, settings=SETTINGS):
    """Write headers of the set-up of program 2732 on tiny images: 40 groups, 2 integrations, 4 and 2 dithers."""
    for role, observation, n, target in (("Source", "004", 4, "NGC-7319"), ("Background", "005", 2, "NGC-7319-BG")):
        (folder / role).mkdir(parents=True)
        for setting in settings:
            for dither in range(1, n + 1):
                io_files.write(folder / role, "uncal", setting, dither, n_groups=40, n_ints=2, shape=(1, 4),
                               observation=observation, NUMDTHPT=n, TARGNAME=target)  # fmt: skip


def test_worked_example_of_program_2732(tmp_path):
    program_2732(tmp_path)
    table = summarize(tmp_path)
    assert table.n_files == {"science": 24, "background": 12}
    assert table.program == "02732"
    for band in ("1A", "2B", "3C", "4A"):
        assert table.time(band) == pytest.approx(899.113, abs=5e-4)
        assert table.time(band, "background") == pytest.approx(449.556, abs=5e-4)
    assert len(table.rows) == 24
    row = table.rows[0]
    assert (row.band, row.channel, row.grating, row.readpatt) == ("1A", 1, "SHORT", "FASTR1")
    assert (row.n_groups, row.n_integrations, row.n_dithers, row.target) == (40, 2, 4, "NGC-7319")
    assert table.problems == []
    text = str(table)
    assert "899.113" in text
    assert "science NGC-7319, 24 files; background NGC-7319-BG, 12 files" in text
    assert len(text.splitlines()) == 14
    assert "<td>899.113</td>" in table._repr_html_()
    assert json.loads(json.dumps(table.to_dict()))["rows"][0]["n_dithers"] == 4


def test_separate_background_folder_and_missing_parts(tmp_path):
    program_2732(tmp_path, settings=("12A", "12B", "34A"))
    next((tmp_path / "Source").glob("*02103_00003_mirifushort*")).unlink()
    table = summarize(tmp_path / "Source", background=tmp_path / "Background")
    assert table.n_files == {"science": 11, "background": 6}
    text = " | ".join(table.problems)
    assert "science: no files of the bands 1C, 2C, 3B, 3C, 4B, 4C (settings 12C, 34B, 34C)" in text
    assert "science 12B: 3 of 4 dithers, missing 3" in text
    assert "different numbers of exposures (12A 4, 12B 3, 34A 4)" in text
    assert "! science 12B" in str(table)


def test_bad_file_and_missing_keyword_are_named(tmp_path):
    io_files.write(tmp_path, "uncal", "12A", 1, shape=(1, 4))
    io_files.write(tmp_path, "uncal", "12A", 2, shape=(1, 4), TGROUP=...)
    (tmp_path / "junk_uncal.fits").write_bytes(b"not FITS at all")
    text = " | ".join(summarize(tmp_path).problems)
    assert "junk_uncal.fits: no readable FITS file" in text
    assert "TGROUP is missing in jw02732004001_02101_00002" in text


def test_nothing_to_summarize(tmp_path):
    (tmp_path / "a.txt").write_text("no file of the MRS")
    with pytest.raises(InputFileError, match="no MIRI MRS files"):
        summarize(tmp_path)


def test_several_products_of_an_exposure_count_once(tmp_path):
    for product in ("uncal", "rate", "cal"):
        io_files.write(tmp_path, product, "34C", 1, shape=(1, 4))
    table = summarize(tmp_path)
    assert table.n_files["science"] == 1
    assert table.products == {"cal": 1, "rate": 1, "uncal": 1}
    assert {row.band for row in table.rows} == {"3C", "4C"}


def test_cubes_tell_the_exposures_that_they_were_made_of(tmp_path):
    from astropy.io import fits
    from test_io_products import make_cube

    from mrsxr.io import save

    (path,) = save(make_cube(), tmp_path)
    with fits.open(path, mode="update") as file:
        rows = {"FILENAME": [f"e{k}_crf.fits" for k in (1, 2, 4)], "READPATT": ["SLOWR1"] * 3, "BAND": ["SHORT"] * 3}
        rows |= {
            "CHANNEL": ["12"] * 3,
            "NGROUPS": [12] * 3,
            "NINTS": [3] * 3,
            "NUMDTHPT": [4] * 3,
            "PATT_NUM": [1, 2, 4],
        }
        forms = {name: "16A" if isinstance(values[0], str) else "K" for name, values in rows.items()}
        columns = [fits.Column(name=name, array=values, format=forms[name]) for name, values in rows.items()]
        columns.append(fits.Column(name="TGROUP", array=[23.889] * 3, format="D"))
        file.append(fits.BinTableHDU.from_columns(columns, name="HDRTAB"))
    (tmp_path / "other.fits").write_bytes(path.read_bytes().replace(b"INSTRUME= 'MIRI  ", b"INSTRUME= 'NIRCAM"))
    table = summarize(tmp_path)
    (row,) = table.rows
    assert (row.band, row.readpatt, row.n_groups, row.n_integrations, row.n_dithers) == ("1A", "SLOWR1", 12, 3, 3)
    assert row.time == pytest.approx(3 * 23.889 * (12 * 3 + 2))
    assert "science 12A: 3 of 4 dithers, missing 3" in table.problems
    lines = str(table).splitlines()
    assert lines[1].startswith("! science 12A")  # problems above the table
    assert lines[-1].startswith(f"- left out: {tmp_path / 'other.fits'}: ")
    assert table._repr_html_().index("missing 3") < table._repr_html_().index("<table>")
