"""Line fits and maps (of lines, moments, channels, ratios, bins, excitation) to FITS files and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr.errors import InputFileError, SchemaError
from mrsxr.geometry.place import Place
from mrsxr.notes import listen, noted
from mrsxr.schema import is_measured
from mrsxr.spaxels import counted_solid_angle, even_step, solid_angle, spaxel_area, tell_growth
from mrsxr.threads import how
from mrsxr.units import fits_text

from . import _meta
from ._detector import extras, require_kept
from ._keywords import primary_hdu, product_keywords
from .fits_out import extra_images
from .headers import MAP_MODELS, MAPS, FitsFile

TABLE = "LINES"


def lines_file(ds: xr.Dataset, filename: str) -> fits.HDUList:
    """Return the FITS file of line fits (a table) or of maps (images); this computes them.

    Parameters
    ----------
    ds : Dataset of level "lines", "moments", "channel_maps", "line_ratio", "bins" or "excitation"
    filename : str
        For the keyword FILENAME.

    Returns
    -------
    HDUList
        PRIMARY; LINES, a table with a row for each line, of a spectrum's fits, NaN where a number is no measurement
        (:func:`mrsxr.schema.is_measured`; the images have all numbers, as they were fitted); of maps an image for each
        variable, named as the variable, the flux first, with the sky WCS of the spaxels on the first two axes and lines
        or channels along the third, lines named by the keywords LINE1, LINE2 ...; MRSXR, which gives the Dataset back
        as it was.

    Raises
    ------
    SchemaError
        Where a map was cut to a row, or a unit is none of FITS.
    MrsxrError
        Where the spaxels are not equally spaced.
    """
    ds, place = _whole_maps(ds)
    ds = ds.compute(**how())
    primary = primary_hdu(product_keywords(ds, filename).now["PRIMARY"], ds)
    labels = [str(name) for name in np.atleast_1d(ds["line"].values)] if "line" in ds.variables else []
    for number, label in enumerate(labels, 1):
        primary.header[f"LINE{number}"] = (label, "along the third axis")
    meta = _meta.describe(ds)
    first = [name for name in (MAPS[ds.attrs["level"]][2], *ds.data_vars, *ds.coords) if name in ds.variables]
    ordered = xr.Dataset({name: ds.variables[name] for name in dict.fromkeys(first)})
    images, meta["extras"], meta["small"] = extra_images(ordered, ())
    by_name = {image.name: image for image in images}
    cards = {} if place is None else place.cards | _area(ds)
    for name, where in meta["extras"].items():
        _dress(by_name[where["hdu"]], ds, str(name), cards, labels)
    rows = [_table(ds)] if "line" in ds.dims and not {"y", "x"} <= set(ds.dims) else []
    return fits.HDUList([primary, *rows, *images, _meta.table(meta)])


def _whole_maps(ds: xr.Dataset) -> tuple[xr.Dataset, Place | None]:
    """Return maps with y and x last and without what loading gives them again, and their place on the sky."""
    left = {"y", "x"} & set(ds.dims)
    if "wcs" not in ds.attrs or not left:
        return ds, None
    if len(left) == 1:
        raise SchemaError(
            f"maps need y and x, the data have {', '.join(map(str, ds.dims))}; keep a row with a list, isel(y=[k]), or "
            "save as netcdf or zarr"
        )
    place = Place.of(ds)
    with listen() as heard:
        if any(_counts(ds[name]) for name in ds.data_vars):
            tell_growth(ds)
    return noted(ds.drop_vars(["ra", "dec"], errors="ignore").transpose(..., "y", "x"), heard), place


def _counts(array: xr.DataArray) -> bool:
    return array.attrs.get("units") == "W m-2"


def _area(ds: xr.Dataset) -> dict[str, float]:
    """Return the solid angle of the spaxels; of those per which light is counted where the maps count it."""
    if not any(_counts(ds[name]) for name in ds.data_vars) or "pixel_scale" not in ds.attrs:
        return {"PIXAR_A2": spaxel_area(ds), "PIXAR_SR": solid_angle(ds)}
    solid = counted_solid_angle(ds)
    return {"PIXAR_A2": float(ds.attrs["pixel_scale"]) ** 2, "PIXAR_SR": solid}


def _dress(image: fits.ImageHDU, ds: xr.Dataset, name: str, sky: dict[str, Any], labels: list[str]) -> None:
    """Add unit, sky WCS and velocities to the image of a variable."""
    variable = ds.variables[name]
    if unit := fits_text(variable.attrs.get("units") or ""):
        image.header["BUNIT"] = unit
    if variable.dims[-2:] != ("y", "x") or not sky:
        return
    third = _velocities(ds) if variable.dims == ("velocity", "y", "x") else {}
    image.header["WCSAXES"] = 3 if third else 2
    image.header.update(sky | third)
    for number, label in enumerate(labels, 1):
        image.header[f"LINE{number}"] = label


def _velocities(ds: xr.Dataset) -> dict[str, Any]:
    """Return the third axis of channel maps of equal width; velocities are c (wavelength / that of the line - 1)."""
    speed = np.asarray(ds["velocity"].values, float)
    ends = [float(ds[n].values[0]) for n in ("velocity_low", "velocity_high") if n in ds.variables]
    step = even_step(speed, ends[1] - ends[0] if len(ends) == 2 else np.nan)
    if step is None or not np.isfinite(step) or "wavelength_rest" not in ds.variables:
        return {}
    rest = float(ds["wavelength_rest"].values) * (1.0 + float(ds.attrs.get("redshift", 0.0)))
    return {"CTYPE3": "VOPT", "CUNIT3": "m/s", "CRPIX3": 1.0, "CRVAL3": 1e3 * speed[0], "CDELT3": 1e3 * step,
            "RESTWAV": 1e-6 * rest}  # fmt: skip


def _table(ds: xr.Dataset) -> fits.BinTableHDU:
    """Return the table of a spectrum's fits: a row for each line, components as vectors."""
    columns = [fits.Column(name="LINE", format="24A", array=ds["line"].values.astype("U24"))]
    for name, variable in ds.variables.items():
        if variable.dims[:1] != ("line",) or name == "line" or variable.dtype.kind not in "fiu":
            continue
        values = _measured(ds, str(name)).astype("f8").reshape(variable.shape[0], -1)
        unit = fits_text(variable.attrs.get("units") or "") or None
        columns.append(fits.Column(name=str(name).upper(), format=f"{values.shape[1]}D", array=values, unit=unit))
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
    """Return the Dataset of a file that :func:`lines_file` made, in memory."""
    meta = _meta.read(file)
    if meta is None:
        raise InputFileError(f"{file.path}: line fits without the {_meta.EXTENSION} extension; the file is damaged")
    level = MAP_MODELS[str(file.header["PRIMARY"].get("DATAMODL"))]
    if meta["attrs"]["level"] != level:
        raise InputFileError(
            f"{file.path}: the file holds data of level {level}, but was saved as {meta['attrs']['level']}"
        )
    found: dict[str, Any] = extras(file, meta)
    ds = _meta.apply(xr.Dataset(found).load(), meta)
    require_kept(file, meta, set(ds.variables))
    saved = product_keywords(ds, file.path.name).now
    return _meta.with_edits(file.path, ds, file.header, {**saved["SCI"], **saved["PRIMARY"]})
