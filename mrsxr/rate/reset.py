"""Step reset: subtract the reset anomaly, the curvature of a ramp after the reset."""

from __future__ import annotations

import xarray as xr

from mrsxr.blocks import add_flags
from mrsxr.errors import ReferenceFileError
from mrsxr.limits import Ref
from mrsxr.step import step

from ._exposure import less_reference


@step(
    needs="ramp",
    jwst="reset",
    keyword="S_RESET",
    once=True,
    precedes=("linearity",),
    without={"reset": "the reset anomaly stays"},
)
def subtract_reset(ds: xr.Dataset, *, reset: Ref) -> xr.Dataset:
    """Subtract the reset anomaly from the first groups of every integration.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN] (dither, integration, group, y, x). The coordinate ``integration`` tells the number of an
        integration within its exposure.
    reset : Dataset, kind "reset"
        ``reset`` [DN] (integration, group, y, x), ``dq`` (y, x). Integrations beyond the reference's last use its
        last; groups beyond its last stay as they are; NaN counts as 0.

    Returns
    -------
    Dataset, level "ramp"
        ``sci`` [DN] corrected, ``pixel_dq`` with the bits of the reference.

    Raises
    ------
    ReferenceFileError
        Where the reference was made for another readout pattern.

    Notes
    -----
    As jwst's reset. Noise is not changed.

    Examples
    --------
    >>> out = mx.rate.subtract_reset(ramp, reset=refs.get("reset", ramp))
    """
    made_for, taken = reset.attrs.get("readpatt", ""), ds.attrs.get("readpatt", "")
    if made_for and taken and made_for != taken and made_for not in ("N/A", "ANY"):
        raise ReferenceFileError(
            f"reset {reset.attrs.get('ref_id', '')} is for the readout pattern {made_for}, the exposure "
            f"({ds.attrs.get('setting')}) has {taken}; use a reset file of that pattern"
        )
    return ds.assign(sci=less_reference(ds, reset.reset, goes_on=False), pixel_dq=add_flags(ds.pixel_dq, reset.dq))
