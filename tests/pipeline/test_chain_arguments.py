"""What people hand to the chains: folders for references, parameters, bands, places; and what they mix up."""

from __future__ import annotations

import astropy.units as u
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.coordinates import SkyCoord
from regions import CircleAnnulusSkyRegion, CirclePixelRegion, PixCoord

import mrsxr as mx
from mrsxr.errors import InputFileError, LevelError, MrsxrError
from mrsxr.pipeline import Recipe, cube_chain, make_rate_and_ints
from mrsxr.spectrum.region import read_region

PLACE = SkyCoord("12h29m06.7s", "+02d03m08.6s")


def test_recipes_read_what_people_write():
    recipe = Recipe.of().set(
        "cube_build", center=PLACE, point_source="187.2779 2.0524", spaxel_size=200 * u.mas, wavelength_step=2 * u.nm
    )
    cube = recipe.values("cube_build")
    assert cube["center"] == pytest.approx((187.27791667, 2.05238889), abs=1e-7)
    assert cube["point_source"] == (187.2779, 2.0524)
    assert (cube["spaxel_size"], cube["wavelength_step"]) == (0.2, pytest.approx(0.002))
    for given, kind in (("point", "POINT"), ("Extended", "EXTENDED"), ("AUTO", "auto"), ("header", "header")):
        assert recipe.set("extract_1d", source_type=given).values("extract_1d")["source_type"] == kind
    assert recipe.set("srctype", source_type="point").values("srctype")["source_type"] == "POINT"
    spectrum = recipe.set("extract_1d", center="12:29:06.7 +02:03:08.6", radius="0.02 arcmin").values("extract_1d")
    assert spectrum["radius"] == pytest.approx(1.2)
    assert recipe.set("stitch", reference_band="ch3-short").values("stitch")["reference_band"] == "3A"


def region_of(region):
    return Recipe.of().set("extract_1d", region=region).values("extract_1d")["region"]


def test_a_region_of_a_recipe_is_text(tmp_path):
    ring = CircleAnnulusSkyRegion(PLACE, 0.4 * u.arcsec, 1.2 * u.arcsec)
    (back,) = read_region(region_of(ring))
    assert back.outer_radius.to_value(u.arcsec) == pytest.approx(1.2)
    text = 'icrs; circle(187.2779,2.0524,1")'
    assert region_of(text) == text
    (tmp_path / "a.reg").write_text(text)
    assert "circle(187.2779" in region_of(tmp_path / "a.reg")
    for region, message in (
        (tmp_path / "b.reg", "no such region file"), ("b.reg", "no such region file"), ("circle(1,2", "circle"),
        (CirclePixelRegion(PixCoord(1, 2), 3), "given in pixels"),
    ):  # fmt: skip
        with pytest.raises(MrsxrError, match=message):
            region_of(region)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[spectrum.extract_1d]\ncenter = [2.05, 187.3]\n", "swapped"),
        ("[spectrum.extract_1d]\nsource_type = 'star'\n", "source_type is 'star'; expected"),
        ("[spectrum.extract_1d]\nradius = '2 um'\n", "expected a number of arcsec"),
        ("[spectrum.extract_1d]\nregion = 'none.reg'\n", "no such region file"),
        ("[cube.cube_build]\npoint_source = 'NGC 1068'\n", "right ascension of point_source is 'NGC'"),
        ("[cube.cube_build]\nwavelength_step = '3 GHz'\n", "expected a number of um"),
    ],
)
def test_mistakes_of_a_file_are_found_when_it_is_read(tmp_path, text, message):
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(MrsxrError, match=message) as error:
        Recipe.of(tmp_path / "config.toml")
    assert "\n" not in str(error.value)


