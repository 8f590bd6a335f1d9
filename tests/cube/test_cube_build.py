"""Cube building on a small detector of six straight slices, and on the real geometry."""

import json
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import assert_step, detector_attrs, dither_coords, named, no_compute

from mrsxr import dq, schema
from mrsxr.attributes import require_undone, set_each
from mrsxr.cal import detect_outliers
from mrsxr.cube import build_cube
from mrsxr.cube._blocks import drizzle_planes, incomplete_planes
from mrsxr.cube._layout import BandData
from mrsxr.errors import LevelError, MrsxrError, MrsxrWarning
from mrsxr.geometry.detector import detector_to_slicer, slicer_grid
from mrsxr.geometry.footprint import slice_ranges
from mrsxr.geometry.frame import FrameModel
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.operator import Weighting
from mrsxr.geometry.pixels import Frame, gather_pixels, placement, select_pixels, slice_edges
from mrsxr.geometry.sky import Pointing, slicer_to_sky
from mrsxr.references.distortion import read_distortion, read_specwcs

N_SLICES, N_X, N_Y, WIDTH = 6, 126, 40, 0.18
LIMITS = {"wavelength_min": 5.0, "wavelength_max": 5.03}


def wcs_model():
    """Slices 101 .. 106 of 19 columns each, slightly tilted and curved, turned by 30 degrees in V2, V3."""
    labels = np.arange(101, 101 + N_SLICES).astype("i2")
    alpha = np.zeros((N_SLICES, 3, 3))
    alpha[:, 0, 1], alpha[:, 1, 0], alpha[:, 0, 2] = 0.19, 0.0004, 1e-5
    wave = np.zeros((N_SLICES, 3, 3))
    wave[:, 0, 0], wave[:, 1, 0], wave[:, 0, 1], wave[:, 2, 0] = 4.999, 8.3e-4, 2e-5, 1e-8
    centre = 11.0 + 21 * np.arange(N_SLICES)
    v2, v3 = np.zeros((1, 3, 3)), np.zeros((1, 3, 3))
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    v2[0, 0, 0], v2[0, 1, 0], v2[0, 0, 1], v2[0, 2, 0] = -503.3, c, -s, 1e-3
    v3[0, 0, 0], v3[0, 1, 0], v3[0, 0, 1] = -319.0, s, c
    arrays = {
        "alpha_coefficients": alpha, "alpha_x_shift": centre, "wavelength_coefficients": wave,
        "wavelength_x_shift": centre, "slice_beta": (np.arange(N_SLICES) - 2.5) * WIDTH,
        "slice_width": np.array([WIDTH]), "v2_coefficients": v2, "v3_coefficients": v3,
    }  # fmt: skip
    units = {v.name: (v.dims, v.units) for v in schema.WCS_VARIABLES}
    data = {k: (units[k][0], v, {"units": units[k][1]}) for k, v in arrays.items()}
    return xr.Dataset(data, {"slice_label": labels, "band": ["1A"]})


