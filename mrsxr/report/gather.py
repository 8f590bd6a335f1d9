"""What lies in a folder of products: exposures, cubes, spectra, fitted lines, and the record of the runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from mrsxr.errors import InputFileError
from mrsxr.io import FileInfo, Summary, find_files, summarize
from mrsxr.io.products import load_dataset
from mrsxr.mrs import BANDS, SETTINGS, bands_of_setting
from mrsxr.pipeline.record import NAME, read_runs
from mrsxr.pipeline.store import stores_below
from mrsxr.step import branches, read_history

SCIENCE = "science"


@dataclass
class Contents:
    """The products of a folder, science first, and what is known of the runs that made them."""

    folder: Path
    files: list[FileInfo] = field(default_factory=list)
    others: dict[Path, str] = field(default_factory=dict)  # netCDF and zarr products: level
    runs: list[dict[str, Any]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    fits: dict[float, xr.Dataset] = field(default_factory=dict, repr=False)  # lines, by redshift
    _open: dict[Path, xr.Dataset] = field(default_factory=dict, repr=False)

    def of(self, *products: str, role: str = SCIENCE) -> list[FileInfo]:
        """Return the files of some products and one role, by setting or band."""
        order = {node: i for i, node in enumerate((*SETTINGS, *BANDS))}
        found = [f for f in self.files if f.product in products and f.role == role]
        return sorted(found, key=lambda f: (order.get(f.node, 99), f.order))

    def open(self, file: FileInfo | Path) -> xr.Dataset:
        """Open a product lazily, once."""
        path = file.path if isinstance(file, FileInfo) else file
        if path not in self._open:
            self._open[path] = load_dataset(path)
        return self._open[path]

    def relative(self, path: Path | str) -> str:
        """Return a path as seen from the folder."""
        path = Path(path)
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)

    @property
    def run(self) -> dict[str, Any] | None:
        """The last run, None where there is no record."""
        return self.runs[-1] if self.runs else None

    def exposures(self) -> list[FileInfo]:
        """Return the science exposures, one product each, the most advanced."""
        best: dict[str, FileInfo] = {}
        for file in self.of("uncal", "ramp", "rate", "cal", "crf"):
            rank = ("uncal", "ramp", "rate", "cal", "crf").index
            if file.exposure not in best or rank(file.product) > rank(best[file.exposure].product):
                best[file.exposure] = file
        return list(best.values())

    def cubes(self) -> dict[str, FileInfo]:
        """Return the science cubes of single bands."""
        return {f.node: f for f in self.of("s3d") if f.node in BANDS}

    def spectra(self) -> list[tuple[FileInfo, xr.Dataset]]:
        """Return the science spectra of single bands; more than one of a band where both branches were taken."""
        found = ((f, self.open(f)) for f in self.of("x1d"))
        return [(f, ds) for f, ds in found if ds.attrs.get("band") in BANDS and not is_stitched(ds)]

    def stitched(self) -> list[tuple[FileInfo, xr.Dataset]]:
        """Return the science spectra of several bands."""
        return [(f, ds) for f, ds in ((f, self.open(f)) for f in self.of("x1d")) if is_stitched(ds)]

    def histories(self) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
        """Yield (bands, steps) of every science product that has a history, the most advanced last."""
        for file in self.of("rate", "rateints", "cal", "crf", "s3d", "x1d"):
            ds = self.open(file)
            bands = list(bands_of_setting(file.node)) if file.node in SETTINGS else [file.node]
            if is_stitched(ds):
                bands = list(ds.attrs.get("bands") or ())
            for steps in branches(read_history(ds)):
                entries = [{k: v for k, v in entry.items() if k != "inputs"} for entry in steps]
                if entries:
                    yield bands, entries

    def summary(self) -> Summary | None:
        """Return the observation table, from the files that went in while they are there, else from the products."""
        went_in = [(i["path"], i["role"]) for i in self._inputs() if os.path.isfile(i["path"])]
        for found in (went_in, [(str(f.path), f.role) for f in self.files]):
            mine, background = ([path for path, role in found if (role == SCIENCE) is which] for which in (True, False))
            try:
                if mine:
                    return summarize(mine, background or None)
            except InputFileError:
                continue
        return None

    def _inputs(self) -> list[dict[str, str]]:
        """Return the exposures that went into the runs, the rawest of each."""
        return [i for run in self.runs for i in run.get("inputs", ()) if i.get("product") != "s3d"]


def is_stitched(ds: xr.Dataset) -> bool:
    """Tell whether a spectrum was stitched or has several bands."""
    return (
        "stitch_method" in ds.attrs or len(ds.attrs.get("bands") or ()) > 1 or str(ds.attrs.get("band")) == "MULTIPLE"
    )


def gather(folder: Path) -> Contents:
    """Look through a folder of products.

    Raises
    ------
    InputFileError
        Where it is no folder, holds those of several observations, or no MRS products.
    """
    if not os.path.isdir(folder):
        raise InputFileError(f"{folder}: no such folder of products; give the one that `mrsxr run --out` wrote")
    below = [one for one in stores_below(folder) if one != Path(folder)]
    if len(below) > 1:
        raise InputFileError(
            f"{folder}: holds the products of {len(below)} observations; give the folder of one, {below[0]}"
        )
    out = Contents(folder)
    problem = None
    try:
        found = find_files(folder, on_error="skip")
        out.files, out.skipped = found.files, dict(found.skipped)
    except InputFileError as error:
        problem = error
    for path in [folder / NAME, *sorted(folder.glob(f"*/{NAME}"))]:
        try:
            out.runs = out.runs or read_runs(path.parent)
        except InputFileError as error:
            out.skipped[str(path)] = str(error)
    out.others = _others(out)
    if not (out.files or out.others or out.runs):
        raise problem or InputFileError(f"{folder}: holds no products to report on")
    return out


def _others(contents: Contents) -> dict[Path, str]:
    """Return the netCDF and zarr products that have no FITS file of the same name, and their levels."""
    found = {}
    stems = {f.path.name.split(".")[0] for f in contents.files}
    for path in sorted([*contents.folder.rglob("*.nc"), *contents.folder.rglob("*.zarr")]):
        if path.stem in stems or {"truth", "refs"} & set(path.relative_to(contents.folder).parts):
            continue
        try:
            found[path] = str(contents.open(path).attrs.get("level", ""))
        except InputFileError as error:
            contents.skipped[str(path)] = str(error)
    return found
