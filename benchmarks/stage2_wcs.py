"""Coordinates beside jwst: every pixel of the six settings, S_REGION, the gWCS of our files and Spec3 on our cal files.

    python benchmarks/stage2_wcs.py --jwst-python /path/to/env/bin/python --folder DIR [--settings 12A ...]

The folder holds one folder a setting with ``made.json`` (its reference folder and CRDS variables) and ``rate``, as the
other parts of stage 2 make them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

SETTINGS = ("12A", "34A", "12B", "34B", "12C", "34C")
NAMES = ("alpha", "beta", "wavelength", "ra", "dec", "barycentric")
LIMITS = {"alpha": 1e-6, "beta": 1e-6, "wavelength": 1e-7, "ra": 1e-6, "dec": 1e-6, "barycentric": 1e-7}
_HALF = "jwst-half"  # first argument of the run in jwst's environment


def run(folder, jwst_python, table, settings=SETTINGS, spec3=("12A", "34A")) -> None:
    """Compare all settings; on those of ``spec3`` let jwst's Spec3 make cubes and spectra of our cal files.

    Parameters
    ----------
    folder : path
        See the module.
    jwst_python : str
        Interpreter of an environment with jwst.
    table : Table of compare_jwst
    settings : list of str
    spec3 : list of str
    """
    for setting in settings:
        home = Path(folder) / setting
        if (home / "made.json").exists():
            compare_setting(home, jwst_python, table, setting)
            if setting in spec3:
                try_spec3(home, jwst_python, table, setting)


def compare_setting(home: Path, jwst_python: str, table, setting: str) -> None:
    """Compare our coordinates and the gWCS that our file holds with those of jwst's assign_wcs."""
    import numpy as np

    from mrsxr.geometry.footprint import s_region
    from mrsxr.geometry.sky import with_sky
    from mrsxr.io import save

    out = home / "wcs"
    out.mkdir(exist_ok=True)
    rate = sorted((home / "rate").glob("*_rate.fits"))[0]
    seconds = []
    for _ in range(2):
        start = time.process_time()
        located = _located(home, [rate])
        seconds.append(time.process_time() - start)
    ours = save(located, out)[0]
    theirs = json.loads(_jwst(home, jwst_python, "wcs", str(rate), str(ours), str(out)))
    sky = with_sky(located)
    mine = dict(zip(NAMES, (sky.alpha, sky.beta, sky.wavelength, sky.ra[0], sky.dec[0], sky.wavelength_barycentric[0]),
                    strict=True))  # fmt: skip
    with np.load(out / "jwst.npz") as arrays:
        for name in NAMES:
            scale = 3600 if name in ("ra", "dec") else 1
            good = np.isfinite(arrays[name])
            found = np.asarray(mine[name].values, dtype=float)
            worst = scale * float(np.max(np.abs(found - arrays[name])[good]))
            unit = "um" if LIMITS[name] == 1e-7 else "arcsec"
            table.add(f"{setting} {name}", f"max {worst:.1e} {unit}", f"<= {LIMITS[name]:g} {unit}",
                      worst <= LIMITS[name])  # fmt: skip
        lit = located.slice.values > 0
        table.equal(f"{setting} pixels in slices", lit, np.isfinite(arrays["alpha"]), 1.0)
    table.add(f"{setting} S_REGION", s_region(located)[:26] + "...", "as jwst writes it",
              s_region(located) == theirs["s_region"])  # fmt: skip
    if theirs["file"] is not None:
        for name in NAMES:
            scale = 3600 if name in ("ra", "dec") else 1
            worst = theirs["file"][name] * scale
            table.add(f"{setting} gWCS of our file: {name}", f"max {worst:.1e}", f"<= {LIMITS[name]:g}",
                      worst <= LIMITS[name] and theirs["same_nan"][name])  # fmt: skip
        worst = theirs["back"]
        table.add(f"{setting} gWCS sky to pixels and back", f"max {worst:.3f} pix, jwst {theirs['back_jwst']:.3f}",
                  "<= 0.1 pix", worst <= 0.1)  # fmt: skip
    print(f"  assign_wcs with reading the references, first and again: {seconds[0]:.2f}, {seconds[1]:.2f} s of CPU")


def try_spec3(home: Path, jwst_python: str, table, setting: str) -> None:
    """Run Spec3 on our cal files; build cubes by our gWCS and by jwst's own."""
    from mrsxr import cal
    from mrsxr.io import save
    from mrsxr.references import References

    out = home / "wcs"
    refs = References(json.loads((home / "made.json").read_text())["refs"])
    ds = _located(home, sorted((home / "rate").glob("*_rate.fits")))
    ds = cal.divide_flat(ds, flat=refs.get("flat", ds))
    ds = cal.divide_fringe_flat(ds, fringe=refs.get("fringe", ds))
    files = save(cal.calibrate_flux(ds, photom=refs.get("photom", ds)), out)
    found = json.loads(_jwst(home, jwst_python, "spec3", str(out), *map(str, files)))
    for kind, wanted in (("crf", len(files)), ("s3d", 2), ("x1d", 2)):
        table.add(f"{setting} Spec3 on our files: {kind}", f"{found[kind]} files", f"{wanted} files",
                  found[kind] == wanted)  # fmt: skip
    share = found["cubes"]
    table.add(f"{setting} cubes by our gWCS and by jwst's", f"max {share:.1e} of the maximum", "<= 1e-6", share <= 1e-6)


