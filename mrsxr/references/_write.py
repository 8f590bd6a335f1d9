"""The bricks of the writers: headers, flag planes, tables, and files that appear only when complete."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import asdf
import numpy as np
from astropy.io import fits

from mrsxr import dq as dq_bits
from mrsxr.errors import ReferenceFileError
from mrsxr.io.asdffile import LOCK

#: Keys that a header dict may have: their FITS keyword and their place below ``meta`` in ASDF files.
HEADER_KEYWORDS: dict[str, tuple[str, str]] = {
    "detector": ("DETECTOR", "instrument.detector"),
    "channel": ("CHANNEL", "instrument.channel"),
    "band": ("BAND", "instrument.band"),
    "filter": ("FILTER", "instrument.filter"),
    "exp_type": ("EXP_TYPE", "exposure.type"),
    "readpatt": ("READPATT", "exposure.readpatt"),
    "n_groups": ("NGROUPS", "exposure.ngroups"),
    "n_integrations": ("NINTS", "exposure.nints"),
    "n_frames": ("NFRAMES", "exposure.nframes"),
    "group_gap": ("GROUPGAP", "exposure.groupgap"),
    "subarray": ("SUBARRAY", "subarray.name"),
    "x_start": ("SUBSTRT1", "subarray.xstart"),
    "y_start": ("SUBSTRT2", "subarray.ystart"),
    "x_size": ("SUBSIZE1", "subarray.xsize"),
    "y_size": ("SUBSIZE2", "subarray.ysize"),
    "useafter": ("USEAFTER", "useafter"),
    "author": ("AUTHOR", "author"),
    "pedigree": ("PEDIGREE", "pedigree"),
    "description": ("DESCRIP", "description"),
    "origin": ("ORIGIN", "origin"),
}
DEFAULTS = {
    "detector": "N/A",
    "useafter": "2022-05-01T00:00:00",
    "author": "mrsxr",
    "pedigree": "DUMMY",
    "exp_type": "MIR_MRS",
    "origin": "mrsxr",
}
DQ_DEF_DTYPE = [("BIT", ">i4"), ("VALUE", ">u4"), ("NAME", "S40"), ("DESCRIPTION", "S80")]


def complete_header(header: Mapping[str, Any], kind: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the header with defaults filled in; an unknown key raises ReferenceFileError."""
    unknown = sorted(set(header) - set(HEADER_KEYWORDS))
    if unknown:
        raise ReferenceFileError(
            f"header of the {kind} file has unknown key '{unknown[0]}'; known: {', '.join(HEADER_KEYWORDS)}"
        )
    full = {**DEFAULTS, "description": f"MIRI MRS {kind} made by mrsxr", **defaults, **header}
    return {key: value for key, value in full.items() if value is not None}


def primary_header(
    header: Mapping[str, Any], kind: str, model: str, *, shape: tuple[int, ...] | None = None, **defaults: Any
) -> fits.Header:
    """Return the primary header of a FITS reference file.

    Parameters
    ----------
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`.
    kind : str
        Reference type, ``REFTYPE`` in upper case.
    model : str
        Name of the stdatamodels class that opens the file (``DATAMODL``).
    shape : tuple, optional
        Shape of a detector image; its last two numbers give the subarray size where the header says none.
    **defaults
        Values used where the header has none.
    """
    if shape is not None:
        defaults = {"subarray": "FULL", "x_start": 1, "y_start": 1, "x_size": shape[-1], "y_size": shape[-2],
                    **defaults}  # fmt: skip
    out = fits.Header()
    out["TELESCOP"], out["INSTRUME"], out["REFTYPE"], out["DATAMODL"] = "JWST", "MIRI", kind.upper(), model
    for key, value in complete_header(header, kind, defaults).items():
        out[HEADER_KEYWORDS[key][0]] = value
    if shape is not None:
        out["FASTAXIS"], out["SLOWAXIS"] = 1, 2
    return out


def asdf_meta(header: Mapping[str, Any], kind: str, model: str, **defaults: Any) -> dict[str, Any]:
    """Return the ``meta`` tree of an ASDF reference file, the same facts as :func:`primary_header`."""
    meta: dict[str, Any] = {
        "telescope": "JWST",
        "reftype": kind,
        "model_type": model,
        "instrument": {"name": "MIRI"},
    }
    for key, value in complete_header(header, kind, defaults).items():
        *parents, last = HEADER_KEYWORDS[key][1].split(".")
        node = meta
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return meta


def as_array(values: Any, dtype: str, ndim: int | tuple[int, ...], what: str) -> np.ndarray:
    """Return values (numpy or dask) as an array of a dtype, or raise where the number of axes is wrong."""
    array = np.asarray(values, dtype=dtype)
    allowed = (ndim,) if isinstance(ndim, int) else ndim
    if array.ndim not in allowed:
        raise ReferenceFileError(
            f"{what} has {array.ndim} axes {array.shape}, expected {' or '.join(map(str, allowed))}"
        )
    return array


