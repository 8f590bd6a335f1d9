"""Keep data, variances and flags of one mind about invalid pixels."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq

VARIANCES = ("var_poisson", "var_read", "var_flat")


def match_invalid(ds: xr.Dataset, name: str) -> xr.Dataset:
    """Set data and variances NaN and the flag DO_NOT_USE wherever one of them says so (as jwst does)."""
    planes = [name, *(v for v in VARIANCES if v in ds)]
    invalid = (ds.dq & np.uint32(dq.DO_NOT_USE)) != 0
    for plane in planes:
        invalid = invalid | ds[plane].isnull()
    masked = {p: ds[p].where(~invalid).assign_attrs(ds[p].attrs) for p in planes}
    flags = ds.dq | invalid.astype("uint32") * np.uint32(dq.DO_NOT_USE)
    masked["dq"] = flags.astype("uint32").assign_attrs(dq.PIXEL_DQ_ATTRS)
    return ds.assign(masked)


def scale(ds: xr.Dataset, name: str, factor: xr.DataArray) -> xr.Dataset:
    """Multiply data by ``factor`` (float32) and its variances by the square; units stay the caller's business."""
    square = factor * factor
    out = {name: (ds[name] * factor).assign_attrs(ds[name].attrs)}
    out |= {v: (ds[v] * square).assign_attrs(ds[v].attrs) for v in VARIANCES if v in ds}
    return ds.assign(out)
