"""The picture of a position-velocity cut."""

from __future__ import annotations

import xarray as xr
from matplotlib.axes import Axes

from mrsxr.errors import LevelError
from mrsxr.limits import checked

from ._maps import line_name
from ._style import colour_bar, colour_map, image_norm, new_axes, with_unit


@checked
def position_velocity(
    cut: xr.Dataset, ax: Axes | None = None, *, stretch: str = "asinh", percentiles: tuple[float, float] | None = None,
    cmap: str = "inferno", colorbar: str | None = "right", title: str | None = None,
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
