from __future__ import annotations

import itertools
import math

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Circle

from mrsxr import mrs, plot, tree
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.lines import line_list
from mrsxr.plot._detector import shrink
from mrsxr.plot._labels import Mark, find_marks, line_strength, spread, thin_out
from mrsxr.plot._spectrum import _quiet
from mrsxr.plot._style import BAND_COLOURS, NO_VALUE, STRETCHES, image_norm

CENTRE = (120.0, -30.0)


def make_exposure(level="rate", fill=None, n_dithers=2, shape=(40, 48)):
    rng = np.random.default_rng(5)
    x = np.mgrid[: shape[0], : shape[1]][1]
    image = (10 + 200 * np.exp(-0.5 * ((x - 20) / 3.0) ** 2) + rng.normal(0, 1, shape)).astype("float32")
    if fill is not None:
        image[:] = fill
    stack = np.stack([image * (i + 1) for i in range(n_dithers)])
    dq = np.zeros(stack.shape, dtype="uint32")
    dq[:, :, :4] = 1 << 31
    dq[:, 5:15, 10:20] |= 1 | 4
    dq[:, 6, 11] |= 1 << 10
    coords = {"dither": np.arange(1, n_dithers + 1), "exposure": ("dither", [f"jw_{i}" for i in range(n_dithers)])}
    attrs = {"level": level, "setting": "12A", "target": "TEST", "program": "1"}
    dims = ("dither", "y", "x")
    if level == "ramp":
        groups = np.arange(4, dtype="float32")[:, None, None]
        sci = (stack[:, None, None] * groups + 1000).astype("uint16")
        return xr.Dataset(
            {"sci": (("dither", "integration", "group", "y", "x"), sci, {"units": "DN"}),
             "group_dq": (("dither", "integration", "group", "y", "x"), np.zeros(sci.shape, "uint8")),
             "pixel_dq": (dims, dq)}, coords, attrs)  # fmt: skip
    name, unit = ("flux", "MJy/sr") if level == "cal" else ("rate", "DN/s")
    slices = np.where((x > 6) & (x < 40), 101, 0).astype("int16")
    coords["slice"] = (("y", "x"), slices)
    return xr.Dataset({name: (dims, stack, {"units": unit}), "dq": (dims, dq)}, coords, attrs)


def make_cube(band="1A", fill=None, angle=30.0, nz=12, chunks=None, centre=CENTRE):
    low, high = mrs.WAVELENGTH_LIMITS[band]
    grid = CubeGrid(centre, 0.2, 14, 12, low, (high - low) / nz, nz, angle)
    x, y = np.meshgrid(grid.x, grid.y)
    image = 50 + 1000 * np.exp(-0.5 * (((x - 0.4) ** 2 + (y + 0.2) ** 2) / 0.3**2))
    flux = np.broadcast_to(image, (nz, *image.shape)).astype("float32").copy()
    flux[:, :2] = np.nan
    if fill is not None:
        flux[:] = fill
    dims = ("wavelength", "y", "x")
    data = da.from_array(flux, chunks=chunks) if chunks else flux
    dq = np.where(np.isnan(flux), 513, 0).astype("uint32")
    attrs = {
        "level": "cube",
        "band": band,
        "wcs": grid.header().tostring(sep="\n"),
        "pixel_scale": 0.2,
        "target": "TEST",
    }
    return xr.Dataset({"flux": (dims, data, {"units": "MJy/sr"}), "dq": (dims, dq)}, grid.coords(), attrs)


