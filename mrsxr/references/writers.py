"""Write reference files in the layouts of CRDS (``stdatamodels`` schemas): arrays and a header in, file out.

======================================================================================================
write_mask(path, dq, header)                                dq (y, x), standard bits
write_saturation(path, threshold, header, *, dq=None)       threshold (y, x) [DN]
write_linearity(path, coefficients, header, *, dq=None)     coefficients (order, y, x), DN in, DN out
write_dark(path, dark, header, *, dq=None, average_dark_current=0.0)
                                                            dark (integration, group, y, x) [DN]
write_reset(path, reset, header, *, dq=None)                reset (integration, group, y, x) [DN]
write_gain(path, gain, header, *, gain_factor=None)         gain (y, x) [electron/DN]
write_readnoise(path, read_noise, header)                   read_noise (y, x) [DN], CDS value
write_rscd(path, rows, header)                              [(subarray, readpatt, group_skip1, group_skip)]
write_flat(path, flat, header, *, flat_err=None, dq=None)   flat (y, x)
write_fringe(path, fringe, header, *, fringe_err=None, dq=None)
write_photom(path, conversion, header, *, pixel_area, conversion_err=None, dq=None, time_law=None)
                                                            time_law {channel: {binwave, alpha, ...}}
write_ipc(path, kernel, header)                             kernel (ky, kx) or (ky, kx, y, x)
write_mrsxartcorr(path, tables, header)                     {"1A": {"YROW": ..., "LOR_FWHM": ...}}
write_mrsptcorr(path, tables, header)                       {"LEAKCOR": {"WAVELENGTH": ...}, ...}
write_fringefreq(path, tables, header)                      {"SHORT": {"SLICE": ...}, "MAX_AMP": {...}}
write_cubepar(path, bands, header, *, multichannel=None, msm=None, emsm=None)
                                                            {"1A": (spaxel, step, wave_min, wave_max)}
write_extract1d(path, wavelength, radius, inner_background, outer_background, header, *, ...)   ASDF
write_apcorr(path, wavelength, radius, correction, header, *, correction_err=None)              ASDF
write_emicorr(path, frequencies, subarray_cases, header)                                        ASDF
write_latent(path, columns, full_well, header)              {"DECAY_TIME": [s], "AMPLITUDE": ...}; not of CRDS
======================================================================================================

``header`` is a dict with any of the lower-case keys of :data:`HEADER_KEYWORDS` (``detector``, ``channel``,
``band``, ``readpatt``, ``subarray``, ``useafter`` ...); keys left out get a default or are not written. Every
file is written under a temporary name beside its place and moved there when it is complete. Arrays may be
numpy or dask; flags are stored in as few bits as are used, with a DQ_DEF table that names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from mrsxr.units import ARCSEC2_TO_SR

from ._write import HEADER_KEYWORDS, as_array, dq_hdus, primary_header, table_hdu, write_fits_file
from .table_writers import (
    multichannel_wavelengths,
    write_apcorr,
    write_cubepar,
    write_emicorr,
    write_extract1d,
    write_fringefreq,
    write_latent,
    write_mrsptcorr,
    write_mrsxartcorr,
    write_rscd,
)
from .tables import PHOTOM_TIME_COLUMNS

__all__ = [
    "HEADER_KEYWORDS", "write_mask", "write_saturation", "write_linearity", "write_dark", "write_reset",
    "write_gain", "write_readnoise", "write_rscd", "write_flat", "write_fringe", "write_photom", "write_ipc",
    "write_mrsxartcorr", "write_mrsptcorr", "write_fringefreq", "write_cubepar", "write_extract1d",
    "write_apcorr", "write_emicorr", "write_latent", "multichannel_wavelengths",
]  # fmt: skip

Header = Mapping[str, Any]


def _sci(data: np.ndarray, name: str = "SCI", **keywords: Any) -> fits.ImageHDU:
    hdu = fits.ImageHDU(data, name=name)
    hdu.header.update(keywords)
    return hdu


def write_mask(path, dq, header: Header) -> Path:
    """Write a bad-pixel mask (``MaskModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    dq : array (y, x) of uint32
        Flags in the standard bits of :mod:`mrsxr.dq`.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector`` at least.

    Returns
    -------
    Path of the file
    """
    flags = as_array(dq, "uint32", 2, "dq")
    primary = primary_header(header, "mask", "MaskModel", shape=flags.shape)
    return write_fits_file(path, primary, dq_hdus(flags, flags.shape))


def write_saturation(path, threshold, header: Header, *, dq=None) -> Path:
    """Write saturation thresholds (``SaturationModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    threshold : array (y, x) [DN]
        NaN where a pixel must not be checked; its NO_SAT_CHECK flag is for the caller to set in ``dq``.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector`` at least.
    dq : array (y, x) of uint32, optional
        Flags in standard bits.

    Returns
    -------
    Path of the file
    """
    data = as_array(threshold, "float32", 2, "threshold")
    primary = primary_header(header, "saturation", "SaturationModel", shape=data.shape)
    return write_fits_file(path, primary, [_sci(data), *dq_hdus(dq, data.shape)])


def write_linearity(path, coefficients, header: Header, *, dq=None) -> Path:
    """Write a linearity correction (``LinearityModel``): F_lin = sum_k coefficients[k] F^k, F in DN.

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    coefficients : array (order, y, x)
        Coefficient of order k in DN^(1-k).
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector`` at least.
    dq : array (y, x) of uint32, optional
        Flags in standard bits (NO_LIN_CORR where a pixel has no correction).

    Returns
    -------
    Path of the file
    """
    data = as_array(coefficients, "float32", 3, "coefficients")
    primary = primary_header(header, "linearity", "LinearityModel", shape=data.shape, band="N/A")
    return write_fits_file(path, primary, [_sci(data, "COEFFS"), *dq_hdus(dq, data.shape)])


def write_dark(path, dark, header: Header, *, dq=None, average_dark_current: float = 0.0) -> Path:
    """Write a linearised dark ramp (``DarkMIRIModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    dark : array (integration, group, y, x) [DN]
        One plane a group, after linearity correction.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector`` and ``readpatt`` at least.
    dq : array (y, x) of uint32, optional
        Flags in standard bits; stored once an integration, as jwst wants them.
    average_dark_current : float [electron/s]
        Keyword AVDRKCUR, the dark's share of the Poisson noise.

    Returns
    -------
    Path of the file
    """
    data = as_array(dark, "float32", 4, "dark")
    primary = primary_header(
        header, "dark", "DarkMIRIModel", shape=data.shape, n_integrations=data.shape[0],
        n_groups=data.shape[1], n_frames=1, group_gap=0,
    )  # fmt: skip
    primary["AVDRKCUR"] = (float(average_dark_current), "average dark current [e/s]")
    return write_fits_file(path, primary, [_sci(data, BUNIT="DN"), *dq_hdus(dq, data.shape, leading=data.shape[0])])


def write_reset(path, reset, header: Header, *, dq=None) -> Path:
    """Write the reset anomaly (``ResetModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    reset : array (integration, group, y, x) [DN]
        Subtracted from the first groups of each integration.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector`` and ``readpatt`` at least.
    dq : array (y, x) of uint32, optional
        Flags in standard bits.

    Returns
    -------
    Path of the file
    """
    data = as_array(reset, "float32", 4, "reset")
    primary = primary_header(
        header, "reset", "ResetModel", shape=data.shape, n_integrations=data.shape[0], n_groups=data.shape[1]
    )
    return write_fits_file(path, primary, [_sci(data, BUNIT="DN"), *dq_hdus(dq, data.shape)])


def write_gain(path, gain, header: Header, *, gain_factor: float | None = None) -> Path:
    """Write the gain (``GainModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    gain : array (y, x) [electron/DN]
        NaN or values <= 0 where a pixel has none.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector`` at least.
    gain_factor : float, optional
        Keyword GAINFACT, which scales slopes taken with another gain; left out by default.

    Returns
    -------
    Path of the file
    """
    data = as_array(gain, "float32", 2, "gain")
    primary = primary_header(header, "gain", "GainModel", shape=data.shape)
    if gain_factor is not None:
        primary["GAINFACT"] = float(gain_factor)
    return write_fits_file(path, primary, [_sci(data, BUNIT="ELECTRONS/DN")])


def write_readnoise(path, read_noise, header: Header) -> Path:
    """Write the read noise (``ReadnoiseModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    read_noise : array (y, x) [DN]
        Noise of the difference of two reads (CDS), as jwst takes it.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector`` and ``readpatt`` at least.

    Returns
    -------
    Path of the file
    """
    data = as_array(read_noise, "float32", 2, "read noise")
    primary = primary_header(header, "readnoise", "ReadnoiseModel", shape=data.shape)
    return write_fits_file(path, primary, [_sci(data, BUNIT="DN")])


def write_flat(path, flat, header: Header, *, flat_err=None, dq=None) -> Path:
    """Write a pixel flat (``FlatModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    flat : array (y, x) [1]
        Data are divided by it.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector``, ``channel``, ``band`` and ``readpatt`` at best.
    flat_err : array (y, x) [1], optional
        Standard error of the flat; zero by default.
    dq : array (y, x) of uint32, optional
        Flags in standard bits (NO_FLAT_FIELD where a pixel has none).

    Returns
    -------
    Path of the file
    """
    return _write_divisor(path, "flat", "FlatModel", flat, flat_err, dq, header)


def write_fringe(path, fringe, header: Header, *, fringe_err=None, dq=None) -> Path:
    """Write a fringe flat (``FringeModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    fringe : array (y, x) [1]
        Data are divided by it; NaN between the slices.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector``, ``channel`` and ``band`` at least.
    fringe_err : array (y, x) [1], optional
        Standard error; zero by default.
    dq : array (y, x) of uint32, optional
        Flags in standard bits.

    Returns
    -------
    Path of the file
    """
    return _write_divisor(path, "fringe", "FringeModel", fringe, fringe_err, dq, header)


def _write_divisor(path, kind: str, model: str, values, errors, dq, header: Header) -> Path:
    data = as_array(values, "float32", 2, kind)
    err = np.zeros_like(data) if errors is None else as_array(errors, "float32", 2, f"error of the {kind}")
    primary = primary_header(header, kind, model, shape=data.shape)
    return write_fits_file(path, primary, [_sci(data), _sci(err, "ERR"), *dq_hdus(dq, data.shape)])


def write_photom(
    path,
    conversion,
    header: Header,
    *,
    pixel_area,
    conversion_err=None,
    dq=None,
    time_law: Mapping[int, Mapping[str, Any]] | None = None,
) -> Path:
    """Write the flux calibration of one setting (``MirMrsPhotomModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    conversion : array (y, x) [MJy/sr per DN/s]
        NaN between the slices.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector``, ``channel`` and ``band`` at least.
    pixel_area : array (y, x) or float [arcsec2]
        Sky area of each pixel (extension PIXSIZ); its median gives PIXAR_A2 and PIXAR_SR.
    conversion_err : array (y, x), optional
        Standard error of ``conversion``.
    dq : array (y, x) of uint32, optional
        Flags in standard bits.
    time_law : mapping of channel number to columns, optional
        ``{channel: {"binwave" [um], "alpha", "year1value", "tsoft" [d], "t0" [MJD]}}``, one row a wavelength
        bin (at least two): C = min(1, year1value ((t - t0 + tsoft) / (365 + tsoft))^alpha). Channels left
        out get C = 1, because jwst wants all four tables or none.

    Returns
    -------
    Path of the file
    """
    data = as_array(conversion, "float32", 2, "conversion")
    err = np.zeros_like(data) if conversion_err is None else as_array(conversion_err, "float32", 2, "conversion error")
    area = np.broadcast_to(np.asarray(pixel_area, "float32"), data.shape)
    median_area = float(np.nanmedian(area))
    primary = primary_header(header, "photom", "MirMrsPhotomModel", shape=data.shape)
    primary["PHOTMJSR"] = (float(np.nanmedian(data)), "median conversion [MJy/sr / (DN/s)]")
    primary["PIXAR_A2"] = (median_area, "median pixel area [arcsec2]")
    primary["PIXAR_SR"] = (median_area * ARCSEC2_TO_SR, "median pixel area [sr]")
    hdus = [_sci(data), _sci(err, "ERR"), *dq_hdus(dq, data.shape), _sci(area, "PIXSIZ")]
    if time_law is not None:
        neutral = {"binwave": (4.0, 30.0), "alpha": (0.0, 0.0), "year1value": (1.0, 1.0), "tsoft": (1.0, 1.0),
                   "t0": (59700.0, 59700.0)}  # fmt: skip
        for channel in (1, 2, 3, 4):
            columns = time_law.get(channel, neutral)
            hdus.append(table_hdu(f"TIMECOEFF_POWERLAW_CH{channel}", columns, PHOTOM_TIME_COLUMNS, {"BINWAVE": "um"}))
    return write_fits_file(path, primary, hdus)


def write_ipc(path, kernel, header: Header) -> Path:
    """Write the kernel that undoes interpixel capacitance (``IPCModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    kernel : array (ky, kx) or (ky, kx, y, x) [1]
        Odd sizes; sums to one.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector`` at least.

    Returns
    -------
    Path of the file
    """
    data = as_array(kernel, "float32", (2, 4), "kernel")
    return write_fits_file(path, primary_header(header, "ipc", "IPCModel"), [_sci(data)])
