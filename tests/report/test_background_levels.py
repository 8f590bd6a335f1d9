"""The table of background levels rests on the combined exposures."""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "io"))
import io_files

from mrsxr.io import open_exposures, save
from mrsxr.report.gather import gather
from mrsxr.report.results import _levels


def test_levels_of_the_combined_exposures_are_told(tmp_path):
    (tmp_path / "in").mkdir()
    for number, levels in ((1, [0.25, 1.75]), (2, [0.0, 3.0])):
        ds = open_exposures(io_files.write(tmp_path / "in", "cal", "12A", number, shape=(8, 1032)))
        ds = ds.assign_coords(band=["1A", "2A"])
        ds["background_level"] = (("dither", "band"), np.array([levels]), {"units": "MJy/sr"})
        save(ds, tmp_path / "out", suffix="crf")
    text = str(_levels(gather(tmp_path / "out")))
    assert [text.find(one) > 0 for one in ("1A", "2A", "0.25", "1.75", "3")] == [True] * 5
    assert _levels(gather(tmp_path / "in")) is None
