"""Wrappers that judge how jumps are found and slopes are fitted: the slopes of the two halves of a ramp must agree.

The halves are the early and the late groups of all integrations, or odd and even integrations, so they share neither
photons nor read noise. Each is treated by itself. What a method claims for a pixel is a slope a with variance v from
the one half and b, w from the other: its loss is that of a Gaussian, log(v + w) + (a - b)^2 / (v + w), which grows when
slopes scatter by more than their errors and when errors are larger than they need be; beyond CLIP sigma it grows no
more. The score of a method over another is the exponential of the mean difference of their losses plus two standard
errors: a ratio of variances, below 1 where there is a gain.

What all pixels share (drifts of the detector, light that jitters) is a single draw, however many pixels there are: it
may count against a method, never for it. So the score is the larger of two, with a - b as it is and less a constant and
a share of the slope that are common to all pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ._emicorr_fit_kernels import early_and_late, odd_and_even
from ._jump_kernels import dilate, find_jumps, merge
from ._likelihood_kernels import find_jumps_gls, fit_gls
from ._ramp_fit_kernels import fit_ols

HALF, SHORT = 5, 4  # groups of a half of ramps; groups below which integrations are not compared
CLIP = 25.0  # square of the sigmas
LEAST = 100  # pixels


def loss(early: tuple[np.ndarray, ...], late: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the loss of each pixel from (rate, var_poisson, var_read, dq) of both halves; NaN: no slope in one.

    The second plane (2, ...) is that without what all pixels share.
    """
    (a, v_a, flags_a), (b, v_b, flags_b) = [
        (one[0].astype(float), one[1].astype(float) + one[2], one[3]) for one in (early, late)
    ]
    variance = v_a + v_b
    good = (((flags_a | flags_b) & 1) == 0) & (variance > 0) & np.isfinite(a) & np.isfinite(b)
    variance, difference = np.where(good, variance, 1.0), np.where(good, a - b, 0.0)
    pull = difference / np.sqrt(variance)
    both = np.stack([pull, pull - _shared(pull, np.where(good, a + b, 0.0) / np.sqrt(variance), variance, good)])
    return np.where(good, np.log(variance) + np.minimum(both**2, CLIP), np.nan)


