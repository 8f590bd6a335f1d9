"""Choose the reference file of an exposure from CRDS, a folder or a mapping, and fit it to the exposure."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import chunks as chunk_sizes
from mrsxr import mrs
from mrsxr.errors import ReferenceFileError

from .crds_cache import SELECTED_BY
from .headers import CRDS_KINDS, KINDS, ReferenceFacts, read_facts, scan
from .readers import IMAGES, Rows, Window, read_known

#: Fields that a file must share with the exposure where it states them, beside those it is selected by.
_ALWAYS = ("detector", "channel", "band")
#: A subarray has its own timing, so that these full-frame files cannot be cut out for it.
_NO_CUT = ("dark", "reset")
#: Kinds on the detector grid (y, x): what a subarray exposure needs a part of.
_DETECTOR_KINDS = (*IMAGES, "mrsxartcorr", "regions")


@dataclass(frozen=True)
class Exposure:
    """What the choice of reference files depends on, taken from a Dataset."""

    name: str  # setting or band, for messages
    fields: Mapping[str, str]
    date: str = ""  # "YYYY-MM-DDTHH:MM:SS", "" where unknown
    start: tuple[int, int] = (0, 0)  # first row and column of the exposure in the full frame, from 0
    shape: tuple[int, int] | None = None  # of the subarray
    columns: tuple[int, ...] = ()  # of the subarray that the Dataset holds, where not all
    rows: tuple[int, ...] | None = None  # chunks of the exposure along y
    keywords: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, ds: xr.Dataset) -> Exposure:
        """Return the facts of a Dataset of any level."""
        header = _header(ds)
        attrs = ds.attrs
        setting = str(attrs.get("setting", "") or attrs.get("band", "") or "unknown setting")
        fields = {
            "detector": str(attrs.get("detector") or header.get("DETECTOR") or ""),
            "channel": str(attrs.get("channels") or header.get("CHANNEL") or ""),
            "band": str(attrs.get("band") or header.get("BAND") or ""),
            "readpatt": str(attrs.get("readpatt") or header.get("READPATT") or ""),
            "subarray": str(attrs.get("subarray") or header.get("SUBARRAY") or ""),
            "exp_type": str(header.get("EXP_TYPE") or "MIR_MRS"),
            "filter": str(header.get("FILTER") or ""),
        }
        if fields["band"] in mrs.BANDS:  # a cube or spectrum
            known = mrs.setting_keywords(mrs.setting_of_band(fields["band"]))
            fields |= {"detector": known["DETECTOR"], "channel": known["CHANNEL"], "band": known["BAND"]}
        start = (int(header.get("SUBSTRT2") or 1) - 1, int(header.get("SUBSTRT1") or 1) - 1)
        detector_level = attrs.get("level") in ("ramp", "rate", "rateints", "cal")
        shape = (ds.sizes["y"], ds.sizes["x"]) if detector_level and {"y", "x"} <= set(ds.sizes) else None
        columns = _columns(ds, header) if shape is not None else ()
        if shape is not None and columns:
            shape = (shape[0], int(header.get("SUBSIZE1") or mrs.DETECTOR_SHAPE[1]))
        return cls(setting, fields, _date(ds, header), start, shape, columns, _rows(ds, shape), header)


class References:
    """Reference files from one source, chosen for and fitted to an exposure.

    Parameters
    ----------
    source : None, path-like or mapping
        None: CRDS, through the environment variables CRDS_PATH, CRDS_SERVER_URL and CRDS_CONTEXT. A folder:
        all MIRI reference files in and below it; their headers are read once. A mapping
        ``{kind: path or Dataset}``: these and no others.
    context : str, optional
        CRDS context ("jwst_1322.pmap"); by default CRDS_CONTEXT or what CRDS holds to be the latest.

    Examples
    --------
    >>> references = References("refs")                      # doctest: +SKIP
    >>> dark = references.get("dark", ramp)                  # doctest: +SKIP

    Notes
    -----
    The choice follows CRDS: of the files of a kind that state nothing against the exposure, those that agree
    in most fields (detector, band, readout pattern, subarray ...), of these the one with the latest USEAFTER
    that is not after the exposure. "N/A", "ANY", "GENERIC" and missing keywords fit everything. A Dataset of
    several dithers is served by the files of its first.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        context: str | None = None,
    ):
        if context is not None and source is not None:
            raise ReferenceFileError("a CRDS context was given with a folder or mapping; give one of them")
        self._mapping: dict[str, Any] | None = None
        self._folder: Path | None = None
        self._context = context
        self._crds_paths: dict[tuple, Path] = {}
        if isinstance(source, Mapping):
            self._mapping = dict(source)
            unknown = [kind for kind in self._mapping if kind not in KINDS]
            if unknown:
                raise ReferenceFileError(f"'{unknown[0]}' is no reference kind; expected one of {', '.join(KINDS)}")
        elif source is not None:
            self._folder = Path(source)
            if not os.path.isdir(self._folder):
                raise ReferenceFileError(f"{self._folder}: no such folder of reference files; give an existing one")

    @property
    def source(self) -> str:
        """What is searched, in words."""
        if self._mapping is not None:
            return f"mapping of {len(self._mapping)} references"
        if self._folder is not None:
            return f"folder {self._folder}"
        context = self._context or os.environ.get("CRDS_CONTEXT") or "latest context"
        return f"CRDS ({context}, CRDS_PATH {os.environ.get('CRDS_PATH', 'not set')})"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that the source has any file of; of CRDS, all that this package reads."""
        if self._mapping is not None:
            return tuple(kind for kind in KINDS if kind in self._mapping)
        if self._folder is not None:
            present = {facts.kind for facts in self._facts}
            return tuple(kind for kind in KINDS if kind in present)
        return CRDS_KINDS

    def __repr__(self) -> str:
        if self._mapping is None and self._folder is None:
            return f"<References: {self.source}>"
        names = ", ".join(self.kinds) or "nothing"
        number = len(self._mapping) if self._mapping is not None else len(self._facts)
        return f"<References: {self.source}; {number} files of {len(self.kinds)} kinds: {names}>"

    @cached_property
    def _scanned(self) -> tuple[tuple[ReferenceFacts, ...], tuple[str, ...]]:
        return scan(self._folder) if self._folder is not None else ((), ())

    @property
    def _facts(self) -> tuple[ReferenceFacts, ...]:
        return self._scanned[0]

    def path(self, kind: str, ds: xr.Dataset) -> Path:
        """Return the file that serves an exposure.

        Parameters
        ----------
        kind : str
            "dark", "photom" ...
        ds : Dataset
            An exposure (any level), a cube or a spectrum.

        Returns
        -------
        Path

        Raises
        ------
        ReferenceFileError
            Where there is none, or a given one is for another detector, band, readout pattern or subarray.
        """
        found = self._find(kind, Exposure.of(ds))
        if isinstance(found, xr.Dataset):
            raise ReferenceFileError(f"the {kind} reference is a Dataset in memory and has no file")
        return found.path

    def get(self, kind: str, ds: xr.Dataset) -> xr.Dataset:
        """Return the reference Dataset that serves an exposure, cut to its subarray and chunked like it.

        Parameters
        ----------
        kind : str
            "dark", "photom" ...
        ds : Dataset
            An exposure (any level), a cube or a spectrum.

        Returns
        -------
        Dataset
            As :func:`mrsxr.references.read_reference`; ``attrs["crds_context"]`` where CRDS was the source.

        Raises
        ------
        ReferenceFileError
            As :meth:`path`, and where the file is damaged or does not cover the exposure's subarray.
        """
        exposure = Exposure.of(ds)
        found = self._find(kind, exposure)
        if isinstance(found, xr.Dataset):
            return _fit_dataset(found, kind, exposure)
        window = _window(found, kind, exposure)
        rows: Rows = exposure.rows if exposure.rows is not None else chunk_sizes.RAMP_ROWS_MAX
        reference = read_known(found, rows=rows, window=window)
        _check_shape(reference, kind, exposure)
        if self._mapping is None and self._folder is None:
            reference = reference.assign_attrs(crds_context=self._used_context())
        return reference

    def get_many(self, kinds: Iterable[str], ds: xr.Dataset) -> dict[str, xr.Dataset]:
        """Return ``{kind: Dataset}`` for several kinds; as :meth:`get`."""
        return {kind: self.get(kind, ds) for kind in kinds}

    def available(self, ds: xr.Dataset) -> tuple[str, ...]:
        """Return the kinds that the source has a fitting file of, without reading their data."""
        exposure = Exposure.of(ds)
        if self._mapping is None and self._folder is None:
            _require_crds_path(exposure)
            _crds("getreferences")
        found = []
        for kind in self.kinds:
            try:
                self._find(kind, exposure)
            except ReferenceFileError:
                continue
            found.append(kind)
        return tuple(found)

    def _find(self, kind: str, exposure: Exposure) -> ReferenceFacts | xr.Dataset:
        if kind not in KINDS:
            raise ReferenceFileError(f"'{kind}' is no reference kind; expected one of {', '.join(KINDS)}")
        if self._mapping is not None:
            return self._find_in_mapping(kind, exposure)
        if self._folder is not None:
            return self._find_in_folder(kind, exposure)
        return self._find_in_crds(kind, exposure)

    def _missing(self, kind: str, exposure: Exposure, found: str, advice: str) -> ReferenceFileError:
        wanted = ", ".join(f"{name} {exposure.fields[name]}" for name in SELECTED_BY[kind] if exposure.fields[name])
        dated = f" on {exposure.date}" if exposure.date else ""
        return ReferenceFileError(
            f"no {kind} reference for {exposure.name} ({wanted}){dated} in the {self.source}: {found}; {advice}"
        )

    def _find_in_mapping(self, kind: str, exposure: Exposure) -> ReferenceFacts | xr.Dataset:
        entry = (self._mapping or {}).get(kind)
        if entry is None:
            present = ", ".join(self.kinds) or "nothing"
            raise self._missing(kind, exposure, f"found {present}", f"add '{kind}' to it")
        if isinstance(entry, xr.Dataset):
            _refuse_dataset(entry, kind, exposure)
            return entry
        facts = read_facts(entry)
        if facts.kind != kind:
            raise ReferenceFileError(f"{entry}: is a reference file of kind {facts.kind}, expected {kind}")
        wrong = mismatches(facts, exposure)
        if wrong:
            raise ReferenceFileError(f"{entry}: {kind} reference for {wrong[0]} ({exposure.name})")
        return facts

    def _find_in_folder(self, kind: str, exposure: Exposure) -> ReferenceFacts:
        candidates = [facts for facts in self._facts if facts.kind == kind]
        fitting = [facts for facts in candidates if not mismatches(facts, exposure)]
        in_time = [f for f in fitting if not exposure.date or _iso(f.useafter) <= exposure.date]
        if not in_time:
            if fitting:
                first = min(fitting, key=lambda facts: _iso(facts.useafter))
                found = f"the first, {first.ref_id}, is valid from {first.useafter} on"
            elif candidates:
                found = f"found {candidates[0].ref_id} for {candidates[0].describe()}"
                found += f" and {len(candidates) - 1} more" if len(candidates) > 1 else ""
            else:
                found = "found no file of this type"
                found += f" (unreadable: {'; '.join(self._scanned[1][:2])})" if self._scanned[1] else ""
            raise self._missing(kind, exposure, found, "add one or choose another source")
        return max(in_time, key=lambda facts: (_score(facts, exposure), _iso(facts.useafter), facts.ref_id))

    def _find_in_crds(self, kind: str, exposure: Exposure) -> ReferenceFacts:
        parameters = crds_parameters(exposure)
        key = (kind, *sorted(parameters.items()))
        if key not in self._crds_paths:
            self._crds_paths[key] = self._ask_crds(kind, exposure, parameters)
        facts = read_facts(self._crds_paths[key])
        if facts.kind != kind:
            raise ReferenceFileError(f"{facts.path}: CRDS gave a file of kind {facts.kind}, expected {kind}")
        wrong = mismatches(facts, exposure)
        if wrong:
            raise ReferenceFileError(f"{facts.path}: {kind} reference for {wrong[0]} ({exposure.name})")
        return facts

    def _ask_crds(self, kind: str, exposure: Exposure, parameters: dict[str, Any]) -> Path:
        if kind not in CRDS_KINDS:
            advice = "give a folder of reference files that has one, or leave the step out"
            raise self._missing(kind, exposure, "CRDS has no such type", advice)
        _require_crds_path(exposure)
        getreferences = _crds("getreferences")
        try:
            answer = getreferences(parameters, reftypes=[kind], context=self._context, observatory="jwst")[kind]
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())
            advice = "check CRDS_SERVER_URL, CRDS_CONTEXT and the network, or give a folder of reference files"
            raise self._missing(kind, exposure, f"CRDS says: {text or type(error).__name__}", advice) from error
        if str(answer).upper().startswith("NOT FOUND"):
            raise self._missing(kind, exposure, "CRDS says: not applicable", "leave the step out or give a file")
        return Path(answer)

    def _used_context(self) -> str:
        return str(_crds("get_context_name")("jwst", self._context))


def _require_crds_path(exposure: Exposure) -> None:
    if "CRDS_PATH" not in os.environ:
        raise ReferenceFileError(
            f"no reference files for {exposure.name}: CRDS is not set up; set CRDS_PATH to a cache folder and "
            "CRDS_SERVER_URL to https://jwst-crds.stsci.edu, or give a folder of reference files"
        )


def _crds(name: str) -> Any:
    """Return a function of the crds package, which is imported only here."""
    os.environ.setdefault("CRDS_OBSERVATORY", "jwst")
    try:
        import crds

        importlib.import_module("crds.jwst.locate")  # what the rules of JWST need, stdatamodels among it
    except ModuleNotFoundError as error:
        raise ReferenceFileError(
            f"CRDS cannot be used: the package '{error.name}' is missing; install crds and stdatamodels, "
            "or give a folder of reference files"
        ) from error
    return getattr(crds, name) if hasattr(crds, name) else getattr(crds.core.heavy_client, name)


def crds_parameters(exposure: Exposure) -> dict[str, Any]:
    """Return the parameters that CRDS selects by, under the names of the JWST data models."""
    if not exposure.date:
        raise ReferenceFileError(
            f"{exposure.name}: CRDS needs the date of the exposure, but DATE-OBS is missing from its header"
        )
    day, _, clock = exposure.date.partition("T")
    names = {
        "detector": "meta.instrument.detector", "channel": "meta.instrument.channel",
        "band": "meta.instrument.band", "filter": "meta.instrument.filter", "exp_type": "meta.exposure.type",
        "readpatt": "meta.exposure.readpatt", "subarray": "meta.subarray.name",
    }  # fmt: skip
    parameters: dict[str, Any] = {names[key]: value for key, value in exposure.fields.items() if value}
    parameters |= {"meta.instrument.name": "MIRI", "meta.telescope": "JWST", "meta.observation.date": day,
                   "meta.observation.time": clock or "00:00:00"}  # fmt: skip
    if exposure.keywords.get("NGROUPS") is not None:
        parameters["meta.exposure.ngroups"] = int(exposure.keywords["NGROUPS"])
    return parameters


def mismatches(facts: ReferenceFacts, exposure: Exposure) -> list[str]:
    """Return what a reference file states against an exposure, as texts; empty where it fits."""
    wrong = []
    for name in dict.fromkeys((*_ALWAYS, *SELECTED_BY[facts.kind])):
        stated, wanted = facts.fields.get(name, ()), exposure.fields.get(name, "").upper()
        if not stated or not wanted or name == "filter" or wanted in stated:
            continue
        if name == "channel" and any(set(wanted) <= set(value) for value in stated):
            continue
        if name == "subarray" and "FULL" in stated and facts.kind not in _NO_CUT:
            continue
        wrong.append(f"{name} {' or '.join(stated)}, the exposure has {name} {wanted}")
    return wrong


def _score(facts: ReferenceFacts, exposure: Exposure) -> int:
    """Return in how many fields a file agrees with the exposure by name."""
    return sum(exposure.fields.get(name, "").upper() in stated for name, stated in facts.fields.items() if stated)


def _refuse_dataset(reference: xr.Dataset, kind: str, exposure: Exposure) -> None:
    """Raise ReferenceFileError where a given Dataset is of another kind or made for another exposure."""
    found = reference.attrs.get("kind", kind)
    name = reference.attrs.get("ref_id", "the Dataset")
    if found != kind:
        raise ReferenceFileError(f"{name}: is a reference of kind {found}, expected {kind}")
    keys = {"detector": "detector", "channel": "channels", "band": "band", "readpatt": "readpatt",
            "subarray": "subarray"}  # fmt: skip
    stated = {key: str(reference.attrs.get(attr) or "").upper() for key, attr in keys.items()}
    fields = {key: (value,) for key, value in stated.items() if value}
    facts = ReferenceFacts(Path(str(name)), kind, fields=fields)
    wrong = mismatches(facts, exposure)
    if wrong:
        raise ReferenceFileError(f"{name}: {kind} reference for {wrong[0]} ({exposure.name})")


def _fit_dataset(reference: xr.Dataset, kind: str, exposure: Exposure) -> xr.Dataset:
    """Return a given Dataset cut to the exposure's part of the full frame, chunked like it where lazy."""
    if kind in _DETECTOR_KINDS and exposure.shape is not None and {"y", "x"} <= set(reference.dims):
        size = (reference.sizes["y"], reference.sizes["x"])
        if size != exposure.shape and size == mrs.DETECTOR_SHAPE:
            (y, x), (n_y, n_x) = exposure.start, exposure.shape
            reference = reference.isel(y=slice(y, y + n_y), x=slice(x, x + n_x))
        if exposure.columns and reference.sizes["x"] == exposure.shape[1]:
            reference = reference.isel(x=list(exposure.columns))
        _check_shape(reference, kind, exposure)
        if reference.chunks and exposure.rows is not None:
            reference = reference.chunk({"y": exposure.rows})
    return reference.assign_attrs({"level": "reference", "kind": kind, "ref_id": "by hand", **reference.attrs})


