"""Footprints of exposures on the sky against every pixel and against jwst."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import dither_coords
from hypothesis import given
from hypothesis import strategies as st
from made_instrument import SHAPE, made_model, made_slice_map, real_labels, real_model

from mrsxr import mrs
from mrsxr.errors import MrsxrError
from mrsxr.geometry import footprint, grid, sky
from mrsxr.geometry.detector import slicer_grid
from mrsxr.geometry.sky import Pointing


def located(model: xr.Dataset, labels: np.ndarray, setting: str = "12A") -> xr.Dataset:
    """Return a model with its slice map and alpha, as assign_wcs attaches them."""
    alpha = slicer_grid(model, labels)[0].astype("f4")
    coords = {"y": np.arange(labels.shape[0]), "x": np.arange(labels.shape[1]), **dither_coords(2, setting)}
    ds = model.assign_coords(coords).assign_attrs(setting=setting)
    return ds.assign_coords(slice=(("y", "x"), labels), alpha=(("y", "x"), alpha))


def corners(ds: xr.Dataset, band: str, pointing: Pointing, box: bool):
    first, last = mrs.CUBE_COLUMNS[int(band[0])]
    columns = np.ones(ds.sizes["x"], bool) if box else (ds.x.values >= first) & (ds.x.values < last)
    ranges = footprint.slice_ranges(ds, columns, exact=True)
    return footprint.corners_on_sky(ds, ranges, pointing, box)


@given(ra=st.sampled_from([0.0, 359.9999, 120.0]), dec=st.floats(-80, 80), roll=st.floats(0, 360))
def test_corners_hold_every_pixel(ra, dec, roll):
    model, labels = made_model(), made_slice_map()
    ds = located(model, labels)
    pointing = Pointing(ra, dec, roll, -503.3, -318.9, 1.00002)
    alpha, beta, _ = slicer_grid(model, labels)
    every = []
    for band in ("1A", "2A"):
        lit = labels // 100 == int(band[0])
        every.append(sky.slicer_to_sky(alpha[lit], beta[lit], band, model, pointing))
    near = [(pixels[0] - ra + 180) % 360 for pixels in every]
    corner_ra, corner_dec = corners(ds, "1A", pointing, box=False)
    corner = (corner_ra - ra + 180) % 360
    assert corner.shape == (4,)
    np.testing.assert_allclose([corner.min(), corner.max()], [near[0].min(), near[0].max()], rtol=0, atol=2e-10)
    wanted = [every[0][1].min(), every[0][1].max()]
    np.testing.assert_allclose([corner_dec.min(), corner_dec.max()], wanted, rtol=0, atol=2e-10)
    box_ra, box_dec = corners(ds, "2A", pointing, box=True)
    both, box = np.concatenate(near), (box_ra - ra + 180) % 360
    np.testing.assert_allclose([box.min(), box.max()], [both.min(), both.max()], rtol=0, atol=2e-10)
    assert box_dec[0] == box_dec[1] < box_dec[2] == box_dec[3]
    assert np.ptp(corner_ra) < 1
    assert np.ptp(box_ra) < 1


def test_float32_alpha_is_good_to_a_microarcsecond():
    ds = located(made_model(), made_slice_map())
    rough, exact = (footprint.slice_ranges(ds, exact=e) for e in (False, True))
    np.testing.assert_array_equal(rough.labels, exact.labels)
    np.testing.assert_allclose(rough.alpha_low, exact.alpha_low, rtol=0, atol=5e-7)
    assert (rough.alpha_high != exact.alpha_high).any()


def test_s_region_has_the_form_of_jwst():
    ds = located(made_model(), made_slice_map())
    text = footprint.s_region(ds, 1)
    words = text.split(" ")
    assert words[:3] == ["POLYGON", "ICRS", ""]
    values = np.array(words[3:], float).reshape(4, 2)
    assert all(len(word.split(".")[1]) == 9 for word in words[3:])
    box = corners(ds, "1A", Pointing.of(ds, 1), box=True)
    np.testing.assert_allclose(values.T, box, rtol=0, atol=6e-10)
    assert footprint.s_region(ds, 0) != text


def test_s_region_at_the_border_of_ra():
    ds = located(made_model(), made_slice_map())
    ds["ra_ref"] = ("dither", [0.0, 1e-5])
    values = np.array(footprint.s_region(ds).split(" ")[3:], float).reshape(4, 2)
    assert values[0, 0] > 359.99
    assert 0 < values[1, 0] < 0.01


def test_errors_name_what_is_missing():
    ds = located(made_model(), made_slice_map())
    with pytest.raises(MrsxrError, match="no pixel lies in a slice"):
        footprint.slice_ranges(ds.assign_coords(slice=(("y", "x"), np.zeros(SHAPE, np.int16))))
    with pytest.raises(MrsxrError, match="needs alpha; run assign_wcs first"):
        footprint.s_region(ds.drop_vars("alpha"))
    ds["roll_ref"] = ("dither", [1.0, np.nan])
    footprint.s_region(ds, 0)
    with pytest.raises(MrsxrError, match=r"jw02732004001_02101_00002_mirifushort: ROLL_REF missing"):
        footprint.s_region(ds, 1)


@pytest.mark.shared
def test_real_footprint_has_the_size_of_real_products(shared_data):
    ds = located(real_model(shared_data, "34A"), real_labels(shared_data, "34A"), "34A")
    header = fits.getheader(shared_data / "s3d_ngc7469" / "NGC7469_ch4-short_s3d.fits.gz", "SCI")
    pointing = Pointing(345.8151, 8.8741, 110.0, -503.3, -318.9)
    angle = grid.slicer_angle("4A", ds, pointing)
    found = corners(ds, "4A", pointing, box=False)
    g = grid.make_grid(*found, (17.70, 20.95), 0.35, 0.006, position_angle=angle)
    assert g.nz == header["NAXIS3"]
    # one exposure; four dithers, half an arcsec each way, add one or two spaxels a side
    assert header["NAXIS1"] - 6 <= g.nx <= header["NAXIS1"]
    assert header["NAXIS2"] - 6 <= g.ny <= header["NAXIS2"]


#: jwst 3.0.0 with the FLT-9 files and the CDP-8b masks, for this pointing: find_corners_miri, S_REGION and the
#: grid of set_geometry over S_REGION (spaxel, crval, naxis1 and naxis2; north up, then along alpha), then the angle.
JWST_POINTING = Pointing(359.99995, 33.97, 110.3, -503.654, -318.742, 1.0000613)
JWST_CORNERS = {
    "1A": ([359.99907654884737, 0.0006642103876970396, 0.00012441563467291417, 359.99962167059806],
           [33.96974577201184, 33.97009972604194, 33.969282868353545, 33.970570706775355]),
    "3A": ([359.9986305658918, 0.001280113576228814, 0.00020278342827850793, 359.99953268598284],
           [33.9697683404374, 33.97045457626834, 33.96896505907082, 33.971154929278335]),
}  # fmt: skip
JWST_REGION = {
    "1A": ([359.998807096, 0.000780128, 0.000780128, 359.998807096],
           [33.969175354, 33.969175354, 33.970763908, 33.970763908]),
    "3A": ([359.998015423, 0.001280114, 0.001280114, 359.998015423],
           [33.968513031, 33.968513031, 33.971242911, 33.971242911]),
}  # fmt: skip
JWST_GRID = {
    "1A": (0.13, (359.999793612, 33.969969631), (49, 47), (65, 65), -61.275996935056014),
    "3A": (0.35, (359.99964776850004, 33.969877971), (31, 33), (41, 41), -62.153067846304054),
}


@pytest.mark.shared
@pytest.mark.parametrize("band", ["1A", "3A"])
def test_footprint_and_grid_equal_jwst(shared_data, band):
    setting = "12A" if band == "1A" else "34A"
    ds = located(real_model(shared_data, setting), real_labels(shared_data, setting), setting)
    found = corners(ds, band, JWST_POINTING, box=False)
    np.testing.assert_allclose((sky.wrap(found[0]), found[1]), JWST_CORNERS[band], rtol=0, atol=1e-12)
    box = corners(ds, band, JWST_POINTING, box=True)
    np.testing.assert_allclose((sky.wrap(box[0]), box[1]), JWST_REGION[band], rtol=0, atol=6e-10)
    spaxel, crval, north_up, along, angle = JWST_GRID[band]
    assert grid.slicer_angle(band, ds, JWST_POINTING) == pytest.approx(angle, abs=1e-8)
    for r, shape in ((0.0, north_up), (angle, along)):
        g = grid.make_grid(*box, (5.0, 5.7), spaxel, 0.001, position_angle=r)
        assert (g.nx, g.ny) == shape
        np.testing.assert_allclose(g.crval, crval, rtol=0, atol=1e-9)
