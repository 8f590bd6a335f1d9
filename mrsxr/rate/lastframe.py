"""Step lastframe: the last group of an integration is read while the array is reset."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.step import step


@step(needs="ramp", jwst="lastframe", keyword="S_LASTFR")
def flag_last_frame(ds: xr.Dataset) -> xr.Dataset:
    """Flag the last group of every integration DO_NOT_USE.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``group_dq`` (dither, integration, group, y, x).

    Returns
    -------
    Dataset, level "ramp"
        Unchanged where there are only one or two groups, as jwst's lastframe.

    Examples
    --------
    >>> out = mx.rate.flag_last_frame(ramp)
    >>> bool(mx.dq.has(out.group_dq.isel(group=-1), "DO_NOT_USE").all())
    True
    """
    if ds.sizes["group"] <= 2:
        return ds
    is_last = ds.group == ds.group[-1]
    flag = xr.where(is_last, np.uint8(dq.DO_NOT_USE), np.uint8(0)).astype("uint8").drop_vars("group")
    return ds.assign(group_dq=(ds.group_dq | flag).assign_attrs(dq.GROUP_DQ_ATTRS))
