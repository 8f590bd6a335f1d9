from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from helpers import assert_step, no_compute
from scipy.special import ndtr
from xarray.testing import assert_identical

from mrsxr import mrs, units
from mrsxr.errors import LevelError, MrsxrError, MrsxrWarning, SchemaError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.index import attach_index
from mrsxr.lines._measure import FLAGS, _cover, _like, without_instrument
from mrsxr.lines.fit import fit_line, fit_lines
from mrsxr.lines.model import line_model
from mrsxr.lines.table import line_table
from mrsxr.simulate import simulate_spectrum
from mrsxr.step import read_history

C = 299792.458
NE2, STEP, SCALE = 12.81355, 0.0025, 0.2
INST = C / 2.354820045 / mrs.resolving_power(NE2)
FLUX = 1e-18
JY = 2.99792458e-12  # W m-2 um-1 of 1 Jy at 1 um
PER_SPAXEL = 1e6 * SCALE**2 * units.ARCSEC2_TO_SR  # Jy of 1 MJy/sr


def profile(wave, step, parts, rest=NE2, inst=INST):
    """Return the mean flux density over voxels [W m-2 um-1] of (flux, velocity, dispersion)."""
    low, high, out = wave - step / 2, wave + step / 2, np.zeros_like(wave)
    for flux, v, sigma in parts:
        mu, s = rest * (1 + v / C), np.hypot(sigma, inst) * rest / C
        out = out + flux * (ndtr((high - mu) / s) - ndtr((low - mu) / s)) / step
    return out


def axis(rest=NE2, step=STEP, n=90):
    return rest + step * (np.arange(n) - n / 2 + 0.3)


def make_cube(parts, n=(1, 1), noise=0.0, given=None, seed=0, level=5e3, lines=((NE2, None),), **attrs) -> xr.Dataset:
    """Return a cube of band 3A with the same lines in every spaxel; noise in MJy/sr."""
    wave = axis()
    density = sum(profile(wave, STEP, own or parts, rest) for rest, own in lines) / (JY / wave**2 * PER_SPAXEL)
    flux = (density + level * (1 + 0.1 * np.linspace(-1, 1, wave.size)))[:, None, None]
    flux = flux + noise * np.random.default_rng(seed).normal(size=(wave.size, *n))
    dims = ("wavelength", "y", "x")
    error = noise if given is None else given
    return xr.Dataset(
        {
            "flux": (dims, flux.astype("f4"), {"units": "MJy/sr"}),
            "var": (dims, np.full(flux.shape, error**2, dtype="f4"), {"units": "MJy2/sr2"}),
            "weight": (dims, np.ones(flux.shape, dtype="f4"), {"units": "1"}),
            "dq": (dims, np.zeros(flux.shape, dtype="u4"), {"units": "1"}),
        },
        coords={"wavelength": ("wavelength", wave, {"units": "um"}), "y": SCALE * np.arange(n[0]),
                "x": SCALE * np.arange(n[1])},
        attrs={"level": "cube", "pixel_scale": SCALE, "band": "3A", "history_json": "[]", **attrs},
    )  # fmt: skip


def make_spectrum(parts, noise=0.0, given=None, seed=0, **kwargs) -> xr.Dataset:
    """Return the spectrum [Jy] of a spaxel of :func:`make_cube`."""
    cube = make_cube(parts, noise=noise, given=given, seed=seed, **kwargs).isel(y=0, x=0, drop=True)
    flux = (cube["flux"].astype("f8") * PER_SPAXEL).assign_attrs(units="Jy")
    var = (cube["var"].astype("f8") * PER_SPAXEL**2).assign_attrs(units="Jy2")
    attrs = {k: v for k, v in cube.attrs.items() if k != "pixel_scale"}
    return cube.drop_vars("weight").assign(flux=flux, var=var).assign_attrs({**attrs, "level": "spectrum"})


def noise_for(snr, parts):
    """Return the noise [MJy/sr] at which the line has a S/N."""
    fit = fit_line(make_cube(parts, noise=0.0, given=1.0), NE2, noise="given")
    return float(fit["snr"].squeeze()) / snr


def test_requests_may_be_written_in_other_ways():
    ds = make_spectrum([(FLUX, -80.0, 90.0)], noise=20.0)
    plain = fit_line(ds, "[Ne II] 12.81", window=2900.0, exclude=[(12.85, 12.87)])
    loose = fit_line(ds, "NeII 12.8", window=2.9e6 * u.m / u.s, exclude=(12.87 * u.um, 12850 * u.nm), redshift="0")
    np.testing.assert_allclose(loose["velocity"], plain["velocity"], rtol=1e-9)
    assert loose["line"].values.tolist() == plain["line"].values.tolist()
    by_wavelength = fit_lines(ds, [128135.5 * u.AA], window=2900.0)
    assert float(by_wavelength["velocity"].squeeze()) == pytest.approx(-80.0, abs=3.0)
    with pytest.raises(MrsxrError, match=r"cz = 300 km/s is z = 0\.001"):
        fit_line(ds, "NeII", redshift=300)


