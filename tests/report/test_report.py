"""The page on a folder of products: what it says, from what there is."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from astropy.io import fits

import mrsxr as mx
from mrsxr import dq
from mrsxr.errors import InputFileError
from mrsxr.pipeline import Reporter
from mrsxr.pipeline.record import read_runs
from mrsxr.report import markup, write_report
from mrsxr.report.gather import gather
from mrsxr.report.page import make_page
from mrsxr.report.work import flag_fractions, merge

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """A page taken apart: sections by id, tables by caption, images, and whether every element is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.text, self.open, self.sections, self.tables, self.images, self.links = text, [], {}, {}, [], []
        self.levels, self._section, self._caption, self._row, self._cell = [], "", "", None, None
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, name, attrs):
        given = dict(attrs)
        if name not in VOID:
            self.open.append(name)
        if name == "section":
            self._section = given["id"]
            self.sections[self._section] = ""
        elif name == "img":
            self.images.append(given)
        elif re.fullmatch("h[1-6]", name):
            self.levels.append(int(name[1]))
        elif name == "caption":
            self._caption = ""
        elif name == "tr":
            self._row = []
        elif name in ("td", "th"):
            self._cell = ""
            if name == "th":
                assert given["scope"] in ("row", "col")
        self.links += [v for k, v in given.items() if k in ("href", "src")]

    def handle_endtag(self, name):
        assert self.open.pop() == name
        if name == "caption":
            self.tables[self._caption] = []
        elif name in ("td", "th"):
            self._row.append(self._cell.strip())
            self._cell = None
        elif name == "tr":
            self.tables[self._caption].append(self._row)

    def handle_data(self, data):
        if self._section:
            self.sections[self._section] += data
        if self.open and "caption" in self.open:
            self._caption += data
        if self._cell is not None:
            self._cell += data


def page_of(folder, path, **options) -> Page:
    return Page(write_report(folder, path, **options).read_text(encoding="utf-8"))


def part(reduced, folder, *levels):
    """Copy some products of a run to a folder of their own; with "run" its record."""
    for level in levels:
        for path in [reduced.out / "run.json"] if level == "run" else reduced.files[level]:
            target = folder / path.relative_to(reduced.out)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return folder


@pytest.fixture(scope="module")
def whole(reduced, tmp_path_factory):
    return page_of(reduced.out, tmp_path_factory.mktemp("page") / "report.html", redshift=0.0225)


def test_page_holds_every_section_and_needs_nothing_else(whole):
    assert list(whole.sections) == [
        "observation", "decisions", "spectrum", "apertures", "lines", "zooms", "cubes", "detector", "flags", "steps",
        "times", "provenance",
    ]  # fmt: skip
    assert "could not be made" not in whole.text
    assert len(whole.text) < 5e6
    assert all(link.startswith(("data:", "#")) for link in whole.links)
    assert {link[1:] for link in whole.links if link.startswith("#")} - {"main"} == set(whole.sections)
    assert "<script" not in whole.text
    assert not re.search(r"url\(|@import", whole.text)


def test_page_can_be_read_by_everyone(whole):
    assert '<html lang="en">' in whole.text
    assert "prefers-color-scheme: dark" in whole.text
    assert "@media print" in whole.text
    assert len(whole.images) >= 1 + 2 + 2  # spectrum, cubes, detector
    for image in whole.images:
        assert len(image["alt"]) > 20
        assert int(image["width"]) > 100
    assert whole.levels[0] == 1
    assert whole.levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(whole.levels, whole.levels[1:], strict=False))
    assert all(len(rows) >= 2 for rows in whole.tables.values())
    assert all(len({len(row) for row in rows}) == 1 for rows in whole.tables.values())


