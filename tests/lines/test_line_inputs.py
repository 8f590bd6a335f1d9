"""What people ask of line fits: doublets, lines by many names, one spaxel of a cube, its picture."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from line_cubes import S_III, C, Z, line_cube

from mrsxr import lines, plot
from mrsxr.errors import MrsxrError
from mrsxr.notes import notes_of


@pytest.mark.parametrize("ratio", [0.5, 1.5])
def test_a_doublet_is_found_where_it_stands_not_with_one_line_in_place_of_the_other(ratio):
    """A wide box over both lines of a doublet 300 km/s apart looked best between them."""
    flux, truth = 1e-19, (40.0, 60.0)
    other = S_III * (1 + 300.0 / C)
    cube = line_cube(np.full((6, 10), flux), *truth, noise=0.11, seed=5, more=[(other, ratio * flux)])
    fit = lines.fit_line(cube, [S_III, other], redshift=Z)
    assert float(fit.snr.isel(line=0).median()) > 15
    for k, expected in enumerate((flux, ratio * flux)):
        one = fit.isel(line=k)
        pull = ((one.flux - expected) / one.flux_err).values
        assert abs(pull.mean()) < 0.4
        assert pull.std() < 1.35
    assert float(abs(fit.velocity - truth[0]).max()) < 40.0


def test_the_absent_line_of_a_doublet_does_not_take_the_place_of_the_other():
    cube = line_cube(np.full((6, 10), 1e-19), 40.0, 60.0, noise=0.11, seed=6)
    for gap in (300.0, -300.0):
        fit = lines.fit_line(cube, [S_III, S_III * (1 + gap / C)], redshift=Z)
        there = fit.sel(line=f"{S_III:g}")
        assert float(abs(there.velocity - 40.0).max()) < 40.0
        assert float(abs(there.flux / 1e-19 - 1).max()) < 0.3


def test_a_note_tells_of_lines_that_were_asked_for_and_lie_outside():
    cube = line_cube(np.full((2, 2), 1e-19), noise=0.1)
    found = lines.fit_lines(cube, ["[S III] 18.71", "[Ne II] 12.81"], redshift=Z)
    assert found.line.values.tolist() == ["[S III] 18.71"]
    assert [note for note in notes_of(found) if note.startswith("[Ne II] 12.81: outside the data (18.8")]
    assert not notes_of(lines.fit_lines(cube, redshift=Z))


def test_a_line_that_is_given_twice_is_refused():
    cube = line_cube(np.full((2, 2), 1e-19), noise=0.1)
    for function in (lines.fit_line, lines.fit_lines):
        with pytest.raises(MrsxrError, match=r"18.713 um is given twice \(18.713, \[S III\] 18.71\)"):
            function(cube, [S_III, "[S III]"], redshift=Z)


def test_a_resolution_that_no_fit_can_start_from_is_refused():
    """At 20000 and more the flux of a bright line came out at a fifth, without a word."""
    cube = line_cube(np.full((2, 2), 1e-18), noise=0.1)
    whole = lines.fit_line(cube, S_III, redshift=Z)
    fine = lines.fit_line(cube, S_III, redshift=Z, resolution=6000.0)
    np.testing.assert_allclose(fine.flux, whole.flux, rtol=1e-4)
    for wrong in (20_000.0, 1e20, lambda wave: 1e6 + wave):
        for function, asked in ((lines.fit_line, S_III), (lines.fit_lines, [S_III]), (lines.fit_lines, None)):
            with pytest.raises(
                MrsxrError, match=r"resolution: sigma .* of a sample .*; give a resolution of at most 67\d\d"
            ):
                function(cube, asked, redshift=Z, resolution=wrong)
    for function in (lines.fit_line, lines.moments):
        with pytest.raises(MrsxrError, match=r"resolution: resolving power at .* um is 1e-300; expected 1 or more"):
            function(cube, S_III, redshift=Z, resolution=1e-300)
    with pytest.raises(
        MrsxrError, match="monte_carlo is 99999999999999999999; expected a whole number from 0 to 100000"
    ):
        lines.fit_line(cube, S_III, redshift=Z, monte_carlo=10**20 - 1)
    with pytest.raises(MrsxrError, match="width is 1e-300 km/s; expected at least 1/10000 of the extent"):
        lines.channel_maps(cube, S_III, redshift=Z, width=1e-300)


@pytest.mark.parametrize("text", ["18.713", "18.713 um", "18.713µm", "18713 nm", "1.8713e-5 m"])
def test_a_wavelength_may_be_a_text(text):
    cube = line_cube(np.full((2, 2), 1e-19), noise=0.1)
    expected = lines.fit_line(cube, S_III, redshift=Z)
    xr.testing.assert_allclose(
        lines.fit_line(cube, text, redshift=Z).flux.drop_vars("line"), expected.flux.drop_vars("line")
    )


@pytest.mark.parametrize("cut", [{"y": 3}, {"x": 1}, {"y": 3, "x": 1}])
def test_one_spaxel_or_row_of_a_cube_is_fitted_as_in_the_whole_cube(cut):
    cube = line_cube(np.linspace(1, 2, 30).reshape(5, 6) * 1e-19, noise=0.1)
    whole, part = (lines.fit_line(ds, S_III, redshift=Z) for ds in (cube, cube.isel(cut)))
    assert part.flux.ndim == 3
    for name in ("flux", "velocity", "ra", "dec"):
        np.testing.assert_array_equal(part[name].values.squeeze(), whole[name].isel(cut).values.squeeze())
    picked = cube.sel(ra=float(whole.ra[3, 1]), dec=float(whole.dec[3, 1]))
    moments = [lines.moments(ds, S_III, redshift=Z) for ds in (cube, picked)]
    assert float(moments[1].moment0.squeeze()) == float(moments[0].moment0[3, 1])


@pytest.mark.parametrize("cut", ["as built", "every second spaxel", "means of four"])
def test_a_spaxel_of_a_cube_with_a_wcs_is_drawn_with_its_model(cut):
    """The area of a lone spaxel was asked for, which its neighbours tell."""
    cube = line_cube(np.full((8, 8), 1e-19), noise=0.1)
    if cut != "as built":
        cube = cube.isel(x=slice(None, None, 2), y=slice(None, None, 2)) if "every" in cut else coarse(cube)
    fit = lines.fit_line(cube, S_III, redshift=Z)
    for y, x in ((0, 0), (2, 3), (3, 1)):
        upper, _ = plot.line_fit(cube, fit, y=y, x=x)
        (model,) = [line for line in upper.lines if line.get_gid() == "model"]
        assert np.nanmax(model.get_ydata()) == pytest.approx(float(cube.flux[:, y, x].max()), rel=0.005)


def coarse(cube):
    dq = cube.dq.coarsen(x=2, y=2).max().astype("uint32")
    return cube.drop_vars("dq").coarsen(x=2, y=2).mean(keep_attrs=True).assign(dq=dq)


def test_a_picked_spaxel_is_drawn_tabled_and_modelled():
    cube = line_cube(np.full((8, 8), 1e-19), noise=0.1)
    one = cube.isel(y=2, x=3)
    fit = lines.fit_line(one, S_III, redshift=Z)
    upper, _ = plot.line_fit(one, fit)
    whole, _ = plot.line_fit(cube, lines.fit_line(cube, S_III, redshift=Z), y=2, x=3)
    texts = [[t.get_text() for t in ax.texts if t.get_gid() == "result"] for ax in (upper, whole)]
    assert texts[0]
    assert texts[0] == texts[1]
    assert lines.line_table(fit)["flux"].value[0] == float(fit.flux.squeeze())
    residual = one.flux - lines.line_model(one, fit).model.squeeze()
    assert float(residual.std()) == pytest.approx(0.1, rel=0.4)
