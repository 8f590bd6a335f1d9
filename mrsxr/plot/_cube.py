"""Pictures of cubes: collapsed over wavelength, on the sky."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

from mrsxr.errors import LevelError, MrsxrError
from mrsxr.geometry.grid import CubeGrid, header_of_text

from ._style import colour_bar, colour_map, image_norm, new_axes, unit_text, with_unit

_LEAST = 0.25  # part of the planes that a spaxel must have to be shown
Range = float | tuple[float, float] | slice | None


def cube_image(
    cube: xr.Dataset, wavelength: Range = None, ax: Axes | None = None, *, aperture: tuple | None = None,
    origin: tuple[float, float] | None = None, stretch: str = "asinh",
    percentiles: tuple[float, float] = (1.0, 99.8), cmap: str = "inferno", colorbar: str | None = "right",
    title: str | None = None,
) -> Figure:  # fmt: skip
    """Draw a cube collapsed over wavelength, north up and east to the left.

    Parameters
    ----------
    cube : Dataset, level "cube"
        Only the planes asked for are computed.
    wavelength : float or (float, float) or slice, optional
        One plane, the nearest one, or a range [um]; by default all planes.
    ax : Axes, optional
        Where to draw; by default a new figure.
    aperture : (ra, dec, radius), optional
        A circle to draw: centre [deg] and radius [arcsec]. Without a radius the centre alone is marked.
    origin : (ra, dec), optional
        Where the offsets are zero [deg]; by default the tangent point of the cube.
    stretch : {"linear", "sqrt", "asinh", "log"}
    percentiles : (float, float)
        Limits of the scale, from the spaxels with a value.
    cmap : str
    colorbar : {"right", "top", None}
    title : str, optional
        By default band and wavelengths.

    Returns
    -------
    Figure

    Notes
    -----
    The median of the planes is shown, of spaxels with values in at least a quarter of them. Cubes without the
    attribute ``wcs`` are drawn on their own axes x and y.
    """
    image, span = collapse(cube, wavelength)
    east, north, sky = _corners(cube, origin)
    figure, ax = new_axes(ax, (7.3, 6.3), (0.8, 0.6, 5.3, 5.3))
    norm = image_norm(image, stretch, percentiles)
    drawn = ax.pcolormesh(east, north, image, norm=norm, cmap=colour_map(cmap), antialiased=False, rasterized=True)
    ax.set_facecolor("white")
    _frame(ax, east, north, np.isfinite(image), sky is not None)
    if aperture is not None:
        _draw_aperture(ax, sky, aperture)
    if colorbar:
        unit = cube["flux"].attrs.get("units")
        label = with_unit("Surface brightness", unit) if colorbar == "right" else unit_text(unit)
        colour_bar(drawn, ax, label, where=colorbar, ticks=6 if colorbar == "right" else 4)
    if title is None:
        title = f"{cube.attrs.get('band', '')}   {span}".strip()
    ax.set_title(title)
    return figure


def collapse(cube: xr.Dataset, wavelength: Range = None) -> tuple[np.ndarray, str]:
    """Return the median image of the planes of a range [MJy/sr], and the range as text."""
    if "flux" not in cube or set(cube["flux"].dims) != {"wavelength", "y", "x"}:
        raise LevelError(f"a cube image needs data of level cube, got {cube.attrs.get('level')}")
    flux = cube["flux"].transpose("wavelength", "y", "x")
    waves = np.asarray(cube["wavelength"].values, dtype=float)
    if wavelength is None:
        use = slice(None)
    elif isinstance(wavelength, (int, float)):
        nearest = int(np.argmin(np.abs(waves - wavelength)))
        use = slice(nearest, nearest + 1)
    else:
        low, high = (wavelength.start, wavelength.stop) if isinstance(wavelength, slice) else wavelength
        inside = np.flatnonzero((waves >= low) & (waves <= high))
        if not inside.size:
            raise MrsxrError(
                f"cube {cube.attrs.get('band')} has no plane between {low} and {high} um; it reaches from "
                f"{waves[0]:.3f} to {waves[-1]:.3f} um"
            )
        use = slice(int(inside[0]), int(inside[-1]) + 1)
    values = np.asarray(flux.isel(wavelength=use).values, dtype=float)
    used = waves[use]
    text = f"{used[0]:.3f} µm" if used.size == 1 else f"{used[0]:.2f}–{used[-1]:.2f} µm"
    return _median(values), text


def _median(values: np.ndarray) -> np.ndarray:
    values = np.where(np.isfinite(values), values, np.nan)
    seen = np.isfinite(values).sum(axis=0)
    good = seen >= max(1.0, _LEAST * len(values))
    image = np.full(seen.shape, np.nan)
    if good.any():
        image[good] = np.nanmedian(values[:, good], axis=0)
    return image


def _sky_plane(cube: xr.Dataset) -> CubeGrid | None:
    """Return the tangent plane of a cube, None where it has none; the wavelength axis may be of any kind."""
    if "wcs" not in cube.attrs:
        return None
    header = header_of_text(str(cube.attrs["wcs"]))
    angle = math.degrees(math.atan2(float(header.get("PC2_1", 0.0)), float(header.get("PC2_2", 1.0))))
    crval = float(header["CRVAL1"]) % 360.0, float(header["CRVAL2"])
    return CubeGrid(crval, abs(float(header["CDELT2"])) * 3600.0, 1, 1, 0.0, 1.0, 1, angle)


def tangent_point(cube: xr.Dataset) -> tuple[float, float] | None:
    """Return right ascension and declination [deg] of the tangent point, None for a cube without ``wcs``."""
    plane = _sky_plane(cube)
    return None if plane is None else plane.crval


def _corners(cube: xr.Dataset, origin) -> tuple[np.ndarray, np.ndarray, CubeGrid | None]:
    """Return the offsets [arcsec] to the east and north of the corners of the spaxels, and the plane of ``origin``."""
    x, y = np.meshgrid(_edges(cube["x"].values), _edges(cube["y"].values))
    plane = _sky_plane(cube)
    if plane is None:
        return x, y, None
    sky = CubeGrid(tuple(origin or plane.crval), 1.0, 1, 1, 0.0, 1.0, 1)
    west, north = sky.sky_to_offsets(*plane.offsets_to_sky(x, y))
    return -west, north, sky


def _edges(centres: np.ndarray) -> np.ndarray:
    centres = np.asarray(centres, dtype=float)
    if centres.size == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middle = 0.5 * (centres[1:] + centres[:-1])
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _frame(ax: Axes, east: np.ndarray, north: np.ndarray, seen: np.ndarray, on_sky: bool) -> None:
    """Set square limits around the spaxels with values; east grows to the left."""
    use = np.zeros(east.shape, dtype=bool)
    for rows, columns in ((slice(0, -1), slice(0, -1)), (slice(1, None), slice(0, -1)),
                          (slice(0, -1), slice(1, None)), (slice(1, None), slice(1, None))):  # fmt: skip
        use[rows, columns] |= seen if seen.any() else True
    east, north = east[use], north[use]
    mid_x, mid_y = 0.5 * (east.min() + east.max()), 0.5 * (north.min() + north.max())
    half = 0.53 * max(float(np.ptp(east)), float(np.ptp(north)))
    ax.set_xlim(*((mid_x + half, mid_x - half) if on_sky else (mid_x - half, mid_x + half)))
    ax.set_ylim(mid_y - half, mid_y + half)
    ax.set_aspect("equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    ax.set_xlabel("ΔRA cos δ [arcsec]" if on_sky else "x [arcsec]")
    ax.set_ylabel("ΔDec [arcsec]" if on_sky else "y [arcsec]")


def _draw_aperture(ax: Axes, sky: CubeGrid | None, aperture) -> None:
    if sky is None:
        raise MrsxrError("an aperture on the sky needs a cube with the attribute 'wcs'")
    ra, dec, radius = (*aperture, None)[:3]
    west, north = sky.sky_to_offsets(float(ra), float(dec))
    spot = -float(west), float(north)
    if radius is not None and np.isfinite(radius):
        for width, colour in ((2.6, "black"), (1.3, "white")):
            ax.add_patch(Circle(spot, float(radius), fill=False, lw=width, ec=colour, zorder=4))
    for width, size, colour in ((2.4, 7.5, "black"), (1.1, 6.0, "white")):
        ax.plot([spot[0]], [spot[1]], marker="+", ms=size, mew=width, color=colour, zorder=5, ls="none")