def make_spectrum(bands=("1A",), z=0.0, level=0.3, peak=0.4, n=400, slope=0.0, noise=0.002):
    rng = np.random.default_rng(3)
    wave = np.concatenate([np.linspace(*mrs.WAVELENGTH_LIMITS[b], n) for b in bands])
    band = np.repeat(bands, n)
    flux = level * (wave / 5.0) ** slope * (1 + rng.normal(0, noise, wave.size))
    lines = line_list()
    bright = (lines["rank"].values == 1) & (lines["kind"].values != "PAH")
    for place in lines["wavelength"].values[bright] * (1 + z):
        flux = flux + peak * np.exp(-0.5 * ((wave - place) / (0.6 * 3e-3 * place / 2)) ** 2)
    radius = 2 * mrs.psf_fwhm(wave)
    dims = "wavelength"
    return xr.Dataset(
        {"flux": (dims, flux, {"units": "Jy"}), "var": (dims, (0.01 * flux) ** 2, {"units": "Jy2"}),
         "dq": (dims, np.zeros(wave.size, "uint32")), "aperture_radius": (dims, radius, {"units": "arcsec"})},
        {"wavelength": (dims, wave, {"units": "um"}), "band": (dims, band)},
        {"level": "spectrum", "target": "TEST", "aperture_ra": CENTRE[0], "aperture_dec": CENTRE[1]},
    )  # fmt: skip


def labels(ax, gid):
    return [t for t in ax.texts if t.get_gid() == gid]


def drawn(figure):
    figure.canvas.draw()
    return figure


# --- detector ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "text"),
    [
        ("ramp", "Last minus first group [DN]"),
        ("rate", "Count rate [DN s⁻¹]"),
        ("cal", "Surface brightness [MJy sr⁻¹]"),
    ],
)
def test_detector_image_of_each_level(level, text):
    ds = make_exposure(level)
    figure = drawn(plot.detector_image(ds, 2))
    ax = figure.axes[0]
    assert isinstance(figure, Figure)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("x [pixel]", "y [pixel]", "jw_1   12A")
    assert ax.child_axes[0].get_ylabel() == text
    (image,) = ax.get_images()
    assert isinstance(image, AxesImage)
    expected = {"rate": "rate", "cal": "flux"}.get(level)
    if expected:
        np.testing.assert_array_equal(image.get_array(), ds[expected].values[1])
    else:
        raw = ds["sci"].values[1, 0].astype(float)
        np.testing.assert_array_equal(image.get_array(), raw[-1] - raw[0])


def test_detector_limits_come_from_the_slices():
    ds = make_exposure("rate")
    ds["rate"].values[:, :, :6] = 1e6  # far off, but between slices
    norm = plot.detector_image(ds).axes[0].get_images()[0].norm
    assert norm.vmax < 300


def test_detector_image_draws_into_given_axes_and_shrinks():
    figure = Figure()
    ax = figure.add_subplot()
    assert plot.detector_image(make_exposure(), ax=ax, pixels=20, colorbar=None, title="mine") is figure
    assert ax.get_images()[0].get_array().shape == (14, 16)
    assert ax.get_title() == "mine"
    assert not ax.child_axes


def test_shrink_averages_without_nan():
    image = np.arange(16.0).reshape(4, 4)
    image[0, 0] = np.nan
    image[2:, 2:] = np.nan
    small = shrink(image, 2)
    assert small[0, 0] == pytest.approx((1 + 4 + 5) / 3)
    assert np.isnan(small[1, 1])
    assert shrink(image, None) is image


