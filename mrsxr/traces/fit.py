"""The fit of the trace model of a band: places, spectra and profile in turn, and its judgement on pixels left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mrsxr.mrs import psf_fwhm
from mrsxr.scores import gains

from .model import EDGE, KNOT, N_SPLINE, REACH, ring, trace_profile
from .pixels import Pixels
from .profile import shifts, start_profile

_ROUNDS, _HALF, _WHOLE, _CLIP = 4, 3, 3, 6.0
#: Standard errors by which a window, and all slices and exposures of its wavelength, must gain. Of all, a pixel counts
#: with the difference of both misfits over their sum, so that a few pixels far off decide nothing.
_SURE, _SURE_TOGETHER = 2.0, 3.0
#: Systematic error of a pixel, of its flux: what the profile and the spectrum cannot follow.
_FLOOR = 0.005
#: Expected size of the corrections of the start profile.
_PRIOR = 0.3
#: Expected size of their change from node to node (a well sampled star in 3A: 0.02): nodes where all pixels sample the
#: source alike know their profile from others.
_CHANGE = 0.02
#: Change of the profile around the source, of its peak, that tells of other sources there: no model is used.
_CROWDED = 0.1
_STEP = 0.01  # FWHM, for the slopes of the profile


@dataclass
class Fit:
    """The state of a fit, over the pixels given."""

    pixels: Pixels
    place: np.ndarray
    n_node: int
    first: float
    step: float
    n_sample: int
    profile: np.ndarray = field(init=False)
    light: np.ndarray = field(init=False)
    around: np.ndarray = field(init=False)
    spectrum: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        p = self.pixels
        self.fwhm = psf_fwhm(p.wavelength)
        self.sample = (p.wavelength - self.first) / self.step
        self.node = self.sample / (self.n_sample - 1) * (self.n_node - 1)
        self.profile = np.zeros((self.n_node, N_SPLINE, N_SPLINE))
        self.light, self.around = np.zeros(p.flux.size), np.zeros(p.flux.size)
        self.spectrum = np.zeros((self.place.shape[0], self.n_sample))

    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return u, v of the pixels."""
        place = self.place[self.pixels.dither]
        return (self.pixels.alpha - place[:, 0]) / self.fwhm, (self.pixels.beta - place[:, 1]) / self.fwhm

    def shape(self, du: float = 0.0, dv: float = 0.0) -> np.ndarray:
        """Return the profile at the pixels, moved."""
        u, v = self.offsets()
        return trace_profile(u + du, v + dv, self.node, self.profile)

    def model(self) -> np.ndarray:
        """Return the model at the pixels."""
        out: np.ndarray = self.light * self.shape() + self.around
        return out

    def weights(self, fitted: np.ndarray) -> np.ndarray:
        """Return the weights of the pixels, none for those not to be fitted, less for those far off the model."""
        p, model = self.pixels, self.model()
        variance = p.variance + (_FLOOR * np.maximum(model, 0)) ** 2
        ratio = (p.flux - model) ** 2 / variance
        typical = max(float(np.median(ratio[fitted])) / 0.455, 1.0) if self.light.any() else np.inf
        return np.where(fitted, 1.0 / variance / (1 + ratio / (typical * _CLIP**2)) ** 2, 0.0)

    def fit_spectra(self, weight: np.ndarray) -> None:
        """Fit the spectrum of the source, and a plane of light around it, of every exposure."""
        from scipy.linalg import solveh_banded

        from ._trace_kernels import WIDE, spectrum_equations

        (u, v), shape = self.offsets(), self.shape()
        for d in range(self.place.shape[0]):
            at = np.flatnonzero(self.pixels.dither == d)
            band, right = np.zeros((2 * WIDE, WIDE * self.n_sample)), np.zeros(WIDE * self.n_sample)
            columns = (self.sample[at], shape[at], u[at], v[at])
            spectrum_equations(*columns, self.pixels.flux[at], weight[at], band, right)
            scale = np.median(band[0, ::WIDE][band[0, ::WIDE] > 0]) if (band[0] > 0).any() else 1.0
            band[0] += 1e-9 * scale + 1e-4 * scale * np.tile([0.0, 0.0, 1.0, 1.0], self.n_sample)
            found = solveh_banded(band, right, lower=True).reshape(self.n_sample, WIDE)
            grid = np.arange(self.n_sample)
            source, level, along, across = (np.interp(self.sample[at], grid, column) for column in found.T)
            self.spectrum[d], self.light[at] = found[:, 0], source
            self.around[at] = level + along * u[at] + across * v[at]

    def fit_places(self, weight: np.ndarray) -> None:
        """Move the source in every exposure to where it fits best."""
        shape = self.shape()
        slopes = [
            self.light * (self.shape(-du, -dv) - self.shape(du, dv)) / (2 * _STEP * self.fwhm)
            for du, dv in ((_STEP, 0.0), (0.0, _STEP))
        ]
        rest, light = self.pixels.flux - self.light * shape - self.around, (self.light * shape)[None]
        self.place += shifts(self.pixels.dither, np.stack(slopes)[None], light, rest, weight, len(self.place))[0]

    def fit_profile(self, weight: np.ndarray) -> None:
        """Fit the profile at each node to all exposures and slices."""
        from scipy.linalg import solveh_banded

        from ._trace_kernels import correction_equations

        (u, v), n = self.offsets(), N_SPLINE**2
        normal, right = np.zeros((self.n_node, n, n)), np.zeros((self.n_node, n))
        start = self.light * start_profile(u * u + v * v)
        rest, no_host = self.pixels.flux - self.around - start, (u, v, 0, 0, np.zeros((0, u.size)))
        correction_equations(
            u[None], v[None], self.node, start[None], *no_host, rest, weight, REACH, KNOT, normal, right
        )
        band = np.zeros((n + 1, self.n_node * n))  # lower form of solveh_banded
        for k in range(self.n_node):
            full = normal[k].T + np.eye(n) * (1 / _PRIOR**2 + ((k > 0) + (k < self.n_node - 1)) / _CHANGE**2)
            for m in range(n):
                band[m, k * n : (k + 1) * n - m] = np.diagonal(full, -m)
        band[n, :-n] = -1 / _CHANGE**2
        self.profile = solveh_banded(band, right.ravel(), lower=True).reshape(self.profile.shape)

    def run(self, fitted: np.ndarray, rounds: int = _ROUNDS, places: bool = True) -> None:
        """Fit spectra, places and profile in turn."""
        for number in range(rounds):
            self.fit_spectra(self.weights(fitted))
            if places:
                for _ in range(3 if number == 0 else 1):
                    self.fit_places(self.weights(fitted))
                    self.fit_spectra(self.weights(fitted))
            self.fit_profile(self.weights(fitted))
        self.fit_spectra(self.weights(fitted))


