"""What people hand to the chains: references as object or folder, bands that are there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from mrsxr.arguments import bands_held
from mrsxr.errors import InputFileError, MrsxrError
from mrsxr.io import Found
from mrsxr.io.files import BACKGROUND, DETECTOR_PRODUCTS
from mrsxr.mrs import bands_of_setting
from mrsxr.references import References


def references_of(name: str, refs: Any, *, needed: bool) -> Any:
    """Return the References of what was given: an object, a folder, a mapping of kinds, or nothing."""
    if isinstance(refs, str | os.PathLike | dict):
        return References(refs)
    if isinstance(refs, References) or hasattr(refs, "get"):
        return refs
    if refs is None and not needed:
        return None
    found = "none" if refs is None else f"a {type(refs).__name__}"
    raise MrsxrError(f"{name} needs reference files, got {found}; give References(folder), References() for CRDS")


def check_bands(bands: int | Iterable[str | int], found: Found) -> None:
    """Refuse a choice of bands of which one is in no science exposure or cube that was found."""
    science = [f for f in found.files if f.role != BACKGROUND]
    held = {band for f in science if f.product in DETECTOR_PRODUCTS for band in bands_of_setting(f.node)}
    held |= {f.node for f in science if f.product == "s3d"}
    try:
        bands_held(bands, held, "exposures or cubes")
    except MrsxrError as error:
        bad = next(iter(found.skipped.values()), None)
        raise InputFileError(str(error) + (f"; files that could not be read: {bad}" if bad else "")) from None
