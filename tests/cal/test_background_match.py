"""Background matching: functions recovered, nothing done where nothing differs, bands and tiles tied, kernels."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, no_compute
from match_scene import observe, with_functions
from scipy.interpolate import CubicSpline
from scipy.sparse import csr_array
from xarray.testing import assert_identical

from mrsxr import dq
from mrsxr.cal._background_match_errors import Scores, _between_grids, _raised, covariance, scores
from mrsxr.cal._background_match_kernels import cell_means, subtract_functions
from mrsxr.cal._background_match_misfit import Table
from mrsxr.cal._background_match_solve import (
    _TUKEY,
    Solution,
    Unknowns,
    _steep,
    eliminate,
    make_bins,
    mean_of,
    residuals,
    solve,
    spline_basis,
)
from mrsxr.cal._sampling import make_cells
from mrsxr.cal.background_match import fit_background_match, match_backgrounds, match_later
from mrsxr.errors import MrsxrError
from mrsxr.threads import bounded

OFFSETS, GRADIENTS = (20.0, -15.0, 25.0, 0.0), ((4.0, -3.0), (-5.0, 4.0), (3.0, 5.0), (0.0, 0.0))


ROWS = 400  # of the detector, where the whole band is not needed


@pytest.fixture(scope="module")
def plain():
    return observe(rows=ROWS)


@pytest.fixture(scope="module")
def injected():
    return with_functions(observe(every=3, noise=3.0), OFFSETS, GRADIENTS)


@pytest.fixture(scope="module")
def match(injected):
    return fit_background_match(injected[0], reference="00004")


def found_in(ds, match):
    """Return the functions that are subtracted and their variance."""
    blank = ds.assign(flux=xr.where(ds.flux.notnull(), 0, ds.flux).astype("f4").assign_attrs(ds.flux.attrs))
    out = match_backgrounds(blank, match=match)
    return -out.flux.values, out.var_background.values


def test_functions_are_recovered_to_two_percent(injected, match):
    ds, parts = injected
    found, variance = found_in(ds, match)
    assert (match.held.values == [0] * 6 + [1] * 2).all()
    for channel in (1, 2):
        lit = (ds.channel.values == channel) & (ds.slice.values > 0)
        assert (found[3][lit] == 0).all()
        for d in range(3):
            # split the error into its mean over the field and the rest, as the two parts of the truth
            wanted = (parts["offset"] + parts["field"])[d][lit]
            error = found[d][lit] - wanted
            assert np.sqrt(np.mean(error**2)) < 0.02 * np.sqrt(np.mean(wanted**2))
            terms = np.stack([np.ones(lit.sum()), ds.alpha.values[lit], ds.beta.values[lit]], axis=1)
            slopes, true = (np.linalg.lstsq(terms, v, rcond=None)[0] for v in (found[d][lit], wanted))
            np.testing.assert_allclose(slopes, true, rtol=0.02)
            assert 0.4 < np.sqrt(np.mean(error**2 / variance[d][lit])) < 1.8


def test_cores_change_no_number(injected, match):
    with bounded(2):
        assert_identical(fit_background_match(injected[0], reference="00004"), match)


def test_errors_over_noise():
    """The scatter of the levels over noise realisations is the error that is told."""
    pulls = []
    for seed in range(6):
        one = fit_background_match(observe(n_dither=2, seed=30 + seed, rows=ROWS), significance=0, reference="00001")
        free = one.isel(member=one.held.values == 0)
        assert (free.level_err.values > 0).all()
        pulls += (free.level / free.level_err).values.tolist()
        assert (free.significance.values < 4).all()
    assert 0.3 < np.sqrt(np.mean(np.square(pulls))) < 1.8


def test_nothing_is_done_where_nothing_differs(plain):
    match = fit_background_match(plain)
    assert (match.left_alone.values == 1).all()
    out = match_backgrounds(plain, match=match)
    np.testing.assert_array_equal(out.flux.values, plain.flux.values)
    assert (out.var_background.values[np.isfinite(plain.flux.values)] == 0).all()


def test_choice_of_the_reference(plain):
    ds, _ = with_functions(plain, OFFSETS, GRADIENTS)
    names = ds.exposure.values
    lowest = fit_background_match(ds, reference="lowest")
    assert set(lowest.exposure.values[lowest.held.values == 1]) == {names[1]}
    one_off = with_functions(plain, (0.0, 0.0, 30.0, 0.0), ((0, 0),) * 4)[0]
    typical = fit_background_match(one_off)
    assert names[2] not in typical.exposure.values[typical.held.values == 1]
    alone = typical.left_alone.values == 1
    assert (alone == (typical.exposure.values != names[2])).all()
    with pytest.raises(MrsxrError, match="reference 'nowhere' is in the name of no exposure"):
        fit_background_match(ds, reference="nowhere")


def test_bands_are_tied_by_their_overlap():
    first, second = observe("12A", 2, every=3), observe("12B", 2, every=3, first=11, seed=4)
    step = 6.0
    moved = second.assign(flux=(second.flux + np.float32(step)).assign_attrs(second.flux.attrs))
    match = fit_background_match([first, moved])
    levels = {band: match.level.values[match.band.values == band] for band in ("1A", "1B", "2A", "2B")}
    errors = {band: match.level_err.values[match.band.values == band].max() for band in levels}
    assert (levels["1A"] == 0).all()
    for band in ("1B", "2B"):
        before = levels["2A" if band == "2B" else "1A"]
        assert np.abs(levels[band] - before - step).max() < max(4 * errors[band], 0.02 * step)


@pytest.mark.slow
def test_bands_that_are_not_tied_and_another_reference_band():
    step, first = 6.0, observe("12A", 2)
    second = observe("12B", 2, first=11, seed=4)
    moved = second.assign(flux=(second.flux + np.float32(step)).assign_attrs(second.flux.attrs))
    apart = fit_background_match([first, moved], tie_bands=False)
    assert np.abs(apart.level.values).max() < 0.1
    other = fit_background_match([first, moved], reference_band="1B")
    assert other.level.values[other.band.values == "1B"].max() == 0
    assert other.level.values[other.band.values == "1A"].max() < -0.9 * step


@pytest.mark.slow
def test_tiles_of_a_mosaic():
    first, second = observe("12A", 2, rows=ROWS), observe("12A", 2, north=1.5, first=11, seed=5, rows=ROWS)
    far = observe("12A", 1, north=60.0, first=21, seed=6, rows=ROWS)
    offset = np.float32(12.0)
    moved, far = (d.assign(flux=(d.flux + offset).assign_attrs(d.flux.attrs)) for d in (second, far))
    match = fit_background_match((d for d in (first, moved, far)), reference="00001")
    tile = np.array([name.split("_")[2] for name in match.exposure.values])
    np.testing.assert_allclose(match.level.values[np.char.startswith(tile, "0001")], offset, rtol=0.02)
    assert (match.level.values[np.char.startswith(tile, "0000")] == 0).all()
    lonely = match.isel(member=tile == "00021")
    assert (lonely.level.values == 0).all()
    assert (lonely.held.values == 1).all()
    assert not set(lonely.group.values) & set(match.group.values[tile != "00021"])


def test_fewer_freedoms(plain):
    moved = plain.assign(flux=plain.flux + xr.DataArray(np.array([0, 5, 0, 0], "f4"), dims="dither"))
    moved.flux.attrs.update(plain.flux.attrs)
    match = fit_background_match(moved, n_knots=1, gradients=False)
    assert match.coefficients.shape == (8, 1, 1)
    np.testing.assert_allclose(match.level.values, [0, 0, 5, 5, 0, 0, 0, 0], rtol=0.02)
    out = match_backgrounds(moved, match=match)
    lit = np.isfinite(plain.flux.values[1])
    assert abs(np.mean((out.flux.values - plain.flux.values)[1][lit])) < 0.1


def test_pathologies():
    ds = observe(rows=ROWS, seed=2).isel(dither=slice(0, 3)).copy(deep=True)
    ds.flux.values[1] = np.nan
    ds.flux.values[2, :, :300] = np.inf
    ds.dq.values[2, 120:250] |= dq.DO_NOT_USE
    match = fit_background_match(ds)
    assert (match.n_samples.values[2:4] == 0).all()
    assert np.isfinite(match.coefficients.values).all()
    assert np.isfinite(match.covariance.values).all()
    assert (match.left_alone.values == 1).all()
    dark = ds.isel(dither=[1]).assign(exposure=("dither", ["alone"]))
    nothing = fit_background_match(dark)
    assert (nothing.level.values == 0).all()
    assert np.isnan(match_backgrounds(dark, match=nothing).flux.values).all()


def test_step_keeps_its_promises(injected, match):
    part = injected[0].isel(y=slice(30, 60))
    out = assert_step(match_backgrounds, part, match=match)
    assert out.var_background.attrs["units"] == "MJy2/sr2"
    twice = out.copy()
    del twice.attrs["background_match"]
    again = match_backgrounds(twice, match=match)
    lit = np.isfinite(out.flux.values)
    np.testing.assert_allclose(again.var_background.values[lit], 2 * out.var_background.values[lit], rtol=1e-5)


def test_errors_are_clear(plain, match):
    out = match_backgrounds(plain, match=match)
    with pytest.raises(MrsxrError, match="matched already"):
        match_backgrounds(out, match=match)
    with pytest.raises(MrsxrError, match="is not among those of the background match"):
        match_backgrounds(plain.assign_coords(exposure=("dither", list("abcd"))), match=match)
    with pytest.raises(MrsxrError, match="kind background_match"):
        match_backgrounds(plain, match=xr.Dataset())
    with pytest.raises(MrsxrError, match="given twice"):
        fit_background_match([plain, plain])
    with pytest.raises(MrsxrError, match="run assign_wcs first"):
        fit_background_match(plain.drop_vars("alpha"))
    with pytest.raises(MrsxrError, match="level cal"):
        fit_background_match(plain.assign_attrs(level="rate"))
    with pytest.raises(MrsxrError, match="n_knots is 0"):
        fit_background_match(plain, n_knots=0)
    with pytest.raises(MrsxrError, match="no exposures"):
        fit_background_match([])


def test_one_exposure_at_a_time(plain):
    """Lazy data are computed dither by dither, and the result is that of data in memory."""
    two = plain.isel(dither=slice(0, 2))
    lazy, eager = (fit_background_match(d, significance=0) for d in (two.chunk(dither=1), two))
    xr.testing.assert_identical(lazy, eager)


def test_splines_are_cardinal():
    knots, place = np.array([1.0, 1.5, 3.0, 4.0, 4.5]), np.linspace(1, 4.5, 60)
    basis = spline_basis(knots, place)
    for k in range(5):
        np.testing.assert_allclose(basis[:, k], CubicSpline(knots, np.eye(5)[k])(place), atol=1e-12)
    cubic = 1 + place - 0.3 * place**3
    np.testing.assert_allclose(basis @ (1 + knots - 0.3 * knots**3), cubic, atol=1e-10)
    np.testing.assert_allclose(spline_basis(knots, np.array([0.0, 9.0])), np.eye(5)[[0, 4]], atol=1e-12)
    np.testing.assert_allclose(spline_basis(np.array([1.0, 3.0]), np.array([1.5, 2.0])), [[0.75, 0.25], [0.5, 0.5]])
    assert (spline_basis(np.array([2.0]), place) == 1).all()


def test_cells_hold_pixels_of_one_slice_and_bin(plain):
    cells = make_cells(plain)
    labels, wavelength = plain.slice.values.ravel(), plain.wavelength.values.ravel()
    assert np.unique(cells.order).size == cells.order.size
    for c in range(0, cells.start.size - 1, 997):
        pixels = cells.order[cells.start[c] : cells.start[c + 1]]
        assert (labels[pixels] == cells.slice[c]).all()
        assert np.ptp(np.log(wavelength[pixels])) <= 0.0035


def test_cell_means_against_numpy():
    rng = np.random.default_rng(1)
    flux, var = rng.normal(5, 1, 400), rng.uniform(0.5, 1.5, 400)
    flux[::17], flux[5:60:9] = 300.0, np.nan
    order, start = rng.permutation(400), np.array([0, 30, 200, 390, 400])
    flux[order[390:]] = np.nan
    along, wave = rng.normal(size=(2, 400))
    out = cell_means(flux, var, order, start, along, wave, 3.0, 0.5)
    for c in range(4):
        i = order[start[c] : start[c + 1]]
        i = i[np.isfinite(flux[i])]
        if i.size == 0:
            assert out[c, 4] == 0
            continue
        off = np.abs(flux[i] - np.median(flux[i]))
        i = i[off <= 3 * 1.4826 * np.median(off)]
        expected = [flux[i].mean(), var[i].sum() / i.size**2, along[i].mean(), wave[i].mean(), i.size]
        np.testing.assert_allclose(out[c], expected)


@pytest.mark.parametrize("n_term", [1, 3, 6])
def test_functions_against_numpy(n_term):
    rng = np.random.default_rng(n_term)
    shape, n_node = (2, 5, 7), 4
    flux, known = rng.normal(size=shape), rng.uniform(0, 1, shape)
    alpha, beta, wavelength = *rng.normal(size=(2, 5, 7)), rng.uniform(4.5, 6.5, (5, 7))
    side = rng.integers(-1, 2, (5, 7)).astype(np.int8)
    root = rng.normal(size=(2, 2, n_node, n_term, n_term))
    covariance = root @ np.swapaxes(root, -1, -2)
    values = rng.normal(size=(2, 2, n_node, n_term))
    table = np.concatenate([values, covariance[..., *np.triu_indices(n_term)]], axis=-1)
    facts = np.tile([1.5, 0.1, 5.0, 6.0], (2, 2, 1))
    out, spread = subtract_functions(
        flux.astype("f4"), known.astype("f4"), alpha, beta, wavelength, side,
        table.reshape(2, -1, 1, 1), facts.reshape(2, -1, 1, 1), n_side=2, n_term=n_term, independent=0,
    )  # fmt: skip
    terms = np.stack([np.ones_like(alpha), alpha, beta, alpha**2, alpha * beta, beta**2])[:n_term]
    nodes = np.linspace(5, 6, n_node)
    for d in range(2):
        for y in range(5):
            for x in range(7):
                level = variance = 0.0
                if side[y, x] >= 0:
                    t, s = terms[:, y, x], side[y, x]
                    level = np.interp(wavelength[y, x], nodes, values[d, s] @ t)
                    variance = np.interp(wavelength[y, x], nodes, [t @ c @ t for c in covariance[d, s]])
                assert out[d, y, x] == pytest.approx(flux[d, y, x] - 1.5 * level, abs=1e-4)
                assert spread[d, y, x] == pytest.approx(known[d, y, x] + 2.25 * variance + 0.1 * level**2, rel=1e-4)


def test_scores_of_patches_are_raised_to_what_the_noise_of_their_samples_gives():
    """Residuals of a patch that holds much of the solution are small: r = (1 - H) noise; after it their sum is X'X."""
    rng = np.random.default_rng(4)
    x = rng.normal(0, 1, (40, 3))
    x[:6] *= 8.0  # the first patch decides
    inverse = np.linalg.inv(x.T @ x)
    for rows in (slice(0, 6), slice(6, 20), slice(20, 40)):
        own = x[rows]
        residual = np.eye(len(own)) - own @ inverse @ own.T
        way = np.stack([_raised(unit, own.T @ own, inverse) for unit in np.eye(3)], axis=1)
        np.testing.assert_allclose(way @ own.T @ residual @ own @ way.T, own.T @ own, rtol=1e-6, atol=1e-9)
    assert np.linalg.norm(_raised(np.ones(3), x[:6].T @ x[:6], inverse)) > 1.3 * np.sqrt(3)


