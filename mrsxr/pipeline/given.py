"""What people hand to the chains: references as object or folder, parameters of one stage or of all."""

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

from .config import CalConfig, Config, CubeConfig, RateConfig, SpectrumConfig

_SECTIONS = {"rate": RateConfig, "cal": CalConfig, "cube": CubeConfig, "spectrum": SpectrumConfig}


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


def config_of(name: str, config: Any, section: str) -> Any:
    """Return the parameters of a stage: those given, those of the stage in a whole Config, or the defaults."""
    kind = _SECTIONS[section]
    if config is None:
        return kind()
    if isinstance(config, Config):
        return getattr(config, section)
    if not isinstance(config, kind):
        raise MrsxrError(f"{name} needs a {kind.__name__} or a Config, got a {type(config).__name__}")
    return config


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
