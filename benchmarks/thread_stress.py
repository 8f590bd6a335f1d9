"""Count the exposures that runs with several workers lose: many small runs, each in a fresh process.

    python benchmarks/thread_stress.py [--runs 40] [--workers 2] [--to cal] [--folder DIR]

Four slope images of two settings are simulated once; every run takes them to cal (or further), its workers read the
geometry files of both settings at the same moment. Threads are switched a hundred times more often than usual. What is
lost is printed with its reason; the exit code is 1 where anything was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

RUN = """
import json, sys, warnings
sys.setswitchinterval(5e-5)
warnings.simplefilter("ignore")
from pathlib import Path
import mrsxr as mx
source, refs, out, to, workers = sys.argv[1:]
found = mx.run(Path(source), out=out, refs=refs, to=to, workers=int(workers))
print(json.dumps({"failed": found.failed, "done": len(found.files.get("cal", []))}))
"""


def prepare(folder: Path) -> tuple[Path, Path, int]:
    """Simulate two settings and reduce them to slopes; return the folders of slopes and references, and how many."""
    import mrsxr as mx
    from mrsxr.simulate import simulate_observation

    made = simulate_observation(
        folder / "simulated", bands=["1A", "1B"], n_groups=6, n_integrations=1, n_dithers=2, n_background=0, seed=5,
        save_slopes=False,
    )  # fmt: skip
    slopes = mx.run(made.uncal_folder, out=folder / "slopes", refs=made.reference_folder, to="rate")
    if slopes.failed:
        raise SystemExit(f"the slopes could not be made: {slopes.failed}")
    return folder / "slopes" / "stage1", made.reference_folder, len(slopes.files["rate"])


def main() -> int:
    """Run, count, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--to", default="cal", choices=["cal", "cube", "spectrum"])
    parser.add_argument("--folder", type=Path, help="Where to work; by default a folder that is removed afterwards.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        source, refs, expected = prepare(folder)
        reasons: Counter[str] = Counter()
        lost = broken = 0
        start = time.perf_counter()
        for number in range(options.runs):
            arguments = [source, refs, folder / "out", options.to, options.workers]
            done = subprocess.run(
                [sys.executable, "-c", RUN, *map(str, arguments)],
                capture_output=True,
                text=True,
                check=False,
                cwd=folder,
            )
            try:
                told = json.loads(done.stdout.splitlines()[-1])
            except (IndexError, json.JSONDecodeError):
                told = {"failed": {"process": done.stderr[-300:]}, "done": 0}
            missing = expected - told["done"]
            lost, broken = lost + missing, broken + bool(missing or told["failed"])
            reasons.update(str(reason)[:160] for reason in told["failed"].values())
            if told["failed"]:
                print(f"run {number + 1}: {told['failed']}", flush=True)
        seconds = time.perf_counter() - start
        total = options.runs * expected
        print(f"{options.runs} runs with {options.workers} workers, {total} exposures in {seconds:.0f} s")
        print(f"runs with a failure: {broken}; exposures lost: {lost}")
        for reason, count in reasons.most_common():
            print(f"{count:4d}  {reason}")
    return 1 if lost or broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
