"""Background over the field: a polynomial in alpha and beta in every spectral bin, from exposures of empty sky."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.errors import MrsxrError
from mrsxr.geometry.sky import SPEED_OF_LIGHT
from mrsxr.limits import Count, checked
from mrsxr.mrs import bands_of_setting
from mrsxr.notes import tell
from mrsxr.robust import middle_and_scatter
from mrsxr.step import step

from ._background_match_solve import spline_basis
from ._field_functions import subtract_tables
from ._sampling import Samples, cell_samples, check_wcs, make_cells, usable_frame

Statistic = Literal["mean", "median"]
TERMS = ("1", "alpha", "beta", "alpha2", "alpha_beta", "beta2")
_N_TERMS = {0: 1, 1: 3, 2: 6}
_CLIP = 3.0
#: The share of the places in the field, and their least number, that a scale is measured on, and the largest chi2.
_LOWEST_SHARE, _LEAST_CELLS, _MOST_CHI2 = 0.1, 15, 3.0


@reads()
@checked
def measure_field_background(
    exposures: xr.Dataset | Iterable[xr.Dataset],
    *,
    statistic: Statistic = "mean",
    n_bins: Count = 400,
    degree: Literal[0, 1, 2] = 1,
    n_knots: Count | None = 6,
) -> xr.Dataset:
    """Measure the background of exposures of empty sky in spectral bins, over the field of view.

    Parameters
    ----------
    exposures : Dataset of level "cal", or several of one setting
        Background exposures along ``dither``: ``flux`` [MJy/sr], ``dq`` and the coordinates of assign_wcs. One
        exposure is in memory at a time.
    statistic : {"mean", "median"}
        Of the pixels of a bin: the mean without outliers, or the median; over the field least squares or least
        absolute deviations. "median" also takes the median of the exposures, from three on.
    n_bins : int
        Bins of equal width in each band; 400 have two to three rows of the detector.
    degree : {0, 1, 2}
        Of the polynomial in alpha and beta.
    n_knots : int, optional
        Knots of the cubic splines along wavelength that the terms in alpha and beta follow, which are poorly known bin
        by bin; None leaves them as they are. The level itself is never smoothed.

    Returns
    -------
    Dataset, kind "field_background"
        On ``band`` and ``bin``: ``coefficients`` (term) [MJy/sr, arcsec], their ``covariance``, ``wavelength`` [um,
        barycentric] of the middle and ``n_pixels``. Bins without pixels, told by ``n_pixels`` 0, are interpolated.

    Raises
    ------
    MrsxrError
        Where there is no exposure, settings differ, a parameter is out of range, or a band has no good pixel.

    Notes
    -----
    The exposures count by exposure time. The covariance is that of the scatter of the pixels about the polynomial.
    Least absolute deviations are found by reweighted least squares from a least-squares start; bins in which the rounds
    still moved the model at the end are told.

    Examples
    --------
    >>> rows = cal.isel(y=slice(400, 450))  # a part, as all takes seconds
    >>> sky = mx.cal.measure_field_background(rows, n_bins=10)
    >>> out = mx.cal.subtract_field_background(rows, background=sky)
    """
    datasets = [exposures] if isinstance(exposures, xr.Dataset) else list(exposures)
    if not datasets:
        raise MrsxrError("no background exposures; expected Datasets of level cal")
    for ds in datasets:
        check_wcs(ds)
        if ds.attrs["setting"] != datasets[0].attrs["setting"]:
            both = f"{datasets[0].attrs['setting']} and {ds.attrs['setting']}"
            raise MrsxrError(f"background exposures of settings {both}; measure each setting by itself")
    bands, n_term = bands_of_setting(datasets[0].attrs["setting"]), _N_TERMS[degree]
    limits = np.array([_limits(datasets[0], band) for band in bands])
    found = [
        _fit_exposure(ds, d, bands, limits, n_bins, n_term, statistic) for ds in datasets for d in range(ds.dither.size)
    ]
    times = np.concatenate([ds.exposure_time.values for ds in datasets])
    *values, converged = [np.stack(a) for a in zip(*found, strict=True)]
    parts = _average(values, times, statistic)
    lost = int((~converged & (values[3] > 0)).sum())
    names = ", ".join(str(e) for ds in datasets for e in ds.exposure.values)
    if lost:
        tell(f"background over the field ({names}): the fits of {lost} of {converged.size} bins did not converge")
    wavelength = limits[:, :1] + (np.arange(n_bins) + 0.5) / n_bins * (limits[:, 1:] - limits[:, :1])
    planes = [_smoothed(wavelength[k], [p[k] for p in parts], n_knots, f"band {band}") for k, band in enumerate(bands)]
    attrs = {
        "ref_id": f"background of {names}",
        "statistic": statistic,
        "smooth": int(n_knots is not None and degree > 0),
    }
    return _dataset(list(bands), wavelength, planes, parts[3]).assign_attrs(attrs)


def _dataset(bands: list[str], wavelength: np.ndarray, planes: list[tuple[Any, ...]], number: np.ndarray) -> xr.Dataset:
    coefficients, covariance = (np.stack(p) for p in zip(*planes, strict=True))
    return xr.Dataset(
        {
            "coefficients": (("band", "bin", "term"), coefficients, {"units": "MJy/sr, for alpha and beta /arcsec"}),
            "covariance": (("band", "bin", "term", "term_of"), covariance),
            "n_pixels": (("band", "bin"), number, {"units": "1"}),
        },
        {"band": bands, "wavelength": (("band", "bin"), wavelength, {"units": "um"}),
         "term": list(TERMS[: coefficients.shape[2]])},
        {"level": "reference", "kind": "field_background"},
    )  # fmt: skip


@step(needs="cal", jwst="field_background", once="field_background")
def subtract_field_background(
    ds: xr.Dataset, *, background: xr.Dataset, scale: float | Mapping[str, float] | xr.Dataset = 1.0
) -> xr.Dataset:
    """Subtract the background that ``measure_field_background`` found, times a factor.

    Parameters
    ----------
    ds : Dataset, level "cal"
        ``flux`` [MJy/sr] (dither, y, x) with the coordinates of assign_wcs.
    background : Dataset, kind "field_background"
        Of the same setting.
    scale : float, mapping of band to float, or Dataset of ``fit_field_scale``
        Factor of the background, for zodiacal light that has changed; its error counts where it was fitted.

    Returns
    -------
    Dataset, level "cal"
        ``flux`` less the background, interpolated linearly between the bins, constant beyond the ends of a band; and
        ``var_background`` [MJy2/sr2] with its variance added, which neighbouring pixels have in common.
        ``attrs["field_background"] = 1``.

    Raises
    ------
    MrsxrError
        Where the background is of another setting, a factor is no finite number, or a background was subtracted
        before in any way.

    Examples
    --------
    >>> rows = cal.isel(y=slice(400, 450))  # a part, as all takes seconds
    >>> sky = mx.cal.measure_field_background(rows, n_bins=10)
    >>> out = mx.cal.subtract_field_background(rows, background=sky, scale=1.02)
    """
    check_wcs(ds)
    setting, bands = ds.attrs["setting"], bands_of_setting(ds.attrs["setting"])
    if background.attrs.get("kind") != "field_background":
        found = background.attrs.get("kind") or "one of no kind"
        raise MrsxrError(f"setting {setting}: expected a Dataset of kind field_background, got {found}; make it by "
                         "measure_field_background")  # fmt: skip
    missing = [band for band in bands if band not in background.band.values]
    if missing:
        raise MrsxrError(f"setting {setting}: the background has the bands {', '.join(background.band.values)}, not "
                         f"{missing[0]}; measure it on exposures of the same setting")  # fmt: skip
    one = background.sel(band=list(bands))
    n_dither, n_term = ds.sizes["dither"], one.sizes["term"]
    upper = np.triu_indices(n_term)
    table = np.concatenate([one.coefficients.values, one.covariance.values[:, :, *upper]], axis=2)
    facts = np.zeros((n_dither, 2, 4))
    facts[:, :, :2] = _factors(ds, bands, scale)
    observed = _to_observed(ds)[:, None]
    wave = one.wavelength.values
    half = 0.5 if wave.shape[1] == 1 else 0.0
    facts[:, :, 2], facts[:, :, 3] = (wave[:, 0] - half) * observed, (wave[:, -1] + half) * observed
    tables = np.broadcast_to(table, (n_dither, *table.shape))
    return subtract_tables(ds, tables, facts, n_term, independent=1 if background.attrs.get("smooth") else 2)


@reads()
@checked
def fit_field_scale(ds: xr.Dataset, background: xr.Dataset, *, per_exposure: bool = False) -> xr.Dataset:
    """Measure the factor of the background on those parts of science exposures that have no source.

    Parameters
    ----------
    ds : Dataset, level "cal"
        Science exposures of one setting; one is in memory at a time.
    background : Dataset, kind "field_background"
    per_exposure : bool
        A factor for each exposure, else one for all.

    Returns
    -------
    Dataset
        ``scale`` and ``scale_var`` (dither, band), ``n_cells`` (band) that it rests on; for
        ``subtract_field_background``.

    Raises
    ------
    MrsxrError
        Where the factor cannot be told safely, as where sources fill the field. Then give one.

    Notes
    -----
    The ratio of science to background is averaged over the wavelengths of a band in cells of a slice, lines left out.
    Sources only raise it, so that the faintest tenth of the cells counts: chosen by every other wavelength bin and
    measured in the rest, and the other way round, as a choice by the same noise would be biased low. What sources add
    even there stays in the factor. The error of the background itself, common to all cells, is not in ``scale_var``.

    Examples
    --------
    >>> rows = cal.isel(y=slice(400, 450))  # a part, as all takes seconds
    >>> sky = mx.cal.measure_field_background(rows, n_bins=10)
    >>> factor = mx.cal.fit_field_scale(rows, sky)  # doctest: +SKIP
    >>> out = mx.cal.subtract_field_background(rows, background=sky, scale=factor)  # doctest: +SKIP
    """
    check_wcs(ds)
    bands, cells = bands_of_setting(ds.attrs["setting"]), make_cells(ds)
    n_dither = ds.sizes["dither"]
    ratios: dict[str, list[np.ndarray]] = {band: [] for band in bands}
    for d, observed in enumerate(_to_observed(ds)):
        for band, samples in cell_samples(ds, d, cells).items():
            level = background_at(background, band, samples, observed)
            place = cells.slice[samples.cell].astype(np.int64) * 4096 + cells.column[samples.cell] + 2048
            ratios[band].append(_cell_ratios(samples, level, place))
    scale, var, count = np.ones((n_dither, 2)), np.zeros((n_dither, 2)), np.zeros(2, dtype=np.int64)
    for k, band in enumerate(bands):
        groups = [[r] for r in ratios[band]] if per_exposure else [ratios[band]] * n_dither
        for d, group in enumerate(groups):
            if per_exposure or d == 0:
                value, variance, agree = _lowest(np.concatenate(group), band)
                count[k] += agree
            scale[d, k], var[d, k] = value, variance
    return xr.Dataset(
        {"scale": (("dither", "band"), scale), "scale_var": (("dither", "band"), var), "n_cells": ("band", count)},
        {"dither": ds.dither.values, "band": list(bands)},
        {"kind": "background_scale", "ref_id": "scale fitted on source-free pixels"},
    )


def background_at(background: xr.Dataset, band: str, samples: Samples, observed: float = 1.0) -> np.ndarray:
    """Return the background [MJy/sr] at samples of a band; ``observed`` takes its wavelengths to theirs."""
    one = background.sel(band=band)
    a, b = samples.alpha, samples.beta
    terms = (np.ones(a.size), a, b, a * a, a * b, b * b)
    wave = one.wavelength.values * observed
    return np.sum([
        np.interp(samples.wavelength, wave, one.coefficients.values[:, p]) * terms[p] for p in range(one.sizes["term"])
    ], axis=0)  # fmt: skip


def _to_observed(ds: xr.Dataset) -> np.ndarray:
    """Return the factor from barycentric to observed wavelengths of each exposure."""
    speed = ds["velosys"].values if "velosys" in ds.coords else np.zeros(ds.sizes["dither"])
    return 1.0 + np.where(np.isfinite(speed), speed, 0.0) / SPEED_OF_LIGHT


def _limits(ds: xr.Dataset, band: str) -> tuple[float, float]:
    wavelength = ds.wavelength.values[(ds.channel.values == int(band[0])) & np.isfinite(ds.wavelength.values)]
    if wavelength.size == 0:
        raise MrsxrError(
            f"setting {ds.attrs['setting']}: no pixel of band {band} has a wavelength; run assign_wcs first"
        )
    return float(wavelength.min()), float(wavelength.max())


def _fit_exposure(
    ds: xr.Dataset, dither: int, bands: tuple[str, str], limits: np.ndarray, n_bins: int, n_term: int, statistic: str,
) -> list[np.ndarray]:  # fmt: skip
    """Fit all bins of an exposure: coefficients, covariance, means of terms, numbers, converged: (band, bin, ...)."""
    from ._background_match_kernels import fit_bins

    flux = usable_frame(ds, dither)[0].ravel().astype(np.float64)
    wavelength = (ds.wavelength.values / _to_observed(ds)[dither]).ravel()
    along, across = (ds[name].values.ravel().astype(np.float64) for name in ("alpha", "beta"))
    parts = []
    for band, (low, high) in zip(bands, limits, strict=True):
        pixel = np.flatnonzero((ds.channel.values.ravel() == int(band[0])) & np.isfinite(wavelength))
        number = np.clip(((wavelength[pixel] - low) / (high - low) * n_bins).astype(np.int64), 0, n_bins - 1)
        order = np.argsort(number, kind="stable")
        start = np.searchsorted(number[order], np.arange(n_bins + 1))
        parts.append(fit_bins(flux, pixel[order], start, along, across, n_term, _CLIP, statistic == "median"))
    return [np.stack(a) for a in zip(*parts, strict=True)]


def _average(parts: list[np.ndarray], times: np.ndarray, statistic: str) -> list[np.ndarray]:
    """Average coefficients, covariance and means of terms over the exposures, and add up the numbers."""
    coefficients, covariance, means, number = parts
    known = np.isfinite(coefficients).all(axis=-1)
    times = times if np.all(np.isfinite(times) & (times > 0)) else np.ones(times.size)
    weight = np.where(known, times[:, None, None], 0.0)
    weight = weight / np.maximum(weight.sum(axis=0), 1e-30)
    wide = weight[..., None]
    mean = np.nansum(coefficients * wide, axis=0)
    spread = np.nansum(covariance * wide[..., None] ** 2, axis=0)
    some = known.any(axis=0)
    if statistic == "median" and len(coefficients) > 2:
        filled = np.where(known[..., None], coefficients, mean)
        mean, spread = np.median(filled, axis=0), spread * 0.5 * np.pi
    mean[~some], spread[~some] = np.nan, np.nan
    return [mean, spread, np.nansum(means * wide, axis=0), number.sum(axis=0)]


def _smoothed(
    wavelength: np.ndarray, parts: list[np.ndarray], n_knots: int | None, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Let the terms over the field follow splines along wavelength, with the levels that go with them; fill gaps."""
    coefficients, covariance, means = parts[:3]
    known = np.isfinite(coefficients[:, 0])
    if not known.any():
        raise MrsxrError(f"{where}: no spectral bin has enough good pixels in any background exposure; leave it out")
    out, spread = coefficients.copy(), covariance.copy()
    n_term = out.shape[1]
    if n_knots is not None and n_term > 1 and known.sum() > n_knots:
        basis = spline_basis(np.linspace(wavelength[0], wavelength[-1], n_knots), wavelength)
        smooth, smooth_cov = _spline_terms(basis, out[:, 1:], spread[:, 1:, 1:], known)
        shift = np.sum((np.where(known[:, None], out[:, 1:], 0.0) - smooth) * means[:, 1:], axis=1)
        centred = np.zeros((wavelength.size, n_term))
        centred[:, 0], centred[:, 1:] = 1.0, means[:, 1:]
        # at the mean place of the pixels the level is what it is, with or without smooth terms
        at_mean = np.einsum("bp,bpq,bq->b", centred, spread, centred)
        out[:, 0] += shift
        out[:, 1:] = smooth
        spread[:, 1:, 1:] = smooth_cov
        slope = np.einsum("bpq,bq->bp", smooth_cov, means[:, 1:])
        spread[:, 0, 1:] = spread[:, 1:, 0] = -slope
        spread[:, 0, 0] = at_mean + np.einsum("bp,bp->b", slope, means[:, 1:])
    for array in (out, spread):
        flat = array.reshape(array.shape[0], -1)
        for column in range(flat.shape[1]):
            flat[:, column] = np.interp(wavelength, wavelength[known], flat[known, column])
    return out, spread


