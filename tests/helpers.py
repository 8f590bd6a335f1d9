"""Small Datasets and the checks that every step must pass."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

import dask
import numpy as np
import xarray as xr
from xarray.testing import assert_identical

from mrsxr import dq, mrs, schema
from mrsxr.geometry.place import Place
from mrsxr.geometry.sky import tangent_frame, tangent_offsets
from mrsxr.step import read_history


def of_jwst(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a stored comparison with jwst, tests/parity/data."""
    with np.load(Path(__file__).parent / "parity" / "data" / f"{name}.npz") as file:
        return dict(file)


def forked(function, *args) -> tuple[int, int]:
    """Run a function in a copy of this process, which starts at once; return its pid and where to read what it tells.

    The function gets a file descriptor to write to, then its arguments. The exit code is 0, or 1 where it raised.
    """
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of threads, which the copy does not use
        pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    code = 1
    try:
        function(write, *args)
        code = 0
    except SystemExit as error:
        code = int(error.code or 0)
    finally:
        os._exit(code)


@contextlib.contextmanager
def no_compute():
    """Fail where something is computed while a graph is built."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("the step computed something while it built its graph")

    with dask.config.set(scheduler=refuse):
        yield


def dither_coords(n: int, setting: str = "12A") -> dict:
    """Return the coordinates on dither of made-up exposures."""
    number = np.arange(n)
    detector = mrs.setting_keywords(setting)["DETECTOR"].lower()
    floats = {
        "start_time": 59760.0 + 0.01 * number, "mid_time": 59760.001 + 0.01 * number,
        "exposure_time": np.full(n, 222.0), "ra_ref": 339.015 + 1e-4 * number, "dec_ref": 33.976 - 1e-4 * number,
        "roll_ref": np.full(n, 110.0), "v2_ref": np.full(n, -503.3), "v3_ref": np.full(n, -319.0),
        "va_scale": np.ones(n), "velosys": np.full(n, np.nan),
    }  # fmt: skip
    units = {v.name: v.units for v in schema.DITHER_COORDS}
    coords = {k: ("dither", v, {"units": units[k]}) for k, v in floats.items()}
    coords["exposure"] = ("dither", np.array([f"jw02732004001_02101_{i + 1:05d}_{detector}" for i in range(n)]))
    coords["fits_header"] = ("dither", np.array(['{"PRIMARY": {}, "SCI": {}}'] * n))
    coords["dither"] = number + 1
    return coords


def named(ds: xr.Dataset, observation: int) -> xr.Dataset:
    """Return exposures under the names of another observation, as each exposure counts once."""
    names = [f"jw02732{observation:03d}001_02101_{i + 1:05d}_mirifushort" for i in range(ds.sizes["dither"])]
    return ds.assign_coords(exposure=("dither", names))


def detector_attrs(level: str, setting: str, n_groups: int, n_integrations: int) -> dict:
    keys = mrs.setting_keywords(setting)
    return {
        "level": level, "setting": setting, "detector": keys["DETECTOR"], "channels": keys["CHANNEL"],
        "band": keys["BAND"], "readpatt": "FASTR1", "subarray": "FULL", "group_time": 2.77504, "frame_time": 2.77504,
        "n_groups": n_groups, "n_integrations": n_integrations, "target": "TEST", "program": "02732", "background": 0,
        "Conventions": "mrsxr-1", "history_json": "[]",
    }  # fmt: skip


def make_ramp(sci: np.ndarray, chunks: dict | None = None, setting: str = "12A") -> xr.Dataset:
    """Return a ramp Dataset around counts (dither, integration, group, y, x) [DN]."""
    n_dither, n_integration, n_group, n_y, n_x = sci.shape
    ramp = ("dither", "integration", "group", "y", "x")
    ds = xr.Dataset(
        {
            "sci": (ramp, sci, {"units": "DN"}),
            "group_dq": (ramp, np.zeros(sci.shape, "u1"), dq.GROUP_DQ_ATTRS),
            "pixel_dq": (("dither", "y", "x"), np.zeros((n_dither, n_y, n_x), "u4"), dq.PIXEL_DQ_ATTRS),
        },
        coords={
            "integration": np.arange(1, n_integration + 1), "group": np.arange(1, n_group + 1),
            "y": np.arange(n_y), "x": np.arange(n_x), **dither_coords(n_dither, setting),
        },
        attrs=detector_attrs("ramp", setting, n_group, n_integration),
    )  # fmt: skip
    return ds.chunk({"dither": 1, **chunks}) if chunks is not None else ds


def make_reference(kind: str, chunks: dict | None = None, attrs: dict | None = None, **arrays) -> xr.Dataset:
    """Return a reference Dataset; arrays as (dims, values) or (y, x) images."""
    variables = {k: v if isinstance(v, tuple) else (("y", "x"), v) for k, v in arrays.items()}
    ds = xr.Dataset(
        variables, attrs={"level": "reference", "kind": kind, "ref_id": f"{kind}_made.fits", **(attrs or {})}
    )
    return ds.chunk({d: n for d, n in chunks.items() if d in ds.dims}) if chunks is not None else ds


def as_in_fits(ds: xr.Dataset) -> xr.Dataset:
    """Return data with numbers in the byte order of FITS files, as astropy reads them."""
    numbers = {n: v.variable for n, v in ds.data_vars.items() if v.dtype.kind in "iuf" and not v.chunks}
    return ds.assign({n: v.astype(v.dtype.newbyteorder(">")) for n, v in numbers.items()})


def assert_step(step, ds: xr.Dataset, **kwargs) -> xr.Dataset:
    """Check what every step promises: lazy, pure, recorded, in the schema, chunked == eager; return the result.

    Data and reference files whose bytes lie as in FITS files give the same.

    ``ds`` is eager; it is chunked here.
    """
    before = ds.copy(deep=True)
    rows = max(1, ds.sizes["y"] // 3) if "y" in ds.sizes and "wavelength" not in ds.dims else -1
    lazy = ds.copy()
    for name in ds.data_vars:
        sizes = {"dither": 1, "y": rows}
        lazy[name] = ds[name].chunk({d: n for d, n in sizes.items() if d in ds[name].dims})
    with no_compute():
        out = step(lazy, **kwargs)
    eager = step(ds, **kwargs)
    assert_identical(ds, before)
    schema.validate(out)
    schema.validate(eager)
    assert len(read_history(out)) == len(read_history(ds)) + 1
    if "fits_header" in out.coords:
        assert out["fits_header"].values.tolist() == ds["fits_header"].values.tolist()  # as it came from the file
    found = eager.compute().drop_attrs(deep=False)
    assert_identical(out.compute().drop_attrs(deep=False), found)
    of_fits = {name: as_in_fits(one) if isinstance(one, xr.Dataset) else one for name, one in kwargs.items()}
    assert_identical(step(as_in_fits(ds), **of_fits).compute().drop_attrs(deep=False), found)
    assert set(ds.coords) - {"integration", "group"} <= set(out.coords) or out.attrs["level"] != ds.attrs["level"]
    return eager


def nearest_pixel(ds: xr.Dataset, coord) -> tuple[int, int]:
    """Return row and column of the spaxel that holds a sky position; the plain way without an index.

    KeyError where it lies outside the field.
    """
    ra, dec = (coord.icrs.ra.deg, coord.icrs.dec.deg) if hasattr(coord, "icrs") else coord
    if "ra" in ds.coords and "dec" in ds.coords:
        grid_ra, grid_dec = np.asarray(ds["ra"].values), np.asarray(ds["dec"].values)
    else:
        place = Place.of(ds)
        grid_ra, grid_dec = place.to_sky(*np.meshgrid(np.arange(place.x.size), np.arange(place.y.size)))
    west, north = tangent_offsets(grid_ra, grid_dec, tangent_frame(float(ra), float(dec)))
    distance = np.where(np.isfinite(west), np.hypot(west, north), np.inf)
    y, x = np.unravel_index(int(np.argmin(distance)), distance.shape)
    if not np.isfinite(distance[y, x]) or not _is_inside(west, north, int(y), int(x)):
        raise KeyError(f"ra {float(ra):.6f}, dec {float(dec):.6f} lies outside the field of the cube")
    return int(y), int(x)


def _is_inside(west: np.ndarray, north: np.ndarray, y: int, x: int) -> bool:
    """Return whether the origin lies within half a spaxel of pixel (y, x), in the frame of its neighbours."""
    rows, columns = west.shape
    if rows < 2 or columns < 2:
        return True
    j, i = (y + 1 if y + 1 < rows else y - 1), (x + 1 if x + 1 < columns else x - 1)
    along_y = np.array([west[j, x] - west[y, x], north[j, x] - north[y, x]])
    along_x = np.array([west[y, i] - west[y, x], north[y, i] - north[y, x]])
    steps = np.linalg.solve(np.column_stack([along_x, along_y]), [-west[y, x], -north[y, x]])
    return bool(np.all(np.abs(steps) <= 0.5 + 1e-6))
