"""Run mrsxr and jwst on the same simulated exposures and the same reference files; print parity and ratios.

    python benchmarks/compare_jwst.py --jwst-python /path/to/env/bin/python [--folder DIR] [--groups 40] [--setting 12A]
    python benchmarks/compare_jwst.py --jwst-python /path/to/env/bin/python --stage 1 [--only steps truth ...]
    python benchmarks/compare_jwst.py --jwst-python /path/to/env/bin/python --stage 2 [--distortion FOLDER]
    python benchmarks/compare_jwst.py --jwst-python /path/to/env/bin/python --stage 3 [--only background cubes ...]

``--jwst-python`` is the interpreter of an environment with jwst 3.0.0. The simulation and the results of jwst
are kept in the folder and used again. ``--only`` picks parts: steps, cube; of stage 1: steps, showers, truth, speed,
many; of stage 2: steps, wcs,
pixels, straylight, fringes, errors, speed; of stage 3: background, outliers, cubes, spectra.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import time
import warnings
from pathlib import Path

import numpy as np

PARTS = ["steps", "cube", "showers", "truth", "speed", "many", "wcs", "pixels", "straylight", "fringes", "errors",
         "background", "outliers", "cubes", "spectra"]  # fmt: skip
SIDE = Path(__file__).parent / "jwst_side.py"
LIMIT_STEP, LIMIT_SLOPE, LIMIT_ERROR = 1e-5, 1e-4, 1e-3


class Table:
    """Collect and print rows of (what, found, wanted, passed)."""

    def __init__(self):
        self.rows = []

    def add(self, what, found, wanted, passed):
        self.rows.append((what, found, wanted, bool(passed)))
        print(f"{what:42s} {found:>26s}   {wanted:30s} {'ok' if passed else 'SHORT'}", flush=True)

    def share(self, what, ours, theirs, limit, wanted=0.999, good=None):
        """Add the share of good samples that agree within ``limit`` relative."""
        good = np.isfinite(theirs) & np.isfinite(ours) if good is None else good
        with np.errstate(invalid="ignore", divide="ignore"):
            close = np.abs(ours - theirs) <= limit * np.abs(theirs)
        share = float(np.mean(close[good])) if good.any() else 0.0
        worst = float(np.nanquantile(np.abs(ours[good] / theirs[good] - 1), 0.999))
        self.add(
            what, f"{100 * share:.4f} % (q99.9 {worst:.1e})", f">= {100 * wanted:g} % within {limit:g}", share >= wanted
        )

    def of_flux_or_error(self, what, ours, theirs, error, limit=LIMIT_SLOPE, wanted=0.999, good=None):
        """Like share, on the scale of the value or its error, whichever is larger: slopes near zero have no digits."""
        scale = np.maximum(np.abs(theirs), error)
        self.share(f"{what}, of value or error", scale + ours - theirs, scale, limit, wanted, good)

    def equal(self, what, ours, theirs, wanted=0.999):
        share = float(np.mean(ours == theirs))
        self.add(what, f"{100 * share:.5f} % equal", f">= {100 * wanted:g} % equal", share >= wanted)


def jwst(args, made, what, *rest):
    env = {**os.environ, **{k: str(v) for k, v in made["crds"].items()}, "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONPATH", None)
    command = [args.jwst_python, str(SIDE), what, *[str(r) for r in rest]]
    subprocess.run(command, env=env, check=True, cwd=args.folder, stdout=subprocess.DEVNULL)


def prepare(args):
    """Simulate four dithers of one setting, once."""
    facts = args.folder / "made.json"
    if not facts.exists():
        from mrsxr.simulate import simulate_observation

        made = simulate_observation(
            args.folder / "sim", bands=[args.setting], n_groups=args.groups, n_background=0, seed=3
        )
        facts.write_text(
            json.dumps({"uncal": [str(p) for p in made.uncal], "crds": made.crds, "refs": str(made.reference_folder)})
        )
    return json.loads(facts.read_text())


def compare_steps(args, made, table):
    from mrsxr import cal, rate
    from mrsxr.geometry.sky import with_sky
    from mrsxr.io import open_exposures
    from mrsxr.references import References

    out = args.folder / "steps"
    out.mkdir(exist_ok=True)
    if not (out / "jwst_steps.json").exists():
        jwst(args, made, "steps", made["uncal"][0], out)

    def theirs(name):
        return np.load(out / f"{name}.npy", mmap_mode="r")

    refs = References(made["refs"])
    ds = open_exposures(made["uncal"][0])
    get = {k: refs.get(k, ds) for k in ("mask", "saturation", "linearity", "dark", "gain", "readnoise")}
    noise = {"gain": get["gain"], "readnoise": get["readnoise"]}
    ds = rate.flag_bad_pixels(ds, mask=get["mask"])
    table.equal("dq_init group DQ", ds.group_dq[0].values, theirs("dq_init_group_dq"))
    table.equal("dq_init pixel DQ", ds.pixel_dq[0].values, theirs("dq_init_pixel_dq"))
    ds = rate.flag_saturation(ds, saturation=get["saturation"])
    table.equal("saturation group DQ", ds.group_dq[0].values, theirs("saturation_group_dq"))
    table.equal("saturation pixel DQ", ds.pixel_dq[0].values, theirs("saturation_pixel_dq"))
    ds = rate.flag_last_frame(ds)
    table.equal("lastframe group DQ", ds.group_dq[0].values, theirs("lastframe_group_dq"))
    ds = rate.correct_linearity(ds, linearity=get["linearity"])
    table.share("linearity SCI", ds.sci[0].values, theirs("linearity_sci"), LIMIT_STEP)
    table.equal("linearity pixel DQ", ds.pixel_dq[0].values, theirs("linearity_pixel_dq"))
    ds = rate.subtract_dark(ds, dark=get["dark"])
    table.share("dark SCI", ds.sci[0].values, theirs("dark_sci"), LIMIT_STEP)
    table.equal("dark pixel DQ", ds.pixel_dq[0].values, theirs("dark_pixel_dq"))
    ds = rate.flag_jumps(ds, **noise)
    table.equal("jump group DQ", ds.group_dq[0].values, theirs("jump_group_dq"))
    slopes = rate.fit_ramps(ds, **noise).compute()
    same = (slopes.dq[0].values == theirs("ramp_fit_dq")) & np.isfinite(theirs("ramp_fit_sci"))
    table.equal("ramp_fit DQ", slopes.dq[0].values, theirs("ramp_fit_dq"))
    error = np.sqrt(slopes.var_poisson[0].values + slopes.var_read[0].values)
    table.of_flux_or_error(
        "ramp_fit SCI (same flags)", slopes.rate[0].values, theirs("ramp_fit_sci"), theirs("ramp_fit_err"), good=same
    )
    table.share("ramp_fit ERR (same flags)", error, theirs("ramp_fit_err"), LIMIT_ERROR, good=same)

    located = cal.assign_wcs(slopes, **{k: refs.get(k, slopes) for k in ("distortion", "specwcs", "regions")})
    sky = with_sky(located)
    table.equal("assign_wcs pixels in slices", located.slice.values > 0, np.isfinite(theirs("wcs_alpha")), 0.999)
    for name, unit, limit in (("alpha", "arcsec", 1e-6), ("beta", "arcsec", 1e-6)):
        worst = float(np.nanmax(np.abs(located[name].values - theirs(f"wcs_{name}"))))
        table.add(f"assign_wcs {name}", f"max {worst:.1e} {unit}", f"<= {limit:g} {unit}", worst <= limit)
    worst = float(np.nanmax(np.abs(sky.wavelength_barycentric.values[0] - theirs("wcs_bary"))))
    table.add("assign_wcs wavelength", f"max {worst:.1e} um", "<= 1e-07 um", worst <= 1e-7)
    for name in ("ra", "dec"):
        worst = 3600 * float(np.nanmax(np.abs(sky[name].values[0] - theirs(f"wcs_{name}"))))
        table.add(f"assign_wcs {name}", f"max {worst:.1e} arcsec", "<= 1e-6 arcsec", worst <= 1e-6)
    flat = cal.divide_flat(located, flat=refs.get("flat", located)).compute()
    compare_images(table, "flat", flat, "rate", theirs)
    fringe = cal.divide_fringe_flat(flat, fringe=refs.get("fringe", flat)).compute()
    compare_images(table, "fringe", fringe, "rate", theirs)
    flux = cal.calibrate_flux(fringe, photom=refs.get("photom", fringe)).compute()
    compare_images(table, "photom", flux, "flux", theirs)


def compare_images(table, step, ds, name, theirs):
    same = np.isfinite(theirs(f"{step}_sci")) & np.isfinite(ds[name][0].values)
    table.of_flux_or_error(f"{step} SCI", ds[name][0].values, theirs(f"{step}_sci"), theirs(f"{step}_err"), good=same)
    error = np.sqrt(ds.var_poisson[0].values + ds.var_read[0].values + ds.var_flat[0].values)
    table.share(f"{step} ERR", error, theirs(f"{step}_err"), LIMIT_ERROR, good=same)
    table.equal(f"{step} DQ", ds.dq[0].values, theirs(f"{step}_dq"))


def compare_step_alone(args, made, table):
    """Compare flat, fringe and photom from jwst's own input, so that only the step itself is compared."""
    import xarray as xr

    from mrsxr import cal
    from mrsxr.io import open_exposures
    from mrsxr.references import References

    out = args.folder / "steps"
    refs = References(made["refs"])
    base = open_exposures(made["uncal"][0])

    def image(step):
        dims = ("dither", "y", "x")
        planes = {"rate": ("sci", "DN/s"), "var_poisson": ("var_poisson", "DN2/s2"), "var_read": ("var_read", "DN2/s2"),
                  "var_flat": ("var_flat", "DN2/s2"), "dq": ("dq", "1")}  # fmt: skip
        variables = {
            ours: (dims, np.load(out / f"{step}_{theirs}.npy")[None], {"units": unit})
            for ours, (theirs, unit) in planes.items() if (out / f"{step}_{theirs}.npy").exists()
        }  # fmt: skip
        coords = {n: c for n, c in base.coords.items() if set(c.dims) <= {"dither", "y", "x"}}
        return xr.Dataset(variables, coords, {**base.attrs, "level": "rate"})

    def check(step, ds, name):
        theirs = np.load(out / f"{step}_sci.npy")
        good = np.isfinite(theirs)
        table.share(f"{step} SCI from the same input", ds[name][0].values, theirs, LIMIT_STEP, good=good)

    check("flat", cal.divide_flat(image("assign_wcs"), flat=refs.get("flat", base)), "rate")
    check("fringe", cal.divide_fringe_flat(image("flat"), fringe=refs.get("fringe", base)), "rate")
    located = cal.assign_wcs(image("fringe"), **{k: refs.get(k, base) for k in ("distortion", "specwcs", "regions")})
    check("photom", cal.calibrate_flux(located, photom=refs.get("photom", base)), "flux")


