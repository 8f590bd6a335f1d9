"""Step firstframe: the first group of an integration is offset by the reset."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.step import step

FLUX_ESTIMATED = dq.FLAGS["FLUX_ESTIMATED"]


@step(needs="ramp", jwst="firstframe", keyword="S_FRSTFR")
def flag_first_frame(ds: xr.Dataset, *, bright_use_group1: bool = True) -> xr.Dataset:
    """Flag the first group of every integration DO_NOT_USE.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``group_dq`` (dither, integration, group, y, x) with SATURATED set.
    bright_use_group1 : bool
        Keep the first group of pixels whose third group is saturated: there the signal is large against the
        offset. These pixels get FLUX_ESTIMATED in ``pixel_dq``.

    Returns
    -------
    Dataset, level "ramp"
        Unchanged where there are three groups or fewer.

    Notes
    -----
    As jwst's firstframe, which is off by default: since 2.0 the first group is left to rscd.

    Examples
    --------
    >>> out = mx.rate.flag_first_frame(ramp)
    >>> bool(mx.dq.has(out.group_dq.isel(group=0), "DO_NOT_USE").all())
    True
    """
    if ds.sizes["group"] <= 3:
        return ds
    first = np.zeros(ds.sizes["group"], dtype=np.uint8)
    first[0] = dq.DO_NOT_USE
    flag = xr.DataArray(first, dims="group")
    pixel_dq = ds.pixel_dq
    if bright_use_group1:
        bright = (ds.group_dq.isel(group=2, drop=True) & np.uint8(dq.SATURATED)) != 0
        flag = flag * (~bright).astype("uint8")
        kept = xr.where(bright.any("integration"), np.uint32(FLUX_ESTIMATED), np.uint32(0))
        pixel_dq = ds.pixel_dq | kept.astype("uint32")
    group_dq = (ds.group_dq | flag).transpose(*ds.group_dq.dims)
    return ds.assign(
        group_dq=group_dq.assign_attrs(dq.GROUP_DQ_ATTRS), pixel_dq=pixel_dq.assign_attrs(dq.PIXEL_DQ_ATTRS)
    )
