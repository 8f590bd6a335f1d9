"""Find showers in coarse maps of an exposure and model them: a smooth map of charge times a decay over the groups.

Symbols: v = charge beyond the slope [electron] of a cell in one difference, w = its inverse variance, both
(integration, group, y, x) with a difference at its later group; A = map of a shower, f = its share in each difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

_SCALES = (1.5, 4.0)  # cells, Gaussians with which showers are looked for
_STACK = 4  # differences from the onset on that are added up to see the outline
_OUTLINE, _RIM = 2.5, 0.01  # sigma and share of the top, to which a shower reaches; what is beyond is looked for again
_MARGIN = 3  # cells around the outline
_FEWEST_CELLS = 6
_LARGEST = 0.5  # of the cells; what is larger cannot be told from a drift of all
_MOST_LOOKS = 1000  # at what is significant; what is no shower does not end the search
_DECAYS = np.geomspace(0.25, 40.0, 250)  # groups
_QUIET = 0.005  # of the largest share
_FEWEST_QUIET = 8  # differences
_FEWEST_OUTSIDE = 0.2  # of the cells
_NEGLIGIBLE = 1e-3  # of the largest share
_LOW_QUANTILES = (0.1, 0.25)  # a shower raises the others
_SIGMA_BETWEEN = 0.6071  # of a normal distribution


@dataclass
class Exposure:
    """Maps of one exposure on the way through the search; ``used`` (integration, group) tells what holds data."""

    value: np.ndarray
    weight: np.ndarray
    used: np.ndarray
    mean_weight: np.ndarray
    gap: np.ndarray


def find_model(coarse: np.ndarray, gap: np.ndarray, threshold: float, min_diffs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the charge that showers have left up to each group, and the score of the model.

    Parameters
    ----------
    coarse : ndarray (..., part, integration, group, y, x)
        v and w of :func:`mrsxr.rate._shower_model_kernels.coarse_maps`.
    gap : ndarray (y, x)
        Share of the pixels of a cell that lie between the slices; NaN where not known.
    threshold : float
        Significance [sigma] from which a shower is one.
    min_diffs : int
        With fewer differences nothing is looked for.

    Returns
    -------
    ndarray (..., integration, group, y, x) [electron], 0 where there is no shower; ndarray (...), the misfit of cells
    left out over that without a model, NaN where there is no shower
    """
    out = np.zeros((*coarse.shape[:-5], *coarse.shape[-4:]), dtype=np.float32)
    scores = np.full(coarse.shape[:-5], np.nan, dtype=np.float32)
    for place in np.ndindex(coarse.shape[:-5]):
        value, weight = coarse[place]
        used = weight.any(axis=(2, 3))
        if used.sum() >= min_diffs:
            steps, squares = _find_showers(prepare(value, weight, used, gap), threshold)
            if squares[1] > 0:
                out[place], scores[place] = np.cumsum(steps, axis=1), np.sqrt(squares[0] / squares[1])
    return out, scores


def prepare(value: np.ndarray, weight: np.ndarray, used: np.ndarray, gap: np.ndarray) -> Exposure:
    """Return the maps without what is common to all cells of a difference and to all differences of a cell."""
    value = value.copy()
    lit = weight.any(axis=(0, 1))
    for i, g in zip(*np.nonzero(used), strict=True):
        value[i, g] -= _level(value[i, g][lit])
    value[used] -= np.median(value[used], axis=0)
    value[weight == 0] = 0
    return Exposure(value, weight, used, weight[used].mean(axis=0), gap)


def _level(values: np.ndarray) -> float:
    """Return the median of what is not raised."""
    kept = np.sort(values)
    for _ in range(3):
        n = int(np.searchsorted(kept, _middle(kept) + 2.5 * _spread(kept)))
        if n in (0, kept.size):
            break
        kept = kept[:n]
    return float(_middle(kept))


