"""Step jump: find cosmic-ray hits as jumps between neighbouring groups."""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.blocks import add_flags, map_ramps, read_again, with_row_halo
from mrsxr.errors import MrsxrError
from mrsxr.limits import Count, NotNegative, Positive, Ref
from mrsxr.step import step

RAMP = ["integration", "group"]
_ALL_ROWS = 64  # arrays of so few rows, or exposures of so few groups, are looked at as a whole
_ALL_GROUPS = 32


@step(needs="ramp", jwst="jump", keyword="S_JUMP")
def flag_jumps(
    ds: xr.Dataset,
    *,
    gain: Ref,
    readnoise: Ref,
    rejection_threshold: Positive = 4.0,
    four_group_rejection_threshold: Positive = 5.0,
    three_group_rejection_threshold: Positive = 6.0,
    flag_4_neighbors: bool = True,
    min_jump_to_flag_neighbors: NotNegative = 10.0,
    max_jump_to_flag_neighbors: NotNegative = 1000.0,
    after_jump_flag_dn1: NotNegative = 0.0,
    after_jump_flag_time1: NotNegative = 0.0,
    after_jump_flag_dn2: NotNegative = 0.0,
    after_jump_flag_time2: NotNegative = 0.0,
    minimum_groups: Count = 3,
    minimum_sigclip_groups: Count = 100,
    only_use_ints: bool = True,
    min_diffs_single_pass: Count = 10,
) -> xr.Dataset:
    """Flag jumps by the two-point difference test.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN], ``group_dq`` (dither, integration, group, y, x).
    gain : Dataset, kind "gain"
        ``gain`` [electron/DN] (y, x).
    readnoise : Dataset, kind "readnoise"
        ``read_noise`` [DN] (y, x), of a difference of two reads (CDS).
    rejection_threshold : float
        Threshold [sigma] with four or more usable differences of a pixel.
    four_group_rejection_threshold, three_group_rejection_threshold : float
        Thresholds [sigma] with three and two usable differences.
    flag_4_neighbors : bool
        Also flag the pixels above, below, left and right of a jump ...
    min_jump_to_flag_neighbors, max_jump_to_flag_neighbors : float
        ... whose size [sigma] lies between these.
    after_jump_flag_dn1, after_jump_flag_time1, after_jump_flag_dn2, after_jump_flag_time2 : float
        Also flag the groups within a time [s] after jumps of at least so many DN; two such rules, off with time 0.
    minimum_groups : int
        With fewer usable groups in any integration no jump is looked for (jwst 3.0.0 always takes 3).
    minimum_sigclip_groups : int
        From so many integrations on (usable groups of all integrations with ``only_use_ints=False``), sigma clipping
        at ``rejection_threshold`` takes the place of the two-point test.
    only_use_ints : bool
        Clip the same difference over the integrations; False for all differences of a pixel together.
    min_diffs_single_pass : int
        From so many usable differences in every integration on, all jumps are flagged at once; below, the largest is
        flagged, left out and the median taken anew until none is left.

    Returns
    -------
    Dataset, level "ramp"
        ``group_dq`` with JUMP_DET on the later group of each jump, never where the sample is DO_NOT_USE or
        SATURATED; ``pixel_dq`` with NO_GAIN_VALUE | DO_NOT_USE where the gain is not positive.

    Raises
    ------
    MrsxrError
        Where groups after a jump are to be flagged and ``attrs["group_time"]`` is not positive.

    Notes
    -----
    As jwst's jump (stcal twopoint_difference; Anderson & Gordon 2011, PASP 123, 1237) with one read a group: the
    difference d [electron] is a jump where ``|d - m| > threshold * sqrt(|m| + r^2)``; m is the median of all
    differences of the pixel, r the CDS read noise. A group is not usable where all pixels of the array are
    DO_NOT_USE (:func:`lost_groups`); an integration that is lost as a whole therefore ends the search in all of them.
    """
    out = flag_bad_gain(ds, gain)
    n_after = groups_after(ds, after_jump_flag_time1, after_jump_flag_time2)
    if ds.sizes["group"] < 3:
        return out

    from ._jump_kernels import find_jumps

    bounds = (float(min_jump_to_flag_neighbors), float(max_jump_to_flag_neighbors))
    usable = over_frame((~lost_groups(ds)).sum("group").astype("int32"), ds)
    group_dq, spread = map_ramps(
        find_jumps, ds.sci, ds.group_dq, readnoise.read_noise, gain.gain, usable,
        core=[RAMP, RAMP, [], [], ["integration"]], out_core=[RAMP, RAMP], dtypes=["uint8", "bool"],
        thresholds=(rejection_threshold, four_group_rejection_threshold, three_group_rejection_threshold),
        neighbours=bounds if flag_4_neighbors else (0.0, 0.0),
        minimum_groups=minimum_groups, minimum_sigclip_groups=minimum_sigclip_groups, only_use_ints=only_use_ints,
        min_diffs_single_pass=min_diffs_single_pass,
    )  # fmt: skip
    group_dq = with_neighbours(group_dq, spread, flag_4_neighbors)
    if max(n_after) > 0:
        group_dq = flag_after(ds, group_dq, gain, (float(after_jump_flag_dn1), float(after_jump_flag_dn2)), n_after)
    return out.assign(group_dq=group_dq.assign_attrs(dq.GROUP_DQ_ATTRS))


