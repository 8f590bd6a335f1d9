"""Recipes: which steps, in which order, with which parameters. Data, read from TOML, changed by name."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import resources
from typing import Any, Literal

from mrsxr.errors import MrsxrError, ParameterError
from mrsxr.limits import check, near_miss

from . import cal_chain, combine_chain, cube_chain, rate_chain, spectrum_chain  # noqa: F401 - they fill PARTS
from .entry import Entry
from .parts import LEVELS, find_part, names_of, plain, source_of
from .toml_files import as_toml, read_toml

MODES = ("baseline", "optimal")
Mode = Literal["baseline", "optimal"]
BackgroundWay = Literal["master", "pixel", "annulus", "binned", "none"]
FringeMethod = Literal["none", "columns", "slices"]
_LAST = {"cube": cube_chain.OF_ALL_BANDS, "spectrum": spectrum_chain.OF_ALL_BANDS}
_OPTIONS = {"rate": {"save_rateints": False}}  # of a level, not of a step


@dataclass(frozen=True, repr=False)
class Recipe:
    """An ordered list of steps with their parameters for each level; it does not change, its methods return others.

    ``base`` is the recipe it began as, "baseline" or "optimal". ``print(recipe)`` gives the TOML file of it.

    Examples
    --------
    >>> recipe = Recipe.of("optimal").set("jump", rejection_threshold=5.0).skipping("reset")
    >>> recipe.values("rate.jump")["rejection_threshold"], recipe.runs("reset")
    (5.0, False)
    """

    base: str
    entries: tuple[Entry, ...]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: dict(_OPTIONS))

    @classmethod
    def of(cls, recipe: Recipe | str | os.PathLike[str] | None = None, *, base: str | None = None) -> Recipe:
        """Return a recipe by name ("baseline", "optimal") or from a TOML file; a Recipe as it is, "baseline" for None.

        Parameters
        ----------
        recipe : Recipe, str or path, optional
        base : {"baseline", "optimal"}, optional
            What a file changes; by default its own ``base``, else "baseline".

        Raises
        ------
        MrsxrError
            Where the file cannot be read, or has a table, a parameter or a value that is not known.
        """
        if isinstance(recipe, Recipe):
            return _check_whole(recipe)
        if recipe is None or (isinstance(recipe, str) and recipe in MODES):
            return _named(str(recipe or base or "baseline"))
        if not isinstance(recipe, str | os.PathLike):
            raise ParameterError(f"a recipe is 'baseline', 'optimal', a TOML file or a Recipe, got a "
                                 f"{type(recipe).__name__}")  # fmt: skip
        if isinstance(recipe, str) and not recipe.endswith(".toml") and not os.path.exists(recipe):
            check("the recipe", "recipe", recipe, Mode)
        out = _from_tables(read_toml(recipe), str(recipe), base)
        try:
            return _check_whole(out)
        except ParameterError as error:
            raise ParameterError(f"{recipe}: {error}") from None

    def steps(self, level: str) -> Iterator[Entry]:
        """Yield the steps of a level that run, in their order."""
        yield from (one for one in self.entries if one.level == level and not one.skip)

    def after(self, name: str) -> Iterator[Entry]:
        """Yield the steps of a level that run after one, "cube.cube_build"."""
        level, _, bare = name.partition(".")
        there = [one for one in self.entries if one.level == level]
        at = [one.name for one in there].index(bare)
        yield from (one for one in there[at + 1 :] if not one.skip)

    def find(self, name: str) -> list[Entry]:
        """Return the entries of a name: "jump", "rate.jump", or the name of a function; those of all levels.

        Raises
        ------
        ParameterError
            Where there is none.
        """
        text = str(name).strip().lower().replace("-", "_")
        level, _, bare = text.rpartition(".")
        places = [one for one in self.entries if not level or one.level == level]
        exact = [one for one in places if one.name == bare]
        found = exact or [one for one in places if bare in names_of(one.level, one.name, one.part.function)]
        if not found:
            known = dict.fromkeys(one.name for one in places or self.entries)
            homes = [one.level for one in self.entries if one.name == bare]
            hint = f"; '{bare}' belongs to [{homes[0]}]" if homes else near_miss(bare, known)
            raise ParameterError(f"there is no step '{name}'; expected one of {', '.join(known)}{hint}")
        return found

    def entry(self, name: str) -> Entry:
        """Return the one entry of a name; raise ParameterError where several levels have it."""
        found = self.find(name)
        if len(found) > 1:
            places = ", ".join(f"{one.level}.{one.name}" for one in found)
            raise ParameterError(f"'{name}' stands for several steps; say which of {places}")
        return found[0]

    def runs(self, name: str) -> bool:
        """Tell whether there is a step of this name, "jump" or "rate.jump", that is not left out."""
        return any(name in (one.name, f"{one.level}.{one.name}") for one in self.entries if not one.skip)

    def values(self, name: str) -> dict[str, Any]:
        """Return all parameters of a step, given and default ones."""
        return self.entry(name).values()

    def option(self, level: str, name: str) -> Any:
        """Return an option of a whole level."""
        return self.options[level][name]

    def set(self, name: str, **parameters: Any) -> Recipe:
        """Return the recipe with other parameters of a step, which then runs unless ``skip=True`` is among them.

        Parameters
        ----------
        name : str
            "jump", or with its level where several have one: "cube.residual_fringe".
        **parameters
            As the step takes them; ``step`` takes another function in its place.

        Raises
        ------
        ParameterError
            Where there is no such step or parameter, or a value does not fit.
        """
        entry = self.entry(name)
        return self._with(entry, entry.changed(**parameters))

    def with_text(self, text: str) -> Recipe:
        """Return the recipe with a parameter or an option as a text says it, "jump.rejection_threshold=5"."""
        key, sign, value = text.partition("=")
        name, dot, parameter = key.strip().rpartition(".")
        homes = [f"{level}.{one}" for level, options in self.options.items() for one in options if one == parameter]
        hint = f"; '{parameter}' is {homes[0]}" if homes else ""
        if not sign or not dot:
            expected = "STEP.PARAMETER=VALUE, jump.rejection_threshold=5"
            raise ParameterError(f"'{text}' sets nothing; expected {expected}{hint}")
        try:
            read = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            read = value.strip()
        if name in self.options:
            return self.with_option(name, parameter, read)
        return self.set(name, **{parameter: read})

    def skipping(self, *names: str) -> Recipe:
        """Return the recipe without some steps, in every level that has them."""
        out = self
        for name in names:
            for one in out.find(name):
                out = out._with(one, one.changed(skip=True))
        return out

    def adding(
        self, name: str, step: str, *, before: str | None = None, after: str | None = None, **parameters: Any
    ) -> Recipe:
        """Return the recipe with one more step.

        Parameters
        ----------
        name : str
            With its level: "cal.despike".
        step : str
            "module:function" of a function marked ``@mrsxr.step.step``.
        before, after : str
            The step of the level that it stands next to; one of both.
        **parameters
        """
        level, _, bare = name.rpartition(".")
        if level not in LEVELS:
            raise ParameterError(f"'{name}' names no level; expected {'.NAME, '.join(LEVELS)}.NAME")
        try:
            entry = Entry(level, bare, find_part(level, bare, step), path=step).changed(**parameters)
        except ParameterError as error:
            raise ParameterError(f"[{level}.{bare}]: {str(error).removeprefix(f'[{level}.{bare}]: ')}") from None
        return replace(self, entries=(*self.entries, entry)).moving(name, before=before, after=after)

    def moving(self, name: str, *, before: str | None = None, after: str | None = None) -> Recipe:
        """Return the recipe with a step in another place of its level."""
        entry = self.entry(name)
        if (before is None) == (after is None):
            raise ParameterError(f"{entry.where}: say before or after which step of the level it stands")
        place = self.entry(f"{entry.level}.{before or after}")
        rest = [one for one in self.entries if one is not entry]
        at = rest.index(place) + (after is not None)
        return replace(self, entries=(*rest[:at], entry, *rest[at:]))

    def _with(self, old: Entry, new: Entry) -> Recipe:
        return replace(self, entries=tuple(new if one is old else one for one in self.entries))

    def with_option(self, level: str, name: str, value: Any) -> Recipe:
        """Return the recipe with an option of a level, "save_rateints" of "rate"."""
        known = self.options.get(level, {})
        if name not in known:
            raise ParameterError(_unknown(self, level, name))
        check(f"[{level}]", name, value, bool)
        return replace(self, options={**self.options, level: {**known, name: value}})

    def with_background(self, method: str) -> Recipe:
        """Return this recipe with one way of taking the background off.

        Parameters
        ----------
        method : {"master", "pixel", "annulus", "binned", "none"}
            The spectrum of the background exposures; their mean image; an annulus about the source; bins of wavelength,
            linear over the field; nothing. What is named here is asked for: bands without background exposures are
            an error.
        """
        check("the recipe", "background", method, BackgroundWay)
        out = self.skipping("bkg_subtract", "master_background", "field_background")
        if method == "pixel":
            with_errors = self.values("photom")["propagate_errors"]
            out = out.set("bkg_subtract", method="weighted" if with_errors else "mean")
        if method in ("master", "binned"):
            out = out.set("master_background" if method == "master" else "field_background", required=True)
        return out.set("extract_1d", background=method if method in ("annulus", "none") else "auto")

    def with_residual_fringe(self, methods: Mapping[str, str]) -> Recipe:
        """Return this recipe with other ways of taking off residual fringes.

        Parameters
        ----------
        methods : mapping of {"cal", "cube", "spectrum"} to {"none", "columns", "slices"}
            Where, and how: on the detector, in cubes, in spectra.
        """
        out = self
        for level, way in methods.items():
            check("the recipe", "residual_fringe", level, Literal["cal", "cube", "spectrum"])
            check(f"[{level}.residual_fringe]", "residual_fringe", way, FringeMethod)
            name = f"{level}.residual_fringe"
            out = out.skipping(name) if way == "none" else out.set(name, method=way)
        return out

    def parameters(self) -> dict[str, dict[str, Any]]:
        """Return every parameter of every step that runs, as ``{"rate.jump": {...}}``, and the options of levels."""
        out = {f"{one.level}.{one.name}": {"step": one.part.function.__name__, **plain(one.values())}
               for one in self.entries if not one.skip}  # fmt: skip
        return out | {level: dict(values) for level, values in self.options.items()}

    def reading(self, steps: Mapping[str, Collection[str] | None]) -> Recipe:
        """Return a recipe of some steps alone, and of some of their parameters where these are named.

        Parameters
        ----------
        steps : mapping
            ``{"cube.cube_build": ("weighting",), "cal.photom": None}``, None for all parameters. Options of levels stay
            where all steps of the level do.
        """
        asked = tuple((name, names if names is None else frozenset(names)) for name, names in steps.items())
        if asked not in self._readings:
            kept = [one.reading(steps[name]) for one in self.entries if (name := f"{one.level}.{one.name}") in steps]
            whole = [level for level in self.options if len(list(self._of(level, kept))) == len(list(self._of(level)))]
            self._readings[asked] = Recipe(self.base, tuple(kept), {level: self.options[level] for level in whole})
        return self._readings[asked]

    @cached_property
    def _readings(self) -> dict[Any, Recipe]:
        return {}

    def _of(self, level: str, entries: Collection[Entry] | None = None) -> Iterator[Entry]:
        yield from (one for one in (self.entries if entries is None else entries) if one.level == level)

    @cached_property
    def decides(self) -> list[Any]:
        """All that decides what its steps do, in their order, as plain values."""
        steps = [[one.where, one.part.function.__qualname__, plain(one.values()), source_of(one.path)]
                 for one in self.entries if not one.skip]  # fmt: skip
        return [steps, {level: dict(values) for level, values in self.options.items()}]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it is made of alone."""
        return Recipe, (self.base, self.entries, self.options)

    def changes(self) -> dict[str, Any]:
        """Return the parameters that differ from those of ``base``: ``{"rate.jump.rejection_threshold": 5.0}``."""
        mine, theirs = self.parameters(), _named(self.base).parameters() if self.base in MODES else {}
        out: dict[str, Any] = {f"{name}.skip": True for name in theirs if name not in mine}
        for name, values in mine.items():
            if name not in theirs:
                out[f"{name}.skip"] = False
            before = theirs.get(name, {})
            out |= {f"{name}.{key}": value for key, value in values.items() if value != before.get(key, value)}
        return out

    def __repr__(self) -> str:
        changes = self.changes()
        return f"<Recipe {self.base}{': ' if changes else ''}{', '.join(f'{k} = {v!r}' for k, v in changes.items())}>"

    def __str__(self) -> str:
        packaged = self.base in MODES and self == _named(self.base)
        return _packaged(self.base) if packaged else self._text(every=False)

    def describe(self) -> str:
        """Return the TOML file with every parameter of every step, default ones as comments, and what they may be."""
        return self._text(every=True)

    def _text(self, *, every: bool) -> str:
        lines = ['base = "none"  # the whole recipe stands here', ""]
        for level in LEVELS:
            if options := self.options.get(level):
                lines += [f"[{level}]", *(f"{key} = {as_toml(value)}" for key, value in options.items()), ""]
            for one in self.entries:
                if one.level == level:
                    lines += [one.where, *(f"{key} = {as_toml(value)}" for key, value in one.table().items())]
                    lines += [*(one.comments() if every else ()), ""]
        return "\n".join(lines).rstrip() + "\n"


