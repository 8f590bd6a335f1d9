"""Pictures of the detector: counts, rates, surface brightness and flags of one exposure."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch

from mrsxr import dq as flags
from mrsxr.arguments import as_um, reads
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.limits import Count, Percentiles, checked
from mrsxr.mrs import N_REFERENCE_COLUMNS

from ._cube import plane_at
from ._sky import draw_on_sky, dress_sky, mark_compass, mark_scale, sky_panel, sky_wcs
from ._slices import draw_slices, pixel_numbers
from ._style import (
    OKABE_ITO,
    ColourMap,
    Side,
    Stretch,
    colour_bar,
    colour_map,
    image_norm,
    new_axes,
    pick_dither,
    with_unit,
)

_QUANTITY = {"rate": ("rate", "Count rate"), "flux": ("flux", "Surface brightness")}
_GOOD, _OTHER = "0.96", "0.62"


@reads()
@checked
def detector_image(
    ds: xr.Dataset, dither: int = 1, ax: Axes | None = None, *, integration: int | None = None,
    stretch: Stretch = "asinh", percentiles: Percentiles | None = None, cmap: ColourMap = "inferno",
    colorbar: Side | None = "right", slices: bool = True, pixels: Count | None = None, title: str | None = None,
) -> Axes:  # fmt: skip
    """Draw one exposure as it lies on the detector.

    Parameters
    ----------
    ds : Dataset, level "ramp", "rate", "rateints" or "cal"
        Of a ramp the last minus the first group [DN] is shown; nothing but the one exposure is computed.
    dither : int
        Number of the exposure, from 1.
    ax : Axes, optional
        Where to draw; by default a new figure.
    integration : int
        Number of the integration, from 1, of data that have several.
    stretch : {"linear", "sqrt", "asinh", "log"}
    percentiles : (float, float), optional
        Limits of the scale, from the pixels inside slices (all but reference pixels where slices are unknown); by
        default 1 and 99.7, without the noise below.
    cmap : str
        A colour map of matplotlib; NaN is grey.
    colorbar : {"right", "top", None}
    slices : bool
        Outline the slices where ``slice`` is known (cal data, rate data after ``assign_wcs``), with their numbers
        and channels.
    pixels : int, optional
        Largest number of pixels along an axis to draw: the image is averaged down to it (for small panels).
    title : str, optional
        By default the exposure and the setting.

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = mx.plot.detector_image(cal, dither=1, pixels=256)
    """
    one = pick_dither(ds, dither)
    image, label, unit = image_of(one, integration)
    norm = image_norm(image[science_pixels(one, image.shape)], stretch, percentiles)
    ax = detector_axes(ax, image.shape, 1.25)
    drawn = ax.imshow(
        shrink(image, pixels), origin="lower", norm=norm, cmap=colour_map(cmap), interpolation="nearest",
        extent=extent(one), aspect="equal",
    )  # fmt: skip
    if colorbar:
        colour_bar(drawn, ax, with_unit(label, unit), where=colorbar)
    _dress(ax, one, title, draw_slices(ax, one) if slices else 0.0)
    return ax


@reads(wavelength=as_um)
@checked
def dq_image(
    ds: xr.Dataset, dither: int = 1, ax: Axes | None = None, *, variable: str | None = None, most: Count = 6,
    wavelength: float | None = None, title: str | None = None,
) -> Axes:  # fmt: skip
    """Draw the flags of one exposure, or of one plane of a cube, by colour.

    Parameters
    ----------
    ds : Dataset of any level with flags
    dither : int
        Number of the exposure, from 1.
    ax : Axes, optional
    variable : str, optional
        Flags to show: ``dq``, ``pixel_dq`` or ``group_dq`` (all groups together); by default the first there is.
    most : int
        How many bits get a colour of their own (up to 7), the most frequent ones; the rest is grey.
    wavelength : float, optional
        Plane of a cube [um]; by default the middle one.
    title : str, optional

    Returns
    -------
    Axes

    Notes
    -----
    A pixel with several flags has the colour of the rarest, so that rare flags are not hidden by common ones.
    The legend gives the part of all pixels with each flag; these parts overlap.

    Examples
    --------
    >>> ax = mx.plot.dq_image(cal, most=3)
    """
    one = pick_dither(ds, dither)
    bits = _flags_of(one, variable, wavelength)
    counts = {name: int(np.count_nonzero(bits & np.uint32(bit))) for name, bit in flags.FLAGS.items()}
    common = sorted((n for n in counts if counts[n]), key=lambda n: -counts[n])[: min(most, len(OKABE_ITO))]
    number = np.where(bits != 0, 1, 0).astype(np.int16)
    for i, name in enumerate(common):
        number[(bits & np.uint32(flags.FLAGS[name])) != 0] = i + 2
    colours = [_GOOD, _OTHER, *OKABE_ITO[: len(common)]]
    ax = _draw_flags(one, number, colours, ax, title)
    parts = [(_GOOD, "good", int(np.count_nonzero(bits == 0)))]
    parts += [(OKABE_ITO[i], name, counts[name]) for i, name in enumerate(common)]
    if np.any(number == 1):
        parts.append((_OTHER, "other flags only", int(np.count_nonzero(number == 1))))
    handles = []
    for colour, name, count in parts:
        percent = 100 * count / bits.size
        text = f"{name}  {percent:.1f} %" if percent >= 0.995 else f"{name}  {percent:.2g} %"
        handles.append(Patch(facecolor=colour, edgecolor="0.4", lw=0.5, label=text))
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, borderaxespad=0.0)
    return ax


def _draw_flags(one: xr.Dataset, number: np.ndarray, colours: list[str], ax: Axes | None, title: str | None) -> Axes:
    """Draw an image of numbers of colours, on the sky where one plane of a cube is shown."""
    norm = BoundaryNorm(np.arange(len(colours) + 1) - 0.5, len(colours))
    if "wavelength" not in one.dims or sky_wcs(one) is None:
        ax = detector_axes(ax, number.shape, 3.1)
        ax.imshow(number, origin="lower", interpolation="nearest", extent=extent(one), aspect="equal", norm=norm,
                  cmap=ListedColormap(colours))  # fmt: skip
        _dress(ax, one, title)
        return ax
    ax = sky_panel(one, np.ones(number.shape, dtype=bool), ax, right=3.1)
    draw_on_sky(one, ax, number, norm=norm, cmap=ListedColormap(colours))
    dress_sky(ax)
    mark_scale(ax)
    mark_compass(ax)
    ax.set_title(title if title is not None else str(one.attrs.get("band", "")))
    return ax


def detector_axes(ax: Axes | None, shape: tuple[int, int], right: float) -> Axes:
    """Return ``ax``, or axes in a new figure of the shape of the image, with room at the right [inch]."""
    long = 6.25 / max(shape)
    wide, high = (max(long * n, 2.0) for n in shape[::-1])
    return new_axes(ax, (0.85 + wide + right, 0.6 + high + 0.65), (0.85, 0.6, wide, high))


def image_of(one: xr.Dataset, integration: int | None) -> tuple[np.ndarray, str, str | None]:
    """Return the image, what it shows and its unit."""
    if "sci" in one:
        ramp = _pick(one["sci"], integration)
        image = ramp.isel(group=-1).astype("float32") - ramp.isel(group=0).astype("float32")
        return image.values, "Last minus first group", one["sci"].attrs.get("units", "DN")
    for name, label in _QUANTITY.values():
        if name in one and "wavelength" not in one[name].dims:
            values = _pick(one[name], integration).values
            return np.asarray(values, dtype="float32"), label, one[name].attrs.get("units")
    raise LevelError(f"a detector image needs data of level ramp, rate or cal, got {one.attrs.get('level')}")


def _pick(data: xr.DataArray, integration: int | None) -> xr.DataArray:
    if "integration" not in data.dims:
        if integration not in (None, 1):
            raise MrsxrError(f"there is no integration {integration}; the data have one image")
        return data
    numbers = data["integration"].values if "integration" in data.coords else np.arange(data.sizes["integration"]) + 1
    if integration is None:
        return data.isel(integration=0)
    if integration not in numbers:
        raise MrsxrError(f"there is no integration {integration}; expected {numbers[0]} to {numbers[-1]}")
    return data.isel(integration=int(np.flatnonzero(numbers == integration)[0]))


def science_pixels(one: xr.Dataset, shape: tuple[int, int]) -> np.ndarray:
    """Return True for the pixels that set the brightness scale."""
    if "slice" in one.variables and one["slice"].shape == shape and (one["slice"].values > 0).any():
        return one["slice"].values > 0
    use = np.ones(shape, dtype=bool)
    if shape[1] > 4 * N_REFERENCE_COLUMNS:
        use[:, :N_REFERENCE_COLUMNS] = use[:, -N_REFERENCE_COLUMNS:] = False
    return use


def _flags_of(one: xr.Dataset, variable: str | None, wavelength: float | None) -> np.ndarray:
    names = [variable] if variable else ["dq", "pixel_dq", "group_dq"]
    found = next((n for n in names if n in one and {"y", "x"} <= set(one[n].dims)), None)
    if found is None:
        raise MrsxrError(f"there is no image of flags {' or '.join(names)} in data of level {one.attrs.get('level')}")
    data = one[found]
    if "wavelength" in data.dims:
        middle = float(np.median(one["wavelength"].values))
        data = (data.sel(wavelength=middle, method="nearest") if wavelength is None
                else data.isel(wavelength=plane_at(one, wavelength)))  # fmt: skip
    bits = data.transpose(..., "y", "x").values.astype(np.uint32)
    return np.bitwise_or.reduce(bits.reshape(-1, *bits.shape[-2:]), axis=0)


def shrink(image: np.ndarray, pixels: int | None) -> np.ndarray:
    """Return the image averaged (without NaN) over blocks, so that no axis has more than ``pixels``."""
    factor = 1 if pixels is None else -(-max(image.shape) // pixels)
    known = xr.DataArray(np.where(np.isfinite(image), image, np.nan), dims=("y", "x"))
    return image if factor == 1 else known.coarsen(y=factor, x=factor, boundary="pad").mean().values


def extent(one: xr.Dataset) -> tuple[float, float, float, float]:
    """Return left, right, lower and upper edge of the pixels [their numbers from 0, or arcsec]."""
    x, y = pixel_numbers(one, "x"), pixel_numbers(one, "y")
    half = [0.5 * (v[-1] - v[0]) / (len(v) - 1) if len(v) > 1 else 0.5 for v in (x, y)]  # spaxels are not 1 wide
    return x[0] - half[0], x[-1] + half[0], y[0] - half[1], y[-1] + half[1]


def _dress(ax: Axes, one: xr.Dataset, title: str | None, height: float = 0.0) -> None:
    arcsec = one["x"].attrs.get("units") == "arcsec" if "x" in one.coords else False
    ax.set_xlabel("x [arcsec]" if arcsec else "x [pixel]")
    ax.set_ylabel("y [arcsec]" if arcsec else "y [pixel]")
    if title is None:
        setting = str(one.attrs.get("setting", one.attrs.get("band", "")))
        exposure = str(one["exposure"].values) if "exposure" in one.coords else ""
        title = "   ".join(part for part in (exposure, setting) if part)
    ax.set_title(title, pad=6.0 + height)
