"""Integrations keep their number: a cut and a later segment get what belongs to them, in every step of stage 1."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import make_ramp, make_reference
from xarray.testing import assert_equal, assert_identical

from mrsxr import dq, rate
from mrsxr.errors import InputFileError
from mrsxr.io import load, open_exposures, save
from mrsxr.step import STEPS

sys.path.insert(0, str(Path(__file__).parents[1] / "io"))
from io_files import write

SHAPE = (1, 4, 12, 8, 1032)
RAMP = ("integration", "group", "y", "x")


@pytest.fixture(scope="module")
def ramp():
    rng = np.random.default_rng(11)
    slope = rng.uniform(20, 90, (1, 4, 1, 8, 1032))
    sci = 9000 + slope * np.arange(1, 13)[:, None, None] + rng.normal(0, 5, SHAPE)
    sci[0, 2, 6:, 3, 40] += 4000
    ds = make_ramp(sci.astype("f4"))
    ds.group_dq[0, 2, 7:, 5, 20] = dq.SATURATED
    return ds


def references():
    rng = np.random.default_rng(12)
    image = SHAPE[-2:]
    noise = {
        "gain": make_reference("gain", gain=np.full(image, 5.5, "f4")),
        "readnoise": make_reference("readnoise", read_noise=np.full(image, 6.0, "f4")),
    }
    bits = np.zeros(image, "u4")
    several = {n: (RAMP, rng.normal(0, 20, (n, 12, *image)).astype("f4")) for n in (2, 3)}
    coefficients = np.zeros((3, *image), "f4")
    coefficients[1:] = np.array([1.0, 2e-6])[:, None, None]
    rscd = xr.Dataset(
        {"group_skip1": ("row", [1]), "group_skip": ("row", [4])},
        coords={"subarray": ("row", ["FULL"]), "readpatt": ("row", ["FASTR1"])},
        attrs={"level": "reference", "kind": "rscd", "ref_id": "rscd_made.fits"},
    )
    return {
        "scale_groups": {}, "flag_bad_pixels": {"mask": make_reference("mask", dq=bits)},
        "flag_saturation": {"saturation": make_reference("saturation", threshold=np.full(image, 6e4, "f4"), dq=bits)},
        "flag_first_frame": {}, "flag_last_frame": {},
        "subtract_reset": {"reset": make_reference("reset", reset=several[3], dq=bits)},
        "correct_linearity": {
            "linearity": make_reference("linearity", coefficients=(("order", "y", "x"), coefficients), dq=bits)
        },
        "flag_rscd": {"rscd": rscd},
        "subtract_dark": {"dark": make_reference("dark", dark=several[2], dq=bits)},
        "subtract_reference_pixels": {"method": "smooth", "window": 4},
        "flag_charge_migration": {"signal_threshold": 1e4},
        "fit_integrations": noise,
    }  # fmt: skip


#: Steps that look at all integrations together by design, or have no integrations.
TOGETHER = {
    "fit_ramps", "flag_showers", "remove_showers", "correct_emi",
    "correct_rscd", "scale_gain", "correct_ipc", "flag_jumps", "flag_persistence",
}  # fmt: skip


def test_every_step_of_stage_1_is_looked_at():
    found = {name.rpartition(".")[2] for name in STEPS if name.startswith("rate.")}
    assert found == set(references()) | TOGETHER


@pytest.mark.parametrize("step", list(references()))
@pytest.mark.parametrize("cut", [[1], [3], [0, 2]])
def test_a_cut_before_is_a_cut_after(ramp, step, cut):
    function, given = getattr(rate, step), references()[step]
    before = function(ramp.isel(integration=cut), **given)
    after = function(ramp, **given).isel(integration=cut)
    assert list(before.integration.values) == [number + 1 for number in cut]
    names = [name for name in after.data_vars if "integration" in after[name].dims and name != "var_poisson"]
    assert names
    for name in names:
        assert_equal(before[name], after[name])


def test_integrations_have_references_of_their_own(ramp):
    """What the tests above rest on: another integration gets another correction."""
    for step in ("subtract_reset", "subtract_dark", "flag_rscd"):
        ds = ramp.assign(sci=xr.zeros_like(ramp.sci))
        out = getattr(rate, step)(ds, **references()[step])
        name = "group_dq" if step == "flag_rscd" else "sci"
        one, two, three, four = (out[name].isel(integration=i, y=1, drop=True) for i in range(4))
        assert not one.equals(two), step
        assert three.equals(four), step


def test_time_goes_on_in_a_later_integration(ramp):
    """A window of persistence that ends in integration 2 is not opened again by a cut of integration 3."""
    ds = ramp.assign(group_dq=xr.zeros_like(ramp.group_dq))
    end = xr.zeros_like(ramp.pixel_dq, dtype="f8").isel(dither=0, drop=True) + ds.start_time.values[0] + 50.0 / 86400
    windows = xr.Dataset({"window_end": end}, attrs={"persistence_time": 60.0})
    out = rate.flag_persistence(ds, persistence_time=60.0, windows=windows).group_dq
    assert out.isel(integration=1).any()
    assert not out.isel(integration=2).any()
    for cut in ([1], [2], [1, 3]):
        part = rate.flag_persistence(ds.isel(integration=cut), persistence_time=60.0, windows=windows).group_dq
        assert_equal(part, out.isel(integration=cut))


def test_decay_of_a_cut_is_told_and_flagged():
    sci = (1000 + 50 * np.arange(1, 9, dtype="f4"))[:, None, None] * np.ones((1, 3, 1, 2, 4), "f4")
    terms = make_reference("rscd", amplitude=("term", [-0.02]), decay_time=("term", [5.0]))
    whole = rate.correct_rscd(make_ramp(sci), rscd=terms)
    assert not whole.pixel_dq.values.any()
    with pytest.warns(UserWarning, match="decay in integration 2 is not subtracted"):
        cut = rate.correct_rscd(make_ramp(sci).isel(integration=[1, 2]), rscd=terms)
    assert (cut.pixel_dq.values == dq.FLAGS["UNRELIABLE_SLOPE"]).all()
    assert any("integration 2" in note for note in cut.attrs["notes"])


@pytest.mark.parametrize("product", ["uncal", "ramp", "rateints"])
def test_a_later_segment_keeps_its_numbers(tmp_path, product):
    path = write(tmp_path, product, n_ints=2, INTSTART=3, INTEND=4, NINTS=6)
    ds = open_exposures(path)
    assert list(ds.integration.values) == [3, 4]
    again = save(ds, tmp_path / "again")[0]
    header = fits.getheader(again)
    assert [header[key] for key in ("INTSTART", "INTEND", "NINTS")] == [3, 4, 6]
    assert_identical(load(again).compute(), ds.compute())


def test_a_later_segment_gets_its_dark(tmp_path):
    ds = open_exposures(write(tmp_path, "ramp", n_ints=2, INTSTART=2, INTEND=3, NINTS=3))
    planes = np.arange(1, 5, dtype="f4")[:, None, None, None] * np.ones((1, 5, 16, 1032), "f4")
    dark = make_reference("dark", dark=(RAMP, planes), dq=np.zeros((16, 1032), "u4"))
    out = rate.subtract_dark(ds, dark=dark)
    np.testing.assert_allclose((ds.sci - out.sci).mean(["dither", "group", "y", "x"]), [2, 3], atol=1e-3)


def test_a_cut_is_told_in_the_file(tmp_path):
    ds = open_exposures(write(tmp_path, "ramp", n_ints=3))
    for cut, expected in (([1], [2, 2, 3]), ([1, 2], [2, 3, 3]), ([0], [1, 1, 3]), ([0, 2], [None, None, 2])):
        part = ds.isel(integration=cut)
        path = save(part, tmp_path / f"{cut}")[0]
        header = fits.getheader(path)
        assert [header.get(key) for key in ("INTSTART", "INTEND", "NINTS")] == expected
        assert_identical(load(path).integration, part.integration)


def test_slopes_say_which_integrations_they_rest_on(ramp, tmp_path):
    noise = references()["fit_integrations"]
    out = rate.fit_ramps(ramp.isel(integration=[2, 3]), **noise)
    header = fits.getheader(save(out, tmp_path)[0])
    assert [header[key] for key in ("INTSTART", "INTEND", "NINTS")] == [3, 4, 4]
    (tmp_path / "jwst").mkdir()
    segment = open_exposures(write(tmp_path / "jwst", "rate", n_ints=2, INTSTART=3, INTEND=4, NINTS=6))
    assert segment.attrs["n_integrations"] == 2
    assert fits.getheader(save(segment, tmp_path / "again")[0])["NINTS"] == 6


@pytest.mark.parametrize("value", [0, -2, "two", 1.5])
def test_a_wrong_number_is_refused(tmp_path, value):
    path = write(tmp_path, "uncal", INTSTART=value)
    with pytest.raises(InputFileError, match=r"INTSTART is .*expected"):
        open_exposures(path)
