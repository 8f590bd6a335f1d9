"""Step dq_init: start the flags of an exposure from the bad-pixel mask."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.blocks import add_flags
from mrsxr.limits import Ref
from mrsxr.step import step


@step(needs="ramp", jwst="dq_init", keyword="S_DQINIT")
def flag_bad_pixels(ds: xr.Dataset, *, mask: Ref) -> xr.Dataset:
    """Flag the bad pixels of the mask reference file in pixel and group flags.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN] (dither, integration, group, y, x), ``group_dq``, ``pixel_dq``.
    mask : Dataset, kind "mask"
        ``dq`` (y, x), bits already remapped by name.

    Returns
    -------
    Dataset, level "ramp"
        ``pixel_dq`` with the bits of the mask; DO_NOT_USE of the mask is also set in every group, so that no
        ramp is fitted there.

    Notes
    -----
    As jwst's dq_init. Reference-file type MASK.

    Examples
    --------
    >>> out = mx.rate.flag_bad_pixels(ramp, mask=refs.get("mask", ramp))
    >>> bool(mx.dq.has(out.pixel_dq, "DO_NOT_USE").any())
    True
    """
    do_not_use = (mask.dq & np.uint32(dq.DO_NOT_USE)).astype("uint8")
    return ds.assign(pixel_dq=add_flags(ds.pixel_dq, mask.dq), group_dq=add_flags(ds.group_dq, do_not_use))
