"""Slice coordinates, footprints and moving targets: numbers, promises, errors."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import assert_step, detector_attrs, dither_coords, no_compute

from mrsxr import dq
from mrsxr.cal.moving import assign_mtwcs, is_moving, target_position
from mrsxr.cal.wcs import assign_wcs
from mrsxr.errors import LevelError, MrsxrError, ReferenceFileError
from mrsxr.geometry import sky
from mrsxr.geometry.detector import detector_to_slicer
from mrsxr.geometry.footprint import s_region
from mrsxr.geometry.frame import GRIDS, FrameModel, frame_coordinate, grids
from mrsxr.io import save
from mrsxr.simulate.instrument import make_geometry
from mrsxr.tree import join_dithers

NY, NX, Y0 = 24, 1032, 300


def rate_ds(header: dict | None = None, setting: str = "12A") -> xr.Dataset:
    """Return a cut-out of two exposures."""
    dims, shape = ("dither", "y", "x"), (2, NY, NX)
    units = {"rate": "DN/s", "var_poisson": "DN2/s2", "var_read": "DN2/s2"}
    ds = xr.Dataset(
        {name: (dims, np.ones(shape, "f4"), {"units": unit}) for name, unit in units.items()},
        coords={"y": np.arange(Y0, Y0 + NY), "x": np.arange(NX), **dither_coords(2, setting)},
        attrs=detector_attrs("rate", setting, 10, 2),
    )
    ds["dq"] = (dims, np.zeros(shape, "u4"), dq.PIXEL_DQ_ATTRS)
    if header is not None:
        texts = [json.dumps({k: {n: v[i] for n, v in cards.items()} for k, cards in header.items()}) for i in (0, 1)]
        ds = ds.assign_coords(fits_header=("dither", np.array(texts)))
    return ds


@pytest.fixture(scope="module")
def references():
    made = make_geometry("12A")
    return {"distortion": made.distortion, "specwcs": made.specwcs, "regions": made.regions}


def test_coordinates_of_every_pixel_of_a_cut_out(references):
    out = assert_step(assign_wcs, rate_ds(), **references)
    labels = out.slice.values
    np.testing.assert_array_equal(labels, references["regions"].regions.values[-2, Y0 : Y0 + NY])
    y, x = np.nonzero(labels)
    wanted = detector_to_slicer(x, y + Y0, labels[y, x], out)
    for name, values in zip(("alpha", "beta", "wavelength"), wanted, strict=True):
        found = out[name].values
        np.testing.assert_allclose(found[y, x], values, rtol=0, atol=1e-13 if name == "wavelength" else 3e-7)
        assert np.isnan(found[labels == 0]).all()
    assert set(np.unique(labels)) > {0, 101, 121, 201, 217}


def test_coordinates_are_made_once_for_each_set_of_files(references):
    first = assign_wcs(rate_ds(), **references)
    before = grids.cache_info()
    copies = {name: reference.copy(deep=True) for name, reference in references.items()}
    again = assign_wcs(rate_ds(), **copies)
    after = grids.cache_info()
    assert (after.hits - before.hits, after.misses - before.misses) == (1, 0)
    assert np.shares_memory(again.alpha.values, first.alpha.values)
    with pytest.raises(ValueError, match="read-only"):
        again.alpha.values[0, 0] = 1


def test_sky_needs_the_pointing_and_slice_coordinates_do_not(references):
    ds = rate_ds()
    ds["dec_ref"] = ("dither", [30.0, np.nan])
    out = assign_wcs(ds, **references)
    assert s_region(out, 0).startswith("POLYGON ICRS  339.")
    for function in (lambda: s_region(out, 1), lambda: sky.with_sky(out)):
        with pytest.raises(MrsxrError, match=r"00002_mirifushort: DEC_REF missing from the header"):
            function()


def test_references_that_do_not_fit_are_named(references):
    ds = rate_ds()
    with pytest.raises(ReferenceFileError, match="expected a reference of kind specwcs, got one of kind distort"):
        assign_wcs(ds, **references | {"specwcs": references["distortion"]})
    with pytest.raises(ReferenceFileError, match="lacks slice_beta, slice_width"):
        assign_wcs(ds, **references | {"distortion": references["distortion"].drop_vars(["slice_beta", "slice_width"])})
    other = references["regions"].assign_attrs(band="MEDIUM")
    with pytest.raises(ReferenceFileError, match="is of band MEDIUM; expected SHORT"):
        assign_wcs(ds, **references | {"regions": other})
    small = references["regions"].isel(y=slice(0, Y0 + 4))
    with pytest.raises(ReferenceFileError, match="has 4 x 1032 of the 24 x 1032 pixels"):
        assign_wcs(ds, **references | {"regions": small})
    with pytest.raises(LevelError, match="level rate or cal"):
        assign_wcs(ds.assign_attrs(level="ramp"), **references)


# --- moving targets ---


def moving(ra=(339.015, 339.0201), dec=(33.9763, 33.9741)) -> xr.Dataset:
    return rate_ds({
        "PRIMARY": {"TARGTYPE": ("MOVING", "MOVING")}, "SCI": {"MT_RA": ra, "MT_DEC": dec, "OTHER": (1, 2)},
    })  # fmt: skip


def place_of(ds, position, k):
    """Return V2, V3 of a position on the sky in a dither."""
    return sky.sky_to_v2v3(*position, sky.Pointing.of(ds, k))


def test_the_target_stands_still_and_the_field_keeps_its_shape(references):
    ds = assign_wcs(moving(), **references)
    places = list(zip((339.015, 339.0201), (33.9763, 33.9741), strict=True))
    out = assert_step(assign_mtwcs, ds)
    center = target_position([ds])
    np.testing.assert_allclose(center, (339.01755, 33.9752), rtol=0, atol=1e-12)
    for k, place in enumerate(places):
        v2, v3 = place_of(ds, place, k)
        np.testing.assert_allclose(sky.v2v3_to_sky(v2, v3, sky.Pointing.of(out, k)), center, rtol=0, atol=1e-11)
        # jwst adds the differences to right ascension and declination: 1e-4 arcsec from this across the field
        near = sky.v2v3_to_sky(v2 + 3, v3 - 3, sky.Pointing.of(ds, k))
        mine = sky.v2v3_to_sky(v2 + 3, v3 - 3, sky.Pointing.of(out, k))
        theirs = [n + c - p for n, c, p in zip(near, center, place, strict=True)]
        off = 3600 * np.abs(np.subtract(mine, theirs))
        assert off.max() < 2e-4
    assert abs(out.roll_ref.values - ds.roll_ref.values).max() > 0
    for name in ("v2_ref", "v3_ref", "va_scale", "velosys"):
        np.testing.assert_array_equal(out[name].values, ds[name].values)
    assert s_region(out) != s_region(ds)


def test_headers_tell_the_shift_and_a_second_one_moves_nothing(tmp_path):
    out = assign_mtwcs(moving())
    center = target_position([moving()])
    assert (out.attrs["mt_avra"], out.attrs["mt_avdec"]) == center
    xr.testing.assert_identical(out.fits_header.variable, moving().fits_header.variable)
    (path, _) = save(out, tmp_path)
    written = fits.getheader(path, "SCI")
    assert (written["MT_AVRA"], written["MT_AVDEC"]) == pytest.approx(center)
    assert (written["MT_RA"], written["MT_DEC"]) == (339.015, 33.9763)
    again = assign_mtwcs(out)
    for name in ("ra_ref", "dec_ref", "roll_ref"):
        np.testing.assert_allclose(again[name], out[name], rtol=0, atol=1e-11)
    apart = join_dithers([out.isel(dither=[0]), moving().isel(dither=[1])])
    np.testing.assert_allclose(assign_mtwcs(apart, center=center).ra_ref, out.ra_ref, rtol=0, atol=1e-11)


def test_settings_share_a_centre_that_is_given():
    one, two = moving(), moving(ra=(339.03, 339.04))
    center = target_position([one, two])
    np.testing.assert_allclose(center, (339.026275, 33.9752), rtol=0, atol=1e-12)
    out = assign_mtwcs(two, center=center)
    v2, v3 = place_of(two, (339.04, 33.9741), 1)
    np.testing.assert_allclose(sky.v2v3_to_sky(v2, v3, sky.Pointing.of(out, 1)), center, rtol=0, atol=1e-11)


def test_a_target_that_crosses_the_border_of_ra():
    ds = moving(ra=(359.9999, 0.0003))
    np.testing.assert_allclose(target_position([ds])[0], 0.0001, rtol=0, atol=1e-12)
    ds["ra_ref"] = ("dither", [359.9998, 0.0004])
    out = assign_mtwcs(ds)
    shift = (out.ra_ref.values - ds.ra_ref.values + 180) % 360 - 180
    np.testing.assert_allclose(shift, [0.0002, -0.0002], atol=2e-7)


def test_errors_of_moving_targets_name_exposure_and_keyword():
    assert is_moving(moving())
    assert not is_moving(rate_ds())
    with pytest.raises(MrsxrError, match="setting 12A: TARGTYPE is missing, expected MOVING"):
        assign_mtwcs(rate_ds())
    fixed = rate_ds({"PRIMARY": {"TARGTYPE": ("FIXED", "FIXED")}})
    with pytest.raises(MrsxrError, match="TARGTYPE is FIXED"):
        assign_mtwcs(fixed)
    with pytest.raises(MrsxrError, match="00002_mirifushort: the keyword MT_RA is missing from the header"):
        assign_mtwcs(moving(ra=(339.0, None)))
    with pytest.raises(MrsxrError, match="at least one exposure"):
        target_position([])
    lost = moving()
    lost["v3_ref"] = ("dither", [np.nan, -319.0])
    with pytest.raises(MrsxrError, match="00001_mirifushort: V3_REF missing"):
        assign_mtwcs(lost)


def test_coordinates_are_made_in_the_tasks_that_need_them(references):
    ds = rate_ds()
    out = assign_wcs(ds.chunk(dither=1), **references)
    shifted = out.assign_coords(wavelength=out.wavelength + 0.5)
    for name in GRIDS:
        with no_compute():
            lazy = frame_coordinate(out, name)
            by_hand = frame_coordinate(shifted, name)
        np.testing.assert_array_equal(lazy.compute(), out[name])
        np.testing.assert_array_equal(by_hand.compute(), shifted[name])
        assert frame_coordinate(assign_wcs(ds, **references), name).chunks is None
    model = FrameModel.of(out)
    again = pickle.loads(pickle.dumps(model))
    assert again == model
    assert hash(again) == hash(model)
    assert len(pickle.dumps(model)) < 60_000 + 0.02 * model.labels.nbytes
