"""Cube building: all dithers of one band drizzled onto a regular (wavelength, y, x) grid."""

from __future__ import annotations

import json
from collections.abc import Sequence

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import mrs
from mrsxr.chunks import CUBE_PLANES
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.geometry.grid import CubeGrid, make_grid, slicer_angle
from mrsxr.geometry.index import attach_index
from mrsxr.geometry.sky import Pointing, barycentric
from mrsxr.schema import CUBE_DIMS, DITHER_COORDS, WCS_VARIABLES, meaning_of, units_of
from mrsxr.step import step

from . import footprint
from .footprint import BandPixels

NO_COVERAGE = flags.DO_NOT_USE | flags.NON_SCIENCE
_FRAMES = ("flux", "var_poisson", "var_read", "var_flat", "dq")
_PLANES = {"flux": np.float32, "var": np.float32, "weight": np.float32, "dq": np.uint32}


@step(needs="cal", gives="cube")
def build_cube(
    ds: xr.Dataset,
    *,
    band: str,
    cubepar: xr.Dataset | None = None,
    grid: CubeGrid | None = None,
    coord_system: str = "skyalign",
    position_angle: float | None = None,
    center: tuple[float, float] | None = None,
    shape: tuple[int, int] | None = None,
    spaxel_size: float | None = None,
    wavelength_step: float | None = None,
    wavelength_min: float | None = None,
    wavelength_max: float | None = None,
    tear_threshold: float | None = 0.75,
    planes_per_block: int = CUBE_PLANES,
) -> xr.Dataset:
    """Build the cube of one band from all dithers of a setting by three-dimensional drizzling.

    Parameters
    ----------
    ds : Dataset, level "cal"
        ``flux`` [MJy/sr], the variances [MJy2/sr2], ``dq``, ``slice`` and ``alpha`` [arcsec] on the detector,
        the WCS variables and the pointing of each dither.
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
    tear_threshold : float or None
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
        (wavelength, y, x). Lazy by wavelength block where ``ds`` is lazy.

    Notes
    -----
    Each pixel is a quadrilateral on the sky times an interval in wavelength. Its weight in a voxel is the
    area of overlap times the length of overlap; F = sum(w f) / sum(w), VAR = sum(w^2 var) / sum(w)^2 (Law et
    al. 2023, AJ 166, 45; jwst cube_build with weighting "drizzle"). Pixels that are DO_NOT_USE or not finite
    only leave holes; NON_SCIENCE pixels are no part of the field. Wavelengths are barycentric for each
    dither. The variance is that of single voxels: neighbours share pixels and their covariance is not
    carried.
    """
    _check_band(ds, band)
    model = _small_parts(ds)
    ranges = footprint.slice_ranges(model, footprint.band_columns(band, ds["x"].values))
    pointings = [Pointing.of(model, i) for i in range(ds.sizes["dither"])]
    if grid is None:
        turn = _position_angle(model, band, coord_system, position_angle, pointings[0])
        corners = _corners(model, band, ranges, pointings, turn)
        facts = _grid_facts(band, cubepar, spaxel_size, wavelength_step, wavelength_min, wavelength_max)
        grid = make_grid(
            *corners, facts["limits"], facts["spaxel"], facts["step"],
            position_angle=turn or 0.0, center=center, shape=shape,
        )  # fmt: skip
    ours = [i for i, name in enumerate(ranges.bands) if name == band]
    ranges = footprint.SliceRanges(
        ranges.labels[ours],
        (band,) * len(ours),
        ranges.beta[ours],
        ranges.alpha_low[ours],
        ranges.alpha_high[ours],
    )
    blocks = _lazy_blocks(ds, model, band, grid, ranges, pointings, tear_threshold, planes_per_block)
    lazy = any(ds[name].chunks is not None for name in _FRAMES)
    cube = _as_dataset(blocks if lazy else dict(zip(blocks, dask.compute(*blocks.values()), strict=True)), grid)
    return attach_index(cube.assign_attrs(_cube_attrs(model, band, grid)))


