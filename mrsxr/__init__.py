"""mrsxr: JWST MIRI MRS data from raw ramps to cubes, spectra and line maps, on xarray and dask.

Open data (``open_exposures``, ``open_observation``), find reference files (``References``), run the chains
(``make_rate``, ``make_cal``, ``make_cubes``, ``make_spectra``; ``reduce`` over several levels; ``run`` for a folder on
disk), save. The steps are reached by the product they make: ``mx.rate.subtract_dark``, ``mx.cal.assign_wcs``,
``mx.cube.build_cube``, ``mx.spectrum.extract_spectrum``.
"""

import importlib
import logging
from typing import Any

from . import cal, cube, lines, rate, spectrum
from ._version import __version__
from .convert import convert_units
from .errors import (
    InputFileError,
    LevelError,
    MrsxrError,
    MrsxrWarning,
    ParameterError,
    ReferenceFileError,
    ReferenceMissingError,
    SchemaError,
)
from .io import load, open_exposures, open_observation, save, summarize
from .pipeline import (
    Recipe,
    combine_exposures,
    make_cal,
    make_cubes,
    make_rate,
    make_rate_and_ints,
    make_spectra,
    reduce,
    run,
)
from .references import References
from .simulate import simulate_observation
from .step import read_history
from .sums import variance_of_sum

__all__ = [
    "__version__",
    "open_exposures",
    "open_observation",
    "summarize",
    "References",
    "make_rate",
    "make_rate_and_ints",
    "combine_exposures",
    "make_cal",
    "make_cubes",
    "make_spectra",
    "reduce",
    "run",
    "Recipe",
    "simulate",
    "simulate_observation",
    "save",
    "load",
    "read_history",
    "convert_units",
    "variance_of_sum",
    "rate",
    "cal",
    "cube",
    "spectrum",
    "lines",
    "plot",
    "report",
    "MrsxrError",
    "InputFileError",
    "ReferenceFileError",
    "ReferenceMissingError",
    "SchemaError",
    "LevelError",
    "ParameterError",
    "MrsxrWarning",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import ``plot`` and ``report`` when asked for, as matplotlib takes time and memory that a reduction can spare."""
    if name in ("plot", "report"):
        return importlib.import_module(f"mrsxr.{name}")
    raise AttributeError(f"module 'mrsxr' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
