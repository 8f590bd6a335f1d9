"""Run inputs in processes of their own: what hangs longer than 20 s, or kills its process, is a fault."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

HANG = 20.0
START = 120.0  # importing and compiling
WORKER = Path(__file__).with_name("worker.py")


def run(folder: Path, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return verdict and words of every input."""
    out: dict[str, tuple[str, str]] = {}
    left = list(names)
    while left:
        done, broken = _batch(folder, left)
        out |= done
        left = [name for name in left if name not in done]
        if broken is not None and left:
            out[left[0]] = ("fault", broken)
            left = left[1:]
    return out


def _batch(folder: Path, names: list[str]) -> tuple[dict[str, tuple[str, str]], str | None]:
    done: dict[str, tuple[str, str]] = {}
    lines: queue.Queue[str | None] = queue.Queue()
    with tempfile.TemporaryDirectory() as place:
        selection = Path(place) / "names.json"
        selection.write_text(json.dumps(names))
        errors = open(Path(place) / "errors", "w+")
        command = [sys.executable, str(WORKER), str(folder), str(selection)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment())

        def pump() -> None:
            for line in process.stdout or ():
                lines.put(line)
            lines.put(None)

        thread = threading.Thread(target=pump, daemon=True)
        thread.start()
        limit = START
        try:
            while True:
                line = lines.get(timeout=limit)
                if line is None:
                    break
                limit = HANG
                if line.startswith('["end"'):
                    _, name, verdict, said = json.loads(line)
                    done[name] = (verdict, said)
        except queue.Empty:
            return done, f"hang of more than {limit:.0f} s"
        finally:
            process.kill()
            code = process.wait()
            thread.join()
            (process.stdout or errors).close()
            errors.seek(0)
            tail = errors.read()[-500:]
            errors.close()
        return done, None if code == 0 else f"the process ended with {code}: {tail}"


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def count(verdicts: dict[str, tuple[str, str]]) -> str:
    """Return the figures in one line."""
    found = Counter(verdict for verdict, _ in verdicts.values())
    return f"{len(verdicts)} inputs, {found['refused']} refused, {found['worked']} worked, {found['fault']} faults"


def faults(verdicts: dict[str, tuple[str, str]]) -> list[str]:
    return [f"{name}\n    {said}" for name, (verdict, said) in verdicts.items() if verdict == "fault"]
