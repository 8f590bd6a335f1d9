"""Whether residual fringes were taken off data before."""

from __future__ import annotations

import json

import xarray as xr

from mrsxr.step import was_done


def corrected_before(ds: xr.Dataset) -> str:
    """Return where residual fringes were taken off before, "on the detector" or "in the cube", else "".

    Parameters
    ----------
    ds : Dataset of any level
        Its history tells, and for files of jwst the keyword S_RESFRI of one of the exposures.

    Examples
    --------
    >>> history = '[{"step": "cal.residual_fringe.correct_residual_fringe"}]'
    >>> corrected_before(xr.Dataset(attrs={"history_json": history})), corrected_before(xr.Dataset())
    ('on the detector', '')
    """
    if was_done(ds, "correct_residual_fringe_cube"):
        return "in the cube"
    if was_done(ds, "correct_residual_fringe") or any(one.get("S_RESFRI") == "COMPLETE" for one in _headers(ds)):
        return "on the detector"
    return ""


def _headers(ds: xr.Dataset) -> list[dict]:
    """Return the primary headers of the files that data came from; none where steps of our own tell of fringes."""
    if was_done(ds, "correct_residual_fringe_1d"):
        return []
    texts = ds["fits_header"].values.ravel() if "fits_header" in ds.coords else [ds.attrs.get("fits_header") or "{}"]
    try:
        return [json.loads(str(text)).get("PRIMARY", {}) for text in texts]
    except (ValueError, AttributeError):  # data made by hand
        return []
