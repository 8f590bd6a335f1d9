"""What a run did, for machines: ``run.json`` beside the products, one entry a run, written whole or not at all."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from mrsxr._version import __version__
from mrsxr.errors import InputFileError
from mrsxr.io.atomic import write_text

from .parts import plain
from .recipe import Recipe

NAME = "run.json"
FORMAT = "mrsxr-run-1"
#: Packages whose versions decide the numbers.
PACKAGES = tuple("numpy xarray dask scipy astropy numba netCDF4 asdf crds photutils matplotlib".split())
_MOST_RUNS = 20  # entries kept in a file

_WRITING = Lock()
_WRITTEN: dict[str, float] = {}  # when each run was written last, by its id


@dataclass
class Piece:
    """One piece of work of a run: an exposure, a cube, a spectrum.

    ``seconds`` of wall clock; ``peak_memory`` [MB], the largest resident memory of the process until then, None
    where the system does not tell; ``products`` relative to the folder of the run; ``notes`` what
    was told; ``scores`` what steps decided by judging themselves (:mod:`mrsxr.scores`); ``failed`` the reason, or None;
    ``taken_over`` whether an earlier run did it.
    """

    stage: str
    name: str
    seconds: float = 0.0
    peak_memory: float | None = None
    products: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    failed: str | None = None
    taken_over: bool = False


@dataclass
class RunRecord:
    """One run: what went in, how, and what came of it.

    ``settings`` holds the arguments of the run, ``recipe`` all parameters of the steps that ran, ``base`` the recipe
    that the run began with and ``changed`` what differs from it; ``decisions`` what was chosen by looking at the data.
    """

    started: str
    versions: dict[str, str]
    settings: dict[str, Any]
    base: str
    changed: dict[str, Any]
    recipe: dict[str, Any]
    references: str
    inputs: list[dict[str, str]] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    products: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    decisions: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory: float | None = None
    finished: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @classmethod
    def begin(cls, recipe: Recipe, references: str, **settings: Any) -> RunRecord:
        """Return the record of a run that begins now."""
        return cls(
            started=datetime.now(UTC).isoformat(timespec="seconds"), versions=versions(), settings=plain(settings),
            base=recipe.base, changed=plain(recipe.changes()), recipe=plain(recipe.parameters()), references=references,
        )  # fmt: skip

    def note(self, *texts: str) -> None:
        """Keep what was told, each text once."""
        self.notes += [text for text in dict.fromkeys(texts) if text not in self.notes]

    def write(self, folder: Path, *, every: float = 0.0) -> Path:
        """Bring the entry of this run in ``run.json`` of a folder up to date; the file is there whole, or as it was.

        Parameters
        ----------
        folder : path
        every : float
            Seconds since the last time below which nothing is written: after each piece of thousands.

        Notes
        -----
        A file that is no record of runs is replaced. Threads take turns; the store of a run keeps other processes away.
        """
        path = Path(folder) / NAME
        with _WRITING:
            last = _WRITTEN.get(self.id)
            if last is not None and time.monotonic() - last < every:
                return path
            try:
                others = [run for run in read_runs(folder) if run.get("id") != self.id]
            except InputFileError:
                others = []
            runs = ",\n".join(map(_text, [*others, vars(self)][-_MOST_RUNS:]))
            write_text(path, f'{{"format": "{FORMAT}", "runs": [\n{runs}\n]}}\n', sync=self.finished)
            _WRITTEN[self.id] = time.monotonic()
        return path


def _text(run: dict[str, Any]) -> str:
    """Return a run as JSON, a line a fact and a line a piece."""
    facts = [f" {json.dumps(name)}: {json.dumps(value, default=vars)}" for name, value in run.items()]
    return "{\n" + ",\n".join(facts).replace('}, {"stage"', '},\n  {"stage"') + "\n}"


def read_runs(folder: Path) -> list[dict[str, Any]]:
    """Return the runs that wrote into a folder, the oldest first; empty where there is no record.

    Raises
    ------
    InputFileError
        Where ``run.json`` is there and is no record of runs.
    """
    path = Path(folder) / NAME
    if not os.path.isfile(path):
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']!r}, expected {FORMAT!r}")
        runs = list(found["runs"])
        if not all(isinstance(run, dict) for run in runs):
            raise ValueError("a run in it is no mapping")
        return runs
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputFileError(f"{path}: no record of a run ({error}); move it away to go on without it") from error


def relative(path: Path, folder: Path) -> str:
    """Return a path as seen from a folder, with forward slashes; itself where it lies elsewhere."""
    try:
        return Path(path).relative_to(folder).as_posix()
    except ValueError:
        return str(path)


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python and of the packages behind the numbers."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"mrsxr": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def peak_memory() -> float | None:
    """Return the largest resident memory of this process so far [MB], None where the system does not tell."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1.0 if sys.platform == "darwin" else 1024.0  # bytes there, kB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
