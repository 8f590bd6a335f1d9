"""The key of a piece changes with each parameter that the piece hands to a step, and with no other.

The real chains are run on empty Datasets; the functions of the rooms of steps write down what they are called with.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
import xarray as xr

from mrsxr import cal, cube, rate, spectrum
from mrsxr.errors import MrsxrError
from mrsxr.io.files import BACKGROUND, SCIENCE
from mrsxr.notes import listen
from mrsxr.pipeline import Recipe, cal_chain, exposure_steps, pieces, rate_chain, spectrum_chain
from mrsxr.pipeline.parts import LEVELS
from mrsxr.pipeline.pieces import Group, Way
from mrsxr.pipeline.plan import Planner, Unit
from mrsxr.pipeline.resume import Keys
from mrsxr.pipeline.shares import kinds, share

EMPTY = xr.Dataset(
    {"flux": (("dither", "group"), np.zeros((2, 9)))}, {"band": ("wavelength", ["1A", "1A"])},
    {"level": "cal", "setting": "12A", "detector": "MIRIFUSHORT", "band": "1A", "source_type": "POINT",
     "aperture_ra": 1.0, "aperture_dec": 2.0},
)  # fmt: skip
UNSURE = xr.Dataset(attrs={"source_type": "EXTENDED", "score": 0.5, "ambiguous": 1})
ANSWERS = {"is_moving": True, "target_position": (1.0, 2.0),
           "decide_source_type": UNSURE, "match_bands": [EMPTY, EMPTY], "fit_ramps_and_integrations": (EMPTY, EMPTY),
           "build_exposure_cubes": {"1": EMPTY}}  # fmt: skip
REFERENCE = xr.Dataset(attrs={"subtract_background": True})
called: list[object] = []


class Refs:
    """Reference files that are there and empty."""

    def get(self, kind, ds):
        called.append(kind)
        return REFERENCE


def written_down(function):
    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        called.append((function.__name__, {k: repr(v) for k, v in kwargs.items() if not isinstance(v, xr.Dataset)}))
        first = args[0] if args else None
        return ANSWERS.get(function.__name__, first[0] if isinstance(first, list) else first)

    return wrapped


@pytest.fixture
def _chains_without_steps(monkeypatch):
    for room in (rate, cal, cube, spectrum):
        for name, one in list(vars(room).items()):
            if inspect.isfunction(one):
                monkeypatch.setattr(room, name, written_down(one))

    def partial(function, *args, **kwargs):
        return functools.partial(written_down(function), *args, **kwargs)

    for chain in (exposure_steps, cal_chain):
        monkeypatch.setattr(chain, "partial", partial)
    for chain in (rate_chain, cal_chain):
        monkeypatch.setattr(chain, "fold", lambda *datasets: datasets)
    monkeypatch.setattr(pieces, "together", lambda things: getattr(things[0], "members", things)[0])
    monkeypatch.setattr(spectrum_chain, "holds_band", lambda *_: True)
    monkeypatch.setattr(spectrum_chain.CubeGrid, "of", lambda _: None)


def tasks_of(recipe):
    """Return one task of each sort of the plan of an observation with background exposures."""
    units = [
        Unit(role, setting, f"{role}{setting}{k}", f"{role}{setting}{k}", 0, EMPTY, ("FULL",))
        for setting in ("12A", "34A", "12B") for role, number in ((SCIENCE, 2), (BACKGROUND, 2)) for k in range(number)
    ]  # fmt: skip
    planner = Planner(recipe, ("1A", "2A", "3A", "1B"))
    planner.whole(units, "spectrum")
    sorts = {}
    for one in planner.tasks:
        sorts.setdefault((one.stage, one.role, one.facts.get("joint"), "leaking" in one.needs), one)
    return sorts


def outcome(task, recipe):
    """Return what a piece calls, and with what; what it tells and decides, and why it fails."""
    called.clear()
    ds = EMPTY.assign_attrs(background=int(task.role == BACKGROUND))
    plain = {"decision": {"taken": ["POINT"], "asked": "header"}, "science": Group((ds,))}
    given = {name: [plain.get(name, ds)] for name in task.needs}
    if task.stage == "match":
        given["cubes"] = [ds, ds]
    if task.stage == "calibrate":
        given |= {"history": [ds], "mask": [] if task.facts["sky"] else [ds]}
        recipe = recipe.skipping("bkg_subtract") if task.facts["sky"] and recipe.runs("bkg_subtract") else recipe
    decided = []
    with listen(pass_on=True) as told:
        for less in [{}, {"background": [], "spectra": []}][: 1 + (task.stage == "combine")]:
            try:
                made = task.work(Way(Refs(), recipe, lazy=True), **given | less, **task.facts)
                decided += [repr(one) for found in made.values() for one in found if isinstance(one, dict)]
            except MrsxrError as error:
                decided.append(str(error))
    return [*called], told, decided


def other(hint, value):
    """Return another value of a parameter; numbers and places are only handed on, a word does for them."""
    choices = [one for part in (hint, *get_args(hint)) if get_origin(part) is Literal for one in get_args(part)]
    if isinstance(value, bool):
        return not value
    return next((one for one in choices if one != value), "other")


def changed(one, flip):
    """Return a step that differs in all its parameters, and in whether it is left out where that is flipped."""
    values = {name: other(hint, one.values().get(name)) for name, (hint, *_) in one.part.takes.items()}
    return replace(one, given={**one.given, **values}, skip=one.skip != (flip and not one.part.needed))


def of_level(recipe, level):
    """Return recipes that differ in all steps of a level."""
    return [replace(recipe, entries=tuple(changed(one, flip) if one.level == level else one for one in recipe.entries))
            for flip in (False, True)]  # fmt: skip


def changes(recipe):
    """Yield for each step recipes that differ in all its parameters, and those that differ in one, or in its skip."""
    for one in recipe.entries:
        every = [recipe._with(one, changed(one, flip)) for flip in (False, True)]
        values = changed(one, False).given
        alone = {f"{one.where} {name}": recipe._with(one, replace(one, given={**one.given, name: values[name]}))
                 for name in one.part.takes}  # fmt: skip
        if not one.part.needed:
            alone[f"{one.where} skip"] = recipe._with(one, replace(one, skip=not one.skip))
        yield one.level, every, alone
    option = recipe.with_option("rate", "save_rateints", not recipe.options["rate"]["save_rateints"])
    yield "rate", [option], {"save_rateints": option}


def all_on(name):
    recipe = Recipe.of(name)
    for one in recipe.entries:
        given = dict(one.given) | ({"persistence_time": 9.0} if one.name == "persistence" else {})
        recipe = recipe._with(one, replace(one, skip=False, given=given))
    return (
        recipe.set("cube_build", output_type="channel", point_source=(1.0, 2.0))
        .set("extract_1d", source_type="auto", both_branches=True, background="none").set("ramp_fit", method="gls")
    )  # fmt: skip


@pytest.mark.usefixtures("_chains_without_steps")
def test_keys_hold_what_pieces_hand_to_steps_and_no_more():
    read, held = set(), set()
    for recipe in (Recipe.of("baseline"), all_on("optimal")):
        tasks = tasks_of(recipe)
        before = {sort: (outcome(task, recipe), of_itself(task, recipe)) for sort, task in tasks.items()}

        as_before = functools.partial(unchanged, tasks, before)
        reading = {level: [sort for sort in tasks if not as_before(sort, of_level(recipe, level))] for level in LEVELS}
        for level, every, alone in changes(recipe):
            for sort in [sort for sort in reading[level] if not as_before(sort, every)]:
                task, (found, key) = tasks[sort], before[sort]
                for what, one in alone.items():
                    if outcome(task, one) != found:
                        read.add((sort, what))
                        assert of_itself(task, one) != key, f"{sort}: {what} is not in the key"
                    if of_itself(task, one) != key:
                        held.add((sort, what))
    assert {stage for (stage, *_), _ in read} == {
        "rate", "mask", "calibrate", "background", "combine", "cube", "joint cube", "match", "source type", "spectrum",
        "stitch",
    }  # fmt: skip
    elsewhere = [  # the mask that is given is made by them, too; without the step there is no such task
        ("calibrate", "[cal.badpix_selfcal]"), ("background", "[cube.master_background] skip"),
        ("match", "[cube.match_bands] skip"),
    ]  # fmt: skip
    more = [one for one in held - read if not any(one[0][0] == s and one[1].startswith(w) for s, w in elsewhere)]
    assert not more


def unchanged(tasks, before, sort, recipes):
    """Tell whether a piece does the same with other recipes, and has the same key."""
    return all((outcome(tasks[sort], one), of_itself(tasks[sort], one)) == before[sort] for one in recipes)


def of_itself(task, recipe):
    return Keys(Way(None, recipe), {})._of_itself(task)


@pytest.mark.usefixtures("_chains_without_steps")
@pytest.mark.parametrize("recipe", [Recipe.of("baseline"), Recipe.of("optimal"), all_on("optimal")])
def test_a_piece_does_the_same_with_its_share(recipe):
    """Of recipe and reference files; what it does not name is an error."""
    for sort, task in tasks_of(recipe).items():
        mine = share(task, Way(None, recipe)).recipe
        whole = outcome(task, recipe)
        assert outcome(task, mine) == whole
        asked = {one for one in whole[0] if isinstance(one, str)}
        assert asked <= set(kinds(task, mine)), sort
