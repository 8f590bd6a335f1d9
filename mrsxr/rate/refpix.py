"""Step refpix: subtract the drifts that the reference pixels at both sides of the detector show."""

from __future__ import annotations

from typing import Literal

import xarray as xr

from mrsxr import scores
from mrsxr.blocks import in_chunks, map_ramps
from mrsxr.errors import MrsxrError
from mrsxr.limits import Positive, Whole
from mrsxr.step import step

from ._exposure import DETECTOR_COLUMNS, REFERENCE_COLUMNS, detector_columns

Method = Literal["constant", "smooth"]
AMPLIFIERS = 4


@step(needs="ramp", jwst="refpix", keyword="S_REFPIX", precedes=("jump",))
def subtract_reference_pixels(
    ds: xr.Dataset,
    *,
    reference_columns: xr.Dataset | None = None,
    method: Method = "constant",
    odd_even_rows: bool = True,
    siglimit: Positive = 3.0,
    window: Whole | None = None,
    noise_share: Positive = 0.1,
) -> xr.Dataset:
    """Subtract from every group what its reference pixels have moved since the first group.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN] (dither, integration, group, y, x), ``pixel_dq`` (dither, y, x).
    reference_columns : Dataset, level "ramp", optional
        The same exposures after the same steps, but only some columns, told by the coordinate ``x``, among them the
        outer four of both sides: the correction is measured there, so that ``ds`` can go through block by block. By
        default it is measured in ``ds`` itself, whose blocks then have to wait until the last row has come.
    method : str
        "constant": one number for each group, amplifier and row parity, as jwst. "smooth": in addition the running
        mean of what is left of the reference pixels along the rows, which follows drifts along the columns; judges
        itself, see Notes.
    odd_even_rows : bool
        Tell odd and even rows apart.
    siglimit : float
        Limit [sigma] of the repeated clipping of the mean.
    window : int, optional
        Rows of the running mean, over all amplifiers; 0 for none. By default the one, over all amplifiers or for
        each by itself, with which each side predicts the other best. A window that is given is taken unjudged.
    noise_share : float
        Largest noise of the smooth part, as a share of the noise of a sample.

    Returns
    -------
    Dataset, level "ramp"
        ``sci`` [DN] corrected, reference pixels included; the first group of an integration stays as it is. Where
        all reference pixels of a kind are DO_NOT_USE or NaN on one side, the other side counts; on both, nothing is
        subtracted. Subarrays stay as they are, as in jwst. With "smooth" ``score_refpix`` (dither), see Notes.

    Raises
    ------
    MrsxrError
        Where the method is unknown, a parameter out of range, or reference columns are missing.

    Notes
    -----
    Baseline: class MIRIDataset of jwst's refpix, which stops without a word where a side has no good pixels.

    smooth is judged on the four columns beside the reference pixels of each side, which see light and have no part in
    the correction: on the scatter of their differences of groups, each pixel less its slope and without hits. The score
    is the scatter with the running mean over that without it, plus two standard errors; where it is not below 1, or
    these columns are not there, the result is that of "constant". That the two sides agree is not enough: in real
    ramps of a test rig the reference columns share noise of rows that pixels under light have at half the size.

    Examples
    --------
    >>> out = mx.rate.subtract_reference_pixels(ramp, method="smooth")
    """
    from ._refpix_kernels import measure, subtract

    if ds.attrs.get("subarray", "FULL") != "FULL":
        return ds
    arrays, places = _columns(ds if reference_columns is None else reference_columns, ds)
    options = {
        "n_parity": 2 if odd_even_rows else 1, "limit": float(siglimit), "smooth": method == "smooth",
        "window": window, "noise_share": float(noise_share), **places,
    }  # fmt: skip
    correction, score = xr.apply_ufunc(
        measure, *arrays, kwargs=options, input_core_dims=[["integration", "group", "y", "x"], ["y", "x"]],
        output_core_dims=[["integration", "group", "amplifier", "y"], []], dask="parallelized",
        output_dtypes=["float32", "float32"], dask_gufunc_kwargs={"output_sizes": {"amplifier": AMPLIFIERS}},
    )  # fmt: skip
    ramp = ["integration", "group"]
    amplifier = xr.DataArray(detector_columns(ds) % AMPLIFIERS, dims="x").expand_dims("y")
    (sci,) = map_ramps(
        subtract, ds.sci, correction.expand_dims("x"), amplifier,
        core=[ramp, [*ramp, "amplifier"], []], out_core=[ramp], dtypes=["float32"],
    )  # fmt: skip
    out = ds.assign(sci=sci.assign_attrs(ds.sci.attrs))
    if method != "smooth" or window is not None:
        return out
    return out.assign(scores.score("refpix", score.data, "dither", method="smooth", instead="constant",
                                   held_out="pixels beside the reference pixels"))  # fmt: skip


def _columns(source: xr.Dataset, ds: xr.Dataset) -> tuple[list[xr.DataArray], dict[str, tuple[int, ...]]]:
    """Return counts and flags of the reference columns and those beside them, and which is which along x.

    They have no coordinates and one chunk a dither.
    """
    wanted = [*range(REFERENCE_COLUMNS), *range(DETECTOR_COLUMNS - REFERENCE_COLUMNS, DETECTOR_COLUMNS)]
    place = {int(column): number for number, column in enumerate(detector_columns(source))}
    missing = [column for column in wanted if column not in place]
    if missing:
        raise MrsxrError(
            f"refpix needs the columns 0-3 and 1028-1031 of the detector, column {missing[0]} is not in the data; "
            "give reference_columns or leave the step out"
        )
    for dim in ("dither", "integration", "group", "y"):
        if source.sizes[dim] != ds.sizes[dim]:
            raise MrsxrError(
                f"reference_columns has {source.sizes[dim]} along {dim}, the data {ds.sizes[dim]}; take both from the "
                "same exposures"
            )
    beside = [column for column in (*range(4, 8), *range(1024, 1028)) if column in place]
    if len(place) > len(wanted) + len(beside):
        source = source[["sci", "pixel_dq"]].isel(x=[place[column] for column in (*wanted, *beside)])
        place = {column: number for number, column in enumerate((*wanted, *beside))}
    arrays = [xr.DataArray(source.variables[name]) for name in ("sci", "pixel_dq")]
    whole = [in_chunks(a, **{str(dim): -1 for dim in a.dims if dim != "dither"}) for a in arrays]
    return whole, {
        "columns": tuple(place[column] for column in wanted), "beside": tuple(place[column] for column in beside),
        "amplifiers": tuple(column % AMPLIFIERS for column in beside),
    }  # fmt: skip
