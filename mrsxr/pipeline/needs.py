"""Which reference files a run will need, and whether they are there, before the first exposure is worked on."""

from __future__ import annotations

import json
from collections.abc import Sequence

import xarray as xr

from mrsxr.errors import MrsxrError, ReferenceFileError
from mrsxr.io import FileInfo
from mrsxr.references import References

from .config import Config

READY = {"uncal": 0, "ramp": 0, "rate": 1, "cal": 2, "crf": 2}  # how many stages a file has behind it
#: Kinds of reference files that the steps of a level may take.
KINDS_OF = {
    "rate": (
        "mask",
        "emicorr",
        "saturation",
        "ipc",
        "reset",
        "linearity",
        "rscd",
        "dark",
        "gain",
        "readnoise",
        "regions",
    ),
    "cal": ("latent", "distortion", "specwcs", "regions", "mrsxartcorr", "flat", "fringe", "photom", "fringefreq"),
    "cube": ("distortion", "specwcs", "regions", "cubepar", "mrsptcorr"),
    "spectrum": ("extract1d", "apcorr", "cubepar", "mrsptcorr"),
}  # fmt: skip
NO_REFERENCES = (
    "this run needs reference files: give a folder (refs, --refs), or set CRDS_PATH and CRDS_SERVER_URL for CRDS"
)


def required_kinds(config: Config, stage: int, to: str) -> tuple[str, ...]:
    """Return the kinds that a file with so many stages behind it cannot do without on its way.

    Parameters
    ----------
    config : Config
    stage : int
        0 of ramps, 1 of slopes, 2 of cal files.
    to : {"rate", "cal", "cube", "spectrum"}

    Returns
    -------
    tuple of str
    """
    kinds: list[str] = []
    if stage == 0:
        steps = {"mask": "dq_init", "saturation": "saturation", "linearity": "linearity", "dark": "dark_current"}
        kinds += [kind for kind, step in steps.items() if step not in config.rate.skip] + ["gain", "readnoise"]
    if stage <= 1 and to != "rate":
        wanted = {
            "latent": config.cal.latents, "distortion": True, "specwcs": True, "flat": config.cal.flat,
            "regions": config.cal.clean_showers != "none", "fringe": config.cal.fringe, "photom": True,
            "fringefreq": config.cal.residual_fringe != "none",
        }  # fmt: skip
        kinds += [kind for kind, asked in wanted.items() if asked]
    if to in ("cube", "spectrum") and config.cube.point_source is not None:
        kinds.append("mrsptcorr")
    return tuple(kinds)


def require_references(files: Sequence[FileInfo], refs: References | None, config: Config, to: str) -> None:
    """Raise where no exposure could be worked on for want of reference files; headers of files alone are looked at.

    Parameters
    ----------
    files : sequence of FileInfo
        The exposures of a run.
    refs : References or None
    config : Config
    to : {"rate", "cal", "cube", "spectrum"}

    Raises
    ------
    MrsxrError
        Where files are needed and none are given, where every setting lacks one or has one that does not fit, and where
        the headers say POINT and there is no aperture correction.
    """
    goal = {"rate": 1}.get(to, 2)
    todo = [one for one in files if READY[one.product] < goal]
    if todo and refs is None:
        raise MrsxrError(NO_REFERENCES)
    if refs is None:
        return
    found: dict[tuple, ReferenceFileError | None] = {}
    for one in todo:
        key = (one.node, READY[one.product], *(one.keywords.get(k) for k in ("READPATT", "SUBARRAY", "NGROUPS")))
        if key not in found:
            found[key] = _lack(one, required_kinds(config, READY[one.product], to), refs)
    errors = [error for error in found.values() if error is not None]
    if errors and len(errors) == len(found):
        raise type(errors[0])(f"{errors[0]}{f' (and {len(errors) - 1} more settings)' if len(errors) > 1 else ''}")
    target = next((one for one in files if one.role != "background" and _says_point(one, config)), None)
    if to == "spectrum" and target is not None and config.spectrum.aperture_correction:
        error = _lack(target, ("apcorr",), refs)
        if error is not None:
            from .spectrum_chain import aperture_correction_lacks

            raise aperture_correction_lacks(error)


def _lack(one: FileInfo, kinds: Sequence[str], refs: References) -> ReferenceFileError | None:
    """Return the error of the first kind that the source cannot serve an exposure with."""
    try:
        refs.require(kinds, stub(one))
    except ReferenceFileError as error:
        return error
    return None


def stub(one: FileInfo) -> xr.Dataset:
    """Return a Dataset without data that says of a file what the choice of reference files asks for."""
    attrs = {"level": "rate", "setting": one.node, "fits_header": json.dumps({"PRIMARY": one.keywords})}
    return xr.Dataset(attrs=attrs)


def _says_point(one: FileInfo, config: Config) -> bool:
    asked = config.spectrum.source_type
    if config.spectrum.region is not None or asked not in ("header", "POINT"):
        return False
    said = config.cal.source_type or one.keywords.get("SRCTYAPT")
    return asked == "POINT" or str(said or "").upper() == "POINT"
