"""What a FITS file is, by its headers alone: where its images lie and which product of what it holds."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from xarray.backends import BackendArray

from mrsxr import mrs
from mrsxr.errors import InputFileError, MrsxrError

from .fitsarray import STORED_DTYPES, FitsArray, TiledFitsArray, file_stamp, finish, to_physical

#: The products that this package reads, in the order of the data's way.
PRODUCTS = ("uncal", "ramp", "rateints", "rate", "cal", "crf", "s3d", "x1d", "lines")
LINES_MODEL = "MrsxrLines"  # DATAMODL of line fits and maps, which have no product of jwst
LEVEL_OF_PRODUCT = {
    "uncal": "ramp", "ramp": "ramp", "rateints": "rateints", "rate": "rate", "cal": "cal", "crf": "cal",
    "s3d": "cube", "x1d": "spectrum",
}  # fmt: skip
_STRUCTURE = {
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "EXTEND", "PCOUNT", "GCOUNT", "GROUPS", "TFIELDS", "EXTNAME",
    "EXTVER", "EXTLEVEL", "BSCALE", "BZERO", "BLANK", "BUNIT", "CHECKSUM", "DATASUM", "END", "COMMENT",
    "HISTORY", "", "THEAP", "CONTINUE", "ZIMAGE", "ZCMPTYPE", "ZBITPIX", "ZNAXIS", "ZTENSION", "ZQUANTIZ",
    "ZDITHER0", "ZBLANK", "ZSCALE", "ZZERO",
}  # fmt: skip
_STRUCTURE_STEMS = (
    "NAXIS", "TTYPE", "TFORM", "TUNIT", "TDIM", "TNULL", "TSCAL", "TZERO", "TDISP", "ZTILE", "ZNAME", "ZVAL",
    "ZNAXIS",
)  # fmt: skip


@dataclass(frozen=True)
class Hdu:
    """One HDU of a file: its name, header and the place of its numbers."""

    number: int
    name: str
    version: int
    header: fits.Header
    kind: str  # image, table or tiled
    offset: int
    size: int  # bytes of the data, without padding

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the image in numpy order."""
        return tuple(self.header[f"NAXIS{i}"] for i in range(self.header["NAXIS"], 0, -1))


@dataclass
class FitsFile:
    """The layout of a FITS file; ``buffer`` holds the whole content of a compressed file."""

    path: Path
    stamp: tuple[int, int]
    hdus: list[Hdu]
    buffer: bytes | None = None
    header: dict[str, dict[str, Any]] = field(default_factory=dict)  # cards of PRIMARY and SCI (or EXTRACT1D)

    def __contains__(self, name: str) -> bool:
        return any(hdu.name == name for hdu in self.hdus)

    def all(self, name: str) -> list[Hdu]:
        """Return all HDUs of a name, in file order."""
        return [hdu for hdu in self.hdus if hdu.name == name]

    def get(self, name: str) -> Hdu:
        """Return the first HDU of a name; raise InputFileError where there is none."""
        for hdu in self.hdus:
            if hdu.name == name:
                return hdu
        found = ", ".join(hdu.name for hdu in self.hdus)
        raise InputFileError(f"{self.path}: the file has no {name} extension; found {found}")

    def image(
        self, name: str, shape: tuple[int, ...] | None = None, dtype: Any = None, *, square: bool = False
    ) -> BackendArray | np.ndarray:
        """Return the image of an HDU: lazy, or numpy where the file is compressed as a whole.

        Parameters
        ----------
        name : str
            EXTNAME.
        shape : tuple of int, optional
            Shape to give the array; by default that of the file. Must hold the same number of values.
        dtype : optional
            dtype of the result.
        square : bool
            Return the squares.
        """
        hdu = self.get(name)
        shape = tuple(shape or hdu.shape)
        if int(np.prod(shape)) != int(np.prod(hdu.shape)) or not hdu.shape:
            raise InputFileError(f"{self.path}: {name} has the shape {hdu.shape}, expected {shape}")
        scale = (hdu.header["BITPIX"], hdu.header.get("BSCALE", 1), hdu.header.get("BZERO", 0))
        if self.buffer is not None:
            raw = np.frombuffer(self.buffer, STORED_DTYPES[scale[0]], count=int(np.prod(shape)), offset=hdu.offset)
            values = to_physical(raw.reshape(shape), *scale)
            return finish(values, np.dtype(dtype) if dtype is not None else values.dtype, square)
        if hdu.kind == "tiled":
            return TiledFitsArray(self.path, hdu.number, shape, *scale, dtype=dtype, square=square, stamp=self.stamp)
        return FitsArray(self.path, hdu.offset, shape, *scale, dtype=dtype, square=square, stamp=self.stamp)

    def table(self, name: str, version: int = 1) -> dict[str, np.ndarray]:
        """Return the columns of a table extension by their names, in native byte order (read now)."""
        source = io.BytesIO(self.buffer) if self.buffer is not None else self.path
        with _readable(self.path), fits.open(source, memmap=False) as hdulist:
            rows = hdulist[name, version].data
            return {column: _native(rows[column]) for column in rows.names}


