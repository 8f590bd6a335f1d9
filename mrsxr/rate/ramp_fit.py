"""Step ramp_fit: fit a slope to every ramp."""

from __future__ import annotations

from typing import Any

import xarray as xr

from mrsxr import dq
from mrsxr.blocks import map_ramps
from mrsxr.errors import MrsxrError
from mrsxr.schema import units_of
from mrsxr.step import step


@step(needs="ramp", gives="rate")
def fit_ramps(
    ds: xr.Dataset, *, gain: xr.Dataset, readnoise: xr.Dataset, suppress_one_group: bool = True
) -> xr.Dataset:
    """Fit slopes by segmented, optimally weighted least squares and average the integrations.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN], ``group_dq`` (dither, integration, group, y, x), ``pixel_dq`` (dither, y, x);
        ``attrs["group_time"]`` [s], ``attrs["average_dark_current"]`` [electron/s], 0 where absent.
    gain : Dataset, kind "gain"
        ``gain`` [electron/DN].
    readnoise : Dataset, kind "readnoise"
        ``read_noise`` [DN] of a difference of two reads (CDS).
    suppress_one_group : bool
        An integration with a single good group gives no slope.

    Returns
    -------
    Dataset, level "rate"
        ``rate`` [DN/s], ``var_poisson``, ``var_read`` [DN2/s2], ``dq`` (dither, y, x). NaN and DO_NOT_USE where no
        integration gives a slope. SATURATED and JUMP_DET tell that a part of the ramp was left out.

    Raises
    ------
    MrsxrError
        Where ``attrs["group_time"]`` is missing or not positive.

    Notes
    -----
    jwst's OLS_C. Segments are runs of good groups between jumps; weights |2x/(n-1) - 1|^P with P by the
    signal-to-noise ratio of the segment (Fixsen et al. 2000, PASP 112, 1350); segments and integrations are
    combined by read-noise variance alone, and the dark current is added to the rate without the gain, both as in
    jwst.
    """
    out = _fit(ds, gain, readnoise, suppress_one_group, integrations=False)
    return _as_rate(ds, out, [])


@step(needs="ramp", gives="rateints")
def fit_integrations(
    ds: xr.Dataset, *, gain: xr.Dataset, readnoise: xr.Dataset, suppress_one_group: bool = True
) -> xr.Dataset:
    """Fit a slope to every integration apart; parameters and method as :func:`fit_ramps`.

    Returns
    -------
    Dataset, level "rateints"
        ``rate`` [DN/s], ``var_poisson``, ``var_read`` [DN2/s2], ``dq`` (dither, integration, y, x).
    """
    out = _fit(ds, gain, readnoise, suppress_one_group, integrations=True)[4:]
    return _as_rate(ds, out, ["integration"])


def _fit(ds: xr.Dataset, gain: xr.Dataset, readnoise: xr.Dataset, suppress_one: bool, *, integrations: bool) -> Any:
    from ._ramp_fit_kernels import fit_ols

    group_time = float(ds.attrs.get("group_time", 0.0))
    if not group_time > 0:
        raise MrsxrError(f"setting {ds.attrs.get('setting')}: attrs['group_time'] is {group_time}, expected > 0 s")
    ramp, one = ["integration", "group"], ["integration"]
    types = ["float32", "float32", "float32", "uint32"]
    return map_ramps(
        fit_ols, ds.sci, ds.group_dq, ds.pixel_dq, readnoise.read_noise, gain.gain,
        core=[ramp, ramp, [], [], []],
        out_core=[[], [], [], [], *([one] * 4 if integrations else [])],
        dtypes=types * (2 if integrations else 1),
        group_time=group_time, dark=float(ds.attrs.get("average_dark_current", 0.0)),
        suppress_one_group=suppress_one, integrations=integrations,
    )  # fmt: skip


def _as_rate(ds: xr.Dataset, out: Any, extra: list[str]) -> xr.Dataset:
    names = ("rate", "var_poisson", "var_read")
    variables = {name: a.assign_attrs(units=units_of("rate", name)) for name, a in zip(names, out, strict=False)}
    variables["dq"] = out[3].assign_attrs(dq.PIXEL_DQ_ATTRS)
    keep = {name: c for name, c in ds.coords.items() if set(c.dims) <= {"dither", "y", "x", *extra}}
    return xr.Dataset(variables, coords=keep)
