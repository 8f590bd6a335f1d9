"""Self-made maps of a detector and of a setting: what the reference files say and the ramps obey."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from mrsxr import dq as dq_bits
from mrsxr import mrs

from .instrument import COMMON_RANGE, Footprints

GAIN = 4.0  # electron/DN
READ_NOISE = 6.0  # DN, one read; the reference file holds sqrt(2) times as much
FRINGE_PERIOD = 2.9  # 1/cm
_COLLECTING_AREA = 25.03  # m2
_EFFICIENCY = {1: 0.11, 2: 0.11, 3: 0.10, 4: 0.05}  # photon conversion, telescope to detector
_PLANCK = 6.62607015e-34


@dataclass(frozen=True)
class DetectorMaps:
    """Maps (y, x) of one detector, equal for its three settings.

    ``gain`` electron/DN, ``read_noise`` DN (one read), ``saturation`` DN, ``c2``, ``c3`` coefficients of the
    linearity correction F + c2 F^2 + c3 F^3, ``bias`` DN, ``dark_rate`` DN/s, ``settle`` and ``reset`` amplitudes in
    DN, ``response`` (0 for dead pixels) and ``dq`` (standard bits).
    """

    detector: str
    gain: np.ndarray
    read_noise: np.ndarray
    saturation: np.ndarray
    c2: np.ndarray
    c3: np.ndarray
    bias: np.ndarray
    dark_rate: np.ndarray
    settle: np.ndarray
    reset: np.ndarray
    response: np.ndarray
    dq: np.ndarray

    def settle_shape(self, n_integrations: int, n_groups: int) -> np.ndarray:
        """Return the settling of the dark (integration, group), to be multiplied by ``settle`` [DN]."""
        groups = np.arange(n_groups)
        first = np.minimum(np.arange(n_integrations), 1)
        return np.where(first[:, None] == 0, 1.0, 0.6) * (1.0 - np.exp(-groups / 3.0))

    def reset_shape(self, n_integrations: int, n_groups: int) -> np.ndarray:
        """Return the reset anomaly (integration, group), to be multiplied by ``reset`` [DN]."""
        first = np.minimum(np.arange(n_integrations), 1)
        return np.where(first[:, None] == 0, 1.0, 0.7) * np.exp(-np.arange(n_groups) / 1.5)

    def dark(self, n_integrations: int, n_groups: int, group_time: float) -> np.ndarray:
        """Return the noiseless dark ramp [DN], linear counts, (integration, group, y, x) float32."""
        time = group_time * np.arange(1, n_groups + 1)
        shape = self.settle_shape(n_integrations, n_groups)
        out = np.empty((n_integrations, n_groups, *self.gain.shape), dtype=np.float32)
        for i in range(n_integrations):
            for g in range(n_groups):
                out[i, g] = self.dark_rate * time[g] + self.settle * shape[i, g]
        return out


def make_detector(detector: str, seed: int = 1) -> DetectorMaps:
    """Make the maps of a detector, the same for the same seed.

    Parameters
    ----------
    detector : str
        MIRIFUSHORT or MIRIFULONG.
    seed : int

    Returns
    -------
    DetectorMaps
    """
    rng = np.random.default_rng([seed, 17, sorted(mrs.DETECTORS).index(detector)])
    shape = mrs.DETECTOR_SHAPE
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] / np.array([1024.0, 1032.0])[:, None, None]
    reference = np.zeros(shape, dtype=bool)
    reference[:, :4] = reference[:, -4:] = True

    def normal(sigma: float) -> np.ndarray:
        return sigma * rng.standard_normal(shape)

    def smooth(sigma: float) -> np.ndarray:
        """Return a random map without structure below 40 pixels, of rms 1."""
        small = gaussian_filter(rng.standard_normal((66, 66)), 2.5, mode="reflect")
        columns = gaussian_filter1d(np.repeat(small, 16, axis=0), 10.0, axis=0)  # those of a cell are alike
        wide = gaussian_filter1d(np.repeat(columns, 16, axis=1), 10.0, axis=1)[: shape[0], : shape[1]]
        return sigma * wide / wide.std()

    dq = np.zeros(shape, dtype=np.uint32)
    dq[reference] = dq_bits.REFERENCE_PIXEL
    draw = rng.random(shape)
    dead = (draw < 0.0008) & ~reference
    hot = (draw > 0.9980) & ~reference
    warm = (draw > 0.9950) & (draw <= 0.9980) & ~reference
    dq[dead] |= dq_bits.value("DEAD", "DO_NOT_USE")
    dq[hot] |= dq_bits.value("HOT", "DO_NOT_USE")
    dq[warm] |= dq_bits.value("WARM")
    glow = 0.10 * np.exp(-((x - 0.9) ** 2 + (y - 0.1) ** 2) / 0.05) + 0.03 * (1 + 0.3 * smooth(1.0))
    dark_rate = np.abs(glow + normal(0.004))
    dark_rate[hot] += rng.lognormal(2.5, 1.0, hot.sum())
    dark_rate[warm] += rng.uniform(0.1, 0.5, warm.sum())
    dark_rate[reference] = 0.0
    settle, reset = 4.0 + smooth(1.0), 12.0 + smooth(3.0)
    settle[reference] = 0.0
    bias = 10000.0 + smooth(150.0) + normal(120.0)
    bias += np.array([0.0, 60.0, -40.0, 25.0])[np.arange(shape[1]) % 4][None, :]
    bias += np.array([0.0, 30.0])[np.arange(shape[0]) % 2][:, None]
    return DetectorMaps(
        detector=detector,
        gain=GAIN * (1.0 + smooth(0.01)),
        read_noise=np.abs(READ_NOISE + normal(0.4)),
        saturation=np.where(reference, 60000.0, 52500.0 + smooth(600.0) + normal(350.0)),
        c2=6.0e-7 * (1.0 + smooth(0.03) + normal(0.01)),
        c3=2.0e-12 * (1.0 + smooth(0.03)),
        bias=bias, dark_rate=dark_rate, settle=settle, reset=reset,
        response=np.where(dead | reference, 0.0, 1.0), dq=dq,
    )  # fmt: skip


@dataclass(frozen=True)
class SettingMaps:
    """Maps (y, x) of one setting.

    ``flat`` and its error, ``fringe`` (NaN between slices), ``conversion`` MJy/sr per DN/s (NaN between slices; it
    contains the throughput of the slice ends) and ``pixel_area`` arcsec2.
    """

    setting: str
    flat: np.ndarray
    flat_err: np.ndarray
    fringe: np.ndarray
    conversion: np.ndarray
    pixel_area: np.ndarray


def make_setting(setting: str, pixels: dict[str, Footprints], seed: int = 1) -> SettingMaps:
    """Make the flat, fringe flat and flux conversion of a setting.

    Parameters
    ----------
    setting : str
    pixels : dict of band to Footprints
    seed : int

    Returns
    -------
    SettingMaps
    """
    rng = np.random.default_rng([seed, 23, mrs.SETTINGS.index(setting)])
    shape = mrs.DETECTOR_SHAPE
    flat = 1.0 + 0.01 * rng.standard_normal(shape)
    fringe, conversion, area = (np.full(shape, np.nan) for _ in range(3))
    for band, here in pixels.items():
        fringe[here.y, here.x] = fringe_pattern(here)
        conversion[here.y, here.x] = _conversion(band, here)
        area[here.y, here.x] = (here.alpha_high - here.alpha_low) * here.width
    return SettingMaps(setting, flat, np.full(shape, 0.002), fringe, conversion, area)


def fringe_pattern(pixels: Footprints, *, phase: float = 0.0, depth: float = 1.0) -> np.ndarray:
    """Return the transmission of the detector layers as an etalon, mean 1 over a period.

    Parameters
    ----------
    pixels : Footprints
    phase : float [rad]
        Added phase, for light that comes in at another angle than that of the fringe flat.
    depth : float
        Factor on the contrast.

    Returns
    -------
    ndarray
        sqrt(1 + F) / (1 + F sin^2(delta / 2)), delta = 2 pi k / 2.9 per cm + smooth phase; the amplitude falls from
        17 % at 5 um to 5 % at 28 um.
    """
    amplitude = depth * (0.05 + 0.12 * np.exp(-(pixels.wavelength - 5.0) / 9.0))
    finesse = (1.0 + amplitude) ** 2 - 1.0
    optical = 2.0 * np.pi * 1e4 / pixels.wavelength / FRINGE_PERIOD
    delta = optical + 0.8 * pixels.label + 0.25 * pixels.alpha + phase
    return np.sqrt(1.0 + finesse) / (1.0 + finesse * np.sin(0.5 * delta) ** 2)


def _conversion(band: str, pixels: Footprints) -> np.ndarray:
    """Return MJy/sr per DN/s from photons: area x solid angle x bandwidth x efficiency, with a blaze-like curve."""
    low, high = COMMON_RANGE[band]
    position = (pixels.wavelength - 0.5 * (low + high)) / (0.5 * (high - low))
    pixel = np.median(pixels.alpha_high - pixels.alpha_low) * pixels.width
    per_row = (high - low) / 1007.0 / pixels.wavelength
    electrons = 1e-20 * _COLLECTING_AREA * pixel * 2.35044e-11 * per_row * _EFFICIENCY[int(band[0])] / _PLANCK
    response = (1.0 - 0.30 * position**2 + 0.05 * position) * (1.0 + 0.02 * np.sin(1.7 * pixels.label))
    return GAIN / (electrons * response * pixels.throughput)
