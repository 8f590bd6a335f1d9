"""The same chains on a dask cluster of processes: the graphs travel, the numbers stay."""

from __future__ import annotations

import numpy as np
import pytest
from dask.base import collections_to_expr
from distributed.protocol import serialize, to_serialize
from distributed.utils import nbytes

import mrsxr as mx


@pytest.mark.parametrize("mode", ["baseline", "optimal"])
def test_the_graph_of_an_exposure_is_small(simulated, mode):
    """Full frames in the default blocks, from ramps to surface brightness; no coordinate and no reference is in it."""
    refs = mx.References(simulated.reference_folder)
    ramps = mx.open_observation(simulated.uncal_folder)["science/12A"].to_dataset().isel(dither=[0])
    cal = mx.make_cal(mx.make_rate(ramps, refs, mode), refs, mode)
    arrays = [v.data for v in cal.variables.values() if v.chunks]
    header, frames = serialize(to_serialize(collections_to_expr(arrays)))
    assert len(set().union(*(a.__dask_graph__() for a in arrays))) <= 250
    assert sum(map(nbytes, [header, *frames])) <= 0.3e6
    assert not any(c.chunks for c in cal.coords.values())


@pytest.mark.parametrize("mode", ["baseline", "optimal"])
def test_the_graph_of_a_cube_is_small(reduced, simulated, mode):
    """Of exposures that were opened, whose slice coordinates are in memory: what makes them travels in their place.

    In optimal the area of the pixels of a band, 2 MB, is left.
    """
    cals = [p for p in reduced.files["cal"] if "background" not in p.parts]
    cubes = mx.make_cubes(mx.open_observation(cals), mx.References(simulated.reference_folder), mode, bands="1A")
    arrays = [v.data for v in cubes["science/1A"].to_dataset().variables.values() if v.chunks]
    header, frames = serialize(to_serialize(collections_to_expr(arrays)))
    assert sum(map(nbytes, [header, *frames])) <= {"baseline": 0.3e6, "optimal": 3.5e6}[mode]


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        yield client


def test_rate_cal_and_cube_of_a_cluster_equal_those_of_threads(simulated, reduced, client):
    """Blocks of rows beside and away from an edge, against what the run by threads wrote; a cube of files.

    In memory they would travel in the graph.
    """
    refs = mx.References(simulated.reference_folder)
    assert client.run(lambda: __import__("mrsxr").__version__)  # the workers have the package
    rates, cals = ([p for p in reduced.files[level] if "background" not in p.parts] for level in ("rate", "cal"))
    rate = mx.make_rate(mx.open_observation(simulated.uncal_folder), refs)["science/12A"].to_dataset()
    cal = mx.make_cal(mx.open_observation(rates), refs)["science/12A"].to_dataset()
    cubes = mx.make_cubes(mx.open_observation(cals), refs, bands=["1A"])
    planes = cubes["science/1A"].to_dataset()[["flux", "dq"]].isel(wavelength=slice(300, 320))
    parts = [
        (rate[["rate", "var_poisson", "dq"]].isel(dither=[1], y=[0, 500]), mx.load(rates[1]).isel(y=[0, 500])),
        (cal[["flux", "var_read", "dq"]].isel(dither=[0], y=[7, 800]), mx.load(cals[0]).isel(y=[7, 800])),
        (planes, planes),
    ]
    for part, by_threads in parts:
        assert all(v.chunks for v in part.data_vars.values())
        here, there = by_threads[list(part.data_vars)].compute(scheduler="threads"), part.compute()
        np.testing.assert_array_equal(here.get("exposure", 0), there.get("exposure", 0))
        for name in part.data_vars:
            np.testing.assert_array_equal(here[name].values, there[name].values)
            assert np.any(here[name].values != 0)
