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
from mrsxr.io.headers import cards, read_header

#: Reference types of the MIRI MRS that this package reads.
KINDS = (
    "mask", "emicorr", "saturation", "ipc", "reset", "linearity", "rscd", "dark", "gain", "readnoise",
    "distortion", "specwcs", "regions", "wavelengthrange", "mrsxartcorr", "flat", "fringe", "photom",
    "fringefreq", "cubepar", "extract1d", "apcorr", "mrsptcorr", "latent", "pfpc",
    "psf",
)  # fmt: skip
#: Those that CRDS knows; the others come from a folder or a mapping.
CRDS_KINDS = tuple(kind for kind in KINDS if kind not in ("latent", "pfpc", "psf"))
#: Header fields that choose between files of one type: (FITS keyword, pattern keyword, places in ASDF).
FIELDS = {
    "detector": ("DETECTOR", "P_DETECT", "instrument.detector", "instrument.p_detector"),
    "channel": ("CHANNEL", "P_CHANNE", "instrument.channel", "instrument.p_channel"),
    "band": ("BAND", "P_BAND", "instrument.band", "instrument.p_band"),
    "filter": ("FILTER", "P_FILTER", "instrument.filter", "instrument.p_filter"),
    "exp_type": ("EXP_TYPE", "P_EXP_TY", "exposure.type", "exposure.p_exptype"),
    "readpatt": ("READPATT", "P_READPA", "exposure.readpatt", "exposure.p_readpatt"),
    "subarray": ("SUBARRAY", "P_SUBARR", "subarray.name", "subarray.p_subarray"),
    "ngroups": ("NGROUPS", "", "exposure.ngroups", ""),
}
_SUBARRAY_KEYS = (("SUBSTRT2", "SUBSTRT1"), ("SUBSIZE2", "SUBSIZE1"))
WILDCARDS = {"", "N/A", "ANY", "GENERIC", "MULTIPLE", "ALL", "NONE", "*"}
SUFFIXES = (".fits", ".fits.gz", ".asdf")
#: Files whose makers left the primary header bare say by their names what they are for (STScI-MIRI/MRS-PFPC).
_NAMED = re.compile(r"mrs_(pfpc)_chn([1-4])_(short|medium|long)\.fits(?:\.gz)?")
#: Kinds of exposure of the other parts of MIRI.
_NOT_MRS = ("MIR_IMAGE", "MIR_LYOT", "MIR_4QPM", "MIR_LRS", "MIR_TACQ", "MIR_CORONCAL", "MIR_WFSS")


class NotAReferenceError(ReferenceFileError):
    """The file is readable but is no reference file of the MIRI MRS; it says itself what else it is."""


class NoTypeError(ReferenceFileError):
    """The file is readable and does not say which type of reference file it is."""


@dataclass(frozen=True)
class Suspect:
    """A file of a folder that cannot be used and may be one that is looked for."""

    path: Path
    reason: str
    kind: str = ""  # "" where nothing tells it
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # as of ReferenceFacts, what can be told


@dataclass(frozen=True)
class ReferenceFacts:
    """Who a reference file is for.

    ``fields`` holds the upper-case values that the file states, as a tuple of alternatives; an empty tuple
    means any value.

    Examples
    --------
    >>> facts = mx.references.read_facts(dark_file)
    >>> facts.kind, facts.fields["detector"]
    ('dark', ('MIRIFUSHORT',))
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

    Examples
    --------
    >>> mx.references.read_facts(dark_file).kind
    'dark'
    """
    path = Path(path)
    try:
        header = _asdf_header(path) if is_asdf(path) else read_header(path)[0]
    except InputFileError as error:
        raise ReferenceFileError(f"{error}; expected a FITS or ASDF reference file") from error
    return _facts(path, header if header.get("REFTYPE") else _told_by_name(path) | header)


def _told_by_name(path: Path) -> dict[str, Any]:
    found = _NAMED.fullmatch(path.name)
    keys = ("REFTYPE", "CHANNEL", "BAND")
    return {key: found[k].upper() for k, key in enumerate(keys, 1)} if found is not None else {}


def _facts(path: Path, header: Mapping[str, Any]) -> ReferenceFacts:
    kind = _kind(path, str(header.get("REFTYPE") or ""))
    fields = _fields(header)
    if other := _other_instrument(header, fields):
        raise NotAReferenceError(f"{path}: {kind} reference of {other}; expected one of the MRS (JWST, MIRI)")
    start_fits, shape = _integers(header, *_SUBARRAY_KEYS[0]), _integers(header, *_SUBARRAY_KEYS[1])
    start = (start_fits[0] - 1, start_fits[1] - 1) if start_fits else None
    return ReferenceFacts(path, kind, str(header.get("USEAFTER") or ""), start, shape, fields)