def _unknown(recipe: Recipe, level: str, key: str) -> str:
    """Return the message on a name that is no step and no option of a level."""
    known = [one.name for one in recipe.entries if one.level == level] + list(recipe.options.get(level, {}))
    owners = [f"[{one.level}.{one.name}]" for one in recipe.entries if key in one.part.takes]
    owners += [f"[{one.level}]" for one in recipe.entries if one.name == key and one.level != level]
    hint = f"; '{key}' belongs to {' and '.join(dict.fromkeys(owners))}" if owners else near_miss(key, known)
    return f"unknown '{key}' in [{level}]; expected one of {', '.join(known)}{hint}"


@cache
def _named(name: str) -> Recipe:
    """Return a recipe of the package."""
    return replace(_from_tables(tomllib.loads(_packaged(name)), f"recipe {name}", None), base=name)


def _packaged(name: str) -> str:
    return resources.files("mrsxr.pipeline").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")


def _from_tables(tables: dict[str, Any], where: str, base: str | None) -> Recipe:
    """Return the recipe of a file: its base with what the file changes."""
    tables = dict(tables)
    of_file, skip = tables.pop("base", "baseline"), tables.pop("skip", [])
    for one in (of_file, base or of_file):
        check(where, "base", one, Literal["baseline", "optimal", "none"])
    check(where, "skip", skip, tuple[str, ...])
    begin = base or of_file
    out = Recipe("none", ()) if begin == "none" else _named(begin)
    for level, values in tables.items():
        if level not in LEVELS:
            what = f"table [{level}]" if isinstance(values, dict) else f"key '{level}' outside the tables"
            hint = near_miss(level, LEVELS)
            if out.entries and not hint:
                homes = [one.level for one in out.entries if one.name == level or level in one.part.takes]
                hint = f"; '{level}' belongs to [{homes[0]}]" if homes else ""
            raise MrsxrError(f"{where}: unknown {what}; expected [{'], ['.join(LEVELS)}]{hint}")
        if not isinstance(values, dict):
            raise MrsxrError(f"{where}: {level} is {values!r}; expected a table [{level}] of steps")
        for name, table in values.items():
            try:
                out = _with_table(out, level, name, table, whole=begin == "none")
            except MrsxrError as error:
                raise type(error)(f"{where}: {error}") from error
    try:
        return out.skipping(*skip)
    except MrsxrError as error:
        raise type(error)(f"{where}: {error}") from error


