"""What is told of a run while it works."""

from __future__ import annotations

import logging

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
