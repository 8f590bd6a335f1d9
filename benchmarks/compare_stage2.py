"""Stage 2 beside jwst: every step from jwst's own input, the chain as a whole, the truth and the cost.

Called by ``compare_jwst.py --stage 2``. One exposure of each of the six settings (two of bands A, with two background
exposures), of a galaxy with a point source; with the real flight distortion where ``--distortion`` names its folder.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SETTINGS = ("12A", "34A", "12B", "34B", "12C", "34C")
LIMIT_STEP = 1e-5


@dataclass(frozen=True)
class Exposures:
    """The files of one setting."""

    setting: str
    folder: Path
    made: dict
    rate: list[Path]
    background: list[Path]

    @property
    def theirs(self) -> Path:
        """Folder of jwst's results."""
        return self.folder / "theirs"


def make_exposures(setting: str, folder: Path, distortion: str | None = None) -> Exposures:
    """Simulate the exposures of a setting and reduce them to rate files, once."""
    import mrsxr as mx
    from mrsxr.simulate import simulate_observation

    folder = folder / setting
    facts = folder / "made.json"
    if not facts.exists():
        first = setting[-1] == "A"
        made = simulate_observation(
            folder / "sim", bands=[setting], n_groups=10, n_dithers=2 if first else 1, n_background=2 if first else 0,
            seed=5, distortion=distortion,
        )  # fmt: skip
        told = {"uncal": [str(p) for p in made.uncal], "background": [str(p) for p in made.background],
                "crds": made.crds, "refs": str(made.reference_folder)}  # fmt: skip
        facts.write_text(json.dumps(told))
    made = json.loads(facts.read_text())
    for kind, name in (("uncal", "rate"), ("background", "bgrate")):
        if made[kind] and not (folder / name).exists():
            mx.save(mx.make_rate(mx.io.open_exposures(made[kind]), mx.References(made["refs"])), folder / name)
    rate, background = (sorted((folder / name).glob("*_rate.fits")) for name in ("rate", "bgrate"))
    return Exposures(setting, folder, made, rate, background)


def theirs_of(args, one: Exposures, jwst) -> Path:
    """Return the folder with what jwst makes of the first exposure, step by step, running it once."""
    one.theirs.mkdir(exist_ok=True)
    if not (one.theirs / "jwst_spec2.json").exists():
        options = {"background": [str(p) for p in one.background], "residual_fringe": False}
        jwst(args, one.made, "spec2", one.rate[0], one.theirs, json.dumps(options))
    return one.theirs


def run(args, table, jwst) -> None:
    """Compare all settings, then the truth and the cost."""
    parts = set(args.only)
    for setting in SETTINGS if "steps" in parts else ():
        one = make_exposures(setting, args.folder, args.distortion)
        print(f"--- {setting}", flush=True)
        compare_steps(table, one, theirs_of(args, one, jwst))
    for name in ("wcs", "pixels", "straylight", "fringes", "errors"):
        if name not in parts:
            continue
        print(f"--- {name}", flush=True)
        module = importlib.import_module(f"stage2_{name}")
        if name == "pixels":  # one setting at a time
            for setting in SETTINGS[:2]:
                module.run(make_exposures(setting, args.folder, args.distortion).folder, args.jwst_python, table)
        elif name == "straylight":
            module.run(args, table)
        else:
            module.run(args.folder, args.jwst_python, table)
    if "speed" in parts:
        compare_speed(args, table, jwst)


def compare_steps(table, one: Exposures, theirs: Path) -> None:
    """Compare every step after jwst's own input, then the cal image of the whole chain."""
    import mrsxr as mx
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.cal_chain import cal_steps

    refs = mx.References(one.made["refs"])
    recipe = Recipe.of().set("bkg_subtract", method="mean", skip=not one.background)
    base = mx.io.open_exposures(one.rate[0]).compute()
    background = mx.io.open_exposures(one.background) if one.background else None
    whole, last = base, None  # last: step of jwst whose images lie there
    for name, step in cal_steps(base, refs, recipe, background):
        before, whole = whole, step(whole).compute()
        if name == "assign_wcs":
            compare_wcs(table, whole, theirs)
        elif name == "srctype":
            wanted = json.loads((theirs / "jwst_spec2.json").read_text())["srctype"]
            table.add("srctype", str(whole.attrs["source_type"]), wanted, whole.attrs["source_type"] == wanted)
        else:
            alone = whole if last is None else step(_with_images(before, theirs, last)).compute()
            compare_image(table, name, alone, theirs)
        if (theirs / f"{name}_sci.npy").exists():
            last = name
    compare_image(table, "whole chain", whole, theirs, name="photom", limit=1e-4)


def _with_images(ds, theirs: Path, step: str):
    """Return ``ds`` with the planes that jwst has after a step."""
    planes = {"flux" if "flux" in ds else "rate": "sci", "var_poisson": "var_poisson", "var_read": "var_read",
              "var_flat": "var_flat", "dq": "dq"}  # fmt: skip
    found = {
        ours: ds[ours].copy(data=np.load(theirs / f"{step}_{name}.npy")[None].astype(ds[ours].dtype))
        for ours, name in planes.items() if ours in ds and (theirs / f"{step}_{name}.npy").exists()
    }  # fmt: skip
    return ds.assign(found)


