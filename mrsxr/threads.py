"""Threads that keep the context: what is told in them is heard, and dask computes in them as the caller says.

Nothing is set for the whole process: a piece of a run says how it is computed in a context variable, which its own
threads inherit and other threads, and a cluster that is connected, do not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any

_options: ContextVar[dict[str, Any] | None] = ContextVar("options", default=None)


class Threads(ThreadPoolExecutor):
    """A pool whose tasks run in a copy of the context of whoever submits them; dask takes it as ``pool``."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Submit a task with the context of the caller."""
        return super().submit(copy_context().run, fn, *args, **kwargs)


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
def side_by_side(workers: int, n_items: int) -> Iterator[Threads]:
    """Give a pool for so many items: several at once, each in one thread, or one with all threads for its blocks."""
    at_once = max(1, min(workers, n_items))
    with Threads(at_once) as pool, Threads(max(1, workers)) as inner:
        options = {"scheduler": "synchronous"} if at_once > 1 else {"scheduler": "threads", "pool": inner}
        with computing(**options):
            yield pool
