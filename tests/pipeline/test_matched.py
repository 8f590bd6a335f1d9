"""Cubes of bands on one scale as a part of a reduction: the command, a tree and a run give the same."""

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import mrsxr as mx
from mrsxr.cli import main
from mrsxr.pipeline import Recipe

sys.path.append(str(Path(__file__).parents[1] / "cube"))
import test_cube_build as made

RECIPE = (
    Recipe.of()
    .set("cube_build", wavelength_min=5.67, wavelength_max=5.70)
    .set("match_bands", reference_band="1B", fwhm=0.4, grid="1A")
    .set("extract_1d", source_type="EXTENDED")
    .skipping("outlier_detection")
)


def exposures(setting, band, factor):
    """Return exposures of a gradient on the sky as another band sees it, so many times as bright."""
    model = made.wcs_model()
    model["wavelength_coefficients"][:, 0, 0] = 5.669  # which both bands see
    ds = made.make_cal(2, model=model)
    light = [made.sky_of_pixels(ds, d)[1] for d in range(2)]
    flux = factor * (20 + 3e4 * (np.stack(light) - 33.976))
    names = [f"jw02732004{setting[2]}_02101_{d + 1:05d}_mirifushort" for d in range(2)]
    ds = ds.assign(flux=ds.flux.copy(data=flux.astype("f4"))).assign_coords(exposure=("dither", names), band=[band])
    return ds.assign_attrs(setting=setting, band={"A": "SHORT", "B": "MEDIUM"}[setting[2]])


@pytest.fixture(scope="module")
def cubes():
    both = {"/science/12A": exposures("12A", "1A", 1.0), "/science/12B": exposures("12B", "1B", 1.25)}
    return mx.make_cubes(mx.tree.build(both), recipe=RECIPE, bands="1A,1B")


def same(found, wanted):
    assert found.attrs["scale_factor"] == pytest.approx(wanted.attrs["scale_factor"], rel=1e-12)
    for name in ("flux", "var", "dq"):
        np.testing.assert_array_equal(found[name].values, wanted[name].values, err_msg=name)


def test_a_tree_has_matched_cubes_beside_those_that_were_built(cubes):
    assert sorted(cubes["matched"].children) == ["1A", "1B"]
    one, other = (cubes[f"matched/{band}"].to_dataset() for band in ("1A", "1B"))
    assert one.attrs["scale_factor"] == pytest.approx(1.25, rel=1e-3)
    assert "scale_factor" not in cubes["science/1A"].attrs
    np.testing.assert_allclose(one.flux, other.flux, rtol=3e-3)
    spectra = mx.make_spectra(cubes, recipe=RECIPE)
    assert sorted(spectra["science"].children) == ["1A", "1B", "stitched"]


def test_command_and_run_give_those_of_the_tree(cubes, tmp_path):
    mx.save(cubes["science"], tmp_path / "in")
    options = ("--reference-band", "1B", "--fwhm", "0.4", "--grid", "1A", "--out", str(tmp_path / "matched"))
    done = CliRunner().invoke(main, ["match", str(tmp_path / "in"), *options])
    assert done.exit_code == 0, done.output
    result = mx.run(tmp_path / "in", out=tmp_path / "out", recipe=RECIPE)
    assert not result.failed
    of_run, by_command = result.files["matched cube"], sorted((tmp_path / "matched").glob("*_s3d.fits"))
    assert {path.parent.name for path in of_run} == {"matched"}
    for paths in (of_run, by_command):
        assert len(paths) == 2
        for ds in map(mx.load, paths):
            same(ds, cubes[f"matched/{ds.attrs['band']}"].to_dataset())
    again = mx.run(tmp_path / "in", out=tmp_path / "out", recipe=RECIPE)
    assert again.taken_over == again.pieces
    changed = mx.run(tmp_path / "in", out=tmp_path / "out", recipe=RECIPE.set("match_bands", method="additive"))
    assert changed.taken_over == changed.pieces - 1
