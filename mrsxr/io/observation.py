"""A whole observation as a DataTree: /science/12A ..., /background/12A ... or /science/1A ... of cubes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from mrsxr import tree
from mrsxr.arguments import bands_held
from mrsxr.errors import InputFileError
from mrsxr.limits import checked_but
from mrsxr.mrs import BANDS, SETTINGS, bands_of_setting
from mrsxr.notes import noted, tell

from .exposures import open_one, open_planned
from .files import DETECTOR_PRODUCTS, SCIENCE, FileInfo, Found, OnError, Source, find_files
from .grouping import Exposure, Plan, key_of, plan
from .headers import read_layout

#: What ``level=None`` looks for, the most advanced first.
ADVANCED_FIRST = ("cal", "crf", "rate", "ramp", "uncal", "rateints")


@checked_but("source", "background")
def open_observation(
    source: Source,
    background: Source | None = None,
    *,
    level: str | None = None,
    bands: str | int | Iterable[str | int] | None = None,
    chunks: Mapping[str, Any] | str | None = None,
    on_error: OnError = "raise",
    allow_missing: bool = False,
) -> xr.DataTree:
    """Open an observation as a lazy DataTree with a node per detector setting (or band) and role.

    Parameters
    ----------
    source : path, glob, list of paths or association
        See :func:`mrsxr.io.find_files`.
    background : the same, optional
        The background exposures, where they are not told by folder, association or BKGDTARG.
    level : str, optional
        The product to open: "uncal", "ramp", "rate", "rateints", "cal", "crf", "s3d" or "x1d". By default the
        most advanced of cal, crf, rate, ramp, uncal, rateints that *every* exposure found has; where no
        exposure is found, s3d, else x1d. Products are never mixed.
    bands : str, int or iterable of them, optional
        Only exposures and cubes of these bands ("1A", "ch1-short") or channels (1); an exposure holds two bands.
    chunks : mapping or "auto", optional
        dask chunks; by default those that suit the level.
    on_error : "raise" or "skip"
        "skip" leaves bad files out and lists them with the reason in ``tree.attrs["skipped"]`` (JSON).
    allow_missing : bool
        Take an exposure of which segments are missing; "skip" does so too.

    Returns
    -------
    DataTree
        ``/science/12A`` ..., ``/background/12A`` ...; exposures of a setting that differ in the number of
        groups or integrations, readout or subarray stand in nodes of their own, ``12A_2``. Root attrs:
        program, target, product, and where they apply skipped, association, background_spectra (x1d members), selfcal.

    Raises
    ------
    InputFileError
        Naming the file that cannot be read, or the level that is not there.
    MrsxrError
        Where one of the bands is not there.

    Examples
    --------
    >>> observation = mx.open_observation(uncal_folder)
    >>> list(observation["science"].children)
    ['12A']
    """
    skip = on_error == "skip"
    found = find_files(source, background, on_error=on_error)
    if bands is not None:
        found = replace(found, files=_of_bands(found.files, bands))
    chosen = _choose(found, level, source)
    product = chosen[0].product
    skipped = dict(found.skipped)
    leaves: dict[str, xr.Dataset] = {}
    if product in DETECTOR_PRODUCTS:
        good = _readable(chosen, skipped) if skip else chosen
        planned = plan(good, allow_missing=skip or allow_missing, one_product=found.one_product).check(source)
        for text in planned.notes:
            tell(text)
        for path, exposures in _groups(planned).items():
            leaves[path] = _with_role(open_planned(exposures, chunks=chunks), exposures[0].role)
    else:
        single = _readable(chosen, skipped) if skip else chosen
        for path, info in _numbered([(info.role, info.node, info) for info in single]).items():
            leaves[path] = _with_role(open_one(info.path, chunks=chunks), info.role)
    if not leaves:
        raise InputFileError(
            f"{source}: none of the {product} files can be read; first: {next(iter(skipped.values()))}"
        )
    if skipped:
        names = ", ".join(Path(path).name for path in skipped)  # which may be of any node
        text = f"{len(skipped)} files could not be read and are left out: {names}"
        leaves = {path: noted(ds, [text]) for path, ds in leaves.items()}
    return tree.build(leaves, **_root_attrs(found, chosen, skipped))


def _of_bands(files: Sequence[FileInfo], bands: Any) -> list[FileInfo]:
    """Return the files that hold any of the bands; files of several bands where they hold one of them."""
    held = {info.path: _bands_of(info) for info in files}
    wanted = set(bands_held(bands, {band for names in held.values() for band in names}, "files"))
    return [info for info in files if wanted & held[info.path]]


def _bands_of(info: FileInfo) -> set[str]:
    if info.node in SETTINGS:
        return set(bands_of_setting(info.node))
    if info.node in BANDS:
        return {info.node}
    channels = str(info.keywords.get("CHANNEL") or "1234")  # cubes and spectra of several bands
    return {band for band in BANDS if band[0] in channels}


def _choose(found: Found, level: str | None, source: Source) -> list[FileInfo]:
    files = found.files
    if found.association:
        files = [info for info in files if not (info.role != SCIENCE and info.product == "x1d")] or files
    products = {info.product for info in files}
    if level is None:
        level = _best_level(files)
    if level not in products:
        raise InputFileError(f"{source}: no {level} files; found {', '.join(sorted(products))}")
    return [info for info in files if info.product == level]


def _best_level(files: Sequence[FileInfo]) -> str:
    by_exposure: dict[tuple[Any, ...], set[str]] = {}
    names: dict[tuple[Any, ...], str] = {}
    for info in files:
        if info.product in DETECTOR_PRODUCTS:
            key = (info.role, *key_of(info)[:-1])
            by_exposure.setdefault(key, set()).add(info.product)
            names.setdefault(key, info.exposure)
    if not by_exposure:
        return "s3d" if any(info.product == "s3d" for info in files) else "x1d"
    for product in ADVANCED_FIRST:
        if all(product in products for products in by_exposure.values()):
            return product
    held = "; ".join(f"{names[key]}: {', '.join(sorted(by_exposure[key]))}" for key in list(by_exposure)[:3])
    raise InputFileError(f"no product is there for every exposure ({held} ...); choose one with level=")


def _groups(planned: Plan) -> dict[str, list[Exposure]]:
    """Return the exposures of each node: one role, setting and size each."""
    kinds: dict[tuple[Any, ...], list[Exposure]] = {}
    for one in planned.exposures:
        kinds.setdefault((one.role, one.node, one.layout), []).append(one)
    return _numbered([(role, node, members) for (role, node, _), members in kinds.items()])


def _numbered(items: Sequence[tuple[str, str, Any]]) -> dict[str, Any]:
    """Return items by path, science first; a second one of a name is ``/science/12A_2``."""
    out: dict[str, Any] = {}
    for role, node, item in items:
        path = base = f"/{role}/{node or 'multiband'}"
        number = 1
        while path in out:
            number += 1
            path = f"{base}_{number}"
        out[path] = item
    return dict(sorted(out.items(), key=lambda pair: (not pair[0].startswith(f"/{SCIENCE}"), pair[0])))


def _readable(infos: Sequence[FileInfo], skipped: dict[str, str]) -> list[FileInfo]:
    good = []
    for info in infos:
        try:
            read_layout(info.path)
            good.append(info)
        except InputFileError as error:
            skipped[str(info.path)] = str(error)
    return good


def _with_role(ds: xr.Dataset, role: str) -> xr.Dataset:
    return ds.assign_attrs(background=int(role != SCIENCE))


def _root_attrs(found: Found, chosen: Sequence[FileInfo], skipped: dict[str, str]) -> dict[str, Any]:
    first = next((info for info in chosen if info.role == SCIENCE), chosen[0]).keywords
    attrs: dict[str, Any] = {
        "program": str(first.get("PROGRAM") or ""),
        "target": str(first.get("TARGNAME") or first.get("TARGPROP") or ""),
        "product": chosen[0].product,
        "Conventions": "mrsxr-1",
    }
    if skipped:
        attrs["skipped"] = json.dumps(skipped)
    if found.association:
        attrs["association"] = found.association
        attrs["product_name"] = found.product_name
        spectra = [str(i.path) for i in found if i.role != SCIENCE and i.product == "x1d" and i not in chosen]
        if spectra:
            attrs["background_spectra"] = json.dumps(spectra)
    if found.selfcal:
        attrs["selfcal"] = json.dumps(found.selfcal)
    return attrs