def _spline_terms(
    basis: np.ndarray, terms: np.ndarray, covariance: np.ndarray, known: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Fit splines to all terms together; return the terms (bin, term) and their covariance (bin, term, term)."""
    n_term, n_knot = terms.shape[1], basis.shape[1]
    size = n_term * n_knot
    normal, right = np.zeros((size, size)), np.zeros(size)
    for b in np.flatnonzero(known):
        weight = np.linalg.pinv(covariance[b], hermitian=True)
        up = np.kron(np.eye(n_term), basis[b])
        normal += up.T @ weight @ up
        right += up.T @ (weight @ terms[b])
    inverse = np.linalg.pinv(normal, hermitian=True)
    answer = (inverse @ right).reshape(n_term, n_knot)
    spread = np.einsum("bk,pkql,bl->bpq", basis, inverse.reshape(n_term, n_knot, n_term, n_knot), basis, optimize=True)
    return basis @ answer.T, spread


def _factors(ds: xr.Dataset, bands: tuple[str, str], scale: float | Mapping[str, float] | xr.Dataset) -> np.ndarray:
    """Return factor and variance (dither, side, 2)."""
    out = np.zeros((ds.sizes["dither"], 2, 2))
    out[..., 0] = 1.0
    if isinstance(scale, xr.Dataset):
        missing = [b for b in bands if b not in scale.band.values]
        if missing or scale.sizes["dither"] != ds.sizes["dither"]:
            raise MrsxrError(f"setting {ds.attrs['setting']}: the fitted scale is of other exposures or bands "
                             f"({', '.join(scale.band.values)}); fit it on these")  # fmt: skip
        both = scale.sel(band=list(bands)).transpose("dither", "band")
        out[..., 0], out[..., 1] = both.scale.values, both.scale_var.values
    else:
        given = dict(scale) if isinstance(scale, Mapping) else dict.fromkeys(bands, scale)
        for band, value in given.items():
            if band not in bands:
                raise MrsxrError(f"scale names band {band}; setting {ds.attrs['setting']} has {', '.join(bands)}")
            out[:, bands.index(band), 0] = value
    if not np.isfinite(out).all():
        raise MrsxrError(f"setting {ds.attrs['setting']}: a scale of the background is no finite number; give another")
    return out


def _cell_ratios(samples: Samples, level: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return (place, half, 2): ratio to the background of each place in the field, and its error.

    The two halves are the even and the odd wavelength bins; lines are left out. Places with few samples are not there.
    """
    order = np.argsort(place, kind="stable")
    found: list[list[list[float]]] = []
    for rows in np.split(order, np.flatnonzero(np.diff(place[order])) + 1):
        b, f, v = level[rows], samples.flux[rows], samples.var[rows]
        weight = np.ones(rows.size, dtype=bool)
        left = 0 if rows.size >= 8 and np.any(b != 0) else rows.size
        while left != weight.sum():  # what is clipped stays out, so that it ends
            left = weight.sum()
            off = (f - np.sum((b * f / v)[weight]) / np.sum((b * b / v)[weight]) * b) / np.sqrt(v)
            middle, sigma = middle_and_scatter(off[weight])
            weight &= np.abs(off - middle) <= _CLIP * max(sigma, 1.0)
        odd = samples.spectral_bin[rows] % 2 == 1
        halves = [weight & odd, weight & ~odd]
        if min(h.sum() for h in halves) >= 4:
            totals = [float(np.sum((b * b / v)[h])) for h in halves]
            if min(totals) > 0:
                found.append([[np.sum((b * f / v)[h]) / t, t**-0.5] for h, t in zip(halves, totals, strict=True)])
    return np.reshape(found, (-1, 2, 2))


def _lowest(cells: np.ndarray, band: str) -> tuple[float, float, int]:
    """Return the ratio of the places with the least light, its variance and their number; raise where not safe."""
    if len(cells) < 2 * _LEAST_CELLS:
        raise MrsxrError(
            f"band {band}: only {len(cells)} cells show the background, expected {2 * _LEAST_CELLS}; give its scale"
        )
    n = max(_LEAST_CELLS, int(_LOWEST_SHARE * len(cells)))
    value, weight, chi2 = np.zeros(2), np.zeros(2), np.zeros(2)
    for half in (0, 1):
        low = np.argsort(cells[:, 1 - half, 0])[:n]
        ratio, error = cells[low, half, 0], cells[low, half, 1]
        weight[half] = np.sum(error**-2.0)
        value[half] = np.sum(ratio * error**-2.0) / weight[half]
        chi2[half] = np.sum(((ratio - value[half]) / error) ** 2) / (n - 1)
    if chi2.mean() > _MOST_CHI2:
        raise MrsxrError(f"band {band}: the scale of the background is not safe: the {n} faintest cells differ (chi2 "
                         f"{chi2.mean():.1f}), sources reach everywhere; give the scale of this band")  # fmt: skip
    return float(value.mean()), float(max(chi2.mean(), 1.0) / weight.sum()), n
