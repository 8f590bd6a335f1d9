"""The MRSXR extension: one table row that keeps what keywords cannot, so that opening undoes saving.

Its column META holds JSON: the attrs of the Dataset and of its variables, exact floats of the dither
coordinates and the keywords that saving added or changed. Columns C_<name> hold 1-D coordinates (float64).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr.attributes import decoded, encoded, plain
from mrsxr.errors import InputFileError, one_line
from mrsxr.schema import ATTRIBUTES

from ._attrs import check_attrs, is_header
from ._names import safe_name
from ._structure import BLOCK
from .headers import FitsFile

EXTENSION = "MRSXR"
VERSION = 1


def describe(ds: xr.Dataset) -> dict[str, Any]:
    """Return the part of META that every level shares: attrs and the kind of every variable."""
    variables = {
        str(name): {"attrs": encoded(variable.attrs), "dtype": str(variable.dtype), "coord": name in ds.coords}
        for name, variable in ds.variables.items()
    }
    return {"version": VERSION, "attrs": encoded(ds.attrs), "variables": variables}


def table(meta: Mapping[str, Any], vectors: Mapping[str, np.ndarray] | None = None) -> fits.BinTableHDU:
    """Return the MRSXR extension for META and the 1-D coordinates in ``vectors``."""
    text = np.array([json.dumps(plain(meta)).encode("ascii")])
    more = {f"C_{name}": np.asarray(values, dtype="f8")[None, :] for name, values in (vectors or {}).items()}
    return plain_table(EXTENSION, {"META": text, **more})


_FORMS = {"b1": "L", "u1": "B", "i2": "I", "i8": "K", "f8": "D"}


def plain_table(name: str, columns: Mapping[str, np.ndarray], units: Mapping[str, str | None] | None = None) -> Any:
    """Return a BinTableHDU of columns (row, ...): bool, uint8, int16, int64, float64 and bytes.

    astropy's own columns take 2 us for each character, and import its tables, a quarter of a second.
    """
    cards: dict[str, Any] = {}
    rows = []
    for number, (column, values) in enumerate(columns.items(), 1):
        size = int(np.prod(values.shape[1:])) if values.ndim > 1 else ""
        is_text = values.dtype.kind == "S"
        form = f"{values.dtype.itemsize}A" if is_text else f"{size}{_FORMS[values.dtype.str[1:]]}"
        cards |= {f"TTYPE{number}": column, f"TFORM{number}": form}
        if unit := (units or {}).get(column):
            cards[f"TUNIT{number}"] = unit
        if values.ndim > 2:
            cards[f"TDIM{number}"] = str(values.shape[:0:-1])
        if values.dtype == bool:
            values = np.where(values, np.uint8(ord("T")), np.uint8(ord("F")))
        big = values if is_text else values.astype(values.dtype.newbyteorder(">"))
        rows.append(np.frombuffer(big.tobytes(), dtype=np.uint8).reshape(len(values), -1))
    data = np.concatenate(rows, axis=1)
    header = fits.Header([
        ("XTENSION", "BINTABLE", "binary table extension"), ("BITPIX", 8, "array data type"),
        ("NAXIS", 2, "number of array dimensions"), ("NAXIS1", data.shape[1], "length of dimension 1"),
        ("NAXIS2", data.shape[0], "length of dimension 2"), ("PCOUNT", 0, "number of group parameters"),
        ("GCOUNT", 1, "number of groups"), ("TFIELDS", len(columns), "number of table fields"), *cards.items(),
        ("EXTNAME", name, "extension name"),
    ])  # fmt: skip
    content = header.tostring().encode("ascii") + data.tobytes()
    return fits.BinTableHDU.fromstring(content + b"\0" * (-len(content) % BLOCK))


def read(file: FitsFile) -> dict[str, Any] | None:
    """Return META of a file with the vectors under "vectors", None where the file is not of this package.

    Raises
    ------
    InputFileError
        Where the extension was written by a later layout or is damaged.
    """
    if EXTENSION not in file:
        return None
    columns = file.table(EXTENSION, file.get(EXTENSION).version)
    try:
        meta: dict[str, Any] = json.loads(str(columns["META"][0]))
    except (KeyError, IndexError, ValueError, RecursionError) as error:
        raise InputFileError(
            f"{file.path}: the {EXTENSION} extension is damaged ({type(error).__name__}: {str(error)[:80]})"
        ) from error
    wrong = _wrong(meta)
    if wrong:
        raise InputFileError(f"{file.path}: the {EXTENSION} extension is damaged ({wrong})")
    if meta["version"] > VERSION:
        raise InputFileError(
            f"{file.path}: the {EXTENSION} extension has version {meta['version']}, "
            f"this package reads {VERSION}; update mrsxr"
        )
    try:
        for one in (meta, *meta["variables"].values()):
            one["attrs"] = decoded(one["attrs"])
    except (ValueError, RecursionError) as error:
        raise InputFileError(f"{file.path}: the {EXTENSION} extension is damaged ({str(error)[:80]})") from error
    check_attrs(f"{file.path}: {EXTENSION}", meta["attrs"])
    meta["vectors"] = {name[2:]: np.atleast_1d(column[0]) for name, column in columns.items() if name.startswith("C_")}
    odd = next((name for name, values in meta["vectors"].items() if not np.isfinite(values).all()), None)
    if odd:
        raise InputFileError(f"{file.path}: the {EXTENSION} extension is damaged (the coordinate '{odd}' is no axis)")
    return meta


_DTYPE = re.compile(r"[<>=|]?([iufb]\d|U\d{1,5}|S\d{1,5}|O)|(u?int|float)\d{1,2}|bool|object|str|StringDType\(.*\)")
_PLAIN = (str, int, float, bool, type(None))
#: What META holds: type of each part, and whether it must be there.
_PARTS = {
    "version": (int, True), "attrs": (dict, True), "variables": (dict, True), "header": (dict, False),
    "written": (dict, False), "header_text": (str, False), "dither": (dict, False), "extras": (dict, False),
    "small": (dict, False), "slicer": (list, False), "slicer_digest": (str, False),
}  # fmt: skip


def _wrong(meta: Any) -> str | None:
    """Return what is wrong with the structure of META, None where it is as :func:`describe` and its callers make it."""
    if not isinstance(meta, dict):
        return "META is no mapping"
    for name, (kind, needed) in _PARTS.items():
        if (needed and name not in meta) or (name in meta and not isinstance(meta[name], kind)):
            return (
                f"'{name}' is {'missing' if name not in meta else type(meta[name]).__name__}, expected {kind.__name__}"
            )
    for group, holds in (("variables", _is_variable), ("extras", _is_place), ("small", _is_small)):
        bad = next((name for name, kept in meta.get(group, {}).items() if not holds(kept)), None)
        if bad is not None:
            return f"'{group}' of '{bad}' is not what this package writes"
    for group in ("header", "written"):
        for cards in meta.get(group, {}).values():
            if not isinstance(cards, dict) or not all(isinstance(value, _PLAIN) for value in cards.values()):
                return f"'{group}' holds no keywords"
    if not is_header(meta.get("header_text", "")):
        return "'header_text' holds no keywords"
    if not all(isinstance(name, str) for name in meta.get("slicer", [])):
        return "'slicer' is no list of names"
    return None if _is_dither(meta.get("dither", {})) else "'dither' is not what this package writes"


def _is_variable(kept: Any) -> bool:
    return (
        isinstance(kept, dict) and isinstance(kept.get("attrs"), dict) and isinstance(kept.get("coord"), bool)
        and _is_dtype(kept.get("dtype")) and isinstance(kept["attrs"].get("units", ""), str)
    )  # fmt: skip


def _is_place(kept: Any) -> bool:
    if not isinstance(kept, dict) or not isinstance(kept.get("hdu"), str) or not _is_dtype(kept.get("dtype")):
        return False
    dims, shape = kept.get("dims") or [], kept.get("shape") or []
    return _are(dims, str) and _are(shape, int) and len(dims) == len(shape) and all(n >= 0 for n in shape)


def _is_small(kept: Any) -> bool:
    if not isinstance(kept, dict) or not isinstance(kept.get("table", ""), str):
        return False
    return _is_dtype(kept.get("dtype")) and _are(kept.get("dims"), str) and "values" in kept


def _is_dither(facts: Mapping[str, Any]) -> bool:
    for name, value in facts.items():
        kind = str if name == "exposure" else int if name == "dither" else int | float
        if not isinstance(value, kind) or isinstance(value, bool):
            return False
    return safe_name(str(facts.get("exposure", "x"))) == facts.get("exposure", "x")


def _is_dtype(value: Any) -> bool:
    return isinstance(value, str) and _DTYPE.fullmatch(value) is not None


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(one, kind) and not isinstance(one, bool) for one in values)


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


def card_value(value: Any) -> Any:
    """Return a value as a FITS card holds it: texts of printable ASCII, ``?`` for what is not."""
    if not isinstance(value, str) or (value.isascii() and value.isprintable()):
        return value
    return one_line(" ".join(value.split()).encode("ascii", "replace").decode())


def same(one: Any, other: Any) -> bool:
    """Return whether two keyword values are equal, floats to the digits that a FITS card holds."""
    if isinstance(one, bool) or isinstance(other, bool) or isinstance(one, str) or isinstance(other, str):
        return bool(card_value(one) == card_value(other))
    if one is None or other is None:
        return one is other
    return bool(np.isclose(float(one), float(other), rtol=1e-13, atol=0, equal_nan=True))


def with_edits(
    path: Any, ds: xr.Dataset, header: Mapping[str, Mapping[str, Any]], saved: Mapping[str, Any]
) -> xr.Dataset:
    """Return a Dataset of META with what was edited in its header since it was saved.

    Parameters
    ----------
    path : path
        For messages.
    ds : Dataset
        With the attrs of META.
    header : mapping
        PRIMARY and SCI keywords as they are now.
    saved : mapping
        Keywords as saving would write them.

    Raises
    ------
    InputFileError
        Where a keyword was edited that says by which detector, band and readout the data were taken.
    """
    now = {**header.get("SCI", {}), **header["PRIMARY"]}
    changed: dict[str, Any] = {}
    for attr, known in ATTRIBUTES.items():
        if not known.edit:
            continue
        key = known.fits.partition("/")[2]
        before = saved[key] if key in saved else ds.attrs.get(attr)
        added = key not in saved and now.get(key) is not None and attr in ds.attrs
        if (key not in saved and not added) or same(now.get(key), before):
            continue
        if known.edit == "refused":
            found = "missing" if now.get(key) is None else now[key]
            raise InputFileError(
                f"{path}: the keyword {key} is {found}, but the file was saved with {before}; data cannot be made "
                "another setting's by an edit: put it back, or calibrate the exposure again"
            )
        if now.get(key) is not None and attr in ds.attrs:
            kind = type(ds.attrs[attr])
            changed[attr] = kind(now[key]) if kind in (str, int, float) else now[key]
    return ds.assign_attrs(changed) if changed else ds


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
