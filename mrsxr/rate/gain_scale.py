"""Step gain_scale: bring slopes taken at another gain setting to the standard one."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr.attributes import keyword
from mrsxr.errors import ReferenceFileError
from mrsxr.limits import Ref
from mrsxr.step import step


@step(needs=("rate", "rateints"), jwst="gain_scale", keyword="S_GANSCL", once=True)
def scale_gain(ds: xr.Dataset, *, gain: Ref) -> xr.Dataset:
    """Multiply slopes by the gain factor and their variances by its square.

    Parameters
    ----------
    ds : Dataset, level "rate" or "rateints"
        ``rate`` [DN/s], ``var_poisson``, ``var_read`` [DN2/s2].
    gain : Dataset, kind "gain"
        ``attrs["gain_factor"]`` (GAINFACT of the file, 1 where it has none). A keyword GAINFACT in the header of
        the exposure wins.

    Returns
    -------
    Dataset of the same level
        Scaled; unchanged where the factor is 1, as for all MRS gain files so far. ``attrs["gain_factor"]`` tells
        the factor where it is the same for all dithers.

    Raises
    ------
    ReferenceFileError
        Where the factor is not a positive number.

    Notes
    -----
    As jwst's gain_scale (ERR follows from the variances).

    Examples
    --------
    >>> out = mx.rate.scale_gain(rate, gain=refs.get("gain", rate))
    """
    standard = float(gain.attrs.get("gain_factor", 1.0))
    factors = [standard if value is None else float(value) for value in keyword(ds, "GAINFACT")]
    for factor in factors:
        if not 0 < factor < np.inf:
            raise ReferenceFileError(
                f"gain factor of {gain.attrs.get('ref_id', 'the gain file')} or of the exposure is {factor}, expected "
                "a positive number; correct GAINFACT"
            )
    if all(factor == 1 for factor in factors):
        return ds
    by_dither = xr.DataArray(np.array(factors), dims="dither")
    scaled = {name: ds[name] * (by_dither**power).astype("float32") for name, power in _POWERS.items() if name in ds}
    out = ds.assign({name: value.assign_attrs(ds[name].attrs) for name, value in scaled.items()})
    return out.assign_attrs(gain_factor=factors[0]) if len(set(factors)) == 1 else out


_POWERS = {"rate": 1, "var_poisson": 2, "var_read": 2}
