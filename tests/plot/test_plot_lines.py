from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from astropy.visualization.wcsaxes import WCSAxes
from matplotlib import pyplot
from plot_makers import assert_tidy, drawn, labels, make_cube, make_exposure, make_line_spectrum, make_spectrum

from mrsxr import mrs, plot
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.lines.excitation import H2_LEVELS, partition_function
from mrsxr.lines.fit import fit_line
from mrsxr.plot._lines import flag_names, with_error

NE2 = "[Ne II] 12.81"


@pytest.fixture(scope="module")
def spectrum():
    return make_line_spectrum()


@pytest.fixture(scope="module")
def fit(spectrum):
    return fit_line(spectrum, NE2, components="auto")


def curves(ax, gid):
    return [line for line in ax.lines if line.get_gid() == gid]


def result(ax):
    (text,) = labels(ax, "result")
    return text.get_text()


def test_line_fit_draws_data_model_components_and_residuals(spectrum, fit):
    upper, lower = drawn(plot.line_fit(spectrum, fit, NE2))
    assert (upper.get_ylabel(), lower.get_ylabel()) == ("Flux density [mJy]", "Residual [σ]")
    assert lower.get_xlabel() == "Observed wavelength [µm]"
    assert upper.get_title() == "[Ne II] 12.81   z = 0.01"
    assert len(curves(upper, "component")) == 2
    (model,) = curves(upper, "model")
    (data,) = [line for line in upper.lines if line.get_label() == "data"]
    np.testing.assert_allclose(model.get_xdata(), data.get_xdata())
    (rest,) = curves(lower, "residuals")
    assert np.std(rest.get_ydata()) == pytest.approx(1.0, abs=0.2)  # in units of the noise that the fit found
    sum_of_parts = sum(c.get_ydata() for c in curves(upper, "component"))
    (level,) = [line for line in upper.lines if line.get_label() == "continuum"]
    np.testing.assert_allclose(sum_of_parts - level.get_ydata(), model.get_ydata(), rtol=1e-6)
    assert [t.get_text() for t in upper.get_legend().get_texts()] == [
        "data", "continuum", "component 1", "component 2", "total",
    ]  # fmt: skip
    assert upper.get_shared_x_axes().joined(upper, lower)
    assert_tidy([upper, lower])


def test_line_fit_tells_flux_velocity_dispersion_and_number_of_components(spectrum, fit):
    rows = result(plot.line_fit(spectrum, fit, NE2)[0]).split("\n")
    one = fit.isel(line=0)
    expected = with_error(float(one["flux"]), float(one["flux_err"]))
    assert rows[0] == f"F = {expected} W m⁻²"
    assert rows[1].startswith("v = −")
    assert rows[1].endswith(" km s⁻¹")
    assert rows[2].startswith("σ = ")
    assert rows[3].startswith("S/N = ")
    assert rows[4].startswith("2 components (ΔBIC = ")


def test_velocities_stand_above_the_line(spectrum, fit):
    upper, _ = plot.line_fit(spectrum, fit, NE2)
    (top,) = upper.child_axes
    assert top.get_xlabel() == "Velocity of [Ne II] 12.81 [km s⁻¹]"
    forward = top._functions[0]
    assert forward(12.81355 * 1.01) == pytest.approx(0.0, abs=1e-6)
    assert forward(12.81355 * 1.01 * (1 + 1e-3)) == pytest.approx(299.792458)
    drawn(upper)
    assert top.get_xlim()[0] == pytest.approx(forward(upper.get_xlim()[0]))


def test_line_fit_divides_one_axes_or_takes_two(spectrum, fit):
    figure, ax = pyplot.subplots(figsize=(5, 4))
    upper, lower = drawn(plot.line_fit(spectrum, fit, ax=ax))
    assert upper is ax
    assert lower.figure is figure
    assert lower.get_position().y1 < upper.get_position().y0
    box = labels(upper, "result")[0].get_window_extent()
    peak = max(c.get_ydata().max() for c in curves(upper, "model"))
    assert upper.transData.transform((12.9, peak))[1] < box.y0  # small axes: the text stands above the line
    two = pyplot.subplots(2, 1)[1]
    assert list(plot.line_fit(spectrum, fit, ax=two)) == list(two)
    with pytest.raises(MrsxrError, match="ax has 3 panels; a line fit needs an array of 2 Axes"):
        plot.line_fit(spectrum, fit, ax=pyplot.subplots(3, 1)[1])


