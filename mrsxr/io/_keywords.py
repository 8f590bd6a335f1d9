"""FITS keywords that saving sets: step status, reference files and the facts of an exposure or product."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr import mrs
from mrsxr._version import __version__
from mrsxr.attributes import plain
from mrsxr.errors import MrsxrError
from mrsxr.geometry.footprint import SliceRanges, has_footprint, s_region
from mrsxr.notes import notes_of
from mrsxr.schema import ATTRIBUTES, DITHER_COORDS
from mrsxr.step import read_history

from ._meta import card_value, same
from ._names import bands_of, kind_of
from .headers import MAPS
from .keys import ATTR, KEYWORD

#: Keyword of each kind of reference file.
REFERENCE_KEYWORDS = {
    "mask": "R_MASK", "saturation": "R_SATURA", "linearity": "R_LINEAR", "dark": "R_DARK", "reset": "R_RESET",
    "gain": "R_GAIN", "readnoise": "R_READNO", "read_noise": "R_READNO", "rscd": "R_RSCD", "ipc": "R_IPC",
    "emicorr": "R_MIREMI", "flat": "R_FLAT", "fringe": "R_FRINGE", "fringefreq": "R_FRIFRQ",
    "photom": "R_PHOTOM", "area": "R_AREA", "distortion": "R_DISTOR", "specwcs": "R_SPCWCS",
    "regions": "R_REGION", "wavelengthrange": "R_WAVRAN", "cubepar": "R_CUBPAR", "extract1d": "R_EXTR1D",
    "apcorr": "R_APCORR", "mrsxartcorr": "R_MRSXAR", "mrsptcorr": "R_MRSPT", "pfpc": "R_PFPC", "psf": "R_PSF",
    "persat": "R_PERSAT", "trapdensity": "R_TRPDEN", "trappars": "R_TRPPAR",
}  # fmt: skip
#: Keywords of the steps of a level's own stage, SKIPPED where they were left out.
SKIPPED = {
    "rate": (
        "S_GRPSCL", "S_DQINIT", "S_MIREMI", "S_SATURA", "S_IPC", "S_FRSTFR", "S_LASTFR", "S_RESET", "S_LINEAR",
        "S_RSCD", "S_DARK", "S_REFPIX", "S_CHGMIG", "S_JUMP", "S_PERSIS", "S_GANSCL",
    ),
    "cal": ("S_BPXSLF", "S_BKDSUB", "S_SRCTYP", "S_STRAY", "S_FLAT", "S_FRINGE", "S_PHOTOM", "S_RESFRI"),
    "cube": ("S_MSBSUB", "S_OUTLIR", "S_MRSMAT", "S_PXREPL"),
}  # fmt: skip
MODELS = {
    "ramp": "RampModel", "rate": "IFUImageModel", "rateints": "CubeModel", "cal": "IFUImageModel",
    "cube": "IFUCubeModel", "spectrum": "MRSMultiSpecModel", **{level: model for level, (_, model, _) in MAPS.items()},
}  # fmt: skip
#: Attributes whose keywords have rules of their own.
_OWN_RULE = ("detector", "channels", "band", "n_integrations", "target", "program", "background")
#: Attributes that a product sets, and those that it sets where the header of its exposures says nothing.
_SET = (
    "target_ra", "target_dec", "source_type", "exposures_used", "exposures_planned",
    "scale_factor", "scale_factor_error", "scale_offset", "scale_offset_error",
)  # fmt: skip
_DEFAULT = ("detector", "readpatt", "subarray", "group_time", "frame_time", "n_groups", "n_integrations")
MJSR_TO_UJA2 = 1e12 / (180.0 / math.pi * 3600.0) ** 2  # MJy/sr in uJy/arcsec2
_CRDS_NAME = re.compile(r"jwst_miri_[a-z0-9-]+_\d{4,}\.(fits|asdf)")


class Keywords:
    """Keywords of PRIMARY and SCI in the making; remembers which ones were set."""

    def __init__(self, before: Mapping[str, Mapping[str, Any]]):
        self.before = {name: dict(before.get(name, {})) for name in ("PRIMARY", "SCI")}
        self.now = {name: dict(keywords) for name, keywords in self.before.items()}

    def set(self, key: str, value: Any, where: str = "PRIMARY", *, default: bool = False) -> None:
        """Set a keyword where it stands already, else in ``where``; None and NaN are left out."""
        value = plain(value)
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return
        place = next((name for name in (where, "PRIMARY", "SCI") if key in self.now[name]), where)
        if not (default and self.now[place].get(key) is not None):
            self.now[place][key] = value

    def take(self, attrs: Mapping[Any, Any], names: Sequence[str], *, default: bool = False) -> None:
        """Set the keywords of attributes."""
        for name in names:
            where, _, key = ATTRIBUTES[name].fits.partition("/")
            if key:
                self.set(key, attrs.get(name), where, default=default)

    def get(self, key: str) -> Any:
        """Return the value of a keyword, None where it is not there."""
        return next((found[key] for found in self.now.values() if key in found), None)

    def written(self) -> dict[str, dict[str, Any]]:
        """Return the keywords that differ from those before."""
        return {
            name: {
                key: value
                for key, value in keywords.items()
                if key not in self.before[name] or not same(value, self.before[name][key])
            }
            for name, keywords in self.now.items()
        }


def exposure_keywords(ds: xr.Dataset, filename: str, ranges: SliceRanges | None = None) -> Keywords:
    """Return the keywords of a Dataset of one dither: those it came with, brought up to date; see :func:`s_region`."""
    keywords = Keywords(json.loads(str(ds["fits_header"].values[0]) or "{}"))
    attrs, level = ds.attrs, ds.attrs["level"]
    _common(keywords, ds, filename, mrs.bands_of_setting(ds.attrs["setting"]))
    for key, value in mrs.setting_keywords(attrs["setting"]).items():
        keywords.set(key, value)
    keywords.take(attrs, [name for name in ATTRIBUTES if name not in _OWN_RULE])
    if level == "ramp":
        keywords.set("NGROUPS", ds.sizes["group"])
    _integrations(keywords, ds)
    for spec in DITHER_COORDS:
        where, _, key = spec.fits.partition("/")
        if key and spec.name in ds.coords:
            keywords.set(key, float(ds[spec.name].values[0]), where)
    if "photmjsr" in attrs:
        keywords.set("PHOTUJA2", float(attrs["photmjsr"]) * MJSR_TO_UJA2, "SCI")
    if level in ("rate", "cal"):
        _sky(keywords, ds, ranges)
    return keywords


def _integrations(keywords: Keywords, ds: xr.Dataset) -> None:
    """Set which integrations of the exposure are held: NINTS, and INTSTART and INTEND of a part of it."""
    attrs = ds.attrs
    if "integration" in ds.dims:
        numbers = ds["integration"].values if "integration" in ds.coords else 1 + np.arange(ds.sizes["integration"])
        first, last, n = int(numbers[0]), int(numbers[-1]), numbers.size
    elif "first_integration" in attrs:
        first, last, n = (int(attrs[key]) for key in ("first_integration", "last_integration", "n_integrations"))
    else:
        keywords.set("NINTS", attrs.get("n_integrations"), default=True)
        return
    total = keywords.get("NINTS")
    total = max(total if isinstance(total, int) else 0, last)
    if last - first + 1 != n:  # no row of integrations that keywords could name
        total, first, last = n, 1, n
    keywords.set("NINTS", total)
    if (first, last) != (1, total) or keywords.get("INTSTART") is not None:
        keywords.set("INTSTART", first)
        keywords.set("INTEND", last)


def _sky(keywords: Keywords, ds: xr.Dataset, ranges: SliceRanges | None) -> None:
    """Set what assign_wcs of jwst sets: axis of dispersion, frame of the wavelengths and, with a pointing, S_REGION."""
    if not {"slice", "alpha", "alpha_coefficients", "v2_coefficients"} <= set(ds.variables):
        return
    keywords.set("DISPAXIS", 2, "SCI")
    moves = "velosys" in ds.coords and bool(np.isfinite(ds["velosys"].values[0]))
    keywords.set("SPECSYS", "BARYCENT" if moves else "TOPOCENT", "SCI")  # without VELOSYS wavelengths stay as observed
    if has_footprint(ds):
        keywords.set("S_REGION", s_region(ds, ranges=ranges), "SCI")


def product_keywords(ds: xr.Dataset, filename: str) -> Keywords:
    """Return the keywords of a cube or spectrum, from the attribute ``fits_header`` where it has one."""
    keywords = Keywords(json.loads(str(ds.attrs.get("fits_header") or "{}")))
    bands = bands_of(ds)
    _common(keywords, ds, filename, bands)
    channels = "".join(sorted({band[0] for band in bands}))
    letters = {band[1] for band in bands}
    keywords.set("CHANNEL", channels or ds.attrs.get("channels"))
    if letters:
        keywords.set("BAND", mrs.GRATINGS[letters.pop()] if len(letters) == 1 else "MULTIPLE")
    keywords.set("PRODKIND", kind_of(ds) or None)
    keywords.take(ds.attrs, _SET)
    keywords.take(ds.attrs, _DEFAULT, default=True)
    return keywords


def _common(keywords: Keywords, ds: xr.Dataset, filename: str, bands: Sequence[str]) -> None:
    attrs = ds.attrs
    for key, value in (("TELESCOP", "JWST"), ("INSTRUME", "MIRI"), ("EXP_TYPE", "MIR_MRS")):
        keywords.set(key, value, default=True)
    keywords.set("FILENAME", filename)
    keywords.set("DATE", _now().isoformat(timespec="milliseconds").removesuffix("+00:00"))
    keywords.set(KEYWORD, attrs.get(ATTR))
    keywords.set("DATAMODL", MODELS[attrs["level"]])
    keywords.set("PROGRAM", attrs.get("program") or None, default=True)
    keywords.set("TARGNAME", attrs.get("target") or None, default=True)
    if bool(attrs.get("background", 0)) != bool(keywords.now["PRIMARY"].get("BKGDTARG", False)):
        keywords.set("BKGDTARG", bool(attrs["background"]))
    history = read_history(ds)
    if history:
        keywords.set("CAL_VER", f"mrsxr {__version__}")
    done = step_keywords(history, bands)
    for key, value in {**done, **reference_keywords(history)}.items():
        keywords.set(key, value)
    elsewhere = step_keywords(history)  # what was done to other bands of the exposures as well
    for key in SKIPPED.get(attrs["level"], ()) if history else ():
        if key not in done:
            keywords.set(key, "SKIPPED", default=key not in elsewhere)


def _now() -> datetime:
    """Return the time, or that of SOURCE_DATE_EPOCH [s], with which the same data give the same bytes."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        return datetime.fromtimestamp(int(fixed), UTC) if fixed else datetime.now(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise MrsxrError(f"SOURCE_DATE_EPOCH is '{fixed[:40]}'; expected seconds since 1970") from error


