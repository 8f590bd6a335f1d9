"""What a run tells of itself in run.json."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

import mrsxr as mx
from mrsxr.errors import InputFileError
from mrsxr.pipeline import Recipe, Reporter
from mrsxr.pipeline.record import Piece, RunRecord, read_runs
from mrsxr.pipeline.store import status


def test_record_of_a_whole_run(reduced):
    (run,) = read_runs(reduced.out)
    assert run["finished"]
    assert run["base"] == "baseline"
    assert run["changed"] == {}
    assert run["failed"] == {}
    assert run["versions"]["mrsxr"] == mx.__version__
    assert {"python", "numpy", "xarray", "numba"} <= set(run["versions"])
    assert run["recipe"]["rate.jump"]["rejection_threshold"] == 4.0
    assert run["seconds"] == pytest.approx(reduced.seconds, abs=0.01)
    assert [i["role"] for i in run["inputs"]] == ["science", "science", "background"]
    assert all(os.path.isfile(i["path"]) for i in run["inputs"])
    stages = list(dict.fromkeys(piece["stage"] for piece in run["pieces"]))
    assert stages == [
        "rate", "calibrate", "open", "background", "combine", "cube", "source type", "spectrum", "stitch",
    ]  # fmt: skip
    now = status(reduced.out)
    assert now.counts == (len(run["pieces"]), 0, 0, 0)
    assert next(iter(now.counts_by_stage())) == stages[0]
    assert all(piece["seconds"] > 0.01 for piece in run["pieces"] if piece["products"])
    memory = [piece["peak_memory"] for piece in run["pieces"]]
    assert min(memory) > 50
    assert max(memory) <= run["peak_memory"]
    assert run["decisions"]["source type"]["taken"]


def test_every_product_stands_with_one_piece(reduced):
    (run,) = read_runs(reduced.out)
    by_piece = [path for piece in run["pieces"] for path in piece["products"]]
    by_level = [path for paths in run["products"].values() for path in paths]
    written = [p.relative_to(reduced.out).as_posix() for paths in reduced.files.values() for p in paths]
    assert sorted(by_piece) == sorted(by_level) == sorted(written)
    assert len(set(by_piece)) == len(by_piece)
    for stage, level, folder in (("rate", "rate", "stage1"), ("calibrate", "cal", "stage2")):
        first = next(p for p in run["pieces"] if p["stage"] == stage)
        assert first["products"] == [f"{folder}/{first['name'].replace('uncal', level)}"]


def test_runs_are_appended_with_failures_and_redshift(simulated, reduced, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    good, bad = (p for p in reduced.files["cal"] if "background" not in p.parts)
    os.link(good, source / good.name)
    (source / bad.name).write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    out = tmp_path / "out"
    recipe = Recipe.of().set("extract_1d", background="none", aperture_correction=False)
    with pytest.warns(UserWarning, match="1 of 2 exposures did not arrive"):
        result = mx.run(
            source, out=out, refs=simulated.reference_folder, bands=["1A"], to="cube", recipe=recipe, redshift=0.0225,
            allow_missing=True,
        )  # fmt: skip
    assert result.record.failed == result.failed
    assert len(result.failed) == 1
    (first,) = read_runs(out)
    assert first["changed"] == {
        "spectrum.extract_1d.background": "none",
        "spectrum.extract_1d.aperture_correction": False,
    }
    assert first["settings"]["redshift"] == 0.0225
    (lost,) = (piece for piece in first["pieces"] if piece["failed"])
    assert bad.name in lost["failed"]
    assert mx.load(result.files["cube"][0]).attrs["redshift"] == 0.0225
    with pytest.warns(UserWarning, match="not corrected for the aperture"):
        mx.run(result.files["cube"], out=out, recipe=recipe.set("extract_1d", source_type="POINT"), redshift=0.0225)
    runs = read_runs(out)
    assert runs[0] == first
    assert any("not corrected for the aperture" in note for note in runs[1]["notes"])
    assert mx.load(out / runs[1]["products"]["spectrum"][0]).attrs["redshift"] == 0.0225


def test_broken_off_run_is_told(simulated, tmp_path):
    class Impatient(Reporter):
        def done(self, stage, name, seconds):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mx.run(simulated.uncal[0], out=tmp_path, refs=simulated.reference_folder, to="rate", reporter=Impatient())
    (run,) = read_runs(tmp_path)
    assert not run["finished"]
    assert run["pieces"][0]["products"]


def test_nothing_to_do_writes_nothing(simulated, tmp_path):
    with pytest.raises(InputFileError):
        mx.run(simulated.uncal[0], bands=["4C"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_file_that_is_no_record(tmp_path):
    (tmp_path / "run.json").write_text('{"something": "else"}')
    with pytest.raises(InputFileError, match="no record of a run"):
        read_runs(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "mrsxr-run-1", "runs": [1]}')
    with pytest.raises(InputFileError, match="no mapping"):
        read_runs(tmp_path)
    for _ in range(25):
        record = RunRecord.begin(Recipe.of(), "none", source="here")
        record.note("once")
        record.note("once")
        record.write(tmp_path)
    runs = read_runs(tmp_path)
    assert len(runs) == 20
    assert runs[-1]["notes"] == ["once"]
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]
    assert read_runs(tmp_path / "nowhere") == []


def test_the_record_is_written_as_the_run_goes(tmp_path):
    earlier = RunRecord.begin(Recipe.of(), "none")
    earlier.write(tmp_path)
    record = RunRecord.begin(Recipe.of(), "none")

    def work(number):
        record.pieces.append(Piece("cal", str(number)))
        record.write(tmp_path)
        return [len(run["pieces"]) for run in read_runs(tmp_path)]

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(work, range(20)))
    assert all(first == 0 and 0 < second <= 20 for first, second in seen)
    assert [run["id"] for run in read_runs(tmp_path)] == [earlier.id, record.id]
    assert len(read_runs(tmp_path)[1]["pieces"]) == 20
    record.note("later")
    record.write(tmp_path, every=60)
    assert read_runs(tmp_path)[1]["notes"] == []
    record.write(tmp_path)
    assert read_runs(tmp_path)[1]["notes"] == ["later"]


def test_half_written_record_leaves_the_old_one(tmp_path, monkeypatch):
    record = RunRecord.begin(Recipe.of(), "none")
    record.write(tmp_path)
    before = (tmp_path / "run.json").read_text()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        record.write(tmp_path)
    assert (tmp_path / "run.json").read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_record_says_what_differs_from_the_recipe_it_began_with():
    record = RunRecord.begin(Recipe.of("optimal").set("refpix", siglimit=2.5), "none", bands=("1A",), source=["a"])
    assert record.base == "optimal"
    assert record.changed == {"rate.refpix.siglimit": 2.5}
    assert json.loads(json.dumps(record.settings)) == {"bands": ["1A"], "source": ["a"]}


def test_progress_in_a_notebook_is_one_text():
    from pathlib import Path

    from mrsxr.pipeline.reporter import InNotebook, Reporter, reporter_here

    shown: list[str] = []
    told = InNotebook(shown.append)
    told.begin("rate", 3)
    told.done("rate", "a", 1.0)
    told.failed("rate", "b", "no dark")
    told.ended("02732", 1, 1, 1, 2.0, Path("out"))
    last = shown[-1].splitlines()
    assert last[:2] == ["rate         1 of 3", "failed (rate) b: no dark"]
    assert last[2].startswith("02732: 1 pieces done, 1 failed")
    assert type(reporter_here()) is Reporter  # no notebook here