def test_observation_and_decisions(whole):
    rows = next(rows for caption, rows in whole.tables.items() if "NGC-7319-SIM" in caption)
    assert ["1A", "1", "SHORT", "science", "FASTR1", "16 × 1", "2", "88.8"] in rows
    assert "spectrum of the background exposures" in whole.sections["decisions"]
    assert "extended, as the headers say" in whole.sections["decisions"] or "point, as" in whole.sections["decisions"]


def test_flags_are_those_of_the_files(whole, reduced):
    rows = {row[0]: row[1:] for row in whole.tables["Flagged pixels, mean of the science exposures"]}
    assert rows["Flag"] == ["12A rate", "12A cal"]
    files = [p for p in reduced.files["rate"] if "background" not in p.parts]
    parts = []
    for path in files:
        with fits.open(path) as hdus:
            bits = hdus["DQ"].data
        light = (bits & dq.REFERENCE_PIXEL) == 0
        parts.append(np.mean((bits[light] & dq.JUMP_DET) != 0))
    assert rows["JUMP_DET"][0] == markup.percent(float(np.mean(parts)))
    assert float(rows["no flag"][0].split()[0]) > 80


def test_steps_stand_in_order_with_parameters_and_files(whole):
    first = [row[0] for row in whole.tables["Stage 1: from ramps to count rates"]]
    assert first[1:4] == ["rate.scale_groups", "rate.flag_bad_pixels", "rate.flag_saturation"]
    assert first.index("rate.flag_jumps") < first.index("rate.fit_ramps")
    cells = {row[0]: row for rows in whole.tables.values() for row in rows}
    assert "rejection_threshold = 4.0" in cells["rate.flag_jumps"][2]
    assert "mirifushort_dark" in cells["rate.subtract_dark"][3]
    assert "from the exposures themselves" in cells["rate.subtract_reference_pixels"][3]
    spectra = [row[0] for row in whole.tables["Stage 3: spectra"]]
    assert spectra.index("spectrum.extract_spectrum") < spectra.index("spectrum.stitch_bands")
    assert "Join the spectra" in cells["spectrum.stitch_bands"][1]


def test_times_and_provenance(whole, reduced):
    (run,) = read_runs(reduced.out)
    rows = next({row[0]: row for row in rows} for caption, rows in whole.tables.items() if caption.startswith("Run of"))
    assert rows["calibrate"][1] == "3"
    spent = sum(p["seconds"] for p in run["pieces"] if p["stage"] == "calibrate")
    assert rows["calibrate"][3] == markup.seconds(spent)
    assert mx.__version__ in whole.sections["provenance"]
    assert f"numba {run['versions']['numba']}" in whole.sections["provenance"]
    assert "mirifushort_dark_fastr1.fits" in whole.sections["provenance"]


def test_lines_are_those_of_the_simulation(whole, simulated):
    rows = next(rows for caption, rows in whole.tables.items() if caption.startswith("Lines with S/N"))
    found = {row[0]: row for row in rows[1:]}
    row = found["[Ne VI] 7.65"]
    truth = simulated.lines.isel(line=(simulated.lines.name.values == "[Ne VI]") & (simulated.lines.source == "point"))
    place = float(np.average(truth.wavelength, weights=truth.flux))  # of both components
    assert float(row[1]) == pytest.approx(place, abs=0.3 * place / 3500)
    flux, error = (float(part) for part in row[2].split(" ± "))
    assert flux == pytest.approx(1e18 * float(truth.flux.sum()), abs=4 * error)
    assert float(row[3]) > 10
    assert any(image["alt"].startswith("[Ne VI] 7.65: ") for image in whole.images)


