"""ASDF files: reference files and what they hold, read without the asdf package.

That package takes a second for its extensions, turns trees into objects by tables that all threads share, without a
lock, and finds files by plugins of whatever is installed. What is read here is plain Python: mappings, lists, numbers,
texts, arrays in memory, and :class:`Model` where a tree holds a transform.
"""

from __future__ import annotations

import bz2
import re
import struct
import threading
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mrsxr.errors import InputFileError

#: Held by whoever uses the asdf package.
LOCK = threading.RLock()
Stamp = tuple[int, int]
_BLOCK = b"\xd3BLK"
_TAGS = "tag:stsci.edu:asdf/"


def stamp_of(path: Path) -> Stamp:
    """Return what changes with the content of a file: time of the last change and size."""
    try:
        found = path.stat()
    except OSError as error:
        found_none = isinstance(error, FileNotFoundError)
        said = "no such file" if found_none else f"cannot be read ({error.strerror})"
        raise InputFileError(f"{path}: {said}; check the path") from error
    return found.st_mtime_ns, found.st_size


def read_asdf_meta(path: Path) -> Mapping[str, Any]:
    """Return ``meta`` of an ASDF file as plain Python, without its models and arrays; read once a file.

    Raises
    ------
    InputFileError
        Where the file is damaged or has no such branch.
    """
    return _meta(path, stamp_of(path))


@lru_cache(maxsize=256)
def _meta(path: Path, _stamp: Stamp) -> Mapping[str, Any]:
    try:
        meta = _branch(path, "meta")
    except Exception as error:  # the YAML parser has errors of its own
        raise _unreadable(path, error) from error
    if not isinstance(meta, Mapping):
        raise InputFileError(f"{path}: 'meta' of the ASDF file is no table of facts; get the file anew")
    return meta


def _branch(path: Path, name: str) -> Any:
    """Return a branch of the tree as plain Python: the lines of it alone are parsed, all where it refers to others."""
    import yaml

    with open(path, "rb") as file:
        text, end, _ = file.read().partition(b"\n...")
    if not (text.startswith(b"#ASDF") and end):
        raise InputFileError("no header of an ASDF file")
    found = re.search(rb"(?m)^" + name.encode() + rb":.*\n(?:[ -].*\n|\n)*", text + b"\n")
    head = text[: text.index(b"\n---") + 1] if b"\n---" in text else b""
    with suppress(yaml.YAMLError):
        if found is not None:
            return yaml.load(head + b"---\n" + found[0], Loader=_plain_loader())[name]
    return yaml.load(text, Loader=_plain_loader())[name]


