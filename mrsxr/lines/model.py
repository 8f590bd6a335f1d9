"""The model of a fit on the wavelengths of the data: continuum, lines and their components."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.errors import LevelError
from mrsxr.inputs import with_axes

from ._window import C, observed_edges, to_flux_density


@reads()
def line_model(ds: xr.Dataset, fit: xr.Dataset) -> xr.Dataset:
    """Return the model of a fit on the wavelengths of the data.

    Parameters
    ----------
    ds : Dataset, level "spectrum" or "cube"
        What was fitted.
    fit : Dataset, level "lines"
        From :func:`mrsxr.lines.fit_line` or :func:`mrsxr.lines.fit_lines`, or lines or spaxels of it.

    Returns
    -------
    Dataset
        In the units of ``ds.flux``, NaN outside the windows: ``continuum``, ``model`` (continuum and lines), both on
        (wavelength, [y, x]), and ``components`` (line, component, wavelength, [y, x]), the components of each line
        without continuum. Samples in the windows of several fits have the model of the nearest one.

    Raises
    ------
    LevelError
        Where ``fit`` is no result of a fit.

    Examples
    --------
    >>> spectrum = mx.simulate.simulate_spectrum(band="3A")
    >>> fit = mx.lines.fit_line(spectrum, "[Ne II] 12.81")
    >>> residual = spectrum.flux - mx.lines.line_model(spectrum, fit).model
    """
    if fit.attrs.get("level") != "lines" or "continuum_poly" not in fit:
        raise LevelError(f"line_model needs a result of fit_line (level lines), got {fit.attrs.get('level')}")
    fit = fit.compute()
    ds = with_axes(ds)
    wave, lo, hi = observed_edges(ds)
    middle, half, blend = (fit[n].values for n in ("window_middle", "window_half", "blend"))
    sky = fit["flux"].dims[1:]
    shape = tuple(fit.sizes[d] for d in sky)
    back = (wave**2 / to_flux_density(ds)).reshape(-1, *[1] * len(shape))
    components = np.full((fit.sizes["line"], fit.sizes["component"], wave.size, *shape), np.nan)
    continuum, lines = np.full((2, wave.size, *shape), np.nan)
    distance = np.full(wave.size, np.inf)
    for number in np.unique(blend):
        members = np.flatnonzero(blend == number)
        t = (wave - middle[members[0]]) / half[members[0]]
        near = np.flatnonzero(np.abs(t) <= 1.0)
        for i in members:
            components[i, :, near] = _profiles(fit.isel(line=i), lo[near], hi[near]) * back[near][:, None]
        own = near[np.abs(t[near]) < distance[near]]
        distance[own] = np.abs(t[own])
        powers = t[own, None] ** fit["power"].values
        level = np.tensordot(powers, fit["continuum_poly"].values[members[0]], axes=(1, 0))
        continuum[own] = level
        sums = np.nansum(components[np.ix_(members, np.arange(fit.sizes["component"]), own)], axis=(0, 1))
        lines[own] = sums
    known = {"units": ds["flux"].attrs.get("units", "")}
    dims = ("wavelength", *sky)
    coords = {n: c for n, c in ds.coords.items() if set(c.dims) <= {"wavelength"}}
    out = fit.coords.to_dataset().drop_vars(["n_model", "power"]).assign_coords(coords)
    return out.assign(
        continuum=(dims, continuum, {**known, "long_name": "continuum of the fit"}),
        model=(dims, continuum + lines, {**known, "long_name": "continuum and lines"}),
        components=(("line", "component", *dims), components, {**known, "long_name": "components of the lines"}),
    )


def _profiles(fit: xr.Dataset, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """Return the mean over each voxel (voxel, component, ...) of the components of a line [W m-2 um-1]."""
    from scipy.special import ndtr

    place = float(fit["wavelength_rest"]) * (1.0 + float(fit.attrs["redshift"]))
    flux, v, w = (fit[f"component_{n}"].values for n in ("flux", "velocity", "width"))
    mu, s = place * (1.0 + v / C), w * place / C
    shape = (-1, *[1] * flux.ndim)
    low, high = lo.reshape(shape), hi.reshape(shape)
    return flux * (ndtr((high - mu) / s) - ndtr((low - mu) / s)) / (high - low)
