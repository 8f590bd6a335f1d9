"""Datasets to FITS in the JWST layout, one file per exposure, cube or spectrum, written in one stroke."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr.attributes import alone
from mrsxr.errors import MrsxrError, SchemaError
from mrsxr.schema import DITHER_COORDS, REQUIRED_ATTRS, SCATTER, fits_names, units_of, variances_of
from mrsxr.step import JOINED, history_of, read_history
from mrsxr.threads import how

from . import _gwcs, _meta, _slicer
from ._detector import DETECTOR_LEVELS
from ._keywords import exposure_keywords, fill_header, primary_hdu
from .atomic import replacing

_RESERVED = {"PRIMARY", "SCI", "ERR", "DQ", "ASDF", "WCS-TABLE", "HDRTAB", "WMAP", "EXTRACT1D", "REGIONS", "MRSXR"}


def write_fits(hdulist: fits.HDUList, path: str | os.PathLike[str]) -> Path:
    """Write a FITS file in one stroke: to a temporary name beside it, then renamed.

    A reader never sees half a file, and a failure leaves an older file of that name as it was.

    Parameters
    ----------
    hdulist : HDUList
    path : path
        Ending in ``.fits`` or ``.fits.gz``.

    Returns
    -------
    Path
    """
    path = Path(path)
    for hdu in hdulist:
        if hdu.is_image and hdu.data is not None:
            hdu.data = hdu.data.view()
            hdu.data.flags.writeable = False  # else astropy swaps its bytes in place, under the eyes of other threads
    with replacing(path) as temporary:
        hdulist.writeto(temporary, output_verify="fix+ignore")
    return path


def exposure_file(ds: xr.Dataset, index: int, filename: str) -> fits.HDUList:
    """Return the FITS file of one dither of a detector Dataset; computes that dither, all variables at once.

    Parameters
    ----------
    ds : Dataset of level "ramp", "rate", "rateints" or "cal"
    index : int
        Which dither, from 0.
    filename : str
        For the keyword FILENAME.

    Returns
    -------
    HDUList
        PRIMARY, SCI, ERR (root of the sum of :data:`mrsxr.schema.SCATTER`), the other planes, MRSXR, and ASDF with the
        gWCS where the coordinates are assigned (:mod:`mrsxr.io._gwcs`).
    """
    level = ds.attrs["level"]
    one = _alone(ds.isel(dither=[index]).compute(**how()))
    keywords = exposure_keywords(one, filename)
    primary = primary_hdu(keywords.now["PRIMARY"], ds)
    hdus: list[Any] = [primary]
    held = {spec.name for spec in DITHER_COORDS} | {"dither"}
    for name, extension in fits_names(level).items():
        if name in one.variables:
            hdus.append(_image(one[name], extension, units_of(level, name) if extension == "SCI" else None))
            held.add(name)
        if extension == "SCI":
            fill_header(hdus[-1].header, keywords.now["SCI"])
    error = _error(one, level)
    if error is not None:
        hdus.insert(2, fits.ImageHDU(error, name="ERR"))
        hdus[2].header["BUNIT"] = hdus[1].header["BUNIT"]
    meta = _meta.describe(one)
    text = str(one["fits_header"].values[0])
    meta |= {"header_text": text, "header": keywords.before, "written": keywords.written()}
    meta["dither"] = _dither_facts(one)
    vectors = _vectors(one)
    held |= {"y", "x", "integration", "group"}
    if level != "ramp":
        slicer_hdus, in_tables, digest = _slicer.write(one)
        hdus += slicer_hdus
        held |= in_tables
        meta |= {"slicer": sorted(in_tables), "slicer_digest": digest}
    more, meta["extras"], meta["small"] = extra_images(one, held)
    return fits.HDUList([*hdus, *more, _meta.table(meta, vectors), _gwcs.extension(one)])


def _alone(one: xr.Dataset) -> xr.Dataset:
    """Return the data of one exposure with a history of its own, where it was joined with others."""
    one, history = alone(one), read_history(one)
    if any(entry.get("step") == JOINED for entry in history):
        one.attrs["history_json"] = json.dumps(history_of(history, str(one["exposure"].values[0])))
    return one


def extra_images(ds: xr.Dataset, held: Iterable[str]) -> tuple[list[fits.ImageHDU], dict[Any, Any], dict[Any, Any]]:
    """Return the variables that the JWST layout does not know as images of their own.

    Parameters
    ----------
    ds : Dataset, computed
    held : iterable of str
        Variables that the file holds already.

    Returns
    -------
    (list of ImageHDU, dict, dict)
        The images, where each variable lies, and the values of texts and scalars, which go to META.
    """
    hdus, places, small = [], {}, {}
    held = set(held)
    for name, variable in ds.variables.items():
        if name in held:
            continue
        values = np.asarray(variable.values)
        if values.dtype.kind == "O" and not all(isinstance(value, str) for value in values.flat):
            raise SchemaError(f"variable '{name}' is {values.dtype}, which FITS cannot hold; drop it")
        if values.dtype.kind in "UOT" or values.ndim == 0 or 0 in values.shape or _is_small(variable):
            small[name] = {"dims": list(variable.dims), "values": values.tolist(), "dtype": str(values.dtype)}
            continue
        if values.dtype.kind not in "fiub":
            raise SchemaError(f"variable '{name}' is {values.dtype}, which FITS cannot hold; drop it or use netCDF")
        extension = str(name).upper()
        extension = f"X_{extension}" if extension in _RESERVED else extension
        hdus.append(_image(xr.DataArray(values), extension, None))
        shape = [int(n) for n in values.shape]
        places[name] = {"hdu": extension, "dims": list(variable.dims), "shape": shape, "dtype": str(values.dtype)}
    return hdus, places, small


def check_level(ds: xr.Dataset) -> str:
    """Return the level of a Dataset; raise MrsxrError where it has none."""
    for name in REQUIRED_ATTRS:
        if name not in ds.attrs:
            if "kind" in ds.attrs:
                how = "keep it by to_netcdf(path), read it by xarray.load_dataset(path)"
                raise MrsxrError(f"a {ds.attrs['kind']} is no product: {how}")
            raise MrsxrError(f"the Dataset has no attribute '{name}', so it is unknown how to save it")
    return str(ds.attrs["level"])


def _image(array: xr.DataArray, extension: str, unit: str | None) -> fits.ImageHDU:
    values = np.asarray(array.values)
    if "dither" in array.dims and extension in _standard():
        values = values[0]
    storable = {"int8": "i2", "bool": "u1", "float16": "f4"}.get(str(values.dtype))
    hdu = fits.ImageHDU(values.astype(storable) if storable else values, name=extension)
    if unit:
        hdu.header["BUNIT"] = unit
    return hdu


def _is_small(variable: xr.Variable) -> bool:
    """Return whether a variable is a few numbers of exposures, bands ..., which no image is needed for."""
    return variable.size <= 64 and variable.dtype.kind in "fiub" and not {"y", "x"} & set(variable.dims)


def _standard() -> set[str]:
    return {extension for level in DETECTOR_LEVELS for extension in fits_names(level).values()}


def _error(ds: xr.Dataset, level: str) -> np.ndarray | None:
    if level == "ramp":
        return None
    names = [name for name in variances_of(ds, SCATTER) if ds[name].dims == ds["dq"].dims]
    if not names:
        return None
    total = sum(ds[name].values[0] for name in names)
    with np.errstate(invalid="ignore"):
        return np.sqrt(total).astype("f4")


def _dither_facts(ds: xr.Dataset) -> dict[str, Any]:
    facts: dict[str, Any] = {"dither": int(ds["dither"].values[0])}
    for spec in DITHER_COORDS:
        if spec.name in ds.coords and spec.name != "fits_header":
            facts[spec.name] = ds[spec.name].values[0].item()
    return json.loads(json.dumps(facts))


def _vectors(ds: xr.Dataset) -> dict[str, np.ndarray]:
    out = {}
    for name, start in (("y", 0), ("x", 0), ("integration", 1), ("group", 1)):
        if name in ds.coords and not np.array_equal(ds[name].values, np.arange(start, ds.sizes[name] + start)):
            out[name] = ds[name].values
    return out
