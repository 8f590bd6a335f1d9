"""Find the MRS files of an observation and say what each is, from headers alone."""

from __future__ import annotations

import glob
import json
import logging
import os
from collections import ChainMap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from astropy.io import fits

from mrsxr.arguments import need_paths
from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.limits import checked_but
from mrsxr.notes import tell
from mrsxr.tree import dither_of, order_of

from ._checks import check_keywords
from .atomic import BOOKS
from .fitsarray import file_stamp
from .headers import (
    band_of,
    cards,
    describe_instrument,
    exposure_name,
    product_of,
    read_header,
    require_mrs,
    setting_of,
)

log = logging.getLogger(__name__)

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
OnError = Literal["raise", "skip"]  # what becomes of a damaged file
SUFFIXES = (".fits", ".fits.gz")
MAX_DEPTH = 4
#: Folders inside an observation folder that never hold its exposures, nor its cubes as they were built.
OTHER_FOLDERS = {"matched", "refs", "references", "reference", "crds", "crds_cache", "truth", "plots", "figures"}
BACKGROUND_FOLDERS = {"background", "bkg", "bg", "backgrounds"}
_LONGEST_JSON = 50_000_000  # bytes of an association
DETECTOR_PRODUCTS = ("cal", "crf", "rate", "rateints", "ramp", "uncal")
SCIENCE, BACKGROUND = "science", "background"


