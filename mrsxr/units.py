"""Unit strings of the attributes ``units`` and the conversion between them (by astropy.units)."""

from __future__ import annotations

from functools import lru_cache

import astropy.units as u
import numpy as np

from .errors import SchemaError

DN = "DN"
RATE = "DN/s"
RATE_VAR = "DN2/s2"
SURFACE_BRIGHTNESS = "MJy/sr"
SURFACE_BRIGHTNESS_VAR = "MJy2/sr2"
FLUX = "Jy"
FLUX_VAR = "Jy2"
WAVELENGTH = "um"
ANGLE = "arcsec"
SKY = "deg"
FLAGS = "1"

ARCSEC2_TO_SR = 2.3504430539097885e-11
MJYSR_TO_JY_PER_ARCSEC2 = 1e6 * ARCSEC2_TO_SR


@lru_cache(maxsize=256)
def parse(unit: str) -> u.UnitBase:
    """Return the astropy unit of a unit string; a wrong string raises SchemaError."""
    try:
        return u.Unit(unit)
    except ValueError as error:
        raise SchemaError(f"'{unit}' is no unit that astropy understands") from error


def factor(source: str, target: str) -> np.float32:
    """Return the float32 factor that takes numbers in ``source`` units to ``target`` units."""
    return np.float32(parse(source).to(parse(target)))
