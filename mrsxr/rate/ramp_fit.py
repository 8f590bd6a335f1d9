"""Step ramp_fit: fit a slope to every ramp."""

from __future__ import annotations

from typing import Any, Literal

import dask
import numpy as np
import xarray as xr

from mrsxr import dq, scores
from mrsxr.arguments import parameters_of, reads
from mrsxr.blocks import is_lazy, map_ramps
from mrsxr.limits import OptionalRef, Positive, Ref, Whole
from mrsxr.notes import tell
from mrsxr.schema import units_of
from mrsxr.step import step

from ._exposure import dark_current_of, group_time_of, integration_numbers, linearity_inputs
from ._judged import judged_rows, over_frame

Method = Literal["ols", "likelihood", "gls"]
LIKELIHOOD_MINIMUM_GROUPS = 4
FEWEST_GROUPS = 4  # of a ramp that can do without its first and its last group
ROWS = 16  # on which "gls" is judged: all slices, one wavelength of each
UNRELIABLE_SLOPE = dq.FLAGS["UNRELIABLE_SLOPE"]
_NAMES = ("rate", "var_poisson", "var_read", "dq", "groups_used", "n_jumps", "chi2")
_TYPES = ("float32", "float32", "float32", "uint32", "uint16", "uint16", "float32")
_DIAGNOSTICS = ("groups_used", "n_jumps", "chi2")

#: Kinds of reference files that one method takes alone.
_GLS_ALONE = {"linearity": lambda given: given["method"] == "gls"}


@step(needs="ramp", gives="rate", jwst="ramp_fit", keyword="S_RAMP", only=_GLS_ALONE)
def fit_ramps(
    ds: xr.Dataset,
    *,
    gain: Ref,
    readnoise: Ref,
    method: Method = "ols",
    linearity: OptionalRef = None,
    suppress_one_group: bool = True,
    firstgroup: Whole | None = None,
    lastgroup: Whole | None = None,
    find_jumps: bool = True,
    use_jump_flags: bool = True,
    threshold_one_omit: Positive = 20.25,
    threshold_two_omit: Positive = 23.8,
    scale_photon_noise: bool = True,
    judged: bool = False,
    diagnostics: bool = True,
) -> xr.Dataset:
    """Fit a slope to every ramp and average the integrations.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN], ``group_dq`` (dither, integration, group, y, x), ``pixel_dq`` (dither, y, x);
        ``attrs["group_time"]`` [s]; dark current [electron/s] from a variable ``average_dark_current`` (y, x) or
        else ``attrs["average_dark_current"]``, 0 where absent.
    gain : Dataset, kind "gain"
        ``gain`` [electron/DN].
    readnoise : Dataset, kind "readnoise"
        ``read_noise`` [DN] of a difference of two reads (CDS).
    method : str
        "ols": segmented least squares, jwst's OLS_C. "likelihood": jwst's LIKELY; "ols" below 4 groups, as there.
        "gls": generalised least squares with its own search for jumps.
    linearity : Dataset, kind "linearity", optional
        For "gls": the noise follows the response of the pixel at each level.
    suppress_one_group : bool
        For "ols": an integration without two neighbouring good groups gives no slope. False: the value of a single
        group over the group time, bias and all, as jwst has it on request; flagged UNRELIABLE_SLOPE.
    firstgroup, lastgroup : int, optional
        For "ols" and the others: groups before and after these (from 0) are left out.
    find_jumps, use_jump_flags : bool
        For "gls": look for jumps; cut the ramps where ``group_dq`` has JUMP_DET.
    threshold_one_omit, threshold_two_omit : float
        A jump is where chi2 falls by more when one difference is left free, or two in a row (the latter "gls" only).
    scale_photon_noise : bool
        For "gls" with ``linearity``: the photon noise follows the response of the pixel too.
    judged : bool
        For "gls": taken only in exposures where it shows a gain over "ols", see Notes.
    diagnostics : bool
        Add ``groups_used``, ``n_jumps`` and, but for "ols", ``chi2``.

    Returns
    -------
    Dataset, level "rate"
        ``rate`` [DN/s], ``var_poisson``, ``var_read`` [DN2/s2], ``dq`` (dither, y, x). NaN and DO_NOT_USE where no
        integration gives a slope. SATURATED and JUMP_DET tell that a part of the ramp was left out. Ramps of two or
        three groups, whose slope rests on the first or the last group, get UNRELIABLE_SLOPE (and a note); those of one
        group are NaN (jwst gives the number). ``score_ramp_fit`` (dither) where judged.

    Raises
    ------
    MrsxrError
        Where ``attrs["group_time"]`` is missing or not positive.

    Notes
    -----
    ols: segments are runs of good groups between jumps; weights ``|2x/(n-1) - 1|^P`` with P by the signal-to-noise
    ratio of the segment (Fixsen et al. 2000, PASP 112, 1350). As in jwst, segments and integrations are combined by
    read noise alone, and ols and likelihood add the dark current [electron/s] to the rate [DN/s] as it is.

    likelihood, gls: differences with the covariance of read and photon noise (Brandt 2024, PASP 136, 045004 and
    045005). gls differs from jwst's: a group that was lost is bridged, not a gap; a jump costs one difference, not
    two; the covariance follows from the rate of all integrations, found in turns with the jumps, so that a faint
    slope is not biased by its own noise; the test of two differences in a row is done; the integrations are averaged
    by the total variance of that one rate.

    judged: on the rows 16 to 31 of the detector the early and the late half of all ramps (odd and even integrations
    of fewer than 10 groups) are fitted by "gls" and by "ols", with the flags that they have. The better is the one
    whose two slopes agree within errors that are no larger than needed (:mod:`mrsxr.rate._slope_score`). The halves
    share neither photons nor read noise, and neither fit knows the half that it is held against. What bends all ramps
    alike (a wrong linearity) sets the halves apart in both and shows no gain. Less than 10 groups in a single
    integration: not judged, "ols". What is left undecided is "ols", bit for bit.

    Examples
    --------
    >>> rate = mx.rate.fit_ramps(ramp, gain=refs.get("gain", ramp), readnoise=refs.get("readnoise", ramp), method="gls")
    >>> rate.rate.attrs["units"]
    'DN/s'
    """
    parameters = {name: value for name, value in locals().items() if name not in ("ds", "diagnostics")}
    mean, _, score = _fit(ds, **parameters)
    return _dataset(ds, mean, [], diagnostics, score)


