from __future__ import annotations

import fcntl
import gc
import os
import pickle
from pathlib import Path

import matplotlib
import pytest
from hypothesis import HealthCheck, settings

matplotlib.use("Agg")
gc.set_threshold(50_000, 20, 50)  # a fifth of the time went into looks for cycles among what was imported
settings.register_profile(
    "quick", max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile("full", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the project; the test is skipped where there is none."""
    folder = Path(os.environ.get("MRSXR_SHARED", Path(__file__).parents[2] / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"the folder of real data ({folder}) is not here; set MRSXR_SHARED to the folder above it")
    return folder


def once(tmp_path_factory, name: str, make):
    """Make what all tests read in one of the processes of a test run; the others wait for it and take it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return make(tmp_path_factory.mktemp(name))
    folder = tmp_path_factory.getbasetemp().parent / name
    kept = folder.with_suffix(".pickle")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            folder.mkdir(exist_ok=True)
            kept.write_bytes(pickle.dumps(make(folder)))
        return pickle.loads(kept.read_bytes())


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """A small simulated observation of one setting (two dithers, one background exposure) with its references."""
    from mrsxr.simulate import Effects, simulate_observation

    small: dict = {"bands": ["1A"], "n_groups": 16, "n_integrations": 1, "n_dithers": 2, "n_background": 1, "seed": 2}
    small |= {"save_slopes": False, "effects": Effects(straylight=True, leak=True)}
    return once(tmp_path_factory, "simulated", lambda out: simulate_observation(out, **small))


@pytest.fixture(scope="session")
def reduced(simulated, tmp_path_factory):
    """The same observation, reduced to spectra by the run of the command line."""
    from mrsxr import run

    source, background, refs = simulated.uncal_folder, simulated.background_folder, simulated.reference_folder
    return once(tmp_path_factory, "reduced", lambda out: run(source, background, out=out, refs=refs, recipe="baseline"))
