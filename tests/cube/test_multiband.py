"""Cubes of several bands: axes, overlaps, which blocks depend on what, and the same numbers as band by band."""

import json

import dask
import numpy as np
import pytest
import xarray as xr
from dask.optimization import cull
from helpers import no_compute
from simulated import cal_of

from mrsxr import schema
from mrsxr.cube import _blocks as blocks
from mrsxr.cube import build_cube, build_exposure_cubes, build_multiband_cube
from mrsxr.cube._layout import band_cuts, band_of_planes, native_planes, table_planes
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.io import load, open_observation, save
from mrsxr.simulate import Scene
from mrsxr.step import read_history

RA, DEC = 339.015, 33.976
SMALL = {"spaxel_size": 0.4, "shape": (15, 15)}
COARSE = {"wavelength_axis": "linear", "wavelength_step": 0.02, **SMALL}


def sky(wavelength):
    return 10.0 + 2.0 * np.asarray(wavelength)


@pytest.fixture(scope="module")
def whole_cals():
    """One dither of 12A and two of 12B, on a smooth sky."""
    scene, out = Scene(RA, DEC, background=sky), []
    for visit, (setting, n) in enumerate({"12A": 1, "12B": 2}.items()):
        ds = cal_of(scene, setting, [(0.1, 0.05), (-0.1, -0.04)][:n])
        names = [f"jw02732004001_0210{visit + 1}_{i + 1:05d}_mirifushort" for i in range(n)]
        out.append(ds.assign_coords(exposure=("dither", names)))
    return out


@pytest.fixture(scope="module")
def cals(whole_cals):
    """Every eighth row, which is enough for planes of 0.02 um."""
    return [ds.isel(y=slice(None, None, 8)) for ds in whole_cals]


def test_channels_of_a_smooth_sky(cals):
    cube = build_multiband_cube(cals, bands="1", **COARSE)
    schema.validate(cube)
    assert cube.attrs["band"] == "1A 1B"
    assert cube.attrs["channels"] == "1"
    assert len(cube.attrs["exposures"]) == 3
    good = cube.dq.values == 0
    truth = np.broadcast_to(sky(cube.wavelength.values)[:, None, None], good.shape)
    middle = (cube.wavelength.values > 4.95) & (cube.wavelength.values < 6.55)
    assert good[middle].mean() > 0.2
    np.testing.assert_allclose(cube.flux.values[middle][good[middle]], truth[middle][good[middle]], rtol=2e-3)
    overlap = (cube.wavelength > 5.67) & (cube.wavelength < 5.73)
    alone = (cube.wavelength > 5.5) & (cube.wavelength < 5.6)
    centre = cube.weight.sel(x=0, y=0, method="nearest")
    assert float(centre[overlap].mean()) > 2 * float(centre[alone].mean())  # one dither there, three here
    assert cube.band.values.tolist() == np.where(cube.wavelength < 5.70, "1A", "1B").tolist()


def test_every_band_deposits_into_the_same_planes(cals):
    """In the overlap the cube is the weighted mean of those of the bands on the same grid."""
    cube = build_multiband_cube(cals, bands=["1A", "1B"], incomplete_threshold=None, **COARSE)
    grid = CubeGrid.of(cube)
    one, two = (
        build_cube(ds, band=band, grid=grid, incomplete_threshold=None)
        for ds, band in zip(cals, ("1A", "1B"), strict=True)
    )
    np.testing.assert_array_equal(cube.weight, one.weight + two.weight)
    only = (one.dq == 0) & (two.dq != 0)
    assert int(only.sum()) > 100
    np.testing.assert_array_equal(cube.flux.values[only.values], one.flux.values[only.values])
    np.testing.assert_array_equal(cube["var"].values[only.values], one["var"].values[only.values])
    both = ((one.dq == 0) & (two.dq == 0)).values
    assert both.sum() > 20
    low, high = (f(one.flux.values[both], two.flux.values[both]) for f in (np.minimum, np.maximum))
    assert ((cube.flux.values[both] >= low * (1 - 1e-6)) & (cube.flux.values[both] <= high * (1 + 1e-6))).all()
    assert (cube["var"].values[both] < np.maximum(one["var"].values[both], two["var"].values[both])).all()


def test_numbers_of_numpy_stand_in_the_history_as_those_of_python(cals):
    cube = build_multiband_cube(lazy(cals[:1]), **SMALL | {"incomplete_threshold": np.float32(0.5)})
    assert read_history(cube)[-1]["params"]["incomplete_threshold"] == 0.5


