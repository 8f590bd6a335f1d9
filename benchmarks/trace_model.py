"""Resampling wiggles in spaxels near a nucleus in a disc, with a PSF that no fit knows, jitter and flight slices.

    python benchmarks/trace_model.py [--bands 1A 2A 3A] [--dithers 4 2] [--geometry FOLDER] [--jwst PYTHON] [--errors N]

A figure is the rms [%] over spaxels of the ratio of a spaxel to the 1.5 FWHM aperture, a cubic in wavelength taken
off, 9-channel mean; noiseless, so that only resampling is seen. FOLDER holds real distortion files (ASDF); two dithers
are the first two: in 1A they sample alike (first and third: 1.0 and 3.3 %). The line is that of the disc in spaxels
within 1 FWHM, less a parabola beside it: rms of its flux [%] and velocity [km/s] against a cube of the disc alone. The
aperture is that of 1.5 FWHM, against the cube without a model: mean and worst plane [%].
With N, instead, the pulls over so many draws of noise (of equal noise in all pixels, a part of the peak; 260 rows):
scatter over the draws over the error, without and with the model, of voxels within 1 FWHM and of the light within
1.5 FWHM, errors with covariance; and the scatter with over that without of means over 25 planes of the voxels.
PYTHON is the interpreter of an environment with jwst 3.0.0, whose adaptive_trace_model (oversample 2) and cube_build
then run on the same cal files (a minute of CPU an exposure).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr
from _memory import memory_gb
from astropy.io import fits
from point_source import noisy

import mrsxr as mx
from mrsxr import mrs
from mrsxr.cal import fit_trace_model
from mrsxr.cube import build_cube
from mrsxr.references.crds_cache import build_crds_cache
from mrsxr.simulate import Background, Effects, Line, LineDisc, PointSource, PowerLaw, Psf, Scene
from mrsxr.simulate.exposure import make_instrument
from mrsxr.simulate.instrument import load_geometry
from mrsxr.simulate.pointing import DITHERS, aim_at
from mrsxr.simulate.reference_files import EMSM_DEFAULTS, cubepar_tables, write_reference

sys.path[:0] = [str(Path(__file__).parents[1] / "tests" / name) for name in (".", "cube")]
import simulated  # noqa: E402

RA, DEC, JITTER = 150.0, 20.0, 0.03  # deg, deg, arcsec rms an exposure


def observed(band: str, n_dithers: int, seed: int, flux: float = 60.0) -> xr.Dataset:
    """Return noiseless cal data of nucleus [mJy] and disc; the headers tell the pointing without the jitter."""
    low, high = mrs.WAVELENGTH_LIMITS[band]  # a coarser PSF makes waves of 0.05 % by its own pixels
    line = Line("one", 0.5 * (low + high), 2e-17)
    scene = Scene(
        RA, DEC, points=(PointSource(RA, DEC, PowerLaw(flux, 0.5)),), background=Background(scale=0.0),
        discs=(LineDisc(RA, DEC, lines=(line,), continuum=PowerLaw(40.0, 0.5)),), psf=Psf.spiked(low, high, step=0.01),
    )  # fmt: skip
    offsets = np.array(DITHERS["EXTENDED"][:n_dithers])
    real = offsets + np.random.default_rng(seed).normal(0.0, JITTER, offsets.shape)
    ds = simulated.cal_of(scene, mrs.setting_of_band(band), [tuple(one) for one in real])
    told = [aim_at(RA, DEC, 247.0, tuple(one), 1.0, 12000.0).pointing for one in offsets]
    return ds.assign_coords(
        {k: (*ds[k].variable.dims, [getattr(p, k) for p in told], ds[k].attrs) for k in ("ra_ref", "dec_ref")}
    )


def wiggles(cube: xr.Dataset) -> tuple[float, float]:
    """Return the rms [%] in spaxels within 0.3 FWHM of the peak and at 0.6-1 FWHM, away from the line."""
    flux = cube.flux.values.astype(float)
    wave = cube.wavelength.values
    keep = np.isfinite(flux).sum(axis=(1, 2)) > 0.5 * np.isfinite(flux).sum(axis=(1, 2)).max()
    keep &= np.abs(wave / np.mean(wave) - 1) > 2e-3
    keep[:20] = keep[-20:] = False
    flux, wave = flux[keep], wave[keep]
    middle = np.nan_to_num(np.nanmedian(flux, axis=0))
    y, x = np.indices(middle.shape)
    top = middle > 0.5 * middle.max()
    y0, x0 = ((middle * axis)[top].sum() / middle[top].sum() for axis in (y, x))
    fwhm = float(mrs.psf_fwhm(wave.mean())) / cube.attrs["pixel_scale"]
    radius = np.hypot(y - y0, x - x0)
    whole = np.nansum(flux[:, radius < 1.5 * fwhm], axis=1)
    t = np.linspace(-1, 1, wave.size)

    def rms(near):
        found = []
        for spectrum in flux[:, near].T:
            ratio = spectrum / whole
            ratio = np.convolve(ratio / np.polyval(np.polyfit(t, ratio, 3), t), np.ones(9) / 9, "valid")
            found.append(np.var(ratio))
        return 100 * float(np.sqrt(np.nanmean(found)))

    return rms(radius < 0.3 * fwhm), rms((radius > 0.6 * fwhm) & (radius < fwhm))


def near_peak(cube: xr.Dataset, reach: float = 1.0) -> np.ndarray:
    """Return which spaxels lie within 1 FWHM, or so many, of the brightest one."""
    image = np.nan_to_num(np.nanmedian(cube.flux.values, axis=0))
    (y, x), (y0, x0) = np.indices(image.shape), np.unravel_index(image.argmax(), image.shape)
    return np.hypot(y - y0, x - x0) * cube.attrs["pixel_scale"] < reach * mrs.psf_fwhm(np.mean(cube.wavelength.values))


def line_of_disc(cube: xr.Dataset, band: str, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return flux and velocity [km/s] of the line in spaxels, less a parabola beside it."""
    velocity = 299792.458 * (cube.wavelength.values / np.mean(mrs.WAVELENGTH_LIMITS[band]) - 1)
    on, beside = np.abs(velocity) < 350, (np.abs(velocity) > 450) & (np.abs(velocity) < 1200)
    flux = cube.flux.values[:, near].astype(float)
    flux = flux[on] - (np.vander(velocity[on], 3) @ np.polyfit(velocity[beside], flux[beside], 2))
    return flux.sum(axis=0), velocity[on] @ flux / flux.sum(axis=0)


