"""Made-up cubes of a surface on the sky, averaged over the spaxels of any grid."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import erf

from mrsxr import dq
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.index import attach_index

RA, DEC = 339.015, 33.976


def grid_of(n=(31, 33), *, scale=0.35, angle=0.0, start=18.0, step=0.006, nz=3, centre=(RA, DEC), crpix=None):
    return CubeGrid(centre, scale, n[1], n[0], start, step, nz, angle, crpix)


def cube_of(surface, grid, *, var=0.04, band="4A", points=5):
    """Return a cube of surface(east, north [arcsec], wavelength): means over spaxels by points x points."""
    steps = ((np.arange(points) + 0.5) / points - 0.5) * grid.spaxel_size
    x, y, dx, dy = np.meshgrid(grid.x, grid.y, steps, steps)
    ra, dec = grid.offsets_to_sky(x + dx, y + dy)
    east, north = (ra - RA) * np.cos(np.deg2rad(DEC)) * 3600, (dec - DEC) * 3600
    flux = np.stack([surface(east, north, w).mean(axis=(2, 3)) for w in grid.wavelengths]).astype("f4")
    return from_flux(flux, grid, var=var, band=band)


def from_flux(flux, grid, *, var=0.04, band="4A"):
    dims = ("wavelength", "y", "x")
    variables = {
        "flux": (dims, flux, {"units": "MJy/sr"}),
        "var": (dims, np.full_like(flux, var), {"units": "MJy2/sr2"}),
        "weight": (dims, np.ones_like(flux), {"units": "1"}),
        "dq": (dims, np.zeros(flux.shape, "u4"), dq.PIXEL_DQ_ATTRS),
    }
    attrs = {"level": "cube", "band": band, "channels": band[0], "wcs": grid.header().tostring(sep="\n"),
             "pixel_scale": grid.spaxel_size, "wavelength_step": grid.wavelength_step,
             "history_json": "[]"}  # fmt: skip
    return attach_index(xr.Dataset(variables, grid.coords(), attrs))


def star(fwhm, at=(0.21, -0.13), light=400.0):
    """Return a Gaussian of FWHM(wavelength) [arcsec] at (east, north), its integral ``light`` [MJy/sr arcsec2]."""

    def surface(east, north, wave):
        width = fwhm(wave) if callable(fwhm) else fwhm
        square = (east - at[0]) ** 2 + (north - at[1]) ** 2
        return light * 4 * np.log(2) / np.pi / width**2 * np.exp(-4 * np.log(2) * square / width**2)

    return surface


def star_in_spaxels(fwhm, grid, place, light=400.0):
    """Return a plane of exact means over spaxels of a Gaussian at ``place`` (x, y) [arcsec]."""
    root = np.sqrt(4 * np.log(2)) / fwhm
    half = grid.spaxel_size / 2
    rows = [0.5 * (erf((v + half - c) * root) - erf((v - half - c) * root))
            for v, c in ((grid.y, place[1]), (grid.x, place[0]))]  # fmt: skip
    return light * np.outer(*rows) / grid.spaxel_size**2
