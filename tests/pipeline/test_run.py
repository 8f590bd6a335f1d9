"""The whole way: uncal files to a stitched spectrum, from every level, with bad files between."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.io import fits

import mrsxr as mx
from mrsxr.demo import compare, draw
from mrsxr.errors import InputFileError, MrsxrError, ReferenceFileError
from mrsxr.pipeline import Recipe
from mrsxr.schema import validate

COARSE = Recipe.of().set("cube_build", wavelength_step=0.01, spaxel_size=0.35)  # um, arcsec; a hundredth of the voxels


def test_products_and_names(reduced):
    assert not reduced.failed
    counts = {level: len(paths) for level, paths in reduced.files.items()}
    assert counts == {
        "rate": 3, "cal": 3, "crf": 2, "background cube": 2, "background spectrum": 2, "cube": 2, "spectrum": 2,
        "stitched": 2,
    }  # fmt: skip
    names = {p.relative_to(reduced.out).as_posix() for paths in reduced.files.values() for p in paths}
    assert "stage1/jw02732004001_02101_00001_mirifushort_rate.fits" in names
    assert "background/stage2/jw02732005001_02101_00001_mirifushort_cal.fits" in names
    assert any(n.startswith("stage3/jw02732-o004_") and n.endswith("_ch1-short_s3d.fits") for n in names)
    for paths in reduced.files.values():
        for path in paths:
            validate(mx.load(path))
    inside = {p: p.relative_to(reduced.out) for p in reduced.out.rglob("*") if p.is_file()}
    leftovers = [p for p, name in inside.items() if str(name) not in names and name.parts[0] != ".mrsxr"]
    assert leftovers == [reduced.out / "run.json"]


def test_the_picture_shows_a_science_exposure(reduced, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("mrsxr.plot.summary", lambda cal, *a, **k: shown.append(cal) or plt.figure().add_subplot())
    assert any("background" in path.parts for path in reduced.files["cal"])
    for files in (reduced.files["cal"], reduced.files["cal"][::-1]):
        draw(replace(reduced, files={**reduced.files, "cal": files}), tmp_path / "p.png", title="")
    assert [str(cal.exposure.values[0]).startswith("jw02732004001") for cal in shown] == [True, True]


def test_truth_is_recovered(simulated, reduced):
    checks = compare(simulated, reduced)
    kinds = {c.kind for c in checks}
    assert kinds == {"continuum", "position", "line", "wavelength"}
    for check in checks:
        if check.kind in ("continuum", "position"):
            assert check.passed, check
        if "[Ne VI]" in check.where:  # the bright line of these bands, seen by two dithers of 8 groups
            assert check.passed, check


def test_history_tells_the_steps(reduced):
    cube = mx.load(reduced.files["cube"][0])
    steps = [entry["step"] for entry in mx.read_history(cube)]
    assert steps == [
        "rate.scale_groups", "rate.flag_bad_pixels", "rate.flag_saturation",
        "rate.flag_last_frame", "rate.subtract_reset", "rate.correct_linearity",
        "rate.flag_rscd", "rate.subtract_dark", "rate.subtract_reference_pixels",
        "rate.flag_jumps", "rate.fit_ramps", "rate.scale_gain", "cal.assign_wcs",
        "cal.set_source_type", "cal.subtract_straylight", "cal.divide_flat",
        "cal.divide_fringe_flat", "cal.calibrate_flux",
        "cal.subtract_master_background", "cal.flag_outliers",
        "cube.build_cube",
    ]  # fmt: skip


@pytest.mark.parametrize(("level", "again"), [("rate", {"cal"}), ("cal", set())])
def test_run_begins_where_the_files_are(reduced, simulated, tmp_path, level, again):
    source = [p for p in reduced.files[level] if "background" not in p.parts]
    result = mx.run(source, out=tmp_path, refs=simulated.reference_folder, to="cube", bands=["2A"])
    assert not result.failed
    assert set(result.files) == again | {"crf", "cube"}
    ours, first = mx.load(result.files["cube"][0]), mx.load(next(p for p in reduced.files["cube"] if "ch2" in p.name))
    level_of_sky = float((ours.flux - first.flux).compute().median())
    truth = float(np.median(simulated.spectra["2A"].background))
    assert abs(level_of_sky - truth) < 1.5  # MJy/sr: the background was left in


def test_cubes_alone_need_no_references(reduced, tmp_path):
    recipe = Recipe.of().set("extract_1d", background="none", aperture_correction=False)
    with pytest.warns(UserWarning, match="not corrected for the aperture"):
        result = mx.run(reduced.files["cube"], out=tmp_path, recipe=recipe)
    assert len(result.files["spectrum"]) == 2
    for path in result.files["spectrum"]:
        assert any("not corrected for the aperture" in note for note in mx.load(path).attrs["notes"])
    with pytest.raises(InputFileError, match="holds cubes only"):
        mx.run(reduced.files["cube"], out=tmp_path, to="cal")


def test_one_bad_exposure_does_not_lose_the_others(simulated, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    good, bad = simulated.uncal
    os.link(good, source / good.name)
    (source / bad.name).write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    shutil.copy(good, source / "nirspec_uncal.fits")
    with fits.open(source / "nirspec_uncal.fits", mode="update") as hdus:
        hdus[0].header["INSTRUME"] = "NIRSPEC"
    result = mx.run(source, out=tmp_path / "out", refs=simulated.reference_folder, to="rate")
    assert [p.name for p in result.files["rate"]] == [good.name.replace("uncal", "rate")]
    assert len(result.failed) == 1
    reason = next(iter(result.failed.values()))
    assert bad.name in reason
    assert "\n" not in reason
    assert [p.name for p in (tmp_path / "out" / "stage1").iterdir()] == [good.name.replace("uncal", "rate")]


def test_missing_keyword_and_wrong_reference(simulated, tmp_path):
    name = simulated.uncal[0].name
    shutil.copy(simulated.uncal[0], tmp_path / name)
    with fits.open(tmp_path / name, mode="update") as hdus:
        del hdus[0].header["BAND"]
    with pytest.raises(MrsxrError, match="BAND"):
        mx.run(tmp_path / name, out=tmp_path / "o", refs=simulated.reference_folder)
    ds = mx.open_exposures(simulated.uncal[0])
    flat = next(p for p in simulated.references if "12A_flat" in p.name)
    moved = tmp_path / "moved_flat.fits"
    shutil.copy(flat, moved)
    with fits.open(moved, mode="update") as hdus:
        hdus[0].header["BAND"] = "LONG"
    with pytest.raises(ReferenceFileError, match="LONG"):
        mx.References({"flat": moved}).get("flat", ds)


def test_no_references_and_unknown_arguments(simulated, tmp_path):
    with pytest.raises(MrsxrError, match="needs reference files"):
        mx.run(simulated.uncal_folder, out=tmp_path / "none", to="rate")
    assert not (tmp_path / "none").exists()
    with pytest.raises(MrsxrError, match="expected one of rate, cal, cube, spectrum"):
        mx.run(simulated.uncal[0], to="moon")
    with pytest.raises(MrsxrError, match="no band or channel; expected bands"):
        mx.run(simulated.uncal[0], bands=["9Z"])
    with pytest.raises(InputFileError, match="no exposures or cubes of band or channel 4C"):
        mx.run(simulated.uncal[0], bands=["4C"])
    with pytest.raises(InputFileError, match="no MIRI MRS files"):
        mx.run(tmp_path / "stage1" if (tmp_path / "stage1").exists() else tmp_path)


def test_pixel_background_takes_the_place_of_the_master_background(simulated, reduced, tmp_path):
    """Background exposures go to slopes first; their clipped mean is subtracted, and nothing in stage 3."""
    rates = [p for p in reduced.files["rate"] if "background" not in p.parts]
    background_files = [p for p in reduced.files["rate"] if "background" in p.parts]
    recipe = Recipe.of().set("bkg_subtract", method="mean").set("badpix_selfcal", method="fraction")
    options = {"refs": simulated.reference_folder, "to": "cube", "bands": ["2A"]}
    result = mx.run(rates, background_files, out=tmp_path, recipe=recipe, **options)
    assert not result.failed
    assert set(result.files) == {"mask", "cal", "crf", "cube"}
    stored = mx.load(next(p for p in result.files["cal"] if "background" not in p.parts))
    steps = [entry["step"].rsplit(".")[-1] for entry in mx.read_history(stored)]
    assert "subtract_background" in steps
    assert "self_calibrate_bad_pixels" in steps
    cube, other = (mx.load(next(p for p in r.files["cube"] if "ch2" in p.name)).compute() for r in (result, reduced))
    assert "subtract_master_background" not in cube.attrs["history_json"]
    assert abs(float((cube.flux - other.flux).median())) < 1  # MJy/sr; the sky has some tens


@pytest.mark.slow  # tests/pipeline/test_ways.py compares more
def test_chains_on_a_tree_equal_the_run(simulated, reduced):
    refs = mx.References(simulated.reference_folder)
    obs = mx.open_observation(simulated.uncal_folder, simulated.background_folder)
    assert set(obs.children) == {"science", "background"}
    rate = mx.make_rate(obs, refs)
    assert rate["science/12A"].to_dataset().rate.chunks
    cal = mx.make_cal(rate.compute(), refs)
    stored = mx.load([p for p in reduced.files["cal"] if "background" not in p.parts])
    np.testing.assert_array_equal(cal["science/12A"].flux.compute(), stored.flux.compute())
    cubes = mx.make_cubes(cal, refs, bands=["1A"])
    assert {p for p, _ in mx_leaves(cubes)} == {"/science/1A", "/background/1A"}
    spectra = mx.make_spectra(cubes.compute(), refs)
    assert spectra["science/stitched"].to_dataset().attrs["level"] == "spectrum"
    sky = spectra["background/1A"].to_dataset()
    truth = np.interp(sky.wavelength, simulated.spectra["1A"].wavelength, simulated.spectra["1A"].background)
    assert abs(float(np.nanmedian(sky.background - truth))) < 3  # MJy/sr; one short exposure


def mx_leaves(tree):
    from mrsxr.tree import leaves

    return leaves(tree)


def test_both_branches_where_the_images_are_ambiguous(reduced, simulated, tmp_path, monkeypatch):
    import xarray as xr

    import mrsxr.pipeline.spectrum_chain as chain

    unsure = xr.Dataset(attrs={"source_type": "POINT", "score": 0.5, "ambiguous": 1})
    monkeypatch.setattr(chain.spectrum, "decide_source_type", lambda cubes, center=None: unsure)
    recipe = Recipe.of().set("extract_1d", source_type="auto", both_branches=True)
    with pytest.warns(UserWarning, match="both are extracted"):
        result = mx.run(reduced.files["cube"], out=tmp_path, refs=simulated.reference_folder, recipe=recipe)
    assert not result.failed
    kinds = {mx.load(path).attrs["source_type"] for path in result.files["spectrum"]}
    assert kinds == {"POINT", "EXTENDED"}
    assert len(result.files["spectrum"]) == 4
    assert sum("extended_x1d" in path.name for path in result.files["stitched"]) == 2


def test_joint_cubes_of_a_run(reduced, simulated, tmp_path):
    cals = [p for p in reduced.files["cal"] if "background" not in p.parts]
    recipe = COARSE.set("cube_build", output_type="multi").skipping("outlier_detection")
    result = mx.run(cals, out=tmp_path, refs=simulated.reference_folder, recipe=recipe, to="cube")
    assert not result.failed
    (path,) = result.files["joint cube"]
    cube = mx.load(path)
    assert set(np.unique(cube.band)) == {"1A", "2A"}
    first = mx.load(next(p for p in result.files["cube"] if "ch1" in p.name))
    place = float(simulated.sources.ra[0]), float(simulated.sources.dec[0])
    found, alone = (
        mx.spectrum.extract_spectrum(
            c.sel(wavelength=slice(5.1, 5.3)), source_type="EXTENDED", center=place, radius=1.0
        )
        for c in (cube, first)
    )
    assert float(found.flux.mean()) == pytest.approx(float(alone.flux.mean()), rel=0.01)


def test_channel_cubes_of_one_band_have_files_of_their_own(reduced, simulated, tmp_path):
    cals = [p for p in reduced.files["cal"] if "background" not in p.parts]
    recipe = COARSE.set("cube_build", output_type="channel").skipping("outlier_detection")
    result = mx.run(cals, out=tmp_path, refs=simulated.reference_folder, recipe=recipe)
    assert not result.failed
    told = [path for paths in result.files.values() for path in paths]
    assert len(told) == len(set(told))
    assert len(result.files["cube"]) == len(result.files["joint cube"]) == 2
    for path in result.files["cube"]:
        ds = mx.load(path)
        assert ds.attrs["cube_type"] == "band"
        taken = next(mx.load(p) for p in result.files["spectrum"] if mx.load(p).attrs["band"] == ds.attrs["band"])
        np.testing.assert_array_equal(taken.wavelength, ds.wavelength)
    from mrsxr.report.gather import gather

    assert {info.path for info in gather(tmp_path).cubes().values()} == set(result.files["cube"])
    again = mx.run(tmp_path / "stage3", out=tmp_path / "again", refs=simulated.reference_folder)
    assert not again.failed
    assert len(again.files["spectrum"]) == 2


def test_a_run_never_writes_one_name_twice(reduced, simulated, tmp_path, monkeypatch):
    import mrsxr.io._names as names

    monkeypatch.setattr(names, "_content", lambda ds: "")
    cals = [p for p in reduced.files["cal"] if "background" not in p.parts]
    options = {"refs": simulated.reference_folder, "recipe": COARSE, "to": "cube"}
    result = mx.run(cals, out=tmp_path, workers=1, **options)
    assert len(result.files["cube"]) == 1
    assert result.failed["2A"].endswith(
        "_miri_s3d.fits: the cube of 2A (cube) would have the name of the cube of 1A (cube) of this run; "
        "reduce them into folders of their own"
    )


def test_two_cubes_of_a_band_are_refused(reduced, simulated, tmp_path):
    path = reduced.files["cube"][0]
    shutil.copy(path, tmp_path / "other_s3d.fits")
    with pytest.raises(InputFileError, match=r"other_s3d\.fits are both cubes of band [12]A; give one of each band"):
        mx.run([path, tmp_path / "other_s3d.fits"], out=tmp_path / "out", refs=simulated.reference_folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0; expected a whole number from 1 to 256"), ({"workers": -3}, "workers is -3"),
        ({"workers": True}, "workers is True"), ({"to": "rates"}, r"did you mean 'rate'\?"),
        ({"redshift": float("nan")}, "redshift is nan"), ({"redshift": -2}, "redshift is -2"),
        ({"recipe": "optimum"}, "recipe is 'optimum'; expected one of baseline, optimal"),
        ({"allow_missing": "yes"}, "expected true or false"),
        ({"recipe": 5}, "recipe is 5; expected"),
        ({"recipe": Recipe.of().set("stitch", reference_band="4C"), "bands": ["1A"]}, "reference_band is 4C"),
    ],
)  # fmt: skip
def test_arguments_are_checked_before_a_file_is_looked_for(tmp_path, options, message):
    with pytest.raises(MrsxrError, match=message):
        mx.run(tmp_path / "nothing", out=tmp_path / "o", **options)
    assert not (tmp_path / "o").exists()


def test_workers_in_another_folder_find_relative_names(reduced, simulated, tmp_path, monkeypatch):
    """As those of a cluster that was started elsewhere; several files are named one by one."""
    cube = min(reduced.files["cube"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs").symlink_to(simulated.reference_folder)
    shutil.copy(cube, tmp_path)
    options = {"refs": "refs", "out": "out", "recipe": Recipe.of().skipping("spectrum.residual_fringe")}
    with ProcessPoolExecutor(1, initializer=os.chdir, initargs=("/",)) as pool:
        result = mx.run([cube.name], executor=pool, **options)
    assert not result.failed
    assert mx.run([cube.name], **options).taken_over == result.pieces == 3
