"""Cubes and spectra to FITS files in the JWST layout."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr.errors import SchemaError
from mrsxr.geometry.place import Place
from mrsxr.inputs import in_order, require_um
from mrsxr.notes import listen, noted
from mrsxr.schema import ATTRIBUTES, CUBE_DIMS, fits_names, units_of
from mrsxr.spaxels import counted_solid_angle, even_step, plane_widths, solid_angle, spaxel_area
from mrsxr.threads import how
from mrsxr.units import density_per, fits_text, parse

from . import _cube_gwcs, _gwcs, _meta
from ._blend import table_hdu
from ._keywords import fill_header, primary_hdu, product_keywords
from ._spectral import COLUMNS
from ._stream import STREAMED, hollow, write_streamed
from .fits_out import extra_images, write_fits

#: Columns of EXTRACT1D of the jwst MRS spectra, in order.
_COLUMNS = (
    "WAVELENGTH", "FLUX", "FLUX_ERROR", "FLUX_VAR_POISSON", "FLUX_VAR_RNOISE", "FLUX_VAR_FLAT",
    "SURF_BRIGHT", "SB_ERROR", "SB_VAR_POISSON", "SB_VAR_RNOISE", "SB_VAR_FLAT", "DQ", "BACKGROUND",
    "BKGD_ERROR", "BKGD_VAR_POISSON", "BKGD_VAR_RNOISE", "BKGD_VAR_FLAT", "NPIXELS",
    "RF_FLUX", "RF_SURF_BRIGHT", "RF_BACKGROUND",
)  # fmt: skip
#: Columns of errors: the variable, and its variance of which they are the root.
_ERRORS = {
    "FLUX_ERROR": ("flux", "var"), "SB_ERROR": ("surface_brightness", "surface_brightness_var"),
    "BKGD_ERROR": ("background", "background_var"),
}  # fmt: skip
#: How jwst writes units in tables.
_UNITS = {"Jy2": "Jy^2", "MJy2/sr2": "MJy2 sr-2", "1": None, "": None}
#: Keywords of the WCS that a file had before.
_WCS = re.compile(r"(WCSAXES|CRPIX|CRVAL|CTYPE|CUNIT|CDELT|CROTA|CD|PC|PV|PS|RADESYS|LONPOLE|LATPOLE|EQUINOX)[0-9_]*")
_CUBE_HELD = {"flux", "dq", "weight", "wavelength", "y", "x", "ra", "dec"}


def cube_file(ds: xr.Dataset, filename: str) -> fits.HDUList:
    """Return the s3d file of a cube; this computes the cube.

    Parameters
    ----------
    ds : Dataset of level "cube"
    filename : str
        For the keyword FILENAME.

    Returns
    -------
    HDUList
        PRIMARY, SCI with the linear WCS (or WAVE-TAB with WCS-TABLE where the planes are not equally spaced),
        ERR, DQ, WMAP, VAR (the exact variance), MRSXR, and ASDF with the gWCS.
    """
    ds = _in_order(ds).compute(**how())
    return _cube_hdus(ds, filename, error_of(ds["var"].values))[0]


def write_cube(ds: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write the s3d file of a cube; a lazy cube is computed while it is written and never in memory as a whole.

    Parameters
    ----------
    ds : Dataset of level "cube"
    path : path
        Ending in ``.fits``; of a name ending in ``.fits.gz`` the cube is computed first.

    Returns
    -------
    Path
        The same file, bit by bit, as that of :func:`cube_file`.
    """
    path, ds = Path(path), _in_order(ds)
    lazy = {
        str(name): array.data
        for name, array in ds.data_vars.items()
        if array.chunks is not None and array.dims == CUBE_DIMS and str(array.dtype) in STREAMED and array.size
    }
    if not lazy or path.suffix == ".gz":
        return write_fits(cube_file(ds, path.name), path)
    empty = {name: (CUBE_DIMS, hollow(array.shape, str(array.dtype))) for name, array in lazy.items()}
    rest = ds.assign({name: (*pair, ds[name].attrs) for name, pair in empty.items()}).compute(**how())
    error = hollow(rest["var"].shape, _error_type(lazy["var"])) if "var" in lazy else error_of(rest["var"].values)
    hdus, places = _cube_hdus(rest, path.name, error)
    images = {places[name]: array for name, array in lazy.items()}
    if "var" in lazy:
        images["ERR"] = da.map_blocks(error_of, lazy["var"], dtype=_error_type(lazy["var"]))
    return write_streamed(hdus, images, path)


def error_of(variance: np.ndarray) -> np.ndarray:
    """Return the square root, NaN of what is negative; as float32 unless the variance is float64 for its unit."""
    with np.errstate(invalid="ignore"):
        return np.sqrt(variance).astype(_error_type(variance))


def _error_type(variance: np.ndarray) -> str:
    return "f8" if variance.dtype == np.float64 else "f4"