def _middle(ordered: np.ndarray) -> np.float32:
    n = ordered.size
    return ordered.dtype.type(0.5) * (ordered[(n - 1) // 2] + ordered[n // 2])


def _scatter(values: np.ndarray) -> float:
    """Return the standard deviation of the normal distribution with the same low quantiles."""
    return _spread(np.partition(values, _low_places(values.size)))


def _spread(ordered: np.ndarray) -> float:
    low, high = _low_places(ordered.size)
    return float(ordered[high] - ordered[low]) / _SIGMA_BETWEEN


def _low_places(n: int) -> list[int]:
    return [int(q * (n - 1)) for q in _LOW_QUANTILES]


def _find_showers(exposure: Exposure, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Take the most significant shower, subtract it, look again.

    Return the charge of each difference, and the squared misfits of left-out cells with the model and without. A shower
    that does not tell left-out cells is none.
    """
    model, squares = np.zeros_like(exposure.value), np.zeros(2)
    score = np.stack([significance(exposure, i) for i in range(len(model))])
    closed = np.zeros(score.shape, dtype=bool)
    for _ in range(_MOST_LOOKS):
        score[closed] = 0
        i, g, y, x = (int(k) for k in np.unravel_index(np.argmax(score), score.shape))
        if not score[i, g, y, x] > threshold:
            break
        onset = _onset(score[i, :, y, x], exposure.used[i], g)
        outline = _outline(exposure, i, onset, (y, x))
        n, most = int(outline.sum()), _LARGEST * (exposure.mean_weight > 0).sum()
        fitted = _fit(exposure, i, onset, outline, threshold) if _FEWEST_CELLS <= n <= most else None
        held = left_out(exposure, i, outline, *fitted) if fitted is not None else np.ones(2)
        if fitted is None or not held[0] < held[1]:  # not a shower: do not look here again
            closed[i, max(0, g - 1) : g + 2] |= outline
            closed[i, g] |= _around(score[i, g] > threshold, (y, x))
            continue
        squares += held
        shape, share = fitted
        step = share[:, None, None] * shape
        model[i] += step
        exposure.value[i] -= np.where(exposure.weight[i] > 0, step, 0)
        score[i] = significance(exposure, i)
    return model, squares


def left_out(exposure: Exposure, i: int, outline: np.ndarray, shape: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the squared misfits of every second cell with a map of the others, then of the rest; and without a map.

    To the first two standard errors of the gain are added, from how it differs from cell to cell: what bends all bright
    ramps is no shower, though a map of it gains in some cells what it loses in others.
    """
    planes = share > _NEGLIGIBLE
    value, weight = exposure.value[i, planes], exposure.weight[i, planes]
    square = np.einsum("g,gyx->yx", share[planes] ** 2, weight)
    raw = np.einsum("g,gyx->yx", share[planes], weight * value) / np.maximum(square, np.float32(1e-12))
    even = np.indices(outline.shape).sum(axis=0) % 2 == 0
    gains, plain = [], 0.0
    for kept in (even, ~even):
        expected = smooth(np.where(kept, raw, 0), np.where(kept, square, 0), _width(outline))
        here = ~kept & (shape != 0)
        misfit = value[:, here] - share[planes][:, None] * expected[here]
        with_map, without = (np.sum(weight[:, here] * off**2, axis=0) for off in (misfit, value[:, here]))
        gains.append(without - with_map)
        plain += float(np.sum(without))
    gain = np.concatenate(gains)
    return np.array([plain - np.sum(gain) + 2.0 * np.std(gain) * np.sqrt(gain.size), plain])


def significance(exposure: Exposure, i: int) -> np.ndarray:
    """Return (group, y, x) the larger significance [sigma] of a raised patch at either scale, 0 without data.

    Where the sums scatter more, over a difference or over the integration, than the noise of the pixels, that counts.
    """
    best = np.zeros(exposure.value.shape[1:], dtype=np.float32)
    weighted = exposure.value[i] * exposure.weight[i]
    for scale in _SCALES:
        total = ndimage.gaussian_filter(weighted, (0, scale, scale), truncate=3.0, mode="constant")
        score = total / _scatter_of_total(exposure.mean_weight, scale)
        lit = exposure.mean_weight > 0
        planes = np.nonzero(exposure.used[i])[0]
        typical = _scatter(score[planes][:, lit].ravel()) if planes.size else 1.0
        for g in planes:
            scatter = max(1.0, typical, _scatter(score[g][lit]))
            np.maximum(best[g], score[g] / scatter, out=best[g])
    return best


def _scatter_of_total(weight: np.ndarray, scale: float) -> np.ndarray:
    """Return the scatter of the Gaussian sum of w v, from that of the squared Gaussian over w."""
    variance = ndimage.gaussian_filter(weight, scale / np.sqrt(2.0), truncate=3.0, mode="constant")
    return np.sqrt(np.maximum(variance, np.float32(1e-6) * weight.max()) / np.float32(4 * np.pi * scale**2))


def _onset(score: np.ndarray, used: np.ndarray, g: int) -> int:
    """Return the first group of a shower whose most significant one is g."""
    limit = max(4.0, 0.15 * score[g])
    while g > 1 and used[g - 1] and score[g - 1] > limit:
        g -= 1
    return g


def _outline(exposure: Exposure, i: int, onset: int, place: tuple[int, int]) -> np.ndarray:
    """Return the cells that hang together with ``place`` and are raised in the differences after the onset."""
    planes = slice(onset, onset + _STACK)
    n = max(1, int(exposure.used[i, planes].sum()))
    weighted = (exposure.value[i, planes] * exposure.weight[i, planes]).sum(axis=0)
    scale = _SCALES[0]
    total = ndimage.gaussian_filter(weighted, scale, truncate=3.0, mode="constant")
    limit = _OUTLINE * np.sqrt(n) * _scatter_of_total(exposure.mean_weight, scale)
    raised = total > np.maximum(limit, _RIM * total[place])
    return _around(raised, place)


def _around(raised: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    """Return the raised cells that hang together with a place."""
    labels, _ = ndimage.label(raised, np.ones((3, 3)))
    return (labels == labels[place]) & raised


def _fit(
    exposure: Exposure, i: int, onset: int, outline: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return map A [electron] and shares f (group) of a shower, or None where it is none."""
    mask = ndimage.binary_dilation(outline, np.ones((3, 3)), iterations=_MARGIN)
    width = _width(outline)
    value, weight = exposure.value[i], exposure.weight[i]
    share = np.zeros(value.shape[0], dtype=np.float32)
    share[onset : onset + _STACK] = 1
    for attempt in range(4):
        if attempt == 1:
            _renew_baseline(exposure, i, share, mask)
        square = np.einsum("g,gyx->yx", share**2, weight)
        raw = np.einsum("g,gyx->yx", share, weight * value) / np.maximum(square, np.float32(1e-12))
        shape = np.where(mask, smooth(raw, square, width), 0).astype(np.float32)
        if not (shape.any() and np.isfinite(shape).all()):
            return None
        shares, error = _shares(exposure, shape)
        found = decay(shares, error, i, onset)
        if found is None:
            return None
        scale = found.max()
        share, shape = found / scale, shape * scale
    if not _is_shower(exposure, shares, error, (i, onset), threshold) or _bends(shares[i], error[i], share * scale):
        return None
    if not _seen_between_slices(exposure, i, shape, share, threshold):
        return None
    share[share < _NEGLIGIBLE] = 0
    return shape, share.astype(np.float32)


def _width(outline: np.ndarray) -> float:
    """Return the standard deviation [cells] of the Gaussian that smooths the map of a shower."""
    return float(np.clip(0.12 * np.sqrt(outline.sum() / np.pi), 0.7, 2.5))


def _renew_baseline(exposure: Exposure, i: int, share: np.ndarray, mask: np.ndarray) -> None:
    """Take the levels of the differences from the cells without the shower, and those of its cells from quiet times.

    Both held some of the shower when they were first taken.
    """
    lit = exposure.mean_weight > 0
    outside = lit & ~mask
    if outside.sum() > _FEWEST_OUTSIDE * lit.sum():
        for g in np.nonzero(exposure.used[i])[0]:
            exposure.value[i, g][lit] -= _level(exposure.value[i, g][outside])
    quiet = exposure.used.copy()
    quiet[i] &= share < _QUIET
    if quiet.sum() >= _FEWEST_QUIET:
        here = exposure.value[:, :, mask]
        here -= np.median(here[quiet], axis=0)
        exposure.value[:, :, mask] = here
    exposure.value[exposure.weight == 0] = 0


def smooth(raw: np.ndarray, weight: np.ndarray, width: float) -> np.ndarray:
    """Return a weighted Gaussian mean that keeps the shape: what it takes from the peak is put back twice."""
    norm = np.maximum(ndimage.gaussian_filter(weight, width), np.float32(1e-9) * weight.max() + np.float32(1e-30))
    found = np.zeros_like(raw)
    for _ in range(3):
        found = found + ndimage.gaussian_filter(weight * (raw - found), width) / norm
    return found


def _shares(exposure: Exposure, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the amplitude (integration, group) of a map in every difference and its error; inf without data."""
    y, x = np.nonzero(shape)
    ys, xs = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
    part, weight = shape[ys, xs], exposure.weight[:, :, ys, xs]
    square = np.einsum("yx,igyx->ig", part**2, weight)
    product = np.einsum("yx,igyx->ig", part, weight * exposure.value[:, :, ys, xs])
    known = square > 1e-3 * square.max()
    amplitude = np.divide(product, square, out=np.zeros_like(product), where=known)
    return amplitude, np.where(known, 1 / np.sqrt(np.where(known, square, 1)), np.inf)


def decay(shares: np.ndarray, error: np.ndarray, i: int, onset: int) -> np.ndarray | None:
    """Fit the share of each difference: free at the onset, exponential after it, on a constant; None if it is not > 0.

    Differences far off the fit (another shower at the same place) are left out and the fit repeated.
    """
    after = np.arange(shares.shape[1]) - onset
    fall = np.where(after > 0, np.exp(-np.maximum(after - 1, 0) / _DECAYS[:, None]), 0)  # (decay time, group)
    good = np.isfinite(error)
    inverse = np.where(good, 1 / np.where(good, error, 1) ** 2, 0)
    inverse[i, onset] = 0  # free
    slack = 0.05 * shares[i].max()  # of the model, for very significant showers
    found = np.zeros(shares.shape[1])
    quiet = good.copy()
    quiet[i, onset:] = False
    if quiet.any():
        inverse[quiet & (np.abs(shares - np.median(shares[quiet])) > 5 * error + slack)] = 0
    for _ in range(3):
        one, y = inverse.sum(), (inverse * shares).sum()
        e, ee, ye = (rows @ inverse[i] for rows in (fall, fall**2, fall * shares[i]))
        height = np.maximum((one * ye - e * y) / np.maximum(one * ee - e**2, 1e-30), 0) if one > 0 else 0 * e
        constant = (y - height * e) / one if one > 0 else 0 * e
        drop = height**2 * ee + one * constant**2 + 2 * height * constant * e - 2 * height * ye - 2 * constant * y
        best = int(np.argmin(drop))
        found = height[best] * fall[best]
        found[onset] = max(0.0, shares[i, onset] - constant[best])
        expected = np.full(shares.shape, constant[best])
        expected[i] += found
        far = np.abs(shares - expected) > 5 * error + slack
        far[i, onset + 1 : onset + 2] = False
        inverse[far] = 0
    return found.astype(np.float32) if found.max() > 0 else None


def _is_shower(
    exposure: Exposure, shares: np.ndarray, error: np.ndarray, place: tuple[int, int], threshold: float
) -> bool:
    """Return False for what is not significant, was there before, or is there at the same group of all integrations."""
    i, onset = place
    first = shares[i, onset : onset + 2].max()
    if not first > threshold * error[i, onset]:
        return False
    before = [g for g in (onset - 1, onset - 2) if g > 0 and exposure.used[i, g]]
    if before and np.mean(shares[i, before]) > 0.5 * first:
        return False
    others = [k for k in range(len(shares)) if k != i and exposure.used[k, onset]]
    return not (others and np.median(shares[others, onset]) > 0.5 * first)


def _bends(shares: np.ndarray, error: np.ndarray, found: np.ndarray) -> bool:
    """Return whether a straight line tells the shares of a map better than the decay on a constant: ramps that bend."""
    known = np.isfinite(error)
    weight = 1.0 / error[known]
    group = np.flatnonzero(known)
    left = []
    for values, terms in ((shares, [np.ones(group.size), group]), (shares - found, [np.ones(group.size)])):
        matrix = np.stack(terms, axis=1) * weight[:, None]
        values = values[known] * weight
        left.append(np.sum((values - matrix @ np.linalg.lstsq(matrix, values, rcond=None)[0]) ** 2))
    return bool(left[0] < left[1])


def _seen_between_slices(exposure: Exposure, i: int, shape: np.ndarray, share: np.ndarray, threshold: float) -> bool:
    """Return False where the cells between the slices do not show what the others do."""
    cells = (exposure.gap > 0.5) & (shape != 0)
    weight = exposure.weight[i][:, cells] * share[:, None] ** 2
    square = np.sum(weight * shape[cells] ** 2)
    if not (cells.any() and square * 0.25 > threshold):  # too few of them to tell
        return True
    pull = np.sum(exposure.weight[i][:, cells] * share[:, None] * shape[cells] * exposure.value[i][:, cells])
    return bool(pull / square > 0.5)
