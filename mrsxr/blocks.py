"""Run plain-array functions on labelled, chunked data: the only bridge between kernels and dask.

A *wrapper* is a plain module-level function that takes and returns numpy arrays and calls a compiled kernel. Wrappers
travel by name to dask workers; compiled dispatchers do not and are never handed to dask.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import Task, TaskRef, convert_legacy_graph
from dask.base import tokenize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from mrsxr.schedule import depth_first
from mrsxr.threads import how

_WORTH_PACKING = 4096  # byte
_MOST_PACKED = {"f": 2**20, "u": 2**23, "i": 2**23, "b": 2**23}  # byte; noise packs badly, and slowly
_FEW_ROWS = 8  # blocks, across which halos reach
Lazy = TypeVar("Lazy", xr.DataArray, xr.Dataset, da.Array)


def map_ramps(
    wrapper: Callable[..., Any],
    *inputs: xr.DataArray,
    core: Sequence[Sequence[str]],
    out_core: Sequence[Sequence[str]],
    dtypes: Sequence[str],
    **kwargs: Any,
) -> tuple[xr.DataArray, ...]:
    """Apply a wrapper to blocks of rows that hold their core dims (integration, group, ...) whole.

    Parameters
    ----------
    wrapper : callable
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
        Handed to the wrapper.

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
        out = _map_lazy(wrapper, arranged, loop, out_dims, dtypes, kwargs)
    else:
        out = _call(*[a.values for a in arranged], wrapper=wrapper, options=kwargs)
    coords: dict[Any, xr.Variable] = {}
    for a in reversed(arranged):
        coords |= a.coords.variables
    known = set().union(*out_dims)
    whole = xr.Dataset(dict(enumerate(zip(out_dims, out, strict=True))), {
        name: one for name, one in coords.items() if set(one.dims) <= known
    })  # fmt: skip
    return tuple(whole[number].rename(None) for number in range(len(out)))  # a DataArray would copy its coordinates


def is_lazy(ds: xr.Dataset) -> bool:
    """Tell whether a variable of a Dataset is lazy; ``ds.chunks`` raises where a coordinate has other chunks."""
    return any(variable.chunks for variable in ds.variables.values())


def add_flags(flags: xr.DataArray, more: xr.DataArray) -> xr.DataArray:
    """Return flags with others OR-ed in, in one task a block; ``more`` may lack the leading dims of ``flags``."""
    core = [[str(d) for d in a.dims if d not in ("dither", "y", "x")] for a in (flags, more)]
    (out,) = map_ramps(_bitwise_or, flags, more, core=core, out_core=core[:1], dtypes=[str(flags.dtype)])
    return out.assign_attrs(flags.attrs)


def _bitwise_or(flags: np.ndarray, more: np.ndarray) -> np.ndarray:
    return np.bitwise_or(flags, more.astype(flags.dtype, copy=False))


def _map_lazy(
    wrapper: Callable[..., Any], arranged: list[xr.DataArray], loop: tuple[str, ...], out_dims: list[Any],
    dtypes: Sequence[str], kwargs: dict[str, Any],
) -> tuple[da.Array, ...]:  # fmt: skip
    sizes = {d: n for a in arranged for d, n in a.sizes.items()}
    known = [(str(d), n) for a in arranged if a.chunks for d, n in a.variable.chunksizes.items() if d in loop]
    chunks = {(d, sum(n)): n for d, n in sorted(known, key=lambda one: len(one[1]))}  # the finest of each
    pieces: list[Any] = []
    for a in arranged:
        data = a.data if a.chunks else packed(a.values, tuple(chunks.get((str(d), n), -1) for d, n in a.sizes.items()))
        inner = {i: -1 for i, d in enumerate(a.dims) if d not in loop and data.numblocks[i] > 1}
        pieces += [data.rechunk(inner) if inner else data, a.dims]
    if len(out_dims) == 1:  # one layer, which dask fuses with its neighbours
        one = da.blockwise(
            call_for_one, out_dims[0], *pieces, wrapper=wrapper, options=kwargs,
            dtype=dtypes[0], meta=np.empty((0,) * len(out_dims[0]), dtype=dtypes[0]),
        )  # fmt: skip
        return (one,)
    together = da.blockwise(
        _call, loop, *pieces, wrapper=wrapper, options=kwargs,
        dtype=object, meta=np.empty((0,) * len(loop), dtype=object),
    )  # fmt: skip
    return tuple(
        da.blockwise(
            pick, dims, together, loop, number=number, new_axes={d: sizes[d] for d in dims if d not in loop},
            dtype=dtype, meta=np.empty((0,) * len(dims), dtype=dtype),
        )
        for number, (dims, dtype) in enumerate(zip(out_dims, dtypes, strict=True))
    )  # fmt: skip


