"""A whole observation as a DataTree: /science/12A ..., /background/12A ... or /science/1A ... of cubes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from mrsxr import tree
from mrsxr.errors import InputFileError

from .exposures import open_infos, open_one
from .files import DETECTOR_PRODUCTS, SCIENCE, FileInfo, Found, Source, find_files
from .headers import read_layout

#: What ``level=None`` looks for, the most advanced first.
ADVANCED_FIRST = ("cal", "crf", "rate", "ramp", "uncal", "rateints")


def open_observation(
    source: Source,
    background: Source | None = None,
    *,
    level: str | None = None,
    chunks: Mapping[str, int] | str | None = None,
    on_error: str = "raise",
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
    chunks : mapping or "auto", optional
        dask chunks; by default those that suit the level.
    on_error : "raise" or "skip"
        "skip" leaves bad files out and lists them with the reason in ``tree.attrs["skipped"]`` (JSON).

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
    """
    found = find_files(source, background, on_error=on_error)
    chosen = _choose(found, level, source)
    product = chosen[0].product
    skipped = dict(found.skipped)
    leaves: dict[str, xr.Dataset] = {}
    for path, infos in _groups(chosen).items():
        good = _readable(infos, skipped) if on_error == "skip" else infos
        if good and product in DETECTOR_PRODUCTS:
            leaves[path] = _with_role(open_infos(good, chunks=chunks), good[0].role)
        elif good:
            leaves[path] = _with_role(open_one(good[0].path, chunks=chunks), good[0].role)
    if not leaves:
        raise InputFileError(
            f"{source}: none of the {product} files can be read; first: {next(iter(skipped.values()))}"
        )
    return tree.build(leaves, **_root_attrs(found, chosen, skipped))


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
    by_exposure: dict[tuple[str, str], set[str]] = {}
    for info in files:
        if info.product in DETECTOR_PRODUCTS:
            by_exposure.setdefault((info.role, _root(info)), set()).add(info.product)
    if not by_exposure:
        return "s3d" if any(info.product == "s3d" for info in files) else "x1d"
    for product in ADVANCED_FIRST:
        if all(product in products for products in by_exposure.values()):
            return product
    held = "; ".join(f"{name}: {', '.join(sorted(products))}" for (_, name), products in list(by_exposure.items())[:3])
    raise InputFileError(f"no product is there for every exposure ({held} ...); choose one with level=")


def _root(info: FileInfo) -> str:
    """Return the exposure root without the association id that crf files carry."""
    parts = info.exposure.split("_")
    if info.product == "crf" and len(parts) > 1 and parts[-1][:1] in "oca" and parts[-1][1:].isdigit():
        return "_".join(parts[:-1])
    return info.exposure


def _groups(infos: Sequence[FileInfo]) -> dict[str, list[FileInfo]]:
    """Return the files of each node: one setting and ramp layout each, or one cube, or one spectrum."""
    kinds: dict[tuple[Any, ...], list[FileInfo]] = {}
    for number, info in enumerate(infos):
        layout = tuple(info.keywords.get(key) for key in ("NGROUPS", "NINTS", "READPATT", "SUBARRAY"))
        single = info.product not in DETECTOR_PRODUCTS
        kinds.setdefault((info.role, info.node, number if single else layout), []).append(info)
    out: dict[str, list[FileInfo]] = {}
    for (role, node, _), members in kinds.items():
        path = base = f"/{role}/{node or 'multiband'}"
        number = 1
        while path in out:
            number += 1
            path = f"{base}_{number}"
        out[path] = members
    order = {SCIENCE: 0}
    return dict(sorted(out.items(), key=lambda item: (order.get(item[1][0].role, 1), item[0])))


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
