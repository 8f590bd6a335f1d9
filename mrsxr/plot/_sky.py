"""Axes on the sky: WCSAxes of a cube or of its maps, with scale bar, compass, beam and circles."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.visualization.wcsaxes import WCSAxes, add_beam, add_scalebar
from astropy.wcs import WCS
from astropy.wcs.utils import pixel_to_pixel, proj_plane_pixel_scales
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure, FigureBase
from matplotlib.gridspec import SubplotSpec
from matplotlib.offsetbox import AnchoredOffsetbox, DrawingArea
from matplotlib.patches import Circle, FancyArrowPatch
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from mrsxr.arguments import as_circle
from mrsxr.errors import MrsxrError
from mrsxr.geometry.index import CelestialIndex
from mrsxr.geometry.place import sky_of
from mrsxr.limits import Accepts, checked, expected

from ._style import INK, Box, axes_height, inch, new_figure, root_figure

_MARGIN = 0.03  # around the field [of the field]
_STRIP = 2.5  # below the field, for beam and scale bar [font sizes]
_LENGTHS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)  # arcsec, of the scale bar
_SMALL = 8.0  # points; below it letters are of a small panel
_NARROW = 2.3  # inch; axes narrower than that have letters of a small panel
_ROOM = (1.15, 0.95, 0.55, 0.4)  # left, right, below and above a panel [inch]
_STRAIGHT = 1.0  # rotation from which a compass is drawn [deg]
EDGE = (withStroke(linewidth=2.2, foreground="white"),)
Limits = tuple[float, float, float, float]
SkyData = xr.Dataset | xr.DataArray


def _is_position(value: Any) -> bool:
    """Tell whether a value can be a place in a figure."""
    if isinstance(value, SubplotSpec | int | np.integer):
        return isinstance(value, SubplotSpec) or (not isinstance(value, bool) and 111 <= int(value) <= 999)
    return expected(value, tuple[float, ...]) is None and len(value) in (3, 4)


Position = Annotated[Any, Accepts(_is_position, "(left, bottom, width, height), a SubplotSpec, (rows, columns, number) "
                                                "or three digits, numbers from 1")]  # fmt: skip


def sky_wcs(ds: SkyData) -> WCS | None:
    """Return the celestial WCS of the spaxels of a cube or of maps, None where none is known.

    From ``attrs["wcs"]`` and the offsets ``x`` and ``y``, which tell how the field was cut, else from the index of
    ``ra`` and ``dec``.
    """
    known = "wcs" in ds.attrs or isinstance(ds.xindexes.get("ra"), CelestialIndex)
    return sky_of(ds) if known and {"y", "x"} <= set(ds.dims) else None


@checked
def sky_axes(
    ds: SkyData, figure: FigureBase | None = None, position: Position | None = None, *, north_up: bool = False
) -> WCSAxes:  # fmt: skip
    """Return axes with right ascension and declination for a cube or for maps.

    Parameters
    ----------
    ds : Dataset or DataArray
        Cube, maps or one map: with coordinates ``ra``, ``dec`` and their index, or with ``attrs["wcs"]``.
    figure : Figure or SubFigure, optional
        Where to make them; by default a new figure.
    position : (left, bottom, width, height) or SubplotSpec or (rows, columns, number) or int, optional
        Place in the figure [parts of it]; by default the whole with room for labels. 132 is (1, 3, 2).
    north_up : bool
        Turn the axes to the north; by default they run along the spaxels.

    Returns
    -------
    WCSAxes

    Raises
    ------
    MrsxrError
        Where the sky coordinates of the spaxels are not known, or the position is no place.

    Examples
    --------
    >>> figure = plt.figure()
    >>> left, right = (mx.plot.sky_axes(cube, figure, (1, 2, i)) for i in (1, 2))
    >>> ax = mx.plot.cube_image(cube, ax=left)
    """
    wcs = sky_wcs(ds) if isinstance(ds, xr.Dataset | xr.DataArray) else None
    if wcs is None:
        raise MrsxrError("sky axes need a cube or maps with the attribute 'wcs' or an index of ra and dec")
    if north_up:
        wcs = _turned(wcs)
    figure = figure if figure is not None else new_figure((6.4, 5.6))
    if position is None:
        position = (0.19, 0.12, 0.62, 0.78)
    if isinstance(position, SubplotSpec):
        return figure.add_subplot(position, projection=wcs)
    place = tuple(int(digit) for digit in str(position)) if isinstance(position, int | np.integer) else tuple(position)
    if len(place) == 4:
        return figure.add_axes(place, projection=wcs)
    if len(place) != 3 or not 1 <= place[2] <= place[0] * place[1]:
        raise MrsxrError(f"position is {position}; expected (left, bottom, width, height), a SubplotSpec, "
                         "(rows, columns, number) or three digits, numbers from 1")  # fmt: skip
    return figure.add_axes(_cell(figure, *place), projection=wcs)


def _cell(figure: Any, rows: int, columns: int, number: int) -> Box:
    """Return the box of a panel of a grid, numbered from 1, with room for its labels and its colour bar."""
    row, column = divmod(number - 1, columns)
    wide, high = figure.get_figwidth() / columns, figure.get_figheight() / rows
    left, right = (min(room, 0.3 * wide) for room in (_ROOM[0] if wide > _NARROW + 2.0 else _ROOM[0] / 2, _ROOM[1]))
    bottom, top = (min(room, 0.25 * high) for room in _ROOM[2:])
    place = column * wide + left, (rows - 1 - row) * high + bottom, wide - left - right, high - bottom - top
    return inch(place, (figure.get_figwidth(), figure.get_figheight()))


def _turned(wcs: WCS) -> WCS:
    """Return a WCS with the same tangent point and size of pixels, north up and east to the left."""
    scale = float(np.mean(proj_plane_pixel_scales(wcs)))
    out = wcs.deepcopy()
    out.wcs.cdelt = [1.0, 1.0]
    out.wcs.pc = [[-scale, 0.0], [0.0, scale]]
    out.wcs.set()
    return out


def require_sky(ds: SkyData, ax: Axes) -> Axes:
    """Check that axes handed in are on the sky where the data are."""
    if not isinstance(ax, WCSAxes) and sky_wcs(ds) is not None:
        raise MrsxrError(
            "ax has no sky coordinates (plain Axes); make it with mrsxr.plot.sky_axes(ds, figure, position)"
        )
    return ax


def sky_panel(
    ds: SkyData, seen: np.ndarray, ax: Axes | None, *, north_up: bool = False, height: float = 5.2, right: float = 1.15
) -> Axes:
    """Return ``ax``, or axes in a new figure of the shape of the field with room for a colour bar at the right."""
    if ax is not None:
        return require_sky(ds, ax)
    wide = min(max(height * field_aspect(ds, seen, height, north_up), 0.6 * height), 1.6 * height)
    left, bottom, top = 1.15, 0.62, 0.42
    size = left + wide + right, bottom + height + top
    return make_panel(ds, new_figure(size), inch((left, bottom, wide, height), size), north_up)


def make_panel(ds: SkyData, figure: Figure, box: Box, north_up: bool = False) -> Axes:
    """Return new axes in a figure, on the sky where the data are."""
    if sky_wcs(ds) is None:
        return figure.add_axes(box)
    return sky_axes(ds, figure, box, north_up=north_up)


def field_aspect(ds: SkyData, seen: np.ndarray, height: float, north_up: bool = False, size: float = 9.0) -> float:
    """Return width over height of the field as it will be drawn, ``height`` inch high with letters of ``size``."""
    wcs = sky_wcs(ds)
    x, y = _corners(ds, None if wcs is None else (_turned(wcs) if north_up else wcs))
    left, right, low, high = _limits(x, y, seen, 0.0 if wcs is None else _strip(height, size))
    return abs(right - left) / (high - low)


def _corners(ds: SkyData, frame: WCS | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the spaxels in pixels of a frame on the sky, or as offsets [arcsec] without one."""
    ny, nx = ds.sizes["y"], ds.sizes["x"]
    wcs = sky_wcs(ds)
    if wcs is None or frame is None:
        x, y = np.meshgrid(_edges(ds, "x"), _edges(ds, "y"))
        return x, y
    x, y = np.meshgrid(np.arange(nx + 1) - 0.5, np.arange(ny + 1) - 0.5)
    return pixel_to_pixel(wcs, frame, x, y)