def _window(facts: ReferenceFacts, kind: str, exposure: Exposure) -> Window | None:
    """Return the part of a file's array that the Dataset covers, None for all of it."""
    if kind not in _DETECTOR_KINDS or exposure.shape is None:
        return None
    window = _subarray(facts, exposure, exposure.shape)
    if not exposure.columns:
        return window
    return replace(window or Window(0, 0, *exposure.shape), columns=exposure.columns)


def _subarray(facts: ReferenceFacts, exposure: Exposure, shape: tuple[int, int]) -> Window | None:
    """Return the part of a file's array that the exposure's subarray covers, None for all of it."""
    subarray = exposure.fields["subarray"].upper()
    if subarray in ("", "FULL"):
        return None
    if facts.shape == shape and facts.start in (None, exposure.start):
        return None
    if facts.shape is None and subarray in facts.fields.get("subarray", ()):
        return None
    (y, x), (n_y, n_x) = exposure.start, shape
    first_y, first_x = facts.start or (0, 0)
    return Window(y - first_y, x - first_x, n_y, n_x)


def _check_shape(reference: xr.Dataset, kind: str, exposure: Exposure) -> None:
    if kind not in IMAGES or exposure.shape is None:
        return
    shape = (reference.sizes["y"], reference.sizes["x"])
    wanted = (exposure.shape[0], len(exposure.columns) or exposure.shape[1])
    if shape != wanted:
        raise ReferenceFileError(
            f"{reference.attrs.get('ref_id', 'the Dataset')}: {kind} has {shape[0]} rows and {shape[1]} "
            f"columns, the exposure ({exposure.name}) has {wanted[0]} and {wanted[1]}"
        )


