"""The same data are the same bytes, in every process, level and format."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
from test_io_gwcs import make_cal
from test_io_products import exposures, make_cube, make_spectrum

import mrsxr as mx
from mrsxr.errors import MrsxrError
from mrsxr.io import save
from mrsxr.simulate import simulate_cube

FORMS = ("fits", "netcdf", "zarr")


def products(folder):
    """Return a Dataset of each level, made anew from files in a folder; those of the detector are lazy."""
    out = {product: exposures(folder, product, 2) for product in ("ramp", "rateints", "rate", "cal")}
    out |= {"cube": make_cube(), "spectrum": make_spectrum(("1A", "2A"))}
    out["tree"] = xr.DataTree.from_dict({"/science/1A": make_cube(), "/background/2A": make_cube("2A")})
    return out


def save_all(folder, more=None):
    """Save every level in every format below a folder; return {path: content}."""
    (folder / "in").mkdir(parents=True)
    for name, data in (products(folder / "in") | (more or {})).items():
        for form in FORMS:
            save(data, folder / name / form, form)
    files = (path for path in folder.rglob("*") if path.is_file() and "in" not in path.relative_to(folder).parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def slow_products():
    near = simulate_cube(band="3A", size=2.0).sel(wavelength=slice(12.9, 13.3))
    return {"gWCS": make_cal(), "moments": mx.lines.moments(near, "[Ne II] 12.81").compute()}


def require_the_same(one, other, folder):
    assert len({path.split("/")[0] for path in one}) >= 7
    assert one.keys() == other.keys()
    for path, content in one.items():
        assert content == other[path], path
        assert str(folder).encode() not in content, path


def test_writing_twice_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setattr("mrsxr.io.atomic._to_disk", lambda _: None)
    require_the_same(save_all(tmp_path / "here"), save_all(tmp_path / "there"), tmp_path)


OTHER = """
import pathlib, sys, test_io_bytes
test_io_bytes.save_all(pathlib.Path(sys.argv[1]), test_io_bytes.slow_products())
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(tmp_path):
    found = []
    for seed in "12":
        paths = os.pathsep.join([str(Path(__file__).parent), *(one for one in sys.path if one)])
        environment = {
            **os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths, "SOURCE_DATE_EPOCH": "1700000000",
        }  # fmt: skip
        folder = tmp_path / seed
        subprocess.run([sys.executable, "-c", OTHER, str(folder)], env=environment, check=True)
        files = (path for path in folder.rglob("*") if path.is_file() and "in" not in path.relative_to(folder).parts)
        found.append({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
    assert any(b"ASDF_METADATA" in content for content in found[0].values())
    require_the_same(*found, tmp_path)


def test_the_date_is_that_of_the_epoch_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    (path,) = save(make_cube(), tmp_path)
    assert b"DATE    = '2001-09-09T01:46:40.000'" in path.read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(MrsxrError, match="SOURCE_DATE_EPOCH is 'yesterday'; expected seconds"):
        save(make_cube(), tmp_path)
