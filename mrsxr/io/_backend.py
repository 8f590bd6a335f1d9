"""The xarray engine "jwst": opens MIRI MRS files of every level by their headers, lazily."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint

from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.notes import listen, noted

from . import _detector, _lines, _meta, _spectral
from ._checks import check_keywords
from .headers import MAP_MODELS, FitsFile, product_of, read_layout, require, require_mrs

log = logging.getLogger(__name__)

_NEEDED = ("DETECTOR", "BAND", "READPATT", "NGROUPS", "NINTS", "TGROUP")


class JwstBackendEntrypoint(BackendEntrypoint):
    """Open JWST MIRI MRS FITS files (uncal, ramp, rate, rateints, cal, crf, s3d, x1d) and line fits with xarray.

    ``xr.open_dataset(path, engine="jwst", chunks={})`` gives dask arrays in chunks that suit the level.
    Files that jwst wrote and files of :func:`mrsxr.io.save` open alike. Plain files are read by memory map
    when their numbers are needed. A file compressed as a whole (gzip) is read at once;
    ``ds.encoding["read_eagerly"]`` is then True.
    """

    description = "JWST MIRI MRS products in FITS"
    open_dataset_parameters = ("filename_or_obj", "drop_variables", "source")
    supports_groups = True

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[str],
        *,
        drop_variables: str | Iterable[str] | None = None,
        source: int | None = None,
    ) -> xr.Dataset:
        """Return the Dataset of one file.

        Parameters
        ----------
        filename_or_obj : path
        drop_variables : str or iterable of str, optional
            Variables to leave out.
        source : int, optional
            Which spectrum of an x1d file with several, from 1.

        Returns
        -------
        Dataset of the level that the file holds, not computed; cubes and maps with ``ra``, ``dec`` and their index

        Raises
        ------
        InputFileError
            Where the file is missing, truncated, of another instrument or lacks a keyword.
        """
        from .exposures import with_sky_index

        drop = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        ds = open_file(filename_or_obj, drop=frozenset(drop), source=source)
        ds = ds if {"ra", "dec"} & drop else with_sky_index(ds)
        return ds.drop_vars(drop & set(ds.variables))

    def open_datatree(  # type: ignore[override]
        self, filename_or_obj: Any, *, drop_variables: str | Iterable[str] | None = None, **options: Any
    ) -> xr.DataTree:
        """Return the tree of an observation, as :func:`mrsxr.open_observation` does.

        Parameters
        ----------
        filename_or_obj : folder, glob, list of paths or association
        drop_variables : str or iterable of str, optional
            Variables to leave out.
        **options
            Of :func:`mrsxr.open_observation`: ``level``, ``background``, ``on_error``.

        Returns
        -------
        DataTree
            ``/science/12A`` ..., of dask arrays.
        """
        from .observation import open_observation

        drop = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        tree = open_observation(filename_or_obj, **options)
        return tree.map_over_datasets(lambda ds: ds.drop_vars(drop & set(ds.variables))) if drop else tree

    def open_groups_as_dict(
        self, filename_or_obj: Any, **options: Any,
    ) -> dict[str, xr.Dataset]:  # type: ignore[override]  # fmt: skip
        """Return the nodes of :meth:`open_datatree` by their paths."""
        return {node.path: node.to_dataset() for node in self.open_datatree(filename_or_obj, **options).subtree}

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return whether a path looks like a FITS file."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        return str(filename_or_obj).lower().endswith((".fits", ".fits.gz"))


def open_file(
    path: str | os.PathLike[str], *, drop: frozenset[str] = frozenset(), source: int | None = None
) -> xr.Dataset:
    """Return the Dataset of one FITS file with lazily indexed (not dask) variables.

    Parameters
    ----------
    path : path
    drop : frozenset of str
        Variables not to read.
    source : int, optional
        Which spectrum of an x1d file with several.

    Returns
    -------
    Dataset
    """
    path = Path(path)
    with listen() as heard:
        file = read_layout(path)
        try:
            ds = _read(file, drop, source)
        except MrsxrError:
            raise
        except Exception as error:  # what a damaged file makes of a reader
            reason = str(error) or type(error).__name__
            raise InputFileError(f"{path}: the file is damaged, it cannot be read ({reason[:300]})") from error
    ds = noted(ds, heard)
    ds.encoding["source"] = str(path)
    return ds


def _read(file: FitsFile, drop: frozenset[str], source: int | None) -> xr.Dataset:
    path, primary = file.path, file.header["PRIMARY"]
    require_mrs(path, primary)
    main = file.main or (primary if primary.get("DATAMODL") in MAP_MODELS else {})
    if not main:
        raise InputFileError(f"{path}: the file has neither a SCI image nor an EXTRACT1D table")
    product = product_of(path, primary, main)
    check_keywords(path, primary, file.header["SCI"])
    if str(primary.get("CAL_VER") or "").startswith("mrsxr ") and _meta.EXTENSION not in file:
        raise InputFileError(
            f"{path}: the file was written by mrsxr and lost its {_meta.EXTENSION} extension; write it again"
        )
    if file.buffer is not None:
        log.info("%s is compressed as a whole and was read at once (%d bytes)", path, len(file.buffer))
    if product == "s3d":
        return _spectral.read_cube(file)
    if product == "x1d":
        return _spectral.read_spectrum(file, source)
    if product == "lines":
        return _lines.read_lines(file)
    require(path, primary, *_NEEDED)
    return _detector.read(file, product, drop=drop)