def make_cal(n=4, chunks=None, model=None):
    """Return cal data of a constant sky of 5 MJy/sr, variance 0.04 + 0.03 + 0.02."""
    model = wcs_model() if model is None else model
    x = np.arange(N_X)
    row = np.where((x % 21 >= 2) & (x % 21 <= 20), 101 + x // 21, 0)
    label = np.broadcast_to(row, (N_Y, N_X)).astype("i2")
    yy, xx = np.mgrid[:N_Y, :N_X]
    alpha, beta, wave = detector_to_slicer(xx, yy, label, model)
    shape, dims = (n, N_Y, N_X), ("dither", "y", "x")
    flags = np.broadcast_to(np.where(label > 0, 0, dq.value("DO_NOT_USE", "NON_SCIENCE")), shape)
    values = {"flux": 5.0, "var_poisson": 0.04, "var_read": 0.03, "var_flat": 0.02}
    data = {
        k: (dims, np.where(label > 0, v, np.nan) * np.ones(shape), {"units": schema.units_of("cal", k)})
        for k, v in values.items()
    }
    data = {k: (d, v.astype("f4"), a) for k, (d, v, a) in data.items()}
    data["dq"] = (dims, flags.astype("u4"), dq.PIXEL_DQ_ATTRS)
    coords = {"y": np.arange(N_Y), "x": x, **dither_coords(n)}
    for name, value in {"slice": label, "channel": (label // 100).astype("i1")}.items():
        coords[name] = (("y", "x"), value, {"units": "1"})
    for name, value, unit in (("alpha", alpha, "arcsec"), ("beta", beta, "arcsec"), ("wavelength", wave, "um")):
        coords[name] = (("y", "x"), value, {"units": unit})
    offsets = np.array([[0, 0], [0.12, 0.05], [-0.1, 0.08], [0.05, -0.11]])[:n] / 3600
    coords["ra_ref"] = ("dither", 339.015 + offsets[:, 0] / np.cos(np.deg2rad(33.976)), {"units": "deg"})
    coords["dec_ref"] = ("dither", 33.976 + offsets[:, 1], {"units": "deg"})
    header = {"PRIMARY": {"TARG_RA": 339.015, "TARG_DEC": 33.976}, "SCI": {"SRCTYPE": "POINT"}}
    coords["fits_header"] = ("dither", np.array([json.dumps(header)] * n))
    ds = xr.Dataset(data, coords, detector_attrs("cal", "12A", 10, 1)).merge(model)
    return schema.validate(ds.chunk(chunks) if chunks else ds)


def build(ds, **options):
    return build_cube(ds, **{"band": "1A", **LIMITS, **options})


def sky_of_pixels(ds, dither):
    label = ds["slice"].values
    lit = label > 0
    ra, dec = slicer_to_sky(ds.alpha.values[lit], ds.beta.values[lit], "1A", ds, Pointing.of(ds, dither))
    out = np.full((2, *label.shape), np.nan)
    out[:, lit] = ra, dec
    return out


def test_constant_sky_gives_a_constant_cube():
    for n in (1, 4):
        cube = build(make_cal(n))
        good = cube.dq.values == 0
        assert good.mean() > 0.2
        np.testing.assert_allclose(cube.flux.values[good], 5.0, rtol=1e-6)
        assert (cube.weight.values[good] > 0).all()
        assert (cube["var"].values[good] > 0).all()
        assert (cube["var"].values[good] <= 0.09 * (1 + 1e-6)).all()
        assert np.isnan(cube.flux.values[~good]).all()
        assert (cube.dq.values[~good] == 513).all()


def test_variance_falls_with_the_number_of_dithers():
    ds = named(make_cal(4).isel(dither=[0, 0, 0, 0]), 4)
    one, four = build(ds.isel(dither=[0])), build(ds)
    np.testing.assert_allclose(four["var"] * 4, one["var"], rtol=1e-5)
    np.testing.assert_array_equal(four.weight, 4 * one.weight)
    np.testing.assert_allclose(four.flux, one.flux, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 4])
def test_flux_of_a_source_is_conserved_and_lies_where_it_should(n):
    ds = make_cal(n)
    ra0, dec0, sigma = 339.015 + 0.04 / 3600, 33.976 - 0.03 / 3600, 0.13
    flux = ds.flux.values.copy()
    for i in range(n):
        ra, dec = sky_of_pixels(ds, i)
        distance = np.hypot((ra - ra0) * np.cos(np.deg2rad(dec0)), dec - dec0) * 3600
        flux[i] = 100 * np.exp(-0.5 * (distance / sigma) ** 2)
    cube = build(ds.assign(flux=ds.flux.copy(data=flux.astype("f4"))), wavelength_min=5.004, wavelength_max=5.024)
    image = cube.flux.astype("f8").mean("wavelength").fillna(0.0)
    assert float(image.sum()) * 0.13**2 == pytest.approx(200 * np.pi * sigma**2, rel=3e-3)
    weight = image / image.sum()
    assert float((weight * cube.ra).sum()) == pytest.approx(ra0, abs=0.01 / 3600)
    assert float((weight * cube.dec).sum()) == pytest.approx(dec0, abs=0.01 / 3600)
    place = image.argmax(["y", "x"])
    assert abs(float(cube.ra[place]) - ra0) < 0.13 / 3600
    assert abs(float(cube.dec[place]) - dec0) < 0.13 / 3600


def noisy(n=4):
    ds = make_cal(n)
    rng = np.random.default_rng(7)
    bad = rng.random(ds.dq.shape) < 0.03
    flux = ds.flux.values + rng.normal(0, 1, ds.flux.shape).astype("f4")
    return ds.assign(flux=ds.flux.copy(data=flux), dq=ds.dq | bad.astype("u4"))


def test_lazy_pure_recorded_in_the_schema():
    out = assert_step(build_cube, noisy(2), band="1A", **LIMITS)
    assert out.attrs["level"] == "cube"
    assert out.attrs["band"] == "1A"
    assert out.attrs["channels"] == "1"
    assert out.attrs["source_type"] == "POINT"
    assert (out.attrs["target_ra"], out.attrs["target_dec"]) == (339.015, 33.976)
    assert len(out.attrs["exposures"]) == 2
    assert CubeGrid.of(out).spaxel_size == pytest.approx(0.13)


def test_a_mixed_set_of_exposures_says_so():
    """Marks of a cube are the part of the exposures that had a step; those without it are named."""
    ds = make_cal(3).assign_attrs(fringe_flat=1)
    ds = set_each(ds, "master_background", [1, 0, 1])
    with pytest.warns(MrsxrWarning, match=f"not subtracted in {ds.exposure.values[1]}, but in the other"):
        cube = build(ds)
    assert cube.attrs["master_background"] == pytest.approx(2 / 3)
    assert (cube.attrs["fringe_flat"], "field_background" in cube.attrs) == (1, False)
    with pytest.raises(MrsxrError, match=r"band 1A: .* subtracted already in some of the exposures"):
        require_undone(cube, "master_background")


def test_solid_angle_is_that_of_the_spaxel_not_of_the_detector():
    detector = {"pixar_sr": 8.35e-13, "pixar_a2": 0.0355}  # as photom leaves them
    out = build(noisy(1).assign_attrs(detector))
    assert out.attrs["pixar_a2"] == pytest.approx(0.13**2)
    assert out.attrs["pixar_sr"] == pytest.approx(0.13**2 * 2.3504430539e-11)


def test_blocks_of_seven_planes_give_the_same_bits():
    ds = noisy()
    whole = build(ds, planes_per_block=1000)
    with no_compute():
        lazy = build(ds.chunk(dither=1, y=13), planes_per_block=7)
    assert set(lazy.flux.chunks[0][:-1]) == {7}
    assert len(lazy.__dask_graph__()) < 1000
    xr.testing.assert_identical(whole.drop_attrs(), lazy.compute().drop_attrs())


def test_detector_frames_enter_the_graph_once():
    lazy = build(make_cal(4).chunk(dither=1), planes_per_block=4)
    gathered = [key for key in lazy.__dask_graph__() if "gather_pixels" in str(key)]
    assert len(gathered) == 4


def test_eight_threads_agree():
    lazy = build(noisy().chunk(dither=1), planes_per_block=5)
    with dask.config.set(scheduler="synchronous"):
        alone = lazy.compute()
    with dask.config.set(scheduler="threads", pool=ThreadPoolExecutor(8)):
        for _ in range(3):
            xr.testing.assert_identical(alone, lazy.compute())


def test_the_order_of_the_dithers_does_not_matter():
    ds = noisy()
    grid = CubeGrid.of(build(ds))
    a, b = build(ds, grid=grid), build(ds.isel(dither=[2, 0, 3, 1]), grid=grid)
    for name in ("flux", "var"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5)
    np.testing.assert_array_equal(a.weight, b.weight)
    np.testing.assert_array_equal(a.dq, b.dq)


@pytest.mark.parametrize("how", ["flag", "value", "variance"])
def test_unusable_pixels_leave_flagged_holes(how):
    ds = make_cal(1)
    box = np.s_[0, 8:28, 45:58]
    before = build(ds, incomplete_threshold=None)
    name = {"flag": "dq", "value": "flux", "variance": "var_read"}[how]
    values = ds[name].values.copy()
    values[box] = 1 if how == "flag" else np.nan
    cube = build(ds.assign({name: ds[name].copy(data=values)}), incomplete_threshold=None)
    hole = cube.dq.values == 1
    assert hole.sum() > 50
    assert (before.dq.values[hole] == 0).all()
    assert np.isnan(cube.flux.values[hole]).all()
    assert (cube.weight.values[hole] == 0).all()
    np.testing.assert_allclose(cube.flux.values[cube.dq.values == 0], 5.0, rtol=1e-6)


@pytest.mark.parametrize("weighting", ["drizzle", "emsm"])
def test_voxels_that_lack_the_light_of_saturated_pixels_say_so(weighting):
    """Neighbours fill the voxels beside a hole: their numbers are too small, and only the flag tells."""
    ds = make_cal()
    options = {"weighting": weighting, "cubepar": emsm_table()} if weighting == "emsm" else {}
    before = build(ds, **options)
    y, x = ds.sizes["y"] // 2, int(np.flatnonzero(ds.channel.values[ds.sizes["y"] // 2] == 1)[40])
    spoiled = ds.copy(deep=True)
    spoiled.flux.values[0, y - 1 : y + 2, x - 1 : x + 2] = np.nan
    spoiled.dq.values[0, y - 1 : y + 2, x - 1 : x + 2] |= dq.DO_NOT_USE | dq.SATURATED
    after = build(spoiled, **options)
    told = (after.dq.values & dq.SATURATED) != 0
    changed = np.isfinite(before.flux.values) & (after.weight.values != before.weight.values)
    assert changed.sum() > 10
    np.testing.assert_array_equal(told & changed, changed)
    assert told.sum() < 3 * changed.sum()
    assert (np.isfinite(after.flux.values) & told).any()  # filled by the other dithers
    partly = ds.copy(deep=True)
    partly.dq.values[0, y, x] |= dq.SATURATED  # a part of the ramp: the slope is good
    assert not (build(partly, **options).dq.values & dq.SATURATED).any()


def test_non_science_pixels_are_no_part_of_the_field():
    ds = make_cal(1)
    flags = ds.dq.values.copy()
    flags[:, :, :63] |= dq.NON_SCIENCE
    cube = build(ds.assign(dq=ds.dq.copy(data=flags)), incomplete_threshold=None)
    assert set(np.unique(cube.dq)) == {0, 513}
    assert int((cube.dq == 0).sum()) < 0.7 * int((build(ds, incomplete_threshold=None).dq == 0).sum())


def test_nothing_usable_gives_an_empty_flagged_cube():
    ds = make_cal(1)
    cube = build(ds.assign(dq=ds.dq | np.uint32(1)))
    assert np.isnan(cube.flux).all()
    assert not cube.weight.any()
    assert (cube.dq > 0).all()


def test_incomplete_planes_are_blanked():
    incomplete = incomplete_planes([np.array([0, 3, 100, 100]), np.array([90, 70, 100, 99])], 0.75)
    assert incomplete.tolist() == [False, True, False, False, False, False, False, False]
    assert not incomplete_planes([np.zeros(4, int)], 0.75).any()


def test_incomplete_planes_of_a_cube():
    """One slice in six keeps only its first rows: the planes that lose it are few enough to count as incomplete."""
    ds = make_cal(2)
    flags = ds.dq.values.copy()
    flags[:, 30:, :105] |= 1
    ds = ds.assign(dq=ds.dq.copy(data=flags))
    low, high = 5.004, 5.026
    kept = build(ds, incomplete_threshold=None, wavelength_min=low, wavelength_max=high)
    cut = build(ds, wavelength_min=low, wavelength_max=high, incomplete_threshold=1.5)
    count = (kept.dq == 0).sum(["y", "x"]).values
    limit = 1.5 * np.percentile(count[count > 0], 3)
    incomplete = (count > 0) & (count < limit)
    assert 0 < incomplete.sum() < len(incomplete)
    assert np.isnan(cut.flux[incomplete]).all()
    assert (cut.dq[incomplete] == 513).all()
    assert not cut.weight[incomplete].any()
    xr.testing.assert_identical(cut.flux[~incomplete].variable, kept.flux[~incomplete].variable)


def test_wavelengths_are_barycentric():
    ds = make_cal(2)
    wave = ds.wavelength.values
    line = np.exp(-0.5 * ((wave - 5.015) / 0.002) ** 2).astype("f4")
    ds = ds.assign(flux=ds.flux.copy(data=np.broadcast_to(line, ds.flux.shape).copy()))
    centres = []
    for speed in (np.nan, 60000.0):
        moved = ds.assign_coords(velosys=ds.velosys.copy(data=np.full(2, speed)))
        spectrum = build(moved).flux.sel(x=slice(-0.2, 0.2), y=slice(-0.2, 0.2)).mean(["y", "x"])
        centres.append(float((spectrum * spectrum.wavelength).sum() / spectrum.sum()))
    assert centres[0] == pytest.approx(5.015, abs=3e-5)
    assert centres[1] - centres[0] == pytest.approx(-5.015 * 60000 / 299792458, rel=0.02)


def test_pixels_past_the_wavelength_limits_stay_out():
    cube = build(make_cal(1), wavelength_min=4.9, wavelength_max=5.2, incomplete_threshold=None)
    filled = cube.wavelength.values[(cube.dq == 0).any(["y", "x"])]
    assert 4.995 < filled.min() < 5.0
    assert 5.03 < filled.max() < 5.035


def test_edges_of_slices_follow_the_sky_transform():
    ds = make_cal(1)
    pointing, grid = Pointing.of(ds, 0), CubeGrid.of(build(ds))
    ranges = slice_ranges(ds, np.ones(N_X, bool))
    edges, middle, half = slice_edges(ds, ranges, "1A", pointing, grid)
    alpha = np.linspace(-1.9, 1.9, 23)
    for s in range(N_SLICES):
        for e, side in enumerate((-0.5, 0.5)):
            ra, dec = slicer_to_sky(alpha, ranges.beta[s] + side * WIDTH, "1A", ds, pointing)
            x, y = grid.sky_to_pixels(ra, dec)
            t = (alpha - middle[s]) / half[s]
            np.testing.assert_allclose(np.polyval(edges[s, e, 0][::-1], t), x + 0.5, atol=1e-8)
            np.testing.assert_allclose(np.polyval(edges[s, e, 1][::-1], t), y + 0.5, atol=1e-8)


def test_grids_can_be_turned_moved_and_given():
    ds = make_cal(1)
    along = build(ds, coord_system="ifualign")
    # 6 slices of 0.18 and 19 columns of 0.19 arcsec: along the slices the field is 1.1 by 3.6 arcsec
    filled = (along.dq == 0).any("wavelength")
    rows, columns = filled.any("x").sum(), filled.any("y").sum()
    assert 8 <= int(rows) <= 11
    assert 27 <= int(columns) <= 30
    moved = build(ds, center=(339.0151, 33.9761), shape=(21, 31), position_angle=20.0, spaxel_size=0.2)
    assert dict(moved.sizes) == {"wavelength": 38, "y": 21, "x": 31}
    assert (float(moved.ra[10, 15]), float(moved.dec[10, 15])) == pytest.approx((339.0151, 33.9761), abs=1e-9)
    assert moved.attrs["pixel_scale"] == pytest.approx(0.2)
    even = build(ds, shape=(20, 30), wavelength_step=0.0021)
    assert dict(even.sizes) == {"wavelength": 15, "y": 21, "x": 31}
    np.testing.assert_allclose(np.diff(even.wavelength), 0.0021)
    again = build(ds, grid=CubeGrid.of(moved))
    np.testing.assert_allclose(again.flux, moved.flux, rtol=1e-6)


def test_cubepar_sets_the_grid():
    names = ("spaxel_size", "wavelength_step", "wavelength_min", "wavelength_max")
    table = xr.Dataset(
        {n: ("band", [v]) for n, v in zip(names, (0.1, 0.002, 5.0, 5.02), strict=True)}, {"band": ["1A"]}
    )
    cube = build_cube(make_cal(1), band="1A", cubepar=table.assign_attrs(ref_id="cubepar_made.fits"))
    assert cube.sizes["wavelength"] == 10
    assert cube.attrs["pixel_scale"] == pytest.approx(0.1)
    assert json.loads(cube.attrs["history_json"])[-1]["refs"] == {"cubepar": "cubepar_made.fits"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"band": "3B"}, "band 3B is not on setting 12A"),
        ({"band": "5A"}, "5A"),
        ({"coord_system": "internal_cal"}, "internal_cal"),
        ({"coord_system": "ifualign", "position_angle": 3.0}, "position_angle"),
        ({"spaxel_size": -1.0}, "spaxel_size is -1.0"),
        ({"wavelength_min": 6.0}, "make no grid"),
    ],
)
def test_wrong_parameters_are_named(options, text):
    with pytest.raises(MrsxrError, match=text):
        build(make_cal(1), **options)


