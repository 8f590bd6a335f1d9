"""The attributes of Datasets that come from a file: of the types that the package reads, or the file is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from astropy.io import fits

from mrsxr import mrs
from mrsxr.errors import InputFileError
from mrsxr.schema import ATTRIBUTES, LEVELS

from .headers import MAPS

_Test = Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _json(value: Any, empty: str) -> Any:
    """Return what a text holds in JSON, None where it is none."""
    try:
        return json.loads(value or empty) if isinstance(value, str) else None
    except (ValueError, RecursionError):
        return None


def _history(value: Any) -> bool:
    kinds, entries = {"step": str, "version": str, "params": dict, "refs": dict}, _json(value, "[]")
    return isinstance(entries, list) and all(
        isinstance(e, dict) and all(isinstance(e.get(key), kind) for key, kind in kinds.items()) for e in entries
    )


def _wcs(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        header = fits.Header.fromstring(value, sep="\n" if "\n" in value else "")
        return all(isinstance(card.value, str | int | float) for card in header.cards if card.keyword)
    except (ValueError, fits.VerifyError):
        return False


def is_header(value: Any) -> bool:
    """Return whether a text holds the keywords of an exposure, as the coordinate ``fits_header`` does."""
    found = _json(value, "{}")
    return isinstance(found, dict) and all(isinstance(part, dict) for part in found.values())


_LEVELS = tuple(dict.fromkeys((*LEVELS, *MAPS, "position_velocity")))
#: What the attributes of each kind must be.
_KINDS: dict[str, tuple[_Test, str]] = {
    "level": (lambda v: isinstance(v, str) and v in _LEVELS, "one of " + ", ".join(_LEVELS)),
    "setting": (lambda v: isinstance(v, str) and v in mrs.SETTINGS, "one of " + ", ".join(mrs.SETTINGS)),
    "text": (lambda v: isinstance(v, str), "a text"), "list": (_list, "a list of texts"),
    "texts": (lambda v: isinstance(v, str) or _list(v), "a text or a list of texts"),
    "number": (_number, "a number"), "positive": (lambda v: _number(v) and 0 < v < 1e9, "a number above 0"),
    "count": (lambda v: _number(v) and isinstance(v, int) and 0 <= v <= 1_000_000, "a whole number"),
    "flag": (lambda v: isinstance(v, int) and v in (0, 1), "0 or 1"),
    "pair": (lambda v: isinstance(v, list) and len(v) == 2 and all(map(_number, v)), "two numbers"),
    "wcs": (_wcs, "cards of a WCS"),
    "history": (_history, "a history in JSON"), "header": (is_header, "keywords in JSON"),
}  # fmt: skip


def check_attrs(where: str, attrs: Mapping[Any, Any]) -> None:
    """Raise InputFileError naming the first attribute that is of another type than the package reads.

    Parameters
    ----------
    where : str
        The file, for the message.
    attrs : mapping
        Those that are missing pass, but for the level.
    """
    if "level" not in attrs:
        raise InputFileError(f"{where}: holds no attribute 'level', so it is no product of this package; it is damaged")
    for name, one in ATTRIBUTES.items():
        is_right, expected = _KINDS[one.kind]
        if name in attrs and not is_right(attrs[name]):
            found = repr(attrs[name])[:60]
            raise InputFileError(f"{where}: the attribute '{name}' is {found}, expected {expected}")
