"""Kill runs at random moments, go on, and compare the bytes with those of a run that nobody disturbed.

    python benchmarks/chaos.py --kills 20 [--cluster local:2] [--signal KILL] [--seed 1] [--workers 2]

One table is printed: kills, files broken, bytes that differ, and the time that all parts took over that of one run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

OUTCOMES = {"KILL": (-9,), "TERM": (143, 0), "INT": (130, 0)}


def main() -> int:
    """Run the tests that the arguments ask for and print a table; 1 where something was broken or differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", choices=(*OUTCOMES, "WORKER"), default="KILL", help="WORKER: of a cluster, one")
    parser.add_argument("--cluster", help="local:2")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="simulated data of an earlier call, or where to put them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        table = chaos(options.folder or Path(scratch) / "data", Path(scratch), options)
    for name, value in table.items():
        sys.stdout.write(f"{name:40s} {value}\n")
    return int(bool(table["files broken"] or table["files that differ"] or table["unfinished files left"]))


def chaos(data: Path, scratch: Path, options: argparse.Namespace) -> dict[str, object]:
    """Kill runs on simulated data until there were so many kills; return the table."""
    from mrsxr.demo import EFFECTS, SIZES
    from mrsxr.simulate import simulate_observation

    if not data.exists():
        simulate_observation(data, **SIZES["quick"], seed=options.seed, save_slopes=False, effects=EFFECTS)
    rng = random.Random(options.seed)
    command = [
        sys.executable, "-c", "from mrsxr.cli import main; main()", "run", str(data / "uncal"),
        "--background-from", str(data / "background"),
        "--refs", str(data / "refs"), "--source-type", "point",
        *(["--cluster", options.cluster] if options.cluster else ["--workers", str(options.workers)]),
    ]  # fmt: skip
    whole = [run(command, scratch / f"whole{k}", options, None) for k in range(2)]
    alone, wanted = min(seconds for seconds, _, _ in whole), digests(scratch / "whole0")
    kills = broken = differ = left = stopped_late = rounds = 0
    spent = extra = 0.0
    while kills < options.kills:
        out, done = scratch / f"out{rounds}", False
        rounds, spent = rounds + 1, 0.0
        while not done:
            moment = rng.uniform(0.5, alone) if kills < options.kills else None
            seconds, late, code = run(command, out, options, moment)
            spent, stopped_late = spent + seconds, stopped_late + (late > 5)
            done = code == 0
            kills += moment is not None and (not done or options.signal == "WORKER")
            broken += sum(not is_whole(path) for path in products(out))
        found = digests(out)
        differ += sum(found.get(name) != value for name, value in wanted.items()) + len(set(found) - set(wanted))
        left += len(list(out.rglob(".mrsxr-*")))
        extra += spent - alone
    return {
        "kills": kills, "runs that were brought to an end": rounds, "files of each": len(wanted),
        "files broken": broken, "files that differ": differ, "unfinished files left": left,
        "stopped later than 5 s": stopped_late,
        "one run [s]": f"{alone:.1f}", "more time of a killed run [%]": f"{100 * extra / rounds / alone:.1f}",
        "more time for each kill [s]": f"{extra / max(kills, 1):.2f}",
    }  # fmt: skip


def run(command: list[str], out: Path, options: argparse.Namespace, moment: float | None) -> tuple[float, float, int]:
    """Run a command; kill it after so many seconds. Return its time, how long the kill took, and its exit code."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    start = time.perf_counter()
    with subprocess.Popen([*command, "--out", str(out)], env=environment, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, start_new_session=True) as process:  # fmt: skip
        try:
            process.wait(timeout=moment)
            return time.perf_counter() - start, 0.0, process.returncode
        except subprocess.TimeoutExpired:
            struck = time.perf_counter()
        if options.signal == "WORKER":
            workers = children(process.pid)
            if workers:
                os.kill(random.choice(workers), signal.SIGKILL)
            process.wait()
            return time.perf_counter() - start, 0.0, process.returncode
        os.kill(process.pid, getattr(signal, f"SIG{options.signal}"))
        process.wait()
        late = time.perf_counter() - struck
        if options.signal == "KILL":
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)
    assert process.returncode in OUTCOMES[options.signal], process.returncode
    return time.perf_counter() - start, late, process.returncode


def children(pid: int) -> list[int]:
    """Return the processes below one that compute."""
    found: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            facts = stat.read_text().rpartition(")")[2].split()
            found.setdefault(int(facts[1]), []).append(int(stat.parent.name))
        except (OSError, ValueError, IndexError):
            continue
    out, left = [], [pid]
    while left:
        below = found.get(left.pop(), [])
        out += [one for one in below if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]
        left += below
    return out


def products(out: Path) -> list[Path]:
    """Return the files under final names."""
    shown = [path for path in out.rglob("*") if not any(part[0] == "." for part in path.relative_to(out).parts)]
    return [path for path in shown if path.suffix in (".fits", ".nc")]


def is_whole(path: Path) -> bool:
    """Return whether a product can be read to its end."""
    import mrsxr as mx

    try:
        mx.load(path).compute()
    except mx.MrsxrError:
        return False
    return True


def digests(out: Path) -> dict[str, str]:
    """Return the digest of the content of each product."""
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in products(out)}


if __name__ == "__main__":
    sys.exit(main())
