"""Parameters of the chains as frozen dataclasses, checked when they are made; read from one TOML file.

Annotations say what a value may be. They are those of the steps that take the value, and None where a step or a
reference file decides.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from mrsxr.arguments import as_source_type, need_paths, read_fields
from mrsxr.cal.background import Method as BackgroundMethod
from mrsxr.cal.badpix_selfcal import Method as SelfcalMethod
from mrsxr.cal.clean_showers import Method as ShowersMethod
from mrsxr.cal.pixel_replace import Algorithm as ReplaceAlgorithm
from mrsxr.cal.straylight import Method as StraylightMethod
from mrsxr.cube.cube_build import CoordSystem, ExposureWeights, WeightingName
from mrsxr.errors import InputFileError, MrsxrError, ParameterError
from mrsxr.fringes import Method as FringeMethod
from mrsxr.io.fitsarray import file_stamp
from mrsxr.limits import (
    Arcsec,
    Band,
    Count,
    HalfShare,
    KernelSize,
    NotNegative,
    Percent,
    Place,
    Positive,
    Region,
    SourceType,
    SpaxelSize,
    WavelengthStep,
    check,
    hints_of,
    near_miss,
)
from mrsxr.rate.emicorr import Algorithm as EmiAlgorithm
from mrsxr.rate.ramp_fit import Algorithm as FitAlgorithm
from mrsxr.rate.ramp_fit import Weighting as FitWeighting
from mrsxr.rate.refpix import Method as RefpixMethod
from mrsxr.rate.saturation import Growth
from mrsxr.spectrum.aperture import Outside
from mrsxr.spectrum.extract_1d import Background as Annulus
from mrsxr.spectrum.extract_1d import Centering, RadiusFactor, Subpixels
from mrsxr.spectrum.stitch import Method as StitchMethod

from .skipping import sections_of, skipped_names, switched_off

Mode = Literal["baseline", "optimal"]
MODES: tuple[Mode, ...] = ("baseline", "optimal")
Fringes = Literal["none", FringeMethod]
FringePlace = Literal["cal", "cube", "spectrum"]
_LONGEST_FILE = 1_000_000  # bytes of a TOML file


@dataclass(frozen=True, kw_only=True)
class _Section:
    """One table of the configuration: values are read and checked, steps that ``skip`` names are turned off."""

    section: ClassVar[str]
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name = type(self).__name__
        try:
            read_fields(self, **self._readers())
        except MrsxrError as error:
            raise ParameterError(f"{name}: {error}") from None
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if isinstance(value, list):
                object.__setattr__(self, one.name, tuple(value))
            check(name, one.name, getattr(self, one.name), hints_of(type(self))[one.name])
        try:
            names = skipped_names(self.skip, self.section)
        except ParameterError as error:
            raise ParameterError(f"{name}: {error}") from None
        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        for key, value in {"skip": names, **switched_off(names, self.section, values)}.items():
            object.__setattr__(self, key, value)
        if text := self._contradiction():
            raise ParameterError(f"{name}: {text}")

    def _readers(self) -> dict[str, Any]:
        """Return what reads values of this table apart from :data:`mrsxr.arguments.READERS`."""
        return {}

    def _contradiction(self) -> str | None:
        """Return what is wrong with values that are right one by one."""
        return None

    @classmethod
    def baseline(cls):
        """Return jwst's algorithms with the defaults of jwst 3.0.0."""
        return cls()


