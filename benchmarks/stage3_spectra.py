"""Spectra of stage 3: beside jwst's extract_1d and spectral_leak, against the truth, and on real data.

    python benchmarks/stage3_spectra.py --folder compare_jwst --jwst-python PYTHON [--shared FOLDER] [--only PART ...]

``--folder`` holds what ``compare_jwst.py`` made: made.json and, in cube/, the cubes of jwst. Parts: parity, optimal,
pulls, leak, scenes, real. Called by ``compare_jwst.py --stage 3`` through :func:`run`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("parity", "optimal", "pulls", "leak", "scenes", "real")
#: How jwst is run on each cube, and the same for this package.
CASES = {
    "target": ({"ifu_set_srctype": "POINT", "ifu_autocen": False}, {"source_type": "POINT"}),
    "autocen": (  # of a radius beyond the table of the aperture correction
        {"ifu_set_srctype": "POINT", "ifu_autocen": True, "ifu_rscale": 1.3},
        {"source_type": "POINT", "autocen": True, "radius_factor": 1.3},
    ),
    "no background": (
        {"ifu_set_srctype": "POINT", "ifu_autocen": True, "subtract_background": False, "ifu_covar_scale": 1.7},
        {"source_type": "POINT", "autocen": True, "background": None, "covariance_scale": 1.7},
    ),
    "wide": (
        {"ifu_set_srctype": "POINT", "ifu_autocen": True, "ifu_rscale": 3.0},
        {"source_type": "POINT", "autocen": True, "radius_factor": 3.0},
    ),
    "extended": ({"ifu_set_srctype": "EXTENDED"}, {"source_type": "EXTENDED"}),
}  # fmt: skip
COLUMNS = {"FLUX": "flux", "SURF_BRIGHT": "surface_brightness", "BACKGROUND": "background", "NPIXELS": "n_pixels"}
ERRORS = {"FLUX_ERROR": "var", "SB_ERROR": "surface_brightness_var", "BKGD_ERROR": "background_var"}
FRINGELESS = ("RF_FLUX", "RF_SURF_BRIGHT", "RF_BACKGROUND")
RA, DEC = 339.015, 33.976
OFFSETS = [(1.1, 0.7), (-1.0, 0.9), (1.0, -0.85), (-1.1, -0.75)]


def run(folder: Path, jwst_python: str | None, table, shared: Path | None = None, only=PARTS) -> None:
    """Run the parts; rows go to ``table``."""
    for path in (ROOT / "tests", ROOT / "tests" / "cube", ROOT / "tests" / "spectrum"):
        sys.path.insert(0, str(path))
    folder = Path(folder)
    if "parity" in only and jwst_python:
        compare_extraction(folder, jwst_python, table)
        compare_leak(folder, jwst_python, table)
    if "optimal" in only:
        compare_optimal(table)
    if "pulls" in only:
        compare_pulls(table)
    if "leak" in only:
        remove_leak(table)
    if "scenes" in only:
        judge_scenes(table)
    if "real" in only and shared is not None:
        real_data(shared, folder, table)
    if "real" in only and shared is not None and jwst_python:
        compare_fringes(shared / "data", folder, jwst_python, table)


# --- jwst's side: runs in its own environment ---


def side(task: str, folder: str, *paths: str) -> None:
    """Run extract_1d on cubes, the fringe fit or do_correction on arrays; imports nothing of mrsxr."""
    if task == "extract":
        from jwst.extract_1d import Extract1dStep

        for path in paths:
            for name, (options, _) in CASES.items():
                out = Path(folder) / f"{Path(path).stem}_{name.replace(' ', '-')}_x1d.fits"
                if not out.exists():
                    Extract1dStep.call(path, **options).save(str(out))
        return
    if task == "fringes":
        from jwst.residual_fringe.utils import fit_residual_fringes_1d

        given, found, start = np.load(paths[0]), {}, time.perf_counter()
        for name in given.files:
            wave, flux = given[name]
            found[name] = fit_residual_fringes_1d(flux, wave, channel=int(name[0]))
        np.savez(Path(folder) / "fringes.npz", **found, seconds=time.perf_counter() - start)
        return
    from jwst.spectral_leak.spectral_leak import do_correction
    from stdatamodels.jwst import datamodels as dm

    given, reference = np.load(paths[0]), paths[1]
    models = []
    for band in ("1B", "3A"):
        rows = np.zeros(given[f"wave_{band}"].size, dtype=dm.MRSSpecModel().get_dtype("spec_table"))
        for column, name in (("WAVELENGTH", "wave"), ("FLUX", "flux"), ("RF_FLUX", "rf_flux")):
            rows[column] = given[f"{name}_{band}"]
        model = dm.MRSMultiSpecModel()
        model.spec.append(dm.MRSSpecModel(spec_table=rows))
        models.append(model)
    flux, rf_flux = do_correction(reference, *models)
    np.savez(Path(folder) / "leak.npz", flux=flux, rf_flux=rf_flux)


def ask_jwst(folder: Path, jwst_python: str, task: str, *paths) -> Path:
    """Run :func:`side`; return its folder."""
    out = folder / "spectra"
    out.mkdir(exist_ok=True)
    made = json.loads((folder / "made.json").read_text())
    env = {**os.environ, **{k: str(v) for k, v in made["crds"].items()}, "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONPATH", None)
    command = [jwst_python, __file__, "--side", task, str(out), *map(str, paths)]
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return out


def references(folder: Path, *kinds: str):
    """Return the references of kinds in the simulation's folder."""
    from mrsxr.references import read_reference

    made = json.loads((folder / "made.json").read_text())
    found = {k: sorted(Path(made["refs"]).glob(f"*{k}*"))[0] for k in kinds}
    return tuple(read_reference(path, kind) for kind, path in found.items())