def _check_band(ds: xr.Dataset, band: str) -> None:
    setting = ds.attrs.get("setting", "")
    if mrs.setting_of_band(band) != setting:
        raise MrsxrError(
            f"band {band} is not on setting {setting}; expected {' or '.join(mrs.bands_of_setting(setting))}"
        )
    missing = [name for name in ("slice", "alpha", *(v.name for v in WCS_VARIABLES)) if name not in ds.variables]
    if missing:
        raise LevelError(f"setting {setting}: {', '.join(missing)} missing; run assign_wcs before build_cube")


def _small_parts(ds: xr.Dataset) -> xr.Dataset:
    """Return slice map, alpha, WCS variables and pointings in memory; the grid is laid out from them."""
    names = ["slice", "alpha", *(v.name for v in WCS_VARIABLES), *(v.name for v in DITHER_COORDS)]
    return ds[names].compute(scheduler="synchronous")


def _position_angle(ds, band, coord_system, position_angle, pointing) -> float | None:
    if coord_system not in ("skyalign", "ifualign"):
        raise MrsxrError(f"coord_system is '{coord_system}'; expected 'skyalign' or 'ifualign'")
    if coord_system == "skyalign":
        return position_angle
    if position_angle is not None:
        raise MrsxrError("position_angle goes with coord_system 'skyalign'; 'ifualign' sets its own")
    return slicer_angle(band, ds, pointing)


