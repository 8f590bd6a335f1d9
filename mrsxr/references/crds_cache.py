"""Lay a folder of reference files out as a CRDS cache that needs no network.

The cache holds one context (pmap), one instrument file (imap) and one rules file (rmap) a reference type, so
that ``crds.getreferences`` and whatever is built on it choose these files, and no others, by the header of an
exposure. All other reference types, the parameter files ("pars-...") among them, are declared not applicable.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mrsxr.errors import ReferenceFileError
from mrsxr.io.atomic import replacing, write_text
from mrsxr.notes import tell

from .headers import CRDS_KINDS, ReferenceFacts, scan

SERVER_URL = "https://jwst-serverless.stsci.edu"  # the crds client asks no server whose name says so
CONTEXT = "jwst_0001.pmap"
IMAP = "jwst_miri_0001.imap"
#: What the crds client would have kept from its last talk with a server.
_SERVER_CONFIG = {
    "observatory": "jwst", "operational_context": CONTEXT, "latest_context": CONTEXT,
    "force_remote_mode": False, "bad_files": "", "bad_files_list": [], "last_synced": "never",
    "status": "cache", "connected": False,
}  # fmt: skip
_CRDS_NAME = re.compile(r"jwst_miri_([a-z0-9]+)_(\d{4,})\.(fits|asdf)")
_RANGE = re.compile(r"([<>]=?)\s*([-+.\dE]+)")
_DATE = ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME")
KEY_OF_FIELD = {
    "detector": "META.INSTRUMENT.DETECTOR", "channel": "META.INSTRUMENT.CHANNEL",
    "band": "META.INSTRUMENT.BAND", "filter": "META.INSTRUMENT.FILTER", "exp_type": "META.EXPOSURE.TYPE",
    "readpatt": "META.EXPOSURE.READPATT", "subarray": "META.SUBARRAY.NAME", "ngroups": "META.EXPOSURE.NGROUPS",
}  # fmt: skip
#: Fields that choose between the files of a type: those of the template rules of crds and of the operational ones.
SELECTED_BY: dict[str, tuple[str, ...]] = {
    "mask": ("detector", "filter", "subarray", "readpatt", "ngroups"),
    "saturation": ("detector", "filter"), "ipc": ("detector", "subarray"),
    "rscd": ("detector",), "latent": ("detector",), "psf": ("detector", "band"),
    "pfpc": ("exp_type", "channel", "band"),
    "reset": ("detector", "readpatt", "subarray"),
    "dark": ("detector", "filter", "readpatt", "subarray"),
    "readnoise": ("detector", "filter", "readpatt", "subarray"),
    "linearity": ("detector", "subarray", "band", "filter"),
    "gain": ("detector", "filter", "band", "subarray"),
    "emicorr": ("exp_type",),
    "flat": ("detector", "filter", "band", "readpatt", "subarray"),
    "fringe": ("detector", "band"), "photom": ("detector", "filter", "band"),
    "fringefreq": ("exp_type", "detector"),
    "mrsxartcorr": ("exp_type",), "mrsptcorr": ("exp_type",), "cubepar": ("exp_type",),
    "extract1d": ("exp_type",), "apcorr": ("exp_type", "channel"), "wavelengthrange": ("exp_type",),
    "distortion": ("detector", "exp_type", "channel", "band"),
    "regions": ("detector", "exp_type", "channel", "band"),
    "specwcs": ("detector", "exp_type", "channel", "band", "subarray"),
}  # fmt: skip
#: Other types that a pipeline may ask for MIRI exposures, and the steps and pipelines with parameter files.
_OTHER_TYPES = """
    abvegaoffset all amplifier area barshadow bkg camera chromcorr collimator dflat disperser drizpars
    fflat filteroffset fore fpa ifufore ifupost ifuslicer lastframe msa msaoper nrm ote pastasoss
    pathloss persat pictureframe psf psfmask refpix resol sflat sirskernel speckernel specprofile
    straymask superbias throughput trapdensity trappars tsophot v2v3 wavecorr wcsregions
