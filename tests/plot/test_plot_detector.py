from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from plot_makers import assert_tidy, drawn, labels, make_cube, make_exposure, make_spectrum

from mrsxr import dq, plot
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.plot._detector import shrink
from mrsxr.plot._slices import slice_edges
from mrsxr.plot._style import NO_VALUE, STRETCHES, image_norm, power_of_ten, unit_text


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
    ax = drawn(plot.detector_image(ds, 2))
    assert isinstance(ax, Axes)
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
    assert plot.detector_image(ds).get_images()[0].norm.vmax < 300


def test_detector_image_draws_into_given_axes_and_shrinks():
    ax = Figure().add_subplot()
    assert plot.detector_image(make_exposure(), ax=ax, pixels=20, colorbar=None, title="mine") is ax
    assert ax.get_images()[0].get_array().shape == (14, 16)
    assert ax.get_title() == "mine"
    assert not ax.child_axes


def two_slices():
    """Slices 101 and 111 of channel 1 and 205 of channel 2, the first one bent."""
    ds = make_exposure("cal")
    labels_of = np.zeros((40, 48), dtype="int16")
    for y in range(40):
        bend = y // 10
        labels_of[y, 4 + bend : 12 + bend] = 101
        labels_of[y, 18:24] = 111
        labels_of[y, 30:40] = 205
    return ds.assign_coords(slice=(("y", "x"), labels_of))


def test_slices_are_outlined_numbered_and_named_by_channel():
    ax = drawn(plot.detector_image(two_slices()))
    (outline,) = [c for c in ax.collections if c.get_gid() == "slices"]
    paths = outline.get_paths()
    assert len(paths) == 6  # two edges of each slice
    corners = np.concatenate([p.vertices for p in paths])
    assert {3.5, 11.5, 17.5, 23.5, 29.5, 39.5} <= set(np.unique(corners[:, 0]))
    assert {t.get_text() for t in labels(ax, "slice number")} == {"1", "11", "5"}
    assert [t.get_text() for t in labels(ax, "channel")] == ["channel 1", "channel 2"]
    plain = plot.detector_image(two_slices(), slices=False)
    assert not plain.collections
    assert not labels(plain, "slice number")
    assert_tidy(ax)


def test_slices_of_a_cut_keep_their_place_on_the_detector():
    ds = two_slices().assign_coords(y=np.arange(40), x=np.arange(48)).isel(y=slice(10, 30), x=slice(15, 48))
    ax = plot.detector_image(ds)
    assert ax.get_xlim() == (14.5, 47.5)
    assert ax.get_ylim() == (9.5, 29.5)
    corners = np.concatenate([p.vertices for p in ax.collections[0].get_paths()])
    assert set(np.unique(corners[:, 0])) == {14.5, 17.5, 23.5, 29.5, 39.5} - {14.5}
    assert (corners[:, 1].min(), corners[:, 1].max()) == (9.5, 29.5)


def test_slice_edges_of_touching_slices_and_of_one_at_the_border():
    image = np.zeros((10, 12), dtype="int16")
    image[:, :4], image[:, 4:7], image[2:, 9:] = 101, 102, 103
    edges = slice_edges(image)
    assert sorted(edges) == [101, 102, 103]
    for label, (first, last, rows) in {101: (0, 3, 10), 102: (4, 6, 10), 103: (9, 11, 8)}.items():
        y, left, right = edges[label]
        assert len(y) == rows
        assert set(left) == {first}
        assert set(right) == {last}
    assert slice_edges(np.zeros((5, 5), dtype="int16")) == {}


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
    with pytest.raises(MrsxrError, match="no integration 2; the data have one image"):
        plot.detector_image(make_exposure(), integration=2)


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
    for percentiles in (None, (1, 99)):
        norm = image_norm(values, "asinh", percentiles)
        assert norm.vmax > norm.vmin


def test_noise_does_not_take_half_of_the_colours():
    rng = np.random.default_rng(1)
    values = np.r_[rng.normal(0, 1, 10000), np.full(200, 100.0)]
    assert image_norm(values, "asinh").vmin == pytest.approx(-2.0, abs=0.1)
    assert image_norm(values, "asinh", (1.0, 99.7)).vmin < -2.2
    for stretch in STRETCHES:  # nor the upper half, where there is little else
        assert 0.2 < image_norm(rng.normal(50.0, 3.0, 10000), stretch)(50.0) < 0.65, stretch


def test_units_and_powers_of_ten_in_words():
    shown = [unit_text(u) for u in ("um", "MJy/sr", "W m-2 um-1", "DN2/s2", "1/um", "1", None)]
    assert shown == ["µm", "MJy sr⁻¹", "W m⁻² µm⁻¹", "DN² s⁻²", "µm⁻¹", "", ""]
    assert power_of_ten(np.array([3e-18, np.nan])) == (-18, "10⁻¹⁸ ")
    assert power_of_ten(np.array([300.0, -20.0])) == (0, "")
    assert power_of_ten(np.array([np.nan])) == (0, "")


def test_dq_image_names_the_flags_and_shows_rare_ones():
    ax = drawn(plot.dq_image(make_exposure()))
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names[0].startswith("good")
    assert any(n.startswith("REFERENCE_PIXEL  8.3 %") for n in names)
    assert any(n.startswith("DEAD") for n in names)
    numbers = np.asarray(ax.get_images()[0].get_array())
    assert numbers[6, 11] != numbers[7, 11]  # DEAD is rarer than DO_NOT_USE and JUMP_DET there
    assert numbers[30, 30] == 0


