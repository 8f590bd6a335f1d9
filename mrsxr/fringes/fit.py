"""Fit residual fringes in plain arrays: columns of detector frames, and spectra.

Families of fringes are rows (period, half range of periods [1/cm], most components, least S/N, least periods).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from mrsxr.errors import MrsxrError
from mrsxr.scores import gains
from mrsxr.threads import one_blas_thread

from .judge import judge

Method = Literal["columns", "slices"]
METHODS = get_args(Method)
LEAST_PERIODS = 5
PRIOR_RANGE, PRIOR_RANGE_1D = 13.0, 1002.0  # of the evidence: limits -3 ... 10 and -2 ... 1000 of jwst
TOLERANCE = 1e-4  # of chi2, where jwst's fit of sines ends
LONGEST = 27.6  # um; beyond, spectra are too uncertain to be fitted
Regions = Sequence[tuple[float, float]]


def spectrum_families(channel: int, *, dichroic_only: bool = False) -> np.ndarray:
    """Return the families (family, 5) of a spectrum of a channel: detector, and in channels 3 and 4 the dichroics."""
    both = np.array([[2.9, 1.5, 10, 0.0, LEAST_PERIODS], [0.4, 0.15, 15, 0.0, LEAST_PERIODS]])
    if dichroic_only:
        if channel not in (3, 4):
            raise MrsxrError(f"channel {channel} has no fringes of the dichroics; use dichroic_only in 3 and 4 only")
        return both[1:]
    return both if channel in (3, 4) else both[:1]


def correct_frames(
    data: np.ndarray,
    flags: np.ndarray,
    variance: np.ndarray,
    labels: np.ndarray,
    wavelength: np.ndarray,
    alpha: np.ndarray,
    *,
    families: np.ndarray,
    family_labels: np.ndarray,
    limits: np.ndarray,
    method: str = "columns",
    ignore: Regions = (),
    snr_share: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divide frames by the fringes of each column, slice by slice.

    Parameters
    ----------
    data : (dither, y, x)
        Slopes or surface brightness.
    flags : (dither, y, x) uint32
        DO_NOT_USE pixels are left out.
    variance : (dither, y, x)
        Noise of the data squared.
    labels : (y, x)
        Slice of each pixel, channel * 100 + n, 0 between slices.
    wavelength : (y, x) [um]
    alpha : (y, x) [arcsec]
        Place along the slice, used by "slices".
    families : (label, family, 5)
    family_labels : (label)
    limits : (2, n)
        Wavelength [um] and largest amplitude there.
    method : str
        One of :data:`METHODS`.
    ignore : sequence of (minimum, maximum) [um]
        Wavelengths to leave out of the fits.
    snr_share
        See :func:`mrsxr.cal.residual_fringe.correct_residual_fringe`.

    Returns
    -------
    corrected data (dither, y, x) float32
    variance of the correction float32, 0 with "columns"
    score of the slice of each pixel float32: misfit with the fringes, where they are predicted from elsewhere, over
    that without; NaN where it was not judged and between slices. A slice that does not gain stays as it is
    """
    out = data.astype(np.float32, copy=True)
    added = np.zeros(data.shape, dtype=np.float32)
    judged = np.full(data.shape, np.nan, dtype=np.float32)
    for label in np.unique(labels[labels > 0]):
        row = np.nonzero(family_labels == label)[0]
        columns = np.nonzero((labels == label).any(axis=0))[0]
        if row.size == 0 or columns.size == 0:
            continue
        inside = (labels[:, columns] == label).T
        with np.errstate(divide="ignore", invalid="ignore"):
            wavenumber = np.where(inside, 1e4 / wavelength[:, columns].T, np.nan)
        waves = np.where(inside, wavelength[:, columns].T, 0.0)
        amplitude = np.interp(waves, limits[0], limits[1])
        left_out = _within(waves, ignore)
        tracks = _tracks(alpha[:, columns].T, inside)
        for d in range(data.shape[0]):
            flux = data[d][:, columns].T
            use = ((flags[d][:, columns].T & 1) == 0) & np.isfinite(flux)
            if not use.any():
                continue
            error = np.sqrt(variance[d][:, columns].T.astype(np.float64))
            given = (
                wavenumber,
                tracks,
                flux,
                error,
                use,
                left_out,
                families[row[0]],
                amplitude,
                int(label) // 100 in (3, 4),
            )
            factor, relative = _fit(method, *given, snr_share)
            if method == "slices":
                touched = (factor != 1.0).any(axis=1)
                period = float(families[row[0]][:, 0].max())
                seen = (use & inside & ~left_out)[touched]
                found = judge(wavenumber[touched], flux[touched], factor[touched], seen, period)
                judged[d][labels == label] = found
                if not gains(found):
                    continue
            changed = inside & (factor != 1.0)
            y, x = np.nonzero(changed.T)
            at = (d, y, columns[x])
            out[at] = (data[at] / factor.T[y, x]).astype(np.float32)
            added[at] = (relative.T[y, x] * out[at].astype(np.float64) ** 2).astype(np.float32)
    return out, added, judged


