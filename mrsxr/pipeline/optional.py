"""Reference files that a chain can do without, and the notes of a chain."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import xarray as xr

from mrsxr.errors import ReferenceMissingError
from mrsxr.notes import listen, noted, tell
from mrsxr.references import References


def optional(refs: References, kind: str, ds: xr.Dataset, otherwise: str | None) -> xr.Dataset | None:
    """Return a reference, or None where the source has none of the kind, told with what happens then.

    Parameters
    ----------
    refs : References
    kind : str
    ds : Dataset
        The exposure, cube or spectrum.
    otherwise : str or None
        What happens without it, for the note; None for no note.

    Raises
    ------
    ReferenceFileError
        Where the source has one that is damaged or for another exposure: a step is not left out for that.
    """
    try:
        return refs.get(kind, ds)
    except ReferenceMissingError as error:
        if otherwise is not None:
            tell(f"{error}; {otherwise}", stacklevel=2)
        return None


def keeps_notes(function: Callable[..., xr.Dataset]) -> Callable[..., xr.Dataset]:
    """Let the result of a chain carry what the chain itself told, as steps do."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> xr.Dataset:
        with listen() as heard:
            out = function(*args, **kwargs)
        return noted(out, heard)

    return wrapped
