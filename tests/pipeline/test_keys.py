"""Keys: equal for what is equal, another one for what makes another product."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from mrsxr.errors import InputFileError
from mrsxr.pipeline.keys import checksum, digest, is_whole, key_of, of_file, of_reference, stamp


def test_digests_of_plain_values():
    values = [None, True, False, 1, 0, "1", "", [], [[]], {}, {"a": 1}, {"a": [1]}, [1, 2], [2, 1], 1.5, math.nan, "é"]
    assert len({digest(value) for value in values}) == len(values)
    assert digest("a", "b") != digest("ab") != digest(["a", "b"])
    assert digest({"b": 1, "a": (2, 3.0)}) == digest({"a": [2.0, 3], "b": 1})
    for bad in (Path("x"), np.float32(1), {1: 2}, {1, 2}, xr.Dataset(), print):
        with pytest.raises(TypeError, match="in a key"):
            digest("x", [bad])


def raw(path, value=1.0, n_cards=0):
    header = fits.Header({"TARGNAME": "NGC 1068", **{f"K{i}": i for i in range(n_cards)}})
    fits.HDUList([fits.PrimaryHDU(header=header), fits.ImageHDU(np.full((8, 8), value))]).writeto(path, overwrite=True)
    os.utime(path, ns=(10**18, 10**18))
    return path


def test_a_raw_file_is_known_by_size_and_header(tmp_path):
    path = raw(tmp_path / "a_uncal.fits", n_cards=100)
    first = of_file(path)
    assert of_file(raw(tmp_path / "b_uncal.fits", n_cards=100)) == first
    os.utime(path, ns=(10**18, 10**18 + 1))
    assert of_file(path) == first  # the content tells, see below
    raw(path, n_cards=101)
    assert of_file(path) != first
    with open(raw(path, n_cards=100), "r+b") as file:
        content = file.read()
        file.seek(content.index(b"K99     "))
        file.write(b"L99     ")
    os.utime(path, ns=(10**18, 10**18))
    assert of_file(path) != first
    with pytest.raises(InputFileError, match="nothing_uncal"):
        of_file(tmp_path / "nothing_uncal.fits")


def test_stamps_see_a_byte_under_the_same_size_and_time(tmp_path, monkeypatch):
    path = raw(tmp_path / "a_uncal.fits")
    was = stamp(path)
    copy = raw(tmp_path / "copy_uncal.fits")
    os.utime(copy, ns=(0, 0))
    assert is_whole(copy, was)
    with open(path, "r+b") as file:
        file.seek(-3000, os.SEEK_END)
        file.write(b"7")
    os.utime(path, ns=(10**18, 10**18))
    assert not is_whole(path, was)
    path.unlink()
    assert not is_whole(path, was)
    with pytest.raises(InputFileError, match=r"a_uncal.fits: cannot be read"):
        stamp(path)
    monkeypatch.setattr("mrsxr.pipeline.keys.checksum", None)  # who is untouched is not read
    assert is_whole(copy, stamp_of(copy, was))


def stamp_of(path, was):
    """Return the stamp of a file that has the content of another."""
    return was._replace(time=max(path.stat().st_mtime_ns, path.stat().st_ctime_ns))


def test_a_reference_is_known_by_name_and_content(tmp_path, monkeypatch):
    path = raw(tmp_path / "jwst_miri_flat_0001.fits")
    first = of_reference(path)
    os.utime(path, ns=(0, 0))
    assert of_reference(path) == first
    assert of_reference(path.rename(tmp_path / "jwst_miri_flat_0002.fits")) != first
    raw(path, 2.0)
    os.utime(path, ns=(0, 1))
    assert of_reference(path) != first
    monkeypatch.setattr("mrsxr.pipeline.keys._WHOLE", 100)
    raw(path)
    os.utime(path, ns=(0, 7))
    large = of_reference(path)
    os.utime(path, ns=(0, 8))
    assert of_reference(path) != large


def test_checksums_of_folders_see_names_and_content(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "0").write_bytes(b"xy")
    first = checksum(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "0").rename(tmp_path / "a.zarr" / "1")
    assert checksum(tmp_path / "a.zarr") != first
    (tmp_path / "a.zarr" / "1").rename(tmp_path / "a.zarr" / "0")
    assert checksum(tmp_path / "a.zarr") == first


def test_keys_of_what_is_no_product(tmp_path):
    for name, content in {"a.fits": b"SIMPLE", "b.nc": b"CDF", "c.txt": b"", "d.fits": b"\0" * 9000}.items():
        (tmp_path / name).write_bytes(content)
        assert key_of(tmp_path / name) is None
    (tmp_path / "e.fits.gz").write_bytes(gzip.compress(raw(tmp_path / "x.fits").read_bytes())[:60])
    assert key_of(tmp_path / "e.fits.gz") is None
    (tmp_path / "f.zarr").mkdir()
    (tmp_path / "f.zarr" / "zarr.json").write_text("[1]")
    assert key_of(tmp_path / "f.zarr") is None
    for name in ("none.fits", "none.nc"):
        with pytest.raises(InputFileError, match=name):
            key_of(tmp_path / name)
