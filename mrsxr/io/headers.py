"""What a FITS file is, by its headers alone: where its images lie and which product of what it holds."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import os
import re
import threading
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from xarray.backends import BackendArray

from mrsxr import mrs
from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.notes import listen, tell

from ._checks import check_channel, scale_of
from ._names import safe_name
from ._structure import Span, spans, spans_of_file
from .fitsarray import STORED_DTYPES, FitsArray, TiledFitsArray, file_stamp, finish, to_physical
from .keys import KEYWORD

#: The products that this package reads, in the order of the data's way.
PRODUCTS = ("uncal", "ramp", "rateints", "rate", "cal", "crf", "s3d", "x1d", "lines")
#: Line fits and maps, which have no product of jwst: by level the suffix of their files, DATAMODL, and the variable
#: whose image comes first.
MAPS = {
    "lines": ("lines", "MrsxrLines", "flux"), "moments": ("moments", "MrsxrMoments", "moment0"),
    "channel_maps": ("channels", "MrsxrChannelMaps", "flux"), "line_ratio": ("ratio", "MrsxrLineRatio", "ratio"),
    "bins": ("bins", "MrsxrBins", "bin"), "excitation": ("excitation", "MrsxrExcitation", "temperature"),
}  # fmt: skip
MAP_MODELS = {model: level for level, (_, model, _) in MAPS.items()}
LEVEL_OF_PRODUCT = {
    "uncal": "ramp", "ramp": "ramp", "rateints": "rateints", "rate": "rate", "cal": "cal", "crf": "cal",
    "s3d": "cube", "x1d": "spectrum",
}  # fmt: skip
_STRUCTURE = {
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "EXTEND", "PCOUNT", "GCOUNT", "GROUPS", "TFIELDS", "EXTNAME",
    "EXTVER", "EXTLEVEL", "BSCALE", "BZERO", "BLANK", "BUNIT", "CHECKSUM", "DATASUM", "END", "COMMENT",
    "HISTORY", "", "THEAP", "CONTINUE", "ZIMAGE", "ZCMPTYPE", "ZBITPIX", "ZNAXIS", "ZTENSION", "ZQUANTIZ",
    "ZDITHER0", "ZBLANK", "ZSCALE", "ZZERO", KEYWORD,
}  # fmt: skip
_STRUCTURE_STEMS = (
    "NAXIS", "TTYPE", "TFORM", "TUNIT", "TDIM", "TNULL", "TSCAL", "TZERO", "TDISP", "ZTILE", "ZNAME", "ZVAL",
    "ZNAXIS",
)  # fmt: skip


_MOST_DECOMPRESSED = 8 << 30  # bytes of a file compressed as a whole
_MOST_KEPT = 64  # layouts of files that were opened, some 0.3 MB each
_SMALL = 1 << 18  # bytes of a table that is kept
_kept: dict[tuple[str, tuple[int, int]], FitsFile] = {}
_keeping = threading.Lock()
_MOST_EXPANDED = 2000  # values a byte of a tile: deflate makes 1032 bytes of one


@dataclass(frozen=True)
class Hdu:
    """One HDU of a file: its name, header and the place of its numbers."""

    number: int
    name: str
    version: int
    header: fits.Header
    kind: str  # image, table or tiled
    start: int  # byte of the header
    offset: int  # byte of the data
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
    _tables: dict[tuple[str, int], dict[str, np.ndarray]] = field(default_factory=dict)  # that were read

    @property
    def main(self) -> fits.Header:
        """Header of SCI or EXTRACT1D, empty without."""
        return next((hdu.header for hdu in self.hdus if hdu.name in ("SCI", "EXTRACT1D")), fits.Header())

    def __contains__(self, name: str) -> bool:
        return any(hdu.name == name for hdu in self.hdus)

    def all(self, name: str) -> list[Hdu]:
        """Return all HDUs of a name, in file order."""
        return [hdu for hdu in self.hdus if hdu.name == name]

    def get(self, name: str) -> Hdu:
        """Return the HDU of a name; raise InputFileError where there is none, or more than one."""
        named = self.all(name)
        if len(named) == 1:
            return named[0]
        if named:
            raise InputFileError(f"{self.path}: the file has the extension {name} {len(named)} times, expected one")
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
        if hdu.kind == "table":
            raise InputFileError(f"{self.path}: {name} is a table, expected an image")
        if math.prod(shape) != math.prod(hdu.shape) or not math.prod(shape):
            raise InputFileError(f"{self.path}: {name} has the shape {hdu.shape}, expected {shape}")
        if len(shape) >= 2 and tuple(n for n in shape if n > 1) != tuple(n for n in hdu.shape if n > 1):
            raise InputFileError(f"{self.path}: {name} has the shape {hdu.shape}, expected {shape}; it is transposed")
        scale = scale_of(self.path, name, hdu.header)
        if self.buffer is not None and hdu.kind != "tiled":
            raw = np.frombuffer(self.buffer, STORED_DTYPES[scale[0]], count=int(np.prod(shape)), offset=hdu.offset)
            values = to_physical(raw.reshape(shape), *scale)
            return finish(values, np.dtype(dtype) if dtype is not None else values.dtype, square)
        if hdu.kind == "tiled":
            return TiledFitsArray(self.path, hdu.number, shape, *scale, dtype=dtype, square=square, stamp=self.stamp)
        return FitsArray(self.path, hdu.offset, shape, *scale, dtype=dtype, square=square, stamp=self.stamp)

    def table(self, name: str, version: int = 1) -> dict[str, np.ndarray]:
        """Return the columns of a table extension by name, in native byte order; a small one is read once."""
        known = self._tables.get((name, version))
        if known is None:
            named = [hdu for hdu in self.all(name) if hdu.version == version]
            found = named[0] if len(named) == 1 else self.get(name)
            if found.kind != "table":
                raise InputFileError(f"{self.path}: {name} is an image, expected a table")
            with _readable(self.path):
                known = _columns_of(found, self._bytes(found.start, found.offset + found.size))
            if found.size < _SMALL:
                self._tables[name, version] = known
        return {column: values.copy() for column, values in known.items()}

    def _bytes(self, start: int, end: int) -> bytes:
        if self.buffer is not None:
            return self.buffer[start:end]
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read(end - start)


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
    key = os.path.abspath(path), stamp
    found = _kept.get(key)
    if found is None:
        with listen() as heard:
            found = _read_layout(path, stamp)
        if heard or found.buffer is not None:
            return found
    with _keeping:
        _kept[key] = _kept.pop(key, found)  # used last, it stays longest
        while len(_kept) > _MOST_KEPT:
            del _kept[next(iter(_kept))]
    return replace(found, path=path, header={name: dict(values) for name, values in found.header.items()})


def _read_layout(path: Path, stamp: tuple[int, int]) -> FitsFile:
    with _readable(path):
        buffer = _decompress(path)
        places = _spans(path, stamp, buffer)
        source = io.BytesIO(buffer) if buffer is not None else path
        hdus: list[Hdu] = []
        with fits.open(source, memmap=False) as hdulist:
            for number, hdu in enumerate(_walk(hdulist)):
                hdus.append(_hdu(path, number, hdu, places))
        if len(hdus) != len(places):
            raise InputFileError(
                f"{path}: no readable FITS file: the header of {places[len(hdus)].name} cannot be read; "
                "download or write it again"
            )
        file = FitsFile(path, stamp, hdus, buffer)
        file.header = {"PRIMARY": cards(hdus[0].header, path)}
        main = file.main
        file.header["SCI"] = cards(main, path) if main else {}
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
        Where the file is missing, no FITS file, damaged or truncated (of a gzip file: as far as it is read).
    """
    path = Path(path)
    stamp = file_stamp(path)
    found = _kept.get((os.path.abspath(path), stamp))
    if found is not None:
        return dict(found.header["PRIMARY"]), found.main
    with _readable(path):
        if not _is_gzip(path):
            _spans(path, stamp, None)
        with fits.open(path, memmap=False) as hdulist:
            primary = cards(hdulist[0].header, path)
            for hdu in _walk(hdulist):
                if hdu.name in ("SCI", "EXTRACT1D"):
                    return primary, hdu.header
    return primary, fits.Header()


