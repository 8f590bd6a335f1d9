"""The picture of a spectrum: one colour per band, error band, lines marked and named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter
from matplotlib.transforms import blended_transform_factory

from mrsxr import dq as flags
from mrsxr.arguments import reads
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.limits import Positive, checked
from mrsxr.lines import line_range
from mrsxr.tree import leaves

from ._labels import draw_bands, draw_marks, find_marks
from ._style import BAND_COLOURS, OKABE_ITO, new_axes, with_unit

Zoom = tuple[float, float] | str | None
_VARIANCE = {"flux": "var", "surface_brightness": "surface_brightness_var"}
_NAME = {"flux": "Flux density", "surface_brightness": "Surface brightness"}
_EDGE = 0.02  # part of a band at each end that does not set the limits
_LOG_X, _LOG_Y = 1.8, 20.0  # ratios from which an axis is logarithmic
_GAP = 5.0  # steps of wavelength from which a line is broken
_STEPS = 400  # samples below which a spectrum is drawn in steps
_COVERED, _GAP_WIDTH = 0.75, 0.03  # covered part below which gaps are drawn together; width of a gap then


@reads()
@checked
def spectrum(
    ds: Any, ax: Axes | None = None, *, redshift: float | None = None, zoom: Zoom = None,
    lines: bool = True, errors: bool = True, variable: str | None = None, log: bool | None = None,
    title: str | None = None, font_size: Positive = 9.0,
) -> Axes:  # fmt: skip
    """Draw a spectrum of one band, of several or a stitched one, with its lines marked.

    Parameters
    ----------
    ds : Dataset, level "spectrum", or a DataTree, mapping or list of them
        With a coordinate ``band`` each band has its own colour and lines are not drawn across bands; samples
        flagged DO_NOT_USE are left out. Of a DataTree the stitched spectrum is drawn where there is one.
    ax : Axes, optional
        Where to draw; by default a new figure.
    redshift : float, optional
        Redshift of the source for the line marks; by default ``ds.attrs["redshift"]``, or 0.
    zoom : (float, float) or str, optional
        Draw these wavelengths alone [um, observed], or those around a line, "[Ne II]", sample by sample.
    lines : bool
        Mark lines and PAH bands: lines that stand out in black, usually bright ones that do not in grey.
    errors : bool
        Shade one standard deviation on both sides.
    variable : {"flux", "surface_brightness"}, optional
        By default ``flux``, or ``surface_brightness`` where there is no flux.
    log : bool, optional
        Logarithmic vertical axis; by default where the values ask for it.
    title : str, optional
    font_size : float
        Of the line labels [points].

    Returns
    -------
    Axes

    Examples
    --------
    >>> ax = mx.plot.spectrum(spectrum, redshift=0.0225)
    """
    parts = spectra_of(ds)
    ds = parts[0]
    wavelength, flux, sigma, band, name = joined(parts, variable, zoom, redshift)
    unit = ds[name].attrs.get("units")
    flux, sigma, unit = prefixed(flux, sigma, unit)
    ax = new_axes(ax, (13.0, 5.2), (0.75, 0.6, 12.05, 3.55))
    pieces = list(pieces_of(wavelength, flux, band))
    _limits(ax, pieces, wavelength, flux, log, zoom is not None)
    shown = _without_edge_spikes(ax, pieces, flux)
    steps = wavelength.size < _STEPS
    for label, part in pieces:
        colour = _colour(label, pieces)
        ax.plot(wavelength[part], shown[part], color=colour, lw=0.9, zorder=3, label=label or None,
                drawstyle="steps-mid" if steps else "default")  # fmt: skip
        if errors and np.isfinite(sigma[part]).any():
            ax.fill_between(wavelength[part], shown[part] - sigma[part], shown[part] + sigma[part], color=colour,
                            alpha=0.25, lw=0, zorder=2,
                            step="mid" if steps else None)  # fmt: skip
    ax.set_xlabel("Observed wavelength [µm]")
    ax.set_ylabel(with_unit(_NAME[name], unit))
    _band_names(ax, pieces, wavelength, font_size)
    height = _mark(ax, ds, wavelength, flux, redshift, font_size) if lines else 0.0
    if title:
        ax.set_title(title, loc="left", y=1.0, pad=height + 6.0)
    return ax


def spectra_of(given: Any) -> list[xr.Dataset]:
    """Return the spectra of whatever was given; of a tree the stitched one where there is one."""
    if isinstance(given, xr.Dataset):
        return [given]
    if isinstance(given, xr.DataTree):
        found = [(path, ds) for path, ds in leaves(given) if "background" not in path.split("/")]
        stitched = [ds for path, ds in found if path.endswith("stitched")]
        parts = stitched[:1] or [ds for _, ds in found]
    else:
        parts = list(given.values() if isinstance(given, Mapping) else given if isinstance(given, Iterable) else ())
    if not parts or not all(isinstance(part, xr.Dataset) for part in parts):
        raise MrsxrError(f"a {type(given).__name__} without spectra was given; expected Datasets of level spectrum")
    return parts


def joined(
    parts: Sequence[xr.Dataset], variable: str | None, zoom: Zoom, redshift: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Any]:  # fmt: skip
    """Return wavelength, values, standard deviation, band and the name of the variable of spectra, by wavelength."""
    if isinstance(zoom, str):
        zoom = line_range(zoom, redshift=parts[0].attrs.get("redshift") if redshift is None else redshift)
    columns, name = [], variable
    for part in parts:
        *column, name = _values(part, name)
        columns.append(column)
    wavelength, flux, sigma, band = (np.concatenate(c) for c in zip(*columns, strict=True))
    order = np.argsort(wavelength, kind="stable")
    if zoom is not None:
        low, high = sorted(float(v) for v in zoom)
        order = order[(wavelength[order] >= low) & (wavelength[order] <= high)]
        if order.size < 2:
            raise MrsxrError(
                f"the spectrum has {order.size} samples between {low:g} and {high:g} um; it reaches from "
                f"{np.min(wavelength):.3f} to {np.max(wavelength):.3f} um"
            )
    return wavelength[order], flux[order], sigma[order], band[order], name


def _mark(
    ax: Axes, ds: xr.Dataset, wavelength: np.ndarray, flux: np.ndarray, redshift: float | None, font_size: float,
) -> float:  # fmt: skip
    given = redshift if redshift is not None else ds.attrs.get("redshift")
    redshift = 0.0 if given is None else float(given)
    ax.set_xlabel(
        f"Observed wavelength [µm]     lines at z = {redshift:g}" + (" (no redshift given)" if given is None else "")
    )
    height = mark_lines(ax, wavelength, flux, redshift, font_size)
    draw_bands(ax, wavelength, flux, redshift, font_size - 1.0)
    return height


def mark_lines(ax: Axes, wavelength: np.ndarray, flux: np.ndarray, redshift: float, font_size: float = 9.0) -> float:
    """Mark the lines of a source above the axes; returns the height that they take [points]."""
    return draw_marks(ax, find_marks(wavelength, flux, redshift), font_size)


def flux_limits(ax: Axes, wavelength: np.ndarray, values: np.ndarray, top: float) -> None:
    """Set the limits of axes with several spectra (spectrum, wavelength), up to a percentile of the values."""
    good = np.isfinite(values).any(axis=0)
    if good.any():
        pad = 0.012 * float(np.ptp(wavelength[good]))
        ax.set_xlim(float(wavelength[good].min()) - pad, float(wavelength[good].max()) + pad)
        low, high = (float(v) for v in np.percentile(values[np.isfinite(values)], (0.3, top)))
        span = (high - low) or abs(high) or 1.0
        ax.set_ylim(low - 0.1 * span, high + 0.15 * span)


def _without_edge_spikes(ax: Axes, pieces: list[Any], flux: np.ndarray) -> np.ndarray:
    """Return the values to draw: those at the ends of a band that lie outside the axes are left out."""
    low, high = ax.get_ylim()
    shown = flux.copy()
    for _, part in pieces:
        cut = max(2, round(_EDGE * part.size))
        ends = np.concatenate([part[:cut], part[-cut:]])
        shown[ends[(flux[ends] < low) | (flux[ends] > high)]] = np.nan
    return shown


def _values(ds: xr.Dataset, variable: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    """Return wavelength, values, standard deviation and band of the samples, and the name of the variable."""
    found = [n for n in ([variable] if variable else _NAME) if n in ds and n in _NAME and ds[n].dims == ("wavelength",)]
    if not found:
        wanted = variable or "flux or surface_brightness"
        raise LevelError(f"data of level {ds.attrs.get('level')} have no {wanted} by wavelength; expected a spectrum")
    if not ds.sizes["wavelength"]:
        raise MrsxrError("the spectrum has no samples")
    bad = ds["dq"].values & np.uint32(flags.DO_NOT_USE) != 0 if "dq" in ds else False
    cleaned = {n: np.where(bad | ~np.isfinite(ds[n].values), np.nan, ds[n].values.astype(float)) for n in found}
    name = next((n for n in found if np.isfinite(cleaned[n]).any()), found[0])
    variance = (
        ds[_VARIANCE[name]].values.astype(float) if _VARIANCE[name] in ds else np.full(ds.sizes["wavelength"], np.nan)
    )
    sigma = np.sqrt(np.where(variance > 0, variance, np.nan))
    band = (
        ds["band"].values.astype(str)
        if "band" in ds.coords
        else np.full(ds.sizes["wavelength"], str(ds.attrs.get("band", "")))
    )
    wavelength = ds["wavelength"].values.astype(float)
    return wavelength, cleaned[name], sigma, band, name


def prefixed(flux: np.ndarray, sigma: np.ndarray, unit: str | None) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Return values in Jy, mJy or µJy, whichever gives numbers that are easy to read."""
    typical = np.nanpercentile(np.abs(flux), 90) if np.isfinite(flux).any() else 1.0
    if unit != "Jy" or typical >= 0.5:
        return flux, sigma, unit
    factor, unit = (1e3, "mJy") if typical >= 2e-4 else (1e6, "µJy")
    return flux * factor, sigma * factor, unit


