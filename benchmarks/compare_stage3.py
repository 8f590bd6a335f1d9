"""Stage 3 beside jwst: backgrounds, outliers, cubes, spectra, and what has no counterpart there, against the truth.

Called by ``compare_jwst.py --stage 3``; the parts stand in ``stage3_*.py``. The exposures of band SHORT with four
dithers are those of ``compare_jwst.py`` without ``--stage``.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from pathlib import Path


def run(args, table, jwst) -> None:
    """Run the parts asked for."""
    parts = set(args.only)
    for name in ("background", "outliers", "cubes", "spectra"):
        if name not in parts:
            continue
        print(f"--- {name}", flush=True)
        folder = args.folder if name in ("outliers", "spectra") else args.folder / name
        options = {"shared": args.shared} if name == "spectra" else {}
        importlib.import_module(f"stage3_{name}").run(folder, args.jwst_python, table, **options)
    if "speed" in parts:
        compare_speed(args, table, jwst)


def compare_speed(args, table, jwst) -> None:
    """Time the whole of stage 3, eight cal files to four cubes and spectra, in processes of their own."""
    from stage3_cubes import prepare

    folder = args.folder / "cubes"
    folder.mkdir(parents=True, exist_ok=True)
    made = prepare(folder, args.jwst_python)
    cals = [path for paths in made["cal"].values() for path in paths]
    out = folder / "whole"
    out.mkdir(exist_ok=True)
    if not (out / "jwst_spec3.json").exists():
        jwst(args, made, "spec3", out, *cals)
    theirs = json.loads((out / "jwst_spec3.json").read_text())
    subprocess.run([sys.executable, __file__, str(out), made["refs"], *cals], check=True)
    ours = json.loads((out / "mrsxr_spec3.json").read_text())
    for key in ("wall", "cpu"):
        ratio = theirs[key] / ours[key]
        text = f"{ours[key]:.1f} s, jwst {theirs[key]:.1f}: x {ratio:.1f}"
        table.add(f"stage 3 of 8 exposures, cal to x1d: {key}", text, ">= x 5", ratio >= 5)
    peak = f"{ours['peak_gb']:.2f} GB, jwst {theirs['peak_gb']:.2f}"
    table.add("the same: peak memory", peak, "< 4 GB", ours["peak_gb"] < 4)


def ours_speed(out: str, refs: str, *cals: str) -> None:
    """Our half of the speed comparison, in a process of its own; nothing has run in it before."""
    from _memory import memory_gb

    import mrsxr as mx

    wall, cpu = time.perf_counter(), time.process_time()
    result = mx.run(list(cals), out=Path(out) / "ours", refs=refs)
    answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_gb": memory_gb()}
    answer["failed"] = result.failed
    (Path(out) / "mrsxr_spec3.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    ours_speed(*sys.argv[1:])
