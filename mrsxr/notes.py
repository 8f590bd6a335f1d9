"""What a user must know of a result: told as a warning, heard by whoever listens, and kept in the product.

A step calls :func:`tell`; the decorator of steps listens and puts the text into ``attrs["notes"]``, which every later
step, file and joined product carries on. A chain that decides something itself uses :func:`listen` and :func:`noted`.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .errors import MrsxrWarning, one_line

if TYPE_CHECKING:
    import xarray as xr

#: Who listens in this thread (and in what copies its context); the outermost first.
_listeners: ContextVar[tuple[list[str], ...]] = ContextVar("listeners", default=())
#: Whether a listener passes on what it hears, so that no warning is needed.
_passed_on: ContextVar[bool] = ContextVar("passed_on", default=False)


class Quiet(str):
    """A text that was told without a warning."""

    __slots__ = ()


def tell(text: str, *, stacklevel: int = 2, aloud: bool = True) -> None:
    """Say something that the user must know of the result, as a MrsxrWarning and to all who :func:`listen`.

    Parameters
    ----------
    text : str
        One line: what was found and what was done about it.
    stacklevel : int
        As of :func:`warnings.warn`, counted from the caller.
    aloud : bool
        Whether to warn; False for what is no surprise but must stand in the product. What was heard quietly and is told
        again is quiet.
    """
    text = one_line(text) if aloud and not isinstance(text, Quiet) else Quiet(one_line(text))
    for heard in _listeners.get():
        if text not in heard:
            heard.append(text)
    if not isinstance(text, Quiet) and not _passed_on.get():
        warnings.warn(text, MrsxrWarning, stacklevel=stacklevel + 1)


@contextmanager
def listen(*, pass_on: bool = False) -> Iterator[list[str]]:
    """Hear what is told in this thread while the block runs; each text once, in order.

    Parameters
    ----------
    pass_on : bool
        The caller says to the user what was heard: then nothing warns, here and in threads that inherit the context
        (:class:`mrsxr.threads.Threads`); the filters of the process stay as they are.

    Examples
    --------
    >>> import warnings
    >>> with warnings.catch_warnings(), listen() as heard:
    ...     warnings.simplefilter("ignore")
    ...     tell("the background is left out")
    >>> heard
    ['the background is left out']
    """
    heard: list[str] = []
    token, quiet = _listeners.set((*_listeners.get(), heard)), _passed_on.set(pass_on or _passed_on.get())
    try:
        yield heard
    finally:
        _passed_on.reset(quiet)
        _listeners.reset(token)


_FILTERS = threading.RLock()  # a block within a block of the same thread does not wait for itself


@contextmanager
def caught_warnings(category: type[Warning]) -> Iterator[list[str]]:
    """Keep the warnings of a library from the user while the block runs, and give their texts.

    Filters and display of warnings are those of the process: threads take turns, and what others warn of meanwhile is
    shown as ever. It stands in place of :class:`warnings.catch_warnings`, which threads at once leave changed.

    Examples
    --------
    >>> import warnings
    >>> with caught_warnings(DeprecationWarning) as texts:
    ...     warnings.warn("use another", DeprecationWarning)
    >>> texts
    ['use another']
    """
    texts: list[str] = []
    thread: int | None = threading.get_ident()
    with _FILTERS, warnings.catch_warnings():
        show = warnings.showwarning

        def keep(message: Any, kind: type[Warning], *where: Any) -> None:
            if threading.get_ident() == thread and issubclass(kind, category):
                texts.append(str(message))
            else:
                show(message, kind, *where)

        warnings.simplefilter("always", category)
        warnings.showwarning = keep  # type: ignore[assignment]
        try:
            yield texts
        finally:
            thread = None


def notes_of(*datasets: Any) -> list[str]:
    """Return the notes of Datasets (or of their attrs), each once, in order."""
    found: dict[str, None] = {}
    for ds in datasets:
        kept = getattr(ds, "attrs", ds).get("notes", ())
        found |= dict.fromkeys([kept] if isinstance(kept, str) else map(str, kept))
    return list(found)


def noted(ds: xr.Dataset, texts: Iterable[str]) -> xr.Dataset:
    """Return a Dataset that carries more notes, each once; the same Dataset where there is none to add."""
    texts = list(texts)
    return ds.assign_attrs(notes=list(dict.fromkeys([*notes_of(ds), *texts]))) if texts else ds
