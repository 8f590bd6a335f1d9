"""Step rscd: the reset switch charge decay, which bends the first groups of a ramp."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.blocks import add_flags, map_ramps
from mrsxr.errors import ReferenceFileError
from mrsxr.limits import Ref
from mrsxr.notes import tell
from mrsxr.step import step

from ._exposure import RAMP, group_time_of, integration_numbers

MINIMUM_GROUPS = 3


@step(needs="ramp", jwst="rscd", keyword="S_RSCD", without={"rscd": "the first groups are used"})
def flag_rscd(ds: xr.Dataset, *, rscd: Ref) -> xr.Dataset:
    """Flag the first groups of every integration DO_NOT_USE.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``group_dq`` (dither, integration, group, y, x) with SATURATED set; ``attrs["readpatt"]``,
        ``attrs["subarray"]``. The coordinate ``integration`` tells which is the first of the exposure.
    rscd : Dataset, kind "rscd"
        ``group_skip1``, ``group_skip`` (row) with ``subarray`` and ``readpatt``: groups to drop in the first and in
        all later integrations.

    Returns
    -------
    Dataset, level "ramp"
        Ramps of five groups or fewer lose one group; at least three groups are left; fewer than three groups, or
        a readout that the reference does not list (a warning): unchanged. A pixel that would be left with less
        than two groups before it saturates loses fewer, and gets FLUX_ESTIMATED in ``pixel_dq``.
        ``attrs["rscd_skip_int1"]`` and ``["rscd_skip_int2"]`` tell the groups dropped (INT1SKIP, INT2SKIP).

    Notes
    -----
    As jwst's rscd. See :func:`count_relaxed` for the numbers of pixels that lose fewer groups.

    Examples
    --------
    >>> out = mx.rate.flag_rscd(ramp, rscd=refs.get("rscd", ramp))
    >>> out.attrs["rscd_skip_int1"] > 0
    True
    """
    from ._rscd_kernels import flag_first

    wanted = _groups_to_skip(ds, rscd, warn=True)
    if wanted is None:
        return ds
    first, later, skip = wanted
    n_first = _skipped(ds, skip)
    (group_dq,) = map_ramps(
        flag_first, ds.group_dq, n_first, core=[RAMP, ["integration"]], out_core=[RAMP], dtypes=["uint8"],
        n_most=max(skip),
    )  # fmt: skip
    relaxed = (n_first < xr.DataArray(np.array(skip), dims="integration")).any("integration")
    estimated = xr.where(relaxed, np.uint32(dq.FLAGS["FLUX_ESTIMATED"]), np.uint32(0)).astype("uint32")
    facts = {"rscd_skip_int1": first} if 1 in integration_numbers(ds) else {}
    facts |= {"rscd_skip_int2": later} if max(integration_numbers(ds)) > 1 else {}
    return ds.assign(
        group_dq=group_dq.assign_attrs(dq.GROUP_DQ_ATTRS), pixel_dq=add_flags(ds.pixel_dq, estimated)
    ).assign_attrs(facts)


def count_relaxed(ds: xr.Dataset, *, rscd: xr.Dataset) -> xr.Dataset:
    """Count the bright pixels that :func:`flag_rscd` spares groups; before or after the step.

    Returns
    -------
    Dataset, lazy
        ``n_lowered``: pixels that lose fewer groups (INT1BORS, INT2BORS); ``n_first_kept``: those that lose none
        (INT1UGP1, INT2UGP1), both on (dither, integrations) with integrations "first" and "later".
    """
    wanted = _groups_to_skip(ds, rscd, warn=False)
    skip = wanted[2] if wanted else (0,) * ds.sizes["integration"]
    n_first = _skipped(ds, skip)
    lowered = n_first < xr.DataArray(np.array(skip), dims="integration")
    parts = xr.DataArray(np.array([number == 1 for number in integration_numbers(ds)]), dims="integration")
    both = {"n_lowered": lowered, "n_first_kept": lowered & (n_first == 0)}
    counts = {
        name: xr.concat([(hit & part).any("integration").sum(["y", "x"]) for part in (parts, ~parts)], "integrations")
        for name, hit in both.items()
    }
    return xr.Dataset(counts).assign_coords(integrations=["first", "later"])


@step(needs="ramp", jwst="rscd", keyword="S_RSCD", once=True, without={"rscd": "the first groups are used"})
def correct_rscd(ds: xr.Dataset, *, rscd: Ref) -> xr.Dataset:
    """Subtract the decay from the integrations after the first, in place of dropping their first groups.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN], linear, ``group_dq`` (dither, integration, group, y, x); ``attrs["group_time"]`` [s].
    rscd : Dataset
        ``amplitude`` [1] and ``decay_time`` [s] on (term), optionally with y, x or both: the terms of the decay.
        ``amplitude`` is relative to the signal that the integration before had gathered when it was reset,
        negative for a deficit.

    Returns
    -------
    Dataset, level "ramp"
        ``sci`` [DN] corrected. Pixels without a usable reference or with fewer than two good samples in the
        integration before (saturated from its start, say) stay as they are and get UNRELIABLE_SLOPE; so do all
        pixels where the integration before is not among the data (a later segment, a cut), which is told.

    Raises
    ------
    MrsxrError
        Where ``attrs["group_time"]`` is not positive.
    ReferenceFileError
        Where the reference lacks its variables.

    Notes
    -----
    After Morrison et al. 2023 (PASP 135, 075004): the ramp of integration i > 1 carries an additional signal
    ``S(i-1) sum_k a_k exp(-t / tau_k)``, t being the time since the reset, (g + 1) times the group time for group
    g = 0, 1 ... S(i-1) is the slope between the first and last good samples of the integration before, corrected
    itself, times its number of groups until it saturates. The first integration, and what the reset does to the
    first group of all, is not touched: flag that by :func:`mrsxr.rate.firstframe.flag_first_frame`.

    Examples
    --------
    >>> terms = {"amplitude": ("term", [-0.01]), "decay_time": ("term", [20.0])}
    >>> out = mx.rate.correct_rscd(ramp, rscd=xr.Dataset(terms, attrs={"kind": "rscd"}))
    """
    from ._rscd_kernels import remove_decay

    group_time = group_time_of(ds)
    terms = []
    for name in ("amplitude", "decay_time"):
        if name not in rscd or "term" not in rscd[name].dims:
            raise ReferenceFileError(
                f"rscd {rscd.attrs.get('ref_id', '')} lacks '{name}' on (term); give amplitude and decay_time [s], or "
                "drop groups by flag_rscd"
            )
        array = rscd[name].drop_vars("term", errors="ignore").astype("float32")
        terms.append(array.expand_dims([dim for dim in ("y", "x") if dim not in array.dims]))
    numbers = integration_numbers(ds)
    follows = (False, *(b == a + 1 for a, b in pairwise(numbers)))
    alone = [number for number, known in zip(numbers, follows, strict=True) if number > 1 and not known]
    if alone:
        tell(
            f"rscd ({ds.attrs.get('setting')}): the decay in integration {', '.join(map(str, alone))} is not "
            "subtracted, as the integration before is not among the data; correct whole exposures",
            stacklevel=3,
        )
    sci, unknown = map_ramps(
        remove_decay, ds.sci, ds.group_dq, *terms, core=[RAMP, RAMP, ["term"], ["term"]], out_core=[RAMP, []],
        dtypes=["float32", "bool"], group_time=group_time, follows=follows,
    )  # fmt: skip
    unknown = unknown | bool(alone)
    flags = xr.where(unknown, np.uint32(dq.FLAGS["UNRELIABLE_SLOPE"]), np.uint32(0)).astype("uint32")
    return ds.assign(sci=sci.assign_attrs(ds.sci.attrs), pixel_dq=add_flags(ds.pixel_dq, flags))


def _skipped(ds: xr.Dataset, skip: tuple[int, ...]) -> xr.DataArray:
    from ._rscd_kernels import count_skipped

    (n_first,) = map_ramps(
        count_skipped, ds.group_dq, core=[RAMP], out_core=[["integration"]], dtypes=["uint8"], skip=skip
    )
    return n_first


def _groups_to_skip(ds: xr.Dataset, rscd: xr.Dataset, *, warn: bool) -> tuple[int, int, tuple[int, ...]] | None:
    """Return the groups to drop in the first, in later and in each of the integrations; None for no change."""
    n_groups = ds.sizes["group"]
    subarray, readpatt = str(ds.attrs.get("subarray", "")), str(ds.attrs.get("readpatt", ""))
    subarray = "SLITLESSPRISM" if subarray.upper() == "SUBPRISM" else subarray
    rows = np.flatnonzero((rscd.subarray.values == subarray) & (rscd.readpatt.values == readpatt))
    if n_groups < MINIMUM_GROUPS or not rows.size:
        if warn and not rows.size:
            tell(
                f"rscd {rscd.attrs.get('ref_id', '')} has no row for {subarray} {readpatt} "
                f"({ds.attrs.get('setting')}): no group is dropped",
                stacklevel=4,
            )
        return None
    first, later = (int(rscd[name].values[rows[0]]) for name in ("group_skip1", "group_skip"))
    asked = max(first, later)
    first, later = (1 if n < 0 or n_groups <= 5 else n for n in (first, later))
    first, later = (max(0, n_groups - 3) if n_groups < n + 3 else n for n in (first, later))
    if warn and max(first, later) < min(asked, 1):
        tell(f"{ds.attrs.get('setting')}: ramps of {n_groups} groups keep the first, which rscd drops", stacklevel=4)
    return first, later, tuple(first if number == 1 else later for number in integration_numbers(ds))