def test_lines_of_a_blend_are_drawn_and_named(spectrum):
    fit = fit_line(spectrum, [NE2, 12.85])
    other = str(fit["line"].values[1])
    upper, _ = plot.line_fit(spectrum, fit, NE2)
    assert len(curves(upper, "component")) == 2
    assert [t.get_text() for t in labels(upper, "line label")] == [NE2, other]
    with pytest.raises(MrsxrError, match=r"one line is drawn; expected one of \[Ne II\] 12.81, "):
        plot.line_fit(spectrum, fit)


def make_line_cube(spectrum):
    """The spectrum in each of 3 x 4 spaxels, brighter from spaxel to spaxel; one of them without data."""
    scale = 1.0 + np.arange(12.0).reshape(3, 4)
    flux = spectrum["flux"].values[:, None, None] * scale * 1e3
    var = spectrum["var"].values[:, None, None] * scale**2 * 1e6
    flux[:, 0, 0] = np.nan
    dims = ("wavelength", "y", "x")
    dq = np.where(np.isnan(flux), 513, 0).astype("uint32")
    return xr.Dataset(
        {"flux": (dims, flux, {"units": "MJy/sr"}), "var": (dims, var, {"units": "MJy2/sr2"}), "dq": (dims, dq)},
        {"wavelength": spectrum["wavelength"], "y": np.arange(3) * 0.2, "x": np.arange(4) * 0.2},
        {"level": "cube", "band": "3A", "pixel_scale": 0.2, "redshift": 0.01},
    )


def test_a_spaxel_of_a_cube_is_drawn_by_row_and_column(spectrum):
    cube = make_line_cube(spectrum)
    fit = fit_line(cube, NE2)
    upper, _ = plot.line_fit(cube, fit, y=2, x=3)
    assert upper.get_ylabel() == "Surface brightness [MJy sr⁻¹]"
    assert upper.get_title().endswith("y = 2, x = 3")
    (data,) = [line for line in upper.lines if line.get_label() == "data"]
    assert np.isin(data.get_ydata(), cube["flux"].isel(y=2, x=3).values).all()
    cut = plot.line_fit(cube.isel(y=2, x=3), fit.isel(y=2, x=3, line=0))[0]
    assert result(cut) == result(upper)
    empty = plot.line_fit(cube, fit, y=0, x=0)[0]
    assert "not fitted" in result(empty)
    assert "flags: " in result(empty)
    assert "no valid data" in [t.get_text() for t in empty.texts]
    with pytest.raises(MrsxrError, match="give its row y and column x"):
        plot.line_fit(cube, fit)
    with pytest.raises(MrsxrError, match="no spaxel with y = 7; expected 0 to 2"):
        plot.line_fit(cube, fit, y=7, x=0)
    with pytest.raises(MrsxrError, match="x is 3, but there are no spaxels"):
        plot.line_fit(cube.isel(y=2, x=3), fit.isel(y=2, x=3, line=0), x=3)
    assert result(plot.line_fit(cube.isel(y=2, x=3), fit, y=2, x=3)[0]) == result(upper)


def test_undetected_lines_have_an_upper_limit():
    ds = make_line_spectrum()
    rng = np.random.default_rng(8)
    ds["flux"].values[:] = 1.0 + rng.normal(0, 0.01, ds.sizes["wavelength"])
    ds["var"].values[:] = 1e-4
    upper, _ = plot.line_fit(ds, fit_line(ds, NE2))
    assert "(3σ)" in result(upper)
    assert "F < " in result(upper)


def test_numbers_with_errors():
    assert with_error(1.234e-18, 4.2e-20) == "(1.234 ± 0.042) × 10⁻¹⁸"
    assert with_error(-106.07, 5.83) == "−106.1 ± 5.8"
    assert with_error(1500.0, 120.0) == "1500 ± 120"
    assert with_error(2.5e-17, np.nan) == "2.5 × 10⁻¹⁷"
    assert with_error(np.nan, 1.0) == "not found"
    flags = xr.DataArray(np.uint8(9), attrs={"flag_masks": [1, 2, 4, 8], "flag_meanings": "low bound failed few"})
    assert flag_names(xr.Dataset({"fit_flags": flags})) == ["low", "few"]
    assert flag_names(xr.Dataset()) == []


# --- excitation ----------------------------------------------------------------------------------------------------


