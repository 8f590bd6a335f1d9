"""The table of costs of the documents, from one run: every stage in both modes, as whole processes, jwst beside.

    python benchmarks/cost.py [FOLDER] [--jwst-python ENV/bin/python] [--groups 40] [--dithers 4] [--only "stage 1" ...]

A row is a process of its own with its imports, the command ``mrsxr run``, that reduces all exposures of one setting
(12A, two integrations) from the files of the stage before, by one worker; jwst takes the same files and reference files
in the same turn, each exposure by itself and in stage 3 all at once. The exposures are simulated once, in FOLDER, and
each case runs once before it is measured, so that its kernels are compiled. CPU is that of the whole process and can be
compared on a machine with other work. Wall is told where the load leaves the cores free, of one worker and of one for
each core, as the command runs by default. Nothing is scaled: what a table tells was run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SETTING = "12A"


@dataclass(frozen=True)
class Cost:
    """Wall and CPU [s] and peak memory [GB] of a process."""

    wall: float
    cpu: float
    peak: float


@dataclass(frozen=True)
class Case:
    """A row: what is run, in which mode, with which parameters ("step.parameter=value"), what of jwst does the same."""

    name: str
    source: str
    to: str
    mode: str
    given: tuple[str, ...] = ()
    jwst: str = ""
    options: str = "{}"


CASES = (
    Case("stage 1, uncal to rate", "uncal", "rate", "baseline", jwst="stage1"),
    Case("stage 1 with find_showers", "uncal", "rate", "baseline", ("find_showers.skip=false",), "stage1",
         '{"jump": {"find_showers": true}}'),
    Case("stage 1, optimal", "uncal", "rate", "optimal"),
    Case("stage 2, rate to cal", "rate", "cal", "baseline", jwst="stage2"),
    Case("stage 2 with residual_fringe", "rate", "cal", "baseline", ("cal.residual_fringe.skip=false",), "stage2",
         '{"residual_fringe": {"skip": false}}'),
    Case("stage 2, optimal", "rate", "cal", "optimal"),
    Case("stage 3, cal to cubes and spectra", "cal", "spectrum", "baseline", jwst="stage3"),
    Case("stage 3, optimal", "cal", "spectrum", "optimal"),
    Case("stage 3, optimal without trace_model", "cal", "spectrum", "optimal", ("trace_model.skip=true",)),
)  # fmt: skip


def prepare(folder: Path, script: str | Path, *words: str) -> dict[str, Any]:
    """Return the files of every stage; a script makes them, in another process, where they are not there.

    The peak memory of a process counts what the process that began it held.
    """
    facts = folder / "made.json"
    if not facts.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, str(script), "make", str(folder), *words], check=True)
    return json.loads(facts.read_text()) | {"folder": str(folder)}


def calibrated(folder: str, **options: Any) -> None:
    """Simulate exposures, calibrate them, and tell where the files of every stage are."""
    import mrsxr as mx

    made = mx.simulate_observation(Path(folder) / "sim", n_background=0, save_slopes=False, **options)
    result = mx.run(made.uncal_folder, out=Path(folder) / "made", refs=made.reference_folder, to="cal")
    if result.failed:
        sys.exit(f"not calibrated: {result.failed}")
    told = {"uncal": made.uncal, "refs": made.reference_folder, "crds": made.crds, **result.files}
    (Path(folder) / "made.json").write_text(json.dumps(told, default=str))


def make(folder: str, groups: str, dithers: str) -> None:
    """Make the files of one setting."""
    calibrated(folder, bands=[SETTING], n_groups=int(groups), n_integrations=2, n_dithers=int(dithers), seed=3)


def cost_of(command: list[str], env: dict[str, str], cwd: Path) -> Cost:
    """Return the cost of a process, its children too; modules are compiled once, as pip does for what it installs."""
    env = {name: value for name, value in env.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    with subprocess.Popen(command, env=env, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        told = process.stderr.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command[:4])} ...: {told[-2000:]}")
    unit = 1e9 if sys.platform == "darwin" else 1e6
    return Cost(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / unit)


def reduced(made: dict[str, Any], files: Sequence[str], to: str, mode: str, *changed: str, workers: int = 1) -> Cost:
    """Return the cost of the command that reduces files, with parameters ("step.parameter=value")."""
    command = [sys.executable, "-m", "mrsxr", "run", *files, "--out", f"{made['folder']}/out", "--refs", made["refs"],
               "--to", to, "--mode", mode, "--fresh", "--workers", str(workers)]  # fmt: skip
    for one in (*changed, *(["extract_1d.source_type=POINT"] if to == "spectrum" else [])):
        command += ["--set", one]
    return cost_of(command, {**os.environ, "OMP_NUM_THREADS": "1"}, Path(made["folder"]))


def ours(case: Case, made: dict[str, Any], workers: int = 1) -> Cost:
    """Return the cost of a case here."""
    return reduced(made, made[case.source], case.to, case.mode, *case.given, workers=workers)


def theirs(case: Case, made: dict[str, Any], python: str) -> Cost:
    """Return the cost of a case in jwst."""
    folder = Path(made["folder"])
    env = {**os.environ, **{key: str(value) for key, value in made["crds"].items()}, "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONPATH", None)
    (folder / "jwst").mkdir(exist_ok=True)
    command = [python, str(HERE.parent / "jwst_side.py"), "whole", str(folder / "jwst"), case.jwst, case.options]
    return cost_of([*command, *made[case.source]], env, folder)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("cost"))
    parser.add_argument("--jwst-python")
    parser.add_argument("--groups", type=int, default=40)
    parser.add_argument("--dithers", type=int, default=4, choices=(1, 2, 4))
    parser.add_argument("--only", nargs="*", default=[""], help="Parts of the names of rows.")
    parser.add_argument("--cold", action="store_true", help="Do not run each case once before it is measured.")
    given = parser.parse_args()
    size = given.groups, given.dithers
    made = prepare(given.folder.resolve() / "{1}x2x{0}".format(*size), HERE, *map(str, size))
    print(f"| {given.dithers} exposures of 2 x {given.groups} groups, {SETTING} | mrsxr | jwst | ratio |")
    print("|---|---|---|---|")
    for case in (one for one in CASES if any(part in one.name for part in given.only)):
        if not given.cold:
            ours(case, made)  # its kernels are compiled
        cores = os.cpu_count() or 1
        quiet = os.getloadavg()[0] < cores
        mine, wide = ours(case, made), ours(case, made, cores) if quiet else None
        other = theirs(case, made, given.jwst_python) if case.jwst and given.jwst_python else None
        rows = [("cpu", mine, "cpu", "s"), ("peak", mine, "peak", "GB")]
        if wide is not None:
            rows = [("wall", mine, "wall", "s"), (f"wall, {cores} workers", wide, "wall", "s"), *rows,
                    (f"peak, {cores} workers", wide, "peak", "GB")]  # fmt: skip
        for name, cost, what, unit in rows:
            here, there = getattr(cost, what), None if other is None else getattr(other, what)
            told = f"{there:.2f} {unit} | {there / here:.1f}" if there is not None else "- | -"
            print(f"| {case.name}: {name} | {here:.2f} {unit} | {told} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(*sys.argv[2:])
    else:
        main()
