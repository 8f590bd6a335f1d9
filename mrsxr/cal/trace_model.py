"""The trace model: the light of a point source on the detector, one model of all slices and dithers of a band."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.arguments import reads
from mrsxr.blocks import as_delayed
from mrsxr.geometry.pixels import band_columns, check_setting, wavelength_span
from mrsxr.geometry.sky import Pointing, sky_to_v2v3, slicer_to_sky, v2v3_to_slicer
from mrsxr.limits import Band, Count, Place, checked
from mrsxr.mrs import PIXEL_LENGTH, psf_fwhm
from mrsxr.schema import RANDOM, WCS_VARIABLES
from mrsxr.scores import gains, score
from mrsxr.traces import Pixels, fit_band
from mrsxr.traces.model import EDGE, N_SPLINE

from ._cells import check_wcs

_FEWEST = 1000  # pixels near the source that a fit needs


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
        Right ascension and declination [deg]; by default the brightest place of all exposures.
    window_rows : int
        Detector rows between the wavelengths at which the profile is free.

    Returns
    -------
    Dataset, kind "trace_model"
        ``place`` (dither, axis): alpha, beta of the source [arcsec]; ``profile`` (node, i, j): coefficients of the
        profile; ``spectrum`` (dither, sample): its peak [MJy/sr]; ``score_trace_model`` and ``used`` (dither,
        slice_label, node): where the model is to be used; nowhere, and the score is NaN, where fewer than 1000 pixels
        near the source are usable, or others shine 1.6 FWHM from it. Some 100 kB; lazy where ``ds`` is.

    Raises
    ------
    MrsxrError
        Where the band is not of the setting, or the data have no coordinates.

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
    check_wcs(ds)
    check_setting(ds, band)
    lit = _lit(ds, band)
    labels = np.unique(lit["slice"].values[lit["slice"].values // 100 == int(band[0])])
    nodes, samples = grids = _grids(lit, band, labels, window_rows)
    n = ds.sizes["dither"]
    shapes = (n, 2), (nodes.size, N_SPLINE, N_SPLINE), (n, samples.size), (n, labels.size, nodes.size)
    found: Any
    if any(one.chunks for one in lit.data_vars.values()):
        later = dask.delayed(_fitted, pure=True, nout=4)(as_delayed(lit), band, source, labels, grids)
        found = [da.from_delayed(one, shape, float) for one, shape in zip(later, shapes, strict=True)]
    else:
        found = _fitted(lit, band, source, labels, grids)
    place, profile, spectrum, judged = found
    dims = ("dither", "slice_label", "node")
    data = {
        "place": (("dither", "axis"), place, {"units": "arcsec", "long_name": "alpha, beta of the source"}),
        "profile": (("node", "i", "j"), profile, {"units": "1"}),
        "spectrum": (("dither", "sample"), spectrum, {"units": "MJy/sr", "long_name": "peak of the source"}),
        "used": (dims, gains(judged), {"units": "1"}),
        **score("trace_model", judged, dims, method="model", instead="pixels", held_out="every second pixel"),
    }
    wave = {"units": "um", "long_name": "wavelength, of the observatory"}
    coords = {"exposure": ds["exposure"], "slice_label": labels, "node": ("node", nodes, wave),
              "sample": ("sample", samples, wave)}  # fmt: skip
    return xr.Dataset(data, coords, {"kind": "trace_model", "band": band, "ref_id": f"trace model of {band}"})


def _lit(ds: xr.Dataset, band: str) -> xr.Dataset:
    """Return ``flux`` and ``variance`` on the columns of a band, NaN where unusable, and what tells where they lie."""
    ds = ds.isel(x=band_columns(band, ds["x"].values))
    small = [name for name in ("slice", *(v.name for v in WCS_VARIABLES)) if name in ds.variables]
    out = ds[["flux", *small]].assign(ds[small].compute(scheduler="synchronous").variables)
    flux = ds["flux"].variable
    variance: Any = sum(ds[name].variable for name in RANDOM if name in ds)
    good = (out["slice"].variable // 100 == int(band[0])) & ((ds["dq"].variable & dq.DO_NOT_USE) == 0)
    good = (good & np.isfinite(flux) & (variance > 0)).transpose(*flux.dims)
    return out.assign(flux=flux.where(good), variance=variance.where(good))


def _grids(lit: xr.Dataset, band: str, labels: np.ndarray, window_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the wavelengths [um] of the nodes of the profile and of the samples of the spectrum."""
    low, high = wavelength_span(lit["slice"].values, lit["y"].values, lit["x"].values, lit, labels)
    step = float(np.mean(PIXEL_LENGTH[band]))
    sizes = round((high - low) / (window_rows * step)) + 1, int(np.ceil((high - low) / step)) + 1
    nodes, samples = (np.linspace(low, high, max(size, 2)) for size in sizes)
    return nodes, samples


def _fitted(lit: xr.Dataset, band: str, source, labels: np.ndarray, grids) -> tuple[np.ndarray, ...]:
    """Return place, profile, spectrum and score; without enough pixels no light, and no score."""
    place = _places(lit, band, source)
    pixels = _pixels(lit, place)
    if pixels.flux.size < _FEWEST:
        nodes, samples = (one.size for one in grids)
        nothing = np.zeros((nodes, N_SPLINE, N_SPLINE)), np.zeros((len(place), samples))
        return place, *nothing, np.full((len(place), labels.size, nodes), np.nan)
    fit, judged = fit_band(pixels, place, labels, *grids)
    return fit.place, fit.profile, fit.spectrum, judged


def _places(lit: xr.Dataset, band: str, source: tuple[float, float] | None) -> np.ndarray:
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


def _pixels(lit: xr.Dataset, place: np.ndarray) -> Pixels:
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
