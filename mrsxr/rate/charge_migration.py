"""Step charge_migration: leave out the groups from which charge has moved to the neighbouring pixels."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.blocks import map_ramps, with_row_halo
from mrsxr.limits import Positive
from mrsxr.step import step

MINIMUM_GROUPS = 3


@step(needs="ramp", jwst="charge_migration", keyword="S_CHGMIG")
def flag_charge_migration(ds: xr.Dataset, *, signal_threshold: Positive = 25000.0) -> xr.Dataset:
    """Flag a pixel and its four neighbours from the first group above a signal on.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN], ``group_dq`` (dither, integration, group, y, x).
    signal_threshold : float
        Signal [DN] above which charge is taken to spill (the brighter-fatter effect). Samples flagged
        DO_NOT_USE and nothing else do not count.

    Returns
    -------
    Dataset, level "ramp"
        ``group_dq`` with CHARGELOSS | DO_NOT_USE; unchanged where there are fewer than three groups.

    Notes
    -----
    As jwst's charge_migration, which is off by default. The first group above the threshold is found first and
    spread over the image, then over the groups.

    Examples
    --------
    >>> out = mx.rate.flag_charge_migration(ramp, signal_threshold=25000.0)
    """
    if ds.sizes["group"] < MINIMUM_GROUPS:
        return ds
    ramp = ["integration", "group"]
    (first,) = map_ramps(
        first_above, ds.sci, ds.group_dq, core=[ramp, ramp], out_core=[["integration"]], dtypes=["int16"],
        threshold=float(signal_threshold),
    )  # fmt: skip
    first = with_row_halo(spread_first, first, depth=1, fill=np.int16(ds.sizes["group"]))
    (group_dq,) = map_ramps(
        flag_from, ds.group_dq, first, core=[ramp, ["integration"]], out_core=[ramp], dtypes=["uint8"]
    )
    return ds.assign(group_dq=group_dq.assign_attrs(dq.GROUP_DQ_ATTRS))


def first_above(sci: np.ndarray, group_dq: np.ndarray, threshold: float) -> np.ndarray:
    """Return the first group [int16] above threshold [DN] whose flags are not DO_NOT_USE alone, else their number."""
    above = (sci > np.float32(threshold)) & (group_dq != dq.DO_NOT_USE)
    return np.where(above.any(axis=2), above.argmax(axis=2), sci.shape[2]).astype(np.int16)


def spread_first(first: np.ndarray) -> np.ndarray:
    """Return the smallest value of each pixel and its four neighbours."""
    from ._saturation_kernels import lower

    return lower(lower(first, first, -2), first, -1)


def flag_from(group_dq: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return group flags with CHARGELOSS | DO_NOT_USE from group ``first`` on."""
    late = np.arange(group_dq.shape[2])[:, None, None] >= first[:, :, None]
    return group_dq | late * np.uint8(dq.value("CHARGELOSS", "DO_NOT_USE"))
