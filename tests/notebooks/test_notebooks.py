"""The notebooks run from top to bottom, and what they store is in order, small, and of no particular machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 400_000
#: What only one machine has: absolute paths of homes, work folders, environments.
MACHINE = re.compile(r"(?<![\w.:/-])/(?:home|root|Users|tmp|var|opt|usr|mnt|work|data|private)/|[A-Z]:\\\\")


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook) -> list:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def texts_of(output) -> list[str]:
    """Return the texts of an output: stream, error, or the text forms of what was shown."""
    if output.output_type == "stream":
        return [output.text]
    if output.output_type == "error":
        return ["\n".join(output.traceback)]
    return [str(text) for kind, text in output.data.items() if kind.startswith("text/")]


def setup_of(notebook, name: str) -> str | None:
    """Return the call that simulates the observation of a name, where the notebook has it."""
    text = "\n".join(cell.source for cell in code_cells(notebook))
    found = re.search(rf"^{name} = lessons / .*?^refs = ", text, flags=re.MULTILINE | re.DOTALL)
    return found.group() if found else None


def group_of(path: Path) -> str:
    """Return the observation that a lesson simulates, or its own name: one process does the lessons of a group."""
    found = re.search(r'lessons / \\"(\w+)\\"', path.read_text())
    return found[1] if found else path.stem


def test_there_are_notebooks():
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{i:02d}" for i in range(1, len(NOTEBOOKS) + 1)]
    assert len(NOTEBOOKS) >= 6


def test_every_notebook_is_in_the_readme():
    text = (FOLDER / "README.md").read_text()
    assert [path.name for path in NOTEBOOKS if f"({path.name})" not in text] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size <= MOST_BYTES, "store smaller pictures or less text"
    assert notebook.metadata.kernelspec.name == "python3"
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run it from the top"
    outputs = outputs_of(notebook)
    assert [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"] == []
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 2
    long = [text for output in outputs for text in texts_of(output) if len(text) > 20_000]
    assert long == [], "print less"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_machine_in_it(path):
    notebook = read(path)
    texts = [text for output in outputs_of(notebook) for text in texts_of(output)]
    texts += [cell.source for cell in notebook.cells]
    assert [found for text in texts for found in MACHINE.findall(text)] == []


def test_machine_paths_are_seen():
    assert MACHINE.search("<xarray> '/home/me/x.fits'")
    assert MACHINE.search("/tmp/lessons/refs")
    assert not MACHINE.search("the nodes /science/12A and /background/34A, https://host/work/x, MJy/sr")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_reads_like_a_lesson(path):
    notebook = read(path)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {int(path.name[:2])} · ")
    told = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "<b>Question.</b>" in told, "a question with its answer"
    longest = max(len(cell.source.splitlines()) for cell in code_cells(notebook))
    assert longest <= 30, "few lines of code a cell"


def test_links_lead_somewhere():
    broken = []
    for path in NOTEBOOKS:
        text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
        links = re.findall(r"\]\(([^)#\s]+)\)", text)
        broken += [f"{path.name}: {link}" for link in links if "://" not in link and not (FOLDER / link).exists()]
    assert broken == []


@pytest.mark.parametrize("name", ["exposure", "galaxy"])
def test_lessons_share_one_observation(name):
    """Two notebooks that simulate into one folder do it alike, else the first that runs decides for the other."""
    calls = {setup for path in NOTEBOOKS if (setup := setup_of(read(path), name))}
    assert len(calls) == 1


@pytest.mark.lesson
@pytest.mark.parametrize(
    "path", [pytest.param(one, id=one.stem, marks=pytest.mark.xdist_group(group_of(one))) for one in NOTEBOOKS]
)
def test_it_runs(path, lessons, tmp_path, monkeypatch):
    monkeypatch.setenv("MRSXR_LESSONS", str(lessons))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = read(path)
    stored = [sum("image/png" in o.get("data", {}) for o in cell.outputs) for cell in code_cells(notebook)]
    shared = Path(os.environ.get("MRSXR_SHARED", FOLDER.parents[1] / "shared"))
    monkeypatch.setenv("MRSXR_SHARED", str(shared.resolve()))
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        if error.ename != "Stop":
            raise
        pytest.skip(error.evalue)  # its data are not here, as it says itself
    assert [o.text for o in outputs_of(notebook) if o.get("name") == "stderr"] == []
    made = [sum("image/png" in o.get("data", {}) for o in cell.outputs) for cell in code_cells(notebook)]
    assert made == stored, "the stored pictures are not those that it makes"
