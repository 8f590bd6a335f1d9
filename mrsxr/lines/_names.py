"""Lines as people name them: "[NeII]", "Ne II 12.8", "H2 S(1)", "HI 7-6", "Pf alpha", "PAH 11.3"."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_LOWER_LEVEL = {"p": 5, "h": 6}
_STEPS = {"α": 1, "a": 1, "β": 2, "b": 2, "γ": 3, "g": 3, "δ": 4, "d": 4}
_NUMBER = re.compile(r"[\s@]*(?:λ|lambda)?\s*(\d+(?:\.(\d*))?)?\s*(?:[uµμ]m|microns?)?", re.I)
#: How lines are written, and what then names them.
_PATTERNS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (
        re.compile(r"(?:H_?2\s*(?:v\s*=\s*)?(?:\(?0-0\)?)?\s*S\s*\(?\s*(\d)\s*\)?|S\((\d)\))", re.I),
        lambda m: f"H2S{m[1] or m[2]}",
    ),
    (
        re.compile(r"H\s*I?\s*\(?(\d+)\s*-\s*(\d+)\)?", re.I),
        lambda m: "HI{1}-{0}".format(*sorted(map(int, m.groups()))),
    ),
    (
        re.compile(r"(Pf(?:und)?|Hu(?:mphreys)?)[\s-]*(α|β|γ|δ|alpha|beta|gamma|delta|[abgd])\b", re.I),
        lambda m: f"HI{(low := _LOWER_LEVEL[m[1][0].lower()]) + _STEPS[m[2][0].lower()]}-{low}",
    ),
    (re.compile(r"PAHs?", re.I), lambda m: "PAH"),
    (re.compile(r"\[?\s*([A-Z][a-z]?)\s*([IVX]+)\s*\]?"), lambda m: "".join(m.groups())),
)


def matches(line: str, labels: Sequence[str]) -> list[int]:
    """Return the places in a list of labels ("[Ne II] 12.81", "H2 S(1) 17.03", "PAH 7.7") that a text stands for.

    Parameters
    ----------
    line : str
        A label or a name as it stands there, else the same in another spelling: brackets, spaces, capitals, hydrogen
        by its series, a wavelength in um with as many digits as one likes (1 in the last one off at most).
    labels : sequence of str

    Returns
    -------
    list of int
        One where the text is clear; several where more lines have that name; none where it is not known.
    """
    exact = [i for i, label in enumerate(labels) if label == line]
    exact = exact or [i for i, label in enumerate(labels) if label.rpartition(" ")[0] == line]
    if exact:
        return exact
    key, number, slack = _parts(line.strip())
    known = [_parts(label) for label in labels]
    found = [i for i, one in enumerate(known) if key and key in (one[0], one[0].lower())]
    if number is None:
        return found
    off = {i: abs((known[i][1] or 0.0) - number) for i in found}
    near = [i for i in found if off[i] <= 0.5 * slack + 0.0051]
    return near or [i for i in found if off[i] <= slack + 0.0051]


def _parts(text: str) -> tuple[str, float | None, float]:
    """Return what names a line (in lower case where the capitals say nothing), its wavelength [um], one last digit."""
    for pattern, name in _PATTERNS:
        start = pattern.match(text)
        tail = _NUMBER.fullmatch(text[start.end() :]) if start else None
        if start and tail:
            return name(start), *_number(tail)
    loose = re.fullmatch(r"\[?\s*([a-z]+(?:\s*[ivx]+)?)\s*\]?([\s@]*\d.*|)", text, re.I)
    tail = _NUMBER.fullmatch(loose.group(2)) if loose else None
    if loose and tail:
        return re.sub(r"\s", "", loose.group(1)).lower(), *_number(tail)
    return "", None, 0.0


def _number(tail: re.Match[str]) -> tuple[float | None, float]:
    if tail.group(1) is None:
        return None, 0.0
    return float(tail.group(1)), 10.0 ** -len(tail.group(2) or "")
