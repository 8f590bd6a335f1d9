"""Backgrounds of stage 3 beside jwst and the truth: master background, background matching, background over the field.

    python benchmarks/stage3_background.py FOLDER --jwst-python /path/to/env/bin/python

FOLDER keeps the simulations (12A: 4 dithers and 2 background exposures, 12B: 2 dithers), the results of jwst and the
picture ``background_match.png``. The same file runs jwst: ``python stage3_background.py side JOB.json`` in its
environment. Truth is compared on the noiseless light of the simulation with the noise of exposures ten times as long
(25 groups are simulated, 69 s).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

SETTINGS = {"12A": (4, 2), "12B": (2, 0)}  # dithers, background exposures
#: Injected into the dithers of 12A: offset [MJy/sr], gradients along alpha and beta [MJy/sr/arcsec].
INJECTED = ((30.0, 8.0, -6.0), (-25.0, -6.0, 7.0), (40.0, 5.0, 9.0), (0.0, 0.0, 0.0))
STEP = 25.0  # MJy/sr between 12A and 12B
LIMIT = 0.02
DEPTH = 10.0  # of the noise, in exposure times of the simulation


# --- the half of jwst ------------------------------------------------------------------------------------


def side(job: str) -> None:
    """Extract the spectra of background exposures and subtract the master background; arrays go to an npz file."""
    import logging

    from jwst.assign_wcs import AssignWcsStep
    from jwst.cube_build import CubeBuildStep
    from jwst.extract_1d import Extract1dStep
    from jwst.master_background import MasterBackgroundStep
    from stdatamodels.jwst import datamodels as dm

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    told = json.loads(Path(job).read_text())
    out = Path(told["out"])
    members = []
    for kind in ("background", "science"):
        for path in told[kind]:
            model = AssignWcsStep.call(dm.IFUImageModel(path))
            if kind == "science":
                members.append({"expname": str(out / Path(path).name), "exptype": kind})
                model.save(members[-1]["expname"])
                continue
            for cube in CubeBuildStep.call(model, output_type="band"):
                spectrum = Extract1dStep.call(cube)
                name = out / Path(path).name.replace("_cal", f"_ch{cube.meta.instrument.channel}_x1d")
                spectrum.save(str(name))
                members.append({"expname": str(name), "exptype": kind})
    asn = {"asn_type": "spec3", "asn_rule": "DMS_Level3_Base", "asn_id": "o004", "asn_pool": "none", "program": "02732",
           "target": "t004", "products": [{"name": "master", "members": members}]}  # fmt: skip
    (out / "asn.json").write_text(json.dumps(asn))
    start = time.process_time()
    result = MasterBackgroundStep.call(str(out / "asn.json"), save_background=True, output_dir=str(out))
    arrays = {"cpu": time.process_time() - start}
    for model in result:
        arrays[Path(model.meta.filename).name.split("_mirif")[0]] = model.data
    with dm.open(next(out.glob("*masterbg1d.fits"))) as combined:
        table = combined.spec[0].spec_table
        for name in ("wavelength", "surf_bright", "sb_error"):
            arrays[name] = np.squeeze(np.array(table[name]))
    np.savez(out / "master.npz", **arrays)


# --- what is compared ------------------------------------------------------------------------------------


def prepare(folder: Path) -> dict:
    """Simulate and reduce to cal data, once."""
    facts = folder / "made.json"
    if facts.exists():
        return json.loads(facts.read_text())
    import mrsxr as mx
    from mrsxr.simulate import simulate_observation

    told = {}
    for setting, (n_dithers, n_background) in SETTINGS.items():
        made = simulate_observation(
            folder / f"sim_{setting}",
            bands=[setting],
            n_groups=25,
            n_integrations=1,
            n_dithers=n_dithers,
            n_background=n_background,
            seed=5,
        )
        refs = mx.References(made.reference_folder)
        told[setting] = {"crds": made.crds, "truth": str(made.truth_folder), "refs": str(made.reference_folder)}
        for kind, files in (("science", made.uncal), ("background", made.background)):
            told[setting][kind] = []
            for path in files:
                rate = mx.make_rate(mx.open_exposures(path), refs).compute()
                written = mx.save(mx.make_cal(rate, refs), folder / f"cal_{setting}")
                written = written if isinstance(written, list | tuple) else [written]
                told[setting][kind] += [str(p) for p in written if str(p).endswith("_cal.fits")]
    facts.write_text(json.dumps(told))
    return told


def run(folder: Path, jwst_python: str, table) -> None:
    """Compare everything.

    Parameters
    ----------
    folder : Path
        Working folder, kept.
    jwst_python : str
        Interpreter with jwst.
    table : Table of compare_jwst
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    made = prepare(folder)
    compare_master(folder, made["12A"], jwst_python, table)
    truth = {setting: true_exposures(made[setting]) for setting in SETTINGS}
    compare_match(folder, truth, table)
    compare_match_on_simulated_slopes(located(made["12A"]), table)
    compare_field(made["12A"], table)


