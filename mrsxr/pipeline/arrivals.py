"""Did all exposures of a band arrive? A band is not built silently from the rest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from mrsxr import dq as flags
from mrsxr import mrs
from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.io.files import BACKGROUND, FileInfo
from mrsxr.io.grouping import Plan, bands_missing
from mrsxr.notes import listen, noted, tell
from mrsxr.threads import how

if TYPE_CHECKING:
    from .recipe import Recipe

ADVICE = "mend it, or build from the rest (allow_missing, --allow-missing)"


@dataclass(frozen=True)
class Arrivals:
    """The exposures that were planned for each role and setting, and files that could not be read."""

    planned: dict[tuple[str, str], list[str]]
    unread: Mapping[str, str] = field(default_factory=dict)  # path: reason
    owners: Mapping[tuple[str, ...], set[tuple[str, str]]] = field(default_factory=dict)  # of each activity
    allow_missing: bool = False

    @classmethod
    def of(cls, plan: Plan, unread: Mapping[str, str], allow_missing: bool, files: Iterable[FileInfo] = ()) -> Arrivals:
        """Return what is to arrive by a plan; ``files``, all that were read, tell whose an unread one may be."""
        owners: dict[tuple[str, ...], set[tuple[str, str]]] = {}
        for info in files:
            owners.setdefault(_activity(info.exposure), set()).add((info.role, info.node))
        planned: dict[tuple[str, str], list[str]] = {}
        for one in plan.exposures:
            planned.setdefault((one.role, one.node), []).append(one.name)
        return cls(planned, unread, owners, allow_missing)

    def of_setting(self, role: str, setting: str) -> Arrivals:
        """Return what is to arrive of one role and setting."""
        planned = {key: names for key, names in self.planned.items() if key == (role, setting)}
        return replace(self, planned=planned, owners=self.owners if self.unread else {})

    def missing(self, role: str, setting: str, came: Iterable[str]) -> list[str]:
        """Return the names of exposures that did not arrive, files that may be of the setting included."""
        here = set(came)
        lost = [name for name in self.planned.get((role, setting), []) if name not in here]
        detector = mrs.DETECTOR_OF_CHANNELS[setting[:2]].lower()
        others = [d.lower() for d in mrs.DETECTOR_OF_CHANNELS.values() if d.lower() != detector]
        for name in (Path(path).name for path in self.unread):
            root, _, suffix = name.split(".")[0].rpartition("_")
            of_another = any(other in name.lower() for other in others) or suffix in ("s3d", "x1d", "lines")
            known = self.owners.get(_activity(root)) if root else None
            if not of_another and root not in here and (known is None or (role, setting) in known):
                lost.append(name)
        return lost

    def check(self, role: str, setting: str, came: Iterable[str], ds: xr.Dataset) -> xr.Dataset:
        """Return the exposures that came, with a note where some did not, which must be allowed."""
        came = list(came)
        lost = self.missing(role, setting, came)
        if not lost:
            return ds
        total = len(came) + len(lost)
        text = f"{role} {setting}: {len(lost)} of {total} exposures did not arrive ({', '.join(lost)})"
        if not self.allow_missing:
            raise MrsxrError(f"{text}; {ADVICE}")
        return of_fewer(ds, len(came), total, f"{text}; {len(came)} used")


def check_usable(ds: xr.Dataset, where: str) -> xr.Dataset:
    """Return joined exposures, with a note where some have no usable pixel; raise where none has one."""
    usable = flags.good(ds["flux"], ds["dq"]).any(("y", "x")).compute(**how()).values
    if usable.all():
        return ds
    blind = ", ".join(map(str, ds["exposure"].values[~usable]))
    if not usable.any():
        raise MrsxrError(f"{where}: no exposure has a usable pixel ({blind}); look at their DQ and at the raw files")
    planned = int(ds.attrs.get("exposures_planned", usable.size))
    text = f"{where}: {(~usable).sum()} of {usable.size} exposures have no usable pixel ({blind})"
    return of_fewer(ds, int(usable.sum()), planned, f"{text}; {usable.sum()} used")


def _activity(exposure: str) -> tuple[str, ...]:
    """Return what the names of the exposures of a dither pattern have in common: visit, activity and detector."""
    parts = exposure.lower().split("_")
    return (*parts[:2], *parts[3:4])


def of_fewer(ds: xr.Dataset, used: int, planned: int, text: str) -> xr.Dataset:
    """Return exposures that say how many of how many they are: in attrs, keywords of products and a note."""
    with listen() as heard:
        tell(text)
    return noted(ds.assign_attrs(exposures_used=used, exposures_planned=planned), heard)


def check_background(plan: Plan, recipe: Recipe, given: Any, to: str, *, allow_missing: bool = False) -> None:
    """Raise where background exposures were given and none is there, or are asked for and lacking in a band.

    Parameters
    ----------
    plan : Plan
    recipe : Recipe
    given : path or None
        Where background exposures were to be found.
    to : str
        Level up to which is worked.
    allow_missing : bool
        Whether bands may go without.
    """
    have = {one.node for one in plan.exposures if one.role == BACKGROUND}
    science = {one.node for one in plan.exposures if one.role != BACKGROUND}
    if given is not None and not have:
        raise InputFileError(f"{given}: no background exposures of these bands found; leave it out, or look there")
    pixel = recipe.runs("bkg_subtract")
    ways = [n for n in ("master", "field") if recipe.runs(f"{n}_background")]
    asked = pixel or any(recipe.values(f"{way}_background")["required"] for way in ways)
    lost = bands_missing(have, science)
    if not asked or not lost or to == "rate" or (to == "cal" and not pixel) or (have and allow_missing):
        return
    way = recipe.values("bkg_subtract")["method"] if pixel else ways[0]
    raise MrsxrError(
        f"background '{way}' is asked for and there are no background exposures of the bands {', '.join(lost)}; give "
        'some (background=, --background-from), or take background "none" or "annulus"'
    )


def one_of_each_band(cubes: Sequence[FileInfo]) -> Sequence[FileInfo]:
    """Return cubes of single bands; raise where two are of one band, as a spectrum is taken of one."""
    seen: dict[str, FileInfo] = {}
    for cube in cubes:
        if cube.node in seen:
            raise InputFileError(
                f"{seen[cube.node].path} and {cube.path} are both cubes of band {cube.node}; give one of each band"
            )
        seen[cube.node] = cube
    return cubes
