"""Excitation diagrams of H2 gas of known temperature and column."""

import numpy as np
import pytest
import xarray as xr
from line_cubes import line_cube

from mrsxr.errors import MrsxrError, SchemaError
from mrsxr.lines import line_list
from mrsxr.lines.excitation import H2_LEVELS, h2_excitation, partition_function

H, C, SR = 6.62607015e-34, 2.99792458e8, 2.3504430539097885e-11
NAMES = [f"H2 S({j})" for j in range(1, 9)]


def fluxes(gas, names=NAMES, area=2.0, ortho_to_para=3.0):
    """Return fluxes [W m-2] of gas (temperature [K], column [1/cm2]), ... in an area [arcsec2], by hand."""
    out = []
    for name in names:
        wave, energy, einstein, weight = H2_LEVELS[name]
        total = 0.0
        for temperature, column in gas:
            q = 0.0247 * temperature / (1 - np.exp(-6000.0 / temperature)) * (1 + ortho_to_para) / 4
            share = ortho_to_para / 3 if name[-2] in "13579" else 1.0
            total = total + share * column * 1e4 * weight / q * np.exp(-energy / temperature)
        out.append(total * H * C / (wave * 1e-6) * einstein / (4 * np.pi) * area * SR)
    return np.array(out)


def table(flux, error, names=NAMES):
    labels = [f"{name} {H2_LEVELS[name][0]:.2f}" for name in names]
    dims = ("line", *("y", "x")[: flux.ndim - 1])
    data = {"flux": (dims, flux, {"units": "W m-2"}), "flux_err": (dims, error, {"units": "W m-2"})}
    return xr.Dataset(data, {"line": labels}, {"level": "lines", "pixel_scale": 0.2})


def test_levels_are_those_of_the_line_list():
    known = line_list()
    for name, (wave, energy, einstein, weight) in H2_LEVELS.items():
        row = known.isel(line=list(known.name.values).index(name))
        assert float(row.wavelength) == pytest.approx(wave, abs=2e-5)
        upper = int(name[-2]) + 2
        assert weight == (2 * upper + 1) * (3 if upper % 2 else 1)
        # a quadrupole decay goes as the fifth power of the energy step, which is h c / wavelength
        assert einstein > 0
        if name != "H2 S(0)":
            below = H2_LEVELS.get(f"H2 S({upper - 4})")
            step = 1.438776877e4 / wave
            low = energy - step
            assert low == pytest.approx(below[1] if below else 170.5, abs=2.0)


def test_one_temperature():
    flux = fluxes([(350.0, 3e20)])
    out = h2_excitation(table(flux, 0.02 * flux), area=2.0)
    assert out.attrs["level"] == "excitation"
    assert float(out.temperature[0]) == pytest.approx(350.0, rel=1e-6)
    assert float(out.total_column[0]) == pytest.approx(3e20, rel=1e-6)
    assert float(out.mass_per_area[0]) == pytest.approx(3e20 * 1.36 * 2 * 1.6726e-27 / 1.98847e30 * 9.5214e36, rel=1e-3)
    assert float(out.chi2) < 1e-12
    assert float(out.dof) == 6
    np.testing.assert_allclose(out.ln_model, out.ln_column)
    np.testing.assert_allclose(out.ln_column_err, 0.02)
    assert (np.diff(out.energy) > 0).all()
    assert out.column.attrs["units"] == "1/cm2"
    assert partition_function(350.0) == pytest.approx(8.645, rel=1e-3)


def test_errors_are_those_of_many_draws():
    truth = fluxes([(400.0, 1e20)])
    error = 0.05 * truth
    draws = truth[:, None, None] + error[:, None, None] * np.random.default_rng(1).normal(size=(8, 40, 50))
    out = h2_excitation(table(draws, error[:, None, None] + 0 * draws), area=2.0)
    for name, value in (("temperature", 400.0), ("total_column", 1e20)):
        pulls = (out[name] - value) / out[f"{name}_err"]
        assert float(pulls.std()) == pytest.approx(1.0, abs=0.06)
        assert abs(float(pulls.mean())) < 0.15
    assert float((out.chi2 / out.dof).mean()) == pytest.approx(1.0, abs=0.07)


def test_two_temperatures():
    gas = [(250.0, 5e20), (1100.0, 4e18)]
    flux = fluxes(gas)
    one = h2_excitation(table(flux, 0.03 * flux), area=2.0)
    two = h2_excitation(table(flux, 0.03 * flux), area=2.0, temperatures=2)
    np.testing.assert_allclose(two.temperature, [250.0, 1100.0], rtol=1e-3)
    np.testing.assert_allclose(two.total_column, [5e20, 4e18], rtol=5e-3)
    assert float(one.chi2) > 100 * (1 + float(two.chi2))
    assert two.temperature.dims == ("temperature_component",)
    rng = np.random.default_rng(3)
    draws = flux[:, None, None] * (1 + 0.03 * rng.normal(size=(8, 20, 20)))
    out = h2_excitation(table(draws, 0.03 * flux[:, None, None] + 0 * draws), area=2.0, temperatures=2)
    assert np.isfinite(out.temperature).mean() > 0.99
    for k, value in enumerate((250.0, 1100.0)):
        pulls = (out.temperature[k] - value) / out.temperature_err[k]
        assert float(pulls.std()) == pytest.approx(1.0, abs=0.12)


