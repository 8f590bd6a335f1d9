from __future__ import annotations

import csv
import math

import numpy as np
import pytest
import xarray as xr
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from helpers import nearest_pixel
from hypothesis import given
from hypothesis import strategies as st

from mrsxr.errors import MrsxrError
from mrsxr.geometry import grid
from mrsxr.geometry.grid import CubeGrid, make_grid

CENTRES = st.tuples(
    st.one_of(st.floats(0, 359.99), st.sampled_from([0.0, 1e-5, 359.99999])),
    st.one_of(st.floats(-80, 80), st.sampled_from([-89.99, 89.99])),
)


def make(crval=(0.0001, 33.0), angle=0.0, nx=15, ny=11, nz=7) -> CubeGrid:
    return CubeGrid(crval, 0.13, nx, ny, 4.9, 0.0008, nz, position_angle=angle)


def test_centres_far_off_the_exposures_are_refused():
    ra, dec = [40.6690, 40.6706], [-0.0140, -0.0124]
    for center in ((40.67, -0.0133), (40.67, 0.0), (400.67 - 360, -0.0282)):
        assert make_grid(ra, dec, (5.0, 5.01), 0.13, 0.001, center=center).crval == pytest.approx(center)
    for center, text in (
        ((40.67, 0.1), "give a place in it"), ((220.67, 0.0133), "give a place in it"),
        ((-0.0133, 40.67), "are swapped"), ((359.9867, 40.67), "give a place in it"),
    ):  # fmt: skip
        with pytest.raises(MrsxrError, match=f"lies off the field, whose middle is RA 40.66980.*{text}"):
            make_grid(ra, dec, (5.0, 5.01), 0.13, 0.001, center=center)


@given(crval=CENTRES, angle=st.floats(-180, 360), x=st.floats(-8, 8), y=st.floats(-8, 8))
def test_offsets_round_trip(crval, angle, x, y):
    g = make(crval, angle)
    ra, dec = g.offsets_to_sky(x, y)
    assert 0 <= ra < 360
    np.testing.assert_allclose(g.sky_to_offsets(ra, dec), [x, y], rtol=0, atol=1e-8)


@given(crval=CENTRES, angle=st.floats(-180, 360))
def test_header_and_methods_are_one_wcs(crval, angle):
    g = make(crval, angle)
    wcs = WCS(g.header())
    pixels = np.array([[0, 0, 0], [14, 0, 3], [3, 10, 6], [7, 5, 0]], float)
    ra, dec, wave = wcs.wcs_pix2world(pixels, 0).T
    mine = g.offsets_to_sky(g.x[pixels[:, 0].astype(int)], g.y[pixels[:, 1].astype(int)])
    np.testing.assert_allclose(g.sky_to_pixels(ra, dec), pixels[:, :2].T, rtol=0, atol=1e-6)
    np.testing.assert_allclose((mine[0] - ra + 180) % 360, 180, rtol=0, atol=1e-10 / math.cos(math.radians(crval[1])))
    np.testing.assert_allclose(mine[1], dec, rtol=0, atol=1e-10)
    np.testing.assert_allclose(wave * 1e6, g.wavelengths[pixels[:, 2].astype(int)], rtol=1e-12)


def test_axes_and_signs():
    g = make((150.0, 2.0))
    x, y = g.sky_to_offsets(*[np.array(v) for v in ([150.0 + 1 / 3600, 150.0], [2.0, 2.0 + 1 / 3600])])
    np.testing.assert_allclose(x, [-math.cos(math.radians(2.0)), 0.0], atol=1e-6)
    np.testing.assert_allclose(y, [0.0, 1.0], atol=1e-6)
    # r turns the axes: a point north of the centre moves towards +x for small positive r
    x, y = make((150.0, 2.0), angle=30.0).sky_to_offsets(150.0, 2.0 + 1 / 3600)
    np.testing.assert_allclose([x, y], [0.5, math.sqrt(3) / 2], atol=1e-6)
    assert np.isnan(g.sky_to_offsets(330.0, -2.0)).all()
    header = g.header()
    assert (header["PC1_1"], header["PC2_2"], header["CTYPE3"], header["CUNIT3"]) == (-1.0, 1.0, "WAVE", "um")
    assert header["CRPIX1"] == 8.0
    assert header["CRVAL3"] == pytest.approx(4.9004)
    assert header["CDELT1"] > 0
    assert g.x[7] == g.y[5] == 0.0
    assert g.shape == (7, 11, 15)
    np.testing.assert_allclose(g.wavelength_edges[:-1] + 0.0004, g.wavelengths)


