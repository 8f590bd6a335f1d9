"""What the judges of jumps and slopes look at: a small part of an exposure; and values repeated in every pixel."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from ._exposure import RAMP, dark_current_of, linearity_inputs

#: Rows at the edge that are passed over, and rows on which jumps are judged: an eighth of the detector.
EDGE, ROWS = 16, 128


def over_frame(values: xr.DataArray, ds: xr.Dataset) -> xr.DataArray:
    """Return ``values`` with the dims y and x of ``ds`` appended, constant along them, without a copy."""
    shape = (*values.shape, ds.sizes["y"], ds.sizes["x"])
    if values.chunks:
        frame = ds.variables["group_dq"].chunksizes
        chunks = (*values.chunks, *(frame.get(d, (ds.sizes[d],)) for d in ("y", "x")))  # loaded ramps, lazy references
        data = da.broadcast_to(values.data[..., None, None], shape, chunks=chunks)
    else:
        data = np.broadcast_to(values.values[..., None, None], shape)
    return xr.DataArray(data, dims=(*values.dims, "y", "x"))


def judge_jumps(
    ds: xr.Dataset, gain: xr.Dataset, readnoise: xr.Dataset, linearity: xr.Dataset | None, two_point: dict[str, Any],
    likelihood: dict[str, Any],
) -> tuple[xr.DataArray, xr.DataArray]:  # fmt: skip
    """Return the score (dither) and the usable groups (dither, integration), from some rows."""
    from ._slope_score import HALF, score_jumps, usable_groups

    twice = ds.sizes["integration"] > 1 and ds.sizes["group"] >= 2 * HALF  # searched, so on half as many rows
    inputs, core = judged_rows(ds, gain, readnoise, linearity, ROWS // 2 if twice else ROWS)
    judged = xr.apply_ufunc(
        score_jumps, *inputs, input_core_dims=core, dask="parallelized", output_dtypes=["float32"],
        kwargs={"two_point": two_point, "likelihood": likelihood},
    )  # fmt: skip
    usable = xr.apply_ufunc(
        usable_groups, inputs[1], input_core_dims=[core[1]], output_core_dims=[["integration", "one", "also"]],
        dask="parallelized", output_dtypes=["int32"], dask_gufunc_kwargs={"output_sizes": {"one": 1, "also": 1}},
    )  # fmt: skip
    return judged, usable.isel(one=0, also=0)


def judged_rows(
    ds: xr.Dataset, gain: xr.Dataset, readnoise: xr.Dataset, linearity: xr.Dataset | None, n_rows: int
) -> tuple[list[xr.DataArray], list[list[str]]]:
    """Return what the judges of slopes ask of an exposure, in some rows and one chunk a dither, and its dims.

    The rows lie in the first blocks, which dask computes first anyway: with rows in the middle it held a third more.
    """
    first = EDGE if ds.sizes["y"] >= 4 * EDGE else 0
    inputs = [ds.sci, ds.group_dq, ds.pixel_dq, readnoise.read_noise, gain.gain, dark_current_of(ds, gain)]
    core = [[*RAMP, "y", "x"]] * 2 + [["y", "x"]] * 4
    if linearity is not None:
        inputs += linearity_inputs(linearity)
        core += [["order", "y", "x"], ["y", "x"]]
    rows = []
    for array in inputs:
        part = array.isel(y=slice(first, first + n_rows)).reset_coords(drop=True)
        part = part.drop_vars(list(part.coords))
        rows.append(part.chunk({dim: -1 for dim in part.dims if dim != "dither"}) if part.chunks else part)
    return rows, core
