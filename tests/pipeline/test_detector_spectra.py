"""Spectra from the detector in place of those of apertures, of all bands, by a recipe: trees and files alike."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import mrsxr as mx
from mrsxr.notes import listen
from mrsxr.pipeline import Recipe

sys.path.append(str(Path(__file__).parents[1] / "cal"))
import star_scene

pytestmark = pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
RECIPE = (
    Recipe.of().skipping("outlier_detection", "master_background", "match_backgrounds")
    .set("extract_1d", source_type="POINT", aperture_correction=False)
    .set("cube_build", wavelength_min=5.0, wavelength_max=5.045)
)  # fmt: skip
LONE = RECIPE.set("fit_spectrum", around="level")


@pytest.fixture(scope="module")
def star():
    return star_scene.made(lambda wave: 140.0 * (1 + 10 * (wave - 5.02)))


def test_they_are_those_of_the_fit_at_the_place_of_the_aperture(star, tmp_path):
    spectra = mx.reduce(star, None, LONE, bands="1A")
    found = spectra["science/1A"].to_dataset()
    aperture = mx.reduce(star, None, RECIPE, bands="1A")["science/1A"].to_dataset()
    place = aperture.attrs["aperture_ra"], aperture.attrs["aperture_dec"]
    model = mx.cal.fit_trace_model(mx.combine_exposures(star, None, LONE)["science/12A"].to_dataset(), band="1A",
                                   source=place)  # fmt: skip
    wanted = mx.spectrum.fit_spectrum(star, trace_model=model, around="level")
    np.testing.assert_array_equal(found.flux, wanted.flux)
    assert found.attrs["extraction"] == "detector"
    means = [float(one.flux.sel(wavelength=slice(5.005, 5.04)).mean()) for one in (found, aperture)]
    assert means[0] == pytest.approx(means[1], rel=0.01)
    assert spectra["science/stitched"].attrs["extraction"] == "detector"
    result = mx.run(mx.save(star, tmp_path / "cal"), out=tmp_path / "out", recipe=LONE, bands=["1A"])
    assert not result.failed
    of_files = mx.load(result.files["spectrum"][0])
    np.testing.assert_array_equal(of_files.flux, found.flux)
    assert of_files.attrs["extraction"] == "detector"


def test_other_sources_and_what_it_cannot_do(star):
    extended = mx.reduce(star, None, LONE.set("extract_1d", source_type="EXTENDED"), bands="1A")
    assert "extraction" not in extended["science/1A"].attrs
    cubes = mx.make_cubes(star, None, LONE, bands="1A").compute()
    few = star.isel(y=slice(20, 22))
    for exposures, text in ((None, "fit_spectrum needs the exposures"), (few, "from the detector")):
        with listen() as heard:
            found = mx.make_spectra(cubes, None, LONE, exposures=exposures)["science/1A"]
        assert "extraction" not in found.attrs
        assert any(text in one and "aperture" in one for one in heard)


def test_its_parameters_are_read_as_people_write_them():
    recipe = RECIPE.set("fit_spectrum", source="22h36m03.6s +33d58m33s", others=["22:36:03.7 +33:58:33"])
    assert recipe.values("fit_spectrum")["source"] == pytest.approx((339.015, 33.975833))
    assert recipe.values("fit_spectrum")["others"][0] == pytest.approx((339.0154167, 33.975833))
    assert RECIPE.set("trace_model", source="22h36m03.6s +33d58m33s").values("trace_model")["source"] == pytest.approx(
        (339.015, 33.975833)
    )
    with pytest.raises(mx.MrsxrError, match="expected a list of places"):
        RECIPE.set("fit_spectrum", others=(339.0, 33.0))