def _edges(ds: SkyData, dim: str) -> np.ndarray:
    centres = np.asarray(ds[dim].values, dtype=float)
    if centres.size == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _strip(height: float, size: float) -> float:
    """Return the part of axes of a height [inch] that beam and scale bar take with letters of a size [points]."""
    return min(_STRIP * size / 72.0 / height, 0.25)


def _limits(x: np.ndarray, y: np.ndarray, seen: np.ndarray, strip: float) -> Limits:
    """Return left, right, lower and upper limit around the spaxels with values; ``strip`` of the height is below."""
    use = np.zeros(x.shape, dtype=bool)
    for rows in (slice(0, -1), slice(1, None)):
        for columns in (slice(0, -1), slice(1, None)):
            use[rows, columns] |= seen if seen.any() else True
    x, y = x[use], y[use]
    pad = _MARGIN * max(float(np.ptp(x)), float(np.ptp(y)))
    low, high = float(y.min()) - pad, float(y.max()) + pad
    return float(x.min()) - pad, float(x.max()) + pad, low - (high - low) * strip / (1.0 - strip), high


def draw_on_sky(ds: SkyData, ax: Axes, image: np.ndarray, *, seen: np.ndarray | None = None, size: float = 9.0,
                **kwargs: Any) -> QuadMesh:  # fmt: skip
    """Draw an image of the spaxels where they lie in ``ax``, with its limits around the spaxels with values."""
    x, y = _corners(ds, ax.wcs.celestial if isinstance(ax, WCSAxes) else None)
    drawn = ax.pcolormesh(x, y, image, antialiased=False, rasterized=True, **kwargs)
    ax.set_facecolor("white")
    strip = _strip(axes_height(ax), size) if isinstance(ax, WCSAxes) else 0.0
    left, right, low, high = _limits(x, y, np.isfinite(image) if seen is None else seen, strip)
    ax.set_xlim(left, right)
    ax.set_ylim(low, high)
    ax.set_aspect("equal")
    return drawn