def test_make_grid_follows_the_rule():
    corners = SkyCoord(10.0, 20.0, unit="deg").spherical_offsets_by(
        *(np.array(v) / 3600 * SkyCoord(0, 0, unit="deg").ra.unit for v in ([2.0, -2.0, 1.0], [1.0, -1.3, 0.2]))
    )
    g = make_grid(corners.ra.deg, corners.dec.deg, (4.9, 5.74), 0.13, 0.0008)
    ra, dec = corners.ra.deg, corners.dec.deg
    assert g.crval == pytest.approx(((ra.min() + ra.max()) / 2, (dec.min() + dec.max()) / 2), abs=1e-12)
    x, y = g.sky_to_offsets(ra, dec)
    assert g.nx == 2 * (math.ceil(np.abs(x).max() / 0.13) + 1) + 1
    assert g.ny == 2 * (math.ceil(np.abs(y).max() / 0.13) + 1) + 1
    assert g.crpix == ((g.nx + 1) / 2, (g.ny + 1) / 2)
    assert np.abs(x).max() < g.x.max()
    assert g.nz == 1050


def test_make_grid_with_centre_and_shape_and_wrap():
    g = make_grid(
        [359.9995, 0.0005], [-5.0, -5.001], (10.0, 10.01), 0.17, 0.0013, center=(0.0001, -5.0), shape=(20, 31)
    )
    assert g.crval == (0.0001, -5.0)
    assert (g.ny, g.nx) == (21, 31)
    g = make_grid([359.9995, 0.0005], [-5.0, -5.001], (10.0, 10.01), 0.17, 0.0013)
    assert min(g.ra, 360 - g.ra) < 1e-9
    assert g.nx < 40
    with pytest.raises(MrsxrError, match="footprint"):
        make_grid([], [], (10.0, 10.01), 0.17, 0.0013)
    with pytest.raises(MrsxrError, match="footprint"):
        make_grid([np.nan], [1.0], (10.0, 10.01), 0.17, 0.0013)
    with pytest.raises(MrsxrError, match="impossible"):
        make_grid([1.0], [1.0], (10.0, 9.0), 0.17, 0.0013)


@given(crval=CENTRES, angle=st.floats(-180, 180), spread=st.floats(0.5, 6.0))
def test_every_corner_lies_on_the_grid(crval, angle, spread):
    corners = CubeGrid(crval, 0.2, 3, 3, 5, 1, 1).offsets_to_sky(
        spread * np.array([1, -1, 0.3, 0.7]), spread * np.array([0.2, -1, 1, 0.1])
    )
    if abs(crval[1]) > 85:
        return
    g = make_grid(*corners, (5.0, 6.0), 0.2, 0.5, position_angle=angle)
    x, y = g.sky_to_pixels(*corners)
    assert x.min() > 0.5
    assert y.min() > 0.5
    assert x.max() < g.nx - 1.5
    assert y.max() < g.ny - 1.5


def test_header_round_trip_and_text_forms():
    g = make((200.0, -60.0), angle=37.5)
    for text in (g.header(), g.header().tostring(), g.header().tostring(sep="\n")):
        back = CubeGrid.from_header(text, shape=g.shape)
        assert back.crval == g.crval
        np.testing.assert_allclose(back.position_angle, 37.5)
        np.testing.assert_allclose(back.wavelengths, g.wavelengths, rtol=1e-14)
        np.testing.assert_allclose([*back.x, *back.y], [*g.x, *g.y], rtol=0, atol=1e-12)
    with pytest.raises(MrsxrError, match="NAXIS1"):
        CubeGrid.from_header(g.header())
    wrong = g.header()
    wrong["CTYPE3"] = "WAVE-TAB"
    with pytest.raises(MrsxrError, match="WAVE-TAB"):
        CubeGrid.from_header(wrong, shape=g.shape)


def cube_of(g: CubeGrid) -> xr.Dataset:
    data = np.arange(np.prod(g.shape), dtype="f4").reshape(g.shape)
    attrs = {"level": "cube", "wcs": g.header().tostring(sep="\n")}
    return xr.Dataset({"flux": (("wavelength", "y", "x"), data)}, coords=g.coords(), attrs=attrs)


def test_grid_of_a_cut_cube():
    g = make((0.0, 10.0), angle=12.0)
    ds = cube_of(g)
    assert CubeGrid.of(ds).shape == g.shape
    cut = CubeGrid.of(ds.isel(x=slice(3, 9), y=slice(2, None), wavelength=slice(4, 6)))
    assert cut.shape == (2, 9, 6)
    np.testing.assert_allclose(cut.wavelengths, g.wavelengths[4:6], rtol=1e-13)
    np.testing.assert_allclose(cut.x, g.x[3:9], atol=1e-12)
    inner = WCS(cut.header()).wcs_pix2world([[0, 0, 0]], 0)[0]
    outer = WCS(g.header()).wcs_pix2world([[3, 2, 4]], 0)[0]
    np.testing.assert_allclose(inner, outer, rtol=1e-12)
    with pytest.raises(MrsxrError, match="consecutive"):
        CubeGrid.of(ds.isel(x=[0, 1, 3]))
    with pytest.raises(MrsxrError, match="expected square ones"):
        CubeGrid.of(ds.isel(x=slice(None, None, 2)))
    with pytest.raises(MrsxrError, match="flipped"):
        CubeGrid.of(ds.isel(x=slice(None, None, -1)))
    with pytest.raises(MrsxrError, match="wcs"):
        CubeGrid.of(ds.drop_attrs())


