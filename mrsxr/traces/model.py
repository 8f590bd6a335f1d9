"""The trace model of one band: profile, places and spectra of sources in every exposure, and where it is used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.errors import MrsxrError
from mrsxr.geometry.pixels import HALF_PIXEL, BandPixels, Frame
from mrsxr.mrs import psf_fwhm

from .profile import PsfImages, correction_at, start_profile

#: The model is used whole within this radius [FWHM] and fades to nothing at ``EDGE``.

WHOLE, EDGE = 1.25, 1.95
#: Samples of the running median of the spectrum, 5000 km/s. A line is narrower: as its light may lie around the source,
#: and would be moved as if it came from there, it stays as the pixels show it.
SMOOTH = 101
#: Parts of a pixel; of 9, light at the edges of spaxels makes waves.
PARTS = 12
#: Half side of the profile [FWHM], the number of its B-splines along an axis and their spacing [FWHM]: 0.4 make waves
#: twice as high; by 0.29 means over planes, of two dithers of S/N 300 in 1A, have 1.5 times the noise.
REACH, N_SPLINE = 2.0, 15
KNOT = 2 * REACH / (N_SPLINE - 3)


@dataclass(frozen=True)
class TraceModel:
    """Model of sources in the exposures of a band.

    Parameters
    ----------
    place : float64 (source, dither, 2)
        alpha, beta of the sources [arcsec].
    profile : float64 (node, i, j)
        See :func:`trace_profile`.
    spectrum : float64 (source, dither, sample)
        Peak of the continuum of the sources [MJy/sr].
    nodes, samples : (float, float)
        First value and step of the wavelengths [um, of the observatory] of both.
    used : bool (source, dither, slice, node)
        Where it is used.
    """

    place: np.ndarray
    profile: np.ndarray
    spectrum: np.ndarray
    nodes: tuple[float, float]
    samples: tuple[float, float]
    used: np.ndarray

    @classmethod
    def of(cls, ds: xr.Dataset, band: str, exposures: Any, labels: np.ndarray) -> TraceModel:
        """Return the model of a band from the Dataset of ``fit_trace_model``, of the exposures and slices named."""
        ds = chosen(ds, band, exposures, labels)
        axis = [(float(ds[w].values[0]), float(ds[w].values[1] - ds[w].values[0])) for w in ("node", "sample")]
        used = ds["used"].values.astype(bool)
        return cls(ds["place"].values, ds["profile"].values, continuum(ds["spectrum"].values), axis[0], axis[1], used)

    def light(self, source: int, dither: int, wavelength: np.ndarray) -> np.ndarray:
        """Return the peak of the continuum of a source at wavelengths [um]."""
        first, step = self.samples
        grid = first + step * np.arange(self.spectrum.shape[2])
        return np.interp(wavelength, grid, self.spectrum[source, dither])

    def node(self, wavelength: np.ndarray) -> np.ndarray:
        """Return the fractional place of wavelengths [um] among the nodes of the profile."""
        return (wavelength - self.nodes[0]) / self.nodes[1]


def continuum(spectrum: np.ndarray) -> np.ndarray:
    """Return spectra (..., sample; 0 where there are no pixels) without what is narrower than half of ``SMOOTH``."""
    from scipy.ndimage import median_filter, uniform_filter1d

    out = spectrum.copy()
    for one in out.reshape(-1, out.shape[-1]):
        lit = one != 0
        if lit.any():
            one[lit] = uniform_filter1d(median_filter(one[lit], SMOOTH), SMOOTH // 4)
    return out


def trace_profile(u: np.ndarray, v: np.ndarray, node: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Return the profile (node, i, j) at places [FWHM]: start (1 + corrections), those 0 outside of ``REACH``."""
    knot = 2 * REACH / (profile.shape[-1] - 3)  # of a file, as it was then
    return start_profile(u * u + v * v) * (1.0 + correction_at(u, v, node, profile, REACH, knot))


def profile_of(images: PsfImages, wavelength: np.ndarray) -> np.ndarray:
    """Return the profile (node, i, j) that is nearest to images of a PSF, by nodes of wavelength [um]."""
    from ._trace_kernels import correction_equations

    side = np.linspace(-REACH, REACH, 101)
    u, v = (one.ravel()[None] for one in np.meshgrid(side, side, indexing="ij"))
    start, ones, none = start_profile(u * u + v * v), np.ones(u.size), np.zeros((0, u.size))
    out = np.zeros((wavelength.size, N_SPLINE, N_SPLINE))
    for one, wave in zip(out, wavelength, strict=True):
        fwhm = float(psf_fwhm(wave))
        rest = images.at(u[0] * fwhm, v[0] * fwhm, np.full(u.size, wave)) - start[0]
        normal, right = np.zeros((1, N_SPLINE**2, N_SPLINE**2)), np.zeros((1, N_SPLINE**2))
        grid = u, v, np.zeros(u.size), start, u[0], v[0]
        correction_equations(*grid, 0, 0, none, rest, ones, REACH, KNOT, normal, right)
        whole = np.triu(normal[0]) + np.triu(normal[0], 1).T + 1e-6 * np.eye(N_SPLINE**2)
        one[...] = np.linalg.solve(whole, right[0]).reshape(one.shape)
    return out


def ring(profile: np.ndarray) -> np.ndarray:
    """Return a profile (node, i, j) on the circle where it has faded by half: (node, angle)."""
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    node = np.repeat(np.arange(len(profile)), angle.size).astype(float)
    u, v = (np.tile(0.5 * (WHOLE + EDGE) * f(angle), len(profile)) for f in (np.cos, np.sin))
    return trace_profile(u, v, node, profile).reshape(len(profile), -1)


