"""Choices, types and ranges of parameters: annotations, and the one check that holds a value against them.

A parameter says at its signature what it may be, ``method: Literal["mean", "weighted"]``, ``threshold: Positive``.
``@step`` holds every call against it, after :mod:`mrsxr.arguments` read what people write; ``@checked`` does so for
functions that are no steps, and recipes hold their values against it when they are read. A wrong value is refused in
one line before any work begins.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import xarray as xr

from .errors import ParameterError
from .mrs import BANDS
from .threads import MOST_WORKERS

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class")
_NOTHING = object()  # a value that no annotation takes
_STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
NUMBERS: dict[Any, str] = {int: "a whole number", float: "a finite number"}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both allowed, or ``above`` and ``below``, which are not."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    unit: str = ""
    odd: bool = False

    def holds(self, value: float) -> bool:
        """Tell whether a number lies in the range."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (not self.odd or value % 2 == 1)
        )

    def describe(self, kind: str) -> str:
        """Return what is expected, "a number above 0 [arcsec]"."""
        kind = kind.replace("finite ", "").replace("a whole", "an odd" if self.odd else "a whole")
        ends = (("above", self.above), ("of at least", self.low), ("of at most", self.high), ("below", self.below))
        parts = [f"{word} {end:g}" for word, end in ends if end is not None]
        if self.low is not None and self.high is not None:
            parts = [f"from {self.low:g} to {self.high:g}"]
        text = f"{kind} {' and '.join(parts)}".rstrip()
        return f"{text} [{self.unit}]" if self.unit else text


@dataclass(frozen=True)
class OneOf:
    """One of these texts, where they are known only when the package runs."""

    choices: tuple[str, ...]


@dataclass(frozen=True)
class Accepts:
    """Whatever a function says yes to; ``text`` tells what that is. The type beside it is for readers."""

    test: Callable[[Any], bool]
    text: str


@dataclass(frozen=True)
class Reference:
    """A reference file of the kind that the parameter is named after; None will do of an optional one."""

    optional: bool = False


def _is_place(value: Any) -> bool:
    """Tell whether a value is a place on the sky, as :func:`mrsxr.arguments.as_sky` returns it."""
    try:
        ra, dec = (float(one) for one in value)
    except (TypeError, ValueError):
        return False
    return math.isfinite(ra) and math.isfinite(dec) and -360 <= ra <= 360 and -90 <= dec <= 90


def _is_region(value: Any) -> bool:
    """Tell whether a value can be a region of the sky: a text, a file, objects of the package regions, or several."""
    if isinstance(value, list | tuple):
        return bool(value) and all(_is_region(one) for one in value)
    known = any(hasattr(value, name) for name in ("__fspath__", "visual", "regions"))  # a path, a region, several
    return known or (isinstance(value, str) and bool(value.strip()))


def _is_interval(value: Any) -> bool:
    """Tell whether a value is a pair of finite numbers, the smaller one first."""
    try:
        low, high = (float(one) for one in value)
    except (TypeError, ValueError):
        return False
    return math.isfinite(low) and math.isfinite(high) and low < high


def _is_percentiles(value: Any) -> bool:
    """Tell whether a value is a pair of percentiles, the smaller one first."""
    return _is_interval(value) and 0 <= float(value[0]) and float(value[1]) <= 100


def _is_kernel_size(value: Any) -> bool:
    """Tell whether a text holds two numbers of pixels; even ones count one up, as in jwst."""
    found = re.fullmatch(r"\s*(\d{1,3})\s+(\d{1,3})\s*", value) if isinstance(value, str) else None
    return found is not None and all(int(number) for number in found.groups())


def _is_line(value: Any) -> bool:
    """Tell whether a value can be a spectral line: its name, its wavelength, or a Quantity that is one."""
    return hasattr(value, "to_value") or expected(value, str | float) is None


Ref = Annotated[xr.Dataset, Reference()]
OptionalRef = Annotated[xr.Dataset | None, Reference(optional=True)]
OptionalRefs = Annotated[xr.Dataset | Sequence[xr.Dataset], Reference(optional=True)]  # of several settings
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
HalfShare = Annotated[float, Range(0, 0.5)]
Percent = Annotated[float, Range(0, 100)]
Arcsec = Annotated[float, Range(above=0, high=100, unit="arcsec")]
SpaxelSize = Annotated[float, Range(0.01, 10, unit="arcsec")]
WavelengthStep = Annotated[float, Range(1e-5, 1, unit="um")]
Wavelength = Annotated[float, Range(above=0, high=100, unit="um")]
Angle = Annotated[float, Range(-360, 360, unit="deg")]
Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Workers = Annotated[int, Range(1, MOST_WORKERS)]
Odd = Annotated[int, Range(1, 1023, odd=True)]
Redshift = Annotated[float, Range(above=-1, high=100)]
Band = Annotated[str, OneOf(BANDS)]
SourceType = Literal["POINT", "EXTENDED"]
Place = Annotated[tuple[float, float], Accepts(_is_place, "a place on the sky, (RA, Dec) in degrees")]
Region = Annotated[Any, Accepts(_is_region, "a region of the sky in DS9 format")]
Interval = Annotated[tuple[float, float], Accepts(_is_interval, "(minimum, maximum), the smaller one first")]
LineName = Annotated[str | float, Accepts(_is_line, "the name of a line, or its wavelength in um")]
Percentiles = Annotated[
    tuple[float, float], Accepts(_is_percentiles, "(minimum, maximum) in percent, from 0 to 100, the smaller one first")
]
KernelSize = Annotated[str, Accepts(_is_kernel_size, "two odd numbers such as '7 7'")]


