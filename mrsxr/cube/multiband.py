"""Cubes of several bands on one sky grid: a channel, all twelve bands, or a selection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr._version import __version__
from mrsxr.arguments import as_band_words, bands_held, reads
from mrsxr.chunks import CUBE_PLANES
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.index import attach_index
from mrsxr.limits import Angle, Count, NotNegative, OptionalRef, Place, SpaxelSize, Wavelength, WavelengthStep, checked
from mrsxr.notes import noted, notes_of, tell
from mrsxr.tree import common_attrs, leaves

from ._blocks import lazy_planes
from ._layout import (
    BandData,
    CoordSystem,
    WeightingName,
    band_cuts,
    grid_facts,
    native_planes,
    sky_grid,
    small_parts,
    table_planes,
    turn_of,
    weighting_of,
)
from ._point import off_elsewhere, point_terms
from .cube_build import ExposureWeights, as_dataset, cube_attrs, has_systematic, is_lazy, make_source

WavelengthAxis = Literal["native", "linear", "table"]
Sources = xr.Dataset | xr.DataTree | Iterable[xr.Dataset]


@reads(bands=as_band_words)
@checked
def build_multiband_cube(
    sources: Sources,
    *,
    bands: str | Iterable[str] | None = None,
    wavelength_axis: WavelengthAxis = "native",
    cubepar: OptionalRef = None,
    grid: CubeGrid | None = None,
    coord_system: CoordSystem = "skyalign",
    position_angle: Angle | None = None,
    center: Place | None = None,
    shape: tuple[Count, Count] | None = None,
    spaxel_size: SpaxelSize | None = None,
    wavelength_step: WavelengthStep | None = None,
    wavelength_min: Wavelength | None = None,
    wavelength_max: Wavelength | None = None,
    weighting: WeightingName = "drizzle",
    exposure_weights: ExposureWeights = "none",
    point_source: Place | None = None,
    mrsptcorr: OptionalRef = None,
    tear_threshold: NotNegative | None = 0.75,
    tear_by_band: bool = False,
    planes_per_block: Count = CUBE_PLANES,
) -> xr.Dataset:
    """Build one cube of several bands from all dithers of their settings.

    Parameters
    ----------
    sources : Dataset, DataTree or sequence of Dataset, level "cal"
        One Dataset a setting. Of a tree, such as that of an association, the nodes that are no background.
    bands : str, int or iterable of them, optional
        Bands ("1A", "ch1-short") or channels (1, all its bands that are there); by default all that the sources hold.
    wavelength_axis : {"native", "linear", "table"}
        Planes with the step of each band, cut in the middle of overlaps; with one step everywhere; or those of the
        table MULTICHANNEL_DRIZ of ``cubepar``, as jwst with ``output_type="multi"``. "linear" of one channel is
        jwst's ``output_type="channel"``.
    cubepar, grid, coord_system, position_angle, center, shape
        As of :func:`build_cube`; ``ifualign`` follows the first band.
    spaxel_size : float, optional
        [arcsec]; by default the smallest of the bands, as in jwst.
    wavelength_step : float, optional
        [um], for "linear"; by default the smallest of the bands.
    wavelength_min, wavelength_max : float, optional
        [um]; by default the extremes of the bands.
    weighting, exposure_weights, point_source, mrsptcorr
        As of :func:`build_cube`; the numbers of "emsm" are those of each band.
    tear_threshold : float or None
        As of :func:`build_cube`. Of a cube too large to be held, the coverage is computed a second time.
    tear_by_band : bool
        Compare planes with those of their own band; jwst compares all planes of the cube.
    planes_per_block : int

    Returns
    -------
    Dataset, level "cube"
        As of :func:`build_cube`, with the coordinate ``band`` on wavelength (the band on whose side of the middle of
        an overlap a plane lies) and, of unequal planes, ``wavelength_width`` [um]. Where bands overlap, all of them
        deposit into the same planes. Lazy by wavelength block where a source is lazy; a block depends only on the
        bands that reach it.

    Raises
    ------
    MrsxrError
        Where no source has the bands, or a parameter or table does not fit.
    """
    datasets = _datasets(sources)
    parts = _parts(datasets, bands)
    names = list(dict.fromkeys(one.band for one in parts))
    facts = {band: grid_facts(band, cubepar) for band in names}
    if grid is None:
        whole = _limits(facts, spaxel_size, wavelength_step, wavelength_min, wavelength_max)
        box = wavelength_axis == "table" or all(band[0] in "24" for band in names)
        turn = turn_of(parts[0], coord_system, position_angle)
        grid = sky_grid(parts, whole, box=box, turn=turn, center=center, shape=shape)
        grid = _with_axis(grid, wavelength_axis, facts, whole, cubepar)
    systematic = any(has_systematic(ds) for ds in datasets)
    made, said = [], []
    for one in parts:
        spread = weighting_of(weighting, one.band, cubepar, grid.spaxel_size)
        terms = None if point_source is None else point_terms(one, mrsptcorr, point_source)
        if terms is not None:
            said.append(off_elsewhere(terms, one.band))
            tell(said[-1], aloud=False)
        made.append(
            make_source(
                one, grid, spread, exposure_weights=exposure_weights, systematic=systematic, terms=terms
            )
        )  # fmt: skip
    labels = band_of_planes(grid.wavelengths, {band: (f["low"], f["high"]) for band, f in facts.items()})
    planes = lazy_planes(
        made, grid, systematic=systematic, tear_threshold=tear_threshold,
        tear_groups=labels if tear_by_band else None, planes_per_block=planes_per_block,
    )  # fmt: skip
    cube = as_dataset(planes, grid, lazy=any(is_lazy(ds) for ds in datasets))
    cube = cube.assign_coords(band=("wavelength", labels, {"long_name": "band of the plane"}))
    parameters = {
        "bands": names, "wavelength_axis": wavelength_axis, "coord_system": coord_system, "weighting": weighting,
        "exposure_weights": exposure_weights, "tear_threshold": tear_threshold, "tear_by_band": tear_by_band,
        "point_source": None if point_source is None else [float(v) for v in point_source],
    }  # fmt: skip
    references = {"cubepar": cubepar, "mrsptcorr": mrsptcorr}
    one_channel = len({band[0] for band in names}) == 1
    kind = "channel" if one_channel and wavelength_axis == "linear" else "multi"
    attrs = _attrs_of([part.ds for part in parts], parameters, references) | cube_attrs(parts, grid, weighting, kind)
    return attach_index(noted(cube.assign_attrs(attrs), [*notes_of(*(part.ds for part in parts)), *said]))


def band_of_planes(wavelengths: np.ndarray, limits: dict[str, tuple[float, float]]) -> np.ndarray:
    """Return the band of each plane: cut in the middle of overlaps (and gaps) of the limits [um] of the bands."""
    order, cuts = band_cuts(limits)
    return np.array(order)[np.searchsorted(cuts, wavelengths, side="right")]


def _datasets(sources: Sources) -> list[xr.Dataset]:
    if isinstance(sources, xr.Dataset):
        found = [sources]
    elif isinstance(sources, xr.DataTree):
        found = [
            ds for path, ds in leaves(sources) if not (path.startswith("/background") or ds.attrs.get("background"))
        ]
    else:
        found = list(sources)
    for ds in found:
        if ds.attrs.get("level") != "cal":
            found_level = ds.attrs.get("level") or "a Dataset without level"
            raise LevelError(
                f"build_multiband_cube needs data of level cal, got {found_level} "
                f"({ds.attrs.get('setting', 'unknown setting')})"
            )
    if not found:
        raise MrsxrError("build_multiband_cube got no science data; expected Datasets of level cal or a tree of them")
    return found


def _parts(datasets: Sequence[xr.Dataset], bands: str | Iterable[str] | None) -> list[BandData]:
    """Return the wanted bands of all Datasets, in the order of the MRS."""
    held = {band for ds in datasets for band in mrs.bands_of_setting(ds.attrs["setting"])}
    wanted = held if bands is None else set(bands_held(bands, held, "data"))
    parts = []
    for ds in datasets:
        model = small_parts(ds)
        parts += [BandData.of(ds, band, model) for band in mrs.bands_of_setting(ds.attrs["setting"]) if band in wanted]
    return sorted(parts, key=lambda one: mrs.BANDS.index(one.band))


def _limits(facts, spaxel, step, low, high) -> dict[str, float]:
    """Return spaxel [arcsec], step and limits [um] of the whole cube."""
    whole = {
        "spaxel": min(f["spaxel"] for f in facts.values()) if spaxel is None else float(spaxel),
        "step": min(f["step"] for f in facts.values()) if step is None else float(step),
        "low": min(f["low"] for f in facts.values()) if low is None else float(low),
        "high": max(f["high"] for f in facts.values()) if high is None else float(high),
    }
    if not (whole["spaxel"] > 0 and whole["step"] > 0 and whole["high"] > whole["low"]):
        raise MrsxrError(
            f"spaxel {whole['spaxel']} arcsec, step {whole['step']} um and limits {whole['low']} to {whole['high']} um "
            "make no grid; expected positive sizes and rising limits"
        )
    return whole


def _with_axis(grid: CubeGrid, axis: str, facts, whole, cubepar) -> CubeGrid:
    if axis == "linear":
        return grid
    if axis == "native":
        return grid.with_planes(*native_planes(facts, whole["low"], whole["high"]))
    if cubepar is None or "multichannel_wavelength" not in cubepar:
        raise MrsxrError("wavelength_axis 'table' needs the table MULTICHANNEL_DRIZ of cubepar; take 'native'")
    return grid.with_planes(*table_planes(cubepar["multichannel_wavelength"].values, whole["low"], whole["high"]))


def _attrs_of(
    datasets: Sequence[xr.Dataset], parameters: dict[str, Any], references: dict[str, xr.Dataset | None]
) -> dict:
    """Return the attributes that all Datasets share with the histories of all and this step added."""
    refs = {name: str(value.attrs.get("ref_id", "by hand")) for name, value in references.items() if value is not None}
    entry = {
        "step": "cube.build_multiband_cube", "keyword": "S_IFUCUB", "version": __version__,
        "params": parameters, "refs": refs,
    }  # fmt: skip
    common = common_attrs(list({id(ds): ds for ds in datasets}.values()))
    common.pop("differs", None)
    history = json.dumps([*json.loads(common.get("history_json", "[]")), entry])
    return {**common, "level": "cube", "mrsxr_version": __version__, "history_json": history}
