"""Stage 3 beside jwst: backgrounds, outliers, cubes, spectra, and what has no counterpart there, against the truth.

Called by ``compare_jwst.py --stage 3``; the parts stand in ``stage3_*.py``. The exposures of band SHORT with four
dithers are those of ``compare_jwst.py`` without ``--stage``.
"""

from __future__ import annotations

import importlib


def run(args, table, jwst) -> None:
    """Run the parts asked for."""
    parts = set(args.only)
    for name in ("background", "outliers", "cubes", "spectra"):
        if name not in parts:
            continue
        print(f"--- {name}", flush=True)
        folder = args.folder if name in ("outliers", "spectra") else args.folder / name
        importlib.import_module(f"stage3_{name}").run(folder, args.jwst_python, table)
