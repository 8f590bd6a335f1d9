"""Whether residual fringes were taken off data before, and whether there are any to take."""

from __future__ import annotations

import xarray as xr

from mrsxr.attributes import share_done
from mrsxr.notes import tell


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


def without_dichroics(band: str, dichroic_only: bool) -> bool:
    """Tell whether the fringes of the dichroics alone are wanted of a band that has none (channels 1 and 2)."""
    if not (dichroic_only and band[0] in "12"):
        return False
    tell(
        f"band {band} has no fringes of the dichroics, which alone are to be corrected; it stays as it is", aloud=False
    )
    return True
