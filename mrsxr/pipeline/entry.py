"""A step of a recipe: what stands behind it and which parameters are given."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mrsxr.errors import ParameterError
from mrsxr.limits import allowed, check

from .parts import Part, find_part, plain
from .toml_files import as_toml


@dataclass(frozen=True)
class Entry:
    """A step of a level: its name in jwst, what stands behind it, the parameters given, and whether it is left out.

    ``reads`` are the parameters that a piece reads of it, None: all.
    """

    level: str
    name: str
    part: Part
    given: Mapping[str, Any] = field(default_factory=dict)
    skip: bool = False
    path: str | None = None
    reads: tuple[str, ...] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the names; what stands behind them is found again."""
        return _entry, (self.level, self.name, self.path, dict(self.given), self.skip, self.reads)

    @property
    def where(self) -> str:
        """How messages call it."""
        return f"[{self.level}.{self.name}]"

    def values(self) -> dict[str, Any]:
        """Return all parameters of the step."""
        return {**self.part.defaults(), **self.given}

    def reading(self, names: Collection[str] | None) -> Entry:
        """Return the entry with these of its parameters alone, None: with all."""
        if names is None:
            return self
        takes = {name: value for name, value in self.part.takes.items() if name in names}
        given = {name: value for name, value in self.given.items() if name in names}
        return replace(self, part=replace(self.part, takes=takes), given=given, reads=tuple(takes))

    def changed(self, **changes: Any) -> Entry:
        """Return the entry with other parameters, checked; ``skip`` and ``step`` are among them."""
        changes = dict(changes)
        part, path = self.part, self.path
        check(self.where, "skip", changes.get("skip", False), bool)
        if "step" in changes:
            path = changes.pop("step")
            try:
                part = find_part(self.level, self.name, path)
            except ParameterError as error:
                raise ParameterError(f"{self.where}: {error}") from None
        skip = changes.pop("skip", False)  # who gives a parameter wants the step
        if skip and self.part.needed:
            raise ParameterError(f"{self.where}: '{self.name}' cannot be left out: the next level rests on it")
        kept = {name: value for name, value in self.given.items() if name in part.takes}
        out = replace(self, part=part, path=path, skip=skip, given=kept | part.read(self.where, changes))
        return out if skip else out.checked()

    def checked(self) -> Entry:
        """Return the entry; raise where a parameter that must be given is not, or two contradict each other."""
        lacking = [n for n, (_, value, _) in self.part.takes.items() if value is inspect.Parameter.empty]
        lacking = [name for name in lacking if name not in self.given]
        if lacking:
            raise ParameterError(f"{self.where}: {lacking[0]} is not given; the step needs it")
        text = self.part.contradiction(self.values()) if self.part.contradiction else None
        if text:
            raise ParameterError(f"{self.where}: {text}")
        return self

    def comments(self) -> Iterator[str]:
        """Yield a line on every parameter that is not given: its default, and what it may be."""
        for name, (hint, value, _) in self.part.takes.items():
            if name not in self.given:
                text = "?" if value is inspect.Parameter.empty else "" if value is None else as_toml(plain(value))
                yield f"# {name} = {text}".rstrip() + f"  # {allowed(hint)}"

    def table(self) -> dict[str, Any]:
        """Return what a recipe file says of the step."""
        head = ({"step": self.path} if self.path else {}) | ({"skip": True} if self.skip else {})
        return head | {name: plain(value) for name, value in self.given.items() if value is not None}


def _entry(
    level: str, name: str, path: str | None, given: dict[str, Any], skip: bool, reads: tuple[str, ...] | None
) -> Entry:
    return Entry(level, name, find_part(level, name, path), given, skip, path).reading(reads)
