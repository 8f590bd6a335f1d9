"""What the exposures of a setting hold, with coordinates: usable pixels, those near a source, robust means of cells.

A cell is a small part of the detector by slice, place along it and wavelength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.errors import MrsxrError
from mrsxr.geometry.pixels import band_columns
from mrsxr.geometry.sky import Pointing, sky_to_v2v3, slicer_to_sky, v2v3_to_slicer
from mrsxr.mrs import SLICE_WIDTH, bands_of_setting, psf_fwhm
from mrsxr.schema import RANDOM, WCS_VARIABLES
from mrsxr.threads import how
from mrsxr.traces import Pixels
from mrsxr.traces.model import EDGE

#: Steps of the wavelength bins, of the logarithm: about 50 to a band, 20 rows of the detector each.
LOG_STEP = 0.0035
FIRST_WAVELENGTH = 4.5  # um, lower edge of bin 0; the bins are the same for all bands
_CLIP, _LEAST = 3.0, 0.5


@dataclass(frozen=True)
class Cells:
    """The cells of a setting: pixels order[start[c] : start[c + 1]] of the flattened frame belong to cell c."""

    order: np.ndarray
    start: np.ndarray
    channel: np.ndarray  # of each cell
    slice: np.ndarray  # slice label of each cell
    beta: np.ndarray  # arcsec
    column: np.ndarray  # number of the step along the slice
    spectral_bin: np.ndarray
    along: np.ndarray  # alpha of every pixel [arcsec]
    wavelength: np.ndarray  # of every pixel [um]


@dataclass(frozen=True)
class Samples:
    """Robust means of the cells of one band of one exposure, those with enough good pixels."""

    cell: np.ndarray
    alpha: np.ndarray  # arcsec
    beta: np.ndarray  # arcsec
    wavelength: np.ndarray  # um
    spectral_bin: np.ndarray
    flux: np.ndarray  # MJy/sr
    var: np.ndarray  # MJy2/sr2


def usable_frame(
    ds: xr.Dataset, dither: int, *, name: str = "flux", variances: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (y, x), NaN where DO_NOT_USE, and the sum of variances of one exposure, the only one computed."""
    one = ds[[name, "dq", *variances]].isel(dither=dither).compute(**how())
    image = np.where(dq.any_of(one["dq"].values, "DO_NOT_USE"), np.nan, one[name].values)
    return image, np.asarray(sum(one[key].values for key in variances))


def bin_of(wavelength: np.ndarray) -> np.ndarray:
    """Return the number of the wavelength bin, a float, of wavelengths [um]; integers are lower edges."""
    return np.log(wavelength / FIRST_WAVELENGTH) / LOG_STEP


def bin_centre(number: np.ndarray) -> np.ndarray:
    """Return the wavelength [um] in the middle of bins."""
    return FIRST_WAVELENGTH * np.exp((np.asarray(number) + 0.5) * LOG_STEP)


def check_wcs(ds: xr.Dataset) -> None:
    """Raise where the pixels have no slice coordinates."""
    if ds.attrs.get("level") != "cal":
        found = ds.attrs.get("level") or "a Dataset without level"
        raise MrsxrError(
            f"setting {ds.attrs.get('setting')}: the background is fitted to data of level cal, got {found}"
        )
    missing = [name for name in ("slice", "channel", "alpha", "beta", "wavelength") if name not in ds.coords]
    if missing:
        raise MrsxrError(f"setting {ds.attrs.get('setting')}: no coordinate {', '.join(missing)}; run assign_wcs first")


