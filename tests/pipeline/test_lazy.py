"""Cubes of a lazy tree are a graph: nothing is computed while it is built, and what comes of it is the same."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import pytest
from dask.callbacks import Callback
from helpers import no_compute

import mrsxr as mx
from mrsxr.cal import trace_model
from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.pipeline import Recipe
from mrsxr.spectrum import exact_errors


def counted(function, calls):
    """Return a function that counts its calls by its name."""

    @functools.wraps(function)
    def call(*given, **options):
        calls[function.__name__] += 1
        return function(*given, **options)

    return call


pytestmark = pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")


def test_nothing_is_computed_up_to_the_cubes_of_optimal(reduced, simulated, tmp_path):
    """Backgrounds, the match of exposures, outliers, traces: all of it waits until a voxel is asked for.

    From ramps on no exposure is read; what is computed are coordinates, of reference files.
    """
    source = [p for p in reduced.files["cal"] if "background" not in p.parts]
    observation = mx.open_observation(source, [p for p in reduced.files["cal"] if "background" in p.parts])
    with no_compute():
        cube = mx.reduce(observation, simulated.reference_folder, "optimal", to="cube", bands="1A")["science/1A"]
    assert cube["flux"].chunks
    assert cube["score_match_backgrounds"].chunks
    name = tmp_path / simulated.uncal[0].name
    name.symlink_to(simulated.uncal[0])
    ramps = mx.open_observation([name])
    name.unlink()  # who reads now fails
    cube = mx.reduce(ramps, simulated.reference_folder, to="cube", bands="1A")["science/1A"]
    with pytest.raises(InputFileError, match="cannot be read"):
        cube["flux"][0].compute()


@pytest.mark.slow
def test_nothing_is_computed_twice_up_to_spectra_of_optimal(reduced, simulated):
    """Spectra are computed when they are made, in several turns; no task is of two of them."""
    ran = []

    class Turns(Callback):
        def _start(self, dsk):
            ran.append(set())

        def _pretask(self, key, dsk, state):
            ran[-1].add(str(key))

    cals = [[p for p in reduced.files["cal"] if ("background" in p.parts) is sky] for sky in (False, True)]
    with Turns():
        out = mx.reduce(mx.open_observation(*cals), simulated.reference_folder, "optimal", to="spectrum", bands="1A")
    assert not any(variable.chunks for variable in out["science/1A"].variables.values())
    assert len(ran) > 1
    assert sum(map(len, ran)) == len(set().union(*ran)) > 500


@pytest.mark.parametrize(("mixed", "traced"), [(True, False), (False, True)])
def test_cubes_less_their_background_are_lazy_and_the_same(reduced, simulated, mixed, traced, monkeypatch):
    made = Counter()
    for module, name in ((trace_model, "_fitted"), (exact_errors, "_weights")):
        monkeypatch.setattr(module, name, counted(getattr(module, name), made))
    source = [p for p in reduced.files["cal"] if "background" not in p.parts]
    background_files = [p for p in reduced.files["cal"] if "background" in p.parts]
    recipe = Recipe.of("baseline").set("master_background", like_jwst=mixed).set("trace_model", skip=not traced)
    recipe = recipe.set("cube_build", wavelength_step=0.01, spaxel_size=0.35)
    observation = mx.open_observation(source, background_files)
    with no_compute():
        lazy = mx.make_cubes(observation, simulated.reference_folder, recipe, bands=["1A"])["science/1A"].to_dataset()
    planes = lazy.isel(wavelength=slice(30, 33)).compute()
    assert made == ({} if mixed else {"_weights": 1}) | ({"_fitted": 1} if traced else {})
    whole = mx.make_cubes(observation.compute(), simulated.reference_folder, recipe, bands=["1A"])["science/1A"]
    whole = whole.to_dataset().compute()
    assert lazy.attrs["history_json"] == whole.attrs["history_json"]
    assert ("score_trace_model" in planes) is traced
    for name in planes.data_vars:
        same = whole[name].isel(wavelength=slice(30, 33)) if "wavelength" in planes[name].dims else whole[name]
        np.testing.assert_array_equal(planes[name], same, err_msg=name)


def test_several_levels_at_once(reduced, simulated):
    """From slopes to a cube by one call, lazily, as by two; what is past its level is refused."""
    source = [p for p in reduced.files["rate"] if "background" not in p.parts]
    recipe = Recipe.of("baseline").skipping("outlier_detection")
    observation = mx.open_observation(source)
    cube = mx.reduce(observation, simulated.reference_folder, recipe, to="cube", bands="ch1-short")["science/1A"]
    assert cube["flux"].chunks
    cal = mx.make_cal(observation, simulated.reference_folder, recipe)
    asked = mx.make_cubes(cal, simulated.reference_folder, recipe, bands=["1A"])["science/1A"]
    assert cube.attrs["history_json"] == asked.attrs["history_json"]
    with pytest.raises(MrsxrError, match="level cal; expected one of ramp, rate, cal, cube up to 'rate'"):
        mx.reduce(cal, simulated.reference_folder, to="rate")
    with pytest.raises(MrsxrError, match="to is 'cubes'; expected one of"):
        mx.reduce(cal, to="cubes")
