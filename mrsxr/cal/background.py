"""Step background: subtract the background pixel by pixel, as exposures of empty sky show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.arguments import reads
from mrsxr.blocks import map_ramps
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.limits import Count, Positive
from mrsxr.mrs import bands_of_setting
from mrsxr.step import step

from ._sampling import usable_frame

Method = Literal["mean", "weighted"]
#: First column of the right-hand channel: the middle of the gap between the channels.
SECOND_CHANNEL = {"12": 510, "34": 491}
#: Limits within which a fitted factor counts as safe.
ROWS, LEAST_BLOCKS, LEAST_SHARE, MOST_CHI2, LEAST_SNR = 32, 30, 0.25, 1.5, 10.0
MODE_ROUNDS = 20


@step(needs="rate", jwst="bkg_subtract", keyword="S_BKDSUB", once="pixel_background")
def subtract_background(
    ds: xr.Dataset,
    *,
    background: xr.Dataset,
    method: Method = "mean",
    sigma: Positive = 3.0,
    maxiters: Count | None = None,
    scale: float | Mapping[str, float] = 1.0,
) -> xr.Dataset:
    """Subtract the mean of background exposures from every exposure, pixel by pixel.

    Parameters
    ----------
    ds : Dataset, level "rate"
        ``rate`` [DN/s], ``dq`` (dither, y, x).
    background : Dataset, level "rate"
        Exposures of empty sky of the same setting, readout pattern and subarray, along ``dither``.
    method : str
        "mean": the clipped mean, as jwst. "weighted": the mean weighted by the inverse variance, without values
        that are off the median by more than their error allows, and with its own variance.
    sigma : float
        Limit of the clipping: standard deviations of the values ("mean"), or errors of the value ("weighted").
    maxiters : int, optional
        Largest number of clipping rounds; by default until nothing is clipped any more.
    scale : float or mapping of band to float
        Factor of the background, for a zodiacal light that has changed between the exposures; one for all pixels or
        ``{"1A": 1.02, "2A": 1.0}``, 1 for a band that is not named. ``fit_background_scale`` measures it.

    Returns
    -------
    Dataset, level "rate"
        "mean": ``rate`` [DN/s] less the mean; ``dq`` with the flags of all background exposures; errors as they were.
        A pixel that is NaN in all of them keeps its value, under their flags, as in jwst. "weighted": in addition
        ``var_background`` [DN2/s2]; only a pixel to which no exposure contributes is NaN and DO_NOT_USE, with their
        flags.

    Raises
    ------
    MrsxrError
        Where the method is unknown, a parameter out of range, the background of another setting, readout or size, or
        a background was subtracted before.

    Notes
    -----
    Baseline: jwst's background_sub, where clipping begins with eight exposures (with fewer no value can be 3 of the
    standard deviations, that it raises itself, off the median). "weighted" takes the photon noise common to all
    exposures, scaled with the exposure time: weights by the noise that each exposure believes to have would favour
    the low ones. Where two exposures are left and disagree, both count and the variance grows by their chi2.

    Examples
    --------
    >>> out = mx.cal.subtract_background(rate, background=background, method="weighted")
    """
    from ._background_kernels import subtract, subtract_both

    _check_same(ds, background)
    factor = _factors(ds, scale)
    level, variance, flags = combine(background, method=method, sigma=sigma, maxiters=maxiters)
    planes = [ds.rate, ds.dq, level, flags, factor] + ([] if variance is None else [variance])
    wrapper, dtypes = (subtract, ["float32", "uint32"]) if variance is None else (
        subtract_both, ["float32", "uint32", "float32"],
    )  # fmt: skip
    found = map_ramps(wrapper, *planes, core=[[]] * len(planes), out_core=[[]] * len(dtypes), dtypes=dtypes)
    out = {"rate": found[0].assign_attrs(ds.rate.attrs), "dq": found[1].assign_attrs(dq.PIXEL_DQ_ATTRS)}
    if variance is not None:
        out["var_background"] = found[2].assign_attrs(units="DN2/s2")
    return ds.assign(out)


def combine(
    background: xr.Dataset, *, method: Method = "mean", sigma: Positive = 3.0, maxiters: Count | None = None
) -> tuple[xr.DataArray, xr.DataArray | None, xr.DataArray]:
    """Combine background exposures into one.

    Parameters
    ----------
    background : Dataset, level "rate"
    method, sigma, maxiters
        As ``subtract_background``.

    Returns
    -------
    level [DN/s], variance [DN2/s2] (None for "mean"), flags (uint32)
        On (y, x), without coordinates, lazy where the background is.
    """
    from ._background_kernels import clipped_mean, weighted_mean

    names = ("rate", "dq") if method == "mean" else ("rate", "dq", "var_poisson", "var_read")
    planes = [xr.DataArray(background[name].variable).rename(dither="exposure") for name in names]
    core = [["exposure"]] * len(planes)
    options = {"sigma": float(sigma), "maxiters": maxiters}
    if method == "mean":
        level, flags = map_ramps(
            clipped_mean, *planes, core=core, out_core=[[], []], dtypes=["float32", "uint32"], **options
        )
        return level, None, flags
    times = np.asarray(background["exposure_time"].values, dtype=np.float64)
    times = times if np.all(np.isfinite(times) & (times > 0)) else np.ones(times.shape)
    level, variance, flags = map_ramps(
        weighted_mean, *planes, core=core, out_core=[[], [], []], dtypes=["float32", "float32", "uint32"],
        time=times, **options,
    )  # fmt: skip
    return level, variance, flags


def _check_same(ds: xr.Dataset, background: xr.Dataset) -> None:
    """Raise where the background cannot be subtracted pixel by pixel from ``ds``."""
    where = f"setting {ds.attrs.get('setting')}"
    if background.attrs.get("level") != "rate":
        found = background.attrs.get("level") or "a Dataset without level"
        raise LevelError(f"{where}: the background must be of level rate, got {found}")
    for key in ("detector", "setting", "readpatt", "subarray"):
        one, other = ds.attrs.get(key), background.attrs.get(key)
        if one != other:
            raise MrsxrError(f"{where}: the background has {key} {other}, the data {one}; take exposures of the same")
    for dim in ("y", "x"):
        if ds.sizes[dim] != background.sizes[dim]:
            raise MrsxrError(f"{where}: the background has {background.sizes[dim]} pixels along {dim}, the data "
                             f"{ds.sizes[dim]}; take exposures of the same subarray")  # fmt: skip
    if background.sizes["dither"] < 1:
        raise MrsxrError(f"{where}: the background holds no exposure")


def _columns_of_bands(ds: xr.Dataset) -> dict[str, np.ndarray]:
    """Return which columns belong to which band, split in the gap between the channels."""
    left, right = bands_of_setting(ds.attrs["setting"])
    if ds.attrs["setting"].startswith("34"):
        left, right = right, left  # channel 4 is on the left
    second = ds.x.values >= SECOND_CHANNEL[ds.attrs["setting"][:2]]
    return {left: ~second, right: second}


def _factors(ds: xr.Dataset, scale: float | Mapping[str, float]) -> xr.DataArray:
    columns = _columns_of_bands(ds)
    factor = np.ones((1, ds.sizes["x"]), dtype=np.float32)
    given = dict(scale) if isinstance(scale, Mapping) else dict.fromkeys(columns, scale)
    for band, value in given.items():
        if band not in columns:
            raise MrsxrError(f"scale names band {band}; setting {ds.attrs['setting']} has {', '.join(sorted(columns))}")
        if isinstance(value, str) or not np.isfinite(value):
            raise MrsxrError(f"the scale of band {band} is {value}; expected a finite number")
        factor[0, columns[band]] = value
    return xr.DataArray(factor, dims=("y", "x"))


@reads()
def fit_background_scale(ds: xr.Dataset, *, background: xr.Dataset) -> dict[str, float]:
    """Measure by what factor the background of the science exposures is brighter than the background exposures.

    Parameters
    ----------
    ds : Dataset, level "rate"
        With the coordinate ``slice`` of ``assign_wcs``. Computed here.
    background : Dataset, level "rate"
        Background exposures of the same setting.

    Returns
    -------
    dict of band to factor
        For the parameter ``scale`` of ``subtract_background``.

    Raises
    ------
    MrsxrError
        Where the factor cannot be told safely: too few blocks with enough background, or a spread of their ratios
        beyond the errors, as where sources fill the field. Then subtract with a factor that is known otherwise.

    Notes
    -----
    Ratio of the medians of blocks of 32 rows of a slice, where the background is at least 10 of its errors. Sources
    only raise it: the mode of the ratios is found (half-sample mode; Bickel & Fruehwirth 2006, CSDA 50, 3500) and the
    blocks around it are averaged.

    Examples
    --------
    >>> located = mx.cal.assign_wcs(rate, distortion=refs.get("distortion", rate), specwcs=refs.get("specwcs", rate))
    >>> factors = mx.cal.fit_background_scale(located, background=background)  # doctest: +SKIP
    >>> out = mx.cal.subtract_background(located, background=background, scale=factors)  # doctest: +SKIP
    """
    if "slice" not in ds.coords:
        raise MrsxrError(f"setting {ds.attrs.get('setting')}: assign_wcs must run before the background is scaled")
    _check_same(ds, background)
    level, variance, _ = combine(background, method="weighted")
    sky, sky_var = level.values, np.asarray(variance)
    out = {}
    for band in bands_of_setting(ds.attrs["setting"]):
        ratio, error = [], []
        for d in range(ds.sizes["dither"]):
            rate, var = usable_frame(ds, d, name="rate", variances=("var_poisson", "var_read"))
            inside = np.where(ds.channel.values == int(band[0]), ds.slice.values, 0)
            blocks = _block_ratios(rate, var, sky, sky_var, inside)
            ratio += blocks[0]
            error += blocks[1]
        out[band] = _safe_mode(np.array(ratio), np.array(error), band)
    return out


def _block_ratios(
    rate: np.ndarray, var: np.ndarray, sky: np.ndarray, sky_var: np.ndarray, labels: np.ndarray,
) -> tuple[list[float], list[float]]:  # fmt: skip
    """Return ratio science to background and its error of every block of a slice that has enough background."""
    ratios, errors = [], []
    for top in range(0, labels.shape[0], ROWS):
        rows = slice(top, top + ROWS)
        known = np.isfinite(rate[rows]) & np.isfinite(sky[rows]) & np.isfinite(var[rows])
        for label in np.unique(labels[rows])[1:]:
            inside = known & (labels[rows] == label)
            n = int(inside.sum())
            if n < 4 * ROWS:
                continue
            s, b = float(np.median(rate[rows][inside])), float(np.median(sky[rows][inside]))
            s_err, b_err = (
                1.2533 * float(np.sqrt(np.mean(v[rows][inside], dtype=np.float64) / n)) for v in (var, sky_var)
            )
            if b > LEAST_SNR * b_err:
                ratios.append(s / b)
                errors.append(float(np.hypot(s_err, s / b * b_err) / b))
    return ratios, errors


def _safe_mode(ratio: np.ndarray, error: np.ndarray, band: str) -> float:
    """Return the mode of ratios with errors, or raise where it is not that of the background."""
    if len(ratio) < LEAST_BLOCKS:
        raise MrsxrError(f"band {band}: only {len(ratio)} blocks show enough background to measure its scale, expected "
                         f"at least {LEAST_BLOCKS}; give the scale of this band as a number")  # fmt: skip
    mode = _half_sample_mode(np.sort(ratio))
    for _ in range(MODE_ROUNDS):
        near = np.abs(ratio - mode) <= 3.0 * error
        if not near.any():
            break
        before, mode = mode, float(np.average(ratio[near], weights=error[near] ** -2.0))
        if abs(mode - before) < 1e-6:
            break
    else:
        raise MrsxrError(f"band {band}: the scale of the background did not converge in {MODE_ROUNDS} rounds (last "
                         f"{before:.4f} and {mode:.4f}); give the scale of this band as a number")  # fmt: skip
    near = np.abs(ratio - mode) <= 3.0 * error
    chi2 = float(np.mean(((ratio - mode)[near] / error[near]) ** 2)) if near.any() else np.inf
    below = int(np.sum(ratio < mode - 3.0 * error))
    if near.mean() < LEAST_SHARE or chi2 > MOST_CHI2 or below > 0.05 * len(ratio):
        raise MrsxrError(
            f"band {band}: the scale of the background is not safe: {100 * near.mean():.0f} % of the blocks agree "
            f"(chi2 {chi2:.1f}, {below} lie below); give the scale of this band as a number"
        )
    return mode


def _half_sample_mode(values: np.ndarray) -> float:
    while len(values) > 3:
        half = (len(values) + 1) // 2
        widths = values[half - 1 :] - values[: len(values) - half + 1]
        first = int(np.argmin(widths))
        values = values[first : first + half]
    return float(np.median(values))
