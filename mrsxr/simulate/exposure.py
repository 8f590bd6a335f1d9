"""From a scene to the raw ramps of one exposure: slopes, detector effects and noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from mrsxr import dq as dq_bits
from mrsxr import mrs
from mrsxr.limits import checked_fields

from .detector_model import DetectorMaps, SettingMaps, fringe_pattern, make_detector, make_setting
from .instrument import Footprints, Geometry, footprints
from .pointing import Aim
from .references import artifact_tables
from .render import Parts, render
from .scene import Scene

BLOCK_ROWS = 64
_FIRST_GROUP = -40.0  # DN, the first group of the first integration lies low
_DECAY = (-20.0, 0.45)  # DN and groups, reset switch charge decay of later integrations
_LAST_GROUP = 35.0  # DN, the last group is read while the pixel is reset
_FULL_WELL = 1.03  # of the saturation threshold
_RESET_NOISE = 25.0  # DN


@dataclass(frozen=True)
@checked_fields
class Effects:
    """Switches and sizes of what the detector and the sky do to the data.

    ``cosmic_rays`` hits per second on the detector (each about five pixels), ``drift`` [DN] of the amplifiers from
    group to group, ``emi`` amplitude [DN] of the 10 Hz interference, ``showers`` per exposure, ``new_hot_pixels`` that
    the mask does not know, ``point_fringe`` [rad] by which the fringes of point sources are shifted against the
    fringe flat (their contrast rises by half of it), ``background_scatter`` relative rms of the background level
    between exposures, ``centroid_jitter`` [arcsec] rms along V2 and V3 by which the light of a band lies elsewhere than
    the header of the exposure says. ``straylight`` adds the cross artifact, ``leak`` the second-order light in band 3A,
    ``slice_shift`` the dimming and the shift in wavelength of point sources off the middle of a slice.

    Examples
    --------
    >>> mx.simulate.Effects(straylight=True, showers=2).showers
    2
    >>> quiet = mx.simulate.Effects.none()
    """

    photon_noise: bool = True
    read_noise: bool = True
    cosmic_rays: float = 60.0
    nonlinearity: bool = True
    dark: bool = True
    bad_pixels: bool = True
    flat: bool = True
    fringe: bool = True
    reset: bool = True
    first_groups: bool = True
    last_frame: bool = True
    drift: float = 2.0
    new_hot_pixels: int = 150
    straylight: bool = False
    showers: int = 0
    emi: float = 0.0
    leak: bool = False
    point_fringe: float = 0.0
    background_scatter: float = 0.0
    centroid_jitter: float = 0.0
    slice_shift: bool = False

    @classmethod
    def none(cls) -> Effects:
        """Return all effects off: noiseless, linear ramps of flux / conversion."""
        off = dict.fromkeys(("photon_noise", "read_noise", "nonlinearity", "dark", "bad_pixels", "flat", "fringe",
                             "reset", "first_groups", "last_frame"), False)  # fmt: skip
        return cls(**off, cosmic_rays=0.0, drift=0.0, new_hot_pixels=0)


@dataclass(frozen=True)
class Instrument:
    """One setting, ready to observe: geometry, pixel footprints and maps."""

    geometry: Geometry
    pixels: dict[str, Footprints]
    detector: DetectorMaps
    maps: SettingMaps

    @property
    def setting(self) -> str:
        """Setting, ``"12A"`` .. ``"34C"``."""
        return self.geometry.setting


def make_instrument(geometry: Geometry, effects: Effects, seed: int) -> Instrument:
    """Make the maps of a setting; effects that are switched off are off in the reference maps as well."""
    pixels = footprints(geometry)
    detector = make_detector(mrs.DETECTOR_OF_CHANNELS[geometry.setting[:2]], seed)
    maps = make_setting(geometry.setting, pixels, seed)
    zero, one = np.zeros(mrs.DETECTOR_SHAPE), np.ones(mrs.DETECTOR_SHAPE)
    if not effects.bad_pixels:
        reference = (detector.dq & np.uint32(dq_bits.REFERENCE_PIXEL)) != 0
        faulty = (detector.dq != 0) & ~reference
        detector = replace(
            detector, dq=np.where(reference, detector.dq, 0).astype(np.uint32), response=np.where(reference, 0.0, 1.0),
            dark_rate=np.where(faulty, np.median(detector.dark_rate), detector.dark_rate),
        )  # fmt: skip
    if not effects.nonlinearity:
        detector = replace(detector, c2=zero, c3=zero)
    if not effects.dark:
        detector = replace(detector, dark_rate=zero, settle=zero)
    if not effects.reset:
        detector = replace(detector, reset=zero)
    if not effects.flat:
        maps = replace(maps, flat=one)
    if not effects.fringe:
        maps = replace(maps, fringe=np.where(np.isnan(maps.fringe), np.nan, 1.0))
    return Instrument(geometry, pixels, detector, maps)


@dataclass(frozen=True)
class Truth:
    """What the light does before any noise, (y, x): surface brightness [MJy/sr] and slope [DN/s] without dark."""

    surface_brightness: np.ndarray
    slope: np.ndarray


def observe(scene: Scene, aim: Aim, instrument: Instrument, effects: Effects) -> Truth:
    """Return the noiseless images of a scene in one exposure.

    Parameters
    ----------
    scene : Scene
    aim : Aim
    instrument : Instrument
    effects : Effects

    Returns
    -------
    Truth
        ``slope`` = surface brightness / conversion x flat x fringe (+ scattered light), 0 for dead pixels;
        ``surface_brightness`` is the mean over the pixel footprint, NaN between the slices.
    """
    brightness = np.full(mrs.DETECTOR_SHAPE, np.nan)
    rate = np.zeros(mrs.DETECTOR_SHAPE)
    for pixels in instrument.pixels.values():
        parts: Parts = render(
            scene, aim, instrument.geometry, pixels, leak=effects.leak, slice_shift=effects.slice_shift
        )
        here = pixels.y, pixels.x
        fringe = instrument.maps.fringe[here]
        shifted = fringe
        if effects.fringe and effects.point_fringe:
            shifted = fringe_pattern(pixels, phase=effects.point_fringe, depth=1.0 + 0.5 * effects.point_fringe)
        brightness[here] = parts.point + parts.extended
        rate[here] = (parts.point * shifted + parts.extended * fringe) / instrument.maps.conversion[here]
    slope = rate * instrument.maps.flat
    if effects.straylight:
        slope = slope + scattered(slope, instrument.setting)
    return Truth(brightness, slope * instrument.detector.response)


def scattered(image: np.ndarray, setting: str) -> np.ndarray:
    """Return the light that each row scatters along itself, by the kernels of the mrsxartcorr file.

    Columns 0-515 scatter with the kernel of the left channel, 516-1023 with that of the right one. Their widths are the
    same in all rows.
    """
    tables = artifact_tables()
    first, second = mrs.bands_of_setting(setting)
    left, right = (first, second) if setting.startswith("12") else (second, first)
    n = image.shape[1]
    size = 2160  # at least 2 n - 1, and fast
    distance = np.minimum(np.arange(size), size - np.arange(size)).astype(float)
    out = np.zeros(image.shape)
    for band, columns in ((left, slice(0, 516)), (right, slice(516, 1024))):
        source = np.zeros(image.shape)
        source[:, columns] = image[:, columns]
        width, sigma, offset = (tables[band][name][0] for name in ("LOR_FWHM", "GAU_FWHM", "GAU_XOFF"))
        half, sigma = 0.5 * width, sigma / 2.3548
        shapes = {"LOR_SCALE": half**2 / (half**2 + distance**2)}
        for k, name in ((1, "GAU_SCALE1"), (2, "GAU_SCALE2")):
            near = [np.exp(-0.5 * ((distance + side * k * offset) / (k * sigma)) ** 2) for side in (-1, 1)]
            shapes[name] = near[0] + near[1]
        kernel = sum(
            tables[band][name][:, None] * np.fft.rfft(np.where(distance < n, shape, 0.0))
            for name, shape in shapes.items()
        )
        out += np.fft.irfft(np.fft.rfft(source, size, axis=1) * kernel, size, axis=1)[:, :n]
    out[:, :4] = out[:, -4:] = 0.0
    return out


@dataclass(frozen=True)
class CosmicRays:
    """Hits of one exposure: sorted samples (integration, y) and where each row of each integration starts."""

    integration: np.ndarray
    group: np.ndarray
    y: np.ndarray
    x: np.ndarray
    electrons: np.ndarray
    start: np.ndarray


def make_cosmic_rays(
    rng: np.random.Generator, rate: float, n_integrations: int, n_groups: int, group_time: float,
) -> CosmicRays:  # fmt: skip
    """Draw cosmic-ray hits: ``rate`` per second on the detector, lognormal charge (median 2500 electrons)."""
    from ._exposure_kernels import spread_hits

    n_rows, n_columns = mrs.DETECTOR_SHAPE
    count = rng.poisson(rate * group_time * n_groups * n_integrations) if rate > 0 else 0
    when = rng.integers(0, n_integrations * n_groups, count)
    y, x = rng.uniform(0, n_rows, count), rng.uniform(0, n_columns, count)
    charge = rng.lognormal(np.log(2500.0), 1.2, count)
    length = np.minimum(1.0 + rng.exponential(1.5, count), 30.0)
    angle = rng.uniform(0, 2 * np.pi, count)
    size = int(5 * np.ceil(length).sum())
    rows, columns = np.empty(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    charges = np.empty(size)
    used = spread_hits(y, x, charge, length, angle, 0.05, rows, columns, charges)
    place, when = columns[:used], when[rows[:used]]
    key = (when // n_groups) * n_rows + place // n_columns
    order = np.argsort(key, kind="stable")
    start = np.searchsorted(key[order], np.arange(n_integrations * n_rows + 1))
    place, when = place[order], when[order]
    return CosmicRays(
        when // n_groups, when % n_groups, place // n_columns, place % n_columns, charges[:used][order], start
    )


def ramp_blocks(
    truth: Truth,
    instrument: Instrument,
    effects: Effects,
    n_integrations: int,
    n_groups: int,
    group_time: float,
    seed: tuple[int, ...],
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the raw ramps of an exposure by blocks of rows.

    Parameters
    ----------
    truth : Truth
    instrument : Instrument
    effects : Effects
    n_integrations, n_groups : int
    group_time : float [s]
    seed : tuple of int
        Numbers that name the exposure; the same numbers give the same ramps.

    Yields
    ------
    first row, array (integration, group, row, x) of uint16 [DN]
    """
    from ._exposure_kernels import MAPS, fill_rows

    rng = np.random.default_rng([*seed, 5])
    detector = instrument.detector
    rays = make_cosmic_rays(rng, effects.cosmic_rays, n_integrations, n_groups, group_time)
    hits = np.stack([rays.group, rays.x, rays.electrons], axis=1).astype(float)
    drift = np.cumsum(rng.normal(0.0, 1.0, (n_integrations, n_groups, 4, 2)), axis=1) * effects.drift
    dark_rate = detector.dark_rate.copy()
    fresh = np.random.default_rng([seed[0], 7, sorted(mrs.DETECTORS).index(detector.detector)])
    y, x = fresh.integers(0, 1024, effects.new_hot_pixels), fresh.integers(4, 1028, effects.new_hot_pixels)
    dark_rate[y, x] += fresh.lognormal(1.5, 1.0, effects.new_hot_pixels)
    lit = np.zeros((n_integrations, n_groups))
    if effects.first_groups:
        lit[0, 0] = _FIRST_GROUP
        lit[1:] = _DECAY[0] * np.exp(-np.arange(n_groups) / _DECAY[1])
    lit[:, -1] += _LAST_GROUP * float(effects.last_frame)
    settle, reset = (getattr(detector, f"{name}_shape")(n_integrations, n_groups) for name in ("settle", "reset"))
    shapes = np.stack([settle, reset, lit])
    emi = np.array([effects.emi, 10.039216, rng.uniform(0, 2 * np.pi)])
    noise = float(effects.read_noise)
    maps = {"signal": truth.slope, "dark_rate": dark_rate, "full_well": _FULL_WELL * detector.saturation,
            "read_noise": noise * detector.read_noise}  # fmt: skip
    maps |= {name: getattr(detector, name) for name in MAPS if name not in maps}
    showers = _showers(np.random.default_rng([*seed, 13]), effects.showers, n_integrations, n_groups)
    timing = np.array([group_time, float(effects.photon_noise)])
    row_seed = np.random.SeedSequence([*seed, 11]).generate_state(1, np.uint64)[0]
    for low in range(0, mrs.DETECTOR_SHAPE[0], BLOCK_ROWS):
        part = np.stack([maps[name][low : low + BLOCK_ROWS] for name in MAPS], axis=-1)
        block = np.empty((n_integrations, n_groups, *part.shape[:2]), dtype=np.uint16)
        fill_rows(
            block, low, row_seed, part, noise * _RESET_NOISE, shapes, drift, hits, rays.start, showers, emi, timing
        )
        yield low, block


def _showers(rng: np.random.Generator, count: int, n_integrations: int, n_groups: int) -> np.ndarray:
    """Return cosmic-ray showers: integration, group, y, x, sigma y, sigma x, electrons a group, decay in groups."""
    return np.stack(
        [
            rng.integers(0, n_integrations, count), rng.integers(0, n_groups, count), rng.uniform(0, 1024, count),
            rng.uniform(0, 1032, count), rng.uniform(10, 40, count), rng.uniform(15, 60, count),
            rng.uniform(40, 250, count), rng.uniform(2, 8, count),
        ], axis=1,
    ).astype(float).reshape(count, 8)  # fmt: skip
