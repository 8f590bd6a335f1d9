"""Read reference files of every kind as Datasets: images lazily, tables at once, flags in standard bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from xarray.core import indexing

from mrsxr import dq as dq_bits
from mrsxr.arguments import need_paths
from mrsxr.chunks import RAMP_ROWS_MAX
from mrsxr.errors import InputFileError, MrsxrError, ReferenceFileError
from mrsxr.io.asdffile import LOCK, Stamp, read_asdf, stamp_of
from mrsxr.io.headers import FitsFile, read_layout
from mrsxr.io.sources import in_blocks
from mrsxr.limits import Count, Whole, checked_but, checked_fields

from . import checks, distortion, table_readers
from .headers import FIELDS, KINDS, ReferenceFacts, is_asdf, read_facts

Rows = Count | Sequence[Count]


@dataclass(frozen=True)
@checked_fields
class Window:
    """A detector part: first row and column (from 0) in the array of a file, number of rows and columns.

    ``columns`` are those of the part that are wanted, counted from its first; all where empty.
    """

    y: Whole
    x: Whole
    n_y: Count
    n_x: Count
    columns: tuple[Whole, ...] = ()


@dataclass(frozen=True)
class Image:
    """One image of a reference kind: variable, its HDU, dims, unit and whether the file must have it."""

    name: str
    hdu: str
    dims: tuple[str, ...]
    units: str
    optional: bool = False


_RAMP = ("integration", "group", "y", "x")
_PLANE = ("y", "x")
IMAGES: dict[str, tuple[Image, ...]] = {
    "mask": (),
    "saturation": (Image("threshold", "SCI", _PLANE, "DN"),),
    "linearity": (Image("coefficients", "COEFFS", ("order", "y", "x"), "1"),),
    "dark": (Image("dark", "SCI", _RAMP, "DN"),),
    "reset": (Image("reset", "SCI", _RAMP, "DN"),),
    "gain": (Image("gain", "SCI", _PLANE, "electron/DN"),),
    "readnoise": (Image("read_noise", "SCI", _PLANE, "DN"),),
    "flat": (Image("flat", "SCI", _PLANE, "1"), Image("flat_err", "ERR", _PLANE, "1", optional=True)),
    "fringe": (Image("fringe", "SCI", _PLANE, "1"), Image("fringe_err", "ERR", _PLANE, "1", optional=True)),
    "photom": (
        Image("conversion", "SCI", _PLANE, "MJy s / (DN sr)"),
        Image("conversion_err", "ERR", _PLANE, "MJy s / (DN sr)", optional=True),
        Image("pixel_area", "PIXSIZ", _PLANE, "arcsec2", optional=True),
    ),
}
#: Kinds whose files have flags; the mask must have them, the others may.
WITH_DQ = ("mask", "saturation", "linearity", "dark", "reset", "flat", "fringe", "photom")
_TABLE_READERS: dict[str, Callable[[Any], tuple[xr.Dataset, dict[str, Any]]]] = {
    "rscd": table_readers.read_rscd,
    "ipc": table_readers.read_ipc,
    "latent": table_readers.read_latent,
    "pfpc": table_readers.read_pfpc,
    "psf": table_readers.read_psf,
    "mrsxartcorr": table_readers.read_mrsxartcorr,
    "mrsptcorr": table_readers.read_mrsptcorr,
    "fringefreq": table_readers.read_fringefreq,
    "cubepar": table_readers.read_cubepar,
}
_TREE_READERS: dict[str, Callable[[Mapping[str, Any], str], tuple[xr.Dataset, dict[str, Any]]]] = {
    "extract1d": table_readers.read_extract1d,
    "apcorr": table_readers.read_apcorr,
    "emicorr": table_readers.read_emicorr,
}


@checked_but("path")
def read_reference(
    path: str | os.PathLike[str], kind: str | None = None, *, rows: Rows = RAMP_ROWS_MAX, window: Window | None = None
) -> xr.Dataset:
    """Read a reference file of the CRDS formats.

    Parameters
    ----------
    path : path-like
        FITS or ASDF reference file.
    kind : str, optional
        The kind it must be ("dark", "photom" ...); by default what the file says of itself (REFTYPE).
    rows : int or sequence of int
        Chunks of the lazy images along y.
    window : Window, optional
        Detector part to cut out of images; all by default.

    Returns
    -------
    Dataset
        Variables by kind:

        * mask: ``dq``; saturation: ``threshold`` [DN]; linearity: ``coefficients`` (order, y, x); dark,
          reset: (integration, group, y, x) [DN]; gain [electron/DN]; readnoise: ``read_noise`` [DN] (CDS);
          flat: ``flat``, ``flat_err``; fringe; photom: ``conversion`` [MJy/sr per DN/s], ``pixel_area`` [arcsec2]
          and, where there is a time law, ``time_wavelength`` [um], ``time_alpha``, ``time_year1value``,
          ``time_tsoft`` [d], ``time_t0`` [MJD] on (channel, time_bin); ``dq`` where kept.
        * tables: see :mod:`mrsxr.references.table_readers`; geometry: :mod:`mrsxr.references.distortion`.

        Attributes: ``level`` "reference", ``kind``, ``ref_id`` (file name), ``useafter``, ``detector``,
        ``band``, ``channels``, ``readpatt``, ``subarray`` ("" where the file states none or several). Images
        are dask arrays of ``rows`` x all columns; nothing of them is read yet. Flags are mapped by name to
        the standard bits.

    Raises
    ------
    ReferenceFileError
        Where the file is missing, damaged, of another kind, or lacks an extension.

    Examples
    --------
    >>> dark = mx.references.read_reference(dark_file)
    >>> dark.attrs["kind"], dark.dark.dims
    ('dark', ('integration', 'group', 'y', 'x'))
    """
    need_paths("read_reference", path)
    if kind is not None and kind not in KINDS:
        raise ReferenceFileError(f"'{kind}' is no reference kind; expected one of {', '.join(KINDS)}")
    path = Path(path)
    facts = read_facts(path)
    if kind is not None and facts.kind != kind:
        raise ReferenceFileError(f"{path}: is a reference file of kind {facts.kind}, expected {kind}")
    return read_known(facts, rows=rows, window=window)


def read_known(facts: ReferenceFacts, *, rows: Rows = RAMP_ROWS_MAX, window: Window | None = None) -> xr.Dataset:
    """Read a reference file whose header is known already; as :func:`read_reference`."""
    path, kind = facts.path, facts.kind
    try:
        if kind in distortion.READERS or kind in _TREE_READERS:
            if not is_asdf(path):
                raise ReferenceFileError(f"{path}: expected an ASDF file for {kind}, found FITS")
            ds, attrs = _read_asdf(kind, path)
            ds = _cut(ds, window)
        else:
            if is_asdf(path):
                raise ReferenceFileError(f"{path}: expected a FITS file for {kind}, found ASDF")
            file = _layout(path)
            if kind in _TABLE_READERS:
                ds, attrs = _TABLE_READERS[kind](file)
                ds = _cut(checks.check_table(ds.assign_attrs(kind=kind), str(path)), window)
                ds = ds.assign(psf=_read_again(file, ds["psf"].variable)) if kind == "psf" else ds
            else:
                ds, attrs = _read_images(file, kind, rows, window)
    except InputFileError as error:
        raise ReferenceFileError(f"{error} (reference file of kind {kind})") from error
    except MrsxrError:
        raise
    except Exception as error:  # what a damaged file makes of a reader
        reason = str(error) or type(error).__name__
        raise ReferenceFileError(
            f"{path}: the {kind} reference is damaged, it cannot be read "
            f"({type(error).__name__}: {reason[:200]}); get it anew"
        ) from error
    return _with_attrs(ds, facts, attrs)


def _read_again(file: FitsFile, images: xr.Variable) -> xr.Variable:
    """Return images of a PSF that a task reads from the file, so that they are in no graph."""
    later = dask.delayed(_psf_images, name=f"reference-psf-{da.core.tokenize(str(file.path), file.stamp)}")(file.path)
    return images.copy(data=da.from_delayed(later, images.shape, images.dtype))


def _psf_images(path: Path) -> np.ndarray:
    return np.asarray(table_readers.read_psf(_layout(path))[0]["psf"].values)


def _layout(path: Path) -> FitsFile:
    """Return where things lie in a file, from memory where it was asked before and did not change."""
    if path.suffix == ".gz":  # the layout holds the whole content
        return read_layout(path)
    return _known_layout(path, stamp_of(path))


@lru_cache(maxsize=64)
def _known_layout(path: Path, _stamp: Stamp) -> FitsFile:
    return read_layout(path)


def _read_asdf(kind: str, path: Path) -> tuple[xr.Dataset, dict[str, Any]]:
    """Read an ASDF file once for all exposures and threads: building the models of one takes most of a second."""
    with LOCK:
        return (_big if kind == "regions" else _small)(kind, path, stamp_of(path))


def _read_tree(kind: str, path: Path, _stamp: Stamp) -> tuple[xr.Dataset, dict[str, Any]]:
    if kind in distortion.READERS:
        return checks.check_table(distortion.READERS[kind](path), str(path)), {}
    tree = read_asdf(path)
    try:
        ds, attrs = _TREE_READERS[kind](tree, str(path))
        return checks.check_table(ds.assign_attrs(kind=kind), str(path)), attrs
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        raise ReferenceFileError(f"{path}: the tree of the {kind} file is damaged ({said}); get it anew") from error


_small, _big = lru_cache(maxsize=64)(_read_tree), lru_cache(maxsize=8)(_read_tree)


def _with_attrs(ds: xr.Dataset, facts: ReferenceFacts, more: Mapping[str, Any]) -> xr.Dataset:
    values = {name: facts.value(name) for name in FIELDS}
    attrs = {
        "level": "reference", "kind": facts.kind, "ref_id": facts.ref_id, "useafter": facts.useafter,
        "detector": values["detector"], "band": values["band"], "channels": values["channel"],
        "readpatt": values["readpatt"], "subarray": values["subarray"],
    }  # fmt: skip
    return ds.assign_attrs({**attrs, **more})


def _cut(ds: xr.Dataset, window: Window | None) -> xr.Dataset:
    """Return the part of a Dataset held in memory within a window; geometry models stay as they are."""
    if window is None:
        return ds
    parts = {"y": slice(window.y, window.y + window.n_y), "x": slice(window.x, window.x + window.n_x)}
    part = ds.isel({dim: part for dim, part in parts.items() if dim in ds.dims})
    return part.isel(x=list(window.columns)) if window.columns and "x" in part.dims else part


def _read_images(file: FitsFile, kind: str, rows: Rows, window: Window | None) -> tuple[xr.Dataset, dict[str, Any]]:
    variables: dict[str, xr.Variable] = {}
    for image in IMAGES[kind]:
        if image.optional and image.hdu not in file:
            continue
        raw = _lazy(file, image.hdu, image.dims, rows, window, dtype="f4")
        number = _impossible(kind, image, file.path, file.stamp)
        raw = checks.without_impossible(kind, image.name, raw, number, str(file.path))
        raw.attrs = {"units": image.units}
        variables[image.name] = raw
    primary = file.header["PRIMARY"]
    attrs: dict[str, Any] = {}
    if kind in WITH_DQ:
        like = next(iter(variables.values()), None)
        variables["dq"] = _flags(file, kind, rows, window, like)
    if kind == "dark":
        attrs["average_dark_current"] = _number(primary, "AVDRKCUR", 0.0)
    if kind == "gain":
        attrs["gain_factor"] = _number(primary, "GAINFACT", 1.0)
    if kind == "flat" and "flat_err" not in variables:
        variables["flat_err"] = (variables["flat"] * np.float32(0)).copy()
        variables["flat_err"].attrs = {"units": "1"}
    if kind == "photom":
        variables |= _photom_extras(file, primary, variables)
        attrs |= {k.lower(): float(primary[k]) for k in PHOTOM_KEYWORDS if primary.get(k) is not None}
    try:
        ds = xr.Dataset(variables)
    except ValueError as error:
        shapes = ", ".join(f"{name} {variable.shape}" for name, variable in variables.items())
        raise ReferenceFileError(f"{file.path}: images of unequal size: {shapes}; get the file anew") from error
    return (ds.assign_coords(channel=[1, 2, 3, 4]) if "channel" in ds.dims else ds), attrs


@lru_cache(maxsize=64)
def _impossible(kind: str, image: Image, path: Path, _stamp: tuple[int, int]) -> int:
    """Look at the numbers of an image of a file, once a file."""
    values = _on_disk(_layout(path), image.hdu, image.dims, "f4")
    return checks.impossible_pixels(kind, image.name, values, str(path))


def _on_disk(file: FitsFile, hdu: str, dims: tuple[str, ...], dtype: str | None = None) -> xr.Variable:
    """Return an image HDU as a Variable of which nothing is read yet."""
    array = file.image(hdu, dtype=dtype)
    return xr.Variable(dims, array if isinstance(array, np.ndarray) else indexing.LazilyIndexedArray(array))


PHOTOM_KEYWORDS = ("PHOTMJSR", "PIXAR_SR", "PIXAR_A2")


def _photom_extras(
    file: FitsFile, primary: Mapping[str, Any], variables: Mapping[str, xr.Variable]
) -> dict[str, xr.Variable]:
    """Return the pixel area where the file has only its mean, and the time law where the file has one."""
    extras: dict[str, xr.Variable] = {}
    if "pixel_area" not in variables:
        like = variables["conversion"]
        area = da.full(like.shape, np.float32(_number(primary, "PIXAR_A2", np.nan)), chunks=like.chunks)
        extras["pixel_area"] = xr.Variable(like.dims, area, {"units": "arcsec2"})
    return extras | table_readers.read_time_law(file)


def _number(header: Mapping[str, Any], keyword: str, default: float) -> float:
    value = header.get(keyword)
    return float(default if value is None else value)


def _lazy(
    file: FitsFile, hdu: str, dims: tuple[str, ...], rows: Rows, window: Window | None, dtype: str | None = None
) -> xr.Variable:
    """Return an image HDU as a dask Variable in chunks of rows; leading axes stay whole."""
    found = file.get(hdu)
    if found.kind == "table" or len(found.shape) != len(dims):
        shape = "a table" if found.kind == "table" else f"the shape {found.shape}"
        raise ReferenceFileError(f"{file.path}: {hdu} has {shape}, expected axes ({', '.join(dims)})")
    variable = _on_disk(file, hdu, dims, dtype)
    if window is not None:
        last_y, last_x = window.y + window.n_y, window.x + window.n_x
        if min(window.y, window.x) < 0 or last_y > variable.sizes["y"] or last_x > variable.sizes["x"]:
            raise ReferenceFileError(
                f"{file.path}: {hdu} holds {variable.sizes['y']} rows and {variable.sizes['x']} columns, the "
                f"exposure needs rows {window.y}-{last_y - 1} and columns {window.x}-{last_x - 1} of it"
            )
        variable = variable.isel(y=slice(window.y, last_y), x=slice(window.x, last_x))
        if window.columns:
            variable = variable.isel(x=list(window.columns))
    chunks: dict[str, Any] = dict.fromkeys(dims, -1)
    fits_rows = isinstance(rows, int) or sum(rows) == variable.sizes["y"]
    chunks["y"] = rows if isinstance(rows, int) else tuple(rows) if fits_rows else RAMP_ROWS_MAX
    token = f"{file.path.name}-{hdu}-{da.core.tokenize(str(file.path), file.stamp, hdu, window, chunks, dtype)}"
    return in_blocks(variable, chunks, name=f"reference-{token}")


def _flags(file: FitsFile, kind: str, rows: Rows, window: Window | None, like: xr.Variable | None) -> xr.Variable:
    """Return the flags (y, x) in standard bits; none set where the file has no DQ."""
    if "DQ" not in file and like is not None:
        shape = (like.sizes["y"], like.sizes["x"])
        flags = da.zeros(shape, dtype=np.uint32, chunks=(like.chunksizes["y"], -1))
        return xr.Variable(("y", "x"), flags, dq_bits.PIXEL_DQ_ATTRS)
    n_axes = len(file.get("DQ").shape)
    if not 2 <= n_axes <= 4:
        raise ReferenceFileError(f"{file.path}: DQ has {n_axes} axes, expected (y, x) with up to two before them")
    leading = ("integration", "group")[: max(n_axes - 2, 0)]
    raw = _lazy(file, "DQ", (*leading, "y", "x"), rows, window)
    definitions = _definitions(file.path, file.stamp)
    if kind == "mask":
        _check_mask(file.path, file.stamp)
    flags = da.map_blocks(
        standard_flags, raw.data, definitions, dtype=np.uint32, drop_axis=list(range(len(leading))),
        meta=np.empty((0, 0), np.uint32), name=f"flags-{da.core.tokenize(raw.data.name, definitions)}",
    )  # fmt: skip
    return xr.Variable(("y", "x"), flags, dq_bits.PIXEL_DQ_ATTRS)


def standard_flags(raw: np.ndarray, definitions: Mapping[int, str] | None) -> np.ndarray:
    """Return the flags of one block in standard bits, as jwst takes them.

    Parameters
    ----------
    raw : ndarray (..., y, x) of integers
        As stored. Of four axes the first group of each integration counts, OR-ed over integrations.
    definitions : dict or None
        {stored value: name}; None where the file has no DQ_DEF: then the numbers are standard bits already.

    Returns
    -------
    ndarray (y, x) of uint32
    """
    values = raw[:, 0] if raw.ndim == 4 else raw
    if values.ndim == 3:
        values = np.bitwise_or.reduce(values, axis=0)
    values = values.astype(np.uint32)
    return values if definitions is None else dq_bits.remap(values, dict(definitions))


@lru_cache(maxsize=64)
def _check_mask(path: Path, _stamp: tuple[int, int]) -> None:
    file = _layout(path)
    dims = ("integration", "group", "y", "x")[-len(file.get("DQ").shape) :]
    plane = standard_flags(_on_disk(file, "DQ", dims).values, _definitions(file.path, file.stamp))
    bad = np.mean((plane & np.uint32(dq_bits.DO_NOT_USE)) != 0)
    if bad > 0.9:
        raise ReferenceFileError(f"{path}: the mask flags {bad:.0%} of the pixels as DO_NOT_USE; get the file anew")


@lru_cache(maxsize=64)
def _definitions(path: Path, _stamp: tuple[int, int]) -> dict[int, str] | None:
    file = _layout(path)
    if "DQ_DEF" not in file:
        return None
    table = {name.upper(): column for name, column in file.table("DQ_DEF").items()}
    if "VALUE" not in table or "NAME" not in table:
        raise ReferenceFileError(f"{file.path}: DQ_DEF lacks the columns VALUE and NAME")
    names = [str(name).strip().upper() for name in table["NAME"]]
    definitions = {int(value) & 0xFFFFFFFF: name for value, name in zip(table["VALUE"], names, strict=True)}
    return definitions or None
