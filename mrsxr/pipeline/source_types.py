"""Point or extended: what the user, the headers and the images say, and whose word counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from mrsxr import spectrum
from mrsxr.attributes import widened
from mrsxr.errors import MrsxrError
from mrsxr.notes import listen, noted, tell
from mrsxr.scores import gains, score

if TYPE_CHECKING:
    from .recipe import Recipe

_KNOWN = ("POINT", "EXTENDED")
_VOTE = 0.05  # misfits so small are one


def source_types_of(
    cubes: Sequence[xr.Dataset], recipe: Recipe, decision: dict[str, Any] | None = None
) -> tuple[str, ...]:
    """Return the type of a source, "POINT" or "EXTENDED": what the user, the headers or the images say.

    Parameters
    ----------
    cubes : sequence of Dataset, level "cube"
        All of one target.
    recipe : Recipe
        Its step extract_1d says ``source_type``, ``both_branches``, ``region`` and ``center``.
    decision : dict, optional
        Gets ``header`` (what the headers say, None where nothing), ``decided_by`` ("user", "region", "header", "images"
        or "default"), ``notes``; and, where the images were looked at, their ``score`` and whether it is ``ambiguous``.
        :func:`marked` writes it into the spectra.

    Returns
    -------
    tuple of str
        One type for all cubes; the other after it where the images are ambiguous and ``both_branches``.

    Raises
    ------
    MrsxrError
        Where ``source_type`` is "header" and the headers contradict each other.

    Notes
    -----
    With "auto" a clear score of the images overrules the headers (jwst takes EXTENDED where these say nothing), if
    windows of wavelength that were left out speak less against it (``score_source_type`` of the spectra). Where it is
    ambiguous the headers count, and where they say nothing the type that the images are nearer to. Both are told.
    "header" without a word in the headers is EXTENDED, as in jwst. Cubes whose PSF was made wider go by the headers.
    """
    facts: dict[str, Any] = {"header": None}
    with listen() as notes:
        kinds = _decide(cubes, recipe.values("extract_1d"), facts)
    if decision is not None:
        decision |= facts | {"notes": notes}
    return kinds


def _decide(cubes: Sequence[xr.Dataset], asked: Mapping[str, Any], facts: dict[str, Any]) -> tuple[str, ...]:
    if asked["region"] is not None:
        facts["decided_by"] = "region"
        return ("EXTENDED",)
    said = _headers(cubes)
    facts["header"] = _one(said)
    if asked["source_type"] in _KNOWN:
        facts["decided_by"] = "user"
        return (asked["source_type"],)
    wider = sorted({word for ds in cubes if (word := widened(ds))})
    if wider and asked["source_type"] != "header":
        tell(f"the cubes are {wider[0]}, by which no point is told: the headers say what the source is", stacklevel=3)
    if wider or asked["source_type"] == "header":
        return (_of_headers(said, facts),)
    images = spectrum.decide_source_type(cubes, center=asked["center"])
    kind, score = str(images.attrs["source_type"]), float(images.attrs["score"])
    facts |= {"score": score, "ambiguous": bool(images.attrs["ambiguous"]), "decided_by": "images"}
    plain = facts["header"] or "EXTENDED"
    if not facts["ambiguous"] and kind != plain:
        misfits = [float(images.attrs[name]) + _VOTE for name in ("misfit", f"misfit_{plain.lower()}")]
        facts["judged"] = misfits[0] / misfits[1]
        if not gains(facts["judged"]):
            facts["decided_by"] = "header" if facts["header"] else "default"
            tell(f"the images say {kind}, but not in all windows of wavelength: {plain} is taken; source_type decides "
                 "otherwise", stacklevel=3)  # fmt: skip
            return (plain,)
    if not facts["ambiguous"]:
        if facts["header"] not in (None, kind):
            tell(
                f"the images say {kind} (score {score:.2f}), the header {facts['header']}: {kind} is taken; "
                "source_type decides otherwise",
                stacklevel=3,
            )
        return (kind,)
    text = f"the images say {kind} with a score of {score:.2f}: ambiguous"
    if facts["header"] is None:
        why = f"the headers say {_words(said)}, so that {kind} is taken"
    else:
        kind, facts["decided_by"] = facts["header"], "header"
        why = f"the header says {kind}, which is taken"
    advice = "both are extracted" if asked["both_branches"] else "source_type decides, both_branches extracts both ways"
    tell(f"{text}; {why}; {advice}", stacklevel=3)
    other = "EXTENDED" if kind == "POINT" else "POINT"
    return (kind, other) if asked["both_branches"] else (kind,)


def _headers(cubes: Sequence[xr.Dataset]) -> dict[str, list[str]]:
    """Return the bands of which the header says each type; the type "nothing" where it is UNKNOWN or missing."""
    said: dict[str, list[str]] = {}
    for ds in cubes:
        kind = str(ds.attrs.get("source_type", "")).upper()
        said.setdefault(kind if kind in _KNOWN else "nothing", []).append(str(ds.attrs.get("band", "")))
    return said


def _one(said: Mapping[str, list[str]]) -> str | None:
    known = [kind for kind in said if kind in _KNOWN]
    return known[0] if len(known) == 1 else None


def _words(said: Mapping[str, list[str]]) -> str:
    return " and ".join(f"{kind} ({', '.join(bands)})" for kind, bands in sorted(said.items())) or "nothing"


def _of_headers(said: Mapping[str, list[str]], facts: dict[str, Any]) -> str:
    if set(_KNOWN) <= set(said):
        raise MrsxrError(
            f"the headers of the cubes of one target say {_words(said)}; give source_type POINT or EXTENDED, or auto"
        )
    facts["decided_by"] = "header" if facts["header"] else "default"
    kind = facts["header"] or "EXTENDED"
    if "nothing" in said:
        tell(
            f"the headers say {_words(said)} of the source type: {kind} is taken for all; source_type decides "
            "otherwise",
            stacklevel=4,
        )
    return kind


def marked(ds: xr.Dataset, decision: Mapping[str, Any]) -> xr.Dataset:
    """Return a spectrum that says how its source type was decided: attrs ``source_type_...`` and notes.

    Parameters
    ----------
    ds : Dataset, level "spectrum"
    decision : mapping
        That :func:`source_types_of` filled.
    """
    if "judged" in decision:
        ds = ds.assign(score("source_type", decision["judged"], method="images", instead="header",
                             held_out="left-out windows of wavelength"))  # fmt: skip
    attrs = {f"source_type_{name}": decision[name] for name in ("decided_by", "score") if name in decision}
    return noted(ds.assign_attrs({k: "" if v is None else v for k, v in attrs.items()}), decision.get("notes", ()))
