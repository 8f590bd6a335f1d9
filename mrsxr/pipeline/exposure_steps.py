"""The steps of a level on one exposure, each with its reference files and parameters, as a recipe has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import xarray as xr

from mrsxr.references import References

from .optional import optional

if TYPE_CHECKING:
    from .entry import Entry

Step = Callable[..., xr.Dataset]


def bound(entry: Entry, ds: xr.Dataset, refs: References, given: Mapping[str, Any] | None = None) -> Step | None:
    """Return a step with its reference files and parameters, None where it is left out for want of a reference.

    Parameters
    ----------
    entry : Entry
        Of one exposure, cube or spectrum.
    ds : Dataset
        Its header chooses the reference files.
    refs : References
    given : mapping, optional
        Other data, by the names of the parameters that take them.

    Returns
    -------
    callable or None
        That a reference is missing is told.

    Raises
    ------
    ReferenceFileError
        Where the step needs a reference that is missing or damaged.
    """
    function, facts, files = entry.part.function, entry.part.facts, {}
    for kind in facts.kinds(entry.values()):
        found = optional(refs, kind, ds, facts.without[kind]) if kind in facts.without else refs.get(kind, ds)
        if found is None and not facts.references[kind].optional:
            return None
        files[kind] = found
    names = inspect.signature(function).parameters
    data = {name: value for name, value in (given or {}).items() if name in names}
    return partial(function, **files, **data, **entry.given)


def done(entry: Entry, ds: xr.Dataset, refs: References | None) -> xr.Dataset:
    """Return a Dataset after a step, as it came where the step lacks a reference; ``refs`` None is as no files."""
    step = bound(entry, ds, References({}) if refs is None else refs)
    return ds if step is None else step(ds)
