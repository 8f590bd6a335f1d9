"""Flat, fringe and photom beside jwst on spoiled reference files with a time law; pulls of the errors that jwst drops.

    python benchmarks/stage2_errors.py --jwst-python /path/to/env/bin/python --folder DIR [--only parity truth]

The folder holds one folder a setting with ``made.json`` (its reference folder and CRDS variables) and ``rate``, as the
other parts of stage 2 make them. Reference files are spoiled copies: NaN, zeros and flags, errors of 1 to 3 %, a
throughput that falls with time and wavelength.
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
LIMIT = 1e-5
STEPS = ("flat_field", "fringe", "photom")
KINDS = {"flat_field": "flat", "fringe": "fringe", "photom": "photom"}
_HALF = "jwst-half"  # first argument of the run in jwst's environment


def spoil_references(setting: str, source: Path, out: Path) -> dict[str, str]:
    """Write spoiled copies of the flat, fringe flat and photom file of a setting; return them by kind."""
    import numpy as np
    from astropy.io import fits

    out.mkdir(exist_ok=True)
    made = {}
    for number, kind in enumerate(KINDS.values()):
        path = out / f"mrs{setting}_{kind}_spoiled.fits"
        made[kind] = str(path)
        if path.exists():
            continue
        rng = np.random.default_rng(100 + number)
        with fits.open(source / f"mrs{setting}_{kind}.fits", uint=True) as file:
            data, flags = file["SCI"].data, file["DQ"].data
            share = rng.uniform(0.01, 0.03, data.shape)
            file["ERR"].data = np.abs(data * share).astype(np.float32)
            for value in (np.nan, 0.0) if kind == "flat" else (np.nan,):
                data[rng.integers(0, 1024, 2000), rng.integers(0, 1032, 2000)] = value
            for bit in (0, 18, 25):
                flags[rng.integers(0, 1024, 2000), rng.integers(0, 1032, 2000)] |= np.uint32(1 << bit)
            file["DQ_DEF"].data = _definitions()
            if kind == "photom":
                _age(file)
            file.writeto(path)
    return made


def _definitions():
    import numpy as np
    from astropy.io import fits

    names = {0: "DO_NOT_USE", 9: "NON_SCIENCE", 18: "NO_FLAT_FIELD", 25: "UNRELIABLE_FLAT"}
    columns = [
        fits.Column("BIT", "J", array=np.array(list(names))),
        fits.Column("VALUE", "J", array=np.array([1 << b for b in names])),
        fits.Column("NAME", "40A", array=np.array(list(names.values()))),
        fits.Column("DESCRIPTION", "80A", array=np.array(list(names.values()))),
    ]
    return fits.BinTableHDU.from_columns(columns).data


def _age(file) -> None:
    """Give a photom file a throughput that falls with time, the more the longer the wavelength; some bins rise."""
    import numpy as np
    from astropy.io import fits

    limits = {1: (5.0, 7.6), 2: (7.6, 11.6), 3: (11.7, 17.8), 4: (17.9, 27.0)}
    for channel, (low, high) in limits.items():
        wave = np.linspace(low, high, 7)
        columns = {"BINWAVE": wave, "ALPHA": -0.01 * wave, "YEAR1VALUE": 1.02 - 0.02 * (wave - 4), "T0": 59100.0 + wave,
                   "TSOFT": 30.0 + wave}  # fmt: skip
        made = [fits.Column(name, "E", array=np.asarray(values, "f4")) for name, values in columns.items()]
        name = f"TIMECOEFF_POWERLAW_CH{channel}"
        file[name] = fits.BinTableHDU.from_columns(made, name=name)


def jwst_half(rate: str, out: Path, references: dict[str, str]) -> None:
    """Run the three steps of jwst on a rate file, each with a spoiled reference; save their planes and CPU times."""
    import logging
    import warnings

    import numpy as np
    from jwst.assign_wcs import AssignWcsStep
    from jwst.flatfield import FlatFieldStep
    from jwst.fringe import FringeStep
    from jwst.photom import PhotomStep
    from stdatamodels.jwst import datamodels

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    model = AssignWcsStep.call(datamodels.open(rate))
    seconds = {}
    for name, step in zip(STEPS, (FlatFieldStep, FringeStep, PhotomStep), strict=True):
        start = time.process_time()
        model = step.call(model, **{f"override_{KINDS[name]}": references[KINDS[name]]})
        seconds[name] = time.process_time() - start
        planes = {"sci": model.data, "err": model.err, "dq": model.dq, "var_poisson": model.var_poisson,
                  "var_read": model.var_rnoise, "var_flat": model.var_flat}  # fmt: skip
        for short, array in planes.items():
            np.save(out / f"{name}_{short}.npy", np.asarray(array))
    (out / "cpu.json").write_text(json.dumps(seconds))


def run(folder: Path, jwst_python: str, table, parts=("parity", "truth")) -> None:
    """Compare the three steps of every setting in a folder, then the pulls."""
    if "parity" in parts:
        for setting in SETTINGS:
            compare_setting(folder / setting, setting, jwst_python, table)
    if "truth" in parts:
        compare_pulls(folder / "12A", "12A", table)


def compare_setting(folder: Path, setting: str, jwst_python: str, table) -> None:
    """Compare the three steps of one setting, each after jwst's own input."""
    import numpy as np

    from mrsxr.io import open_exposures
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.cal_chain import add_wcs
    from mrsxr.references import References, read_reference

    made = json.loads((folder / "made.json").read_text())
    rate = sorted((folder / "rate").glob("*_rate.fits"))[0]
    out = folder / "spoiled"
    paths = spoil_references(setting, Path(made["refs"]), out)
    if not (out / "cpu.json").exists():
        env = {**os.environ, **{k: str(v) for k, v in made["crds"].items()}, "OMP_NUM_THREADS": "1"}
        env.pop("PYTHONPATH", None)
        command = [jwst_python, __file__, _HALF, str(rate), str(out), json.dumps(paths)]
        subprocess.run(command, env=env, check=True, cwd=out, stdout=subprocess.DEVNULL)
    print(f"--- {setting}", flush=True)
    ds = add_wcs(open_exposures(rate), References(made["refs"]), Recipe.of()).compute()
    references = {kind: read_reference(path, kind).compute() for kind, path in paths.items()}
    cpu = json.loads((out / "cpu.json").read_text())
    for name, step in _steps(references):
        result, seconds = _timed(step, ds)
        data = "flux" if "flux" in result else "rate"
        planes = {n: result[n][0].values for n in ("var_poisson", "var_read", "var_flat")}
        planes |= {"sci": result[data][0].values, "err": np.sqrt(sum(planes.values()))}
        theirs = {n: np.load(out / f"{name}_{n}.npy") for n in (*planes, "dq")}
        for n, ours in planes.items():
            table.share(f"{name} {n}", ours, theirs[n], LIMIT, good=np.isfinite(theirs[n]) & (theirs[n] != 0))
        table.equal(f"{name} DQ", result.dq[0].values, theirs["dq"], 1.0)
        table.equal(f"{name} NaN pattern", np.isnan(planes["sci"]), np.isnan(theirs["sci"]), 1.0)
        table.add(f"{name} CPU", f"{1e3 * seconds:.0f} ms, jwst {1e3 * cpu[name]:.0f} ms", "< 50 ms", seconds < 0.05)
        ds = _with_planes(ds, theirs)


