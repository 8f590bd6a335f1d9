"""Facts of the MIRI MRS: channels, bands, detectors, slices and names. Plain Python, no arrays of data.

Three names are used everywhere:

* *channel* ``1..4``: one integral field unit;
* *band* (sub-band) ``"1A" .. "4C"``: a channel seen through one grating, one cube;
* *setting* ``"12A" .. "34C"``: a detector (channels 12 or 34) in one grating, one exposure file, two bands.

Sources: JWST User Documentation (MIRI MRS), the FLT-9 distortion delivery, Law et al. 2023 (AJ 166, 45).
"""

from __future__ import annotations

from typing import Any

from .errors import MrsxrError

DETECTOR_SHAPE = (1024, 1032)  # (y, x), reference columns included
N_REFERENCE_COLUMNS = 4  # at the left and at the right edge
FRAME_TIME = {"FASTR1": 2.77504, "SLOWR1": 23.890}  # s, full frame
GRATINGS = {"A": "SHORT", "B": "MEDIUM", "C": "LONG"}
LETTERS = {name: letter for letter, name in GRATINGS.items()}
DETECTORS = {"MIRIFUSHORT": "12", "MIRIFULONG": "34"}
DETECTOR_OF_CHANNELS = {channels: name for name, channels in DETECTORS.items()}

BANDS = tuple(f"{channel}{letter}" for channel in (1, 2, 3, 4) for letter in "ABC")
SETTINGS = tuple(f"{channels}{letter}" for channels in ("12", "34") for letter in "ABC")

N_SLICES = {1: 21, 2: 17, 3: 16, 4: 12}
SLICE_WIDTH = {1: 0.17721, 2: 0.27972, 3: 0.38981, 4: 0.65604}  # arcsec
#: Columns that cube building reads of each channel, [first, last + 1) (jwst cube_build/ifu_cube.py).
CUBE_COLUMNS = {1: (0, 512), 2: (513, 1031), 3: (513, 1031), 4: (0, 512)}
#: Cube spaxel [arcsec] and wavelength step [um] of each channel (jwst cubepar).
SPAXEL_SIZE = {1: 0.13, 2: 0.17, 3: 0.20, 4: 0.35}
WAVELENGTH_STEP = {1: 0.0008, 2: 0.0013, 3: 0.0025, 4: 0.006}
#: Bounds [um] of the wavelengthrange file (CDP-8b and FLT-9), which jwst takes for a channel in each grating.
WAVELENGTH_RANGES = {
    "1A": (4.68, 5.97), "1B": (5.24, 6.87), "1C": (6.20, 7.90), "2A": (7.27, 9.03), "2B": (8.43, 10.39),
    "2C": (9.76, 11.97), "3A": (11.29, 13.75), "3B": (13.08, 15.86), "3C": (15.14, 18.29), "4A": (17.40, 21.20),
    "4B": (20.31, 24.68), "4C": (23.72, 28.75),
}  # fmt: skip
#: Wavelength limits of the band cubes [um] (flight cubepar values).
WAVELENGTH_LIMITS = {
    "1A": (4.90, 5.74), "1B": (5.66, 6.63), "1C": (6.53, 7.65),
    "2A": (7.51, 8.77), "2B": (8.67, 10.13), "2C": (10.01, 11.70),
    "3A": (11.55, 13.47), "3B": (13.34, 15.57), "3C": (15.41, 17.98),
    "4A": (17.70, 20.95), "4B": (20.69, 24.48), "4C": (24.40, 28.70),
}  # fmt: skip
#: Length of a detector pixel [um] at both of these limits: lines through all slices of FLT-9, which scatter by 1.5 %.
PIXEL_LENGTH = {
    "1A": (0.000975, 0.000779), "1B": (0.001127, 0.000902), "1C": (0.001301, 0.001041),
    "2A": (0.001469, 0.001193), "2B": (0.001694, 0.001381), "2C": (0.001958, 0.001593),
    "3A": (0.002232, 0.001820), "3B": (0.002580, 0.002104), "3C": (0.002976, 0.002427),
    "4A": (0.003693, 0.002993), "4B": (0.004315, 0.003489), "4C": (0.005006, 0.004032),
}  # fmt: skip


def bands_of_setting(setting: str) -> tuple[str, str]:
    """Return the two bands of a setting, ``"12A" -> ("1A", "2A")``."""
    if setting not in SETTINGS:
        raise MrsxrError(f"'{setting}' is no MRS setting; expected one of {', '.join(SETTINGS)}")
    return f"{setting[0]}{setting[2]}", f"{setting[1]}{setting[2]}"


def setting_of_band(band: str) -> str:
    """Return the setting that holds a band, ``"3B" -> "34B"``."""
    if band not in BANDS:
        raise MrsxrError(f"'{band}' is no MRS band; expected one of {', '.join(BANDS)}")
    return ("12" if band[0] in "12" else "34") + band[1]


def setting_name(detector: str, band: str) -> str:
    """Return the setting of the FITS keywords DETECTOR and BAND, ``("MIRIFULONG", "SHORT") -> "34A"``."""
    if detector not in DETECTORS:
        raise MrsxrError(f"DETECTOR '{detector}' is not of the MRS; expected MIRIFUSHORT or MIRIFULONG")
    if band not in LETTERS:
        raise MrsxrError(f"BAND '{band}' is not supported; expected SHORT, MEDIUM or LONG")
    return DETECTORS[detector] + LETTERS[band]


def setting_keywords(setting: str) -> dict[str, str]:
    """Return the FITS keywords of a setting: DETECTOR, CHANNEL and BAND."""
    bands_of_setting(setting)
    return {"DETECTOR": DETECTOR_OF_CHANNELS[setting[:2]], "CHANNEL": setting[:2], "BAND": GRATINGS[setting[2]]}


def pixel_length(wavelength: Any, band: str) -> Any:
    """Return the length of a detector pixel [um] of a band at a wavelength [um], linear between both ends."""
    (low, high), (first, last) = WAVELENGTH_LIMITS[band], PIXEL_LENGTH[band]
    return first + (last - first) * (wavelength - low) / (high - low)


def psf_fwhm(wavelength: Any) -> Any:
    """Return the FWHM of the cube PSF in arcsec at a wavelength in um (Law et al. 2023)."""
    return 0.033 * wavelength + 0.106


def resolving_power(wavelength: Any) -> Any:
    """Return the in-flight resolving power at a wavelength in um (Argyriou et al. 2023): 4603 - 128 λ."""
    return 4603.0 - 128.0 * wavelength
