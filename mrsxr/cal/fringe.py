"""Step fringe: divide by the static fringe flat of extended light."""

from __future__ import annotations

import xarray as xr

from mrsxr.blocks import map_ramps
from mrsxr.limits import Ref
from mrsxr.step import step

from ._invalid import apply_factor, reference_images


@step(needs="rate", jwst="fringe", keyword="S_FRINGE", once="fringe_flat")
def divide_fringe_flat(ds: xr.Dataset, *, fringe: Ref, propagate_errors: bool = False) -> xr.Dataset:
    """Divide slopes and errors by the fringe flat.

    Parameters
    ----------
    ds : Dataset, level "rate"
        ``rate`` [DN/s], variances [DN2/s2], ``dq`` (dither, y, x).
    fringe : Dataset, kind "fringe"
        ``fringe`` (y, x); NaN, infinite and 0 count as 1. Its flags are not used, as in jwst. ``fringe_err`` (y, x)
        with ``propagate_errors``.
    propagate_errors : bool
        Add ``var_fringe`` [DN2/s2] = (rate / fringe * fringe_err)^2 of the divided rate, which jwst leaves out. Where
        the error is NaN, or the fringe counts as 1, it is 0.

    Returns
    -------
    Dataset, level "rate"

    Raises
    ------
    ReferenceFileError
        Where the fringe flat is missing, of another kind, detector, band or shape, or has no error to propagate.

    Notes
    -----
    Reference-file type FRINGE, made under extended illumination: fringes of a point source have another phase and
    remain in part. jwst divides by a fringe flat of 0 and leaves infinite slopes.

    Examples
    --------
    >>> out = mx.cal.divide_fringe_flat(rate, fringe=refs.get("fringe", rate), propagate_errors=True)
    >>> "var_fringe" in out
    True
    """
    from ._scale_kernels import fringe_factor

    names = ("fringe", "fringe_err")[: 1 + propagate_errors]
    images = reference_images(ds, fringe, "fringe", names)
    found = map_ramps(
        fringe_factor, *images, core=[[]] * len(names), out_core=[[]] * len(names), dtypes=["float32"] * len(names)
    )
    if not propagate_errors:
        return apply_factor(ds, "rate", found[0])
    return apply_factor(ds, "rate", found[0], relative=found[1], variance="var_fringe")
