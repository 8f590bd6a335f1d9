"""Does a reference file fit an exposure, how well, and which part of it does the exposure need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.errors import ReferenceFileError

from .crds_cache import SELECTED_BY, in_range
from .exposure import Exposure
from .headers import ReferenceFacts
from .readers import IMAGES, Window

#: Fields that a file must share with the exposure where it states them, beside those it is selected by.
_ALWAYS = ("detector", "channel", "band")
#: A subarray has its own timing, so that these full-frame files cannot be cut out for it.
_NO_CUT = ("dark", "reset")
#: Kinds on the detector grid (y, x): what a subarray exposure needs a part of.
_DETECTOR_KINDS = (*IMAGES, "mrsxartcorr", "regions")


def mismatches(facts: ReferenceFacts, exposure: Exposure, but: tuple[str, ...] = ()) -> list[str]:
    """Return what a reference file states against an exposure, as texts; empty where it fits.

    ``but`` names what need not agree: a mask given by hand, or by CRDS, may come from ramps of another length.
    """
    wrong = []
    fields = exposure.wanted(facts.kind)
    for name in dict.fromkeys((*_ALWAYS, *SELECTED_BY[facts.kind])):
        stated, wanted = facts.fields.get(name, ()), fields.get(name, "").upper()
        if not stated or not wanted or name == "filter" or name in but or wanted in stated:
            continue
        if name == "ngroups" and any(in_range(value, wanted) for value in stated):
            continue
        if name == "channel" and any(set(wanted) <= set(value) for value in stated):
            continue
        if name == "subarray" and "FULL" in stated and facts.kind not in _NO_CUT:
            continue
        wrong.append(f"{name} {' or '.join(stated)}, the exposure has {name} {wanted}")
    return wrong


def require_fit(facts: ReferenceFacts, kind: str, exposure: Exposure, who: str = "") -> ReferenceFacts:
    """Return the facts of a file that was chosen by the user or CRDS; raise where it is of another kind or setting."""
    if facts.kind != kind:
        raise ReferenceFileError(f"{facts.path}: {who or 'is'} a file of kind {facts.kind}, expected {kind}")
    wrong = mismatches(facts, exposure, but=("ngroups",))
    if wrong:
        raise ReferenceFileError(f"{facts.path}: {kind} reference for {wrong[0]} ({exposure.name})")
    return facts


def score(facts: ReferenceFacts, exposure: Exposure) -> int:
    """Return in how many of the fields that choose it a file agrees with the exposure by name."""
    names = dict.fromkeys((*_ALWAYS, *SELECTED_BY[facts.kind]))
    fields = exposure.wanted(facts.kind)
    agree = [(fields.get(name, "").upper(), facts.fields.get(name, ())) for name in names]
    return sum(value in stated or any(in_range(one, value) for one in stated) for value, stated in agree if stated)


def dataset_facts(reference: xr.Dataset, kind: str) -> ReferenceFacts:
    """Return what a Dataset says of itself as the facts of a file."""
    keys = {"detector": "detector", "channel": "channels", "band": "band", "readpatt": "readpatt",
            "subarray": "subarray"}  # fmt: skip
    stated = {key: str(reference.attrs.get(attr) or "").upper() for key, attr in keys.items()}
    fields = {key: (value,) for key, value in stated.items() if value}
    name = Path(str(reference.attrs.get("ref_id", "the Dataset")))
    return ReferenceFacts(name, str(reference.attrs.get("kind", kind)), fields=fields)


def cut_to(reference: xr.Dataset, kind: str, exposure: Exposure) -> xr.Dataset:
    """Return a given Dataset cut to the exposure's part of the full frame, chunked like it where lazy."""
    if kind in _DETECTOR_KINDS and exposure.shape is not None and {"y", "x"} <= set(reference.dims):
        size = (reference.sizes["y"], reference.sizes["x"])
        if size != exposure.shape and size == mrs.DETECTOR_SHAPE:
            (y, x), (n_y, n_x) = exposure.start, exposure.shape
            reference = reference.isel(y=slice(y, y + n_y), x=slice(x, x + n_x))
        if exposure.columns and reference.sizes["x"] == exposure.shape[1]:
            reference = reference.isel(x=list(exposure.columns))
        check_shape(reference, kind, exposure)
        if reference.chunks and exposure.rows is not None:
            reference = reference.chunk({"y": exposure.rows})
    return reference.assign_attrs({"level": "reference", "kind": kind, "ref_id": "by hand", **reference.attrs})


def window_of(facts: ReferenceFacts, kind: str, exposure: Exposure) -> Window | None:
    """Return the part of a file's array that the Dataset covers, None for all of it."""
    if kind not in _DETECTOR_KINDS or exposure.shape is None:
        return None
    window = _subarray(facts, exposure, exposure.shape)
    if not exposure.columns:
        return window
    return replace(window or Window(0, 0, *exposure.shape), columns=exposure.columns)


def _subarray(facts: ReferenceFacts, exposure: Exposure, shape: tuple[int, int]) -> Window | None:
    """Return the part of a file's array that the exposure's subarray covers, None for all of it."""
    subarray = exposure.fields["subarray"].upper()
    if subarray in ("", "FULL"):
        return None
    if facts.shape == shape and facts.start in (None, exposure.start):
        return None
    if facts.shape is None and subarray in facts.fields.get("subarray", ()):
        return None
    (y, x), (n_y, n_x) = exposure.start, shape
    first_y, first_x = facts.start or (0, 0)
    return Window(y - first_y, x - first_x, n_y, n_x)


def check_shape(reference: xr.Dataset, kind: str, exposure: Exposure) -> None:
    """Raise ReferenceFileError where a reference has not the rows and columns of the exposure."""
    if kind not in _DETECTOR_KINDS or exposure.shape is None or not {"y", "x"} <= set(reference.dims):
        return
    shape = (reference.sizes["y"], reference.sizes["x"])
    wanted = (exposure.shape[0], len(exposure.columns) or exposure.shape[1])
    if shape != wanted:
        raise ReferenceFileError(
            f"{reference.attrs.get('ref_id', 'the Dataset')}: {kind} has {shape[0]} rows and {shape[1]} "
            f"columns, the exposure ({exposure.name}) has {wanted[0]} and {wanted[1]}"
        )


def planes_of(psf: xr.Dataset, band: str) -> xr.Dataset:
    """Return the images of a PSF that are of a band; all where none is told."""
    return psf.isel(plane=np.flatnonzero(psf["psf_band"].values == band)) if band else psf


def join_planes(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the images of all; smaller ones get a border of zeros."""
    if len(parts) == 1:
        return parts[0]
    side, wide = max(one.sizes["psf_alpha"] for one in parts), []
    for one in parts:
        n = (side - one.sizes["psf_alpha"]) // 2
        wide.append(one.pad(psf_alpha=n, psf_beta=n, constant_values=0.0) if n else one)
    names = dict.fromkeys(str(one.attrs["ref_id"]) for one in parts if "ref_id" in one.attrs)
    channels = "".join(dict.fromkeys(str(band)[0] for one in parts for band in one["psf_band"].values))
    more = {"channels": channels} | ({"ref_id": ", ".join(names)} if names else {})
    return xr.concat(wide, "plane", combine_attrs="drop_conflicts").assign_attrs(more)
