"""Stage 3 before the cubes: what looks at several exposures at once, in the order of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import dask
import numpy as np
import xarray as xr

from mrsxr import cal
from mrsxr.attributes import MARKS, share_done
from mrsxr.blocks import as_delayed, is_lazy
from mrsxr.cal.background_match import match_later
from mrsxr.errors import MrsxrError
from mrsxr.mrs import bands_of_setting
from mrsxr.notes import listen, noted, tell
from mrsxr.references import References
from mrsxr.threads import how

from .exposure_steps import done
from .optional import optional
from .parts import PARTS, own_options, part

if TYPE_CHECKING:
    from .entry import Entry
    from .recipe import Recipe

Exposures = dict[str, xr.Dataset]


@dataclass(frozen=True)
class Beside:
    """What the combination of exposures looks at besides them.

    Parameters
    ----------
    spectra : sequence of Dataset, level "spectrum"
        Of the background exposures, of each band one or one an exposure, for the step master_background.
    background : mapping of setting to Dataset, level "cal"
        The background exposures, for field_background.
    eager : bool
        Find the outliers now, so that cubes computed one after the other do not find them again.
    bands : sequence of str, optional
        Of which something is made; by default all of the settings. Others need no background.
    """

    spectra: Sequence[xr.Dataset] = ()
    background: Mapping[str, xr.Dataset] = field(default_factory=dict)
    eager: bool = False
    bands: Sequence[str] | None = None


def combine(
    exposures: Mapping[str, xr.Dataset], recipe: Recipe, *, refs: References | None = None, **more: Any
) -> Exposures:
    """Bring calibrated exposures into one frame and level: targets, backgrounds, outliers.

    Parameters
    ----------
    exposures : mapping of name to Dataset, level "cal"
        All science exposures, one Dataset a setting.
    recipe : Recipe
    refs : References, optional
        For steps of single exposures that take some.
    **more
        Of :class:`Beside`.

    Returns
    -------
    dict of name to Dataset, level "cal"
        Lazy where the exposures are.
    """
    found, beside = dict(exposures), Beside(**more)
    for entry in recipe.steps("cube"):
        if entry.name == "cube_build":
            break
        if entry.name == "trace_model":  # of each band, for its cube
            continue
        if entry.path is None and PARTS.get(("cube", entry.name)) is entry.part:
            found = entry.part.function(found, beside, **entry.values(), **_files(entry, found, refs))
        else:
            found = {name: done(entry, ds, refs) for name, ds in found.items()}
    return found


def _files(entry: Entry, exposures: Exposures, refs: References | None) -> dict[str, list[xr.Dataset]]:
    """Return the reference files that a part takes, by kind: those of all settings that have one."""
    facts, refs = entry.part.facts, References({}) if refs is None else refs
    found = {kind: [optional(refs, kind, ds, facts.without[kind]) for ds in exposures.values()]
             for kind in facts.kinds(entry.values())}  # fmt: skip
    return {kind: [one for one in files if one is not None] for kind, files in found.items()}


def one_background(recipe: Recipe) -> Recipe:
    """Return a recipe for exposures from which the background was subtracted pixel by pixel: they lose no second one.

    It is told where the other was asked for.
    """
    for way in ("master", "field"):
        if recipe.runs(f"{way}_background"):
            if way == "field" or recipe.values(f"{way}_background")["required"]:
                tell(f"the background is subtracted pixel by pixel; the {way} background is left out")
            recipe = recipe.skipping(f"{way}_background")
    return recipe


@part("cube", "assign_mtwcs", cal.assign_mtwcs)
def _follow(exposures: Exposures, beside: Beside, **options: Any) -> Exposures:
    moving = [ds for ds in exposures.values() if cal.is_moving(ds)]
    if not moving:
        return exposures
    place = options["center"] or cal.target_position(moving)
    return {n: cal.assign_mtwcs(ds, center=place) if cal.is_moving(ds) else ds for n, ds in exposures.items()}


@part("cube", "tie_bands", cal.measure_offsets)
def _tie(exposures: Exposures, beside: Beside, **options: Any) -> Exposures:
    """Move all exposures, which stay as they are where none shows a point source."""
    try:
        with listen() as told:
            offsets = cal.measure_offsets(list(exposures.values()), **options)
    except MrsxrError as error:
        tell(f"tie_bands: {error}")
        return exposures
    return {name: noted(cal.tie_bands(ds, offsets=offsets), told) for name, ds in exposures.items()}


@part("cube", "match_backgrounds", cal.fit_background_match)
def _match(exposures: Exposures, beside: Beside, **options: Any) -> Exposures:
    if sum(ds.sizes["dither"] for ds in exposures.values()) < 2:
        return exposures
    given = list(exposures.values())
    if not beside.eager and all(ds["flux"].chunks for ds in given):
        matches = match_later(given, **options)
    else:
        matches = [cal.fit_background_match(given, **options)] * len(given)
    return {name: cal.match_backgrounds(exposures[name], match=one)
            for name, one in zip(exposures, matches, strict=True)}  # fmt: skip


@part("cube", "master_background", cal.combine_backgrounds, cal.subtract_master_background,
      hide=("bands", "exposure_times"))  # fmt: skip
def _subtract_master(exposures: Exposures, beside: Beside, *, required: bool = False, **options: Any) -> Exposures:
    """Subtract the spectrum of the background exposures in the bands of which there is one."""
    master, later = None, any(map(is_lazy, beside.spectra))
    if beside.spectra:
        join = dask.delayed(cal.combine_backgrounds) if later else cal.combine_backgrounds
        spectra = list(map(as_delayed, beside.spectra)) if later else beside.spectra
        master = join(spectra, **own_options(cal.combine_backgrounds, options))
    covered = {b for ds in beside.spectra for b in np.unique(ds["band"].values).tolist()}
    more = own_options(cal.subtract_master_background, options)

    def subtract(name: str, ds: xr.Dataset) -> xr.Dataset:
        bands = bands_of_setting(str(ds.attrs["setting"]))
        _tell_missing(name, [b for b in bands if b not in covered], beside, "master" if required else None)
        ours = [b for b in bands if b in covered]
        if master is None or not ours:
            return ds
        background = cal.background_on_detector(ds, master, bands=ours, **more) if later else master
        name_of_it = f"combined background of {len(beside.spectra)} spectra"
        background = background.assign_attrs(ref_id=name_of_it) if later else background
        return cal.subtract_master_background(ds, background=background, bands=ours, **more)

    return _unless_subtracted(exposures, "master", subtract)


@part("cube", "field_background", cal.measure_field_background)
def _subtract_field(exposures: Exposures, beside: Beside, *, required: bool = True, **options: Any) -> Exposures:
    """Subtract the background exposures in bins of wavelength, linear over the field."""

    def subtract(name: str, ds: xr.Dataset) -> xr.Dataset:
        setting = str(ds.attrs["setting"])
        if setting not in beside.background:
            _tell_missing(name, list(bands_of_setting(setting)), beside, "field" if required else None)
            return ds
        measured = cal.measure_field_background(beside.background[setting], **options)
        return cal.subtract_field_background(ds, background=measured)

    return _unless_subtracted(exposures, "field", subtract)


def _unless_subtracted(exposures: Exposures, way: str, subtract: Callable[..., Any]) -> Exposures:
    """Return exposures without background; those that lost it before stay as they are."""
    out = {}
    for name, ds in exposures.items():
        with listen() as heard:
            before = [mark for mark in cal.BACKGROUNDS if share_done(ds, mark) == 1]
            if before:
                subject, done, _ = MARKS[before[0]]
                tell(f"{name}: {subject} {done} already; the {way} background is left out")
            else:
                ds = subtract(name, ds)
        out[name] = noted(ds, heard)
    return out


def _tell_missing(name: str, missing: list[str], beside: Beside, asked: str | None) -> None:
    """Say, or refuse where a background was asked for, that bands have no background exposures."""
    missing = [band for band in missing if beside.bands is None or band in beside.bands]
    if not missing:
        return
    text = f"{name}: no background exposures of {' and '.join(missing)}"
    if asked is not None:
        raise MrsxrError(f"{text}, and a background is asked for ('{asked}'); give some, or take another way")
    tell(f"{text}: no background is subtracted there", aloud=bool(beside.spectra))


@part("cube", "outlier_detection", cal.detect_sky_outliers, cal.detect_outliers)
def _flag_outliers(
    exposures: Exposures, beside: Beside, *, method: Literal["detector", "sky"] = "detector", **options: Any
) -> Exposures:
    """Flag what stands out on the detector in all exposures and, by "sky", what single exposures show alone."""
    if sum(ds.sizes["dither"] for ds in exposures.values()) < 2:
        return exposures
    out, more = dict(exposures), own_options(cal.detect_sky_outliers, options)
    for detector in sorted({str(ds.attrs["detector"]) for ds in exposures.values()}):
        names = [name for name, ds in exposures.items() if ds.attrs["detector"] == detector]
        mask = cal.detect_outliers(
            [exposures[name] for name in names], **own_options(cal.detect_outliers, options)
        )  # fmt: skip
        mask = mask.compute(**how()) if beside.eager else mask
        for name in names:
            if method == "sky":
                single = cal.detect_sky_outliers(exposures[name], outliers=mask, **more)
                out[name] = cal.flag_outliers(out[name], outliers=single.compute(**how()) if beside.eager else single)
            out[name] = cal.flag_outliers(out[name], outliers=mask)
    return out