def _in_order(ds: xr.Dataset) -> xr.Dataset:
    """Return a cube as its file holds it, with the notes of what was done to it; refuse what is no whole cube."""
    if not set(CUBE_DIMS) <= set(ds.dims):
        raise SchemaError(
            f"a cube file needs the dimensions wavelength, y and x, the data have {', '.join(map(str, ds.dims))}; keep "
            "single ones with lists, isel(wavelength=[k]), or save as netcdf or zarr"
        )
    if missing := [name for name in ("flux", "var", "dq") if name not in ds]:
        raise SchemaError(f"the cube has no '{missing[0]}', which its file must hold")
    require_um(ds, "a FITS file")
    with listen() as heard:
        ds = in_order(ds)
    return noted(ds.drop_vars(["ra", "dec"], errors="ignore").transpose(*CUBE_DIMS, ...), heard)


def _cube_hdus(ds: xr.Dataset, filename: str, error: np.ndarray) -> tuple[fits.HDUList, dict[str, str]]:
    """Return the file of a cube that holds no lazy values, and the EXTNAME of each of its images."""
    keywords = product_keywords(ds, filename)
    primary = primary_hdu(keywords.now["PRIMARY"], ds)
    sci = fits.ImageHDU(ds["flux"].values, name="SCI")
    unit = sci.header["BUNIT"] = fits_text(ds["flux"].attrs.get("units", "MJy/sr"))
    wcs, linear = _wcs_cards(ds)
    fill_header(sci.header, {k: v for k, v in keywords.now["SCI"].items() if k not in wcs and not _WCS.fullmatch(k)})
    fill_header(sci.header, wcs)
    sci.header["DISPAXIS"] = 2  # what jwst writes; jdaviz takes no image without it for a cube
    primary.header.update({"FLUXEXT": "SCI", "ERREXT": "ERR", "MASKEXT": "DQ"})
    err = fits.ImageHDU(error, name="ERR")
    err.header.update({"BUNIT": unit, "ERRTYPE": "ERR"})
    hdus: list[Any] = [primary, sci, err, fits.ImageHDU(ds["dq"].values, name="DQ")]
    if "weight" in ds:
        hdus.append(fits.ImageHDU(ds["weight"].values, name="WMAP"))
    if not linear:
        hdus.append(_wavelength_table(ds["wavelength"].values))
    table = table_hdu(str(ds.attrs.get("fits_header") or ""))
    hdus += [] if table is None else [table]
    meta = _meta.describe(ds)
    more, meta["extras"], meta["small"] = extra_images(ds, _CUBE_HELD)
    by_name = {image.name: image for image in more}
    for name, where in meta["extras"].items():
        if held := fits_text(ds.variables[name].attrs.get("units") or ""):
            by_name[where["hdu"]].header["BUNIT"] = held
    vectors = {name: ds[name].values for name in ("wavelength", "y", "x")}
    places = fits_names("cube") | {n: place["hdu"] for n, place in meta["extras"].items()}
    asdf = _cube_gwcs.extension(sci.header, ds["wavelength"].values, (ds.sizes["y"], ds.sizes["x"]))
    return fits.HDUList([*hdus, *more, _meta.table(meta, vectors), asdf]), places


def spectrum_file(ds: xr.Dataset, filename: str) -> fits.HDUList:
    """Return the x1d file of a spectrum of one or several bands.

    Parameters
    ----------
    ds : Dataset of level "spectrum"
    filename : str
        For the keyword FILENAME.

    Returns
    -------
    HDUList
        PRIMARY, EXTRACT1D with the columns of jwst and after them FLUX_VAR, SB_VAR (the exact variances) and
        BAND, MRSXR, and an empty ASDF, without which specutils and jwst take no file for theirs. Columns without a
        counterpart are NaN, as jwst writes them.
    """
    require_um(ds, "a FITS file")
    ds = ds.compute(**how())
    keywords = product_keywords(ds, filename)
    primary = primary_hdu(keywords.now["PRIMARY"], ds)
    columns, n_samples = [], ds.sizes["wavelength"]
    for column in _COLUMNS:
        values = _column(ds, column, n_samples)
        if column == "DQ":
            columns.append(fits.Column(name=column, format="J", bzero=2**31, array=values.astype("u4")))
        else:
            columns.append(fits.Column(name=column, format="D", unit=_unit(ds, column), array=values.astype("f8")))
    for column in ("FLUX_VAR", "SB_VAR"):
        values = ds[COLUMNS[column].name].values.astype("f8")
        columns.append(fits.Column(name=column, format="D", unit=_unit(ds, column), array=values))
    if "band" in ds.variables:
        columns.append(fits.Column(name="BAND", format="2A", array=ds["band"].values.astype("U2")))
    table = fits.BinTableHDU.from_columns(columns, name="EXTRACT1D")
    fill_header(table.header, keywords.now["SCI"])
    for name in ("aperture_x", "aperture_y"):
        if name in ds.attrs:
            table.header[ATTRIBUTES[name].fits.partition("/")[2]] = float(ds.attrs[name])
    held = {spec.name for spec in COLUMNS.values()}
    for name in [str(n) for n in ds.variables if n in held]:
        if ds[name].dims != ("wavelength",):
            raise SchemaError(f"'{name}' has dims {ds[name].dims}, an x1d file needs ('wavelength',)")
    meta = _meta.describe(ds)
    more, meta["extras"], meta["small"] = extra_images(ds, held)
    return fits.HDUList([primary, table, *more, *_tables(ds, meta["small"]), _meta.table(meta), _gwcs.extension(ds)])


