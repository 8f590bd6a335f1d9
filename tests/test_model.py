"""Facts and model: names, flags, schema, history, trees."""

from __future__ import annotations

import json

import astropy.units as u
import numpy as np
import pytest
import xarray as xr
from helpers import make_ramp
from hypothesis import given
from hypothesis import strategies as st

from mrsxr import chunks, dq, mrs, schema, tree, units
from mrsxr.attributes import MARKS, set_each, share_done
from mrsxr.errors import LevelError, MrsxrError, MrsxrWarning, ReferenceFileError, SchemaError
from mrsxr.limits import Ref
from mrsxr.pipeline import Recipe
from mrsxr.step import STEPS, plain_parameters, read_history, step


def test_names_round_trip():
    assert mrs.bands_of_setting("34C") == ("3C", "4C")
    for band in mrs.BANDS:
        assert band in mrs.bands_of_setting(mrs.setting_of_band(band))
    for setting in mrs.SETTINGS:
        keys = mrs.setting_keywords(setting)
        assert mrs.setting_name(keys["DETECTOR"], keys["BAND"]) == setting
    for call, argument in ((mrs.bands_of_setting, "13A"), (mrs.setting_of_band, "5A")):
        with pytest.raises(MrsxrError, match="expected one of"):
            call(argument)
    with pytest.raises(MrsxrError, match="SHORT-MEDIUM"):
        mrs.setting_name("MIRIFULONG", "SHORT-MEDIUM")


@given(st.integers(0, 2**32 - 1))
def test_flags_describe_and_value(flags):
    assert dq.value(*dq.describe(flags)) == flags


def test_flags_by_name():
    values = np.array([[0, 1, 2], [4, 3, 7]], "u4")
    out = dq.remap(values, {1: "DEAD", 2: "DO_NOT_USE", 4: "OF_ANOTHER_AGE"})
    assert (out == [[0, 1024, 1], [0, 1025, 1025]]).all()
    assert (dq.has(out, "DEAD", "DO_NOT_USE") == [[False] * 3, [False, True, True]]).all()
    assert dq.any_of(out, "DEAD").sum() == 3
    assert (dq.clear(out, "DEAD", why="a test") == (out & 1)).all()
    with pytest.raises(ValueError, match="needs a reason"):
        dq.clear(out, "DEAD", why="")
    data = xr.DataArray(out.astype("u1"))
    assert dq.has(data, "DO_NOT_USE").dtype == bool


def test_units():
    assert units.factor("MJy/sr", "Jy/arcsec2") == pytest.approx(units.MJYSR_TO_JY_PER_ARCSEC2, rel=1e-6)
    with pytest.raises(SchemaError, match="no unit"):
        units.parse("DM/s")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.drop_vars("group_dq"), "'group_dq'.*is missing"),
        (lambda ds: ds.assign(sci=ds.sci.astype("f8", keep_attrs=True)), "is float64"),
        (lambda ds: ds.assign(sci=ds.sci.drop_attrs()), "has units None"),
        (lambda ds: ds.transpose("dither", "group", "integration", "y", "x"), "has dims"),
        (lambda ds: ds.drop_attrs().assign_attrs(level="ramp"), "attribute 'setting' is missing"),
        (lambda ds: ds.assign_attrs(level="rump"), "expected one of"),
    ],
)
def test_schema_names_what_is_wrong(change, message):
    ds = make_ramp(np.zeros((1, 1, 3, 4, 8), "u2"))
    assert schema.validate(ds) is ds
    with pytest.raises(SchemaError, match=message):
        schema.validate(change(ds))


def test_every_level_describes_itself():
    for level in schema.LEVELS:
        text = schema.describe(level)
        assert len(text.splitlines()) == len(schema.LEVELS[level])
    assert schema.units_of("rate", "var_read") == "DN2/s2"
    assert schema.meaning_of("cube", "weight")
    with pytest.raises(SchemaError, match="no variable"):
        schema.units_of("rate", "flux")