def test_dq_image_greys_what_is_left_and_takes_cubes_and_ramps():
    ax = plot.dq_image(make_exposure("ramp"), most=1)
    assert any(t.get_text().startswith("other flags") for t in ax.get_legend().get_texts())
    cube = drawn(plot.dq_image(make_cube()))
    assert any("NON_SCIENCE" in t.get_text() for t in cube.get_legend().get_texts())
    assert cube.coords[0].get_axislabel() == "RA (ICRS)"
    assert cube.get_xlim()[0] < -0.5 < 13.5 < cube.get_xlim()[1]
    with pytest.raises(MrsxrError, match="no image of flags"):
        plot.dq_image(make_spectrum())


def test_all_nan_exposures_are_grey():
    for level in ("rate", "cal"):
        ax = drawn(plot.detector_image(make_exposure(level, fill=np.nan)))
        np.testing.assert_allclose(ax.get_images()[0].cmap.get_bad()[:3], float(NO_VALUE), atol=1e-6)


# --- ramps ---------------------------------------------------------------------------------------------------------


def make_ramp(n_integrations=1, n_groups=8):
    groups = np.arange(1, n_groups + 1, dtype="float32")
    sci = np.broadcast_to((1000 + 50 * groups)[None, None, :, None, None], (2, n_integrations, n_groups, 6, 7)).copy()
    flags = np.zeros(sci.shape, dtype="uint8")
    sci[:, :, 4:, 3, 2] += 400
    flags[:, :, 4, 3, 2] = dq.JUMP_DET
    flags[:, :, 6:, 3, 2] = dq.SATURATED | dq.DO_NOT_USE
    flags[:, :, 0, 3, 2] = dq.DO_NOT_USE
    pixel = np.zeros((2, 6, 7), dtype="uint32")
    pixel[:, 3, 2] = dq.FLAGS["WARM"]
    dims = ("dither", "integration", "group", "y", "x")
    return xr.Dataset(
        {"sci": (dims, sci, {"units": "DN"}), "group_dq": (dims, flags), "pixel_dq": (("dither", "y", "x"), pixel)},
        {"dither": [1, 2], "exposure": ("dither", ["jw_0", "jw_1"])},
        {"level": "ramp", "group_time": 2.5, "setting": "12A"},
    )


def curve(ax, gid):
    (line,) = [line for line in ax.lines if line.get_gid() == gid]
    return line


def test_ramps_mark_flags_by_colour_and_marker_on_a_time_axis():
    ax = drawn(plot.ramps(make_ramp(), 3, 2, 2))
    ramp = curve(ax, "ramp")
    np.testing.assert_allclose(ramp.get_xdata(), 2.5 * np.arange(1, 9))
    np.testing.assert_allclose(ramp.get_ydata()[:2], [1050, 1100])
    marks = {name: curve(ax, f"flag {name}") for name in ("JUMP_DET", "SATURATED", "DO_NOT_USE")}
    np.testing.assert_allclose(marks["JUMP_DET"].get_xdata(), [12.5])
    np.testing.assert_allclose(marks["SATURATED"].get_xdata(), [17.5, 20.0])
    np.testing.assert_allclose(marks["DO_NOT_USE"].get_xdata(), [2.5, 17.5, 20.0])
    assert len({m.get_marker() for m in marks.values()}) == len({m.get_markeredgecolor() for m in marks.values()}) == 3
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "not flagged", "DO_NOT_USE (3)", "SATURATED (2)", "JUMP_DET (1)",
    ]  # fmt: skip
    assert ax.get_xlabel() == "Time since the start of the integration [s]"
    assert ax.get_ylabel() == "Counts [DN]"
    assert "jw_1" in ax.get_title()
    assert "y = 3, x = 2 (WARM)" in ax.get_title()
    assert_tidy(ax)


def test_ramps_of_a_good_pixel_have_no_legend():
    ax = plot.ramps(make_ramp(), 0, 0)
    assert ax.get_legend() is None
    assert not [line for line in ax.lines if str(line.get_gid()).startswith("flag")]


def test_integrations_follow_each_other_or_are_picked():
    ds = make_ramp(3)
    ax = plot.ramps(ds, 3, 2)
    curves = [line for line in ax.lines if line.get_gid() == "ramp"]
    assert len(curves) == 3
    starts = [line.get_xdata()[0] for line in curves]
    np.testing.assert_allclose(np.diff(starts), 8 * 2.5)
    assert [t.get_text() for t in labels(ax, "integration")] == ["integration 1", "integration 2", "integration 3"]
    assert len([line for line in plot.ramps(ds, 3, 2, integration=2).lines if line.get_gid() == "ramp"]) == 1
    with pytest.raises(MrsxrError, match="no integration 4; expected 1 to 3"):
        plot.ramps(ds, 3, 2, integration=4)


def test_differences_show_the_rise_in_dn_per_second():
    ax = plot.ramps(make_ramp(), 3, 2, differences=True)
    rise = curve(ax, "ramp").get_ydata()
    assert np.isnan(rise[0])
    np.testing.assert_allclose(rise[1:], [20, 20, 20, 180, 20, 20, 20])
    assert ax.get_ylabel() == "Rise [DN s⁻¹]"


def test_ramps_need_a_ramp_and_a_pixel_on_the_detector():
    with pytest.raises(LevelError, match="level ramp, got rate"):
        plot.ramps(make_exposure("rate"), 1, 1)
    with pytest.raises(MrsxrError, match="no y = 99; expected 0 to 5"):
        plot.ramps(make_ramp(), 99, 1)
    ax = plot.ramps(make_ramp().drop_attrs(deep=False).assign_attrs(level="ramp"), 3, 2)
    assert ax.get_xlabel() == "Group"
