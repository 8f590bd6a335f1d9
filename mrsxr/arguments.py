"""What people write for a place, an angle, a wavelength, a band ..., read into the plain numbers that steps work with.

Every reader takes None for None, gives numbers in the units of the package (deg, arcsec, um, km/s) and refuses the rest
in one line. Steps read their arguments by name (:data:`READERS`); other public functions do by :func:`reads`,
dataclasses of parameters by :func:`read_fields`.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, TypeVar

import astropy.units as u
import numpy as np
import xarray as xr

from .errors import LevelError, MrsxrError
from .mrs import BANDS, GRATINGS

Reader = Callable[[Any, str], Any]
F = TypeVar("F", bound=Callable[..., Any])
#: Redshifts beyond these are velocities, or typing errors.
LEAST_REDSHIFT, LARGEST_REDSHIFT = -0.1, 30.0
SOURCE_TYPES = ("POINT", "EXTENDED")
#: Parameters of steps that are reference files of that kind.
REFERENCES = frozenset({
    "mask", "emicorr", "saturation", "ipc", "reset", "linearity", "rscd", "dark", "gain", "readnoise", "distortion",
    "specwcs", "regions", "mrsxartcorr", "flat", "fringe", "photom", "fringefreq", "cubepar", "extract1d", "apcorr",
    "mrsptcorr", "latent",
})  # fmt: skip


# --- numbers with units ----------------------------------------------------------------------------------------------


def as_number(value: Any, unit: Any, what: str, equivalencies: Any = ()) -> float:
    """Return a number in a unit of a number (in that unit), a Quantity or a text such as "1.5 arcsec"."""
    expected = f"expected a number of {unit}, or a Quantity that is one"
    if isinstance(value, str):
        value = _quantity_of(value, what, expected)
    if isinstance(value, u.Quantity):
        try:
            value = value.to_value(unit, equivalencies=equivalencies)
        except u.UnitsError as error:
            raise MrsxrError(f"{what} is {value}; {expected}") from error
    try:
        plain = np.asarray(value)
        number = float(plain) if plain.size == 1 and plain.dtype.kind in "iuf" else np.nan
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise MrsxrError(f"{what} is {_shown(value)}; {expected}")
    return number


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


def as_arcsec(value: Any, what: str = "angle") -> Any:
    """Return an angle [arcsec] of a number, a Quantity or a text ("0.01 deg", '1.5"')."""
    return None if value is None else as_number(value, u.arcsec, what)


def as_arcsec2(value: Any, what: str = "area") -> Any:
    """Return a solid angle [arcsec2] of a number or a Quantity."""
    return None if value is None else as_number(value, u.arcsec**2, what)


def as_deg(value: Any, what: str = "angle") -> Any:
    """Return an angle [deg] of a number, a Quantity or a text."""
    return None if value is None else as_number(value, u.deg, what)


def as_um(value: Any, what: str = "wavelength") -> Any:
    """Return a wavelength [um] of a number or of a Quantity of length, frequency, wavenumber or energy."""
    return None if value is None else as_number(value, u.um, what, u.spectral())


def as_um_width(value: Any, what: str = "wavelength step") -> Any:
    """Return a difference of wavelengths [um] of a number or a Quantity of length."""
    return None if value is None else as_number(value, u.um, what)


def as_kms(value: Any, what: str = "velocity") -> Any:
    """Return a velocity [km/s] of a number or a Quantity."""
    return None if value is None else as_number(value, u.km / u.s, what)


def _pair(value: Any, what: str, one: Callable[[Any, str], float], expected: str) -> tuple[float, float]:
    """Return (low, high) of a pair in either order, of an array of two or a slice."""
    if isinstance(value, str):
        value = [part for part in re.split(r"[,;\s]+|(?<=\d)\s*[-–]\s*(?=\d)", value.strip("()[] ")) if part]
    try:
        low, high = value
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
        items = list(value) if not isinstance(value, str) else [value]
    except TypeError as error:
        raise MrsxrError(f"{what} is {_shown(value)}; expected pairs of wavelengths in um") from error
    single = len(items) == 2 and all(_is_one(item) for item in items)
    return [as_um_range(item, what) for item in ([value] if single else items)]


def as_kms_extent(value: Any, what: str = "extent") -> Any:
    """Return velocities [km/s]: a half width, or (low, high) of a pair in either order."""
    if value is None or (_is_one(value) and not isinstance(value, slice)):
        return as_kms(value, what)
    if not isinstance(value, slice) and len(value) == 1:
        return as_kms(value[0], what)
    return _pair(value, what, as_kms, "a half width, or two velocities in km/s")


def as_kms_list(value: Any, what: str = "velocities") -> Any:
    """Return velocities [km/s] of a sequence of numbers or Quantities; falling ones are turned round."""
    if value is None:
        return None
    found = [as_kms(item, what) for item in value]
    return found[::-1] if len(found) > 1 and all(b < a for a, b in pairwise(found)) else found


def as_redshift(value: Any, what: str = "redshift z") -> Any:
    """Return a redshift; a velocity, or a number that must be one, is refused with its redshift."""
    if value is None:
        return None
    what = "redshift z" if what == "z" else what
    if isinstance(value, u.Quantity) and value.unit.is_equivalent(u.km / u.s):
        z = value.to_value(u.km / u.s) / 299792.458
        raise MrsxrError(f"{what} is {value}, a velocity; expected a number, cz = {value} is z = {z:.6g}")
    unit = "redshift" if isinstance(value, u.Quantity) and str(value.unit) == "redshift" else u.dimensionless_unscaled
    try:
        number = float(value.value) if unit == "redshift" else as_number(value, unit, what)
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
    plain = re.sub(r"[\s_-]+", "", word.upper())
    found = re.fullmatch(r"(?:CHANNEL|CHAN|CH|BAND)?([1-4]*)(SHORT|MEDIUM|LONG|[ABC])?", plain)
    if plain == "ALL":
        return BANDS
    if found is None or not any(found.groups()):
        raise MrsxrError(f"'{word}' is no band or channel; {_BANDS_EXPECTED}")
    channels, letters = found.group(1) or "1234", _LETTERS[found.group(2) or ""]
    return tuple(band for band in BANDS if band[0] in channels and band[1] in letters)


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


# --- reading the arguments of a function -----------------------------------------------------------------------------

#: What an argument of this name is read by, in all steps.
READERS: dict[str, Reader] = {
    "center": as_sky, "point_source": as_sky, "radius": as_arcsec, "spaxel_size": as_arcsec, "fwhm": as_arcsec,
    "position_angle": as_deg, "wavelength_step": as_um_width, "wavelength_min": as_um, "wavelength_max": as_um,
    "band": as_band, "reference_band": as_band, "source_type": as_source_type, "z": as_redshift,
    "ignore_regions": as_um_ranges, "exclude": as_um_ranges, "zoom": as_um_range, "area": as_arcsec2,
}  # fmt: skip


def read_arguments(name: str, bound: inspect.BoundArguments, readers: Mapping[str, Reader] = READERS) -> None:
    """Read the arguments of a call in place: by their reader, and Datasets by what their parameter is for.

    Raises
    ------
    MrsxrError
        Where an argument is not what it should be: a tree or a path in place of a Dataset, a reference of another kind.
    """
    parameters = bound.signature.parameters
    for key, value in bound.arguments.items():
        annotation = str(parameters[key].annotation)
        if annotation in ("xr.Dataset", "xr.Dataset | None"):
            first = key == next(iter(bound.arguments))
            _check_dataset(name, key, value, optional=annotation.endswith("None"), first=first)
        elif key in readers and value is not None:
            bound.arguments[key] = readers[key](value, key)


def reads(**readers: Reader) -> Callable[[F], F]:
    """Mark a public function that is no step: its arguments are read by :data:`READERS` and by the readers given here.

    Of a step (under ``@step``) only the further readers are noted, and the step reads.
    """

    def decorate(function: F) -> F:
        signature, all_readers = inspect.signature(function), {**READERS, **readers}

        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            read_arguments(function.__name__, bound, all_readers)
            return function(*bound.args, **bound.kwargs)

        wrapped.readers = all_readers  # type: ignore[attr-defined]
        return wrapped  # type: ignore[return-value]

    return decorate


def read_fields(config: Any, **readers: Reader) -> None:
    """Read the fields of a frozen dataclass of parameters in place, by their names; for ``__post_init__``."""
    for key, reader in {**READERS, **readers}.items():
        value = getattr(config, key, None)
        if value is not None:
            object.__setattr__(config, key, reader(value, key))


def need_dataset(name: str, value: Any) -> None:
    """Refuse what is no Dataset as the data that a function works on."""
    _check_dataset(name, "data", value, optional=False, first=True)


def _check_dataset(name: str, key: str, value: Any, *, optional: bool, first: bool) -> None:
    if value is None and optional:
        return
    if not isinstance(value, xr.Dataset):
        raise LevelError(f"{name} needs a Dataset{'' if first else f' as {key}'}, got {_what_it_is(value, key)}")
    if first or key not in REFERENCES:
        return
    kind, level = value.attrs.get("kind"), value.attrs.get("level")
    if level not in (None, "reference"):
        raise MrsxrError(f"{name} needs a reference of kind {key}, got data of level {level}")
    if kind is not None and kind != key:
        raise MrsxrError(
            f"{name} needs a reference of kind {key}, got one of kind {kind} ({value.attrs.get('ref_id', 'by hand')})"
        )


def _what_it_is(value: Any, key: str) -> str:
    if value is None:
        return "None; references are found by References(...).get" if key in REFERENCES else "None"
    if isinstance(value, xr.DataTree):
        nodes = [node.path for node in value.subtree if node.data_vars]
        return (
            f"a DataTree ({', '.join(nodes[:4])}{' ...' if len(nodes) > 4 else ''}); take one node by "
            "tree[path].to_dataset(), or use make_rate, make_cal, make_cubes, make_spectra"
        )
    if isinstance(value, xr.DataArray):
        return f"the DataArray {value.name or 'without name'}; give the whole Dataset"
    if isinstance(value, str | os.PathLike):
        how = "mrsxr.references.read_reference" if key in REFERENCES else "mrsxr.load"
        return f"the path {os.fspath(value)}; open it by {how}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}; call it for each of them"
    return f"a {type(value).__name__}"


def _shown(value: Any) -> str:
    """Return a value as one short line."""
    text = " ".join((repr(value) if isinstance(value, str) else str(value)).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]