def theirs(folder: Path, made: dict, jwst_python: str) -> tuple[dict, list[Path]]:
    """Return the arrays of jwst and its x1d files, running it once."""
    out = folder / "jwst"
    out.mkdir(exist_ok=True)
    if not (out / "master.npz").exists():
        (out / "job.json").write_text(json.dumps({**made, "out": str(out)}))
        env = {**os.environ, **{k: str(v) for k, v in made["crds"].items()}, "OMP_NUM_THREADS": "1"}
        env.pop("PYTHONPATH", None)
        command = [jwst_python, str(Path(__file__).resolve()), "side", str(out / "job.json")]
        subprocess.run(command, env=env, check=True, cwd=out, stdout=subprocess.DEVNULL)
    with np.load(out / "master.npz") as found:
        return dict(found), sorted(out.glob("*_x1d.fits"))


def compare_master(folder: Path, made: dict, jwst_python: str, table) -> None:
    """Compare the combined spectrum and the subtracted exposures from jwst's own x1d files."""
    from mrsxr.cal.background_combine import combine_backgrounds
    from mrsxr.cal.master_background import subtract_master_background
    from mrsxr.io import load

    found, files = theirs(folder, made, jwst_python)
    located(made)  # compile
    start = time.process_time()
    combined = combine_backgrounds([load(path) for path in files])
    same = combined.sizes["wavelength"] == found["wavelength"].size
    table.add("master background: wavelengths", str(combined.sizes["wavelength"]), str(found["wavelength"].size), same)
    if same:
        table.share("combined wavelength", combined.wavelength.values, found["wavelength"], 1e-9)
        table.share("combined background", combined.background.values, found["surf_bright"], 1e-4, wanted=1.0)
        table.share("combined error", np.sqrt(combined.background_var.values), found["sb_error"], 1e-4, wanted=1.0)
    ds = located(made)
    out = subtract_master_background(ds, background=combined).compute()
    seconds = time.process_time() - start
    for k, name in enumerate(ds.exposure.values):
        wanted = found[str(name).split("_mirif")[0]]
        before, after = ds.flux.values[k], out.flux.values[k]
        good = np.isfinite(wanted) & np.isfinite(after)
        scale = np.abs(before - wanted) + np.abs(wanted)
        table.share(f"exposure {k + 1} after master background", after + scale - wanted, scale, 1e-4, good=good)
        table.equal(f"exposure {k + 1} NaN pattern", np.isnan(after), np.isnan(wanted))
    cpu = float(found["cpu"])
    table.add("master background: cpu", f"{seconds:.2f} s, jwst {cpu:.2f}: x {cpu / seconds:.1f}", ">= x 5",
              cpu / seconds >= 5)  # fmt: skip


