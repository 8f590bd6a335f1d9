"""Where an exposure lies on the sky: the slices it holds, the corners of its footprint and S_REGION."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from mrsxr.errors import MrsxrError

from .detector import detector_coordinate
from .grid import unwrap_ra
from .sky import Pointing, slicer_to_sky, wrap

_FOOTPRINT_SAMPLES = 17


@dataclass(frozen=True)
class SliceRanges:
    """Slices of a detector: labels, their beta [arcsec], band, and the range of alpha [arcsec] they hold."""

    labels: np.ndarray
    bands: tuple[str, ...]
    beta: np.ndarray
    alpha_low: np.ndarray
    alpha_high: np.ndarray


def slice_ranges(ds: xr.Dataset, columns: np.ndarray | None = None, *, exact: bool = False) -> SliceRanges:
    """Return the slices found on the given detector columns and the range of alpha of their pixel centres.

    Parameters
    ----------
    ds : Dataset, level "rate" or "cal"
        ``slice`` and ``alpha`` [arcsec] on (y, x) and the WCS variables.
    columns : bool array (x), optional
        By default every column.
    exact : bool, optional
        Compute alpha anew from its polynomials in float64; by default the coordinate ``alpha`` as it is (float32).

    Returns
    -------
    SliceRanges, sorted by label

    Raises
    ------
    MrsxrError
        Where no pixel lies in a slice.
    """
    keep = slice(None) if columns is None else columns
    labels = np.asarray(ds["slice"].values)[:, keep]
    ends = labels > 0
    change = labels[:, 1:] != labels[:, :-1]
    ends[:, 1:-1] &= change[:, 1:] | change[:, :-1]  # alpha runs one way along a row
    y, x = np.nonzero(ends)
    labels, alpha = labels[y, x].astype(np.intp), np.asarray(ds["alpha"].values)[:, keep][y, x]
    good = np.isfinite(alpha)
    if not good.any():
        raise MrsxrError(
            f"setting {ds.attrs.get('setting')}: no pixel lies in a slice; run assign_wcs with its regions"
        )
    y, x, labels, alpha = y[good], x[good], labels[good], alpha[good]
    if exact:
        alpha = detector_coordinate("alpha", ds["x"].values[keep][x], ds["y"].values[y], labels, ds)
    low, high = np.full(labels.max() + 1, np.inf), np.full(labels.max() + 1, -np.inf)
    np.minimum.at(low, labels, alpha)
    np.maximum.at(high, labels, alpha)
    found = np.flatnonzero(np.isfinite(low))
    letter = ds.attrs["setting"][2]
    beta = ds["slice_beta"].sel(slice_label=found).values.astype(float)
    return SliceRanges(found, tuple(f"{label // 100}{letter}" for label in found), beta, low[found], high[found])


def corners_on_sky(
    model: xr.Dataset, ranges: SliceRanges, pointing: Pointing, box: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the corners of the footprint of one exposure, as jwst takes them.

    Parameters
    ----------
    model : Dataset or mapping
        ``v2_coefficients``, ``v3_coefficients``, ``band``.
    ranges : SliceRanges
        Of the whole detector, or of the columns of one band.
    pointing : Pointing of the exposure
    box : bool
        True: corners of the box of extreme RA and Dec (S_REGION; cube_build reads it for channels 2 and 4);
        False: the four points of extreme RA and extreme Dec (channels 1 and 3, rotated cubes).

    Returns
    -------
    ra, dec : float64 arrays of 4 [deg], right ascension on one side of the 0/360 border

    Notes
    -----
    ``jwst.assign_wcs.util.update_s_region_mrs`` and ``cube_build.cube_build_wcs_util.find_corners_miri``. Pixel
    centres count, not their edges. Within a slice the place on the sky depends on alpha alone, so that few points
    between its ends find the extremes.
    """
    ra, dec = [], []
    for band in sorted(set(ranges.bands)):
        rows = [i for i, name in enumerate(ranges.bands) if name == band]
        alpha = np.linspace(ranges.alpha_low[rows], ranges.alpha_high[rows], _FOOTPRINT_SAMPLES)
        beta = np.broadcast_to(ranges.beta[rows], alpha.shape)
        band_ra, band_dec = slicer_to_sky(alpha, beta, band, model, pointing)
        ra.append(np.ravel(band_ra))
        dec.append(np.ravel(band_dec))
    all_ra, all_dec = unwrap_ra(np.concatenate(ra)), np.concatenate(dec)
    if box:
        west, east, south, north = all_ra.min(), all_ra.max(), all_dec.min(), all_dec.max()
        return np.array([west, east, east, west]), np.array([south, south, north, north])
    points = [all_ra.argmin(), all_ra.argmax(), all_dec.argmin(), all_dec.argmax()]
    return all_ra[points], all_dec[points]


#: What :func:`s_region` needs.
NEEDED = ("slice", "alpha", "alpha_coefficients", "slice_beta", "v2_coefficients", "v3_coefficients")


def has_footprint(ds: xr.Dataset) -> bool:
    """Return whether exposures have a pointing, and pixels of slices."""
    return Pointing.known(ds) and bool((ds["slice"].values > 0).any())


def s_region(ds: xr.Dataset, dither_index: int = 0, *, ranges: SliceRanges | None = None) -> str:
    """Return the footprint of one exposure as ``jwst`` writes it to the keyword S_REGION.

    Parameters
    ----------
    ds : Dataset, level "rate" or "cal", after assign_wcs
    dither_index : int, optional
        Position along ``dither``, from 0.
    ranges : SliceRanges, optional
        Of :func:`slice_ranges`, exact, where they are known: all exposures of a setting have the same.

    Returns
    -------
    str
        ``POLYGON ICRS  ra dec ...`` with the four corners [deg, 9 decimals] of the box around both bands.

    Raises
    ------
    MrsxrError
        Where the slice coordinates or a keyword of the pointing are missing.
    """
    missing = [name for name in NEEDED if name not in ds.variables]
    if missing:
        raise MrsxrError(f"the footprint needs {', '.join(missing)}; run assign_wcs first")
    pointing = Pointing.of(ds, dither_index)
    ra, dec = corners_on_sky(ds, ranges or slice_ranges(ds, exact=True), pointing, box=True)
    corners = np.stack([wrap(ra), dec], axis=1).ravel()
    return "POLYGON ICRS  " + " ".join(f"{value:.9f}" for value in corners)
