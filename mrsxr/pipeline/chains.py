"""Reduce a tree in memory: the pieces of the plan one after the other, up to a level; nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
import xarray as xr

from mrsxr import spectrum, tree
from mrsxr.arguments import bands_held, reads
from mrsxr.attributes import share_done
from mrsxr.blocks import computed
from mrsxr.errors import MrsxrError
from mrsxr.io.files import BACKGROUND, SCIENCE
from mrsxr.limits import checked, checked_but
from mrsxr.mrs import BANDS, bands_of_setting, setting_of_band
from mrsxr.notes import tell
from mrsxr.references import References

from . import pieces
from .cal_chain import calibrate
from .combine_chain import one_background
from .cube_chain import background_spectrum, fields_of
from .engine import do_all
from .given import references_of
from .pieces import Group, Way
from .plan import Planner, Task, Unit
from .recipe import Recipe
from .spectrum_chain import OF_EXPOSURES

Data = xr.Dataset | xr.DataTree
MATCHED = "matched"  # node of the cubes of match_bands
LEVELS = ("ramp", "rate", "cal", "cube", "spectrum")
Given = Recipe | str | PathLike[str] | None


@reads()
@checked
def reduce(
    data: Data,
    refs: References | str | PathLike[str] | None = None,
    recipe: Given = None,
    *,
    to: Literal["rate", "cal", "cube", "spectrum"] = "spectrum",
    bands: str | int | Iterable[str | int] | None = None,
) -> Any:
    """Reduce data from the level that they have to another.

    Parameters
    ----------
    data : Dataset or DataTree of level "ramp", "rate", "cal" or "cube"
    refs : References or path, optional
    recipe : Recipe, name or TOML file, optional
        By default "baseline".
    to : {"rate", "cal", "cube", "spectrum"}
    bands : str, int or iterable of them, optional
        Of cubes and spectra only these; refused up to "cal", where exposures hold two bands each.

    Returns
    -------
    Dataset or DataTree
        As :func:`make_rate`, :func:`make_cal`, :func:`make_cubes` or :func:`make_spectra` give it. Up to cubes it is
        lazy, and nothing is computed. Spectra are computed: where the source is, of which type it is ("auto") and how
        long the stitched spectrum is, values alone tell. The cubes are computed before, together, and first of all the
        exposures where the spectra (fit_spectrum), their errors (exact_errors) or the pattern (pfpc) need them: all of
        it once.

    Examples
    --------
    >>> cal = mx.reduce(ramp, refs, to="cal")  # a plan
    >>> cal.attrs["level"]
    'cal'
    """
    given: Any = references_of("reduce", refs, needed=False)
    recipe = Recipe.of(recipe)
    exposures: Data | None = None
    level = str(next(iter(_nodes(data)))[1].attrs.get("level"))
    if level not in LEVELS or LEVELS.index(level) > LEVELS.index(to):
        raise MrsxrError(
            f"reduce: the data are of level {level}; expected one of {', '.join(LEVELS[:-1])} up to '{to}'"
        )
    way = LEVELS[LEVELS.index(level) + 1 : LEVELS.index(to) + 1]
    if bands is not None and to not in ("cube", "spectrum"):
        raise MrsxrError(f"bands are chosen of cubes and spectra; leave them out, or take to='cube', not to='{to}'")
    if bands is not None and level == "cube":
        data = _of_bands(data, bands)
    if "rate" in way:
        data = make_rate(data, given, recipe)
    if "cal" in way:
        data = make_cal(data, given, recipe)
    if "cube" in way:
        wanted = None if bands is None else _wanted(data, bands)
        exposures = combine_exposures(data, given, recipe, bands=wanted)
        if "spectrum" in way and any(map(recipe.runs, OF_EXPOSURES)):
            exposures = _computed(exposures)
        data = make_cubes(exposures, given, recipe, bands=wanted)
    if "spectrum" in way:
        data = make_spectra(_computed(data), given, recipe, exposures=exposures)
    return data


def _wanted(data: Data, bands: Any) -> Sequence[str]:
    """Return the bands that are wanted, all where none is named; one that the data do not hold is refused."""
    held = {band for _, ds in _nodes(data) for band in bands_of_setting(ds.attrs["setting"])}
    return BANDS if bands is None else bands_held(bands, held, "data")


def _of_bands(data: Data, bands: Any) -> Data:
    """Return the cubes of some bands; those of several bands are kept where all of theirs are wanted."""
    nodes = dict(_nodes(data))
    held = {
        path: {str(one) for one in np.ravel(ds.coords.get("band", ds.attrs.get("band")))} for path, ds in nodes.items()
    }
    wanted = set(bands_held(bands, set().union(*held.values()), "cubes"))
    if isinstance(data, xr.Dataset):
        return data
    return tree.build({path: ds for path, ds in nodes.items() if held[path] <= wanted}, **tree.attrs_of(data))


def _computed(data: Data) -> Data:
    """Return data with their values; tasks that nodes of a tree share run once."""
    if isinstance(data, xr.Dataset):
        return computed([data])[0]
    nodes = dict(_nodes(data))
    return tree.build(dict(zip(nodes, computed(list(nodes.values())), strict=True)), **tree.attrs_of(data))


@reads()
@checked_but("data", "refs", "recipe")
def make_rate(data: Data, refs: References, recipe: Given = None) -> Any:
    """Turn ramps into slopes: all steps of stage 1, from group_scale to gain_scale.

    Parameters
    ----------
    data : Dataset of level "ramp", or DataTree of such
    refs : References or path
    recipe : Recipe, name or TOML file, optional

    Returns
    -------
    Dataset or DataTree of level "rate", lazy

    Examples
    --------
    >>> rate = mx.make_rate(ramp, refs)  # a plan
    >>> rate.rate.attrs["units"]
    'DN/s'
    """
    recipe = Recipe.of(recipe)
    if recipe.option("rate", "save_rateints"):
        tell("save_rateints: the slopes of the integrations are not made here; make_rate_and_ints gives both")
    return _rates("make_rate", data, refs, recipe, "rate")[0]


@reads()
@checked_but("data", "refs", "recipe")
def make_rate_and_ints(data: Data, refs: References, recipe: Given = None) -> tuple[Any, Any]:
    """Turn ramps into the average slopes and those of every integration, by one fit.

    Parameters
    ----------
    data : Dataset of level "ramp", or DataTree of such
    refs : References or path
    recipe : Recipe, name or TOML file, optional

    Returns
    -------
    Dataset or DataTree of level "rate", the same of level "rateints"
        Lazy; ``dask.compute`` of both fits once.

    Examples
    --------
    >>> rate, by_integration = mx.make_rate_and_ints(ramp, refs)
    >>> by_integration.rate.dims
    ('dither', 'integration', 'y', 'x')
    """
    rates, integrations = _rates("make_rate_and_ints", data, refs, Recipe.of(recipe), "rate", "rateints")
    return rates, integrations


def _rates(name: str, data: Data, refs: Any, recipe: Recipe, *kinds: str) -> list[Any]:
    refs = references_of(name, refs, needed=True)
    planner = Planner(recipe.with_option("rate", "save_rateints", len(kinds) > 1), BANDS)
    units = _units(data, 0)
    planner.exposures(units, "rate")
    made = do_all(planner.tasks, Way(refs, planner.recipe, lazy=True))
    found = [{one.name: made[task][kind][0] for one, task in zip(units, made, strict=True)} for kind in kinds]
    if isinstance(data, xr.Dataset):
        return [next(iter(one.values())) for one in found]
    return [tree.build(tree.gather(one), **tree.attrs_of(data)) for one in found]


@reads()
@checked_but("data", "refs", "recipe")
def make_cal(
    data: Data,
    refs: References,
    recipe: Given = None,
    *,
    background: xr.Dataset | None = None,
    bad_pixels: xr.Dataset | None = None,
    history: Sequence[xr.Dataset] = (),
) -> Any:
    """Turn slopes into surface brightness on the detector: all steps of stage 2, from assign_wcs to residual_fringe.

    Parameters
    ----------
    data : Dataset of level "rate", or DataTree of such
    refs : References or path
    recipe : Recipe, name or TOML file, optional
    background : Dataset of level "rate", optional
        Background exposures of the same setting, for bkg_subtract and badpix_selfcal. In a tree
        those of ``/background`` are taken.
    bad_pixels : Dataset, optional
        Of :func:`mrsxr.cal.find_bad_pixels` over more exposures than these, for badpix_selfcal; in a tree
        found from all exposures of the detector.
    history : sequence of Dataset of level "rate"
        Other exposures of the detector, for latents; in a tree those of its other nodes.

    Returns
    -------
    Dataset or DataTree of level "cal", lazy but for its coordinates

    Examples
    --------
    >>> cal = mx.make_cal(rate, refs, "optimal")
    >>> cal.flux.attrs["units"]
    'MJy/sr'
    """
    refs, recipe = references_of("make_cal", refs, needed=True), Recipe.of(recipe)
    if isinstance(data, xr.Dataset):
        return calibrate(data, refs, recipe, background, bad_pixels, history)
    planner = Planner(recipe, BANDS)
    exposures = planner.exposures(_units(data, 1), "cal", bad_pixels)
    made = do_all(planner.tasks, Way(refs, planner.recipe, lazy=True))
    return tree.build({one.name: made[task][kind][0] for one, (task, kind) in exposures}, **tree.attrs_of(data))


def _units(data: Data, stage: int) -> list[Unit]:
    """Return the exposures of a tree, those of one setting and size together."""
    return [
        Unit(_role(path), str(ds.attrs.get("setting", "")), path, path, stage, ds,
             (ds.attrs.get("subarray"), ds.attrs.get("readpatt")))
        for path, ds in tree.gather(dict(_nodes(data))).items()
    ]  # fmt: skip


def _role(path: str) -> str:
    return BACKGROUND if path.startswith("/background") else SCIENCE


@reads()
@checked_but("data", "refs", "recipe", "bands")
def make_cubes(
    data: Data,
    refs: References | None = None,
    recipe: Given = None,
    *,
    bands: str | int | Iterable[str | int] | None = None,
) -> xr.DataTree:
    """Build one cube a band from all its dithers, after background matching and subtraction and outlier detection.

    Parameters
    ----------
    data : Dataset or DataTree of level "cal"
    refs : References or path, optional
        For the cubepar file; without it the flight values.
    recipe : Recipe, name or TOML file, optional
    bands : str, int or iterable of them, optional
        Only these bands ("1A,2A", "ch1-short") or channels (1).

    Returns
    -------
    DataTree
        ``/science/1A``, ``/background/1A`` ... (a plain Dataset counts as science), and by ``output_type`` of
        cube_build ``/science/ch1`` ... or ``/science/multi``; by ``match_bands`` ``/matched/1A`` ... besides, for
        which the overlaps of the bands are computed. Of computed data, computed; of lazy data, lazy by
        wavelength block. What is lazy is computed again for each call of ``compute``: compute the exposures before, or
        the whole tree at once.

    Raises
    ------
    MrsxrError
        Where none of the bands is in the data.

    Examples
    --------
    >>> cubes = mx.make_cubes(cal, refs, bands="1A")
    >>> cubes["science/1A"].flux.dims
    ('wavelength', 'y', 'x')
    """
    refs, recipe = references_of("make_cubes", refs, needed=False), Recipe.of(recipe)
    wanted = _wanted(data, bands)
    planner, combined, backgrounds, _ = _third(data, recipe, wanted)
    built = planner.cubes(combined, backgrounds)
    matched = planner.matched(task["cube"] for name, task in built.items() if name in BANDS)
    made = do_all(planner.tasks, Way(refs, planner.recipe, lazy=True))
    found = {f"/{SCIENCE}/{name}": made[task][task.stage][0] for name, task in built.items()}
    for one in made[matched]["matched cube"] if matched else ():
        found[f"/{MATCHED}/{one.attrs['band']}"] = one
    for band, task in backgrounds.items():
        for number, one in enumerate(made[task]["background cube"], 1):
            found[f"/{BACKGROUND}/{band}" + (f"_{number}" if number > 1 else "")] = one
    if not found:
        raise MrsxrError(f"no band of {', '.join(wanted)} in the data")
    return tree.build(found, **tree.attrs_of(data))


@reads()
@checked_but("data", "refs", "recipe", "bands")
def combine_exposures(
    data: Data, refs: References | None = None, recipe: Given = None, *,
    bands: str | int | Iterable[str | int] | None = None,
) -> xr.DataTree:  # fmt: skip
    """Bring calibrated exposures to what cubes are built from: targets, backgrounds, outliers.

    :func:`make_cubes` and :func:`make_spectra` do this first, unless it was done.

    Parameters
    ----------
    data : Dataset or DataTree of level "cal"
    refs : References or path, optional
    recipe : Recipe, name or TOML file, optional
    bands : iterable of str, optional
        Of which cubes are wanted; others need no background.

    Returns
    -------
    DataTree of level "cal"
        ``/science/12A`` ..., combined, and ``/background/12A`` ... as they were.

    Examples
    --------
    >>> together = mx.combine_exposures(cal)
    >>> list(together["science"].children)
    ['12A']
    """
    refs = references_of("combine_exposures", refs, needed=False)
    recipe = Recipe.of(recipe)
    planner, combined, _, nodes = _third(data, recipe, _wanted(data, bands))
    made = do_all(planner.tasks, Way(refs, planner.recipe, lazy=True))
    for setting, ref in combined.items():
        (group,) = made[ref[0]][setting] if isinstance(ref, tuple) else (ref,)
        nodes[SCIENCE, setting] = pieces.together([group]).assign_attrs(combined=list(planner.bands))
    return tree.build({f"/{role}/{setting}": ds for (role, setting), ds in nodes.items()}, **tree.attrs_of(data))


def _third(
    data: Data, recipe: Recipe, wanted: Sequence[str]
) -> tuple[Planner, dict[str, Any], dict[str, Task], dict[tuple[str, str], xr.Dataset]]:
    """Return a plan of stage 3 up to the combined exposures, these by setting, the backgrounds by band, the nodes."""
    nodes = _joined(data)
    groups = {key: Group((ds,)) for key, ds in nodes.items()}
    science = {setting: ds for (role, setting), ds in nodes.items() if role == SCIENCE}
    done = bool(science) and all("combined" in ds.attrs for ds in science.values())
    for setting, ds in science.items() if done else ():
        if lacking := [b for b in bands_of_setting(setting) if b in wanted and b not in ds.attrs["combined"]]:
            raise MrsxrError(f"{setting}: the exposures were combined for other bands than {lacking[0]}; "
                             "combine them for all that are wanted")  # fmt: skip
    if science and all(share_done(ds, "pixel_background") == 1 for ds in science.values()):
        recipe = one_background(recipe)
    planner = Planner(recipe, wanted)
    backgrounds = planner.backgrounds(groups, measured=not done and recipe.runs("master_background"))
    combined = (
        {setting: groups[SCIENCE, setting] for setting in science} if done else planner.combined(groups, backgrounds)
    )
    return planner, combined, backgrounds, nodes


@reads()
@checked_but("data", "refs", "recipe", "exposures")
def make_spectra(
    data: Data, refs: References | None = None, recipe: Given = None, *, exposures: Data | None = None
) -> xr.DataTree:
    """Extract a spectrum from every cube and stitch those of the science target.

    Parameters
    ----------
    data : Dataset or DataTree of level "cube"
    refs : References or path, optional
        For the extract1d and apcorr files. Without the first the radius is ``radius_factor`` FWHM; a point source needs
        the second unless ``aperture_correction`` of extract_1d is False.
    recipe : Recipe, name or TOML file, optional
    exposures : Dataset or DataTree of level "cal", optional
        What the cubes were made of, for fit_spectrum, exact_errors and pfpc: what :func:`make_cubes` got, or better
        :func:`combine_exposures` gave, so that they are not combined again.

    Returns
    -------
    DataTree
        ``/science/1A`` ... and ``/science/stitched``; with ``both_branches`` of extract_1d, where the images are
        ambiguous, those of the other type as ``/extended/1A`` ... or ``/point/1A`` ...; background cubes give
        ``/background/1A`` ... of the whole field. Cubes of several bands and matched ones are left out.

    Examples
    --------
    >>> spectra = mx.make_spectra(cube, refs)
    >>> spectra["science/stitched"].attrs["level"]
    'spectrum'
    """
    refs, recipe = references_of("make_spectra", refs, needed=False), Recipe.of(recipe)
    nodes = {path: ds for path, ds in _nodes(data) if not path.startswith(f"/{MATCHED}/")}
    sky = {path: ds for path, ds in nodes.items() if _role(path) == BACKGROUND}
    found = _sky_spectra(sky, refs, exposures, recipe)
    target = {path: ds for path, ds in nodes.items() if path not in sky}
    target = {path: ds for path, ds in target.items() if str(ds.attrs["band"]) in BANDS} or target
    if target:
        paths = _one_a_band(target)
        planner = Planner(recipe, BANDS)
        cubes = {band: target[path] for band, path in paths.items()}
        spectra, joined = planner.spectra(cubes, _sources_of(cubes, refs, recipe, exposures))
        made = do_all(planner.tasks, Way(refs, planner.recipe, lazy=True))
        for number, whole in enumerate(made[joined]["stitched"]):
            root = "" if number == 0 else f"/{str(whole.attrs['source_type']).lower()}"
            for band, path in paths.items():
                found[f"{root}/{path.rpartition('/')[2]}" if root else path] = made[spectra[band]]["spectrum"][number]
            found[f"{root or '/science'}/stitched"] = whole
    return tree.build(found, **tree.attrs_of(data))


def _sky_spectra(
    cubes: dict[str, xr.Dataset], refs: References | None, exposures: Data | None, recipe: Recipe
) -> dict[str, xr.Dataset]:
    """Return the spectra of background cubes, by :func:`background_spectrum` where their exposures are there."""
    backgrounds = {} if exposures is None or not cubes else _joined(exposures)
    out = {}
    for path, ds in cubes.items():
        band, _, number = path.rpartition("/")[2].partition("_")
        parts = backgrounds.get((BACKGROUND, setting_of_band(band))) if band in BANDS else None
        if parts is None:
            out[path] = spectrum.extract_spectrum(ds, source_type="EXTENDED")
        else:
            out[path] = background_spectrum(ds, fields_of(parts)[int(number or 1) - 1], refs, recipe)
    return out


def _sources_of(
    bands: Iterable[str], refs: References | None, recipe: Recipe, exposures: Data | None
) -> dict[str, Group]:
    """Return the combined exposures behind the cube of each band, where the recipe wants errors that need them."""
    asked = [name for name in OF_EXPOSURES if recipe.runs(name)]
    if asked and exposures is None:
        without = {"fit_spectrum": "the spectra are those of apertures in the cubes",
                   "exact_errors": "the errors of the spectra ignore the covariance of voxels",
                   "pfpc": "the fixed pattern of point sources stays"}  # fmt: skip
        for name in asked:
            tell(f"{name} needs the exposures, make_spectra(..., exposures=cal); {without[name]}", stacklevel=3)
    if not asked or exposures is None:
        return {}
    bands = [band for band in bands if band in BANDS]
    combined = _joined(combine_exposures(exposures, refs, recipe, bands=bands))
    found = {band: combined.get((SCIENCE, setting_of_band(band))) for band in bands}
    return {band: Group((ds,)) for band, ds in found.items() if ds is not None}


def _one_a_band(cubes: Mapping[str, xr.Dataset]) -> dict[str, str]:
    """Return the path of each band; raise where two cubes are of one: they are of two products."""
    first: dict[str, str] = {}
    for path, ds in cubes.items():
        band = str(ds.attrs["band"])
        if first.setdefault(band, path) != path:
            raise MrsxrError(f"{first[band]} and {path} are both cubes of {band}; take the cubes of one product")
    return first


def _nodes(data: Data) -> Iterable[tuple[str, xr.Dataset]]:
    if isinstance(data, xr.DataTree):
        yield from tree.leaves(data)
    else:
        attrs = data.attrs  # `band` of exposures is SHORT, MEDIUM or LONG
        of_band = "setting" not in attrs or attrs.get("level") in ("cube", "spectrum")
        yield f"/science/{attrs.get('band') if of_band else attrs['setting']}", data


def _joined(data: Data) -> dict[tuple[str, str], xr.Dataset]:
    """Return the exposures of a tree by role and setting; raise where some of a setting cannot be joined."""
    parts: dict[tuple[str, str], list[xr.Dataset]] = {}
    for path, ds in tree.gather(dict(_nodes(data))).items():
        parts.setdefault((_role(path), str(ds.attrs["setting"])), []).append(ds)
    return {key: pieces.together(found) for key, found in parts.items()}
