"""The slice coordinates of cal data on disk: the slice map and the coefficients of the WCS model.

Written as the image REGIONS and two small tables, from which opening computes alpha, beta and wavelength,
bit by bit the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr.schema import LEVELS, WCS_VARIABLES

from ._meta import plain_table
from .headers import FitsFile

SLICE_TABLE, BAND_TABLE, REGIONS = "MRS-SLICES", "MRS-BANDS", "REGIONS"
_TABLES = {SLICE_TABLE: "slice_label", BAND_TABLE: "band"}
_SPECS = {spec.name: spec for spec in WCS_VARIABLES}
_COORDINATES = ("alpha", "beta", "wavelength")
#: Variables of cal data that belong to the setting and not to one dither.
STATIC = ("slice", "channel", *_COORDINATES, *_SPECS, "slice_label", "band")


def write(ds: xr.Dataset) -> tuple[list[Any], set[str], str]:
    """Return the HDUs of the slice coordinates, the variables they hold and their digest.

    Parameters
    ----------
    ds : Dataset of a detector level

    Returns
    -------
    (list of HDU, set of str, str)
        alpha, beta, wavelength and channel are in the set only where the file gives them back exactly;
        the digest tells apart files made with different coordinates.
    """
    hdus: list[Any] = []
    written: list[np.ndarray] = []
    held: set[str] = set()
    for extension, rows in _TABLES.items():
        names = [spec.name for spec in WCS_VARIABLES if spec.dims[0] == rows and spec.name in ds.variables]
        if names and rows in ds.coords:
            columns = _columns(ds, rows, names)
            hdus.append(plain_table(extension, columns, {name: _SPECS[name].units for name in names}))
            written += columns.values()
            held |= {rows, *names}
    if "slice" not in ds.variables:
        return hdus, held, _digest(written)
    regions = np.asarray(ds["slice"].values, dtype="i2")
    hdus.insert(0, fits.ImageHDU(regions, name=REGIONS))
    held.add("slice")
    model = {name: ds.variables[name] for name in (*_SPECS, *_TABLES.values()) if name in held}
    wanted = {n: str(ds[n].dtype) for n in ("channel", *_COORDINATES) if n in ds.variables}
    restored = coordinates(regions, model, wanted, _origin(ds["y"].values, ds["x"].values))
    held |= {n for n, values in restored.items() if np.array_equal(values, ds[n].values, equal_nan=True)}
    return hdus, held, _digest([regions, *written])


def read(file: FitsFile, meta: Mapping[str, Any]) -> dict[str, xr.Variable]:
    """Return the slice coordinates and WCS model variables that a file of this package holds."""
    out: dict[str, xr.Variable] = {}
    for extension, rows in _TABLES.items():
        if extension not in file:
            continue
        columns = file.table(extension)
        out[rows] = xr.Variable((rows,), _labels(columns.pop(rows)))
        for name, values in columns.items():
            out[name] = xr.Variable(_SPECS[name].dims, values, {"units": _SPECS[name].units})
    if REGIONS not in file:
        return out
    regions = np.asarray(xr.Variable(("y", "x"), _load(file, REGIONS)).values, dtype="i2")
    out["slice"] = xr.Variable(("y", "x"), regions, {"units": "1"})
    wanted = {name: meta["variables"][name]["dtype"] for name in meta.get("slicer", [])}
    units = {spec.name: spec.units for spec in LEVELS["cal"]}
    vectors = meta.get("vectors", {})
    origin = _origin(*(vectors.get(name, np.zeros(1)) for name in ("y", "x")))
    for name, values in coordinates(regions, dict(out), wanted, origin).items():
        out[name] = xr.Variable(("y", "x"), values, {"units": units[name]})
    return out


def coordinates(
    regions: np.ndarray, model: Mapping[str, xr.Variable], wanted: Mapping[str, str], origin: tuple[int, int] = (0, 0)
) -> dict[str, np.ndarray]:
    """Return channel, alpha, beta and wavelength of the detector pixels, as far as the model gives them.

    Parameters
    ----------
    regions : ndarray (y, x) of int
        Slice labels, channel * 100 + slice.
    model : mapping
        Variables of :data:`mrsxr.schema.WCS_VARIABLES` with slice_label and band.
    wanted : mapping of name to dtype
    origin : (int, int)
        Row and column of the first pixel, not (0, 0) in a cut-out.

    Returns
    -------
    dict of ndarray (y, x)
    """
    out: dict[str, np.ndarray] = {}
    if "channel" in wanted:
        out["channel"] = (regions // 100).astype(wanted["channel"])
    names = [name for name in _COORDINATES if name in wanted]
    if not names or not {"alpha_coefficients", "wavelength_coefficients", "slice_beta"} <= set(model):
        return out
    from mrsxr.geometry.detector import slicer_grid
    from mrsxr.geometry.frame import FrameModel, grids

    dataset = xr.Dataset({name: value for name, value in model.items() if name != "slice"})
    dataset = dataset.set_coords([name for name in _TABLES.values() if name in dataset.variables])
    kept = grids(FrameModel(dataset, regions, origin))
    if any(kept[name].dtype != wanted[name] for name in names):
        kept = dict(zip(_COORDINATES, slicer_grid(dataset, regions, origin), strict=True))
    return out | {name: kept[name].astype(wanted[name]) for name in names}


def _columns(ds: xr.Dataset, rows: str, names: list[str]) -> dict[str, np.ndarray]:
    labels = ds[rows].values
    is_text = labels.dtype.kind in "UOT"
    columns = {rows: np.char.encode(labels.astype("U2"), "ascii") if is_text else labels.astype("i2")}
    for name in names:
        columns[name] = np.asarray(ds[name].transpose(*_SPECS[name].dims).values, dtype="f8")
    return columns


def _origin(y: np.ndarray, x: np.ndarray) -> tuple[int, int]:
    return int(y[0]), int(x[0])


def _labels(values: np.ndarray) -> np.ndarray:
    return values if values.dtype.kind in "iu" else np.char.strip(values.astype("U2"))


def _load(file: FitsFile, name: str) -> Any:
    from xarray.core.indexing import LazilyIndexedArray

    data = file.image(name)
    return data if isinstance(data, np.ndarray) else LazilyIndexedArray(data)


def _digest(written: list[np.ndarray]) -> str:
    if not written:
        return ""
    state = hashlib.blake2b(digest_size=16)
    for values in written:
        kind = "U2" if values.dtype.kind == "S" else values.dtype.newbyteorder("=")
        state.update(np.ascontiguousarray(values.astype(kind)).tobytes())
    return state.hexdigest()
