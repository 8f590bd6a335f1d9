"""Zero points of wavelength: how much a band or an exposure is off another one, and wavelengths set right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import units
from mrsxr.arguments import reads
from mrsxr.errors import MrsxrError
from mrsxr.limits import Accepts, Range, checked
from mrsxr.notes import tell
from mrsxr.robust import MAD_TO_SIGMA
from mrsxr.step import step
from mrsxr.sums import correlation_length

Table = Annotated[str | Path, Accepts(lambda value: isinstance(value, str | Path), "the path of a CSV file")]
Velocity = Annotated[float, Range(-1000, 1000, unit="km/s")]
_LEAST, _ROUNDS, _CLIP = 20, 30, 5.0
_SMOOTH, _DEGREE = 5, 2  # samples of the slope of a spectrum; of the polynomials that bring one to the other
_MOST = 100.0  # km/s, about a resolution element: more is another line
_LINE = 11  # samples that a line reaches
_ROWS = 8  # of a table, from which on a cubic through them smooths it


@reads()
@checked
def measure_velocity(ds: xr.Dataset, *, reference: xr.Dataset) -> tuple[float, float]:
    """Measure by which velocity the lines of a spectrum are off those of another one that overlaps it.

    Parameters
    ----------
    ds, reference : Dataset, level "spectrum"
        Of neighbouring bands, or of two exposures of one band.

    Returns
    -------
    velocity, error : float
        [km/s], above 0 where ``ds`` is redshifted against ``reference``; NaN where they share fewer than 20 good
        samples, or nothing settles within 100 km/s and 30 rounds.

    Notes
    -----
    reference = p ds(wavelength (1 + v / c)) + q + a second derivative, for the unequal widths of lines, with
    polynomials p and q of second degree over the overlap, by least squares in rounds, without samples 5 sigma off;
    whatever both show counts, lines and molecular forests. The error is that of the residuals, times the root of their
    correlation length. Fringes that both share are a signal that stands still: take them off first.

    Examples
    --------
    >>> from mrsxr.simulate import simulate_spectrum
    >>> spectrum = simulate_spectrum(band="2C", snr=1000)
    >>> moved = correct_wavelengths(simulate_spectrum(band="2C", snr=1000, seed=2), velocity=-5.0)
    >>> velocity, error = measure_velocity(moved, reference=spectrum)
    >>> abs(velocity - 5.0) < 1.0
    True
    """
    from scipy.interpolate import CubicSpline
    from scipy.ndimage import maximum_filter1d

    (wave, flux, var), (other, moving, spread) = (_samples(one) for one in (reference, ds))
    inside = (wave > other[0]) & (wave < other[-1]) if other.size > _SMOOTH else np.zeros(wave.size, bool)
    if inside.sum() < _LEAST:
        return float("nan"), float("nan")
    wave, flux, var = wave[inside], flux[inside], var[inside]
    curve, slope = CubicSpline(other, moving), CubicSpline(other, _slope(other, moving))
    bend = curve.derivative(2)
    total = var + np.interp(wave, other, spread)
    weight = 1.0 / total if (np.isfinite(total) & (total > 0)).all() else np.ones(wave.size)
    t = 2.0 * (wave - wave.mean()) / np.ptp(wave)
    powers = np.stack([t**k for k in range(_DEGREE + 1)])
    velocity, kept, before, step = 0.0, np.ones(wave.size, bool), 0.0, 0.0
    for round_ in range(_ROUNDS):
        at = np.clip(wave * (1 + velocity / units.C_KM_S), other[0], other[-1])
        model = curve(at)
        design = np.concatenate([powers * model, powers, [bend(at) * at**2, slope(at) * at / units.C_KM_S]])
        scale = np.sqrt(np.mean(design**2, axis=1, keepdims=True)) + 1e-300
        root = np.sqrt(weight * kept)
        found, *_ = np.linalg.lstsq((design / scale * root).T, flux * root, rcond=1e-10)
        gain = float(np.polynomial.polynomial.polyval(0.0, found[: _DEGREE + 1] / scale[: _DEGREE + 1, 0]))
        move = float(found[-1] / scale[-1, 0] / gain) if gain else np.nan
        residual = (flux - found @ (design / scale)) * np.sqrt(weight)
        sigma = MAD_TO_SIGMA * np.median(np.abs(residual[kept]))
        contrast = maximum_filter1d(np.abs(flux - np.median(flux)), _LINE) * np.sqrt(weight)  # lines are no outliers
        kept = np.abs(residual) <= _CLIP * sigma + 0.2 * contrast + 1e-300 if round_ < 5 else kept
        answer = (move - before) / step if step else -1.0  # a slope that is too small oversteps, for ever from -2 on
        before, step = move, -move / answer if answer < -0.3 else move
        velocity += step
        if not abs(velocity) < _MOST or kept.sum() < _LEAST:
            return float("nan"), float("nan")
        if round_ >= 5 and abs(move) < 1e-3:
            break
    else:
        return float("nan"), float("nan")
    design[-1] = curve.derivative()(at) * at / units.C_KM_S  # the smooth slope is too small
    scale = np.sqrt(np.mean(design**2, axis=1, keepdims=True)) + 1e-300
    normal = (design / scale * root) @ (design / scale * root).T
    scatter = np.sum(residual[kept] ** 2) / (kept.sum() - len(found)) * correlation_length(ds)
    error = np.sqrt(np.linalg.pinv(normal, rcond=1e-12)[-1, -1] * scatter) / scale[-1, 0] / abs(gain)
    return velocity, float(error)


def _samples(ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return wavelength, flux and variance of the good samples, rising."""
    good = flags.good(ds["flux"].values, ds["dq"].values)
    order = np.argsort(ds["wavelength"].values[good])
    return tuple(ds[name].values[good][order].astype(float) for name in ("wavelength", "flux", "var"))  # type: ignore


