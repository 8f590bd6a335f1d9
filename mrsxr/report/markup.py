"""The few pieces of HTML that the page is made of: escaped text, tables with headers, pictures inline."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure

NONE = "–"


class Raw(str):
    """Text that is HTML already."""

    __slots__ = ()


def escape(value: Any) -> str:
    """Return a value as HTML text."""
    return value if isinstance(value, Raw) else html.escape(str(value))


def tag(name: str, *content: Any, **attributes: Any) -> Raw:
    """Return one element; ``class_`` stands for class, ``aria_label`` for aria-label."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items() if value is not None
    )  # fmt: skip
    return Raw(f"<{name}{given}>{''.join(escape(part) for part in content)}</{name}>")


def join(*parts: Any) -> Raw:
    """Return pieces one after the other; text among them is escaped."""
    return Raw("".join(escape(part) for part in parts))


def paragraph(*content: Any, class_: str | None = None) -> Raw:
    """Return a paragraph."""
    return tag("p", *content, class_=class_)


def code(text: Any) -> Raw:
    """Return a name of a file, a step or a parameter."""
    return tag("code", text)


def bullets(items: Iterable[Any], class_: str | None = None) -> Raw:
    """Return an unordered list."""
    return tag("ul", *(tag("li", item) for item in items), class_=class_)


def details(summary: str, *content: Any) -> Raw:
    """Return what is folded away under a line of text."""
    return tag("details", tag("summary", summary), *content)


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[Any]],
    numbers: Iterable[int] = (),
    *,
    stack: bool = False,
) -> Raw:
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
        For cells of text: on small screens the cells of a row stand one below the other. The roles tell what the
        elements are where the style takes it from them.
    """
    right = set(numbers)

    def cell(name: str, column: int, content: Any) -> Raw:
        role = {"td": "cell", "th": "rowheader"}[name] if stack else None
        style = "number" if column in right else "none" if stack and content == NONE else None
        label = header[column] if stack and name == "td" and len(header) > 2 else None
        return tag(name, content, scope="row" if name == "th" else None, class_=style, role=role, data_label=label)

    row_role, head_role = ("row", "columnheader") if stack else (None, None)
    titles = (
        tag("th", h, scope="col", class_="number" if i in right else None, role=head_role)
        for i, h in enumerate(header)
    )  # fmt: skip
    body = (
        tag("tr", cell("th", 0, row[0]), *(cell("td", i, c) for i, c in enumerate(row[1:], 1)), role=row_role)
        for row in rows
    )
    group = "rowgroup" if stack else None
    whole = tag(
        "table", tag("caption", tag("span", caption)), tag("thead", tag("tr", *titles, role=row_role), role=group),
        tag("tbody", *body, role=group), role="table" if stack else None,
        class_="stack" if stack else "data" if right else None,
    )  # fmt: skip
    return tag("div", whole, class_="scroll", role="region", tabindex="0", aria_label=caption)


def picture(
    drawn: Any, alt: str, caption: Any = "", *, dpi: float = 110, wide: bool = False, noisy: bool = False
) -> Raw:
    """Return a figure element with the picture inside the page; the figure is closed.

    Parameters
    ----------
    drawn : Axes, array of Axes or Figure
    alt : str
        What is to be seen, for those who do not see it.
    caption : str or Raw
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
    shown = tag(
        "img", src=f"data:image/{'webp' if noisy else 'png'};base64,{data}", alt=alt, width=width, height=height
    )
    image = Raw(shown.removesuffix("</img>"))
    inside = tag("div", image, class_="scroll", role="region", tabindex="0", aria_label=alt) if wide else image
    return tag("figure", inside, tag("figcaption", caption), class_="wide" if wide else None)


def figure_of(drawn: Any) -> Figure:
    """Return the figure that axes (one or an array) belong to."""
    while not isinstance(drawn, Figure):
        drawn = drawn.figure if hasattr(drawn, "figure") else np.ravel(np.asarray(drawn, dtype=object))[0]
    return drawn


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
