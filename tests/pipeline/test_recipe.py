"""Recipes: what may stand in them, in TOML, in Python and at the command line; and what is refused."""

from __future__ import annotations

import inspect
import math
import pickle
import tomllib
import typing
from typing import Annotated, Any, Literal

import pytest
import xarray as xr
from click.testing import CliRunner

import mrsxr as mx
from mrsxr.cli import main
from mrsxr.errors import MrsxrError, ParameterError
from mrsxr.limits import Range, Ref
from mrsxr.pipeline import Recipe
from mrsxr.pipeline.parts import LEVELS
from mrsxr.step import STEPS, step


def write(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_values_and_defaults(tmp_path):
    recipe = Recipe.of(
        write(tmp_path, "[rate.jump]\nrejection_threshold = 5\n[spectrum.extract_1d]\ncenter = [10.0, -3.0]\n"
              "[spectrum.stitch]\nmethod = 'additive'\n")
    )  # fmt: skip
    assert recipe.values("jump")["rejection_threshold"] == 5
    assert recipe.values("jump")["three_group_rejection_threshold"] == 6.0
    assert recipe.values("extract_1d")["center"] == (10.0, -3.0)
    assert recipe.changes() == {
        "rate.jump.rejection_threshold": 5, "spectrum.extract_1d.center": [10.0, -3.0],
        "spectrum.stitch.method": "additive",
    }  # fmt: skip
    assert Recipe.of(write(tmp_path, "")) == Recipe.of() == Recipe.of("baseline")


def test_a_file_changes_the_recipe_that_it_names_or_that_it_is_given_to(tmp_path):
    path = write(tmp_path, "base = 'optimal'\nskip = ['reset', 'residual_fringe']\n[cube.pixel_replace]\n")
    recipe = Recipe.of(path)
    assert recipe.values("rate.ramp_fit")["method"] == "gls"
    assert not recipe.runs("reset")
    assert not recipe.runs("residual_fringe")  # of no level
    assert recipe.runs("pixel_replace")  # a table turns a step on
    assert Recipe.of(path, base="baseline").values("ramp_fit")["method"] == "ols"


@pytest.mark.parametrize("name", ["baseline", "optimal"])
def test_what_is_printed_gives_the_same_recipe(tmp_path, name):
    recipe = Recipe.of(name)
    assert Recipe.of(write(tmp_path, str(recipe))).parameters() == recipe.parameters()
    assert Recipe.of(write(tmp_path, recipe.describe())).parameters() == recipe.parameters()
    other = recipe.set("jump", after_jump_flag_dn1=3).skipping("ipc").with_option("rate", "save_rateints", True)
    other = other.set("cube_build", center=("12h29m06.7s", "+02d03m08.6s"), spaxel_size=0.2)
    read = Recipe.of(write(tmp_path, str(other)))
    assert read.parameters() == other.parameters()
    assert [one.where for one in read.entries] == [one.where for one in other.entries]
    assert pickle.loads(pickle.dumps(other)) == other
    assert tomllib.loads(recipe.describe())["rate"]["rscd"]["step"] == "flag_rscd"


def test_a_whole_recipe_may_be_cut(tmp_path):
    text = str(Recipe.of("optimal"))
    cut = text.replace("[rate.reset]\n", "").replace("[cal.srctype]\n", "")
    recipe = Recipe.of(write(tmp_path, cut))
    assert not recipe.runs("reset")
    with pytest.raises(ParameterError, match=r"\[cal.photom\] is missing, and the next level rests on it"):
        Recipe.of(write(tmp_path, cut.replace("[cal.photom]\npropagate_errors = true\n", "")))
    with pytest.raises(ParameterError, match="there is no step 'resett'"):
        Recipe.of(write(tmp_path, text.replace("[rate.reset]", "[rate.resett]")))


def test_residual_fringes_are_set_where_they_are_asked_for():
    asked = Recipe.of("optimal").with_residual_fringe({"cube": "columns", "cal": "none"})
    assert not asked.runs("cal.residual_fringe")
    assert asked.values("cube.residual_fringe")["method"] == "columns"
    assert asked.entry("spectrum.residual_fringe") == Recipe.of("optimal").entry("spectrum.residual_fringe")
    with pytest.raises(ParameterError, match="expected one of cal, cube, spectrum"):
        Recipe.of().with_residual_fringe({"rate": "columns"})
    with pytest.raises(ParameterError, match="residual_fringe is 'sines'"):
        Recipe.of().with_residual_fringe({"cube": "sines"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[rates.jump]\n", r"unknown table \[rates\]"),
        ("[rate.jump]\nthreshold = 3\n", r"\[rate.jump\]: unknown parameter 'threshold'"),
        ("[rate]\nrejection_threshold = 3\n", r"unknown 'rejection_threshold' in \[rate\].*belongs to \[rate.jump\]"),
        ("[cal.flat_field]\nskip = 1\n", r"\[cal.flat_field\]: skip is 1; expected true or false"),
        ("[rate.saturation]\nn_pix_grow_sat = 'x'\n", "n_pix_grow_sat is 'x'; expected a whole number from 0 to 100"),
        ("[rate\n", "cannot be read as TOML"),
        ("rate = 1\n", "rate is 1; expected a table"),
        ("[[rate]]\njump = 'none'\n", "expected a table"),
        ("jump = 'none'\n", r"unknown key 'jump' outside the tables; .*'jump' belongs to \[rate\]"),
        ("[rate.jump]\nrejecton_threshold = 3\n", r"did you mean 'rejection_threshold'\?"),
        ("[rate.stitch]\nmethod = 'none'\n", r"'stitch' belongs to \[spectrum\]"),
        ("[cueb.cube_build]\n", r"unknown table \[cueb\].*did you mean 'cube'\?"),
        ("base = 'optimum'\n", r"base is 'optimum'; expected one of baseline, optimal, none; did you mean 'optimal'\?"),
        ("base = 3\n", "base is 3; expected one of baseline, optimal"),
        ("[rate.dark_current]\naverage_dark_current = 'low'\n", "average_dark_current is 'low'; expected a number of"),
        ("[cube.cube_build]\nspaxel_size = 'fine'\n", r"\[cube.cube_build\]: spaxel_size is 'fine'"),
        ("[cube.cube_build]\nspaxel_size = 1e-9\n", "expected a number from 0.01 to 10"),
        ("[cube.cube_build]\nwavelength_step = 1e-12\n", "wavelength_step is 1e-12; expected a number from 1e-05 to 1"),
        ("[rate.jump]\nrejection_threshold = nan\n", "rejection_threshold is nan; expected a number above 0"),
        ("[rate.jump]\nrejection_threshold = true\n", "rejection_threshold is True; expected a number above 0"),
        ("[spectrum.extract_1d]\ncenter = [10.0]\n", "center is .*; expected right ascension and declination"),
        ("[spectrum.extract_1d]\ncenter = [339.0, 'x']\n", "declination of center is 'x'"),
        ("[spectrum.extract_1d]\nregion = 5\n", "region is 5; expected a region of the sky"),
        ("[spectrum.stitch]\nreference_band = '5A'\n", "'5A' is no MRS band"),
        ("[spectrum.extract_1d]\nregion = 'fk5;circle(1,2,3)'\nradius = 1\n", "a region goes without center"),
        ("[rate.persistence]\nskip = false\n", "persistence_time is not given; the step needs it"),
        ("[rate.jump]\nstep = 'flag_jump'\n", r"step is 'flag_jump'.*did you mean 'flag_jumps'\?"),
        ("[rate.jump]\nstep = 'os:getcwd'\n", "os:getcwd', which is no step"),
        ("[rate.jump]\nstep = 'no_such_module:x'\n", "cannot be imported"),
        ("[rate.mine]\nstep = 3\nafter = 'jump'\n", "step is 3; expected the name of a step, or module:function"),
        ("[cal.jump]\nstep = 'flag_jumps'\nafter = 'rscd'\n", r"no step 'cal.rscd'.*'rscd' belongs to \[rate\]"),
        (
            "[cal.mine]\nstep = 'mrsxr.rate:subtract_reset'\nafter = 'fringe'\n",
            "takes data of level ramp, and where it",
        ),
        ("[rate.gain_scale]\nbefore = 'linearity'\n", r"\[rate.gain_scale\]: takes data of level rate or rateints"),
        (
            "[cube.tie_bands]\nafter = 'cube_build'\n",
            r"\[cube.tie_bands\]: takes data of level cal, and where it stands",
        ),
        ("[spectrum.mine]\nstep = 'mrsxr.spectrum:extract_spectrum'\nbefore = 'extract_1d'\n", "of level spectrum"),
        ("[spectrum.correct_wavelengths]\nvelocity = 3\nafter = 'stitch'\n", "put them last, in this order"),
        ("[rate.mine]\nx = 1\n", r"unknown 'mine' in \[rate\]; expected one of group_scale"),
        ("[rate.mine]\nstep = 'mrsxr.rate:subtract_reset'\n", "say before or after which step"),
        ("[cube.field_background]\n", "master_background and field_background both run"),
        ("skip = 'reset'\n", "skip is 'reset'; expected several"),
        ("skip = ['ramp_fit']\n", "'ramp_fit' cannot be left out"),
        ("skip = ['straylite']\n", r"no step 'straylite'.*did you mean 'straylight'\?"),
        ("skip = [1]\n", "expected several: each a text"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(MrsxrError, match=message) as error:
        Recipe.of(write(tmp_path, text))
    assert "\n" not in str(error.value)
    assert "mine.toml" in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(MrsxrError, match="cannot be read"):
        Recipe.of(tmp_path / "none.toml")
    with pytest.raises(MrsxrError, match=r"recipe is 'optimum'.*did you mean 'optimal'\?"):
        Recipe.of("optimum")


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"[rate.jump]\nstep = '\xff\xfe'\n")
    with pytest.raises(MrsxrError, match="cannot be read as TOML"):
        Recipe.of(path)
    with pytest.raises(MrsxrError, match="cannot be read as TOML"):
        Recipe.of(tmp_path)


def parameters() -> list[tuple[str, str, Any]]:
    return [
        (f"{one.level}.{one.name}", name, hint)
        for one in Recipe.of("optimal").entries for name, (hint, _, _) in one.part.takes.items()
    ]  # fmt: skip


def wrong(hint: Any) -> list[Any]:
    """Return values that no parameter of this annotation takes."""
    members = typing.get_args(hint) if typing.get_origin(hint) not in (Annotated, Literal, tuple) else (hint,)
    found: list[Any] = [object(), {"a": object()}]
    for one in members or (hint,):
        if one is bool:
            found += [1, 0, "true", *([] if type(None) in members else [None])]
        if typing.get_origin(one) is Literal:
            found += ["two_pointed", -7, True]
        for mark in typing.get_args(one)[1:] if typing.get_origin(one) is Annotated else ():
            if isinstance(mark, Range):
                found += [math.nan, math.inf, "many", True, -1e300, 1e300 if mark.high is not None else -2]
    return found


def test_no_parameter_takes_what_is_wrong_in_python_or_toml(tmp_path):
    n, recipe = 0, Recipe.of()
    for place, name, hint in parameters():
        if hint is str or str in typing.get_args(hint):
            continue  # a text of any kind
        for value in wrong(hint):
            with pytest.raises(ParameterError) as error:
                recipe.set(place, **{"persistence_time": 1.0} | {name: value} if "persist" in place else {name: value})
            assert name in str(error.value)
            assert "\n" not in str(error.value)
            n += 1
            if not isinstance(value, float | bool | str | int):
                continue
            text = repr(value).lower() if not isinstance(value, str) else f"'{value}'"
            with pytest.raises(ParameterError, match=rf"mine.toml: \[{place}\]: .*{name}"):
                Recipe.of(write(tmp_path, f"[{place}]\n{name} = {text}\n"))
    assert n > 500


def test_every_parameter_of_every_step_of_both_recipes_can_be_given_its_default():
    for name in ("baseline", "optimal"):
        recipe = Recipe.of(name)
        for one in recipe.entries:
            values = {key: value for key, value in one.values().items() if value is not inspect.Parameter.empty}
            assert recipe.set(f"{one.level}.{one.name}", skip=one.skip, **values).parameters() == recipe.parameters()


def test_ways_to_take_the_background_off():
    for name, method in (("baseline", "mean"), ("optimal", "weighted")):
        pixel = Recipe.of(name).with_background("pixel")
        assert pixel.values("bkg_subtract")["method"] == method
        assert not pixel.runs("master_background")
        binned = pixel.with_background("binned")
        assert [binned.runs(one) for one in ("bkg_subtract", "master_background", "field_background")] == [
            False, False, True,
        ]  # fmt: skip
        assert binned.with_background("none").values("extract_1d")["background"] == "none"
    with pytest.raises(ParameterError, match="background is 'moon'; expected one of master, pixel"):
        Recipe.of().with_background("moon")


def test_steps_left_out():
    for one in Recipe.of().entries:
        names = (one.name, one.part.function.__name__, one.name.replace("_", "-"), one.name.upper())
        for name in names if one.part.facts else (one.name,):
            name = f"{one.level}.{name}"
            if one.part.needed:
                with pytest.raises(ParameterError, match="cannot be left out"):
                    Recipe.of("optimal").skipping(name)
            else:
                assert not Recipe.of("optimal").skipping(name).runs(f"{one.level}.{one.name}")
    both = Recipe.of("optimal").skipping("residual_fringe", "dark")
    assert not any(both.runs(name) for name in ("residual_fringe", "dark_current"))
    with pytest.raises(ParameterError, match="'residual_fringe' stands for several steps; say which of cal"):
        both.set("residual_fringe", method="slices")


@step(needs="ramp", jwst="lower")
def lower(ds: xr.Dataset, *, gain: Ref, by: Annotated[float, Range(0, 9)] = 1.0) -> xr.Dataset:
    """Take counts off all samples."""
    return ds.assign(sci=(ds.sci - ds.sci.dtype.type(by)).assign_attrs(ds.sci.attrs))


STEPS.pop(lower.facts.name)  # other tests walk the steps of the package


def test_a_step_of_ones_own(tmp_path, simulated):
    text = f"[rate.lower]\nstep = '{__name__}:lower'\nafter = 'linearity'\nby = 2\n"
    text += "[cal.flat_field]\nbefore = 'straylight'\n"
    recipe = Recipe.of(write(tmp_path, text))
    order = [one.name for one in recipe.steps("rate")]
    assert order[order.index("linearity") + 1] == "lower"
    cal = [one.name for one in recipe.steps("cal")]
    assert cal.index("flat_field") + 1 == cal.index("straylight")
    with pytest.raises(ParameterError, match=r"\[rate.lower\]: by is 10; expected a number from 0 to 9"):
        recipe.set("lower", by=10)
    ramp = mx.open_exposures(simulated.uncal[:1])
    rate = mx.make_rate(ramp, simulated.reference_folder, recipe)
    (entry,) = [one for one in mx.read_history(rate) if one["step"].endswith(".lower")]
    assert entry["params"] == {"by": 2}
    assert "gain" in entry["refs"]
    assert Recipe.of().adding("rate.lower", f"{__name__}:lower", after="linearity", by=2).parameters()[
        "rate.lower"
    ] == recipe.parameters()["rate.lower"]  # fmt: skip


def test_what_decides_a_level():
    recipe = Recipe.of("optimal")

    def of_level(recipe, level):
        return recipe.reading({f"{level}.{one.name}": None for one in recipe.entries if one.level == level}).decides

    def same(other):
        return [of_level(other, level) == of_level(recipe, level) for level in LEVELS]

    assert same(recipe.set("outlier_detection", snr=5.0)) == [True, True, False, True]
    assert same(recipe.moving("flat_field", before="straylight")) == [True, False, True, True]
    assert same(recipe.set("jump", rejection_threshold=4.0)) == [True] * 4  # its default
    assert same(recipe.with_option("rate", "save_rateints", True)) == [False, True, True, True]
    cubes = recipe.set("cube_build", weighting="emsm")
    assert repr(cubes) == "<Recipe optimal: cube.cube_build.weighting = 'emsm'>"
    part = cubes.reading({"cube.cube_build": ("weighting",), "cal.photom": None})
    assert part.values("cube_build") == {"weighting": "emsm"}
    assert pickle.loads(pickle.dumps(part)) == part
    assert not part.runs("outlier_detection")


def test_a_step_of_ones_own_is_known_by_its_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "from mrsxr.step import step, STEPS\n\n@step(needs='rate')\ndef same(ds):\n    return ds\n"
    (tmp_path / "own_steps_a.py").write_text(text)
    (tmp_path / "own_steps_b.py").write_text(f"{text}\n# mended\n")
    found = [Recipe.of().adding("cal.same", f"own_steps_{k}:same", after="fringe").decides for k in "ab"]
    for name in [name for name in STEPS if name.startswith("own_steps_")]:
        STEPS.pop(name)
    assert found[0] != found[1]


@pytest.mark.parametrize("text", ["import sys\nsys.exit(3)\n", "def same(ds)\n", "x = {}['y']\n"])
def test_a_module_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, text):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"own_steps_{len(text)}"
    (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(ParameterError, match=f"step is '{name}:same', which cannot be imported") as error:
        Recipe.of(write(tmp_path, f"[cal.same]\nstep = '{name}:same'\nafter = 'fringe'\n"))
    assert "\n" not in str(error.value)


def test_a_recipe_made_in_python_is_checked_where_it_is_used(simulated, tmp_path):
    odd = Recipe.of("optimal").moving("cal.photom", before="straylight")  # may be on the way to a sound one
    with pytest.raises(ParameterError, match=r"\[cal.straylight\]: takes data of level rate, and where it stands"):
        mx.run(simulated.uncal_folder, refs=simulated.reference_folder, recipe=odd, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert Recipe.of(odd.skipping("straylight", "flat_field", "fringe")).runs("photom")


def test_at_the_command_line(tmp_path):
    def invoke(*arguments):
        return CliRunner().invoke(main, [str(one) for one in arguments])

    shown = invoke("recipe", "optimal")
    assert shown.exit_code == 0
    assert Recipe.of(write(tmp_path, shown.output)).parameters() == Recipe.of("optimal").parameters()
    every = invoke("recipe", write(tmp_path, "[rate.jump]\nrejection_threshold = 5.5\n"), "--all").output
    assert "rejection_threshold = 5.5" in every
    assert "# flag_4_neighbors = true  # true or false" in every
    out = invoke("run", tmp_path, "--set", "jump.rejection_threshold=-1")
    assert "rejection_threshold is -1; expected a number above 0" in out.output.replace("\n", " ")
    assert "sets nothing" in invoke("run", tmp_path, "--set", "jump").output


def test_texts_set_parameters():
    recipe = Recipe.of()
    for text, name, key, value in (
        ("jump.rejection_threshold=5", "jump", "rejection_threshold", 5),
        ("cube.cube_build.center=[10.0, 20.0]", "cube_build", "center", (10.0, 20.0)),
        ("extract_1d.source_type=point", "extract_1d", "source_type", "POINT"),
        ("photom.propagate_errors = true", "photom", "propagate_errors", True),
    ):
        assert recipe.with_text(text).values(name)[key] == value
    assert not recipe.with_text("rate.reset.skip=true").runs("reset")
    assert recipe.with_text("rate.save_rateints=true").option("rate", "save_rateints")
    with pytest.raises(ParameterError, match=r"sets nothing; .*'save_rateints' is rate.save_rateints"):
        recipe.with_text("save_rateints=true")
