"""Cost of stage 3, cal files to cubes and one spectrum, against the number of exposures: wall, CPU, memory, a picture.

    python benchmarks/stage3_scaling.py [FOLDER] [--picture docs/scaling.png] [--mode baseline optimal]

24 exposures of 5 groups, four dithers of all six settings, are simulated and calibrated once; then stage 3 of the first
4, 8, 16 and 24 of them runs in processes of its own with two threads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

COUNTS = (4, 8, 16, 24)
SETTINGS = ("12A", "34A", "12B", "34B", "12C", "34C")
MODES = ("baseline", "optimal")


def run(folder: Path, table, picture: Path | None = None, modes=MODES) -> None:
    """Measure, fit a line, and draw.

    Parameters
    ----------
    folder : Path
        Simulated exposures are kept there and used again.
    table : Table of compare_jwst.py
    picture : Path, optional
    modes : sequence of str
    """
    folder = Path(folder).resolve()
    cals = prepare(folder)
    found = {mode: [measure(folder, cals, n, mode) for n in COUNTS] for mode in modes}
    for mode, rows in found.items():
        for name, unit in (("wall", "s"), ("cpu", "s")):
            base, slope, off = line(COUNTS, [row[name] for row in rows])
            each = ", ".join(f"{n}: {row[name]:.1f}" for n, row in zip(COUNTS, rows, strict=True))
            print(f"  {mode} {name} [{unit}] {each}; {base:.1f} + {slope:.2f} an exposure")
            if name == "cpu":
                table.add(f"stage 3 {mode}: CPU off a line", f"{100 * off:.0f} %", "< 20 %", off < 0.2)
        peak = max(row["peak_gb"] for row in rows)
        table.add(f"stage 3 {mode}: peak memory of {COUNTS[-1]} exposures", f"{peak:.2f} GB", "< 4 GB", peak < 4)
    if picture is not None:
        draw(found, picture)


def prepare(folder: Path) -> dict[str, list[str]]:
    """Return the cal files of each setting; simulate and calibrate them where they are not there."""
    import mrsxr as mx

    if not list((folder / "cal" / "stage2").glob("*_cal.fits")):
        made = mx.simulate_observation(
            folder / "sim", bands=SETTINGS, n_groups=5, n_integrations=1, n_background=0, seed=5, save_slopes=False
        )
        result = mx.run(made.uncal_folder, out=folder / "cal", refs=made.reference_folder, to="cal")
        if result.failed:
            raise SystemExit(f"not calibrated: {result.failed}")
    found: dict[str, list[str]] = {name: [] for name in SETTINGS}
    for path in sorted((folder / "cal" / "stage2").glob("*_cal.fits")):
        found[setting_of(path)].append(str(path))
    return found


def setting_of(path: Path) -> str:
    """Return the setting of a FITS file."""
    from stage3_cubes import setting_of as of_header

    return of_header(path)


def measure(folder: Path, cals: dict[str, list[str]], count: int, mode: str) -> dict:
    """Return wall [s], CPU [s] and peak memory [GB] of stage 3 of the first exposures, the better of two runs."""
    files = [path for name in SETTINGS for path in cals[name]][:count]
    report = folder / "scaling.json"
    rows = []
    for _ in range(2):
        subprocess.run([sys.executable, __file__, "side", str(report), str(folder / "sim" / "refs"), mode, *files],
                       check=True)  # fmt: skip
        rows.append(json.loads(report.read_text()))
    return {name: min(row[name] for row in rows) for name in rows[0]}


def side(report: str, refs: str, mode: str, *cals: str) -> None:
    """Run stage 3 in this process, in which nothing has run before."""
    import tempfile
    import warnings

    from _memory import memory_gb

    import mrsxr as mx
    from mrsxr.pipeline import Recipe

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as out:
        wall, cpu = time.perf_counter(), time.process_time()
        result = mx.run(
            list(cals), out=out, refs=refs, recipe=Recipe.of(mode).set("extract_1d", source_type="POINT"), workers=2
        )
        answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_gb": memory_gb()}
    if result.failed:
        raise SystemExit(f"failed: {result.failed}")
    Path(report).write_text(json.dumps(answer))


def line(counts, values) -> tuple[float, float, float]:
    """Return the base and slope of the line of least relative squares, and by how much the worst value is off it."""
    x, y = np.asarray(counts, dtype=float), np.asarray(values, dtype=float)
    slope, base = np.polyfit(x, y, 1, w=1.0 / y)
    return float(base), float(slope), float(np.abs(y / (base + slope * x) - 1).max())


def draw(found: dict[str, list[dict]], picture: Path) -> None:
    """Save wall time and peak memory against the number of exposures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    x = np.linspace(0, COUNTS[-1] * 1.06, 2)
    for color, (mode, rows) in zip(("C0", "C1"), found.items(), strict=False):
        for axis, name, marker in ((axes[0], "wall", "o"), (axes[0], "cpu", "s"), (axes[1], "peak_gb", "o")):
            values = [row[name] for row in rows]
            label = mode + {"wall": ", wall", "cpu": ", CPU", "peak_gb": ""}[name]
            open_marker = {"mfc": "none", "ls": ""} if name == "cpu" else {"ls": ""}
            if name != "peak_gb":
                base, slope, _ = line(COUNTS, values)
                axis.plot(x, base + slope * x, color=color, lw=1, ls=":" if name == "cpu" else "-")
                label += f": {base:.1f} + {slope:.2f} n"
            axis.plot(COUNTS, values, marker, color=color, label=label, **open_marker)
    axes[0].set(title="Stage 3, cal files to cubes and one spectrum", ylabel="time [s]")
    axes[1].set(title="Peak memory", ylabel="resident [GB]")
    for axis in axes:
        axis.set(xlabel="number of exposures n", xlim=(0, COUNTS[-1] * 1.06), xticks=(0, *COUNTS))
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, loc="upper left" if axis is axes[0] else "lower right")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=130)


def main() -> None:
    """Run alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("stage3_scaling"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--mode", nargs="*", default=MODES, choices=MODES)
    args = parser.parse_args()
    from compare_jwst import Table

    run(args.folder, Table(), args.picture, args.mode)


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1] == "side":
        side(*sys.argv[2:])
    else:
        main()