@step(needs="ramp", gives="rateints", jwst="ramp_fit", keyword="S_RAMP", only=_GLS_ALONE)
@parameters_of(fit_ramps)
def fit_integrations(ds: xr.Dataset, *, diagnostics: bool = True, **parameters: Any) -> xr.Dataset:
    """Fit a slope to every integration apart; parameters and method as :func:`fit_ramps`.

    Returns
    -------
    Dataset, level "rateints"
        ``rate`` [DN/s], ``var_poisson``, ``var_read`` [DN2/s2], ``dq`` (dither, integration, y, x).

    Examples
    --------
    >>> one_by_one = mx.rate.fit_integrations(ramp, gain=refs.get("gain", ramp), readnoise=refs.get("readnoise", ramp))
    >>> one_by_one.rate.dims
    ('dither', 'integration', 'y', 'x')
    """
    _, each, score = _fit(ds, **parameters)
    return _dataset(ds, each, ["integration"], diagnostics, score)


@reads()
def fit_ramps_and_integrations(ds: xr.Dataset, **parameters: Any) -> tuple[xr.Dataset, xr.Dataset]:
    """Fit once for the average and for every integration.

    Parameters
    ----------
    ds : Dataset, level "ramp"
    **parameters
        Those of :func:`fit_ramps`.

    Returns
    -------
    (Dataset of level "rate", Dataset of level "rateints")
        The same as from :func:`fit_ramps` and :func:`fit_integrations`. Lazy where ``ds`` is: both rest on the same
        nodes of the graph, so ``dask.compute(rate, rateints)`` fits every ramp once.

    Examples
    --------
    >>> files = {kind: refs.get(kind, ramp) for kind in ("gain", "readnoise")}
    >>> rate, rateints = mx.rate.fit_ramps_and_integrations(ramp, **files)
    """
    later = is_lazy(ds)
    lazy = ds if later else ds.chunk()
    both = fit_ramps(lazy, **parameters), fit_integrations(lazy, **parameters)
    return both if later else dask.compute(*both)


