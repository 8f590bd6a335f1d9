"""The examples of docstrings and of the pages in docs/ run: in one process, on one small simulated observation."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import mrsxr
from mrsxr.errors import MrsxrWarning

ROOT = Path(mrsxr.__file__).parents[1]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
MODULES = sorted(path for path in (ROOT / "mrsxr").rglob("*.py") if ">>> " in path.read_text())
MADE = {"api", "lessons"}  # by a build of the site
PAGES = sorted(p for p in (ROOT / "docs").rglob("*.md") if not MADE & set(p.parts) and ">>> " in p.read_text())
ROOMS = ("rate", "cal", "cube", "spectrum", "lines", "plot", "references", "report", "simulate")
LACKING = 0  # public names without an example


def run(found, given, folder, monkeypatch):
    """Run examples in a folder of their own; notes to users are no warnings of them."""
    monkeypatch.chdir(folder)
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MrsxrWarning)
        for test in found:
            test.globs.update(given)
            doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(test, out=said.append)
    plt.close("all")
    assert not said, "".join(said)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "mrsxr")))
def test_docstrings(path, given, tmp_path, monkeypatch):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    found = doctest.DocTestFinder(exclude_empty=True).find(module)
    assert any(test.examples for test in found)
    run(found, given, tmp_path, monkeypatch)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT / "docs")))
def test_pages(path, given, tmp_path, monkeypatch):
    text = re.sub(r"^(```|:::).*$", "", path.read_text(), flags=re.M)
    run([doctest.DocTestParser().get_doctest(text, {}, path.name, str(path), 0)], given, tmp_path, monkeypatch)


def test_public_names_have_examples():
    lacking = set()
    for room in (mrsxr, *(getattr(mrsxr, name) for name in ROOMS)):
        for name in room.__all__:
            one = getattr(room, name)
            public = inspect.isfunction(one) or (inspect.isclass(one) and not issubclass(one, Exception))
            if public and ">>> " not in (inspect.getdoc(one) or ""):
                lacking.add(one.__qualname__)
    assert len(lacking) <= LACKING, sorted(lacking)
