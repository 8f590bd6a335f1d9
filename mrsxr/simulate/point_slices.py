"""What a point source off the middle of a slice does: its light is dimmed and moved in wavelength.

The light of a source that lies off the middle fills the slice unevenly; its centroid across the slice moves the
spectrum along the dispersion. The functions here are smooth; the mrsptcorr file gets samples of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import erf

from mrsxr import mrs

from .scene import PSF_SIGMAS, PSF_WEIGHTS

#: Transmission [%] at the centre and the edge of a slice at two wavelengths [um], by channel (ground test values
#: for channels 1 and 2, made up after them for 3 and 4).
TRANSMISSION = {
    1: (4.87, 7.76, 96.7, 93.3, 91.0, 91.6), 2: (7.45, 11.87, 96.2, 92.2, 91.9, 90.5),
    3: (11.40, 18.10, 95.5, 91.5, 91.0, 90.0), 4: (17.50, 28.90, 95.0, 91.0, 90.5, 89.5),
}  # fmt: skip
#: FWHM of the PSF in slices at the lower and the upper end of every band.
_FWHM_IN_SLICES = (1.3, 1.8)
_TRACOR = ("WAVE_MIN", "WAVE_MAX", "T_WMIN_CENTRE", "T_WMIN_EDGE", "T_WMAX_CENTRE", "T_WMAX_EDGE")


def dispersion(band: str) -> tuple[float, float]:
    """Return the wavelength by which an arcsecond across a slice moves the light [um/arcsec], at both ends of a band.

    A slice is taken to be as wide as an element of resolution.
    """
    low, high = (
        wave / mrs.resolving_power(wave) / mrs.SLICE_WIDTH[int(band[0])] for wave in mrs.WAVELENGTH_LIMITS[band]
    )
    return low, high


def centroid(offset: np.ndarray, fwhm: float) -> np.ndarray:
    """Return the centroid of the light within a slice [slice] of a source ``offset`` slices off its middle.

    Parameters
    ----------
    offset : array_like [slice]
    fwhm : float [slice]
        Of the PSF.
    """
    b = np.asarray(offset, dtype=float)[..., None]
    s = PSF_SIGMAS * fwhm
    low, high = (-0.5 - b) / s, (0.5 - b) / s
    inside = 0.5 * (erf(high / np.sqrt(2)) - erf(low / np.sqrt(2)))
    slope = s / np.sqrt(2 * np.pi) * (np.exp(-0.5 * low**2) - np.exp(-0.5 * high**2))
    weight = np.sum(PSF_WEIGHTS * inside, axis=-1)
    first = np.sum(PSF_WEIGHTS * (b * inside + slope), axis=-1)
    lit = weight > 1e-12
    return np.where(lit, first / np.where(lit, weight, 1.0), np.clip(b[..., 0], -0.5, 0.5))


def slice_effects(offset: np.ndarray, wavelength: np.ndarray, band: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the shift in wavelength [um] and the transmission relative to its mean over the slice.

    Parameters
    ----------
    offset : array_like [slice]
        Of the source from the middle of the slice.
    wavelength : array_like [um]
    band : str

    Returns
    -------
    shift, transmission : ndarray
        Light of a wavelength w appears at w + shift.
    """
    offset, wavelength = np.asarray(offset, dtype=float), np.asarray(wavelength, dtype=float)
    low, high = mrs.WAVELENGTH_LIMITS[band]
    share = np.clip((wavelength - low) / (high - low), 0.0, 1.0)
    moved = [centroid(offset, fwhm) for fwhm in _FWHM_IN_SLICES]
    cross = dispersion(band)
    shift = (moved[0] + (moved[1] - moved[0]) * share) * (cross[0] + (cross[1] - cross[0]) * share)
    first, last, *values = TRANSMISSION[int(band[0])]
    share = np.clip((wavelength - first) / (last - first), 0.0, 1.0)
    centre, edge = (values[k] + (values[k + 2] - values[k]) * share for k in (0, 1))
    here = centre + (edge - centre) * np.minimum(np.abs(offset), 0.5) / 0.5
    return shift * mrs.SLICE_WIDTH[int(band[0])], here / (0.5 * (centre + edge))


def point_tables() -> dict[str, dict[str, Any]]:
    """Return the tables TRACOR and WAVCORR of the mrsptcorr file."""
    offsets = np.linspace(-3.0, 3.0, 241)
    columns = np.array([TRANSMISSION[c] for c in (1, 2, 3, 4)]).T
    limits = np.array([mrs.WAVELENGTH_LIMITS[band] for band in mrs.BANDS])
    cross = np.array([dispersion(band) for band in mrs.BANDS])
    return {
        "TRACOR": {"CHANNEL": np.arange(1, 5), **dict(zip(_TRACOR, columns, strict=True))},
        "WAVCORR_OPTICAL": {
            "SUB_BAND": list(mrs.BANDS), "BETA_SLICE": [mrs.SLICE_WIDTH[int(band[0])] for band in mrs.BANDS],
            "WAVE_MIN": limits[:, 0], "WAVE_MAX": limits[:, 1],
            "SRP_MIN": mrs.resolving_power(limits[:, 0]), "SRP_MAX": mrs.resolving_power(limits[:, 1]),
        },
        "WAVCORR_XSLICE": {"XSLICE_MIN": cross[:, 0], "XSLICE_MAX": cross[:, 1]},
        "WAVCORR_SHIFT": {
            "BETA_OFF": offsets, "DS_MIN": centroid(offsets, _FWHM_IN_SLICES[0]),
            "DS_MAX": centroid(offsets, _FWHM_IN_SLICES[1]),
        },
    }  # fmt: skip
