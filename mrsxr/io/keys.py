"""The key that a product carries (:mod:`mrsxr.pipeline.keys`): read without reading the product."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

from mrsxr.errors import InputFileError

from ._structure import BLOCK, CARD, MAX_BLOCKS

#: Card of the primary header.
KEYWORD = "MRSXKEY"
#: Attribute of a Dataset; its own, not that of what is made of it.
ATTR = "key"


def key_of(path: str | os.PathLike[str]) -> str | None:
    """Return the key of a product in FITS, netCDF or zarr, from its header alone; None where it carries none.

    Raises
    ------
    InputFileError
        Where there is no such file.
    """
    path = Path(path)
    if path.suffix in (".nc", ".nc4"):
        return _of_netcdf(path)
    if path.suffix == ".zarr":
        try:
            found = json.loads((path / "zarr.json").read_text(encoding="utf-8"))["attributes"].get(ATTR)
        except (OSError, ValueError, AttributeError, LookupError, TypeError):
            return None
        return found if isinstance(found, str) else None
    head = head_of(path)
    for at in range(0, len(head), CARD):
        card = head[at : at + CARD]
        if card.startswith(KEYWORD.encode("ascii").ljust(8) + b"= '"):
            return card[11:].split(b"'")[0].decode("ascii", "replace").strip() or None
    return None


def head_of(path: str | os.PathLike[str]) -> bytes:
    """Return the primary header of a FITS file, plain or gzip, as it stands there; of another file, its first block.

    Raises
    ------
    InputFileError
        Where there is no such file.
    """
    path, head = Path(path), b""
    if path.is_dir():
        path = path / "zarr.json"
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else open(path, "rb") as file:
            for _ in range(MAX_BLOCKS):
                block = file.read(BLOCK)
                head += block
                ends = any(block[at : at + 8] == b"END     " for at in range(0, len(block), CARD))
                if len(block) < BLOCK or ends or not head.startswith(b"SIMPLE"):
                    break
    except EOFError:
        return head
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read ({error.strerror or error})") from error
    return head


def _of_netcdf(path: Path) -> str | None:
    import netCDF4

    from .netcdf import LOCK

    if not path.is_file():
        raise InputFileError(f"{path}: no such file")
    try:
        with LOCK, netCDF4.Dataset(path) as file:
            found = getattr(file, ATTR, None)
    except (OSError, RuntimeError):
        return None
    return found if isinstance(found, str) else None
