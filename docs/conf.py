"""Sphinx: the documents of mrsxr. Nothing is executed and nothing fetched; pages on code are made from the code."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_pages")]

import mathml  # noqa: E402 - found beside this file
import tables  # noqa: E402
import written  # noqa: E402

from mrsxr import __version__  # noqa: E402

project, author, copyright = "mrsxr", "The mrsxr developers", "The mrsxr developers"
release = version = __version__
extensions = [
    "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_nb", "sphinx_copybutton", "sphinx_design",
]  # fmt: skip
exclude_patterns = ["_pages", "_data", "_tasks.md", "_build"]
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(xr|xarray|np|numpy|astropy|dask|matplotlib|regions|specutils)\..*")]

autodoc_typehints = "none"
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline"]
myst_heading_anchors = 3
copybutton_prompt_text, copybutton_prompt_is_regexp = r">>> |\.\.\. |\$ ", True

templates_path = ["_templates"]
html_theme = "pydata_sphinx_theme"
html_title = f"mrsxr {release}"
html_static_path = ["_static"]
html_css_files = ["mrsxr.css"]
html_sidebars = {page: [] for page in ("index", "start", "jwst", "howto", "trust", "contributing", "changes")}
html_show_sourcelink = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_align": "left", "collapse_navigation": True, "header_links_before_dropdown": 5, "show_prev_next": True,
    "secondary_sidebar_items": {"**": ["page-toc"], "understand/levels": []},  # its tables are wide
    "footer_start": ["copyright"], "footer_end": [], "pygments_light_style": "tango", "navigation_with_keys": False,
}  # fmt: skip
html_math_renderer = "mathml"


def setup(app):
    """Add the directives of this site; write the API and copy the lessons before Sphinx looks for pages."""
    mathml.setup(app)
    tables.setup(app)
    app.connect("config-inited", lambda app, config: written.write_all(HERE))