def with_neighbours(group_dq: xr.DataArray, spread: xr.DataArray, flag_4_neighbors: bool) -> xr.DataArray:
    """Return group flags with JUMP_DET of jumps and, where asked for, their four neighbours, but on unused samples."""
    from ._jump_kernels import dilate, merge

    if flag_4_neighbors:
        spread = with_row_halo(dilate, spread, depth=1, fill=False)
    (out,) = map_ramps(merge, group_dq, spread, core=[RAMP, RAMP], out_core=[RAMP], dtypes=["uint8"])
    return out


def flag_bad_gain(ds: xr.Dataset, gain: xr.Dataset) -> xr.Dataset:
    """Return ramps with NO_GAIN_VALUE | DO_NOT_USE where the gain is not positive."""
    bad_gain = gain.gain.isnull() | (gain.gain <= 0)
    flags = xr.where(bad_gain, np.uint32(dq.NO_GAIN_VALUE | dq.DO_NOT_USE), np.uint32(0)).astype("uint32")
    return ds.assign(pixel_dq=add_flags(ds.pixel_dq, flags))


def flag_after(
    ds: xr.Dataset, group_dq: xr.DataArray, gain: xr.Dataset, dn: tuple[float, float], n_after: tuple[int, ...],
    *judged: xr.DataArray,
) -> xr.DataArray:  # fmt: skip
    """Return group flags with JUMP_DET on the groups after large jumps, but in dithers ``judged`` below 1."""
    from ._jump_kernels import flag_after_jumps

    (out,) = map_ramps(
        flag_after_jumps, ds.sci, group_dq, gain.gain, _typical(gain.gain), *judged,
        core=[RAMP, RAMP, [], [], *[[] for _ in judged]], out_core=[RAMP], dtypes=["uint8"], dn=dn, n_after=n_after,
    )  # fmt: skip
    return out


def lost_groups(ds: xr.Dataset) -> xr.DataArray:
    """Return (dither, integration, group) bool, lazy: True where the group is DO_NOT_USE in all pixels.

    Of long exposures on large arrays three rows are asked in place of all, so that no later step has to wait for the
    whole exposure.
    """
    group_dq = ds.group_dq.drop_vars(list(ds.group_dq.coords))
    n_y = ds.sizes["y"]
    if n_y > _ALL_ROWS and ds.sizes["integration"] * ds.sizes["group"] > _ALL_GROUPS:
        group_dq = read_again(group_dq.isel(y=[n_y // 4, n_y // 2, 3 * n_y // 4]), "lost groups")
    return ((group_dq & np.uint8(dq.DO_NOT_USE)) != 0).all(["y", "x"])


def over_frame(values: xr.DataArray, ds: xr.Dataset) -> xr.DataArray:
    """Return ``values`` with the dims y and x of ``ds`` appended, constant along them, without a copy."""
    shape = (*values.shape, ds.sizes["y"], ds.sizes["x"])
    if values.chunks:
        frame = ds.group_dq.chunksizes or {d: (ds.sizes[d],) for d in ("y", "x")}  # loaded ramps, lazy references
        chunks = (*values.chunks, frame["y"], frame["x"])
        data = da.broadcast_to(values.data[..., None, None], shape, chunks=chunks)
    else:
        data = np.broadcast_to(values.values[..., None, None], shape)
    return xr.DataArray(data, dims=(*values.dims, "y", "x"))


def _typical(gain: xr.DataArray) -> xr.DataArray:
    """Return the median gain in every pixel."""
    whole = gain.drop_vars(list(gain.coords)).chunk(-1) if gain.chunks else gain.drop_vars(list(gain.coords))
    median = xr.apply_ufunc(_median_of_frame, whole, input_core_dims=[["y", "x"]], dask="parallelized",
                            output_dtypes=["float32"])  # fmt: skip
    return median.broadcast_like(gain)


def _median_of_frame(values: np.ndarray) -> np.ndarray:
    known = values[~np.isnan(values)]
    return np.asarray(np.median(known) if known.size else np.nan, dtype=np.float32)


def groups_after(ds: xr.Dataset, *times: float) -> tuple[int, ...]:
    """Return how many whole groups fit into each time [s]."""
    if max(times) <= 0:
        return (0,) * len(times)
    group_time = float(ds.attrs.get("group_time", 0.0))
    if not group_time > 0:
        raise MrsxrError(f"setting {ds.attrs.get('setting')}: attrs['group_time'] is {group_time}, expected > 0 s")
    return tuple(int(time // group_time) for time in times)
