"""Outliers of single exposures: each pixel against the other dithers at its own place on the sky and wavelength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.arguments import reads
from mrsxr.blocks import delayed_blocks, is_lazy
from mrsxr.errors import LevelError, ParameterError
from mrsxr.geometry.frame import frame_coordinate
from mrsxr.geometry.sky import Pointing, barycentric, sky_to_v2v3, slicer_to_sky, v2v3_to_slicer
from mrsxr.limits import Count, NotNegative, Positive, Range, checked
from mrsxr.mrs import bands_of_setting
from mrsxr.schema import DITHER_COORDS, WCS_VARIABLES, variances_of
from mrsxr.scores import gains, score
from mrsxr.threads import how

from .outlier_detection import OUTLIER_BITS, detect_outliers

_DEGREE_ALPHA, _DEGREE_WAVE, _DEGREE_PAIR = 4, 5, 4
_ROW_STEP = 8  # every eighth row fixes the inverse polynomials
_TOGETHER = 16  # rows of which the pixels of a slice follow one another, to be taken together

Array = np.ndarray


@dataclass(frozen=True)
class BandGeometry:
    """Pixels of a band and their way back from slice coordinates to the detector; the same for all dithers."""

    pixels: tuple[Array, Array, Array, Array]  # place of the slice, alpha [arcsec], wavelength [um], in the frame
    slices: tuple[Array, float, float, Array, Array]  # labels, beta of the first, width, middle and half of alpha
    inverse: tuple[Array, Array, Array, Array]  # x and y as power series, middles and half widths of the arguments

    @property
    def index(self) -> Array:
        """Places of the pixels in the flattened frame."""
        return self.pixels[3]


@reads()
@checked
def detect_sky_outliers(
    ds: xr.Dataset,
    *,
    outliers: xr.Dataset | None = None,
    snr: Positive = 4.0,
    snr_neighbour: Positive = 3.0,
    scale: NotNegative = 1.0,
    systematic: NotNegative = 0.01,
    half_window: Annotated[int, Range(2)] = 4,
    block_rows: Annotated[int, Range(16)] = 64,
    n_compare: Count = 8,
) -> xr.Dataset:
    """Find the outliers of each exposure by what the other dithers show at the same place and wavelength.

    Parameters
    ----------
    ds : Dataset, level "cal"
        All dithers of one setting: ``flux`` [MJy/sr], variances [MJy2/sr2], ``dq`` (dither, y, x), slice coordinates,
        WCS variables and pointings.
    outliers : Dataset, kind "outliers", optional
        What :func:`~mrsxr.cal.outlier_detection.detect_outliers` found on the detector: its flags count for pixels
        that no other exposure sees. By default these stay as they are, but a single dither gets the flags of
        ``detect_outliers(ds)``.
    snr : float
        Limit [sigma] above which a pixel is an outlier.
    snr_neighbour : float
        The limit for the eight pixels around an outlier.
    scale : float
        Share of the range that the source shows around the place in the other exposures by which a pixel may differ
        from them: the allowance for the gradients of lines on compact sources.
    systematic : float
        Share of the smooth flux of its column, and of the second difference of that to the columns beside it, by which
        a pixel may differ from the others: residual fringes, and the curvature of a slanted trace within the running
        median.
    half_window : int
        Rows to each side of the running median that takes out the continuum.
    block_rows : int
        Rows of a column over which the scatter of the differences is measured.
    n_compare : int
        The nearest exposures, at most so many, that a pixel is compared with.

    Returns
    -------
    Dataset, kind "outliers"
        ``outliers`` (dither, y, x) uint32: DO_NOT_USE | OUTLIER or 0, with the coordinate ``exposure``; lazy where
        ``ds`` is. For :func:`~mrsxr.cal.outlier_detection.flag_outliers`. ``score_outlier_detection`` (dither, band):
        the share of outliers where the light is steepest, over what chance allows by that of the other places.

    Raises
    ------
    MrsxrError
        Where a parameter is out of range.
    LevelError
        Where the data are not of level "cal" or have no slice coordinates.

    Notes
    -----
    The contrast c of a pixel is its flux less the median f of the pixels above and below it in its slice (of singles
    or of the means of pairs, the one that is closer to it, so that a hit does not spread): continuum and the shape of
    a point source across the slices drop out, lines and outliers stay. The place of the pixel is taken through the sky
    to the detector frame of each other dither, where the contrast is interpolated (bilinear in the slice, linear
    between the two nearest slices). With the median m of the others, the median R of their ranges around the place
    (less what noise makes) and the propagated error s, the pixel is an outlier where
    ``|c - m| > scale R + systematic (f + |f''|) + snr s k`` (f'' the second difference of f across the columns); k >= 1
    is the scatter of ``(c - m) / s`` in a block of the column, so that residual fringes and too small errors raise the
    limit. A line is in all dithers, a point source in f; neither is flagged. With two others the pixel must differ from
    both on the same side, with one other from it and from f. A detector pixel is no witness of itself, so that hot
    pixels are found. The outer two rows of a slice's column and pixels off the slices are not tested.
    Hits know nothing of the source: where steep places have more outliers than the others (score above 1), there only
    ``outliers`` count.
    The idea of the blotted median with a derivative is that of driz_cr (Fruchter & Hook 2002, PASP 114, 144).

    Examples
    --------
    >>> found = mx.cal.detect_sky_outliers(cal)
    >>> found.outliers.dims
    ('dither', 'y', 'x')
    """
    _check(ds, snr, snr_neighbour)
    n = ds.sizes["dither"]
    if n == 1 and outliers is None:
        outliers = detect_outliers(ds)
    fallback: Any = np.uint32(0) if outliers is None else outliers.outliers.data
    judged: Any = None
    if n == 1:
        flags = fallback[np.newaxis]
    else:
        options = {
            "snr": float(snr), "snr_beside": float(snr_neighbour), "scale": float(scale),
            "systematic": float(systematic), "rows": int(block_rows),
        }  # fmt: skip
        flags, judged = _graph(ds, fallback, int(half_window), int(n_compare), options)
    if not is_lazy(ds) and isinstance(flags, da.Array):
        flags, judged = dask.compute(flags, judged, **how())
    coords = {k: c for k, c in ds.coords.items() if k in ("dither", "exposure", "y", "x")}
    out = xr.DataArray(flags, dims=("dither", "y", "x"), coords=coords, attrs=dq.PIXEL_DQ_ATTRS)
    attrs = {"kind": "outliers", "detector": ds.attrs.get("detector", ""), "ref_id": f"{n} dithers on the sky"}
    if n == 1:
        return xr.Dataset({"outliers": out}, attrs=attrs)
    scores = score("outlier_detection", judged, ("dither", "band"), method="sky", instead="detector",
                   held_out="steep places against the others")  # fmt: skip
    return xr.Dataset({"outliers": out, **scores}, {"band": ds["band"].values}, attrs)


def _check(ds: xr.Dataset, snr: float, snr_neighbour: float) -> None:
    setting = ds.attrs.get("setting")
    if ds.attrs.get("level") != "cal":
        level = ds.attrs.get("level") or "a Dataset without level"
        raise LevelError(f"detect_sky_outliers needs data of level cal, got {level} ({setting})")
    missing = [name for name in ("slice", "alpha", "wavelength", *(v.name for v in WCS_VARIABLES)) if name not in ds]
    if missing:
        raise LevelError(f"setting {setting}: {missing[0]} is missing; run assign_wcs before detect_sky_outliers")
    if snr_neighbour > snr:
        raise ParameterError(f"snr is {snr} and snr_neighbour {snr_neighbour}; expected the latter no larger")


def _graph(
    ds: xr.Dataset, fallback: Any, half: int, n_compare: int, options: dict[str, Any],
) -> tuple[da.Array, da.Array]:  # fmt: skip
    """Return flags and scores (dither, band) as one block for each exposure."""
    names = ["slice", "alpha", "wavelength", *(v.name for v in (*WCS_VARIABLES, *DITHER_COORDS))]
    small = ds[[name for name in names if name in ds.variables]].compute(scheduler="synchronous")
    labels = np.asarray(small["slice"].values)
    bands = [b for b in bands_of_setting(ds.attrs["setting"]) if (labels // 100 == int(b[0])).any()]
    model = small[[v.name for v in WCS_VARIABLES]].reset_coords()
    placed = small.assign(flux=ds["flux"].variable)  # with the coordinates in memory
    shared, *inputs = (_travelling(placed, name) for name in ("slice", "alpha", "wavelength"))
    locate = dask.delayed(band_geometry, pure=True)
    geometry = [locate(b, shared, *inputs, model) for b in bands]
    n = ds.sizes["dither"]
    frames = _contrasts(ds, shared, half, options["rows"])
    if isinstance(fallback, da.Array):
        fallback = delayed_blocks(fallback)[0, 0]
    pointings = [Pointing.of(small, i) for i in range(n)]
    scales = [float(barycentric(1.0, float(v))) for v in small["velosys"].values]
    ways = {b: _ways(b, labels, small["alpha"].values, model, pointings, scales, n_compare) for b in bands}
    look = dask.delayed(look_at, pure=True)
    blocks, judged = [], []
    for i in range(n):
        others = sorted({e for b in bands for e in ways[b][i]})
        pairs = [{others.index(e): way for e, way in ways[b][i].items()} for b in bands]
        found = look(frames[i], [frames[e] for e in others], pairs, geometry, shared, fallback, options)
        blocks.append(da.from_delayed(found[0], labels.shape, "uint32"))
        judged.append(da.from_delayed(found[1], (len(bands),), float))
    table = da.stack(judged)
    columns = [table[:, bands.index(b)] if b in bands else da.full(n, np.nan) for b in ds["band"].values]
    return da.stack(blocks), da.stack(columns, axis=1)


def _travelling(ds: xr.Dataset, name: str) -> Any:
    """Return a coordinate of the slices as a Delayed that is some kilobytes, where its polynomials make it."""
    found = frame_coordinate(ds, name).data
    return delayed_blocks(found)[0, 0] if isinstance(found, da.Array) else dask.delayed(found, traverse=False)


def _contrasts(ds: xr.Dataset, labels: Any, half: int, rows: int) -> list[Any]:
    """Return what :func:`contrast_of` makes of each exposure, delayed."""
    names = ["flux", "dq", *variances_of(ds)]
    parts = []
    for name in names:
        data = ds[name].transpose("dither", "y", "x").data
        data = data if isinstance(data, da.Array) else da.from_array(data, chunks=(1, -1, -1))
        parts.append(delayed_blocks(data.rechunk((1, -1, -1))).reshape(-1))
    make = dask.delayed(contrast_of, pure=True)
    return [make(labels, half, rows, *(p[i] for p in parts)) for i in range(ds.sizes["dither"])]


def contrast_of(
    labels: Array, half: int, rows: int, flux: Array, flags: Array, *variances: Array,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Return contrast, variance, variance shown by the data, level, and what is around, of one exposure (1, y, x)."""
    from ._sky_outlier_kernels import around, contrast

    total = np.zeros(labels.shape, dtype=np.float32)
    for variance in variances:
        total += variance[0]
    found = contrast(flux[0], flags[0], total, labels, half, rows)
    return *found, around(found[0], found[2], labels)


