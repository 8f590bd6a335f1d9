"""A folder of products that knows what is done: keys in its files, a ledger beside them, one run at a time.

A store keeps its books in ``OUT/.mrsxr``: the lock, the plan of the last run and the ledger, to which a line of JSON is
appended when a piece begins and when its products are written; the last whole line of a piece counts. Nothing else is
remembered: what can be taken over is what has the right key there and lies on the disk whole.

>>> import tempfile
>>> from mrsxr.pipeline.store import Label, Store
>>> with tempfile.TemporaryDirectory() as out, Store(out) as store:
...     piece, path = Label("cal", "jw01_mirifushort"), store.out / "a_cal.fits"
...     if store.taken_over(piece, "0123456789abcdef") is None:
...         _ = path.write_text("the product")
...         _ = store.done(piece, "0123456789abcdef", [path], seconds=1.5)
...     [one.path for one in store.taken_over(piece, "0123456789abcdef").outputs]
['a_cal.fits']
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mrsxr.errors import MrsxrError
from mrsxr.io.atomic import BOOKS, check_folder, remove_temporary, write_text, writing

from .keys import Stamp, is_whole, stamp
from .lock import FolderLock, Holder, holder_of

log = logging.getLogger(__name__)

_PLAN, _LEDGER = "plan.json", "ledger.jsonl"
_MOST_LINES = 8  # of a piece, above which those that do not count any more are taken out
State = Literal["running", "done", "failed"]


class Label(NamedTuple):
    """Which piece of the work of a store: an exposure to cal, the cube of a band ..."""

    stage: str
    name: str
    role: str = "science"


class Output(NamedTuple):
    """A file (or zarr folder) of a piece: ``path`` inside the store, and its stamp when it was written."""

    path: str
    stamp: Stamp


@dataclass(frozen=True)
class Entry:
    """What the ledger says of a piece.

    ``plan`` is its mark in the plan (:class:`mrsxr.pipeline.resume.Keys`); ``outputs`` its files; ``inputs`` the stamps
    of the files that no piece of the run made; ``notes`` what was told; ``scores`` what steps decided by judging
    themselves; ``values`` plain values that later pieces need; ``seconds`` of wall clock; ``peak_memory`` [MB];
    ``failed`` the reason.
    """

    stage: str
    name: str
    role: str
    state: State
    key: str
    plan: str = ""
    outputs: tuple[Output, ...] = ()
    inputs: tuple[Stamp, ...] = ()
    notes: tuple[str, ...] = ()
    scores: tuple[dict[str, Any], ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_memory: float | None = None
    failed: str | None = None

    @property
    def label(self) -> Label:
        """Which piece it is."""
        return Label(self.stage, self.name, self.role)


class Store:
    """A folder for the products of one run at a time.

    Parameters
    ----------
    out : path
        The folder.

    Notes
    -----
    The run alone writes the ledger. ``with Store(out) as store`` begins and finishes.
    """

    def __init__(self, out: str | os.PathLike[str]):
        self.out = Path(out)
        self.books = self.out / BOOKS
        self._lock: FolderLock | None = None
        self._known: dict[Label, Entry] = {}
        self._read = self._lines = 0  # bytes and lines of the ledger that stand behind what is known

    def __enter__(self) -> Store:
        return self.begin()

    def __exit__(self, *_: Any) -> None:
        self.finish()

    def begin(self, *, wait: bool = False, parts: Iterable[str] = ()) -> Store:
        """Make the folder ready before the first computation: try it, lock it, take away what earlier runs left.

        Parameters
        ----------
        wait : bool
            Wait for another run in this folder to end; by default it is an error.
        parts : iterable of str
            Folders inside it that will be written to; where they are there, they are tried as well.

        Raises
        ------
        MrsxrError
            Where the folder cannot be written, or another run works there (it is named).
        """
        if self._lock is not None:
            return self
        check_folder(self.out, parts)
        check_folder(self.books)
        lock = FolderLock(self.books, self.out)
        lock.take(wait=wait)
        self._lock = lock
        self.sweep("an earlier run")
        if len(known := self.pieces()) * _MOST_LINES < self._lines:
            write_text(self.books / _LEDGER, "".join(map(_line, known.values())), sync=False)
            self._known, self._read, self._lines = {}, 0, 0
        return self

    def sweep(self, whose: str) -> None:
        """Take away what writers that did not end left, while nobody writes."""
        if self._lock is not None:
            removed = remove_temporary(self.out) + remove_temporary(self.books)
            if removed:
                log.info("%s: removed %d unfinished files of %s", self.out, len(removed), whose)

    def finish(self) -> None:
        """Give the folder free; the ledger stays."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def plan(self, pieces: Mapping[Label, str]) -> None:
        """Write down which pieces a run will make, in their order, with their marks, for :func:`status`."""
        text = json.dumps([[*label, mark] for label, mark in pieces.items()])
        write_text(self.books / _PLAN, text, sync=False)

    def planned(self) -> dict[Label, str]:
        """Return the pieces of the last plan with their marks."""
        try:
            found = json.loads((self.books / _PLAN).read_text(encoding="utf-8"))
            return {Label(str(stage), str(name), str(role)): str(mark) for stage, name, role, mark in found}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def taken_over(self, piece: Label, key: str, inputs: Sequence[Path] = ()) -> Entry | None:
        """Return the entry of a piece that is done with this key, its files whole; None where it must be made.

        Files are whole, and inputs those that it was made of, where size and time are those of the ledger, or size and
        content.
        """
        entry = self.pieces().get(piece)
        if entry is None or entry.state != "done" or entry.key != key or len(entry.inputs) != len(inputs):
            return None
        files = [*((self.out / one.path, one.stamp) for one in entry.outputs), *zip(inputs, entry.inputs, strict=True)]
        return entry if all(is_whole(*one) for one in files) else None

    def pieces(self) -> dict[Label, Entry]:
        """Return the ledger: of each piece its last line; one that a kill tore, or that is foreign, is none."""
        try:
            with open(self.books / _LEDGER, "rb") as file:
                file.seek(self._read)
                text = file.read()
        except OSError:
            return self._known
        whole = text[: text.rfind(b"\n") + 1]
        for line in whole.splitlines():
            entry = _entry(line)
            if entry is not None:
                self._known[entry.label] = entry
        self._read, self._lines = self._read + len(whole), self._lines + whole.count(b"\n")
        return self._known

    def older(self, but: Collection[Path]) -> list[Path]:
        """Return products that the ledger knows and that are still there, but for some."""
        try:
            entries = map(_entry, (self.books / _LEDGER).read_bytes().splitlines())
        except OSError:
            return []
        found = sorted({self.out / one.path for entry in entries if entry is not None for one in entry.outputs})
        return [path for path in found if path not in but and path.exists()]

    def started(self, piece: Label, key: str, plan: str = "") -> None:
        """Note that a piece is being worked on."""
        self._write(Entry(*piece, "running", key, plan))

    def kept(self, entry: Entry, plan: str) -> None:
        """Note that a piece that is taken over is one of a plan."""
        if entry.plan != plan:
            self._write(replace(entry, plan=plan))

    def done(
        self, piece: Label, key: str, outputs: Sequence[str | os.PathLike[str]], *, plan: str = "",
        inputs: Iterable[Stamp] = (), notes: Iterable[str] = (), scores: Iterable[Mapping[str, Any]] = (),
        values: Mapping[str, Any] | None = None, seconds: float = 0.0, peak_memory: float | None = None,
    ) -> Entry:  # fmt: skip
        """Note that a piece is done, when all its files are there under their names.

        Parameters
        ----------
        piece, key : Label, str
        outputs : sequence of path
            Its files; they lie inside the folder.
        inputs, plan, notes, scores, values, seconds, peak_memory
            As in :class:`Entry`; plain values.

        Raises
        ------
        MrsxrError
            Where a file is not there, or lies elsewhere.
        """
        found = tuple(self._output(Path(path)) for path in outputs)
        facts = (tuple(notes), tuple(map(dict, scores)), dict(values or {}))
        return self._write(
            Entry(*piece, "done", key, plan, found, tuple(inputs), *facts, round(seconds, 3), peak_memory)
        )

    def failed(
        self, piece: Label, key: str, reason: str, *, plan: str = "", notes: Iterable[str] = (),
        seconds: float = 0.0, peak_memory: float | None = None,
    ) -> Entry:  # fmt: skip
        """Note why a piece failed; it is tried again by the next run."""
        facts = (round(seconds, 3), peak_memory, reason)
        return self._write(Entry(*piece, "failed", key, plan, (), (), tuple(notes), (), {}, *facts))

    def _write(self, entry: Entry) -> Entry:
        """Append an entry; one that a power cut takes costs its piece, so the disk is not waited for."""
        place = self.books / _LEDGER
        with writing(place):
            self.books.mkdir(parents=True, exist_ok=True)
            with open(place, "a+b", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - 1, 0))
                torn = file.read(1) not in (b"\n", b"")
                text = b"\n" * torn + _line(entry).encode()
                if file.write(text) != len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return entry

    def _output(self, path: Path) -> Output:
        try:
            inside = path.relative_to(self.out).as_posix()
        except ValueError:
            raise MrsxrError(f"{path}: lies outside {self.out}; products of a store lie inside it") from None
        if not path.exists():
            raise MrsxrError(f"{path}: is not there, though its piece is done")
        return Output(inside, stamp(path))


