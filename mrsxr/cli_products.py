"""Commands that look at products or go on from them: ``mrsxr -h`` names all."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from .console import errors, print_history, progress_bars, reporter_of, say
from .errors import MrsxrError


def read_redshift(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """Return the redshift of an option, where it is one."""
    from .arguments import as_redshift

    return as_redshift(value, "--redshift")


REDSHIFT = click.option(
    "--redshift", callback=read_redshift, help="Of the source, for its lines; by default what the products know."
)
BACKGROUND = click.option("--background-from", type=click.Path(path_type=Path), help="Folder of background exposures.")


def no_windows() -> None:
    """Let matplotlib draw to files alone: a command opens no windows."""
    import matplotlib

    matplotlib.use("Agg")


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@BACKGROUND
def info(paths: tuple[str, ...], background_from: Path | None) -> None:
    """Print the observation table of PATHS from headers alone."""
    from .io import summarize

    say(summarize(paths[0] if len(paths) == 1 else list(paths), background_from))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Picture to write (.png, .pdf, .svg); else FILE's name.png here."
)
@click.option("--redshift", callback=read_redshift, help="Of the source: marks the lines of a spectrum.")
@click.option("--dither", type=int, help="Exposure of a file that holds several, from 1.")
@click.option("--dq", is_flag=True, help="The flags of a ramp, rate, cal file or cube.")
@click.option("--wavelength", nargs=2, type=float, metavar="LOW HIGH", help="Range of a cube to collapse [um].")
@click.option("--zoom", nargs=2, type=float, metavar="LOW HIGH", help="Range of a spectrum [um].")
@click.option("--line", help="Line of fitted maps (else the brightest), or to zoom in on in a spectrum.")
def show(file: Path, out: Path | None, redshift: float | None, **options: Any) -> None:
    """Draw FILE and describe what it holds.

    A ramp: its image and the ramps of two pixels; rate and cal files: the detector with its slices; a cube: collapsed
    over wavelength; a spectrum: with its lines; fitted lines: maps, or a table.
    """
    from . import plot
    from .report import draw_file, open_product

    no_windows()
    ds = open_product(file)
    drawn = draw_file(ds, redshift=redshift, **options)
    say(ds.drop_attrs(deep=False))
    if drawn is None:
        from .lines.table import line_table

        say("\n".join(line_table(ds).pformat(max_lines=-1, max_width=-1)))
        return
    path = plot.save_figure(drawn, out or Path(f"{file.name.split('.')[0]}.png"))
    say(f"picture: {path}")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="HTML file to write; by default FOLDER/report.html.")
@REDSHIFT
def report(folder: Path, out: Path | None, redshift: float | None) -> None:
    """Write one page on the products in FOLDER: what was observed, done and found. It needs no network to be read."""
    from .report import write_report

    no_windows()
    with progress_bars() as progress:
        path = write_report(folder, out, redshift=redshift, reporter=reporter_of(progress))
    say(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--html", type=click.Path(path_type=Path), help="HTML file to write; by default explore.html in OUT.")
@REDSHIFT
@click.option("--serve", is_flag=True, help="Show the page from here, write none: cubes are read as they are needed.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of --serve; by default a free one.")
@click.option(
    "--megabytes",
    type=click.FloatRange(0, min_open=True),
    default=40.0,
    show_default=True,
    help="Size that the page should not pass: values of large fields are rounded more coarsely.",
)
def explore(
    out: Path, html: Path | None, redshift: float | None, serve: bool, port: int | None, megabytes: float
) -> None:  # fmt: skip
    """Write a page to look into the cubes in OUT, a folder or a file: all bands at once, in any browser, no network."""
    from . import explorer

    if not serve:
        path = explorer.explore(out, html=html, redshift=redshift, megabytes=megabytes)
        return say(f"explorer: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    with explorer.make_server(out, redshift=redshift, port=port) as server:
        say(f"explorer: http://127.0.0.1:{server.server_port}/ (Ctrl-C ends it)")
        with suppress(KeyboardInterrupt):
            server.serve_forever()


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("matched"), show_default=True)
@click.option(
    "--method", type=click.Choice(["multiplicative", "additive", "both"]), default="multiplicative", show_default=True,
    help="What brings neighbouring bands to one scale: a factor, an offset, or both.",
)  # fmt: skip
@click.option("--reference-band", help="The band left as it is; by default that of the shortest wavelength.")
@click.option("--center", metavar="PLACE", help="Match on a circle around this place alone, with --radius.")
@click.option("--radius", type=float, help="Of that circle [arcsec].")
@click.option("--fwhm", type=float, help="Smooth all cubes to this FWHM of a point source [arcsec] first.")
@click.option("--grid", metavar="BAND", help="Bring all cubes onto the spaxels of the cube of this band.")
def match(source: Path, out: Path, **options: Any) -> None:
    """Bring the cubes of several bands in SOURCE, of mrsxr or jwst, to one scale; to one PSF, to one grid."""
    from .arguments import as_band
    from .explorer.cubes import find_cubes
    from .io import save
    from .mrs import BANDS
    from .pipeline.cube_chain import match_cubes

    found = find_cubes(source)
    for text in found.problems:
        say(f"left out: {text}")
    cubes = [ds for ds in found.cubes.values() if ds.attrs.get("band") in BANDS]
    options["grid"] = as_band(options["grid"], "--grid") if options["grid"] else None
    for ds in match_cubes(cubes, **options):
        factor, error, offset = (ds.attrs[f"scale_{name}"] for name in ("factor", "factor_error", "offset"))
        (path,) = save(ds, out)
        say(f"{ds.attrs['band']}: factor {factor:.4f} +- {error:.4f}, offset {offset:.3g} MJy/sr: {path}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def history(file: Path) -> None:
    """Print what was done to FILE, step by step, and what its steps decided by judging themselves."""
    from .io import load_dataset
    from .scores import decisions
    from .step import read_history

    ds = load_dataset(file)
    entries = read_history(ds)
    if not entries:
        raise MrsxrError(f"{file}: holds no history of mrsxr; it was written by another program or is raw")
    print_history(entries)
    for one in decisions(ds):
        say(one.text, label="judged")


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def check(files: tuple[Path, ...]) -> None:
    """Check FILES against the schema of their level."""
    import xarray as xr

    from .io import load
    from .schema import validate
    from .tree import leaves

    bad = 0
    for file in files:
        try:
            data = load(file)
            datasets = [data] if isinstance(data, xr.Dataset) else [d for _, d in leaves(data)]
            for ds in datasets:
                validate(ds)
            say(f"ok    {file} ({', '.join(sorted({d.attrs['level'] for d in datasets}))})")
        except MrsxrError as error:
            bad += 1
            say(error, where=errors, label="wrong", color="red")
    if bad:
        sys.exit(1)