def test_a_file_of_parameters_may_use_words(tmp_path):
    (tmp_path / "config.toml").write_text(
        "[spectrum.extract_1d]\ncenter = '12h29m06.7s +02d03m08.6s'\nsource_type = 'Point'\nradius = '1.5 arcsec'\n"
        "[cube.cube_build]\ncenter = ['12:29:06.7', 2.0524]\n"
    )
    recipe = Recipe.of(tmp_path / "config.toml")
    spectrum = recipe.values("extract_1d")
    assert spectrum["center"] == pytest.approx((187.27791667, 2.05238889), abs=1e-7)
    assert (spectrum["source_type"], spectrum["radius"]) == ("POINT", 1.5)
    assert recipe.values("cube_build")["center"] == pytest.approx((187.27791667, 2.0524), abs=1e-7)


def test_references_may_be_a_folder_and_a_recipe_a_name(simulated):
    ramp = mx.open_exposures(simulated.uncal)
    refs = mx.References(simulated.reference_folder)
    asked = mx.make_rate(ramp, refs, "optimal")
    found = mx.make_rate(ramp, str(simulated.reference_folder), Recipe.of("optimal"))
    assert found.attrs["history_json"] == asked.attrs["history_json"]
    assert isinstance(found["rate"].data, da.Array)


def test_what_is_mixed_up_is_said_in_one_line(simulated):
    ramp = mx.open_exposures(simulated.uncal)
    folder = simulated.reference_folder
    for function, arguments, message in (
        (mx.make_rate, (simulated.uncal[0], folder), "make_rate needs a Dataset or .*, got the path .*mrsxr.load"),
        (mx.make_rate, (ramp["sci"], folder), "got the DataArray sci"),
        (mx.make_rate, ([ramp], folder), "got a list of 1"),
        (mx.make_rate, (ramp, None), "make_rate needs reference files, got none"),
        (mx.make_rate, (ramp, Recipe.of()), "make_rate needs reference files, got a Recipe"),
        (mx.make_rate, (ramp, folder, 5), "a recipe is 'baseline', .*, got a int"),
        (mx.make_rate, (ramp, "no_such_folder"), "no such folder of reference files"),
        (make_rate_and_ints, (ramp, None), "make_rate_and_ints needs reference files"),
        (mx.make_cal, (ramp, None), "make_cal needs reference files, got none"),
        (mx.make_cubes, ("cal.fits",), "make_cubes needs a Dataset or DataTree, got the path cal.fits"),
        (mx.make_spectra, (5,), "make_spectra needs a Dataset or DataTree, got a int"),
        (mx.open_exposures, (ramp,), "open_exposures needs a path or a list of paths, got a Dataset .it is open"),
        (mx.open_observation, (ramp,), "needs a path or a list of paths, got a Dataset"),
        (mx.open_observation, (None,), "needs a path or a list of paths, got a NoneType"),
        (mx.load, (ramp,), "load needs a path or a list of paths, got a Dataset"),
        (mx.run, (ramp,), "needs a path or a list of paths, got a Dataset"),
        (mx.save, ("out.fits", ramp), "save needs a Dataset or DataTree, got the path out.fits"),
        (mx.convert_units, ("x.fits", "Jy"), "convert_units needs a Dataset, got the path x.fits"),
        (mx.read_history, (simulated.uncal[0],), "read_history needs a Dataset or DataTree, got the path"),
        (mx.lines.line_table, ("lines.fits",), "line_table needs a Dataset, got the path lines.fits"),
        (mx.plot.summary, (ramp, ["cube.fits"]), "summary needs a Dataset or DataTree, got the path cube.fits"),
        (mx.cal.target_position, (["rate.fits"],), "target_position needs a Dataset, got the path"),
        (Recipe.of, (ramp,), "a recipe is 'baseline', .*, got a Dataset"),
        (mx.rate.subtract_dark, (ramp,), "subtract_dark: the dark reference is missing"),
    ):
        keywords = {"dark": None} if function is mx.rate.subtract_dark else {}
        with pytest.raises(MrsxrError, match=message) as error:
            function(*arguments, **keywords)
        assert "\n" not in str(error.value), message


