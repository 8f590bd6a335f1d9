"""Edit FITS files as bytes, without any library that would put right what must be wrong."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK, CARD = 2880, 80


@dataclass(frozen=True)
class Part:
    """Where an HDU of an undamaged file lies."""

    name: str
    start: int
    data: int
    end: int


def parts(content: bytes) -> list[Part]:
    """Return the HDUs of an undamaged file."""
    out, place = [], 0
    while place < len(content):
        cards, after = _cards(content, place)
        size = abs(int(cards.get("BITPIX", "8"))) // 8 * int(cards.get("GCOUNT", "1"))
        axes = [int(cards[f"NAXIS{i}"]) for i in range(1, int(cards["NAXIS"]) + 1)]
        number = 0
        if axes:
            number = 1
            for n in axes:
                number *= n
            number += int(cards.get("PCOUNT", "0"))
        end = after + -(-size * number // BLOCK) * BLOCK
        out.append(Part(cards.get("EXTNAME", "PRIMARY").strip("' "), place, after, end))
        place = end
    return out


def _cards(content: bytes, place: int) -> tuple[dict[str, str], int]:
    cards = {}
    while True:
        card = content[place : place + CARD].decode("ascii")
        place += CARD
        if card.startswith("END "):
            return cards, -(-place // BLOCK) * BLOCK
        if card[8:10] == "= ":
            cards.setdefault(card[:8].strip(), card[10:].split("/")[0].strip())


def find(content: bytes, name: str | int) -> Part:
    """Return an HDU by name or number."""
    found = parts(content)
    return found[name] if isinstance(name, int) else next(part for part in found if part.name == name)


def set_card(content: bytes, hdu: str | int, key: str, raw: str) -> bytes:
    """Put a card with this raw text of a value in the place of the one of that name, or before END."""
    card = (key.ljust(8) + "= " + raw).ljust(CARD)[:CARD].encode("latin-1")
    part = find(content, hdu)
    for place in range(part.start, part.data, CARD):
        if content[place : place + 8] == key.ljust(8).encode():
            return content[:place] + card + content[place + CARD :]
        if content[place : place + CARD].rstrip() == b"END":
            header = content[part.start : place] + card + b"END".ljust(CARD)
            header += b" " * (-len(header) % BLOCK)
            return content[: part.start] + header + content[part.data :]
    raise AssertionError("no END")


def drop_card(content: bytes, hdu: str | int, key: str) -> bytes:
    """Blank a card out."""
    part = find(content, hdu)
    for place in range(part.start, part.data, CARD):
        if content[place : place + 8] == key.ljust(8).encode():
            return content[:place] + b" " * CARD + content[place + CARD :]
    return content


def drop_hdu(content: bytes, hdu: str | int) -> bytes:
    part = find(content, hdu)
    return content[: part.start] + content[part.end :]


def twice(content: bytes, hdu: str | int) -> bytes:
    part = find(content, hdu)
    return content[: part.end] + content[part.start : part.end] + content[part.end :]


def overwrite(content: bytes, place: int, new: bytes) -> bytes:
    return content[:place] + new + content[place + len(new) :]
