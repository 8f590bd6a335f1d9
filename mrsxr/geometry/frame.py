"""Slice coordinates of a detector frame, made where they are needed from polynomials and a packed slice map."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr.blocks import is_lazy, pack, unpack

from .detector import FORWARD, slicer_grid

#: Coordinates (y, x) that follow from the polynomials and the slice map.
GRIDS = ("slice", "channel", "alpha", "beta", "wavelength")


class FrameModel:
    """Polynomials and slice map [label, (y, x)] of a detector part; equal ones hash alike and share one set of grids.

    It pickles to some kilobytes; the grids of a process are made once.
    """

    def __init__(self, model: Mapping[Any, Any] | xr.Dataset, labels: np.ndarray, origin: tuple[int, int]):
        self.model = {name: np.array(model[name], order="C") for name in FORWARD}
        self.labels = np.ascontiguousarray(labels, dtype=np.int16)
        self.origin = (int(origin[0]), int(origin[1]))
        digest = hashlib.blake2b(self.labels.tobytes())
        for name, values in self.model.items():
            digest.update(name.encode() + values.tobytes())
        digest.update(repr((self.labels.shape, self.origin)).encode())
        self.digest = digest.digest()

    @classmethod
    def of(cls, ds: xr.Dataset) -> FrameModel:
        """Return that of data with slice coordinates."""
        return _first(cls(ds, ds["slice"].values, (int(ds["y"].values[0]), int(ds["x"].values[0]))))

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FrameModel) and other.digest == self.digest

    def __dask_tokenize__(self) -> bytes:
        return self.digest

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (self.model, pack(self.labels), self.origin)


@lru_cache(maxsize=6)
def _first(frame: FrameModel) -> FrameModel:
    """Return the first of all that are equal: one object is pickled once."""
    return frame


def _unpacked(model: dict[str, np.ndarray], labels: tuple[Any, ...], origin: tuple[int, int]) -> FrameModel:
    return FrameModel(model, unpack(*labels), origin)


@lru_cache(maxsize=6)
def grids(frame: FrameModel) -> dict[str, np.ndarray]:
    """Return the arrays (y, x) of :data:`GRIDS`: labels, channels, arcsec, arcsec and um; not to be changed."""
    alpha, beta, wavelength = slicer_grid(frame.model, frame.labels, frame.origin)
    out: dict[str, np.ndarray] = {
        "slice": frame.labels,
        "channel": (frame.labels // 100).astype(np.int8),
        "alpha": alpha.astype(np.float32),
        "beta": beta.astype(np.float32),
        "wavelength": wavelength,
    }
    for array in out.values():
        array.flags.writeable = False
    return out


def _grid(frame: FrameModel, name: str) -> np.ndarray:
    return grids(frame)[name]


def frame_coordinate(ds: xr.Dataset, name: str) -> xr.DataArray:
    """Return a coordinate (y, x) of :data:`GRIDS` for the graph of a step, without coordinates of its own.

    Parameters
    ----------
    ds : Dataset with slice coordinates
    name : str

    Returns
    -------
    DataArray
        In memory where ``ds`` is. Else lazy, one block: what travels is the model, the grid is made in the task. Values
        that are not those of the model (changed by hand) travel themselves.
    """
    values = ds[name].values
    if not is_lazy(ds):
        return xr.DataArray(values, dims=("y", "x"))
    if not all(other in ds.variables and ds.variables[other].chunks is None for other in FORWARD):
        return xr.DataArray(da.from_array(values, chunks=-1), dims=("y", "x"))
    frame = FrameModel.of(ds)
    made = grids(frame)[name]
    if not (made is values or np.array_equal(made, values, equal_nan=made.dtype.kind == "f")):
        return xr.DataArray(da.from_array(values, chunks=-1), dims=("y", "x"))
    task = dask.delayed(_grid, pure=True, traverse=False)(dask.delayed(frame, traverse=False), name)
    return xr.DataArray(da.from_delayed(task, made.shape, made.dtype), dims=("y", "x"))


def lean(ds: xr.Dataset) -> xr.Dataset:
    """Return lazy data whose coordinates of :data:`GRIDS` travel as :func:`frame_coordinate` lets them.

    Parameters
    ----------
    ds : Dataset with slice coordinates

    Returns
    -------
    Dataset
        The same values; data in memory as they are.
    """
    if not is_lazy(ds):
        return ds
    return ds.assign_coords({name: ds[name].variable.copy(data=frame_coordinate(ds, name).data) for name in GRIDS
                             if name in ds.coords})  # fmt: skip
