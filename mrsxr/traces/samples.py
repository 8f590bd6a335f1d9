"""Samples of spectra of point sources, each of the pixels nearest to it."""

from __future__ import annotations

import numpy as np

from .point import _LINE, PointFit, typical_of

_LEAST = 0.05  # of the usual weight of a sample
_HELD = 50.0  # samples that hold the smooth light of one


def samples_of(fit: PointFit) -> tuple[np.ndarray, ...]:
    """Return peaks of the sources, their variances, light around them (source, sample) and number of pixels (sample).

    A sample rests on the pixels nearest to it; that these lie at other wavelengths is made up for by the fitted
    spectra.
    """
    from ._trace_kernels import host_splines, light_at

    p, n, stars = fit.pixels, fit.n_sample, fit.n_source
    spectrum, host, (x, y, *_) = np.empty((stars, n)), np.empty((stars, n)), fit.field()
    for s, centre in enumerate((fit.place - fit.place.mean(axis=0)).mean(axis=1) / fit.half):
        there = np.full(n, centre[0]), np.full(n, centre[1])
        light_at(np.arange(n) * 1.0, *there, *fit.splines, fit.found, spectrum, host[s])
    shape, weight, number = fit.shape * fit.gains(), fit.weights(), fit.number
    lines = np.append(fit.smooth[1:-2], fit.smooth[-1])[:n] <= _LINE
    if fit.around == "level":
        lines[:] = False
    peak, variance = np.full((2, stars, n), np.nan)
    totals = np.stack([np.bincount(number, weight * one**2, n) for one in shape])
    usual = np.median(totals, axis=1)
    noise = [np.bincount(number, weight**2 * p.variance * one**2, n) for one in shape] / np.maximum(totals, 1e-30) ** 2
    slope = np.stack([_slope(*one) for one in zip(spectrum, noise, strict=True)])[:, number]
    flux = p.flux - fit.host - (slope * (fit.star * fit.shape - spectrum[:, number] * shape)).sum(axis=0)
    for k, at in enumerate(fit.parts):
        if (totals[:, k] < _LEAST * usual).any():
            continue
        degree, m = fit.fine if lines[k] else fit.splines
        splines = np.zeros((at.size, (m + degree) ** 2))
        host_splines(x[at], y[at], degree, m, splines)
        weighted = shape[:, at] * weight[at]
        cross, normal = weighted @ splines, splines.T @ (splines * weight[at, None]) * (1.0 if lines[k] else _HELD)
        normal[np.diag_indices(len(normal))] += 1e-3 * typical_of(np.diag(normal)) + 1e-30
        share = np.einsum("sm,ms->s", cross, np.linalg.solve(normal, cross.T)) / totals[:, k]
        inverse = np.linalg.inv(weighted @ shape[:, at].T)
        peak[:, k] = inverse @ (weighted @ flux[at])
        spread = inverse @ (weighted * p.variance[at]) @ weighted.T @ inverse
        variance[:, k] = np.diag(spread) / np.maximum(1.0 - share, 1e-3)
    return peak, variance, host, np.bincount(number, minlength=n).astype(float)


def _slope(spectrum: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return which part of the change of a spectrum from sample to sample is no noise."""
    change = np.convolve(np.pad(np.diff(spectrum) ** 2, 1, mode="edge"), np.ones(4) / 4, "same")[:-1]
    return np.clip(1.0 - 2.0 * noise / np.maximum(change, 1e-30), 0.0, 1.0)
