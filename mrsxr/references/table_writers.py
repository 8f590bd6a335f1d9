"""Write the reference files that are tables (FITS, ASDF); :mod:`mrsxr.references.writers` lists them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrsxr import mrs
from mrsxr.errors import ReferenceFileError

from ._write import as_array, asdf_meta, primary_header, table_hdu, write_asdf_file, write_fits_file
from .tables import (
    CUBEPAR_TABLES,
    FRINGEFREQ_COLUMNS,
    FRINGEFREQ_UNITS,
    LATENT_COLUMNS,
    MAX_AMP_COLUMNS,
    MRSPTCORR_COLUMNS,
    MRSPTCORR_UNITS,
    RSCD_COLUMNS,
    XART_COLUMNS,
    XART_UNITS,
)

Header = Mapping[str, Any]
#: EMSM weighting of the cubes per channel: spatial [arcsec] and spectral [um] radius, scale radius [arcsec]. About 2.3
#: spaxels and 2 planes; made up, for simulated files.
EMSM_DEFAULTS = {1: (0.30, 0.0016, 0.09), 2: (0.38, 0.0026, 0.12), 3: (0.46, 0.005, 0.14), 4: (0.8, 0.012, 0.25)}
#: MSM weighting of the cubes per channel: spatial and spectral radius, power, softening (miri3d).
MSM_DEFAULTS = {1: (0.1, 0.001, 2.0, 0.01), 2: (0.15, 0.002, 2.0, 0.01), 3: (0.2, 0.003, 2.0, 0.01),
                4: (0.4, 0.006, 2.0, 0.01)}  # fmt: skip


def write_rscd(path, rows: Sequence[tuple[str, str, int, int]], header: Header) -> Path:
    """Write the numbers of groups that the reset switch charge decay spoils (``RSCDModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    rows : sequence of (subarray, readpatt, group_skip1, group_skip)
        Groups to drop in the first and in all later integrations.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector`` at least.

    Returns
    -------
    Path of the file
    """
    columns = dict(zip(RSCD_COLUMNS, zip(*rows, strict=True), strict=True))
    primary = primary_header(header, "rscd", "RSCDModel")
    return write_fits_file(path, primary, [table_hdu("RSCD_GROUP_SKIP", columns, RSCD_COLUMNS)])


def write_latent(path, columns: Mapping[str, Any], full_well: float, header: Header) -> Path:
    """Write the decay of latents; a format of this package, as CRDS has none.

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    columns : mapping
        DECAY_TIME [s], AMPLITUDE, AMPLITUDE_ERR, SATURATED_AMPLITUDE (shares of the charge): one row a component.
    full_well : float
        [DN]
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector`` at least.

    Returns
    -------
    Path of the file
    """
    primary = primary_header(header, "latent", "LatentModel")
    primary["FULLWELL"] = (float(full_well), "[DN] charge of a pixel that saturates")
    return write_fits_file(path, primary, [table_hdu("LATENT", columns, LATENT_COLUMNS, {"DECAY_TIME": "s"})])


def write_mrsxartcorr(path, tables: Mapping[str, Mapping[str, Any]], header: Header) -> Path:
    """Write the kernels of the cross artifact (``MirMrsXArtCorrModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    tables : mapping of band ("1A" ... "4C") to columns
        YROW, LOR_FWHM [pix], LOR_SCALE, GAU_FWHM [pix], GAU_XOFF [pix], GAU_SCALE1, GAU_SCALE2: one row a
        detector row. jwst corrects a detector half only where its band has a table.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`.

    Returns
    -------
    Path of the file
    """
    _known(tables, mrs.BANDS, "mrsxartcorr")
    hdus = [table_hdu(f"CH{band}", columns, XART_COLUMNS, XART_UNITS) for band, columns in tables.items()]
    return write_fits_file(path, primary_header(header, "mrsxartcorr", "MirMrsXArtCorrModel"), hdus)


def write_mrsptcorr(path, tables: Mapping[str, Mapping[str, Any]], header: Header) -> Path:
    """Write the corrections of point sources (``MirMrsPtCorrModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    tables : mapping of table name to columns
        LEAKCOR (spectral leak), TRACOR, WAVCORR_OPTICAL, WAVCORR_XSLICE, WAVCORR_SHIFT; columns as in
        :data:`mrsxr.references.tables.MRSPTCORR_COLUMNS`.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`.

    Returns
    -------
    Path of the file
    """
    _known(tables, MRSPTCORR_COLUMNS, "mrsptcorr")
    hdus = [table_hdu(name, columns, MRSPTCORR_COLUMNS[name], MRSPTCORR_UNITS) for name, columns in tables.items()]
    return write_fits_file(path, primary_header(header, "mrsptcorr", "MirMrsPtCorrModel"), hdus)


def write_fringefreq(path, tables: Mapping[str, Mapping[str, Any]], header: Header) -> Path:
    """Write the frequencies of residual fringes (``FringeFreqModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    tables : mapping
        "SHORT", "MEDIUM", "LONG": SLICE (n), FFREQ, DFFREQ, MAX_NFRINGES, MIN_SNR, PGRAM_RES (n, family)
        [1/cm], MIN_NFRINGES (n); "MAX_AMP": WAVELENGTH [um], AMPLITUDE.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`; ``detector`` at least.

    Returns
    -------
    Path of the file
    """
    _known(tables, ("SHORT", "MEDIUM", "LONG", "MAX_AMP"), "fringefreq")
    hdus = []
    for name, columns in tables.items():
        if name == "MAX_AMP":
            hdus.append(table_hdu(name, columns, MAX_AMP_COLUMNS, {"WAVELENGTH": "um"}))
        else:
            hdus.append(table_hdu(f"RFC_FREQ_{name}", columns, FRINGEFREQ_COLUMNS, FRINGEFREQ_UNITS))
    return write_fits_file(path, primary_header(header, "fringefreq", "FringeFreqModel"), hdus)


def write_cubepar(
    path,
    bands: Mapping[str, tuple[float, float, float, float]],
    header: Header,
    *,
    multichannel=None,
    msm: Mapping[str, tuple[float, float, float, float]] | None = None,
    emsm: Mapping[str, tuple[float, float, float]] | None = None,
) -> Path:
    """Write the grids of the cubes (``MiriIFUCubeParsModel``).

    Parameters
    ----------
    path : path-like
        The file to write; an existing one is replaced.
    bands : mapping of band to (spaxel [arcsec], wavelength step [um], minimum [um], maximum [um])
        "1A" ... "4C".
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`.
    multichannel : array (n) [um], optional
        Wavelengths of a cube of many channels; by default :func:`multichannel_wavelengths`.
    msm : mapping of band to (spatial radius [arcsec], spectral radius [um], power, softening [1]), optional
        By default the values of the public miri3d tables for each channel.
    emsm : mapping of band to (spatial radius [arcsec], spectral radius [um], scale radius [arcsec]), optional
        Left out by default.

    Returns
    -------
    Path of the file
    """
    _known(bands, mrs.BANDS, "cubepar")
    waves = np.asarray(multichannel_wavelengths() if multichannel is None else multichannel, "float32")
    msm = {band: MSM_DEFAULTS[int(band[0])] for band in bands} if msm is None else msm
    tables = {"CUBEPAR": _band_rows(bands), "CUBEPAR_MSM": _band_rows(msm),
              "MULTICHANNEL_MSM": _wave_rows(waves, msm)}  # fmt: skip
    if emsm is not None:
        tables |= {"CUBEPAR_EMSM": _band_rows(emsm), "MULTICHANNEL_EMSM": _wave_rows(waves, emsm)}
    tables["MULTICHANNEL_DRIZ"] = [waves]
    hdus = [table_hdu(name, dict(zip(CUBEPAR_TABLES[name], columns, strict=True)), CUBEPAR_TABLES[name])
            for name, columns in tables.items()]  # fmt: skip
    return write_fits_file(path, primary_header(header, "cubepar", "MiriIFUCubeParsModel"), hdus)


def _band_rows(values: Mapping[str, tuple[float, ...]]) -> list:
    """Return the columns CHANNEL, BAND and the numbers of one table of the cubepar file."""
    names = [[band[0] for band in values], [mrs.GRATINGS[band[1]] for band in values]]
    return names + [list(column) for column in zip(*values.values(), strict=True)]


def _wave_rows(waves: np.ndarray, values: Mapping[str, tuple[float, ...]]) -> list:
    """Return the columns WAVELENGTH and the numbers of the band nearest to each wavelength."""
    centres = np.array([sum(mrs.WAVELENGTH_LIMITS[band]) / 2 for band in values])
    nearest = np.abs(waves[:, None] - centres).argmin(axis=1)
    return [waves, *np.array(list(values.values()))[nearest].T]


def multichannel_wavelengths(start: float = 4.90, stop: float = 28.7) -> np.ndarray:
    """Return the wavelengths [um] of a cube of all channels: two samples a resolution element.

    Parameters
    ----------
    start, stop : float [um]

    Returns
    -------
    ndarray of float64

    Notes
    -----
    The resolving power is the parabola through (5, 4000), (10, 3400), (12, 3000), (17, 2500) and (27, 1400),
    the rule of miri3d ``make_cubepar`` (2023).
    """
    parabola = np.polynomial.Polynomial.fit((5, 10, 12, 17, 27), (4000, 3400, 3000, 2500, 1400), 2).convert()
    waves = [start]
    while waves[-1] < stop:
        waves.append(waves[-1] * (1 + 0.5 / float(parabola(waves[-1]))))
    return np.array(waves[:-1])


def write_extract1d(
    path,
    wavelength,
    radius,
    inner_background,
    outer_background,
    header: Header,
    *,
    subtract_background: bool = True,
    region_type: str = "target",
    method: str = "subpixel",
    subpixels: int = 10,
) -> Path:
    """Write the apertures of the extraction (``Extract1dIFUModel``, ASDF).

    Parameters
    ----------
    path : path-like
        The file to write (``.asdf``); an existing one is replaced.
    wavelength : array (n) [um]
    radius, inner_background, outer_background : array (n) [arcsec]
        Aperture radius and the two radii of the background annulus.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`.
    subtract_background : bool
        Whether the annulus is subtracted from point sources.
    region_type, method, subpixels
        The words of the file for the region ("target") and the aperture sums (photutils).

    Returns
    -------
    Path of the file
    """
    waves = as_array(wavelength, "float32", 1, "wavelength")
    meta = asdf_meta(header, "extract1d", "Extract1dIFUModel")
    meta |= {"region_type": region_type, "subtract_background": bool(subtract_background), "method": method,
             "subpixels": int(subpixels)}  # fmt: skip
    data: dict[str, Any] = {"wavelength": waves, "wavelength_units": "micron"}
    given = {"radius": radius, "inner_bkg": inner_background, "outer_bkg": outer_background}
    for name, values in given.items():
        data[name] = np.broadcast_to(np.asarray(values, "float32"), waves.shape).copy()
        data[f"{name}_units"] = "arcsec"
    data |= {"axis_ratio": np.ones_like(waves), "axis_pa": np.zeros_like(waves), "axis_pa_units": "degree"}
    return write_asdf_file(path, {"meta": meta, "data": data})


def write_apcorr(path, wavelength, radius, correction, header: Header, *, correction_err=None) -> Path:
    """Write the aperture corrections (``MirMrsApcorrModel``, ASDF).

    Parameters
    ----------
    path : path-like
        The file to write (``.asdf``); an existing one is replaced.
    wavelength : array (n) [um]
    radius : array (aperture, n) [arcsec]
        At least two apertures: jwst interpolates between them.
    correction : array (aperture, n)
        Total flux over flux in the aperture.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`.
    correction_err : array (aperture, n), optional
        Standard error; zero by default.

    Returns
    -------
    Path of the file
    """
    waves = as_array(wavelength, "float32", 1, "wavelength")
    radii = as_array(radius, "float32", 2, "radius")
    values = as_array(correction, "float32", 2, "correction")
    errors = np.zeros_like(values) if correction_err is None else as_array(correction_err, "float32", 2, "error")
    if not radii.shape == values.shape == errors.shape == (len(radii), len(waves)):
        raise ReferenceFileError(
            f"apcorr: radius {radii.shape} and correction {values.shape} must be (aperture, {len(waves)})"
        )
    table = {
        "channel": "ANY", "band": "ANY", "wavelength": waves, "wavelength_units": "micron", "radius": radii,
        "radius_units": "arcsec", "apcorr": values, "apcorr_err": errors,
    }  # fmt: skip
    meta = asdf_meta(header, "apcorr", "MirMrsApcorrModel")
    return write_asdf_file(path, {"meta": meta, "apcorr_table": table})


def write_emicorr(path, frequencies: Mapping[str, Any], subarray_cases: Mapping[str, Any], header: Header) -> Path:
    """Write the waveforms of the electromagnetic interference (``EmiModel``, ASDF).

    Parameters
    ----------
    path : path-like
        The file to write (``.asdf``); an existing one is replaced.
    frequencies : mapping of name to (frequency [Hz], waveform (n) [DN])
        "Hz10", "Hz390" ...
    subarray_cases : mapping
        ``{"FULL_FAST": {"rowclocks": int, "frameclocks": int, "freqs": {"FAST": [names]}}}``, clocks of
        10 us; for slow readout ``"freqs": {"SLOW": {detector: [names]}}``.
    header : mapping
        Keys of :data:`HEADER_KEYWORDS`.

    Returns
    -------
    Path of the file
    """
    waves = {
        name: {"frequency": float(frequency), "phase_amplitudes": np.asarray(waveform, "float32")}
        for name, (frequency, waveform) in frequencies.items()
    }
    meta = asdf_meta(header, "emicorr", "EmiModel")
    tree = {
        "meta": meta,
        "frequencies": waves,
        "subarray_cases": {k: dict(v) for k, v in subarray_cases.items()},
    }
    return write_asdf_file(path, tree)


def _known(names, known, kind: str) -> None:
    for name in names:
        if name not in known:
            raise ReferenceFileError(f"{kind} has no table '{name}'; expected {', '.join(known)}")
