"""Exposures that do not arrive, ramps of unequal size, segments and lacking backgrounds: by tree calls and by run."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner

import mrsxr as mx
from mrsxr import tree
from mrsxr.cli import main
from mrsxr.errors import InputFileError, MrsxrError, MrsxrWarning
from mrsxr.io._keywords import product_keywords
from mrsxr.notes import notes_of
from mrsxr.pipeline import Recipe
from mrsxr.pipeline.combine_chain import combine
from mrsxr.pipeline.cube_chain import background_spectra, fields_of, make_cube
from mrsxr.pipeline.record import read_runs

COARSE = Recipe.of().set("cube_build", wavelength_step=0.01, spaxel_size=0.35)  # um, arcsec; a hundredth of the voxels
PLAIN = COARSE.skipping("outlier_detection").with_background("none")


def science(result, level):
    return [p for p in result.files[level] if "background" not in p.parts]


def background_files(result, level):
    return [p for p in result.files[level] if "background" in p.parts]


def part(path, folder, size, name=None):
    """Write the beginning of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / (name or path.name)).write_bytes(path.read_bytes()[:size])


def linked(folder, *paths):
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        os.link(path, folder / path.name)
    return folder


# --- exposures that did not arrive ---


@pytest.mark.parametrize("size", [5000, 15_000_000])  # within the header; within the data, as the calibration finds
def test_a_band_without_all_its_exposures_fails_unless_allowed(simulated, reduced, tmp_path, size):
    good, bad = science(reduced, "cal" if size == 5000 else "rate")
    source = linked(tmp_path / "in", good)
    part(bad, source, size)
    options = {"refs": simulated.reference_folder, "bands": ["1A"], "to": "cube", "recipe": PLAIN}
    result = mx.run(source, out=tmp_path / "out", **options)
    assert "cube" not in result.files
    assert "1 of 2 exposures did not arrive" in result.failed["science 12A"]
    assert "--allow-missing" in result.failed["science 12A"]
    with pytest.warns(MrsxrWarning, match="1 of 2 exposures did not arrive"):
        result = mx.run(source, out=tmp_path / "some", allow_missing=True, **options)
    (path,) = result.files["cube"]
    cube = mx.load(path)
    assert (cube.attrs["exposures_used"], cube.attrs["exposures_planned"]) == (1, 2)
    assert any("1 of 2 exposures did not arrive" in note for note in notes_of(cube))
    header = fits.getheader(path)
    assert (header["NEXPUSED"], header["NEXPPLAN"]) == (1, 2)
    (run,) = read_runs(tmp_path / "some")
    assert any("1 of 2 exposures did not arrive" in note for note in run["notes"])
    assert run["settings"]["allow_missing"]
    assert result.failed  # the reason stands there all the same


@pytest.mark.parametrize("flagged", [True, False])
def test_exposures_without_a_usable_pixel_are_told(flagged, simulated, reduced, tmp_path):
    good, bad = science(reduced, "cal")
    source = linked(tmp_path / "in", good)
    with fits.open(bad) as file:
        file["SCI"].data[:] = np.nan
        file["DQ"].data |= np.uint32(flagged)
        file.writeto(source / bad.name)
    options = {"refs": simulated.reference_folder, "bands": ["1A"], "to": "cube", "recipe": PLAIN}
    with pytest.warns(MrsxrWarning, match="1 of 2 exposures have no usable pixel .*00002_mirifushort"):
        result = mx.run(source, out=tmp_path / "out", **options)
    cube = mx.load(result.files["cube"][0])
    assert (cube.attrs["exposures_used"], cube.attrs["exposures_planned"]) == (1, 2)
    (source / good.name).unlink()
    result = mx.run(source, out=tmp_path / "none", **options)
    assert "no exposure has a usable pixel" in result.failed["science 12A"]


