# ruff: noqa: E501
"""The table of damages: what is done to a base file, and what must come of it.

``same``: refused, or the same numbers, or a note; ``refused``: refused; ``free``: anything but an exception, a hang or a
file outside the folder (the damage makes another valid file, or cannot be told).
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import fitsbytes as fb

Change = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Case:
    """One input: a damage of a base, and what must come of it."""

    name: str
    kind: str  # how it is run, see worker
    base: str
    expect: str
    change: Any = field(repr=False)
    suffix: str = ""  # of the file, where it is not that of the base


# --- FITS: bytes ---


def byte_damages() -> Iterator[tuple[str, str, Change]]:
    """Damages of any FITS file that need no knowledge of it."""
    for n in (0, 1, 80, 2879, 2880, 2881):
        yield f"first {n} bytes", "refused", lambda b, n=n: b[:n]
    for share in (0.2, 0.5, 0.8, 0.95, 0.999):
        yield f"cut at {share}", "refused" if share < 0.9 else "same", lambda b, s=share: b[: int(len(b) * s) - 1]
    yield "one byte short", "same", lambda b: b[:-1]
    yield "one block short", "same", lambda b: b[:-2880]
    yield "junk behind", "same", lambda b: b + b"\x5a" * 5000
    yield "zeros behind", "same", lambda b: b + b"\0" * 28800
    yield "text behind", "same", lambda b: b + b"XTENSION but not really"
    yield "a page of HTML", "refused", lambda b: b"<html><body>404 not found</body></html>" * 100
    yield "JSON", "refused", lambda b: json.dumps({"a": [1] * 3000}).encode()
    yield "random bytes", "refused", lambda b: random.Random(1).randbytes(20000)
    yield "SIMPLE and random bytes", "refused", lambda b: b[:80] + random.Random(1).randbytes(20000)
    yield "zeros", "refused", lambda b: bytes(len(b))
    yield "line ends of Windows", "refused", lambda b: b.replace(b"  ", b"\r\n", 400)
    yield "compressed", "same", gzip.compress
    yield "compressed and cut", "refused", lambda b: gzip.compress(b)[: len(b) // 20]
    yield "compressed and cut at the end", "refused", lambda b: gzip.compress(b)[:-4]
    yield "compressed with a wrong byte", "refused", lambda b: _flip(gzip.compress(b), 0.6)
    yield "compressed of a cut file", "refused", lambda b: gzip.compress(b[: len(b) // 2 - 1])


def _flip(content: bytes, share: float) -> bytes:
    place = int(len(content) * share)
    return fb.overwrite(content, place, bytes([content[place] ^ 0xFF]))


def header_noise(count: int) -> Iterator[tuple[str, str, Change]]:
    """Random damages of headers: a bit, a byte, a card."""

    def noise(content: bytes, seed: int) -> bytes:
        rng = random.Random(seed)
        part = rng.choice(fb.parts(content))
        for _ in range(rng.choice([1, 1, 3, 20])):
            place = rng.randrange(part.start, part.data)
            how = rng.random()
            if how < 0.4:
                new = bytes([content[place] ^ (1 << rng.randrange(8))])
            elif how < 0.7:
                new = bytes([rng.randrange(256)])
            elif how < 0.85:
                place -= place % 80
                new = bytes(rng.choice(b"'=0123456789.-TFE / ABC") for _ in range(80))
            else:
                place -= place % 80
                new = b" " * 80
            content = fb.overwrite(content, place, new)
        return content

    for seed in range(count):
        yield f"noise {seed}", "free", lambda b, s=seed: noise(b, s)


def layout_damages(names: list[str]) -> Iterator[tuple[str, str, Change]]:
    """Damages of the structure of a file with these HDUs."""
    last = len(names) - 1
    for number, name in enumerate(names):
        yield f"cut in header of {name}", "refused", lambda b, k=number: b[: fb.find(b, k).start + 1000]
        yield f"cut behind header of {name}", "same", lambda b, k=number: b[: fb.find(b, k).data]
        yield f"no END in {name}", "refused", lambda b, k=number: _no_end(b, k)
        yield (
            f"zeros in header of {name}",
            "refused",
            lambda b, k=number: fb.overwrite(b, fb.find(b, k).start, bytes(2880)),
        )
        if number:
            optional = "free" if name == "REFOUT" else "same"  # no step reads it
            yield f"cut before {name}", optional, lambda b, k=number: b[: fb.find(b, k).start]
            yield f"without {name}", optional, lambda b, k=number: fb.drop_hdu(b, k)
            yield f"twice {name}", "same", lambda b, k=number: fb.twice(b, k)
            yield f"{name} without name", optional, lambda b, k=number: fb.drop_card(b, k, "EXTNAME")
            yield f"{name} renamed", optional, lambda b, k=number: fb.set_card(b, k, "EXTNAME", "'OTHER   '")
            yield f"{name} with a number for a name", optional, lambda b, k=number: fb.set_card(b, k, "EXTNAME", "5")
            yield f"no XTENSION in {name}", "refused", lambda b, k=number: fb.drop_card(b, k, "XTENSION")
        for key, raw in (
            ("NAXIS", "-1"), ("NAXIS", "999"), ("NAXIS", "1000000000"), ("NAXIS", "'x'"), ("NAXIS", "2.5"), ("NAXIS", ""),
            ("BITPIX", "7"), ("BITPIX", "0"), ("BITPIX", "'x'"), ("BITPIX", "-64000"),
        ):  # fmt: skip
            yield f"{name} {key} = {raw}", "refused", lambda b, k=number, c=(key, raw): fb.set_card(b, k, *c)
        if number:
            for key, raw in (
                ("NAXIS1", "-1"), ("NAXIS1", "-2147483648"), ("NAXIS1", "999999999"), ("NAXIS1", "99999999999999999999"),
                ("NAXIS2", "-7"), ("NAXIS1", "'x'"), ("NAXIS1", "1E3"), ("NAXIS1", "T"), ("PCOUNT", "-5"),
                ("PCOUNT", "1000000000000"), ("GCOUNT", "-1"), ("GCOUNT", "1000000"),
            ):  # fmt: skip
                yield f"{name} {key} = {raw}", "refused", lambda b, k=number, c=(key, raw): fb.set_card(b, k, *c)
            yield f"{name} NAXIS1 = 0", "same", lambda b, k=number: fb.set_card(b, k, "NAXIS1", "0")
    yield "last HDUs exchanged", "same", lambda b: _exchange(b, last - 1, last)


def _no_end(content: bytes, number: int) -> bytes:
    part = fb.find(content, number)
    place = content.index(b"END" + b" " * 77, part.start, part.data)
    return fb.overwrite(content, place, b"COMMENT ")


def _exchange(content: bytes, one: int, other: int) -> bytes:
    a, b = fb.find(content, one), fb.find(content, other)
    return (
        content[: a.start]
        + content[b.start : b.end]
        + content[a.end : b.start]
        + content[a.start : a.end]
        + content[b.end :]
    )


#: Cards of images that change what the numbers mean.
SCALES = {
    "BSCALE": ("0.0", "NaN", "'x'", "1E400", "T"), "BZERO": ("NaN", "'x'", "Infinity", "1E400"), "BLANK": ("0", "'x'"),
}  # fmt: skip


def scale_damages(images: list[str]) -> Iterator[tuple[str, str, Change]]:
    for name in images:
        for key, values in SCALES.items():
            for raw in values:
                yield f"{name} {key} = {raw}", "same", lambda b, n=name, c=(key, raw): fb.set_card(b, n, *c)
    yield "SCI BUNIT = Jy", "refused", lambda b: fb.set_card(b, "SCI", "BUNIT", "'Jy      '")
    yield "SCI BUNIT = 5", "refused", lambda b: fb.set_card(b, "SCI", "BUNIT", "5")


# --- keywords ---

#: What a header may hold in the place of a value.
ODD = (
    "'abc     '",
    "NaN",
    "1E300",
    "-1",
    "0",
    "T",
    "''",
    "",
    "2,77",
    "(1, 2)",
    "'../../x '",
    "1E400",
    "99999999999999999999",
)
NUMBERS = {
    "PRIMARY": ("NGROUPS", "NINTS", "TGROUP", "TFRAME", "EFFEXPTM", "EXPSTART", "EXPMID", "EXPEND", "PATT_NUM", "NUMDTHPT",
                "SUBSTRT1", "SUBSIZE1", "TARG_RA", "TARG_DEC"),
    "SCI": ("RA_REF", "DEC_REF", "ROLL_REF", "V2_REF", "V3_REF", "VA_SCALE", "VELOSYS"),
}  # fmt: skip
TEXTS = ("DETECTOR", "BAND", "CHANNEL", "READPATT", "SUBARRAY", "EXP_TYPE", "INSTRUME", "PROGRAM", "OBSERVTN", "TARGNAME",
         "BKGDTARG", "DATE-OBS", "TIME-OBS", "FILENAME", "DATAMODL", "CAL_VER", "EXPOSURE", "VISIT")  # fmt: skip
#: Contradictions and values that cannot be: these are refused.
WRONG = (
    ("PRIMARY", "CHANNEL", "'34      '"), ("PRIMARY", "CHANNEL", "'3       '"), ("PRIMARY", "BAND", "'MULTIPLE'"),
    ("PRIMARY", "BAND", "'short   '"), ("PRIMARY", "DETECTOR", "'MIRIMAGE'"), ("PRIMARY", "DETECTOR", "'NRS1    '"),
    ("PRIMARY", "EXP_TYPE", "'MIR_IMAGE'"), ("PRIMARY", "INSTRUME", "'NIRSPEC '"), ("PRIMARY", "NGROUPS", "0"),
    ("PRIMARY", "NGROUPS", "-5"), ("PRIMARY", "NGROUPS", "2.5"), ("PRIMARY", "NINTS", "0"), ("PRIMARY", "NINTS", "-1"),
    ("PRIMARY", "NINTS", "1000000000"), ("PRIMARY", "TGROUP", "1E300"), ("PRIMARY", "TGROUP", "0.0"),
    ("PRIMARY", "TGROUP", "-2.775"), ("PRIMARY", "TGROUP", "NaN"), ("PRIMARY", "TGROUP", "'2.775  '"),
    ("PRIMARY", "TFRAME", "-1.0"), ("PRIMARY", "TFRAME", "1E300"), ("PRIMARY", "EFFEXPTM", "-3.0"),
    ("PRIMARY", "EFFEXPTM", "1E300"), ("PRIMARY", "EXPSTART", "1E300"), ("PRIMARY", "EXPSTART", "-59764.1"),
    ("PRIMARY", "EXPMID", "1E9"), ("SCI", "RA_REF", "720.5"), ("SCI", "RA_REF", "1E300"), ("SCI", "DEC_REF", "95.0"),
    ("SCI", "DEC_REF", "-1E5"), ("SCI", "ROLL_REF", "1E9"), ("SCI", "V2_REF", "1E7"), ("SCI", "V3_REF", "1E300"),
    ("SCI", "VA_SCALE", "0.0"), ("SCI", "VA_SCALE", "2.0"), ("SCI", "VELOSYS", "3.1E8"), ("PRIMARY", "READPATT", "5"),
    ("PRIMARY", "SUBARRAY", "T"), ("PRIMARY", "TARG_DEC", "123.0"), ("PRIMARY", "DATE-OBS", "'yesterday'"),
)  # fmt: skip
#: Further ones where the data tell: of ramps, and of slopes of integrations.
WRONG_RAMP = (("PRIMARY", "NGROUPS", "4"), ("PRIMARY", "NINTS", "3"), ("PRIMARY", "NGROUPS", "50"))
WRONG_INTS = (("PRIMARY", "NINTS", "3"), ("PRIMARY", "NINTS", "1"))
#: Edits of one of our own files: they count, or are refused; that what is asked says which value the file then has.
EDITED = (
    ("PRIMARY", "BAND", "'LONG    '"), ("PRIMARY", "DETECTOR", "'MIRIFULONG'"), ("PRIMARY", "READPATT", "'SLOWR1  '"),
    ("PRIMARY", "SUBARRAY", "'SUB64   '"), ("PRIMARY", "TGROUP", "23.89"), ("PRIMARY", "NGROUPS", "7"),
    ("PRIMARY", "NINTS", "9"), ("PRIMARY", "TARGNAME", "'OTHER   '"), ("PRIMARY", "PROGRAM", "'01234   '"),
    ("PRIMARY", "BKGDTARG", "T"), ("PRIMARY", "CHANNEL", "'4       '"), ("PRIMARY", "TARG_RA", "12.5"),
)  # fmt: skip
ATTR_OF = {
    "BAND": "band", "DETECTOR": "detector", "READPATT": "readpatt", "SUBARRAY": "subarray", "TGROUP": "group_time",
    "NGROUPS": "n_groups", "NINTS": "n_integrations", "TARGNAME": "target", "PROGRAM": "program", "BKGDTARG": "background",
    "CHANNEL": "channels", "TARG_RA": "target_ra",
}  # fmt: skip


def keyword_damages(main: str) -> Iterator[tuple[str, str, Change]]:
    for where, keys in (*NUMBERS.items(), ("PRIMARY", TEXTS)):
        hdu = 0 if where == "PRIMARY" else main
        for key in keys:
            yield f"{key} dropped", "free", lambda b, h=hdu, k=key: fb.drop_card(b, h, k)
            for raw in ODD:
                yield f"{key} = {raw}", "free", lambda b, h=hdu, c=(key, raw): fb.set_card(b, h, *c)


def wrong_keywords(base: str, main: str) -> Iterator[tuple[str, str, Change]]:
    more = WRONG_RAMP if base.split("_")[1] in ("uncal", "ramp") else WRONG_INTS if "rateints" in base else ()
    for where, key, raw in (*WRONG, *more):
        hdu = 0 if where == "PRIMARY" else main
        yield f"{key} is {raw}", "refused", lambda b, h=hdu, c=(key, raw): fb.set_card(b, h, *c)


def edits() -> Iterator[tuple[str, str, Change]]:
    for _, key, raw in EDITED:
        value: Any = raw.strip("' ")
        value = (
            1
            if raw == "T"
            else float(raw)
            if key in ("TGROUP", "TARG_RA")
            else int(raw)
            if key in ("NGROUPS", "NINTS")
            else value
        )
        yield f"{key} edited", f"attr {ATTR_OF[key]} {json.dumps(value)}", lambda b, c=(key, raw): fb.set_card(b, 0, *c)


# --- META of our own files ---

META_VALUES = (None, 5, "x", "../../../x", [], {}, True, [None], {"a": None}, 1e308, "\u0000", ["x"] * 3)


def meta_damages(paths: list[tuple[str, ...]]) -> Iterator[tuple[str, str, Callable[[Any], Any]]]:
    """Damages of the JSON in META: every place dropped, and filled with something else."""
    yield "META is no JSON", "refused", lambda meta: "{not json"
    yield "META is empty", "refused", lambda meta: ""
    yield "META is a list", "refused", lambda meta: []
    yield "META is a number", "refused", lambda meta: 5
    yield "META is deep", "refused", lambda meta: "[" * 100_000
    yield "META is {}", "refused", lambda meta: {}
    for path in paths:
        place = ".".join(path)
        yield f"{place} dropped", "free", lambda meta, p=path: put(meta, p, ...)
        for value in META_VALUES:
            yield f"{place} = {json.dumps(value)[:20]}", "free", lambda meta, p=path, v=value: put(meta, p, v)


def put(meta: Any, path: tuple[str, ...], value: Any) -> Any:
    inner = meta
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        inner.pop(path[-1])
    else:
        inner[path[-1]] = value
    return meta


# --- netCDF, zarr, ASDF: bytes ---


def whole_damages() -> Iterator[tuple[str, str, Change]]:
    for share in (0.0, 0.01, 0.2, 0.5, 0.9, 0.99):
        yield f"cut at {share}", "refused", lambda b, s=share: b[: int(len(b) * s)]
    yield "a page of HTML", "refused", lambda b: b"<html>404</html>" * 100
    yield "zeros", "refused", lambda b: bytes(len(b))

    def noise(content: bytes, seed: int) -> bytes:
        rng = random.Random(seed)
        for _ in range(rng.choice([1, 5, 50])):
            content = fb.overwrite(content, rng.randrange(len(content)), bytes([rng.randrange(256)]))
        return content

    for seed in range(25):
        yield f"noise {seed}", "free", lambda b, s=seed: noise(b, s)


# --- TOML ---

TOML = {
    "rate is a number": b"rate = 1\n", "rate is a list": b"rate = [1, 2]\n", "rate is a list of tables": b"[[rate]]\na=1\n",
    "cal is a text": b'cal = "x"\n', "unknown table": b"[rates]\n", "unknown key": b"[rate]\nthresh = 4\n",
    "mode is a number": b"mode = 3\n", "mode is a list": b'mode = ["optimal"]\n', "mode is a table": b"[mode]\na = 1\n",
    "mode unknown": b'mode = "best"\n', "no TOML": b"<html>", "not UTF-8": b'mode = "\xff\xfe"\n',
    "UTF-16": 'mode = "optimal"\n'.encode("utf-16"), "NUL": b"\x00\x00\x00", "deep": b"a = " + b"[" * 100_000,
    "a date": b"[cube]\nspaxel_size = 2022-01-01\n", "nested": b"[rate.jump]\nthreshold = 4\n",
    "twice": b"[rate]\n[rate]\n", "long": b"[rate]\n" + b"a" * 1_000_000 + b" = 1\n", "NaN": b"[rate]\nrejection_threshold = nan\n",
    "infinite": b"[cube]\nspaxel_size = inf\n", "huge integer": b"[rate]\nrejection_threshold = " + b"9" * 5000 + b"\n",
    "text for a number": b'[rate]\nrejection_threshold = "4"\n', "list for a text": b'[rate]\njump = ["a"]\n',
    "table in a table": b"[cube]\ncenter = {a = 1}\n", "BOM": b"\xef\xbb\xbfmode = 'optimal'\n",
}  # fmt: skip

# --- associations: what stands in the place of the file ---


def associations() -> dict[str, Callable[[dict], Any]]:
    def member(**changes: Any) -> Callable[[dict], Any]:
        def change(content: dict) -> dict:
            content["products"][0]["members"][0].update(changes)
            return content

        return change

    def product(**changes: Any) -> Callable[[dict], Any]:
        def change(content: dict) -> dict:
            content["products"][0].update(changes)
            return content

        return change

    return {
        "is null": lambda c: None, "is a list": lambda c: [c], "is a number": lambda c: 5, "is a text": lambda c: "x",
        "without products": lambda c: {k: v for k, v in c.items() if k != "products"},
        "products null": lambda c: c | {"products": None}, "products a text": lambda c: c | {"products": "abc"},
        "products empty": lambda c: c | {"products": []}, "products of null": lambda c: c | {"products": [None]},
        "products a table": lambda c: c | {"products": {"a": 1}}, "members null": product(members=None),
        "members a text": product(members="abc"), "members empty": product(members=[]), "members of text": product(members=["a"]),
        "members of null": product(members=[None]), "product name null": product(name=None),
        "product name a list": product(name=["a", "b"]), "product name a table": product(name={"a": 1}),
        "product name outside": product(name="../../../../outside"), "product name absolute": product(name="/tmp/x/outside"),
        "product name odd": product(name="a\nb\x1b[31m/é\u202e" * 3), "product name long": product(name="x" * 5000),
        "expname null": member(expname=None), "expname a number": member(expname=5), "expname a list": member(expname=["a"]),
        "expname a table": member(expname={"a": 1}), "expname empty": member(expname=""), "expname a dot": member(expname="."),
        "expname outside": member(expname="../../../../etc/passwd"), "expname NUL": member(expname="a\0b"),
        "expname long": member(expname="x" * 5000), "expname a device": member(expname="/dev/zero"),
        "expname a folder": member(expname="/tmp"), "exptype null": member(exptype=None), "exptype a number": member(exptype=5),
        "exptype unknown": member(exptype="nonsense"), "exptype upper": member(exptype="SCIENCE"),
        "itself a member": member(expname="jw02732-o004_spec3_00001_asn.json"),
        "deep": lambda c: "[" * 100_000, "no JSON": lambda c: "{'a': 1}", "NaN": lambda c: c | {"asn_id": float("nan")},
    }  # fmt: skip
