"""Made-up cubes of one line on a continuum, with known flux, velocity and dispersion in every spaxel."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import erf

from mrsxr import dq, mrs, units
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.index import attach_index

C = 299792.458
Z = 0.016
S_III = 18.713


def instrument_sigma(wavelength):
    return C / (2.3548200450309493 * mrs.resolving_power(wavelength))


def line_cube(
    flux, velocity=0.0, dispersion=60.0, *, rest=S_III, redshift=Z, continuum=50.0, slope=0.0, noise=0.0, told=None,
    seed=0, half=3200.0, step=0.006, scale=0.35, more=(), angle=20.0,
):  # fmt: skip
    """Return a cube: flux [W m-2] (y, x), velocity, dispersion [km/s], continuum, slope over the cube, noise [MJy/sr].

    ``told``: the error that the cube claims, by default the true one, or 1 without noise. ``more``: further lines,
    pairs of rest wavelength and flux.
    """
    flux = np.atleast_2d(np.asarray(flux, float))
    centre = rest * (1 + redshift)
    n = 2 * int(centre * half / C / step) + 1
    grid = CubeGrid((339.0, 34.0), scale, flux.shape[1], flux.shape[0], centre - n * step / 2 + 0.31 * step, step, n,
                    angle)  # fmt: skip
    wave = grid.wavelengths[:, None, None]
    light = np.zeros((n, *flux.shape))
    for place, power in ((centre, flux), *((w * (1 + redshift), f) for w, f in more)):
        mean = place * (1 + np.asarray(velocity) / C)
        sigma = place * np.hypot(dispersion, instrument_sigma(place)) / C
        up, down = ((wave + sign * step / 2 - mean) / (np.sqrt(2) * sigma) for sign in (1, -1))
        light = light + power * 0.5 * (erf(up) - erf(down)) / step  # W/m2/um
    light = light * wave**2 / (2.99792458e-6 * units.ARCSEC2_TO_SR * scale**2)
    t = (wave - wave.mean()) / (wave[-1] - wave[0]) * 2
    light = light + continuum + slope * t
    light = light + np.random.default_rng(seed).normal(0, 1, light.shape) * noise
    told = told if told is not None else (noise or 1.0)
    dims = ("wavelength", "y", "x")
    data = {
        "flux": (dims, light.astype("f4"), {"units": "MJy/sr"}),
        "var": (dims, np.full(light.shape, told**2, "f4"), {"units": "MJy2/sr2"}),
        "weight": (dims, np.ones(light.shape, "f4"), {"units": "1"}),
        "dq": (dims, np.zeros(light.shape, "u4"), dq.PIXEL_DQ_ATTRS),
    }
    attrs = {"level": "cube", "band": "4A", "channels": "4", "wcs": grid.header().tostring(sep="\n"),
             "pixel_scale": scale, "wavelength_step": step, "history_json": "[]"}  # fmt: skip
    return attach_index(xr.Dataset(data, grid.coords(), attrs))
