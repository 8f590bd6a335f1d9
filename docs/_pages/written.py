"""Pages written before the build: the API by room from its public names, copies of the lessons, their pictures."""

import base64
import importlib
import inspect
import json
import shutil
from pathlib import Path

import figures

import mrsxr

ROOMS = {
    "mrsxr": "Top level", "mrsxr.rate": "rate: ramps to slopes", "mrsxr.cal": "cal: slopes to surface brightness",
    "mrsxr.cube": "cube: exposures to cubes", "mrsxr.spectrum": "spectrum: cubes to spectra",
    "mrsxr.lines": "lines: fits and maps", "mrsxr.plot": "plot: pictures", "mrsxr.io": "io: files",
    "mrsxr.references": "references: reference files", "mrsxr.report": "report: what came of a run",
    "mrsxr.explorer": "explorer: look into cubes",
    "mrsxr.simulate": "simulate: data with known truth", "mrsxr.schema": "schema: what a level holds",
    "mrsxr.scores": "scores: what steps decided", "mrsxr.units": "units", "mrsxr.dq": "dq: flags",
    "mrsxr.mrs": "mrs: the instrument",
    "mrsxr.accessor": "accessor: ds.mrs", "mrsxr.geometry.place": "geometry.place: where spaxels lie",
    "mrsxr.geometry.sky": "geometry.sky: pixels to sky", "mrsxr.geometry.index": "geometry.index: selection on the sky",
}  # fmt: skip


def public_names(room):
    """Return the public functions and classes of a module: those in ``__all__``, else those defined there."""
    module = importlib.import_module(room)
    own = [name for name, one in vars(module).items() if getattr(one, "__module__", "") == room]
    names = [name for name in getattr(module, "__all__", own) if not name.startswith("_")]
    return [n for n in names if inspect.isfunction(getattr(module, n)) or inspect.isclass(getattr(module, n))]


def _own_names(room):
    """Return the public names of a room that do not stand at the top level, where their page is."""
    top = set(public_names("mrsxr")) if room != "mrsxr" else set()
    module = importlib.import_module(room)
    return [n for n in public_names(room) if n not in top or getattr(module, n) is not getattr(mrsxr, n)]


def write_all(docs):
    """Write ``api/`` and ``lessons/`` below the folder of the documents."""
    (docs / "api").mkdir(exist_ok=True)
    known = {f"{room}.{name}.rst" for room in ROOMS for name in _own_names(room)}
    for path in (docs / "api").glob("*.rst"):  # of an earlier build
        if path.name not in known:
            path.unlink()
    for room, title in ROOMS.items():
        _write(docs / "api" / f"{_stem(room)}.md", _api_page(room, title))
    entries = "\n".join(_stem(room) for room in ROOMS)
    _write(docs / "api" / "index.md", f"{(docs / '_pages' / 'api.md').read_text()}\n```{{toctree}}\n{entries}\n```\n")
    _lessons(docs)
    figures.draw_all(docs / "figures")


def _stem(room):
    return "top" if room == "mrsxr" else room.removeprefix("mrsxr.").replace(".", "_")


def _api_page(room, title):
    """Return the page of a room; what stands at the top level too has its page there."""
    module, own = importlib.import_module(room), _own_names(room)
    other = [f"   ~mrsxr.{name}" for name in public_names(room) if name not in own]
    lists = ["", ".. autosummary::", "   :toctree: .", "", *(f"   {name}" for name in own)]
    lists += ["", ".. autosummary::", "", *other] if other else []
    about = [
        f".. py:module:: {room}",
        "",
        *(inspect.getdoc(module) or "").splitlines(),
        "",
        f".. currentmodule:: {room}",
    ]
    return "\n".join([f"# {title}", "", "```{eval-rst}", *about, *lists, "```", ""])


def _lessons(docs):
    target = docs / "lessons"
    (target / "img").mkdir(parents=True, exist_ok=True)
    source = docs.parent / "notebooks"
    notebooks = sorted(source.glob("*.ipynb"))
    for path in notebooks:
        _copy(path, target / path.name)
        for k, picture in enumerate(_pictures(path), 1):
            out = target / "img" / f"{path.name[:2]}-{k}.png"
            if not out.exists() or out.read_bytes() != picture:
                out.write_bytes(picture)
    toc = "\n".join(path.stem for path in notebooks)
    text = (source / "README.md").read_text()
    _write(target / "index.md", f"{text}\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n")


def _pictures(path):
    for cell in json.loads(path.read_text())["cells"]:
        for output in cell.get("outputs", ()):
            if png := output.get("data", {}).get("image/png"):
                yield base64.b64decode("".join(png))


def _copy(source, target):
    if not target.exists() or target.read_bytes() != source.read_bytes():
        shutil.copyfile(source, target)


def _write(path: Path, text):
    """Write a page where it changed, so that a second build reads it no more than others."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
