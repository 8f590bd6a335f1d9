"""Step outlier_detection: bad detector pixels that all exposures of a detector show, and the flags of outliers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.arguments import reads
from mrsxr.blocks import add_flags, map_ramps
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.limits import KernelSize, Percent, checked
from mrsxr.scores import PREFIX
from mrsxr.step import step

from ._invalid import apply_factor

OUTLIER_BITS = dq.value("DO_NOT_USE", "OUTLIER")


@reads()
@checked
def detect_outliers(
    datasets: xr.Dataset | Sequence[xr.Dataset],
    *,
    kernel_size: KernelSize = "7 7",
    threshold_percent: Percent = 99.8,
    ifu_second_check: bool = False,
) -> xr.Dataset:
    """Find the pixels of a detector that stand out from their neighbours in every exposure.

    Parameters
    ----------
    datasets : Dataset or sequence of Dataset, level "cal"
        All exposures of one detector, of every grating: ``flux`` [MJy/sr], ``dq`` (dither, y, x).
    kernel_size : str
        Two odd numbers, rows and columns of the window of the local median; an even number is raised by one.
    threshold_percent : float
        Percentile of the normalised differences above which a pixel is an outlier, 0 to 100.
    ifu_second_check : bool
        Flag the pixels that have no difference in any exposure as well.

    Returns
    -------
    Dataset, kind "outliers"
        ``outliers`` (y, x) uint32: DO_NOT_USE | OUTLIER or 0; lazy where the data are. For :func:`flag_outliers`.

    Raises
    ------
    MrsxrError
        Where the Datasets are of several detectors or sizes, there is none, or a parameter is out of range.
    LevelError
        Where one is not of level "cal".

    Notes
    -----
    As jwst's outlier_detection for IFU data (``ifu.py``): of the absolute differences with the left and the right
    neighbour the smaller, of that the minimum over all exposures, divided by its local median (no smaller than a
    third of the global one), cut at a percentile of all but the outer four rows and columns. It finds pixels that are
    bad in all exposures; a cosmic ray in one exposure, never (:func:`~mrsxr.cal.sky_outliers.detect_sky_outliers`
    does). A percentile always flags its share of the pixels, also of perfect data. jwst leaves the step out where the
    association holds one exposure only.

    Examples
    --------
    >>> found = mx.cal.detect_outliers(cal)
    >>> clean = mx.cal.flag_outliers(cal, outliers=found)
    """
    found = _of_one_detector(datasets)
    rows, columns = (int(part) | 1 for part in kernel_size.split())
    minimum = _smallest_difference(found)
    options: dict[str, Any] = {
        "rows": rows, "columns": columns, "percent": float(threshold_percent), "second_check": bool(ifu_second_check),
        "bits": OUTLIER_BITS,
    }  # fmt: skip
    from ._outlier_kernels import mark

    frame = found[0].flux.isel(dither=0)
    flags: Any = (
        da.map_blocks(mark, minimum, dtype="uint32", **options)
        if isinstance(minimum, da.Array)
        else mark(minimum, **options)
    )
    coords = {name: frame.coords[name] for name in ("y", "x") if name in frame.coords}
    out = xr.DataArray(flags, dims=("y", "x"), coords=coords, attrs=dq.PIXEL_DQ_ATTRS)
    exposures = sum(ds.sizes["dither"] for ds in found)
    attrs = {"kind": "outliers", "detector": found[0].attrs.get("detector", ""), "ref_id": f"{exposures} exposures"}
    return xr.Dataset({"outliers": out}, attrs=attrs)


@step(needs="cal", jwst="outlier_detection", keyword="S_OUTLIR")
def flag_outliers(ds: xr.Dataset, *, outliers: xr.Dataset) -> xr.Dataset:
    """Flag the outliers that were found and set them NaN.

    Parameters
    ----------
    ds : Dataset, level "cal"
        ``flux`` [MJy/sr], variances [MJy2/sr2], ``dq`` (dither, y, x).
    outliers : Dataset, kind "outliers"
        ``outliers`` uint32 on (y, x), for all exposures alike, or on (dither, y, x) with the coordinate ``exposure``;
        the exposures of ``ds`` are picked by their names.

    Returns
    -------
    Dataset, level "cal"
        ``dq`` with DO_NOT_USE | OUTLIER; ``flux`` and variances NaN there.

    Raises
    ------
    MrsxrError
        Where the flags are of another detector or size, or not of an exposure of ``ds``.

    Examples
    --------
    >>> clean = mx.cal.flag_outliers(cal, outliers=mx.cal.detect_sky_outliers(cal))
    """
    mask = outliers.outliers if "outliers" in outliers else None
    if mask is None or not {"y", "x"} <= set(mask.dims):
        raise MrsxrError("outliers has no variable 'outliers' (y, x); take it from detect_outliers")
    detector = outliers.attrs.get("detector") or ds.attrs.get("detector")
    if detector != ds.attrs.get("detector"):
        raise MrsxrError(f"the outliers are of {detector}, the data of {ds.attrs.get('detector')}")
    if any(mask.sizes[d] != ds.sizes[d] for d in ("y", "x")):
        sizes = [f"{a.sizes['y']} x {a.sizes['x']}" for a in (mask, ds)]
        raise MrsxrError(f"the outliers have {sizes[0]} pixels, the data {sizes[1]}; take both from the same exposures")
    if "dither" in mask.dims:
        known = {str(name): number for number, name in enumerate(np.atleast_1d(outliers.exposure.values))}
        wanted = [str(name) for name in ds.exposure.values]
        missing = [name for name in wanted if name not in known]
        if missing:
            raise MrsxrError(f"no outliers were looked for in {missing[0]}; run detect_sky_outliers on these exposures")
        chosen = [known[name] for name in wanted]
        mask = mask.isel(dither=chosen).drop_vars("dither", errors="ignore")
        names = [name for name in outliers.data_vars if str(name).startswith(PREFIX)]
        ds = ds.assign({name: outliers[name].variable.isel(dither=chosen) for name in names})
    mask = mask.drop_vars(list(mask.coords)).drop_attrs()
    flags = add_flags(ds.dq, mask).transpose(*ds.dq.dims).assign_attrs(dq.PIXEL_DQ_ATTRS)
    return apply_factor(ds.assign(dq=flags), "flux", match=True)


def _of_one_detector(datasets: xr.Dataset | Sequence[xr.Dataset]) -> list[xr.Dataset]:
    found = [datasets] if isinstance(datasets, xr.Dataset) else list(datasets)
    if not found or not sum(ds.sizes.get("dither", 0) for ds in found):
        raise MrsxrError("outlier detection needs at least one exposure, got none")
    for ds in found:
        if ds.attrs.get("level") != "cal":
            level = ds.attrs.get("level") or "a Dataset without level"
            raise LevelError(f"detect_outliers needs data of level cal, got {level} ({ds.attrs.get('setting')})")
        for what, ours, first in (
            ("detector", ds.attrs.get("detector"), found[0].attrs.get("detector")),
            *((d, ds.sizes[d], found[0].sizes[d]) for d in ("y", "x")),
        ):
            if ours != first:
                raise MrsxrError(
                    f"exposures differ in {what}: {first} ({found[0].attrs.get('setting')}) and {ours} "
                    f"({ds.attrs.get('setting')}); give those of one detector"
                )
    return found


def _smallest_difference(datasets: Sequence[xr.Dataset]) -> Any:
    """Return the minimum over all exposures, one whole frame (y, x); exposures are taken one after the other."""
    from ._outlier_kernels import side_difference

    total: Any = None
    for ds in datasets:
        planes = [ds[name].drop_vars(list(ds[name].coords)) for name in ("flux", "dq")]
        if any(plane.chunks for plane in planes):
            planes = [plane.chunk(dither=1, y=-1, x=-1) for plane in planes]
        (difference,) = map_ramps(side_difference, *planes, core=[[], []], out_core=[[]], dtypes=["float64"])
        for number in range(ds.sizes["dither"]):
            one = difference.data[number]
            total = one if total is None else np.fmin(total, one)
    return total