@dataclass(frozen=True, kw_only=True)
class RateConfig(_Section):
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
    * ``skip`` leaves steps out, by their names in jwst: ``("reset", "dark_current")``
    """

    section: ClassVar[str] = "rate"
    emicorr: Literal["none", EmiAlgorithm] = "none"
    n_pix_grow_sat: Growth = 1
    ipc: bool = True
    firstframe: bool = False
    bright_use_group1: bool = True
    lastframe: bool = True
    reset: bool = True
    rscd: Literal["skip", "correct", "none"] = "skip"
    average_dark_current: NotNegative | None = None
    refpix: Literal["none", RefpixMethod] = "constant"
    charge_migration: bool = False
    signal_threshold: Positive = 25000.0
    jump: Literal["two-point", "likelihood", "none"] = "two-point"
    rejection_threshold: Positive = 4.0
    four_group_rejection_threshold: Positive = 5.0
    three_group_rejection_threshold: Positive = 6.0
    flag_4_neighbors: bool = True
    min_jump_to_flag_neighbors: NotNegative = 10.0
    max_jump_to_flag_neighbors: NotNegative = 1000.0
    min_diffs_single_pass: Count = 10
    minimum_groups: Count = 3
    minimum_sigclip_groups: Count = 100
    only_use_ints: bool = True
    after_jump_flag_dn1: NotNegative = 0.0
    after_jump_flag_time1: NotNegative = 0.0
    after_jump_flag_dn2: NotNegative = 0.0
    after_jump_flag_time2: NotNegative = 0.0
    showers: Literal["none", "flag", "remove"] = "none"
    extend_snr_threshold: Positive = 1.2
    extend_min_area: Count = 90
    time_masked_after_shower: NotNegative = 15.0
    persistence: bool = False
    persistence_time: NotNegative = 0.0
    algorithm: FitAlgorithm = "ols"
    weighting: FitWeighting = "read"
    dark_current_in_electrons: bool = True
    suppress_one_group: bool = True
    diagnostics: bool = True
    save_rateints: bool = False

    def _contradiction(self) -> str | None:
        if self.persistence and self.persistence_time <= 0:
            return f"persistence is on and persistence_time is {self.persistence_time}; expected a number above 0 [s]"
        return None

    @classmethod
    def optimal(cls) -> RateConfig:
        """Return the better algorithm of every step that has one."""
        return cls(emicorr="harmonics", refpix="smooth", jump="likelihood", showers="remove", algorithm="gls")


@dataclass(frozen=True, kw_only=True)
class CalConfig(_Section):
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

    section: ClassVar[str] = "cal"
    order: Literal["jwst", "paper"] = "jwst"
    latents: bool = False
    badpix_selfcal: Literal["none", SelfcalMethod] = "none"
    flagfrac_lower: HalfShare = 0.001
    flagfrac_upper: HalfShare = 0.001
    background: Literal["none", BackgroundMethod] = "none"
    straylight: Literal["none", StraylightMethod] = "kernel"
    clean_showers: Literal["none", ShowersMethod] = "none"
    flat: bool = True
    fringe: bool = True
    apply_time_correction: bool = True
    propagate_errors: bool = False
    residual_fringe: Fringes = "none"
    source_type: SourceType | None = None

    @classmethod
    def optimal(cls) -> CalConfig:
        """Return the better algorithm of every step that has one."""
        return cls(straylight="fitted", propagate_errors=True, residual_fringe="slices")


@dataclass(frozen=True, kw_only=True)
class CubeConfig(_Section):
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
    * ``residual_fringe`` of every spaxel, of the cubes of one band: "none", "columns" (the fit that jwst has for
      spectra) or "slices". The spectra of such cubes are not corrected again, and have no columns RF_
    * ``spectral_leak`` takes the second-order light of band 1B off the cube of 3A
    * ``center``, ``point_source``: (RA, Dec) [deg], a SkyCoord or text such as "22h36m03.6s +33d58m33s"; for a point
      source the wavelength offset and transmission across slices are corrected while the cube is built
    * ``spaxel_size`` [arcsec] and ``wavelength_step`` [um] may be Quantities
    """

    section: ClassVar[str] = "cube"
    match_backgrounds: bool = False
    background: Literal["master", "field", "none"] = "master"
    background_required: bool = False
    background_mix_bands: bool = True
    outliers: Literal["none", "detector", "sky"] = "detector"
    kernel_size: KernelSize = "7 7"
    threshold_percent: Percent = 99.8
    pixel_replace: Literal["none", ReplaceAlgorithm] = "none"
    weighting: WeightingName = "drizzle"
    exposure_weights: ExposureWeights = "none"
    output_type: Literal["band", "channel", "multi"] = "band"
    residual_fringe: Fringes = "none"
    spectral_leak: bool = False
    point_source: Place | None = None
    coord_system: CoordSystem = "skyalign"
    spaxel_size: SpaxelSize | None = None
    wavelength_step: WavelengthStep | None = None
    center: Place | None = None

    @classmethod
    def optimal(cls) -> CubeConfig:
        """Return the better algorithm of every step that has one."""
        return cls(match_backgrounds=True, background_mix_bands=False, outliers="sky", spectral_leak=True)


