"""Reduce a whole observation on disk: exposures side by side, each written as soon as it is done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeVar

import dask
import xarray as xr

from mrsxr.arguments import as_band_words, as_bands, reads
from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.io import Found, find_files, load_dataset, planned, save
from mrsxr.io._names import root_name
from mrsxr.io.atomic import check_folder
from mrsxr.io.files import BACKGROUND
from mrsxr.io.grouping import Exposure, Plan, plan
from mrsxr.limits import Redshift, Workers, checked
from mrsxr.mrs import BANDS, bands_of_setting, setting_of_band
from mrsxr.notes import listen, tell
from mrsxr.references import References
from mrsxr.threads import how, side_by_side

from .arrivals import ADVICE, Arrivals, Underway, check_background, one_of_each_band, open_underway
from .cal_chain import PIXEL_BACKGROUNDS, locate, masks_of
from .chains import (
    background_spectra,
    background_spectrum,
    fields_of,
    make_cal,
    make_cube,
    make_joint_cubes,
    make_rate,
    make_rate_and_ints,
    make_target_cube,
    of_whole_fields,
)
from .combine_chain import combine, one_background
from .config import Config
from .given import check_bands, references_of
from .memory import give_back
from .needs import NO_REFERENCES, READY, require_references
from .record import Piece, RunRecord, made, peak_memory, piece_name, relative, working_on
from .reporter import Reporter
from .source_types import source_types_of
from .spectrum_chain import (
    check_spectra,
    correct_leak,
    correct_leak_in_cubes,
    make_spectrum,
    require_aperture_correction,
    stitch,
)

log = logging.getLogger(__name__)

Target = Literal["rate", "cal", "cube", "spectrum"]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class RunResult:
    """What a run wrote and what it could not do; ``record`` is what stands in ``run.json``."""

    out: Path
    files: dict[str, list[Path]] = field(default_factory=dict)  # "rate", "cal", "cube", "spectrum", "stitched"
    failed: dict[str, str] = field(default_factory=dict)  # name: reason
    seconds: float = 0.0
    record: RunRecord | None = None
    _owners: dict[Path, str] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=Lock, repr=False, compare=False)

    def save(self, level: str, data: xr.Dataset, where: Path, *, suffix: str | None = None) -> list[Path]:
        """Save a product of a level, note its files and return them.

        Raises
        ------
        MrsxrError
            Where this run wrote another product of that name: nothing is written then.
        """
        mine = f"{level} of {piece_name()}"
        with self._lock:
            for path in planned(data, where, suffix=suffix):
                if path in self._owners:
                    raise MrsxrError(
                        f"{path}: the {mine} would have the name of the {self._owners[path]} of this run; reduce them "
                        "into folders of their own"
                    )
                self._owners[path] = mine
        paths = save(data, where, suffix=suffix)
        self.files.setdefault(level, []).extend(paths)
        made(paths, self.out, data)
        return paths


@dataclass(frozen=True)
class _Job:
    """What all pieces of a run share."""

    out: Path
    refs: References | None
    config: Config
    result: RunResult
    reporter: Reporter
    workers: int
    record: RunRecord
    arrivals: Arrivals
    z: float | None = None

    def folder(self, role: str, stage: int) -> Path:
        return (self.out / "background" if role == "background" else self.out) / f"stage{stage}"

    def references(self) -> References:
        if self.refs is None:
            raise MrsxrError(NO_REFERENCES)
        return self.refs

    def with_redshift(self, ds: xr.Dataset) -> xr.Dataset:
        return ds if self.z is None else ds.assign_attrs(redshift=float(self.z))

    def each(self, stage: str, items: Sequence[Item], name: Callable[[Item], str], work: Callable[[Item], Result]):
        """Run ``work`` on every item side by side; a failure is noted and does not stop the others."""
        if not items:
            return []
        self.reporter.begin(stage, len(items))
        pieces = [Piece(stage, name(item)) for item in items]
        self.record.pieces += pieces

        def attempt(item: Item, piece: Piece) -> Result | None:
            start = time.perf_counter()
            working_on(piece)
            try:
                with listen() as piece.notes:
                    value = work(item)
            except Exception as error:
                piece.failed = str(error) if isinstance(error, MrsxrError) else f"{type(error).__name__}: {error}"
                log.debug("%s: %s", stage, piece.name, exc_info=True)
                earlier = self.result.failed.get(piece.name)
                self.result.failed[piece.name] = (
                    piece.failed if earlier is None else f"{earlier}; {stage}: {piece.failed}"
                )
                self.reporter.failed(stage, piece.name, piece.failed)
                return None
            finally:
                working_on(None)
                self.record.note(*piece.notes)
                piece.seconds, piece.peak_memory = round(time.perf_counter() - start, 3), peak_memory()
                give_back()
            self.reporter.done(stage, piece.name, piece.seconds)
            return value

        with side_by_side(self.workers, len(items)) as pool:
            return [value for value in pool.map(attempt, items, pieces) if value is not None]


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
    config: Config | None = None,
    workers: Workers = 2,
    reporter: Reporter | None = None,
    z: Redshift | None = None,
    allow_missing: bool = False,
) -> RunResult:
    """Reduce an observation from what is there (uncal, rate, cal or s3d files) to the level asked for.

    Parameters
    ----------
    source, background : path, glob, list of paths or association
        As in :func:`mrsxr.io.find_files`; files that jwst wrote are taken as well.
    out : path
        Products go to ``stage1/``, ``stage2/``, ``stage3/`` under it, those of background exposures to
        ``background/stage1/`` ...; what was done, in which time, and what failed is appended to ``run.json``.
    refs : References or path, optional
        Reference files; needed unless the run begins with s3d files.
    bands : str, int or iterable of them, optional
        Only these bands ("1A,2A", "ch1-short") or channels (1); one that is not there is an error.
    to : {"rate", "cal", "cube", "spectrum"}
    config : Config, optional
    workers : int
        Exposures (bands) worked on side by side.
    reporter : Reporter, optional
        Is told of every piece.
    z : float, optional
        Redshift of the source; cubes and spectra carry it as ``attrs["redshift"]``.
    allow_missing : bool
        Build a band also where some of its exposures (or segments, or its background) failed or could not be read;
        its products say so. By default such a band fails.

    Returns
    -------
    RunResult
        Files written by level; what failed by name and reason. Other exposures are not lost by a failure.

    Raises
    ------
    MrsxrError
        Where there is nothing to do, an argument is not known, or the files do not make one product
        (:mod:`mrsxr.io.grouping`).
    """
    start = time.perf_counter()
    wanted = BANDS if bands is None else as_bands(bands)
    config = config or Config()
    if to == "spectrum":
        check_spectra(config.spectrum, wanted)
    references = references_of("run", refs, needed=False)
    found = find_files(source, background, on_error="skip")
    if bands is not None:
        check_bands(bands, found)
    early: list[str] = []
    if config.cal.background in PIXEL_BACKGROUNDS:
        with listen() as told:
            config = replace(config, cube=one_background(config.cube))
        early += told
    settings = {setting_of_band(b) for b in wanted}
    files = [f for f in found.files if f.product in READY and f.node in settings]
    grouped = plan(files, allow_missing=allow_missing, one_product=found.one_product)
    grouped.check(source, one_product=to not in ("rate", "cal"))
    cubes = [f for f in found.files if f.product == "s3d" and f.node in wanted and f.role != BACKGROUND]
    if not files and not cubes:
        raise InputFileError(f"{source}: no exposures or cubes of bands {', '.join(wanted)} to work on")
    if not files and to != "spectrum":
        raise InputFileError(f"{source}: holds cubes only; there is nothing to do up to '{to}'")
    if files:
        check_background(grouped, config, background, to, allow_missing=allow_missing)
    else:
        one_of_each_band(cubes)
    require_references(files, references, config, to)
    job = _begin(
        Path(out), references, config, reporter or Reporter(), found, grouped, source=source,
        background=background, to=to, bands=None if bands is None else wanted, workers=workers, redshift=z,
        allow_missing=allow_missing,
    )  # fmt: skip
    job.record.inputs = [
        {"path": str(f.path), "product": f.product, "of": f.node, "role": f.role}
        for f in ([info for e in grouped.exposures for info in e.files] or cubes)
    ]
    with listen() as told:
        for text in grouped.notes:
            tell(text)
    job.record.note(*early, *told)
    check_folder(out, [part + stage for part in ("", "background/") for stage in ("stage1", "stage2", "stage3")])
    with _recorded(job, start):
        if files:
            _from_exposures(job, grouped.exposures, wanted, to)
        else:
            _extract_all(job, [(f.node, "", f.path) for f in cubes], {})
    return job.result


def _begin(
    out: Path, refs: References | None, config: Config, reporter: Reporter, found: Found, grouped: Plan,
    **settings: Any,
) -> _Job:  # fmt: skip
    """Return a job with its record; files that could not be read are noted as failed."""
    record = RunRecord.begin(config, str(refs.source) if refs is not None else "none", **settings)
    result = RunResult(out, record=record)
    for path, reason in found.skipped.items():
        result.failed[path] = reason
        reporter.failed("read", path, reason)
        record.pieces.append(Piece("read", path, failed=reason))
    arrivals = Arrivals.of(grouped, found.skipped, settings["allow_missing"], found.files)
    return _Job(out, refs, config, result, reporter, settings["workers"], record, arrivals, settings["redshift"])


@contextmanager
def _recorded(job: _Job, start: float) -> Iterator[None]:
    """Write the record when the work is over, also where it was broken off."""
    record = job.record
    try:
        yield
        record.finished = True
    finally:
        job.result.seconds = time.perf_counter() - start
        record.seconds, record.peak_memory = round(job.result.seconds, 3), peak_memory()
        record.failed = dict(job.result.failed)
        record.products = {k: [relative(path, job.out) for path in v] for k, v in job.result.files.items()}
        record.write(job.out)


def _from_exposures(job: _Job, exposures: list[Exposure], wanted: tuple[str, ...], to: str) -> None:
    calibrated = _calibrate_all(job, exposures, to)
    if to in ("rate", "cal"):
        return
    groups: dict[tuple[str, str], list[Underway]] = {(e.role, e.node): [] for e in exposures}
    for one in calibrated:
        groups[one.role, one.setting].append(one)
    pieces = {
        role: [
            (role, band, setting)
            for r, setting in groups if r == role
            for band in bands_of_setting(setting) if band in wanted
        ]
        for role in ("background", "science")
    }  # fmt: skip
    if job.config.cube.background != "master":
        pieces["background"] = []
    spectra = job.each(
        "background",
        pieces["background"],
        lambda p: p[1],
        lambda p: (p[1], _background(job, p[1], p[2], groups[p[0], p[2]])),
    )
    lost = {p[1] for p in pieces["background"]} - {band for band, _ in spectra}
    combined = _combine(job, groups, [one for _, found in spectra for one in found], wanted)

    def build(piece: tuple[str, str, str]) -> tuple[str, str, Path]:
        _, band, setting = piece
        if band in lost and not job.arrivals.allow_missing:
            raise MrsxrError(f"the background of band {band} failed; {ADVICE}")
        return _make_cube(job, band, setting, combined[setting])

    pieces["science"] = [piece for piece in pieces["science"] if piece[2] in combined]
    cubes = job.each("cube", pieces["science"], lambda p: p[1], build)
    paths = {band: path for band, _, path in cubes}
    _correct_leak(job, paths)
    if combined:
        _make_joint_cubes(job, combined, paths)
    if to == "spectrum":
        _extract_all(job, cubes, combined)


def _calibrate_all(job: _Job, exposures: list[Exposure], to: str) -> list[Underway]:
    """Take all exposures to cal; to rate first, where slopes of some are needed for others."""
    items = [Underway(e, READY[e.info.product]) for e in exposures]
    config = job.config.cal
    together = config.background in PIXEL_BACKGROUNDS or config.badpix_selfcal != "none" or config.latents
    if not together or to == "rate":
        return job.each("calibrate", items, lambda e: e.planned.info.path.name, lambda e: _calibrate(job, e, to))
    items = job.each("rate", items, lambda e: e.planned.info.path.name, lambda e: _calibrate(job, e, "rate"))
    slopes = [e for e in items if e.stage == 1]
    masks = masks_of([open_underway(e) for e in slopes] if config.badpix_selfcal != "none" else [], config)

    def finish(item: Underway) -> Underway:
        behind = [e for e in slopes if e.role == BACKGROUND and e.setting == item.setting]
        background = open_underway(*behind) if behind and item.role != BACKGROUND else None
        if background is not None and config.background in PIXEL_BACKGROUNDS:
            background = job.arrivals.check(BACKGROUND, item.setting, [e.name for e in behind], background)
        earlier = [e for e in slopes if e.setting[:2] == item.setting[:2]] if config.latents else []
        others = {"background": background, "bad_pixels": masks.get(item.setting[:2])}
        return _calibrate(job, item, to, history=[open_underway(e) for e in earlier], **others)

    return job.each("calibrate", items, lambda e: e.planned.info.path.name, finish)


def _calibrate(job: _Job, item: Underway, to: str, **others: Any) -> Underway:
    """Take one exposure to rate and cal, as far as it is not there yet; ``others`` are for make_cal."""
    stage, path = item.stage, item.path
    ds = open_underway(item)
    if stage == 0:
        if job.config.rate.save_rateints:
            lazy = make_rate_and_ints(ds, job.references(), job.config.rate)
            ds, integrations = dask.compute(*lazy, **how())
            job.result.save("rateints", integrations, job.folder(item.role, 1))
        else:
            ds = make_rate(ds, job.references(), job.config.rate).compute(**how())
        stage, path = 1, job.result.save("rate", ds, job.folder(item.role, 1))[0]
    if stage == 1 and to != "rate":
        config = replace(job.config.cal, background="none") if item.role == BACKGROUND else job.config.cal
        ds = make_cal(ds, job.references(), config, **others).compute(**how())
        stage, path = 2, job.result.save("cal", ds, job.folder(item.role, 2))[0]
    return replace(item, stage=stage, path=path)


def _open_cal(job: _Job, role: str, setting: str, exposures: list[Underway]) -> xr.Dataset:
    """Open the calibrated exposures of a setting; raise where some are missing and that is not allowed."""
    names = [one.name for one in exposures]
    if not names or not job.arrivals.allow_missing:
        job.arrivals.check(role, setting, names, xr.Dataset())
    if not names:
        raise MrsxrError(f"{role} {setting}: none of its exposures arrived")
    ds = job.arrivals.check(role, setting, names, open_underway(*exposures))
    return ds if "alpha_coefficients" in ds else locate(ds, job.references())


def _background(job: _Job, band: str, setting: str, exposures: list[Underway]) -> list[xr.Dataset]:
    """Write cube and spectrum of the background exposures in a band; return the spectra that are subtracted."""
    ds = _open_cal(job, BACKGROUND, setting, exposures)
    spectra = []
    for number, part in enumerate(fields_of(ds), 1):
        cube = make_cube(part, band, job.refs, job.config.cube).compute(**how())
        cube = cube if number == 1 else cube.assign_attrs(product_name=f"{root_name(cube)}-field{number}")
        job.result.save("background cube", cube, job.folder(BACKGROUND, 3))
        spectra.append(background_spectrum(cube, part, job.refs, job.config.cube))
        job.result.save("background spectrum", spectra[-1], job.folder(BACKGROUND, 3))
    whole = of_whole_fields(ds, job.config.cube)
    return spectra if whole else background_spectra(ds, band, job.refs, job.config.cube)


def _combine(
    job: _Job, groups: dict[tuple[str, str], list[Underway]], spectra: list[xr.Dataset], bands: Sequence[str]
) -> dict[str, xr.Dataset]:
    """Return the science exposures of each setting, lazily corrected by what they show together."""
    over_field = job.config.cube.background == "field"
    keys = [key for key in groups if key[0] == "science" or over_field]
    opened = job.each("open", keys, lambda k: " ".join(k), lambda k: (k, _open_cal(job, *k, groups[k])))
    science = {setting: ds for (role, setting), ds in opened if role == "science"}
    behind = {setting: ds for (role, setting), ds in opened if role == BACKGROUND}
    if over_field and not job.arrivals.allow_missing:  # what failed stands among the pieces
        science = {setting: ds for setting, ds in science.items() if setting in behind}

    def work(_: str) -> dict[str, xr.Dataset]:
        return combine(science, job.config.cube, spectra=spectra, behind=behind, settle=True, bands=bands)

    found = job.each("combine", ["exposures"] if science else [], str, work)
    return found[0] if found else {}


def _make_cube(job: _Job, band: str, setting: str, ds: xr.Dataset) -> tuple[str, str, Path]:
    cube = job.with_redshift(make_target_cube(ds, band, job.refs, job.config.cube).compute(**how()))
    return band, setting, job.result.save("cube", cube, job.folder("science", 3))[0]


def _correct_leak(job: _Job, paths: dict[str, Path]) -> None:
    """Take the light of band 1B off the cube of 3A and write that again, where the config says so."""
    if not (job.config.cube.spectral_leak and {"1B", "3A"} <= set(paths)):
        return

    def work(_: str) -> list[Path]:
        opened = {band: load_dataset(paths[band]) for band in ("1B", "3A")}
        return save(correct_leak_in_cubes(opened, job.refs, job.config.cube)["3A"].compute(**how()), paths["3A"])

    job.each("leak", ["1B to 3A"], str, work)


def _make_joint_cubes(job: _Job, exposures: dict[str, xr.Dataset], bands: dict[str, Path]) -> None:
    """Write the cubes of several bands, block by block, without the light of band 1B as the config says."""
    if job.config.cube.output_type == "band":
        return

    def plan(_: str) -> dict[str, xr.Dataset]:
        joint = make_joint_cubes(exposures.values(), job.refs, job.config.cube)
        blue = {band: load_dataset(path) for band, path in bands.items() if band == "1B"}
        corrected = correct_leak_in_cubes(blue | joint, job.refs, job.config.cube)
        return {name: corrected[name] for name in joint}

    planned_cubes = job.each("plan", ["joint cubes"], str, plan)
    lazy = planned_cubes[0] if planned_cubes else {}

    def write(name: str) -> None:
        job.result.save("joint cube", job.with_redshift(lazy[name]), job.folder("science", 3))

    job.each("joint cube", list(lazy), str, write)


def _extract_all(job: _Job, cubes: list[tuple[str, str, Path]], exposures: dict[str, xr.Dataset]) -> None:
    """Extract the spectra of all bands, take off the leak, save and stitch them; of both types where asked for."""
    opened = {band: load_dataset(path) for band, _, path in cubes}
    config = job.config.spectrum
    told: dict[str, Any] = {"asked": config.source_type}

    def decide(_: str) -> tuple[str, ...]:
        kinds = source_types_of(list(opened.values()), config, told)
        if "POINT" in kinds and config.aperture_correction:  # told once, not by each band
            require_aperture_correction(next(iter(opened.values())), job.refs)
        return kinds

    kinds = job.each("source type", ["target"], str, decide)
    job.record.decisions["source type"] = {**told, "taken": list(kinds[0]) if kinds else []}
    for kind in kinds[0] if kinds else ():

        def extract(piece: tuple[str, str, Path], kind: str = kind) -> tuple[str, xr.Dataset]:
            band, setting, _ = piece
            found = make_spectrum(
                opened[band].compute(**how()), job.refs, config, kind, told=told, exposures=exposures.get(setting),
            )  # fmt: skip
            return band, job.with_redshift(found.compute(**how()))

        bands = dict(job.each("spectrum", cubes, lambda p: p[0], extract))
        job.each("stitch", [(kind, bands)] if bands else [], lambda p: p[0], lambda p: _finish(job, p[1]))


def _finish(job: _Job, bands: dict[str, xr.Dataset]) -> None:
    """Take off the leak, save the spectra of the bands, and stitch them."""
    folder = job.folder("science", 3)
    spectra = list(correct_leak(bands, job.refs, job.config.spectrum).values())
    for spectrum in spectra:
        job.result.save("spectrum", spectrum, folder)
    whole = stitch(spectra, job.config.spectrum)
    fits_file = job.result.save("stitched", whole, folder)[0]
    job.result.save("stitched", whole, fits_file.with_suffix(".nc"))
