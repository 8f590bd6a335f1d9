"""Lazy sections of FITS images: small objects that know where the numbers lie and read them when asked.

None of the classes keeps an open file or a lock, so they pickle to about one kilobyte and several threads (or
processes) may read through one object at the same time.
"""

from __future__ import annotations

import os
import stat
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from mrsxr.errors import InputFileError

STORED_DTYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
#: FITS has no unsigned (and no signed 8-bit) integers; these zero points stand for them.
OFFSET_INTEGERS: dict[tuple[int, float], str] = {
    (8, -128): "i1",
    (16, 2**15): "u2",
    (32, 2**31): "u4",
    (64, 2**63): "u8",
}


def natural_dtype(bitpix: int, bscale: float = 1, bzero: float = 0) -> np.dtype:
    """Return the native dtype of the physical values of a FITS image.

    Parameters
    ----------
    bitpix : int
        BITPIX of the header.
    bscale, bzero : float
        BSCALE and BZERO of the header; physical = stored * BSCALE + BZERO.

    Returns
    -------
    dtype
        Unsigned integers for their zero points, float32 (float64 from 32-bit integers on) where scaled.
    """
    stored = np.dtype(STORED_DTYPES[bitpix])
    if bscale == 1 and bzero == 0:
        return stored.newbyteorder("=")
    if bscale == 1 and (bitpix, bzero) in OFFSET_INTEGERS:
        return np.dtype(OFFSET_INTEGERS[bitpix, bzero])
    return np.dtype("f4" if bitpix in (8, 16, -32) else "f8")


def to_physical(raw: np.ndarray, bitpix: int, bscale: float, bzero: float, *, own: bool = False) -> np.ndarray:
    """Return stored FITS numbers as physical values in native byte order, as a new plain array.

    Parameters
    ----------
    raw : ndarray
        Big-endian numbers as stored.
    bitpix, bscale, bzero
        The header keywords.
    own : bool
        Nobody else needs ``raw``: its memory may be taken for the result.

    Returns
    -------
    ndarray of :func:`natural_dtype`

    Notes
    -----
    For the unsigned zero points, adding 2^(n-1) to a two's complement number flips its sign bit.
    """
    dtype = natural_dtype(bitpix, bscale, bzero)
    native = np.dtype(STORED_DTYPES[bitpix]).newbyteorder("=")
    if own and native.itemsize > 2 and not raw.dtype.isnative:  # smaller ones are copied faster than swapped
        bits = raw.byteswap(inplace=True).view(native)
    else:
        bits = np.array(raw, dtype=native)
    if bscale == 1 and bzero == 0:
        return bits
    if dtype.kind in "iu":
        bits = bits.view(f"u{dtype.itemsize}")
        np.bitwise_xor(bits, bits.dtype.type(1 << (8 * dtype.itemsize - 1)), out=bits)
        return bits.view(dtype)
    out = bits.astype(dtype, copy=False)
    out *= dtype.type(bscale)
    out += dtype.type(bzero)
    return out


class LazyArray(BackendArray, ABC):
    """An array whose parts are read when they are asked for, by ``_read``."""

    __slots__ = ()
    shape: tuple[int, ...]
    support = indexing.IndexingSupport.BASIC

    def __getitem__(self, key: indexing.ExplicitIndexer) -> np.ndarray:
        return indexing.explicit_indexing_adapter(key, self.shape, self.support, self._read)

    @abstractmethod
    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        """Return a part; the key holds what ``support`` names."""


