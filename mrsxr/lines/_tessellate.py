"""Bins of points on a plane that reach a signal to noise together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from mrsxr.errors import MrsxrError
from mrsxr.notes import caught_warnings

Method = Literal["weighted", "voronoi"]
_ROUNDNESS = 0.5  # how far a bin may be from a disc while it grows
_FULL = 0.8  # part of the target from which a bin counts as full
_ROUNDS = 40
_BLOCK = 1_000_000  # distances at a time
Factor = Callable[[np.ndarray], np.ndarray]


def tessellate(
    x: np.ndarray, y: np.ndarray, signal: np.ndarray, noise: np.ndarray, target: float, factor: Factor, method: str
) -> np.ndarray:
    """Return the bin of each point, int32 from 0 without gaps.

    Parameters
    ----------
    x, y : float64 array (point)
        [spaxel]
    signal, noise : float64 array (point)
    target : float
        Signal to noise.
    factor : callable
        Factor on the noise of N spaxels.
    method : {"weighted", "voronoi"}
        See :func:`mrsxr.lines.binning.bin_labels`.
    """
    single = signal / noise
    whole = signal.sum() / (np.sqrt((noise**2).sum()) * factor(np.array([x.size]))[0])
    if single.min() >= target:
        return np.arange(x.size, dtype=np.int32)
    if not whole > target:
        return np.zeros(x.size, np.int32)
    if method == "voronoi":
        return _by_vorbin(x, y, signal, noise, target, factor)
    labels = _accrete(x, y, signal, noise, target, factor)
    return _numbered(_even_out(x, y, signal, noise, target, factor, labels))


def _accrete(
    x: np.ndarray, y: np.ndarray, signal: np.ndarray, noise: np.ndarray, target: float, factor: Callable[..., Any],
) -> np.ndarray:  # fmt: skip
    """Grow bins from the brightest point outwards; points of bins that stay too faint join the nearest full one."""
    labels = np.full(x.size, -1)
    full: list[int] = []
    start = int(np.argmax(signal / noise))
    done_x = done_y = done = 0.0
    for number in range(x.size):
        members = [start]
        labels[start] = number
        while True:
            s, e = signal[members].sum(), np.sqrt((noise[members] ** 2).sum()) * factor(np.array([len(members)]))[0]
            if s / e >= target:
                break
            free = np.nonzero(labels < 0)[0]
            if free.size == 0:
                break
            cx, cy = x[members].mean(), y[members].mean()
            best = free[np.argmin((x[free] - cx) ** 2 + (y[free] - cy) ** 2)]
            more = [*members, int(best)]
            touching = np.min((x[members] - x[best]) ** 2 + (y[members] - y[best]) ** 2) <= 2.0
            error = np.sqrt((noise[more] ** 2).sum()) * factor(np.array([len(more)]))[0]
            now = signal[more].sum() / error
            if not touching or _elongation(x[more], y[more]) > _ROUNDNESS or abs(now - target) > abs(s / e - target):
                break
            members = more
            labels[best] = number
        if s / e >= _FULL * target:
            full.append(number)
        done_x, done_y, done = done_x + x[members].sum(), done_y + y[members].sum(), done + len(members)
        free = np.nonzero(labels < 0)[0]
        if free.size == 0:
            break
        start = int(free[np.argmin((x[free] - done_x / done) ** 2 + (y[free] - done_y / done) ** 2)])
    if not full:
        return np.zeros(x.size, int)
    centre = np.array([[x[labels == k].mean(), y[labels == k].mean()] for k in full])
    loose = ~np.isin(labels, full)
    distance = (x[loose, None] - centre[:, 0]) ** 2 + (y[loose, None] - centre[:, 1]) ** 2
    out = np.searchsorted(full, labels)
    out[loose] = np.argmin(distance, axis=1)
    return out


def _elongation(x: np.ndarray, y: np.ndarray) -> float:
    """Return by how much the farthest point is further than on the edge of a disc of the same area."""
    radius = np.sqrt(x.size / np.pi)
    return float(np.sqrt(((x - x.mean()) ** 2 + (y - y.mean()) ** 2).max()) / radius - 1.0)


def _even_out(
    x: np.ndarray, y: np.ndarray, signal: np.ndarray, noise: np.ndarray, target: float, factor: Callable[..., Any],
    labels: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return the bins after rounds of the weighted Voronoi tessellation, the best of them by their spread.

    It need not settle, as bins can take turns: the bins of any round are bins, and the best seen are returned.

    Diehl & Statler (2006): a point belongs to the generator with the least |r - z_k| / d_k,
    d_k^2 = (area_k / pi) (target / signal to noise of k), z_k the centre of the bin.
    """
    best, least = labels, np.inf
    for _ in range(_ROUNDS):
        labels = _numbered(labels)
        n = int(labels.max()) + 1
        area = np.bincount(labels, minlength=n).astype(float)
        ratio = np.bincount(labels, signal, n) / (np.sqrt(np.bincount(labels, noise**2, n)) * factor(area))
        spread = float(np.mean(np.minimum(ratio / target - 1.0, 0.5 / np.sqrt(area)) ** 2))
        if spread < least * (1.0 - 1e-6):
            best, least = labels, spread
        centre_x, centre_y = np.bincount(labels, x, n) / area, np.bincount(labels, y, n) / area
        square = area / np.pi * target / np.clip(ratio, 0.1 * target, 10.0 * target)
        new = np.empty_like(labels)
        for part in np.array_split(np.arange(x.size), 1 + x.size * n // _BLOCK):
            distance = ((x[part, None] - centre_x) ** 2 + (y[part, None] - centre_y) ** 2) / square
            new[part] = np.argmin(distance, axis=1)
        if (new == labels).all():
            break
        labels = new
    return best


def _numbered(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int32)


def _by_vorbin(
    x: np.ndarray, y: np.ndarray, signal: np.ndarray, noise: np.ndarray, target: float, factor: Callable[..., Any],
) -> np.ndarray:  # fmt: skip
    """Return the bins of Cappellari's vorbin."""
    try:
        with caught_warnings(UserWarning):  # that the author has a newer package
            from vorbin.voronoi_2d_binning import voronoi_2d_binning
    except ImportError as error:
        raise MrsxrError(
            "method 'voronoi' needs the package vorbin (pip install vorbin; its licence allows non-commercial use "
            "only); the default method 'weighted' needs nothing"
        ) from error

    def ratio(index: np.ndarray, s: np.ndarray, e: np.ndarray) -> float:
        count = np.atleast_1d(np.asarray(index)).size
        return float(np.sum(s[index]) / (np.sqrt(np.sum(e[index] ** 2)) * factor(np.array([count]))[0]))

    options = {"pixelsize": 1.0, "plot": False, "quiet": True, "sn_func": ratio}
    try:
        with caught_warnings(UserWarning):
            found = voronoi_2d_binning(x, y, signal, noise, target, **options)
    except (ValueError, AssertionError) as error:
        raise MrsxrError(f"vorbin made no bins: {error}; take another signal to noise or method 'weighted'") from error
    return _numbered(np.asarray(found[0]))