def compare_cubes(args, made, table):
    from mrsxr.io import load, open_exposures
    from mrsxr.mrs import bands_of_setting
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.cal_chain import add_wcs
    from mrsxr.pipeline.cube_chain import make_cube
    from mrsxr.references import References

    out = args.folder / "cube"
    out.mkdir(exist_ok=True)
    if not (out / "jwst_cal.json").exists():
        jwst(args, made, "cal", out, *made["uncal"])
    cals = sorted(out.glob("*_cal.fits"))
    if not (out / "jwst_cube.json").exists():
        jwst(args, made, "cube", out, *cals)
    report = json.loads((out / "jwst_cube.json").read_text())
    refs = References(made["refs"])
    ds = add_wcs(open_exposures(cals), refs, Recipe.of())
    seconds = 0.0
    for band in bands_of_setting(args.setting):
        name = next(n for n in report["cubes"] if f"ch{band[0]}-" in n)
        theirs = load(out / name).compute()
        start = time.process_time()
        ours = make_cube(ds, band, refs, Recipe.of()).compute()
        seconds += time.process_time() - start
        same_shape = ours.flux.shape == theirs.flux.shape
        table.add(f"cube {band} shape", str(ours.flux.shape), str(theirs.flux.shape), same_shape)
        if not same_shape:
            continue
        compare_voxels(table, band, *((c.flux.values, np.sqrt(c["var"].values)) for c in (ours, theirs)))
    table.add(
        "cube_build CPU, both bands",
        f"{seconds:.1f} s, jwst {report['cpu']:.1f} s",
        f"x {report['cpu'] / seconds:.1f}",
        True,
    )


