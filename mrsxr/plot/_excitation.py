"""The excitation diagram of molecular hydrogen."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mrsxr.arguments import reads
from mrsxr.errors import MrsxrError
from mrsxr.limits import checked

from ._lines import check_spaxel, spaxel_of, with_error
from ._style import INK, OKABE_ITO, new_axes

_LIMIT = 3.0  # sigma below which a level is an upper limit
_LOOKS = {True: (OKABE_ITO[0], "o", "ortho"), False: (OKABE_ITO[1], "s", "para")}


@reads()
@checked
def excitation(
    ds: xr.Dataset, ax: Axes | None = None, *, y: int | None = None, x: int | None = None, title: str | None = None
) -> Axes:
    """Draw the columns of the upper levels of H2 against their energies, with the temperatures that fit them.

    Parameters
    ----------
    ds : Dataset, level "excitation"
        Of :func:`mrsxr.lines.h2_excitation`.
    ax : Axes, optional
        Where to draw; by default a new figure.
    y, x : int, optional
        Row and column of the spaxel, from 0; needed for maps.
    title : str, optional

    Returns
    -------
    Axes
        Ortho levels are circles, para levels squares; levels below 3 sigma are arrows, at 3 sigma.

    Examples
    --------
    >>> bands = [mx.simulate.simulate_spectrum(band=band) for band in ("2B", "3A", "3C")]
    >>> whole = mx.spectrum.stitch_bands(bands)
    >>> fits = mx.lines.fit_lines(whole, ["H2 S(1) 17.03", "H2 S(2) 12.28", "H2 S(3) 9.66"])
    >>> ax = mx.plot.excitation(mx.lines.h2_excitation(fits, area=3.0))
    """
    if "ln_column" not in ds or "energy" not in ds.coords:
        raise MrsxrError(f"an excitation diagram needs the result of h2_excitation, got {ds.attrs.get('level')}")
    check_spaxel(y, x, ds)
    one = spaxel_of(ds, y, x).compute()
    ax = new_axes(ax, (7.4, 5.4), (0.85, 0.65, 6.35, 4.35))
    _draw_gas(ax, one)
    _draw_levels(ax, one)
    ax.set_xlabel("Energy of the upper level, $E_u/k$ [K]")
    ax.set_ylabel("ln($N_u/g_u$)   [$N_u$ in cm⁻²]")
    ax.set_xlim(0.0, 1.1 * float(one["energy"].max()))
    ax.margins(y=0.12)
    ax.legend(loc="upper right", fontsize=9, frameon=False)
    ax.text(0.03, 0.04, "\n".join(_results(one)), transform=ax.transAxes, ha="left", va="bottom", fontsize=9.5,
            color=INK, linespacing=1.4, gid="result", zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 3.0})  # fmt: skip
    ax.set_title(title if title is not None else "H₂ excitation diagram", fontsize=12)
    return ax


def _draw_levels(ax: Axes, one: xr.Dataset) -> None:
    energy, weight = one["energy"].values, one["weight"].values
    column, error = one["column"].values, one["column_err"].values
    names = [str(label).split()[1] for label in one["line"].values]
    ortho = np.array([int(name[2:-1]) % 2 == 1 for name in names])
    with np.errstate(invalid="ignore", divide="ignore"):
        seen = np.isfinite(one["ln_column"].values) & (column >= _LIMIT * error)
        limit = np.log(_LIMIT * error / weight)
    for kind, (colour, marker, label) in _LOOKS.items():
        mine = seen & (ortho == kind)
        if mine.any():
            ax.errorbar(energy[mine], one["ln_column"].values[mine], one["ln_column_err"].values[mine], fmt=marker,
                        color=colour, ms=7.5, mec="white", mew=0.8, elinewidth=1.3, capsize=2.5, zorder=4,
                        label=f"{label} levels")  # fmt: skip
        faint = ~seen & (ortho == kind) & np.isfinite(limit)
        ax.plot(energy[faint], limit[faint], ls="none", marker=r"$\downarrow$", ms=13, color=colour, zorder=4,
                gid="limits")  # fmt: skip
    for place, value, top, name in zip(energy, one["ln_column"].values, limit, names, strict=True):
        height = value if np.isfinite(value) and seen[names.index(name)] else top
        if np.isfinite(height):
            ax.annotate(name, (place, height), xytext=(7, 5), textcoords="offset points", fontsize=9, color=INK,
                        gid="level")  # fmt: skip


def _draw_gas(ax: Axes, one: xr.Dataset) -> None:
    """Draw the levels that each gas fills, and their sum."""
    from mrsxr.lines.excitation import partition_function

    temperature = np.atleast_1d(one["temperature"].values).astype(float)
    columns = np.atleast_1d(one["total_column"].values).astype(float)
    good = np.isfinite(temperature) & np.isfinite(columns) & (temperature > 0)
    if not good.any():
        return
    energy = np.linspace(0.0, 1.1 * float(one["energy"].max()), 200)
    share = 0.25 * (1.0 + float(one.attrs.get("ortho_to_para", 3.0)))
    gases = [n / partition_function(t) / share * np.exp(-energy / t) for t, n in zip(temperature[good], columns[good],
                                                                                   strict=True)]  # fmt: skip
    total = np.log(np.sum(gases, axis=0))
    low = float(total.min())
    if len(gases) > 1:
        for gas, t, dashes in zip(gases, temperature[good], ((0, (5, 2)), (0, (1.2, 1.4))), strict=False):
            values = np.log(gas)
            values[values < low - 1.0] = np.nan
            ax.plot(energy, values, color=OKABE_ITO[2], lw=1.2, ls=dashes, zorder=2, label=f"gas of {t:.0f} K")
    ax.plot(energy, total, color=INK, lw=1.3, zorder=3, gid="model",
            label="fit" if len(gases) > 1 else f"gas of {temperature[good][0]:.0f} K")  # fmt: skip


def _results(one: xr.Dataset) -> list[str]:
    rows = []
    for i in range(one.sizes.get("temperature_component", 1)):
        part = one.isel(temperature_component=i) if "temperature_component" in one.dims else one
        for sign, name, unit in (("T", "temperature", "K"), ("N(H₂)", "total_column", "cm⁻²"),
                                 ("Σ", "mass_per_area", "M☉ pc⁻²")):  # fmt: skip
            if name in part:
                rows.append(f"{sign} = {with_error(float(part[name]), float(part[f'{name}_err']))} {unit}")
    if "ortho_to_para" in one.attrs:
        rows.append(f"ortho/para = {float(one.attrs['ortho_to_para']):g}")
    return rows
