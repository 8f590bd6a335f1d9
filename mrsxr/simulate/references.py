"""Reference files of the simulated instrument, in the formats of CRDS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mrsxr import dq as dq_bits
from mrsxr import mrs

from .detector_model import FRINGE_PERIOD, DetectorMaps, SettingMaps
from .geometry_files import write_geometry
from .instrument import Geometry
from .point_slices import point_tables
from .reference_files import EMSM_DEFAULTS, cubepar_tables, write_reference
from .render import leak_fraction
from .scene import encircled_energy

#: Groups that the reset switch charge decay spoils, in the first and in later integrations.
RSCD_SKIP = (1, 3)
USEAFTER = "2022-01-01T00:00:00"


def write_detector_references(
    folder: Path, maps: DetectorMaps, readpatt: str, n_integrations: int, n_groups: int, group_time: float
) -> list[Path]:
    """Write the files that depend on the detector alone: mask to rscd.

    Parameters
    ----------
    folder : Path
    maps : DetectorMaps
    readpatt : str
    n_integrations, n_groups : int
        Of the exposures; dark and reset hold as many groups and at most two integrations.
    group_time : float [s]

    Returns
    -------
    list of Path
    """
    name = maps.detector.lower()
    header = {"detector": maps.detector, "useafter": USEAFTER}
    read = {**header, "readpatt": readpatt}
    n_integrations = min(n_integrations, 2)
    order = np.zeros((4, *maps.gain.shape), dtype=np.float32)
    order[1], order[2], order[3] = 1.0, maps.c2, maps.c3
    reset_groups = min(n_groups, 8)
    reset = maps.reset_shape(n_integrations, reset_groups)[:, :, None, None] * maps.reset.astype(np.float32)
    average_dark = float(np.median(maps.dark_rate) * np.median(maps.gain))
    rscd: dict[str, list[Any]] = {"subarray": ["FULL"] * 2, "readpatt": ["FASTR1", "SLOWR1"]}
    rscd |= {name: [skip] * 2 for name, skip in zip(("group_skip1", "group_skip"), RSCD_SKIP, strict=True)}
    files: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "mask": (header, {"dq": maps.dq}),
        "saturation": (header, {"threshold": maps.saturation}),
        "linearity": (header, {"coefficients": order}),
        "dark": (read, {"dark": maps.dark(n_integrations, n_groups, group_time), "average_dark_current": average_dark}),
        "reset": (read, {"reset": reset}),
        "gain": (header, {"gain": maps.gain}),
        "readnoise": (read, {"read_noise": np.sqrt(2.0) * maps.read_noise}),
        "rscd": (header, {"tables": {"RSCD_GROUP_SKIP": rscd}}),
        "fringefreq": (header, {"tables": _fringe_frequencies(maps)}),
    }
    return [
        write_reference(
            folder / f"{name}_{kind}{f'_{readpatt.lower()}' if head is read else ''}.fits", kind, head, **values
        )
        for kind, (head, values) in files.items()
    ]


def write_setting_references(
    folder: Path, geometry: Geometry, maps: SettingMaps, readpatt: str, source: dict[str, Path] | None = None
) -> list[Path]:
    """Write the files of one setting: flat, fringe, photom, distortion, specwcs, regions.

    Parameters
    ----------
    folder : Path
    geometry : Geometry
    maps : SettingMaps
    readpatt : str
    source : dict of kind to Path, optional
        Real geometry files to copy byte for byte instead of writing.

    Returns
    -------
    list of Path
    """
    keys = mrs.setting_keywords(geometry.setting)
    header = {
        "detector": keys["DETECTOR"], "channel": keys["CHANNEL"], "band": keys["BAND"], "useafter": USEAFTER,
    }  # fmt: skip
    name = f"mrs{geometry.setting}"
    outside = np.where(np.isnan(maps.conversion), dq_bits.value("DO_NOT_USE", "NON_SCIENCE"), 0).astype(np.uint32)
    paths = [
        write_reference(
            folder / f"{name}_flat.fits", "flat", {**header, "readpatt": readpatt},
            flat=maps.flat, flat_err=maps.flat_err,
        ),
        write_reference(folder / f"{name}_fringe.fits", "fringe", header, fringe=maps.fringe),
        write_reference(
            folder / f"{name}_photom.fits", "photom", header, conversion=maps.conversion,
            pixel_area=maps.pixel_area, conversion_err=0.01 * maps.conversion, dq=outside, time_law={},
        ),
    ]  # fmt: skip
    for kind in ("distortion", "specwcs", "regions"):
        if source and kind in source:
            copied = folder / source[kind].name
            copied.write_bytes(source[kind].read_bytes())
            paths.append(copied)
        else:
            paths.append(write_geometry(folder / f"{name}_{kind}.asdf", getattr(geometry, kind)))
    return paths


def write_common_references(
    folder: Path, geometry: Geometry, emi: tuple[float, float, float], slice_shift: bool = False
) -> list[Path]:
    """Write the files that serve every exposure: wavelengthrange, cubepar, extract1d, apcorr and the tables.

    ``emi`` is (amplitude [DN], frequency [Hz], phase) of the interference, whose waveform emicorr holds; with
    ``slice_shift`` mrsptcorr holds the tables of sources off the middle of a slice.
    """
    header = {"useafter": USEAFTER}
    wave = np.round(np.arange(4.80, 29.001, 0.05), 4)
    radius, inner, outer = apertures(wave)
    factors = np.array([0.75, 1.0, 1.25, 1.5])
    correction = np.stack([aperture_correction(wave, k * radius, inner, outer) for k in factors])
    limits = {
        band: (mrs.SPAXEL_SIZE[int(band[0])], mrs.WAVELENGTH_STEP[int(band[0])], *mrs.WAVELENGTH_LIMITS[band])
        for band in mrs.BANDS
    }
    waveform = np.sin(2 * np.pi * np.arange(500) / 500) * max(emi[0], 1.0)
    case = {"rowclocks": 271, "frameclocks": 277504, "freqs": {"FAST": ["Hz10"]}}
    leak_wave = np.arange(11.4, 13.6, 0.01)
    leak = {"WAVELENGTH": leak_wave, "FRAC_LEAK": leak_fraction(leak_wave), "ERR_LEAK": 0.03 * leak_fraction(leak_wave)}
    files: dict[str, dict[str, Any]] = {
        "mrs_cubepar.fits": {
            "tables": cubepar_tables(limits, emsm={band: EMSM_DEFAULTS[int(band[0])] for band in mrs.BANDS})
        },
        "mrs_extract1d.asdf": {
            "wavelength": wave, "radius": radius, "inner_background": inner, "outer_background": outer
        },
        "mrs_apcorr.asdf": {"wavelength": wave, "radius": factors[:, None] * radius, "correction": correction},
        "mrs_mrsxartcorr.fits": {"tables": {f"CH{band}": table for band, table in artifact_tables().items()}},
        "mrs_mrsptcorr.fits": {"tables": {"LEAKCOR": leak} | (point_tables() if slice_shift else {})},
        "miri_emicorr.asdf": {
            "frequencies": {"Hz10": (emi[1], waveform)}, "subarray_cases": {"FULL_FAST": case}
        },
    }  # fmt: skip
    return [
        write_geometry(folder / "mrs_wavelengthrange.asdf", geometry.wavelengthrange),
        *(write_reference(folder / name, name.split("_")[1].split(".")[0], header, **v) for name, v in files.items()),
    ]


def apertures(wavelength: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return aperture radius (2 FWHM) and the annulus radii [arcsec] at wavelengths [um].

    The annulus runs from 2.5 to 3 radii at 5 um to 1.02 to 1.5 radii at 28 um, so that it stays in the field.
    """
    radius = 2.0 * mrs.psf_fwhm(np.asarray(wavelength, dtype=float))
    share = np.clip((np.asarray(wavelength) - 5.0) / 23.0, 0.0, 1.0)
    return radius, radius * (2.5 - 1.48 * share), radius * (3.0 - 1.5 * share)


