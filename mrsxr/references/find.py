"""Choose the reference file of an exposure from CRDS, a folder or a mapping, and fit it to the exposure."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Iterable, Mapping
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

import xarray as xr

from mrsxr import chunks as chunk_sizes
from mrsxr.errors import ReferenceFileError, ReferenceMissingError
from mrsxr.limits import check
from mrsxr.notes import tell

from .checks import check_dataset
from .crds_cache import KEY_OF_FIELD, SELECTED_BY, iso_date
from .exposure import BAND_KINDS, Exposure
from .fit import check_shape, cut_to, dataset_facts, join_planes, mismatches, planes_of, require_fit, score, window_of
from .headers import CRDS_KINDS, KINDS, ReferenceFacts, Suspect, read_facts, scan
from .readers import Rows, read_known

_LEAVE = "give a folder of reference files that has one, or leave the step out"


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
    override : mapping, optional
        ``{kind: path or Dataset}`` in place of what the source has of these kinds; a list where detectors or bands
        need different ones. The products name them as they name others.

    Examples
    --------
    >>> refs = mx.References(refs_folder)
    >>> dark = refs.get("dark", ramp)
    >>> refs = mx.References(refs_folder, override={"dark": dark_file})

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
        override: Mapping[str, Any] | None = None,
    ):
        check("References", "override", override, Mapping[str, Any] | None)
        if context is not None and source is not None:
            raise ReferenceFileError("a CRDS context was given with a folder or mapping; give one of them")
        self._mapping: dict[str, Any] | None = None
        self._folder: Path | None = None
        self._context = context
        self._only: frozenset[str] | None = None
        self._crds_paths: dict[tuple[Any, ...], Path] = {}
        if isinstance(source, Mapping):
            self._mapping = _known_kinds(source)
        elif isinstance(source, str | os.PathLike):
            self._folder = Path(source).absolute()  # workers may stand in another folder
            if not os.path.isdir(self._folder):
                raise ReferenceFileError(f"{self._folder}: no such folder of reference files; give an existing one")
        elif source is not None:
            raise ReferenceFileError(
                f"reference files are given as {type(source).__name__}; expected a folder, a mapping or None for CRDS"
            )
        self._override = _known_kinds(override or {})
        for kind, entry in self._override.items():
            for one in _entries(entry):
                _given_facts(one, kind)

    @property
    def source(self) -> str:
        """What is searched, in words."""
        given = [f"{kind} from {_name(one)}" for kind, entry in self._override.items() for one in _entries(entry)]
        return ", ".join([self._searched, *given])

    @property
    def _searched(self) -> str:
        if self._mapping is not None:
            return f"mapping of {len(self._mapping)} references"
        if self._folder is not None:
            return f"folder {self._folder}"
        context = self._context or os.environ.get("CRDS_CONTEXT") or "latest context"
        return f"CRDS ({context}, CRDS_PATH {os.environ.get('CRDS_PATH', 'not set')})"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds that the source has any file of; of CRDS, all that this package reads."""
        present = set(CRDS_KINDS)
        if self._mapping is not None:
            present = set(self._mapping)
        elif self._folder is not None:
            present = {facts.kind for facts in self._facts}
        return tuple(kind for kind in KINDS if kind in present or kind in self._override)

    def __repr__(self) -> str:
        if self._mapping is None and self._folder is None:
            return f"<References: {self.source}>"
        names = ", ".join(self.kinds) or "nothing"
        number = len(self._mapping) if self._mapping is not None else len(self._facts)
        return f"<References: {self.source}; {number} files of {len(self.kinds)} kinds: {names}>"

    @cached_property
    def _scanned(self) -> tuple[tuple[ReferenceFacts, ...], tuple[Suspect, ...]]:
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
        ReferenceMissingError
            Where the source has none of the kind.
        ReferenceFileError
            Where those that it has are damaged or for another detector, band, readout pattern, subarray or date.
        """
        return self.paths(kind, ds)[0]

    def paths(self, kind: str, ds: xr.Dataset) -> list[Path]:
        """Return the files that serve an exposure, as :meth:`path`: one, of a PSF perhaps one for each band."""
        found = list(self._find_each(kind, Exposure.of(ds)).values())
        if any(isinstance(one, xr.Dataset) for one in found):
            raise ReferenceFileError(f"the {kind} reference is a Dataset in memory and has no file")
        return list(dict.fromkeys(one.path for one in found))  # type: ignore[union-attr]

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
            As :func:`mrsxr.references.read_reference`; ``attrs["crds_context"]`` where CRDS was the source. A PSF is
            of the bands of the exposure that have one, which may come from a file each.

        Raises
        ------
        ReferenceFileError
            As :meth:`path`, and where the file is damaged or does not cover the exposure's subarray.
        """
        exposure = Exposure.of(ds)
        found = {band: self._read(one, kind, exposure) for band, one in self._find_each(kind, exposure).items()}
        if kind not in BAND_KINDS:
            return found[""]
        planes = [part for band, one in found.items() if (part := planes_of(one, band)).sizes["plane"]]
        if not planes:
            have = ", ".join(sorted(set(next(iter(found.values()))["psf_band"].values.tolist())))
            advice = "give one of that band"
            raise self._missing(kind, exposure, f"it is of {have}", advice)
        return join_planes(planes)

    def _read(self, found: ReferenceFacts | xr.Dataset, kind: str, exposure: Exposure) -> xr.Dataset:
        if isinstance(found, xr.Dataset):
            return check_dataset(cut_to(found, kind, exposure))
        window = window_of(found, kind, exposure)
        rows: Rows = exposure.rows if exposure.rows is not None else chunk_sizes.RAMP_ROWS_MAX
        reference = read_known(found, rows=rows, window=window)
        check_shape(reference, kind, exposure)
        if self._mapping is None and self._folder is None and kind not in self._override:
            reference = reference.assign_attrs(crds_context=self._used_context())
        return reference

    def given(self, kind: str) -> Any:
        """Return what was given for a kind in place of a folder or CRDS, None where nothing was."""
        return self._override.get(kind, (self._mapping or {}).get(kind))

    def only(self, kinds: Iterable[str]) -> References:
        """Return the same source for some kinds: small, so that it can travel; it raises LookupError for others."""
        out, wanted = copy(self), frozenset(kinds)
        out._only = wanted
        out._override = {kind: one for kind, one in self._override.items() if kind in wanted}
        if self._mapping is not None:
            out._mapping = {kind: one for kind, one in self._mapping.items() if kind in wanted}
        if self._folder is not None:
            facts, suspects = self._scanned
            out._scanned = (tuple(one for one in facts if one.kind in wanted),
                            tuple(one for one in suspects if one.kind in ("", *wanted)))  # fmt: skip
        return out

    def require(self, kinds: Iterable[str], ds: xr.Dataset) -> None:
        """Raise ReferenceFileError where :meth:`path` would for one of several kinds; no data are read."""
        exposure = Exposure.of(ds)
        for kind in kinds:
            self._find_each(kind, exposure)

    def available(self, ds: xr.Dataset) -> tuple[str, ...]:
        """Return the kinds that the source has a fitting file of, without reading their data."""
        exposure = Exposure.of(ds)
        if self._mapping is None and self._folder is None:
            _require_crds_path(exposure)
            with _CRDS_LOCK:
                _crds("getreferences")
        found = []
        for kind in self.kinds:
            try:
                self._find_each(kind, exposure)
            except ReferenceFileError:
                continue
            found.append(kind)
        return tuple(found)

    def _find_each(self, kind: str, exposure: Exposure) -> dict[str, ReferenceFacts | xr.Dataset]:
        """Return what serves an exposure, by "", or each of its bands; raise where none of them has one."""
        if kind not in BAND_KINDS:
            return {"": self._find(kind, exposure)}
        found, missing = {}, []
        for band, one in exposure.by_band().items():
            try:
                found[band] = self._find(kind, one)
            except ReferenceMissingError as error:
                missing.append(error)
        if not found:
            raise missing[0]
        return found

    def _find(self, kind: str, exposure: Exposure) -> ReferenceFacts | xr.Dataset:
        if kind not in KINDS:
            raise ReferenceFileError(f"'{kind}' is no reference kind; expected one of {', '.join(KINDS)}")
        if self._only is not None and kind not in self._only:
            raise LookupError(f"the {kind} reference is asked for by a piece of work that does not name it")
        if kind in self._override:
            return _find_given(self._override[kind], kind, exposure)
        if self._mapping is not None:
            if self._mapping.get(kind) is None:
                present = ", ".join(self.kinds) or "nothing"
                raise self._missing(kind, exposure, f"found {present}", f"add '{kind}' to it")
            return _find_given(self._mapping[kind], kind, exposure)
        if self._folder is not None:
            return self._find_in_folder(kind, exposure)
        return self._find_in_crds(kind, exposure)

    def _missing(
        self, kind: str, exposure: Exposure, found: str, advice: str, *, absent: bool = True
    ) -> ReferenceFileError:
        """Return the error of a kind that is not there, or (not ``absent``) of which nothing fits."""
        fields = exposure.wanted(kind)
        wanted = ", ".join(f"{name} {fields[name]}" for name in SELECTED_BY[kind] if fields[name])
        dated = f" on {exposure.date}" if exposure.date else ""
        error = ReferenceMissingError if absent else ReferenceFileError
        return error(
            f"no {kind} reference for {exposure.name} ({wanted}){dated} in the {self.source}: {found}; {advice}"
        )

    def _find_in_folder(self, kind: str, exposure: Exposure) -> ReferenceFacts:
        candidates = [facts for facts in self._facts if facts.kind == kind]
        fitting = [facts for facts in candidates if not mismatches(facts, exposure)]
        in_time = [f for f in fitting if not exposure.date or iso_date(f.useafter) <= exposure.date]
        doubtful = [
            one for one in self._scanned[1]
            if one.kind in ((kind,) if kind in BAND_KINDS else ("", kind))
            and not mismatches(ReferenceFacts(one.path, kind, fields=one.fields), exposure, but=("ngroups",))
        ]  # fmt: skip
        if in_time:
            for one in doubtful:
                if one.kind:
                    tell(f"{one.reason}; it is left out of the choice of the {kind} reference", stacklevel=4)
            return max(in_time, key=lambda facts: (score(facts, exposure), iso_date(facts.useafter), facts.ref_id))
        if doubtful:
            found = f"what may be one cannot be used: {'; '.join(one.reason for one in doubtful[:2])}"
            raise self._missing(kind, exposure, found, "mend it or take it away", absent=False)
        if fitting:
            first = min(fitting, key=lambda facts: iso_date(facts.useafter))
            found = f"the first, {first.ref_id}, is valid from {first.useafter} on"
        elif candidates:
            found = f"found {candidates[0].ref_id} for {candidates[0].describe()}"
            found += f" and {len(candidates) - 1} more" if len(candidates) > 1 else ""
        else:
            found = "found no file of this type"
        absent = not (fitting if kind in BAND_KINDS else candidates)
        raise self._missing(kind, exposure, found, "add one or choose another source", absent=absent)

    def _find_in_crds(self, kind: str, exposure: Exposure) -> ReferenceFacts:
        if kind not in CRDS_KINDS:
            raise self._missing(kind, exposure, "CRDS has no such type", _LEAVE)
        parameters = crds_parameters(exposure, kind)
        key = (kind, os.environ.get("CRDS_PATH"), *sorted(parameters.items()))
        with _CRDS_LOCK:
            if key not in self._crds_paths:
                self._crds_paths[key] = self._ask_crds(kind, exposure, parameters)
        return require_fit(read_facts(self._crds_paths[key]), kind, exposure, "CRDS gave")

    def _ask_crds(self, kind: str, exposure: Exposure, parameters: dict[str, Any]) -> Path:
        _require_crds_path(exposure)
        getreferences = _crds("getreferences")
        try:
            answer = str(getreferences(parameters, reftypes=[kind], context=self._context, observatory="jwst")[kind])
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            if "unknown reference type" in text.lower():  # of a context before there was this type
                raise self._missing(kind, exposure, f"CRDS says: {text}", _LEAVE) from error
            advice = "check CRDS_SERVER_URL, CRDS_CONTEXT and the network, or give a folder of reference files"
            raise self._missing(kind, exposure, f"CRDS says: {text}", advice, absent=False) from error
        if answer.upper().startswith("NOT FOUND"):
            said = " ".join(answer.split())[len("NOT FOUND") :].strip()
            if said.lower() in ("", "n/a") or "unknown reference type" in said.lower():
                raise self._missing(kind, exposure, "CRDS says: not applicable", "leave the step out or give a file")
            raise self._missing(kind, exposure, f"CRDS says: {said}", "give a file by override", absent=False)
        return Path(answer)

    def _used_context(self) -> str:
        with _CRDS_LOCK:
            return str(_crds("get_context_name")("jwst", self._context))


