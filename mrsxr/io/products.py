"""Save Datasets and trees of any level and load them again: FITS, netCDF4, zarr."""

from __future__ import annotations

import importlib.util
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits
from xarray.backends.writers import to_netcdf

from mrsxr import tree
from mrsxr.arguments import need_data, need_paths
from mrsxr.attributes import encoded
from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.geometry.place import has_place
from mrsxr.inputs import other_units
from mrsxr.limits import checked_but
from mrsxr.threads import each

from ._detector import DETECTOR_LEVELS
from ._lines import lines_file
from ._names import exposures_of, inside, product_name, root_name, safe_name
from ._out_spectral import cube_file, spectrum_file, write_cube
from ._whole import ORDER, WHOLE, load_whole
from .atomic import replacing
from .exposures import open_exposures, open_one
from .files import SUFFIXES, classify
from .fits_out import check_level, exposure_file, write_fits
from .headers import MAPS, PRODUCTS
from .netcdf import LOCK
from .observation import open_observation

_INNER = 1 << 20  # bytes of a chunk inside a shard of zarr
FORMATS = {"fits": ".fits", "netcdf": ".nc", "zarr": ".zarr"}
_SUFFIX = {"cube": "s3d", "spectrum": "x1d", **{level: suffix for level, (suffix, *_) in MAPS.items()}}


