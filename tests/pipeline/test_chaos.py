"""Runs that are killed and go on give the bytes of one that nobody disturbed."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal", "kills", "cluster"), [("KILL", 12, None), ("TERM", 5, None), ("WORKER", 3, "local:2")]
)
def test_killed_runs_go_on_to_the_same_bytes(tmp_path, signal, kills, cluster):
    place = Path(__file__).parents[2] / "benchmarks" / "chaos.py"
    spec = importlib.util.spec_from_file_location("chaos", place)
    chaos = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(chaos)
    options = argparse.Namespace(kills=kills, signal=signal, cluster=cluster, workers=2, seed=3, whole=False)
    table = chaos.chaos(tmp_path / "data", tmp_path, options)
    assert table["kills"] >= kills
    assert (table["files broken"], table["files that differ"], table["stopped later than 5 s"]) == (0, 0, 0)
