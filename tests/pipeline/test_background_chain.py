"""Which spectra of the background are subtracted."""

import numpy as np
import pytest
import xarray as xr

from mrsxr.pipeline import Recipe
from mrsxr.pipeline import cube_chain as chains
from mrsxr.pipeline.combine_chain import _unless_subtracted


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


@pytest.mark.parametrize("mark", ["pixel_background", "master_background", "field_background"])
def test_no_second_background_is_subtracted_of_files_that_lost_theirs(mark):
    def subtract(name, ds):
        return ds.assign_attrs(subtracted=name)

    with_background, without = xr.Dataset(), xr.Dataset(attrs={mark: 1})
    with pytest.warns(UserWarning, match="12A: .* was subtracted .*already; the master background is left out"):
        out = _unless_subtracted({"12A": without, "34A": with_background}, "master", subtract)
    assert "subtracted" not in out["12A"].attrs
    assert "is left out" in out["12A"].attrs["notes"][0]
    assert out["34A"].attrs == {"subtracted": "34A"}
