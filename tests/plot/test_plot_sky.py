from __future__ import annotations

from itertools import pairwise

import dask
import dask.array as da
import matplotlib
import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.visualization.wcsaxes import WCSAxes
from matplotlib import pyplot
from matplotlib.patches import Circle, Ellipse
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from plot_makers import CENTRE, LINES, assert_tidy, drawn, make_channels, make_cube, make_exposure, make_maps

from mrsxr import mrs, plot
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.plot._sky import rotation, sky_wcs


def mesh_of(ax, gid=None):
    meshes = [c for c in ax.collections if hasattr(c, "get_coordinates") and (gid is None or c.get_gid() == gid)]
    return meshes[-1]


def beam_of(ax):
    """The circle of the point-spread function, its width in spaxels."""
    (beam,) = ax.findobj(lambda artist: type(artist) is Ellipse)
    return beam


def sky_of_spaxels(ax):
    """Right ascension and declination of the centres of the spaxels where they were drawn."""
    corners = mesh_of(ax).get_coordinates()
    centres = 0.25 * (corners[1:, 1:] + corners[:-1, 1:] + corners[1:, :-1] + corners[:-1, :-1])
    return ax.wcs.wcs_pix2world(centres[..., 0], centres[..., 1], 0)


@pytest.mark.parametrize("angle", [0.0, 30.0, 110.0])
@pytest.mark.parametrize("north_up", [False, True])
def test_spaxels_lie_where_the_sky_says(angle, north_up):
    cube = make_cube(angle=angle)
    plane = CubeGrid.of(cube)
    ax = plot.cube_image(cube, north_up=north_up)
    assert isinstance(ax, WCSAxes)
    ra, dec = sky_of_spaxels(ax)
    expected = plane.offsets_to_sky(*np.meshgrid(plane.x, plane.y))
    apart = SkyCoord(ra * u.deg, dec * u.deg).separation(SkyCoord(expected[0] * u.deg, expected[1] * u.deg))
    assert apart.to_value("arcsec").max() < 1e-3
    assert rotation(ax) == pytest.approx(0.0 if north_up else angle, abs=1e-6)


def test_cube_image_has_sky_axes_units_scale_bar_beam_and_aperture():
    ra, dec = CENTRE
    ax = drawn(plot.cube_image(make_cube(angle=0.0), aperture=(ra, dec + 1.0 / 3600, 0.5)))
    assert [ax.coords[i].get_axislabel() for i in (0, 1)] == ["RA (ICRS)", "Dec (ICRS)"]
    assert ax.child_axes[0].get_ylabel() == "Surface brightness [MJy sr⁻¹]"
    assert ax.get_title().startswith("1A   4.9")
    circle = [p for p in ax.patches if isinstance(p, Circle)][-1]
    assert circle.radius == pytest.approx(0.5 / 0.2)  # spaxels
    np.testing.assert_allclose(ax.wcs.wcs_pix2world(*circle.center, 0), (ra, dec + 1.0 / 3600), atol=1e-7)
    (bar,) = [a for a in ax.artists if isinstance(a, AnchoredSizeBar)]
    assert bar.txt_label.get_text() == "0.5″"
    beam = beam_of(ax)
    middle = 0.5 * sum(mrs.WAVELENGTH_LIMITS["1A"])
    assert beam.width == pytest.approx(mrs.psf_fwhm(middle) / 0.2, rel=1e-2)
    assert not [t for t in ax.findobj() if t.get_gid() == "compass"]
    assert_tidy(ax)


def test_a_compass_shows_where_north_and_east_are_on_turned_axes():
    ax = drawn(plot.cube_image(make_cube(angle=110.0)))
    north, east = sorted((t for t in ax.findobj() if t.get_gid() == "compass"), key=lambda t: t.get_text())[::-1]
    assert (north.get_text(), east.get_text()) == ("N", "E")
    angle = np.radians(110.0)
    way = np.subtract(north.get_position(), east.get_position())
    # from (east) to (north): along (sin a, cos a) - (-cos a, sin a), the axes turned by a
    expected = np.array([np.sin(angle), np.cos(angle)]) - np.array([-np.cos(angle), np.sin(angle)])
    assert np.dot(way, expected) / np.hypot(*way) / np.hypot(*expected) == pytest.approx(1.0, abs=1e-6)
    assert ax.coords[0].get_axislabel_position() == ["l"]  # right ascension runs up here


