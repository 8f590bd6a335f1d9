"""Names of files that are made of what headers say: they stay in the folder that was asked for."""

from __future__ import annotations

import re
from pathlib import Path

from mrsxr.errors import MrsxrError

_ODD = re.compile(r"[^A-Za-z0-9._+-]+")
_LONGEST = 200  # most file systems take 255 bytes; temporary names are longer


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
