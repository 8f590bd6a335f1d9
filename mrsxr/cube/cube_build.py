"""Cube building: all dithers of one band brought onto a regular (wavelength, y, x) grid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr.arguments import reads
from mrsxr.attributes import MARKS, of_each, share_done
from mrsxr.blocks import as_delayed, delayed_blocks, is_lazy
from mrsxr.chunks import CUBE_PLANES
from mrsxr.errors import MrsxrError
from mrsxr.geometry.frame import FrameModel
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.index import attach_index
from mrsxr.geometry.operator import Weighting
from mrsxr.geometry.pixels import gather_pixels, placement, select_pixels, wavelength_span
from mrsxr.io import exposures_header
from mrsxr.limits import (
    Angle,
    Band,
    Count,
    NotNegative,
    OptionalRef,
    Place,
    SpaxelSize,
    Wavelength,
    WavelengthStep,
    checked,
)
from mrsxr.notes import tell
from mrsxr.schema import CUBE_DIMS, RANDOM, SYSTEMATIC, meaning_of, units_of
from mrsxr.step import step
from mrsxr.threads import how
from mrsxr.traces import TraceModel, chosen, finer_pixels
from mrsxr.traces.source import require_source

from ._blocks import Source, lazy_planes
from ._layout import (
    BandData,
    CoordSystem,
    WavelengthAxis,
    WeightingName,
    band_of_planes,
    grid_facts,
    sky_grid,
    turn_of,
    weighting_of,
    whole_facts,
    with_axis,
)
from ._point import PointTerms, correct_frame, off_elsewhere, point_terms

_FRAMES = ("flux", *RANDOM, "dq")
ExposureWeights = Literal["none", "time", "ivar"]


@step(
    needs="cal",
    gives="cube",
    jwst="cube_build",
    keyword="S_IFUCUB",
    without={"cubepar": "the flight values are used"},
    only={"mrsptcorr": lambda given: given.get("point_source") is not None},
)
def build_cube(
    ds: xr.Dataset,
    *,
    band: Band,
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
    trace_model: xr.Dataset | None = None,
    incomplete_threshold: NotNegative | None = 0.75,
    planes_per_block: Count = CUBE_PLANES,
) -> xr.Dataset:
    """Build the cube of one band from all dithers of a setting.

    Parameters
    ----------
    ds : Dataset, level "cal"
        ``flux`` [MJy/sr], the variances [MJy2/sr2], ``dq``, ``slice`` and ``alpha`` [arcsec] on the detector,
        the WCS variables and the pointing of each dither. A cube of one exposure: ``ds.isel(dither=[k])``.
    band : str
        ``"1A" .. "4C"``; one of the two bands of the setting.
    cubepar : Dataset, kind "cubepar", optional
        Spaxel size, step and limits of each band; without it the flight values of :mod:`mrsxr.mrs`.
    grid : CubeGrid, optional
        A grid made before; it overrules all the parameters of the grid below.
    coord_system : {"skyalign", "ifualign"}
        North up, or axes along and across the slices of the first dither.
    position_angle : float, optional
        Rotation of the grid [deg], for ``"skyalign"``.
    center : (float, float), optional
        Right ascension and declination of the centre [deg]; by default the middle of the footprint.
    shape : (int, int), optional
        Number of spaxels (ny, nx), odd.
    spaxel_size : float, optional
        [arcsec].
    wavelength_step, wavelength_min, wavelength_max : float, optional
        [um].
    weighting : {"drizzle", "emsm"}
        By overlap, or by exp(-distance^2) within a region of interest with the numbers of ``cubepar``.
    exposure_weights : {"none", "time", "ivar"}
        Further weight of each dither: 1 as in jwst, its exposure time, or one over the median of its variance.
    point_source : (float, float), optional
        Right ascension and declination [deg] of a point source: the wavelengths of each slice are corrected for
        where the source lies across it, and its transmission there is divided out, relative to the mean over the
        slice (which the flux calibration holds). For cubes of that source after its background was subtracted.
    mrsptcorr : Dataset, kind "mrsptcorr", optional
        Tables for ``point_source``.
    trace_model : Dataset, kind "trace_model", optional
        Of :func:`mrsxr.cal.fit_trace_model`, of these exposures. Each pixel near its source is cut in twelve along the
        slice and these get the continuum of the source at their places, as the mean of pixels of all phases shows it,
        plus the residual of the pixel, lines with it. Spectra of single spaxels lose the waves that come from the
        places of the pixels; apertures keep their light and the cube its PSF. Variances are those of the pixels. Only
        with "drizzle".
    incomplete_threshold : float or None
        Planes with fewer good spaxels than this times the 3rd percentile of all planes are blanked (the band
        edges where slices end at different wavelengths); None leaves them. With it every block needs the
        counts of all blocks.
    planes_per_block : int
        Planes of one dask block.

    Returns
    -------
    Dataset, level "cube"
        ``flux`` [MJy/sr], ``var`` [MJy2/sr2], ``weight`` (number of detector pixels that reach a voxel) and
        ``dq`` (0 good; 1 reached by unusable pixels only; 513 outside the field or blanked) on
        (wavelength, y, x); ``var_systematic`` [MJy2/sr2] where ``ds`` carries variances that are common to all
        dithers: (sum(w sigma) / sum(w))^2, not averaged down. Lazy by wavelength block where ``ds`` is lazy.

    Raises
    ------
    MrsxrError
        Where the band is not of the setting, a parameter is wrong or a table that it needs is missing.

    Notes
    -----
    Each pixel is a quadrilateral on the sky times an interval in wavelength. Its weight in a voxel is the
    area of overlap times the length of overlap; F = sum(w f) / sum(w), VAR = sum(w^2 var) / sum(w)^2 (Law et
    al. 2023, AJ 166, 45; jwst cube_build with weighting "drizzle"). Pixels that are DO_NOT_USE or not finite
    only leave holes; those that saturated leave SATURATED in all voxels that they reach, which may hold a part
    of the light only. NON_SCIENCE pixels are no part of the field. Wavelengths are barycentric for each dither.
    Formulas and signs of the terms of ``point_source`` follow from the names and units of their tables: no text was
    found that gives them, and they have not been checked on a star. The variance is that of single voxels: neighbours
    share pixels. Sums over planes get their errors by :func:`mrsxr.sums.variance_of_sum`, sums over spaxels by
    :func:`sum_variance`.

    Examples
    --------
    >>> cube = mx.cube.build_cube(cal, band="1A")
    >>> cube.flux.dims, cube.flux.attrs["units"]
    (('wavelength', 'y', 'x'), 'MJy/sr')
    >>> one_dither = mx.cube.build_cube(cal.isel(dither=[0]), band="1A", coord_system="ifualign")
    """
    options = {name: value for name, value in locals().items() if name not in ("ds", "band")}
    return cube_of([BandData.of(ds, band)], **options)


@reads()
@checked
def build_exposure_cubes(
    ds: xr.Dataset, *, band: Band, common_grid: bool = True, **options: Any,
) -> dict[str, xr.Dataset]:  # fmt: skip
    """Build a cube of each exposure.

    Parameters
    ----------
    ds : Dataset, level "cal"
    band : str
    common_grid : bool
        All on the grid of the dithered cube, so that they can be compared; otherwise each on its own, as jwst does
        in stage 2.
    **options
        Of :func:`build_cube`.

    Returns
    -------
    dict of exposure name to Dataset of level "cube", lazy where ``ds`` is

    Examples
    --------
    >>> cubes = mx.cube.build_exposure_cubes(cal, band="1A")
    >>> len(cubes)
    2
    """
    if common_grid and options.get("grid") is None:
        options["grid"] = CubeGrid.of(build_cube(ds.chunk(), band=band, **options))
    names = [str(name) for name in ds["exposure"].values]
    return {name: build_cube(ds.isel(dither=[i]), band=band, **options) for i, name in enumerate(names)}


def cube_of(
    parts: Sequence[BandData],
    *,
    cubepar: xr.Dataset | None,
    mrsptcorr: xr.Dataset | None,
    grid: CubeGrid | None,
    coord_system: CoordSystem,
    position_angle: float | None,
    center: tuple[float, float] | None,
    shape: tuple[int, int] | None,
    spaxel_size: float | None,
    wavelength_step: float | None,
    wavelength_min: float | None,
    wavelength_max: float | None,
    weighting: WeightingName,
    exposure_weights: ExposureWeights,
    point_source: tuple[float, float] | None,
    incomplete_threshold: float | None,
    planes_per_block: int,
    axis: WavelengthAxis | None = None,
    trace_model: xr.Dataset | None = None,
) -> xr.Dataset:
    """Return the cube of one or several bands, see :func:`build_cube` and :func:`build_multiband_cube`.

    ``axis`` is None for a cube of one band, whose planes bear no band.
    """
    names = list(dict.fromkeys(one.band for one in parts))
    facts = {band: grid_facts(band, cubepar) for band in names}
    if grid is None:
        whole = whole_facts(facts, spaxel_size, wavelength_step, wavelength_min, wavelength_max)
        box = axis == "table" or all(band[0] in "24" for band in names)
        turn = turn_of(parts[0], coord_system, position_angle)
        grid = sky_grid(parts, whole, box=box, turn=turn, center=center, shape=shape)
        grid = with_axis(grid, axis, facts, whole, cubepar)
    if trace_model is not None:
        if weighting != "drizzle":
            raise MrsxrError(f"a trace model goes with weighting 'drizzle', not '{weighting}'; leave one of both out")
        require_source(parts[0].ds, trace_model)
    systematic = any(has_systematic(one.ds) for one in parts)
    sources = []
    for one in parts:
        spread = weighting_of(weighting, one.band, cubepar, grid.spaxel_size)
        terms = None if point_source is None else point_terms(one, mrsptcorr, point_source)
        if terms is not None:
            tell(off_elsewhere(terms, one.band), aloud=False)  # as asked for
        sources.append(make_source(one, grid, spread, exposure_weights, systematic, terms, trace_model))
    planes = lazy_planes(
        sources, grid, systematic=systematic, threshold=incomplete_threshold, planes_per_block=planes_per_block
    )  # fmt: skip
    cube = as_dataset(planes, grid, lazy=any(is_lazy(one.ds) for one in parts))
    kind = "band"
    if axis is not None:
        labels = band_of_planes(grid.wavelengths, {band: (f["low"], f["high"]) for band, f in facts.items()})
        cube = cube.assign_coords(band=("wavelength", labels, {"long_name": "band of the plane"}))
        kind = "channel" if len({band[0] for band in names}) == 1 and axis == "linear" else "multi"
    built: dict[str, Any] = {"exposure_weights": exposure_weights}
    if point_source is not None:
        built["point_source"] = [float(angle) for angle in point_source]
    if trace_model is not None:
        found = chosen(trace_model, parts[0].band, parts[0].model["exposure"].values, parts[0].ranges.labels)
        cube = cube.assign(score_trace_model=found["score_trace_model"].variable)
    return attach_index(cube.assign_attrs(cube_attrs(parts, grid, weighting, kind) | built))


def make_source(
    one: BandData,
    grid: CubeGrid,
    weighting: Weighting,
    exposure_weights: ExposureWeights = "none",
    systematic: bool = False,
    terms: Sequence[PointTerms] | None = None,
    trace_model: xr.Dataset | None = None,
) -> Source:
    """Return the pixels of one band for the graph; nothing is computed.

    ``systematic`` frames carry a systematic error, 0 where the data have none; ``terms`` are one per dither.
    """
    model, x, y = one.model, one.ds["x"].values, one.ds["y"].values
    labels = model["slice"].values
    inputs = (FrameModel.of(model), x.astype(np.int16), y.astype(np.int16), one.band, one.ranges)
    pixels = dask.delayed(select_pixels, pure=True)(*(dask.delayed(value, traverse=False) for value in inputs))
    velosys = model["velosys"].values
    places = [
        placement(model, one.ranges, one.band, pointing, grid, speed)
        for pointing, speed in zip(one.pointings, velosys, strict=True)
    ]
    frames = _frames(one, pixels, _weights(one.ds, exposure_weights), systematic)
    if terms is not None:
        correct = dask.delayed(correct_frame, pure=True)
        frames = [
            correct(frame, pixels, dask.delayed(term, traverse=False))
            for frame, term in zip(frames, terms, strict=True)
        ]
    low, high = wavelength_span(labels, y, x, model, one.ranges.labels)
    scales = [place.scale for place in places]
    span = (
        min(scales) * low * (1 - 1e-3) - weighting.reach_wavelength,
        max(scales) * high * (1 + 1e-3) + weighting.reach_wavelength,
    )
    finer = [] if trace_model is None else _finer(one, pixels, frames, trace_model)
    return Source(pixels, frames, dask.delayed(places, traverse=False), weighting, span, finer)


def _finer(one: BandData, pixels: Any, frames: list[Any], trace_model: xr.Dataset) -> list[Any]:
    """Return the delayed parts of pixels of each exposure."""
    of = (one.band, one.model["exposure"].values.tolist(), one.ranges.labels)
    model = dask.delayed(TraceModel.of, pure=True)(as_delayed(chosen(trace_model, *of)), *of)
    split = dask.delayed(finer_pixels, pure=True)
    return [split(pixels, frame, model, d, one.ranges.beta) for d, frame in enumerate(frames)]


def _weights(ds: xr.Dataset, kind: str) -> list[float | str]:
    """Return the further weight of each dither."""
    n = ds.sizes["dither"]
    if kind != "time":
        return [1.0 if kind == "none" else "ivar"] * n
    times = ds["exposure_time"].values.astype(float)
    if not (np.isfinite(times) & (times > 0)).all():
        raise MrsxrError(f"exposure_weights 'time': exposure times are {times.tolist()} s; expected positive numbers")
    return [float(t) for t in times]


def _frames(one: BandData, pixels: Any, weights: Sequence[float | str], systematic: bool) -> list[Any]:
    """Return one delayed Frame per dither: the pixels of the band and nothing else."""
    ds, arrays = one.ds, []
    present = [name for name in SYSTEMATIC if name in ds]
    names = [*_FRAMES, *present] if systematic else list(_FRAMES)
    for name in names:
        data = ds[name].variable.data
        data = data if isinstance(data, da.Array) else da.from_array(data, chunks=(1, -1, -1))
        arrays.append(delayed_blocks(data.rechunk((1, -1, -1))).reshape(-1))
    gather = dask.delayed(gather_pixels, pure=True)
    zeros = [np.zeros((1, ds.sizes["y"], ds.sizes["x"]), np.float32)] if systematic and not present else []
    return [
        gather(pixels, *(array[i] for array in arrays), *zeros, exposure_weight=weights[i])
        for i in range(ds.sizes["dither"])
    ]


def has_systematic(ds: xr.Dataset) -> bool:
    """Return whether the data carry variances that are common to all dithers."""
    return any(name in ds for name in SYSTEMATIC)


def as_dataset(planes: dict[str, Any], grid: CubeGrid, *, lazy: bool) -> xr.Dataset:
    """Return the Dataset of a cube from its planes; computed where it is not to be lazy."""
    if not lazy:
        planes = dict(zip(planes, dask.compute(*planes.values(), **how()), strict=True))
    variables = {}
    for name, data in planes.items():
        attrs = {"units": units_of("cube", name), "long_name": meaning_of("cube", name)}
        variables[name] = (CUBE_DIMS, data, dict(flags.PIXEL_DQ_ATTRS) if name == "dq" else attrs)
    return xr.Dataset(variables, grid.coords())


def cube_attrs(parts: Sequence[BandData], grid: CubeGrid, weighting: str, kind: str) -> dict[str, Any]:
    """Return the attributes of a cube of one or several bands; the header is that of all exposures."""
    models = list({id(one.model): one.model for one in parts}.values())
    header = exposures_header(models)
    primary, sci = header["PRIMARY"], header["SCI"]
    _tell_frames(models)
    bands = list(dict.fromkeys(one.band for one in parts))
    names = list(dict.fromkeys(str(name) for one in parts for name in one.model["exposure"].values))
    attrs = {
        "band": " ".join(bands),
        "cube_type": kind,
        "channels": "".join(sorted({band[0] for band in bands})),
        "wcs": grid.header().tostring(sep="\n"),
        **grid.facts(),
        "wavelength_step": float(grid.wavelength_step) if grid.centres is None else float("nan"),
        "weighting": weighting,
        "source_type": str(sci.get("SRCTYPE") or primary.get("SRCTYPE") or primary.get("SRCTYAPT") or "UNKNOWN"),
        "exposures": names,
        "background": int(parts[0].ds.attrs.get("background", 0)),
        "fits_header": json.dumps(header),
    }
    attrs |= _marks(list({id(one.ds): one.ds for one in parts}.values()))
    for name, keyword in (("target_ra", "TARG_RA"), ("target_dec", "TARG_DEC")):
        value = primary.get(keyword, sci.get(keyword))
        attrs[name] = float(value) if value is not None else float("nan")
    return attrs


def _marks(datasets: Sequence[xr.Dataset]) -> dict[str, float]:
    """Return the part of the exposures to which each step was done; tell of those that were done to some only."""
    counts = [ds.sizes["dither"] for ds in datasets]
    shares = {mark: np.average([share_done(ds, mark) for ds in datasets], weights=counts) for mark in MARKS}
    for mark, share in shares.items():
        if 0 < share < 1:
            subject, done, _ = MARKS[mark]
            each = [zip(ds["exposure"].values, of_each(ds, mark), strict=True) for ds in datasets]
            names = [str(name) for one in each for name, value in one if not value]
            tell(f"{subject} not {done} in {', '.join(names)}, but in the other exposures of the cube", stacklevel=4)
    return {mark: int(share) if share == 1 else float(share) for mark, share in shares.items() if share}


def _tell_frames(models: Sequence[xr.Dataset]) -> None:
    """Tell where the wavelengths of some exposures are barycentric and those of others are not."""
    without = [
        str(name) for model in models
        for name, speed in zip(model["exposure"].values, model["velosys"].values, strict=True) if not np.isfinite(speed)
    ]  # fmt: skip
    if without and len(without) < sum(model.sizes["dither"] for model in models):
        tell(
            f"{', '.join(without)}: VELOSYS is missing, so that these wavelengths stay as observed, while those of the "
            "other exposures of the cube are barycentric",
            stacklevel=4,
        )
