"""Cubes and spectra of a scene without the way through the detector: known lines in white noise, within a second."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy.special import ndtr

from mrsxr import dq as flags
from mrsxr import mrs
from mrsxr.arguments import as_arcsec, as_um_range, reads
from mrsxr.errors import MrsxrError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.index import attach_index
from mrsxr.limits import Band, NotNegative, Positive, Whole, checked
from mrsxr.schema import CUBE_DIMS, meaning_of, units_of

from .scene import (
    PSF_SIGMAS,
    PSF_WEIGHTS,
    LineDisc,
    PointSource,
    Scene,
    by_velocity,
    line_in_bins,
    line_width,
    psf_transfer,
    shines,
    to_mjysr,
)

_OVERSAMPLE = 4  # points of the disc along a spaxel
_N_VELOCITIES = 41
_SLICE_LENGTH = {1: 3.2, 2: 4.0, 3: 5.2, 4: 6.6}  # arcsec


@reads(size=as_arcsec, wavelength=as_um_range)
@checked
def simulate_cube(
    scene: Scene | None = None,
    band: Band = "3A",
    *,
    noise: NotNegative | None = None,
    size: Positive | None = None,
    wavelength: tuple[float, float] | None = None,
    seed: Whole = 1,
) -> xr.Dataset:
    """Return the cube of a scene in one band: background subtracted, white noise, every line known.

    Parameters
    ----------
    scene : Scene, optional
        By default :meth:`Scene.default`, a Seyfert galaxy like NGC 7319.
    band : str
        "1A" to "4C".
    noise : float, optional
        Standard deviation of a voxel without light [MJy/sr]; by default 1 and 2 % of the background. Light adds noise
        of its own. 0 gives the truth, with the variances of the default.
    size : float, optional
        Side of the field [arcsec]; by default the field of the channel.
    wavelength : (float, float), optional
        Only the planes between these [um].
    seed : int
        The same seed and arguments give the same cube.

    Returns
    -------
    Dataset, level "cube"
        On the spaxels and planes of the band, north up, in memory. attrs ``redshift`` of the first source.

    Raises
    ------
    MrsxrError
        Where the band is unknown, or no plane is left.

    Notes
    -----
    The PSF is the sum of Gaussians of the simulated exposures with the FWHM that cubes have
    (:func:`mrsxr.mrs.psf_fwhm`), integrated over the spaxels; lines have the resolving power of
    :func:`mrsxr.mrs.resolving_power` and are integrated over the planes. Voxels are independent: the covariance of real
    cubes, fringes and cosmic rays are not in it, :func:`simulate_observation` has them.

    Examples
    --------
    >>> cube = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3), noise=0.5)
    >>> cube.attrs["redshift"]
    0.0225
    """
    scene = scene or Scene.default()
    grid = _grid(scene, band, size, wavelength)
    low, high = grid.planes
    total = np.zeros(grid.shape)
    for point in scene.points:
        total += point.spectrum(low, high)[:, None, None] * _point_image(point, grid)
    for disc in scene.discs:
        total += _disc(disc, grid, low, high)
    flux = to_mjysr(total)
    sky = scene.background(grid.wavelengths)[:, None, None]
    empty = 1.0 + 0.02 * sky if not noise else noise
    sigma = empty * np.sqrt(1.0 + np.maximum(flux, 0.0) / (sky + 50.0))
    if noise is None or noise > 0:
        flux = flux + np.random.default_rng(seed).normal(size=flux.shape) * sigma
    values = {
        "flux": flux.astype(np.float32), "var": (sigma**2).astype(np.float32),
        "weight": np.ones(grid.shape, np.float32), "dq": np.zeros(grid.shape, np.uint32),
    }  # fmt: skip
    variables: dict[str, Any] = {
        name: (CUBE_DIMS, value, {"units": units_of("cube", name), "long_name": meaning_of("cube", name)})
        for name, value in values.items()
    }
    variables["dq"] = (CUBE_DIMS, values["dq"], dict(flags.PIXEL_DQ_ATTRS))
    cube = xr.Dataset(variables, grid.coords(), _attrs(scene, band))
    attrs = {"wcs": grid.header().tostring(sep="\n"), **grid.facts(), "channels": band[0]}
    return attach_index(cube.assign_attrs(attrs, wavelength_step=grid.wavelength_step))


@reads()
@checked
def simulate_spectrum(
    scene: Scene | None = None, band: Band = "2C", *, snr: Positive = 100.0, seed: Whole = 1
) -> xr.Dataset:  # fmt: skip
    """Return the spectrum of everything in a scene but the background, in white noise.

    Parameters
    ----------
    scene : Scene, optional
        By default :meth:`Scene.default`.
    band : str
        "1A" to "4C".
    snr : float
        Signal to noise of the median sample; brighter samples have photon noise in proportion.
    seed : int
        The same seed and arguments give the same spectrum.

    Returns
    -------
    Dataset, level "spectrum"
        ``flux`` [Jy] and ``var`` on the planes of the band. attrs ``redshift`` of the first source.

    Raises
    ------
    MrsxrError
        Where the band is unknown or ``snr`` is not above 0.

    Examples
    --------
    >>> spectrum = mx.simulate.simulate_spectrum(band="2C", snr=50)
    >>> spectrum.flux.attrs["units"]
    'Jy'
    """
    scene = scene or Scene.default()
    grid = _grid(scene, band, None, None)
    low, high = grid.planes
    flux = sum((one.spectrum(low, high) for one in scene.points), np.zeros(low.size))
    for disc in scene.discs:
        flux = flux + _disc_spectrum(disc, low, high)
    level = float(np.median(flux))
    sigma = level / snr * np.sqrt(0.5 + 0.5 * flux / level)
    found = {"flux": flux + sigma * np.random.default_rng(seed).normal(size=flux.size), "var": sigma**2}
    for name in ("surface_brightness", "surface_brightness_var", "background"):
        found[name] = np.full(flux.size, np.nan)
    found |= {"n_pixels": np.full(flux.size, np.nan), "dq": np.zeros(flux.size, np.uint32)}
    variables = {
        name: ("wavelength", value, {"units": units_of("spectrum", name), "long_name": meaning_of("spectrum", name)})
        for name, value in found.items()
    }
    coords = {
        "wavelength": ("wavelength", grid.wavelengths, {"units": "um", "long_name": "wavelength"}),
        "band": ("wavelength", np.full(flux.size, band)),
    }
    return xr.Dataset(variables, coords, _attrs(scene, band) | {"level": "spectrum", "source_type": "POINT"})


def _attrs(scene: Scene, band: str) -> dict[str, Any]:
    sources: list[Any] = [*scene.points, *scene.discs]
    return {
        "level": "cube", "band": band, "target": scene.target, "program": "00000", "background": 0,
        "target_ra": scene.ra, "target_dec": scene.dec, "source_type": "EXTENDED", "weighting": "simulated",
        "redshift": sources[0].redshift if sources else 0.0, "Conventions": "mrsxr-1", "history_json": "[]",
    }  # fmt: skip


def _grid(scene: Scene, band: str, size: float | None, wavelength: tuple[float, float] | None) -> CubeGrid:
    channel = int(band[0])
    (low, high), step, spaxel = mrs.WAVELENGTH_LIMITS[band], mrs.WAVELENGTH_STEP[channel], mrs.SPAXEL_SIZE[channel]
    n = max(1, round((_SLICE_LENGTH[channel] if size is None else size) / spaxel))
    nz = int(np.ceil((high - low) / step - 1e-6))
    if wavelength is not None:
        edges = low + step * np.arange(nz + 1)
        keep = np.flatnonzero((edges[:-1] >= min(wavelength)) & (edges[1:] <= max(wavelength)))
        if keep.size == 0:
            raise MrsxrError(
                f"no plane lies from {min(wavelength)} to {max(wavelength)} um; band {band} has {low} to {high} um"
            )
        low, nz = float(edges[keep[0]]), keep.size
    return CubeGrid((scene.ra, scene.dec), spaxel, n, n, low, step, nz)


def _point_image(point: PointSource, grid: CubeGrid) -> np.ndarray:
    """Return the PSF [1/arcsec2] of a source, mean over each spaxel, in all planes."""
    x0, y0 = (float(v) for v in grid.sky_to_offsets(point.ra, point.dec))
    fwhm = mrs.psf_fwhm(grid.wavelengths)[:, None]
    half = 0.5 * grid.spaxel_size
    out = np.zeros(grid.shape)
    for weight, sigma in zip(PSF_WEIGHTS, PSF_SIGMAS, strict=True):
        along_x, along_y = (
            (ndtr((axis + half - at) / (sigma * fwhm)) - ndtr((axis - half - at) / (sigma * fwhm))) / grid.spaxel_size
            for axis, at in ((grid.x, x0), (grid.y, y0))
        )
        out += weight * along_y[:, :, None] * along_x[:, None, :]
    return out


def _disc(disc: LineDisc, grid: CubeGrid, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the light of a disc [Jy/arcsec2] in all voxels."""
    profile, velocity, step = _disc_image(disc, grid)
    speeds = _speeds(disc)
    channels = by_velocity(profile, velocity, speeds)
    total = np.zeros(grid.shape)
    for line in disc.lines:
        near = shines(line, disc.redshift, disc.rotation, low, high)
        if near.any():
            images = _blur(channels, step, mrs.psf_fwhm(line_width(line, disc.redshift)[0]), grid)
            shape = line_in_bins(line, disc.redshift, low[near][None], high[near][None], speeds[:, None])
            total[near] += np.tensordot(shape.T, images, axes=1)
    if disc.continuum is not None:
        ends = grid.wavelengths[[0, -1]]
        first, last = (_blur(profile[None], step, mrs.psf_fwhm(wave), grid)[0] for wave in ends)
        share = ((grid.wavelengths - ends[0]) / max(float(np.ptp(ends)), 1e-9))[:, None, None]
        light = 1e-3 * np.asarray(disc.continuum(grid.wavelengths), float)[:, None, None]
        total += light * (first * (1 - share) + last * share)
    return total


