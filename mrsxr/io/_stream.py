"""FITS files larger than memory: headers first, then the images block by block, in whatever order they come."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import dask.array as da
import numpy as np
from astropy.io import fits

from mrsxr.threads import how

from ._structure import BLOCK
from .atomic import replacing

#: Types of images that can be streamed: what FITS holds in their place, and the bit that turns in unsigned numbers.
STREAMED = {"float32": (">f4", 0), "float64": (">f8", 0), "int16": (">i2", 0), "int32": (">i4", 0),
            "uint16": (">u2", 1 << 15), "uint32": (">u4", 1 << 31)}  # fmt: skip


@dataclass(frozen=True)
class Hole:
    """The place of an image in a file that is there already; takes whole planes, from threads or other processes.

    ``path``; ``offset`` [byte] of the first value; ``shape`` and ``dtype`` (native name) of the image.
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size of the values, without padding."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def __setitem__(self, where: tuple[slice, ...], block: np.ndarray) -> None:
        """Write the planes ``where[0]``; the other axes must be whole."""
        stored, bit = STREAMED[self.dtype]
        values = np.bitwise_xor(block, block.dtype.type(bit)) if bit else block
        start = where[0].start or 0
        with open(self.path, "r+b") as file:
            file.seek(self.offset + start * self.nbytes // self.shape[0])
            file.write(np.ascontiguousarray(values, dtype=stored).data)


def hollow(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return zeros of a shape that take no memory, for headers."""
    return np.broadcast_to(np.zeros((), dtype=dtype), shape)


def write_streamed(hdulist: fits.HDUList, images: Mapping[str, da.Array], path: str | os.PathLike[str]) -> Path:
    """Write a FITS file whose images are computed while it is written, in one pass; as ``write_fits`` in all else.

    Parameters
    ----------
    hdulist : HDUList
        With :func:`hollow` data in the images that are streamed.
    images : mapping of EXTNAME to dask array
        Of the types in ``STREAMED``. All are stored together, so that tasks that they share run once.
    path : path
        Ending in ``.fits``.

    Returns
    -------
    Path

    Notes
    -----
    Unsigned integers are kept as signed ones with BZERO, which turns their highest bit (FITS 4.0, 5.2.5).
    """
    path = Path(path)
    hdulist.verify("fix+ignore")
    hdulist.update_extend()
    with replacing(path) as temporary:
        sources, holes = [], []
        with open(temporary, "wb") as file:
            for hdu in hdulist:
                if hdu.name not in images:
                    file.write(_bytes_of(hdu))
                    continue
                image = images[hdu.name]
                file.write(hdu.header.tostring().encode("ascii"))
                holes.append(Hole(str(temporary), file.tell(), image.shape, str(image.dtype)))
                sources.append(image.rechunk((image.chunks[0], *(-1 for _ in image.shape[1:]))))
                file.seek(-(-holes[-1].nbytes // BLOCK) * BLOCK, os.SEEK_CUR)
            file.truncate()
        da.store(sources, holes, lock=False, **how())  # type: ignore[arg-type]
    return path


def _bytes_of(hdu: fits.PrimaryHDU | fits.ImageHDU | fits.BinTableHDU) -> bytes:
    """Return an HDU as it stands in a file."""
    if isinstance(hdu, fits.PrimaryHDU):
        return hdu.header.tostring().encode("ascii")  # a primary HDU of a product holds no data
    buffer = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer, output_verify="fix+ignore")
    return buffer.getvalue()[BLOCK:]
