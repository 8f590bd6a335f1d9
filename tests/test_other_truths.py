"""The frame of benchmarks/other_truths.py: parts are found, the table has its columns, a missed goal is said."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PART = """
def run(table, shared, quick):
    table.add("{name}", {after}, "> 0.9", {after} > 0.9, before="0.4")
"""


@pytest.fixture
def frame(monkeypatch, tmp_path):
    """The module, with two parts of our own in place of those beside it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import other_truths

    monkeypatch.syspath_prepend(str(tmp_path))
    for name, after in (("good", 0.99), ("bad", 0.5)):
        (tmp_path / f"_truth_made_{name}.py").write_text(PART.format(name=name, after=after))
    monkeypatch.setattr(other_truths, "__file__", str(tmp_path / "other_truths.py"))
    yield other_truths
    for name in ("good", "bad"):
        sys.modules.pop(f"_truth_made_{name}", None)


def test_a_missed_goal_is_an_exit_code_when_asked(frame, capsys):
    assert frame.parts() == ["made_bad", "made_good"]
    assert frame.main(["--strict"]) == 1
    assert "1 goals reached, 1 missed: bad" in capsys.readouterr().out
    assert frame.main([]) == 0
    assert frame.main(["--part", "made_good", "--strict"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("good"))
    assert [cell.strip() for cell in row.split("|")] == ["good", "", "0.4", "0.99", "> 0.9", "ok"]


def test_the_parts_can_be_loaded(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import other_truths

    for name in other_truths.parts():
        assert callable(importlib.import_module(f"_truth_{name}").run)