def look_at(
    frames: tuple[np.ndarray, ...], others: list[tuple[np.ndarray, ...]], pairs: list[dict[int, tuple[Any, ...]]],
    geometry: Sequence[BandGeometry], labels: Array, fallback: Array, options: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the flags of one exposure, uint32 (y, x), and the score of each band.

    Parameters
    ----------
    frames, others : what :func:`contrast_of` made of the exposure and of those it is compared with
    pairs : for each band {place in ``others``: way from the exposure to that one}
    geometry : BandGeometry of each band
    labels : int16 (y, x)
    fallback : uint32 (y, x), or 0
        Flags of the pixels that no other exposure sees.
    options : mapping for the kernel
    """
    from ._sky_outlier_kernels import compare, judge, predict

    sizes = zip(pairs, geometry, strict=True)
    predictions = [np.zeros((len(ways), 3, band.index.size), dtype=np.float32) for ways, band in sizes]
    for band, ways, found in zip(geometry, pairs, predictions, strict=True):
        for (e, way), out in zip(ways.items(), found, strict=True):
            predict(others[e], labels, band.slices, band.pixels, band.inverse, way, out)
    outlier, alone, steep = compare(frames, [band.index for band in geometry], predictions, **options)
    judged = []
    for band in geometry:
        score, places = judge(outlier, steep, band.index, options["rows"])
        judged.append(score)
        if not gains(score):
            alone |= outlier & places
            outlier &= ~places
    flags = np.where(outlier, np.uint32(OUTLIER_BITS), np.where(alone, fallback, np.uint32(0))).astype(np.uint32)
    return flags, np.array(judged)


def band_geometry(band: str, labels: Array, alpha: Array, wavelength: Array, model: xr.Dataset) -> BandGeometry:
    """Return the pixels of a band and polynomials from (alpha, wavelength) to (x, y) for each of its slices.

    Parameters
    ----------
    band : str
    labels : int16 (y, x)
    alpha, wavelength : arrays (y, x)
        [arcsec, um].
    model : Dataset
        WCS variables.

    Returns
    -------
    BandGeometry
        The inverse polynomials are least-squares fits to every eighth row, good to a few hundredths of a pixel.
    """
    names, first, width = _slices(band, labels, model)
    place = np.full(int(labels.max()) + 1, -1)
    place[names[names > 0]] = np.flatnonzero(names > 0)
    mine = (labels // 100 == int(band[0])) & np.isfinite(alpha) & np.isfinite(wavelength)
    index = np.flatnonzero(mine)
    slice_of = place[labels.ravel()[index]]
    a, w = alpha.ravel()[index].astype(float), wavelength.ravel()[index].astype(float)
    y, x = np.divmod(index, labels.shape[1])
    terms = (names.size, _DEGREE_ALPHA + 1, _DEGREE_WAVE + 1)
    x_of, y_of, middle, half = np.zeros(terms), np.zeros(terms), np.zeros((names.size, 2)), np.ones((names.size, 2))
    for s in range(names.size):
        chosen = np.flatnonzero(slice_of == s)
        if not chosen.size:
            middle[s] = np.nan
            continue
        for axis, values in enumerate((a[chosen], w[chosen])):
            middle[s, axis] = 0.5 * (values.max() + values.min())
            half[s, axis] = max(0.5 * (values.max() - values.min()), 1e-6)
        chosen = chosen[y[chosen] % _ROW_STEP == 0] if chosen.size > 64 * _ROW_STEP else chosen
        u, v = (a[chosen] - middle[s, 0]) / half[s, 0], (w[chosen] - middle[s, 1]) / half[s, 1]
        matrix = np.polynomial.polynomial.polyvander2d(u, v, (_DEGREE_ALPHA, _DEGREE_WAVE))
        found = _least_squares(matrix, np.stack([x[chosen], y[chosen]], axis=1).astype(float))
        x_of[s], y_of[s] = found[:, 0].reshape(terms[1:]), found[:, 1].reshape(terms[1:])
    slices = (names.astype(np.int16), first, width, middle[:, 0].copy(), half[:, 0].copy())
    order = np.argsort(y // _TOGETHER * names.size + slice_of, kind="stable")
    return BandGeometry((slice_of[order], a[order], w[order], index[order]), slices, (x_of, y_of, middle, half))


def _least_squares(matrix: Array, values: Array) -> Array:
    """Solve by the normal equations, with a ridge that decides where the samples do not (a slice of few pixels)."""
    normal = matrix.T @ matrix
    normal[np.diag_indices_from(normal)] += 1e-12 * max(np.trace(normal), 1e-30)
    return np.linalg.solve(normal, matrix.T @ values)


def _slices(band: str, labels: Array, model: xr.Dataset) -> tuple[Array, float, float]:
    """Return labels of a band in the order of beta, beta of the first and width [arcsec]."""
    names = np.unique(labels[labels // 100 == int(band[0])]).astype(int)
    beta = model["slice_beta"].sel(slice_label=names).values.astype(float)
    order = np.argsort(beta)
    width = float(model["slice_width"].sel(band=band))
    steps = np.rint((beta[order] - beta[order[0]]) / width).astype(int)
    full = np.zeros(steps[-1] + 1, dtype=int)
    full[steps] = names[order]  # 0 for a slice without pixels: a gap, not a shift
    return full, float(beta[order[0]]), width


def _ways(
    band: str, labels: np.ndarray, alpha: np.ndarray, model: xr.Dataset, pointings: list[Pointing], scales: list[float],
    n_compare: int,
) -> list[dict[int, tuple[Array, Array, float]]]:  # fmt: skip
    """Return for each exposure {other exposure: its alpha and beta as power series of alpha, ratio of wavelengths}."""
    names, first, width = _slices(band, labels, model)
    inside = (labels // 100 == int(band[0])) & np.isfinite(alpha)
    low, high = [np.full(names.size, np.nan) for _ in range(2)]
    for s, label in enumerate(names):
        values = alpha[inside & (labels == label)]
        if values.size:
            low[s], high[s] = values.min(), values.max()
    middle, half = 0.5 * (low + high), np.maximum(0.5 * (high - low), 1e-6)
    nodes = np.cos(np.pi * (np.arange(_DEGREE_PAIR + 1) + 0.5) / (_DEGREE_PAIR + 1))
    inverse = np.linalg.inv(np.vander(nodes, increasing=True))
    at = middle[:, None] + half[:, None] * nodes
    beta = np.broadcast_to(first + width * np.arange(names.size)[:, None], at.shape)
    sky = [slicer_to_sky(at, beta, band, model, pointing) for pointing in pointings]
    field = (float(np.nanmax(high) - np.nanmin(low)), width * names.size)
    out: list[dict[int, tuple[Array, Array, float]]] = []
    for i in range(len(pointings)):
        found: dict[int, tuple[float, tuple[Array, Array, float]]] = {}
        for e in range(len(pointings)):
            if e == i:
                continue
            there = v2v3_to_slicer(*sky_to_v2v3(*sky[i], pointings[e]), band, model)
            along, across = (float(np.abs(np.nanmedian(t - o))) for t, o in zip(there, (at, beta), strict=True))
            if along < field[0] and across < field[1]:
                ratio = scales[i] / scales[e]
                there_alpha, there_beta = (np.ascontiguousarray(t @ inverse.T) for t in there)
                found[e] = (float(np.hypot(along, across)), (there_alpha, there_beta, ratio))
        nearest = sorted(found, key=lambda e: found[e][0])[:n_compare]
        out.append({e: found[e][1] for e in sorted(nearest)})
    return out