def test_pictures_of_the_sky_refuse_plain_axes_and_take_those_of_sky_axes():
    cube = make_cube()
    _, plain = pyplot.subplots()
    for draw in (lambda: plot.cube_image(cube, ax=plain), lambda: plot.line_map(make_maps(), "flux", LINES[0], plain)):
        with pytest.raises(MrsxrError, match=r"no sky coordinates.*sky_axes"):
            draw()
    figure = pyplot.figure()
    ax = plot.sky_axes(cube, figure, (1, 2, 2), north_up=True)
    assert plot.cube_image(cube, ax=ax, colorbar=None) is ax
    assert ax.figure is figure
    assert rotation(ax) == pytest.approx(0.0, abs=1e-9)
    grid = figure.add_gridspec(1, 2)
    assert isinstance(plot.sky_axes(cube, figure, grid[0, 0]), WCSAxes)
    place = plot.sky_axes(cube, figure, (0.1, 0.2, 0.3, 0.4)).get_position(original=True).bounds
    np.testing.assert_allclose(place, (0.1, 0.2, 0.3, 0.4))
    same = [plot.sky_axes(cube, figure, position).get_position(original=True).bounds for position in (132, (1, 3, 2))]
    np.testing.assert_array_equal(*same)
    for position in (13, 129, (1, 2), (1, 2, 0)):
        with pytest.raises(MrsxrError, match=r"position is .*expected \(left, bottom, width, height\)"):
            plot.sky_axes(cube, figure, position)
    with pytest.raises(MrsxrError, match="need a cube or maps with the attribute 'wcs'"):
        plot.sky_axes(make_exposure())


def test_a_cube_is_drawn_in_its_place_into_the_axes_of_another():
    here, there = make_cube(angle=0.0), make_cube(angle=40.0, centre=(CENTRE[0], CENTRE[1] + 1 / 3600))
    ax = plot.sky_axes(here)
    plot.cube_image(there, ax=ax)
    plane = CubeGrid.of(there)
    ra, dec = sky_of_spaxels(ax)
    expected = plane.offsets_to_sky(*np.meshgrid(plane.x, plane.y))
    np.testing.assert_allclose(ra, expected[0], atol=2e-7)
    np.testing.assert_allclose(dec, expected[1], atol=2e-7)


def test_cuts_of_cubes_and_maps_keep_their_place():
    cube, maps = make_cube(angle=20.0), make_maps(20.0)
    for ds in (cube, maps, make_maps(20.0, index=False)):
        whole, cut = sky_wcs(ds), sky_wcs(ds.isel(y=slice(3, None), x=slice(2, 9)))
        np.testing.assert_allclose(whole.wcs_pix2world(5, 7, 0), cut.wcs_pix2world(3, 4, 0), atol=1e-10)
    assert sky_wcs(maps["flux"].isel(line=0)) is not None
    assert sky_wcs(make_exposure()) is None


def test_cube_image_computes_only_the_planes_asked_for():
    cube = make_cube(nz=12)
    good = da.from_array(cube["flux"].values[:6], chunks=(6, 12, 14))

    def fail():
        raise RuntimeError("a plane that nobody asked for was computed")

    bad = da.from_delayed(dask.delayed(fail)(), shape=(6, 12, 14), dtype="float32")
    lazy = cube.assign(flux=(cube["flux"].dims, da.concatenate([good, bad]), cube["flux"].attrs))
    waves = cube["wavelength"].values
    assert "–" in plot.cube_image(lazy, (waves[0], waves[5])).get_title()
    assert plot.cube_image(lazy, float(waves[3])).get_title() == f"1A   {waves[3]:.3f} µm"
    with pytest.raises(RuntimeError, match="nobody asked"):
        plot.cube_image(lazy)