def compare_wcs(table, ds, theirs: Path) -> None:
    """Compare the coordinates of every pixel."""
    from mrsxr.geometry.sky import with_sky

    sky = with_sky(ds)
    table.equal("assign_wcs pixels in slices", ds.slice.values > 0, np.isfinite(np.load(theirs / "wcs_alpha.npy")))
    pairs = [(n, ds[n].values, 1.0, "arcsec", 1e-6) for n in ("alpha", "beta")]
    pairs += [("bary", sky.wavelength_barycentric.values[0], 1.0, "um", 1e-7)]
    pairs += [(n, sky[n].values[0], 3600.0, "arcsec", 1e-6) for n in ("ra", "dec")]
    for name, ours, scale, unit, limit in pairs:
        worst = scale * float(np.nanmax(np.abs(ours - np.load(theirs / f"wcs_{name}.npy"))))
        table.add(f"assign_wcs {name}", f"max {worst:.1e} {unit}", f"<= {limit:g} {unit}", worst <= limit)


def compare_image(table, what: str, ds, theirs: Path, name: str | None = None, limit: float = LIMIT_STEP) -> None:
    """Compare data, error and flags after a step; stray light on the scale of the brightest pixel."""
    name = name or what
    ours, wanted = (ds["flux"] if "flux" in ds else ds["rate"]).values[0], np.load(theirs / f"{name}_sci.npy")
    good = np.isfinite(ours) & np.isfinite(wanted)
    if what == "straylight":
        off = float(np.abs(ours - wanted)[good].max() / np.nanmax(wanted))
        table.add(f"{what} SCI", f"{off:.1e} of the maximum", "<= 1e-4 of the maximum", off <= 1e-4)
    elif what in ("whole chain", "bkg_subtract"):  # differences near zero: on the scale of the error
        scale = np.maximum(np.abs(wanted), np.load(theirs / f"{name}_err.npy"))
        table.share(f"{what} SCI (of flux or error)", scale + ours - wanted, scale, limit, good=good & (scale > 0))
    else:
        table.share(f"{what} SCI", ours, wanted, limit, good=good & (wanted != 0))
    table.equal(f"{what} NaN pattern", np.isnan(ours), np.isnan(wanted))
    table.equal(f"{what} DQ", ds.dq.values[0], np.load(theirs / f"{name}_dq.npy"))
    parts = [ds[v].values[0] for v in ("var_poisson", "var_read", "var_flat") if v in ds]
    error, their_error = np.sqrt(sum(parts)), np.load(theirs / f"{name}_err.npy")
    table.share(f"{what} ERR", error, their_error, max(limit, 1e-4), good=good & (their_error > 0))


def compare_speed(args, table, jwst) -> None:
    """Time rate file to cal file in processes of their own; the second exposure of each counts."""
    for setting in ("12A", "34A"):
        one = make_exposures(setting, args.folder, args.distortion)
        out = args.folder / f"speed2_{setting}"
        out.mkdir(exist_ok=True)
        jwst(args, one.made, "speed2", one.rate[0], out, "{}")
        theirs = json.loads((out / "jwst_speed2.json").read_text())
        ours = []
        for _ in range(args.repeat):
            subprocess.run([sys.executable, __file__, one.rate[0], one.made["refs"], str(out)], check=True)
            ours.append(json.loads((out / "mrsxr_speed2.json").read_text()))
        for what, wanted in (("plain", 40.0), ("residual_fringe", 30.0)):
            first = theirs if what == "plain" else theirs["residual_fringe"]
            second = {k: float(np.median([o[what][k] for o in ours])) for k in ("wall", "cpu", "peak_gb")}
            for key, least in (("cpu", wanted), ("wall", 0.0)):
                ratio = first[key] / second[key]
                text = f"{second[key]:.2f}, jwst {first[key]:.1f}: x {ratio:.0f}"
                table.add(f"{setting} stage 2, {what}: {key}", text, f">= x {least:g}" if least else "", ratio >= least)
            table.add(f"{setting} stage 2, {what}: peak memory", f"{second['peak_gb']:.2f} GB, jwst "
                      f"{first['peak_gb']:.2f}", "< 0.5 GB", second["peak_gb"] < 0.5)  # fmt: skip
        print(
            f"  first exposure of a process: {ours[-1]['first']['wall']:.2f} s wall, jwst {theirs['first']['wall']:.1f}"
        )


def ours_speed(rate: str, refs: str, out: str) -> None:
    """Our half of the speed comparison, in a process of its own."""
    import dask
    from _memory import memory_gb

    import mrsxr as mx
    from mrsxr.pipeline import Recipe

    references = mx.References(refs)
    base = Recipe.of()
    found = {}
    for name, recipe in (
        ("first", base),
        ("plain", base),
        ("warm", base.set("cal.residual_fringe", method="columns")),
        ("residual_fringe", base.set("cal.residual_fringe", method="columns")),
    ):
        wall, cpu = time.perf_counter(), time.process_time()
        with dask.config.set(scheduler="threads", num_workers=2):
            mx.save(mx.make_cal(mx.io.open_exposures(rate), references, recipe).compute(), out)
        found[name] = {
            "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_gb": memory_gb()
        }  # fmt: skip
    (Path(out) / "mrsxr_speed2.json").write_text(json.dumps(found))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ours_speed(*sys.argv[1:])
