"""Chunk sizes of every level: the only numbers about memory in the package."""

from __future__ import annotations

RAMP_BLOCK_BYTES = 10 * 2**20  # one float32 block of a ramp: small enough for several per thread and for the cache
RAMP_ROWS_MAX = 128
RAMP_ROWS_MIN = 8
CUBE_PLANES = 256


def ramp_rows(n_integrations: int, n_groups: int, n_rows: int = 1024, n_columns: int = 1032) -> int:
    """Return how many detector rows a ramp block holds: a multiple of eight within the block budget."""
    row_bytes = 4 * n_integrations * n_groups * n_columns
    rows = RAMP_BLOCK_BYTES // row_bytes // RAMP_ROWS_MIN * RAMP_ROWS_MIN
    return min(max(rows, RAMP_ROWS_MIN), RAMP_ROWS_MAX, n_rows)


def ramp_chunks(n_integrations: int, n_groups: int, n_rows: int = 1024, n_columns: int = 1032) -> dict[str, int]:
    """Return the dask chunks of a ramp Dataset: all groups and integrations of a few rows, one dither."""
    rows = ramp_rows(n_integrations, n_groups, n_rows, n_columns)
    return {"dither": 1, "integration": -1, "group": -1, "y": rows, "x": -1}


DETECTOR_CHUNKS = {"dither": 1, "y": -1, "x": -1}  # rate and cal: whole frames
CUBE_CHUNKS = {"wavelength": CUBE_PLANES, "y": -1, "x": -1}
