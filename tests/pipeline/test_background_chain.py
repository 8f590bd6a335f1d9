"""Which spectra of the background are subtracted."""

import numpy as np
import pytest
import xarray as xr

from mrsxr.pipeline import Recipe
from mrsxr.pipeline import cube_chain as chains


@pytest.mark.parametrize(("mode", "wanted"), [("baseline", [[1], [2], [3]]), ("optimal", [[1, 2, 3]])])
def test_one_spectrum_of_each_exposure_as_jwst_or_one_of_all(monkeypatch, mode, wanted):
    ds = xr.Dataset({"flux": (("dither", "y"), np.arange(6.0).reshape(3, 2))}, {"dither": [1, 2, 3]})
    asked = []

    def make_cube(part, band, refs, recipe):
        asked.append(band)
        return part

    monkeypatch.setattr(chains, "make_cube", make_cube)
    monkeypatch.setattr(chains, "background_spectrum", lambda cube, *rest: cube)
    found = chains.background_spectra(ds, "2A", None, Recipe.of(mode))
    assert [one.dither.values.tolist() for one in found] == wanted
    assert asked == ["2A"] * len(wanted)
