"""Corrections of a point source in the slices it lights: transmission across a slice and shift in wavelength.

Tables of the mrsptcorr reference file (TRACOR, WAVCORR_OPTICAL, WAVCORR_XSLICE, WAVCORR_SHIFT), which hold those of the
ground calibration (CDP 06.00.00, copied by STScI-MIRI/miri3d, mrsptcorr/make_mrsptcorr.py). No text was found that says
how they are used: jwst 3.0.0 reads LEAKCOR alone and keeps the others for "future enhancements" (its page on
MRSPTCORR); MiriMrsWavelengthCorrectionModel of the MIRI team names the columns and no more. The formulas here follow
from names and units: transmission between centre and edge of a slice [percent], linear in the offset; shift of the
centroid DS [slice] x BETA_SLICE [arcsec] x XSLICE [um/arcsec]. The sign is taken such that a positive DS x XSLICE puts
the light of the source at too long a wavelength; it has not been checked on a star. Hence the corrections are off
unless asked for (``point_source``), in both modes. SRP_MIN and SRP_MAX, the resolving powers, limit what shift is
believed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import mrs
from mrsxr.errors import MrsxrError, ReferenceFileError
from mrsxr.geometry.pixels import BandPixels, Frame
from mrsxr.geometry.sky import SPEED_OF_LIGHT, sky_to_v2v3, v2v3_to_slicer
from mrsxr.notes import tell

from ._layout import BandData

_SHIFT = ("wavcorr_optical_beta_slice", "wavcorr_xslice_min", "wavcorr_shift_ds_min")
_STEEP = 0.3  # change of the transmission from centre to edge that is not to be believed
_HALF = 0.45  # of a slice, that a table of shifts must reach on both sides; beyond its ends the value there counts
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
        Where the file holds neither TRACOR nor the WAVCORR tables, or these are not to be believed.
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
    for found, what in ((transmission, "TRACOR"), (shift, "WAVCORR")):
        if found is None:
            name = mrsptcorr.attrs.get("ref_id", "mrsptcorr")
            tell(f"{name} has no whole set of {what} tables for band {one.band}: the cube is built without that term")
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


def off_elsewhere(terms: list[PointTerms], band: str) -> str:
    """Return in words by how much light that does not come from the point source is wrong in its slices."""
    low, high = mrs.WAVELENGTH_LIMITS[band]
    wave, offset = (a.ravel() for a in np.meshgrid([low, 0.5 * (low + high), high], np.linspace(-0.5, 0.5, 11)))
    parts = []
    if terms[0].transmission is not None:
        off = np.abs(transmission_factor(wave, offset, *terms[0].transmission) - 1.0).max()
        parts.append(f"{100.0 * off:.1f} %")
    if terms[0].shift is not None:
        off = np.abs(wavelength_shift(wave, offset, *terms[0].shift) / wave).max() * SPEED_OF_LIGHT / 1000.0
        parts.append(f"{off:.0f} km/s")
    return (
        f"band {band}: the cube is built for a point source, by its place in the slices; extended light there is off "
        f"by up to {' and '.join(parts)}"
    )


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


def transmission_factor(
    wave: np.ndarray, offset: np.ndarray, ends: np.ndarray, centre: np.ndarray, edge: np.ndarray,
) -> np.ndarray:  # fmt: skip
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


def wavelength_shift(
    wave: np.ndarray, offset: np.ndarray, ends: np.ndarray, table: np.ndarray, shifts: np.ndarray,
    dispersion: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return by how much the light of a source appears at too long a wavelength [um].

    Parameters
    ----------
    wave : array [um]
    offset : array [slice]
    ends : (2,) [um]
        Wavelengths of the two columns, linear between and constant outside.
    table : (n,)
        Offsets of the rows of ``shifts``; beyond their ends the shift there.
    shifts : (n, 2)
        Shift of the centroid within the slice [slice].
    dispersion : (2,)
        Dispersion across the slice times its width [um].
    """
    share = np.clip((wave - ends[0]) / (ends[1] - ends[0]), 0.0, 1.0)
    low, high = (np.interp(offset, table, shifts[:, k]) for k in (0, 1))
    return (low + (high - low) * share) * (dispersion[0] + (dispersion[1] - dispersion[0]) * share)


