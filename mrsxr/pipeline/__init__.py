"""From steps to whole reductions: configuration, chains of steps, and the run over an observation."""

from .chains import combine_exposures, make_cal, make_cubes, make_rate, make_rate_and_ints, make_spectra
from .config import CalConfig, Config, CubeConfig, RateConfig, SpectrumConfig, load_config
from .record import RunRecord, read_runs
from .reporter import Reporter
from .run import RunResult, run
from .store import Label, Status, Store, status

__all__ = [
    "CalConfig",
    "Config",
    "Label",
    "Status",
    "Store",
    "status",
    "CubeConfig",
    "RateConfig",
    "Reporter",
    "RunRecord",
    "RunResult",
    "SpectrumConfig",
    "load_config",
    "combine_exposures",
    "make_cal",
    "make_cubes",
    "make_rate",
    "make_rate_and_ints",
    "make_spectra",
    "read_runs",
    "run",
]
