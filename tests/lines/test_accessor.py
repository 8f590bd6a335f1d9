"""``ds.mrs``: there in whichever order things are imported, and the same as the functions that it calls."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from line_cubes import S_III, Z, line_cube
from regions import CircleSkyRegion

import mrsxr as mx


@pytest.mark.parametrize("code", ["import mrsxr, xarray", "import xarray, mrsxr"])
def test_is_there_with_both_packages_in_any_order(code):
    code += "; import sys; xr = sys.modules['xarray']; print(xr.Dataset.mrs, xr.DataTree.mrs, len(sys.meta_path))"
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.count("mrsxr.accessor.Mrs") == 2
    assert "_WithXarray" not in found.stdout


@pytest.fixture(scope="module")
def tree():
    y, x = np.indices((9, 10))
    one = line_cube(1e-18 * (1 + x), 5.0 * y, 90.0, noise=0.2)
    two = line_cube(2e-18 * (1 + x), 0.0, 90.0, noise=0.2, rest=20.4, half=4000.0, scale=0.3)
    attrs = {"channel": "4", "band": "4B", "source_type": "EXTENDED"}
    return xr.DataTree.from_dict(
        {"/science/4A": one.assign_attrs(source_type="EXTENDED"), "/science/4B": two.assign_attrs(attrs)}
    )


def test_is_what_the_functions_give(tree, tmp_path):
    cube = tree["science/4A"].to_dataset()
    place = SkyCoord(*(float(cube[name][4, 5]) for name in ("ra", "dec")), unit="deg")
    same = xr.testing.assert_identical
    same(cube.mrs.to("mJy/arcsec2"), mx.convert_units(cube, "mJy/arcsec2"))
    same(cube.mrs.line(S_III, z=Z), mx.lines.fit_line(cube, S_III, redshift=Z))
    same(tree.mrs.line(S_III, z=Z), cube.mrs.line(S_III, z=Z))
    same(tree.mrs.moments(S_III, Z), mx.lines.moments(cube, S_III, redshift=Z))
    same(tree.mrs.velocity("[S III]", z=Z), mx.lines.with_velocity(cube, "[S III]", redshift=Z))
    same(
        cube.mrs.position_velocity(S_III, z=Z, center=place),
        mx.lines.position_velocity(cube, S_III, redshift=Z, center=place),
    )
    same(cube.mrs.at(place), cube.sel(ra=place.ra, dec=place.dec))
    wide = cube.coarsen(y=3, x=2).mean()
    np.testing.assert_array_equal(wide.mrs.at(place).flux, wide.flux[:, 1, 2])
    assert tree.mrs.to("mJy/arcsec2")["science/4B"].flux.attrs["units"] == "mJy/arcsec2"
    fit = cube.mrs.line(S_III, z=Z)
    assert fit.mrs.history == mx.read_history(fit)
    assert list(tree.mrs.history) == ["/science/4A", "/science/4B"]
    (path,) = fit.mrs.save(tmp_path / "fit.nc")
    same(mx.load(path).flux.drop_vars(["ra", "dec"]), fit.flux.drop_vars(["ra", "dec"]))


@pytest.mark.parametrize("how", ["coarsen", "netcdf", "zarr", "transpose", "sortby", "reindex"])
def test_selects_on_the_sky_where_the_index_was_lost(tree, tmp_path, how):
    cube = tree["science/4A"].to_dataset()
    if how in ("netcdf", "zarr"):
        (path,) = mx.save(cube, tmp_path / {"netcdf": "cube.nc", "zarr": "cube.zarr"}[how])
        lost = xr.open_dataset(path) if how == "netcdf" else xr.open_zarr(path, consolidated=False)
        np.testing.assert_allclose(lost.ra, cube.ra, rtol=0, atol=1e-12)  # they are there for who has xarray alone
    else:
        lost = {
            "coarsen": lambda: cube.coarsen(y=3, x=3, boundary="trim").mean(),
            "transpose": lambda: cube.transpose("x", "wavelength", "y"), "sortby": lambda: cube.sortby("x", False),
            "reindex": lambda: cube.reindex(x=cube.x[::-1]),
        }[how]()  # fmt: skip
    if how not in ("transpose", "reindex"):
        with pytest.raises(ValueError, match="set_xindex"):
            lost.sel(ra=0.0, dec=0.0)
        assert "ds.mrs.sel(ra=, dec=), or mrsxr.attach_index(ds)" in lost.ra.attrs["comment"]
    found = lost.mrs.sel(ra=float(cube.ra[4, 7]), dec=float(cube.dec[4, 7]), wavelength=slice(None, 19.0))
    xr.testing.assert_equal(found.flux.drop_vars(["ra", "dec"]),
                            lost.flux.sel(y=cube.y[4], x=cube.x[7]).sel(wavelength=slice(None, 19.0))
                            .drop_vars(["ra", "dec"]))  # fmt: skip


def test_image_of_others_is_selected_by_its_own_index(tree):
    image = tree["science/4A"].to_dataset().flux[0].drop_attrs()
    wcs = tree["science/4A"].to_dataset().mrs.sky.wcs
    found = mx.attach_index(image.drop_vars(["ra", "dec"]).to_dataset(name="sky"), wcs)
    ra, dec = (float(found[name][2, 3]) for name in ("ra", "dec"))
    assert float(found.mrs.sel(ra=ra, dec=dec).sky) == float(image[2, 3])


def test_sky(tree):
    sky = tree["science/4A"].to_dataset().mrs.sky
    x, y = sky.wcs.world_to_pixel(sky.footprint)
    np.testing.assert_allclose([x, y], [[-0.5, 9.5, 9.5, -0.5], [-0.5, -0.5, 8.5, 8.5]], atol=1e-6)
    np.testing.assert_allclose(sky.wcs.world_to_pixel(sky.centre), [4.5, 4.0], atol=1e-6)
    assert tree.mrs.sky["/science/4B"].shape == (9, 10)


def test_spectrum_of_a_place_in_all_bands(tree):
    cube, other = (tree[f"science/{band}"].to_dataset() for band in ("4A", "4B"))
    place = SkyCoord(*(float(cube[name][4, 5]) for name in ("ra", "dec")), unit="deg")
    found = tree.mrs.spectrum(place, 0.8 * u.arcsec)
    assert [node.path for node in found.leaves] == ["/science/4A", "/science/4B", "/science/stitched"]
    y, x = np.indices((9, 10, 30, 30))[:2], np.indices((9, 10, 30, 30))[2:]
    inside = np.hypot(y[0] + (x[0] + 0.5) / 30 - 4.5, y[1] + (x[1] + 0.5) / 30 - 5.5) < 0.8 / 0.35
    expected = (cube.flux.values * inside.mean((2, 3))).sum((1, 2)) * 0.35**2 * 2.3504430539e-11 * 1e6
    np.testing.assert_allclose(found["science/4A"].flux, expected, rtol=5e-3)
    circle = CircleSkyRegion(place, 0.8 * u.arcsec)
    np.testing.assert_allclose(cube.mrs.spectrum(circle).flux, found["science/4A"].flux, rtol=1e-4)
    np.testing.assert_allclose(
        tree.mrs.spectrum(circle)["science/stitched"].flux, found["science/stitched"].flux, rtol=1e-4
    )
    edge = SkyCoord(*(float(cube[name][8, 9]) for name in ("ra", "dec")), unit="deg")
    with pytest.warns(mx.MrsxrWarning) as told:
        assert "stitched" not in tree.mrs.spectrum(edge, 0.1)["science"]
    assert any("outside of the cubes of 4B" in str(one.message) for one in told)
    assert other.sizes["x"] == 10
    for where, text in ((place, "needs a radius"), ("icrs; circle(339.0)", "region"), ("nowhere", "holds no region")):
        with pytest.raises(mx.MrsxrError, match=text):
            tree.mrs.spectrum(where)
    with pytest.raises(mx.MrsxrError, match="none of the 2 cubes"):
        tree.mrs.spectrum((10.0, 10.0), 1.0)


def test_plot_zooms_in_on_a_line(tree):
    from matplotlib import pyplot

    spectrum = tree.mrs.spectrum(tree.mrs.sky["/science/4A"].centre, 1.0)
    low, high = mx.lines.line_range("[S III]", redshift=Z)
    for ax in (
        spectrum.mrs.plot(zoom="[S III]", redshift=Z),
        spectrum["science/4A"].to_dataset().mrs.plot(zoom="SIII", redshift=Z),
    ):
        assert low - 0.02 < ax.get_xlim()[0] < low + 0.01
        assert high - 0.01 < ax.get_xlim()[1] < high + 0.02
    ax = tree.mrs.position_velocity(S_III, center=tree.mrs.sky["/science/4A"].centre, z=Z).mrs.plot()
    assert ax.get_xlabel() == "Velocity [km s⁻¹]"
    assert "18.71" in ax.get_title("left")
    pyplot.close("all")
