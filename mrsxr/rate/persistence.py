"""Step persistence: flag the groups taken while a pixel may still release trapped charge."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.attributes import keyword
from mrsxr.blocks import map_ramps
from mrsxr.limits import Positive, checked
from mrsxr.step import step

from ._exposure import group_time_of, integration_numbers

DAY = 86400.0  # s


@step(needs="ramp", jwst="persistence", keyword="S_PERSIS")
def flag_persistence(
    ds: xr.Dataset,
    *,
    persistence_time: Positive,
    persistence_dnu: bool = False,
    dn_threshold: float | None = None,
    windows: xr.Dataset | None = None,
) -> xr.Dataset:
    """Flag the groups within a given time after a pixel has saturated.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN], ``group_dq`` (dither, integration, group, y, x) with SATURATED set; ``attrs["group_time"]`` [s].
    persistence_time : float
        Time [s] for which a pixel is flagged after the first saturated group of an integration.
    persistence_dnu : bool
        Set DO_NOT_USE as well.
    dn_threshold : float, optional
        A sample [DN] above this opens a window, too.
    windows : Dataset, optional
        What :func:`persistence_windows` found in an earlier exposure of the same detector. Each dither starts with
        it; by default with none.

    Returns
    -------
    Dataset, level "ramp"
        ``group_dq`` with PERSISTENCE.

    Raises
    ------
    MrsxrError
        Where ``persistence_time`` or the group time is not positive.

    Notes
    -----
    As jwst's persistence, which is off by default and only flags. An integration starts EFFINTTM after the one
    before (group time times number of groups where the header has none).

    Examples
    --------
    >>> out = mx.rate.flag_persistence(ramp, persistence_time=300.0)
    """
    group_dq, _ = _run(ds, persistence_time, persistence_dnu, dn_threshold, windows)
    return ds.assign(group_dq=group_dq.assign_attrs(dq.GROUP_DQ_ATTRS))


@checked
def persistence_windows(
    ds: xr.Dataset, *, persistence_time: Positive, dn_threshold: float | None = None, windows: xr.Dataset | None = None
) -> xr.Dataset:
    """Return until when each pixel is to be flagged, for the exposures that follow; parameters as above.

    Returns
    -------
    Dataset
        ``window_end`` (dither, y, x) [MJD], 0 for none, and attribute ``persistence_time`` [s].
    """
    _, window = _run(ds, persistence_time, False, dn_threshold, windows)
    end = xr.where(window > 0, ds.start_time + window / DAY, 0.0).transpose(*window.dims)
    attrs = {"persistence_time": float(persistence_time)}
    return xr.Dataset({"window_end": end.assign_attrs(units="d")}, attrs=attrs)


def _run(ds: xr.Dataset, length: float, do_not_use: bool, threshold: float | None, windows: xr.Dataset | None) -> Any:
    group_time = group_time_of(ds)
    given = next((float(value) for value in keyword(ds, "EFFINTTM") if value), 0.0)
    integration_time = given or group_time * ds.sizes["group"]
    before_it = np.array(integration_numbers(ds))[:, None] - 1
    times = before_it * integration_time + group_time * np.arange(1, ds.sizes["group"] + 1)
    if windows is None or windows.attrs.get("persistence_time") != float(length):
        before = xr.zeros_like(ds.pixel_dq, dtype="float64")
    else:
        before = _since_start(windows.window_end, ds)
    ramp = ["integration", "group"]
    return map_ramps(
        flag_windows, ds.sci, ds.group_dq, before.drop_attrs(), core=[ramp, ramp, []], out_core=[ramp, []],
        dtypes=["uint8", "float64"], times=times, length=float(length),
        threshold=np.inf if threshold is None else float(threshold),
        bits=dq.FLAGS["PERSISTENCE"] | (dq.DO_NOT_USE if do_not_use else 0),
    )  # fmt: skip


def _since_start(end: xr.DataArray, ds: xr.Dataset) -> xr.DataArray:
    """Return the end of the windows [s] after the start of each dither of ``ds``, 0 for none."""
    if "dither" in end.dims:
        end = end.isel(dither=-1, drop=True)
    end = end.drop_vars([name for name in end.coords if name not in end.dims])
    start = ds.start_time.drop_vars([name for name in ds.start_time.coords if name != "dither"])
    return ((end - start) * DAY).where(end > 0, 0.0).transpose("dither", "y", "x")


def flag_windows(
    sci: np.ndarray, group_dq: np.ndarray, before: np.ndarray, times: np.ndarray, length: float, threshold: float,
    bits: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return (group flags with ``bits`` inside the windows, end of the window at the end of the exposure [s]).

    A window is the time [s] from the start of the exposure until which a pixel is flagged, 0 for none. It opens with
    the first saturated group of an integration, or, where none is open, with a sample above the threshold.

    before : end of the window (dither, y, x) or (y, x) as the exposure starts; NaN counts as none.
    times : time [s] of each group, (integration, group); length [s]; threshold [DN], inf for none.
    """
    out = np.broadcast_to(group_dq, sci.shape).copy()
    window = np.zeros((sci.shape[0], *sci.shape[-2:]))
    window += np.nan_to_num(before, nan=0.0)
    for i in range(sci.shape[1]):
        n_saturated = np.zeros(window.shape, dtype=np.int32)
        for g, now in enumerate(times[i]):
            window[window < now] = 0.0
            n_saturated += (out[:, i, g] & dq.SATURATED) != 0
            window[(n_saturated == 1) | ((sci[:, i, g] > np.float32(threshold)) & (window == 0))] = now + length
            window[window > now + length] = 0.0
            out[:, i, g] |= (window > 0) * np.uint8(bits)
    return out, window
