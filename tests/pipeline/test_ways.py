"""The notebook's way is the command's way: chains on a tree give what a run writes; nothing is computed twice."""

from __future__ import annotations

import collections
import re

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from dask.callbacks import Callback

import mrsxr as mx
from mrsxr.pipeline import Recipe

pytestmark = pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
COARSE = {"wavelength_step": 0.01, "spaxel_size": 0.35}  # um, arcsec; a hundredth of the voxels


def by_hand(source, background_files, refs, recipe: Recipe) -> dict:
    """Return products by level as the chains on a tree make them."""
    obs = mx.open_observation(source, background_files)
    if next(ds for _, ds in leaves(obs)).attrs["level"] == "ramp":
        rates, _ = mx.make_rate_and_ints(obs, refs, recipe) if recipe.option("rate", "save_rateints") else (None, None)
        rates = (rates if rates is not None else mx.make_rate(obs, refs, recipe)).compute()
    else:
        rates = obs.compute()
    cal = mx.make_cal(rates, refs, recipe).compute()
    exposures = mx.combine_exposures(cal, refs, recipe)
    cubes = mx.make_cubes(exposures, refs, recipe).compute()
    return {
        "rate": rates, "cal": cal, "cube": cubes,
        "spectrum": mx.make_spectra(cubes, refs, recipe, exposures=exposures),
    }  # fmt: skip


def leaves(tree):
    from mrsxr.tree import leaves as of

    return list(of(tree))


def same(found, wanted, what):
    for name, variable in wanted.data_vars.items():
        assert name in found, (what, name)
        assert found[name].dims == variable.dims, (what, name)
        np.testing.assert_array_equal(found[name].values, variable.values, err_msg=f"{what}: {name}")


def compare(result, made):
    assert not result.failed
    for level in ("rate", "cal"):
        for path in result.files.get(level, []):
            wanted = mx.load(path)
            node = made[level][f"{'background' if 'background' in path.parts else 'science'}/{wanted.attrs['setting']}"]
            ours = node.to_dataset()
            place = ours.exposure.values.tolist().index(wanted.exposure.values[0])
            same(ours.isel(dither=[place]), wanted, path.name)
    places = {"cube": ("cube", "science"), "joint cube": ("cube", "science"), "background cube": ("cube", "background"),
              "spectrum": ("spectrum", "science"), "background spectrum": ("spectrum", "background")}  # fmt: skip
    for level, (product, role) in places.items():
        for path in result.files.get(level, []):
            wanted = mx.load(path)
            joint = level == "joint cube"
            band = "multi" if joint else wanted.attrs["band"]
            kinds = [role, wanted.attrs.get("source_type", "").lower()] if level == "spectrum" else [role]
            nodes = [made[product][f"{kind}/{band}"] for kind in kinds if kind in made[product].children]
            nodes = [n for n in nodes if level != "spectrum" or n.attrs["source_type"] == wanted.attrs["source_type"]]
            same(nodes[-1].to_dataset(), wanted, path.name)
    for path in result.files.get("stitched", [])[1::2]:
        wanted = mx.load(path)
        kinds = ["science", wanted.attrs["source_type"].lower()]
        nodes = [made["spectrum"][f"{kind}/stitched"] for kind in kinds if kind in made["spectrum"].children]
        (node,) = [n for n in nodes if n.attrs["source_type"] == wanted.attrs["source_type"]]
        same(node.to_dataset(), wanted, path.name)


def test_rates_to_spectra(reduced, simulated, tmp_path):
    """What differed: the bad-pixel mask, cubes of several bands, exact errors, both types of source."""
    rates = [p for p in reduced.files["rate"] if "background" not in p.parts]
    background_files = [p for p in reduced.files["rate"] if "background" in p.parts]
    recipe = (
        Recipe.of().set("badpix_selfcal", method="fraction").set("cube_build", output_type="multi", **COARSE)
        .set("master_background", **Recipe.of("optimal").entry("master_background").given).set("exact_errors")
        .set("extract_1d", source_type="auto", both_branches=True)
    )  # fmt: skip
    result = mx.run(rates, background_files, out=tmp_path, refs=simulated.reference_folder, recipe=recipe)
    made = by_hand(rates, background_files, mx.References(simulated.reference_folder), recipe)
    compare(result, made)
    assert "covariance" in str(made["spectrum"]["science/1A"].attrs)
    assert "multi" in made["cube"]["science"].children


