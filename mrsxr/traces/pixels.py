"""The usable pixels of a band and those near sources, of all exposures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq
from mrsxr.attributes import keyword, of_each
from mrsxr.errors import MrsxrError
from mrsxr.geometry.pixels import band_columns
from mrsxr.geometry.sky import Pointing, sky_to_v2v3, slicer_to_sky, tangent_frame, tangent_offsets, v2v3_to_slicer
from mrsxr.mrs import psf_fwhm
from mrsxr.notes import tell
from mrsxr.schema import RANDOM, WCS_VARIABLES, variances_of

_AT_REST = 0.01  # arcsec, that a target may have moved from exposure to exposure


@dataclass
class Pixels:
    """Pixels near sources, of all exposures: (pixel) arrays; slice coordinates [arcsec], um, MJy/sr."""

    dither: np.ndarray
    label: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    wavelength: np.ndarray
    flux: np.ndarray
    variance: np.ndarray
    beside: np.ndarray  # mean of the left and right neighbours in the slice, NaN where there is none
    beside_variance: np.ndarray
    odd: np.ndarray  # squares of one colour of a chess board on the detector

    def of(self, chosen: np.ndarray) -> Pixels:
        """Return some of the pixels."""
        return Pixels(*(values[chosen] for values in vars(self).values()))


def lit_pixels(ds: xr.Dataset, band: str) -> xr.Dataset:
    """Return ``flux`` and ``variance`` on the columns of a band, NaN where unusable, and what tells where they lie.

    Raises where no exposure has a slice of the band; tells of a target that moves over the sky meanwhile.
    """
    _tell_of_moving(ds)
    ds = ds.isel(x=band_columns(band, ds["x"].values))
    small = [name for name in ("slice", *(v.name for v in WCS_VARIABLES)) if name in ds.variables]
    out = ds[["flux", *small]].assign(ds[small].compute(scheduler="synchronous").variables)
    flux = ds["flux"].variable
    variance: Any = sum(ds[name].variable for name in variances_of(ds, RANDOM))
    ours = out["slice"].variable // 100 == int(band[0])
    if not shows(out, band):
        raise MrsxrError(f"band {band}: no exposure has a pixel in a slice of it; take exposures of that band")
    good = (ours & ((ds["dq"].variable & dq.DO_NOT_USE) == 0) & np.isfinite(flux) & (variance > 0)).transpose(
        *flux.dims
    )
    return out.assign(flux=flux.where(good), variance=variance.where(good))


def _tell_of_moving(ds: xr.Dataset) -> None:
    """Tell of a target that was not brought to rest: by where exposures have it, else by TARGTYPE."""
    header = ds.variables.get("fits_header")
    if ds.sizes["dither"] < 2 or (header is not None and header.chunks):
        return
    ra, dec = (
        np.array(
            [_number(old if new is None else new) for new, old in zip(of_each(ds, at), keyword(ds, name), strict=True)]
        )
        for at, name in (("mt_avra", "MT_RA"), ("mt_avdec", "MT_DEC"))
    )
    known = np.isfinite(ra + dec)
    path = 0.0
    if known.any():
        frame = tangent_frame(ra[known][0], dec[known][0])
        path = float(np.hypot(*tangent_offsets(ra[known], dec[known], frame)).max())
    moving = "MOVING" in (str(one).upper() for one in keyword(ds, "TARGTYPE"))
    if path > _AT_REST or (moving and not known.all()):
        how_far = f"by {path:.2f} arcsec " if path > _AT_REST else ""
        tell(f"the target moves {how_far}over the sky between exposures and was not brought to rest; use assign_mtwcs")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else np.nan


def shows(ds: xr.Dataset, band: str) -> bool:
    """Return whether an exposure has a pixel in a slice of a band."""
    return bool(ds.sizes["dither"] and (ds["slice"] // 100 == int(band[0])).any())


def places_of(lit: xr.Dataset, band: str, source: tuple[float, float] | None) -> np.ndarray:
    """Return alpha, beta [arcsec] of a source in every exposure, by the pointings."""
    ra, dec = _brightest(lit, band) if source is None else source
    turned = [sky_to_v2v3(ra, dec, Pointing.of(lit, d)) for d in range(lit.sizes["dither"])]
    return np.array([[float(x) for x in v2v3_to_slicer(*place, band, lit)] for place in turned])


def _brightest(lit: xr.Dataset, band: str) -> tuple[Any, Any]:
    """Return the place on the sky of the cell, half an FWHM along a slice, of the highest median of all exposures."""
    labels, flux = lit["slice"].values, lit["flux"].values
    inside = labels // 100 == int(band[0])
    half = 0.5 * psf_fwhm(np.nanmedian(lit["wavelength"].values[inside]))
    most, found = -np.inf, (0, 0.0, 0.0)
    for d in range(lit.sizes["dither"]):
        good = inside & np.isfinite(flux[d])
        values, alpha, beta = flux[d][good], lit["alpha"].values[good], lit["beta"].values[good]
        key = labels[good] % 100 * 1000 + np.rint(alpha / half).astype(int) + 500
        order = np.argsort(key.astype(np.int16), kind="stable")  # by digits, in a fifth of the time
        groups = np.split(order, np.flatnonzero(np.diff(key[order])) + 1) if order.size else []
        enough = 0.3 * max((len(group) for group in groups), default=0)
        for here in (group for group in groups if len(group) > enough):
            middle = (len(here) - 1) // 2, len(here) // 2
            level = float(np.partition(values[here], middle)[list(middle)].mean())
            if level > most:
                most, found = level, (d, float(alpha[here].mean()), float(beta[here].mean()))
    return slicer_to_sky(*found[1:], band, lit, Pointing.of(lit, found[0]))


def on_sky(place: np.ndarray, band: str, ds: xr.Dataset, dither: int) -> tuple[float, float]:
    """Return where on the sky [deg] a place in the slices of an exposure is by its pointing."""
    ra, dec = slicer_to_sky(place[0], place[1], band, ds, Pointing.of(ds, dither))
    return float(ra), float(dec)


def in_circle(lit: xr.Dataset, place: np.ndarray, radius: float) -> np.ndarray:
    """Return which pixels (dither, y, x) lie within a radius [FWHM] of a place (dither, axis)."""
    most = (radius * psf_fwhm(lit["wavelength"].values)) ** 2
    return np.stack([(lit["alpha"].values - a) ** 2 + (lit["beta"].values - b) ** 2 < most for a, b in place])


def in_box(lit: xr.Dataset, place: np.ndarray, reach: float) -> np.ndarray:
    """Return which pixels (dither, y, x) lie within half a side [FWHM] of places (source, dither, axis)."""
    away = [
        [np.maximum(np.abs(lit["alpha"].values - a), np.abs(lit["beta"].values - b)) for a, b in one] for one in place
    ]
    return np.min(away, axis=0) / psf_fwhm(lit["wavelength"].values) < reach


def gathered(lit: xr.Dataset, near: np.ndarray) -> Pixels:
    """Return the usable pixels of those named (dither, y, x)."""
    labels = lit["slice"].values
    alpha, beta, wave = (lit[name].values.astype(float) for name in ("alpha", "beta", "wavelength"))
    chess = (lit["y"].values[:, None] + lit["x"].values[None, :]) % 2 == 1
    same = (labels[:, :-2] == labels[:, 1:-1]) & (labels[:, 2:] == labels[:, 1:-1])
    columns: list[tuple[np.ndarray, ...]] = []
    for d in range(near.shape[0]):
        flux, variance = (lit[name].values[d].astype(float) for name in ("flux", "variance"))
        beside, spread = np.full(flux.shape, np.nan), np.full(flux.shape, np.nan)
        beside[:, 1:-1] = np.where(same, 0.5 * (flux[:, :-2] + flux[:, 2:]), np.nan)
        spread[:, 1:-1] = 0.25 * (variance[:, :-2] + variance[:, 2:])
        at = np.isfinite(flux) & near[d]
        each = (one[at] for one in (labels, alpha, beta, wave, flux, variance, beside, spread, chess))
        columns.append((np.full(int(at.sum()), d), *each))
    return Pixels(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))
