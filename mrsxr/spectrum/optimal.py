"""Optimal extraction: the profile of a point source, fitted to its cube, measures its light plane by plane."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr.notes import tell
from mrsxr.robust import middle_and_scatter
from mrsxr.spaxels import spaxel_size

from .aperture import circle_shares
from .lost_light import good_weight
from .profile import CORE, Profile, Psf, expected, fit_profile, with_variance

_HALF = 5  # planes to each side over which variances are averaged
_TRUST = 0.02  # part of the light that a fitted profile is expected to miss or to add, over the band
_RIPPLE, _RIPPLE_HALF = 0.005, 80  # and on top of it plane by plane as the sampling changes; planes to each side
_BLOCK, _PART = 25, 0.02  # planes, and part of the light, by which circle and profile are compared
_CLIP, _SLACK = 5.0, 0.15  # outliers: sigma, and share of the profile by which it may be wrong


def fit_sums(
    cube: xr.Dataset,
    place: tuple[float, float],
    radii: np.ndarray,
    subtract: bool,
    *,
    fixed: bool = False,
    psf: Psf | None = None,
) -> tuple[np.ndarray, Profile, dict[str, np.ndarray]]:
    """Measure a point source by its profile.

    Parameters
    ----------
    cube : Dataset, level "cube"
        Values are computed.
    place : (float, float)
        Source (x, y) [pixel], counted from 0.
    radii : float array (wavelength, 3)
        Aperture radius, inner and outer radius of the annulus [arcsec].
    subtract : bool
        Fit a constant besides.
    fixed : bool
        Keep the place.
    psf : callable, optional
        FWHM [arcsec] expected at a wavelength [um].

    Returns
    -------
    float64 (wavelength, 8), Profile, dict of float64 (wavelength)
        Sums as of ``_aperture_kernels.extract_planes`` but net of the constant; the profile; its FWHM [arcsec] and the
        factor on its light, ``psf_fwhm`` and ``psf_factor``.
    """
    known, cube = cube, with_variance(cube)
    profile = fit_profile(cube, place, fixed=fixed, psf=psf)
    wavelength = np.asarray(cube["wavelength"].values, dtype=float)
    fwhm = expected(wavelength, psf) * profile.width_at(wavelength)
    weights, facts = plane_weights(cube, profile, fwhm, radii, subtract)
    factor = _calibrate(cube, profile, weights, facts, radii, subtract)
    weights *= factor[:, None, None]
    sums = np.zeros((wavelength.size, 8))
    with np.errstate(invalid="ignore"):
        used = weights != 0.0
        for column, name, power in ((0, "flux", 1), (1, "var", 2)):
            values = np.where(used, known[name].values, 0.0)
            sums[:, column] = np.sum(weights**power * values, axis=(1, 2), dtype=float)
        if "var_systematic" in cube:
            values = np.where(used, np.sqrt(cube["var_systematic"].values), 0.0)
            sums[:, 6] = np.sum(weights * values, axis=(1, 2), dtype=float)
    sums[:, 2] = np.where(facts[:, 3] > 0, facts[:, 2], 0.0)
    sums[:, 3:5] = facts[:, :2]
    if known is not cube:
        sums[:, 4] = np.nan
    return sums, profile, {"psf_fwhm": fwhm, "psf_factor": factor}


def plane_weights(
    cube: xr.Dataset, profile: Profile, fwhm: np.ndarray, radii: np.ndarray, subtract: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights (wavelength, y, x) of a profile and the facts of every plane; see ``_optimal_kernels``.

    Parameters
    ----------
    cube : Dataset, level "cube"
    profile : Profile
    fwhm : float array (wavelength)
        Of the profile [arcsec].
    radii : float array (wavelength, 3)
        [arcsec]
    subtract : bool
        Whether a constant is fitted.
    """
    from ._optimal_kernels import optimal_weights

    flux, var, weight, table, circle, ring = _planes(cube, profile, radii)
    sigmas = (fwhm / spaxel_size(cube))[:, None] * np.array([CORE, profile.wing]) / np.sqrt(8.0 * np.log(2.0))
    return optimal_weights(
        flux, var, weight, profile.x, profile.y, sigmas, profile.share, table, circle, ring, subtract,
        _HALF, _CLIP, _SLACK,
    )  # fmt: skip


