"""Marks and labels of spectral lines above a spectrum, pushed apart so that none overlaps another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory
from scipy.optimize import isotonic_regression

from mrsxr.lines import in_range, line_list
from mrsxr.mrs import resolving_power
from mrsxr.robust import middle_and_scatter

from ._style import FAINT, INK, root_figure

_TURBULENCE = 250.0 / 299792.458  # half width of the search for a line, on top of the resolution [of wavelength]
_FARTHEST = 0.022  # how far a label may stand beside its line [of the width of the axes]
_LIMIT = 5.0  # a line stands out where its peak is this many times the local scatter above the continuum


@dataclass(frozen=True)
class Mark:
    """One line to mark: text, observed wavelength [um], how bright and whether it stands out of the data."""

    text: str
    wavelength: float
    rank: int
    strength: float
    seen: bool


def find_marks(wavelength: np.ndarray, flux: np.ndarray, redshift: float) -> list[Mark]:
    """Return the lines to mark: those that stand out, and the usually bright ones where they should be."""
    good = np.isfinite(flux)
    if not good.any():
        return []
    lines = in_range(line_list(), float(wavelength[good].min()), float(wavelength[good].max()), redshift)
    marks = []
    for name, place, kind, rank in zip(
        lines["name"].values, lines["observed_wavelength"].values, lines["kind"].values, lines["rank"].values,
        strict=True,
    ):  # fmt: skip
        if kind == "PAH":
            continue
        strength = line_strength(wavelength, flux, float(place))
        if np.isfinite(strength) and (strength > _LIMIT or rank == 1):
            text = str(name).replace("H2", "H₂")
            marks.append(Mark(text, float(place), int(rank), strength, strength > _LIMIT))
    return marks


def line_strength(wavelength: np.ndarray, flux: np.ndarray, place: float) -> float:
    """Return the peak at a wavelength above the continuum beside it, in units of the scatter there; NaN unseen."""
    half = place * (0.8 / float(resolving_power(place)) + _TURBULENCE)
    distance = np.abs(wavelength - place)
    near = np.isfinite(flux) & (distance < 8 * half)
    core, side = near & (distance < half), near & (distance > 2 * half)
    if core.sum() < 2 or side.sum() < 8:
        return float("nan")
    for _ in range(4):  # other lines and spikes beside it are clipped away
        fit = np.polynomial.Polynomial.fit(wavelength[side], flux[side], 1)
        rest = flux[side] - fit(wavelength[side])
        middle, scatter = middle_and_scatter(rest)
        keep = np.abs(rest - middle) <= 3.5 * scatter
        if keep.all() or keep.sum() < 8:
            break
        side = side.copy()
        side[np.flatnonzero(side)[~keep]] = False
    peak = float(np.max(flux[core] - fit(wavelength[core]))) - middle
    return peak / scatter if scatter > 0 else (np.inf if peak > 0 else 0.0)


def spread(places: np.ndarray, least: float) -> np.ndarray:
    """Return sorted places moved as little as possible (least squares) so that neighbours are ``least`` apart.

    Less their number times ``least`` they must rise; the result is then held within 0 and 1.
    """
    if not len(places):
        return np.empty(0)
    steps = np.arange(len(places)) * least
    level = isotonic_regression(np.asarray(places, dtype=float) - steps).x
    return np.clip(level, 0.0, max(0.0, 1.0 - steps[-1])) + steps


def thin_out(marks: list[Mark], places: np.ndarray, least: float) -> tuple[list[Mark], np.ndarray, np.ndarray]:
    """Drop the least important labels until every label stands near its line; returns marks, places, label places."""
    order = np.argsort(places)
    marks, places = [marks[i] for i in order], np.asarray(places, dtype=float)[order]
    while len(marks):
        labels = spread(places, least)
        moved = np.abs(labels - places)
        worst = int(np.argmax(moved))
        if moved[worst] <= _FARTHEST:
            return marks, places, labels
        near = [i for i in range(len(marks)) if abs(places[i] - places[worst]) < 3 * _FARTHEST]
        drop = min(near, key=lambda i: (marks[i].seen, -marks[i].rank, marks[i].strength))
        marks = marks[:drop] + marks[drop + 1 :]
        places = np.delete(places, drop)
    return marks, places, np.empty(0)


def draw_marks(ax: Axes, marks: list[Mark], font_size: float) -> float:
    """Draw marks and labels above the axes; returns the height they take [points]. Limits must be final."""
    if not marks:
        return 0.0
    figure = root_figure(ax)
    figure.draw_without_rendering()  # settles the layout: the width of the axes decides how many labels fit
    width = ax.get_window_extent().width * 72.0 / figure.dpi
    waves = np.array([m.wavelength for m in marks])
    points = ax.transData.transform(np.column_stack([waves, np.full(len(waves), ax.get_ylim()[1])]))
    places = ax.transAxes.inverted().transform(points)[:, 0]
    inside = (places >= 0) & (places <= 1)
    marks = [m for m, ok in zip(marks, inside, strict=True) if ok]
    marks, places, labels = thin_out(marks, places[inside], 1.22 * font_size / width)
    height = ax.get_window_extent().height * 72.0 / figure.dpi
    upright = blended_transform_factory(ax.transData, ax.transAxes)
    for mark, place, label in zip(marks, places, labels, strict=True):
        colour = INK if mark.seen else FAINT
        ax.plot([mark.wavelength] * 2, [0, 1], transform=upright, color=colour, lw=0.6, alpha=0.35,
                ls="-" if mark.seen else (0, (2, 3)), zorder=0.5)  # fmt: skip
        rise = np.array([0.0, 3.0, 11.0, 14.0]) / height + 1.0
        ax.plot([place, place, label, label], rise, transform=ax.transAxes, color=colour, lw=0.6, clip_on=False)
        ax.text(label, 1.0 + 15.5 / height, mark.text, transform=ax.transAxes, rotation=90, ha="center",
                va="bottom", fontsize=font_size, color=colour, gid="line label")  # fmt: skip
    extents = [t.get_window_extent().height for t in ax.texts if t.get_gid() == "line label"]
    return 15.5 + max(extents, default=0.0) * 72.0 / figure.dpi


def draw_bands(ax: Axes, wavelength: np.ndarray, flux: np.ndarray, redshift: float, font_size: float) -> None:
    """Shade the PAH bands that stand out, with their names inside the axes at the top."""
    lines = in_range(line_list(), *ax.get_xlim(), redshift)
    lines = lines.isel(line=lines["kind"].values == "PAH").sortby("rank")
    taken: list[float] = []
    figure = root_figure(ax)
    points = ax.get_window_extent().width * 72.0 / figure.dpi
    upright = blended_transform_factory(ax.transData, ax.transAxes)
    for name, place, width in zip(
        lines["name"].values, lines["observed_wavelength"].values, lines["fwhm"].values, strict=True
    ):
        width = float(width) * (1.0 + redshift)
        if not stands_out(wavelength, flux, float(place), width):
            continue
        ax.axvspan(place - width / 2, place + width / 2, color="0.5", alpha=0.13, lw=0, zorder=0.2)
        spot = ax.transAxes.inverted().transform(ax.transData.transform((place, ax.get_ylim()[0])))[0]
        room = 0.6 * font_size * len(name) / points
        if all(abs(spot - other) > room for other in taken) and room / 2 < spot < 1 - room / 2:
            taken.append(float(spot))
            ax.text(place, 0.985, name, transform=upright, ha="center", va="top", fontsize=font_size,
                    color="0.35", gid="band label")  # fmt: skip


def stands_out(wavelength: np.ndarray, flux: np.ndarray, place: float, width: float) -> bool:
    """Tell whether a broad band is more than 12 % above the line between its two sides."""
    distance, good = wavelength - place, np.isfinite(flux)
    levels = []
    for low, high in ((-1.5 * width, -0.9 * width), (0.9 * width, 1.5 * width), (-0.25 * width, 0.25 * width)):
        part = good & (distance >= low) & (distance <= high)
        if part.sum() < 5:
            return False
        levels.append(float(np.median(flux[part])))
    sides = 0.5 * (levels[0] + levels[1])
    return sides > 0 and levels[2] > 1.12 * sides