def _steps(references, **options):
    from functools import partial

    from mrsxr import cal

    yield "flat_field", partial(cal.divide_flat, flat=references["flat"])
    yield "fringe", partial(cal.divide_fringe_flat, fringe=references["fringe"], **options)
    yield "photom", partial(cal.calibrate_flux, photom=references["photom"], **options)


def _timed(step, ds):
    """Return the result of a step on data in memory and the CPU of its second run."""
    step(ds)
    start = time.process_time()
    result = step(ds)
    return result, time.process_time() - start


def _with_planes(ds, theirs):
    dims = ("dither", "y", "x")
    names = {"rate": "sci", "var_poisson": "var_poisson", "var_read": "var_read", "var_flat": "var_flat"}
    planes = {ours: (dims, theirs[name][None].astype("f4"), {"units": "DN/s" if ours == "rate" else "DN2/s2"})
              for ours, name in names.items()}  # fmt: skip
    return ds.assign(planes).assign(dq=ds.dq.copy(data=theirs["dq"][None].astype("u4")))


def compare_pulls(folder: Path, setting: str, table, realisations: int = 20, rows: int = 128) -> None:
    """Perturb noise and references by their errors many times; compare the scatter with the errors told."""
    import numpy as np

    from mrsxr.io import open_exposures
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.cal_chain import add_wcs
    from mrsxr.references import References, read_reference

    made = json.loads((folder / "made.json").read_text())
    paths = spoil_references(setting, Path(made["refs"]), folder / "spoiled")
    rate = sorted((folder / "rate").glob("*_rate.fits"))[0]
    part = {"y": slice(448, 448 + rows)}
    ds = add_wcs(open_exposures(rate), References(made["refs"]), Recipe.of()).isel(part).compute()
    references = {kind: read_reference(path, kind).isel(part).compute() for kind, path in paths.items()}
    ds = ds.assign({v: ds[v] * np.float32(0.01) for v in ("var_poisson", "var_read")})  # of 100 such exposures
    truth = _pure(ds, references)
    rng = np.random.default_rng(8)
    pulls: dict[str, list] = {}
    for _ in range(realisations):
        for kinds in (("flat",), ("fringe",), ("photom",), ("flat", "fringe", "photom")):
            noisy = _noisy(ds, rng) if len(kinds) == 3 else ds
            result = _pure(noisy, _perturbed(references, kinds, rng), True)
            off = (result.flux - truth.flux).values
            shares = [result[f"var_{kind}"].values for kind in kinds]
            if len(kinds) == 1:
                pulls.setdefault(f"pulls, errors of {kinds[0]}", []).append(_pull(off, shares[0]))
                continue
            noise = (result.var_poisson + result.var_read).values
            bright = np.where(shares[0] > noise, off, np.nan)
            pulls.setdefault("pulls, noise and all three", []).append(_pull(off, noise + sum(shares)))
            pulls.setdefault("pulls, the same, bright pixels", []).append(_pull(bright, noise + sum(shares)))
            pulls.setdefault("(with what jwst carries)", []).append(_pull(off, noise + shares[0]))
            pulls.setdefault("(with what jwst carries, bright)", []).append(_pull(bright, noise + shares[0]))
    for label, parts in pulls.items():
        values = np.concatenate(parts)
        width, mean = float(np.std(values)), float(np.mean(values))
        ours = not label.startswith("(")
        fits = not ours or (abs(width - 1) < 0.02 and abs(mean) < 0.02)
        wanted = "std 1.00 +- 0.02, mean 0 +- 0.02" if ours else "for comparison"
        table.add(label, f"std {width:.3f} mean {mean:+.3f}", wanted, fits)


