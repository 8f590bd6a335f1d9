"""What belongs together: which files are one exposure, and which exposures make one product. By headers alone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mrsxr import mrs
from mrsxr.errors import InputFileError
from mrsxr.geometry.fields import fields, separation

from ._pointing import pointing_notes
from .files import BACKGROUND, DETECTOR_PRODUCTS, SCIENCE, FileInfo

#: Products whose segments hold integrations that can be joined.
JOINED = ("uncal", "ramp", "rateints")
_SEGMENT = re.compile(r"-seg(\d+)", re.IGNORECASE)
_IDENTITY = (
    "PROGRAM", "OBSERVTN", "VISIT", "VISITGRP", "SEQ_ID", "ACT_ID", "EXPOSURE", "DETECTOR", "BAND", "PATT_NUM",
    "EXPSTART", "TARGNAME",
)  # fmt: skip


@dataclass(frozen=True)
class Exposure:
    """One exposure: its file, or the files of its segments in order, and what must be known of it."""

    files: tuple[FileInfo, ...]
    name: str  # file root, without the segment where its segments are joined
    notes: tuple[str, ...] = ()

    @property
    def info(self) -> FileInfo:
        """The first file."""
        return self.files[0]

    @property
    def role(self) -> str:
        """Science or background."""
        return self.info.role

    @property
    def node(self) -> str:
        """Setting ("12A")."""
        return self.info.node

    @property
    def layout(self) -> tuple[Any, ...]:
        """What exposures must have in common to be one Dataset: size and readout of the ramps, at last the subarray."""
        keywords = self.info.keywords
        if self.info.product not in JOINED:
            return tuple(keywords.get(key) for key in ("SUBARRAY", "READPATT")[: 1 + (self.info.product == "rate")])
        held = [_integrations(info) for info in self.files]
        return (*(keywords.get(key) for key in ("NGROUPS", "READPATT", "SUBARRAY")), tuple(held))


@dataclass(frozen=True)
class Field:
    """Exposures that make one product: one role, one target, pointings that overlap or abut."""

    role: str
    target: str
    exposures: tuple[Exposure, ...]

    @property
    def place(self) -> tuple[float, float]:
        """Pointing of the first exposure [deg]; NaN where it is not known."""
        return _place(self.exposures[0].info)

    def __str__(self) -> str:
        observations = sorted({str(e.info.keywords.get("OBSERVTN") or "?") for e in self.exposures})
        return f"{self.target or '(no name)'} (observation {', '.join(observations)}, {len(self.exposures)} exposures)"


@dataclass(frozen=True)
class Plan:
    """What belongs together of the files of an observation."""

    exposures: list[Exposure]
    fields: list[Field]
    notes: list[str]  # what was done, and what is odd about some exposures
    problems: list[str]  # what stands against any product

    @property
    def mixed(self) -> str | None:
        """Why the science exposures do not make one product, None where they do."""
        science = [field for field in self.fields if field.role == SCIENCE]
        if len(science) < 2:
            return None
        apart = separation(*science[0].place, *science[1].place)
        where = f", {float(apart):.0f} arcsec apart" if float(apart) > 1 else ""
        return (
            f"the exposures are of {len(science)} fields, which make a product each: "
            f"{'; '.join(map(str, science))}{where}; give the files of one of them (a list or a pattern), backgrounds "
            "by background= (--background-from), or an association of what is to be one product"
        )

    def check(self, source: Any, *, one_product: bool = True) -> Plan:
        """Return the plan; raise InputFileError, in one line, where something stands against a product of it."""
        wrong = [*self.problems, *([self.mixed] if one_product and self.mixed else [])]
        if wrong:
            named = f"{len(source)} files" if isinstance(source, list | tuple) else source
            more = f" (and {len(wrong) - 1} more such)" if len(wrong) > 1 else ""
            raise InputFileError(f"{named}: {wrong[0]}{more}")
        return self


def plan(
    files: Iterable[FileInfo], *, prefer: str = "advanced", allow_missing: bool = False, one_product: bool = False
) -> Plan:
    """Decide which files are one exposure and which exposures make one product.

    Parameters
    ----------
    files : iterable of FileInfo
        Exposures (uncal ... cal, crf); others are left out.
    prefer : {"advanced", "raw"}
        Of several products of one exposure the one that is taken.
    allow_missing : bool
        Whether an exposure with missing segments is taken all the same.
    one_product : bool
        That somebody has said that the science exposures make one product (an association of level 3).

    Returns
    -------
    Plan
        Exposures in the order of program, observation, visit and dither.

    Notes
    -----
    Two files are one exposure where their headers agree in program, visit, activity, exposure number, detector, band,
    time and pointing, whatever they are called. Science exposures make one product where target (TARGNAME) and
    field agree: pointings that overlap or abut. Moving targets have no place.
    """
    detector = [info for info in files if info.product in DETECTOR_PRODUCTS]
    chosen, notes, problems = _exposures(detector, prefer, allow_missing)
    odd = pointing_notes([e.info for e in chosen])
    told = [tuple(odd.get(info, ()) for info in e.files) for e in chosen]
    chosen = [
        replace(e, notes=(*e.notes, *(text for texts in more for text in texts)))
        for e, more in zip(chosen, told, strict=True)
    ]
    notes += [text for e in chosen for text in e.notes]
    order = [SCIENCE, BACKGROUND]
    found = [field for role in order for field in _fields([e for e in chosen if e.role == role], one_product)]
    return Plan(chosen, found, list(dict.fromkeys(notes)), problems)


def key_of(info: FileInfo) -> tuple[Any, ...]:
    """Return what tells an exposure from others: facts of its header, else the root of its name; the segment last."""
    keywords = info.keywords
    segment = segment_of(info)
    if any(keywords.get(key) is None for key in ("EXPSTART", "EXPOSURE", "OBSERVTN")):
        return ("name", root_of(info), segment)
    facts = tuple(str(keywords.get(key)).strip().upper() for key in _IDENTITY)
    return (*facts, tuple(f"{value:.6f}" for value in _place(info)), segment)


def root_of(info: FileInfo) -> str:
    """Return the exposure root without segment and without the association id that crf files carry."""
    parts = _SEGMENT.sub("", info.exposure).split("_")
    if info.product == "crf" and len(parts) > 1 and parts[-1][:1] in "oca" and parts[-1][1:].isdigit():
        return "_".join(parts[:-1])
    return "_".join(parts)


def segment_of(info: FileInfo) -> int:
    """Return the number of a segment, 0 of a whole exposure."""
    number, total = info.keywords.get("EXSEGNUM"), info.keywords.get("EXSEGTOT")
    named = _SEGMENT.search(info.exposure)
    if isinstance(number, int) and isinstance(total, int) and total > 1:
        return number
    return int(named.group(1)) if named else 0


def _exposures(
    files: Sequence[FileInfo], prefer: str, allow_missing: bool
) -> tuple[list[Exposure], list[str], list[str]]:
    notes: list[str] = []
    problems: list[str] = []
    together: dict[tuple[Any, ...], list[FileInfo]] = {}
    for info in files:
        together.setdefault(key_of(info)[:-1], []).append(info)
    together = _by_name(together)
    rank = DETECTOR_PRODUCTS if prefer == "advanced" else tuple(reversed(DETECTOR_PRODUCTS))
    chosen: list[Exposure] = []
    several: dict[str, list[str]] = {}
    for members in together.values():
        product, segments = _best_product(members, rank)
        kinds = sorted({info.product for info in members}, key=DETECTOR_PRODUCTS.index)
        if len(kinds) > 1:
            several.setdefault(f"{' and '.join(kinds)}: the {product} is taken", []).append(root_of(members[0]))
        kept = [_one_copy(copies, notes) for _, copies in sorted(segments.items())]
        missing = _missing(kept)
        if missing and not allow_missing:
            problems.append(f"{missing}; find it, or take the rest by allow_missing")
        told = (f"{missing}; the rest is used",) if missing and allow_missing else ()
        if product in JOINED and len(kept) > 1:
            problems += _gaps(kept)
            chosen.append(Exposure(tuple(kept), root_of(kept[0]), told))
            continue
        if len(kept) > 1:
            notes.append(f"{root_of(kept[0])}: its {len(kept)} segments are slopes already and count as exposures")
        chosen += [Exposure((info,), info.exposure, told) for info in kept]
    for text, names in several.items():
        notes.append(f"{len(names)} exposures are there as {text}")
    problems += _same_names(chosen)
    return sorted(chosen, key=lambda e: (e.role != SCIENCE, e.info.order)), notes, problems


def _by_name(together: dict[tuple[Any, ...], list[FileInfo]]) -> dict[tuple[Any, ...], list[FileInfo]]:
    """Bring files without the facts in their headers to those of the same name."""
    known = {root_of(info): key for key, members in together.items() if key[0] != "name" for info in members}
    out: dict[tuple[Any, ...], list[FileInfo]] = {}
    for key, members in together.items():
        out.setdefault(known.get(key[1], key) if key[0] == "name" else key, []).extend(members)
    return out


def _best_product(members: Sequence[FileInfo], rank: Sequence[str]) -> tuple[str, dict[int, list[FileInfo]]]:
    """Return the preferred product of those that are whole, else that with most segments, and its files by segment."""
    found: dict[str, dict[int, list[FileInfo]]] = {}
    for info in members:
        found.setdefault(info.product, {}).setdefault(segment_of(info), []).append(info)
    totals = [info.keywords.get("EXSEGTOT") for info in members if segment_of(info)]
    whole = max([n for n in totals if isinstance(n, int)], default=1)

    def worth(product: str) -> tuple[int, int]:
        segments = found[product]
        return whole if 0 in segments else len(segments), -rank.index(product)

    best = max(found, key=worth)
    if 0 in found[best] and len(found[best]) > 1:
        return best, {0: found[best][0]}
    return best, found[best]


def _one_copy(copies: Sequence[FileInfo], notes: list[str]) -> FileInfo:
    """Return one of the files that are one exposure; background by whoever says so."""

    def worth(info: FileInfo) -> tuple[Any, ...]:
        own_name = info.path.name == info.keywords.get("FILENAME")
        return info.role != BACKGROUND, not own_name, len(info.path.parts), str(info.path)

    first = min(copies, key=worth)
    if len(copies) > 1:
        others = ", ".join(str(info.path) for info in copies if info is not first)
        notes.append(f"{root_of(first)} is there {len(copies)} times and counted once: {first.path}, not {others}")
    return first


def _missing(segments: Sequence[FileInfo]) -> str | None:
    numbers = [segment_of(info) for info in segments]
    if numbers == [0]:
        return None
    totals = [info.keywords.get("EXSEGTOT") for info in segments]
    total = max([t for t in totals if isinstance(t, int)] + numbers)
    lost = [str(n) for n in range(1, total + 1) if n not in numbers]
    return f"{root_of(segments[0])}: segment {', '.join(lost)} of {total} is missing" if lost else None


def _gaps(segments: Sequence[FileInfo]) -> list[str]:
    """Return what is wrong with the integrations of segments: overlaps, and gaps between neighbours."""
    out = []
    for one, other in itertools.pairwise(segments):
        end, start = one.keywords.get("INTEND"), other.keywords.get("INTSTART")
        follows = segment_of(other) == segment_of(one) + 1
        if isinstance(end, int) and isinstance(start, int) and (start <= end or (follows and start != end + 1)):
            out.append(
                f"{other.path}: begins with integration {start}, but segment {segment_of(one)} ends with {end}; "
                "expected the next one"
            )
        if one.keywords.get("NGROUPS") != other.keywords.get("NGROUPS"):
            out.append(f"{other.path}: has other NGROUPS than segment {segment_of(one)} of the exposure")
    return out


def _same_names(exposures: Sequence[Exposure]) -> list[str]:
    first: dict[tuple[str, str], Exposure] = {}
    out = []
    for e in exposures:
        other = first.setdefault((e.role, e.name), e)
        if other is not e:
            keys = [k for k in (*_IDENTITY,) if e.info.keywords.get(k) != other.info.keywords.get(k)]
            out.append(
                f"{e.info.path} and {other.info.path} have one name and differ in {', '.join(keys) or 'pointing'}; "
                "keep one, or rename it"
            )
    return out


def _fields(exposures: Sequence[Exposure], one_product: bool) -> list[Field]:
    if not exposures:
        return []
    names = [str(e.info.keywords.get("TARGNAME") or e.info.keywords.get("TARGPROP") or "") for e in exposures]
    if one_product:
        return [Field(exposures[0].role, names[0], tuple(exposures))]
    moving = [str(e.info.keywords.get("TARGTYPE", "")).upper() == "MOVING" for e in exposures]
    places = [(float("nan"),) * 2 if m else _place(e.info) for e, m in zip(exposures, moving, strict=True)]
    at = fields([p[0] for p in places], [p[1] for p in places])
    plain = [re.sub(r"[^A-Z0-9]+", "", name.upper()) for name in names]
    named = {int(k): name for k, name in zip(at, plain, strict=True) if name}
    keys = [(name or named.get(int(k), ""), int(k)) for k, name in zip(at, plain, strict=True)]
    keys = [(name, 0) if m else (name, k) for (name, k), m in zip(keys, moving, strict=True)]
    return [
        Field(
            exposures[0].role,
            next((n for n, k in zip(names, keys, strict=True) if k == key and n), ""),
            tuple(e for e, k in zip(exposures, keys, strict=True) if k == key),
        )
        for key in dict.fromkeys(keys)
    ]


def _place(info: FileInfo) -> tuple[float, float]:
    ra, dec = (info.pointing.get(key) for key in ("RA_REF", "DEC_REF"))
    if isinstance(ra, int | float) and isinstance(dec, int | float):
        return float(ra), float(dec)
    return float("nan"), float("nan")


def _integrations(info: FileInfo) -> Any:
    first, last = info.keywords.get("INTSTART"), info.keywords.get("INTEND")
    if segment_of(info) and isinstance(first, int) and isinstance(last, int):
        return last - first + 1
    return info.keywords.get("NINTS")


def bands_missing(have: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Return the bands of settings ``wanted`` that the settings ``have`` do not cover, in order."""
    have = set(have)
    return [band for setting in mrs.SETTINGS if setting in set(wanted) - have for band in mrs.bands_of_setting(setting)]
