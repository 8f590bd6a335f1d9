"""Open netCDF files and zarr stores of this package: checked as a whole, and refused in one line where a part fails."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from mrsxr import tree
from mrsxr.attributes import decoded
from mrsxr.errors import InputFileError, MrsxrError

from ._attrs import check_attrs, is_header
from ._detector import preferred_chunks
from .exposures import chunked, with_sky_index
from .fitsarray import LazyArray, file_stamp
from .headers import MAPS
from .netcdf import LOCK

ORDER = "mrsxr_order"  # zarr gives groups back by name
WHOLE = "mrsxr_whole"  # the store holds all its chunks, also the empty ones


def load_whole(path: Path, engine: str, chunks: Any) -> xr.Dataset | xr.DataTree:
    """Return what a netCDF file or a zarr store of this package holds, lazily.

    Parameters
    ----------
    path : path
    engine : "netcdf4" or "zarr"
    chunks : mapping or "auto", optional

    Raises
    ------
    InputFileError
        Where it is missing, damaged, or was not written by this package.
    """
    if engine == "zarr" and importlib.util.find_spec("zarr") is None:
        raise MrsxrError(f"{path}: zarr is not installed; install it (pip install 'mrsxr[zarr]')")
    options: dict[str, Any] = {"engine": engine, "chunks": None, "cache": False}
    guard: AbstractContextManager[Any] = nullcontext()
    if engine == "zarr":
        if not os.path.isdir(path):
            raise InputFileError(f"{path}: {'is no zarr store' if os.path.lexists(path) else 'no such file'}")
        options |= {"consolidated": False, "zarr_format": 3}
    else:
        file_stamp(path)
        options["lock"] = guard = LOCK
    try:
        with guard:
            return _open(path, options, chunks)
    except MrsxrError:
        raise
    except Exception as error:  # of HDF5, netCDF, zarr, their filters, and of what damaged attributes make of a reader
        reason = str(error) or type(error).__name__
        raise InputFileError(f"{path}: no readable {engine} file of this package ({reason[:300]})") from error


def _open(path: Path, options: dict[str, Any], chunks: Any) -> xr.Dataset | xr.DataTree:
    opened = xr.open_datatree(path, **options)
    if opened.attrs.pop(WHOLE, 0):
        _require_chunks(path)
    if opened.data_vars and not opened.children:
        return _restored(path, opened.to_dataset(), chunks)
    attrs = dict(opened.attrs)
    parts = {p: _restored(path, ds, chunks) for p, ds in tree.leaves(opened)}
    order = [p for p in json.loads(attrs.pop(ORDER, "[]")) if p in parts]
    found = tree.build({p: parts[p] for p in (*order, *(set(parts) - set(order)))})
    found.attrs = decoded(attrs)
    return found


def _require_chunks(store: Path) -> None:
    """Raise InputFileError where an array of a zarr store lacks a chunk, which zarr would fill without a word."""
    for facts in sorted(store.rglob("zarr.json")):
        found = json.loads(facts.read_text())
        if found["node_type"] != "array":
            continue
        sizes = found["chunk_grid"]["configuration"]["chunk_shape"]
        wanted = math.prod(-(-n // size) for n, size in zip(found["shape"], sizes, strict=True))
        held = sum(
            1 for chunk in facts.parent.rglob("*") if chunk != facts and chunk.is_file() and chunk.stat().st_size
        )
        if held < wanted:
            raise InputFileError(
                f"{store}: {facts.parent.name} holds {held} of {wanted} chunks; the store is damaged: copy it again"
            )


def _restored(path: Path, ds: xr.Dataset, chunks: Any) -> xr.Dataset:
    ds.attrs = decoded(ds.attrs)
    check_attrs(str(path), ds.attrs)
    level = ds.attrs["level"]
    for name, found in ds.variables.items():
        packed = {"scale_factor", "add_offset"} & set(found.encoding)
        if packed or found.dtype.kind in "mM":
            raise InputFileError(f"{path}: '{name}' is packed or holds times, which this package does not write")
        found.attrs = decoded(found.attrs)
        if name in ds.coords and (name not in ds.dims or found.dtype.kind == "T"):
            read = found.load()
            ds = ds.assign_coords({name: read.astype(object).astype("U") if read.dtype.kind in "OT" else read})
        elif level not in ("spectrum", *MAPS):
            guarded = _guarded(path, str(name), found)
            guarded.encoding = {"preferred_chunks": preferred_chunks(level, ds.sizes, found.dims)}
            ds = ds if name in ds.dims else ds.assign({name: guarded})
    if not all(is_header(str(text)) for text in np.ravel(ds.coords.get("fits_header", []))):
        raise InputFileError(f"{path}: 'fits_header' holds no keywords in JSON; the file is damaged")
    if level in ("spectrum", *MAPS):
        ds = ds.load()
    ds = chunked(ds, chunks)
    if "velocity" in ds.coords and ds["velocity"].dims == ("wavelength",):
        ds = ds.set_xindex("velocity")  # of with_velocity: sel(velocity=...)
    return with_sky_index(ds) if "wcs" in ds.attrs else ds


class _Guarded(LazyArray):
    """A lazy array of a file whose errors on reading become InputFileError, naming the file."""

    __slots__ = ("array", "dtype", "name", "path", "shape")

    def __init__(self, array: Any, path: Path, name: str):
        self.array, self.path, self.name = array, str(path), name
        self.shape, self.dtype = array.shape, array.dtype

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        try:
            return np.asarray(indexing.LazilyIndexedArray(self.array, indexing.BasicIndexer(key)).get_duck_array())
        except Exception as error:  # of HDF5 and of the filters
            raise InputFileError(f"{self.path}: '{self.name}' cannot be read, the file is damaged ({error})") from error


def _guarded(path: Path, name: str, found: xr.Variable) -> xr.Variable:
    lazy = found._data
    while isinstance(lazy, indexing.CopyOnWriteArray):
        lazy = lazy.array
    if not isinstance(lazy, indexing.LazilyIndexedArray):
        return found
    return xr.Variable(found.dims, indexing.LazilyIndexedArray(_Guarded(lazy, path, name)), found.attrs)
