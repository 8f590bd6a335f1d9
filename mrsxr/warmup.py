"""Fill the cache of compiled kernels before work begins, so that no process of a run has to wait for a compiler."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .io import load_dataset
from .lines import fit_lines, moments
from .notes import listen
from .pipeline import Reporter, run
from .pipeline.recipe import MODES
from .simulate import Effects, simulate_observation
from .threads import cores_here


@dataclass(frozen=True)
class Warmth:
    """What a warm-up left: the folder of compiled kernels, those that were not in it, and how long it took [s]."""

    folder: Path
    compiled: int
    seconds: float


def warmup(*, workers: int | None = None, reporter: Reporter | None = None) -> Warmth:
    """Reduce a small simulated observation in both modes and fit lines: what a reduction calls is compiled and kept.

    Parameters
    ----------
    workers : int, optional
        By default as many as there are cores.
    reporter : Reporter, optional

    Returns
    -------
    Warmth
    """
    from .compiled import cache_folder, compiled_here

    start, before = time.perf_counter(), len(compiled_here())
    reporter, workers = reporter or Reporter(), workers or cores_here()
    with TemporaryDirectory(prefix="mrsxr-warmup-") as folder, listen(pass_on=True):  # of nobody's data
        made = simulate_observation(
            Path(folder) / "simulated", bands=("1A",), n_groups=10, n_integrations=2, n_dithers=2, n_background=1,
            save_slopes=False, effects=Effects(straylight=True, leak=True), workers=workers,
        )  # fmt: skip
        redshift = float(made.sources.redshift[0]) if made.sources is not None else None
        for mode in MODES:
            result = run(
                made.uncal_folder, made.background_folder, out=Path(folder) / mode, refs=made.reference_folder,
                recipe=mode, workers=workers, reporter=reporter, redshift=redshift,
            )  # fmt: skip
        cube, spectrum = (load_dataset(result.files[level][0]) for level in ("cube", "spectrum"))
        cube = cube.isel(y=slice(12, 15), x=slice(12, 15))
        for data in (spectrum, cube):
            fit_lines(data).compute()
        moments(cube, float(cube.wavelength.mean()), redshift=0.0).compute()
    return Warmth(cache_folder(), len(compiled_here()) - before, time.perf_counter() - start)