def test_cube_image_is_the_median_and_leaves_out_thin_spaxels():
    cube = make_cube(nz=11)
    flux = cube["flux"].values
    flux[:, 5, 5] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1e9]
    flux[2:, 6, 6] = np.nan
    shown = mesh_of(plot.cube_image(cube)).get_array()
    assert shown[5, 5] == 6
    assert np.ma.getmaskarray(np.ma.masked_invalid(shown))[6, 6]


def test_cube_without_wcs_has_plain_axes_and_no_aperture():
    cube = make_cube()
    del cube.attrs["wcs"]
    ax = plot.cube_image(cube)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x [arcsec]", "y [arcsec]")
    assert ax.get_xlim()[0] < ax.get_xlim()[1]
    with pytest.raises(MrsxrError, match="needs a cube with the attribute 'wcs'"):
        plot.cube_image(cube, aperture=(120.0, -30.0, 1.0))


def test_wrong_range_and_level_of_a_cube_are_refused():
    with pytest.raises(MrsxrError, match=r"no plane between 20 and 21 um; it reaches from 4.9"):
        plot.cube_image(make_cube(), (20, 21))
    for draw in (plot.cube_image, plot.dq_image):
        with pytest.raises(MrsxrError, match=r"no plane at wavelength 12.8 um; it reaches from 4.9"):
            draw(make_cube(), wavelength=12.8)
    with pytest.raises(LevelError, match="level cube, got rate"):
        plot.cube_image(make_exposure())


def test_an_empty_cube_is_drawn_with_its_axes():
    ax = drawn(plot.cube_image(make_cube(fill=np.nan)))
    assert ax.get_title().startswith("1A")
    assert ax.get_xlim()[0] < 0 < 13 < ax.get_xlim()[1]


# --- maps of lines -------------------------------------------------------------------------------------------------


def test_line_maps_are_flux_velocity_and_dispersion_in_one_style():
    axes = plot.line_maps(make_maps(), "[O IV] 25.89")
    assert isinstance(axes, np.ndarray)
    assert [ax.get_title() for ax in axes] == ["Flux", "Velocity", "Dispersion"]
    bars = [ax.child_axes[0].get_ylabel() for ax in axes]
    assert bars == ["Flux [10⁻¹⁸ W m⁻² per spaxel]", "Velocity [km s⁻¹]", "Dispersion [km s⁻¹]"]
    assert axes[0].figure.get_suptitle() == "[O IV] 25.89   z = 0.016"
    assert len({ax.get_xlim() for ax in axes}) == len({ax.get_ylim() for ax in axes}) == 1
    norm = mesh_of(axes[1], "map").norm
    shown = mesh_of(axes[1], "map").get_array()
    middle = float(np.median(shown[np.isfinite(shown)].data))
    assert norm.vmax - middle == pytest.approx(middle - norm.vmin)
    assert mesh_of(axes[1], "map").cmap.name == "RdBu_r"
    assert [ax.coords[1].get_axislabel() for ax in axes] == ["Dec (ICRS)", "", ""]
    beam = beam_of(axes[0])
    assert beam.width == pytest.approx(mrs.psf_fwhm(25.8903 * 1.016) / 0.35, rel=1e-3)
    assert_tidy(axes)


