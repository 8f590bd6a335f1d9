"""A point source taken off the detector, its spectrum and filled pixels, with a PSF that no fit knows, and jitter.

    python benchmarks/point_source.py [--bands 1A 3A] [--geometry FOLDER]

Star of 60 mJy at 10 um with a line, alone and in a disc of 40 mJy with another line; noise equal in all pixels, a given
part of the peak. Truth: the noiseless star and disc. FOLDER holds real distortion files (ASDF).
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import xarray as xr

import mrsxr as mx
from mrsxr import mrs
from mrsxr.simulate import Background, Effects, Line, LineDisc, PointSource, PowerLaw, Psf, Scene
from mrsxr.simulate.exposure import make_instrument
from mrsxr.simulate.instrument import load_geometry
from mrsxr.simulate.pointing import aim_at, dither_offsets

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / name) for name in (".", "cube")]
import simulated  # noqa: E402

RA, DEC, JITTER = 150.0, 20.0, 0.03  # deg, deg, arcsec rms an exposure
STAR, DISC = PowerLaw(60.0, 0.5), PowerLaw(40.0, 0.5)


def lines_of(band: str) -> tuple[float, float]:
    """Return the wavelengths [um] of the lines of star and disc."""
    low, high = mrs.WAVELENGTH_LIMITS[band]
    return low + 0.3 * (high - low), low + 0.55 * (high - low)


def observed(band: str, seed: int, disc: bool) -> xr.Dataset:
    """Return noiseless cal data of star or disc in 4 exposures, whose headers do not tell the jitter."""
    low, high = mrs.WAVELENGTH_LIMITS[band]
    star = PointSource(RA, DEC, STAR, lines=(Line("star", lines_of(band)[0], 1e-17, 0.0, 200.0),))
    around = LineDisc(RA, DEC, lines=(Line("disc", lines_of(band)[1], 2e-17),), continuum=DISC)
    scene = Scene(RA, DEC, points=() if disc else (star,), discs=(around,) if disc else (),
                  background=Background(scale=0.0), psf=Psf.spiked(low, high))  # fmt: skip
    offsets = np.array(dither_offsets("EXTENDED", 4))
    real = offsets + np.random.default_rng(seed).normal(0.0, JITTER, offsets.shape)
    ds = simulated.cal_of(scene, mrs.setting_of_band(band), [tuple(one) for one in real])
    told = [aim_at(RA, DEC, 247.0, tuple(one), 1.0, 12000.0).pointing for one in offsets]
    return ds.assign_coords(
        {k: (*ds[k].variable.dims, [getattr(p, k) for p in told], ds[k].attrs) for k in ("ra_ref", "dec_ref")}
    )


def noisy(star: xr.Dataset, host: np.ndarray | float, noise: float, seed: int) -> xr.Dataset:
    """Return star and host with noise of a part of the peak."""
    flux = star.flux.values + host
    sigma = noise * float(np.nanmax(star.flux.values[:, star["slice"].values // 100 > 0]))
    flux = flux + sigma * np.random.default_rng(seed).normal(size=flux.shape)
    spread = {k: np.full(flux.shape, sigma**2 / 3, "f4") for k in ("var_poisson", "var_read", "var_flat")}
    dims = star.flux.dims
    return star.assign({"flux": (dims, flux.astype("f4"), star.flux.attrs)}
                       | {k: (dims, v, star[k].attrs) for k, v in spread.items()})  # fmt: skip


def radii(ds: xr.Dataset, model: xr.Dataset, band: str) -> np.ndarray:
    """Return how far pixels lie from the source [FWHM], NaN in the other band."""
    ours = np.where(ds["slice"].values // 100 == int(band[0]), ds["wavelength"].values, np.nan)
    a, b = (ds[n].values - model["place"].values[:, k, None, None] for k, n in enumerate(("alpha", "beta")))
    return np.hypot(a, b) / mrs.psf_fwhm(ours)


def subtraction(band: str, star: xr.Dataset, disc: np.ndarray, psf: xr.Dataset | None, name: str) -> None:
    """Print what is left of the star, and how much of the line of the disc."""
    for text, host, around in (("alone", 0.0, "level"), ("in a disc", disc, "host")):
        ds = noisy(star, host, 1 / 300, 3)
        model = mx.cal.fit_trace_model(ds, band=band)
        start = time.process_time()
        left = mx.cal.subtract_point_source(ds, trace_model=model, around=around, psf=psf)
        seconds, away, wave = time.process_time() - start, radii(ds, model, band), ds["wavelength"].values
        rest = star.flux.values - (ds.flux.values - left.flux.values)
        low, high = mrs.WAVELENGTH_LIMITS[band]
        inner = (wave > low + 0.03 * (high - low)) & (wave < high - 0.03 * (high - low))
        peak = np.nanmedian(star.flux.values[(away < 0.2) & inner])
        spread = [100 * np.std(rest[(away >= r) & (away < q) & inner]) / peak for r, q in ((0, 0.5), (0.5, 1), (1, 3))]
        offset = np.abs(wave / lines_of(band)[1] - 1)
        kept = []
        for r, q in ((0, 1), (1, 2)) if around == "host" else ():
            ring = (away >= r) & (away < q)
            change = [one[ring & (offset < 1e-3)].mean() - one[ring & (offset > 1.5e-3) & (offset < 3e-3)].mean()
                      for one in (rest, host)]  # fmt: skip
            kept.append(f"{1 + change[0] / change[1]:.3f}")
        print(band, text, name, *(f"{x:.2f}" for x in spread), *kept, f"{seconds:.1f} s", sep=" | ", flush=True)


def spectra(band: str, star: xr.Dataset) -> None:
    """Print bias and noise of the spectrum of the lone star, against the truth and an aperture in the cube."""
    low, high = mrs.WAVELENGTH_LIMITS[band]
    for noise in (1 / 300, 1 / 20, 1 / 7):
        ds = noisy(star, 0.0, noise, 5)
        model = mx.cal.fit_trace_model(ds, band=band)
        found = mx.spectrum.fit_spectrum(ds, trace_model=model, around="level")
        aperture = mx.spectrum.extract_spectrum(
            mx.cube.build_cube(ds, band=band), source_type="POINT", center=(RA, DEC)
        )
        columns = []
        for one in (found, aperture):
            wave = one.wavelength.values
            clean = np.isfinite(one.flux.values) & (np.abs(wave / lines_of(band)[0] - 1) > 3e-3)
            clean &= (wave > low + 0.03 * (high - low)) & (wave < high - 0.03 * (high - low))
            ratio = one.flux.values[clean] / (1e-3 * STAR(wave[clean]))
            smooth = np.polyval(np.polyfit(wave[clean], ratio, 5), wave[clean])
            rest = ratio - smooth
            tens = rest[: rest.size // 10 * 10].reshape(-1, 10).mean(axis=1)  # of about the same width in both
            error = np.median(np.sqrt(one["var"].values[clean]) / (1e-3 * STAR(wave[clean])))
            columns.append((np.mean(smooth), np.std(tens), np.std(rest) / error))
        (level, spread, pull), (other, wider, _) = columns
        print(band, f"peak / noise {1 / noise:.0f}", f"{level / other:.4f}", f"{spread / wider:.2f}", f"{pull:.2f}",
              sep=" | ", flush=True)  # fmt: skip


def clusters(band: str, star: xr.Dataset, disc: np.ndarray) -> None:
    """Print how far 3 x 3 pixels at the peak are off the truth once they are filled."""
    ds = noisy(star, disc, 1 / 300, 8)
    true, wave = star.flux.values + disc, ds["wavelength"].values
    low, high = mrs.WAVELENGTH_LIMITS[band]
    bad = np.zeros(true.shape, bool)
    for d in range(true.shape[0]):
        for part in np.linspace(0.1, 0.9, 9):
            near = (np.abs(wave - low - part * (high - low)) < 0.004) & (ds["slice"].values // 100 == int(band[0]))
            y, x = np.unravel_index(np.nanargmax(np.where(near, true[d], np.nan)), near.shape)
            bad[d, y - 1 : y + 2, x - 1 : x + 2] = True
    holes = ds.assign(flux=ds.flux.where(~bad), dq=(ds.dq.dims, ds.dq.values | bad.astype("u4"), ds.dq.attrs))
    model = mx.cal.fit_trace_model(holes, band=band)
    for method in ("mingrad", "trace_model"):
        more = {"trace_model": model} if method == "trace_model" else {}
        made = mx.cal.replace_pixels(holes, method=method, **more).flux.values[bad]
        off = 100 * (made - true[bad]) / np.nanmax(true[bad])
        print(band, method, f"{np.mean(np.isnan(made)):.0%} NaN", f"rms {np.sqrt(np.nanmean(off**2)):.2f} %",
              f"worst {np.nanmax(np.abs(off)):.2f} %", sep=" | ", flush=True)  # fmt: skip


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bands", nargs="+", default=["1A", "3A"])
    parser.add_argument("--geometry", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.geometry:
        simulated.instrument_of = functools.cache(
            lambda setting: make_instrument(load_geometry(setting, args.geometry), Effects.none(), 1)
        )
    for band in args.bands:
        star, disc = observed(band, 7, False), observed(band, 7, True).flux.values
        print(
            "band | star | PSF | left at 0-0.5, 0.5-1, 1-3 FWHM [% of the peak] | line kept within 1, at 1-2 FWHM | CPU"
        )
        subtraction(band, star, disc, None, "of the data")
        other = noisy(observed(band, 11, False), 0.0, 1 / 300, 4)
        subtraction(band, star, disc, mx.cal.learn_psf(other, bands=band), "of another star")
        print("band | star | flux over that of the aperture | noise over that of the aperture | scatter over error")
        spectra(band, star)
        print("band | 3 x 3 bad pixels at the peak | ")
        clusters(band, star, disc)


if __name__ == "__main__":
    main()
