from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from helpers import dither_coords
from hypothesis import given
from hypothesis import strategies as st
from made_instrument import made_model, made_slice_map, real_model

from mrsxr.errors import MrsxrError
from mrsxr.geometry import detector, sky
from mrsxr.geometry.sky import Pointing
from mrsxr.mrs import SETTINGS, bands_of_setting

pointings = st.builds(
    Pointing,
    ra_ref=st.one_of(st.floats(0, 360), st.sampled_from([0.0, 1e-5, 359.99999, 360.0])),
    dec_ref=st.one_of(st.floats(-85, 85), st.sampled_from([-89.9, 89.9, 0.0])),
    roll_ref=st.floats(-180, 360),
    v2_ref=st.just(-503.3),
    v3_ref=st.just(-318.9),
    va_scale=st.floats(0.9999, 1.0001),
)

#: (RA_REF, DEC_REF, ROLL_REF, V2_REF, V3_REF, VA_SCALE), then V2, V3, RA, Dec of jwst 3.0.0
#: (dva_corr_model | v23tosky).
JWST = [
    ((1e-05, -30.0, 12.0, -503.3, -318.9, 1.00003),
     [(-506.61480666285104, -322.8880793319293, 359.99870400376875, -30.000892171446313),
      (-506.02208868290336, -316.71378392280945, 359.999301748058, -29.999248754629836)]),
    ((359.9999, 88.9, 200.0, -503.3, -318.9, 0.99996),
     [(-506.61480666285104, -322.8880793319293, 0.064747695701458, 88.9007253335805),
      (-506.02208868290336, -316.71378392280945, 0.026071857291517928, 88.89917064636668)]),
    ((123.4, -5.0, -77.0, -502.7, -319.6, 1.0),
     [(-506.61480666285104, -322.8880793319293, 123.40064779054096, -5.001265033758047),
      (-506.02208868290336, -316.71378392280945, 123.39900745838956, -5.000718799978303)]),
    ((345.8, 8.87, 300.0, -503.6, -318.7, 1.0000731),
     [(-506.61480666285104, -322.8880793319293, 345.8005959406319, 8.868692977424368),
      (-506.02208868290336, -316.71378392280945, 345.79917587510295, 8.86969317671738)]),
]  # fmt: skip


@pytest.mark.parametrize(("keywords", "points"), JWST)
def test_sky_equals_jwst(keywords, points):
    pointing = Pointing(*keywords)
    v2, v3, ra_jwst, dec_jwst = np.array(points).T
    ra, dec = sky.v2v3_to_sky(v2, v3, pointing)
    # 2e-10 arcsec is the spacing of float64 near 360 degrees
    np.testing.assert_allclose(ra, ra_jwst, rtol=0, atol=3e-10 / 3600)
    np.testing.assert_allclose(dec, dec_jwst, rtol=0, atol=3e-10 / 3600)


def test_the_reference_point_lands_on_its_keywords():
    pointing = Pointing(12.5, -40.25, 77.0, -503.3, -318.9, 1.00007)
    ra, dec = sky.v2v3_to_sky(-503.3, -318.9, pointing)
    np.testing.assert_allclose([ra, dec], [12.5, -40.25], rtol=0, atol=1e-12)
    # V3 points along the roll angle, V2 90 degrees before it: small-angle check, north to east
    ra3, dec3 = sky.v2v3_to_sky(-503.3, -317.9, pointing)
    angle = np.degrees(np.arctan2((ra3 - ra) * np.cos(np.radians(dec)), dec3 - dec))
    assert abs(angle - 77.0) < 1e-3
    assert abs(np.hypot((ra3 - ra) * np.cos(np.radians(dec)), dec3 - dec) * 3600 - 1.00007) < 1e-5


@given(pointing=pointings, dv2=st.floats(-5, 5), dv3=st.floats(-5, 5))
def test_v2v3_round_trip(pointing, dv2, dv3):
    v2, v3 = pointing.v2_ref + dv2, pointing.v3_ref + dv3
    ra, dec = sky.v2v3_to_sky(v2, v3, pointing)
    assert 0 <= ra < 360
    back = sky.sky_to_v2v3(ra, dec, pointing)
    np.testing.assert_allclose(back, [v2, v3], rtol=0, atol=2e-9)
    np.testing.assert_allclose(pointing.matrix @ pointing.matrix.T, np.eye(3), rtol=0, atol=1e-15)


