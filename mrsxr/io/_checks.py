"""What the keywords of an exposure or product may hold: types, ranges, and what contradicts what."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrsxr import mrs
from mrsxr.errors import InputFileError

#: Range of numbers; where it is one of integers they are such.
_RANGES: dict[str, tuple[float, float]] = {
    "NGROUPS": (1, 100_000), "NINTS": (1, 1_000_000), "PATT_NUM": (0, 10_000), "NUMDTHPT": (0, 10_000),
    "SUBSTRT1": (1, 1032), "SUBSTRT2": (1, 1024), "SUBSIZE1": (1, 1032), "SUBSIZE2": (1, 1024),
    "INTSTART": (1, 1_000_000), "INTEND": (1, 1_000_000),
    "TGROUP": (1e-3, 1e5), "TFRAME": (1e-3, 1e5), "EFFEXPTM": (0.0, 1e8), "DURATION": (0.0, 1e8),
    "EXPSTART": (4e4, 1.2e5), "EXPMID": (4e4, 1.2e5), "EXPEND": (4e4, 1.2e5),
    "RA_REF": (-360.0, 360.0), "DEC_REF": (-90.0, 90.0), "TARG_RA": (-360.0, 360.0), "TARG_DEC": (-90.0, 90.0),
    "ROLL_REF": (-720.0, 720.0), "V2_REF": (-3600.0, 3600.0), "V3_REF": (-3600.0, 3600.0),
    "CRVAL1": (-360.0, 720.0), "CRVAL2": (-90.0, 90.0), "CDELT1": (-1.0, 1.0), "CDELT2": (-1.0, 1.0),
    "VA_SCALE": (0.99, 1.01), "VELOSYS": (-1e6, 1e6),
}  # fmt: skip
_TEXTS = ("DETECTOR", "BAND", "READPATT", "SUBARRAY", "EXP_TYPE", "INSTRUME")
_FORMS = {
    "DATE-OBS": (r"\d{4}-[01]\d-[0-3]\d([T ].*)?", "a date such as 2022-07-04"),
    "TIME-OBS": (r"[0-2]\d:[0-5]\d:[0-6]\d(\.\d*)?", "a time such as 04:22:23.836"),
}


def check_keywords(path: str | Path, *headers: Mapping[str, Any]) -> None:
    """Raise InputFileError naming the first keyword whose value cannot be.

    Parameters
    ----------
    path : path
    *headers : mapping
        PRIMARY and SCI keywords; a keyword that is missing or without value passes.
    """
    for header in headers:
        for key in (*_RANGES, *_TEXTS, *_FORMS):
            value = header.get(key)
            wrong = None if value is None else _expected(key, value)
            if wrong:
                raise InputFileError(f"{path}: the keyword {key} is {_shown(value)}, expected {wrong}")


def _expected(key: str, value: Any) -> str | None:
    """Return what a keyword should be where it is not."""
    if key in _RANGES:
        low, high = _RANGES[key]
        whole = isinstance(low, int)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not low <= value <= high or (whole and value != int(value)):
            return f"{'an integer' if whole else 'a number'} of {low:g} to {high:g}"
        return None
    if not isinstance(value, str):
        return "a text"
    form, told = _FORMS.get(key, ("", ""))
    return told if form and not re.fullmatch(form, value.strip()) else None


def check_channel(path: str | Path, setting: str, primary: Mapping[str, Any]) -> None:
    """Raise InputFileError where CHANNEL of an exposure contradicts its DETECTOR."""
    channel = str(primary.get("CHANNEL") or "").strip()
    if channel.isdigit() and channel != setting[:2]:
        raise InputFileError(
            f"{path}: the keyword CHANNEL is {channel}, but DETECTOR is {primary.get('DETECTOR')}, which has "
            f"{setting[:2]}; one of the two is wrong"
        )


def check_wavelengths(path: str | Path, band: str, first: float, last: float) -> None:
    """Raise InputFileError where the wavelengths [um] of a product are not of its band."""
    if band not in mrs.WAVELENGTH_LIMITS:
        return
    low, high = mrs.WAVELENGTH_LIMITS[band]
    if max(first, last) < 0.9 * low or min(first, last) > 1.1 * high:
        raise InputFileError(
            f"{path}: CHANNEL and BAND say {band} ({low} to {high} um), but the wavelengths are "
            f"{first:.3f} to {last:.3f} um"
        )


def scale_of(path: str | Path, name: str, header: Mapping[str, Any]) -> tuple[int, float, float]:
    """Return BITPIX, BSCALE and BZERO of an image; raise InputFileError where they make no numbers."""
    scale, zero = header.get("BSCALE", 1), header.get("BZERO", 0)
    for key, value in (("BSCALE", scale), ("BZERO", zero)):
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (key == "BSCALE" and value == 0):
            raise InputFileError(f"{path}: {key} of {name} is {_shown(value)}, expected a finite number, BSCALE not 0")
    if "BLANK" in header and int(header["BITPIX"]) > 0:
        raise InputFileError(
            f"{path}: {name} holds integers with BLANK ({_shown(header['BLANK'])}), which no JWST product has; "
            "it was made by another program or is damaged"
        )
    return int(header["BITPIX"]), scale, zero


def _shown(value: Any) -> str:
    return (repr(value) if isinstance(value, str) else str(value))[:60]