def test_native_axis_has_the_step_of_each_band(cals):
    cube = build_multiband_cube(lazy(cals[:1]), **SMALL)
    step = cube.wavelength_width
    np.testing.assert_allclose(step[cube.band == "1A"], 0.0008, rtol=1e-9)
    np.testing.assert_allclose(step[cube.band == "2A"], 0.0013, rtol=1e-9)
    planes = CubeGrid.of(cube).planes
    gaps = planes[0, 1:] - planes[1, :-1]
    assert np.sum(gaps > 1e-6) == 1  # 1A and 2A do not meet
    np.testing.assert_allclose(gaps[gaps < 1e-6], 0, atol=1e-9)
    assert not (planes[0] > 5.75).all()
    assert cube.attrs["channels"] == "12"


def test_native_planes_are_cut_in_the_middle_of_overlaps():
    facts = {"1A": {"step": 0.1, "low": 1.0, "high": 2.0}, "1B": {"step": 0.25, "low": 1.6, "high": 3.0}}
    centres, widths = native_planes(facts, 1.0, 3.0)
    edges = np.append(centres - widths / 2, centres[-1] + widths[-1] / 2)
    np.testing.assert_allclose(edges[:9], np.arange(9) * 0.1 + 1.0)
    np.testing.assert_allclose(np.diff(edges)[8:], 0.25)
    assert edges[-1] == pytest.approx(3.05)
    np.testing.assert_allclose(edges[1:-1], centres[:-1] + widths[:-1] / 2)
    labels = band_of_planes(centres, {band: (f["low"], f["high"]) for band, f in facts.items()})
    assert labels.tolist() == ["1A"] * 8 + ["1B"] * 5
    order, cuts = band_cuts({"2A": (7.5, 8.8), "1A": (4.9, 5.7), "1B": (5.6, 6.6)})
    assert order == ["1A", "1B", "2A"]
    np.testing.assert_allclose(cuts, [5.65, 7.05])


def test_planes_of_a_table_as_jwst_takes_them():
    table = np.array([4.9, 5.0, 5.2, 5.5, 5.9])
    centres, widths = table_planes(table, 5.05, 5.45)
    assert centres.tolist() == [5.0, 5.2, 5.5]
    np.testing.assert_allclose(widths, [0.2, 0.3, 0.3])
    centres, _ = table_planes(table, 5.15, 5.55)
    assert centres.tolist() == [5.0, 5.2, 5.5, 5.9]
    with pytest.raises(MrsxrError, match="expected two"):
        table_planes(table[:1], 4.9, 5.0)


def lazy(cals):
    return [ds.chunk(dither=1, y=-1, x=-1) for ds in cals]


def test_blocks_depend_on_the_bands_that_reach_them(cals):
    with no_compute():
        cube = build_multiband_cube(lazy(cals), incomplete_threshold=None, planes_per_block=10, **COARSE)
    for k, (wanted, absent) in {0: ("1A", "1B 2A 2B"), -1: ("2B", "1A 1B 2A")}.items():
        graph = cube.flux.data.blocks[k].__dask_graph__()
        needed, _ = cull(dict(graph), cube.flux.data.blocks[k].__dask_keys__())
        gathered = sum("gather_pixels" in str(key) for key in needed)
        assert gathered == (1 if wanted == "1A" else 2), (wanted, absent)


def test_the_same_bits_chunked_held_or_counted_twice(cals, monkeypatch):
    whole = build_multiband_cube(cals, bands="1", **COARSE)
    parts = build_multiband_cube(lazy(cals), bands="1", planes_per_block=7, **COARSE)
    xr.testing.assert_identical(whole.drop_attrs(), parts.compute().drop_attrs())
    monkeypatch.setattr(blocks, "HOLD_BYTES", 0)
    again = build_multiband_cube(lazy(cals), bands="1", planes_per_block=7, **COARSE)
    assert any("count_planes" in str(key) for key in again.__dask_graph__())
    order = []
    for name in ("incomplete_planes", "drizzle_planes"):
        monkeypatch.setattr(blocks, name, follow(getattr(blocks, name), order))
    rebuilt = build_multiband_cube(lazy(cals), bands="1", planes_per_block=7, **COARSE).compute()
    xr.testing.assert_identical(whole.drop_attrs(), rebuilt.drop_attrs())
    assert len(order) > 3
    assert order[0] == "incomplete_planes"  # no block is made, and held, before all are counted
    assert set(order[1:]) == {"drizzle_planes"}


def follow(function, order):
    """Return the function; its calls are noted."""

    def called(*arguments):
        order.append(function.__name__)
        return function(*arguments)

    return called


def test_incomplete_planes_are_those_of_few_spaxels():
    counts = [np.full(50, 10), np.full(50, 100)]
    counts[0][4], counts[1][8] = 5, 60
    assert np.flatnonzero(blocks.incomplete_planes(counts, 0.75)).tolist() == [4]


