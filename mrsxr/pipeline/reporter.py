"""What is told of a run while it works."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)


class Reporter:
    """What a run tells while it works; this one writes to the log, the command line draws bars."""

    def begin(self, stage: str, total: int) -> None:
        """Tell that a stage with so many pieces begins."""
        log.info("%s: %d to do", stage, total)

    def done(self, stage: str, name: str, seconds: float) -> None:
        """Tell that a piece is done."""
        log.info("%s: %s in %.1f s", stage, name, seconds)

    def failed(self, stage: str, name: str, reason: str) -> None:
        """Tell that a piece failed; the others go on."""
        log.error("%s: %s failed: %s", stage, name, reason)

    def ended(self, name: str, done: int, failed: int, left: int, seconds: float, out: Path) -> None:
        """Tell that an observation has ended: how many pieces; ``left`` for want of what failed; where they are."""
        log.info("%s", last_line(name, done, failed, left, seconds, out))


class InNotebook(Reporter):
    """What a run tells in a notebook: one text that is renewed as pieces are done, failures and ends below it.

    Parameters
    ----------
    show : callable
        Puts a text in the place of the one before.
    """

    def __init__(self, show: Callable[[str], None]):
        self.show = show
        self.counts: dict[str, list[int]] = {}
        self.told: list[str] = []

    def begin(self, stage: str, total: int) -> None:
        """Add a stage."""
        self.counts[stage] = [0, total]
        self._renew()

    def done(self, stage: str, name: str, seconds: float) -> None:
        """Count a piece."""
        self.counts.setdefault(stage, [0, 0])[0] += 1
        self._renew()

    def failed(self, stage: str, name: str, reason: str) -> None:
        """Count a piece and keep why it failed."""
        self.told.append(f"failed ({stage}) {name}: {reason}")
        self._renew()

    def ended(self, name: str, done: int, failed: int, left: int, seconds: float, out: Path) -> None:
        """Keep the last line of an observation."""
        self.told.append(last_line(name, done, failed, left, seconds, out))
        self._renew()

    def _renew(self) -> None:
        self.show("\n".join([*(f"{stage:12} {n} of {total}" for stage, (n, total) in self.counts.items()), *self.told]))


def reporter_here() -> Reporter:
    """Return the reporter that suits where Python runs: a text in a notebook, else the log."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is None:
        return Reporter()
    # no widgets: they warn where they are not installed
    handle = importlib.import_module("IPython.display").display({"text/plain": ""}, raw=True, display_id=True)
    return InNotebook(lambda text: handle.update({"text/plain": text}, raw=True))


def last_line(name: str, done: int, failed: int, left: int, seconds: float, out: Path) -> str:
    """Return the line on an observation that has ended.

    >>> last_line("02732-o004", 33, 1, 2, 61.26, Path("out/02732-o004"))
    '02732-o004: 33 pieces done, 1 failed, 2 left for want of it, in 61.3 s; out/02732-o004'
    """
    lost = f", {failed} failed" if failed else ""
    lost += f", {left} left for want of it" if left else ""
    return f"{name}: {done} pieces done{lost}, in {seconds:.1f} s; {out}"