class _Found:
    """A solution of independent unknowns, each of weight 1."""

    def __init__(self, size):
        self.values, self.factor = np.zeros(size), self

    def solve(self, right):
        return right


def test_few_patches_of_misfit_make_no_direction_sure():
    """One bright patch shows one direction; chance of many patches adds nothing; grids add what they differ by."""
    rng, one = np.random.default_rng(8), np.eye(9)
    still, noise, found = np.zeros((4, 9)), csr_array(one), _Found(9)
    shown, part = csr_array(rng.normal(0, 0.045, (400, 9))), np.full((400, 9), 1 / 400)
    many = Scores(shown, noise, part, still, noise)
    np.testing.assert_allclose(covariance(found, many, np.arange(9))[0], one, atol=1e-12)
    bright = np.zeros((400, 9))
    bright[3] = 30.0 * one[0] + 40.0 * one[1]
    part_of_one = np.where(np.arange(400) == 3, 1.0, 0.0)[:, None] * np.ones(9)
    few, freedom = covariance(found, Scores(csr_array(bright), noise, part_of_one, still, noise), np.arange(9))
    np.testing.assert_allclose(np.linalg.eigvalsh(few), [2500 / 9] * 8 + [2500], rtol=1e-9)
    assert few[0, 1] > 0.4 * (2500 - 2500 / 9)
    assert 1.0 < freedom < 5.0  # one patch has one