def test_complete_bands_say_nothing_and_other_detectors_go_on(simulated, reduced, tmp_path):
    files = science(reduced, "cal")
    source = linked(tmp_path / "in", *files)
    part(files[0], source, 5000, files[0].name.replace("mirifushort", "mirifulong"))
    options = {"refs": simulated.reference_folder, "bands": ["1A"], "to": "cube", "recipe": PLAIN}
    result = mx.run(source, out=tmp_path / "out", **options)
    assert len(result.failed) == 1
    assert "NEXPUSED" not in fits.getheader(result.files["cube"][0])


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_odd_pointings_stand_in_the_products_of_a_run(simulated, reduced, tmp_path):
    """A pointing that was not measured, and one that contradicts its dither offset by 0.6 arcsec."""
    source = linked(tmp_path / "in")
    for path, key in zip(science(reduced, "cal"), ("planned", "moved"), strict=True):
        shutil.copy(path, source)
        with fits.open(source / path.name, mode="update") as hdus:
            if key == "planned":
                hdus[0].header["ENGQLPTG"] = "PLANNED"
            else:
                hdus["SCI"].header["DEC_REF"] += 0.6 / 3600
    options = {"refs": simulated.reference_folder, "bands": ["1A"], "to": "cube", "recipe": PLAIN}
    result = mx.run(source, out=tmp_path / "out", **options)
    texts = [note for note in notes_of(mx.load(result.files["cube"][0])) if "pointing" in note]
    assert len(texts) == 2
    assert any("00002_mirifushort: its pointing is 0.60 arcsec off" in text for text in texts)
    assert set(texts) <= set(result.record.notes)
    comments = "".join(str(fits.getheader(result.files["cube"][0])["COMMENT"]).split("\n"))
    assert "0.60 arcsec off" in comments
    cubes = mx.make_cubes(mx.open_observation(source), mx.References(simulated.reference_folder), PLAIN, bands=["1A"])
    assert set(texts) <= set(notes_of(cubes["science/1A"]))


def test_trees_that_skip_files_say_so(reduced, tmp_path):
    good, bad = science(reduced, "cal")
    source = linked(tmp_path / "in", good)
    part(bad, source, 5000)
    ds = mx.open_observation(source, on_error="skip")["science/12A"].to_dataset()
    assert any(bad.name in note and "left out" in note for note in notes_of(ds))


# --- ramps of unequal size ---


def cut(path, folder, n_groups):
    """Write an exposure as if it had had fewer groups."""
    folder.mkdir(parents=True, exist_ok=True)
    with fits.open(path) as hdus:
        hdus["SCI"].data = hdus["SCI"].data[:, :n_groups]
        hdus[0].header["NGROUPS"] = n_groups
        hdus[0].header["EFFEXPTM"] *= n_groups / 16
        hdus.writeto(folder / path.name)
    return folder / path.name


@pytest.mark.slow
def test_dithers_of_unequal_ramps_are_in_one_cube_both_ways(simulated, tmp_path):
    source = linked(tmp_path / "in", simulated.uncal[0])
    cut(simulated.uncal[1], source, 10)
    options = {"refs": simulated.reference_folder, "bands": ["1A"], "to": "cube", "recipe": PLAIN}
    result = mx.run(source, out=tmp_path / "out", **options)
    assert not result.failed
    refs = mx.References(simulated.reference_folder)
    observation = mx.open_observation(source)
    assert {path: ds.sizes["group"] for path, ds in tree.leaves(observation)} == {
        "/science/12A": 16, "/science/12A_2": 10,
    }  # fmt: skip
    rate = mx.make_rate(observation, refs).compute()
    assert {path: ds.sizes["dither"] for path, ds in tree.leaves(rate)} == {"/science/12A": 2}
    cubes = mx.make_cubes(mx.make_cal(rate, refs), refs, PLAIN, bands=["1A"])
    cube = cubes["science/1A"].to_dataset().compute()
    ours = mx.load(result.files["cube"][0]).compute()
    for name in ("flux", "var", "dq", "weight"):
        np.testing.assert_array_equal(cube[name].values, ours[name].values)
    for path, n_groups in zip(mx.save(rate["science/12A"].to_dataset(), tmp_path / "rates"), (16, 10), strict=True):
        assert fits.getheader(path)["NGROUPS"] == n_groups


