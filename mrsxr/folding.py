"""Fold the graph of a Dataset: what one block alone needs is done in one task, and blocks share their instructions."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import getitem
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask._task_spec import Alias, DataNode, GraphNode, Task, TaskRef, _execute_subgraph, convert_legacy_graph
from dask.array.chunk import getitem as chunk_getitem
from dask.base import tokenize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.utils import ensure_dict

from .blocks import pick
from .schedule import depth_first, key_order

#: Arrays in a graph up to this size [byte] go with every task that needs them.
_SMALL = 1000
#: Functions that take a part of something.
_VIEWS = (getitem, chunk_getitem, pick)
#: Keys of folded tasks are (this and a token, number).
_NAME = "together-"
Tasks = dict[Any, GraphNode]


def fold(*datasets: xr.Dataset) -> tuple[xr.Dataset, ...]:
    """Return the same data in few tasks: the many small ones between two meetings of blocks become one.

    Parameters
    ----------
    *datasets : Dataset
        Lazy, such as the slopes of exposures after all steps; what several have in common stays so.

    Returns
    -------
    tuple of Dataset
        The same numbers by the same functions, block by block. Data in memory are returned as they are. What one task
        makes is computed together, also where only a part of it is asked for. What was folded before stays as it is.

    Notes
    -----
    Blocks meet where a task takes several of one array: a halo, a sum over the frame. Tasks are put together that are
    of use to the same results and the same meetings and hang together. What a task is of use to is of use to all that
    comes before it, so that no folded task waits for itself, and blocks do not wait for each other longer than before.
    Equal instructions of different blocks are one object, which is pickled once.
    """
    arrays = [v.data for ds in datasets for v in ds.variables.values() if v.chunks is not None]
    if not arrays:
        return datasets
    wanted = list(dict.fromkeys(flatten([a.__dask_keys__() for a in arrays])))
    graph = HighLevelGraph.merge(*(a.dask for a in arrays)).cull(wanted)
    tasks = dict(_single(convert_legacy_graph(ensure_dict(graph))))
    name = f"{_NAME}{tokenize(sorted(a.name for a in arrays))}"
    layer, place = _folded(name, tasks, wanted)

    def again(array: da.Array) -> da.Array:
        own = f"folded-{name}-{array.name}"
        taken: Tasks = {(own, *key[1:]): _take((own, *key[1:]), *place[key]) for key in flatten(array.__dask_keys__())}
        both = HighLevelGraph({name: layer, own: taken}, {name: set(), own: {name}})  # type: ignore[dict-item]
        return da.Array(both, own, array.chunks, meta=array._meta)

    lazy = [{name: v for name, v in ds.variables.items() if v.chunks is not None} for ds in datasets]
    return tuple(
        ds.assign({name: (v.dims, again(v.data), v.attrs) for name, v in found.items()})
        for ds, found in zip(datasets, lazy, strict=True)
    )


def reading(datasets: Sequence[xr.Dataset], instead: Callable[[Any], Any], token: str) -> tuple[xr.Dataset, ...]:
    """Return Datasets of one :func:`fold` that read from other sources.

    Parameters
    ----------
    datasets : sequence of Dataset
        What was folded; data in memory stay as they are.
    instead : callable
        Returns what stands in the place of a constant of the graph, as of what is read from.
    token : str
        Tells the graphs of different sources apart.

    Returns
    -------
    tuple of Dataset
    """
    fresh: dict[str, tuple[str, Tasks, dict[Any, Any]]] = {}

    def renamed(name: str, layer: Mapping[Any, Any]) -> tuple[str, Tasks, dict[Any, Any]]:
        new = f"{_NAME}{tokenize(name, token)}"
        keys = {key: (new, *key[1:]) for key in layer}
        tasks: Tasks = {
            new_key: _with_sources(layer[key].substitute(keys, key=new_key), instead) for key, new_key in keys.items()
        }
        return new, tasks, keys

    def again(array: da.Array) -> da.Array:
        layers = array.dask.layers
        name = next(name for name in layers if name.startswith(_NAME))
        if name not in fresh:
            fresh[name] = renamed(name, layers[name])
        new, tasks, keys = fresh[name]
        own = f"folded-{new}-{array.name}"
        taken: Any = {(own, *key[1:]): one.substitute(keys, key=(own, *key[1:]))
                      for key, one in layers[array.name].items()}  # fmt: skip
        both = HighLevelGraph({new: tasks, own: taken}, {new: set(), own: {new}})  # type: ignore[dict-item]
        return da.Array(both, own, array.chunks, meta=array._meta)

    return tuple(
        ds.assign({n: (v.dims, again(v.data), v.attrs) for n, v in ds.data_vars.items() if v.chunks is not None})
        for ds in datasets
    )


def _with_sources(task: Any, instead: Callable[[Any], Any]) -> Task:
    """Return a folded task that reads from other sources."""
    old = task.func
    nodes = tuple(DataNode(one.key, instead(one.value)) if isinstance(one, DataNode) else one for one in old.tasks)
    return Task(task.key, _Together(nodes, old.asked, old.inputs), *task.args)


def _array_of(key: Any) -> Any:
    return key[0] if isinstance(key, tuple) else key


def _take(key: Any, source: Any, number: int | None) -> GraphNode:
    return Alias(key, source) if number is None else Task(key, getitem, TaskRef(source), number)


def _single(tasks: Tasks, count: Iterator[int] | None = None) -> Iterator[tuple[Any, GraphNode]]:
    """Yield tasks with those that dask has fused told apart again."""
    count = itertools.count() if count is None else count
    for key, task in tasks.items():
        if getattr(task, "func", None) is not _execute_subgraph:
            yield key, task
            continue
        inner, last, names, *values = task.args  # type: ignore[attr-defined]
        new = {own: (_array_of(own), "inside", next(count)) for own in (*inner, *names)}
        new |= {name: value.key for name, value in zip(names, values, strict=True) if isinstance(value, TaskRef)}
        new[last] = key
        new |= {own: own for own in inner if _was_folded(own)}
        yield from _single({new[own]: _renamed(one, new, new[own]) for own, one in inner.items()}, count)
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, TaskRef):  # a list of several, or a constant
                node = value if isinstance(value, GraphNode) else DataNode(None, value)
                yield new[name], _renamed(node, {}, new[name])


def _was_folded(key: Any) -> bool:
    return isinstance(key, tuple) and len(key) == 2 and str(key[0]).startswith(_NAME)


def _renamed(task: GraphNode, names: dict[Any, Any], key: Any) -> GraphNode:
    new = task.substitute(names, key=key)
    return new if new.key == key else Task(key, _itself, new)  # lists keep no key


def _itself(value: Any) -> Any:
    return value


def _folded(name: str, tasks: Tasks, wanted: list[Any]) -> tuple[Tasks, dict[Any, tuple[Any, int | None]]]:
    """Return the folded tasks, and where the result of a task is found: folded task, number in its result."""
    layer = {key: task for key, task in tasks.items() if _was_folded(key)}
    last = set(wanted)
    light = {key: task for key, task in tasks.items() if _is_light(task) and key not in last}
    needs = {key: _needs(task) for key, task in tasks.items()}
    groups = _groups({key: task for key, task in tasks.items() if key not in light and key not in layer}, needs, wanted)
    place = {
        key: ((name, number), asked.index(key) if len(asked) > 1 else None)
        for number, (_, asked) in enumerate(groups) for key in asked
    }  # fmt: skip
    known: dict[bytes, Any] = {}
    twins: dict[Any, GraphNode] = {}

    def instruction(key: Any, own: dict[Any, int]) -> GraphNode:
        twin = (own[key], _likeness(tasks[key], own))
        if twin not in twins:
            twins[twin] = _shared(_renamed(tasks[key], own, own[key]), known)
        return twins[twin]

    for number, (keys, asked) in enumerate(groups):
        needed = dict.fromkeys(other for key in keys for other in needs[key])
        keys = [*(key for key in needed if key in light), *keys]
        outer = [other for other in needed if other not in dict.fromkeys(keys)]
        own = {key: n for n, key in enumerate([*keys, *outer], 1)}  # dask takes 0 for no key
        where = [place.get(other, (other, None)) for other in outer]
        sources = list(dict.fromkeys(source for source, _ in where))
        together = _Together(
            tuple(instruction(key, own) for key in keys),
            _shared(tuple(own[key] for key in asked), known),
            _shared(tuple((own[k], sources.index(s), n) for k, (s, n) in zip(outer, where, strict=True)), known),
        )
        layer[name, number] = Task((name, number), together, *(TaskRef(source) for source in sources))
    return layer, place


def _likeness(value: Any, own: dict[Any, int]) -> Any:
    """Return what is equal for instructions that do the same with the same objects, their inputs by number."""
    if isinstance(value, Alias):
        return Alias, own[value.target]
    if isinstance(value, TaskRef):
        return TaskRef, own[value.key]
    if isinstance(value, DataNode):
        return DataNode, id(value.value)
    if isinstance(value, Task):
        options = value.kwargs or {}
        parts = [_likeness(one, own) for one in (*value.args, *options.values())]
        return type(value), id(value.func), *options, *parts
    return id(value)


def _is_light(task: GraphNode) -> bool:
    value = task.value if isinstance(task, DataNode) else None
    return isinstance(task, DataNode) and not (isinstance(value, np.ndarray) and value.nbytes > _SMALL)


def _shared(value: Any, known: dict[bytes, Any]) -> Any:
    """Return the first value that pickles to the same bytes."""
    try:
        return known.setdefault(pickle.dumps(value, pickle.HIGHEST_PROTOCOL), value)
    except Exception:  # functions of a notebook, which cloudpickle takes
        return value


def _needs(task: GraphNode) -> list[Any]:
    """Return the keys that a task needs, in an order that is that of its twins for other blocks."""
    needed = list(task.dependencies)
    return needed if len(needed) < 2 else sorted(needed, key=key_order)


def _groups(tasks: Tasks, needs: dict[Any, list[Any]], wanted: list[Any]) -> list[tuple[list[Any], list[Any]]]:
    """Return what may be done together: keys in an order in which it can be done, and those that are asked for."""
    needs = {key: [other for other in needs[key] if other in tasks] for key in tasks}
    order = depth_first(needs, wanted)
    used_by: dict[Any, list[Any]] = {key: [] for key in order}
    ends = dict.fromkeys(wanted)
    for key in order:
        of_array: dict[Any, list[Any]] = {}
        for other in needs[key]:
            used_by[other].append(key)
            of_array.setdefault(_array_of(other), []).append(other)
        ends |= {one: None for met in of_array.values() if len(met) > 1 for one in met}
    bit = {key: 1 << number for number, key in enumerate(ends)}
    use: dict[Any, int] = {}
    reads: dict[Any, bool] = {}  # from a file alone, for one task
    for key in order:
        reads[key] = len(used_by[key]) == 1 and all(reads[other] for other in needs[key])
    for key in reversed(order):
        use[key] = 0 if reads[key] else bit.get(key, 0)
        for other in used_by[key]:
            use[key] |= use[other]
    for key in order:
        if len(needs[key]) == 1 and getattr(tasks[key], "func", None) in _VIEWS:
            use[key] = use[needs[key][0]]  # costs nothing: it is done where it is taken from
    group: dict[Any, list[Any]] = {}
    for key in order:
        group[key] = [key]
        for other in needs[key]:
            if use[other] == use[key] and group[other] is not group[key]:
                both = group[other] + group[key]
                group.update(dict.fromkeys(both, both))
    number = {key: n for n, key in enumerate(order)}
    found = {id(keys): sorted(keys, key=number.__getitem__) for keys in group.values()}
    last = set(wanted)

    def is_asked(key: Any) -> bool:
        return key in last or any(group[other] is not group[key] for other in used_by[key])

    return [(keys, [key for key in keys if is_asked(key)]) for keys in found.values()]


class _Together:
    """Tasks one after the other; what no later one needs is dropped at once.

    Their keys are numbers; ``inputs`` are (number, place among the values, place in that value or None).
    """

    __slots__ = ("asked", "inputs", "tasks")

    def __init__(self, tasks: tuple[GraphNode, ...], asked: tuple[int, ...], inputs: tuple[tuple[Any, ...], ...]):
        self.tasks, self.asked, self.inputs = tasks, asked, inputs

    def parts(self, number: int) -> set[Any]:
        """Return which parts are taken of a value, for :mod:`mrsxr.schedule`; {None}: the whole."""
        return {part for _, n, part in self.inputs if n == number}

    def __call__(self, *values: Any) -> Any:
        known = {key: values[n] if part is None else values[n][part] for key, n, part in self.inputs}
        last = {key: number for number, task in enumerate(self.tasks) for key in task.dependencies}
        last |= dict.fromkeys(self.asked, -1)
        for number, task in enumerate(self.tasks):
            known[task.key] = task(known)
            for key in task.dependencies:
                if last[key] == number:
                    del known[key]
        found = tuple(known[key] for key in self.asked)
        return found[0] if len(found) == 1 else found
