"""Names of products: they say what a product is, so that no two of a reduction share one.

jwst's names where it has one: an exposure, or the program, observation and target; channels and gratings. What jwst has
no name for is said by a further word: a channel or multi cube of one band, the background, stitched bands, the way of
extraction that the header does not ask for, a line, a cube brought to another grid or PSF.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.arguments import reads
from mrsxr.errors import MrsxrError
from mrsxr.inputs import other_units

#: Levels whose products are named by bands; others hold exposures of a setting.
_OF_EXPOSURES = ("ramp", "rate", "rateints", "cal")
_EXPOSURE = re.compile(r"jw(\d{5})(\d{3})\d{3}_")
_ODD = re.compile(r"[^A-Za-z0-9._+-]+")
_LONGEST = 200  # most file systems take 255 bytes; temporary names are longer
_MOST_LINES = 3  # named one by one


@reads()
def product_name(ds: xr.Dataset) -> str:
    """Return the name of a product without suffix, ``jw02732-o004_ngc-7319_miri_ch1-short``.

    Parameters
    ----------
    ds : Dataset
        The attribute ``product_name`` (of an association) replaces the part before ``_ch``; program, observation and
        target come from attrs and exposure names. Data of one exposure have its name,
        ``jw02732004001_02101_00001_mirifushort_ch1-short``.

    Returns
    -------
    str
    """
    parts = [root_name(ds), _content(ds), *_words(ds)]
    return safe_name("_".join(part for part in parts if part))


def root_name(ds: xr.Dataset) -> str:
    """Return the part of the name of a product that tells the exposure, or the observation and target."""
    if given := str(ds.attrs.get("product_name") or ""):
        return given
    exposures = exposures_of(ds)
    if len(exposures) == 1 and exposures[0]:
        return exposures[0]
    target = _slug(str(ds.attrs.get("target") or "")) or "target"
    return f"{_observations(exposures, str(ds.attrs.get('program') or ''))}_{target}_miri"


def bands_of(ds: xr.Dataset) -> list[str]:
    """Return the bands of a cube or spectrum in MRS order, from ``attrs`` or the coordinate ``band``."""
    found = set(ds.attrs.get("bands") or str(ds.attrs.get("band") or "").replace(",", " ").split())
    if "band" in ds.variables and not found & set(mrs.BANDS):
        found = {str(name) for name in np.unique(ds["band"].values.astype(str))}
    return [band for band in mrs.BANDS if band in found]


def exposures_of(ds: xr.Dataset) -> list[str]:
    """Return the names of the exposures that a Dataset holds or was made of, as far as they are known."""
    if "exposure" in ds.coords:
        return [str(name) for name in np.atleast_1d(ds["exposure"].values)]
    return list(ds.attrs.get("exposures") or ())


def kind_of(ds: xr.Dataset) -> str:
    """Return what a product of bands is: "band", "channel", "multi" or "stitched"; "" where it is not known."""
    return "stitched" if "stitch_method" in ds.attrs else str(ds.attrs.get("cube_type") or "")


def _observations(exposures: list[str], program: str) -> str:
    """Return ``jw02732-o004``, with all programs and observations that went in."""
    found: dict[str, dict[str, None]] = {}
    for match in filter(None, map(_EXPOSURE.match, exposures)):
        found.setdefault(match[1], {})[f"o{match[2]}"] = None
    if not found:
        return f"jw{program.zfill(5)}"
    return "-".join("-".join([f"jw{one}", *sorted(observations)]) for one, observations in sorted(found.items()))


def _content(ds: xr.Dataset) -> str:
    """Return the part of the name that tells setting, or channels and gratings."""
    if ds.attrs.get("level") in _OF_EXPOSURES and "setting" in ds.attrs:
        return "" if len(exposures_of(ds)) == 1 else str(ds.attrs["setting"]).lower()
    bands = bands_of(ds)
    if not bands:
        return f"ch{'-'.join(str(ds.attrs.get('channels') or 'x'))}"
    channels, letters = (sorted({band[i] for band in bands}) for i in (0, 1))
    if len(bands) < len(channels) * len(letters):  # jwst's name would be that of all of them
        return f"ch{'-'.join(band.lower() for band in bands)}"
    return f"ch{'-'.join(channels)}-{''.join(mrs.GRATINGS[letter].lower() for letter in letters)}"


def _words(ds: xr.Dataset) -> list[str]:
    """Return what else is to be said of a product."""
    level, kind = ds.attrs.get("level"), kind_of(ds)
    out = []
    channels = {band[0] for band in bands_of(ds)}
    if kind in ("channel", "multi") and (len(bands_of(ds)) == 1 or (kind == "multi" and len(channels) == 1)):
        out.append(kind)
    if ds.attrs.get("background") and level not in _OF_EXPOSURES:
        out.append("background")
    if level not in _OF_EXPOSURES:
        out += str(ds.attrs.get("variant", "")).split()
    if kind == "stitched":
        out.append("stitched")
    if other := other_units(ds):
        out.append(_slug(f"in {other[1]}"))
    if level == "spectrum" and not ds.attrs.get("background"):
        out += _other_branch(ds)
    return out + _lines(ds)


def _other_branch(ds: xr.Dataset) -> list[str]:
    """Return the type of a spectrum where it is not the one that the header asks for, by which jwst extracts."""
    taken, asked = (str(ds.attrs.get(name) or "").upper() for name in ("source_type", "source_type_header"))
    if not asked or taken not in ("POINT", "EXTENDED"):
        return []
    return [] if taken == (asked if asked == "POINT" else "EXTENDED") else [taken.lower()]


def _lines(ds: xr.Dataset) -> list[str]:
    """Return which lines fits or maps are of, and whether they are maps."""
    labels = [str(name) for name in np.atleast_1d(ds["line"].values)] if "line" in ds.coords else []
    if ds.attrs.get("numerator"):
        labels = [f"{ds.attrs['numerator']} to {ds.attrs.get('denominator', '')}"]
    if len(labels) > _MOST_LINES:
        labels = [f"{len(labels)} lines {labels[0]} to {labels[-1]}"]
    words = ["-".join(filter(None, map(_slug, labels)))]
    if ds.attrs.get("level") in ("lines", "excitation") and {"y", "x"} <= set(ds.dims):
        words.append("maps")
    return [word for word in words if word]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def safe_name(text: str) -> str:
    """Return a text as a part of a file name: letters, digits and ``._+-``, no leading dot; "unnamed" of nothing.

    Examples
    --------
    >>> safe_name("jw02732004001_02101_00001_mirifushort")
    'jw02732004001_02101_00001_mirifushort'
    >>> safe_name("/../../etc/NGC 7319")
    'etc-NGC-7319'
    """
    return _ODD.sub("-", text).lstrip(".-") or "unnamed"


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file of a product in a folder; raise MrsxrError where its name is no name of a file."""
    if name != safe_name(name) or len(name) > _LONGEST:
        raise MrsxrError(
            f"'{name[:80]}' ({len(name)} characters) cannot be the name of a product; expected up to {_LONGEST} of "
            "letters, digits and ._+-; give save() a file name"
        )
    return folder / name
