"""Stage 2: the steps from rate to cal in the order of a recipe, and what they need of other exposures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import xarray as xr

from mrsxr import cal
from mrsxr.errors import MrsxrError
from mrsxr.folding import fold
from mrsxr.notes import tell
from mrsxr.references import References

from .exposure_steps import Step, bound
from .optional import keeps_notes
from .parts import part

if TYPE_CHECKING:
    from .recipe import Recipe


@keeps_notes
def calibrate(
    ds: xr.Dataset,
    refs: References,
    recipe: Recipe,
    background: xr.Dataset | None = None,
    bad_pixels: xr.Dataset | None = None,
    history: Sequence[xr.Dataset] = (),
) -> xr.Dataset:
    """Run every step of stage 2.

    Parameters
    ----------
    ds : Dataset, level "rate"
    refs : References
    recipe : Recipe
    background : Dataset, level "rate", optional
        Background exposures of the same setting.
    bad_pixels : Dataset, optional
        Of :func:`find_mask`; by default found from these exposures, where the recipe asks for them.
    history : sequence of Dataset, level "rate"
        Other exposures of the detector, for the latents that they left.

    Returns
    -------
    Dataset, level "cal", lazy but for its coordinates
    """
    for _, step in cal_steps(ds, refs, recipe, background, bad_pixels, history):
        ds = step(ds)
    return fold(ds)[0]


def cal_steps(
    ds: xr.Dataset,
    refs: References,
    recipe: Recipe,
    background: xr.Dataset | None = None,
    bad_pixels: xr.Dataset | None = None,
    history: Sequence[xr.Dataset] = (),
) -> Iterator[tuple[str, Step]]:
    """Yield (name in jwst, function of a Dataset) of every step of stage 2; the parameters are those of calibrate."""
    given: dict[str, Any] = {"background": background, "history": history}
    for entry in recipe.steps("cal"):
        if entry.name == "badpix_selfcal":
            both = [ds] if background is None else [ds, background]
            bad = find_mask(both, recipe) if bad_pixels is None else bad_pixels
            if bad is None:
                continue
            if background is not None:
                given["background"] = cal.self_calibrate_bad_pixels(background, bad_pixels=bad)
            step: Step | None = partial(cal.self_calibrate_bad_pixels, bad_pixels=bad)
        else:
            if entry.name == "bkg_subtract" and background is None:
                raise MrsxrError(
                    f"setting {ds.attrs.get('setting')}: a pixel background is asked for and there is no background "
                    "exposure; give some, or leave bkg_subtract out"
                )
            step = bound(entry, ds, refs, given)
        if step is not None:
            yield entry.name, step


def find_mask(exposures: Sequence[xr.Dataset], recipe: Recipe) -> xr.Dataset | None:
    """Return the pixels that are off in all exposures of a detector; None, with a warning, where there is one only.

    Parameters
    ----------
    exposures : sequence of Dataset, level "rate"
    recipe : Recipe

    Returns
    -------
    Dataset or None
        See :func:`mrsxr.cal.find_bad_pixels`.
    """
    if not recipe.runs("badpix_selfcal"):
        return None
    if sum(one.sizes["dither"] for one in exposures) < 2:
        text = f"detector {exposures[0].attrs.get('detector')}: badpix_selfcal needs two exposures or more; left out"
        tell(text, stacklevel=3)
        return None
    return cal.find_bad_pixels(exposures, **recipe.values("badpix_selfcal"))


part("cal", "badpix_selfcal")(cal.find_bad_pixels)


@keeps_notes
def add_wcs(ds: xr.Dataset, refs: References, recipe: Recipe) -> xr.Dataset:
    """Run assign_wcs; the slice mask is derived from the distortion where there is no regions file."""
    step = bound(recipe.entry("cal.assign_wcs"), ds, refs)
    assert step is not None
    return step(ds)
