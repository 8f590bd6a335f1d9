"""Kill runs at random moments, go on, and compare the bytes with those of a run that nobody disturbed.

    python benchmarks/chaos.py --kills 200 [--signal TERM] [--whole] [--seed 1] [--workers 2]
    python benchmarks/chaos.py --kills 50 --cluster local:2 --signal WORKER

On threads each run is a copy of this process with few steps, which begins at once; ``--whole`` makes it a process with
all steps, as a user starts it. One table is printed: kills, files broken, bytes that differ, and the time that all
parts took over that of one run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

OUTCOMES = {"KILL": (-9,), "TERM": (143, 0), "INT": (130, 0)}
#: Not done by a copy of this process: what is left has all products, from ramps to the stitched spectrum.
LEFT_OUT = ("saturation lastframe reset linearity rscd dark_current refpix jump straylight flat_field fringe "
            "spectrum.residual_fringe").split()  # fmt: skip
_OF_A_RUN = 3  # workers that are killed: a piece is tried as often


def main() -> int:
    """Run the tests that the arguments ask for and print a table; 1 where something was broken or differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", choices=(*OUTCOMES, "WORKER"), default="KILL", help="WORKER: of a cluster, one")
    parser.add_argument("--cluster", help="local:2")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="processes of their own, with all steps")
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

    os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    if not data.exists():
        simulate_observation(data, **SIZES["quick"], seed=options.seed, save_slopes=False, effects=EFFECTS)
    rng, chosen = random.Random(options.seed), options.signal
    here = not (options.whole or options.cluster)
    start = _copy if here else _process
    command = [
        str(data / "uncal"), "--background-from", str(data / "background"), "--refs", str(data / "refs"),
        "--source-type", "point",
        *(["--skip", ",".join(LEFT_OUT), "--bands", "1A"] if here else []),
        *(["--cluster", options.cluster] if options.cluster else ["--workers", str(options.workers)]),
    ]  # fmt: skip
    if here:
        with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            _reduce([*command, "--out", str(scratch / "first")])  # imports and kernels are there for its copies
    whole = [run(start, [*command, "--out", str(scratch / f"whole{k}")], chosen, [], rng) for k in range(2)]
    alone, wanted = min(seconds for seconds, *_ in whole), digests(scratch / "whole0")
    assert digests(scratch / "whole1") == wanted, "two runs that nobody disturbed differ"
    kills = broken = differ = left = stopped_late = rounds = 0
    extra, known = 0.0, dict.fromkeys(wanted.items(), True)
    while kills < options.kills:
        out, code, spent = scratch / f"out{rounds}", 1, 0.0
        rounds += 1
        while code:
            moments = sorted(rng.uniform(0.05, alone) for _ in range(_OF_A_RUN if chosen == "WORKER" else 1))
            moments = moments if chosen == "WORKER" or not here else [0.5 * moments[0]]  # it begins at once
            moments = moments if kills < options.kills else []
            seconds, late, code, struck = run(start, [*command, "--out", str(out)], chosen, moments, rng)
            spent, stopped_late, kills = spent + seconds, stopped_late + (late > 5), kills + struck
            found = digests(out)
            for one in found.items():
                if one not in known:
                    known[one] = is_whole(out / one[0])
            broken += sum(not known[one] for one in found.items())
        differ += len(set(wanted.items()) ^ set(found.items()))
        left += len(list(out.rglob(".mrsxr-*")))
        extra += spent - alone
    return {
        "kills": kills, "runs that were brought to an end": rounds, "files of each": len(wanted),
        "files broken": broken, "files that differ": differ, "unfinished files left": left,
        "stopped later than 5 s": stopped_late,
        "one run [s]": f"{alone:.1f}", "more time of a killed run [%]": f"{100 * extra / rounds / alone:.1f}",
        "more time for each kill [s]": f"{extra / max(kills, 1):.2f}",
    }  # fmt: skip


def run(
    start: object, arguments: list[str], chosen: str, moments: list[float], rng: random.Random
) -> tuple[float, float, int, int]:  # fmt: skip
    """Run a command; kill it, or its workers, after so many seconds.

    Return its time, how long it took to stop, its exit code, and how many were killed.
    """
    begun, late, kills, struck = time.perf_counter(), 0.0, 0, 0.0
    pid = start(arguments)
    for moment in moments:
        while (code := _ended(pid)) is None and time.perf_counter() - begun < moment:
            time.sleep(0.005)
        if code is not None:
            return time.perf_counter() - begun, 0.0, code, kills
        workers = children(pid)
        if chosen == "WORKER":
            if workers:
                os.kill(rng.choice(workers), signal.SIGKILL)
                kills += 1
            continue
        struck, kills = time.perf_counter(), 1
        os.kill(pid, getattr(signal, f"SIG{chosen}"))
        for child in workers if chosen == "KILL" else ():
            os.kill(child, signal.SIGKILL)
    while (code := _ended(pid)) is None:
        time.sleep(0.005)
    late = time.perf_counter() - struck if struck else 0.0
    assert code in (OUTCOMES[chosen] if struck else (0, 1)), code
    return time.perf_counter() - begun, late, code, int(kills if not struck else code != 0)


def _process(arguments: list[str]) -> int:
    """Begin a run as a process of its own; return its pid."""
    words = [sys.executable, "-c", "from mrsxr.cli import main; main()", "run", *arguments]
    silent = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    return os.posix_spawn(words[0], words, os.environ, file_actions=silent, setsid=True)


def _copy(arguments: list[str]) -> int:
    """Begin a run in a copy of this process; return its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of threads, which the copy does not use
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        code = _reduce(arguments)
    finally:
        os._exit(code)


def _reduce(arguments: list[str]) -> int:
    """Do what the command does, but for the picture, which is drawn by threads that a copy lacks; its exit code."""
    import mrsxr.cli

    mrsxr.cli._picture = lambda *_: Path("none")
    try:
        mrsxr.cli.main(["run", *arguments], prog_name="mrsxr", standalone_mode=False)
    except SystemExit as error:
        return int(error.code or 0)
    return 0


def _ended(pid: int) -> int | None:
    """Return the exit code of a process, None as long as it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


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
