"""One page in HTML on a folder of products: self-contained, for a screen, a phone and paper."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup

from mrsxr._version import __version__
from mrsxr.arguments import need_paths, reads
from mrsxr.errors import MrsxrError
from mrsxr.io.atomic import write_text
from mrsxr.limits import checked_but
from mrsxr.pipeline import Reporter

from . import observation, pictures, results, work
from .gather import Contents, gather
from .markup import bullets, join, macros, paragraph, strong

log = logging.getLogger(__name__)
_STAGE = "report"


@reads()
@checked_but("folder")
def write_report(
    folder: str | Path,
    path: str | os.PathLike[str] | None = None,
    *,
    redshift: float | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Write a page on what a folder of products holds and how it was made.

    Parameters
    ----------
    folder : path
        What ``mrsxr run`` wrote, or any folder of MRS products (also of jwst): rate, cal, s3d, x1d files.
    path : path, optional
        File to write; by default ``report.html`` in the folder.
    redshift : float, optional
        Redshift of the source, for the lines; by default what the run or the spectra know.
    reporter : Reporter, optional
        Is told of every section and picture.

    Returns
    -------
    Path
        One HTML file that needs no other file and no network. What a folder does not hold is told at the end; a
        section that cannot be made says why.

    Raises
    ------
    InputFileError
        Where there is no such folder, or it holds no products.

    Examples
    --------
    >>> from mrsxr.report import write_report
    >>> write_report(out, "report.html").name  # doctest: +SKIP
    'report.html'
    """
    need_paths("write_report", folder)
    contents = gather(Path(folder))
    target = Path(path) if path is not None else contents.folder / "report.html"
    explorer = "explore.html" if (target.parent / "explore.html").is_file() else ""
    text = make_page(contents, redshift, reporter or Reporter(), explorer)
    return write_text(target, text)


def make_page(contents: Contents, redshift: float | None, reporter: Reporter, explorer: str = "") -> str:
    """Return the page as text; ``explorer`` is the page of `mrsxr explore` beside it, where there is one."""
    redshift = known_redshift(contents) if redshift is None else redshift

    def tell() -> None:
        reporter.done(_STAGE, "picture", 0.0)

    plan: list[tuple[str, str, Callable[[], Markup | None]]] = [
        ("problems", "What to look at", lambda: observation.problems(contents)),
        ("observation", "What was observed", lambda: observation.observation(contents)),
        ("decisions", "What was decided", lambda: results.decisions(contents)),
        ("spectrum", "Spectrum", lambda: pictures.spectrum(contents, redshift)),
        ("apertures", "Apertures and scales", lambda: results.apertures(contents)),
        ("lines", "Lines", lambda: results.lines(contents, redshift)),
        ("zooms", "Lines at close range", lambda: results.zooms(contents, redshift)),
        ("cubes", "Cubes", lambda: pictures.cubes(contents, tell)),
        ("detector", "Detector", lambda: pictures.detector(contents, tell)),
        ("flags", "Flags", lambda: work.flags(contents)),
        ("steps", "What each step did", lambda: work.steps(contents)),
        ("times", "Times", lambda: work.times(contents)),
        ("provenance", "Provenance", lambda: work.provenance(contents)),
    ]
    reporter.begin(_STAGE, len(plan) + pictures.count_pictures(contents))
    title, facts = observation.headline(contents)
    sections, absent = [], []
    for name, heading, make in plan:
        try:
            body = _made(heading, make, reporter)
            if body is not None:
                sections.append((name, heading, body))
        except MrsxrError as error:
            absent.append(join(strong(f"{heading}:"), f" {error}"))
        reporter.done(_STAGE, heading, 0.0)
    if absent:
        sections.append(("absent", "What is not shown", bullets(absent)))
    return macros.page(title, facts, sections, __version__, explorer)


def _made(heading: str, make: Callable[[], Markup | None], reporter: Reporter) -> Markup | None:
    """Return a section; one that breaks says why, so that the others are not lost.

    Raises
    ------
    MrsxrError
        Where there is nothing to show.
    """
    try:
        return make()
    except MrsxrError:
        raise
    except Exception as error:
        log.debug("%s", heading, exc_info=True)
        reporter.failed(_STAGE, heading, f"{type(error).__name__}: {error}")
        why = join(strong("This section could not be made."), f" {type(error).__name__}: {error}")
        return paragraph(why, "failed")


def known_redshift(contents: Contents) -> float | None:
    """Return the redshift that the runs or the spectra know, None where none does."""
    for run in reversed(contents.runs):
        if run["settings"].get("redshift") is not None:
            return float(run["settings"]["redshift"])
    for _, ds in [*contents.stitched(), *contents.spectra()]:
        if ds.attrs.get("redshift") is not None:
            return float(ds.attrs["redshift"])
    return None
