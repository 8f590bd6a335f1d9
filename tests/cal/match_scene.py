"""Cal exposures of a sky with a source, a line and a background, on the real size of the detector."""

from __future__ import annotations

import functools

import numpy as np
import xarray as xr
from helpers import detector_attrs, dither_coords

from mrsxr import dq
from mrsxr.cal.wcs import assign_wcs
from mrsxr.geometry.sky import slicer_to_sky, tangent_frame, tangent_offsets
from mrsxr.mrs import bands_of_setting, psf_fwhm
from mrsxr.simulate.instrument import make_geometry
from mrsxr.simulate.pointing import DITHERS, aim_at

RA, DEC, ROLL = 150.0, 2.0, 40.0
DIMS = ("dither", "y", "x")
LINES = (5.1, 5.3, 6.1, 7.9, 8.3, 9.4)  # um


@functools.lru_cache(maxsize=2)
def empty(setting: str, n_dither: int, north: float = 0.0, first: int = 1, rows: int = 1024) -> xr.Dataset:
    """Return located cal data without light; ``north`` [arcsec] moves the tile, ``first`` numbers the exposures."""
    geometry = make_geometry(setting)
    aims = [aim_at(RA, DEC + north / 3600, ROLL, offset, 1.0, 9000.0) for offset in DITHERS["EXTENDED"][:n_dither]]
    coords = dither_coords(n_dither, setting)
    for name in ("ra_ref", "dec_ref", "roll_ref", "v2_ref", "v3_ref"):
        coords[name] = ("dither", np.array([getattr(a.pointing, name) for a in aims]), coords[name][2])
    coords["velosys"] = ("dither", np.full(n_dither, 9000.0), coords["velosys"][2])
    names = [f"jw02732004001_0210{'ABC'.index(setting[2])}_{first + k:05d}_{setting}" for k in range(n_dither)]
    coords["exposure"] = ("dither", np.array(names))
    planes = {name: np.zeros((n_dither, rows, 1032), "f4") for name in ("flux", "var_poisson", "var_read", "var_flat")}
    units = {"flux": "MJy/sr"}
    ds = xr.Dataset(
        {k: (DIMS, v, {"units": units.get(k, "MJy2/sr2")}) for k, v in planes.items()},
        coords={"y": np.arange(rows), "x": np.arange(1032), **coords},
        attrs=detector_attrs("cal", setting, 10, 1),
    )
    ds["dq"] = (DIMS, np.zeros((n_dither, rows, 1032), "u4"), dq.PIXEL_DQ_ATTRS)
    ds = assign_wcs(ds, distortion=geometry.distortion, specwcs=geometry.specwcs, regions=geometry.regions)
    between = ds.slice.values == 0
    ds.flux.values[:, between] = np.nan
    ds.dq.values[:, between] |= dq.DO_NOT_USE
    return ds


def sky(wavelength):
    """Return the background [MJy/sr] at wavelengths [um]."""
    return 10.0 + 4.0 * (wavelength - 7.0) + 2.0 * np.sin(40.0 * wavelength)


def observe(
    setting="12A", n_dither=4, *, source=300.0, noise=5.0, seed=1, north=0.0, first=1, rows=1024, every=1, level=1.0
):
    """Return noisy exposures: background times ``level``, a source with PSF and a line, of peak ``source`` [MJy/sr].

    Of the first ``rows`` of the detector, or of one in ``every``.
    """
    from mrsxr.geometry.sky import Pointing

    ds = empty(setting, n_dither, north, first, rows).isel(y=slice(None, None, every))
    rng = np.random.default_rng(seed)
    frame = tangent_frame(RA, DEC)
    flux = ds.flux.values.copy()
    wavelength = ds.wavelength.values
    for band in bands_of_setting(setting):
        lit = (ds.channel.values == int(band[0])) & (ds.slice.values > 0)
        wave = wavelength[lit]
        line = 1.0 + 2.0 * sum(np.exp(-0.5 * ((wave - at) / (at / 6000)) ** 2) for at in LINES)
        sigma = psf_fwhm(wave) / 2.355
        for d in range(n_dither):
            place = slicer_to_sky(ds.alpha.values[lit], ds.beta.values[lit], band, ds, Pointing.of(ds, d))
            x, y = tangent_offsets(*place, frame)
            r2 = (x**2 + y**2) / sigma**2
            shape = np.exp(-0.5 * r2) + 0.03 * np.exp(-0.5 * r2 / 16)
            flux[d][lit] = level * sky(wave) + source * line * shape + rng.normal(0, noise, wave.size)
    var = np.full(flux.shape, 0.5 * noise**2, "f4")
    return ds.assign(
        flux=(DIMS, flux.astype("f4"), ds.flux.attrs), var_poisson=(DIMS, var, ds.var_poisson.attrs),
        var_read=(DIMS, var.copy(), ds.var_read.attrs),
    )  # fmt: skip


def relative(ds: xr.Dataset, band: str) -> np.ndarray:
    """Return wavelengths of all pixels from -1 to 1 over a band."""
    inside = ds.wavelength.values[ds.channel.values == int(band[0])]
    low, high = np.nanmin(inside), np.nanmax(inside)
    return 2 * (ds.wavelength.values - low) / (high - low) - 1


def with_functions(ds: xr.Dataset, offsets, gradients) -> tuple[xr.Dataset, dict[str, np.ndarray]]:
    """Add to each exposure a slow function of its offset and gradients; return data and parts (offset, field)."""
    t = {band: relative(ds, band) for band in bands_of_setting(ds.attrs["setting"])}
    parts = {"offset": np.zeros(ds.flux.shape), "field": np.zeros(ds.flux.shape)}
    for d, (offset, (a, b)) in enumerate(zip(offsets, gradients, strict=True)):
        for number, (band, place) in enumerate(t.items()):
            lit = (ds.channel.values == int(band[0])) & (ds.slice.values > 0)
            slow = 1 + 0.4 * np.sin(2.0 * place + number + d)
            parts["offset"][d][lit] = (offset * slow)[lit]
            field = a * ds.alpha.values * (1 + 0.3 * place) + b * ds.beta.values * (1 - 0.3 * place**2)
            parts["field"][d][lit] = field[lit]
    flux = ds.flux.values + sum(parts.values())
    return ds.assign(flux=(DIMS, flux.astype("f4"), ds.flux.attrs)), parts
