"""ASDF files are read as the asdf package reads them, in every form in which arrays and models lie there."""

from __future__ import annotations

import re
import subprocess
import sys

import asdf
import numpy as np
import pytest
from astropy import units as u
from astropy.modeling import models

from mrsxr.errors import InputFileError
from mrsxr.io.asdffile import read_asdf, read_asdf_meta

TABLE = np.array([("short", 3, [0.5, 1.5]), ("médium", -2, [2.5, np.nan])], dtype="U8, >i2, (2,)f4")


def tree():
    rng = np.random.default_rng(8)
    compound = (models.Identity(1) & models.Shift(-3.5)) | models.Polynomial2D(2, c0_0=1.0, c1_1=-2.0, c0_2=0.25)
    compound.inverse = models.Mapping((1, 0)) | models.Const1D(4.5) & models.Shift(2 * u.um)
    return {
        "meta": {"reftype": "made", "instrument": {"band": "LONG"}},
        "image": rng.integers(-9, 9, (5, 7)).astype(">i2"), "cube": rng.normal(size=(2, 3, 4)), "table": TABLE,
        "names": np.array([b"1A", b"4C"]), "switch": np.array([True, False]), "length": 2.5 * u.um,
        "model": compound, "list": [1, 2.5, "three", None],
    }  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"all_array_compression": "zlib"}, {"all_array_compression": "bzp2"},
                                     {"all_array_storage": "inline"}])  # fmt: skip
def test_trees_are_those_of_the_asdf_package(tmp_path, options):
    path, given = tmp_path / "made.asdf", tree()
    if options.get("all_array_storage") == "inline":
        del given["table"], given["names"]  # the package itself does not write them so
    asdf.AsdfFile(given).write_to(path, **options)
    found = read_asdf(path)
    for name in set(given) & {"image", "cube", "names", "switch"}:
        np.testing.assert_array_equal(found[name], given[name])
        assert found[name].dtype.kind == given[name].dtype.kind
        assert found[name].dtype.isnative
    for name in TABLE.dtype.names if "table" in given else ():
        np.testing.assert_array_equal(found["table"][name], TABLE[name])
    assert float(found["length"]) == 2.5
    assert (found["list"], found["meta"]) == (given["list"], given["meta"])
    assert read_asdf_meta(path) == given["meta"]
    model = found["model"]
    assert [part.kind for part in model.parts] == ["identity", "shift", "polynomial"]
    assert model.parts[1].facts["offset"] == -3.5
    np.testing.assert_array_equal(model.parts[2].facts["coefficients"], [[1, 0, 0.25], [0, -2, 0], [0, 0, 0]])
    back = model.facts["inverse"].parts
    assert [part.kind for part in back] == ["remap_axes", "constant", "shift"]
    assert (back[0].facts["mapping"], back[1].facts["value"], back[2].facts["offset"]) == ([1, 0], 4.5, 2.0)


def test_meta_that_refers_to_another_branch_is_whole(tmp_path):
    path, names = tmp_path / "made.asdf", ["1A", "2A"]
    asdf.AsdfFile({"bands": names, "meta": {"bands": names, "n": 2}}).write_to(path)
    assert b"*id" in path.read_bytes()
    assert read_asdf_meta(path) == {"bands": names, "n": 2}


def test_a_part_of_a_block_is_an_array(tmp_path):
    path, cube = tmp_path / "made.asdf", np.arange(24.0).reshape(2, 3, 4)
    asdf.AsdfFile({"meta": {}, "cube": cube}).write_to(path)
    whole, part = path.read_bytes(), b"{source: 0, datatype: float64, byteorder: little, shape: [2, 2, 3], "
    part = rb"!core/ndarray\1 " + part + rb"strides: [96, 64, 8], offset: 8}\n"
    text = re.sub(rb"!core/ndarray(-[\d.]+)\n(?:  .*\n)+", part, whole)
    path.write_bytes(re.sub(rb"(?s)#ASDF BLOCK INDEX.*", b"", text))
    np.testing.assert_array_equal(read_asdf(path)["cube"], cube[:, ::2, 1:])
    with asdf.open(path) as same:
        np.testing.assert_array_equal(same["cube"], cube[:, ::2, 1:])


def test_what_is_cut_off_or_lies_elsewhere_is_an_error_in_a_line(tmp_path):
    path = tmp_path / "made.asdf"
    asdf.AsdfFile({"meta": {}, "cube": np.arange(900.0)}).write_to(path)
    whole = path.read_bytes()
    for damaged in (whole[:-1000], whole[:300], whole.replace(b"source: 0", b"source: 7"),
                    whole.replace(b"source: 0", b"source: x"), b"SIMPLE  =  T"):  # fmt: skip
        path.write_bytes(damaged)
        with pytest.raises(InputFileError, match=r"made\.asdf: no readable ASDF file") as caught:
            read_asdf(path)
        assert "\n" not in str(caught.value)


def test_reading_needs_no_asdf_package(tmp_path):
    path = tmp_path / "made.asdf"
    asdf.AsdfFile(tree()).write_to(path)
    code = f"import sys, pathlib; from mrsxr.io.asdffile import read_asdf; read_asdf(pathlib.Path({str(path)!r})); "
    code += "sys.exit('asdf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
