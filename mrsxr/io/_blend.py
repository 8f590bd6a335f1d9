"""The header of what was made of several exposures: their keywords blended as jwst does, and a row for each of them.

Times are those of all exposures (jwst's schema: sum, first, last, mean). What is neither added nor spans the exposures
is the first's, as in jwst, but for the layout of the ramps, steps and reference files, of which a product says only
what holds for all. ``header["HDRTAB"]`` holds for each keyword a list of the values of all exposures, as jwst's does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr.arguments import reads
from mrsxr.attributes import alone, plain
from mrsxr.geometry.footprint import NEEDED, has_footprint, slice_ranges

from ._keywords import exposure_keywords
from ._meta import plain_table
from ._spectral import HEADER_TABLE as TABLE
from .keys import KEYWORD

_SUM = ("EFFEXPTM", "XPOSURE", "TMEASURE", "DURATION", "TELAPSE")
_FIRST = ("EXPSTART", "MJD-BEG", "TDB-BEG", "BSTRTIME", "HSTRTIME", "DATE-BEG", "INTSTART")
_LAST = ("EXPEND", "MJD-END", "TDB-END", "BENDTIME", "HENDTIME", "DATE-END", "INTEND")
_MEAN = ("EXPMID", "MJD-AVG", "TDB-MID", "BMIDTIME", "HMIDTIME")
_SPAN: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_FIRST, min),
    **dict.fromkeys(_LAST, max),
    **dict.fromkeys(_MEAN, np.mean),
}
#: What stands for several values; "" for nothing at all.
_SEVERAL = {"DETECTOR": "MULTIPLE", "BAND": "MULTIPLE", "CHANNEL": "MULTIPLE"} | dict.fromkeys(
    ("NGROUPS", "NINTS", "TGROUP", "TFRAME", "EFFINTTM", "READPATT", "SPECSYS", "EXSEGNUM", "S_REGION"), ""
)
_Rows = Sequence[Mapping[str, Any]]


@reads()
def exposures_header(datasets: Iterable[xr.Dataset]) -> dict[str, dict[str, Any]]:
    """Return the keywords of a product of several exposures.

    Parameters
    ----------
    datasets : iterable of Dataset of a detector level, in memory
        All exposures that went in, each once for its place among the dithers.

    Returns
    -------
    dict
        ``PRIMARY`` and ``SCI`` blended, ``HDRTAB`` with a list of values, one an exposure, for every keyword.
    """
    rows: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    for ds in datasets:
        ranges = slice_ranges(ds, exact=True) if set(NEEDED) <= set(ds.variables) and has_footprint(ds) else None
        for index in range(ds.sizes["dither"]):
            name = str(ds["exposure"].values[index])
            keywords = exposure_keywords(alone(ds.isel(dither=[index])), f"{name}_{ds.attrs['level']}.fits", ranges)
            for of_file in ("DATE", KEYWORD):  # of the file of an exposure, which may be none
                keywords.now["PRIMARY"].pop(of_file, None)
            rows.setdefault(name, {**keywords.now["SCI"], **keywords.now["PRIMARY"]})
            for where in ("SCI", "PRIMARY"):
                places |= dict.fromkeys(keywords.now[where], where)
    return blend(list(rows.values()), places)


def products_header(headers: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the keywords of what was made of several products, of the exposures behind all of them.

    Where it is not known of every product which exposures are behind it, keywords that have to be added up are left
    out, and of the others those that all share.
    """
    places = {key: where for header in headers for where in ("SCI", "PRIMARY") for key in header.get(where, {})}
    if all(header.get(TABLE) for header in headers):
        rows: dict[str, dict[str, Any]] = {}
        for header in headers:
            for row in _rows_of(header[TABLE]):
                rows.setdefault(str(row.get("FILENAME")), row)
        return blend(list(rows.values()), places)
    flat = [{**header.get("SCI", {}), **header.get("PRIMARY", {})} for header in headers]
    kept: dict[str, Any] = {}
    for key in flat[0] if flat else ():
        values = [row.get(key) for row in flat]
        if all(value == values[0] for value in values) and key not in _SUM:
            kept[key] = values[0]
        elif key in _SPAN and key not in _MEAN and all(value is not None for value in values):
            kept[key] = _SPAN[key](values)
    return {where: {k: v for k, v in kept.items() if places[k] == where} for where in ("PRIMARY", "SCI")}


def blend(rows: _Rows, places: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the blended keywords of exposures in the HDU of each, and the table of them."""
    names = dict.fromkeys(key for row in rows for key in row)
    table = {key: [row.get(key) for row in rows] for key in names}
    out: dict[str, dict[str, Any]] = {"PRIMARY": {}, "SCI": {}}
    first = min(rows, key=lambda row: (str(row.get("DATE-OBS", "~")), str(row.get("TIME-OBS", "~"))), default={})
    for key, values in table.items():
        known = [value for value in values if value is not None and value == value]
        if not known:
            continue
        value = first.get(key, known[0]) if key in ("DATE-OBS", "TIME-OBS") else _blended(key, known, len(rows))
        if value is not None:
            out[places.get(key, "PRIMARY")][key] = value
    return out | {TABLE: table}


def _blended(key: str, values: list[Any], n_rows: int) -> Any:
    if key in _SUM or key in _SPAN:
        if len(values) < n_rows and key not in (*_FIRST, *_LAST):
            return None  # unknown of some: no sum, no mean
        return plain(sum(values) if key in _SUM else _SPAN[key](values))
    if all(value == values[0] for value in values):
        return values[0] if key != "S_REGION" or n_rows == 1 else None
    state = {"S_": "PARTIAL", "R_": "MULTIPLE"}.get(key[:2], values[0])
    return _SEVERAL.get(key, state) or None


def _rows_of(table: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    n = max((len(values) for values in table.values()), default=0)
    return [{key: values[i] for key, values in table.items() if i < len(values)} for i in range(n)]


def table_hdu(header_text: str) -> fits.BinTableHDU | None:
    """Return the HDU HDRTAB of a product whose attribute ``fits_header`` holds the table, None where it does not."""
    table = json.loads(header_text or "{}").get(TABLE) or {}
    columns = {str(name): _column(values) for name, values in table.items() if values}
    return plain_table(TABLE, columns) if columns else None


def _column(values: Sequence[Any]) -> np.ndarray:
    known = [value for value in values if value is not None]
    kinds = {type(value) for value in known}
    if kinds in ({bool}, {int}) and len(known) == len(values):
        return np.array(values, dtype="?" if kinds == {bool} else "i8")
    if kinds <= {int, float, bool}:
        return np.array([math.nan if value is None else float(value) for value in values])
    texts = ["" if value is None else str(value).encode("ascii", "replace") for value in values]
    return np.array(texts, dtype=f"S{max(1, *map(len, texts))}")