def _located(home: Path, paths):
    from mrsxr.cal import assign_wcs
    from mrsxr.io import open_exposures
    from mrsxr.references import References

    refs = References(json.loads((home / "made.json").read_text())["refs"])
    ds = open_exposures(paths)
    return assign_wcs(ds, **{kind: refs.get(kind, ds) for kind in ("distortion", "specwcs", "regions")})


def _jwst(home: Path, python: str, what: str, *rest: str) -> str:
    made = json.loads((home / "made.json").read_text())
    env = {**os.environ, **{k: str(v) for k, v in made["crds"].items()}, "OMP_NUM_THREADS": "1"}
    env["STPIPE_DISABLE_CRDS_STEPPARS"] = "True"
    env.pop("PYTHONPATH", None)
    command = [python, str(Path(__file__).resolve()), _HALF, what, *rest]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


# --- in jwst's environment --------------------------------------------------------------------------------


def jwst_wcs(rate: str, ours: str, out: str) -> dict:
    """Run assign_wcs; save its coordinates and compare those of our file's gWCS with them."""
    import numpy as np
    from jwst.assign_wcs import AssignWcsStep
    from stdatamodels.jwst import datamodels

    y, x = np.mgrid[:1024, :1032]

    def coordinates(wcs):
        return dict(zip(NAMES, (*wcs.transform("detector", "alpha_beta", x, y), *wcs(x, y)), strict=True))

    def back(wcs, where):
        sky = [where[name][::7, ::7] for name in ("ra", "dec", "barycentric")]
        good = np.isfinite(sky[0])
        found = wcs.backward_transform(*[value[good] for value in sky])
        off = [np.abs(a - b[::7, ::7][good]) for a, b in zip(found, (x, y), strict=True)]
        return float(np.nanmax(off))

    with datamodels.open(rate) as model:
        model = AssignWcsStep.call(model)
    theirs = coordinates(model.meta.wcs)
    # alpha_beta of jwst is barycentric in wavelength; ours is as observed
    velocity = 1 / (1 + (model.meta.wcsinfo.velosys or 0) / 299792458.0)
    np.savez(Path(out) / "jwst.npz", **theirs | {"wavelength": theirs["wavelength"] / velocity})
    answer = {"s_region": model.meta.wcsinfo.s_region, "file": None}
    with datamodels.open(ours) as mine:
        if mine.meta.wcs is not None:
            found = coordinates(mine.meta.wcs)
            answer["file"] = {n: float(np.nanmax(np.abs(found[n] - theirs[n]))) for n in NAMES}
            answer["same_nan"] = {n: bool(np.array_equal(np.isnan(found[n]), np.isnan(theirs[n]))) for n in NAMES}
            answer["back"], answer["back_jwst"] = back(mine.meta.wcs, found), back(model.meta.wcs, theirs)
    return answer


def jwst_spec3(out: str, *files: str) -> dict:
    """Run Spec3 on our cal files, then build cubes from them with our gWCS and with jwst's own."""
    import numpy as np
    from jwst.assign_wcs import AssignWcsStep
    from jwst.cube_build import CubeBuildStep
    from jwst.datamodels import ModelContainer
    from jwst.pipeline import Spec3Pipeline
    from stdatamodels.jwst import datamodels

    folder = Path(out) / "spec3"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.fits"):
        old.unlink()
    members = [{"expname": str(Path(path).resolve()), "exptype": "science"} for path in files]
    association = {
        "asn_type": "spec3", "asn_rule": "DMS_Level3_Base", "asn_id": "o004", "asn_pool": "none", "program": "02732",
        "target": "t004", "products": [{"name": "ours", "members": members}],
    }  # fmt: skip
    path = folder / "spec3_asn.json"
    path.write_text(json.dumps(association))
    Spec3Pipeline.call(
        str(path), output_dir=str(folder), save_results=True, steps={"cube_build": {"output_type": "band"}}
    )
    answer = {kind: len(list(folder.glob(f"*_{kind}.fits"))) for kind in ("crf", "s3d", "x1d")}
    cubes = []
    for own in (False, True):
        models = [datamodels.open(path) for path in files]
        if own:
            models = [AssignWcsStep.call(model) for model in models]
        cubes.append(CubeBuildStep.call(ModelContainer(models), output_type="band"))
    off = [np.nanmax(np.abs(a.data - b.data)) / np.nanmax(b.data) for a, b in zip(*cubes, strict=True)]
    answer["cubes"] = float(max(off))
    return answer


def main() -> None:
    from compare_jwst import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jwst-python", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--settings", nargs="+", default=SETTINGS)
    parser.add_argument("--spec3", nargs="*", default=("12A", "34A"))
    args = parser.parse_args()
    table = Table()
    run(args.folder, args.jwst_python, table, args.settings, args.spec3)
    short = [row for row in table.rows if not row[3]]
    print(f"{len(table.rows) - len(short)} of {len(table.rows)} within their limits")


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == _HALF:
        import logging
        import warnings

        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        half = {"wcs": jwst_wcs, "spec3": jwst_spec3}[sys.argv[2]]
        print(json.dumps(half(*sys.argv[3:])))
    else:
        main()