def packed(values: np.ndarray, chunks: Any = -1) -> da.Array:
    """Return an array in memory as a lazy one: maps and tables travel compressed, ramps and images in blocks."""
    if not _WORTH_PACKING <= values.nbytes <= _MOST_PACKED.get(values.dtype.kind, 0):
        return da.from_array(values, chunks=chunks)
    task = dask.delayed(unpack, pure=True, traverse=False)(*pack(values))
    out = da.from_delayed(task, values.shape, values.dtype)
    return out


def as_lazy_as(array: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """Return an array in memory as a :func:`packed` one where another is lazy."""
    return array.copy(deep=False, data=packed(array.values)) if other.chunks and not array.chunks else array


def in_chunks(array: xr.DataArray, **sizes: Any) -> xr.DataArray:
    """Return a lazy array in other chunks; xarray would make its coordinates lazy too, and hash all their values."""
    return array.copy(deep=False, data=array.variable.chunk(sizes).data) if array.chunks else array


def pack(values: np.ndarray) -> tuple[Any, ...]:
    """Return what :func:`unpack` takes: of integers and flags where the rows of a column change, and by how much."""
    raw = np.ascontiguousarray(values)
    if raw.dtype.kind not in "biu" or not raw.ndim:
        return zlib.compress(raw.tobytes(), 1), None, values.shape, values.dtype.str
    raw = raw.view(f"u{raw.dtype.itemsize}")
    steps = np.diff(raw, axis=0, prepend=raw.dtype.type(0)).reshape(-1)
    places = np.flatnonzero(steps)
    gaps = np.diff(places, prepend=0).astype(np.uint32 if raw.size < 2**32 else np.uint64)
    return zlib.compress(steps[places].tobytes(), 1), zlib.compress(gaps.tobytes(), 1), values.shape, values.dtype.str


def unpack(data: bytes, gaps: bytes | None, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return the array that :func:`pack` got."""
    found, size = np.dtype(dtype), math.prod(shape)
    if gaps is None:
        return np.frombuffer(zlib.decompress(data), found).reshape(shape).copy()
    steps = np.zeros(shape, f"u{found.itemsize}")
    places = np.frombuffer(zlib.decompress(gaps), np.uint32 if size < 2**32 else np.uint64)
    steps.reshape(-1)[np.cumsum(places, dtype=np.int64)] = np.frombuffer(zlib.decompress(data), steps.dtype)
    return np.cumsum(steps, axis=0, dtype=steps.dtype, out=steps).view(found)


def _call(*blocks: Any, wrapper: Callable[..., Any], options: dict[str, Any]) -> tuple[Any, ...]:
    """Run a wrapper on blocks; a contracted dim of one block comes as a list of one.

    All inputs are contiguous, in the byte order of the machine (numba misreads another) and read-only, so that a kernel
    is compiled once, not once for each mix of slices, copies and arrays from another process; a wrapper that gives an
    input back gives the array that came.
    """
    whole = []
    for block in blocks:
        while isinstance(block, list):
            block = block[0]
        whole.append(np.ascontiguousarray(block, block.dtype.newbyteorder("=")))
    views = [block.view() for block in whole]
    for view in views:
        view.flags.writeable = False
    found = wrapper(*views, **options)
    came = {id(view): block for view, block in zip(views, whole, strict=True)}
    return tuple(came.get(id(one), one) for one in (found if isinstance(found, tuple) else (found,)))


def call_for_one(*blocks: Any, wrapper: Callable[..., Any], options: dict[str, Any]) -> np.ndarray:
    """Run a wrapper that gives one array; ``concatenate=True`` of ``da.blockwise`` copies blocks that are whole."""
    return _call(*blocks, wrapper=wrapper, options=options)[0]


def pick(found: tuple[np.ndarray, ...], *, number: int) -> np.ndarray:
    """Return one of the arrays that a wrapper has given."""
    return found[number]


def with_row_halo(wrapper: Callable[..., np.ndarray], array: xr.DataArray, *, depth: int, fill: Any) -> xr.DataArray:
    """Apply a wrapper that looks at neighbouring rows; blocks get ``depth`` rows of their neighbours.

    Parameters
    ----------
    wrapper : callable
        ndarray (..., y, x) -> ndarray of the same shape and dtype.
    array : DataArray
        Dims end in (y, x).
    depth : int
        Rows to each side that the wrapper needs.
    fill : scalar
        Value of the rows beyond the detector.

    Returns
    -------
    DataArray like ``array``
    """
    if not array.chunks:
        return array.copy(
            deep=False, data=_with_edges(None, array.values, None, wrapper=wrapper, depth=depth, fill=fill)
        )
    if min(array.variable.chunksizes["y"]) < depth:  # a block gives its neighbours whole edges
        rows = max(depth, 8)
        n = max(1, array.sizes["y"] // rows)
        array = array.chunk(y=(*[rows] * (n - 1), array.sizes["y"] - rows * (n - 1)))
    data, axis = array.data, array.get_axis_num("y")
    name = f"halo-{tokenize(data.name, wrapper, depth, fill)}"
    tasks: dict[Any, Task] = {}
    for index in itertools.product(*(range(n) for n in data.numblocks)):
        blocks = [
            TaskRef((data.name, *index[:axis], k, *index[axis + 1 :])) if 0 <= k < data.numblocks[axis] else None
            for k in (index[axis] - 1, index[axis], index[axis] + 1)
        ]
        key = (name, *index)
        tasks[key] = Task(key, _with_edges, *blocks, wrapper=wrapper, depth=depth, fill=fill)
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=[data])
    return array.copy(deep=False, data=da.Array(graph, name, data.chunks, meta=data._meta))


def read_again(data: Lazy, label: str, *, by_rows: bool = False) -> Lazy:
    """Return the same data under other task names.

    Parameters
    ----------
    data : DataArray, Dataset or dask array
    label : str
        Tells the copies of the same data apart.
    by_rows : bool
        Of a DataArray or Dataset (..., y, ...): do only what blocks of rows need by themselves twice. What all of them
        need (a sum over the frame and all that is behind it, references in memory) stays the one task.

    Returns
    -------
    DataArray, Dataset or dask array
        What is made from it shares no task with what is made from ``data``: dask does twice what it would otherwise
        hold in memory from the first use to the last. Data in memory are returned as they are.
    """
    if isinstance(data, da.Array):
        return _renamed([data], label)[0]
    if isinstance(data, xr.DataArray):
        rows = [data.get_axis_num("y")] if by_rows else None
        return data.copy(deep=False, data=_renamed([data.data], label, rows)[0]) if data.chunks else data
    lazy = {name: v for name, v in data.data_vars.items() if v.chunks}
    axes = [v.get_axis_num("y") for v in lazy.values()] if by_rows else None
    copies = _renamed([v.data for v in lazy.values()], label, axes)
    return data.assign(
        {name: v.copy(deep=False, data=one) for (name, v), one in zip(lazy.items(), copies, strict=True)}
    )


def _renamed(arrays: list[da.Array], label: str, rows: list[int] | None = None) -> list[da.Array]:
    """Return arrays with other names of tasks; with the axis of the rows of each, but of those that all rows need."""
    wanted = [list(flatten(array.__dask_keys__())) for array in arrays]
    needed = HighLevelGraph.merge(*(a.dask for a in arrays)).cull([k for keys in wanted for k in keys])
    tasks = convert_legacy_graph(dict(needed))  # a few rows need a few tasks of many
    of_rows = {key: key[1 + row] for keys, row in zip(wanted, rows or (), strict=False) for key in keys}
    shared = _of_all_rows(tasks, of_rows)
    stems: dict[str, str] = {}

    def new(key: Any) -> Any:
        stem = key[0] if isinstance(key, tuple) else key
        if stem not in stems:
            stems[stem] = f"again-{tokenize(stem, label)}"
        return (stems[stem], *key[1:]) if isinstance(key, tuple) else stems[stem]

    names = {key: new(key) for key in tasks if key not in shared}
    graph = {names[key]: task.substitute(names, key=names[key]) for key, task in tasks.items() if key in names}
    graph |= {key: tasks[key] for key in shared}
    return [da.Array(graph, new((array.name,))[0], array.chunks, meta=array._meta) for array in arrays]


def _of_all_rows(tasks: Mapping[Any, Any], row_of: Mapping[Any, int]) -> set[Any]:
    """Return the keys on which the blocks of all rows rest, of a few rows none."""
    n_row = len(set(row_of.values()))
    if n_row < _FEW_ROWS:
        return set()
    serves = dict.fromkeys(tasks, 0) | {key: 1 << row for key, row in row_of.items()}
    for key in reversed(depth_first({key: task.dependencies for key, task in tasks.items()}, row_of)):
        for other in tasks[key].dependencies:
            serves[other] |= serves[key]
    return {key for key, rows in serves.items() if rows.bit_count() == n_row}


def _with_edges(
    above: np.ndarray | None, block: np.ndarray, below: np.ndarray | None, *, wrapper: Any, depth: int, fill: Any
) -> np.ndarray:
    beyond = np.full((*block.shape[:-2], depth, block.shape[-1]), fill, dtype=block.dtype)
    first = beyond if above is None else above[..., -depth:, :]
    last = beyond if below is None else below[..., :depth, :]
    return wrapper(np.concatenate([first, block, last], axis=-2))[..., depth:-depth, :]


def delayed_blocks(array: da.Array) -> np.ndarray:
    """Return the blocks of an array as Delayed, by their place.

    Their graph stays as it is: one that is optimized for each array by itself fuses what arrays have in common into
    each, and it is done (and files are read) once for every array and block.
    """
    return array.to_delayed(optimize_graph=False)


def as_delayed(ds: xr.Dataset) -> Any:
    """Return a Dataset as one Delayed, for functions that need all its values at once.

    ``dask.delayed`` of a Dataset loses tasks where the graphs are optimized together (dask 2026.1).
    """
    lazy = {str(name): found for name, found in ds.variables.items() if found.chunks is not None}
    blocks = {name: delayed_blocks(found.chunk(-1).data).item() for name, found in lazy.items()}
    facts = {name: (found.dims, found.attrs) for name, found in lazy.items()}
    return dask.delayed(_filled)(ds.drop_vars(list(lazy)), blocks, facts, [name for name in lazy if name in ds.coords])


def _filled(
    ds: xr.Dataset, blocks: Mapping[str, Any], facts: Mapping[str, tuple[Any, Any]], coords: list[str]
) -> xr.Dataset:
    filled = {name: (facts[name][0], block, facts[name][1]) for name, block in blocks.items()}
    return ds.assign(filled).set_coords(coords)


def computed(datasets: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Return Datasets with their values; tasks that they share run once.

    Notes
    -----
    The arrays are handed to dask, not the Datasets: of a Dataset of several fused layers dask 2026.8 loses a task.
    """
    lazy = [{name: v.data for name, v in ds.variables.items() if v.chunks} for ds in datasets]
    out = [ds.copy() for ds in datasets]
    for ds, found in zip(out, dask.compute(*lazy, **how()), strict=True):
        for name, values in found.items():
            ds.variables[name].data = values
    return out
