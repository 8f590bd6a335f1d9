"""Readers of what people write: numbers with units, places on the sky, bands, types of sources."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

import astropy.units as u
import numpy as np

from mrsxr.errors import MrsxrError
from mrsxr.mrs import BANDS, GRATINGS

Reader = Callable[[Any, str], Any]
#: Redshifts beyond these are velocities, or typing errors.
LEAST_REDSHIFT, LARGEST_REDSHIFT = -0.1, 30.0
SOURCE_TYPES = ("POINT", "EXTENDED")


# --- numbers with units ----------------------------------------------------------------------------------------------


def as_number(value: Any, unit: Any, what: str, equivalencies: Any = ()) -> float:
    """Return a number in a unit of a number (in that unit), a Quantity or a text such as "1.5 arcsec"."""
    expected = f"expected a number of {unit}, or a Quantity that is one"
    value = _in_unit(value, unit, what, expected, equivalencies)
    try:
        plain = np.asarray(value)
        number = float(plain) if plain.size == 1 and plain.dtype.kind in "iuf" else np.nan
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise MrsxrError(f"{what} is {_shown(value)}; {expected}")
    return number


def as_numbers(value: Any, unit: Any, what: str, equivalencies: Any = (), *, least: float = -np.inf) -> np.ndarray:
    """Return float64 numbers in a unit of one or several (in that unit), or of a Quantity; NaN stays.

    Raises
    ------
    MrsxrError
        Where they are none, or one is below ``least``.
    """
    of_least = f" of at least {least:g}" if np.isfinite(least) else ""
    expected = f"expected numbers{of_least}{f' [{unit}]' if str(unit) else ''}, or a Quantity of them"
    if isinstance(value, list | tuple) and any(isinstance(one, u.Quantity) for one in value):
        value = [as_number(one, unit, what, equivalencies) for one in value]
    value = _in_unit(value, unit, what, expected, equivalencies)
    try:
        plain = np.asarray(value)
    except ValueError:  # rows of different lengths
        plain = np.array(None)
    if plain.dtype.kind not in "iuf" or not plain.size or (plain < least).any():
        raise MrsxrError(f"{what} is {_shown(value)}; {expected}")
    return plain.astype(float)


def _in_unit(value: Any, unit: Any, what: str, expected: str, equivalencies: Any) -> Any:
    """Return the value of a Quantity, or of a text that says one, in a unit; all else as it is."""
    if isinstance(value, str):
        value = _quantity_of(value, what, expected)
    if isinstance(value, u.Quantity):
        try:
            return value.to_value(unit, equivalencies=equivalencies)
        except u.UnitsError as error:
            raise MrsxrError(f"{what} is {_shown(value)}; {expected}") from error
    return value


def _quantity_of(text: str, what: str, expected: str) -> Any:
    """Return the number or Quantity that a text says; quotes and accents are arcseconds and arcminutes."""
    plain = text.strip().replace("µm", "um").replace("μm", "um").replace("Å", "AA").replace("Å", "AA")
    plain = re.sub(r"\s*(''|\"|″)$", " arcsec", plain)
    plain = re.sub(r"\s*('|′)$", " arcmin", plain)
    try:
        return float(plain)
    except ValueError:
        pass
    try:
        return u.Quantity(plain)
    except (TypeError, ValueError) as error:
        raise MrsxrError(f"{what} is '{text}'; {expected}") from error


def _is_one(value: Any) -> bool:
    """Return whether a value is a number, a Quantity or a text, and no sequence of them."""
    return isinstance(value, str) or not np.iterable(value)


def _reader(unit: Any, noun: str, equivalencies: Any = ()) -> Reader:
    """Return the reader of numbers in a unit, of Quantities and of texts such as "0.01 deg"; None stays None."""

    def read(value: Any, what: str = noun) -> Any:
        return None if value is None else as_number(value, unit, what, equivalencies)

    return read


as_arcsec, as_deg = _reader(u.arcsec, "angle"), _reader(u.deg, "angle")
as_arcsec2 = _reader(u.arcsec**2, "area")
as_um = _reader(u.um, "wavelength", u.spectral())  # also of a frequency, a wavenumber or an energy
as_um_width = _reader(u.um, "wavelength step")
as_kms = _reader(u.km / u.s, "velocity")


def _pair(value: Any, what: str, one: Callable[[Any, str], float], expected: str) -> tuple[float, float]:
    """Return (low, high) of a pair in either order, of an array of two or a slice."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[,;\s]+|(?<=\d)\s*[-–]\s*(?=\d)", value.strip("()[] ")) if part]
    try:
        low, high = {} if isinstance(value, Mapping) else value
    except (TypeError, ValueError) as error:
        raise MrsxrError(f"{what} is {_shown(value)}; expected {expected}") from error
    low, high = sorted((one(low, what), one(high, what)))
    if not low < high:
        raise MrsxrError(f"{what} is from {low:g} to {high:g}; expected {expected} of some width")
    return low, high


