"""What all pictures share: figures, colours, stretch, colour bars, units in words, writing to disk."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axes._secondary_axes import SecondaryAxis
from matplotlib.colors import BoundaryNorm, Colormap, FuncNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mrsxr.errors import MrsxrError
from mrsxr.io.atomic import replacing
from mrsxr.limits import Accepts, Positive, checked_but
from mrsxr.robust import middle_and_scatter

DPI = 120  # of saved pictures [dots per inch]
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
Stretch = Literal["linear", "sqrt", "asinh", "log"]
STRETCHES = get_args(Stretch)
Side = Literal["right", "top"]
ColourMap = Annotated[
    str | Colormap,
    Accepts(lambda one: isinstance(one, Colormap) or (isinstance(one, str) and one in matplotlib.colormaps),
            "the name of a colour map of matplotlib, or one"),
]  # fmt: skip
_SOFTENING = {"asinh": 0.02, "log": 0.002}
_WORD = re.compile(r"([^\d\s-]+)(-?\d+)?")
_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
Box = tuple[float, float, float, float]


def new_figure(size: tuple[float, float]) -> Figure:
    """Return a new figure of pyplot, so that a notebook shows it by itself; ``size`` in inch."""
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, facecolor="white")


def new_axes(ax: Axes | None, size: tuple[float, float], box: Box) -> Axes:
    """Return ``ax``, or new axes in a new figure.

    Parameters
    ----------
    ax : Axes, optional
    size : (float, float)
        Width and height of a new figure [inch].
    box : (left, bottom, width, height)
        Where new axes lie [inch].
    """
    return ax if ax is not None else new_figure(size).add_axes(inch(box, size))


def inch(box: Iterable[float], size: tuple[float, float]) -> Box:
    """Return a place in a figure, given in inch, as parts of the figure."""
    left, bottom, width, height = box
    return left / size[0], bottom / size[1], width / size[0], height / size[1]


def given_axes(ax: Any, number: int, what: str) -> list[Axes] | None:
    """Return the axes handed in for a picture of several panels, None where none were."""
    if ax is None:
        return None
    axes = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != number or not all(isinstance(a, Axes) for a in axes):
        raise MrsxrError(f"ax has {len(axes)} panels; {what} needs an array of {number} Axes")
    return axes


def array_of(axes: Iterable[Axes]) -> np.ndarray:
    """Return axes as an array of one dimension."""
    axes = list(axes)
    out = np.empty(len(axes), dtype=object)
    out[:] = axes
    return out


def root_figure(ax: Axes) -> Figure:
    """Return the figure of axes, also of axes inside a sub-figure."""
    figure = ax.figure
    while not isinstance(figure, Figure):
        figure = figure.figure
    return figure


def axes_height(ax: Axes) -> float:
    """Return the height that axes have been given [inch]."""
    return float(ax.get_position(original=True).height * root_figure(ax).get_figheight())


def colour_map(name: str | Colormap, bad: str = NO_VALUE) -> Colormap:
    """Return a colour map with grey for NaN, or another colour; ``"none"`` leaves such pixels open."""
    return (name if isinstance(name, Colormap) else matplotlib.colormaps[name]).with_extremes(bad=bad)


def image_norm(values: np.ndarray, stretch: str, percentiles: tuple[float, float] | None = None) -> Normalize:
    """Return the brightness scale of an image, between two percentiles of its finite values.

    Parameters
    ----------
    values : array
        What sets the limits; NaN is left out.
    stretch : {"linear", "sqrt", "asinh", "log"}
        The scale is relative to the lower limit, so that the sky level does not matter; "asinh" and "log" are linear
        over the noise where the percentiles are not given.
    percentiles : (float, float), optional
        By default 1 and 99.7, but not more than two standard deviations of the noise (from the median of the
        deviations) below the median, so that noise does not take half of the colours.
    """
    if stretch not in STRETCHES:
        raise MrsxrError(f"stretch is '{stretch}'; expected one of {', '.join(STRETCHES)}")
    finite = values[np.isfinite(values)]
    ends = (1.0, 99.7) if percentiles is None else percentiles
    low, high = (float(v) for v in np.percentile(finite, ends)) if finite.size else (0.0, 1.0)
    noise = 0.0
    if percentiles is None and finite.size:
        middle, noise = middle_and_scatter(finite)
        low = max(low, float(middle - 2 * noise))
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1.0), low + 0.5 * (abs(low) or 1.0)
    if stretch == "linear":
        return Normalize(low, high)
    span = high - low
    if stretch == "sqrt":
        return FuncNorm((lambda v: _signed_root((v - low) / span), lambda t: low + span * t * np.abs(t)), low, high)
    a = max(_SOFTENING[stretch], noise / span)
    top = float(np.arcsinh(1.0 / a))
    return FuncNorm(
        (lambda v: np.arcsinh((v - low) / span / a) / top, lambda t: low + span * a * np.sinh(t * top)), low, high
    )


def _signed_root(t: Any) -> Any:
    return np.sign(t) * np.sqrt(np.abs(t))


def top_axis(ax: Axes, forward: Callable[[Any], Any], backward: Callable[[Any], Any]) -> SecondaryAxis:
    """Add a second scale above the axes: ``forward`` takes x to it, ``backward`` its values to x."""
    return ax.secondary_xaxis("top", functions=(forward, backward))


def colour_bar(
    mappable: Any, ax: Axes, label: str, *, where: str = "right", ticks: int = 6, cax: Axes | None = None,
    of: Any = None,
) -> Axes:  # fmt: skip
    """Add a colour bar that keeps to the side of an image, whatever its aspect; ``where`` "right" or "top".

    Ends beyond which there are values are arrows. ``cax``: axes for the bar itself, in place of new ones; ``of``: the
    values of all images that it stands for.
    """
    high = ax.get_position().height * root_figure(ax).get_figheight()  # of a given aspect
    thick, apart = 0.11 / high, 0.05 / high
    if cax is None:
        cax = ax.inset_axes((1.02, 0.0, 0.04, 1.0) if where == "right" else (0.0, 1.0 + apart, 1.0, thick))
    bar = root_figure(ax).colorbar(
        mappable, cax=cax, orientation="vertical" if where == "right" else "horizontal",
        extend=_beyond(mappable.norm, mappable.get_array() if of is None else of), extendfrac=0.03,
    )  # fmt: skip
    norm = mappable.norm
    if isinstance(norm, FuncNorm):
        bar.set_ticks(_even_ticks(norm, ticks))
        bar.ax.minorticks_off()
        (bar.ax.yaxis if where == "right" else bar.ax.xaxis).set_major_formatter(
            lambda v, _: f"{v + 0.0:.6g}".replace("-", "−")
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


def _beyond(norm: Normalize, values: Any) -> str:
    """Return at which ends of a scale values lie beyond it: "neither", "min", "max" or "both"."""
    if norm.vmin is None or norm.vmax is None or isinstance(norm, BoundaryNorm):
        return "neither"
    known = np.ma.masked_invalid(values).compressed()
    slack = 1e-6 * (norm.vmax - norm.vmin)
    low, high = bool((known < norm.vmin - slack).any()), bool((known > norm.vmax + slack).any())
    return "both" if low and high else "min" if low else "max" if high else "neither"


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
    """Return a unit string as people write it: ``"um" -> "µm"``, ``"MJy/sr"`` or ``"MJy sr-1" -> "MJy sr⁻¹"``."""
    words = []
    for place, part in enumerate(str(unit or "").split("/")):
        for word in part.replace("1", "", part == "1").split():
            found = _WORD.fullmatch(word)
            power = int(found[2] or 1) * (-1 if place else 1) if found else 1
            name = (found[1] if found else word).replace("um", "µm")
            words.append(name if power == 1 else name + superscript(power))
    return " ".join(words)


def superscript(number: int) -> str:
    """Return an integer as superscript, ``-18 -> "⁻¹⁸"``."""
    return str(number).translate(_SUPERSCRIPT)


def power_of_ten(values: np.ndarray) -> tuple[int, str]:
    """Return the power of ten that gives readable numbers, 0 where they are, and ``"10⁻¹⁸ "`` for the unit."""
    finite = np.abs(values[np.isfinite(values)])
    top = float(np.percentile(finite, 99)) if finite.size else 0.0
    if not top or 0.02 <= top < 2e4:
        return 0, ""
    power = int(np.floor(np.log10(top)))
    return power, f"10{superscript(power)} "


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


@checked_but("picture")
def save_figure(picture: Any, path: str | os.PathLike[str], dpi: Positive | None = None) -> Path:
    """Write a picture to a file, whole or not at all, and close it.

    Parameters
    ----------
    picture : Axes, array of Axes or Figure
        What the functions of this module return.
    path : path
        The suffix names the format (.png, .pdf, .svg, .jpg ...); missing folders are made.
    dpi : float, optional
        Resolution [dots per inch]; by default 120.

    Returns
    -------
    Path
        The file written: to a temporary name first, then renamed.

    Examples
    --------
    >>> mx.plot.save_figure(mx.plot.spectrum(spectrum), "spectrum.png").name
    'spectrum.png'
    """
    from matplotlib import pyplot

    figure = figure_of(picture)
    target = Path(path)
    kind = target.suffix.lstrip(".").lower()
    kinds = figure.canvas.get_supported_filetypes()
    if kind not in kinds:
        raise MrsxrError(f"{target}: '.{kind}' is no picture format; expected one of {', '.join(sorted(kinds))}")
    with replacing(target) as part:
        figure.savefig(part, format=kind, dpi=dpi or DPI)
    pyplot.close(figure)
    return target


def figure_of(picture: Any) -> Figure:
    """Return the figure of an Axes, of an array of Axes, or the figure itself."""
    if isinstance(picture, Figure):
        return picture
    first = picture if isinstance(picture, Axes) else next(iter(np.ravel(np.asarray(picture, dtype=object))), None)
    if not isinstance(first, Axes):
        raise MrsxrError(f"a {type(picture).__name__} is no picture; expected an Axes, an array of Axes or a Figure")
    return root_figure(first)
