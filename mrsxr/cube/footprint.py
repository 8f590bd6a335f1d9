"""Where the pixels of a band lie: corners in slice coordinates, footprint and slice edges on the sky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.errors import MrsxrError
from mrsxr.geometry.detector import detector_to_slicer
from mrsxr.geometry.grid import CubeGrid, unwrap_ra
from mrsxr.geometry.sky import Pointing, slicer_to_sky

#: Half a pixel as jwst cube_build takes it: the corners stay inside the pixel's own slice label.
HALF_PIXEL = 0.4999
_EDGE_DEGREE = 7
_FOOTPRINT_SAMPLES = 17


@dataclass(frozen=True)
class SliceRanges:
    """Slices of a detector: labels, their beta [arcsec], band, and the range of alpha [arcsec] they hold."""

    labels: np.ndarray
    bands: tuple[str, ...]
    beta: np.ndarray
    alpha_low: np.ndarray
    alpha_high: np.ndarray


@dataclass(frozen=True)
class BandPixels:
    """Pixels of one band in slice coordinates, sorted by wavelength; common to all dithers."""

    index: np.ndarray  # position in the flattened frame
    slice_index: np.ndarray  # row of the slice in the list of labels
    alpha_left: np.ndarray  # arcsec, at x - 0.4999
    alpha_right: np.ndarray  # arcsec, at x + 0.4999
    low: np.ndarray  # um, lower end of the wavelength interval, before the barycentric correction
    high: np.ndarray  # um, its upper end

    @property
    def widest(self) -> float:
        """Largest wavelength interval [um], 0 without pixels."""
        return float((self.high - self.low).max()) if self.index.size else 0.0


def band_columns(band: str, x: np.ndarray) -> np.ndarray:
    """Return which detector columns ``x`` cube building reads for a band (512 and 1031 never, as in jwst)."""
    first, last = mrs.CUBE_COLUMNS[int(band[0])]
    return (x >= first) & (x < last)


def slice_ranges(ds: xr.Dataset, columns: np.ndarray) -> SliceRanges:
    """Return the slices found on the given detector columns and the range of alpha of their pixel centres.

    Parameters
    ----------
    ds : Dataset, level "cal"
        ``slice`` and ``alpha`` [arcsec] on (y, x) and the WCS variables.
    columns : bool array (x)

    Returns
    -------
    SliceRanges, sorted by label
    """
    labels = np.asarray(ds["slice"].values)[:, columns]
    alpha = np.asarray(ds["alpha"].values)[:, columns]
    good = (labels > 0) & np.isfinite(alpha)
    if not good.any():
        raise MrsxrError(
            f"setting {ds.attrs.get('setting')}: no pixel lies in a slice; run assign_wcs with its regions"
        )
    side = np.pad(labels, ((0, 0), (1, 1)))
    ends = good & ((side[:, :-2] != labels) | (side[:, 2:] != labels))  # alpha runs one way along a row
    labels, alpha = labels[ends].astype(np.intp), alpha[ends]
    low, high = np.full(labels.max() + 1, np.inf), np.full(labels.max() + 1, -np.inf)
    np.minimum.at(low, labels, alpha)
    np.maximum.at(high, labels, alpha)
    found = np.flatnonzero(np.isfinite(low))
    letter = ds.attrs["setting"][2]
    beta = ds["slice_beta"].sel(slice_label=found).values.astype(float)
    return SliceRanges(found, tuple(f"{label // 100}{letter}" for label in found), beta, low[found], high[found])


def corners_on_sky(ds: xr.Dataset, ranges: SliceRanges, pointing: Pointing, box: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the footprint of one exposure, as jwst cube_build takes them.

    Parameters
    ----------
    ds : Dataset with the WCS variables
    ranges : SliceRanges
    pointing : Pointing of the exposure
    box : bool
        True: corners of the box of extreme RA and Dec (the S_REGION of jwst, used for channels 2 and 4);
        False: the four points of extreme RA and extreme Dec (channels 1 and 3, rotated cubes).

    Returns
    -------
    ra, dec : float64 arrays of 4 [deg], right ascension on one side of the 0/360 border
    """
    ra, dec = [], []
    for band in sorted(set(ranges.bands)):
        rows = [i for i, name in enumerate(ranges.bands) if name == band]
        alpha = np.linspace(ranges.alpha_low[rows], ranges.alpha_high[rows], _FOOTPRINT_SAMPLES)
        beta = np.broadcast_to(ranges.beta[rows], alpha.shape)
        band_ra, band_dec = slicer_to_sky(alpha, beta, band, ds, pointing)
        ra.append(np.ravel(band_ra))
        dec.append(np.ravel(band_dec))
    all_ra, all_dec = unwrap_ra(np.concatenate(ra)), np.concatenate(dec)
    if box:
        west, east, south, north = all_ra.min(), all_ra.max(), all_dec.min(), all_dec.max()
        return np.array([west, east, east, west]), np.array([south, south, north, north])
    points = [all_ra.argmin(), all_ra.argmax(), all_dec.argmin(), all_dec.argmax()]
    return all_ra[points], all_dec[points]


