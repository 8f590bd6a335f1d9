"""Attributes of data that were joined, marks of what was done to them, and the keywords that they came with.

An attribute in which exposures differ is a coordinate along ``dither`` of its name, so that nothing is lost where they
are joined, and each has its own where they are taken apart again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import xarray as xr

from .errors import MrsxrError

#: Attributes (1) that say what was done where later steps must know, by exposure where they differ, and how messages
#: call it; of cubes and spectra the part of the exposures that had it. With the keyword of files of jwst.
MARKS = {
    "pixel_background": ("the background was", "subtracted pixel by pixel", "S_BKDSUB"),
    "master_background": ("a master background was", "subtracted", "S_MSBSUB"),
    "field_background": ("a background over the field was", "subtracted", None),
    "background_match": ("the backgrounds were", "matched", None),
    "fringe_flat": ("the fringe flat was", "divided", "S_FRINGE"),
    "residual_fringe": ("residual fringes were", "corrected", "S_RESFRI"),
    "residual_fringe_cube": ("residual fringes were", "corrected in the cube", None),
    "residual_fringe_1d": ("residual fringes were", "corrected in the spectrum", None),
    "spectral_leak": ("the spectral leak was", "taken off", None),
    "fixed_pattern": ("the fixed pattern was", "divided", None),
    "spectral_leak_cube": ("the spectral leak was", "taken off the cube", None),
}
#: Marks of backgrounds that were subtracted; one only is.
BACKGROUNDS = ("pixel_background", "master_background", "field_background")
_WIDENED = ("psf-matched", "binned")
_MIXED = (*_WIDENED, "regridded")
_KIND = "attribute"  # of a coordinate that is an attribute by exposure: how its values are held
_JSON = "json:"
_said: ContextVar[dict[str, list[Any]] | None] = ContextVar("said", default=None)


def encode(value: Any) -> Any:
    """Return an attribute as every format holds it: text, number or several numbers; what is none of them as JSON.

    Examples
    --------
    >>> encode(3), encode([1.5, 2.0]), encode(None), encode({"1A": True})
    (3, [1.5, 2.0], 'json:null', 'json:{"1A": true}')
    """
    value = plain(value)
    numbers = isinstance(value, list) and len(value) > 1 and all(type(one) in (int, float) for one in value)
    odd = isinstance(value, bool) or value is None or (isinstance(value, dict | list) and not numbers)
    return _JSON + json.dumps(value) if odd else value


def decode(value: Any) -> Any:
    """Return an attribute as it was before :func:`encode`."""
    value = plain(value)
    return json.loads(value[len(_JSON) :]) if isinstance(value, str) and value.startswith(_JSON) else value


def encoded(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as every format holds them."""
    return {str(key): encode(value) for key, value in attrs.items()}