def test_wrong_dither_level_stretch_and_integration_are_refused():
    with pytest.raises(MrsxrError, match="no dither 7; expected one of 1, 2"):
        plot.detector_image(make_exposure(), 7)
    with pytest.raises(LevelError, match="level ramp, rate or cal, got cube"):
        plot.detector_image(make_cube())
    with pytest.raises(MrsxrError, match="stretch is 'cubic'"):
        plot.detector_image(make_exposure(), stretch="cubic")
    with pytest.raises(MrsxrError, match="no integration 3; expected 1 to 1"):
        plot.detector_image(make_exposure("ramp"), integration=3)


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("offset", [0.0, -500.0, 1e5])
def test_stretch_is_monotonic_invertible_and_ignores_the_level(stretch, offset):
    values = np.r_[np.linspace(0, 100, 200) + offset, np.nan]
    norm = image_norm(values, stretch, (0, 100))
    places = np.asarray(norm(values[:-1]))
    assert places[0] == pytest.approx(0, abs=1e-9)
    assert places[-1] == pytest.approx(1)
    assert np.all(np.diff(places) > 0)
    np.testing.assert_allclose(norm.inverse(places), values[:-1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("values", [np.full(5, np.nan), np.full(5, 7.0), np.zeros(5)])
def test_stretch_of_constant_or_missing_values_has_a_width(values):
    norm = image_norm(values, "asinh", (1, 99))
    assert norm.vmax > norm.vmin


# --- flags ---------------------------------------------------------------------------------------------------------


def test_dq_image_names_the_flags_and_shows_rare_ones():
    figure = drawn(plot.dq_image(make_exposure()))
    ax = figure.axes[0]
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names[0].startswith("good")
    assert any(n.startswith("REFERENCE_PIXEL  8.3 %") for n in names)
    assert any(n.startswith("DEAD") for n in names)
    numbers = np.asarray(ax.get_images()[0].get_array())
    assert numbers[6, 11] != numbers[7, 11]  # DEAD is rarer than DO_NOT_USE and JUMP_DET there
    assert numbers[30, 30] == 0


def test_dq_image_greys_what_is_left_and_takes_cubes_and_ramps():
    figure = plot.dq_image(make_exposure("ramp"), most=1)
    assert any(t.get_text().startswith("other flags") for t in figure.axes[0].get_legend().get_texts())
    cube = drawn(plot.dq_image(make_cube()))
    assert any("NON_SCIENCE" in t.get_text() for t in cube.axes[0].get_legend().get_texts())
    with pytest.raises(MrsxrError, match="no image of flags"):
        plot.dq_image(make_spectrum())


# --- cube ----------------------------------------------------------------------------------------------------------


def test_cube_image_has_east_left_units_and_aperture():
    cube = make_cube()
    ra, dec = CENTRE
    figure = drawn(plot.cube_image(cube, aperture=(ra, dec + 1.0 / 3600, 0.5)))
    ax = figure.axes[0]
    left, right = ax.get_xlim()
    assert left > right
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("ΔRA cos δ [arcsec]", "ΔDec [arcsec]")
    assert ax.child_axes[0].get_ylabel() == "Surface brightness [MJy sr⁻¹]"
    assert ax.get_title().startswith("1A   4.9")
    circles = [p for p in ax.patches if isinstance(p, Circle)]
    assert circles[-1].radius == 0.5
    np.testing.assert_allclose(circles[-1].center, (0.0, 1.0), atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 30.0, 110.0])
def test_spaxels_lie_where_the_sky_says(angle):
    cube = make_cube(angle=angle)
    plane = CubeGrid.of(cube)
    mesh = plot.cube_image(cube).axes[0].collections[0]
    corners = mesh.get_coordinates()
    centres = 0.25 * (corners[1:, 1:] + corners[:-1, 1:] + corners[1:, :-1] + corners[:-1, :-1])
    ra, dec = plane.offsets_to_sky(*np.meshgrid(plane.x, plane.y))
    np.testing.assert_allclose(centres[..., 0], (ra - CENTRE[0]) * 3600 * math.cos(math.radians(CENTRE[1])), atol=1e-3)
    np.testing.assert_allclose(centres[..., 1], (dec - CENTRE[1]) * 3600, atol=1e-3)


def test_origin_moves_the_zero_point():
    ra, dec = CENTRE
    figure = plot.cube_image(make_cube(), aperture=(ra, dec + 2 / 3600), origin=(ra, dec + 2 / 3600))
    point = figure.axes[0].lines[-1]
    np.testing.assert_allclose([point.get_xdata()[0], point.get_ydata()[0]], 0.0, atol=1e-6)


def test_cube_image_computes_only_the_planes_asked_for():
    cube = make_cube(nz=12)
    good = da.from_array(cube["flux"].values[:6], chunks=(6, 12, 14))

    def fail():
        raise RuntimeError("a plane that nobody asked for was computed")

    bad = da.from_delayed(dask.delayed(fail)(), shape=(6, 12, 14), dtype="float32")
    lazy = cube.assign(flux=(cube["flux"].dims, da.concatenate([good, bad]), cube["flux"].attrs))
    waves = cube["wavelength"].values
    figure = plot.cube_image(lazy, (waves[0], waves[5]))
    assert "–" in figure.axes[0].get_title()
    assert plot.cube_image(lazy, float(waves[3])).axes[0].get_title() == f"1A   {waves[3]:.3f} µm"
    with pytest.raises(RuntimeError, match="nobody asked"):
        plot.cube_image(lazy)


def test_cube_image_is_the_median_and_leaves_out_thin_spaxels():
    cube = make_cube(nz=11)
    flux = cube["flux"].values
    flux[:, 5, 5] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1e9]
    flux[2:, 6, 6] = np.nan
    shown = plot.cube_image(cube).axes[0].collections[0].get_array()
    assert shown[5, 5] == 6
    assert np.ma.getmaskarray(np.ma.masked_invalid(shown))[6, 6]