def _known_kinds(entries: Mapping[str, Any]) -> dict[str, Any]:
    unknown = [kind for kind in entries if kind not in KINDS]
    if unknown:
        raise ReferenceFileError(f"'{unknown[0]}' is no reference kind; expected one of {', '.join(KINDS)}")
    return {kind: _absolute(entry) for kind, entry in entries.items()}


def _absolute(entry: Any) -> Any:
    if isinstance(entry, list | tuple):
        return [_absolute(one) for one in entry]
    return Path(entry).absolute() if isinstance(entry, str | os.PathLike) else entry


def _entries(entry: Any) -> list[Any]:
    """Return what is given for a kind as a list: one file or Dataset, or one for each detector, band ..."""
    return list(entry) if isinstance(entry, list | tuple) else [entry]


def _name(entry: Any) -> str:
    return str(entry.attrs.get("ref_id", "a Dataset")) if isinstance(entry, xr.Dataset) else str(entry)


def _given_facts(entry: Any, kind: str) -> ReferenceFacts:
    """Return the facts of a file or Dataset that is given for a kind; raise where it is none or of another kind."""
    if isinstance(entry, xr.Dataset):
        facts = dataset_facts(entry, kind)
    elif isinstance(entry, str | os.PathLike):
        facts = read_facts(entry)
    else:
        raise ReferenceFileError(f"the {kind} reference is a {type(entry).__name__}; expected a path or a Dataset")
    if facts.kind != kind:
        raise ReferenceFileError(f"{_name(entry)}: is a reference of kind {facts.kind}, expected {kind}")
    return facts


