"""Cubes of several bands on one sky grid: a channel, all twelve bands, or a selection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import xarray as xr

from mrsxr import mrs
from mrsxr._version import __version__
from mrsxr.arguments import as_band_words, bands_held, parameters_of, reads
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.limits import checked
from mrsxr.notes import listen, noted, notes_of
from mrsxr.step import plain_parameters
from mrsxr.tree import common_attrs, leaves

from ._layout import BandData, WavelengthAxis, small_parts
from .cube_build import build_cube, cube_of


@reads(bands=as_band_words)
@checked
@parameters_of(build_cube, "band", "trace_model")
def build_multiband_cube(
    sources: xr.Dataset | xr.DataTree | Iterable[xr.Dataset],
    *,
    bands: str | Iterable[str] | None = None,
    wavelength_axis: WavelengthAxis = "native",
    **options: Any,
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
    incomplete_threshold : float or None
        As of :func:`build_cube`, over all planes, as jwst. Of a cube too large to be held, the coverage is computed
        twice.
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

    Examples
    --------
    >>> both = mx.cube.build_multiband_cube(cal, bands=["1A", "2A"])
    >>> sorted(set(both.band.values.tolist()))
    ['1A', '2A']
    """
    parts = _parts(_datasets(sources), bands)
    with listen() as said:
        cube = cube_of(parts, axis=wavelength_axis, **options)
    parameters = {
        "bands": list(dict.fromkeys(one.band for one in parts)), "wavelength_axis": wavelength_axis,
        **{name: options[name] for name in ("coord_system", "weighting", "exposure_weights", "incomplete_threshold")},
        "point_source": cube.attrs.get("point_source"),
    }  # fmt: skip
    datasets = [one.ds for one in parts]
    attrs = _attrs_of(datasets, parameters, {name: options[name] for name in ("cubepar", "mrsptcorr")})
    return noted(cube.assign_attrs(attrs | cube.attrs), [*notes_of(*datasets), *said])


def _datasets(sources: xr.Dataset | xr.DataTree | Iterable[xr.Dataset]) -> list[xr.Dataset]:
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


def _attrs_of(
    datasets: Sequence[xr.Dataset], parameters: dict[str, Any], references: dict[str, xr.Dataset | None]
) -> dict[str, Any]:
    """Return the attributes that all Datasets share with the histories of all and this step added."""
    refs = {name: str(value.attrs.get("ref_id", "by hand")) for name, value in references.items() if value is not None}
    entry = {
        "step": "cube.build_multiband_cube", "keyword": "S_IFUCUB", "version": __version__,
        "params": plain_parameters(parameters), "refs": refs,
    }  # fmt: skip
    common = common_attrs(list({id(ds): ds for ds in datasets}.values()))
    history = json.dumps([*json.loads(common.get("history_json", "[]")), entry])
    return {**common, "level": "cube", "mrsxr_version": __version__, "history_json": history}
