"""Kernels are compiled once for all processes, and never stale. Toy kernel modules stand for those of the package."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from mrsxr import compiled

BASE = "from mrsxr.compiled import njit\n\n@njit()\ndef twice(x):\n    return {factor} * x\n"
USER = """
from mrsxr.compiled import njit

from ._base_kernels import twice

@njit()
def f(x):
    return twice(x) + 1

@njit()
def _checked(x):
    if x < 0:
        raise ValueError("below zero")
    return twice(x)

@njit()
def careful(x):
    return _checked(x)

@njit()
def put(values, out):
    out[1:3] = values

@njit()
def lower(values, limits):
    for k in range(values.shape[0]):
        for t in range(64):
            values[k, t] = limits[t] if limits[t] < values[k, t] else values[k, t]
"""

#: A part that LLVM takes in nowhere, one that it may take in and that calls it, and a kernel that calls both.
LARGE = (
    "from mrsxr.compiled import njit\n\n@njit()\ndef large(x):\n"
    + "".join(f"    if x > {k}:\n        x = x * 0.5 + {k} / (x + 1.0)\n" for k in range(60))
    + "    return x\n\n@njit()\ndef middle(x):\n    return large(x) + 1.0\n"
    + "\n@njit()\ndef outer(x):\n    return middle(x) - large(2.0 * x)\n"
)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A function that imports the toy modules as a new process would: what they give, and how many were compiled."""
    package = tmp_path / "toy"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(compiled.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def call(x=10.0, factor=2):
        (package / "_base_kernels.py").write_text(BASE.format(factor=factor))
        (package / "_user_kernels.py").write_text(USER)
        for name in [name for name in sys.modules if name.partition(".")[0] == "toy"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        for function in (compiled.cache_folder, compiled._digest, compiled._module_folder):
            function.cache_clear()
        compiled._compiled.clear()
        return importlib.import_module("toy._user_kernels").f(x), len(compiled.compiled_here())

    yield call
    for function in (compiled.cache_folder, compiled._digest, compiled._module_folder):
        function.cache_clear()


def test_a_second_process_compiles_nothing(toy, tmp_path):
    assert toy() == (21.0, 2)
    assert toy() == (21.0, 0)
    assert toy(x=3) == (7, 2)  # other types
    kept = sorted(p.name.rpartition("-")[0] for p in (tmp_path / "cache/mrsxr").rglob("*.nbc"))
    assert kept == ["f", "f", "twice", "twice"]


def test_a_part_of_another_kernel_is_called_by_itself(toy, tmp_path):
    """``twice`` is taken in by ``f``; Python's own call makes machine code of it, once, which others take in too."""
    assert toy() == (21.0, 2)
    twice = sys.modules["toy._base_kernels"].twice
    assert twice(10.0) == 20.0
    assert twice(np.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
    assert len(compiled.compiled_here()) == 3
    for file in (tmp_path / "cache").rglob("*.nbc"):
        if file.name.startswith("f-"):
            file.unlink()
    assert toy() == (21.0, 1)
    assert sys.modules["toy._base_kernels"].twice(10.0) == 20.0
    assert len(compiled.compiled_here()) == 1


def test_a_large_part_is_optimized_by_itself_alone(toy, tmp_path):
    """No other part holds it; whoever becomes machine code does, whether its parts were compiled here or loaded."""
    plain: dict = {}
    exec(LARGE.partition("\n")[2].replace("@njit()", ""), plain)
    for n_compiled in (3, 1):
        toy()
        (tmp_path / "toy/_big_kernels.py").write_text(LARGE)
        made, before = importlib.import_module("toy._big_kernels"), set(compiled.compiled_here())
        assert made.outer(70.0) == plain["outer"](70.0)
        assert len(set(compiled.compiled_here()) - before) == n_compiled
        functions = {}
        for kernel in (made.large, made.middle):
            (part,) = kernel.overloads.values()
            found = [f for f in part.library._final_module.functions if not f.is_declaration]
            functions[kernel] = [name for name in ("large", "middle") if any(name in f.name for f in found)]
        assert list(functions.values()) == [["large"], ["middle"]]
        for file in (tmp_path / "cache").rglob("outer-*.nbc"):
            file.unlink()
    assert made.middle(70.0) == plain["middle"](70.0)


def test_an_error_in_a_part_reaches_python(toy):
    for _ in range(2):  # compiled, loaded
        toy()
        careful = sys.modules["toy._user_kernels"].careful
        assert careful(2.0) == 4.0
        with pytest.raises(ValueError, match="below zero"):
            careful(-2.0)


def test_a_choice_in_place_is_no_masked_store(toy):
    """Such a store (LLVM 20, AVX) takes AMD's processors twenty cycles; what is chosen stays the same."""
    toy()
    lower = sys.modules["toy._user_kernels"].lower
    values, limits = np.random.default_rng(1).normal(size=(2, 3, 64)).astype(np.float32)
    values[1, :5] = np.nan, np.inf, -np.inf, 0.0, -0.0
    expected = np.where(limits[0] < values, limits[0], values)
    lower(values, limits[0].copy())
    np.testing.assert_array_equal(values.view(np.int32), expected.view(np.int32))
    (assembly,) = lower.inspect_asm().values()
    assert "maskmov" not in assembly


def test_an_operation_is_looked_for_once(toy, monkeypatch):
    """numba asks each way of adding at each place; what it found serves the same operation in another text."""
    asked, find = [], compiled._find_call_type
    monkeypatch.setattr(compiled, "_find_call_type", lambda *given: asked.append(given[2]) or find(*given))
    monkeypatch.setattr(compiled, "_call_types", {})
    assert toy(x=np.float32(3)) == (7, 2)
    assert len(asked) >= 2
    asked.clear()
    assert toy(x=np.float32(3), factor="1 * 2") == (7, 2)
    assert not asked


def test_an_edit_of_an_imported_module_is_seen(toy):
    assert toy() == (21.0, 2)
    assert toy(factor=3) == (31.0, 2)
    assert toy() == (21.0, 0)  # the code of the old text is still there


def test_code_that_was_cut_is_compiled_again(toy, tmp_path):
    toy()
    for file in (tmp_path / "cache").rglob("*.nbc"):
        file.write_bytes(file.read_bytes()[:1000])
    assert toy() == (21.0, 2)


def holder(lock: Path, then: str) -> subprocess.Popen:
    """Start another process that holds a lock, then does something."""
    code = f"import fcntl, os, time\nf = open({str(lock)!r}, 'w')\nfcntl.lockf(f, fcntl.LOCK_EX)\nprint(flush=True)\n"
    process = subprocess.Popen([sys.executable, "-S", "-c", code + then], stdout=subprocess.PIPE)
    with process.stdout as told:
        told.readline()
    return process


def test_what_another_process_compiles_is_waited_for(toy, tmp_path):
    toy()
    (file,) = (tmp_path / "cache").rglob("f-*.nbc")
    away = file.rename(tmp_path / "away")
    other = holder(file.with_suffix(".lock"), f"time.sleep(0.5); os.replace({str(away)!r}, {str(file)!r})")
    assert toy() == (21.0, 0)
    assert other.wait() == 0
    assert not list((tmp_path / "cache").rglob("*.lock"))


def test_a_process_that_died_or_hangs_is_not_waited_for(toy, tmp_path, monkeypatch):
    toy()
    (file,) = (tmp_path / "cache").rglob("f-*.nbc")
    file.unlink()
    other = holder(file.with_suffix(".lock"), "os.kill(os.getpid(), 9)")
    other.wait()
    assert file.with_suffix(".lock").exists()
    assert toy() == (21.0, 1)
    file.unlink()
    other = holder(file.with_suffix(".lock"), "time.sleep(60)")
    monkeypatch.setattr(compiled, "_PATIENCE_S", 0.1)
    assert toy() == (21.0, 1)
    other.kill()
    other.wait()


def test_a_kernel_that_cannot_be_compiled_holds_up_nobody(toy, tmp_path):
    toy()
    with pytest.raises(Exception, match="Tuple"):
        sys.modules["toy._user_kernels"].f((1,))
    assert not list((tmp_path / "cache").rglob("*.lock"))


def test_a_slice_takes_no_array_of_another_shape(toy):
    toy()
    put, out = sys.modules["toy._user_kernels"].put, np.zeros(4)
    put(np.array([3.0, 4.0]), out)
    assert out.tolist() == [0, 3, 4, 0]
    with pytest.raises(ValueError, match="cannot assign slice"):
        put(np.ones(3), out)


def test_a_folder_that_takes_nothing(toy, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("not a folder")
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "other"))
    assert toy() == (21.0, 2)
    assert toy() == (21.0, 0)
    assert len(list((tmp_path / "other").rglob("*.nbc"))) == 2
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert toy(x=3) == (7, 2)


def test_folders_of_other_states_go_after_a_month(toy, tmp_path):
    toy(factor=2)
    toy(factor=3)
    folders = tmp_path / "cache/mrsxr"
    days = 86400.0
    for age, folder in zip((20, 40), sorted(folders.glob("toy._base*"), key=lambda p: p.stat().st_mtime), strict=True):
        os.utime(folder, 2 * (time.time() - age * days,))
    kept = max(folders.glob("toy._base*"), key=lambda p: p.stat().st_mtime)
    toy(factor=4)
    assert kept in folders.glob("toy._base*")
    assert len(list(folders.glob("toy._base*"))) == 2


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiled.cache_folder.cache_clear()
    try:
        expected = tmp_path / "mrsxr/kernels" if sys.platform == "linux" else compiled.cache_folder()
        assert compiled.cache_folder() == expected
    finally:
        compiled.cache_folder.cache_clear()