def expected(value: Any, hint: Any) -> str | None:
    """Return what was expected of a value by an annotation, None where it fits.

    Parameters
    ----------
    value : object
    hint : annotation
        Types, unions, ``Literal``, ``Annotated`` with the marks of this module, tuples, sequences, mappings. What is
        not known here is taken for any value.

    Returns
    -------
    str or None

    Examples
    --------
    >>> expected(-4, Positive)
    'a number above 0'
    >>> expected("mean", Literal["mean", "median"]) is None
    True
    """
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return _of_marked(value, *typing.get_args(hint))
    if origin is Literal:
        return _of_choices(value, typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return _of_union(value, typing.get_args(hint))
    if hint in (None, type(None)):
        return None if value is None else "None"
    if hint in (bool, int, float, str):
        return _of_plain(value, hint)
    if isinstance(origin, type):
        return _of_container(value, origin, typing.get_args(hint))
    return _of_class(value, hint)


def allowed(hint: Any) -> str:
    """Return what an annotation allows, in words.

    Examples
    --------
    >>> allowed(Positive | None), allowed(Literal["mean", "median"])
    ('a number above 0, or None', 'one of mean, median')
    """
    return expected(_NOTHING, hint) or "any value"


def _of_marked(value: Any, base: Any, *marks: Any) -> str | None:
    for mark in marks:
        if isinstance(mark, Accepts):
            return None if mark.test(value) else mark.text
        if isinstance(mark, OneOf):
            return _of_choices(value, mark.choices)
        if isinstance(mark, Range):
            fits = _of_plain(value, base) is None and mark.holds(_plain(value))
            return None if fits else mark.describe(NUMBERS[base])
    return expected(value, base)


def _of_choices(value: Any, choices: tuple[Any, ...]) -> str | None:
    value = _plain(value)
    if any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in choices if _alike(value, one)):
        return None
    return f"one of {', '.join(map(str, choices))}" if len(choices) > 1 else str(choices[0])


def _alike(value: Any, choice: Any) -> bool:
    """Tell whether both are texts or both are not, so that ``==`` gives one answer."""
    return isinstance(value, bool | int | float | str) and isinstance(value, str) == isinstance(choice, str)


def _of_union(value: Any, hints: tuple[Any, ...]) -> str | None:
    texts = []
    for hint in hints:
        text = expected(value, hint)
        if text is None:
            return None
        texts.append(text)
    named = dict.fromkeys(text for text in texts if text != "None")
    return " or ".join(named) + (", or None" if "None" in texts else "")


def _of_plain(value: Any, hint: type) -> str | None:
    value = _plain(value)
    if hint is bool:
        return None if isinstance(value, bool) else "true or false"
    if hint is str:
        return None if isinstance(value, str) else "a text"
    allowed = int if hint is int else int | float
    fits = isinstance(value, allowed) and not isinstance(value, bool) and _finite(value)
    return None if fits else NUMBERS[hint]


def _of_container(value: Any, origin: type, hints: tuple[Any, ...]) -> str | None:
    if issubclass(origin, tuple):
        return _of_tuple(value, hints)
    if issubclass(origin, Mapping):
        fits = isinstance(value, Mapping) and all(expected(one, hints[-1]) is None for one in value.values())
        return None if fits else "a mapping"
    if issubclass(origin, typing.cast(type, Callable)):
        return None if callable(value) else "a function"
    if issubclass(origin, Iterable):
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable) or _scalar(value):
            return f"several: each {_name(hints[0])}"
        bad = [text for one in value if (text := expected(one, hints[0]))] if isinstance(value, list | tuple) else []
        return f"several: each {bad[0]}" if bad else None
    return _of_class(value, origin)


def _of_tuple(value: Any, hints: tuple[Any, ...]) -> str | None:
    many = len(hints) == 2 and hints[1] is Ellipsis
    text = f"several: each {_name(hints[0])}" if many else f"{len(hints)} values"
    no_items = not isinstance(value, Iterable) or not hasattr(value, "__len__") or _scalar(value)
    if no_items or isinstance(value, str | bytes | Mapping):
        return text
    items = list(value)
    if not many and len(items) != len(hints):
        return text
    bad = [found for one, hint in zip(items, hints[:1] * len(items) if many else hints, strict=True)
           if (found := expected(one, hint))]  # fmt: skip
    return f"{'several: each' if many else f'{len(hints)} values, each'} {bad[0]}" if bad else None


def _of_class(value: Any, hint: Any) -> str | None:
    try:
        fits = not isinstance(hint, type) or isinstance(value, hint)
    except TypeError:  # a protocol that cannot be asked
        fits = True
    return None if fits else f"a {hint.__name__}"


