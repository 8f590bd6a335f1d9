"""One run at a time in one folder: a lock file that says whose it is."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from mrsxr.errors import MrsxrError
from mrsxr.io.atomic import temporary_name, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

NAME = "lock"
_GUARD = "guard"
_POLL = 0.5  # seconds


@dataclass(frozen=True)
class Holder:
    """Who works in a folder: ``host``, ``pid``, when the process (``born``, as the system counts) and the run began."""

    host: str
    pid: int
    born: int
    started: str
    command: str

    @classmethod
    def me(cls) -> Holder:
        """Return this process."""
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200] if sys.argv else ""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), _born(os.getpid()) or 0, now, command)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started} ({self.command})"

    @property
    def gone(self) -> bool:
        """Whether the process has ended; one on another host cannot be seen and counts as there."""
        return self.host == socket.gethostname() and not _alive(self.pid, self.born)


class FolderLock:
    """The lock of a folder; :meth:`take` and :meth:`release` it.

    Parameters
    ----------
    folder : path
        Where the lock file lies; must be there.
    named : path
        What is locked, for messages.
    """

    def __init__(self, folder: Path, named: Path):
        self.path, self.named = Path(folder) / NAME, Path(named)
        self._mine: Holder | None = None

    def take(self, *, wait: bool = False) -> Holder:
        """Take the lock; that of a process that is gone is taken over.

        Parameters
        ----------
        wait : bool
            Wait until the other run ends instead of raising.

        Raises
        ------
        MrsxrError
            Naming the run that has it, and what to do where that one runs on another machine.
        """
        said = False
        while True:
            other = self._try()
            if other is None:
                assert self._mine is not None
                return self._mine
            if not wait:
                raise MrsxrError(self._refused(other))
            if not said:
                log.warning("%s: waiting for the run of %s", self.named, other)
                said = True
            time.sleep(_POLL)

    def release(self) -> None:
        """Give the lock back where it is this one's."""
        if self._mine is not None and holder_of(self.path.parent) == self._mine:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self._mine = None

    def _try(self) -> Holder | None:
        """Take the lock and return None, or return who has it."""
        with writing(self.named), _guarded(self.path.with_name(_GUARD)):
            other = holder_of(self.path.parent)
            if other is not None and not other.gone:
                return other
            mine = Holder.me()
            temporary = temporary_name(self.path)
            temporary.write_text(json.dumps(asdict(mine)), encoding="utf-8")
            os.replace(temporary, self.path)
            self._mine = mine
            return None

    def _refused(self, other: Holder) -> str:
        text = f"{self.named}: another run works here, {other}; wait for it (--wait), stop it, or give another folder"
        if other.host == socket.gethostname():
            return text
        return f"{text}; if it is gone, which cannot be seen from {socket.gethostname()}, remove {self.path}"


def holder_of(folder: Path) -> Holder | None:
    """Return who holds the lock of a folder; None where nobody does, or the lock file is no such thing."""
    try:
        facts = json.loads((Path(folder) / NAME).read_text(encoding="utf-8"))
        return Holder(
            str(facts["host"]), int(facts["pid"]), int(facts["born"]), str(facts["started"]), str(facts["command"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Let one process at a time look at the lock file and change it, where the system can say so."""
    with open(path, "a") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # file systems without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _alive(pid: int, born: int) -> bool:
    if sys.platform == "win32":  # where os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    now = _born(pid)
    return now is None or born in (0, now)


def _born(pid: int) -> int | None:
    """Return when a process began, in ticks since the system did; 0 of one that ended, None where it is not told."""
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if facts[0] in "ZX" else int(facts[19])
    except (OSError, ValueError, IndexError):
        return None
