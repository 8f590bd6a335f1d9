"""Graphs folded into few tasks: the same numbers, no task twice, little to send."""

from __future__ import annotations

import pickle

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.base import collections_to_expr
from distributed.protocol import serialize, to_serialize
from distributed.utils import nbytes
from helpers import no_compute

from mrsxr.blocks import map_ramps, pack, packed, unpack, with_row_halo
from mrsxr.folding import fold


def arrays_of(ds):
    return [v.data for v in ds.variables.values() if v.chunks]


def tasks_of(*datasets):
    return set().union(*(a.__dask_graph__() for ds in datasets for a in arrays_of(ds)))


def bytes_of(ds):
    header, frames = serialize(to_serialize(collections_to_expr(arrays_of(ds))))
    return sum(map(nbytes, [header, *frames]))


def sum_and_product(first, second):
    return first + second, first * second


def highest(block):
    return np.maximum(np.roll(block, 1, axis=-2), np.roll(block, -1, axis=-2))


def steps(ds):
    """Some steps: two results of one wrapper, a halo, a number of the frame, a rechunk, lists and a constant."""
    total, product = map_ramps(sum_and_product, ds.a, ds.b, core=[[]] * 2, out_core=[[]] * 2, dtypes=["float64"] * 2)
    total = with_row_halo(highest, total, depth=1, fill=-1.0)
    level = product.mean(["y", "x"])
    out = xr.where(total > level, total - level, product * 2.0)
    whole = out.chunk(y=-1)
    return xr.Dataset({"out": out, "whole": whole.cumsum("y"), "level": level, "a": ds.a + 0})


@pytest.fixture
def ds():
    rng = np.random.default_rng(3)
    values = {name: (("dither", "y", "x"), rng.normal(size=(2, 24, 5))) for name in "ab"}
    return xr.Dataset(values, {"y": np.arange(24)}, {"level": "rate"})


def test_a_folded_graph_gives_the_same_in_few_tasks(ds):
    made = steps(ds.chunk(dither=1, y=4))
    with no_compute():
        (folded,) = fold(made)
    assert len(tasks_of(folded)) < 0.6 * len(tasks_of(made))
    expected = made.compute()
    xr.testing.assert_identical(folded.compute(scheduler="synchronous"), expected)
    assert folded.out.chunks == made.out.chunks
    part = folded.out.isel(dither=1, y=slice(6, 9))
    np.testing.assert_array_equal(part.compute(), expected.out.isel(dither=1, y=slice(6, 9)))
    again = pickle.loads(pickle.dumps(folded))
    xr.testing.assert_identical(again.compute(scheduler="threads"), expected)


def counted(ds):
    """Return data that tell which rows were read."""
    done = []

    def read(block, block_info=None):
        done.append(block_info[0]["array-location"][0:2])
        return block * 1.0

    raw = da.map_blocks(read, da.from_array(ds.a.values, chunks=(1, 4, 5)), dtype=float)
    data = {name: (("dither", "y", "x"), raw * factor) for name, factor in (("a", 1.0), ("b", 2.0))}
    made = xr.Dataset(data)
    done.clear()
    return made, done


def test_every_task_is_done_once(ds):
    made, done = counted(ds)
    (folded,) = fold(steps(made))
    folded.compute(scheduler="synchronous")
    assert len(done) == 12
    done.clear()
    folded.a.isel(dither=[0], y=slice(4, 8)).compute(scheduler="synchronous")
    assert done == [[(0, 1), (4, 8)]], "what is asked for, and no other block"


def test_what_was_folded_before_is_not_done_again(ds):
    made, done = counted(ds)
    (first,) = fold(steps(made))
    (second,) = fold(xr.Dataset({"more": first.out * 3.0 + first.level, "out": first.out}))
    one, other = dask.compute(first, second, scheduler="synchronous")
    assert len(done) == 12
    np.testing.assert_array_equal(other.more, one.out * 3.0 + one.level)
    np.testing.assert_array_equal(other.out, one.out)
    done.clear()
    parts = fold(first[["out"]], steps(made)[["whole"]])
    np.testing.assert_array_equal(dask.compute(*parts)[1].whole, one.whole)
    assert fold(one)[0] is one


def test_blocks_share_their_instructions(ds):
    zeros = xr.Dataset(
        {n: (("dither", "y", "x"), da.zeros((2, 192, 5), chunks=(1, 4, 5)) + k) for k, n in enumerate("ab")}
    )
    few, many = (fold(steps(zeros.isel(y=slice(0, n))))[0] for n in (24, 192))
    apart = bytes_of(many.copy()), sum(len(pickle.dumps(task)) for task in many.out.data.dask.values())
    assert apart[0] < 0.3 * apart[1]
    assert apart[0] < 6 * bytes_of(few)


@pytest.mark.parametrize("dtype", ["bool", "int16", "uint8", "uint32", "int64", "float32", "float64"])
def test_arrays_are_packed_without_loss(dtype):
    values = (np.random.default_rng(2).normal(0, 90, (70, 3, 41))).astype(dtype)
    for array in (values, values[::2, :, ::-1], values[0, 0], values[:0]):
        np.testing.assert_array_equal(unpack(*pack(array)), array)
        assert unpack(*pack(array)).dtype == dtype
    np.testing.assert_array_equal(packed(values).compute(), values)


def times(ramps, image):
    return (ramps * image).astype("float32")


def test_slice_maps_travel_packed():
    labels = np.repeat(np.arange(100, 140, dtype="i2"), 25)[None].repeat(900, axis=0)
    frames = xr.DataArray(da.ones((1, 900, 1000), chunks=(1, 100, -1)), dims=("dither", "y", "x"))
    (out, _) = map_ramps(
        sum_and_product, frames, xr.DataArray(labels, dims=("y", "x")), core=[[]] * 2, out_core=[[]] * 2,
        dtypes=["float64"] * 2,
    )  # fmt: skip
    assert bytes_of(out.to_dataset(name="out")) < 0.02 * labels.nbytes
    np.testing.assert_array_equal(out.compute(), 1.0 + labels[None])


@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_ramps_in_memory_are_neither_packed_nor_copied_whole(dtype, monkeypatch):
    """Noise packs badly: with lazy references a loaded exposure cost ten times its arithmetic."""

    def refused(*args):
        raise AssertionError("ramps are packed")

    ramps = np.random.default_rng(3).integers(0, 9000, (1, 2, 30, 96, 1000)).astype(dtype)
    sci = xr.DataArray(ramps, dims=("dither", "integration", "group", "y", "x"))
    gain = xr.DataArray(np.linspace(4.0, 6.0, 96 * 1000, dtype="float32").reshape(96, 1000), dims=("y", "x"))
    shares = {"core": [["integration", "group"], []], "out_core": [["integration", "group"]], "dtypes": ["float32"]}
    monkeypatch.setattr("mrsxr.blocks.zlib.compress", refused)
    (out,) = map_ramps(times, sci, gain.chunk(y=32), **shares)
    assert out.chunksizes["y"] == (32, 32, 32)
    header = xr.Variable(("dither", "y"), np.zeros((1, 96))).chunk(y=48)  # coordinates have chunks of their own
    (out,) = map_ramps(times, sci.assign_coords(header=header), gain.chunk(y=32), **shares)
    (there,) = map_ramps(times, sci, gain, **shares)
    np.testing.assert_array_equal(out.compute(), there)
    (wide,) = map_ramps(times, sci, gain.isel(y=slice(1)).chunk(), **shares)  # an image of one row, for all rows
    np.testing.assert_array_equal(wide.compute(), ramps * gain.values[0])