def test_data_without_coordinates_are_refused():
    with pytest.raises(LevelError, match="run assign_wcs"):
        build(make_cal(1).drop_vars("slice_beta"))
    with pytest.raises(LevelError, match="level cal"):
        build(make_cal(1).assign_attrs(level="rate"))
    ds = make_cal(1)
    with pytest.raises(MrsxrError, match="no pixel lies in a slice"):
        build(ds.assign_coords(slice=ds["slice"] * np.int16(0)))


@pytest.mark.shared
@pytest.mark.parametrize("setting", ["12A", "34C"])
def test_constant_sky_on_the_flight_geometry(shared_data, setting):
    """Both bands of a real detector: constant, every plane of the cubepar range filled, one field, no holes."""
    root = shared_data / "coords_flt9"
    model = read_distortion(root / f"jwst_miri_mrs{setting}_distortion_flt9.asdf").drop_attrs()
    model = model.merge(read_specwcs(root / f"jwst_miri_mrs{setting}_specwcs_flt9.asdf").drop_attrs())
    with fits.open(shared_data / "regions" / f"mrs_regions_cdp8b_{setting}.fits.gz") as hdus:
        label = next(h.data for h in hdus if h.data is not None).astype("i2")
    alpha, _, _ = slicer_grid(model, label)
    dims, shape = ("dither", "y", "x"), (1, *label.shape)
    lit = np.broadcast_to(label > 0, shape)
    data = {"flux": 5.0, "var_poisson": 0.04, "var_read": 0.03, "var_flat": 0.02}
    units = {k: {"units": schema.units_of("cal", k)} for k in data}
    data = {k: (dims, np.where(lit, v, np.nan).astype("f4"), units[k]) for k, v in data.items()}
    data["dq"] = (dims, np.where(lit, 0, 513).astype("u4"))
    coords = {"y": np.arange(1024), "x": np.arange(1032), **dither_coords(1, setting)}
    coords |= {"slice": (("y", "x"), label), "alpha": (("y", "x"), alpha)}
    ds = xr.Dataset(data, coords, detector_attrs("cal", setting, 10, 1))
    ds = ds.merge(model[[v.name for v in schema.WCS_VARIABLES]])
    for band in (setting[0] + setting[2], setting[1:]):
        cube = build_cube(ds, band=band)
        good = cube.dq.values == 0
        np.testing.assert_allclose(cube.flux.values[good], 5.0, rtol=1e-6)
        assert set(np.unique(cube.dq)) == {0, 513}
        filled = good.any(axis=(1, 2))
        assert filled.mean() > 0.99
        assert good[filled].mean() > 0.3


