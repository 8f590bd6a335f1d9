"""Step group_scale: undo the wrong divisor of frames that were averaged on board."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr.attributes import keyword
from mrsxr.errors import InputFileError
from mrsxr.step import step


@step(needs="ramp", jwst="group_scale", keyword="S_GRPSCL", once=True)
def scale_groups(ds: xr.Dataset) -> xr.Dataset:
    """Multiply the samples by FRMDIVSR / NFRAMES where the two differ.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN] (dither, integration, group, y, x); the coordinate ``fits_header`` gives the keywords
        NFRAMES, frames averaged into a group, and FRMDIVSR, the divisor (a power of two) used for it on board.

    Returns
    -------
    Dataset, level "ramp"
        ``sci`` [DN] as float32 multiplied by the ratio; unchanged, not even converted, where the keywords are
        equal or missing, as is the case for all MRS readout patterns.

    Raises
    ------
    InputFileError
        Where NFRAMES or FRMDIVSR is not positive.

    Notes
    -----
    As jwst's group_scale.

    Examples
    --------
    >>> mx.read_history(mx.rate.scale_groups(ramp))[-1]["skipped"]  # nothing to do for MRS readouts
    True
    """
    frames, divisors = keyword(ds, "NFRAMES"), keyword(ds, "FRMDIVSR")
    scale = np.ones(len(frames), dtype=np.float32)
    for number, (n, divisor) in enumerate(zip(frames, divisors, strict=True)):
        if n is None or divisor is None or n == divisor:
            continue
        if not (n > 0 and divisor > 0):
            raise InputFileError(
                f"{ds.exposure.values[number]}: NFRAMES is {n} and FRMDIVSR {divisor}, expected positive numbers; "
                "correct the header"
            )
        scale[number] = np.float32(divisor / n)
    if (scale == 1).all():
        return ds
    sci = ds.sci.astype("float32", copy=False) * xr.DataArray(scale, dims="dither")
    return ds.assign(sci=sci.assign_attrs(ds.sci.attrs))
