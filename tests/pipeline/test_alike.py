"""The graph of an exposure that is like another one: what is built once is what would be built anew."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import mrsxr as mx
from mrsxr.blocks import computed
from mrsxr.pipeline import alike
from mrsxr.pipeline.rate_chain import correct_ramps, fit_slopes

RECIPES = {"baseline": mx.Recipe.of(), "optimal": mx.Recipe.of("optimal").with_option("rate", "save_rateints", True)}
ROWS = [*range(3), 23, 24, 511, 1023]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(alike, "_known", type(alike._known)())


class Counted:
    """The chain of stage 1, and how often its graph was built."""

    def __init__(self, refs, recipe):
        self.refs, self.recipe, self.times = refs, recipe, 0

    def build(self, ds):
        self.times += 1
        ints = self.recipe.option("rate", "save_rateints")
        return fit_slopes(correct_ramps(ds, self.refs, self.recipe), self.refs, self.recipe, ints)

    def __call__(self, ds):
        return alike.built(ds, self.refs, self.recipe, lambda: self.build(ds))


@pytest.mark.parametrize("mode", RECIPES)
def test_an_exposure_like_another_is_as_built_by_itself(simulated, mode):
    chain = Counted(mx.References(simulated.reference_folder), RECIPES[mode])
    first, second = (mx.open_exposures(path) for path in simulated.uncal)
    chain(first)
    found, times = chain(second), chain.times
    wanted = chain.build(second)
    assert times == 1
    assert {str(n) for n in found[0]["exposure"].values} == {str(n) for n in second["exposure"].values}
    for one, other in zip(found, wanted, strict=True):
        assert list(one.variables) == list(other.variables)
        assert list(one.dims) == list(other.dims)
        assert list(one.attrs) == list(other.attrs)
        assert all(one[n].chunks == other[n].chunks for n in other.data_vars)
        one, other = computed([one.isel(y=ROWS, missing_dims="ignore"), other.isel(y=ROWS, missing_dims="ignore")])
        assert one.identical(other)
        assert np.isfinite(one.rate).any()


def test_workers_that_begin_together_build_once(simulated):
    """The second waits and finds; where the first fails, it builds itself."""
    chain = Counted(mx.References(simulated.reference_folder), RECIPES["baseline"])
    inside, go, build = threading.Event(), threading.Event(), chain.build

    def slow(ds):
        if not go.is_set():
            inside.set()
            assert go.wait(60)
            raise OSError("the first fails")
        return build(ds)

    chain.build = slow
    one, *others = [mx.open_exposures(path) for path in (simulated.uncal * 2)[:3]]
    with ThreadPoolExecutor(3) as pool:
        failing = pool.submit(chain, one)
        assert inside.wait(60)
        waiting = [pool.submit(chain, ds) for ds in others]
        go.set()
        with pytest.raises(OSError, match="the first fails"):
            failing.result()
        found = [each.result() for each in waiting]
    assert chain.times == 1
    assert [list(ds[0]["exposure"].values) for ds in found] == [list(ds["exposure"].values) for ds in others]
    assert not alike._locks


def header_with(ds, **keywords):
    """Return ramps whose file would have said something else."""
    text = json.loads(str(ds["fits_header"].values[0]))
    text["PRIMARY"] |= keywords
    return ds.assign_coords(fits_header=("dither", np.array([json.dumps(text)])))


def test_what_differs_is_built_anew(simulated, tmp_path):
    """Other keywords that a step asks for, another reference file, other attributes, shape or blocks."""
    refs = mx.References(simulated.reference_folder)
    chain = Counted(refs, RECIPES["baseline"])
    ds = mx.open_exposures(simulated.uncal[0])
    (found,) = chain(ds)
    chain(header_with(ds, OBSERVER="A. Nother"))  # nobody asks for it
    assert chain.times == 1
    for number, other in enumerate(
        (
            header_with(ds, GAINFACT=7.0),
            ds.assign_attrs(group_time=2 * ds.attrs["group_time"]),
            mx.open_exposures(simulated.uncal[0], chunks={"y": 64}),
            ds.assign_coords(integration=ds["integration"] + 1),
        ),
        2,
    ):
        chain(other)
        assert chain.times == number
    moved = tmp_path / "gain.fits"
    moved.write_bytes(refs.path("gain", ds).read_bytes())
    chain.refs = mx.References(simulated.reference_folder, override={"gain": moved})
    chain(ds)
    assert chain.times == 6
    assert found["exposure"].values[0] in found.attrs["history_json"]


def test_what_cannot_be_alike_is_built_each_time(simulated, recwarn):
    """Steps that look at the time, data that are no plain blocks of a file, and what is told each time."""
    refs = mx.References(simulated.reference_folder)
    ds = mx.open_exposures(simulated.uncal[0])
    for recipe, given in (
        (RECIPES["baseline"].set("persistence", persistence_time=100), ds),
        (RECIPES["baseline"], ds.assign(sci=ds.sci + 1)),
        (RECIPES["baseline"], ds.isel(group=slice(0, 6))),
        (RECIPES["baseline"].set("ramp_fit", firstgroup=9, lastgroup=2), ds),  # not used, which is told
    ):
        chain = Counted(refs, recipe)
        for _ in range(2):
            chain(given)
        assert chain.times == 2, recipe