def as_um_range(value: Any, what: str = "wavelength range") -> Any:
    """Return wavelengths (low, high) [um] of a pair in either order: numbers, Quantities, a slice, "12.7 12.9"."""
    if isinstance(value, slice):  # may be open
        low, high = (None if end is None else as_um(end, what) for end in (value.start, value.stop))
        value = (0.0 if low is None else low, 1e6 if high is None else high)
    return None if value is None else _pair(value, what, as_um, "two wavelengths in um")


def as_um_zoom(value: Any, what: str = "zoom") -> Any:
    """Return wavelengths (low, high) [um] as :func:`as_um_range` does; the name of a line stays what it is."""
    return value if isinstance(value, str) and re.match(r"\s*\[?[A-Za-z]", value) else as_um_range(value, what)


def as_um_place(value: Any, what: str = "wavelength") -> Any:
    """Return one wavelength [um], or (low, high) of a pair or a slice."""
    if isinstance(value, slice) and value.start is None and value.stop is None:
        return None
    if isinstance(value, slice) or not _is_one(value):
        return as_um_range(value, what)
    return as_um(value, what)


def as_um_ranges(value: Any, what: str = "wavelength ranges") -> Any:
    """Return pairs (low, high) [um] of a sequence of ranges, or of a single one."""
    if value is None:
        return None
    try:
        items = list(value) if not isinstance(value, str | Mapping) else [value]
    except TypeError as error:
        raise MrsxrError(f"{what} is {_shown(value)}; expected pairs of wavelengths in um") from error
    single = len(items) == 2 and all(_is_one(item) for item in items)
    return [as_um_range(item, what) for item in ([value] if single else items)]


def as_kms_extent(value: Any, what: str = "extent") -> Any:
    """Return velocities [km/s]: a half width, or (low, high) of a pair in either order."""
    if value is None or (_is_one(value) and not isinstance(value, slice)):
        return as_kms(value, what)
    if isinstance(value, list | tuple | np.ndarray) and len(value) == 1:
        return as_kms(value[0], what)
    return _pair(value, what, as_kms, "a half width, or two velocities in km/s")


def as_kms_list(value: Any, what: str = "velocities") -> Any:
    """Return velocities [km/s] of a sequence of numbers or Quantities; falling ones are turned round."""
    if value is None:
        return None
    if np.ndim(value) != 1:
        raise MrsxrError(f"{what} is {value!r}; expected several numbers of km/s, or a Quantity of them")
    found = [as_kms(item, what) for item in value]
    return found[::-1] if len(found) > 1 and all(b < a for a, b in pairwise(found)) else found


def _velocity_of(text: str) -> Any:
    """Return the Quantity that a text with the unit of a velocity says, other texts as they are."""
    try:
        found = u.Quantity(text)
    except (TypeError, ValueError):
        return text
    return found if found.unit.is_equivalent(u.km / u.s) else text


