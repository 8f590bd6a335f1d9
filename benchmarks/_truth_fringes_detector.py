"""Fringes on the detector: scenes and fringes of this file, on the flight geometry; what is left, which lines are kept.

A point source with a lopsided PSF stands before light that rises across the field. Each has fringes of its own, of
three periods at once (2.74, 2.89 and 3.08 1/cm), whose depth and phase drift along the slice, from slice to slice and
with wavelength, faster than linearly; in channels 3 and 4 those of the dichroics besides (0.383, 0.411 1/cm). Continua
have a silicate feature and bumps as wide as a fringe or two. Errors as given are 10 % off. Nothing of it is shared with
``mrsxr.simulate``, but for the geometry.

What is left: the noiseless fringed image over the factor found and the clean image, less a cubic along each column; of
pixels, and of spectra, in which the columns of the brightest slice are brought to one wavelength and summed. Lines:
as in _truth_fringes_cubes, the image corrected with them less that without, against the lines divided by the factor
found without them, over the columns of the source in a slice.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _truth_fringes import LIGHT_SPEED

SETTINGS = ("12A", "34A", "34C")
SIGMAS, SHARES = (60.0, 120.0, 250.0), (0.05, 0.1, 0.3)
SPEED = 150.0  # km/s at 1 arcsec: lines turn over the source
PARTS = ((2.89, 0.022, 0.7), (2.74, 0.012, -0.5), (3.08, 0.008, 1.1))  # period [1/cm], amplitude, drift [rad/arcsec]
DICHROIC = ((0.411, 0.008, 0.4), (0.383, 0.004, -0.6))

#: What "slices" gave before it had to prove its gain.
BEFORE = {
    "12A channel 1, S/N 5-15: fringes left": "0.23 % (none 0.23)",
    "12A channel 1, S/N 15-50: fringes left": "0.34 % (none 0.55)",
    "12A channel 1, S/N 50-100000: fringes left": "0.57 % (none 1.77)",
    "12A channel 2, S/N 15-50: fringes left": "0.35 % (none 0.53)",
    "12A channel 2, S/N 50-100000: fringes left": "0.46 % (none 1.19)",
    "12A channel 1, lines of 60 km/s: kept, shift": "0.899 0.9834 1.060; 6.2 km/s",
    "12A channel 2, lines of 60 km/s: kept, shift": "0.878 0.9885 1.106; 8.1 km/s",
    "12A channel 1, lines of 120 km/s: kept, shift": "0.961 0.9935 1.020; 7.8 km/s",
    "12A channel 2, lines of 120 km/s: kept, shift": "0.878 0.9834 1.125; 18.6 km/s",
    "12A channel 1, lines of 250 km/s: kept, shift": "0.998 1.0000 1.002; 1.3 km/s",
    "12A channel 2, lines of 250 km/s: kept, shift": "0.982 0.9976 1.009; 15.0 km/s",
    "34A channel 3, S/N 15-50: fringes left": "0.33 % (none 0.42)",
    "34A channel 3, S/N 50-100000: fringes left": "0.47 % (none 0.75)",
    "34A channel 4, S/N 5-15: fringes left": "0.48 % (none 0.48)",
    "34A channel 4, S/N 15-50: fringes left": "0.31 % (none 0.43)",
    "34A channel 4, S/N 50-100000: fringes left": "0.25 % (none 0.64)",
    "34A channel 3, lines of 60 km/s: kept, shift": "0.897 0.9931 1.062; 6.4 km/s",
    "34A channel 4, lines of 60 km/s: kept, shift": "0.919 0.9938 1.033; 1.6 km/s",
    "34A channel 3, lines of 120 km/s: kept, shift": "0.731 0.9827 1.094; 15.8 km/s",
    "34A channel 4, lines of 120 km/s: kept, shift": "0.896 0.9869 1.028; 4.3 km/s",
    "34A channel 3, lines of 250 km/s: kept, shift": "0.909 0.9901 1.089; 77.1 km/s",
    "34A channel 4, lines of 250 km/s: kept, shift": "0.787 0.9503 1.030; 37.7 km/s",
    "34C channel 3, S/N 15-50: fringes left": "0.31 % (none 0.38)",
    "34C channel 3, S/N 50-100000: fringes left": "0.40 % (none 0.65)",
    "34C channel 4, S/N 15-50: fringes left": "0.35 % (none 0.44)",
    "34C channel 4, S/N 50-100000: fringes left": "0.22 % (none 0.61)",
    "34C channel 3, lines of 60 km/s: kept, shift": "0.873 0.9923 1.066; 6.3 km/s",
    "34C channel 4, lines of 60 km/s: kept, shift": "0.956 0.9975 1.026; 1.5 km/s",
    "34C channel 3, lines of 120 km/s: kept, shift": "0.834 0.9839 1.168; 18.0 km/s",
    "34C channel 4, lines of 120 km/s: kept, shift": "0.905 0.9933 1.027; 7.6 km/s",
    "34C channel 3, lines of 250 km/s: kept, shift": "0.740 0.9692 1.193; 68.4 km/s",
    "34C channel 4, lines of 250 km/s: kept, shift": "0.804 0.9630 1.070; 39.0 km/s",
    "trace 34A channel 3, corrected: detector": "0.37 %, line 4.2 %",
    "trace 34A channel 3, corrected: spectrum": "0.16 %, line 6.2 %",
    "trace 34A channel 3, corrected: both": "0.17 %, line 11.6 %",
    "trace 34A channel 4, corrected: detector": "0.07 %, line 10.9 %",
    "trace 34A channel 4, corrected: spectrum": "0.04 %, line 14.7 %",
    "trace 34A channel 4, corrected: both": "0.05 %, line 15.6 %",
}


@dataclass
class Frame:
    """One image without noise, with and without fringes, its noise, and its labelled form."""

    setting: str
    clean: np.ndarray
    fringed: np.ndarray
    noise: np.ndarray
    ds: object
    fringefreq: object

    def corrected(self, flux: np.ndarray, method: str) -> np.ndarray:
        """Return an image (y, x) without the fringes found."""
        from mrsxr.cal.residual_fringe import correct_residual_fringe

        if method == "none":
            return flux
        ds = self.ds.assign(flux=(self.ds.flux.dims, flux[None].astype("f4"), self.ds.flux.attrs))
        return correct_residual_fringe(ds, fringefreq=self.fringefreq, method=method).flux.values[0].astype(float)

    def columns(self):
        """Yield (slice, column, rows) of the columns with 100 samples or more."""
        labels = self.ds.slice.values
        for label in np.unique(labels[labels > 0]):
            inside = (labels == label) & np.isfinite(self.clean)
            for x in np.flatnonzero(inside.sum(axis=0) >= 100):
                yield int(label), int(x), np.flatnonzero(inside[:, x])


def fringes(wave, alpha, label, channel, phase: float, depth: float):
    """Return 1 + fringes of one kind of light."""
    number = 1e4 / wave
    t = (wave - np.nanmean(wave)) / np.ptp(wave[np.isfinite(wave)])  # -0.5 ... 0.5
    out = np.zeros_like(wave)
    for period, amplitude, drift in PARTS + (DICHROIC if channel > 2 else ()):
        slow = drift * alpha + 0.15 * alpha**2 + 1.2 * np.sin(2.5 * label) + phase * (1 + 4 * t**2) + 2.0 * t**3
        height = amplitude * depth * (1 + 0.3 * np.sin(3 * t + alpha) + 0.1 * alpha)
        out += height * np.cos(2 * np.pi * number / period + slow)
    return 1 + out


def continuum(wave, flux: float):
    """Return a spectrum that falls, with a silicate feature and bumps."""
    x = wave / 10.0
    bumps = sum(
        a * np.exp(-0.5 * ((wave - w) / (0.012 * w)) ** 2)
        for a, w in ((0.3, 6.2), (0.4, 7.7), (0.2, 11.3), (0.1, 17.4))
    )
    return flux * x**-1.2 * (1 + bumps) * (1 - 0.35 * np.exp(-0.5 * ((wave - 9.8) / 1.1) ** 2))


def psf(alpha, beta, wave):
    """Return a lopsided image of a point, 1 at its peak: a core, a wing and a lobe to one side."""
    width = 0.033 * wave + 0.11
    r = np.hypot(alpha - 0.3, beta - 0.1) / width
    lobe = np.hypot(alpha - 0.3 - 1.1 * width, beta - 0.1 + 0.6 * width) / width
    return 0.9 * np.exp(-4 * np.log(2) * r**2) + 0.1 / (1 + r**2) ** 1.3 + 0.12 * np.exp(-4 * np.log(2) * lobe**2)


def make(setting: str, shared: Path, *, point: float, surface: float) -> Frame:
    """Make a frame. point : MJy/sr at 10 um at the peak; surface : MJy/sr of the light around."""
    from stage2_fringes import _labelled, write_frequencies

    from mrsxr.references import read_reference
    from mrsxr.simulate import instrument

    geometry = instrument.load_geometry(setting, shared / "data" / "coords_flt9")
    with tempfile.TemporaryDirectory() as folder:
        frequencies = read_reference(write_frequencies(Path(folder) / "fringefreq.fits", setting), "fringefreq").load()
    blank = np.zeros((1024, 1032))
    ds = _labelled(setting, blank, blank, geometry)
    labels, wave = ds.slice.values, np.where(ds.slice.values > 0, ds.wavelength.values, np.nan)
    alpha, beta = ds.alpha.values.astype(float), ds.beta.values.astype(float)
    clean, fringed = np.full(wave.shape, np.nan), np.full(wave.shape, np.nan)
    for label in np.unique(labels[labels > 0]):
        at = labels == label
        w, a, channel = wave[at], alpha[at], int(label) // 100
        star = continuum(w, point) * psf(a, beta[at], w)
        light = continuum(w, surface) * (1 + 0.15 * a + 0.1 * beta[at]) * (w / 10.0) ** 2.5
        clean[at] = star + light
        fringed[at] = star * fringes(w, a, label, channel, 1.9, 1.0) + light * fringes(w, a, label, channel, 0.4, 0.3)
    noise = np.sqrt(np.maximum(clean, 0) * 0.02 + 0.8**2)
    dims = ("dither", "y", "x")
    planes = {"flux": fringed, "var_poisson": (1.1 * noise) ** 2}
    ds = ds.assign({k: (dims, v[None].astype("f4"), ds[k].attrs) for k, v in planes.items()})
    ds["dq"] = (dims, np.where(np.isfinite(clean), 0, 1)[None].astype("u4"), ds.dq.attrs)
    return Frame(setting, clean, fringed, noise, ds, frequencies)


def left_of(frame: Frame, factor: np.ndarray) -> np.ndarray:
    """Return what is left of the fringes, relative, less a cubic along each column."""
    out, left = np.full(factor.shape, np.nan), frame.fringed / factor / frame.clean - 1.0
    for _, x, rows in frame.columns():
        t = rows / 512.0 - 1.0
        out[rows, x] = left[rows, x] - np.polyval(np.polyfit(t, left[rows, x], 3), t)
    return out


def add_lines(frame: Frame, sigma: float, share: float, which: slice) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Return lines (y, x) that turn over the source, and their wavelengths by channel: some of 20 in each."""
    wave, channels, places = frame.ds.wavelength.values, frame.ds.channel.values, {}
    lines = np.zeros(wave.shape)
    speed = np.clip(SPEED * frame.ds.alpha.values.astype(float), -2 * SPEED, 2 * SPEED)
    for channel in (int(c) for c in frame.setting[:2]):
        here = channels == channel
        low, high = np.quantile(wave[here], [0.03, 0.97])
        places[channel] = (low + (high - low) * (np.arange(20) + 0.5) / 20)[which]
        for at in places[channel]:
            centre = at * (1 + speed / LIGHT_SPEED)
            lines += np.where(here, np.exp(-0.5 * ((wave / centre - 1) / (sigma / LIGHT_SPEED)) ** 2), 0.0)
    return share * np.nan_to_num(lines * frame.clean), places