@dataclass(frozen=True, kw_only=True)
class SpectrumConfig(_Section):
    """Parameters of cube -> spectrum; by default the algorithms and values of jwst 3.0.0, with ``ifu_autocen`` on.

    * ``source_type``: "header" (as the headers say), "auto" (decided from the images of the cubes, where these are
      ambiguous as the headers say), "POINT" or "EXTENDED"; with ``both_branches`` a run extracts both ways where "auto"
      is ambiguous
    * ``center`` is (RA, Dec) [deg], a SkyCoord or text; without it ``autocen`` looks for the brightest source by
      ``centering`` "daofind" (jwst's) or "fit", else the target coordinates are taken (jwst's default, with ``snap`` to
      the nearest spaxel)
    * ``region`` is a region of the sky as DS9 text, file or object of the ``regions`` package, in place of a circle;
      ``radius`` [arcsec] may be a Quantity
    * ``extraction`` of a point source: "aperture", or "optimal": weighted by the PSF, which leaves a third of the noise
      of a source that stands alone (its flux is that of the aperture within 0.1 %, wavy by 0.4 % along a band) but
      takes of a nucleus in its host only what looks like the PSF: lines of the host lose up to 16 %. In neither mode
    * ``aperture_correction`` of a point source by the apcorr file, which must be there; False gives the flux inside the
      aperture
    * ``subpixels`` an axis for the border of the aperture, 0: exact; ``apcorr_outside``: "extrapolate" or "clamp"
    * ``background`` "auto" subtracts an annulus where the extract1d file says so (the aperture correction is made for
      it), and without such a file unless a background was subtracted before; else "annulus" or "none";
      ``annulus`` "annulus_jwst" clips as jwst does, "annulus" on the annulus alone
    * ``residual_fringe``: "none"; "columns" (jwst's) or "slices" add the columns RF_, unless the cube was corrected
    * ``spectral_leak`` takes the second-order light of band 1B off the spectrum of 3A (jwst's way) where it is not off
      the cube already
    * ``exact_errors`` takes the covariance of the voxels into account
    * of what optimal changes, ``source_type`` and ``centering`` judge themselves on data left out and fall back to what
      baseline does (:mod:`mrsxr.scores`); ``subpixels``, ``apcorr_outside``, ``annulus``, ``exact_errors`` fit nothing
    * ``stitch``: "none", "multiplicative" or "additive", outwards from ``reference_band``
    """

    section: ClassVar[str] = "spectrum"
    source_type: Literal["header", "auto", SourceType] = "header"
    both_branches: bool = False
    center: Place | None = None
    autocen: bool = True
    centering: Centering = "daofind"
    snap: bool = False
    region: Region | None = None
    extraction: Literal["aperture", "optimal"] = "aperture"
    radius_factor: RadiusFactor = 2.0
    radius: Arcsec | None = None
    aperture_correction: bool = True
    subpixels: Literal[0] | Subpixels = 10
    apcorr_outside: Outside = "extrapolate"
    background: Literal["auto", "annulus", "none"] = "auto"
    annulus: Annulus = "annulus_jwst"
    residual_fringe: Fringes = "columns"
    exact_errors: bool = False
    spectral_leak: bool = True
    stitch: StitchMethod = "none"
    reference_band: Band | None = None

    def _readers(self) -> dict[str, Any]:
        return {
            "source_type": lambda value, what: as_source_type(value, what, ("header", "auto")),
            "region": lambda value, _what: _region_text(value),
        }

    def _contradiction(self) -> str | None:
        if self.region is not None and (self.radius is not None or self.center is not None):
            return "a region goes without center and radius; give one or the other"
        if self.region is not None and self.extraction == "optimal":
            return 'a region is given and extraction is "optimal"; expected "aperture" with a region'
        return None

    @classmethod
    def optimal(cls) -> SpectrumConfig:
        """Return the better algorithm of every step that has one."""
        return cls(
            source_type="auto", centering="fit", subpixels=0, apcorr_outside="clamp",
            annulus="annulus", residual_fringe="slices", exact_errors=True,
        )  # fmt: skip


def _region_text(value: Any) -> str:
    """Return a region as DS9 text, so that it is read once and stands in the record; text stays as it is."""
    from mrsxr.spectrum.region import read_region, region_text

    is_text = isinstance(value, str) and "(" in value and ("\n" in value or not Path(value[:255]).exists())
    if is_text:
        read_region(value)
    return value if is_text else region_text(value)