def as_redshift(value: Any, what: str = "redshift") -> Any:
    """Return a redshift, also of "z = 0.02"; a velocity, or a number that must be one, is refused with its redshift."""
    if value is None:
        return None
    if isinstance(value, str):
        value = _velocity_of(re.sub(r"^\s*(c?z|v)\s*=\s*", "", value))
    if isinstance(value, u.Quantity) and value.isscalar and value.unit.is_equivalent(u.km / u.s):
        z = value.to_value(u.km / u.s) / 299792.458
        raise MrsxrError(f"{what} is {value}, a velocity; expected a number, cz = {value} is z = {z:.6g}")
    of_redshift = isinstance(value, u.Quantity) and str(value.unit) == "redshift"
    try:
        number = float(value.value) if of_redshift else as_number(value, u.dimensionless_unscaled, what)
    except MrsxrError as error:
        raise MrsxrError(f"{what} is {_shown(value)}; expected a number above -1, such as 0.0225") from error
    if not number > -1.0:
        raise MrsxrError(f"{what} is {number:g}; expected a number above -1")
    if not LEAST_REDSHIFT <= number <= LARGEST_REDSHIFT:
        raise MrsxrError(
            f"{what} is {number:g}; expected a number between {LEAST_REDSHIFT} and {LARGEST_REDSHIFT:g}"
            + (f", cz = {number:g} km/s is z = {number / 299792.458:.6g}" if abs(number) > LARGEST_REDSHIFT else "")
        )
    return number


# --- places ----------------------------------------------------------------------------------------------------------


def as_sky(value: Any, what: str = "center") -> Any:
    """Return right ascension and declination [deg, ICRS] of a place.

    Parameters
    ----------
    value : SkyCoord, str, pair, or None
        A SkyCoord of any frame; text as "22h36m03.6s +33d58m33s", "22:36:03.6 +33:58:33" or "339.015 33.976" [deg]; two
        numbers [deg], Quantities, angles or texts, one each.
    what : str
        The argument, for messages.

    Returns
    -------
    (float, float) or None

    Raises
    ------
    MrsxrError
        Where it is no place on the sky; where the two seem to be swapped it says so.
    """
    if value is None:
        return None
    if hasattr(value, "transform_to"):
        parts: list[Any] = _of_coordinates(value, what)
    elif isinstance(value, str):
        parts = _split_place(value)
    else:
        try:
            parts = list(value)
        except TypeError:
            parts = []
    if len(parts) != 2:
        raise MrsxrError(
            f"{what} is {_shown(value)}; expected right ascension and declination in deg, a SkyCoord or text such as "
            "'22h36m03.6s +33d58m33s' (names of targets are not looked up)"
        )
    ra, dec = _angle(parts[0], f"right ascension of {what}", True), _angle(parts[1], f"declination of {what}", False)
    if not -90.0 <= dec <= 90.0:
        swapped = "; are right ascension and declination swapped?" if -90.0 <= ra <= 90.0 else ""
        raise MrsxrError(f"{what} has the declination {dec:g} deg; expected -90 to 90{swapped}")
    if not -360.0 <= ra <= 360.0:
        raise MrsxrError(f"{what} has the right ascension {ra:g} deg; expected 0 to 360")
    return ra % 360.0, dec


def as_places(value: Any, what: str = "places") -> Any:
    """Return right ascension and declination [deg, ICRS] of several places: a SkyCoord, or a sequence of places."""
    if value is None:
        return None
    if isinstance(value, str) or (not hasattr(value, "transform_to") and not isinstance(value, Iterable)):
        raise MrsxrError(f"{what} is {_shown(value)}; expected a list of places, each (RA, Dec) in deg")
    if getattr(value, "isscalar", False):
        return [as_sky(value, what)]
    places = list(value)
    if any(isinstance(one, int | float) for one in places):
        raise MrsxrError(f"{what} is {_shown(value)}, one place; expected a list of places, [(RA, Dec), ...] in deg")
    return [as_sky(one, what) for one in places]


