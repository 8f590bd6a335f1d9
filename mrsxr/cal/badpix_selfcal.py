"""Step badpix_selfcal: find bad pixels in the exposures themselves, science and background together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import xarray as xr

from mrsxr import dq
from mrsxr.arguments import reads
from mrsxr.blocks import in_chunks, map_ramps
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.limits import HalfShare, NotNegative, Odd, Positive, checked
from mrsxr.schema import variances_of
from mrsxr.step import step
from mrsxr.tree import name_of

Method = Literal["fraction", "significance"]
#: The strip between the channels where the pedestal is measured: rows, columns.
PEDESTAL = {"MIRIFUSHORT": ((50, 974), (503, 516)), "MIRIFULONG": ((50, 974), (474, 507))}
BITS = dq.DO_NOT_USE | dq.FLAGS["OTHER_BAD_PIXEL"]


@step(needs="rate", jwst="badpix_selfcal", keyword="S_BPXSLF")
def self_calibrate_bad_pixels(
    ds: xr.Dataset,
    *,
    others: Sequence[xr.Dataset] = (),
    bad_pixels: xr.Dataset | None = None,
    flagfrac_lower: HalfShare = 0.001,
    flagfrac_upper: HalfShare = 0.001,
    kernel_size: Odd = 15,
    force_single: bool = False,
    method: Method = "fraction",
    threshold: Positive = 5.0,
    relative_error: NotNegative = 0.05,
) -> xr.Dataset:
    """Flag pixels that stand out of their surroundings in all exposures of a detector.

    Parameters
    ----------
    ds : Dataset, level "rate"
        ``rate`` [DN/s], ``var_poisson``, ``var_read`` [DN2/s2], ``dq`` (dither, y, x).
    others : sequence of Dataset, level "rate"
        More exposures of the same detector: background, other dithers, other bands. They are not changed: run the
        step on each Dataset.
    bad_pixels : Dataset, kind "bad_pixels", optional
        What ``find_bad_pixels`` found, in place of looking for it again in ``ds`` and ``others``.
    flagfrac_lower, flagfrac_upper, kernel_size, method, threshold, relative_error
        As ``find_bad_pixels``.
    force_single : bool
        Work on a single exposure, whose own lines and sources then look like bad pixels.

    Returns
    -------
    Dataset, level "rate"
        Data and variances NaN, ``dq`` with DO_NOT_USE and OTHER_BAD_PIXEL at the pixels found, in every dither.

    Raises
    ------
    MrsxrError
        Where there is but one exposure and ``force_single`` is off, a parameter is out of range, or the exposures
        are of different detectors or sizes.

    Notes
    -----
    Baseline: jwst's badpix_selfcal, which leaves the step out where there is but one exposure.

    Examples
    --------
    >>> out = mx.cal.self_calibrate_bad_pixels(rate, method="significance")  # two dithers
    """
    from ._badpix_selfcal_kernels import apply_flags

    if bad_pixels is None:
        exposures = [ds, *others]
        if sum(one.sizes["dither"] for one in exposures) < 2 and not force_single:
            raise MrsxrError(
                f"badpix_selfcal has only the exposure {name_of(ds)}; give others of the same detector, set "
                "force_single or leave the step out"
            )
        bad_pixels = find_bad_pixels(
            exposures, flagfrac_lower=flagfrac_lower, flagfrac_upper=flagfrac_upper, kernel_size=kernel_size,
            method=method, threshold=threshold, relative_error=relative_error,
        )  # fmt: skip
    elif bad_pixels.attrs.get("kind") != "bad_pixels" or bad_pixels.bad.shape != ds.rate.shape[1:]:
        raise MrsxrError(f"bad_pixels is of kind {bad_pixels.attrs.get('kind')} with sizes {dict(bad_pixels.sizes)}; "
                         "expected what find_bad_pixels returns, of the size of the data")  # fmt: skip
    names = ["dq", "rate", *variances_of(ds)]
    found = map_ramps(
        apply_flags, bad_pixels.bad, *[ds[name] for name in names], core=[[]] * (len(names) + 1),
        out_core=[[]] * len(names), dtypes=["uint32", *["float32"] * (len(names) - 1)], bits=BITS,
    )  # fmt: skip
    return ds.assign({name: one.assign_attrs(ds[name].attrs) for name, one in zip(names, found, strict=True)})


@reads()
@checked
def find_bad_pixels(
    exposures: Sequence[xr.Dataset],
    *,
    flagfrac_lower: HalfShare = 0.001,
    flagfrac_upper: HalfShare = 0.001,
    kernel_size: Odd = 15,
    method: Method = "fraction",
    threshold: Positive = 5.0,
    relative_error: NotNegative = 0.05,
) -> xr.Dataset:
    """Find the pixels of a detector that stand out of their surroundings in all exposures.

    Parameters
    ----------
    exposures : sequence of Dataset, level "rate"
        Science and background, each along ``dither``.
    flagfrac_lower, flagfrac_upper : float
        Share of pixels to flag at the lower and the upper end; method "fraction".
    kernel_size : int
        Length [pixels, odd] of the median filter along the dispersion.
    method : str
        "fraction": the least of the exposures, less its median filter, beyond fixed quantiles, as jwst: always the
        same number of pixels. "significance": the mean of what each exposure has above its own median filter,
        without the exposure that stands out most, beyond ``threshold`` of its error, where no neighbour shares it as
        it would be with light: a line is wider than a pixel along the dispersion, and lines and fringes go on along
        the slice.
    threshold : float
        Limit [sigma]; method "significance".
    relative_error : float
        Share of the smooth level within which a pixel may differ from it (pixel flat, fringes, edges of traces);
        method "significance".

    Returns
    -------
    Dataset, kind "bad_pixels"
        ``bad`` (y, x), bool; lazy where the exposures are.

    Raises
    ------
    MrsxrError
        Where a parameter is out of range, or the exposures are of different detectors or sizes.

    Notes
    -----
    The errors are widened by what each frame scatters more than they say.

    Examples
    --------
    >>> found = mx.cal.find_bad_pixels([rate], method="significance")
    >>> found.bad.dims
    ('y', 'x')
    """
    from ._badpix_selfcal_kernels import flag_fraction, flag_significant

    _check(exposures)
    arrays: list[xr.DataArray] = []
    core: list[list[str]] = []
    wrapper: Callable[..., Any]
    options: dict[str, Any]
    for number, ds in enumerate(exposures):
        planes = [ds.rate]
        if method == "significance":
            planes = [ds.rate.where(~dq.any_of(ds.dq, "DO_NOT_USE")), ds.var_poisson + ds.var_read]
        for plane in planes:
            arrays.append(xr.DataArray(in_chunks(plane, y=-1, x=-1).variable).rename(dither=f"exposure_{number}"))
            core.append([f"exposure_{number}"])
    if method == "fraction":
        rows, columns = PEDESTAL[exposures[0].attrs["detector"]]
        first_y, first_x = int(exposures[0].y.values[0]), int(exposures[0].x.values[0])
        wrapper = flag_fraction
        options = {
            "lower": float(flagfrac_lower), "upper": float(flagfrac_upper),
            "rows": tuple(max(0, row - first_y) for row in rows),
            "columns": tuple(max(0, column - first_x) for column in columns),
        }  # fmt: skip
    else:
        wrapper = flag_significant
        options = {"threshold": float(threshold), "relative_error": float(relative_error)}
    (bad,) = map_ramps(wrapper, *arrays, core=core, out_core=[[]], dtypes=["bool"], size=int(kernel_size), **options)
    names = [str(name) for ds in exposures for name in ds["exposure"].values]
    return xr.Dataset({"bad": bad}, attrs={"kind": "bad_pixels", "ref_id": f"bad pixels of {', '.join(names)}"})


def _check(exposures: Sequence[xr.Dataset]) -> None:
    first = exposures[0]
    for other in exposures:
        if other.attrs.get("level") != "rate":
            raise LevelError(f"badpix_selfcal needs exposures of level rate, got {other.attrs.get('level')}")
        for key in ("detector", "subarray"):
            if other.attrs.get(key) != first.attrs.get(key):
                raise MrsxrError(f"exposures {name_of(first)} and {name_of(other)} differ in {key}: "
                                 f"{first.attrs.get(key)} and {other.attrs.get(key)}")  # fmt: skip
        if (other.sizes["y"], other.sizes["x"]) != (first.sizes["y"], first.sizes["x"]):
            raise MrsxrError(f"exposures {name_of(first)} and {name_of(other)} differ in size")
