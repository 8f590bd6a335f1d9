"""Sources: what dask takes the blocks of a lazy array from, a file's or one of a constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from xarray.core.indexing import ExplicitIndexer, ImplicitToExplicitIndexingAdapter, LazilyIndexedArray, OuterIndexer

from .fitsarray import LazyArray

_ALL = slice(None)


class Source(ImplicitToExplicitIndexingAdapter):
    """A lazy array of xarray for dask; a block of a whole array is read at once.

    xarray puts an object of indices around an array for each of several questions; that took a quarter of the time of
    reading.
    """

    __slots__ = ()

    def __init__(self, lazy: LazilyIndexedArray, indexer: type[ExplicitIndexer] = OuterIndexer) -> None:
        super().__init__(lazy, indexer)

    def __reduce__(self) -> tuple[Any, ...]:
        return Source, (self.array,)

    def __getitem__(self, key: Any) -> Any:
        lazy = self.array
        if isinstance(lazy.array, LazyArray) and isinstance(key, tuple) and len(key) == lazy.ndim:
            if all(map(_is_plain, key)) and all(isinstance(one, slice) and one == _ALL for one in lazy.key.tuple):
                return lazy.array._read(key)
        return super().__getitem__(key)

    @property
    def file(self) -> Any:
        """What is read, whatever part of it."""
        return self.array.array

    def instead(self, files: Mapping[int, Any]) -> Source:
        """Return the same part of another file's array, told by the identity of this one's."""
        found = files.get(id(self.file))
        return self if found is None else Source(LazilyIndexedArray(found, self.array.key))


def _is_plain(key: Any) -> bool:
    return isinstance(key, slice) and key.step in (None, 1)


def in_blocks(variable: xr.Variable, chunks: Mapping[Any, Any], name: str | None = None) -> xr.Variable:
    """Return a variable as a dask array, as ``variable.chunk`` does, its blocks taken from a :class:`Source`.

    Parameters
    ----------
    variable : Variable
    chunks : mapping
        Size, or sizes, of blocks by dim; dims without one stay whole.
    name : str, optional
        Of the dask array; by default of what the array is.

    Returns
    -------
    Variable, lazy
    """
    lazy = variable._data
    if not isinstance(lazy, LazilyIndexedArray):
        return variable.chunk(chunks, name=name)
    sizes = tuple(chunks.get(dim, n) for dim, n in variable.sizes.items())
    array = da.from_array(Source(lazy), sizes, name=name, meta=np.ndarray)
    return xr.Variable(variable.dims, array, variable.attrs, variable.encoding, fastpath=True)


def source_of(array: Any) -> Source | None:
    """Return what an array is read from, None where it is more than the blocks of one source."""
    layers = array.dask.layers if isinstance(array, da.Array) else {}
    first = next(iter(next(iter(layers.values()), {}).values()), None) if len(layers) == 2 else None
    return first if isinstance(first, Source) else None


def columns_of(ds: xr.Dataset, columns: Sequence[int], rows: int) -> xr.Dataset | None:
    """Return some columns of a Dataset of files, read anew in blocks of so many rows; None where it is no such."""
    part = ds.isel(x=list(columns))
    for name, found in ds.data_vars.items():
        source = source_of(found.data)
        if source is None or found.dims[-2:] != ("y", "x"):
            return None
        taken = xr.Variable(found.dims, source.array, found.attrs).isel(x=list(columns))
        sizes = dict(zip(found.dims, found.data.chunks, strict=True)) | {"x": -1, "y": rows}
        part = part.assign({name: in_blocks(taken, sizes)})
    return part
