"""Step photom: slopes to surface brightness."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.errors import MrsxrError
from mrsxr.schema import units_of
from mrsxr.step import step

from ._invalid import VARIANCES, match_invalid, scale

DAYS_OF_YEAR = 365.0
COLUMNS = {1: (0, 512), 2: (512, 1031), 3: (512, 1031), 4: (0, 512)}  # of the time law in jwst


@step(needs="rate", gives="cal")
def calibrate_flux(ds: xr.Dataset, *, photom: xr.Dataset, apply_time_correction: bool = True) -> xr.Dataset:
    """Multiply slopes by the flux conversion and undo the loss of throughput with time.

    Parameters
    ----------
    ds : Dataset, level "rate"
        ``rate`` [DN/s], variances [DN2/s2]; ``wavelength`` [um] and ``mid_time`` [MJD] where a time law is used.
    photom : Dataset, kind "photom"
        ``conversion`` [MJy/sr per DN/s], ``pixel_area`` [arcsec2], ``dq``; the time law where the file has one.
    apply_time_correction : bool
        Divide by the throughput at the time of the exposure.

    Returns
    -------
    Dataset, level "cal"
        ``flux`` [MJy/sr], ``var_poisson``, ``var_read``, ``var_flat`` [MJy2/sr2], ``dq``; NaN and DO_NOT_USE where
        there is no conversion, so everywhere between the slices.

    Raises
    ------
    MrsxrError
        Where a time law is asked for before assign_wcs.

    Notes
    -----
    As jwst's photom. Throughput ``C = min(1, year1value ((d + tsoft)/(365 + tsoft))^alpha)``, d = days since t0,
    interpolated in wavelength (Law et al. 2025). Reference-file type PHOTOM.
    """
    missing = photom.conversion.isnull().astype("uint32") * np.uint32(dq.DO_NOT_USE)
    out = scale(ds, "rate", photom.conversion)
    out = out.assign(dq=(ds.dq | photom.dq | missing).astype("uint32").assign_attrs(dq.PIXEL_DQ_ATTRS))
    if apply_time_correction and "time_alpha" in photom:
        if "wavelength" not in ds.coords:
            raise MrsxrError(f"setting {ds.attrs.get('setting')}: assign_wcs must run before the time law of photom")
        out = scale(out, "rate", np.float32(1) / throughput(ds, photom))
    out = out.rename(rate="flux")
    out = out.assign(flux=out.flux.assign_attrs(units=units_of("cal", "flux")))
    out = out.assign({v: out[v].assign_attrs(units=units_of("cal", v)) for v in VARIANCES if v in out})
    if "var_flat" not in out:
        out = out.assign(var_flat=xr.zeros_like(out.var_read))
    out = out.assign_coords(pixel_area=photom.pixel_area.astype("float32").load().assign_attrs(units="arcsec2"))
    return match_invalid(out, "flux")


def throughput(ds: xr.Dataset, photom: xr.Dataset) -> xr.DataArray:
    """Return the throughput of each pixel at the time of each exposure, float32 (dither, y, x), 1 where unknown."""
    wavelength, x = ds.wavelength.values, ds.x.values
    planes = np.ones((ds.sizes["dither"], *wavelength.shape), dtype=np.float32)
    for channel in (int(c) for c in ds.attrs["channels"]):
        law = photom.sel(channel=channel).load()
        inside = (x >= COLUMNS[channel][0]) & (x < COLUMNS[channel][1])
        for d, day in enumerate(ds.mid_time.values):
            value = _law_at(law, float(day), wavelength[:, inside])
            planes[d][:, inside] = np.where(np.isfinite(value) & (value != 0), value, 1.0)
    return xr.DataArray(planes, dims=("dither", "y", "x"))


def _law_at(law: xr.Dataset, day: float, wavelength: np.ndarray) -> np.ndarray:
    good = np.isfinite(law.time_wavelength.values)
    bins = law.time_wavelength.values[good]
    soft, alpha, first_year = (law[f"time_{n}"].values[good] for n in ("tsoft", "alpha", "year1value"))
    days = day - law.time_t0.values[good]
    base = np.maximum(days + soft, 0.0) / (DAYS_OF_YEAR + soft)
    at_bins = np.minimum(first_year * base**alpha, 1.0)
    value = np.interp(wavelength, bins, at_bins)
    for edge, inner, outside in ((0, 1, wavelength < bins[0]), (-1, -2, wavelength > bins[-1])):
        slope = (at_bins[inner] - at_bins[edge]) / (bins[inner] - bins[edge])
        value = np.where(outside, at_bins[edge] + slope * (wavelength - bins[edge]), value)
    return value
