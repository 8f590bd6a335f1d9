"""Sections on what was done: the steps with their parameters and files, flags, times, versions."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import xarray as xr
from markupsafe import Markup

from mrsxr import cal, cube, dq, rate, spectrum  # noqa: F401 - they fill STEPS
from mrsxr.errors import MrsxrError
from mrsxr.io import FileInfo
from mrsxr.pipeline.record import versions
from mrsxr.step import STEPS

from .gather import Contents
from .markup import NONE, bullets, code, details, join, paragraph, percent, seconds, table

STAGES = {
    "rate": "Stage 1: from ramps to count rates", "cal": "Stage 2 and 3: from count rates to calibrated exposures",
    "cube": "Stage 3: cubes", "spectrum": "Stage 3: spectra",
}  # fmt: skip
_WHERE = ("band", "bands")  # parameters that say where, not how
_FILES = (".fits", ".fits.gz", ".asdf", ".json")
_JWST_STATES = {"COMPLETE": "done", "SKIPPED": "left out", "PERFORMED": "done"}


class _Step:
    """One step as the products tell it: parameters and references, and the bands that they hold for."""

    def __init__(self, name: str):
        self.name = name
        self.params: dict[str, list[str]] = {}
        self.refs: dict[str, list[str]] = {}
        self.bands: list[str] = []
        self.function = _function(name)
        known = inspect.signature(self.function).parameters if self.function is not None else {}
        empty = inspect.Parameter.empty
        self.known = {k: p.default for k, p in list(known.items())[1:] if p.default is not empty}

    def add(self, bands: Iterable[str], entry: dict[str, Any]) -> None:
        """Note that the step was done so in some bands."""
        own = {
            k: v for k, v in entry["params"].items()
            if k not in _WHERE and not (k in self.known and _same(self.known[k], v))
        }  # fmt: skip
        for band in bands:
            _note(self.params, json.dumps(own), band)
            for kind, name in entry["refs"].items():
                _note(self.refs, _reference_text(kind, name), band)
            if band not in self.bands:
                self.bands.append(band)

    def defaults(self) -> dict[str, Any]:
        """Return the defaults of the step, references left out."""
        refs = {text.split(" ")[0].rstrip(",:") for text in self.refs}
        return {k: v for k, v in self.known.items() if k not in refs and k not in _WHERE}

    def says(self) -> str:
        """Return the first line of the step's documentation."""
        text = inspect.getdoc(self.function) if self.function is not None else ""
        return (text or "").split("\n\n")[0].replace("\n", " ").replace("``", "")


def _function(name: str) -> Callable[..., Any] | None:
    """Return the function behind a name in a history, None where there is none of this name any more."""
    if name in STEPS:
        return STEPS[name]
    module, _, verb = name.rpartition(".")
    try:
        return getattr(importlib.import_module(f"mrsxr.{module}"), verb, None) if module else None
    except ImportError:
        return None


def _reference_text(kind: str, name: str) -> str:
    if name.endswith(_FILES):
        return f"{kind} {name}"
    itself = name == "by hand" or name.startswith("jw")
    return f"{kind}, from the exposures themselves" if itself else f"{kind}: {name}"


def _note(into: dict[str, list[str]], key: str, band: str) -> None:
    places = into.setdefault(key, [])
    if band not in places:
        places.append(band)


def _same(default: Any, value: Any) -> bool:
    if isinstance(default, tuple):
        default = list(default)
    return default == value or str(default) == str(value)


def steps(contents: Contents) -> Markup:
    """Return the steps of all products, in order, with what differs from the defaults and the reference files."""
    found = merge(contents.histories())
    parts = []
    for room, title in STAGES.items():
        members = [step for step in found if step.name.split(".")[0] == room]
        if members:
            parts.append(_step_table(title, members))
    others = _steps_of_headers(contents)
    if others:
        parts.append(others)
    if not parts:
        raise MrsxrError("the products hold no history: another program wrote them and left no step keywords")
    text = (
        "Read from the histories inside the products. Parameters are those that differ from the defaults of the step."
    )
    return join(paragraph(text), *parts) if found else join(*parts)


def merge(histories: Iterable[tuple[list[str], list[dict[str, Any]]]]) -> list[_Step]:
    """Return the steps of several histories in one order: each before the one that follows it."""
    order: list[_Step] = []
    for bands, entries in histories:
        for number, entry in enumerate(entries):
            names = [step.name for step in order]
            if entry["step"] not in names:
                later = [names.index(e["step"]) for e in entries[number + 1 :] if e["step"] in names]
                order.insert(min(later, default=len(order)), _Step(entry["step"]))
                names = [step.name for step in order]
            order[names.index(entry["step"])].add(bands, entry)
    return order


