"""Backgrounds on skies of other optics (benchmarks/_truth_backgrounds.py): nothing found where nothing was put in."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mrsxr import notes, scores
from mrsxr.cal import combine_backgrounds
from mrsxr.cal._background_match_misfit import cluster, squares
from mrsxr.cal.background_match import fit_background_match, match_backgrounds
from mrsxr.cal.sky_outliers import detect_sky_outliers
from mrsxr.errors import MrsxrError
from mrsxr.pipeline import Recipe
from mrsxr.pipeline.cube_chain import background_spectra
from mrsxr.pipeline.parts import own_options

PLACE = Path(__file__).parents[2] / "benchmarks" / "_truth_backgrounds.py"


@pytest.fixture(scope="module")
def truth():
    spec = importlib.util.spec_from_file_location("_truth_backgrounds", PLACE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def star(truth):
    """Three dithers of a bright source."""
    rng = np.random.default_rng(8)
    ds = truth.blank("12B", 3, rng, rows=320)
    return truth.observed(ds, truth.light(ds, 6e4, (0.35, -0.2)), rng, read=1.5)


def moved(ds, offsets):
    flux = ds.flux + xr.DataArray(np.array(offsets, "f4"), dims="dither")
    return ds.assign(flux=flux.assign_attrs(ds.flux.attrs))


def test_beside_a_bright_source_nothing_is_found_where_nothing_was_put_in(star):
    match = fit_background_match(star)
    assert match.attrs["converged"] == 1
    assert (match.left_alone.values == 1).all()
    out = match_backgrounds(star, match=match)
    np.testing.assert_array_equal(out.flux.values, star.flux.values)
    one, other = scores.decisions(out)
    assert (one.step, one.scores.size, other.step) == ("match_backgrounds", 6, "band_ties")
    free = fit_background_match(star, significance=0, reference="00002")
    pull = (free.level / free.level_err).values[free.held.values == 0]
    assert 0.2 < np.sqrt(np.mean(pull**2)) < 1.7
    assert free.significance.max() < 3


@pytest.mark.parametrize("seed", [901, 904, 907])
def test_an_even_sky_on_few_rows_keeps_its_light(truth, seed):
    rng = np.random.default_rng(seed)
    ds = truth.blank("12A", 2, rng, rows=80)
    match = fit_background_match(truth.observed(ds, np.full(ds.flux.shape, 25.0), rng, read=1.2))
    assert (match.left_alone.values == 1).all()
    assert match.significance.max() < 4
    assert match.sizes["knot"] == 1


def test_an_offset_beside_a_bright_source_is_found_within_its_error_and_shows_gain(star):
    ds = moved(star, (0.0, 1.3, 0.0))
    match = fit_background_match(ds, reference="00001")
    second = match.isel(member=np.char.find(match.exposure.values.astype(str), "_00002_") >= 0)
    assert (second.left_alone.values == 0).all()
    assert (np.abs(second.level.values - 1.3) < 3 * second.level_err.values).all()
    assert (second.score.values < 1).all()
    out = match_backgrounds(ds, match=match)
    decision = scores.decisions(out)[0]
    assert decision.instead == "none"
    assert 2 <= decision.n_taken < 6


def test_a_named_reference_without_a_good_pixel_is_refused_or_told(star):
    names = star.exposure.values
    dead = star.flux.copy()
    dead[1] = np.nan
    with pytest.raises(MrsxrError, match="reference '00002' has no good pixel in any band"):
        fit_background_match(star.assign(flux=dead), reference="00002")
    half = star.flux.where((star.dither != star.dither[1]) | (star.channel != 2))
    with notes.listen(pass_on=True) as heard:
        match = fit_background_match(star.assign(flux=half), reference="00002")
    assert heard == ["reference '00002' has no good pixel in band 2B: another exposure is the one there"]
    held = set(match.exposure.values[(match.held == 1) & (match.band == "1B")])
    assert held == {names[1]}


def test_a_fit_that_does_not_settle_is_told(star, monkeypatch):
    monkeypatch.setattr("mrsxr.cal._background_match_solve._ROUNDS", 2)
    with pytest.warns(match="background matching did not converge in 2 rounds"):
        match = fit_background_match(star.isel(y=slice(0, 160)), significance=0)
    assert match.attrs["converged"] == 0


def test_means_of_clusters_against_loops():
    rng = np.random.default_rng(2)
    keys = [
        rng.integers(-3, 4, 200),
        rng.integers(0, 3, 200),
        rng.integers(-(1 << 40), 1 << 40, 3)[rng.integers(0, 3, 200)],
    ]
    number = cluster(*keys)
    values, weight = rng.normal(size=200), rng.uniform(0, 2, 200)
    found = squares(number, values, weight)
    for i in range(200):
        same = np.all([k == k[i] for k in keys], axis=0)
        np.testing.assert_array_equal(number == number[i], same)
        mean = np.sum(weight[same] * values[same]) / np.sum(weight[same])
        np.testing.assert_allclose(found[i], weight[i] * mean**2, rtol=1e-9)


def test_light_of_a_sharp_lopsided_source_is_no_outlier(truth):
    rng = np.random.default_rng(21)
    ds = truth.blank("12A", 4, rng, rows=200)
    light = truth.light(ds, 2e5, (0.05, 0.3))
    ds = truth.observed(ds, light, rng)
    sigma = np.sqrt(ds.var_read + ds.var_poisson)
    hit = np.isfinite(ds.flux.values) & (rng.uniform(size=light.shape) < 0.003)
    struck = ds.assign(flux=(ds.flux + (hit * 25.0 * sigma).astype("f4")).assign_attrs(ds.flux.attrs))
    flagged = detect_sky_outliers(struck).outliers.values > 0
    faint = light < 30 * sigma.values
    assert flagged[hit & faint].mean() > 0.9
    assert flagged[hit & ~faint].mean() > 0.5
    (decision,) = scores.decisions(detect_sky_outliers(struck))
    assert decision.n_taken == decision.scores.size == 8
    wrong = (detect_sky_outliers(ds).outliers.values > 0) & (ds.slice.values > 0)
    assert light[wrong].sum() < 1e-4 * light.sum()
    assert wrong.sum() < 5e-5 * np.isfinite(ds.flux.values).sum()
    # without its allowances it flags the source, and takes that back
    bold = detect_sky_outliers(ds, scale=0, systematic=0)
    assert (bold.score_outlier_detection > 1).any()
    assert light[(bold.outliers.values > 0) & (ds.slice.values > 0)].sum() < 2e-3 * light.sum()


def test_errors_of_the_master_background_hold_the_covariance_of_voxels(truth):
    rng = np.random.default_rng(31)
    ds = truth.blank("12A", 2, rng, rows=240)
    ds = truth.observed(ds, np.zeros(ds.flux.shape), rng, read=3.0)
    pulls = {}
    for mode in ("baseline", "optimal"):
        recipe = Recipe.of(mode)
        options = own_options(combine_backgrounds, recipe.values("master_background"))
        master = combine_backgrounds(background_spectra(ds, "2A", None, recipe), **options)
        known = (master.background_var.values > 0) & np.isfinite(master.background.values)
        pulls[mode] = (master.background.values / np.sqrt(master.background_var.values))[known]
    assert pulls["optimal"].size > 150
    assert np.std(pulls["baseline"]) > 1.4
    assert 0.88 < np.std(pulls["optimal"]) < 1.12
