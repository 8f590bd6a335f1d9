"""What a reduction consists of: pieces in their order, with what they need, from headers and parameters alone.

The same plan serves a tree in memory and files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mrsxr.io.files import BACKGROUND, SCIENCE
from mrsxr.mrs import BANDS, DETECTOR_OF_CHANNELS, bands_of_setting, setting_of_band

from . import pieces
from .cube_chain import HOLD_3A, joint_names
from .recipe import Recipe
from .spectrum_chain import OF_EXPOSURES

#: How an argument of a piece is served: by all that it names, by one of them at least, by those that are there.
ALL, ANY, SOME = "all", "any", "some"


@dataclass(frozen=True, eq=False)
class Task:
    """A piece of work: what it is called, the function of :mod:`pieces` that does it, and what that is given.

    ``needs`` holds for each argument how it is served and by what: things, or (task, name of its product).
    """

    stage: str
    name: str
    work: Callable[..., pieces.Made]
    needs: Mapping[str, tuple[str, tuple[Any, ...]]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    role: str = SCIENCE
    setting: str = ""
    exposure: str = ""  # that it makes

    def __getitem__(self, product: str) -> tuple[Task, str]:
        return self, product


@dataclass(frozen=True, eq=False)
class Unit:
    """An exposure, or a node of a tree: its role and setting, how many stages it has behind it, where it is."""

    role: str
    setting: str
    name: str
    exposure: str
    stage: int
    thing: Any
    readout: tuple[Any, ...] = ()  # subarray and readout pattern


@dataclass
class Planner:
    """Makes the tasks of a reduction, in an order in which each comes after what it needs."""

    recipe: Recipe
    bands: Sequence[str]
    tasks: list[Task] = field(default_factory=list)

    def add(self, stage: str, name: str, work: Callable[..., pieces.Made], needs: Mapping[str, Any], *,
            role: str = SCIENCE, setting: str = "", exposure: str = "", **facts: Any) -> Task:  # fmt: skip
        """Add a task and return it."""
        served = {key: (how, tuple(what)) for key, (how, what) in needs.items() if what}
        task = Task(stage, name, work, served, facts, role, setting, exposure)
        self.tasks.append(task)
        return task

    def exposures(self, units: Sequence[Unit], to: str, mask: Any = None) -> list[tuple[Unit, Any]]:
        """Take all exposures to cal (to rate, where no more is wanted), and say for each what it is then.

        ``mask`` takes the place of those that would be found.
        """
        goal = 1 if to == "rate" else 2
        slopes: dict[Unit, Any] = {one: one.thing for one in units if one.stage == 1}
        done: dict[Unit, Any] = {}
        for one in units:
            given = {"exposure": (ALL, [one.thing])}
            here = {"role": one.role, "setting": one.setting, "exposure": one.exposure}
            if one.stage >= goal:
                done[one] = self.add("read", one.name, pieces.take, given, **here)["taken"]
            elif one.stage == 0:
                slopes[one] = self.add("rate", one.name, pieces.make_rate, given, **here)["rate"]
        if goal == 1:
            return [(one, done.get(one, slopes.get(one))) for one in units]
        masks = self._masks(slopes) if mask is None else {one.setting[:2]: [mask] for one in slopes}
        pixel = self.recipe.runs("bkg_subtract")
        for one in (one for one in units if one in slopes):
            backgrounds = _background_slopes(one, slopes) if one.role != BACKGROUND and (pixel or masks) else []
            others = [ref for other, ref in slopes.items() if other.setting[:2] == one.setting[:2]]
            needs = {
                "exposure": (ALL, [slopes[one]]),
                "background": (SOME, backgrounds),
                "history": (SOME, others if self.recipe.runs("latents") else []),
                "mask": (SOME, masks.get(one.setting[:2], [])),
            }
            done[one] = self.add(
                "calibrate", one.name, pieces.make_cal, needs, role=one.role, setting=one.setting,
                exposure=one.exposure, sky=one.role == BACKGROUND,
                required=one.setting if pixel and backgrounds else "",
            )["cal"]  # fmt: skip
        return [(one, done[one]) for one in units]

    def _masks(self, slopes: Mapping[Unit, Any]) -> dict[str, list[Any]]:
        """Find the bad pixels of each detector, by its channels, where that is wanted."""
        if not self.recipe.runs("badpix_selfcal"):
            return {}
        return {
            channels: [self.add("mask", DETECTOR_OF_CHANNELS[channels], pieces.make_mask, {
                "exposures": (SOME, [ref for one, ref in slopes.items() if one.setting[:2] == channels]),
            })["mask"]]
            for channels in sorted({one.setting[:2] for one in slopes})
        }  # fmt: skip

    def joined(self, exposures: Iterable[tuple[Unit, Any]]) -> dict[tuple[str, str], Any]:
        """Bring the exposures of each role and setting together."""
        groups: dict[tuple[str, str], list[Any]] = {}
        wanted = any(self.recipe.runs(f"{way}_background") for way in ("master", "field"))
        for one, ref in exposures:
            groups.setdefault((one.role, one.setting), []).append(ref)
        return {
            (role, setting): self.add("open", f"{role} {setting}", pieces.join, {"exposures": (SOME, refs)},
                                      role=role, setting=setting, of=(role, setting))["joined"]
            for (role, setting), refs in groups.items() if role != BACKGROUND or wanted
        }  # fmt: skip

    def backgrounds(self, groups: Mapping[tuple[str, str], Any], *, measured: bool) -> dict[str, Task]:
        """Build the cubes of the background of each band that has exposures of it, and measure its spectra."""
        return {
            band: self.add("background", band, pieces.make_background, {"exposures": (ALL, [ref])},
                           role=role, setting=setting, band=band, measured=measured)
            for (role, setting), ref in groups.items() if role == BACKGROUND for band in self._bands_of(setting)
        }  # fmt: skip

    def combined(self, groups: Mapping[tuple[str, str], Any], backgrounds: Mapping[str, Task]) -> dict[str, Any]:
        """Combine the exposures of the target; return those of each setting."""
        field = self.recipe.runs("field_background") and any(role == BACKGROUND for role, _ in groups)
        needs = {
            "science": (ANY, [ref for (role, _), ref in groups.items() if role != BACKGROUND]),
            "background": (SOME, [ref for (role, _), ref in groups.items() if role == BACKGROUND and field]),
            "spectra": (SOME, [one["exposure spectrum|background spectrum"] for one in backgrounds.values()]),
        }
        if not needs["science"][1]:
            return {}
        task = self.add("combine", "exposures", pieces.combine_exposures, needs, bands=tuple(self.bands), field=field)
        return {setting: task[setting] for role, setting in groups if role != BACKGROUND}

    def cubes(self, combined: Mapping[str, Any], backgrounds: Mapping[str, Task]) -> dict[str, Task]:
        """Build the cube of each band of the target, that of 1B first, and those of several bands."""
        leaks, found = self.recipe.runs("cube.spectral_leak"), {}
        where = {band: setting for setting in combined for band in self._bands_of(setting)}
        blue: list[Any] = []
        for band in sorted(where, key=lambda band: band != "1B") if leaks else where:
            background = [backgrounds[band]] if band in backgrounds else []
            needs = {
                "exposures": (ALL, [combined[where[band]]]),
                "background": (SOME, [task["background spectrum"] for task in background]),
                "leaking": (SOME, blue if band == "3A" else []),
            }
            found[band] = self.add("cube", band, pieces.make_cube, needs, setting=where[band], band=band,
                                   expected=any(task.facts["measured"] for task in background))  # fmt: skip
            blue = [found["1B"]["cube"]] if leaks and "1B" in found else []
        found = {band: found[band] for band in where}
        for name in joint_names(list(combined), self.recipe):
            sources = [ref for setting, ref in combined.items() if name == "multi" or name[2:] in setting[:2]]
            needs = {"exposures": (ANY, sources), "leaking": (SOME, blue if name in HOLD_3A else [])}
            found[name] = self.add("joint cube", name, pieces.make_joint_cube, needs, joint=name)
        return found

    def matched(self, cubes: Iterable[Any]) -> Task | None:
        """Bring the cubes of single bands to one scale, where that is wanted and there are several."""
        given = list(cubes)
        if len(given) < 2 or not self.recipe.runs("match_bands"):
            return None
        return self.add("match", "bands", pieces.match_cubes, {"cubes": (ANY, given)})

    def spectra(self, cubes: Mapping[str, Any], exposures: Mapping[str, Any]) -> tuple[dict[str, Task], Task]:
        """Extract the spectra of cubes of single bands and stitch them."""
        leaks, found = self.recipe.runs("spectrum.spectral_leak"), {}
        decided = self.add("source type", "target", pieces.decide_source_type, {"cubes": (ANY, cubes.values())})
        blue: list[Any] = []
        for band in sorted(cubes, key=lambda band: band != "1B"):
            sources = exposures.get(band) if any(map(self.recipe.runs, OF_EXPOSURES)) else None
            needs = {
                "cube": (ALL, [cubes[band]]),
                "decision": (ALL, [decided["decision"]]),
                "exposures": (ALL, [sources] if sources else []),
                "leaking": (SOME, blue if band == "3A" else []),
            }
            found[band] = self.add("spectrum", band, pieces.make_spectra, needs, setting=setting_of_band(band))
            blue = [found["1B"]["spectrum"]] if "1B" in found and leaks else []
        found = {band: found[band] for band in cubes}
        needs = {"spectra": (ANY, [task["spectrum"] for task in found.values()])}
        return found, self.add("stitch", "target", pieces.stitch, needs)

    def whole(self, units: Sequence[Unit], to: str) -> None:
        """Take exposures to the level that is wanted."""
        exposures = self.exposures(units, to)
        if to in ("rate", "cal"):
            return
        groups = self.joined(exposures)
        backgrounds = self.backgrounds(groups, measured=True) if self.recipe.runs("master_background") else {}
        combined = self.combined(groups, backgrounds)
        built = self.cubes(combined, backgrounds)
        single = {band: task["cube"] for band, task in built.items() if band in BANDS}
        self.matched(single.values())
        if to == "spectrum" and built:
            self.spectra(single, {band: combined[setting_of_band(band)] for band in single})

    def _bands_of(self, setting: str) -> list[str]:
        return [band for band in bands_of_setting(setting) if band in self.bands]


def _background_slopes(one: Unit, slopes: Mapping[Unit, Any]) -> list[Any]:
    """Return the background exposures for one of the target: of its setting and, where there are such, its readout."""
    sky = [other for other in slopes if other.role == BACKGROUND and other.setting == one.setting]
    fit = [other for other in sky if other.readout[:1] == one.readout[:1]]
    readout = next((other.readout for other in fit if other.readout == one.readout), fit[0].readout if fit else ())
    return [slopes[other] for other in fit if other.readout == readout]
