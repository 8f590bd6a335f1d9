"""Data-quality bits, the values of JWST. Flags are only added; :func:`clear` names its reason."""

from __future__ import annotations

from typing import Any

import numpy as np

FLAGS: dict[str, int] = {
    "DO_NOT_USE": 1 << 0, "SATURATED": 1 << 1, "JUMP_DET": 1 << 2, "DROPOUT": 1 << 3,
    "OUTLIER": 1 << 4, "PERSISTENCE": 1 << 5, "AD_FLOOR": 1 << 6, "CHARGELOSS": 1 << 7,
    "RESERVED_3": 1 << 8, "NON_SCIENCE": 1 << 9, "DEAD": 1 << 10, "HOT": 1 << 11,
    "WARM": 1 << 12, "LOW_QE": 1 << 13, "RC": 1 << 14, "TELEGRAPH": 1 << 15,
    "NONLINEAR": 1 << 16, "BAD_REF_PIXEL": 1 << 17, "NO_FLAT_FIELD": 1 << 18, "NO_GAIN_VALUE": 1 << 19,
    "NO_LIN_CORR": 1 << 20, "NO_SAT_CHECK": 1 << 21, "UNRELIABLE_BIAS": 1 << 22, "UNRELIABLE_DARK": 1 << 23,
    "UNRELIABLE_SLOPE": 1 << 24, "UNRELIABLE_FLAT": 1 << 25, "OPEN": 1 << 26, "ADJ_OPEN": 1 << 27,
    "FLUX_ESTIMATED": 1 << 28, "MSA_FAILED_OPEN": 1 << 29, "OTHER_BAD_PIXEL": 1 << 30,
    "REFERENCE_PIXEL": 1 << 31,
}  # fmt: skip

DO_NOT_USE = FLAGS["DO_NOT_USE"]
SATURATED = FLAGS["SATURATED"]
JUMP_DET = FLAGS["JUMP_DET"]
AD_FLOOR = FLAGS["AD_FLOOR"]
NON_SCIENCE = FLAGS["NON_SCIENCE"]
NO_FLAT_FIELD = FLAGS["NO_FLAT_FIELD"]
NO_GAIN_VALUE = FLAGS["NO_GAIN_VALUE"]
NO_LIN_CORR = FLAGS["NO_LIN_CORR"]
NO_SAT_CHECK = FLAGS["NO_SAT_CHECK"]
REFERENCE_PIXEL = FLAGS["REFERENCE_PIXEL"]

#: The same bits under the CF attribute names, for variables that hold flags.
GROUP_DQ_ATTRS = {
    "units": "1",
    "flag_masks": [bit for bit in FLAGS.values() if bit < 256],
    "flag_meanings": " ".join(name for name, bit in FLAGS.items() if bit < 256),
}
PIXEL_DQ_ATTRS = {"units": "1", "flag_masks": list(FLAGS.values()), "flag_meanings": " ".join(FLAGS)}


def value(*names: str) -> int:
    """Return the OR of named bits, ``value("DO_NOT_USE", "JUMP_DET") -> 5``."""
    total = 0
    for name in names:
        total |= FLAGS[name]
    return total


def has(dq: Any, *names: str) -> Any:
    """Return True where all named bits are set; ``dq`` may be an array, a DataArray or an integer."""
    bits = value(*names)
    return (dq & _same_dtype(dq, bits)) == bits


def any_of(dq: Any, *names: str) -> Any:
    """Return True where at least one of the named bits is set."""
    return (dq & _same_dtype(dq, value(*names))) != 0


def good(values: Any, dq: Any) -> Any:
    """Return True where values are finite and not DO_NOT_USE; arrays, lazy or not."""
    return np.isfinite(values) & ~any_of(dq, "DO_NOT_USE")


def clear(dq: Any, *names: str, why: str) -> Any:
    """Return ``dq`` without the named bits; ``why`` tells the reason to the reader of the code."""
    if not why:
        raise ValueError("clearing a flag needs a reason")
    dtype = np.dtype(getattr(dq, "dtype", np.uint32))
    keep = (~np.asarray(value(*names), dtype=np.uint32)).astype(dtype)
    return dq & keep


def describe(flags: int) -> list[str]:
    """Return the names of the bits set in one integer, lowest first."""
    return [name for name, bit in FLAGS.items() if int(flags) & bit]


def remap(values: np.ndarray, definitions: dict[int, str]) -> np.ndarray:
    """Map the DQ plane of a reference file to the standard bits by NAME.

    Parameters
    ----------
    values : ndarray of unsigned integers
        DQ as stored in the file.
    definitions : dict
        ``{value in the file: standard name}`` from the file's DQ_DEF table. Names that the standard table
        does not know are dropped, as jwst does.

    Returns
    -------
    ndarray of uint32, the same shape
    """
    out = np.zeros(values.shape, dtype=np.uint32)
    for stored, name in definitions.items():
        if name in FLAGS:
            out[(values & np.uint32(stored)) != 0] |= np.uint32(FLAGS[name])
    return out


def _same_dtype(dq: Any, bits: int) -> Any:
    dtype = getattr(dq, "dtype", None)
    return bits if dtype is None else np.asarray(bits, dtype=np.uint32).astype(dtype)
