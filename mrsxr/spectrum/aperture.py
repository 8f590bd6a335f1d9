"""Apertures: where the source is, how the radius grows with wavelength, how much light it misses."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.errors import MrsxrError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.notes import tell

#: Planes beyond this wavelength [um] are too noisy to find the source (jwst extract_1d).
CENTRE_LIMIT = 26.0
_DETECTION = 5.0


def sky_to_pixel(cube: xr.Dataset, ra: float, dec: float) -> tuple[float, float]:
    """Return the pixel (x, y), counted from 0, of a place on the sky [deg]; right for cut cubes too."""
    x, y = CubeGrid.of(cube).sky_to_pixels(ra, dec)
    return float(x), float(y)


def pixel_to_sky(cube: xr.Dataset, x: float, y: float) -> tuple[float, float]:
    """Return right ascension and declination [deg] of a pixel (x, y), counted from 0."""
    grid = CubeGrid.of(cube)
    ra, dec = grid.offsets_to_sky(grid.x[0] + x * grid.spaxel_size, grid.y[0] + y * grid.spaxel_size)
    return float(ra), float(dec)


def collapse(cube: xr.Dataset) -> np.ndarray:
    """Return the median image [MJy/sr] of the planes below 26 um; NaN where less than half are good."""
    planes = cube["wavelength"].values < CENTRE_LIMIT
    values = np.asarray(cube["flux"].values[planes if planes.any() else slice(None)], dtype=float)
    values = np.where(np.isfinite(values), values, np.nan)
    seen = np.isfinite(values).sum(axis=0)
    image = np.full(seen.shape, np.nan)
    good = seen > 0.5 * len(values)
    if good.any():
        image[good] = np.nanmedian(values[:, good], axis=0)
    return image


def find_source(image: np.ndarray, fwhm: float) -> tuple[float, float] | None:
    """Return the pixel (x, y) of the brightest source of an image, or None where nothing stands out.

    Parameters
    ----------
    image : float array (y, x)
        NaN where there is no value.
    fwhm : float
        Expected width of a point source [pixel].

    Returns
    -------
    (float, float) or None
        Centre counted from 0: the brightest place after a Gaussian smoothing that leaves NaN out, refined by
        a robust fit of a round Gaussian on a constant, which missing spaxels do not pull aside.
    """
    good = np.isfinite(image)
    if good.sum() < 9:
        return None
    level = np.median(image[good])
    noise = 1.4826 * np.median(np.abs(image[good] - level))
    smooth = _smooth(np.where(good, image - level, 0.0), good, fwhm)
    j0, i0 = np.unravel_index(np.nanargmax(smooth), image.shape)
    if not smooth[j0, i0] > _DETECTION * noise / fwhm:
        return None
    return _fit_gaussian(image, good, float(i0), float(j0), fwhm, level)


def find_source_dao(cube: xr.Dataset) -> tuple[float, float] | None:
    """Return the pixel (x, y) of the brightest source as jwst finds it (``ifu_autocen``), or None.

    Notes
    -----
    DAOStarFinder with a width of 3 spaxels in every band and a limit of 3 sigma on the median of the planes below
    26 um, however few of them are good in a spaxel.
    """
    from astropy.stats import sigma_clipped_stats
    from photutils.detection import DAOStarFinder

    planes = np.nonzero(cube["wavelength"].values < CENTRE_LIMIT)[0]
    if planes.size == 0 or not np.isfinite(cube["flux"].values[planes]).any():
        return None
    image = np.ma.median(np.ma.masked_invalid(cube["flux"].values[planes]), axis=0)
    _, middle, spread = sigma_clipped_stats(image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where nothing is found
        found = DAOStarFinder(fwhm=3.0, threshold=3 * spread)(image - middle)
    if found is None:
        return None
    best = int(np.argmax(np.asarray(found["flux"])))
    return float(found["x_centroid"][best]), float(found["y_centroid"][best])


def _smooth(values: np.ndarray, good: np.ndarray, fwhm: float) -> np.ndarray:
    """Return the normalised Gaussian convolution; NaN where less than half of the kernel is covered."""
    half = int(np.ceil(fwhm))
    offsets = np.arange(-half, half + 1)
    profile = np.exp(-4 * np.log(2) * (offsets / fwhm) ** 2)
    profile /= profile.sum()

    def convolve(a: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            a = np.apply_along_axis(np.convolve, axis, a, profile, mode="full")
            a = np.take(a, np.arange(half, a.shape[axis] - half), axis=axis)
        return a

    cover = convolve(good.astype(float))
    enough = good & (cover > 0.5)
    return np.where(enough, convolve(values) / np.where(enough, cover, 1.0), np.nan)


def _fit_gaussian(image, good, x0, y0, fwhm, level) -> tuple[float, float] | None:
    from scipy import optimize

    y, x = np.indices(image.shape)
    near = good & (np.hypot(x - x0, y - y0) <= 2.0 * fwhm)
    if near.sum() < 6:
        return x0, y0
    x, y, values = x[near], y[near], image[near]
    height = max(float(values.max() - level), 1e-30)
    values = (values - level) / height

    def residuals(p):
        amplitude, cx, cy, width, base = p
        return amplitude * np.exp(-4 * np.log(2) * ((x - cx) ** 2 + (y - cy) ** 2) / width**2) + base - values

    bounds = (
        [0, x0 - 1.5 * fwhm, y0 - 1.5 * fwhm, 0.4 * fwhm, -2],
        [20, x0 + 1.5 * fwhm, y0 + 1.5 * fwhm, 4 * fwhm, 2],
    )
    fit = optimize.least_squares(residuals, [1.0, x0, y0, fwhm, 0.0], bounds=bounds, loss="soft_l1", f_scale=0.1)
    return float(fit.x[1]), float(fit.x[2])


def aperture_radii(
    wavelength: np.ndarray, extract1d: xr.Dataset | None, radius_factor: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return radius, inner and outer annulus radius [arcsec] at each wavelength [um].

    Parameters
    ----------
    wavelength : float array
    extract1d : Dataset, kind "extract1d", or None
        Its radius is that of a factor of 2. Without it the radius is ``radius_factor`` times the FWHM of the
        PSF (Law et al. 2023) and the annulus, in units of 2 FWHM, runs from 2.5 - 3.0 at 5 um to 1.02 - 1.5
        at 28 um.
    radius_factor : float
        Radius in units of the FWHM; it does not move the annulus (as ``ifu_rscale`` of jwst).
    """
    if not radius_factor > 0:
        raise MrsxrError(f"radius_factor is {radius_factor}; expected a positive number of FWHM")
    if extract1d is None:
        nominal = 2.0 * mrs.psf_fwhm(wavelength)
        share = np.clip((wavelength - 5.0) / 23.0, 0.0, 1.0)
        inner, outer = nominal * (2.5 - 1.48 * share), nominal * (3.0 - 1.5 * share)
    else:
        grid = np.asarray(extract1d["wavelength"].values, dtype=float)
        nominal, inner, outer = (
            interpolate(wavelength, grid, np.asarray(extract1d[name].values, dtype=float))
            for name in ("radius", "inner_background", "outer_background")
        )
    return nominal * radius_factor / 2.0, inner, outer


