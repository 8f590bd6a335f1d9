"""Step flat_field: divide by the pixel flat."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.step import step

from ._invalid import match_invalid, scale


@step(needs="rate")
def divide_flat(ds: xr.Dataset, *, flat: xr.Dataset) -> xr.Dataset:
    """Divide slopes and errors by the pixel flat and start the variance of the flat.

    Parameters
    ----------
    ds : Dataset, level "rate"
        ``rate`` [DN/s], ``var_poisson``, ``var_read`` [DN2/s2], ``dq`` (dither, y, x).
    flat : Dataset, kind "flat"
        ``flat``, ``flat_err`` (y, x), ``dq``.

    Returns
    -------
    Dataset, level "rate"
        With ``var_flat`` [DN2/s2] = (rate / flat * flat_err)^2 of the divided rate. Where the flat is NaN, 0 or
        flagged NO_FLAT_FIELD or DO_NOT_USE, nothing is divided and the pixel is NaN with DO_NOT_USE.

    Notes
    -----
    As jwst's flat_field. Reference-file type FLAT.
    """
    missing = flat.flat.isnull() | (flat.flat == 0)
    missing = missing | ((flat.dq & np.uint32(dq.NO_FLAT_FIELD)) != 0)
    added = missing.astype("uint32") * np.uint32(dq.DO_NOT_USE | dq.NO_FLAT_FIELD)
    absent = flat.flat.isnull() | (flat.flat == 0)
    added = xr.where(absent, added, added & np.uint32(dq.DO_NOT_USE))
    flags = flat.dq | added
    bad = (flags & np.uint32(dq.DO_NOT_USE)) != 0
    divisor = flat.flat.where(~bad, np.float32(1))
    out = scale(ds, "rate", np.float32(1) / divisor)
    out = out.assign(rate=(ds.rate / divisor).assign_attrs(ds.rate.attrs))
    spread = out.rate / divisor * flat.flat_err
    out = out.assign(
        var_flat=(spread * spread).assign_attrs(units="DN2/s2"),
        dq=(ds.dq | flags).astype("uint32").assign_attrs(dq.PIXEL_DQ_ATTRS),
    )
    return match_invalid(out, "rate")
