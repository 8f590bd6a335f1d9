"""Memory of a long run: what was freed goes back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def give_back() -> bool:
    """Return freed memory to the system, where the C library can (glibc); True where something went.

    glibc keeps freed arrays of up to 32 MB for itself. After forty exposures that is more than the next stage needs.
    """
    trim = _trim()
    return bool(trim(0)) if trim is not None else False


@cache
def _trim() -> Any:
    try:
        found = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # no glibc
        return None
    found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
    return found
