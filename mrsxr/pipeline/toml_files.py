"""TOML: files of parameters are read, values are written."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.io.fitsarray import file_stamp

_LONGEST_FILE = 1_000_000  # bytes


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the tables of a file; raise MrsxrError where it cannot be read."""
    try:
        size, _ = file_stamp(path)
        if size > _LONGEST_FILE:
            raise MrsxrError(f"{path}: has {size} bytes, expected a TOML file of parameters")
        return tomllib.loads(Path(path).read_bytes().decode("utf-8"))
    except InputFileError as error:
        raise MrsxrError(f"{path}: cannot be read as TOML ({str(error).removeprefix(f'{path}: ')})") from error
    except (OSError, ValueError, RecursionError) as error:  # no TOML, no UTF-8, integers without end
        raise MrsxrError(f"{path}: cannot be read as TOML ({' '.join(str(error).split())})") from error


def as_toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(as_toml(one) for one in value)}]"
    return json.dumps(value)