def test_faint_spaxels_are_grey_and_unobserved_ones_white():
    maps = make_maps()
    for name, limit in (("flux", 3.0), ("velocity", 5.0), ("dispersion", 8.0)):
        ax = plot.line_map(maps, name, LINES[0])
        grey, shown = ax.collections[0].get_array(), mesh_of(ax, "map").get_array()
        snr = maps["snr"].sel(line=LINES[0]).values
        np.testing.assert_array_equal(~np.ma.getmaskarray(np.ma.masked_invalid(grey)), snr < limit)
        np.testing.assert_array_equal(~np.ma.getmaskarray(np.ma.masked_invalid(shown)), snr >= limit)
        assert mesh_of(ax, "map").cmap.get_bad()[3] == 0.0
    assert len(plot.line_map(maps, "flux", LINES[0], snr=0.0).collections) == 1
    blanked = maps.assign(flux=maps["flux"].where(maps["snr"] > 10))
    grey = plot.line_map(blanked, "flux", LINES[0]).collections[0].get_array()
    assert (grey == 0).sum() == int((maps["snr"].sel(line=LINES[0]) <= 10).sum())


def test_a_wild_spaxel_does_not_take_the_colours_of_velocities():
    maps = make_maps()
    maps["velocity"].values[:, 6, 5:7] = 5000.0
    assert mesh_of(plot.line_map(maps, "velocity", LINES[0]), "map").norm.vmax < 1500
    assert mesh_of(plot.line_map(maps, "velocity", LINES[0], limits=(-50, 60)), "map").norm.vmin == -50


def test_lines_and_variables_are_found_by_name_or_refused_with_what_there_is():
    maps = make_maps()
    assert plot.line_map(maps, "flux", "[Ne V]").get_title() == "[Ne V] 24.32"
    assert plot.line_map(maps.sel(line=LINES[0])).get_title() == "[Ne V] 24.32"
    assert plot.line_map(maps.sel(line=LINES[0]), "flux", LINES[0]).get_title() == "[Ne V] 24.32"
    for wavelength in (24.3175, "24.32 um", "24317.5 nm"):
        assert plot.line_map(maps, "flux", wavelength).get_title() == "[Ne V] 24.32"
    with pytest.raises(MrsxrError, match=r"'24\.6' is not among the lines"):
        plot.line_map(maps, "flux", 24.6)
    with pytest.raises(MrsxrError, match=r"'\[S IV\]' is not among the lines"):  # it was not looked at
        plot.line_map(maps.sel(line=LINES[0]), "flux", "[S IV]")
    with pytest.raises(MrsxrError, match=r"'\[Ne II\]' is not among the lines; expected one of \[Ne V\] 24.32, "):
        plot.line_map(maps, "flux", "[Ne II]")
    with pytest.raises(MrsxrError, match="one line is drawn; expected one of"):
        plot.line_map(maps)
    with pytest.raises(MrsxrError, match="no map 'colour'; expected one of flux, flux_err, velocity"):
        plot.line_map(maps, "colour", "[Ne V]")
    with pytest.raises(MrsxrError, match="no component 3; expected 1 to 2"):
        plot.line_map(maps, "component_flux", "[Ne V]", component=3)
    with pytest.raises(
        MrsxrError, match="ax has 2 panels; line maps of flux, velocity, dispersion needs an array of 3"
    ):
        plot.line_maps(maps, "[Ne V]", ax=pyplot.subplots(1, 2)[1])


def test_components_errors_and_other_maps_are_named():
    maps = make_maps()
    ax = plot.line_map(maps, "component_flux", LINES[0], component=2)
    first = plot.line_map(maps, "component_flux", LINES[0], component=1)
    second, first = (mesh_of(a, "map").get_array().filled(np.nan) for a in (ax, first))
    assert np.nanmax(second / first) == pytest.approx(0.2)
    assert plot.line_map(maps, "flux_err", LINES[0]).child_axes[0].get_ylabel().startswith("Error of flux [10⁻²⁰ W")
    counts = plot.line_map(maps, "n_components", LINES[0])
    assert counts.child_axes[0].get_ylabel() == "Components"
    assert set(np.unique(mesh_of(counts, "map").get_array().compressed())) <= {1.0, 2.0}
    assert np.isnan(mesh_of(counts, "map").get_array().filled(np.nan)[0]).all()  # not observed
    with pytest.raises(MrsxrError, match="component is 2, and 'flux' has none; leave it out, or draw component_flux"):
        plot.line_map(maps, "flux", LINES[0], component=2)
    for wrong in ("no such map of colours", 3.5):
        with pytest.raises(MrsxrError, match=r"cmap is .*; expected the name of a colour map of matplotlib, or one"):
            plot.line_map(maps, "flux", LINES[0], cmap=wrong)
    taken = plot.line_map(maps, "flux", LINES[0], cmap=matplotlib.colormaps["magma"])
    assert mesh_of(taken, "map").get_cmap().name == "magma"