@checked_but("data", "path")
def save(
    data: xr.Dataset | xr.DataTree,
    path: str | os.PathLike[str] | None = None,
    format: str | None = None,
    *,
    suffix: str | None = None,
    overwrite: bool = True,
) -> list[Path]:
    """Save a Dataset of any level, or a tree of them.

    Parameters
    ----------
    data : Dataset or DataTree
    path : path, optional
        A folder (made where needed; the files get their JWST names) or one file name; by default the current
        folder.
    format : "fits", "netcdf" or "zarr", optional
        By default from the file name, else FITS. FITS writes one file per dither for ramp, rate, rateints and
        cal and one file per cube or spectrum; netCDF and zarr write one file per Dataset or tree.
    suffix : str, optional
        Last part of the names of FITS files instead of the level's own, such as "crf".
    overwrite : bool
        Replace files that are there (each when the new one is whole). False: one that is there is an error, before
        anything is computed or written.

    Returns
    -------
    list of Path
        What was written. :func:`load` gives the data back as they were.

    Raises
    ------
    MrsxrError
        Where the level is unknown, two products would have one name, zarr is not installed, or a file is there that
        must not be overwritten.

    Examples
    --------
    >>> [path.suffix for path in mx.save(cube, "out")]
    ['.fits']
    >>> [path.name for path in mx.save(cube, "out/mine.nc")]
    ['mine.nc']
    """
    jobs = _jobs(data, path, format, suffix)
    there = [] if overwrite else [job.path for job in jobs if job.path.exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise MrsxrError(f"{there[0]}: exists already{more}; nothing was written, overwrite=True replaces it")
    return each(_done, jobs)


@checked_but("data", "path")
def planned(
    data: xr.Dataset | xr.DataTree, path: str | os.PathLike[str] | None = None, format: str | None = None,
    *, suffix: str | None = None,
) -> list[Path]:  # fmt: skip
    """Return the files that :func:`save` would write with the same arguments; nothing is written or computed."""
    return [job.path for job in _jobs(data, path, format, suffix)]


@dataclass(frozen=True)
class _Job:
    """One file to write: of what, which dither of it (from 0), in which form, where."""

    data: Any
    index: int
    form: str
    path: Path


def _jobs(
    data: xr.Dataset | xr.DataTree, path: str | os.PathLike[str] | None, format: str | None, suffix: str | None
) -> list[_Job]:
    need_data("save", data)
    need_paths("save", ["." if path is None else path])
    target = Path(path) if path is not None else Path()
    chosen = (_format_of(target) or "fits") if format is None else format
    if chosen not in FORMATS:
        raise MrsxrError(f"format '{chosen}' is unknown; expected one of {', '.join(FORMATS)}")
    is_file = _format_of(target) is not None
    if chosen != "fits":
        return [_Job(data, 0, chosen, target if is_file else inside(target, f"{_whole_name(data)}{FORMATS[chosen]}"))]
    if isinstance(data, xr.DataTree):
        if is_file:
            raise MrsxrError(f"{target}: a tree becomes several FITS files; give a folder")
        datasets = dict(tree.leaves(data))
    else:
        datasets = {"the data": data}
    found = [(of, index, name) for of, ds in datasets.items() for index, name in _names(ds, suffix)]
    if is_file:
        if len(found) != 1:
            raise MrsxrError(
                f"{target}: the data have {len(found)} dithers and become {len(found)} files; give a folder"
            )
        return [_Job(data, found[0][1], "fits", target)]
    owners: dict[str, str] = {}
    for of, index, name in found:
        here = of if len(datasets) > 1 else f"dither {index + 1}"
        if name in owners:
            raise MrsxrError(
                f"two products would have the name {name}: {owners[name]} and {here}; save them in folders of their own"
            )
        owners[name] = here
    return [_Job(datasets[of], index, "fits", inside(target, name)) for of, index, name in found]


def hdulist_of(ds: xr.Dataset, dither: int | None = None) -> fits.HDUList:
    """Return the FITS file of a Dataset, see :func:`mrsxr.io.to_hdulist`."""
    names = _names(ds, None)
    numbers = [int(n) for n in ds["dither"].values] if "dither" in ds.dims else [1]
    if dither is None and len(names) > 1:
        raise MrsxrError(f"the data hold {len(names)} exposures and become as many files; give dither=, from 1")
    if dither is not None and dither not in numbers:
        raise MrsxrError(f"there is no dither {dither}; expected one of {', '.join(map(str, numbers))}")
    return _hdus(ds, *names[0 if dither is None else numbers.index(dither)])


def _hdus(ds: xr.Dataset, index: int, name: str) -> fits.HDUList:
    level = ds.attrs["level"]
    if level == "cube":
        return cube_file(ds, name)
    if level == "spectrum":
        return spectrum_file(ds, name)
    return lines_file(ds, name) if level in MAPS else exposure_file(ds, index, name)


@checked_but("path")
def load(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    chunks: Mapping[str, Any] | str | None = None,
    **options: Any,
) -> xr.Dataset | xr.DataTree:
    """Open what :func:`save` or jwst wrote, lazily.

    Parameters
    ----------
    path : path or list of paths
        A FITS, netCDF or zarr product gives a Dataset (or the tree that was saved); a list of exposures of
        one setting gives one Dataset; any other list, a folder, a glob or an association gives a tree
        (:func:`open_observation`).
    chunks : mapping or "auto", optional
        dask chunks; by default those that suit the level.
    **options
        For :func:`open_observation` (level, background, on_error) or for a FITS file (source).

    Returns
    -------
    Dataset or DataTree

    Examples
    --------
    >>> cube = mx.load(cube_file)
    >>> cube.attrs["level"], cube.flux.dims
    ('cube', ('wavelength', 'y', 'x'))
    """
    need_paths("load", path)
    if not isinstance(path, str | os.PathLike):
        return _load_list(list(path), chunks, options)
    found = Path(path)
    if found.suffix == ".zarr":
        return load_whole(found, "zarr", chunks)
    if found.suffix in (".nc", ".nc4"):
        return load_whole(found, "netcdf4", chunks)
    if found.name.lower().endswith(SUFFIXES) and (os.path.isfile(found) or not set("*?[") & set(str(found))):
        return open_one(found, chunks=chunks, **options)
    return open_observation(path, chunks=chunks, **options)


@checked_but("path")
def load_dataset(path: str | os.PathLike[str], *, chunks: Mapping[str, Any] | str | None = None) -> xr.Dataset:
    """Open one product that holds one Dataset; as :func:`load`.

    Raises
    ------
    InputFileError
        Where the path holds a tree of several.
    """
    data = load(path, chunks=chunks)
    if not isinstance(data, xr.Dataset):
        raise InputFileError(f"{path}: holds several Datasets, expected one product")
    return data


def _names(ds: xr.Dataset, suffix: str | None) -> list[tuple[int, str]]:
    level = check_level(ds)
    if level in DETECTOR_LEVELS and (other := other_units(ds)):
        raise MrsxrError(
            f"FITS products hold {other[0]} in {other[2]}, got {other[1]}; convert_units(ds, '{other[2]}') before, or "
            "save as netcdf or zarr, which keep any units"
        )
    if level in DETECTOR_LEVELS:
        return [(i, f"{safe_name(name)}_{suffix or level}.fits") for i, name in enumerate(exposures_of(ds))]
    if level in _SUFFIX:
        return [(0, f"{product_name(ds)}_{suffix or _SUFFIX[level]}.fits")]
    raise MrsxrError(f"level '{level}' has no FITS layout; save it as netcdf or zarr")


def _done(job: _Job) -> Path:
    if job.form != "fits":
        return _save_whole(job.data, job.path, job.form)
    ds, index, path = job.data, job.index, job.path
    return write_cube(ds, path) if ds.attrs["level"] == "cube" else write_fits(_hdus(ds, index, path.name), path)


def _format_of(path: Path) -> str | None:
    name = path.name.lower()
    if name.endswith(SUFFIXES):
        return "fits"
    return {".nc": "netcdf", ".nc4": "netcdf", ".zarr": "zarr"}.get(path.suffix.lower())


def _load_list(paths: list[str | os.PathLike[str]], chunks: Any, options: dict[str, Any]) -> xr.Dataset | xr.DataTree:
    if not paths:
        raise InputFileError("no files to open")
    if options:
        return open_observation(paths, chunks=chunks, **options)
    if len(paths) == 1:
        return load(paths[0], chunks=chunks)
    infos = [classify(path) for path in paths]
    alike = len({(info.node, info.product) for info in infos}) == 1
    if alike and infos[0].product in PRODUCTS[:6]:
        return open_exposures(paths, chunks=chunks)
    return open_observation(paths, chunks=chunks)


# --- netCDF and zarr ---


def _save_whole(data: xr.Dataset | xr.DataTree, path: Path, chosen: str) -> Path:
    if chosen == "zarr" and importlib.util.find_spec("zarr") is None:
        raise MrsxrError("zarr is not installed; install it (pip install 'mrsxr[zarr]') or save as netcdf")
    ready: xr.Dataset | xr.DataTree
    if isinstance(data, xr.DataTree):
        parts = {p: _portable(ds) for p, ds in tree.leaves(data)}
        ready = tree.build(parts, **encoded(data.attrs), **{ORDER: json.dumps(list(parts))})
    else:
        check_level(data)
        ready = _portable(data)
    if chosen == "netcdf":
        return _save_netcdf(ready, path)
    return _save_zarr(ready, path)


def _save_netcdf(ready: xr.Dataset | xr.DataTree, path: Path) -> Path:
    """Write a netCDF file, its variables one after another as they stand in the Dataset.

    HDF5 gives a variable its place when its first value is written. So that those which threads compute lie where they
    always do, a value of each is written before.
    """
    nodes: list[tuple[xr.Dataset, str | None]] = [(ready, None)] if isinstance(ready, xr.Dataset) else [
        (node.to_dataset(inherit=node is ready), node.path) for node in ready.subtree
    ]  # fmt: skip
    options: dict[str, Any] = {"engine": "netcdf4", "multifile": True}
    with replacing(path) as temporary:
        for number, (ds, group) in enumerate(nodes):
            with LOCK:
                writer, store = to_netcdf(ds, str(temporary), "a" if number else "w", group=group, **options)
            store.lock = LOCK
            try:
                for target in writer.targets:
                    if all(target.shape):
                        target[(0,) * len(target.shape)] = np.zeros((), target.dtype)
                writer.sync()
            finally:
                with LOCK:
                    store.close()
    return path


def _save_zarr(ready: xr.Dataset | xr.DataTree, path: Path) -> Path:
    with replacing(path) as temporary:
        ready.attrs = {**ready.attrs, WHOLE: 1}
        options: dict[str, Any] = {"mode": "w", "consolidated": False, "zarr_format": 3, "write_empty_chunks": True}
        if isinstance(ready, xr.Dataset):
            sharded, encoding = _sharded(ready)
            sharded.to_zarr(temporary, encoding=encoding, **options)
        else:
            parts = {node.path: _sharded(node.to_dataset(inherit=False)) for node in ready.subtree}
            whole = xr.DataTree.from_dict({path: ds for path, (ds, _) in parts.items()})
            whole.to_zarr(temporary, encoding={path: one for path, (_, one) in parts.items()}, **options)
    return path


def _sharded(ds: xr.Dataset) -> tuple[xr.Dataset, dict[str, Any]]:
    """Return a Dataset as format 3 of zarr holds it, and the encodings of its variables.

    A chunk of dask is a shard, one file; inside it lie chunks of about a megabyte, which are read by themselves. Texts
    are of the one type of text that the format has.
    """
    encoding: dict[str, Any] = {}
    for name, variable in ds.variables.items():
        if variable.dtype.kind == "U":
            ds = ds.assign_coords({name: variable.astype(np.dtypes.StringDType())})
        elif variable.ndim and name in ds.data_vars and all(variable.shape):
            shard = tuple(sizes[0] for sizes in variable.chunks or ((n,) for n in variable.shape))
            if variable.chunks and any(size != sizes[0] for sizes in variable.chunks for size in sizes[:-1]):
                ds = ds.assign({name: variable.chunk(dict(zip(variable.dims, shard, strict=True)))})
            axis = next((k for k, n in enumerate(shard) if n > 1), 0)
            rest = variable.dtype.itemsize * math.prod(shard[axis + 1 :])
            inner = next(n for n in range(min(max(_INNER // rest, 1), shard[axis]), 0, -1) if shard[axis] % n == 0)
            encoding[str(name)] = {"shards": shard, "chunks": (*shard[:axis], inner, *shard[axis + 1 :])}
    return ds, encoding


def _whole_name(data: xr.Dataset | xr.DataTree) -> str:
    if isinstance(data, xr.Dataset):
        level = check_level(data)
        return f"{product_name(data)}_{_SUFFIX.get(level, level)}"
    first = next((ds for _, ds in tree.leaves(data)), None)
    if first is None:
        raise MrsxrError("the tree holds no data; there is nothing to save")
    level = check_level(first)
    return f"{root_name(first)}_{_SUFFIX.get(level, level)}"


def _portable(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset that netCDF and zarr can hold: ra and dec as numbers, no encodings of the file it came from."""
    if ds.attrs.get("wcs") and has_place(ds) and {"ra", "dec"} <= set(ds.coords):  # loading gives the index again
        sky = {name: ds[name].variable.to_base_variable().load() for name in ("ra", "dec")}
        ds = ds.drop_vars(["ra", "dec"]).assign_coords(sky)
    ds = ds.drop_encoding()
    for name in ds.variables:
        ds[name].attrs = encoded(ds[name].attrs)
    ds.attrs = encoded(ds.attrs)
    return ds