def cards(header: fits.Header, path: str | Path = "") -> dict[str, Any]:
    """Return the keywords of a header as plain values, without structure, comments and blank cards.

    A card without a value, or with NaN, which FITS does not know, is None; one that cannot be read as well: it is told.
    """
    out: dict[str, Any] = {}
    for card in header.cards:
        key = card.keyword
        if key in _STRUCTURE or (key.rstrip("0123456789") in _STRUCTURE_STEMS and key[-1:].isdigit()):
            continue
        if not re.fullmatch(r"[ -~]{1,60}", key):
            tell(f"{path}: the header holds a card that is no text; it is left out")
            continue
        try:
            value = card.value
        except (fits.VerifyError, ValueError, OverflowError):
            raw = str(card.image)[9:].split("/")[0].strip()
            value = None
            if raw.strip("+-").lower() not in ("nan", "inf", "infinity"):
                tell(f"{path}: the card {key} = {raw} is not of the FITS standard; it counts as missing")
        if isinstance(value, float) and not math.isfinite(value):
            value = None
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
    if model in MAP_MODELS:
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
        setting = mrs.setting_name(str(detector), str(band))
    except MrsxrError as error:
        raise InputFileError(f"{path}: {error}") from error
    check_channel(path, setting, primary)
    return setting


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
    for name in (Path(path).name, str(primary.get("FILENAME") or "")):
        stem = safe_name(name.split(".")[0])
        root, _, suffix = stem.rpartition("_")
        if root and suffix in PRODUCTS:
            return root
    return safe_name(Path(path).name.split(".")[0])


