"""What all pictures share: figures without global state, colours, stretch, colour bars, writing to disk."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, FuncNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mrsxr.errors import MrsxrError

DPI = 120
NO_VALUE = "0.72"  # grey of pixels without a value
INK = "0.15"
FAINT = "0.55"
# Okabe & Ito: told apart with every kind of colour vision
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
#: One hue per channel (blue, orange-red, green, purple), dark to light from A to C.
BAND_COLOURS = {
    "1A": "#08306b", "1B": "#0072B2", "1C": "#3f9fd8",
    "2A": "#7f2704", "2B": "#D55E00", "2C": "#e8912d",
    "3A": "#00441b", "3B": "#009E73", "3C": "#4fb58f",
    "4A": "#4a1a55", "4B": "#9a4d9e", "4C": "#c879b0",
}  # fmt: skip
STRETCHES = ("linear", "sqrt", "asinh", "log")
_SOFTENING = {"asinh": 0.02, "log": 0.002}


class QuickLook(Figure):
    """A Figure that notebooks show as a picture, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def new_axes(
    ax: Axes | None, size: tuple[float, float], box: tuple[float, float, float, float] | None = None
) -> tuple[Figure, Axes]:
    """Return the figure and axes to draw in: those of ``ax``, or new ones.

    Parameters
    ----------
    ax : Axes, optional
    size : (float, float)
        Width and height of a new figure [inch].
    box : (left, bottom, width, height), optional
        Where new axes lie [inch]; by default as the labels leave room.
    """
    if ax is not None:
        return root_figure(ax), ax
    if box is None:
        figure: Figure = QuickLook(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
        return figure, figure.add_subplot()
    figure = QuickLook(figsize=size, dpi=DPI, facecolor="white")
    left, bottom, width, height = box
    return figure, figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))


def root_figure(ax: Axes) -> Figure:
    """Return the figure of axes, also of axes inside a sub-figure."""
    figure = ax.figure
    while not isinstance(figure, Figure):
        figure = figure.figure
    return figure


def colour_map(name: str) -> Colormap:
    """Return a colour map with grey for NaN."""
    return matplotlib.colormaps[name].with_extremes(bad=NO_VALUE)


def image_norm(values: np.ndarray, stretch: str, percentiles: tuple[float, float]) -> Normalize:
    """Return the brightness scale of an image, between two percentiles of its finite values.

    Parameters
    ----------
    values : array
        What sets the limits; NaN is left out.
    stretch : {"linear", "sqrt", "asinh", "log"}
        The scale is relative to the lower limit, so that the sky level does not matter.
    percentiles : (float, float)
    """
    if stretch not in STRETCHES:
        raise MrsxrError(f"stretch is '{stretch}'; expected one of {', '.join(STRETCHES)}")
    finite = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(finite, percentiles)) if finite.size else (0.0, 1.0)
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1.0), low + 0.5 * (abs(low) or 1.0)
    if stretch == "linear":
        return Normalize(low, high)
    span = high - low
    if stretch == "sqrt":
        return FuncNorm((lambda v: _signed_root((v - low) / span), lambda t: low + span * t * np.abs(t)), low, high)
    a = _SOFTENING[stretch]
    top = float(np.arcsinh(1.0 / a))
    return FuncNorm(
        (lambda v: np.arcsinh((v - low) / span / a) / top, lambda t: low + span * a * np.sinh(t * top)), low, high
    )


def _signed_root(t):
    return np.sign(t) * np.sqrt(np.abs(t))


def colour_bar(mappable, ax: Axes, label: str, *, where: str = "right", ticks: int = 6) -> Axes:
    """Add a colour bar that keeps to the side of an image, whatever its aspect; ``where`` "right" or "top"."""
    high = ax.get_position().height * root_figure(ax).get_figheight()
    thick, apart = 0.11 / high, 0.05 / high
    cax = ax.inset_axes((1.02, 0.0, 0.04, 1.0) if where == "right" else (0.0, 1.0 + apart, 1.0, thick))
    bar = root_figure(ax).colorbar(
        mappable, cax=cax, orientation="vertical" if where == "right" else "horizontal", extend="neither"
    )
    norm = mappable.norm
    if isinstance(norm, FuncNorm):
        bar.set_ticks(_even_ticks(norm, ticks))
        bar.ax.minorticks_off()
        (bar.ax.yaxis if where == "right" else bar.ax.xaxis).set_major_formatter(
            lambda v, _: f"{v:.6g}".replace("-", "−")
        )
    else:
        bar.locator = MaxNLocator(ticks - 1, steps=[1, 2, 2.5, 5, 10])
        bar.update_ticks()
    if where == "top":
        cax.xaxis.set_ticks_position("top")
        cax.xaxis.set_label_position("top")
    bar.outline.set_linewidth(0.6)
    bar.set_label(label)
    return cax


def _even_ticks(norm: FuncNorm, number: int) -> list[float]:
    """Return round numbers at about equal distances on the colour bar."""
    places = np.linspace(0.0, 1.0, number)
    wanted = np.asarray(norm.inverse(places), dtype=float)
    ticks: list[float] = []
    for i, value in enumerate(wanted):
        step = np.min(np.abs(np.delete(wanted, i) - value))
        unit = 10.0 ** np.floor(np.log10(0.5 * step)) if step > 0 else 1.0
        tick = round(value / unit) * unit
        if not norm.vmin <= tick <= norm.vmax:
            tick = (np.floor if tick > norm.vmax else np.ceil)(value / unit) * unit
        if norm.vmin <= tick <= norm.vmax and tick not in ticks:
            ticks.append(float(tick))
    return ticks


def unit_text(unit: str | None) -> str:
    """Return a unit string as people write it, ``"um" -> "µm"``, ``"MJy/sr" -> "MJy sr⁻¹"``."""
    known = {"um": "µm", "MJy/sr": "MJy sr⁻¹", "DN/s": "DN s⁻¹", "arcsec": "arcsec", "1": "", None: ""}
    return known.get(unit, unit or "")


def with_unit(text: str, unit: str | None) -> str:
    """Return ``text [unit]``, or the text alone where there is no unit."""
    shown = unit_text(unit)
    return f"{text} [{shown}]" if shown else text


def pick_dither(ds: xr.Dataset, dither: int) -> xr.Dataset:
    """Return one exposure of a Dataset by its number, counted from 1."""
    if "dither" not in ds.dims:
        return ds
    numbers = ds["dither"].values if "dither" in ds.coords else np.arange(1, ds.sizes["dither"] + 1)
    place = np.flatnonzero(numbers == dither)
    if not place.size:
        raise MrsxrError(
            f"setting {ds.attrs.get('setting')}: there is no dither {dither}; expected one of "
            f"{', '.join(str(n) for n in numbers)}"
        )
    return ds.isel(dither=int(place[0]))


def save_figure(figure: Figure, path: str | os.PathLike, dpi: float | None = None) -> Path:
    """Write a figure to a file, whole or not at all: to a temporary name first, then renamed.

    Parameters
    ----------
    figure : Figure
    path : path
        The suffix names the format (.png, .pdf, .svg, .jpg ...); missing folders are made.
    dpi : float, optional
        Resolution [dots per inch]; by default that of the figure.

    Returns
    -------
    Path
        The file written.
    """
    target = Path(path)
    kind = target.suffix.lstrip(".").lower()
    kinds = figure.canvas.get_supported_filetypes()
    if kind not in kinds:
        raise MrsxrError(f"{target}: '.{kind}' is no picture format; expected one of {', '.join(sorted(kinds))}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        figure.savefig(part, format=kind, dpi="figure" if dpi is None else dpi)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target
