"""Which lines are fitted together, on which voxels, with which instrument width: the set-up of a fit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import mrs, units
from mrsxr.arguments import as_redshift, as_um
from mrsxr.errors import MrsxrError, ParameterError
from mrsxr.limits import LineName
from mrsxr.spaxels import solid_angle
from mrsxr.sums import wavelength_correlation

from .linelist import find_line, is_wavelength

C = units.C_KM_S
JY_TO_FLAMBDA = 2.99792458e-12  # W m-2 um-1 of 1 Jy at 1 um: c / lambda^2
REACH = 1000.0  # largest velocity of a line [km/s]
TIED = 1000.0  # lines nearer than this share their kinematics in fit_lines [km/s]
SAME = 1e-6  # wavelengths of one line differ by less than this share
LEAST_VOXELS = 8
LEAST_MARGIN = 500.0  # from a line to the end of the data [km/s], and two FWHM of the instrument at least
Line = LineName
Resolution = float | Callable[[Any], Any] | None
_TO_R = 1.0 / (2.0 * math.sqrt(2.0 * math.log(2.0)))  # wavelength over sigma to resolving power
_FINEST = 0.2  # sigma of the instrument in samples, from which a fit finds its start


@dataclass(frozen=True)
class Blend:
    """Lines that are fitted together and their voxels.

    Parameters
    ----------
    labels, rest, mu0, inst, group : tuple, one entry a line
        Name, rest and redshifted wavelength [um], instrument sigma [km/s], number of the group of one kinematics.
    reach : tuple, one entry a group
        Largest absolute velocity [km/s].
    first, last : int
        Planes ``first:last`` of the data.
    use, wave, lo, hi : arrays (voxel)
        Whether a voxel is fitted; its centre and edges [um].
    to_density : float
        Takes the data times wavelength^-2 to W m-2 um-1 (per spaxel).
    middle, half : float
        t = (wavelength - middle) / half [um].
    nominal : float
        Voxels that a whole window would have.
    band : str
    alike : array (lag)
        Correlation of the errors with those of the next voxels, which share pixels; 1 first.
    """

    labels: tuple[str, ...]
    rest: tuple[float, ...]
    mu0: tuple[float, ...]
    inst: tuple[float, ...]
    group: tuple[int, ...]
    reach: tuple[float, ...]
    first: int
    last: int
    use: np.ndarray
    wave: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    to_density: float
    middle: float
    half: float
    nominal: float
    band: str
    alike: np.ndarray

    @property
    def length(self) -> float:
        """By what the variance of a mean over many voxels exceeds that of independent ones."""
        return float(2.0 * self.alike.sum() - 1.0)

    def factor(self, wavelength: np.ndarray | float) -> Any:
        """Return what takes the data to W m-2 um-1 at a wavelength [um]."""
        return self.to_density / wavelength**2

    def shape(self, wavelength: np.ndarray) -> np.ndarray:
        """Return what makes a polynomial in the units of the data one in W m-2 um-1, 1 at the middle."""
        return (self.middle / wavelength) ** 2

    def variable(self, wavelength: np.ndarray) -> np.ndarray:
        """Return the variable of the polynomial at a wavelength [um]."""
        return (wavelength - self.middle) / self.half


def redshift_of(ds: xr.Dataset, redshift: float | None) -> float:
    """Return the redshift, or where it is None that of the data (``attrs["redshift"]``, else 0)."""
    return as_redshift(ds.attrs.get("redshift", 0.0) if redshift is None else redshift)


def find_lines(line: Line | Iterable[Line] | xr.Dataset) -> list[tuple[str, float]]:
    """Return (label, rest wavelength [um]) of labels or names of the line list, of wavelengths, or of a table."""
    if isinstance(line, xr.Dataset):
        return [(str(n), float(w)) for n, w in zip(line["line"].values, line["wavelength"].values, strict=True)]
    many: list[Any] = [line] if isinstance(line, str) or not np.iterable(line) else list(line)
    if not many:
        raise MrsxrError("no line was given; expected a label of line_list() or a rest wavelength in um")
    found = [_find_line(item) for item in many]
    for (label, rest), (again, other) in itertools.combinations(sorted(found, key=lambda one: one[1]), 2):
        if abs(rest - other) < SAME * rest:
            raise MrsxrError(f"the line at {rest:g} um is given twice ({label}, {again}); give it once")
    return found


def _find_line(line: Line) -> tuple[str, float]:
    if not is_wavelength(line):
        return find_line(line)
    wave = as_um(line, "rest wavelength of a line")
    if not wave > 0:
        raise MrsxrError(f"rest wavelength of a line is {wave}; expected a positive number of um")
    return f"{wave:.5f}".rstrip("0").rstrip("."), wave


def observed_edges(ds: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return centre, lower and upper edge of each sample [um]; neighbours of a band share their edges."""
    wave = np.asarray(ds["wavelength"].values, dtype=float)
    if wave.size < 2:
        raise MrsxrError(f"the data have {wave.size} wavelengths; expected at least {LEAST_VOXELS} around a line")
    band = bands_of(ds)
    lo, hi = np.empty_like(wave), np.empty_like(wave)
    for name in np.unique(band):
        own = np.flatnonzero(band == name)
        for part in np.split(own, np.flatnonzero(np.diff(wave[own]) <= 0) + 1):
            here = wave[part]
            if part.size < 2:
                step = np.median(np.abs(np.diff(wave)))
                lo[part], hi[part] = here - step / 2, here + step / 2
                continue
            inner = 0.5 * (here[:-1] + here[1:])
            lo[part] = np.concatenate([[2 * here[0] - inner[0]], inner])
            hi[part] = np.concatenate([inner, [2 * here[-1] - inner[-1]]])
    return wave, lo, hi


