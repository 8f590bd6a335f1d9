"""From cube to spectrum: extraction, leak and stitching, as a recipe has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import xarray as xr

from mrsxr import cal, cube, spectrum
from mrsxr.arguments import as_source_type
from mrsxr.attributes import share_done
from mrsxr.errors import MrsxrError, ReferenceMissingError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.limits import OptionalRef, Place, Range, Region, SourceType
from mrsxr.notes import listen, noted, tell
from mrsxr.references import References
from mrsxr.references.leak import holds_band
from mrsxr.threads import how

from .exposure_steps import done
from .optional import keeps_notes, optional
from .parts import own_options, part
from .source_types import marked, source_types_of

if TYPE_CHECKING:
    from .recipe import Recipe

#: Steps of the level that look at the exposures behind a cube.
OF_EXPOSURES = ("fit_spectrum", "exact_errors", "pfpc")
#: Steps of the level that look at all bands, after those of each.
OF_ALL_BANDS = ("spectral_leak", "stitch")


@keeps_notes
def make_spectrum(
    ds: xr.Dataset,
    refs: References | None,
    recipe: Recipe,
    source_type: str | None = None,
    *,
    decision: Mapping[str, Any] | None = None,
    exposures: xr.Dataset | None = None,
) -> xr.Dataset:
    """Run the steps of the level on one cube: extraction, errors, fringes.

    Parameters
    ----------
    ds : Dataset, level "cube"
    refs : References or None
        For the extract1d and apcorr files.
    recipe : Recipe
    source_type : {"POINT", "EXTENDED"}, optional
        By default by :func:`source_types_of` for this cube alone.
    decision : mapping, optional
        How it was decided, which the spectrum then says.
    exposures : Dataset, level "cal", optional
        What the cube was built from, for the steps fit_spectrum, exact_errors and pfpc.

    Returns
    -------
    Dataset, level "spectrum"
    """
    decided: dict[str, Any] = dict(decision or {})
    kind = source_type or source_types_of([ds], recipe, decided)[0]
    found = ds
    for entry in recipe.steps("spectrum"):
        if entry.name == "extract_1d":
            found = _extract(ds, refs, kind, **entry.values())
        elif entry.name in OF_EXPOSURES:
            if exposures is not None and found.attrs.get("extraction") != "detector":
                found = _by_exposures(entry.name, found, ds, exposures, refs, recipe)
        elif entry.name == "residual_fringe" and share_done(ds, "residual_fringe_cube"):
            tell("the fringes were taken off the cube; its spectrum is not corrected again", aloud=False)
        elif entry.name not in OF_ALL_BANDS:
            found = done(entry, found, refs)
    return marked(found, decided)


def _by_exposures(
    name: str, found: xr.Dataset, built: xr.Dataset, exposures: xr.Dataset, refs: References | None, recipe: Recipe
) -> xr.Dataset:
    """Do one of :data:`OF_EXPOSURES` to the spectrum of a cube; two of them are of point sources alone."""
    if name == "exact_errors":
        return with_exact_errors(found, built, exposures, refs)
    if found.attrs["source_type"] != "POINT":
        return found
    extraction = recipe.entry("spectrum.extract_1d").values()
    if name == "pfpc":
        return without_fixed_pattern(found, built, exposures, refs, extraction)
    options = recipe.entry("spectrum.fit_spectrum").values()
    return from_detector(found, exposures, refs, extraction["aperture_correction"], **options)


def _region_text(value: Any, _what: str) -> str:
    """Return a region as DS9 text, so that it is read once and stands in the record; text stays as it is."""
    from mrsxr.limits import check
    from mrsxr.spectrum.region import read_region, region_text

    check("extract_1d", "region", value, Region)
    is_text = isinstance(value, str) and "(" in value and ("\n" in value or not Path(value[:255]).exists())
    if is_text:
        read_region(value)
    return value if is_text else region_text(value)


def _contradiction(values: Mapping[str, Any]) -> str | None:
    if values["region"] is not None and (values["radius"] is not None or values["center"] is not None):
        return "a region goes without center and radius; give one or the other"
    if values["region"] is not None and values["method"] == "optimal":
        return 'a region is given and method is "optimal"; expected another method with a region'
    return None


@part(
    "spectrum", "extract_1d", spectrum.extract_spectrum, needed=True, hide=("psf",), contradiction=_contradiction,
    region=_region_text, source_type=lambda value, what: as_source_type(value, what, ("header", "auto")),
)  # fmt: skip
def _extract(
    ds: xr.Dataset,
    refs: References | None,
    kind: str,
    *,
    source_type: Literal["header", "auto", SourceType] = "header",
    both_branches: bool = False,
    background: Literal["auto", "annulus", "none"] = "auto",
    aperture_correction: bool = True,
    **options: Any,
) -> xr.Dataset:
    """Extract the spectrum of one cube.

    ``background`` "auto" subtracts an annulus where the extract1d file says so (the aperture correction is made for
    it), and without such a file unless a background was subtracted before.
    ``aperture_correction`` False gives the flux of a point source inside the aperture.
    """
    extract1d, apcorr = aperture_references(ds, refs, aperture_correction) if kind == "POINT" else (None, None)
    options = own_options(spectrum.extract_spectrum, options)
    if options["method"] == "optimal" and kind != "POINT":
        options["method"] = "aperture"
    within = _annulus_of(ds, background, extract1d)
    return spectrum.extract_spectrum(
        ds, extract1d=extract1d, apcorr=apcorr, source_type=kind, background=within, **options
    )


def _fitted(
    exposures: xr.Dataset,
    *,
    band: str,
    apcorr: OptionalRef = None,
    source: Place | None = None,
    around: Literal["host", "level"] = "host",
    psf: OptionalRef = None,
    others: Sequence[Place] = (),
    radius_factor: Annotated[float, Range(above=0, high=4)] = 2.0,
) -> xr.Dataset:
    """Fit the spectrum of a point source to the pixels of all exposures of a band, by a trace model made here."""
    model = cal.fit_trace_model(exposures, band=band, source=source, others=others, psf=psf).compute(**how())
    found = cal.fit_point_source(exposures, trace_model=model, around=around, psf=psf)
    return spectrum.fit_spectrum(exposures, trace_model=found, apcorr=apcorr, radius_factor=radius_factor)


@part("spectrum", "fit_spectrum", _fitted, hide=("band",))
def from_detector(
    found: xr.Dataset, exposures: xr.Dataset, refs: References | None, corrected: bool, **options: Any
) -> xr.Dataset:
    """Return the spectrum of a point source fitted to the detector pixels in place of that of the cube.

    ``source`` is by default where the spectrum of the cube was extracted.
    """
    refs, band = References({}) if refs is None else refs, str(found.attrs["band"])
    apcorr = require_aperture_correction(found, refs) if corrected else None
    psf = optional(refs, "psf", exposures.assign_attrs(channels=band[0]), None)
    place = options.pop("source") or (float(found.attrs["aperture_ra"]), float(found.attrs["aperture_dec"]))
    try:
        fitted = _fitted(exposures, band=band, source=place, apcorr=apcorr, psf=psf, **options).compute(**how())
        if not fitted["flux"].notnull().any():
            raise MrsxrError("no exposure sees enough of the source")
        return fitted
    except MrsxrError as error:
        tell(f"band {band}: no spectrum from the detector ({error}); it is that of the aperture")
        return found


@part("spectrum", "exact_errors")
def with_exact_errors(
    found: xr.Dataset, built: xr.Dataset, exposures: xr.Dataset, refs: References | None
) -> xr.Dataset:  # fmt: skip
    """Return the spectrum of a cube that was built from exposures, its errors with the covariance of the voxels."""
    weights = spectrum.extraction_weights(built, found)
    cubepar, mrsptcorr = (
        None if refs is None else optional(refs, kind, built, None) for kind in ("cubepar", "mrsptcorr")
    )
    variance = cube.sum_variance(exposures, cube=built, weights=weights, cubepar=cubepar, mrsptcorr=mrsptcorr)
    return spectrum.set_exact_errors(found, variance=variance)


@part("spectrum", "pfpc", spectrum.correct_fixed_pattern)
def without_fixed_pattern(
    found: xr.Dataset, built: xr.Dataset, exposures: xr.Dataset, refs: References | None,
    extraction: Mapping[str, Any],
) -> xr.Dataset:  # fmt: skip
    """Return the spectrum of a cube that was built from exposures without the pattern of each of their places."""
    refs = References({}) if refs is None else refs
    pfpc = optional(refs, "pfpc", built, "the fixed pattern of point sources stays")
    if pfpc is None:
        return found
    cubepar, mrsptcorr = (optional(refs, kind, built, None) for kind in ("cubepar", "mrsptcorr"))
    place = built.attrs.get("point_source")
    singles = cube.build_exposure_cubes(
        exposures, band=str(built.attrs["band"]), grid=CubeGrid.of(built), cubepar=cubepar, mrsptcorr=mrsptcorr,
        weighting=str(built.attrs.get("weighting") or "drizzle"), point_source=None if place is None else tuple(place),
    )  # fmt: skip
    center = float(found.attrs["aperture_ra"]), float(found.attrs["aperture_dec"])
    values = {**extraction, "center": center}
    with listen():  # what is lost of single exposures is no news
        dithers = [_extract(one.compute(**how()), refs, "POINT", **values) for one in singles.values()]
    return spectrum.correct_fixed_pattern(found, dithers=dithers, pfpc=pfpc)


def aperture_references(
    ds: xr.Dataset, refs: References | None, aperture_correction: bool
) -> tuple[xr.Dataset | None, xr.Dataset | None]:
    """Return the extract1d and apcorr files of a point source.

    Raises
    ------
    ReferenceFileError
        Where the aperture correction is missing or damaged and wanted: what the aperture misses of a point source is 5
        to 40 % of its flux.
    """
    extract1d = None
    if refs is not None:
        extract1d = optional(refs, "extract1d", ds, "the radius is radius_factor times the FWHM")
    if not aperture_correction:
        tell("the flux is not corrected for the aperture, as aperture_correction = false asks", stacklevel=2)
        return extract1d, None
    return extract1d, require_aperture_correction(ds, refs)


def require_aperture_correction(ds: xr.Dataset, refs: References | None) -> xr.Dataset:
    """Return the apcorr file that serves a point source; raise ReferenceFileError where there is none."""
    if refs is None:
        raise aperture_correction_lacks("no reference files are given and so no apcorr reference")
    try:
        return refs.get("apcorr", ds)
    except ReferenceMissingError as error:
        raise aperture_correction_lacks(error) from error


def aperture_correction_lacks(found: object) -> ReferenceMissingError:
    """Return the error of a point source without aperture correction."""
    return ReferenceMissingError(
        f"{found}. A point source needs its aperture correction: give an apcorr file, or ask for the flux inside the "
        "aperture by aperture_correction = false in [spectrum.extract_1d] (--no-aperture-correction)"
    )


def _annulus_of(ds: xr.Dataset, background: str, extract1d: xr.Dataset | None) -> str | None:
    """Resolve "auto": the aperture correction holds for the annulus that the extract1d file asks for, or for none."""
    if background != "auto":
        return None if background == "none" else "annulus"
    if extract1d is not None:
        return "annulus" if extract1d.attrs.get("subtract_background") else None
    subtracted = any(share_done(ds, mark) == 1 for mark in cal.BACKGROUNDS)
    return None if subtracted else "annulus"


def correct_leak(
    parts: Mapping[str, xr.Dataset], refs: References | None, recipe: Recipe, level: Literal["cube", "spectrum"]
) -> dict[str, xr.Dataset]:
    """Take the second-order light of band 1B off band 3A, where both are there and the recipe says so.

    Parameters
    ----------
    parts : mapping of name to Dataset, level "cube" or "spectrum"
        Of one band or of several; the light is taken from that of band 1B alone, or a joint one.
    refs : References or None
        For the mrsptcorr file; without it the leak stays, with a warning.
    recipe : Recipe
    level : {"cube", "spectrum"}

    Returns
    -------
    dict of name to Dataset
        Cubes are lazy where they were.
    """
    entry = recipe.entry(f"{level}.spectral_leak")
    if entry.skip:
        return dict(parts)
    correct = cube.correct_spectral_leak_cube if level == "cube" else spectrum.correct_spectral_leak
    out = dict(parts)
    blue = sorted((ds for ds in parts.values() if holds_band(ds, "1B")), key=lambda ds: len(str(ds.attrs["band"])))
    for name, ds in parts.items():
        if blue and holds_band(ds, "3A"):
            with listen() as heard:
                mrsptcorr = leak_reference(ds, refs)
            out[name] = noted(ds, heard)
            if mrsptcorr is not None:
                out[name] = correct(out[name], leaking=blue[0], mrsptcorr=mrsptcorr, **entry.given)
    return out


def leak_reference(ds: xr.Dataset, refs: References | None) -> xr.Dataset | None:
    """Return mrsptcorr, None where there is none."""
    if refs is None:
        tell("no reference files and so no mrsptcorr reference; the spectral leak 1B to 3A stays", stacklevel=3)
        return None
    return optional(refs, "mrsptcorr", ds, "the spectral leak 1B to 3A stays")


part("spectrum", "stitch", needed=True)(spectrum.stitch_bands)