def test_nodes_of_one_setting_are_joined_and_none_is_lost(simulated, reduced, tmp_path):
    """Dithers in nodes of their own give the cube of the run of all, in whatever order they come."""
    refs = mx.References(simulated.reference_folder)
    one, two = (mx.load(path) for path in science(reduced, "cal"))
    sky = mx.load(background_files(reduced, "cal")[0])
    two = two.assign_attrs(n_groups=10, readpatt="SLOWR1")
    apart = tree.build({"/science/12A": two, "/science/12A_2": one, "/background/12A": sky})
    cube = mx.make_cubes(apart, refs, bands=["1A"])["science/1A"].to_dataset()
    ours = mx.load(next(p for p in science(reduced, "cube") if "ch1" in p.name))
    part = {"wavelength": slice(300, 310)}
    np.testing.assert_allclose(cube.flux.isel(part).values, ours.flux.isel(part).values, rtol=1e-5)
    joined = tree.gather({"/science/12A": two, "/science/12A_2": one})["/science/12A"]
    assert joined.exposure.values.tolist() == sorted(joined.exposure.values.tolist())
    assert joined.readpatt.values.tolist() == ["FASTR1", "SLOWR1"]
    headers = [fits.getheader(path) for path in mx.save(joined, tmp_path)]
    assert [(header["READPATT"], header["NGROUPS"]) for header in headers] == [("FASTR1", 16), ("SLOWR1", 10)]
    more = two.assign(var_background=two.var_read)
    with pytest.raises(MrsxrError, match=r"cannot be joined .*differ in var_background\); calibrate them alike"):
        mx.make_cubes(tree.build({"/science/12A": one, "/science/12A_2": more}), refs)


def test_two_cubes_of_one_band_are_refused(reduced):
    cube = mx.load(science(reduced, "cube")[0])
    with pytest.raises(MrsxrError, match=r"/science/1A and /science/1A_2 are both cubes of"):
        mx.make_spectra(tree.build({"/science/1A": cube, "/science/1A_2": cube}))


# --- segments ---


@pytest.mark.slow
def test_segments_give_the_slopes_of_the_whole_exposure(simulated, tmp_path):
    whole = tmp_path / "whole" / simulated.uncal[0].name
    parts = tmp_path / "parts"
    whole.parent.mkdir()
    parts.mkdir()
    rng = np.random.default_rng(3)
    with fits.open(simulated.uncal[0]) as hdus:
        ramp = hdus["SCI"].data[0, :6]
        hdus["SCI"].data = np.stack([ramp + rng.integers(0, 9, ramp.shape, "u2") for _ in range(3)])
        hdus[0].header.update(NGROUPS=6, NINTS=3, INTSTART=1, INTEND=3, EFFINTTM=6 * 2.77504, EFFEXPTM=18 * 2.77504)
        data = hdus["SCI"].data
        hdus.writeto(whole)
        for number, (first, last) in enumerate(((1, 1), (2, 3)), 1):
            hdus["SCI"].data = data[first - 1 : last]
            hdus[0].header.update(EXSEGNUM=number, EXSEGTOT=2, INTSTART=first, INTEND=last)
            hdus.writeto(parts / whole.name.replace("00001_", f"00001-seg{number:03d}_"))
    refs = mx.References(simulated.reference_folder)
    one, other = (mx.make_rate(mx.open_observation(f), refs)["science/12A"] for f in (whole.parent, parts))
    one, other = one.to_dataset().compute(), other.to_dataset().compute()
    for name in ("rate", "var_poisson", "var_read", "dq"):
        np.testing.assert_array_equal(other[name].values, one[name].values)
    assert other.exposure.values.tolist() == one.exposure.values.tolist()
    assert other.exposure_time.values == pytest.approx(one.exposure_time.values)
    result = mx.run(parts, out=tmp_path / "out", refs=refs, to="rate")
    (path,) = result.files["rate"]
    assert path.name == whole.name.replace("uncal", "rate")
    np.testing.assert_array_equal(mx.load(path).rate.values, one.rate.values)
    assert fits.getheader(path)["NINTS"] == 3


# --- backgrounds ---


def test_a_lacking_background_is_told_or_refused(simulated, reduced, tmp_path):
    source = linked(tmp_path / "in", *science(reduced, "cal"))
    (tmp_path / "empty").mkdir()
    options = {"refs": simulated.reference_folder, "bands": ["1A"], "to": "cube"}
    with pytest.raises(InputFileError, match=r"the background .*empty: no MIRI MRS files"):
        mx.run(source, tmp_path / "empty", out=tmp_path / "out", **options)
    with pytest.raises(InputFileError, match="no background exposures of these bands found"):
        mx.run(source, science(reduced, "cube"), out=tmp_path / "out", **options)
    for way in ("master", "binned", "pixel"):
        with pytest.raises(MrsxrError, match=r"is asked for and there are no background exposures of the bands 1A, 2A"):
            mx.run(source, out=tmp_path / "out", recipe=COARSE.with_background(way), **options)
    assert not (tmp_path / "out").exists()
    result = mx.run(source, out=tmp_path / "out", recipe=COARSE, **options)
    (path,) = result.files["cube"]
    text = "no background exposures of 1A: no background is subtracted there"
    assert any(text in note for note in notes_of(mx.load(path)))
    assert any(text in note for note in result.record.notes)
    assert fits.getheader(path)["S_MSBSUB"] == "SKIPPED"
    with_background = next(p for p in science(reduced, "cube") if "ch1" in p.name)
    assert fits.getheader(with_background)["S_MSBSUB"] == "COMPLETE"
    cals = tree.build({"/science/12A": mx.load(science(reduced, "cal"))})
    refs = mx.References(simulated.reference_folder)
    assert any(text in n for n in notes_of(mx.make_cubes(cals, refs, bands=["1A"])["science/1A"]))
    with pytest.raises(MrsxrError, match="a background is asked for"):
        mx.make_cubes(cals, refs, Recipe.of().with_background("master"), bands=["1A"])


