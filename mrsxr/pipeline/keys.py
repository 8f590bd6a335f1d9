"""Keys: short digests of all that decides what is in a product, so that a run knows what it need not make again.

The key of a product is the digest of the keys of its inputs, of the steps up to it with their parameters, of the
reference files and of :data:`RESULTS`. It stands in ``attrs["key"]`` and in the file (:data:`mrsxr.io.KEYWORD`).
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from mrsxr._version import __version__
from mrsxr.errors import InputFileError
from mrsxr.io.keys import head_of, key_of

__all__ = ["RESULTS", "Stamp", "checksum", "digest", "is_whole", "key_of", "of_file", "of_reference", "stamp"]

#: Which algorithms made a product: other numbers than those of this version are another product.
RESULTS = f"mrsxr {__version__}"
_WHOLE = 64 << 20  # bytes up to which the content of a reference file is read for its key
_PIECE = 1 << 22


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits that stand for plain values: the same in every process, on every machine.

    Parameters
    ----------
    *parts : None, bool, int, float, str, or lists, tuples and mappings of them
        The order of a mapping does not count; a tuple is a list; 5 and 5.0 are one number.

    Raises
    ------
    TypeError
        Where a value is none of these: a Dataset, a path or a function has no key by itself.

    Examples
    --------
    >>> digest("rate", {"threshold": 4, "skip": ["dark"]}) == digest("rate", {"skip": ("dark",), "threshold": 4.0})
    True
    >>> digest("rate", {"threshold": 5.0})
    '840cce9f707720ec'
    """
    text = json.dumps(_canonical(parts), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def of_file(path: str | os.PathLike[str]) -> str:
    """Return the key of an input file.

    Parameters
    ----------
    path : path

    Returns
    -------
    str
        Of a product that carries a key: digest of that key and of its header, but for the card DATE, as an edit of the
        header counts. Of any other file: of its size and its primary header. The data are not read: whether they are
        those of an earlier run its :class:`Stamp` tells.

    Raises
    ------
    InputFileError
        Where there is no such file.
    """
    key = key_of(path)
    if key is not None:
        return digest("product", key, _without_date(head_of(path)))
    return digest("raw", _stat(path).st_size, _hash(head_of(path)))


def of_reference(path: str | os.PathLike[str]) -> str:
    """Return the key of a reference file: its name and content; above 64 MB, its name, size, time and primary header.

    Parameters
    ----------
    path : path

    Raises
    ------
    InputFileError
        Where there is no such file.
    """
    stat = _stat(path)
    return _of_reference(os.fspath(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _of_reference(path: str, size: int, time: int) -> str:
    name = Path(path).name
    if size <= _WHOLE:
        return digest("reference", name, size, checksum(path))
    return digest("large reference", name, size, time, _hash(head_of(path)))


class Stamp(NamedTuple):
    """What tells whether a file (or zarr folder) is as it was: size [bytes], time of the last change (ns), CRC-32."""

    size: int
    time: int
    checksum: str


def stamp(path: str | os.PathLike[str]) -> Stamp:
    """Return the stamp of a file; its content is read, 4 GB in a second.

    Raises
    ------
    InputFileError
        Where there is no such file.
    """
    try:
        return Stamp(*_size_and_time(path), checksum(path))
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read ({error.strerror})") from error


def is_whole(path: str | os.PathLike[str], was: Stamp) -> bool:
    """Return whether a file is as it was: of the same size and time, or of the same size and content."""
    try:
        size, time = _size_and_time(path)
        return size == was.size and (time == was.time or checksum(path) == was.checksum)
    except OSError:
        return False


def _size_and_time(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the size and the time of a file, sum and latest of a folder.

    The time is that of its content or of its place on the disk, the later one: who changes a file can set the first
    back, but not the second.
    """
    path = Path(path)
    stats = [one.stat() for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path.stat()]
    return sum(one.st_size for one in stats), max((max(one.st_mtime_ns, one.st_ctime_ns) for one in stats), default=0)


def checksum(path: str | os.PathLike[str]) -> str:
    """Return the CRC-32 of the content of a file, or of all files of a folder (a zarr store) with their names."""
    path, total = Path(path), 0
    if not path.is_dir():
        return f"{_crc(path, 0):08x}"
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        total = _crc(file, zlib.crc32(file.relative_to(path).as_posix().encode(), total))
    return f"{total:08x}"


def _crc(path: Path, total: int) -> int:
    with open(path, "rb") as file:
        while block := file.read(_PIECE):
            total = zlib.crc32(block, total)
    return total


def _canonical(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
        return int(value) if whole else value
    if isinstance(value, list | tuple):
        return [_canonical(one) for one in value]
    if isinstance(value, dict):
        return {_name(key): _canonical(one) for key, one in value.items()}
    raise TypeError(f"{type(value).__name__} has no place in a key; expected None, bool, int, float, str, lists, dicts")


def _name(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a mapping in a key has the name {key!r}; expected a str")
    return key


def _without_date(head: bytes) -> str:
    cards = [head[at : at + 80] for at in range(0, len(head), 80)]
    return _hash(b"".join(card for card in cards if not card.startswith(b"DATE    ")))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _stat(path: str | os.PathLike[str]) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read ({error.strerror})") from error
