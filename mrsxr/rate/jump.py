"""Step jump: find cosmic-ray hits as jumps between neighbouring groups."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.blocks import map_ramps, with_row_halo
from mrsxr.step import step

MINIMUM_GROUPS = 3


@step(needs="ramp")
def flag_jumps(
    ds: xr.Dataset,
    *,
    gain: xr.Dataset,
    readnoise: xr.Dataset,
    rejection_threshold: float = 4.0,
    four_group_rejection_threshold: float = 5.0,
    three_group_rejection_threshold: float = 6.0,
    flag_4_neighbors: bool = True,
    min_jump_to_flag_neighbors: float = 10.0,
    max_jump_to_flag_neighbors: float = 1000.0,
    min_diffs_single_pass: int = 10,
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
    min_diffs_single_pass : int
        From so many differences an integration on, all jumps are flagged at once; below, the largest is flagged,
        left out and the median taken anew until none is left.

    Returns
    -------
    Dataset, level "ramp"
        ``group_dq`` with JUMP_DET on the later group of each jump, never where the sample is DO_NOT_USE or
        SATURATED; ``pixel_dq`` with NO_GAIN_VALUE | DO_NOT_USE where the gain is not positive. Fewer than three
        usable groups: unchanged but for the gain flags.

    Notes
    -----
    As jwst's jump (stcal twopoint_difference; Anderson & Gordon 2011, PASP 123, 1237) with one read a group: the
    difference d [electron] is a jump where ``|d - m| > threshold * sqrt(|m| + r^2)``; m is the median of all
    differences of the pixel, r the CDS read noise.
    """
    bad_gain = gain.gain.isnull() | (gain.gain <= 0)
    flags = xr.where(bad_gain, np.uint32(dq.NO_GAIN_VALUE | dq.DO_NOT_USE), np.uint32(0)).astype("uint32")
    out = ds.assign(pixel_dq=(ds.pixel_dq | flags).assign_attrs(dq.PIXEL_DQ_ATTRS))
    usable = ds.sizes["group"] - int(ds.attrs.get("n_unusable_groups", 0))
    if ds.sizes["group"] < MINIMUM_GROUPS or usable < MINIMUM_GROUPS:
        return out

    from ._jump_kernels import dilate, find_jumps, merge

    ramp = ["integration", "group"]
    bounds = (float(min_jump_to_flag_neighbors), float(max_jump_to_flag_neighbors))
    group_dq, spread = map_ramps(
        find_jumps, ds.sci, ds.group_dq, readnoise.read_noise, gain.gain,
        core=[ramp, ramp, [], []], out_core=[ramp, ramp], dtypes=["uint8", "bool"],
        thresholds=(rejection_threshold, four_group_rejection_threshold, three_group_rejection_threshold),
        single_pass=usable - 1 >= min_diffs_single_pass,
        neighbours=bounds if flag_4_neighbors else (0.0, 0.0),
    )  # fmt: skip
    if flag_4_neighbors:
        spread = with_row_halo(dilate, spread, depth=1, fill=False)
    (group_dq,) = map_ramps(merge, group_dq, spread, core=[ramp, ramp], out_core=[ramp], dtypes=["uint8"])
    return out.assign(group_dq=group_dq.assign_attrs(dq.GROUP_DQ_ATTRS))
