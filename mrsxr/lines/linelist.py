"""The bright lines and bands of the MIRI MRS range, with rest wavelengths in vacuum, and how people name them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import xarray as xr

from mrsxr.arguments import as_um, reads
from mrsxr.errors import MrsxrError
from mrsxr.limits import LineName, checked
from mrsxr.mrs import WAVELENGTH_LIMITS

KINDS = ("fine-structure", "H2", "hydrogen", "PAH")
_SAME_LINE = 1e-4, 5e-4  # shares by which a wavelength that people write may be off, where none is nearer

# name, rest wavelength [um], ionisation potential [eV], rank (1 bright in most sources .. 3 faint)
_FINE_STRUCTURE = (
    ("[Fe II]", 5.34017, 7.90, 1), ("[Fe VIII]", 5.44660, 124.98, 2), ("[Mg VII]", 5.50320, 186.76, 2),
    ("[K VI]", 5.57500, 82.66, 3), ("[Mg V]", 5.60985, 109.27, 2), ("[Ni II]", 6.63600, 7.64, 2),
    ("[Fe II]", 6.72128, 7.90, 3), ("[Ar II]", 6.98527, 15.76, 1), ("[Na III]", 7.31775, 47.29, 3),
    ("[Ne VI]", 7.65240, 126.25, 1), ("[Fe VII]", 7.81450, 98.99, 3), ("[Ar V]", 7.90158, 59.58, 2),
    ("[Na VI]", 8.61060, 138.40, 3), ("[Ar III]", 8.99103, 27.63, 1), ("[Na IV]", 9.04098, 71.62, 3),
    ("[Fe VII]", 9.52670, 98.99, 2), ("[S IV]", 10.51050, 34.86, 1), ("[Ni II]", 10.68220, 7.64, 3),
    ("[Cl IV]", 11.76190, 39.61, 3), ("[Ne II]", 12.81355, 21.56, 1), ("[Ar V]", 13.10219, 59.58, 2),
    ("[Mg V]", 13.52130, 109.27, 3), ("[Ne V]", 14.32168, 97.19, 1), ("[Cl II]", 14.36780, 12.97, 2),
    ("[Na VI]", 14.39640, 138.40, 3), ("[Ne III]", 15.55510, 40.96, 1), ("[P III]", 17.88500, 19.77, 3),
    ("[Fe II]", 17.93595, 7.90, 2), ("[S III]", 18.71300, 23.34, 1), ("[Cl IV]", 20.31070, 39.61, 3),
    ("[Na IV]", 21.29000, 71.62, 3), ("[Fe III]", 22.92500, 16.20, 2), ("[Fe I]", 24.04233, np.nan, 3),
    ("[Ne V]", 24.31750, 97.19, 1), ("[Fe II]", 24.51925, 7.90, 3), ("[S I]", 25.24900, np.nan, 2),
    ("[O IV]", 25.89030, 54.94, 1), ("[Fe II]", 25.98829, 7.90, 1),
)  # fmt: skip
_H2 = (
    ("H2 S(8)", 5.05312, 3), ("H2 S(7)", 5.51118, 1), ("H2 S(6)", 6.10857, 2), ("H2 S(5)", 6.90952, 1),
    ("H2 S(4)", 8.02505, 1), ("H2 S(3)", 9.66492, 1), ("H2 S(2)", 12.27861, 1), ("H2 S(1)", 17.03484, 1),
    ("H2 S(0)", 28.21883, 2),
)  # fmt: skip
_HYDROGEN = (
    ("H I 6-5", 7.45988, 1), ("H I 8-6", 7.50251, 2), ("H I 10-7", 8.76008, 3), ("H I 9-7", 11.30872, 3),
    ("H I 7-6", 12.37190, 1), ("H I 8-7", 19.06190, 2),
)  # fmt: skip
# name, centre [um], full width at half maximum [um], rank
_PAH = (
    ("PAH 5.3", 5.27, 0.179, 3), ("PAH 5.7", 5.70, 0.200, 3), ("PAH 6.2", 6.22, 0.187, 1),
    ("PAH 7.7", 7.745, 0.625, 1), ("PAH 8.6", 8.61, 0.336, 1), ("PAH 11.3", 11.337, 0.349, 1),
    ("PAH 12.6", 12.62, 0.530, 2), ("PAH 16.4", 16.45, 0.230, 3), ("PAH 17", 17.04, 1.108, 2),
)  # fmt: skip
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


def line_list() -> xr.Dataset:
    """Return the table of bright lines of the MRS range, by wavelength.

    Returns
    -------
    Dataset
        On ``line`` (labels like ``"[Fe II] 5.34"``, each once): ``name`` (``"[Ne II]"``, ``"H2 S(3)"``,
        ``"H I 7-6"``, ``"PAH 7.7"``), ``wavelength`` at rest [um, vacuum], ``kind`` (one of ``KINDS``),
        ``ionisation_potential`` [eV], the energy that makes the ion (13.60 for recombination lines of hydrogen,
        NaN for neutral atoms, molecules and dust), ``fwhm`` [um] of the dust bands (NaN for lines) and ``rank``
        (1: bright in most sources, 2: in some, 3: faint).

    Notes
    -----
    Fine structure: the line lists of ISO and Spitzer (Feuchtgruber et al. 1997, ApJ 487, 962, and later), hydrogen
    from R_H = 1.09677576e7 m^-1, H2 v = 0-0 from the Spitzer list; good to about 1e-4 um. Look a line up in the
    NIST Atomic Spectra Database before velocities below 20 km/s are published. PAH: Drude components of PAHFIT
    (Smith et al. 2007, ApJ 656, 770); the 7.7 and 11.3 um complexes are given from half power to half power of
    their components (7.60, 7.85 and 11.23, 11.33 um).

    Examples
    --------
    >>> lines = line_list()
    >>> float(lines.wavelength.sel(line="[Ne II] 12.81"))
    12.81355
    """
    rows = [
        *((name, wave, "fine-structure", energy, np.nan, rank) for name, wave, energy, rank in _FINE_STRUCTURE),
        *((name, wave, "H2", np.nan, np.nan, rank) for name, wave, rank in _H2),
        *((name, wave, "hydrogen", 13.60, np.nan, rank) for name, wave, rank in _HYDROGEN),
        *((name, wave, "PAH", np.nan, width, rank) for name, wave, width, rank in _PAH),
    ]
    name, wave, kind, energy, width, rank = zip(*sorted(rows, key=lambda row: row[1]), strict=True)
    label = [n if k == "PAH" else f"{n} {w:.2f}" for n, w, k in zip(name, wave, kind, strict=True)]
    return xr.Dataset(
        {
            "name": ("line", np.array(name), {"long_name": "name of the line"}),
            "wavelength": ("line", np.array(wave), {"units": "um", "long_name": "rest wavelength in vacuum"}),
            "kind": ("line", np.array(kind), {"long_name": "what makes the line"}),
            "ionisation_potential": ("line", np.array(energy),
                                     {"units": "eV", "long_name": "energy that makes the ion"}),
            "fwhm": ("line", np.array(width), {"units": "um", "long_name": "width of a dust band"}),
            "rank": ("line", np.array(rank, dtype=np.int8), {"units": "1", "long_name": "1 bright .. 3 faint"}),
        },
        coords={"line": np.array(label)},
    )  # fmt: skip


@reads()
@checked
def in_range(
    lines: xr.Dataset, wavelength_min: float | None = None, wavelength_max: float | None = None, redshift: float = 0.0
) -> xr.Dataset:
    """Return the lines that a source shows between two observed wavelengths.

    Parameters
    ----------
    lines : Dataset
        From :func:`line_list`, or any with ``wavelength`` [um] on ``line``.
    wavelength_min, wavelength_max : float, optional
        Limits of the observed wavelength [um], both included; by default those of the instrument.
    redshift : float
        Redshift of the source; observed = rest times (1 + redshift).

    Returns
    -------
    Dataset
        Part of ``lines``, with ``observed_wavelength`` [um] added.

    Raises
    ------
    MrsxrError
        Where the redshift or the limits are impossible.

    Examples
    --------
    >>> in_range(line_list(), 12.5, 12.9).line.values.tolist()
    ['PAH 12.6', '[Ne II] 12.81']
    """
    low = WAVELENGTH_LIMITS["1A"][0] if wavelength_min is None else wavelength_min
    high = WAVELENGTH_LIMITS["4C"][1] if wavelength_max is None else wavelength_max
    if not (np.isfinite(redshift) and redshift > -1.0):
        raise MrsxrError(f"redshift is {redshift}; expected a number above -1")
    if not low <= high:
        raise MrsxrError(f"the range is {low} to {high} um; expected the smaller one first")
    observed = lines["wavelength"].values * (1.0 + redshift)
    inside = (observed >= low) & (observed <= high)
    attrs = {"units": "um", "long_name": "observed wavelength"}
    return lines.assign(observed_wavelength=("line", observed, attrs)).isel(line=inside)


def is_wavelength(line: LineName) -> bool:
    """Tell whether a line is given by its wavelength: a number, a Quantity, a text that begins as one, "18.71 um"."""
    return not isinstance(line, str) or re.match(r"\s*\.?\d", line) is not None


def find_line(line: LineName) -> tuple[str, float]:
    """Return label and rest wavelength [um] of a line: a label of ``line_list``, its unique name, or a wavelength."""
    if is_wavelength(line):
        rest = as_um(line, "rest wavelength")
        if not rest > 0:
            raise MrsxrError(f"the rest wavelength is {line}; expected um above 0")
        return f"{rest:.4f} um", rest
    line, table = str(line), line_list()
    labels = [str(label) for label in table["line"].values]
    hits = matches(line, labels)
    if len(hits) != 1:
        near = [labels[i] for i in hits] or [label for label in labels if label.startswith(line[:4])]
        found = "stands for several lines" if hits else "is no line of line_list()"
        advice = f"expected one of {', '.join(near)}" if near else "expected a label, or a rest wavelength in um"
        raise MrsxrError(f"'{line}' {found}; {advice}")
    return labels[hits[0]], float(table["wavelength"].values[hits[0]])


def held(line: LineName, labels: Sequence[str], rest: Iterable[float]) -> list[int]:
    """Return the places of a line among those that a result holds, several where it may be any of them.

    line : as of :func:`matches`, or a wavelength. rest : wavelengths [um] of the labels, none where they are unknown.

    Raises
    ------
    MrsxrError
        Where a line is asked for by a wavelength and those of the labels are unknown.
    """
    if not is_wavelength(line):
        return matches(str(line), labels)
    rest = list(rest)
    if not rest:
        raise MrsxrError(
            f"{line!r} is a wavelength, and the coordinate 'wavelength_rest', which tells those of the lines, is no "
            f"more in the data; keep it, or name the line: {', '.join(labels)}"
        )
    off = [abs(one / as_um(line, "rest wavelength") - 1.0) for one in rest]
    near = ([i for i, share in enumerate(off) if share < most] for most in _SAME_LINE)
    return next(filter(None, near), [])


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