def _fit(
    method: str, wavenumber: np.ndarray, tracks: np.ndarray, flux: np.ndarray, error: np.ndarray, use: np.ndarray,
    left_out: np.ndarray, families: Any, amplitude: float, dichroic: Any, snr_share: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return (1 + fringes, their relative variance) of the columns (column, sample) of a slice."""
    if method == "columns":
        from ._column_kernels import correct_columns

        n = len(flux)
        every = np.broadcast_to(families, (n, *families.shape))
        factor, _, _ = correct_columns(
            wavenumber, flux, error, use, left_out, every, amplitude, np.full(n, dichroic), PRIOR_RANGE
        )  # fmt: skip
        return factor, np.zeros_like(factor)
    from ._group_kernels import correct_group

    return correct_group(wavenumber, tracks, flux, error, use, left_out, families, amplitude, dichroic, snr_share)[:2]


def _tracks(alpha: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the place along the slice in columns, from 0, of (column, row)."""
    place = np.where(inside, alpha, np.nan).astype(np.float64)
    if len(place) < 2 or not np.isfinite(place).any():
        return np.zeros(place.shape)
    steps = np.abs(np.diff(place, axis=0))
    step = np.median(steps[np.isfinite(steps)]) if np.isfinite(steps).any() else 0.0
    if not step > 0:
        return np.broadcast_to(np.arange(len(place), dtype=np.float64)[:, None], place.shape)
    return np.nan_to_num((place - np.nanmin(place)) / step)


def _within(waves: np.ndarray, regions: Regions) -> np.ndarray:
    found = np.zeros(waves.shape, dtype=bool)
    for low, high in regions:
        found |= (waves > low) & (waves < high)
    return found


def correct_spectra(
    wavelength: np.ndarray,
    flux: np.ndarray,
    error: np.ndarray | None = None,
    *,
    channel: int,
    method: str = "columns",
    dichroic_only: bool = False,
    max_amplitude: float = 0.4,
    clip_sigma: float = 5.0,
    ignore: Regions = (),
    tolerance: float = TOLERANCE,
) -> tuple[np.ndarray, np.ndarray]:
    """Divide spectra of one band by their fringes.

    Parameters
    ----------
    wavelength : (sample) or (spectrum, sample) [um]
    flux : (sample) or (spectrum, sample)
        Only finite, positive samples are fitted and changed. "columns" depends on its unit, as jwst does: knots of the
        continuum are set at the edges of lines above 1e-3 of it, and the fit of the continuum ends where the sum of
        squares changes by 1e-4 of it. jwst gives it sums over spaxels in MJy/sr.
    error : like flux, optional
        Its noise; by default estimated from each spectrum. Used by "slices".
    channel : int
    method : str
        "columns": each spectrum by itself, the 1-D correction of jwst number for number. "slices": neighbouring spectra
        (of spaxels in a row) together, cross-validated; one alone as waves of learned power.
    dichroic_only : bool
        Only the fringes of the dichroics, channels 3 and 4.
    max_amplitude : float
        Largest amplitude of fringes.
    clip_sigma : float
        With "columns": features that stand out by more are not fitted.
    ignore : sequence of (minimum, maximum) [um]
        Wavelengths to leave out of the fits, as is all beyond 27.6 um.
    tolerance : float
        With "columns": a fit of sines ends where chi2 changes by less; an absolute number as long as chi2 is below 1,
        which it is for relative fringes, so that jwst's 1e-4 ends some percent of the amplitude before the minimum.
        0 goes to the minimum.

    Returns
    -------
    corrected flux, variance of the correction; shape and dtype of ``flux``

    Raises
    ------
    MrsxrError
        Where the method is unknown or the shapes differ.

    Notes
    -----
    ``fit_residual_fringes_1d`` of jwst 3.0. Where that fails (fewer than five periods in the spectrum), the spectrum
    stays as it is.
    """
    if method not in METHODS:
        raise MrsxrError(f"method of the fringe fit is '{method}'; expected one of {', '.join(METHODS)}")
    values = np.atleast_2d(np.asarray(flux, dtype=np.float64))
    waves = np.broadcast_to(np.asarray(wavelength, dtype=np.float64), np.shape(flux)).reshape(values.shape)
    use = np.isfinite(values) & (values > 0)
    left_out = _within(waves, (*ignore, (LONGEST, np.inf)))
    families = spectrum_families(channel, dichroic_only=dichroic_only)
    if method == "columns":
        from ._spectrum_kernels import correct_each

        factor, _ = correct_each(
            waves, values, use, left_out, families, max_amplitude, clip_sigma, PRIOR_RANGE_1D, tolerance
        )
        relative = np.zeros_like(factor)
    else:
        from ._group_kernels import correct_group

        noise = np.zeros_like(values) if error is None else np.asarray(error, dtype=np.float64).reshape(values.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            wavenumber = 1e4 / waves
        rows = np.broadcast_to(np.arange(len(values))[:, None], values.shape)
        limit = np.full(values.shape, float(max_amplitude))
        with one_blas_thread():  # of matrices as small as these two threads take ten times as long
            factor, relative, _, _ = correct_group(
                wavenumber, rows, values, noise, use, left_out, families, limit, channel in (3, 4), 1.0
            )
    out = np.where(use, values / factor, values)
    shape, dtype = np.shape(flux), np.asarray(flux).dtype
    added = relative * np.where(use, out, 0.0) ** 2
    return out.reshape(shape).astype(dtype), added.reshape(shape).astype(dtype)


def correct_where_gained(
    wavelength: np.ndarray, flux: np.ndarray, error: np.ndarray | None = None, *, ignore: Regions = (), **options: Any
) -> tuple[np.ndarray, np.ndarray, float]:
    """Divide spectra of one band by their fringes where the method "slices" shows that it gains by that.

    Parameters
    ----------
    wavelength, flux, error, ignore
        As of :func:`correct_spectra`; the spectra are judged together.
    **options
        More of its parameters.

    Returns
    -------
    corrected flux, variance of the correction; shape and dtype of ``flux``
    score
        Of :func:`mrsxr.fringes.judge.judge`: misfit with the fringes, each predicted from places further away than a
        line and what it changes around it, over that without; NaN where it was not judged, and with "columns". Where
        "slices" is not below 1 the spectra stay as they are.
    """
    out, added = correct_spectra(wavelength, flux, error, ignore=ignore, **options)
    if options.get("method", "columns") == "columns":
        return out, added, np.nan
    values, clean = (np.atleast_2d(np.asarray(a, dtype=np.float64)) for a in (flux, out))
    waves = np.broadcast_to(np.asarray(wavelength, dtype=np.float64), np.shape(flux)).reshape(values.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(values > 0, values / clean, 1.0)
        seen = np.isfinite(values) & (values > 0) & ~_within(waves, (*ignore, (LONGEST, np.inf)))
        changed = (np.abs(factor - 1.0) > 1e-12).any(axis=1)
        longest = 0.4 if options.get("dichroic_only") else 2.9
        score = judge(1e4 / waves[changed], values[changed], factor[changed], seen[changed], longest)
    return (out, added, score) if gains(score) else (np.asarray(flux).copy(), np.zeros_like(added), score)
