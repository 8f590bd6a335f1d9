"""Apertures: places on the sky, how the radius grows with wavelength, how much light it misses."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.errors import MrsxrError
from mrsxr.geometry.place import Place
from mrsxr.notes import tell


def sky_to_pixel(cube: xr.Dataset, ra: float, dec: float) -> tuple[float, float]:
    """Return the pixel (x, y), counted from 0, of a place on the sky [deg]; of the spaxels that are left."""
    x, y = Place.of(cube).to_pixels(ra, dec)
    return float(x), float(y)


def pixel_to_sky(cube: xr.Dataset, x: float, y: float) -> tuple[float, float]:
    """Return right ascension and declination [deg] of a pixel (x, y), counted from 0."""
    ra, dec = Place.of(cube).to_sky(x, y)
    return float(ra), float(dec)


def is_inside(cube: xr.Dataset, place: tuple[float, float]) -> bool:
    """Return whether a pixel (x, y), counted from 0, lies in a cube."""
    return -0.5 <= place[0] <= cube.sizes["x"] - 0.5 and -0.5 <= place[1] <= cube.sizes["y"] - 0.5


def outside(cube: xr.Dataset, center: tuple[float, float]) -> str:
    """Return in words that a place [deg] lies outside a cube, and whether it is inside when swapped."""
    ra, dec = center
    middle = pixel_to_sky(cube, 0.5 * (cube.sizes["x"] - 1), 0.5 * (cube.sizes["y"] - 1))
    text = (
        f"center (RA {ra:.6f}, Dec {dec:.6f} deg) lies outside cube {cube.attrs.get('band')}, whose centre is RA "
        f"{middle[0]:.6f}, Dec {middle[1]:.6f}"
    )
    swapped = -90.0 <= ra <= 90.0 and is_inside(cube, sky_to_pixel(cube, dec, ra))
    return text + ("; right ascension and declination are swapped" if swapped else "; expected a place in it")


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


def circle_shares(
    shape: tuple[int, int], place: tuple[float, float], radii: np.ndarray, subpixels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of every spaxel that lies in a circle and in an annulus about a place.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    place : (float, float)
        (x, y) [pixel], counted from 0 at the centre of the first spaxel.
    radii : float array (plane, 3)
        Aperture radius, inner and outer radius of the annulus [pixel]; an infinite radius takes every spaxel whole.
    subpixels : int
        0: exact; n: share of the n x n subpixel centres inside the circle.

    Returns
    -------
    float64 (plane, y, x), float64 (plane, y, x)
        Of photutils, as jwst.
    """
    from photutils.geometry import circular_overlap_grid

    (n_y, n_x), (x, y) = shape, place
    box = (-0.5 - x, n_x - 0.5 - x, -0.5 - y, n_y - 0.5 - y, n_x, n_y)

    def circle(radius: float) -> np.ndarray:
        if not 0.0 < radius < np.inf:
            return np.full(shape, float(radius > 0.0))
        return circular_overlap_grid(*box, radius, int(subpixels == 0), max(subpixels, 1))

    share, inner, outer = (np.array([circle(radius) for radius in column]) for column in radii.T)
    return share, outer - inner


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
