"""Threads that keep the context: what is told in them is heard, and dask computes in them as the caller says.

Nothing is set for the whole process: a piece of a run says how it is computed in a context variable, which its own
threads inherit and other threads, and a cluster that is connected, do not see.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import cache
from typing import Any

from .schedule import get

MOST_WORKERS = 256
_SELDOM = 50_000, 20, 50  # thresholds of Python's search for cycles

_options: ContextVar[dict[str, Any] | None] = ContextVar("options", default=None)
_cores: ContextVar[int] = ContextVar("cores", default=1)


class Threads(ThreadPoolExecutor):
    """A pool whose tasks run in a copy of the context of whoever submits them."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a task with the context of the caller."""
        return super().submit(copy_context().run, fn, *args, **kwargs)


def cores_here() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def how() -> dict[str, Any]:
    """Return the keywords with which lazy data are computed here: ``ds.compute(**how())``.

    Examples
    --------
    >>> with computing(scheduler="synchronous"):
    ...     how()
    {'scheduler': 'synchronous'}
    >>> how()
    {}
    """
    return dict(_options.get() or {})


@contextmanager
def computing(**options: Any) -> Iterator[None]:
    """Let :func:`how` return these keywords of ``dask.compute``, in this thread and those that inherit its context."""
    token = _options.set(options)
    try:
        yield
    finally:
        _options.reset(token)


@contextmanager
def bounded(cores: int = 1, **options: Any) -> Iterator[None]:
    """Let a piece of work take so many cores, so that N workers side by side take N.

    Parameters
    ----------
    cores : int
        Threads in which dask computes what is computed by :func:`how`; 1: in the caller's thread.
    **options
        More keywords for :func:`how`.

    Notes
    -----
    BLAS takes one thread in the whole process as long as any piece is at work in it, as what it gets is small here and
    its threads would come on top of those of dask. Kernels run in the thread that calls them (none is ``parallel``).
    As long, dask changes blocks by tasks in the whole process: to choose another way it imports distributed, 0.2 s; and
    Python looks for cycles seldom: graphs are many objects, and each look goes through those of all modules.
    """
    with one_blas_thread(), _rechunked_by_tasks(), seldom_collected(), Threads(cores) as pool:
        token = _cores.set(cores)
        try:
            with computing(**options, scheduler=get, executor=pool if cores > 1 else None):
                yield
        finally:
            _cores.reset(token)


def each(function: Callable[[Any], Any], things: Sequence[Any]) -> list[Any]:
    """Return what a function makes of each of some things, side by side on the cores of :func:`bounded`.

    Outside of it one after the other. What the function computes by :func:`how` is computed in its thread.
    """
    cores = min(_cores.get(), len(things))
    if cores < 2:
        return [function(one) for one in things]
    options = {key: value for key, value in how().items() if key not in ("scheduler", "executor")}
    with bounded(1, **options), Threads(cores) as pool:
        return list(pool.map(function, things))


class _Held:
    """What is set for the whole process as long as anybody holds it: the first sets it, the last lifts it."""

    def __init__(self, put: Callable[[], Callable[[], Any]]) -> None:
        self.put, self.lock, self.holders = put, threading.Lock(), 0
        self.lift: Callable[[], Any] = put

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            self.holders += 1
            if self.holders == 1:
                self.lift = self.put()
        try:
            yield
        finally:
            with self.lock:
                self.holders -= 1
                if self.holders == 0:
                    self.lift()


def _limit_blas() -> Callable[[], None]:
    limits: list[Any] = []
    _aside(lambda: limits.append(_blas().limit(limits=1, user_api="blas")))
    return lambda: _aside(limits[0].restore_original_limits)


def _choose_tasks() -> Callable[[], None]:
    import dask

    chosen = dask.config.set({"array.rechunk.method": "tasks"})
    return lambda: chosen.__exit__(None, None, None)


def _collect_seldom() -> Callable[[], None]:
    before = gc.get_threshold()
    if 0 < before[0] < _SELDOM[0]:
        gc.set_threshold(*_SELDOM)
    return lambda: gc.set_threshold(*before)


#: Holds BLAS to one thread in the whole process.
one_blas_thread = _Held(_limit_blas)
#: Lets Python look for cycles seldom.
seldom_collected = _Held(_collect_seldom)
_rechunked_by_tasks = _Held(_choose_tasks)


@cache
def _blas() -> Any:
    """Return what holds the threads of BLAS; to look for its libraries takes 2 ms."""
    import scipy.linalg  # noqa: F401 (its BLAS is another than numpy's, and must be loaded to be limited)
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _aside(call: Callable[[], Any]) -> None:
    """Call in a thread of its own: of threads that set limits on OpenBLAS only the first can, as long as it lives."""
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
