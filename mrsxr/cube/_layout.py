"""The layout of a cube: what the cubepar file and the user say of spaxels, planes, weighting, and the footprint."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.attributes import apart
from mrsxr.errors import LevelError, MrsxrError, ReferenceFileError
from mrsxr.geometry.footprint import SliceRanges, corners_on_sky, slice_ranges
from mrsxr.geometry.grid import CubeGrid, make_grid, slicer_angle
from mrsxr.geometry.operator import Weighting
from mrsxr.geometry.pixels import band_columns, check_setting
from mrsxr.geometry.sky import Pointing
from mrsxr.schema import DITHER_COORDS, WCS_VARIABLES

WeightingName = Literal["drizzle", "emsm"]
CoordSystem = Literal["skyalign", "ifualign"]
WavelengthAxis = Literal["native", "linear", "table"]
_CUBEPAR = {"spaxel": "spaxel_size", "step": "wavelength_step", "low": "wavelength_min", "high": "wavelength_max"}
_WHOLE: dict[str, Callable[..., float]] = {"spaxel": min, "step": min, "low": min, "high": max}


@dataclass(frozen=True)
class BandData:
    """One band of one setting: its data and, in memory, what lays out the grid."""

    ds: xr.Dataset
    model: xr.Dataset
    band: str
    ranges: SliceRanges
    pointings: list[Pointing]

    @classmethod
    def of(cls, ds: xr.Dataset, band: str, model: xr.Dataset | None = None) -> BandData:
        """Return the band of cal data of its setting; ``model`` is that of :func:`small_parts`, where known."""
        check_band(ds, band)
        model = small_parts(ds) if model is None else model
        found = slice_ranges(model, band_columns(band, ds["x"].values))
        ours = [i for i, name in enumerate(found.bands) if name == band]
        if not ours:
            raise MrsxrError(f"band {band}: no pixel lies in a slice of the band; run assign_wcs with its regions")
        ranges = SliceRanges(
            found.labels[ours], (band,) * len(ours), found.beta[ours], found.alpha_low[ours], found.alpha_high[ours]
        )
        return cls(ds, model, band, ranges, [Pointing.of(model, i) for i in range(ds.sizes["dither"])])


def check_band(ds: xr.Dataset, band: str) -> None:
    """Raise where the data are not of the setting of a band, or have no slice coordinates."""
    check_setting(ds, band)
    missing = [name for name in ("slice", "alpha", *(v.name for v in WCS_VARIABLES)) if name not in ds.variables]
    if missing:
        raise LevelError(
            f"setting {ds.attrs['setting']}: {', '.join(missing)} missing; run assign_wcs before build_cube"
        )


def small_parts(ds: xr.Dataset) -> xr.Dataset:
    """Return slice map, alpha, WCS variables and pointings in memory; the grid is laid out from them."""
    names = ["slice", "alpha", *(v.name for v in WCS_VARIABLES), *(v.name for v in DITHER_COORDS), *apart(ds)]
    return ds[[name for name in names if name in ds.variables]].compute(scheduler="synchronous")


def grid_facts(band: str, cubepar: xr.Dataset | None) -> dict[str, float]:
    """Return ``spaxel`` [arcsec], ``step``, ``low`` and ``high`` [um] of a band.

    Numbers of a cubepar file count as float32, as it stores them: 0.0008 um there is 2e-11 um less, after 1000
    planes 3e-5 of a plane, which shows where cubes are compared with those of jwst.
    """
    channel = int(band[0])
    low, high = mrs.WAVELENGTH_LIMITS[band]
    facts = {"spaxel": mrs.SPAXEL_SIZE[channel], "step": mrs.WAVELENGTH_STEP[channel], "low": low, "high": high}
    if cubepar is not None:
        if band not in cubepar["band"].values:
            raise ReferenceFileError(f"{cubepar.attrs.get('ref_id', 'cubepar')} has no row for band {band}")
        row = cubepar.sel(band=band)
        facts = {key: float(np.float32(row[name])) for key, name in _CUBEPAR.items()}
    return facts


def whole_facts(facts: dict[str, dict[str, float]], *given: float | None) -> dict[str, float]:
    """Return the facts of a cube of some bands: the finest of them and their extremes, or what is given."""
    whole = {}
    for (key, choose), value in zip(_WHOLE.items(), given, strict=True):
        whole[key] = choose(one[key] for one in facts.values()) if value is None else float(value)
    if not (whole["spaxel"] > 0 and whole["step"] > 0 and whole["high"] > whole["low"]):
        raise MrsxrError(
            f"{', '.join(facts)}: spaxel {whole['spaxel']} arcsec, step {whole['step']} um and limits {whole['low']} "
            f"to {whole['high']} um make no grid; expected positive sizes and rising limits"
        )
    return whole


def weighting_of(name: str, band: str, cubepar: xr.Dataset | None, spaxel: float) -> Weighting:
    """Return how the pixels of a band are spread; "emsm" takes its numbers from the cubepar file.

    Weights of "emsm" are exp(-(dx^2 + dy^2 + dz^2) / (SCALERAD / spaxel)), distances in spaxels and planes, within
    ROISPATIAL [arcsec] and ROISPECTRAL [um] (jwst cube_build).
    """
    if name == "drizzle":
        return Weighting()
    names = ("emsm_roi_spatial", "emsm_roi_spectral", "emsm_scalerad")
    if cubepar is None or any(key not in cubepar for key in names):
        found = "no cubepar file" if cubepar is None else cubepar.attrs.get("ref_id", "cubepar") + " without it"
        raise MrsxrError(f"weighting 'emsm' needs the table CUBEPAR_EMSM of cubepar, found {found}; take 'drizzle'")
    values = [float(np.float32(cubepar[key].sel(band=band))) for key in names]
    if not all(value > 0 for value in values):
        raise MrsxrError(f"band {band}: CUBEPAR_EMSM holds {values}; expected positive numbers, or take 'drizzle'")
    return Weighting(name, values[0] / spaxel, values[1], values[2] / spaxel)


def turn_of(first: BandData, coord_system: str, position_angle: float | None) -> float | None:
    """Return the rotation of the grid [deg]; None for north up."""
    if coord_system == "skyalign":
        return position_angle
    if position_angle is not None:
        raise MrsxrError("position_angle goes with coord_system 'skyalign'; 'ifualign' sets its own")
    return slicer_angle(first.band, first.model, first.pointings[0])


def sky_grid(
    bands: Sequence[BandData],
    facts: dict[str, float],
    *,
    box: bool,
    turn: float | None,
    center: tuple[float, float] | None,
    shape: tuple[int, int] | None,
) -> CubeGrid:
    """Lay a grid over the footprints of all exposures of all bands.

    ``box`` takes the boxes of the whole detector in place of the footprint of each band, for grids that are not
    turned: jwst does so for channels 2 and 4 and for cubes of many bands, from S_REGION with its 9 decimals.
    """
    ra, dec = [], []
    box = box and turn is None
    for one in bands:
        columns = band_columns(one.band, one.model["x"].values)
        ranges = slice_ranges(one.model, None if box else columns, exact=True)
        for pointing in one.pointings:
            corners = corners_on_sky(one.model, ranges, pointing, box)
            ra.append(np.round(corners[0], 9) if box else corners[0])
            dec.append(np.round(corners[1], 9) if box else corners[1])
    return make_grid(
        np.concatenate(ra), np.concatenate(dec), (facts["low"], facts["high"]), facts["spaxel"], facts["step"],
        position_angle=turn or 0.0, center=center, shape=shape,
    )  # fmt: skip


def band_cuts(limits: dict[str, tuple[float, float]]) -> tuple[list[str], np.ndarray]:
    """Return bands in order of wavelength and the cuts [um] between them, in the middle of overlaps and gaps."""
    order = sorted(limits, key=lambda band: sum(limits[band]))
    return order, np.array([0.5 * (limits[a][1] + limits[b][0]) for a, b in itertools.pairwise(order)])


def band_of_planes(wavelengths: np.ndarray, limits: dict[str, tuple[float, float]]) -> np.ndarray:
    """Return the band of each plane: cut in the middle of overlaps (and gaps) of the limits [um] of the bands."""
    order, cuts = band_cuts(limits)
    return np.array(order)[np.searchsorted(cuts, wavelengths, side="right")]


def with_axis(
    grid: CubeGrid,
    axis: str | None,
    facts: dict[str, dict[str, float]],
    whole: dict[str, float],
    cubepar: xr.Dataset | None,
) -> CubeGrid:
    """Return a grid of planes of one step with those of each band, or of the table of ``cubepar``."""
    if axis == "native":
        return grid.with_planes(*native_planes(facts, whole["low"], whole["high"]))
    if axis != "table":
        return grid
    if cubepar is None or "multichannel_wavelength" not in cubepar:
        raise MrsxrError("wavelength_axis 'table' needs the table MULTICHANNEL_DRIZ of cubepar; take 'native'")
    return grid.with_planes(*table_planes(cubepar["multichannel_wavelength"].values, whole["low"], whole["high"]))


def native_planes(facts: dict[str, dict[str, float]], low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return centres and widths [um] of planes with each band's own step, cut in the middle of overlaps.

    Parameters
    ----------
    facts : dict of band to dict
        ``step``, ``low``, ``high`` [um].
    low, high : float
        Limits of the cube [um].
    """
    order, cuts = band_cuts({band: (f["low"], f["high"]) for band, f in facts.items()})
    centres, widths, edge = [], [], low
    for number, band in enumerate(order):
        one = facts[band]
        gap = number == 0 or facts[order[number - 1]]["high"] < one["low"]
        edge = max(edge, one["low"]) if gap else edge
        last = number == len(order) - 1 or facts[order[number + 1]]["low"] > one["high"]
        stop = min(one["high"] if last else cuts[number], high)
        count = max(int(np.ceil((stop - edge) / one["step"] - 1e-6)), 0)
        centres.append(edge + (np.arange(count) + 0.5) * one["step"])
        widths.append(np.full(count, one["step"]))
        edge += count * one["step"]
    return np.concatenate(centres), np.concatenate(widths)


def table_planes(table: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Return centres and widths [um] of the planes of a table of wavelengths, as jwst for ``output_type="multi"``.

    The entries nearest to the limits and, where these fall short, the next one; each plane is as wide as the step to
    the following one (jwst cube_build.ifu_cube.determine_cube_parameters).
    """
    table = np.asarray(table, float)
    first, last = (int(np.abs(table - limit).argmin()) for limit in (low, high))
    if first > 1 and table[first] > low:
        first -= 1
    if last < table.size - 1 and high > table[last]:
        last += 1
    centres = table[first : last + 1]
    if centres.size < 2:
        raise MrsxrError(f"the table of wavelengths has {centres.size} between {low} and {high} um; expected two")
    steps = np.diff(centres)
    return centres, np.append(steps, steps[-1])