@cache
def _plain_loader() -> Any:
    """Return a loader of YAML that makes plain Python, arrays (where it has blocks) and models of what has a tag."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        pass

    def plain(loader: Any, node: Any) -> Any:
        if isinstance(node, yaml.MappingNode):
            return loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node, deep=True)
        return loader.construct_scalar(node)

    def tagged(loader: Any, tag: str, node: Any) -> Any:
        kind = tag.rpartition("-")[0]
        if kind == "core/ndarray" and hasattr(loader, "blocks"):
            return _array(loader, node)
        found = plain(loader, node)
        if kind.startswith("transform/") and isinstance(found, Mapping):
            return Model(kind.removeprefix("transform/"), found)
        return found["value"] if kind == "unit/quantity" and isinstance(found, Mapping) else found

    Loader.add_multi_constructor(_TAGS, tagged)
    Loader.add_constructor(None, plain)
    return Loader


@dataclass(frozen=True)
class Model:
    """A transform of a tree: its ``kind`` ("polynomial", "compose" ...) and what stands under it."""

    kind: str
    facts: Mapping[str, Any]

    @property
    def parts(self) -> list[Model]:
        """The transforms of which it is composed, in their order; itself where it is simple."""
        if self.kind not in ("compose", "concatenate"):
            return [self]
        return [part for one in self.facts["forward"] for part in one.parts]


def read_asdf(path: Path) -> Mapping[str, Any]:
    """Return the tree of an ASDF file with its arrays in memory.

    Raises
    ------
    InputFileError
        Where the file is missing or damaged.
    """
    import yaml

    stamp_of(path)
    try:
        text, blocks = _split(path.read_bytes())
        loader = _plain_loader()(text)
        try:
            loader.blocks = blocks
            tree = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, InputFileError, ArithmeticError, LookupError, OSError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(tree, Mapping):
        raise InputFileError(f"{path}: the tree of the ASDF file is no mapping; get the file anew")
    return tree


def _split(content: bytes) -> tuple[bytes, list[memoryview]]:
    """Return the tree as text, and the blocks as they lie in the file, compressed or not."""
    end = re.search(rb"(?m)^\.\.\.\r?\n?", content)
    if not content.startswith(b"#ASDF") or end is None:
        raise InputFileError("no header of an ASDF file")
    blocks, place, whole = [], content.find(_BLOCK, end.end()), memoryview(content)
    while place >= 0 and content[place : place + 4] == _BLOCK:
        (size,) = struct.unpack_from(">H", content, place + 4)
        flags, compression, allocated, used, _ = struct.unpack_from(">I4sQQQ", content, place + 6)
        start = place + 6 + size
        stop = len(content) if flags & 1 else start + used  # 1: the last block, as long as it is
        if stop > len(content):
            raise InputFileError("a block of the ASDF file is cut off")
        blocks.append(_uncompressed(whole[start:stop], compression))
        place = len(content) if flags & 1 else start + allocated
    return content[: end.start()], blocks


def _uncompressed(block: memoryview, compression: bytes) -> memoryview:
    if compression == b"\0" * 4:
        return block
    if compression == b"zlib":
        return memoryview(zlib.decompress(block))
    if compression == b"bzp2":
        return memoryview(bz2.decompress(block))
    raise InputFileError(f"a block is compressed by {compression.decode('ascii', 'replace')}; expected zlib or bzp2")


def _dtype(told: Any, byteorder: str) -> np.dtype:
    """Return the type of an array, of a table column by column."""
    if isinstance(told, str):
        name = {"bool8": "bool"}.get(told, told)
        return np.dtype(name).newbyteorder(">" if byteorder == "big" else "<")
    if isinstance(told[0], str):
        return np.dtype(f"{'S' if told[0] == 'ascii' else '<U' if byteorder != 'big' else '>U'}{told[1]}")
    fields = []
    for number, one in enumerate(told):
        one = one if isinstance(one, Mapping) else {"datatype": one}
        kind = _dtype(one["datatype"], one.get("byteorder", byteorder))
        fields.append((one.get("name", f"f{number}"), kind, tuple(one.get("shape", ()))))
    return np.dtype(fields)


def _array(loader: Any, node: Any) -> np.ndarray:
    """Return an array, from its block or as it stands in the tree."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return np.asarray(loader.construct_sequence(node, deep=True))
    facts = loader.construct_mapping(node, deep=True)
    if "data" in facts:
        kind = _dtype(facts["datatype"], "little").newbyteorder("=") if isinstance(facts.get("datatype"), str) else None
        return np.asarray(facts["data"], dtype=kind)
    kind = _dtype(facts["datatype"], facts.get("byteorder", "little"))
    if not isinstance(facts["source"], int) or "mask" in facts:
        raise InputFileError("an array lies in another file or has a mask; expected it whole in this one")
    block, shape = loader.blocks[facts["source"]], tuple(facts["shape"])
    if "*" in shape:
        raise InputFileError("an array is a stream; expected it whole")
    found: np.ndarray = np.ndarray(shape, kind, block, facts.get("offset", 0), facts.get("strides"))
    return found.astype(kind.newbyteorder("="))


def _unreadable(path: Path, error: Exception) -> InputFileError:
    said = " ".join(str(error).split())[:120]
    return InputFileError(f"{path}: no readable ASDF file with a 'meta' tree ({type(error).__name__}: {said})")
