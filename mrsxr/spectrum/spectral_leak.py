"""Step spectral_leak: second-order light of 6.1 um that falls on 12.2 um."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr.errors import MrsxrError, ReferenceFileError
from mrsxr.step import step

LEAKING, LEAKED = "1B", "3A"
#: Data and the variance that goes with them; those that a spectrum lacks are left out.
_VALUES = (
    ("flux", "var"), ("surface_brightness", "surface_brightness_var"),
    ("rf_flux", None), ("rf_surf_bright", None),
)  # fmt: skip


@step(needs="spectrum")
def correct_spectral_leak(ds: xr.Dataset, *, leaking: xr.Dataset, mrsptcorr: xr.Dataset) -> xr.Dataset:
    """Subtract from the spectrum of band 3A what leaks in from band 1B in the second order.

    Parameters
    ----------
    ds : Dataset, level "spectrum"
        Of band 3A; spectra of other bands are returned as they are. ``flux`` [Jy], ``surface_brightness`` [MJy/sr] and
        their variances on (wavelength [um]).
    leaking : Dataset, level "spectrum"
        Of band 1B, of the same source and extracted alike (both POINT or both EXTENDED).
    mrsptcorr : Dataset, kind "mrsptcorr"
        ``frac_leak``, ``err_leak`` (wavelength [um]).

    Returns
    -------
    Dataset, level "spectrum"
        Corrected, with the variances of the subtracted spectrum and of the fraction added; ``leak`` (wavelength) [Jy]
        is what was subtracted from ``flux``.

    Raises
    ------
    MrsxrError
        Where ``leaking`` is of another band or another source type.
    ReferenceFileError
        Where the reference file has no leak table.

    Notes
    -----
    F_3A -= F_1B(wavelength / 2) frac_leak(wavelength), as jwst's spectral_leak; variance += (frac_leak err_1B)^2 +
    (F_1B err_leak)^2, which jwst leaves out, and surface brightness is corrected by that of band 1B. jwst skips
    EXTENDED spectra. Reference-file type MRSPTCORR, table LEAKCOR.
    """
    if str(ds.attrs.get("band")) != LEAKED:
        return ds
    if str(leaking.attrs.get("band")) != LEAKING:
        raise MrsxrError(f"the leaking spectrum is of band {leaking.attrs.get('band')}; expected {LEAKING}")
    kinds = [str(one.attrs.get("source_type")) for one in (ds, leaking)]
    if kinds[0] != kinds[1]:
        raise MrsxrError(f"spectra of bands {LEAKED} and {LEAKING} are {kinds[0]} and {kinds[1]}; extract them alike")
    fraction, spread = leak_fraction(ds.wavelength, mrsptcorr)
    out = {}
    for name, variance in _VALUES:
        if name not in ds or name not in leaking:
            continue
        light = doubled(leaking[name], ds.wavelength)
        out[name] = (ds[name] - light * fraction).assign_attrs(ds[name].attrs)
        if name == "flux":
            attrs = {"units": ds[name].attrs.get("units"), "long_name": "subtracted light of the second order"}
            out["leak"] = (light * fraction).assign_attrs(attrs)
        if variance is not None:
            more = doubled(leaking[variance], ds.wavelength) * fraction**2 + (light * spread) ** 2
            out[variance] = (ds[variance] + more).assign_attrs(ds[variance].attrs)
    return ds.assign(out)


def leak_fraction(wavelength: xr.DataArray, mrsptcorr: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the fraction of the light at half the wavelength that leaks in, and its error, at wavelengths [um]."""
    if "frac_leak" not in mrsptcorr:
        raise ReferenceFileError(
            f"mrsptcorr {mrsptcorr.attrs.get('ref_id', '')}: no table LEAKCOR; the spectral leak cannot be corrected"
        )
    grid = mrsptcorr.frac_leak.wavelength.values
    names = ("frac_leak", "err_leak")
    return tuple(
        xr.DataArray(np.interp(wavelength.values, grid, mrsptcorr[name].values), dims="wavelength")
        if name in mrsptcorr else xr.zeros_like(wavelength, dtype=float).reset_coords(drop=True)
        for name in names
    )  # type: ignore[return-value]  # fmt: skip


def doubled(values: xr.DataArray, wavelength: xr.DataArray) -> xr.DataArray:
    """Return values of band 1B at half of the wavelengths [um]; beyond its ends the value there, as in jwst."""
    good = np.isfinite(values.values)
    if not good.any():
        return xr.DataArray(np.full(wavelength.size, np.nan), dims="wavelength")
    found = np.interp(wavelength.values, 2.0 * values.wavelength.values[good], values.values[good])
    return xr.DataArray(found, dims="wavelength")
