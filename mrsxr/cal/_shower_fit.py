"""Method "gated" of clean_showers: showers are found between the slices and followed across them as smooth fields.

A shower is a patch of cells that is raised significantly at one of several scales. Its light is the most likely smooth
field (Gaussian process) through the cells, about one or two blobs where they fit; how long, wide, tilted and cusped,
follows from them, and which of it, from the light of the slices. Those that do not hold it keep their light
(:mod:`._shower_slices`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.optimize import least_squares

from mrsxr._solve_kernels import substitute
from mrsxr.compiled import read_only

from ._clean_showers_kernels import (
    LINE_ROWS,
    NOISE_ROWS,
    doubt_light,
    gaussian_taps,
    keep_between,
    level_of,
    light_nearby,
    noise_of_rows,
    smooth,
)
from ._shower_fit_kernels import CELL_X, CELL_Y, doubt_field, expect, factor, fill_cells, misfit
from ._shower_slices import Gap, Slices, gaps_of, spilled_light

SCALES = (4.0, 7.0, 12.0, 20.0, 34.0, 58.0)  # pixels, Gaussians with which showers are looked for
PASSES = 4  # after the bright showers the faint ones beside them are looked for
LIMIT = 0.9  # of the misfit of left-out cells of a patch
_GROWN, _RIM, _MOST_PATCHES = 2.5, 0.12, 200  # sigma and share of the top, to which a patch reaches
_MARGIN, _MARGIN_SHARE = 10.0, 1.2  # pixels around a patch, and share of its scale
_MOST_CELLS = 320
_FEWEST_CELLS = 6
_BESIDE = 2  # pixels beside the slices, into which their light spills
_GRID, _VARIANCE_GRID = 2, 8  # pixels between which the field is interpolated
_STEPS, _ROUNDS, _ENOUGH = (0.5, 0.25, 0.12), 40, 0.05  # of logarithms of the form; -log likelihood
#: What is usual of blobs: round by the log of their axes, not much higher than seen by its log, a power about 2.
_USUAL = (0.7, 0.5, 1.5)
_NUMBERS, _BLOB_COST, _ROUGH = 7, 10.0, 0.02  # of a blob, their -log likelihood; share of the height that is no blob's
_FINE = (0.0, 0.05, 0.3)
_CLEARLY = 0.5  # of what stays on slices by a likelier description, below which another is taken
_LEAST, _MOST = 4.0, 150.0  # pixels, lengths

_HALO, _JOINED = 2.5, 12.0  # scales and pixels
_COVERED = 0.02  # of the usual sum of weights, where something is known
_LOW_QUANTILES, _BETWEEN = (0.1, 0.25), 0.6071


def find_showers(
    values: np.ndarray, known: np.ndarray, noise: np.ndarray, doubts: np.ndarray, threshold: float, slices: Slices,
) -> tuple[np.ndarray, np.ndarray, float]:  # fmt: skip
    """Return (model, variance) (y, x) and the score.

    Parameters
    ----------
    values, known, noise, doubts : ndarray
        Light between the slices (y, x) less its level, which pixels are usable, noise (y), by how much scattered light
        makes them uncertain (y, x).
    threshold : float
        Significance [sigma] of a shower.
    slices : Slices
        Light of the slices, off which the showers are taken.

    Returns
    -------
    tuple of ndarray (y, x), ndarray (y, x), float
        Score: misfit of the light of slices over that without a model; NaN where there is no shower.
    """
    model, variance = np.zeros(values.shape, dtype=np.float32), np.zeros(values.shape, dtype=np.float32)
    cells = np.empty((5, -(-values.shape[0] // CELL_Y), -(-values.shape[1] // CELL_X)))
    squares, tried = np.zeros(2), set[bytes]()
    for _ in range(PASSES):
        fill_cells(values - model, known, noise, doubts, cells)
        patches = find_patches(cells, threshold)
        gained = False
        for here in patches:
            found = _gather(cells, here)
            if found.shape[1] < _FEWEST_CELLS or (key := found.tobytes()) in tried:
                continue
            tried.add(key)
            least, best = np.inf, list[Any]()
            for shape, form in describe(found):
                held = left_out(found, shape, form)
                if held[0] < LIMIT**2 * held[1]:
                    box, light, unsure = _field(found, shape, form, here, model.shape)
                    told = slices.judge(light, box)
                    if told is not None and told[1] < least:
                        least, best = _CLEARLY * told[1], [box, light, unsure, *told]
            if best:
                box, light, unsure, misfits, _, holds, told_light = best
                amount, rest = slices.amounts(told_light, unsure, box)
                slices.take(amount[:, None] * told_light)
                squares += misfits
                model[box] += np.where(holds, slices.spread(amount, box) * light, 0.0)
                variance[box] += np.where(holds, slices.spread(rest, box) * unsure, 0.0)
                gained = True
        if not gained:
            break
    return model, variance, float(np.sqrt(squares[0] / squares[1])) if squares[1] > 0 else np.nan


def find_patches(cells: np.ndarray, threshold: float) -> list[np.ndarray]:
    """Return the patches (cell y, cell x) that hold a shower with their surroundings; they do not overlap."""
    used = cells[1] > 0
    weight = np.where(used, 1.0 / (np.where(used, cells[1], 1.0) + cells[2] ** 2), 0.0)
    maps = [significance(cells, weight, scale) for scale in SCALES]
    scores, scatter = np.stack([m for m, _ in maps]), np.array([s for _, s in maps])
    cores, reach = np.zeros(used.shape, dtype=bool), np.zeros(used.shape)
    for _ in range(_MOST_PATCHES):
        raised = np.where(scores > threshold * scatter[:, None, None], scores, 0.0)
        k, y, x = np.unravel_index(np.argmax(raised), scores.shape)
        top = raised[k, y, x]
        if not top > 0.0:
            break
        labels, _ = ndimage.label(scores[k] > max(_GROWN * scatter[k], _RIM * top), np.ones((3, 3)))
        core = labels == labels[y, x]
        cores |= core
        reach[core] = np.maximum(reach[core], _MARGIN + _MARGIN_SHARE * SCALES[k])
        away = ndimage.distance_transform_edt(~core, sampling=(CELL_Y, CELL_X))
        for scale, score in zip(SCALES, scores, strict=True):  # what a wider Gaussian sees of it is no other shower
            score[away <= _HALO * scale] = 0.0
    if not cores.any():
        return []
    distance, (near_y, near_x) = ndimage.distance_transform_edt(~cores, sampling=(CELL_Y, CELL_X), return_indices=True)
    labels, n = ndimage.label(distance <= _JOINED, np.ones((3, 3)))
    owner = np.where(distance <= reach[near_y, near_x], labels[near_y, near_x], 0)
    return [owner == k for k in range(1, n + 1)]


def significance(cells: np.ndarray, weight: np.ndarray, scale: float) -> tuple[np.ndarray, float]:
    """Return by how many sigma the Gaussian mean of a scale [pix] is raised (cell y, cell x), and how these scatter."""
    sigma = (scale / CELL_Y, scale / CELL_X)

    def mean(image: np.ndarray, by: float = 1.0) -> np.ndarray:
        return ndimage.gaussian_filter(image, [by * s for s in sigma], mode="constant", truncate=3.0 / by)

    used = cells[1] > 0
    if not used.any():
        return np.zeros(used.shape), 1.0
    noise = mean(weight**2 * cells[1], np.sqrt(0.5)) / (4 * np.pi * sigma[0] * sigma[1])
    near = noise > _COVERED * np.median(noise[used])
    unsure = np.where(near, noise, 1.0) + mean(weight * cells[2]) ** 2
    score = np.where(near, mean(weight * cells[0]) / np.sqrt(unsure), 0.0)
    low, high = np.quantile(score[used], _LOW_QUANTILES)
    return score, max(1.0, (high - low) / _BETWEEN)


def _gather(cells: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Return the used cells (5, n) of a patch, neighbours joined where they are too many."""
    step = 1
    while True:
        n_y, n_x = (-(-n // step) for n in here.shape)
        used = here & (cells[1] > 0)
        if used.sum() <= _MOST_CELLS * step * step or step == 1:
            number = (np.arange(here.shape[0]) // step)[:, None] * n_x + (np.arange(here.shape[1]) // step)[None]
            weight = np.where(used, 1.0 / np.where(cells[1] > 0, cells[1], 1.0), 0.0)
            total = np.bincount(number[used], weight[used], n_y * n_x)
            if (total > 0).sum() <= _MOST_CELLS:
                break
        step += 1
    out = np.empty((5, int((total > 0).sum())))
    for k in (0, 2, 3, 4):
        out[k] = np.bincount(number[used], (weight * cells[k])[used], n_y * n_x)[total > 0] / total[total > 0]
    out[1] = 1.0 / total[total > 0]
    return out


def describe(cells: np.ndarray) -> list[tuple[Any, ...]]:
    """Return [(blobs or None, form of the field about them), ...], the likelier first, of searches that ended.

    Two blobs are tried where they tell the cells better than one by what their numbers cost.
    """
    one, fitted, chi = fit_blobs(cells, _first_blob(cells))
    tried: list[tuple[Any, bool]] = [(None, True), (one, fitted)]
    if chi > 2.0 * _BLOB_COST:
        two, fitted, less = fit_blobs(cells, _halves(one))
        if chi - less > 2.0 * _BLOB_COST:
            tried.append((two, fitted))
    found = []
    for k, (about, ended) in enumerate(tried):
        rest = cells.copy()
        if about is not None:
            rest[0] -= blobs(about, cells[3], cells[4])
        form, searched, cost = best_form(rest)
        if ended and searched:
            found.append((cost + k * _BLOB_COST, about, form))
    return [each[1:] for each in sorted(found, key=lambda each: each[0])]


def blobs(shape: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the sum of elliptic blobs height exp(-r^power / 2).

    Numbers of each: x, y, log widths along and across, tilt, height, power.
    """
    out: np.ndarray = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    for x0, y0, along, across, tilt, height, power in shape.reshape(-1, _NUMBERS):
        cosine, sine, dx, dy = np.cos(tilt), np.sin(tilt), x - x0, y - y0
        u, v = (cosine * dx + sine * dy) * np.exp(-along), (cosine * dy - sine * dx) * np.exp(-across)
        out += height * np.exp(-0.5 * (u * u + v * v + 1e-6) ** (0.5 * power))
    return out


def fit_blobs(cells: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, bool, float]:
    """Return (the blobs that fit cells best, whether the search ended, their squared misfits)."""
    n = start.size // _NUMBERS
    height = start[5::_NUMBERS].max()
    sigma, top = _sigma(cells, height), max(np.max(cells[0]), 1e-6)
    least, most = np.log(_LEAST), np.log(_MOST)
    low = n * [-np.inf, -np.inf, least, least, -np.inf, 0.0, 0.8]
    high = n * [np.inf, np.inf, most, most, np.inf, 5.0 * height, 6.0]

    def misfits(p: np.ndarray) -> np.ndarray:
        each = p.reshape(n, _NUMBERS)
        usual = [each[:, 2] - each[:, 3], np.log(np.maximum(each[:, 5], 1e-9) / top), each[:, 6] - 2.0]
        about = [values / width for values, width in zip(usual, _USUAL, strict=True)]
        return np.concatenate([(cells[0] - blobs(p, cells[3], cells[4])) / sigma, *about])

    scale = n * [5.0, 5.0, 0.3, 0.3, 0.5, height, 0.5]
    found = least_squares(misfits, np.clip(start, low, high), bounds=(low, high), x_scale=scale, max_nfev=200)
    return found.x, found.status > 0, 2.0 * float(found.cost)


def _halves(one: np.ndarray) -> np.ndarray:
    """Return two blobs in place of one, side by side along it."""
    two = np.tile(one, (2, 1))
    angle = one[4] + (0.0 if one[2] > one[3] else 0.5 * np.pi)
    long, short = max(one[2], one[3]), min(one[2], one[3])
    away = 0.8 * np.exp(long) * np.array([np.cos(angle), np.sin(angle)])
    two[:, :2] += [-away, away]
    two[:, 2:4] = min(short, long - np.log(1.5))
    two[:, 6] = 2.0
    return two.ravel()


def _sigma(cells: np.ndarray, height: float | np.ndarray) -> np.ndarray:
    return np.sqrt(cells[1] + cells[2] ** 2 + (_ROUGH * height) ** 2)


def _slopes(shape: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the derivatives (..., number) of blobs by their numbers."""
    steps = np.full(shape.shape, 1e-4)
    steps[5::_NUMBERS] *= np.maximum(shape[5::_NUMBERS], 1e-6)
    return np.stack(
        [(blobs(shape + h, x, y) - blobs(shape - h, x, y)) / (2 * h.sum()) for h in np.diag(steps)], axis=-1
    )


def _blob_variance(cells: np.ndarray, shape: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the variance of blobs fitted to cells at other places."""
    weight = _sigma(cells, shape[5::_NUMBERS].max()) ** -2.0
    here = _slopes(shape, cells[3], cells[4])
    fit = np.linalg.pinv(here.T @ (here * weight[:, None]), rcond=1e-10) @ here.T * weight
    covariance = fit * (cells[1] + cells[2] ** 2) @ fit.T
    there = _slopes(shape, x, y)
    return np.einsum("...i,ij,...j->...", there, covariance, there)


def _first_blob(cells: np.ndarray) -> np.ndarray:
    raised = np.maximum(cells[0], 0.0) ** 2 / cells[1] + 1e-30
    x, y = (np.average(cells[k], weights=raised) for k in (3, 4))
    size = np.sqrt(np.average((cells[3] - x) ** 2 + (cells[4] - y) ** 2, weights=raised))
    width = np.log(np.clip(size, 1.1 * _LEAST, 0.5 * _MOST))
    return np.array([x, y, width, width, 0.1, max(np.max(cells[0]), 1e-6), 2.0])


def best_form(cells: np.ndarray) -> tuple[Any, bool, float]:
    """Return (the most likely form, whether the search ended, cost): see :func:`._shower_fit_kernels._alike`."""
    lower = np.empty((cells.shape[1],) * 2)
    raised = np.maximum(cells[0], 0.0) ** 2 / cells[1]
    centre = [np.average(cells[k], weights=raised + 1e-30) for k in (3, 4)]
    size = np.sqrt(np.average((cells[3] - centre[0]) ** 2 + (cells[4] - centre[1]) ** 2, weights=raised + 1e-30))
    form = np.array([0.5 * np.abs(cells[0]).max(), *[np.clip(size, 2 * _LEAST, 0.5 * _MOST)] * 2, 0.0, 0.0])
    best = misfit(cells, form, lower)
    ended = True
    for step in _STEPS:
        for _ in range(_ROUNDS):
            before = best
            for trial in _neighbours(form, step):
                value = misfit(cells, trial, lower)
                if value < best:
                    best, form = value, trial
            if before - best < _ENOUGH:
                break
        else:
            ended = False
    return form, ended, best


def _neighbours(form: Any, step: Any) -> Iterator[Any]:
    """Yield forms that differ in one number."""
    for k in (0, 1, 2):
        for sign in (1.0, -1.0):
            out = form.copy()
            out[k] *= np.exp(sign * step)
            if k == 0 or _LEAST <= out[k] <= _MOST:
                yield out
    both = form[1:3]
    for sign in (1.0, -1.0):
        if (np.clip(both * np.exp(sign * step), _LEAST, _MOST) == both * np.exp(sign * step)).all():
            yield np.array([form[0], *(both * np.exp(sign * step)), form[3], form[4]])
        yield np.array([*form[:3], form[3] + sign * step, form[4]])
    for fine in _FINE:
        if fine != form[4]:
            yield np.array([*form[:4], fine])


def left_out(cells: np.ndarray, shape: Any, form: Any) -> np.ndarray:
    """Return the squared misfits over the variance of left-out cells, with the field of the others and without.

    Every second block of rows of each column of cells is left out, then the others.
    """
    fold = (cells[4] // (2 * CELL_Y) + cells[3] // (4 * CELL_X)).astype(int) % 2
    out = np.zeros(2)
    for k in (0, 1):
        kept, away = np.ascontiguousarray(cells[:, fold != k]), cells[:, fold == k]
        if kept.shape[1] < 2 or not away.shape[1]:
            return np.array([1.0, 1.0])
        lower = np.empty((kept.shape[1],) * 2)
        factor(kept, form, lower)
        here = None if shape is None else fit_blobs(kept, shape)[0]
        weights = _weights(kept, here, lower)
        field = np.empty((1, 1))
        mean = 0.0 if here is None else blobs(here, away[3], away[4])
        off = away[0] - mean
        for n in range(away.shape[1]):
            expect(kept, weights, form, away[3, n : n + 1], away[4, n : n + 1], field)
            off[n] -= field[0, 0]
        out += np.array([np.sum(off**2 / away[1]), np.sum(away[0] ** 2 / away[1])])
    return out


def _weights(cells: np.ndarray, shape: Any, lower: np.ndarray) -> np.ndarray:
    values: np.ndarray = cells[0].copy() if shape is None else cells[0] - blobs(shape, cells[3], cells[4])
    substitute(lower, values.size, values)
    return values


def _field(
    cells: np.ndarray, shape: Any, form: Any, here: np.ndarray, size: tuple[int, ...]
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Return (box, field of a patch there, its variance), which fade at the rim of the patch."""
    lower = np.empty((cells.shape[1],) * 2)
    factor(cells, form, lower)
    weights = _weights(cells, shape, lower)
    rows, columns = (np.flatnonzero(here.any(axis=k)) for k in (1, 0))
    (y0, y1), (x0, x1) = (rows[0] * CELL_Y, (rows[-1] + 1) * CELL_Y), (columns[0] * CELL_X, (columns[-1] + 1) * CELL_X)
    y1, x1 = min(y1, size[0]), min(x1, size[1])
    box = (slice(y0, y1), slice(x0, x1))
    parts = []
    for grid, fill, given in ((_GRID, expect, weights), (_VARIANCE_GRID, doubt_field, lower)):
        ys, xs = (np.linspace(a, b - 1, max(2, (b - a) // grid)) for a, b in ((y0, y1), (x0, x1)))
        coarse = np.empty((ys.size, xs.size))
        fill(cells, given, form, xs, ys, coarse)
        if shape is not None and fill is doubt_field:
            coarse += _blob_variance(cells, shape, *np.meshgrid(xs, ys))
        parts.append(_between(coarse, ys, xs, np.arange(y0, y1), np.arange(x0, x1)))
    if shape is not None:
        parts[0] += blobs(shape, np.arange(x0, x1)[None, :], np.arange(y0, y1)[:, None])
    inner = np.pad(here, 1, mode="edge")
    fade = np.clip(ndimage.distance_transform_edt(inner, sampling=(CELL_Y, CELL_X))[1:-1, 1:-1] / _MARGIN, 0.0, 1.0)
    fade = np.repeat(np.repeat(fade, CELL_Y, axis=0), CELL_X, axis=1)[box]
    return box, (fade * parts[0]).astype(np.float32), (fade**2 * parts[1]).astype(np.float32)


def _between(coarse: np.ndarray, ys: np.ndarray, xs: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return a coarse map on all rows and columns, by lines."""
    wide = np.stack([np.interp(columns, xs, row) for row in coarse])
    place = np.interp(rows, ys, np.arange(ys.size))
    low = np.minimum(place.astype(int), ys.size - 2)
    share = (place - low)[:, None]
    return wide[low] * (1 - share) + wide[low + 1] * share


def gated_model(
    image: np.ndarray, flags: np.ndarray, labels: np.ndarray, near: np.ndarray, gaps: list[Gap], threshold: float,
    protection: float,
) -> tuple[np.ndarray, np.ndarray, float]:  # fmt: skip
    """Return (model, variance) (y, x) of the showers and of what all pixels between the slices share, and the score."""
    model, variance = (np.zeros(image.shape, dtype=np.float32) for _ in range(2))
    values, light, usual, weight = (np.empty_like(model) for _ in range(4))
    image, flags, near = read_only(image, flags, near)
    keep_between(image, flags, near, -np.inf, np.inf, values, weight)
    known = (weight > 0) & np.isfinite(values)
    if not known.any():
        return model, variance, np.nan
    noise = np.empty(len(image))
    noise_of_rows(values, known, np.empty(NOISE_ROWS * image.shape[1], dtype=np.float32), noise)
    light_nearby(image, flags, labels != 0, light)
    smooth(light, np.ones(1, dtype=np.float32), gaussian_taps(LINE_ROWS, LINE_ROWS), usual)
    doubt_light(light, usual, np.float32(protection))
    quiet, slices = known & (light < noise[:, None]), Slices(image, flags, labels)

    def look(values: np.ndarray) -> tuple[Any, ...]:
        level = level_of(values, quiet, light, threshold)
        return level, find_showers(values - level[0], known, noise, light, threshold, slices.copy())

    (level, share, level_variance), (model, variance, score) = look(values)
    clean = model + level
    spilled = spilled_light(values - clean, known, noise, image - clean, flags, gaps)
    if spilled.any():
        (level, share, level_variance), (model, variance, score) = look(values - spilled)
    if not np.isfinite(score):
        return np.zeros_like(model), np.zeros_like(model), score
    return model + share * level, variance + share**2 * level_variance, score


def gated_wrapper(
    rate: np.ndarray, dq: np.ndarray, labels: np.ndarray, threshold: float = 6.0, protection: float = 0.003,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return rates less the showers and their variance (dither, y, x), and scores (dither); labels of slices (y, x)."""
    near = np.any([np.roll(labels != 0, k, axis=1) for k in range(-_BESIDE, _BESIDE + 1)], axis=0)
    gaps = gaps_of(labels, ~near)
    out, added = (np.empty(rate.shape, dtype=np.float32) for _ in range(2))
    scores = np.empty(len(rate), dtype=np.float32)
    for d in range(len(rate)):
        model, added[d], scores[d] = gated_model(rate[d], dq[d], labels, near, gaps, threshold, protection)
        np.subtract(rate[d], model, out=out[d])
    return out, added, scores
