"""What the steps ask of an exposure: header keywords, columns of the detector, numbers of the integrations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

DETECTOR_COLUMNS = 1032
REFERENCE_COLUMNS = 4  # on the left; as many on the right


def keyword(ds: xr.Dataset, name: str) -> list[Any]:
    """Return a FITS keyword of each exposure (dither), None where its header has none."""
    texts = ds["fits_header"].values if "fits_header" in ds.coords else np.array([""] * ds.sizes.get("dither", 1))
    headers = [json.loads(str(text) or "{}") for text in np.atleast_1d(texts)]
    return [h.get("PRIMARY", {}).get(name, h.get("SCI", {}).get(name)) for h in headers]


def detector_columns(ds: xr.Dataset) -> np.ndarray:
    """Return the column on the full detector, from 0, of each column of the data."""
    start = next((int(value) for value in keyword(ds, "SUBSTRT1") if value), 1)
    own = ds["x"].values if "x" in ds.coords else np.arange(ds.sizes["x"])
    return own.astype(np.int64) + start - 1


def reference_columns(ds: xr.Dataset) -> np.ndarray:
    """Return True for the columns of reference pixels: the outer four on both sides of the full detector."""
    columns = detector_columns(ds)
    return (columns < REFERENCE_COLUMNS) | (columns >= DETECTOR_COLUMNS - REFERENCE_COLUMNS)


def integration_numbers(ds: xr.Dataset) -> list[int]:
    """Return the number of each integration within its exposure, from 1."""
    own = ds["integration"].values if "integration" in ds.coords else np.arange(1, ds.sizes["integration"] + 1)
    return [int(number) for number in own]


def reference_integrations(ds: xr.Dataset, n_reference: int) -> tuple[list[int], tuple[int, ...]]:
    """Return which integrations of a reference are needed, from 0, and which of these each integration takes.

    Integration n of an exposure, by its number, takes the n-th of the reference; those beyond the last take the last.
    """
    wanted = [min(number, n_reference) - 1 for number in integration_numbers(ds)]
    places = sorted(set(wanted))
    return places, tuple(places.index(place) for place in wanted)
