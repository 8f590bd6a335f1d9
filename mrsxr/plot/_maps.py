"""Maps of lines on the sky: flux, velocity, dispersion and others in one style, and maps by velocity channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize

from mrsxr.arguments import reads
from mrsxr.errors import MrsxrError
from mrsxr.limits import Count, Interval, LineName, NotNegative, Positive, checked
from mrsxr.lines.linelist import held
from mrsxr.mrs import psf_fwhm

from ._sky import (
    draw_on_sky,
    dress_sky,
    field_aspect,
    make_panel,
    mark_beam,
    mark_compass,
    mark_scale,
    require_sky,
    sky_panel,
)  # fmt: skip
from ._style import (
    NO_VALUE,
    OKABE_ITO,
    ColourMap,
    Side,
    Stretch,
    array_of,
    colour_bar,
    colour_map,
    figure_of,
    given_axes,
    image_norm,
    inch,
    new_figure,
    power_of_ten,
    unit_text,
)  # fmt: skip

TRIPLE = ("flux", "velocity", "dispersion")
MOMENTS = ("moment0", "moment1", "moment2")
_WILD = 6.0  # times the median distance from the middle, from where values do not set the colours
_COUNTS = ("0.93", OKABE_ITO[0], OKABE_ITO[4], OKABE_ITO[1])  # of 0, 1, 2 and 3 components


@dataclass(frozen=True)
class Kind:
    """How a kind of map is drawn: its name, colours, stretch and the S/N below which it is grey."""

    name: str
    cmap: str = "viridis"
    stretch: str = "linear"
    snr: float = 0.0


_KINDS = {
    "flux": Kind("Flux", "inferno", "asinh", 3.0),
    "velocity": Kind("Velocity", "RdBu_r", "symmetric", 5.0),
    "dispersion": Kind("Dispersion", "viridis", "linear", 8.0),
    "width": Kind("Observed dispersion", "viridis", "linear", 8.0),
    "snr": Kind("S/N", "cividis", "asinh", 0.0),
    "ew": Kind("Equivalent width", "viridis", "linear", 3.0),
    "continuum": Kind("Continuum", "inferno", "asinh", 0.0),
    "upper_limit": Kind("Upper limit", "cividis", "linear", 0.0),
    "n_components": Kind("Components", "", "counts", 0.0),
    "ratio": Kind("Ratio", "viridis", "linear", 0.0),
}
_SAME = {"moment0": "flux", "moment1": "velocity", "moment2": "dispersion"}


def kind_of(variable: str) -> Kind:
    """Return how a variable of maps is drawn; of an error the colours of errors and the name of what it belongs to."""
    stem = variable.removesuffix("_mc").removesuffix("_err").removeprefix("component_")
    kind = _KINDS.get(_SAME.get(stem, stem), Kind(stem.replace("_", " ").capitalize()))
    return kind if "_err" not in variable else Kind(f"Error of {kind.name.lower()}", "cividis", "linear", kind.snr)


@reads()
@checked
def line_map(
    maps: xr.Dataset, variable: str = "flux", line: LineName | None = None, ax: Axes | None = None, *,
    component: Count | None = None, snr: NotNegative | None = None, limits: Interval | None = None,
    stretch: Stretch | None = None, cmap: ColourMap | None = None, colorbar: Side | None = "right",
    north_up: bool = False, beam: bool = True, title: str | None = None, font_size: Positive = 9.0,
) -> Axes:  # fmt: skip
    """Draw one map of a line on the sky.

    Parameters
    ----------
    maps : Dataset
        Fits of the lines of a cube, their moments, a ratio of lines: any variable on (y, x) and on ``line``.
    variable : str
        ``flux``, ``velocity``, ``dispersion``, ``snr``, ``ew``, ``continuum``, ``n_components``, ``ratio`` ...
    line : str or float, optional
        Label of the line ("[Ne V] 24.32"), its name if only one line has it, or its rest wavelength
        [um]; needed where there are several.
    ax : WCSAxes, optional
        Where to draw, see :func:`sky_axes`; by default a new figure.
    component : int, optional
        Number of the component, from 1, of a variable of components.
    snr : float, optional
        Spaxels with a lower S/N are grey; by default 3 for fluxes, 5 for velocities, 8 for dispersions. 0: none is.
    limits : (float, float), optional
        Of the colours, in the units of the variable; by default from the values shown.
    stretch : {"linear", "sqrt", "asinh", "log", "symmetric"}, optional
        "symmetric": equal distances below and above the median; by default for velocities.
    cmap : str, optional
    colorbar : {"right", "top", None}
    north_up, beam, title, font_size : optional
        As in :func:`cube_image`; the beam is that at the line.

    Returns
    -------
    WCSAxes
        Grey: measured but too faint. White: no data.

    Examples
    --------
    >>> disc = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3))
    >>> ax = mx.plot.line_map(mx.lines.moments(disc, "[Ne II] 12.81"), "moment1")
    """
    one = pick_line(maps, line)
    kind = kind_of(variable)
    values = _values(one, variable, component)
    hidden, seen = _faint(one, values, kind.snr if snr is None else snr)
    power, prefix = power_of_ten(values[~hidden])
    shown = np.where(hidden, np.nan, values) * 10.0**-power
    limits = limits and (limits[0] * 10.0**-power, limits[1] * 10.0**-power)
    ax = sky_panel(one, seen, ax, north_up=north_up)
    if hidden.any():
        draw_on_sky(one, ax, np.where(hidden, 0.0, np.nan), cmap=ListedColormap([NO_VALUE]).with_extremes(bad="none"))
    norm, colours = _colours(shown, kind, stretch, cmap, limits)
    drawn = draw_on_sky(one, ax, shown, seen=seen, size=font_size, norm=norm, cmap=colours, gid="map")
    dress_sky(ax, size=font_size)
    mark_scale(ax, font_size)
    mark_compass(ax, font_size)
    if beam:
        mark_beam(ax, beam_of(one))
    if colorbar:
        bar = colour_bar(drawn, ax, _label(one, variable, kind, prefix), where=colorbar, ticks=6)
        bar.tick_params(labelsize=font_size)
    ax.set_title(title if title is not None else line_name(one), fontsize=font_size + 3.0)
    return ax


@reads()
@checked
def line_maps(
    maps: xr.Dataset, line: LineName | None = None, ax: Any = None, *, variables: tuple[str, ...] | None = None,
    snr: Sequence[NotNegative | None] | None = None, north_up: bool = False, title: str | None = None,
) -> np.ndarray:  # fmt: skip
    """Draw maps of a line side by side: flux, velocity and dispersion.

    Parameters
    ----------
    maps : Dataset
        Fits of the lines of a cube, or moments.
    line : str or float, optional
        Label of the line, its name if only one line has it, or its rest wavelength
        [um]; needed where there are several.
    ax : array of WCSAxes, optional
        Where to draw, one for each variable; by default a new figure.
    variables : tuple of str, optional
        By default flux, velocity and dispersion, of moments the moments 0, 1 and 2.
    snr : tuple of float, optional
        The S/N below which spaxels are grey, for each variable; by default 3, 5, 8 for these three.
    north_up : bool
        Turn a new picture to the north.
    title : str, optional
        By default the line and z.

    Returns
    -------
    array of WCSAxes

    Examples
    --------
    >>> disc = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3))
    >>> axes = mx.plot.line_maps(mx.lines.fit_line(disc, "[Ne II] 12.81"))
    """
    one = pick_line(maps, line)
    names = variables or (MOMENTS if "moment0" in one else TRIPLE)
    axes = given_axes(ax, len(names), f"line maps of {', '.join(names)}")
    if axes is None:
        seen = np.zeros((one.sizes["y"], one.sizes["x"]), dtype=bool)
        for name in names:
            seen |= _faint(one, _values(one, name, None), 0.0)[1]
        axes = _row(one, seen, len(names), north_up)
        redshift = one.attrs.get("redshift")
        text = line_name(one) + (f"   z = {float(redshift):g}" if redshift is not None else "")
        figure_of(axes[0]).suptitle(title if title is not None else text, fontsize=13, y=0.985, va="top")
    for i, (panel, name) in enumerate(zip(axes, names, strict=True)):
        require_sky(one, panel)
        limit = None if snr is None else snr[i]
        line_map(one, name, None, panel, snr=limit, title=kind_of(name).name, font_size=8.5)
        if i:
            dress_sky(panel, left=False, size=8.5)
    return array_of(axes)


@reads()
@checked
def channel_maps(
    maps: xr.Dataset, ax: Any = None, *, columns: Count | None = None, stretch: Stretch = "asinh",
    limits: Interval | None = None, cmap: ColourMap = "inferno", north_up: bool = False, title: str | None = None,
) -> np.ndarray:  # fmt: skip
    """Draw the flux of a line in channels of velocity, all in one scale.

    Parameters
    ----------
    maps : Dataset
        ``flux`` on (velocity, y, x), of :func:`mrsxr.lines.channel_maps`.
    ax : array of WCSAxes, optional
        Where to draw, one for each channel; by default a new figure.
    columns : int, optional
        Panels in a row of a new figure; by default up to five.
    stretch : {"linear", "sqrt", "asinh", "log"}
    limits : (float, float), optional
        Of the colours, in the units of the flux; by default from all channels.
    cmap : str
    north_up : bool
        Turn a new picture to the north.
    title : str, optional
        By default the line.

    Returns
    -------
    array of WCSAxes

    Examples
    --------
    >>> disc = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3))
    >>> axes = mx.plot.channel_maps(mx.lines.channel_maps(disc, "[Ne II] 12.81", width=300))
    """
    if "flux" not in maps or set(maps["flux"].dims) != {"velocity", "y", "x"}:
        raise MrsxrError(f"channel maps need flux on (velocity, y, x), got {maps.attrs.get('level', 'other data')}")
    cube = maps["flux"].transpose("velocity", "y", "x").values.astype(float)
    seen = np.isfinite(cube).any(axis=0)
    power, prefix = power_of_ten(cube)
    cube = cube * 10.0**-power
    norm = Normalize(limits[0] * 10.0**-power, limits[1] * 10.0**-power) if limits else image_norm(cube, stretch)
    axes = given_axes(ax, len(cube), "this set of channel maps")
    new = axes is None
    columns = min(len(cube), columns or (len(cube) if len(cube) <= 4 else 4 if len(cube) <= 8 else 5))
    if axes is None:
        axes = _grid(maps, seen, len(cube), columns, north_up)
        text = title if title is not None else line_name(maps)
        figure_of(axes[0]).suptitle(text, fontsize=13, y=1.0 - 0.1 / figure_of(axes[0]).get_figheight(), va="top")
    for i, (panel, image) in enumerate(zip(axes, cube, strict=True)):
        require_sky(maps, panel)
        drawn = draw_on_sky(
            maps, panel, image, seen=seen, size=7.5, norm=norm, cmap=colour_map(cmap, "none"), gid="map"
        )
        outer = not new, not new
        dress_sky(
            panel, left=outer[0] or i % columns == 0, bottom=outer[1] or i + columns >= len(cube), size=7.5, ticks=3
        )
        velocity = f"{float(maps['velocity'].values[i]):+.0f} km s⁻¹".replace("-", "−").replace("+0 ", "0 ")
        panel.set_title(velocity, fontsize=8.5, pad=3.0)
    mark_scale(axes[0], 7.5)
    mark_compass(axes[0], 7.0)
    mark_beam(axes[0], beam_of(maps))
    unit = f"{prefix}{unit_text(maps['flux'].attrs.get('units'))} per spaxel"
    _common_bar(axes, drawn, f"Flux in a channel [{unit}]", new, cube)
    return array_of(axes)


def pick_line(maps: xr.Dataset, line: LineName | None) -> xr.Dataset:
    """Return the maps, or the fit of a spectrum, of one line: by label, wavelength, or a name that it alone has."""
    names = maps["line"] if "line" in maps.coords else maps.attrs.get("line", "")
    labels = [str(label) for label in np.atleast_1d(names)]
    rest = np.atleast_1d(maps["wavelength_rest"]) if "wavelength_rest" in maps.coords else ()
    found = list(range(len(labels))) if line is None else held(line, labels, rest)
    if len(found) != 1:
        what = f"'{line}' is {'several of' if found else 'not among'} the lines" if line else "one line is drawn"
        raise MrsxrError(f"{what}; expected one of {', '.join(labels)}")
    return maps.isel(line=found[0]) if "line" in maps.dims else maps


def line_name(one: xr.Dataset) -> str:
    """Return the label of a line as people write it."""
    text = str(one["line"].values) if "line" in one.coords else str(one.attrs.get("line", ""))
    if "numerator" in one.attrs:
        text = f"{one.attrs['numerator']} / {one.attrs['denominator']}"
    return text.replace("H2 ", "H₂ ")


def beam_of(one: xr.Dataset) -> float | None:
    """Return the FWHM [arcsec] of the point-spread function at a line, that of the data where they were smoothed."""
    if one.attrs.get("psf_fwhm") is not None:
        return float(one.attrs["psf_fwhm"])
    if "wavelength_rest" not in one.coords:
        return None
    redshift = one.attrs.get("redshift") or 0.0
    return float(psf_fwhm(float(one["wavelength_rest"].values) * (1.0 + float(redshift))))


def _values(one: xr.Dataset, variable: str, component: int | None) -> np.ndarray:
    if variable not in one or not {"y", "x"} <= set(one[variable].dims):
        known = [str(name) for name in one.data_vars if {"y", "x"} <= set(one[name].dims)]
        raise MrsxrError(
            f"there is no map '{variable}'; expected one of {', '.join(known) or 'none: these are no maps'}"
        )
    data = one[variable]
    if "component" in data.dims:
        number = 1 if component is None else component
        if not 1 <= number <= data.sizes["component"]:
            raise MrsxrError(f"there is no component {number}; expected 1 to {data.sizes['component']}")
        data = data.isel(component=number - 1)
    elif component is not None:
        raise MrsxrError(
            f"component is {component}, and '{variable}' has none; leave it out, or draw component_{variable}"
        )
    if set(data.dims) != {"y", "x"}:
        raise MrsxrError(f"'{variable}' is on {data.dims}; expected a map on y and x")
    values = data.transpose("y", "x").values.astype(float)
    if data.dtype.kind in "iu" and "snr" in one and set(one["snr"].dims) == {"y", "x"}:
        values[~np.isfinite(one["snr"].transpose("y", "x").values)] = np.nan
    return values


def _faint(one: xr.Dataset, values: np.ndarray, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the spaxels that are measured but too faint or blanked, and those that are measured at all."""
    good = np.isfinite(values)
    if "snr" not in one or set(one["snr"].dims) != {"y", "x"}:
        return np.zeros(values.shape, dtype=bool), good
    ratio = one["snr"].transpose("y", "x").values
    measured = np.isfinite(ratio)
    faint = ratio < limit if limit > 0 else np.zeros(good.shape, dtype=bool)
    return measured & (~good | faint), measured | good