def test_two_temperatures_against_curve_fit():
    from scipy.optimize import curve_fit

    rng = np.random.default_rng(9)
    flux = fluxes([(300.0, 3e20), (900.0, 1e19)]) * (1 + 0.05 * rng.normal(size=8))
    out = h2_excitation(table(flux, 0.05 * flux), area=2.0, temperatures=2)

    def model(energy, a, cold, b, hot):
        return np.logaddexp(a - energy / cold, b - energy / hot)

    start = (45.0, 280.0, 41.0, 1000.0)
    best, cov = curve_fit(model, out.energy.values, out.ln_column.values, start, sigma=out.ln_column_err.values,
                          absolute_sigma=True)  # fmt: skip
    np.testing.assert_allclose(out.temperature, [best[1], best[3]], rtol=2e-3)
    np.testing.assert_allclose(out.temperature_err, np.sqrt([cov[1, 1], cov[3, 3]]), rtol=0.02)


def test_maps_are_spectra_spaxel_by_spaxel():
    flux = fluxes([(400.0, 1e20)], area=0.04)
    rng = np.random.default_rng(4)
    draws = flux[:, None, None] * (1 + 0.05 * rng.normal(size=(8, 3, 4)))
    like = line_cube(np.ones((3, 4)), scale=0.2).drop_dims("wavelength")
    maps = like.assign(table(draws, 0.05 * draws).data_vars).assign_coords(line=table(flux, flux).line)
    maps.flux[:, 1, 1] = np.nan  # nothing
    maps.flux[:7, 0, 0] = 0.0  # one line
    maps.flux_err[:, 2, 2] = 0.0  # no error
    for number in (1, 2):
        out = h2_excitation(maps, temperatures=number)
        assert out.temperature.dims == ("temperature_component", "y", "x")
        assert np.isnan(out.temperature.values[:, [1, 0, 2], [1, 0, 2]]).all()
        one = h2_excitation(maps.isel(y=2, x=0), area=0.04, temperatures=number)
        np.testing.assert_allclose(out.temperature[:, 2, 0], one.temperature, rtol=1e-6)
        np.testing.assert_allclose(out.mass_per_area_err[:, 2, 0], one.mass_per_area_err, rtol=1e-6)
    out = h2_excitation(maps)
    assert float(out.temperature[0, 2, 3]) == pytest.approx(400.0, rel=0.1)
    there = out.sel(ra=float(maps.ra[2, 3]), dec=float(maps.dec[2, 3]))
    assert float(there.temperature[0]) == float(out.temperature[0, 2, 3])


def test_ortho_to_para_systematics_and_faint_lines():
    flux = fluxes([(300.0, 2e20)], ortho_to_para=2.0)
    out = h2_excitation(table(flux, 0.02 * flux), area=2.0, ortho_to_para=2.0)
    assert float(out.temperature[0]) == pytest.approx(300.0, rel=1e-6)
    assert float(out.total_column[0]) == pytest.approx(2e20, rel=1e-6)
    assert float(h2_excitation(table(flux, 0.02 * flux), area=2.0).chi2) > 100
    wide = h2_excitation(table(flux, 0.02 * flux), area=2.0, systematic=0.1)
    np.testing.assert_allclose(wide.ln_column_err, np.hypot(0.02, 0.1))
    flux = fluxes([(300.0, 2e20)])
    error = 0.02 * flux
    flux[5:], error[5:] = -1e-22, 1e-21
    faint = h2_excitation(table(flux, error), area=2.0)
    assert float(faint.temperature[0]) == pytest.approx(300.0, rel=1e-6)
    assert float(faint.dof) == 3
    assert np.isnan(faint.ln_column[5:]).all()
    assert np.isfinite(faint.column_err).all()


def test_wrong_requests_are_told():
    flux = fluxes([(300.0, 2e20)])
    good = table(flux, 0.1 * flux)
    with pytest.raises(MrsxrError, match="give area in arcsec2"):
        h2_excitation(good)
    with pytest.raises(MrsxrError, match="expected one of 1, 2"):
        h2_excitation(good, area=1.0, temperatures=3)
    with pytest.raises(MrsxrError, match="area is -1"):
        h2_excitation(good, area=-1)
    with pytest.raises(MrsxrError, match="ortho_to_para is 0"):
        h2_excitation(good, area=1, ortho_to_para=0)
    with pytest.raises(MrsxrError, match="none of the lines is a rotational line"):
        h2_excitation(good.assign_coords(line=[f"[X] {i}" for i in range(8)]), area=1.0)
    with pytest.raises(MrsxrError, match="expected the result of fit_lines"):
        h2_excitation(good.drop_vars("flux_err"), area=1.0)
    with pytest.raises(SchemaError, match="fluxes are in Jy; expected W m-2"):
        h2_excitation(good.assign(flux=good.flux.assign_attrs(units="Jy")), area=1.0)