def dq_hdus(dq: Any, shape: tuple[int, ...], *, leading: int | None = None) -> list[fits.hdu.base.ExtensionHDU]:
    """Return the HDUs DQ and DQ_DEF of a flag plane in standard bits.

    Parameters
    ----------
    dq : array (y, x) of unsigned integers, or None for no flag at all
    shape : tuple
        (..., y, x) of the data; the last two axes must agree with ``dq``.
    leading : int, optional
        Store 4-D as (leading, 1, y, x), the layout of MIRI darks.

    Returns
    -------
    list of two HDUs
        DQ (uint32, as few bits as are used, from bit 0 on) and DQ_DEF (BIT, VALUE, NAME, DESCRIPTION).
    """
    plane = np.zeros(shape[-2:], np.uint32) if dq is None else as_array(dq, "uint32", 2, "dq")
    if plane.shape != tuple(shape[-2:]):
        raise ReferenceFileError(f"dq has shape {plane.shape}, the data have {tuple(shape[-2:])}")
    present = int(np.bitwise_or.reduce(plane, axis=None)) if plane.size else 0
    names = [name for name, bit in dq_bits.FLAGS.items() if present & bit] or ["DO_NOT_USE"]
    stored = np.zeros_like(plane)
    rows = []
    for bit, name in enumerate(names):
        stored[(plane & np.uint32(dq_bits.FLAGS[name])) != 0] |= np.uint32(1 << bit)
        rows.append((bit, 1 << bit, name, name.replace("_", " ").capitalize()))
    if leading is not None:
        stored = np.broadcast_to(stored, (leading, 1, *stored.shape))
    return [fits.ImageHDU(stored, name="DQ"), fits.BinTableHDU(np.array(rows, DQ_DEF_DTYPE), name="DQ_DEF")]


def table_hdu(
    name: str, columns: Mapping[str, Any], layout: Mapping[str, str], units: Mapping[str, str] | None = None
) -> fits.BinTableHDU:
    """Return a binary table HDU with the columns of a layout, in its order.

    Parameters
    ----------
    name : str
        EXTNAME.
    columns : mapping of column name to values (n,) or (n, k)
    layout : mapping of column name to numpy dtype
    units : mapping of column name to TUNIT, optional

    Raises
    ------
    ReferenceFileError
        Where a column is missing, unknown or of another length.
    """
    given = {key.upper(): np.atleast_1d(value) for key, value in columns.items()}
    wanted = [key.upper() for key in layout]
    if set(given) != set(wanted):
        wrong = sorted(set(given) ^ set(wanted))
        raise ReferenceFileError(f"table {name} needs the columns {', '.join(wanted)}; '{wrong[0]}' does not fit")
    if len({len(value) for value in given.values()}) > 1:
        raise ReferenceFileError(f"columns of table {name} differ in length")
    dtype, arrays = [], {}
    for key, kind in layout.items():
        array = given[key.upper()]
        array = np.char.encode(array.astype(str), "ascii") if kind.startswith("S") else array
        arrays[key] = array
        dtype.append((key, np.dtype(kind).newbyteorder(">"), array.shape[1:]))
    rows = np.zeros(len(next(iter(arrays.values()))), dtype)
    for key, array in arrays.items():
        rows[key] = array
    hdu = fits.BinTableHDU(rows, name=name)
    for key in arrays:
        if units and key in units:
            hdu.columns[key].unit = units[key]
    return hdu


def write_fits_file(path: str | os.PathLike[str], header: fits.Header, hdus: list) -> Path:
    """Write a FITS file of a primary header and extensions; it appears complete or not at all."""
    path = Path(path)
    header["FILENAME"] = path.name
    hdulist = fits.HDUList([fits.PrimaryHDU(header=header), *hdus])
    return _atomically(path, lambda file: hdulist.writeto(file, output_verify="exception"))


def write_asdf_file(path: str | os.PathLike[str], tree: dict[str, Any]) -> Path:
    """Write an ASDF file with inline arrays; it appears complete or not at all.

    Notes
    -----
    jwst closes the ASDF files of extract1d and apcorr before it reads their arrays, which therefore must not
    live in binary blocks.
    """
    path = Path(path)
    tree["meta"]["filename"] = path.name
    with LOCK:
        document = asdf.AsdfFile(tree)
        return _atomically(path, lambda file: document.write_to(file, all_array_storage="inline"))


def _atomically(path: Path, write: Callable[[Any], Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            write(file)
        os.replace(part, path)
    except BaseException:
        with suppress(FileNotFoundError):
            part.unlink()
        raise
    return path
