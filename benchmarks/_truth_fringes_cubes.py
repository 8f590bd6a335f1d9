"""Fringes of real cubes: lines put into NGC 7469 (4A, 4B, 4C), 16 Cyg B (4A) and VV 114, what is kept and what is left.

What the correction makes of a line is the corrected data with it less those without it; it is compared with the line
divided by the fringes found without it, so that fringes at the place of the line do not count as a loss. Shapes:
"even", the same share of the continuum in every spaxel; "turning", the same with velocities that run over +-150 km/s
across the field, so that a line moves from spaxel to spaxel as the phase of a fringe does; "clump", a point source of
the line alone beside the nucleus, as bright as the share says of the continuum below it, judged where it is 3 % of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from _truth_fringes import LIGHT_SPEED, fringe_rms, inject, kept
from scipy.ndimage import median_filter

REDSHIFT = {"ngc7469": 0.0163, "16CygB": 0.0}
LINES = (17.885, 17.936, 18.713, 21.829, 22.925, 24.318, 25.890, 25.988, 28.219)  # um at rest, of galaxies
REAL = {"4A": (("[S III]", 18.713),), "4C": (("[Ne V]", 24.318), ("[O IV]", 25.890))}
LEAST = 0.03  # of the continuum, peak of a line that is judged
SIGMAS, SHARES, SHAPES = (60.0, 120.0, 250.0), (0.05, 0.1, 0.3), ("even", "turning", "clump")
FILES = {"4A": "s3d_ngc7469/NGC7469_ch4-short_s3d.fits.gz", "4B": "s3d_ngc7469/NGC7469_ch4-medium_s3d.fits.gz",
         "4C": "s3d_ngc7469/NGC7469_ch4-long_s3d.fits.gz",
         "star 4A": "s3d_example/16CygB_ch4-short_s3d_cutout.fits.gz"}  # fmt: skip
LONGEST = 27.4  # um; beyond, nothing is corrected
SPEED = 150.0  # km/s at the edge of the field, of "turning"
CLUMP = 0.8  # arcsec, FWHM of "clump"


@dataclass
class Made:
    """A cube as arrays: wavelength [um], flux (spaxel, sample), error; place of the spaxels [arcsec] from the peak."""

    path: Path
    cube: xr.Dataset
    wave: np.ndarray
    flux: np.ndarray
    east: np.ndarray
    north: np.ndarray
    bright: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Made:
        """Read a file of jwst."""
        import mrsxr as mx

        cube = mx.load(path).compute()
        flux = _rows(cube.flux.values.astype(float))
        image = np.nanmedian(flux, axis=1)
        y, x = np.meshgrid(cube.y.values, cube.x.values, indexing="ij")
        peak = int(np.nanargmax(image))
        with np.errstate(invalid="ignore", divide="ignore"):
            bright = np.nanmedian(flux / np.sqrt(_rows(cube["var"].values)), axis=1) >= 3.0
        bright &= np.mean(np.isfinite(flux), axis=1) > 0.95
        return cls(path, cube, cube.wavelength.values, flux, x.ravel() - x.ravel()[peak], y.ravel() - y.ravel()[peak],
                   bright)  # fmt: skip

    def with_flux(self, flux: np.ndarray) -> xr.Dataset:
        """Return the cube of another flux (spaxel, sample)."""
        values = flux.T.reshape(self.cube.flux.shape).astype(np.float32)
        return self.cube.assign(flux=(self.cube.flux.dims, values, self.cube.flux.attrs))

    def apertures(self) -> dict[str, np.ndarray]:
        """Return masks of spaxels: circles about the peak and beside it, and the whole field."""
        circles = {"r 0.5": (0, 0, 0.5), "r 1": (0, 0, 1.0), "r 2": (0, 0, 2.0), "beside": (1.2, 0.9, 0.8)}
        out = {k: np.hypot(self.east - e, self.north - n) <= r for k, (e, n, r) in circles.items()}
        return {k: m & self.bright for k, m in (out | {"field": self.bright}).items()}


def _rows(values: np.ndarray) -> np.ndarray:
    """Return (wavelength, y, x) as (spaxel, sample)."""
    return values.reshape(len(values), -1).T


def lines_of(made: Made, shape: str, places, sigma: float, share: float) -> np.ndarray:
    """Return lines (spaxel, sample) at places [um]."""
    level = median_filter(np.nan_to_num(made.flux), (1, 41), mode="nearest")
    if shape == "turning":
        speed = SPEED * made.east / np.max(np.abs(made.east))
        return np.stack([
            inject(made.wave, one, np.asarray(places) * (1 + v / LIGHT_SPEED), sigma, share)
            for one, v in zip(level, speed, strict=True)
        ])  # fmt: skip
    out = inject(made.wave, level, places, sigma, share)
    if shape == "clump":
        middle = np.argmin(np.hypot(made.east - 1.2, made.north - 0.9))
        reach = np.hypot(made.east - made.east[middle], made.north - made.north[middle]) / CLUMP
        out = out[middle] * np.exp(-4 * np.log(2) * reach[:, None] ** 2)
    return out


def in_cube(made: Made, flux: np.ndarray, method: str) -> np.ndarray:
    """Return the cube (spaxel, sample) corrected spaxel by spaxel."""
    from mrsxr.cube.residual_fringe import correct_residual_fringe_cube

    return _rows(correct_residual_fringe_cube(made.with_flux(flux), method=method).flux.values.astype(float))


def in_spectra(made: Made, flux: np.ndarray, method: str) -> np.ndarray:
    """Return the spectra (aperture, sample) of the apertures, each corrected by itself."""
    from mrsxr.fringes import correct_spectra

    channel = int(made.cube.attrs["band"][0])
    variance = np.nan_to_num(_rows(made.cube["var"].values.astype(float)))
    out = []
    for mask in made.apertures().values():
        total, error = np.nansum(flux[mask], axis=0), np.sqrt(variance[mask].sum(axis=0))
        out.append(correct_spectra(made.wave, total, error, channel=channel, method=method)[0])
    return np.stack(out)


def summed(made: Made, flux: np.ndarray) -> np.ndarray:
    """Return the plain sums (aperture, sample)."""
    return np.stack([np.nansum(flux[mask], axis=0) for mask in made.apertures().values()])


def places_of(made: Made, quick: bool) -> list[np.ndarray]:
    """Return groups of wavelengths: 20 in a band, of which every fifth is put in together."""
    low, high = made.wave[0], min(made.wave[-1], LONGEST)
    at = low + (high - low) * (0.04 + 0.92 * (np.arange(20) + 0.5) / 20)
    return [at[2::5]] if quick else [at[i::5] for i in range(5)]


def judge(made: Made, method: str, quick: bool) -> dict[tuple, np.ndarray]:
    """Return (share kept, shift, ratio of widths) (3, n) by (what, sigma, share of the continuum, shape).

    What: "spaxels" of a corrected cube, "sums" of them over apertures, "spectra": corrected after the sum. A line that
    is divided by the fringes found without it is kept as a whole.
    """
    wrappers = {"cube": in_cube, "spectra": in_spectra}
    without = {k: f(made, made.flux, method) for k, f in wrappers.items()}
    plain = {"cube": made.flux, "spectra": summed(made, made.flux)}
    with np.errstate(invalid="ignore", divide="ignore"):
        left = {k: np.where(plain[k] != 0, without[k] / plain[k], 1.0) for k in wrappers}  # 1 / (1 + fringes found)
    out: dict[tuple, list] = {}
    cases = [(s, p, SHAPES[(i + j) % 3]) for i, s in enumerate(SIGMAS) for j, p in enumerate(SHARES)]
    for sigma, share, shape in cases[::4] if quick else cases:
        for places in places_of(made, quick):
            lines = lines_of(made, shape, places, sigma, share)
            found = {k: f(made, made.flux + lines, method) - without[k] for k, f in wrappers.items()}
            alone = {"cube": lines * left["cube"], "spectra": summed(made, lines) * left["spectra"]}
            total = summed(made, lines)
            for at in places:
                some = np.flatnonzero(made.bright & _seen(made, lines, made.flux, at))
                wide = _seen(made, total, plain["spectra"], at)
                sums = [summed(made, part["cube"])[wide] for part in (found, alone)]
                spectra = [part["spectra"][wide] for part in (found, alone)]
                got = {
                    "spaxels": _kept(made, found["cube"][some], alone["cube"][some], at, sigma, shape, some),
                    "sums": kept(made.wave, *sums, at, sigma),
                    "spectra": kept(made.wave, *spectra, at, sigma),
                }
                for what, values in got.items():
                    out.setdefault((what, sigma, share, shape), []).append(values)
    return {key: np.concatenate(values, axis=1) for key, values in out.items()}


def _seen(made, lines, flux, at):
    """Return where (spaxel) the line at a wavelength is high enough above the continuum."""
    near = np.abs(made.wave / at - 1) * LIGHT_SPEED < 2 * SPEED
    return lines[:, near].max(axis=1) > LEAST * np.nanmedian(flux, axis=1)


def _kept(made, found, lines, at, sigma, shape, some):
    if shape != "turning":
        return kept(made.wave, found, lines, at, sigma)
    out, speed = np.empty((3, some.size)), SPEED * made.east[some] / np.max(np.abs(made.east))
    for v in np.unique(speed):
        here = speed == v
        out[:, here] = kept(made.wave, found[here], lines[here], at * (1 + v / LIGHT_SPEED), sigma)
    return out


def line_free(made: Made) -> np.ndarray:
    """Return where no line of the galaxy is (sample), and what is corrected at all."""
    redshift = next((z for name, z in REDSHIFT.items() if name in str(made.path)), 0.0)
    lines = np.array(LINES if redshift else ()) * (1 + redshift)
    off = np.abs(made.wave[:, None] / lines - 1) * LIGHT_SPEED
    return (made.wave < LONGEST) & (off > 700.0).all(axis=1)


def rms_left(made: Made, method: str) -> dict[str, float]:
    """Return the rms of what is left [%], line-free and high-passed: of spaxels (median) and aperture spectra."""
    cube = made.flux if method == "none" else in_cube(made, made.flux, method)
    spectra = summed(made, made.flux) if method == "none" else in_spectra(made, made.flux, method)
    free = line_free(made)
    return {
        "spaxels": 100 * float(np.median(fringe_rms(made.wave, cube[made.bright], free))),
        "sums": 100 * float(np.mean(fringe_rms(made.wave, summed(made, cube), free))),
        "spectra": 100 * float(np.mean(fringe_rms(made.wave, spectra, free))),
    }


def real_line(made: Made, rest: float, method: str) -> tuple[float, ...]:
    """Return the shares kept of a real line of the nucleus (0.5 arcsec): corrected spaxels, corrected spectrum."""
    at = rest * (1 + REDSHIFT["ngc7469"])
    before = summed(made, made.flux)[:1]
    both = summed(made, in_cube(made, made.flux, method))[:1], in_spectra(made, made.flux, method)[:1]
    return tuple(float(kept(made.wave, after, before, at, 180.0)[0, 0]) for after in both)


def told(values: np.ndarray) -> str:
    """Return least, 1st percentile, mean, 99th percentile and largest share kept."""
    low, first, last, high = np.quantile(values, [0.0, 0.01, 0.99, 1.0])
    return f"{low:.2f} [{first:.3f} {np.clip(values, -1.0, 3.0).mean():.4f} {last:.3f}] {high:.2f}"


def of_galaxy(shared: Path, band: str, method: str, quick: bool) -> np.ndarray:
    """Return (share kept, shift, ratio of widths) (3, n) of lines put into the spectrum of VV 114 of a band."""
    from astropy.io import fits

    from mrsxr.fringes import correct_spectra

    name = {"A": "SHORT", "B": "MEDIUM", "C": "LONG"}[band[1]]
    data = fits.getdata(shared / "data" / "vv114" / f"VV114_MIRI_ch{band[0]}_{name}_s1d.fits", 1)
    wave, flux, error = (np.asarray(data[key], dtype=float) for key in data.names[:3])
    scale = np.nanmedian(flux) / 1e4

    def corrected(values):
        return correct_spectra(wave, values / scale, error / scale, channel=int(band[0]), method=method)[0] * scale

    level, plain = median_filter(np.nan_to_num(flux), 41, mode="nearest"), corrected(flux)
    low, high = wave[0], min(wave[-1], LONGEST)
    at, out = low + (high - low) * (0.04 + 0.92 * (np.arange(20) + 0.5) / 20), []
    for sigma, share in ((s, p) for s in SIGMAS for p in SHARES[:: 2 if quick else 1]):
        for places in (at[i::5] for i in range(2, 3 if quick else 5)):
            line = inject(wave, level, places, sigma, share)
            found = corrected(flux + line) - plain
            out += [kept(wave, found, line * plain / flux, one, sigma) for one in places]
    return np.stack(out, axis=1)


#: What "slices" gave before it had to prove its gain, with --quick.
BEFORE = {
    "4A spaxels, sigma 60 km/s: flux kept": "-1.22 [0.262 0.9950 1.989] 21.49",
    "4A spaxels, sigma 60 km/s: shift, width": "124.10 km/s 399.1 %",
    "4A spaxels, sigma 120 km/s: flux kept": "0.83 [0.836 0.9717 1.075] 1.10",
    "4A spaxels, sigma 120 km/s: shift, width": "4.98 km/s 8.3 %",
    "4A spaxels, sigma 250 km/s: flux kept": "0.16 [0.591 0.9113 1.454] 3.04",
    "4A spaxels, sigma 250 km/s: shift, width": "338.92 km/s 187.8 %",
    "4A sums, sigma 60 km/s: flux kept": "0.97 [0.971 0.9885 1.016] 1.02",
    "4A sums, sigma 60 km/s: shift, width": "1.33 km/s 4.3 %",
    "4A sums, sigma 120 km/s: flux kept": "0.96 [0.957 0.9641 0.972] 0.97",
    "4A sums, sigma 120 km/s: shift, width": "0.75 km/s 2.0 %",
    "4A sums, sigma 250 km/s: flux kept": "0.87 [0.868 0.9135 0.951] 0.95",
    "4A sums, sigma 250 km/s: shift, width": "13.29 km/s 4.6 %",
    "4A spectra, sigma 60 km/s: flux kept": "0.85 [0.849 0.9635 1.017] 1.02",
    "4A spectra, sigma 60 km/s: shift, width": "5.57 km/s 20.7 %",
    "4A spectra, sigma 120 km/s: flux kept": "0.98 [0.977 0.9866 1.003] 1.00",
    "4A spectra, sigma 120 km/s: shift, width": "9.05 km/s 4.2 %",
    "4A spectra, sigma 250 km/s: flux kept": "0.72 [0.728 0.8621 1.007] 1.01",
    "4A spectra, sigma 250 km/s: shift, width": "43.99 km/s 8.7 %",
    "4A spaxels: fringe rms left": "4.12 % (none 4.20)",
    "4A sums: fringe rms left": "0.62 % (none 0.68)",
    "4A spectra: fringe rms left": "0.62 % (none 0.68)",
    "4A nucleus [S III] kept: cube, spectrum": "0.978 0.938",
    "4B spaxels, sigma 60 km/s: flux kept": "0.14 [0.617 1.0007 1.665] 18.12",
    "4B spaxels, sigma 60 km/s: shift, width": "216.20 km/s 402.6 %",
    "4B spaxels, sigma 120 km/s: flux kept": "0.71 [0.725 0.9724 1.227] 1.33",
    "4B spaxels, sigma 120 km/s: shift, width": "6.17 km/s 14.5 %",
    "4B spaxels, sigma 250 km/s: flux kept": "0.14 [0.433 0.8906 1.332] 1.98",
    "4B spaxels, sigma 250 km/s: shift, width": "276.81 km/s 55.1 %",
    "4B sums, sigma 60 km/s: flux kept": "0.97 [0.967 0.9927 1.027] 1.03",
    "4B sums, sigma 60 km/s: shift, width": "3.15 km/s 10.5 %",
    "4B sums, sigma 120 km/s: flux kept": "0.94 [0.935 0.9687 1.017] 1.02",
    "4B sums, sigma 120 km/s: shift, width": "0.85 km/s 2.9 %",
    "4B sums, sigma 250 km/s: flux kept": "0.76 [0.761 0.8390 0.925] 0.93",
    "4B sums, sigma 250 km/s: shift, width": "28.04 km/s 9.9 %",
    "4B spectra, sigma 60 km/s: flux kept": "0.90 [0.903 0.9719 1.022] 1.02",
    "4B spectra, sigma 60 km/s: shift, width": "3.41 km/s 5.6 %",
    "4B spectra, sigma 120 km/s: flux kept": "0.91 [0.914 0.9694 1.013] 1.01",
    "4B spectra, sigma 120 km/s: shift, width": "0.69 km/s 4.0 %",
    "4B spectra, sigma 250 km/s: flux kept": "0.66 [0.669 0.8399 0.955] 0.96",
    "4B spectra, sigma 250 km/s: shift, width": "39.83 km/s 14.5 %",
    "4B spaxels: fringe rms left": "5.01 % (none 5.09)",
    "4B sums: fringe rms left": "0.65 % (none 0.96)",
    "4B spectra: fringe rms left": "0.66 % (none 0.96)",
    "4C spaxels, sigma 60 km/s: flux kept": "-0.29 [0.404 1.0295 3.915] 58.31",
    "4C spaxels, sigma 60 km/s: shift, width": "251.48 km/s 400.3 %",
    "4C spaxels, sigma 120 km/s: flux kept": "0.71 [0.747 0.9492 1.146] 1.17",
    "4C spaxels, sigma 120 km/s: shift, width": "9.40 km/s 14.3 %",
    "4C spaxels, sigma 250 km/s: flux kept": "-1.71 [0.075 0.6532 1.802] 26.45",
    "4C spaxels, sigma 250 km/s: shift, width": "1765.29 km/s 408.9 %",
    "4C sums, sigma 60 km/s: flux kept": "0.73 [0.731 0.9298 1.068] 1.08",
    "4C sums, sigma 60 km/s: shift, width": "7.28 km/s 15.2 %",
    "4C sums, sigma 120 km/s: flux kept": "0.91 [0.908 0.9763 1.024] 1.02",
    "4C sums, sigma 120 km/s: shift, width": "4.18 km/s 4.5 %",
    "4C sums, sigma 250 km/s: flux kept": "0.37 [0.373 0.6312 0.923] 0.93",
    "4C sums, sigma 250 km/s: shift, width": "30.23 km/s 31.4 %",
    "4C spectra, sigma 60 km/s: flux kept": "0.57 [0.597 0.8983 1.178] 1.20",
    "4C spectra, sigma 60 km/s: shift, width": "4.44 km/s 30.6 %",
    "4C spectra, sigma 120 km/s: flux kept": "0.69 [0.692 0.8771 1.144] 1.15",
    "4C spectra, sigma 120 km/s: shift, width": "9.46 km/s 13.2 %",
    "4C spectra, sigma 250 km/s: flux kept": "0.34 [0.341 0.6187 0.910] 0.91",
    "4C spectra, sigma 250 km/s: shift, width": "45.83 km/s 34.7 %",
    "4C spaxels: fringe rms left": "5.70 % (none 6.08)",
    "4C sums: fringe rms left": "0.74 % (none 1.16)",
    "4C spectra: fringe rms left": "0.83 % (none 1.16)",
    "4C nucleus [Ne V] kept: cube, spectrum": "0.731 0.824",
    "4C nucleus [O IV] kept: cube, spectrum": "0.940 0.925",
    "star 4A spaxels, sigma 60 km/s: flux kept": "0.21 [0.262 1.0265 5.501] 105.49",
    "star 4A spaxels, sigma 60 km/s: shift, width": "451.17 km/s 421.9 %",
    "star 4A spaxels, sigma 120 km/s: flux kept": "0.85 [0.862 0.9838 1.101] 1.11",
    "star 4A spaxels, sigma 120 km/s: shift, width": "6.12 km/s 10.8 %",
    "star 4A spaxels, sigma 250 km/s: flux kept": "0.15 [0.232 0.9631 2.538] 90.59",
    "star 4A spaxels, sigma 250 km/s: shift, width": "1796.41 km/s 392.2 %",
    "star 4A sums, sigma 60 km/s: flux kept": "0.88 [0.887 0.9782 1.038] 1.04",
    "star 4A sums, sigma 60 km/s: shift, width": "1.43 km/s 10.0 %",
    "star 4A sums, sigma 250 km/s: flux kept": "0.89 [0.893 0.9530 1.002] 1.01",
    "star 4A sums, sigma 250 km/s: shift, width": "8.05 km/s 3.6 %",
    "star 4A spectra, sigma 60 km/s: flux kept": "0.36 [0.429 1.0030 1.381] 1.41",
    "star 4A spectra, sigma 60 km/s: shift, width": "35.04 km/s 79.9 %",
    "star 4A spectra, sigma 250 km/s: flux kept": "0.59 [0.595 0.8799 1.076] 1.09",
    "star 4A spectra, sigma 250 km/s: shift, width": "38.24 km/s 16.0 %",
    "star 4A spaxels: fringe rms left": "9.10 % (none 9.53)",
    "star 4A sums: fringe rms left": "2.65 % (none 2.81)",
    "star 4A spectra: fringe rms left": "2.63 % (none 2.81)",
    "VV 114 channel 1: flux kept": "0.80 [0.825 0.9678 1.102] 1.16",
    "VV 114 channel 1: shift, width": "15.83 km/s 7.7 %",
    "VV 114 channel 2: flux kept": "0.42 [0.535 0.9064 1.250] 1.63",
    "VV 114 channel 2: shift, width": "101.09 km/s 76.4 %",
    "VV 114 channel 3: flux kept": "0.55 [0.655 0.9309 1.220] 1.28",
    "VV 114 channel 3: shift, width": "93.67 km/s 55.6 %",
    "VV 114 channel 4: flux kept": "0.33 [0.375 0.8521 1.150] 1.28",
    "VV 114 channel 4: shift, width": "98.05 km/s 34.4 %",
}


def run(table, shared, quick):
    """Add the figures of cubes to the table; method "columns" stands for baseline, which corrects no cubes."""
    if shared is None:
        return
    for name, file in FILES.items():
        made = Made.read(shared / "data" / file)
        found = {method: judge(made, method, quick) for method in ("columns", "slices")}
        for what in ("spaxels", "sums", "spectra"):
            for sigma in SIGMAS:
                each = {m: [v for (w, s, *_), v in f.items() if (w, s) == (what, sigma)] for m, f in found.items()}
                if not each["slices"]:
                    continue
                base, ours = (np.concatenate(each[m], axis=1) for m in ("columns", "slices"))
                add_kept(table, f"{name} {what}, sigma {sigma:.0f} km/s", base, ours)
        rms = {m: rms_left(made, m) for m in ("none", "columns", "slices")}
        for what in ("spaxels", "sums", "spectra"):
            text = f"{rms['slices'][what]:.2f} % (none {rms['none'][what]:.2f})"
            good = rms["slices"][what] <= rms["columns"][what] + 0.005
            figure = f"{name} {what}: fringe rms left"
            table.add(figure, text, "<= columns", good, baseline=f"{rms['columns'][what]:.2f} %",
                      before=BEFORE.get(figure, ""))  # fmt: skip
        for line, rest in REAL.get(name, ()):
            figure = f"{name} nucleus {line} kept: cube, spectrum"
            base, ours = real_line(made, rest, "columns"), real_line(made, rest, "slices")
            text = [f"{a:.3f} {b:.3f}" for a, b in (base, ours)]
            table.add(figure, text[1], "0.97-1.03", all(0.97 < v < 1.03 for v in ours), baseline=text[0],
                      before=BEFORE.get(figure, ""))  # fmt: skip
    for channel in "1234":
        base, ours = (
            np.concatenate([of_galaxy(shared, channel + letter, m, quick) for letter in "ABC"], axis=1)
            for m in ("columns", "slices")
        )
        add_kept(table, f"VV 114 channel {channel}", base, ours)


def add_kept(table, figure: str, base: np.ndarray, ours: np.ndarray) -> None:
    """Add rows on flux, and on place and width."""
    if not ours.size:
        return
    share = ours[0]
    good = share.min() >= 0.97 and share.max() <= 1.03 and abs(share.mean() - 1) <= 0.005
    table.add(f"{figure}: flux kept", told(share), "0.97 1.00 1.03", good, baseline=told(base[0]),
              before=BEFORE.get(f"{figure}: flux kept", ""))  # fmt: skip
    moved = [(np.abs(v[1]).max(), np.abs(v[2] - 1).max()) for v in (base, ours)]
    text = [f"{a:.2f} km/s {100 * b:.1f} %" for a, b in moved]
    good = moved[1][0] < 2 and moved[1][1] < 0.03
    figure = f"{figure}: shift, width"
    table.add(figure, text[1], "< 2 km/s, 3 %", good, baseline=text[0], before=BEFORE.get(figure, ""))