def _disc_image(disc: LineDisc, grid: CubeGrid) -> tuple[np.ndarray, np.ndarray, float]:
    """Return profile [1/arcsec2] and velocity [km/s] on a fine grid with a margin, and its step [arcsec]."""
    x0, y0 = (float(v) for v in grid.sky_to_offsets(disc.ra, disc.dec))
    step = grid.spaxel_size / _OVERSAMPLE
    margin = int(np.ceil(3.0 * mrs.psf_fwhm(grid.wavelengths[-1]) / grid.spaxel_size)) * _OVERSAMPLE
    first, size = (0.5 - 0.5 * _OVERSAMPLE - margin) * step, 2 * margin
    x, y = (axis[0] + first + step * np.arange(axis.size * _OVERSAMPLE + size) for axis in (grid.x, grid.y))
    profile, velocity = disc.surface(-(x[None, :] - x0), y[:, None] - y0)  # x grows to the west
    return profile, velocity, step


def _speeds(disc: LineDisc) -> np.ndarray:
    return np.linspace(-1.0, 1.0, _N_VELOCITIES) * max(abs(disc.rotation), 1.0)


def _blur(images: np.ndarray, step: float, fwhm: float, grid: CubeGrid) -> np.ndarray:
    """Convolve fine images with the PSF, cut the margin, and average over the spaxels."""
    square = np.fft.fftfreq(images.shape[1], step)[:, None] ** 2 + np.fft.rfftfreq(images.shape[2], step) ** 2
    smooth = np.fft.irfft2(np.fft.rfft2(images) * psf_transfer(square, fwhm), s=images.shape[1:])
    rows, columns = ((n - m * _OVERSAMPLE) // 2 for n, m in zip(images.shape[1:], (grid.ny, grid.nx), strict=True))
    inner = smooth[:, rows : rows + grid.ny * _OVERSAMPLE, columns : columns + grid.nx * _OVERSAMPLE]
    return inner.reshape(len(images), grid.ny, _OVERSAMPLE, grid.nx, _OVERSAMPLE).mean(axis=(2, 4))


def _disc_spectrum(disc: LineDisc, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the flux density [Jy] of a whole disc."""
    total = np.zeros(low.size)
    if disc.continuum is not None:
        total += 1e-3 * np.asarray(disc.continuum(0.5 * (low + high)), float)
    lines = [line for line in disc.lines if shines(line, disc.redshift, disc.rotation, low, high).any()]
    if not lines:
        return total
    axis = np.linspace(-1.0, 1.0, 401) * 12.0 * disc.scale_length
    profile, velocity = disc.surface(axis[None, :], axis[:, None])
    speeds = _speeds(disc)
    share = by_velocity(profile / profile.sum(), velocity, speeds).sum(axis=(1, 2))
    for line in lines:
        total += share @ line_in_bins(line, disc.redshift, low[None], high[None], speeds[:, None])
    return total