def _plain(value: Any) -> Any:
    """Return the Python number behind a number of numpy or an array without axes."""
    if getattr(value, "ndim", None) == 0 and not getattr(value, "chunks", None) and hasattr(value, "item"):
        return value.item()
    return value


def _scalar(value: Any) -> bool:
    """Tell whether a value of an array's kind has no axes: a Quantity that is one number cannot be gone through."""
    return getattr(value, "ndim", None) == 0


def _finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated:
        return allowed(hint)
    return NUMBERS.get(hint) or ("a text" if hint is str else str(getattr(hint, "__name__", "of the kind asked for")))


def check(where: str, name: str, value: Any, hint: Any) -> None:
    """Raise ParameterError, in one line, where a value does not fit its annotation.

    Parameters
    ----------
    where : str
        What takes the parameter, for the message.
    name : str
    value : object
    hint : annotation
    """
    text = expected(value, hint)
    if text is not None:
        raise ParameterError(f"{where}: {name} is {_shown(value)}; expected {text}{near_miss(value, choices_of(hint))}")


def check_call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check the arguments of a call by the annotations of a function.

    Parameters
    ----------
    function : callable
    arguments : mapping of name to value
        As ``inspect.BoundArguments.arguments`` holds them.
    """
    hints = hints_of(function)
    for name, value in arguments.items():
        if name in hints:
            check(function.__name__, name, value, hints[name])


def bind(
    function: Callable[..., Any], signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> inspect.BoundArguments:
    """Return the arguments of a call by their names; what does not fit is refused as Python does, with a near miss.

    Raises
    ------
    TypeError
        Where an argument is missing, is too much or has an unknown name.
    """
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        unknown = next((name for name in kwargs if name not in signature.parameters), None)
        raise TypeError(f"{function.__name__}() {error}{near_miss(unknown, signature.parameters)}") from None


def checked(function: Function) -> Function:
    """Let a function that is no step check its arguments by its annotations before it works."""
    return checked_but()(function)


def checked_but(*names: str) -> Callable[[Function], Function]:
    """Return a :func:`checked` that leaves to the function what it reads by itself: paths, trees, choices of bands."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = {*names, *(name for name, one in signature.parameters.items() if one.kind in _STARS)}

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            given = bind(function, signature, args, kwargs).arguments.items()
            check_call(function, {name: one for name, one in given if name not in own})
            return function(*args, **kwargs)

        wrapped.checks = frozenset(signature.parameters) - own  # type: ignore[attr-defined]
        return typing.cast(Function, wrapped)

    return decorate


def checked_fields(cls: type[Class]) -> type[Class]:
    """Let a dataclass check its fields by their annotations when it is made; goes below ``@dataclass``."""

    def __post_init__(self: Any) -> None:
        made: Any = type(self)
        for name, hint in hints_of(made).items():
            check(made.__name__, name, getattr(self, name), hint)

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return cls


@functools.cache
def hints_of(function: Any) -> dict[str, Any]:
    """Return the annotations of a function or class, resolved, with their marks; not that of what it returns."""
    bare = inspect.unwrap(function)
    if not inspect.isfunction(bare):
        return typing.get_type_hints(bare, include_extras=True)
    asked = types.SimpleNamespace(__annotations__={k: v for k, v in bare.__annotations__.items() if k != "return"})
    return typing.get_type_hints(asked, bare.__globals__, include_extras=True)


def references_of(function: Any) -> dict[str, Reference]:
    """Return the parameters of a function that take reference files, by their kind."""
    marks = {name: getattr(hint, "__metadata__", ()) for name, hint in hints_of(function).items()}
    return {name: mark for name, found in marks.items() for mark in found if isinstance(mark, Reference)}


def choices_of(hint: Any) -> tuple[str, ...]:
    """Return the texts that an annotation allows, of all members of a union; empty where any may be."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return tuple(one for one in arguments if isinstance(one, str))
    if origin is Annotated:
        marked = [one for mark in arguments[1:] if isinstance(mark, OneOf) for one in mark.choices]
        return tuple(marked) or choices_of(arguments[0])
    if origin in (typing.Union, types.UnionType) or (isinstance(origin, type) and issubclass(origin, tuple)):
        return tuple(dict.fromkeys(one for argument in arguments for one in choices_of(argument)))
    return ()


def near_miss(value: Any, choices: Iterable[str]) -> str:
    """Return "; did you mean 'two-point'?" where a text is nearly one of the choices, else an empty text."""
    if not isinstance(value, str):
        return ""
    bare = {re.sub(r"[\W_]+", "", one).lower(): one for one in choices}
    found = difflib.get_close_matches(re.sub(r"[\W_]+", "", value).lower(), bare, 1, 0.7)
    return f"; did you mean '{bare[found[0]]}'?" if found else ""


def _shown(value: Any) -> str:
    """Return a value as messages show it: short, on one line."""
    if hasattr(value, "data_vars") or hasattr(value, "dims"):
        return f"a {type(value).__name__}"
    text = " ".join(repr(_plain(value)).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
