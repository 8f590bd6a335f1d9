"""Step jump: find cosmic-ray hits as jumps between neighbouring groups."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import xarray as xr

from mrsxr import dq, scores
from mrsxr.blocks import add_flags, map_ramps, read_again, with_row_halo
from mrsxr.limits import Count, NotNegative, OptionalRef, Positive, Ref
from mrsxr.step import step

from ._exposure import RAMP, dark_current_of, group_time_of, linearity_inputs
from ._judged import judge_jumps, over_frame

_ALL_ROWS = 64  # arrays of so few rows, or exposures of so few groups, are looked at as a whole
_ALL_GROUPS = 32
MINIMUM_GROUPS = 3


@step(needs="ramp", jwst="jump", keyword="S_JUMP", only={"linearity": lambda given: given["method"] != "two-point"})
def flag_jumps(
    ds: xr.Dataset,
    *,
    gain: Ref,
    readnoise: Ref,
    linearity: OptionalRef = None,
    method: Literal["two-point", "likelihood", "judged"] = "two-point",
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
    threshold_one_omit: Positive = 20.25,
    threshold_two_omit: Positive = 23.8,
    scale_photon_noise: bool = True,
) -> xr.Dataset:
    """Flag jumps by the two-point difference test, or by the likelihood of the ramp.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN], ``group_dq`` (dither, integration, group, y, x); by likelihood also ``attrs["group_time"]`` [s]
        and the dark current as :func:`fit_ramps`; samples flagged JUMP_DET already cut the ramp.
    gain : Dataset, kind "gain"
        ``gain`` [electron/DN] (y, x).
    readnoise : Dataset, kind "readnoise"
        ``read_noise`` [DN] (y, x), of a difference of two reads (CDS).
    linearity : Dataset, kind "linearity", optional
        By likelihood: the noise follows the response of the pixel at each level.
    method : {"two-point", "likelihood", "judged"}
        "likelihood": where chi2 of a straight ramp falls by much when one difference, or two in a row, are left free.
        "judged": that in exposures where it shows a gain, else two-point; see Notes.
    rejection_threshold : float
        Two-point: threshold [sigma] with four or more usable differences of a pixel.
    four_group_rejection_threshold, three_group_rejection_threshold : float
        Thresholds [sigma] with three and two usable differences.
    flag_4_neighbors : bool
        Also flag the pixels above, below, left and right of a jump ...
    min_jump_to_flag_neighbors, max_jump_to_flag_neighbors : float
        ... whose size [sigma] lies between these.
    after_jump_flag_dn1, after_jump_flag_time1, after_jump_flag_dn2, after_jump_flag_time2 : float
        Two-point: also flag the groups within a time [s] after jumps of at least so many DN; two such rules, off
        with time 0.
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
    threshold_one_omit, threshold_two_omit : float
        By likelihood: fall of chi2 that makes a jump.
    scale_photon_noise : bool
        By likelihood, with ``linearity``: the photon noise follows the response of the pixel too.

    Returns
    -------
    Dataset, level "ramp"
        ``group_dq`` with JUMP_DET on the later group of each jump, never where the sample is DO_NOT_USE or
        SATURATED; ``pixel_dq`` with NO_GAIN_VALUE | DO_NOT_USE where the gain is not positive. Fewer than three
        groups: no jumps. Judged: ``score_jump`` (dither).

    Raises
    ------
    MrsxrError
        Where ``attrs["group_time"]`` is needed and not positive.

    Notes
    -----
    two-point: as jwst's jump (stcal twopoint_difference; Anderson & Gordon 2011, PASP 123, 1237) with one read a group:
    the difference d [electron] is a jump where ``|d - m| > threshold * sqrt(|m| + r^2)``; m is the median of all
    differences of the pixel, r the CDS read noise. A group is not usable where all pixels of the array are
    DO_NOT_USE (:func:`lost_groups`); an integration that is lost as a whole therefore ends the search in all of them.

    likelihood: Brandt 2024, PASP 136, 045005, the worst difference of a ramp at a time. Of a slope that rests on two
    differences only a rise is a jump. The search inside ``fit_ramps(method="gls")`` is the same, without neighbours.

    judged: on 128 rows of the detector from row 16 on, on 64 where there are several integrations of 10 groups or more.
    Odd and even integrations, or the early and the late half of a single one, are searched by themselves and fitted by
    one and the same generalised least squares where the flags differ; the better method is the one whose two slopes
    agree within errors that are no larger than needed (:mod:`mrsxr.rate._slope_score`). The halves share neither
    photons nor read noise, so what a search leaves out in one of them cannot know the other; a search over the whole
    ramp would draw both together. Of several integrations the early and the late half must not show harm: what repeats
    in every integration is told by them alone. Less than 10 groups in a single integration: not judged, two-point.

    Examples
    --------
    >>> gain, readnoise = refs.get("gain", ramp), refs.get("readnoise", ramp)
    >>> out = mx.rate.flag_jumps(ramp, gain=gain, readnoise=readnoise, method="likelihood")
    """
    out = flag_bad_gain(ds, gain)
    if ds.sizes["group"] < MINIMUM_GROUPS:
        return out.assign(_score([float("nan")] * ds.sizes["dither"])) if method == "judged" else out
    times = () if method == "likelihood" else (after_jump_flag_time1, after_jump_flag_time2)
    bounds = (float(min_jump_to_flag_neighbors), float(max_jump_to_flag_neighbors)) if flag_4_neighbors else (0.0, 0.0)
    two_point = {
        "thresholds": (rejection_threshold, four_group_rejection_threshold, three_group_rejection_threshold),
        "neighbours": bounds, "minimum_groups": minimum_groups, "minimum_sigclip_groups": minimum_sigclip_groups,
        "only_use_ints": only_use_ints, "min_diffs_single_pass": min_diffs_single_pass,
    }  # fmt: skip
    likelihood = {
        "threshold_one_omit": threshold_one_omit, "threshold_two_omit": threshold_two_omit, "neighbours": bounds,
        "scale_photon_noise": scale_photon_noise,
    }  # fmt: skip
    group_dq, spread, judged = _found(out, method, gain, readnoise, linearity, two_point, likelihood)
    group_dq = with_neighbours(group_dq, spread, flag_4_neighbors)
    if max(times, default=0.0) > 0:
        n_after = tuple(int(time // group_time_of(ds)) for time in times)
        dn = (float(after_jump_flag_dn1), float(after_jump_flag_dn2))
        group_dq = _flag_after(ds, group_dq, gain, dn, n_after, *([] if judged is None else [over_frame(judged, ds)]))
    out = out.assign(group_dq=group_dq.assign_attrs(dq.GROUP_DQ_ATTRS))
    return out if judged is None else out.assign(_score(judged.data))


def _found(
    ds: xr.Dataset, method: str, gain: xr.Dataset, readnoise: xr.Dataset, linearity: xr.Dataset | None,
    two_point: dict[str, Any], likelihood: dict[str, Any],
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray | None]:  # fmt: skip
    """Return group flags with jumps, bool (same dims): jumps that flag their neighbours; and the score (dither)."""
    from ._jump_kernels import find_jumps
    from ._likelihood_kernels import find_jumps_gls

    judged: xr.DataArray | None = None
    inputs, core = [ds.sci, ds.group_dq, readnoise.read_noise, gain.gain], [RAMP, RAMP, [], []]
    wrapper: Any = find_jumps
    if method == "two-point":
        usable = over_frame((~lost_groups(ds)).sum("group").astype("int32"), ds)
        inputs, core, options = [*inputs, usable], [*core, ["integration"]], two_point
    else:
        wrapper, options = find_jumps_gls, {**likelihood, "group_time": group_time_of(ds)}
        inputs, core = [*inputs, dark_current_of(ds, gain)], [*core, []]
        if linearity is not None:
            inputs, core = [*inputs, *linearity_inputs(linearity)], [*core, ["order"], []]
    if method == "judged":
        from ._slope_score import find_judged

        judged, usable = judge_jumps(ds, gain, readnoise, linearity, two_point, options)
        inputs, core = [over_frame(judged, ds), over_frame(usable, ds), *inputs], [[], ["integration"], *core]
        wrapper, options = find_judged, {"two_point": two_point, "likelihood": options}
    group_dq, spread = map_ramps(
        wrapper, *inputs, core=core, out_core=[RAMP, RAMP], dtypes=["uint8", "bool"], **options
    )  # fmt: skip
    return group_dq, spread, judged


def _score(values: Any) -> dict[str, xr.Variable]:
    return scores.score(
        "jump", values, "dither", method="likelihood", instead="two-point", held_out="the other half of the ramps"
    )


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


def _flag_after(
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


def _typical(gain: xr.DataArray) -> xr.DataArray:
    """Return the median gain in every pixel."""
    whole = gain.drop_vars(list(gain.coords)).chunk(-1) if gain.chunks else gain.drop_vars(list(gain.coords))
    median = xr.apply_ufunc(_median_of_frame, whole, input_core_dims=[["y", "x"]], dask="parallelized",
                            output_dtypes=["float32"])  # fmt: skip
    return median.broadcast_like(gain)


def _median_of_frame(values: np.ndarray) -> np.ndarray:
    known = values[~np.isnan(values)]
    return np.asarray(np.median(known) if known.size else np.nan, dtype=np.float32)
