"""What may stand in a recipe: steps by their name in jwst, and the parts of a level that look at more than one Dataset.

A step of one exposure stands in a recipe as it is. Where something is done to several exposures, cubes or spectra, or
where a choice comes before the step, a function of the chains is the *part*: it has parameters of its own and takes
those of the functions that it calls.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import cal, cube, rate, spectrum  # noqa: F401 - they fill STEPS
from mrsxr.arguments import READERS, reader_of
from mrsxr.arguments.calls import F
from mrsxr.errors import MrsxrError, ParameterError
from mrsxr.limits import check, expected, hints_of, near_miss, references_of
from mrsxr.step import STEPS, Facts

LEVELS = ("rate", "cal", "cube", "spectrum")
#: Level of the data that parts without a step take.
_OF_PARTS = {"cal": "rate", "cube": "cal", "spectrum": "spectrum", "cube.match_bands": "cube"}


@dataclass(frozen=True)
class Part:
    """What stands behind an entry of a recipe: the function, what it says of itself, and the parameters it takes.

    ``takes`` maps names to (annotation, default, reader); a default of ``inspect.Parameter.empty`` must be given.
    """

    name: str
    function: Callable[..., Any]
    facts: Facts
    takes: Mapping[str, tuple[Any, Any, Callable[[Any, str], Any] | None]] = field(repr=False)
    needed: bool = False
    contradiction: Callable[[Mapping[str, Any]], str | None] | None = None

    def defaults(self) -> dict[str, Any]:
        """Return the parameters that need not be given, with their values."""
        return {name: value for name, (_, value, _) in self.takes.items() if value is not inspect.Parameter.empty}

    def read(self, where: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values of parameters as their readers read them, checked.

        Raises
        ------
        ParameterError
            Where a parameter is not known, or a value does not fit it.
        """
        out = {}
        for name, value in values.items():
            if name not in self.takes:
                known = [*self.takes, "skip"]
                raise ParameterError(
                    f"{where}: unknown parameter '{name}'; expected some of {', '.join(known)}{near_miss(name, known)}"
                )
            hint, _, reader = self.takes[name]
            if reader is not None and value is not None:
                try:
                    value = reader(value, name)
                except MrsxrError as error:
                    raise ParameterError(f"{where}: {error}") from None
            value = tuple(value) if isinstance(value, list) else value
            check(where, name, value, hint)
            out[name] = value
        return out


PARTS: dict[tuple[str, str], Part] = {}


def part(
    level: str,
    name: str,
    *takers: Callable[..., Any],
    needed: bool = False,
    hide: Sequence[str] = (),
    contradiction: Callable[[Mapping[str, Any]], str | None] | None = None,
    **readers: Callable[[Any, str], Any],
) -> Callable[[F], F]:
    """Mark a function of a chain as a part of a level of recipes.

    Parameters
    ----------
    level : {"rate", "cal", "cube", "spectrum"}
    name : str
        By which the recipe knows it, that of jwst where it has the step.
    *takers : callable
        Functions whose parameters the part takes besides its own keyword parameters; own ones win. What the first
        step among them says of itself holds of the part; without one, it takes the reference files of all.
    needed : bool
        Whether the next level rests on it.
    hide : sequence of str
        Parameters of the takers that the chain gives and a recipe does not.
    contradiction : callable, optional
        Returns what is wrong with values, by name, that are right one by one; None where nothing is.
    **readers : callable
        Of own parameters, besides :data:`mrsxr.arguments.READERS`.

    Returns
    -------
    callable
        The function as it was.
    """

    def decorate(function: F) -> F:
        takes: dict[str, Any] = {}
        for one in (*takers, function):
            takes |= _parameters(one)
        takes |= {key: (*takes[key][:2], reader) for key, reader in readers.items()}
        takes = {key: value for key, value in takes.items() if key not in hide}
        found = [one.facts for one in takers if hasattr(one, "facts")]
        facts = found[0] if found else _facts_of(level, name, takers)
        PARTS[level, name] = Part(name, function, facts, takes, needed, contradiction)
        return function

    return decorate


