"""The page as a notebook shows it: in place where it is small, else the file beside the notebook."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote

_IN_PLACE = 2_000_000  # letters: a server of notebooks cuts outputs of some megabytes
_FRAME = (
    '<iframe {} title="MIRI MRS explorer" loading="lazy" '
    'style="box-sizing: border-box; width: 100%; height: {}px; border: 1px solid #8884"></iframe>'
)


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
