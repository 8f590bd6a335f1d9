"""Do the pointings of exposures agree with their dither offsets and with each other?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrsxr.geometry.fields import separation
from mrsxr.geometry.sky import Pointing, v2v3_to_sky

from .files import FileInfo

AGREE = 0.3  # arcsec
TILE = 2.0  # arcsec; nearer anchors are no tiles of a mosaic
_REFERENCE = ("RA_REF", "DEC_REF", "ROLL_REF", "V2_REF", "V3_REF")


def pointing_notes(infos: Sequence[FileInfo]) -> dict[FileInfo, list[str]]:
    """Return what must be known of the pointing of exposures.

    Parameters
    ----------
    infos : sequence of FileInfo

    Returns
    -------
    dict of FileInfo to list of str
        Of those only of which there is something to say: planned instead of measured (ENGQLPTG), off by more than
        0.3 arcsec from what the dither offsets (XOFFSET, YOFFSET) of its set say, or a set off from the others.

    Notes
    -----
    The pointing less the dither offset is the same for all exposures of an activity, and for all activities that look
    at one tile. The offsets are those of the target in the ideal frame, X = -(V2 - V2_REF), Y = V3 - V3_REF;
    headers whose offsets mean the opposite are told by the smaller scatter.
    """
    out: dict[FileInfo, list[str]] = {}
    for info in infos:
        if str(info.keywords.get("ENGQLPTG") or "").strip().upper() == "PLANNED":
            out.setdefault(info, []).append(
                f"{info.exposure}: its pointing is the planned one (ENGQLPTG), not measured; its place is uncertain"
            )
    fixed = [i for i in infos if _known(i) and str(i.keywords.get("TARGTYPE", "")).upper() != "MOVING"]
    for visit in _grouped(fixed, ("PROGRAM", "OBSERVTN", "VISIT")):
        sets = _grouped(visit, ("VISITGRP", "SEQ_ID", "ACT_ID"), activity=True)
        sign = min((1.0, -1.0), key=lambda s: _scatter(sets, s))
        for info, text in _deviants(sets, sign):
            out.setdefault(info, []).append(text)
    return out


def _known(info: FileInfo) -> bool:
    return all(isinstance(info.pointing.get(k), int | float) and math.isfinite(info.pointing[k]) for k in _REFERENCE)


def _grouped(infos: Sequence[FileInfo], keys: Sequence[str], *, activity: bool = False) -> list[list[FileInfo]]:
    groups: dict[tuple[Any, ...], list[FileInfo]] = {}
    for info in infos:
        key: tuple[Any, ...] = tuple(str(info.keywords.get(k)) for k in keys)
        if activity and any(info.keywords.get(k) is None for k in keys):
            key = (info.keywords.get("BAND"),)  # each grating is an activity of its own
        groups.setdefault(key, []).append(info)
    return list(groups.values())


def _anchors(infos: Sequence[FileInfo], sign: float) -> np.ndarray:
    """Return where the zero of the dither pattern lies by each exposure, (exposure, 2) [deg]."""
    out = []
    for info in infos:
        offset = [info.keywords.get(key) for key in ("XOFFSET", "YOFFSET")]
        x, y = (float(v) if isinstance(v, int | float) and math.isfinite(v) else 0.0 for v in offset)
        ra, dec, roll, v2, v3 = (float(info.pointing[key]) for key in _REFERENCE)
        place = v2v3_to_sky(v2 - sign * x, v3 + sign * y, Pointing(ra, dec, roll, v2, v3))
        out.append([float(place[0]), float(place[1])])
    return np.array(out)


def _distances(places: np.ndarray) -> np.ndarray:
    return separation(places[:, None, 0], places[:, None, 1], places[None, :, 0], places[None, :, 1])


def _scatter(sets: Sequence[list[FileInfo]], sign: float) -> float:
    return float(sum(np.median(_distances(_anchors(members, sign)), axis=1).sum() for members in sets))


def _comparable(members: Sequence[FileInfo]) -> bool:
    """Return whether dither offsets are known, or all exposures are at one dither position."""
    offsets = all(info.keywords.get("XOFFSET") is not None for info in members)
    dithers = {info.dither for info in members}
    return offsets or (len(dithers) == 1 and 0 not in dithers)


def _deviants(sets: Sequence[list[FileInfo]], sign: float) -> list[tuple[FileInfo, str]]:
    out, centres = [], []
    for members in (m for m in sets if _comparable(m)):
        places = _anchors(members, sign)
        distance = _distances(places)
        most = int(np.argmax((distance <= AGREE).sum(axis=1)))
        centres.append((places[most], members))
        for k in np.flatnonzero(distance[most] > AGREE):
            out.append((members[k], (
                f"{members[k].exposure}: its pointing is {distance[most, k]:.2f} arcsec off what its dither offset and "
                f"that of {members[most].exposure} say"
            )))  # fmt: skip
    return out + _odd_sets(centres)


def _odd_sets(centres: Sequence[tuple[np.ndarray, list[FileInfo]]]) -> list[tuple[FileInfo, str]]:
    """Return whole sets that lie off the others of the visit and are no tile of a mosaic."""
    if len(centres) < 2:
        return []
    distance = _distances(np.array([place for place, _ in centres]))
    most = int(np.argmax((distance <= AGREE).sum(axis=1)))
    near = [i.node for k, (_, members) in enumerate(centres) if distance[most, k] <= AGREE for i in members]
    out = []
    for k in map(int, np.flatnonzero(distance[most] > AGREE)):
        beside = [i.node for j, (_, members) in enumerate(centres) if distance[k, j] <= AGREE for i in members]
        if distance[most, k] >= TILE and set(beside) == set(near):
            continue
        for info in centres[k][1]:
            out.append((info, f"{info.exposure}: its pointing is {distance[most, k]:.2f} arcsec off that of "
                              f"{centres[most][1][0].exposure}, whose target and visit it shares"))  # fmt: skip
    return out
