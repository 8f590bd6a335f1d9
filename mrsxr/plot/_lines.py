"""Pictures of a fitted line: data, continuum, components and residuals."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from mpl_toolkits.axes_grid1 import make_axes_locatable

from mrsxr.arguments import reads
from mrsxr.dq import DO_NOT_USE
from mrsxr.errors import MrsxrError
from mrsxr.limits import LineName, checked
from mrsxr.schema import is_measured
from mrsxr.units import C_KM_S

from ._labels import spread
from ._maps import line_name, pick_line
from ._spectrum import prefixed
from ._style import (
    FAINT,
    INK,
    OKABE_ITO,
    array_of,
    given_axes,
    inch,
    new_figure,
    root_figure,
    superscript,
    top_axis,
    unit_text,
    with_unit,
)

_TOTAL, _CONTINUUM = OKABE_ITO[1], "0.45"
_COMPONENTS = (OKABE_ITO[0], OKABE_ITO[2], OKABE_ITO[3])
_NARROW = 400.0  # points; narrower axes get small letters above the line
_HATCHES = ((0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))


@reads()
@checked
def line_fit(
    ds: xr.Dataset, fit: xr.Dataset, line: LineName | None = None, ax: Any = None, *, y: int | None = None,
    x: int | None = None, title: str | None = None,
) -> np.ndarray:  # fmt: skip
    """Draw the fit of a line: data with errors, continuum, components and their sum; residuals below.

    Parameters
    ----------
    ds : Dataset, level "spectrum" or "cube"
        What was fitted; of a cube nothing but the spaxel is computed.
    fit : Dataset, level "lines"
        Of :func:`mrsxr.lines.fit_line` or :func:`mrsxr.lines.fit_lines`.
    line : str or float, optional
        Label of the line ("[Ne V] 24.32"), its name if only one line has it, or its rest wavelength
        [um]; needed where there are several.
        Lines fitted together with it are drawn too.
    ax : Axes or array of two Axes, optional
        Where to draw: one is divided into two; by default a new figure.
    y, x : int, optional
        Row and column of the spaxel, from 0; needed for a cube.
    title : str, optional
        By default the line, z and the spaxel.

    Returns
    -------
    array of Axes
        Spectrum and residuals [sigma].

    Notes
    -----
    Errors are those of the data times the noise scale of the fit.

    Examples
    --------
    >>> spectrum = mx.simulate.simulate_spectrum(band="3A")
    >>> fit = mx.lines.fit_line(spectrum, "[Ne II] 12.81")
    >>> axes = mx.plot.line_fit(spectrum, fit)
    """
    check_spaxel(y, x, ds, fit)
    cut = spaxel_of(ds, y, x), with_line_dim(spaxel_of(fit, y, x))
    model = _model(ds, fit, y, x)
    ds, fit = cut
    one = pick_line(fit, line)
    label = str(one["line"].values)
    data = _data(ds, model, one, label)
    axes = _axes(ax)
    _draw(axes[0], data)
    _draw_residuals(axes[1], data)
    _mark_lines(axes[0], fit, data)
    _velocity_axis(axes[0], one)
    _annotate(axes[0], one)
    place = f"   y = {y}, x = {x}" if y is not None and x is not None else ""
    text = f"{line_name(one)}   z = {_redshift(one):g}{place}" if title is None else title
    axes[0].set_title(text, fontsize=12, pad=8.0)
    return array_of(axes)


def check_spaxel(y: int | None, x: int | None, *datasets: xr.Dataset) -> None:
    """Raise where a spaxel is named of what has none."""
    for dim, number in (("y", y), ("x", x)):
        if number is not None and not any(dim in ds.dims for ds in datasets):
            raise MrsxrError(f"{dim} is {number}, but there are no spaxels (a spectrum, or cut already); leave it out")


def spaxel_of(ds: xr.Dataset, y: int | None, x: int | None) -> xr.Dataset:
    """Return one spaxel of a cube or of maps; spectra and what has been cut already as they are."""
    dims = [dim for dim in ("y", "x") if dim in ds.dims]
    for dim, number in (("y", y), ("x", x)):
        if dim not in dims:
            continue
        number = 0 if number is None and ds.sizes[dim] == 1 else number
        if number is None:
            raise MrsxrError("the fit of one spaxel is drawn: give its row y and column x, or cut ds and fit before")
        if not 0 <= number < ds.sizes[dim]:
            raise MrsxrError(f"there is no spaxel with {dim} = {number}; expected 0 to {ds.sizes[dim] - 1}")
        ds = ds.isel({dim: int(number)})
    return ds


def with_line_dim(fit: xr.Dataset) -> xr.Dataset:
    """Return a fit on ``line``, also where one line was cut out."""
    if "line" in fit.dims or "line" not in fit.coords:
        return fit
    single = [n for n, c in fit.coords.items() if c.dims == () and n not in ("line", "y", "x", "ra", "dec")]
    return fit.reset_coords(single).expand_dims("line").set_coords(single)


def _model(ds: xr.Dataset, fit: xr.Dataset, y: int | None, x: int | None) -> xr.Dataset:
    """Return the model of one spaxel; that of its neighbours with it, as a lone one does not tell how wide it is."""
    from mrsxr.lines.model import line_model

    picked = {}
    for dim, number in (("y", y), ("x", x)):
        if number is not None and dim in ds.dims and dim in fit.dims:
            near = slice(max(number - 1, 0), number + 2)
            ds, fit, picked[dim] = ds.isel({dim: near}), fit.isel({dim: near}), number - near.start
        elif number is not None:  # one of both was cut before
            ds, fit = (one.isel({dim: number}) if dim in one.dims else one for one in (ds, fit))
    return spaxel_of(line_model(ds, with_line_dim(fit)), picked.get("y"), picked.get("x"))


def _data(ds: xr.Dataset, model: xr.Dataset, one: xr.Dataset, label: str) -> dict[str, Any]:
    """Return wavelength, flux, sigma, continuum, model and components of all lines in the window of a line."""
    wave = ds["wavelength"].values.astype(float)
    near = np.isfinite(model["components"].sel(line=label).transpose("component", "wavelength").values).any(axis=0)
    if not near.any():
        centre = float(one["wavelength_rest"].values) * (1.0 + _redshift(one))
        near = np.abs(wave / centre - 1.0) * C_KM_S <= float(one.attrs.get("window", 2500.0))
    if near.sum() < 2:
        raise MrsxrError(f"the data have no samples in the window of {label}")
    inside = slice(int(np.flatnonzero(near)[0]), int(np.flatnonzero(near)[-1]) + 1)
    part = ds.isel(wavelength=inside)
    bad = part["dq"].values & np.uint32(DO_NOT_USE) != 0 if "dq" in part else np.zeros(part.sizes["wavelength"], bool)
    flux = np.where(bad, np.nan, part["flux"].values.astype(float))
    scale = _noise_of_a_sample(one)
    sigma = np.sqrt(part["var"].values.astype(float)) * (scale if np.isfinite(scale) else 1.0)
    shown, sigma, unit = prefixed(flux, sigma, ds["flux"].attrs.get("units"))
    typical = np.nanmedian(np.abs(shown / flux)) if np.isfinite(flux).any() else 1.0
    model = model.isel(wavelength=inside)
    curves = {name: model[name].values.astype(float) * typical for name in ("continuum", "model")}
    parts = model["components"].transpose("line", "component", "wavelength") * typical
    return {"wave": wave[inside], "flux": shown, "sigma": sigma, "unit": unit, "parts": parts, "label": label, **curves}


def _noise_of_a_sample(one: xr.Dataset) -> float:
    """Return the factor from the errors of the data to the scatter of single samples about the fit."""
    if "noise_scale" not in one:
        return 1.0
    length = float(one["correlation"].values) if "correlation" in one else 1.0
    return float(one["noise_scale"].values) / np.sqrt(length if length > 1.0 else 1.0)


def _redshift(one: xr.Dataset) -> float:
    return float(one.attrs.get("redshift", 0.0) or 0.0)


def _axes(ax: Any) -> list[Axes]:
    """Return axes for spectrum and residuals that share the wavelengths."""
    if isinstance(ax, Axes):
        below = make_axes_locatable(ax).append_axes("bottom", size="30%", pad=0.08, sharex=ax)
        axes = [ax, below]
    else:
        given = given_axes(ax, 2, "a line fit")
        if given is not None:
            return given
        size = 8.6, 6.4
        figure = new_figure(size)
        upper = figure.add_axes(inch((0.95, 2.05, 7.45, 3.55), size))
        axes = [upper, figure.add_axes(inch((0.95, 0.6, 7.45, 1.35), size), sharex=upper)]
    axes[0].tick_params(labelbottom=False)
    return axes


def _draw(ax: Axes, data: dict[str, Any]) -> None:
    wave = data["wave"]
    ax.errorbar(wave, data["flux"], data["sigma"], fmt="none", ecolor="0.6", elinewidth=0.9, zorder=1)
    ax.plot(wave, data["flux"], color=INK, lw=0.9, drawstyle="steps-mid", marker="o", ms=2.6, zorder=2, label="data")
    ax.plot(wave, data["continuum"], color=_CONTINUUM, lw=1.3, ls=(0, (6, 3)), zorder=3, label="continuum")
    lines = list(data["parts"]["line"].values)
    for i, label in enumerate(lines):
        curves = data["parts"].isel(line=i).values
        mine = label == data["label"]
        for k, curve in enumerate(curves):
            if not np.isfinite(curve).any() or not np.nanmax(np.abs(curve)) > 0:
                continue
            name = f"component {k + 1}" if mine else "_other"
            ax.plot(wave, data["continuum"] + curve, color=_COMPONENTS[k % 3] if mine else FAINT, ls=_HATCHES[k % 3],
                    lw=1.4, zorder=4, label=name, gid="component")  # fmt: skip
    ax.plot(wave, data["model"], color=_TOTAL, lw=1.7, zorder=5, label="total", gid="model")
    ax.set_ylabel(with_unit("Flux density" if "Jy" in str(data["unit"]) and "/" not in str(data["unit"])
                            else "Surface brightness", data["unit"]))  # fmt: skip
    pad = 0.02 * (wave[-1] - wave[0])
    ax.set_xlim(wave[0] - pad, wave[-1] + pad)
    values = np.concatenate([data["flux"], data["model"]])
    values = values[np.isfinite(values)]
    if not values.size:
        ax.text(0.5, 0.5, "no valid data", transform=ax.transAxes, ha="center", va="center", color="0.35")
    else:
        low, high = float(values.min()), float(values.max())
        span = (high - low) or abs(high) or 1.0
        named = len(lines) > 1  # the names of lines stand below the curve
        ax.set_ylim(low - (0.34 if named else 0.08) * span, high + 0.16 * span)
    ax.legend(loc="upper right", fontsize=8.5, frameon=False, handlelength=2.6)


def _draw_residuals(ax: Axes, data: dict[str, Any]) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        rest = (data["flux"] - data["model"]) / np.where(data["sigma"] > 0, data["sigma"], np.nan)
    ax.axhspan(-1.0, 1.0, color="0.9", lw=0, zorder=0)
    ax.axhline(0.0, color=_TOTAL, lw=1.0, zorder=1)
    ax.plot(data["wave"], rest, color=INK, lw=0.9, drawstyle="steps-mid", marker="o", ms=2.4, zorder=2, gid="residuals")
    finite = np.abs(rest[np.isfinite(rest)])
    top = max(3.3, 1.1 * float(finite.max())) if finite.size else 3.3
    ax.set_ylim(-top, top)
    ax.set_ylabel("Residual [σ]")
    ax.set_xlabel("Observed wavelength [µm]")


def _mark_lines(ax: Axes, fit: xr.Dataset, data: dict[str, Any]) -> None:
    """Mark where the lines of the window would be at velocity 0, with names where there are several."""
    low, high = ax.get_xlim()
    rest = np.atleast_1d(fit["wavelength_rest"].values) * (1.0 + _redshift(fit))
    labels = np.atleast_1d(fit["line"].values)
    inside = (rest > low) & (rest < high)
    order = np.argsort(rest[inside])
    rest, labels = rest[inside][order], labels[inside][order]
    size = 8.5
    letter = size / (ax.get_window_extent().width * 72.0 / root_figure(ax).dpi)  # of the width of the axes
    beside = spread((rest - low) / (high - low) - 0.7 * letter, 1.35 * letter)  # lines of a blend are closer than names
    for place, spot, label in zip(rest, beside, labels, strict=True):
        ax.axvline(place, color=FAINT, lw=0.8, ls=(0, (1, 2)), zorder=0)
        if len(rest) > 1:
            text = ax.text(spot, 0.02, str(label).replace("H2 ", "H₂ "), transform=ax.transAxes,
                           rotation=90, ha="center", va="bottom", fontsize=size, gid="line label",
                           color=INK if label == data["label"] else FAINT)  # fmt: skip
            text.set_path_effects([withStroke(linewidth=2.0, foreground="white")])


def _velocity_axis(ax: Axes, one: xr.Dataset) -> None:
    centre = float(one["wavelength_rest"].values) * (1.0 + _redshift(one))
    top = top_axis(ax, lambda w: (w / centre - 1.0) * C_KM_S, lambda v: centre * (1.0 + v / C_KM_S))
    top.set_xlabel(f"Velocity of {line_name(one)} [km s⁻¹]")


def _annotate(ax: Axes, one: xr.Dataset) -> None:
    """Write flux, velocity, dispersion, S/N and the number of components into the upper left corner."""
    narrow = ax.get_window_extent().width * 72.0 / root_figure(ax).dpi < _NARROW
    ax.text(0.015, 0.975, "\n".join(_results(one, short=narrow)), transform=ax.transAxes, ha="left", va="top",
            fontsize=7.5 if narrow else 9, color=INK, linespacing=1.35, gid="result", zorder=8,
            bbox={"facecolor": "white", "edgecolor": "0.8", "lw": 0.6, "alpha": 0.85,
                  "boxstyle": "round,pad=0.35"})  # fmt: skip
    if narrow:
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.45 * (high - low))


def _results(one: xr.Dataset, short: bool) -> list[str]:
    unit, rows = unit_text(one["flux"].attrs.get("units")), []
    if np.isfinite(one["flux"].values):
        if _is_measured(one, "flux"):
            rows.append(f"F = {with_error(*_pair(one, 'flux'))} {unit}")
        for sign, name in (("v", "velocity"), ("σ", "dispersion")):
            if np.isfinite(one[name].values) and _is_measured(one, name):
                rows.append(f"{sign} = {with_error(*_pair(one, name))} km s⁻¹")
        if "snr" in one and np.isfinite(one["snr"].values):
            rows.append(f"S/N = {float(one['snr'].values):.1f}")
    else:
        rows.append("not fitted")
    if "n_components" in one and np.isfinite(one["flux"].values):
        number = int(one["n_components"].values)
        rows.append(f"{number} component{'' if number == 1 else 's'}" + ("" if short else _why(one)))
    if (
        not ("snr" in one and _is_measured(one, "flux"))
        and "upper_limit" in one
        and np.isfinite(one["upper_limit"].values)
    ):
        rows.append(f"F < {with_error(float(one['upper_limit'].values), np.nan)} {unit} (3σ)")
    names = flag_names(one)
    return rows + (["flags: " + ", ".join(names).replace("_", " ")] if names else [])


def _is_measured(one: xr.Dataset, name: str) -> bool:
    seen = is_measured(one, name) if "snr" in one else None
    return seen is None or bool(seen)


def _pair(one: xr.Dataset, name: str) -> tuple[float, float]:
    error = float(one[f"{name}_err"].values) if f"{name}_err" in one else np.nan
    return float(one[name].values), error


def _why(one: xr.Dataset) -> str:
    """Return by how much a second component lowers the BIC, where the number was chosen by it."""
    if "bic" not in one or "n_model" not in one["bic"].dims or one.attrs.get("components") != "auto":
        return ""
    bic = one["bic"].values.astype(float)
    if bic.size < 3 or not np.isfinite(bic[[1, 2]]).all():
        return ""
    return f" (ΔBIC = {bic[1] - bic[2]:.0f} for a second)"


def flag_names(one: xr.Dataset) -> list[str]:
    """Return the names of the quality flags of a fit."""
    if "fit_flags" not in one:
        return []
    flags, attrs = int(one["fit_flags"].values), one["fit_flags"].attrs
    names = str(attrs.get("flag_meanings", "")).split()
    return [n for n, bit in zip(names, np.atleast_1d(attrs.get("flag_masks", [])), strict=False) if flags & int(bit)]


def with_error(value: float, error: float) -> str:
    """Return a value with its error to two digits of the error, ``(1.23 ± 0.04) × 10⁻¹⁸``; "not found" for NaN."""
    if not np.isfinite(value):
        return "not found"
    power = int(np.floor(np.log10(abs(value)))) if value else 0
    power = power if not -3 <= power < 5 else 0
    value, error = value * 10.0**-power, error * 10.0**-power
    if np.isfinite(error) and error > 0:
        digits = max(0, 1 - int(np.floor(np.log10(error))))
        text = f"{value:.{digits}f} ± {error:.{digits}f}"
        text = f"({text}) × 10{superscript(power)}" if power else text
    else:
        text = f"{value:.3g}" + (f" × 10{superscript(power)}" if power else "")
    return text.replace("-", "−")
