"""What the steps ask of an exposure: header keywords, columns, numbers of the integrations, times and noise."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.attributes import keyword
from mrsxr.blocks import map_ramps
from mrsxr.errors import MrsxrError

DETECTOR_COLUMNS = 1032
REFERENCE_COLUMNS = 4  # on the left; as many on the right
RAMP = ["integration", "group"]


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


def group_time_of(ds: xr.Dataset) -> float:
    """Return ``attrs["group_time"]`` [s]; raise MrsxrError where it is not positive."""
    group_time = float(ds.attrs.get("group_time", 0.0))
    if not group_time > 0:
        raise MrsxrError(f"setting {ds.attrs.get('setting')}: attrs['group_time'] is {group_time}, expected > 0 s")
    return group_time


def dark_current_of(ds: xr.Dataset, gain: xr.Dataset) -> xr.DataArray:
    """Return the average dark current [electron/s] (y, x) of a ramp Dataset, 0 where it has none."""
    if "average_dark_current" in ds.variables:
        return ds["average_dark_current"].astype("float32")
    return xr.full_like(gain.gain, float(ds.attrs.get("average_dark_current", 0.0)), dtype="float32")


def linearity_inputs(linearity: xr.Dataset) -> list[xr.DataArray]:
    """Return coefficients (order, y, x) and bool (y, x): pixels that the linearity step leaves as they are."""
    c = linearity.coefficients
    skip = c.isnull().any("order") | (c.isel(order=1) == 0) | ((linearity.dq & np.uint32(dq.NO_LIN_CORR)) != 0)
    return [c.drop_vars("order", errors="ignore"), skip]


def less_reference(ds: xr.Dataset, reference: xr.DataArray, *, goes_on: bool) -> xr.DataArray:
    """Return the ramps less reference ramps (integration, group, y, x) of the same integrations and groups.

    Beyond the last group of the reference it goes on with its last difference, or nothing is subtracted.
    """
    from ._dark_kernels import subtract

    places, use = reference_integrations(ds, reference.sizes["integration"])
    part = reference.isel(group=slice(0, ds.sizes["group"]), integration=places)
    part = part.drop_vars(["group", "integration"], errors="ignore")
    part = part.rename(group="known_group", integration="known_integration")
    (sci,) = map_ramps(
        subtract, ds.sci, part, core=[RAMP, ["known_integration", "known_group"]], out_core=[RAMP], dtypes=["float32"],
        use=use, goes_on=goes_on,
    )  # fmt: skip
    return sci.assign_attrs(ds.sci.attrs)