def _of_coordinates(value: Any, what: str) -> list[float]:
    from astropy.coordinates import SkyCoord

    try:
        place = SkyCoord(value).icrs
    except Exception as error:  # what astropy raises differs by frame
        raise MrsxrError(f"{what} is {_shown(value)}; it cannot be brought to ICRS ({_first_line(error)})") from error
    if place.size != 1:
        raise MrsxrError(f"{what} holds {place.size} places; expected one")
    return [float(np.ravel(place.ra.deg)[0]), float(np.ravel(place.dec.deg)[0])]


def _split_place(text: str) -> list[str]:
    """Return the two parts of a place in words; of one that cannot be split, what there is."""
    plain = text.strip().strip("()[]").replace(",", " ").replace("−", "-")
    plain = re.sub(r"(?<=[\dsm\"″'′])([+-])", r" \1", plain)
    words = plain.split()
    half = next((i for i, word in enumerate(words) if i and word[0] in "+-"), None)
    half = half if half is not None else len(words) // 2 if len(words) in (2, 4, 6) else None
    return [plain] if half is None else [" ".join(words[:half]), " ".join(words[half:])]


def _angle(value: Any, what: str, of_ra: bool) -> float:
    """Return one angle [deg]; text with colons or spaces is in hours of a right ascension, else in degrees."""
    if not isinstance(value, str):
        return as_number(value, u.deg, what)
    from astropy.coordinates import Angle

    text = value.strip()
    expected = "expected degrees, or text such as " + ("'22h36m03.6s'" if of_ra else "'+33d58m33s'")
    try:
        return float(text)
    except ValueError:
        pass
    if not re.match(r"[+-]?\s*\.?\d", text):
        raise MrsxrError(f"{what} is '{value}'; {expected}")
    try:
        angle = Angle(text, unit=u.hourangle if of_ra and not re.search(r"[a-zA-Z°]", text) else u.deg)
    except (ValueError, TypeError, u.UnitsError) as error:
        raise MrsxrError(f"{what} is '{value}'; {expected} ({_first_line(error)})") from error
    return float(angle.deg)


def as_circle(value: Any, what: str = "aperture") -> Any:
    """Return (ra, dec, radius) [deg, deg, arcsec] of a circle: three values, a place and a radius, a place, a region.

    The radius is None where there is none.
    """
    if value is None:
        return None
    if hasattr(value, "center") and hasattr(value, "radius"):
        return *as_sky(value.center, what), as_arcsec(value.radius, what)
    one = hasattr(value, "transform_to") or isinstance(value, str)
    parts = [value] if one else list(value) if np.iterable(value) else []
    place, radius = (parts[:1], parts[1:]) if parts and not _is_number(parts[0]) else (parts[:2], parts[2:])
    if len(radius) > 1 or not place:
        raise MrsxrError(f"{what} is {_shown(value)}; expected right ascension, declination in deg, radius in arcsec")
    size = radius[0] if radius else None
    open_ended = size is None or (isinstance(size, float) and not np.isfinite(size))
    return *as_sky(place[0] if len(place) == 1 else place, what), None if open_ended else as_arcsec(size, what)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) or (isinstance(value, u.Quantity) and value.isscalar)


# --- words -----------------------------------------------------------------------------------------------------------


