"""What steps say of themselves: scores in products, and how they are told."""

from __future__ import annotations

from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers import detector_attrs, dither_coords

from mrsxr.io import load, save
from mrsxr.scores import decisions, gains, merged, score
from mrsxr.tree import join_dithers

KINDS = {"method": "fitted", "instead": "kernel", "held_out": "gap columns"}


def test_what_cannot_be_judged_is_not_taken():
    assert gains(np.array([0.5, 1.0, 1.5, np.nan])).tolist() == [True, False, False, False]
    (one,) = decisions(xr.Dataset(score("straylight", [[0.5, np.nan]], ("dither", "half"), **KINDS)))
    assert (one.n_taken, one.scores.size, one.spread) == (1, 2, (0.5, 0.5, 0.5))
    (none,) = decisions(xr.Dataset(score("straylight", np.nan, **KINDS)))
    assert none.text == "straylight: 'fitted' could not be judged, 'kernel' taken"
    assert none.facts["median"] is None


def test_lazy_scores_alone_are_computed():
    def never(block):
        raise AssertionError("a variable that is no score was computed")

    heavy = da.map_blocks(never, da.zeros(4), dtype=float, meta=np.empty(0))
    lazy = score("straylight", da.from_array(np.array([0.9, 1.2])), "dither", **KINDS)
    ds = xr.Dataset({"flux": ("x", heavy), **lazy})
    (one,) = decisions(ds)
    assert one.n_taken == 1
    assert ds["score_straylight"].dtype == np.float32
    assert ds["score_straylight"].chunks is not None


def test_scores_of_several_products_are_one_line():
    each = [xr.Dataset(score("straylight", [value], "dither", **KINDS)) for value in (0.8, 0.9, 1.3)]
    (one,) = merged(found for ds in each for found in decisions(ds))
    assert one.text == (
        "straylight: 'fitted' taken in 2 of 3, else 'kernel'; misfit on gap columns 0.90 (0.80 to 1.30) of that of "
        "'kernel'"
    )


def test_the_report_shows_what_was_judged(tmp_path):
    from mrsxr.report.results import decisions as section

    judged = score("straylight", [0.7, 1.1], "dither", **KINDS)
    ds = xr.Dataset(judged, attrs={"level": "cal", "history_json": "[]"})
    file = SimpleNamespace(keywords={}, exposure="one", path=tmp_path / "one_cal.fits", node="12A")
    contents = SimpleNamespace(others={},
        of=lambda *products: [file] if "cal" in products else [], open=lambda _: ds, histories=list, spectra=list,
        stitched=list, cubes=dict, runs=[],
    )  # fmt: skip
    text = str(section(contents))
    for part in ("Methods that judged themselves", "straylight", "fitted", "kernel", "gap columns", "1 of 2", "0.9"):
        assert part in text


@pytest.mark.parametrize("form", ["fits", "netcdf"])
def test_scores_are_saved_with_the_product(tmp_path, form):
    shape, dims, attrs = (2, 16, 12), ("dither", "y", "x"), detector_attrs("rate", "12A", 10, 1)
    planes = {name: (dims, np.ones(shape, np.float32), {"units": "DN2/s2"}) for name in ("var_poisson", "var_read")}
    planes |= {"rate": (dims, np.ones(shape, np.float32), {"units": "DN/s"})}
    ds = xr.Dataset({**planes, "dq": (dims, np.zeros(shape, np.uint32))}, dither_coords(2), attrs)
    ds = ds.assign(score("straylight", np.array([[0.7, 1.1], [0.8, np.nan]]), ("dither", "half"), **KINDS))
    back = [load(path) for path in save(ds, tmp_path / ("a.nc" if form == "netcdf" else ""), form)]
    joined = back[0] if len(back) == 1 else join_dithers(back)
    xr.testing.assert_identical(joined["score_straylight"].variable.compute(), ds["score_straylight"].variable)
    assert [one.text for one in decisions(joined)] == [one.text for one in decisions(ds)]