def test_moments_are_drawn_under_their_names():
    maps = make_maps().isel(line=1).rename(flux="moment0", velocity="moment1", dispersion="moment2")
    axes = plot.line_maps(maps.drop_vars("component_flux"))
    assert [ax.get_title() for ax in axes] == ["Flux", "Velocity", "Dispersion"]


def test_maps_without_any_value_are_drawn():
    maps = make_maps()
    for name in ("flux", "velocity", "dispersion", "snr"):
        maps[name].values[:] = np.nan
    axes = drawn(plot.line_maps(maps, "[O IV]"))
    assert all(np.ma.getmaskarray(np.ma.masked_invalid(mesh_of(ax, "map").get_array())).all() for ax in axes)


def test_channel_maps_share_one_scale_and_tell_their_velocities():
    channels = make_channels(6)
    axes = plot.channel_maps(channels, columns=3)
    assert axes.shape == (6,)
    assert [ax.get_title() for ax in axes][:3] == ["−250 km s⁻¹", "−150 km s⁻¹", "−50 km s⁻¹"]
    assert len({mesh_of(ax, "map").norm for ax in axes}) == 1
    assert len({ax.get_xlim() for ax in axes}) == 1
    texts = [ax.get_ylabel() for ax in axes[0].figure.axes]
    assert "Flux in a channel [10⁻¹⁹ W m⁻² per spaxel]" in texts
    assert [bool(ax.coords[1].get_axislabel()) for ax in axes] == [True, False, False] * 2
    assert [bool(ax.coords[0].get_axislabel()) for ax in axes] == [False] * 3 + [True] * 3
    total = sum(mesh_of(ax, "map").get_array().filled(0.0) for ax in axes)
    np.testing.assert_allclose(np.nan_to_num(total) * 1e-19, channels["flux"].fillna(0).sum("velocity").values)
    assert_tidy(axes)


def test_channel_maps_draw_into_given_axes_and_refuse_other_data():
    channels = make_channels(2, angle=50.0)
    figure = pyplot.figure(figsize=(9, 4))
    given = [plot.sky_axes(channels, figure, (1, 2, i)) for i in (1, 2)]
    assert list(plot.channel_maps(channels, given)) == given
    with pytest.raises(MrsxrError, match=r"flux on \(velocity, y, x\), got lines"):
        plot.channel_maps(make_maps())


def test_ends_of_a_bar_are_arrows_where_values_lie_beyond():
    from matplotlib.colors import BoundaryNorm, Normalize

    from mrsxr.plot._style import _beyond

    values = np.array([0.0, 1.0, 2.0, np.nan])
    ends = [_beyond(Normalize(*limits), values) for limits in ((0, 2), (0.5, 2), (0, 1.5), (0.5, 1.5))]
    assert ends == ["neither", "min", "max", "both"]
    assert _beyond(BoundaryNorm([0.5, 1.5], 1), values) == "neither"


def test_neighbouring_panels_of_the_sky_keep_apart():
    cube = make_cube()
    figure = pyplot.figure(figsize=(9, 3))
    axes = [plot.sky_axes(cube, figure, (1, 3, i)) for i in (1, 2, 3)]
    for ax in axes:
        plot.cube_image(cube, ax=ax)
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox(figure.canvas.get_renderer()) for ax in axes]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert boxes[0].x0 >= 0
    assert boxes[-1].x1 <= figure.bbox.x1
    pyplot.close(figure)
