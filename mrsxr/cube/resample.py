"""Cubes and maps brought onto the spaxels of another cube."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import units
from mrsxr.arguments import reads
from mrsxr.attributes import varied
from mrsxr.errors import MrsxrError, SchemaError
from mrsxr.geometry.index import attach_index
from mrsxr.geometry.overlap import overlaps, same_sky
from mrsxr.geometry.place import sky_of
from mrsxr.limits import Share, checked
from mrsxr.notes import listen, noted
from mrsxr.spaxels import facts_of, tell_growth
from mrsxr.step import recorded

_OUTSIDE = flags.value("DO_NOT_USE", "NON_SCIENCE")


@reads()
@checked
def regrid(ds: xr.Dataset, like: xr.Dataset, *, min_coverage: Share = 0.5) -> xr.Dataset:
    """Bring a cube or maps onto the sky grid of another cube, by exact areas of overlap.

    Parameters
    ----------
    ds : Dataset
        Cube, line maps, moments, channel maps: variables on (..., y, x), ``attrs["wcs"]`` or the index of ra and dec.
    like : Dataset
        Cube or maps whose ``y``, ``x`` are taken; may be cut.
    min_coverage : float
        Spaxels of the new grid of which less than this part is seen are NaN.

    Returns
    -------
    Dataset of the same level
        On ``y``, ``x``, ``ra``, ``dec`` of ``like``, with their index, ``wcs`` and ``pixel_scale``. Lazy as ``ds`` is.

        * surface brightness, velocities, widths: mean over the area that is seen;
        * what is counted per spaxel (W/m2, Jy/pix): the same mean times the ratio of areas, so that sums stay;
        * ``*_err``, ``upper_limit``, variances: of independent spaxels; ``var_systematic``: of errors in common;
        * ``snr``: of the new flux and error;
        * flags: all that overlap are OR-ed; other integers and strings: from the spaxel with the largest overlap.

    Raises
    ------
    MrsxrError
        Where one of the two has no sky grid, or the fields do not overlap.

    Notes
    -----
    With A the areas of overlap, f_new = sum A f / sum A and var_new = sum A^2 var / (sum A)^2. Spaxels smaller than the
    old ones share the same light, so that their errors are correlated: compare maps on the coarser of two grids.

    Examples
    --------
    >>> coarse = mx.simulate.simulate_cube(band="3A", wavelength=(13.0, 13.1))
    >>> fine = mx.simulate.simulate_cube(band="1A", wavelength=(5.4, 5.5))
    >>> mx.cube.regrid(fine, like=coarse).sizes["x"] == coarse.sizes["x"]
    True
    """
    if not 0.0 <= min_coverage <= 1.0:
        raise MrsxrError(f"min_coverage is {min_coverage}; expected a part of a spaxel, 0 to 1")
    with listen() as heard:
        out = _regridded(ds, like, min_coverage)
    return noted(varied(out, "regridded"), heard)


def _regridded(ds: xr.Dataset, like: xr.Dataset, min_coverage: float) -> xr.Dataset:
    source, target = sky_of(ds), sky_of(like)
    shape, old = (like.sizes["y"], like.sizes["x"]), (ds.sizes["y"], ds.sizes["x"])
    if same_sky(ds, like):
        return _on_grid_of(ds, like, {}, min_coverage)
    matrix, area = overlaps(source, old, target, shape)
    if matrix.nnz == 0:
        raise MrsxrError("the fields of both grids do not overlap; expected cubes of one place on the sky")
    plan = {"matrix": matrix, "area": area, "shape": shape, "least": float(min_coverage)}
    masked = ds["dq"] if "dq" in ds and ds["dq"].dims[-2:] == ("y", "x") else None
    changed: dict[Hashable, tuple[Any, ...]] = {}
    for name in ds.data_vars:
        if {"y", "x"} <= set(ds[name].dims):
            array = ds[name].transpose(..., "y", "x")
            kind = _kind(str(name), array)
            bad = masked if kind not in _WHOLE and masked is not None and masked.dims == array.dims else None
            per_spaxel = _per_spaxel(array.attrs.get("units", ""))
            options = {"kind": kind, "counted": tell_growth(ds) if per_spaxel else 0.0, **plan}
            changed[name] = (array.dims, _resampled(array, bad, options), array.attrs)
    out = _on_grid_of(ds, like, changed, min_coverage)
    return _finished(out)


def resample(
    values: np.ndarray, bad: np.ndarray | None = None, *, kind: str, counted: float, matrix: Any, area: np.ndarray,
    shape: tuple[int, int], least: float,
) -> np.ndarray:  # fmt: skip
    """Return maps on another grid.

    Parameters
    ----------
    values : array (map, y, x)
    bad : uint array (map, y, x), optional
        Flags; spaxels with DO_NOT_USE do not count.
    kind : {"mean", "error", "variance", "common", "dq", "flags", "label"}
        What becomes of the numbers, see :func:`regrid`; "common" is the variance of an error in common.
    counted : float
        0 of numbers per solid angle; of those that are counted per spaxel how many such spaxels make an old one: 1.
    matrix, area : sparse (new, old), array (new)
        From :func:`mrsxr.geometry.overlap.overlaps`.
    shape : (int, int)
        Rows and columns of the new grid.
    least : float
        Part of a new spaxel that must be seen.

    Returns
    -------
    array (map, rows, columns) of the dtype of ``values``
    """
    values = np.asarray(values)
    n = values.shape[0]
    if kind in _WHOLE:
        return _WHOLE[kind](values.reshape(n, -1), matrix).reshape(n, *shape)
    plain = values.reshape(n, -1).T.astype(float)
    good = np.isfinite(plain)
    if bad is not None:
        good &= ~flags.any_of(np.asarray(bad), "DO_NOT_USE").reshape(n, -1).T
    plain = np.where(good, plain, 0.0)
    if kind in ("error", "common"):
        plain = plain**2 if kind == "error" else np.sqrt(plain)
    square = kind in ("error", "variance")
    seen = matrix @ good.astype(float)
    total = (matrix.power(2) if square else matrix) @ plain
    enough = (seen > 0) & (seen >= least * area[:, None] * (1.0 - 1e-9))
    seen = np.where(enough, seen, 1.0)
    total = total / (seen**2 if square else seen)
    if kind in ("error", "common"):
        total = np.sqrt(total) if kind == "error" else total**2
    if counted:
        total *= (counted * area[:, None]) ** (2 if kind in ("variance", "common") else 1)
    return np.where(enough, total, np.nan).T.reshape(n, *shape).astype(values.dtype)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _kind(name: str, array: xr.DataArray) -> str:
    """Return what becomes of the numbers of a variable."""
    if name == "dq":
        return "dq"
    if array.dtype.kind == "u" or "flag_masks" in array.attrs:
        return "flags"
    if array.dtype.kind != "f":
        return "label"
    if name == "var_systematic":
        return "common"
    if name.startswith("var") or name.endswith("_var"):
        return "variance"
    return "error" if name.endswith("_err") or name == "upper_limit" else "mean"


def _per_spaxel(unit: str) -> bool:
    """Return whether a unit is that of light in a spaxel, not per solid angle, or the square of it."""
    try:
        parsed = units.parse(unit)
    except SchemaError:
        return False
    for power in (1.0, 0.5):
        try:
            return units.density_per(parsed**power) in ("pix", "")
        except SchemaError:
            continue
    return False


def _resampled(array: xr.DataArray, bad: xr.DataArray | None, options: dict[str, Any]) -> np.ndarray:
    """Return the data of a variable on the new grid, lazy where they are."""
    arrays = [a.variable.data for a in (array, bad) if a is not None]
    if not any(isinstance(a, da.Array) for a in arrays):
        return _resample_block(*arrays, options=options)
    chunks = next(a for a in arrays if isinstance(a, da.Array)).chunks
    arrays = [da.asarray(a).rechunk((*chunks[:-2], -1, -1)) for a in arrays]
    rows, columns = options["shape"]
    return da.map_blocks(
        _resample_block, *arrays, options=options, dtype=array.dtype, meta=np.empty((0,) * array.ndim, array.dtype),
        chunks=(*chunks[:-2], (rows,), (columns,)),
    )  # fmt: skip


def _resample_block(values: np.ndarray, bad: np.ndarray | None = None, *, options: dict[str, Any]) -> np.ndarray:
    old = values.shape[-2:]
    bad = None if bad is None else bad.reshape(-1, *old)
    return resample(values.reshape(-1, *old), bad, **options).reshape(*values.shape[:-2], *options["shape"])


def _all_flags(values: np.ndarray, matrix: Any, none: int = 0) -> np.ndarray:
    """Return the OR of the flags of all spaxels that overlap; ``none`` without any."""
    return _reduced(np.bitwise_or, values, matrix, none)


def _quality(values: np.ndarray, matrix: Any) -> np.ndarray:
    """Return the OR of the flags of usable spaxels, and those of no sky where there is no spaxel of sky."""
    good = np.where(flags.any_of(values, "DO_NOT_USE"), values.dtype.type(0), values)
    everywhere = _reduced(np.bitwise_and, values, matrix, _OUTSIDE)
    out = _all_flags(good, matrix)
    return np.where(flags.any_of(everywhere, "NON_SCIENCE"), out | values.dtype.type(_OUTSIDE), out)


def _reduced(function: np.ufunc, values: np.ndarray, matrix: Any, none: int) -> np.ndarray:
    start = matrix.indptr
    out = np.full((values.shape[0], matrix.shape[0]), none, values.dtype)
    lit = np.nonzero(np.diff(start) > 0)[0]
    if lit.size:
        out[:, lit] = function.reduceat(values[:, matrix.indices], start[lit], axis=1)
    return out


def _nearest(values: np.ndarray, matrix: Any) -> np.ndarray:
    """Return the value of the spaxel with the largest overlap; outside -1, "" or False."""
    start = matrix.indptr
    largest = np.zeros(matrix.shape[0], np.intp)
    lit = np.diff(start) > 0
    for target in np.nonzero(lit)[0]:
        row = slice(start[target], start[target + 1])
        largest[target] = matrix.indices[row][np.argmax(matrix.data[row])]
    none = np.array({"i": -1, "b": False}.get(values.dtype.kind, ""), dtype=values.dtype)
    return np.where(lit[None, :], values[:, largest], none)


_WHOLE = {"dq": _quality, "flags": _all_flags, "label": _nearest}


def _on_grid_of(
    ds: xr.Dataset, like: xr.Dataset, changed: dict[Any, tuple[Any, ...]], min_coverage: float
) -> xr.Dataset:
    """Return the new variables with the spaxels of ``like``, its WCS, and the history."""
    kept = ds if not changed else ds.drop_dims([d for d in ("y", "x") if d in ds.dims])
    if changed:
        sky = {d: like[d].variable for d in ("y", "x") if d in like.coords}
        kept = kept.assign_coords(sky).assign(changed)
        order = [name for name in ds.data_vars if name in kept.data_vars]
        kept = kept[order]
    attrs = {"wcs": like.attrs["wcs"]} if "wcs" in like.attrs else {}
    attrs |= facts_of(like) if changed else {}
    kept = recorded(ds, kept.assign_attrs(ds.attrs | attrs), "cube.regrid", min_coverage=min_coverage)
    return attach_index(kept) if "wcs" in kept.attrs else kept


def _finished(out: xr.Dataset) -> xr.Dataset:
    """Return the maps with signal to noise of the new fluxes, and with flags where voxels became NaN."""
    flux = next((name for name in ("flux", "moment0") if f"{name}_err" in out and name in out), None)
    if "snr" in out and flux is not None:
        snr = (out[flux] / out[f"{flux}_err"]).assign_attrs(out["snr"].attrs)
        out = out.assign(snr=snr.astype(out["snr"].dtype))
    if "dq" in out and "flux" in out and out["dq"].dims == out["flux"].dims:
        blind = out["flux"].isnull().astype(out["dq"].dtype) * out["dq"].dtype.type(flags.DO_NOT_USE)
        out = out.assign(dq=(out["dq"] | blind).assign_attrs(out["dq"].attrs))
    return out
