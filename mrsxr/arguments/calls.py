"""The arguments of calls: read by the names of their parameters, or refused."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from mrsxr.errors import InputFileError, LevelError, ReferenceFileError
from mrsxr.inputs import as_given, like_data, missing_named, ready, require_um, tell_of_twice
from mrsxr.limits import bind
from mrsxr.notes import listen, noted

from .values import (
    Reader,
    as_arcsec,
    as_arcsec2,
    as_band,
    as_deg,
    as_places,
    as_redshift,
    as_sky,
    as_source_type,
    as_um,
    as_um_ranges,
    as_um_width,
    as_um_zoom,
)

F = TypeVar("F", bound=Callable[..., Any])
#: Annotations of Datasets, and of reference files of the kind that the parameter is named after (:mod:`mrsxr.limits`).
_DATASETS, _REFERENCES = ("xr.Dataset", "xr.Dataset | None"), ("Ref", "OptionalRef")
_TREES = ("Data", "Data | None")  # of the chains: a Dataset or a DataTree
#: What can be gone through and is not several Datasets.
_NOT_SEVERAL = (str, bytes, os.PathLike, Mapping, np.ndarray, xr.Dataset, xr.DataArray, xr.DataTree)

#: What an argument of this name is read by, in all steps.
READERS: dict[str, Reader] = {
    "center": as_sky, "point_source": as_sky, "radius": as_arcsec, "spaxel_size": as_arcsec, "fwhm": as_arcsec,
    "position_angle": as_deg, "wavelength_step": as_um_width, "wavelength_min": as_um, "wavelength_max": as_um,
    "band": as_band, "reference_band": as_band, "source_type": as_source_type, "redshift": as_redshift,
    "ignore_regions": as_um_ranges, "exclude": as_um_ranges, "zoom": as_um_zoom, "area": as_arcsec2,
}  # fmt: skip
_BY_KIND: dict[str, Reader] = {"Place": as_sky, "Place | None": as_sky, "Sequence[Place]": as_places}


def reader_of(name: str, annotation: Any, readers: Mapping[str, Reader] = READERS) -> Reader | None:
    """Return what reads a parameter: by its name, else by what its annotation says it is."""
    return readers.get(name) or _BY_KIND.get(str(annotation))


def read_arguments(name: str, bound: inspect.BoundArguments, readers: Mapping[str, Reader] = READERS) -> None:
    """Read the arguments of a call in place: by their reader, and Datasets by what their parameter is for.

    Raises
    ------
    MrsxrError
        Where an argument is not what it should be: a tree or a path in place of a Dataset, a reference of another kind.
    """
    parameters, given = bound.signature.parameters, list(bound.arguments.values())
    for key, value in bound.arguments.items():
        annotation = str(parameters[key].annotation)
        first, reference = key == next(iter(bound.arguments)), annotation in _REFERENCES or "Reference(" in annotation
        tree, several = "xr.DataTree" in annotation or annotation in _TREES, "[xr.Dataset]" in annotation
        optional = "None" in annotation or annotation == "OptionalRef"
        if isinstance(value, xr.DataArray):
            bound.arguments[key] = like_data(value, given)
        if "DataArray" in annotation:
            continue
        if tree and not several:  # what works on the nodes reads them
            if value is not None or not optional:
                need_data(name, value)
            continue
        if reference or annotation in _DATASETS:
            _check_dataset(name, key, value, optional=optional, first=first, reference=reference)
        elif several and not (tree and isinstance(value, xr.DataTree)) and (value is not None or not optional):
            value = _of_several(name, key, value, annotation, first)
            bound.arguments[key] = value
        reader = reader_of(key, annotation, readers)
        if reader is not None and value is not None:
            bound.arguments[key] = reader(value, key)
        bound.arguments[key] = ready(bound.arguments[key])
        require_um(bound.arguments[key], name)
        tell_of_twice(bound.arguments[key])


def reads(**readers: Reader) -> Callable[[F], F]:
    """Mark a public function that is no step: its arguments are read by :data:`READERS` and by the readers given here.

    Of a step (under ``@step``) only the further readers are noted, and the step reads.
    """

    def decorate(function: F) -> F:
        signature, all_readers = inspect.signature(function), {**READERS, **readers}

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            bound = bind(function, signature, args, kwargs)
            given = next(iter(bound.arguments.values()), None)
            with listen() as heard:
                read_arguments(function.__name__, bound, all_readers)
            with missing_named(function.__name__, bound.arguments.values()):
                out = as_given(function(*bound.args, **bound.kwargs), given)
            return noted(out, heard) if isinstance(out, xr.Dataset) else out

        wrapped.readers = all_readers  # type: ignore[attr-defined]
        return wrapped  # type: ignore[return-value]

    return decorate


def parameters_of(source: Callable[..., Any], *omit: str) -> Callable[[F], F]:
    """Give a function the parameters of another one, but some, in place of its ``**parameters``."""

    def decorate(function: F) -> F:
        mine, theirs = inspect.signature(function).parameters, inspect.signature(source).parameters
        own = [one for one in mine.values() if one.kind is not one.VAR_KEYWORD]
        taken = [one for one in theirs.values() if one.kind is one.KEYWORD_ONLY and one.name not in (*mine, *omit)]
        hints = typing.get_type_hints(inspect.unwrap(source), include_extras=True)
        kept = {one.name: one.annotation for one in own}
        function.__annotations__ = kept | {one.name: hints[one.name] for one in taken}
        function.__signature__ = inspect.Signature([*own, *taken])  # type: ignore[attr-defined]
        defaults = {one.name: one.default for one in taken if one.default is not one.empty}

        @functools.wraps(function)
        def filled(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **{**defaults, **kwargs})

        return filled  # type: ignore[return-value]

    return decorate


def need_data(name: str, value: Any) -> None:
    """Refuse what is neither a Dataset nor a DataTree as the data that a function works on."""
    if not isinstance(value, xr.DataTree):
        if not isinstance(value, xr.Dataset):
            raise LevelError(f"{name} needs a Dataset or DataTree, got {_what_it_is(value, 'data')}")
    elif not any(node.data_vars for node in value.subtree):
        raise LevelError(f"{name} needs data, got a DataTree that holds none")


def need_paths(name: str, value: Any, key: str = "") -> None:
    """Refuse data, or nothing, where a path, a pattern or a sequence of paths is wanted (for a parameter)."""
    wanted = f"{name} needs a path or a list of paths{f' for {key}' if key else ''}"
    if isinstance(value, list | tuple) and not value and key:
        raise InputFileError(f"{wanted}, got an empty list")
    for one in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(one, str | os.PathLike):
            opened = " (it is open already)" if isinstance(one, xr.Dataset | xr.DataTree | xr.DataArray) else ""
            raise InputFileError(f"{wanted}, got a {type(one).__name__}{opened}")
        if not os.fspath(one):
            raise InputFileError(f"{wanted}, got an empty one")


def _of_several(name: str, key: str, value: Any, annotation: str, first: bool) -> Any:
    """Return the Datasets that a parameter of several is given as a list; one alone where the function takes it so."""
    if type(value) is dict and value:
        value = list(value.values())
    elif isinstance(value, Iterable) and not isinstance(value, _NOT_SEVERAL):
        value = list(value)
    elif isinstance(value, xr.Dataset) and "xr.Dataset" not in annotation.split(" | "):
        value = [value]
    for one in value if isinstance(value, list) else [value]:
        _check_dataset(name, key, one, optional=False, first=first, reference=False)
    return value


def _check_dataset(name: str, key: str, value: Any, *, optional: bool, first: bool, reference: bool) -> None:
    if value is None and optional:
        return
    if not isinstance(value, xr.Dataset):
        if value is None and reference:
            raise ReferenceFileError(
                f"{name}: the {key} reference is missing; References(...).get('{key}', ds) finds it"
            )
        error = ReferenceFileError if reference else LevelError
        raise error(f"{name} needs a Dataset{'' if first else f' as {key}'}, got {_what_it_is(value, key, reference)}")
    if not reference:
        return
    kind, level = value.attrs.get("kind"), value.attrs.get("level")
    expected = f"{name}: expected a reference of kind {key}"
    if level not in (None, "reference"):
        raise ReferenceFileError(f"{expected}, got data of level {level}")
    if kind is not None and kind != key:
        raise ReferenceFileError(f"{expected}, got one of kind {kind} ({value.attrs.get('ref_id', 'by hand')})")


def _what_it_is(value: Any, key: str, reference: bool = False) -> str:
    if value is None:
        return "None"
    if isinstance(value, xr.DataTree):
        nodes = [node.path for node in value.subtree if node.data_vars]
        return (
            f"a DataTree ({', '.join(nodes[:4])}{' ...' if len(nodes) > 4 else ''}); take one node by "
            "tree[path].to_dataset(), or use make_rate, make_cal, make_cubes, make_spectra"
        )
    if isinstance(value, xr.DataArray):
        return f"the DataArray {value.name or 'without name'}; give the whole Dataset"
    if isinstance(value, str | os.PathLike):
        how = "mrsxr.references.read_reference" if reference else "mrsxr.load"
        return f"the path {os.fspath(value)}; open it by {how}"
    if isinstance(value, list | tuple) and key == "data":
        return f"a {type(value).__name__} of {len(value)}; give each by itself, or a tree (open_observation)"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value)}; call it for each of them"
    return f"a {type(value).__name__}"