def _shared(pull: np.ndarray, slope: np.ndarray, variance: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return the part of the pulls that a constant and a share of the slope explain, without what is far off."""
    terms = np.stack([1.0 / np.sqrt(variance), slope], axis=-1)
    out, near = np.zeros_like(pull), good
    for _ in range(3):
        near = good & ((pull - out) ** 2 < CLIP)
        if near.sum() < LEAST:
            return np.zeros_like(pull)
        out = terms @ np.linalg.lstsq(terms[near], pull[near], rcond=None)[0]
    return out


def score(change: np.ndarray, errors: float = 2.0) -> float:
    """Return the score of the changes of loss (2, pixels) by a new method; NaN: the old one has no slope there."""
    change = change[:, ~np.isnan(change[0])]
    if change.shape[1] < LEAST:
        return np.nan
    each = np.mean(change, axis=1) + errors * np.std(change, axis=1) / np.sqrt(change.shape[1])
    return float(np.exp(min(each.max(), 10.0)))


def change_of(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Return by how much losses change; a pixel that the new method alone loses counts as an outlier."""
    return np.where(np.isnan(new) & ~np.isnan(old), CLIP, new - old)


def score_jumps(
    sci: np.ndarray, group_dq: np.ndarray, pixel_dq: np.ndarray, read_noise: np.ndarray, gain: np.ndarray,
    dark: np.ndarray, *linearity: np.ndarray, two_point: Any = None,
    likelihood: Any = None,
) -> np.ndarray:  # fmt: skip
    """Return the score (dither) of jumps by likelihood over those by the two-point test.

    Jumps are looked for in each half by itself: a search that sees the whole ramp draws the halves together by leaving
    out the noise that takes them apart. Both are fitted by the same generalised least squares, where they differ.

    Whole ramps of odd and even integrations tell most, but what repeats in all of them, as the settling after a reset
    does, draws both halves alike: there a gain counts only where the early and the late groups do not show harm.
    """
    pixels = (read_noise, gain, dark, *linearity)
    out = np.full(len(sci), np.nan, dtype=np.float32)
    group_dq, pixel_dq = np.broadcast_to(group_dq, sci.shape), np.broadcast_to(pixel_dq, (len(sci), *sci.shape[3:]))

    def by_likelihood(counts: np.ndarray, flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return find_jumps_gls(counts, flags, *pixels, **likelihood)

    def by_two_points(counts: np.ndarray, flags: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return find_jumps(counts, flags, read_noise, gain, usable_groups(flags), **two_point)

    n_integration, n_group = sci.shape[1:3]
    for d in range(len(sci)):
        ramps = sci[d : d + 1], group_dq[d : d + 1], pixel_dq[d : d + 1]
        found = [
            _change_by_jumps(by_likelihood, by_two_points, *ramps, pixels, parts, likelihood["group_time"])
            for parts in (odd_and_even(n_integration, n_group, SHORT), early_and_late(n_group, HALF))
            if parts
        ]
        if found:
            out[d] = max([score(found[0]), *(score(one, errors=-2.0) for one in found[1:])])
    return out


def _change_by_jumps(
    new: Callable[..., Any], old: Callable[..., Any], sci: np.ndarray, group_dq: np.ndarray, pixel_dq: np.ndarray,
    pixels: Sequence[np.ndarray], parts: list[tuple[slice, slice]], group_time: float,
) -> np.ndarray:  # fmt: skip
    """Return the change of loss (2, y, x) of one dither by the jumps that are found: 0 where both find the same."""
    ramps, flags = [], []
    for i, g in parts:
        counts, known = (np.ascontiguousarray(a[:, i, g]) for a in (sci, group_dq))
        ramps.append(counts)
        flags.append([merge(found[0], dilate(found[1])) for found in (find(counts, known) for find in (new, old))])
    differ = np.any([(a != b).any(axis=(0, 1, 2)) for a, b in flags], axis=0)
    change = np.where(pixel_dq & 1, np.nan, np.zeros((2, 1, 1)))
    if differ.any():
        bad, *pixels = (_chosen(a, differ) for a in (pixel_dq, *pixels))
        losses = [
            loss(*(fit_gls(_chosen(counts, differ), _chosen(found[k], differ), bad, *pixels, group_time=group_time,
                           find_jumps=False)[:4] for counts, found in zip(ramps, flags, strict=True)))
            for k in (0, 1)
        ]  # fmt: skip
        change[:, differ] = change_of(*losses).reshape(2, -1)
    return change.reshape(2, -1)


def _chosen(array: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return some pixels of an array (..., y, x) as one row."""
    return np.ascontiguousarray(array[..., where][..., None, :])


def judge_fits(
    sci: np.ndarray, group_dq: np.ndarray, pixel_dq: np.ndarray, read_noise: np.ndarray, gain: np.ndarray,
    dark: np.ndarray, *linearity: np.ndarray, group_time: float = 1.0, limits: tuple[int, int] = (0, 65535),
    gls: Any = None, ols: Any = None,
) -> np.ndarray:  # fmt: skip
    """Return the score (dither) of slopes by "gls" over those by "ols", both with the same flags."""

    def by_gls(counts: np.ndarray, flags: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, ...]:
        return fit_gls(counts, flags, bad, read_noise, gain, dark, *linearity, group_time=group_time, **gls)[:4]

    def by_ols(counts: np.ndarray, flags: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, ...]:
        return fit_ols(counts, flags, bad, read_noise, gain, dark, group_time=group_time, **ols)[:4]

    n_integration, n_group = sci.shape[1:3]
    first = limits[0]
    n_used = min(limits[1] + 1, n_group) - first
    parts = early_and_late(n_used, HALF, first) or odd_and_even(n_integration, n_used, SHORT, first)
    return _scores(by_gls, by_ols, sci, group_dq, pixel_dq, parts)


def usable_groups(group_dq: np.ndarray) -> np.ndarray:
    """Return how many groups (dither, integration, 1, 1) are not DO_NOT_USE in all pixels."""
    lost = ((group_dq & 1) != 0).all(axis=(-1, -2))
    return (~lost).sum(axis=2).astype(np.int32)[..., None, None]


def _scores(
    new: Callable[..., Any], old: Callable[..., Any], sci: np.ndarray, group_dq: np.ndarray, pixel_dq: np.ndarray,
    parts: list[Any],
) -> np.ndarray:  # fmt: skip
    """Return the score (dither) of two functions of (counts, group flags, pixel flags) -> slopes."""
    out = np.full(len(sci), np.nan, dtype=np.float32)
    group_dq = np.broadcast_to(group_dq, sci.shape)
    pixel_dq = np.broadcast_to(pixel_dq, (len(sci), *sci.shape[3:]))
    for d in range(len(sci) if parts else 0):
        losses = []
        for method in (new, old):
            fits = [
                method(*(np.ascontiguousarray(a[d : d + 1, i, g]) for a in (sci, group_dq)), pixel_dq[d : d + 1])
                for i, g in parts
            ]
            losses.append(loss(*fits).reshape(2, -1))
        out[d] = score(change_of(*losses))
    return out


# --- the methods, as an exposure is judged ---


def fit_judged(
    judged: np.ndarray, sci: np.ndarray, group_dq: np.ndarray, pixel_dq: np.ndarray, read_noise: np.ndarray,
    gain: np.ndarray, dark: np.ndarray, *linearity: np.ndarray, group_time: float = 1.0,
    limits: tuple[int, int] = (0, 65535), gls: Any = None,
    ols: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Return the outputs of ``fit_gls`` for dithers with a score ``judged`` (dither, y, x) below 1.

    Of the others those of ``fit_ols``, whose chi2 is NaN.
    """
    found = []
    for d in range(len(sci)):
        one = slice(d, d + 1)
        ramps = (sci[one], np.broadcast_to(group_dq, sci.shape)[one], pixel_dq[one], read_noise, gain, dark)
        if judged[d].flat[0] < 1.0:
            found.append(fit_gls(*ramps, *linearity, group_time=group_time, limits=limits, **gls))
            continue
        six = fit_ols(*ramps, group_time=group_time, limits=limits, **ols)
        chi2 = [np.full(part[0].shape, np.nan, dtype=np.float32) for part in (six[:6], six[6:])]
        found.append((*six[:6], chi2[0], *six[6:], chi2[1]))
    return found[0] if len(found) == 1 else tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def find_judged(
    judged: np.ndarray, usable: np.ndarray, sci: np.ndarray, group_dq: np.ndarray, read_noise: np.ndarray,
    gain: np.ndarray, dark: np.ndarray, *linearity: np.ndarray, two_point: Any = None,
    likelihood: Any = None,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Return the outputs of ``find_jumps_gls`` for dithers with a score below 1, else those of ``find_jumps``."""
    found = []
    for d in range(len(sci)):
        one = slice(d, d + 1)
        ramps = (sci[one], np.broadcast_to(group_dq, sci.shape)[one], read_noise, gain)
        if judged[d].flat[0] < 1.0:
            found.append(find_jumps_gls(*ramps, dark, *linearity, **likelihood))
        else:
            found.append(find_jumps(*ramps, usable[one], **two_point))
    return found[0] if len(found) == 1 else tuple(np.concatenate(parts) for parts in zip(*found, strict=True))
