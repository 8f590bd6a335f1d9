"""Compute graphs of dask depth first: a block goes as far as it can before the next is read.

dask's own order of blocks that meet their neighbours (halos) jumps between rows far apart, so that a third of an
exposure lies in memory before the first block is done.
"""

from __future__ import annotations

import heapq
import queue
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from typing import Any


def depth_first(needs: Mapping[Any, Iterable[Any]], wanted: Iterable[Any]) -> list[Any]:
    """Return keys after those that they need, each as late as it can be.

    Examples
    --------
    >>> depth_first({"a": [], "b": [], "ab": ["a", "b"], "c": ["a"]}, ["ab", "c"])
    ['a', 'b', 'ab', 'c']
    """
    order: dict[Any, None] = {}
    for end in wanted:
        stack: list[tuple[Any, Iterator[Any]]] = [] if end in order else [(end, iter(needs[end]))]
        while stack:
            key, rest = stack[-1]
            for other in rest:
                if other not in order:
                    stack.append((other, iter(needs[other])))
                    break
            else:
                stack.pop()
                order[key] = None
    return list(order)


def get(graph: Any, keys: Any, *, executor: Executor | None = None, before: Callable[[], None] | None = None) -> Any:
    """Compute keys of a graph; dask takes this as ``scheduler``.

    Parameters
    ----------
    graph, keys
        As dask hands them to a scheduler; keys may be nested lists.
    executor : Executor, optional
        Its threads compute; by default the caller's.
    before : callable, optional
        Called before each task; what it raises breaks the computation off.
    """
    from dask._task_spec import convert_legacy_graph
    from dask.core import flatten

    tasks = convert_legacy_graph(graph if isinstance(graph, Mapping) else graph.__dask_graph__())
    wanted = list(flatten(keys)) if isinstance(keys, list) else [keys]
    order = depth_first(_needs(tasks, wanted), wanted)
    course = _Course(tasks, order, set(wanted), before)
    if executor is None:
        for key in order:
            course.end(key, course.begin(key)())
    else:
        course.run(executor)
    return _nested(keys, course.values)


def _nested(keys: Any, values: Mapping[Any, Any]) -> Any:
    return tuple(_nested(one, values) for one in keys) if isinstance(keys, list) else values[keys]


def _needs(tasks: Mapping[Any, Any], wanted: Iterable[Any]) -> dict[Any, list[Any]]:
    """Return what each task needs, that with the longest way behind it first, of equals the first block.

    What is made before waits in memory while the rest is made: after a long way little is left.
    """
    needs = {key: sorted(task.dependencies, key=key_order) for key, task in tasks.items()}
    height: dict[Any, int] = {}
    for key in depth_first(needs, wanted):
        needs[key].sort(key=height.__getitem__, reverse=True)
        height[key] = 1 + (height[needs[key][0]] if needs[key] else 0)
    return needs


def key_order(key: Any) -> tuple[str, list[tuple[bool, Any]]]:
    """Return what sorts keys by their array, then by their block, 2 before 10."""
    name, *block = key if isinstance(key, tuple) else (key,)
    return str(name), [(True, k) if isinstance(k, int) else (False, str(k)) for k in block]


def _taken(task: Any) -> dict[Any, Iterable[Any]]:
    """Return the parts that a task takes of the value of each other; (None,): the whole."""
    parts = getattr(getattr(task, "func", None), "parts", None)
    if parts is None:
        return dict.fromkeys(task.dependencies, (None,))
    return {other.key: parts(number) for number, other in enumerate(task.args)}


class _Course:
    """Tasks on their way; what no later one needs, of a value of several parts each by itself, is dropped at once."""

    def __init__(
        self, tasks: Mapping[Any, Any], order: list[Any], keep: set[Any], before: Callable[[], None] | None
    ) -> None:
        self.tasks, self.order, self.keep, self.before = tasks, order, keep, before
        self.values: dict[Any, Any] = {}
        self.taken = {key: _taken(tasks[key]) for key in order}
        self.uses: dict[Any, Counter[Any]] = {key: Counter() for key in order}
        for taken in self.taken.values():
            for other, parts in taken.items():
                self.uses[other].update(parts)

    def begin(self, key: Any) -> Callable[[], Any]:
        """Return what makes the value of a task."""
        if self.before is not None:
            self.before()
        task = self.tasks[key]
        values = {other: self.values[other] for other in task.dependencies}
        for other, parts in self.taken.pop(key).items():
            self._drop(other, parts)
        return lambda: task(values)

    def end(self, key: Any, value: Any) -> None:
        """Keep a value as long as it is of use."""
        if self.uses[key] or key in self.keep:
            self.values[key] = value

    def _drop(self, key: Any, parts: Iterable[Any]) -> None:
        uses = self.uses[key]
        uses.subtract(parts)
        gone = {part for part in parts if not uses[part]}
        for part in gone:
            del uses[part]
        if key in self.keep:
            return
        if not uses:
            del self.values[key]
        elif gone and None not in uses and isinstance(self.values[key], tuple):
            self.values[key] = tuple(None if k in gone else one for k, one in enumerate(self.values[key]))

    def run(self, executor: Executor) -> None:
        """Do the tasks in threads; of those that can begin the first in the order begins."""
        place = {key: k for k, key in enumerate(self.order)}
        left = {key: len(self.tasks[key].dependencies) for key in self.order}
        after: dict[Any, list[Any]] = {}
        for key in self.order:
            for other in self.tasks[key].dependencies:
                after.setdefault(other, []).append(key)
        ready = [place[key] for key in self.order if not left[key]]
        running: dict[Future[Any], Any] = {}
        arrived: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        most = getattr(executor, "_max_workers", 1)
        try:
            while ready or running:
                while ready and len(running) < most:
                    key = self.order[heapq.heappop(ready)]
                    future = executor.submit(self.begin(key))
                    running[future] = key
                    future.add_done_callback(arrived.put)
                future = arrived.get()
                key = running.pop(future)
                self.end(key, future.result())
                for other in after.get(key, ()):
                    left[other] -= 1
                    if not left[other]:
                        heapq.heappush(ready, place[other])
        finally:
            for future in running:
                future.cancel()
