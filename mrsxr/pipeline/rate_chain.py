"""Stage 1: the steps from ramp to rate in the order of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import xarray as xr

from mrsxr import rate
from mrsxr.blocks import is_lazy, read_again
from mrsxr.chunks import DETECTOR_CHUNKS
from mrsxr.errors import InputFileError
from mrsxr.folding import fold
from mrsxr.io.sources import columns_of
from mrsxr.references import References

from .exposure_steps import Step, bound
from .optional import keeps_notes

if TYPE_CHECKING:
    from .recipe import Recipe

#: Columns with the reference pixels and four neighbours each, which the growth of saturation reaches.
OUTER_COLUMNS = [*range(8), *range(-8, 0)]
OUTER_ROWS = 128  # at least, of a block of these columns


@keeps_notes
def correct_ramps(ds: xr.Dataset, refs: References, recipe: Recipe) -> xr.Dataset:
    """Run every step of stage 1 before the slope fit.

    Parameters
    ----------
    ds : Dataset, level "ramp"
    refs : References
    recipe : Recipe

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
    check_groups(ds, recipe)
    measured_apart = recipe.runs("refpix") and ds.attrs.get("subarray") == "FULL" and is_lazy(ds)
    if not measured_apart:
        for _, step in ramp_steps(ds, refs, recipe):
            ds = step(ds)
        return ds
    outer = _outer_columns(ds)
    steps, outer_steps = ramp_steps(ds, refs, recipe), ramp_steps(outer, refs, recipe)
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


def _outer_columns(ds: xr.Dataset) -> xr.Dataset:
    rows = max(ds.variables["sci"].chunksizes["y"])
    rows *= -(-OUTER_ROWS // rows)
    outer = columns_of(ds, OUTER_COLUMNS, rows)
    if outer is None:
        outer = read_again(ds.isel(x=OUTER_COLUMNS), "outer columns")
        outer = outer.assign({n: v.chunk(y=rows) for n, v in outer.items() if "y" in v.dims})
    return outer


def check_groups(ds: xr.Dataset, recipe: Recipe) -> None:
    """Raise InputFileError where no slope remains of ramps without the groups that the recipe leaves out.

    The last group is read while the array is reset, the first is offset by the reset. With three groups or fewer jwst
    keeps one of them or both, and its slopes can be anything.
    """
    n = ds.sizes["group"]
    last, first = int(recipe.runs("rate.lastframe")), int(recipe.runs("rate.rscd") or recipe.runs("rate.firstframe"))
    if n - last - first >= 2:
        return
    groups = f"{n} group{'s' if n > 1 else ''}"
    names = ", ".join(str(name) for name in ds["exposure"].values) if "exposure" in ds.coords else "the exposure"
    if n < 2:
        raise InputFileError(f"{names}: ramps of {groups}; a slope needs two groups, and four to leave out the first "
                             "and the last; leave the exposure out")  # fmt: skip
    raise InputFileError(
        f"{names}: ramps of {groups}; without the {' and the '.join(['last'] * last + ['first'] * first)}, which the "
        "reset spoils, no slope remains; leave the exposure out, or take all groups by skipping lastframe, rscd and "
        "firstframe (slopes are then flagged UNRELIABLE_SLOPE)"
    )


def ramp_steps(ds: xr.Dataset, refs: References, recipe: Recipe) -> Iterator[tuple[str, Step]]:
    """Yield (name in jwst, function of a ramp Dataset) of every step before the slope fit."""
    for entry in recipe.steps("rate"):
        if entry.name == "ramp_fit":
            return
        step = bound(entry, ds, refs)
        if step is not None:
            yield entry.name, step


def fit_slopes(ds: xr.Dataset, refs: References, recipe: Recipe, integrations: bool) -> tuple[xr.Dataset, ...]:
    """Run the slope fit and every step of stage 1 after it.

    Parameters
    ----------
    ds : Dataset, level "ramp"
    refs : References
    recipe : Recipe
    integrations : bool
        Whether the slopes of each integration are wanted besides.

    Returns
    -------
    tuple of Dataset
        Of level "rate", and of "rateints" from the same fit; lazy.
    """
    entries = list(recipe.steps("rate"))
    entries = entries[[one.name for one in entries].index("ramp_fit") :]
    fit, *steps = (bound(one, ds, refs) for one in entries)
    assert isinstance(fit, partial)
    fitted: tuple[xr.Dataset, ...]
    fitted = rate.fit_ramps_and_integrations(ds, *fit.args, **fit.keywords) if integrations else (fit(ds),)
    for step in filter(None, steps):
        fitted = tuple(step(one) for one in fitted)
    return fold(*(one if "integration" in one.dims else _in_whole_frames(one) for one in fitted))


def _in_whole_frames(ds: xr.Dataset) -> xr.Dataset:
    lazy = {name: v for name, v in ds.data_vars.items() if v.chunks}
    sizes = {name: {d: n for d, n in DETECTOR_CHUNKS.items() if d in v.dims} for name, v in lazy.items()}
    return ds.assign({name: v.variable.chunk(sizes[name]) for name, v in lazy.items()})