def located(made: dict, kind: str = "science"):
    """Return the cal exposures of a setting in memory."""
    from mrsxr.cal.wcs import assign_wcs
    from mrsxr.io import open_exposures
    from mrsxr.references import References

    refs = References(made["refs"])
    ds = open_exposures(made[kind])
    return assign_wcs(ds, **{k: refs.get(k, ds) for k in ("distortion", "specwcs", "regions")}).compute()


def true_exposures(made: dict, kind: str = "science", seed: int = 1):
    """Return exposures of the noiseless light with Gaussian noise, its variance that of the cal data over DEPTH."""
    import xarray as xr

    ds = located(made, kind)
    ds = ds.assign({v: (ds[v] / np.float32(DEPTH)).assign_attrs(ds[v].attrs) for v in ("var_poisson", "var_read")})
    rng = np.random.default_rng(seed)
    flux = ds.flux.values.copy()
    for k, name in enumerate(ds.exposure.values):
        light = xr.load_dataset(Path(made["truth"]) / f"{name}_slope.nc", engine="netcdf4").surface_brightness.values
        sigma = np.sqrt((ds.var_poisson + ds.var_read).values[k])
        flux[k] = np.where(np.isfinite(flux[k]), light + rng.normal(size=light.shape) * sigma, np.nan)
    return ds.assign(flux=(ds.flux.dims, flux.astype("f4"), ds.flux.attrs))


def inject(ds) -> tuple:
    """Add slow functions to all dithers but the last; return data and functions."""
    from mrsxr.mrs import bands_of_setting

    added = np.zeros(ds.flux.shape)
    for number, band in enumerate(bands_of_setting(ds.attrs["setting"])):
        lit = (ds.channel.values == int(band[0])) & (ds.slice.values > 0)
        wave, alpha, beta = ds.wavelength.values[lit], ds.alpha.values[lit], ds.beta.values[lit]
        t = 2 * (wave - wave.min()) / np.ptp(wave) - 1
        for d, (offset, a, b) in enumerate(INJECTED[: ds.sizes["dither"]]):
            trend = 1 + 0.3 * np.sin(1.7 * t + number + d)
            added[d][lit] = offset * trend + a * alpha * (1 + 0.3 * t) + b * beta * (1 - 0.2 * t**2)
    flux = (ds.flux.values + added).astype("f4")
    return ds.assign(flux=(ds.flux.dims, flux, ds.flux.attrs)), added


def subtracted(ds, match) -> tuple[np.ndarray, np.ndarray]:
    """Return the functions that a match subtracts, and their variance."""
    import xarray as xr

    from mrsxr.cal.background_match import match_backgrounds

    blank = ds.assign(flux=xr.zeros_like(ds.flux))
    out = match_backgrounds(blank, match=match)
    return -out.flux.values, out.var_background.values


def parts_of(ds, lit, values) -> np.ndarray:
    """Return offset, gradients and trend (slope over half the band) of a function, by least squares."""
    wave = ds.wavelength.values[lit]
    t = 2 * (wave - wave.min()) / np.ptp(wave) - 1
    columns = np.stack([np.ones(t.size), ds.alpha.values[lit], ds.beta.values[lit], t, t**2], axis=1)
    return np.linalg.lstsq(columns, values[lit], rcond=None)[0][:4]