def _transmission(mrsptcorr: xr.Dataset, band: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    if "tracor_wave_min" not in mrsptcorr:
        return None
    channel = int(band[0])
    if channel not in mrsptcorr["channel"].values:
        return None
    row = mrsptcorr.sel(channel=channel)
    names = (("wave_min", "wave_max"), ("t_wmin_centre", "t_wmax_centre"), ("t_wmin_edge", "t_wmax_edge"))
    ends, centre, edge = (np.array([float(row[f"tracor_{name}"]) for name in pair]) for pair in names)
    sound = np.isfinite([ends, centre, edge]).all() and (np.minimum(centre, edge) > 0).all() and ends[1] > ends[0] > 0
    if not sound or np.abs(edge / centre - 1.0).max() > _STEEP:
        raise ReferenceFileError(
            f"{mrsptcorr.attrs.get('ref_id', 'mrsptcorr')}: TRACOR of channel {channel} holds {centre.tolist()} at the "
            f"centre and {edge.tolist()} at the edge of a slice, at {ends.tolist()} um; expected positive numbers that "
            f"differ by less than {100 * _STEEP:.0f} %; take another file, or leave point_source out"
        )
    return ends, centre, edge


def _shift(mrsptcorr: xr.Dataset, band: str) -> Any:
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
    found = ends, mrsptcorr["beta_off"].values[order].astype(float), shifts[order].astype(float), dispersion
    powers = [float(row[f"wavcorr_optical_srp_{end}"]) if f"wavcorr_optical_srp_{end}" in row else np.nan
              for end in ("min", "max")]  # fmt: skip
    if wrong := _doubt(*found, np.array(powers)):
        name = mrsptcorr.attrs.get("ref_id", "mrsptcorr")
        raise ReferenceFileError(f"{name}: {wrong} (band {band}); take another file, or leave point_source out")
    return found


def _doubt(
    ends: np.ndarray, offsets: np.ndarray, shifts: np.ndarray, dispersion: np.ndarray, powers: np.ndarray,
) -> str:  # fmt: skip
    """Return why the shift of wavelengths is not to be believed, or nothing."""
    if not all(np.isfinite(a).all() for a in (ends, offsets, shifts, dispersion)) or not ends[1] > ends[0] > 0:
        return "the WAVCORR tables hold no finite numbers, or no rising wavelengths"
    if offsets[0] > -_HALF or offsets[-1] < _HALF:
        text = f"WAVCORR_SHIFT lists offsets of {offsets[0]:g} to {offsets[-1]:g} slices"
        return f"{text}; expected both halves of a slice, -0.5 to 0.5"
    powers = np.where(np.isfinite(powers) & (powers > 0), powers, mrs.resolving_power(ends))
    inside = np.linspace(-0.5, 0.5, 21)
    for wave, power in zip(ends, powers, strict=True):
        most = np.abs(wavelength_shift(wave, inside, ends, offsets, shifts, dispersion)).max()
        if most > 0.5 * wave / power:
            text = f"the WAVCORR tables shift {wave:g} um by {most / wave * SPEED_OF_LIGHT / 1000:.0f} km/s"
            return f"{text}; expected at most half a resolution element, {0.5 * SPEED_OF_LIGHT / 1000 / power:.0f} km/s"
    return ""


def _band_name(text: str) -> str:
    """Return "1A" of "1A", "1SHORT", "ch1-short"."""
    text = text.upper()
    channel = next((c for c in text if c in "1234"), "")
    rest = text.partition(channel)[2].strip(" -_") if channel else ""
    name = channel + _WORDS.get(rest, rest)
    return name if name in mrs.BANDS else text
