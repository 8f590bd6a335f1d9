"""Stage 1 in plain code: the steps from ramp to rate in jwst's order, as a config asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import xarray as xr

from mrsxr import rate
from mrsxr.blocks import read_again
from mrsxr.errors import InputFileError
from mrsxr.references import References

from .config import RateConfig
from .optional import keeps_notes, optional
from .skipping import kept

Step = Callable[..., xr.Dataset]
#: Columns with the reference pixels and four neighbours each, which the growth of saturation reaches.
OUTER_COLUMNS = [*range(8), *range(-8, 0)]
OUTER_ROWS = 64  # of a block of these columns: a block of the dark is mapped whole to read them

_JUMP = (
    "rejection_threshold", "four_group_rejection_threshold", "three_group_rejection_threshold", "flag_4_neighbors",
    "min_jump_to_flag_neighbors", "max_jump_to_flag_neighbors", "min_diffs_single_pass", "after_jump_flag_dn1",
    "after_jump_flag_time1", "after_jump_flag_dn2", "after_jump_flag_time2", "minimum_groups",
    "minimum_sigclip_groups", "only_use_ints",
)  # fmt: skip
_SHOWERS = ("extend_snr_threshold", "extend_min_area", "time_masked_after_shower")


@keeps_notes
def correct_ramps(ds: xr.Dataset, refs: References, config: RateConfig) -> xr.Dataset:
    """Run every step of stage 1 before the slope fit, but those that ``config.skip`` names.

    Parameters
    ----------
    ds : Dataset, level "ramp"
    refs : References
    config : RateConfig

    Returns
    -------
    Dataset, level "ramp", lazy

    Raises
    ------
    InputFileError
        Where the ramps are too short, see :func:`check_groups`.

    Notes
    -----
    refpix needs the reference pixels of all rows before it can correct the first. They are taken through the steps
    before it a second time, as a Dataset of sixteen columns that shares no task with the rest, so that no block of
    the exposure waits in memory for the last.
    """
    check_groups(ds, config)
    measured_apart = config.refpix != "none" and ds.attrs.get("subarray") == "FULL" and bool(ds.chunks)
    if not measured_apart:
        for _, step in ramp_steps(ds, refs, config):
            ds = step(ds)
        return ds
    outer = read_again(ds.isel(x=OUTER_COLUMNS), "outer columns")
    outer = outer.assign({name: v.chunk(y=OUTER_ROWS) for name, v in outer.data_vars.items() if "y" in v.dims})
    steps, outer_steps = ramp_steps(ds, refs, config), ramp_steps(outer, refs, config)
    for name, step in steps:
        if name == "refpix":
            ds = step(ds, reference_columns=outer)
            break
        _, outer_step = next(outer_steps)
        outer = outer_step(outer, measured_on=ds) if name == "emicorr" else outer_step(outer)
        ds = step(ds)
    for _, step in steps:
        ds = step(ds)
    return ds


def check_groups(ds: xr.Dataset, config: RateConfig) -> None:
    """Raise InputFileError where no slope remains of ramps without the groups that the config leaves out.

    The last group is read while the array is reset, the first is offset by the reset. With three groups or fewer jwst
    keeps one of them or both, and its slopes can be anything.
    """
    n = ds.sizes["group"]
    last, first = int(config.lastframe), int(config.rscd != "none" or config.firstframe)
    if n - last - first >= 2:
        return
    groups = f"{n} group{'s' if n > 1 else ''}"
    names = ", ".join(str(name) for name in ds["exposure"].values) if "exposure" in ds.coords else "the exposure"
    if n < 2:
        raise InputFileError(f"{names}: ramps of {groups}; a slope needs two groups, and four to leave out the first "
                             "and the last; leave the exposure out")  # fmt: skip
    raise InputFileError(
        f"{names}: ramps of {groups}; without the {' and the '.join(['last'] * last + ['first'] * first)}, which the "
        "reset spoils, no slope remains; leave the exposure out, or take all groups by lastframe = false, "
        'rscd = "none" and firstframe = false (slopes are then flagged UNRELIABLE_SLOPE)'
    )


def ramp_steps(ds: xr.Dataset, refs: References, config: RateConfig) -> Iterator[tuple[str, Step]]:
    """Yield (name in jwst, function of a ramp Dataset) of every step before the slope fit.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        Its header chooses the reference files.
    refs : References
    config : RateConfig

    Yields
    ------
    str, callable
    """
    yield from kept(config.skip, "group_scale", lambda: rate.scale_groups)
    yield from kept(config.skip, "dq_init", lambda: partial(rate.flag_bad_pixels, mask=refs.get("mask", ds)))
    if config.emicorr != "none" and (emicorr := optional(refs, "emicorr", ds, "the interference stays")) is not None:
        yield "emicorr", partial(rate.correct_emi, emicorr=emicorr, algorithm=config.emicorr)
    yield from kept(config.skip, "saturation", lambda: partial(
        rate.flag_saturation, saturation=refs.get("saturation", ds), n_pix_grow_sat=config.n_pix_grow_sat,
    ))  # fmt: skip
    if config.ipc and (ipc := optional(refs, "ipc", ds, None)) is not None:
        yield "ipc", partial(rate.correct_ipc, ipc=ipc)
    if config.firstframe:
        yield "firstframe", partial(rate.flag_first_frame, bright_use_group1=config.bright_use_group1)
    if config.lastframe:
        yield "lastframe", rate.flag_last_frame
    if config.reset and (reset := optional(refs, "reset", ds, "the reset anomaly stays")) is not None:
        yield "reset", partial(rate.subtract_reset, reset=reset)
    yield from kept(config.skip, "linearity", lambda: partial(
        rate.correct_linearity, linearity=refs.get("linearity", ds),
    ))  # fmt: skip
    if config.rscd != "none" and (rscd := optional(refs, "rscd", ds, "the first groups are used")) is not None:
        yield "rscd", partial(rate.flag_rscd if config.rscd == "skip" else rate.correct_rscd, rscd=rscd)
    yield from kept(config.skip, "dark_current", lambda: partial(
        rate.subtract_dark, dark=refs.get("dark", ds), average_dark_current=config.average_dark_current,
    ))  # fmt: skip
    if config.refpix != "none":
        yield "refpix", partial(rate.subtract_reference_pixels, method=config.refpix)
    if config.charge_migration:
        yield "charge_migration", partial(rate.flag_charge_migration, signal_threshold=config.signal_threshold)
    yield from _jump_steps(ds, refs, config)
    if config.persistence:
        yield "persistence", partial(rate.flag_persistence, persistence_time=config.persistence_time)


def _jump_steps(ds: xr.Dataset, refs: References, config: RateConfig) -> Iterator[tuple[str, Step]]:
    noise = {"gain": refs.get("gain", ds), "readnoise": refs.get("readnoise", ds)}
    if config.showers == "remove":  # before jump, which would flag the core of a bright one
        regions = optional(refs, "regions", ds, "showers are looked for on all pixels")
        yield "showers", partial(rate.remove_showers, **noise, regions=regions)
    if config.jump == "two-point":
        yield "jump", partial(rate.flag_jumps, **noise, **_of(config, _JUMP))
    elif config.jump == "likelihood":
        linearity = refs.get("linearity", ds)
        yield "jump", partial(rate.flag_jumps_judged, **noise, linearity=linearity, **_of(config, _JUMP))
    if config.showers == "flag":
        yield "showers", partial(rate.flag_showers, **noise, **_of(config, _SHOWERS))


def _of(config: RateConfig, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}


def fit_slopes(ds: xr.Dataset, refs: References, config: RateConfig, product: str = "rate") -> tuple[xr.Dataset, ...]:
    """Fit slopes to corrected ramps by the algorithm of a config and scale them by the gain factor.

    Parameters
    ----------
    ds : Dataset, level "ramp"
    refs : References
    config : RateConfig
    product : {"rate", "rateints", "both"}

    Returns
    -------
    tuple of Dataset
        Of level "rate", "rateints", or one of each from the same fit; lazy.
    """
    gain = refs.get("gain", ds)
    options = {
        "gain": gain, "readnoise": refs.get("readnoise", ds), "algorithm": config.algorithm,
        "diagnostics": config.diagnostics, "suppress_one_group": config.suppress_one_group,
        "weighting": config.weighting, "dark_current_in_electrons": config.dark_current_in_electrons,
    }  # fmt: skip
    if config.algorithm == "gls":
        look = config.jump == "none" and "jump" not in config.skip
        options |= {"linearity": refs.get("linearity", ds), "find_jumps": look, "judged": True}
    fitted: tuple[xr.Dataset, ...]
    if product == "both":
        fitted = rate.fit_ramps_and_integrations(ds, **options)
    else:
        fitted = ({"rate": rate.fit_ramps, "rateints": rate.fit_integrations}[product](ds, **options),)
    if "gain_scale" in config.skip:
        return fitted
    return tuple(rate.scale_gain(one, gain=gain) for one in fitted)