def fit_band(pixels: Pixels, place: np.ndarray, labels: np.ndarray, nodes: np.ndarray, samples: np.ndarray) -> Any:
    """Fit the trace model of a band and judge it.

    Parameters
    ----------
    pixels : Pixels
    place : float64 (dither, 2)
        First guess of the place of the source [arcsec].
    labels : int array (slice)
    nodes, samples : float64 array
        Wavelengths, evenly spaced over those of all pixels, of the profile and of the spectrum [um].

    Returns
    -------
    Fit
    score : float (dither, slice, node)
        Misfit on the pixels left out over that of the mean of their neighbours along the slice, each in units of the
        noise, with two standard errors added; 1 at least where all windows of its wavelength together show no gain.
        NaN without pixels, and where other sources are near. Where it is nowhere below 1 the fit is that of every
        second pixel.
    """
    layout = (nodes.size, float(samples[0]), float(samples[1] - samples[0]), samples.size)
    half = Fit(pixels, place.copy(), *layout)
    half.run(~pixels.odd, rounds=_HALF)
    judged = _score(half, labels)
    if not gains(judged).any():
        return half, judged
    fit = Fit(pixels, half.place.copy(), *layout)
    fit.profile = half.profile
    fit.run(np.ones(pixels.flux.size, bool), rounds=_WHOLE)
    crowded = np.ptp(ring(fit.profile), axis=1) > _CROWDED
    return fit, np.where(crowded, np.nan, judged)


def _score(fit: Fit, labels: np.ndarray) -> np.ndarray:
    """Return the score of a fit on the pixels that it left out."""
    p = fit.pixels
    u, v = fit.offsets()
    judged = p.odd & np.isfinite(p.beside) & (np.hypot(u, v) < EDGE)
    ours = ((p.flux - fit.model()) ** 2 / p.variance)[judged]
    other = ((p.flux - p.beside) ** 2 / (p.variance + p.beside_variance))[judged]
    shape = (fit.place.shape[0], labels.size, fit.n_node)
    window = np.clip(np.rint(fit.node).astype(int), 0, fit.n_node - 1)
    index = np.ravel_multi_index((p.dither, np.searchsorted(labels, p.label), window), shape)[judged]

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, values, int(np.prod(shape))).reshape(shape)

    count, mine, theirs = sums(np.ones(index.size)), sums(ours), sums(other)
    share = (other - ours) / (1.0 + other + ours)
    each = [sums(values).sum((0, 1)) for values in (share, share**2)]
    seen = each[0] > _SURE_TOGETHER * np.sqrt(each[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = mine / theirs
        spread = np.sqrt(sums((ours - other * ratio.ravel()[index]) ** 2)) / theirs
        found = ratio + _SURE * spread
        return np.where(count >= 20, np.where(seen, found, np.maximum(found, 1.0)), np.nan)
