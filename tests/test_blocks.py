"""Halos of rows and tasks done twice."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import maximum_filter1d

from mrsxr.blocks import as_delayed, in_chunks, read_again, with_row_halo


def test_other_chunks_leave_coordinates_in_memory():
    place = ("y", "x"), np.arange(12.0).reshape(4, 3)
    array = xr.DataArray(place[1], {"alpha": place}, ("y", "x"))
    rows = xr.DataArray(da.from_array(array.values, chunks=(1, -1)), {"alpha": place}, ("y", "x"))
    whole = in_chunks(rows, y=-1)
    assert whole.chunks == ((4,), (3,))
    assert whole["alpha"].variable._data is rows["alpha"].variable._data
    np.testing.assert_array_equal(whole, array)
    assert in_chunks(array, y=-1) is array


@pytest.mark.parametrize(
    ("rows", "size", "depth"), [(8, 26, 3), (8, 26, 1), (4, 26, 6), (26, 26, 2), (8, 24, 8), (5, 7, 3)]
)
def test_halo_equals_the_whole(rows, size, depth):
    values = np.random.default_rng(1).normal(size=(2, size, 5))
    array = xr.DataArray(values, dims=("group", "y", "x"))

    def wrapper(block):
        return maximum_filter1d(block, 2 * depth + 1, axis=-2, mode="constant", cval=-9.0)

    expected = wrapper(values)
    np.testing.assert_array_equal(with_row_halo(wrapper, array, depth=depth, fill=-9.0), expected)
    lazy = array.chunk(y=rows).assign_coords(header=xr.Variable("y", np.arange(size)).chunk(y=3))
    lazy = with_row_halo(wrapper, lazy, depth=depth, fill=-9.0)
    np.testing.assert_array_equal(lazy.compute(), expected)


def test_reading_again_shares_no_task():
    counted = []

    def read(block):
        counted.append(1)
        return block + 1.0

    array = da.map_blocks(read, da.zeros((4, 6), chunks=(2, 6)), dtype=float, meta=np.empty((0, 0)))
    ds = xr.Dataset({"sci": (("y", "x"), array)}, {"x": np.arange(6)}, {"level": "ramp"})
    part = ds.isel(x=[0, 5])
    for data in (part, part.sci):
        again = read_again(data, "test")
        assert again.attrs == data.attrs
        assert not set(again.__dask_graph__()) & set(data.__dask_graph__())
        counted.clear()
        first, second = dask.compute(data, again, scheduler="synchronous")
        assert first.identical(second)
        assert len(counted) == 4
    assert read_again(ds.compute(), "test").identical(ds.compute())
    assert read_again(part.sci, "a").data.name != read_again(part.sci, "b").data.name


@pytest.mark.parametrize("n_block", [12, 3])
def test_what_all_rows_need_is_done_once_where_blocks_are_done_again(n_block):
    """A level of the whole frame, measured on rows read apart, is one task; few blocks are done again whole."""
    counted = []

    def made(block, name, more=0.0):
        counted.append(name)
        return block + more

    def level(block):
        counted.append("level")
        return np.full((1, 1), block.mean())

    sizes = {"dtype": float, "meta": np.empty((0, 0))}
    raw = da.from_array(np.random.default_rng(3).normal(size=(2 * n_block, 5)), chunks=(2, 5))
    rows = da.map_blocks(made, raw, "read", **sizes)
    apart = read_again(xr.DataArray(rows, dims=("y", "x")), "apart").data
    whole = da.map_blocks(level, apart.rechunk(-1), chunks=((1,), (1,)), **sizes)
    ds = xr.Dataset({"sci": (("y", "x"), rows - whole), "dq": (("y", "x"), rows > 0), "number": 1})
    again = read_again(ds, "again", by_rows=True)
    assert again.sci.data.name != ds.sci.data.name
    counted.clear()
    first, second = dask.compute(ds, again, scheduler="synchronous", optimize_graph=False)
    assert first.identical(second)
    once = n_block >= 8
    assert counted.count("level") == (1 if once else 2)
    assert counted.count("read") == n_block * (3 if once else 4)


def test_read_again_of_a_cut_array_computes_and_fuses():
    """Indices of dask keep a task under a key of its own, which its optimisation must not mix with that of the copy."""
    whole = da.concatenate([da.ones((1, 4, 6), chunks=(1, 4, 3)), da.zeros((1, 4, 6), chunks=(1, 4, 3))])
    cut = whole[[0]]
    again = read_again(cut, "again")
    assert again.name != cut.name
    assert not set(again.__dask_graph__()) & set(cut.__dask_graph__())
    np.testing.assert_array_equal(
        (cut.astype("f4") - again.sum(axis=2, keepdims=True)).compute(), np.full((1, 4, 6), -5)
    )


def test_a_dataset_that_comes_later_is_the_same():
    """``chunk`` makes the coordinates of exposures lazy too, and so does what is opened with chunks."""
    ds = xr.Dataset(
        {"flux": (("dither", "y"), np.arange(6.0).reshape(2, 3), {"units": "MJy/sr"}), "rows": ("y", np.arange(3))},
        {"ra_ref": ("dither", [1.5, 2.5], {"units": "deg"}), "y": [4, 5, 6]}, {"band": "1A"},
    )  # fmt: skip
    for data in (ds, ds.chunk(dither=1), ds.chunk(y=2), ds.assign(flux=ds.flux.chunk())):
        later = as_delayed(data).compute()
        assert later.identical(ds)
        assert not later.chunks