def test_numbers_of_a_spectrum_are_those_of_the_truth():
    parts = [(FLUX, -80.0, 90.0)]
    fit = fit_line(make_spectrum(parts, given=1.0), "[Ne II] 12.81", noise="given", window=2900.0)
    assert fit.attrs["level"] == "lines"
    assert fit["flux"].dims == ("line",)
    assert fit["line"].values.tolist() == ["[Ne II] 12.81"]
    assert float(fit["flux"].squeeze()) == pytest.approx(FLUX, rel=1e-3)
    assert float(fit["velocity"].squeeze()) == pytest.approx(-80.0, abs=0.05)
    assert float(fit["dispersion"].squeeze()) == pytest.approx(90.0, abs=0.1)
    assert float(fit["component_width"].squeeze()) == pytest.approx(np.hypot(90.0, INST), abs=0.1)
    assert float(fit["instrument_dispersion"].squeeze()) == pytest.approx(INST)
    place = NE2 * (1 - 80 / C)
    wave = axis()
    level = 5e3 * (1 + 0.1 * np.interp(place, wave, np.linspace(-1, 1, wave.size))) * PER_SPAXEL
    assert float(fit["continuum"].squeeze()) == pytest.approx(level, rel=1e-5)
    assert float(fit["ew"].squeeze()) == pytest.approx(FLUX / (level * JY / place**2), rel=1e-3)
    assert fit["flux"].attrs["units"] == "W m-2"
    assert fit["continuum"].attrs["units"] == "Jy"
    assert all("units" in fit[name].attrs and "long_name" in fit[name].attrs for name in fit.data_vars)
    assert read_history(fit)[-1]["step"] == "lines.fit_line"


def test_a_spaxel_of_a_cube_has_the_flux_of_its_spectrum():
    parts = [(FLUX, 30.0, 60.0)]
    noise = noise_for(30, parts)
    cube = fit_line(make_cube(parts, noise=noise), NE2)
    spectrum = fit_line(make_spectrum(parts, noise=noise), NE2)
    for name in ("flux", "flux_err", "velocity", "dispersion", "snr", "ew", "upper_limit"):
        np.testing.assert_allclose(cube[name].values.squeeze(), spectrum[name].values.squeeze(), rtol=1e-5)
    assert cube["continuum"].attrs["units"] == "MJy/sr"
    ratio = cube["continuum"].values.squeeze() / spectrum["continuum"].values.squeeze()
    assert ratio == pytest.approx(1 / PER_SPAXEL, rel=1e-6)


def test_pulls_of_flux_velocity_and_width_are_normal():
    parts = [(FLUX, 30.0, 100.0)]
    noise = noise_for(25, parts)
    ds = make_cube(parts, n=(60, 50), noise=noise, seed=7)
    for how in ("given", "residual"):
        fit = fit_line(ds, NE2, noise=how)
        assert float((fit["fit_flags"] & 7 == 0).mean()) == 1.0
        for name, truth in {"flux": FLUX, "velocity": 30.0, "dispersion": 100.0}.items():
            pull = ((fit[name] - truth) / fit[f"{name}_err"]).values.ravel()
            assert abs(pull.mean()) < 0.12
            assert pull.std() == pytest.approx(1.0, abs=0.06)


def test_residual_noise_corrects_wrong_errors_and_correlated_noise():
    parts = [(FLUX, 30.0, 100.0)]
    noise = noise_for(40, parts)
    wrong = fit_line(make_cube(parts, n=(20, 20), noise=noise, given=3 * noise), NE2)
    assert float(wrong["noise_scale"].median()) == pytest.approx(1 / 3, rel=0.05)
    assert float(wrong["snr"].median()) == pytest.approx(40, rel=0.07)
    none = make_cube(parts, n=(4, 4), noise=noise)
    none["var"] = none["var"] * np.nan
    with pytest.warns(MrsxrWarning, match="have no errors"):
        scaled = fit_line(none, NE2)
    assert float(scaled["snr"].median()) == pytest.approx(40, rel=0.3)
    ds = make_cube(parts, n=(40, 40), noise=noise)
    white = np.random.default_rng(1).normal(size=(92, 40, 40))
    smooth = (white[:-2] + 2 * white[1:-1] + white[2:]) / np.sqrt(6)
    clean = make_cube(parts, n=(40, 40))["flux"].values
    ds["flux"] = ds["flux"].copy(data=(clean + noise * smooth).astype("f4"))
    for how in ("given", "residual"):
        fit = fit_line(ds, NE2, noise=how)
        pulls = float(((fit["flux"] - FLUX) / fit["flux_err"]).std())
        assert 0.9 < pulls < 1.25, how  # the fit takes part of the correlation with it