@dataclass(frozen=True)
class Config:
    """All parameters of a reduction."""

    rate: RateConfig = field(default_factory=RateConfig)
    cal: CalConfig = field(default_factory=CalConfig)
    cube: CubeConfig = field(default_factory=CubeConfig)
    spectrum: SpectrumConfig = field(default_factory=SpectrumConfig)

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            check("Config", one.name, getattr(self, one.name), hints_of(type(self))[one.name])

    @classmethod
    def of_mode(cls, mode: str) -> Config:
        """Return the parameters of a mode, "baseline" or "optimal"."""
        check("the configuration", "mode", mode, Mode)
        return cls(**{name: getattr(kind, mode)() for name, kind in SECTIONS.items()})

    def with_background(self, method: str) -> Config:
        """Return this config with one way of taking the background off.

        Parameters
        ----------
        method : {"master", "pixel", "annulus", "binned", "none"}
            The spectrum of the background exposures; their mean image; an annulus about the source; bins of wavelength,
            linear over the field; nothing. What is named here is asked for: bands without background exposures are
            an error.
        """
        check("the configuration", "background", method, BackgroundWay)
        ways = {  # cal, cube, spectrum
            "master": ("none", "master", "auto"), "annulus": ("none", "none", "annulus"),
            "binned": ("none", "field", "auto"), "none": ("none", "none", "none"),
            "pixel": ("weighted" if self.cal.propagate_errors else "mean", "none", "auto"),
        }  # fmt: skip
        sections = zip(("cal", "cube", "spectrum"), ways[method], strict=True)
        parts = {name: replace(getattr(self, name), background=way) for name, way in sections}
        parts["cube"] = replace(parts["cube"], background_required=parts["cube"].background != "none")
        return replace(self, **parts)

    def with_source_type(self, kind: Any) -> Config:
        """Return this config with the type of the source: "header", "auto", "point" or "extended"."""
        return replace(self, spectrum=replace(self.spectrum, source_type=kind))

    def with_residual_fringe(self, methods: Mapping[str, str]) -> Config:
        """Return this config with other ways of taking off residual fringes.

        Parameters
        ----------
        methods : mapping of {"cal", "cube", "spectrum"} to {"none", "columns", "slices"}
            Where, and how: on the detector, in cubes, in spectra.
        """
        for section in methods:
            check("the configuration", "residual_fringe", section, FringePlace)
        parts = {section: replace(getattr(self, section), residual_fringe=way) for section, way in methods.items()}
        return replace(self, **parts)

    def with_skipped(self, names: Iterable[str]) -> Config:
        """Return this config without some steps, by their names in jwst, in every table that has them.

        Parameters
        ----------
        names : iterable of str
            "reset", "dark_current", "residual_fringe" ...
        """
        out = self
        for name in names:
            for section in sections_of(name):
                one = getattr(out, section)
                out = replace(out, **{section: replace(one, skip=(*one.skip, name))})
        return out


SECTIONS: dict[str, type[_Section]] = {
    "rate": RateConfig, "cal": CalConfig, "cube": CubeConfig, "spectrum": SpectrumConfig,
}  # fmt: skip
BackgroundWay = Literal["master", "pixel", "annulus", "binned", "none"]


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
        Where the file cannot be read, or has a table, a key or a value that is not known.
    """
    need_paths("load_config", path)
    try:
        size, _ = file_stamp(path)
        if size > _LONGEST_FILE:
            raise MrsxrError(f"{path}: has {size} bytes, expected a TOML file of parameters")
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except InputFileError as error:
        raise MrsxrError(f"{path}: cannot be read as TOML ({str(error).removeprefix(f'{path}: ')})") from error
    except (OSError, ValueError, RecursionError) as error:  # no TOML, no UTF-8, integers without end
        raise MrsxrError(f"{path}: cannot be read as TOML ({' '.join(str(error).split())})") from error
    of_file = tables.pop("mode", "baseline")
    for one in (of_file, mode or of_file):
        check(str(path), "mode", one, Mode)
    for name, values in tables.items():
        if name not in SECTIONS:
            what = f"table [{name}]" if isinstance(values, dict) else f"key '{name}' outside the tables"
            raise MrsxrError(f"{path}: unknown {what}; expected [{'], ['.join(SECTIONS)}]{_near(name)}")
        if not isinstance(values, dict):
            raise MrsxrError(f"{path}: {name} is {values!r}; expected a table [{name}] of parameters")
    base = Config.of_mode(mode or of_file)
    return Config(**{name: _section(path, name, tables.get(name, {}), getattr(base, name)) for name in SECTIONS})


def _near(name: str) -> str:
    """Return what an unknown name may mean: a table, or a key of one."""
    owners = {one.name: section for section, kind in SECTIONS.items() for one in dataclasses.fields(kind)}
    if name in owners:
        return f"; '{name}' belongs to [{owners[name]}]"
    return near_miss(name, SECTIONS)


def _section(path: str | Path, name: str, values: dict[str, Any], default: _Section) -> Any:
    known = [one.name for one in dataclasses.fields(default)]
    for key in values:
        if key not in known:
            hint = near_miss(key, known) or _near(key)
            raise MrsxrError(f"{path}: unknown key '{key}' in [{name}]; expected one of {', '.join(known)}{hint}")
    try:
        return dataclasses.replace(default, **values)
    except MrsxrError as error:
        text = str(error).removeprefix(f"{type(default).__name__}: ")
        raise type(error)(f"{path}: [{name}] {text}") from error
