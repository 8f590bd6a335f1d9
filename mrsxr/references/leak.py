"""What the reference files say of the second-order light of band 1B that falls on band 3A.

The table LEAKCOR of mrsptcorr is used, and so must have been measured, on spectra of point sources: it holds the
aperture correction of light of 12 um, though what leaks is an image of 6 um, of which the aperture misses less. The
part of the light itself is smaller by :func:`aperture_factor`.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr.errors import ReferenceFileError


def leak_fraction(wavelength: np.ndarray, mrsptcorr: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return what part of a point source's flux at half the wavelength its spectrum holds besides, and the error.

    Parameters
    ----------
    wavelength : float array
        [um]
    mrsptcorr : Dataset, kind "mrsptcorr"
        ``frac_leak`` and, optionally, ``err_leak`` on (wavelength [um]).

    Returns
    -------
    (float array, float array)
        Linear between the rows of the table; beyond its ends the value there, as in jwst.

    Raises
    ------
    ReferenceFileError
        Where the reference file has no leak table.
    """
    if "frac_leak" not in mrsptcorr:
        raise ReferenceFileError(
            f"mrsptcorr {mrsptcorr.attrs.get('ref_id', '')}: no table LEAKCOR; the spectral leak cannot be corrected"
        )
    grid = np.asarray(mrsptcorr["frac_leak"]["wavelength"].values, dtype=float)
    found = [
        np.interp(wavelength, grid, np.nan_to_num(mrsptcorr[name].values)) if name in mrsptcorr else 0.0 * wavelength
        for name in ("frac_leak", "err_leak")
    ]
    return found[0], found[1]


def aperture_factor(wavelength: np.ndarray, extract1d: xr.Dataset | None, apcorr: xr.Dataset | None) -> np.ndarray:
    """Return by which factor the leaked light grows in the spectrum of a point source.

    Parameters
    ----------
    wavelength : float array
        [um]
    extract1d : Dataset, kind "extract1d"
        For the radius of the aperture.
    apcorr : Dataset, kind "apcorr"
        ``radius`` [arcsec] and ``correction`` on (aperture, wavelength).

    Returns
    -------
    float array
        Aperture correction at the wavelength over that at half of it, both of the radius at the wavelength: what an
        aperture of 12 um holds of the image of 6 um, times the correction for an image of 12 um. Radii beyond those of
        the table count as the largest, where 6 um have hardly more to gather. 1 without one of the files.
    """
    if apcorr is None or extract1d is None:
        return np.ones(np.shape(wavelength))
    radius = np.interp(wavelength, extract1d["wavelength"].values, extract1d["radius"].values)
    return _correction(wavelength, radius, apcorr) / _correction(0.5 * wavelength, radius, apcorr)


def _correction(wavelength: np.ndarray, radius: np.ndarray, apcorr: xr.Dataset) -> np.ndarray:
    """Return aperture corrections, linear in wavelength and radius, at the border of the table beyond it."""
    grid = np.asarray(apcorr["wavelength"].values, dtype=float)
    tables = (apcorr[name].transpose("aperture", "wavelength").values for name in ("radius", "correction"))
    radii, factors = (np.stack([np.interp(wavelength, grid, row) for row in table], axis=1) for table in tables)
    order = np.argsort(radii, axis=1)
    radii, factors = (np.take_along_axis(a, order, axis=1) for a in (radii, factors))
    return np.array([np.interp(r, *row) for r, *row in zip(radius, radii, factors, strict=True)])
