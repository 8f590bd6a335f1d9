"""ASDF files, one at a time.

The asdf package turns trees into objects by tables that all threads share, without a lock: of two threads that open
files at once, one may get a model without its inverse, or a bare tree where a model should be. Everything here that
reads or writes ASDF does so within :data:`LOCK`, and what it hands out lies in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from mrsxr.errors import InputFileError

#: Held by whoever uses the asdf package.
LOCK = threading.RLock()
Stamp = tuple[int, int]


def stamp_of(path: Path) -> Stamp:
    """Return what changes with the content of a file: time of the last change and size."""
    try:
        found = path.stat()
    except OSError as error:
        found_none = isinstance(error, FileNotFoundError)
        said = "no such file" if found_none else f"cannot be read ({error.strerror})"
        raise InputFileError(f"{path}: {said}; check the path") from error
    return found.st_mtime_ns, found.st_size


def read_asdf_meta(path: Path) -> Mapping[str, Any]:
    """Return ``meta`` of an ASDF file as plain Python, without its models and arrays; read once a file.

    Raises
    ------
    InputFileError
        Where the file is damaged or has no such branch.
    """
    with LOCK:
        return _meta(path, stamp_of(path))


@lru_cache(maxsize=256)
def _meta(path: Path, _stamp: Stamp) -> Mapping[str, Any]:
    import asdf

    try:
        meta = asdf.util.load_yaml(path)["meta"]
    except Exception as error:  # the YAML parser has errors of its own
        raise _unreadable(path, error) from error
    if not isinstance(meta, Mapping):
        raise InputFileError(f"{path}: 'meta' of the ASDF file is no table of facts; get the file anew")
    return meta


@contextmanager
def open_asdf(path: Path) -> Iterator[Any]:
    """Yield the tree of an ASDF file with its models made and its arrays in memory; no other thread reads meanwhile.

    Raises
    ------
    InputFileError
        Where the file is missing or damaged.
    """
    import asdf

    with LOCK:
        stamp_of(path)
        try:
            document = asdf.open(path, lazy_load=False, memmap=False, ignore_missing_extensions=True)
        except Exception as error:  # of asdf, its YAML parser, its schemas and its converters
            raise _unreadable(path, error) from error
        with document:
            yield document.tree


def _unreadable(path: Path, error: Exception) -> InputFileError:
    said = " ".join(str(error).split())[:120]
    return InputFileError(f"{path}: no readable ASDF file with a 'meta' tree ({type(error).__name__}: {said})")
