"""Step linearity: undo the non-linear response of the pixels."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.blocks import map_ramps
from mrsxr.step import step


@step(needs="ramp")
def correct_linearity(ds: xr.Dataset, *, linearity: xr.Dataset) -> xr.Dataset:
    """Replace every sample by a polynomial of itself.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN], ``group_dq`` (dither, integration, group, y, x).
    linearity : Dataset, kind "linearity"
        ``coefficients`` (order, y, x), ``dq``.

    Returns
    -------
    Dataset, level "ramp"
        ``sci`` [DN] corrected. Samples flagged SATURATED stay as they are; so do pixels with a NaN coefficient, a
        zero linear term or NO_LIN_CORR, and these get NO_LIN_CORR in ``pixel_dq``.

    Notes
    -----
    ``F_lin = c0 + c1 F + c2 F^2 + ...`` by Horner's rule, as jwst's linearity. Noise is not changed.
    """
    from ._linearity_kernels import linearize

    c = linearity.coefficients
    unusable = c.isnull().any("order") | (c.isel(order=1) == 0)
    flags = linearity.dq | xr.where(unusable, np.uint32(dq.NO_LIN_CORR), np.uint32(0))
    skip = (flags & np.uint32(dq.NO_LIN_CORR)) != 0
    ramp = ["integration", "group"]
    (sci,) = map_ramps(
        linearize, ds.sci, ds.group_dq, c.drop_vars("order", errors="ignore"), skip,
        core=[ramp, ramp, ["order"], []], out_core=[ramp], dtypes=["float32"],
    )  # fmt: skip
    return ds.assign(
        sci=sci.assign_attrs(ds.sci.attrs),
        pixel_dq=(ds.pixel_dq | flags).astype("uint32").assign_attrs(dq.PIXEL_DQ_ATTRS),
    )
