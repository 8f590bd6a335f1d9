"""Cubes made small enough for a page: whole numbers of a small part of the error of each voxel, deflated.

A voxel is stored as the code of its error (a table of geometric steps) and a whole number of quanta of that error,
less the number that the planes before it let expect; its four bytes lie apart, as the low ones are noise. ``store.js``
undoes it. The spectrum of a region is off by 0.29 quanta (rms), whatever its size.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

NO_ERROR, NO_DATA = 254, 255  # codes of voxels with a value alone, and with none
FINEST, COARSEST = 1.0 / 1600, 1.0 / 8  # quantum, of the error of a voxel: spectra off by 0.2e-3 and 0.04 errors (rms)
_FORGETS = 0.5  # part of what is expected that each plane replaces by itself; the low bits of noise cost most
_STEP = 1.12  # least step of the table of errors
_MOST = 2**31 - 2
_FIRST, _LETTERS = 0xA0, 46341  # letters that no parser changes, before the surrogates; two of them hold 31 bits


@dataclass(frozen=True)
class Packed:
    """A cube as bytes.

    Parameters
    ----------
    stream : bytes
        Deflated: mask (y, x), codes (spaxel, plane) and the four bytes of the numbers, each (spaxel, plane).
    table : float64 array (255)
        Error of each code; of ``NO_ERROR`` the quantum is taken from it.
    quantum : float
        Part of the error that is one.
    """

    stream: bytes
    table: np.ndarray
    quantum: float


def letters(stream: bytes) -> str:
    """Return bytes as text of 31 bits in two letters, none of which is markup."""
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))
    rows = np.append(bits, np.zeros(-bits.size % 31, np.uint8)).reshape(-1, 31)
    high, low = (np.packbits(part, axis=1).view(">u2").astype(np.uint32) for part in (rows[:, :16], rows[:, 16:]))
    numbers = np.concatenate(np.divmod(high << 15 | low >> 1, _LETTERS), axis=1) + _FIRST
    return numbers.astype("<u2").tobytes().decode("utf-16-le")


def coarser(size: float, most: float, voxels: int) -> float:
    """Return the quantum that brings streams of the finest quantum from a size to another one [byte]."""
    bits = np.ceil(16.0 * max(size - most, 0.0) / max(voxels, 1)) / 2.0
    return float(min(FINEST * 2.0**bits, COARSEST))


def pack(flux: np.ndarray, var: np.ndarray, good: np.ndarray, quantum: float = FINEST) -> Packed:
    """Return a cube as bytes; voxels that are not good are NaN in the page.

    Parameters
    ----------
    flux, var : arrays (plane, y, x)
    good : bool array (plane, y, x)
    quantum : float
        Part of the error of a voxel to which it is rounded; more where the numbers would overflow.
    """
    mask = good.any(axis=0)
    values, good = (np.ascontiguousarray(a[:, mask].T) for a in (flux.astype(float), good))
    with np.errstate(invalid="ignore"):
        sigma = np.sqrt(np.ascontiguousarray(var[:, mask].T).astype(float))
    codes, table = _codes(values, sigma, good)
    while True:
        numbers = _numbers(values, codes, table * quantum)
        if numbers is not None:
            break
        quantum *= 4.0
    parts = [mask.astype(np.uint8), codes, *((numbers >> shift).astype(np.uint8) for shift in (0, 8, 16, 24))]
    deflate = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)  # few matches: 0.3 bits less for noise
    return Packed(b"".join(deflate.compress(part.tobytes()) for part in parts) + deflate.flush(), table, quantum)


def _codes(values: np.ndarray, sigma: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the code of the error of each voxel and the table of errors."""
    known = good & np.isfinite(sigma) & (sigma > 0)
    low, high = (float(f(sigma[known])) for f in (np.min, np.max)) if known.any() else (1.0, 1.0)
    step = max(_STEP, (high / low) ** (1.0 / (NO_ERROR - 1)))
    table = low * step ** np.arange(NO_ERROR + 1.0)
    table[NO_ERROR] = np.median(sigma[known]) if known.any() else _scatter(values, good)
    codes = np.full(values.shape, NO_DATA, np.uint8)
    codes[good] = NO_ERROR
    codes[known] = np.rint(np.log(sigma[known] / low) / np.log(step)).astype(np.uint8)
    return codes, table


def _scatter(values: np.ndarray, good: np.ndarray) -> float:
    """Return the scatter from plane to plane of a cube without errors."""
    steps = np.abs(np.diff(values, axis=1))[good[:, 1:] & good[:, :-1]]
    steps = steps[steps > 0]
    return float(np.median(steps)) if steps.size else float(np.abs(values[good]).max(initial=0.0) or 1.0)


def _numbers(values: np.ndarray, codes: np.ndarray, quanta: np.ndarray) -> np.ndarray | None:
    """Return uint32 numbers of quanta less those expected, folded to positive; None where they overflow."""
    out = np.zeros(values.shape, np.uint32)
    expected = np.zeros(len(values))
    for k in range(values.shape[1]):
        use = codes[:, k] != NO_DATA
        quantum = quanta[codes[use, k]]
        number = np.floor(values[use, k] / quantum + 0.5)
        less = number - np.floor(expected[use] / quantum + 0.5)
        if less.size and np.abs(less).max() >= _MOST / 2:
            return None
        out[use, k] = np.where(less < 0, -2 * less - 1, 2 * less).astype(np.uint32)
        expected[use] += _FORGETS * (number * quantum - expected[use])
    return out