def _corners(ds, band, ranges, pointings, turn) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of all footprints: boxes of the whole detector for channels 2 and 4, as jwst."""
    box = turn is None and band[0] in "24"
    if box:
        ranges = footprint.slice_ranges(ds, np.ones(ds.sizes["x"], dtype=bool))
    corners = [footprint.corners_on_sky(ds, ranges, pointing, box) for pointing in pointings]
    return np.concatenate([c[0] for c in corners]), np.concatenate([c[1] for c in corners])


def _grid_facts(band, cubepar, spaxel_size, wavelength_step, wavelength_min, wavelength_max) -> dict:
    channel = int(band[0])
    low, high = mrs.WAVELENGTH_LIMITS[band]
    facts = {
        "spaxel": mrs.SPAXEL_SIZE[channel],
        "step": mrs.WAVELENGTH_STEP[channel],
        "low": low,
        "high": high,
    }
    names = {
        "spaxel": "spaxel_size",
        "step": "wavelength_step",
        "low": "wavelength_min",
        "high": "wavelength_max",
    }
    if cubepar is not None:
        row = cubepar.sel(band=band)
        facts |= {key: float(row[name]) for key, name in names.items()}
        # jwst holds the limits of a cubepar file in float32: its planes begin 1e-7 um off the decimal number
        facts |= {key: float(np.float32(facts[key])) for key in ("low", "high")}
    given = {"spaxel": spaxel_size, "step": wavelength_step, "low": wavelength_min, "high": wavelength_max}
    facts |= {key: float(value) for key, value in given.items() if value is not None}
    if not (facts["spaxel"] > 0 and facts["step"] > 0 and facts["high"] > facts["low"]):
        raise MrsxrError(
            f"band {band}: spaxel {facts['spaxel']} arcsec, step {facts['step']} um and limits {facts['low']} "
            f"to {facts['high']} um make no grid; expected positive sizes and rising limits"
        )
    return {"spaxel": facts["spaxel"], "step": facts["step"], "limits": (facts["low"], facts["high"])}


def _lazy_blocks(ds, model, band, grid, ranges, pointings, tear_threshold, planes_per_block) -> dict[str, da.Array]:
    """Return the four planes of the cube as dask arrays in blocks of wavelength."""
    labels, x, y = model["slice"].values, ds["x"].values, ds["y"].values
    table = model[[v.name for v in WCS_VARIABLES]].reset_coords()
    inputs = (dask.delayed(value, traverse=False) for value in (labels, x, y, table, band, ranges))
    pixels = dask.delayed(footprint.select_pixels, pure=True)(*inputs)
    frames = _frames(ds, pixels)
    edges = [footprint.slice_edges(model, ranges, band, pointing, grid) for pointing in pointings]
    scales = [float(barycentric(1.0, float(v))) for v in model["velosys"].values]
    drizzle = dask.delayed(drizzle_planes, pure=True, nout=len(_PLANES))
    starts = range(0, grid.nz, planes_per_block)
    sizes = [min(planes_per_block, grid.nz - start) for start in starts]
    geometry = dask.delayed(list(zip(edges, scales, strict=True)), traverse=False)
    shared_grid = dask.delayed(grid, traverse=False)
    blocks = [
        drizzle(start, size, pixels, frames, geometry, shared_grid) for start, size in zip(starts, sizes, strict=True)
    ]
    if tear_threshold is not None:
        counts = [dask.delayed(good_spaxels, pure=True)(block[3]) for block in blocks]
        torn = dask.delayed(torn_planes, pure=True)(counts, tear_threshold)
        blank = dask.delayed(blank_planes, pure=True, nout=len(_PLANES))
        blocks = [blank(block, torn, start) for block, start in zip(blocks, starts, strict=True)]
    planes = {}
    for number, (name, dtype) in enumerate(_PLANES.items()):
        parts = [
            da.from_delayed(block[number], (size, grid.ny, grid.nx), dtype)
            for block, size in zip(blocks, sizes, strict=True)
        ]
        planes[name] = da.concatenate(parts, axis=0)
    return planes


def _frames(ds: xr.Dataset, pixels) -> list:
    """Return one delayed (value, variance, status) per dither: the pixels of the band and nothing else."""
    arrays = []
    for name in _FRAMES:
        data = ds[name].variable.data
        data = data if isinstance(data, da.Array) else da.from_array(data, chunks=(1, -1, -1))
        arrays.append(data.rechunk((1, -1, -1)).to_delayed().reshape(-1))
    gather = dask.delayed(gather_pixels, pure=True)
    return [gather(pixels, *(array[i] for array in arrays)) for i in range(ds.sizes["dither"])]


def gather_pixels(pixels: BandPixels, flux, var_poisson, var_read, var_flat, dq):
    """Return value [MJy/sr], variance [MJy2/sr2] and status of the pixels of a band in one exposure.

    Parameters
    ----------
    pixels : BandPixels
    flux, var_poisson, var_read, var_flat, dq : arrays (1, y, x)

    Returns
    -------
    value, variance : float32 arrays (pixel)
    status : uint8 array (pixel)
        0 good; 1 DO_NOT_USE or not finite; 2 NON_SCIENCE.
    """
    value = flux.reshape(-1)[pixels.index]
    variance = sum(v.reshape(-1)[pixels.index] for v in (var_poisson, var_read, var_flat))
    bits = dq.reshape(-1)[pixels.index]
    bad = flags.any_of(bits, "DO_NOT_USE") | ~np.isfinite(value) | ~np.isfinite(variance)
    status = np.where(flags.any_of(bits, "NON_SCIENCE"), 2, np.where(bad, 1, 0)).astype(np.uint8)
    return value, variance, status


def drizzle_planes(start: int, size: int, pixels: BandPixels, frames: Sequence, geometry: Sequence, grid: CubeGrid):
    """Drizzle all dithers onto the planes ``start .. start + size - 1`` of a grid.

    Parameters
    ----------
    start, size : int
        First plane and number of planes.
    pixels : BandPixels
    frames : sequence of (value, variance, status), one per dither
    geometry : sequence of ((edges, middle, half), barycentric factor), one per dither
    grid : CubeGrid

    Returns
    -------
    tuple of arrays (size, ny, nx)
        flux [MJy/sr], var [MJy2/sr2], weight (number of pixels), dq.
    """
    from ._drizzle_kernels import drizzle_block

    shape = (size, grid.ny, grid.nx)
    flux, weight, var, count = (np.zeros(shape) for _ in range(4))
    hole = np.zeros(shape, dtype=np.uint8)
    middle = 0.5 * (pixels.low + pixels.high)
    low = grid.wavelength_start + start * grid.wavelength_step
    high = low + size * grid.wavelength_step
    for (value, variance, status), ((edges, alpha_middle, alpha_half), scale) in zip(frames, geometry, strict=True):
        first = int(np.searchsorted(middle, low / scale - pixels.widest))
        last = int(np.searchsorted(middle, high / scale + pixels.widest))
        drizzle_block(
            first, last, pixels.slice_index, pixels.alpha_left, pixels.alpha_right, pixels.low, pixels.high,
            value, variance, status, edges, alpha_middle, alpha_half, scale,
            grid.wavelength_start, grid.wavelength_step, start, flux, weight, var, count, hole,
        )  # fmt: skip
    good = weight > 0
    nan = np.float32(np.nan)
    np.divide(flux, weight, out=flux, where=good)
    np.divide(var, weight**2, out=var, where=good)
    dq = np.where(good, 0, np.where(hole > 0, flags.DO_NOT_USE, NO_COVERAGE)).astype(np.uint32)
    return (
        np.where(good, flux, nan).astype(np.float32),
        np.where(good, var, nan).astype(np.float32),
        count.astype(np.float32),
        dq,
    )


def good_spaxels(dq: np.ndarray) -> np.ndarray:
    """Return the number of good spaxels of each plane."""
    return np.count_nonzero(dq == 0, axis=(1, 2))


def torn_planes(counts: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """Return True for each plane of the cube whose number of good spaxels is too low.

    Parameters
    ----------
    counts : sequence of int arrays
        Good spaxels of each plane, block by block.
    threshold : float
        Fraction of the 3rd percentile of the planes that hold data (jwst: 0.75).

    Returns
    -------
    bool array (wavelength)
    """
    good = np.concatenate(list(counts))
    if not (good > 0).any():
        return np.zeros(good.shape, dtype=bool)
    return (good > 0) & (good < threshold * np.percentile(good[good > 0], 3))


def blank_planes(block: Sequence[np.ndarray], torn: np.ndarray, start: int):
    """Return a block of the cube with its torn planes set to NaN, weight 0 and DO_NOT_USE | NON_SCIENCE."""
    mine = torn[start : start + block[0].shape[0]]
    if not mine.any():
        return tuple(block)
    fill = (np.float32(np.nan), np.float32(np.nan), np.float32(0), np.uint32(NO_COVERAGE))
    out = []
    for plane, value in zip(block, fill, strict=True):
        changed = plane.copy()
        changed[mine] = value
        out.append(changed)
    return tuple(out)


def _as_dataset(planes: dict, grid: CubeGrid) -> xr.Dataset:
    variables = {}
    for name, data in planes.items():
        attrs = {"units": units_of("cube", name), "long_name": meaning_of("cube", name)}
        variables[name] = (CUBE_DIMS, data, dict(flags.PIXEL_DQ_ATTRS) if name == "dq" else attrs)
    return xr.Dataset(variables, grid.coords())


def _cube_attrs(ds: xr.Dataset, band: str, grid: CubeGrid) -> dict:
    first = json.loads(str(ds["fits_header"].values[0]) or "{}")
    primary, sci = first.get("PRIMARY", {}), first.get("SCI", {})
    attrs = {
        "band": band,
        "channels": band[0],
        "wcs": grid.header().tostring(sep="\n"),
        "pixel_scale": float(grid.spaxel_size),
        "wavelength_step": float(grid.wavelength_step),
        "weighting": "drizzle",
        "source_type": str(sci.get("SRCTYPE") or primary.get("SRCTYPE") or primary.get("SRCTYAPT") or "UNKNOWN"),
        "exposures": json.dumps([str(name) for name in ds["exposure"].values]),
        "background": int(ds.attrs.get("background", 0)),
        "fits_header": str(ds["fits_header"].values[0]),
    }
    for name, keyword in (("target_ra", "TARG_RA"), ("target_dec", "TARG_DEC")):
        value = primary.get(keyword, sci.get(keyword))
        attrs[name] = float(value) if value is not None else float("nan")
    return attrs