@pytest.mark.parametrize(
    ("levels", "there", "missing"),
    [
        (("rate",), {"detector", "flags", "steps", "observation"}, {"cubes", "spectrum", "apertures", "times"}),
        (("cal",), {"detector", "flags", "steps", "observation"}, {"cubes", "spectrum", "times"}),
        (("cube",), {"cubes", "steps", "observation"}, {"detector", "flags", "spectrum", "times"}),
        (("spectrum",), {"spectrum", "apertures", "lines", "steps"}, {"cubes", "detector", "flags"}),
        (("stitched",), {"spectrum", "lines", "steps"}, {"cubes", "apertures"}),
    ],
)
def test_parts_of_a_run_without_its_record(reduced, tmp_path, levels, there, missing):
    page = page_of(part(reduced, tmp_path / "out", *levels), tmp_path / "report.html", redshift=0.0225)
    assert "could not be made" not in page.text
    assert there <= set(page.sections)
    assert not missing & set(page.sections)
    assert page.sections["absent"].count(":") >= len(missing)


def test_failed_pieces_and_bad_files_are_told(reduced, tmp_path):
    out = part(reduced, tmp_path / "out", "rate", "run")
    runs = json.loads((out / "run.json").read_text())
    runs["runs"][0]["pieces"][0]["failed"] = "dark has 5 groups, exposure has 16 <b>"
    runs["runs"][0]["finished"] = False
    (out / "run.json").write_text(json.dumps(runs))
    broken = next((out / "stage1").glob("*.fits"))
    broken.write_bytes(broken.read_bytes()[:200_000])
    page = page_of(out, tmp_path / "report.html")
    told = page.sections["problems"]
    assert "dark has 5 groups, exposure has 16 <b>" in told
    assert "exposure has 16 &lt;b&gt;" in page.text
    assert "broken off" in told
    assert broken.name in told
    assert "No redshift is known" in page.sections["lines"]
    runs["runs"].append({**runs["runs"][0], "finished": True, "pieces": []})
    runs["runs"][1]["pieces"] = [{**runs["runs"][0]["pieces"][0], "failed": None}]
    (out / "run.json").write_text(json.dumps(runs))
    assert "dark has 5 groups" not in page_of(out, tmp_path / "again.html").sections["problems"]


def test_products_of_another_program(reduced, tmp_path):
    """Files without a history: what the headers tell is shown."""
    out = part(reduced, tmp_path / "out", "cal")
    shutil.rmtree(out / "background")
    for path in out.rglob("*.fits"):
        with fits.open(path) as hdus:
            kept = fits.HDUList([h for h in hdus if h.name not in ("MRSXR", "ASDF")])
            kept[0].header["S_DARK"], kept[0].header["S_RSCD"] = "COMPLETE", "SKIPPED"
            kept[0].header["CAL_VER"], kept[0].header["CRDS_CTX"] = "1.19.1", "jwst_1413.pmap"
            kept[0].header["TARGNAME"] = "<i>A & B</i>"
            kept.writeto(tmp_path / "new.fits", overwrite=True)
        shutil.move(tmp_path / "new.fits", path)
    page = page_of(out, tmp_path / "report.html")
    rows = {row[0]: row[1] for row in page.tables["Steps of jwst, by the headers"][1:]}
    assert rows["DARK"] == "done"
    assert rows["RSCD"] == "left out"
    assert "jwst_1413.pmap" in page.sections["provenance"]
    assert "<h1>&lt;i&gt;A &amp; B&lt;/i&gt;</h1>" in page.text


def test_default_name_progress_and_redshift_of_the_products(reduced, tmp_path):
    class Counter(Reporter):
        total, pieces = 0, 0

        def begin(self, stage, total):
            self.total = total

        def done(self, stage, name, seconds):
            self.pieces += 1

    out = part(reduced, tmp_path / "out", "spectrum")
    for path in (out / "stage3").glob("*_x1d.fits"):
        mx.save(mx.load(path).load().assign_attrs(redshift=0.0225), path)
    counter = Counter()
    assert write_report(out, reporter=counter) == out / "report.html"
    assert "at z = 0.0225" in (out / "report.html").read_text(encoding="utf-8")
    assert counter.pieces == counter.total > 10
    assert gather(out).folder == out
    with pytest.raises(InputFileError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputFileError):
        write_report(tmp_path / "empty")


