"""The model of point sources in smooth light: made of cal data and a trace model, and what it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.attributes import of_each
from mrsxr.errors import MrsxrError
from mrsxr.geometry.pixels import check_setting
from mrsxr.geometry.sky import barycentric, slicer_to_v2v3
from mrsxr.mrs import SLICE_WIDTH, SPAXEL_SIZE, psf_fwhm
from mrsxr.notes import tell
from mrsxr.schema import WCS_VARIABLES
from mrsxr.step import made_with
from mrsxr.threads import how, one_blas_thread

from .pixels import gathered, in_box, on_sky, places_of
from .point import _NODES, LOST, PointFit, _linear
from .profile import REACH, PsfImages, apart, profile_at
from .samples import samples_of
from .search import first_right

Places = Sequence[tuple[float, float]]
KIND = "point_source"
OFF = "point_source_off"  # attribute of data, by exposure: the bands whose source was taken off
_FEWEST = 1000  # pixels near the sources
_SHOWN = 0.5  # of the pixels around the sources, which an exposure shows of a wavelength that it has
_NEAR = 0.5  # FWHM, between two sources
_MIXED, _BESIDE = 0.3, 0.4  # error of sources that are not told apart; around one [FWHM]
#: Error of light that no exposure sees, of that light, by whether the PSF was given.
_UNSEEN = {False: 0.1, True: 0.03}
_UNSURE = 0.05  # error by its profile from which on light that no exposure sees, LOST of a source, is not known


@one_blas_thread()
def fit_source(
    lit: xr.Dataset, trace_model: xr.Dataset, around: str, psf: xr.Dataset | None, others: Places = ()
) -> xr.Dataset:
    """Fit point sources and the light around them to all exposures of a band.

    Parameters
    ----------
    lit : Dataset
        Of :func:`mrsxr.traces.pixels.lit_pixels`, in memory.
    trace_model : Dataset, kind "trace_model"
        Tells the band and where its sources are.
    around : {"host", "level"}
    psf : Dataset, kind "psf", optional
    others : sequence of (float, float)
        Right ascension and declination [deg] of further sources.

    Returns
    -------
    Dataset, kind "point_source"; see :func:`mrsxr.cal.fit_point_source`.
    """
    model = trace_model.compute(**how())
    band, place = str(model.attrs["band"]), _places(lit, model, others)
    near = in_box(lit, place, REACH) & (lit["slice"].values // 100 == int(band[0]))
    off = _off(model, lit)
    near &= np.isfinite(off).all(axis=1)[:, None, None]
    pixels = gathered(lit, near)
    if pixels.flux.size < _FEWEST:
        raise MrsxrError(
            f"band {band}: {pixels.flux.size} usable pixels around the source; expected {_FEWEST} at least"
        )
    samples = model["sample"].values
    step = samples[1] - samples[0]
    reached = (np.array([pixels.wavelength.min(), pixels.wavelength.max()]) - samples[0]) / step
    first, last = max(int(np.floor(reached[0])), 0), min(int(np.ceil(reached[1])), samples.size - 1)
    images = None if psf is None else images_of(psf, band)
    lost = _blind(lit, near, samples)
    fit = PointFit(pixels, place, samples[first], step, last + 1 - first, around, lost, images)
    settled = fit.run()
    if not settled:
        tell(_unsettled(band))
    unseen = fit.unseen().min(axis=1)
    measured, unsure = samples_of(fit), _error_by_profile(fit, unseen, settled)
    if (unseen > LOST).any():
        tell(_not_seen(band, unseen, unsure, psf is not None))
    ends = (0, 0), (first, samples.size - 1 - last)
    peak, variance, background, count = (np.pad(np.atleast_2d(x), ends, constant_values=np.nan) for x in measured)
    node = np.rint(fit.node)
    residual = [fit.misfit(node == k) for k in range(fit.gain.shape[1])]
    wave = {"units": "um", "long_name": "wavelength, of the observatory"}
    light, each = {"units": "MJy/sr"}, ("source", "sample")
    data: dict[str, Any] = {
        "place": (
            ("source", "dither", "axis"), fit.place, {"units": "arcsec", "long_name": "alpha, beta of the sources"},
        ),
        "gain": (("dither", "node"), np.where(np.isfinite(off).all(axis=1, keepdims=True), fit.gain, 0.0),
                 {"units": "1", "long_name": "factor of an exposure"}),
        "pointing_off": (("dither", "sky"), off, {"units": "arcsec", "long_name": "error of pointings"}),
        "profile": (("node", "i", "j"), fit.correction, {"units": "1", "long_name": "corrections of the profile"}),
        "spline": (
            ("source", "knot"),
            np.pad(fit.found[:, : len(place)].T, ends),
            light | {"long_name": "peak of a source, cubic splines of a sample"},
        ),
        **_splines_around(fit, ends[1]),
        "peak": (each, peak, light | {"long_name": "peak of a source"}),
        "peak_var": (each, variance, {"units": "MJy2/sr2"}),
        "line_error": (each, np.pad(fit.line_error, ends), light | {"long_name": "error of peak by lines of the host"}),
        "background": (each, background, light | {"long_name": "light around, at a source"}),
        "n_pixels": ("sample", count[0], {"units": "1"}),
        "settled": ((), float(settled), {"units": "1", "long_name": "whether places and profile came to rest"}),
        "psf_error": (("source", "node"), unsure, {"units": "1", "long_name": "error of the light by the profile"}),
        "lost_light": (("source", "node"), unseen, {"units": "1", "long_name": "part of the light no exposure sees"}),
        "residual": ("node", residual, {"units": "1", "long_name": "rms left within 1 FWHM over the peak, no noise"}),
    }  # fmt: skip
    if psf is not None:
        ours = psf.isel(plane=np.flatnonzero(psf["psf_band"].values == band)).reset_coords()
        data |= {str(name): one.variable for name, one in ours.data_vars.items()}
    right = first_right(off)
    sky = np.array([on_sky(one[right], band, lit, right) for one in fit.place]).T
    coords = {
        "exposure": lit["exposure"], "sample": ("sample", samples, wave),
        "node": ("node", np.linspace(samples[first], samples[last], fit.gain.shape[1]), wave),
        "ra": ("source", sky[0], {"units": "deg"}), "dec": ("source", sky[1], {"units": "deg"}),
    }  # fmt: skip
    attrs = {"kind": KIND, "band": band, "around": around, "ref_id": f"point source of {band}", **made_with(psf=psf)}
    attrs |= {OFF: model.attrs[OFF]} if OFF in model.attrs else {}
    return xr.Dataset(data, coords, attrs | {"host_field": [float(x) for x in (fit.half, *fit.splines, *fit.fine)]})


def _off(model: xr.Dataset, ds: xr.Dataset) -> np.ndarray:
    """Return by how much the pointings of exposures are off, by a model (dither, 2); models of old tell none."""
    if "pointing_off" not in model:
        return np.zeros((ds.sizes["dither"], 2))
    off: np.ndarray = model["pointing_off"].values[[dither_of(model, str(name)) for name in ds["exposure"].values]]
    return off


def _blind(lit: xr.Dataset, near: np.ndarray, samples: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    """Return alpha, beta, wavelength of pixels near sources that each exposure lacks at wavelengths that it shows."""
    out, size, from_first = [], samples.size, np.nan_to_num(lit["wavelength"].values - samples[0])
    number = np.clip(np.rint(from_first / (samples[1] - samples[0])).astype(int), 0, size - 1)
    for here, seen in zip(near, np.isfinite(lit["flux"].values), strict=True):
        whole, shown = (np.bincount(number[at], minlength=size) for at in (here, here & seen))
        blind = here & ~seen & (shown > _SHOWN * whole)[number]
        out.append(tuple(lit[name].values[blind].astype(float) for name in ("alpha", "beta", "wavelength")))
    return out


def _splines_around(fit: PointFit, ends: tuple[int, int]) -> dict[str, Any]:
    """Return the splines of the light around; in lines finer ones (else NaN), beside which stars are less."""
    light = {"units": "MJy/sr"}
    tables = {
        "host": ("term", fit.found[:, fit.n_source :], light | {"long_name": "light around, splines"}),
        "line_host": ("line_term", fit.line_host, light | {"long_name": "light around in its lines, splines"}),
        "line_scale": ("source", fit.line_scale, {"units": "1", "long_name": "stars over those beside line_host"}),
    }
    return {
        name: (("knot", dim), np.pad(one, (ends, (0, 0)), constant_values=np.nan), attrs)
        for name, (dim, one, attrs) in tables.items()
    }


def _error_by_profile(fit: PointFit, unseen: np.ndarray, settled: bool) -> np.ndarray:
    """Return the error of the light by its profile, infinite where much is not seen and not told.

    In a host nothing tells light of a core that is not seen from that below it: then by what a finer host changes, too.
    unseen : (source, node), in no exposure.
    """
    unsure = np.hypot(fit.scale_errors(), _UNSEEN[fit.images is not None] * np.clip(unseen, 0.0, 1.0))
    if not settled:  # exposures that do not agree
        left = [fit.misfit(np.rint(fit.node) == k) for k in range(_NODES)]
        unsure = np.hypot(unsure, np.hypot(left, fit.gain[fit.sees].std(axis=0)))
    if fit.around == "host" and (unseen > LOST).any():
        other = replace(fit, around="finer", place=fit.place.copy())
        other.run()
        change = other.light() / np.maximum(fit.light(), 1e-30) - 1.0
        unsure = np.hypot(unsure, np.where(unseen.max(axis=1, keepdims=True) > LOST, change, 0.0))
    unsure_of = unsure > (_UNSURE if settled else 0.0)  # whose place moves yet
    unknown = ((unseen > LOST) & unsure_of).any(axis=1)  # of all, as nodes lean on each other
    mixed = _mixed(fit)
    lost = mixed > _MIXED
    if lost.any():
        numbers = " and ".join(map(str, np.flatnonzero(lost)))
        tell(f"source {numbers}: its light and the PSF of a brighter one are not told apart; its spectrum is NaN")
    return np.where((unknown | lost)[:, None], np.inf, np.hypot(unsure, mixed[:, None]))


def _mixed(fit: PointFit) -> np.ndarray:
    """Return which part of each source may be of the PSF of a brighter one beside it, or the reverse (source).

    One source whose PSF has a bump and two without are alike on the detector: what the PSF is more or less there than
    all around is in doubt.
    """
    light, fwhm, place = fit.light().mean(axis=1), float(np.median(fit.fwhm)), fit.place.mean(axis=1)
    out, turn, node = np.zeros(fit.n_source), np.linspace(0, 2 * np.pi, 72, endpoint=False), (_NODES - 1) // 2
    for s, t in zip(*np.nonzero(light[:, None] < light), strict=True):
        away = (place[s] - place[t]) / fwhm
        radius = np.hypot(*away) + np.linspace(-0.25, 0.25, 5)[:, None]
        u, v = radius * np.cos(turn), radius * np.sin(turn)
        at = np.full(u.size, fit.waves()[node]), np.full(u.size, float(node)), fit.correction, fit.images
        shape = profile_at(u.ravel() * fwhm, v.ravel() * fwhm, *at)[0].reshape(u.shape)
        excess, beside = shape - np.median(shape, axis=1, keepdims=True), np.hypot(u - away[0], v - away[1])
        bump = abs(float(excess[beside < _BESIDE].mean()))
        out[s] = np.hypot(out[s], bump * light[t] / max(light[s], 1e-3 * light[t]))
        if out[s] > _MIXED:  # whose place is not known
            bump = float(np.abs(excess[beside < 2 * _BESIDE]).max())
        out[t] = np.hypot(out[t], bump)
    return out


def place_of(ds: xr.Dataset, model: xr.Dataset, which: int = 0) -> tuple[float, float]:
    """Return right ascension and declination [deg] of a source of a model, by the first exposure."""
    if model.attrs["kind"] == KIND:
        return float(model["ra"][which]), float(model["dec"][which])
    small = [v.name for v in WCS_VARIABLES if v.name in ds]
    ds = ds.assign(ds[small].compute(scheduler="synchronous").variables)
    right = first_right(_off(model, ds))
    return on_sky(_places(ds, model)[which, right], str(model.attrs["band"]), ds, right)


def taken_off(ds: xr.Dataset) -> list[list[str]]:
    """Return the bands of which the source was taken off, of each exposure."""
    return [str(one or "").split() for one in of_each(ds, OFF)]


def marked_off(attrs: Mapping[str, Any], ds: xr.Dataset) -> dict[str, Any]:
    """Return attributes of a model that say what was taken off the data it was fitted to."""
    bands = sorted({band for one in taken_off(ds) for band in one})
    return dict(attrs) | ({OFF: " ".join(bands)} if bands else {})


def require_source(ds: xr.Dataset, model: xr.Dataset) -> None:
    """Raise where the source of a model was taken off an exposure after the model was fitted."""
    band = str(model.attrs.get("band", ""))
    if any(band in one for one in taken_off(ds)) and band not in str(model.attrs.get(OFF, "")).split():
        raise MrsxrError(f"band {band}: the point source of the model was taken off already; fit one to what is left")


def check_model(ds: xr.Dataset, model: xr.Dataset) -> str:
    """Return the band of a model of a source; raise where it is none, or not of the setting and its exposures."""
    kind, band = model.attrs.get("kind"), str(model.attrs.get("band", ""))
    if kind not in ("trace_model", KIND):
        raise MrsxrError(f"expected a trace_model or point_source, got {kind or 'no kind'}; use fit_trace_model")
    check_setting(ds, band)
    for name in ds["exposure"].values:
        dither_of(model, str(name))
    require_source(ds, model)
    return band


def check_which(model: xr.Dataset, others: Places, which: Sequence[int]) -> None:
    """Raise where a source is asked for that a model does not have, or others are told to one that is fitted.

    What is made with a fit that did not settle notes so.
    """
    fitted = model.attrs["kind"] == KIND
    if fitted and not float(model["settled"]):
        tell(_unsettled(str(model.attrs["band"])), aloud=False)  # the fit warned
    if fitted and others:
        raise MrsxrError("others go with a trace model; the point_source given has its sources")
    known = model.sizes["source"] + len(others)
    for one in which:
        if not 0 <= one < known:
            raise MrsxrError(f"source {one} is asked for; the model has {known}, numbered from 0")


def star_on_frame(
    source: xr.Dataset, frame: xr.Dataset, exposure: str, which: Sequence[int] | None = None
) -> np.ndarray:
    """Return the light of sources on the detector (y, x) float32 [MJy/sr], 0 away from them.

    Parameters
    ----------
    source : Dataset, kind "point_source"
    frame : Dataset
        ``slice``, ``alpha``, ``beta``, ``wavelength`` (y, x).
    exposure : str
    which : sequence of int, optional
        Numbers of the sources, by default all.
    """
    from ._trace_kernels import light_at

    band, number = str(source.attrs["band"]), dither_of(source, exposure)
    images, correction = images_of(source, band) if "psf" in source else None, source["profile"].values
    samples, nodes = source["sample"].values, source["node"].values
    out = np.zeros(frame["alpha"].shape, np.float32)
    for one in range(source.sizes["source"]) if which is None else which:
        place = source["place"].values[one, number]
        near = in_box(frame, place[None, None], REACH)[0] & (frame["slice"].values // 100 == int(band[0]))
        a, b, wave = (frame[name].values[near].astype(float) for name in ("alpha", "beta", "wavelength"))
        a, b = a - place[0], b - place[1]
        at = (wave >= nodes[0]) & (wave <= nodes[-1])
        node = (wave - nodes[0]) / (nodes[1] - nodes[0])
        sample = np.clip((wave - samples[0]) / (samples[1] - samples[0]), 0, samples.size - 1)
        star, none = np.empty((1, a.size)), np.zeros(a.size)
        light_at(sample, none, none, 0, 0, source["spline"].values[one][:, None], star, np.empty(a.size))
        shape, _ = profile_at(a, b, wave, node, correction, images)
        gain = _linear(source["gain"].values, np.full(a.size, number), node)
        out[near] += np.where(at, star[0] * shape * gain, 0.0).astype(np.float32)
    return out


def _host_on_frame(source: xr.Dataset, frame: xr.Dataset, exposure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the light around the sources, and by what to divide stars beside it (source), on (y, x)."""
    from ._trace_kernels import light_at

    places, samples = source["place"].values[:, dither_of(source, exposure)], source["sample"].values
    half, *splines = source.attrs["host_field"]
    near = in_box(frame, places[:, None], REACH)[0] & (frame["slice"].values // 100 == int(source.attrs["band"][0]))
    a, b, wave = (frame[name].values[near].astype(float) for name in ("alpha", "beta", "wavelength"))
    x, y = ((one - middle) / half for one, middle in zip((a, b), places.mean(axis=0), strict=True))
    sample = np.clip((wave - samples[0]) / (samples[1] - samples[0]), 0, samples.size - 1)
    knot = np.rint(sample).astype(int) + 1
    out, scale = np.zeros(frame["alpha"].shape), np.ones((len(places), *frame["alpha"].shape))
    light, fine, none = np.empty(a.size), np.empty(a.size), np.empty((0, a.size))
    for values, name, degree, n in ((light, "host", *splines[:2]), (fine, "line_host", *splines[2:])):
        light_at(sample, x, y, int(degree), int(n), source[name].values, none, values)
    out[near] = np.where(np.isfinite(fine), fine, light)
    scale[:, near] = np.where(np.isfinite(fine), source["line_scale"].values[knot].T, 1.0)
    return np.nan_to_num(out), scale


def star_where_used(source: xr.Dataset, frame: xr.Dataset, exposure: str, model: xr.Dataset) -> np.ndarray:
    """Return the model of sources with the light around and its error (2, y, x) where the trace model is to be used.

    Nothing where the light of the sources is not known. The error is that of profile and spectrum.
    """
    wave, out = frame["wavelength"].values, np.zeros((2, *frame["alpha"].shape), np.float32)
    host, scale = _host_on_frame(source, frame, exposure)
    here = np.ones((source.sizes["source"], *wave.shape), bool)
    if "used" in model:
        labels, nodes = model["slice_label"].values, model["node"].values
        used = model["used"].values[:, dither_of(model, exposure)].astype(bool)
        row = np.clip(np.searchsorted(labels, frame["slice"].values), 0, labels.size - 1)
        node = np.clip(np.rint(np.nan_to_num((wave - nodes[0]) / (nodes[1] - nodes[0]))).astype(int), 0, nodes.size - 1)
        here = used[:, row, node] & (labels[row] == frame["slice"].values)
    left = np.interp(wave, source["node"].values, source["residual"].values)
    for k, unsure in enumerate(source["psf_error"].values):
        known = here[k] & (np.isfinite(np.interp(wave, source["node"].values, unsure)))
        light = np.where(known, star_on_frame(source, frame, exposure, [k]) / scale[k], 0.0)
        noise = source["peak_var"].values[k] / source["peak"].values[k] ** 2
        seen = np.isfinite(noise)
        noise = np.interp(wave, source["sample"].values[seen], noise[seen])
        out += np.stack([light, light**2 * (left**2 + noise)]).astype(np.float32)
    out[0] += np.where(out[0] != 0, host, 0.0)
    out[1] = np.sqrt(out[1])
    return out


def dither_of(source: xr.Dataset, exposure: str) -> int:
    """Return the number of an exposure in a model; raise where it is not in it."""
    names = [str(name) for name in source["exposure"].values]
    if str(exposure) not in names:
        raise MrsxrError(f"band {source.attrs['band']}: the model knows no exposure {exposure}; fit it to all of them")
    return names.index(str(exposure))


def images_of(psf: xr.Dataset, band: str) -> PsfImages:
    """Return the images of a PSF of a band, 1 at the brightest place."""
    if not holds(psf, band):
        known = ", ".join(sorted(set(psf["psf_band"].values.tolist())))
        raise MrsxrError(f"band {band}: the PSF is of {known or 'no band'}; take one of that band")
    ours = psf.isel(plane=np.flatnonzero(psf["psf_band"].values == band)).sortby("psf_wavelength").compute(**how())
    images = ours["psf"].values.astype(float)
    return PsfImages(
        ours["psf_wavelength"].values.astype(float), float(ours["psf_step"].values[0]),
        images / images.max(axis=(1, 2), keepdims=True),
    )  # fmt: skip


def holds(psf: xr.Dataset | None, band: str) -> bool:
    """Return whether there is a PSF, and it is of a band."""
    return psf is not None and bool((psf["psf_band"].values == band).any())


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
    alpha, beta = source["place"].values.mean(axis=(0, 1))
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
        places = (matrix @ np.stack([a + i, b + j]) for i in blur[0] for j in blur[1])
        inside = [x * x + y * y < (factor * fwhm) ** 2 for x, y in places]
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


def _places(ds: xr.Dataset, model: xr.Dataset, others: Places = ()) -> np.ndarray:
    """Return alpha, beta of the sources (source, dither, axis): others where they stand from the first on the sky."""
    band = str(model.attrs["band"])
    known = model["place"].values[:, [dither_of(model, str(name)) for name in ds["exposure"].values]]
    if model.attrs["kind"] == KIND:
        return known
    out = list(known)
    if others:
        right = np.flatnonzero(np.abs(_off(model, ds)).sum(axis=1) == 0).tolist() or range(len(known[0]))
        sky = np.array([on_sky(known[0, d], band, ds, d) for d in right])
        turned = np.unwrap(sky[:, 0], period=360).mean() % 360, sky[:, 1].mean()
        out += [known[0] + places_of(ds, band, one) - places_of(ds, band, turned) for one in others]
    fwhm = float(psf_fwhm(model["sample"].values.mean()))
    if check_apart(np.stack(out), fwhm) > REACH * fwhm:
        raise MrsxrError(
            f"others are fitted up to {REACH * fwhm:.1f} arcsec from the source; fit those beyond by themselves"
        )
    return np.stack(out)


def _unsettled(band: str) -> str:
    why = "other light near them, or pointings of exposures that differ by 0.4 arcsec and more"
    return f"band {band}: places or PSF of the sources did not settle ({why}); spectra and what is left are less sure"


def _not_seen(band: str, unseen: np.ndarray, unsure: np.ndarray, given: bool) -> str:
    """Return what is said of sources of whose core no exposure sees enough."""
    most = f"{100 * unseen.max():.0f} % of the light of a source"
    what = f"band {band}: no exposure sees up to {most} (lost, or off the field)"
    known = np.isfinite(unsure)
    if known.all():
        return f"{what}; it is known to {100 * unsure[unseen > LOST].max():.1f} %"
    advice = "" if given else "; give psf= of another star"
    return f"{what}, more than its wings tell: its spectrum is NaN there, and nothing is filled{advice}"


def check_apart(place: np.ndarray, fwhm: float) -> float:
    """Return how far sources (source, dither, axis) stand from the first [arcsec]; raise where two are one."""
    between = apart(place)
    least = float(between[np.triu_indices(len(place), 1)].min(initial=np.inf))
    if least < _NEAR * fwhm:
        raise MrsxrError(f"two sources stand {least:.2g} arcsec apart; they are told apart from {_NEAR} FWHM on")
    return float(between[0].max())