def test_faint_fluxes_are_not_biased_and_get_limits():
    ds = make_cube([], n=(40, 30), noise=50.0, seed=3)
    fit = fit_line(ds, NE2, absorption=True)
    pull = (fit["flux"] / fit["flux_err"]).values
    assert abs(np.mean(np.sign(pull))) < 0.1
    assert ((fit["fit_flags"] & FLAGS["low_snr"]) > 0).mean() > 0.5
    shape = profile(axis(), STEP, [(1.0, 0.0, 100.0)]) / (JY / axis() ** 2 * PER_SPAXEL)
    design = np.stack([np.ones(90), np.linspace(-1, 1, 90), shape], axis=1)[np.abs(axis() / NE2 - 1) * C <= 2500] / 50.0
    expected = 3 * np.sqrt(np.linalg.inv((design * [1, 1, 1e-18]).T @ (design * [1, 1, 1e-18]))[2, 2]) * 1e-18
    assert float(fit["upper_limit"].median()) == pytest.approx(expected, rel=0.05)


def test_second_component_is_found_where_it_is_and_not_claimed_where_not():
    narrow = np.hypot(60.0, INST)
    two = [(0.8 * FLUX, 30.0, 60.0), (0.2 * FLUX, 30.0, np.sqrt(9 * narrow**2 - INST**2))]
    one = [(FLUX, 30.0, 60.0)]
    noise = noise_for(130, one)
    found = fit_line(make_cube(two, n=(20, 10), noise=noise, seed=1), NE2, components="auto")
    assert float((found["n_components"] == 2).mean()) > 0.95
    chosen = found["component_flux"].where(found["n_components"] == 2).median(("y", "x")).values[0]
    np.testing.assert_allclose(chosen, [0.8 * FLUX, 0.2 * FLUX], rtol=0.08)
    assert float(found["flux"].median()) == pytest.approx(FLUX, rel=0.02)
    for criterion in ("bic", "ftest"):
        claimed = fit_line(make_cube(one, n=(20, 10), noise=noise, seed=2), NE2, components="auto", criterion=criterion)
        assert float((claimed["n_components"] == 2).mean()) < 0.05
    assert np.isnan(claimed["component_flux"].where(claimed["n_components"] == 1)).isel(component=1).all()


def test_whole_line_is_sum_mean_and_second_moment_of_its_components():
    parts = [(0.7 * FLUX, 100.0, 50.0), (0.3 * FLUX, -200.0, 150.0)]
    fit = fit_line(make_spectrum(parts, given=1.0), NE2, components=2, noise="given").squeeze()
    flux, v, s = np.array(parts).T
    mean = np.average(v, weights=flux)
    square = np.average(s**2 + (v - mean) ** 2, weights=flux)
    assert float(fit["flux"]) == pytest.approx(FLUX, rel=1e-3)
    assert float(fit["velocity"]) == pytest.approx(mean, abs=0.3)
    assert float(fit["dispersion"]) == pytest.approx(np.sqrt(square), abs=0.5)
    np.testing.assert_allclose(fit["component_velocity"], [100.0, -200.0], atol=0.5)
    np.testing.assert_allclose(fit["component_dispersion"], [50.0, 150.0], atol=0.5)


def test_errors_of_the_whole_line_are_those_of_many_draws():
    parts = [(0.6 * FLUX, 60.0, 60.0), (0.4 * FLUX, -150.0, 160.0)]
    noise = noise_for(150, parts)
    fit = fit_line(make_cube(parts, n=(40, 25), noise=noise, seed=4), NE2, components=2, noise="given")
    for name in ("flux", "velocity", "dispersion", "ew", "continuum"):
        ratio = float(fit[name].std() / fit[f"{name}_err"].median())
        assert ratio == pytest.approx(1.0, abs=0.1), name
    drawn = fit_line(make_cube(parts, n=(3, 3), noise=noise), NE2, components=2, noise="given", monte_carlo=200, seed=1)
    for name in ("flux", "velocity", "dispersion"):
        ratio = float((drawn[f"{name}_err_mc"] / drawn[f"{name}_err"]).median())
        assert ratio == pytest.approx(1.0, abs=0.12), name


def test_blends_are_fitted_together_tied_or_free():
    shift = 600.0
    other = NE2 * (1 + shift / C)
    lines = ((NE2, [(FLUX, 50.0, 70.0)]), (other, [(0.3 * FLUX, 50.0, 70.0)]))
    ds = make_spectrum([], lines=lines, given=1.0)
    tied = fit_line(ds, [other, NE2], noise="given")
    assert tied["line"].values.tolist() == ["12.81355", f"{other:.5f}".rstrip("0")]
    np.testing.assert_allclose(tied["flux"], [FLUX, 0.3 * FLUX], rtol=5e-3)
    np.testing.assert_allclose(tied["velocity"], 50.0, atol=0.5)
    lines = ((NE2, [(FLUX, 50.0, 70.0)]), (other, [(0.3 * FLUX, -60.0, 150.0)]))
    free = fit_line(make_spectrum([], lines=lines, given=1.0), [NE2, other], noise="given", tie=False)
    np.testing.assert_allclose(free["velocity"], [50.0, -60.0], atol=1.0)
    np.testing.assert_allclose(free["dispersion"], [70.0, 150.0], atol=1.0)
    assert free["blend"].values.tolist() == [0, 0]