def make_excitation(temperatures=(400.0, 1200.0), columns=(1e20, 1e18), faint=("H2 S(6)",)):
    names = [f"H2 S({j})" for j in range(1, 8)]
    energy, weight = (np.array([H2_LEVELS[n][k] for n in names]) for k in (1, 3))
    t, n = (np.asarray(v)[:, None] for v in (temperatures, columns))
    column = weight * np.sum(n / partition_function(t) * np.exp(-energy / t), axis=0)
    error = np.where(np.isin(names, faint), column, 0.05 * column)
    gas = "temperature_component"
    return xr.Dataset(
        {
            "column": ("line", column, {"units": "1/cm2"}), "column_err": ("line", error, {"units": "1/cm2"}),
            "ln_column": ("line", np.log(column / weight), {"units": "1"}),
            "ln_column_err": ("line", error / column, {"units": "1"}),
            "temperature": (gas, np.array(temperatures)), "temperature_err": (gas, 0.05 * np.array(temperatures)),
            "total_column": (gas, np.array(columns)), "total_column_err": (gas, 0.1 * np.array(columns)),
            "mass_per_area": (gas, np.array(columns) / 5e19), "mass_per_area_err": (gas, np.array(columns) / 5e20),
        },
        {"line": [f"{n} {H2_LEVELS[n][0]:.2f}" for n in names], "energy": ("line", energy), "weight": ("line", weight),
         gas: np.arange(1, len(columns) + 1)},
        {"level": "excitation", "ortho_to_para": 3.0},
    )  # fmt: skip


def test_excitation_diagram_has_levels_gas_and_numbers():
    ds = make_excitation()
    ax = drawn(plot.excitation(ds))
    assert ax.get_xlabel() == "Energy of the upper level, $E_u/k$ [K]"
    assert "cm⁻²" in ax.get_ylabel()
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    assert names == ["gas of 400 K", "gas of 1200 K", "fit", "ortho levels", "para levels"]
    assert [t.get_text() for t in labels(ax, "level")] == [f"S({j})" for j in range(1, 8)]
    points = {c.get_label(): len(c.lines[0].get_xdata()) for c in ax.containers}
    assert points == {"ortho levels": 4, "para levels": 2}  # S(6) is an upper limit
    (limit,) = [line for line in ax.lines if line.get_gid() == "limits" and len(line.get_xdata())]
    level = ds.isel(line=5)
    np.testing.assert_allclose(limit.get_ydata(), np.log(3 * level["column_err"] / level["weight"]))
    (total,) = [line for line in ax.lines if line.get_gid() == "model"]
    np.testing.assert_allclose(
        np.interp(ds["energy"], total.get_xdata(), total.get_ydata()), ds["ln_column"].values, atol=0.01
    )
    assert result(ax).split("\n")[0] == "T = 400 ± 20 K"
    assert result(ax).endswith("ortho/para = 3")
    assert_tidy(ax)


def test_one_gas_is_a_straight_line_and_other_data_are_refused():
    ax = plot.excitation(make_excitation((600.0,), (1e19,), faint=()))
    (total,) = [line for line in ax.lines if line.get_gid() == "model"]
    slope = np.diff(total.get_ydata()) / np.diff(total.get_xdata())
    np.testing.assert_allclose(slope, -1 / 600.0)
    with pytest.raises(MrsxrError, match="needs the result of h2_excitation, got spectrum"):
        plot.excitation(make_spectrum())


# --- before and after ----------------------------------------------------------------------------------------------


def test_compare_detector_images_shares_the_scale_and_shows_what_was_taken_away():
    before = make_exposure("rate")
    after = before.assign(rate=(before["rate"] - 5.0).assign_attrs(before["rate"].attrs))
    axes = plot.compare(before, after, dither=2)
    images = [ax.get_images()[0] for ax in axes]
    assert [ax.get_title() for ax in axes] == ["before", "after", "before − after"]
    assert images[0].norm is images[1].norm
    np.testing.assert_allclose(images[2].get_array(), 5.0, atol=1e-3)
    assert images[2].norm.vmin == -images[2].norm.vmax
    assert images[2].cmap.name == "RdBu_r"
    labels_of = [ax.child_axes[0].get_ylabel() for ax in axes]
    assert labels_of == ["Count rate [DN s⁻¹]", "Count rate [DN s⁻¹]", "before − after [DN s⁻¹]"]
    assert_tidy(axes)


def test_compare_takes_a_region_names_and_percent():
    before = make_exposure("cal").assign_coords(y=np.arange(40), x=np.arange(48))
    after = before.assign(flux=(before["flux"] / 1.1).assign_attrs(before["flux"].attrs))
    region = slice(10, 20), slice(8, 24)
    axes = plot.compare(before, after, region=region, relative=True, names=("fringes", "none"), title="fringe flat")
    assert axes[2].get_images()[0].get_array().shape == (10, 16)
    np.testing.assert_allclose(axes[2].get_images()[0].get_array(), 10.0, rtol=1e-4)
    assert axes[2].child_axes[0].get_ylabel() == "fringes − none [% of none]"
    assert axes[0].get_xlim() == (7.5, 23.5)
    assert axes[0].figure.get_suptitle() == "fringe flat"
    with pytest.raises(MrsxrError, match="holds no pixels"):
        plot.compare(before, after, region=(slice(90, 95), slice(0, 5)))


