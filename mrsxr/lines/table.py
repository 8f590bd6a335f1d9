"""The lines of a spectrum as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.limits import checked
from mrsxr.schema import is_measured

if TYPE_CHECKING:
    from astropy.table import QTable

_COLUMNS = (
    "flux", "flux_err", "snr", "velocity", "velocity_err", "dispersion", "dispersion_err", "continuum", "ew", "ew_err",
    "upper_limit", "n_components", "noise_scale", "fit_flags",
)  # fmt: skip
_FORMATS = {"flux": ".3e", "upper_limit": ".2e", "ew": ".5f", "continuum": ".4g"}


@reads()
@checked
def line_table(fit: xr.Dataset, *, blank: bool = True) -> QTable:
    """Return the lines of the fit of one spectrum as a table with units.

    Parameters
    ----------
    fit : Dataset, level "lines"
        Of a spectrum, or one spaxel of maps (``fit.isel(y=..., x=...)``).
    blank : bool
        Mask what is no measurement: fluxes and equivalent widths below a signal to noise of 3, velocities below 5,
        widths below 8 (those of :func:`mrsxr.lines.mask_maps`), and what a failed fit or a bound gave; they are blank
        in print and in files. The limit of the flux, ``upper_limit`` (3 sigma of the noise, whatever flux was fitted),
        then stands in the lines that are not detected only. False: all numbers, as they were fitted.

    Returns
    -------
    astropy.table.QTable
        A row a line: ``line``, ``wavelength_rest`` [um], ``band``, the numbers of the fit and ``fwhm`` [km/s], the
        full width at half maximum without the instrument. It can be printed (``.pprint_all()``: every column) and
        written (``.write("lines.ecsv")``).

    Raises
    ------
    LevelError
        Where ``fit`` is no result of a fit.
    MrsxrError
        Where it is of many spaxels.

    Examples
    --------
    >>> spectrum = mx.simulate.simulate_spectrum(band="3A")
    >>> table = mx.lines.line_table(mx.lines.fit_line(spectrum, "[Ne II] 12.81"))
    >>> str(table["flux"].unit)
    'W / m2'
    """
    from astropy import units as u
    from astropy.table import MaskedColumn, QTable
    from astropy.utils.masked import Masked

    if fit.attrs.get("level") != "lines":
        raise LevelError(f"line_table needs a result of fit_line (level lines), got {fit.attrs.get('level')}")
    fit = fit.isel({dim: 0 for dim in ("y", "x") if fit.sizes.get(dim) == 1})
    if fit["flux"].dims != ("line",):
        sizes = ", ".join(f"{d} {n}" for d, n in fit["flux"].sizes.items() if d != "line")
        raise MrsxrError(
            f"line_table is for one spectrum, these are maps ({sizes}); choose a spaxel with .isel(y=, x=)"
        )
    fit = fit.compute()
    table = QTable({"line": fit["line"].values, "wavelength_rest": fit["wavelength_rest"].values * u.um})
    if "band" in fit.coords:
        table["band"] = fit["band"].values
    for name in _COLUMNS:
        unit = fit[name].attrs["units"]
        values = fit[name].values
        hidden = _hidden(fit, name) if blank else None
        if unit == "1":
            table[name] = values if hidden is None else MaskedColumn(values, mask=hidden)
        else:
            table[name] = (values if hidden is None else Masked(values, mask=hidden)) * u.Unit(unit)
    factor = 2.0 * np.sqrt(2.0 * np.log(2.0))
    table["fwhm"] = factor * table["dispersion"]
    for name in table.colnames:
        stem = name.removesuffix("_err")
        if table[name].dtype.kind == "f":
            table[name].info.format = _FORMATS.get(stem, ".5f" if name == "wavelength_rest" else ".2f")
    table.meta["redshift"] = fit.attrs["redshift"]
    return table


def _hidden(fit: xr.Dataset, name: str) -> np.ndarray | None:
    """Return which lines of a column are no measurements; None for columns that are shown whole."""
    if name == "upper_limit":
        seen = is_measured(fit, "flux")
        return None if seen is None else seen.values | ~np.isfinite(fit[name].values)
    seen = is_measured(fit, name)
    return None if seen is None or seen.all() else ~seen.values
