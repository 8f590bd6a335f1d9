"""Unit strings of the attributes ``units`` and the conversion between them (by astropy.units)."""

from __future__ import annotations

import math
from functools import lru_cache

import astropy.units as u
import numpy as np

from .errors import SchemaError
from .notes import caught_warnings

#: Speed of light [km/s].
C_KM_S = 299792.458
#: Solid angle of an arcsec2 [sr], (pi / 648000)^2: the one for all arithmetic. The keyword PIXAR_SR of a cube's WCS
#: header is made with 2.3504e-11 (geometry.grid), as jwst rounds it, 1.8e-5 lower; nothing is computed from it.
ARCSEC2_TO_SR = 2.3504430539097885e-11
MJYSR_TO_JY_PER_ARCSEC2 = 1e6 * ARCSEC2_TO_SR


#: What a density may be given per: a solid angle, a pixel (or spaxel), or nothing.
_PER = {"sr": u.sr, "pix": u.pix, "": u.dimensionless_unscaled}


@lru_cache(maxsize=256)
def parse(unit: str) -> u.UnitBase:
    """Return the astropy unit of a unit string, "spaxel" taken for "pix"; a wrong string raises SchemaError."""
    try:
        with caught_warnings(u.UnitsWarning):  # of several slashes
            return u.Unit(unit.replace("spaxel", "pix") if isinstance(unit, str) else unit)
    except (ValueError, TypeError) as error:
        raise SchemaError(f"'{unit}' is no unit that astropy understands") from error


def fits_text(unit: str) -> str:
    """Return a unit as FITS headers say it, "" of a plain number.

    The text as it is where the FITS standard (4.0, section 4.3) reads it, and "DN", which jwst writes though the
    standard does not know it.

    Raises
    ------
    SchemaError
        Where FITS has no word for it.
    """
    parsed = parse(unit)
    if parsed == u.dimensionless_unscaled:
        return ""
    if any(base.name in ("DN", "dn") for base in parsed.bases):
        return unit
    try:
        u.Unit(unit, format="fits")
    except ValueError:
        try:
            return str(parsed.to_string("fits"))
        except ValueError as error:
            raise SchemaError(f"'{unit}' is no unit of FITS; convert_units before, or save as netcdf") from error
    return unit


def factor(source: str, target: str) -> np.float32:
    """Return the float32 factor that takes numbers in ``source`` units to ``target`` units."""
    return np.float32(parse(source).to(parse(target)))


def density_per(unit: u.UnitBase) -> str:
    """Return what a density of light is given per: "sr", "pix" or "" (a flux density); others raise SchemaError."""
    for name, area in _PER.items():
        if (unit * area).is_equivalent(u.Jy, u.spectral_density(1.0 * u.um)):
            return name
    raise SchemaError(
        f"'{unit}' measures no density of light; expected one like MJy/sr, mJy/arcsec2, Jy/pix, W m-2 um-1 sr-1, Jy, "
        "W m-2 um-1 or W m-2"
    )


def spectral_law(source: u.UnitBase, target: u.UnitBase) -> tuple[float, int]:
    """Return (scale, power) of the factor ``scale wavelength^power`` [um] between two densities of light.

    Parameters
    ----------
    source, target : astropy units
        Per frequency, per wavelength, nu F_nu or photons; per solid angle, per pixel or neither, of which the part
        that is a plain number (arcsec2 to sr) is in the scale, and no area of a pixel.

    Returns
    -------
    float, int
    """
    scale, power = 1.0, 0
    for unit, sign in ((source, 1), (target, -1)):  # by way of Jy, which every density reaches
        flux = unit * _PER[density_per(unit)]
        at_1, at_2 = (flux.to(u.Jy, 1.0, u.spectral_density(wavelength * u.um)) for wavelength in (1.0, 2.0))
        scale *= float(at_1) ** sign
        power += sign * round(math.log2(at_2 / at_1))
    return scale, power
