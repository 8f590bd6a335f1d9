"""Cost of every stage against the number of exposures: CPU and peak memory of whole processes, a line, a picture.

    python benchmarks/scaling.py [FOLDER] [--counts 1 2 4 8] [--mode baseline optimal] [--stage 1 2 3]
        [--picture docs/scaling.png]

Four dithers of each of two settings, of 5 groups, are simulated and calibrated once; then each stage reduces the first
1, 2, 4, 8 of them, one worker in a process of its own, from the files of the stage before (stage 3 to one spectrum).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from cost import Cost, calibrated, prepare, reduced

SETTINGS = ("12A", "34A", "12B", "34B", "12C", "34C")
#: What a stage begins with and makes.
STAGES = {1: ("uncal", "rate"), 2: ("rate", "cal"), 3: ("cal", "spectrum")}
MODES = ("baseline", "optimal")


def make(folder: str, count: str) -> None:
    """Make the files of as many settings as that takes."""
    calibrated(folder, bands=SETTINGS[: -(-int(count) // 4)], n_groups=5, n_integrations=1, seed=5)


def cost(made: dict[str, Any], stage: int, mode: str, count: int) -> Cost:
    """Return the cost of a stage of the first exposures, setting by setting."""
    source, to = STAGES[stage]
    files = sorted(made[source], key=lambda path: ("mirifulong" in path, path))[:count]
    return reduced(made, files, to, mode)


def line(counts, values) -> tuple[float, float, float]:
    """Return the base and slope of the line of least relative squares, and by how much the worst value is off it."""
    x, y = np.asarray(counts, dtype=float), np.asarray(values, dtype=float)
    slope, base = np.polyfit(x, y, 1, w=1.0 / y)
    return float(base), float(slope), float(np.abs(y / (base + slope * x) - 1).max())


def run(folder: Path, table, counts, modes=MODES, stages=tuple(STAGES), picture: Path | None = None) -> None:
    """Measure, fit lines, and draw.

    Parameters
    ----------
    folder : Path
        Simulated exposures are kept there and used again.
    table : Table of compare_jwst.py
    counts : sequence of int
    modes : sequence of str
    stages : sequence of int
    picture : Path, optional
    """
    made, found = prepare(Path(folder).resolve() / f"{max(counts)}", __file__, str(max(counts))), {}
    for stage in stages:
        for mode in modes:
            cost(made, stage, mode, 1)  # its kernels are compiled
            rows = found[stage, mode] = [cost(made, stage, mode, n) for n in counts]
            base, slope, off = line(counts, [row.cpu for row in rows])
            each = ", ".join(f"{n}: {row.cpu:.1f} s, {row.peak:.2f} GB" for n, row in zip(counts, rows, strict=True))
            print(f"  stage {stage}, {mode}: {each}; CPU {base:.1f} + {slope:.2f} s an exposure")
            table.add(f"stage {stage}, {mode}: CPU off a line", f"{100 * off:.0f} %", "< 20 %", off < 0.2)
            growth = rows[-1].peak / rows[0].peak
            table.add(f"stage {stage}, {mode}: peak of {counts[-1]} over that of {counts[0]}", f"{growth:.2f}",
                      "< 1.5", growth < 1.5)  # fmt: skip
    if picture is not None:
        draw(found, counts, picture)


def draw(found: dict[tuple[int, str], list[Cost]], counts, picture: Path) -> None:
    """Save CPU and peak memory against the number of exposures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    x = np.linspace(0, counts[-1] * 1.06, 2)
    for (stage, mode), rows in found.items():
        style = {"color": f"C{stage - 1}", "mfc": "none" if mode == "baseline" else None}
        base, slope, _ = line(counts, [row.cpu for row in rows])
        axes[0].plot(x, base + slope * x, color=style["color"], lw=1, ls="--" if mode == "baseline" else "-")
        axes[0].plot(counts, [row.cpu for row in rows], "o", **style,
                     label=f"stage {stage}, {mode}: {base:.1f} + {slope:.2f} n")  # fmt: skip
        axes[1].plot(counts, [row.peak for row in rows], "o", **style, ls="--" if mode == "baseline" else "-", lw=1)
    axes[0].set(title="CPU of a process, imports included", ylabel="CPU [s]")
    axes[1].set(title="Peak memory", ylabel="resident [GB]")
    for axis in axes:
        axis.set(xlabel="number of exposures n", xlim=(0, counts[-1] * 1.06), xticks=(0, *counts))
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)


def main() -> None:
    """Run alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("scaling"))
    parser.add_argument("--counts", nargs="*", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--mode", nargs="*", default=MODES, choices=MODES)
    parser.add_argument("--stage", nargs="*", type=int, default=tuple(STAGES), choices=tuple(STAGES))
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    from compare_jwst import Table

    run(args.folder, Table(), args.counts, args.mode, args.stage, args.picture)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(*sys.argv[2:])
    else:
        main()
