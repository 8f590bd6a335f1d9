"""Step straylight: subtract the light that the detector scatters along its rows, and the pedestal between channels."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import xarray as xr

from mrsxr import mrs, scores
from mrsxr.blocks import as_lazy_as, in_chunks, map_ramps
from mrsxr.errors import MrsxrError, ReferenceFileError
from mrsxr.geometry.frame import frame_coordinate
from mrsxr.limits import OptionalRef, Positive, Range, Ref, Whole
from mrsxr.step import step

Method = Literal["kernel", "fitted"]
#: Columns between the two channels of a detector that see no light, first and last + 1.
STRIPS = {"12": (503, 516), "34": (474, 507)}
WHOLE = {"y": -1, "x": -1}  # chunks that hold whole frames
#: Channel of the left and of the right half of a detector.
SIDES = {"12": ("1", "2"), "34": ("4", "3")}
COLUMNS = ("lor_fwhm", "lor_scale", "gau_fwhm", "gau_xoff", "gau_scale1", "gau_scale2")
_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


@step(
    needs="rate",
    jwst="straylight",
    precedes=("fringe",),
    keyword="S_STRAY",
    once=True,
    without={"mrsxartcorr": "the stray light stays", "regions": None},
    only={"regions": lambda given: given["method"] == "fitted"},
)
def subtract_straylight(
    ds: xr.Dataset,
    *,
    mrsxartcorr: Ref,
    method: Method = "kernel",
    regions: OptionalRef = None,
    region_plane: Whole = 0,
    block_rows: Annotated[int, Range(8)] = 64,
    amplitude_prior: Positive = 0.3,
    amplitude_step: Positive = 0.05,
) -> xr.Dataset:
    """Subtract the cross artifact, light scattered along detector rows, and a pedestal.

    Parameters
    ----------
    ds : Dataset, level "rate"
        ``rate`` [DN/s], ``var_poisson``, ``var_read`` [DN2/s2], ``dq`` (dither, y, x) of full frames.
    mrsxartcorr : Dataset, kind "mrsxartcorr"
        Kernels of each row of a band: ``lor_fwhm``, ``gau_fwhm``, ``gau_xoff`` [pix], ``lor_scale``, ``gau_scale1``,
        ``gau_scale2`` (band, y). A half whose band is missing scatters nothing, so also the cross-dichroic settings.
    method : str
        "kernel": as jwst, where NaN pixels of the strip between the channels count as 0 DN/s. "fitted": the kernels act
        on the light freed of what is scattered, by iteration; their amounts and profiles follow the pixels between the
        slices; faint light scatters as well; bad pixels are filled first. A half of the detector gets it where it tells
        gaps that were left out better than "kernel" does.
    regions : Dataset, kind "regions", optional
        With "fitted": tells what lies between the slices; by default the coordinate ``slice`` of ``ds``.
    region_plane : int
        Plane of ``regions``; 0 (10 % throughput) leaves the darkest pixels.
    block_rows : int
        With "fitted": rows between the knots of the amplitudes.
    amplitude_prior : float
        With "fitted": standard deviation, about 1, expected of the mean amplitude of a half.
    amplitude_step : float
        With "fitted": standard deviation expected of its change from knot to knot.

    Returns
    -------
    Dataset, level "rate"
        ``rate`` corrected; the outer four columns on both sides stay as they are. Errors and flags are unchanged, as
        in jwst; "fitted" adds ``var_straylight`` [DN2/s2]: the noise of the scattering pixels, of the kernels and
        of the pedestal, which neighbouring pixels share, and ``score_straylight`` (dither, half), NaN where the
        iteration did not converge; without gain a half holds the numbers of "kernel" and a variance of 0. Where the
        whole strip is NaN, no pedestal is subtracted.

    Raises
    ------
    MrsxrError
        Where the method is unknown, a parameter out of range, the data no full frame, or the slices are not known.
    ReferenceFileError
        Where mrsxartcorr lacks a column or has other rows than the detector, or regions is of another detector size.

    Notes
    -----
    Argyriou et al. 2023 (A&A 675, A111); jwst's ``correct_xartifact``. At a distance of d columns the kernel is
    ``s_L g^2 / (g^2 + d^2) + s_1 [G(d - o) + G(d + o)] + s_2 [G2(d - 2 o) + G2(d + 2 o)]`` with g half of LOR_FWHM,
    G of peak 1 and GAU_FWHM, G2 twice as wide. jwst lets the observed light scatter, of which a part was scattered
    before: it subtracts too much by the square of the kernel. "fitted" solves ``S + a (K + r B) S + pedestal = rate``
    for S, with a(y), r(d) and the width, offset and scales of K by least squares between the slices and priors of 1, 0
    and the table, B as K with Gaussians 2.5 times as wide; K and r change as far as left-out gaps confirm: not where it
    gains less than 10 in chi2 or than the scatter of the gain. Where the fit does not converge, it is made with less
    freedom. What is scattered less than some 8 pixels far no gap sees: r is small there, and where gaps hardly tell two
    kernels apart, the one that leaves this light more as the table has it is taken. A kernel that differs from the
    table within 8 pixels alone is not found.
    Light scattered along columns is not separated: the flux calibration, made from continuum sources, holds it.

    Examples
    --------
    >>> located = mx.cal.assign_wcs(rate, distortion=refs.get("distortion", rate), specwcs=refs.get("specwcs", rate))
    >>> out = mx.cal.subtract_straylight(located, mrsxartcorr=refs.get("mrsxartcorr", rate), method="fitted")
    >>> "score_straylight" in out
    True
    """
    _check(ds)
    first, last = STRIPS[ds.attrs["channels"]]
    parameters = _kernel_parameters(ds, mrsxartcorr)
    rate, flags = in_chunks(ds.rate, **WHOLE), in_chunks(ds.dq, **WHOLE)
    if method == "kernel":
        from ._straylight_kernels import kernel_wrapper

        (out,) = map_ramps(
            kernel_wrapper, rate, flags, parameters, core=[[], [], ["half", "parameter"]], out_core=[[]],
            dtypes=["float32"], first=first, last=last,
        )  # fmt: skip
        return ds.assign(rate=restore(out, ds.rate))
    from ._straylight_fit import LIMIT, fitted_wrapper

    inside = _inside(ds, regions, region_plane)
    known = [v for v in ("var_poisson", "var_read", "var_background") if v in ds]
    variance = sum((in_chunks(ds[v], **WHOLE) for v in known[1:]), in_chunks(ds[known[0]], **WHOLE))
    frame = ["y", "x"]
    out, added, found = xr.apply_ufunc(
        fitted_wrapper, rate, flags, variance, inside, parameters.isel(x=0),
        input_core_dims=[frame] * 4 + [["half", "parameter", "y"]], output_core_dims=[frame, frame, ["half"]],
        kwargs={"first": first, "last": last, "rows": int(block_rows), "prior": float(amplitude_prior),
                "step": float(amplitude_step)},
        dask="parallelized", output_dtypes=["float32"] * 3,
    )  # fmt: skip
    judged = scores.score(
        "straylight", found.data, ("dither", "half"), method="fitted", instead="kernel",
        held_out="gaps between the slices", limit=LIMIT,
    )  # fmt: skip
    added = restore(added, ds.var_read).assign_attrs(units="DN2/s2")
    return ds.assign({"rate": restore(out, ds.rate), "var_straylight": added, **judged})


def restore(found: xr.DataArray, old: xr.DataArray) -> xr.DataArray:
    """Return the new values with the attrs and chunks of the old."""
    return in_chunks(found.assign_attrs(old.attrs), **{str(d): n for d, n in old.variable.chunksizes.items()})


def _check(ds: xr.Dataset) -> None:
    setting = ds.attrs.get("setting")
    if ds.attrs.get("channels") not in SIDES:
        raise MrsxrError(f"setting {setting}: channels are '{ds.attrs.get('channels')}'; straylight expects 12 or 34")
    shape = (ds.sizes["y"], ds.sizes["x"])
    start = tuple(int(ds[d].values[0]) if d in ds.coords else 0 for d in ("y", "x"))
    if shape != mrs.DETECTOR_SHAPE or start != (0, 0):
        raise MrsxrError(
            f"setting {setting}: straylight needs the full frame of 1024 x 1032 pixels, got {shape[0]} x {shape[1]} "
            f"from pixel {start}; correct it before cutting, or leave the step out"
        )


def _kernel_parameters(ds: xr.Dataset, mrsxartcorr: xr.Dataset) -> xr.DataArray:
    """Return the parameters (half, parameter, y, x of size 1) of both halves; scales 0 where a table is missing."""
    name = mrsxartcorr.attrs.get("ref_id", "mrsxartcorr")
    missing = [c for c in COLUMNS if c not in mrsxartcorr]
    if missing:
        raise ReferenceFileError(f"{name}: mrsxartcorr has no column '{missing[0]}'; give a file of that type")
    if mrsxartcorr.sizes.get("y") != mrs.DETECTOR_SHAPE[0]:
        raise ReferenceFileError(
            f"{name}: mrsxartcorr has {mrsxartcorr.sizes.get('y')} rows, expected {mrs.DETECTOR_SHAPE[0]}"
        )
    letter = mrs.LETTERS.get(ds.attrs.get("band", ""))
    halves = []
    for channel in SIDES[ds.attrs["channels"]]:
        band = f"{channel}{letter}"
        if band in mrsxartcorr.band.values:
            one = mrsxartcorr.sel(band=band)
            of = {c: one.variables[c].astype("float64", keep_attrs=False) for c in COLUMNS}
            values = [0.5 * of["lor_fwhm"], of["lor_scale"], of["gau_fwhm"] / _FWHM, *(of[c] for c in COLUMNS[3:])]
        else:
            values = [xr.Variable("y", np.zeros(mrs.DETECTOR_SHAPE[0]))] * len(COLUMNS)
        halves.append(xr.Variable.concat(values, "parameter"))
    table = xr.DataArray(xr.Variable.concat(halves, "half")).expand_dims("x")
    return as_lazy_as(table.chunk(-1) if table.chunks else table, ds.rate)


def _inside(ds: xr.Dataset, regions: xr.Dataset | None, plane: int) -> xr.DataArray:
    """Return True (y, x) in the slices."""
    if regions is None:
        if "slice" not in ds.coords:
            raise MrsxrError(
                f"setting {ds.attrs.get('setting')}: straylight method 'fitted' must know what lies between the "
                "slices; run assign_wcs before or give regions"
            )
        labels = frame_coordinate(ds, "slice")
    else:
        labels = region_labels(ds, regions, plane)
    return (labels != 0).drop_vars(list(labels.coords)).drop_attrs()


def region_labels(ds: xr.Dataset, regions: xr.Dataset, plane: int) -> xr.DataArray:
    """Return a plane (y, x) of regions, the only one where the file has one.

    Raises
    ------
    ReferenceFileError
        Where regions has no such plane or another size than the data.
    """
    name = regions.attrs.get("ref_id", "regions")
    if "regions" not in regions or set(regions["regions"].dims) != {"plane", "y", "x"}:
        raise ReferenceFileError(f"{name}: regions has no planes (plane, y, x); give a file of type regions")
    sizes = regions["regions"].sizes
    if (sizes["y"], sizes["x"]) != (ds.sizes["y"], ds.sizes["x"]):
        raise ReferenceFileError(
            f"{name}: regions has {sizes['y']} x {sizes['x']} pixels, the data {ds.sizes['y']} x {ds.sizes['x']}"
        )
    index = 0 if sizes["plane"] == 1 else plane
    if not 0 <= index < sizes["plane"]:
        raise ReferenceFileError(f"{name}: plane {plane} of regions asked for, it has 0 to {sizes['plane'] - 1}")
    labels = regions["regions"].isel(plane=index, drop=True).transpose("y", "x")
    labels = labels.drop_vars(list(labels.coords))
    return as_lazy_as(labels, ds.rate)
