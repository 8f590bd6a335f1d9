"""pixel_replace: against jwst, exact where it can be, its own flags only."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, detector_attrs, dither_coords, of_jwst
from numpy.testing import assert_allclose, assert_array_equal

from mrsxr import dq
from mrsxr.cal.pixel_replace import replace_pixels
from mrsxr.errors import MrsxrError

DIMS = ("dither", "y", "x")
VARIANCES = ("var_poisson", "var_read", "var_flat")
ESTIMATED = dq.FLAGS["FLUX_ESTIMATED"]


def make_cal(flux, variances=None, flags=None, labels=None):
    """Return a cal Dataset around a flux (y, x), in two equal dithers."""
    flux = np.asarray(flux, "f4")
    shape = (2, *flux.shape)
    variances = np.full((3, *flux.shape), 0.1, "f4") if variances is None else variances
    flags = np.where(np.isnan(flux), 1, 0).astype("u4") if flags is None else flags
    labels = np.full(flux.shape, 101, "i2") if labels is None else labels
    planes = dict(zip(("flux", *VARIANCES), (flux, *variances), strict=True))
    ds = xr.Dataset(
        {k: (DIMS, np.broadcast_to(v, shape).copy(), {"units": "MJy/sr" if k == "flux" else "MJy2/sr2"})
         for k, v in planes.items()},
        coords={"y": np.arange(shape[1]), "x": np.arange(shape[2]), **dither_coords(2),
                "slice": (("y", "x"), labels, {"units": "1"}),
                "channel": (("y", "x"), (labels // 100).astype("i1"), {"units": "1"})},
        attrs=detector_attrs("cal", "12A", 10, 2),
    )  # fmt: skip
    ds["dq"] = (DIMS, np.broadcast_to(flags, shape).copy(), dq.PIXEL_DQ_ATTRS)
    return ds


@pytest.fixture(scope="module")
def stored():
    return of_jwst("stage2_pixel_replace")


def of(stored):
    return make_cal(stored["flux"], stored["variances"], stored["dq"], stored["slice"])


def test_mingrad_equals_jwst(stored):
    out = assert_step(replace_pixels, of(stored))
    assert_array_equal(out.flux[1], stored["mingrad_flux"])
    assert_array_equal(out.dq[0], stored["mingrad_dq"])
    for name, theirs in zip(VARIANCES, stored["mingrad_variances"], strict=True):
        assert_allclose(out[name][0], theirs, rtol=1e-6)
    assert (stored["mingrad_dq"] & ESTIMATED).astype(bool).sum() > 100


@pytest.mark.parametrize("n", [1, 3])
def test_profile_equals_jwst(stored, n):
    """Its search for the scale stops 1e-4 short of the solution taken here."""
    out = assert_step(replace_pixels, of(stored), method="fit_profile", n_adjacent_cols=n)
    assert_array_equal(out.dq[1], stored[f"profile_{n}_dq"])
    assert_allclose(out.flux[0], stored[f"profile_{n}_flux"], rtol=1e-3, atol=1e-6)
    filled = (stored[f"profile_{n}_dq"] & ESTIMATED) != 0
    assert filled.sum() > 100
    for name, theirs in zip(VARIANCES, stored[f"profile_{n}_variances"], strict=True):
        assert_allclose(out[name].values[0][filled], theirs[filled], rtol=2e-3)


def slow_mingrad(flux):
    out = flux.copy()
    for y in range(2, flux.shape[0] - 1):
        for x in range(2, flux.shape[1] - 1):
            if np.isnan(flux[y, x]):
                pairs = [(flux[y, x - 1], flux[y, x + 1]), (flux[y - 1, x], flux[y + 1, x])]
                pairs = sorted((abs(a - b), k, (a + b) / 2) for k, (a, b) in enumerate(pairs) if np.isfinite(a - b))
                out[y, x] = pairs[0][2] if pairs else np.nan
    return out


def test_mingrad_is_the_obvious_one_and_exact_on_a_slope():
    rng = np.random.default_rng(4)
    flux = rng.normal(5, 1, (30, 40)).astype("f4")
    flux[rng.random(flux.shape) < 0.15] = np.nan
    assert_allclose(replace_pixels(make_cal(flux)).flux[0], slow_mingrad(flux), rtol=1e-6)
    y, x = np.mgrid[:30, :40]
    slope = (3.0 * y + 2.0 * x).astype("f4")
    holed = np.where((x % 7 == 3) & (y % 5 == 2), np.nan, slope)
    assert_allclose(replace_pixels(make_cal(holed)).flux[0][2:-1, 2:-1], slope[2:-1, 2:-1])


def test_only_its_own_flags_change():
    flux = np.ones((9, 9), "f4")
    flags = np.full((9, 9), dq.JUMP_DET, "u4")
    flux[3, 3], flux[5, 5], flux[6, 3] = np.nan, np.nan, np.nan
    flags[3, 3] |= dq.DO_NOT_USE | dq.FLAGS["HOT"]
    flags[5, 5] |= dq.DO_NOT_USE | dq.NON_SCIENCE
    flags[7, 7] |= dq.DO_NOT_USE  # finite: not touched
    out = replace_pixels(make_cal(flux, flags=flags))
    expected = flags.copy()
    expected[3, 3] = dq.JUMP_DET | dq.FLAGS["HOT"] | ESTIMATED
    expected[5, 5] |= ESTIMATED
    expected[6, 3] |= ESTIMATED
    assert_array_equal(out.dq[0], expected)
    assert_allclose(out.flux, 1)


def test_slices_are_kept_apart_on_request():
    flux = np.ones((9, 12), "f4")
    labels = np.zeros((9, 12), "i2")
    labels[:, 1:5], labels[:, 6:11] = 101, 102
    flux[:, 6:] = 100.0
    flux[:, 5] = np.nan  # the gap
    flux[4, 4], flux[4, 8] = np.nan, np.nan
    jwst_like = replace_pixels(make_cal(flux, labels=labels))
    assert_allclose(jwst_like.flux[0, 3, 5], 50.5)
    out = assert_step(replace_pixels, make_cal(flux, labels=labels), across_slices=False)
    assert np.isnan(out.flux[0, :, 5]).all()
    assert_allclose([out.flux[0, 4, 4], out.flux[0, 4, 8]], [1, 100])


@pytest.mark.parametrize("algorithm", ["mingrad", "fit_profile"])
@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_lost_slice_and_no_flux(algorithm, value):
    labels = np.zeros((12, 40), "i2")
    labels[:, 5:15], labels[:, 20:35] = 101, 102
    flux = np.zeros((12, 40), "f4")
    flux[:, :18] = value
    flux[5, 25] = np.nan
    out = replace_pixels(make_cal(flux, labels=labels), method=algorithm)
    assert out.flux[0, 5, 25] == 0
    lost = np.isnan(out.flux.values)
    assert ((out.dq.values[lost] & dq.DO_NOT_USE) != 0).all()
    assert (lost[:, :, 7:14].all()) == np.isnan(value)
    nothing = replace_pixels(make_cal(np.full((12, 40), np.nan), labels=labels), method=algorithm)
    assert np.isnan(nothing.flux).all()
    assert (nothing.dq == dq.DO_NOT_USE).all()


def test_wrong_parameters_are_refused():
    ds = make_cal(np.ones((6, 6)))
    with pytest.raises(MrsxrError, match="expected one of mingrad, fit_profile, trace_model"):
        replace_pixels(ds, method="median")
    with pytest.raises(MrsxrError, match="expected a whole number of at least 1"):
        replace_pixels(ds, n_adjacent_cols=0)
    for options in ({"method": "fit_profile"}, {"across_slices": False}):
        with pytest.raises(MrsxrError, match="assign_wcs must run before"):
            replace_pixels(ds.drop_vars("slice"), **options)
