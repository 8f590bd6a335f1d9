"""The image of a scene on the pixels of a band: surface brightness in MJy/sr, averaged over each pixel footprint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.ndimage import map_coordinates

from .instrument import Footprints, Geometry
from .point_slices import slice_effects
from .pointing import Aim, sky_to_slicer
from .psf import Psf
from .scene import (
    PSF_SIGMAS,
    PSF_WEIGHTS,
    LineDisc,
    PointSource,
    Scene,
    by_velocity,
    line_in_bins,
    line_width,
    psf_fwhm,
    psf_transfer,
    shines,
    to_mjysr,
)

_N_VELOCITIES = 31
_FWHM_SLOPE = float(psf_fwhm(1.0) - psf_fwhm(0.0))
_FWHM_OFFSET = float(psf_fwhm(0.0))


@dataclass(frozen=True)
class Parts:
    """Surface brightness [MJy/sr] of the lit pixels of a band, before slice ends and detector response."""

    point: np.ndarray
    extended: np.ndarray


def render(
    scene: Scene, aim: Aim, geometry: Geometry, pixels: Footprints, *, leak: bool = False, slice_shift: bool = False
) -> Parts:
    """Return the surface brightness of a scene on the pixels of one band.

    Parameters
    ----------
    scene : Scene
    aim : Aim
        Pointing of the exposure; its VELOSYS moves the spectrum.
    geometry : Geometry
    pixels : Footprints
        Of one band.
    leak : bool
        Add to band 3A the second-order light of half the wavelength, an image as sharp as that wavelength makes it.
    slice_shift : bool
        Dim point sources and move them in wavelength as their place across each slice asks for.

    Returns
    -------
    Parts
        Point sources are integrated exactly over the footprint (alpha ends x slice width); discs by convolution with
        the PSF and the mean footprint. Lines are integrated over the pixel's wavelength bin.
    """
    leak = leak and pixels.band == "3A"
    stretch = 1.0 + aim.velosys / 299792458.0
    low, high = pixels.wavelength_low / stretch, pixels.wavelength_high / stretch
    point = np.zeros(pixels.y.size)
    for source in scene.points:
        first, last = low, high
        share: Any = 1.0
        if slice_shift:
            moved, share = _in_slices(source, aim, geometry, pixels)
            first, last = low - moved / stretch, high - moved / stretch
        point += source.spectrum(first, last) * share * point_shape(source, aim, geometry, pixels, psf=scene.psf)
        if leak:
            leaked = leak_fraction(pixels.wavelength) * source.spectrum(first / 2, last / 2)
            point += leaked * share * point_shape(source, aim, geometry, pixels, order=2, psf=scene.psf)
    extended = np.array(scene.background(0.5 * (low + high)), dtype=float)
    if leak:
        extended += leak_fraction(pixels.wavelength) * scene.background(0.25 * (low + high))
    for disc in scene.discs:
        extended += _disc(disc, aim, geometry, pixels, low, high, psf=scene.psf)
        if leak:
            leaked = _disc(disc, aim, geometry, pixels, low / 2, high / 2, order=2, psf=scene.psf)
            extended += leak_fraction(pixels.wavelength) * leaked
    return Parts(to_mjysr(point), extended)


def leak_fraction(wavelength: np.ndarray | float) -> Any:
    """Return what part of the light at half the wavelength falls on band 3A in the second order.

    As a reference file has it, a ratio of surface brightnesses (peak 0.0275 at 12.217 um).
    """
    known = ((11.9, 0.0006), (12.0, 0.0022), (12.1, 0.0099), (12.2, 0.0267), (12.217, 0.0275), (12.3, 0.0169),
             (12.4, 0.0054), (12.5, 0.0022), (12.6, 0.0012), (13.0, 0.0007))  # fmt: skip
    nodes, values = np.array(known).T
    return np.interp(wavelength, nodes, values, left=0.0, right=0.0)


def point_shape(
    source: PointSource, aim: Aim, geometry: Geometry, pixels: Footprints, order: int = 1, psf: Psf | None = None
) -> np.ndarray:
    """Return the mean PSF [1/arcsec2] of a source over the pixel footprints, of light of an order of the grating.

    Without images in ``psf`` it is round on the sky: a unit of alpha or beta is not quite an arcsecond there in flight
    distortion files.
    """
    from ._exposure_kernels import psf_in_pixels

    alpha, beta, matrix = _slicer_near(source.ra, source.dec, aim, pixels.band, geometry.distortion)
    a, b = np.hypot(*np.linalg.inv(matrix))  # arcsec on the sky of a unit of alpha, of beta
    if psf is not None:
        sides = a * (pixels.alpha_low - alpha), a * (pixels.alpha_high - alpha)
        ends = b * (pixels.beta - 0.5 * pixels.width - beta), b * (pixels.beta + 0.5 * pixels.width - beta)
        return psf.mean(sides, ends, pixels.wavelength / order)
    return psf_in_pixels(
        a * pixels.alpha_low, a * pixels.alpha_high, b * pixels.beta, b * pixels.width, pixels.wavelength / order,
        a * alpha, b * beta, PSF_SIGMAS, PSF_WEIGHTS, _FWHM_SLOPE, _FWHM_OFFSET,
    )  # fmt: skip


def _in_slices(source: PointSource, aim: Aim, geometry: Geometry, pixels: Footprints) -> tuple[np.ndarray, np.ndarray]:
    """Return shift [um] and transmission of a source in every pixel, from where it lies across the slice."""
    _, beta, _ = _slicer_near(source.ra, source.dec, aim, pixels.band, geometry.distortion)
    return slice_effects((beta - pixels.beta) / pixels.width, pixels.wavelength, pixels.band)


def _slicer_near(ra: float, dec: float, aim: Aim, band: str, distortion: xr.Dataset) -> tuple[float, float, np.ndarray]:
    """Return alpha, beta of a place on the sky and their change [2 x 2] with an arcsecond to the east, to the north."""
    east = ra + 1.0 / 3600 / np.cos(np.deg2rad(dec))
    alpha, beta = sky_to_slicer(
        np.array([ra, east, ra]), np.array([dec, dec, dec + 1.0 / 3600]), aim, band, distortion
    )  # fmt: skip
    matrix = np.array([[alpha[1] - alpha[0], alpha[2] - alpha[0]], [beta[1] - beta[0], beta[2] - beta[0]]])
    return float(alpha[0]), float(beta[0]), matrix


@dataclass(frozen=True)
class _Plane:
    """A regular grid in (alpha, beta) [arcsec] that covers the field of a band."""

    alpha0: float
    beta0: float
    step: float
    shape: tuple[int, int]

    def axes(self) -> tuple[np.ndarray, np.ndarray]:
        return (self.alpha0 + self.step * np.arange(self.shape[0]), self.beta0 + self.step * np.arange(self.shape[1]))


def _disc(
    disc: LineDisc, aim: Aim, geometry: Geometry, pixels: Footprints, low: np.ndarray, high: np.ndarray, order: int = 1,
    psf: Psf | None = None,
) -> np.ndarray:  # fmt: skip
    total = np.zeros(pixels.y.size)
    lines = [line for line in disc.lines if bool(shines(line, disc.redshift, disc.rotation, low, high).any())]
    if not lines and disc.continuum is None:
        return total
    plane = _field_plane(pixels)
    profile, velocity = _disc_on_plane(disc, aim, geometry, pixels.band, plane)
    steps = np.linspace(-1.0, 1.0, _N_VELOCITIES) * max(np.abs(velocity).max(), 1.0)
    channels = by_velocity(profile, velocity, steps)
    place = (pixels.alpha - plane.alpha0) / plane.step, (pixels.beta - plane.beta0) / plane.step
    for line in lines:
        near = shines(line, disc.redshift, steps[-1], low, high)
        blurred = _blur(channels, plane, line_width(line, disc.redshift)[0], pixels, psf)
        here = np.stack([_interpolate(one, place, near) for one in blurred])
        flux = line_in_bins(line, disc.redshift, low[near][None], high[near][None], steps[:, None])
        total[near] += to_mjysr(np.sum(here * flux, axis=0))
    if disc.continuum is not None:
        ends = np.array([pixels.wavelength.min(), pixels.wavelength.max()])
        images = np.stack([_blur(profile[None], plane, wave / order, pixels, psf)[0] for wave in ends])
        everywhere = np.ones(pixels.y.size, dtype=bool)
        first, last = (_interpolate(one, place, everywhere) for one in images)
        share = (pixels.wavelength - ends[0]) / (ends[1] - ends[0])
        total += to_mjysr(1e-3 * disc.continuum(0.5 * (low + high)) * (first * (1 - share) + last * share))
    return total


def _field_plane(pixels: Footprints) -> _Plane:
    fwhm = float(psf_fwhm(pixels.wavelength.min()))
    step = fwhm / 6.0
    margin = 4.0 * fwhm
    low = np.array([pixels.alpha.min(), pixels.beta.min()]) - margin
    high = np.array([pixels.alpha.max(), pixels.beta.max()]) + margin
    count = np.ceil((high - low) / step).astype(int) + 1
    return _Plane(float(low[0]), float(low[1]), step, (int(count[0]), int(count[1])))


def _disc_on_plane(
    disc: LineDisc, aim: Aim, geometry: Geometry, band: str, plane: _Plane,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return profile [1/arcsec2] and velocity [km/s] on the plane, from the local slope of the sky at the centre."""
    alpha, beta, matrix = _slicer_near(disc.ra, disc.dec, aim, band, geometry.distortion)
    back = np.linalg.inv(matrix)
    a, b = np.meshgrid(*plane.axes(), indexing="ij")
    da, db = a - alpha, b - beta
    return disc.surface(back[0, 0] * da + back[0, 1] * db, back[1, 0] * da + back[1, 1] * db)


