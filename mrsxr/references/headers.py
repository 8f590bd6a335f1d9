"""What a reference file is for, by its header alone: type, detector, band, readout, subarray, date."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrsxr.errors import InputFileError, ReferenceFileError
from mrsxr.io.asdffile import read_asdf_meta
from mrsxr.io.fitsarray import file_stamp
from mrsxr.io.headers import read_header

#: Reference types of the MIRI MRS that this package reads.
KINDS = (
    "mask", "emicorr", "saturation", "ipc", "reset", "linearity", "rscd", "dark", "gain", "readnoise",
    "distortion", "specwcs", "regions", "wavelengthrange", "mrsxartcorr", "flat", "fringe", "photom",
    "fringefreq", "cubepar", "extract1d", "apcorr", "mrsptcorr", "latent",
)  # fmt: skip
#: Those that CRDS knows; the others come from a folder or a mapping.
CRDS_KINDS = tuple(kind for kind in KINDS if kind != "latent")
#: Header fields that choose between files of one type: (FITS keyword, pattern keyword, places in ASDF).
FIELDS = {
    "detector": ("DETECTOR", "P_DETECT", "instrument.detector", "instrument.p_detector"),
    "channel": ("CHANNEL", "P_CHANNE", "instrument.channel", "instrument.p_channel"),
    "band": ("BAND", "P_BAND", "instrument.band", "instrument.p_band"),
    "filter": ("FILTER", "P_FILTER", "instrument.filter", "instrument.p_filter"),
    "exp_type": ("EXP_TYPE", "P_EXP_TY", "exposure.type", "exposure.p_exptype"),
    "readpatt": ("READPATT", "P_READPA", "exposure.readpatt", "exposure.p_readpatt"),
    "subarray": ("SUBARRAY", "P_SUBARR", "subarray.name", "subarray.p_subarray"),
}
_SUBARRAY_KEYS = (("SUBSTRT2", "SUBSTRT1"), ("SUBSIZE2", "SUBSIZE1"))
WILDCARDS = {"", "N/A", "ANY", "GENERIC", "MULTIPLE", "ALL", "NONE", "*"}
SUFFIXES = (".fits", ".fits.gz", ".asdf")


class NotAReferenceError(ReferenceFileError):
    """The file is readable but is no reference file of the MIRI MRS."""


@dataclass(frozen=True)
class ReferenceFacts:
    """Who a reference file is for.

    ``fields`` holds the upper-case values that the file states, as a tuple of alternatives; an empty tuple
    means any value.
    """

    path: Path
    kind: str
    useafter: str = ""
    start: tuple[int, int] | None = None  # first row and column in the full frame, from 0, where stated
    shape: tuple[int, int] | None = None  # rows and columns, where stated
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def ref_id(self) -> str:
        """File name."""
        return self.path.name

    def value(self, name: str) -> str:
        """Return the one value of a field, "" where the file states none or several."""
        values = self.fields.get(name, ())
        return values[0] if len(values) == 1 else ""

    def describe(self) -> str:
        """Return the stated fields as one short text for messages."""
        stated = [f"{name} {' or '.join(values)}" for name, values in self.fields.items() if values]
        return ", ".join(stated) or "any exposure"


def is_asdf(path: str | os.PathLike[str]) -> bool:
    """Return whether a file is ASDF by its first bytes; raise ReferenceFileError where it cannot be read."""
    try:
        file_stamp(path)
        with open(path, "rb") as file:
            return file.read(5) == b"#ASDF"
    except InputFileError as error:
        raise ReferenceFileError(f"{error} of a reference") from error
    except OSError as error:
        raise ReferenceFileError(
            f"{path}: the reference file cannot be read ({error.strerror}); check the path"
        ) from error


def read_facts(path: str | os.PathLike[str]) -> ReferenceFacts:
    """Read what a reference file is for: its primary header (FITS) or ``meta`` (ASDF), no data.

    Parameters
    ----------
    path : path-like
        A FITS or ASDF reference file.

    Returns
    -------
    ReferenceFacts

    Raises
    ------
    ReferenceFileError
        Where the file is missing, damaged, neither FITS nor ASDF, or states no known reference type.
    """
    path = Path(path)
    try:
        header = _asdf_header(path) if is_asdf(path) else read_header(path)[0]
    except InputFileError as error:
        raise ReferenceFileError(f"{error}; expected a FITS or ASDF reference file") from error
    kind = _kind(path, str(header.get("REFTYPE") or ""))
    fields = {name: _alternatives(header.get(keys[0]), header.get(keys[1])) for name, keys in FIELDS.items()}
    start_fits, shape = _integers(header, *_SUBARRAY_KEYS[0]), _integers(header, *_SUBARRAY_KEYS[1])
    start = (start_fits[0] - 1, start_fits[1] - 1) if start_fits else None
    return ReferenceFacts(path, kind, str(header.get("USEAFTER") or ""), start, shape, fields)


def scan_folder(folder: str | os.PathLike[str]) -> tuple[ReferenceFacts, ...]:
    """Read the headers of all reference files below a folder.

    Parameters
    ----------
    folder : path-like

    Returns
    -------
    tuple of ReferenceFacts, by path
        Files that are no MIRI reference file (other FITS and ASDF files) or are damaged are left out.

    Raises
    ------
    ReferenceFileError
        Where the folder does not exist.
    """
    return scan(folder)[0]


def scan(folder: str | os.PathLike[str]) -> tuple[tuple[ReferenceFacts, ...], tuple[str, ...]]:
    """Return the facts as :func:`scan_folder` and what is wrong with the files that cannot be read."""
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise ReferenceFileError(f"{folder}: no such folder of reference files; give an existing one")
    found, damaged = [], []
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or not path.name.endswith(SUFFIXES) or not os.path.isfile(path):
            continue
        try:
            found.append(read_facts(path))
        except NotAReferenceError:
            continue
        except ReferenceFileError as error:
            damaged.append(str(error))
    return tuple(found), tuple(damaged)


def _asdf_header(path: Path) -> dict[str, Any]:
    """Return the facts of an ASDF file under their FITS keywords."""
    meta = read_asdf_meta(path)
    header = {"REFTYPE": meta.get("reftype"), "USEAFTER": meta.get("useafter")}
    for keyword, pattern, place, pattern_place in FIELDS.values():
        header |= {keyword: _below(meta, place), pattern: _below(meta, pattern_place)}
    places = ("subarray.ystart", "subarray.xstart", "subarray.ysize", "subarray.xsize")
    keys = [key for pair in _SUBARRAY_KEYS for key in pair]
    return header | {key: _below(meta, place) for key, place in zip(keys, places, strict=True)}


def _integers(header: Mapping[str, Any], first: str, second: str) -> tuple[int, int] | None:
    one, other = header.get(first), header.get(second)
    return (one, other) if isinstance(one, int) and isinstance(other, int) else None


def _below(meta: Any, place: str) -> Any:
    for part in place.split("."):
        meta = meta.get(part) if isinstance(meta, Mapping) else None
    return meta


def _alternatives(plain: Any, pattern: Any) -> tuple[str, ...]:
    """Return the values that fit, from the value and the pattern ("FASTR1 | SLOWR1 |") of a header."""
    text = str(pattern) if pattern else str(plain if plain is not None else "")
    values = tuple(part.strip().upper() for part in text.split("|") if part.strip())
    return () if any(value in WILDCARDS for value in values) else values


def _kind(path: Path, reftype: str) -> str:
    name = reftype.strip().lower().replace("_", "").replace("-", "")
    if name in KINDS:
        return name
    match = re.match(r"jwst_miri_(?:mrs\w*_)?([a-z0-9]+)_", path.name.lower())
    if match and match[1] in KINDS:
        return match[1]
    found = f"REFTYPE '{reftype}'" if reftype else "no REFTYPE"
    raise NotAReferenceError(f"{path}: no MIRI MRS reference file: found {found}, expected one of {', '.join(KINDS)}")