def test_errors_common_to_all_dithers_are_not_averaged_down():
    """Two dithers and four have the same common error; the noise goes down with their number."""
    found = {}
    for n in (2, 4):
        ds = make_cal(n)
        common = ((0.03**2 + 0.04**2) * ds.flux**2).astype("f4")
        ds = ds.assign(
            var_photom=(common * np.float32(9 / 25)).assign_attrs(units="MJy2/sr2"),
            var_fringe=(common * np.float32(16 / 25)).assign_attrs(units="MJy2/sr2"),
        )
        cube = schema.validate(build(ds))
        good = cube.dq.values == 0
        np.testing.assert_allclose(np.sqrt(cube.var_systematic.values[good]), 0.05 * cube.flux.values[good], rtol=1e-5)
        assert np.isnan(cube.var_systematic.values[~good]).all()
        found[n] = float(np.median(cube["var"].values[good]))
        plain = build(ds.drop_vars(["var_photom", "var_fringe"]))
        np.testing.assert_array_equal(plain["var"], cube["var"])
    assert found[4] < 0.7 * found[2]


def emsm_table(**changes):
    values = {"spaxel_size": 0.13, "wavelength_step": 0.0008, "wavelength_min": 5.0, "wavelength_max": 5.03,
              "emsm_roi_spatial": 0.3, "emsm_roi_spectral": 0.0016, "emsm_scalerad": 0.09} | changes  # fmt: skip
    ds = xr.Dataset({k: ("band", [v]) for k, v in values.items() if v is not None}, {"band": ["1A"]})
    return ds.assign_attrs(ref_id="cubepar_made.fits")


