"""SIGINT and SIGTERM stop a run in order: no new piece begins, what is done stays, the exit code tells the signal."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from mrsxr.errors import MrsxrError

#: Seconds that pieces at work have to end after a signal; then they are given up (their files appear whole or never).
GRACE = 4.0


class Stopped(MrsxrError):
    """A run was stopped by a signal; ``exit_code`` is 130 of SIGINT and 143 of SIGTERM."""

    def __init__(self, text: str, number: int):
        super().__init__(text)
        self.exit_code = 128 + number


@dataclass
class Stop:
    """Whether a signal asked to stop: ``number`` of the signal (0: none) and ``when`` [s, monotonic clock].

    ``early``: no piece has begun, so that a signal ends the run where it stands, by :class:`Stopped`.
    """

    number: int = 0
    when: float = 0.0
    early: bool = False

    def __bool__(self) -> bool:
        return self.number != 0

    @property
    def seconds_left(self) -> float:
        """How long pieces at work may be waited for; infinite while nothing was asked."""
        return max(0.0, self.when + GRACE - time.monotonic()) if self else float("inf")

    def error(self, text: str) -> Stopped:
        """Return the error to raise when the run has stopped; ``text`` tells what is done."""
        return Stopped(f"by {signal.Signals(self.number).name}; {text}", self.number)


@contextlib.contextmanager
def graceful(*, early: bool = False) -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into a flag that the run looks at; a second signal ends the process at once.

    Parameters
    ----------
    early : bool
        As in :class:`Stop`, until the run takes it back.

    Yields
    ------
    Stop
        False until a signal comes. Outside the main thread, where Python takes no signals, it stays so.
    """
    stop = Stop(early=early)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def asked(number: int, _frame: object) -> None:
        if stop:
            os._exit(128 + number)
        stop.when, stop.number = time.monotonic(), number
        if stop.early:
            raise stop.error("no piece was begun")

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
