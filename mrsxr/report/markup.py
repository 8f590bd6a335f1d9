"""The pieces that the page is made of: the macros of its template, pictures inline, numbers in words."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from mrsxr.plot._style import figure_of

NONE = "–"
_pages = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)  # fmt: skip


class _Macros:
    """The macros of a template, by name."""

    def __getattr__(self, name: str) -> Callable[..., Markup]:
        return getattr(_pages.get_template("page.html.jinja").module, name)


macros = _Macros()
strong, code, heading, paragraph = macros.strong, macros.code, macros.heading, macros.paragraph
bullets, details = macros.bullets, macros.details


def join(*parts: Any) -> Markup:
    """Return pieces one after the other; text among them is escaped."""
    return Markup("").join(parts)


def table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = (), *,
    stack: bool = False,
) -> Markup:  # fmt: skip
    """Return a table that can be shifted sideways on small screens.

    Parameters
    ----------
    caption : str
    header : sequence of str
        Headers of the columns.
    rows : iterable of sequences
        The first cell of a row is its header.
    numbers : iterable of int
        Columns to align right.
    stack : bool
        For cells of text: on small screens the cells of a row stand one below the other.
    """
    return macros.table(caption, header, rows, set(numbers), stack, NONE)


def picture(
    drawn: Any, alt: str, caption: Any = "", *, dpi: float = 110, wide: bool = False, noisy: bool = False
) -> Markup:
    """Return a figure element with the picture inside the page; the figure is closed.

    Parameters
    ----------
    drawn : Axes, array of Axes or Figure
    alt : str
        What is to be seen, for those who do not see it.
    caption : str or Markup
    dpi : float
        Resolution [dots per inch].
    wide : bool
        Keep it wide enough to be read and let it be shifted sideways on small screens.
    noisy : bool
        An image full of noise: kept as WebP, a quarter of the size of PNG.
    """
    from matplotlib import pyplot

    figure, buffer = figure_of(drawn), BytesIO()
    if noisy:
        figure.savefig(buffer, format="webp", dpi=dpi, pil_kwargs={"quality": 82, "method": 4})
    else:
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    width, height = (round(side * dpi) for side in figure.get_size_inches())
    pyplot.close(figure)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    source = f"data:image/{'webp' if noisy else 'png'};base64,{data}"
    return macros.figure(source, alt, width, height, caption, wide)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.{digits}g}".replace("-", "−") if value and abs(value) < 1e6 else f"{value:g}"


def with_error(value: float, error: float, decimals: int | None = None) -> str:
    """Return ``value ± error`` with the error in two digits, a dash where there is no value."""
    if not math.isfinite(value):
        return NONE
    if not (math.isfinite(error) and error > 0):
        return number(value, 4)
    if decimals is None:
        decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "−")


def percent(part: float) -> str:
    """Return a part of one as percent, with two digits at least."""
    if not math.isfinite(part):
        return NONE
    if part == 0:
        return "0"
    return f"{100 * part:.2f} %" if part >= 0.001 else f"{100 * part:.1g} %"


def seconds(value: float) -> str:
    """Return a time as people write it."""
    if value >= 5400:
        return f"{value / 3600:.1f} h"
    return f"{value / 60:.1f} min" if value >= 90 else f"{value:.1f} s"
