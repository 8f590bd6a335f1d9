"""Step srctype: is the target a point or extended, by the keywords of the exposures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.limits import SourceType
from mrsxr.step import step

TYPES = ("POINT", "EXTENDED")


@step(needs=("rate", "cal"), jwst="srctype", keyword="S_SRCTYP")
def set_source_type(ds: xr.Dataset, *, source_type: SourceType | None = None) -> xr.Dataset:
    """Tell whether the target is a point or extended, by what the proposal and the dither pattern say.

    Parameters
    ----------
    ds : Dataset, level "rate" or "cal"
        The keywords are those of the coordinate ``fits_header`` (dither).
    source_type : str, optional
        "POINT" or "EXTENDED", in any case of letters: wins over all keywords.

    Returns
    -------
    Dataset of the same level
        ``attrs["source_type"]``: POINT or EXTENDED; UNKNOWN where the exposures differ. The keyword SRCTYPE among the
        SCI keywords of each exposure in ``fits_header``, which files, cubes and spectra take over.

    Raises
    ------
    MrsxrError
        Where ``source_type`` is none of the two.

    Notes
    -----
    As jwst's srctype, for each exposure the first that holds: background target (BKGDTARG, or the role of the
    Dataset) EXTENDED; time series (TSOVISIT, more than one integration) POINT; SRCTYAPT, or SRCTYPE where there is
    no SRCTYAPT; dithers optimised for a point source (DITHOPFR) POINT; else EXTENDED. The image has no say here.
    """
    found, texts = [], []
    for text in np.atleast_1d(ds["fits_header"].values):
        header = json.loads(str(text) or "{}")
        primary, sci = header.get("PRIMARY", {}), header.get("SCI", {})
        kind = str(source_type).upper() if source_type is not None else None
        kind = kind or source_type_of(primary, sci, background=bool(ds.attrs.get("background", 0)))
        found.append(kind)
        (primary if "SRCTYPE" in primary and "SRCTYPE" not in sci else sci)["SRCTYPE"] = kind
        texts.append(json.dumps({**header, "PRIMARY": primary, "SCI": sci}))
    out = ds.assign_coords(fits_header=("dither", np.array(texts), ds["fits_header"].attrs))
    return out.assign_attrs(source_type=found[0] if len(set(found)) == 1 else "UNKNOWN")


def source_type_of(primary: Mapping[str, Any], sci: Mapping[str, Any], *, background: bool = False) -> str:
    """Return POINT or EXTENDED from the keywords of one exposure.

    Parameters
    ----------
    primary, sci : mapping
        Keywords of the PRIMARY and SCI headers.
    background : bool
        The exposure is used as background, whatever BKGDTARG says.
    """
    value = {**primary, **sci}.get
    asked = value("SRCTYAPT")
    if asked is None:
        asked = value("SRCTYPE")
    if background or value("BKGDTARG"):
        return "EXTENDED"
    n_integrations = value("NINTS")
    if value("TSOVISIT") and (n_integrations is None or n_integrations >= 2):
        return "POINT"
    if asked in TYPES:
        return str(asked)
    dither = str(value("DITHOPFR") or "")
    return "POINT" if "NOD" in dither or "POINT-SOURCE" in dither else "EXTENDED"