def test_bands_whose_background_is_lacking_are_left_alone(simulated, reduced):
    """Only bands with a background spectrum get it, also where jwst's mixing of bands would reach into others."""
    ds = mx.load(science(reduced, "cal"))
    spectra = [mx.load(p).assign_attrs(notes=[]) for p in background_files(reduced, "background spectrum")]
    one = next(s for s in spectra if set(s.band.values) == {"2A"})
    with pytest.warns(MrsxrWarning, match="no background exposures of 1A: no background is subtracted there"):
        out = combine({"12A": ds}, Recipe.of().skipping("outlier_detection"), spectra=[one])["12A"]
    change = (out.flux - ds.flux).isel(dither=0).values
    assert np.nanmax(np.abs(change[ds.channel.values == 1])) == 0
    assert np.nanmedian(change[ds.channel.values == 2]) < -1
    refs = mx.References(simulated.reference_folder)
    for band, status in (("2A", "COMPLETE"), ("1A", "SKIPPED")):
        cube = make_cube(out, band, refs, Recipe.of())
        assert product_keywords(cube, "x.fits").now["PRIMARY"]["S_MSBSUB"] == status


@pytest.mark.filterwarnings("ignore:cube 1A. the target")
def test_background_fields_apart_give_a_spectrum_each(reduced):
    sky = mx.load(background_files(reduced, "cal")[0])
    name = ("dither", ["jw02732006001_02101_00001_mirifushort"])
    far = sky.assign_coords(dec_ref=sky.dec_ref + 300 / 3600, exposure=name)
    both = tree.gather({"/background/12A": sky, "/background/12A_2": far})["/background/12A"]
    assert [part.sizes["dither"] for part in fields_of(both)] == [1, 1]
    recipe = COARSE.set("master_background", **Recipe.of("optimal").entry("master_background").given)
    one, other = background_spectra(both, "1A", None, recipe)
    np.testing.assert_allclose(one.background.values, other.background.values, rtol=1e-3)
    cubes = mx.make_cubes(tree.build({"/background/12A": both}), recipe=COARSE, bands=["1A"])
    assert [path for path, _ in tree.leaves(cubes)] == ["/background/1A", "/background/1A_2"]


def test_the_command_line_says_what_to_pass(simulated, reduced, tmp_path):
    source = linked(tmp_path / "in", *science(reduced, "cal"))
    for path in background_files(reduced, "cal"):
        shutil.copy(path, source / path.name)
        with fits.open(source / path.name, mode="update") as hdus:
            hdus[0].header["BKGDTARG"] = False
    common = ["run", str(source), "--refs", str(simulated.reference_folder), "--bands", "1A", "--out", str(tmp_path)]
    told = CliRunner().invoke(main, [*common, "--to", "cal"])
    assert told.exit_code == 0
    assert "the exposures are of 2 fields" in told.output
    assert "--background-from" in told.output
    for name in ("02732-o004", "02732-o005"):
        assert [run["finished"] for run in read_runs(tmp_path / name)] == [True]
    assert "2 fields" in CliRunner().invoke(main, ["info", str(source)]).output
    sky = str(source / background_files(reduced, "cal")[0].name)
    named = CliRunner().invoke(main, [*common, "--to", "cal", "--background-from", sky])
    assert named.exit_code == 0, named.output
    (tmp_path / "c.toml").write_text("[cube.master_background]\nskip = true\n[cube.field_background]\nn_bins = 200\n")
    assert Recipe.of(tmp_path / "c.toml").runs("field_background")
