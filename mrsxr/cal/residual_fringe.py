"""Step residual_fringe: divide by the fringes that the fringe flat leaves, column by column or slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr.attributes import require_done
from mrsxr.blocks import map_ramps
from mrsxr.errors import MrsxrError, ReferenceFileError
from mrsxr.fringes import Method, correct_frames
from mrsxr.geometry.frame import frame_coordinate
from mrsxr.limits import Interval, NotNegative, Ref
from mrsxr.schema import RANDOM, variances_of
from mrsxr.scores import score
from mrsxr.step import step

NEEDED = ("ffreq", "dffreq", "max_nfringes", "min_snr", "min_nfringes", "max_amplitude")
LEAST_PERIODS = 5.0


@step(needs=("rate", "cal"), jwst="residual_fringe", keyword="S_RESFRI", once="residual_fringe")
def correct_residual_fringe(
    ds: xr.Dataset,
    *,
    fringefreq: Ref,
    ignore_regions: Sequence[Interval] | None = None,
    method: Method = "columns",
    snr_share: NotNegative = 0.1,
) -> xr.Dataset:
    """Fit the fringes that are left in each column (spectrum along y) of each slice, and divide by them.

    Parameters
    ----------
    ds : Dataset, level "cal" or "rate"
        ``flux`` [MJy/sr] or ``rate`` [DN/s], its variances, ``dq`` (dither, y, x), after the fringe flat; coordinates
        ``slice``, ``wavelength`` [um] and ``alpha`` [arcsec] (y, x).
    fringefreq : Dataset, kind "fringefreq"
        ``ffreq``, ``dffreq`` [1/cm] (period of a family of fringes and the range to search), ``max_nfringes``,
        ``min_snr`` on (band, slice_label, family), ``min_nfringes`` (band, slice_label), ``max_amplitude``
        (wavelength [um]). PGRAM_RES has no use: peaks of the periodogram are refined continuously.
    ignore_regions : sequence of (minimum, maximum) [um], optional
        Wavelengths to leave out of the fits; they are corrected all the same.
    method : str
        "columns": jwst's algorithm. Each column by itself: spectral features masked, spline continuum with a knot a
        period, sines added while the evidence rises by a factor of 10, beats above twice ``max_amplitude`` rejected;
        the first sine is always taken.
        "slices": the columns of a slice together; amplitude and phase of the fringes vary smoothly along and across
        them, each place is predicted from what lies more than a period away, and cross-validation chooses how
        smoothly, and whether a column gets anything.
    snr_share : float
        With "slices": columns below this share of ``min_snr`` stay as they are (with "columns" below ``min_snr``).

    Returns
    -------
    Dataset of the same level
        Data corrected; columns that are faint, have less than five periods or less than 51 good pixels stay as they
        are. Flags and the variances of the input are unchanged, as in jwst; "slices" adds the variance of the fitted
        fringes to ``var_fringe`` (units of var_poisson), which neighbouring pixels share, and ``score_residual_fringe``
        (dither, slice_label): the misfit with over that without them where they are predicted from elsewhere. Slices
        where it is not below 1 stay as they are.

    Raises
    ------
    MrsxrError
        Where the method or a region is wrong, the fringe flat was not divided, assign_wcs did not run, or the step
        was done before.
    ReferenceFileError
        Where fringefreq is missing, of another detector, or lacks the band or a variable.

    Notes
    -----
    Reference-file type FRINGEFREQ. Baseline: ``ResidualFringeCorrection`` of jwst; Kavanagh et al., Gasman et al. 2023
    (A&A 673, A102) on fringes of point sources.

    Examples
    --------
    >>> out = mx.cal.correct_residual_fringe(cal, fringefreq=refs.get("fringefreq", cal), method="slices")
    """
    regions = _check(ds, ignore_regions)
    families, labels, limits = _families(ds, fringefreq)
    name = "flux" if "flux" in ds else "rate"
    bands = _channel_chunks(ds)
    planes = [ds[v].variable for v in variances_of(ds, RANDOM)]
    variance = xr.DataArray(sum(planes[1:], planes[0]))
    inputs = [xr.DataArray(ds[n].variable) for n in (name, "dq")] + [variance]
    inputs = [a.chunk({"y": -1, "x": bands}) if a.chunks else a for a in inputs]
    inputs += [frame_coordinate(ds, n) for n in ("slice", "wavelength", "alpha")]
    if any(a.chunks for a in inputs):
        inputs[3:] = [a.chunk({"y": -1, "x": bands}) for a in inputs[3:]]
    out, added, judged = map_ramps(
        correct_frames, *inputs, core=[[]] * 6, out_core=[[]] * 3, dtypes=["float32"] * 3,
        families=families, family_labels=labels, limits=limits, method=method, ignore=regions,
        snr_share=float(snr_share),
    )  # fmt: skip
    changed = {name: _like(out, ds[name])}
    if method == "slices":
        extra = _like(added, ds.var_poisson)
        changed["var_fringe"] = extra if "var_fringe" not in ds else (ds.var_fringe.variable + extra)
        changed["var_fringe"].attrs = dict(ds.var_poisson.attrs)
        changed |= score(
            "residual_fringe", *_of_slices(judged, ds), method=method, instead="none", held_out="places left out"
        )
    return ds.assign(changed)


def _of_slices(judged: xr.DataArray, ds: xr.Dataset) -> tuple[da.Array, tuple[str, str]]:
    """Return the scores (dither, slice_label) of an image that holds that of its slice in each pixel, and the dims."""
    labels = ds["slice"].values
    known = ds["slice_label"].values if "slice_label" in ds.coords else np.unique(labels[labels > 0])
    first = [np.argmax(labels.ravel() == label) for label in known]  # of a slice without pixels: that of none
    y, x = (xr.DataArray(at, dims="slice_label") for at in np.unravel_index(first, labels.shape))
    return judged.isel(y=y, x=x).transpose("dither", "slice_label").data, ("dither", "slice_label")


def _check(ds: xr.Dataset, regions: Any) -> tuple[tuple[float, float], ...]:
    setting = ds.attrs.get("setting", "unknown setting")
    found = tuple((float(pair[0]), float(pair[1])) for pair in regions or ())
    if any(name not in ds.coords for name in ("slice", "wavelength", "alpha")):
        raise MrsxrError(f"setting {setting}: residual_fringe needs slices and wavelengths; run assign_wcs before")
    require_done(ds, "fringe_flat", "run divide_fringe_flat before residual_fringe")
    return found


def _families(ds: xr.Dataset, fringefreq: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return families (label, family, 5), their slices and the limits (2, n) of the amplitude."""
    setting = ds.attrs.get("setting", "unknown setting")
    label = f"fringefreq reference {fringefreq.attrs.get('ref_id', '')}".rstrip()
    missing = [n for n in NEEDED if n not in fringefreq]
    if missing:
        raise ReferenceFileError(f"{label} has no '{missing[0]}'; expected a reference of kind fringefreq")
    band = ds.attrs["band"]
    if band not in fringefreq.band.values:
        raise ReferenceFileError(f"{label} has no band {band} (setting {setting}); found {fringefreq.band.values}")
    here = fringefreq.sel(band=band).transpose("slice_label", "family", ...)
    labels = here.slice_label.values.astype(np.int64)
    slices = np.unique(ds["slice"].values)
    slices = slices[slices > 0]
    if slices.size and not np.isin(slices, labels).any():
        raise ReferenceFileError(f"{label} has none of the slices of setting {setting}; is it of the other detector?")
    columns = [here[n].values for n in ("ffreq", "dffreq", "max_nfringes", "min_snr")]
    least = np.fmax(here.min_nfringes.values, LEAST_PERIODS)[:, None]
    families = np.stack([*columns, np.broadcast_to(least, columns[0].shape)], axis=-1).astype(np.float64)
    limits = np.stack([fringefreq.wavelength.values, fringefreq.max_amplitude.values]).astype(np.float64)
    return np.nan_to_num(families, nan=0.0), labels, limits[:, np.argsort(limits[0])]


def _channel_chunks(ds: xr.Dataset) -> tuple[int, ...]:
    """Return chunks along x that cut the frame between its two channels, where no slice is."""
    empty = np.nonzero(~(ds["slice"].values > 0).any(axis=0))[0]
    n = ds.sizes["x"]
    if empty.size == 0:
        return (n,)
    cut = int(empty[np.argmin(np.abs(empty - n // 2))])
    return (cut, n - cut) if 0 < cut < n else (n,)


def _like(found: xr.DataArray, old: xr.DataArray) -> xr.Variable:
    """Return values as a variable with the attrs and chunks of the old."""
    out = found.variable
    out.attrs = dict(old.attrs)
    return out.chunk(dict(zip(old.dims, old.chunks, strict=True))) if old.chunks else out