def _tables(ds: xr.Dataset, small: dict[str, dict[str, Any]]) -> list[fits.BinTableHDU]:
    """Return a table of what stands along each dimension but the wavelength, as the bands that were stitched.

    In ``small`` the names of the tables take the place of the values.
    """
    columns: dict[str, list[fits.Column]] = {}
    for name, kept in small.items():
        values = np.array(kept["values"])
        if values.ndim != 1 or not values.size or kept["dims"] == ["wavelength"] or values.dtype.kind not in "fiU":
            continue
        if values.dtype.kind == "U" and not all(text.isascii() and text == text.rstrip() for text in kept["values"]):
            continue  # no text of FITS
        form = {"f": "D", "i": "K"}.get(values.dtype.kind, f"{max(1, values.dtype.itemsize // 4)}A")
        unit = str(ds[name].attrs.get("units", "1"))
        column = fits.Column(name=name, format=form, array=values, unit=None if unit == "1" else fits_text(unit))
        small[name] = {"dims": kept["dims"], "values": [], "dtype": kept["dtype"], "table": kept["dims"][0].upper()}
        columns.setdefault(kept["dims"][0].upper(), []).append(column)
    return [fits.BinTableHDU.from_columns(found, name=name) for name, found in columns.items()]


def _unit(ds: xr.Dataset, column: str) -> str | None:
    """Return TUNIT of a column: that of jwst, or what the Dataset was converted to."""
    name = _ERRORS[column][0] if column in _ERRORS else COLUMNS[column].name
    own = units_of("spectrum", name)
    held = ds.variables[name].attrs.get("units") if name in ds.variables else None
    unit = _UNITS.get(own, own)
    return unit if unit is None or not held or parse(held) == parse(unit) else fits_text(held)


def _column(ds: xr.Dataset, column: str, n_samples: int) -> np.ndarray:
    if column in _ERRORS and _ERRORS[column][1] in ds.variables:
        with np.errstate(invalid="ignore"):
            return np.sqrt(ds[_ERRORS[column][1]].values.astype("f8"))
    name = COLUMNS[column].name
    return ds[name].values if name in ds.variables else np.full(n_samples, np.nan)


def _wcs_cards(ds: xr.Dataset) -> tuple[dict[str, Any], bool]:
    """Return the WCS of the spaxels and planes that are left with area and footprint, and whether it is linear."""
    if not ds.attrs.get("wcs"):
        raise SchemaError("the cube has no attribute 'wcs' that says where it lies; save it as netcdf or zarr")
    place, wavelength = Place.of(ds), np.asarray(ds["wavelength"].values, float)
    try:
        step = even_step(wavelength, float(plane_widths(ds)[0]) if wavelength.size == 1 else np.nan)
    except SchemaError:  # of a lone plane the width is not known: a table tells its place
        step = None
    if step is None:
        third = {"CTYPE3": "WAVE-TAB", "CRVAL3": 1.0, "PS3_0": "WCS-TABLE", "PS3_1": "wavelength"}
    else:
        third = {"CTYPE3": "WAVE", "CRVAL3": float(wavelength[0]), "CDELT3": float(step)}
    third |= {"CUNIT3": "um", "CRPIX3": 1.0, "PC1_3": 0.0, "PC2_3": 0.0, "PC3_1": 0.0, "PC3_2": 0.0, "PC3_3": 1.0}
    both = place.cards | third
    order = ("WCSAXES", "CRPIX", "CRVAL", "CTYPE", "CUNIT", "CDELT", "PC", "PS", "RADESYS")
    cards = {"WCSAXES": 3} | {key: both[key] for stem in order for key in sorted(both) if key.startswith(stem)}
    counted = density_per(parse(ds["flux"].attrs.get("units", "MJy/sr"))) == "pix" and "pixel_scale" in ds.attrs
    area, solid = spaxel_area(ds), counted_solid_angle(ds) if counted else solid_angle(ds)
    cards |= {"PIXAR_A2": area, "PIXAR_SR": solid, "S_REGION": place.s_region}
    return cards, step is not None


def _wavelength_table(wavelength: np.ndarray) -> fits.BinTableHDU:
    n = wavelength.size
    column = fits.Column(name="wavelength", format=f"{n}E", dim=f"(1,{n})", unit="um",
                         array=wavelength.astype("f4").reshape(1, n, 1))  # fmt: skip
    return fits.BinTableHDU.from_columns([column], name="WCS-TABLE")