def off_line(cube: xr.Dataset, disc: xr.Dataset, band: str) -> list[str]:
    """Return by how much flux [%] and velocity [km/s] of the line are off those of the disc alone, rms over spaxels."""
    near = near_peak(cube)
    (flux, velocity), (true, there) = line_of_disc(cube, band, near), line_of_disc(disc, band, near)
    return [f"{100 * np.sqrt(np.mean((flux / true - 1) ** 2)):.2f}", f"{np.sqrt(np.mean((velocity - there) ** 2)):.2f}"]


def off_aperture(cube: xr.Dataset, plain: xr.Dataset) -> str:
    """Return by how much the light within 1.5 FWHM of the peak is off that without a model [%], and its worst plane."""
    near = near_peak(plain, 1.5)
    light, other = (one.flux.values[20:-20, near].sum(axis=1, dtype=float) for one in (cube, plain))
    ratio = light[np.isfinite(light + other)] / other[np.isfinite(light + other)] - 1
    return f"{100 * ratio.mean():+.3f} (worst {100 * np.abs(ratio).max():.2f})"


def figures(cube: xr.Dataset, plain: xr.Dataset, disc: xr.Dataset, band: str) -> list[str]:
    """Return wiggles, line of the disc and light of the aperture of a cube, against that without a model."""
    return [*(f"{one:.2f}" for one in wiggles(cube)), *off_line(cube, disc, band), off_aperture(cube, plain)]


def measured(whole: xr.Dataset, disc: xr.Dataset, band: str) -> Iterator[list[str]]:
    """Yield the figures, CPU and peak memory (with that of the exposures), without and with the model."""
    plain = None
    for with_model in (False, True):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        start = time.process_time()
        model = fit_trace_model(whole, band=band) if with_model else None
        cube = build_cube(whole, band=band, trace_model=model)
        cost = f"{time.process_time() - start:.1f}", f"{memory_gb():.2f}"
        plain = cube if plain is None else plain
        name = "with" if with_model else "without"
        yield [name, *figures(cube, plain, build_cube(disc, band=band), band), *cost]


