"""Run plain-array functions on labelled, chunked data: the only bridge between kernels and dask.

A *door* is a plain module-level function that takes and returns numpy arrays and calls a compiled kernel. Doors
travel by name to dask workers; compiled dispatchers do not and are never handed to dask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import convert_legacy_graph
from dask.base import tokenize

Lazy = TypeVar("Lazy", xr.DataArray, xr.Dataset)


def map_ramps(
    door: Callable[..., Any],
    *inputs: xr.DataArray,
    core: Sequence[Sequence[str]],
    out_core: Sequence[Sequence[str]],
    dtypes: Sequence[str],
    **kwargs: Any,
) -> tuple[xr.DataArray, ...]:
    """Apply a door to blocks of rows that hold their core dims (integration, group, ...) whole.

    Parameters
    ----------
    door : callable
        Called with numpy arrays ``(dither, *core, y, x)``; those without ``dither`` come without it. Returns one
        array, or a tuple, laid out alike.
    *inputs : DataArray
        Dims ``dither`` (if any), its core dims, ``y``, ``x``, in any order.
    core : sequence of sequences of str
        Core dims of each input.
    out_core : sequence of sequences of str
        Core dims of each output; each is a core dim of some input.
    dtypes : sequence of str
        dtype of each output.
    **kwargs
        Handed to the door.

    Returns
    -------
    tuple of DataArray, dims ``(dither, *core, y, x)``, with the coordinates of the inputs; lazy where an input is

    Notes
    -----
    ``xarray.apply_ufunc`` does the same but copies every block once for each core dim.
    """
    arranged = [
        a.transpose(*(["dither"] if "dither" in a.dims else []), *c, "y", "x")
        for a, c in zip(inputs, core, strict=True)
    ]
    loop = tuple(d for d in ("dither", "y", "x") if any(d in a.dims for a in arranged))
    out_dims = [(*loop[:-2], *c, "y", "x") for c in out_core]
    if any(a.chunks for a in arranged):
        out = _map_lazy(door, arranged, loop, out_dims, dtypes, kwargs)
    else:
        found = door(*[a.values for a in arranged], **kwargs)
        out = found if isinstance(found, tuple) else (found,)
    coords: dict[Any, Any] = {}
    for a in arranged:
        coords |= {name: c for name, c in a.coords.items() if name not in coords}
    return tuple(
        xr.DataArray(data, dims=dims, coords={n: c for n, c in coords.items() if set(c.dims) <= set(dims)})
        for data, dims in zip(out, out_dims, strict=True)
    )


def _map_lazy(door, arranged, loop, out_dims, dtypes, kwargs) -> tuple[da.Array, ...]:
    sizes = {d: n for a in arranged for d, n in a.sizes.items()}
    pieces: list[Any] = []
    for a in arranged:
        data = a.data if a.chunks else da.from_array(a.values, chunks=-1)
        inner = {i: -1 for i, d in enumerate(a.dims) if d not in loop and data.numblocks[i] > 1}
        pieces += [data.rechunk(inner) if inner else data, a.dims]
    if len(out_dims) == 1:  # one layer, which dask fuses with its neighbours
        one = da.blockwise(
            _call_for_one, out_dims[0], *pieces, door=door, options=kwargs,
            dtype=dtypes[0], meta=np.empty((0,) * len(out_dims[0]), dtype=dtypes[0]),
        )  # fmt: skip
        return (one,)
    together = da.blockwise(
        _call, loop, *pieces, door=door, options=kwargs,
        dtype=object, meta=np.empty((0,) * len(loop), dtype=object),
    )  # fmt: skip
    return tuple(
        da.blockwise(
            _pick, dims, together, loop, number=number, new_axes={d: sizes[d] for d in dims if d not in loop},
            dtype=dtype, meta=np.empty((0,) * len(dims), dtype=dtype),
        )
        for number, (dims, dtype) in enumerate(zip(out_dims, dtypes, strict=True))
    )  # fmt: skip


def _call(*blocks: Any, door: Callable[..., Any], options: dict[str, Any]) -> tuple[Any, ...]:
    """Run a door on blocks; a contracted dim of one block comes as a list of one."""
    whole = []
    for block in blocks:
        while isinstance(block, list):
            block = block[0]
        whole.append(block)
    found = door(*whole, **options)
    return found if isinstance(found, tuple) else (found,)


def _call_for_one(*blocks: Any, door: Callable[..., Any], options: dict[str, Any]) -> np.ndarray:
    return _call(*blocks, door=door, options=options)[0]


def _pick(found: tuple[np.ndarray, ...], *, number: int) -> np.ndarray:
    return found[number]


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
    if min(array.chunksizes["y"]) < depth:  # a block gives its neighbours whole edges
        rows = max(depth, 8)
        n = max(1, array.sizes["y"] // rows)
        array = array.chunk(y=(*[rows] * (n - 1), array.sizes["y"] - rows * (n - 1)))
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


def read_again(data: Lazy, label: str) -> Lazy:
    """Return the same DataArray or Dataset under other task names.

    Parameters
    ----------
    data : DataArray or Dataset
    label : str
        Tells the copies of the same data apart.

    Returns
    -------
    DataArray or Dataset
        What is made from it shares no task with what is made from ``data``: dask does twice what it would otherwise
        hold in memory from the first use to the last. Data in memory are returned as they are.
    """
    if isinstance(data, xr.Dataset):
        again = {name: v.copy(data=_renamed(v.data, label)) for name, v in data.data_vars.items() if v.chunks}
        return data.assign(again)
    return data.copy(data=_renamed(data.data, label)) if data.chunks else data


def _renamed(array: da.Array, label: str) -> da.Array:
    tasks = convert_legacy_graph(dict(array.__dask_graph__()))
    stems: dict[str, str] = {}

    def new(key: Any) -> Any:
        stem = key[0] if isinstance(key, tuple) else key
        if stem not in stems:
            stems[stem] = f"again-{tokenize(stem, label)}"
        return (stems[stem], *key[1:]) if isinstance(key, tuple) else stems[stem]

    names = {key: new(key) for key in tasks}
    graph = {names[key]: task.substitute(names, key=names[key]) for key, task in tasks.items()}
    return da.Array(graph, new((array.name,))[0], array.chunks, meta=array._meta)


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
