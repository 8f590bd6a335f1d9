"""Graphs are computed depth first: what blocks need of their neighbours is made just before, and goes at once."""

from __future__ import annotations

import threading
import weakref

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask._task_spec import Task, TaskRef

from mrsxr.blocks import with_row_halo
from mrsxr.folding import fold
from mrsxr.schedule import depth_first, get
from mrsxr.threads import Threads, bounded, how

N_BLOCKS, ROWS = 43, 3


def ramps(log):
    """Return blocks of rows that write down when they are read, and when they are done after two halos."""

    def make(block_info=None):
        row = block_info[None]["chunk-location"][0]
        log.append(("read", row))
        return np.full((ROWS, 2), float(row))

    def last(block):
        log.append(("done", int(block[1, 0])))
        return block

    data = da.map_blocks(make, chunks=((ROWS,) * N_BLOCKS, (2,)), dtype=float, meta=np.empty((0, 0)))
    array = xr.DataArray(data, dims=("y", "x"))
    for _ in range(2):
        array = with_row_halo(lambda rows: rows + 0, array, depth=1, fill=0.0)
    return array.copy(data=array.data.map_blocks(last, meta=np.empty((0, 0))))


@pytest.mark.parametrize("cores", [1, 3])
def test_blocks_are_read_just_before_they_are_of_use(cores):
    log: list[tuple[str, int]] = []
    rate = ramps(log)
    (ds,) = fold(xr.Dataset({"rate": rate, "error": 2 * rate}))
    log.clear()
    with bounded(cores):
        out = ds.compute(**how())
    np.testing.assert_array_equal(out["rate"].values[:, 0], np.repeat(np.arange(N_BLOCKS), ROWS))
    np.testing.assert_array_equal(out["error"], 2 * out["rate"])
    waiting = 0
    for what, _ in log:
        waiting += {"read": 1, "done": -1}[what]
        assert waiting <= 3 + 2 * cores


def test_what_no_later_task_takes_of_a_value_is_dropped_at_once():
    """A task gives samples and an edge: the samples are gone when only the edge is waited for."""

    class Part:
        def __init__(self, parts, call):
            self.parts, self.call = parts, call

        def __call__(self, *values):
            return self.call(*values)

    class Samples:
        pass

    seen, held = [], []

    def make():
        samples = Samples()
        held.append(weakref.ref(samples))
        return samples, "edge"

    tasks = {
        "both": Task("both", make),
        "first": Task("first", Part(lambda _: {0}, lambda both: both[1]), TaskRef("both")),
        "second": Task("second", Part(lambda _: {1}, lambda both, _: both[1]), TaskRef("both"), TaskRef("between")),
        "between": Task("between", lambda _: seen.append(held[0]()), TaskRef("first")),
    }
    assert get(tasks, ["second"]) == ("edge",)
    assert seen == [None]


def test_keys_come_after_those_that_they_need():
    rng = np.random.default_rng(5)
    needs = {k: sorted({int(j) for j in rng.integers(0, k, 3)}) if k else [] for k in range(200)}
    order = depth_first(needs, [150, 199])
    place = {key: n for n, key in enumerate(order)}
    assert len(order) == len(place)
    assert all(place[other] < place[key] for key in order for other in needs[key])


def test_an_error_of_a_task_ends_the_computation():
    def fail(block):
        raise ZeroDivisionError("row 7")

    lazy = da.ones((4, 2), chunks=(1, 2)).map_blocks(fail, meta=np.empty((0, 0)))
    for pool in (None, Threads(2)):
        with pytest.raises(ZeroDivisionError, match="row 7"):
            lazy.compute(scheduler=get, executor=pool)


@pytest.mark.parametrize("cores", [1, 2])
def test_what_is_called_before_a_task_can_break_off(cores):
    done, lock = [], threading.Lock()

    def block(x):
        with lock:
            done.append(1)
        return x

    def before():
        if len(done) >= 3:
            raise KeyboardInterrupt

    lazy = da.ones(40, chunks=1).map_blocks(block, meta=np.empty(0))
    with pytest.raises(KeyboardInterrupt), bounded(cores, before=before):
        lazy.compute(**how())
    assert 3 <= len(done) <= 3 + cores


def test_all_forms_of_results_are_returned():
    pair = dask.compute([da.arange(6, chunks=2), da.ones((2, 2), chunks=1).sum()], {"a": da.zeros(())}, scheduler=get)
    np.testing.assert_array_equal(pair[0][0], np.arange(6))
    assert pair[0][1] == 4
    assert pair[1]["a"] == 0
