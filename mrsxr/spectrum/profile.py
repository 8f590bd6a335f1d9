"""The image of a point source in a cube: a round core on a wide wing, fitted to the cube itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import mrs
from mrsxr.errors import MrsxrError
from mrsxr.notes import tell
from mrsxr.robust import MAD_TO_SIGMA, median_image
from mrsxr.spaxels import spaxel_size

Psf = Callable[[float], float]
#: Core and wing of the cube PSF: widths in units of the FWHM, share of the light in the wing; between a real star in 4A
#: and a diffraction pattern that is sampled by slices and spaxels.
CORE, WING, WING_SHARE = 0.96, 2.4, 0.25
_LEAST_SIGNAL = 20.0
_WINDOWS = 5
_REACH = 3.0  # radius [FWHM] of the fitted image
_SOFT = 0.02  # share of the peak by which the fit may miss an image: sampling ripples
#: What the fit holds to where the image does not tell: width, slope, share and width of the wing, and their spread.
_PRIOR = np.array([1.0, 0.0, WING_SHARE, WING])
_SPREAD = np.array([0.2, 0.05, 0.08, 0.5])
_LN2 = np.log(2.0)


@dataclass(frozen=True)
class Profile:
    """The profile of a point source in a cube.

    Parameters
    ----------
    x, y : float
        Centre [pixel], counted from 0.
    width, slope : float
        Width in units of the expected PSF, ``width + slope * t`` with t from -1 to 1 over the band.
    share : float
        Part of the light in the wing.
    wing : float
        FWHM of the wing in units of ``width`` times the expected PSF.
    fitted : bool
        Whether the cube had enough signal; else centre and shape are those expected.
    """

    x: float
    y: float
    width: float = 1.0
    slope: float = 0.0
    share: float = WING_SHARE
    wing: float = WING
    fitted: bool = False

    def sigmas(self, wavelength: np.ndarray, pixel_scale: float, psf: Psf | None = None) -> np.ndarray:
        """Return sigma [pixel] of core and wing (wavelength, 2) at wavelengths [um]."""
        fwhm = expected(wavelength, psf) / pixel_scale * self.width_at(wavelength)
        return fwhm[:, None] * np.array([CORE, self.wing]) / np.sqrt(8.0 * _LN2)

    def width_at(self, wavelength: np.ndarray) -> np.ndarray:
        """Return the width in units of the expected PSF at the wavelengths [um] of the band."""
        low, high = float(np.min(wavelength)), float(np.max(wavelength))
        t = 2.0 * (np.asarray(wavelength) - low) / (high - low) - 1.0 if high > low else np.zeros(len(wavelength))
        return np.maximum(self.width + self.slope * t, 0.3)

    def attrs(self) -> dict[str, float]:
        """Return the parameters as attributes, ``psf_x``, ``psf_y`` ..."""
        return {f"psf_{name}": int(value) if name == "fitted" else float(value) for name, value in asdict(self).items()}

    @classmethod
    def of(cls, ds: xr.Dataset) -> Profile | None:
        """Return the profile by which a spectrum was extracted, None where its attributes tell of none."""
        if "psf_x" not in ds.attrs:
            return None
        found = {one.name: ds.attrs[f"psf_{one.name}"] for one in fields(cls)}
        return cls(**found | {"fitted": bool(found["fitted"])})


def expected(wavelength: Any, psf: Psf | None = None) -> Any:
    """Return the FWHM [arcsec] expected at wavelengths [um]; by default that of Law et al. (2023)."""
    wavelength = np.asarray(wavelength, dtype=float)
    if psf is None:
        return mrs.psf_fwhm(wavelength)
    found = np.broadcast_to(np.asarray(psf(wavelength), dtype=float), wavelength.shape)
    if not (found > 0).all():
        raise MrsxrError(f"psf gives {float(np.min(found)):.3g} arcsec; expected a positive FWHM at every wavelength")
    return found


def shape_of(square: np.ndarray, fwhm: float, share: float = WING_SHARE, wing: float = WING) -> np.ndarray:
    """Return the profile with peak 1 at squared distances [pixel2] from the centre."""
    level = share / (1.0 - share) * (CORE / wing) ** 2
    square = square * (4.0 * _LN2 / fwhm**2)
    return (np.exp(-square / CORE**2) + level * np.exp(-square / wing**2)) / (1.0 + level)


def amplitude_and_level(shape: np.ndarray, values: np.ndarray, noise: np.ndarray | float = 1.0) -> tuple[float, float]:
    """Return amplitude and constant of the least-squares fit of a shape to values."""
    matrix = np.stack([shape, np.ones_like(shape)], axis=-1) / np.reshape(noise, (-1, 1))
    amplitude, level = np.linalg.lstsq(matrix, values / noise, rcond=None)[0]
    return float(amplitude), float(level)


def window_image(part: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the median image of some planes and its error [MJy/sr]; NaN where half of the planes are bad."""
    values = np.where(flags.any_of(part.dq.values, "DO_NOT_USE"), np.nan, part.flux.values.astype(float))
    count = np.isfinite(values).sum(axis=0)
    good = count > 0.5 * len(values)
    image, noise = median_image(values, good), np.full(good.shape, np.nan)
    if good.any():
        variance = np.where(np.isfinite(values), with_variance(part)["var"].values, np.nan)[:, good]
        total = np.where(np.isfinite(variance), variance, 0.0).sum(axis=0)
        known = np.isfinite(variance).sum(axis=0)
        mean = np.divide(total, known, out=np.full(known.shape, np.nan), where=known > 0)
        noise[good] = np.sqrt(1.57 * mean / count[good])  # of a median
    return image, noise


