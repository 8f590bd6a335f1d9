"""Point sources in smooth light on the detector: their spectra, one PSF and the light around them, of all exposures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mrsxr.mrs import SLICE_WIDTH, psf_fwhm

from .pixels import Pixels
from .profile import KNOT, REACH, PsfImages, correction_at, profile_at, shifts, uneven

_N_SPLINE = round(2 * REACH / KNOT) + 3
#: Light around the source: degree and number of intervals of its splines over the box.
AROUND = {"level": (1, 1), "host": (2, 2), "finer": (2, 3)}
_FINE, _COARSER = (2, 8), (2, 6)  # in lines, and to see how much of them the fineness decides
#: Error of a line of a source in that of its host, over what changes with the coarser splines: of discs and cusps 0.6
#: to 3 times that goes to the source (1A, 2A, 3A, noiseless); and this part of the line there, as the change may be
#: nothing by chance (0.01 to 0.3 goes to the source, rms 0.1).
_CUSP, _SHARP = 1.5, 0.13
_NODES = 3  # wavelengths of a band at which the profile is free
_PRIOR = {False: 0.3, True: 0.03}  # size of the corrections of the profile, by whether it was given
#: Edges of rings [FWHM], whose mean light around a lone star is free by this part of the profile.
_RINGS, _RING_PRIOR = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5), 1.0
_EVEN = 0.003  # by which sums over pixels may change with where the source lies between them
_CLIP = 6.0
#: Part of the model that the profile does not follow, at first and at least.
_FLOOR = 0.1, 0.003
_BRIGHT = 0.3  # of the peak, where what it does not follow is looked for
_WINGS = 0.1  # the same of the peak, in the wings
LOST = 0.1  #: Part of the light of a source from which on an exposure does not see its core
#: Samples over which the light around the source is smooth, in the continuum and in lines.
_SMOOTH, _LINE = 20.0, 0.7
_MARGIN = 20  # samples beside lines
#: Second differences of the spectrum cost this over their square, in units of its weight: no waves of two samples in
#: noise; between least and most.
_STIFF = 0.2, 1e-5, 0.05
_ROUNDS = {False: 3, True: 6}  # of the fit at least, by whether there are several sources; twice as many at most
_SETTLED = 0.003  # FWHM, by which places move in a round, and of the peak, by which the profile changes
_STEP = 0.01  # FWHM, for the slopes of the profile


@dataclass
class PointFit:
    """The state of a fit over the pixels given.

    ``place`` (source, dither, axis) [arcsec]; sources keep their places from each other. ``lost``: alpha, beta and
    wavelength of the pixels near the sources that each exposure lacks. ``images`` are the profile to start from, by
    default a Moffat function of the FWHM of Law et al. (2023). Light of the sources is (source, pixel).
    """

    pixels: Pixels
    place: np.ndarray
    first: float
    step: float
    n_sample: int
    around: str
    lost: list[tuple[np.ndarray, ...]]
    images: PsfImages | None = None
    correction: np.ndarray = field(init=False)
    found: np.ndarray = field(init=False)
    gain: np.ndarray = field(init=False)
    stiff: np.ndarray = field(init=False)
    even: list[tuple[np.ndarray, np.ndarray]] = field(init=False)  # of each node, its equations of even sums
    floor: float = field(init=False)

    def __post_init__(self) -> None:
        p, (degree, n) = self.pixels, AROUND[self.around]
        self.fwhm = psf_fwhm(p.wavelength)
        self.sample = (p.wavelength - self.first) / self.step
        self.number = np.clip(np.rint(self.sample).astype(int), 0, self.n_sample - 1)
        order = np.argsort(self.number, kind="stable")
        self.parts = np.split(order, np.searchsorted(self.number[order], np.arange(1, self.n_sample)))
        self.node = self.sample / (self.n_sample - 1) * (_NODES - 1)
        self.n_source = len(self.place)
        apart = (self.place - self.place.mean(axis=0)).mean(axis=1)
        reach = REACH * float(self.fwhm.max())
        many = AROUND["host"][1] if self.around == "level" else n
        wide = int(np.ceil(many * (1 + float(np.abs(apart).max()) / reach) - 1e-9))
        self.half = reach * wide / many  # of several sources no finer than of one
        self.splines = degree, n if self.around == "level" else wide
        self.fine, self.coarser = ((degree, n * wide // many) for degree, n in (_FINE, _COARSER))
        self.wide = self.n_source + sum(self.splines) ** 2
        self.correction = np.zeros((_NODES, _N_SPLINE, _N_SPLINE))
        self.found = np.zeros((self.n_sample + 3, self.wide))
        self.floor = _FLOOR[0]
        self.stiff = np.full((self.n_sample + 3, self.n_source), 1e-3)
        self.gain = np.ones((self.place.shape[1], _NODES))
        self.star, self.host = np.zeros((self.n_source, p.flux.size)), np.zeros(p.flux.size)
        self.line_host = np.full((self.n_sample + 3, sum(self.fine) ** 2), np.nan)  # finer, at nodes of lines
        self.line_scale = np.ones((self.n_sample + 3, self.n_source))  # of the stars there, to be divided by
        self.line_error = np.zeros((self.n_source, self.n_sample))  # of the stars there, common to a line
        steps = float(np.median(np.abs(np.diff(p.alpha)))), SLICE_WIDTH[int(p.label[0]) // 100]
        sums = [uneven(wave, steps, self.images) for wave in self.waves()]
        self.even = [(parts.T @ parts / _EVEN**2, parts.T @ start / _EVEN**2) for parts, start in sums]
        self.shape, self.envelope = self.profile()
        sees: Any = (self.unseen() < LOST).all(axis=(0, 2))  # exposures, the core of all sources
        self.sees = sees | ~sees.any()

    def waves(self) -> np.ndarray:
        """Return the wavelengths of the nodes."""
        return self.first + self.step * np.linspace(0, self.n_sample - 1, _NODES)

    def unseen(self) -> np.ndarray:
        """Return which part of the light of each source an exposure lacks (source, dither, node).

        In lost pixels, or beside the slices.
        """
        out = np.ones((self.n_source, len(self.lost), _NODES))
        for d, (alpha, beta, wave) in enumerate(self.lost):
            there = np.clip((wave - self.first) / (self.step * (self.n_sample - 1)) * (_NODES - 1), 0, _NODES - 1)
            here = self.pixels.dither == d
            field = np.append(self.pixels.alpha[here], alpha), np.append(self.pixels.beta[here], beta)
            for s, (a, b) in enumerate(self.place[:, d]):
                shape, _ = profile_at(alpha - a, beta - b, wave, there, self.correction, self.images)
                both = (there, shape), (self.node[here], self.shape[s, here])
                lost, seen = (np.bincount(np.rint(k).astype(int), one, _NODES) for k, one in both)
                part = self._on_slices(field[0] - a, field[1] - b)
                out[s, d] -= part * np.divide(seen, lost + seen, out=np.zeros(_NODES), where=lost + seen > 0)
        return out

    def _on_slices(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return which part of the light of a source falls on slices, of which pixels lie at a, b from it (node)."""
        side = np.linspace(-REACH, REACH, 81) * float(np.median(self.fwhm))
        alpha, beta = (one.ravel() for one in np.meshgrid(side, side))
        on, half = np.zeros(alpha.size, bool), 0.5 * SLICE_WIDTH[int(self.pixels.label[0]) // 100]
        for middle in np.unique(b.round(4)):
            row = a[b.round(4) == middle]
            on |= (np.abs(beta - middle) <= half) & (alpha > row.min() - half) & (alpha < row.max() + half)
        out = np.empty(_NODES)
        for k, wave in enumerate(self.waves()):
            one = np.ones(alpha.size)
            shape, _ = profile_at(alpha, beta, wave * one, k * one, self.correction, self.images)
            out[k] = shape[on].sum() / shape.sum()
        return out

    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return places from the sources [arcsec], (source, pixel)."""
        place = self.place[:, self.pixels.dither]
        return self.pixels.alpha - place[..., 0], self.pixels.beta - place[..., 1]

    def away(self) -> np.ndarray:
        """Return how far pixels are from the nearest source [FWHM]."""
        return np.hypot(*self.offsets()).min(axis=0) / self.fwhm

    def profile(self, du: float = 0.0, dv: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the profile at the pixels, moved [FWHM], and the envelope of its corrections."""
        places = zip(*self.offsets(), strict=True)
        at, fwhm = (self.pixels.wavelength, self.node, self.correction, self.images), self.fwhm
        shape, envelope = zip(*(profile_at(a + du * fwhm, b + dv * fwhm, *at) for a, b in places), strict=True)
        return np.stack(shape), np.stack(envelope)

    def gains(self) -> np.ndarray:
        """Return the factor of the exposure of every pixel."""
        return _linear(self.gain, self.pixels.dither, self.node)

    def model(self) -> np.ndarray:
        """Return the model at the pixels."""
        return (self.star * self.shape).sum(axis=0) + self.host

    def noise(self, model: np.ndarray, alike: float = 1.0) -> np.ndarray:
        """Return the variance of the pixels, with what the profile cannot follow, alike in so many rows."""
        peak, floor = _WINGS * self.star.sum(axis=0), min(self.floor * np.sqrt(alike), _FLOOR[0])
        return self.pixels.variance + max(floor, self.floor) ** 2 * (np.maximum(model, 0) ** 2 + peak**2)

    def weights(self, alike: float = 1.0) -> np.ndarray:
        """Return the weights of the pixels, less for those farther off the model than others of their wavelength."""
        p, model = self.pixels, self.model()
        variance = self.noise(model, alike)
        if not self.star.any():
            return 1.0 / variance
        ratio = (p.flux - model) ** 2 / variance
        middle = np.array([np.median(ratio[at]) if at.size else 0.0 for at in self.parts])
        typical = np.maximum(middle / 0.455, 1.0)[self.number]
        return 1.0 / variance / (1 + ratio / (typical * _CLIP**2)) ** 2

    def misfit(self, where: np.ndarray) -> float:
        """Return what is left where the star is bright over its light, rms without noise."""
        star, peak = (self.star * self.shape).sum(axis=0), self.star.sum(axis=0)
        at = where & (self.away() < 1) & (star > _BRIGHT * peak) & (star > 0)
        if not at.any():
            return _FLOOR[0]
        share = star**2 / self.pixels.variance  # of a sample, which its star follows
        free = 1 - share / np.maximum(np.bincount(self.number, share, self.n_sample), 1e-30)[self.number]
        rest = (self.pixels.flux - self.model()) ** 2 / np.maximum(free, 0.1)
        off, noise = (float(np.median(one[at] / star[at] ** 2)) for one in (rest, self.pixels.variance))
        return float(np.sqrt(max(off / 0.455 - noise, 0.0)))

    def field(self) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Return x, y of the pixels in the box, and degree and number of intervals of its splines."""
        a, b = self.offsets()
        return a.mean(axis=0) / self.half, b.mean(axis=0) / self.half, *self.splines

    def fit_light(self, weight: np.ndarray, smooth: np.ndarray) -> None:
        """Fit star and host, the latter smooth in wavelength over some samples (n_sample + 3)."""
        from scipy.linalg import solveh_banded

        from ._trace_kernels import light_equations

        size, gain, stars = self.found.size, self.gains(), self.n_source
        band, right = np.zeros((4 * self.wide, size)), np.zeros(size)
        light_equations(self.sample, self.shape * gain, *self.field(), self.pixels.flux, weight, band, right)
        diagonal = band[0].reshape(-1, self.wide)
        typical = np.median(diagonal, axis=0)
        typical[stars:] = max(float(np.median(typical[stars:])), 1e-30)
        stiff = np.outer(smooth**4, typical)
        stiff[:, :stars] = self.stiff * typical[:stars]
        add_smoothness(band, stiff, self.wide)
        band[0] += 1e-6 * np.tile(typical, self.n_sample + 3)
        self.found = solveh_banded(band, right, lower=True, overwrite_ab=True).reshape(-1, self.wide)
        change = np.pad(np.diff(self.found[:, :stars], 2, axis=0) ** 2, ((3, 3), (0, 0)), mode="edge")
        change = np.lib.stride_tricks.sliding_window_view(change, 5, axis=0).mean(axis=-1)
        self.stiff = np.clip(_STIFF[0] / np.maximum(typical[:stars] * change, 1e-30), *_STIFF[1:])
        self.evaluate()

    def evaluate(self) -> None:
        """Set the light of star and host at the pixels."""
        from ._trace_kernels import light_at

        light_at(self.sample, *self.field(), self.found, self.star, self.host)
        self.star *= self.gains()

    def lines(self) -> np.ndarray:
        """Return over how many samples the host is smooth, by where it has lines (n_sample + 3)."""
        from scipy.ndimage import maximum_filter1d, median_filter

        from ._trace_kernels import host_sums

        top, bottom = np.zeros((2, self.n_sample, self.wide - self.n_source))
        weight = (self.away() > 1) / self.pixels.variance
        host_sums(self.number, *self.field(), self.pixels.flux - self.model(), weight, top, bottom)
        off = np.mean(np.divide(top**2, bottom, out=np.zeros_like(top), where=bottom > 0), axis=1)
        off = off / np.maximum(median_filter(off, 201, mode="nearest"), 1e-30)
        spread = np.median(np.abs(off - 1.0))
        near = np.pad(maximum_filter1d(off > 1.0 + 8 * spread, 11), (1, 2), mode="edge")
        return np.where(near, _LINE, _SMOOTH)

    def light(self) -> np.ndarray:
        """Return the sums of the spectra near each node (source, node)."""
        at = np.linspace(0, _NODES - 1, self.n_sample + 3)
        return self.found[:, : self.n_source].T @ np.maximum(1 - np.abs(at[:, None] - np.arange(_NODES)), 0)

    def fit_places(self, weight: np.ndarray) -> None:
        """Move the sources to where they fit best."""
        light, rest = self.star * self.shape, self.pixels.flux - self.model()
        self.place += shifts(self.pixels.dither, self.slopes(), light, rest, weight, self.place.shape[1])
        self.shape, self.envelope = self.profile()

    def slopes(self) -> np.ndarray:
        """Return what a move [arcsec] of each source gives (source, axis, pixel)."""
        moved = [(self.profile(-du, -dv)[0] - self.profile(du, dv)[0]) for du, dv in ((_STEP, 0.0), (0.0, _STEP))]
        return self.star[:, None] * np.stack(moved, 1) / (2 * _STEP * self.fwhm)

    def fit_gains(self, weight: np.ndarray) -> None:
        """Fit a factor of every exposure on the star, linear in wavelength between nodes.

        The mean of those that see the core is 1: of the wings alone a factor is off where the profile is.
        """
        one = (self.star * self.shape).sum(axis=0) / self.gains()
        rest = self.pixels.flux - self.host
        for d in range(self.place.shape[1]):
            at = self.pixels.dither == d
            near = np.maximum(1 - np.abs(self.node[at, None] - np.arange(_NODES)), 0)
            design = near * one[at, None]
            normal = design.T @ (design * weight[at, None])
            prior = (1e-6 * np.trace(normal) or 1.0) * np.eye(_NODES)  # 1 where an exposure shows nothing
            self.gain[d] = np.linalg.solve(normal + prior, design.T @ (weight[at] * rest[at]) + prior.sum(axis=1))
        self.gain /= self.gain[self.sees].mean(axis=0)

    def prior(self, rings: bool) -> np.ndarray:
        """Return what corrections of the profile cost (spline, spline); the profile ends as it starts.

        How much light a star has at a distance is known less well beforehand than that it is the same all around: with
        ``rings`` the mean over each is nearly free, so that faint stars have the light of bright ones.
        """
        number = np.arange(_N_SPLINE)
        inner = np.flatnonzero(np.outer(*[(number > 2) & (number < _N_SPLINE - 3)] * 2))
        spread = np.full(_N_SPLINE**2, 1e-12)
        spread[inner] = 1.0
        spread *= _PRIOR[self.images is not None] ** 2
        cost = np.diag(1.0 / spread)
        if rings:
            at = (number - 1) * KNOT - REACH
            ring = np.digitize(np.hypot(*np.meshgrid(at, at)).ravel()[inner], _RINGS)
            together = (_RING_PRIOR if self.images is None else _PRIOR[True]) ** 2 * (ring[:, None] == ring)
            cost[np.ix_(inner, inner)] = np.linalg.inv(np.diag(spread[inner]) + together)
        return cost

    def fit_profile(self, weight: np.ndarray) -> None:
        """Fit the corrections of the profile at each node to all exposures and slices."""
        from ._trace_kernels import correction_equations

        (a, b), n = self.offsets(), _N_SPLINE**2
        u, v = a / self.fwhm, b / self.fwhm
        now = [correction_at(*x, self.node, self.correction, REACH, KNOT) for x in zip(u, v, strict=True)]
        rest = self.pixels.flux - self.host - (self.star * (self.shape - self.envelope * np.stack(now))).sum(axis=0)
        # how bright further sources are, and where, goes with the profile at their places
        light, scale = (self.star * self.shape)[1:, None], self.star * self.envelope
        more = np.concatenate([light, self.slopes()[1:]], axis=1).reshape(3 * len(light), rest.size)
        size = n + self.wide - self.n_source + len(more)
        normal, right = np.zeros((_NODES, size, size)), np.zeros((_NODES, size))
        correction_equations(
            u, v, self.node, scale, *self.field(), more, rest, weight, REACH, KNOT, normal, right
        )  # fmt: skip
        prior = self.prior(self.around == "level" and self.images is None)
        changes = np.zeros((_NODES, self.n_source - 1, 3))
        for k in range(_NODES):
            full = np.triu(normal[k]) + np.triu(normal[k], 1).T
            full[np.arange(n, size), np.arange(n, size)] += 1e-9 * full[n, n]
            full[:n, :n] += prior + self.even[k][0]
            right[k, :n] -= self.even[k][1]
            found = np.linalg.solve(full, right[k])
            self.correction[k] = found[:n].reshape(_N_SPLINE, _N_SPLINE)
            changes[k] = found[size - len(more) :].reshape(-1, 3)
        self.place[1:] += np.clip(changes.mean(axis=0)[:, None, 1:], -0.1, 0.1)
        self.shape, self.envelope = self.profile()
        if len(more):
            brighter = np.concatenate([np.ones((1, _NODES)), 1 + changes[..., 0].T])
            at = np.linspace(0, _NODES - 1, self.n_sample + 3)
            self.found[:, : self.n_source] *= _linear(brighter, np.arange(self.n_source)[:, None], at).T
            self.evaluate()

    def scale_errors(self) -> np.ndarray:
        """Return the error of the light of each source within 2 FWHM, of that light, by its profile (source, node).

        Spectra times profile are known, not each: where no exposure sees the core, it is what is known beforehand.
        """
        from ._trace_kernels import correction_equations

        (a, b), n, stars, field = self.offsets(), _N_SPLINE**2, self.n_source, self.field()
        if self.around == "host":  # which may be finer than it was taken for
            field = *field[:2], *self.fine
        size, light = n + sum(field[2:]) ** 2 + stars, self.star * self.shape
        weight = self.weights(self.n_sample / (_NODES - 1))
        normal, unused = np.zeros((_NODES, size, size)), np.zeros((_NODES, size))
        correction_equations(
            a / self.fwhm, b / self.fwhm, self.node, self.star * self.envelope, *field, light, light[0], weight,
            REACH, KNOT, normal, unused,
        )  # fmt: skip
        u, v = (one.ravel() for one in np.meshgrid(*[np.linspace(-2, 2, 81)] * 2))
        u, v = u[np.hypot(u, v) < 2], v[np.hypot(u, v) < 2]
        prior, one, none, out = self.prior(True), np.ones(u.size), np.zeros((0, u.size)), np.zeros((stars, _NODES))
        for k, wave in enumerate(self.waves()):
            fwhm, share = float(psf_fwhm(wave)), np.zeros((1, n))
            shape, envelope = profile_at(u * fwhm, v * fwhm, wave * one, k * one, self.correction, self.images)
            grid = u[None], v[None], 0 * one, envelope[None]
            correction_equations(*grid, u, v, 0, 0, none, one, one, REACH, KNOT, np.zeros((1, n, n)), share)
            full = np.triu(normal[k]) + np.triu(normal[k], 1).T
            full[np.arange(n, size), np.arange(n, size)] += 1e-9 * np.median(np.diag(full)[n:])
            full[:n, :n] += (prior + self.even[k][0]) / max(float(shape.max()), 1.0) ** 2
            asked = np.zeros((size, stars))
            asked[:n] = share.T / shape.sum()
            asked[size - stars :] = np.eye(stars)
            out[:, k] = np.sqrt(np.einsum("ms,ms->s", asked, np.linalg.solve(full, asked)))
        return out

    def fit_lines(self) -> None:
        """Fit star and host once more where the host has lines, which change from place to place within the PSF.

        There the finer host takes some of the light that the profile does not follow; the spectrum is scaled to what
        it was in the continuum beside the lines.
        """
        nodes, beside = np.arange(self.smooth.size), self.smooth > _LINE
        for column in self.found.T[self.n_source :]:
            column[:] = np.interp(nodes, nodes[beside], column[beside])
        self.evaluate()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], ~beside, [0]]).astype(int))).reshape(-1, 2)
        before = self.found[:, : self.n_source].copy()
        weight = 1.0 / self.noise((self.star * self.shape).sum(axis=0))
        for judged in (False, True):  # what is off the model is known after the first
            for first, last in edges:
                self._fit_line(weight, before, first, last, judged)
            weight = self.weights()

    def _fit_line(self, weight: np.ndarray, before: np.ndarray, first: int, last: int, judged: bool) -> None:
        """Fit star and a finer host at the nodes of a line and some beside it, and tell the error where asked."""
        from ._trace_kernels import light_at

        low, high = max(first - _MARGIN, 0), min(last + _MARGIN, self.smooth.size)
        at = np.flatnonzero((self.sample >= low) & (self.sample < high - 3))
        (x, y, *_), stars, gain = self.field(), self.n_source, self.gains()[at]
        found, scale = self._line_light(at, low, before[low:high], self.fine, weight)
        if judged:
            coarse, other = self._line_light(at, low, before[low:high], self.coarser, weight)
            self._judge_line(scale * found[:, :stars] - other * coarse[:, :stars], found, low, first, last)
        self.found[first:last, :stars] = scale * found[first - low : last - low, :stars]
        near = slice(max(first - 2, low), min(last + 2, high))
        self.line_host[near] = found[near.start - low : near.stop - low, stars:]
        self.line_scale[first:last] = scale
        star, host = np.empty((stars, at.size)), np.empty(at.size)
        light_at(self.sample[at] - low, x[at], y[at], *self.fine, found, star, host)
        here = (self.number[at] + 1 >= first) & (self.number[at] + 1 < last)
        inside, total = at[here], (star * gain * self.shape[:, at]).sum(axis=0)[here] + host[here]
        self.star[:, inside] = scale[:, None] * (star * gain)[:, here]
        self.host[inside] = total - (self.star * self.shape)[:, inside].sum(axis=0)

    def _line_light(
        self, at: np.ndarray, low: int, before: np.ndarray, fine: tuple[int, int], weight: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return star and host (node, unknown) of pixels at a line, and by what stars are less beside it."""
        from scipy.linalg import solveh_banded

        from ._trace_kernels import light_equations

        (x, y, *_), (n, stars) = self.field(), before.shape
        wide, nodes = stars + sum(fine) ** 2, slice(low, low + n)
        band, right = np.zeros((4 * wide, n * wide)), np.zeros(n * wide)
        place, shape = (self.sample[at] - low, x[at], y[at], *fine), self.shape[:, at] * self.gains()[at]
        light_equations(place[0], shape, *place[1:], self.pixels.flux[at], weight[at], band, right)
        diagonal = band[0].reshape(-1, wide)
        middle = np.median(diagonal[:, :stars], axis=0)
        diagonal += np.append(1e-6 * middle, np.full(wide - stars, 1e-3 * typical_of(diagonal[:, stars:])))
        stiff = np.zeros((n, wide))
        stiff[:, :stars] = self.stiff[nodes] * np.median(diagonal[:, :stars], axis=0)
        add_smoothness(band, stiff, wide)
        found = solveh_banded(band, right, lower=True, overwrite_ab=True).reshape(-1, wide)
        beside, scale = self.smooth[nodes] > _LINE, np.ones(stars)
        if beside.any():
            scale = before[beside].sum(axis=0) / found[beside, :stars].sum(axis=0)
        return found, scale

    def _judge_line(self, change: np.ndarray, found: np.ndarray, low: int, first: int, last: int) -> None:
        """Tell the error of sources in a line by what changes (node, source) where the host is coarser.

        It goes with the line of the host at the source, as noise does not: one number for all samples of a line.
        """
        from ._trace_kernels import light_at

        sample = np.arange(max(first - 1, low), min(last - 1, low + len(found) - 3)).astype(float)
        own, line, unused = np.empty((self.n_source, sample.size)), np.empty(sample.size), np.empty(sample.size)
        for s, (x, y) in enumerate((self.place - self.place.mean(axis=0)).mean(axis=1) / self.half):
            where = np.full(sample.size, x), np.full(sample.size, y)
            light_at(sample - low, *where, *self.fine, found, own, line)
            light_at(sample, *where, *self.splines, self.found, own, unused)
            line -= unused
            light_at(sample - low, *where, 0, 0, np.ascontiguousarray(change), own, unused)
            part = np.hypot(_CUSP * (line @ own[s]) / max(line @ line, 1e-30), _SHARP)
            self.line_error[s, sample.astype(int)] = part * np.abs(line)

    def run(self) -> bool:
        """Fit light, places, gains and profile in turn; return whether places and profile settled."""
        even, least, settled = np.full(self.n_sample + 3, _SMOOTH), _ROUNDS[self.n_source > 1], False
        for number in range(2 * least):
            if settled and number >= least:
                break
            place, shape = self.place.copy(), self.shape
            self.fit_light(self.weights(), even)
            smooth = self.lines()
            self.fit_places(self.weights())
            self.fit_gains(self.weights())
            clean = (smooth[self.number + 1] > _LINE) | (self.around == "level")
            clean |= bool(clean.mean() < 0.5)
            self.fit_profile(self.weights() * clean)
            self.floor = max(self.misfit(clean), _FLOOR[1])
            bright = shape > (0.3 if (shape > 0.3).any() else 0.3 * shape.max())  # or what is seen
            ratio = (self.shape / np.maximum(shape, 1e-3))[bright]  # what is common goes into the spectrum
            change = float(np.median(np.abs(ratio / np.median(ratio) - 1)))
            moved = float(np.abs(self.place - place).max()) / float(np.median(self.fwhm))
            settled = max(moved, change) < _SETTLED
        self.fit_light(self.weights(), even)
        self.smooth = self.lines()
        self.fit_light(self.weights(), self.smooth)
        if self.around == "host":
            self.fit_lines()
        return settled


def add_smoothness(band: np.ndarray, weight: np.ndarray, wide: int) -> None:
    """Add second differences over samples of every unknown, times weights (sample, unknown), to banded equations."""
    inner = weight[1:-1]
    diagonal = band[0].reshape(-1, wide)
    one, two = band[wide].reshape(-1, wide), band[2 * wide].reshape(-1, wide)
    diagonal[:-2] += inner
    diagonal[1:-1] += 4 * inner
    diagonal[2:] += inner
    one[:-2] -= 2 * inner
    one[1:-1] -= 2 * inner
    two[:-2] += inner


def typical_of(diagonal: np.ndarray) -> float:
    """Return the median of a diagonal, or its mean where most splines hold no pixels."""
    return float(np.median(diagonal)) or float(np.mean(diagonal))


def _linear(table: np.ndarray, row: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Return values of rows of a table, linear between its columns."""
    low = np.clip(node.astype(int), 0, table.shape[1] - 2)
    share = np.clip(node - low, 0, 1)
    return (1 - share) * table[row, low] + share * table[row, low + 1]
