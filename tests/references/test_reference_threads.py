"""ASDF files read by several threads at once: each file once, each reader the whole, in many fresh processes."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from mrsxr.io import asdffile
from mrsxr.references import distortion, read_reference, readers
from mrsxr.simulate import write_geometry, write_reference
from mrsxr.simulate.instrument import make_geometry

#: What a fresh process does: as many threads as files times two meet, then all read, each file twice.
READ = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from mrsxr.references import read_reference
sys.setswitchinterval(1e-5)
files = sys.argv[1:] * 2
together = Barrier(len(files))
def read(path):
    together.wait()
    return read_reference(path).attrs["kind"]
with ThreadPoolExecutor(len(files)) as pool:
    print(*pool.map(read, files))
"""


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Two distortion files, a specwcs, an apcorr and an emicorr file."""
    folder = tmp_path_factory.mktemp("trees")
    files = []
    for setting in ("12A", "34B"):
        geometry = make_geometry(setting)
        files.append(write_geometry(folder / f"{setting}_distortion.asdf", geometry.distortion))
    files.append(write_geometry(folder / "specwcs.asdf", geometry.specwcs))
    wave = np.linspace(4.8, 28.8, 5)
    files.append(
        write_reference(
            folder / "apcorr.asdf", "apcorr", {}, wavelength=wave, radius=[0.1 * wave], correction=[1 + 0.01 * wave]
        )
    )
    case = {"FULL_FAST": {"rowclocks": 271, "frameclocks": 277504, "freqs": {"FAST": ["Hz10"]}}}
    files.append(
        write_reference(
            folder / "emi.asdf", "emicorr", {}, frequencies={"Hz10": (10.03, [0.0, 1.0])}, subarray_cases=case
        )
    )
    return files


def test_each_file_is_read_once_by_all_threads(trees, monkeypatch):
    opened = []
    real = readers._read_tree.__globals__["read_asdf"]

    def counted(path):
        opened.append(path.name)
        return real(path)

    monkeypatch.setattr(readers, "read_asdf", counted)
    monkeypatch.setattr(distortion, "read_asdf", counted)
    readers._small.cache_clear()
    together = Barrier(8)

    def read_all(_):
        together.wait()
        return [read_reference(path) for path in trees]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(read_all, range(8)))
    assert sorted(opened) == sorted(path.name for path in trees)
    for found in results[1:]:
        for one, first in zip(found, results[0], strict=True):
            assert one.identical(first)


def test_a_file_that_changed_is_read_again(tmp_path):
    path, wave = tmp_path / "apcorr.asdf", np.linspace(5.0, 28.0, 4)
    for factor in (1.125, 1.25):  # of float32, as they are stored
        write_reference(path, "apcorr", {}, wavelength=wave, radius=[0.1 * wave], correction=[np.full(4, factor)])
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + int(1e9 * factor)))
        np.testing.assert_array_equal(read_reference(path).correction, factor)


def test_what_a_user_does_to_a_dataset_stays_with_that_dataset(trees):
    one = read_reference(trees[0])
    one["slice_beta"] = one["slice_beta"] + 1.0
    one.attrs["band"] = "LONG"
    again = read_reference(trees[0])
    assert again.attrs["band"] == "SHORT"
    np.testing.assert_array_equal(again.slice_beta + 1.0, one.slice_beta)


def test_writing_waits_for_who_holds_the_lock(tmp_path):
    """One at a time uses the asdf package, which shares its tables between threads; what reads needs it not."""
    with asdffile.LOCK, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            write_reference, tmp_path / "x.asdf", "extract1d", wavelength=[5, 6], radius=1,
            inner_background=2, outer_background=3,
        )  # fmt: skip
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        assert not (tmp_path / "x.asdf").exists()
        asdffile.LOCK.release()
        try:
            waiting.result(timeout=20)
        finally:
            asdffile.LOCK.acquire()
    assert (tmp_path / "x.asdf").exists()


@pytest.mark.parametrize("processes", [1, pytest.param(30, marks=pytest.mark.slow)])
def test_fresh_processes_lose_nothing(trees, processes):
    """Before there was a lock, a fifth of such processes lost a model ("has no stored inverse", "TaggedDict ...")."""
    lost = {}
    for number in range(processes):
        files = [str(path) for path in trees]
        done = subprocess.run(
            [sys.executable, "-c", READ, *files], capture_output=True, text=True, timeout=300, check=False
        )
        if done.stdout.split() != ["distortion", "distortion", "specwcs", "apcorr", "emicorr"] * 2:
            lost[number] = done.stderr.splitlines()[-1:]
    assert not lost
