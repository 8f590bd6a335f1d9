"""Layouts of the tables in MRS reference files (``stdatamodels`` schemas): column names, dtypes and units."""

from __future__ import annotations

from mrsxr.mrs import BANDS

XART_COLUMNS = {
    "YROW": "i2", "LOR_FWHM": "f4", "LOR_SCALE": "f4", "GAU_FWHM": "f4", "GAU_XOFF": "f4",
    "GAU_SCALE1": "f4", "GAU_SCALE2": "f4",
}  # fmt: skip
#: Units of the dimensions of the cross-artifact kernel: pixels for widths and offsets, 1 for amplitudes.
XART_UNITS = {"LOR_FWHM": "pix", "LOR_SCALE": "1", "GAU_FWHM": "pix", "GAU_XOFF": "pix", "GAU_SCALE1": "1",
              "GAU_SCALE2": "1"}  # fmt: skip

MRSPTCORR_COLUMNS: dict[str, dict[str, str]] = {
    "LEAKCOR": {"WAVELENGTH": "f4", "FRAC_LEAK": "f4", "ERR_LEAK": "f4"},
    "TRACOR": {"CHANNEL": "i4", "WAVE_MIN": "f4", "WAVE_MAX": "f4", "T_WMIN_CENTRE": "f4",
               "T_WMIN_EDGE": "f4", "T_WMAX_CENTRE": "f4", "T_WMAX_EDGE": "f4"},
    "WAVCORR_OPTICAL": {"SUB_BAND": "S16", "BETA_SLICE": "f4", "WAVE_MIN": "f4", "WAVE_MAX": "f4",
                        "SRP_MIN": "f4", "SRP_MAX": "f4"},
    "WAVCORR_XSLICE": {"XSLICE_MIN": "f4", "XSLICE_MAX": "f4"},
    "WAVCORR_SHIFT": {"BETA_OFF": "f4", "DS_MIN": "f4", "DS_MAX": "f4"},
}  # fmt: skip
MRSPTCORR_UNITS = {
    "WAVELENGTH": "um", "FRAC_LEAK": "1", "ERR_LEAK": "1", "WAVE_MIN": "um", "WAVE_MAX": "um",
    "T_WMIN_CENTRE": "%", "T_WMIN_EDGE": "%", "T_WMAX_CENTRE": "%", "T_WMAX_EDGE": "%",
    "BETA_SLICE": "arcsec", "SRP_MIN": "1", "SRP_MAX": "1", "XSLICE_MIN": "um/arcsec",
    "XSLICE_MAX": "um/arcsec", "BETA_OFF": "1", "DS_MIN": "1", "DS_MAX": "1",
}  # fmt: skip

FRINGEFREQ_COLUMNS = {
    "SLICE": "f8", "FFREQ": "f8", "DFFREQ": "f8", "MIN_NFRINGES": "i8", "MAX_NFRINGES": "i8", "MIN_SNR": "f8",
    "PGRAM_RES": "f8",
}  # fmt: skip
FRINGEFREQ_UNITS = {"FFREQ": "1/cm", "DFFREQ": "1/cm", "MIN_NFRINGES": "1", "MAX_NFRINGES": "1",
                    "MIN_SNR": "1", "PGRAM_RES": "1/cm"}  # fmt: skip
MAX_AMP_COLUMNS = {"WAVELENGTH": "f8", "AMPLITUDE": "f8"}

PHOTOM_TIME_COLUMNS = {"BINWAVE": "f4", "ALPHA": "f4", "YEAR1VALUE": "f4", "TSOFT": "f4", "T0": "f4"}

#: Lower case: stdatamodels looks for "group_skip1" as it stands.
RSCD_COLUMNS = {"subarray": "S17", "readpatt": "S12", "group_skip1": "i4", "group_skip": "i4"}

#: Not of CRDS: the decay of latents, one row a component (mrsxr.cal.latents).
LATENT_COLUMNS = {"DECAY_TIME": "f8", "AMPLITUDE": "f8", "AMPLITUDE_ERR": "f8", "SATURATED_AMPLITUDE": "f8"}

#: Not yet of CRDS: what a point source shows at the places of a dither pattern (STScI-MIRI/MRS-PFPC; there unnamed).
PFPC_COLUMNS = {"wavelength": "f8"} | {f"dither{k}": "f8" for k in (1, 2, 3, 4)}

#: Not of CRDS: square images of a point source, in their middle, on the detector, one a row (mrsxr.cal.learn_psf).
PSF_COLUMNS = {"BAND": "S2", "WAVELENGTH": "f8", "STEP": "f8", "IMAGE": "f4"}

CUBEPAR_TABLES: dict[str, dict[str, str]] = {
    "CUBEPAR": {"CHANNEL": "S3", "BAND": "S12", "SPAXELSIZE": "f4", "SPECTRALSTEP": "f4", "WAVEMIN": "f4",
                "WAVEMAX": "f4"},
    "CUBEPAR_MSM": {"CHANNEL": "S3", "BAND": "S12", "ROISPATIAL": "f4", "ROISPECTRAL": "f4", "POWER": "f4",
                    "SOFTRAD": "f4"},
    "MULTICHANNEL_MSM": {"WAVELENGTH": "f4", "ROISPATIAL": "f4", "ROISPECTRAL": "f4", "POWER": "f4",
                         "SOFTRAD": "f4"},
    "CUBEPAR_EMSM": {"CHANNEL": "S3", "BAND": "S12", "ROISPATIAL": "f4", "ROISPECTRAL": "f4",
                     "SCALERAD": "f4"},
    "MULTICHANNEL_EMSM": {"WAVELENGTH": "f4", "ROISPATIAL": "f4", "ROISPECTRAL": "f4", "SCALERAD": "f4"},
    "MULTICHANNEL_DRIZ": {"WAVELENGTH": "f4"},
}  # fmt: skip

#: Tables of each kind by the name of their extension.
TABLES: dict[str, dict[str, dict[str, str]]] = {
    "rscd": {"RSCD_GROUP_SKIP": RSCD_COLUMNS},
    "latent": {"LATENT": LATENT_COLUMNS},
    "pfpc": {"PFPC": PFPC_COLUMNS},
    "psf": {"PSF": PSF_COLUMNS},
    "mrsxartcorr": {f"CH{band}": XART_COLUMNS for band in BANDS},
    "mrsptcorr": MRSPTCORR_COLUMNS,
    "fringefreq": {
        **dict.fromkeys(("RFC_FREQ_SHORT", "RFC_FREQ_MEDIUM", "RFC_FREQ_LONG"), FRINGEFREQ_COLUMNS),
        "MAX_AMP": MAX_AMP_COLUMNS,
    },
    "cubepar": CUBEPAR_TABLES,
}
#: Units of their columns.
UNITS = {
    "latent": {"DECAY_TIME": "s"},
    "pfpc": {"wavelength": "um"},
    "psf": {"WAVELENGTH": "um", "STEP": "arcsec"},
    "mrsxartcorr": XART_UNITS,
    "mrsptcorr": MRSPTCORR_UNITS,
    "fringefreq": {**FRINGEFREQ_UNITS, "WAVELENGTH": "um"},
}
