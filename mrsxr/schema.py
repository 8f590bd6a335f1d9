"""What a Dataset of each level holds: variables, dims, dtypes, units. One source of truth for checks and docs.

Besides, any level may hold ``score_<step>``: what a step decided by judging itself (:mod:`mrsxr.scores`), and as
coordinates along ``dither`` the attributes in which exposures differ (:mod:`mrsxr.attributes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from .errors import SchemaError

DETECTOR_DIMS = ("dither", "y", "x")
RAMP_DIMS = ("dither", "integration", "group", "y", "x")
CUBE_DIMS = ("wavelength", "y", "x")
MAP = "y x or none"  # last of the dims of what is a number of a spectrum and a map of a cube
MAP_DIMS = (("y", "x"), ())


@dataclass(frozen=True)
class Variable:
    """One variable of a level: name, dims, allowed dtypes, units and what it means.

    ``fits`` is its name in FITS files: EXTNAME of an image, column of a spectrum, or HDU/KEYWORD.
    """

    name: str
    dims: tuple[str, ...]
    dtypes: tuple[str, ...]
    units: str | None
    meaning: str
    optional: bool = False
    fits: str = ""


@dataclass(frozen=True)
class Attribute:
    """One attribute that files keep: its kind, its keyword as HDU/KEYWORD, and whether an edit of that counts.

    ``edit`` is "counts", "refused" where the data cannot be made another's by an edit, or "" where it is not looked at.
    """

    name: str
    kind: str
    fits: str = ""
    edit: str = ""


def _v(
    name: str, dims: list[str] | tuple[str, ...], dtypes: str, units: str | None, meaning: str, optional: bool = False,
    fits: str = "",
) -> Variable:  # fmt: skip
    return Variable(name, tuple(dims), tuple(dtypes.split()), units, meaning, optional, fits)


#: Coordinates on ``dither`` that every detector level (ramp, rate, cal) carries.
DITHER_COORDS = (
    _v("exposure", ["dither"], "str", None, "file root, jw02732004001_02101_00001_mirifushort"),
    _v("start_time", ["dither"], "float64", "d", "start, MJD UTC", fits="PRIMARY/EXPSTART"),
    _v("mid_time", ["dither"], "float64", "d", "middle, MJD UTC", fits="PRIMARY/EXPMID"),
    _v("exposure_time", ["dither"], "float64", "s", "effective exposure time", fits="PRIMARY/EFFEXPTM"),
    _v("ra_ref", ["dither"], "float64", "deg", "right ascension of the reference point", fits="SCI/RA_REF"),
    _v("dec_ref", ["dither"], "float64", "deg", "its declination", fits="SCI/DEC_REF"),
    _v("roll_ref", ["dither"], "float64", "deg", "roll angle there", fits="SCI/ROLL_REF"),
    _v("v2_ref", ["dither"], "float64", "arcsec", "V2 of the reference point", fits="SCI/V2_REF"),
    _v("v3_ref", ["dither"], "float64", "arcsec", "its V3", fits="SCI/V3_REF"),
    _v("va_scale", ["dither"], "float64", "1", "velocity aberration, 1 where the file has none", fits="SCI/VA_SCALE"),
    _v("velosys", ["dither"], "float64", "m/s", "barycentric velocity, NaN where unknown", fits="SCI/VELOSYS"),
    _v("fits_header", ["dither"], "str", None, "JSON of the PRIMARY and SCI keywords of the exposure"),
)

#: The model behind the slice coordinates, carried by cal data so that it stays usable without a reference file.
WCS_VARIABLES = (
    _v("alpha_coefficients", ["slice_label", "power_y", "power_x"], "float64", "arcsec",
       "alpha = sum c y^i (x - alpha_x_shift)^j"),
    _v("alpha_x_shift", ["slice_label"], "float64", "pix", "x zero point of alpha_coefficients"),
    _v("wavelength_coefficients", ["slice_label", "power_y", "power_x"], "float64", "um",
       "wavelength = sum c y^i (x - wavelength_x_shift)^j, before the barycentric correction"),
    _v("wavelength_x_shift", ["slice_label"], "float64", "pix", "x zero point of wavelength_coefficients"),
    _v("slice_beta", ["slice_label"], "float64", "arcsec", "beta of each slice"),
    _v("slice_width", ["band"], "float64", "arcsec", "width of a slice across"),
    _v("v2_coefficients", ["band", "power_alpha", "power_beta"], "float64", "arcsec", "V2 from alpha, beta"),
    _v("v3_coefficients", ["band", "power_alpha", "power_beta"], "float64", "arcsec", "V3 from alpha, beta"),
)  # fmt: skip

#: What assign_wcs adds to rate data and cal data keep; optional, as files of other makers come without.
SLICE_COORDS = (
    _v("slice", ["y", "x"], "int16", "1", "channel * 100 + slice, 0 between slices", True),
    _v("channel", ["y", "x"], "int8", "1", "channel, 0 between slices", True),
    _v("alpha", ["y", "x"], "float32 float64", "arcsec", "along the slice", True),
    _v("beta", ["y", "x"], "float32 float64", "arcsec", "across the slices", True),
    _v("wavelength", ["y", "x"], "float64", "um", "before the barycentric correction", True),
    *(Variable(v.name, v.dims, v.dtypes, v.units, v.meaning, True) for v in WCS_VARIABLES),
)

#: Variances of a detector image; those that jwst drops are optional.
VARIANCES = (
    "var_poisson", "var_read", "var_flat", "var_latent", "var_background", "var_straylight", "var_fringe", "var_photom",
)  # fmt: skip
#: Those that all dithers have in common: they are not averaged down where dithers are combined.
SYSTEMATIC = ("var_latent", "var_background", "var_straylight", "var_fringe", "var_photom")
#: Those of each exposure alone, which average down.
RANDOM = tuple(name for name in VARIANCES if name not in SYSTEMATIC)
#: Those by which pixels scatter, the square of ERR in files. A wrong flux conversion moves all pixels alike, which 1 %
#: of a bright source would make 1.2 times the scatter (S/N 70).
SCATTER = tuple(name for name in VARIANCES if name != "var_photom")


def _more_variances(units: str) -> tuple[Variable, ...]:
    """Variances that jwst drops; each its own, as those of references are common to all dithers."""
    parts = {"latent": "the subtracted latent, common to all dithers",
             "background": "the subtracted background, common to all dithers",
             "straylight": "the stray light model, common to all dithers",
             "fringe": "the fringe flat and residual fringes, common to all dithers",
             "photom": "the flux conversion, common to all pixels and no part of ERR"}  # fmt: skip
    return tuple(
        _v(f"var_{name}", DETECTOR_DIMS, "float32", units, f"variance by {what}", True) for name, what in parts.items()
    )


_LINE_TYPES = "float32 float64"


def _with_error(name: str, units: str | None, meaning: str) -> tuple[Variable, Variable]:
    return (
        _v(name, ("line", MAP), _LINE_TYPES, units, meaning),
        _v(f"{name}_err", ("line", MAP), _LINE_TYPES, units, f"1 sigma: {meaning}"),
    )


def _columns_of_jwst() -> tuple[Variable, ...]:
    """Columns of the spectra of jwst that hold numbers in some of them only: variables of their lower-case names."""
    units = {"FLUX": "Jy", "SB": "MJy/sr", "BKGD": "MJy/sr"}
    parts = {"POISSON": "photon noise", "RNOISE": "read noise", "FLAT": "the flat"}
    found = [(f"{of}_VAR_{part}", {"Jy": "Jy2"}.get(unit, "MJy2/sr2"), f"variance by {what}")
             for of, unit in units.items() for part, what in parts.items()]  # fmt: skip
    found += [("BKGD_ERROR", "MJy/sr", "error of the background")]
    found += [(f"RF_{of}", unit, "without residual fringes")
              for of, unit in (("FLUX", "Jy"), ("SURF_BRIGHT", "MJy/sr"), ("BACKGROUND", "MJy/sr"))]  # fmt: skip
    return tuple(
        _v(column.lower(), ("wavelength",), "float32 float64", unit, meaning, True, column)
        for column, unit, meaning in found
    )


LEVELS: dict[str, tuple[Variable, ...]] = {
    "ramp": (
        _v("sci", RAMP_DIMS, "uint16 float32", "DN", "counts up the ramp", fits="SCI"),
        _v("pixel_dq", DETECTOR_DIMS, "uint32", "1", "flags of each pixel", fits="PIXELDQ"),
        _v("group_dq", RAMP_DIMS, "uint8", "1", "flags of each sample", fits="GROUPDQ"),
        _v("refout", ("dither", "integration", "group", "y", "x_ref"), "uint16 float32", "DN",
           "reference output", True, fits="REFOUT"),
        *DITHER_COORDS,
    ),
    "rate": (
        _v("rate", DETECTOR_DIMS, "float32", "DN/s", "slope, mean over integrations", fits="SCI"),
        _v("dq", DETECTOR_DIMS, "uint32", "1", "flags", fits="DQ"),
        _v("var_poisson", DETECTOR_DIMS, "float32", "DN2/s2", "variance by photon noise", fits="VAR_POISSON"),
        _v("var_read", DETECTOR_DIMS, "float32", "DN2/s2", "variance by read noise", fits="VAR_RNOISE"),
        _v("var_flat", DETECTOR_DIMS, "float32", "DN2/s2", "variance by the flat", True, fits="VAR_FLAT"),
        *_more_variances("DN2/s2"),
        _v("groups_used", DETECTOR_DIMS, "uint16", "1", "groups that the slope rests on, all integrations", True),
        _v("n_jumps", DETECTOR_DIMS, "uint16", "1", "differences left out as jumps, all integrations", True),
        _v("chi2", DETECTOR_DIMS, "float32", "1", "reduced chi2 of the fits, NaN without one", True),
        *SLICE_COORDS,
        *DITHER_COORDS,
    ),
    "rateints": (
        _v("rate", ("dither", "integration", "y", "x"), "float32", "DN/s", "slope of each integration", fits="SCI"),
        _v("dq", ("dither", "integration", "y", "x"), "uint32", "1", "flags", fits="DQ"),
        _v("var_poisson", ("dither", "integration", "y", "x"), "float32", "DN2/s2", "photon noise", fits="VAR_POISSON"),
        _v("var_read", ("dither", "integration", "y", "x"), "float32", "DN2/s2", "read noise", fits="VAR_RNOISE"),
        _v("groups_used", ("dither", "integration", "y", "x"), "uint16", "1", "groups that the slope rests on", True),
        _v("n_jumps", ("dither", "integration", "y", "x"), "uint16", "1", "differences left out as jumps", True),
        _v("chi2", ("dither", "integration", "y", "x"), "float32", "1", "reduced chi2, NaN without one", True),
        *DITHER_COORDS,
    ),
    "cal": (
        _v("flux", DETECTOR_DIMS, "float32", "MJy/sr", "surface brightness", fits="SCI"),
        _v("dq", DETECTOR_DIMS, "uint32", "1", "flags", fits="DQ"),
        _v("var_poisson", DETECTOR_DIMS, "float32", "MJy2/sr2", "variance by photon noise", fits="VAR_POISSON"),
        _v("var_read", DETECTOR_DIMS, "float32", "MJy2/sr2", "variance by read noise", fits="VAR_RNOISE"),
        _v("var_flat", DETECTOR_DIMS, "float32", "MJy2/sr2", "variance by the flat", fits="VAR_FLAT"),
        *_more_variances("MJy2/sr2"),
        _v("pixel_area", ("y", "x"), "float32", "arcsec2", "area of a pixel on the sky", True, fits="AREA"),
        _v("background_level", ("dither", "band"), "float64", "MJy/sr", "mean background taken off by matching", True),
        *SLICE_COORDS,
        *DITHER_COORDS,
    ),
    "cube": (
        _v("flux", CUBE_DIMS, "float32", "MJy/sr", "surface brightness", fits="SCI"),
        _v("var", CUBE_DIMS, "float32", "MJy2/sr2", "variance"),
        _v("var_systematic", CUBE_DIMS, "float32", "MJy2/sr2", "variance common to all dithers and voxels", True),
        _v("weight", CUBE_DIMS, "float32", "1", "number of detector pixels that reach a voxel (WMAP)", fits="WMAP"),
        _v("dq", CUBE_DIMS, "uint32", "1", "0 good, 1 hole, 513 outside the field", fits="DQ"),
        _v("wavelength", ("wavelength",), "float64", "um", "centre of the plane"),
        _v("wavelength_width", ("wavelength",), "float64", "um", "width of the plane, where they differ", True),
        _v("band", ("wavelength",), "str", None, "band of the plane, in cubes of several", True),
        _v("y", ("y",), "float64", "arcsec", "offset from the tangent point along the second axis"),
        _v("x", ("x",), "float64", "arcsec", "offset from the tangent point along the first axis"),
        _v("ra", ("y", "x"), "float64", "deg", "right ascension (ICRS)", True),
        _v("dec", ("y", "x"), "float64", "deg", "declination (ICRS)", True),
    ),
    "spectrum": (
        _v("flux", ("wavelength",), "float32 float64", "Jy", "in the aperture, corrected to total", fits="FLUX"),
        _v("var", ("wavelength",), "float32 float64", "Jy2", "variance of flux", fits="FLUX_VAR"),
        _v("surface_brightness", ("wavelength",), "float32 float64", "MJy/sr", "mean in the aperture",
           fits="SURF_BRIGHT"),
        _v("surface_brightness_var", ("wavelength",), "float32 float64", "MJy2/sr2", "its variance", fits="SB_VAR"),
        _v("background", ("wavelength",), "float32 float64", "MJy/sr", "subtracted or measured",
           fits="BACKGROUND"),
        _v("n_pixels", ("wavelength",), "float32 float64", "1", "spaxels in the aperture", fits="NPIXELS"),
        _v("dq", ("wavelength",), "uint32", "1", "flags", fits="DQ"),
        _v("wavelength", ("wavelength",), "float64", "um", "wavelength", fits="WAVELENGTH"),
        _v("band", ("wavelength",), "str", None, "band of each sample", fits="BAND"),
        *_columns_of_jwst(),
    ),
    "lines": (
        *_with_error("flux", "W m-2", "of the whole line, per spaxel on maps"),
        *_with_error("velocity", "km/s", "flux-weighted mean, against attrs['redshift']"),
        *_with_error("dispersion", "km/s", "second moment, instrument removed"),
        *_with_error("continuum", None, "at the line, in the units of the data"),
        *_with_error("ew", "um", "equivalent width, positive in emission"),
        *(_v(f"component_{v.name}", ("line", "component", MAP), _LINE_TYPES, v.units, f"of a component: {v.meaning}")
          for name, unit, text in (("flux", "W m-2", "flux"), ("velocity", "km/s", "velocity"),
                                   ("dispersion", "km/s", "width, instrument removed"))
          for v in _with_error(name, unit, text)),
        _v("component_width", ("line", "component", MAP), _LINE_TYPES, "km/s", "width as observed (sigma)"),
        _v("snr", ("line", MAP), _LINE_TYPES, "1", "flux over its error"),
        _v("upper_limit", ("line", MAP), _LINE_TYPES, "W m-2", "3 sigma, at fixed width"),
        _v("n_components", ("line", MAP), "int8", "1", "Gaussians of the chosen model"),
        _v("fit_flags", ("line", MAP), "uint8", "1", "1 low S/N, 2 at a bound, 4 failed, 8 few voxels, 16 fringe-like,"
           " 32 unresolved, 64 no errors, 128 ambiguous"),
        _v("wavelength_rest", ("line",), "float64", "um", "in vacuum"),
        _v("instrument_dispersion", ("line",), "float64", "km/s", "sigma of the instrument at the line"),
    ),
}  # fmt: skip


def _a(names: str, kind: str, hdu: str = "", edit: str = "") -> Iterator[Attribute]:
    """Return attributes of one kind: ``name`` or ``name=KEYWORD``."""
    for name, _, key in (one.partition("=") for one in names.split()):
        yield Attribute(name, kind, f"{hdu}/{key}" if key else "", edit)


#: Attributes that the package reads from files or writes to headers.
ATTRIBUTES = {one.name: one for one in (
    *_a("level", "level"), *_a("setting", "setting"),
    *_a("detector=DETECTOR channels=CHANNEL band=BAND", "text", "PRIMARY", "refused"),
    *_a("readpatt=READPATT subarray=SUBARRAY", "text", "PRIMARY", "refused"),
    *_a("group_time=TGROUP frame_time=TFRAME", "positive", "PRIMARY", "refused"),
    *_a("n_groups=NGROUPS n_integrations=NINTS", "count", "PRIMARY", "refused"),
    *_a("target=TARGNAME program=PROGRAM", "text", "PRIMARY", "counts"),
    *_a("background=BKGDTARG", "flag", "PRIMARY", "counts"),
    *_a("target_ra=TARG_RA target_dec=TARG_DEC", "number", "PRIMARY", "counts"),
    *_a("source_type=SRCTYPE", "text", "SCI", "counts"),
    *_a("rscd_skip_int1=INT1SKIP rscd_skip_int2=INT2SKIP", "number", "PRIMARY"),
    *_a("photmjsr=PHOTMJSR pixar_sr=PIXAR_SR pixar_a2=PIXAR_A2 mt_avra=MT_AVRA mt_avdec=MT_AVDEC", "number", "SCI"),
    *_a("tie_ra=TIE_RA tie_dec=TIE_DEC", "number", "SCI"),
    *_a("scale_factor=SCALEFAC scale_factor_error=SCALFERR", "number", "SCI"),
    *_a("scale_offset=SCALEOFF scale_offset_error=SCALOERR", "number", "SCI"),
    *_a("crds_context=CRDS_CTX", "text", "PRIMARY"),
    *_a("exposures_used=NEXPUSED exposures_planned=NEXPPLAN", "count", "PRIMARY"),
    *_a("aperture_x=EXTR_X aperture_y=EXTR_Y", "number", "SCI"),
    *_a("weighting product_name association key Conventions exposure_weights variant source_type_header", "text"),
    *_a("notes", "texts"), *_a("pixel_scale", "positive"), *_a("wavelength_step redshift", "number"),
    *_a("wcs", "wcs"), *_a("point_source", "pair"), *_a("bands exposures", "list"), *_a("history_json", "history"),
    *_a("fits_header", "header"),
)}  # fmt: skip

#: attrs that every level carries; detector levels carry DETECTOR_ATTRS as well.
REQUIRED_ATTRS = ("level",)
DETECTOR_ATTRS = (
    "setting", "detector", "channels", "band", "readpatt", "subarray", "group_time", "frame_time",
    "n_groups", "n_integrations", "target", "program",
)  # fmt: skip


def validate(ds: xr.Dataset, level: str | None = None) -> xr.Dataset:
    """Check a Dataset against the schema of its level and return it unchanged. Nothing is computed.

    Parameters
    ----------
    ds : Dataset
    level : str, optional
        The level to check against; by default ``ds.attrs["level"]``.

    Returns
    -------
    Dataset, the input

    Raises
    ------
    SchemaError
        Naming the first variable, dimension, dtype, unit or attribute that does not fit.
    """
    level = level or ds.attrs.get("level")
    if level not in LEVELS:
        raise SchemaError(f"level is {level!r}; expected one of {', '.join(LEVELS)}")
    where = f"level {level} ({ds.attrs.get('setting', ds.attrs.get('bands', 'no setting'))})"
    required = REQUIRED_ATTRS + (DETECTOR_ATTRS if level in ("ramp", "rate", "rateints", "cal") else ())
    for key in required:
        if key not in ds.attrs and key not in ds.coords:
            raise SchemaError(f"{where}: attribute '{key}' is missing")
    for spec in LEVELS[level]:
        _validate_variable(ds, spec, where)
    return ds


def _validate_variable(ds: xr.Dataset, spec: Variable, where: str) -> None:
    if spec.name not in ds.variables:
        if spec.optional:
            return
        raise SchemaError(f"{where}: variable '{spec.name}' ({spec.meaning}) is missing")
    variable = ds.variables[spec.name]
    tails = MAP_DIMS if spec.dims[-1:] == (MAP,) else (spec.dims[-1:],)
    if variable.dims not in {(*spec.dims[:-1], *tail) for tail in tails}:
        raise SchemaError(f"{where}: '{spec.name}' has dims {variable.dims}, expected {spec.dims}")
    if spec.dtypes == ("str",):
        if np.dtype(variable.dtype).kind not in "UOT":
            raise SchemaError(f"{where}: '{spec.name}' is {variable.dtype}, expected strings")
    elif str(variable.dtype) not in spec.dtypes:
        raise SchemaError(f"{where}: '{spec.name}' is {variable.dtype}, expected {' or '.join(spec.dtypes)}")
    if spec.units is not None and variable.attrs.get("units") != spec.units:
        raise SchemaError(f"{where}: '{spec.name}' has units {variable.attrs.get('units')!r}, expected '{spec.units}'")


def variances_of(ds: xr.Dataset, among: Sequence[str] = VARIANCES) -> list[str]:
    """Return the names of the variances that data hold; SchemaError where one is lost that every file of them has."""
    level = str(ds.attrs.get("level"))
    for spec in LEVELS.get(level, ()):
        if spec.name in among and spec.name not in ds.variables and not spec.optional:
            raise SchemaError(f"the {level} has no '{spec.name}' ({spec.meaning}), without which errors are too small")
    return [name for name in among if name in ds.variables]


def units_of(level: str, name: str) -> str:
    """Return the unit string of a variable of a level."""
    return _find(level, name).units or ""


def fits_names(level: str) -> dict[str, str]:
    """Return the names in FITS files, EXTNAME or column, of the variables of a level, in the order of its files."""
    return {v.name: v.fits for v in LEVELS[level] if v.fits and "/" not in v.fits}


def meaning_of(level: str, name: str) -> str:
    """Return the one-line meaning of a variable of a level."""
    return _find(level, name).meaning


def _find(level: str, name: str) -> Variable:
    for spec in LEVELS[level]:
        if spec.name == name:
            return spec
    raise SchemaError(f"level {level} has no variable '{name}'")


def describe(level: str) -> str:
    """Return a text table of the variables of a level, for people and for the documentation."""
    rows = [(v.name + (" (optional)" if v.optional else ""), " ".join(v.dims), "/".join(v.dtypes),
             v.units or "", v.fits, v.meaning) for v in LEVELS[level]]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row[:5], widths, strict=True)), row[5]]) for row in rows)


#: Signal to noise of a line from which on its numbers are measurements, by what they are: usual practice, a velocity
#: needs more signal than a flux, a width more than a velocity.
LINE_LIMITS = {"flux": 3.0, "velocity": 5.0, "dispersion": 8.0}
_LINE_KINDS = {
    "flux": "flux", "ew": "flux", "moment0": "flux", "velocity": "velocity", "moment1": "velocity",
    "dispersion": "dispersion", "width": "dispersion", "moment2": "dispersion",
}  # fmt: skip
_AT_BOUND, _FAILED = 2, 4  # bits of fit_flags


def is_measured(ds: xr.Dataset, name: str, limits: Mapping[str, float] | None = None) -> xr.DataArray | None:
    """Return where a variable of line fits or moments is a measurement; None where all of it is, such as a limit.

    Parameters
    ----------
    ds : Dataset
        Fits of lines or moments, with ``snr``.
    name : str
        Of a variable or of its error.
    limits : mapping, optional
        Signal to noise for "flux", "velocity" and "dispersion"; by default :data:`LINE_LIMITS`.

    Returns
    -------
    DataArray of bool, or None
        False where the signal to noise of the line, and of the component where it is of one, is below the limit, where
        the fit failed, and for velocities and widths where one of them is at the bound of what was allowed. Of fits
        with ``absorption`` the sign of the signal does not count.
    """
    stem = name.removesuffix("_mc").removesuffix("_err").removeprefix("component_")
    kind = _LINE_KINDS.get(stem)
    if kind is None:
        return None
    limit = (limits or LINE_LIMITS)[kind]
    either = bool(ds.attrs.get("absorption", 0))
    ratio = abs(ds["snr"]) if either else ds["snr"]
    out = ratio >= limit
    if "fit_flags" in ds:
        bad = _FAILED if kind == "flux" else _FAILED | _AT_BOUND
        out = out & ((ds["fit_flags"] & np.uint8(bad)) == 0)
    if name.startswith("component_") and {"component_flux", "component_flux_err"} <= set(ds.data_vars):
        own = ds["component_flux"] / ds["component_flux_err"]
        out = out & ((abs(own) if either else own) >= limit)
    return out
