"""Many observations in one queue: what the real planner, keys and ledger cost beside pieces that only sleep.

    python benchmarks/many_observations.py --observations 1000 [--cluster local:2] [--workers 2]

Printed are the time of a piece, the memory of the process that hands them out, what travels with a piece, and the time
of ``mrsxr status``.
"""

from __future__ import annotations

import argparse
import pickle
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from astropy.io import fits

from mrsxr.io.files import SCIENCE, FileInfo
from mrsxr.pipeline import Recipe, Reporter, pieces, plan
from mrsxr.pipeline.arrivals import Arrivals
from mrsxr.pipeline.cluster import executor_of
from mrsxr.pipeline.pieces import Group, Way
from mrsxr.pipeline.record import RunRecord, peak_memory
from mrsxr.pipeline.reduction import Reduction, StageReporter
from mrsxr.pipeline.runner import carry_out
from mrsxr.pipeline.shares import share
from mrsxr.pipeline.store import Store, status, stores_below

SECONDS = 0.01
KEYWORDS = {"TELESCOP": "JWST", "INSTRUME": "MIRI", "DETECTOR": "MIRIFUSHORT", "BAND": "SHORT", "CHANNEL": "12",
            "READPATT": "FASTR1", "SUBARRAY": "FULL", "NGROUPS": 40}  # fmt: skip


def sleeping(product: str):
    """Return a piece that sleeps and returns a plain value as its product."""

    def piece(_way, seconds=SECONDS, **_):
        time.sleep(seconds)
        if product == "combined":
            return {"12A": [Group((1.0,))]}
        return {product: [{"taken": ["POINT"]} if product == "decision" else 1.0]}

    return piece


STUBS = {"make_rate": "rate", "make_cal": "cal", "join": "joined", "combine_exposures": "combined", "make_cube": "cube",
         "decide_source_type": "decision", "make_spectra": "spectrum", "stitch": "stitched"}  # fmt: skip


def observation(number: int, inputs: Path, out: Path, recipe: Recipe, dithers: int, told: StageReporter) -> Reduction:
    """Return the plan of an observation of one setting."""
    name = f"{number:05d}-o001"
    infos = [
        FileInfo(inputs, "uncal", "12A", SCIENCE, f"jw{number:05d}001001_02101_{k:05d}_mirifushort", KEYWORDS)
        for k in range(dithers)
    ]
    planner = plan.Planner(recipe, ("1A", "2A"))
    units = [plan.Unit(SCIENCE, "12A", i.exposure, i.exposure, 0, pieces.Filed(i.path, SCIENCE, i.exposure))
             for i in infos]  # fmt: skip
    planner.whole(units, "spectrum")
    arrivals = Arrivals({(SCIENCE, "12A"): [one.exposure for one in infos]})
    return Reduction(planner.tasks, Way(None, recipe, arrivals=arrivals), Store(out / name),
                     RunRecord.begin(recipe, "none"), told, {"12A": infos[0]}, name)  # fmt: skip


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--observations", type=int, default=1000)
    parser.add_argument("--dithers", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cluster", help="local:2")
    options = parser.parse_args()
    for name, product in STUBS.items():
        setattr(pieces, name, sleeping(product))
    with tempfile.TemporaryDirectory() as scratch:
        for line, value in measured(Path(scratch), options).items():
            sys.stdout.write(f"{line:44s} {value}\n")


def measured(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """Return the table."""
    inputs, out, recipe = folder / "a_uncal.fits", folder / "out", Recipe.of("optimal")
    fits.PrimaryHDU().writeto(inputs)
    start, told = time.perf_counter(), StageReporter(Reporter())
    reductions = [observation(k, inputs, out, recipe, options.dithers, told) for k in range(options.observations)]
    planned, total = time.perf_counter() - start, sum(len(one.tasks) for one in reductions)
    sizes = [len(pickle.dumps(share(task, one.way))) for one in reductions[:1] for task in one.tasks]
    before = peak_memory() or 0.0
    where = executor_of(options.cluster) if options.cluster else nullcontext(ThreadPoolExecutor(options.workers))
    with where as executor, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start, busy = time.perf_counter(), time.process_time()
        carry_out(reductions, executor, options.workers)
        wall, busy = time.perf_counter() - start, time.process_time() - busy
    again = [observation(k, inputs, out, recipe, options.dithers, told) for k in range(options.observations)]
    start = time.perf_counter()
    carry_out(again, None, options.workers)
    taken_over, start = time.perf_counter() - start, time.perf_counter()
    counts = [status(one).counts for one in stores_below(out)]
    asked = time.perf_counter() - start
    assert sum(one[0] for one in counts) == total == sum(one.result.taken_over for one in again), counts[0]
    return {
        "observations, pieces": f"{options.observations}, {total}", "planned in [s]": f"{planned:.1f}",
        "done in [s]": f"{wall:.1f}", "of a worker's time, a piece [ms]": f"{1e3 * wall * options.workers / total:.1f}",
        "CPU of this process, a piece [ms]": f"{1e3 * busy / total:.2f}",
        "share of a piece as it travels [bytes]": f"{min(sizes)} to {max(sizes)}",
        "peak memory of this process [MB]": f"{peak_memory() or 0.0:.0f} ({before:.0f} with the plans alone)",
        "taken over by a second run in [s]": f"{taken_over:.1f}", "mrsxr status [s]": f"{asked:.2f}",
    }  # fmt: skip


if __name__ == "__main__":
    main()