def test_absorption_is_fitted_on_request():
    fit = fit_line(make_spectrum([(-FLUX, 400.0, 80.0)], given=1.0), NE2, noise="given", absorption=True).squeeze()
    assert float(fit["flux"]) == pytest.approx(-FLUX, rel=1e-3)
    assert float(fit["ew"]) < 0
    assert not int(fit["fit_flags"]) & FLAGS["low_snr"]


def test_chunks_and_laziness_change_nothing():
    parts = [(FLUX, 30.0, 100.0)]
    ds = make_cube(parts, n=(7, 5), noise=noise_for(20, parts), seed=5)
    before = ds.copy(deep=True)
    eager = fit_line(ds, NE2, components="auto", monte_carlo=5)
    with no_compute():
        lazy = fit_line(ds.chunk(y=2, x=3, wavelength=20), NE2, components="auto", monte_carlo=5)
    assert all(isinstance(lazy[name].data, dask.array.Array) for name in lazy.data_vars)
    assert_identical(lazy.compute(), eager)
    assert_identical(ds, before)
    assert eager["flux"].dims == ("line", "y", "x")
    assert eager["component_flux"].dims == ("line", "component", "y", "x")
    assert eager["bic"].dims == ("line", "n_model", "y", "x")


def test_fits_keep_the_promises_of_steps():
    cube = make_cube([(2e-18, 30.0, 80.0)], n=(6, 2), noise=30.0)
    assert_step(fit_line, cube, line="[Ne II] 12.81", components="auto")
    assert_step(fit_lines, cube, lines=["[Ne II] 12.81"])
    assert_step(fit_line, make_spectrum([(2e-17, 30.0, 80.0)], noise=1e-4), line=NE2)


def test_maps_keep_the_sky_and_the_facts_of_the_cube():
    grid = CubeGrid((150.0, 2.0), SCALE, 5, 4, 12.7, STEP, 90)
    ds = make_cube([(FLUX, 0.0, 50.0)], n=(4, 5), noise=20.0, target="TEST")
    ds = ds.assign_coords({name: grid.coords()[name] for name in ("y", "x")})
    ds.attrs["wcs"] = grid.header().tostring(sep="\n", endcard=False, padding=False)
    fit = fit_line(attach_index(ds), NE2)
    assert {"ra", "dec"} <= set(fit.coords)
    assert fit.sel(ra=150.0, dec=2.0).sizes == {
        **{"line": 1},
        **{d: fit.sizes[d] for d in ("component", "n_model", "power")},
    }
    assert fit.attrs["target"] == "TEST"
    assert fit.attrs["pixel_scale"] == SCALE
    assert fit["band"].values.tolist() == ["3A"]


def test_pathologies_give_flags_in_maps():
    ds = make_cube([(FLUX, 0.0, 80.0)], n=(2, 4), noise=noise_for(30, [(FLUX, 0.0, 80.0)]))
    flux, var, dq = (ds[name].values for name in ("flux", "var", "dq"))
    flux[:, 0, 0] = np.nan
    dq[:, 0, 1] = 513
    var[:, 0, 2] = 0.0
    flux[:, 0, 3] = 0.0
    flux[42:49, 1, 0] = np.nan  # the line itself
    flux[:30, 1, 1] = np.nan
    flux[5:, 1, 2] = np.nan
    given = fit_line(ds, NE2, noise="given", components="auto")
    flags = given["fit_flags"].values[0]
    failed = FLAGS["failed"] | FLAGS["few_voxels"]
    for y, x in ((0, 0), (0, 1), (0, 2), (1, 2)):
        assert flags[y, x] & failed == failed
        assert np.isnan(given["flux"].values[0, y, x])
        assert given["n_components"].values[0, y, x] == 0
    assert flags[0, 3] & FLAGS["low_snr"]
    assert flags[1, 1] & FLAGS["few_voxels"]
    assert np.isfinite(given["flux"].values[0, 1, 1])
    assert flags[1, 3] == 0
    assert flags[1, 0] & (FLAGS["failed"] | FLAGS["low_snr"] | FLAGS["at_bound"])
    scaled = fit_line(ds, NE2)
    assert scaled["flux"].values[0, 0, 2] == pytest.approx(FLUX, rel=0.2)
    assert scaled["fit_flags"].values[0, 0, 3] & FLAGS["failed"]


def test_narrow_lines_have_no_dispersion_but_an_error_that_reaches_it():
    sigma, error = without_instrument(np.array([200.0, 44.0, 42.0, 30.0]), np.array([2.0, 2.0, 2.0, 2.0]), 43.0)
    assert sigma[0] == pytest.approx(np.sqrt(200**2 - 43**2))
    assert error[0] == pytest.approx(200 * 2 / sigma[0])
    assert 0 < sigma[1] < 10
    assert sigma[1] + error[1] > np.sqrt(46**2 - 43**2) * 0.99
    np.testing.assert_array_equal(sigma[2:], 0.0)
    np.testing.assert_allclose(error[2:], np.sqrt(2 * 43 * 2 + 4))
    fit = fit_line(make_spectrum([(FLUX, 0.0, 0.0)], given=1.0), NE2, noise="given")
    assert int(fit["fit_flags"].squeeze()) & FLAGS["unresolved"]


