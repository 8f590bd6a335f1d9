from . import (
    cal,
    cube,
    dq,
    explorer,
    geometry,
    io,
    lines,
    mrs,
    plot,
    rate,
    references,
    report,
    schema,
    scores,
    simulate,
    spectrum,
    units,
)
from ._version import __version__
from .convert import convert_units
from .errors import (
    InputFileError,
    LevelError,
    MrsxrDeprecationWarning,
    MrsxrError,
    MrsxrWarning,
    ParameterError,
    ReferenceFileError,
    ReferenceMissingError,
    SchemaError,
)
from .explorer import explore
from .geometry.index import attach_index
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
    "InputFileError", "LevelError", "MrsxrDeprecationWarning", "MrsxrError", "MrsxrWarning", "ParameterError",
    "Recipe", "ReferenceFileError", "ReferenceMissingError", "References", "SchemaError", "__version__",
    "attach_index", "cal", "combine_exposures", "convert_units", "cube", "dq", "explore", "explorer", "geometry",
    "io", "lines", "load", "make_cal", "make_cubes", "make_rate", "make_rate_and_ints", "make_spectra", "mrs",
    "open_exposures", "open_observation", "plot", "rate", "read_history", "reduce", "references", "report", "run",
    "save", "schema", "scores", "simulate", "simulate_observation", "spectrum", "summarize", "units",
    "variance_of_sum",
]  # fmt: skip
