"""All inputs of the fuzz test, by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bases
import fitsbytes as fb
import mutations as m
from mutations import Case
from places import PLACES

IMAGES = {"uncal": ["SCI"], "ramp": ["SCI", "PIXELDQ", "GROUPDQ"], "s3d": ["SCI", "ERR", "DQ", "WMAP"]}
SLOPES = ["SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE"]


def all_cases(folder: Path) -> dict[str, Case]:
    """Return every input for the bases in a folder."""
    return {case.name: case for case in _all(folder)}


def _all(folder: Path) -> Iterator[Case]:
    for place in sorted(folder.iterdir()):
        group, _, what = place.name.partition("_")
        if group in ("jwst", "own"):
            yield from _fits(place.name, what, bases.one_file(place).read_bytes())
        if group == "own":
            yield from _meta(place.name, bases.one_file(place))
        if group in ("nc", "zarr"):
            yield from _whole(place.name, group)
        if group in ("ref", "stpsf"):
            yield from _reference(place.name, bases.one_file(place))
    for name, text in m.TOML.items():
        yield Case(f"toml: {name}", "toml", "", "free", text)
    for name, change in m.associations().items():
        yield Case(f"asn: {name}", "association", "", "free", change)
    for name, (expect, change) in PLACES.items():
        yield Case(f"place: {name}", "place", "", expect, change)


def _fits(base: str, what: str, content: bytes) -> Iterator[Case]:
    names = [part.name for part in fb.parts(content)]
    main = "EXTRACT1D" if what == "x1d" else "SCI" if "SCI" in names else names[1]
    tables = [*m.byte_damages(), *m.layout_damages(names), *m.header_noise(15)]
    if what not in ("lines", "x1d"):
        tables += m.scale_damages([n for n in IMAGES.get(what, SLOPES) if n in names])
    if what in bases.DETECTOR or what == "crf":
        tables += m.wrong_keywords(base, main)
    if base in ("jwst_rate", "jwst_s3d", "jwst_x1d", "own_cal", "own_s3d", "own_lines"):
        tables += m.keyword_damages(main)
    if base.startswith("own"):
        tables += m.edits()
    for name, expect, change in tables:
        yield Case(f"{base}: {name}", "fits", base, expect, change)


def _meta(base: str, path: Path) -> Iterator[Case]:
    from worker import read_meta

    places = list(_places(read_meta(path)))
    for name, expect, change in m.meta_damages(places):
        yield Case(f"{base}: {name}", "meta", base, expect, change)


def _places(meta: Any, path: tuple[str, ...] = (), depth: int = 4) -> Iterator[tuple[str, ...]]:
    """Yield places in the JSON: all keys at the top, below some of each."""
    if not isinstance(meta, dict) or not depth or "datatype" in meta:
        return
    keys = [key for key in meta if key not in ("history", "asdf_library")]
    for key in keys if not path or path[0] in ("attrs", "dither") else [*keys[:2], *keys[-1:]]:
        yield (*path, key)
        yield from _places(meta[key], (*path, key), depth - 1)


def _whole(base: str, group: str) -> Iterator[Case]:
    from worker import STORE, WHOLE

    if group == "nc":
        for name, expect, change in m.whole_damages():
            yield Case(f"{base}: {name}", "bytes", base, expect, change)
    for name, (expect, change) in (WHOLE | (STORE if group == "zarr" else {})).items():
        yield Case(f"{base}: {name}", group, base, expect, change)


def _reference(base: str, path: Path) -> Iterator[Case]:
    if path.suffix == ".asdf":
        from worker import read_tree

        tables = list(m.whole_damages())
        for name, expect, change in tables:
            yield Case(f"{base}: {name}", "reference", base, expect, change)
        for place in _places(read_tree(path), depth=3):
            for value in (..., None, 5, "x", [], {}, [1.0, 2.0]):
                told = "dropped" if value is ... else f"= {value!r}"
                yield Case(f"{base}: {'.'.join(map(str, place))} {told}", "tree", base, "free",
                           lambda tree, p=place, v=value: m.put(tree, p, v))  # fmt: skip
        return
    names = [part.name for part in fb.parts(path.read_bytes())]
    for name, expect, change in (*m.byte_damages(), *m.layout_damages(names), *m.header_noise(10)):
        # optional planes may be absent; what is behind the images of STPSF is not read
        expect = "free" if expect == "same" or "cut at" in name or name.endswith("DET_DIST") else expect
        yield Case(f"{base}: {name}", base.partition("_")[0].replace("ref", "reference"), base, expect, change)
