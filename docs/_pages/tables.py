"""Directives that make tables from the code: levels, steps, recipes; and references to what has no page."""

import csv
import importlib
import inspect
from functools import cache
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

import mrsxr.pipeline  # noqa: F401 - all steps are known then
from mrsxr import schema
from mrsxr.limits import allowed, hints_of, references_of
from mrsxr.pipeline import Recipe
from mrsxr.step import STEPS

ROOT = Path(__file__).parents[2]
LEVELS = ("rate", "cal", "cube", "spectrum")


def table(head, rows):
    """Return the lines of a Markdown table; bars and line ends in cells are taken care of."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(" ".join(str(c).replace("|", r"\|").split()) for c in row) + " |" for row in lines]


def _code(text):
    return f"`{text}`" if text else ""


class Made(SphinxDirective):
    """A directive whose text is Markdown made by ``lines``."""

    optional_arguments = 1
    has_content = True

    def run(self):
        """Parse the text as if it stood in the page."""
        node = nodes.container()
        self.state.nested_parse(StringList(list(self.lines()), self.get_source_info()[0]), self.content_offset, node)
        return node.children


class Level(Made):
    """``{level} cal``: what a Dataset of the level holds, of schema.py."""

    def lines(self):
        """Return a table of its variables."""
        rows = [(_code(v.name) + " *" * v.optional, ", ".join(v.dims), v.units or "", v.meaning, _code(v.fits))
                for v in schema.LEVELS[self.arguments[0]]]  # fmt: skip
        yield from table(("variable", "dims", "units", "meaning", "in FITS"), rows)
        if any(v.optional for v in schema.LEVELS[self.arguments[0]]):
            yield from ("", "\\* not in every file.", "")


class Attributes(Made):
    """``{attributes}``: what stands in attrs, of schema.py."""

    def lines(self):
        """Return a table of the attributes that have a keyword in FITS files."""
        edits = {"counts": "an edit counts", "refused": "an edit is refused", "": ""}
        rows = [(_code(a.name), a.kind, _code(a.fits), edits[a.edit]) for a in schema.ATTRIBUTES.values()]
        return table(("attribute", "kind", "in FITS", "edited by hand"), rows)


class JwstSteps(Made):
    """``{jwst-steps}``: names of jwst and the functions behind them, in the order of the recipes."""

    def lines(self):
        """Return a table by level."""
        for level in LEVELS:
            yield from (f"**{level}**", "")
            yield from table(("jwst", "mrsxr", "status card", "reference files"), _rows_of(level))
            yield ""


def _rows_of(level):
    for entry in Recipe.of("baseline").entries:
        if entry.level == level:
            functions = _functions_of(level, entry)
            facts = [STEPS[name].facts for name in functions if name in STEPS]
            cards = dict.fromkeys(one.keyword for one in facts if one.keyword)
            kinds = dict.fromkeys(kind for one in (entry.part.facts, *facts) for kind in one.references)
            other = {"trace_model": "`adaptive_trace_model`"}.get(entry.name, f"{entry.name} (none in jwst)")
            name = f"`{entry.name}`" if entry.name in JWST else other
            yield name, ", ".join(map(ref, functions)), ", ".join(f"`{c}`" for c in cards), ", ".join(kinds)


#: Entries of recipes that jwst 3.0 has under the same name.
JWST = set(
    "group_scale dq_init emicorr saturation ipc firstframe lastframe reset linearity rscd dark_current refpix "
    "charge_migration jump find_showers persistence ramp_fit gain_scale assign_wcs badpix_selfcal bkg_subtract srctype "
    "straylight clean_showers flat_field fringe photom residual_fringe assign_mtwcs master_background "
    "outlier_detection pixel_replace cube_build extract_1d spectral_leak".split()
)
#: Where what stands behind an entry is more than the steps of its name.
_MORE = {
    "outlier_detection": ["cal.detect_outliers", "cal.detect_sky_outliers", "cal.flag_outliers"],
    "trace_model": ["cal.fit_trace_model"], "stitch": ["spectrum.stitch_bands"],
    "match_bands": ["cube.match_bands"],
    "tie_bands": ["cal.measure_offsets", "cal.tie_bands"],
    "cube_build": ["cube.build_cube", "cube.build_multiband_cube"],
}  # fmt: skip


def _functions_of(level, entry):
    rooms = {"cube": ("cube", "cal"), "cal": ("cal",), "rate": ("rate",), "spectrum": ("spectrum",)}[level]
    steps = [n for n, f in STEPS.items() if f.facts.jwst == entry.name and n.partition(".")[0] in rooms]
    home = [n for n in steps if n.startswith(f"{level}.")]
    return _MORE.get(entry.name) or home or steps


def ref(name):
    """Return a link to a public function, by its name in mrsxr."""
    return f"{{py:func}}`{name} <mrsxr.{name}>`"


class RecipeTable(Made):
    """``{recipe-table} cal``: what both recipes do in a level."""

    def lines(self):
        """Return a table of its steps."""
        named = [{one.name: one for one in Recipe.of(name).entries if one.level == self.arguments[0]}
                 for name in ("baseline", "optimal")]  # fmt: skip
        rows = [(_code(name), *(_said(by_name.get(name)) for by_name in named)) for name in {**named[1], **named[0]}]
        return table(("step", "baseline", "optimal"), rows)


def _said(entry):
    if entry is None or entry.skip:
        return "left out"
    given = ", ".join(f"{key} = {value}" for key, value in entry.given.items())
    return f"`{given}`" if given else "runs"


class Measured(Made):
    """``{measured} cost.csv``: a table of stored results, and the command that made them."""

    def lines(self):
        """Return the table."""
        command, head, rows = measured(self.arguments[0])
        shown = [n for n, name in enumerate(head) if not name.startswith("_")]
        yield from table([head[n] for n in shown], [[row[n] for n in shown] for row in rows])
        yield from ("", f"Made by `{command}`." if command else "", "")


def measured(name):
    """Return command, heads and rows of a file of ``_data``; columns whose head begins with _ are for figures."""
    text = (ROOT / "docs" / "_data" / name).read_text().splitlines()
    command = text[0].removeprefix("# ").strip() if text[0].startswith("#") else ""
    head, *rows = csv.reader(line for line in text if line and not line.startswith("#"))
    return command, head, rows


class Step(Made):
    """``{one-step} rate.subtract_dark``: the text that follows, and what the step says of itself."""

    required_arguments = 1

    def lines(self):
        """Return text, facts and parameters."""
        name = self.arguments[0]
        function = _function(name)
        says, where = _facts(name, function)
        yield from (says, "", *self.content, "", where, "")
        rows = list(_parameters(function))
        if rows:
            yield from (":::{dropdown} Parameters", *table(("parameter", "default", "may be"), rows), ":::", "")


def _function(name):
    room, _, bare = name.rpartition(".")
    return getattr(importlib.import_module(f"mrsxr.{room}"), bare)


def _facts(name, function):
    facts = getattr(function, "facts", None)
    source = Path(inspect.getsourcefile(inspect.unwrap(function))).relative_to(ROOT)
    says = [ref(name)]
    if facts:
        known = facts.jwst in JWST
        says += [f"in jwst `{facts.jwst}`" if known else "none in jwst"]
        says += [f"{' or '.join(facts.needs)} → {facts.gives or 'the same level'}"]
    plain = inspect.unwrap(function)  # of others a hint may name what is imported for types alone
    references = references_of(plain) if any("Ref" in str(hint) for hint in plain.__annotations__.values()) else ()
    says += [f"reference files: {', '.join(references)}"] if references else []
    if facts:
        says += [f"card `{facts.keyword}`"] if facts.keyword else []
    tests = _tests_of(name.rpartition(".")[2], name.partition(".")[0])
    where = [f"Source `{source}`", *([f"tests {', '.join(map(_code, tests))}"] if tests else [])]
    return f"**{says[0]}** {' · '.join(['', *says[1:]])}", f"{', '.join(where)}."


@cache
def _texts(room):
    folder = ROOT / "tests" / room
    return {path.relative_to(ROOT): path.read_text() for path in sorted(folder.glob("test_*.py"))}


def _tests_of(bare, room):
    counts = {str(path): text.count(bare) for path, text in _texts(room).items() if bare in text}
    return sorted(sorted(counts, key=counts.get, reverse=True)[:2])


def _parameters(function):
    try:
        hints = hints_of(function)
    except NameError:  # a name that is imported for type checkers alone
        return
    for name, one in inspect.signature(function).parameters.items():
        if one.kind is inspect.Parameter.KEYWORD_ONLY and name in hints:
            default = "must be given" if one.default is inspect.Parameter.empty else f"`{one.default!r}`"
            yield f"`{name}`", default, allowed(hints[name])


def resolve(app, env, node, contnode):
    """Resolve names by where they are public; what is internal but exists is text, all else stays a warning."""
    if node.get("refdomain") != "py":
        return None
    target, home = node["reftarget"], node.get("py:module") or ""
    known = env.get_domain("py").objects
    found = [
        name for name in known if name.rpartition(".")[2] == target.rpartition(".")[2] and name.startswith("mrsxr.")
    ]
    if len(found) == 1 and node["reftype"] != "mod":
        page = app.builder.get_relative_uri(node.get("refdoc", env.docname), known[found[0]].docname)
        return nodes.reference("", "", contnode, internal=True, refuri=f"{page}#{known[found[0]].node_id}")
    return contnode if any(_exists(name) for name in (target, f"{home}.{target}", *_modules_of(home, target))) else None


def _modules_of(home, target):
    """Yield where the docstrings of a room may have meant a name: the modules of the room."""
    if home.startswith("mrsxr"):
        folder = ROOT / Path(*home.split("."))
        yield from (f"{home}.{path.stem}.{target}" for path in folder.glob("*.py") if path.stem != "__init__")


def _exists(name):
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def setup(app):
    """Register directives and the handler."""
    made = {"level": Level, "attributes": Attributes, "jwst-steps": JwstSteps, "recipe-table": RecipeTable,
            "one-step": Step, "measured": Measured}  # fmt: skip
    for name, directive in made.items():
        app.add_directive(name, directive)
    app.connect("missing-reference", resolve)
