"""Detector files (uncal, ramp, rate, rateints, cal, crf) to Datasets of their level, lazily."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from xarray.core.indexing import LazilyIndexedArray

from mrsxr import chunks as chunk_sizes
from mrsxr import dq, mrs
from mrsxr.attributes import MARKS, marks_of
from mrsxr.errors import InputFileError
from mrsxr.notes import tell
from mrsxr.schema import (
    DETECTOR_ATTRS,
    DETECTOR_DIMS,
    DITHER_COORDS,
    LEVELS,
    RAMP_DIMS,
    VARIANCES,
    Variable,
    fits_names,
)  # fmt: skip

from . import _meta, _slicer
from .fitsarray import ConstantArray
from .headers import LEVEL_OF_PRODUCT, FitsFile, exposure_name, header_json, require, setting_of

DETECTOR_LEVELS = ("ramp", "rate", "rateints", "cal")


def _main(level: str) -> Variable:
    """Return the variable of a detector level that stands in SCI."""
    return next(spec for spec in LEVELS[level] if spec.fits == "SCI")


def read(file: FitsFile, product: str, *, drop: frozenset[str] = frozenset()) -> xr.Dataset:
    """Return the Dataset of a detector file.

    Parameters
    ----------
    file : FitsFile
    product : str
        uncal, ramp, rate, rateints, cal or crf.
    drop : frozenset of str
        Variables to leave out (the slice coordinates are then not computed).

    Returns
    -------
    Dataset of level "ramp", "rate", "rateints" or "cal", one dither
    """
    level = LEVEL_OF_PRODUCT[product]
    meta = _meta.read(file)
    if meta is not None and meta["attrs"].get("level") != level:
        meta = None  # another program took the file to another level and left ours in it
    if meta is not None and not {"header", "written", "header_text", "dither"} <= set(meta):
        raise InputFileError(f"{file.path}: the {_meta.EXTENSION} extension is not that of an exposure; it is damaged")
    header = file.header if meta is None else _meta.original_keywords(file.header, meta)
    shape = _full_shape(file, level)
    if meta is None:
        _require_planes(file, product)
    variables = _variables(file, level, shape)
    if meta is not None:
        variables |= _kept(file, meta, drop)
    ds = xr.Dataset({name: value for name, value in variables.items() if name not in drop})
    ds = ds.assign_coords(_coords(file, header, level, dict(zip(_main(level).dims, shape, strict=True)), meta))
    ds = ds.set_coords([name for name in _slicer.STATIC if name in ds.data_vars])
    ds.attrs = _attrs(file, level, shape)
    if meta is not None:
        ds = ds.drop_vars([name for name in ds.variables if name not in meta["variables"]])
    by_header = ds.attrs
    ds = _meta.apply(ds, meta)
    ds.attrs = {key: by_header[key] for key in (*DETECTOR_ATTRS, *MARKS) if key in by_header} | ds.attrs
    if meta is not None:
        require_kept(file, meta, set(ds.variables) | drop, fits_names(level))
        saved = {**meta["header"].get("SCI", {}), **meta["written"].get("SCI", {})}
        saved |= {**meta["header"].get("PRIMARY", {}), **meta["written"].get("PRIMARY", {})}
        ds = _meta.with_edits(file.path, ds, file.header, saved)
    for name, variable in ds.variables.items():
        if name not in ds.coords:
            variable.encoding["preferred_chunks"] = preferred_chunks(level, ds.sizes, variable.dims)
    ds.encoding |= {"read_eagerly": file.buffer is not None, "slicer_digest": (meta or {}).get("slicer_digest", "")}
    return ds


def _full_shape(file: FitsFile, level: str) -> tuple[int, ...]:
    shape = (1, *file.get("SCI").shape)
    wanted = len(_main(level).dims)
    if len(shape) != wanted:
        raise InputFileError(f"{file.path}: SCI has {len(shape) - 1} axes, a {level} needs {wanted - 1}")
    primary = file.header["PRIMARY"]
    n_groups, n_integrations = primary.get("NGROUPS"), primary.get("NINTS")
    if level == "ramp" and n_groups is not None and n_groups != shape[2]:
        raise InputFileError(f"{file.path}: NGROUPS is {n_groups}, but SCI holds {shape[2]} groups; the file is broken")
    if level in ("ramp", "rateints") and n_integrations is not None and n_integrations != shape[1]:
        first, last = primary.get("INTSTART"), primary.get("INTEND")  # of a segment
        if first is None or last is None or last - first + 1 != shape[1] or last > n_integrations:
            raise InputFileError(
                f"{file.path}: NINTS is {n_integrations}, but SCI holds {shape[1]} integrations, and no INTSTART and "
                "INTEND say that it is a part of them; the file is broken"
            )
    return shape


def _require_planes(file: FitsFile, product: str) -> None:
    """Tell which planes a file of another program lacks; refuse one of jwst that lost its flags."""
    if product == "uncal":
        return
    if product == "ramp":
        require_planes(file, {"PIXELDQ": "no pixel is flagged", "GROUPDQ": "no sample is flagged"})
        return
    with_error = "ERR" in file
    planes = {
        "DQ": "no pixel is flagged",
        "VAR_POISSON": "the squared ERR stands in its place" if with_error else "the errors are not known",
        "VAR_RNOISE": "it counts as 0" if with_error else "the errors are not known",
    }
    require_planes(file, planes | ({"VAR_FLAT": "it counts as 0"} if product in ("cal", "crf") else {}))


def require_planes(file: FitsFile, planes: Mapping[str, str]) -> None:
    """Tell which image extensions a file lacks and what that means; refuse one of jwst without flags.

    Parameters
    ----------
    file : FitsFile
    planes : mapping
        EXTNAME and what its absence means.

    Raises
    ------
    InputFileError
        Where the file says that jwst calibrated it (CAL_VER) and has no flags: it was cut.
    """
    missing = [name for name in planes if name not in file]
    by_jwst = bool(file.header["PRIMARY"].get("CAL_VER"))
    for name in missing:
        if by_jwst and name in ("DQ", "PIXELDQ", "GROUPDQ"):
            raise InputFileError(
                f"{file.path}: the file has no {name} extension, which jwst writes; it was cut: download it again"
            )
    for meaning in dict.fromkeys(planes[name] for name in missing):
        names = ", ".join(name for name in missing if planes[name] == meaning)
        tell(f"{file.path.name} has no extension {names}: {meaning}")


def require_kept(
    file: FitsFile, meta: Mapping[str, Any], found: set[Any], planes: Mapping[str, str] | None = None
) -> None:
    """Raise InputFileError where a file of this package lost a variable that it was saved with, or its extension."""
    planes = planes or {}
    lost = [name for name in meta["variables"] if name not in found or planes.get(name, "PRIMARY") not in file]
    if lost:
        raise InputFileError(
            f"{file.path}: the file lost {', '.join(lost[:5])}, which it was saved with; it is damaged: write it again"
        )


def _variables(file: FitsFile, level: str, shape: tuple[int, ...]) -> dict[str, xr.Variable]:
    main, dims = _main(level).name, _main(level).dims
    units = {spec.name: spec.units for spec in LEVELS[level]}
    stored_unit = file.get("SCI").header.get("BUNIT")
    if stored_unit and str(stored_unit).strip() != units[main]:
        raise InputFileError(f"{file.path}: BUNIT is '{stored_unit}', expected '{units[main]}' for level {level}")
    out = {main: variable(file, "SCI", dims, shape, None if level == "ramp" else "f4", units[main])}
    if level == "ramp":
        if out[main].dtype not in (np.uint16, np.float32):
            out[main] = variable(file, "SCI", dims, shape, "f4", units[main])
        out["group_dq"] = flags(file, "GROUPDQ", dims, shape, "u1")
        out["pixel_dq"] = flags(file, "PIXELDQ", DETECTOR_DIMS, (1, *shape[-2:]), "u4")
        out |= _reference_output(file, shape)
        return out
    out["dq"] = flags(file, "DQ", dims, shape, "u4")
    for name, extension in fits_names(level).items():
        if name not in VARIANCES or (name == "var_flat" and level != "cal" and extension not in file):
            continue
        if extension in file:
            out[name] = variable(file, extension, dims, shape, "f4", units[name])
        elif name == "var_poisson" and "ERR" in file:
            out[name] = variable(file, "ERR", dims, shape, "f4", units[name], square=True)
            out[name].attrs["comment"] = "the file holds the total error only; its square stands here"
        else:
            fill = 0.0 if name == "var_flat" or "ERR" in file else np.nan
            out[name] = constant(dims, shape, "f4", units[name], fill)
    if level == "cal" and "AREA" in file:
        out["pixel_area"] = variable(file, "AREA", ("y", "x"), shape[-2:], "f4", units["pixel_area"])
    return out


def _reference_output(file: FitsFile, shape: tuple[int, ...]) -> dict[str, xr.Variable]:
    if "REFOUT" not in file:
        return {}
    stored = file.get("REFOUT").shape
    if len(stored) != 4 or stored[:3] != shape[1:4]:
        return {}  # subarrays keep a dummy here
    dims = (*RAMP_DIMS[:-1], "x_ref")
    out = variable(file, "REFOUT", dims, (1, *stored), None, "DN")
    if out.dtype not in (np.uint16, np.float32):
        out = variable(file, "REFOUT", dims, (1, *stored), "f4", "DN")
    return {"refout": out}


def _kept(file: FitsFile, meta: Mapping[str, Any], drop: frozenset[str]) -> dict[str, xr.Variable]:
    """Return the variables of a file of this package that the JWST layout does not know."""
    out = {} if drop >= set(_slicer.STATIC) else _slicer.read(file, meta)
    out |= extras(file, meta, drop)
    return out


def extras(file: FitsFile, meta: Mapping[str, Any], drop: frozenset[str] = frozenset()) -> dict[str, xr.Variable]:
    """Return the further variables that a file of this package holds as images of their own."""
    out = {}
    for name, kept in meta.get("extras", {}).items():
        if name in drop:
            continue
        found = variable(file, kept["hdu"], tuple(kept["dims"]), tuple(kept["shape"]), kept["dtype"], None)
        in_memory = meta["variables"].get(name, {}).get("coord", False)
        out[name] = found.load() if in_memory else found
    for name, kept in meta.get("small", {}).items():
        if name not in drop:
            values = kept["values"]
            if "table" in kept:
                values = file.table(kept["table"]).get(name)
            if values is None:
                raise InputFileError(f"{file.path}: the table {kept['table']} lost its column {name}; it is damaged")
            out[name] = xr.Variable(tuple(kept["dims"]), np.array(values, dtype=kept["dtype"]))
    return out


def variable(
    file: FitsFile, extension: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: Any,
    units: str | None, *, square: bool = False,
) -> xr.Variable:  # fmt: skip
    """Return an image extension as a (lazy) Variable with its units."""
    data = file.image(extension, shape, dtype, square=square)
    wrapped = data if isinstance(data, np.ndarray) else LazilyIndexedArray(data)
    return xr.Variable(dims, wrapped, {} if units is None else {"units": units})


def flags(file: FitsFile, extension: str, dims: tuple[str, ...], shape: tuple[int, ...], dtype: str) -> xr.Variable:
    """Return a flag extension as a Variable, zeros that take no memory where the file has none."""
    if extension in file:
        if file.get(extension).header["BITPIX"] < 0:
            raise InputFileError(f"{file.path}: {extension} holds floating-point numbers, expected integers (flags)")
        out = variable(file, extension, dims, shape, dtype, None)
    else:
        out = constant(dims, shape, dtype, "1", 0)
    out.attrs = dict(dq.GROUP_DQ_ATTRS if dtype == "u1" else dq.PIXEL_DQ_ATTRS)
    return out


def constant(dims: tuple[str, ...], shape: tuple[int, ...], dtype: str, units: str | None, value: float) -> xr.Variable:
    """Return a Variable of one value that takes no memory until it is read."""
    attrs = {} if units is None else {"units": units}
    return xr.Variable(dims, LazilyIndexedArray(ConstantArray(shape, dtype, value)), attrs)


def _coords(
    file: FitsFile, header: Mapping[str, Mapping[str, Any]], level: str, sizes: Mapping[str, int],
    meta: Mapping[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    both = {**file.header["PRIMARY"], **file.header["SCI"]}
    keys = {spec.name: spec.fits.partition("/")[2] for spec in DITHER_COORDS}
    values: dict[str, Any] = {name: both.get(key) for name, key in keys.items()} | {
        "exposure": exposure_name(file.path, file.header["PRIMARY"]),
        "mid_time": _mid_time(both),
        "va_scale": both.get("VA_SCALE", 1.0),
        "fits_header": header_json(header),
    }
    if meta is not None and header == meta["header"]:
        values["fits_header"] = meta["header_text"]
    if values["exposure_time"] is None:
        values["exposure_time"] = both["TGROUP"] * both["NGROUPS"] * both["NINTS"]
    if level == "cal" and meta is None:
        require(file.path, both, *(key for name, key in keys.items() if name.endswith("_ref")))
    out: dict[str, Any] = {}
    exact = (meta or {}).get("dither", {})
    for spec in DITHER_COORDS:
        value, kept = values[spec.name], exact.get(spec.name)
        if kept is not None and (spec.name == "exposure" or _meta.same(_nan(value), kept)):
            value = kept  # the keyword holds fewer digits (an edited keyword wins)
        if spec.dtypes == ("str",):
            out[spec.name] = ("dither", np.array([str(value)]))
        else:
            out[spec.name] = ("dither", np.array([_nan(value)], dtype="f8"), {"units": spec.units})
    out["dither"] = ("dither", np.array([int(exact.get("dither", 1))]))
    for name, start in (("y", 0), ("x", 0), ("integration", _first_integration(file)), ("group", 1)):
        if name in sizes:
            found = (meta or {}).get("vectors", {}).get(name, np.array([]))
            own = found.astype("i8") if found.size == sizes[name] else np.arange(start, sizes[name] + start)
            out[name] = (name, own)
    return out


def _first_integration(file: FitsFile) -> int:
    """Return the number within its exposure of the first integration of a file: that of a segment is not 1."""
    found = file.header["PRIMARY"].get("INTSTART")
    found = 1 if found is None else found
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise InputFileError(f"{file.path}: INTSTART is {found!r}, expected the number of an integration, from 1")
    return found


def _held_integrations(primary: Mapping[str, Any]) -> int:
    """Return how many integrations a slope image rests on: those of its segment, else all of the exposure."""
    first, last = primary.get("INTSTART"), primary.get("INTEND")
    if isinstance(first, int) and isinstance(last, int) and 1 <= first <= last:
        return last - first + 1
    return int(primary["NINTS"])


def _nan(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _mid_time(keywords: Mapping[str, Any]) -> float | None:
    start, middle, end = (keywords.get(key) for key in ("EXPSTART", "EXPMID", "EXPEND"))
    if middle is None and start is not None and end is not None:
        return (start + end) / 2
    return start if middle is None else middle


def _attrs(file: FitsFile, level: str, shape: tuple[int, ...]) -> dict[str, Any]:
    primary = file.header["PRIMARY"]
    setting = setting_of(file.path, primary)
    n_groups, _, group_time, readpatt = require(file.path, primary, "NGROUPS", "NINTS", "TGROUP", "READPATT")
    return {
        "level": level,
        "setting": setting,
        "detector": primary["DETECTOR"],
        "channels": setting[:2],
        "band": mrs.GRATINGS[setting[2]],
        "readpatt": readpatt,
        "subarray": primary.get("SUBARRAY", "FULL"),
        "group_time": float(group_time),
        "frame_time": float(primary.get("TFRAME") or group_time),
        "n_groups": int(n_groups),
        "n_integrations": int(shape[1] if level in ("ramp", "rateints") else _held_integrations(primary)),
        "target": str(primary.get("TARGNAME") or primary.get("TARGPROP") or ""),
        "program": str(primary.get("PROGRAM") or ""),
        "background": int(bool(primary.get("BKGDTARG", False))),
        "Conventions": "mrsxr-1",
        **marks_of({**file.header["SCI"], **primary}),
    }


def preferred_chunks(level: str, sizes: Mapping[Any, int], dims: tuple[Any, ...]) -> dict[str, int]:
    """Return the chunk sizes of a variable that suit its level, by :mod:`mrsxr.chunks`."""
    if level == "cube":
        wanted = chunk_sizes.CUBE_CHUNKS
    elif level == "ramp":
        wanted = chunk_sizes.ramp_chunks(sizes["integration"], sizes["group"], sizes["y"], sizes["x"])
    else:
        wanted = chunk_sizes.DETECTOR_CHUNKS
    return {d: sizes[d] if wanted.get(d, -1) == -1 else min(wanted[d], sizes[d]) for d in dims}
