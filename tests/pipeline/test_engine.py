"""The engine: pieces on executors, workers that die, what is taken over, what is stopped."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from fake_pieces import die_once, ladder, number, reduction, spectrum

import mrsxr as mx
from mrsxr.blocks import computed
from mrsxr.errors import MrsxrError, MrsxrWarning
from mrsxr.io import atomic
from mrsxr.pipeline import Recipe, Reporter, engine
from mrsxr.pipeline import store as store_module
from mrsxr.pipeline.pieces import Filed
from mrsxr.pipeline.plan import ALL, Task
from mrsxr.pipeline.record import read_runs
from mrsxr.pipeline.runner import carry_out
from mrsxr.pipeline.signals import Stopped
from mrsxr.pipeline.store import Label, Store
from mrsxr.scores import score
from mrsxr.threads import how


@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(3), lambda: ProcessPoolExecutor(2), lambda: None])
def test_a_failure_costs_what_needs_it(tmp_path, make):
    tasks = ladder()
    here = reduction(tasks, tmp_path)
    carry_out([here], make(), 2)
    assert here.result.failed == {"2": "it does"}
    assert [piece["name"] for piece in read_runs(tmp_path)[-1]["pieces"]] == ["1", "2", "some", "last"]
    again = reduction(tasks, tmp_path)
    carry_out([again], None, 1)
    assert again.result.taken_over == 3
    assert {piece.name: piece.taken_over for piece in again.record.pieces} == {
        "1": True, "2": False, "some": True, "last": True,
    }  # fmt: skip
    anew = reduction(tasks, tmp_path, fresh=True)
    carry_out([anew], None, 1)
    assert anew.result.taken_over == 0


def test_a_worker_that_dies_costs_its_piece(tmp_path):
    marker = str(tmp_path / "marker")
    here = reduction([Task("cube", "1A", die_once, {}, {"marker": marker})], tmp_path / "out")
    pools = []

    def pool():
        pools.append(ProcessPoolExecutor(1))
        return pools[-1]

    with pytest.warns(MrsxrWarning, match=r"a worker died at 1A \(cube\); another does it again"):
        carry_out([here], pool, 1)
    assert len(pools) == 2
    assert not here.result.failed


def test_what_is_broken_off_stops_soon(tmp_path):
    """A piece that computes by dask stops between two tasks; the record says that the run did not end."""
    import dask

    begun = threading.Event()

    def long(_way):
        def nap(k):
            begun.set()
            time.sleep(0.05)
            return k

        dask.compute(*[dask.delayed(nap)(k) for k in range(400)], **how())
        return {}

    class Impatient(Reporter):
        def done(self, stage, name, seconds):
            begun.wait(10)
            raise KeyboardInterrupt

    here = reduction([Task("cube", "short", number, {}), Task("cube", "long", long, {})], tmp_path)
    here.told.reporter = Impatient()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        carry_out([here], None, 2)
    assert time.perf_counter() - start < 5
    assert not read_runs(tmp_path)[-1]["finished"]
    assert Store(tmp_path).pieces()[Label("cube", "long")].state == "running"


def test_products_and_decisions_stand_with_their_piece(reduced, tmp_path):
    judged = score("outlier_detection", 0.7, method="sky", instead="detector", held_out="dithers")
    found = mx.load(reduced.files["spectrum"][0]).assign(judged)
    here = reduction([Task("spectrum", "1A", lambda _way: {"spectrum": [found]}, {})], tmp_path)
    carry_out([here], None, 1)
    (piece,) = here.record.pieces
    assert piece.products == [f"stage3/{reduced.files['spectrum'][0].name}"]
    assert [(one["step"], one["taken"], one["median"]) for one in piece.scores] == [("outlier_detection", 1, 0.7)]
    json.dumps(piece.scores)
    assert not (tmp_path / ".mrsxr" / "names").exists()


def test_a_run_takes_over_what_is_there_and_makes_the_rest(reduced, simulated, tmp_path):
    """Nothing changed: all is taken over. A parameter of stage 3: the cubes anew. A lost file: that and no more."""
    source = [p for p in reduced.files["cal"] if "background" not in p.parts]
    recipe = Recipe.of().set("cube_build", wavelength_step=0.01).skipping("outlier_detection", "master_background")
    options = {"refs": simulated.reference_folder, "out": tmp_path, "bands": ["1A"]}
    first = mx.run(source, recipe=recipe, **options)
    assert not first.failed
    before = {path: path.read_bytes() for paths in first.files.values() for path in paths}
    start = time.perf_counter()
    again = mx.run(source, recipe=recipe, **options)
    assert time.perf_counter() - start < 3
    assert (again.taken_over, again.files) == (again.pieces, first.files)
    first.files["spectrum"][0].unlink()
    mended = mx.run(source, recipe=recipe, **options)
    assert mended.taken_over == mended.pieces - 1
    assert {piece.stage for piece in mended.record.pieces if not piece.taken_over} == {"spectrum"}
    assert {path.name for path in before} == {path.name for paths in mended.files.values() for path in paths}
    other = mx.run(source, recipe=recipe.set("cube_build", weighting="emsm"), **options)
    assert {piece.stage for piece in other.record.pieces if piece.taken_over} == {"read", "open", "combine"}


def test_a_raw_file_of_which_a_byte_changed_is_reduced_anew(tmp_path):
    """With all that follows, whatever its size and time say; a copy of the same bytes is the same file."""

    def slopes(_way, *, exposure):
        return {"spectrum": [spectrum(None)["spectrum"][0].assign_attrs(target=exposure[0].path.read_text())]}

    def total(_way, *, of):
        return {"sum": [mx.load(of[0].path).attrs["target"]]}

    raw = tmp_path / "a_uncal.fits"

    def taken_over(text, time):
        raw.write_text(text)
        os.utime(raw, ns=(time, time))
        first = Task("spectrum", "1A", slopes, {"exposure": (ALL, (Filed(raw, "science", "a"),))})
        here = reduction([first, Task("stitch", "all", total, {"of": (ALL, (first["spectrum"],))})], tmp_path / "out")
        carry_out([here], None, 1)
        assert not here.result.failed
        return here.result.taken_over, Store(tmp_path / "out").pieces()[Label("stitch", "all")].values["made"]

    assert taken_over("M 31", 10**18) == (0, {"sum": [["plain", "M 31"]]})
    assert taken_over("M 31", 2 * 10**18)[0] == 2
    assert taken_over("M 33", 2 * 10**18) == (0, {"sum": [["plain", "M 33"]]})


def test_datasets_are_computed_together():
    runs = []
    one = da.map_blocks(lambda block: (runs.append(1), block + 1.0)[1], da.zeros(4, chunks=4), meta=np.zeros(0))
    lazy = [xr.Dataset({"a": ("x", one), "b": ("x", np.arange(4))}), xr.Dataset({"a": ("x", one * 2)}, attrs={"k": 1})]
    first, second = computed(lazy)
    assert len(runs) == 1
    xr.testing.assert_identical(first, xr.Dataset({"a": ("x", np.ones(4)), "b": ("x", np.arange(4))}))
    xr.testing.assert_identical(second, xr.Dataset({"a": ("x", np.full(4, 2.0))}, attrs={"k": 1}))
    assert lazy[0].a.chunks
    assert not first.a.chunks
    assert computed([]) == []


def test_products_of_earlier_runs_that_stand_beside_are_told(tmp_path):
    """Where an exposure is gone, or its product has another name now; what this run makes again is not among them."""

    def piece(name, program="02732"):
        made = spectrum(None)["spectrum"][0].assign_attrs(program=program)
        return Task("spectrum", name, lambda _way: {"spectrum": [made]}, {})

    carry_out([reduction([piece("1A", "00001"), piece("2A", "00002")], tmp_path)], None, 1)
    (tmp_path / "stage3" / "mine_x1d.fits").touch()  # of nobody's ledger
    words = r"1 products of earlier runs stand beside .*\(stage3/jw00002.*_x1d.fits\); take them away"
    here = reduction([piece("1A", "00001")], tmp_path)
    carry_out([here], None, 1)
    assert re.search(words, here.record.notes[-1])
    for path in (tmp_path / "stage3").glob("jw00002*"):
        path.unlink()
    again = reduction([piece("1A", "00001")], tmp_path)
    carry_out([again], None, 1)
    assert not again.record.notes


def test_a_signal_before_the_first_piece_ends_the_run_at_once(tmp_path, monkeypatch):
    """As while it waits for another run in the same folder."""
    monkeypatch.setattr("mrsxr.pipeline.lock._POLL", 30.0)
    here = reduction([Task("cube", "1A", number, {})], tmp_path)
    with Store(tmp_path):
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        start = time.perf_counter()
        with pytest.raises(Stopped, match="by SIGINT; no piece was begun") as stopped:
            carry_out([here], None, 1, wait=True)
        assert time.perf_counter() - start < 5
    assert stopped.value.exit_code == 130


def test_a_cluster_does_not_look_through_a_job_nor_take_one_try_for_another(tmp_path):
    from dask.base import tokenize

    job = engine.Job(number, None, {"a": [object()] * 3}, {}, "1A", "cube", "science", "", tmp_path, "of a run")
    assert tokenize(job) != tokenize(job)


def test_a_failure_of_many_lines_is_one_line(tmp_path):
    def fails(_way):
        raise ValueError("a step\n of one's own")

    place = fails.__code__.co_firstlineno + 1

    here = reduction([Task("cube", "1A", fails, {})], tmp_path)
    carry_out([here], None, 1)
    assert here.result.failed == {"1A": f"ValueError: a step of one's own (test_engine.py:{place})"}


def test_workers_that_lack_a_module_are_told_in_words_of_ours():
    """What distributed says of it names neither module nor remedy."""
    error = RuntimeError("Error during deserialization of the task graph. This frequently occurs if the Scheduler ...")
    assert "same packages and PYTHONPATH" in engine._reason(error)


class Endings(Reporter):
    """Writes down what ended."""

    def __init__(self):
        self.told = []

    def ended(self, name, done, failed, left, seconds, out):
        self.told.append((name, done, failed, left))


def test_each_observation_tells_its_end(tmp_path):
    """Before the others end; its record is closed then."""
    first, second = (reduction(ladder(), tmp_path / name, title=name) for name in ("a", "b"))
    first.told.reporter = reporter = Endings()
    second.told = first.told
    carry_out([first, second], None, 1)
    assert reporter.told == [("a", 3, 1, 2), ("b", 3, 1, 2)]
    assert read_runs(tmp_path / "a")[-1]["finished"]


@pytest.mark.parametrize("make", [None, lambda: ThreadPoolExecutor(2)])
def test_a_signal_stops_thousands_of_ready_pieces(tmp_path, make):
    """What waits is not handed out: a few pieces for each worker."""
    here = reduction([Task("cube", f"{k}", number, {}, {"slow": 0.01}) for k in range(4000)], tmp_path)
    most = []

    class Watching(Reporter):
        def done(self, stage, name, seconds):
            most.append(len(here.keys) - len(here.files))
            if len(most) == 40:
                os.kill(os.getpid(), signal.SIGTERM)

    here.told.reporter = Watching()
    with pytest.raises(Stopped, match=r"by SIGTERM; 4\d of 4000 pieces are done") as stopped:
        carry_out([here], make, 2)
    assert stopped.value.exit_code == 143
    assert max(most) <= 6
    assert not read_runs(tmp_path)[-1]["finished"]


def test_a_piece_whose_run_is_gone_stops(tmp_path, monkeypatch):
    """As on a cluster, where its worker lives on: nothing is written under a name of the next run."""
    import dask

    monkeypatch.setattr(engine, "_LOOKS", 0.0)
    job = engine.Job(number, None, {}, {}, "1A", "cube", "science", "", tmp_path, "of a run")
    job.claims.mkdir(parents=True)

    def gone(_way):
        shutil.rmtree(job.claims)
        dask.compute(dask.delayed(int)(1), **how())

    assert not engine.do(job).failed
    with pytest.raises(engine.Stopped):
        engine.do(replace(job, work=gone))
    with pytest.raises(engine.Stopped):
        engine._claim([tmp_path / "a_s3d.fits"], "cube of 1A", job)


def bytes_below(out):
    return {path.name: path.read_bytes() for path in (out / "stage3").glob("*")}


def test_a_worker_that_dies_while_it_writes(tmp_path, monkeypatch):
    """Another writes the same bytes, and nothing unfinished is left at the end."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    task = Task("spectrum", "1A", spectrum, {})
    marker, take = tmp_path / "dead", atomic._take_place

    def die(temporary, path):
        if path.suffix == ".fits" and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        take(temporary, path)

    for name in ("disturbed", "alone"):  # the second time it lives
        monkeypatch.setattr(atomic, "_take_place", die)
        here = reduction([task], tmp_path / name)
        with pytest.warns(MrsxrWarning, match="a worker died at 1A") if name == "disturbed" else nullcontext():
            carry_out([here], lambda: ProcessPoolExecutor(1), 1)
    assert len(bytes_below(tmp_path / "alone")) == 1
    assert bytes_below(tmp_path / "disturbed") == bytes_below(tmp_path / "alone")


@pytest.mark.parametrize("suffix", [".fits", ".jsonl"])
def test_a_full_disk_breaks_nothing(tmp_path, monkeypatch, suffix):
    """Of a product its piece fails, of the books the run; the next run makes the rest."""
    task, full = Task("spectrum", "1A", spectrum, {}), True

    def take(temporary, path):
        if full and path.suffix == suffix:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.replace(temporary, path)

    def append(path, *mode, **options):
        return open("/dev/full" if full and path.suffix == suffix and "a+b" in mode else path, *mode, **options)

    monkeypatch.setattr(atomic, "_take_place", take)
    monkeypatch.setattr(store_module, "open", append, raising=False)
    here, words = reduction([task], tmp_path), r"cannot be written \(No space left on device\); make room"
    with pytest.raises(MrsxrError, match=words) if suffix == ".jsonl" else nullcontext():
        carry_out([here], None, 1)
    assert not bytes_below(tmp_path)
    if suffix == ".fits":
        assert re.search(words, here.result.failed["1A"])
    full, again = False, reduction([task], tmp_path)
    carry_out([again], None, 1)
    assert (len(bytes_below(tmp_path)), again.result.failed) == (1, {})
