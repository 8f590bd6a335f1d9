"""Formulas as MathML, which browsers draw themselves: no script, no network, any colour of the page."""

from latex2mathml.converter import convert


def _inline(self, node):
    self.body.append(convert(node.astext()))
    _skip(self, node)


def _block(self, node):
    self.body.append(f'<div class="formula">{convert(node.astext(), display="block")}</div>')
    _skip(self, node)


def _skip(self, node):
    from docutils import nodes

    raise nodes.SkipNode


def setup(app):
    """Register the renderer under the name "mathml"."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