def _find_given(entry: Any, kind: str, exposure: Exposure) -> ReferenceFacts | xr.Dataset:
    """Return of the files or Datasets given for a kind that which fits an exposure best, the first of equals."""
    entries = _entries(entry)
    if not entries:
        raise ReferenceFileError(f"the list of {kind} references is empty; expected a path or a Dataset in it")
    fitting = [one for one in entries if not mismatches(_given_facts(one, kind), exposure, but=("ngroups",))]
    if not fitting:
        try:
            require_fit(_given_facts(entries[0], kind), kind, exposure)
        except ReferenceFileError as error:
            raise ReferenceMissingError(str(error)) if kind in BAND_KINDS else error from None
    best = max(fitting, key=lambda one: score(_given_facts(one, kind), exposure))
    if len(fitting) > 1:
        others = ", ".join(_name(one) for one in fitting if one is not best)
        tell(f"several {kind} references are given that fit {exposure.name}: {_name(best)} is taken, not {others}")
    return best if isinstance(best, xr.Dataset) else _given_facts(best, kind)


#: The crds package keeps what it has read in tables that all threads share.
_CRDS_LOCK = threading.RLock()
_asked_last: list[str | None] = []  # CRDS_PATH of the last question


def _require_crds_path(exposure: Exposure) -> None:
    if "CRDS_PATH" not in os.environ:
        raise ReferenceFileError(
            f"no reference files for {exposure.name}: CRDS is not set up; set CRDS_PATH to a cache folder and "
            "CRDS_SERVER_URL to https://jwst-crds.stsci.edu, or give a folder of reference files"
        )