@dataclass(frozen=True)
class FileInfo:
    """One MRS file: what it is, by its headers."""

    path: Path
    product: str  # uncal, ramp, rate, rateints, cal, crf, s3d or x1d
    node: str  # setting ("12A") of detector files, band ("1A", or "" for several) of cubes and spectra
    role: str  # science or background
    exposure: str  # file root
    keywords: dict[str, Any] = field(repr=False, compare=False)  # PRIMARY keywords
    pointing: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # RA_REF ... of SCI or PRIMARY

    @property
    def dither(self) -> int:
        """Number of the dither position (PATT_NUM, else the exposure number), 0 where neither is known."""
        return dither_of(self.keywords)

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorting key: time of visit by observation and visit, then dither, then name."""
        return order_of(self.keywords, self.exposure)


@dataclass(frozen=True)
class Found:
    """The files of a search: those to use and, by name and reason, those left out."""

    files: list[FileInfo]
    skipped: dict[str, str] = field(default_factory=dict)  # bad files (on_error="skip")
    ignored: dict[str, str] = field(default_factory=dict)  # files of a folder that are not of the MRS
    selfcal: list[str] = field(default_factory=list)  # further members of an association
    association: str = ""
    product_name: str = ""
    one_product: bool = False  # an association says that the science exposures make one product

    def __iter__(self) -> Iterator[FileInfo]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


@checked_but("source", "background")
def find_files(
    source: Source, background: Source | None = None, *, on_error: OnError = "raise", of_runs: bool = True
) -> Found:  # fmt: skip
    """Find the MRS files of an observation and classify them by their headers.

    Parameters
    ----------
    source : path, glob, association, or list of paths
        A folder is searched to a depth of four (folders of references and hidden ones are left out, and files
        that are not of the MRS are ignored); an association is a JWST level 2 or 3 JSON file with members
        beside it or in the folders of a MAST download (mastDownload/JWST/<exposure>/).
    background : the same, optional
        Files whose role is background whatever their headers say.
    on_error : "raise" or "skip"
        What to do about a file that cannot be read; "skip" collects it in ``skipped``.
    of_runs : bool
        Whether folders below the one that is searched count into which a run of this package wrote; False leaves them
        out where there are other files, so that a run takes no products of another for its input.

    Returns
    -------
    Found
        Files in the order of program, observation, visit and dither. A file is background by ``background``,
        by the association, by a folder named Background, or by BKGDTARG in its header.

    Raises
    ------
    InputFileError
        Naming the file that cannot be read, or saying that there is none.
    """
    if on_error not in ("raise", "skip"):
        raise MrsxrError(f"on_error is {on_error!r}; expected 'raise' or 'skip'")
    need_paths("find_files", source)
    if background is not None:
        need_paths("find_files", background, "background")
    found = _find(source, None, on_error, of_runs)
    if background is not None:
        more = _find(background, BACKGROUND, on_error, of_runs)
        if not more.files:
            raise InputFileError(f"the background {_nothing(background, more)}")
        taken = {info.path for info in more}
        found = replace(
            found,
            files=[info for info in found if info.path not in taken] + more.files,
            skipped=found.skipped | more.skipped,
            ignored=found.ignored | more.ignored,
        )
    if not found.files:
        alone = found.skipped.get(str(source)) if isinstance(source, str | os.PathLike) else None
        raise InputFileError(alone or _nothing(source, found))
    return replace(found, files=sorted(found.files, key=lambda info: (info.role != SCIENCE, info.order)))


def classify(path: str | os.PathLike[str], role: str | None = None) -> FileInfo:
    """Return what one file is, from its PRIMARY and SCI headers.

    Parameters
    ----------
    path : path
    role : str, optional
        "science" or "background"; by default from BKGDTARG.

    Returns
    -------
    FileInfo

    Raises
    ------
    InputFileError
        Where the file is missing, damaged or not of the MIRI MRS.
    """
    path = Path(path)
    return _classified(path, *read_header(path), role)


def _classified(path: Path, primary: dict[str, Any], main: fits.Header, role: str | None) -> FileInfo:
    require_mrs(path, primary)
    product = product_of(path, primary, main)
    check_keywords(path, primary, cards(main, path))
    node = setting_of(path, primary) if product in DETECTOR_PRODUCTS else band_of(primary)
    role = role or (BACKGROUND if primary.get("BKGDTARG") is True else SCIENCE)
    pointing = {key: main.get(key, primary.get(key)) for key in ("RA_REF", "DEC_REF", "ROLL_REF", "V2_REF", "V3_REF")}
    return FileInfo(path, product, node, role, exposure_name(path, primary), primary, pointing)


def _find(source: Source, role: str | None, on_error: str, of_runs: bool) -> Found:
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if os.path.isdir(path):
            runs: list[Path] | None = None if of_runs or os.path.isdir(path / BOOKS) else []
            found = _classify_all(_scan(path, runs), role, on_error, root=path)
            if runs and not found.files:
                return _classify_all(_scan(path), role, on_error, root=path)
            for folder in runs or ():
                tell(f"{folder}: products of a run, left out; name this folder to begin from them", aloud=False)
            return found
        if path.suffix.lower() == ".json":
            return _association(path, role, on_error)
        if not os.path.lexists(path) and glob.has_magic(str(source)):
            names = [Path(name) for name in sorted(glob.glob(str(source), recursive=True))]
            return _classify_all([p for p in names if os.path.isfile(p)], role, on_error)
        return _classify_all([path], role, on_error)
    if not any(os.path.isdir(item) for item in source):
        return _classify_all([Path(item) for item in source], role, on_error)
    parts = [_find(item, role, on_error, of_runs) for item in source]
    skipped, ignored = (dict(ChainMap(*(getattr(one, name) for one in parts))) for name in ("skipped", "ignored"))
    return Found([info for one in parts for info in one], skipped, ignored)


def _scan(folder: Path, runs: list[Path] | None = None, depth: int = 1) -> Iterator[Path]:
    """Yield the FITS files below a folder; folders of runs go into the list of them where one is given."""
    try:
        inside = sorted(folder.iterdir())
    except OSError as error:
        log.warning("left out: %s (%s)", folder, error.strerror)
        tell(f"the folder {folder} cannot be read ({error.strerror}) and is left out")
        return
    for path in inside:
        name = path.name.lower()
        if name.startswith("."):
            continue
        if os.path.isdir(path):
            if runs is not None and os.path.isdir(path / BOOKS):
                runs.append(path)
            elif depth < MAX_DEPTH and name not in OTHER_FOLDERS and path.suffix != ".zarr":
                yield from _scan(path, runs, depth + 1)
        elif name.endswith(SUFFIXES):
            yield path


def _classify_all(paths: Iterable[Path], role: str | None, on_error: str, root: Path | None = None) -> Found:
    out = Found([])
    for path in paths:
        try:
            headers = read_header(path)
            what = None if root is None else _foreign(*headers)
            if what is not None:
                log.info("ignored: %s %s", path, what)
                out.ignored[str(path)] = what
                continue
            out.files.append(_classified(path, *headers, role or _role_of_folder(path, root)))
        except InputFileError as error:
            if on_error == "raise":
                raise
            log.warning("left out: %s", error)
            out.skipped[str(path)] = str(error)
    return out


def _foreign(primary: dict[str, Any], main: fits.Header) -> str | None:
    """Return what a file in a folder is where it is no MRS exposure or product, None where it is one."""
    what = describe_instrument(primary)
    if what is None and main.get("EXTNAME") not in ("SCI", "EXTRACT1D"):
        return "has neither a SCI image nor an EXTRACT1D table"
    return what


def _role_of_folder(path: Path, root: Path | None) -> str | None:
    if root is None:
        return None
    inside = path.relative_to(root).parts[:-1]
    return BACKGROUND if any(part.lower() in BACKGROUND_FOLDERS for part in (root.name, *inside)) else None


def _association(path: Path, role: str | None, on_error: str) -> Found:
    """Return the members of a JWST association, level 2 or 3."""
    products = _products(path)
    members = [(str(m["expname"]), str(m["exptype"]).lower()) for product in products for m in product["members"]]
    names = [str(product.get("name") or "") for product in products]
    out = Found(
        [], association=path.name, product_name=names[0] if len(names) == 1 else "",
        one_product=len(names) == 1 and len([kind for _, kind in members if kind == SCIENCE]) > 1,
    )  # fmt: skip
    lost: dict[str, str] = {}
    seen: set[Path] = set()
    for name, kind in members:
        member = _member(path, name)
        if kind == "selfcal":
            out.selfcal.append(str(member or path.parent / name))
        if kind not in (SCIENCE, BACKGROUND) or (member or Path(name)) in seen:
            continue
        seen.add(member or Path(name))
        if member is None:
            lost[str(path.parent / name)] = f"{path}: the member {name} ({kind}) was not found"
            continue
        more = _classify_all([member], role or kind, on_error)
        out.files.extend(more.files)
        out.skipped.update(more.skipped)
    if lost and on_error == "raise":
        names = [Path(name).name for name in lost]
        listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise InputFileError(
            f"{path}: {len(names)} of {len(seen)} members were not found beside it, nor in the folders of a MAST "
            f"download (mastDownload/JWST/...): {listed}"
        )
    out.skipped.update(lost)
    return out


def _member(association: Path, name: str) -> Path | None:
    """Return the file of a member: beside the association, or where MAST puts it, in a folder named as the exposure."""
    home = association.parent
    root = Path(name).name.split(".")[0].rpartition("_")[0]
    for folder in (home, home.parent, home.parent.parent):
        places = [folder / name] if folder == home else []
        places += [folder / root / name, folder / "JWST" / root / name, folder / "mastDownload" / "JWST" / root / name]
        found = next((place for place in places if os.path.isfile(place)), None)
        if found is not None:
            return found
    return None


def _products(path: Path) -> list[dict[str, Any]]:
    """Return the products of an association, whose members all have an expname and an exptype."""
    try:
        size, _ = file_stamp(path)
        products: list[dict[str, Any]] | None = (
            json.loads(path.read_text(encoding="utf-8"))["products"] if size <= _LONGEST_JSON else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputFileError(
            f"{path}: no JWST association ({type(error).__name__}: {str(error)[:100]}); expected products with members "
            "that have expname and exptype"
        ) from error
    good = isinstance(products, list) and all(
        isinstance(product, dict) and isinstance(product.get("name") or "", str)
        and isinstance(product.get("members"), list)
        and all(isinstance(member, dict) and _is_member(member) for member in product["members"])
        for product in products
    )  # fmt: skip
    if not good or not products:
        raise InputFileError(
            f"{path}: no JWST association; expected products with a name and members that have expname and exptype"
        )
    return products


def _is_member(member: dict[str, Any]) -> bool:
    name = member.get("expname")
    return (
        isinstance(name, str) and bool(name.strip(". ")) and "\0" not in name and isinstance(member.get("exptype"), str)
    )


def _nothing(source: Source, found: Found) -> str:
    text = f"{source}: no MIRI MRS files (uncal, ramp, rate, cal, crf, s3d or x1d in FITS) found"
    if found.ignored:
        first, reason = next(iter(found.ignored.items()))
        text += f"; {len(found.ignored)} other FITS files, the first, {first}, {reason}"
    if found.skipped:
        text += f"; {len(found.skipped)} could not be read, the first: {next(iter(found.skipped.values()))}"
    return text
