"""Step srctype: is the target a point or extended, by the keywords of the exposures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from mrsxr.attributes import headers_of, set_each
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
        ``attrs["source_type"]``: POINT or EXTENDED; where the exposures differ a coordinate along ``dither``. Files and
        cubes tell it by SRCTYPE.

    Raises
    ------
    MrsxrError
        Where ``source_type`` is none of the two.

    Notes
    -----
    As jwst's srctype, for each exposure the first that holds: background target (BKGDTARG, or the role of the
    Dataset) EXTENDED; time series (TSOVISIT, more than one integration) POINT; SRCTYAPT, or SRCTYPE where there is
    no SRCTYAPT; dithers optimised for a point source (DITHOPFR) POINT; else EXTENDED. The image has no say here.

    Examples
    --------
    >>> mx.cal.set_source_type(rate).attrs["source_type"]
    'POINT'
    >>> mx.cal.set_source_type(rate, source_type="EXTENDED").attrs["source_type"]
    'EXTENDED'
    """
    background = bool(ds.attrs.get("background", 0))
    kinds = [
        str(source_type).upper() if source_type is not None
        else source_type_of(header.get("PRIMARY", {}), header.get("SCI", {}), background=background)
        for header in headers_of(ds)
    ]  # fmt: skip
    return set_each(ds, "source_type", kinds)


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