def read_layout(path: str | Path) -> FitsFile:
    """Read the headers of all HDUs of a FITS file and check that its data are complete.

    Parameters
    ----------
    path : path
        A FITS file, plain or compressed by gzip (then it is read whole).

    Returns
    -------
    FitsFile

    Raises
    ------
    InputFileError
        Where the file is missing, no FITS file or truncated.
    """
    path = Path(path)
    stamp = file_stamp(path)
    buffer = _decompress(path)
    n_bytes = len(buffer) if buffer is not None else stamp[0]
    hdus: list[Hdu] = []
    source = io.BytesIO(buffer) if buffer is not None else path
    with _readable(path), fits.open(source, memmap=False) as hdulist:
        for number, hdu in enumerate(_walk(hdulist)):
            hdus.append(_hdu(number, hdu))
    _check_complete(path, hdus, n_bytes)
    file = FitsFile(path, stamp, hdus, buffer)
    file.header = {"PRIMARY": cards(hdus[0].header)}
    main = next((hdu for hdu in hdus if hdu.name in ("SCI", "EXTRACT1D")), None)
    file.header["SCI"] = cards(main.header) if main is not None else {}
    return file


def read_header(path: str | Path) -> tuple[dict[str, Any], fits.Header]:
    """Read the PRIMARY keywords and the header of the SCI (or EXTRACT1D) extension, nothing more.

    Parameters
    ----------
    path : path

    Returns
    -------
    (dict, Header)
        The header is empty where the file has neither extension.

    Raises
    ------
    InputFileError
        Where the file is missing, no FITS file or ends within the data of the extension.
    """
    path = Path(path)
    n_bytes = file_stamp(path)[0]
    with _readable(path), fits.open(path, memmap=False) as hdulist:
        primary = cards(hdulist[0].header)
        for number, hdu in enumerate(_walk(hdulist)):
            if hdu.name in ("SCI", "EXTRACT1D"):
                if not _is_gzip(path):
                    _check_complete(path, [_hdu(number, hdu)], n_bytes)
                return primary, hdu.header
    return primary, fits.Header()


def cards(header: fits.Header) -> dict[str, Any]:
    """Return the keywords of a header as plain values, without structure, comments and blank cards."""
    out: dict[str, Any] = {}
    for card in header.cards:
        key = card.keyword
        if key in _STRUCTURE or (key.rstrip("0123456789") in _STRUCTURE_STEMS and key[-1:].isdigit()):
            continue
        value = card.value
        if isinstance(value, fits.card.Undefined):
            value = None
        elif isinstance(value, np.generic):
            value = value.item()
        out[key] = value.rstrip() if isinstance(value, str) else value
    return out


def product_of(path: str | Path, primary: Mapping[str, Any], main: Mapping[str, Any]) -> str:
    """Return which product a file holds: uncal, ramp, rate, rateints, cal, crf, s3d, x1d or lines.

    Parameters
    ----------
    path : path
        For messages, and to tell crf from cal by its name.
    primary : mapping
        PRIMARY keywords.
    main : mapping
        Header of the SCI or EXTRACT1D extension.

    Raises
    ------
    InputFileError
        Where the layout is of none of them.
    """
    if main.get("EXTNAME") == "EXTRACT1D":
        return "x1d"
    model, unit = primary.get("DATAMODL", ""), str(main.get("BUNIT", "")).strip()
    if model == LINES_MODEL:
        return "lines"
    n_axes = main.get("ZNAXIS", main.get("NAXIS", 0)) if main.get("EXTNAME") == "SCI" else 0
    if n_axes == 4:
        return "uncal" if main.get("ZBITPIX", main["BITPIX"]) == 16 or model == "Level1bModel" else "ramp"
    if n_axes == 3 and (model == "IFUCubeModel" or (unit != "DN/s" and str(main.get("CTYPE3", "")).strip())):
        return "s3d"
    if n_axes == 3 and unit == "DN/s":
        return "rateints"
    if n_axes == 2:
        calibrated = unit == "MJy/sr" or (not unit and primary.get("S_PHOTOM") == "COMPLETE")
        if calibrated:
            return "crf" if "_crf" in Path(path).name else "cal"
        return "rate"
    raise InputFileError(
        f"{path}: no product that can be read: expected a SCI image of 2 to 4 axes or an EXTRACT1D table, "
        f"found {main.get('EXTNAME', 'no such extension')} with {n_axes} axes (DATAMODL {model or 'missing'})"
    )


def require_mrs(path: str | Path, primary: Mapping[str, Any]) -> None:
    """Raise InputFileError, saying what the file is, where it is no MIRI MRS exposure or product."""
    what = describe_instrument(primary)
    if what is not None:
        raise InputFileError(f"{path}: {what}; expected MIRI MRS (INSTRUME MIRI, EXP_TYPE MIR_MRS)")