# --- parity ---


def compare_extraction(folder: Path, jwst_python: str, table) -> None:
    """Compare every column of the spectra that both make from jwst's cubes."""
    from astropy.io import fits

    from mrsxr.io import load
    from mrsxr.spectrum import extract_spectrum
    from mrsxr.spectrum.aperture import pixel_to_sky
    from mrsxr.spectrum.centre import target_of
    from mrsxr.spectrum.fringe_1d import correct_residual_fringe_1d

    cubes = sorted((folder / "cube").glob("theirs_*_s3d.fits"))
    out = ask_jwst(folder, jwst_python, "extract", *cubes)
    extract1d, apcorr = references(folder, "extract1d", "apcorr")
    for path in cubes:
        cube = load(path).compute()
        for name, (_, options) in CASES.items():
            options = {"centering": "daofind", "like_jwst": True, "autocen": False} | options
            if not options["autocen"]:  # jwst moves the target to the middle of its spaxel
                options["center"] = pixel_to_sky(cube, *np.rint(target_of(cube)))
            ours = extract_spectrum(cube, extract1d=extract1d, apcorr=apcorr, **options)
            theirs = fits.getdata(out / f"{path.stem}_{name.replace(' ', '-')}_x1d.fits", "EXTRACT1D")
            what, good = f"x1d {cube.attrs['band']} {name}", theirs["DQ"] == 0
            worst = {}
            for column, variable in (COLUMNS | ERRORS).items():
                values = ours[variable].values
                values = np.sqrt(values) if column in ERRORS else values
                if options.get("background", "annulus") is None and column.startswith(("BACK", "BKGD")):
                    continue  # 0 in jwst, NaN here
                worst[column] = float(np.nanmax(np.abs(values[good] / theirs[column][good] - 1)))
            column = max(worst, key=worst.get)
            same = bool(np.array_equal(ours["dq"].values, theirs["DQ"]))
            table.add(f"{what}: {len(worst)} columns, DQ", f"max {worst[column]:.1e} ({column})", "<= 1e-3, DQ equal",
                      worst[column] <= 1e-3 and same)  # fmt: skip
            fringeless = correct_residual_fringe_1d(ours)
            for column in FRINGELESS[: 2 if name == "no background" else 3]:
                ratio = fringeless[column.lower()].values[good] / theirs[column][good] - 1
                size = float(np.nanstd(theirs[column][good] / theirs[column[3:]][good]))
                table.add(f"{what} {column}", f"max {np.nanmax(np.abs(ratio)):.1e}, fringes {size:.1e}", "<= 1e-3",
                          np.nanmax(np.abs(ratio)) <= 1e-3)  # fmt: skip


