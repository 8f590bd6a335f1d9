"""Step jump of the optimal mode: jumps by the likelihood of the ramp where that shows a gain, else by two points."""

from __future__ import annotations

from typing import Any

import xarray as xr

from mrsxr import dq, scores
from mrsxr.blocks import map_ramps
from mrsxr.limits import Count, NotNegative, OptionalRef, Positive, Ref
from mrsxr.step import step

from .jump import RAMP, flag_after, flag_bad_gain, groups_after, over_frame, with_neighbours
from .likelihood import MINIMUM_GROUPS, dark_current_of, group_time_of, linearity_inputs

#: Rows at the edge that are passed over, and rows on which jumps are judged: an eighth of the detector.
EDGE, ROWS = 16, 128


@step(needs="ramp", jwst="jump", keyword="S_JUMP")
def flag_jumps_judged(
    ds: xr.Dataset,
    *,
    gain: Ref,
    readnoise: Ref,
    linearity: OptionalRef = None,
    threshold_one_omit: Positive = 20.25,
    threshold_two_omit: Positive = 23.8,
    scale_photon_noise: bool = True,
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
    """Flag jumps as :func:`flag_jumps_likelihood` in exposures where that shows a gain, else as :func:`flag_jumps`.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        As of both.
    gain, readnoise : Dataset
        As of both.
    linearity : Dataset, optional
        As of :func:`flag_jumps_likelihood`.
    threshold_one_omit, threshold_two_omit : float
        Fall of chi2 that makes a jump, by likelihood.
    scale_photon_noise : bool
        By likelihood: the photon noise follows the response of the pixel too.
    rejection_threshold, four_group_rejection_threshold, three_group_rejection_threshold : float
        Thresholds [sigma] of the two-point test.
    flag_4_neighbors : bool
        Also flag the pixels above, below, left and right of a jump ...
    min_jump_to_flag_neighbors, max_jump_to_flag_neighbors : float
        ... whose size [sigma] lies between these.
    after_jump_flag_dn1, after_jump_flag_time1, after_jump_flag_dn2, after_jump_flag_time2 : float
        As of :func:`flag_jumps`; the two-point test alone.
    minimum_groups, minimum_sigclip_groups, min_diffs_single_pass : int
        As of :func:`flag_jumps`.
    only_use_ints : bool
        As of :func:`flag_jumps`.

    Returns
    -------
    Dataset, level "ramp"
        ``group_dq`` and ``pixel_dq`` as of the one or the other, ``score_jump`` (dither).

    Notes
    -----
    Judged on 128 rows of the detector from row 16 on, on 64 where there are several integrations of 10 groups or more.
    Odd and even integrations, or the early and the late half of a single one, are searched by themselves and fitted by
    one and the same generalised least squares where the flags differ; the better method is the one whose two slopes
    agree within errors that are no larger than needed (:mod:`mrsxr.rate._slope_score`). The halves share neither
    photons nor read noise, so what a search leaves out in one of them cannot know the other; a search over the whole
    ramp would draw both together. Of several integrations the early and the late half must not show harm: what repeats
    in every integration is told by them alone. Less than 10 groups in a single integration: not judged, two-point.
    """
    out = flag_bad_gain(ds, gain)
    n_after = groups_after(ds, after_jump_flag_time1, after_jump_flag_time2)
    if ds.sizes["group"] < MINIMUM_GROUPS:
        return out.assign(_score([float("nan")] * ds.sizes["dither"]))

    from ._slope_score import find_judged

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
    judged, usable = judge(out, gain, readnoise, linearity, two_point, likelihood)
    noise = [readnoise.read_noise, gain.gain, dark_current_of(ds, gain)]
    more = [] if linearity is None else linearity_inputs(linearity)
    group_dq, spread = map_ramps(
        find_judged, over_frame(judged, ds), over_frame(usable, ds), ds.sci, ds.group_dq, *noise, *more,
        core=[[], ["integration"], RAMP, RAMP, [], [], [], *([["order"], []] if more else [])], out_core=[RAMP, RAMP],
        dtypes=["uint8", "bool"], two_point=two_point, likelihood={**likelihood, "group_time": group_time_of(ds)},
    )  # fmt: skip
    group_dq = with_neighbours(group_dq, spread, flag_4_neighbors)
    if max(n_after) > 0:
        dn = (float(after_jump_flag_dn1), float(after_jump_flag_dn2))
        group_dq = flag_after(ds, group_dq, gain, dn, n_after, over_frame(judged, ds))
    out = out.assign(group_dq=group_dq.assign_attrs(dq.GROUP_DQ_ATTRS))
    return out.assign(_score(judged.data))


def _score(values: Any) -> dict[str, xr.Variable]:
    return scores.score(
        "jump", values, "dither", method="likelihood", instead="two-point", held_out="the other half of the ramps"
    )


def judge(
    ds: xr.Dataset, gain: xr.Dataset, readnoise: xr.Dataset, linearity: xr.Dataset | None, two_point: dict[str, Any],
    likelihood: dict[str, Any],
) -> tuple[xr.DataArray, xr.DataArray]:  # fmt: skip
    """Return the score (dither) and the usable groups (dither, integration), from some rows."""
    from ._slope_score import HALF, judge_jumps, usable_groups

    twice = ds.sizes["integration"] > 1 and ds.sizes["group"] >= 2 * HALF  # searched, so on half as many rows
    inputs, core = judged_rows(ds, gain, readnoise, linearity, ROWS // 2 if twice else ROWS)
    judged = xr.apply_ufunc(
        judge_jumps, *inputs, input_core_dims=core, dask="parallelized", output_dtypes=["float32"],
        kwargs={"group_time": group_time_of(ds), "two_point": two_point, "likelihood": likelihood},
    )  # fmt: skip
    usable = xr.apply_ufunc(
        usable_groups, inputs[1], input_core_dims=[core[1]], output_core_dims=[["integration", "one", "also"]],
        dask="parallelized", output_dtypes=["int32"], dask_gufunc_kwargs={"output_sizes": {"one": 1, "also": 1}},
    )  # fmt: skip
    return judged, usable.isel(one=0, also=0)


def judged_rows(
    ds: xr.Dataset, gain: xr.Dataset, readnoise: xr.Dataset, linearity: xr.Dataset | None, n_rows: int
) -> tuple[list[xr.DataArray], list[list[str]]]:
    """Return what the judges of slopes ask of an exposure, in some rows and one chunk a dither, and its dims.

    The rows lie in the first blocks, which dask computes first anyway: with rows in the middle it held a third more.
    """
    first = EDGE if ds.sizes["y"] >= 4 * EDGE else 0
    inputs = [ds.sci, ds.group_dq, ds.pixel_dq, readnoise.read_noise, gain.gain, dark_current_of(ds, gain)]
    core = [[*RAMP, "y", "x"]] * 2 + [["y", "x"]] * 4
    if linearity is not None:
        inputs += linearity_inputs(linearity)
        core += [["order", "y", "x"], ["y", "x"]]
    rows = []
    for array in inputs:
        part = array.isel(y=slice(first, first + n_rows)).reset_coords(drop=True)
        part = part.drop_vars(list(part.coords))
        rows.append(part.chunk({dim: -1 for dim in part.dims if dim != "dither"}) if part.chunks else part)
    return rows, core