def bands_of(ds: xr.Dataset) -> np.ndarray:
    """Return the band of each sample."""
    n = ds.sizes["wavelength"]
    if "band" in ds.coords and ds["band"].dims == ("wavelength",):
        return np.asarray(ds["band"].values).astype(str)
    return np.full(n, str(ds.attrs.get("band", "")))


def resolution_at(wavelength: np.ndarray | float, resolution: Resolution) -> np.ndarray:
    """Return the resolving power at wavelengths [um]: the in-flight law, a number or a function."""
    if resolution is None:
        value = mrs.resolving_power(wavelength)
    elif callable(resolution):
        value = resolution(wavelength)
    else:
        value = np.full(np.shape(wavelength), float(resolution))
    value = np.asarray(value, dtype=float)
    if not (np.isfinite(value).all() and (value >= 1).all()):
        at = f"{np.ravel(wavelength)[0]:.3f} um"
        raise ParameterError(f"resolution: resolving power at {at} is {np.ravel(value)[0]:g}; expected 1 or more")
    return value


def to_flux_density(ds: xr.Dataset) -> float:
    """Return what takes ``flux`` times wavelength^-2 [um] to W m-2 um-1 (of a cube: per spaxel)."""
    if ds.attrs["level"] == "spectrum":
        return JY_TO_FLAMBDA
    return JY_TO_FLAMBDA * 1e6 * solid_angle(ds)


def make_blend(
    ds: xr.Dataset,
    lines: Sequence[tuple[str, float]],
    *,
    redshift: float,
    window: float,
    resolution: Resolution,
    groups: Sequence[int],
    exclude: Sequence[tuple[float, float]] | None,
) -> Blend:
    """Return the set-up of one fit.

    Raises
    ------
    MrsxrError
        Where a line lies outside the data or the window holds too few wavelengths.
    """
    wave, lo, hi = observed_edges(ds)
    order = np.argsort([rest for _, rest in lines])
    labels, rest = zip(*(lines[i] for i in order), strict=True)
    mu0 = np.array(rest) * (1.0 + redshift)
    inst = _TO_R * C / resolution_at(mu0, resolution)
    group = np.unique(np.asarray(groups)[order], return_inverse=True)[1]
    low, high = mu0[0] * (1.0 - window / C), mu0[-1] * (1.0 + window / C)
    inside = (wave >= low) & (wave <= high)
    band = bands_of(ds)
    part_of = one_band(wave, band, inside, mu0)
    _check_margins(labels, mu0, inst, redshift, lo[part_of].min(), hi[part_of].max())
    inside &= part_of
    if inside.sum() < LEAST_VOXELS:
        raise MrsxrError(
            f"the window of {labels[0]} (half width {window:g} km/s) holds {int(inside.sum())} wavelengths; expected "
            f"at least {LEAST_VOXELS}, use a wider window"
        )
    name = str(band[inside][np.argmin(np.abs(wave[inside] - mu0[0]))])
    first, last = int(np.flatnonzero(inside)[0]), int(np.flatnonzero(inside)[-1]) + 1
    use = inside[first:last].copy()
    whole = use.sum()
    for start, stop in exclude or ():
        use &= ~((wave[first:last] >= start) & (wave[first:last] <= stop))
    if use.sum() < LEAST_VOXELS:
        raise MrsxrError(
            f"{int(use.sum())} of {whole} wavelengths around {labels[0]} are left by exclude; expected at least "
            f"{LEAST_VOXELS}"
        )
    if not (np.diff(wave[first:last][use]) > 0).all():
        raise MrsxrError(f"wavelengths around {labels[0]} do not increase; sort the data by wavelength (and band)")
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    part = slice(first, last)
    step = float(np.median(hi[part] - lo[part]))
    sample = step / mu0[0] * C
    if resolution is not None and inst.min() < _FINEST * sample:
        raise ParameterError(
            f"resolution: sigma of the instrument at {labels[0]}, {inst.min():.3g} km/s, is less than {_FINEST} of a "
            f"sample ({sample:.3g} km/s), too narrow to start a fit from; give a resolution of at most "
            f"{_TO_R * C / (_FINEST * sample):.0f}"
        )
    alike = np.median(wavelength_correlation(ds.isel(wavelength=part)), axis=1)
    return Blend(
        labels, rest, tuple(mu0), tuple(inst), tuple(int(g) for g in group), _reaches(mu0, group, window), first, last,
        use,
        wave[part], lo[part], hi[part], to_flux_density(ds), middle, half,
        (high - low) / step - (whole - use.sum()), name, alike,
    )  # fmt: skip


