"""What the pages of docs/ say of the code is whole: every step, every stored result, every name."""

from __future__ import annotations

import ast
import csv
import inspect
import re
from pathlib import Path

import mrsxr
from mrsxr import cal, cube, lines, rate, spectrum
from mrsxr.cli import main
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


def test_tables_of_the_readme_are_stored_results():
    stored = {
        tuple(cell for k, cell in enumerate(row) if not head[k].startswith("_"))
        for path in (DOCS / "_data").glob("*.csv")
        for head, *rows in [list(csv.reader(line for line in path.read_text().splitlines() if line[0] != "#"))]
        for row in [head, *rows]
    }
    section = re.search(r"## Side by side.*?\n(.*?)\n## ", (DOCS.parent / "README.md").read_text(), flags=re.S)[1]
    rows = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in re.findall(r"^\|.*\|$", section, re.M)
    ]
    assert len(rows) > 20
    assert {row for row in rows if not row[0].startswith("---")} <= stored


def test_every_call_in_a_page_fits_its_function():
    pages = [DOCS.parent / "README.md", *DOCS.glob("*.md"), *(p for room in ("cases", "understand", "steps")
             for p in (DOCS / room).glob("*.md"))]  # fmt: skip
    calls = set()
    for path in pages:
        for block in re.findall(r"^```(?:python|pycon)\n(.*?)^```", path.read_text(), flags=re.M | re.S):
            shown = re.findall(r"^(?:>>>|\.\.\.) ?(.*)$", block, flags=re.M)
            for node in ast.walk(ast.parse("\n".join(shown) if shown else block)):
                if isinstance(node, ast.Call) and re.fullmatch(r"mx(\.\w+)+", name := ast.unparse(node.func)):
                    found = mrsxr
                    for part in name.split(".")[1:]:
                        found = getattr(found, part)
                    names = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                    inspect.signature(found).bind_partial(*node.args, **names)
                    calls.add(name)
    assert len(calls) > 30


def test_every_command_in_a_page_has_its_options():
    text = text_of() + text_of("cases") + text_of("understand") + (DOCS.parent / "README.md").read_text()
    found = re.findall(r"^ *(?:\$ )?mrsxr ([a-z]+ .*)$", text, flags=re.M)
    commands = [line.split("#")[0].split() for line in found]
    assert len(commands) > 25
    for name, *words in commands:
        known = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, (name, words)
        for setting in (words[k + 1] for k, word in enumerate(words) if word == "--set"):
            mrsxr.Recipe.of("optimal").with_text(setting)
