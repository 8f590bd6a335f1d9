"""Outliers and latents of stage 3 beside jwst: parity of the detector test, injected hits, latents, cost.

    python benchmarks/stage3_outliers.py FOLDER --jwst-python /path/to/env/bin/python

FOLDER is that of ``compare_jwst.py`` after its cube part: ``made.json``, the simulation ``sim`` and ``cube/*_cal.fits``
written by jwst. The same file runs jwst: ``python stage3_outliers.py side IN.npz OUT.npz`` in its environment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np

AMPLITUDES = (5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)  # sigma of the pixel
BRIGHT = 30.0  # S/N of a pixel of the source
ON_LINE = 5.0  # contrast in sigma of a pixel of a line


def side(source: str, target: str) -> None:
    """Run jwst's outlier_detection on arrays; its environment knows nothing of this package."""
    import logging

    from jwst.datamodels import ModelContainer
    from jwst.outlier_detection.ifu import detect_outliers
    from stdatamodels.jwst import datamodels as dm

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    data = np.load(source)
    models = []
    for flux, flags in zip(data["flux"], data["dq"], strict=True):
        error = np.where(np.isnan(flux), np.nan, 1).astype("f4")
        model = dm.IFUImageModel(data=flux.copy(), dq=flags.copy(), err=error)
        model.meta.instrument.name, model.meta.instrument.detector = "MIRI", "MIRIFUSHORT"
        model.meta.exposure.type = "MIR_MRS"
        models.append(model)
    start = time.process_time()
    kernel, second, percent = str(data["kernel"]), bool(data["second"]), float(data["percent"])
    out = detect_outliers(ModelContainer(models), False, kernel, second, percent, None)
    seconds = time.process_time() - start
    np.savez(target, dq=np.stack([m.dq for m in out]), nan=np.stack([np.isnan(m.data) for m in out]), cpu=seconds)


def theirs(folder: Path, jwst_python: str, flux, flags, kernel="7 7", percent=99.8, second=False):
    """Return (flags, NaN pattern, CPU seconds) of jwst."""
    source, target = folder / "outliers_in.npz", folder / "outliers_out.npz"
    np.savez(source, flux=flux, dq=flags, kernel=kernel, percent=percent, second=second)
    subprocess.run([jwst_python, str(Path(__file__).resolve()), "side", str(source), str(target)], check=True)
    with np.load(target) as found:
        result = found["dq"], found["nan"], float(found["cpu"])
    source.unlink()
    target.unlink()
    return result


def load(folder: Path):
    """Return cal data of jwst with coordinates, the truth [MJy/sr] and the noise [MJy/sr]."""
    import xarray as xr

    from mrsxr.cal.wcs import assign_wcs
    from mrsxr.io import open_exposures
    from mrsxr.references import References

    made = json.loads((folder / "made.json").read_text())
    refs = References(made["refs"])
    ds = open_exposures(sorted((folder / "cube").glob("*_cal.fits")))
    ds = assign_wcs(ds, **{k: refs.get(k, ds) for k in ("distortion", "specwcs", "regions")}).load()
    truth = np.stack([
        xr.load_dataset(folder / "sim" / "truth" / f"{name}_slope.nc").surface_brightness.values
        for name in ds.exposure.values
    ])  # fmt: skip
    noise = np.sqrt(ds.var_poisson.values + ds.var_read.values + ds.var_flat.values)
    return ds, truth, noise


def timed(function, *rest, **named):
    """Return (result, CPU seconds) of the second of two calls, so that compiling does not count."""
    function(*rest, **named)
    start = time.process_time()
    result = function(*rest, **named)
    return result, time.process_time() - start


def compare_detector_test(folder: Path, jwst_python: str, table, ds) -> None:
    """Flags and cost of the detector-level test."""
    import xarray as xr

    from mrsxr.cal.outlier_detection import detect_outliers, flag_outliers

    flux, flags = ds.flux.values, ds.dq.values
    for kernel, percent, second in (("7 7", 99.8, False), ("11 1", 99.5, False), ("7 7", 99.8, True)):
        wanted, nan, _ = theirs(folder, jwst_python, flux, flags, kernel, percent, second)
        found = detect_outliers(ds, kernel_size=kernel, threshold_percent=percent, ifu_second_check=second)
        out = flag_outliers(ds, outliers=found)
        name = f"outlier_detection '{kernel}' {percent}{' second check' if second else ''}"
        table.equal(f"{name} DQ", out.dq.values, wanted)
        table.equal(f"{name} NaN", np.isnan(out.flux.values), nan)
    twice = xr.concat([ds, ds], dim="dither", data_vars="minimal", coords="minimal", compat="override")
    _, cpu = timed(lambda: detect_outliers(twice).outliers.values)
    _, _, their_cpu = theirs(folder, jwst_python, twice.flux.values, twice.dq.values)
    table.add("outlier_detection CPU, 8 exposures", f"{cpu:.2f} s, jwst {their_cpu:.1f} s", "< 1.5 s", cpu < 1.5)


