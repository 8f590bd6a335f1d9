"""Twelve made-up cubes of one galaxy: a rotating disc with lines, a nucleus, noise and errors that tell it."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import ndtr

from mrsxr import dq, mrs, units
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.index import attach_index
from mrsxr.lines import line_list

Z = 0.012
FIELD = {1: 5.2, 2: 5.8, 3: 7.0, 4: 9.2}  # arcsec


def made_cube(band: str, *, planes: int | None = None, field: float | None = None, seed: int = 0, holes: float = 0.0):
    """Return the cube of a band; fewer planes are about its middle, holes: part of the voxels without data."""
    channel = int(band[0])
    scale, step = mrs.SPAXEL_SIZE[channel], mrs.WAVELENGTH_STEP[channel]
    low, high = mrs.WAVELENGTH_LIMITS[band]
    whole = int((high - low) / step)
    n = min(planes or whole, whole)
    size = int((field or FIELD[channel]) / scale)
    grid = CubeGrid(
        (150.1163, -2.2051), scale, size, size + 1, low + (whole - n) / 2 * step, step, n, 20.0 + 3.0 * channel
    )
    rng = np.random.default_rng([seed, *band.encode()])
    light = _light(grid, scale, step)
    sigma = np.sqrt(0.6**2 + light / 400.0) * rng.uniform(0.85, 1.15, light.shape)
    light = light + rng.normal(size=light.shape) * sigma
    j, i = np.mgrid[0 : size + 1, 0:size]
    outside = (i + 0.25 * j < 0.12 * size) | (i - 0.2 * j > 0.9 * size) | (rng.random(light.shape) < holes)
    light[outside], sigma[outside] = np.nan, np.nan
    dims = ("wavelength", "y", "x")
    data = {
        "flux": (dims, light.astype("f4"), {"units": "MJy/sr"}),
        "var": (dims, (sigma**2).astype("f4"), {"units": "MJy2/sr2"}),
        "weight": (dims, np.isfinite(light).astype("f4"), {"units": "1"}),
        "dq": (dims, np.where(np.isfinite(light), 0, 513).astype("u4"), dq.PIXEL_DQ_ATTRS),
    }
    attrs = {
        "level": "cube", "band": band, "channels": band[0], "wcs": grid.header().tostring(sep="\n"),
        "target": "NGC 0 <b>", "pixel_scale": scale, "wavelength_step": step, "history_json": "[]", "redshift": Z,
    }  # fmt: skip
    return attach_index(xr.Dataset(data, grid.coords(), attrs))


def _light(grid: CubeGrid, scale: float, step: float) -> np.ndarray:
    wave, made = grid.wavelengths, xr.Dataset(coords=grid.coords())
    x, y = np.meshgrid(made["x"].values, made["y"].values)
    width = float(mrs.psf_fwhm(wave.mean())) / 2.355
    core = np.exp(-0.5 * (x**2 + y**2) / width**2) / width**2
    disc = np.exp(-np.hypot(x, y / 0.7) / 1.4)
    speed = 160.0 * x / np.hypot(np.hypot(x, y), 0.6)
    light = (8.0 * wave[:, None, None]) * core + 40.0 * disc * (wave[:, None, None] / 10.0)
    table = line_list()
    for rest, kind, rank in zip(*(table[n].values for n in ("wavelength", "kind", "rank")), strict=True):
        place = rest * (1 + Z)
        if kind == "PAH" or not wave[0] < place < wave[-1]:
            continue
        mu = place * (1 + speed / units.C_KM_S)
        s = place * np.hypot(60.0, units.C_KM_S / 2.355 / mrs.resolving_power(place)) / units.C_KM_S
        edge = wave[:, None, None]
        shape = (ndtr((edge + step / 2 - mu) / s) - ndtr((edge - step / 2 - mu) / s)) / step
        light = light + (4.0 - rank) * 2e-18 * disc * shape * wave[:, None, None] ** 2 / (
            2.998e-6 * units.ARCSEC2_TO_SR
        )
    return light


def twelve(**options) -> dict[str, xr.Dataset]:
    return {band: made_cube(band, **options) for band in mrs.BANDS}