def of_jwst(whole: xr.Dataset, disc: xr.Dataset, band: str, python: str) -> Iterator[list[str]]:
    """Yield the same of jwst on the same cal files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "refs").mkdir()
        limits = {b: (mrs.SPAXEL_SIZE[int(b[0])], mrs.WAVELENGTH_STEP[int(b[0])], *mrs.WAVELENGTH_LIMITS[b])
                  for b in mrs.BANDS}  # fmt: skip
        tables = cubepar_tables(limits, emsm={b: EMSM_DEFAULTS[int(b[0])] for b in mrs.BANDS})
        write_reference(folder / "refs" / "cubepar.fits", "cubepar", {"useafter": "2022-01-01T00:00:00"}, tables=tables)
        env = os.environ | build_crds_cache(folder / "refs", folder / "crds") | {"OMP_NUM_THREADS": "1"}
        env.pop("PYTHONPATH", None)
        side, cubes = Path(__file__).with_name("jwst_side.py").resolve(), {}
        word = {"A": "short", "B": "medium", "C": "long"}[band[1]]
        for kind, what, ds in (("disc", "cube", disc), ("without", "cube", whole), ("with", "trace", whole)):
            there = folder / kind
            cals = sorted(map(str, mx.save(ds, there / "cal")))
            for path in cals:
                with fits.open(path, mode="update") as file:
                    file[0].header.update({"DATE-OBS": "2023-01-01", "TIME-OBS": "00:00:00.000", "S_WCS": "COMPLETE"})
            subprocess.run([python, str(side), what, str(there), *cals], env=env, cwd=there, check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
            cubes[kind] = mx.load(there / f"theirs_ch{band[0]}-{word}_s3d.fits").compute()
            if kind != "disc":
                answer = json.loads((there / f"jwst_{what}.json").read_text())
                cost = f"{answer['cpu'] + answer.get('cpu_of_model', 0.0):.1f}", f"{answer['peak_gb']:.2f}"
                yield [f"jwst {kind}", *figures(cubes[kind], cubes["without"], cubes["disc"], band), *cost]


def pulls(ds: xr.Dataset, band: str, noise: float, draws: int) -> list[str]:
    """Return pulls without and with the model of voxels and of an aperture, and the scatter of means over planes."""
    found: dict[bool, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {False: [], True: []}
    for seed in range(draws):
        one = noisy(ds, 0.0, noise, 100 + seed)
        for model in (None, fit_trace_model(one, band=band)):
            cube = build_cube(one, band=band, trace_model=model)
            if not seed and model is None:
                near, whole = near_peak(cube), np.isfinite(cube.flux.values[:, near_peak(cube)]).all(axis=1)
                inner = np.flatnonzero(whole)[12:-12]
                wide = near_peak(cube, 1.5) & np.isfinite(cube.flux.values[inner]).all(axis=0)
                weights = xr.DataArray(np.broadcast_to(wide * 1.0, cube.flux.shape), dims=cube.flux.dims)
                total = mx.cube.sum_variance(one, cube=cube, weights=weights)["var"].values[inner]
                each = cube["var"].values[inner][:, near]
            flux = cube.flux.values[inner].astype(float)
            means = flux[: inner.size // 25 * 25, near].reshape(-1, 25, int(near.sum())).mean(axis=1)
            found[model is not None].append((flux[:, near], flux[:, wide].sum(axis=1), means))
    spread = [[np.var(column, axis=0, ddof=1) for column in zip(*found[key], strict=True)] for key in (False, True)]
    ratios = [[np.sqrt(np.mean(one[k] / by)) for one in spread] for k, by in ((0, each), (1, total))]
    together = np.sqrt(spread[1][2].mean() / spread[0][2].mean())
    return [*(f"{a:.2f}; {b:.2f}" for a, b in ratios), f"{together:.2f}"]


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bands", nargs="+", default=["1A", "2A", "3A"])
    parser.add_argument("--dithers", nargs="+", type=int, default=[4, 2, 1])
    parser.add_argument("--geometry", type=Path)
    parser.add_argument("--jwst")
    parser.add_argument("--errors", type=int)
    args = parser.parse_args()
    if args.geometry:
        simulated.instrument_of = functools.cache(
            lambda setting: make_instrument(load_geometry(setting, args.geometry), Effects.none(), 1)
        )
    if args.errors:
        print("band | dithers | peak / noise | voxels without; with | aperture | 25 planes, with / without")
        for band in args.bands:
            whole = observed(band, max(args.dithers), 7).isel(y=slice(380, 640))
            for n, noise in itertools.product(args.dithers, (1 / 300, 1 / 100, 1 / 5)):
                ds = whole.isel(dither=slice(n))
                print(band, n, f"{1 / noise:.0f}", *pulls(ds, band, noise, args.errors), sep=" | ", flush=True)
        return
    print(
        "band | dithers | model | core | 0.6-1 FWHM | line: flux | velocity | aperture | CPU, cube too [s] | peak [GB]"
    )
    for band in args.bands:
        whole, disc = (observed(band, max(args.dithers), 7, flux) for flux in (60.0, 1e-9))
        for n in args.dithers:
            both = whole.isel(dither=slice(n)), disc.isel(dither=slice(n))
            sides = [measured(*both, band)] + ([of_jwst(*both, band, args.jwst)] if args.jwst else [])
            for row in itertools.chain(*sides):
                print(band, n, *row, sep=" | ", flush=True)


if __name__ == "__main__":
    main()
