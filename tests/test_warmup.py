"""After a warm-up a reduction compiles nothing: what is warmed is found by reducing, not from a list that grows old."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Another observation than that of the warm-up: another setting and size, all in one process that compiled nothing.
CODE = """
import json, sys, warnings
import mrsxr as mx
from mrsxr.compiled import compiled_here
warnings.simplefilter("ignore")
out = sys.argv[1]
small = {"bands": ["3B"], "n_groups": 13, "n_integrations": 1, "n_dithers": 3, "n_background": 1, "seed": 5}
made = mx.simulate_observation(f"{out}/simulated", **small)
for mode in ("baseline", "optimal"):
    result = mx.run(made.uncal_folder, made.background_folder, out=f"{out}/{mode}", refs=made.reference_folder,
                    recipe=mode, workers=3)
    mx.lines.fit_lines(mx.load(result.files["spectrum"][0]), redshift=0.02)
print(json.dumps([list(compiled_here()), list(result.failed)]))
"""


@pytest.mark.slow
def test_a_reduction_after_it_compiles_nothing(tmp_path):
    environ = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(Path(__file__).parents[1])}
    warm = subprocess.run(
        [sys.executable, "-c", "from mrsxr.cli import main; main(['warmup'])"],
        env=environ,
        text=True,
        capture_output=True,
    )
    assert str(tmp_path / "cache") in warm.stdout, warm.stderr
    found = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], env=environ, text=True, capture_output=True, check=True
    )
    assert json.loads(found.stdout.splitlines()[-1]) == [[], []]