def _crds(name: str) -> Any:
    """Return a function of the crds package, which is imported only here.

    The package remembers rules by name alone, of which two caches may have the same: it forgets them with CRDS_PATH.
    """
    os.environ.setdefault("CRDS_OBSERVATORY", "jwst")
    known = sys.modules.get("crds.core.utils")
    if known is not None and _asked_last[:] != [os.environ.get("CRDS_PATH")]:
        known.clear_function_caches()
    _asked_last[:] = [os.environ.get("CRDS_PATH")]
    try:
        import crds

        importlib.import_module("crds.jwst.locate")  # what the rules of JWST need, stdatamodels among it
    except ModuleNotFoundError as error:
        raise ReferenceFileError(
            f"CRDS cannot be used: the package '{error.name}' is missing; pip install 'mrsxr[crds]', or "
            "give a folder of reference files"
        ) from error
    return getattr(crds, name) if hasattr(crds, name) else getattr(crds.core.heavy_client, name)


def crds_parameters(exposure: Exposure, kind: str = "") -> dict[str, Any]:
    """Return the parameters that CRDS selects a kind by, under the names of the JWST data models."""
    if not exposure.date:
        raise ReferenceFileError(
            f"{exposure.name}: CRDS needs the date of the exposure, but DATE-OBS is missing from its header"
        )
    day, _, clock = exposure.date.partition("T")
    parameters: dict[str, Any] = {
        KEY_OF_FIELD[key].lower(): value for key, value in exposure.wanted(kind).items() if value
    }
    if "meta.exposure.ngroups" in parameters:
        parameters["meta.exposure.ngroups"] = int(parameters["meta.exposure.ngroups"])
    parameters |= {"meta.instrument.name": "MIRI", "meta.telescope": "JWST", "meta.observation.date": day,
                   "meta.observation.time": clock or "00:00:00"}  # fmt: skip
    return parameters
