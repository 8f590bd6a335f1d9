"""Chains through a folder and through CRDS: the same files at every level, the same arrays from uncal to stitched."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import mrsxr as mx
from mrsxr.errors import ReferenceFileError
from mrsxr.references.headers import CRDS_KINDS
from mrsxr.tree import leaves


@pytest.fixture
def crds(simulated, monkeypatch):
    """References of the offline CRDS cache that the simulator writes."""
    pytest.importorskip("stdatamodels")
    for name, value in simulated.crds.items():
        monkeypatch.setenv(name, value)
    return mx.References()


def assert_same(one: xr.Dataset, other: xr.Dataset, where: str = "") -> None:
    """Check that all arrays of two Datasets are equal."""
    assert set(one.variables) == set(other.variables), where
    for name in one.variables:
        np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=f"{name} {where}")


def assert_same_files(one, other, levels) -> None:
    """Check that what a run wrote (its threads in any order) has another written with equal arrays."""
    assert not one.failed
    for level in levels:
        names = {path.relative_to(other.out): path for path in other.files[level]}
        assert one.files[level]
        assert level in ("rate", "cal") or len(one.files[level]) == len(names)
        for path in one.files[level]:
            assert_same(mx.load(path), mx.load(names[path.relative_to(one.out)]), path.name)


def levels(reduced, simulated):
    """Yield (name, Dataset) of every level, as it is read from files and as it comes in other formats."""
    yield "uncal", mx.open_exposures(simulated.uncal[0])
    for level in ("rate", "cal", "cube", "spectrum", "stitched", "background cube"):
        yield level, mx.load(reduced.files[level][0])
    yield "netCDF", mx.load(reduced.files["stitched"][-1])


def test_the_same_references_at_every_level(reduced, simulated, crds, tmp_path):
    folder = mx.References(simulated.reference_folder)
    cases = dict(levels(reduced, simulated))
    cases["two dithers"] = mx.open_exposures(simulated.uncal)
    cases["one dither"] = cases["two dithers"].isel(dither=0)
    cube = cases["cube"]
    for ending in ("nc", "zarr"):
        mx.save(cube, tmp_path / f"cube.{ending}")
        cases[ending] = mx.load(tmp_path / f"cube.{ending}")
    pair = next(mx.load(path) for path in reduced.files["cal"] if "background" not in path.parts)
    coarse = {"wavelength_step": 0.01, "spaxel_size": 0.35}  # um, arcsec; a hundredth of the voxels
    cases["multi"] = mx.cube.build_multiband_cube([pair], bands=["1A", "2A"], **coarse)
    mx.save(cases["multi"], tmp_path / "multi_s3d.fits")
    cases["multi from FITS"] = mx.load(tmp_path / "multi_s3d.fits")
    for name, ds in cases.items():
        found = folder.available(ds)
        assert {"apcorr", "extract1d", "cubepar", "mrsptcorr", "dark", "photom", "regions"} <= set(found), name
        assert crds.available(ds) == found, name
        for kind in ("apcorr", "extract1d", "cubepar", "distortion", "gain"):
            assert_same(crds.get(kind, ds), folder.get(kind, ds), f"{kind} {name}")
            assert crds.get(kind, ds).attrs["crds_context"] == "jwst_0001.pmap"


def test_a_run_through_crds_equals_that_through_the_folder(reduced, simulated, crds, tmp_path):
    """One exposure from uncal to cal, all from cal to stitched; trees, and the other mode, are the slow test below."""
    first = mx.run(simulated.uncal[0], out=tmp_path / "first", refs=crds, to="cal")
    cals = [[p for p in reduced.files["cal"] if ("background" in p.parts) is sky] for sky in (False, True)]
    result = mx.run(*cals, out=tmp_path / "all", refs=crds)
    assert_same_files(first, reduced, ["rate", "cal"])
    assert_same_files(result, reduced, reduced.files.keys() - {"rate", "cal"})
    spectrum = mx.load(result.files["spectrum"][0])
    assert spectrum.attrs["source_type"] == "POINT"
    assert np.nanmedian(spectrum.aperture_correction) > 1.02
    assert not any("apcorr" in note for note in spectrum.attrs.get("notes", ()))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["baseline", "optimal"])
def test_trees_and_runs_are_equal_through_both(simulated, crds, tmp_path, mode):
    out, runs = {}, {}
    for name, refs in (("folder", mx.References(simulated.reference_folder)), ("crds", crds)):
        observation = mx.open_observation(simulated.uncal_folder, simulated.background_folder)
        rate = mx.make_rate(observation, refs, mode).compute()
        cal = mx.make_cal(rate, refs, mode).compute()
        cubes = mx.make_cubes(cal, refs, mode).compute()
        spectra = mx.make_spectra(cubes, refs, mode, exposures=cal)
        out[name] = [dict(leaves(tree)) for tree in (rate, cal, cubes, spectra)]
        runs[name] = mx.run(
            simulated.uncal_folder, simulated.background_folder, out=tmp_path / name, refs=refs, recipe=mode
        )
    for mine, theirs in zip(out["crds"], out["folder"], strict=True):
        assert set(mine) == set(theirs)
        for path in mine:
            assert_same(mine[path].compute(), theirs[path].compute(), path)
    assert runs["crds"].files.keys() == runs["folder"].files.keys()
    assert_same_files(runs["crds"], runs["folder"], runs["folder"].files)


@pytest.mark.shared
def test_cubes_that_jwst_wrote_find_theirs(shared_data, simulated, crds):
    """Cubes of jwst itself (NGC 7469, 4A to 4C) and the stitched spectrum of a part of them."""
    folder = mx.References(simulated.reference_folder)
    for letter in ("short", "medium", "long"):
        cube = mx.load(shared_data / "s3d_ngc7469" / f"NGC7469_ch4-{letter}_s3d.fits.gz")
        for kind in ("apcorr", "extract1d", "cubepar", "mrsptcorr"):
            assert_same(crds.get(kind, cube), folder.get(kind, cube), f"{kind} {letter}")
        with pytest.raises(ReferenceFileError, match="MIRIFULONG"):
            crds.get("gain", cube)


def test_all_kinds_are_named_for_crds(crds):
    assert crds.kinds == CRDS_KINDS
