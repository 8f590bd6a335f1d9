"""What a piece is made of, as a key; and what it made, as plain values that a later run takes over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr
from dask.base import tokenize

from mrsxr.errors import ReferenceFileError
from mrsxr.io.files import FileInfo
from mrsxr.io.grouping import Exposure
from mrsxr.references.exposure import BAND_KINDS

from . import keys
from .needs import stub
from .parts import plain
from .pieces import Filed, Group, Made, Way
from .plan import Task
from .shares import kinds, share


class Keys:
    """The keys of the tasks of a reduction, and their marks: keys as far as the plan knows them.

    Parameters
    ----------
    way : Way
    headers : mapping
        By setting (or band), and by exposure: of each a header by which its reference files are chosen.

    Notes
    -----
    The key of a task is a digest of what it is given, of its share of recipe and reference files (:mod:`shares`), and
    of this version; its mark has the marks of what it needs in place of what it is given, as long as nothing is made.
    """

    def __init__(self, way: Way, headers: Mapping[str, FileInfo]) -> None:
        self.way, self.headers = way, headers
        self._own: dict[Task, str] = {}
        self._marks: dict[Task, str] = {}
        self._inputs: dict[Path, str] = {}
        self._stubs: dict[int, xr.Dataset] = {}
        self._references: dict[tuple[str, int, str], str] = {}

    def mark(self, task: Task) -> str:
        """Return the mark of a task: that of an earlier plan where it would be done alike."""
        if task not in self._marks:
            needs = {
                name: [how, [[self.mark(one[0]), one[1]] if isinstance(one, tuple) else self._of_thing(one)
                             for one in what]] for name, (how, what) in task.needs.items()
            }  # fmt: skip
            self._marks[task] = keys.digest(self._of_itself(task), needs)
        return self._marks[task]

    def key(self, task: Task, arguments: Mapping[str, Any]) -> str:
        """Return the key of a task that is given things."""
        given = {name: [self._of_thing(one) for one in things] for name, things in arguments.items()}
        return keys.digest(self._of_itself(task), given)

    def _of_itself(self, task: Task) -> str:
        """Return a digest of all but what a task is given."""
        if task not in self._own:
            way = share(task, self.way)
            lost = [names + way.arrivals.missing(*where, names) for where, names in way.arrivals.planned.items()]
            self._own[task] = keys.digest(
                keys.RESULTS, task.stage, task.name, task.role, plain(task.facts), way.recipe.decides, way.redshift,
                way.arrivals.allow_missing, lost, self._of_references(task, way),
            )  # fmt: skip
        return self._own[task]

    def _of_thing(self, thing: Any) -> Any:
        if isinstance(thing, Filed):
            return [thing.key or self._of_file(thing.path), thing.path.name, thing.role, thing.name]
        if isinstance(thing, Exposure):
            return [*(self._of_file(info.path) for info in thing.files), thing.role, thing.name, list(thing.notes)]
        if isinstance(thing, Group):
            return [[self._of_thing(one) for one in thing.members], plain(dict(thing.attrs))]
        return plain(thing)

    def _of_file(self, path: Path) -> str:
        """Return the key of an input, as it was when the run began."""
        if path not in self._inputs:
            self._inputs[path] = keys.of_file(path)
        return self._inputs[path]

    def _of_references(self, task: Task, way: Way) -> list[Any]:
        """Return the keys of the reference files that a task may take."""
        if way.refs is None:
            return []
        wanted, found = kinds(task, way.recipe), []
        for header in self._headers(task) if wanted else ():
            for kind in wanted:
                channel = str(task.facts.get("band", ""))[:1] if kind in BAND_KINDS else ""
                place = kind, id(header), channel
                if place not in self._references:
                    self._references[place] = self._of_reference(*place[::2], header)
                if self._references[place] != "none" or kind not in BAND_KINDS:
                    found.append([kind, self._references[place]])
        return found

    def _of_reference(self, kind: str, channel: str, header: FileInfo) -> str:
        """Return the key of a reference file for an exposure, or one of its channels."""
        refs: Any = self.way.refs
        if id(header) not in self._stubs:
            self._stubs[id(header)] = stub(header)
        ds = self._stubs[id(header)]
        try:
            files = refs.paths(kind, ds.assign_attrs(channels=channel) if channel else ds)
            return keys.of_reference(files[0]) if len(files) == 1 else keys.digest(*map(keys.of_reference, files))
        except ReferenceFileError:
            given = refs.given(kind)
            return "none" if given is None else tokenize(given)

    def _headers(self, task: Task) -> list[FileInfo]:
        """Return the headers that choose the reference files of a task."""
        of_it = (task.exposure, task.setting, str(task.facts.get("band", "")), task.name)
        found = next((self.headers[name] for name in of_it if name in self.headers), None)
        if found is not None:
            return [found]
        return list({one.node: one for one in self.headers.values()}.values())


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
