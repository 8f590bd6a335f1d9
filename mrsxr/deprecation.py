"""Names that go away: said for two minor versions, then gone (CONTRIBUTING, "What users rest on")."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import MrsxrDeprecationWarning, ParameterError

F = TypeVar("F", bound=Callable[..., Any])


def deprecated(since: str, gone: str, instead: str) -> Callable[[F], F]:
    """Mark a public function that goes away.

    Parameters
    ----------
    since, gone : str
        The version that says so first, and the one that lacks the function.
    instead : str
        What to do, "use lines.fit_line".

    Examples
    --------
    >>> @deprecated("0.2", "0.4", "use sorted")
    ... def in_order(values):
    ...     return sorted(values)
    """

    def decorate(function: F) -> F:
        text = f"{function.__name__} is deprecated since mrsxr {since} and gone in {gone}; {instead}"

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            warnings.warn(text, MrsxrDeprecationWarning, stacklevel=2)
            return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]

    return decorate


def renamed(since: str, gone: str, **names: str) -> Callable[[F], F]:
    """Take parameters of a function under their old names too; the outermost decorator.

    Parameters
    ----------
    since, gone : str
        As of :func:`deprecated`.
    **names : str
        ``old="new"``.

    Examples
    --------
    >>> @renamed("0.2", "0.4", z="redshift")
    ... def velocity(line, *, redshift=0.0):
    ...     return redshift
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            for old, new in names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise ParameterError(f"{function.__name__}: {old} is the old name of {new}; give one of them")
                    text = f"{function.__name__}: {old} is called {new} since mrsxr {since}; {old} is gone in {gone}"
                    warnings.warn(text, MrsxrDeprecationWarning, stacklevel=2)
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]

    return decorate
