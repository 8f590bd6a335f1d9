"""The picture of one file: which pixels and which line are shown."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from helpers import make_ramp

from mrsxr import dq
from mrsxr.errors import MrsxrError
from mrsxr.report.show import best_line, draw_file, telling_pixels


def made_ramp():
    """A ramp of 10 groups on 12 x 40 pixels: a bright column, a hot pixel, a saturated one, two hits."""
    group = np.arange(10.0)[:, None, None]
    slope = np.full((12, 40), 5.0)
    slope[:, 20] = 300.0
    slope[5:8, 20] = 320.0
    slope[3, 30] = 4000.0  # hot, alone
    slope[8, 10] = 9000.0  # saturates
    sci = 1000.0 + group * slope
    sci[4:, 2, 12] += 900.0
    sci[6:, 9, 33] += 400.0
    sci[5:, 7, 1] += 5000.0  # reference pixel
    return make_ramp(np.minimum(sci, 60000.0)[None, None].astype("float32"))


def test_pixels_that_tell():
    ds = made_ramp()
    assert telling_pixels(ds) == ((6, 20), (2, 12))
    flagged = ds.copy(deep=True)
    flagged["group_dq"][0, 0, 6, 9, 33] = dq.JUMP_DET
    assert telling_pixels(flagged) == ((6, 20), (9, 33))
    flagged["pixel_dq"][0, 9, 33] = dq.DO_NOT_USE
    assert telling_pixels(flagged)[1] == (2, 12)
    flagged["group_dq"][0, 0, 9, 6, 20] = dq.SATURATED  # its neighbours do not count then
    assert telling_pixels(flagged)[0][1] == 20
    assert telling_pixels(flagged)[0][0] not in (5, 6, 7)


def test_picture_of_a_ramp_has_its_two_pixels():
    from matplotlib import pyplot

    image, above, below = draw_file(made_ramp())
    assert "y 6, x 20" in above.get_title()
    assert "y 2, x 12" in below.get_title()
    marked = {tuple(map(int, line.get_xydata()[0])) for line in image.lines if line.get_marker() == "s"}
    assert marked == {(20, 6), (12, 2)}
    pyplot.close(image.figure)


def test_brightest_line():
    snr = np.zeros((3, 4, 5))
    snr[0] = 1.0
    snr[1, 1:3, 1:4] = 20.0
    snr[2, 0, 0] = np.nan
    ds = xr.Dataset({"snr": (("line", "y", "x"), snr)}, {"line": ["a", "b", "c"]}, {"level": "lines"})
    assert best_line(ds) == "b"


def test_options_and_levels_that_do_not_fit():
    with pytest.raises(MrsxrError, match="--wavelength is for data of level cube"):
        draw_file(made_ramp(), wavelength=(5.0, 6.0))
    with pytest.raises(MrsxrError, match="have no picture"):
        draw_file(xr.Dataset(attrs={"level": "reference"}))