def decoded(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Return attributes as they were before :func:`encoded`."""
    return {str(key): decode(value) for key, value in attrs.items()}


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


def split(rows: Sequence[Mapping[str, Any]], dim: str = "dither") -> tuple[dict[str, Any], dict[str, xr.Variable]]:
    """Return the attributes that all have in common, and as coordinates along ``dim`` those in which they differ.

    Parameters
    ----------
    rows : sequence of mapping
        The attributes of each exposure.
    dim : str

    Examples
    --------
    >>> common, apart = split([{"readpatt": "FASTR1", "n_groups": 5}, {"readpatt": "FASTR1", "n_groups": 9}])
    >>> common, apart["n_groups"].values.tolist()
    ({'readpatt': 'FASTR1'}, [5, 9])
    """
    common, apart = {}, {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        if all(_same(value, values[0]) for value in values):
            common[name] = values[0]
        else:
            apart[name] = _coordinate(name, [plain(value) for value in values], dim)
    return common, apart


def _coordinate(name: str, values: list[Any], dim: str) -> xr.Variable:
    if name in MARKS:
        values = [value or 0 for value in values]
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        numbers = np.array([np.nan if value is None else value for value in values])
        return xr.Variable(dim, numbers, {_KIND: "int" if kinds == {int} else "float"})
    texts = values if kinds == {str} and None not in values else [encode(value) for value in values]
    kind = "text" if kinds == {str} else "json"
    return xr.Variable(dim, np.array([one if isinstance(one, str) else _JSON + json.dumps(one) for one in texts]),
                       {_KIND: kind})  # fmt: skip


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and one != one:
        return other != other
    return bool(np.array_equal(one, other)) if one is not None and other is not None else one is other


def apart(ds: xr.Dataset, dim: str = "dither") -> list[str]:
    """Return the names of the attributes in which the exposures of a Dataset differ."""
    found = ((name, ds.variables[name]) for name in ds.coords)
    return [str(name) for name, one in found if one.dims == (dim,) and _KIND in one.attrs]


def of_each(ds: xr.Dataset, name: str, dim: str = "dither") -> list[Any]:
    """Return an attribute of each exposure, None where it has none."""
    if name not in apart(ds, dim):
        return [ds.attrs.get(name)] * ds.sizes.get(dim, 1)
    kind, values = ds[name].attrs[_KIND], ds[name].values.tolist()
    if kind in ("text", "json"):
        return [decode(value) for value in values]
    return [None if value != value else int(value) if kind == "int" else value for value in values]


def rows_of(ds: xr.Dataset, dim: str = "dither") -> list[dict[str, Any]]:
    """Return all attributes of each exposure."""
    own = {name: of_each(ds, name, dim) for name in apart(ds, dim)}
    more = [{name: values[k] for name, values in own.items() if values[k] is not None}
            for k in range(ds.sizes.get(dim, 1))]  # fmt: skip
    return [{str(key): value for key, value in ds.attrs.items()} | one for one in more]


def set_each(ds: xr.Dataset, name: str, values: Sequence[Any], dim: str = "dither") -> xr.Dataset:
    """Return a Dataset with an attribute of each exposure."""
    common, own = split([{name: value} for value in values], dim)
    out = ds.drop_vars([name] if name in apart(ds, dim) else []).assign_coords(own)
    out.attrs = {key: value for key, value in out.attrs.items() if key != name} | common
    return out


def varied(ds: xr.Dataset, word: str) -> xr.Dataset:
    """Return a product that says what else it is than the one it was made of, "binned", "psf-matched" ..."""
    words = dict.fromkeys([*str(ds.attrs.get("variant", "")).split(), word])
    return ds.assign_attrs(variant=" ".join(words))


def mixed(ds: xr.Dataset) -> str:
    """Return by what the voxels of a cube became sums of those that were built, "psf-matched and binned"; "" of none.

    Examples
    --------
    >>> mixed(xr.Dataset(attrs={"variant": "scaled binned"}))
    'binned'
    """
    return _variant(ds, _MIXED)


def widened(ds: xr.Dataset) -> str:
    """Return by what the PSF of a cube became wider than it was built with, "psf-matched and binned"; "" of none."""
    return _variant(ds, _WIDENED)


def _variant(ds: xr.Dataset, words: tuple[str, ...]) -> str:
    return " and ".join(word for word in str(ds.attrs.get("variant", "")).split() if word in words)


def alone(ds: xr.Dataset, dim: str = "dither") -> xr.Dataset:
    """Return one exposure of joined data with all its attributes as such."""
    return ds.drop_vars(apart(ds, dim)).assign_attrs(rows_of(ds, dim)[0])


# --- what was done ---


def share_done(ds: xr.Dataset, mark: str) -> float:
    """Return the part of the exposures of a Dataset to which something was done, 0 to 1.

    Examples
    --------
    >>> share_done(xr.Dataset(attrs={"fringe_flat": 1}), "fringe_flat")
    1.0
    """
    return float(np.mean([float(value or 0) for value in of_each(ds, mark)])) if ds.sizes.get("dither", 1) else 0.0


def require_done(ds: xr.Dataset, mark: str, advice: str) -> None:
    """Raise MrsxrError, naming the exposures, where something was not done to all of them."""
    if share_done(ds, mark) < 1.0:
        subject, done, _ = MARKS[mark]
        raise MrsxrError(f"{_where(ds)}: {subject} not {done}{_of_which(ds, mark, False)}; {advice}")


def require_undone(ds: xr.Dataset, mark: str) -> None:
    """Raise MrsxrError, naming the exposures, where something was done to any of them, or another background is off."""
    for one in BACKGROUNDS if mark in BACKGROUNDS else (mark,):
        if share_done(ds, one) > 0.0:
            subject, done, _ = MARKS[one]
            raise MrsxrError(f"{_where(ds)}: {subject} {done} already{_of_which(ds, one, True)}, again it would count "
                             "twice; start from the data before it")  # fmt: skip


def _where(ds: xr.Dataset) -> str:
    name = "band" if ds.attrs.get("level") in ("cube", "spectrum") else "setting"
    return f"{name} {ds.attrs.get(name, 'unknown')}"


def _of_which(ds: xr.Dataset, mark: str, done: bool) -> str:
    values = of_each(ds, mark)
    names = [str(name) for name, value in zip(np.atleast_1d(ds["exposure"].values), values, strict=True)
             if bool(value) == done] if mark in apart(ds) else []  # fmt: skip
    if names:
        return f" in {', '.join(names)} ({len(names)} of {len(values)} exposures)"
    return "" if share_done(ds, mark) in (0.0, 1.0) else " in some of the exposures"


def marks_of(keywords: Mapping[str, Any]) -> dict[str, int]:
    """Return the marks of what ``jwst`` did to data, by the keywords of their file."""
    return {mark: 1 for mark, (*_, key) in MARKS.items() if key and keywords.get(key) == "COMPLETE"}


# --- keywords of the file that data came from ---


def headers_of(ds: xr.Dataset) -> list[dict[str, Any]]:
    """Return PRIMARY and SCI keywords of the file of each exposure, or of the product; {} where it carries none."""
    texts = ds["fits_header"].values if "fits_header" in ds.coords else ds.attrs.get("fits_header") or ""
    found = np.broadcast_to(texts, (ds.sizes.get("dither", 1),)) if np.ndim(texts) == 0 else texts
    return [json.loads(str(text) or "{}") for text in found]


@contextmanager
def keywords_read() -> Iterator[dict[str, list[Any]]]:
    """Collect the keywords that :func:`keyword` is asked for, and what it says."""
    said: dict[str, list[Any]] = {}
    token = _said.set(said)
    try:
        yield said
    finally:
        _said.reset(token)


def keyword(ds: xr.Dataset, name: str) -> list[Any]:
    """Return a FITS keyword of each exposure, or of the product; None where its header has none.

    Examples
    --------
    >>> keyword(xr.Dataset(attrs={"fits_header": '{"PRIMARY": {"NINTS": 3}}'}), "NINTS")
    [3]
    """
    found = [{**header.get("SCI", {}), **header.get("PRIMARY", {})}.get(name) for header in headers_of(ds)]
    if (said := _said.get()) is not None:
        said[name] = found
    return found
