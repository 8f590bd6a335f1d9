"""Which exposures make a product each: the observations and targets of a folder, with their backgrounds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrsxr.errors import MrsxrError
from mrsxr.geometry.fields import separation
from mrsxr.io.files import SCIENCE, FileInfo
from mrsxr.io.grouping import Exposure, Field, Plan, key_of, plan
from mrsxr.notes import tell


@dataclass(frozen=True)
class Observation:
    """Exposures, or cubes, of one product; ``title`` is the name of its folder, "" where it is the only one."""

    title: str
    plan: Plan
    cubes: Sequence[FileInfo] = ()

    @property
    def files(self) -> list[FileInfo]:
        """All its files."""
        return [info for one in self.plan.exposures for info in one.files] or list(self.cubes)


def observations(
    files: Sequence[FileInfo], check: Callable[[Plan], Any], *, allow_missing: bool, one_product: bool,
    all_backgrounds: bool,
) -> tuple[list[Observation], dict[str, str]]:  # fmt: skip
    """Return the products that exposures make: pointings of a target that overlap or abut are one.

    Parameters
    ----------
    files : sequence of FileInfo
    check : callable
        Raises MrsxrError where something stands against a plan.
    allow_missing, one_product : bool
        As of :func:`mrsxr.io.grouping.plan`.
    all_backgrounds : bool
        That the background exposures were given, for all; else those of the same program are taken.

    Returns
    -------
    list of Observation
        Named by program and observations, ``02732-o004``, and by the target where that is not enough. Of several
        fields of background exposures each setting has those nearest on the sky.
    dict
        What stands against some of them, by name; the others do not suffer for it.

    Raises
    ------
    MrsxrError
        Where something stands against all.
    """
    options: dict[str, Any] = {"allow_missing": allow_missing, "one_product": one_product}
    whole = plan(files, **options)
    science = [field for field in whole.fields if field.role == SCIENCE]
    if len(science) < 2:
        check(whole)
        return [Observation("", whole)], {}
    backgrounds = [field for field in whole.fields if field.role != SCIENCE]
    names = [_name(field) for field in science]
    titles = [name if names.count(name) == 1 else f"{name}_{_slug(one.target)}"
              for name, one in zip(names, science, strict=True)]  # fmt: skip
    titles = [title if titles.count(title) == 1 else f"{title}-{titles[:k].count(title) + 1}"
              for k, title in enumerate(titles)]  # fmt: skip
    by_key: dict[Any, list[FileInfo]] = {}
    for info in files:
        by_key.setdefault(key_of(info)[:-1], []).append(info)
    found: list[Observation] = []
    refused: dict[str, MrsxrError] = {}
    for title, field in zip(titles, science, strict=True):
        exposures = [*field.exposures, *_nearest(field, backgrounds, all_backgrounds)]
        members = dict.fromkeys(key_of(info)[:-1] for one in exposures for info in one.files)
        parts = plan([info for key in members for info in by_key[key]], **options)
        try:
            check(parts)
            found.append(Observation(title, parts))
        except MrsxrError as error:
            refused[title] = error
    if not found:
        raise next(iter(refused.values()))
    tell(f"the exposures are of {len(science)} fields, which make a product each, in folders of their own "
         f"({', '.join(titles[:4])}{' ...' if len(titles) > 4 else ''}); where some are the background of others, give "
         "these by background= (--background-from)", aloud=False)  # fmt: skip
    return found, {title: str(error) for title, error in refused.items()}


def apart(unread: Mapping[str, str], found: Sequence[Observation]) -> list[dict[str, str]]:
    """Return of files that could not be read those that may be of each observation, by the visits in their names.

    One of a visit that no observation has is of none: nothing of its own could be read. A name that tells no visit may
    be of any.
    """
    visits = [{info.path.name.lower().partition("_")[0] for info in one.files} for one in found]
    out: list[dict[str, str]] = [{} for _ in found]
    for path, reason in unread.items():
        visit = Path(path).name.lower().partition("_")[0]
        tells = re.fullmatch(r"jw[0-9]{11}", visit) is not None
        theirs = [visit in one for one in visits]
        if tells and not any(theirs):  # perhaps another visit of the observation
            theirs = [any(other.startswith(visit[:-3]) for other in one) for one in visits]
        for files, its in zip(out, theirs, strict=True):
            if its or not tells:
                files[path] = reason
    return out


def _nearest(field: Field, backgrounds: Sequence[Field], all_backgrounds: bool) -> list[Exposure]:
    """Return the background exposures of each setting of a field that are nearest to it."""
    programs = _values(field.exposures, "PROGRAM")
    found: list[Exposure] = []
    for setting in dict.fromkeys(one.node for one in field.exposures):
        fits = [
            (one, [e for e in one.exposures if e.node == setting]) for one in backgrounds
            if all_backgrounds or programs & _values(one.exposures, "PROGRAM")
        ]  # fmt: skip
        fits = [(one, exposures) for one, exposures in fits if exposures]
        away = [float(separation(*field.place, *one.place)) for one, _ in fits]
        if fits:
            found += fits[int(np.argmin(np.where(np.isfinite(away), away, np.inf)))][1]
    return found


def _name(field: Field) -> str:
    programs, numbers = (sorted(_values(field.exposures, key)) for key in ("PROGRAM", "OBSERVTN"))
    return "-".join([*(one.zfill(5) for one in programs), *(f"o{one.zfill(3)}" for one in numbers)]) or "observation"


def _values(exposures: Iterable[Exposure], key: str) -> set[str]:
    return {str(one.info.keywords[key]) for one in exposures if one.info.keywords.get(key) is not None}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "target"
