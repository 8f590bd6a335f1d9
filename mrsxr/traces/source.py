"""The model of a point source in smooth light: made of cal data and a trace model, and what it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.errors import MrsxrError
from mrsxr.geometry.sky import Pointing, barycentric, slicer_to_sky, slicer_to_v2v3
from mrsxr.mrs import PIXEL_LENGTH, SLICE_WIDTH, SPAXEL_SIZE, psf_fwhm
from mrsxr.schema import RANDOM

from .point import REACH, BoxPixels, PointFit, PsfImages, _linear, profile_at

KIND = "point_source"
#: What of cal data the fit looks at.
NAMES = ("flux", *RANDOM, "dq")
_LEAST = 0.05  # of the usual weight of a sample
_HELD = 50.0  # samples that hold the smooth light of one


def fit_source(ds: xr.Dataset, model: xr.Dataset, around: str, psf: xr.Dataset | None = None) -> xr.Dataset:
    """Fit a point source and the light around it to all exposures of a band.

    Parameters
    ----------
    ds : Dataset, level "cal", in memory
    model : Dataset, kind "trace_model"
        Tells the band and where the source is.
    around : {"host", "level"}
    psf : Dataset, kind "psf", optional

    Returns
    -------
    Dataset, kind "point_source"; see :func:`mrsxr.cal.fit_point_source`.
    """
    band, place = str(model.attrs["band"]), _places(ds, model)
    pixels = _box(ds, band, place)
    low, high = float(pixels.wavelength.min()), float(pixels.wavelength.max())
    n_sample = max(int(np.ceil((high - low) / float(np.mean(PIXEL_LENGTH[band])))) + 1, 8)
    images = None if psf is None else images_of(psf)
    fit = PointFit(pixels, place, low, (high - low) / (n_sample - 1), n_sample, around, images)
    fit.run()
    peak, variance, background, count = _samples(fit)
    middle = fit.offsets()
    near = np.hypot(*middle) < fit.fwhm
    rest = ((pixels.flux - fit.model()) ** 2 - pixels.variance)[near] / np.maximum(fit.star[near], 1e-30) ** 2
    node = np.rint(fit.node[near]).astype(int)
    residual = [np.sqrt(max(float(np.median(rest[node == k])) / 0.455, 0.0)) for k in range(fit.gain.shape[1])]
    ra, dec = slicer_to_sky(place[0, 0], place[0, 1], band, ds, Pointing.of(ds, 0))
    wave = {"units": "um", "long_name": "wavelength, of the observatory"}
    light = {"units": "MJy/sr"}
    data: dict[str, Any] = {
        "place": (("dither", "axis"), fit.place, {"units": "arcsec", "long_name": "alpha, beta of the source"}),
        "gain": (("dither", "node"), fit.gain, {"units": "1", "long_name": "factor of an exposure"}),
        "profile": (("node", "i", "j"), fit.correction, {"units": "1", "long_name": "corrections of the profile"}),
        "spline": ("knot", fit.found[:, 0], light | {"long_name": "peak of the source, cubic splines of a sample"}),
        "peak": ("sample", peak, light | {"long_name": "peak of the source"}),
        "peak_var": ("sample", variance, {"units": "MJy2/sr2"}),
        "background": ("sample", background, light | {"long_name": "light around, at the source"}),
        "n_pixels": ("sample", count, {"units": "1"}),
        "residual": ("node", residual, {"units": "1", "long_name": "rms left within 1 FWHM over the peak, no noise"}),
    }
    if psf is not None:
        data["psf"] = psf["psf"].rename(wavelength="psf_wavelength")
    coords = {
        "exposure": ds["exposure"], "node": ("node", np.linspace(low, high, fit.gain.shape[1]), wave),
        "sample": ("sample", low + fit.step * np.arange(n_sample), wave),
    }  # fmt: skip
    attrs = {"kind": KIND, "band": band, "around": around, "ra": float(ra), "dec": float(dec),
             "ref_id": f"point source of {band}"}  # fmt: skip
    return xr.Dataset(data, coords, attrs)


def star_on_frame(source: xr.Dataset, frame: xr.Dataset, exposure: str) -> np.ndarray:
    """Return the light of the source on the detector (y, x) float32 [MJy/sr], 0 away from it.

    Parameters
    ----------
    source : Dataset, kind "point_source"
    frame : Dataset
        ``slice``, ``alpha``, ``beta``, ``wavelength`` (y, x).
    exposure : str
    """
    from ._point_kernels import light_at

    band = str(source.attrs["band"])
    number = dither_of(source, exposure)
    alpha, beta = (float(x) for x in source["place"].values[number])
    a, b, wave = frame["alpha"].values - alpha, frame["beta"].values - beta, frame["wavelength"].values
    out = np.zeros(a.shape, np.float32)
    near = _within(frame["slice"].values, band, a, b, wave)
    a, b, wave = (np.ascontiguousarray(x[near], float) for x in (a, b, wave))
    samples, nodes = source["sample"].values, source["node"].values
    sample = (wave - samples[0]) / (samples[1] - samples[0])
    at = (sample >= 0) & (sample <= samples.size - 1)
    node = (wave - nodes[0]) / (nodes[1] - nodes[0])
    found = np.zeros((source.sizes["knot"], 5))
    found[:, 0] = source["spline"].values
    star, none = np.empty(a.size), np.empty(a.size)
    light_at(np.clip(sample, 0, samples.size - 1), 0 * a, 0 * a, 1, 1, found, star, none)
    shape, _ = profile_at(a, b, wave, node, source["profile"].values, images_of(source) if "psf" in source else None)
    gain = _linear(source["gain"].values, np.full(a.size, number), node)
    out[near] = np.where(at, star * shape * gain, 0.0)
    return out


def dither_of(source: xr.Dataset, exposure: str) -> int:
    """Return the number of an exposure in a model; raise where it is not in it."""
    names = [str(name) for name in source["exposure"].values]
    if str(exposure) not in names:
        raise MrsxrError(f"band {source.attrs['band']}: the model knows no exposure {exposure}; fit it to all of them")
    return names.index(str(exposure))


def images_of(psf: xr.Dataset) -> PsfImages:
    """Return the images of a PSF, 1 at the brightest place."""
    name = "psf_wavelength" if "psf_wavelength" in psf.dims else "wavelength"
    images = psf["psf"].values.astype(float)
    step = float(np.mean(np.diff(psf["psf_alpha"].values)))
    return PsfImages(psf[name].values.astype(float), step, images / images.max(axis=(1, 2), keepdims=True))


def encircled(source: xr.Dataset, ds: xr.Dataset, wavelength: np.ndarray, factor: float) -> tuple[np.ndarray, ...]:
    """Return the light of the source within circles on the sky, in units of its peak, and the radii.

    The circles are those of a cube, in which the light of a pixel is spread over its area and that of a spaxel.

    Parameters
    ----------
    source : Dataset, kind "point_source"
    ds : Dataset, level "cal"
    wavelength : float64 array [um], of the observatory
    factor : float
        Radius in units of the FWHM, at most ``REACH``.

    Returns
    -------
    light : float64 array [arcsec2]
    radius : float64 array [arcsec]
    """
    nodes, band = source["node"].values, str(source.attrs["band"])
    images = images_of(source) if "psf" in source else None
    alpha, beta = source["place"].values.mean(axis=0)
    v2, v3 = slicer_to_v2v3(alpha + np.array([0, 1e-3, 0]), beta + np.array([0, 0, 1e-3]), band, ds)
    matrix = np.array([[v[1] - v[0], v[2] - v[0]] for v in (v2, v3)]) / 1e-3
    spaxel, width = SPAXEL_SIZE[int(band[0])], SLICE_WIDTH[int(band[0])]
    pixel = float(np.nanmedian(np.abs(np.diff(ds["alpha"].values[ds.sizes["y"] // 2]))))
    blur = [np.hypot(side, spaxel) * (np.arange(4) - 1.5) / 4 for side in (pixel, width)]
    waves = np.linspace(nodes[0], nodes[-1], 9)
    light = []
    for wave in waves:
        fwhm = float(psf_fwhm(wave))
        unit = (np.arange(-120, 120) + 0.5) / 120 * (factor * fwhm + 0.5 * max(pixel, width) + spaxel)
        a, b = (x.ravel() for x in np.meshgrid(unit, unit, indexing="ij"))
        inside = [np.hypot(*(matrix @ np.stack([a + i, b + j]))) < factor * fwhm for i in blur[0] for j in blur[1]]
        node = np.full(a.size, (wave - nodes[0]) / (nodes[1] - nodes[0]))
        shape, _ = profile_at(a, b, np.full(a.size, wave), node, source["profile"].values, images)
        area = abs(np.linalg.det(matrix)) * (unit[1] - unit[0]) ** 2
        light.append((shape * np.mean(inside, axis=0)).sum() * area / fwhm**2)
    fwhm = psf_fwhm(wavelength)
    return np.interp(wavelength, waves, light) * fwhm**2, factor * fwhm


def of_barycentre(wavelength: np.ndarray, ds: xr.Dataset) -> np.ndarray:
    """Return wavelengths of the observatory as the barycentre has them, by the mean velocity of the exposures."""
    velosys = ds["velosys"].values
    return barycentric(wavelength, float(velosys[np.isfinite(velosys)].mean()) if np.isfinite(velosys).any() else None)


def _places(ds: xr.Dataset, model: xr.Dataset) -> np.ndarray:
    return np.array([model["place"].values[dither_of(model, str(name))] for name in ds["exposure"].values])


def _within(labels: np.ndarray, band: str, a, b, wavelength) -> np.ndarray:
    """Return which pixels lie in the box around the source."""
    ours = labels // 100 == int(band[0])
    reach = REACH * psf_fwhm(np.where(ours, wavelength, 1.0))
    return ours & (np.abs(a) < reach) & (np.abs(b) < reach)


def _box(ds: xr.Dataset, band: str, place: np.ndarray) -> BoxPixels:
    """Return the usable pixels around the source of all exposures."""
    alpha, beta, wave = (ds[name].values.astype(float) for name in ("alpha", "beta", "wavelength"))
    columns: list[tuple[np.ndarray, ...]] = []
    for d in range(place.shape[0]):
        one = ds.isel(dither=d)
        flux = one["flux"].values.astype(float)
        variance = np.sum([one[n].values.astype(float) for n in RANDOM if n in one], axis=0)
        good = np.isfinite(flux) & (variance > 0) & ((one["dq"].values & dq.DO_NOT_USE) == 0)
        at = good & _within(ds["slice"].values, band, alpha - place[d, 0], beta - place[d, 1], wave)
        columns.append((np.full(int(at.sum()), d), *(x[at] for x in (alpha, beta, wave, flux, variance))))
    pixels = BoxPixels(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))
    if pixels.flux.size < 1000:
        raise MrsxrError(f"band {band}: {pixels.flux.size} usable pixels around the source; expected 1000 at least")
    return pixels


def _samples(fit: PointFit) -> tuple[np.ndarray, ...]:
    """Return peak of the source, its variance, light around it and number of pixels, of every sample by its own pixels.

    A sample rests on the pixels nearest to it; that these lie at other wavelengths is made up for by the fitted
    spectrum.
    """
    from ._point_kernels import host_splines, light_at
    from .point import _FINE, _LINE, AROUND

    p, n = fit.pixels, fit.n_sample
    at_nodes = [np.empty(n), np.empty(n)]
    light_at(np.arange(n) * 1.0, np.zeros(n), np.zeros(n), *AROUND[fit.around], fit.found, *at_nodes)
    spectrum, host = at_nodes
    shape, weight = fit.shape * fit.gains(), fit.weights()
    number = np.clip(np.rint(fit.sample).astype(int), 0, n - 1)
    order = np.argsort(number, kind="stable")
    parts = np.split(order, np.searchsorted(number[order], np.arange(1, n)))
    (x, y, *_), lines = fit.field(), np.append(fit.smooth[1:-2], fit.smooth[-1])[:n] <= _LINE
    if fit.around == "level":
        lines[:] = False
    peak, variance = np.full(n, np.nan), np.full(n, np.nan)
    totals = np.bincount(number, weight * shape**2, n)
    usual = np.median(totals)
    noise = np.bincount(number, weight**2 * p.variance * shape**2, n) / np.maximum(totals, 1e-30) ** 2
    flux = p.flux - fit.host - _slope(spectrum, noise)[number] * (fit.star * fit.shape - spectrum[number] * shape)
    for k, at in enumerate(parts):
        total = float(totals[k])
        if total < _LEAST * usual:
            continue
        degree, m = _FINE if lines[k] else AROUND[fit.around]
        splines = np.zeros((at.size, (m + degree) ** 2))
        host_splines(x[at], y[at], degree, m, splines)
        cross = (weight[at] * shape[at]) @ splines
        normal = splines.T @ (splines * weight[at, None]) * (1.0 if lines[k] else _HELD)
        normal[np.diag_indices(len(normal))] += 1e-3 * np.median(np.diag(normal)) + 1e-30
        share = float(cross @ np.linalg.solve(normal, cross)) / total
        peak[k] = (weight[at] * shape[at] * flux[at]).sum() / total
        variance[k] = noise[k] / max(1.0 - share, 1e-3)
    return peak, variance, host, np.bincount(number, minlength=n).astype(float)


def _slope(spectrum: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return which part of the change of a spectrum from sample to sample is no noise."""
    change = np.convolve(np.pad(np.diff(spectrum) ** 2, 1, mode="edge"), np.ones(4) / 4, "same")[:-1]
    return np.clip(1.0 - 2.0 * noise / np.maximum(change, 1e-30), 0.0, 1.0)
