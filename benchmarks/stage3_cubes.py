"""Cubes beside jwst: drizzle, emsm, a channel, many bands; point sources at slice edges; time and memory.

Called by ``compare_jwst.py --stage 3``, or alone: ``python benchmarks/stage3_cubes.py FOLDER JWST_PYTHON``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from _memory import memory_gb

HERE = Path(__file__).resolve()
SETTINGS = ("12A", "12B")
PARTS = ("parity", "truth", "speed", "many")
#: What jwst is asked for: name, settings, options, and bands, options of ours.
CASES = {
    "drizzle": (SETTINGS, {"output_type": "band"}),
    "emsm": (("12A",), {"output_type": "band", "weighting": "emsm"}),
    "channel": (SETTINGS, {"output_type": "channel", "channel": "1"}),
    "multi": (("12A",), {"output_type": "multi"}),
}
LIMITS = {"drizzle": 1e-4, "emsm": 1e-3, "channel": 1e-4, "multi": 1e-3}


def run(folder: Path, jwst_python: str, table, parts=PARTS) -> None:
    """Print all comparisons.

    Parameters
    ----------
    folder : Path
        Simulated exposures and results of jwst are kept there and used again.
    jwst_python : str
        Interpreter of an environment with jwst 3.0.0.
    table : Table of compare_jwst.py
    parts : sequence of str
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if "truth" in parts:
        point_sources(table)
    if "parity" in parts or "speed" in parts:
        made = prepare(folder, jwst_python)
        theirs = {name: ask_jwst(folder, jwst_python, made, name) for name in CASES}
        if "parity" in parts:
            parity(folder, made, theirs, table)
        if "speed" in parts:
            speed(folder, made, theirs["drizzle"], table)
    if "many" in parts:
        many_bands(folder, table)


# --- files -----------------------------------------------------------------------------------------------


def prepare(folder: Path, jwst_python: str) -> dict:
    """Simulate four dithers of two settings and let jwst calibrate them, once."""
    facts = folder / "made.json"
    if not facts.exists():
        from mrsxr.simulate import simulate_observation

        made = simulate_observation(
            folder / "sim", bands=SETTINGS, n_groups=5, n_integrations=1, n_background=0, seed=3
        )
        told = {"uncal": [str(p) for p in made.uncal], "crds": made.crds, "refs": str(made.reference_folder)}
        cals = folder / "cal"
        cals.mkdir(exist_ok=True)
        call_jwst(jwst_python, told, folder, HERE.parent / "jwst_side.py", "cal", cals, *told["uncal"])
        told["cal"] = {s: [str(p) for p in sorted(cals.glob("*_cal.fits")) if setting_of(p) == s] for s in SETTINGS}
        facts.write_text(json.dumps(told))
    return json.loads(facts.read_text())


def setting_of(path: Path) -> str:
    """Return the setting of a FITS file."""
    from astropy.io import fits

    from mrsxr.mrs import setting_name

    header = fits.getheader(path)
    return setting_name(header["DETECTOR"], header["BAND"])


def call_jwst(jwst_python: str, made: dict, folder: Path, script: Path, *arguments) -> None:
    """Run a script in the environment of jwst."""
    env = {**os.environ, **{k: str(v) for k, v in made["crds"].items()}, "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONPATH", None)
    command = [jwst_python, str(script), *[str(a) for a in arguments]]
    subprocess.run(command, env=env, check=True, cwd=folder, stdout=subprocess.DEVNULL)


def ask_jwst(folder: Path, jwst_python: str, made: dict, name: str) -> dict:
    """Return what jwst made of a case (cubes, wall, cpu, peak), running it once."""
    report = folder / f"jwst_{name}.json"
    if not report.exists():
        settings, options = CASES[name]
        members = [{"expname": p, "exptype": "science"} for s in settings for p in made["cal"][s]]
        products = [{"name": name, "members": members}]
        association = {"asn_type": "spec3", "asn_rule": "DMS_Level3_Base", "asn_id": "o004", "asn_pool": "none",
                       "program": "02732", "target": "t004", "products": products}  # fmt: skip
        (folder / f"{name}_asn.json").write_text(json.dumps(association))
        call_jwst(jwst_python, made, folder, HERE, "side", folder, name, json.dumps(options))
    return json.loads(report.read_text())


