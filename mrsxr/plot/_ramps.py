"""The ramps of one pixel: counts group by group, with the flags of each group."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from mrsxr import dq as flags
from mrsxr.arguments import reads
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.limits import checked

from ._slices import pixel_numbers
from ._style import FAINT, INK, axes_height, new_axes, pick_dither, top_axis, with_unit

# flag of groups: colour, marker, size; several on one group stay visible as the markers are of different shape
_MARKS = {
    "DO_NOT_USE": ("#000000", "x", 8.0),
    "SATURATED": ("#D55E00", "s", 10.0),
    "JUMP_DET": ("#0072B2", "D", 8.5),
    "CHARGELOSS": ("#009E73", "^", 10.0),
    "PERSISTENCE": ("#CC79A7", "v", 10.0),
    "AD_FLOOR": ("#E69F00", "_", 12.0),
    "DROPOUT": ("#56B4E9", "p", 11.0),
    "OUTLIER": ("#E69F00", "h", 12.0),
}
_GOOD = "0.35"


@reads()
@checked
def ramps(
    ds: xr.Dataset, y: int, x: int, dither: int = 1, ax: Axes | None = None, *, integration: int | None = None,
    differences: bool = False, title: str | None = None,
) -> Axes:  # fmt: skip
    """Draw the ramps of one pixel with flagged groups marked by colour and shape.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        Nothing but the ramps of this pixel are computed.
    y, x : int
        Row and column on the detector, from 0.
    dither : int
        Number of the exposure, from 1.
    ax : Axes, optional
        Where to draw; by default a new figure.
    integration : int, optional
        Number of one integration, from 1; by default all of them, one after the other.
    differences : bool
        Draw the rise from group to group [DN/s] in place of the counts: jumps stand out.
    title : str, optional
        By default exposure, pixel and the flags of the pixel.

    Returns
    -------
    Axes

    Notes
    -----
    The time of a group counts from the start of its integration; a second integration is drawn behind the first,
    without the frames of the reset between them. A group with several flags has several markers.

    Examples
    --------
    >>> ax = mx.plot.ramps(ramp, y=500, x=300)
    """
    one = _one_pixel(ds, y, x, dither)
    counts = one["sci"].values.astype(float)
    bits = one["group_dq"].values if "group_dq" in one else np.zeros(counts.shape, dtype=np.uint8)
    numbers = range(1, len(counts) + 1) if integration is None else [integration]
    if integration is not None and not 1 <= integration <= len(counts):
        raise MrsxrError(f"there is no integration {integration}; expected 1 to {len(counts)}")
    step, unit = _group_time(one)
    values, label = counts, with_unit("Counts", one["sci"].attrs.get("units", "DN"))
    if differences:
        values = np.diff(counts, axis=1, prepend=np.nan) / step
        label = "Rise [DN s⁻¹]" if unit == "s" else "Rise [DN per group]"
    ax = new_axes(ax, (9.2, 5.1), (0.95, 0.65, 8.0, 3.5))
    length = counts.shape[1] * step
    for place, number in enumerate(numbers):
        time = (np.arange(counts.shape[1]) + 1) * step + place * length
        _draw_ramp(ax, time, values[number - 1], bits[number - 1])
        _name_integration(ax, place, number, length, len(numbers))
    above = 19.0 if len(numbers) == 1 and unit == "s" else 0.0  # points, of the group numbers
    found = _legend(ax, bits[[n - 1 for n in numbers]], above)
    _dress(ax, length * len(numbers), step, unit, len(numbers) == 1)
    ax.set_ylabel(label)
    text = _title(one, y, x) if title is None else title
    ax.set_title(text, fontsize=10.5, pad=6.0 + above + (20.0 if found else 0.0))
    return ax


def _one_pixel(ds: xr.Dataset, y: int, x: int, dither: int) -> xr.Dataset:
    if "sci" not in ds or "group" not in ds["sci"].dims:
        raise LevelError(f"ramps of a pixel need data of level ramp, got {ds.attrs.get('level')}")
    one = pick_dither(ds, dither)
    place = {}
    for dim, number in (("y", y), ("x", x)):
        where = np.flatnonzero(pixel_numbers(one, dim) == number)
        if not where.size:
            known = pixel_numbers(one, dim)
            raise MrsxrError(f"there is no {dim} = {number}; expected {known[0]:.0f} to {known[-1]:.0f}")
        place[dim] = int(where[0])
    names = [n for n in ("sci", "group_dq", "pixel_dq") if n in one]
    one = one[names].isel(place)
    if "integration" not in one["sci"].dims:
        one = one.expand_dims("integration")
    return one.transpose("integration", "group", ...).compute()


def _group_time(one: xr.Dataset) -> tuple[float, str]:
    time = float(one.attrs.get("group_time", np.nan))
    return (time, "s") if np.isfinite(time) and time > 0 else (1.0, "group")


def _draw_ramp(ax: Axes, time: np.ndarray, values: np.ndarray, bits: np.ndarray) -> None:
    """Draw the samples, and a marker for every flag that one has."""
    ax.plot(time, values, color=_GOOD, lw=1.0, marker="o", ms=3.6, zorder=2, gid="ramp")
    for name, (colour, marker, size) in _MARKS.items():
        lit = (bits & flags.FLAGS[name]) != 0
        if lit.any():
            ax.plot(time[lit], values[lit], ls="none", marker=marker, ms=size, mfc="none", mec=colour, mew=1.6,
                    zorder=3, gid=f"flag {name}")  # fmt: skip


def _legend(ax: Axes, bits: np.ndarray, above: float) -> bool:
    """Name the flags that were drawn, ``above`` points above the axes; returns whether there are any."""
    handles = [ax.plot([], [], color=_GOOD, lw=1.0, marker="o", ms=3.6, label="not flagged")[0]]
    for name, (colour, marker, size) in _MARKS.items():
        number = int(np.count_nonzero(bits & flags.FLAGS[name]))
        if number:
            handles += ax.plot([], [], ls="none", marker=marker, ms=0.8 * size, mfc="none", mec=colour, mew=1.6,
                               label=f"{name} ({number})")  # fmt: skip
    if len(handles) > 1:
        foot = -0.01, 1.0 + above / 72.0 / axes_height(ax)
        ax.legend(handles=handles, loc="lower left", bbox_to_anchor=foot, ncols=len(handles), frameon=False,
                  fontsize=8.5, handletextpad=0.3, columnspacing=1.4, borderaxespad=0.1)  # fmt: skip
    return len(handles) > 1


def _name_integration(ax: Axes, place: int, number: int, length: float, total: int) -> None:
    if total == 1:
        return
    upright = blended_transform_factory(ax.transData, ax.transAxes)
    if place:
        ax.axvline(place * length, color=FAINT, lw=0.7, ls=(0, (4, 3)), zorder=1)
    ax.text(place * length + 0.5 * length, 0.985, f"integration {number}" if total <= 6 else str(number),
            transform=upright, ha="center", va="top", fontsize=9, color=INK, gid="integration")  # fmt: skip


def _dress(ax: Axes, length: float, step: float, unit: str, numbered: bool) -> None:
    ax.set_xlim(0.0, length + step)
    ax.set_xlabel("Time since the start of the integration [s]" if unit == "s" and numbered
                  else "Time, one integration after the other [s]" if unit == "s" else "Group")  # fmt: skip
    ax.margins(y=0.14)
    ax.grid(color="0.92", lw=0.6)
    ax.set_axisbelow(True)
    if numbered and unit == "s":
        top = top_axis(ax, lambda t: t / step, lambda g: g * step)
        top.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        top.tick_params(labelsize=8.5)
        ax.annotate("group", (0.0, 1.0), xycoords="axes fraction", xytext=(-6.0, 4.5), textcoords="offset points",
                    ha="right", fontsize=8.5, color=INK)  # fmt: skip


def _title(one: xr.Dataset, y: int, x: int) -> str:
    names = flags.describe(int(one["pixel_dq"].values)) if "pixel_dq" in one else []
    exposure = str(one["exposure"].values) if "exposure" in one.coords else str(one.attrs.get("setting", ""))
    pixel = f"pixel y = {y}, x = {x}" + (f" ({', '.join(names)})" if names else "")
    return "   ".join(part for part in (exposure, pixel) if part)
