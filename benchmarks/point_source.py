"""A point source taken off the detector, its spectrum and filled pixels, with a PSF that no fit knows, and jitter.

    python benchmarks/point_source.py [--bands 1A 3A] [--geometry FOLDER] [--rows 380 640]

Star of 60 mJy at 10 um with a line, alone and in a disc of 40 mJy with another line, and with companions 0.5" away;
noise equal in all pixels, a given part of the peak; the star once more with the pixels above a part of the peak, and
those beside them, lost in all exposures. Truth: the noiseless star and disc; of spectra that of the aperture
at a peak of 1000 times the noise. FOLDER holds real distortion files (ASDF); ROWS are those of the detector, by default
all.
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
from scipy.ndimage import grey_dilation

import mrsxr as mx
from mrsxr import mrs
from mrsxr.simulate import Background, Effects, Line, LineDisc, PointSource, PowerLaw, Psf, Scene
from mrsxr.simulate.exposure import make_instrument
from mrsxr.simulate.instrument import load_geometry
from mrsxr.simulate.pointing import DITHERS, aim_at

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / name) for name in (".", "cube")]
import simulated  # noqa: E402

RA, DEC, JITTER = 150.0, 20.0, 0.03  # deg, deg, arcsec rms an exposure
STAR, DISC = PowerLaw(60.0, 0.5), PowerLaw(40.0, 0.5)


def lines_of(band: str) -> tuple[float, float]:
    """Return the wavelengths [um] of the lines of star and disc."""
    low, high = mrs.WAVELENGTH_LIMITS[band]
    return low + 0.3 * (high - low), low + 0.55 * (high - low)


def companion(flux: float, angle: float, separation: float = 0.5) -> PointSource:
    """Return a star [mJy] at a distance [arcsec] and position angle [deg] from the first."""
    east, north = (separation / 3600 * f(np.deg2rad(angle)) for f in (np.sin, np.cos))
    return PointSource(RA + east / np.cos(np.deg2rad(DEC)), DEC + north, PowerLaw(flux, -1.0))


def observed(band: str, seed: int, points: tuple = (), disc: bool = False, rows: tuple = (0, 1024)) -> xr.Dataset:
    """Return noiseless cal data of stars and disc in 4 exposures, whose headers do not tell the jitter."""
    low, high = mrs.WAVELENGTH_LIMITS[band]
    around = LineDisc(RA, DEC, lines=(Line("disc", lines_of(band)[1], 2e-17),), continuum=DISC)
    scene = Scene(RA, DEC, points=points, discs=(around,) if disc else (), background=Background(scale=0.0),
                  psf=Psf.spiked(low, high))  # fmt: skip
    offsets = np.array(DITHERS["EXTENDED"])
    real = offsets + np.random.default_rng(seed).normal(0.0, JITTER, offsets.shape)
    ds = simulated.cal_of(scene, mrs.setting_of_band(band), [tuple(one) for one in real])
    told = [aim_at(RA, DEC, 247.0, tuple(one), 1.0, 12000.0).pointing for one in offsets]
    return ds.assign_coords(
        {k: (*ds[k].variable.dims, [getattr(p, k) for p in told], ds[k].attrs) for k in ("ra_ref", "dec_ref")}
    ).isel(y=slice(*rows))


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
    a, b = (ds[n].values - model["place"].values[0, :, k, None, None] for k, n in enumerate(("alpha", "beta")))
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
        inner = inside(wave, ds, band)
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


def inside(wave: np.ndarray, ds: xr.Dataset, band: str) -> np.ndarray:
    """Return which wavelengths are not at the ends of what the rows show."""
    seen = ds["wavelength"].values[ds["slice"].values // 100 == int(band[0])]
    low, high = np.nanpercentile(seen, [3, 97])
    return (wave > low) & (wave < high)


def over_law(one: xr.Dataset, ds: xr.Dataset, band: str, law: PowerLaw) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a spectrum over a law away from lines: smoothed, what is left, and the median of its relative error."""
    wave = one.wavelength.values
    clean = np.isfinite(one.flux.values) & inside(wave, ds, band)
    for line in lines_of(band):
        clean &= np.abs(wave / line - 1) > 3e-3
    ratio = one.flux.values[clean] / (1e-3 * law(wave[clean]))
    t = np.linspace(-1, 1, ratio.size)
    smooth = np.polyval(np.polyfit(t, ratio, 5), t)
    return smooth, ratio - smooth, float(np.median(np.sqrt(one["var"].values[clean]) / (1e-3 * law(wave[clean]))))


