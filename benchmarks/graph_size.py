"""How large the graphs are: tasks, megabytes to send and seconds to build, from ramps to cubes, in both modes.

    python benchmarks/graph_size.py [--groups 16] [--integrations 1] [--exposures 4 36] [--folder FOLDER]

Simulates two full frames of one setting (kept in FOLDER, where one is given), counts the tasks that the scheduler gets
and the bytes that the client of dask-distributed sends, and prints a table. Nothing but the exposures of the cubes is
computed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr
from dask._expr import FinalizeCompute
from dask.base import collections_to_expr
from distributed.protocol import serialize, to_serialize
from distributed.utils import nbytes

import mrsxr as mx
from mrsxr import cube, tree
from mrsxr.simulate import simulate_observation


def size_of(ds: xr.Dataset) -> tuple[int, float]:
    """Return the number of tasks and the megabytes of the graph as the client of dask-distributed sends it."""
    arrays = [v.data for v in ds.variables.values() if v.chunks]
    expression = FinalizeCompute(collections_to_expr(arrays)).optimize()
    header, frames = serialize(to_serialize(expression))
    return len(expression.__dask_graph__()), sum(map(nbytes, [header, *frames])) / 1e6


def show(name: str, make: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """Build something, print a row of the table and return it."""
    start = time.perf_counter()
    made = make(*given, **options)
    seconds = time.perf_counter() - start
    tasks, megabytes = size_of(made)
    print(f"{name:40s} {tasks:7d} {megabytes:9.3f} {seconds:8.2f}", flush=True)
    return made


def simulated(folder: Path, groups: int, integrations: int) -> tuple[xr.Dataset, mx.References]:
    """Return the ramps of two exposures and the reference files."""
    if not (folder / "uncal").is_dir():
        simulate_observation(
            folder, bands=["1A"], n_groups=groups, n_integrations=integrations, n_dithers=2, n_background=0
        )
    return mx.open_observation(folder / "uncal")["science/12A"].to_dataset(), mx.References(folder / "refs")


def exposures(folder: Path, ramps: xr.Dataset, refs: mx.References, n: int) -> xr.Dataset:
    """Return ``n`` lazy exposures of level cal, copies of two on disk."""
    files = [folder / f"{number}_cal.nc" for number in range(2)]
    for number, file in enumerate(files):
        if not file.exists():
            mx.save(mx.make_cal(mx.make_rate(ramps.isel(dither=[number]), refs), refs), file)
    pair = [mx.load(file) for file in files]
    return tree.join_dithers([pair[k % 2].assign_coords(exposure=("dither", [f"exposure_{k}"])) for k in range(n)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--groups", type=int, default=16)
    parser.add_argument("--integrations", type=int, default=1)
    parser.add_argument("--exposures", type=int, nargs="*", default=[4, 36])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="graph_size_"))
    ramps, refs = simulated(folder, given.groups, given.integrations)
    one = ramps.isel(dither=[0])
    print(f"{given.groups} groups x {given.integrations}, {len(one.sci.chunksizes['y'])} blocks of rows")
    print(f"{'':40s} {'tasks':>7s} {'MB':>9s} {'s':>8s}")
    for mode in ("baseline", "optimal"):
        rate = show(f"{mode}: rate", mx.make_rate, one, refs, mode)
        show(f"{mode}: rate and cal", mx.make_cal, rate, refs, mode)
    for n in given.exposures:
        cal = exposures(folder, ramps, refs, n)
        show(f"cube of {n} exposures", cube.build_cube, cal, band="1A")


if __name__ == "__main__":
    main()
