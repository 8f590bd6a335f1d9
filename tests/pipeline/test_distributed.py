"""The same chains on a dask cluster of processes: the graphs travel, the numbers stay."""

from __future__ import annotations

import numpy as np
import pytest

import mrsxr as mx


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_rate_and_cube_of_a_cluster_equal_those_of_threads(simulated, client):
    refs = mx.References(simulated.reference_folder)
    observation = mx.open_observation(simulated.uncal_folder)
    here = mx.make_rate(observation, refs).compute(scheduler="threads")
    there = mx.make_rate(observation, refs).compute()
    assert client.run(lambda: __import__("mrsxr").__version__)  # the workers have the package
    one, other = (tree["science/12A"].to_dataset() for tree in (here, there))
    for name in ("rate", "var_poisson", "dq"):
        np.testing.assert_array_equal(one[name].values, other[name].values)
    cubes = mx.make_cubes(mx.make_cal(here, refs), refs)
    lazy = cubes["science/1A"].to_dataset().isel(wavelength=slice(300, 320))
    np.testing.assert_array_equal(lazy.flux.compute(scheduler="threads").values, lazy.flux.compute().values)
