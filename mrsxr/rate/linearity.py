"""Step linearity: undo the non-linear response of the pixels."""

from __future__ import annotations

import xarray as xr

from mrsxr.blocks import add_flags, map_ramps
from mrsxr.limits import Ref
from mrsxr.step import step


@step(needs="ramp", jwst="linearity", keyword="S_LINEAR", once=True, precedes=("dark_current", "jump"))
def correct_linearity(ds: xr.Dataset, *, linearity: Ref) -> xr.Dataset:
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

    Examples
    --------
    >>> out = mx.rate.correct_linearity(ramp, linearity=refs.get("linearity", ramp))
    """
    from ._linearity_kernels import flag_unusable, linearize

    coefficients = linearity.coefficients.drop_vars("order", errors="ignore")
    (flags,) = map_ramps(
        flag_unusable, coefficients, linearity.dq, core=[["order"], []], out_core=[[]], dtypes=["uint32"]
    )  # fmt: skip
    ramp = ["integration", "group"]
    (sci,) = map_ramps(
        linearize, ds.sci, ds.group_dq, coefficients, flags,
        core=[ramp, ramp, ["order"], []], out_core=[ramp], dtypes=["float32"],
    )  # fmt: skip
    return ds.assign(sci=sci.assign_attrs(ds.sci.attrs), pixel_dq=add_flags(ds.pixel_dq, flags))
