"""A star in a host on a small straight detector, by sums of Gaussians over pixels: no PSF that a fit starts from."""

from __future__ import annotations

import numpy as np
import xarray as xr
from helpers import detector_attrs, dither_coords
from scipy.special import erf

from mrsxr import dq, schema
from mrsxr.geometry.detector import detector_to_slicer
from mrsxr.mrs import psf_fwhm

N_SLICES, COLUMNS, ROWS, WIDTH, PIXEL = 16, 20, 60, 0.18, 0.19
PLACES = np.array([[0.02, 0.03], [0.41, -0.22], [-0.33, 0.27], [0.13, 0.36]])  # arcsec, of the star in the exposures
#: Weight, width and place of the Gaussians of the PSF [FWHM].
BLOBS = ((0.70, 0.36, 0.0, 0.0), (0.08, 0.30, 0.55, 0.2), (0.05, 0.30, -0.2, -0.7), (0.17, 1.0, 0.1, 0.0))
REST = 5.025  # um, of the lines


def wcs_model() -> xr.Dataset:
    """Slices 101 ... of 20 columns each, a pixel along the slice away after all rows."""
    labels = np.arange(101, 101 + N_SLICES).astype("i2")
    alpha, wave = np.zeros((N_SLICES, 3, 3)), np.zeros((N_SLICES, 3, 3))
    alpha[:, 0, 1], alpha[:, 1, 0], alpha[:, 0, 0] = PIXEL, 0.004, -0.12
    wave[:, 0, 0], wave[:, 1, 0], wave[:, 0, 1] = 4.998, 8.77e-4, 2e-5
    v2, v3 = np.zeros((1, 2, 2)), np.zeros((1, 2, 2))
    v2[0, 0, 0], v2[0, 1, 0], v3[0, 0, 0], v3[0, 0, 1] = -503.3, 1.0, -319.0, 1.0
    centre = 0.5 * (COLUMNS - 1) + (COLUMNS + 1) * np.arange(N_SLICES)
    arrays = {
        "alpha_coefficients": alpha, "alpha_x_shift": centre, "wavelength_coefficients": wave,
        "wavelength_x_shift": centre, "slice_beta": (np.arange(N_SLICES) - 0.5 * (N_SLICES - 1)) * WIDTH,
        "slice_width": np.array([WIDTH]), "v2_coefficients": v2, "v3_coefficients": v3,
    }  # fmt: skip
    dims = {v.name: (v.dims, {"units": v.units}) for v in schema.WCS_VARIABLES}
    return xr.Dataset(
        {k: (dims[k][0], v, dims[k][1]) for k, v in arrays.items()}, {"slice_label": labels, "band": ["1A"]}
    )


def made(spectrum, host=None, noise: float = 0.3, seed: int = 5) -> xr.Dataset:
    """Return cal data of a star in 4 exposures.

    Parameters
    ----------
    spectrum : callable
        Flux [MJy/sr arcsec2] at wavelengths [um].
    host : callable, optional
        Light [MJy/sr] at places from the star [arcsec] and wavelengths.
    noise : float
        [MJy/sr]
    seed : int
    """
    model, x = wcs_model(), np.arange(N_SLICES * (COLUMNS + 1))
    row = np.where(x % (COLUMNS + 1) < COLUMNS, 101 + x // (COLUMNS + 1), 0)
    label = np.broadcast_to(row, (ROWS, x.size)).astype("i2")
    alpha, beta, wave = detector_to_slicer(*np.meshgrid(x, np.arange(ROWS)), label, model)
    flux = np.full((4, *label.shape), np.nan)
    for d, (a, b) in enumerate(PLACES):
        flux[d] = spectrum(wave) * pixel_psf(alpha - a, beta - b, wave)
        if host is not None:
            flux[d] += host(alpha - a, beta - b, wave)
    flux = np.where(label > 0, flux + noise * np.random.default_rng(seed).normal(size=flux.shape), np.nan)
    dims = ("dither", "y", "x")
    data = {k: np.where(label > 0, noise**2 * f, np.nan) + 0 * flux
            for k, f in (("var_poisson", 0.7), ("var_read", 0.2), ("var_flat", 0.1))}  # fmt: skip
    data = {k: (dims, v.astype("f4"), {"units": schema.units_of("cal", k)}) for k, v in ({"flux": flux} | data).items()}
    data["dq"] = (dims, np.where(np.isfinite(flux), 0, 513).astype("u4"), dq.PIXEL_DQ_ATTRS)
    coords = {"y": np.arange(ROWS), "x": x, **dither_coords(4)}
    coords["slice"] = (("y", "x"), label, {"units": "1"})
    coords["channel"] = (("y", "x"), (label // 100).astype("i1"), {"units": "1"})
    for name, value, unit in (("alpha", alpha, "arcsec"), ("beta", beta, "arcsec"), ("wavelength", wave, "um")):
        coords[name] = (("y", "x"), value, {"units": unit})
    coords["roll_ref"] = ("dither", np.zeros(4), {"units": "deg"})
    for name, sign, column in (("ra_ref", -1, 0), ("dec_ref", -1, 1)):  # the star is at RA 0, Dec 0
        coords[name] = ("dither", sign * PLACES[:, column] / 3600, {"units": "deg"})
    coords |= {n: ("dither", np.full(4, v), {"units": "arcsec"}) for n, v in (("v2_ref", -503.3), ("v3_ref", -319.0))}
    return xr.Dataset(data, coords, detector_attrs("cal", "12A", 10, 1)).merge(model)


def pixel_psf(a, b, wavelength) -> np.ndarray:
    """Return the PSF [1/arcsec2] over pixels at places from the star [arcsec]."""
    total, fwhm = 0.0, psf_fwhm(wavelength)
    for weight, sigma, u, v in BLOBS:
        sides = [(x - f * fwhm, side) for x, f, side in ((a, u, PIXEL), (b, v, WIDTH))]
        root = np.sqrt(2) * sigma * fwhm
        one, other = ((erf((x + s / 2) / root) - erf((x - s / 2) / root)) / (2 * s) for x, s in sides)
        total = total + weight * one * other
    return total


def enclosed(radius: float) -> float:
    """Return the part of the light of the PSF within a radius [FWHM]."""
    axis = (np.arange(-400, 400) + 0.5) / 80
    u, v = np.meshgrid(axis, axis)
    light = sum(w / (2 * np.pi * s**2) * np.exp(-((u - a) ** 2 + (v - b) ** 2) / (2 * s**2)) for w, s, a, b in BLOBS)
    return float(light[np.hypot(u, v) < radius].sum() * (axis[1] - axis[0]) ** 2)


def line(wavelength, centre=REST, sigma=0.0009):
    """Return a line of peak 1."""
    return np.exp(-0.5 * ((wavelength - centre) / sigma) ** 2)
