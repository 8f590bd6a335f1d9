"""A small set of reference files of every kind that the writers make, and exposures to look them up for."""

from __future__ import annotations

import json
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq, mrs
from mrsxr.simulate.reference_files import cubepar_tables, write_reference

SHAPE = (16, 24)
N_GROUPS = 5
SHORT = {"detector": "MIRIFUSHORT"}
SETTING = {**SHORT, "channel": "12", "band": "SHORT"}
READ = {**SHORT, "readpatt": "FASTR1"}


def flags() -> np.ndarray:
    out = np.zeros(SHAPE, np.uint32)
    out[2, 3] = dq.value("DO_NOT_USE", "HOT")
    out[4, 5] = dq.value("REFERENCE_PIXEL")
    return out


def image(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(10, 1, shape).astype(np.float32)


def time_law() -> dict[int, dict[str, list[float]]]:
    law = {"alpha": [-0.1, -0.2], "year1value": [0.9, 0.8], "tsoft": [10, 20], "t0": [59700, 59700]}
    return {1: {"binwave": [5.0, 7.0], **law}, 2: {"binwave": [8.0, 11.0], **law}}


def xart_tables(bands=mrs.BANDS) -> dict[str, dict[str, np.ndarray]]:
    rows = np.arange(SHAPE[0])
    names = ("LOR_FWHM", "LOR_SCALE", "GAU_FWHM", "GAU_XOFF", "GAU_SCALE1", "GAU_SCALE2")
    return {
        f"CH{band}": {"YROW": rows} | {name: rows + 100.0 * k + n for k, name in enumerate(names)}
        for n, band in enumerate(bands)
    }


def ptcorr_tables() -> dict[str, dict[str, list]]:
    return {
        "LEAKCOR": {"WAVELENGTH": [12, 12.2], "FRAC_LEAK": [0.002, 0.0267], "ERR_LEAK": [0.001, 0.001]},
        "TRACOR": {
            "CHANNEL": [1, 2], "WAVE_MIN": [4.87, 7.45], "WAVE_MAX": [7.76, 11.87], "T_WMIN_CENTRE": [96.7, 96.2],
            "T_WMIN_EDGE": [93.3, 92.2], "T_WMAX_CENTRE": [91.0, 91.9], "T_WMAX_EDGE": [91.6, 90.5],
        },
        "WAVCORR_OPTICAL": {
            "SUB_BAND": ["1A", "1B"], "BETA_SLICE": [0.177, 0.177], "WAVE_MIN": [4.9, 5.6],
            "WAVE_MAX": [5.7, 6.6], "SRP_MIN": [3300, 3200], "SRP_MAX": [3700, 3600],
        },
        "WAVCORR_XSLICE": {"XSLICE_MIN": [0.001], "XSLICE_MAX": [0.002]},
        "WAVCORR_SHIFT": {"BETA_OFF": [-0.5, 0.0, 0.5], "DS_MIN": [-0.1, 0, 0.1], "DS_MAX": [-0.2, 0, 0.2]},
    }  # fmt: skip


def fringe_tables() -> dict[str, dict[str, np.ndarray]]:
    def table(labels, n_families):
        families = np.ones((len(labels), n_families))
        return {
            "SLICE": np.asarray(labels, float), "FFREQ": 2.9 * families, "DFFREQ": 1.5 * families,
            "MIN_NFRINGES": np.zeros(len(labels), int), "MAX_NFRINGES": (10 * families).astype(int),
            "MIN_SNR": 5 * families, "PGRAM_RES": 0.001 * families,
        }  # fmt: skip

    limits = {"WAVELENGTH": np.array([5.0, 28.0]), "AMPLITUDE": np.array([0.1, 0.2])}
    labels = {"SHORT": [101, 102], "MEDIUM": [101], "LONG": [101, 102]}
    return {**{f"RFC_FREQ_{name}": table(found, 2) for name, found in labels.items()}, "MAX_AMP": limits}


def rscd_table(*rows) -> dict[str, dict[str, tuple]]:
    names = ("subarray", "readpatt", "group_skip1", "group_skip")
    return {"RSCD_GROUP_SKIP": dict(zip(names, zip(*rows, strict=True), strict=True))}


def cubepar_bands() -> dict[str, tuple[float, float, float, float]]:
    return {
        band: (mrs.SPAXEL_SIZE[int(band[0])], mrs.WAVELENGTH_STEP[int(band[0])], *mrs.WAVELENGTH_LIMITS[band])
        for band in mrs.BANDS
    }


def write_set(folder: Path) -> Path:
    """Write one file of every kind; names of two forms: CRDS's and free ones."""
    wave = np.linspace(4.8, 28.8, 7)
    fwhm = mrs.psf_fwhm(wave)
    ramp = image(3, (2, N_GROUPS, *SHAPE))
    coefficients = np.stack([np.zeros(SHAPE), np.ones(SHAPE), np.full(SHAPE, 1e-6)])

    def write(name, header, **values):
        write_reference(folder / name, values.pop("kind", name.split(".")[0]), header, **values)

    write("jwst_miri_mask_0007.fits", SHORT, kind="mask", dq=flags())
    write("sat.fits", SHORT, kind="saturation", threshold=image(1), dq=flags())
    write("lin.fits", SHORT, kind="linearity", coefficients=coefficients)
    write("dark.fits", READ, dark=ramp, dq=flags(), average_dark_current=0.12)
    write("reset.fits", READ, reset=ramp[:1], dq=flags())
    write("gain.fits", SHORT, gain=image(4))
    write("noise.fits", READ, kind="readnoise", read_noise=image(5))
    write("rscd.fits", SHORT, tables=rscd_table(("FULL", "FASTR1", 4, 2), ("FULL", "SLOWR1", -1, 1)))
    write("flat.fits", SETTING, flat=image(6), flat_err=image(7), dq=flags())
    write("fringe.fits", SETTING, fringe=image(8))
    write("photom.fits", SETTING, conversion=image(9), pixel_area=0.03, time_law=time_law())
    write("ipc.fits", SHORT, kernel=np.eye(3))
    write("xart.fits", {}, kind="mrsxartcorr", tables=xart_tables())
    write("pt.fits", {}, kind="mrsptcorr", tables=ptcorr_tables())
    write("freq.fits", SHORT, kind="fringefreq", tables=fringe_tables())
    emsm = {band: (0.3, 0.004, 0.1) for band in mrs.BANDS}
    write("cubepar.fits", {}, tables=cubepar_tables(cubepar_bands(), multichannel=wave, emsm=emsm))
    write("x1d.asdf", {}, kind="extract1d", wavelength=wave, radius=2 * fwhm, inner_background=3 * fwhm,
          outer_background=4 * fwhm)  # fmt: skip
    factors = np.array([[1.5], [1.2]]) * np.ones_like(wave)
    write("apcorr.asdf", {}, wavelength=wave, radius=np.outer([1, 2], fwhm), correction=factors)
    cases = {"FULL_FAST": {"rowclocks": 271, "frameclocks": 277504, "freqs": {"FAST": ["Hz10"]}}}
    frequencies = {"Hz10": (10.03, [0.0, 1.0, 0.0, -1.0]), "Hz390": (390.6, [1.0, -1.0])}
    write("emi.asdf", {}, kind="emicorr", frequencies=frequencies, subarray_cases=cases)
    latent = {"DECAY_TIME": [60.0, 900.0], "AMPLITUDE": [1e-3, 2e-4], "AMPLITUDE_ERR": [1e-4, 2e-5],
              "SATURATED_AMPLITUDE": [2e-3, 4e-4]}  # fmt: skip
    rows = np.linspace(4.9, 5.7, 30)
    pfpc = {"WAVELENGTH": np.append(rows, np.nan)} | {
        f"DITHER{k}": np.append(1 + 0.01 * np.sin(rows * k), np.nan) for k in (1, 2, 3, 4)
    }
    write("pfpc.fits", {"band": "SHORT", "dither_type": "4-POINT"}, tables={"PFPC": pfpc})
    psf = {
        "BAND": ["1A", "1A"],
        "WAVELENGTH": [4.9, 5.7],
        "STEP": [0.03, 0.03],
        "IMAGE": np.eye(9).reshape(1, -1) * [[1], [1]],
    }
    write("psf.fits", SHORT | {"band": "SHORT"}, tables={"PSF": psf})
    write("latent.fits", SHORT, tables={"LATENT": latent}, full_well=55000.0)
    return folder


def exposure(
    shape: tuple[int, int] = SHAPE,
    *,
    detector: str = "MIRIFUSHORT",
    band: str = "SHORT",
    readpatt: str = "FASTR1",
    subarray: str = "FULL",
    start: tuple[int, int] = (0, 0),
    date: str | None = "2023-01-01",
    rows: int | None = 8,
) -> xr.Dataset:
    """Return a ramp Dataset with what the look-up of reference files reads."""
    primary = {"TIME-OBS": "10:00:00.123", "EXP_TYPE": "MIR_MRS", "SUBSTRT1": start[1] + 1, "NGROUPS": N_GROUPS,
               "SUBSTRT2": start[0] + 1, "SUBSIZE1": shape[1], "SUBSIZE2": shape[0]}  # fmt: skip
    if date:
        primary["DATE-OBS"] = date
    channels = mrs.DETECTORS[detector]
    sci = np.zeros((1, 1, N_GROUPS, *shape), np.float32)
    data = sci if rows is None else da.from_array(sci, chunks=(1, 1, -1, rows, -1))
    attrs = {"level": "ramp", "setting": channels + mrs.LETTERS[band], "detector": detector, "channels": channels,
             "band": band, "readpatt": readpatt, "subarray": subarray}  # fmt: skip
    header = json.dumps({"PRIMARY": primary, "SCI": {}})
    return xr.Dataset(
        {"sci": (("dither", "integration", "group", "y", "x"), data)}, {"fits_header": ("dither", [header])}, attrs
    )
