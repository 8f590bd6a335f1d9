"""Errors of sums over wavelength: neighbouring planes of a cube, or samples of its spectra, share detector pixels."""

from __future__ import annotations

import numpy as np
import xarray as xr

from . import mrs
from .arguments import reads
from .errors import MrsxrError
from .limits import checked
from .spaxels import plane_widths

_LEAST = 1e-3  # correlations below are none
_MOST_LAGS = 64


def shared_light(distance: np.ndarray, length: np.ndarray) -> np.ndarray:
    """Return the correlation of the errors of two planes whose middles lie apart by a distance.

    Parameters
    ----------
    distance, length : float arrays
        Distance of the planes and length of the detector pixels, in units of the planes.

    Returns
    -------
    float array
        Two planes take the shares a and b of a pixel, the overlaps in wavelength; over all places of pixels this is
        mean(a b) / mean(a^2). The autocorrelation of the convolution of two boxes is a spline of the third degree.
    """

    def product(d: np.ndarray) -> np.ndarray:
        parts = [
            a * b * np.abs(d + i * length + j) ** 3 for i, a in ((-1, 1), (0, -2), (1, 1))
            for j, b in ((-1, 1), (0, -2), (1, 1))
        ]  # fmt: skip
        return np.sum(parts, axis=0)

    distance, length = np.broadcast_arrays(np.asarray(distance, float), np.asarray(length, float))
    return np.where(distance < 1.0 + length, product(distance) / product(0.0 * distance), 0.0)


def wavelength_correlation(ds: xr.Dataset) -> np.ndarray:
    """Return the correlations of the errors of planes or samples with the next ones.

    Parameters
    ----------
    ds : Dataset, level "cube" or "spectrum"
        Planes may have been cut out, or every n-th one; those of other bands share nothing.

    Returns
    -------
    float64 array (lag, wavelength)
        Row l: with the l-th next; row 0 is 1. Only that row where the data were not built by overlap of pixels and
        voxels (``attrs["weighting"]`` other than "drizzle"), as those of a simulation.

    Notes
    -----
    Mean over the places of pixels, by :func:`shared_light` with :data:`mrsxr.mrs.PIXEL_LENGTH`: 0.1 (4A) to 0.5 (1C)
    for the next plane of the default grids. Single planes differ where few pixels make a voxel.
    """
    wave = np.asarray(ds["wavelength"].values, float)
    rows = [np.ones(wave.size)]
    if wave.size < 2 or str(ds.attrs.get("weighting") or ("drizzle" if "fits_header" in ds.attrs else "")) != "drizzle":
        return np.stack(rows)
    held = ds["band"].values if "band" in ds.variables else str(ds.attrs.get("band", ""))
    band = np.broadcast_to(np.asarray(held).astype(str), wave.shape)
    length = np.full(wave.size, np.nan)
    for name in np.unique(band):
        if name in mrs.BANDS:
            length[band == name] = mrs.pixel_length(wave[band == name], name)
    width = plane_widths(ds)
    for lag in range(1, min(wave.size, _MOST_LAGS)):
        with np.errstate(invalid="ignore"):
            found = shared_light(np.abs(wave[lag:] - wave[:-lag]) / width[:-lag], length[:-lag] / width[:-lag])
        found = np.where(np.isfinite(found) & (band[lag:] == band[:-lag]), found, 0.0)
        if found.max(initial=0.0) < _LEAST:
            break
        rows.append(np.append(found, np.zeros(lag)))
    return np.stack(rows)


def correlation_length(ds: xr.Dataset) -> float:
    """Return by what the variance of a mean over many planes or samples exceeds that of independent ones."""
    return float(2.0 * np.median(wavelength_correlation(ds), axis=1).sum() - 1.0)


@reads()
@checked
def variance_of_sum(ds: xr.Dataset, weights: xr.DataArray | None = None) -> xr.DataArray:
    """Return the variance of a weighted sum over the wavelengths of a cube or spectrum, with their covariance.

    Parameters
    ----------
    ds : Dataset, level "cube" or "spectrum"
    weights : DataArray, optional
        On (wavelength), or on what ``ds`` is on; by default 1. Of a mean over n samples 1 / n.

    Returns
    -------
    DataArray
        Without the dimension wavelength, in the units of ``var``; lazy where ``ds`` is. Samples without a variance
        count nothing.

    Raises
    ------
    MrsxrError
        Where there is no variance on wavelength.

    Notes
    -----
    sum_i w_i^2 v_i + 2 sum_l sum_i r_l,i w_i w_i+l sqrt(v_i v_i+l), with the correlations of
    :func:`wavelength_correlation`. The error of a sum over 8 planes is 1.10 (4A) to 1.33 (1C) times that of independent
    ones. The variance ``var_systematic`` is common to all samples: to a sum it adds (sum_i w_i sqrt(v_i))^2.

    Examples
    --------
    >>> part = spectrum.sel(wavelength=slice(5.1, 5.2))
    >>> mean = part.flux.mean("wavelength")
    >>> error = mx.variance_of_sum(part, xr.ones_like(part.flux) / part.sizes["wavelength"]) ** 0.5
    """
    if "var" not in ds or "wavelength" not in ds["var"].dims:
        raise MrsxrError("there is no 'var' on wavelength; expected a cube or spectrum with its variance")
    size = ds.sizes["wavelength"]
    part = ds["var"].astype(float) ** 0.5 * (1.0 if weights is None else weights)
    part = part.drop_vars([name for name in part.coords if "wavelength" in part[name].dims]).fillna(0.0)
    total = (part**2).sum("wavelength")
    for lag, row in enumerate(wavelength_correlation(ds)[1:], 1):
        near = part.isel(wavelength=slice(0, size - lag)) * part.isel(wavelength=slice(lag, size))
        total = total + 2.0 * (near * xr.DataArray(row[:-lag], dims="wavelength")).sum("wavelength")
    return total.assign_attrs(ds["var"].attrs | {"long_name": "variance of the sum over wavelength"})