def interpolate(x: np.ndarray, grid: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return values interpolated linearly, and continued linearly outside the grid (as jwst extract_1d)."""
    if len(grid) == 1:
        return np.full(np.shape(x), float(values[0]))
    left = np.clip(np.searchsorted(grid, x, side="right") - 1, 0, len(grid) - 2)
    share = (x - grid[left]) / (grid[left + 1] - grid[left])
    return values[left] * (1.0 - share) + values[left + 1] * share


def aperture_correction(
    wavelength: np.ndarray, radius: np.ndarray, apcorr: xr.Dataset, outside: str = "clamp"
) -> np.ndarray:
    """Return the factor from the flux within the radius to the total flux, linear in wavelength and radius.

    Parameters
    ----------
    wavelength : float array
        [um]
    radius : float array
        [arcsec]
    apcorr : Dataset, kind "apcorr"
        ``radius`` [arcsec] and ``correction`` on (aperture, wavelength).
    outside : {"clamp", "extrapolate"}
        Wavelengths and radii outside the table take the value at its border, with a MrsxrWarning; or the straight
        line is continued, as jwst does, which can give any number far outside.

    Returns
    -------
    float array
    """
    if outside not in ("clamp", "extrapolate"):
        raise MrsxrError(f"outside the table of apcorr '{outside}'; expected 'clamp' or 'extrapolate'")
    grid = np.asarray(apcorr["wavelength"].values, dtype=float)
    table_radius = np.asarray(apcorr["radius"].transpose("aperture", "wavelength").values, dtype=float)
    table = np.asarray(apcorr["correction"].transpose("aperture", "wavelength").values, dtype=float)
    along = np.interp if outside == "clamp" else interpolate
    radii = np.stack([along(wavelength, grid, row) for row in table_radius])
    factors = np.stack([along(wavelength, grid, row) for row in table])
    order = np.argsort(radii, axis=0)
    radii, factors = np.take_along_axis(radii, order, 0), np.take_along_axis(factors, order, 0)
    if outside == "extrapolate":
        return np.array([interpolate(r, radii[:, i], factors[:, i]) for i, r in enumerate(radius)])
    slack = 1e-6 * radius
    off_wave = int(((wavelength < grid[0]) | (wavelength > grid[-1])).sum())
    off_radius = int(((radius < radii[0] - slack) | (radius > radii[-1] + slack)).sum())
    if off_wave or off_radius:
        tell(
            f"aperture correction {apcorr.attrs.get('ref_id', '')}: {off_wave} of {len(wavelength)} samples "
            f"lie outside its wavelengths ({grid[0]:.3f} to {grid[-1]:.3f} um) and {off_radius} outside its radii "
            f"({radii.min():.3f} to {radii.max():.3f} arcsec); the value at the border is used",
            stacklevel=3,
        )
    return np.array([np.interp(r, radii[:, i], factors[:, i]) for i, r in enumerate(radius)])
