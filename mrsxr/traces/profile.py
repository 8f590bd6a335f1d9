"""The profile of a point on the detector: a Moffat function, or images, corrected by B-splines of the place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mrsxr.mrs import psf_fwhm

#: Half side of the box around a source and spacing of the splines of the profile [FWHM].
REACH, KNOT = 4.0, 0.4
_PHASES = 4  # of a pixel along each axis


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
    spread = 1.0 + 4.0 * (2.0**0.4 - 1.0) * r2
    return 1.0 / (spread * spread * np.sqrt(spread))  # a power takes four times as long


def profile_at(
    a: np.ndarray,
    b: np.ndarray,
    wavelength: np.ndarray,
    node: np.ndarray,
    correction: np.ndarray,
    images: PsfImages | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the profile at places from a source [arcsec], and the envelope of its corrections."""
    fwhm = psf_fwhm(wavelength)
    u, v = a / fwhm, b / fwhm
    start = start_profile(u * u + v * v)
    envelope = start + 0.002 / (1 + 0.25 * (u * u + v * v))
    change = correction_at(u, v, node, correction, REACH, KNOT)
    if images is not None:
        start = images.at(a, b, wavelength)
    return start + envelope * change, envelope


def correction_at(
    u: np.ndarray, v: np.ndarray, node: np.ndarray, correction: np.ndarray, reach: float, knot: float
) -> np.ndarray:
    """Return the corrections at places from a source [FWHM], 0 outside of ``reach``."""
    from mrsxr.compiled import read_only

    from . import _trace_kernels as kernels

    out = np.empty(u.size)
    u, v, node, correction = read_only(u, v, node, correction)
    kernels.correction_at(u, v, node, correction, reach, knot, out)
    return out


def uneven(wavelength: float, steps: tuple[float, float], images: PsfImages | None) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much sums of the profile over all pixels change with where between them the source lies, relative.

    Pixels and slices lie side by side, so that the sums are the same light wherever the source lies: what a few
    exposures show of the profile leaves its light between them open, this does not.

    Parameters
    ----------
    wavelength : float [um]
    steps : (float, float)
        Width of a pixel and of a slice [arcsec].
    images : PsfImages, optional
        The profile to start from.

    Returns
    -------
    float64 (phase, spline), (phase)
        Of a unit of each correction, and of the start.
    """
    from ._trace_kernels import correction_equations

    fwhm, n = float(psf_fwhm(wavelength)), round(2 * REACH / KNOT) + 3
    axes = [step * np.arange(-np.ceil(1.5 * REACH * fwhm / step), 1.5 * REACH * fwhm / step + 1) for step in steps]
    a, b = (one.ravel() for one in np.meshgrid(*axes))
    one, none, unused = np.ones(a.size), np.zeros((0, a.size)), np.zeros((1, n * n, n * n))
    start, parts = np.empty(_PHASES**2), np.zeros((_PHASES**2, 1, n * n))
    for k, (i, j) in enumerate(np.ndindex(_PHASES, _PHASES)):
        x, y = a + steps[0] * i / _PHASES, b + steps[1] * j / _PHASES
        shape, envelope = profile_at(x, y, wavelength * one, 0 * one, np.zeros((2, n, n)), images)
        start[k], grid = shape.sum(), ((x / fwhm)[None], (y / fwhm)[None], 0 * one, envelope[None])
        correction_equations(*grid, x, y, 0, 0, none, one, one, REACH, KNOT, unused, parts[k])
    return (parts[:, 0] - parts[:, 0].mean(axis=0)) / start.mean(), start / start.mean() - 1


def apart(place: np.ndarray) -> np.ndarray:
    """Return how far sources (source, dither, axis) stand from each other, mean over exposures (source, source)."""
    return np.hypot(*np.moveaxis(place[:, None] - place, 3, 0)).mean(axis=2)


def shifts(
    dither: np.ndarray, slopes: np.ndarray, light: np.ndarray, rest: np.ndarray, weight: np.ndarray, n: int
) -> Any:
    """Return by how much sources move: all alike in each exposure, and those after the first, in all exposures alike.

    Parameters
    ----------
    dither : int array (pixel)
    slopes : float64 (source, axis, pixel)
        What a move [arcsec] of a source gives.
    light : float64 (source, pixel)
        Of each source, whose brightness is free.
    rest, weight : float64 (pixel)
        Flux less the model.
    n : int
        Exposures.

    Returns
    -------
    float64 (source, dither, axis), at most 0.1 arcsec each
    """
    more = 3 * (len(light) - 1)
    size, rows = 3 * n + more, np.concatenate([slopes.sum(axis=0), light.sum(axis=0)[None]])
    each = np.concatenate([slopes[1:], light[1:, None]], axis=1).reshape(more, rest.size)
    normal, right = np.zeros((size, size)), np.zeros(size)
    for d in range(n):
        at = dither == d
        design, where = np.concatenate([rows[:, at], each[:, at]]), np.r_[3 * d : 3 * d + 3, 3 * n : size]
        normal[np.ix_(where, where)] += (design * weight[at]) @ design.T
        right[where] += design @ (weight[at] * rest[at])
    found = np.linalg.lstsq(normal, right, rcond=1e-12)[0].reshape(-1, 3)[:, :2]
    moved = found[None, :n] + np.concatenate([np.zeros((1, 2)), found[n:]])[:, None]
    return np.clip(moved, -0.1, 0.1)
