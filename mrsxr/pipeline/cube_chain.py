"""From combined exposures to cubes: fields of the sky, cubes of one band and of several, backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from mrsxr import cal, cube, spectrum
from mrsxr.arguments import as_band
from mrsxr.errors import MrsxrError
from mrsxr.geometry.fields import fields
from mrsxr.io._names import root_name
from mrsxr.limits import Arcsec, Band
from mrsxr.notes import listen, noted, tell
from mrsxr.references import References
from mrsxr.scores import of_band

from .exposure_steps import done
from .optional import keeps_notes, optional
from .parts import own_options, part
from .spectrum_chain import correct_leak, with_exact_errors

if TYPE_CHECKING:
    from .recipe import Recipe

#: Cubes of several bands that may hold 3A.
HOLD_3A = ("ch3", "multi")
#: Steps of the level that look at the cubes of all bands, after those of each.
OF_ALL_BANDS = ("match_bands",)


def fields_of(ds: xr.Dataset) -> list[xr.Dataset]:
    """Return the exposures of each field of the sky: pointings that overlap or abut."""
    if not {"ra_ref", "dec_ref"} <= set(ds.coords) or ds.sizes["dither"] == 1:
        return [ds]
    number = fields(ds["ra_ref"].values, ds["dec_ref"].values)
    return [ds.isel(dither=np.flatnonzero(number == k)) for k in range(number.max() + 1)] if number.max() else [ds]


@keeps_notes
def make_cube(
    ds: xr.Dataset, band: str, refs: References | None, recipe: Recipe, model: xr.Dataset | None = None
) -> xr.Dataset:
    """Build the cube of one band from cal data of its setting, with a trace model where there is one."""
    options = _cube_options(ds, refs, recipe)
    return cube.build_cube(ds, band=band, trace_model=model, **options).assign(of_band(ds, band))


@keeps_notes
def make_target_cube(
    ds: xr.Dataset, band: str, refs: References | None, recipe: Recipe, leaking: xr.Dataset | None = None
) -> xr.Dataset:
    """Build the cube of one band of the target; take off its residual fringes and the light of the cube of 1B."""
    built = make_cube(ds, band, refs, recipe, _model_of(ds, band, refs, recipe))
    for entry in recipe.after("cube.cube_build"):
        if entry.name in OF_ALL_BANDS:
            continue
        if entry.name == "spectral_leak":
            parts = {"1B": leaking, band: built} if leaking is not None else {}
            built = correct_leak(parts, refs, recipe, "cube").get(band, built)
        else:
            built = done(entry, built, refs)
    return built


def background_cubes(ds: xr.Dataset, band: str, refs: References | None, recipe: Recipe) -> list[xr.Dataset]:
    """Return a cube of the background exposures of each field."""
    built = [make_cube(part, band, refs, recipe) for part in fields_of(ds)]
    return [one if k == 0 else one.assign_attrs(product_name=f"{root_name(one)}-field{k + 1}")
            for k, one in enumerate(built)]  # fmt: skip


def background_spectrum(
    built: xr.Dataset, ds: xr.Dataset, refs: References | None, recipe: Recipe
) -> xr.Dataset:  # fmt: skip
    """Return the spectrum of a background cube: the clipped mean of the whole field; lazy where the cube is.

    Its errors hold the covariance of the voxels, by the exposures ``ds`` of the cube, where jwst's are not asked for.
    """
    found = spectrum.extract_spectrum(built, source_type="EXTENDED")
    return found if mixes_bands(recipe) else with_exact_errors(found, built, ds, refs)


def background_spectra(ds: xr.Dataset, band: str, refs: References | None, recipe: Recipe) -> list[xr.Dataset]:
    """Return what :func:`combine` subtracts of a band: the spectra of its background exposures.

    One of each exposure where bands are mixed, as jwst has them; else one of the cube of each field, in which a voxel
    knows more pixels and its clipping is surer.
    """
    apart = mixes_bands(recipe)
    parts = [ds.isel(dither=[i]) for i in range(ds.sizes["dither"])] if apart else fields_of(ds)
    return [background_spectrum(make_cube(part, band, refs, recipe), part, refs, recipe) for part in parts]


def of_each_exposure(ds: xr.Dataset, recipe: Recipe) -> bool:
    """Return whether the spectra of :func:`background_spectra` are others than those of the cubes of each field."""
    return ds.sizes["dither"] > 1 and mixes_bands(recipe)


def mixes_bands(recipe: Recipe) -> bool:
    """Return whether the background is made of spectra of single exposures in which bands mix, as jwst has it."""
    return any(one.name == "master_background" and one.values()["like_jwst"] for one in recipe.entries)


def joint_names(settings: Sequence[str], recipe: Recipe) -> list[str]:
    """Return the names of the cubes of several bands that ``output_type`` asks for: "multi", "ch1" ..."""
    asked = recipe.values("cube_build")["output_type"]
    if asked == "channel":
        return [f"ch{channel}" for channel in sorted({channel for one in settings for channel in one[:2]})]
    return ["multi"] if asked == "multi" else []


def make_joint_cube(
    name: str, sources: Sequence[xr.Dataset], refs: References | None, recipe: Recipe,
    leaking: xr.Dataset | None = None,
) -> xr.Dataset:  # fmt: skip
    """Build a cube of several bands, lazy by wavelength block, without the light of band 1B as the recipe says.

    Parameters
    ----------
    name : str
        One of :func:`joint_names`: of a channel, with equal planes, or of all bands, each with its own step.
    sources : sequence of Dataset, level "cal"
        One a setting, after :func:`combine`.
    refs : References or None
    recipe : Recipe
    leaking : Dataset, level "cube", optional
        Of band 1B.

    Returns
    -------
    Dataset, level "cube"
    """
    with listen() as heard:
        options = _cube_options(sources[0], refs, recipe)
        if recipe.runs("cube.residual_fringe"):
            tell("fringes are corrected in cubes of one band; those of several keep theirs", aloud=False)
        if recipe.runs("trace_model"):
            tell("the trace model serves cubes of one band; those of several are made of pixels alone", aloud=False)
    if name != "multi":
        options |= {"bands": name[2:], "wavelength_axis": "linear"}
    built = noted(cube.build_multiband_cube(list(sources), **options), heard)
    if name not in HOLD_3A:
        return built
    parts = {name: built} if leaking is None else {"1B": leaking, name: built}
    return correct_leak(parts, refs, recipe, "cube")[name]


@part("cube", "match_bands", cube.match_bands, hide=("psf",), grid=as_band)
def match_cubes(
    cubes: Sequence[xr.Dataset], *, fwhm: Arcsec | None = None, grid: Band | None = None, **options: Any
) -> list[xr.Dataset]:  # fmt: skip
    """Bring the cubes of single bands to one scale; to one FWHM [arcsec], and onto the spaxels of one of the bands."""
    bands = [str(ds.attrs["band"]) for ds in cubes]
    if grid is not None and grid not in bands:
        raise MrsxrError(f"grid is {grid}; expected one of the cubes, {', '.join(bands)}")
    given = [ds if fwhm is None else cube.match_psf(ds, fwhm=fwhm) for ds in cubes]
    matched = cube.match_bands(given, psf=None if fwhm is None else dict.fromkeys(bands, fwhm), **options)
    return [ds if grid is None else cube.regrid(ds, like=cubes[bands.index(grid)]) for ds in matched]


def _cube_options(ds: xr.Dataset, refs: References | None, recipe: Recipe) -> dict[str, Any]:
    options = own_options(cube.build_cube, recipe.entry("cube.cube_build").given)
    if ds.attrs.get("background"):
        options |= dict.fromkeys(("point_source", "center"))  # places on the sky of the target
    place = options.get("point_source")
    return options | {
        "cubepar": None if refs is None else optional(refs, "cubepar", ds, "the flight values are used"),
        "mrsptcorr": refs.get("mrsptcorr", ds) if place is not None and refs is not None else None,
    }


def _model_of(ds: xr.Dataset, band: str, refs: References | None, recipe: Recipe) -> xr.Dataset | None:
    """Return the trace model of a band of the target where the recipe wants one."""
    if not recipe.runs("trace_model"):
        return None
    if recipe.values("cube_build")["weighting"] != "drizzle":
        tell("the trace model goes with weighting 'drizzle'; the cubes are made without it")
        return None
    options = recipe.values("trace_model")
    options["source"] = options["source"] or recipe.values("cube_build")["point_source"]
    psf = None if refs is None else optional(refs, "psf", ds.assign_attrs(channels=band[0]), None)
    return _fit_model(ds, band=band, psf=psf, **options)


@part("cube", "trace_model", cal.fit_trace_model, hide=("band",))
def _fit_model(ds: xr.Dataset, *, band: str, **options: Any) -> xr.Dataset:
    """``source`` is by default the ``point_source`` of cube_build, else the brightest place."""
    return cal.fit_trace_model(ds, band=band, **options)


@part("cube", "cube_build", cube.build_cube, needed=True, hide=("band", "grid", "shape"))
def _build(ds: xr.Dataset, *, output_type: Literal["band", "channel", "multi"] = "band", **options: Any) -> xr.Dataset:
    """``output_type`` "channel" or "multi" makes cubes of several bands besides those of one."""
    return cube.build_cube(ds, **own_options(cube.build_cube, options))
