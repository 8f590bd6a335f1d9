from __future__ import annotations

import numpy as np
import pytest
from astropy.visualization.wcsaxes import WCSAxes
from matplotlib import pyplot
from matplotlib.patches import Circle
from plot_makers import CENTRE, assert_tidy, drawn, make_cube, make_exposure, make_spectrum

from mrsxr import mrs, plot, tree
from mrsxr.errors import MrsxrError


def circles(ax):
    """Radii of the apertures [arcsec] of spaxels of 0.2 arcsec."""
    return [0.2 * p.radius for p in ax.patches if isinstance(p, Circle)]


def test_summary_of_a_whole_run():
    cubes = {band: make_cube(band, chunks=(4, 12, 14)) for band in mrs.BANDS}
    axes = plot.summary(make_exposure("cal"), cubes, make_spectrum(mrs.BANDS), redshift=0.0)
    figure = axes[0].figure
    assert [ax.get_title()[:3] for ax in axes[:5]] == ["12A", "1A ", "2A ", "3A ", "4A "]
    assert all(isinstance(ax, WCSAxes) for ax in axes[1:5])
    assert axes[5].get_ylabel().startswith("Flux density")
    assert axes[5].get_xlabel().endswith("z = 0")
    assert tuple(figure.get_size_inches()) == (14.0, 8.0)
    assert figure.get_suptitle() == "TEST   (program 1)   MIRI MRS"
    expected = [2 * mrs.psf_fwhm(sum(mrs.WAVELENGTH_LIMITS[b]) / 2) for b in ("1A", "2A", "3A", "4A")]
    np.testing.assert_allclose([circles(ax)[-1] for ax in axes[1:5]], expected, rtol=1e-3)


def test_summary_panels_do_not_touch_each_other_or_the_edge():
    cubes = [make_cube(band) for band in ("1A", "2A", "3A", "4A")]
    assert_tidy(plot.summary(make_exposure(), cubes, make_spectrum(("1A", "2A", "3A", "4A"))))


@pytest.mark.parametrize("bands", [("4A", "4B", "4C"), ("1A", "1B", "1C", "2A", "2B")])
def test_summary_fills_up_with_bands_of_the_same_channel(bands):
    axes = plot.summary(cubes=[make_cube(b) for b in reversed(bands)], spectrum=make_spectrum(bands))
    titles = [ax.get_title()[:2] for ax in axes[:-1]]
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
    axes = plot.summary(
        make_exposure() if exposures else None, make_cube() if cubes else None, make_spectrum() if spectrum else None
    )
    assert len(axes) == number
    assert_tidy(axes)


def test_summary_takes_trees_without_background_and_given_apertures():
    science, sky = make_exposure(), make_exposure()
    sky.attrs.update(setting="34C", background=1)
    exposures = tree.build({"/background/34C": sky, "/science/12A": science})
    cubes = tree.build({"/science/1A": make_cube("1A"), "/science/2A": make_cube("2A")})
    axes = plot.summary(exposures, cubes, aperture={"1A": (*CENTRE, 0.7)}, title="mine")
    assert axes[0].get_title().startswith("12A")
    assert axes[0].figure.get_suptitle() == "mine"
    assert circles(axes[1]) == pytest.approx([0.7, 0.7])
    assert not circles(axes[2])


def test_summary_draws_into_given_axes():
    cube, figure = make_cube(), pyplot.figure()
    given = [plot.sky_axes(cube, figure, (1, 2, 1)), figure.add_subplot(1, 2, 2)]
    assert list(plot.summary(cubes=cube, spectrum=make_spectrum(), ax=given)) == given
    assert pyplot.get_fignums() == [figure.number]
    with pytest.raises(MrsxrError, match="ax has 2 panels; this summary needs an array of 1 Axes"):
        plot.summary(cubes=cube, ax=given)


def test_summary_of_nothing_is_refused_and_of_empty_data_drawn():
    with pytest.raises(MrsxrError, match="nothing was given"):
        plot.summary()
    empty = make_spectrum()
    empty["flux"].values[:] = np.nan
    axes = drawn(plot.summary(make_exposure(fill=np.nan), [make_cube(fill=np.nan)], empty))
    assert len(axes) == 3


# --- files and figures ---------------------------------------------------------------------------------------------


def test_save_figure_writes_whole_files_only_and_closes(tmp_path):
    ax = plot.spectrum(make_spectrum())
    path = plot.save_figure(ax, tmp_path / "new" / "look.png", dpi=40)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["look.png"]
    assert pyplot.get_fignums() == []
    with pytest.raises(MrsxrError, match=r"no picture format; expected one of .*png"):
        plot.save_figure(ax, tmp_path / "look.txt")

    def broken(name, **_):
        name.write_text("half")
        raise OSError("disk full")

    before = path.read_bytes()
    ax.figure.savefig = broken
    with pytest.raises(OSError, match="disk full"):
        plot.save_figure(ax.figure, path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["look.png"]


def test_save_figure_takes_axes_arrays_and_figures_of_sub_figures(tmp_path):
    figure = pyplot.figure()
    part = figure.subfigures(1, 2)[0]
    ax = plot.cube_image(make_cube(), ax=plot.sky_axes(make_cube(), part))
    for i, picture in enumerate((ax, np.array([ax], dtype=object), [ax], figure)):
        assert plot.save_figure(picture, tmp_path / f"{i}.png", dpi=20).stat().st_size > 500
    with pytest.raises(MrsxrError, match="a str is no picture; expected an Axes"):
        plot.save_figure("figure", tmp_path / "x.png")


def test_new_pictures_are_pyplot_figures_and_given_axes_make_none():
    first = plot.cube_image(make_cube())
    assert pyplot.gcf() is first.figure
    plot.detector_image(make_exposure(), ax=pyplot.figure().add_subplot())
    assert len(pyplot.get_fignums()) == 2


@pytest.mark.parametrize("kind", ["pdf", "svg", "jpg"])
def test_saved_pictures_of_any_format_leave_no_figure_open(tmp_path, kind):
    for _ in range(2):
        assert plot.save_figure(plot.cube_image(make_cube()), tmp_path / f"one.{kind}").stat().st_size > 5000
        assert pyplot.get_fignums() == []