def test_section_that_breaks_does_not_lose_the_others(reduced, tmp_path, monkeypatch):
    from mrsxr.report import work

    monkeypatch.setattr(work, "flags", lambda contents: 1 / 0)
    told = []

    class Listener(Reporter):
        def failed(self, stage, name, reason):
            told.append((stage, name, reason))

    page = Page(make_page(gather(part(reduced, tmp_path / "out", "rate")), None, Listener()))
    assert "could not be made. ZeroDivisionError" in page.sections["flags"]
    assert "rate.fit_ramps" in page.sections["steps"]
    assert told == [("report", "Flags", "ZeroDivisionError: division by zero")]


@pytest.mark.shared
def test_real_cubes_of_jwst(shared_data, tmp_path):
    page = page_of(shared_data / "s3d_ngc7469", tmp_path / "report.html")
    assert len([i for i in page.images if i["alt"].startswith("Cube of band 4")]) == 3
    assert "could not be made" not in page.text
    assert "<h1>NGC 7469</h1>" in page.text


def test_flag_fractions():
    import xarray as xr

    bits = np.zeros((1, 2, 5), dtype=np.uint32)
    bits[0, 0, :2] = dq.REFERENCE_PIXEL | dq.DO_NOT_USE
    bits[0, 1, 0] = dq.JUMP_DET | dq.SATURATED
    bits[0, 1, 1] = dq.JUMP_DET
    ds = xr.Dataset({"dq": (("dither", "y", "x"), bits)})
    found = flag_fractions([ds, ds])
    assert found == pytest.approx({"SATURATED": 1 / 8, "JUMP_DET": 2 / 8, "no flag": 6 / 8})


def test_histories_of_several_products_make_one_order():
    def entry(name, **params):
        return {"step": name, "version": "1", "params": params, "refs": {}}

    found = merge(
        [
            (["1A"], [entry("a"), entry("c", k=1)]),
            (["3A"], [entry("a"), entry("b"), entry("c", k=2)]),
            (["1A", "3A"], [entry("d")]),
            (["4A"], [entry("z"), entry("a")]),
        ]
    )
    assert [step.name for step in found] == ["z", "a", "b", "c", "d"]
    assert found[3].params == {'{"k": 1}': ["1A"], '{"k": 2}': ["3A"]}
    assert found[1].bands == ["1A", "3A", "4A"]


def test_numbers_as_people_write_them():
    assert markup.with_error(26.5214, 0.817) == "26.52 ± 0.82"
    assert markup.with_error(-21.5, 4.66) == "−21.5 ± 4.7"
    assert markup.with_error(float("nan"), 1.0) == markup.NONE
    assert markup.with_error(1500.0, 123.0) == "1500 ± 123"
    assert markup.percent(0.0) == "0"
    assert markup.percent(0.26404) == "26.40 %"
    assert markup.percent(0.000012) == "0.001 %"
    assert markup.seconds(31.32) == "31.3 s"
    assert markup.seconds(600.0) == "10.0 min"
    assert markup.number(float("inf")) == markup.NONE
    assert markup.join("<&>", markup.code("<&>")) == "&lt;&amp;&gt;<code>&lt;&amp;&gt;</code>"
    shown = markup.table('"x"', ["<a>", "b"], [["<c>", markup.strong("&")]])
    assert 'aria-label="&#34;x&#34;"' in shown
    assert "&lt;a&gt;" in shown
    assert '<th scope="row">&lt;c&gt;</th><td><strong>&amp;</strong></td>' in shown


def test_the_products_of_several_observations_are_no_page(tmp_path):
    for name in ("01234-o004", "01234-o006"):
        (tmp_path / name / ".mrsxr").mkdir(parents=True)
    with pytest.raises(InputFileError, match=r"the products of 2 observations; give the folder of one, .*01234-o004"):
        gather(tmp_path)
    with pytest.raises(InputFileError, match="no MIRI MRS files"):
        gather(tmp_path / "01234-o006")