def _fields(header: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: _alternatives(header.get(keys[0]), header.get(keys[1])) for name, keys in FIELDS.items()}


def _other_instrument(header: Mapping[str, Any], fields: Mapping[str, tuple[str, ...]]) -> str:
    """Return of which other telescope, instrument or part of MIRI a header says that it is, "" for the MRS."""
    for keyword, ours in (("TELESCOP", "JWST"), ("INSTRUME", "MIRI")):
        found = str(header.get(keyword) or "").strip().upper()
        if found not in WILDCARDS and found != ours:
            return f"{keyword} {found}"
    detectors, kinds = fields.get("detector", ()), fields.get("exp_type", ())
    if detectors and not any(name.startswith("MIRIFU") for name in detectors):
        return f"DETECTOR {' or '.join(detectors)}"
    if not detectors and kinds and all(name.startswith(_NOT_MRS) for name in kinds):
        return f"EXP_TYPE {' or '.join(kinds)}"
    return ""


def scan(folder: str | os.PathLike[str]) -> tuple[tuple[ReferenceFacts, ...], tuple[Suspect, ...]]:
    """Read the headers of all reference files below a folder.

    Returns
    -------
    tuple of ReferenceFacts, tuple of Suspect, by path
        Files that are no MIRI reference file (other FITS and ASDF files) are left out; the second are those that cannot
        be read and may be reference files.

    Raises
    ------
    ReferenceFileError
        Where the folder does not exist.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise ReferenceFileError(f"{folder}: no such folder of reference files; give an existing one")
    found, suspects = [], []
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or not path.name.endswith(SUFFIXES) or not os.path.isfile(path):
            continue
        try:
            found.append(read_facts(path))
        except NotAReferenceError:
            continue
        except ReferenceFileError as error:
            suspects.append(_suspect(path, error))
    return tuple(found), tuple(s for s in suspects if s is not None)


def _suspect(path: Path, error: ReferenceFileError) -> Suspect | None:
    """Return what can be told of a file without readable facts; None where it is no reference file of the MRS."""
    header = _remains(path)
    fields = _fields(header)
    named = [word for word in re.split(r"[^a-z0-9]+", path.name.lower()) if word in KINDS]
    stated = _plain_kind(str(header.get("REFTYPE") or ""))
    kind = stated if stated in KINDS else named[0] if named else ""
    if _other_instrument(header, fields) or (stated and stated not in KINDS):
        return None
    if isinstance(error, NoTypeError) and not named:  # neither header nor name speaks of a reference
        return None
    return Suspect(path, str(error), kind, fields)


def _remains(path: Path) -> dict[str, Any]:
    """Return the keywords that a damaged file still gives, {} for none."""
    from astropy.io import fits

    try:
        if is_asdf(path):
            with open(path, "rb") as file:
                text = file.read(200_000).decode("utf-8", "replace")
            names = {"reftype": "REFTYPE", "detector": "DETECTOR", "channel": "CHANNEL", "band": "BAND"}
            found = {key: re.search(rf"\b{name}: *['\"]?([\w/|]+)", text) for name, key in names.items()}
            return {key: match[1] for key, match in found.items() if match}
        with open(path, "rb") as file:
            return cards(fits.Header.fromfile(file))
    except Exception:  # whatever a damaged file brings forth
        return {}


def _asdf_header(path: Path) -> dict[str, Any]:
    """Return the facts of an ASDF file under their FITS keywords."""
    meta = read_asdf_meta(path)
    header = {"REFTYPE": meta.get("reftype"), "USEAFTER": meta.get("useafter"), "TELESCOP": meta.get("telescope")}
    header["INSTRUME"] = _below(meta, "instrument.name")
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


def _plain_kind(reftype: str) -> str:
    return reftype.strip().lower().replace("_", "").replace("-", "")


def _kind(path: Path, reftype: str) -> str:
    name = _plain_kind(reftype)
    if name in KINDS:
        return name
    found = f"found REFTYPE '{reftype}'" if reftype else "found no REFTYPE"
    text = f"{path}: no MIRI MRS reference file: {found}, expected one of {', '.join(KINDS)}"
    raise NotAReferenceError(text) if name else NoTypeError(text)
