"""How the commands speak: texts with labels, bars or lines of progress, histories."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

console = Console(soft_wrap=True)
errors = Console(stderr=True, soft_wrap=True)


def say(text: Any, *, where: Console = console, label: str = "", color: str = "") -> None:
    """Print a text as it is, brackets and all, after a coloured label."""
    parts = [(f"{label} ", color)] if label else []
    plain = str(text).encode("utf-8", "backslashreplace").decode("utf-8")  # names of files that are no UTF-8
    where.print(Text.assemble(*parts, (plain, "")), highlight=False)


def reporter_of(progress: Progress) -> Any:
    """Return what tells of the pieces of a run: bars, or lines where no terminal shows them."""
    from .pipeline import Reporter
    from .pipeline.reporter import last_line

    class Bars(Reporter):
        """One bar a stage."""

        def __init__(self) -> None:
            self.tasks: dict[str, Any] = {}

        def begin(self, stage: str, total: int) -> None:
            self.tasks[stage] = progress.add_task(stage, total=total)

        def done(self, stage: str, name: str, seconds: float) -> None:
            progress.advance(self.tasks[stage])

        def failed(self, stage: str, name: str, reason: str) -> None:
            if stage in self.tasks:
                progress.advance(self.tasks[stage])
            text = reason if reason.startswith(name) else f"{name}: {reason}"
            say(f"({stage}) {text}", where=progress.console, label="failed", color="red")

        def ended(self, *facts: Any) -> None:
            """Bars say it."""

    class Lines(Bars):
        """A line a piece, where no terminal shows bars."""

        def begin(self, stage: str, total: int) -> None:
            say(f"{stage}: {total} to do")

        def done(self, stage: str, name: str, seconds: float) -> None:
            say(f"{stage}: {name}" + (f" in {seconds:.1f} s" if seconds else ""))

        def ended(self, *facts: Any) -> None:
            say(last_line(*facts))

    return Bars() if console.is_terminal else Lines()


def progress_bars() -> Progress:
    """Return bars, one a stage; none where there is no terminal."""
    return Progress(
        TextColumn("{task.description:<12}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def print_history(entries: list[dict[str, Any]], before: str = "") -> None:
    """Print the entries of a history, those of joined data under the name of each."""
    from .step import JOINED

    def tell(text: str) -> None:
        say(f"{before}{text}")

    for number, entry in enumerate(entries, 1):
        refs = "  ".join(f"{kind}={name}" for kind, name in entry["refs"].items())
        params = "  ".join(f"{name}={value}" for name, value in entry["params"].items())
        tell(f"{number:2d} {entry['step']}  (mrsxr {entry['version']})")
        for line in (refs, params):
            if line:
                tell(f"     {line}")
        for name, inner in entry["inputs"].items() if entry["step"] == JOINED else ():
            tell(f"   {name}:")
            print_history(inner, f"{before}   ")
