"""Other truths: what every optimal step does to data that the package's simulator did not make.

    python benchmarks/other_truths.py [--part NAME ...] [--shared FOLDER] [--quick] [--strict]

Lines, blobs, offsets and bad pixels put into real products, scenes of another optics, noise and detector.
A part is a file ``_truth_NAME.py`` beside this one with a function ``run(table, shared, quick)`` (shared: None where
there is no such folder). It adds its figures to the table, with what baseline gives, what optimal gave before it had
to prove its gain (numbers kept from then), what optimal gives now, and the goal. ``--quick`` takes a small sample of
places; with ``--strict`` a goal that is missed is exit code 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

DOOR = "\ndef run(table, shared, quick):"
HEAD = ("figure", "baseline", "optimal before", "optimal after", "goal", "")


def parts() -> list[str]:
    """Return the names of the parts: of the files beside this one that have a door."""
    files = Path(__file__).parent.glob("_truth_*.py")
    return sorted(path.stem.removeprefix("_truth_") for path in files if DOOR in path.read_text())


@dataclass(frozen=True)
class Row:
    """One figure; passed is None where there is no goal."""

    figure: str
    baseline: str
    before: str
    after: str
    goal: str
    passed: bool | None

    def cells(self) -> tuple[str, ...]:
        """Return what stands in the columns."""
        mark = {True: "ok", False: "SHORT", None: ""}[self.passed]
        return self.figure, self.baseline, self.before, self.after, self.goal, mark


class Table:
    """Figures of all parts; each is printed when it comes, all in columns at the end."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, figure: str, after: object, goal: str = "", passed: bool | None = None, *,
            baseline: object = "", before: object = "") -> None:  # fmt: skip
        """Add a figure, as text or number; ``passed``: whether ``after`` reaches the goal, None where none is set."""
        texts = [x if isinstance(x, str) else f"{x:.4g}" for x in (baseline, before, after)]
        self.rows.append(Row(figure, *texts, goal, None if passed is None else bool(passed)))
        print("  " + " | ".join(self.rows[-1].cells()), flush=True)

    def missed(self) -> list[str]:
        """Return the figures whose goal is missed."""
        return [row.figure for row in self.rows if row.passed is False]

    def text(self) -> str:
        """Return the table in columns."""
        lines = [HEAD, *(row.cells() for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
        out = [" | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([out[0], "-+-".join("-" * w for w in widths), *out[1:]])


def find_shared(asked: Path | None) -> Path | None:
    """Return the folder of real data: what was asked for, MRSXR_SHARED, or the one beside the repository."""
    beside = Path(__file__).parents[2] / "shared"
    folder = asked or Path(os.environ.get("MRSXR_SHARED", beside))
    return folder if folder.is_dir() else None


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=parts(), default=parts())
    parser.add_argument("--shared", type=Path, help="Folder of real data; parts that need it are left out without it.")
    parser.add_argument("--quick", action="store_true", help="A small sample of places.")
    parser.add_argument("--strict", action="store_true", help="Exit code 1 where a goal is missed.")
    args = parser.parse_args(arguments)
    shared, table = find_shared(args.shared), Table()
    warnings.simplefilter("ignore")
    for name in args.part:
        start = time.process_time()
        print(f"{name}:", flush=True)
        importlib.import_module(f"_truth_{name}").run(table, shared, args.quick)
        print(f"  ({time.process_time() - start:.0f} s of CPU)", flush=True)
    print(f"\n{table.text()}\n")
    missed = table.missed()
    print(f"{sum(row.passed is True for row in table.rows)} goals reached, {len(missed)} missed"
          + (f": {', '.join(missed)}" if missed else ""))  # fmt: skip
    return int(bool(missed) and args.strict)


if __name__ == "__main__":
    sys.exit(main())
