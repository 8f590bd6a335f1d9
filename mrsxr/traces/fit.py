"""The fit of the trace model of a band: places, spectra and profile in turn, and its judgement on pixels left out."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mrsxr.mrs import psf_fwhm
from mrsxr.scores import gains
from mrsxr.threads import one_blas_thread

from .model import EDGE, KNOT, N_SPLINE, REACH, ring, trace_profile
from .pixels import Pixels
from .profile import apart, shifts, start_profile

#: Rounds of a fit: before a first look whether there is a source, of every second pixel, and of all, at most.
_LOOK, _HALF, _WHOLE = 3, 10, 12
_CLIP = 6.0
#: Change in a round, of places [FWHM] and of the model [of its light, in all but 0.1 % of pixels], of a fit at rest.
SETTLED = 0.0005, 0.0005
#: Standard errors by which a window, and all slices and exposures of its wavelength, must gain. Of all, a pixel counts
#: with the difference of both misfits over their sum, so that a few pixels far off decide nothing.
_SURE, _SURE_TOGETHER = 2.0, 3.0
#: Systematic error of a pixel, of its flux and of a part of the peak of the sources: what the profile and the spectrum
#: cannot follow. Without the latter the wings decide how the core looks.
_FLOOR, _WINGS = 0.005, 0.2
#: Expected size of the corrections of the start profile.
_PRIOR = 0.3
#: Expected size of their change from node to node (a well sampled star in 3A: 0.02): nodes where all pixels sample the
#: source alike know their profile from others.
_CHANGE = 0.02
#: Change of the profile around the source, of its peak, that tells of other sources there: no model is used.
_CROWDED = 0.1
#: Splines of the profile at its peak, which stays 1 (by so much): how bright the source is, is told by the spectrum.
_PEAK = np.interp(np.abs(np.arange(N_SPLINE) - 1 - REACH / KNOT), [0, 1, 2], [2 / 3, 1 / 6, 0])
_PEAK = np.outer(_PEAK, _PEAK).ravel()
_HELD = 1e6
_STEP = 0.005  # FWHM, for the slopes of the profile
#: FWHM by which a source moves that count as a change of 1 of the profile; shares of two rounds to go back by.
_AS_PROFILE, _SHARES = 0.1, (-5.0, 1.0)


@dataclass
class Fit:
    """The state of a fit, over the pixels given.

    ``place`` (source, dither, axis) [arcsec]; light of the sources is (source, pixel). Sources whose pixels overlap
    make a ``group`` and share a plane of light; a pixel belongs to its ``nearest`` source. ``unit``: what places are
    measured in, the FWHM [arcsec]. ``prior`` (node, i, j): the profile as known beforehand, from which it starts.
    """

    pixels: Pixels
    place: np.ndarray
    n_node: int
    first: float
    step: float
    n_sample: int
    unit: float = 0.0
    prior: Any = 0.0
    profile: np.ndarray = field(init=False)
    group: np.ndarray = field(init=False)
    nearest: np.ndarray = field(init=False)
    light: np.ndarray = field(init=False)
    around: np.ndarray = field(init=False)
    spectrum: np.ndarray = field(init=False)
    plane: np.ndarray = field(init=False)
    shape_made: np.ndarray = field(init=False)
    made_of: bytes = field(init=False, default=b"")
    lies: tuple[np.ndarray, np.ndarray] = field(init=False)
    lies_by: bytes = field(init=False, default=b"")

    def __post_init__(self) -> None:
        p = self.pixels
        self.fwhm = psf_fwhm(p.wavelength)
        self.unit = self.unit or float(np.median(self.fwhm))
        self.sample = (p.wavelength - self.first) / self.step
        self.node = self.sample / (self.n_sample - 1) * (self.n_node - 1)
        self.node_of_sample = np.arange(self.n_sample) * (self.n_node - 1) / (self.n_sample - 1)
        self.number = np.clip(np.rint(self.sample).astype(int), 0, self.n_sample - 1)
        self.prior = np.zeros((self.n_node, N_SPLINE, N_SPLINE)) + self.prior
        self.profile = self.prior.copy()
        self.light, self.around = np.zeros((len(self.place), p.flux.size)), np.zeros(p.flux.size)
        self.spectrum = np.zeros((*self.place.shape[:2], self.n_sample))
        self.plane = np.zeros((*self.spectrum.shape, 3))  # level and slopes of the light around the first of a group
        near = apart(self.place) < 2 * EDGE * self.unit
        for _ in self.place:  # whatever is near one that is near
            near = near @ near
        self._divide(near.argmax(axis=1))

    def _divide(self, group: np.ndarray) -> None:
        """Find the pixels of each exposure and group of sources."""
        self.group, self.nearest = group, np.hypot(*self.offsets()).argmin(axis=0)
        of = self.group[self.nearest]
        parts = [
            (d, np.flatnonzero(group == g), np.flatnonzero((self.pixels.dither == d) & (of == g)))
            for d, g in itertools.product(range(self.place.shape[1]), np.unique(group))
        ]
        self.parts = [part for part in parts if part[2].size]  # an exposure may show nothing of a source

    def on(self, pixels: Pixels) -> Fit:
        """Return what was fitted, on other pixels."""
        out = replace(self, pixels=pixels)
        out.profile, out.spectrum, out.plane = self.profile, self.spectrum, self.plane
        out._divide(self.group)
        out.spread()
        return out

    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return u, v of the pixels from each source (source, pixel), made once for the same places."""
        now = self.place.tobytes()
        if now != self.lies_by:
            a, b = np.moveaxis(self.place, 2, 0)[:, :, self.pixels.dither]
            self.lies = (self.pixels.alpha - a) / self.fwhm, (self.pixels.beta - b) / self.fwhm
            self.lies_by = now
        return self.lies

    def shape(self, du: float = 0.0, dv: float = 0.0) -> np.ndarray:
        """Return the profile at the pixels, moved (source, pixel)."""
        places = zip(*self.offsets(), strict=True)
        return np.stack([trace_profile(u + du, v + dv, self.node, self.profile) for u, v in places])

    def shape_here(self) -> np.ndarray:
        """Return the profile at the pixels as the last call gave it, where neither places nor profile changed since."""
        now = self.place.tobytes() + self.profile.tobytes()
        if now != self.made_of:
            self.shape_made, self.made_of = self.shape(), now
        return self.shape_made

    def model(self) -> np.ndarray:
        """Return the model at the pixels."""
        return (self.light * self.shape_here()).sum(axis=0) + self.around

    def weights(self, fitted: np.ndarray | None = None) -> np.ndarray:
        """Return the weights of the pixels, none for those not to be fitted, less for those far off the model."""
        p, model = self.pixels, self.model()
        fitted = np.ones(model.size, bool) if fitted is None else fitted
        peak = _WINGS * self.light.sum(axis=0)
        variance = p.variance + _FLOOR**2 * (np.maximum(model, 0) ** 2 + peak**2)
        ratio = (p.flux - model) ** 2 / variance
        if not self.light.any():
            return np.where(fitted, 1.0 / variance, 0.0)
        typical = np.ones(self.place.shape[1])  # of each exposure: one that is off as a whole is not left aside
        for d in range(typical.size):
            of_it = ratio[fitted & (p.dither == d)]
            typical[d] = max(float(np.median(of_it)) / 0.455, 1.0) if of_it.size else 1.0
        return np.where(fitted, 1.0 / variance / (1 + ratio / (typical[p.dither] * _CLIP**2)) ** 2, 0.0)

    def fit_spectra(self, weight: np.ndarray) -> None:
        """Fit the spectra of the sources, and a plane of light around those of a group, of every exposure."""
        from scipy.linalg import solveh_banded

        from ._trace_kernels import spectrum_equations

        shape = self.shape_here()
        for d, stars, at in self.parts:
            (u, v), wide = self._from_middle(stars, at), stars.size + 3
            band, right = np.zeros((2 * wide, wide * self.n_sample)), np.zeros(wide * self.n_sample)
            columns = (self.sample[at], shape[np.ix_(stars, at)], u, v)
            spectrum_equations(*columns, self.pixels.flux[at], weight[at], band, right)
            lit = band[0, ::wide][band[0, ::wide] > 0]
            scale = np.median(lit) if lit.size else 1.0
            band[0] += 1e-9 * scale + 1e-4 * scale * np.tile(np.arange(wide) > stars.size, self.n_sample)
            found = solveh_banded(band, right, lower=True).reshape(self.n_sample, wide)
            self.spectrum[stars, d], self.plane[stars[0], d] = found[:, : stars.size].T, found[:, stars.size :]
        self.spread()

    def spread(self) -> None:
        """Take the spectra and the light around the sources to the pixels."""
        grid = np.arange(self.n_sample)
        for d, stars, at in self.parts:
            (u, v), sample = self._from_middle(stars, at), self.sample[at]
            self.light[np.ix_(stars, at)] = [np.interp(sample, grid, one) for one in self.spectrum[stars, d]]
            level, along, across = (np.interp(sample, grid, column) for column in self.plane[stars[0], d].T)
            self.around[at] = level + along * u + across * v

    def _from_middle(self, stars: np.ndarray, at: np.ndarray) -> Any:
        """Return u, v of pixels from the middle of sources."""
        return [one[np.ix_(stars, at)].mean(axis=0) for one in self.offsets()]

    def slopes(self) -> np.ndarray:
        """Return what a move [arcsec] of each source gives (source, axis, pixel)."""
        shape = self.shape_here()
        moved = [self.shape(-du, -dv) - shape for du, dv in ((_STEP, 0.0), (0.0, _STEP))]
        return self.light[:, None] * np.stack(moved, axis=1) / (_STEP * self.fwhm)

    def fit_places(self, weight: np.ndarray) -> None:
        """Move the sources in every exposure to where they fit best."""
        light, rest, n = self.light * self.shape_here(), self.pixels.flux - self.model(), self.place.shape[1]
        self.place += shifts(self.pixels.dither, self.slopes(), light, rest, weight, n)

    def fit_profile(self, weight: np.ndarray) -> None:
        """Fit the profile at each node and the places to all exposures and slices, spectra and light around with them.

        What spectra and light around can take up is known from each sample by itself. That all exposures move as one
        is left to the profile.
        """
        from ._trace_kernels import correction_equations

        (u, v), m = self.offsets(), N_SPLINE**2
        scale, none = self.light * start_profile(u * u + v * v), np.zeros((0, self.pixels.flux.size))
        normal, unused = np.zeros((self.n_node, m, m)), np.zeros((self.n_node, m))
        near = self.node_of_sample[self.number]
        correction_equations(u, v, near, scale, u[0], v[0], 0, 0, none, near, weight, REACH, KNOT, normal, unused)
        border, corner = self._beside(normal, scale, weight)
        for k in range(self.n_node):
            beside = (k > 0) + (k < self.n_node - 1)
            normal[k].flat[:: m + 1] += 1 / _PRIOR**2 + beside / _CHANGE**2
            normal[k] += _HELD * np.outer(_PEAK, _PEAK)
        found = _solve_chain(normal, border, 1 / _CHANGE**2)
        corner -= np.einsum("kmp,kmq->pq", border, found)
        n, held = 2 * self.place.shape[1], np.eye(len(corner) - 1)
        shown = 2 * np.unique([d for d, *_ in self.parts])
        for axis in (0, 1):  # the profile moves in place of all exposures
            held[np.ix_(shown + axis, shown + axis)] -= 1 / shown.size
        moved = held @ np.linalg.lstsq(held @ corner[:-1, :-1] @ held, held @ corner[:-1, -1], rcond=1e-9)[0]
        self.profile = self.prior + (found[..., -1] - found[..., :-1] @ moved).reshape(self.prior.shape)
        self.place += moved[:n].reshape(-1, 2)
        self.place[1:] += moved[n:].reshape(-1, 1, 2)

    def _beside(self, normal: np.ndarray, scale: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take from the equations of the profile what spectra and light around take up; return those of the places.

        The places are those of all sources in each exposure, and of each after the first in all exposures; the last
        column is what is left of the flux.
        """
        from ._trace_kernels import correction_sums, take_up

        (u, v), m, n = self.offsets(), N_SPLINE**2, self.place.shape[1]
        size, slopes, shape = 2 * (n + len(self.place) - 1) + 1, self.slopes(), self.shape_here()
        border, corner = np.zeros((self.n_node, m, size)), np.zeros((size, size))
        known = scale
        if self.prior.any():
            known = self.light * [trace_profile(*one, self.node, self.prior) for one in zip(u, v, strict=True)]
        rest = self.pixels.flux - self.around - known.sum(axis=0)
        for d, stars, at in self.parts:
            later = [s for s in stars if s]
            where = [2 * d, 2 * d + 1, *(2 * (n + s - 1) + axis for s in later for axis in (0, 1)), -1]
            ours = slopes[..., at]
            moves = np.concatenate([ours[stars].sum(axis=0, keepdims=True), ours[later]])
            other = np.concatenate([shape[np.ix_(stars, at)], [np.ones(at.size), *self._from_middle(stars, at)],
                                    moves.reshape(-1, at.size), rest[None, at]])  # fmt: skip
            cross, small = (np.zeros((self.n_sample, len(other), k)) for k in (m, len(other)))
            here = np.ix_(stars, at)
            columns = (u[here], v[here], scale[here], other, self.number[at], weight[at])
            correction_sums(*columns, REACH, KNOT, cross, small)
            free, lit = len(stars) + 3, np.flatnonzero(small[:, 0, 0] > 0)
            ridge = np.median(small[lit, 0, 0]) * np.array([1e-9] * len(stars) + [1e-4] * 3)
            taken = np.empty((lit.size, free, m + len(other) - free))
            take_up(lit, cross, small, ridge, taken)
            corner[np.ix_(where, where)] += small[lit, free:, free:].sum(axis=0)
            of_corner = taken[..., m:].reshape(-1, len(other) - free)
            corner[np.ix_(where, where)] -= of_corner.T @ of_corner
            at_node = self.node_of_sample[lit]
            before = np.clip(at_node.astype(int), 0, max(self.n_node - 2, 0))  # rises
            for k in np.unique(before):
                of = slice(*np.searchsorted(before, [k, k + 1]))
                share, some = at_node[of] - k, taken[of].reshape(-1, taken.shape[2])
                high = some * np.repeat(np.sqrt(share), free)[:, None]
                whole, later = some.T @ some, high.T @ high
                near = np.tensordot([1 - share, share], cross[lit[of], free:], 1).transpose(0, 2, 1)
                for node, given, found in zip((k, k + 1)[: self.n_node], near, (whole - later, later), strict=False):
                    normal[node] -= found[:m, :m]
                    border[node][:, where] += given - found[:m, m:]
        return border, corner

    def run(self, most: int = _WHOLE) -> bool:
        """Fit spectra, then places and profile, so often at most; return whether they settled."""
        settled = False
        self.fit_spectra(self.weights())
        for _ in range(0 if (self.profile != self.prior).any() else 3):
            self.fit_places(self.weights())
            self.fit_spectra(self.weights())
        last: Any = None
        for number in range(most):
            place, model, start = self.place.copy(), self.model(), self._state()
            self.fit_profile(self.weights())
            last = self._hasten(start, last if number > 1 else None)
            self.fit_spectra(self.weights())
            light = np.maximum(self.light.sum(axis=0), 1e-30)
            change = np.quantile(np.abs(self.model() - model) / light, 0.999)
            settled = bool(np.abs(self.place - place).max() < SETTLED[0] * self.unit and change < SETTLED[1])
            if settled:
                break
        return settled

    def _state(self) -> np.ndarray:
        return np.append(self.place / (_AS_PROFILE * self.unit), self.profile)

    def _hasten(self, start: np.ndarray, last: tuple[np.ndarray, np.ndarray] | None) -> tuple[np.ndarray, np.ndarray]:
        """Go on from where a round went to where it would come to rest, by this step and the last (Anderson 1965).

        By themselves the rounds creep along what the pixels hardly tell: exposures that lie alike in the slices, by
        pairs, move against each other across them while the profile follows.

        Return where the round went and its step.
        """
        now = self._state()
        step = now - start
        if last is not None:
            change = step - last[1]
            share = change @ step / max(change @ change, 1e-30)
            if _SHARES[0] < share < _SHARES[1]:
                place, profile = np.split(now - share * (now - last[0]), [self.place.size])
                self.place = place.reshape(self.place.shape) * _AS_PROFILE * self.unit
                self.profile = profile.reshape(self.profile.shape)
        return now, step


def _solve_chain(normal: np.ndarray, right: np.ndarray, tie: float) -> np.ndarray:
    """Return x (node, m, n) of equations (node, m, m), upper triangle, neighbours tied by -tie times a unit matrix."""
    from scipy.linalg.lapack import dpotrf, dpotri

    inverse, out = np.empty_like(normal), right.copy()
    for k in range(len(normal)):
        full = normal[k]
        if k:
            full = full - tie**2 * inverse[k - 1]
            out[k] += tie * inverse[k - 1] @ out[k - 1]
        factor, failed = dpotrf(full)
        if failed:
            raise np.linalg.LinAlgError("the equations of the profile are singular")
        upper = np.triu(dpotri(factor)[0])
        inverse[k] = upper + np.triu(upper, 1).T
    for k in range(len(normal) - 1, -1, -1):
        out[k] = inverse[k] @ (out[k] + (tie * out[k + 1] if k + 1 < len(normal) else 0.0))
    return out


@one_blas_thread()
def fit_band(
    pixels: Pixels, place: np.ndarray, labels: np.ndarray, nodes: np.ndarray, samples: np.ndarray, prior: Any = 0.0
) -> Any:
    """Fit the trace model of a band and judge it.

    Parameters
    ----------
    pixels : Pixels
    place : float64 (source, dither, 2)
        First guess of the places of the sources [arcsec].
    labels : int array (slice)
    nodes, samples : float64 array
        Wavelengths, evenly spaced over those of all pixels, of the profile and of the spectrum [um].
    prior : float64 (node, i, j), optional
        The profile to start from, see :func:`mrsxr.traces.model.profile_of`.

    Returns
    -------
    Fit
    score : float (source, dither, slice, node)
        Of the pixels nearest to each source: misfit on those left out over that of the mean of their neighbours along
        the slice, each in units of the noise, with two standard errors added; 1 at least where all windows of its
        wavelength together show no gain. NaN without pixels, and where yet other sources are near. Where it is nowhere
        below 1 the fit is that of every second pixel.
    settled : bool
        Whether places and profile of all pixels came to rest.
    """
    layout = (nodes.size, float(samples[0]), float(samples[1] - samples[0]), samples.size)
    unit = float(np.median(psf_fwhm(pixels.wavelength)))
    half = Fit(pixels.of(~pixels.odd), place.copy(), *layout, unit, prior)
    half.run(_LOOK)
    judged = _score(half.on(pixels), labels)
    if not gains(judged).any():
        return half, judged, False
    half.run(_HALF)
    judged = _score(half.on(pixels), labels)
    fit = Fit(pixels, half.place.copy(), *layout, unit, prior)
    fit.profile = half.profile
    settled = fit.run()
    crowded = np.ptp(ring(fit.profile), axis=1) > _CROWDED
    return fit, np.where(crowded, np.nan, judged), settled


def _score(fit: Fit, labels: np.ndarray) -> np.ndarray:
    """Return the score of a fit on the pixels that it left out."""
    p = fit.pixels
    u, v = fit.offsets()
    judged = p.odd & np.isfinite(p.beside) & (np.hypot(u, v).min(axis=0) < EDGE)
    ours = ((p.flux - fit.model()) ** 2 / p.variance)[judged]
    other = ((p.flux - p.beside) ** 2 / (p.variance + p.beside_variance))[judged]
    shape = (*fit.place.shape[:2], labels.size, fit.n_node)
    window = np.clip(np.rint(fit.node).astype(int), 0, fit.n_node - 1)
    place = (fit.nearest, p.dither, np.searchsorted(labels, p.label), window)
    index = np.ravel_multi_index(place, shape)[judged]

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(index, values, int(np.prod(shape))).reshape(shape)

    count, mine, theirs = sums(np.ones(index.size)), sums(ours), sums(other)
    share = (other - ours) / (1.0 + other + ours)
    each = [sums(values).sum((1, 2), keepdims=True) for values in (share, share**2)]
    seen = each[0] > _SURE_TOGETHER * np.sqrt(each[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = mine / theirs
        spread = np.sqrt(sums((ours - other * ratio.ravel()[index]) ** 2)) / theirs
        found = ratio + _SURE * spread
        return np.where(count >= 20, np.where(seen, found, np.maximum(found, 1.0)), np.nan)