def test_cube_without_wcs_has_plain_axes_and_no_aperture():
    cube = make_cube()
    del cube.attrs["wcs"]
    ax = plot.cube_image(cube).axes[0]
    assert ax.get_xlabel() == "x [arcsec]"
    assert ax.get_xlim()[0] < ax.get_xlim()[1]
    with pytest.raises(MrsxrError, match="needs a cube with the attribute 'wcs'"):
        plot.cube_image(cube, aperture=(120.0, -30.0, 1.0))


def test_wrong_range_and_level_of_a_cube_are_refused():
    with pytest.raises(MrsxrError, match=r"no plane between 20 and 21 um; it reaches from 4.9"):
        plot.cube_image(make_cube(), (20, 21))
    with pytest.raises(LevelError, match="level cube, got rate"):
        plot.cube_image(make_exposure())


# --- spectrum ------------------------------------------------------------------------------------------------------


def test_spectrum_axes_colours_and_lines():
    figure = drawn(plot.spectrum(make_spectrum(("3A",), z=0.01, level=2.0, peak=1.0), redshift=0.01, title="here"))
    ax = figure.axes[0]
    assert ax.get_xlabel().startswith("Observed wavelength [µm]")
    assert "z = 0.01" in ax.get_xlabel()
    assert ax.get_ylabel() == "Flux density [Jy]"
    assert ax.get_title(loc="left") == "here"
    assert [t.get_text() for t in labels(ax, "line label")] == ["H₂ S(2)", "H I 7-6", "[Ne II]"]
    assert [t.get_text() for t in labels(ax, "band name")] == ["3A"]
    curve = next(line for line in ax.lines if line.get_label() == "3A")
    assert curve.get_color() == BAND_COLOURS["3A"]
    assert len(ax.collections) == 1  # the error band
    assert not plot.spectrum(make_spectrum(("3A",)), errors=False, lines=False).axes[0].collections


def test_units_follow_the_brightness():
    for level, unit in ((3.0, "Jy"), (0.02, "mJy"), (2e-5, "µJy")):
        ax = plot.spectrum(make_spectrum(level=level, peak=0.0)).axes[0]
        assert ax.get_ylabel() == f"Flux density [{unit}]"
        low, high = ax.get_ylim()
        scale = {"Jy": 1, "mJy": 1e3, "µJy": 1e6}[unit]
        assert low < level * scale < high