def compare_voxels(table, band, ours, theirs):
    (flux, error), (their_flux, their_error) = ours, theirs
    both = np.isfinite(flux) & np.isfinite(their_flux)
    table.of_flux_or_error(f"cube {band} voxels", flux, their_flux, their_error, 1e-3, 0.99, both)
    table.equal(f"cube {band} NaN pattern", np.isnan(flux), np.isnan(their_flux))
    table.share(f"cube {band} ERR", error, their_error, 1e-3, wanted=0.99)
    for what, axis, limit, wanted in (
        ("spaxels (sum over planes)", 0, 1e-3, 0.99),
        ("collapsed spectrum", (1, 2), 1e-4, 0.999),
    ):
        sums = [np.where(both, c, 0).sum(axis=axis, dtype=float) for c in (flux, their_flux)]
        table.share(f"cube {band} {what}", *sums, limit, wanted=wanted, good=sums[1] != 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jwst-python")
    parser.add_argument("--folder", type=Path, default=Path("compare_jwst"))
    parser.add_argument("--groups", type=int, default=40)
    parser.add_argument("--setting", default="12A")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--stage", type=int, choices=[1, 2, 3], help="All of this stage, in place of the core steps.")
    parser.add_argument("--distortion", help="Folder of real distortion and specwcs files, for stage 2.")
    parser.add_argument("--shared", type=Path, help="Folder of real data, for the spectra of stage 3.")
    parser.add_argument("--only", nargs="*", default=PARTS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    table = Table()
    if args.stage is not None:
        importlib.import_module(f"compare_stage{args.stage}").run(args, table, jwst)
    else:
        made = prepare(args)
        if "steps" in args.only:
            compare_steps(args, made, table)
            compare_step_alone(args, made, table)
        if "cube" in args.only:
            compare_cubes(args, made, table)
    short = [row[0] for row in table.rows if not row[3]]
    print(
        f"{len(table.rows) - len(short)} of {len(table.rows)} as wanted"
        + (f"; short: {', '.join(short)}" if short else "")
    )


if __name__ == "__main__":
    main()