@dataclass(frozen=True)
class Status:
    """How far the work of a store is: pieces by state, and who works on it.

    ``left`` are pieces of the last plan that are not done, not failed and not worked on; what was done with other
    parameters, inputs or reference files than those of that plan is left.
    """

    out: Path
    holder: Holder | None
    plan: Sequence[Label]
    done: list[Entry]
    running: list[Entry]
    failed: list[Entry]
    left: list[Label]

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """How many are done, running, failed and left."""
        return len(self.done), len(self.running), len(self.failed), len(self.left)

    def counts_by_stage(self) -> dict[str, list[int]]:
        """Return the counts of each stage, in the order of the plan."""
        out: dict[str, list[int]] = {label.stage: [0, 0, 0, 0] for label in self.plan}
        parts: tuple[Sequence[Entry | Label], ...] = (self.done, self.running, self.failed, self.left)
        for number, part in enumerate(parts):
            for one in part:
                out.setdefault(one.stage, [0, 0, 0, 0])[number] += 1
        return out


def status(out: str | os.PathLike[str]) -> Status:
    """Return how far the work in a folder is, from its files alone.

    Raises
    ------
    MrsxrError
        Where no run has worked there.
    """
    store = Store(out)
    if not store.books.is_dir():
        raise MrsxrError(f"{out}: no run has written here (there is no {BOOKS}); give the folder of --out")
    holder = holder_of(store.books)
    holder = None if holder is None or holder.gone else holder
    ledger, plan = store.pieces(), store.planned()
    states: dict[str, list[Entry]] = {"done": [], "running": [], "failed": []}
    left: list[Label] = []
    for label, mark in plan.items():
        entry = ledger.get(label)
        if entry is None or entry.plan != mark or (entry.state == "running" and holder is None):  # broken off
            left.append(label)
        else:
            states[entry.state].append(entry)
    return Status(store.out, holder, list(plan), states["done"], states["running"], states["failed"], left)


def stores_below(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of runs: the folder itself, or those of the observations directly inside it."""
    folder = Path(folder)
    if (folder / BOOKS).is_dir():
        return [folder]
    try:
        with os.scandir(folder) as found:
            return sorted(Path(one.path) for one in found if os.path.isdir(os.path.join(one.path, BOOKS)))
    except OSError:
        return []


def _line(entry: Entry) -> str:
    return json.dumps(vars(entry)) + "\n"


def _entry(line: bytes) -> Entry | None:
    """Return an entry of the ledger, None where the line is none."""
    try:
        entry = Entry(**json.loads(line))
        outputs = tuple(Output(str(path), _stamp(one)) for path, one in entry.outputs)
        if entry.state not in ("running", "done", "failed"):
            return None
        inputs = tuple(map(_stamp, entry.inputs))
        return replace(entry, outputs=outputs, inputs=inputs, notes=tuple(entry.notes), scores=tuple(entry.scores))
    except (ValueError, TypeError):
        return None


def _stamp(one: Any) -> Stamp:
    size, time, checksum = one
    return Stamp(int(size), int(time), str(checksum))
