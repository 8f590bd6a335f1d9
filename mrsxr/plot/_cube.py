"""Pictures of cubes: collapsed over wavelength, on the sky, and cut along a path."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mrsxr.arguments import as_circle, as_um_place, reads
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.limits import Percentiles, Positive, checked
from mrsxr.mrs import psf_fwhm
from mrsxr.robust import median_image

from ._maps import line_name
from ._sky import draw_on_sky, dress_sky, mark_aperture, mark_beam, mark_compass, mark_scale, sky_panel, sky_wcs
from ._style import ColourMap, Side, Stretch, colour_bar, colour_map, image_norm, new_axes, unit_text, with_unit

_LEAST = 0.25  # part of the planes that a spaxel must have to be shown
Range = float | tuple[float, float] | slice | None


@reads(wavelength=as_um_place, aperture=as_circle)
@checked
def cube_image(
    cube: xr.Dataset, wavelength: Range = None, ax: Axes | None = None, *, aperture: tuple[Any, ...] | None = None,
    stretch: Stretch = "asinh", percentiles: Percentiles | None = None, cmap: ColourMap = "inferno",
    colorbar: Side | None = "right", north_up: bool = False, beam: bool = True, title: str | None = None,
    font_size: Positive = 9.0,
) -> Axes:  # fmt: skip
    """Draw a cube collapsed over wavelength, on the sky.

    Parameters
    ----------
    cube : Dataset, level "cube"
        Only the planes asked for are computed.
    wavelength : float or (float, float) or slice, optional
        One plane, the nearest one, or a range [um]; by default all planes.
    ax : WCSAxes, optional
        Where to draw, see :func:`sky_axes`; by default a new figure.
    aperture : (ra, dec, radius), optional
        A circle to draw: centre [deg] and radius [arcsec]. Without a radius the centre alone is marked.
    stretch : {"linear", "sqrt", "asinh", "log"}
    percentiles : (float, float), optional
        Limits of the scale, from the spaxels with a value; by default 1 and 99.7, without the noise below.
    cmap : str
    colorbar : {"right", "top", None}
    north_up : bool
        Turn a new picture to the north; by default its axes run along the spaxels and arrows show the north.
    beam : bool
        Draw the FWHM of the point-spread function in the middle of the wavelengths, lower left.
    title : str, optional
        By default band and wavelengths.
    font_size : float
        Of ticks and marks [points].

    Returns
    -------
    WCSAxes

    Notes
    -----
    The median of the planes is shown, of spaxels with values in at least a quarter of them. Cubes without the
    attribute ``wcs`` are drawn on their own axes x and y.

    Examples
    --------
    >>> ax = mx.plot.cube_image(cube, wavelength=(5.3, 5.4))
    """
    image, used = collapse(cube, wavelength)
    seen = np.isfinite(image)
    ax = sky_panel(cube, seen, ax, north_up=north_up)
    norm = image_norm(image, stretch, percentiles)
    drawn = draw_on_sky(cube, ax, image, norm=norm, cmap=colour_map(cmap, "none"), size=font_size)
    dress_sky(ax, size=font_size)
    mark_scale(ax, font_size)
    mark_compass(ax, font_size)
    if beam:
        mark_beam(ax, float(psf_fwhm(0.5 * (used[0] + used[-1]))))
    if aperture is not None:
        mark_aperture(ax, cube, aperture)
    if colorbar:
        unit = cube["flux"].attrs.get("units")
        label = with_unit("Surface brightness", unit) if colorbar == "right" else unit_text(unit)
        colour_bar(drawn, ax, label, where=colorbar, ticks=6 if colorbar == "right" else 4)
    ax.set_title(title if title is not None else f"{cube.attrs.get('band', '')}   {span_text(used)}".strip())
    return ax


def collapse(cube: xr.Dataset, wavelength: Range = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the median image of the planes of a range [units of the flux], and their wavelengths [um]."""
    if "flux" not in cube or set(cube["flux"].dims) != {"wavelength", "y", "x"}:
        raise LevelError(f"a cube image needs data of level cube, got {cube.attrs.get('level')}")
    flux = cube["flux"].transpose("wavelength", "y", "x")
    waves = np.asarray(cube["wavelength"].values, dtype=float)
    if wavelength is None:
        use = slice(None)
    elif isinstance(wavelength, (int, float)):
        nearest = plane_at(cube, wavelength)
        use = slice(nearest, nearest + 1)
    else:
        low, high = (wavelength.start, wavelength.stop) if isinstance(wavelength, slice) else wavelength
        inside = np.flatnonzero((waves >= low) & (waves <= high))
        if not inside.size:
            raise MrsxrError(
                f"cube {cube.attrs.get('band')} has no plane between {low:g} and {high:g} um; it reaches from "
                f"{waves[0]:.3f} to {waves[-1]:.3f} um"
            )
        use = slice(int(inside[0]), int(inside[-1]) + 1)
    values = np.asarray(flux.isel(wavelength=use).values, dtype=float)
    seen = np.isfinite(values)
    known = seen.sum(axis=0) >= max(1.0, _LEAST * len(values))
    return median_image(np.where(seen, values, np.nan), known), waves[use]