def _pull(off, variance):
    import numpy as np

    with np.errstate(invalid="ignore"):
        good = np.isfinite(off) & (variance > 0)
    return off[good] / np.sqrt(variance[good])


def _pure(ds, references, propagate: bool = False):
    for _, step in _steps(references, **({"propagate_errors": True} if propagate else {})):
        ds = step(ds)
    return ds


def _noisy(ds, rng):
    sigma = ((ds.var_poisson + ds.var_read) ** 0.5).values
    return ds.assign(rate=ds.rate + (sigma * rng.standard_normal(sigma.shape)).astype("f4"))


def _perturbed(references, kinds, rng):
    import numpy as np

    names = {
        "flat": ("flat", "flat_err"),
        "fringe": ("fringe", "fringe_err"),
        "photom": ("conversion", "conversion_err"),
    }
    out = dict(references)
    for kind in kinds:
        value, error = (out[kind][n] for n in names[kind])
        moved = value + (error * rng.standard_normal(value.shape)).astype(np.float32)
        out[kind] = out[kind].assign({value.name: moved.where(value != 0, value)})
    return out


def main() -> None:
    """Run from the command line."""
    if sys.argv[1:2] == [_HALF]:
        jwst_half(sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
        return
    from compare_jwst import Table

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jwst-python", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=["parity", "truth"])
    args = parser.parse_args()
    table = Table()
    run(args.folder.resolve(), args.jwst_python, table, args.only)
    short = [row[0] for row in table.rows if not row[3]]
    print(
        f"{len(table.rows) - len(short)} of {len(table.rows)} as wanted{'; short: ' if short else ''}{', '.join(short)}"
    )


if __name__ == "__main__":
    main()