def _colours(
    shown: np.ndarray, kind: Kind, stretch: str | None, cmap: ColourMap | None, limits: tuple[float, float] | None,
) -> tuple[Any, Any]:  # fmt: skip
    """Return norm and colour map of a map."""
    stretch = stretch or kind.stretch
    finite = shown[np.isfinite(shown)]
    if kind.stretch == "counts":
        colours = ListedColormap(_COUNTS).with_extremes(bad="none")
        return BoundaryNorm(np.arange(len(_COUNTS) + 1) - 0.5, len(_COUNTS)), colours
    colours = colour_map(cmap or kind.cmap, "none")
    if limits is not None:
        return Normalize(*limits), colours
    if stretch == "symmetric":
        middle = float(np.median(finite)) if finite.size else 0.0
        half = _half_range(finite - middle)
        return Normalize(middle - half, middle + half), colours
    if stretch == "linear" and finite.size:
        low, high = (float(v) for v in np.percentile(finite, (1.0, 99.0)))
        middle = float(np.median(finite))
        high = min(high, middle + _half_range(finite - middle))
        return Normalize(low, high if high > low else low + (abs(low) or 1.0)), colours
    return image_norm(shown, stretch, (0.5, 99.7)), colours


def _half_range(distance: np.ndarray) -> float:
    """Return how far from the middle the colours reach: a few wild spaxels do not count."""
    if not distance.size:
        return 1.0
    far, usual = float(np.percentile(np.abs(distance), 98)), float(np.median(np.abs(distance)))
    return (min(far, _WILD * usual) if usual > 0 else far) or 1.0