def _with_table(recipe: Recipe, level: str, name: str, table: Any, *, whole: bool) -> Recipe:
    """Return the recipe with what a table [level.name] of a file says, or an option of the level."""
    if not isinstance(table, dict):
        return recipe.with_option(level, name, table)
    table, key = dict(table), name.strip().lower().replace("-", "_")
    there = [one for one in recipe.entries if one.level == level]
    known = [one for one in there if one.name == key] or [
        one for one in there if key in names_of(level, one.name, one.part.function)
    ]
    places = {side: table.pop(side) for side in ("before", "after") if side in table}
    if known:
        out = recipe._with(known[0], known[0].changed(**table))
        return out.moving(f"{level}.{known[0].name}", **places) if places else out
    if not whole and "step" not in table:
        raise ParameterError(_unknown(recipe, level, name))
    if not whole:
        return recipe.adding(f"{level}.{name}", **places, **table)
    path = table.pop("step", None)
    try:
        part = find_part(level, key, path)
    except ParameterError as error:
        raise ParameterError(f"[{level}.{name}]: {error}") from None
    return replace(recipe, entries=(*recipe.entries, Entry(level, key, part, path=path).changed(**table)))


def _check_whole(recipe: Recipe) -> Recipe:
    """Return a recipe; raise where its steps do not follow from each other, one is missing, or two backgrounds run."""
    there = {(one.level, one.name) for one in recipe.entries}
    for one in _named("baseline").entries if recipe.base == "none" else ():
        if one.part.needed and (one.level, one.name) not in there:
            raise ParameterError(f"{one.where} is missing, and the next level rests on it")
    if {"master_background", "field_background"} <= {one.name for one in recipe.steps("cube")}:
        raise ParameterError("master_background and field_background both run; leave one out (skip = true)")
    for level, of_all in _LAST.items():
        names = [one.name for one in recipe.steps(level)]
        last = [name for name in of_all if name in names]
        if last and names[-len(last) :] != last:
            raise ParameterError(f"[{level}]: {' and '.join(last)} take what all bands give together; put them last, "
                                 f"in this order, got {', '.join(names)}")  # fmt: skip
    now = "ramp"
    for level in LEVELS:
        for entry in recipe.steps(level):
            now = _level_after(entry, now)
        if now != level:
            raise ParameterError(f"[{level}]: its steps end with data of level {now}; expected {level}")
    return recipe


def _level_after(entry: Entry, level: str) -> str:
    """Return the level of data after a step; raise where it takes none of the level that they have before it."""
    facts = entry.part.facts
    if level not in facts.needs:
        raise ParameterError(
            f"{entry.where}: takes data of level {' or '.join(facts.needs)}, and where it stands they are of level "
            f"{level}; give it another place (before, after)"
        )
    return level if facts.gives is None else facts.gives
