"""gWCS documents as text, in the terms of ASDF 1.5 and gwcs 1.2, which every later version reads.

So they are written without gwcs, asdf and the models of astropy, which take two seconds to load and to fill. A
transform is its text; names of inputs and outputs are left out where readers find them by themselves.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.io import fits

from ._meta import plain_table

HEAD = "#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- !core/asdf-1.1.0\n"
END = "...\n"
_VERSIONS = {"constant": "1.4.0", "remap_axes": "1.3.0", "affine": "1.3.0", "rotate3d": "1.3.0",
             "rotate_sequence_3d": "1.0.0"}  # fmt: skip


def extension(document: bytes) -> fits.BinTableHDU:
    """Return the extension ASDF of a FITS file that holds a document."""
    return plain_table("ASDF", {"ASDF_METADATA": np.frombuffer(document, dtype=np.uint8)[None, :]})


def text(value: Any) -> str:
    """Return a value as YAML: a number, a list, a mapping; a str stands for itself."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {text(one)}' for key, one in value.items())}}}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(text, value))}]"
    if isinstance(value, int | np.integer):
        return str(int(value))
    number = repr(float(value))
    if number in ("nan", "inf", "-inf"):
        return number.replace("nan", ".nan").replace("inf", ".inf")
    return number if "." in number else number.replace("e", ".0e")  # YAML 1.1 takes no float without a point


def tagged(tag: str, **values: Any) -> str:
    """Return an object of a tag of gwcs or others, in full."""
    return f"!<tag:{tag}> {text(values)}"


def ordered(**values: Any) -> str:
    """Return a mapping as gwcs writes it: one without a tag the schemas of some versions of asdf do not take."""
    return f"!!omap {text([f'!!omap {text({key: value})}' for key, value in values.items()])}"


def transform(kind: str, **values: Any) -> str:
    """Return a transform of ASDF."""
    return f"!transform/{kind}-{_VERSIONS.get(kind, '1.2.0')} {text(values)}"


def then(*parts: str, **values: Any) -> str:
    """Return transforms one after another; ``values`` (a name, an inverse) belong to the whole."""
    return _joined("compose", parts, values)


def beside(*parts: str, **values: Any) -> str:
    """Return transforms of inputs that stand beside each other."""
    return _joined("concatenate", parts, values)


def _joined(kind: str, parts: Sequence[str], values: Mapping[str, Any]) -> str:
    out = parts[0]
    for k, part in enumerate(parts[1:], 2):
        out = transform(kind, forward=[out, part], **(values if k == len(parts) else {}))
    return out


def shift(offset: Any, **values: Any) -> str:
    """Return the transform x + offset."""
    return transform("shift", offset=offset, **values)


def scale(factor: Any, **values: Any) -> str:
    """Return the transform factor x."""
    return transform("scale", factor=factor, **values)


def constant(value: Any, name: str) -> str:
    """Return the transform to a constant."""
    return transform("constant", dimensions=1, name=name, value=value)


def identity(count: int = 1, **values: Any) -> str:
    """Return the transform that does nothing to some inputs."""
    return transform("identity", **({} if count == 1 else {"n_dims": count}), **values)


def remap(*axes: int, count: int | None = None) -> str:
    """Return the transform that hands on some of its ``count`` inputs, from 0, in this order."""
    return transform("remap_axes", mapping=axes, **({} if count is None else {"n_inputs": count}))


def polynomial(matrix: np.ndarray, name: str) -> str:
    """Return sum c[i, j] a^i b^j, of the lowest degree that holds it."""
    rows, columns = np.nonzero(matrix)
    size = max(int((rows + columns).max()), 1) + 1 if rows.size else 2
    square = np.zeros((size, size))
    square[rows, columns] = matrix[rows, columns]
    return transform("polynomial", coefficients=array(square), name=f"'{name}'")


def array(values: Any) -> str:
    """Return an array of floats."""
    found = np.asarray(values, dtype=float)
    return f"!core/ndarray-1.0.0 {text({'data': found.tolist(), 'datatype': 'float64', 'shape': found.shape})}"


def block(number: int, values: np.ndarray) -> tuple[str, bytes]:
    """Return an array of int16, and the block of the document, compressed, that holds it; blocks count from 0."""
    data = zlib.compress(values.astype("<i2").tobytes())
    sizes = len(data), len(data), 2 * values.size
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    header = struct.pack(">I4sQQQ16s", 0, b"zlib", *sizes, digest)
    facts = {"source": number, "datatype": "int16", "byteorder": "little", "shape": values.shape}
    return f"!core/ndarray-1.0.0 {text(facts)}", b"\xd3BLK" + struct.pack(">H", len(header)) + header + data