def test_step_checks_records_and_restores():
    @step(needs="ramp", gives="rate")
    def shrink(ds, *, factor=2.0, mask=None):
        return xr.Dataset({"a": ds.sci.sum()}) if factor else None

    try:
        ds = make_ramp(np.zeros((1, 1, 3, 4, 8), "u2"))
        out = shrink(ds, mask=xr.Dataset(attrs={"ref_id": "m.fits"}))
        assert out.attrs["level"] == "rate"
        assert out.attrs["setting"] == "12A"
        entry = read_history(out)[0]
        assert entry["params"] == {"factor": 2.0}
        assert entry["refs"] == {"mask": "m.fits"}
        with pytest.raises(LevelError, match="shrink needs data of level ramp, got rate"):
            shrink(out)
        with pytest.raises(LevelError, match="without level"):
            shrink(xr.Dataset())
        with pytest.raises(MrsxrError, match="shrink returned a NoneType; expected a Dataset"):
            shrink(ds, factor=0)
    finally:
        STEPS.pop(next(name for name in STEPS if name.endswith(".shrink")))


def test_steps_stand_in_their_rooms():
    from mrsxr import cal, cube, lines, rate, spectrum  # noqa: F401 (they know their steps)

    rooms = {name.split(".")[0] for name in STEPS}
    assert rooms == {"rate", "cal", "cube", "spectrum", "lines"}


def test_every_step_is_held_to_its_promises():
    import re
    from pathlib import Path

    from mrsxr import cal, cube, lines, rate, spectrum  # noqa: F401 (they know their steps)

    tests = "\n".join(path.read_text() for path in Path(__file__).parent.rglob("test_*.py"))
    held = set(re.findall(r"assert_step\(\s*(?:\w+\.)*(\w+),", tests))
    missing = sorted(name for name in STEPS if name.rpartition(".")[2] not in held)
    assert not missing, f"steps without assert_step in the tests: {missing}"


def test_join_dithers():
    one, two = (make_ramp(np.full((1, 1, 3, 4, 8), v, "u2")) for v in (1, 2))
    out = tree.join_dithers([one, two])
    assert out.sizes["dither"] == 2
    assert list(out.dither.values) == [1, 2]
    assert (out.sci.mean(["integration", "group", "y", "x"]).values == [1, 2]).all()
    with pytest.raises(MrsxrError, match="differ in setting"):
        tree.join_dithers([one, two.assign_attrs(setting="12B")])
    with pytest.raises(MrsxrError, match="differ in size"):
        tree.join_dithers([one, two.isel(group=slice(0, 2))])
    with pytest.raises(MrsxrError, match="no exposures"):
        tree.join_dithers([])


@given(st.integers(1, 200), st.integers(1, 1000))
def test_ramp_blocks_stay_in_their_budget(n_integrations, n_groups):
    rows = chunks.ramp_rows(n_integrations, n_groups)
    assert 1 <= rows <= 128
    assert rows == chunks.RAMP_ROWS_MIN or rows * 4 * n_integrations * n_groups * 1032 <= chunks.RAMP_BLOCK_BYTES


def test_steps_refuse_what_they_would_count_twice():
    """By the history, also of one of the exposures that were joined, and by the header of files of jwst."""
    rows = []

    @step(needs="ramp", keyword="S_HALVE", once=True)
    def halve(ds, *, by=2.0):
        rows.append(1)
        return ds if by == 1.0 else ds.assign(sci=(ds.sci / np.float32(by)).assign_attrs(ds.sci.attrs))

    STEPS.pop("test_model.halve")
    ramp = make_ramp(np.ones((2, 2, 4, 5, 6), "f4"))
    done = halve(halve(ramp, by=1.0))  # skipped the first time
    other = ramp.assign_coords(exposure=("dither", [f"{name}_b" for name in ramp.exposure.values]))
    joined = tree.join_dithers([done, other.assign_coords(dither=[3, 4])])
    of_jwst = ramp.assign_coords(
        fits_header=("dither", ['{"PRIMARY": {"S_HALVE": "COMPLETE"}}'] * ramp.sizes["dither"])
    )
    for ds in (done, joined, of_jwst):
        with pytest.raises(MrsxrError, match=r"halve was done already \(S_HALVE\), again it would count twice"):
            halve(ds)
    assert len(rows) == 2
    marks = [one.facts.once for one in STEPS.values() if isinstance(one.facts.once, str)]
    assert sorted(marks) == sorted({*MARKS} - {"residual_fringe_1d"})  # which stands beside the flux: anew each time
    by_history = {name for name, one in STEPS.items() if one.facts.once is True}
    assert {"rate.correct_linearity", "rate.subtract_dark", "rate.subtract_reset", "cal.divide_flat"} < by_history


