"""Run plain-array functions on labelled, chunked data: the only bridge between kernels and dask.

A *door* is a plain module-level function that takes and returns numpy arrays and calls a compiled kernel. Doors
travel by name to dask workers; compiled dispatchers do not and are never handed to dask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr


def map_ramps(
    door: Callable[..., Any],
    *inputs: Any,
    core: Sequence[Sequence[str]],
    out_core: Sequence[Sequence[str]],
    dtypes: Sequence[str],
    out_sizes: dict[str, int] | None = None,
    **kwargs: Any,
) -> tuple[xr.DataArray, ...]:
    """Apply a door to blocks of rows that hold their core dims (integration, group, ...) whole.

    Parameters
    ----------
    door : callable
        Called with numpy arrays whose core dims stand *before* y and x, as stored: ``(dither, integration, group,
        y, x)``; arrays without ``dither`` come without it. Returns one array, or a tuple, laid out alike.
    *inputs : DataArray or scalar
    core : sequence of sequences of str
        Core dims of each input.
    out_core : sequence of sequences of str
        Core dims of each output.
    dtypes : sequence of str
        dtype of each output.
    out_sizes : dict, optional
        Sizes of core dims that no input has.
    **kwargs
        Handed to the door.

    Returns
    -------
    tuple of DataArray, dims ``(dither, *core, y, x)``, lazy where an input is
    """
    arrays = xr.apply_ufunc(
        _Fronted(door, tuple(len(c) for c in core), tuple(len(c) for c in out_core)),
        *inputs,
        input_core_dims=[list(c) for c in core],
        output_core_dims=[list(c) for c in out_core],
        dask="parallelized",
        output_dtypes=list(dtypes),
        keep_attrs=False,
        kwargs=kwargs,
        dask_gufunc_kwargs={"output_sizes": out_sizes} if out_sizes else {},
    )
    if not isinstance(arrays, tuple):
        arrays = (arrays,)
    return tuple(
        array.transpose(*(["dither"] if "dither" in array.dims else []), *c, "y", "x")
        for array, c in zip(arrays, out_core, strict=True)
    )


class _Fronted:
    """Move core dims from the end, where apply_ufunc puts them, to before (y, x), and back: views, no copies."""

    def __init__(self, door: Callable[..., Any], n_in: tuple[int, ...], n_out: tuple[int, ...]):
        self.door, self.n_in, self.n_out = door, n_in, n_out
        self.__name__ = door.__name__

    def __call__(self, *arrays: Any, **kwargs: Any) -> Any:
        fronted = [_front(a, n) for a, n in zip(arrays, self.n_in, strict=True)]
        out = self.door(*fronted, **kwargs)
        if not isinstance(out, tuple):
            return _back(out, self.n_out[0])
        return tuple(_back(a, n) for a, n in zip(out, self.n_out, strict=True))


def _front(array: Any, n: int) -> Any:
    """(..., y, x, c1..cn) -> (..., c1..cn, y, x)."""
    if n == 0 or np.ndim(array) <= n:
        return array
    return np.moveaxis(array, (-n - 2, -n - 1), (-2, -1))


def _back(array: np.ndarray, n: int) -> np.ndarray:
    """(..., c1..cn, y, x) -> (..., y, x, c1..cn)."""
    if n == 0:
        return array
    return np.moveaxis(array, (-2, -1), (-n - 2, -n - 1))


def with_row_halo(door: Callable[..., np.ndarray], array: xr.DataArray, *, depth: int, fill: Any) -> xr.DataArray:
    """Apply a door that looks at neighbouring rows; blocks get ``depth`` rows of their neighbours.

    Parameters
    ----------
    door : callable
        ndarray (..., y, x) -> ndarray of the same shape and dtype.
    array : DataArray
        Dims end in (y, x).
    depth : int
        Rows to each side that the door needs.
    fill : scalar
        Value of the rows beyond the detector.

    Returns
    -------
    DataArray like ``array``
    """
    if not array.chunks:
        edge = _edge(array.values, depth, fill)
        return array.copy(data=_with_edges(array.values, edge, edge, door=door, depth=depth))
    if min(array.chunksizes["y"]) < depth:
        array = array.chunk(y=max(depth, 8))
    axis = array.get_axis_num("y")
    data = array.data
    outside = _outside(data, axis, depth, fill)
    ends = [data.map_blocks(_rows, part=part, axis=axis, depth=depth, chunks=_edge_chunks(data, axis, depth),
                            dtype=data.dtype, meta=data._meta) for part in ("last", "first")]  # fmt: skip
    n = data.numblocks[axis]
    above = da.concatenate([outside, ends[0].blocks[_at(axis, slice(0, n - 1))]], axis=axis) if n > 1 else outside
    below = da.concatenate([ends[1].blocks[_at(axis, slice(1, n))], outside], axis=axis) if n > 1 else outside
    index = tuple(range(data.ndim))
    result = da.blockwise(
        _with_edges, index, data, index, above, index, below, index,
        door=door, depth=depth, align_arrays=False, dtype=data.dtype, meta=data._meta,
    )  # fmt: skip
    return array.copy(data=result)


def _with_edges(block: np.ndarray, above: np.ndarray, below: np.ndarray, *, door: Any, depth: int) -> np.ndarray:
    padded = np.concatenate([above, block, below], axis=-2)
    return door(padded)[..., depth:-depth, :]


def _rows(block: np.ndarray, *, part: str, axis: int, depth: int) -> np.ndarray:
    rows = slice(-depth, None) if part == "last" else slice(0, depth)
    return block[_at(axis, rows)].copy()


def _edge(values: np.ndarray, depth: int, fill: Any) -> np.ndarray:
    return np.full((*values.shape[:-2], depth, values.shape[-1]), fill, dtype=values.dtype)


def _edge_chunks(data: da.Array, axis: int, depth: int) -> tuple[tuple[int, ...], ...]:
    return (*data.chunks[:axis], (depth,) * data.numblocks[axis], *data.chunks[axis + 1 :])


def _outside(data: da.Array, axis: int, depth: int, fill: Any) -> da.Array:
    chunks = (*data.chunks[:axis], (depth,), *data.chunks[axis + 1 :])
    return da.full(tuple(sum(c) for c in chunks), fill, dtype=data.dtype, chunks=chunks)


def _at(axis: int, rows: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, rows)
