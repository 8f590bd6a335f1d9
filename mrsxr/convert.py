"""Units of light on detector images, cubes and spectra: one function from any to any."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import astropy.units as u
import numpy as np
import xarray as xr

from . import units
from .arguments import reads
from .errors import LevelError, SchemaError
from .limits import checked
from .schema import LEVELS
from .spaxels import counted_solid_angle, facts_of, plane_widths, solid_angle
from .step import recorded

_SAFE = 1e25  # float32 holds factors up to here, and their inverse, with room for the numbers
_PER_SAMPLE = "per_sample"


@dataclass(frozen=True)
class _Quantity:
    """A unit of light, what it is per ("sr", "pix", ""), and whether it is summed over the wavelength sample."""

    unit: u.UnitBase
    per: str
    per_sample: bool

    @classmethod
    def of(cls, unit: str, per_sample: bool) -> _Quantity:
        parsed = units.parse(unit)
        per = units.density_per(parsed)
        if per_sample and units.spectral_law(parsed, _power(per))[1] != 0:
            raise SchemaError(f"per_sample gives a power, in units like W m-2 or W m-2 sr-1; got '{unit}'")
        return cls(parsed, per, per_sample)

    @property
    def density(self) -> u.UnitBase:
        """The unit, per um where it is summed over the sample."""
        return self.unit / u.um if self.per_sample else self.unit


def _power(per: str) -> u.UnitBase:
    return u.W / u.m**2 / (u.Unit(per) if per else u.dimensionless_unscaled)


def _in_known_units(ds: xr.Dataset, _: str) -> xr.Dataset:
    """Return data as they are; light without units is not taken for any here, where units are all that is asked for."""
    for name in ("flux", "surface_brightness"):
        if name in ds.variables and not ds.variables[name].attrs.get("units"):
            raise SchemaError(
                f"level {ds.attrs.get('level')}: '{name}' has no units; set attrs['units'] to what they are"
            )
    return ds


@reads(ds=_in_known_units)
@checked
def convert_units(ds: xr.Dataset, unit: str, *, per_sample: bool = False) -> xr.Dataset:
    """Return the data in another unit of light, with their variances.

    Parameters
    ----------
    ds : Dataset, level "cal", "cube" or "spectrum"
        In any of the units below.
    unit : str
        As astropy reads it; per frequency (MJy, mJy, W m-2 Hz-1), per wavelength (W m-2 um-1, erg s-1 cm-2 Angstrom-1),
        photons (photon s-1 cm-2 um-1) or power (W m-2), and of these

        * per solid angle (sr-1, arcsec-2): a surface brightness;
        * per detector pixel of level cal, per spaxel of level cube: "Jy/pix"; "Jy" without it is taken for that;
        * of a spectrum without either: a flux density. It converts ``flux``; a unit per solid angle converts
          ``surface_brightness`` and ``background``.
    per_sample : bool
        What a power [W m-2] means. False: nu F_nu = lambda F_lambda, as of spectral energy distributions. True: the
        power in the wavelength sample, F_lambda times its width, which summed over a line is the flux of the line; for
        cubes and spectra.

    Returns
    -------
    Dataset of the same level
        The main variable, all that had its unit, and the variances that had its square; lazy where ``ds`` is lazy.
        Numbers stay float32 unless float32 cannot hold them (variances in W2 m-4 Hz-2 are 1e-52 of those in Jy2);
        back in the unit of the level they are as they were to the precision of float32. The steps want the unit of
        their level: MJy/sr, spectra Jy and MJy/sr.

    Raises
    ------
    LevelError
        Where the level is another.
    SchemaError
        Where the unit is no density of light or cannot be reached, or wavelengths or the area of the pixels are
        missing.

    Notes
    -----
    F_lambda = F_nu c / lambda^2 at the coordinate ``wavelength`` (of cal data before, of cubes after the barycentric
    correction). An arcsec2 is 2.3504430539e-11 sr; the area of a spaxel is ``attrs["pixar_sr"]``, or
    ``attrs["pixel_scale"]`` squared, times what it grew by since (:mod:`mrsxr.spaxels`); that of a detector pixel the
    coordinate ``pixel_area``.

    Examples
    --------
    >>> mx.convert_units(cube, "mJy/arcsec2").flux.attrs["units"]
    'mJy/arcsec2'
    >>> power = mx.convert_units(cube, "W m-2", per_sample=True)
    >>> line = power.flux.sel(wavelength=slice(5.4, 5.5)).sum("wavelength")  # of a line: W m-2 in each spaxel
    """
    level = ds.attrs.get("level")
    if level not in ("cal", "cube", "spectrum"):
        raise LevelError(f"convert_units needs data of level cal, cube or spectrum, got {level or 'no level'}")
    target = _target(unit, level, per_sample)
    name = "surface_brightness" if level == "spectrum" and target.per == "sr" else "flux"
    if name not in ds:
        raise SchemaError(f"level {level}: variable '{name}' is missing, so there is nothing to convert to '{unit}'")
    old = ds.variables[name].attrs
    source = _Quantity.of(old["units"], bool(old.get(_PER_SAMPLE)))
    factor = _factor(ds, level, source, target)
    changed = {
        key: _converted(ds.variables[key], level, key, factor, target, unit, power)
        for key, power in _family(ds, source).items()
    }
    out = recorded(ds, ds.assign(changed), "convert.convert_units", unit=str(unit), per_sample=per_sample)
    counts = level == "cube" and target.per == "pix" and source.per != "pix"
    return out.assign_attrs(facts_of(ds)) if counts else out


def _target(unit: str, level: str, per_sample: bool) -> _Quantity:
    target = _Quantity.of(unit, per_sample)
    if level == "spectrum" and target.per == "pix":
        raise SchemaError(f"spectra have no pixels; expected a flux density or one per solid angle, got '{unit}'")
    if level != "spectrum" and target.per == "":
        return _Quantity(target.unit / u.pix, "pix", per_sample)
    return target


def _family(ds: xr.Dataset, source: _Quantity) -> dict[str, int]:
    """Return the data variables in the unit of the source (power 1) or its square (2)."""
    found = {}
    for key in ds.data_vars:
        text = ds.variables[key].attrs.get("units")
        if not text or ds.variables[key].dtype.kind != "f":
            continue
        try:
            unit = units.parse(text)
        except SchemaError:
            continue
        for power in (1, 2):
            if unit == source.unit**power and bool(ds.variables[key].attrs.get(_PER_SAMPLE)) == source.per_sample:
                found[str(key)] = power
    return found


def _factor(ds: xr.Dataset, level: str, source: _Quantity, target: _Quantity) -> xr.Variable:
    """Return the factor from source to target: a number, or along the dims of what it depends on; float64."""
    scale, power = units.spectral_law(source.density, target.density)
    factor = xr.Variable((), np.float64(scale))
    if power:
        factor = factor * _wavelength(ds, level).astype(np.float64) ** power
    if source.per != target.per:
        area = _pixel_area(ds, level, source.per == "pix")
        factor = factor * area if target.per == "pix" else factor / area
    if source.per_sample != target.per_sample:
        if level == "cal":
            raise SchemaError("per_sample is for cubes and spectra: detector pixels have no common wavelength samples")
        width = xr.Variable("wavelength", plane_widths(ds))
        factor = factor * width if target.per_sample else factor / width
    return factor


def _wavelength(ds: xr.Dataset, level: str) -> xr.Variable:
    if "wavelength" not in ds.variables:
        advice = "; run assign_wcs" if level == "cal" else ""
        raise SchemaError(f"level {level}: the coordinate 'wavelength' is missing, which the conversion needs{advice}")
    return ds.variables["wavelength"].to_base_variable()


def _pixel_area(ds: xr.Dataset, level: str, counted: bool) -> xr.Variable:
    """Return the area of the pixels [sr]; ``counted``: of those per which the light is counted already."""
    if level == "cube":
        return xr.Variable((), np.float64(counted_solid_angle(ds) if counted else solid_angle(ds)))
    if "pixel_area" not in ds.variables:
        raise SchemaError(f"level {level}: 'pixel_area' is missing, which photom adds; units per pixel need it")
    return ds.variables["pixel_area"].to_base_variable().astype(np.float64) * units.ARCSEC2_TO_SR


def _converted(
    variable: xr.Variable, level: str, name: str, factor: xr.Variable, target: _Quantity, unit: str, power: int
) -> xr.Variable:
    spec = next((v for v in LEVELS[level] if v.name == name), None)
    native = spec is not None and spec.units is not None and units.parse(spec.units) == target.unit**power
    by = factor**power
    dtype = _dtype(variable.dtype, by.values)
    if native and spec is not None and spec.dtypes == ("float32",):
        dtype = np.dtype("float32")
    out = (variable.to_base_variable() * by).astype(dtype).transpose(*variable.dims)
    attrs: dict[str, Any] = {k: v for k, v in variable.attrs.items() if k != _PER_SAMPLE}
    attrs["units"] = spec.units if native and spec is not None else _text(target, unit, power)
    if target.per_sample:
        attrs[_PER_SAMPLE] = 1
    out.attrs = attrs
    return out


def _dtype(dtype: np.dtype, factor: np.ndarray) -> np.dtype:
    """Return float64 where the products could leave the range of float32."""
    sizes = np.abs(factor[np.isfinite(factor) & (factor != 0)])
    if sizes.size and (sizes.max() > _SAFE or sizes.min() < 1.0 / _SAFE):
        return np.dtype("float64")
    return dtype


def _text(target: _Quantity, unit: str, power: int) -> str:
    """Return the unit as the user wrote it, and its square as astropy writes it."""
    for text in (str(unit), f"{unit}/pix"):
        if power == 1 and units.parse(text) == target.unit:
            return text
    return (target.unit**power).to_string()