def slice_edges(ds: xr.Dataset, ranges: SliceRanges, band: str, pointing: Pointing, grid: CubeGrid):
    """Return the edges of the slices on the grid of the cube as polynomials in alpha.

    Within a slice the place on the sky depends on alpha alone, so that each edge (beta - width / 2 and
    beta + width / 2) is a smooth curve; a polynomial of degree 7 through Chebyshev nodes follows it to less
    than 1e-8 arcsec and replaces the sky transform of every pixel corner.

    Parameters
    ----------
    ds : Dataset with the WCS variables
    ranges : SliceRanges of the band
    band : str
    pointing : Pointing
    grid : CubeGrid

    Returns
    -------
    edges : float64 (slice, 2 edges, 2 axes, power)
        Spaxels counted from the lower left corner of the grid, power series in (alpha - middle) / half.
    middle, half : float64 (slice)
        [arcsec]
    """
    middle = 0.5 * (ranges.alpha_low + ranges.alpha_high)
    half = 0.55 * (ranges.alpha_high - ranges.alpha_low) + 0.5
    nodes = np.cos(np.pi * (np.arange(_EDGE_DEGREE + 1) + 0.5) / (_EDGE_DEGREE + 1))
    width = float(ds["slice_width"].sel(band=band))
    side = np.array([-0.5, 0.5]) * width
    alpha = np.broadcast_to(middle[:, None, None] + half[:, None, None] * nodes, (len(middle), 2, len(nodes))).copy()
    beta = np.broadcast_to(ranges.beta[:, None, None] + side[:, None], alpha.shape).copy()
    ra, dec = slicer_to_sky(alpha, beta, band, ds, pointing)
    xi, eta = grid.sky_to_offsets(ra, dec)
    places = np.stack([np.asarray(xi) - grid_edge(grid.x, grid), np.asarray(eta) - grid_edge(grid.y, grid)], axis=2)
    inverse = np.linalg.inv(np.vander(nodes, increasing=True))
    return places / grid.spaxel_size @ inverse.T, middle, half


def grid_edge(centres: np.ndarray, grid: CubeGrid) -> float:
    """Return the outer edge [arcsec] of the first spaxel of an axis."""
    return float(centres[0]) - 0.5 * grid.spaxel_size


def select_pixels(
    slice_map: np.ndarray, x: np.ndarray, y: np.ndarray, model: xr.Dataset, band: str, ranges: SliceRanges
) -> BandPixels:
    """Return the pixels of a band with their corners in slice coordinates, sorted by wavelength.

    Parameters
    ----------
    slice_map : int16 (y, x)
    x, y : int arrays
        Detector columns and rows, counted from 0.
    model : Dataset
        WCS variables.
    band : str
    ranges : SliceRanges of the band

    Returns
    -------
    BandPixels
    """
    wanted = np.zeros(max(int(slice_map.max()), int(ranges.labels.max())) + 1, dtype=np.int16) - 1
    wanted[ranges.labels] = np.arange(len(ranges.labels))
    rows = wanted[np.where(slice_map > 0, slice_map, 0)]
    index = np.flatnonzero((rows >= 0) & (slice_map > 0) & band_columns(band, x)[None, :])
    slice_index, label = rows.ravel()[index], slice_map.ravel()[index]
    px, py = x[index % len(x)].astype(float), y[index // len(x)].astype(float)
    alpha_left, _, _ = detector_to_slicer(px - HALF_PIXEL, py, label, model)
    alpha_right, _, _ = detector_to_slicer(px + HALF_PIXEL, py, label, model)
    _, _, middle = detector_to_slicer(px, py, label, model)
    _, _, below = detector_to_slicer(px, py - HALF_PIXEL, label, model)
    _, _, above = detector_to_slicer(px, py + HALF_PIXEL, label, model)
    half = 0.5 * np.abs(above - below)
    good = np.isfinite(alpha_left) & np.isfinite(alpha_right) & np.isfinite(middle) & (half > 0)
    order = np.flatnonzero(good)
    order = order[np.argsort(middle[order], kind="stable")]
    return BandPixels(
        index[order].astype(np.int32),
        slice_index[order],
        alpha_left[order],
        alpha_right[order],
        (middle - half)[order],
        (middle + half)[order],
    )