def test_fits_with_weights_that_follow_move_as_far_as_steep_says():
    """Means by Tukey's weights that follow the data are moved by more than those by the same weights kept."""
    rng = np.random.default_rng(3)
    group = np.repeat([0, 1], 200_000)
    noise = rng.normal(size=group.size) * np.where(group == 0, 1.0, 0.4)
    inside = np.abs(noise) < _TUKEY
    weight = np.where(inside, (1 - (noise / _TUKEY) ** 2) ** 2, 0.0)
    steep = _steep(np.abs(noise), weight, group)
    for g in (0, 1):
        own = group == g
        moved = 1e-3 * np.sum(weight[own]) / steep[own][0]  # score of data moved by 1e-3
        ahead, behind = (np.clip(1 - ((noise[own] + d) / _TUKEY) ** 2, 0, None) ** 2 * (noise[own] + d)
                         for d in (5e-4, -5e-4))  # fmt: skip
        assert np.sum(ahead - behind) == pytest.approx(moved, rel=1e-3)
    assert steep[0] == pytest.approx(1.21, abs=0.01)
    assert steep[-1] == pytest.approx(1.03, abs=0.01)


def test_what_grids_differ_by_counts_beyond_what_noise_makes_of_it():
    """Grids of one noise differ by chance, which the noise of their mean holds; misfit makes them differ more."""
    rng, one = np.random.default_rng(8), np.eye(30)
    of_each = rng.normal(size=(400, 4, 30))  # scores of four grids whose noise has nothing in common
    off = of_each - of_each.mean(axis=1, keepdims=True)
    noise = csr_array(one / 4), csr_array(one)

    def added(factor):
        scores_of = (Scores(csr_array((1, 30)), noise[0], np.ones((1, 30)), factor * grids, noise[1]) for grids in off)
        return np.array([np.trace(_between_grids(score, one)) / 30 for score in scores_of])

    assert np.mean(added(1.0) == 0.0) > 0.95
    assert np.mean(added(1.0)) < 0.02
    np.testing.assert_allclose(np.mean(added(5.0)), 24.0, rtol=0.02)