def _label(one: xr.Dataset, variable: str, kind: Kind, prefix: str) -> str:
    unit = prefix + unit_text(one[variable].attrs.get("units"))
    if unit.strip() and kind.name.lower().endswith(("flux", "limit")):
        unit += " per spaxel"
    return f"{kind.name} [{unit.strip()}]" if unit.strip() else kind.name


def _row(ds: xr.Dataset, seen: np.ndarray, number: int, north_up: bool) -> list[Axes]:
    """Return axes of panels side by side in a new figure, with room for a colour bar right of each."""
    high = 3.5
    wide = min(max(high * field_aspect(ds, seen, high, north_up, 8.5), 0.6 * high), 1.6 * high)
    left, bottom, top, gap = 1.1, 0.6, 0.66, 1.05
    size = left + number * (wide + gap), bottom + high + top
    figure = new_figure(size)
    boxes = [inch((left + i * (wide + gap), bottom, wide, high), size) for i in range(number)]
    return [make_panel(ds, figure, box, north_up) for box in boxes]


def _grid(ds: xr.Dataset, seen: np.ndarray, number: int, columns: int, north_up: bool) -> list[Axes]:
    """Return axes of rows of panels in a new figure, with room for one colour bar at the right."""
    high, gap, head = 2.1, 0.09, 0.24
    wide = min(max(high * field_aspect(ds, seen, high, north_up, 7.5), 0.6 * high), 1.6 * high)
    rows = -(-number // columns)
    left, bottom, right, top = 0.72, 0.55, 1.0, 0.42
    size = left + columns * (wide + gap) + right, bottom + rows * (high + head) + top
    figure = new_figure(size)
    axes = []
    for i in range(number):
        row, column = divmod(i, columns)
        box = left + column * (wide + gap), bottom + (rows - 1 - row) * (high + head), wide, high
        axes.append(make_panel(ds, figure, inch(box, size), north_up))
    return axes


def _common_bar(axes: list[Axes], drawn: Any, label: str, new: bool, values: np.ndarray) -> None:
    """Add one colour bar: in a new figure right of the rows and as high as they are, else beside the last panel."""
    if not new:
        colour_bar(drawn, axes[-1], label, of=values)
        return
    figure = figure_of(axes[0])
    boxes = [a.get_position(original=True) for a in axes]
    right, low, high = max(b.x1 for b in boxes), min(b.y0 for b in boxes), max(b.y1 for b in boxes)
    width = figure.get_figwidth()
    place = right + 0.12 / width, low, 0.14 / width, high - low
    colour_bar(drawn, axes[-1], label, ticks=7, cax=figure.add_axes(place), of=values)
