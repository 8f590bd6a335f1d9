"""The pixels of a band: where they lie (slice coordinates, edges of slices on a grid) and what they hold."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import mrs
from mrsxr.errors import MrsxrError

from .detector import detector_coordinate
from .footprint import SliceRanges
from .frame import FrameModel
from .grid import CubeGrid
from .operator import Operator, Placement, Weighting, make_operator
from .sky import Pointing, barycentric, slicer_to_sky

#: Half a pixel as jwst cube_build takes it: the corners stay inside the pixel's own slice label.
HALF_PIXEL = 0.4999
_EDGE_DEGREE = 7
_MOST_KEPT = 2  # bands, some 20 MB each
_kept: dict[tuple[Any, ...], BandPixels] = {}
_keeping = threading.Lock()


@dataclass(frozen=True)
class BandPixels:
    """Pixels of one band in slice coordinates, sorted by wavelength; common to all dithers."""

    index: np.ndarray  # position in the flattened frame
    slice_index: np.ndarray  # row of the slice in the list of labels
    alpha_left: np.ndarray  # arcsec, at x - 0.4999
    alpha_right: np.ndarray  # arcsec, at x + 0.4999
    low: np.ndarray  # um, lower end of the wavelength interval, before the barycentric correction
    high: np.ndarray  # um, its upper end
    alpha: np.ndarray  # arcsec, at the centre

    @property
    def widest(self) -> float:
        """Largest wavelength interval [um], 0 without pixels."""
        return float((self.high - self.low).max()) if self.index.size else 0.0


@dataclass(frozen=True)
class Frame:
    """Pixels of a band in one exposure: maps and variances (map, pixel), status, weight and shift (pixel)."""

    linear: np.ndarray  # surface brightness [MJy/sr], then the systematic error where there is one
    square: np.ndarray  # variance of independent pixels [MJy2/sr2]
    status: np.ndarray  # 0 good, 1 unusable, 2 not of the sky, 3 unusable as it saturated
    weight: np.ndarray  # further weight, 1 for that of jwst
    shift: np.ndarray | None = None  # um, to be added to the wavelengths of the pixels, before the barycentre


def check_setting(ds: xr.Dataset, band: str) -> None:
    """Raise where the data are not of the setting of a band."""
    setting = ds.attrs.get("setting", "")
    if mrs.setting_of_band(band) != setting:
        raise MrsxrError(
            f"band {band} is not on setting {setting}; expected {' or '.join(mrs.bands_of_setting(setting))}"
        )


def band_columns(band: str, x: np.ndarray) -> np.ndarray:
    """Return which detector columns ``x`` cube building reads for a band (512 and 1031 never, as in jwst)."""
    first, last = mrs.CUBE_COLUMNS[int(band[0])]
    return (x >= first) & (x < last)


def slice_edges(
    ds: xr.Dataset, ranges: SliceRanges, band: str, pointing: Pointing, grid: CubeGrid,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
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


def select_pixels(frame: FrameModel, x: np.ndarray, y: np.ndarray, band: str, ranges: SliceRanges) -> BandPixels:
    """Return the pixels of a band with their corners in slice coordinates, sorted by wavelength.

    Parameters
    ----------
    frame : FrameModel
    x, y : int arrays
        Detector columns and rows, counted from 0.
    band : str
    ranges : SliceRanges of the band

    Returns
    -------
    BandPixels
        Those of the last bands are kept, as all exposures of a setting have the same.
    """
    key = (frame.digest, x.tobytes(), y.tobytes(), band, ranges.labels.tobytes())
    found = _kept.get(key)
    if found is None:
        found = _selected(frame, x, y, band, ranges)
        with _keeping:
            _kept[key] = found
            while len(_kept) > _MOST_KEPT:
                del _kept[next(iter(_kept))]
    return found


def _selected(frame: FrameModel, x: np.ndarray, y: np.ndarray, band: str, ranges: SliceRanges) -> BandPixels:
    slice_map, model = frame.labels, frame.model
    wanted = np.zeros(max(int(slice_map.max()), int(ranges.labels.max())) + 1, dtype=np.int16) - 1
    wanted[ranges.labels] = np.arange(len(ranges.labels))
    rows = wanted[np.where(slice_map > 0, slice_map, 0)]
    index = np.flatnonzero((rows >= 0) & (slice_map > 0) & band_columns(band, x)[None, :])
    slice_index, label = rows.ravel()[index], slice_map.ravel()[index]
    px, py = x[index % len(x)].astype(float), y[index // len(x)].astype(float)
    sides = (px - HALF_PIXEL, px + HALF_PIXEL, px)
    alpha_left, alpha_right, alpha = (detector_coordinate("alpha", x, py, label, model) for x in sides)
    ends = (py - HALF_PIXEL, py + HALF_PIXEL, py)
    below, above, middle = (detector_coordinate("wavelength", px, y, label, model) for y in ends)
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
        alpha[order],
    )


def wavelength_span(
    slice_map: np.ndarray, y: np.ndarray, x: np.ndarray, model: xr.Dataset, labels: np.ndarray,
) -> tuple[Any, ...]:  # fmt: skip
    """Return limits of wavelength [um] that no pixel of some slices passes, from every 16th row.

    Parameters
    ----------
    slice_map : int16 (y, x)
    y, x : int arrays
        Detector rows and columns.
    model : Dataset
        WCS variables.
    labels : int array
        The slices.

    Returns
    -------
    (float, float)
        Before the barycentric correction; (inf, -inf) without pixels.
    """
    rows = np.unique(np.append(np.arange(0, len(y), 16), len(y) - 1))
    here = slice_map[rows]
    j, i = np.nonzero(np.isin(here, labels))
    if j.size == 0:
        return np.inf, -np.inf
    wave = detector_coordinate("wavelength", x[i].astype(float), y[rows[j]].astype(float), here[j, i], model)
    low, high = float(np.nanmin(wave)), float(np.nanmax(wave))
    margin = (high - low) * 20.0 / max(len(y), 1)
    return low - margin, high + margin


def placement(
    ds: xr.Dataset, ranges: SliceRanges, band: str, pointing: Pointing, grid: CubeGrid, velosys: float
) -> Placement:
    """Return where the slices of one exposure lie on a grid; ``velosys`` [m/s] moves the wavelengths, NaN does not."""
    edges, middle, half = slice_edges(ds, ranges, band, pointing, grid)
    return Placement(edges, middle, half, float(barycentric(1.0, float(velosys))))


def gather_pixels(
    pixels: BandPixels, flux: np.ndarray, var_poisson: np.ndarray, var_read: np.ndarray, var_flat: np.ndarray,
    dq: np.ndarray, *systematic: np.ndarray, exposure_weight: float | str = 1.0,
) -> Frame:  # fmt: skip
    """Return value [MJy/sr], variance [MJy2/sr2] and status of the pixels of a band in one exposure.

    Parameters
    ----------
    pixels : BandPixels
    flux, var_poisson, var_read, var_flat, dq : arrays (1, y, x)
    *systematic : arrays (1, y, x)
        Variances that are common to all pixels.
    exposure_weight : float or "ivar"
        Weight of all pixels; "ivar" is one over the median variance of the good ones.

    Returns
    -------
    Frame
        Status 0 good; 1 DO_NOT_USE or not finite; 2 NON_SCIENCE; 3 as 1, and SATURATED.
    """
    value = flux.reshape(-1)[pixels.index]
    variance = sum(v.reshape(-1)[pixels.index] for v in (var_poisson, var_read, var_flat))
    bits = dq.reshape(-1)[pixels.index]
    bad = flags.any_of(bits, "DO_NOT_USE") | ~np.isfinite(value) | ~np.isfinite(variance)
    lost = np.where(flags.any_of(bits, "SATURATED"), 3, 1)
    status = np.where(flags.any_of(bits, "NON_SCIENCE"), 2, np.where(bad, lost, 0)).astype(np.uint8)
    linear = [value]
    if systematic:
        total = sum(v.reshape(-1)[pixels.index] for v in systematic)
        linear.append(np.sqrt(np.where(np.isfinite(total), total, np.float32(0))))
    weight = exposure_weight
    if isinstance(weight, str):
        good = (status == 0) & (variance > 0)
        weight = 1.0 / float(np.median(variance[good])) if good.any() else 1.0
    return Frame(np.stack(linear), variance[None], status, np.full(status.size, weight, dtype=np.float32))


def block_operator(
    pixels: BandPixels, frame: Frame, place: Placement, planes: np.ndarray, shape: tuple[int, int],
    weighting: Weighting,
) -> tuple[slice, Operator]:  # fmt: skip
    """Return the operator of one exposure of a band onto a block of planes, and the pixels that it is made of.

    Parameters
    ----------
    pixels : BandPixels
    frame : Frame
    place : Placement
    planes : float64 (2, plane)
        Lower and upper edges [um].
    shape : (int, int)
        Rows and columns of the grid.
    weighting : Weighting

    Returns
    -------
    slice, Operator
        ``frame.linear[:, slice]`` belongs to the operator.
    """
    reach = pixels.widest
    if weighting.name != "drizzle":
        reach += weighting.reach_wavelength / place.scale
    if frame.shift is not None and frame.shift.size:
        reach += float(np.abs(frame.shift).max())
    middle = 0.5 * (pixels.low + pixels.high)
    first = int(np.searchsorted(middle, planes[0, 0] / place.scale - reach))
    part = slice(first, int(np.searchsorted(middle, planes[1, -1] / place.scale + reach)))
    low, high = pixels.low[part], pixels.high[part]
    if frame.shift is not None:
        low, high = low + frame.shift[part], high + frame.shift[part]
    operator = make_operator(
        pixels.slice_index[part], (pixels.alpha_left[part], pixels.alpha_right[part], pixels.alpha[part]), (low, high),
        frame.status[part], frame.weight[part], place, planes, shape, weighting,
    )  # fmt: skip
    return part, operator
