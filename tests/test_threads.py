from __future__ import annotations

import gc
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from mrsxr.notes import listen, tell
from mrsxr.pipeline import Recipe
from mrsxr.pipeline.pieces import Way
from mrsxr.pipeline.plan import Task
from mrsxr.pipeline.record import RunRecord
from mrsxr.pipeline.reduction import Reduction, StageReporter
from mrsxr.pipeline.reporter import Reporter
from mrsxr.pipeline.runner import carry_out
from mrsxr.pipeline.store import Store
from mrsxr.schedule import get
from mrsxr.threads import Threads, _aside, bounded, computing, each, how


def test_what_threads_of_ours_tell_is_heard_and_that_of_others_is_not():
    with listen(pass_on=True) as heard, Threads(3) as ours, ThreadPoolExecutor(1) as foreign:
        list(ours.map(tell, ["a", "b", "a", "c"]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            foreign.submit(tell, "elsewhere").result()
    assert sorted(heard) == ["a", "b", "c"]


@pytest.mark.parametrize("n_items", [1, 2])
def test_what_blocks_of_dask_tell_is_heard(n_items):
    """One item has dask's threads to itself, several compute in their own; the piece hears both."""

    def block(x):
        tell(f"block of {x.sum():.0f}")
        return x

    def piece(number: int) -> list[str]:
        with listen() as heard:
            lazy = da.from_array(np.full((4, 2), float(number)), chunks=(1, 2))
            lazy.map_blocks(block, meta=np.empty((0, 0))).compute(**how())
        return heard

    with listen(pass_on=True) as whole, bounded(2 if n_items == 1 else 1), Threads(n_items) as pool:
        found = list(pool.map(piece, range(1, n_items + 1)))
    assert [set(heard) for heard in found] == [{f"block of {2 * k}"} for k in range(1, n_items + 1)]
    assert {f"block of {2 * k}" for k in range(1, n_items + 1)} <= set(whole)


def test_a_run_changes_nothing_for_other_threads(tmp_path):
    """While pieces run, another thread sees the dask config and the warnings hook as they were."""
    before = (dask.config.get("scheduler", None), dask.config.get("num_workers", None), warnings.showwarning)
    inside, seen, found = threading.Barrier(3), [], []

    def work(_way: Way, number: int) -> dict:
        inside.wait(20)
        seen.append((dask.config.get("scheduler", None), dask.config.get("num_workers", None), warnings.showwarning))
        inside.wait(20)
        found.append(how())
        return {}

    def other() -> None:
        inside.wait(20)
        seen.append((dask.config.get("scheduler", None), dask.config.get("num_workers", None), warnings.showwarning))
        inside.wait(20)

    tasks = [Task("cube", str(number), work, {}, {"number": number}) for number in (1, 2)]
    record = RunRecord.begin(Recipe.of(), "none")
    reduction = Reduction(tasks, Way(None, Recipe.of()), Store(tmp_path), record, StageReporter(Reporter()), {})
    thread = threading.Thread(target=other)
    thread.start()
    carry_out([reduction], None, 2)
    assert not reduction.result.failed
    thread.join()
    assert [one["executor"] for one in found] == [None] * 2
    assert seen == [before] * 3
    assert how() == {}


def test_options_are_those_of_the_thread():
    with computing(scheduler="synchronous"), ThreadPoolExecutor(1) as foreign, Threads(1) as ours:
        assert foreign.submit(how).result() == {}
        assert ours.submit(how).result() == {"scheduler": "synchronous"}


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_pieces_side_by_side_have_one_blas_thread_each():
    """The limit holds until the last piece has left, whichever it is, and then goes."""
    import scipy.linalg  # noqa: F401

    def piece(number: int) -> None:
        with bounded():
            entered.wait(20)
            seen.append((how(), blas_threads()))
            entered.wait(20)
            if number:
                first_has_left.wait(20)
                seen.append((how(), blas_threads()))
        first_has_left.set()

    limits: list[threadpool_limits] = []
    _aside(lambda: limits.append(threadpool_limits(3, user_api="blas")))  # also where the machine has one core
    try:
        entered, first_has_left, seen = threading.Barrier(2), threading.Event(), []
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(piece, range(2)))
        assert seen == [({"scheduler": get, "executor": None}, {1})] * 3
        assert blas_threads() == {3}
    finally:
        _aside(limits[0].restore_original_limits)


def test_one_piece_has_all_threads():
    with bounded(3):
        assert how()["executor"]._max_workers == 3
        assert blas_threads() == {1}
    assert how() == {}


def test_pieces_rechunk_by_tasks_and_import_no_cluster_for_it():
    before = dask.config.get("array.rechunk.method", None)
    with bounded():
        with bounded(2):
            assert dask.config.get("array.rechunk.method") == "tasks"
        assert dask.config.get("array.rechunk.method") == "tasks"
    assert dask.config.get("array.rechunk.method", None) == before


@pytest.mark.parametrize(("own", "inside"), [((700, 10, 10), 50_000), ((90_000, 5, 5), 90_000), ((0, 10, 10), 0)])
def test_pieces_look_for_cycles_seldom_and_leave_a_rarer_look_as_it_is(own, inside):
    before = gc.get_threshold()
    try:
        gc.set_threshold(*own)
        with bounded():
            with bounded():
                assert gc.get_threshold()[0] == inside
            assert gc.get_threshold()[0] == inside
        assert gc.get_threshold() == own
    finally:
        gc.set_threshold(*before)


def test_things_side_by_side_share_the_cores_of_their_piece():
    """Two cores: two at once, each of which computes in its own thread; outside of a piece one after the other."""
    meet = threading.Barrier(2)

    def place(wait: float) -> tuple[str, None, bool]:
        meet.wait(wait)
        threads = da.map_blocks(lambda x: x + threading.get_ident(), da.zeros(2, chunks=1), dtype=float).compute(
            **how()
        )
        return threading.current_thread().name, how()["executor"], set(threads) == {float(threading.get_ident())}

    with bounded(2):
        found = each(place, [20.0, 20.0])
    assert len({name for name, *_ in found}) == 2
    assert all(rest == [None, True] for _, *rest in found)
    here = threading.current_thread().name
    assert each(lambda k: (k, threading.current_thread().name), [1, 2]) == [(1, here), (2, here)]