def _planes(cube: xr.Dataset, profile: Profile, radii: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return flux, variance, weight, the radii [pixel], what lies within the first and between the others."""
    flux, var = (np.ascontiguousarray(cube[name].values) for name in ("flux", "var"))
    table = np.ascontiguousarray(radii / spaxel_size(cube), dtype=float)
    circle, ring = circle_shares(flux.shape[1:], (profile.x, profile.y), table, 0)
    return flux, var, good_weight(cube["weight"].values, cube["dq"].values), table, circle, ring


def _calibrate(
    cube: xr.Dataset, profile: Profile, weights: np.ndarray, facts: np.ndarray, radii: np.ndarray, subtract: bool,
) -> np.ndarray:  # fmt: skip
    """Return the factor (wavelength) by which the light in the circle exceeds that of the profile.

    Of the whole band, and of a running window on top of it. Near 1 where the source is too faint to tell: a measured
    factor counts by its error against the spread that is expected, 2 % and 0.5 %.
    """
    from ._aperture_kernels import net_weights

    flux, var, weight, table, circle, ring = _planes(cube, profile, radii)
    circle = net_weights(flux, weight, circle, ring, int(subtract), 3.0)
    values, variance = (np.where(np.isfinite(a), a, 0.0) for a in (flux, var))
    of_circle, of_profile = (np.sum(w * values, axis=(1, 2), dtype=float) for w in (circle, weights))
    noise = np.sum(circle**2 * variance, axis=(1, 2), dtype=float)
    whole = facts[:, 2] > 0.999 * np.pi * table[:, 0] ** 2  # a hole darkens the circle, not the profile
    good = (noise > 0) & (facts[:, 3] > 0) & whole
    off = of_circle - of_profile
    if good.any():
        middle, sigma = middle_and_scatter(off[good])
        good &= np.abs(off - middle) <= 5.0 * sigma + 1e-30
    light = float(np.sum(of_profile[good] / noise[good]))
    if not light > 0:
        return np.ones(len(flux))
    measured = float(np.sum(of_circle[good] / noise[good])) / light - 1.0
    error = float(np.sqrt(np.sum(1.0 / noise[good]))) / light
    _check_shape(of_circle[good], of_profile[good] * (1.0 + measured), noise[good], str(cube.attrs.get("band")))
    factor = 1.0 + measured * _TRUST**2 / (_TRUST**2 + error**2)
    scaled = np.where(good, 1.0 / np.where(noise > 0, noise, 1.0), 0.0)
    sums = [_running(a) for a in (scaled * of_circle, scaled * of_profile * factor, scaled)]
    lit = sums[1] > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        ripple, spread = sums[0] / sums[1] - 1.0, np.sqrt(sums[2]) / sums[1]
    return factor * (1.0 + np.where(lit, ripple * _RIPPLE**2 / (_RIPPLE**2 + spread**2), 0.0))


def _running(values: np.ndarray) -> np.ndarray:
    """Return the sums over a window of planes."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    k = np.arange(len(values))
    return total[np.minimum(k + _RIPPLE_HALF + 1, len(values))] - total[np.maximum(k - _RIPPLE_HALF, 0)]


def _check_shape(of_circle: np.ndarray, of_profile: np.ndarray, noise: np.ndarray, band: str) -> None:
    """Warn where the light of circle and profile part along the band: the source is not the point it is taken for."""
    n = len(of_circle) // _BLOCK
    if n < 3:
        return
    sums = [a[: n * _BLOCK].reshape(n, _BLOCK).sum(axis=1) for a in (of_circle, of_profile, noise)]
    with np.errstate(invalid="ignore", divide="ignore"):
        off, error = sums[0] / sums[1] - 1.0, np.sqrt(sums[2]) / np.abs(sums[1])
    spread, expected_spread = float(np.sqrt(np.mean(off**2))), float(np.sqrt(np.mean(error**2)))
    if spread > max(_PART, 3.0 * expected_spread):
        tell(
            f"band {band}: the light of the fitted profile parts from that of the aperture by {100 * spread:.1f} % rms "
            "along the band; the source is no point source; take method 'exact'",
            stacklevel=6,
        )
