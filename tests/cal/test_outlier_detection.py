"""The detector-level outlier test: equal to jwst, lazy, clear errors; kernels against a slow obvious version."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, detector_attrs, dither_coords, named, no_compute, of_jwst

from mrsxr import dq
from mrsxr.cal._outlier_kernels import mark, normalise, running_median, side_difference
from mrsxr.cal.outlier_detection import detect_outliers, flag_outliers
from mrsxr.errors import LevelError, MrsxrError

STORED = of_jwst("outliers")
BITS = dq.value("DO_NOT_USE", "OUTLIER")


def make_cal(flux: np.ndarray, flags: np.ndarray, setting: str = "12A") -> xr.Dataset:
    """Return cal data around flux and flags (dither, y, x)."""
    dims = ("dither", "y", "x")
    bad = np.isnan(flux) | ((flags & 1) != 0)
    ones = np.where(bad, np.nan, 1).astype("f4")
    variables = {name: (dims, ones.copy(), {"units": "MJy2/sr2"}) for name in ("var_poisson", "var_read", "var_flat")}
    variables["flux"] = (dims, flux.astype("f4"), {"units": "MJy/sr"})
    variables["dq"] = (dims, flags.astype("u4"), dq.PIXEL_DQ_ATTRS)
    coords = {"y": np.arange(flux.shape[1]), "x": np.arange(flux.shape[2]), **dither_coords(len(flux), setting)}
    return xr.Dataset(variables, coords, detector_attrs("cal", setting, 10, 1))


@pytest.fixture
def cal_ds():
    return make_cal(STORED["flux"], STORED["dq"])


@pytest.mark.parametrize("case", ["default", "notebook", "second", "even"])
def test_flags_are_those_of_jwst(cal_ds, case):
    kernel_size, percent, second = STORED[f"{case}_case"]
    found = detect_outliers(
        cal_ds, kernel_size=str(kernel_size), threshold_percent=float(percent), ifu_second_check=bool(int(second))
    )
    out = flag_outliers(cal_ds, outliers=found)
    np.testing.assert_array_equal(out.dq.values, STORED[f"{case}_dq"])
    np.testing.assert_array_equal(np.isnan(out.flux.values), STORED[f"{case}_nan"])
    assert (found.outliers.values > 0).sum() > 5
    for name in ("var_poisson", "var_read", "var_flat"):
        np.testing.assert_array_equal(np.isnan(out[name].values), STORED[f"{case}_nan"])


def test_exposures_of_several_settings_count_together(cal_ds):
    parts = [cal_ds.isel(dither=[0]), cal_ds.isel(dither=[1, 2]).assign_attrs(setting="12B", band="MEDIUM")]
    xr.testing.assert_equal(detect_outliers(parts).outliers, detect_outliers(cal_ds).outliers)


def test_lazy_data_give_a_lazy_mask_of_the_same_flags(cal_ds):
    lazy = cal_ds.chunk({"dither": 1, "y": 20})
    with no_compute():
        found = detect_outliers([lazy, named(lazy, 7)])
    assert found.outliers.chunks is not None
    xr.testing.assert_equal(found.outliers.compute(), detect_outliers(cal_ds).outliers)
    assert found.outliers.dtype == np.uint32


def test_step_keeps_its_promises(cal_ds):
    found = detect_outliers(cal_ds)
    out = assert_step(flag_outliers, cal_ds, outliers=found)
    added = out.dq.values & ~cal_ds.dq.values
    assert set(np.unique(added)) <= {0, 1, 16, 17}
    assert np.isnan(out.flux.values[(found.outliers.values > 0)[None].repeat(3, axis=0)]).all()
    kept = (found.outliers.values == 0) & (cal_ds.dq.values & 1 == 0)
    np.testing.assert_array_equal(out.flux.values[kept], cal_ds.flux.values[kept])


def test_flags_of_each_dither_go_to_the_exposure_of_that_name(cal_ds):
    planes = np.zeros(cal_ds.flux.shape, "u4")
    planes[1, 40, 5] = BITS
    found = xr.Dataset(
        {"outliers": (("dither", "y", "x"), planes)}, {"exposure": cal_ds.exposure}, {"detector": "MIRIFUSHORT"}
    )
    turned = cal_ds.isel(dither=[2, 1])
    out = flag_outliers(turned, outliers=found)
    assert out.dq.values[1, 40, 5] == BITS
    assert (out.dq.values[0] & 16).sum() == 0


def test_frames_of_one_value_and_of_none():
    flat = make_cal(np.full((2, 30, 30), 7.0), np.zeros((2, 30, 30), "u4"))
    assert not (detect_outliers(flat).outliers.values[:, 1:-1] > 0).any()
    empty = make_cal(np.full((2, 30, 30), np.nan), np.full((2, 30, 30), 1, "u4"))
    assert not detect_outliers(empty).outliers.values.any()
    assert (detect_outliers(empty, ifu_second_check=True).outliers.values == BITS).all()


def test_errors_name_what_is_wrong(cal_ds):
    with pytest.raises(MrsxrError, match="kernel_size is '7'"):
        detect_outliers(cal_ds, kernel_size="7")
    with pytest.raises(MrsxrError, match="threshold_percent is 101"):
        detect_outliers(cal_ds, threshold_percent=101)
    with pytest.raises(MrsxrError, match="got none"):
        detect_outliers([])
    with pytest.raises(LevelError, match="level cal, got rate"):
        detect_outliers(cal_ds.assign_attrs(level="rate"))
    with pytest.raises(MrsxrError, match="differ in detector: MIRIFUSHORT"):
        detect_outliers([cal_ds, cal_ds.assign_attrs(detector="MIRIFULONG", setting="34A")])
    found = detect_outliers(cal_ds)
    with pytest.raises(MrsxrError, match="outliers are of MIRIFUSHORT"):
        flag_outliers(cal_ds.assign_attrs(detector="MIRIFULONG"), outliers=found)
    with pytest.raises(MrsxrError, match="69 x 64 pixels, the data 70 x 64"):
        flag_outliers(cal_ds, outliers=found.isel(y=slice(1, None)))
    with pytest.raises(MrsxrError, match="no variable 'outliers'"):
        flag_outliers(cal_ds, outliers=found.rename(outliers="mask"))


def slow_median(image, rows, columns):
    padded = np.pad(image, [[rows // 2], [columns // 2]])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.where(np.isnan(image), np.nan, np.nanmedian(windows, axis=(-2, -1)))


@pytest.mark.parametrize(("rows", "columns"), [(7, 7), (11, 1), (1, 1), (3, 5)])
def test_running_median_against_the_obvious_one(rows, columns):
    rng = np.random.default_rng(3)
    image = np.rint(rng.gamma(1, 20, (40, 30)))  # with ties
    image[rng.random(image.shape) < 0.3] = np.nan
    np.testing.assert_array_equal(running_median(image, rows, columns), slow_median(image, rows, columns))


def test_differences_against_the_obvious_ones():
    flux, flags = STORED["flux"], STORED["dq"]
    value = np.where(flags & 1, np.nan, flux).astype(float)
    padded = np.pad(value, [(0, 0), (0, 0), (1, 1)])
    sides = np.abs([value - padded[..., :-2], value - padded[..., 2:]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = np.nanmin(sides, axis=0)
    np.testing.assert_array_equal(side_difference(flux, flags), wanted)


def test_the_floor_of_the_local_median_counts():
    image = np.ones((21, 21))
    image[:6] = 0.01
    image[3, 10], image[12, 10] = 0.5, 30.0
    score = normalise(image, 3, 3, 1 / 3)
    assert score[3, 10] == pytest.approx(1.5)  # not 0.5 / 0.01
    assert score[12, 10] == 30.0
    np.testing.assert_array_equal(np.argwhere(mark(image, 3, 3, 99.8, False, 17)), [[12, 10]])