def test_twelve_bands_labels_do_not_overlap():
    figure = drawn(plot.spectrum(make_spectrum(mrs.BANDS, level=1.0, peak=3.0)))
    ax = figure.axes[0]
    texts = labels(ax, "line label")
    assert len(texts) >= 20
    boxes = [t.get_window_extent() for t in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    names = labels(ax, "band name")
    assert [t.get_text() for t in names] == list(mrs.BANDS)
    assert not any(a.overlaps(b) for a, b in itertools.combinations([t.get_window_extent() for t in names], 2))
    assert ax.get_xscale() == "log"


def test_gaps_between_bands_are_drawn_together_and_not_joined():
    ds = make_spectrum(("1A", "2A", "3A", "4A"))
    ax = drawn(plot.spectrum(ds, lines=False)).axes[0]
    assert ax.get_xscale() == "function"
    curves = {line.get_label(): line for line in ax.lines if line.get_label() in BAND_COLOURS}
    assert set(curves) == {"1A", "2A", "3A", "4A"}
    places = [ax.transAxes.inverted().transform(ax.transData.transform((w, 0.3)))[0] for w in (5.74, 7.51, 4.90, 20.95)]
    assert 0 < places[1] - places[0] < 0.04  # the gap
    assert places[2] < 0.02
    assert places[3] > 0.98


def test_a_hole_inside_a_band_breaks_the_line():
    ds = make_spectrum(("1A",))
    ds = ds.isel(wavelength=np.r_[0:150, 250:400])
    ax = plot.spectrum(ds, lines=False).axes[0]
    assert len([line for line in ax.lines if line.get_label() == "1A"]) == 2


def test_flagged_samples_and_edge_spikes_do_not_set_the_limits():
    ds = make_spectrum(level=1.0, peak=0.0)
    ds["flux"].values[[0, 1, -1]] = [90.0, -80.0, 70.0]
    ds["flux"].values[200:210] = 50.0
    ds["dq"].values[200:210] = 1
    ds["flux"].values[300] = 40.0
    low, high = plot.spectrum(ds).axes[0].get_ylim()
    assert 0.9 < low < 1.0 < high < 1.1


def test_logarithmic_axis_where_the_range_asks_for_it():
    steep = make_spectrum(mrs.BANDS, slope=2.5, peak=0.0)
    assert plot.spectrum(steep).axes[0].get_yscale() == "log"
    assert plot.spectrum(steep, log=False).axes[0].get_yscale() == "linear"
    assert plot.spectrum(make_spectrum(mrs.BANDS, peak=0.0)).axes[0].get_yscale() == "linear"
    below = make_spectrum(level=-0.3, peak=0.0)
    assert drawn(plot.spectrum(below, log=True)).axes[0].get_yscale() == "log"


def test_surface_brightness_stands_in_for_missing_flux():
    ds = make_spectrum()
    ds["surface_brightness"] = ("wavelength", ds["flux"].values * 100, {"units": "MJy/sr"})
    assert plot.spectrum(ds).axes[0].get_ylabel() == "Flux density [mJy]"
    ds["flux"].values[:] = np.nan
    assert plot.spectrum(ds).axes[0].get_ylabel() == "Surface brightness [MJy sr⁻¹]"
    with pytest.raises(LevelError, match="have no flux"):
        plot.spectrum(make_exposure())


def test_redshift_comes_from_the_attributes_or_is_said_to_be_unknown():
    ds = make_spectrum(("3A",), z=0.02)
    assert "no redshift given" in plot.spectrum(ds).axes[0].get_xlabel()
    ds.attrs["redshift"] = 0.02
    assert plot.spectrum(ds).axes[0].get_xlabel().endswith("z = 0.02")


def test_line_strength_sees_lines_and_not_noise_or_neighbours():
    rng = np.random.default_rng(2)
    wave = np.arange(12.0, 13.4, 0.0025)
    flux = 1 + 0.1 * wave + rng.normal(0, 0.01, wave.size)
    assert line_strength(wave, flux, 12.7) < 5
    flux += 0.2 * np.exp(-0.5 * ((wave - 12.7) / 0.003) ** 2)
    clean = line_strength(wave, flux, 12.7)
    assert clean > 10
    flux += 5.0 * np.exp(-0.5 * ((wave - 12.76) / 0.003) ** 2)
    assert line_strength(wave, flux, 12.7) == pytest.approx(clean, rel=0.4)
    assert np.isnan(line_strength(wave, flux, 20.0))
    assert find_marks(wave, np.full(wave.size, np.nan), 0.0) == []


def test_spread_keeps_order_distance_and_moves_least():
    places = np.array([0.1, 0.5, 0.505, 0.51, 0.9])
    out = spread(places, 0.02)
    assert np.all(np.diff(out) >= 0.02 - 1e-12)
    np.testing.assert_allclose(out, [0.1, 0.485, 0.505, 0.525, 0.9])
    edge = spread(np.array([0.0, 0.0, 0.99, 1.0]), 0.05)
    assert edge.min() >= 0
    assert edge.max() <= 1
    assert np.all(np.diff(edge) >= 0.05 - 1e-12)


def test_thin_out_keeps_the_important_lines_when_crowded():
    marks = [Mark(f"line {i}", 10 + 1e-4 * i, 1 + i % 3, 10.0 * i, True) for i in range(30)]
    kept, places, where = thin_out(marks, np.linspace(0.5, 0.51, 30), 0.01)
    assert 3 <= len(kept) < 10
    assert all(mark.rank == 1 for mark in kept)
    assert np.all(np.abs(where - places) <= 0.022)
    assert np.all(np.diff(where) >= 0.01 - 1e-12)


def test_quiet_drops_lone_spikes_and_keeps_lines():
    values = np.ones(200)
    values[100], values[50:53] = 99.0, 7.0
    assert _quiet(values).max() == 7.0


# --- empty input ---------------------------------------------------------------------------------------------------


def test_all_nan_input_gives_labelled_pictures():
    for level in ("rate", "cal"):
        ax = drawn(plot.detector_image(make_exposure(level, fill=np.nan))).axes[0]
        np.testing.assert_allclose(ax.get_images()[0].cmap.get_bad()[:3], float(NO_VALUE), atol=1e-6)
    assert drawn(plot.cube_image(make_cube(fill=np.nan))).axes[0].get_title().startswith("1A")
    ds = make_spectrum()
    ds["flux"].values[:] = np.nan
    ax = drawn(plot.spectrum(ds)).axes[0]
    assert "no valid data" in [t.get_text() for t in ax.texts]
    empty = drawn(plot.summary(make_exposure(fill=np.nan), [make_cube(fill=np.nan)], ds))
    assert len([a for a in empty.axes if a.get_xlabel()]) >= 3
    with pytest.raises(MrsxrError, match="no samples"):
        plot.spectrum(ds.isel(wavelength=slice(0, 0)))


# --- summary -------------------------------------------------------------------------------------------------------


def main_axes(figure):
    inner = {child for ax in figure.axes for child in ax.child_axes}
    return [ax for ax in figure.axes if ax not in inner]


def test_summary_of_a_whole_run():
    cubes = {band: make_cube(band, chunks=(4, 12, 14)) for band in mrs.BANDS}
    figure = drawn(plot.summary(make_exposure("cal"), cubes, make_spectrum(mrs.BANDS), redshift=0.0))
    axes = main_axes(figure)
    assert [ax.get_title()[:3] for ax in axes[:5]] == ["12A", "1A ", "2A ", "3A ", "4A "]
    assert axes[5].get_ylabel().startswith("Flux density")
    assert tuple(figure.get_size_inches()) == (14.0, 8.0)
    assert figure.get_suptitle() == "TEST   (program 1)   MIRI MRS"
    radii = [[p.radius for p in ax.patches if isinstance(p, Circle)][-1] for ax in axes[1:5]]
    expected = [2 * mrs.psf_fwhm(sum(mrs.WAVELENGTH_LIMITS[b]) / 2) for b in ("1A", "2A", "3A", "4A")]
    np.testing.assert_allclose(radii, expected, rtol=1e-3)


def test_summary_panels_do_not_touch_each_other_or_the_edge():
    cubes = [make_cube(band) for band in ("1A", "2A", "3A", "4A")]
    figure = drawn(plot.summary(make_exposure(), cubes, make_spectrum(("1A", "2A", "3A", "4A"))))
    boxes = [ax.get_tightbbox() for ax in main_axes(figure)]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= figure.bbox.x1 and b.y1 <= figure.bbox.y1 for b in boxes)