def scatter_variance(values: np.ndarray) -> np.ndarray:
    """Return the variance of each spaxel (y, x) by the differences of neighbouring planes (plane, y, x), by medians."""
    differences = np.abs(np.diff(values, axis=0))
    known = np.isfinite(differences).sum(axis=0) >= 3
    return (MAD_TO_SIGMA * median_image(differences, known)) ** 2 / 2.0


def with_variance(cube: xr.Dataset) -> xr.Dataset:
    """Return a computed cube that has variances: its own, or those of the scatter where it has none at all."""
    if np.isfinite(cube["var"].values).any():
        return cube
    scatter = scatter_variance(np.where(flags.any_of(cube.dq.values, "DO_NOT_USE"), np.nan, cube.flux.values))
    return cube.assign(var=cube["var"].copy(data=np.broadcast_to(scatter.astype(np.float32), cube["var"].shape).copy()))


def window_edges(n_planes: int, windows: int) -> list[tuple[int, int]]:
    """Return first and last plane of each window."""
    return list(itertools.pairwise(np.linspace(0, n_planes, min(windows, n_planes) + 1).astype(int)))


def fit_profile(
    cube: xr.Dataset, place: tuple[float, float], *, fixed: bool = False, psf: Psf | None = None
) -> Profile:
    """Fit the profile of a point source to the cube that it is in.

    Parameters
    ----------
    cube : Dataset, level "cube"
        Of one band; values are computed.
    place : (float, float)
        Where the source is (x, y) [pixel], counted from 0.
    fixed : bool
        Keep that place.
    psf : callable, optional
        FWHM [arcsec] expected at a wavelength [um].

    Returns
    -------
    Profile
        That expected where no window has a signal-to-noise ratio of 20.

    Notes
    -----
    The medians of five windows of wavelength are fitted together within 3 FWHM: amplitude and constant of each, one
    centre, a width that is linear in wavelength, the share and the width of the wing, the last four with a prior.
    """
    scale = spaxel_size(cube)
    windows = [w for w in _windows(cube, place, scale, psf) if w["signal"] >= _LEAST_SIGNAL]
    if not windows:
        return Profile(float(place[0]), float(place[1]))
    from scipy import optimize

    start = np.array([place[0], place[1], 1.0, 0.0, WING_SHARE, WING])
    move = 1e-6 if fixed else 0.7 * windows[0]["fwhm"]
    bend = 0.3 if len(windows) > 1 else 1e-6
    low = [place[0] - move, place[1] - move, 0.6, -bend, 0.02, 1.7]
    high = [place[0] + move, place[1] + move, 2.0, bend, 0.45, 4.5]

    def residuals(p: np.ndarray) -> np.ndarray:
        return np.concatenate([*(_residual(p, one) for one in windows), (p[2:] - _PRIOR) / _SPREAD])

    found = optimize.least_squares(residuals, start, bounds=(low, high), x_scale=[1, 1, 0.2, 0.1, 0.1, 1], max_nfev=80)
    if not found.success:
        at = f"({place[0]:.0f}, {place[1]:.0f})"
        tell(f"the profile of the source at spaxel {at} did not converge; that of the PSF is taken")
        return Profile(float(place[0]), float(place[1]))
    x, y, width, slope, share, wing = map(float, found.x)
    return Profile(x, y, width, slope, share, wing, fitted=True)


def _windows(cube: xr.Dataset, place: tuple[float, float], scale: float, psf: Psf | None) -> list[dict[str, Any]]:
    """Return the image of each window near the source, its noise and what a point source has for signal there."""
    y, x = np.indices((cube.sizes["y"], cube.sizes["x"]), dtype=float)
    waves = cube["wavelength"].values
    out = []
    for first, last in window_edges(cube.sizes["wavelength"], _WINDOWS):
        image, noise = window_image(cube.isel(wavelength=slice(first, last)))
        wavelength = float(waves[first:last].mean())
        fwhm = float(expected(wavelength, psf)) / scale
        square = (x - place[0]) ** 2 + (y - place[1]) ** 2
        near = np.isfinite(image) & np.isfinite(noise) & (square <= (_REACH * fwhm) ** 2)
        if near.sum() < 20:
            continue
        shape = shape_of(square[near], fwhm)
        amplitude, _ = amplitude_and_level(shape, image[near])
        spread = np.sqrt(np.mean(noise[near] ** 2) / np.sum((shape - shape.mean()) ** 2))
        t = 2.0 * (wavelength - waves.min()) / (waves.max() - waves.min()) - 1.0 if waves.size > 1 else 0.0
        soft = np.sqrt(noise[near] ** 2 + (_SOFT * max(amplitude, 0.0)) ** 2)
        signal = max(amplitude, 0.0) / spread if spread > 0 else np.inf * max(amplitude, 0.0)
        out.append({"x": x[near], "y": y[near], "image": image[near], "noise": np.maximum(soft, 1e-30), "fwhm": fwhm,
                    "t": t, "signal": np.nan_to_num(signal, nan=0.0)})  # fmt: skip
    return out


def _residual(p: np.ndarray, one: dict[str, Any]) -> np.ndarray:
    square = (one["x"] - p[0]) ** 2 + (one["y"] - p[1]) ** 2
    shape = shape_of(square, max(p[2] + p[3] * one["t"], 0.3) * one["fwhm"], p[4], p[5])
    amplitude, level = amplitude_and_level(shape, one["image"], one["noise"])
    return (one["image"] - amplitude * shape - level) / one["noise"]