def _blur(
    channels: np.ndarray, plane: _Plane, wavelength: float, pixels: Footprints, psf: Psf | None = None,
) -> np.ndarray:  # fmt: skip
    """Convolve images with the PSF at a wavelength and with the mean pixel footprint, by Fourier transform."""
    shape = [int(2 ** np.ceil(np.log2(1.25 * n))) for n in plane.shape]
    along = np.fft.fftfreq(shape[0], plane.step)[:, None]
    across = np.fft.rfftfreq(shape[1], plane.step)[None, :]
    if psf is not None:
        transfer = psf.transfer((shape[0], shape[1]), plane.step, wavelength)
    else:
        transfer = psf_transfer(along**2 + across**2, psf_fwhm(wavelength))
    pixel = float(np.median(pixels.alpha_high - pixels.alpha_low))
    transfer = transfer * np.sinc(along * pixel) * np.sinc(across * float(pixels.width[0]))
    out = np.fft.irfft2(np.fft.rfft2(channels, s=shape) * transfer, s=shape)
    return out[:, : plane.shape[0], : plane.shape[1]]


def _interpolate(image: np.ndarray, place: tuple[np.ndarray, np.ndarray], where: np.ndarray) -> np.ndarray:
    return map_coordinates(image, [place[0][where], place[1][where]], order=1, mode="nearest")