def _facts_of(level: str, name: str, takers: Sequence[Callable[..., Any]]) -> Facts:
    """Return what a part without a step says of itself; references that its functions may do without are not missed."""
    references = {kind: mark for one in takers for kind, mark in references_of(one).items()}
    without = {kind: None for kind, mark in references.items() if mark.optional}
    needs = (_OF_PARTS.get(f"{level}.{name}", _OF_PARTS[level]),)
    return Facts(f"{level}.{name}", needs, references=references, without=without)


def own_options(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the parameters of a part that one of the functions behind it takes."""
    names = _parameters(function)
    return {name: value for name, value in values.items() if name in names}


@cache
def _parameters(function: Callable[..., Any]) -> dict[str, tuple[Any, Any, Any]]:
    """Return what a recipe can give to a function: keyword parameters that are no Datasets, by name."""
    hints, readers = hints_of(function), {**READERS, **getattr(inspect.unwrap(function), "readers", {})}
    return {
        name: (hints[name], one.default, reader_of(name, one.annotation, readers))
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is inspect.Parameter.KEYWORD_ONLY and not _takes_data(hints[name])
    }


def _takes_data(hint: Any) -> bool:
    """Tell whether a parameter is for Datasets: references, other exposures, what was found before."""
    data = xr.Dataset()
    return expected(data, hint) is None or (expected([data], hint) is None and expected(["a"], hint) is not None)


def find_part(level: str, name: str, path: str | None = None) -> Part:
    """Return what stands behind a name of a level.

    Parameters
    ----------
    level : str
    name : str
        As in jwst.
    path : str, optional
        The function, where several go by that name or it is not of this package: the name of a step of ours, or
        "module:function".

    Raises
    ------
    ParameterError
        Where there is none, or the function is no step.
    """
    if path is not None:
        return _of_function(name, _imported(path))
    if (level, name) in PARTS:
        return PARTS[level, name]
    found = [one for one in STEPS.values() if one.facts.jwst == name]  # type: ignore[attr-defined]
    at_home = [one for one in found if one.__module__.startswith(f"mrsxr.{level}.")]
    if not found:
        raise ParameterError(f"there is no step '{name}'; give its function, step = \"package.module:function\"")
    return _of_function(name, (at_home or found)[0])


def _of_function(name: str, function: Callable[..., Any]) -> Part:
    facts: Facts = function.facts  # type: ignore[attr-defined]
    return Part(name, function, facts, _parameters(function), facts.needed)


def _imported(path: str) -> Callable[..., Any]:
    """Return a step by its name in this package, or by "module:function"."""
    if not isinstance(path, str):
        raise ParameterError(f"step is {path!r}; expected the name of a step, or module:function")
    module, colon, name = path.partition(":")
    if not colon:
        found = [one for one in STEPS.values() if one.__name__ == path]
        if not found:
            hint = near_miss(path, [one.__name__ for one in STEPS.values()])
            raise ParameterError(f"step is '{path}', and there is none of that name; for one of your own give "
                                 f"module:function{hint}")  # fmt: skip
        return found[0]
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever stands in the module
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ParameterError(f"step is '{path}', which cannot be imported ({text}); expected module:function of a "
                             "module that Python finds (PYTHONPATH)") from error  # fmt: skip
    if not hasattr(function, "facts"):
        raise ParameterError(f"step is '{path}', which is no step; mark the function with @mrsxr.step(needs=...)")
    return function


def source_of(path: str | None) -> str:
    """Return a digest of the module of a step that is not of this package, "" of ours."""
    if path is None or ":" not in path:
        return ""
    try:
        text = inspect.getsource(importlib.import_module(path.partition(":")[0]))
    except (OSError, TypeError):  # no file behind it
        return path
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def names_of(level: str, name: str, function: Callable[..., Any]) -> Iterator[str]:
    """Yield the names by which users may mean an entry: that of jwst, of its function and of its module."""
    yield name
    steps = [one for one in STEPS.values() if one.facts.jwst == name]  # type: ignore[attr-defined]
    for one in (function, *(s for s in steps if s.__module__.startswith(f"mrsxr.{level}.") or level == "cube")):
        yield one.__name__
        yield one.__module__.rpartition(".")[2]


def plain(value: Any) -> Any:
    """Return a value as TOML and JSON hold it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
