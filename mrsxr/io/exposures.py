"""Exposures of one detector setting as one Dataset."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import tree
from mrsxr.arguments import need_paths
from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.limits import checked_but
from mrsxr.notes import noted, tell

from . import _slicer
from ._backend import open_file
from ._detector import preferred_chunks
from .files import DETECTOR_PRODUCTS, FileInfo, classify
from .grouping import Exposure, plan
from .headers import MAPS
from .sources import in_blocks

_STATIC = frozenset(_slicer.STATIC)


@checked_but("paths")
def open_exposures(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    chunks: Mapping[str, Any] | str | None = None,
    allow_missing: bool = False,
    one_product: bool = False,
) -> xr.Dataset:
    """Open the exposures (dithers) of one detector setting and level as one lazy Dataset.

    Parameters
    ----------
    paths : path or list of paths
        FITS files of one product (uncal, ramp, rate, rateints, cal or crf).
    chunks : mapping or "auto", optional
        dask chunks; by default those that suit the level (:mod:`mrsxr.chunks`).
    allow_missing : bool
        Take an exposure of which segments are missing; its notes say so.
    one_product : bool
        Open exposures together whose targets or fields differ.

    Returns
    -------
    Dataset
        Files that are one exposure count once, segments are joined along ``integration``. Sorted
        by dither position (PATT_NUM, else exposure number); nothing is computed.

    Raises
    ------
    InputFileError
        Where the files differ in setting, product, role, target, size or slice coordinates, or one cannot be read.

    Examples
    --------
    >>> ramp = mx.open_exposures(sorted(uncal_folder.glob("*mirifushort_uncal.fits")))
    >>> ramp.attrs["setting"], ramp.sci.dims
    ('12A', ('dither', 'integration', 'group', 'y', 'x'))
    """
    names = [paths] if isinstance(paths, str | os.PathLike) or not np.iterable(paths) else list(paths)
    need_paths("open_exposures", paths if isinstance(paths, xr.Dataset | xr.DataTree | xr.DataArray) else names)
    if not names:
        raise InputFileError("no files to open")
    folder = next((name for name in names if os.path.isdir(name) or "*" in str(name)), None)
    if folder is not None:
        raise InputFileError(f"{folder}: expected files of one setting; open_observation takes folders and patterns")
    infos = sorted((classify(path) for path in names), key=lambda info: info.order)
    for info in infos:
        if info.product not in DETECTOR_PRODUCTS:
            raise InputFileError(f"{info.path}: is a {info.product} product, expected exposures; open it with load()")
    for what, values in (
        ("setting", [i.node for i in infos]),
        ("product", [i.product for i in infos]),
        ("role", [i.role for i in infos]),
    ):
        if len(set(values)) > 1:
            other = next(i for i, value in zip(infos, values, strict=True) if value != values[0])
            raise InputFileError(
                f"the exposures mix the {what}s {', '.join(sorted(set(values)))} ({infos[0].path.name} and "
                f"{other.path.name}); open each by itself or use open_observation"
            )
    found = plan(infos, allow_missing=allow_missing, one_product=one_product).check(names)
    for text in found.notes:
        tell(text)
    return open_planned(found.exposures, chunks=chunks)


def open_planned(exposures: Sequence[Exposure], *, chunks: Mapping[str, Any] | str | None = None) -> xr.Dataset:
    """Open exposures of one setting and product, in the order given.

    Parameters
    ----------
    exposures : list of Exposure
        Of a :func:`mrsxr.io.grouping.plan`; segments are joined along ``integration``.
    chunks : mapping or "auto", optional

    Returns
    -------
    Dataset
        Its ``attrs["notes"]`` say what is odd about an exposure.
    """
    first = _open_exposure(exposures[0], chunks)
    if len(exposures) == 1:
        return first
    infos = [one.info for one in exposures]
    calibrated = "slice" in first.variables or "alpha_coefficients" in first.variables
    static = [name for name in first.variables if "dither" not in first[name].dims and name not in first.dims]
    static = [name for name in (*static, "slice_label", "band") if name in first.variables]
    others = [_open_exposure(one, chunks, _STATIC if calibrated else frozenset()) for one in exposures[1:]]
    if calibrated:
        _same_slices(infos, [first, *others])
    bare = [ds.drop_vars([name for name in static if name in ds.variables]) for ds in (first, *others)]
    joined = tree.join_dithers(bare)
    kept = [int(ds["dither"].values[0]) for ds in bare]
    if len(set(kept)) == len(kept) and kept == sorted(kept):
        joined = joined.assign_coords(dither=("dither", np.array(kept)))
    joined = joined.assign_coords({name: first[name] for name in static if name in first.coords})
    joined = joined.assign({name: first[name] for name in static if name in first.data_vars})
    if any(info.role == "background" for info in infos):
        joined.attrs["background"] = 1
    return joined


def _open_exposure(
    exposure: Exposure, chunks: Mapping[str, Any] | str | None, drop: frozenset[str] = frozenset()
) -> xr.Dataset:
    parts = [open_one(info.path, chunks=chunks, drop=drop) for info in exposure.files]
    ds = parts[0] if len(parts) == 1 else _join_segments(parts, exposure.name, chunks)
    return noted(ds, exposure.notes)


def _join_segments(parts: list[xr.Dataset], name: str, chunks: Mapping[str, Any] | str | None) -> xr.Dataset:
    """Join the segments of an exposure along its integrations; the header is that of the whole."""
    sizes = [{d: n for d, n in ds.sizes.items() if d != "integration"} for ds in parts]
    if any(other != sizes[0] for other in sizes):
        raise InputFileError(f"{name}: its segments differ in size ({sizes}); they are not of one exposure")
    joined = xr.concat(
        parts, dim="integration", data_vars="minimal", coords="minimal", compat="override", join="override",
        combine_attrs="override",
    )  # fmt: skip
    count = joined.sizes["integration"]
    header = json.loads(str(joined["fits_header"].values[0]))
    primary = header.setdefault("PRIMARY", {})
    numbers = joined["integration"].values
    primary |= {"NINTS": count, "INTSTART": int(numbers[0]), "INTEND": int(numbers[-1]), "EXSEGNUM": 1, "EXSEGTOT": 1}
    fresh: dict[str, Any] = {"exposure": ("dither", np.array([name])),
                             "fits_header": ("dither", np.array([json.dumps(header)]))}  # fmt: skip
    if primary.get("EFFINTTM"):
        time = np.array([float(primary["EFFINTTM"]) * count])
        fresh["exposure_time"] = ("dither", time, joined["exposure_time"].attrs)
    joined = joined.assign_coords(fresh).assign_attrs(n_integrations=count)
    for variable in joined.data_vars.values():
        variable.encoding["preferred_chunks"] = preferred_chunks(joined.attrs["level"], joined.sizes, variable.dims)
    return chunked(joined, chunks)


def open_one(
    path: str | os.PathLike[str],
    *,
    chunks: Mapping[str, Any] | str | None = None,
    drop: frozenset[str] = frozenset(),
    **options: Any,
) -> xr.Dataset:
    """Open one file of any level with dask arrays and, for a cube, its sky coordinates.

    Parameters
    ----------
    path : path
    chunks : mapping or "auto", optional
        By default the chunks that suit the level.
    drop : frozenset of str
        Variables to leave out.
    **options
        For the engine ("source").

    Returns
    -------
    Dataset
    """
    ds = chunked(open_file(path, drop=drop, **options), chunks)
    return with_sky_index(ds) if "wcs" in ds.attrs else ds


def chunked(ds: xr.Dataset, chunks: Mapping[str, Any] | str | None = None) -> xr.Dataset:
    """Return a Dataset with dask arrays as data variables; coordinates stay in memory.

    Parameters
    ----------
    ds : Dataset
        As the engine gives it; spectra and lines, which are small and in memory, stay as they are.
    chunks : mapping or "auto", optional
        By default the preferred chunks of each variable.

    Returns
    -------
    Dataset
    """
    if ds.attrs.get("level") in ("spectrum", *MAPS):
        return ds
    encoding = dict(ds.encoding)
    lazy = {}
    for name, found in ds.data_vars.items():
        wanted: Any = found.encoding.get("preferred_chunks", {})
        if chunks == "auto":
            wanted = dict.fromkeys(found.dims, "auto")
        elif isinstance(chunks, Mapping):
            wanted = wanted | {dim: size for dim, size in chunks.items() if dim in found.dims}
        elif chunks is not None:
            raise MrsxrError(f"chunks is {chunks!r}; expected a mapping of dim to size, 'auto' or None")
        if found.ndim and name not in _STATIC:
            lazy[name] = in_blocks(found.variable, wanted)
    out = ds.assign(lazy)
    out.encoding = encoding
    return out


def with_sky_index(cube: xr.Dataset) -> xr.Dataset:
    """Return a cube, or maps, with ra and dec of the spaxels (CelestialIndex), unchanged where no WCS tells them."""
    from mrsxr.geometry.index import attach_index
    from mrsxr.geometry.place import has_place

    try:
        if not cube.attrs.get("wcs") or not has_place(cube):
            return cube
        return attach_index(cube.drop_vars(["ra", "dec"], errors="ignore"))
    except MrsxrError:
        raise
    except Exception as error:  # of wcslib
        where = cube.encoding.get("source", "the cube")
        raise InputFileError(f"{where}: the WCS of the cube cannot be read ({str(error)[:200]})") from error


def _same_slices(infos: Sequence[FileInfo], datasets: Sequence[xr.Dataset]) -> None:
    if len({ds.encoding.get("slicer_digest", "") for ds in datasets}) > 1:
        names = ", ".join(info.path.name for info in infos)
        raise InputFileError(
            f"the slice coordinates of the files differ ({names}): they were made with different distortion files; "
            "calibrate them alike"
        )
