"""Errors of a spectrum with the covariance of the voxels: the weights of the extraction, and the variances put in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.blocks import as_delayed, is_lazy
from mrsxr.errors import MrsxrError
from mrsxr.schema import units_of
from mrsxr.spaxels import solid_angle, spaxel_size
from mrsxr.step import step
from mrsxr.sums import wavelength_correlation

from .aperture import circle_shares, sky_to_pixel
from .lost_light import good_weight
from .optimal import plane_weights
from .profile import Profile, with_variance
from .region import region_weights

_ALIKE = 1e-3  # part by which zero points of wavelengths may have been set right since
_MODES = {"none": 0, "annulus": 1, "annulus_jwst": 2}


@reads()
def extraction_weights(cube: xr.Dataset, spectrum: xr.Dataset) -> xr.DataArray:
    """Return the weights by which a spectrum was summed from a cube.

    Parameters
    ----------
    cube : Dataset, level "cube"
        Which spaxels of the annulus were clipped depends on its values: of a lazy cube the weights are lazy, in one
        task.
    spectrum : Dataset, level "spectrum"
        Of :func:`mrsxr.spectrum.extract_spectrum` from this cube.

    Returns
    -------
    DataArray (wavelength, y, x), float64 [Jy per MJy/sr]
        ``(weights * cube.flux).sum(("y", "x"))`` is the flux of the spectrum: aperture, background, solid angle of a
        spaxel and aperture correction.

    Raises
    ------
    MrsxrError
        Where spectrum and cube are of other bands or wavelengths.

    Examples
    --------
    >>> weights = mx.spectrum.extraction_weights(cube, spectrum)
    >>> weights.dims
    ('wavelength', 'y', 'x')
    """
    same = cube.sizes["wavelength"] == spectrum.sizes["wavelength"]
    same = same and np.allclose(cube["wavelength"], spectrum["wavelength"], rtol=_ALIKE)
    if not same or str(cube.attrs.get("band")) != str(spectrum.attrs.get("band", cube.attrs.get("band"))):
        raise MrsxrError(
            f"the spectrum ({spectrum.attrs.get('band')}, {_samples(spectrum)}) was not extracted from the cube "
            f"({cube.attrs.get('band')}, {_samples(cube)}); take the very cube of the spectrum, or cut both alike"
        )
    dims, coords = ("wavelength", "y", "x"), {"wavelength": cube["wavelength"]}
    if not is_lazy(cube) and not is_lazy(spectrum):
        return xr.DataArray(_weights(cube, spectrum), dims=dims, coords=coords)
    shape = tuple(cube.sizes[dim] for dim in dims)
    weights = dask.delayed(_weights)(as_delayed(cube), as_delayed(spectrum))
    return xr.DataArray(da.from_delayed(weights, shape, np.float64), dims=dims, coords=coords)


def _samples(ds: xr.Dataset) -> str:
    """Return how many samples there are and from where to where, for messages."""
    wave = np.asarray(ds["wavelength"].values, float)
    return f"{wave.size} samples, {wave[0]:.4f} to {wave[-1]:.4f} um" if wave.size else "no samples"


def _weights(cube: xr.Dataset, spectrum: xr.Dataset) -> np.ndarray:
    """Return the weights of :func:`extraction_weights` of computed data."""
    scale = spaxel_size(cube)
    flux, weight = np.ascontiguousarray(cube["flux"].values), good_weight(cube["weight"].values, cube["dq"].values)
    if spectrum.attrs.get("aperture") == "region":
        good = (weight > 0) & np.isfinite(flux)
        shares = region_weights(cube, spectrum.attrs["region"]) * good
    else:
        shares = _circles(cube, flux, weight, spectrum, scale)
    factor = 1e6 * solid_angle(cube) * spectrum["aperture_correction"].values
    return shares * factor[:, None, None]


def _circles(cube: xr.Dataset, flux: np.ndarray, weight: np.ndarray, spectrum: xr.Dataset, scale: float) -> np.ndarray:
    from ._aperture_kernels import net_weights

    mode = _MODES[str(spectrum.attrs.get("background_method", "none"))]
    names = ("aperture_radius", "annulus_inner", "annulus_outer")
    radii = np.stack([spectrum[n if n in spectrum else names[0]].values for n in names], axis=1) / scale
    shift = _shift(cube, spectrum)
    if (profile := Profile.of(spectrum)) is not None:
        profile = replace(profile, x=profile.x + shift[0], y=profile.y + shift[1])
        found, _ = plane_weights(with_variance(cube), profile, spectrum["psf_fwhm"].values, radii * scale, mode > 0)
        return found * spectrum["psf_factor"].values[:, None, None]
    x, y = (float(spectrum.attrs[f"aperture_{axis}"]) + shift[k] for k, axis in enumerate("xy"))
    clip, parts = float(spectrum.attrs.get("clip_sigma", 3.0)), int(spectrum.attrs.get("subpixels", 0))
    return net_weights(flux, weight, *circle_shares(flux.shape[1:], (x, y), radii, parts), mode, clip)


def _shift(cube: xr.Dataset, spectrum: xr.Dataset) -> tuple[float, float]:
    """Return by how many spaxels (x, y) a cube was cut otherwise than the one that a spectrum was extracted from."""
    kept = spectrum.attrs
    if not {"aperture_ra", "aperture_dec", "aperture_x", "aperture_y"} <= set(kept) or "wcs" not in cube.attrs:
        return 0.0, 0.0
    if abs(float(kept.get("pixel_area_sr", solid_angle(cube))) / solid_angle(cube) - 1.0) > 1e-6:
        raise MrsxrError("the spectrum was not extracted from the cube: their spaxels are of other sizes")
    there = sky_to_pixel(cube, float(kept["aperture_ra"]), float(kept["aperture_dec"]))
    x, y = (there[k] - float(kept[f"aperture_{axis}"]) for k, axis in enumerate("xy"))
    return (x, y) if np.isfinite([x, y]).all() and max(abs(x), abs(y)) > 1e-6 else (0.0, 0.0)


@step(needs="spectrum", jwst="exact_errors")
def set_exact_errors(ds: xr.Dataset, *, variance: xr.Dataset) -> xr.Dataset:
    """Put the variance with covariance in the place of the simple one, which is kept beside it.

    Parameters
    ----------
    ds : Dataset, level "spectrum"
    variance : Dataset
        ``var`` [Jy2] on (wavelength), and ``var_systematic`` where there is one, of
        :func:`mrsxr.cube.sum_variance` with :func:`extraction_weights`.

    Returns
    -------
    Dataset, level "spectrum"
        ``var`` and ``surface_brightness_var`` with covariance, of EXTENDED data also ``background_var``; beside them
        ``var_simple``, ``surface_brightness_var_simple`` ...;
        ``var_systematic`` [Jy2] where given; ``error_correlation``, that of the error of a sample with the next one's
        (:func:`mrsxr.sums.wavelength_correlation`; :func:`mrsxr.sums.variance_of_sum` takes it into account).

    Raises
    ------
    MrsxrError
        Where the variance is of other wavelengths.

    Notes
    -----
    Neighbouring voxels share detector pixels, so that the simple variance, which takes them for independent, is too
    small by a factor of 2 to 9 (Law et al. 2023, AJ 166, 45).

    Examples
    --------
    >>> weights = mx.spectrum.extraction_weights(cube, spectrum)
    >>> variance = mx.cube.sum_variance(cal, cube=cube, weights=weights)
    >>> out = mx.spectrum.set_exact_errors(spectrum, variance=variance)
    >>> "var_simple" in out
    True
    """
    given = variance.sizes.get("wavelength"), variance.get("wavelength", ds["wavelength"])
    if given[0] != ds.sizes["wavelength"] or not np.allclose(given[1], ds["wavelength"], rtol=_ALIKE):
        raise MrsxrError(
            f"the variance ({_samples(variance)}) is not that of the spectrum ({_samples(ds)}); expected that of "
            "sum_variance with the weights of this spectrum"
        )
    known = ds["var"].variable
    ratio = (variance["var"].variable / known.where(known > 0, np.nan)).fillna(1.0)
    out: dict[str, Any] = {}
    names = ["var", "surface_brightness_var"]
    if ds.attrs.get("source_type") == "EXTENDED":
        names.append("background_var")  # of the same spaxels, where that of a point source is of an annulus
    for name in names:
        out[f"{name}_simple"] = ds[name].assign_attrs(long_name="variance without covariance", units=ds[name].units)
        out[name] = (ds[name] * ratio).assign_attrs(ds[name].attrs)
    if "var_systematic" in variance:
        attrs = {"units": units_of("spectrum", "var"), "long_name": "systematic variance of flux"}
        out["var_systematic"] = ("wavelength", variance["var_systematic"].data, attrs)
    rows = wavelength_correlation(ds)
    attrs = {"units": "1", "long_name": "correlation of the error with that of the next sample"}
    out["error_correlation"] = ("wavelength", rows[1] if len(rows) > 1 else 0.0 * rows[0], attrs)
    return ds.assign(out)
