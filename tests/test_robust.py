"""Robust statistics and small systems: those of compiled code and of arrays against numpy and astropy."""

import numpy as np
import pytest
from astropy.stats import mad_std, sigma_clip

from mrsxr import _clip_kernels, robust
from mrsxr._clip_kernels import clip, moments
from mrsxr._solve_kernels import cholesky, invert, log_determinant, solve, substitute


@pytest.mark.parametrize(("n", "rounds"), [(1, -1), (2, -1), (9, 3), (150, 1), (151, 5), (400, -1)])
def test_clipping_keeps_what_astropy_keeps(n, rounds):
    values = np.random.default_rng(n).standard_t(1.5, n)
    wanted, low, high = sigma_clip(
        values, 2.5, maxiters=None if rounds < 0 else rounds, masked=False, return_bounds=True
    )
    work = values.copy()
    kept, *limits = clip(work, n, 2.5, rounds, np.empty(n))
    np.testing.assert_array_equal(work[:kept], wanted)
    np.testing.assert_allclose(limits, (low, high), rtol=1e-12)
    np.testing.assert_allclose(moments(work, kept), (wanted.mean(), wanted.std()), rtol=1e-12, atol=1e-15)


def test_nothing_is_clipped_to_nothing():
    assert clip(np.empty(0), 0, 3.0, -1, np.empty(0))[0] == 0


@pytest.mark.parametrize("n", [1, 4, 9])
def test_cholesky_solves_inverts_and_refuses(n):
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(n, 2 * n + 1))
    matrix, right = rows @ rows.T, rng.normal(size=n)
    wanted, factor, out, inverse = np.linalg.solve(matrix, right), matrix.copy(), right.copy(), np.empty((n, n))
    assert cholesky(factor, n)
    np.testing.assert_allclose(np.tril(factor), np.linalg.cholesky(matrix))
    by_columns = matrix.copy()
    np.testing.assert_allclose(log_determinant(by_columns, n), np.linalg.slogdet(matrix)[1], rtol=1e-9)
    np.testing.assert_array_equal(np.tril(by_columns), np.tril(factor))
    substitute(factor, n, out)
    for found in (out, solve(matrix.copy(), right)):
        np.testing.assert_allclose(found, wanted, rtol=1e-9)
    assert invert(matrix.copy(), inverse, 1e-12)
    np.testing.assert_allclose(inverse, np.linalg.inv(matrix), rtol=1e-9, atol=1e-12)
    singular = np.ones((3, 3))
    assert not cholesky(singular.copy(), 3)
    assert np.isnan(log_determinant(singular.copy(), 3))
    assert not invert(singular.copy(), np.empty((3, 3)), 1e-12)
    assert np.isnan(solve(-np.eye(2), np.ones(2))).all()


def test_statistics_of_arrays():
    values = np.random.default_rng(5).normal(3, 2, (7, 40))
    middle, scatter = robust.middle_and_scatter(values[0])
    assert middle == np.median(values[0])
    assert scatter == pytest.approx(mad_std(values[0]), rel=1e-5)
    assert robust.MAD_TO_SIGMA == _clip_kernels.MAD_TO_SIGMA
    values[2:, :5] = np.nan
    image = robust.median_image(values, np.isfinite(values).sum(axis=0) > 2)
    assert np.isnan(image[:5]).all()
    np.testing.assert_array_equal(image[5:], np.median(values[:, 5:], axis=0))
    assert np.isnan(robust.median_image(values, np.zeros(40, bool))).all()
