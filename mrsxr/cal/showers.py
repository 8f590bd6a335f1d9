"""Step clean_showers: subtract the smooth light that cosmic-ray showers left between the slices."""

from __future__ import annotations

from typing import Literal

import xarray as xr

from mrsxr import scores
from mrsxr.blocks import in_chunks, map_ramps
from mrsxr.errors import MrsxrError
from mrsxr.limits import NotNegative, Percent, Positive, Ref, Whole
from mrsxr.step import step

from .straylight import WHOLE, region_labels, restore

Method = Literal["smooth", "gated"]


@step(needs="rate", jwst="clean_showers")
def clean_showers(
    ds: xr.Dataset,
    *,
    regions: Ref,
    shower_plane: Whole = 3,
    shower_x_stddev: Positive = 18.0,
    shower_y_stddev: Positive = 5.0,
    shower_low_reject: Percent = 0.1,
    shower_high_reject: Percent = 99.9,
    method: Method = "smooth",
    threshold: Positive = 6.0,
    protection: NotNegative = 0.003,
) -> xr.Dataset:
    """Smooth what lies between the slices and subtract it everywhere; comes after straylight.

    Parameters
    ----------
    ds : Dataset, level "rate"
        ``rate`` [DN/s], ``dq`` (dither, y, x).
    regions : Dataset, kind "regions"
        ``regions`` (plane, y, x): slices at nine limits of throughput.
    shower_plane : int
        Plane of ``regions`` that tells the slices, from 0; 3 is 40 % throughput.
    shower_x_stddev, shower_y_stddev : float
        With "smooth": standard deviations of the Gaussian [pix].
    shower_low_reject, shower_high_reject : float
        With "smooth": percentiles of the pixels between the slices below and above which they are left out.
    method : str
        "smooth": the Gaussian mean, as jwst, of 0 DN/s beyond the detector. "gated": patches that
        are raised significantly above what slices spill over their edges, each followed across the slices as a smooth
        field about none, one or two blobs, where the light of the slices agrees: the likeliest, unless half as much of
        the squared light of another stays on the slices. How much is taken off each slice is the mean of what the
        gaps and the slice itself say, weighted by their variances. Nothing is subtracted elsewhere.
    threshold : float
        With "gated": significance [sigma] of a shower.
    protection : float
        With "gated": share of the mean light of the slices nearby in the row by which the light between them is
        uncertain: rows of bright lines have less weight than their neighbours, bright sources little significance.

    Returns
    -------
    Dataset, level "rate"
        ``rate`` less the model. Errors and flags are unchanged, as in jwst; "gated" adds the variance of the model to
        ``var_straylight`` [DN2/s2], which neighbouring pixels share, and ``score_clean_showers`` (dither), NaN where
        there is no shower: the misfit of the light of slices along their rows, which no fit has seen. A patch whose
        model does not tell left-out rows, or whose fit does not end, stays as it is; so do slices that do not hold
        most of it, and all of it where the others hold as much of such a patch at other rows by chance. Without a
        usable pixel between the slices nothing is subtracted.

    Raises
    ------
    MrsxrError
        Where the method is unknown or a parameter out of range.
    ReferenceFileError
        Where regions has no such plane or another size than the data.

    Notes
    -----
    "smooth" is jwst's ``clean_showers``, there a part of the step straylight. It takes all smooth light between the
    slices for showers, also what a bright source scatters and what slices spill over their edges: a seventh of an even
    background where that falls to a ninth within a pixel. Slices are 20-30 pixels apart: of a shower of less than 25
    pixels (FWHM) "gated" sees little where it lies on a slice, and of one of less than 15 perhaps nothing.

    Examples
    --------
    >>> out = mx.cal.clean_showers(rate, regions=refs.get("regions", rate), method="gated")
    """
    from ._clean_showers_kernels import smooth_wrapper
    from ._shower_fit import gated_wrapper

    if not shower_low_reject < shower_high_reject:
        raise MrsxrError(
            f"shower_low_reject is {shower_low_reject} and shower_high_reject {shower_high_reject}; expected "
            "percentiles in rising order"
        )
    labels = region_labels(ds, regions, shower_plane)
    inputs = (in_chunks(ds.rate, **WHOLE), in_chunks(ds.dq, **WHOLE))
    options = {
        "x_stddev": float(shower_x_stddev), "y_stddev": float(shower_y_stddev),
        "low": float(shower_low_reject), "high": float(shower_high_reject),
    }  # fmt: skip
    none: list[str] = []
    if method == "smooth":
        (out,) = map_ramps(
            smooth_wrapper, *inputs, labels != 0, core=[none] * 3, out_core=[none], dtypes=["float32"],
            **options,
        )  # fmt: skip
        return ds.assign(rate=restore(out, ds.rate))
    frame = ["y", "x"]
    out, added, found = xr.apply_ufunc(
        gated_wrapper, *inputs, labels, input_core_dims=[frame] * 3, output_core_dims=[frame, frame, none],
        kwargs={"threshold": float(threshold), "protection": float(protection)}, dask="parallelized",
        output_dtypes=["float32"] * 3,
    )  # fmt: skip
    added = restore(added, ds.rate).assign_attrs(units="DN2/s2")
    if "var_straylight" in ds:
        added = (ds.var_straylight + added).assign_attrs(ds.var_straylight.attrs)
    judged = scores.score(
        "clean_showers", found.data, "dither", method="gated", instead="nothing",
        held_out="the light of slices",
    )  # fmt: skip
    return ds.assign({"rate": restore(out, ds.rate), "var_straylight": added, **judged})
