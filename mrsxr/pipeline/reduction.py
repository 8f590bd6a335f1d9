"""One observation on its way through a run: its plan, its store, and what has come of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrsxr.io.files import FileInfo
from mrsxr.notes import tell

from .engine import CLAIMS, Job, Outcome
from .pieces import Made, Way, raw_files
from .plan import Task
from .record import Piece, RunRecord, peak_memory, relative
from .reporter import Reporter
from .resume import Keys, packed, unpacked
from .shares import share
from .store import Entry, Label, Store

_WRITTEN_EVERY = 10.0  # seconds: run.json while the run goes


@dataclass
class RunResult:
    """What a run wrote and what it could not do; ``record`` is what stands in ``run.json``.

    ``files`` by level: "rate", "cal", "cube", "spectrum", "stitched" ...; ``failed`` by name of the piece;
    ``taken_over`` of ``pieces`` were there from an earlier run. Of several observations ``observations`` holds the
    result of each by the name of its folder.
    """

    out: Path
    files: dict[str, list[Path]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    record: RunRecord | None = None
    pieces: int = 0
    taken_over: int = 0
    observations: dict[str, RunResult] = field(default_factory=dict)


@dataclass
class StageReporter:
    """A reporter that hears of each stage once, with the pieces of all observations."""

    reporter: Reporter
    totals: dict[str, int] = field(default_factory=dict)
    begun: set[str] = field(default_factory=set)

    def begin(self, stage: str) -> None:
        """Tell that a stage begins, the first time."""
        if stage not in self.begun:
            self.begun.add(stage)
            self.reporter.begin(stage, self.totals[stage])


@dataclass
class Reduction:
    """The plan of an observation, how it is made, where its products go and what has come of it.

    ``headers`` are those by which reference files are chosen, by exposure and setting; ``title`` tells it from others.
    """

    tasks: Sequence[Task]
    way: Way
    store: Store
    record: RunRecord
    told: StageReporter
    headers: Mapping[str, FileInfo]
    title: str = ""
    fresh: bool = False
    result: RunResult = field(init=False)
    entries: dict[Task, Piece] = field(default_factory=dict)
    keys: dict[Task, str] = field(default_factory=dict)
    files: dict[Task, list[tuple[str, Path]]] = field(default_factory=dict)
    begun_at: float | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        self.result = RunResult(self.out, record=self.record, pieces=len(self.tasks))
        self._keys = Keys(self.way, self.headers)
        for one in self.tasks:
            self.told.totals[one.stage] = self.told.totals.get(one.stage, 0) + 1

    @property
    def out(self) -> Path:
        """Folder of the products."""
        return self.store.out

    def ended(self) -> None:
        """Tell that all is done that can be done, and close the record."""
        self.close(finished=True)
        left = len(self.tasks) - len(self.files)
        failed = sum(1 for piece in self.entries.values() if piece.failed is not None)
        done, name = len(self.files) - failed, self.title or self.out.name
        self.told.reporter.ended(name, done, failed, left, self.result.seconds, self.out)

    def plan(self) -> None:
        """Write the plan down."""
        self.store.plan({_label(task): self._keys.mark(task) for task in self.tasks})

    def unread(self, found: Mapping[str, str]) -> None:
        """Note files that could not be read."""
        for path, reason in found.items():
            self.result.failed[path] = reason
            self.record.pieces.append(Piece("read", path, failed=reason))

    def taken_over(self, task: Task, arguments: dict[str, Any]) -> Made | None:
        """Return what an earlier run made of a task with the same key, whose files are whole; None where it is new."""
        if not self.keys:  # the first
            self.begun_at = time.perf_counter()
        self.keys[task] = key = self._keys.key(task, arguments)
        entry = None if self.fresh else self.store.taken_over(_label(task), key, raw_files(arguments))
        if entry is None:
            return None
        self.store.kept(entry, self._keys.mark(task))
        made = unpacked(entry.values["made"], arguments, self.out)
        self._begin(task)
        self.entries[task].taken_over = True
        self.result.taken_over += 1
        self._note(task, entry, made, [(level, self.out / path) for level, path in entry.values["files"]])
        return made

    def begun(self, task: Task, arguments: dict[str, Any], threads: int, run: str) -> Job:
        """Note a task that a worker takes, and return its job."""
        self._begin(task)
        (self.out / CLAIMS / run).mkdir(parents=True, exist_ok=True)
        self.store.started(_label(task), self.keys[task], self._keys.mark(task))
        return Job(task.work, share(task, self.way), arguments, task.facts, task.name, task.stage, task.role,
                   task.exposure, self.out, run, self.keys[task], threads)  # fmt: skip

    def done(self, task: Task, arguments: dict[str, Any], outcome: Outcome) -> None:
        """Note what came of a task."""
        label, key = _label(task), self.keys[task]
        facts: dict[str, Any] = {"plan": self._keys.mark(task), "notes": outcome.notes, "seconds": outcome.seconds,
                                 "peak_memory": outcome.peak_memory}  # fmt: skip
        if outcome.failed is None:
            values = {"made": packed(outcome.made, arguments, self.out),
                      "files": [[level, relative(path, self.out)] for level, path in outcome.files]}  # fmt: skip
            paths = [path for _, path in outcome.files]
            facts |= {"inputs": outcome.inputs, "scores": outcome.scores, "values": values}
            entry = self.store.done(label, key, paths, **facts)
        else:
            entry = self.store.failed(label, key, outcome.failed, **facts)
        self._note(task, entry, outcome.made, outcome.files)
        self._write(every=_WRITTEN_EVERY)

    def _begin(self, task: Task) -> None:
        self.told.begin(task.stage)
        self.entries[task] = Piece(task.stage, task.name)
        self.record.pieces.append(self.entries[task])

    def _note(self, task: Task, entry: Entry, made: Made, files: list[tuple[str, Path]]) -> None:
        piece, failed, name = self.entries[task], self.result.failed, f"{self.title} {task.name}".strip()
        self.files[task] = files
        piece.products = [relative(path, self.out) for _, path in files]
        piece.notes, piece.scores, piece.failed = list(entry.notes), list(entry.scores), entry.failed
        piece.seconds, piece.peak_memory = entry.seconds, entry.peak_memory
        self.record.note(*entry.notes)
        for one in made.get("decision", ()):
            self.record.decisions[task.stage] = one
        for text in entry.notes:
            tell(text, aloud=not piece.taken_over)
        if entry.failed is None:
            self.told.reporter.done(task.stage, name, 0.0 if piece.taken_over else entry.seconds)
            return
        earlier = failed.get(task.name)
        failed[task.name] = entry.failed if earlier is None else f"{earlier}; {task.stage}: {entry.failed}"
        self.told.reporter.failed(task.stage, name, entry.failed.removeprefix(f"{task.name}: "))

    def close(self, *, finished: bool) -> None:
        """Put files and pieces in the order of the plan, however the workers came, and write the record, once."""
        if self.closed:
            return
        self.closed = True
        if finished:
            self._tell_older()
        place = {id(self.entries[task]): k for k, task in enumerate(self.tasks) if task in self.entries}
        self.record.pieces.sort(key=lambda one: place.get(id(one), -1))
        for task in self.tasks:
            for level, path in self.files.get(task, ()):
                self.result.files.setdefault(level, []).append(path)
        seconds = 0.0 if self.begun_at is None else time.perf_counter() - self.begun_at
        self.record.finished, self.result.seconds = finished, seconds
        self._write()
        shutil.rmtree(self.out / CLAIMS, ignore_errors=True)

    def _tell_older(self) -> None:
        """Say which products of earlier runs stand beside those of this one, under other names."""
        mine = {path for files in self.files.values() for _, path in files}
        folders = {path.parent for path in mine}
        older = [path for path in self.store.older(mine) if path.parent in folders]
        if older:
            names = ", ".join(relative(path, self.out) for path in older[:3]) + (" ..." if older[3:] else "")
            text = (f"{self.out}: {len(older)} products of earlier runs stand beside those of this one, which does not "
                    f"make them ({names}); take them away where they are not wanted")  # fmt: skip
            tell(text, aloud=False)
            self.record.note(text)

    def _write(self, every: float = 0.0) -> None:
        record, result = self.record, self.result
        record.seconds, record.peak_memory = round(result.seconds, 3), peak_memory()
        record.failed = dict(result.failed)
        record.products = {k: [relative(path, self.out) for path in v] for k, v in result.files.items()}
        record.write(self.out, every=every)


def _label(task: Task) -> Label:
    return Label(task.stage, task.name, task.role)


def together(
    out: Path, results: Mapping[str, RunResult], seconds: float, unread: Mapping[str, str]
) -> RunResult:  # fmt: skip
    """Return what a run of several observations wrote and could not do; names of pieces begin with the observation."""
    whole = RunResult(out, failed=dict(unread), seconds=seconds, observations=dict(results))
    for title, one in results.items():
        for level, paths in one.files.items():
            whole.files.setdefault(level, []).extend(paths)
        whole.failed |= {name if name in unread else f"{title} {name}": why for name, why in one.failed.items()}
        whole.pieces, whole.taken_over = whole.pieces + one.pieces, whole.taken_over + one.taken_over
    return whole
