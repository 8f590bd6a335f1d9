"""Outlines and numbers of the slices on pictures of the detector."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patheffects import withStroke
from matplotlib.transforms import blended_transform_factory

from ._style import INK

_LEAST_ROWS = 8  # of a slice, to have an outline
_WIDE = 400  # pixels, from which lines and letters are fine
_COLOUR = "#33d6ff"  # stands out of grey, dark and yellow


def draw_slices(ax: Axes, one: xr.Dataset) -> float:
    """Draw outlines and numbers of the slices and the names of the channels where the slices are known.

    Parameters
    ----------
    ax : Axes
        In detector pixels, with its limits set.
    one : Dataset
        One exposure with ``slice`` (y, x), channel * 100 + slice, 0 between slices.

    Returns
    -------
    float
        Height taken above the axes [points].
    """
    if "slice" not in one.variables or one["slice"].dims != ("y", "x") or not (one["slice"].values > 0).any():
        return 0.0
    labels = one["slice"].values
    rows, columns = pixel_numbers(one, "y"), pixel_numbers(one, "x")
    edges = slice_edges(labels)
    segments = []
    for y, left, right in edges.values():
        for x in (left, right + 1):
            steps = np.column_stack([rows[y] - 0.5, rows[y] + 0.5]).ravel()
            segments.append(np.column_stack([np.repeat(columns[0] + x - 0.5, 2), steps]))
    width = 0.7 if len(rows) > _WIDE else 1.3
    ax.add_collection(LineCollection(segments, colors=_COLOUR, linewidths=width, zorder=2, gid="slices"),
                      autolim=False)  # fmt: skip
    _numbers(ax, edges, rows, columns)
    return _channels(ax, edges, columns)


def slice_edges(labels: np.ndarray) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the rows, first and last columns of every slice of a map of labels (y, x), by label."""
    padded = np.pad(labels, ((0, 0), (1, 1)))
    change = padded[:, 1:] != padded[:, :-1]
    row, column = np.nonzero(change)
    out = {}
    enter, leave = padded[row, column + 1], padded[row, column]
    for label in np.unique(labels[labels > 0]):
        first, last = enter == label, leave == label
        y, where = np.unique(row[first], return_index=True)
        if y.size < min(_LEAST_ROWS, len(labels)):
            continue
        left = column[first][where]
        backwards = row[last][::-1]
        right = column[last][::-1][np.unique(backwards, return_index=True)[1]] - 1
        out[int(label)] = (y, left, right)
    return out


def pixel_numbers(one: xr.Dataset, dim: str) -> np.ndarray:
    """Return the numbers of the rows or columns on the detector, from 0."""
    return np.asarray(one[dim].values, float) if dim in one.coords else np.arange(one.sizes[dim], dtype=float)


def _numbers(ax: Axes, edges: dict[int, Any], rows: np.ndarray, columns: np.ndarray) -> None:
    """Write the number of each slice in its middle, at two heights in turn so that neighbours stay apart."""
    low, high = sorted(ax.get_ylim())
    across = abs(np.diff(ax.get_xlim())[0])
    spots = []
    for label, (y, left, right) in edges.items():
        spots.append((float(np.median(left + right)) / 2, label, y, left, right))
    for i, (_, label, y, left, right) in enumerate(sorted(spots)):
        wanted = low + (0.035 if i % 2 else 0.075) * (high - low)
        k = int(np.argmin(np.abs(rows[y] - wanted)))
        middle = columns[0] + 0.5 * (left[k] + right[k])
        text = ax.text(middle, rows[y][k], str(label % 100), ha="center", va="center", color="white",
                       gid="slice number", fontsize=7.0 if across > _WIDE else 8.5, clip_on=True, zorder=5)  # fmt: skip
        text.set_path_effects([withStroke(linewidth=1.6, foreground="black")])


def _channels(ax: Axes, edges: dict[int, Any], columns: np.ndarray) -> float:
    """Write the names of the channels above the axes, over the columns that each takes."""
    upright = blended_transform_factory(ax.transData, ax.transAxes)
    for channel in sorted({label // 100 for label in edges}):
        mine = [(left.min(), right.max()) for label, (_, left, right) in edges.items() if label // 100 == channel]
        low, high = columns[0] + min(a for a, _ in mine), columns[0] + max(b for _, b in mine)
        ax.plot([low, high], [1.012, 1.012], transform=upright, color=INK, lw=1.4, clip_on=False)
        ax.text(0.5 * (low + high), 1.018, f"channel {channel}", transform=upright, ha="center", va="bottom",
                fontsize=9, color=INK, gid="channel")  # fmt: skip
    return 16.0