def _columns(ds: xr.Dataset, header: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the columns of its subarray that a Dataset holds, told by the coordinate x; () for all of them."""
    size = ds.sizes["x"]
    own = ds["x"].values.astype(int) if "x" in ds.coords else np.arange(size)
    whole = size == int(header.get("SUBSIZE1") or size) and np.array_equal(own, np.arange(size))
    return () if whole else tuple(own.tolist())


def _header(ds: xr.Dataset) -> dict[str, Any]:
    """Return the PRIMARY keywords of the first exposure of a Dataset, {} where it carries none."""
    if "fits_header" not in ds.coords or ds["fits_header"].size == 0:
        return {}
    text = str(np.atleast_1d(ds["fits_header"].values)[0])
    return dict(json.loads(text).get("PRIMARY", {})) if text else {}


def _date(ds: xr.Dataset, header: Mapping[str, Any]) -> str:
    """Return the start of the first exposure as ISO text, from DATE-OBS, TIME-OBS or start_time."""
    day = str(header.get("DATE-OBS") or "")[:10]
    if day:
        return f"{day}T{str(header.get('TIME-OBS') or '00:00:00').split('.')[0]}"
    if "start_time" in ds.coords and ds["start_time"].size:
        days = float(np.atleast_1d(ds["start_time"].values)[0])
        if np.isfinite(days) and days > 0:
            origin = np.datetime64("1858-11-17T00:00:00", "s")
            return str(origin + np.timedelta64(round(days * 86400), "s"))
    return ""


def _iso(useafter: str) -> str:
    """Return a USEAFTER as "YYYY-MM-DDTHH:MM:SS", which sorts by time."""
    day, _, clock = useafter.strip().replace("T", " ").partition(" ")
    return f"{day[:10]}T{clock.split('.')[0] or '00:00:00'}"


def _rows(ds: xr.Dataset, shape: tuple[int, int] | None) -> tuple[int, ...] | None:
    """Return the chunks of the data along y; whole detector-level Datasets in memory count as one block."""
    if shape is None:
        return None
    for name in ("sci", "rate", "rates", "flux"):
        if name in ds.data_vars and ds[name].chunks is not None:
            return tuple(ds[name].chunksizes["y"])
    return None