def plane_at(cube: xr.Dataset, wavelength: float) -> int:
    """Return the plane of a cube that holds a wavelength [um]; one outside of all planes is refused."""
    waves = np.asarray(cube["wavelength"].values, dtype=float)
    apart = np.abs(waves - wavelength)
    nearest = int(np.argmin(apart))
    widths = np.abs(np.gradient(waves)) if waves.size > 1 else np.full(1, np.inf)
    if not apart[nearest] <= widths[nearest]:
        raise MrsxrError(
            f"cube {cube.attrs.get('band')} has no plane at wavelength {wavelength:g} um; it reaches from "
            f"{waves.min():.3f} to {waves.max():.3f} um"
        )
    return nearest


def span_text(waves: np.ndarray) -> str:
    """Return wavelengths [um] as text, one or from the first to the last."""
    return f"{waves[0]:.3f} µm" if waves.size == 1 else f"{waves[0]:.2f}–{waves[-1]:.2f} µm"


def tangent_point(cube: xr.Dataset) -> tuple[float, float] | None:
    """Return right ascension and declination [deg] of the tangent point, None for a cube without ``wcs``."""
    wcs = sky_wcs(cube)
    return None if wcs is None else (float(wcs.wcs.crval[0]) % 360.0, float(wcs.wcs.crval[1]))


@checked
def position_velocity(
    cut: xr.Dataset, ax: Axes | None = None, *, stretch: Stretch = "asinh", percentiles: Percentiles | None = None,
    cmap: ColourMap = "inferno", colorbar: Side | None = "right", title: str | None = None,
) -> Axes:  # fmt: skip
    """Draw a position-velocity cut: velocity across, offset up.

    Parameters
    ----------
    cut : Dataset, level "position_velocity"
        Of :func:`mrsxr.lines.position_velocity`.
    ax : Axes, optional
        By default in a new figure.
    stretch, percentiles, cmap, colorbar : optional
        As in :func:`cube_image`.
    title : str, optional
        By default line and z.

    Returns
    -------
    Axes

    Examples
    --------
    >>> nucleus = SkyCoord(cube.ra.mean(), cube.dec.mean(), unit="deg")
    >>> ax = mx.plot.position_velocity(mx.lines.position_velocity(cube, "[Fe II] 5.34", center=nucleus))
    """
    if cut.attrs.get("level") != "position_velocity":
        raise LevelError(
            f"a position-velocity picture needs a cut of lines.position_velocity, got {cut.attrs.get('level')}"
        )
    image = cut["flux"].transpose("offset", "wavelength").values.astype(float)
    ax = new_axes(ax, (7.2, 4.6), (0.85, 0.65, 5.0, 3.5))
    norm = image_norm(image, stretch, percentiles)
    drawn = ax.pcolormesh(
        cut["velocity"].values, cut["offset"].values, image, norm=norm, cmap=colour_map(cmap), shading="nearest",
        rasterized=True,
    )  # fmt: skip
    ax.set_xlabel("Velocity [km s⁻¹]")
    ax.set_ylabel("Offset along the path [arcsec]")
    for draw in (ax.axvline, ax.axhline):
        draw(0.0, color="white", lw=0.7, ls=(0, (4, 4)))
    if colorbar:
        colour_bar(drawn, ax, with_unit("Surface brightness", cut["flux"].attrs.get("units")), where=colorbar)
    ax.set_title(title if title is not None else f"{line_name(cut)}   z = {float(cut.attrs['redshift']):g}", loc="left")
    return ax
