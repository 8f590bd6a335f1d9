"""What is told of a run while it works."""

from __future__ import annotations

import logging
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


def last_line(name: str, done: int, failed: int, left: int, seconds: float, out: Path) -> str:
    """Return the line on an observation that has ended.

    >>> last_line("02732-o004", 33, 1, 2, 61.26, Path("out/02732-o004"))
    '02732-o004: 33 pieces done, 1 failed, 2 left for want of it, in 61.3 s; out/02732-o004'
    """
    lost = f", {failed} failed" if failed else ""
    lost += f", {left} left for want of it" if left else ""
    return f"{name}: {done} pieces done{lost}, in {seconds:.1f} s; {out}"
