"""Whether residual fringes were taken off data before."""

from __future__ import annotations

import json

import xarray as xr


def corrected_before(ds: xr.Dataset) -> str:
    """Return where residual fringes were taken off before, "on the detector" or "in the cube", else "".

    Parameters
    ----------
    ds : Dataset of any level
        Its attributes tell, and for files of jwst the keyword S_RESFRI of one of the exposures.

    Examples
    --------
    >>> corrected_before(xr.Dataset(attrs={"residual_fringe": 1})), corrected_before(xr.Dataset())
    ('on the detector', '')
    """
    if ds.attrs.get("residual_fringe_cube"):
        return "in the cube"
    if ds.attrs.get("residual_fringe") or any(one.get("S_RESFRI") == "COMPLETE" for one in _headers(ds)):
        return "on the detector"
    return ""


def _headers(ds: xr.Dataset) -> list[dict]:
    """Return the primary headers of the files that data came from; none where steps of our own tell of fringes."""
    if ds.attrs.get("residual_fringe_1d"):
        return []
    texts = ds["fits_header"].values.ravel() if "fits_header" in ds.coords else [ds.attrs.get("fits_header") or "{}"]
    try:
        return [json.loads(str(text)).get("PRIMARY", {}) for text in texts]
    except (ValueError, AttributeError):  # data made by hand
        return []
