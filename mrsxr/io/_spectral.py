"""Cubes (s3d) and spectra (x1d) to Datasets of their level."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr import units
from mrsxr.attributes import marks_of
from mrsxr.errors import InputFileError, MrsxrError, SchemaError
from mrsxr.geometry.place import Place
from mrsxr.notes import listen, noted, tell
from mrsxr.schema import CUBE_DIMS, LEVELS, fits_names
from mrsxr.spaxels import Plane, counted_solid_angle, header_of_text, plane_of, solid_angle

from . import _meta
from ._checks import check_wavelengths
from ._detector import constant, extras, flags, preferred_chunks, require_kept, require_planes, variable
from ._keywords import product_keywords
from .headers import FitsFile, band_of, exposure_name, header_json, require

#: Variables of a spectrum by their columns in EXTRACT1D. Variances come from the errors where they are absent.
COLUMNS = {spec.fits: spec for spec in LEVELS["spectrum"] if spec.fits}
_NEEDED = ("FLUX", "SURF_BRIGHT", "BACKGROUND", "NPIXELS")
#: What jwst calls the cubes and spectra of single exposures.
_OF_ONE_EXPOSURE = re.compile(
    r"(jw\d{11}_\d{5}_\d{5}(?:-seg\d+)?_mirifu(?:short|long))(?:_ch[0-9a-z-]+)?_(?:s3d|x1d)\.fits(?:\.gz)?"
)
_SAME_AREA = 1e-2  # part by which PIXAR_SR and CDELT may differ before it is told
HEADER_TABLE = "HDRTAB"
_WCS_STEMS = ("WCSAXES", "CRPIX", "CRVAL", "CTYPE", "CUNIT", "CDELT", "RADESYS", "LONPOLE", "LATPOLE", "EQUINOX")


#: Planes that jwst writes: what their absence means.
_CUBE_PLANES = {
    "DQ": "no voxel is flagged", "ERR": "the errors are not known", "WMAP": "the pixels of a voxel are not counted",
}  # fmt: skip


def _require_level(file: FitsFile, meta: Mapping[str, Any] | None, level: str) -> None:
    if meta is not None and meta["attrs"]["level"] != level:
        raise InputFileError(
            f"{file.path}: the file looks like a {level}, but was saved as {meta['attrs']['level']}; it is damaged"
        )


def read_cube(file: FitsFile) -> xr.Dataset:
    """Return the Dataset of level "cube" of an s3d file.

    Parameters
    ----------
    file : FitsFile

    Returns
    -------
    Dataset
        ``flux`` [MJy/sr], ``var`` (the square of ERR where the file is of jwst), ``weight``, ``dq``, lazy.

    Raises
    ------
    InputFileError
        Where the WCS is incomplete or the unit is not MJy/sr.
    """
    meta = _meta.read(file)
    _require_level(file, meta, "cube")
    sci = file.get("SCI")
    unit, shape = _cube_units(file, sci.header), sci.shape
    wide = "f4" if unit["var"] == "MJy2/sr2" else "f8"  # float32 does not hold the squares of every unit
    kept = {} if meta is None else meta["variables"]
    dtype = "f8" if kept.get("flux", {}).get("dtype") == "float64" else "f4"
    if meta is None:
        require_planes(file, _CUBE_PLANES)
    variables = {
        "flux": variable(file, "SCI", CUBE_DIMS, shape, dtype, unit["flux"]),
        "dq": flags(file, "DQ", CUBE_DIMS, shape, "u4"),
    }
    if "ERR" in file:
        variables["var"] = variable(file, "ERR", CUBE_DIMS, shape, wide, unit["var"], square=True)
    else:
        variables["var"] = constant(CUBE_DIMS, shape, "f4", unit["var"], np.nan)
    if "WMAP" in file:
        variables["weight"] = variable(file, "WMAP", CUBE_DIMS, shape, "f4", unit["weight"])
    else:
        variables["weight"] = constant(CUBE_DIMS, shape, "f4", unit["weight"], np.nan)
    if meta is not None:
        variables |= extras(file, meta)
    ds = xr.Dataset(variables, _cube_axes(file, sci.header, shape, meta))
    ds.attrs = _cube_attrs(file, sci.header)
    found, wavelength = dict(ds.attrs), ds["wavelength"].values
    check_wavelengths(file.path, ds.attrs["band"], wavelength[0], wavelength[-1])
    ds = _with_meta(file, ds, meta, fits_names("cube"))
    with listen() as heard:
        if meta is None:
            _tell_area(file.path, found)
        else:
            ds = _as_edited(ds, found)
    ds = noted(ds, heard)
    for name in ds.data_vars:
        dims = ds.variables[name].dims
        ds.variables[name].encoding["preferred_chunks"] = preferred_chunks("cube", ds.sizes, dims)
    ds.encoding["read_eagerly"] = file.buffer is not None
    return ds


def _with_meta(
    file: FitsFile, ds: xr.Dataset, meta: Mapping[str, Any] | None, planes: Mapping[str, str] | None = None
) -> xr.Dataset:
    """Return a cube or spectrum with what META remembers, and with what was edited in its header since then."""
    if meta is None:
        return ds
    ds = _meta.apply(ds, meta)
    require_kept(file, meta, set(ds.variables), planes)
    saved = product_keywords(ds, file.path.name).now
    return _meta.with_edits(file.path, ds, file.header, {**saved["SCI"], **saved["PRIMARY"]})


def _cube_units(file: FitsFile, header: fits.Header) -> dict[str, str | None]:
    """Return the units of the variables of a cube, of another than MJy/sr as its BUNIT says."""
    out = {spec.name: spec.units for spec in LEVELS["cube"]}
    unit = str(header.get("BUNIT", out["flux"])).strip()
    try:
        parsed = units.parse(unit)
        if units.density_per(parsed) not in ("sr", "pix"):
            raise SchemaError("not per solid angle or spaxel")
    except SchemaError as error:
        raise InputFileError(f"{file.path}: BUNIT is '{unit}', expected 'MJy/sr' for a cube, or its like") from error
    return out if parsed == units.parse(str(out["flux"])) else out | {"flux": unit, "var": str(parsed**2)}


def _as_edited(ds: xr.Dataset, found: dict[str, Any]) -> xr.Dataset:
    """Return a cube with the attributes as they were saved; where its header was edited since with those of the header.

    Parameters
    ----------
    ds : Dataset
        With the attributes that META remembers.
    found : dict
        Attributes by the header.
    """
    here = xr.Dataset(coords={name: ds[name] for name in ("y", "x")}, attrs=ds.attrs)
    try:
        place = Place.of(here)
        header = fits.Header(list(place.cards.items())).tostring(sep="\n", endcard=False, padding=False)
        same = same_wcs(found["wcs"], header) or same_wcs(found["wcs"], str(ds.attrs["wcs"]))
        solid = [counted_solid_angle(here), solid_angle(here)]
    except (MrsxrError, KeyError):
        same, solid = False, []
    changed = {} if same else {"wcs": found["wcs"]}
    if not any(abs(found["pixar_sr"] / one - 1.0) < 1e-9 for one in solid):
        changed |= {name: found[name] for name in ("pixel_scale", "pixar_sr", "pixar_a2")}
    return ds.assign_attrs(changed) if changed else ds


def wcs_header(header: fits.Header) -> str:
    """Return the WCS keywords of an s3d SCI header as a header string with a line per card.

    The third axis of a WAVE-TAB cube is left out, as it has no meaning without its table.
    """
    cards = fits.Header()
    tabular = str(header.get("CTYPE3", "")).strip() == "WAVE-TAB"
    for card in header.cards:
        stem, third = card.keyword.rstrip("0123456789_"), card.keyword.endswith("3") or "3_" in card.keyword
        if stem not in _WCS_STEMS and not (stem == "PC" and "_" in card.keyword):
            continue
        if tabular and third:
            continue
        cards[card.keyword] = 2 if tabular and stem == "WCSAXES" else card.value
    return cards.tostring(sep="\n", endcard=False, padding=False)


def same_wcs(one: str, other: str) -> bool:
    """Return whether two WCS header strings say the same of the sky."""
    headers = header_of_text(one), header_of_text(other)
    stems = ("CRVAL", "CRPIX", "CDELT", "PC", "CTYPE")
    keys = {k for header in headers for k in header if k.rstrip("0123456789_") in stems and "3" not in k}
    defaults = {"PC1_1": 1, "PC2_2": 1}
    for key in keys:
        first, second = (header.get(key, defaults.get(key, 0)) for header in headers)
        if isinstance(first, str) or isinstance(second, str):
            if first != second:
                return False
        elif not np.isclose(first, second, rtol=1e-12, atol=1e-15):
            return False
    return True


def _cube_axes(
    file: FitsFile, header: fits.Header, shape: tuple[int, ...], meta: Mapping[str, Any] | None
) -> dict[str, Any]:
    require(file.path, header, "CRPIX1", "CRPIX2", "CDELT1", "CDELT2", "CRVAL1", "CRVAL2", "CTYPE3")
    axes: dict[str, Any] = {}
    plane = _plane(file, header)
    for name, number, length in (("x", 1, shape[2]), ("y", 2, shape[1])):
        step, reference = plane.scale[number - 1], plane.crpix[number - 1]
        if not step or not np.isfinite(step) or not np.isfinite(reference):
            raise InputFileError(f"{file.path}: CDELT{number} and CRPIX{number} are no finite numbers other than 0")
        axes[name] = (np.arange(length) + 1 - reference) * step
    if str(header["CTYPE3"]).strip() == "WAVE-TAB":
        columns = {name.lower(): values for name, values in file.table("WCS-TABLE").items()}
        axes["wavelength"] = np.asarray(columns["wavelength"], dtype="f8").ravel()
    else:
        first, step, pixel = require(file.path, header, "CRVAL3", "CDELT3", "CRPIX3")
        axes["wavelength"] = first + (np.arange(shape[0]) + 1 - pixel) * step
        if str(header.get("CUNIT3", "um")).strip() == "m":
            axes["wavelength"] = axes["wavelength"] * 1e6
    if not np.isfinite(axes["wavelength"]).all() or (axes["wavelength"] <= 0).any():
        raise InputFileError(f"{file.path}: the wavelengths of the planes are not all finite and above 0")
    if axes["wavelength"].size != shape[0]:
        raise InputFileError(
            f"{file.path}: WCS-TABLE has {axes['wavelength'].size} wavelengths, SCI has {shape[0]} planes"
        )
    for name, exact in (meta or {}).get("vectors", {}).items():
        if name in axes and exact.shape == axes[name].shape and np.allclose(exact, axes[name], rtol=1e-7, atol=1e-9):
            axes[name] = exact
    unit = {spec.name: spec.units for spec in LEVELS["cube"]}
    return {name: (name, values, {"units": unit[name]}) for name, values in axes.items()}


def _plane(file: FitsFile, header: fits.Header) -> Plane:
    try:
        return plane_of(wcs_header(header))
    except MrsxrError as error:
        raise InputFileError(f"{file.path}: {error}") from error


def _cube_attrs(file: FitsFile, header: fits.Header) -> dict[str, Any]:
    primary = file.header["PRIMARY"]
    tabular = str(header.get("CTYPE3", "")).strip() == "WAVE-TAB"
    to_um = 1e6 if str(header.get("CUNIT3", "um")).strip() == "m" else 1.0
    step = float("nan") if tabular else abs(float(header.get("CDELT3", "nan"))) * to_um
    return {
        "level": "cube",
        "wcs": wcs_header(header),
        **_spaxel(file, header),
        "wavelength_step": step,
        "weighting": str(primary.get("WTYPE") or header.get("WTYPE") or ""),
        **_common_attrs(file, header),
    }


def read_table(file: FitsFile) -> dict[str, list[Any]]:
    """Return HDRTAB of a file as lists of plain values, None for what is not known; empty where there is none."""
    if HEADER_TABLE not in file:
        return {}
    out = {}
    for name, column in file.table(HEADER_TABLE).items():
        values = [value.rstrip() if isinstance(value, str) else value for value in column.tolist()]
        out[name] = [None if isinstance(value, float) and math.isnan(value) else value for value in values]
    return out


def _exposures(file: FitsFile) -> list[str]:
    """Return the exposures behind a product: those of HDRTAB, or the one whose name it has; empty where unknown."""
    if HEADER_TABLE in file:
        column = file.table(HEADER_TABLE).get("FILENAME", np.array([], dtype=str))
        return [exposure_name(str(name).strip(), {}) for name in column]
    names = (file.path.name, str(file.header["PRIMARY"].get("FILENAME", "")))
    found = (_OF_ONE_EXPOSURE.fullmatch(str(name)) for name in names)
    return next(([match[1]] for match in found if match), [])


def _spaxel(file: FitsFile, header: fits.Header) -> dict[str, float]:
    """Return side [arcsec] and solid angle [sr, arcsec2] of a spaxel: that of PIXAR_SR, else of CDELT."""
    along_x, along_y = (abs(step) for step in _plane(file, header).scale)
    area = along_x * along_y
    stated = {"PIXAR_SR": area * units.ARCSEC2_TO_SR, "PIXAR_A2": area}
    for key, computed in stated.items():
        value = header.get(key)
        stated[key] = float(value) if isinstance(value, int | float) and 0 < value < 1e9 else computed
    scale = along_x if abs(along_y / along_x - 1.0) < 1e-9 else area**0.5
    return {"pixel_scale": scale, "pixar_sr": stated["PIXAR_SR"], "pixar_a2": stated["PIXAR_A2"]}


def _tell_area(path: Path, attrs: Mapping[str, Any]) -> None:
    """Tell where PIXAR_SR, which is used for fluxes, is not the area of the spaxels."""
    solid, area = float(attrs["pixar_sr"]), float(attrs["pixel_scale"]) ** 2 * units.ARCSEC2_TO_SR
    if abs(solid / area - 1.0) > _SAME_AREA:
        tell(
            f"{path.name}: PIXAR_SR is {solid:.4g} sr, spaxels of CDELT1 x CDELT2 have {area:.4g}; the first is used "
            "for fluxes"
        )


def _common_attrs(file: FitsFile, header: Mapping[str, Any]) -> dict[str, Any]:
    primary = file.header["PRIMARY"]
    target = (primary.get("TARG_RA"), primary.get("TARG_DEC"))
    return {
        "band": band_of(primary),
        "channels": str(primary.get("CHANNEL") or ""),
        "exposures": _exposures(file),
        "target": str(primary.get("TARGNAME") or primary.get("TARGPROP") or ""),
        "program": str(primary.get("PROGRAM") or ""),
        "target_ra": float("nan") if target[0] is None else float(target[0]),
        "target_dec": float("nan") if target[1] is None else float(target[1]),
        "source_type": str(header.get("SRCTYPE") or primary.get("SRCTYPE") or "UNKNOWN"),
        "background": int(bool(primary.get("BKGDTARG", False))),
        "fits_header": header_json(file.header | ({HEADER_TABLE: table} if (table := read_table(file)) else {})),
        "Conventions": "mrsxr-1",
        **marks_of(primary),
    }


def read_spectrum(file: FitsFile, source: int | None = None) -> xr.Dataset:
    """Return the Dataset of level "spectrum" of an x1d file.

    Parameters
    ----------
    file : FitsFile
    source : int, optional
        Which EXTRACT1D table to read (EXTVER, from 1); needed only where the file holds several.

    Returns
    -------
    Dataset, in memory

    Raises
    ------
    InputFileError
        Where several tables are found and none was chosen, or a column is missing.
    """
    tables = file.all("EXTRACT1D")
    if source is None and len(tables) > 1:
        raise InputFileError(f"{file.path}: the file holds {len(tables)} spectra; choose one by source=1 ...")
    number = (source or 1) - 1
    if not 0 <= number < len(tables):
        raise InputFileError(f"{file.path}: there is no spectrum {source}; the file holds {len(tables)}")
    hdu, meta = tables[number], _meta.read(file)
    _require_level(file, meta, "spectrum")
    columns = file.table("EXTRACT1D", hdu.version)
    missing = {"WAVELENGTH", *_NEEDED, "DQ"} - set(columns)
    if missing:
        raise InputFileError(f"{file.path}: EXTRACT1D lacks the columns {', '.join(sorted(missing))}")
    ds = _spectrum_variables(file, columns, meta["variables"] if meta is not None else ())
    header = hdu.header
    ds.attrs = {"level": "spectrum", **_common_attrs(file, header)}
    for attr, keyword in (("aperture_x", "EXTR_X"), ("aperture_y", "EXTR_Y")):
        if keyword in header:
            ds.attrs[attr] = float(header[keyword])
    if meta is not None:
        ds = ds.assign(extras(file, meta))
        for name, kept in meta["variables"].items():
            if name in ds.variables and name != "band" and ds[name].dtype != kept["dtype"]:
                ds[name] = ds[name].astype(kept["dtype"])
        ds = ds.drop_vars([n for n in ds.variables if n not in meta["variables"]])
    return _with_meta(file, ds, meta)


def _spectrum_variables(file: FitsFile, columns: Mapping[str, np.ndarray], kept: Container[str]) -> xr.Dataset:
    columns = {name: np.squeeze(values) for name, values in columns.items()}
    along = ("wavelength",)
    out: dict[str, Any] = {}
    for column in _NEEDED:
        out[COLUMNS[column].name] = (along, columns[column].astype("f8"), {"units": COLUMNS[column].units})
    for name, exact, error, unit in (
        ("var", "FLUX_VAR", "FLUX_ERROR", "Jy2"),
        ("surface_brightness_var", "SB_VAR", "SB_ERROR", "MJy2/sr2"),
    ):
        if exact in columns:
            values = columns[exact].astype("f8")
        else:
            values = columns[error if error in columns else "ERROR"].astype("f8") ** 2
        out[name] = (along, values, {"units": unit})
    out["dq"] = (along, columns["DQ"].astype("u4"), {"units": "1"})
    for column, spec in COLUMNS.items():
        if spec.optional and column in columns and (spec.name in kept or np.isfinite(columns[column]).any()):
            out[spec.name] = (along, columns[column].astype("f8"), {"units": spec.units})
    n_samples = columns["WAVELENGTH"].size
    if "BAND" in columns:
        band = np.char.strip(columns["BAND"].astype("U2"))
    else:
        band = np.full(n_samples, band_of(file.header["PRIMARY"]), dtype="U2")
    coords = {"wavelength": (along, columns["WAVELENGTH"].astype("f8"), {"units": "um"}), "band": (along, band)}
    return xr.Dataset(out, coords)
