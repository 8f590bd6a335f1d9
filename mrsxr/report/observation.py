"""Sections on what was observed and what went wrong."""

from __future__ import annotations

from typing import Any

import xarray as xr
from markupsafe import Markup

from mrsxr.attributes import headers_of
from mrsxr.errors import MrsxrError
from mrsxr.io import Summary
from mrsxr.spaxels import facts_of

from .gather import Contents
from .markup import NONE, bullets, heading, join, macros, number, paragraph, seconds, strong, table


def headline(contents: Contents) -> tuple[str, Markup]:
    """Return the title of the page and a list of the main facts."""
    facts: dict[str, str] = {}
    header = next((f.keywords for f in contents.files if f.role == "science"), {}) or next(
        (headers_of(contents.open(p))[0].get("PRIMARY", {}) for p in contents.others), {}
    )
    target = str(header.get("TARGNAME") or header.get("TARGPROP") or "Unnamed target")
    program = str(header.get("PROGRAM") or "").lstrip("0")
    observation = str(header.get("OBSERVTN") or "").lstrip("0")
    if program:
        facts["Program"] = program + (f", observation {observation}" if observation else "")
    if header.get("DATE-OBS"):
        facts["Observed"] = str(header["DATE-OBS"])
    exposures, cubes = contents.exposures(), contents.cubes()
    bands = sorted({band for band in cubes} | {f.node for f, _ in contents.spectra()})
    facts["Exposures"] = str(len(exposures)) if exposures else "not in this folder"
    if bands:
        facts["Bands"] = " ".join(bands)
    run = contents.run
    if run:
        own = len(run.get("changed", {}))
        facts["Recipe"] = f"{run['base']}" + (f", {own} parameter{'s' if own > 1 else ''} changed" if own else "")
        facts["Reduced"] = f"{run['started'][:10]} in {seconds(sum(r['seconds'] for r in contents.runs))}"
    return target, macros.facts(facts)


def problems(contents: Contents) -> Markup | None:
    """Return what failed, what could not be read and what the runs warned of; None where there is nothing to tell."""
    parts = []
    failed = [
        (f"{p['stage']}: {contents.relative(p['name'])}", p["failed"])
        for run in contents.runs for p in run["pieces"] if p.get("failed") and not _mended(contents, run, p)
    ]  # fmt: skip
    if failed:
        parts.append(heading("Failed"))
        parts.append(bullets((join(strong(name), " ", why) for name, why in failed), "failed"))
    if any(not run.get("finished", True) for run in contents.runs[-1:]):
        parts.append(paragraph("The last run was broken off before its end; what it wrote until then is shown."))
    if contents.skipped:
        parts.append(heading("Not readable"))
        parts.append(bullets((f"{contents.relative(path)}: {why}" for path, why in contents.skipped.items()), "failed"))
    notes = list(dict.fromkeys(note for run in contents.runs for note in run.get("notes", ())))
    if notes:
        parts.append(heading("Notes of the run"))
        parts.append(bullets(notes))
    return join(*parts) if parts else None


def _mended(contents: Contents, run: dict[str, Any], piece: dict[str, Any]) -> bool:
    """Tell whether a later run did what failed in this one."""
    later = contents.runs[contents.runs.index(run) + 1 :]
    same = (p for r in later for p in r["pieces"] if (p["stage"], p["name"]) == (piece["stage"], piece["name"]))
    return any(not p.get("failed") for p in same)


def observation(contents: Contents) -> Markup:
    """Return the observation table, by headers; of cubes alone what they tell."""
    found = contents.summary()
    if found is not None:
        notes = [heading("Look at"), bullets(found.problems)] if found.problems else []
        return join(_exposure_table(found), *notes)
    rows = [_cube_row(contents.open(f)) for f in contents.cubes().values()]
    rows += [] if rows else [_cube_row(ds) for _, ds in contents.spectra()]
    if not rows:
        raise MrsxrError("no exposures, cubes or spectra of single bands, so that there is no table of them")
    text = "The exposures are not in this folder; this is what the headers of the products tell."
    header = ["Band", "Wavelength [µm]", "Pixel [arcsec]", "Readout", "Groups × ints", "Exposures"]
    return join(paragraph(text), table("Bands, from the products", header, rows, numbers=(2,)))


def _exposure_table(found: Summary) -> Markup:
    header = ["Band", "Channel", "Grating", "Role", "Readout", "Groups × ints", "Dithers", "Time [s]"]
    rows = [
        [
            r.band, str(r.channel), r.grating, r.role, r.readpatt or NONE,
            f"{r.n_groups} × {r.n_integrations}", str(r.n_dithers), f"{r.time:.1f}",
        ]
        for r in sorted(found.rows, key=lambda r: (r.role != "science", r.band))
    ]  # fmt: skip
    names = "; ".join(f"{role}: {name}" for role, name in found.targets.items() if name)
    return table(names or "Exposures", header, rows, numbers=(6, 7))


def _cube_row(ds: xr.Dataset) -> list[str]:
    waves = ds["wavelength"].values
    exposures = ds.attrs.get("exposures") or ()
    header = headers_of(ds)[0].get("PRIMARY", {})
    groups = ds.attrs.get("n_groups") or header.get("NGROUPS")
    integrations = ds.attrs.get("n_integrations") or header.get("NINTS")
    return [
        str(ds.attrs.get("band", NONE)), f"{waves[0]:.3f}–{waves[-1]:.3f}",
        number(facts_of(ds)["pixel_scale"]) if "pixel_scale" in ds.attrs else NONE,
        str(ds.attrs.get("readpatt") or header.get("READPATT") or NONE),
        f"{groups} × {integrations}" if groups else NONE, str(len(exposures) or NONE),
    ]  # fmt: skip
