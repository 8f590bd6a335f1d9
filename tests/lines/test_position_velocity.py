"""Velocities as a coordinate and cuts along a path, against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from helpers import no_compute
from line_cubes import S_III, C, Z, line_cube
from regions import LineSkyRegion

from mrsxr.dq import DO_NOT_USE
from mrsxr.errors import MrsxrError
from mrsxr.io import load, save
from mrsxr.lines import band_of_line, line_range, position_velocity, subtract_continuum, with_velocity


@pytest.fixture(scope="module")
def cube():
    rng = np.random.default_rng(5)
    y, x = np.indices((11, 15))
    made = line_cube(1e-18 * (1 + x + 0.5 * y), 10.0 * (x - 7), 80.0, slope=4.0, noise=0.3, half=2600.0)
    made["var"] = made["var"] * xr.DataArray(rng.uniform(0.5, 2.0, made["var"].shape), dims=made["var"].dims).astype(
        "f4"
    )
    return made


def at(cube, y, x):
    ra, dec = cube.xindexes["ra"].wcs.wcs_pix2world(x, y, 0)
    return SkyCoord(ra, dec, unit="deg")


def test_velocity_is_a_coordinate_to_select_by(cube):
    out = with_velocity(cube, "[S III] 18.71", redshift=Z)
    expected = C * (cube.wavelength.values / (S_III * (1 + Z)) - 1)
    np.testing.assert_allclose(out.velocity, expected, rtol=1e-12)
    part = out.sel(velocity=slice(-300, 500))
    np.testing.assert_array_equal(part.wavelength, cube.wavelength.values[(expected >= -300) & (expected <= 500)])
    xr.testing.assert_identical(out.sel(wavelength=part.wavelength), part)
    again = with_velocity(out, S_III, redshift=Z + 0.001)  # from another zero point
    assert float(np.mean(out.velocity.values - again.velocity.values)) == pytest.approx(295, abs=2)
    low, high = line_range("[S III]", redshift=Z, extent=(-300 * u.km / u.s, 500))
    np.testing.assert_array_equal(cube.sel(wavelength=slice(low, high)).wavelength, part.wavelength)
    with pytest.raises(MrsxrError, match="no wavelengths"):
        with_velocity(cube.isel(wavelength=0).drop_vars("wavelength"), "[Ne II]")
    with pytest.raises(MrsxrError, match=r"\[Ne V\] 14.32 lies at \d+.\d+ um; the data have"):
        with_velocity(cube, "[Ne V] 14.32", redshift=Z)


def test_a_cut_along_a_row_is_the_row(cube):
    path = at(cube, [4, 4], [2, 12])
    cut = position_velocity(cube, S_III, path, redshift=Z, continuum=True, window=1500.0)
    near = np.abs(C * (cube.wavelength.values / (S_III * (1 + Z)) - 1)) <= 1500
    np.testing.assert_allclose(cut.flux, cube.flux.values[near, 4, 2:13], rtol=1e-5)
    np.testing.assert_allclose(cut["var"], cube["var"].values[near, 4, 2:13], rtol=1e-5)
    np.testing.assert_allclose(cut.offset, 0.35 * np.arange(11), atol=1e-9)
    np.testing.assert_allclose(cut.ra, cube.ra[4, 2:13], atol=1e-10)
    line = LineSkyRegion(path[0], path[1])
    xr.testing.assert_equal(
        position_velocity(cube, S_III, line, redshift=Z, continuum=True, window=1500.0).flux, cut.flux
    )


@pytest.mark.parametrize(("angle", "width", "step"), [(33.0, 0.9, 0.35), (-70.0, 0.35, 0.8)])
def test_an_oblique_cut_is_the_mean_of_its_boxes(cube, angle, width, step):
    center = at(cube, 5.2, 7.1)
    cut = position_velocity(
        cube, S_III, center=center, position_angle=angle, length=3.0 * u.arcsec, width=width, step=step, redshift=Z
    )
    assert cut.offset.values.tolist() == pytest.approx(
        (np.arange(cut.sizes["offset"]) * step - cut.offset.values[-1]).tolist()
    )
    light = subtract_continuum(cube, S_III, redshift=Z)
    n = 200  # points of a box, each in the spaxel that holds it
    fine = (np.arange(n) + 0.5) / n - 0.5
    for k, offset in enumerate(cut.offset.values):
        along, across = np.meshgrid(offset + fine * step, fine * width)
        point = center.directional_offset_by(angle * u.deg, 0 * u.deg)
        east = np.sin(np.radians(angle)) * along + np.cos(np.radians(angle)) * across
        north = np.cos(np.radians(angle)) * along - np.sin(np.radians(angle)) * across
        point = center.spherical_offsets_by(east.ravel() * u.arcsec, north.ravel() * u.arcsec)
        x, y = cube.xindexes["ra"].wcs.wcs_world2pix(point.ra.deg, point.dec.deg, 0)
        count = np.zeros((11, 15))
        np.add.at(count, (np.round(y).astype(int), np.round(x).astype(int)), 1.0 / n**2)
        mean = np.einsum("wyx,yx->w", light.flux.values, count)
        var = np.einsum("wyx,yx->w", light["var"].values, count**2)
        np.testing.assert_allclose(cut.flux[:, k], mean, rtol=2e-3, atol=2e-3 * float(light.flux.max()))
        np.testing.assert_allclose(cut["var"][:, k], var, rtol=0.03)


def test_lazy_and_without_data(cube):
    bad = cube.copy(deep=True)
    bad["flux"][:, 4, 7] = np.nan
    bad["dq"][:, 4, 8] = DO_NOT_USE
    options = {"path": at(bad, [4, 4], [0, 14]), "redshift": Z, "width": 0.8}
    whole = position_velocity(bad, S_III, **options)
    with no_compute():
        lazy = position_velocity(bad.chunk(wavelength=7), S_III, **options)
    xr.testing.assert_allclose(lazy, whole)
    row = position_velocity(bad, S_III, at(bad, [4, 4], [0, 14]), redshift=Z, coverage=0.6)
    blind = np.isnan(row.flux.values).all(axis=0)
    assert np.flatnonzero(blind).tolist() == [7, 8]
    assert ((row.dq.values & DO_NOT_USE) != 0).all(axis=0).tolist() == blind.tolist()
    assert not np.isnan(whole.flux.values).any()  # half of each box is there


def test_a_path_with_a_bend_and_wrong_ones(cube):
    path = at(cube, [2, 2, 8], [3, 9, 9])
    cut = position_velocity(cube, S_III, path, redshift=Z, continuum=True)
    assert cut.sizes["offset"] == 13
    np.testing.assert_allclose(cut.ra[8:], cube.ra[4:9, 9], atol=1e-9)
    with pytest.raises(MrsxrError, match="a path, or a center"):
        position_velocity(cube, S_III, path, center=path[0])
    with pytest.raises(MrsxrError, match="a path, or a center"):
        position_velocity(cube, S_III)
    with pytest.raises(MrsxrError, match="1 places"):
        position_velocity(cube, S_III, [path[0]])
    with pytest.raises(MrsxrError, match="does not cross"):
        position_velocity(cube, S_III, center=at(cube, 900, 3), redshift=Z)
    with pytest.raises(MrsxrError, match="no length"):
        position_velocity(cube, S_III, [path[0], path[0]], redshift=Z)


def test_the_band_that_holds_a_line():
    def band(low, high, level="cube"):
        return xr.Dataset({"flux": ("wavelength", [0.0, 0.0])}, {"wavelength": [low, high]}, {"level": level})

    tree = xr.DataTree.from_dict({
        "/science/3A": band(11.5, 13.5), "/science/2C": band(10.0, 13.0), "/science/stitched": band(5, 28),
        "/background/3A": band(11, 14),
    })  # fmt: skip
    assert band_of_line(tree, "[Ne II]").wavelength.values.tolist() == [11.5, 13.5]
    assert band_of_line(tree, "[Ne II]", redshift=-0.08).wavelength.values.tolist() == [10.0, 13.0]
    with pytest.raises(MrsxrError, match=r"no band.*\[S III\]"):
        band_of_line(tree, "[S III]")


@pytest.mark.parametrize("form", ["netcdf", "zarr"])
def test_a_cut_comes_back_from_its_file(form, cube, tmp_path):
    cut = position_velocity(cube, S_III, at(cube, [4, 4], [0, 14]), redshift=Z)
    with pytest.raises(MrsxrError, match="save it as netcdf or zarr"):
        save(cut, tmp_path, format="fits")
    (path,) = save(cut, tmp_path, format=form)
    xr.testing.assert_identical(load(path).compute().drop_encoding(), cut.drop_encoding())