def _step_table(title: str, members: list[_Step]) -> Markup:
    everywhere = {band for step in members for band in step.bands}
    rows = []
    for step in members:
        room, module, verb = [*step.name.split("."), "", ""][:3]
        less = "" if set(step.bands) >= everywhere else paragraph(f"only {_bands(step.bands)}", "small")
        rows.append(
            [join(code(f"{room}.{verb or module}"), less), step.says() or NONE, _parameters(step), _references(step)]
        )
    return table(title, ["Step", "What it does", "Parameters", "Reference files and data"], rows, stack=True)


def _bands(bands: Iterable[str]) -> str:
    return " ".join(sorted(bands))


def _parameters(step: _Step) -> Markup:
    lines = []
    for text, bands in step.params.items():
        given = ", ".join(f"{k} = {_shown(v)}" for k, v in json.loads(text).items())
        if given or len(step.params) > 1:
            lines.append((given or "defaults") + ("" if len(step.params) == 1 else f" ({_bands(bands)})"))
    rest = step.defaults()
    if not rest:
        return join(*map(paragraph, lines)) or Markup(NONE)
    values = code(", ".join(f"{k} = {_shown(v)}" for k, v in rest.items()))
    return join(*map(paragraph, lines), details("all defaults" if lines else "defaults", values))


def _shown(value: Any) -> str:
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, list) else str(value)


def _references(step: _Step) -> Markup:
    lines = [
        code(name) if set(bands) >= set(step.bands) else join(code(name), f" ({_bands(bands)})")
        for name, bands in step.refs.items()
    ]
    if not lines:
        return Markup(NONE)
    return bullets(lines, "plain") if len(lines) <= 4 else details(f"{len(lines)} files", bullets(lines, "plain"))


def _steps_of_headers(contents: Contents) -> Markup | None:
    """Return the steps that jwst noted in the headers, for files without a history of this package."""
    states: dict[str, dict[str, list[str]]] = {}
    for file in contents.of("rate", "cal", "crf", "s3d", "x1d"):
        if "history_json" in contents.open(file).attrs and json.loads(contents.open(file).attrs["history_json"]):
            continue
        for key, value in file.keywords.items():
            if key.startswith("S_") and value in _JWST_STATES:
                _note(states.setdefault(key[2:], {}), _JWST_STATES[value], file.node or "all bands")
    rows = [
        [code(name), "; ".join(s if len(found) == 1 else f"{s} ({', '.join(p)})" for s, p in found.items())]
        for name, found in states.items()
    ]
    return table("Steps of jwst, by the headers", ["Keyword", "State"], rows) if rows else None


def flags(contents: Contents) -> Markup:
    """Return which part of the pixels has each flag, by setting, in rate and cal data."""
    columns: dict[str, dict[str, float]] = {}
    for product in ("rate", "cal"):
        by_setting: dict[str, list[FileInfo]] = {}
        for file in contents.of(product):
            by_setting.setdefault(file.node, []).append(file)
        for setting, files in by_setting.items():
            columns[f"{setting} {product}"] = flag_fractions(contents.open(file) for file in files)
    if not columns:
        raise MrsxrError("no rate or cal files in this folder, so that there are no flags to count")
    names = [name for name in (*dq.FLAGS, "no flag") if any(column.get(name) for column in columns.values())]
    rows = [[code(n) if n in dq.FLAGS else n, *(percent(c.get(n, 0.0)) for c in columns.values())] for n in names]
    caption = "Flagged pixels, mean of the science exposures"
    text = (
        "Part of the pixels with each flag; a pixel may have several. Reference pixels are left out, of cal data also "
        "those between the slices."
    )
    return join(paragraph(text), table(caption, ["Flag", *columns], rows, range(1, len(columns) + 1)))


