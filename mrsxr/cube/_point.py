"""Corrections of a point source in the slices it lights: transmission across a slice and shift in wavelength.

Tables of the mrsptcorr reference file (TRACOR, WAVCORR_OPTICAL, WAVCORR_XSLICE, WAVCORR_SHIFT).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.errors import MrsxrError, ReferenceFileError
from mrsxr.geometry.pixels import BandPixels, Frame
from mrsxr.geometry.sky import sky_to_v2v3, v2v3_to_slicer

from ._layout import BandData

_SHIFT = ("wavcorr_optical_beta_slice", "wavcorr_xslice_min", "wavcorr_shift_ds_min")
_WORDS = {"SHORT": "A", "MEDIUM": "B", "LONG": "C"}


@dataclass(frozen=True)
class PointTerms:
    """What the tables say for one band, and where the source lies across the slices of one exposure.

    ``offset`` (slice): (beta of the source - beta of the slice) / slice width. ``transmission``: wavelengths [um] and
    centre and edge values there, or None. ``shift``: wavelengths [um], offsets, centroid shifts [slice] at both
    wavelengths, and dispersion across the slice at both, times its width [um], or None.
    """

    offset: np.ndarray
    transmission: tuple[np.ndarray, np.ndarray, np.ndarray] | None
    shift: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None


def point_terms(one: BandData, mrsptcorr: xr.Dataset | None, point_source: tuple[float, float]) -> list[PointTerms]:
    """Return the terms of every exposure of a band for a source at (ra, dec) [deg].

    Raises
    ------
    ReferenceFileError
        Where the file holds neither TRACOR nor the WAVCORR tables.
    MrsxrError
        Without the file, or where the source lies outside all exposures.
    """
    if mrsptcorr is None:
        raise MrsxrError("point_source needs the reference file mrsptcorr; give mrsptcorr, or leave point_source out")
    transmission, shift = _transmission(mrsptcorr, one.band), _shift(mrsptcorr, one.band)
    if transmission is None and shift is None:
        raise ReferenceFileError(
            f"{mrsptcorr.attrs.get('ref_id', 'mrsptcorr')} has neither TRACOR nor WAVCORR tables for band {one.band}; "
            "point_source needs one"
        )
    width = float(one.model["slice_width"].sel(band=one.band))
    terms = []
    for pointing in one.pointings:
        v2, v3 = sky_to_v2v3(*point_source, pointing)
        _, beta = v2v3_to_slicer(v2, v3, one.band, one.model)
        terms.append(PointTerms((float(beta) - one.ranges.beta) / width, transmission, shift))
    if all(np.abs(t.offset).min() > 1.0 for t in terms):
        raise MrsxrError(
            f"point_source at ra {point_source[0]}, dec {point_source[1]} lies outside the slices of band {one.band} "
            "in all exposures; give the position of the source in degrees"
        )
    return terms


def correct_frame(frame: Frame, pixels: BandPixels, terms: PointTerms) -> Frame:
    """Return the pixels of an exposure with the transmission divided out and the shift of their wavelengths.

    Parameters
    ----------
    frame : Frame
    pixels : BandPixels
    terms : PointTerms

    Returns
    -------
    Frame
    """
    wave = 0.5 * (pixels.low + pixels.high)
    offset = terms.offset[pixels.slice_index]
    if terms.transmission is not None:
        factor = transmission_factor(wave, offset, *terms.transmission).astype(np.float32)
        frame = replace(frame, linear=frame.linear * factor, square=frame.square * factor**2)
    if terms.shift is not None:
        frame = replace(frame, shift=-wavelength_shift(wave, offset, *terms.shift))
    return frame


def transmission_factor(wave, offset, ends, centre, edge) -> np.ndarray:
    """Return mean transmission of a slice over that at an offset: T = centre + (edge - centre) |offset| / 0.5.

    Parameters
    ----------
    wave : array [um]
    offset : array [slice]
        Beyond half a slice the edge counts.
    ends : (2,) [um]
        Wavelengths of the two values of ``centre`` and ``edge``, linear between and constant outside.
    """
    share = np.clip((wave - ends[0]) / (ends[1] - ends[0]), 0.0, 1.0)
    at_centre = centre[0] + (centre[1] - centre[0]) * share
    at_edge = edge[0] + (edge[1] - edge[0]) * share
    here = at_centre + (at_edge - at_centre) * np.minimum(np.abs(offset), 0.5) / 0.5
    return 0.5 * (at_centre + at_edge) / here


def wavelength_shift(wave, offset, ends, table, shifts, dispersion) -> np.ndarray:
    """Return by how much the light of a source appears at too long a wavelength [um].

    Parameters
    ----------
    wave : array [um]
    offset : array [slice]
    ends : (2,) [um]
        Wavelengths of the two columns, linear between and constant outside.
    table : (n,)
        Offsets of the rows of ``shifts``.
    shifts : (n, 2)
        Shift of the centroid within the slice [slice].
    dispersion : (2,)
        Dispersion across the slice times its width [um].
    """
    share = np.clip((wave - ends[0]) / (ends[1] - ends[0]), 0.0, 1.0)
    low, high = (np.interp(offset, table, shifts[:, k]) for k in (0, 1))
    return (low + (high - low) * share) * (dispersion[0] + (dispersion[1] - dispersion[0]) * share)


def _transmission(mrsptcorr: xr.Dataset, band: str):
    if "tracor_wave_min" not in mrsptcorr:
        return None
    channel = int(band[0])
    if channel not in mrsptcorr["channel"].values:
        return None
    row = mrsptcorr.sel(channel=channel)
    names = (("wave_min", "wave_max"), ("t_wmin_centre", "t_wmax_centre"), ("t_wmin_edge", "t_wmax_edge"))
    return tuple(np.array([float(row[f"tracor_{name}"]) for name in pair]) for pair in names)


def _shift(mrsptcorr: xr.Dataset, band: str):
    if any(name not in mrsptcorr for name in _SHIFT):
        return None
    bands = [_band_name(str(name)) for name in mrsptcorr["sub_band"].values]
    if band not in bands:
        return None
    number = bands.index(band)
    row = mrsptcorr.isel(sub_band=number)
    ends = np.array([float(row["wavcorr_optical_wave_min"]), float(row["wavcorr_optical_wave_max"])])
    count = mrsptcorr.sizes["xslice"]
    if count not in (1, len(bands)):
        raise ReferenceFileError(
            f"{mrsptcorr.attrs.get('ref_id', 'mrsptcorr')}: WAVCORR_XSLICE has {count} rows; expected 1 or {len(bands)}"
        )
    cross = mrsptcorr.isel(xslice=number if count > 1 else 0)
    width = float(row["wavcorr_optical_beta_slice"])
    dispersion = width * np.array([float(cross["wavcorr_xslice_min"]), float(cross["wavcorr_xslice_max"])])
    order = np.argsort(mrsptcorr["beta_off"].values)
    shifts = np.stack([mrsptcorr[f"wavcorr_shift_ds_{end}"].values for end in ("min", "max")], axis=1)
    return ends, mrsptcorr["beta_off"].values[order].astype(float), shifts[order].astype(float), dispersion


def _band_name(text: str) -> str:
    """Return "1A" of "1A", "1SHORT", "ch1-short"."""
    text = text.upper()
    channel = next((c for c in text if c in "1234"), "")
    rest = text.partition(channel)[2].strip(" -_") if channel else ""
    name = channel + _WORDS.get(rest, rest)
    return name if name in mrs.BANDS else text