def spectra(band: str, star: xr.Dataset) -> None:
    """Print bias and noise of the spectrum of the lone star, against an aperture in the cube."""

    def in_aperture(ds):
        cube = mx.cube.build_cube(ds, band=band)
        return mx.spectrum.extract_spectrum(cube, source_type="POINT", center=(RA, DEC))

    true = np.mean(over_law(in_aperture(noisy(star, 0.0, 1e-3, 4)), star, band, STAR)[0])
    for noise in (1 / 300, 1 / 20, 1 / 7):
        found: list[list[float]] = []
        for seed in (5, 6, 7):
            ds = noisy(star, 0.0, noise, seed)
            model = mx.cal.fit_trace_model(ds, band=band, source=(RA, DEC))
            both = [mx.spectrum.fit_spectrum(ds, trace_model=model, around="level"), in_aperture(ds)]
            (level, rest, error), (other, wider, _) = (over_law(one, ds, band, STAR) for one in both)
            tens = [np.std(one[: one.size // 10 * 10].reshape(-1, 10).mean(axis=1)) for one in (rest, wider)]
            found.append([100 * (np.mean(level) / true - 1), 100 * (np.mean(other) / true - 1), tens[0] / tens[1],
                          np.std(rest) / error])  # fmt: skip
        mean, spread = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(len(found))
        print(band, f"peak / noise {1 / noise:.0f}", *(f"{mean[k]:.2f} +- {spread[k]:.2f}" for k in (0, 1)),
              f"{mean[2]:.2f}", f"{mean[3]:.2f}", sep=" | ", flush=True)  # fmt: skip


def pairs(band: str, star: xr.Dataset, disc: np.ndarray, rows: tuple) -> None:
    """Print spectra, over that of the first without host, of the first fitted alone and of both, and separation."""
    for flux, angle in ((30.0, 60.0), (6.0, 200.0)):
        other = companion(flux, angle)
        beside = observed(band, 7, (other,), rows=rows).flux.values
        for text, host, around in (("alone", 0.0, "level"), ("in a disc", disc, "host")):
            for noise in (1 / 300, 1 / 30):
                many = [noisy(star, one, noise, 3) for one in (host + beside, 0.0, host)]
                model, *single = (mx.cal.fit_trace_model(one, band=band, source=(RA, DEC)) for one in many)
                ds = many[0]
                told = [(other.ra + 2e-5, other.dec - 2e-5)]
                pair = mx.cal.fit_point_source(ds, trace_model=model, around=around, others=told)
                spectra = [mx.spectrum.fit_spectrum(one, trace_model=by, around=way)
                           for one, by, way in zip(many[1:], single, ("level", around), strict=True)]  # fmt: skip
                spectra += [mx.spectrum.fit_spectrum(ds, trace_model=pair, which=which) for which in (0, 1)]
                laws = (STAR, STAR, STAR, other.continuum)
                alone, *rest = (
                    np.mean(over_law(one, ds, band, law)[0]) for one, law in zip(spectra, laws, strict=True)
                )
                east, north = (3600 * float(np.diff(pair[name].values)[0]) for name in ("ra", "dec"))
                apart = np.hypot(east * np.cos(np.deg2rad(DEC)), north)
                name = f"{flux:g} mJy, {text}, peak / noise {1 / noise:.0f}"
                shares = [f"{one / alone:.4f}" for one in rest]
                print(band, name, *shares, f"{1e3 * (apart - 0.5):+.1f}", sep=" | ", flush=True)


def clusters(band: str, star: xr.Dataset, disc: np.ndarray) -> None:
    """Print how far 3 x 3 pixels at the peak are off the truth once they are filled."""
    ds = noisy(star, disc, 1 / 300, 8)
    true, wave = star.flux.values + disc, ds["wavelength"].values
    low, high = np.nanpercentile(wave[ds["slice"].values // 100 == int(band[0])], [0, 100])
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
        out = mx.cal.replace_pixels(holes, method=method, **more)
        off, peak = out.flux.values[bad] - true[bad], np.nanmax(true[bad]) / 100
        pull = off / np.sqrt(sum(out[name].values[bad] for name in ("var_poisson", "var_read", "var_flat")))
        print(band, method, f"{np.mean(np.isnan(off)):.0%} NaN", f"rms {np.sqrt(np.nanmean(off**2)) / peak:.2f} %",
              f"worst {np.nanmax(np.abs(off)) / peak:.2f} %", f"off / error {np.sqrt(np.nanmean(pull**2)):.2f}",
              sep=" | ", flush=True)  # fmt: skip


def saturated(band: str, star: xr.Dataset, disc: np.ndarray, psf: xr.Dataset) -> None:
    """Print what is told of a star whose pixels above a part of the peak, and those beside them, saturated."""
    for text, host, around in (("alone", 0.0, "level"), ("in a disc", disc, "host")):
        ds, ours = noisy(star, host, 1 / 300, 9), star["slice"].values // 100 == int(band[0])
        flux = np.nan_to_num(np.where(ours, ds.flux.values, 0.0))
        middle, true = inside(ds["wavelength"].values, ds, band), star.flux.values + host
        for name, known in (("of the data", None), ("of another star", psf)):
            fluxes = []
            for part in (2.0, 0.6, 0.3, 0.1):
                bad = grey_dilation(flux, (1, 3, 3)) > part * np.max(flux)
                bits = ds.dq.values | np.where(bad, mx.dq.SATURATED | mx.dq.DO_NOT_USE, 0).astype("u4")
                holes = ds.assign(flux=ds.flux.where(~bad), dq=(ds.dq.dims, bits, ds.dq.attrs))
                model = mx.cal.fit_trace_model(holes, band=band, source=(RA, DEC), psf=known)
                fit = mx.cal.fit_point_source(holes, trace_model=model, around=around, psf=known)
                one = mx.spectrum.fit_spectrum(holes, trace_model=fit)
                one = one.isel(wavelength=np.flatnonzero(np.isfinite(one.flux.values)))
                fluxes.append(np.mean(over_law(one, ds, band, STAR)[0]) if one.flux.size else np.nan)
                filled = mx.cal.replace_pixels(holes, method="trace_model", trace_model=fit).flux.values
                off = 100 * (filled - true)[bad & ours & middle] / np.max(flux)
                rest = [f"{np.mean(np.isnan(off)):.0%} NaN"] if off.size else []
                if np.isfinite(off).any():
                    rest.append(f"{np.sqrt(np.nanmean(off**2)):.1f} %")
                told = 100 * fit.psf_error.values.max()
                change = f"{100 * (fluxes[-1] / fluxes[0] - 1):+.1f} +- {told:.1f} %" if one.flux.size else "NaN"
                print(band, text, name, f"above {part:g}", change, *rest, sep=" | ", flush=True)


def main() -> None:
    """Print five tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bands", nargs="+", default=["1A", "3A"])
    parser.add_argument("--geometry", type=Path)
    parser.add_argument("--rows", nargs=2, type=int, default=(0, 1024))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.geometry:
        simulated.instrument_of = functools.cache(
            lambda setting: make_instrument(load_geometry(setting, args.geometry), Effects.none(), 1)
        )
    for band in args.bands:
        first = PointSource(RA, DEC, STAR, lines=(Line("star", lines_of(band)[0], 1e-17, 0.0, 200.0),))
        star = observed(band, 7, (first,), rows=args.rows)
        disc = observed(band, 7, disc=True, rows=args.rows).flux.values
        print(
            "band | star | PSF | left at 0-0.5, 0.5-1, 1-3 FWHM [% of the peak] | line kept within 1, at 1-2 FWHM | CPU"
        )
        subtraction(band, star, disc, None, "of the data")
        other = noisy(observed(band, 11, (first,), rows=args.rows), 0.0, 1 / 300, 4)
        psf = mx.cal.learn_psf(other, bands=band)
        subtraction(band, star, disc, psf, "of another star")
        print("band | star | bias of the fit [%] | of the aperture [%] | noise over the aperture's | scatter / error")
        spectra(band, star)
        print("band | companion 0.5 arcsec away | first alone; first, second over truth | separation off by [mas]")
        pairs(band, star, disc, args.rows)
        print("band | 3 x 3 bad pixels at the peak | ")
        clusters(band, star, disc)
        print("band | saturated star | PSF | pixels lost | light against unsaturated | filled | rms of the peak")
        saturated(band, star, disc, psf)


if __name__ == "__main__":
    main()
