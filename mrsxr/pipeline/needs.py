"""Which reference files a run will need, and whether they are there, before the first exposure is worked on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from mrsxr.errors import MrsxrError, ReferenceFileError, ReferenceMissingError
from mrsxr.io import FileInfo
from mrsxr.references import References
from mrsxr.references.exposure import BAND_KINDS

from .parts import LEVELS

if TYPE_CHECKING:
    from .recipe import Recipe

READY = {"uncal": 0, "ramp": 0, "rate": 1, "cal": 2, "crf": 2}  # how many stages a file has behind it
NO_REFERENCES = (
    "this run needs reference files: give a folder (refs, --refs), or set CRDS_PATH and CRDS_SERVER_URL for CRDS"
)


def required_kinds(recipe: Recipe, stage: int, to: str) -> tuple[str, ...]:
    """Return the kinds that a file with so many stages behind it cannot do without on its way to a level.

    Parameters
    ----------
    recipe : Recipe
    stage : int
        0 of ramps, 1 of slopes, 2 of cal files.
    to : {"rate", "cal", "cube", "spectrum"}

    Returns
    -------
    tuple of str
        Those of spectra are looked for when the source type is known.
    """
    levels = [level for level in LEVELS[stage : LEVELS.index(to) + 1] if level != "spectrum"]
    kinds = [
        kind
        for level in levels for entry in recipe.steps(level)
        for kind in entry.part.facts.kinds(entry.values()) if kind not in entry.part.facts.without
    ]  # fmt: skip
    return tuple(dict.fromkeys(kinds))


def require_references(files: Sequence[FileInfo], refs: References | None, recipe: Recipe, to: str) -> None:
    """Raise where no exposure could be worked on for want of reference files; headers of files alone are looked at.

    Parameters
    ----------
    files : sequence of FileInfo
        The exposures of a run.
    refs : References or None
    recipe : Recipe
    to : {"rate", "cal", "cube", "spectrum"}

    Raises
    ------
    MrsxrError
        Where files are needed and none are given, where every setting lacks one or has one that does not fit, and where
        the headers say POINT and there is no aperture correction; where a PSF that would be used is damaged, or one
        that was asked for by name is of none of the bands.
    """
    if isinstance(refs, References):
        _check_own(files, refs, recipe, to)
    goal = {"rate": 1}.get(to, 2)
    todo = [one for one in files if READY[one.product] < goal]
    if todo and refs is None:
        raise MrsxrError(NO_REFERENCES)
    if refs is None:
        return
    found: dict[tuple[Any, ...], ReferenceFileError | None] = {}
    for one in todo:
        key = (one.node, READY[one.product], *(one.keywords.get(k) for k in ("READPATT", "SUBARRAY", "NGROUPS")))
        if key not in found:
            found[key] = _lack(one, required_kinds(recipe, READY[one.product], to), refs)
    errors = [error for error in found.values() if error is not None]
    if errors and len(errors) == len(found):
        raise type(errors[0])(f"{errors[0]}{f' (and {len(errors) - 1} more settings)' if len(errors) > 1 else ''}")
    target = next((one for one in files if one.role != "background" and _says_point(one, recipe)), None)
    if to == "spectrum" and target is not None and recipe.values("extract_1d")["aperture_correction"]:
        error = _lack(target, ("apcorr",), refs)
        if error is not None:
            from .spectrum_chain import aperture_correction_lacks

            raise aperture_correction_lacks(error)


def _check_own(files: Sequence[FileInfo], refs: References, recipe: Recipe, to: str) -> None:
    """Open what users make themselves for some bands, whose numbers nobody looked at before."""
    entries = [one for level in LEVELS[: LEVELS.index(to) + 1] for one in recipe.steps(level)]
    for kind in dict.fromkeys(kind for one in entries for kind in one.part.facts.kinds(one.values())):
        missing, served = [], False
        for one in {one.node: one for one in files}.values() if kind in BAND_KINDS else ():
            try:
                served = bool(refs.get(kind, stub(one))) or served
            except ReferenceMissingError as error:
                missing.append(error)
        if missing and not served and refs.given(kind) is not None:
            raise missing[0]


def _lack(one: FileInfo, kinds: Sequence[str], refs: References) -> ReferenceFileError | None:
    """Return the error of the first kind that the source cannot serve an exposure with."""
    try:
        refs.require(kinds, stub(one))
    except ReferenceFileError as error:
        return error
    return None


def stub(one: FileInfo) -> xr.Dataset:
    """Return a Dataset without data that says of a file what the choice of reference files asks for."""
    attrs = {"level": "rate", "setting": one.node, "fits_header": json.dumps({"PRIMARY": one.keywords})}
    return xr.Dataset(attrs=attrs)


def _says_point(one: FileInfo, recipe: Recipe) -> bool:
    values = recipe.values("extract_1d")
    asked = values["source_type"]
    if values["region"] is not None or asked not in ("header", "POINT"):
        return False
    ours = recipe.values("srctype")["source_type"] if recipe.runs("srctype") else None
    said = ours or one.keywords.get("SRCTYAPT")
    return asked == "POINT" or str(said or "").upper() == "POINT"
