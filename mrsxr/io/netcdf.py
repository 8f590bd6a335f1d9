"""netCDF files, by one thread at a time: HDF5 is not safe for threads, and xarray guards values alone.

Two threads that open such files at once crash the process. All that this package does with them is done under
:data:`LOCK`; values of lazy arrays are read under it too.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, ClassVar

import xarray as xr

from .atomic import replacing


class Lock:
    """A lock of the process, which a thread that holds it may take again; one that travels is that of where it is."""

    _held: ClassVar[Any] = threading.RLock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock."""
        return self._held.acquire(blocking, timeout)

    def release(self) -> None:
        """Give the lock back."""
        self._held.release()

    def __enter__(self) -> Lock:
        self._held.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.release()


LOCK = Lock()


def read_netcdf(path: str | Path) -> xr.Dataset:
    """Return what a netCDF file holds, as it stands there.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_netcdf(write_netcdf(xr.Dataset({"n": ("x", [1, 2])}), Path(folder) / "n.nc"))["n"].values.tolist()
    [1, 2]
    """
    with LOCK:
        return xr.load_dataset(path, engine="netcdf4", lock=LOCK)


def write_netcdf(ds: xr.Dataset, path: Path, *, sync: bool = True, **options: Any) -> Path:
    """Write a Dataset in memory as it is, whole or not at all, and return its path."""
    with replacing(path, sync=sync) as temporary, LOCK:
        ds.to_netcdf(temporary, engine="netcdf4", **options)
    return path
