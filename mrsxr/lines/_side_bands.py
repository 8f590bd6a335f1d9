"""The window around a line: its planes, their velocities, and which of them tell the continuum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import units
from mrsxr._version import __version__
from mrsxr.arguments import as_kms_extent
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.inputs import require_units, require_whole, with_axes
from mrsxr.limits import LineName
from mrsxr.spaxels import facts_of, plane_widths, solid_angle
from mrsxr.sums import wavelength_correlation

from ._window import bands_of, one_band, redshift_of
from .linelist import find_line, line_list

C_KM_S = units.C_KM_S
OTHER_LINE = 500.0  # km/s to either side of another known line that are no continuum
_KNOWN_RANK = 2
_LEAST_SIDE = 2


@dataclass(frozen=True)
class Window:
    """Planes around a line: float64 arrays on them, wavelengths [um], velocities [km/s] relative to the redshift.

    ``t`` runs from -1 to 1 over the window, ``side`` tells the planes of the continuum; ``width`` [um] and ``low``,
    ``high`` [km/s] are width and ends of the planes; ``alike`` (lag) the correlations with the next planes at the line.
    """

    label: str
    rest: float
    redshift: float
    planes: slice | np.ndarray
    wavelength: np.ndarray
    width: np.ndarray
    velocity: np.ndarray
    low: np.ndarray
    high: np.ndarray
    t: np.ndarray
    side: np.ndarray
    alike: np.ndarray

    @property
    def centre(self) -> float:
        """Observed wavelength of the line [um]."""
        return self.rest * (1.0 + self.redshift)

    @property
    def t_centre(self) -> float:
        """Place of the line in the window."""
        return float(np.interp(self.centre, self.wavelength, self.t))

    def shares(self, edges: np.ndarray) -> np.ndarray:
        """Return the part of every plane that lies between velocities: (channel, plane) of edges (channel, 2)."""
        low, high = np.asarray(edges, float)[:, :1], np.asarray(edges, float)[:, 1:]
        part = np.minimum(high, self.high[None, :]) - np.maximum(low, self.low[None, :])
        return np.clip(part / (self.high - self.low)[None, :], 0.0, 1.0)

    def power(self, area: float) -> np.ndarray:
        """Return the power [W m-2] that 1 MJy/sr gives in each plane of spaxels of an area [arcsec2]."""
        return 2.99792458e-6 * units.ARCSEC2_TO_SR * area * self.width / self.wavelength**2


def need_cube(cube: xr.Dataset, what: str) -> xr.Dataset:
    """Return a cube with both axes on the sky; refuse what is none in MJy/sr."""
    if cube.attrs.get("level") != "cube":
        raise LevelError(f"{what} needs data of level cube, got {cube.attrs.get('level') or 'a Dataset without level'}")
    require_units(cube, what)
    cube = with_axes(cube)
    require_whole(cube, what)
    return cube


def spaxel_area(ds: xr.Dataset) -> float:
    """Return the area of a spaxel [arcsec2]."""
    return solid_angle(ds) / units.ARCSEC2_TO_SR


def interval(extent: float | Sequence[float]) -> tuple[float, float]:
    """Return velocities (low, high) [km/s] of a half width or of a pair."""
    pair = np.atleast_1d(np.asarray(as_kms_extent(extent), float))
    low, high = (-pair[0], pair[0]) if pair.size == 1 else (pair[0], pair[-1])
    if pair.size > 2 or not (np.isfinite(pair).all() and low < high):
        raise MrsxrError(f"the extent of the line is {extent} km/s; expected a half width above 0, or (low, high)")
    return float(low), float(high)


def line_window(
    cube: xr.Dataset,
    line: LineName,
    redshift: float | None,
    extent: tuple[float, float],
    window: float,
    degree: int,
    exclude: Sequence[tuple[float, float]] | None,
) -> Window:
    """Return the window of a line.

    Parameters
    ----------
    cube : Dataset
        With ``wavelength`` [um].
    line, redshift
        As of :func:`mrsxr.lines.moment_maps.moments`.
    extent : (float, float)
        Velocities that hold the line [km/s].
    window : float
        Half width [km/s].
    degree : int
        Of the continuum.
    exclude : pairs of float, optional
        Observed wavelengths [um] that are no continuum; None: around the other known lines.

    Raises
    ------
    MrsxrError
        Where the line is not in the cube, or too few planes are left for the continuum.
    """
    label, rest = find_line(line)
    redshift = redshift_of(cube, redshift)
    wave, widths = np.asarray(cube["wavelength"].values, float), plane_widths(cube)
    centre = rest * (1.0 + redshift)
    speed, low, high = (C_KM_S * (w / centre - 1.0) for w in (wave, wave - widths / 2, wave + widths / 2))
    slack = 1e-6 * float(np.median(high - low)) if wave.size else 0.0
    inside = (np.abs(speed) <= window) | ((high > extent[0]) & (low < extent[1]))
    own = one_band(wave, bands_of(cube), inside, np.array([centre]))
    if not own.any() or low[own].min() > extent[0] + slack or high[own].max() < extent[1] - slack:
        ends = f"{wave[own].min():.3f} to {wave[own].max():.3f} um" if own.any() else "no plane"
        raise MrsxrError(
            f"{label} at z = {redshift:g} lies at {centre:.4f} um with {extent[0]:g} to {extent[1]:g} km/s; "
            f"the cube has {ends}"
        )
    index = np.flatnonzero(inside & own)
    if not (np.diff(wave[index]) > 0).all():
        raise MrsxrError(f"wavelengths around {label} do not increase; sort the cube by wavelength (and band)")
    alone = index[-1] - index[0] == index.size - 1
    planes = slice(int(index[0]), int(index[-1]) + 1) if alone else index
    wave, widths, speed, low, high = (a[planes] for a in (wave, widths, speed, low, high))
    side = (high <= extent[0]) | (low >= extent[1])
    side &= ~_excluded(wave, exclude, label, redshift)
    counts = [int((side & part).sum()) for part in (speed < extent[0], speed > extent[1])]
    if sum(counts) < degree + 3 or (degree > 0 and min(counts) < _LEAST_SIDE):
        raise MrsxrError(
            f"{label}: {counts[0]} planes below and {counts[1]} above the line are left for a continuum of degree "
            f"{degree}; take a wider window, a smaller extent, degree 0 or exclude=()"
        )
    middle, half = 0.5 * (wave[0] + wave[-1]), max(0.5 * (wave[-1] - wave[0]), 1e-12)
    alike = wavelength_correlation(cube.isel(wavelength=planes))[:, int(np.argmin(np.abs(speed)))]
    return Window(label, rest, redshift, planes, wave, widths, speed, low, high, (wave - middle) / half, side, alike)


def _excluded(
    wave: np.ndarray, exclude: Sequence[tuple[float, float]] | None, label: str, redshift: float
) -> np.ndarray:
    """Return the planes that are left out of the continuum."""
    out = np.zeros(wave.shape, bool)
    if exclude is not None:
        for first, last in exclude:
            out |= (wave >= first) & (wave <= last)
        return out
    table = line_list()
    known = (table["kind"].values != "PAH") & (table["rank"].values <= _KNOWN_RANK) & (table["line"].values != label)
    for rest in table["wavelength"].values[known]:
        out |= np.abs(C_KM_S * (wave / (rest * (1.0 + redshift)) - 1.0)) < OTHER_LINE
    return out


def map_spaxels(wrapper: Callable[..., np.ndarray], cube: xr.Dataset, leading: Sequence[int], **options: Any) -> Any:
    """Apply a wrapper to the spectra of blocks of spaxels.

    Parameters
    ----------
    wrapper : callable
        Called with ``flux``, ``var`` and ``dq`` (plane, y, x) and the options; gives float64 (leading ..., y, x).
    cube : Dataset
    leading : sequence of int
        Leading dimensions of the result, one or two.
    **options
        Handed to the wrapper.

    Returns
    -------
    array, dask array where one of the variables is
    """
    arrays = [cube[name].transpose("wavelength", "y", "x").variable.data for name in ("flux", "var", "dq")]
    if not any(isinstance(a, da.Array) for a in arrays):
        return wrapper(*arrays, **options)
    first = next(a for a in arrays if isinstance(a, da.Array))
    chunks = (cube.sizes["wavelength"], *first.chunks[1:])
    arrays = [a.rechunk(chunks) if isinstance(a, da.Array) else da.from_array(a, chunks=chunks) for a in arrays]
    return da.map_blocks(
        wrapper, *arrays, dtype=np.float64, chunks=(*((n,) for n in leading), *first.chunks[1:]),
        new_axis=list(range(len(leading) - 1)) or None, meta=np.empty((0,) * (len(leading) + 2)), **options,
    )  # fmt: skip


def frame_of(cube: xr.Dataset, level: str, window: Window | None = None) -> xr.Dataset:
    """Return an empty Dataset with the spaxels of a cube: y, x, ra, dec, their index, and attrs."""
    out = cube.drop_vars(list(cube.data_vars)).drop_dims("wavelength")
    if window is not None:
        out = out.assign_coords(
            line=((), window.label), wavelength_rest=((), window.rest, {"units": "um", "long_name": "rest wavelength"})
        ).assign_attrs(redshift=window.redshift)
    return out.assign_attrs(level=level, mrsxr_version=__version__, **facts_of(cube))