def compare_match(folder: Path, truth: dict, table) -> None:
    """Recover injected functions on simulated dithers of known light, with a source in the field."""
    from mrsxr.cal.background_match import fit_background_match, match_backgrounds

    plain = truth["12A"]
    spoiled, added = inject(plain)
    last = str(plain.exposure.values[-1])
    fit_background_match(plain.isel(dither=[0, 1]))  # compile
    start = time.process_time()
    match = fit_background_match(spoiled, reference=last)
    fit_cpu = time.process_time() - start
    match_backgrounds(spoiled, match=match)
    start = time.process_time()
    match_backgrounds(spoiled, match=match)
    apply_cpu = time.process_time() - start
    found, variance = subtracted(spoiled, match)
    worst = dict.fromkeys(("offset", "gradient alpha", "gradient beta", "trend", "whole function"), 0.0)
    pulls = []
    for channel in (1, 2):
        lit = (plain.channel.values == channel) & (plain.slice.values > 0)
        sizes, errors = [], []
        for d in range(plain.sizes["dither"] - 1):
            wanted, got = parts_of(plain, lit, added[d]), parts_of(plain, lit, found[d])
            off = (found[d] - added[d])[lit]
            sizes.append([*np.abs(wanted), np.sqrt(np.mean(added[d][lit] ** 2))])
            errors.append([*np.abs(got - wanted), np.sqrt(np.mean(off**2))])
            pulls.append(np.mean(off**2 / variance[d][lit]))
        shares = np.max(errors, axis=0) / np.mean(sizes, axis=0)
        worst = {key: max(v, float(s)) for (key, v), s in zip(worst.items(), shares, strict=True)}
    for key, value in worst.items():
        table.add(
            f"BMF: {key}, worst of 3 dithers x 2 bands", f"{100 * value:.2f} %", "<= 2 % of the size", value <= LIMIT
        )
    pull = float(np.sqrt(np.mean(pulls)))
    table.add("BMF: rms of error / predicted error", f"{pull:.2f}", "0.7 to 1.4", 0.7 < pull < 1.4)
    n = plain.sizes["dither"]
    table.add("BMF: cpu of an exposure", f"fit {fit_cpu / n:.2f} s, subtract {apply_cpu / n:.3f} s", "< 1 s",
              (fit_cpu + apply_cpu) / n < 1)  # fmt: skip
    nothing = fit_background_match(list(truth.values()))
    most = float(np.abs(nothing.coefficients.values).max())
    table.add("BMF: done where nothing differs", f"{most:.3g} MJy/sr", "0", most == 0)
    compare_tie(truth, table)
    picture(folder / "background_match.png", spoiled, added, found, match_backgrounds(spoiled, match=match), plain)


def compare_tie(truth: dict, table) -> None:
    """Find a step between two gratings again."""
    from mrsxr.cal.background_match import fit_background_match

    other = truth["12B"]
    moved = other.assign(flux=(other.flux + np.float32(STEP)).assign_attrs(other.flux.attrs))
    match = fit_background_match([truth["12A"], moved])
    for before, band in (("1A", "1B"), ("2A", "2B")):
        one, two = (match.isel(member=match.band.values == b) for b in (before, band))
        step, error = float(two.level.mean() - one.level.mean()), float(two.level_err.mean())
        good = abs(step - STEP) < max(3 * error, LIMIT * STEP)
        table.add(
            f"BMF: step of {STEP:g} from {before} to {band}", f"{step:.2f} +- {error:.2f}", "3 sigma or 2 %", good
        )


def compare_match_on_simulated_slopes(ds, table) -> None:
    """Inject into data with all effects of the detector: what is found more than without is what was injected."""
    from mrsxr.cal.background_match import fit_background_match

    spoiled, added = inject(ds)
    last = str(ds.exposure.values[-1])
    both = [subtracted(d, fit_background_match(d, reference=last, significance=0))[0] for d in (ds, spoiled)]
    worst = 0.0
    for channel in (1, 2):
        lit = (ds.channel.values == channel) & (ds.slice.values > 0)
        for d in range(ds.sizes["dither"] - 1):
            off = (both[1] - both[0])[d][lit] - added[d][lit]
            worst = max(worst, float(np.sqrt(np.mean(off**2) / np.mean(added[d][lit] ** 2))))
    table.add("BMF: injected into simulated slopes", f"{100 * worst:.3f} %", "<= 2 % of the size", worst <= LIMIT)


