"""Step flat_field: divide by the pixel flat."""

from __future__ import annotations

import xarray as xr

from mrsxr.blocks import map_ramps
from mrsxr.limits import Ref
from mrsxr.step import step

from ._invalid import apply_factor, reference_images


@step(needs="rate", jwst="flat_field", keyword="S_FLAT", once=True)
def divide_flat(ds: xr.Dataset, *, flat: Ref) -> xr.Dataset:
    """Divide slopes and errors by the pixel flat and start the variance of the flat.

    Parameters
    ----------
    ds : Dataset, level "rate"
        ``rate`` [DN/s], variances [DN2/s2], ``dq`` (dither, y, x).
    flat : Dataset, kind "flat"
        ``flat``, ``flat_err`` (y, x), ``dq``.

    Returns
    -------
    Dataset, level "rate"
        With ``var_flat`` [DN2/s2] = (rate / flat * flat_err)^2 of the divided rate. Where the flat is NaN, infinite,
        0 or flagged NO_FLAT_FIELD or DO_NOT_USE, nothing is divided and the pixel is NaN with DO_NOT_USE.

    Raises
    ------
    ReferenceFileError
        Where the flat is missing, of another kind, detector, band or shape.

    Notes
    -----
    As jwst's flat_field. Reference-file type FLAT.

    Examples
    --------
    >>> out = mx.cal.divide_flat(rate, flat=refs.get("flat", rate))
    >>> "var_flat" in out
    True
    """
    from ._scale_kernels import flat_factor

    images = reference_images(ds, flat, "flat", ("flat", "flat_err", "dq"))
    factor, relative, flags = map_ramps(
        flat_factor, *images, core=[[]] * 3, out_core=[[]] * 3, dtypes=["float32", "float32", "uint32"]
    )
    return apply_factor(ds, "rate", factor, relative=relative, variance="var_flat", flags=flags, match=True)
