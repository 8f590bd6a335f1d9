"""What a piece is made of, as a key; and what it made, as plain values that a later run takes over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dask.base import tokenize

from mrsxr.errors import ReferenceFileError
from mrsxr.io.files import FileInfo
from mrsxr.io.grouping import Exposure

from . import keys
from .needs import kinds_of, stub
from .parts import plain
from .pieces import Filed, Group, Made, Way
from .plan import Task

_WITH_REDSHIFT = ("cube", "joint cube", "spectrum", "stitch")
_OF_SOME = ("open", "combine", "cube")  # that may do without some of their exposures


def key_of(task: Task, way: Way, arguments: Mapping[str, Any], exposure: FileInfo | None) -> str:
    """Return the key of a task: a digest of what it is given, its parameters, reference files and this version.

    Parameters
    ----------
    task : Task
    way : Way
    arguments : mapping
        Things that it is given.
    exposure : FileInfo, optional
        By whose header the reference files of the task are chosen.
    """
    given = {name: [_key_of_thing(one) for one in things] for name, things in arguments.items()}
    parameters = (
        way.recipe.of_level(task.section, "cube_build" if task.stage == "combine" else None) if task.section else []
    )
    beside = [way.redshift if task.stage in _WITH_REDSHIFT else None,
              way.arrivals.allow_missing if task.stage in _OF_SOME else None]  # fmt: skip
    facts = {name: list(value) if isinstance(value, tuple) else value for name, value in task.facts.items()}
    return keys.digest(
        keys.RESULTS, task.stage, task.name, task.role, facts, given, parameters, beside,
        _references(way, task.section, exposure),
    )  # fmt: skip


def _key_of_thing(thing: Any) -> Any:
    if isinstance(thing, Filed):
        return [thing.key or keys.of_file(thing.path), thing.path.name, thing.role, thing.name]
    if isinstance(thing, Exposure):
        return [*(keys.of_file(info.path) for info in thing.files), thing.role, thing.name, list(thing.notes)]
    if isinstance(thing, Group):
        return [[_key_of_thing(one) for one in thing.members], plain(dict(thing.attrs))]
    return plain(thing)


def _references(way: Way, section: str, exposure: FileInfo | None) -> list[Any]:
    """Return the keys of the reference files that a level may take for an exposure."""
    if way.refs is None or exposure is None:
        return []
    ds, found = stub(exposure), []
    for kind in kinds_of(way.recipe, section) if section else ():
        try:
            found.append([kind, keys.of_reference(way.refs.path(kind, ds))])
        except ReferenceFileError:
            given = way.refs.given(kind)
            found.append([kind, "none" if given is None else tokenize(given)])
    return found


def packed(made: Made, arguments: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Return what a task made as plain values; things that it was given by their place among its arguments."""
    return {product: [_pack(one, arguments, out) for one in things] for product, things in made.items()}


def _pack(thing: Any, arguments: Mapping[str, Any], out: Path) -> list[Any]:
    if isinstance(thing, Group):
        return ["group", [_pack(one, arguments, out) for one in thing.members], plain(dict(thing.attrs))]
    for name, things in arguments.items():
        for k, one in enumerate(things):
            if thing is one or (isinstance(thing, Filed | Exposure) and thing == one):
                return ["given", name, k]
            if isinstance(one, Group) and any(thing == member for member in one.members):
                return ["member", name, k, [thing == member for member in one.members].index(True)]
    if isinstance(thing, Filed):
        return ["filed", str(thing.path.relative_to(out)), thing.role, thing.name, thing.key]
    return ["plain", plain(thing)]


def unpacked(values: Mapping[str, Any], arguments: Mapping[str, Any], out: Path) -> Made:
    """Return what a task of an earlier run made."""
    return {product: [_unpack(one, arguments, out) for one in things] for product, things in values.items()}


def _unpack(packed: list[Any], arguments: Mapping[str, Any], out: Path) -> Any:
    kind, *rest = packed
    if kind == "group":
        return Group(tuple(_unpack(one, arguments, out) for one in rest[0]), rest[1])
    if kind == "given":
        return arguments[rest[0]][rest[1]]
    if kind == "member":
        return arguments[rest[0]][rest[1]].members[rest[2]]
    return Filed(out / rest[0], *rest[1:]) if kind == "filed" else rest[0]
