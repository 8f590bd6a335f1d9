"""Step showers: diffuse charge that a cosmic ray spreads over many pixels and that fades within a few groups."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq, scores
from mrsxr.arguments import reads
from mrsxr.blocks import as_lazy_as, call_for_one, in_chunks, map_ramps, read_again, with_row_halo
from mrsxr.errors import MrsxrError
from mrsxr.limits import Count, NotNegative, Positive, Ref, Reference, checked
from mrsxr.step import step

from ._exposure import RAMP
from .jump import lost_groups

_JWST_AMPLITUDE = 6.0  # what jwst 3.0.0 takes for max_shower_amplitude, whatever the user gives


@step(needs="ramp", jwst="find_showers")
def flag_showers(
    ds: xr.Dataset,
    *,
    gain: Ref,
    readnoise: Ref,
    extend_snr_threshold: Positive = 1.2,
    extend_min_area: Count = 90,
    extend_inner_radius: Positive = 1.0,
    extend_outer_radius: Positive = 2.6,
    extend_ellipse_expand_ratio: Positive = 1.1,
    time_masked_after_shower: NotNegative = 15.0,
    max_extended_radius: Count = 200,
    min_diffs_for_shower: Count = 10,
    minimum_sigclip_groups: Count = 100,
) -> xr.Dataset:
    """Flag showers as large connected areas of raised differences, as jwst does with ``find_showers``.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN], ``group_dq`` (dither, integration, group, y, x) after :func:`mrsxr.rate.jump.flag_jumps`.
    gain : Dataset, kind "gain"
        ``gain`` [electron/DN] (y, x).
    readnoise : Dataset, kind "readnoise"
        ``read_noise`` [DN] (y, x), of a difference of two reads (CDS).
    extend_snr_threshold : float
        Mean ratio to the noise, in a ring around the pixel, from which a pixel counts as raised.
    extend_min_area : int
        Fewest pixels of a connected area, holes included.
    extend_inner_radius, extend_outer_radius : float
        Inner radius and width [pixel] of the ring (the second is a width under the name of jwst).
    extend_ellipse_expand_ratio : float
        By so much the ellipse around an area is enlarged.
    time_masked_after_shower : float
        Time [s] after a shower in which its ellipse is flagged too.
    max_extended_radius : int
        Largest half axis [pixel] of an ellipse.
    min_diffs_for_shower : int
        With fewer differences in all integrations nothing is looked for.
    minimum_sigclip_groups : int
        From so many integrations on, median and noise are those of the same difference in all integrations.

    Returns
    -------
    Dataset, level "ramp"
        ``group_dq`` with JUMP_DET in the group of each shower and those after it, also where the sample is
        DO_NOT_USE, as jwst has it.

    Raises
    ------
    MrsxrError
        Where ``attrs["group_time"]`` is not positive or a radius of the ring is out of range.

    Notes
    -----
    As stcal 1.x ``find_faint_extended`` and ``max_flux_showers``. Bright lines and continua give false showers and a
    faint or long shower is lost; :func:`remove_showers` knows the difference.

    Examples
    --------
    >>> gain, readnoise = refs.get("gain", ramp), refs.get("readnoise", ramp)
    >>> jumps = mx.rate.flag_jumps(ramp, gain=gain, readnoise=readnoise)
    >>> out = mx.rate.flag_showers(jumps, gain=gain, readnoise=readnoise)
    """
    from ._shower_kernels import flag_drawn, ratio_map, ring_mean

    group_time = _group_time(ds)
    radius = extend_inner_radius + extend_outer_radius
    if not (extend_inner_radius >= 0 and radius >= 1):
        raise MrsxrError(
            f"the ring has inner radius {extend_inner_radius} and width {extend_outer_radius}; expected >= 0 and a sum "
            "of at least 1 pixel"
        )
    (ratio,) = map_ramps(
        ratio_map, ds.sci, ds.group_dq, ds.pixel_dq, readnoise.read_noise, gain.gain,
        core=[RAMP, RAMP, [], [], []], out_core=[RAMP], dtypes=["float32"],
        minimum_sigclip_groups=minimum_sigclip_groups,
    )  # fmt: skip
    wrapper = partial(ring_mean, inner_radius=extend_inner_radius, outer_radius=radius)
    smooth = with_row_halo(wrapper, _in_tall_blocks(ratio, int(radius)), depth=int(radius), fill=np.float32(0))
    drawn = _draw(
        smooth, ds, threshold=extend_snr_threshold, min_area=extend_min_area, ratio=extend_ellipse_expand_ratio,
        widest=2 * max_extended_radius, n_after=int(time_masked_after_shower // group_time),
        min_diffs=min_diffs_for_shower,
    )  # fmt: skip
    sci = read_again(ds.sci, "showers", by_rows=True)
    (group_dq,) = map_ramps(
        flag_drawn, sci, ds.group_dq, ds.pixel_dq, gain.gain, drawn,
        core=[RAMP, RAMP, [], [], [*RAMP, "byte"]], out_core=[RAMP], dtypes=["uint8"],
        limit=_JWST_AMPLITUDE * group_time,
    )  # fmt: skip
    return ds.assign(sci=sci, group_dq=group_dq.assign_attrs(dq.GROUP_DQ_ATTRS))


def _in_tall_blocks(array: xr.DataArray, rows: int) -> xr.DataArray:
    """Return ``array`` in blocks of at least so many rows, the last one too."""
    if not array.chunks or min(array.variable.chunksizes["y"]) >= rows:
        return array
    rows = max(rows, 8)
    n = max(1, array.sizes["y"] // rows)
    return array.chunk(y=(*[rows] * (n - 1), array.sizes["y"] - rows * (n - 1)))


def _draw(smooth: xr.DataArray, ds: xr.Dataset, *, threshold: float, **options: Any) -> xr.DataArray:
    """Return the pixels inside ellipses, one bit a pixel (dither, integration, group, y, byte, x=1).

    This is the one place that sees whole frames: a bit for each sample, not the samples.
    """
    from ._shower_kernels import draw_showers, pack_above

    bare = smooth.drop_vars(list(smooth.coords))
    n_x = ds.sizes["x"]
    packed = xr.apply_ufunc(
        pack_above, bare, kwargs={"threshold": threshold}, input_core_dims=[["x"]], output_core_dims=[["byte"]],
        dask="parallelized", output_dtypes=["uint8"], dask_gufunc_kwargs={"output_sizes": {"byte": (n_x + 7) // 8}},
    )  # fmt: skip
    whole = [*RAMP, "y", "byte"]
    drawn = xr.apply_ufunc(
        draw_showers, in_chunks(packed, y=-1), lost_groups(ds), kwargs={"n_x": n_x, **options},
        input_core_dims=[whole, RAMP], output_core_dims=[whole], dask="parallelized", output_dtypes=["uint8"],
    )  # fmt: skip
    return in_chunks(drawn, y=smooth.variable.chunksizes.get("y")).expand_dims("x", axis=-1)


def _group_time(ds: xr.Dataset) -> float:
    group_time = float(ds.attrs.get("group_time", 0.0))
    if not group_time > 0:
        raise MrsxrError(f"setting {ds.attrs.get('setting')}: attrs['group_time'] is {group_time}, expected > 0 s")
    return group_time


@step(needs="ramp", jwst="find_showers", without={"regions": "showers are looked for on all pixels"})
def remove_showers(
    ds: xr.Dataset,
    *,
    gain: Ref,
    readnoise: Ref,
    regions: Annotated[xr.Dataset | xr.DataArray | None, Reference(optional=True)] = None,
    method: Literal["subtract", "flag"] = "subtract",
    threshold: Positive = 7.0,
    flag_above: Positive = 0.2,
    relative_noise: NotNegative = 0.03,
    min_diffs_for_shower: Count = 10,
) -> xr.Dataset:
    """Find showers as smooth, fading charge beyond the slopes, and subtract or flag them.

    Parameters
    ----------
    ds : Dataset, level "ramp"
        ``sci`` [DN], ``group_dq`` (dither, integration, group, y, x), best before
        :func:`mrsxr.rate.jump.flag_jumps`, which would flag the core of a bright shower.
    gain : Dataset, kind "gain"
        ``gain`` [electron/DN] (y, x).
    readnoise : Dataset, kind "readnoise"
        ``read_noise`` [DN] (y, x), of a difference of two reads (CDS).
    regions : Dataset, kind "regions", or DataArray, optional
        Which slice lights up which pixel (y, x), 0 between the slices; of several planes the last. With it, what is
        not seen between the slices as well is no shower.
    method : {"subtract", "flag"}
        Subtract the charge from the later groups, or flag the differences in which it grows.
    threshold : float
        Significance [sigma] of a shower in one difference.
    flag_above : float
        With "flag": charge of a shower in one difference from which on a sample is flagged, in units of the CDS read
        noise.
    relative_noise : float
        Uncertainty of a slope relative to itself (it bends through non-linearity left over), in the weights.
    min_diffs_for_shower : int
        With fewer differences in all integrations nothing is looked for.

    Returns
    -------
    Dataset, level "ramp"
        ``sci`` [DN] without the showers, or ``group_dq`` with JUMP_DET in the samples of a shower that are neither
        DO_NOT_USE nor SATURATED; ``score_showers`` (dither), NaN where there is no shower. Pixels without a shower keep
        their numbers, and a shower that does not tell cells that were left out is none.

    Raises
    ------
    MrsxrError
        Where ``method`` is unknown, a threshold is not positive or ``regions`` has another shape than the data.

    Notes
    -----
    See :func:`shower_model`. Nothing is added to the errors: the model is the mean over thousands of pixels.

    Examples
    --------
    >>> gain, readnoise = refs.get("gain", ramp), refs.get("readnoise", ramp)
    >>> out = mx.rate.remove_showers(ramp, gain=gain, readnoise=readnoise, regions=refs.get("regions", ramp))
    """
    from ._shower_model_kernels import flag_model, subtract_model

    model, found = _model(ds, gain, readnoise, regions, threshold, relative_noise, min_diffs_for_shower)
    judged = scores.score(
        "showers", found.data, "dither", method="remove", instead="nothing", held_out="cells of 8 x 8 pixels",
    )  # fmt: skip
    ds = ds.assign(read_again(ds[["sci", "group_dq"]], "showers", by_rows=True))
    model = model.expand_dims(("y", "x"), axis=(-2, -1))
    row = xr.DataArray(np.arange(ds.sizes["y"])[:, None], dims=("y", "x"))
    row = row.chunk(y=ds.variables["sci"].chunksizes["y"]) if ds.sci.chunks else row
    cells = [*RAMP, "cell_y", "cell_x"]
    if method == "subtract":
        (sci,) = map_ramps(subtract_model, ds.sci, ds.pixel_dq, gain.gain, model, row,
                           core=[RAMP, [], [], cells, []], out_core=[RAMP], dtypes=["float32"])  # fmt: skip
        return ds.assign({"sci": sci.assign_attrs(ds.sci.attrs), **judged})
    (group_dq,) = map_ramps(
        flag_model, ds.group_dq, ds.pixel_dq, readnoise.read_noise, gain.gain, model, row,
        core=[RAMP, [], [], [], cells, []], out_core=[RAMP], dtypes=["uint8"], limit=flag_above,
    )  # fmt: skip
    return ds.assign({"group_dq": group_dq.assign_attrs(dq.GROUP_DQ_ATTRS), **judged})


@reads()
@checked
def shower_model(
    ds: xr.Dataset,
    *,
    gain: Ref,
    readnoise: Ref,
    regions: xr.Dataset | xr.DataArray | None = None,
    threshold: Positive = 7.0,
    relative_noise: NotNegative = 0.03,
    min_diffs_for_shower: Count = 10,
) -> xr.DataArray:
    """Return what :func:`remove_showers` finds: the charge that showers have left up to each group.

    Parameters
    ----------
    ds, gain, readnoise, regions, threshold, relative_noise, min_diffs_for_shower
        As in :func:`remove_showers`.

    Returns
    -------
    DataArray (dither, integration, group, cell_y, cell_x) [electron], lazy
        In cells of 8 x 8 pixels, 0 where there is no shower; ``cell_y`` and ``cell_x`` give the middle pixel.

    Raises
    ------
    MrsxrError
        Where the threshold is not positive or ``regions`` has another shape than the data.

    Notes
    -----
    From each difference of two groups the median of the pixel is subtracted; the rows of a cell count by their medians
    (single hits do not), weighed by photon and read noise; very bright pixels are left out. What is common to a
    whole difference, or to all differences of a cell, goes too. A shower is a patch that is raised significantly
    in a difference, is not there before and not at the same group of the other integrations. Its map (smoothed
    over about a quarter of its size) and its decay (free at the onset, exponential after it) are fitted in turn; it is
    subtracted and the next one looked for.

    Examples
    --------
    >>> charge = mx.rate.shower_model(ramp, gain=refs.get("gain", ramp), readnoise=refs.get("readnoise", ramp))
    >>> charge.dims
    ('dither', 'integration', 'group', 'cell_y', 'cell_x')
    """
    from ._shower_model_kernels import CELL

    model, _ = _model(ds, gain, readnoise, regions, threshold, relative_noise, min_diffs_for_shower)
    middle = {f"cell_{d}": np.arange(model.sizes[f"cell_{d}"]) * CELL + 0.5 * (CELL - 1) for d in ("y", "x")}
    own = {d: ds[d] for d in ("dither", "integration", "group") if d in ds.coords}
    return model.assign_coords({**own, **middle}).assign_attrs(units="electron", long_name="charge of showers")


def _model(
    ds: xr.Dataset, gain: xr.Dataset, readnoise: xr.Dataset, regions: Any, threshold: float,
    relative_noise: float, min_diffs: int,
) -> tuple[xr.DataArray, xr.DataArray]:  # fmt: skip
    from ._shower_model import find_model

    coarse = _coarse(ds, readnoise.read_noise, gain.gain, float(relative_noise))
    core = [*RAMP, "cell_y", "cell_x"]
    return xr.apply_ufunc(
        find_model, in_chunks(coarse, cell_y=-1), as_lazy_as(_gaps(ds, regions), coarse),
        kwargs={"threshold": float(threshold), "min_diffs": min_diffs},
        input_core_dims=[["part", *core], ["cell_y", "cell_x"]], output_core_dims=[core, []],
        dask="parallelized", output_dtypes=["float32"] * 2,
    )  # fmt: skip


def _coarse(ds: xr.Dataset, read_noise: xr.DataArray, gain: xr.DataArray, spread: float) -> xr.DataArray:
    """Return the coarse maps (dither, part, integration, group, cell_y, cell_x) of charge beyond the slopes."""
    from ._shower_model_kernels import CELL, coarse_maps

    dims = ("dither", "part", *RAMP, "cell_y", "cell_x")
    ramp = ("dither", *RAMP, "y", "x")
    inputs = [(ds.sci.transpose(*ramp), ramp), (ds.group_dq.transpose(*ramp), ramp)]
    inputs += [(ds.pixel_dq.transpose("dither", "y", "x"), ("dither", "y", "x"))]
    inputs += [(image.transpose("y", "x"), ("y", "x")) for image in (read_noise, gain)]
    if not any(array.chunks for array, _ in inputs):
        return xr.DataArray(coarse_maps(*[array.values for array, _ in inputs], spread=spread), dims=dims)
    rows = ds.variables["sci"].chunksizes.get("y", (ds.sizes["y"],))[0]
    rows = -(-rows // CELL) * CELL  # whole cells in every block
    whole = dict.fromkeys((*RAMP, "x"), -1)
    pieces: list[Any] = []
    for array, own in inputs:
        pieces += [array.chunk({d: n for d, n in {**whole, "y": rows}.items() if d in own}).data, own]
    data = da.blockwise(
        call_for_one, ("dither", "part", *RAMP, "y", "cell_x"), *pieces, wrapper=coarse_maps,
        options={"spread": spread},
        new_axes={"part": 2, "cell_x": -(-ds.sizes["x"] // CELL)}, adjust_chunks={"y": lambda n: -(-n // CELL)},
        dtype="float32", meta=np.empty((0,) * 6, dtype="float32"),
    )  # fmt: skip
    return xr.DataArray(data, dims=dims)


def _gaps(ds: xr.Dataset, regions: xr.Dataset | xr.DataArray | None) -> xr.DataArray:
    """Return the share of the pixels of each cell that lie between the slices; NaN without a slice map."""
    from ._shower_model_kernels import CELL

    n_y, n_x = ds.sizes["y"], ds.sizes["x"]
    if regions is None:
        gap = np.full((-(-n_y // CELL), -(-n_x // CELL)), np.nan, dtype=np.float32)
        return xr.DataArray(gap, dims=("cell_y", "cell_x"))
    labels = regions.regions if isinstance(regions, xr.Dataset) else regions
    labels = labels.isel(plane=-1) if "plane" in labels.dims else labels
    if (labels.sizes.get("y"), labels.sizes.get("x")) != (n_y, n_x):
        raise MrsxrError(f"regions has shape {dict(labels.sizes)}; expected y: {n_y}, x: {n_x} as the data")
    between = (labels.reset_coords(drop=True) == 0).astype("float32").drop_vars(["y", "x"], errors="ignore")
    cells = between.coarsen(y=CELL, x=CELL, boundary="pad").mean()
    cells = cells.rename(y="cell_y", x="cell_x")
    return in_chunks(cells, cell_y=-1, cell_x=-1)