@pytest.mark.parametrize("axis", ["native", "linear"])
@pytest.mark.parametrize("name", ["cube.nc", "cube.zarr", "cube_s3d.fits"])
def test_saved_and_loaded(cals, tmp_path, axis, name):
    options = {"bands": "1", **SMALL, "wavelength_axis": axis}
    options |= {"wavelength_step": 0.02} if axis == "linear" else {"wavelength_min": 5.6, "wavelength_max": 5.8}
    cube = build_multiband_cube(lazy(cals), **options)
    save(cube, tmp_path / name)
    back = load(tmp_path / name).compute()
    np.testing.assert_allclose(back.wavelength, cube.wavelength, rtol=1e-12)
    np.testing.assert_array_equal(back.flux, cube.flux)
    assert back.band.values.tolist() == cube.band.values.tolist()
    ours, theirs = CubeGrid.of(cube), CubeGrid.of(back)
    np.testing.assert_allclose(theirs.planes, ours.planes, rtol=1e-12)
    assert theirs.spaxel_size == pytest.approx(ours.spaxel_size, rel=1e-12)
    cut = CubeGrid.of(back.isel(wavelength=slice(3, 9), x=slice(2, None)))
    np.testing.assert_allclose(cut.planes, ours.planes[:, 3:9], rtol=1e-12)
    assert cut.nx == ours.nx - 2


def test_a_tree_and_an_association(cals, whole_cals, tmp_path):
    """The nodes of a tree count, but for those of a background."""
    tree = xr.DataTree.from_dict({"/science/12A": cals[0], "/science/12B": cals[1], "/background/12A": cals[0]})
    from_tree = build_multiband_cube(tree, bands="1", **COARSE)
    from_list = build_multiband_cube(cals, bands="1", **COARSE)
    xr.testing.assert_identical(from_tree.drop_attrs(), from_list.drop_attrs())
    names = [path.name for ds in whole_cals for path in save(ds.isel(dither=[0]), tmp_path)]
    members = [{"expname": name, "exptype": "science"} for name in names]
    products = [{"name": "made", "members": members}]
    (tmp_path / "asn.json").write_text(json.dumps({"asn_type": "spec3", "products": products}))
    opened = build_multiband_cube(open_observation(tmp_path / "asn.json"), bands="1", **COARSE)
    assert dask.is_dask_collection(opened.flux.data)
    assert opened.attrs["band"] == "1A 1B"
    plane = opened.flux.isel(wavelength=[20]).compute()
    assert float(plane.max()) == pytest.approx(float(sky(plane.wavelength[0])), rel=2e-3)


def test_exposure_cubes_share_a_grid(cals):
    cubes = build_exposure_cubes(cals[1], band="1B", **SMALL, wavelength_step=0.02)
    assert list(cubes) == [str(name) for name in cals[1].exposure.values]
    grids = [CubeGrid.of(cube) for cube in cubes.values()]
    assert grids[0] == grids[1]
    both = build_cube(cals[1], band="1B", grid=grids[0], incomplete_threshold=None)
    again = build_exposure_cubes(cals[1], band="1B", grid=grids[0], incomplete_threshold=None)
    np.testing.assert_array_equal(sum(cube.weight for cube in again.values()), both.weight)
    own = build_exposure_cubes(cals[1], band="1B", common_grid=False, wavelength_step=0.02, spaxel_size=0.4)
    first, second = own.values()
    assert CubeGrid.of(first).crval != CubeGrid.of(second).crval


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bands": "3"}, "no data of band or channel 3"),
        ({"bands": ["5A"]}, "'5A' is no band or channel"),
        ({"wavelength_axis": "log"}, "wavelength_axis is 'log'"),
        ({"wavelength_axis": "table"}, "MULTICHANNEL_DRIZ"),
        ({"weighting": "msm"}, "weighting is 'msm'"),
        ({"exposure_weights": "snr"}, "exposure_weights is 'snr'"),
        ({"wavelength_min": 9.9, "wavelength_max": 4.0}, "make no grid"),
    ],
)
def test_wrong_parameters_are_named(cals, options, text):
    with pytest.raises(MrsxrError, match=text):
        build_multiband_cube(cals, **options)


def test_wrong_data_are_named(cals):
    with pytest.raises(LevelError, match="needs data of level cal"):
        build_multiband_cube([cals[0].assign_attrs(level="rate")])
    with pytest.raises(MrsxrError, match="no science data"):
        build_multiband_cube(xr.DataTree.from_dict({"/background/12A": cals[0]}))