class FitsArray(LazyArray):
    """The image of one HDU of an uncompressed FITS file, read on demand.

    Parameters
    ----------
    path : path
        The file.
    offset : int
        Byte of the first number.
    shape : tuple of int
        Shape to give the array; leading axes of length one may be added to that of the file.
    bitpix, bscale, bzero
        The header keywords.
    dtype : str, optional
        dtype of the result; by default that of the physical values.
    square : bool
        Return the squares: a variance from a stored error.
    stamp : (size, modification time), optional
        State of the file when it was opened; by default its state now.

    Raises
    ------
    InputFileError
        On reading, where the file is gone or was changed since it was opened.
    """

    support = indexing.IndexingSupport.OUTER_1VECTOR
    __slots__ = ("bitpix", "bscale", "bzero", "dtype", "offset", "path", "shape", "square", "stamp")

    def __init__(
        self,
        path: str | os.PathLike[str],
        offset: int,
        shape: tuple[int, ...],
        bitpix: int,
        bscale: float = 1,
        bzero: float = 0,
        *,
        dtype: Any = None,
        square: bool = False,
        stamp: tuple[int, int] | None = None,
    ) -> None:
        self.path = str(Path(path).absolute())
        self.offset = int(offset)
        self.shape = tuple(int(n) for n in shape)
        self.bitpix, self.bscale, self.bzero = bitpix, bscale, bzero
        self.dtype = np.dtype(dtype) if dtype is not None else natural_dtype(bitpix, bscale, bzero)
        self.square = square
        self.stamp = stamp or file_stamp(self.path)

    def _read(self, key: tuple[int | slice | np.ndarray, ...]) -> np.ndarray:
        if file_stamp(self.path) != self.stamp:
            raise InputFileError(f"{self.path}: the file was changed since it was opened; open it again")
        if 0 in self.shape:
            return np.empty(self.shape, dtype=self.dtype)[key]
        if own := len(self.shape) > 1:
            part = self._read_rows((*key, *(slice(None),) * (len(self.shape) - len(key))))
        else:
            part = np.memmap(self.path, STORED_DTYPES[self.bitpix], "r", self.offset, self.shape)[key]
        return finish(to_physical(part, self.bitpix, self.bscale, self.bzero, own=own), self.dtype, self.square)

    def _read_rows(self, key: tuple[int | slice | np.ndarray, ...]) -> np.ndarray:
        """Return stored numbers, read plane by plane: a memory map would count whole files as memory."""
        places = [_places(k, n) for k, n in zip(key, self.shape, strict=True)]
        *planes, rows, columns = places
        numbers = np.zeros(1, dtype=np.int64)  # of the planes in the file
        for plane, n in zip(planes, self.shape[:-2], strict=True):
            numbers = (numbers[:, None] * n + plane).ravel()
        n_y, n_x = self.shape[-2:]
        first, last = (int(rows.min()), int(rows.max()) + 1) if rows.size else (0, 0)
        out = np.empty([p.size for p in places], dtype=STORED_DTYPES[self.bitpix])
        strip = np.empty((last - first, n_x), dtype=out.dtype)
        in_turn = np.array_equal(rows, np.arange(first, last))
        whole = in_turn and np.array_equal(columns, np.arange(n_x))
        targets = out.reshape(numbers.size, rows.size, columns.size)
        with open(self.path, "rb", buffering=0) as file:
            into, n_bytes = (targets if whole else strip[None]).view(np.uint8).reshape(-1).data, strip.nbytes
            for k, number in enumerate(numbers.tolist()):
                part = into[k * n_bytes : (k + 1) * n_bytes] if whole else into
                place = self.offset + (number * n_y + first) * n_x * out.itemsize
                if os.preadv(file.fileno(), [part], place) != n_bytes:
                    raise InputFileError(f"{self.path}: the file ends before its image does; it is truncated")
                if not whole:
                    targets[k] = (strip if in_turn else strip[rows - first])[:, columns]
        return out[tuple(0 if np.isscalar(k) else slice(None) for k in key)]


def _places(key: int | slice | np.ndarray, size: int) -> np.ndarray:
    """Return the places along one axis that a key names."""
    if isinstance(key, slice):
        return np.arange(*key.indices(size))
    return np.atleast_1d(np.asarray(key)) % size


class TiledFitsArray(LazyArray):
    """The image of a tile-compressed HDU; each read opens the file and decompresses the tiles it needs.

    Parameters
    ----------
    path : path
    hdu : int
        Number of the HDU.
    shape : tuple of int
        Shape to give the array: that of the image with leading axes of length one added.
    bitpix, bscale, bzero
        The header keywords of the image.
    dtype, square, stamp
        As for :class:`FitsArray`.
    """

    __slots__ = ("dtype", "hdu", "path", "shape", "square", "stamp")

    def __init__(
        self, path: str | os.PathLike[str], hdu: Any, shape: tuple[int, ...], bitpix: int, bscale: float = 1,
        bzero: float = 0, *, dtype: Any = None, square: bool = False, stamp: Any = None,
    ) -> None:  # fmt: skip
        self.path = str(Path(path).absolute())
        self.hdu = int(hdu)
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype) if dtype is not None else natural_dtype(bitpix, bscale, bzero)
        self.square = square
        self.stamp = stamp or file_stamp(self.path)

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        from astropy.io import fits

        if file_stamp(self.path) != self.stamp:
            raise InputFileError(f"{self.path}: the file was changed since it was opened; open it again")
        try:
            with fits.open(self.path, memmap=False) as hdulist:
                section = hdulist[self.hdu].section
                n_added = len(self.shape) - len(section.shape)
                block = np.asarray(section[key[n_added:]])
        except Exception as error:  # each decompressor has errors of its own
            raise InputFileError(
                f"{self.path}: the tiles of HDU {self.hdu} cannot be decompressed ({error})"
            ) from error
        # leading axes of length one are not in the file: an integer drops one, a slice keeps or empties it
        for item in reversed(key[:n_added]):
            if isinstance(item, slice):
                block = block[None][item]
        return finish(np.array(block, dtype=block.dtype.newbyteorder("=")), self.dtype, self.square)


class ConstantArray(LazyArray):
    """An array of one value that takes no memory until a part of it is asked for.

    Parameters
    ----------
    shape : tuple of int
    dtype : dtype
    value : number
    """

    __slots__ = ("dtype", "shape", "value")

    def __init__(self, shape: tuple[int, ...], dtype: Any, value: float = 0) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.value = value

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        shape = np.broadcast_to(self.dtype.type(0), self.shape)[key].shape
        if self.value:
            return np.full(shape, self.value, dtype=self.dtype)
        return np.zeros(shape, dtype=self.dtype)  # pages come only when touched


def finish(values: np.ndarray, dtype: np.dtype, square: bool) -> np.ndarray:
    """Return physical values as ``dtype``, squared where asked; signed integers wrap into unsigned ones."""
    out = np.asarray(values).astype(dtype, copy=False)
    return out * out if square else out


def file_stamp(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (size in bytes, modification time in ns) of a file.

    Raises
    ------
    InputFileError
        Where there is no such file, or what is there is no file: a folder, a FIFO, a device.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).lower()
        raise InputFileError(f"{path}: the file cannot be read ({reason})") from error
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a FIFO, socket or device"
        raise InputFileError(f"{path}: is {what}, expected a file")
    return status.st_size, status.st_mtime_ns
