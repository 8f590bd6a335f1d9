# ruff: noqa: E501
"""Odd places: what is named as a source, an output or a configuration without being a proper file."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _source(make: Callable[[Path], Any], name: str = "x_rate.fits") -> Callable[[Path], Any]:
    """Open what ``make`` puts under a name, by every way in."""

    def work(folder: Path) -> list[Callable[[], Any]]:
        import mrsxr as mx
        from mrsxr.io import find_files, summarize
        from mrsxr.references import read_reference

        path = folder / name
        make(path)
        return [
            lambda: mx.load(path), lambda: find_files(path), lambda: summarize(path, on_error="raise"),
            lambda: mx.open_exposures(path), lambda: mx.open_observation([path]), lambda: read_reference(path),
        ]  # fmt: skip

    return work


def _beside(make: Callable[[Path], Any], name: str = "x_rate.fits") -> Callable[[Path], Any]:
    """Search a folder that holds, beside two exposures, what ``make`` puts under a name."""

    def work(folder: Path) -> list[Callable[[], Any]]:
        import bases

        from mrsxr.io import find_files, summarize
        from mrsxr.references import References

        bases.association(folder)
        make(folder / name)

        def search() -> None:
            found = find_files(folder, on_error="skip")
            assert len(found) == 2, found
            summarize(folder)
            _ = References(folder).kinds

        return [search]

    return work


def _listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)
        server.bind(path.name)
        os.chdir(here)


def _out(make: Callable[[Path], Any], below: str = "out") -> Callable[[Path], Any]:
    """Run into, and save to, what ``make`` left at ``out``; nothing may be computed before."""

    def work(folder: Path) -> list[Callable[[], Any]]:
        import bases

        import mrsxr as mx
        from mrsxr.pipeline import pieces

        bases.association(folder)
        make(folder / "out")
        data = mx.load(sorted(folder.glob("*_rate.fits"))[0])

        def refuse(*_args: Any, **_kwargs: Any) -> None:
            raise AssertionError("something was computed before the output was looked at")

        def run() -> None:
            kept, pieces.make_cal = pieces.make_cal, refuse
            try:
                result = mx.run(folder, out=folder / below, refs=None, to="cal")
            finally:
                pieces.make_cal = kept
            raise AssertionError(f"it ran: {result.failed}")

        return [run, lambda: mx.save(data, folder / below / "stage2")]

    return work


def _file(path: Path) -> None:
    path.write_text("a file")


def _config(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def work(folder: Path) -> list[Callable[[], Any]]:
        from mrsxr.pipeline import Recipe

        make(folder / "c.toml")
        return [lambda: Recipe.of(folder / "c.toml")]

    return work


MISC = {"a FIFO": os.mkfifo, "a folder": os.mkdir, "a socket": _listen, "a dangling link": lambda p: p.symlink_to("nowhere"),
        "a link to itself": lambda p: p.symlink_to(p.name), "a link to /dev/zero": lambda p: p.symlink_to("/dev/zero"),
        "a link to /proc/self/mem": lambda p: p.symlink_to("/proc/self/mem"), "an empty file": lambda p: p.touch()}  # fmt: skip
NAMES = {"an odd name": "a b'\"[x]*?\n\x1b[31mé_rate.fits", "a name that is not UTF-8": os.fsdecode(b"\xff\xfe_rate.fits"),
         "markup in the name": "[red]x[bold]_rate.fits"}  # fmt: skip

PLACES: dict[str, tuple[str, Callable[[Path], Any]]] = {}
for _what, _make in MISC.items():
    PLACES[f"source is {_what}"] = ("refused", _source(_make))
    PLACES[f"source with .gz is {_what}"] = ("refused", _source(_make, "x_rate.fits.gz"))
    PLACES[f"source is {_what} for netCDF"] = ("refused", _source(_make, "x.nc"))
    PLACES[f"source is {_what} for an association"] = ("refused", _source(_make, "x_asn.json"))
    PLACES[f"source is {_what} for ASDF"] = ("refused", _source(_make, "jwst_miri_apcorr_0001.asdf"))
    PLACES[f"beside exposures {_what}"] = ("free", _beside(_make))
    PLACES[f"config is {_what}"] = ("free" if _what == "an empty file" else "refused", _config(_make))
for _what, _name in NAMES.items():
    PLACES[f"source has {_what}"] = ("refused", _source(_file, _name))
    PLACES[f"beside exposures {_what}"] = ("free", _beside(_file, _name))
PLACES |= {
    "no such source": ("refused", _source(lambda p: None)),
    "a name too long": ("refused", _source(lambda p: None, "x" * 300 + "_rate.fits")),
    "a name with NUL": ("refused", _source(lambda p: None, "x\0y_rate.fits")),
    "out is a file": ("refused", _out(_file)),
    "out is below a file": ("refused", _out(_file, "out/deeper/still")),
    "out is a FIFO": ("refused", _out(os.mkfifo)),
    "out is a dangling link below a file": ("refused", _out(lambda p: p.symlink_to(p.parent / "jw02732-o004_spec3_00001_asn.json/x"))),
    "a stage of out is a file": ("refused", _out(lambda p: (p.mkdir(), (p / "stage2").write_text("x")))),
    "out in /proc": ("refused", _out(lambda p: p.symlink_to("/proc"))),
    "out with a name too long": ("refused", _out(lambda p: None, "x" * 300)),
    "out with NUL": ("refused", _out(lambda p: None, "x\0y")),
}  # fmt: skip