def dress_sky(ax: Axes, *, left: bool = True, bottom: bool = True, size: float = 9.0, ticks: int = 4) -> None:
    """Label the axes: each coordinate where it runs, on the outer sides only where ``left`` or ``bottom`` say so."""
    if not isinstance(ax, WCSAxes):
        ax.set_xlabel("x [arcsec]" if bottom else "")
        ax.set_ylabel("y [arcsec]" if left else "")
        ax.tick_params(labelsize=size, labelbottom=bottom, labelleft=left)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(ticks + 1, steps=[1, 2, 5, 10]))
        return
    if ax.get_position(original=True).width * root_figure(ax).get_figwidth() < _NARROW:
        size = min(size, 7.5)
    across = abs(math.cos(math.radians(rotation(ax)))) < math.sqrt(0.5)  # right ascension runs up
    name = "ICRS" if ax.wcs.wcs.radesys in ("", "ICRS") else ax.wcs.wcs.radesys
    for i, text in enumerate((f"RA ({name})", f"Dec ({name})")):
        side = "l" if (i == 0) == across else "b"
        shown = left if side == "l" else bottom
        coord = ax.coords[i]
        coord.set_ticks_position(side)
        coord.set_ticklabel_position(side if shown else "")
        coord.set_axislabel_position(side if shown else "")
        small = side == "l" and size < _SMALL
        coord.set_axislabel(text if shown else "", fontsize=size + 0.5, minpad=1.2 if small else 0.6)
        coord.set_auto_axislabel(False)
        coord.set_ticks(number=ticks + 2 if side == "l" and not small else ticks, size=3.5)
        turned = {"rotation": 90.0} if small else {}  # saves room at the left
        coord.set_ticklabel(size=size, exclude_overlapping=True, simplify=True, **turned)


def rotation(ax: WCSAxes) -> float:
    """Return the angle from up to the north, counted to the left [deg], at the tangent point."""
    matrix = ax.wcs.celestial.pixel_scale_matrix
    return math.degrees(math.atan2(matrix[1, 0], matrix[1, 1]))


