"""Step fringe: divide by the static fringe flat of extended light."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr.step import step

from ._invalid import scale


@step(needs="rate")
def divide_fringe_flat(ds: xr.Dataset, *, fringe: xr.Dataset) -> xr.Dataset:
    """Divide slopes and errors by the fringe flat.

    Parameters
    ----------
    ds : Dataset, level "rate"
        ``rate`` [DN/s], variances [DN2/s2].
    fringe : Dataset, kind "fringe"
        ``fringe`` (y, x); NaN counts as 1. Its flags and errors are not used, as in jwst.

    Returns
    -------
    Dataset, level "rate"

    Notes
    -----
    Reference-file type FRINGE, made under extended illumination: fringes of a point source have another phase and
    remain in part.
    """
    divisor = fringe.fringe.where(fringe.fringe.notnull(), np.float32(1))
    return scale(ds, "rate", np.float32(1) / divisor)
