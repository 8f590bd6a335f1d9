from __future__ import annotations

import dataclasses
import math
import typing
from typing import Annotated, Any, Literal

import pytest
import xarray as xr

from mrsxr import cal, cube, rate, spectrum
from mrsxr.errors import MrsxrError, ParameterError
from mrsxr.limits import Range, choices_of, hints_of
from mrsxr.pipeline import CalConfig, Config, CubeConfig, RateConfig, SpectrumConfig, load_config
from mrsxr.pipeline.config import SECTIONS
from mrsxr.pipeline.skipping import STEPS

#: What takes each parameter of the configuration, where it has not the name that it has in the configuration.
TAKERS: dict[str, dict[str, tuple[Any, str] | None]] = {
    "rate": {
        "emicorr": (rate.correct_emi, "algorithm"), "refpix": (rate.subtract_reference_pixels, "method"),
        "algorithm": (rate.fit_ramps, "algorithm"), "persistence_time": None, "jump": None, "showers": None,
        "rscd": None,
    },
    "cal": {
        "badpix_selfcal": (cal.find_bad_pixels, "method"), "background": (cal.subtract_background, "method"),
        "straylight": (cal.subtract_straylight, "method"), "clean_showers": (cal.clean_showers, "method"),
        "residual_fringe": (cal.correct_residual_fringe, "method"), "order": None,
    },
    "cube": {
        "weighting": (cube.build_cube, "weighting"), "kernel_size": (cal.detect_outliers, "kernel_size"),
        "pixel_replace": (cal.replace_pixels, "algorithm"), "background": None, "outliers": None,
        "output_type": None, "residual_fringe": (cube.correct_residual_fringe_cube, "method"),
    },
    "spectrum": {
        "annulus": (spectrum.extract_spectrum, "background"), "extraction": None, "background": None,
        "residual_fringe": (spectrum.correct_residual_fringe_1d, "method"), "stitch": (spectrum.stitch_bands, "method"),
    },
}  # fmt: skip
ROOMS = {"rate": (rate,), "cal": (cal,), "cube": (cal, cube), "spectrum": (spectrum,)}


