"""The model of a point source in smooth light: made of cal data and a trace model, and what it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.errors import MrsxrError
from mrsxr.geometry.pixels import check_setting
from mrsxr.geometry.sky import Pointing, barycentric, slicer_to_sky, slicer_to_v2v3
from mrsxr.mrs import SLICE_WIDTH, SPAXEL_SIZE, psf_fwhm
from mrsxr.schema import RANDOM, VARIANCES, WCS_VARIABLES
from mrsxr.threads import how

from .point import REACH, BoxPixels, PointFit, PsfImages, _linear, profile_at

KIND = "point_source"
_LEAST = 0.05  # of the usual weight of a sample
_HELD = 50.0  # samples that hold the smooth light of one


def fit_source(ds: xr.Dataset, trace_model: xr.Dataset, around: str, psf: xr.Dataset | None = None) -> xr.Dataset:
    """Fit a point source and the light around it to all exposures of a band.

    Parameters
    ----------
    ds : Dataset, level "cal", in memory
    trace_model : Dataset, kind "trace_model"
        Tells the band and where the source is.
    around : {"host", "level"}
    psf : Dataset, kind "psf", optional

    Returns
    -------
    Dataset, kind "point_source"; see :func:`mrsxr.cal.fit_point_source`.
    """
    model = trace_model.compute(**how())
    band, place = str(model.attrs["band"]), _places(ds, model)
    pixels = _box(ds, band, place)
    samples = model["sample"].values
    step = samples[1] - samples[0]
    reached = (np.array([pixels.wavelength.min(), pixels.wavelength.max()]) - samples[0]) / step
    first, last = max(int(np.floor(reached[0])), 0), min(int(np.ceil(reached[1])), samples.size - 1)
    images = None if psf is None else images_of(psf, band)
    fit = PointFit(pixels, place, samples[first], step, last + 1 - first, around, images)
    fit.run()
    ends = (first, samples.size - 1 - last)
    peak, variance, background, count = (np.pad(x, ends, constant_values=np.nan) for x in _samples(fit))
    node = np.rint(fit.node)
    residual = [fit.misfit(node == k) for k in range(fit.gain.shape[1])]
    wave = {"units": "um", "long_name": "wavelength, of the observatory"}
    light = {"units": "MJy/sr"}
    data: dict[str, Any] = {
        "place": (("dither", "axis"), fit.place, {"units": "arcsec", "long_name": "alpha, beta of the source"}),
        "gain": (("dither", "node"), fit.gain, {"units": "1", "long_name": "factor of an exposure"}),
        "profile": (("node", "i", "j"), fit.correction, {"units": "1", "long_name": "corrections of the profile"}),
        "spline": (
            "knot",
            np.pad(fit.found[:, 0], ends),
            light | {"long_name": "peak of the source, cubic splines of a sample"},
        ),
        "peak": ("sample", peak, light | {"long_name": "peak of the source"}),
        "peak_var": ("sample", variance, {"units": "MJy2/sr2"}),
        "background": ("sample", background, light | {"long_name": "light around, at the source"}),
        "n_pixels": ("sample", count, {"units": "1"}),
        "residual": ("node", residual, {"units": "1", "long_name": "rms left within 1 FWHM over the peak, no noise"}),
    }
    if psf is not None:
        ours = psf.isel(plane=np.flatnonzero(psf["psf_band"].values == band)).reset_coords()
        data |= {str(name): one.variable for name, one in ours.data_vars.items()}
    coords = {
        "exposure": ds["exposure"], "sample": ("sample", samples, wave),
        "node": ("node", np.linspace(samples[first], samples[last], fit.gain.shape[1]), wave),
    }  # fmt: skip
    attrs = {"kind": KIND, "band": band, "around": around, "ref_id": f"point source of {band}"}
    out = xr.Dataset(data, coords, attrs)
    return out.assign_attrs(dict(zip(("ra", "dec"), place_of(ds, out), strict=True)))


def place_of(ds: xr.Dataset, model: xr.Dataset) -> tuple[float, float]:
    """Return right ascension and declination [deg] of the source of a model, by the first exposure."""
    alpha, beta = _places(ds, model)[0]
    small = [v.name for v in WCS_VARIABLES if v.name in ds]
    ds = ds.assign(ds[small].compute(scheduler="synchronous").variables)
    ra, dec = slicer_to_sky(alpha, beta, str(model.attrs["band"]), ds, Pointing.of(ds, 0))
    return float(ra), float(dec)


def needed(ds: xr.Dataset) -> xr.Dataset:
    """Return cal data without what the fit does not look at."""
    return ds.drop_vars([name for name in (*VARIANCES, "pixel_area") if name in ds and name not in RANDOM])


def check_model(ds: xr.Dataset, model: xr.Dataset) -> str:
    """Return the band of a model of a source; raise where it is none, or not of the setting and its exposures."""
    kind, band = model.attrs.get("kind"), str(model.attrs.get("band", ""))
    if kind not in ("trace_model", KIND):
        raise MrsxrError(f"expected a trace_model or point_source, got {kind or 'no kind'}; use fit_trace_model")
    check_setting(ds, band)
    for name in ds["exposure"].values:
        dither_of(model, str(name))
    return band


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
    at = (wave >= nodes[0]) & (wave <= nodes[-1])
    node = (wave - nodes[0]) / (nodes[1] - nodes[0])
    found = np.zeros((source.sizes["knot"], 5))
    found[:, 0] = source["spline"].values
    star, none = np.empty(a.size), np.empty(a.size)
    light_at(np.clip(sample, 0, samples.size - 1), 0 * a, 0 * a, 1, 1, found, star, none)
    shape, _ = profile_at(
        a, b, wave, node, source["profile"].values, images_of(source, band) if "psf" in source else None
    )
    gain = _linear(source["gain"].values, np.full(a.size, number), node)
    out[near] = np.where(at, star * shape * gain, 0.0)
    return out


def star_where_used(source: xr.Dataset, frame: xr.Dataset, exposure: str, model: xr.Dataset) -> np.ndarray:
    """Return :func:`star_on_frame` where the trace model is to be used, 0 elsewhere."""
    if "used" not in model:
        return star_on_frame(source, frame, exposure)
    labels, nodes = model["slice_label"].values, model["node"].values
    used = model["used"].values[dither_of(model, exposure)].astype(bool)
    row = np.clip(np.searchsorted(labels, frame["slice"].values), 0, labels.size - 1)
    node = np.nan_to_num((frame["wavelength"].values - nodes[0]) / (nodes[1] - nodes[0]))
    here = used[row, np.clip(np.rint(node).astype(int), 0, nodes.size - 1)] & (labels[row] == frame["slice"].values)
    return np.where(here, star_on_frame(source, frame, exposure), np.float32(0))


def dither_of(source: xr.Dataset, exposure: str) -> int:
    """Return the number of an exposure in a model; raise where it is not in it."""
    names = [str(name) for name in source["exposure"].values]
    if str(exposure) not in names:
        raise MrsxrError(f"band {source.attrs['band']}: the model knows no exposure {exposure}; fit it to all of them")
    return names.index(str(exposure))


def images_of(psf: xr.Dataset, band: str) -> PsfImages:
    """Return the images of a PSF of a band, 1 at the brightest place."""
    at = np.flatnonzero(psf["psf_band"].values == band)
    if not at.size:
        known = ", ".join(sorted(set(psf["psf_band"].values.tolist())))
        raise MrsxrError(f"band {band}: the PSF is of {known or 'no band'}; take one of that band")
    images = psf["psf"].values[at].astype(float)
    order = np.argsort(psf["psf_wavelength"].values[at])
    images = (images / images.max(axis=(1, 2), keepdims=True))[order]
    return PsfImages(
        psf["psf_wavelength"].values[at][order].astype(float), float(psf["psf_step"].values[at[0]]), images
    )


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
    images = images_of(source, band) if "psf" in source else None
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
    number = fit.number
    (x, y, *_), lines = fit.field(), np.append(fit.smooth[1:-2], fit.smooth[-1])[:n] <= _LINE
    if fit.around == "level":
        lines[:] = False
    peak, variance = np.full(n, np.nan), np.full(n, np.nan)
    totals = np.bincount(number, weight * shape**2, n)
    usual = np.median(totals)
    noise = np.bincount(number, weight**2 * p.variance * shape**2, n) / np.maximum(totals, 1e-30) ** 2
    flux = p.flux - fit.host - _slope(spectrum, noise)[number] * (fit.star * fit.shape - spectrum[number] * shape)
    for k, at in enumerate(fit.parts):
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