def test_emsm_equals_the_slow_sum():
    """Every voxel of one plane against the plain sum over all pixels within the region of interest."""
    ds = noisy(2)
    cube = build_cube(ds, band="1A", cubepar=emsm_table(), weighting="emsm", incomplete_threshold=None)
    assert cube.attrs["weighting"] == "emsm"
    grid, k = CubeGrid.of(cube), 20
    spaxel, step = np.float64(np.float32(0.13)), np.float64(np.float32(0.0008))
    lit = ds["slice"].values > 0
    sums = np.zeros((3, grid.ny, grid.nx))
    for i in range(2):
        ra, dec = sky_of_pixels(ds, i)
        x, y = grid.sky_to_offsets(ra[lit], dec[lit])
        dz = (ds.wavelength.values[lit] - grid.wavelengths[k]) / step
        good = (ds.dq.values[i][lit] == 0) & np.isfinite(x)
        for p in np.flatnonzero(good & (np.abs(dz) * step <= 0.0016)):
            dx, dy = (grid.x[None, :] - x[p]) / spaxel, (grid.y[:, None] - y[p]) / spaxel
            near = np.hypot(dx, dy) * spaxel <= 0.3
            w = np.where(near, np.exp(-(dx**2 + dy**2 + dz[p] ** 2) / (0.09 / spaxel)), 0.0)
            sums += w * ds.flux.values[i][lit][p], w, w**2 * 0.09
    found = cube.isel(wavelength=k)
    filled = sums[1] > 0
    assert filled.sum() > 100
    np.testing.assert_array_equal(found.dq.values == 0, filled)
    value, weight, square = (plane[filled] for plane in sums)
    np.testing.assert_allclose(found.flux.values[filled], value / weight, rtol=1e-4)
    np.testing.assert_allclose(found["var"].values[filled], square / weight**2, rtol=1e-4)