def made_spectrum(band: str, flux):
    """Return a spectrum of a band."""
    import xarray as xr

    from mrsxr import dq, mrs, schema

    low, high = mrs.WAVELENGTH_LIMITS[band]
    wave = np.arange(low, high, mrs.WAVELENGTH_STEP[int(band[0])])
    value = flux(wave)
    columns = {"flux": value, "rf_flux": 0.99 * value, "var": (0.01 * value) ** 2, "surface_brightness": 50 * value,
               "surface_brightness_var": (0.5 * value) ** 2, "background": 0 * value,
               "n_pixels": 1 + 0 * value}  # fmt: skip
    units = {k: "Jy" if k == "rf_flux" else schema.units_of("spectrum", k) for k in columns}
    data = {k: ("wavelength", v, {"units": units[k]}) for k, v in columns.items()}
    data["dq"] = ("wavelength", np.zeros(wave.size, "u4"), dq.PIXEL_DQ_ATTRS)
    coords = {"wavelength": ("wavelength", wave, {"units": "um"}), "band": ("wavelength", np.full(wave.size, band))}
    attrs = {"level": "spectrum", "band": band, "source_type": "POINT", "history_json": "[]"}
    return xr.Dataset(data, coords, attrs)


def compare_leak(folder: Path, jwst_python: str, table) -> None:
    """Compare the corrected 3A spectrum with that of jwst's do_correction."""
    from mrsxr.spectrum import correct_spectral_leak

    made = json.loads((folder / "made.json").read_text())
    spectra = {b: made_spectrum(b, lambda w: 0.4 * (w / 6) ** -1.3 * (1 + 0.1 * np.sin(40 * w))) for b in ("1B", "3A")}
    path = folder / "leak_in.npz"
    arrays = {f"{new}_{b}": s[old].values for b, s in spectra.items()
              for new, old in (("wave", "wavelength"), ("flux", "flux"), ("rf_flux", "rf_flux"))}  # fmt: skip
    np.savez(path, **arrays)
    reference = sorted(Path(made["refs"]).glob("*mrsptcorr*"))[0]
    theirs = np.load(ask_jwst(folder, jwst_python, "leak", path, reference) / "leak.npz")
    (mrsptcorr,) = references(folder, "mrsptcorr")
    ours = correct_spectral_leak(spectra["3A"], leaking=spectra["1B"], mrsptcorr=mrsptcorr)
    for name in ("flux", "rf_flux"):
        worst = float(np.max(np.abs(ours[name].values / theirs[name] - 1)))
        table.add(f"spectral_leak {name}", f"max {worst:.1e}", "<= 1e-5", worst <= 1e-5)