def pieces_of(wavelength: np.ndarray, flux: np.ndarray, band: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (band, indices) of stretches without a gap, by band."""
    names = list(dict.fromkeys(band.tolist()))
    for name in names:
        members = np.flatnonzero(band == name)
        if members.size < 2:
            continue
        steps = np.diff(wavelength[members])
        limit = _GAP * float(np.median(steps))
        for part in np.split(members, np.flatnonzero(steps > max(limit, 0.0)) + 1):
            if np.isfinite(flux[part]).any():
                yield name, part


def _colour(label: str, pieces: list[tuple[str, np.ndarray]]) -> str:
    if label in BAND_COLOURS:
        return BAND_COLOURS[label]
    names = list(dict.fromkeys(name for name, _ in pieces))
    return OKABE_ITO[names.index(label) % 4]


def _limits(
    ax: Axes, pieces: list[Any], wavelength: np.ndarray, flux: np.ndarray, log: bool | None, all_values: bool,
) -> None:  # fmt: skip
    """Set both axes: all wavelengths with values, and the range of values, without spikes and edges of bands or all."""
    if not pieces:
        ax.set_xlim(float(wavelength.min()), float(wavelength.max()) + 1e-6)
        ax.text(0.5, 0.5, "no valid data", transform=ax.transAxes, ha="center", va="center", color="0.35")
        return
    sure = np.concatenate([flux[part] if all_values else _quiet(flux[part]) for _, part in pieces])
    sure = sure[np.isfinite(sure)]
    _wavelength_axis(ax, pieces, wavelength)
    low, floor, high = (float(v) for v in np.percentile(sure, (1.0, 2.0, 100.0)))
    if log or (log is None and not all_values and floor > 0 and high / floor > _LOG_Y):
        positive = sure[sure > 0]
        low, high = (float(v) for v in np.percentile(positive, (0.5, 100.0))) if positive.size else (0.1, 1.0)
        ax.set_yscale("log")
        decades = max(np.log10(high / low), 0.1)
        ax.set_ylim(low * 10 ** (-0.10 * decades), high * 10 ** (0.10 * decades))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        if decades > 1.3:
            ax.yaxis.set_minor_formatter(NullFormatter())
        return
    low = min(low, float(np.min(sure))) if low > 0 else low
    span = (high - low) or abs(high) or 1.0
    ax.set_ylim(low - 0.10 * span, high + 0.10 * span)


def _quiet(values: np.ndarray) -> np.ndarray:
    """Return the finite values without the ends, running median of 3: lone spikes are gone, lines are not."""
    values = values[np.isfinite(values)]
    cut = max(1, round(_EDGE * values.size))
    if values.size > 2 * cut + 3:
        values = values[cut:-cut]
    if values.size < 3:
        return values
    return np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)


def _wavelength_axis(ax: Axes, pieces: list[tuple[str, np.ndarray]], wavelength: np.ndarray) -> None:
    """Set the horizontal axis: logarithmic if long, with the gaps between bands drawn together if they are wide."""
    reach = _merged([(float(wavelength[part][0]), float(wavelength[part][-1])) for _, part in pieces])
    first, last = reach[0][0], reach[-1][1]
    covered = sum(np.log(b / a) for a, b in reach)
    if len(reach) > 1 and covered < _COVERED * np.log(last / first):
        _broken_axis(ax, reach)
        return
    if last / first > _LOG_X:
        ax.set_xscale("log")
        pad = (last / first) ** 0.008
        ax.set_xlim(first / pad, last * pad)
        ticks = [t for t in (5, 6, 7, 8, 9, 10, 12, 14, 16, 18, 20, 22, 25, 28) if first / pad <= t <= last * pad]
        _fixed_ticks(ax, ticks, np.arange(np.ceil(first * 2) / 2, last, 0.5).tolist())
        return
    pad = 0.012 * (last - first)
    ax.set_xlim(first - pad, last + pad)
    ax.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 2, 5, 10]))


def _merged(reach: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return stretches of wavelength with those joined that overlap or nearly touch (3 %)."""
    out: list[tuple[float, float]] = []
    for low, high in sorted(reach):
        if out and low < 1.03 * out[-1][1]:
            out[-1] = (out[-1][0], max(high, out[-1][1]))
        else:
            out.append((low, high))
    return out


def _broken_axis(ax: Axes, reach: list[tuple[float, float]]) -> None:
    """Give every stretch its logarithmic width and every gap between two a small fixed one."""
    gap = _GAP_WIDTH * sum(np.log(b / a) for a, b in reach)
    pad = 0.25 * gap
    knots, places = [0.01], [0.0]
    for i, (low, high) in enumerate(reach):
        before = 1.0 if i == 0 else gap - 2 * pad
        knots += [float(np.log(low) - pad), float(np.log(high) + pad)]
        places.append(places[-1] + before)
        places.append(places[-1] + knots[-1] - knots[-2])
    knots, places = [knots[1] - 5.0, *knots[1:], knots[-1] + 5.0], [-4.0, *places[1:], places[-1] + 5.0]
    ax.set_xscale(
        "function",
        functions=(
            lambda w: np.interp(np.log(np.maximum(w, 1e-6)), knots, places),
            lambda p: np.exp(np.interp(p, places, knots)),
        ),
    )
    ax.set_xlim(float(np.exp(knots[1])), float(np.exp(knots[-2])))
    major, minor = [], []
    for low, high in reach:
        ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
        fine = np.arange(ticks[0], ticks[-1], (ticks[1] - ticks[0]) / 5)
        major += [float(t) for t in ticks if low <= t <= high]
        minor += [float(t) for t in fine if low <= t <= high]
    _fixed_ticks(ax, major, minor)
    edge = np.exp(np.asarray(knots[2:-2]))
    foot = blended_transform_factory(ax.transData, ax.transAxes)
    for low, high in edge.reshape(-1, 2):
        ax.axvspan(low, high, color="0.88", lw=0, zorder=4)
        for height in (0.0, 1.0):
            ax.plot([low, high], [height] * 2, transform=foot, marker=[(-1, -2), (1, 2)], ms=8, color="0.15", mew=0.9,
                    ls="none", clip_on=False, zorder=6)  # fmt: skip


def _fixed_ticks(ax: Axes, major: Sequence[float], minor: Sequence[float]) -> None:
    ax.xaxis.set_major_locator(FixedLocator(major))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.6g}"))
    ax.xaxis.set_minor_locator(FixedLocator(minor))
    ax.xaxis.set_minor_formatter(NullFormatter())


def _band_names(ax: Axes, pieces: list[Any], wavelength: np.ndarray, font_size: float) -> None:
    """Write the name of each band in its colour at the foot of the axes."""
    foot = blended_transform_factory(ax.transData, ax.transAxes)
    for name in dict.fromkeys(label for label, _ in pieces if label):
        reach = np.concatenate([wavelength[part] for label, part in pieces if label == name])
        middle = 0.5 * (reach[0] + reach[-1]) if ax.get_xscale() == "linear" else np.sqrt(reach[0] * reach[-1])
        colour = _colour(name, pieces)
        ax.plot(reach[[0, -1]], [0.012, 0.012], transform=foot, color=colour, lw=3.0, solid_capstyle="butt")
        text = ax.text(middle, 0.022, name, transform=foot, ha="center", va="bottom", color=colour, fontsize=font_size,
                       fontweight="bold", gid="band name")  # fmt: skip
        text.set_path_effects([withStroke(linewidth=2.0, foreground="white")])