def compare_field(made: dict, table) -> None:
    """Compare the background over the field with the truth, for all statistics and degrees."""
    import xarray as xr

    from mrsxr.cal.field_background import fit_field_scale, measure_field_background, subtract_field_background

    ds = true_exposures(made, "background", seed=2)
    name = ds.exposure.values[0]
    light = xr.load_dataset(Path(made["truth"]) / f"{name}_slope.nc", engine="netcdf4").surface_brightness.values
    blank = ds.assign(flux=xr.zeros_like(ds.flux))
    for statistic, degree in (("mean", 0), ("mean", 1), ("mean", 2), ("median", 0), ("median", 1)):
        start = time.process_time()
        measured = measure_field_background(ds, statistic=statistic, degree=degree)
        seconds = time.process_time() - start
        out = subtract_field_background(blank, background=measured)
        lit = ds.slice.values > 0
        error, sigma = (-out.flux.values[0] - light)[lit], np.sqrt(out.var_background.values[0][lit])
        bias, pull = float(np.mean(error)), float(np.sqrt(np.mean((error / sigma) ** 2)))
        limit = 4 * float(np.sqrt(np.mean(sigma**2) / 800))
        good = abs(bias) < limit and 0.8 < pull < 1.2
        table.add(f"field background, {statistic}, degree {degree} ({seconds:.1f} s)",
                  f"bias {bias:+.3f}, pull {pull:.2f}", f"bias < {limit:.2f}, pull 0.8-1.2", good)  # fmt: skip
    brighter = ds.assign(flux=(1.2 * ds.flux).astype("f4").assign_attrs(ds.flux.attrs))
    found = fit_field_scale(brighter, measure_field_background(ds))
    value, error = found.scale.values[0], np.sqrt(found.scale_var.values[0])
    text = ", ".join(f"{v:.3f} +- {e:.3f}" for v, e in zip(value, error, strict=True))
    table.add(
        "field background: factor 1.2 fitted", text, "within 3 sigma", bool((np.abs(value - 1.2) < 3 * error).all())
    )


def picture(path: Path, spoiled, added, found, matched, plain) -> None:
    """Draw injected and recovered functions against wavelength, and the field before and after."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    for axis, channel in zip(axes[0], (1, 2), strict=True):
        labels = np.unique(plain.slice.values[plain.channel.values == channel])
        for d in range(added.shape[0] - 1):
            for label, style in ((labels[0], "-"), (labels[-1], "--")):
                strip = (plain.slice.values == label) & (np.abs(plain.alpha.values - 1.2) < 0.15)
                order = np.argsort(plain.wavelength.values[strip])[::8]
                wave = plain.wavelength.values[strip][order]
                axis.plot(wave, added[d][strip][order], style, color=f"C{d}", lw=1)
                name = f"dither {d + 1}" if style == "-" else None
                axis.plot(wave[::5], found[d][strip][order][::5], ".", color=f"C{d}", ms=4, label=name)
        title = f"channel {channel}, alpha 1.2 arcsec, first (-) and last (--) slice: injected (lines), found"
        axis.set(xlabel="wavelength [um]", ylabel="function [MJy/sr]")
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=8)
    for axis, data, title in ((axes[1, 0], spoiled, "with functions"), (axes[1, 1], matched, "after matching")):
        for d in range(data.sizes["dither"]):
            lit = (plain.channel.values == 2) & (plain.slice.values > 0)
            wave, flux = plain.wavelength.values[lit], data.flux.values[d][lit]
            edges = np.linspace(wave.min(), wave.max(), 60)
            number = np.digitize(wave, edges)
            level = [np.nanmedian(flux[number == k]) for k in range(1, edges.size)]
            axis.plot(0.5 * (edges[1:] + edges[:-1]), level, label=f"dither {d + 1}")
        axis.set(xlabel="wavelength [um]", ylabel="median of the field [MJy/sr]", title=f"channel 2, {title}")
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    """Run the comparison by itself."""
    from compare_jwst import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jwst-python", required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table()
    run(args.folder, args.jwst_python, table)
    short = [row[0] for row in table.rows if not row[3]]
    print(
        f"{len(table.rows) - len(short)} of {len(table.rows)} as wanted"
        + (f"; short: {', '.join(short)}" if short else "")
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        side(sys.argv[2])
    else:
        main()
