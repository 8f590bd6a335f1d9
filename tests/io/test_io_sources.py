"""Blocks of lazy arrays are taken as xarray takes them, and columns of files as from what was read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import no_compute
from xarray.core.indexing import LazilyIndexedArray

import mrsxr as mx
from mrsxr.io.fitsarray import ConstantArray, FitsArray
from mrsxr.io.headers import read_layout
from mrsxr.io.sources import Source, columns_of, in_blocks, source_of

SHAPE = (1, 2, 5, 12, 9)
DIMS = ("dither", "integration", "group", "y", "x")
NUMBERS = np.random.default_rng(5).integers(0, 65535, SHAPE).astype(np.uint16)
PARTS = [
    {}, {"y": slice(2, 11)}, {"y": slice(11, 2, -3)}, {"x": [8, 0, 3]}, {"group": 3}, {"group": slice(None, None, 2)},
    {"y": slice(1, 9), "x": [0, 1, -1]}, {"integration": -1, "y": slice(5, 5)},
]  # fmt: skip


@pytest.fixture(scope="module")
def lazy(tmp_path_factory):
    """Numbers in images, plain and in tiles, and a constant."""
    path = tmp_path_factory.mktemp("sources") / "ramps.fits"
    tiled = fits.CompImageHDU(NUMBERS[0, 0].astype(np.int32), name="TILED", compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(NUMBERS[0], name="SCI"), tiled]).writeto(path)
    file = read_layout(path)
    kinds = {
        "plain": (DIMS, file.image("SCI", SHAPE, "f4"), NUMBERS),
        "tiled": (DIMS[2:], file.image("TILED"), NUMBERS[0, 0]),
        "constant": (DIMS, ConstantArray(SHAPE, "u2", 7), np.full(SHAPE, 7)),
    }
    return {name: (xr.Variable(dims, LazilyIndexedArray(one)), numbers) for name, (dims, one, numbers) in kinds.items()}


@pytest.mark.parametrize("part", PARTS, ids=str)
@pytest.mark.parametrize("name", ["plain", "constant", "tiled"])
def test_blocks_are_those_of_xarray(lazy, name, part):
    variable, numbers = lazy[name]
    part = {dim: key for dim, key in part.items() if dim in variable.dims}
    wanted = xr.Variable(variable.dims, numbers).isel(part)
    for chunks in ({"y": 5}, {"y": (3, 2, 4) if wanted.sizes["y"] == 9 else -1, "x": -1}):
        chunks = {dim: n for dim, n in chunks.items() if dim in wanted.dims}
        with no_compute():
            found = in_blocks(variable.isel(part), chunks)
        assert found.chunks == variable.isel(part).chunk(chunks).chunks
        assert found.dtype == variable.dtype
        np.testing.assert_array_equal(found.values, wanted.values)
        twice = found.isel(y=slice(1, 4))[..., ::-1]
        np.testing.assert_array_equal(twice.values, wanted.isel(y=slice(1, 4))[..., ::-1].values)


def test_what_is_no_lazy_array_is_chunked_as_ever():
    variable = xr.Variable(("y", "x"), np.arange(6.0).reshape(2, 3))
    assert in_blocks(variable, {"y": 1}).chunks == ((1, 1), (3,))
    assert source_of(in_blocks(variable, {"y": 1}).data) is None
    assert source_of(variable.values) is None


def test_a_source_travels_and_reads_another_file(lazy, tmp_path):
    variable, numbers = lazy["plain"]
    part = variable.isel(x=[1, 4], y=slice(2, 7))
    source = source_of(in_blocks(part, {"y": 2}).data)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(np.asarray(again[:, 1, :, 1:3]), numbers[:, 1, :, 3:5][..., [1, 4]])
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(NUMBERS[0] // 2, name="SCI")]).writeto(tmp_path / "other.fits")
    other = read_layout(tmp_path / "other.fits").image("SCI", SHAPE, "f4")
    assert isinstance(other, FitsArray)
    moved = source.instead({id(source.file): other})
    np.testing.assert_array_equal(np.asarray(moved[:]), (NUMBERS // 2)[..., 2:7, :][..., [1, 4]])
    assert source.instead({id(other): other}) is source
    assert isinstance(moved, Source)


def test_columns_of_files_are_those_that_were_read(simulated):
    ds = mx.open_exposures(simulated.uncal[0])
    columns = [*range(3), -2, -1]
    found = columns_of(ds, columns, 96)
    assert found.identical(ds.isel(x=columns))
    assert found.sci.chunksizes["y"] == (*[96] * 10, 64)
    assert not set(found.sci.data.dask) & set(ds.sci.data.dask)
    assert columns_of(ds.assign(sci=ds.sci + 1), columns, 96) is None
    assert columns_of(ds.load(), columns, 96) is None
