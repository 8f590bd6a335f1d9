"""Doors to other packages: Datasets as ``specutils.Spectrum`` and back, and as ``astropy.io.fits.HDUList``."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.io import fits
from astropy.nddata import StdDevUncertainty
from astropy.wcs import WCS

from mrsxr import dq as flags
from mrsxr.arguments import need_data, reads
from mrsxr.convert import convert_units
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.limits import checked, checked_but
from mrsxr.schema import CUBE_DIMS, LEVELS, units_of
from mrsxr.spaxels import plane_of
from mrsxr.threads import how
from mrsxr.units import density_per, parse

from ._out_spectral import cube_file
from .exposures import with_sky_index
from .products import hdulist_of

_OURS = "mrsxr"  # in the meta of a Spectrum: what it does not hold itself


@checked_but("ds")
def to_hdulist(ds: xr.Dataset, dither: int | None = None) -> fits.HDUList:
    """Return the FITS file of a Dataset as an HDUList in memory, in the layout of JWST.

    Parameters
    ----------
    ds : Dataset of any level that has a FITS layout
        It is computed.
    dither : int, optional
        Number of the exposure, from 1, of data that hold several.

    Returns
    -------
    HDUList
        What :func:`mrsxr.save` writes; it is in memory, no file is open.

    Raises
    ------
    MrsxrError
        Where the level has no FITS layout, or one of several exposures must be named.

    Examples
    --------
    >>> mx.io.to_hdulist(cube)["SCI"].header["CTYPE3"]
    'WAVE'
    """
    need_data("to_hdulist", ds)
    return hdulist_of(ds, dither)


@reads()
@checked
def to_specutils(ds: xr.Dataset, variable: str = "flux") -> Any:
    """Return a spectrum or cube as a ``specutils.Spectrum``.

    Parameters
    ----------
    ds : Dataset, level "spectrum" or "cube"
        It is computed; falling wavelengths are turned round.
    variable : {"flux", "surface_brightness"}
        Of a spectrum.

    Returns
    -------
    specutils.Spectrum
        ``flux`` and ``spectral_axis`` with units, ``uncertainty`` (standard deviation, None without a variance),
        ``mask`` (DO_NOT_USE, or no number). A cube is on (wavelength, y, x) and has its WCS, of the sky and the
        wavelengths. ``meta`` holds what :func:`from_specutils` needs to give the same Dataset back.

    Raises
    ------
    LevelError
        Where the level is another.
    MrsxrError
        Where specutils is not installed, or the variable is missing.

    Examples
    --------
    >>> found = mx.io.to_specutils(spectrum)
    >>> found.flux.unit, found.spectral_axis.unit, type(found.uncertainty).__name__
    (Unit("Jy"), Unit("um"), 'StdDevUncertainty')
    """
    spectrum_of = _specutils()
    level = ds.attrs.get("level")
    if level not in ("spectrum", "cube"):
        raise LevelError(f"to_specutils needs data of level spectrum or cube, got {level or 'no level'}")
    variance = "var" if variable == "flux" else f"{variable}_var"
    if variable not in ds:
        raise MrsxrError(f"the data have no '{variable}'; expected one of {', '.join(map(str, ds.data_vars))}")
    ds = ds.compute(**how())
    values, unit = ds[variable].values, u.Unit(ds[variable].attrs["units"])
    with np.errstate(invalid="ignore"):
        error = StdDevUncertainty(np.sqrt(ds[variance].values.astype(float))) if variance in ds else None
    mask = ~np.isfinite(values) | ((ds["dq"].values & np.uint32(flags.DO_NOT_USE)) != 0)
    axis: dict[str, Any] = {"spectral_axis": ds["wavelength"].values * u.um}
    if level == "cube":
        hdus = cube_file(ds, "")
        axis = {"wcs": WCS(hdus["SCI"].header, fobj=hdus)}
    meta = {_OURS: ds.drop_vars([variable, "ra", "dec"], errors="ignore"), "header": dict(ds.attrs)}
    return spectrum_of(flux=values * unit, uncertainty=error, mask=mask, meta=meta, **axis)


def from_specutils(spectrum: Any) -> xr.Dataset:
    """Return a ``specutils.Spectrum`` of one spectrum, or of a cube with a FITS WCS, as a Dataset.

    Parameters
    ----------
    spectrum : specutils.Spectrum
        Of this package (:func:`to_specutils`), changed or not, or of any other origin. Its flux is a flux density (Jy,
        erg s-1 cm-2 um-1 ...), or a surface brightness, as a cube needs it.

    Returns
    -------
    Dataset, level "spectrum" or "cube"
        ``flux`` [Jy], or ``surface_brightness`` [MJy/sr] of spectra per solid angle, and cubes [MJy/sr]; ``var`` of its
        uncertainty, ``dq`` DO_NOT_USE where it is masked. What a Spectrum does not tell is NaN, or as it was where it
        comes from :func:`to_specutils` and still has its length.

    Raises
    ------
    MrsxrError
        Where it holds several spectra that are no cube, or the unit is no density of light.

    Examples
    --------
    >>> back = mx.io.from_specutils(mx.io.to_specutils(spectrum))
    >>> bool(np.allclose(back.flux, spectrum.flux, equal_nan=True)), back.attrs["level"]
    (True, 'spectrum')
    """
    if not hasattr(spectrum, "spectral_axis"):
        raise MrsxrError(f"from_specutils needs a specutils.Spectrum, got a {type(spectrum).__name__}")
    values = np.moveaxis(np.asarray(spectrum.flux.value), spectrum.spectral_axis_index or 0, 0)
    if values.ndim not in (1, 3):
        raise MrsxrError(f"the Spectrum holds an array of {values.shape}; expected one spectrum, or a cube")
    level = "spectrum" if values.ndim == 1 else "cube"
    unit = parse(str(spectrum.flux.unit))
    per = density_per(unit)
    name = "surface_brightness" if level == "spectrum" and per == "sr" else "flux"
    variance = "var" if name == "flux" else f"{name}_var"
    wavelength = spectrum.spectral_axis.to_value(u.um, equivalencies=u.spectral())
    bad = np.moveaxis(_mask(spectrum), spectrum.spectral_axis_index or 0, 0)
    dims = ("wavelength",) if level == "spectrum" else CUBE_DIMS
    data: dict[str, Any] = {
        name: (dims, values, {"units": str(spectrum.flux.unit)}),
        variance: (dims, np.moveaxis(_variance(spectrum), spectrum.spectral_axis_index or 0, 0),
                   {"units": str(spectrum.flux.unit**2)}),
        "dq": (dims, bad * np.uint32(flags.DO_NOT_USE), dict(flags.PIXEL_DQ_ATTRS)),
    }  # fmt: skip
    kept = spectrum.meta.get(_OURS) if hasattr(spectrum.meta, "get") else None
    kept = kept if kept is not None and kept["dq"].shape == values.shape else None
    out = xr.Dataset(data, {"wavelength": ("wavelength", wavelength, {"units": "um"})}, {"level": level})
    if kept is not None:
        before = kept["dq"].values
        changed = bad != ((before & np.uint32(flags.DO_NOT_USE)) != 0) | ~np.isfinite(values)
        out["dq"] = out["dq"].copy(data=np.where(changed, before ^ np.uint32(flags.DO_NOT_USE), before).astype("u4"))
        same = np.allclose(kept["wavelength"], wavelength, rtol=1e-6, atol=0)
        out[variance] = out[variance].astype(kept.get(variance, out[name]).dtype)
        out = kept.assign({one: out[one].variable for one in data}) if same else out.assign_attrs(kept.attrs)
    if level == "cube":
        out = _on_sky(out, spectrum.wcs)
    for spec in LEVELS[level]:
        if spec.name not in out.variables and not spec.optional and spec.dims == dims:
            out[spec.name] = (dims, np.full(values.shape, np.nan, spec.dtypes[-1]), {"units": spec.units})
    light = units_of(level, name)
    out = out if unit == parse(light) else convert_units(out, light)
    for one in (name, variance):
        out[one] = out[one].astype("f4") if level == "cube" else out[one]
        out[one].attrs["units"] = units_of(level, one)
    return with_sky_index(out)


def _specutils() -> Any:
    if importlib.util.find_spec("specutils") is None:
        raise MrsxrError("specutils is not installed; install it (pip install specutils)")
    import specutils

    return getattr(specutils, "Spectrum", None) or specutils.Spectrum1D


def _mask(spectrum: Any) -> np.ndarray:
    blind = ~np.isfinite(spectrum.flux.value)
    return blind if spectrum.mask is None else blind | np.asarray(spectrum.mask, bool)


def _variance(spectrum: Any) -> np.ndarray:
    """Return the variance that the uncertainty of a Spectrum stands for, NaN where there is none."""
    if spectrum.uncertainty is None:
        return np.full(spectrum.flux.shape, np.nan)
    from astropy.nddata import VarianceUncertainty

    found = spectrum.uncertainty.represent_as(VarianceUncertainty)
    return np.asarray(found.quantity.to_value(spectrum.flux.unit**2))


def _on_sky(cube: xr.Dataset, wcs: Any) -> xr.Dataset:
    """Return a cube with the place of its spaxels, from a WCS of the sky and the wavelength."""
    if {"y", "x"} <= set(cube.coords):
        return cube
    if not isinstance(wcs, WCS) or not wcs.has_celestial:
        raise MrsxrError(
            f"the cube has the WCS {type(wcs).__name__}; expected a FITS WCS of the sky and the wavelength"
        )
    text = wcs.celestial.to_header().tostring(sep="\n")
    plane = plane_of(text)
    for k, dim in enumerate(("x", "y")):
        offsets = (np.arange(cube.sizes[dim]) + 1 - plane.crpix[k]) * plane.scale[k]
        cube = cube.assign_coords({dim: (dim, offsets, {"units": "arcsec"})})
    side = float(np.sqrt(abs(plane.scale[0] * plane.scale[1])))
    return cube.assign_attrs(wcs=text, pixel_scale=side)