def spoil(flux, noise, good, source, seed):
    """Return the data with hits in single exposures and hot pixels in all; amplitude of each hit, hot pixels."""
    rng = np.random.default_rng(seed)
    amplitude = np.zeros(flux.shape, dtype=np.float32)
    for where, n in ((good, 6000), (good & source, int(0.008 * (good & source).sum()))):
        chosen = rng.choice(np.flatnonzero(where), n, replace=False)
        amplitude.ravel()[chosen] = rng.choice(AMPLITUDES, n)
    hot = np.zeros(flux.shape[1:], dtype=bool)
    hot.ravel()[rng.choice(np.flatnonzero(good.all(axis=0)), 300, replace=False)] = True
    amplitude[:, hot] = 0
    level = np.where(hot, rng.uniform(15, 200, hot.shape), 0)
    return (flux + (amplitude + level) * noise).astype(np.float32), amplitude, hot


def compare_hits(folder: Path, jwst_python: str, table, ds, truth, noise, what: str, flux) -> None:
    """Completeness of injected hits, false flags, loss on the source and on lines."""
    from mrsxr.cal._sky_outlier_kernels import contrast
    from mrsxr.cal.outlier_detection import detect_outliers
    from mrsxr.cal.sky_outliers import detect_sky_outliers

    labels, flags = ds.slice.values, ds.dq.values
    good = np.isfinite(flux) & (labels > 0)
    level = truth / noise
    source = good & (level > BRIGHT)
    variance = noise.astype("f4") ** 2
    images = zip(truth, flags, variance, strict=True)
    lines = np.stack([contrast(t.astype("f4"), f, v, labels, 4, 64)[0] for t, f, v in images])
    line = good & (lines > ON_LINE * noise)
    spoilt, amplitude, hot = spoil(flux, noise, good, source & ~line, 7)
    data = ds.assign(flux=ds.flux.copy(data=spoilt))
    ours, cpu = timed(lambda: detect_sky_outliers(data).outliers.values > 0)
    detector = detect_outliers(data).outliers.values > 0
    jwst = (theirs(folder, jwst_python, spoilt, flags)[0] & 16) > 0
    print(f"--- {what}: hits found, ours / jwst: background, source")
    for value in AMPLITUDES:
        hit = amplitude == value
        parts = [(hit & ~source), (hit & source)]
        print(
            f"{value:6.0f} sigma  " + ",  ".join(f"{f[p].mean():6.1%}" for p in parts for f in (ours, jwst)), flush=True
        )
    strong = amplitude > 10
    for name, part in (("background", strong & ~source), ("source", strong & source)):
        share = ours[part].mean()
        table.add(
            f"{what}: hits > 10 sigma, {name}", f"{share:.2%}, jwst {jwst[part].mean():.2%}", "> 95 %", share > 0.95
        )
    everywhere = np.broadcast_to(hot, good.shape)
    shares = [f[everywhere].mean() for f in (ours, jwst)]
    table.add(f"{what}: hot pixels", f"{shares[0]:.2%}, jwst {shares[1]:.2%}", "> 95 %", shares[0] > 0.95)
    clean = good & (amplitude == 0) & ~everywhere
    off = np.abs(flux - truth) > 4 * noise  # hits of the simulation itself are not false
    shares = [(f & clean & ~off).sum() / clean.sum() for f in (ours, np.broadcast_to(detector, good.shape), jwst)]
    table.add(f"{what}: false flags", f"{shares[0]:.4%}, jwst {shares[2]:.4%}", "< 0.1 %", shares[0] < 1e-3)
    for name, part, weight in (("source flux", source, truth), ("line flux", line, lines)):
        part = part & clean & ~off
        lost = [float(weight[f & part].sum() / weight[part].sum()) for f in (ours, jwst)]
        table.add(f"{what}: {name} lost", f"{lost[0]:.4%}, jwst {lost[1]:.4%}", "< 0.1 %", lost[0] < 1e-3)
    table.add(f"{what}: CPU, {len(flux)} dithers, 2 bands", f"{cpu:.2f} s", "< 6 s", cpu < 6.0)