def real_spectra(folder: Path) -> dict:
    """Return the spectra (wavelength, flux) of VV 114, a star and spaxels of NGC 7469; names begin with the channel."""
    import gzip

    from astropy.io import fits

    found = {}
    for path in sorted((folder / "vv114").glob("*_s1d.fits")):
        rows = fits.getdata(path, 1)
        found[f"{path.stem[13]} VV 114 {path.stem}"] = rows["wavelength"], 1e6 * rows["flux"]
    with gzip.open(folder / "calibrators_mirideep" / "hd163466_0624_per_dither.fits.gz") as raw, fits.open(raw) as file:
        for part in file[1:]:
            found[f"{part.name[2]} HD 163466 {part.name}"] = part.data["WAVELENGTH"], part.data["FLUX_D1"]
    for path in sorted((folder / "s3d_ngc7469").glob("*_s3d.fits.gz")):
        data, header = fits.getdata(path, "SCI", header=True)
        wave = header["CRVAL3"] + header["CDELT3"] * (np.arange(len(data)) + 1 - header["CRPIX3"])
        y, x = (n // 2 for n in data.shape[1:])
        for dy, dx in ((0, 0), (3, 0), (0, 4), (-4, 3), (6, -5)):
            found[f"4 NGC 7469 {path.stem} {dy} {dx}"] = wave, data[:, y + dy, x + dx]
    return {name: np.stack([np.asarray(v, dtype=float) for v in pair]) for name, pair in found.items()}


def compare_fringes(data: Path, folder: Path, jwst_python: str, table) -> None:
    """Correct real spectra with both; compare numbers and time."""
    from mrsxr.fringes import correct_spectra

    spectra = real_spectra(data)
    path = folder / "fringes_in.npz"
    np.savez(path, **spectra)
    theirs = np.load(ask_jwst(folder, jwst_python, "fringes", path) / "fringes.npz")
    for name, (wave, flux) in itertools.islice(spectra.items(), 1):
        correct_spectra(wave, flux, channel=int(name[0]))  # compiled
    start = time.perf_counter()
    ours = {name: correct_spectra(wave, flux, channel=int(name[0]))[0] for name, (wave, flux) in spectra.items()}
    seconds = time.perf_counter() - start
    for target in ("VV 114", "HD 163466", "NGC 7469"):
        names = [name for name in spectra if target in name]
        good = [spectra[name][1] > 0 for name in names]
        off = [np.abs(ours[n][g] / theirs[n][g] - 1).max() for n, g in zip(names, good, strict=True)]
        size = np.median([np.std(theirs[n][g] / spectra[n][1][g]) for n, g in zip(names, good, strict=True)])
        table.add(f"1-D fringes of {target}, {len(names)} spectra", f"max {max(off):.1e}, fringes {size:.1e}",
                  "<= 1e-3", max(off) <= 1e-3)  # fmt: skip
    table.add("1-D fringes, time of jwst over ours", f"{float(theirs['seconds']) / seconds:.0f}", ">= 50",
              float(theirs["seconds"]) >= 50 * seconds)  # fmt: skip


# --- truth ---


def point_cal(setting: str, effects=None, *, flat: float = 0.0, point: bool = True, index: float = 0.0):
    """Return noiseless cal data of a point source (50 mJy at 10 um) or of uniform light."""
    from simulated import cal_of

    from mrsxr.simulate import PointSource, PowerLaw, Scene

    source = (PointSource(RA, DEC, PowerLaw(50.0, index)),) if point else ()
    scene = Scene(RA, DEC, points=source, background=lambda w: flat + np.zeros(np.shape(w)))
    return cal_of(scene, setting, OFFSETS, effects)


def window(band: str, planes: int) -> dict:
    """Return the limits of some planes in the middle of a band."""
    from mrsxr import mrs

    low, high = mrs.WAVELENGTH_LIMITS[band]
    half = 0.5 * planes * mrs.WAVELENGTH_STEP[int(band[0])]
    return {"wavelength_min": 0.5 * (low + high) - half, "wavelength_max": 0.5 * (low + high) + half}


def noisy(cal, sigma: float, seed: int):
    """Return cal data with noise of a sigma [MJy/sr] in every pixel, and that as variance."""
    noise = np.random.default_rng(seed).standard_normal(cal.flux.shape).astype("f4") * np.float32(sigma)
    attrs = cal["var_read"].attrs
    zero = (cal["var_read"] * 0).assign_attrs(attrs)
    flux, var = (cal.flux + noise).assign_attrs(cal.flux.attrs), (zero + sigma**2).assign_attrs(attrs)
    return cal.assign(flux=flux, var_poisson=zero, var_flat=zero, var_read=var)


def compare_optimal(table) -> None:
    """Flux and scatter of both extractions of a point source, bright to faint."""
    from mrsxr.cube import build_cube
    from mrsxr.spectrum import extract_spectrum

    for setting, band in (("12A", "1A"), ("34A", "3A")):
        cal = point_cal(setting)
        clean = build_cube(cal, band=band, center=(RA, DEC), **window(band, 100)).compute()
        peak = float(np.nanmax(clean.flux))
        truth = extract_spectrum(clean, source_type="POINT", center=(RA, DEC)).flux.values
        for signal in (1000, 30, 3):
            noise = noisy(cal, 1.5 * peak / signal, 7)
            cube = build_cube(noise, band=band, center=(RA, DEC), **window(band, 100)).compute()
            found = [extract_spectrum(cube, source_type="POINT", center=(RA, DEC), **o).flux.values
                     for o in ({}, {"method": "optimal"})]  # fmt: skip
            ratio = found[1].mean() / found[0].mean()
            spread = [float(np.std(f / truth)) for f in found]
            limit = max(0.01, 4 * spread[0] / np.sqrt(len(truth) / 4))
            table.add(f"optimal {band} S/N {signal}: flux over aperture's", f"{ratio:.4f}", f"1 +- {limit:.3f}",
                      abs(ratio - 1) <= limit)  # fmt: skip
            if signal <= 30:
                table.add(f"optimal {band} S/N {signal}: scatter", f"{spread[1]:.4f} (aperture {spread[0]:.4f})",
                          "below the aperture's", spread[1] < spread[0])  # fmt: skip


def compare_pulls(table, draws: int = 24) -> None:
    """Deviations of fluxes over their errors, with and without covariance."""
    from mrsxr.cube import build_cube
    from mrsxr.cube.covariance import sum_variance
    from mrsxr.spectrum import extract_spectrum, extraction_weights

    cal, band = point_cal("12A", flat=20.0), "1A"
    limits = {"center": (RA, DEC), **window(band, 360)}
    clean = build_cube(noisy(cal, 0.0, 0), band=band, **limits).compute()
    sigma = 0.05 * float(np.nanmax(clean.flux))
    options = {
        "aperture": {"clip_sigma": 30.0}, "no background": {"background": None},
        "optimal": {"method": "optimal", "clip_sigma": 30.0},
    }  # fmt: skip
    pulls: dict[str, list] = {k: [] for k in options}
    simple: dict[str, list] = {k: [] for k in options}
    exact = {}
    for draw in range(draws):
        ds = noisy(cal, sigma, 100 + draw)
        cube = build_cube(ds, band=band, **limits).compute()
        for name, o in options.items():
            kind = {"source_type": "POINT", "center": (RA, DEC), **o}
            found = extract_spectrum(cube, **kind)
            if name not in exact:
                weights = extraction_weights(cube, found)
                variance = sum_variance(ds, cube=cube, weights=weights)["var"].compute().values
                truth = np.nansum(weights.values * clean.flux.values.astype(float), axis=(1, 2))
                exact[name] = variance, truth
            variance, truth = exact[name]
            pulls[name].append(((found.flux.values - truth) / np.sqrt(variance))[::5])
            simple[name].append(((found.flux.values - truth) / np.sqrt(found["var"].values))[::5])
    for name in options:
        std, without = (float(np.std(np.concatenate(p[name]))) for p in (pulls, simple))
        table.add(f"pulls of {draws} draws, {name}", f"std {std:.3f} (simple {without:.3f})", "1.00 +- 0.05",
                  abs(std - 1) <= 0.05)  # fmt: skip


def remove_leak(table) -> None:
    """Leak put into 3A by the simulator, taken out of spectra and of cubes with the help of 1B."""
    import xarray as xr

    from mrsxr.cube import build_cube
    from mrsxr.cube.spectral_leak import correct_spectral_leak_cube
    from mrsxr.simulate import Effects
    from mrsxr.simulate.references import aperture_correction as closed_form
    from mrsxr.simulate.references import apertures
    from mrsxr.simulate.render import leak_fraction
    from mrsxr.spectrum import correct_spectral_leak, extract_spectrum

    wave = np.arange(11.4, 13.6, 0.01)
    fraction = leak_fraction(wave)
    variables = {"frac_leak": ("wavelength", fraction), "err_leak": ("wavelength", 0.03 * fraction)}
    mrsptcorr = xr.Dataset(
        variables, {"wavelength": wave}, {"level": "reference", "kind": "mrsptcorr", "ref_id": "made"}
    )
    leaky = replace(Effects.none(), leak=True)
    blue_limits = {"wavelength_min": 5.95, "wavelength_max": 6.3, "center": (RA, DEC)}
    red_limits = {"wavelength_min": 11.95, "wavelength_max": 12.5, "center": (RA, DEC)}
    for name, options in (("point", {"index": 0.0}), ("uniform", {"point": False, "flat": 50.0})):
        blue = build_cube(point_cal("12B", **options), band="1B", **blue_limits).compute()
        clean, red = (build_cube(point_cal("34A", e, **options), band="3A", **red_limits).compute()
                      for e in (None, leaky))  # fmt: skip
        kind = "POINT" if name == "point" else "EXTENDED"
        found = correct_spectral_leak_cube(red, leaking=blue, mrsptcorr=mrsptcorr)
        if name == "point":
            o = {"source_type": "POINT", "center": (RA, DEC)}
            flux = [extract_spectrum(c, **o).flux.values for c in (clean, red, found)]
        else:
            flux = [np.nanmean(c.flux.values, axis=(1, 2)) for c in (clean, red, found)]
        before, after = (float(np.max(np.abs(f / flux[0] - 1))) for f in flux[1:])
        table.add(f"leak on cubes, {name}", f"{before:.4f} -> {after:.5f}", "<= 0.001 left", after <= 1e-3)
        o = {"source_type": kind, "center": (RA, DEC), "radius": 0.9} if kind == "EXTENDED" else {"source_type": kind,
            "center": (RA, DEC)}  # fmt: skip
        spectra = [extract_spectrum(c, **o) for c in (clean, red, blue)]
        if kind == "POINT":
            for s in spectra:
                s["flux"] = s.flux * closed_form(s.wavelength.values, *apertures(s.wavelength.values))
        found = correct_spectral_leak(spectra[1], leaking=spectra[2], mrsptcorr=mrsptcorr)
        variable = "flux" if kind == "POINT" else "surface_brightness"
        before, after = (float(np.max(np.abs(s[variable] / spectra[0][variable] - 1))) for s in (spectra[1], found))
        table.add(f"leak on spectra, {name}", f"{before:.4f} -> {after:.5f}", "<= 0.001 left", after <= 1e-3)


def judge_scenes(table, repeats: int = 3) -> None:
    """Point or extended over a set of made-up scenes."""
    from scenes import SCENES, cube_of

    from mrsxr.spectrum import decide_source_type

    right = total = marked = unsure = seed = 0
    for kind, sizes, truth in SCENES:
        for size in sizes:
            for signal in (5, 14, 30, 100, 1000):
                for band in ("1A", "2B", "3A", "4C")[:repeats]:
                    seed += 1
                    found = decide_source_type(cube_of(kind, size, signal, band, seed)).attrs
                    if truth != "either" and (signal >= 30 or kind == "empty"):
                        total += 1
                        right += found["source_type"] == truth and not found["ambiguous"]
                    if kind in ("two", "point on disc") and signal >= 100:
                        unsure += 1
                        marked += bool(found["ambiguous"])
    table.add("point or extended, clear scenes", f"{right} of {total} right", "> 95 %", right > 0.95 * total)
    table.add(
        "two points, point on disc, S/N >= 100", f"{marked} of {unsure} ambiguous", ">= 80 %", marked >= 0.8 * unsure
    )


# --- real data ---


def real_data(shared: Path, folder: Path, table) -> None:
    """Stitch VV 114; extract, correct and stitch NGC 7469."""
    spectrum = stitch_vv114(shared / "data" / "vv114", table)
    extract_star(shared / "data" / "s3d_example" / "16CygB_ch4-short_s3d_cutout.fits.gz", table)
    nucleus = reduce_ngc7469(shared / "data" / "s3d_ngc7469", table)
    draw(folder / "stage3_spectra.png", spectrum, *nucleus)


def stitch_vv114(folder: Path, table):
    """Return the spectrum of VV 114 in one piece."""
    import xarray as xr
    from astropy.io import fits

    from mrsxr import dq
    from mrsxr.spectrum import stitch_bands

    names = {"SHORT": "A", "MEDIUM": "B", "LONG": "C"}
    bands = []
    for path in sorted(folder.glob("*_s1d.fits")):
        rows = fits.getdata(path, 1)
        channel, grating = path.stem.split("_")[2:4]
        band = channel[2] + names[grating]
        wave, flux, error = (np.asarray(rows[c], dtype=float) for c in ("wavelength", "flux", "uncertainty"))
        columns = {"flux": (1e6 * flux, "Jy"), "var": ((1e6 * error) ** 2, "Jy2"),
                   "surface_brightness": (1e6 * flux, "MJy/sr"),
                   "surface_brightness_var": ((1e6 * error) ** 2, "MJy2/sr2"),
                   "background": (0 * flux, "MJy/sr"), "n_pixels": (0 * flux, "1")}  # fmt: skip
        data = {k: ("wavelength", v, {"units": u}) for k, (v, u) in columns.items()}
        bad = ~np.isfinite(flux) | ~np.isfinite(error)
        data["dq"] = ("wavelength", bad.astype("u4"), dq.PIXEL_DQ_ATTRS)
        coords = {"wavelength": ("wavelength", wave, {"units": "um"}), "band": ("wavelength", np.full(wave.size, band))}
        attrs = {"level": "spectrum", "band": band, "source_type": "POINT", "target": "VV 114", "history_json": "[]"}
        bands.append(xr.Dataset(data, coords, attrs))
    out = stitch_bands(bands, method="multiplicative", reference_band="2A")
    factors, errors = (dict(zip(out.stitched_band.values.tolist(), out[k].values, strict=True))
                       for k in ("scale_factor", "scale_error"))  # fmt: skip
    print("VV 114, factors to 2A: " + ", ".join(f"{b} {factors[b]:.4f}({errors[b]:.4f})" for b in sorted(factors)))
    wave = out.wavelength.values
    whole = np.isfinite(out.flux.values).mean() > 0.99 and wave[0] < 4.95 and wave[-1] > 28
    found = f"{wave[0]:.2f} - {wave[-1]:.2f} um, {len(factors)} bands"
    table.add("VV 114 in one piece", found, "4.9 - 28 um, 12 bands",
              whole and len(factors) == 12)  # fmt: skip
    by_band = {b.attrs["band"]: b for b in bands}
    order = sorted(factors)
    steps = {f"{a}-{b}": step_between(by_band[a], by_band[b], factors[a], factors[b])
             for a, b in itertools.pairwise(order)}  # fmt: skip
    print("VV 114, steps left at the cuts: " + ", ".join(f"{k} {step:.4f}" for k, step in steps.items()))
    worst = max(map(abs, steps.values()))
    table.add("VV 114 steps after stitching", f"max {worst:.4f}", "<= 0.01 (data of 2022)", worst <= 0.01)
    return out


def step_between(left, right, left_factor: float, right_factor: float) -> float:
    """Return the median relative difference of two scaled bands in the middle half of their overlap."""
    low, high = float(right.wavelength[0]), float(left.wavelength[-1])
    wave = right.wavelength.values
    near = np.abs(wave - 0.5 * (low + high)) <= 0.25 * (high - low)
    before = np.interp(wave[near], left.wavelength.values, left.flux.values) * left_factor
    return float(np.nanmedian(right.flux.values[near] * right_factor / before - 1))


def reduce_ngc7469(folder: Path, table):
    """Return the bands of the nucleus of NGC 7469 and the spectrum in one piece."""
    from mrsxr.io import load
    from mrsxr.spectrum import decide_source_type, extract_spectrum, stitch_bands
    from mrsxr.spectrum.fringe_1d import correct_residual_fringe_1d

    cubes = [load(path).compute() for path in sorted(folder.glob("*_s3d.fits.gz"))]
    verdict = decide_source_type(cubes).attrs
    table.add("NGC 7469: AGN in a starburst ring", f"{verdict['source_type']}, ambiguous {verdict['ambiguous']}",
              "ambiguous", verdict["ambiguous"] == 1)  # fmt: skip
    bands = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for method in ("aperture", "optimal"):
            found = [extract_spectrum(c, source_type="POINT", method=method) for c in cubes]
            bands.append([correct_residual_fringe_1d(s) for s in found])
    n_told = sum("no point source" in str(w.message) for w in told)
    table.add("NGC 7469: optimal tells that it is no point", f"{n_told} of 3 bands", "3 of 3", n_told == 3)
    out = stitch_bands(bands[0], method="multiplicative", reference_band="4A")
    factors = dict(zip(out.stitched_band.values.tolist(), out.scale_factor.values, strict=True))
    print("NGC 7469, factors to 4A: " + ", ".join(f"{b} {f:.4f}" for b, f in sorted(factors.items())))
    for s in bands[0]:
        size = float(np.nanstd(s.rf_flux / s.flux))
        print(f"NGC 7469 {s.attrs['band']}: fringes taken off {size:.1e} rms")
    return bands[0], bands[1], out


def extract_star(path: Path, table) -> None:
    """Extract a real star both ways."""
    from mrsxr.io import load
    from mrsxr.spectrum import decide_source_type, extract_spectrum

    cube = load(path).compute()
    verdict = decide_source_type(cube).attrs
    table.add("16 Cyg B (4A), a star", f"{verdict['source_type']}, ambiguous {verdict['ambiguous']}", "POINT, 0",
              verdict["source_type"] == "POINT" and verdict["ambiguous"] == 0)  # fmt: skip
    options = {"source_type": "POINT", "background": None}  # the cutout ends before the annulus
    circle, profile = (extract_spectrum(cube, method=m, **options).flux.values for m in ("aperture", "optimal"))
    n = len(circle) // 25 * 25
    sums = [np.nansum(f[:n].reshape(-1, 25), axis=1) for f in (profile, circle)]
    wobble = float(np.std(sums[0] / sums[1]))
    noise = [float(np.nanstd(np.diff(f, 2)) / np.sqrt(6) / np.nanmedian(f)) for f in (circle, profile)]
    table.add("16 Cyg B optimal over aperture", f"wobble {wobble:.4f}, noise {noise[1]:.4f} ({noise[0]:.4f})",
              "<= 0.01", wobble <= 0.01)  # fmt: skip


def draw(path: Path, galaxy, aperture, optimal, nucleus) -> None:
    """Save a picture of both galaxies."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(11, 11), layout="constrained")
    axes[0].plot(galaxy.wavelength, galaxy.flux_unscaled, lw=0.4, color="0.6", label="unscaled")
    axes[0].plot(galaxy.wavelength, galaxy.flux, lw=0.5, color="C0", label="stitched")
    axes[0].set(xscale="log", yscale="log", title="VV 114", xlabel="wavelength [um]", ylabel="flux [Jy]")
    for one, best in zip(aperture, optimal, strict=True):
        axes[1].plot(one.wavelength, one.flux, lw=0.5, color="0.6")
        axes[1].plot(best.wavelength, best.flux, lw=0.5, color="C1")
        axes[2].plot(one.wavelength, one.rf_flux / one.flux, lw=0.6)
    axes[1].plot(nucleus.wavelength, nucleus.rf_flux, lw=0.6, color="C0", label="fringes off, stitched")
    axes[1].plot([], [], color="C1", label="optimal")
    axes[1].set(title="NGC 7469, channel 4", xlabel="wavelength [um]", ylabel="flux [Jy]")
    axes[2].set(title="NGC 7469, without over with fringes", xlabel="wavelength [um]")
    for axis in axes[:2]:
        axis.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("compare_jwst"))
    parser.add_argument("--jwst-python")
    parser.add_argument("--shared", type=Path, help="Folder of real data; its data/ is read.")
    parser.add_argument("--only", nargs="*", default=PARTS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    from compare_jwst import Table

    run(args.folder, args.jwst_python, Table(), args.shared, args.only)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "--side":
        warnings.simplefilter("ignore")
        side(*sys.argv[2:])
    else:
        main()