def flag_fractions(exposures: Iterable[xr.Dataset]) -> dict[str, float]:
    """Return the part of the pixels with each flag, ``{"DO_NOT_USE": 0.03, ..., "no flag": 0.9}``.

    Reference pixels and those outside slices (NON_SCIENCE) are left out. The mean over the exposures is given, of the
    flags that one of them has.
    """
    total: dict[str, float] = {}
    number = 0
    for ds in exposures:
        for bits in ds["dq"].values.reshape(-1, *ds["dq"].shape[-2:]):
            bits = bits[(bits & np.uint32(dq.REFERENCE_PIXEL | dq.NON_SCIENCE)) == 0]
            if not bits.size:
                continue
            number += 1
            counted = {n: float(np.mean((bits & np.uint32(bit)) != 0)) for n, bit in dq.FLAGS.items()}
            for name, part in {**counted, "no flag": float(np.mean(bits == 0))}.items():
                total[name] = total.get(name, 0.0) + part
    return {name: part / max(number, 1) for name, part in total.items() if part > 0 or name == "no flag"}


def times(contents: Contents) -> Markup:
    """Return how long the stages of the runs took."""
    if not contents.runs:
        raise MrsxrError("no run.json in this folder: times are known of runs of mrsxr only")
    parts = []
    for run in contents.runs:
        stages: dict[str, list[dict[str, Any]]] = {}
        for piece in run["pieces"]:
            stages.setdefault(piece["stage"], []).append(piece)
        rows = []
        for stage, pieces in stages.items():
            failed = sum(bool(p.get("failed")) for p in pieces)
            longest = max(pieces, key=lambda p: p["seconds"])
            memory = max((p["peak_memory"] or 0.0 for p in pieces), default=0.0)
            rows.append(
                [
                    stage,
                    str(len(pieces)),
                    str(failed) if failed else NONE,
                    seconds(sum(p["seconds"] for p in pieces)),
                    seconds(longest["seconds"]),
                    f"{memory / 1000:.2f} GB" if memory else NONE,
                ]
            )
        started = run["started"][:16].replace("T", " ")
        caption = f"Run of {started} UTC: {seconds(run['seconds'])} on {run['settings'].get('workers', '?')} workers"
        header = ["Stage", "Pieces", "Failed", "Time of all", "Longest", "Peak memory until then"]
        parts.append(table(caption, header, rows, numbers=(1, 2, 3, 4, 5)))
        every = ([p["stage"], p["name"], seconds(p["seconds"]), p.get("failed") or "done"] for p in run["pieces"])
        pieces_table = table("Pieces of the run", ["Stage", "Piece", "Time", "State"], every, numbers=(2,))
        parts.append(details(f"All {len(run['pieces'])} pieces", pieces_table))
    return join(*parts)


def provenance(contents: Contents) -> Markup:
    """Return versions, reference files, parameters and the list of the products."""
    parts = [table("Where the numbers come from", ["What", "Value"], _sources(contents), stack=True)]
    run = contents.run
    if run and run["changed"]:
        rows = [[code(name), _shown(value)] for name, value in run["changed"].items()]
        parts.append(table(f"Parameters that differ from the recipe {run['base']}", ["Parameter", "Value"], rows))
    if run:
        every = [f"{part}.{k} = {_shown(v)}" for part, values in run["recipe"].items() for k, v in values.items()]
        parts.append(details("All parameters of the run", bullets(map(code, every), "plain columns")))
        inputs = [f"{contents.relative(i['path'])} ({i['role']})" for i in run["inputs"]]
        parts.append(details(f"{len(inputs)} files went in", bullets(map(code, inputs), "plain")))
    names = sorted({r for s in merge(contents.histories()) for r in s.refs if r.endswith(_FILES)})
    if names:
        parts.append(details(f"{len(names)} reference files", bullets(map(code, names), "plain")))
    products = [contents.relative(f.path) for f in contents.files] + [contents.relative(p) for p in contents.others]
    parts.append(details(f"{len(products)} products in the folder", bullets(map(code, products), "plain")))
    return join(*parts)


def _sources(contents: Contents) -> list[list[str]]:
    run = contents.run
    rows = [["Folder", str(contents.folder.resolve())]]
    if run:
        rows += [["Reference files", run["references"]], ["Written by", _versions(run["versions"])]]
    keywords = [f.keywords for f in contents.files]
    for key, name in (("CRDS_CTX", "CRDS context"), ("CAL_VER", "Version of the writing program (CAL_VER)"),
                      ("SDP_VER", "Version of the raw data (SDP_VER)")):  # fmt: skip
        found = sorted({str(k[key]) for k in keywords if k.get(key)})
        if found:
            rows.append([name, ", ".join(found)])
    rows.append(["This page", f"mrsxr {versions()['mrsxr']}"])
    return rows


def _versions(known: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in known.items())
