"""The excitation diagram of molecular hydrogen: columns of the upper levels, temperature, mass of warm gas."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.errors import MrsxrError, SchemaError
from mrsxr.limits import NotNegative, Positive, checked
from mrsxr.notes import tell
from mrsxr.spaxels import counted_solid_angle
from mrsxr.step import recorded
from mrsxr.units import ARCSEC2_TO_SR

from ._excitation_fit import fit_temperatures

#: Rotational lines v = 0-0 of H2: wavelength [um], energy of the upper level [K], Einstein A [1/s], its weight g_u.
H2_LEVELS = {
    "H2 S(0)": (28.21883, 510.0, 2.95e-11, 5.0), "H2 S(1)": (17.03484, 1015.0, 4.76e-10, 21.0),
    "H2 S(2)": (12.27861, 1682.0, 2.75e-09, 9.0), "H2 S(3)": (9.66492, 2504.0, 9.83e-09, 33.0),
    "H2 S(4)": (8.02505, 3474.0, 2.64e-08, 13.0), "H2 S(5)": (6.90952, 4586.0, 5.88e-08, 45.0),
    "H2 S(6)": (6.10857, 5830.0, 1.14e-07, 17.0), "H2 S(7)": (5.51118, 7197.0, 2.00e-07, 57.0),
    "H2 S(8)": (5.05312, 8677.0, 3.24e-07, 21.0),
}  # fmt: skip
_HC = 6.62607015e-34 * 2.99792458e14  # J um
_MASS = 1.36 * 2.0 * 1.67262192e-27 * (3.0856775814913673e16**2) * 1e4 / 1.98847e30  # Msun/pc2 for 1 H2 per cm2
_TEXT = {
    "column": ("1/cm2", "column of the upper level"), "column_err": ("1/cm2", "error of the column"),
    "ln_column": ("1", "ln of column / weight"), "ln_column_err": ("1", "error of ln of column / weight"),
    "ln_model": ("1", "ln of column / weight of the fit"),
    "temperature": ("K", "excitation temperature"), "temperature_err": ("K", "error of the temperature"),
    "total_column": ("1/cm2", "column of H2"), "total_column_err": ("1/cm2", "error of the column of H2"),
    "mass_per_area": ("Msun/pc2", "warm gas with helium"), "mass_per_area_err": ("Msun/pc2", "error of the warm gas"),
    "chi2": ("1", "chi2 of the fit"), "dof": ("1", "degrees of freedom"),
}  # fmt: skip


def partition_function(temperature: np.ndarray | float) -> Any:
    """Return Q(T) of H2, ortho and para in equilibrium (Herbst et al. 1996): 0.0247 T / (1 - exp(-6000 / T))."""
    temperature = np.asarray(temperature, float)
    return 0.0247 * temperature / -np.expm1(-6000.0 / temperature)


@reads()
@checked
def h2_excitation(
    lines: xr.Dataset, *, area: Positive | None = None, temperatures: Literal[1, 2] = 1, snr: NotNegative = 3.0,
    ortho_to_para: Positive = 3.0, systematic: NotNegative = 0.0,
) -> xr.Dataset:  # fmt: skip
    """Return the excitation diagram of H2 and the temperatures, columns and masses that fit it.

    Parameters
    ----------
    lines : Dataset, level "lines"
        ``flux``, ``flux_err`` [W m-2] on (line,) of a spectrum or (line, y, x) of maps, per spaxel; labels of
        ``line`` as in :func:`mrsxr.lines.line_list` ("H2 S(1) 17.03"). Other lines are left out.
    area : float, optional
        Solid angle that the flux of a spectrum comes from [arcsec2]; of maps by default that of a spaxel,
        ``attrs["pixel_scale"]`` squared.
    temperatures : {1, 2}
        Of one gas, or of a warm and a hot one.
    snr : float
        Lines with less are not fitted.
    ortho_to_para : float
        Ratio of ortho to para H2, 3 where it is warm; the columns of ortho levels are multiplied by 3 / ratio.
    systematic : float
        Relative error added in quadrature to all fluxes, for calibration and extinction.

    Returns
    -------
    Dataset, level "excitation"
        On ``line`` (energies rising): ``column`` N_u [1/cm2] and ``ln_column`` ln(N_u/g_u), each with ``_err``, and
        ``ln_model``; coordinates ``energy`` [K], ``weight`` g_u. On ``temperature_component``, the cold one first:
        ``temperature`` [K], ``total_column`` [1/cm2], ``mass_per_area`` [Msun/pc2], each with ``_err``. ``chi2`` and
        ``dof``. Maps keep y, x, ra, dec. NaN where the lines are too few.

    Raises
    ------
    MrsxrError
        Where there is no H2 line, the solid angle is not known, or an option is impossible.

    Notes
    -----
    N_u = 4 pi I / (h nu A), I the mean over the area [W m-2 sr-1]; ln(N_u/g_u) = ln(N/Q(T)) - E_u/T. Optically thin,
    in thermal equilibrium, extinction not corrected: silicates dim S(3) at 9.66 um. With another ortho-to-para ratio r
    the partition function is Q (1 + r) / 4. Energies and A after Wolniewicz et al. (1998, ApJS 115, 293); mass:
    N 1.36 x 2 m_p. Two temperatures: least squares in ln, started from lines through the lower and the upper half of
    the levels; at least four lines are needed, five for a check.

    Examples
    --------
    >>> bands = [mx.simulate.simulate_spectrum(band=band) for band in ("2B", "3A", "3C")]
    >>> whole = mx.spectrum.stitch_bands(bands)
    >>> fits = mx.lines.fit_lines(whole, ["H2 S(1) 17.03", "H2 S(2) 12.28", "H2 S(3) 9.66"])
    >>> gas = mx.lines.h2_excitation(fits, area=3.0)
    >>> gas.temperature.attrs["units"]
    'K'
    """
    flux, error, names = _h2_lines(lines)
    solid = _solid_angle(lines, flux, area)
    wave, energy, einstein, weight = (np.array([H2_LEVELS[name][k] for name in names]) for k in range(4))
    along = (slice(None), *([None] * (flux.ndim - 1)))
    per_flux = (4.0 * np.pi * wave / (_HC * einstein * solid) * 1e-4)[along]  # 1/cm2 of 1 W/m2
    column = np.asarray(flux.values, float) * per_flux
    spread = np.hypot(np.asarray(error.values, float), systematic * np.abs(flux.values)) * per_flux
    with np.errstate(invalid="ignore", divide="ignore"):
        ln, ln_err = np.log(np.where(column > 0, column, np.nan) / weight[along]), spread / column
        used = (column >= snr * spread) & np.isfinite(ln) & (ln_err > 0) & np.isfinite(ln_err)
    ortho = np.array([int(name[-2]) % 2 == 1 for name in names])  # S(J): upper level J + 2
    shift = np.where(ortho, np.log(3.0 / ortho_to_para), 0.0)
    fit = fit_temperatures(energy, ln + shift[along], np.where(used, ln_err, np.nan), temperatures)
    if n := int(fit["not_converged"].sum()):
        tell(f"two temperatures: {n} of {fit['not_converged'].size} excitation diagrams did not converge and are NaN")
    found = _of_gas(fit, 0.25 * (1.0 + ortho_to_para))
    ln_err = np.where(np.isfinite(ln), ln_err, np.nan)
    data = {
        "column": column, "column_err": spread, "ln_column": ln, "ln_column_err": ln_err,
        "ln_model": fit["model"] - shift[along], **found, "chi2": fit["chi2"], "dof": fit["dof"],
    }  # fmt: skip
    return _labelled(data, lines, flux, names, energy, weight, solid, temperatures, ortho_to_para)


def _h2_lines(lines: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, list[str]]:
    """Return flux and error of the H2 lines by energy, and their names."""
    if "flux" not in lines or "flux_err" not in lines or "line" not in lines["flux"].dims:
        raise MrsxrError("no 'flux' and 'flux_err' on 'line'; expected the result of fit_lines")
    unit = lines["flux"].attrs.get("units")
    if unit != "W m-2":
        raise SchemaError(f"the fluxes are in {unit}; expected W m-2")
    names = [next((n for n in H2_LEVELS if str(label).startswith(n)), "") for label in lines["line"].values]
    order = sorted((i for i, n in enumerate(names) if n), key=lambda i: H2_LEVELS[names[i]][1])
    if not order:
        raise MrsxrError("none of the lines is a rotational line of H2; expected labels like 'H2 S(1) 17.03'")
    picked = lines[["flux", "flux_err"]].isel(line=order).transpose("line", ...)
    return picked["flux"], picked["flux_err"], [names[i] for i in order]


def _solid_angle(lines: xr.Dataset, flux: xr.DataArray, area: float | None) -> float:
    """Return the solid angle of a flux [sr]."""
    if area is None and "y" in flux.dims and "pixel_scale" in lines.attrs:
        return counted_solid_angle(lines)
    if area is None:
        raise MrsxrError("the solid angle of the fluxes is unknown; give area in arcsec2, that of the aperture")
    return float(area) * ARCSEC2_TO_SR


def _of_gas(fit: dict[str, np.ndarray], share: float) -> dict[str, np.ndarray]:
    """Return temperature, column and mass of (intercept, slope) of each gas and their covariance."""
    intercept, slope = fit["intercept"], fit["slope"]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        temperature = np.where(slope > 0, 1.0 / slope, np.nan)
        cold = np.exp(-6000.0 / temperature)
        column = np.exp(intercept) * partition_function(temperature) * share
        # d ln Q / d ln T, and ln N = intercept + ln Q(1 / slope)
        power = 1.0 + 6000.0 / temperature * cold / (1.0 - cold)
        rate = -power * temperature
        variance = fit["var_intercept"] + 2.0 * rate * fit["covariance"] + rate**2 * fit["var_slope"]
        out = {
            "temperature": temperature, "temperature_err": np.sqrt(fit["var_slope"]) * temperature**2,
            "total_column": column, "total_column_err": column * np.sqrt(np.maximum(variance, 0.0)),
        }  # fmt: skip
    out["mass_per_area"], out["mass_per_area_err"] = (out[k] * _MASS for k in ("total_column", "total_column_err"))
    return out


def _labelled(
    data: dict[str, np.ndarray], lines: xr.Dataset, flux: xr.DataArray, names: list[str], energy: np.ndarray,
    weight: np.ndarray, solid: float, temperatures: int, ortho_to_para: float,
) -> xr.Dataset:  # fmt: skip
    sky = tuple(d for d in flux.dims if d != "line")
    dims = {"temperature": "temperature_component", "total_c": "temperature_component", "mass": "temperature_component"}
    out = {}
    for name, values in data.items():
        first = next((d for key, d in dims.items() if name.startswith(key)), None)
        if name in ("chi2", "dof"):
            shape = sky
        else:
            shape = (first or "line", *sky)
        unit, text = _TEXT[name]
        out[name] = (shape, values, {"units": unit, "long_name": text})
    coords = {
        "energy": ("line", energy, {"units": "K", "long_name": "energy of the upper level"}),
        "weight": ("line", weight, {"units": "1", "long_name": "statistical weight of the upper level"}),
        "temperature_component": np.arange(1, temperatures + 1),
    }
    frame = flux.to_dataset(name="flux").drop_vars("flux")
    result = frame.assign_coords(coords).assign(out)
    kept = {k: v for k, v in lines.attrs.items() if k != "history_json"}
    result = result.assign_attrs(
        kept, level="excitation", solid_angle=solid / ARCSEC2_TO_SR, solid_angle_units="arcsec2",
        ortho_to_para=float(ortho_to_para),
    )  # fmt: skip
    params = {"temperatures": temperatures, "area": solid / ARCSEC2_TO_SR, "lines": names}
    return recorded(lines, result, "lines.h2_excitation", **params)