def test_compare_names_the_steps_between():
    before = make_exposure("rate").assign_attrs(history_json='[{"step": "rate.fit_ramps"}]')
    history = '[{"step": "rate.fit_ramps"}, {"step": "cal.subtract_straylight"}]'
    axes = plot.compare(before, before.assign_attrs(history_json=history))
    assert axes[0].figure.get_suptitle() == "subtract_straylight"


def test_compare_cubes_on_the_sky():
    before = make_cube(angle=60.0)
    after = before.assign(flux=(before["flux"] * 0.9).assign_attrs(before["flux"].attrs))
    axes = plot.compare(before, after, wavelength=(5.0, 5.2))
    assert all(isinstance(ax, WCSAxes) for ax in axes)
    assert "5.0" in axes[0].figure.get_suptitle()
    drawn_difference = axes[2].collections[0].get_array()
    np.testing.assert_allclose(
        np.nanmax(drawn_difference), 0.1 * np.nanmax(axes[0].collections[0].get_array()), rtol=1e-5
    )
    assert_tidy(axes)
    with pytest.raises(MrsxrError, match="no sky coordinates"):
        plot.compare(before, after, pyplot.subplots(1, 3)[1])


def test_compare_spectra_in_one_panel_with_the_difference_below():
    before = make_spectrum(("3A", "3B"), peak=0.1)
    after = before.assign(flux=(before["flux"] * 0.98).assign_attrs(before["flux"].attrs))
    upper, lower = plot.compare(before, after, redshift=0.0, relative=True)
    rest = curves(lower, "difference")
    assert len(rest) == 2  # one for each band
    np.testing.assert_allclose(np.concatenate([c.get_ydata() for c in rest]), 100 * (1 / 0.98 - 1), rtol=1e-6)
    assert lower.get_ylabel() == "before − after\n[% of after]"
    assert [t.get_text() for t in upper.get_legend().get_texts()] == ["before", "after"]
    assert upper.get_ylabel() == "Flux density [mJy]"
    assert "[Ne II]" in [t.get_text() for t in labels(upper, "line label")]
    zoomed = plot.compare(before, after, zoom=(12.5, 13.0))
    low, high = zoomed[0].get_xlim()
    assert 12.4 < low < high < 13.1
    assert_tidy([upper, lower])


def test_compare_refuses_what_cannot_be_compared():
    with pytest.raises(LevelError, match="before is a detector image and after is a cube; expected two of a kind"):
        plot.compare(make_exposure(), make_cube())
    with pytest.raises(MrsxrError, match="40 x 48 pixels in DN/s, after 40 x 48 in MJy/sr; expected the same"):
        plot.compare(make_exposure("rate"), make_exposure("cal"))
    jansky = make_spectrum()
    other = jansky.assign(flux=jansky["flux"].assign_attrs(units="mJy"))
    with pytest.raises(MrsxrError, match="before is flux in Jy, after flux in mJy; expected the same"):
        plot.compare(jansky, other)


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (make_cube, "dither", 2), (make_cube, "integration", 1), (make_cube, "region", (slice(0, 5), slice(0, 5))),
        (make_cube, "zoom", (5.0, 5.2)), (make_cube, "redshift", 0.0), (make_spectrum, "dither", 3),
        (make_spectrum, "wavelength", 12.0), (make_exposure, "wavelength", 5.0), (make_exposure, "zoom", "[Ne II]"),
    ],
)  # fmt: skip
def test_compare_refuses_what_says_nothing_of_such_data(make, name, value):
    with pytest.raises(MrsxrError, match=f"compare: {name} chooses of .*leave it out"):
        plot.compare(make(), make(), **{name: value})
    with pytest.raises(MrsxrError, match="dither is -1; expected a whole number of at least 1"):
        plot.compare(make(), make(), dither=-1)


def test_compare_of_bands_that_do_not_overlap_has_no_difference():
    first, second = make_spectrum(("1A",)), make_spectrum(("4A",))
    _, lower = plot.compare(first, second)
    assert np.isnan(curves(lower, "difference")[0].get_ydata()).all()
    assert mrs.WAVELENGTH_LIMITS["4A"][0] < lower.get_xlim()[1]
