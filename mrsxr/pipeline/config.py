"""Parameters of the chains as frozen dataclasses, read from one TOML file."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mrsxr.errors import MrsxrError

MODES = ("baseline", "optimal")


@dataclass(frozen=True)
class RateConfig:
    """Parameters of ramp -> rate under the names of jwst; by default the algorithms and values of jwst 3.0.0.

    * ``emicorr``: "none", "joint", "sequential" (both jwst's) or "harmonics"
    * ``rscd``: "skip" (jwst's), "correct" (with a reference that holds decays) or "none"
    * ``refpix``: "constant" (jwst's), "smooth" or "none"
    * ``jump``: "two-point" (jwst's), "likelihood" or "none"
    * ``showers``: "none", "flag" (jwst's) or "remove"
    * ``algorithm`` of the slope fit: "ols" (jwst's OLS_C), "likelihood" (its LIKELY) or "gls"
    * ``weighting`` "read" and ``dark_current_in_electrons`` True are mistakes of jwst in the variances of "ols":
      segments weighted by read noise alone, and a dark current that is not divided by the gain
    * ``diagnostics`` adds the groups used, the number of jumps and chi2 to the result
    * ``save_rateints`` lets a run write rateints files
    """

    emicorr: str = "none"
    n_pix_grow_sat: int = 1
    ipc: bool = True
    firstframe: bool = False
    bright_use_group1: bool = True
    lastframe: bool = True
    reset: bool = True
    rscd: str = "skip"
    average_dark_current: float | None = None
    refpix: str = "constant"
    charge_migration: bool = False
    signal_threshold: float = 25000.0
    jump: str = "two-point"
    rejection_threshold: float = 4.0
    four_group_rejection_threshold: float = 5.0
    three_group_rejection_threshold: float = 6.0
    flag_4_neighbors: bool = True
    min_jump_to_flag_neighbors: float = 10.0
    max_jump_to_flag_neighbors: float = 1000.0
    min_diffs_single_pass: int = 10
    minimum_groups: int = 3
    minimum_sigclip_groups: int = 100
    only_use_ints: bool = True
    after_jump_flag_dn1: float = 0.0
    after_jump_flag_time1: float = 0.0
    after_jump_flag_dn2: float = 0.0
    after_jump_flag_time2: float = 0.0
    showers: str = "none"
    extend_snr_threshold: float = 1.2
    extend_min_area: int = 90
    time_masked_after_shower: float = 15.0
    persistence: bool = False
    persistence_time: float = 0.0
    algorithm: str = "ols"
    weighting: str = "read"
    dark_current_in_electrons: bool = True
    suppress_one_group: bool = True
    diagnostics: bool = True
    save_rateints: bool = False

    @classmethod
    def baseline(cls) -> RateConfig:
        """Return jwst's algorithms with the defaults of jwst 3.0.0."""
        return cls()

    @classmethod
    def optimal(cls) -> RateConfig:
        """Return the better algorithm of every step that has one."""
        return cls(emicorr="harmonics", refpix="smooth", jump="likelihood", showers="remove", algorithm="gls")


@dataclass(frozen=True)
class CalConfig:
    """Parameters of rate -> cal; by default the algorithms and values of jwst 3.0.0.

    * ``order``: "jwst" (stray light before the flat) or "paper" (flat, stray light, fringe)
    * ``latents``: subtract what earlier exposures left in the pixels (with a reference of kind latent)
    * ``badpix_selfcal``: "none", "fraction" (jwst's) or "significance"
    * ``background``, pixel by pixel: "none", "mean" (jwst's clipped mean) or "weighted" (with its errors)
    * ``straylight``: "kernel" (jwst's), "fitted" or "none"
    * ``clean_showers``: "none", "smooth" (jwst's) or "gated"
    * ``residual_fringe`` on the detector: "none", "columns" (jwst's) or "slices"
    * ``propagate_errors`` carries the errors of the fringe flat and of the flux conversion as variances of their own
    * ``source_type``: "POINT" or "EXTENDED" in place of what the headers say
    """

    order: str = "jwst"
    latents: bool = False
    badpix_selfcal: str = "none"
    flagfrac_lower: float = 0.001
    flagfrac_upper: float = 0.001
    background: str = "none"
    straylight: str = "kernel"
    clean_showers: str = "none"
    flat: bool = True
    fringe: bool = True
    apply_time_correction: bool = True
    propagate_errors: bool = False
    residual_fringe: str = "none"
    source_type: str | None = None

    @classmethod
    def baseline(cls) -> CalConfig:
        """Return jwst's algorithms with the defaults of jwst 3.0.0."""
        return cls()

    @classmethod
    def optimal(cls) -> CalConfig:
        """Return the better algorithm of every step that has one."""
        return cls(straylight="fitted", propagate_errors=True, residual_fringe="slices")


@dataclass(frozen=True)
class CubeConfig:
    """Parameters of cal -> cube; None takes the value of the cubepar reference file.

    * ``match_backgrounds`` brings the exposures to one level before the background is subtracted
    * ``background``: "master" (the spectrum of the background exposures), "field" (in bins of wavelength, linear over
      the field) or "none"; nothing where the exposures have had a pixel background. Bands without background
      exposures are left as they are, with a note; with ``background_required``, and of "field", that is an error
    * ``background_mix_bands``: jwst's master background, of the spectra of single background exposures in which
      neighbouring bands mix, errors left out
    * ``outliers``: "detector" (jwst's: pixels that stand out in all exposures), "sky" (those, and what a single
      exposure shows alone) or "none"
    * ``pixel_replace``: "none", "mingrad" or "fit_profile"
    * ``weighting``: "drizzle" or "emsm"; ``exposure_weights``: "none", "time" or "ivar"
    * ``output_type``: "band"; "channel" or "multi" make cubes of several bands besides those of one
    * ``spectral_leak`` takes the second-order light of band 1B off the cube of 3A
    * ``point_source``: (RA, Dec) [deg] of a point source, whose wavelength offset and transmission across slices are
      corrected while the cube is built
    """

    match_backgrounds: bool = False
    background: str = "master"
    background_required: bool = False
    background_mix_bands: bool = True
    outliers: str = "detector"
    kernel_size: str = "7 7"
    threshold_percent: float = 99.8
    pixel_replace: str = "none"
    weighting: str = "drizzle"
    exposure_weights: str = "none"
    output_type: str = "band"
    spectral_leak: bool = False
    point_source: tuple[float, float] | None = None
    coord_system: str = "skyalign"
    spaxel_size: float | None = None
    wavelength_step: float | None = None
    center: tuple[float, float] | None = None

    @classmethod
    def baseline(cls) -> CubeConfig:
        """Return jwst's algorithms with the defaults of jwst 3.0.0."""
        return cls()

    @classmethod
    def optimal(cls) -> CubeConfig:
        """Return the better algorithm of every step that has one."""
        return cls(match_backgrounds=True, background_mix_bands=False, outliers="sky", spectral_leak=True)


@dataclass(frozen=True)
class SpectrumConfig:
    """Parameters of cube -> spectrum; by default the algorithms and values of jwst 3.0.0, with ``ifu_autocen`` on.

    * ``source_type``: "header" (as the headers say), "auto" (decided from the images of the cubes, where these are
      ambiguous as the headers say), "POINT" or "EXTENDED"; with ``both_branches`` a run extracts both ways where "auto"
      is ambiguous
    * ``center`` is (RA, Dec) [deg]; without it ``autocen`` looks for the brightest source by ``centering`` "daofind"
      (jwst's) or "fit", else the target coordinates are taken (jwst's default, with ``snap`` to the nearest spaxel)
    * ``region`` is a region of the sky as DS9 text, in place of a circle
    * ``extraction`` of a point source: "aperture", or "optimal": weighted by the PSF, which leaves a third of the noise
      of a source that stands alone (its flux is that of the aperture within 0.1 %, wavy by 0.4 % along a band) but
      takes of a nucleus in its host only what looks like the PSF: lines of the host lose up to 16 %. In neither mode
    * ``subpixels`` an axis for the border of the aperture, 0: exact; ``apcorr_outside``: "extrapolate" or "clamp"
    * ``background`` "auto" subtracts an annulus where the extract1d file says so (the aperture correction is made for
      it), and without such a file unless a background was subtracted before; else "annulus" or "none";
      ``annulus`` "annulus_jwst" clips as jwst does, "annulus" on the annulus alone
    * ``residual_fringe``: "none"; "columns" (jwst's) or "slices" add the columns RF_
    * ``spectral_leak`` takes the second-order light of band 1B off the spectrum of 3A (jwst's way) where it is not off
      the cube already
    * ``exact_errors`` takes the covariance of the voxels into account
    * ``stitch``: "none", "multiplicative" or "additive", outwards from ``reference_band``
    """

    source_type: str = "header"
    both_branches: bool = False
    center: tuple[float, float] | None = None
    autocen: bool = True
    centering: str = "daofind"
    snap: bool = False
    region: str | None = None
    extraction: str = "aperture"
    radius_factor: float = 2.0
    radius: float | None = None
    subpixels: int = 10
    apcorr_outside: str = "extrapolate"
    background: str = "auto"
    annulus: str = "annulus_jwst"
    residual_fringe: str = "columns"
    exact_errors: bool = False
    spectral_leak: bool = True
    stitch: str = "none"
    reference_band: str | None = None

    @classmethod
    def baseline(cls) -> SpectrumConfig:
        """Return jwst's algorithms with the defaults of jwst 3.0.0."""
        return cls()

    @classmethod
    def optimal(cls) -> SpectrumConfig:
        """Return the better algorithm of every step that has one."""
        return cls(
            source_type="auto", centering="fit", subpixels=0, apcorr_outside="clamp",
            annulus="annulus", residual_fringe="slices", exact_errors=True,
        )  # fmt: skip


@dataclass(frozen=True)
class Config:
    """All parameters of a reduction."""

    rate: RateConfig = field(default_factory=RateConfig)
    cal: CalConfig = field(default_factory=CalConfig)
    cube: CubeConfig = field(default_factory=CubeConfig)
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)

    @classmethod
    def of_mode(cls, mode: str) -> Config:
        """Return the parameters of a mode, "baseline" or "optimal"."""
        if mode not in MODES:
            raise MrsxrError(f"mode is '{mode}'; expected one of {', '.join(MODES)}")
        kinds = {"rate": RateConfig, "cal": CalConfig, "cube": CubeConfig, "spectrum": SpectrumConfig}
        return cls(**{name: getattr(kind, mode)() for name, kind in kinds.items()})

    def with_background(self, method: str) -> Config:
        """Return this config with one way of taking the background off.

        Parameters
        ----------
        method : {"master", "pixel", "annulus", "binned", "none"}
            The spectrum of the background exposures; their mean image; an annulus about the source; bins of wavelength,
            linear over the field; nothing. What is named here is asked for: bands without background exposures are
            an error.
        """
        ways = {  # cal, cube, spectrum
            "master": ("none", "master", "auto"), "annulus": ("none", "none", "annulus"),
            "binned": ("none", "field", "auto"), "none": ("none", "none", "none"),
            "pixel": ("weighted" if self.cal.propagate_errors else "mean", "none", "auto"),
        }  # fmt: skip
        if method not in ways:
            raise MrsxrError(f"background is '{method}'; expected one of {', '.join(ways)}")
        sections = zip(("cal", "cube", "spectrum"), ways[method], strict=True)
        parts = {name: replace(getattr(self, name), background=way) for name, way in sections}
        parts["cube"] = replace(parts["cube"], background_required=parts["cube"].background != "none")
        return replace(self, **parts)

    def with_source_type(self, kind: str) -> Config:
        """Return this config with the type of the source: "header", "auto", "point" or "extended"."""
        known = {"header": "header", "auto": "auto", "point": "POINT", "extended": "EXTENDED"}
        if kind.lower() not in known:
            raise MrsxrError(f"source_type is '{kind}'; expected one of {', '.join(known)}")
        return replace(self, spectrum=replace(self.spectrum, source_type=known[kind.lower()]))


def load_config(path: str | Path, mode: str | None = None) -> Config:
    """Read a Config from a TOML file: ``mode`` and the tables [rate], [cal], [cube], [spectrum].

    Parameters
    ----------
    path : path-like
    mode : {"baseline", "optimal"}, optional
        Where the values come from that the file does not give; by default the file's own ``mode``, else "baseline".

    Returns
    -------
    Config

    Raises
    ------
    MrsxrError
        Where the file cannot be read, or has a table, a key or a type of value that is not known.
    """
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise MrsxrError(f"{path}: cannot be read as TOML ({error})") from error
    of_file = tables.pop("mode", "baseline")
    base = Config.of_mode(mode or of_file)
    sections = [f.name for f in dataclasses.fields(Config)]
    unknown = set(tables) - set(sections)
    if unknown:
        raise MrsxrError(f"{path}: unknown table [{sorted(unknown)[0]}]; expected {', '.join(sections)}")
    return Config(**{name: _section(path, name, tables.get(name, {}), getattr(base, name)) for name in sections})


def _section(path: str | Path, name: str, values: dict[str, Any], default: Any) -> Any:
    fields = {f.name: f for f in dataclasses.fields(default)}
    checked = {}
    for key, value in values.items():
        if key not in fields:
            raise MrsxrError(f"{path}: unknown key '{key}' in [{name}]; expected one of {', '.join(fields)}")
        expected = getattr(default, key)
        if isinstance(value, list):
            value = tuple(value)
        if expected is not None and not _fits(value, expected):
            raise MrsxrError(
                f"{path}: [{name}] {key} = {value!r} is {type(value).__name__}, expected {type(expected).__name__}"
            )
        checked[key] = value
    return dataclasses.replace(default, **checked)


def _fits(value: Any, expected: Any) -> bool:
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool)
    if isinstance(expected, float):
        return isinstance(value, int | float)
    return isinstance(value, type(expected))