def describe_instrument(primary: Mapping[str, Any]) -> str | None:
    """Return what a file is where it is not of the MIRI MRS, None where it is."""
    if "REFTYPE" in primary:
        return f"is a reference file of type {primary['REFTYPE']}"
    instrument = primary.get("INSTRUME")
    if instrument is None:
        return "has no keyword INSTRUME and so is no JWST file"
    kind = primary.get("EXP_TYPE", "EXP_TYPE missing")
    if instrument != "MIRI":
        return f"is a {instrument} file ({kind})"
    if kind == "MIR_MRS":
        return None
    names = {"MIR_IMAGE": "imager", "MIR_LYOT": "coronagraph", "MIR_4QPM": "coronagraph"}
    names |= {"MIR_LRS-FIXEDSLIT": "LRS", "MIR_LRS-SLITLESS": "LRS", "MIR_TACQ": "target acquisition"}
    return f"is a MIRI {names.get(kind, 'file that is not an MRS science')} exposure ({kind})"


def require(path: str | Path, keywords: Mapping[str, Any], *names: str) -> list[Any]:
    """Return the values of keywords; raise InputFileError naming the file and the first that is missing."""
    for name in names:
        if keywords.get(name) is None:
            raise InputFileError(f"{path}: the keyword {name} is missing from the header")
    return [keywords[name] for name in names]


def setting_of(path: str | Path, primary: Mapping[str, Any]) -> str:
    """Return the detector setting ("12A") of a detector file from DETECTOR and BAND."""
    detector, band = require(path, primary, "DETECTOR", "BAND")
    try:
        return mrs.setting_name(str(detector), str(band))
    except MrsxrError as error:
        raise InputFileError(f"{path}: {error}") from error


def band_of(primary: Mapping[str, Any]) -> str:
    """Return the band ("1A") of a one-band product from CHANNEL and BAND, "" where it holds several."""
    if str(primary.get("PRODKIND", "band")).strip() not in ("band", ""):
        return ""  # a cube of a channel, or stitched bands, of which one is there
    channel, letter = str(primary.get("CHANNEL", "")), mrs.LETTERS.get(str(primary.get("BAND", "")), "")
    name = channel + letter
    return name if name in mrs.BANDS else ""


def exposure_name(path: str | Path, primary: Mapping[str, Any]) -> str:
    """Return the exposure root of a file, ``jw02732004001_02101_00001_mirifushort``.

    From the file name without its last part; from FILENAME where the file's own name has no product suffix.
    """
    for name in (Path(path).name, str(primary.get("FILENAME", ""))):
        stem = name.split(".")[0]
        root, _, suffix = stem.rpartition("_")
        if root and suffix in PRODUCTS:
            return root
    return Path(path).name.split(".")[0]


def header_json(header: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the keywords as the JSON text of the coordinate ``fits_header``."""
    return json.dumps({name: dict(keywords) for name, keywords in header.items()})


def _native(column: np.ndarray) -> np.ndarray:
    values = np.asarray(column)
    return np.array(values, dtype=values.dtype.newbyteorder("="))


def _walk(hdulist: fits.HDUList) -> Iterator[Any]:
    number = 0
    while True:
        try:
            yield hdulist[number]
        except IndexError:
            return
        number += 1


def _hdu(number: int, hdu: Any) -> Hdu:
    tiled = isinstance(hdu, fits.CompImageHDU)
    kind = "tiled" if tiled else "image" if hdu.is_image else "table"
    place = hdu.fileinfo() or {}
    size = 0 if tiled else int(hdu.size)
    return Hdu(number, hdu.name, hdu.ver, hdu.header, kind, int(place.get("datLoc", 0)), size)


def _check_complete(path: Path, hdus: list[Hdu], n_bytes: int) -> None:
    for hdu in hdus:
        if hdu.offset + hdu.size > n_bytes:
            raise InputFileError(
                f"{path}: the file is truncated within {hdu.name}: expected at least {hdu.offset + hdu.size} "
                f"bytes, found {n_bytes}; download or write it again"
            )


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _decompress(path: Path) -> bytes | None:
    if not _is_gzip(path):
        return None
    try:
        with gzip.open(path) as stream:
            return stream.read()
    except (OSError, EOFError) as error:
        raise InputFileError(
            f"{path}: the gzip file is damaged or truncated ({error}); found {path.stat().st_size} bytes; "
            "download it again"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what astropy raises on a damaged file into InputFileError, and silence its warnings."""
    try:
        with _quiet():
            yield
    except InputFileError:
        raise
    except (OSError, ValueError, TypeError, KeyError, EOFError, fits.VerifyError) as error:
        raise InputFileError(f"{path}: no readable FITS file ({error}); found {path.stat().st_size} bytes") from error
