"""Step dark_current: subtract the dark ramps."""

from __future__ import annotations

import xarray as xr

from mrsxr.blocks import add_flags
from mrsxr.errors import ReferenceFileError
from mrsxr.limits import NotNegative, Ref
from mrsxr.notes import tell
from mrsxr.step import step

from ._exposure import less_reference


@step(needs="ramp", jwst="dark_current", keyword="S_DARK", once=True, precedes=("jump",))
def subtract_dark(ds: xr.Dataset, *, dark: Ref, average_dark_current: NotNegative | None = None) -> xr.Dataset:
    """Subtract the dark, integration by integration and group by group.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN] (dither, integration, group, y, x). The coordinate ``integration`` tells the number of an
        integration within its exposure.
    dark : Dataset, kind "dark"
        ``dark`` [DN] (integration, group, y, x), already linearised; ``dq`` (y, x). Integrations beyond the
        reference's last use its last; a dark with fewer groups is continued by its last difference (a warning).
    average_dark_current : float, optional
        Dark current [electron/s] for the Poisson variance of the slope fit; by default the reference file's.

    Returns
    -------
    Dataset, level "ramp"
        ``sci`` [DN] corrected, ``pixel_dq`` with the bits of the dark, ``attrs["average_dark_current"]``
        [electron/s].

    Raises
    ------
    ReferenceFileError
        Where the dark has a single group and the exposure more: nothing to continue it with.

    Notes
    -----
    As jwst's dark_current for one frame a group.

    Examples
    --------
    >>> out = mx.rate.subtract_dark(ramp, dark=refs.get("dark", ramp))
    >>> mx.read_history(out)[-1]["step"]
    'rate.subtract_dark'
    """
    n_dark, n_groups = dark.sizes["group"], ds.sizes["group"]
    if n_dark < n_groups:
        if n_dark < 2:
            raise ReferenceFileError(
                f"dark {dark.attrs.get('ref_id', '')} has 1 group, the exposure "
                f"({ds.attrs.get('setting')}) has {n_groups}; use a dark with at least 2 groups"
            )
        tell(
            f"dark {dark.attrs.get('ref_id', '')} has {n_dark} groups, the exposure {n_groups}: "
            "continued with its last difference",
            stacklevel=3,
        )
    if average_dark_current is None:
        average_dark_current = float(dark.attrs.get("average_dark_current", 0.0))
    return ds.assign(
        sci=less_reference(ds, dark.dark, goes_on=True), pixel_dq=add_flags(ds.pixel_dq, dark.dq)
    ).assign_attrs(average_dark_current=float(average_dark_current))
