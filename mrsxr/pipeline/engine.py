"""Do the tasks of a plan: at once on a tree, or by an executor on files, each product written as soon as it is made."""

from __future__ import annotations

import heapq
import logging
import math
import os
import queue
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import xarray as xr

from mrsxr.blocks import computed
from mrsxr.errors import MrsxrError
from mrsxr.io import planned, save
from mrsxr.io.atomic import BOOKS
from mrsxr.io.files import BACKGROUND
from mrsxr.io.keys import ATTR
from mrsxr.io.netcdf import write_netcdf
from mrsxr.notes import listen, tell
from mrsxr.scores import decisions
from mrsxr.threads import bounded

from .cluster import workers_of
from .keys import Stamp, digest, stamp
from .memory import give_back
from .pieces import MASKS, Filed, Group, Made, Way, raw_files
from .plan import ALL, ANY, Task
from .record import peak_memory
from .shares import share
from .signals import GRACE, Stop

log = logging.getLogger(__name__)

#: Folder of each product, "stage3" of others.
FOLDER_OF = {"rate": "stage1", "rateints": "stage1", "cal": "stage2", "mask": "stage2", "crf": "stage2",
             "matched cube": "matched"}  # fmt: skip
#: Products that are written block by block, as they are too large to be held.
WRITTEN_LAZILY = ("joint cube", "matched cube")
CLAIMS = f"{BOOKS}/names"
_AHEAD = 3  # pieces that are handed to each worker of an executor
_LOOKS = 1.0  # seconds between two looks of a piece whether its run still goes, of a run how many workers there are
_TRIES = 3  # of a piece whose worker dies
_UNREAD = "Error during deserialization"  # begins what distributed says where modules differ
_LOST = ("KilledWorker", "CommClosedError", "FutureCancelledError")  # what distributed says of a dead worker


def served(task: Task, made: Mapping[Task, Made]) -> dict[str, list[Any]] | None:
    """Return what a task is given, by argument; None where something is lacking that it cannot do without."""
    out: dict[str, list[Any]] = {}
    for name, (way, what) in task.needs.items():
        things: list[Any] = []
        for one in what:
            found = [one] if not isinstance(one, tuple) else _product(made.get(one[0], {}), one[1])
            if not found and way == ALL:
                return None
            things += found
        if not things and way == ANY:
            return None
        out[name] = things
    return out


def _product(made: Made, names: str) -> list[Any]:
    """Return the first product that was made of some, "this|or that"."""
    return next((made[name] for name in names.split("|") if name in made), [])


def do_all(tasks: Iterable[Task], way: Way) -> dict[Task, Made]:
    """Do tasks one after the other on Datasets; return what each made. What steps do lazily is lazy."""
    made: dict[Task, Made] = {}
    for task in tasks:
        arguments = served(task, made)
        if arguments is not None:
            made[task] = task.work(share(task, way), **arguments, **task.facts)
    return made


# --- files ---


@dataclass(frozen=True)
class Job:
    """A task as it travels to a worker: names of files and plain values."""

    work: Callable[..., Made]
    way: Way
    arguments: dict[str, Any]
    facts: Mapping[str, Any]
    name: str
    stage: str
    role: str
    exposure: str
    out: Path
    run: str
    key: str = ""
    threads: int = 1

    @property
    def claims(self) -> Path:
        """Folder of the names that the run gives; it is there as long as the run goes."""
        return self.out / CLAIMS / self.run

    def __dask_tokenize__(self) -> str:
        """Return another name each time: a cluster need not look through it, nor takes one try for another."""
        return uuid4().hex


