"""photom: the time law against its formula, kernels against slow versions, and flat, fringe, photom of jwst 3.0.0."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, detector_attrs, dither_coords, make_reference, of_jwst
from parity import make_scale_parity as made

from mrsxr import cal, dq
from mrsxr.cal._scale_kernels import fringe_factor, photom_factor, throughput_at
from mrsxr.cal.photom import throughput
from mrsxr.compiled import read_only
from mrsxr.errors import MrsxrError, ReferenceFileError

NY, NX = 6, 1032
DAY = 59760.001  # mid_time of the first dither of helpers.dither_coords
LIGHT = 299792458.0


def rate_ds(n_dither=2, velosys=None, setting="12A"):
    """Slopes with straight wavelengths: 5 to 6 um left, 8 to 9 um right, NaN in some columns between."""
    rng = np.random.default_rng(3)
    shape, dims = (n_dither, NY, NX), ("dither", "y", "x")
    values = {"rate": rng.uniform(5, 50, shape), "var_poisson": rng.uniform(0.1, 1, shape),
              "var_read": rng.uniform(0.1, 1, shape)}  # fmt: skip
    wavelength = np.full((NY, NX), np.nan)
    wavelength[:, 10:1032] = np.where(np.arange(10, NX) < 512, 5.0, 8.0) + np.linspace(0, 1, NY)[:, None]
    wavelength[:, 500:520] = np.nan
    ds = xr.Dataset(
        {k: (dims, v.astype("f4"), {"units": "DN/s" if k == "rate" else "DN2/s2"}) for k, v in values.items()},
        coords={"y": np.arange(NY), "x": np.arange(NX), **dither_coords(n_dither, setting)},
        attrs=detector_attrs("rate", setting, 10, 2),
    )
    ds["dq"] = (dims, np.zeros(shape, "u4"), dq.PIXEL_DQ_ATTRS)
    ds = ds.assign_coords(wavelength=(("y", "x"), wavelength, {"units": "um"}))
    if velosys is not None:
        ds = ds.assign_coords(velosys=("dither", np.full(n_dither, velosys), {"units": "m/s"}))
    return ds


def photom(law=None, **more):
    images = {"conversion": np.full((NY, NX), 2.0, "f4"), "pixel_area": np.full((NY, NX), 0.03, "f4"),
              "dq": np.zeros((NY, NX), "u4")}  # fmt: skip
    reference = make_reference("photom", **(images | more))
    if law is None:
        return reference
    names = ("wavelength", "alpha", "year1value", "tsoft", "t0")
    tables = {f"time_{n}": (("channel", "time_bin"), np.array([c[i] for c in law])) for i, n in enumerate(names)}
    return reference.assign(tables).assign_coords(channel=[1, 2])


def channel_law(wavelength, alpha, year1value, tsoft, t0):
    return [
        np.broadcast_to(np.asarray(v, float), np.shape(wavelength)) for v in (wavelength, alpha, year1value, tsoft, t0)
    ]


FLAT_LAW = channel_law([4.0, 30.0], 0.0, 1.0, 1.0, 59000.0)


def measured(law, ds=None, **options):
    ds = rate_ds() if ds is None else ds
    plain, out = (
        cal.calibrate_flux(ds, photom=photom(law), apply_time_correction=on, **options) for on in (False, True)
    )
    return (plain.flux / out.flux).values


def test_one_year_after_the_start_the_throughput_is_year1value():
    start = DAY - 365
    ratio = measured([channel_law([5.0, 6.0], -0.4, 0.8, 50.0, start), FLAT_LAW])
    np.testing.assert_allclose(ratio[0, :, 10:500], 0.8, rtol=1e-6)
    assert (ratio[:, :, 520:] == 1).all()


def test_law_never_exceeds_one_at_its_bins_and_is_continued_beyond_them():
    start = DAY - 365
    ratio = measured([channel_law([5.4, 5.6], 0.0, [1.3, 0.9], 50.0, start), FLAT_LAW])
    wave = np.linspace(5, 6, NY)
    expected = 1.0 + (0.9 - 1.0) * (wave - 5.4) / 0.2
    np.testing.assert_allclose(ratio[0, :, 100], expected, rtol=1e-6)
    assert ratio[0, 0, 100] > 1.1  # jwst does not bound what it extrapolates


def test_before_the_law_begins_nothing_is_lost():
    ratio = measured([channel_law([5.0, 6.0], -0.4, 0.8, 10.0, DAY + 100), FLAT_LAW])
    assert (ratio == 1).all()


def test_throughput_of_zero_or_less_counts_as_one():
    start = DAY - 365
    ratio = measured([channel_law([5.0, 5.5], 0.0, [0.8, 0.4], 50.0, start), FLAT_LAW])
    assert (ratio[0, -1, 10:500] == 1).all()  # 0.8 - 0.8 at 6 um
    np.testing.assert_allclose(ratio[0, 0, 10:500], 0.8, rtol=1e-6)


def test_time_law_looks_up_the_barycentric_wavelength():
    ds = rate_ds(velosys=60000.0)
    law = [channel_law([5.0, 6.0], 0.0, [0.9, 0.1], 50.0, DAY - 365), FLAT_LAW]
    theirs, ours = measured(law, ds), measured(law, ds, barycentric_time_law=False)
    wave = np.linspace(5, 6, NY)
    np.testing.assert_allclose(theirs[0, :, 100], 0.9 - 0.8 * (wave / (1 + 6e4 / LIGHT) - 5), rtol=1e-5)
    np.testing.assert_allclose(ours[0, :, 100], 0.9 - 0.8 * (wave - 5), rtol=1e-5)
    assert (np.abs(theirs / ours - 1)[0, 1:, 100] > 5e-5).all()
    np.testing.assert_allclose(throughput(ds, photom(law))[0, :, 100], theirs[0, :, 100], rtol=1e-6)


def test_columns_between_the_channels_follow_jwst():
    law = [channel_law([5.0, 6.0], 0.0, 0.5, 1.0, 59000.0), channel_law([8.0, 9.0], 0.0, 0.25, 1.0, 59000.0)]
    ds = rate_ds()
    ds.wavelength.values[:] = 5.5
    ratio = measured(law, ds)[0, 0]
    assert (ratio[:512] == 2 / 4).all()
    assert (ratio[512:1031] == 1 / 4).all()
    assert ratio[1031] == 1


def test_bins_may_fall_and_a_single_one_serves_all():
    rising = channel_law([5.0, 5.5, 6.0], 0.0, [0.9, 0.7, 0.8], 1.0, 59000.0)
    falling = [c[::-1] for c in rising]
    flat = channel_law([4.0, 10.0, 30.0], 0.0, 1.0, 1.0, 59000.0)
    np.testing.assert_array_equal(measured([rising, flat]), measured([falling, flat]))
    single = channel_law([5.5, np.nan], 0.0, 0.7, 1.0, 59000.0)
    np.testing.assert_allclose(measured([single, FLAT_LAW])[0, :, 100], 0.7, rtol=1e-6)


def slow_throughput(wavelength, side, bins, values):
    """Plain interpolation, one pixel at a time."""
    out = np.ones(wavelength.shape)
    for y, x in np.ndindex(wavelength.shape):
        s, w = side[x], wavelength[y, x]
        if s < 0 or not np.isfinite(w):
            continue
        good = np.isfinite(bins[s])
        grid, level = bins[s][good], values[s][good]
        k = np.clip(np.searchsorted(grid, w) - 1, 0, grid.size - 2)
        value = level[k] + (level[k + 1] - level[k]) * (w - grid[k]) / (grid[k + 1] - grid[k])
        out[y, x] = value if value > 0 else 1.0
    return out


def test_throughput_kernel_against_the_slow_version():
    rng = np.random.default_rng(4)
    wavelength = rng.uniform(4, 7, (20, 30))
    wavelength[3, 4:9] = np.nan
    side = rng.integers(-1, 2, 30)
    bins = np.sort(rng.uniform(4.5, 6.5, (2, 9)), axis=1)
    bins[1, 6:] = np.nan
    values = rng.uniform(0.05, 1, (2, 9))
    out = np.empty(wavelength.shape)
    wavelength, values = read_only(wavelength, values)
    throughput_at(wavelength, side, bins, values, out)
    expected = slow_throughput(wavelength, side, bins, values)
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    assert ((expected == 1) & np.isfinite(wavelength) & (side >= 0)).any()  # some fell to zero


def test_errors_of_the_conversion_and_of_the_time_law():
    ds = rate_ds()
    error = np.full((NY, NX), 0.06, "f4")
    error[0, 100], error[1, 100] = np.nan, 0.0
    law = [channel_law([5.0, 6.0], 0.0, 0.5, 1.0, 59000.0), FLAT_LAW]
    reference = photom(law, conversion_err=error)
    out = assert_step(cal.calibrate_flux, ds, photom=reference, propagate_errors=True, time_law_error=0.1)
    share = np.sqrt(0.03**2 + (0.1 * 0.5 / 0.5) ** 2)
    np.testing.assert_allclose(out.var_photom[:, :, 101], (out.flux[:, :, 101] * share) ** 2, rtol=1e-5)
    np.testing.assert_allclose(out.var_photom[:, :, 600], (out.flux[:, :, 600] * 0.03) ** 2, rtol=1e-5)
    np.testing.assert_allclose(out.var_photom[:, :2, 100], (out.flux[:, :2, 100] * 0.1) ** 2, rtol=1e-5)
    assert out.var_photom.attrs["units"] == "MJy2/sr2"
    plain = cal.calibrate_flux(ds, photom=reference)
    assert "var_photom" not in plain
    assert (plain.flux == out.flux).all()
    with pytest.raises(MrsxrError, match="time_law_error is -1"):
        cal.calibrate_flux(ds, photom=reference, time_law_error=-1)


def test_pixels_without_conversion_are_flagged():
    conversion = np.full((NY, NX), 2.0, "f4")
    conversion[0, 100:104] = np.nan, 0.0, np.inf, -1.0
    out = cal.calibrate_flux(rate_ds(), photom=photom(conversion=conversion))
    assert np.isnan(out.flux[:, 0, 100:103]).all()
    assert (out.dq[:, 0, 100:103] == dq.DO_NOT_USE).all()
    assert (out.dq[:, 0, 103] == 0).all()
    nothing = cal.calibrate_flux(rate_ds(), photom=photom(conversion=np.full((NY, NX), np.nan, "f4")))
    assert np.isnan(nothing.flux).all()
    assert (nothing.dq == dq.DO_NOT_USE).all()


def test_photom_of_another_band_or_shape_or_kind_is_refused():
    ds = rate_ds()
    other = photom().assign_attrs(band="LONG", detector="MIRIFUSHORT")
    with pytest.raises(
        ReferenceFileError, match=r"photom reference photom_made\.fits is for band LONG, expected SHORT"
    ):
        cal.calibrate_flux(ds, photom=other)
    with pytest.raises(ReferenceFileError, match="is for detector MIRIFULONG, expected MIRIFUSHORT"):
        cal.calibrate_flux(ds, photom=photom().assign_attrs(detector="MIRIFULONG"))
    with pytest.raises(ReferenceFileError, match="has 6 rows and 1031 columns, the data 6 and 1032"):
        cal.calibrate_flux(ds, photom=photom().isel(x=slice(0, 1031)))
    with pytest.raises(ReferenceFileError, match="expected a reference of kind photom, got one of kind flat"):
        cal.calibrate_flux(ds, photom=photom().assign_attrs(kind="flat"))
    with pytest.raises(ReferenceFileError, match="has no 'conversion_err'"):
        cal.calibrate_flux(ds, photom=photom(), propagate_errors=True)
    with pytest.raises(ReferenceFileError, match="the photom reference is missing"):
        cal.calibrate_flux(ds, photom=None)


def test_factor_wrappers_on_plain_arrays():
    value, error = np.array([[2.0, np.nan, 0.0, 4.0]]), np.array([[0.1, 0.1, 0.1, np.nan]])
    factor, relative = fringe_factor(value, error)
    np.testing.assert_allclose(factor, [[0.5, 1, 1, 0.25]])
    np.testing.assert_allclose(relative, [[0.05, 0, 0, 0]])
    factor, relative = photom_factor(value, error, loss_error=0.0, error=True, law=False)
    np.testing.assert_allclose(factor, [[2, np.nan, np.nan, 4]])
    np.testing.assert_allclose(relative, [[0.05, 0, 0, 0]])
    assert factor.dtype == "float32"


@pytest.fixture(scope="module", params=["12A", "34A"])
def stored(request):
    detector = detector_attrs("rate", request.param, 1, 1)["detector"]
    return {"setting": request.param, "detector": detector, **of_jwst(f"scale_{detector.lower()}")}


def stored_ds(stored):
    dims = ("dither", "y", "x")
    planes = {k: stored[f"in_{k}"][None] for k in ("rate", "var_poisson", "var_read")}
    coords = dither_coords(1, stored["setting"])
    coords["mid_time"] = ("dither", [made.MID_TIME], {"units": "d"})
    coords["velosys"] = ("dither", [made.VELOSYS], {"units": "m/s"})
    coords["wavelength"] = (("y", "x"), stored["in_wavelength"], {"units": "um"})
    ds = xr.Dataset(
        {k: (dims, v, {"units": "DN/s" if k == "rate" else "DN2/s2"}) for k, v in planes.items()},
        coords={"y": np.arange(made.NY), "x": np.arange(0, made.NX, made.EVERY), **coords},
        attrs=detector_attrs("rate", stored["setting"], 10, 1),
    )
    return ds.assign(dq=(dims, stored["in_dq"][None], dq.PIXEL_DQ_ATTRS))


def stored_photom(stored):
    law = made.time_law(stored["detector"])
    tables = {
        f"time_{ours}": (("channel", "time_bin"), np.array([law[c][theirs] for c in law], "f4").astype(float))
        for ours, theirs in (("wavelength", "binwave"), ("alpha", "alpha"), ("year1value", "year1value"),
                             ("tsoft", "tsoft"), ("t0", "t0"))
    }  # fmt: skip
    area = np.full_like(stored["in_conversion"], 0.03)
    reference = make_reference("photom", conversion=stored["in_conversion"], dq=stored["in_conversion_dq"],
                               pixel_area=area)  # fmt: skip
    return reference.assign(tables).assign_coords(channel=list(law))


def test_flat_fringe_and_photom_against_jwst(stored):
    ds = stored_ds(stored)
    flat = make_reference("flat", flat=stored["in_flat"], flat_err=stored["in_flat_err"], dq=stored["in_flat_dq"])
    steps = {
        "flat": lambda d: cal.divide_flat(d, flat=flat),
        "fringe": lambda d: cal.divide_fringe_flat(d, fringe=make_reference("fringe", fringe=stored["in_fringe"])),
        "photom": lambda d: cal.calibrate_flux(d, photom=stored_photom(stored)),
    }
    for name, step in steps.items():
        ds = step(ds)
        ours = {"sci": ds["flux" if name == "photom" else "rate"][0].values}
        ours |= {v: ds[v][0].values for v in ("var_poisson", "var_read", "var_flat")}
        ours["err"] = np.sqrt(ours["var_poisson"] + ours["var_read"] + ours["var_flat"])
        for plane, values in ours.items():
            np.testing.assert_allclose(values, stored[f"{name}_{plane}"], rtol=1e-5, err_msg=f"{name} {plane}")
        np.testing.assert_array_equal(ds.dq[0].values, stored[f"{name}_dq"], err_msg=name)
    assert np.isfinite(stored["photom_sci"]).mean() > 0.5
