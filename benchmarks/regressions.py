"""CPU time and peak memory of kernels and chains of two git revisions, in turn: what lost 20 % is named.

    python benchmarks/regressions.py [--base origin/main] [--now REVISION] [--rounds 3] [--only rate ...] [--folder DIR]

Each case of :data:`CASES` runs in a process of its own with one thread, the revisions in turn, and the least of the
rounds counts: on a machine with other work only this can be compared. ``--now`` is a revision, or by default the files
as they lie. The exposures are simulated once, in FOLDER, by the files as they lie. Ends with status 1 where a case
takes more than 1.2 times the time or memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _memory import memory_gb

ROOT = Path(__file__).resolve().parents[1]
LOSS, AGAIN = 1.2, 4  # a case is done so often in a process, after once to load its kernels


def ramps(n_rows: int = 24) -> dict[str, Any]:
    """Return a block of ramps with hits, as the kernels get it: two integrations of 40 groups."""
    rng = np.random.default_rng(1)
    shape = (1, 2, 40, n_rows, 1032)
    sci = np.cumsum(rng.normal(12.0, 5.0, shape), axis=2, dtype=np.float32)
    hits = rng.random(shape) < 1e-3
    sci += np.cumsum(hits * np.float32(400.0), axis=2, dtype=np.float32)
    flags = np.zeros(shape, dtype=np.uint8)
    flags[:, :, -1] = flags[:, 0, :1] = flags[:, 1, :3] = 1
    frame = shape[-2:]
    return {"sci": sci, "flags": flags, "hits": flags | np.where(hits & (flags == 0), np.uint8(4), np.uint8(0)),
            "noise": np.full(frame, 6.0, np.float32), "gain": np.full(frame, 5.5, np.float32),
            "zeros": np.zeros(frame, np.float32), "pixels": np.zeros((1, *frame), np.uint32)}  # fmt: skip


def _kernel(module: str, name: str, *given: str, **options: Any) -> Callable[[Path], Callable[[], Any]]:
    """Return what makes a call of a wrapper with parts of :func:`ramps`."""

    def make(_: Path) -> Callable[[], Any]:
        from importlib import import_module

        block = ramps()
        block["polynomial"] = np.stack([block["zeros"], block["zeros"] + 1, *[block["zeros"] + np.float32(1e-6)] * 2])
        block["zero_flags"] = block["pixels"][0]
        block["skip"] = block["zero_flags"] != 0
        block["dark"] = block["sci"][0] * np.float32(0.01)
        wrapper = getattr(import_module(module), name)
        return lambda: wrapper(*[block[one] for one in given], **options)

    return make


def _stray_light(_: Path) -> Callable[[], Any]:
    """Return what fits and subtracts the stray light of a frame of sixteen slices."""
    from mrsxr.cal._straylight_fit import fitted_wrapper

    rng, shape = np.random.default_rng(2), (1, 1024, 1032)
    inside = np.arange(1032) % 32 > 10
    parameters = np.array([[45.0, 8e-4, 3.4, 22.0, 1.5e-3, 4e-4]] * 2)[:, :, None] * np.ones(1024)
    light = np.where(inside, 20.0, 1.0) * (1.0 + 0.5 * np.sin(np.arange(1024) / 90.0))[:, None]
    rate = (light + rng.normal(0.0, 0.05, shape)).astype(np.float32)
    flags, variance = np.zeros(shape, np.uint32), np.full(shape, 2.5e-3, np.float32)
    return lambda: fitted_wrapper(rate, flags, variance, np.broadcast_to(inside, shape[1:]).copy(), parameters)


def _chain(*levels: str, mode: str = "baseline", compute: bool = True) -> Callable[[Path], Callable[[], Any]]:
    """Return what makes a reduction of an exposure on disk to the last of some levels."""

    def make(folder: Path) -> Callable[[], Any]:
        import dask

        import mrsxr as mx

        (uncal,), refs = sorted((folder / "uncal").glob("*.fits")), mx.References(folder / "refs")

        def run() -> Any:
            ds = mx.open_exposures(uncal)
            for level in levels:
                ds = getattr(mx, f"make_{level}")(ds, refs, mode)
            with dask.config.set(scheduler="synchronous"):
                return ds.compute() if compute else ds

        return run

    return make


def _line_fits(_: Path) -> Callable[[], Any]:
    """Return what fits a line in every spaxel of a cube."""
    import mrsxr as mx

    cube = mx.simulate.simulate_cube(band="3A", wavelength=(12.8, 13.4), noise=2.0)
    return lambda: mx.lines.fit_line(cube, "[Ne II] 12.81", redshift=0.0225, components="auto")


def _stage3(mode: str, *, compute: bool = True) -> Callable[[Path], Callable[[], Any]]:
    """Return what makes the cubes and spectra, or the plan of the cubes, of an exposure on disk that is calibrated."""

    def make(folder: Path) -> Callable[[], Any]:
        import dask

        import mrsxr as mx

        (cal,), refs = sorted((folder / "cal").glob("*.fits")), mx.References(folder / "refs")

        def run() -> Any:
            exposures = mx.open_exposures(cal)
            with dask.config.set(scheduler="synchronous"):
                return mx.reduce(exposures, refs, mode) if compute else mx.make_cubes(exposures, refs, mode)

        return run

    return make


_RATE = "mrsxr.rate._"
CASES = {
    "kernel first_saturated": _kernel(f"{_RATE}saturation_kernels", "first_saturated", "sci", "noise"),
    "kernel linearize": _kernel(f"{_RATE}linearity_kernels", "linearize", "sci", "flags", "polynomial", "zero_flags"),
    "kernel subtract dark": _kernel(f"{_RATE}dark_kernels", "subtract", "sci", "dark", use=(0, 1), goes_on=True),
    "kernel find_jumps": _kernel(f"{_RATE}jump_kernels", "find_jumps", "sci", "flags", "noise", "gain"),
    "kernel fit_ols": _kernel(
        f"{_RATE}ramp_fit_kernels", "fit_ols", "sci", "hits", "pixels", "noise", "gain", "zeros", group_time=2.775,
        limits=(0, 39),
    ),
    "kernel fit_gls": _kernel(
        f"{_RATE}likelihood_kernels", "fit_gls", "sci", "hits", "pixels", "noise", "gain", "zeros", group_time=2.775,
        limits=(0, 39), find_jumps=False,
    ),
    "kernel find_jumps_gls": _kernel(
        f"{_RATE}likelihood_kernels", "find_jumps_gls", "sci", "flags", "noise", "gain", "zeros", "polynomial", "skip",
        group_time=2.775,
    ),
    "kernel fit_gls, linearity": _kernel(
        f"{_RATE}likelihood_kernels", "fit_gls", "sci", "hits", "pixels", "noise", "gain", "zeros", "polynomial",
        "skip", group_time=2.775, limits=(0, 39), find_jumps=False,
    ),
    "kernel cell_sums": _kernel(
        f"{_RATE}emicorr_kernels", "cell_sums", "sci", "pixels", edges=range(0, 259, 43), low=1, high=39,
        n_amplifiers=1,
    ),
    "kernel coarse_maps": _kernel(
        f"{_RATE}shower_model_kernels", "coarse_maps", "sci", "flags", "pixels", "noise", "gain"
    ),
    "kernel fitted stray light": _stray_light,
    "fits of lines": _line_fits,
    "graph rate": _chain("rate", compute=False),
    "graph rate and cal, optimal": _chain("rate", "cal", mode="optimal", compute=False),
    "graph cubes, optimal": _stage3("optimal", compute=False),
    "chain rate": _chain("rate"),
    "chain rate, optimal": _chain("rate", mode="optimal"),
    "chain rate and cal": _chain("rate", "cal"),
    "chain rate and cal, optimal": _chain("rate", "cal", mode="optimal"),
    "chain cubes and spectra": _stage3("baseline"),
    "chain cubes and spectra, optimal": _stage3("optimal"),
}  # fmt: skip


def side(name: str, folder: str) -> None:
    """Run a case in this process and print its least CPU time [s] and peak memory [GB]."""
    import warnings

    warnings.simplefilter("ignore")
    run = CASES[name](Path(folder))
    run()
    found = []
    for _ in range(AGAIN):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    print(json.dumps({"cpu": min(found), "gb": memory_gb()}))


def measure(name: str, package: Path, folder: Path) -> dict[str, float]:
    """Return the cost of a case with the package of a checkout."""
    env = {**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "side", name, str(folder)]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    return json.loads(done.stdout.splitlines()[-1])


def checkout(revision: str | None, into: Path) -> Path:
    """Return the folder with the files of a revision, those that lie here where there is none."""
    if revision is None:
        return ROOT
    into.mkdir()
    archive = subprocess.run(["git", "archive", revision], cwd=ROOT, check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "x", "-C", str(into)], input=archive.stdout, check=True)
    return into


def calibrate(folder: Path) -> None:
    """Save the calibrated exposure that the cases of stage 3 begin with, made by the files as they lie."""
    import mrsxr as mx

    (uncal,), refs = sorted((folder / "uncal").glob("*.fits")), mx.References(folder / "refs")
    mx.save(mx.reduce(mx.open_exposures(uncal), refs, to="cal"), folder / "cal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="origin/main")
    parser.add_argument("--now")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[""], help="Parts of the names of cases.")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary) / "exposure").resolve()
        if not (folder / "uncal").is_dir():
            from mrsxr.simulate import simulate_observation

            simulate_observation(folder, bands=["12A"], n_groups=40, n_integrations=2, n_dithers=1, n_background=0,
                                 save_slopes=False)  # fmt: skip
        if not (folder / "cal").is_dir():
            calibrate(folder)
        sides = {name: checkout(revision, Path(temporary) / name)
                 for name, revision in (("base", given.base), ("now", given.now))}  # fmt: skip
        lost = []
        print(f"{'':32s} {'CPU [ms]':>19s} {'':>6s} {'peak [GB]':>13s}\n{'':32s} {'base':>9s} {'now':>9s} {'ratio':>6s}"
              f" {'base':>6s} {'now':>6s}")  # fmt: skip
        for name in (one for one in CASES if any(part in one for part in given.only)):
            rows: dict[str, list[dict[str, float]]] = {"base": [], "now": []}
            for _ in range(given.rounds):
                for which, package in sides.items():
                    rows[which].append(measure(name, package, folder))
            base, now = ({key: min(row[key] for row in rows[which]) for key in ("cpu", "gb")} for which in rows)
            ratio = now["cpu"] / base["cpu"]
            print(f"{name:32s} {1e3 * base['cpu']:9.1f} {1e3 * now['cpu']:9.1f} {ratio:6.2f} {base['gb']:6.2f} "
                  f"{now['gb']:6.2f}", flush=True)  # fmt: skip
            if ratio > LOSS or now["gb"] > LOSS * base["gb"]:
                lost.append(name)
    if lost:
        sys.exit(f"takes more than {LOSS} times what it took: {', '.join(lost)}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["side"]:
        side(*sys.argv[2:])
    else:
        main()
