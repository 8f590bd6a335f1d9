"""Backgrounds over the field and combined background spectra: against the truth, numpy and jwst; errors; promises."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, of_jwst
from match_scene import observe, relative, sky
from scipy.optimize import linprog

from mrsxr import dq
from mrsxr.cal._background_match_kernels import fit_bins
from mrsxr.cal.background_combine import combine_backgrounds
from mrsxr.cal.field_background import fit_field_scale, measure_field_background, subtract_field_background
from mrsxr.errors import LevelError, MrsxrError, MrsxrWarning

ROWS = 300


def tilted(ds, slope=0.5):
    """Add a gradient over the field that changes slowly with wavelength."""
    add = sum(
        np.where(
            ds.channel.values == c, slope * (ds.alpha.values - ds.beta.values) * (1 + 0.3 * relative(ds, f"{c}A")), 0
        )
        for c in (1, 2)
    )
    return ds.assign(flux=(ds.flux + np.nan_to_num(add).astype("f4")).astype("f4").assign_attrs(ds.flux.attrs)), add


@pytest.fixture(scope="module")
def empty_sky():
    return tilted(observe(n_dither=2, source=0.0, rows=ROWS, seed=3))


@pytest.fixture(scope="module")
def background(empty_sky):
    return measure_field_background(empty_sky[0], n_bins=120)


@pytest.fixture(scope="module")
def blank():
    ds = observe(n_dither=2, source=0.0, rows=ROWS, seed=8)
    return ds.assign(flux=xr.where(ds.flux.notnull(), 0, ds.flux).astype("f4").assign_attrs(ds.flux.attrs))


@pytest.mark.parametrize(
    ("options", "wobble"),
    [({"degree": 1}, 1.0), ({"degree": 1, "statistic": "median"}, 1.3), ({"degree": 1, "n_knots": None}, 2.0),
     ({"degree": 2}, 1.2)],
)  # fmt: skip
def test_field_is_recovered_with_its_error(empty_sky, blank, options, wobble):
    ds, add = empty_sky
    measured = measure_field_background(ds, n_bins=120, **options)
    out = subtract_field_background(blank, background=measured)
    for channel in (1, 2):
        lit = (ds.channel.values == channel) & (ds.slice.values > 0)
        error = -out.flux.values[0][lit] - (sky(ds.wavelength.values) + add)[lit]
        assert abs(error.mean()) < 0.05
        assert error.std() < 0.25 * wobble
        assert 0.8 < np.sqrt(np.mean(error**2 / out.var_background.values[0][lit])) < 1.3


def test_level_alone_is_the_mean_or_the_median(empty_sky):
    ds, _ = empty_sky
    one = ds.isel(dither=[0])
    flux = one.flux.values[0]
    wavelength = ds.wavelength.values / (1 + 9000.0 / 299792458.0)
    for statistic, function in (("mean", np.mean), ("median", np.median)):
        measured = measure_field_background(one, statistic=statistic, n_bins=50, degree=0)
        inside = ds.channel.values == 1
        low, high = ds.wavelength.values[inside].min(), ds.wavelength.values[inside].max()
        place = (wavelength - low) / (high - low) * 50
        pixels = flux[inside & (place >= 20) & (place < 21) & np.isfinite(flux)]
        level = measured.coefficients.values[0, 20, 0]
        assert level == pytest.approx(function(pixels), abs=0.02 if statistic == "mean" else 1e-6)
        error = np.std(pixels) / np.sqrt(pixels.size) * (1 if statistic == "mean" else np.sqrt(np.pi / 2))
        assert np.sqrt(measured.covariance.values[0, 20, 0, 0]) == pytest.approx(error, rel=0.05)


def test_outliers_and_bad_pixels_do_not_count(empty_sky, background):
    ds = empty_sky[0].copy(deep=True)
    rng = np.random.default_rng(2)
    ds.flux.values[rng.random(ds.flux.shape) < 0.03] = 1e4
    ds.flux.values[:, 100:103] = -1e5
    ds.dq.values[:, 100:103] |= dq.DO_NOT_USE
    spoiled = measure_field_background(ds, n_bins=120)
    off = np.abs(spoiled.coefficients - background.coefficients)
    # noise of the pixels that are missing, no more
    assert float(off.sel(term="1").quantile(0.98)) < 0.5


def test_bins_without_pixels_are_interpolated(empty_sky):
    ds = empty_sky[0].copy(deep=True)
    ds.dq.values[:, 150:170] |= dq.DO_NOT_USE
    measured = measure_field_background(ds, n_bins=120)
    assert (measured.n_pixels.values == 0).any()
    assert np.isfinite(measured.coefficients.values).all()
    assert np.isfinite(measured.covariance.values).all()
    ds.flux.values[:] = np.nan
    with pytest.raises(MrsxrError, match="band 1A: no spectral bin has enough good pixels"):
        measure_field_background(ds)


def test_step_keeps_its_promises(blank, background):
    part = blank.isel(y=slice(0, 40))
    out = assert_step(subtract_field_background, part, background=background, scale={"1A": 2.0})
    plain = subtract_field_background(part, background=background)
    one, two = (part.channel.values == c for c in (1, 2))
    np.testing.assert_allclose(out.flux.values[:, one], 2 * plain.flux.values[:, one], rtol=1e-6)
    np.testing.assert_allclose(out.var_background.values[:, one], 4 * plain.var_background.values[:, one], rtol=1e-5)
    np.testing.assert_array_equal(out.flux.values[:, two], plain.flux.values[:, two])
    assert out.attrs["field_background"] == 1


def test_scale_is_fitted_where_no_source_is(empty_sky, background):
    science = tilted(observe(n_dither=2, source=300.0, rows=ROWS, seed=9, level=1.25), 0.5 * 1.25)[0]
    found = fit_field_scale(science, background)
    error = np.sqrt(found.scale_var.values)
    assert (error < 0.02).all()
    # the wings of the source reach everywhere, at the per cent level
    assert (np.abs(found.scale.values - 1.25) < 4 * error + 0.015).all()
    assert fit_field_scale(science, background, per_exposure=True).scale.shape == (2, 2)
    out = subtract_field_background(science, background=background, scale=found)
    given = subtract_field_background(
        science, background=background, scale=dict(zip(("1A", "2A"), found.scale.values[0], strict=True))
    )
    np.testing.assert_allclose(out.flux.values, given.flux.values, rtol=1e-4, atol=1e-3)
    more, level = out.var_background - given.var_background, given.flux - science.flux
    for k, channel in enumerate((1, 2)):
        lit = (science.channel.values == channel) & np.isfinite(out.flux.values[0])
        expected = (level.values[0][lit] * error[0, k] / found.scale.values[0, k]) ** 2
        np.testing.assert_allclose(more.values[0][lit], expected, rtol=0.02, atol=1e-5)


def test_scale_where_sources_fill_the_field(background):
    full = observe(n_dither=1, source=0.0, rows=ROWS, noise=1.0)
    bumpy = full.assign(flux=(full.flux * (1 + 0.8 * np.sin(9 * full.alpha) * np.cos(5 * full.beta))).astype("f4"))
    bumpy.flux.attrs.update(full.flux.attrs)
    with pytest.raises(MrsxrError, match="the scale of the background is not safe"):
        fit_field_scale(bumpy, background)
    nothing = full.assign(flux=xr.full_like(full.flux, np.nan))
    with pytest.raises(MrsxrError, match="only 0 cells show the background"):
        fit_field_scale(nothing, background)


def test_errors_are_clear(blank, background):
    out = subtract_field_background(blank, background=background)
    with pytest.raises(MrsxrError, match="over the field was subtracted already"):
        subtract_field_background(out, background=background)
    with pytest.raises(MrsxrError, match="a master background was subtracted already"):
        subtract_field_background(blank.assign_attrs(master_background=1), background=background)
    pixel = blank.assign_attrs(pixel_background=1)
    with pytest.raises(MrsxrError, match="pixel by pixel already"):
        subtract_field_background(pixel, background=background)
    with pytest.raises(MrsxrError, match="not 1A; measure it on exposures of the same setting"):
        subtract_field_background(blank, background=background.assign_coords(band=["1B", "2B"]))
    with pytest.raises(MrsxrError, match="scale names band 3A"):
        subtract_field_background(blank, background=background, scale={"3A": 1.0})
    with pytest.raises(MrsxrError, match="expected a finite number"):
        subtract_field_background(blank, background=background, scale=np.nan)
    with pytest.raises(MrsxrError, match="kind field_background"):
        subtract_field_background(blank, background=xr.Dataset())
    with pytest.raises(LevelError):
        subtract_field_background(blank.assign_attrs(level="rate"), background=background)
    with pytest.raises(MrsxrError, match="degree is 3"):
        measure_field_background(blank, degree=3)
    with pytest.raises(MrsxrError, match="no background exposures"):
        measure_field_background([])
    with pytest.raises(MrsxrError, match="measure each setting by itself"):
        measure_field_background([blank, blank.assign_attrs(setting="12B")])


@pytest.mark.parametrize("n_term", [1, 3, 6])
def test_bins_against_numpy(n_term):
    rng = np.random.default_rng(n_term)
    n = 300
    along, across = rng.uniform(-2, 2, (2, n))
    terms = np.stack([np.ones(n), along, across, along**2, along * across, across**2], axis=1)[:, :n_term]
    true = rng.normal(size=n_term)
    flux = terms @ true + rng.uniform(-0.1, 0.1, n)  # nothing to clip
    order, start = np.arange(n), np.array([0, 250, 253, 300])
    out, covariance, means, number, converged = fit_bins(flux, order, start, along, across, n_term, 5.0, False)
    assert list(converged) == [True, False, True]
    for c in (0, 2):
        rows = slice(start[c], start[c + 1])
        fitted, square, *_ = np.linalg.lstsq(terms[rows], flux[rows], rcond=None)
        np.testing.assert_allclose(out[c], fitted, rtol=1e-8, atol=1e-10)
        normal = np.linalg.inv(terms[rows].T @ terms[rows])
        np.testing.assert_allclose(covariance[c], normal * square / (number[c] - n_term), rtol=1e-7)
        np.testing.assert_allclose(means[c], terms[rows].mean(axis=0))
        assert number[c] == rows.stop - rows.start
    assert np.isnan(out[1]).all()  # too few pixels
    assert number[1] == 0
    flux[::5] += 100.0
    median = fit_bins(flux, order, start, along, across, n_term, 5.0, True)[0][0]
    np.testing.assert_allclose(median, true, atol=0.06)


def spectrum_of(wavelength, band, columns):
    variables = {name: ("wavelength", values) for name, values in columns.items()}
    variables["flux"] = ("wavelength", columns["flux"], {"units": "Jy"})
    return xr.Dataset(variables, {"wavelength": wavelength, "band": ("wavelength", band)}, {"level": "spectrum"})


def spectra_of_jwst():
    """Return the made-up spectra of the stored comparison and what jwst makes of them."""
    stored = of_jwst("background")
    spectra = []
    for k in range(stored["times"].size):
        wave, flux, level, error, bits = (
            stored[f"in{k}_{n}"] for n in ("wavelength", "flux", "background", "error", "dq")
        )
        columns = {"flux": flux, "background": level, "bkgd_error": error, "dq": bits.astype("u4")}
        columns |= {"var": np.ones(wave.size), "n_pixels": np.ones(wave.size)}
        band = np.full(wave.size, "1A" if wave.min() < 5.2 else "1B")
        spectra.append(spectrum_of(wave, band, columns))
    return spectra, stored


def test_combination_is_that_of_jwst():
    spectra, stored = spectra_of_jwst()
    out = combine_backgrounds(spectra, exposure_times=stored["times"])
    np.testing.assert_allclose(out.wavelength.values, stored["wavelength"], rtol=1e-12)
    np.testing.assert_allclose(out.background.values, stored["background"], rtol=1e-10)
    np.testing.assert_allclose(np.sqrt(out.background_var.values), stored["error"], rtol=1e-6)
    np.testing.assert_allclose(out.flux.values, stored["flux"], rtol=1e-10)
    np.testing.assert_array_equal(out.n_spectra.values, stored["count"])
    np.testing.assert_array_equal(out.dq.values, stored["dq"])
    smooth = combine_backgrounds(spectra, exposure_times=stored["times"], median_kernel=6)
    np.testing.assert_allclose(smooth.background.values, stored["smoothed"], rtol=1e-10)
    expanded = np.interp(stored["place"], out.wavelength.values, out.background.values, left=0.0, right=0.0)
    np.testing.assert_allclose(expanded, stored["expanded"], rtol=1e-10)
    assert out.attrs["mixed_bands"] == 1


def test_bands_apart():
    wave = {"1A": 5 + 0.002 * np.arange(150), "1B": 5.2 + 0.003 * np.arange(100)}

    def spectrum(band, seed):
        rng = np.random.default_rng(seed)
        n = wave[band].size
        level = (10.0 if band == "1A" else 12.0) + rng.normal(0, 0.1, n)
        names = {"flux": level, "background": level, "bkgd_error": np.full(n, 0.1), "var": np.ones(n),
                 "n_pixels": np.ones(n), "dq": np.zeros(n, "u4")}  # fmt: skip
        return spectrum_of(wave[band], np.full(n, band), names)

    spectra = [spectrum(band, seed) for seed, band in enumerate(("1A", "1B", "1A", "1B"))]
    mixed = combine_backgrounds(spectra)
    jagged = mixed.background.values[(mixed.wavelength.values > 5.21) & (mixed.wavelength.values < 5.29)]
    assert jagged.std() > 0.4  # samples of either band side by side
    apart = combine_backgrounds(spectra, like_jwst=False)
    for band, level in (("1A", 10), ("1B", 12)):
        one = apart.isel(wavelength=apart.band.values == band)
        np.testing.assert_allclose(one.wavelength.values, wave[band])
        np.testing.assert_allclose(one.background.values, level, atol=0.4)
        np.testing.assert_allclose(one.background_var.values, 0.005, rtol=1e-6)
    with pytest.raises(MrsxrError, match="2 exposure times for 4 spectra"):
        combine_backgrounds(spectra, exposure_times=[1, 2])
    with pytest.raises(MrsxrError, match="no background spectrum has finite flux"):
        combine_backgrounds([spectra[0].assign(flux=np.nan * spectra[0].flux)])
    with pytest.raises(MrsxrError, match="no background spectrum has finite flux"):
        combine_backgrounds([])


@pytest.mark.parametrize(
    ("n", "slopes", "hit"), [(400, (4.0, -2.5), 0.0), (900, (12.0, 0.3), 0.1), (60, (-0.2, 7.0), 0.05)]
)
def test_least_absolute_deviations_are_those_of_linear_programming(n, slopes, hit):
    rng = np.random.default_rng(n)
    along, across = rng.uniform(-2, 2, n), rng.uniform(-1.5, 1.5, n)
    flux = 30.0 + slopes[0] * along + slopes[1] * across + rng.normal(0, 3.0, n)
    flux[rng.random(n) < hit] += 500.0
    order, start = np.arange(n), np.array([0, n])
    answer, covariance, _, number, converged = fit_bins(flux, order, start, along, across, 3, 3.0, True)
    terms = np.stack([np.ones(n), along, across], axis=1)
    matrix = np.hstack([terms, -terms, np.eye(n), -np.eye(n)])
    exact = linprog(np.r_[np.zeros(6), np.ones(2 * n)], A_eq=matrix, b_eq=flux).x
    error = np.sqrt(np.diag(covariance[0]))
    assert converged.all()
    assert number[0] > 0.8 * n
    np.testing.assert_array_less(np.abs(answer[0] - (exact[:3] - exact[3:6])), 0.15 * error)
    np.testing.assert_array_less(np.abs(answer[0][1:] - slopes), 4 * error[1:])


def test_fits_that_do_not_converge_are_told(empty_sky, monkeypatch):
    monkeypatch.setattr("mrsxr.cal._background_match_kernels._MOST_ROUNDS", 2)
    with pytest.warns(MrsxrWarning, match="fits of [0-9]+ of 80 bins did not converge"):
        measure_field_background(empty_sky[0].isel(dither=[0]), n_bins=40, statistic="median")