@pytest.mark.parametrize("table", [None, {"emsm_scalerad": None}, {"emsm_roi_spatial": np.nan}])
def test_emsm_needs_its_table(table):
    with pytest.raises(MrsxrError, match="CUBEPAR_EMSM"):
        build(make_cal(1), weighting="emsm", cubepar=None if table is None else emsm_table(**table))


def test_exposure_weights():
    ds = make_cal(2)
    flux = ds.flux.values * np.array([1.0, 3.0], "f4")[:, None, None]
    variances = {n: ds[n] * np.array([1.0, 4.0], "f4")[:, None, None] for n in ("var_poisson", "var_read", "var_flat")}
    ds = ds.assign(flux=ds.flux.copy(data=flux), **variances)
    ds = ds.assign_coords({n: ds[n].copy(data=np.full(2, ds[n].values[0])) for n in ("ra_ref", "dec_ref")})
    ds = ds.assign_coords(exposure_time=ds.exposure_time.copy(data=np.array([100.0, 300.0])))
    expected = {"none": (10.0, 0.25, 0.25), "time": (12.5, 1 / 16, 9 / 16), "ivar": (7.0, 16 / 25, 1 / 25)}
    alone = build(ds.isel(dither=[0]))["var"]
    for kind, (mean, first, second) in expected.items():
        cube = build(ds.chunk(dither=1), exposure_weights=kind).compute()
        good = cube.dq.values == 0
        np.testing.assert_allclose(cube.flux.values[good], mean, rtol=1e-5)
        np.testing.assert_allclose(cube["var"].values[good], ((first + 4 * second) * alone).values[good], rtol=1e-5)
    for odd in (np.nan, np.inf, 0.0):
        with pytest.raises(MrsxrError, match="exposure times are"):
            build(ds.assign_coords(exposure_time=ds.exposure_time * np.array([1.0, odd])), exposure_weights="time")
    with pytest.raises(MrsxrError, match="exposure_weights is 'snr'"):
        build(ds, exposure_weights="snr")


