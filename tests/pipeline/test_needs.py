"""What a run needs is looked for before work starts; files given at the command line in place of others."""

from __future__ import annotations

import os
import shutil

import pytest
from click.testing import CliRunner

import mrsxr as mx
from mrsxr.cli import main
from mrsxr.errors import ReferenceFileError, ReferenceMissingError
from mrsxr.pipeline import Recipe
from mrsxr.pipeline.needs import required_kinds


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def without(simulated, tmp_path):
    """Return a function that makes a folder of the references but those whose names hold a word."""

    def make(*words):
        folder = tmp_path / f"without_{'_'.join(words)}"
        folder.mkdir()
        for path in simulated.references:
            if not any(word in path.name for word in words):
                os.link(path, folder / path.name)
        return folder

    return make


def test_kinds_that_a_chain_cannot_do_without():
    recipe = Recipe.of()
    stage1 = {"mask", "saturation", "linearity", "dark", "gain", "readnoise"}
    assert set(required_kinds(recipe, 0, "rate")) == stage1
    assert set(required_kinds(recipe, 1, "cal")) == {"distortion", "specwcs", "flat", "fringe", "photom"}
    assert set(required_kinds(recipe, 0, "spectrum")) == stage1 | set(required_kinds(recipe, 1, "cal"))
    assert required_kinds(recipe, 2, "cube") == ()
    other = recipe.skipping("dark", "flat-field").set("latents")
    assert "dark" not in required_kinds(other, 0, "cal")
    assert "flat" not in required_kinds(other, 0, "cal")
    assert "latent" in required_kinds(other, 0, "cal")


def test_a_run_without_what_it_needs_does_not_begin(simulated, without, tmp_path):
    out = tmp_path / "out"
    for words, to, what in ((("_dark",), "rate", "dark"), (("photom",), "cal", "photom")):
        with pytest.raises(ReferenceMissingError, match=f"no {what} reference for 12A"):
            mx.run(simulated.uncal_folder, out=out, refs=without(*words), to=to)
    assert not list(out.rglob("*.fits"))


def test_a_point_source_without_aperture_correction_is_refused_before_the_work(simulated, without, tmp_path):
    refs = without("apcorr")
    with pytest.raises(ReferenceFileError, match=r"needs its aperture correction.*--no-aperture-correction"):
        mx.run(simulated.uncal_folder, out=tmp_path / "out", refs=refs)
    shutil.copy(next(p for p in simulated.references if "apcorr" in p.name), refs / "apcorr.asdf")
    whole = (refs / "apcorr.asdf").read_bytes()
    (refs / "apcorr.asdf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReferenceFileError, match=r"apcorr\.asdf"):
        mx.run(simulated.uncal_folder, out=tmp_path / "out", refs=refs)
    assert not (tmp_path / "out" / "stage1").exists()


def test_chains_and_runs_ask_alike_for_the_aperture_correction(reduced, simulated, without, tmp_path):
    cube = mx.load(reduced.files["cube"][0]).compute()
    assert cube.attrs["source_type"] == "POINT"
    for refs in (None, mx.References(without("apcorr"))):
        with pytest.raises(ReferenceMissingError, match="aperture correction"):
            mx.make_spectra(cube, refs)
    bare = Recipe.of().set("extract_1d", aperture_correction=False)
    with pytest.warns(UserWarning, match="not corrected for the aperture"):
        inside = mx.make_spectra(cube, mx.References(simulated.reference_folder), bare)
    spectrum = inside["science/stitched"].to_dataset()
    assert any("not corrected for the aperture" in note for note in spectrum.attrs["notes"])
    whole = mx.make_spectra(cube, mx.References(simulated.reference_folder))["science/stitched"].to_dataset()
    ratio = float((whole.flux / spectrum.flux).median())
    assert ratio == pytest.approx(float(whole.aperture_correction.median()), rel=0.01)
    assert ratio > 1.02
    result = mx.run(reduced.files["cube"], out=tmp_path / "out")  # once, not for each band
    assert len(result.failed) == 1
    assert "aperture correction" in next(iter(result.failed.values()))
    assert "spectrum" not in result.files


def test_extended_sources_need_none(reduced, without):
    cube = mx.load(reduced.files["cube"][0]).compute()
    spectra = mx.make_spectra(
        cube, mx.References(without("apcorr")), Recipe.of().set("extract_1d", source_type="EXTENDED")
    )
    assert spectra["science/stitched"].to_dataset().attrs["source_type"] == "EXTENDED"
    assert set(spectra["science"]) == {cube.attrs["band"], "stitched"}  # as in a tree of cubes, not by setting


def test_overrides_at_the_command_line(simulated, tmp_path):
    dark = tmp_path / "my_dark.fits"
    shutil.copy(next(p for p in simulated.references if "_dark" in p.name), dark)
    arguments = (
        "run",
        simulated.uncal[0],
        "--refs",
        simulated.reference_folder,
        "--to",
        "rate",
        "--out",
        tmp_path / "o",
    )
    for text, words in (
        ("dark", "expected KIND=FILE"), (f"darks={dark}", "expected KIND=FILE"), (f"gain={dark}", "of kind dark"),
        ("dark=/nowhere/x.fits", "/nowhere/x.fits"),
    ):  # fmt: skip
        out = invoke(*arguments, "--override", text)
        assert out.exit_code == 1
        assert words in out.output.replace("\n", "")
    gain = next(p for p in simulated.references if "_gain" in p.name)
    out = invoke(*arguments, "--override", f"dark={dark}", "--override", f"gain={gain}")
    assert out.exit_code == 0, out.output
    rate = mx.load(next((tmp_path / "o" / "stage1").glob("*_rate.fits")))
    entry = next(e for e in mx.read_history(rate) if e["step"].endswith("subtract_dark"))
    assert entry["refs"] == {"dark": "my_dark.fits"}
    from astropy.io import fits

    header = fits.getheader(next((tmp_path / "o" / "stage1").glob("*_rate.fits")))
    assert header["R_DARK"] == "my_dark.fits"
    assert "my_dark.fits" in (tmp_path / "o" / "run.json").read_text()