def make_cells(ds: xr.Dataset, step: float = 1.5) -> Cells:
    """Cut the lit pixels of a setting into cells.

    Parameters
    ----------
    ds : Dataset, level "cal"
    step : float
        Size of a cell along the slice, in widths of a slice.

    Returns
    -------
    Cells, without those that reach over less than about 70 % of their wavelength bin
    """
    labels = ds["slice"].values.ravel()
    alpha, beta, wavelength = (ds[name].values.ravel().astype(np.float64) for name in ("alpha", "beta", "wavelength"))
    pixel = np.flatnonzero(
        (labels > 0) & np.isfinite(alpha) & np.isfinite(wavelength) & (wavelength > FIRST_WAVELENGTH)
    )
    label = labels[pixel].astype(np.int64)
    widths = np.array([1.0, *(SLICE_WIDTH[c] for c in (1, 2, 3, 4))])
    column = np.floor(alpha[pixel] / (step * widths[label // 100]) + 0.5).astype(np.int64)
    place = bin_of(wavelength[pixel])
    number = np.floor(place).astype(np.int64)
    key = (label * 2048 + column + 1024) * 1024 + number
    order = np.argsort(key, kind="stable")
    key, place = key[order], place[order] - number[order] - 0.5
    first = np.flatnonzero(np.diff(key, prepend=-1))
    start = np.append(first, key.size)
    count = np.maximum(np.diff(start), 1)
    off_centre = np.abs(np.add.reduceat(place, first) / count) if key.size else np.zeros(0)
    reach = (np.maximum.reduceat(place, first) - np.minimum.reduceat(place, first)) if key.size else np.zeros(0)
    good = (off_centre < 0.15) & (reach > 0.7)
    kept = np.repeat(good, np.diff(start))
    rows = order[kept]
    first_pixel = pixel[order[first[good]]]
    return Cells(
        pixel[rows], np.append(0, np.cumsum(np.diff(start)[good])), labels[first_pixel] // 100, labels[first_pixel],
        beta[first_pixel], column[order[first[good]]], number[order[first[good]]], alpha, wavelength,
    )  # fmt: skip


def cell_samples(ds: xr.Dataset, dither: int, cells: Cells) -> dict[str, Samples]:
    """Take the robust mean of every cell of one exposure, the only one that is computed.

    Parameters
    ----------
    ds : Dataset, level "cal"
        ``flux`` [MJy/sr], ``var_poisson``, ``var_read``, ``dq``.
    dither : int
        Place along ``dither``, from 0.
    cells : Cells of the setting

    Returns
    -------
    dict of band to Samples
        Pixels DO_NOT_USE, NaN or off the others of their cell (lines, hits) are left out.
    """
    from ._background_match_kernels import cell_means

    frame = usable_frame(ds, dither, variances=("var_poisson", "var_read"))
    flux, var = (one.ravel().astype(np.float64) for one in frame)
    means = cell_means(flux, var, cells.order, cells.start, cells.along, cells.wavelength, _CLIP, _LEAST)
    out = {}
    for band in bands_of_setting(ds.attrs["setting"]):
        c = np.flatnonzero((cells.channel == int(band[0])) & (means[:, 4] > 0) & (means[:, 1] > 0))
        out[band] = Samples(c, means[c, 2], cells.beta[c], means[c, 3], cells.spectral_bin[c], means[c, 0], means[c, 1])
    return out


def lit_pixels(ds: xr.Dataset, band: str) -> xr.Dataset:
    """Return ``flux`` and ``variance`` on the columns of a band, NaN where unusable, and what tells where they lie."""
    ds = ds.isel(x=band_columns(band, ds["x"].values))
    small = [name for name in ("slice", *(v.name for v in WCS_VARIABLES)) if name in ds.variables]
    out = ds[["flux", *small]].assign(ds[small].compute(scheduler="synchronous").variables)
    flux = ds["flux"].variable
    variance: Any = sum(ds[name].variable for name in RANDOM if name in ds)
    good = (out["slice"].variable // 100 == int(band[0])) & ((ds["dq"].variable & dq.DO_NOT_USE) == 0)
    good = (good & np.isfinite(flux) & (variance > 0)).transpose(*flux.dims)
    return out.assign(flux=flux.where(good), variance=variance.where(good))


def places_of(lit: xr.Dataset, band: str, source: tuple[float, float] | None) -> np.ndarray:
    """Return alpha, beta [arcsec] of a source in every exposure, by the pointings."""
    ra, dec = _brightest(lit, band) if source is None else source
    turned = [sky_to_v2v3(ra, dec, Pointing.of(lit, d)) for d in range(lit.sizes["dither"])]
    return np.array([[float(x) for x in v2v3_to_slicer(*place, band, lit)] for place in turned])


def _brightest(lit: xr.Dataset, band: str) -> tuple[Any, Any]:
    """Return the place on the sky of the cell, half an FWHM along a slice, of the highest median of all exposures."""
    labels, flux = lit["slice"].values, lit["flux"].values
    inside = labels // 100 == int(band[0])
    half = 0.5 * psf_fwhm(np.nanmedian(lit["wavelength"].values[inside]))
    most, found = -np.inf, (0, 0.0, 0.0)
    for d in range(lit.sizes["dither"]):
        good = inside & np.isfinite(flux[d])
        alpha, beta = lit["alpha"].values[good], lit["beta"].values[good]
        key = labels[good].astype(int) * 1000 + np.rint(alpha / half).astype(int) + 500
        order = np.argsort(key, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(key[order])) + 1) if order.size else []
        enough = 0.3 * max((len(group) for group in groups), default=0)
        for here in (group for group in groups if len(group) > enough):
            level = float(np.median(flux[d][good][here]))
            if level > most:
                most, found = level, (d, float(alpha[here].mean()), float(beta[here].mean()))
    return slicer_to_sky(*found[1:], band, lit, Pointing.of(lit, found[0]))


def pixels_near(lit: xr.Dataset, place: np.ndarray) -> Pixels:
    """Return the usable pixels near the source of all exposures."""
    labels = lit["slice"].values
    alpha, beta, wave = (lit[name].values.astype(float) for name in ("alpha", "beta", "wavelength"))
    chess = (lit["y"].values[:, None] + lit["x"].values[None, :]) % 2 == 1
    same = (labels[:, :-2] == labels[:, 1:-1]) & (labels[:, 2:] == labels[:, 1:-1])
    columns: list[tuple[np.ndarray, ...]] = []
    for d in range(place.shape[0]):
        flux, variance = (lit[name].values[d].astype(float) for name in ("flux", "variance"))
        good = np.isfinite(flux)
        away = np.hypot(alpha - place[d, 0], beta - place[d, 1]) / psf_fwhm(np.where(good, wave, 10.0))
        beside, spread = np.full(flux.shape, np.nan), np.full(flux.shape, np.nan)
        beside[:, 1:-1] = np.where(same, 0.5 * (flux[:, :-2] + flux[:, 2:]), np.nan)
        spread[:, 1:-1] = 0.25 * (variance[:, :-2] + variance[:, 2:])
        at = good & (away < EDGE)
        near = (one[at] for one in (labels, alpha, beta, wave, flux, variance, beside, spread, chess))
        columns.append((np.full(int(at.sum()), d), *near))
    return Pixels(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))
