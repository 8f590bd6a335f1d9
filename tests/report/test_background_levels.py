"""The table of background levels rests on the combined exposures."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

sys.path.insert(0, str(Path(__file__).parents[1] / "io"))
import io_files

from mrsxr.io import open_exposures, save
from mrsxr.report.gather import gather
from mrsxr.report.results import _levels


@pytest.mark.parametrize("names", [None, ["a_crf.nc", "b_crf.nc"], ["both.nc"]])
def test_levels_of_the_combined_exposures_are_told(tmp_path, names):
    (tmp_path / "in").mkdir()
    found = []
    for number, levels in ((1, [0.25, 1.75]), (2, [-0.5, 3.0])):
        ds = open_exposures(io_files.write(tmp_path / "in", "cal", "12A", number, shape=(8, 1032)))
        ds = ds.assign_coords(band=["1A", "2A"])
        ds["background_level"] = (("dither", "band"), np.array([levels]), {"units": "MJy/sr"})
        found.append(ds)
    exposures = [str(ds["exposure"].values[0]) for ds in found]
    if names is not None and len(names) == 1:
        found = [xr.concat(found, "dither", combine_attrs="override")]
    (tmp_path / "out").mkdir()
    for k, ds in enumerate(found):
        where = {"path": tmp_path / "out", "suffix": "crf"} if names is None else {"path": tmp_path / "out" / names[k]}
        save(ds, **where)
    text = re.sub("<[^>]*>|\\s+", " ", str(_levels(gather(tmp_path / "out"))))
    rows = [f"{exposure} {levels}" for exposure, levels in zip(exposures, ("0.25 1.75", "−0.5 3"), strict=True)]
    assert [row in " ".join(text.split()) for row in ("Exposure 1A 2A", *rows)] == [True] * 3
    assert _levels(gather(tmp_path / "in")) is None
