"""The observation as a DataTree: build it, map over its bands, join dithers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import xarray as xr

from .attributes import apart, keyword, rows_of, split
from .errors import MrsxrError
from .notes import noted, notes_of
from .step import JOINED, history_of, join_histories, read_history

#: Attributes of ramps that later steps take for all exposures.
_OF_RAMPS = ("group_time", "average_dark_current")

#: Levels whose exposures have one size whatever their ramps were.
SLOPES = ("rate", "cal")


def build(leaves: Mapping[str, xr.Dataset], **attrs: Any) -> xr.DataTree:
    """Build an observation tree from ``{"/science/12A": Dataset, ...}``; ``attrs`` go to the root."""
    tree = xr.DataTree.from_dict(dict(leaves))
    tree.attrs.update(attrs)
    return tree


def leaves(tree: xr.DataTree) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield ``(path, Dataset)`` of every node that holds variables, in tree order."""
    for node in tree.subtree:
        if node.data_vars:
            yield node.path, node.to_dataset()


def attrs_of(data: xr.Dataset | xr.DataTree) -> dict[str, Any]:
    """Return the root attrs of a tree as keywords; none of a Dataset."""
    return {str(key): value for key, value in data.attrs.items()} if isinstance(data, xr.DataTree) else {}


def join_dithers(datasets: list[xr.Dataset]) -> xr.Dataset:
    """Join single-dither Datasets of one setting along ``dither``; the only concat of the package.

    Parameters
    ----------
    datasets : list of Dataset
        Same level, setting, sizes and detector coordinates; eager coordinates.

    Returns
    -------
    Dataset with ``dither`` numbered from 1 in the order given
        Histories that differ are kept as :func:`mrsxr.step.join_histories` does. Attributes that differ become
        coordinates along ``dither`` (:mod:`mrsxr.attributes`).

    Raises
    ------
    MrsxrError
        Where level, setting, sizes or variables differ; where they are not calibrated yet also where the readout does,
        and where a number does that the steps to come would use for all exposures.
    """
    if not datasets:
        raise MrsxrError("no exposures to join")
    first = datasets[0]
    alike = ("level", "setting", "subarray", *(() if first.attrs.get("level") == "cal" else ("readpatt",)))
    for other in datasets[1:]:
        for key in (*alike, *(_OF_RAMPS if "group" in first.dims else ())):
            if other.attrs.get(key) != first.attrs.get(key):
                raise MrsxrError(
                    f"exposures differ in {key}: {first.attrs.get(key)} ({name_of(first)}) and "
                    f"{other.attrs.get(key)} ({name_of(other)}); open them apart"
                )
        sizes = {d: n for d, n in other.sizes.items() if d != "dither"}
        if sizes != {d: n for d, n in first.sizes.items() if d != "dither"}:
            raise MrsxrError(f"exposures {name_of(first)} and {name_of(other)} differ in size; open them apart")
        if odd := set(first.data_vars) ^ set(other.data_vars):
            raise MrsxrError(
                f"exposures {name_of(first)} and {name_of(other)} do not hold the same variables "
                f"({', '.join(sorted(map(str, odd)))}); open them apart"
            )
    joined = xr.concat(
        [ds.drop_vars(apart(ds)) for ds in datasets], dim="dither", data_vars="minimal", coords="minimal",
        compat="override", join="override", combine_attrs="override",
    )  # fmt: skip
    joined.attrs, own = _shared(datasets)
    joined = noted(joined, notes_of(*datasets))
    return joined.assign_coords(own).assign_coords(dither=("dither", list(range(1, joined.sizes["dither"] + 1))))