def _slope(wave: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Return the slope of a spectrum by parabolas through five samples, which noise bends less than a spline."""
    from scipy.signal import savgol_filter

    return savgol_filter(flux, _SMOOTH, 2, deriv=1) / np.gradient(wave)


@step(needs=("spectrum", "cube"), keyword="S_WAVCOR")
def correct_wavelengths(ds: xr.Dataset, *, velocity: Velocity = 0.0, table: Table | None = None) -> xr.Dataset:
    """Set the wavelengths of a spectrum or cube right.

    Parameters
    ----------
    ds : Dataset, level "spectrum" or "cube"
    velocity : float
        By which it is redshifted [km/s], as of :func:`measure_velocity`: wavelengths are divided by 1 + velocity / c.
    table : path, optional
        CSV file with the columns WL and SHIFT [um], a row a wavelength: SHIFT is added, by a cubic through the rows
        within a band as ``mirideep`` does, from which such a table of water lines comes; linear where a band has fewer
        than 8 rows; beyond the rows the shift of the last one, with a note.

    Returns
    -------
    Dataset of the same level
        With other ``wavelength`` and ``wavelength_step``; values are those of before. A cube whose planes are not
        equally spaced any more is saved with a table of wavelengths.

    Raises
    ------
    MrsxrError
        Where the table cannot be read, shifts by 100 km/s or more, or bends the wavelengths back.

    Examples
    --------
    >>> from mrsxr.simulate import simulate_spectrum
    >>> spectrum = simulate_spectrum(band="2C")
    >>> out = correct_wavelengths(spectrum, velocity=30.0)
    >>> round(float(2.99792458e5 * (spectrum.wavelength.values / out.wavelength.values - 1).mean()), 6)
    30.0
    """
    wave = np.asarray(ds["wavelength"].values, float)
    new = wave / (1.0 + velocity / units.C_KM_S)
    if table is not None:
        rows = _read(table)
        labels = np.broadcast_to(ds["band"].values if "band" in ds.variables else "", wave.shape)
        first, last = rows[0][0], rows[0][-1]
        if beyond := np.mean((wave < first) | (wave > last)):
            tell(
                f"{Path(table).name} has rows from {first:g} to {last:g} um: beyond, at {100 * beyond:.0f} % of the "
                "wavelengths, the shift is that of the last row",
                aloud=False,
            )
        new = new + sum(np.where(labels == one, _shift(new[labels == one], new, *rows), 0.0) for one in set(labels))
    if np.array_equal(new, wave):
        return ds
    if wave.size > 1 and not (np.diff(new) / np.diff(wave) > 0.2).all():
        raise MrsxrError(f"{table}: its shifts bend the wavelengths back; expected a table smoother than a sample")
    out = ds.assign_coords(wavelength=("wavelength", new, ds["wavelength"].attrs))
    if "wavelength_width" in ds:
        width = ds["wavelength_width"].values * (np.gradient(new) / np.gradient(wave) if wave.size > 1 else 1.0)
        out = out.assign_coords(wavelength_width=("wavelength", width, ds["wavelength_width"].attrs))
    if ds.attrs.get("wavelength_step") and wave.size > 1:
        even = table is None
        out = out.assign_attrs(wavelength_step=float(ds.attrs["wavelength_step"]) * np.ptp(new) / np.ptp(wave)
                               if even else float("nan"))  # fmt: skip
    return out


def _shift(own: np.ndarray, at: np.ndarray, wave: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the shift [um] of a table at wavelengths, for a band of the wavelengths ``own``."""
    inside = (wave >= own.min()) & (wave <= own.max())
    if inside.sum() < _ROWS:
        return np.interp(at, wave, shift)
    rows = wave[inside]
    cubic = np.polynomial.Polynomial.fit(rows, shift[inside], 3)
    out = cubic(np.clip(at, rows[0], rows[-1]))
    return out


def _read(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return wavelengths and shifts [um] of a table, rising; the mean of rows of one wavelength."""
    try:
        rows = np.genfromtxt(Path(path), delimiter=",", names=True, dtype=float)
        wave, shift = np.atleast_1d(rows["WL"]), np.atleast_1d(rows["SHIFT"])
    except (OSError, ValueError, IndexError) as error:
        raise MrsxrError(f"{path}: no table of wavelengths ({error}); expected CSV with WL, SHIFT") from error
    known = np.isfinite(wave) & np.isfinite(shift)
    if not known.any():
        raise MrsxrError(f"{path}: the table of wavelength corrections holds no row; expected WL, SHIFT in um")
    places, number = np.unique(wave[known], return_inverse=True)
    mean = np.bincount(number, shift[known]) / np.bincount(number)
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = np.where(places > 0.0, units.C_KM_S * np.abs(mean / places), np.inf)
    if not speed.max() < _MOST:
        raise MrsxrError(
            f"{path}: SHIFT {mean[speed.argmax()]:g} at WL {places[speed.argmax()]:g} is {speed.max():.0f} km/s; "
            f"expected less than {_MOST:.0f} km/s, both in um"
        )
    return places, mean
