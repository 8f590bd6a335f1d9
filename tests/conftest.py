from __future__ import annotations

import os
from pathlib import Path

import matplotlib
import pytest
from hypothesis import HealthCheck, settings

matplotlib.use("Agg")
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


@pytest.fixture(scope="session")
def simulated(tmp_path_factory):
    """A small simulated observation of one setting (two dithers, one background exposure) with its references."""
    from mrsxr.simulate import Effects, simulate_observation

    folder = tmp_path_factory.mktemp("simulated")
    return simulate_observation(
        folder, bands=["1A"], n_groups=16, n_integrations=1, n_dithers=2, n_background=1, seed=2,
        save_slopes=False, effects=Effects(straylight=True, leak=True),
    )  # fmt: skip


@pytest.fixture(scope="session")
def reduced(simulated, tmp_path_factory):
    """The same observation, reduced to spectra by the run of the command line."""
    from mrsxr import run

    return run(
        simulated.uncal_folder, simulated.background_folder, out=tmp_path_factory.mktemp("reduced"),
        refs=simulated.reference_folder, recipe="baseline",
    )  # fmt: skip