def step_keywords(history: list[dict[str, Any]], bands: Sequence[str] = ()) -> dict[str, str]:
    """Return ``{S_<STEP>: "COMPLETE"}`` for the steps of a history, "SKIPPED" for those that did nothing.

    "PARTIAL" where data were joined and not all had the step. Steps that were done to other bands alone are left out.
    """
    out: dict[str, str] = {}
    for entry in history:
        of = entry.get("params", {}).get("bands")
        if bands and isinstance(of, list) and not set(bands) & set(map(str, of)):
            continue
        inputs = [step_keywords(inner, bands) for inner in entry.get("inputs", {}).values()]
        for key in dict.fromkeys(key for one in inputs for key in one):
            states = {one.get(key, "") for one in inputs}
            if out.get(key) != "COMPLETE":
                out[key] = states.pop() if len(states) == 1 else "SKIPPED" if states == {"", "SKIPPED"} else "PARTIAL"
        own = entry.get("keyword")
        if own and out.get(own) != "COMPLETE":
            out[own] = "SKIPPED" if entry.get("skipped") else "COMPLETE"
    return out


def reference_keywords(history: list[dict[str, Any]]) -> dict[str, str]:
    """Return ``{R_<TYPE>: name}`` for the reference files of a history; names of CRDS get its prefix.

    "MULTIPLE" where data were joined that had different ones.
    """
    out: dict[str, str] = {}
    for entry in history:
        for one in map(reference_keywords, entry.get("inputs", {}).values()):
            for key, name in one.items():
                out[key] = name if out.get(key, name) == name else "MULTIPLE"
        for kind, name in entry.get("refs", {}).items() if not entry.get("skipped") else ():
            if kind in REFERENCE_KEYWORDS and str(name).endswith((".fits", ".asdf", ".fits.gz")):
                prefix = "crds://" if _CRDS_NAME.fullmatch(str(name)) else ""
                out[REFERENCE_KEYWORDS[kind]] = prefix + str(name)
    return out


def primary_hdu(keywords: Mapping[str, Any], ds: xr.Dataset) -> fits.PrimaryHDU:
    """Return a PRIMARY of keywords, with the notes of a Dataset as COMMENT cards."""
    primary = fits.PrimaryHDU()
    fill_header(primary.header, keywords)
    for text in notes_of(ds):
        primary.header["COMMENT"] = f"NOTE: {card_value(text)}"
    return primary


def fill_header(header: fits.Header, keywords: Mapping[str, Any]) -> None:
    """Put keywords into an astropy header; None becomes a card without value, long names HIERARCH cards."""
    for key, value in keywords.items():
        if isinstance(value, float) and not np.isfinite(value):
            continue
        header[key if len(key) <= 8 else f"HIERARCH {key}"] = card_value(value)