def jwst_side(folder: str, name: str, options: str) -> None:
    """The half of jwst, in a process and an environment of its own."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from jwst.cube_build import CubeBuildStep

    wall, cpu = time.perf_counter(), time.process_time()
    result = CubeBuildStep.call(f"{folder}/{name}_asn.json", output_dir=folder, **json.loads(options))
    answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_gb": memory_gb(), "cubes": []}
    for model in result:
        keys = model.meta.instrument
        answer["cubes"].append(f"{name}_ch{keys.channel}-{str(keys.band).lower()}_s3d.fits")
        model.save(f"{folder}/{answer['cubes'][-1]}")
    Path(folder, f"jwst_{name}.json").write_text(json.dumps(answer))


# --- parity ----------------------------------------------------------------------------------------------


def open_cals(made: dict, setting: str):
    """Open the cal files of jwst, with slice coordinates, and the cubepar file."""
    from mrsxr.io import open_exposures
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.cal_chain import add_wcs
    from mrsxr.references import References

    refs = References(made["refs"])
    ds = add_wcs(open_exposures(made["cal"][setting]), refs, Recipe.of())
    return ds, refs.get("cubepar", ds)


def our_cube(made: dict, name: str, file: str):
    """Return our cube of a case that belongs to a file of jwst."""
    from mrsxr.cube import build_cube, build_multiband_cube

    opened = [open_cals(made, setting) for setting in CASES[name][0]]
    cubepar = opened[0][1]
    if name == "channel":
        sources = [ds for ds, _ in opened]
        return build_multiband_cube(sources, bands="1", wavelength_axis="linear", cubepar=cubepar)
    if name == "multi":
        return build_multiband_cube(opened[0][0], wavelength_axis="table", cubepar=cubepar)
    channel, word = file.removeprefix(f"{name}_ch").removesuffix("_s3d.fits").split("-")
    band = channel + {"short": "A", "medium": "B", "long": "C"}[word]
    ds = next(ds for ds, _ in opened if ds.attrs["setting"][2] == band[1])
    return build_cube(ds, band=band, cubepar=cubepar, weighting=name)


def parity(folder: Path, made: dict, theirs: dict, table) -> None:
    """Compare grids and voxels of every case."""
    from mrsxr.geometry.grid import CubeGrid
    from mrsxr.io import load

    for name, report in theirs.items():
        for file in report["cubes"]:
            wanted = load(folder / file).compute()
            cube = our_cube(made, name, file).compute()
            what = f"{name} {cube.attrs['band']}"
            ours, other = CubeGrid.of(cube), CubeGrid.of(wanted)
            off = max(abs(ours.ra - other.ra), abs(ours.dec - other.dec)) * 3600
            same = ours.shape == other.shape and off < 1e-6 and abs(ours.spaxel_size - other.spaxel_size) < 1e-12
            same = same and np.abs(ours.wavelengths - other.wavelengths).max() < 1e-9
            table.add(f"{what} WCS", f"{ours.shape}, {off:.0e} arcsec", "equal", same)
            if ours.shape == other.shape:
                compare_voxels(table, what, cube, wanted, LIMITS[name])


def compare_voxels(table, what: str, cube, wanted, limit: float) -> None:
    """Compare flux (of flux or error, what is larger), error and the NaN pattern."""
    (flux, error), (their_flux, their_error) = ((c.flux.values, np.sqrt(c["var"].values)) for c in (cube, wanted))
    both = np.isfinite(flux) & np.isfinite(their_flux)
    scale = np.maximum(np.abs(their_flux), their_error)
    table.share(f"{what} voxels", scale + flux - their_flux, scale, limit, wanted=0.995, good=both)
    table.share(f"{what} ERR", error, their_error, 1e-3, wanted=0.995, good=both)
    table.equal(f"{what} NaN pattern", np.isnan(flux), np.isnan(their_flux))
    table.equal(f"{what} DQ", cube.dq.values, wanted.dq.values)


# --- truth -----------------------------------------------------------------------------------------------


def point_sources(table) -> None:
    """Point sources off the middle of a slice: velocities of the spaxels and flux, with and without corrections."""
    sys.path[:0] = [str(HERE.parents[1] / "tests"), str(HERE.parents[1] / "tests" / "cube")]
    from simulated import cal_of, offset_for
    from test_point_source import DEC, RA, WINDOW, measure, mrsptcorr, scene_of

    from mrsxr.cube import build_cube
    from mrsxr.simulate import Effects

    effects = replace(Effects.none(), slice_shift=True)
    options = {"band": "1A", "center": (RA, DEC), **WINDOW}
    mend = {"point_source": (RA, DEC), "mrsptcorr": mrsptcorr()}
    for place in (0.25, 0.4, 0.5):
        offset = offset_for(scene_of(), "12A", "1A", place)
        ideal, real = ([cal_of(scene_of(line), "12A", [offset], e) for line in (True, False)] for e in (None, effects))
        true, raw = (measure(*(build_cube(ds, **options) for ds in pair)) for pair in (ideal, real))
        mended = measure(*(build_cube(ds, **options, **mend) for ds in real))
        speed_raw, speed = (float(np.abs(m[0] - true[0]).max()) for m in (raw, mended))
        flux_raw, flux = (m[2] / true[2] - 1 for m in (raw, mended))
        what = f"source {place} slices off the middle"
        table.add(f"{what}: shift", f"{speed:.2f} km/s ({speed_raw:.1f} without)", "< 3 km/s", speed < 3)
        table.add(f"{what}: flux", f"{100 * flux:+.4f} % ({100 * flux_raw:+.2f} without)", "< 0.5 %", abs(flux) < 5e-3)


# --- cost ------------------------------------------------------------------------------------------------


def speed(folder: Path, made: dict, theirs: dict, table) -> None:
    """Time the band cubes of eight exposures, cal files to s3d files, and the cost against the number of exposures."""
    own = ask_ourselves(folder, "bands", folder / "made.json", folder / "ours")
    ratio = theirs["wall"] / own["wall"]
    table.add("band cubes of 8 exposures: wall", f"{own['wall']:.1f} s, jwst {theirs['wall']:.1f}: x {ratio:.1f}",
              ">= x 5", ratio >= 5)  # fmt: skip
    ratio = theirs["cpu"] / own["cpu"]
    table.add("band cubes of 8 exposures: CPU", f"{own['cpu']:.1f} s, jwst {theirs['cpu']:.1f}: x {ratio:.1f}",
              ">= x 5", ratio >= 5)  # fmt: skip
    table.add("band cubes of 8 exposures: peak", f"{own['peak_gb']:.2f} GB, jwst {theirs['peak_gb']:.2f}", "< 1.5 GB",
              own["peak_gb"] < 1.5)  # fmt: skip
    counts = np.array([1, 2, 4, 8, 16])
    own = ask_ourselves(folder, "linear", folder / "made.json", folder / "ours")
    seconds = np.array(own["seconds"])
    slope, base = np.polyfit(counts, seconds, 1)
    off = float(np.abs(seconds / (base + slope * counts) - 1).max())
    each = ", ".join(f"{n}: {s:.2f}" for n, s in zip(counts, seconds, strict=True))
    print(f"  CPU of a band cube [s] by number of exposures: {each}; {base:.2f} + {slope:.2f} each")
    table.add("cost against exposures, off a line", f"{100 * off:.0f} %", "< 20 %", off < 0.2)
    table.add("band cube of 16 exposures: peak", f"{own['peak_gb']:.2f} GB", "< 1.5 GB", own["peak_gb"] < 1.5)


def many_bands(folder: Path, table) -> None:
    """Write the cube of all twelve bands, 24 exposures, to zarr, netCDF and FITS in fresh processes."""
    cals = folder / "twelve"
    if not cals.exists():
        make_twelve(cals)
    for form in ("zarr", "netcdf", "fits"):
        own = ask_ourselves(folder, "many", cals, folder / "ours", form)
        found = f"{own['peak_gb']:.2f} GB, {own['wall']:.0f} s wall, {own['cpu']:.0f} s CPU"
        table.add(f"12 bands, 24 exposures ({own['gb']:.2f} GB) to {form}", found, "< 1.5 GB", own["peak_gb"] < 1.5)


def make_twelve(folder: Path) -> None:
    """Write noiseless cal files of all six settings, four dithers each."""
    sys.path[:0] = [str(HERE.parents[1] / "tests"), str(HERE.parents[1] / "tests" / "cube")]
    from simulated import cal_of

    import mrsxr as mx
    from mrsxr import mrs
    from mrsxr.simulate import Scene
    from mrsxr.simulate.pointing import DITHERS

    folder.mkdir(parents=True)
    for setting in mrs.SETTINGS:
        ds = cal_of(Scene.default(), setting, DITHERS["EXTENDED"])
        visit, detector = "ABC".index(setting[2]) + 1, ds.attrs["detector"].lower()
        names = [f"jw02732004001_0210{visit}_{i + 1:05d}_{detector}" for i in range(4)]
        mx.save(ds.assign_coords(exposure=("dither", names)), folder)


def ask_ourselves(folder: Path, what: str, *arguments) -> dict:
    """Run one of our cost measurements in a fresh process."""
    report = folder / "ours.json"
    subprocess.run([sys.executable, str(HERE), what, str(report), *[str(a) for a in arguments]], check=True)
    return json.loads(report.read_text())


def ours_bands(facts: str, out: str) -> dict:
    """All band cubes of two settings, cal files to s3d files."""
    import mrsxr as mx
    from mrsxr import mrs
    from mrsxr.cube import build_cube

    made = json.loads(Path(facts).read_text())
    for setting in SETTINGS:
        ds, cubepar = open_cals(made, setting)
        for band in mrs.bands_of_setting(setting):
            mx.save(build_cube(ds, band=band, cubepar=cubepar), out)
    return {}


def ours_linear(facts: str, out: str) -> dict:
    """CPU time of a band cube of 1, 2, 4, 8 and 16 exposures."""
    from mrsxr.cube import build_cube

    ds, cubepar = open_cals(json.loads(Path(facts).read_text()), "12A")
    build_cube(ds.isel(dither=[0]), band="1A", cubepar=cubepar).compute()
    seconds = []
    for count in (1, 2, 4, 8, 16):
        start = time.process_time()
        build_cube(ds.isel(dither=np.arange(count) % 4), band="1A", cubepar=cubepar).compute()
        seconds.append(time.process_time() - start)
    return {"seconds": seconds}


def ours_many(cals: str, out: str, form: str) -> dict:
    """The cube of all twelve bands to one file."""
    import mrsxr as mx
    from mrsxr.cube import build_multiband_cube
    from mrsxr.io import open_observation

    cube = build_multiband_cube(open_observation(cals))
    target = Path(out) / ("twelve_s3d" + {"zarr": ".zarr", "netcdf": ".nc", "fits": ".fits"}[form])
    shutil.rmtree(target, ignore_errors=True)
    mx.save(cube, target)
    return {"gb": cube.nbytes / 1e9}


def ours(what: str, report: str, *arguments: str) -> None:
    """Our half of a measurement, in a process of its own with two threads."""
    import dask

    Path(report).parent.joinpath("ours").mkdir(exist_ok=True)
    wall, cpu = time.perf_counter(), time.process_time()
    with dask.config.set(scheduler="threads", num_workers=2):
        answer = {"bands": ours_bands, "linear": ours_linear, "many": ours_many}[what](*arguments)
    answer |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_gb": memory_gb()}
    Path(report).write_text(json.dumps(answer))


def main() -> None:
    """Run as a part of itself, or alone."""
    if sys.argv[1] == "side":
        jwst_side(*sys.argv[2:])
    elif sys.argv[1] in ("bands", "linear", "many"):
        ours(*sys.argv[1:])
    else:
        from compare_jwst import Table

        run(Path(sys.argv[1]), sys.argv[2], Table(), tuple(sys.argv[3:]) or PARTS)


if __name__ == "__main__":
    main()
