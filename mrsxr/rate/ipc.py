"""Step ipc: undo interpixel capacitance, the signal that a pixel lends to its neighbours."""

from __future__ import annotations

from functools import partial

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.blocks import add_flags, map_ramps, with_row_halo
from mrsxr.errors import ReferenceFileError
from mrsxr.limits import Ref
from mrsxr.step import step

from ._exposure import reference_columns


@step(needs="ramp", jwst="ipc", keyword="S_IPC", once=True, precedes=("linearity",), without={"ipc": None})
def correct_ipc(ds: xr.Dataset, *, ipc: Ref) -> xr.Dataset:
    """Convolve every group with the kernel that undoes interpixel capacitance.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN] (dither, integration, group, y, x).
    ipc : Dataset, kind "ipc"
        ``kernel`` (kernel_y, kernel_x), or (kernel_y, kernel_x, y, x) for a kernel of each pixel.

    Returns
    -------
    Dataset, level "ramp"
        ``sci`` [DN] float32, corrected. Reference pixels (the outer four columns of the detector on both sides)
        stay as they are and lend nothing to their neighbours, nor do pixels beyond the edge. Samples whose kernel
        or neighbours hold a NaN stay as they are; pixels whose own kernel holds one get UNRELIABLE_SLOPE.

    Raises
    ------
    ReferenceFileError
        Where the one kernel for all pixels holds a NaN, or the kernels of the pixels are of another array.

    Notes
    -----
    As jwst's ipc: ``out(y, x) = sum k(j, i) in(y - j', x - i')`` with j', i' counted from the middle of the kernel.
    Noise is not changed.

    Examples
    --------
    >>> kernel = np.array([[0, -0.01, 0], [-0.01, 1.04, -0.01], [0, -0.01, 0]], np.float32)
    >>> ipc = xr.Dataset({"kernel": (("kernel_y", "kernel_x"), kernel)}, attrs={"kind": "ipc"})
    >>> out = mx.rate.correct_ipc(ramp, ipc=ipc)
    """
    from ._ipc_kernels import convolve, convolve_by_pixel, shift_rows

    kernel = ipc.kernel.astype("float32", copy=False)
    inside = tuple(bool(one) for one in ~reference_columns(ds))
    depth = max(1, kernel.sizes["kernel_y"] // 2)
    sci = ds.sci.astype("float32", copy=False)
    if "y" not in kernel.dims:
        values = kernel.values
        if not np.isfinite(values).all():
            raise ReferenceFileError(
                f"ipc {ipc.attrs.get('ref_id', '')}: the kernel holds numbers that are not finite; use another file "
                "or leave the step out"
            )
        wrapper = partial(convolve, kernel=values, inside=inside, depth=depth)
        return ds.assign(sci=with_row_halo(wrapper, sci, depth=depth, fill=np.float32(0)).assign_attrs(ds.sci.attrs))
    before, after = (
        with_row_halo(partial(shift_rows, by=by), sci, depth=depth, fill=np.float32(0)) for by in (-depth, depth)
    )
    ramp, around = ["integration", "group"], ["kernel_y", "kernel_x"]
    (out,) = map_ramps(
        convolve_by_pixel, sci, before, after, kernel.drop_vars(around, errors="ignore"),
        core=[ramp, ramp, ramp, around], out_core=[ramp], dtypes=["float32"], inside=inside, depth=depth,
    )  # fmt: skip
    bad = xr.where(kernel.isnull().any(around), np.uint32(dq.FLAGS["UNRELIABLE_SLOPE"]), np.uint32(0)).astype("uint32")
    return ds.assign(sci=out.assign_attrs(ds.sci.attrs), pixel_dq=add_flags(ds.pixel_dq, bad))
