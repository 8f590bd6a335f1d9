"""One file that holds cubes and all that is needed to look into them: no kernel, no network."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import xarray as xr
from markupsafe import Markup

from mrsxr._version import __version__
from mrsxr.errors import MrsxrError
from mrsxr.inputs import require_um, rising
from mrsxr.io.atomic import replacing
from mrsxr.limits import Positive, Redshift, checked
from mrsxr.lines import line_list

from .cubes import Found, arrays_of, facts_of_cube, facts_of_maps, find_cubes, law
from .pack import FINEST, coarser, letters, pack

HERE = Path(__file__).parent
#: The modules of the page, each after those that it imports.
MODULES = (
    "store", "sky", "area", "region", "sums", "fit", "figure", "skyview", "spectrumview", "save", "code", "panels",
    "explorer", "served", "behind", "detector", "main",
)  # fmt: skip
_PALETTES = {
    "viridis": "viridis", "inferno": "inferno", "gray": "grey", "gray_r": "grey, inverted", "RdBu_r": "blue to red",
}  # fmt: skip
_SERVED = "Cubes are read, summed and fitted by the mrsxr that serves this page."
_WHOLE = (
    "Values are rounded to 1/{} of their errors: spectra are off by {:.2g} of theirs (rms). This file holds everything "
    "that it shows; nothing is fetched."
)
_COARSE = (
    "The field is large: values are rounded to 1/{} of their errors, so that the page has {:.0f} MB or as little as "
    "can be. `mrsxr explore --serve` and a larger `megabytes` show them as they are."
)
_OWN = 3e5  # bytes of a page without cubes
_IN_PLACE = 2_000_000  # letters: a server of notebooks cuts outputs of some megabytes
_FRAME = (
    '<iframe {} title="MIRI MRS explorer" loading="lazy" '
    'style="box-sizing: border-box; width: 100%; height: {}px; border: 1px solid #8884"></iframe>'
)
_IMPORT = re.compile(r"^import [^;]*;\n|^export (?=async |class |const |function )", re.MULTILINE)


class Page(type(Path())):  # type: ignore[misc]
    """The path of a page that :func:`mrsxr.explore` wrote; a notebook shows the page.

    A small page lies in the notebook; a larger one stays in its file, which must lie in the folder of the notebook
    or below it. Nothing is fetched from a network.
    """

    def _repr_html_(self, height: int = 900) -> str:
        size = self.stat().st_size
        link = _beside(self)
        if size <= 2 * _IN_PLACE:
            return _FRAME.format(f'srcdoc="{escape(self.read_text(encoding="utf-16"))}"', height)
        if not link:
            return f"<p>{escape(str(self))} ({size / 1e6:.1f} MB) is not beside this notebook: open it in a browser</p>"
        below = f'<p><a href="{link}" target="_blank">{escape(self.name)}</a> ({size / 1e6:.1f} MB)</p>'
        return _FRAME.format(f'src="{link}"', height) + below


def _beside(path: Path) -> str:
    """Return the address of a file from the folder where Python runs, that of the notebook; empty where outside it."""
    try:
        return quote(path.resolve().relative_to(Path.cwd()).as_posix())
    except ValueError:
        return ""


@checked
def explore(
    cubes: Any, spectra: Any = None, maps: xr.Dataset | None = None, html: str | os.PathLike[str] | None = None, *,
    redshift: Redshift | None = None, megabytes: Positive = 40.0,
) -> Page:  # fmt: skip
    """Write a page to look into the cubes of a field: all bands at once, in any browser, without a network.

    Parameters
    ----------
    cubes : path, Dataset, DataTree, mapping or sequence of these
        A folder of products, files, a glob, or cubes as they are in memory; each is shown under its band.
    spectra : Dataset or sequence of these, optional
        Level "spectrum": drawn beside the spectrum of the region.
    maps : Dataset, optional
        Level "lines", of a cube: its maps can be shown as images.
    html : path, optional
        File to write; by default ``explore.html`` in the folder that was given, else here.
    redshift : float, optional
        Redshift of the source, for the lines; by default what the cubes or spectra know, else 0.
    megabytes : float, optional
        Size that the page should not pass. Twelve bands of four dithers take 29 MB; of larger fields values are rounded
        more coarsely, at most to 1/8 of their errors, and the page says so.

    Returns
    -------
    Page
        The path of one HTML file, which a notebook shows in its place. What was given and cannot be shown (no sky
        grid, one plane, damaged) is told in it.

    Raises
    ------
    MrsxrError
        Where a folder holds no cubes.

    Notes
    -----
    Values are stored in units of 1/1600 of their errors, errors to 6 %. Sums over regions follow
    :func:`mrsxr.spectrum.extract_spectrum` with ``region``: shares of spaxels are exact, samples of which half of the
    region has no data are NaN.

    Examples
    --------
    >>> mx.explore(cube, html="look.html").name
    'look.html'
    """
    found = find_cubes(cubes)
    folder = Path(cubes) if isinstance(cubes, str | os.PathLike) and os.path.isdir(cubes) else Path()
    text = make_page(found, as_spectra(spectra), maps, redshift, most=1e6 * megabytes)
    target = Path(html) if html is not None else folder / "explore.html"
    with replacing(target) as part:
        part.write_bytes(text.encode("utf-16"))  # each letter takes 2 bytes; its first bytes tell browsers
    return Page(target)


def make_page(
    found: Found,
    spectra: list[xr.Dataset],
    maps: xr.Dataset | None,
    redshift: float | None,
    exposures: list[dict[str, Any]] | None = None,
    most: float = np.inf,
) -> str:
    """Return the page as text; with a list of exposures it is served, and the cubes stay where they are."""
    served = exposures is not None
    known, texts, quantum = ([{}] * len(found.cubes), [], 0.0) if served else _packed(found, most)
    facts = [
        facts_of_cube(name, cube, found.paths[name]) | own
        for (name, cube), own in zip(found.cubes.items(), known, strict=True)
    ]
    footer = _SERVED if served else _WHOLE.format(round(1 / quantum), 0.29 * quantum)
    problems = [*found.problems, *([_COARSE.format(round(1 / quantum), most / 1e6)] if quantum > FINEST else [])]
    redshifts = [
        ds.attrs["redshift"] for ds in (*spectra, *found.cubes.values()) if ds.attrs.get("redshift") is not None
    ]
    whole = {
        "cubes": facts, "law": law(), "lines": _lines(), "palettes": {name: _palette(name) for name in _PALETTES},
        "redshift": float((redshifts or [0.0])[0] if redshift is None else redshift), "served": served,
        "exposures": exposures or [],
        "spectra": [_curve(ds) for ds in spectra], "maps": [] if maps is None else facts_of_maps(maps),
    }  # fmt: skip
    titles = [str(cube.attrs["target"]) for cube in found.cubes.values() if cube.attrs.get("target")]
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    return pages.get_template("page.html.jinja").render(
        title=(titles or ["MIRI MRS cubes"])[0], lead=f"JWST MIRI MRS: {', '.join(found.cubes) or 'no cube'}",
        version=__version__, problems=problems, palettes=list(_PALETTES.items()), facts=_json(whole),
        cubes=texts, style=Markup((HERE / "style.css").read_text(encoding="utf-8")), code=Markup(script()),
        footer=footer, exposures=exposures,
    )  # fmt: skip


def _packed(found: Found, most: float) -> tuple[list[dict[str, Any]], list[Markup], float]:
    """Return what the page must know of each stream, the streams as text, and the part of errors they keep."""
    quantum = FINEST
    for again in (False, True):
        known, texts, voxels = [], [], 0
        for cube in found.cubes.values():
            flux, var, good = arrays_of(cube)
            packed, voxels = pack(flux, var, good, quantum), voxels + int(good.sum())
            known.append({"table": packed.table.tolist(), "quantum": packed.quantum, "bytes": len(packed.stream)})
            texts.append(Markup(letters(packed.stream)))
        size = _OWN + sum(2.0 * len(text) for text in texts)
        if again or size <= most:
            break
        quantum = coarser(31 / 32 * size, 31 / 32 * most, voxels)
    return known, texts, quantum


def script() -> str:
    """Return the modules of the page as one, without the imports of each other."""
    return "\n".join(_IMPORT.sub("", (HERE / "js" / f"{name}.js").read_text(encoding="utf-8")) for name in MODULES)


def _json(value: Any) -> Markup:
    """Return JSON that can stand in a script element: no text of a file ends it or opens a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _lines() -> list[dict[str, Any]]:
    table = line_list()
    return [
        {"label": str(label), "wave": float(wave), "kind": str(kind), "rank": int(rank)}
        for label, wave, kind, rank in zip(
            *(table[n].values for n in ("line", "wavelength", "kind", "rank")), strict=True
        )
    ]


def _palette(name: str) -> str:
    import matplotlib

    colours = matplotlib.colormaps[name](np.arange(256) / 255.0, bytes=True)[:, :3]
    return np.ascontiguousarray(colours).tobytes().hex()


def as_spectra(given: Any) -> list[xr.Dataset]:
    """Return spectra that were given one by one, in a sequence or a mapping."""
    if given is None:
        return []
    if not isinstance(given, xr.Dataset | list | tuple | Mapping):
        raise MrsxrError(f"spectra is a {type(given).__name__}; expected Datasets of level 'spectrum'")
    many = [given] if isinstance(given, xr.Dataset) else list(given.values() if isinstance(given, Mapping) else given)
    for ds in many:
        if not isinstance(ds, xr.Dataset) or ds.attrs.get("level") != "spectrum":
            raise MrsxrError("spectra holds something else; expected Datasets of level 'spectrum'")
        require_um(ds, "the page")
    return [rising(ds) for ds in many]


def _curve(ds: xr.Dataset) -> dict[str, Any]:
    flux = np.asarray(ds["flux"].values, float)
    return {
        "wave": np.asarray(ds["wavelength"].values, float).tolist(),
        "flux": [v if np.isfinite(v) else None for v in flux],
    }
