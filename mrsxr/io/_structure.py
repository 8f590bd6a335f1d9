"""The blocks of a FITS file, checked before a library reads them: what a header claims must lie in the file.

Only the cards that say where things lie are read (FITS 4.0, 4.4.1 and 7): no claim of a header makes anything be
allocated, and a file that ends early, in data or in a header, is told from one that is whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mrsxr.errors import InputFileError

BLOCK, CARD = 2880, 80
MAX_BLOCKS = 2000  # of one header: 72 000 cards
_PADDING = b"\0 "
_PRINTABLE = bytes(range(32, 127))
_CARD = re.compile(rb"([A-Z0-9_-]{1,8}) *= *('(?:[^']|'')*'|[^/]*)")

Reader = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Span:
    """Where an HDU lies: its name, the byte of its header, the byte and the number of bytes of its data."""

    name: str
    header: int
    data: int
    size: int


def spans_of_file(path: Path, n_bytes: int) -> list[Span]:
    """Return the HDUs of a file on disk; raise InputFileError where it is damaged or ends early."""
    with open(path, "rb", buffering=0) as file:
        return spans(path, lambda place, size: os.pread(file.fileno(), size, place), n_bytes)


def spans(path: Path, read: Reader, n_bytes: int) -> list[Span]:
    """Return the HDUs of a file from a function that gives its bytes.

    Parameters
    ----------
    path : path
        For messages.
    read : callable
        Of place and number of bytes.
    n_bytes : int
        Size of the file.

    Raises
    ------
    InputFileError
        Where the file is no FITS file, a header claims what cannot be, or the file ends early.
    """
    out: list[Span] = []
    place = 0
    while place < n_bytes:
        if out and read(place, 8) != b"XTENSION":
            _only_padding(path, read, place, n_bytes)
            break
        number = len(out)
        cards, data = _header(path, read, place, number)
        name = _text(cards.get(b"EXTNAME", b"")) or ("PRIMARY" if not number else f"extension {number}")
        size = _size(path, name, cards, first=not number)
        if data + size > n_bytes:
            raise InputFileError(
                f"{path}: the file is truncated within {name}: expected at least {data + size} bytes, found {n_bytes}; "
                "download or write it again"
            )
        out.append(Span(name, place, data, size))
        place = data + -(-size // BLOCK) * BLOCK
    if not out:
        raise InputFileError(f"{path}: no readable FITS file: it is empty")
    return out


def _header(path: Path, read: Reader, place: int, number: int) -> tuple[dict[bytes, bytes], int]:
    """Return the raw cards of the header at a place (the first of each keyword) and where its data begin."""
    cards: dict[bytes, bytes] = {}
    for n in range(MAX_BLOCKS):
        block = read(place + n * BLOCK, BLOCK)
        if n == 0 and not block.startswith(b"XTENSION" if number else b"SIMPLE  ="):
            raise InputFileError(f"{path}: no readable FITS file: it does not begin with SIMPLE")
        if len(block.translate(None, _PRINTABLE)) > len(block) // 10 or (n and block.startswith(b"XTENSION=")):
            raise InputFileError(
                f"{path}: the header of HDU {number} is damaged: it has no END before byte {place + n * BLOCK}, "
                "where there is no header; download or write it again"
            )
        for start in range(0, len(block), CARD):
            card = block[start : start + CARD]
            if card.rstrip() == b"END" and len(card) == CARD:
                return cards, place + (n + 1) * BLOCK
            found = _CARD.match(card)
            if found:
                cards.setdefault(found[1], found[2].strip())
        if len(block) < BLOCK:
            name = _text(cards.get(b"EXTNAME", b"")) or ("PRIMARY" if not number else f"extension {number}")
            raise InputFileError(
                f"{path}: the file is truncated within the header of {name}: it ends after "
                f"{place + n * BLOCK + len(block)} bytes; download or write it again"
            )
    raise InputFileError(f"{path}: the header of HDU {number} has no END within {MAX_BLOCKS} blocks; it is damaged")


def _size(path: Path, name: str, cards: dict[bytes, bytes], *, first: bool) -> int:
    """Return the bytes of data that a header claims."""
    if first and cards.get(b"SIMPLE") != b"T":
        raise InputFileError(f"{path}: no standard FITS file: SIMPLE is {_text(cards.get(b'SIMPLE', b''))}")

    def number(key: bytes, low: int, high: int, default: int | None = None) -> int:
        raw = cards.get(key)
        if raw is None and default is not None:
            return default
        if raw is None or not re.fullmatch(rb"[+-]?\d{1,20}", raw) or not low <= int(raw) <= high:
            found = "missing" if raw is None else _text(raw)
            raise InputFileError(
                f"{path}: the header of {name} is damaged: {key.decode()} is {found}, expected an integer "
                f"of {low} to {high}"
            )
        return int(raw)

    bitpix = number(b"BITPIX", -64, 64)
    if bitpix not in (8, 16, 32, 64, -32, -64):
        raise InputFileError(
            f"{path}: the header of {name} is damaged: BITPIX is {bitpix}, expected 8 to 64, -32 or -64"
        )
    n_axes = number(b"NAXIS", 0, 999)
    values = 1 if n_axes else 0
    for axis in range(1, n_axes + 1):
        values *= number(f"NAXIS{axis}".encode(), 0, 1 << 40)
    more = number(b"PCOUNT", 0, 1 << 40, 0)
    groups = number(b"GCOUNT", 0 if first else 1, 1 << 20, 1)
    return abs(bitpix) // 8 * groups * (more + values)


def _only_padding(path: Path, read: Reader, place: int, n_bytes: int) -> None:
    """Raise InputFileError where there is more behind the last HDU than padding."""
    start = place
    while place < n_bytes:
        block = read(place, 1 << 16)
        if not block:
            return
        if block.strip(_PADDING):
            raise InputFileError(
                f"{path}: the file is damaged: {n_bytes - start} bytes behind its last extension are no extension; "
                "download or write it again"
            )
        place += len(block)


def _text(raw: bytes) -> str:
    text = raw.decode("ascii", "replace").strip("' ")
    return "".join(c for c in text if c.isprintable())[:40]
