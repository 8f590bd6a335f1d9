"""The share of each piece: what it may read of a recipe, which reference files it may take, and what stands beside.

A piece gets its share and no more (what it does not name is an error in it), and its key holds its share and no more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from mrsxr.io.files import BACKGROUND
from mrsxr.references import References

from .arrivals import Arrivals
from .cube_chain import HOLD_3A, OF_ALL_BANDS, mixes_bands
from .pieces import Way
from .plan import Task
from .recipe import Recipe
from .spectrum_chain import OF_EXPOSURES

Steps = dict[str, Collection[str] | None]
_PLACES: Steps = {"cal.assign_wcs": None}  # of exposures that come without coordinates, from jwst
_OF_OPERATOR = ("cubepar", "mrsptcorr")  # from pixels to voxels, which the sums over a cube rest on
_DECIDING = ("source_type", "both_branches", "region", "center", "aperture_correction")
_WITH_REDSHIFT = ("cube", "joint cube", "spectrum")


def share(task: Task, way: Way) -> Way:
    """Return how a piece is made: its part of the recipe, of the reference files, and of what was asked for."""
    recipe, refs = way.recipe.reading(_steps(task, way.recipe)), way.refs
    if isinstance(refs, References):
        refs = refs.only(kinds(task, recipe))
    redshift = way.redshift if task.stage in _WITH_REDSHIFT else None
    return replace(way, refs=refs, recipe=recipe, redshift=redshift, arrivals=_arrivals(task, way.arrivals))


def kinds(task: Task, recipe: Recipe) -> list[str]:
    """Return the kinds of reference files that a piece may take, by its part of the recipe."""
    if task.stage == "source type":
        return ["apcorr"] if recipe.values("extract_1d")["aperture_correction"] else []
    entries = [one for one in recipe.entries if not one.skip and one.reads != ()]  # () of those that are not done
    found = [kind for one in entries for kind in one.part.facts.kinds(one.values())]
    measured = task.stage == "background" and task.facts["measured"]
    covariance = any(map(recipe.runs, OF_EXPOSURES)) or (measured and not mixes_bands(recipe))
    return list(dict.fromkeys([*found, *(_OF_OPERATOR if covariance else ())]))


def _steps(task: Task, recipe: Recipe) -> Steps:
    """Return the steps that a piece reads, with the parameters where it does not read all."""
    stage, leak = task.stage, {"spectral_leak"} if "leaking" not in task.needs else set()
    if stage == "rate":
        return _of("rate", recipe)
    if stage == "mask":
        return {"cal.badpix_selfcal": None}
    if stage == "calibrate":
        return _of("cal", recipe, but={"bkg_subtract"} if task.facts["sky"] else ())
    if stage == "background":
        mixing: Steps = {"cube.master_background": ("like_jwst",)} if task.facts["measured"] else {}
        return _PLACES | _build(recipe, "point_source", "center") | mixing
    if stage == "combine":
        names = list(_of("cube", recipe, but={"trace_model"}))
        return _PLACES | dict.fromkeys(names[: names.index("cube.cube_build")])
    if stage == "cube":
        others = {*leak, *OF_ALL_BANDS}
        after: Steps = {f"cube.{one.name}": None for one in recipe.after("cube.cube_build") if one.name not in others}
        return _PLACES | {"cube.trace_model": None} | _build(recipe) | after
    if stage == "joint cube":
        more: Steps = {"cube.spectral_leak": None} if task.facts["joint"] in HOLD_3A else {}
        return _PLACES | _build(recipe) | {"cube.residual_fringe": (), "cube.trace_model": ()} | more
    if stage == "match":
        return {"cube.match_bands": None}
    if stage == "source type":
        return {"spectrum.extract_1d": _DECIDING}
    if stage == "spectrum":
        exposures = "exposures" in task.needs
        found = _of("spectrum", recipe, but={"stitch", *leak, *(() if exposures else OF_EXPOSURES)})
        found |= _but(recipe, "spectrum.extract_1d", "source_type", "both_branches")
        return found | (_PLACES if exposures else {})
    return {"spectrum.stitch": None} if stage == "stitch" else {}


def _of(level: str, recipe: Recipe, but: Collection[str] = ()) -> Steps:
    return {f"{level}.{one.name}": None for one in recipe.entries if one.level == level and one.name not in but}


def _but(recipe: Recipe, name: str, *left_out: str) -> Steps:
    return {name: [one for one in recipe.entry(name).part.takes if one not in left_out]}


def _build(recipe: Recipe, *left_out: str) -> Steps:
    return _but(recipe, "cube.cube_build", "output_type", *left_out)


def _arrivals(task: Task, whole: Arrivals) -> Arrivals:
    """Return which exposures a piece expects, and whether it may do without some."""
    facts: Any = task.facts
    if task.stage == "open":
        return whole.of_setting(*facts["of"])
    if task.stage == "calibrate" and facts["required"]:
        return whole.of_setting(BACKGROUND, facts["required"])
    asks = {"combine": "field", "cube": "expected"}.get(task.stage, "")
    return Arrivals({}, allow_missing=whole.allow_missing and bool(facts.get(asks)))
