"""Exposures and bands tied to one place: where each has the source, by the trace model, and pointings moved there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.attributes import set_each
from mrsxr.errors import MrsxrError
from mrsxr.geometry.detector import band_index
from mrsxr.geometry.sky import Pointing, sky_to_v2v3, slicer_to_v2v3, tangent_frame, tangent_offsets, tangent_to_sky
from mrsxr.limits import OptionalRefs, Place, Range, checked
from mrsxr.mrs import BANDS, PIXEL_LENGTH
from mrsxr.notes import tell
from mrsxr.schema import WCS_VARIABLES
from mrsxr.step import made_with, step
from mrsxr.threads import how, one_blas_thread
from mrsxr.traces.fit import Fit
from mrsxr.traces.model import EDGE, trace_profile
from mrsxr.traces.pixels import gathered, in_circle, lit_pixels, on_sky, places_of, shows
from mrsxr.traces.profile import PsfImages
from mrsxr.traces.search import first_right, said, searched
from mrsxr.traces.source import images_of

from ._sampling import check_wcs

_FAR = 0.3  # arcsec, from the other places of a source: another one, or nothing
_SOURCE = 0.5  # misfit with a source over that without, on pixels left out, of what is a source
_FEWEST = 500  # pixels near the source
_CORE, _SHOWN = 0.5, 0.2  # FWHM, of whose pixels an exposure shows this part of what the fullest does, or no place
_TOGETHER = 8  # samples of the spectrum that share a plane of light
_EACH = 2  # of the rows, and samples of the spectrum in pixels
_MOST = 32  # rounds of a fit
_SETTLED = 0.0002  # arcsec that a place moves in a round
Error = Annotated[float, Range(above=0, high=1, unit="arcsec")]


@reads()
@checked
def measure_offsets(
    exposures: xr.Dataset | Sequence[xr.Dataset], *, source: Place | None = None, position: Place | None = None,
    max_error: Error = 0.01, psf: OptionalRefs = (),
) -> xr.Dataset:  # fmt: skip
    """Measure where every exposure and band has a point source, from what its pointing says.

    Parameters
    ----------
    exposures : Dataset or sequence of Dataset, level "cal"
        The dithers of one or several settings, with the coordinates of assign_wcs; computed.
    source : (float, float), optional
        Right ascension and declination [deg] near the source; by default the brightest place of the first exposure.
    position : (float, float), optional
        Where it is [deg], such as that of Gaia; by default the mean of the places that are found.
    max_error : float
        Error [arcsec] up to which the places of a band are used.
    psf : Dataset or sequence of Dataset, kind "psf", optional
        Of :func:`mrsxr.cal.learn_psf` of another star, or of an optical model: a place is where the middle of the
        images lies. In bands of none it is the centroid, by the PSF that the source shows.

    Returns
    -------
    Dataset, kind "offsets"
        ``alpha``, ``beta``: the place in the slices; ``east``, ``north``: how far off ``position`` the pointing puts
        it, all on (exposure, band) [arcsec], NaN where a band was not seen or is not used; ``error`` (band) [arcsec].
        attrs ``position`` [deg].

    Raises
    ------
    MrsxrError
        Where the data have no coordinates, or no band shows a source.

    Notes
    -----
    Pointings that are off by 0.25 to 1.7 arcsec against most exposures are found first, by their images, and told.
    Places and profile of the trace model (:func:`mrsxr.cal.fit_trace_model`), one profile over the band, fitted until
    no place moves by 0.0005 FWHM. The error is half of the difference between the places from the two colours of a
    chess board, rms over exposures. A band is left alone where it is too large, and where the source does not halve the
    misfit of a plane of light on the pixels of the colour that was not fitted. The place is the centroid of the light
    within about a FWHM: a PSF with 12 % more light on one side of the core moves those of a whole band (by 0.03 FWHM:
    9, 11, 16, 23 mas in 1A, 2A, 3A, 4A), and those of four exposures against each other, which see it at few places
    across the slices (rms 1, 5, 7, 3 mas). With ``psf`` learnt from another such star the latter is 0.1, 1, 3, 1.5 mas;
    with images of the very optics both are at most 1.4 mas.

    Examples
    --------
    >>> offsets = mx.cal.measure_offsets(cal)  # doctest: +SKIP
    >>> tied = mx.cal.tie_bands(cal, offsets=offsets)  # doctest: +SKIP
    >>> psfs = [mx.cal.learn_psf(star) for star in (star_12a, star_34a)]  # doctest: +SKIP
    >>> offsets = mx.cal.measure_offsets([cal_12a, cal_34a], psf=psfs)  # doctest: +SKIP
    """
    datasets = [exposures] if isinstance(exposures, xr.Dataset) else list(exposures)
    rows: dict[tuple[str, str], tuple[np.ndarray, tuple[float, float]]] = {}
    off: dict[tuple[str, str], np.ndarray] = {}  # of pointings that a search found
    errors: dict[str, float] = {}
    given = [psf] if isinstance(psf, xr.Dataset) else psf
    images = {band: images_of(one, band) for one in given for band in map(str, one["psf_band"].values)}
    for ds in datasets:
        check_wcs(ds)
        for band in map(str, np.atleast_1d(ds["band"].values)):
            places, error, moved, part = np.zeros((0, 2)), np.inf, np.zeros(()), ds.isel(y=slice(None, None, _EACH))
            if shows(part, band):
                lit = lit_pixels(part, band).compute(**how())
                if source is None:
                    start = searched(lit, band, places_of(lit, band, None), None)
                    first = first_right(start.off)
                    source = on_sky(start.place[first], band, ds, first)
                with suppress(np.linalg.LinAlgError):  # too few pixels for a spectrum
                    places, error, moved = _measure(lit, band, source, images.get(band))
            errors[band] = max(error, errors.get(band, 0.0))
            for d, place in enumerate(places if error <= max_error else ()):
                name = str(ds["exposure"].values[d])
                if np.isfinite(place).all():
                    rows[name, band] = place, on_sky(place, band, ds, d)
                    off[name, band] = moved[d]
                else:
                    tell(f"{name} {band}: hardly shows the source; it moves as the others do")
            if error <= max_error and moved.any():
                tell(said(band, ds["exposure"].values, moved))
            if error > max_error:
                tell(f"band {band}: no point source is seen to {max_error:g} arcsec; its places stay", aloud=False)
    if not rows:
        raise MrsxrError(f"no band shows a point source whose place is known to {max_error:g} arcsec; leave it out")
    frame = tangent_frame(*next(iter(rows.values()))[1])
    offsets = {key: np.array(tangent_offsets(*sky, frame)) for key, (_, sky) in rows.items()}
    west_north = [-1.0, 1.0]
    expected = {key: off[key] * west_north for key in rows}
    middle = np.median([offsets[key] - expected[key] for key in rows], axis=0)
    for key in [key for key, one in offsets.items() if np.hypot(*(one - expected[key] - middle)) > _FAR]:
        tell(f"{key[0]} {key[1]}: the source is found {_FAR} arcsec or more from where the others have it; left out")
        del rows[key], offsets[key]
    if position is None:
        right = [one for key, one in offsets.items() if not off[key].any()] or list(offsets.values())
        position = _sky_of(np.mean(right, axis=0), frame)
    used = [one for one in given if any(band in errors for band in one["psf_band"].values)]
    return _as_dataset(rows, errors, position).assign_attrs(made_with(psf=used))


@step(needs="cal", keyword="S_TIEBND")
def tie_bands(ds: xr.Dataset, *, offsets: xr.Dataset) -> xr.Dataset:
    """Move the pointing of each exposure, and the field of each band, so that a source stands at one place.

    Parameters
    ----------
    ds : Dataset, level "cal"
        The dithers of a setting, with the coordinates of assign_wcs.
    offsets : Dataset, kind "offsets"
        Of :func:`measure_offsets`.

    Returns
    -------
    Dataset, level "cal"
        ``ra_ref``, ``dec_ref``, ``roll_ref`` moved by the mean over the bands of the setting, ``v2_coefficients`` and
        ``v3_coefficients`` of each band by what is left, mean over the exposures. ``tie_ra`` and ``tie_dec`` [arcsec]
        of each exposure say by how much it was moved to the east and north (TIE_RA and TIE_DEC of its file). Exposures
        of which no band has a place move as the others do in the mean. As it was, with a note, where no exposure of the
        setting has a place.

    Raises
    ------
    MrsxrError
        Where ``offsets`` are none.

    Examples
    --------
    >>> offsets = mx.cal.measure_offsets([cal_12a, cal_34a], position=(339.0148, 33.9757))  # doctest: +SKIP
    >>> cal_12a = mx.cal.tie_bands(cal_12a, offsets=offsets)                                # doctest: +SKIP
    """
    if offsets.attrs.get("kind") != "offsets":
        raise MrsxrError(f"tie_bands got {offsets.attrs.get('kind') or 'no'} offsets; take those of measure_offsets")
    check_wcs(ds)
    before = ds
    small = [variable.name for variable in WCS_VARIABLES if variable.name in ds.variables]
    ds = ds.assign(ds[small].compute(scheduler="synchronous").variables)
    names = [str(name) for name in np.atleast_1d(ds["exposure"].values)]
    bands = [str(band) for band in np.atleast_1d(ds["band"].values)]
    ours = offsets.reindex(exposure=names, band=bands)
    seen = np.isfinite(ours["east"].values)
    if not seen.any():
        tell(f"{ds.attrs['setting']}: no exposure shows the source; its pointings stay", aloud=False)
        return before
    ra, dec = map(float, offsets.attrs["position"])
    position = ra, dec
    mean = np.array([_mean_over_bands(ours[name].values) for name in ("east", "north")])
    frame = tangent_frame(*position)
    moved = [
        Pointing.of(ds, d).moved(_sky_of(np.array([-mean[0, d], mean[1, d]]), frame), position)
        for d in range(len(names))
    ]
    coords: dict[str, Any] = {
        name: ("dither", np.array([getattr(one, name) for one in moved]), ds[name].attrs)
        for name in ("ra_ref", "dec_ref", "roll_ref")
    }
    shift = np.array([_left(ours, k, moved, position, ds) for k in range(len(bands))])
    tables = {}
    for axis, name in enumerate(("v2_coefficients", "v3_coefficients")):
        tables[name] = ds[name].copy(data=ds[name].values.copy())
        tables[name].values[[band_index(band, ds) for band in bands], 0, 0] += shift[:, axis]
    out = ds.assign(tables).assign_coords(coords)
    for name, values in zip(("tie_ra", "tie_dec"), -mean, strict=True):
        out = set_each(out, name, [round(float(value), 6) for value in values])
    return out


@one_blas_thread()
def _measure(
    lit: xr.Dataset, band: str, source: tuple[float, float], images: PsfImages | None
) -> tuple[np.ndarray, float, np.ndarray]:
    """Return alpha, beta (dither, 2) of the source, error [arcsec], infinite without one, and errors of pointings.

    NaN of exposures that hardly show its core.
    """
    start = searched(lit, band, places_of(lit, band, source), source)
    place = start.place
    pixels = gathered(lit, in_circle(lit, place, EDGE) & start.shows[:, None, None])
    if pixels.flux.size < _FEWEST:
        return place, np.inf, start.off
    low, high = float(pixels.wavelength.min()), float(pixels.wavelength.max())
    n_sample = max(int(np.ceil((high - low) / (_EACH * np.mean(PIXEL_LENGTH[band])))) + 1, 2)
    grid = 2, low, (high - low) / (n_sample - 1), n_sample
    fit = _Fit(pixels, place[None].copy(), *grid, images=images)
    settled = _settle(lambda: _move(fit), fit, _MOST)  # what is off by a round profile none takes up later
    if images is None:
        settled = fit.run(_MOST)
    halves, misfit = [], np.zeros(2)
    for half in (pixels.odd, ~pixels.odd):
        one = _Fit(pixels, fit.place.copy(), *grid, images=images)
        one.profile = fit.profile
        _settle(lambda: _move(one, half), one, 3)  # noqa: B023
        misfit += [
            float(((pixels.flux - m) ** 2 / pixels.variance)[~half].sum()) for m in (one.model(), _plane(fit, half))
        ]
        halves.append(one.place)
    if not misfit[0] < _SOURCE * misfit[1]:
        return place, np.inf, start.off
    if not settled:
        tell(
            f"band {band}: places of the source did not settle to {1e3 * _SETTLED:g} mas; they are less sure",
            aloud=False,
        )
    core = np.bincount(pixels.dither[np.hypot(*fit.offsets())[0] < _CORE], minlength=len(place))
    shown = core > _SHOWN * core.max()
    error = float(0.5 * np.sqrt(np.mean((halves[0] - halves[1])[:, shown] ** 2)))
    places = fit.place[0] + (_centre(fit) * float(np.median(fit.fwhm)) if images is None else 0.0)
    return np.where(shown[:, None], places, np.nan), error, start.off


@dataclass
class _Fit(Fit):
    """A fit whose profile is that of images, where some are given."""

    images: PsfImages | None = None

    def shape(self, du: float = 0.0, dv: float = 0.0) -> np.ndarray:
        """Return the profile at the pixels, moved (source, pixel)."""
        if self.images is None:
            return super().shape(du, dv)
        (u,), (v,) = self.offsets()
        return self.images.at((u + du) * self.fwhm, (v + dv) * self.fwhm, self.pixels.wavelength)[None]


def _plane(fit: Fit, fitted: np.ndarray) -> np.ndarray:
    """Return a plane of light along and across the slices, of every exposure and few samples of wavelength together."""
    (u,), (v,) = fit.offsets()
    group = fit.pixels.dither * fit.n_sample + fit.sample.astype(int) // _TOGETHER
    order = np.argsort(group, kind="stable")
    out = np.zeros(u.size)
    for at in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        design = np.stack([np.ones(at.size), u[at], v[at]])
        use = fitted[at]
        out[at] = np.linalg.lstsq(design[:, use].T, fit.pixels.flux[at][use], rcond=1e-6)[0] @ design
    return out


def _centre(fit: Fit) -> np.ndarray:
    """Return the centre [FWHM] of the profile, of which places do not know how much of a shift it took up."""
    u, v = (axis.ravel() for axis in np.meshgrid(*[np.linspace(-1.6, 1.6, 65)] * 2, indexing="ij"))
    light, centre = trace_profile(u, v, np.full(u.size, 0.5), fit.profile), np.zeros(2)
    for _ in range(20):
        weight = light * np.exp(-4 * np.log(2) * ((u - centre[0]) ** 2 + (v - centre[1]) ** 2))
        centre = centre + 2 * (
            np.array([weight @ u, weight @ v]) / weight.sum() - centre
        )  # twice, as the weight is as wide
    return centre


def _move(fit: Fit, fitted: np.ndarray | None = None) -> None:
    """Fit the spectra, then the places, by the profile as it is."""
    fit.fit_spectra(fit.weights(fitted))
    fit.fit_places(fit.weights(fitted))


def _settle(work: Callable[[], None], fit: Fit, most: int) -> bool:
    """Do something until the places move no more, so often at most; return whether they settled."""
    for _ in range(most):
        before = fit.place.copy()
        work()
        if np.abs(fit.place - before).max() < _SETTLED:
            return True
    return False


def _sky_of(offset: np.ndarray, frame: np.ndarray) -> tuple[float, float]:
    """Return the sky position [deg] of an offset to the west and north [arcsec]."""
    ra, dec = tangent_to_sky(offset[0], offset[1], frame)
    return float(ra), float(dec)


def _as_dataset(
    rows: Mapping[tuple[str, str], tuple[np.ndarray, tuple[float, float]]],
    errors: dict[str, float],
    position: tuple[float, float],
) -> xr.Dataset:
    names = sorted({name for name, _ in rows})
    bands = [band for band in BANDS if band in errors]
    values = np.full((4, len(names), len(bands)), np.nan)
    frame = tangent_frame(*position)
    for (name, band), (place, sky) in rows.items():
        west, north = map(float, tangent_offsets(sky[0], sky[1], frame))
        values[:, names.index(name), bands.index(band)] = *place, -west, north
    dims, attrs = ("exposure", "band"), {"units": "arcsec"}
    data: dict[str, Any] = {key: (dims, values[k], attrs) for k, key in enumerate(("alpha", "beta", "east", "north"))}
    data["error"] = ("band", np.array([errors[band] for band in bands]), attrs)
    facts = {"kind": "offsets", "position": list(position), "ref_id": f"places of {len(names)} exposures"}
    return xr.Dataset(data, {"exposure": names, "band": bands}, facts)


def _mean_over_bands(values: np.ndarray) -> np.ndarray:
    """Return the mean (exposure) over the bands of (exposure, band); a place that is missing is that of the band."""
    seen = np.isfinite(values)
    used = seen.any(axis=0)
    level = np.nanmean(values[:, used], axis=0)
    rest = np.where(seen[:, used], values[:, used] - level, np.nan)
    return level.mean() + np.array([np.nanmean(row) if np.isfinite(row).any() else 0.0 for row in rest])


def _left(
    ours: xr.Dataset, band: int, moved: Sequence[Pointing], position: tuple[float, float], ds: xr.Dataset
) -> np.ndarray:
    """Return by how much V2, V3 [arcsec] of a band miss the position after the pointings were moved; 0 unseen."""
    off = []
    for d, pointing in enumerate(moved):
        alpha, beta = (float(ours[name].values[d, band]) for name in ("alpha", "beta"))
        if np.isfinite(alpha):
            there = slicer_to_v2v3(alpha, beta, str(ours["band"].values[band]), ds)
            off.append(np.array(sky_to_v2v3(position[0], position[1], pointing)) - np.array(there))
    return np.mean(off, axis=0) if off else np.zeros(2)