def test_inverse_variance_of_an_exposure_without_good_pixels():
    ds = make_cal(2)
    flags = ds.dq.values.copy()
    flags[1] |= 1
    cube = build(ds.assign(dq=ds.dq.copy(data=flags)), exposure_weights="ivar", incomplete_threshold=None)
    good = cube.dq.values == 0
    assert good.sum() > 1000
    np.testing.assert_allclose(cube.flux.values[good], 5.0, rtol=1e-6)


def test_systematic_errors_are_not_averaged_down():
    ds = named(make_cal(4).isel(dither=[0, 0, 0, 0]), 4)
    ds = ds.assign(var_photom=xr.where(ds["slice"] > 0, np.float32(0.04), np.float32(np.nan)) * xr.ones_like(ds.flux))
    ds = ds.transpose("dither", "y", "x", ...)
    ds.var_photom.attrs["units"] = "MJy2/sr2"
    cube = build(ds)
    good = cube.dq.values == 0
    np.testing.assert_allclose(cube.var_systematic.values[good], 0.04, rtol=1e-5)
    assert np.isnan(cube.var_systematic.values[~good]).all()


def test_planes_and_spaxels_of_a_cubepar_file_are_float32():
    """0.0008 um in a cubepar file is the float32 number; a step given by hand is meant as it stands."""
    cube = build_cube(make_cal(1), band="1A", cubepar=emsm_table())
    assert cube.attrs["wavelength_step"] == float(np.float32(0.0008))
    assert CubeGrid.of(cube).wavelength_start == pytest.approx(5.0, abs=1e-12)
    assert build_cube(make_cal(1), band="1A", cubepar=emsm_table(), wavelength_step=0.0008).attrs[
        "wavelength_step"
    ] == pytest.approx(0.0008, abs=1e-18)
    with pytest.raises(MrsxrError, match="no row for band 1A"):
        build_cube(make_cal(1), band="1A", cubepar=emsm_table().isel(band=[]))