def faded(u: np.ndarray, v: np.ndarray, node: np.ndarray, level: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Return the profile above a level, whole within ``WHOLE`` and nothing at ``EDGE``."""
    fade = np.clip((EDGE - np.hypot(u, v)) / (EDGE - WHOLE), 0.0, 1.0)
    return (trace_profile(u, v, node, profile) - level) * fade * fade * (3 - 2 * fade)


def finer(
    u: np.ndarray, v: np.ndarray, width: np.ndarray, node: np.ndarray, level: np.ndarray, profile: np.ndarray
) -> Any:
    """Return by how much the profile in each part of a pixel differs from that of the whole pixel (pixel, part).

    That of a part is the mean of what pixels of all phases show of it there: over a pixel centred on the part, taken by
    ``PARTS`` places, as the width of the part adds what these lack of the width of the pixel. The profile fades before
    it is averaged: the light moved from the core arrives in the wings, and none is lost.

    Parameters
    ----------
    u, v, node : float64 (pixel)
    width : float64 (pixel)
        Signed width of a pixel in u.
    level : float64 (pixel)
        Of the profile where it fades: what is smooth there needs no parts, and would end in an edge that is not of
        the sky.
    profile : float64 (node, i, j)
    """
    steps = (np.arange(1, 2 * PARTS) - PARTS) / PARTS
    fine = np.stack([faded(u + width * step, v, node, level, profile) for step in steps])
    return np.stack([fine[k : k + PARTS].mean(axis=0) - fine[PARTS - 1] for k in range(PARTS)], axis=1)


def chosen(ds: xr.Dataset, band: str, exposures: list[str] | np.ndarray, labels: np.ndarray) -> xr.Dataset:
    """Return the exposures and slices named of the Dataset of ``fit_trace_model``; raise where it lacks any."""
    if ds.attrs.get("kind") != "trace_model" or ds.attrs.get("band") != band:
        found = f"{ds.attrs.get('kind') or 'no kind'} of band {ds.attrs.get('band', '?')}"
        raise MrsxrError(f"band {band}: expected a trace_model of that band, got {found}; use fit_trace_model")
    names = [str(name) for name in ds["exposure"].values]
    missing = [str(name) for name in exposures if str(name) not in names]
    if missing:
        raise MrsxrError(f"band {band}: the trace model knows no exposure {missing[0]}; fit it to all of them")
    if not np.isin(labels, ds["slice_label"]).all():
        raise MrsxrError(f"band {band}: the trace model is of other slices; fit it to these data")
    return ds.isel(dither=[names.index(str(name)) for name in exposures]).sel(slice_label=labels)


def finer_pixels(
    pixels: BandPixels, frame: Frame, model: TraceModel, dither: int, beta: np.ndarray
) -> tuple[BandPixels, Frame]:
    """Return parts of the pixels near the sources and by how much the light of the sources differs there.

    Parameters
    ----------
    pixels : BandPixels
    frame : Frame of the exposure
    model : TraceModel
    dither : int
    beta : float64 (slice)
        Of the slices of ``pixels`` [arcsec].

    Returns
    -------
    BandPixels, Frame
        ``PARTS`` of every good pixel for which the model is used; the one map is the model at each part less that of
        its pixel [MJy/sr], so that adding both to a cube leaves the light as bright as it was.
    """
    middle = 0.5 * (pixels.low + pixels.high)
    fwhm = psf_fwhm(middle)
    node = model.node(middle)
    window = np.clip(np.rint(node).astype(int), 0, len(model.profile) - 1)
    levels = ring(model.profile).mean(1)
    width = (pixels.alpha_right - pixels.alpha_left) / (2 * HALF_PIXEL)
    found = []
    for source, (alpha, along) in enumerate(model.place[:, dither]):
        u, v = (pixels.alpha - alpha) / fwhm, (beta[pixels.slice_index] - along) / fwhm
        near = np.maximum(np.abs(u) - np.abs(width) / fwhm, 0) ** 2 + v * v < EDGE**2
        near &= (frame.status == 0) & model.used[source, dither, pixels.slice_index, window]
        of = np.flatnonzero(near)
        level = np.interp(node[of], np.arange(len(levels)), levels)
        parts = finer(u[of], v[of], width[of] / fwhm[of], node[of], level, model.profile)
        found.append((of, model.light(source, dither, middle[of])[:, None] * parts))
    at = np.unique(np.concatenate([of for of, _ in found]))
    values = np.zeros((at.size, PARTS))
    for of, parts in found:
        values[np.searchsorted(at, of)] += parts
    left, span = pixels.alpha_left[at], pixels.alpha_right[at] - pixels.alpha_left[at]
    step = np.arange(PARTS + 1) / PARTS
    edges = left[:, None] + span[:, None] * step

    def each(values: np.ndarray) -> np.ndarray:
        return np.repeat(values[at], PARTS)

    pieces = BandPixels(
        each(pixels.index), each(pixels.slice_index), edges[:, :-1].ravel(), edges[:, 1:].ravel(), each(pixels.low),
        each(pixels.high), 0.5 * (edges[:, :-1] + edges[:, 1:]).ravel(),
    )  # fmt: skip
    shift = None if frame.shift is None else each(frame.shift)
    size = at.size * PARTS
    made = Frame(values.reshape(1, -1).astype(np.float32), np.zeros((0, size), np.float32), np.zeros(size, np.uint8),
                 each(frame.weight), shift)  # fmt: skip
    return pieces, made