def _fit(
    ds: xr.Dataset, *, gain: xr.Dataset, readnoise: xr.Dataset, method: str, linearity: xr.Dataset | None,
    firstgroup: int | None, lastgroup: int | None, judged: bool, **options: Any,
) -> tuple[tuple[xr.DataArray, ...], tuple[xr.DataArray, ...], xr.DataArray | None]:  # fmt: skip
    """Return the variables of level rate and those of level rateints, by one call of a wrapper, and the score."""
    if method == "likelihood" and ds.sizes["group"] < LIKELIHOOD_MINIMUM_GROUPS:
        method = "ols"
    _tell_few(ds, options["suppress_one_group"])
    wrapper, wanted = _wrapper_of(method)
    kwargs = {name: value for name, value in options.items() if name in wanted}
    ramp, one = ["integration", "group"], ["integration"]
    inputs = [ds.sci, ds.group_dq, ds.pixel_dq, readnoise.read_noise, gain.gain, dark_current_of(ds, gain)]
    core: list[list[str]] = [ramp, ramp, [], [], [], []]
    if method == "gls" and linearity is not None:
        inputs += linearity_inputs(linearity)
        core += [["order"], []]
    n = len(_NAMES) - (method == "ols")
    common = {"group_time": group_time_of(ds), "limits": _limits(firstgroup, lastgroup, ds.sizes["group"])}
    score = None
    if method == "gls" and judged:
        from ._slope_score import fit_judged

        kwargs = {"gls": kwargs, "ols": {name: options[name] for name in _wrapper_of("ols")[1]}}
        score = _judge(ds, gain, readnoise, linearity, {**common, **kwargs})
        wrapper, inputs, core = fit_judged, [over_frame(score, ds), *inputs], [[], *core]
    out = map_ramps(
        wrapper, *inputs, core=core, out_core=[[]] * n + [one] * n, dtypes=_TYPES[:n] * 2, **common, **kwargs
    )
    return out[:n], out[n:], score


def _judge(
    ds: xr.Dataset, gain: xr.Dataset, readnoise: xr.Dataset, linearity: xr.Dataset | None, options: dict[str, Any]
) -> xr.DataArray:
    """Return the score (dither) of "gls" over "ols"."""
    from ._slope_score import judge_fits

    rows, core = judged_rows(ds, gain, readnoise, linearity, ROWS)
    return xr.apply_ufunc(
        judge_fits, *rows, input_core_dims=core, kwargs=options, dask="parallelized", output_dtypes=["float32"]
    )


def _tell_few(ds: xr.Dataset, suppress_one_group: bool) -> None:
    """Say what slopes of a few groups are worth."""
    n = ds.sizes["group"]
    if n >= FEWEST_GROUPS:
        return
    text = f"{ds.attrs.get('setting')}: ramps of {n} group{'s' if n > 1 else ''}"
    if n == 1 and suppress_one_group:
        tell(f"{text} give no slope: all pixels are NaN", stacklevel=5)
    else:
        tell(f"{text} cannot do without the first and the last one: slopes are UNRELIABLE_SLOPE", stacklevel=5)


def _wrapper_of(method: str) -> tuple[Any, tuple[str, ...]]:
    """Return the wrapper of a method and the parameters that it takes."""
    if method == "ols":
        from ._ramp_fit_kernels import fit_ols

        return fit_ols, ("suppress_one_group",)
    from ._likelihood_kernels import fit_gls, fit_likelihood

    if method == "likelihood":
        return fit_likelihood, ("threshold_one_omit",)
    return fit_gls, (
        "find_jumps", "use_jump_flags", "threshold_one_omit", "threshold_two_omit", "scale_photon_noise",
    )  # fmt: skip


def _limits(firstgroup: int | None, lastgroup: int | None, n_groups: int) -> tuple[int, int]:
    """Return the first and the last group to use; jwst ignores limits that leave less than two groups."""
    first = 0 if firstgroup is None else max(int(firstgroup), 0)
    last = n_groups - 1 if lastgroup is None else min(int(lastgroup), n_groups - 1)
    if first >= last and n_groups > 1:
        tell(
            f"firstgroup {firstgroup} and lastgroup {lastgroup} leave no ramp of {n_groups} groups: not used",
            stacklevel=5,
        )
        return 0, n_groups - 1
    return first, last


def _dataset(
    ds: xr.Dataset, out: tuple[xr.DataArray, ...], extra: list[str], diagnostics: bool, score: xr.DataArray | None
) -> xr.Dataset:
    variables: dict[Any, Any] = {name: v for name, v in ds.data_vars.items() if str(name).startswith(scores.PREFIX)}
    if score is not None:
        variables |= scores.score("ramp_fit", score.data, "dither", method="gls", instead="ols",
                                  held_out="the other half of the ramps")  # fmt: skip
    for name, array in zip(_NAMES, out, strict=False):
        if name == "dq":
            flags = array | np.uint32(UNRELIABLE_SLOPE) if ds.sizes["group"] < FEWEST_GROUPS else array
            variables[name] = flags.assign_attrs(dq.PIXEL_DQ_ATTRS)
        elif diagnostics or name not in _DIAGNOSTICS:
            variables[name] = array.assign_attrs(units=units_of("rate", name))
    keep = {name: c for name, c in ds.coords.items() if set(c.dims) <= {"dither", "y", "x", *extra}}
    numbers = integration_numbers(ds)
    held = {"n_integrations": len(numbers), "first_integration": numbers[0], "last_integration": numbers[-1]}
    return xr.Dataset(variables, coords=keep, attrs=held)
