"""The trace model: the light of a point source on the detector, one model of all slices and dithers of a band."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.arguments import reads
from mrsxr.errors import MrsxrError
from mrsxr.geometry.pixels import check_setting
from mrsxr.geometry.sky import Pointing, sky_to_v2v3, slicer_to_sky, v2v3_to_slicer
from mrsxr.limits import Band, Count, Place, checked
from mrsxr.mrs import PIXEL_LENGTH, psf_fwhm
from mrsxr.schema import RANDOM
from mrsxr.scores import gains, score
from mrsxr.threads import how
from mrsxr.traces.model import EDGE

from ._cells import check_wcs


@reads()
@checked
def fit_trace_model(ds: xr.Dataset, *, band: Band, source: Place | None = None, window_rows: Count = 100) -> xr.Dataset:
    """Fit a model of a bright point source to all exposures and slices of a band at once.

    Parameters
    ----------
    ds : Dataset, level "cal"
        The dithers of a setting: ``flux`` [MJy/sr], variances [MJy2/sr2], ``dq`` and the coordinates of assign_wcs.
    band : str
    source : (float, float), optional
        Right ascension and declination [deg]; by default the brightest place of the first exposure.
    window_rows : int
        Detector rows between the wavelengths at which the profile is free.

    Returns
    -------
    Dataset, kind "trace_model"
        ``place`` (dither, axis): alpha, beta of the source [arcsec]; ``profile`` (node, i, j): coefficients of the
        profile; ``spectrum`` (dither, sample): its peak [MJy/sr]; ``score_trace_model`` and ``used`` (dither,
        slice_label, node): where the model is to be used. In memory; some 100 kB.

    Raises
    ------
    MrsxrError
        Where the band is not of the setting, or no pixel near the source is usable.

    Notes
    -----
    flux = spectrum(dither, wavelength) x profile(alpha - alpha_0, beta - beta_0, wavelength) + a plane of light
    around the source at each wavelength. The profile holds the pixel and the width of the slice. It starts as a
    Moffat function of the FWHM of Law et al. (2023, AJ 166, 45) and is multiplied by B-splines along and across the
    slices, in units of the FWHM, learnt from all slices and dithers and linear in wavelength between nodes; places
    are free in each exposure. Pixels far off the model (hits, bad pixels) count less. The model is judged on every
    second pixel (a chess board), with profile and spectrum from the others: its misfit over that of the mean of the
    two neighbours along the slice, which is what a drizzled cube takes a pixel for. Both are in units of their
    noise, so that a model of noise gains nothing, and two standard errors are added.
    """
    from mrsxr.traces import fit_band

    check_wcs(ds)
    check_setting(ds, band)
    names = [name for name in ("flux", *RANDOM, "dq") if name in ds]
    ds = ds.assign(ds[names].compute(**how()))
    place = _places(ds, band, source)
    pixels, labels = _pixels(ds, band, place)
    if pixels.flux.size < 1000:
        raise MrsxrError(f"band {band}: {pixels.flux.size} usable pixels near the source; expected 1000 at least")
    step = float(np.mean(PIXEL_LENGTH[band]))
    fit, judged = fit_band(pixels, place, labels, window_rows * step, step)
    last = fit.first + fit.step * (fit.n_sample - 1)
    wave = {"units": "um", "long_name": "wavelength, of the observatory"}
    dims = ("dither", "slice_label", "node")
    held_out = "every second pixel"
    found = score("trace_model", judged, dims, method="model", instead="pixels", held_out=held_out)
    data = {
        "place": (("dither", "axis"), fit.place, {"units": "arcsec", "long_name": "alpha, beta of the source"}),
        "profile": (("node", "i", "j"), fit.profile, {"units": "1"}),
        "spectrum": (("dither", "sample"), fit.spectrum, {"units": "MJy/sr", "long_name": "peak of the source"}),
        "used": (dims, gains(judged), {"units": "1"}),
        **found,
    }
    coords = {
        "exposure": ds["exposure"], "slice_label": labels,
        "node": ("node", np.linspace(fit.first, last, fit.n_node), wave),
        "sample": ("sample", np.linspace(fit.first, last, fit.n_sample), wave),
    }  # fmt: skip
    return xr.Dataset(data, coords, {"kind": "trace_model", "band": band, "ref_id": f"trace model of {band}"})


def _places(ds: xr.Dataset, band: str, source: tuple[float, float] | None) -> np.ndarray:
    """Return alpha, beta [arcsec] of a source in every exposure, by the pointings."""
    ra: Any
    dec: Any
    if source is None:
        alpha, beta = _brightest(ds.isel(dither=0), band)
        ra, dec = slicer_to_sky(alpha, beta, band, ds, Pointing.of(ds, 0))
    else:
        ra, dec = source
    turned = [sky_to_v2v3(ra, dec, Pointing.of(ds, d)) for d in range(ds.sizes["dither"])]
    return np.array([[float(x) for x in v2v3_to_slicer(*place, band, ds)] for place in turned])


def _brightest(one: xr.Dataset, band: str) -> tuple[float, float]:
    """Return alpha, beta of the cell, half an FWHM along a slice, of the highest median of an exposure."""
    labels, flux = one["slice"].values, one["flux"].values
    good = (labels // 100 == int(band[0])) & np.isfinite(flux) & ((one["dq"].values & dq.DO_NOT_USE) == 0)
    half = 0.5 * psf_fwhm(np.nanmedian(one["wavelength"].values[good]))
    cell = np.rint(one["alpha"].values[good] / half).astype(int)
    key = labels[good].astype(int) * 1000 + cell + 500
    order = np.argsort(key, kind="stable")
    _, start = np.unique(key[order], return_index=True)
    groups = np.split(flux[good][order], start[1:])
    most = max(len(group) for group in groups)
    best = int(np.argmax([np.median(group) if len(group) > 0.3 * most else -np.inf for group in groups]))
    here = order[start[best] : start[best] + len(groups[best])]
    return float(one["alpha"].values[good][here].mean()), float(one["beta"].values[good][here].mean())


def _pixels(ds: xr.Dataset, band: str, place: np.ndarray):
    """Return the usable pixels near the source of all exposures, and the labels of all slices of the band."""
    from mrsxr.traces.fit import Pixels

    labels = ds["slice"].values
    ours = labels // 100 == int(band[0])
    alpha, beta, wave = (ds[name].values.astype(float) for name in ("alpha", "beta", "wavelength"))
    chess = (ds["y"].values[:, None] + ds["x"].values[None, :]) % 2 == 1
    columns: list[tuple[np.ndarray, ...]] = []
    for d in range(place.shape[0]):
        one = ds.isel(dither=d)
        flux = one["flux"].values.astype(float)
        variance = sum(one[n].values.astype(float) for n in RANDOM if n in one)
        good = ours & np.isfinite(flux) & (variance > 0) & ((one["dq"].values & dq.DO_NOT_USE) == 0)
        away = np.hypot(alpha - place[d, 0], beta - place[d, 1]) / psf_fwhm(np.where(ours, wave, 10.0))
        flux, variance = np.where(good, flux, np.nan), np.where(good, variance, np.nan)
        beside, spread = np.full(flux.shape, np.nan), np.full(flux.shape, np.nan)
        same = (labels[:, :-2] == labels[:, 1:-1]) & (labels[:, 2:] == labels[:, 1:-1])
        beside[:, 1:-1] = np.where(same, 0.5 * (flux[:, :-2] + flux[:, 2:]), np.nan)
        spread[:, 1:-1] = 0.25 * (variance[:, :-2] + variance[:, 2:])
        at = good & (away < EDGE)
        columns.append((np.full(int(at.sum()), d), *(a[at] for a in (labels, alpha, beta, wave, flux, variance, beside,
                                                                   spread, chess))))  # fmt: skip
    return Pixels(*(np.concatenate(parts) for parts in zip(*columns, strict=True))), np.unique(labels[ours])
