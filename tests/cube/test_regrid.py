"""Cubes and maps on the spaxels of another cube."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers import no_compute
from made_sky import DEC, RA, cube_of, from_flux, grid_of, star

from mrsxr import schema
from mrsxr.cube.resample import regrid
from mrsxr.errors import MrsxrError
from mrsxr.geometry.index import CelestialIndex, attach_index
from mrsxr.geometry.overlap import overlaps, same_sky, sky_of
from mrsxr.step import read_history

OTHER = {"scale": 0.2, "angle": 33.0, "centre": (RA + 1e-4, DEC - 5e-5)}


def test_light_lands_where_it_belongs_and_none_is_lost():
    cube = cube_of(star(0.9), grid_of((31, 33), nz=2))
    like = cube_of(star(0.9), grid_of((81, 83), nz=1, **OTHER))
    out = regrid(cube, like)
    schema.validate(out)
    assert out.flux.shape == (2, 81, 83)
    total = [float(c.flux[0].sum()) * c.attrs["pixel_scale"] ** 2 for c in (cube, out)]
    assert total[1] == pytest.approx(total[0], rel=1e-5)
    assert total[0] == pytest.approx(400.0, rel=1e-3)
    for name, zero in (("ra", RA), ("dec", DEC)):
        where = [float(((c[name] - zero) * c.flux[0]).sum() / c.flux[0].sum()) for c in (cube, out)]
        assert where[1] == pytest.approx(where[0], abs=0.001 / 3600)
    np.testing.assert_allclose(out.ra, like.ra)
    assert isinstance(out.xindexes["ra"], CelestialIndex)
    there = out.sel(ra=RA, dec=DEC)
    assert float(there.flux[0]) > 0.7 * float(out.flux[0].max())
    assert out.attrs["wcs"] == like.attrs["wcs"]
    assert out.attrs["pixel_scale"] == 0.2
    assert read_history(out)[-1]["step"] == "cube.regrid"


def test_overlaps_against_many_points():
    """Shares of 300 x 300 points of each new spaxel in the old ones."""
    a, b = grid_of((5, 6)), grid_of((4, 5), **OTHER | {"scale": 0.5})
    source, target = (sky_of(from_flux(np.zeros(g.shape, "f4"), g)) for g in (a, b))
    matrix, area = overlaps(source, (5, 6), target, (4, 5))
    n = 300
    steps = (np.arange(n) + 0.5) / n - 0.5
    wanted = np.zeros((20, 30))
    for k, (j, i) in enumerate(np.ndindex(4, 5)):
        x, y = (v.ravel() for v in np.meshgrid(i + steps, j + steps))
        px, py = np.rint(source.wcs_world2pix(*target.wcs_pix2world(x, y, 0), 0)).astype(int)
        ok = (px >= 0) & (px < 6) & (py >= 0) & (py < 5)
        np.add.at(wanted[k], py[ok] * 6 + px[ok], (0.5 / 0.35) ** 2 / n**2)
    np.testing.assert_allclose(matrix.toarray(), wanted, atol=0.01)
    np.testing.assert_allclose(area, (0.5 / 0.35) ** 2, rtol=1e-6)


def maps_of(grid):
    """Return line maps, as of a fit, of a star in surface brightness."""
    cube = cube_of(star(1.2), grid)
    flux = 1e-18 * cube.flux[0].values.astype(float) * grid.spaxel_size**2
    dims = ("line", "y", "x")
    flags = {"units": "1", "flag_masks": [1, 2, 4], "flag_meanings": "low bound failed"}
    y, x = np.indices(flux.shape)
    data = {
        "flux": (dims, flux[None], {"units": "W m-2"}),
        "flux_err": (dims, 0.1 * flux[None] + 1e-20, {"units": "W m-2"}),
        "velocity": (dims, (20.0 * cube.x.values + 0 * flux)[None], {"units": "km/s"}),
        "snr": (dims, (flux / (0.1 * flux + 1e-20))[None], {"units": "1"}),
        "fit_flags": (dims, ((x > 10) * 4 + (y > 10) * 1).astype("u1")[None], flags),
        "n_components": (dims, (1 + (x > 12)).astype("i1")[None], {"units": "1"}),
    }
    attrs = {"level": "lines", "wcs": cube.attrs["wcs"], "pixel_scale": grid.spaxel_size, "redshift": 0.016}
    coords = {"y": cube.y.variable, "x": cube.x.variable, "line": ["[S III] 18.71"]}
    return attach_index(xr.Dataset(data, coords, attrs))


def test_line_maps():
    maps = maps_of(grid_of((25, 27)))
    like = cube_of(star(1.0), grid_of((30, 31), nz=1, **OTHER | {"scale": 0.3}))
    out = regrid(maps, like)
    assert out.attrs["level"] == "lines"
    assert float(out.flux.sum()) == pytest.approx(float(maps.flux.sum()), rel=3e-3)
    inside = np.hypot(out.x, out.y).transpose("y", "x") < 2.5
    np.testing.assert_allclose(out.snr, out.flux / out.flux_err)
    # north up on both grids but for 33 degrees: the velocity is that of the place on the sky
    east = (maps.ra - RA) * np.cos(np.deg2rad(DEC)) * 3600
    slope = np.polyfit(east.values.ravel(), maps.velocity.values.ravel(), 1)[0]
    here = ((out.ra - RA) * np.cos(np.deg2rad(DEC)) * 3600).values[inside]
    np.testing.assert_allclose(out.velocity[0].values[inside], slope * here, atol=0.6)
    assert out.fit_flags.dtype == np.uint8
    assert set(np.unique(out.fit_flags)) == {0, 1, 4, 5}
    assert set(np.unique(out.n_components.values[0][inside])) == {1, 2}
    assert (out.n_components[0].values[np.isnan(out.flux[0].values)] != 2).any()


def test_uniform_light_and_its_variance():
    cube = cube_of(lambda e, n, w: 7.0 + 0 * e, grid_of((21, 21), nz=1), var=4.0)
    cube["var_systematic"] = (0 * cube["var"] + 0.25).assign_attrs(cube["var"].attrs)
    twice = regrid(cube, from_flux(np.zeros((1, 8, 8), "f4"), grid_of((8, 8), scale=0.7, nz=1)))
    np.testing.assert_allclose(twice.flux, 7.0, rtol=1e-5)
    sixteen = from_flux(np.zeros((1, 7, 7), "f4"), grid_of((7, 7), scale=1.05, nz=1))
    out = regrid(cube, sixteen)
    np.testing.assert_allclose(out["var"], 4.0 / 9, rtol=1e-5)  # three spaxels a side, in line with the old ones
    np.testing.assert_allclose(out["var_systematic"], 0.25, rtol=1e-5)


def test_edges_holes_and_flags():
    cube = cube_of(lambda e, n, w: 7.0 + 0 * e, grid_of((9, 9), nz=2))
    cube.flux[0, 4, 4] = np.nan
    cube.dq[0, 4, 4] = 1
    cube.flux[1, 2, 2] = 1e9
    cube.dq[1, 2, 2] = 1
    cube.dq[1, 6, 6] = 4
    like = from_flux(np.zeros((2, 25, 25), "f4"), grid_of((25, 25), scale=0.175, nz=2))
    out = regrid(cube, like)
    seen = np.isfinite(out.flux.values)
    np.testing.assert_allclose(out.flux.values[seen], 7.0, rtol=1e-6)
    bad = (out.dq.values & 1).astype(bool)
    np.testing.assert_array_equal(bad, ~seen)
    assert out.dq[0, 0, 0] == 513
    assert out.dq[0, 12, 12] == 1
    assert (out.dq[1].values == 4).any()
    assert (~seen[0]).sum() > (~seen[0, 5:20, 5:20]).sum() > 0
    strict, loose = (np.isfinite(regrid(cube, like, min_coverage=c).flux).sum() for c in (1.0, 0.01))
    assert strict < seen.sum() <= loose


@pytest.mark.parametrize("sizes", [{"wavelength": 2}, {"wavelength": 3, "y": 5, "x": 4}])
def test_lazy_equals_eager(sizes):
    cube = cube_of(star(0.9), grid_of((11, 12), nz=5))
    like = cube_of(star(0.9), grid_of((20, 21), nz=1, **OTHER))
    lazy = cube.assign({name: cube[name].chunk(sizes) for name in cube.data_vars})
    with no_compute():
        out = regrid(lazy, like)
    assert isinstance(out.flux.data, da.Array)
    xr.testing.assert_identical(out.compute(), regrid(cube, like))


def test_same_grid_is_left_alone_and_cut_grids_are_known():
    cube = cube_of(star(0.9), grid_of((11, 12), nz=2))
    again = regrid(cube, cube.isel(wavelength=[0]))
    np.testing.assert_array_equal(again.flux, cube.flux)
    cut = cube.isel(y=slice(2, 9), x=slice(1, 8))
    assert not same_sky(cube, cut)
    assert same_sky(cut, regrid(cube, cut))
    np.testing.assert_allclose(regrid(cube, cut).flux, cut.flux, rtol=1e-5)
    plain = cut.drop_vars(["ra", "dec"])
    np.testing.assert_allclose(sky_of(plain).wcs.crpix, sky_of(cut).wcs.crpix)


def test_wrong_partners_are_told():
    cube = cube_of(star(0.9), grid_of((7, 7), nz=1))
    far = cube_of(star(0.9), grid_of((7, 7), nz=1, centre=(RA + 0.1, DEC)))
    with pytest.raises(MrsxrError, match="do not overlap"):
        regrid(cube, far)
    with pytest.raises(MrsxrError, match="no attribute 'wcs'"):
        regrid(cube, cube.drop_vars(["ra", "dec"]).drop_attrs(deep=False))
    with pytest.raises(MrsxrError, match="min_coverage is 3"):
        regrid(cube, far, min_coverage=3)
    with pytest.raises(MrsxrError, match=r"expected spaxels on \(y, x\)"):
        regrid(cube.isel(y=0).drop_vars(["ra", "dec"]), far)