@given(crval=CENTRES, angle=st.floats(-180, 180), i=st.integers(0, 14), j=st.integers(0, 10))
def test_nearest_pixel(crval, angle, i, j):
    g = make(crval, angle)
    ds = cube_of(g)
    inside = g.offsets_to_sky(g.x[i] + 0.05, g.y[j] - 0.06)
    assert nearest_pixel(ds, inside) == (j, i)
    assert nearest_pixel(ds, SkyCoord(*inside, unit="deg")) == (j, i)
    outside = g.offsets_to_sky(g.x[-1] + 0.07, g.y[j])
    with pytest.raises(KeyError, match="outside the field"):
        nearest_pixel(ds, outside)


@pytest.mark.shared
def test_planes_of_real_products(shared_data):
    with open(shared_data / "cubepar" / "cubepar_flight_values.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row in rows:
        limits = (float(row["wavemin_um"]), float(row["wavemax_um"]))
        step = float(row["wave_step_um"])
        g = make_grid([1.0], [1.0], limits, float(row["spaxel_arcsec"]), step)
        assert g.nz == int(row["n_planes"])
        assert g.wavelengths[0] == pytest.approx(float(row["first_plane_um"]), abs=1e-4)
        stored = make_grid([1.0], [1.0], tuple(np.float32(limits)), float(row["spaxel_arcsec"]), np.float32(step))
        assert stored.nz == g.nz


@pytest.mark.shared
@pytest.mark.parametrize("band", ["short", "medium", "long"])
def test_real_rotated_header(shared_data, band):
    path = shared_data / "s3d_ngc7469" / f"NGC7469_ch4-{band}_s3d.fits.gz"
    header = fits.getheader(path, "SCI")
    g = CubeGrid.from_header(header)
    mine = g.header()
    for key in ("CRPIX1", "CRPIX2", "CRVAL2", "CRVAL3", "CDELT1", "CDELT3", "PC1_1", "PC1_2", "PC2_1", "PC2_2"):
        assert mine[key] == pytest.approx(header[key], rel=1e-12)
    assert (mine["CRVAL1"] - header["CRVAL1"]) % 360 == pytest.approx(0, abs=1e-10)
    assert mine["PIXAR_SR"] == pytest.approx(header["PIXAR_SR"], rel=1e-5)


def corners(*places, side=4.0):
    """Return the corners of square footprints about places (east, north) [arcsec] from (20, 0) deg."""
    ra = [20 + (e + sx * side / 2) / 3600 for e, _ in places for sx in (-1, 1, 1, -1)]
    dec = [(n + sy * side / 2) / 3600 for _, n in places for sy in (-1, -1, 1, 1)]
    return ra, dec


MOSAIC = [(4.0 * i, 4.0 * j) for i in range(4) for j in range(3)]


@pytest.mark.parametrize(
    "places", [[(0, 0)], [(0, 0), (0.5, 0.3), (0, 12)], MOSAIC, [(3.5 * k, 3.5 * k) for k in range(9)]]
)
def test_fields_and_mosaics_are_covered(places):
    got = make_grid(*corners(*places), (4.9, 5.74), 0.13, 0.0008)
    wide = max(e for e, _ in places) + 4.0
    assert got.nx * 0.13 == pytest.approx(wide, abs=0.7)


@pytest.mark.parametrize(
    ("places", "options"),
    [([(0, 0), (0, 1), (300, 0)], {}), ([(0, 0), (70, 70)], {}), ([(0, 0)], {"center": (20.02, 0.0)}),
     ([(0, 0)], {"center": (200.0, 0.0)})],
)  # fmt: skip
def test_grids_of_next_to_nothing_are_refused(places, options):
    with pytest.raises(MrsxrError, match=r"apart and cover \d\.\d %|opposite sides|lies off the field"):
        make_grid(*corners(*places), (4.9, 5.74), 0.13, 0.0008, **options)
    assert make_grid(*corners(*places), (4.9, 5.74), 0.13, 0.0008, shape=(11, 9)).nx == 9


def test_half_empty_grids_are_refused_only_where_memory_is_short(monkeypatch):
    places = corners((0, 0), (40, 0))
    assert make_grid(*places, (4.9, 5.74), 0.13, 0.0008).nx > 300
    monkeypatch.setattr(grid, "_memory", lambda: 1e8)
    with pytest.raises(MrsxrError, match=r"cover 1\d\.\d % .* 0\.\d GB"):
        make_grid(*places, (4.9, 5.74), 0.13, 0.0008)
    assert make_grid(*corners((0, 0), (3, 0)), (4.9, 5.74), 0.13, 0.0008).nx > 50


def test_area_of_overlapping_boxes():
    x = np.array([[0, 2, 2, 0], [1, 3, 3, 1], [10, 11, 11, 10]], float)
    y = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1]], float)
    assert grid._union_of_boxes(x, y) == pytest.approx(7.0, rel=0.02)
