"""From cubes to one spectrum in plain code: the type of the source, extraction, leak, stitching."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xarray as xr

from mrsxr import cube, spectrum
from mrsxr.errors import MrsxrError, ReferenceMissingError
from mrsxr.notes import listen, noted, tell
from mrsxr.references import References
from mrsxr.references.leak import holds_band
from mrsxr.step import was_done

from .config import CubeConfig, SpectrumConfig
from .optional import keeps_notes, optional
from .source_types import marked, source_types_of


def check_spectra(config: SpectrumConfig, bands: Sequence[str]) -> None:
    """Raise where the spectra of some bands cannot be made as a config wants them; looks at no data.

    Parameters
    ----------
    config : SpectrumConfig
    bands : sequence of str
        Those that may come.

    Raises
    ------
    MrsxrError
        Where the band to stitch to is not among the bands.
    """
    wanted = config.reference_band
    if wanted is not None and wanted not in bands:
        raise MrsxrError(f"reference_band is {wanted}; expected one of the bands asked for, {', '.join(bands)}")


@keeps_notes
def make_spectrum(
    ds: xr.Dataset,
    refs: References | None,
    config: SpectrumConfig,
    source_type: str | None = None,
    *,
    told: Mapping[str, Any] | None = None,
    exposures: xr.Dataset | None = None,
) -> xr.Dataset:
    """Extract the spectrum of one cube.

    Parameters
    ----------
    ds : Dataset, level "cube"
    refs : References or None
        For the extract1d and apcorr files.
    config : SpectrumConfig
    source_type : {"POINT", "EXTENDED"}, optional
        By default by :func:`source_types_of` for this cube alone.
    told : mapping, optional
        How it was decided, which the spectrum then says.
    exposures : Dataset, level "cal", optional
        What the cube was built from, for ``config.exact_errors``.

    Returns
    -------
    Dataset, level "spectrum"
    """
    decided: dict[str, Any] = dict(told or {})
    kind = source_type or source_types_of([ds], config, decided)[0]
    extract1d, apcorr = aperture_references(ds, refs, config) if kind == "POINT" else (None, None)
    exact = "exact" if config.subpixels == 0 else "subpixel"
    found = spectrum.extract_spectrum(
        ds, extract1d=extract1d, apcorr=apcorr, source_type=kind, center=config.center, autocen=config.autocen,
        centering=config.centering, snap=config.snap and config.center is None, radius_factor=config.radius_factor,
        radius=config.radius, region=config.region, background=_background_of(ds, config, extract1d),
        method="optimal" if config.extraction == "optimal" and kind == "POINT" else exact,
        subpixels=max(config.subpixels, 1), apcorr_outside=config.apcorr_outside,
    )  # fmt: skip
    if config.exact_errors and exposures is not None:
        found = with_exact_errors(found, ds, exposures, refs)
    if config.residual_fringe != "none" and was_done(ds, "correct_residual_fringe_cube"):
        tell("the fringes were taken off the cube; its spectrum is not corrected again", aloud=False)
    elif config.residual_fringe != "none":
        found = spectrum.correct_residual_fringe_1d(found, method=config.residual_fringe)
    return marked(found, decided)


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


def aperture_references(
    ds: xr.Dataset, refs: References | None, config: SpectrumConfig
) -> tuple[xr.Dataset | None, xr.Dataset | None]:
    """Return the extract1d and apcorr files of a point source.

    Raises
    ------
    ReferenceFileError
        Where the aperture correction is missing or damaged and ``config.aperture_correction``: what the aperture misses
        of a point source is 5 to 40 % of its flux.
    """
    extract1d = None
    if refs is not None:
        extract1d = optional(refs, "extract1d", ds, "the radius is radius_factor times the FWHM")
    if not config.aperture_correction:
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
        "aperture by aperture_correction = false in [spectrum] (--no-aperture-correction)"
    )


def _background_of(ds: xr.Dataset, config: SpectrumConfig, extract1d: xr.Dataset | None) -> str | None:
    """Resolve "auto": the aperture correction holds for the annulus that the extract1d file asks for, or for none."""
    if config.background != "auto":
        return None if config.background == "none" else config.annulus
    if extract1d is not None:
        return config.annulus if extract1d.attrs.get("subtract_background") else None
    names = ("subtract_master_background", "subtract_field_background", "subtract_background")
    return None if was_done(ds, *names) else config.annulus


def correct_leak(
    spectra: Mapping[str, xr.Dataset], refs: References | None, config: SpectrumConfig
) -> dict[str, xr.Dataset]:
    """Take the second-order light of band 1B off band 3A, where both are there.

    Parameters
    ----------
    spectra : mapping of name to Dataset, level "spectrum"
        Of one band or of several (of joint cubes).
    refs : References or None
        For the mrsptcorr file; without it the leak stays, with a warning.
    config : SpectrumConfig

    Returns
    -------
    dict of name to Dataset
    """
    return _without_leak(spectra, refs, spectrum.correct_spectral_leak) if config.spectral_leak else dict(spectra)


def correct_leak_in_cubes(
    cubes: Mapping[str, xr.Dataset], refs: References | None, config: CubeConfig
) -> dict[str, xr.Dataset]:
    """Take the second-order light of band 1B off the cube of 3A, where both are there and the config says so.

    Parameters
    ----------
    cubes : mapping of name to Dataset, level "cube"
        Of one band or of several.
    refs : References or None
        For the mrsptcorr file; without it the leak stays, with a warning.
    config : CubeConfig

    Returns
    -------
    dict of name to Dataset
        Lazy where the cubes are.
    """
    return _without_leak(cubes, refs, cube.correct_spectral_leak_cube) if config.spectral_leak else dict(cubes)


def _without_leak(
    parts: Mapping[str, xr.Dataset], refs: References | None, correct: Callable[..., xr.Dataset]
) -> dict[str, xr.Dataset]:
    """Return cubes or spectra without the leak; its light is taken from the one of band 1B alone, or a joint one."""
    out = dict(parts)
    blue = sorted((ds for ds in parts.values() if holds_band(ds, "1B")), key=lambda ds: len(str(ds.attrs["band"])))
    for name, ds in parts.items():
        if blue and holds_band(ds, "3A"):
            with listen() as told:
                mrsptcorr = leak_reference(ds, refs)
            out[name] = noted(ds, told)
            if mrsptcorr is not None:
                out[name] = correct(out[name], leaking=blue[0], mrsptcorr=mrsptcorr)
    return out


def leak_reference(ds: xr.Dataset, refs: References | None) -> xr.Dataset | None:
    """Return mrsptcorr, None where there is none."""
    if refs is None:
        tell("no reference files and so no mrsptcorr reference; the spectral leak 1B to 3A stays", stacklevel=3)
        return None
    return optional(refs, "mrsptcorr", ds, "the spectral leak 1B to 3A stays")


def stitch(spectra: Sequence[xr.Dataset], config: SpectrumConfig) -> xr.Dataset:
    """Stitch band spectra as the config says."""
    return spectrum.stitch_bands(spectra, method=config.stitch, reference_band=config.reference_band)
