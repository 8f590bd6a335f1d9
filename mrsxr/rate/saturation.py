"""Step saturation: flag samples at or above the saturation threshold, and at the A/D floor."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.blocks import add_flags, map_ramps, with_row_halo
from mrsxr.limits import Range, Ref
from mrsxr.step import step

Growth = Annotated[int, Range(0, 100)]  # pixels


@step(needs="ramp", jwst="saturation", keyword="S_SATURA", precedes=("reset", "linearity", "dark_current"))
def flag_saturation(ds: xr.Dataset, *, saturation: Ref, n_pix_grow_sat: Growth = 1) -> xr.Dataset:
    """Flag saturated samples, their neighbours, and samples at the A/D floor.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN] (dither, integration, group, y, x).
    saturation : Dataset, kind "saturation"
        ``threshold`` [DN] (y, x), ``dq``.
    n_pix_grow_sat : int
        A saturated pixel also flags the box of so many pixels around it (charge spill); 0 for none.

    Returns
    -------
    Dataset, level "ramp"
        ``group_dq`` with SATURATED from the first saturated group of an integration on, AD_FLOOR and DO_NOT_USE
        where ``sci <= 0``; ``pixel_dq`` with the bits of the reference, NO_SAT_CHECK where it has no threshold.

    Notes
    -----
    As jwst's saturation for one frame a group. The *first saturated group* of each pixel is found first, grown
    on the image, then spread over the groups: the growth touches images, not ramps.

    Examples
    --------
    >>> out = mx.rate.flag_saturation(ramp, saturation=refs.get("saturation", ramp))
    """
    from ._saturation_kernels import checked_threshold, first_saturated, flag_groups, grow_first

    threshold, flags = map_ramps(
        checked_threshold, saturation.threshold, saturation.dq, core=[[], []], out_core=[[], []],
        dtypes=["float32", "uint32"],
    )  # fmt: skip
    ramp = ["integration", "group"]
    (first,) = map_ramps(
        first_saturated, ds.sci, threshold,
        core=[ramp, []], out_core=[["integration"]], dtypes=["int16"],
    )  # fmt: skip
    if n_pix_grow_sat > 0:
        grow = partial(grow_first, n_grow=n_pix_grow_sat)
        first = with_row_halo(grow, first, depth=n_pix_grow_sat, fill=np.int16(ds.sizes["group"]))
    (group_dq,) = map_ramps(
        flag_groups, ds.sci, ds.group_dq, first,
        core=[ramp, ramp, ["integration"]], out_core=[ramp], dtypes=["uint8"],
    )  # fmt: skip
    return ds.assign(group_dq=group_dq.assign_attrs(dq.GROUP_DQ_ATTRS), pixel_dq=add_flags(ds.pixel_dq, flags))
