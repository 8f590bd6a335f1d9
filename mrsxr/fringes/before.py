"""Whether residual fringes were taken off data before."""

from __future__ import annotations

import xarray as xr

from mrsxr.attributes import share_done


def corrected_before(ds: xr.Dataset) -> str:
    """Return where residual fringes were taken off data of any level, or a part of them, before.

    "on the detector", "in the cube", or "".

    Examples
    --------
    >>> corrected_before(xr.Dataset(attrs={"residual_fringe": 1})), corrected_before(xr.Dataset())
    ('on the detector', '')
    """
    places = {"residual_fringe_cube": "in the cube", "residual_fringe": "on the detector"}
    return next((place for mark, place in places.items() if share_done(ds, mark)), "")
