"""A point source in smooth light on the detector: one spectrum, one PSF and the light around it, of all exposures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import solveh_banded
from scipy.ndimage import maximum_filter1d, median_filter

from mrsxr.mrs import psf_fwhm

#: Half side of the box around the source and spacing of the splines of the profile [FWHM].
REACH, KNOT = 4.0, 0.4
_N_SPLINE = round(2 * REACH / KNOT) + 3
#: Light around the source: degree and number of intervals of its splines over the box.
AROUND = {"level": (1, 1), "host": (2, 2)}
_FINE = (2, 8)
_NODES = 3  # wavelengths of a band at which the profile is free
_PRIOR = {False: 0.3, True: 0.03}  # size of the corrections of the profile, by whether it was given
_CLIP = 6.0
#: Part of the model that the profile does not follow, at first and at least.
_FLOOR = 0.1, 0.003
_WINGS = 0.1  # the same of the peak, in the wings
#: Samples over which the light around the source is smooth, in the continuum and in lines.
_SMOOTH, _LINE = 20.0, 0.7
_MARGIN = 20  # samples beside lines
#: Second differences of the spectrum cost this over their square, in units of its weight: no waves of two samples in
#: noise; between least and most.
_STIFF = 0.2, 1e-5, 0.05
_STEP = 0.01  # FWHM, for the slopes of the profile


@dataclass
class BoxPixels:
    """Pixels around the source of all exposures: (pixel) arrays; slice coordinates [arcsec], um, MJy/sr."""

    dither: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    wavelength: np.ndarray
    flux: np.ndarray
    variance: np.ndarray


@dataclass
class PointFit:
    """The state of a fit over the pixels given.

    ``images`` (:class:`PsfImages`) are the profile to start from, by default a Moffat function of the FWHM of Law et
    al. (2023).
    """

    pixels: BoxPixels
    place: np.ndarray
    first: float
    step: float
    n_sample: int
    around: str
    images: PsfImages | None = None
    correction: np.ndarray = field(init=False)
    found: np.ndarray = field(init=False)
    gain: np.ndarray = field(init=False)
    stiff: np.ndarray = field(init=False)
    floor: float = field(init=False)

    def __post_init__(self):
        p, (degree, n) = self.pixels, AROUND[self.around]
        self.fwhm = psf_fwhm(p.wavelength)
        self.sample = (p.wavelength - self.first) / self.step
        self.number = np.clip(np.rint(self.sample).astype(int), 0, self.n_sample - 1)
        order = np.argsort(self.number, kind="stable")
        self.parts = np.split(order, np.searchsorted(self.number[order], np.arange(1, self.n_sample)))
        self.node = self.sample / (self.n_sample - 1) * (_NODES - 1)
        self.half = REACH * float(self.fwhm.max())
        self.wide = 1 + (n + degree) ** 2
        self.correction = np.zeros((_NODES, _N_SPLINE, _N_SPLINE))
        self.found = np.zeros((self.n_sample + 3, self.wide))
        self.floor = _FLOOR[0]
        self.stiff = np.full(self.n_sample + 3, 1e-3)
        self.gain = np.ones((self.place.shape[0], _NODES))
        self.star, self.host = np.zeros(p.flux.size), np.zeros(p.flux.size)
        self.shape, self.envelope = self.profile()

    def offsets(self) -> tuple[np.ndarray, np.ndarray]:
        """Return places from the source [arcsec]."""
        place = self.place[self.pixels.dither]
        return self.pixels.alpha - place[:, 0], self.pixels.beta - place[:, 1]

    def profile(self, du: float = 0.0, dv: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return the profile at the pixels, moved [FWHM], and the envelope of its corrections."""
        a, b = self.offsets()
        return profile_at(
            a + du * self.fwhm, b + dv * self.fwhm, self.pixels.wavelength, self.node, self.correction, self.images
        )

    def gains(self) -> np.ndarray:
        """Return the factor of the exposure of every pixel."""
        return _linear(self.gain, self.pixels.dither, self.node)

    def model(self) -> np.ndarray:
        """Return the model at the pixels."""
        return self.star * self.shape + self.host

    def noise(self, model: np.ndarray) -> np.ndarray:
        """Return the variance of the pixels, with what the profile cannot follow."""
        return self.pixels.variance + self.floor**2 * (np.maximum(model, 0) ** 2 + (_WINGS * self.star) ** 2)

    def weights(self) -> np.ndarray:
        """Return the weights of the pixels, less for those farther off the model than others of their wavelength."""
        p, model = self.pixels, self.model()
        variance = self.noise(model)
        if not self.star.any():
            return 1.0 / variance
        ratio = (p.flux - model) ** 2 / variance
        middle = np.array([np.median(ratio[at]) if at.size else 0.0 for at in self.parts])
        typical = np.maximum(middle / 0.455, 1.0)[self.number]
        return 1.0 / variance / (1 + ratio / (typical * _CLIP**2)) ** 2

    def misfit(self, where: np.ndarray) -> float:
        """Return what is left within 1 FWHM over the light of the star, rms without noise."""
        at = where & (np.hypot(*self.offsets()) < self.fwhm) & (self.star > 0)
        star = self.star[at] * self.shape[at]
        rest = ((self.pixels.flux - self.model())[at] ** 2 - self.pixels.variance[at]) / np.maximum(star, 1e-30) ** 2
        return float(np.sqrt(max(float(np.median(rest)) / 0.455, 0.0))) if at.any() else _FLOOR[0]

    def field(self) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Return x, y of the pixels in the box, and degree and number of intervals of its splines."""
        a, b = self.offsets()
        return a / self.half, b / self.half, *AROUND[self.around]

    def fit_light(self, weight: np.ndarray, smooth: np.ndarray) -> None:
        """Fit star and host, the latter smooth in wavelength over some samples (n_sample + 3)."""
        from ._point_kernels import light_equations

        size, gain = self.found.size, self.gains()
        band, right = np.zeros((4 * self.wide, size)), np.zeros(size)
        light_equations(self.sample, self.shape * gain, *self.field(), self.pixels.flux, weight, band, right)
        diagonal = band[0].reshape(-1, self.wide)
        typical = np.median(diagonal, axis=0)
        typical[1:] = max(float(np.median(typical[1:])), 1e-30)
        add_smoothness(band, np.outer(smooth**4, np.append(0.0, typical[1:])), self.wide)
        add_smoothness(band, np.outer(self.stiff, np.append(typical[0], 0 * typical[1:])), self.wide)
        band[0] += 1e-6 * np.tile(typical, self.n_sample + 3)
        self.found = solveh_banded(band, right, lower=True, overwrite_ab=True).reshape(-1, self.wide)
        change = np.convolve(np.pad(np.diff(self.found[:, 0], 2) ** 2, 3, mode="edge"), np.ones(5) / 5, "valid")
        self.stiff = np.clip(_STIFF[0] / np.maximum(typical[0] * change, 1e-30), *_STIFF[1:])
        self.evaluate()

    def evaluate(self) -> None:
        """Set the light of star and host at the pixels."""
        from ._point_kernels import light_at

        light_at(self.sample, *self.field(), self.found, self.star, self.host)
        self.star *= self.gains()

    def lines(self) -> np.ndarray:
        """Return over how many samples the host is smooth, by where it has lines (n_sample + 3)."""
        from ._point_kernels import host_sums

        top, bottom = np.zeros((self.n_sample, self.wide - 1)), np.zeros((self.n_sample, self.wide - 1))
        a, b = self.offsets()
        weight = (np.hypot(a, b) > self.fwhm) / self.pixels.variance
        host_sums(self.number, *self.field(), self.pixels.flux - self.model(), weight, top, bottom)
        off = np.mean(np.divide(top**2, bottom, out=np.zeros_like(top), where=bottom > 0), axis=1)
        off = off / np.maximum(median_filter(off, 201, mode="nearest"), 1e-30)
        spread = np.median(np.abs(off - 1.0))
        near = np.pad(maximum_filter1d(off > 1.0 + 8 * spread, 11), (1, 2), mode="edge")
        return np.where(near, _LINE, _SMOOTH)

    def fit_places(self, weight: np.ndarray) -> None:
        """Move the source in every exposure to where it fits best."""
        rest = self.pixels.flux - self.model()
        slopes = []
        for du, dv in ((_STEP, 0.0), (0.0, _STEP)):
            change = self.profile(-du, -dv)[0] - self.profile(du, dv)[0]
            slopes.append(self.star * change / (2 * _STEP * self.fwhm))
        for d in range(self.place.shape[0]):
            at = self.pixels.dither == d
            design = np.stack([*(s[at] for s in slopes), (self.star * self.shape)[at]])
            normal = (design * weight[at]) @ design.T
            move = np.linalg.lstsq(normal, design @ (weight[at] * rest[at]), rcond=1e-12)[0][:2]
            self.place[d] += np.clip(move, -0.1, 0.1)
        self.shape, self.envelope = self.profile()

    def fit_gains(self, weight: np.ndarray) -> None:
        """Fit a factor of every exposure on the star, linear in wavelength between nodes, of mean 1."""
        one = self.star / self.gains() * self.shape
        rest = self.pixels.flux - self.host
        for d in range(self.place.shape[0]):
            at = self.pixels.dither == d
            near = np.maximum(1 - np.abs(self.node[at, None] - np.arange(_NODES)), 0)
            design = near * one[at, None]
            normal = design.T @ (design * weight[at, None])
            prior = 1e-6 * np.trace(normal) * np.eye(_NODES)
            self.gain[d] = np.linalg.solve(normal + prior, design.T @ (weight[at] * rest[at]) + prior.sum(axis=1))
        self.gain /= self.gain.mean(axis=0)

    def fit_profile(self, weight: np.ndarray) -> None:
        """Fit the corrections of the profile at each node to all exposures and slices."""
        from ._point_kernels import correction_at, correction_equations

        (a, b), n = self.offsets(), _N_SPLINE**2
        u, v, now = a / self.fwhm, b / self.fwhm, np.empty(a.size)
        correction_at(u, v, self.node, self.correction, REACH, KNOT, now)
        rest = self.pixels.flux - self.host - self.star * (self.shape - self.envelope * now)
        size = n + self.wide - 1
        normal, right = np.zeros((_NODES, size, size)), np.zeros((_NODES, size))
        scale = self.star * self.envelope
        correction_equations(u, v, self.node, scale, *self.field(), rest, weight, REACH, KNOT, normal, right)
        edge = np.zeros((_N_SPLINE, _N_SPLINE), bool)
        edge[:3], edge[-3:], edge[:, :3], edge[:, -3:] = True, True, True, True  # the profile ends as it starts
        prior = np.where(edge.ravel(), 1e12, 1.0) / _PRIOR[self.images is not None] ** 2
        for k in range(_NODES):
            full = np.triu(normal[k]) + np.triu(normal[k], 1).T
            full[np.diag_indices(size)] += np.append(prior, np.full(size - n, 1e-9 * full[n, n]))
            self.correction[k] = np.linalg.solve(full, right[k])[:n].reshape(_N_SPLINE, _N_SPLINE)
        self.shape, self.envelope = self.profile()

    def fit_lines(self, smooth: np.ndarray) -> None:
        """Fit star and host once more where the host has lines, which change from place to place within the PSF.

        There the finer host takes some of the light that the profile does not follow; the spectrum is scaled to what
        it was in the continuum beside the lines.
        """
        nodes = np.arange(smooth.size)
        for column in self.found.T[1:]:
            column[:] = np.interp(nodes, nodes[smooth > _LINE], column[smooth > _LINE])
        self.evaluate()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], smooth <= _LINE, [0]]).astype(int))).reshape(-1, 2)
        before, weight = self.found[:, 0].copy(), 1.0 / self.noise(self.star * self.shape)
        for _ in range(2):  # what is off the model is known after the first
            for first, last in edges:
                self._fit_line(weight, before, smooth, first, last)
            weight = self.weights()

    def _fit_line(self, weight: np.ndarray, before: np.ndarray, smooth: np.ndarray, first: int, last: int) -> None:
        """Fit star and a finer host at the nodes of a line and some beside it."""
        from ._point_kernels import light_at, light_equations

        low, high = max(first - _MARGIN, 0), min(last + _MARGIN, smooth.size)
        at = np.flatnonzero((self.sample >= low) & (self.sample < high - 3))
        (x, y, *_), (degree, n), wide, gain = self.field(), _FINE, 1 + sum(_FINE) ** 2, self.gains()[at]
        band, right = np.zeros((4 * wide, (high - low) * wide)), np.zeros((high - low) * wide)
        place = (self.sample[at] - low, x[at], y[at], degree, n)
        columns = (place[0], self.shape[at] * gain, *place[1:], self.pixels.flux[at], weight[at])
        light_equations(*columns, band, right)
        diagonal = band[0].reshape(-1, wide)
        diagonal += np.append(1e-6 * np.median(diagonal[:, 0]), np.full(wide - 1, 1e-3 * np.median(diagonal[:, 1:])))
        stiff = np.zeros((high - low, wide))
        stiff[:, 0] = self.stiff[low:high] * np.median(diagonal[:, 0])
        add_smoothness(band, stiff, wide)
        found = solveh_banded(band, right, lower=True, overwrite_ab=True).reshape(-1, wide)
        beside = smooth[low:high] > _LINE
        scale = before[low:high][beside].sum() / found[beside, 0].sum() if beside.any() else 1.0
        self.found[first:last, 0] = scale * found[first - low : last - low, 0]
        star, host = np.empty(at.size), np.empty(at.size)
        light_at(*place, found, star, host)
        here = (self.number[at] + 1 >= first) & (self.number[at] + 1 < last)
        inside, star, total = at[here], scale * (star * gain)[here], (star * gain * self.shape[at] + host)[here]
        self.star[inside], self.host[inside] = star, total - star * self.shape[inside]

    def run(self, rounds: int = 3) -> None:
        """Fit light, places, gains and profile in turn."""
        even = np.full(self.n_sample + 3, _SMOOTH)
        for _ in range(rounds):
            self.fit_light(self.weights(), even)
            smooth = self.lines()
            self.fit_places(self.weights())
            self.fit_gains(self.weights())
            clean = (smooth[self.number + 1] > _LINE) | (self.around == "level")
            clean |= bool(clean.mean() < 0.5)
            self.fit_profile(self.weights() * clean)
            self.floor = max(self.misfit(clean), _FLOOR[1])
        self.fit_light(self.weights(), even)
        self.smooth = self.lines()
        self.fit_light(self.weights(), self.smooth)
        if self.around == "host":
            self.fit_lines(self.smooth)


@dataclass(frozen=True)
class PsfImages:
    """Images of a PSF as the detector sees it: mean over a pixel and the width of a slice, at places from the source.

    ``wavelength`` [um], ``step`` [arcsec] of both axes, ``images`` (wavelength, alpha, beta) with the source in the
    middle.
    """

    wavelength: np.ndarray
    step: float
    images: np.ndarray

    def at(self, a: np.ndarray, b: np.ndarray, wavelength: np.ndarray) -> np.ndarray:
        """Return the images at places from the source [arcsec] and wavelengths [um], 0 outside."""
        from scipy.ndimage import map_coordinates

        place = [x / self.step + 0.5 * (n - 1) for x, n in zip((a, b), self.images.shape[1:], strict=True)]
        grid = np.arange(self.wavelength.size)
        plane = np.interp(wavelength, self.wavelength, grid)
        low = np.minimum(plane.astype(int), max(self.wavelength.size - 2, 0))
        out = np.zeros(a.size)
        for k in np.unique(low):
            at = low == k
            for m in (k, min(k + 1, grid[-1])):
                share = 1 - abs(plane[at] - m) if m != k or grid[-1] > k else 1.0
                values = map_coordinates(self.images[m], [x[at] for x in place], order=3, mode="constant")
                out[at] += share * values
                if m == grid[-1]:
                    break
        return out


def start_profile(r2: np.ndarray) -> np.ndarray:
    """Return the profile to start from at squared radii [FWHM2]: Moffat, FWHM 1, exponent 2.5, 1 at its peak."""
    return (1.0 + 4.0 * (2.0**0.4 - 1.0) * r2) ** -2.5


def profile_at(a, b, wavelength, node, correction, images: PsfImages | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the profile at places from the source [arcsec], and the envelope of its corrections."""
    from ._point_kernels import correction_at

    fwhm = psf_fwhm(wavelength)
    u, v, change = a / fwhm, b / fwhm, np.empty(a.size)
    start = start_profile(u * u + v * v)
    envelope = start + 0.002 / (1 + 0.25 * (u * u + v * v))
    correction_at(u, v, node, correction, REACH, KNOT, change)
    if images is not None:
        start = images.at(a, b, wavelength)
    return start + envelope * change, envelope


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


def _linear(table: np.ndarray, row: np.ndarray, node: np.ndarray) -> np.ndarray:
    """Return values of rows of a table, linear between its columns."""
    low = np.clip(node.astype(int), 0, table.shape[1] - 2)
    share = np.clip(node - low, 0, 1)
    return (1 - share) * table[row, low] + share * table[row, low + 1]
