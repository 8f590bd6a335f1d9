"""Every step of cal on small detectors: numbers, promises, errors."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, detector_attrs, dither_coords, make_reference

from mrsxr import cal, dq
from mrsxr.errors import MrsxrError

NY, NX = 10, 1032
SETTING = "12A"


@pytest.fixture
def rate_ds():
    rng = np.random.default_rng(2)
    dims = ("dither", "y", "x")
    shape = (2, NY, NX)
    planes = {
        "rate": rng.uniform(5, 100, shape), "var_poisson": rng.uniform(0.1, 1, shape),
        "var_read": rng.uniform(0.01, 0.1, shape),
    }  # fmt: skip
    units = {"rate": "DN/s", "var_poisson": "DN2/s2", "var_read": "DN2/s2"}
    ds = xr.Dataset(
        {k: (dims, v.astype("f4"), {"units": units[k]}) for k, v in planes.items()},
        coords={"y": np.arange(NY), "x": np.arange(NX), **dither_coords(2)},
        attrs=detector_attrs("rate", SETTING, 10, 2),
    )
    ds["dq"] = (dims, np.zeros(shape, "u4"), dq.PIXEL_DQ_ATTRS)
    return ds


def geometry():
    """Two slices, one a channel, with straight coordinates."""
    labels = np.array([101, 201], "i2")
    alpha = np.zeros((2, 3, 3))
    alpha[:, 0, 1] = 0.19
    wave = np.zeros((2, 3, 3))
    wave[:, 0, 0], wave[:, 1, 0] = (5.0, 7.6), 1e-3
    field = np.zeros((2, 2, 2))
    v2, v3 = field.copy(), field.copy()
    v2[:, 0, 0], v2[:, 1, 0], v3[:, 0, 0], v3[:, 0, 1] = -503, 1, -319, -1
    poly, band2 = ("slice_label", "power_y", "power_x"), ("band", "power_alpha", "power_beta")
    coords = {"slice_label": labels, "band": ["1A", "2A"]}
    distortion = xr.Dataset(
        {
            "alpha_coefficients": (poly, alpha), "alpha_x_shift": ("slice_label", [100.0, 600.0]),
            "slice_beta": ("slice_label", [0.1, -0.2]), "slice_width": ("band", [0.177, 0.28]),
            "v2_coefficients": (band2, v2), "v3_coefficients": (band2, v3),
        },
        coords=coords, attrs={"kind": "distortion", "ref_id": "d.asdf"},
    )  # fmt: skip
    specwcs = xr.Dataset(
        {"wavelength_coefficients": (poly, wave), "wavelength_x_shift": ("slice_label", [0.0, 0.0])},
        coords={"slice_label": labels}, attrs={"kind": "specwcs", "ref_id": "s.asdf"},
    )  # fmt: skip
    planes = np.zeros((9, NY, NX), "i2")
    planes[:, :, 90:111], planes[:, :, 590:611] = 101, 201
    regions = xr.Dataset({"regions": (("plane", "y", "x"), planes)}, attrs={"kind": "regions", "ref_id": "r.asdf"})
    return {"distortion": distortion, "specwcs": specwcs, "regions": regions}


def image(value):
    return np.full((NY, NX), value, "f4")


def photom(**more):
    conversion = image(np.nan)
    conversion[:, 90:111], conversion[:, 590:611] = 2.0, 3.0
    return make_reference("photom", conversion=conversion, pixel_area=image(0.03), dq=np.zeros((NY, NX), "u4"), **more)


def test_wcs(rate_ds):
    out = assert_step(cal.assign_wcs, rate_ds, **geometry())
    assert out.slice.values[0, 100] == 101
    assert out.channel.values[0, 600] == 2
    assert out.slice.values[0, 300] == 0
    assert np.isnan(out.alpha.values[0, 300])
    np.testing.assert_allclose(out.alpha.values[3, 90:111], 0.19 * (np.arange(90, 111) - 100), atol=1e-6)
    np.testing.assert_allclose(out.wavelength.values[:, 600], 7.6 + 1e-3 * np.arange(NY))
    assert out.wavelength.dtype == "float64"
    again = cal.assign_wcs(rate_ds, **geometry())
    assert np.shares_memory(again.wavelength.values, out.wavelength.values)
    moved = geometry()
    moved["specwcs"]["wavelength_coefficients"] = moved["specwcs"]["wavelength_coefficients"] + 1e-3
    other = cal.assign_wcs(rate_ds, **moved)
    assert other.wavelength.values[0, 600] != out.wavelength.values[0, 600]


def test_flat(rate_ds):
    flat, error = image(1.25), image(0.01)
    flat[0, 0], flat[0, 1] = np.nan, 0
    flags = np.zeros((NY, NX), "u4")
    flags[0, 2], flags[0, 3] = dq.NO_FLAT_FIELD, dq.FLAGS["UNRELIABLE_FLAT"]
    ref = make_reference("flat", flat=flat, flat_err=error, dq=flags)
    out = assert_step(cal.divide_flat, rate_ds, flat=ref)
    good = (slice(None), slice(1, None))
    np.testing.assert_allclose(out.rate.values[good], rate_ds.rate.values[good] / 1.25, rtol=1e-6)
    np.testing.assert_allclose(out.var_read.values[good], rate_ds.var_read.values[good] / 1.25**2, rtol=1e-6)
    np.testing.assert_allclose(out.var_flat.values[good], (out.rate.values[good] / 1.25 * 0.01) ** 2, rtol=1e-5)
    assert (out.dq.values[:, 0, :3] == dq.NO_FLAT_FIELD | dq.DO_NOT_USE).all()
    assert (out.dq.values[:, 0, 3] == dq.FLAGS["UNRELIABLE_FLAT"]).all()
    assert np.isnan(out.rate.values[:, 0, :3]).all()


def test_fringe(rate_ds):
    fringe = image(0.8)
    fringe[2, 2] = np.nan
    out = assert_step(cal.divide_fringe_flat, rate_ds, fringe=make_reference("fringe", fringe=fringe))
    np.testing.assert_allclose(out.rate.values[:, 1], rate_ds.rate.values[:, 1] / 0.8, rtol=1e-6)
    np.testing.assert_allclose(out.var_poisson.values[:, 1], rate_ds.var_poisson.values[:, 1] / 0.64, rtol=1e-6)
    assert (out.rate.values[:, 2, 2] == rate_ds.rate.values[:, 2, 2]).all()


def test_photom(rate_ds):
    ds = cal.assign_wcs(rate_ds, **geometry())
    out = assert_step(cal.calibrate_flux, ds, photom=photom())
    np.testing.assert_allclose(out.flux.values[..., 100], 2 * rate_ds.rate.values[..., 100], rtol=1e-6)
    np.testing.assert_allclose(out.var_read.values[..., 600], 9 * rate_ds.var_read.values[..., 600], rtol=1e-6)
    assert (out.dq.values[..., 300] & dq.DO_NOT_USE).all()
    assert np.isnan(out.flux.values[..., 300]).all()
    assert out.attrs["level"] == "cal"


def test_time_law(rate_ds):
    law = {"time_wavelength": [[5.0, 6.0], [7.0, 8.0]], "time_alpha": [[-0.3, -0.5], [-0.1, -0.1]],
           "time_year1value": [[0.9, 0.8], [1.2, 1.3]], "time_tsoft": [[20.0, 30.0], [1.0, 1.0]],
           "time_t0": [[59390.0, 59390.0], [59390.0, 59390.0]]}  # fmt: skip
    ref = photom(**{k: (("channel", "time_bin"), np.array(v)) for k, v in law.items()}).assign_coords(channel=[1, 2])
    ds = cal.assign_wcs(rate_ds, **geometry())
    plain, out = (cal.calibrate_flux(ds, photom=ref, apply_time_correction=on) for on in (False, True))
    days = ds.mid_time.values - 59390.0
    columns = [law[f"time_{n}"][0] for n in ("alpha", "year1value", "tsoft")]
    at_bins = [np.minimum(1, y1 * ((days + s) / (365 + s)) ** a) for a, y1, s in zip(*columns, strict=True)]
    weight = ds.wavelength.values[:, 100] - 5.0
    expected = at_bins[0][:, None] * (1 - weight) + at_bins[1][:, None] * weight
    ratio = plain.flux.values[..., 100] / out.flux.values[..., 100]
    np.testing.assert_allclose(ratio, expected, rtol=1e-5)
    assert ((out.flux / plain.flux).values[..., 600] == 1).all()  # never above one
    with pytest.raises(MrsxrError, match="assign_wcs must run before"):
        cal.calibrate_flux(rate_ds, photom=ref)


def test_master_background(rate_ds):
    ds = cal.calibrate_flux(cal.assign_wcs(rate_ds, **geometry()), photom=photom())
    wavelength = np.concatenate([np.linspace(4.9, 5.1, 30), np.linspace(7.5, 7.7, 30)])
    level = np.where(wavelength < 6, 10 * wavelength, 100.0)
    level[3] = np.nan
    spectrum = xr.Dataset(
        {"background": ("wavelength", level, {"units": "MJy/sr"})},
        coords={"wavelength": wavelength, "band": ("wavelength", np.where(wavelength < 6, "1A", "2A"))},
        attrs={"level": "spectrum", "ref_id": "bkg_x1d.fits"},
    )
    out = assert_step(cal.subtract_master_background, ds, background=spectrum)
    subtracted = (ds.flux - out.flux).values
    np.testing.assert_allclose(
        subtracted[:, :, 100], np.broadcast_to(10 * ds.wavelength.values[:, 100], (2, NY)), rtol=1e-4
    )
    np.testing.assert_allclose(subtracted[:, :, 600], 100, rtol=1e-5)
    one = cal.subtract_master_background(ds, background=spectrum, bands=["1A"])
    assert (one.flux.values[:, :, 600] == ds.flux.values[:, :, 600]).all()
    with pytest.raises(MrsxrError, match="subtracted already"):
        cal.subtract_master_background(out, background=spectrum)
    with pytest.raises(MrsxrError, match="no valid sample in band 2A"):
        cal.subtract_master_background(ds, background=spectrum.isel(wavelength=slice(0, 30)))
    with pytest.raises(MrsxrError, match="setting 12A: the background was subtracted pixel by pixel already"):
        cal.subtract_master_background(ds.assign_attrs(pixel_background=1), background=spectrum)
