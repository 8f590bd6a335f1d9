"""The observation as a DataTree: build it, map over its bands, join dithers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import xarray as xr

from .errors import MrsxrError
from .notes import noted, notes_of


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


def map_bands(tree: xr.DataTree, function: Callable[..., xr.Dataset], **kwargs: Any) -> xr.DataTree:
    """Apply a Dataset function to every node that holds data (empty nodes are left out).

    Parameters
    ----------
    tree : DataTree
    function : callable Dataset -> Dataset
    **kwargs
        Handed to ``function``.

    Returns
    -------
    DataTree of the same paths and root attrs
    """
    return build({path: function(ds, **kwargs) for path, ds in leaves(tree)}, **attrs_of(tree))


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

    Raises
    ------
    MrsxrError
        Where level, setting or sizes differ.
    """
    if not datasets:
        raise MrsxrError("no exposures to join")
    first = datasets[0]
    for other in datasets[1:]:
        for key in ("level", "setting", "readpatt", "subarray"):
            if other.attrs.get(key) != first.attrs.get(key):
                raise MrsxrError(
                    f"exposures differ in {key}: {first.attrs.get(key)} ({name_of(first)}) and "
                    f"{other.attrs.get(key)} ({name_of(other)}); open them apart"
                )
        sizes = {d: n for d, n in other.sizes.items() if d != "dither"}
        if sizes != {d: n for d, n in first.sizes.items() if d != "dither"}:
            raise MrsxrError(f"exposures {name_of(first)} and {name_of(other)} differ in size; open them apart")
    joined = xr.concat(
        datasets, dim="dither", data_vars="minimal", coords="minimal", compat="override",
        join="override", combine_attrs="override",
    )  # fmt: skip
    joined = noted(joined, notes_of(*datasets))
    return joined.assign_coords(dither=("dither", list(range(1, joined.sizes["dither"] + 1))))


def name_of(ds: xr.Dataset) -> str:
    """Return the name of the first exposure of a Dataset, for messages."""
    if "exposure" in ds.coords and ds.sizes.get("dither", 0):
        return str(ds["exposure"].values[0])
    return str(ds.attrs.get("setting", "unnamed data"))