def test_lazy_exposures_are_matched_when_they_are_computed(plain):
    """The fit is a task of the graph; what comes of it is that of exposures in memory, bit by bit."""
    ds = plain.isel(dither=[0, 1], y=slice(50, 200))
    images = [name for name in ds.data_vars if "dither" in ds[name].dims]
    lazy = ds.assign({name: ds[name].variable.chunk(dither=1, y=70) for name in images})
    for options in ({"significance": 0.0}, {"gradients": False}):
        with no_compute():
            (later,) = match_later([lazy], **options)
            out = match_backgrounds(lazy, match=later)
        assert_identical(out.compute(), match_backgrounds(ds, match=fit_background_match(ds, **options)))
    with pytest.raises(MrsxrError, match="nowhere"):
        match_later([lazy], reference="nowhere")[0].compute()


def dense_sky(x, y, sky_bin):
    """Return the matrix from the nodes of the sky of all bins, quadratic splines, to the samples."""

    def splines(place):
        off = np.abs(place[:, None] - 0.5 - np.arange(-3, 12))
        return np.where(off < 0.5, 0.75 - off**2, np.where(off < 1.5, 0.5 * (1.5 - off) ** 2, 0.0))

    of_place = (splines(y)[:, :, None] * splines(x)[:, None, :]).reshape(x.size, -1)
    columns = np.concatenate([of_place * (sky_bin == k)[:, None] for k in np.unique(sky_bin)], axis=1)
    return columns[:, columns.any(axis=0)]


