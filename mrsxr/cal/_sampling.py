"""What the exposures of a setting hold, with coordinates: usable pixels, robust means of cells.

A cell is a small part of the detector by slice, place along it and wavelength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.errors import MrsxrError
from mrsxr.mrs import SLICE_WIDTH, bands_of_setting
from mrsxr.threads import how

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
