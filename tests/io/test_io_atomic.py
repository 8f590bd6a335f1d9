"""Whatever happens while a file is written: under its name is the old one or the new one, whole."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from helpers import forked
from test_io_products import make_cube, make_spectrum

from mrsxr.errors import MrsxrError
from mrsxr.io import load, save
from mrsxr.io.atomic import is_temporary, remove_temporary, replacing, write_text
from mrsxr.io.fits_out import write_fits

FORMS = {"fits": "a_s3d.fits", "netcdf": "a.nc", "zarr": "a.zarr"}


def write_for_ever(tell, folder, cubes):
    """Write every kind of file in turn with content that is all one number; say so after each round."""
    for number in range(10_000):
        for name in FORMS.values():
            save(cubes[number % 2], folder / name)
        write_text(folder / "run.json", f"{number % 2}" * 5000)
        os.write(tell, b".")


def test_killed_at_random_moments(tmp_path):
    cubes = [make_cube(n=(40, 30, 20)) for _ in range(2)]
    for number, cube in enumerate(cubes):
        cube["flux"][:] = number
    for name in FORMS.values():
        save(cubes[0], tmp_path / name)
    write_text(tmp_path / "run.json", "0" * 5000)
    rng = np.random.default_rng(8)
    left = kills = 0
    while kills < 8 or left < 2:  # until some came while something was written
        kills += 1
        assert kills < 50
        pid, told = forked(write_for_ever, tmp_path, cubes)
        os.read(told, 1)  # the first round is over, however busy the machine
        time.sleep(rng.uniform(0.0, 0.12))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(told)
        for form, name in FORMS.items():
            if form == "zarr" and not (tmp_path / name).exists():
                continue  # away while it was replaced
            values = np.unique(load(tmp_path / name)["flux"].values)
            assert values.size == 1
            assert values[0] in (0, 1)
        text = (tmp_path / "run.json").read_text()
        assert text in ("0" * 5000, "1" * 5000)
        names = set(os.listdir(tmp_path)) - {*FORMS.values(), "run.json"}
        assert all(map(is_temporary, names))
        left += len(remove_temporary(tmp_path))
        assert {*FORMS.values(), "run.json"} >= set(os.listdir(tmp_path))


def write_to_the_limit(tell, ds, path):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    try:
        save(ds, path)
    except MrsxrError as error:
        os.write(tell, str(error).encode())


@pytest.mark.parametrize("form", FORMS)
def test_a_disk_that_takes_no_more(tmp_path, form):
    path = tmp_path / FORMS[form]
    save(make_cube(), path)
    before = load(path).load()
    pid, told = forked(write_to_the_limit, make_cube(n=(60, 50, 40)), path)
    text = os.read(told, 1000).decode()
    os.waitpid(pid, 0)
    os.close(told)
    assert text.startswith(f"{path}: cannot be written")
    assert load(path).identical(before)
    assert os.listdir(tmp_path) == [path.name]


def test_a_failure_leaves_folders_as_they_were(tmp_path):
    def half(path):
        with replacing(path) as temporary:
            temporary.mkdir()
            (temporary / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half(tmp_path / "x.zarr")
    assert os.listdir(tmp_path) == []


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    seen = []
    sync, place = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda n: (seen.append(os.readlink(f"/proc/self/fd/{n}")), sync(n))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append("renamed"), place(a, b))[1])
    save(make_spectrum(), tmp_path)
    assert is_temporary(Path(seen[0]).name)
    assert seen[1:] == ["renamed", str(tmp_path)]
    seen.clear()
    with replacing(tmp_path / "x.zarr") as temporary:
        (temporary / "flux").mkdir(parents=True)
        (temporary / "flux" / "0.0").write_text("1")
    assert sorted(Path(one).name for one in seen[:3]) == sorted([temporary.name, "flux", "0.0"])
    assert seen[3:] == ["renamed", str(tmp_path)]


def test_arrays_stay_as_they_are_while_they_are_written(tmp_path, monkeypatch):
    """Exposures that are written side by side share their slice map: no writer may swap its bytes, not for a moment."""
    from astropy.io.fits import file

    values, seen = np.arange(12, dtype="i2").reshape(3, 4), []
    write = file._File.writearray
    monkeypatch.setattr(file._File, "writearray", lambda self, array: (seen.append(values.copy()), write(self, array)))
    path = write_fits(fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(values)]), tmp_path / "a.fits")
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(fits.getdata(path), values)
    assert values.flags.writeable