def write(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return path


def test_values_and_defaults(tmp_path):
    config = load_config(
        write(tmp_path, "[rate]\nrejection_threshold = 5\n[spectrum]\ncenter = [10.0, -3.0]\nstitch = 'additive'\n")
    )
    assert config.rate.rejection_threshold == 5
    assert config.rate.three_group_rejection_threshold == 6.0
    assert config.spectrum.center == (10.0, -3.0)
    assert load_config(write(tmp_path, "")) == Config()


def test_residual_fringes_are_set_where_they_are_asked_for(tmp_path):
    asked = Config.of_mode("optimal").with_residual_fringe({"cube": "columns", "cal": "none"})
    assert (asked.cal.residual_fringe, asked.cube.residual_fringe) == ("none", "columns")
    assert asked.spectrum == Config.of_mode("optimal").spectrum
    assert load_config(write(tmp_path, "[cube]\nresidual_fringe = 'slices'\n")).cube.residual_fringe == "slices"
    with pytest.raises(ParameterError, match="expected one of cal, cube, spectrum"):
        Config().with_residual_fringe({"rate": "columns"})
    with pytest.raises(ParameterError, match="residual_fringe is 'sines'"):
        Config().with_residual_fringe({"cube": "sines"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[rates]\n", r"unknown table \[rates\]"),
        ("[rate]\nthreshold = 3\n", "unknown key 'threshold' in"),
        ("[cal]\nflat = 1\n", r"\[cal\] flat is 1; expected true or false"),
        ("[rate]\nn_pix_grow_sat = 'x'\n", r"n_pix_grow_sat is 'x'; expected a whole number from 0 to 100"),
        ("[rate\n", "cannot be read as TOML"),
        ("rate = 1\n", "rate is 1; expected a table"),
        ("[[rate]]\njump = 'none'\n", "expected a table"),
        ("jump = 'none'\n", r"unknown key 'jump' outside the tables; .*'jump' belongs to \[rate\]"),
        ("[rate]\nrejecton_threshold = 3\n", r"did you mean 'rejection_threshold'\?"),
        ("[rate]\nstitch = 'none'\n", r"'stitch' belongs to \[spectrum\]"),
        ("[cueb]\n", r"unknown table \[cueb\].*did you mean 'cube'\?"),
        ("mode = 'optimum'\n", r"mode is 'optimum'; expected one of baseline, optimal; did you mean 'optimal'\?"),
        ("mode = 3\n", "mode is 3; expected one of baseline, optimal"),
        ("[rate]\naverage_dark_current = 'low'\n", r"average_dark_current is 'low'; expected a number of at least 0"),
        ("[cube]\nspaxel_size = 'fine'\n", r"\[cube\] spaxel_size is 'fine'"),
        ("[cube]\nspaxel_size = 1e-9\n", "expected a number from 0.01 to 10"),
        ("[cube]\nwavelength_step = 1e-12\n", "wavelength_step is 1e-12; expected a number from 1e-05 to 1"),
        ("[rate]\nn_pix_grow_sat = 1e12\n", "n_pix_grow_sat is 1000000000000.0; expected a whole number"),
        ("[rate]\nrejection_threshold = nan\n", "rejection_threshold is nan; expected a number above 0"),
        ("[rate]\nrejection_threshold = true\n", "rejection_threshold is True; expected a number above 0"),
        ("[spectrum]\ncenter = [10.0]\n", "center is .*; expected right ascension and declination"),
        ("[spectrum]\ncenter = [339.0, 'x']\n", "declination of center is 'x'"),
        ("[spectrum]\nregion = 5\n", "region is 5; expected a region of the sky"),
        ("[spectrum]\nreference_band = '5A'\n", "'5A' is no MRS band"),
        ("[spectrum]\nregion = 'fk5;circle(1,2,3)'\nradius = 1\n", "a region goes without center"),
        ("[rate]\npersistence = true\n", "persistence is on and persistence_time is 0.0"),
        ("[rate]\nskip = 'reset'\n", "skip is 'reset'; expected several"),
        ("[rate]\nskip = ['ramp_fit']\n", "skip has 'ramp_fit', which cannot be left out"),
        ("[cal]\nskip = ['straylite']\n", r"skip has 'straylite'.*did you mean 'straylight'\?"),
        ("[cal]\nskip = [1]\n", "expected several: each a text"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(MrsxrError, match=message):
        load_config(write(tmp_path, text))


def test_missing_file(tmp_path):
    with pytest.raises(MrsxrError, match="cannot be read"):
        load_config(tmp_path / "none.toml")


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "config.toml"
    path.write_bytes(b"[rate]\njump = '\xff\xfe'\n")
    with pytest.raises(MrsxrError, match="cannot be read as TOML"):
        load_config(path)
    with pytest.raises(MrsxrError, match="cannot be read as TOML"):
        load_config(tmp_path)


def fields() -> list[tuple[str, str, Any]]:
    return [
        (section, one.name, hints_of(kind)[one.name])
        for section, kind in SECTIONS.items() for one in dataclasses.fields(kind)
    ]  # fmt: skip


def wrong(hint: Any) -> list[Any]:
    """Return values that no field of this annotation takes."""
    members = typing.get_args(hint) if typing.get_origin(hint) not in (Annotated, Literal, tuple) else (hint,)
    found: list[Any] = [object(), {"a": 1}]
    for one in members or (hint,):
        if one is bool:
            found += [1, 0, "true", None]
        if typing.get_origin(one) is Literal:
            found += ["two_pointed", -7, True]
        for mark in typing.get_args(one)[1:] if typing.get_origin(one) is Annotated else ():
            if isinstance(mark, Range):
                found += [math.nan, math.inf, "many", True, -1e300, 1e300 if mark.high is not None else -2]
    return found


def test_no_field_takes_what_is_wrong_in_python_or_toml(tmp_path):
    n = 0
    for section, name, hint in fields():
        for value in wrong(hint):
            with pytest.raises(ParameterError) as error:
                SECTIONS[section](**{name: value})
            assert name in str(error.value)
            assert "\n" not in str(error.value)
            n += 1
            if not isinstance(value, float | bool | str | int):
                continue
            text = repr(value).lower() if not isinstance(value, str) else f"'{value}'"
            with pytest.raises(ParameterError, match=rf"config.toml: \[{section}\] {name} is"):
                load_config(write(tmp_path, f"[{section}]\n{name} = {text}\n"))
    assert n > 250


def without_none(hint: Any) -> set[Any]:
    """Return the members of an annotation; "none" and None stand for a step that is left out or a default."""
    if typing.get_origin(hint) is Literal:
        return set(typing.get_args(hint)) - {"none", "header", "auto", 0}
    if typing.get_origin(hint) is Annotated or not typing.get_args(hint):
        return {hint} - {type(None)}
    return set().union(*(without_none(one) for one in typing.get_args(hint)))


def test_fields_allow_what_their_steps_allow():
    agreed = 0
    for section, name, hint in fields():
        taker = TAKERS[section].get(name, ...)
        if taker is ...:
            steps = [getattr(room, n) for room in ROOMS[section] for n in room.__all__ if callable(getattr(room, n))]
            takers = [
                (s, name) for s in steps if name in hints_of(s) and xr.Dataset not in without_none(hints_of(s)[name])
            ]
        else:
            takers = [taker] if taker else []
        for step, parameter in takers:
            assert without_none(hints_of(step)[parameter]) == without_none(hint), (section, name, step.__name__)
            agreed += 1
        own = bool(choices_of(hint)) or hint in (bool, tuple[str, ...])
        assert takers or own or taker is None, f"[{section}] {name}: no step takes it"
    assert agreed > 60


def test_both_modes_and_changes_are_allowed():
    for mode in ("baseline", "optimal"):
        config = Config.of_mode(mode)
        assert config.with_background("pixel").cal.background in ("mean", "weighted")
        assert config.with_source_type("point").spectrum.source_type == "POINT"
    assert SpectrumConfig(source_type="Extended", center=[10, 20]).center == (10.0, 20.0)
    with pytest.raises(ParameterError, match="background is 'moon'; expected one of master, pixel"):
        Config().with_background("moon")
    with pytest.raises(MrsxrError, match="source_type is 'star'"):
        Config().with_source_type("star")
    with pytest.raises(ParameterError, match=r"rate is .*; expected a RateConfig"):
        Config(rate=CalConfig())


def test_steps_left_out_are_turned_off():
    assert RateConfig(skip=["reset", "dark"]) == RateConfig(skip=("reset", "dark_current"), reset=False)
    for section, steps in STEPS.items():
        kind = SECTIONS[section]
        for step in steps:
            for name in (step.name, *step.others, step.name.replace("_", "-"), step.name.upper()):
                if step.needed:
                    with pytest.raises(ParameterError, match="cannot be left out"):
                        kind(skip=[name])
                    continue
                found = kind.optimal()
                found = dataclasses.replace(found, skip=[name])
                assert found.skip == (step.name,)
                if step.switch and step.value in (None, getattr(kind.optimal(), step.switch)):
                    assert getattr(found, step.switch) in ("none", False)
    both = Config.of_mode("optimal").with_skipped(["residual_fringe", "outliers"])
    assert both.cal.residual_fringe == both.spectrum.residual_fringe == both.cube.outliers == "none"
    everywhere = Config().with_residual_fringe({"cal": "columns", "cube": "slices", "spectrum": "slices"})
    off = everywhere.with_skipped(["residual_fringe"])
    assert {part.residual_fringe for part in (off.cal, off.cube, off.spectrum)} == {"none"}
    assert both.rate.skip == ()
    field = CubeConfig(background="field", skip=["master_background"])
    assert field.background == "field"
    with pytest.raises(ParameterError, match=r"skip has 'darc'.*did you mean 'dark_current'\?|skip has 'darc'"):
        Config().with_skipped(["darc"])