@dataclass
class Outcome:
    """What came of a task: products, what was told and decided, the stamps of its raw files, or why it failed."""

    made: Made = field(default_factory=dict)
    files: list[tuple[str, Path]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[Stamp] = field(default_factory=list)
    seconds: float = 0.0
    peak_memory: float | None = None
    failed: str | None = None


#: Runs of this process that were broken off: their pieces stop between two tasks of dask.
_stopped: set[str] = set()


class Stopped(BaseException):
    """The run was broken off."""


def do(job: Job) -> Outcome:
    """Do one task on files: open, work, compute, save."""
    out, start = Outcome(), time.perf_counter()
    looked = start

    def look() -> None:
        nonlocal looked
        if job.run in _stopped:
            raise Stopped
        if time.perf_counter() > looked + _LOOKS:  # of a run in another process
            looked = time.perf_counter()
            if not os.path.isdir(job.claims):
                raise Stopped

    try:
        with listen(pass_on=True) as out.notes, bounded(job.threads, before=look):
            look()
            out.inputs = [stamp(path) for path in raw_files(job.arguments)]
            if out.inputs:
                job = replace(job, key=digest(job.key, [one.checksum for one in out.inputs]))
            out.made = _saved(job, job.work(job.way, **job.arguments, **job.facts), out)
    except Exception as error:
        out.failed = _reason(error)
        log.debug("%s: %s", job.stage, job.name, exc_info=True)
    out.seconds, out.peak_memory = round(time.perf_counter() - start, 3), peak_memory()
    give_back()
    return out


def _reason(error: BaseException) -> str:
    """Return why a piece failed, in one line; where it did of what nobody foresaw."""
    if isinstance(error, MrsxrError):
        return " ".join(str(error).split())
    if str(error).startswith(_UNREAD):
        return ("scheduler or workers lack a module of this run, perhaps that of a step of one's own, or have another "
                "version; give them the same packages and PYTHONPATH")  # fmt: skip
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return " ".join(
        [f"{type(error).__name__}:", *str(error).split(), *(f"({Path(o.filename).name}:{o.lineno})" for o in last)]
    )


def _saved(job: Job, made: Made, out: Outcome) -> Made:
    """Return what was made with files in the place of Datasets."""
    whole = [(name, k) for name, found in made.items() if name not in WRITTEN_LAZILY
             for k, one in enumerate(found) if isinstance(one, xr.Dataset)]  # fmt: skip
    for (name, k), ds in zip(whole, computed([made[n][k] for n, k in whole]), strict=True):
        made[name][k] = ds
    return {name: [_filed(job, name, one, out) for one in found] for name, found in made.items()}


def _filed(job: Job, product: str, thing: Any, out: Outcome) -> Any:
    if isinstance(thing, Group):
        kept = [_filed(job, "crf", one, out) if isinstance(one, xr.Dataset) else one for one in thing.members]
        return replace(thing, members=tuple(f for one in kept for f in (one if isinstance(one, list) else [one])))
    if not isinstance(thing, xr.Dataset):
        return thing
    thing = thing.assign_attrs({ATTR: job.key}) if job.key else thing
    folder = job.out / ("background" if job.role == BACKGROUND else "") / FOLDER_OF.get(product, "stage3")
    mine, suffix = f"{product} of {job.name} ({job.stage})", "crf" if product == "crf" else None
    names = [folder / f"{job.name.lower()}{MASKS}"] if product == "mask" else planned(thing, folder, suffix=suffix)
    more = [names[0].with_suffix(".nc")] if product == "stitched" else []
    _claim([*names, *more], mine, job)
    if product == "mask":
        write_netcdf(thing, names[0])
    else:
        save(thing, folder, suffix=suffix)
    for path in more:
        save(thing, path)
    out.files += [(product, path) for path in (*names, *more)]
    out.scores += [one.facts for one in decisions(thing) if one.facts not in out.scores]
    if product == "crf":
        return [
            Filed(path, job.role, str(name), job.key)
            for path, name in zip(names, thing["exposure"].values, strict=True)
        ]
    return Filed(names[0], job.role, job.exposure, job.key)


def _claim(paths: Sequence[Path], mine: str, job: Job) -> None:
    """Take the names of files for a piece; raise where another piece of the run has one, before anything is written.

    A name is a link beside the products that says whose it is, which workers in other processes see.
    """
    for path in paths:
        link = job.claims / "--".join(path.relative_to(job.out).parts)
        try:
            os.symlink(mine, link)
        except FileNotFoundError:
            raise Stopped from None
        except FileExistsError:
            if (owner := os.readlink(link)) != mine:
                raise MrsxrError(
                    f"{path}: the {mine} would have the name of the {owner} of this run; reduce them into folders "
                    "of their own"
                ) from None


class Watch(Protocol):
    """The reduction that a task is of: it makes jobs and is told what becomes of them."""

    def taken_over(self, task: Task, arguments: dict[str, Any]) -> Made | None:
        """Return what an earlier run made of a task, None where it must be done."""

    def begun(self, task: Task, arguments: dict[str, Any], threads: int, run: str) -> Job:
        """Return the job of a task that is begun."""

    def done(self, task: Task, arguments: dict[str, Any], outcome: Outcome) -> None:
        """Hear what came of it."""

    def ended(self) -> None:
        """Hear that nothing is left of its tasks."""


@dataclass
class _Running:
    """A task that a worker has."""

    task: Task
    job: Job
    executor: Executor
    tries: int = 1


class Course:
    """The course of tasks on an executor, those of several reductions in one queue.

    Parameters
    ----------
    watches : mapping of Task to Watch
        In an order in which each task comes after what it needs.
    executor : callable
        Makes an executor; again where its workers died.
    workers : int or None
        Pieces at once, which share as many cores; None where they are those of the executor, one core each: it is
        handed a few for each worker, so that a run of thousands stops as soon as a small one.
    """

    def __init__(self, watches: Mapping[Task, Watch], executor: Callable[[], Executor], workers: int | None) -> None:
        self.watches, self.make_executor, self.workers = watches, executor, workers
        self.name, self.executor = uuid4().hex, executor()
        self.tasks, self.made = list(watches), {}  # type: ignore[var-annotated]
        self.arrived: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self.running: dict[Future[Any], _Running] = {}
        self.place = {task: k for k, task in enumerate(self.tasks)}
        before = {task: {one[0] for _, what in task.needs.values() for one in what if isinstance(one, tuple)}
                  for task in self.tasks}  # fmt: skip
        self.left = {task: len(needed) for task, needed in before.items()}
        self.after: dict[Task, list[Task]] = {}
        for task, needed in before.items():
            for one in needed:
                self.after.setdefault(one, []).append(task)
        self.ready = [k for task, k in self.place.items() if not self.left[task]]
        self.open = Counter(map(id, watches.values()))
        self._counted = (0, -math.inf)  # workers of the executor, when

    def run(self, stop: Stop) -> bool:
        """Do all tasks; a failure costs what needs it, nothing else. Return False where they were stopped before."""
        try:
            while (self.ready or self.running) and not stop:
                begins = self.ready and len(self.running) < self._at_once()
                if begins:
                    self._begin(self.tasks[heapq.heappop(self.ready)])
                if self.running:
                    with suppress(queue.Empty):
                        self._settle(self.arrived.get(block=not begins, timeout=0.5))
        except BaseException:
            self._stop(GRACE)
            raise
        if stop:
            self._stop(stop.seconds_left)
        return not stop

    def _at_once(self) -> int:
        """Return how many pieces may be on their way."""
        if self.workers is not None:
            return self.workers
        if time.monotonic() > self._counted[1] + _LOOKS:
            self._counted = workers_of(self.executor), time.monotonic()
        return _AHEAD * self._counted[0]

    def _begin(self, task: Task) -> None:
        arguments = served(task, self.made)
        if arguments is None:
            self._close(task)
            return
        watch = self.watches[task]
        made = watch.taken_over(task, arguments)
        if made is not None:
            self.made[task] = made
            self._close(task)
            return
        share = 1 if self.workers is None else max(1, self.workers // (len(self.running) + len(self.ready) + 1))
        self._submit(_Running(task, watch.begun(task, arguments, share, self.name), self.executor))

    def _submit(self, one: _Running) -> None:
        try:
            future = self.executor.submit(do, one.job)
        except BrokenExecutor:
            self._new_executor(self.executor)
            future = self.executor.submit(do, one.job)
        self.running[future] = replace(one, executor=self.executor)
        future.add_done_callback(self.arrived.put)

    def _settle(self, future: Future[Any]) -> None:
        one = self.running.pop(future)
        error = future.exception() if not future.cancelled() else RuntimeError("it was cancelled")
        if error is not None and _worker_died(error) and one.tries < _TRIES:
            tell(f"a worker died at {one.task.name} ({one.task.stage}); another does it again")
            if isinstance(error, BrokenExecutor):
                self._new_executor(one.executor)
            self._submit(replace(one, tries=one.tries + 1))
            return
        outcome = future.result() if error is None else Outcome(failed=_reason(error))
        if outcome.failed is None:
            self.made[one.task] = outcome.made
        self.watches[one.task].done(one.task, one.job.arguments, outcome)
        self._close(one.task)

    def _new_executor(self, broken: Executor) -> None:
        if broken is self.executor:
            broken.shutdown(wait=False, cancel_futures=True)
            self.executor = self.make_executor()

    def _close(self, task: Task) -> None:
        """Let those go on that have waited for a task; tell its reduction where it was the last."""
        watch = self.watches[task]
        self.open[id(watch)] -= 1
        if not self.open[id(watch)]:
            watch.ended()
        for other in self.after.get(task, ()):
            self.left[other] -= 1
            if not self.left[other]:
                heapq.heappush(self.ready, self.place[other])

    def _stop(self, seconds: float) -> None:
        """Stop what runs: threads and workers elsewhere between two tasks of dask, processes at once; wait a little."""
        _stopped.add(self.name)
        for folder in {one.job.claims for one in self.running.values()}:
            shutil.rmtree(folder, ignore_errors=True)
        for future in self.running:
            future.cancel()
        for process in (getattr(self.executor, "_processes", None) or {}).values():
            process.terminate()
        wait(self.running, timeout=seconds)


def _worker_died(error: BaseException) -> bool:
    return isinstance(error, BrokenExecutor) or type(error).__name__ in _LOST