def as_source_type(value: Any, what: str = "source_type", others: Iterable[str] = ()) -> Any:
    """Return "POINT" or "EXTENDED" (or one of other words) of a text in any case of letters."""
    if value is None:
        return None
    known = {word.lower(): word for word in (*SOURCE_TYPES, *others)}
    found = known.get(str(value).strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise MrsxrError(f"{what} is {_shown(value)}; expected {' or '.join(map(repr, known.values()))}")
    return found


def split_bands(value: Any, what: str = "bands") -> dict[str, tuple[str, ...]]:
    """Return what each word of a choice of bands stands for.

    Parameters
    ----------
    value : str, int or iterable of them
        Bands ("1A", "1a", "ch1-short"), channels (1, "1", "ch1", "12"), gratings ("short", "A"), settings ("12A"),
        "all"; several in one text with commas or spaces.

    Returns
    -------
    dict of word to bands, in the order given
    """
    items = [value] if isinstance(value, str | int | np.integer) or not np.iterable(value) else list(value)
    words: list[str] = []
    spaced = re.compile(r"[,;]+|\s+(?!(?:short|medium|long)\b)(?<!\bch\s)(?<!\bchannel\s)(?<!\bband\s)", re.I)
    for item in items:
        if isinstance(item, bool) or not isinstance(item, str | int | np.integer):
            raise MrsxrError(f"{what} is {_shown(value)}; {_BANDS_EXPECTED}")
        words += [word for word in spaced.split(str(item).strip()) if word]
    if not words:
        raise MrsxrError(f"{what} is empty; {_BANDS_EXPECTED}")
    return {word: _bands_of_word(word, what) for word in words}


_BANDS_EXPECTED = f"expected bands ({', '.join(BANDS)}) or channels (1 .. 4), such as '1A,2A' or 'ch1-short'"
_LETTERS = {"": "ABC"} | {letter: letter for letter in GRATINGS} | {name: a for a, name in GRATINGS.items()}


def _bands_of_word(word: str, what: str) -> tuple[str, ...]:
    plain = re.sub(r"(?<=\w)[\s_-]+", "", word.upper())
    found = re.fullmatch(r"(?:CHANNEL|CHAN|CH|BAND)?([1-4]*)(SHORT|MEDIUM|LONG|[ABC])?", plain)
    if plain == "ALL":
        return BANDS
    if found is None or not any(found.groups()):
        raise MrsxrError(f"'{word}' is no band or channel; {_BANDS_EXPECTED}")
    channels, letters = found.group(1) or "1234", _LETTERS[found.group(2) or ""]
    return tuple(band for band in BANDS if band[0] in channels and band[1] in letters)


def as_band_words(value: Any, what: str = "bands") -> Any:
    """Return the words of a choice of bands, each checked; see :func:`split_bands`."""
    return None if value is None else tuple(split_bands(value, what))


def as_bands(value: Any, what: str = "bands") -> Any:
    """Return the bands of a choice, each once, in the order of the MRS; see :func:`split_bands`."""
    if value is None:
        return None
    found = {band for bands in split_bands(value, what).values() for band in bands}
    return tuple(band for band in BANDS if band in found)


def bands_held(value: Any, held: Iterable[str], what: str) -> tuple[str, ...]:
    """Return those bands of a choice that are there; a word of it of which nothing is there is refused."""
    held, wanted = set(held), split_bands(value)
    for word, bands in wanted.items():
        if not held & set(bands):
            there = ", ".join(band for band in BANDS if band in held) or "none"
            raise MrsxrError(f"no {what} of band or channel {word}; there are those of {there}")
    found = held & {band for bands in wanted.values() for band in bands}
    return tuple(band for band in BANDS if band in found)


def as_band(value: Any, what: str = "band") -> Any:
    """Return the name of one band, "1A" .. "4C", of "1a", "ch1-short" ..."""
    if value is None:
        return None
    try:
        found = as_bands(value, what)
    except MrsxrError as error:
        raise MrsxrError(f"{what} {_shown(value)} is no MRS band; expected one of {', '.join(BANDS)}") from error
    if len(found) != 1:
        raise MrsxrError(f"{what} is {_shown(value)}, which are {', '.join(found)}; expected one of them")
    return found[0]


# --- messages -----------------------------------------------------------------------------------------------------


def _shown(value: Any) -> str:
    """Return a value as one short line."""
    text = " ".join((repr(value) if isinstance(value, str) else str(value)).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]
