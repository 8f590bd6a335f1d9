"""Reference files that a chain can do without."""

from __future__ import annotations

import xarray as xr

from mrsxr.errors import ReferenceFileError
from mrsxr.notes import tell
from mrsxr.references import References


def optional(refs: References, kind: str, ds: xr.Dataset, otherwise: str | None) -> xr.Dataset | None:
    """Return a reference, or None with a warning that tells what happens without it; no warning for None."""
    try:
        return refs.get(kind, ds)
    except ReferenceFileError as error:
        if otherwise is not None:
            tell(f"{error}; {otherwise}", stacklevel=2)
        return None
