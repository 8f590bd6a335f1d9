"""Reduce observations on disk: the pieces of their plans side by side, each written as soon as it is done."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mrsxr.arguments import as_band_words, as_bands, reads
from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.io import Found, find_files
from mrsxr.io.files import BACKGROUND, FileInfo
from mrsxr.io.grouping import Exposure, Plan, plan
from mrsxr.limits import Redshift, Workers, checked
from mrsxr.mrs import BANDS, setting_of_band
from mrsxr.notes import listen, tell
from mrsxr.references import References
from mrsxr.threads import cores_here

from .arrivals import Arrivals, check_background, one_of_each_band
from .combine_chain import one_background
from .engine import CLAIMS, Course
from .given import check_bands, references_of
from .needs import READY, require_references
from .observations import Observation, apart, observations
from .pieces import Filed, Way
from .plan import Planner, Unit
from .recipe import Recipe
from .record import RunRecord
from .reduction import Reduction, RunResult, StageReporter, together
from .reporter import Reporter, reporter_here
from .signals import graceful
from .store import Store

Target = Literal["rate", "cal", "cube", "spectrum"]
_FOLDERS = ["matched", *(part + stage for part in ("", "background/") for stage in ("stage1", "stage2", "stage3"))]


@reads(bands=as_band_words)
@checked
def run(
    source: Any,
    background: Any = None,
    *,
    out: str | Path = "mrsxr_out",
    refs: References | str | Path | None = None,
    bands: str | int | Iterable[str | int] | None = None,
    to: Target = "spectrum",
    recipe: Recipe | str | Path | None = None,
    workers: Workers | None = None,
    reporter: Reporter | None = None,
    redshift: Redshift | None = None,
    allow_missing: bool = False,
    executor: Executor | Callable[[], Executor] | None = None,
    fresh: bool = False,
    wait: bool = False,
) -> RunResult:
    """Reduce an observation from what is there (uncal, rate, cal or s3d files) to the level asked for.

    Parameters
    ----------
    source, background : path, glob, list of paths or association
        As in :func:`mrsxr.io.find_files`; files that jwst wrote are taken as well.
    out : path
        Products go to ``stage1/``, ``stage2/``, ``stage3/`` under it, those of background exposures to
        ``background/stage1/`` ...; what was done, in which time, and what failed is appended to ``run.json``. Where the
        exposures are of several observations or targets, each has a folder of its own under it, ``02732-o004/``.
    refs : References or path, optional
        Reference files; needed unless the run begins with s3d files.
    bands : str, int or iterable of them, optional
        Only these bands ("1A,2A", "ch1-short") or channels (1); one that is not there is an error.
    to : {"rate", "cal", "cube", "spectrum"}
    recipe : Recipe, name or TOML file, optional
        Which steps, in which order, with which parameters; by default "baseline".
    workers : int, optional
        Pieces worked on side by side, by a core each; by default as many as there are cores.
    reporter : Reporter, optional
        Is told of every piece; by default the log, in a notebook a text that is renewed.
    redshift : float, optional
        Redshift of the source; cubes and spectra carry it as ``attrs["redshift"]``.
    allow_missing : bool
        Build a band also where some of its exposures (or segments, or its background) failed or could not be read;
        its products say so. By default such a band fails.
    executor : concurrent.futures.Executor, or what makes one, optional
        Whose workers do the pieces, in place of threads of this process: a ProcessPoolExecutor, or
        ``client.get_executor()`` of dask-distributed. They see the same files under the same names.

    fresh : bool
        Make all anew. By default pieces are taken over that an earlier run in ``out`` did with the same inputs,
        parameters, reference files and version, and whose files are whole.
    wait : bool
        Where another run works in ``out``, wait for its end; by default that is an error.

    Returns
    -------
    RunResult
        Files written by level; what failed by name and reason. Other exposures are not lost by a failure.

    Raises
    ------
    MrsxrError
        Where there is nothing to do, an argument is not known, or the files do not make one product
        (:mod:`mrsxr.io.grouping`).

    Examples
    --------
    >>> result = mx.run(cube_file, out="again", refs=refs)
    >>> [path.name[-9:] for path in result.files["spectrum"]]
    ['_x1d.fits']
    """
    start = time.perf_counter()
    wanted = BANDS if bands is None else as_bands(bands)
    recipe, workers = Recipe.of(recipe), workers or cores_here()
    matched = recipe.values("stitch")["reference_band"] if to == "spectrum" else None
    if matched is not None and matched not in wanted:
        raise MrsxrError(f"reference_band is {matched}; expected one of the bands asked for, {', '.join(wanted)}")
    references = references_of("run", refs, needed=False)
    found = find_files(source, background, on_error="skip", of_runs=False)
    if bands is not None:
        check_bands(bands, found)
    with listen() as told:
        if recipe.runs("bkg_subtract"):
            recipe = one_background(recipe)
    out = Path(out)
    if executor is not None:  # whose workers may stand in another folder
        found, out = replace(found, files=[replace(f, path=f.path.absolute()) for f in found.files]), out.absolute()
    job = _Asked(source, background, out, references, recipe, wanted, to, redshift, allow_missing, fresh, workers)
    shared = StageReporter(reporter or reporter_here())
    parts, refused = _observations(job, found)
    unread = apart(found.skipped, parts) if parts[0].title else [found.skipped]
    reductions = [
        _reduction(job, found, one, lost, shared, told, bands is not None)
        for one, lost in zip(parts, unread, strict=True)
    ]
    for stage, lost in (("read", found.skipped), ("plan", refused)):
        for name, reason in lost.items():
            shared.reporter.failed(stage, name, reason)
    carry_out(reductions, executor, workers, wait=wait)
    if not parts[0].title:
        return reductions[0].result
    results = {one.title: one.result for one in reductions}
    return together(out, results, time.perf_counter() - start, {**found.skipped, **refused})


@dataclass(frozen=True)
class _Asked:
    """What a run was asked for."""

    source: Any
    background: Any
    out: Path
    refs: References | None
    recipe: Recipe
    bands: Sequence[str]
    to: str
    redshift: float | None
    allow_missing: bool
    fresh: bool
    workers: int


def _observations(asked: _Asked, found: Found) -> tuple[list[Observation], dict[str, str]]:
    """Return what is to be reduced: the exposures of each product, or cubes; and what stands against some, by name.

    Raises
    ------
    MrsxrError
        Where there is nothing to do.
    """
    settings = {setting_of_band(band) for band in asked.bands}
    files = [f for f in found.files if f.product in READY and f.node in settings]
    if files:

        def check(plan: Plan) -> None:
            plan.check(asked.source, one_product=False)
            check_background(plan, asked.recipe, asked.background, asked.to, allow_missing=asked.allow_missing)

        parts, refused = observations(files, check, allow_missing=asked.allow_missing, one_product=found.one_product,
                                      all_backgrounds=asked.background is not None)  # fmt: skip
        require_references([info for one in parts for info in one.files], asked.refs, asked.recipe, asked.to)
        return parts, refused
    cubes = [f for f in found.files if f.product == "s3d" and f.node in asked.bands and f.role != BACKGROUND]
    if not cubes:
        raise InputFileError(f"{asked.source}: no exposures or cubes of bands {', '.join(asked.bands)} to work on")
    if asked.to != "spectrum":
        raise InputFileError(f"{asked.source}: holds cubes only; there is nothing to do up to '{asked.to}'")
    return [Observation("", plan([]), one_of_each_band(cubes))], {}


def _reduction(
    asked: _Asked, found: Found, one: Observation, unread: Mapping[str, str], told: StageReporter,
    early: Sequence[str], some_bands: bool,
) -> Reduction:  # fmt: skip
    """Return the plan of one observation, its record begun."""
    files, recipe = one.files, asked.recipe
    record = RunRecord.begin(
        recipe, str(asked.refs.source) if asked.refs is not None else "none", source=asked.source,
        background=asked.background, to=asked.to, bands=asked.bands if some_bands else None, workers=asked.workers,
        redshift=asked.redshift, allow_missing=asked.allow_missing,
    )  # fmt: skip
    record.inputs = [{"path": str(f.path), "product": f.product, "of": f.node, "role": f.role} for f in files]
    with listen() as heard:
        for text in one.plan.notes:
            tell(text)
    record.note(*early, *heard)
    planner = Planner(recipe, asked.bands)
    if one.cubes:
        cubes = {cube.node: Filed(cube.path, cube.role, cube.exposure) for cube in one.cubes}
        planner.matched(cubes.values())
        planner.spectra(cubes, {})
    else:
        planner.whole([_unit(exposure) for exposure in one.plan.exposures], asked.to)
    arrivals = Arrivals.of(one.plan, unread, asked.allow_missing, found.files)
    reduction = Reduction(
        planner.tasks, Way(asked.refs, recipe, None if asked.redshift is None else float(asked.redshift), arrivals),
        Store(asked.out / one.title), record, told, _headers(one), one.title, asked.fresh,
    )  # fmt: skip
    reduction.unread(unread)
    return reduction


def _headers(one: Observation) -> dict[str, FileInfo]:
    """Return a header of each setting (band of cubes) and exposure."""
    files = list(reversed(one.files))
    return {info.node: info for info in files} | {e.name: e.info for e in one.plan.exposures}


def _unit(one: Exposure) -> Unit:
    keywords = one.info.keywords
    return Unit(one.role, one.node, one.info.path.name, one.name, READY[one.info.product], one,
                (keywords.get("SUBARRAY"), keywords.get("READPATT")))  # fmt: skip


def carry_out(
    reductions: Sequence[Reduction], executor: Executor | Callable[[], Executor] | None, workers: int, *,
    wait: bool = False,
) -> None:  # fmt: skip
    """Do the pieces of observations by threads of this process, or by the workers of an executor, in one queue."""

    def make() -> Executor:
        if callable(executor):
            return executor()
        return executor or ThreadPoolExecutor(workers, "mrsxr")

    with ExitStack() as stores, graceful(early=True) as stop:
        for one in reductions:
            one.store.begin(wait=wait, parts=_FOLDERS)
            stores.callback(one.store.finish)
            shutil.rmtree(one.out / CLAIMS, ignore_errors=True)
            one.plan()
        finished = stop.early = False
        course = Course({task: one for one in reductions for task in one.tasks}, make, None if executor else workers)
        try:
            if not course.run(stop):
                done, total = sum(len(one.files) for one in reductions), sum(len(one.tasks) for one in reductions)
                raise stop.error(f"{done} of {total} pieces are done; the next run takes them over")
            finished = True
        finally:
            if executor is None or callable(executor):
                course.executor.shutdown(wait=finished, cancel_futures=True)
            for one in reductions:
                if finished:
                    one.store.sweep("workers that died")
                one.close(finished=finished)
