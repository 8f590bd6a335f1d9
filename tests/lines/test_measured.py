"""Numbers of lines below the signal to noise that they need are shown nowhere as measurements."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import QTable
from test_line_fits import FLUX, NE2, make_cube, make_spectrum

from mrsxr import load, save
from mrsxr.errors import MrsxrError, MrsxrWarning
from mrsxr.lines import fit_line, line_table, mask_maps, moments
from mrsxr.plot import line_fit
from mrsxr.report.results import _line_row
from mrsxr.schema import LINE_LIMITS, is_measured

NUMBERS = {"flux": "flux", "flux_err": "flux", "ew": "flux", "velocity": "velocity", "velocity_err": "velocity",
           "dispersion": "dispersion", "dispersion_err": "dispersion", "fwhm": "dispersion"}  # fmt: skip


@pytest.fixture(scope="module")
def ladder():
    """Fits of one line at S/N 2, 4, 6, 20, and of one whose fit ended at a bound."""
    fit = fit_line(make_spectrum([(FLUX, 30.0, 90.0)], noise=50.0), NE2).compute()
    rows = []
    for number, (snr, flags) in enumerate([(2.0, 1), (4.0, 0), (6.0, 0), (20.0, 0), (20.0, 2), (20.0, 4)]):
        row = fit.copy(deep=True)
        for name in ("flux", "component_flux"):
            row[f"{name}_err"] = row[name] / snr
        row["snr"][:] = snr
        row["fit_flags"][:] = np.uint8(flags)
        rows.append(row.assign_coords(line=[f"line {number}"]))
    out = xr.concat(rows, "line", data_vars="minimal", combine_attrs="override").assign_attrs(fit.attrs)
    for name in fit.variables:
        out[name].attrs = fit[name].attrs
    return out


def seen_by(snr, flags, kind):
    return snr >= LINE_LIMITS[kind] and not flags & (4 if kind == "flux" else 6)


@pytest.mark.parametrize("name", NUMBERS)
def test_table_print_and_file_blank_them(ladder, tmp_path, name):
    table = line_table(ladder)
    facts = list(zip(ladder.snr.values, ladder.fit_flags.values, strict=True))
    expected = [not seen_by(s, f, NUMBERS[name]) for s, f in facts]
    assert np.asarray(table[name].mask).tolist() == expected
    column = table[["line", name]].pformat(max_lines=-1, show_unit=False)[2:]
    assert ["—" in text or "--" in text for text in column] == expected
    table.write(tmp_path / "lines.ecsv")
    again = QTable.read(tmp_path / "lines.ecsv")
    assert np.asarray(again[name].mask).tolist() == expected
    assert not np.isnan(np.asarray(line_table(ladder, blank=False)[name].value)).any()


def test_limits_stand_where_nothing_is_seen(ladder):
    table = line_table(ladder)
    assert np.asarray(table["upper_limit"].mask).tolist() == [False, True, True, True, True, False]
    assert float(table["upper_limit"][0].unmasked.value) == pytest.approx(float(ladder.upper_limit[0]))
    assert not hasattr(table["snr"], "mask")


def test_tables_of_fits_files_have_no_such_numbers(ladder, tmp_path):
    path = save(ladder, tmp_path / "lines.fits")[0]
    facts = list(zip(ladder.snr.values, ladder.fit_flags.values, strict=True))
    with fits.open(path) as hdus:
        rows = hdus["LINES"].data
        for name, kind in NUMBERS.items():
            if name == "fwhm":
                continue
            hidden = [not seen_by(s, f, kind) for s, f in facts]
            assert np.isnan(np.ravel(rows[name.upper()])).tolist() == hidden
        assert np.isnan(np.ravel(rows["COMPONENT_VELOCITY"])).tolist() == [
            not seen_by(s, f, "velocity") for s, f in facts
        ]
    np.testing.assert_array_equal(load(path).velocity, ladder.velocity)  # the fit itself is kept


def test_report_and_labels_of_pictures_leave_them_out(ladder):
    spectrum = make_spectrum([(FLUX, 30.0, 90.0)], noise=50.0)
    for number, (snr, flags) in enumerate(zip(ladder.snr.values, ladder.fit_flags.values, strict=True)):
        one = ladder.isel(line=number)
        cells = _line_row(one, 0.0)
        for cell, kind in ((2, "flux"), (4, "velocity"), (5, "dispersion"), (6, "flux")):
            assert ("±" in str(cells[cell])) == bool(seen_by(snr, flags, kind))
        if not seen_by(snr, flags, "velocity"):
            assert cells[1] == f"{float(one.wavelength_rest):.4f}"
        line_fit(spectrum, ladder.isel(line=[number]).assign_coords(line=fit_labels()))
        (text,) = [t.get_text() for t in plt.gcf().findobj(plt.Text) if t.get_gid() == "result"]
        assert ("v = " in text) == bool(seen_by(snr, flags, "velocity"))
        assert ("σ = " in text) == bool(seen_by(snr, flags, "dispersion"))
        assert ("F = " in text) == bool(seen_by(snr, flags, "flux"))
        assert ("F < " in text) == (not seen_by(snr, flags, "flux"))
        plt.close("all")


def fit_labels():
    return fit_line(make_spectrum([(FLUX, 30.0, 90.0)], noise=50.0), NE2)["line"].values


def test_absorption_counts_by_its_size():
    fit = fit_line(make_spectrum([(-FLUX, 0.0, 90.0)], noise=50.0), NE2, absorption=True)
    assert (fit.snr < -8).all()
    masked = mask_maps(fit)
    for name in ("flux", "velocity", "dispersion", "component_velocity"):
        assert np.isfinite(masked[name]).all()
        assert bool(is_measured(fit, name).all())
    assert not hasattr(line_table(fit)["velocity"], "mask")
    given = fit.assign_attrs(absorption=0)
    assert np.isnan(mask_maps(given).velocity).all()


def test_noise_is_no_line():
    """Of fits to noise alone hardly a velocity is shown, and every flux that is not is a limit."""
    shown = 0
    for seed in range(20):
        table = line_table(fit_line(make_spectrum([(0.0, 0.0, 90.0)], noise=50.0, seed=seed), NE2))
        hidden = bool(np.all(getattr(table["velocity"], "mask", False)))
        shown += not hidden
        if np.all(getattr(table["flux"], "mask", False)):
            assert np.isfinite(float(table["upper_limit"][0].value))
    assert shown <= 1


LINE = [(FLUX, 30.0, 90.0)]


@pytest.mark.parametrize("where", ["core", "line", "everywhere"])
@pytest.mark.parametrize("how", [np.nan, 0.0])
@pytest.mark.filterwarnings("ignore:the data have no errors:mrsxr.errors.MrsxrWarning")
def test_light_without_errors_is_fitted_and_flagged(where, how):
    spectrum = make_spectrum(LINE, noise=50.0)
    whole = fit_line(spectrum, NE2)
    k = int(np.argmax(spectrum.flux.values))
    part = {"core": slice(k - 1, k + 2), "line": slice(k - 6, k + 7), "everywhere": slice(None)}[where]
    blind = spectrum.copy(deep=True)
    blind["var"][part] = how
    out = fit_line(blind, NE2)
    for name in ("flux", "flux_err", "velocity", "dispersion"):
        assert float(out[name][0]) == pytest.approx(float(whole[name][0]), rel=0.05)
    assert out.fit_flags.values.tolist() == [64]
    assert not whole.fit_flags.any()
    assert (where == "everywhere") == bool(out.attrs.get("notes"))


def test_errors_that_are_asked_for_must_be_there():
    spectrum = make_spectrum(LINE, noise=50.0)
    blind = spectrum.assign(var=spectrum["var"] * np.nan)
    with pytest.raises(MrsxrError, match="noise 'given' needs them, take noise 'residual'"):
        fit_line(blind, NE2, noise="given")
    with pytest.warns(MrsxrWarning, match="errors: those of the lines are from the scatter"):
        out = fit_line(blind, NE2)
    assert "from the scatter of the residuals" in out.attrs["notes"][0]


@pytest.mark.parametrize("where", ["core", "everywhere"])
def test_moments_of_light_without_errors(where):
    cube = make_cube(LINE, n=(2, 2), noise=50.0)
    whole = moments(cube, NE2).compute()
    k = int(np.argmax(cube.flux.values[:, 0, 0]))
    blind = cube.copy(deep=True)
    blind["var"][slice(k - 1, k + 2) if where == "core" else slice(None), 0, 0] = np.nan
    out = moments(blind, NE2).compute()
    for name in ("moment0", "moment0_err", "moment1", "moment2"):
        np.testing.assert_allclose(out[name], whole[name], rtol=1e-6)
    given = moments(blind, NE2, noise="error").compute()
    assert float(given.moment0[0, 0]) == pytest.approx(float(whole.moment0[0, 0]))
    assert bool(np.isnan(given.moment0_err[0, 0])) == (where == "everywhere")


@pytest.mark.parametrize(("gap", "worse"), [((0, 1), 1.2), ((-1, 2), 3.0), ((0, 6), 30.0), ((1, 8), 8.0)])
def test_a_line_half_in_a_gap_has_the_error_that_it_deserves(gap, worse):
    """The flux stays within its errors, which grow with what is missing."""
    for seed in range(4):
        spectrum = make_spectrum(LINE, noise=50.0, seed=seed)
        k, whole = int(np.argmax(spectrum.flux.values)), fit_line(spectrum, NE2)
        cut = spectrum.copy(deep=True)
        cut["dq"][k + gap[0] : k + gap[1]] = 1
        cut["flux"][k + gap[0] : k + gap[1]] = 1e9
        out = fit_line(cut, NE2)
        assert abs(float(out.flux[0]) - FLUX) < 4.5 * float(out.flux_err[0])
        assert 0.9 < float(out.flux_err[0] / whole.flux_err[0]) < 2.0 * worse


def test_a_line_that_fell_into_a_gap_is_none():
    spectrum = make_spectrum(LINE, noise=50.0)
    k = int(np.argmax(spectrum.flux.values))
    spectrum["dq"][k - 6 : k + 7] = 1
    table = line_table(fit_line(spectrum, NE2))
    for name in ("flux", "velocity", "dispersion"):
        assert bool(table[name].mask[0])
