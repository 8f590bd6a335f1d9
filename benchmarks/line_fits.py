"""Line fits: pulls, second components, speed beside astropy, parameters beside lmfit, and real data.

    python benchmarks/line_fits.py [--shared FOLDER] [--only PART ...] [--spectra N]

Parts: pulls, components, peer, speed, real. Simulated spectra hold bin-integrated Gaussians (differences of the normal
distribution at the voxel edges) at the resolution of the instrument, and white noise on the voxels.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.special import ndtr

from mrsxr import mrs, units
from mrsxr.lines.fit import fit_line, fit_lines
from mrsxr.lines.model import line_model
from mrsxr.lines.table import line_table

C = 299792.458
PARTS = ("pulls", "components", "peer", "speed", "real")
FLUX, VELOCITY = 1e-18, 30.0
#: Line, rest wavelength and step [um].
PLACES = (("[Fe II] 5.34", 5.34017, 0.0008), ("[Ne II] 12.81", 12.81355, 0.0025), ("[O IV] 25.89", 25.8903, 0.006))


@dataclass(frozen=True)
class Place:
    """Where a line is simulated."""

    rest: float = 12.81355
    step: float = 0.0025
    voxels: int = 90

    @property
    def inst(self) -> float:
        """Instrument sigma [km/s]."""
        return float(C / 2.354820045 / mrs.resolving_power(self.rest))

    def cube(self, n: int, parts, noise: float, *, seed: int = 0, given: float = 1.0, level: float = 5e3) -> xr.Dataset:
        """Return a cube (voxel, n, 1) of lines; ``parts`` are (flux, velocity, dispersion), noise in MJy/sr."""
        wave = self.rest + self.step * (np.arange(self.voxels) - self.voxels / 2 + 0.3)
        low, high, scale = wave - self.step / 2, wave + self.step / 2, 0.2
        density = 2.99792458e-6 * scale**2 * units.ARCSEC2_TO_SR / wave**2  # W m-2 um-1 of 1 MJy/sr in a spaxel
        flux = np.zeros((self.voxels, 1))
        for total, v, sigma in parts:
            mu, s = self.rest * (1 + v / C), np.hypot(sigma, self.inst) * self.rest / C
            flux += (total * (ndtr((high - mu) / s) - ndtr((low - mu) / s)) / self.step / density)[:, None]
        flux = flux + level * (1 + 0.1 * np.linspace(-1, 1, self.voxels))[:, None]
        flux = flux + noise * np.random.default_rng(seed).normal(size=(self.voxels, n))
        dims = ("wavelength", "y", "x")
        shape = (self.voxels, n, 1)
        return xr.Dataset(
            {
                "flux": (dims, flux.reshape(shape).astype("f4"), {"units": "MJy/sr"}),
                "var": (dims, np.full(shape, (noise * given) ** 2, dtype="f4"), {"units": "MJy2/sr2"}),
                "dq": (dims, np.zeros(shape, dtype="u4"), {"units": "1"}),
            },
            coords={"wavelength": ("wavelength", wave, {"units": "um"}), "y": np.arange(n) * scale, "x": [0.0]},
            attrs={"level": "cube", "pixel_scale": scale, "band": "", "history_json": "[]"},
        )

    def noise_for(self, snr: float, parts) -> float:
        """Return the noise [MJy/sr] at which the flux of the line has a signal to noise."""
        noise = 1.0
        for _ in range(3):
            fit = fit_line(self.cube(8, parts, 1e-3 * noise, given=1e3), self.rest, noise="given")
            noise *= float(fit["snr"].median()) / snr
        return noise

    def peak_snr(self, parts, noise: float) -> float:
        """Return the peak of the line over the noise of a voxel."""
        flux = self.cube(1, parts, 0.0)["flux"] - self.cube(1, [], 0.0)["flux"]
        return float(flux.max()) / noise


def run(only=PARTS, shared: Path | None = None, n: int = 10000) -> None:
    """Run the parts and print their tables."""
    if "pulls" in only:
        compare_pulls(n)
    if "components" in only:
        count_components(max(n // 10, 200))
    if "peer" in only:
        compare_lmfit()
    if "speed" in only:
        compare_speed()
    if "real" in only and shared is not None:
        measure_ngc7469(shared / "data" / "s3d_ngc7469" / "NGC7469_ch4-long_s3d.fits.gz")
        list_vv114(shared / "data" / "vv114")


def pull_row(fit: xr.Dataset, truth: dict[str, float]) -> tuple[dict[str, tuple[float, float, float]], float]:
    """Return mean, standard deviation and half the middle 68 % of the pulls, and the share of fits without a flag.

    Fits that are flagged as failed, at a bound or of low S/N are left out.
    """
    good = ((fit["fit_flags"] & 7) == 0).values.ravel()
    out = {}
    for name, value in truth.items():
        pull = ((fit[name] - value) / fit[f"{name}_err"]).values.ravel()[good]
        low, high = np.percentile(pull, [15.865, 84.135])
        out[name] = (float(pull.mean()), float(pull.std()), 0.5 * float(high - low))
    return out, float(good.mean())


def compare_pulls(n: int) -> None:
    """Print the pulls of one Gaussian."""
    print(f"\nPulls of one Gaussian, {n} spectra each: mean / standard deviation / half of the middle 68 %")
    print("S/N: flux over its error; 'peak': peak over the noise of a voxel; noise: ERR as given | scaled by residuals")
    print(f"{'line':14} sigma inst  S/N  peak  kept  {'flux':16} {'velocity':16} {'width':16} {'dispersion':16} | flux")
    for number, (label, rest, step) in enumerate(PLACES):
        place = Place(rest, step)
        for sigma in (150.0, 80.0, 30.0):
            for snr in (5, 10, 20, 50, 100):
                parts = [(FLUX, VELOCITY, sigma)]
                noise = place.noise_for(snr, parts)
                ds = place.cube(n, parts, noise, seed=int(1000 * number + sigma + snr))
                truth = {"flux": FLUX, "velocity": VELOCITY, "component_width": float(np.hypot(sigma, place.inst)),
                         "dispersion": sigma}  # fmt: skip
                rows, kept = pull_row(fit_line(ds, rest, noise="given"), truth)
                scaled, _ = pull_row(fit_line(ds, rest), {"flux": FLUX})
                text = " ".join("{:5.2f}/{:4.2f}/{:4.2f} ".format(*rows[name]) for name in truth)
                peak = place.peak_snr(parts, noise)
                print(f"{label:14} {sigma:5.0f} {place.inst:4.0f} {snr:4d} {peak:5.1f} {kept:5.3f} {text}| "
                      + "{:5.2f}/{:4.2f}/{:4.2f}".format(*scaled["flux"]), flush=True)  # fmt: skip


def count_components(n: int) -> None:
    """Print how often a second component of 20 % of the flux and 3 times the width is found, and claimed without."""
    print(f"\nSecond component (20 % of the flux, 3 times the observed width), {n} spectra each")
    print("S/N: of the whole line fitted by one Gaussian, its peak in a voxel, and of both components in their own fit")
    print(f"{'line':14} {'S/N':>5} {'peak':>6} {'first':>6} {'second':>7} | bic: found claimed | ftest: found claimed |"
          " flux of 2nd / true")  # fmt: skip
    for label, rest, step in PLACES:
        place, narrow = Place(rest, step), 60.0
        wide = float(np.sqrt(9.0 * np.hypot(narrow, place.inst) ** 2 - place.inst**2))
        one = [(FLUX, VELOCITY, narrow)]
        two = [(0.8 * FLUX, VELOCITY, narrow), (0.2 * FLUX, VELOCITY, wide)]
        for snr in (20, 50, 100, 110, 120, 150):
            noise = place.noise_for(snr, one)
            exact = fit_line(place.cube(8, two, 1e-3 * noise, given=1e3), rest, components=2, noise="given")
            first, second = (exact["component_flux"] / exact["component_flux_err"]).median(("y", "x")).values[0]
            text = []
            for criterion in ("bic", "ftest"):
                fits = [fit_line(place.cube(n, parts, noise, seed=seed), rest, components="auto", criterion=criterion)
                        for parts, seed in ((two, 11), (one, 12))]  # fmt: skip
                found, claimed = (float((fit["n_components"] == 2).mean()) for fit in fits)
                text.append(f"{found:11.3f} {claimed:7.3f}")
                if criterion == "bic":
                    chosen = fits[0]["component_flux"].isel(component=1).where(fits[0]["n_components"] == 2)
                    ratio = float(chosen.median()) / (0.2 * FLUX)
            peak = place.peak_snr(one, noise)
            print(f"{label:14} {snr:5d} {peak:6.1f} {first:6.1f} {second:7.1f} | {text[0]} | {text[1]}   | {ratio:.2f}",
                  flush=True)  # fmt: skip


def compare_lmfit(n: int = 6) -> None:
    """Print the largest differences to lmfit on the same model, in errors, and of the errors."""
    import lmfit

    print("\nBeside lmfit (leastsq on the same bin-integrated model), largest difference over spectra")
    place = Place()
    wave = place.cube(1, [], 0.0)["wavelength"].values
    low, high = wave - place.step / 2, wave + place.step / 2
    density = 2.99792458e-6 * 0.2**2 * units.ARCSEC2_TO_SR / wave**2 * 1e18

    def residual(p, data, error, k):
        model = p["a"] + p["b"] * (wave - place.rest)
        for c in range(k):
            mu, s = place.rest * (1 + p[f"v{c}"] / C), p[f"w{c}"] * place.rest / C
            model = model + p[f"f{c}"] * (ndtr((high - mu) / s) - ndtr((low - mu) / s)) / (high - low) / density
        return (data - model) / error

    cases = {1: [(FLUX, VELOCITY, 100.0)], 2: [(0.6 * FLUX, VELOCITY, 60.0), (0.4 * FLUX, -120.0, 220.0)]}
    for k, parts in cases.items():
        noise = place.noise_for({1: 30, 2: 150}[k], parts)
        ds = place.cube(n, parts, noise, seed=3)
        fit = fit_line(ds, place.rest, components=k, noise="given", window=2900.0)
        off, errors = 0.0, 0.0
        for y in range(n):
            start = lmfit.Parameters()
            start.add("a", 5000.0)
            start.add("b", 0.0)
            for c, (flux, v, sigma) in enumerate(parts):
                start.add(f"f{c}", flux * 1e18)
                start.add(f"v{c}", v)
                start.add(f"w{c}", float(np.hypot(sigma, place.inst)))
            data = ds["flux"].values[:, y, 0].astype(float)
            peer = lmfit.minimize(residual, start, args=(data, noise, k), method="leastsq", scale_covar=False,
                                  ftol=1e-14, xtol=1e-14)  # fmt: skip
            order = np.argsort([-peer.params[f"f{c}"].value for c in range(k)])
            for ours, c in enumerate(order):
                for name, key, factor in (("flux", "f", 1e18), ("velocity", "v", 1.0), ("width", "w", 1.0)):
                    value, error = (float(fit[f"component_{name}{e}"][0, ours, y, 0]) * factor for e in ("", "_err"))
                    theirs = peer.params[f"{key}{c}"]
                    off = max(off, abs(value - theirs.value) / theirs.stderr)
                    errors = max(errors, abs(error / theirs.stderr - 1.0))
        print(f"  {k} Gaussian(s): parameters {off:.1e} of their error, errors {100 * errors:.2f} %", flush=True)


def compare_speed(n: int = 10000, n_peer: int = 100) -> None:
    """Print times of one Gaussian and a line in 60 channels: this package and the fitters of astropy, one core."""
    import dask
    from astropy.modeling import fitting, models

    print(f"\nSpeed: one Gaussian on a straight line, {n} spaxels of 60 channels, one core")
    place = Place(voxels=60)
    parts = [(FLUX, VELOCITY, 100.0)]
    noise = place.noise_for(30, parts)
    ds = place.cube(n, parts, noise)
    fit_line(ds.isel(y=slice(0, 4)), place.rest)
    times = []
    for _ in range(5):
        start = time.process_time()
        with dask.config.set(scheduler="synchronous"):
            fit_line(ds, place.rest).compute()
        times.append(time.process_time() - start)
    ours = min(times) / n
    print(f"  mrsxr.lines.fit_line (bin-integrated, errors, limits, BIC): {1e6 * ours:8.1f} us of processor time a fit")
    lazy = ds.chunk(y=1000)
    start = time.perf_counter()
    with dask.config.set(scheduler="threads", num_workers=2):
        fit_line(lazy, place.rest).compute()
    print(f"  the same lazily, blocks of 1000 spectra, 2 threads:       {1e6 * (time.perf_counter() - start) / n:8.1f}"
          " us of wall time")  # fmt: skip
    wave, best = ds["wavelength"].values, np.inf
    for name in ("LevMarLSQFitter", "TRFLSQFitter", "DogBoxLSQFitter"):
        fitter = getattr(fitting, name)(calc_uncertainties=True)
        begin = models.Gaussian1D(1000.0, place.rest, 0.005) + models.Polynomial1D(1, c0=5000.0)
        start = time.process_time()
        for y in range(n_peer):
            fitter(begin, wave, ds["flux"].values[:, y, 0].astype(float), weights=np.full(wave.size, 1 / noise))
        each = (time.process_time() - start) / n_peer
        best = min(best, each)
        print(f"  astropy {name:16} (values at centres), {n_peer} fits:    {1e6 * each:8.1f} us = {each / ours:.0f} x")
    print(f"  fastest of astropy over ours: {best / ours:.0f}", flush=True)


def aperture_spectrum(cube: xr.Dataset, y: int, x: int, radius: float) -> xr.Dataset:
    """Return the sum of the spaxels within a radius [arcsec] as a spectrum [Jy]."""
    scale = float(cube.attrs["pixel_scale"])
    rows, columns = np.mgrid[: cube.sizes["y"], : cube.sizes["x"]]
    inside = np.hypot(rows - y, columns - x) * scale <= radius
    factor = 1e6 * scale**2 * units.ARCSEC2_TO_SR
    flux, var = (cube[name].values[:, inside].astype(float).sum(axis=1) for name in ("flux", "var"))
    dq = (np.isnan(flux) * 1).astype("u4")
    return xr.Dataset(
        {"flux": ("wavelength", flux * factor, {"units": "Jy"}),
         "var": ("wavelength", var * factor**2, {"units": "Jy2"}), "dq": ("wavelength", dq, {"units": "1"})},
        coords={"wavelength": cube["wavelength"].variable},
        attrs={"level": "spectrum", "band": cube.attrs["band"], "history_json": "[]"},
    )  # fmt: skip


def integrate(ds: xr.Dataset, place: float, inner: float, sides) -> float:
    """Return the flux [W m-2] within +- inner [km/s] above a straight line through the side windows [km/s]."""
    wave = ds["wavelength"].values
    density = ds["flux"].values * 2.99792458e-12 / wave**2
    v = (wave / place - 1.0) * C
    beside = np.any([(v > a) & (v < b) for a, b in sides], axis=0)
    level = np.polynomial.Polynomial.fit(wave[beside], density[beside], 1)
    core = np.abs(v) < inner
    return float(((density - level(wave)) * np.gradient(wave))[core].sum())


def measure_ngc7469(path: Path, redshift: float = 0.01627) -> None:
    """Print the flux of [O IV] in the nucleus by a fit and by plain sums."""
    from mrsxr import load

    cube = load(path).compute()
    bright = cube["flux"].sel(wavelength=slice(26.2, 26.3)).mean("wavelength").values
    y, x = np.unravel_index(np.nanargmax(bright), bright.shape)
    print(f"\nNGC 7469, nucleus at spaxel y {y}, x {x}: [O IV] 25.89 um (z = {redshift})")
    for radius in (0.7, 1.05, 1.4):
        ds = aperture_spectrum(cube, int(y), int(x), radius)
        fits = [
            fit_line(ds, ["[O IV] 25.89", "[Fe II] 25.99"], redshift=redshift, tie=False, components=k) for k in (1, 2)
        ]
        (one, e_one), (two, e_two) = ((float(f["flux"][0]), float(f["flux_err"][0])) for f in fits)
        print(f"  radius {radius:.2f} arcsec, one {one:.3e} +- {e_one:.1e}, two {two:.3e} +- {e_two:.1e} W m-2,"
              f" dispersion of one {float(fits[0]['dispersion'][0]):.0f} km/s")  # fmt: skip
        for reach in (400.0, 500.0, 600.0):
            plain = integrate(ds, 25.8903 * (1 + redshift), reach, ((-1500, -700), (1650, 2400)))
            print(f"    plain sum within {reach:.0f} km/s {plain:.3e}: one/plain {one / plain:.3f}, two/plain "
                  f"{two / plain:.3f}")  # fmt: skip
    start = time.perf_counter()
    maps = fit_lines(cube, redshift=redshift, components="auto").compute()
    print(f"  maps of {maps.sizes['line']} lines over {maps.sizes['y']} x {maps.sizes['x']} spaxels, 1 or 2 components:"
          f" {time.perf_counter() - start:.1f} s; spaxels above S/N 5:")  # fmt: skip
    for line in maps["line"].values:
        one = maps.sel(line=line)
        good = ((one["snr"] > 5) & ((one["fit_flags"] & 6) == 0)).values
        if good.sum() > 5:
            v = one["velocity"].values[good]
            print(f"    {line:14} {good.sum():4d}, v {np.percentile(v, 5):5.0f} .. {np.percentile(v, 95):4.0f} km/s"
                  f", two components in {int((one['n_components'].values[good] == 2).sum())}")  # fmt: skip
    model = line_model(cube, maps)
    rest = (cube["flux"] - model["model"]).values[:, y, x]
    print(f"  nuclear spaxel: rms of data - model {np.nanstd(rest):.0f} MJy/sr of {bright[y, x]:.0f}")


def read_vv114(folder: Path) -> xr.Dataset:
    """Return the twelve bands of VV 114 one after the other, as one spectrum."""
    from astropy.io import fits

    names, parts = {"SHORT": "A", "MEDIUM": "B", "LONG": "C"}, []
    for path in folder.glob("*_s1d.fits"):
        rows = fits.getdata(path, 1)
        channel, grating = path.stem.split("_")[2:4]
        band = channel[2] + names[grating]
        wave, flux, error = (np.asarray(rows[c], dtype=float) for c in ("wavelength", "flux", "uncertainty"))
        order = np.argsort(wave)
        parts.append((band, wave[order], 1e6 * flux[order], 1e6 * error[order]))
    parts.sort(key=lambda part: part[0])
    wave, flux, error = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    band = np.concatenate([np.full(part[1].size, part[0]) for part in parts])
    return xr.Dataset(
        {"flux": ("wavelength", flux, {"units": "Jy"}), "var": ("wavelength", error**2, {"units": "Jy2"}),
         "dq": ("wavelength", (~np.isfinite(flux)).astype("u4"), {"units": "1"})},
        coords={"wavelength": ("wavelength", wave, {"units": "um"}), "band": ("wavelength", band)},
        attrs={"level": "spectrum", "history_json": "[]"},
    )  # fmt: skip


def list_vv114(folder: Path, redshift: float = 0.0202) -> None:
    """Print the lines of VV 114 above S/N 5 with their widths."""
    start = time.perf_counter()
    fit = fit_lines(read_vv114(folder), redshift=redshift, components="auto")
    seconds = time.perf_counter() - start
    seen = ((fit["snr"] > 5) & ((fit["fit_flags"] & 6) == 0)).values
    table = line_table(fit.isel(line=seen))
    print(
        f"\nVV 114 (z = {redshift}): {seen.sum()} of {seen.size} lines above S/N 5, without a flag, in {seconds:.1f} s"
    )
    table["flux"].info.format = table["flux_err"].info.format = ".2e"
    columns = ("line", "band", "flux", "flux_err", "snr", "velocity", "velocity_err", "dispersion", "dispersion_err",
               "fwhm", "ew", "n_components", "noise_scale")  # fmt: skip
    print("\n".join(table[columns].pformat(max_lines=-1, max_width=-1)))


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=os.environ.get("MRSXR_SHARED"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--spectra", type=int, default=10000)
    options = parser.parse_args()
    run(options.only, options.shared, options.spectra)


if __name__ == "__main__":
    main()