def sampling_blur(wavelength: np.ndarray) -> np.ndarray:
    """Return the sigma [arcsec] by which pixels, slices and spaxels widen the PSF in a cube, mean of the axes."""
    edges = [mrs.WAVELENGTH_LIMITS[band][0] for band in ("2A", "3A", "4A")]
    channel = 1 + np.searchsorted(edges, np.atleast_1d(wavelength), side="right")
    pixel = np.array([0.192, 0.194, 0.2525, 0.269])[channel - 1]
    width = np.array([mrs.SLICE_WIDTH[c] for c in (1, 2, 3, 4)])[channel - 1]
    spaxel = np.array([mrs.SPAXEL_SIZE[c] for c in (1, 2, 3, 4)])[channel - 1]
    # a pixel averages over its footprint and drizzling spreads it over the footprint again, then over the spaxel
    return np.sqrt((pixel**2 + width**2 + spaxel**2) / 12.0)


def aperture_correction(wavelength: np.ndarray, radius: np.ndarray, inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    """Return total flux over (flux in the aperture minus the annulus mean times its area), from the closed form."""
    blur = sampling_blur(wavelength)
    inside = encircled_energy(radius, wavelength, blur=blur)
    ring = encircled_energy(outer, wavelength, blur=blur) - encircled_energy(inner, wavelength, blur=blur)
    return 1.0 / (inside - ring * radius**2 / (outer**2 - inner**2))


def artifact_tables() -> dict[str, dict[str, np.ndarray]]:
    """Return the kernels of the cross artifact of every band; they fade towards long wavelengths."""
    rows = np.arange(mrs.DETECTOR_SHAPE[0])
    one = np.ones(rows.size)
    out = {}
    for band in mrs.BANDS:
        fade = np.exp(-(mrs.WAVELENGTH_LIMITS[band][0] - 4.9) / 4.0) if band[0] in "123" else 0.0
        change = 1.0 + 0.1 * (rows / 1023.0 - 0.5)
        out[band] = {
            "YROW": rows, "LOR_FWHM": 100.0 * one, "LOR_SCALE": 8e-4 * fade * change, "GAU_FWHM": 8.0 * one,
            "GAU_XOFF": 22.0 * one, "GAU_SCALE1": 1.5e-3 * fade * one, "GAU_SCALE2": 4e-4 * fade * one,
        }  # fmt: skip
    return out


def _fringe_frequencies(maps: DetectorMaps) -> dict[str, Any]:
    channels = mrs.DETECTORS[maps.detector]
    slices = np.array([100 * int(c) + n for c in channels for n in range(1, mrs.N_SLICES[int(c)] + 1)], dtype=float)
    families = np.array([FRINGE_PERIOD] if channels == "12" else [FRINGE_PERIOD, 0.4])
    count = families.size

    def each(first: float, second: float) -> np.ndarray:
        return np.tile(np.array([first, second])[:count], (slices.size, 1))

    table = {
        "SLICE": slices, "FFREQ": np.tile(families, (slices.size, 1)), "DFFREQ": each(1.5, 0.15),
        "MIN_NFRINGES": np.zeros(slices.size), "MAX_NFRINGES": each(10, 15), "MIN_SNR": each(10.0, 10.0),
        "PGRAM_RES": each(0.001, 0.001),
    }  # fmt: skip
    wave = np.linspace(4.5, 29.0, 50)
    amplitude = {"WAVELENGTH": wave, "AMPLITUDE": 0.05 + 0.15 * np.exp(-(wave - 5.0) / 9.0)}
    return {**{f"RFC_FREQ_{grating}": table for grating in ("SHORT", "MEDIUM", "LONG")}, "MAX_AMP": amplitude}