def mark_scale(ax: Axes, size: float = 9.0) -> None:
    """Draw a bar of a round number of arcseconds in the lower right corner."""
    if not isinstance(ax, WCSAxes):
        return
    width = abs(np.diff(ax.get_xlim())[0]) * float(np.mean(proj_plane_pixel_scales(ax.wcs.celestial))) * 3600.0
    length = max((v for v in _LENGTHS if v <= 0.28 * width), default=_LENGTHS[0])
    add_scalebar(
        ax, length * u.arcsec, label=f"{length:g}″", corner="bottom right", color=INK, label_top=True,
        size_vertical=0.0, fontproperties={"size": size}, pad=0.1, borderpad=0.45,
    )  # fmt: skip


def mark_compass(ax: Axes, size: float = 9.0) -> None:
    """Draw arrows to the north and to the east in the upper left corner where the axes are turned."""
    if not isinstance(ax, WCSAxes) or abs(rotation(ax)) < _STRAIGHT:
        return
    matrix = np.linalg.inv(ax.wcs.celestial.pixel_scale_matrix)
    arrows = {name: matrix @ way / np.hypot(*(matrix @ way)) for name, way in (("N", (0.0, 1.0)), ("E", (1.0, 0.0)))}
    long, gap = 2.3 * size, 0.8 * size
    corners = np.array([[0.0, 0.0], *arrows.values()]) * (long + gap)
    foot = 0.6 * size - corners.min(axis=0)
    box = DrawingArea(*(corners.max(axis=0) + foot + 0.6 * size))
    for name, way in arrows.items():
        tip, spot = foot + way * long, foot + way * (long + gap)
        box.add_artist(FancyArrowPatch(tuple(foot), tuple(tip), arrowstyle="-|>", mutation_scale=1.1 * size, lw=1.2,
                                       color=INK, shrinkA=0, shrinkB=0, path_effects=list(EDGE)))  # fmt: skip
        box.add_artist(
            Text(float(spot[0]), float(spot[1]), name, ha="center", va="center", fontsize=size, color=INK,
                 fontweight="bold", gid="compass", path_effects=list(EDGE))
        )  # fmt: skip
    ax.add_artist(AnchoredOffsetbox("upper left", child=box, pad=0.0, borderpad=0.25, frameon=False, zorder=7))


def mark_beam(ax: Axes, fwhm: float | None) -> None:
    """Draw a circle with the FWHM of the point-spread function [arcsec] in the lower left corner."""
    if not isinstance(ax, WCSAxes) or fwhm is None or not np.isfinite(fwhm):
        return
    size = float(fwhm) * u.arcsec
    add_beam(ax, major=size, minor=size, angle=0.0 * u.deg, corner="bottom left", facecolor="0.55", edgecolor=INK,
             linewidth=0.8, pad=0.25, borderpad=0.35)  # fmt: skip


def mark_aperture(ax: Axes, ds: SkyData, aperture: tuple[Any, ...], size: float = 7.5) -> None:
    """Draw a circle (ra, dec [deg], radius [arcsec]) on the sky; the centre alone where there is no radius."""
    if sky_wcs(ds) is None or not isinstance(ax, WCSAxes):
        raise MrsxrError("an aperture on the sky needs a cube with the attribute 'wcs'")
    ra, dec, radius = as_circle(aperture)
    wcs = ax.wcs.celestial
    across, up = (float(v) for v in wcs.wcs_world2pix(float(ra), float(dec), 0))
    if radius is not None and np.isfinite(radius):
        pixels = float(radius) / 3600.0 / float(np.mean(proj_plane_pixel_scales(wcs)))
        for width, colour in ((2.6, "black"), (1.3, "white")):
            ax.add_patch(Circle((across, up), pixels, fill=False, lw=width, ec=colour, zorder=4, gid="aperture"))
    for width, long, colour in ((2.4, size, "black"), (1.1, 0.8 * size, "white")):
        ax.plot([across], [up], marker="+", ms=long, mew=width, color=colour, zorder=5, ls="none")
