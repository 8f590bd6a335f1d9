"""The command line: ``mrsxr -h`` names the commands."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from ._version import __version__
from .cli_products import BACKGROUND, check, explore, history, info, match, no_windows, read_redshift, report, show
from .console import console, errors, progress_bars, reporter_of, say
from .errors import MrsxrError
from .notes import listen
from .threads import MOST_WORKERS


class _Group(click.Group):
    """Turn the errors of the package into one clear line and exit code 1; say at the end what was told, once."""

    def invoke(self, ctx: click.Context) -> Any:
        wrong: MrsxrError | None = None
        with listen(pass_on=True) as heard:
            try:
                return super().invoke(ctx)
            except MrsxrError as error:
                wrong = error
            except KeyboardInterrupt:
                wrong = MrsxrError("by SIGINT")
                wrong.exit_code = 130
            finally:
                for text in heard:
                    say(text, where=errors, label="note:", color="yellow")
        say(wrong, where=errors, label="stopped:" if wrong.exit_code > 128 else "error:", color="red")
        if wrong.exit_code > 128:  # neither work that a signal stopped nor the end of the interpreter is waited for
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(wrong.exit_code)
        sys.exit(wrong.exit_code)


def _bands(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    from .arguments import split_bands

    return None if value is None else tuple(split_bands(value, "--bands"))


def _overrides(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> dict[str, list[Path]]:
    """Return {kind: files} of the texts kind=file."""
    from .references import KINDS

    found: dict[str, list[Path]] = {}
    for text in value:
        kind, sign, path = text.partition("=")
        kind = kind.strip().lower()
        if not sign or not path.strip() or kind not in KINDS:
            raise MrsxrError(f"--override {text}: expected KIND=FILE with a kind of {', '.join(KINDS)}")
        found.setdefault(kind, []).append(Path(path.strip()).expanduser())
    return found


def _fringes(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    """Return {level: method} of the texts level=method."""
    found = {}
    for text in value:
        level, sign, method = (part.strip() for part in text.partition("="))
        if not sign:
            raise MrsxrError(f"--residual-fringe {text}: expected LEVEL=METHOD, cube=slices")
        found[level] = method
    return found


BANDS_OPTION = click.option(
    "--bands", callback=_bands, help="Only these bands, 1A,2A ... or ch1-short, or channels, 1.", metavar="LIST"
)
MODE = click.option(
    "--mode", type=click.Choice(["baseline", "optimal"]),
    help="Algorithms of jwst (baseline, the default) or the better ones.",
)  # fmt: skip
WORKERS = click.option(
    "--workers", type=click.IntRange(1, MOST_WORKERS), show_default="the number of cores",
    help="Pieces worked on side by side, by a core each.",
)  # fmt: skip
CLUSTER = click.option(
    "--cluster", metavar="WHERE",
    help="Workers of a dask cluster: tcp://host:8786, local:4 (processes here), or a TOML file of a batch system.",
)  # fmt: skip
AT_LEAST_ONE, AT_LEAST_NONE = click.IntRange(1), click.IntRange(0)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mrsxr")
def main() -> None:
    """JWST MIRI MRS: raw ramps to cubes, spectra and line maps."""
    gc.set_threshold(50_000, 20, 50)  # looks for cycles among the objects of graphs took 8 % of a run
    atexit.register(gc.freeze)  # and a last one, through all modules, 0.9 s at the end of every command


@main.command()
@click.option("--quick", "size", flag_value="quick", help="One setting, two dithers: well under a minute.")
@click.option("--full", "size", flag_value="full", help="All 12 bands, 40 groups, 36 exposures: some 7 GB of disk.")
@BANDS_OPTION
@click.option("--distortion", type=click.Path(path_type=Path), help="Folder of real distortion files (ASDF).")
@click.option("--out", type=click.Path(path_type=Path), default=Path("mrsxr_demo"), show_default=True)
@MODE
@WORKERS
def demo(size: str | None, bands: Any, distortion: Any, out: Path, mode: str | None, workers: int | None) -> None:
    """Simulate an observation, reduce it, compare with the truth and draw a picture."""
    from .demo import demo as run_demo

    no_windows()
    with progress_bars() as progress:
        result = run_demo(
            out, size=size or "default", bands=bands, distortion=distortion, workers=workers,
            recipe=mode or "baseline", reporter=reporter_of(progress),
        )  # fmt: skip
    table = Table(title="Recovered against the truth", title_justify="left")
    for name, justify in zip(("", "where", "found", "true", "error", ""), "llrrrl", strict=True):
        table.add_column(name, justify="left" if justify == "l" else "right")
    for one in result.checks:
        shown = {
            "position": f"{one.error:.3f} arcsec", "wavelength": f"{one.error:+.3f} elements",
        }.get(one.kind, f"{100 * one.error:+.2f} %")  # fmt: skip
        if one.sigma == one.sigma:  # not NaN
            shown = f"{shown[:-2]} ± {100 * one.sigma:.2f} %"
        digits = 5 if one.kind == "wavelength" else 3
        cells = [one.what, one.where, f"{one.found:.{digits}f}", f"{one.true:.{digits}f}", shown]
        mark = Text("ok", "green") if one.passed else Text("off", "red")
        table.add_row(*(Text(cell) for cell in cells), mark)
    console.print(table)
    _tell_files(result.run)
    say(f"picture: {result.picture}")
    if not result.passed:
        raise MrsxrError("the demonstration did not recover the truth within its limits, see the table")


@main.command()
@WORKERS
def warmup(workers: int) -> None:
    """Compile everything that a reduction calls, once for all processes: worth it before many workers start."""
    from .warmup import warmup as fill

    with progress_bars() as progress:
        made = fill(workers=workers, reporter=reporter_of(progress))
    say(f"{made.compiled} kernels compiled in {made.seconds:.0f} s; compiled code is kept in {made.folder}")


@main.command()
@click.argument("source", nargs=-1, required=True, type=click.Path())
@BACKGROUND
@click.option("--out", type=click.Path(path_type=Path), default=Path("mrsxr_out"), show_default=True)
@click.option("--refs", type=click.Path(path_type=Path), help="Folder of reference files; else CRDS.")
@BANDS_OPTION
@click.option("--to", type=click.Choice(["rate", "cal", "cube", "spectrum"]), default="spectrum", show_default=True)
@MODE
@click.option(
    "--background", type=click.Choice(["master", "pixel", "annulus", "binned", "none"]),
    help="How the background is taken off; by default the spectrum of the background exposures (master).",
)  # fmt: skip
@click.option(
    "--source-type", type=click.Choice(["header", "auto", "point", "extended"], case_sensitive=False),
    help="What the source is: as the headers say, or decided from the cubes (auto), or this.",
)  # fmt: skip
@click.option(
    "--override", multiple=True, metavar="KIND=FILE", callback=_overrides,
    help="Take this reference file (dark=my_dark.fits) in place of what CRDS or the folder has; may be repeated.",
)  # fmt: skip
@click.option(
    "--no-aperture-correction", is_flag=True, help="Give the flux inside the aperture for a point source (no apcorr).",
)  # fmt: skip
@click.option(
    "--residual-fringe", multiple=True, metavar="LEVEL=METHOD", callback=_fringes,
    help="Residual fringes of a level (cal, cube, spectrum): none, columns or slices; may be repeated.",
)  # fmt: skip
@click.option("--recipe", metavar="NAME|FILE", help="Steps and parameters: a TOML file, see mrsxr recipe.")
@click.option(
    "--set", "changed", multiple=True, metavar="STEP.PARAMETER=VALUE",
    help="Another parameter of a step: jump.rejection_threshold=5; may be repeated.",
)  # fmt: skip
@click.option("--skip", metavar="LIST", help="Steps to leave out, by their names in jwst: reset,dark_current ...")
@click.option("--redshift", callback=read_redshift, help="Of the source: products carry it, lines are marked by it.")
@click.option("--allow-missing", is_flag=True, help="Build bands also from the rest, where exposures failed.")
@click.option("--fresh", is_flag=True, help="Make all anew; else what an earlier run made of the same bytes stays.")
@click.option("--wait", is_flag=True, help="Where another run works in OUT, wait for its end.")
@WORKERS
@CLUSTER
def run(
    source: tuple[str, ...], background_from: Path | None, out: Path, refs: Path | None, bands: Any, to: Any,
    mode: str | None, background: str | None, source_type: str | None, override: Any, no_aperture_correction: bool,
    residual_fringe: Any, recipe: str | None, changed: Any, skip: str | None, redshift: Any, allow_missing: bool,
    fresh: bool, wait: bool, workers: int | None, cluster: str | None,
) -> None:  # fmt: skip
    """Reduce the exposures (uncal, rate, cal) or cubes (s3d) of SOURCE: folders, files, a glob or an association."""
    from .pipeline import Recipe
    from .pipeline import run as run_all
    from .pipeline.cluster import executor_of
    from .references import References

    files: Any = source[0] if len(source) == 1 else list(source)
    parameters = Recipe.of(recipe, base=mode)
    if background is not None:
        parameters = parameters.with_background(background)
    if source_type is not None:
        parameters = parameters.set("extract_1d", source_type=source_type)
    if no_aperture_correction:
        parameters = parameters.set("extract_1d", aperture_correction=False)
    parameters = parameters.with_residual_fringe(residual_fringe)
    for text in changed:
        parameters = parameters.with_text(text)
    if skip is not None:
        parameters = parameters.skipping(*(name for name in skip.split(",") if name.strip()))
    references = References(refs, override=override) if refs is not None else _references_of_crds(override)
    with nullcontext() if cluster is None else executor_of(cluster) as executor, progress_bars() as progress:
        result = run_all(
            files, background_from, out=out, refs=references, bands=bands, to=to, recipe=parameters,
            workers=workers, reporter=reporter_of(progress), redshift=redshift, allow_missing=allow_missing,
            executor=executor, fresh=fresh, wait=wait,
        )  # fmt: skip
    _tell_files(result)
    if result.files.get("stitched") and not result.observations:
        say(f"picture: {_picture(files, result, redshift)}")
    if result.failed:
        raise MrsxrError(f"{len(result.failed)} of the pieces failed, the others are done; the reasons stand above")


def _references_of_crds(override: dict[str, list[Path]]) -> Any:
    from .references import References

    if os.environ.get("CRDS_PATH"):
        return References(override=override)
    return References({}, override=override) if override else None


def _picture(source: Any, result: Any, redshift: float | None) -> Path:
    """Draw what a run made, unless it is there and all was taken over."""
    path: Path = result.out / "stage3" / f"{result.files['stitched'][1].stem}.png"
    if result.taken_over == result.pieces and path.is_file():
        return path
    from .demo import draw
    from .io import find_files

    no_windows()
    cubes = [f.path for f in find_files(source) if f.product == "s3d"] if not result.files.get("cube") else []
    name = source if isinstance(source, str) else source[0]
    return draw(result, path, cubes=cubes, redshift=redshift, title=Path(name).name)


def _tell_files(result: Any) -> None:
    for level, paths in result.files.items():
        where = paths[0] if len(paths) == 1 else os.path.commonpath([path.parent for path in paths])
        say(f"{len(paths):3d} {level:20s} {where}")
    if result.taken_over:
        say(f"{result.taken_over} of {result.pieces} pieces taken over from an earlier run")
    folder = next((one.out for one in result.observations.values()), result.out)
    say(f"reduced in {result.seconds:.1f} s; one page on it: mrsxr report {folder}")


@main.command(name="recipe")
@click.argument("name", metavar="NAME|FILE", default="baseline")
@click.option("--all", "every", is_flag=True, help="Every parameter of every step, and what it may be.")
def recipe_command(name: str, every: bool) -> None:
    """Print a recipe (baseline, optimal, or a TOML file with what it rests on) as TOML to copy, cut and extend."""
    from .pipeline import Recipe

    found = Recipe.of(name)
    console.print(found.describe() if every else str(found), markup=False, highlight=False, end="")


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
def status(out: Path) -> None:
    """Tell how far the run into OUT is, from its files alone: done, running, failed and why, left.

    OUT is the folder of a run, or one that holds those of several observations.
    """
    from .pipeline.store import status as status_of
    from .pipeline.store import stores_below

    found = [status_of(folder) for folder in stores_below(out) or [out]]
    table = Table(title=str(out), title_justify="left")
    for name in ("observation" if len(found) > 1 else "stage", "done", "running", "failed", "left"):
        table.add_column(name, justify="right" if table.columns else "left")
    rows = {one.out.name: one.counts for one in found} if len(found) > 1 else found[0].counts_by_stage()
    for name, counts in rows.items():
        table.add_row(Text(name), *(Text(str(n)) if n else Text("-", "dim") for n in counts))
    console.print(table)
    for one in found:
        where = f" into {one.out.name}" if len(found) > 1 else ""
        if one.holder is not None:
            say(f"the run{where} of {one.holder}", label="works:", color="green")
        for entry in one.failed:
            reason = str(entry.failed).removeprefix(f"{entry.name}: ")
            say(f"({entry.stage}) {entry.name}{where}: {reason}", label="failed", color="red")


@main.command(name="simulate")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--bands", callback=_bands, default="1A,2A,3A,4A", show_default=True, metavar="LIST",
    help="Bands, 1A,2A ... or ch1-short, or channels, 1.",
)  # fmt: skip
@click.option("--groups", type=AT_LEAST_ONE, default=10, show_default=True)
@click.option("--integrations", type=AT_LEAST_ONE, default=2, show_default=True)
@click.option("--dithers", type=AT_LEAST_ONE, default=4, show_default=True)
@click.option("--background", type=AT_LEAST_NONE, default=2, show_default=True, help="Background exposures a setting.")
@click.option("--seed", type=AT_LEAST_NONE, default=1, show_default=True)
@click.option("--distortion", type=click.Path(path_type=Path), help="Folder of real distortion files (ASDF).")
def simulate_command(
    out: Path, bands: Any, groups: int, integrations: int, dithers: int, background: int, seed: int, distortion: Any,
) -> None:  # fmt: skip
    """Write simulated uncal files, reference files, an offline CRDS cache and the truth to OUT."""
    from .arguments import as_bands
    from .simulate import simulate_observation

    bands = as_bands(bands)
    settings = {b[1] + ("12" if b[0] in "12" else "34") for b in bands}
    with progress_bars() as progress:
        task = progress.add_task("simulate", total=len(settings) * (1 + dithers + background))
        made = simulate_observation(
            out, bands=bands, n_groups=groups, n_integrations=integrations, n_dithers=dithers, n_background=background,
            seed=seed, distortion=distortion, progress=lambda _text: progress.advance(task),
        )  # fmt: skip
    say(f"{len(made.uncal)} science and {len(made.background)} background exposures in {out}")
    for name, value in made.crds.items():
        say(f"export {name}={value}")


for command in (info, show, report, explore, match, history, check):
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="python -m mrsxr.cli")