def test_resolution_may_be_a_number_or_a_function():
    ds = make_spectrum([(FLUX, 0.0, 90.0)], given=1.0)
    wide = np.hypot(90.0, INST)
    for resolution in (1500.0, lambda wave: 1500.0 + 0 * wave):
        fit = fit_line(ds, NE2, noise="given", resolution=resolution).squeeze()
        inst = C / 2.354820045 / 1500.0
        assert float(fit["dispersion"]) == pytest.approx(np.sqrt(wide**2 - inst**2), abs=0.2)


def test_redshift_comes_from_the_data_or_the_call():
    z = 0.01
    ds = make_spectrum([(FLUX, 25.0, 60.0)], given=1.0)
    moved = ds.assign_coords(wavelength=ds["wavelength"] * (1 + z)).assign_attrs(redshift=z)
    moved["wavelength"].attrs["units"] = "um"
    for fit in (
        fit_line(moved, "[Ne II]", noise="given"),
        fit_line(moved.assign_attrs(redshift=0.0), "[Ne II]", redshift=z),
    ):
        assert float(fit["velocity"].squeeze()) == pytest.approx(25.0, abs=0.5)
        assert fit.attrs["redshift"] == z


def test_excluded_wavelengths_are_not_fitted():
    ds = make_spectrum([(FLUX, 0.0, 60.0)], given=1.0)
    flux = ds["flux"].values
    spike = slice(20, 24)
    flux[spike] *= 1.5
    low, high = ds["wavelength"].values[[19, 24]]
    fit = fit_line(ds, NE2, noise="given", exclude=[(low, high)])
    assert float(fit["flux"].squeeze()) == pytest.approx(FLUX, rel=1e-3)
    assert int(fit["fit_flags"].squeeze()) == 0
    assert abs(float(fit_line(ds, NE2, noise="given")["flux"].squeeze()) / FLUX - 1) > 0.01


def test_many_lines_are_found_in_the_list_and_blended_where_near():
    wave = np.concatenate([np.arange(a, b, s) for a, b, s in ((13.4, 15.5, 0.0025), (15.4, 17.9, 0.0025))])
    band = np.where(np.arange(wave.size) < np.arange(13.4, 15.5, 0.0025).size, "3B", "3C")
    flux = 0.01 + profile(wave, 0.0025, [(FLUX, 20.0, 60.0)], 15.5551, 45.0) * wave**2 / JY
    ds = xr.Dataset(
        {"flux": ("wavelength", flux, {"units": "Jy"}), "var": ("wavelength", 0 * flux + 1e-10, {"units": "Jy2"}),
         "dq": ("wavelength", np.zeros(wave.size, "u4"), {"units": "1"})},
        coords={"wavelength": ("wavelength", wave, {"units": "um"}), "band": ("wavelength", band)},
        attrs={"level": "spectrum", "history_json": "[]"},
    )  # fmt: skip
    fit = fit_lines(ds, noise="given")
    assert "PAH 16.4" not in fit["line"].values
    assert (np.diff(fit["wavelength_rest"]) > 0).all()
    blend = fit["blend"].sel(line=["[Ne V] 14.32", "[Cl II] 14.37", "[Na VI] 14.40"]).values
    assert (blend == blend[0]).all()
    ne3 = fit.sel(line="[Ne III] 15.56")
    assert str(ne3["band"].values) == "3C"
    assert float(ne3["flux"]) == pytest.approx(FLUX, rel=0.02)
    assert ((fit["snr"] > 5).values == (fit["line"] == "[Ne III] 15.56").values).all()
    assert fit_lines(ds, ["[Ne III] 15.56", "[Ne II] 12.81"], noise="given").sizes["line"] == 1
    with pytest.raises(MrsxrError, match="none of 2 lines"):
        fit_lines(ds, ["[Ar II] 6.99", "[Ne II] 12.81"])


def test_model_is_what_was_fitted():
    parts = [(0.7 * FLUX, 100.0, 50.0), (0.3 * FLUX, -200.0, 150.0)]
    for ds in (make_spectrum(parts, given=1.0), make_cube(parts, n=(2, 3), given=1.0)):
        fit = fit_line(ds, NE2, components=2, noise="given", window=2000.0)
        model = line_model(ds, fit)
        inside = np.isfinite(model["model"]).transpose("wavelength", ...).values.reshape(90, -1).all(axis=1)
        assert (inside == (np.abs(ds["wavelength"].values / NE2 - 1) * C <= 2000.0)).all()
        rest = (ds["flux"] - model["model"]).values[inside]
        assert np.abs(rest).max() < 1e-3 * float(ds["flux"].max() - ds["flux"].min())
        whole = model["continuum"] + model["components"].sum(("line", "component"), min_count=1)
        np.testing.assert_allclose(whole.values[inside], model["model"].values[inside], rtol=1e-12)
        assert model["model"].attrs["units"] == ds["flux"].attrs["units"]
        assert model["components"].dims == ("line", "component", *ds["flux"].dims)
    with pytest.raises(LevelError, match="line_model needs"):
        line_model(ds, ds)