def without_sky(nodes, weight, columns):
    """Return columns without what the nodes take of them; those at corners hang on to a ridge."""
    weighted = weight[:, None] * nodes
    normal = nodes.T @ weighted
    normal += np.diag(1e-8 * np.diag(normal) + 1e-8 * np.median(weight[weight > 0]))
    return columns - nodes @ np.linalg.solve(normal, weighted.T @ columns)


@pytest.mark.parametrize(("wide", "n_term"), [((2.0, 4.0), 3), ((5.0, 2.0), 1)])
def test_equations_without_the_sky_against_dense_least_squares(wide, n_term):
    """Coefficients, residuals and scores of what the kernels make of a band are those of all unknowns at once."""
    rng = np.random.default_rng(n_term)
    n, n_knot = 360, 2
    member, sky_bin = rng.integers(0, 3, n), np.repeat([4, 5, 9], n // 3)
    member[sky_bin == 9] %= 2  # another set of members
    x, y = rng.uniform(0, 1, (2, n)) * np.array(wide)[:, None]
    terms = np.concatenate([np.ones((n, 1)), rng.normal(size=(n, 2))[:, : n_term - 1]], axis=1)
    flux, sigma = rng.normal(10, 2, n), rng.uniform(0.5, 2, n)
    table = Table(member, sky_bin, sky_bin, x, y, terms, flux, sigma, np.zeros(n, dtype=int))
    basis = [{k: rng.uniform(0.2, 1, n_knot) for k in (4, 5, 9)} for _ in range(3)]
    weight = sigma**-2.0 * (rng.uniform(size=n) > 0.05)
    unknowns = Unknowns(np.array([-1, 0, n_term * n_knot]), np.array([-1, -1, 2 * n_term * n_knot]),
                        2 * n_term * n_knot + 1, n_term, n_knot)  # fmt: skip
    bins = make_bins(table, basis)
    sky = eliminate(table, bins, weight)
    values, factor = solve(sky.equations, unknowns)
    own = np.zeros((n, unknowns.size))
    for i in range(n):
        if (first := unknowns.first[member[i]]) >= 0:
            spline = basis[member[i]][sky_bin[i]]
            own[i, first : first + n_term * n_knot] = (terms[i][:, None] * spline).ravel()
        if member[i] == 2:
            own[i, -1] = basis[2][sky_bin[i]].sum()
    nodes, root = dense_sky(x, y, sky_bin), np.sqrt(weight)[:, None]
    wanted = np.linalg.lstsq(root * np.concatenate([nodes, own], axis=1), root[:, 0] * flux, rcond=1e-12)[0]
    # a constant is told from the splines of its member by the ridge alone: what they make together is compared
    model = np.concatenate([nodes, own], axis=1) @ wanted
    residual = residuals(table, bins, sky, unknowns.coefficients(values))
    np.testing.assert_allclose(residual[weight > 0], (flux - model)[weight > 0], atol=1e-4)
    free = own - nodes @ np.linalg.lstsq(root * nodes, root * own, rcond=None)[0]
    found = Solution(values, factor, [sky], weight, np.ones(weight.size), np.ones(1), 1, True)
    score = scores(table, [bins], unknowns, found, sigma)
    noise = free * (weight * sigma)[:, None]
    np.testing.assert_allclose(score.noise.toarray(), noise.T @ noise, rtol=1e-4, atol=1e-2)
    shifted = make_bins(table, basis, (0.5, 0.5))
    skies = [sky, eliminate(table, shifted, weight)]
    values, factor = solve(mean_of(skies), unknowns)
    found = Solution(values, factor, skies, weight, np.ones(weight.size), np.ones(1), 1, True)
    score = scores(table, [bins, shifted], unknowns, found, sigma)
    every = (nodes, dense_sky(x + 0.5, y + 0.5, sky_bin))
    free = [without_sky(one, weight, own) * weight[:, None] for one in every]
    both = 0.5 * (free[0] + free[1]) * sigma[:, None]
    np.testing.assert_allclose(score.noise.toarray(), both.T @ both, rtol=1e-4, atol=1e-2)
    each = [one * sigma[:, None] for one in free]
    wanted = 0.5 * sum(one.T @ one for one in each)
    np.testing.assert_allclose(score.noise_of_one.toarray(), wanted, rtol=1e-4, atol=1e-2)
    pulls = [a.T @ without_sky(b, weight, flux - own @ values) for a, b in zip(free, every, strict=True)]
    np.testing.assert_allclose(score.grids, pulls - np.mean(pulls, axis=0), atol=1e-2 * np.abs(pulls).max())
    changed = unknowns.coefficients(np.zeros(unknowns.size))
    alone = flux - nodes @ np.linalg.lstsq(root * nodes, root[:, 0] * flux, rcond=None)[0]
    np.testing.assert_allclose(residuals(table, bins, sky, changed)[weight > 0], alone[weight > 0], atol=1e-4)
