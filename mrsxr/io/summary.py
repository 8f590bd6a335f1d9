"""The table of an observation: what was observed in each band, science and background, by headers alone."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mrsxr import mrs
from mrsxr.errors import InputFileError
from mrsxr.limits import checked_but

from ._spectral import read_table
from .files import BACKGROUND, SCIENCE, FileInfo, Found, OnError, Source, find_files
from .grouping import bands_missing, plan
from .headers import read_layout

_MOST_LEFT_OUT = 20


@dataclass(frozen=True)
class BandRow:
    """One band of one target."""

    role: str  # science or background
    target: str
    band: str
    channel: int
    grating: str
    detector: str
    readpatt: str
    n_groups: int
    n_integrations: int
    n_dithers: int
    time: float  # s, all dithers, resets between integrations included
    files: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True)
class Summary:
    """The observation table; ``print`` shows it, ``rows`` and :meth:`to_dict` give its numbers."""

    rows: list[BandRow]
    n_files: dict[str, int]  # exposure files of each role
    products: dict[str, int]  # files by product
    targets: dict[str, str]
    program: str
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)  # files of the folder that are no MRS data, and why

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain Python (JSON can hold it)."""
        out = asdict(self)
        out["rows"] = [{**row, "files": list(row["files"])} for row in out["rows"]]
        return out

    def time(self, band: str, role: str = SCIENCE) -> float:
        """Return the exposure time [s] of a band, all dithers; 0 where it was not observed."""
        return sum(row.time for row in self.rows if row.band == band and row.role == role)

    def __str__(self) -> str:
        header, body = self._table()
        widths = [max(len(row[i]) for row in [header, *body]) for i in range(len(header))]
        lines = [*self._headline(), *(f"! {problem}" for problem in self.problems)]
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(header, widths, strict=True)).rstrip())
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in body]
        lines += [f"- {one}" for one in self._left_out()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        header, body = self._table()
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
        top = "".join(f"<p>{html.escape(line)}</p>" for line in self._headline())
        notes = "".join(f"<li>{html.escape(problem)}</li>" for problem in self.problems)
        notes = f"<p>Look at:</p><ul>{notes}</ul>" if notes else ""
        rest = "".join(f"<p>{html.escape(one)}</p>" for one in self._left_out())
        return f"{top}{notes}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{rest}"

    def _left_out(self) -> list[str]:
        shown = [f"left out: {one}" for one in self.left_out[:_MOST_LEFT_OUT]]
        more = len(self.left_out) - len(shown)
        return [*shown, f"left out: {more} more"] if more else shown

    def _headline(self) -> list[str]:
        roles = [role for role in (SCIENCE, BACKGROUND) if self.n_files.get(role)]
        parts = [f"{role} {self.targets.get(role) or '(no name)'}, {self.n_files[role]} files" for role in roles]
        kinds = ", ".join(f"{number} {product}" for product, number in self.products.items())
        return [f"Program {self.program or 'unknown'}: {'; '.join(parts)} ({kinds})"]

    def _table(self) -> tuple[list[str], list[list[str]]]:
        roles = [role for role in (SCIENCE, BACKGROUND) if any(row.role == role for row in self.rows)]
        header = ["band", "channel", "grating"]
        for role in roles:
            header += [f"{role} readout", "groups x ints", "dithers", "time [s]"]
        body = []
        for band in [band for band in mrs.BANDS if any(row.band == band for row in self.rows)]:
            line = [band, band[0], mrs.GRATINGS[band[1]]]
            for role in roles:
                found = [row for row in self.rows if row.band == band and row.role == role]
                line += [
                    ", ".join(dict.fromkeys(row.readpatt for row in found)) or "-",
                    ", ".join(f"{row.n_groups} x {row.n_integrations}" for row in found) or "-",
                    " + ".join(str(row.n_dithers) for row in found) or "-",
                    f"{sum(row.time for row in found):.3f}" if found else "-",
                ]
            body.append(line)
        return header, body


@checked_but("source", "background")
def summarize(source: Source, background: Source | None = None, *, on_error: OnError = "skip") -> Summary:
    """Make the table of an observation from the headers of its files.

    Parameters
    ----------
    source : path, glob, list of paths or association
        See :func:`mrsxr.io.find_files`.
    background : the same, optional
    on_error : "skip" or "raise"
        "skip" names a bad file among the problems and goes on.

    Returns
    -------
    Summary
        Rows per band and role with channel, readout, groups, integrations, dithers and exposure time;
        problems name missing bands and dithers, bad files, and what does not belong together; ``left_out`` the files
        that are no MRS data. Where there are cubes and no exposures, the rows are those of the exposures that the cubes
        were made of, by their tables HDRTAB.

    Raises
    ------
    InputFileError
        Where neither exposures nor cubes are found.

    Notes
    -----
    The time of a band is n_dithers * TGROUP * (NGROUPS * NINTS + NINTS - 1): the R1 readouts spend one frame on
    the reset between integrations (JWST User Documentation, MIRI detector readout). 40 groups, 2 integrations
    and 4 dithers in FASTR1 make 899.113 s.

    Examples
    --------
    >>> table = mx.summarize(uncal_folder)
    >>> [row.band for row in table.rows]
    ['1A', '2A']
    """
    found = find_files(source, background, on_error=on_error, of_runs=False)
    grouped = plan(found.files, prefer="raw", allow_missing=True, one_product=found.one_product)
    exposures = grouped.exposures
    left_out = [f"{path}: {reason}" for path, reason in found.ignored.items()]
    if not exposures:
        return _of_cubes(source, found, left_out)
    rows = [row for one in grouped.fields for row in _rows([e.info for e in one.exposures], one.role)]
    problems = [*_unread(found), *grouped.problems, *([grouped.mixed] if grouped.mixed else []), *grouped.notes]
    infos = {role: [e.info for e in exposures if e.role == role] for role in (SCIENCE, BACKGROUND)}
    for role, members in infos.items():
        problems += _problems(members, role)
    if infos[BACKGROUND]:
        lost = bands_missing({i.node for i in infos[BACKGROUND]}, {i.node for i in infos[SCIENCE]})
        problems += [f"no background exposures of the bands {', '.join(lost)}"] if lost else []
    products = dict.fromkeys(info.product for info in found.files)
    return Summary(
        rows=rows,
        n_files={role: len(members) for role, members in infos.items()},
        products={product: sum(info.product == product for info in found.files) for product in products},
        targets={role: _target(members) for role, members in infos.items()},
        program=str(exposures[0].info.keywords.get("PROGRAM") or ""),
        problems=problems,
        left_out=left_out,
    )


def _unread(found: Found) -> list[str]:
    return [f"{path}: {reason}" if path not in reason else reason for path, reason in found.skipped.items()]


def _of_cubes(source: Source, found: Found, left_out: list[str]) -> Summary:
    """Return the table of cubes: of the exposures that they were made of."""
    cubes = [info for info in found.files if info.product == "s3d"]
    if not cubes:
        raise InputFileError(f"{source}: no exposures (uncal ... cal) or cubes to summarize; found {len(found)} files")
    rows: list[BandRow] = []
    problems = _unread(found)
    for cube in cubes:
        parts = _exposures_of_cube(cube)
        channels = str(cube.keywords.get("CHANNEL") or "1234")
        held = {cube.node} if cube.node else {band for band in mrs.BANDS if band[0] in channels}
        rows += [row for row in _rows(parts, cube.role) if row.band in held]
        problems += [text for text in _problems(parts, cube.role, parts[0].node) if text not in problems]
    bands = {row.band for row in rows}
    if lost := [band for band in mrs.BANDS if band not in bands]:
        problems.append(f"no cubes of the bands {', '.join(lost)}")
    roles = {role: [cube for cube in cubes if cube.role == role] for role in (SCIENCE, BACKGROUND)}
    return Summary(
        rows=rows, n_files={role: len(members) for role, members in roles.items()}, products={"s3d": len(cubes)},
        targets={role: _target(members) for role, members in roles.items()},
        program=str(cubes[0].keywords.get("PROGRAM") or ""), problems=problems, left_out=left_out,
    )  # fmt: skip


def _exposures_of_cube(cube: FileInfo) -> list[FileInfo]:
    """Return the exposures that a cube was made of: the rows of HDRTAB, or its own header where it has none."""
    file = read_layout(cube.path)
    table = read_table(file)
    lines = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    found = {}
    for number, line in enumerate(lines or [dict(cube.keywords)]):
        name = str(line.get("FILENAME") or number)
        setting = str(line.get("CHANNEL") or "")
        letter = {grating: a for a, grating in mrs.GRATINGS.items()}.get(str(line.get("BAND") or ""), "")
        node = f"{setting}{letter}" if f"{setting}{letter}" in mrs.SETTINGS else mrs.setting_of_band(cube.node or "1A")
        found[name] = FileInfo(cube.path, "s3d", node, cube.role, name, line)
    return list(found.values())


def _rows(exposures: Sequence[FileInfo], role: str) -> list[BandRow]:
    groups: dict[tuple[Any, ...], list[FileInfo]] = {}
    for info in exposures:
        keys = tuple(info.keywords.get(key) for key in ("READPATT", "NGROUPS", "NINTS", "TGROUP"))
        groups.setdefault((info.node, *keys), []).append(info)
    rows = []
    for (setting, readpatt, n_groups, n_integrations, group_time), members in groups.items():
        reads = (n_groups or 0) * (n_integrations or 0) + max((n_integrations or 0) - 1, 0)
        for band in mrs.bands_of_setting(setting):
            rows.append(
                BandRow(
                    role=role, target=_target(members), band=band, channel=int(band[0]),
                    grating=mrs.GRATINGS[band[1]], detector=str(members[0].keywords.get("DETECTOR")),
                    readpatt=str(readpatt or ""), n_groups=int(n_groups or 0),
                    n_integrations=int(n_integrations or 0), n_dithers=len(members),
                    time=float(group_time or 0.0) * reads * len(members),
                    files=tuple(str(info.path) for info in members),
                )
            )  # fmt: skip
    return sorted(rows, key=lambda row: mrs.BANDS.index(row.band))


def _problems(exposures: Sequence[FileInfo], role: str, only: str | None = None) -> list[str]:
    """Return what is missing: dithers of a pattern, detectors, bands, keywords; of ``only`` one setting where given."""
    if not exposures:
        return []
    out = []
    by_setting: dict[str, list[FileInfo]] = {}
    for info in exposures:
        by_setting.setdefault(info.node, []).append(info)
    missing = [s for s in mrs.SETTINGS if s not in by_setting and only is None]
    if missing:
        bands = [band for setting in missing for band in mrs.bands_of_setting(setting)]
        out.append(f"{role}: no files of the bands {', '.join(sorted(bands))} (settings {', '.join(missing)})")
    for setting, members in sorted(by_setting.items()):
        expected = {info.keywords.get("NUMDTHPT") for info in members} - {None}
        positions = sorted({info.dither for info in members})
        n = int(next(iter(expected))) if len(expected) == 1 else 0  # type: ignore[arg-type]
        if len(positions) < n:
            lost = [str(i) for i in range(1, n + 1) if i not in positions]
            out.append(f"{role} {setting}: {len(positions)} of {n} dithers, missing {', '.join(lost)}")
        for key in ("NGROUPS", "NINTS", "TGROUP"):
            without = [info.path.name for info in members if info.keywords.get(key) is None]
            if without:
                out.append(f"{role} {setting}: {key} is missing in {', '.join(without)}; its time is counted as 0")
    counts = {setting: len(members) for setting, members in by_setting.items()}
    if len(set(counts.values())) > 1:
        text = ", ".join(f"{setting} {counts[setting]}" for setting in mrs.SETTINGS if setting in counts)
        out.append(f"{role}: the settings have different numbers of exposures ({text})")
    return out


def _target(exposures: Sequence[FileInfo]) -> str:
    names = [str(i.keywords.get("TARGNAME") or i.keywords.get("TARGPROP") or "") for i in exposures]
    return ", ".join(dict.fromkeys(name for name in names if name))
