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


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        yield client


def test_rate_and_cube_of_a_cluster_equal_those_of_threads(simulated, client, tmp_path):
    refs = mx.References(simulated.reference_folder)
    observation = mx.open_observation(simulated.uncal_folder)
    here = mx.make_rate(observation, refs).compute(scheduler="threads")
    there = mx.make_rate(observation, refs).compute()
    assert client.run(lambda: __import__("mrsxr").__version__)  # the workers have the package
    one, other = (tree["science/12A"].to_dataset() for tree in (here, there))
    for name in ("rate", "var_poisson", "dq"):
        np.testing.assert_array_equal(one[name].values, other[name].values)
    mx.save(here, tmp_path)  # rates in memory would travel in the graph
    cubes = mx.make_cubes(mx.make_cal(mx.open_observation(tmp_path), refs), refs)
    lazy = cubes["science/1A"].to_dataset().isel(wavelength=slice(300, 320))
    np.testing.assert_array_equal(lazy.flux.compute(scheduler="threads").values, lazy.flux.compute().values)
