"""Jumps by the likelihood of the ramp, and what the likelihood fits ask of a Dataset."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.blocks import map_ramps
from mrsxr.errors import MrsxrError
from mrsxr.limits import NotNegative, OptionalRef, Positive, Ref
from mrsxr.step import step

from .jump import RAMP, flag_bad_gain, with_neighbours

MINIMUM_GROUPS = 3


@step(needs="ramp", jwst="jump", keyword="S_JUMP")
def flag_jumps_likelihood(
    ds: xr.Dataset,
    *,
    gain: Ref,
    readnoise: Ref,
    linearity: OptionalRef = None,
    threshold_one_omit: Positive = 20.25,
    threshold_two_omit: Positive = 23.8,
    flag_4_neighbors: bool = True,
    min_jump_to_flag_neighbors: NotNegative = 10.0,
    max_jump_to_flag_neighbors: NotNegative = 1000.0,
    scale_photon_noise: bool = True,
) -> xr.Dataset:
    """Flag jumps where chi2 of a straight ramp falls by much when one difference, or two in a row, are left free.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN], ``group_dq`` (dither, integration, group, y, x); ``attrs["group_time"]`` [s] and the dark current
        as :func:`fit_ramps`. Samples flagged JUMP_DET already cut the ramp.
    gain : Dataset, kind "gain"
        ``gain`` [electron/DN] (y, x).
    readnoise : Dataset, kind "readnoise"
        ``read_noise`` [DN] (y, x), of a difference of two reads (CDS).
    linearity : Dataset, kind "linearity", optional
        The noise follows the response of the pixel at each level.
    threshold_one_omit, threshold_two_omit : float
        Fall of chi2 that makes a jump.
    flag_4_neighbors : bool
        Also flag the pixels above, below, left and right of a jump ...
    min_jump_to_flag_neighbors, max_jump_to_flag_neighbors : float
        ... that raises the signal by a size [sigma of a difference] between these.
    scale_photon_noise : bool
        With ``linearity``: the photon noise follows the response of the pixel too.

    Returns
    -------
    Dataset, level "ramp"
        ``group_dq`` with JUMP_DET on the later group of each jump, never where the sample is DO_NOT_USE or
        SATURATED; ``pixel_dq`` with NO_GAIN_VALUE | DO_NOT_USE where the gain is not positive. Fewer than three
        groups: unchanged but for the gain flags.

    Raises
    ------
    MrsxrError
        Where ``attrs["group_time"]`` is missing or not positive.

    Notes
    -----
    Brandt 2024, PASP 136, 045005, the worst difference of a ramp at a time. Of a slope that rests on two differences
    only a rise is a jump. The search inside ``fit_ramps(method="gls")`` is the same, without neighbours.
    """
    from ._likelihood_kernels import find_jumps_gls

    out = flag_bad_gain(ds, gain)
    if ds.sizes["group"] < MINIMUM_GROUPS:
        return out
    inputs = [ds.sci, ds.group_dq, readnoise.read_noise, gain.gain, dark_current_of(ds, gain)]
    core: list[list[str]] = [RAMP, RAMP, [], [], []]
    if linearity is not None:
        inputs += linearity_inputs(linearity)
        core += [["order"], []]
    bounds = (float(min_jump_to_flag_neighbors), float(max_jump_to_flag_neighbors))
    group_dq, spread = map_ramps(
        find_jumps_gls, *inputs, core=core, out_core=[RAMP, RAMP], dtypes=["uint8", "bool"],
        group_time=group_time_of(ds), threshold_one_omit=threshold_one_omit, threshold_two_omit=threshold_two_omit,
        neighbours=bounds if flag_4_neighbors else (0.0, 0.0), scale_photon_noise=scale_photon_noise,
    )  # fmt: skip
    group_dq = with_neighbours(group_dq, spread, flag_4_neighbors)
    return out.assign(group_dq=group_dq.assign_attrs(dq.GROUP_DQ_ATTRS))


def group_time_of(ds: xr.Dataset) -> float:
    """Return ``attrs["group_time"]`` [s]; raise MrsxrError where it is not positive."""
    group_time = float(ds.attrs.get("group_time", 0.0))
    if not group_time > 0:
        raise MrsxrError(f"setting {ds.attrs.get('setting')}: attrs['group_time'] is {group_time}, expected > 0 s")
    return group_time


def dark_current_of(ds: xr.Dataset, gain: xr.Dataset) -> xr.DataArray:
    """Return the average dark current [electron/s] (y, x) of a ramp Dataset, 0 where it has none."""
    if "average_dark_current" in ds.variables:
        return ds["average_dark_current"].astype("float32")
    return xr.full_like(gain.gain, float(ds.attrs.get("average_dark_current", 0.0)), dtype="float32")


def linearity_inputs(linearity: xr.Dataset) -> list[xr.DataArray]:
    """Return coefficients (order, y, x) and bool (y, x): pixels that the linearity step leaves as they are."""
    c = linearity.coefficients
    skip = c.isnull().any("order") | (c.isel(order=1) == 0) | ((linearity.dq & np.uint32(dq.NO_LIN_CORR)) != 0)
    return [c.drop_vars("order", errors="ignore"), skip]