@given(alpha=st.floats(-4, 4), beta=st.floats(-4, 4), pointing=pointings)
def test_slicer_to_sky_is_the_chain(alpha, beta, pointing):
    model = made_model()
    v2, v3 = sky.slicer_to_v2v3(alpha, beta, "2A", model)
    c2, c3 = model.v2_coefficients.values[1], model.v3_coefficients.values[1]
    expected = [sum(c[i, j] * alpha**i * beta**j for i in range(3) for j in range(3)) for c in (c2, c3)]
    np.testing.assert_allclose([v2, v3], expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(sky.v2v3_to_slicer(v2, v3, "2A", model), [alpha, beta], rtol=0, atol=1e-9)
    direct = sky.slicer_to_sky(alpha, beta, "2A", model, pointing)
    chain = sky.v2v3_to_sky(v2, v3, pointing)
    assert abs((direct[0] - chain[0] + 180) % 360 - 180) < 1e-9
    assert abs(direct[1] - chain[1]) < 1e-12


def test_barycentric():
    wavelength = np.array([5.0, np.nan, 10.0])
    np.testing.assert_array_equal(sky.barycentric(wavelength, None), wavelength)
    np.testing.assert_array_equal(sky.barycentric(wavelength, np.nan), wavelength)
    # positive VELOSYS: the observer moves away, the observed wavelength is too long
    moved = sky.barycentric(wavelength, 29979.2458)
    np.testing.assert_allclose(moved, wavelength / 1.0001, rtol=1e-14)
    both = sky.barycentric(wavelength[np.newaxis], np.array([[np.nan], [29979.2458]]))
    np.testing.assert_array_equal(both, [wavelength, moved])
    array = xr.DataArray(wavelength, dims="x", attrs={"units": "um"})
    velocities = xr.DataArray([29979.2458, np.nan], dims="dither")
    out = sky.barycentric(array, velocities)
    assert set(out.dims) == {"x", "dither"}
    np.testing.assert_array_equal(out.isel(dither=0), moved)


def cal_like(n: int = 2) -> xr.Dataset:
    model, labels = made_model(), made_slice_map()
    alpha, beta, wavelength = detector.slicer_grid(model, labels)
    image = ("y", "x")
    return model.assign_coords(
        slice=(image, labels), alpha=(image, alpha), beta=(image, beta), wavelength=(image, wavelength),
        dither=np.arange(1, n + 1), ra_ref=("dither", [0.0002, 359.9999][:n]),
        dec_ref=("dither", [10.0, 10.001][:n]), roll_ref=("dither", [20.0, 20.0][:n]),
        v2_ref=("dither", [-503.3] * n), v3_ref=("dither", [-318.9] * n),
        va_scale=("dither", [1.00005, np.nan][:n]), velosys=("dither", [1e4, np.nan][:n]),
    ).assign_attrs(setting="12A", level="cal")  # fmt: skip


def test_with_sky_on_a_cal_dataset():
    ds = cal_like()
    before = ds.copy(deep=True)
    out = sky.with_sky(ds)
    xr.testing.assert_identical(ds, before)
    assert out.ra.dims == out.dec.dims == out.wavelength_barycentric.dims == ("dither", "y", "x")
    lit = ds["slice"].values > 0
    for k in range(2):
        np.testing.assert_array_equal(np.isfinite(out.ra.values[k]), lit)
        pointing = Pointing.of(ds, k)
        assert pointing.va_scale == [1.00005, 1.0][k]
        y, x = 30, 61
        ra, dec = sky.slicer_to_sky(ds.alpha.values[y, x], ds.beta.values[y, x], "1A", ds, pointing)
        assert (out.ra.values[k, y, x], out.dec.values[k, y, x]) == (ra, dec)
        y, x = 12, 641
        ra, dec = sky.slicer_to_sky(ds.alpha.values[y, x], ds.beta.values[y, x], "2A", ds, pointing)
        assert (out.ra.values[k, y, x], out.dec.values[k, y, x]) == (ra, dec)
    np.testing.assert_array_equal(out.wavelength_barycentric.values[1], ds.wavelength.values)
    np.testing.assert_allclose(
        out.wavelength_barycentric.values[0], ds.wavelength.values / (1 + 1e4 / 299792458.0), rtol=1e-15
    )
    with pytest.raises(MrsxrError, match="alpha"):
        sky.with_sky(ds.drop_vars("alpha"))
    with pytest.raises(MrsxrError, match="roll_ref"):
        Pointing.of(ds.drop_vars("roll_ref"))


@pytest.mark.shared
@pytest.mark.parametrize("setting", SETTINGS)
def test_real_v2v3_and_its_stored_inverse(shared_data, setting):
    model = real_model(shared_data, setting)
    alpha, beta = np.meshgrid(np.linspace(-4, 4, 9), np.linspace(-4, 4, 9))
    for band in bands_of_setting(setting):
        v2, v3 = sky.slicer_to_v2v3(alpha, beta, band, model)
        exact = sky.v2v3_to_slicer(v2, v3, band, model)
        np.testing.assert_allclose(exact, [alpha, beta], rtol=0, atol=1e-11)
        stored = sky.v2v3_to_slicer(v2, v3, band, model, stored=True)
        np.testing.assert_allclose(stored, [alpha, beta], rtol=0, atol=3e-3)
        assert not np.allclose(stored, exact, rtol=0, atol=1e-5)


@pytest.mark.shared
def test_zero_points_of_the_bands_are_those_of_the_siaf(shared_data):
    zero = {"12A": {"1A": (-503.3406, -318.8640), "2A": (-503.4117, -319.1451)},
            "34A": {"3A": (-503.9910, -318.8476), "4A": (-502.7098, -319.6000)}}  # fmt: skip
    for setting, bands in zero.items():
        model = real_model(shared_data, setting)
        for band, expected in bands.items():
            v2v3 = sky.slicer_to_v2v3(0.0, 0.0, band, model)
            np.testing.assert_allclose(v2v3, expected, rtol=0, atol=1e-4)


@given(
    start=st.tuples(st.sampled_from([0.0001, 120.0, 359.9999]), st.floats(-80, 80)),
    shift=st.tuples(st.floats(-0.02, 0.02), st.floats(-0.02, 0.02)),
    roll=st.floats(0, 359),
)
def test_a_moved_pointing_carries_the_field_along(start, shift, roll):
    end = (float(sky.wrap(start[0] + shift[0])), start[1] + shift[1])
    pointing = Pointing(start[0] + 1e-3, start[1] - 5e-4, roll, -503.3, -318.9, 1.00006)
    moved = pointing.moved(start, end)
    v2, v3 = np.array([-503.0, -500.0, -508.0]), np.array([-318.0, -321.0, -319.5])
    before = sky.tangent_offsets(*sky.v2v3_to_sky(v2, v3, pointing), sky.tangent_frame(*start))
    after = sky.tangent_offsets(*sky.v2v3_to_sky(v2, v3, moved), sky.tangent_frame(*end))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-8)
    assert (moved.v2_ref, moved.v3_ref, moved.va_scale) == (-503.3, -318.9, 1.00006)


def test_missing_pointing_is_named():
    ds = xr.Dataset(coords=dither_coords(2))
    assert Pointing.known(ds, 1)
    ds["ra_ref"], ds["v2_ref"] = ("dither", [np.nan, 1.0]), ("dither", [np.nan, 1.0])
    assert not Pointing.known(ds, 0)
    assert Pointing.known(ds, 1)
    with pytest.raises(MrsxrError, match="00001_mirifushort: RA_REF, V2_REF missing from the header"):
        Pointing.of(ds, 0)
    with pytest.raises(MrsxrError, match="no coordinate roll_ref"):
        Pointing.of(ds.drop_vars("roll_ref"))
    assert not Pointing.known(ds.drop_vars("roll_ref"), 1)
