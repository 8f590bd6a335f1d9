"""Step pixel_replace: estimate the flux of bad pixels from their neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import xarray as xr

from mrsxr import dq
from mrsxr.arguments import reads
from mrsxr.blocks import in_chunks, map_ramps
from mrsxr.errors import MrsxrError
from mrsxr.limits import Count, OptionalRef, Place
from mrsxr.schema import variances_of
from mrsxr.step import step

from ._sampling import check_wcs

Method = Literal["mingrad", "fit_profile", "trace_model"]


@step(
    needs="cal", jwst="pixel_replace", keyword="S_PXREPL", without={"psf": None},
    only={"psf": lambda given: given["method"] == "trace_model"},
)  # fmt: skip
@reads()
def replace_pixels(
    ds: xr.Dataset,
    *,
    method: Method = "mingrad",
    n_adjacent_cols: Count = 3,
    across_slices: bool = True,
    trace_model: xr.Dataset | Sequence[xr.Dataset] | None = None,
    source: Place | None = None,
    others: Sequence[Place] = (),
    psf: OptionalRef = None,
) -> xr.Dataset:
    """Fill bad pixels with an estimate from their neighbours, and mark them so.

    Parameters
    ----------
    ds : Dataset, level "cal"
        ``flux`` [MJy/sr], variances [MJy2/sr2], ``dq`` (dither, y, x); the coordinate ``slice`` for "fit_profile"
        and where pairs must not cross slices.
    method : str
        "mingrad": NaN pixels get the mean of their neighbours left and right or of those above and below, of the
        pair with the smaller difference (neither member NaN). "fit_profile": pixels with DO_NOT_USE get the profile
        along the slice, the median of the neighbouring rows, scaled to the good pixels of their own row.
        "trace_model": bad pixels near a point source get its model with the light around it (lines of a host too) and,
        between the nearest good pixels of the row in the slice, what the data have besides; only where the score of the
        trace model allows.
    n_adjacent_cols : int
        Rows to each side that make the profile (jwst counts them as columns); "fit_profile" only.
    across_slices : bool
        "mingrad" only. True, as jwst: neighbours of another slice and from between the slices count, and single NaN
        pixels between slices are filled. False: only pixels of a slice, from pixels of the same slice.

    trace_model : Dataset, kind "trace_model" or "point_source", optional
        "trace_model" only: of :func:`fit_trace_model` or :func:`fit_point_source`, of one band or several (a list or a
        dict, of which those of the setting are taken); by default fitted here.
    source : (float, float), optional
        "trace_model" only: where the source is [deg], by default at the brightest place.
    others : sequence of (float, float)
        "trace_model" only, without a model: where further sources are [deg].
    psf : Dataset, kind "psf", optional
        "trace_model" only, without a model: as of :func:`fit_trace_model`, in the bands that it is of.

    Returns
    -------
    Dataset, level "cal"
        Of the filled pixels ``flux``; each variance as the square of the estimate of its root, made like that of the
        flux ("trace_model": that of the line between good pixels, and in the last variance that of the model by its
        profile and the noise of its spectrum); and ``dq`` without DO_NOT_USE (which NON_SCIENCE pixels keep),
        with FLUX_ESTIMATED. All else stays as it is; what cannot be filled stays NaN. The two outermost rows and
        columns are not filled by "mingrad".

    Raises
    ------
    MrsxrError
        Where the method is unknown, ``n_adjacent_cols`` below 1, or the slices are not known but needed.

    Notes
    -----
    Baseline: jwst's pixel_replace. Its search for the scale of "fit_profile" stops within 1e-4; here it is the exact
    least-squares solution. An estimate is no measurement: in the cube it weighs as much as one. Clusters of 3 x 3 at
    the peak of a star in a disc with a line ("trace_model"; 1A and 3A, PSFs that no fit knows, S/N 300 and more) are
    off by 0.3 to 0.4 % of the peak rms, 1 to 2 % at most: 0.9 to 1.3 of their errors.

    Examples
    --------
    >>> out = mx.cal.replace_pixels(cal, method="mingrad")
    """
    from ._pixel_replace_kernels import fill_mingrad, fill_mingrad_in_slices, fill_profile

    if method == "trace_model":
        return _filled_over_star(ds, trace_model, source, others, psf)
    names = ["flux", *variances_of(ds), "dq"]
    planes = [in_chunks(ds[name], y=-1, x=-1) for name in names]
    wrapper: Callable[..., Any] = fill_mingrad
    options: dict[str, int] = {}
    if method == "fit_profile" or not across_slices:
        if "slice" not in ds.coords:
            raise MrsxrError(
                f"setting {ds.attrs.get('setting')}: assign_wcs must run before pixel_replace along slices"
            )
        planes = [xr.DataArray(ds["slice"].variable), *planes]
        wrapper = fill_mingrad_in_slices
        if method == "fit_profile":
            wrapper, options = fill_profile, {"n_adjacent": int(n_adjacent_cols)}
    return _mapped(ds, names, wrapper, planes, **options)


def _mapped(
    ds: xr.Dataset, names: list[str], wrapper: Callable[..., Any], planes: list[Any], **options: int
) -> xr.Dataset:
    """Return a Dataset with variables as a wrapper makes them."""
    found = map_ramps(
        wrapper, *planes, core=[[]] * len(planes), out_core=[[]] * len(names),
        dtypes=["float32"] * (len(names) - 1) + ["uint32"], **options,
    )  # fmt: skip
    out = {name: one.assign_attrs(ds[name].attrs) for name, one in zip(names, found, strict=True)}
    return ds.assign(out | {"dq": out["dq"].assign_attrs(dq.PIXEL_DQ_ATTRS)})


def _filled_over_star(
    ds: xr.Dataset,
    trace_model: xr.Dataset | Sequence[xr.Dataset] | None,
    source: Any,
    others: Any,
    psf: xr.Dataset | None,
) -> xr.Dataset:
    """Return data whose bad pixels near point sources hold their model and what lies around them."""
    from mrsxr.traces.source import star_where_used

    from ._pixel_replace_kernels import fill_over_star
    from .point_source import models_of, stars_of

    check_wcs(ds)
    models = models_of(ds, trace_model, None, source, others, psf)
    both: Any = sum(stars_of(ds, model, star_where_used, model, planes=(2,)) for model in models.values())
    names = ["flux", *variances_of(ds), "dq"]
    star, error = (xr.DataArray(both.isel(plane=k)) for k in (0, 1))
    planes = [star, error, xr.DataArray(ds["slice"].variable), *(in_chunks(ds[name], x=-1) for name in names)]
    return _mapped(ds, names, fill_over_star, planes)
