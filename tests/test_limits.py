"""What a parameter may be stands at the signature of its function and is held against every call."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import xarray as xr

import mrsxr
import mrsxr.cal
import mrsxr.cube
import mrsxr.lines
import mrsxr.rate
import mrsxr.spectrum
from mrsxr import limits
from mrsxr.errors import MrsxrError, ParameterError
from mrsxr.limits import BANDS, Accepts, OneOf, Range, checked, expected, hints_of
from mrsxr.step import STEPS

#: Parameters of steps that may be any number, text or object; each with its reason.
FREE = {
    "scale": "a factor of a background, of any sign", "dn_threshold": "counts above a level of any sign",
    "line": "a label or a wavelength, found in the list of lines",
    "lines": "as line", "region": "read by the package regions", "psf": "a number or a function",
    "resolution": "a number, a table or a function", "history": "Datasets", "others": "Datasets",
    "table": "a path, read where it is used",
}  # fmt: skip


def of_several(hint: Any) -> list[Any]:
    origin = typing.get_origin(hint)
    if origin is Annotated:
        return [hint]
    if origin in (typing.Union, type(int | None)):
        return [one for argument in typing.get_args(hint) for one in of_several(argument)]
    if isinstance(origin, type) and issubclass(origin, Sequence | Mapping) and typing.get_args(hint):
        return [one for argument in typing.get_args(hint)[-1:] for one in of_several(argument)]
    return [hint]


def wrong_values(hint: Any) -> list[Any]:
    """Return values that an annotation must refuse."""
    found: list[Any] = [object()]
    for one in of_several(hint):
        if one is bool:
            found += [1, "yes", 0.0]
        if typing.get_origin(one) is Literal:
            found += ["no such choice", True, 9.5]
        for mark in typing.get_args(one)[1:] if typing.get_origin(one) is Annotated else ():
            if isinstance(mark, OneOf):
                found += ["no such choice", 7]  # 3 is a channel
            if isinstance(mark, Range):
                found += [math.nan, math.inf, -math.inf, "many", True, 10**400]
                found += [end - 1 for end in (mark.low, mark.above) if end is not None]
                found += [end + 1 for end in (mark.high, mark.below) if end is not None]
                found += [mark.above] if mark.above is not None else []
                found += [2.5] if typing.get_args(one)[0] is int else []
    return found


def parameters() -> list[tuple[str, str, Any]]:
    return [
        (name, key, hint)
        for name, step in STEPS.items() for key, hint in hints_of(step).items()
        if key != "return" and list(hints_of(step)).index(key) > 0
    ]  # fmt: skip


def test_every_parameter_of_every_step_says_what_it_may_be():
    plain = {str, int, float, Any}
    bare = [
        f"{step}: {key}" for step, key, hint in parameters()
        if key not in FREE and any(one in plain for one in of_several(hint))
    ]  # fmt: skip
    assert bare == []


def test_every_step_refuses_every_wrong_value_before_it_works():
    """Also before the data are looked at: the Dataset has nothing but its level."""
    n = 0
    for name, key, hint in parameters():
        step = STEPS[name]
        ds = xr.Dataset(attrs={"level": step.facts.needs[0]})
        for wrong in wrong_values(hint) if key not in FREE else ():
            given = {
                one.name: xr.Dataset() if expected(xr.Dataset(), hints_of(step)[one.name]) is None else "1A"
                for one in list(inspect.signature(step).parameters.values())[1:]
                if one.default is inspect.Parameter.empty and one.name not in ("line", "persistence_time")
            }
            given |= {one: value for one, value in (("line", "[Ne II]"), ("persistence_time", 1.0))
                      if one in inspect.signature(step).parameters}  # fmt: skip
            with pytest.raises(MrsxrError) as error:
                step(ds, **{**given, key: wrong})
            assert "\n" not in str(error.value)
            assert key in str(error.value), (name, key, wrong, str(error.value))
            n += 1
    assert n > 600


def test_defaults_of_every_step_are_allowed():
    for name, key, hint in parameters():
        default = inspect.signature(STEPS[name]).parameters[key].default
        if default is not inspect.Parameter.empty:
            assert expected(default, hint) is None, (name, key)


@pytest.mark.parametrize(
    ("value", "hint", "text"),
    [
        (3, float, None), (np.float32(0.5), limits.Share, None), (np.int64(3), limits.Count, None),
        (np.array(2.0), limits.Positive, None), (xr.DataArray(2.0), limits.Positive, None),
        (True, float, "a finite number"), (3.0, int, "a whole number"), (math.nan, float, "a finite number"),
        (-4, limits.Positive, "a number above 0"), (0, limits.Positive, "a number above 0"),
        (200.0, limits.Arcsec, "a number above 0 and of at most 100 [arcsec]"),
        (-0.1, limits.Share, "a number from 0 to 1"), (4, limits.Odd, "an odd number from 1 to 1023"),
        ("x", limits.Positive | None, "a number above 0, or None"), (None, limits.Positive | None, None),
        (True, Literal[1, 2, "auto"], "one of 1, 2, auto"), ("1", Literal[1, 2, "auto"], "one of 1, 2, auto"),
        (np.array([1, 2]), Literal[1, 2], "one of 1, 2"),
        ("5Z", limits.Band, f"one of {', '.join(BANDS)}"),
        ([1.0, 2.0], tuple[float, float], None), ([1.0], tuple[float, float], "2 values"),
        ((1.0, "x"), tuple[float, float], "2 values, each a finite number"),
        ("ab", tuple[str, ...], "several: each a text"), (["a", 2], tuple[str, ...], "several: each a text"),
        ([1.0, -1.0], Sequence[limits.Positive], "several: each a number above 0"),
        (5, Sequence[float], "several: each a finite number"),
        ({"1A": "x"}, float | Mapping[str, float], "a finite number or a mapping"),
        (5, Callable[..., Any], "a function"),
        ((5.0, 4.0), limits.Interval, "(minimum, maximum), the smaller one first"),
        ((10.0, 91.0), limits.Place, "a place on the sky, (RA, Dec) in degrees"),
        ("7", limits.KernelSize, "two odd numbers such as '7 7'"),
    ],
)  # fmt: skip
def test_values_against_annotations(value, hint, text):
    assert expected(value, hint) == text


def test_a_function_that_is_no_step():
    @checked
    def cut(ds: xr.Dataset, at: limits.Positive, *, how: Literal["hard", "soft"] = "hard", **more: int) -> float:
        return at

    assert cut(xr.Dataset(), 2, how="soft", further="any") == 2
    with pytest.raises(ParameterError, match=r"^cut: at is -1; expected a number above 0$"):
        cut(xr.Dataset(), -1)
    with pytest.raises(ParameterError, match=r"how is 'sofd'; expected one of hard, soft; did you mean 'soft'\?"):
        cut(xr.Dataset(), 1, how="sofd")
    with pytest.raises(ValueError, match="ds is 5; expected a Dataset"):
        cut(5, 1)


def test_an_unknown_argument_is_named_with_its_function():
    """Of every step and of functions that are none; a near miss gets its right name."""
    for function in (*STEPS.values(), mrsxr.run, mrsxr.lines.fit_line):
        parameters = inspect.signature(function).parameters
        given = dict.fromkeys(one.name for one in parameters.values() if one.kind is not one.VAR_KEYWORD)
        for wanted in (name for name in given if "_" in name):
            wrong = {name.replace("_", "") if name == wanted else name: None for name in given}
            with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) .* did you mean '{wanted}'\?$"):
                function(**wrong)
        with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) got an unexpected .* 'of_nobody'$"):
            function(**given, of_nobody=1)


def test_marks_with_a_test_of_their_own():
    even = Annotated[int, Accepts(lambda value: value % 2 == 0, "an even number")]
    assert expected(4, even) is None
    assert expected(3, even) == "an even number"


def test_long_and_broken_values_are_shown_on_one_line():
    with pytest.raises(ParameterError) as error:
        limits.check("f", "x", "a\nb" * 100, Literal["one", "two"])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 150
