"""The frame of the page: head, style, navigation."""

from __future__ import annotations

from collections.abc import Sequence

from mrsxr._version import __version__

from .markup import Raw, escape, tag

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5a6475; --page: #ffffff; --card: #f4f6f9; --rule: #d5dbe4;
  --link: #0b5cad; --warn: #8a2c00; --warn-page: #fdf1e7; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ef; --soft: #a3adbd; --page: #14181f; --card: #1d232d;
  --rule: #353e4c; --link: #7db8f5; --warn: #ffb68a; --warn-page: #33231a; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5; overflow-wrap: break-word;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
.inner { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header { background: var(--card); border-bottom: 1px solid var(--rule); padding: 1.5rem 0 1rem; }
h1 { font-size: 1.7rem; margin: 0; line-height: 1.2; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 0.6rem; padding-top: 0.4rem; border-top: 2px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.2rem 0 0.3rem; }
p { margin: 0.4rem 0; max-width: 60rem; }
a { color: var(--link); }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 0.5rem; background: var(--page); padding: 0.3rem 0.8rem; }
.lead { color: var(--soft); margin: 0.1rem 0 0.8rem; }
.facts { display: flex; flex-wrap: wrap; gap: 0.5rem 2rem; margin: 0.6rem 0 0.8rem; }
.facts dt { color: var(--soft); font-size: 0.8rem; }
.facts dd { margin: 0; font-weight: 600; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 0.2rem 1.1rem; margin: 0; padding: 0;
  font-size: 0.92rem; }
.scroll { overflow-x: auto; max-width: 100%; }
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { min-width: min(100%, 26rem); border-collapse: collapse; font-size: 0.88rem; margin: 0.7rem 0;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0.2rem 0; }
caption span { display: inline-block; position: sticky; left: 0; max-width: min(100%, calc(100vw - 2rem)); }
th, td { padding: 0.3rem 0.75rem 0.3rem 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
tbody th code, .data tbody th { white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
td p { margin: 0; }
code { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; font-size: 0.92em;
  overflow-wrap: anywhere; }
.small, figcaption, .quiet { color: var(--soft); font-size: 0.86rem; }
td .small { font-weight: 400; }
.plain { list-style: none; padding: 0; margin: 0.2rem 0; }
.columns { columns: 20rem auto; }
details { margin: 0.3rem 0; }
summary { cursor: pointer; color: var(--link); }
td details { margin: 0; }
figure { margin: 0.6rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #ffffff; border: 1px solid var(--rule);
  border-radius: 6px; }
.wide img { min-width: 52rem; }
.pictures { display: grid; gap: 0.4rem 1rem; align-items: start; }
.two { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.three { grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
.failed { color: var(--warn); }
#problems .failed, p.failed { background: var(--warn-page); border-left: 4px solid var(--warn); padding: 0.5rem 1rem;
  list-style-position: inside; border-radius: 0 6px 6px 0; }
#problems .failed li { margin: 0.2rem 0; }
footer { margin: 3rem 0 2rem; color: var(--soft); font-size: 0.86rem; border-top: 1px solid var(--rule);
  padding-top: 0.8rem; }
@media (max-width: 40rem) { .inner { padding: 0 0.9rem; } h1 { font-size: 1.4rem; }
  .facts { display: grid; grid-template-columns: 1fr 1fr; gap: 0.4rem 1rem; }
  .stack, .stack tbody, .stack tr, .stack th, .stack td, .stack caption { display: block; }
  .stack thead { position: absolute; left: -999rem; }
  .stack tr { border-bottom: 1px solid var(--rule); padding: 0.4rem 0; }
  .stack th, .stack td { border: 0; padding: 0.1rem 0; }
  .stack td.none { display: none; }
  .stack td[data-label]::before { content: attr(data-label) ": "; color: var(--soft); }
  .stack td > p, .stack td > details, .stack td > ul { display: inline-block; vertical-align: top; max-width: 100%;
    margin-right: 0.6rem; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --page: #fff; --card: #fff; --rule: #bbb;
  --link: #000; --warn: #8a2c00; --warn-page: #fff; }
  nav, .skip { display: none; } body { font-size: 10pt; } .scroll { overflow: visible; } .wide img { min-width: 0; }
  figure, tr { break-inside: avoid; } h2, h3, caption { break-after: avoid; }
  .two, .three { grid-template-columns: 1fr 1fr; } }
"""


def page(title: str, facts: Raw, sections: Sequence[tuple[str, str, Raw]]) -> str:
    """Return the whole page.

    Parameters
    ----------
    title : str
        Of the observation: the target.
    facts : Raw
        A list of the main facts.
    sections : sequence of (name, heading, body)
    """
    links = tag("ul", *(tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in sections))
    body = "\n".join(
        tag("section", tag("h2", heading, id=f"{name}-heading"), content, id=name, aria_labelledby=f"{name}-heading")
        for name, heading, content in sections
    )
    lead = "JWST MIRI MRS: what was reduced, and how"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="mrsxr {__version__}">
<title>{escape(title)} – MIRI MRS</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#main">To the content</a>
<header><div class="inner">
<h1>{escape(title)}</h1>
<p class="lead">{lead}</p>
{facts}
<nav aria-label="Sections">{links}</nav>
</div></header>
<main id="main" class="inner">
{body}
</main>
<footer class="inner">Written by mrsxr {__version__}. This file holds everything that it shows.</footer>
</body>
</html>
"""
