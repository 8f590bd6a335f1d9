"""Pieces of plain numbers for tests of the engine; a module of its own, so that workers in other processes have it."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import xarray as xr

from mrsxr.errors import MrsxrError
from mrsxr.pipeline import Recipe, Reporter
from mrsxr.pipeline.pieces import Way
from mrsxr.pipeline.plan import ALL, ANY, SOME, Task
from mrsxr.pipeline.record import RunRecord
from mrsxr.pipeline.reduction import Reduction, StageReporter
from mrsxr.pipeline.store import Store


def reduction(tasks, out, **options) -> Reduction:
    record = RunRecord.begin(Recipe.of(), "none")
    return Reduction(tasks, Way(None, Recipe.of()), Store(out), record, StageReporter(Reporter()), {}, **options)


def number(_way, *, number=0, of=(), slow=0.0, fails=False):
    """Return a plain value: the sum of what is given."""
    time.sleep(slow)
    if fails:
        raise MrsxrError("it does")
    return {"sum": [number + sum(of)]}


def die_once(_way, *, marker):
    """Kill the worker, the first time."""
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"sum": [os.getpid()]}


def spectrum(_way):
    """Return a small product."""
    units = {"flux": "Jy", "var": "Jy2", "surface_brightness": "MJy/sr", "surface_brightness_var": "MJy2/sr2",
             "background": "MJy/sr", "n_pixels": "1"}  # fmt: skip
    variables = {name: ("wavelength", np.linspace(1, 2, 5), {"units": unit}) for name, unit in units.items()}
    coords = {"wavelength": ("wavelength", np.linspace(5, 6, 5), {"units": "um"}), "band": ("wavelength", ["1A"] * 5)}
    attrs = {"level": "spectrum", "bands": ["1A"], "source_type": "POINT", "target": "", "program": "02732"}
    dq = ("wavelength", np.zeros(5, np.uint32), {"units": "1"})
    return {"spectrum": [xr.Dataset(variables | {"dq": dq}, coords, attrs)]}


def ladder():
    """A plan in which some fail: of the sums, those that can do without."""
    one = Task("cube", "1", number, {}, {"number": 1, "slow": 0.05})
    two = Task("cube", "2", number, {}, {"number": 2, "fails": True})
    some = Task("combine", "some", number, {"of": (SOME, (one["sum"], two["sum"]))})
    every = Task("combine", "all", number, {"of": (ALL, (one["sum"], two["sum"]))})
    least = Task("combine", "any", number, {"of": (ANY, (two["sum"],))})
    last = Task("stitch", "last", number, {"of": (ALL, (some["none|sum"],))}, {"number": 10})
    return [one, two, some, every, least, last]