def simulate_latents(truth, starts, length, n_groups, table):
    """Return slopes of line fits to ramps on which charge is trapped and released in small steps of time."""
    tau, share = table["decay_time"].values[:, None], table["amplitude"].values[:, None]
    trapped = np.zeros((tau.size, truth[0].size))
    found, clock, n_sub = [], starts[0], 4
    dt = length / n_groups / n_sub
    t = np.arange(n_groups) * length / n_groups
    weights = (t - t.mean()) / ((t - t.mean()) ** 2).sum()
    for slope, start in zip(truth, starts, strict=True):
        trapped *= np.exp(-(start - clock) / tau)
        counts, fitted = np.zeros(slope.size), np.zeros(slope.size)
        for step in range(n_groups * n_sub):
            current = slope.ravel() + trapped.sum(axis=0)
            counts += dt * current
            trapped += dt * (share * current - trapped) / tau
            if step % n_sub == n_sub - 1:
                fitted += weights[step // n_sub] * counts
        found.append(fitted.reshape(slope.shape))
        clock = start + length
    return found


def compare_latents(table, folder: Path) -> None:
    """Latents after a bright exposure on top of the slopes of the simulation: what is left of them."""
    import xarray as xr

    from mrsxr.cal.latents import DAY, subtract_latents

    paths = sorted((folder / "sim" / "truth").glob("*_slope.nc"))
    sky = [np.nan_to_num(xr.load_dataset(p).slope.values.astype(float)) for p in paths]
    sky = [np.maximum(s, 0) for s in (100 * sky[0], *sky[1:])]  # the first is that of a star 100 times as bright
    length, n_groups = 222.0, 80
    starts = np.array([0.0, 250.0, 520.0, 1400.0])
    columns = {"decay_time": [30.0, 300.0, 20000.0], "amplitude": [4e-3, 2e-3, 5e-4],
               "amplitude_err": [4e-4, 2e-4, 5e-5], "saturated_amplitude": [8e-3, 4e-3, 1e-3]}  # fmt: skip
    latent = xr.Dataset({k: ("component", np.array(v)) for k, v in columns.items()},
                        attrs={"ref_id": "made", "detector": "MIRIFUSHORT", "full_well": 55000.0})  # fmt: skip
    measured = simulate_latents(sky, starts, length, n_groups, latent)
    alone = [simulate_latents([s], [0.0], length, n_groups, latent)[0] for s in sky]
    dims = ("dither", "y", "x")
    stack = np.stack(measured).astype("f4")
    planes = {name: (dims, np.full_like(stack, 1e-4), {"units": "DN2/s2"}) for name in ("var_poisson", "var_read")}
    start = 59760.0 + starts / DAY
    ds = xr.Dataset(
        {"rate": (dims, stack, {"units": "DN/s"}), "dq": (dims, np.zeros(stack.shape, "u4")), **planes},
        {"start_time": ("dither", start), "mid_time": ("dither", start + 0.5 * length / DAY),
         "exposure_time": ("dither", np.full(len(sky), length))},
        {"level": "rate", "setting": "12A", "detector": "MIRIFUSHORT", "group_time": 2.775, "n_integrations": 1},
    )  # fmt: skip
    out, cpu = timed(lambda: subtract_latents(ds, latent=latent).load())
    before, after = np.stack(measured) - np.stack(alone), out.rate.values - np.stack(alone)
    bright = before > 0.2
    left = np.abs(after[bright]) / before[bright]
    table.add("latents: largest", f"{before.max():.2f} DN/s", "> 1 DN/s", before.max() > 1)
    table.add(
        "latents: left of them", f"q99 {np.quantile(left, 0.99):.2%}, max {left.max():.2%}", "< 5 %", left.max() < 0.05
    )
    table.add("latents: rms left", f"{after[bright].std() / before[bright].std():.2%}", "< 5 %", True)
    table.add("latents CPU, 4 exposures", f"{cpu:.2f} s", "< 2 s", cpu < 2)


def run(folder: Path, jwst_python: str, table) -> None:
    """Compare the detector test, injected hits and latents; rows go to ``table.add(what, found, wanted, passed)``."""
    ds, truth, noise = load(folder)
    compare_detector_test(folder, jwst_python, table, ds)
    rng = np.random.default_rng(1)
    exact = np.where(np.isfinite(ds.flux.values), truth + rng.normal(size=truth.shape) * noise, np.nan).astype("f4")
    compare_hits(folder, jwst_python, table, ds, truth, noise, "truth + noise", exact)
    # the errors of these files are too small by the drifts that the core steps leave: the unit is what the data show
    off = (ds.flux.values - truth) / noise
    off = off - np.nanmedian(off, axis=(1, 2), keepdims=True)
    shown = noise * 1.4826 * np.nanmedian(np.abs(off[:, ds.slice.values > 0]))
    compare_hits(folder, jwst_python, table, ds, truth, shown, "cal of jwst", ds.flux.values)
    compare_latents(table, folder)


def main() -> None:
    if sys.argv[1:2] == ["side"]:
        side(*sys.argv[2:4])
        return
    from compare_jwst import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--jwst-python", required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table()
    run(args.folder.resolve(), args.jwst_python, table)
    short = [row[0] for row in table.rows if not row[3]]
    print(f"{len(table.rows) - len(short)} of {len(table.rows)} as wanted" + (f"; short: {short}" if short else ""))


if __name__ == "__main__":
    main()