def test_pixels_of_a_block_do_not_depend_on_the_shift_of_others():
    """Any range of planes holds the bits of the whole cube, also with shifted wavelengths."""
    ds = noisy(1)
    one = BandData.of(ds, "1A")
    grid = CubeGrid.of(build(ds))
    pixels = select_pixels(FrameModel.of(ds), ds.x.values, ds.y.values, "1A", one.ranges)
    names = ("flux", "var_poisson", "var_read", "var_flat", "dq")
    frame = gather_pixels(pixels, *(ds[n].values for n in names))
    shift = 0.004 * np.sin(np.arange(pixels.index.size))
    frame = Frame(frame.linear, frame.square, frame.status, frame.weight, shift)
    part = (pixels, [frame], [placement(ds, one.ranges, "1A", one.pointings[0], grid, np.nan)], Weighting(), [])
    whole = drizzle_planes(0, grid.nz, grid, False, part)
    for first in range(0, grid.nz, 5):
        n = min(5, grid.nz - first)
        for a, b in zip(whole, drizzle_planes(first, n, grid, False, part), strict=True):
            np.testing.assert_array_equal(a[first : first + n], b)


def test_pixels_of_a_band_are_selected_once_for_exposures_of_one_detector():
    ds = make_cal()
    ranges = slice_ranges(ds)
    first, again, cut = (
        select_pixels(FrameModel.of(part), part.x.values, part.y.values, "1A", ranges)
        for part in (ds, ds.copy(deep=True), ds.isel(y=slice(3, None)))
    )
    assert again is first
    assert 0 < cut.index.size < first.index.size


@pytest.mark.parametrize("lazy", [True, False])
def test_an_exposure_that_is_there_twice_is_told_of(lazy):
    ds = make_cal(2)
    twice = ds.isel(dither=[1, 0, 1])
    twice = twice.chunk() if lazy else twice
    told = "exposure jw02732004001_02101_00002_mirifushort is there twice"
    for data in (twice, [ds, twice.isel(dither=[0])]):
        assert told in str(detect_outliers(data).attrs["notes"])
    assert told in str(build_cube(twice, band="1A").attrs["notes"])
    assert "notes" not in build_cube(ds, band="1A").attrs