@pytest.mark.slow
def test_fixed_pattern_of_single_exposures(reduced, simulated, tmp_path):
    """What each exposure shows at its place is off the spectrum of both, on files and on trees."""
    cals = [p for p in reduced.files["cal"] if "background" not in p.parts]
    exposures = mx.open_observation(cals).compute()
    ds = exposures["science/12A"].to_dataset()
    rng, wave = np.random.default_rng(3), np.linspace(7.4, 8.9, 400)
    vectors = 1 + 0.02 * rng.normal(size=(4, wave.size))
    seen = np.stack([np.interp(ds.wavelength.values, wave, vector) for vector in vectors[:2]])
    seen = np.where(ds.slice.values // 100 == 2, seen, 1.0)
    exposures["science/12A"] = xr.DataTree(ds.assign(flux=(ds.flux * seen).astype("f4").assign_attrs(ds.flux.attrs)))
    table = {"WAVELENGTH": wave, **{f"DITHER{k}": vector for k, vector in enumerate(vectors, 1)}}
    path = mx.simulate.write_reference(tmp_path / "p.fits", "pfpc", {"channel": "2"}, tables={"PFPC": table})
    refs = mx.References(simulated.reference_folder, override={"pfpc": path})
    recipe = Recipe.of().set("pfpc").set("extract_1d", source_type="POINT").skipping("outlier_detection")
    files = mx.save(exposures, tmp_path / "cal")
    result = mx.run(files, out=tmp_path / "out", refs=refs, recipe=recipe, bands=["2A"])
    cubes = mx.make_cubes(exposures, refs, recipe, bands=["2A"])
    spectra = mx.make_spectra(cubes.compute(), refs, recipe, exposures=exposures)
    compare(result, {"cube": cubes, "spectrum": spectra})
    found = spectra["science/2A"].to_dataset()
    assert float(found.score_pfpc) < 0.7
    np.testing.assert_allclose(found.fixed_pattern, np.interp(found.wavelength, wave, vectors[:2].mean(0)), atol=2e-3)
    assert fits.getheader(result.files["spectrum"][0])["S_PFPC"] == "COMPLETE"
    with pytest.warns(mx.MrsxrWarning, match="pfpc needs the exposures"):
        mx.make_spectra(cubes, refs, recipe)


def test_fringes_of_cubes(reduced, simulated, tmp_path):
    """The cubes of the target lose their fringes, their spectra are not corrected again, joint cubes keep theirs."""
    cals = [p for p in reduced.files["cal"] if "background" not in p.parts]
    refs, recipe = (
        simulated.reference_folder,
        Recipe.of()
        .set("cube.residual_fringe", method="slices")
        .set("cube_build", spaxel_size=0.35)
        .skipping("outlier_detection"),
    )
    result = mx.run(cals, out=tmp_path, refs=refs, recipe=recipe, bands=["2A"])
    exposures = mx.open_observation(cals)
    cubes = mx.make_cubes(exposures, refs, recipe, bands=["2A"]).compute()
    spectra = mx.make_spectra(cubes, refs, recipe)
    compare(result, {"cube": cubes, "spectrum": spectra})
    assert "ch2-short_defringed_s3d" in result.files["cube"][0].name
    assert fits.getheader(result.files["cube"][0])["S_RESFRI"] == "COMPLETE"
    assert cubes["science/2A"].attrs["history_json"].count("correct_residual_fringe_cube") == 1
    assert "rf_flux" not in spectra["science/2A"]
    assert "its spectrum is not corrected again" in str(spectra["science/2A"].attrs["notes"])
    joint = mx.make_cubes(exposures, refs, recipe.set("cube_build", output_type="channel"), bands=["2A"])
    assert "those of several keep theirs" in str(joint["science/ch2"].attrs["notes"])


@pytest.mark.slow
def test_pixel_background_takes_the_place_of_the_other(reduced, simulated, tmp_path):
    rates = [p for p in reduced.files["rate"] if "background" not in p.parts]
    background_files = [p for p in reduced.files["rate"] if "background" in p.parts]
    recipe = Recipe.of().set("bkg_subtract", method="mean").skipping("outlier_detection")
    result = mx.run(rates, background_files, out=tmp_path, refs=simulated.reference_folder, recipe=recipe, to="cube")
    cal = mx.make_cal(mx.open_observation(rates, background_files).compute(), simulated.reference_folder, recipe)
    cubes = mx.make_cubes(cal.compute(), simulated.reference_folder, recipe)
    for path in result.files["cube"]:
        wanted = mx.load(path)
        same(cubes[f"science/{wanted.attrs['band']}"].to_dataset(), wanted, path.name)
        assert "subtract_master_background" not in wanted.attrs["history_json"]


class Count(Callback):
    """Count the tasks of each kind that are executed."""

    def __init__(self):
        self.tasks = collections.Counter()

    def _posttask(self, key, value, dsk, state, worker_id):
        name = str(key[0] if isinstance(key, tuple) else key)
        self.tasks[re.sub(r"-?[0-9a-f]{32}.*$", "", name)] += 1


def test_the_ten_lines_compute_nothing_twice(reduced, simulated, tmp_path):
    """Exposures are calibrated once and cubes built once; for spectra and files no task of these runs again."""
    rates = [p for p in reduced.files["rate"] if "background" not in p.parts]
    background_files = [p for p in reduced.files["rate"] if "background" in p.parts]
    refs, recipe = mx.References(simulated.reference_folder), Recipe.of().set("cube_build", **COARSE)
    rate = mx.open_observation(rates, background_files).compute()
    with Count() as calibrated:
        cal = mx.make_cal(rate, refs, recipe).compute()
    with Count() as built:
        cubes = mx.make_cubes(cal, refs, recipe)
    assert calibrated.tasks["together"] > 0  # the steps, folded
    assert built.tasks["drizzle_planes"] > 0
    assert not {"call", "together"} & set(built.tasks)
    assert built.tasks["select_pixels"] == 4  # two bands of target and background
    with Count() as after:
        cube = cubes["science/1A"].to_dataset().compute()
        mx.make_spectra(cubes, refs, recipe)
        mx.save(cubes, tmp_path)
    assert not cube.chunks
    assert not after.tasks


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["baseline", "optimal"])
def test_uncal_to_stitched(simulated, tmp_path, mode):
    refs = mx.References(simulated.reference_folder)
    recipe = Recipe.of(mode)
    result = mx.run(simulated.uncal_folder, simulated.background_folder, out=tmp_path, refs=refs, recipe=recipe)
    compare(result, by_hand(simulated.uncal_folder, simulated.background_folder, refs, recipe))


@pytest.mark.slow
def test_slopes_of_integrations(simulated, tmp_path):
    refs, recipe = mx.References(simulated.reference_folder), Recipe.of().with_option("rate", "save_rateints", True)
    result = mx.run(simulated.uncal_folder, out=tmp_path, refs=refs, recipe=recipe, to="rate")
    obs = mx.open_observation(simulated.uncal_folder)
    rates, integrations = (one.compute() for one in mx.make_rate_and_ints(obs, refs, recipe))
    for level, tree in (("rate", rates), ("rateints", integrations)):
        for path in result.files[level]:
            wanted, ours = mx.load(path), tree["science/12A"].to_dataset()
            place = ours.exposure.values.tolist().index(wanted.exposure.values[0])
            same(ours.isel(dither=[place]), wanted, path.name)
