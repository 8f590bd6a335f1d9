"""The slopes of stage 1 against what was simulated: bias, pulls, cosmic rays, showers, line flux; jwst's too."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import dask
import numpy as np
import xarray as xr
from astropy.io import fits
from compare_stage1 import BRIGHTNESS

BINS = ((0.3, 3.0), (3.0, 30.0), (30.0, 300.0))  # DN/s
SHOWER_JUMP = {"find_showers": True, "extend_snr_threshold": 1.4}


@dataclass
class Truth:
    """What one exposure should give, (y, x): slopes, line light and shower light [DN/s]; its cosmic rays."""

    made: dict
    slope: np.ndarray
    lines: np.ndarray
    shower: np.ndarray
    rays: xr.Dataset
    good: np.ndarray


def make_truth(setting: str, folder: Path) -> Truth:
    """Simulate the exposure and the noiseless ones that tell apart its lines and showers, once."""
    from mrsxr.simulate import Effects, Scene, simulate_observation

    scene = Scene.default()
    source = scene.points[0]
    lines = tuple(replace(line, flux=BRIGHTNESS * line.flux) for line in source.lines)
    continuum = replace(source.continuum, flux=BRIGHTNESS * source.continuum.flux)
    bright = replace(source, continuum=continuum, lines=lines)
    plain = replace(scene, points=(replace(bright, lines=()),), discs=())
    scene = replace(scene, points=(bright,))
    common = {"bands": [setting], "n_dithers": 1, "n_background": 0, "seed": 21}
    facts = folder / "made.json"
    if not facts.exists():
        full = Effects(emi=3.0, showers=4)
        a = simulate_observation(folder / "a", scene=scene, n_groups=40, effects=full, save_cosmic_rays=True, **common)
        simulate_observation(folder / "b", scene=plain, n_groups=3, effects=replace(full, showers=0), **common)
        for name, showers in (("c", 0), ("d", 4)):
            simulate_observation(
                folder / name,
                scene=scene.empty(),
                n_groups=40,
                effects=replace(Effects.none(), showers=showers),
                **common,
            )
        told = {"uncal": str(a.uncal[0]), "crds": a.crds, "refs": str(a.reference_folder)}
        facts.write_text(json.dumps(told))
    made = json.loads(facts.read_text())

    def slope(name):
        return xr.load_dataset(next((folder / name / "truth").glob("*_slope.nc"))).slope.values

    shower = _plain_slope(folder / "d") - _plain_slope(folder / "c")
    rays = xr.load_dataset(next((folder / "a" / "truth").glob("*_cosmic_rays.nc")))
    mask = fits.getdata(next((folder / "a" / "refs").glob("*_mask.fits")), "DQ")
    good = (mask & 1) == 0
    good[:, :4] = good[:, -4:] = False
    return Truth(made, slope("a"), slope("a") - slope("b"), shower, rays, good)


def _plain_slope(folder: Path) -> np.ndarray:
    """Return the straight-line slope [DN/s] of a noiseless exposure, mean over integrations."""
    with fits.open(next((folder / "uncal").glob("*_uncal.fits"))) as file:
        data, time = file["SCI"].data, file[0].header["TGROUP"]
        x = np.arange(data.shape[1]) - 0.5 * (data.shape[1] - 1)
        total = sum(x[g] * data[:, g].astype(np.float32).mean(axis=0) for g in range(data.shape[1]))
    return total / np.sum(x * x) / time


def compare_truth(args, table, jwst) -> None:
    """Fill the table for both detectors: ours in optimal, ours in baseline and jwst's for comparison."""
    import mrsxr as mx
    from mrsxr.pipeline import Recipe

    for setting in ("12A", "34A"):
        folder = args.folder / f"truth_{setting}"
        folder.mkdir(exist_ok=True)
        truth = make_truth(setting, folder)
        out = folder / "jwst"
        out.mkdir(exist_ok=True)
        if not (out / "jwst_stage1.json").exists():
            jwst(args, truth.made, "stage1", truth.made["uncal"], out, json.dumps({"jump": SHOWER_JUMP}))
        refs = mx.References(truth.made["refs"])
        ds = mx.open_exposures(truth.made["uncal"])
        ours = mx.make_rate(ds, refs, Recipe.of("optimal")).compute().isel(dither=0)
        baseline = mx.make_rate(ds, refs, Recipe.of()).compute().isel(dither=0)
        error = np.load(out / "rate_OLS_C_err.npy")
        peer = (np.load(out / "rate_OLS_C_sci.npy"), error, np.load(out / "rate_OLS_C_dq.npy"))
        judge(table, setting, truth, {"optimal": _images(ours), "baseline": _images(baseline), "jwst": peer})
        judge_rays(table, setting, truth, ds, refs)


