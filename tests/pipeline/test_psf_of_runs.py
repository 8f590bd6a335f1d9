"""A PSF among the reference files: found by band, used by what knows one, in keys and headers; else all as before."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
from astropy.io import fits
from click.testing import CliRunner
from helpers import no_compute

import mrsxr as mx
from mrsxr import cal, mrs
from mrsxr.cal import point_source
from mrsxr.cli import main
from mrsxr.errors import MrsxrError, ReferenceFileError
from mrsxr.notes import listen
from mrsxr.pipeline import Recipe
from mrsxr.pipeline.combine_chain import combine
from mrsxr.simulate import write_reference

sys.path.append(str(Path(__file__).parents[1] / "cal"))
import star_scene

RECIPE = Recipe.of().skipping("outlier_detection", "master_background", "match_backgrounds").set("trace_model")
RECIPE = RECIPE.set("cube_build", wavelength_min=5.2, wavelength_max=5.25)  # a part of the band
OPTIONS: dict = {"bands": ["1A"], "to": "cube", "recipe": RECIPE}


def psf_of(band, lopsided=0.3, middle=0.0):
    """Return a PSF with light on one side."""
    axis, wave = 0.02 * np.arange(-80, 81), np.array(mrs.WAVELENGTH_LIMITS[band])
    images = []
    for fwhm in mrs.psf_fwhm(wave):
        a, b = (axis[:, None] - middle) / fwhm, axis / fwhm
        images.append(np.exp(-2.8 * (a**2 + b**2)) + lopsided * np.exp(-2.8 * ((a - 0.6) ** 2 + (b - 0.3) ** 2)))
    return mx.cal.psf_of_images(images, wave, step=0.02, band=band)


@pytest.fixture
def folder(simulated, tmp_path):
    """Return a function that makes a folder of the references and some PSFs, by name."""

    def make(name, **psfs):
        out = tmp_path / name
        out.mkdir()
        for path in simulated.references:
            os.link(path, out / path.name)
        for stem, psf in psfs.items():
            write_reference(out / f"{stem}.fits", "psf", psf=psf)
        return out

    return make


@pytest.fixture(scope="module")
def cals(reduced):
    return [path for path in reduced.files["cal"] if "background" not in path.parts][:1]


@pytest.fixture(scope="module")
def plain(cals, simulated, tmp_path_factory):
    """The cube without a PSF."""
    out = tmp_path_factory.mktemp("plain")
    return cube_of(mx.run(cals, out=out, refs=simulated.reference_folder, **OPTIONS))


def cube_of(result):
    assert not result.failed
    return mx.load(result.files["cube"][0]).compute()


def test_runs_and_trees_use_it_alike(cals, folder, plain, tmp_path):
    """By threads, by another process and lazily on a tree; the graph holds its name and no image of it."""
    refs = folder("refs", psf_1A=psf_of("1A"), psf_2A=psf_of("2A", 0.1))
    result = mx.run(cals, out=tmp_path / "threads", refs=refs, **OPTIONS)
    by_threads = cube_of(result)
    assert not np.array_equal(by_threads.flux, plain.flux, equal_nan=True)
    assert fits.getheader(result.files["cube"][0])["R_PSF"] == "psf_1A.fits"
    assert mx.read_history(by_threads)[-1]["refs"]["psf"] == "psf_1A.fits"
    assert "psf" not in str(mx.read_history(plain))
    with ProcessPoolExecutor(1) as pool:
        elsewhere = cube_of(mx.run(cals, out=tmp_path / "process", refs=refs, executor=pool, **OPTIONS))
    tree, sizes = mx.open_observation(cals), []
    for with_psf in (True, False):
        if not with_psf:
            (refs / "psf_1A.fits").unlink()
        with no_compute():
            lazy = mx.make_cubes(tree, refs, RECIPE, bands="1A")["science/1A"].to_dataset()
        sizes.append(len(cloudpickle.dumps(dict(lazy.flux.data.dask))))
        for name, values in lazy[["flux", "var", "dq"]].compute().items() if with_psf else ():
            np.testing.assert_array_equal(by_threads[name], values)
    assert abs(sizes[0] - sizes[1]) < 5000  # images: 200 kB
    for name in ("flux", "var", "dq"):
        np.testing.assert_array_equal(by_threads[name], elsewhere[name])


def test_what_is_made_with_another_psf_is_made_anew(cals, folder, tmp_path, monkeypatch):
    def unseen(*_, **__):
        raise MrsxrError("no source")

    monkeypatch.setattr(cal, "fit_trace_model", lambda *_, **__: None)  # what is made is not looked at
    monkeypatch.setattr(cal, "measure_offsets", unseen)

    def made(recipe=RECIPE):
        with listen(pass_on=True):
            result = mx.run(cals, out=tmp_path / "out", refs=refs, **OPTIONS | {"recipe": recipe})
        assert not result.failed
        return {piece.name for piece in result.record.pieces if not piece.taken_over}

    refs = folder("refs", psf_34A=psf_of("3A"))
    every = made()
    assert made() == set()
    write_reference(refs / "psf_34A.fits", "psf", psf=psf_of("3A", 0.2))  # of other bands
    write_reference(refs / "psf_2A.fits", "psf", psf=psf_of("2A"))
    assert made() == set()
    write_reference(refs / "mine.fits", "psf", psf=psf_of("1A"))
    assert made() == {"1A"} < every
    write_reference(refs / "mine.fits", "psf", psf=psf_of("1A", 0.2))
    assert made() == {"1A"}
    tied = RECIPE.set("tie_bands").skipping("trace_model")
    assert made(tied) == {"exposures", "1A"}
    write_reference(refs / "psf_2A.fits", "psf", psf=psf_of("2A", 0.2))
    assert made(tied) == {"exposures"}
    bare = RECIPE.skipping("trace_model")
    made(bare)
    (refs / "mine.fits").unlink()
    assert made(bare) == set()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"psf_wavelength": 5e-6}, r"psf_wavelength of the psf file is not 1 to 100 um"),
        ({"psf_wavelength": 12.0}, r"the psf of 1A is of 12 um; expected 4\.9 to 5\.74"),
        ({"psf_band": "1"}, "an image of the psf file is of band '1'"),
        ({"psf": np.nan}, "psf of the psf file is not"),
        ({"psf": 0.0}, "expected the source in the middle"),
        ("off", "expected the source in the middle"),
        ("cut", "damaged|cannot be read|expected|ends"),
    ],
)
def test_a_damaged_one_is_refused_before_the_work(cals, folder, tmp_path, change, text):
    psf, refs = psf_of("1A", 0.0, middle=0.2 if change == "off" else 0.0), folder("refs")
    for name, value in change.items() if isinstance(change, dict) else ():
        psf[name] = (psf[name].dims, np.full(psf[name].shape, value))
    path = write_reference(refs / "mine.fits", "psf", psf=psf)
    if change == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ReferenceFileError, match=text) as caught:
        mx.run(cals, out=tmp_path / "out", refs=refs, **OPTIONS)
    assert "mine.fits" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not mx.run(cals, out=tmp_path / "out", refs=refs, **OPTIONS | {"recipe": Recipe.of(), "to": "cal"}).failed


def test_one_that_is_asked_for_by_name(cals, simulated, folder, plain, tmp_path):
    """It is used in place of that of the folder, and refused where it is of no band of the run."""
    refs = folder("refs", psf_12A=psf_of("1A", 0.1))
    mine = write_reference(tmp_path / "mine.fits", "psf", psf=psf_of("1A"))
    other = write_reference(tmp_path / "other.fits", "psf", psf=psf_of("3A"))
    arguments = ["run", *cals, "--refs", refs, "--to", "cube", "--bands", "1A", "--set", "trace_model.skip=false",
                 "--set", "cube_build.wavelength_min=5.2", "--set", "cube_build.wavelength_max=5.25",
                 "--skip", "outlier_detection,master_background,match_backgrounds", "--out"]  # fmt: skip
    out = CliRunner().invoke(main, [str(one) for one in (*arguments, tmp_path / "cli", "--override", f"psf={mine}")])
    assert out.exit_code == 0, out.output
    by_command = mx.load(next((tmp_path / "cli").rglob("*s3d.fits"))).compute()
    tree = mx.open_observation(cals)
    given = mx.References(refs, override={"psf": psf_of("1A")})
    by_hand = mx.make_cubes(tree, given, RECIPE, bands="1A")["science/1A"].to_dataset().compute()
    np.testing.assert_array_equal(by_command.flux, by_hand.flux)
    assert not np.array_equal(by_hand.flux, plain.flux, equal_nan=True)
    assert mx.read_history(by_command)[-1]["refs"]["psf"] == "mine.fits"
    arguments[-1:] = ["--override", f"psf={other}", "--out", tmp_path / "none"]
    out = CliRunner().invoke(main, [str(one) for one in arguments])
    assert out.exit_code == 1
    assert "other.fits" in out.output.replace("\n", "")
    assert not (tmp_path / "none").exists()


def test_a_star_is_tied_and_filled_with_it(tmp_path, monkeypatch):
    """By the parts and steps of a recipe as by hand, in the bands that it is of."""
    write_reference(tmp_path / "mine.fits", "psf", psf=psf_of("1A"))
    refs, bare = mx.References(tmp_path), Recipe.of()
    bare = bare.skipping(*(one.name for one in bare.steps("cube") if not one.part.needed))
    star = star_scene.made(lambda wave: 140.0 + 0 * wave, lambda a, b, wave: 7.0 + 0 * wave).isel(dither=[0, 1])
    monkeypatch.setattr(point_source, "bands_of_setting", lambda _: ["1A"])  # there are no slices of 2A
    hit = star.assign(dq=star.dq.copy(data=star.dq.values.copy()))
    hit.dq.values[0, 20:23, 160:163] |= 1
    tied, filled = bare.set("tie_bands"), bare.set("pixel_replace", method="trace_model")
    for ds, recipe, by_hand in ((star, tied, tied_with), (hit, filled, filled_with)):
        psf = refs.get("psf", ds)
        (found,), (without,) = ([*combine({"12A": ds}, recipe, refs=one).values()] for one in (refs, None))
        assert mx.read_history(found)[-1]["refs"]["psf"] == "mine.fits"
        assert "psf" not in mx.read_history(without)[-1]["refs"]
        same, other = by_hand(ds, psf), by_hand(ds, None)
        for name in ("flux", "v2_coefficients", "ra_ref"):
            np.testing.assert_array_equal(found[name], same[name])
            np.testing.assert_array_equal(without[name], other[name])
        assert not (found.flux.equals(without.flux) and found.ra_ref.equals(without.ra_ref))


def tied_with(ds, psf):
    return mx.cal.tie_bands(ds, offsets=mx.cal.measure_offsets([ds], psf=[] if psf is None else [psf]))


def filled_with(ds, psf):
    return mx.cal.replace_pixels(ds, method="trace_model", psf=psf)