@pytest.mark.parametrize("bands", [("4A", "4B", "4C"), ("1A", "1B", "1C", "2A", "2B")])
def test_summary_fills_up_with_bands_of_the_same_channel(bands):
    figure = plot.summary(cubes=[make_cube(b) for b in reversed(bands)], spectrum=make_spectrum(bands))
    titles = [ax.get_title()[:2] for ax in main_axes(figure)[:-1]]
    assert titles == sorted(titles)
    assert len(titles) == min(len(bands), 4)
    assert {t[0] for t in titles} == {b[0] for b in bands}


@pytest.mark.parametrize(
    ("exposures", "cubes", "spectrum", "number"),
    [
        (True, False, False, 1),
        (False, True, True, 2),
        (False, False, True, 1),
        (True, True, True, 3),
        (True, True, False, 2),
    ],
)
def test_summary_of_parts_keeps_inside_the_figure(exposures, cubes, spectrum, number):
    figure = plot.summary(
        make_exposure() if exposures else None, make_cube() if cubes else None, make_spectrum() if spectrum else None
    )
    axes = main_axes(drawn(figure))
    assert len(axes) == number
    boxes = [ax.get_tightbbox() for ax in axes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= figure.bbox.x1 and b.y1 <= figure.bbox.y1 for b in boxes)