def gather(nodes: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Join the nodes of one role and setting whose exposures have one size, as slopes have whatever their ramps were.

    Parameters
    ----------
    nodes : mapping of path to Dataset
        ``/science/12A``, ``/science/12A_2`` ..., all of one level.

    Returns
    -------
    dict of path to Dataset
        One node for each role and setting of cal data, and for each readout of rate data, its exposures in the order
        of program, observation, visit and dither; nodes of other levels as they are.
    """
    groups: dict[tuple[Any, ...], dict[str, xr.Dataset]] = {}
    for path, ds in nodes.items():
        key: tuple[Any, ...] = (path,)
        if ds.attrs.get("level") in SLOPES and "setting" in ds.attrs:
            kinds = tuple(sorted(map(str, ds.data_vars)))
            readout = ds.attrs.get("readpatt") if ds.attrs["level"] == "rate" else None
            key = (
                path.rpartition("/")[0],
                ds.attrs["level"],
                ds.attrs["setting"],
                ds.attrs.get("subarray"),
                readout,
                kinds,
            )
        groups.setdefault(key, {})[path] = ds
    out: dict[str, xr.Dataset] = {}
    for members in groups.values():
        joined = next(iter(members.values()))
        if len(members) > 1:
            singles = [ds.isel(dither=[i]) for ds in members.values() for i in range(ds.sizes["dither"])]
            joined = _joined_in_order(singles)
        out[next(iter(members))] = joined
    return out


def _joined_in_order(singles: list[xr.Dataset]) -> xr.Dataset:
    singles = sorted(singles, key=_order_of)
    first = singles[0]
    static = [name for name in first.variables if "dither" not in first[name].dims and name not in first.dims]
    joined = join_dithers([ds.drop_vars(static, errors="ignore") for ds in singles])
    joined = joined.assign_coords({name: first[name] for name in static if name in first.coords})
    joined = joined.assign({name: first[name] for name in static if name in first.data_vars})
    kept = [int(ds["dither"].values[0]) for ds in singles]
    return joined.assign_coords(dither=("dither", kept)) if kept == sorted(set(kept)) else joined


def _order_of(ds: xr.Dataset) -> tuple[Any, ...]:
    names = ("PROGRAM", "OBSERVTN", "VISIT", "PATT_NUM", "EXPOSURE")
    return order_of({name: keyword(ds, name)[0] for name in names}, name_of(ds))


def order_of(keywords: Mapping[str, Any], exposure: str) -> tuple[Any, ...]:
    """Return the sorting key of an exposure: program, observation, visit, then dither, then name."""
    keys = (str(keywords.get(name) or "") for name in ("PROGRAM", "OBSERVTN", "VISIT"))
    return (*keys, dither_of(keywords), exposure)


def dither_of(keywords: Mapping[str, Any]) -> int:
    """Return the number of the dither position (PATT_NUM, else the exposure number), 0 where neither is known."""
    for key in ("PATT_NUM", "EXPOSURE"):
        try:
            return int(keywords[key])
        except (KeyError, TypeError, ValueError):
            continue
    return 0


def common_attrs(datasets: Sequence[xr.Dataset]) -> dict[str, Any]:
    """Return the attributes that Datasets share, with the histories of all; ``background`` is 1 where one is."""
    return _shared(datasets)[0]


def _shared(datasets: Sequence[xr.Dataset]) -> tuple[dict[str, Any], dict[str, xr.Variable]]:
    """Return the attributes that all exposures share, with the histories of all, and those in which they differ."""
    own = ("history_json", "notes", "key", "background")  # key: of a file, not of what is made of several
    rows = [{k: v for k, v in row.items() if k not in own} for ds in datasets for row in rows_of(ds)]
    out, differ = split(rows)
    known = {ds.attrs.get("history_json") for ds in datasets}
    if len(known) == 1 and known != {None}:
        (out["history_json"],) = known
    elif known != {None}:
        histories: dict[str, list[dict[str, Any]]] = {}
        for number, ds in enumerate(datasets, 1):
            names = [str(name) for name in ds["exposure"].values] if "exposure" in ds.coords else [f"input {number}"]
            history = read_history(ds)
            names = names if any(entry.get("step") == JOINED for entry in history) else [", ".join(names)]
            histories |= {name: history_of(history, name) for name in names}
        out["history_json"] = json.dumps(join_histories(histories))
    if any("background" in ds.attrs for ds in datasets):
        out["background"] = max(int(ds.attrs.get("background", 0)) for ds in datasets)
    return out, differ


def name_of(ds: xr.Dataset) -> str:
    """Return the name of the first exposure of a Dataset, for messages."""
    if "exposure" in ds.coords and ds.sizes.get("dither", 0):
        return str(ds["exposure"].values[0])
    return str(ds.attrs.get("setting", "unnamed data"))
