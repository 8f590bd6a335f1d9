from .chains import combine_exposures, make_cal, make_cubes, make_rate, make_rate_and_ints, make_spectra, reduce
from .recipe import Recipe
from .record import RunRecord, read_runs
from .reduction import RunResult
from .reporter import Reporter
from .runner import run
from .store import Label, Status, Store, status

__all__ = [
    "Label",
    "Status",
    "Store",
    "status",
    "Recipe",
    "Reporter",
    "RunRecord",
    "RunResult",
    "combine_exposures",
    "make_cal",
    "make_cubes",
    "make_rate",
    "make_rate_and_ints",
    "make_spectra",
    "read_runs",
    "reduce",
    "run",
]