def test_a_reference_of_the_wrong_kind_is_told(simulated):
    ramp = mx.open_exposures(simulated.uncal)
    refs = mx.References(simulated.reference_folder)
    for step, keywords, message in (
        (mx.rate.subtract_dark, {"dark": refs.get("flat", ramp)}, "of kind dark, got one of kind flat"),
        (mx.rate.subtract_dark, {"dark": ramp}, "of kind dark, got data of level ramp"),
        (mx.rate.flag_bad_pixels, {"mask": refs.get("gain", ramp)}, "of kind mask, got one of kind gain"),
        (mx.rate.scale_gain, {"gain": refs}, "as gain, got a References"),
        (mx.rate.correct_linearity, {"linearity": simulated.references[0]}, "as linearity, got the path"),
    ):
        with pytest.raises(MrsxrError, match=message):
            step(ramp, **keywords)
    with pytest.raises(LevelError, match="got the path"):
        mx.cube.build_cube("cal.fits", band="1A")


def test_runs_name_bands_that_are_not_there(simulated, tmp_path):
    for bands, message in (
        ("3C", "no exposures or cubes of band or channel 3C; there are those of 1A, 2A"),
        (["1A", "ch4"], "of band or channel ch4"),
        ("1X", "'1X' is no band or channel"),
        ([], "bands is empty"),
    ):
        with pytest.raises(MrsxrError, match=message):
            mx.run(simulated.uncal_folder, refs=simulated.reference_folder, out=tmp_path / "out", bands=bands)
    with pytest.raises(MrsxrError, match=r"cz = 6600 km/s is z = 0\.022"):
        mx.run(simulated.uncal_folder, refs=simulated.reference_folder, out=tmp_path / "out", redshift=6600)
    with pytest.raises(InputFileError, match="an empty one"):
        mx.run("", refs=simulated.reference_folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cubes_of_bands_and_places_in_words(reduced, simulated):
    cal = mx.open_exposures([path for path in reduced.files["cal"] if "background" not in path.parts])
    refs = mx.References(simulated.reference_folder)
    plain = mx.make_cubes(cal, refs, Recipe.of().skipping("outlier_detection"), bands=["1A"])["science/1A"]
    place = SkyCoord(float(plain["ra"].mean()), float(plain["dec"].mean()), unit="deg")
    recipe = Recipe.of().skipping("outlier_detection").set("cube_build", center=place, spaxel_size=0.2 * u.arcsec)
    cubes = mx.make_cubes(cal, simulated.reference_folder, recipe, bands="ch1-short")
    assert list(cubes["science"].children) == ["1A"]
    cube = cubes["science/1A"].to_dataset()
    assert cube.attrs["pixel_scale"] == 0.2
    one = mx.cube.build_cube(cal, band="CH1_SHORT", center=place.to_string("hmsdms", precision=9), spaxel_size="0.2")
    np.testing.assert_allclose(one["ra"], cube["ra"], atol=1e-9)
    for chain in (mx.make_cubes, mx.combine_exposures):
        with pytest.raises(MrsxrError, match="no data of band or channel 3a; there are those of 1A, 2A"):
            chain(cal, refs, bands="3a")
    together = mx.combine_exposures(cal, refs, Recipe.of().skipping("outlier_detection"), bands="ch2-short")
    assert together["science/12A"].attrs["combined"] == ["2A"]  # letter by letter it was none
    with pytest.raises(MrsxrError, match=r"lies off the field, .* give a place in it"):
        mx.cube.build_cube(cal, band="1a", center=(place.ra.deg, place.dec.deg + 0.1))
    with pytest.raises(MrsxrError, match="which are 1A, 1B, 1C; expected one"):
        mx.cube.build_cube(cal, band=1)


def test_places_of_the_target_are_none_of_the_background():
    """A centre of cube_build made the grid of the background's cube reach from there to the target: it was refused."""
    recipe = mx.Recipe.of().set("cube_build", center=(10.0, 20.0), point_source=(10.0, 20.0), spaxel_size=0.3)
    for background, place in ((1, None), (0, (10.0, 20.0))):
        options = cube_chain._cube_options(xr.Dataset(attrs={"background": background}), None, recipe)
        assert (options["center"], options["point_source"], options["spaxel_size"]) == (place, place, 0.3)
