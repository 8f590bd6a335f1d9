"""Before and after a correction, and the difference: detector images, cubes, spectra."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from mrsxr.arguments import as_um_place, reads
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.limits import Count, Percentiles, checked
from mrsxr.step import read_history

from ._cube import collapse, span_text
from ._detector import extent, image_of, science_pixels
from ._sky import draw_on_sky, dress_sky, field_aspect, make_panel, mark_compass, mark_scale, require_sky
from ._spectrum import Zoom, flux_limits, joined, mark_lines, pieces_of, prefixed, spectra_of
from ._style import (
    INK,
    OKABE_ITO,
    ColourMap,
    Stretch,
    array_of,
    colour_bar,
    colour_map,
    figure_of,
    given_axes,
    image_norm,
    inch,
    new_figure,
    pick_dither,
    with_unit,
)  # fmt: skip

Region = tuple[slice, slice] | None
_IMAGE = "a detector image"
#: What each parameter chooses of.
_MEANT = {
    "dither": _IMAGE, "integration": _IMAGE, "region": _IMAGE, "wavelength": "a cube", "zoom": "a spectrum",
    "redshift": "a spectrum",
}  # fmt: skip


@reads(wavelength=as_um_place)
@checked
def compare(
    before: xr.Dataset, after: xr.Dataset, ax: Any = None, *, dither: Count = 1, integration: Count | None = None,
    region: Region = None, wavelength: Any = None, zoom: Zoom = None,
    redshift: float | None = None, relative: bool = False,
    names: tuple[str, str] = ("before", "after"), stretch: Stretch = "asinh",
    percentiles: Percentiles | None = None, cmap: ColourMap = "inferno", title: str | None = None,
) -> np.ndarray:  # fmt: skip
    """Draw data before and after a correction, and what the correction took away.

    Parameters
    ----------
    before, after : Dataset
        Of the same level and units: two detector images (level ramp, rate, rateints, cal), two cubes or two spectra.
    ax : array of Axes, optional
        Where to draw: three panels for images (for cubes of :func:`sky_axes`), two for spectra.
    dither, integration : int
        Which exposure and integration of detector data, from 1.
    region : (slice, slice), optional
        Rows and columns of detector images to draw, their numbers from 0.
    wavelength : optional
        Planes of cubes, as in :func:`cube_image`.
    zoom : optional
        Wavelengths (low, high) of spectra to draw [um], or those around a line, "[Ne II]".
    redshift : float, optional
        Redshift, for the line marks of spectra.
    relative : bool
        Difference in percent of ``after``.
    names : (str, str)
    stretch, percentiles, cmap : optional
        Of the images, as in :func:`detector_image`; the difference is linear and symmetric about zero.
    title : str, optional
        By default the steps that ``after`` has gone through and ``before`` has not.

    Returns
    -------
    array of Axes
        Before, after, difference (before - after); of spectra both in one panel, and the difference below.

    Raises
    ------
    MrsxrError
        Where the two are not alike, or a parameter is given that says nothing of such data.

    Examples
    --------
    >>> axes = mx.plot.compare(spectrum, spectrum.assign(flux=1.01 * spectrum.flux))
    """
    kinds = [_kind(ds) for ds in (before, after)]
    if kinds[0] != kinds[1]:
        raise LevelError(f"before is {kinds[0]} and after is {kinds[1]}; expected two of a kind")
    _check_meant(kinds[0], dither=dither != 1, integration=integration is not None, region=region is not None,
                 wavelength=wavelength is not None, zoom=zoom is not None, redshift=redshift is not None)  # fmt: skip
    text = title if title is not None else _steps_between(before, after)
    if kinds[0] == "a spectrum":
        return array_of(_spectra(before, after, ax, zoom, redshift, relative, names, text))
    on_sky = kinds[0] == "a cube"
    if on_sky:
        one = before
        images, label, unit, use, where = _cube_pair(before, after, wavelength)
        text = "   ".join(part for part in (text, where) if part)
    else:
        one, last = (_cut(pick_dither(ds, dither), region) for ds in (before, after))
        images, label, unit, use = _detector_pair(one, last, integration)
    images.append(_difference(images[0], images[1], relative))
    reach = _reach(images[2][use])
    norms = [image_norm(np.stack(images[:2])[:, use], stretch, percentiles)] * 2 + [Normalize(-reach, reach)]
    labels = [with_unit(label, unit)] * 2 + [_difference_label(names, unit, relative)]
    axes = _panels(one, np.isfinite(images[0]) | np.isfinite(images[1]), on_sky, ax)
    draw = _draw_cubes if on_sky else _draw_detector
    draw(one, axes, images, norms, labels, (*names, f"{names[0]} − {names[1]}"), cmap)
    if ax is None:
        figure = figure_of(axes[0])
        figure.suptitle(text, fontsize=12.5, y=1.0 - 0.1 / figure.get_figheight(), va="top")
    return array_of(axes)


def _check_meant(kind: str, **given: bool) -> None:
    """Raise where a parameter is given that says nothing of this kind of data."""
    for name, one in given.items():
        if one and kind in _MEANT.values() and _MEANT[name] != kind:
            raise MrsxrError(f"compare: {name} chooses of {_MEANT[name]}; of {kind} it says nothing, leave it out")


def _cube_pair(
    before: xr.Dataset, after: xr.Dataset, wavelength: Any
) -> tuple[list[np.ndarray], str, str | None, np.ndarray, str]:
    """Return both images, what they show, its unit, the spaxels that count, band and wavelengths."""
    (first, waves), (second, _) = collapse(before, wavelength), collapse(after, wavelength)
    unit = before["flux"].attrs.get("units")
    _require_same(first, second, unit, after["flux"].attrs.get("units"))
    where = f"{before.attrs.get('band', '')}   {span_text(waves)}".strip()
    return [first, second], "Surface brightness", unit, np.ones(first.shape, dtype=bool), where


def _detector_pair(
    before: xr.Dataset, after: xr.Dataset, integration: int | None,
) -> tuple[list[np.ndarray], str, str | None, np.ndarray]:  # fmt: skip
    """Return both images, what they show, its unit, and the pixels that set the scale."""
    (first, label, unit), (second, _, other) = image_of(before, integration), image_of(after, integration)
    _require_same(first, second, unit, other)
    use = science_pixels(after if "slice" in after.variables else before, first.shape)
    return [first, second], label, unit, use


def _require_same(first: np.ndarray, second: np.ndarray, unit: str | None, other: str | None) -> None:
    if first.shape != second.shape or unit != other:
        raise MrsxrError(
            f"before has {first.shape[0]} x {first.shape[1]} pixels in {unit}, after {second.shape[0]} x "
            f"{second.shape[1]} in {other}; expected the same"
        )


def _kind(ds: xr.Dataset) -> str:
    if "sci" in ds or "rate" in ds or ("flux" in ds and {"y", "x"} <= set(ds["flux"].dims) and "wavelength" not in
                                       ds["flux"].dims):  # fmt: skip
        return "a detector image"
    if "flux" in ds and {"wavelength", "y", "x"} <= set(ds["flux"].dims):
        return "a cube"
    if any(name in ds and ds[name].dims == ("wavelength",) for name in ("flux", "surface_brightness")):
        return "a spectrum"
    return f"data of level {ds.attrs.get('level')}"


def _steps_between(before: xr.Dataset, after: xr.Dataset) -> str:
    """Return the names of the steps that the second has gone through and the first has not."""
    first, second = ([entry.get("step", "") for entry in read_history(ds)] for ds in (before, after))
    new = second[len(first) :] if second[: len(first)] == first else []
    return ", ".join(name.rpartition(".")[2] for name in new[:4]) + (" ..." if len(new) > 4 else "")


def _cut(one: xr.Dataset, region: Region) -> xr.Dataset:
    if region is None:
        return one
    out = one.isel(y=region[0], x=region[1])
    if not out.sizes["y"] or not out.sizes["x"]:
        raise MrsxrError(
            f"the region {region} holds no pixels; expected slices within {one.sizes['y']} x {one.sizes['x']}"
        )
    return out


def _difference(first: np.ndarray, second: np.ndarray, relative: bool) -> np.ndarray:
    first, second = first.astype(float), second.astype(float)
    if not relative:
        return first - second
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100.0 * np.where(second != 0, (first - second) / np.abs(second), np.nan)


def _difference_label(names: tuple[str, str], unit: str | None, relative: bool) -> str:
    text = f"{names[0]} − {names[1]}"
    return f"{text} [% of {names[1]}]" if relative else with_unit(text, unit)


def _reach(values: np.ndarray) -> float:
    """Return how far from zero a difference reaches, without the last percent; 1 where there is none."""
    finite = np.abs(values[np.isfinite(values)])
    top = float(np.percentile(finite, 99)) if finite.size else 1.0
    return top or (float(finite.max()) if finite.size else 0.0) or 1.0


def _panels(one: xr.Dataset, seen: np.ndarray, on_sky: bool, ax: Any) -> list[Axes]:
    """Return three axes side by side, each with room for a colour bar at its right."""
    given = given_axes(ax, 3, "a comparison of images")
    if given is not None:
        return [require_sky(one, a) for a in given] if on_sky else given
    high = 3.9
    ratio = field_aspect(one, seen, high, False, 8.5) if on_sky else seen.shape[1] / seen.shape[0]
    wide = min(max(high * ratio, 0.5 * high), 1.5 * high)
    high = min(high, wide / ratio)
    left, bottom, top, gap = 1.1 if on_sky else 0.8, 0.6, 0.75, 1.1
    size = left + 3 * (wide + gap), bottom + high + top
    figure = new_figure(size)
    boxes = [inch((left + i * (wide + gap), bottom, wide, high), size) for i in range(3)]
    return [make_panel(one, figure, box) if on_sky else figure.add_axes(box) for box in boxes]


def _draw_detector(
    one: xr.Dataset, axes: list[Axes], images: list[np.ndarray], norms: Any, labels: list[str],
    titles: tuple[str, str, str], cmap: ColourMap,
) -> None:  # fmt: skip
    for i, panel in enumerate(axes):
        drawn = panel.imshow(
            images[i], origin="lower", norm=norms[i], cmap=colour_map("RdBu_r" if i == 2 else cmap),
            interpolation="nearest", extent=extent(one), aspect="equal",
        )  # fmt: skip
        colour_bar(drawn, panel, labels[i])
        panel.set_title(titles[i])
        panel.set_xlabel("x [pixel]")
        panel.set_ylabel("y [pixel]" if i == 0 else "")
        panel.tick_params(labelleft=i == 0)


def _draw_cubes(
    one: xr.Dataset, axes: list[Any], images: list[np.ndarray], norms: Any, labels: list[str],
    titles: tuple[str, str, str], cmap: ColourMap,
) -> None:  # fmt: skip
    seen = np.isfinite(images[0]) | np.isfinite(images[1])
    for i, panel in enumerate(axes):
        colours = colour_map("RdBu_r" if i == 2 else cmap, "none")
        drawn = draw_on_sky(one, panel, images[i], seen=seen, size=8.5, norm=norms[i], cmap=colours)
        dress_sky(panel, left=i == 0, size=8.5)
        mark_scale(panel, 8.5)
        mark_compass(panel, 8.0)
        colour_bar(drawn, panel, labels[i])
        panel.set_title(titles[i])


def _spectra(
    before: xr.Dataset, after: xr.Dataset, ax: Axes, zoom: Any, redshift: float | None,
    relative: bool, names: tuple[str, str], title: str,
) -> list[Axes]:  # fmt: skip
    """Draw two spectra in one panel and their difference below."""
    axes = given_axes(ax, 2, "a comparison of spectra")
    if axes is None:
        size = 12.0, 6.4
        figure = new_figure(size)
        upper = figure.add_axes(inch((0.85, 2.2, 11.0, 2.95), size))
        axes = [upper, figure.add_axes(inch((0.85, 0.6, 11.0, 1.45), size), sharex=upper)]
    parts = [joined(spectra_of(ds), None, zoom, redshift) for ds in (before, after)]
    units = [spectra_of(ds)[0][part[4]].attrs.get("units") for ds, part in zip((before, after), parts, strict=True)]
    if units[0] != units[1] or parts[0][4] != parts[1][4]:
        raise MrsxrError(f"before is {parts[0][4]} in {units[0]}, after {parts[1][4]} in {units[1]}; expected the same")
    wave, last = parts[1][0], parts[1][1]
    first = (
        parts[0][1] if np.array_equal(parts[0][0], wave) else np.interp(wave, parts[0][0], parts[0][1], np.nan, np.nan)
    )
    factor = prefixed(last, np.ones_like(last), units[0])
    scale, unit = float(factor[1][0]), factor[2]
    upper, lower = axes
    pieces = [part for _, part in pieces_of(wave, np.where(np.isfinite(first), first, last), parts[1][3])]
    for values, colour, name in ((first, OKABE_ITO[1], names[0]), (last, OKABE_ITO[0], names[1])):
        for i, part in enumerate(pieces):  # bands overlap: each has its own line
            upper.plot(wave[part], values[part] * scale, color=colour, lw=0.9, label=f"{'_' if i else ''}{name}")
    flux_limits(upper, wave, np.stack([first, last]) * scale, 100.0 if zoom else 99.95)
    upper.set_ylabel(with_unit("Flux density" if parts[1][4] == "flux" else "Surface brightness", unit))
    upper.tick_params(labelbottom=False)
    height = mark_lines(upper, wave, last, redshift) if redshift is not None else 0.0
    quarter = max(1, wave.size // 4)
    ends = [np.nanmax(part, initial=-np.inf) for part in (last[:quarter], last[-quarter:])]
    upper.legend(loc="upper right" if ends[1] <= ends[0] else "upper left", frameon=False, fontsize=9.5)
    rest = _difference(first, last, relative) * (1.0 if relative else scale)
    lower.axhline(0.0, color="0.6", lw=0.8)
    for part in pieces:
        lower.plot(wave[part], rest[part], color=INK, lw=0.8, gid="difference")
    top = 1.3 * _reach(rest)
    lower.set_ylim(-top, top)
    lower.set_ylabel(_difference_label(names, unit, relative).replace(" [", "\n["))
    lower.set_xlabel("Observed wavelength [µm]")
    upper.set_title(title, loc="left", fontsize=12.5, pad=height + 6.0)
    return axes
