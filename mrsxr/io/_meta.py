"""The MRSXR extension: one table row that keeps what keywords cannot, so that opening undoes saving.

Its column META holds JSON: the attrs of the Dataset and of its variables, exact floats of the dither
coordinates and the keywords that saving added or changed. Columns C_<name> hold 1-D coordinates (float64).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr.errors import InputFileError

from .headers import FitsFile

EXTENSION = "MRSXR"
VERSION = 1


def plain(value: Any) -> Any:
    """Return an attribute value as plain Python that JSON can hold."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def describe(ds: xr.Dataset) -> dict[str, Any]:
    """Return the part of META that every level shares: attrs and the kind of every variable."""
    variables = {
        str(name): {"attrs": plain(variable.attrs), "dtype": str(variable.dtype), "coord": name in ds.coords}
        for name, variable in ds.variables.items()
    }
    return {"version": VERSION, "attrs": plain(ds.attrs), "variables": variables}


def table(meta: Mapping[str, Any], vectors: Mapping[str, np.ndarray] | None = None) -> fits.BinTableHDU:
    """Return the MRSXR extension for META and the 1-D coordinates in ``vectors``."""
    text = json.dumps(plain(meta))
    columns = [fits.Column(name="META", format=f"{max(len(text), 1)}A", array=np.array([text]))]
    for name, values in (vectors or {}).items():
        row = np.asarray(values, dtype="f8")[None, :]
        columns.append(fits.Column(name=f"C_{name}", format=f"{row.shape[1]}D", array=row))
    return fits.BinTableHDU.from_columns(columns, name=EXTENSION)


def read(file: FitsFile) -> dict[str, Any] | None:
    """Return META of a file with the vectors under "vectors", None where the file is not of this package.

    Raises
    ------
    InputFileError
        Where the extension was written by a later layout or is damaged.
    """
    if EXTENSION not in file:
        return None
    columns = file.table(EXTENSION)
    try:
        meta = json.loads(str(columns["META"][0]))
    except (KeyError, IndexError, json.JSONDecodeError) as error:
        raise InputFileError(f"{file.path}: the {EXTENSION} extension is damaged ({error})") from error
    if meta.get("version", 0) > VERSION:
        raise InputFileError(
            f"{file.path}: the {EXTENSION} extension has version {meta['version']}, "
            f"this package reads {VERSION}; update mrsxr"
        )
    meta["vectors"] = {name[2:]: np.atleast_1d(column[0]) for name, column in columns.items() if name.startswith("C_")}
    return meta


def original_keywords(header: Mapping[str, Mapping[str, Any]], meta: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the keywords as they were before saving changed them; edits made to the file since then count.

    ``meta["header"]`` holds the keywords before saving and ``meta["written"]`` those that saving set.
    """
    out = {}
    for name, found in header.items():
        before = meta["header"].get(name, {})
        saved = {**before, **meta["written"].get(name, {})}
        edited = {k: value for k, value in found.items() if k not in saved or not same(value, saved[k])}
        out[name] = {key: value for key, value in before.items() if key in found} | edited
    return out


def same(one: Any, other: Any) -> bool:
    """Return whether two keyword values are equal, floats to the digits that a FITS card holds."""
    if isinstance(one, bool) or isinstance(other, bool) or isinstance(one, str) or isinstance(other, str):
        return one == other
    if one is None or other is None:
        return one is other
    return bool(np.isclose(float(one), float(other), rtol=1e-13, atol=0, equal_nan=True))


def apply(ds: xr.Dataset, meta: Mapping[str, Any] | None) -> xr.Dataset:
    """Return the Dataset with the attrs, variable attrs and coordinate roles that META remembers."""
    if meta is None:
        return ds
    for name, kept in meta["variables"].items():
        if name in ds.variables:
            ds[name].attrs = dict(kept["attrs"])
    known = [name for name, kept in meta["variables"].items() if kept["coord"] and name in ds.data_vars]
    demoted = [
        name for name, kept in meta["variables"].items()
        if not kept["coord"] and name in ds.coords and name not in ds.dims
    ]  # fmt: skip
    ds = ds.set_coords(known).reset_coords(demoted)
    ds.attrs = dict(meta["attrs"])
    return ds