def fit_line(wave, speed, found, wanted, at: float, sigma: float) -> tuple[float, float] | None:
    """Return (share, shift [km/s]) of a line over the pixels given: fits the wanted line, its slope and a level."""
    v = (wave / at - 1) * LIGHT_SPEED - speed
    near = np.abs(v) < 4 * sigma
    if not wanted[near].any():
        return None
    height = np.median(wanted[near] / np.exp(-0.5 * (v[near] / sigma) ** 2))
    design = np.stack([wanted[near], wanted[near] * v[near] / sigma**2, np.full(near.sum(), height)], axis=1)
    share, slope, _ = np.linalg.lstsq(design, found[near], rcond=None)[0]
    return float(share), float(slope / share)


def lines_kept(frame: Frame, flux, plain, method: str, quick: bool) -> dict[tuple, list]:
    """Return [(share kept, shift)] by (channel, sigma) over slices with the source and 20 (quick: 4) places."""
    out: dict[tuple, list] = {}
    wave, labels = frame.ds.wavelength.values, frame.ds.slice.values
    speed = np.clip(SPEED * frame.ds.alpha.values.astype(float), -2 * SPEED, 2 * SPEED)
    core = (frame.clean / frame.noise > 10) & (labels > 0)
    chosen = [k for k in np.unique(labels[core]) if (core & (labels == k)).sum() > 500]
    for i, sigma in enumerate(SIGMAS):
        for which in (slice(2, None, 5),) if quick else (slice(k, None, 5) for k in range(5)):
            share = SHARES[(i + (which.start or 0)) % 3]
            lines, places = add_lines(frame, sigma, share, which)
            lines = lines * frame.fringed / frame.clean
            found = frame.corrected(flux + lines, method) - plain
            wanted = lines * plain / flux
            for label in chosen:
                use = core & (labels == label) & np.isfinite(found)
                for at in places[int(label) // 100]:
                    pair = fit_line(wave[use], speed[use], found[use], wanted[use], at, sigma)
                    if pair is not None:
                        out.setdefault((int(label) // 100, sigma), []).append(pair)
    return out


def trace(frame: Frame, image: np.ndarray, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (wavelength, sum) of the columns of a slice that hold the core of the source, on one grid."""
    wave, inside = frame.ds.wavelength.values, frame.ds.slice.values == label
    bright = np.where(inside, frame.clean, 0.0)
    columns = np.flatnonzero(np.nanmedian(bright, axis=0) > 0.3 * np.nanmax(np.nanmedian(bright, axis=0)))
    each = []
    for x in columns:
        rows = np.flatnonzero(inside[:, x] & np.isfinite(frame.clean[:, x]))
        order = rows[np.argsort(wave[rows, x])]
        each.append((wave[order, x], image[order, x]))
    low, high = max(w[0] for w, _ in each), min(w[-1] for w, _ in each)
    grid = np.linspace(low, high, 1000)
    return grid, sum(np.interp(grid, w, v) for w, v in each)


def twice(frame: Frame, flux, plain, method: str) -> dict[int, dict[str, tuple[float, float]]]:
    """Return by channel (fringes left [%], worst loss of a line [%]) of the brightest trace.

    With nothing done, corrected on the detector, in the spectrum, and on the detector and then in the spectrum.
    """
    from mrsxr.fringes import correct_spectra

    out: dict[int, dict[str, tuple[float, float]]] = {}
    labels = frame.ds.slice.values
    lines, places = add_lines(frame, 120.0, 0.1, slice(2, None, 5))
    lines = lines * frame.fringed / frame.clean
    image = {"none": flux, "detector": plain}
    lit = {"none": flux + lines, "detector": frame.corrected(flux + lines, method)}
    for channel in (int(c) for c in frame.setting[:2]):
        of = [k for k in np.unique(labels) if k // 100 == channel]
        label = max(of, key=lambda k: np.nansum(np.where(labels == k, frame.clean, 0.0)))
        wave, clean = trace(frame, frame.clean, label)
        found = {}
        for name in ("none", "detector"):
            raw, bright = trace(frame, image[name], label)[1], trace(frame, lit[name], label)[1]
            bare = trace(frame, frame.fringed * image[name] / flux, label)[1]
            alone = trace(frame, lines * image[name] / flux, label)[1]
            found[name] = _judged(wave, clean, bare, bright - raw, alone, places[channel])
            once, again = (correct_spectra(wave, v, channel=channel, method=method)[0] for v in (raw, bright))
            factor = raw / once
            key = {"none": "spectrum", "detector": "both"}[name]
            found[key] = _judged(wave, clean, bare / factor, again - once, alone / factor, places[channel])
        out[channel] = found
    return out


def _judged(wave, clean, bare, found, alone, places) -> tuple[float, float]:
    """Return (rms left, worst change of a line) [%] of a spectrum."""
    t = np.linspace(-1, 1, wave.size)
    left = bare / clean - 1
    left = left - np.polyval(np.polyfit(t, left, 3), t)
    near = [np.abs(wave / at - 1) * LIGHT_SPEED < 2.5 * 120.0 for at in places]
    worst = max(abs(found[k].sum() / alone[k].sum() - 1) for k in near if k.any())
    return 100 * float(np.std(left[20:-20])), 100 * float(worst)


def add_twice(table, frame: Frame, flux, plain) -> None:
    """Add rows on one correction after the other."""
    base, ours = (twice(frame, flux, plain[m], m) for m in ("columns", "slices"))
    for channel, found in ours.items():
        for name in ("detector", "spectrum", "both"):
            text = [f"{v[name][0]:.2f} %, line {v[name][1]:.1f} %" for v in (base[channel], found)]
            good = found[name][0] <= found["none"][0] and found[name][1] < 3
            figure = f"trace {frame.setting} channel {channel}, corrected: {name}"
            table.add(f"{figure} (none {found['none'][0]:.2f} %)", text[1], "<= none, < 3 %", good, baseline=text[0],
                      before=BEFORE.get(figure, ""))  # fmt: skip


def run(table, shared, quick):
    """Add the figures of the detector to the table."""
    if shared is None:
        return
    for setting in SETTINGS[1:2] if quick else SETTINGS:
        frame = make(setting, shared, point=900.0, surface=60.0)
        flux = frame.fringed + frame.noise * np.random.default_rng(5).standard_normal(frame.noise.shape)
        plain = {m: frame.corrected(flux, m) for m in ("none", "columns", "slices")}
        left = {m: left_of(frame, flux / v) for m, v in plain.items()}
        snr, channels = frame.clean / frame.noise, frame.ds.channel.values
        for channel in (int(c) for c in setting[:2]):
            for low, high in ((5, 15), (15, 50), (50, 1e5)):
                at = (channels == channel) & (snr >= low) & (snr < high)
                rms = {m: 100 * float(np.sqrt(np.nanmean(v[at] ** 2))) for m, v in left.items() if at.any()}
                if rms and np.isfinite(rms["none"]):
                    figure = f"{setting} channel {channel}, S/N {low}-{high:g}: fringes left"
                    text = f"{rms['slices']:.2f} % (none {rms['none']:.2f})"
                    table.add(f"detector {figure}", text, "<= columns, none",
                              rms["slices"] <= min(rms["columns"], rms["none"]) + 0.01,
                              baseline=f"{rms['columns']:.2f} %", before=BEFORE.get(figure, ""))  # fmt: skip
        add_twice(table, frame, flux, plain)
        kept = {m: lines_kept(frame, flux, plain[m], m, quick) for m in ("columns", "slices")}
        for key in kept["slices"]:
            base, ours = (np.array(kept[m][key]).T for m in ("columns", "slices"))
            text = [
                f"{v[0].min():.3f} {v[0].mean():.4f} {v[0].max():.3f}; {np.abs(v[1]).max():.1f} km/s"
                for v in (base, ours)
            ]
            good = ours[0].min() > 0.97 and ours[0].max() < 1.03 and np.abs(ours[1]).max() < 2
            figure = f"{setting} channel {key[0]}, lines of {key[1]:.0f} km/s: kept, shift"
            table.add(f"detector {figure}", text[1], "0.97-1.03, < 2 km/s", good, baseline=text[0],
                      before=BEFORE.get(figure, ""))  # fmt: skip
