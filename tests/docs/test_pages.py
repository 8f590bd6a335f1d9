"""What the pages of docs/ say of the code is whole: every step, every stored result, every name."""

from __future__ import annotations

import re
from pathlib import Path

import mrsxr
from mrsxr import cal, cube, lines, rate, spectrum
from mrsxr.step import STEPS

DOCS = Path(mrsxr.__file__).parents[1] / "docs"


def text_of(folder=""):
    return "\n".join(p.read_text() for p in sorted((DOCS / folder).glob("*.md")))


def test_every_step_is_on_a_page():
    named = re.findall(r"^```\{one-step\} (\S+)$", text_of("steps"), flags=re.M)
    public = {f"{room.__name__.removeprefix('mrsxr.')}.{name}" for room in (rate, cal, cube, spectrum, lines)
              for name in room.__all__ if callable(getattr(room, name))}  # fmt: skip
    assert set(named) == public | set(STEPS)
    assert len(named) == len(set(named))


def test_every_stored_result_is_shown_and_says_its_command():
    shown = set(re.findall(r"\{measured\} (\S+)", text_of() + text_of("understand")))
    stored = {path.name: path.read_text() for path in (DOCS / "_data").glob("*.csv")}
    assert set(stored) == shown
    root = DOCS.parent
    for name, text in stored.items():
        script = re.match(r"# (?:CRDS_\S+ )?python (benchmarks/\w+\.py)", text)
        assert script, name
        assert (root / script[1]).is_file(), name


def test_every_function_named_in_a_page_is_there():
    names = set(re.findall(r"\bmx\.([a-z_]+(?:\.[a-z_0-9]+)*)\(", text_of() + text_of("cases") + text_of("understand")))
    assert len(names) > 30
    for name in names:
        found = mrsxr
        for part in name.split("."):
            found = getattr(found, part)