def test_a_step_that_comes_after_one_that_rests_on_it_is_told_of():
    """Also where it was done to one of the exposures that were joined; skipped ones do not count."""

    @step(needs="ramp", jwst="early", precedes=("late",))
    def early(ds):
        return ds.assign(sci=ds.sci)

    @step(needs="ramp", jwst="late")
    def late(ds, *, skip=False):
        return ds if skip else ds.assign(sci=ds.sci)

    ramp = make_ramp(np.ones((2, 2, 4, 5, 6), "f4"))
    try:
        assert "notes" not in late(early(ramp)).attrs
        assert "notes" not in early(late(ramp, skip=True)).attrs
        for ds in (late(ramp), tree.join_dithers([late(ramp.isel(dither=[0])), ramp.isel(dither=[1])])):
            with pytest.warns(MrsxrWarning, match="early came after test_model.late, which rest on it; do it before"):
                out = early(ds)
            assert "came after" in str(out.attrs["notes"])
    finally:
        for name in ("early", "late"):
            STEPS.pop(f"test_model.{name}")


def test_recipes_keep_the_order_that_steps_tell():
    of_jwst = {one.facts.jwst: one.facts for one in STEPS.values()}
    told = [facts for facts in of_jwst.values() if facts.precedes]
    assert {"linearity", "saturation", "refpix"} <= {facts.jwst for facts in told}
    for mode in ("baseline", "optimal"):
        names = [entry.name for level in ("rate", "cal") for entry in Recipe.of(mode).steps(level)]
        for facts in told:
            for later in facts.precedes:
                assert later in of_jwst
                if facts.jwst in names and later in names:
                    assert names.index(facts.jwst) < names.index(later)


def test_a_mark_is_set_where_a_step_did_something_and_refuses_the_next():
    @step(needs="ramp", once="master_background")
    def lower(ds, *, by=1.0):
        return ds if by == 0.0 else ds.assign(sci=(ds.sci - np.float32(by)).assign_attrs(ds.sci.attrs))

    STEPS.pop("test_model.lower")
    ramp = make_ramp(np.ones((2, 2, 4, 5, 6), "f4"))
    assert "master_background" not in lower(ramp, by=0.0).attrs
    one = lower(ramp.isel(dither=[0]))
    joined = tree.join_dithers([one, ramp.isel(dither=[1])])
    again = lower(joined.isel(dither=[1]), by=2.0)
    assert (again.attrs["master_background"], share_done(again, "master_background")) == (1, 1.0)
    for mark in ("master_background", "pixel_background"):
        done = set_each(ramp, mark, [0, 1])
        with pytest.raises(MrsxrError, match=r"00002_mirifushort \(1 of 2 exposures\), again it would count twice"):
            lower(done)
    assert lower(ramp.assign_attrs(fringe_flat=1)).attrs["fringe_flat"] == 1


def test_steps_refuse_pixels_that_are_not_where_they_were():
    @step(needs="ramp")
    def same(ds, *, gain: Ref):
        return ds.assign(sci=ds.sci)

    STEPS.pop("test_model.same")
    ramp = make_ramp(np.ones((2, 2, 4, 5, 6), "f4"))
    gain = xr.Dataset({"gain": (("y", "x"), np.ones((ramp.sizes["y"], ramp.sizes["x"]), "f4"))})
    gain = gain.assign_attrs(kind="gain", level="reference")
    assert same(ramp.isel(dither=[0]), gain=gain).sci.shape[0] == 1
    numbered = ramp.assign_coords(y=np.arange(ramp.sizes["y"]), x=np.arange(ramp.sizes["x"]))
    for ds, error, text in (
        (
            ramp.isel(dither=0),
            SchemaError,
            r"needs a ramp on dither, .* keep single ones with lists, isel\(dither=\[k\]",
        ),
        (ramp.isel(integration=0), SchemaError, r"isel\(integration=\[k\]"),
        (numbered.isel(x=slice(None, None, -1)), SchemaError, "'x' does not rise"),
        (
            ramp.isel(y=slice(1, None)),
            ReferenceFileError,
            "gain reference by hand has .* rows and .* columns, the data .*cut both alike",
        ),
    ):
        with pytest.raises(error, match=text):
            same(ds, gain=gain)


def test_parameters_of_all_kinds_stand_in_a_history():
    asked = {"a": np.float32(0.5), "b": np.array(3), "c": [12.8 * u.um, np.longdouble(2)], 4: None, "d": np.mean}
    wanted = {"a": 0.5, "b": 3, "c": ["12.8 um", "2.0"], "4": None, "d": "mean"}
    assert json.loads(json.dumps(plain_parameters(asked))) == wanted
