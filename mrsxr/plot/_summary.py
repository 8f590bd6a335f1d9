"""The one picture of a run: detector, cubes with the aperture, spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mrsxr.arguments import as_circle, need_data, reads
from mrsxr.errors import MrsxrError
from mrsxr.limits import checked
from mrsxr.mrs import BANDS
from mrsxr.tree import leaves

from ._cube import cube_image, tangent_point
from ._detector import detector_image
from ._sky import make_panel
from ._spectrum import spectrum as draw_spectrum
from ._style import Box, array_of, figure_of, given_axes, inch, new_figure

_MOST_CUBES = 4
_SIZE = (14.0, 8.0)
# inch: title of the figure; above, below and beside a panel; line labels above the spectrum
_HEAD, _ABOVE, _BELOW, _BESIDE, _LABELS = 0.42, 0.74, 0.55, 0.68, 0.86


@reads()
@checked
def summary(
    cal_or_rate: Any = None, cubes: Any = None, spectrum: Any = None, *, ax: Any = None, redshift: float | None = None,
    title: str | None = None, dither: int = 1, aperture: Any = None,
) -> np.ndarray:  # fmt: skip
    """Draw one picture of a run: an exposure and up to four collapsed cubes above the spectrum.

    Parameters
    ----------
    cal_or_rate : Dataset, DataTree, mapping or list, optional
        Data of level ramp, rate or cal; the first one is shown.
    cubes : Dataset, DataTree, mapping or list, optional
        Cubes of bands: the first of each channel is shown, and more bands where there are fewer than four
        channels.
    spectrum : Dataset, optional
        Level "spectrum", of one band or stitched.
    ax : array of Axes, optional
        Where to draw: exposure, cubes (see :func:`sky_axes`) and spectrum, those that there are; by default a
        new figure.
    redshift : float, optional
        Redshift of the source, for the line marks.
    title : str, optional
        By default target and program.
    dither : int
        Number of the exposure shown, from 1.
    aperture : (ra, dec), (ra, dec, radius) or {band: ...}, optional
        Circle on the cubes [deg, deg, arcsec]; by default that of the spectrum (``aperture_ra``,
        ``aperture_dec``, ``aperture_radius``).

    Returns
    -------
    array of Axes
        Exposure, cubes and spectrum. A new figure has 14 x 8 inch for three panels and more above a spectrum,
        other heights where there is less to show.

    Examples
    --------
    >>> axes = mx.plot.summary(cal, cube, spectrum, redshift=0.0225)
    """
    if spectrum is not None and not isinstance(spectrum, xr.Dataset):
        raise MrsxrError(f"spectrum is a {type(spectrum).__name__}; expected a Dataset of level 'spectrum'")
    exposures, all_cubes = _datasets(cal_or_rate), _datasets(cubes)
    chosen = _choose(all_cubes)
    panels = bool(exposures) + len(chosen)
    if not panels and spectrum is None:
        raise MrsxrError("a summary needs an exposure, cubes or a spectrum; nothing was given")
    axes = given_axes(ax, panels + (spectrum is not None), "this summary")
    if axes is None:
        axes = _new_axes(bool(exposures), chosen, spectrum is not None)
        text = title if title is not None else _title([*exposures, *all_cubes, spectrum])
        figure = figure_of(axes[0])
        figure.suptitle(text, fontsize=13, y=1.0 - 0.12 / figure.get_figheight(), va="top")
    rest = iter(axes)
    if exposures:
        name = f"{exposures[0].attrs.get('setting', 'Detector')}   exposure {dither}"
        _compact(detector_image(exposures[0], dither, next(rest), colorbar="top", pixels=350, slices=False, title=name))
    for cube in chosen:
        circle = _aperture_of(cube, spectrum, aperture) if tangent_point(cube) is not None else None
        _compact(cube_image(cube, ax=next(rest), aperture=circle, colorbar="top", font_size=7.5))
    if spectrum is not None:
        draw_spectrum(spectrum, next(rest), redshift=redshift)
    return array_of(axes)


def _new_axes(with_exposure: bool, cubes: list[xr.Dataset], with_spectrum: bool) -> list[Axes]:
    """Return axes in a new figure, on the sky for cubes."""
    size, boxes, box = _places(with_exposure + len(cubes), with_spectrum)
    figure = new_figure(size)
    places = [inch(b, size) for b in boxes]
    axes = [figure.add_axes(places[0])] if with_exposure else []
    axes += [make_panel(cube, figure, place) for cube, place in zip(cubes, places[len(axes) :], strict=True)]
    return axes + ([figure.add_axes(inch(box, size))] if with_spectrum else [])


def _places(panels: int, with_spectrum: bool) -> tuple[tuple[float, float], list[Box], Box]:
    """Return the size of the figure and where panels and spectrum lie in it [inch], without empty space.

    From three panels on they stand in a row above the spectrum, one or two in a column to its left.
    """
    width, height = _SIZE
    boxes: list[Box] = []
    if not panels:
        height = 5.4
        box = (0.75, 0.55, width - 0.95, height - 0.55 - _HEAD - _LABELS)
    elif panels <= 2 and with_spectrum:
        side = 2.75 if panels == 2 else 3.4
        height = _HEAD + panels * (side + _ABOVE + _BELOW) + 0.05
        boxes = [(0.85, _BELOW + (panels - 1 - i) * (side + _ABOVE + _BELOW), side, side) for i in range(panels)]
        left = 0.85 + side + 0.95
        box = (left, _BELOW, width - left - 0.2, height - _BELOW - _HEAD - _LABELS)
    else:
        if not with_spectrum:
            width = max(6.0, min(width, 3.9 * panels))
        pitch = (width - 0.1) / panels
        side = min(pitch - _BESIDE, 2.7)
        if not with_spectrum:
            height = _HEAD + _ABOVE + side + _BELOW
        bottom = height - _HEAD - _ABOVE - side
        boxes = [(0.05 + i * pitch + 0.5 * (pitch - side + 0.6), bottom, side, side) for i in range(panels)]
        box = (0.75, 0.55, width - 0.95, bottom - _BELOW - 0.55 - _LABELS)
    return (width, height), boxes, box


def _compact(ax: Axes) -> None:
    """Make the letters of a small panel small; the title goes above its colour bar."""
    ax.set_anchor("N")
    ax.tick_params(labelsize=7.5)
    ax.xaxis.label.set_fontsize(8.5)
    ax.yaxis.label.set_fontsize(8.5)
    ax.yaxis.labelpad = 1.0
    ax.set_title(ax.get_title(), fontsize=10.5, y=1.0, pad=38.0)
    for bar in ax.child_axes:
        bar.tick_params(labelsize=7.5, pad=1.5)
        bar.xaxis.label.set_fontsize(8)
        bar.xaxis.labelpad = 2.0


def _datasets(given: Any) -> list[xr.Dataset]:
    """Return the Datasets of whatever was given, without background exposures."""
    if given is None:
        return []
    if isinstance(given, xr.Dataset):
        return [given]
    if isinstance(given, xr.DataTree):
        found: list[Any] = [ds for path, ds in leaves(given) if "background" not in path.split("/")]
    elif isinstance(given, list | tuple | Mapping):
        found = list(given.values() if isinstance(given, Mapping) else given)
    else:
        found = [given]
    for ds in found:
        need_data("summary", ds)
    return [ds for ds in found if not int(ds.attrs.get("background", 0) or 0)] or found


def _choose(cubes: list[xr.Dataset]) -> list[xr.Dataset]:
    """Return up to four cubes by band: the first of every channel, then others."""
    rank = {band: i for i, band in enumerate(BANDS)}
    ordered = sorted(cubes, key=lambda c: rank.get(str(c.attrs.get("band")), len(rank)))
    first: dict[str, xr.Dataset] = {}
    rest = []
    for cube in ordered:
        channel = str(cube.attrs.get("band", ""))[:1]
        if channel in first:
            rest.append(cube)
        else:
            first[channel] = cube
    chosen = [*first.values(), *rest][:_MOST_CUBES]
    return [cube for cube in ordered if any(cube is c for c in chosen)]


def _aperture_of(cube: xr.Dataset, spectrum: xr.Dataset | None, given: Any) -> tuple[Any, ...] | None:
    """Return (ra, dec, radius) of the aperture of a cube, None where it is not known."""
    band = str(cube.attrs.get("band", ""))
    if isinstance(given, Mapping):
        given = given.get(band)
    radius = _radius(band, cube, spectrum)
    if given is not None:
        ra, dec, own = as_circle(given)
        return ra, dec, radius if own is None else own
    if spectrum is None or "aperture_ra" not in spectrum.attrs or radius is None:
        return None
    return float(spectrum.attrs["aperture_ra"]), float(spectrum.attrs["aperture_dec"]), radius


def _radius(band: str, cube: xr.Dataset, spectrum: xr.Dataset | None) -> float | None:
    if spectrum is None or "aperture_radius" not in spectrum:
        return None
    waves = spectrum["wavelength"].values
    mine = (waves >= float(cube["wavelength"].min())) & (waves <= float(cube["wavelength"].max()))
    if "band" in spectrum.coords and (spectrum["band"].values == band).any():
        mine = spectrum["band"].values == band
    radii = spectrum["aperture_radius"].values[mine]
    radii = radii[np.isfinite(radii)]
    return float(np.median(radii)) if radii.size else None


def _title(datasets: list[xr.Dataset | None]) -> str:
    for ds in datasets:
        if ds is not None and ds.attrs.get("target"):
            program = str(ds.attrs.get("program", ""))
            return f"{ds.attrs['target']}" + (f"   (program {program})" if program else "") + "   MIRI MRS"
    return "MIRI MRS"