""".split()
_STEPS = """
    adaptivetracemodel alignrefs amianalyze amiaverage aminormalize assignmtwcs assignwcs background
    badpixselfcal barshadow chargemigration cleanflickernoise combine1d cubebuild cubeskymatch
    darkcurrent dqinit emicorr extract1d extract2d firstframe flatfield fringe gainscale groupscale
    guidercds hlsp imprint ipc jump klip lastframe linearity masterbackgroundmos masterbackgroundnrsslits
    masterbackground mrsimatch msaflagopen outlierdetectionscaled outlierdetectionstack outlierdetection
    pathloss persistence photom pictureframe pixelreplace rampfit refpix resamplespec resample reset
    residualfringe rscd saturation skymatch sourcecatalog sourcetype spectralleak stackrefs straylight
    subtractimages superbias targcentroid tsophotometry tweakreg undersamplecorrection wavecorr
    wfscombine wfsscontam whitelight
""".split()
_PIPELINES = "ami3 coron3 dark detector1 guider image2 image3 linear spec2 spec3 tso3".split()


def build_crds_cache(reference_folder: str | os.PathLike[str], cache_folder: str | os.PathLike[str]) -> dict[str, str]:
    """Lay the reference files of a folder out as an offline CRDS cache.

    Parameters
    ----------
    reference_folder : path-like
        Folder of MIRI MRS reference files, searched with its subfolders.
    cache_folder : path-like
        The cache to make; its rules are replaced where it exists.

    Returns
    -------
    dict
        The environment variables that select this cache: CRDS_PATH, CRDS_SERVER_URL, CRDS_CONTEXT,
        CRDS_OBSERVATORY. Set them before ``crds`` (or ``jwst``) is imported.

    Raises
    ------
    ReferenceFileError
        Where the folder does not exist or holds no reference file.

    Notes
    -----
    Files are hard-linked, or copied where the file system refuses links, so that the cache takes no more room
    on the disk. A file whose name is not of the form ``jwst_miri_<type>_<number>.<fits or asdf>`` gets such a
    name in the cache.

    Examples
    --------
    >>> variables = mx.references.build_crds_cache(refs_folder, "crds")
    >>> sorted(variables)
    ['CRDS_CONTEXT', 'CRDS_OBSERVATORY', 'CRDS_PATH', 'CRDS_SERVER_URL']
    """
    scanned, damaged = scan(reference_folder)
    for one in damaged:
        tell(f"{one.reason}; it is left out of the CRDS cache")
    facts = [item for item in scanned if item.kind in CRDS_KINDS]
    if not facts:
        raise ReferenceFileError(
            f"{reference_folder}: found no MIRI MRS reference file (FITS, ASDF with REFTYPE) to lay out"
        )
    cache = Path(cache_folder).absolute()
    mappings = cache / "mappings" / "jwst"
    store = cache / "references" / "jwst" / "miri"
    config = cache / "config" / "jwst"
    for folder in (mappings, store, config):
        folder.mkdir(parents=True, exist_ok=True)
    for old in mappings.glob("jwst_*map"):
        old.unlink()
    write_text(config / "ref_cache_subdir_mode", "instrument", sync=False)
    write_text(config / "server_config", repr(_SERVER_CONFIG), sync=False)
    names = _crds_names(facts)
    for item in facts:
        _link(item.path, store / names[item.path])
    selections = dict.fromkeys(_all_types(), "N/A")
    for kind in sorted({item.kind for item in facts}):
        name = f"jwst_miri_{kind}_0001.rmap"
        write_text(mappings / name, _rmap(name, kind, [item for item in facts if item.kind == kind], names), sync=False)
        selections[kind] = name
    write_text(mappings / IMAP, _mapping(IMAP, "INSTRUMENT", "REFTYPE", selections, instrument="MIRI"), sync=False)
    write_text(mappings / CONTEXT, _mapping(CONTEXT, "PIPELINE", "META.INSTRUMENT.NAME", {"MIRI": IMAP}), sync=False)
    return {"CRDS_PATH": str(cache), "CRDS_SERVER_URL": SERVER_URL, "CRDS_CONTEXT": CONTEXT, "CRDS_OBSERVATORY": "jwst"}


def _all_types() -> list[str]:
    """Return every reference type that may be asked for a MIRI exposure."""
    pars = [f"pars-{name}step" for name in _STEPS] + [f"pars-{name}pipeline" for name in _PIPELINES]
    return sorted({*CRDS_KINDS, *_OTHER_TYPES, *pars})


def _crds_names(facts: Iterable[ReferenceFacts]) -> dict[Path, str]:
    """Return a unique CRDS file name for each file; those that have one keep it."""
    facts = list(facts)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for item in facts:
        match = _CRDS_NAME.fullmatch(item.path.name)
        if match and match[1] == item.kind and item.path.name not in taken:
            names[item.path] = item.path.name
            taken.add(item.path.name)
    for item in facts:
        number = 1
        suffix = "asdf" if item.path.suffix == ".asdf" else "fits"
        while item.path not in names:
            name = f"jwst_miri_{item.kind}_{number:04d}.{suffix}"
            if name not in taken:
                names[item.path] = name
                taken.add(name)
            number += 1
    return names


def _link(source: Path, target: Path) -> None:
    with replacing(target, sync=False) as part:
        try:
            os.link(source.resolve(), part)
        except OSError:
            shutil.copyfile(source, part)


def in_range(stated: str, value: str) -> bool:
    """Return whether a number lies in a range as reference files and rules state it: "<50", "between 10 50", "50".

    As crds reads them: ``between`` holds its lower and not its upper end, ``#>=10 and <50#`` joins two ranges.
    """
    text = stated.strip().strip("#").strip().upper()
    try:
        number = float(value)
        if " AND " in text:
            return all(in_range(part, value) for part in text.split(" AND "))
        if " OR " in text:
            return any(in_range(part, value) for part in text.split(" OR "))
        if text.startswith("BETWEEN"):
            low, high = map(float, text.split()[1:])
            return low <= number < high
        match = _RANGE.fullmatch(text)
        if match is None:
            return number == float(text)
        sign, limit = match[1], float(match[2])
    except ValueError:
        return False
    return {"<": number < limit, "<=": number <= limit, ">": number > limit, ">=": number >= limit}[sign]


def _rmap(name: str, kind: str, facts: list[ReferenceFacts], names: dict[Path, str]) -> str:
    """Return the text of the rules of one type: which file for which exposure from which date on."""
    fields = SELECTED_BY[kind]
    rules: dict[tuple[str, ...], dict[str, str]] = {}
    for item in sorted(facts, key=lambda item: names[item.path]):
        ranges = item.fields.get("ngroups", ()) if "ngroups" in fields else ()  # crds knows no "or" of ranges
        for one in ranges or ("N/A",):
            stated = {**item.fields, "ngroups": (one,)}
            key = tuple("|".join(stated.get(field, ())) or "N/A" for field in fields)
            rules.setdefault(key, {})[iso_date(item.useafter or "1900-01-01").replace("T", " ")] = names[item.path]
    lines = ["selector = Match({"]
    for key, dates in sorted(rules.items()):
        lines.append(f"    {key!r} : UseAfter({{")
        lines += [f"        {date!r} : {file!r}," for date, file in sorted(dates.items())]
        lines.append("    }),")
    lines.append("})")
    keys = tuple(KEY_OF_FIELD[field] for field in fields)
    header = {
        "classes": ("Match", "UseAfter"), "derived_from": "made by mrsxr", "filekind": kind.upper(),
        "instrument": "MIRI", "mapping": "REFERENCE", "name": name, "observatory": "JWST",
        "parkey": (keys, _DATE), "sha1sum": "",
    }  # fmt: skip
    return _signed(header, "\n".join(lines))


def _mapping(name: str, mapping: str, parkey: str, selections: dict[str, str], **more: str) -> str:
    """Return the text of a pmap or imap."""
    header = {
        "derived_from": "made by mrsxr", **more, "mapping": mapping, "name": name, "observatory": "JWST",
        "parkey": (parkey,), "sha1sum": "",
    }  # fmt: skip
    lines = ["selector = {", *(f"    {key!r} : {value!r}," for key, value in sorted(selections.items())), "}"]
    return _signed(header, "\n".join(lines))


def _signed(header: dict[str, Any], selector: str) -> str:
    """Return a mapping file with the checksum of its text (without the line of the checksum)."""
    lines = ["header = {", *(f"    {key!r} : {value!r}," for key, value in header.items()), "}", "", selector, ""]
    text = "\n".join(line for line in lines if "sha1sum" not in line)
    checksum = hashlib.sha1(text.encode()).hexdigest()
    return "\n".join(f"    'sha1sum' : {checksum!r}," if "sha1sum" in line else line for line in lines)


def iso_date(useafter: str) -> str:
    """Return a USEAFTER as "YYYY-MM-DDTHH:MM:SS", which sorts by time."""
    day, _, clock = useafter.strip().replace("T", " ").partition(" ")
    return f"{day[:10]}T{clock.split('.')[0] or '00:00:00'}"
