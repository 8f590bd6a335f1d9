"""Files appear under their names whole and on the disk, or not at all: every writer of the package goes through here.

What is written goes to a temporary name beside its place, to the disk (fsync), and then takes the place by a rename. A
kill, a full disk or a power cut at any moment leaves the file that was there before, or the new one, and perhaps a
temporary one, whose name :func:`is_temporary` knows and :func:`remove_temporary` takes away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mrsxr.errors import MrsxrError

#: Folder inside a folder of products where a store keeps its books (:mod:`mrsxr.pipeline.store`).
BOOKS = ".mrsxr"
_TEMPORARY = re.compile(r"\.mrsxr-[0-9a-f]{8}~.+")
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF}  # of folders, by some file systems
#: What numpy, astropy and netCDF say, without a number of the system, where a file cannot be written to its end.
_CUT = re.compile(r"\d+ requested and \d+ written|Not enough space|NetCDF: ")
_TRIED = 1 << 20  # bytes
_AT_ONCE = 16


def temporary_name(path: Path) -> Path:
    """Return a name beside ``path`` for what is to take its place."""
    return path.with_name(f".mrsxr-{uuid.uuid4().hex[:8]}~{path.name}")


def is_temporary(name: str) -> bool:
    """Return whether a file or folder of this name was left by a writer that did not end.

    Examples
    --------
    >>> is_temporary(".mrsxr-0123abcd~a_cal.fits"), is_temporary("a_cal.fits")
    (True, False)
    """
    return _TEMPORARY.fullmatch(name) is not None


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary name beside ``path``, in a folder made where needed; on success it takes its place.

    Parameters
    ----------
    path : path
        Of a file, or of a folder (a zarr store). Where a folder is there already, it is away for a moment: a kill
        then leaves none.
    sync : bool
        Wait until the content is on the disk. False where a file may be lost with the power (but not be broken by a
        kill).

    Raises
    ------
    MrsxrError
        Where the folder cannot be made, nothing can be written there, or the disk is full.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise MrsxrError(f"'{path}' is a folder, no file that can be written; give the path of a file")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        try:
            yield temporary
            if sync:
                _to_disk(temporary)
            _take_place(temporary, path)
            if sync:
                _sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError, ValueError):
                _remove(temporary)


def write_text(path: str | os.PathLike[str], text: str, *, sync: bool = True) -> Path:
    """Write a text file (UTF-8) whole or not at all; as :func:`replacing`."""
    with replacing(path, sync=sync) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    return Path(path)


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system says against writing a file or folder into MrsxrError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if _CUT.match(str(error)):
            raise MrsxrError(f"{path}: cannot be written whole ({error}); is the disk full?") from error
        if not isinstance(error, OSError):
            raise
        elsewhere = error.filename is not None and Path(path).parent not in Path(os.fsdecode(error.filename)).parents
        if error.errno is None or (elsewhere and Path(os.fsdecode(error.filename)) not in (path, *Path(path).parents)):
            raise  # of what is read while it is written
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room and start again" if full else "choose another place"
        raise MrsxrError(f"{path}: cannot be written ({error.strerror}); {advice}") from error
    except ValueError as error:
        if "null byte" not in str(error) and "null character" not in str(error):
            raise
        raise MrsxrError(f"{path}: is no name of a file (it holds a NUL)") from error


def check_folder(folder: str | os.PathLike[str], parts: Iterable[str] = ()) -> Path:
    """Make a folder for products and try that files can be written there; the same folder.

    Parameters
    ----------
    folder : path
    parts : iterable of str
        Folders inside it that will be used; where they are there, they are tried as well.

    Raises
    ------
    MrsxrError
        Where it is a file, or nothing can be written there.
    """
    folder = Path(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for place in (folder, *(folder / part for part in parts)):
            if place == folder or place.exists() or place.is_symlink():
                probe = temporary_name(place / "try")
                try:
                    probe.write_bytes(bytes(_TRIED if place == folder else 0))
                finally:
                    with contextlib.suppress(OSError):
                        probe.unlink(missing_ok=True)
    return folder


def remove_temporary(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove what writers that did not end left below a folder, and return it.

    Folders inside that keep books of their own are left alone, as others may be writing there.
    """
    removed: list[Path] = []
    _sweep(Path(folder), removed)
    return removed


def _sweep(folder: Path, removed: list[Path]) -> None:
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:
        return
    for entry in entries:
        inside = entry.is_dir(follow_symlinks=False)
        if is_temporary(entry.name):
            with contextlib.suppress(OSError):
                _remove(Path(entry.path))
                removed.append(Path(entry.path))
        elif inside and not entry.name.endswith(".zarr") and not os.path.isdir(os.path.join(entry.path, BOOKS)):
            _sweep(Path(entry.path), removed)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _take_place(temporary: Path, path: Path) -> None:
    if path.is_dir() and not path.is_symlink() and temporary.is_dir():
        older = temporary_name(path)
        path.rename(older)
        temporary.rename(path)
        _remove(older)
    else:
        os.replace(temporary, path)


def _to_disk(path: Path) -> None:
    """Wait until a file, or all files of a folder, are on the disk."""
    if not path.is_dir():
        _sync_file(path)
        return
    found = [path, *path.rglob("*")]
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # which the disk takes together
        list(pool.map(_sync_file, [one for one in found if not one.is_dir()]))
        list(pool.map(_sync_folder, [one for one in found if one.is_dir()]))


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows keeps no handles of folders
        return
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(number)