def _images(ds) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return ds.rate.values, np.sqrt(ds.var_poisson.values + ds.var_read.values), ds.dq.values


def judge(table, setting: str, truth: Truth, results: dict) -> None:
    """Bias and pulls by brightness, shower light left and line flux; only "optimal" is held to the limits."""
    quiet = np.abs(truth.shower) < 1e-3
    for low, high in BINS:
        pixels = truth.good & quiet & (truth.slope > low) & (truth.slope < high)
        found = {}
        for name, (rate, error, dq) in results.items():
            use = pixels & ((dq & 3) == 0) & (error > 0)
            pull = (rate - truth.slope)[use] / error[use]
            kept = np.abs(pull - np.median(pull)) < 5
            bias = np.sum((rate - truth.slope)[use][kept]) / np.sum(truth.slope[use][kept])
            found[name] = (bias, pull[kept].std(), kept.size)
        told = ", ".join(f"{n} {100 * b:+.3f} %" for n, (b, _, _) in found.items() if n != "optimal")
        b, width, count = found["optimal"]
        what = f"{setting} {low:g}-{high:g} DN/s"
        table.add(f"{what} bias", f"{100 * b:+.3f} % ({told})", f"< 0.1 % ({count} pixels)", abs(b) < 1e-3)
        told = ", ".join(f"{n} {w:.3f}" for n, (_, w, _) in found.items() if n != "optimal")
        table.add(f"{what} std(pull)", f"{width:.3f} ({told})", "1.00 +- 0.03", abs(width - 1) < 0.03)
    for what, image, limit in (("shower light left", truth.shower, 0.1), ("line flux lost", truth.lines, 1e-3)):
        left = {}
        for name, (rate, error, dq) in results.items():
            use = truth.good & (image > (5e-3 if what[0] == "s" else 1.0)) & (error > 0)
            value = np.where((dq & 1) == 0, rate - truth.slope, 0.0 if what[0] == "s" else -image)
            weight = np.where(use & (np.abs(value) < 30 * error + 0.2 * image), 1 / np.maximum(error, 1e-3) ** 2, 0)
            share = np.nansum(weight * value * image) / np.nansum(weight * image**2)
            left[name] = share if what[0] == "s" else -share
        told = ", ".join(f"{n} {100 * v:.2f} %" for n, v in left.items() if n != "optimal")
        table.add(f"{setting} {what}", f"{100 * left['optimal']:.2f} % ({told})", f"< {100 * limit:g} %",
                  abs(left["optimal"]) < limit)  # fmt: skip


def judge_rays(table, setting: str, truth: Truth, ds, refs) -> None:
    """Share of the cosmic rays above 5 sigma that are found, and of the quiet groups that are flagged."""
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.rate_chain import correct_ramps

    gain = refs.get("gain", ds).gain.values
    noise = refs.get("readnoise", ds).read_noise.values * gain
    sigma = np.sqrt(np.maximum(truth.slope, 0) * gain * ds.attrs["group_time"] + noise**2)
    charge = np.zeros((ds.sizes["integration"], ds.sizes["group"], *sigma.shape), dtype=np.float32)
    r = truth.rays
    np.add.at(charge, (r.integration.values, r.group.values, r.y.values, r.x.values), r.electrons.values)
    flags = {}
    recipe = Recipe.of("optimal")
    ramps = correct_ramps(ds, refs, recipe)
    flags["optimal"] = ramps.group_dq
    flags["two-point"] = correct_ramps(ds, refs, Recipe.of()).group_dq
    told = {}
    for name, array in flags.items():
        (values,) = dask.compute(array.data)
        values = values[0]
        usable = truth.good & ((values & 3) == 0)
        usable[:, 1:] &= (values[:, :-1] & 3) == 0  # a hit in the first usable group makes no step
        usable[:, 0] = False
        jump = (values & 4) != 0
        hit = usable & (charge > 5 * sigma)
        quiet = usable & (charge == 0) & (np.abs(truth.shower) < 1e-3)
        told[name] = (jump[hit].mean(), jump[quiet].mean(), int(hit.sum()))
    found, false, count = told["optimal"]
    other = told["two-point"]
    table.add(f"{setting} cosmic rays > 5 sigma found", f"{100 * found:.2f} % (two-point {100 * other[0]:.2f} %)",
              f"> 98 % ({count} hits)", found > 0.98)  # fmt: skip
    table.add(f"{setting} groups flagged by mistake", f"{100 * false:.4f} % (two-point {100 * other[1]:.4f} %)",
              "< 0.1 %", false < 1e-3)  # fmt: skip