def test_table_of_a_spectrum_has_units_and_is_written(tmp_path):
    fit = fit_line(make_spectrum([(FLUX, 0.0, 90.0)], noise=50.0), NE2)
    table = line_table(fit)
    assert table["flux"].unit.to_string() == "W / m2"
    assert table["fwhm"][0].value == pytest.approx(2.3548 * float(fit["dispersion"].squeeze()), rel=1e-4)
    table.write(tmp_path / "lines.ecsv")
    assert "12.81355 12.81355" in (tmp_path / "lines.ecsv").read_text()
    cube = fit_line(make_cube([(FLUX, 0.0, 90.0)], n=(2, 2), noise=50.0), NE2)
    with pytest.raises(MrsxrError, match="choose a spaxel"):
        line_table(cube)
    assert len(line_table(cube.isel(y=0, x=1))) == 1
    with pytest.raises(LevelError, match="line_table needs"):
        line_table(fit.assign_attrs(level="spectrum"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"line": "[Xx I] 9.99"}, "is no line of line_list"),
        ({"line": "[Fe II]"}, "stands for several lines"),
        ({"line": -1.0}, "positive number of um"),
        ({"line": []}, "no line was given"),
        ({"line": "[Ar II] 6.99"}, "outside the data"),
        ({"redshift": 0.0085}, "from their end"),
        ({"redshift": np.nan}, "redshift is nan"),
        ({"components": 4}, "components is 4"),
        ({"components": "best"}, "components is 'best'"),
        ({"criterion": "aic"}, "criterion is 'aic'"),
        ({"noise": "rms"}, "noise is 'rms'"),
        ({"degree": 4}, "degree is 4"),
        ({"window": 20.0}, "from 100 to 30000"),
        ({"window": 150.0}, "use a wider window"),
        ({"monte_carlo": 1}, "monte_carlo is 1"),
        ({"resolution": -5.0}, "resolving power"),
        ({"exclude": [(12.7, 12.92)]}, "left by exclude"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(options, message):
    ds = make_spectrum([(FLUX, 0.0, 60.0)], noise=50.0)
    with pytest.raises(MrsxrError, match=message) as error:
        fit_line(ds, **{"line": NE2, **options})
    assert "\n" not in str(error.value)


def test_wrong_data_are_refused():
    ds = make_cube([], noise=50.0)
    with pytest.raises(LevelError, match="needs data of level"):
        fit_line(ds.assign_attrs(level="cal"), NE2)
    ds = ds.drop_vars([n for n in ("y", "x", "ra", "dec") if n in ds.variables])  # neither tells the spaxel
    ds.attrs = {k: v for k, v in ds.attrs.items() if k not in ("pixel_scale", "wcs")}
    with pytest.raises(SchemaError, match="pixel_scale"):
        fit_line(ds, NE2)
    spectrum = make_spectrum([], noise=50.0)
    with pytest.raises(MrsxrError, match="sort the data"):
        fit_line(spectrum.isel(wavelength=np.random.default_rng(1).permutation(spectrum.sizes["wavelength"])), NE2)


def nucleus(cube: xr.Dataset, radius: float) -> xr.Dataset:
    bright = cube["flux"].sel(wavelength=slice(26.2, 26.3)).mean("wavelength").values
    y, x = np.unravel_index(np.nanargmax(bright), bright.shape)
    rows, columns = np.mgrid[: bright.shape[0], : bright.shape[1]]
    scale = cube.attrs["pixel_scale"]
    inside = np.hypot(rows - y, columns - x) * scale <= radius
    factor = 1e6 * scale**2 * units.ARCSEC2_TO_SR
    flux, var = (cube[name].values[:, inside].astype(float).sum(axis=1) for name in ("flux", "var"))
    return xr.Dataset(
        {"flux": ("wavelength", flux * factor, {"units": "Jy"}),
         "var": ("wavelength", var * factor**2, {"units": "Jy2"}),
         "dq": ("wavelength", np.isnan(flux).astype("u4"), {"units": "1"})},
        coords={"wavelength": cube["wavelength"].variable},
        attrs={"level": "spectrum", "band": cube.attrs["band"], "history_json": "[]"},
    )  # fmt: skip


@pytest.mark.shared
def test_nucleus_of_ngc7469_agrees_with_a_plain_sum(shared_data):
    from mrsxr import load

    cube = load(shared_data / "s3d_ngc7469" / "NGC7469_ch4-long_s3d.fits.gz").compute()
    z, ds = 0.01627, nucleus(cube, 1.05)
    fit = fit_line(ds, ["[O IV] 25.89", "[Fe II] 25.99"], redshift=z, tie=False).sel(line="[O IV] 25.89")
    wave = ds["wavelength"].values
    density = ds["flux"].values * JY / wave**2
    v = (wave / (25.8903 * (1 + z)) - 1) * C
    beside = ((v > -1500) & (v < -700)) | ((v > 1650) & (v < 2400))
    level = np.polynomial.Polynomial.fit(wave[beside], density[beside], 1)
    plain = ((density - level(wave)) * np.gradient(wave))[np.abs(v) < 500].sum()
    assert float(fit["flux"]) == pytest.approx(plain, rel=0.05)
    assert float(fit["snr"]) > 10
    assert 80 < float(fit["dispersion"]) < 180
    maps = fit_line(cube, ["[O IV] 25.89", "[Fe II] 25.99"], redshift=z, tie=False).sel(line="[O IV] 25.89")
    good = (maps["snr"] > 8) & (maps["fit_flags"] & 6 == 0)
    velocity = maps["velocity"].where(good)
    assert int(good.sum()) > 100
    assert float(velocity.quantile(0.95) - velocity.quantile(0.05)) > 100.0


@pytest.mark.shared
def test_lines_of_vv114_are_detected(shared_data):
    from astropy.io import fits

    letters, parts = {"SHORT": "A", "MEDIUM": "B", "LONG": "C"}, []
    for path in (shared_data / "vv114").glob("*_s1d.fits"):
        rows = fits.getdata(path, 1)
        channel, grating = path.stem.split("_")[2:4]
        wave, flux, error = (np.asarray(rows[c], dtype=float) for c in ("wavelength", "flux", "uncertainty"))
        order = np.argsort(wave)
        parts.append((channel[2] + letters[grating], wave[order], 1e6 * flux[order], 1e6 * error[order]))
    parts.sort(key=lambda part: part[0])
    wave, flux, error = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    ds = xr.Dataset(
        {"flux": ("wavelength", flux, {"units": "Jy"}), "var": ("wavelength", error**2, {"units": "Jy2"}),
         "dq": ("wavelength", (~np.isfinite(flux)).astype("u4"), {"units": "1"})},
        coords={"wavelength": ("wavelength", wave, {"units": "um"}),
                "band": ("wavelength", np.concatenate([np.full(part[1].size, part[0]) for part in parts]))},
        attrs={"level": "spectrum", "history_json": "[]"},
    )  # fmt: skip
    fit = fit_lines(ds, redshift=0.0202)
    seen = fit.isel(line=((fit["snr"] > 5) & (fit["fit_flags"] & 6 == 0)).values)
    bright = {"[Fe II] 5.34", "H2 S(7) 5.51", "H2 S(5) 6.91", "[Ar II] 6.99", "[Ar III] 8.99", "[S IV] 10.51",
              "H2 S(2) 12.28", "[Ne II] 12.81", "[Ne III] 15.56", "[S III] 18.71"}  # fmt: skip
    assert bright <= set(seen["line"].values)
    own = seen.sel(line=sorted(bright))
    assert (np.abs(own["velocity"]) < 150).all()
    assert ((own["dispersion"] > 30) & (own["dispersion"] < 130)).all()


def test_one_gaussian_is_that_of_astropy():
    """Of a wide line, which a voxel samples well; astropy takes the value at the centre of the voxel, not its mean."""
    from astropy.modeling import fitting, models

    spectrum = make_spectrum([(2e-18, -60.0, 150.0)], noise=noise_for(40.0, [(2e-18, -60.0, 150.0)]), seed=4)
    fit = fit_line(spectrum, NE2, noise="given", window=2900.0).squeeze()
    wave = spectrum["wavelength"].values
    density, error = (values * JY / wave**2 for values in (spectrum["flux"].values, np.sqrt(spectrum["var"].values)))
    start = models.Gaussian1D(density.max() - np.median(density), NE2, 0.008) + models.Polynomial1D(
        1, c0=np.median(density)
    )
    shift = wave - NE2
    start[0].mean = 0.0
    fitter = fitting.TRFLSQFitter(calc_uncertainties=True)
    scale = density.max()
    start[0].amplitude, start[1].c0 = start[0].amplitude / scale, start[1].c0 / scale
    found = fitter(start, shift, density / scale, weights=scale / error)
    sigma = float(found.mean_0.std / NE2 * C)
    assert abs(float(fit["velocity"]) - found.mean_0.value / NE2 * C) < 0.05 * sigma
    assert float(fit["velocity_err"]) == pytest.approx(sigma, rel=0.02)
    width = np.sqrt(found.stddev_0.value**2 - STEP**2 / 12) / NE2 * C  # without the width of a voxel
    assert abs(float(fit["component_width"]) - width) < 0.05 * float(found.stddev_0.std / NE2 * C)
    flux = np.sqrt(2 * np.pi) * found.amplitude_0.value * found.stddev_0.value * scale
    assert abs(float(fit["flux"]) - flux) < 0.1 * float(fit["flux_err"])


def test_spectra_whose_flags_became_floats():
    """``where`` and means over samples leave no flags; what they flagged stays unused."""
    spectrum = simulate_spectrum(band="3A", seed=4)
    at = int(np.abs(spectrum.wavelength.values - 12.83).argmin())
    spectrum["flux"][at] = 5.0
    spectrum["dq"][at] = 1
    known = fit_line(spectrum, "[Ne II] 12.81")
    with pytest.warns(MrsxrWarning, match="dq is float64, no flags any more"):
        found = fit_line(spectrum.where(spectrum.wavelength > 12.0), "[Ne II] 12.81")
    np.testing.assert_array_equal(found.flux, known.flux)
    spectrum["flux"][at] = np.nan  # as in products
    bare = spectrum.drop_vars("band")
    with pytest.warns(MrsxrWarning, match="what has mixed flags is usable where flux is a number"):
        coarse = fit_line(bare.coarsen(wavelength=2, boundary="trim").mean().assign_attrs(bare.attrs), "[Ne II] 12.81")
    np.testing.assert_allclose(coarse.flux, known.flux, rtol=0.05)


def test_errors_of_close_doublets_hold_and_those_that_may_be_otherwise_say_so():
    """Lines nearer than two observed dispersions: one wide line at one place is hardly worse than two at another."""
    gap, ratio = 130.0, 0.6
    own = [(ratio * FLUX, 210.0, 70.0)]
    second = NE2 * (1 + gap / C)
    noise = noise_for(25.0, [(FLUX, 210.0, 70.0)])
    cube = make_cube([(FLUX, 210.0, 70.0)], (20, 20), noise, seed=3, lines=((NE2, None), (second, own)))
    fit = fit_line(cube, [NE2, second])
    unsure = (fit["fit_flags"].values[0] & FLAGS["ambiguous"]) > 0
    assert 0.05 < unsure.mean() < 0.95
    assert (unsure == ((fit["fit_flags"].values[1] & FLAGS["ambiguous"]) > 0)).all()
    error = fit["velocity_err"].values[0]
    assert np.median(error[unsure]) > 2.0 * np.median(error[~unsure])
    for name, truth in (("velocity", [210.0, 210.0]), ("flux", [FLUX, ratio * FLUX])):
        pull = (fit[name].values - np.reshape(truth, (2, 1, 1))) / fit[f"{name}_err"].values
        assert (np.abs(pull) > 3.0).mean() < 0.05
    apart = make_cube([(FLUX, 210.0, 70.0)], (5, 5), noise, seed=4, lines=((NE2, None), (NE2 * (1 + 700 / C), own)))
    assert not (fit_line(apart, [NE2, NE2 * (1 + 700 / C)])["fit_flags"].values & FLAGS["ambiguous"]).any()


def test_components_that_may_be_otherwise_say_so_whatever_their_order():
    parts = [(FLUX, 0.0, 50.0), (0.8 * FLUX, -130.0, 60.0)]
    cube = make_cube(parts, (12, 12), noise_for(30.0, parts[:1]), seed=5)
    fit = fit_line(cube, NE2, components=2).squeeze("line")
    unsure = (fit["fit_flags"].values & FLAGS["ambiguous"]) > 0
    assert 0.05 < unsure.mean() < 0.95
    error = fit["component_velocity_err"].values[0]
    assert np.nanmedian(error[unsure]) > 1.5 * np.nanmedian(error[~unsure])
    pull = (fit["flux"].values - 1.8 * FLUX) / fit["flux_err"].values  # the sum stays well known
    assert np.abs(pull).max() < 6.0
    assert np.median(fit["flux_err"].values[unsure]) < 2.0 * np.median(fit["flux_err"].values[~unsure])


def test_another_solution_is_compared_component_by_component():
    from types import SimpleNamespace

    blend = SimpleNamespace(reach=(1.0,), group=(0, 0))
    theta = np.array([[5.0, 1, 10, 50, 2, 200, 80, 3, -100, 60, 4, 10, 50, 5, 200, 80, 6, -100, 60]])
    blocks = theta[:, 1:].reshape(2, 3, 3)
    other = np.concatenate([[[7.0]], blocks[:, [2, 0, 1]].reshape(1, -1) + 0.5], axis=1)
    expected = np.concatenate([[[7.0]], theta[:, 1:] + 0.5], axis=1)
    np.testing.assert_array_equal(_like(theta, other, 3, 1, blend), expected)
    cov = np.eye(19)[None] * 0.01
    wide, unsure = _cover(theta, cov, other, np.array([0.0]), 3, 1, blend)
    d = expected[0] - theta[0]
    assert unsure.tolist() == [True]
    np.testing.assert_allclose(wide[0], cov[0] + np.outer(d, d))
    held = cov.copy()  # the first velocity and the last width, by a bound: no error
    for at in (2, 18):
        held[0, at], held[0, :, at] = 0.0, 0.0
    free = np.where(np.isin(np.arange(19), (2, 18)), 0.0, d)
    wide, _ = _cover(theta, held, other, np.array([0.0]), 3, 1, blend)
    np.testing.assert_allclose(wide[0], held[0] + np.outer(free, free))
    for excess, same in ((9.5, other), (0.0, expected * 0 + theta)):
        kept, unsure = _cover(theta, cov, same, np.array([excess]), 3, 1, blend)
        np.testing.assert_array_equal(kept, cov)
        assert not unsure.any()
