"""Line fits and line maps to FITS files and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr.errors import InputFileError
from mrsxr.geometry.place import Place
from mrsxr.schema import is_measured
from mrsxr.threads import how

from . import _meta
from ._detector import extras, require_kept
from ._keywords import fill_header, fill_notes, product_keywords
from ._spectral import bands_of
from .fits_out import extra_images
from .headers import FitsFile

TABLE = "LINES"
#: What a layer is called in FITS; the first image of a file is the one that viewers show.
_FIRST = "flux"


def lines_file(ds: xr.Dataset, filename: str) -> fits.HDUList:
    """Return the FITS file of line fits (a table) or line maps (images); this computes them.

    Parameters
    ----------
    ds : Dataset of level "lines"
    filename : str
        For the keyword FILENAME.

    Returns
    -------
    HDUList
        PRIMARY; LINES, a table with a row for each line, of a spectrum's fits, NaN where a number is no measurement
        (:func:`mrsxr.schema.is_measured`; the images have all numbers, as they were fitted); of maps an image for each
        variable, named as the variable, flux first, with the sky WCS of the cube on the first two axes and the lines
        along the third, named by the keywords LINE1, LINE2 ...; MRSXR, which gives the Dataset back as it was.
    """
    ds = ds.drop_vars(["ra", "dec"], errors="ignore").compute(**how())
    primary = fits.PrimaryHDU()
    fill_header(primary.header, product_keywords(ds, filename, bands_of(ds)).now["PRIMARY"])
    fill_notes(primary.header, ds)
    labels = [str(name) for name in np.atleast_1d(ds["line"].values)]
    for number, label in enumerate(labels, 1):
        primary.header[f"LINE{number}"] = (label, "along the third axis")
    meta = _meta.describe(ds)
    first = [name for name in (_FIRST, *ds.data_vars, *ds.coords) if name in ds.variables]
    ordered = xr.Dataset({name: ds.variables[name] for name in dict.fromkeys(first)})
    images, meta["extras"], meta["small"] = extra_images(ordered, ())
    by_name = {image.name: image for image in images}
    for name, place in meta["extras"].items():
        _dress(by_name[place["hdu"]], ds, str(name), labels)
    rows = [] if {"y", "x"} <= set(ds.dims) else [_table(ds)]
    return fits.HDUList([primary, *rows, *images, _meta.table(meta)])


def _dress(image: fits.ImageHDU, ds: xr.Dataset, name: str, labels: list[str]) -> None:
    """Add unit and sky WCS to the image of a variable."""
    variable = ds.variables[name]
    if variable.attrs.get("units"):
        image.header["BUNIT"] = str(variable.attrs["units"])
    if variable.dims[-2:] != ("y", "x") or "wcs" not in ds.attrs:
        return
    image.header["WCSAXES"] = 2
    image.header.update(Place.of(ds).cards)
    for number, label in enumerate(labels, 1):
        image.header[f"LINE{number}"] = label


def _table(ds: xr.Dataset) -> fits.BinTableHDU:
    """Return the table of a spectrum's fits: a row for each line, components as vectors."""
    columns = [fits.Column(name="LINE", format="24A", array=ds["line"].values.astype("U24"))]
    for name, variable in ds.variables.items():
        if variable.dims[:1] != ("line",) or name == "line" or variable.dtype.kind not in "fiu":
            continue
        values = _measured(ds, str(name)).astype("f8").reshape(variable.shape[0], -1)
        unit = variable.attrs.get("units")
        columns.append(
            fits.Column(
                name=str(name).upper(), format=f"{values.shape[1]}D", array=values, unit=None if unit == "1" else unit
            )
        )
    return fits.BinTableHDU.from_columns(columns, name=TABLE)


def _measured(ds: xr.Dataset, name: str) -> np.ndarray:
    """Return the values of a variable, NaN where they are no measurements (upper limits: where the line is seen)."""
    if "snr" not in ds:
        return ds[name].values
    if name == "upper_limit":
        seen = is_measured(ds, "flux")
        return ds[name].values if seen is None else ds[name].where(~seen).values
    seen = is_measured(ds, name)
    return ds[name].values if seen is None else ds[name].where(seen).transpose(*ds[name].dims).values


def read_lines(file: FitsFile) -> xr.Dataset:
    """Return the Dataset of level "lines" of a file that :func:`lines_file` made, in memory."""
    meta = _meta.read(file)
    if meta is None:
        raise InputFileError(f"{file.path}: line fits without the {_meta.EXTENSION} extension; the file is damaged")
    if meta["attrs"]["level"] != "lines":
        raise InputFileError(f"{file.path}: the file holds line fits, but was saved as {meta['attrs']['level']}")
    found: dict[str, Any] = extras(file, meta)
    ds = _meta.apply(xr.Dataset(found).load(), meta)
    require_kept(file, meta, set(ds.variables))
    saved = product_keywords(ds, file.path.name, bands_of(ds)).now
    return _meta.with_edits(file.path, ds, file.header, {**saved["SCI"], **saved["PRIMARY"]})