def test_summary_takes_trees_without_background_and_given_apertures():
    science, sky = make_exposure(), make_exposure()
    sky.attrs.update(setting="34C", background=1)
    exposures = tree.build({"/background/34C": sky, "/science/12A": science})
    cubes = tree.build({"/science/1A": make_cube("1A"), "/science/2A": make_cube("2A")})
    figure = plot.summary(exposures, cubes, aperture={"1A": (*CENTRE, 0.7)}, title="mine")
    axes = main_axes(figure)
    assert axes[0].get_title().startswith("12A")
    assert figure.get_suptitle() == "mine"
    assert [p.radius for p in axes[1].patches if isinstance(p, Circle)] == [0.7, 0.7]
    assert not [p for p in axes[2].patches if isinstance(p, Circle)]


def test_summary_of_nothing_is_refused():
    with pytest.raises(MrsxrError, match="nothing was given"):
        plot.summary()


# --- files ---------------------------------------------------------------------------------------------------------


def test_save_figure_writes_whole_files_only(tmp_path):
    figure = plot.spectrum(make_spectrum())
    path = plot.save_figure(figure, tmp_path / "new" / "look.png", dpi=40)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["look.png"]
    with pytest.raises(MrsxrError, match=r"no picture format; expected one of .*png"):
        plot.save_figure(figure, tmp_path / "look.txt")

    def broken(name, **_):
        name.write_text("half")
        raise OSError("disk full")

    before = path.read_bytes()
    figure.savefig = broken
    with pytest.raises(OSError, match="disk full"):
        plot.save_figure(figure, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["look.png"]


def test_figures_show_themselves_in_notebooks_and_leave_pyplot_alone():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = plot.cube_image(make_cube())
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == before


# --- real data -----------------------------------------------------------------------------------------------------


@pytest.mark.shared
def test_real_spectrum_of_twelve_bands(shared_data):
    from astropy.io import fits

    parts = []
    for band in mrs.BANDS:
        name = f"VV114_MIRI_ch{band[0]}_{mrs.GRATINGS[band[1]]}_s1d.fits"
        table = fits.getdata(shared_data / "vv114" / name, 1)
        wave, flux, error = (np.asarray(table.field(i), dtype=float) for i in range(3))
        parts.append(xr.Dataset(
            {"flux": ("wavelength", flux * 1e6, {"units": "Jy"}), "var": ("wavelength", (error * 1e6) ** 2)},
            {"wavelength": wave, "band": ("wavelength", np.full(wave.size, band))}, {"level": "spectrum"},
        ))  # fmt: skip
    figure = drawn(plot.spectrum(xr.concat(parts, "wavelength"), redshift=0.020))
    ax = figure.axes[0]
    texts = labels(ax, "line label")
    assert {"[Ne II]", "[Ar II]", "[Ne III]", "[S III]", "H₂ S(3)"} <= {t.get_text() for t in texts}
    boxes = [t.get_window_extent() for t in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert "PAH 6.2" in {t.get_text() for t in labels(ax, "band label")}
    assert ax.get_yscale() == "log"