def header_json(header: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the keywords as the JSON text of the coordinate ``fits_header``."""
    return json.dumps({name: dict(keywords) for name, keywords in header.items()})


def _columns_of(hdu: Hdu, content: bytes) -> dict[str, np.ndarray]:
    """Return the columns of a table from its header and data."""
    kind = fits.TableHDU if str(hdu.header["XTENSION"]).strip() == "TABLE" else fits.BinTableHDU
    rows = kind.fromstring(content).data
    return {column: _native(rows[column]) for column in rows.names} if rows is not None else {}


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


def _spans(path: Path, stamp: tuple[int, int], buffer: bytes | None) -> list[Span]:
    if buffer is None:
        return spans_of_file(path, stamp[0])
    return spans(path, lambda place, size: buffer[place : place + size], len(buffer))


def _hdu(path: Path, number: int, hdu: Any, places: list[Span]) -> Hdu:
    if number >= len(places):
        raise InputFileError(f"{path}: no readable FITS file: it holds more extensions than its headers say")
    tiled = isinstance(hdu, fits.CompImageHDU)
    kind = "tiled" if tiled else "image" if hdu.is_image else "table"
    if tiled:
        _check_tiles(path, hdu, places[number])
    place = places[number]
    return Hdu(number, hdu.name, hdu.ver, hdu.header, kind, place.header, place.data, 0 if tiled else place.size)


def _check_tiles(path: Path, hdu: Any, place: Span) -> None:
    """Raise InputFileError where the image is larger than what its bytes can hold when they are decompressed."""
    if math.prod(hdu.shape) > _MOST_EXPANDED * max(place.size, 1):
        raise InputFileError(
            f"{path}: {hdu.name} claims the shape {hdu.shape}, which {place.size} compressed bytes "
            "cannot hold; it is damaged"
        )


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _decompress(path: Path) -> bytes | None:
    if not _is_gzip(path):
        return None
    try:
        with gzip.open(path) as stream:
            content = stream.read(_MOST_DECOMPRESSED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputFileError(
            f"{path}: the gzip file is damaged or truncated ({error}); found {path.stat().st_size} bytes; "
            "download it again"
        ) from error
    if len(content) > _MOST_DECOMPRESSED:
        raise InputFileError(
            f"{path}: the gzip file holds more than {_MOST_DECOMPRESSED >> 30} GB, which is not read into memory; "
            "gunzip it"
        )
    return content


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever the FITS library raises on a damaged file into InputFileError."""
    try:
        yield
    except MrsxrError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputFileError(f"{path}: no readable FITS file ({reason[:300]}); found {_size(path)} bytes") from error


def _size(path: Path) -> str:
    try:
        return str(path.stat().st_size)
    except OSError:
        return "no"