def _check_margins(
    labels: tuple[str, ...], mu0: np.ndarray, inst: np.ndarray, redshift: float, low: float, high: float,
) -> None:  # fmt: skip
    """Raise where a line lies outside the data or too near to their end to be fitted."""
    for label, place, sigma in zip(labels, mu0, inst, strict=True):
        margin = max(LEAST_MARGIN, 4.71 * sigma) / C * place
        if not low + margin < place < high - margin:
            raise MrsxrError(
                f"line {label} is at {place:.4f} um (z = {redshift:g}), outside the data ({low:.3f} to {high:.3f} um) "
                f"or less than {margin:.3f} um from their end; choose another line or redshift"
            )


def one_band(wave: np.ndarray, band: np.ndarray, inside: np.ndarray, mu0: np.ndarray) -> np.ndarray:
    """Return the samples to take lines from: all, or where bands overlap those of the one that reaches farthest.

    They overlap where wavelengths do not rise, or take turns where data of several bands were sorted.
    """
    index = np.flatnonzero(inside)
    held = band[index]
    in_turn = 1 + (held[1:] != held[:-1]).sum() > np.unique(held).size
    if index.size == 0 or ((np.diff(wave[index]) > 0).all() and np.ptp(index) == index.size - 1 and not in_turn):
        return np.ones(wave.size, dtype=bool)

    def margin(name: str) -> float:
        waves = wave[band == name]
        return min(mu0[0] - waves.min(), waves.max() - mu0[-1])

    return band == max(dict.fromkeys(band[index]), key=margin)


def _reaches(mu0: np.ndarray, group: np.ndarray, window: float) -> tuple[float, ...]:
    """Return the largest velocity of each group: half the way to the next line of another one at most."""
    out = []
    for g in range(int(group.max()) + 1):
        own, other = mu0[group == g], mu0[group != g]
        gap = np.abs(own[:, None] / other[None, :] - 1.0).min() * C if other.size else np.inf
        out.append(float(min(REACH, 0.8 * window, 0.5 * gap)))
    return tuple(out)


def gather_blends(lines: Sequence[tuple[str, float]], window: float, tie: bool) -> list[tuple[list[Any], list[Any]]]:
    """Return (lines, groups) of each blend: lines within each other's window are fitted together.

    With ``tie``, neighbours nearer than ``TIED`` share their kinematics.
    """
    blends: list[tuple[list[tuple[str, float]], list[int]]] = []
    for label, rest in sorted(lines, key=lambda item: item[1]):
        gap = C * (rest / blends[-1][0][-1][1] - 1.0) if blends else np.inf
        if gap > window:
            blends.append(([(label, rest)], [0]))
            continue
        own, groups = blends[-1]
        groups.append(groups[-1] + (0 if tie and gap < TIED else 1))
        own.append((label, rest))
    return blends
