"""Stray light of kernels whose numbers differ from those of the table, what no gap sees, kernels of the fit."""

from __future__ import annotations

import numpy as np
import pytest
from cal import test_straylight as made

from mrsxr.cal import _straylight_fit as straylight_fit
from mrsxr.cal import _straylight_profile_kernels as profile
from mrsxr.cal import _straylight_shape as shapes
from mrsxr.cal.straylight import subtract_straylight

SIGMA = 8.0 / 2.354820045
TABLE = np.array([45.0, 8e-4, SIGMA, 22.0, 1.5e-3, 4e-4])  # of made.one_kernel, as kernels take it


def share_of(kernel):
    """Return the share of each column's light that each pixel of a row gets, of a kernel of the distance."""
    x = np.arange(made.NX)
    out = kernel((x[:, None] - x).astype(float))
    out[:, 1024:] = 0
    out[:4] = out[-4:] = 0
    return out


def field(flux):
    """Return direct light [DN/s] of a source over several slices, at other places of each, with lines."""
    y, x = np.mgrid[: made.NY, : made.NX].astype(float)
    out = 0.03 + 0.02 * x / made.NX
    for k, share in ((5, 0.1), (7, 0.5), (9, 1.0), (11, 0.4), (13, 0.1), (24, 0.2), (26, 1.0), (28, 0.3)):
        place = x - (22 + 27 * k + 0.7 * np.sin(3 * k)) - 3e-6 * (y - 512) ** 2
        along = (1 + 4 * np.exp(-0.5 * ((y - 300) / 2) ** 2)) * (1 + 0.3 * np.cos(y / 300))
        out = out + share * flux * along / (1 + (place / np.where(place > 0, 2.0, 1.6)) ** 2) ** 2
    return np.where(made.slices(), out, 0.0)


def left_of(kernel, flux=60.0, seed=1):
    """Return what each method leaves of the brightest pixels of both halves [%], and the scores."""
    direct, x = field(flux), np.arange(made.NX)
    ds = made.with_slices(made.frames(made.noisy(direct, share_of(kernel), seed=seed)[None]))
    out = {m: subtract_straylight(ds, mrsxartcorr=made.one_kernel(), method=m) for m in ("kernel", "fitted")}
    left = {
        m: np.array([made.left_over(one.rate.values[0], direct, (direct > 0.25 * flux) & half)
                     for half in (x < 510, x >= 510)])
        for m, one in out.items()
    }  # fmt: skip
    return left, out["fitted"].score_straylight.values[0]


@pytest.mark.parametrize(
    "numbers",
    [
        (45.0, 8e-4, 1.35 * SIGMA, 18.7, 2.2e-3, 6e-4),
        (52.0, 7e-4, 0.8 * SIGMA, 25.0, 9e-4, 3e-4),
        (45.0, 8e-4, 1.5 * SIGMA, 17.0, 2.5e-3, 6e-4),
    ],
)
def test_numbers_that_differ_from_the_table_are_found(numbers):
    """What is scattered under the source itself, which no gap sees, follows from the numbers that the gaps tell."""
    left, scores = left_of(lambda d: made.kernel_at(d, *numbers))
    assert (np.abs(left["fitted"]) < 0.06).all()
    assert (np.abs(left["fitted"]) < np.abs(left["kernel"])).all()
    assert (scores < 0.165).all()


@pytest.mark.parametrize(("centre", "width", "height"), [(14.0, 3.0, 5e-4), (12.0, 3.0, 6e-4), (13.0, 2.5, 1e-3)])
def test_light_that_gaps_alone_see_is_not_taken_from_the_source(centre, width, height):
    """A ring of light around the source that no numbers of the table tell of, where the next gaps lie."""

    def kernel(d):
        bump = np.exp(-0.5 * ((d - centre) / width) ** 2) + np.exp(-0.5 * ((d + centre) / width) ** 2)
        return made.kernel_at(d, *TABLE) + height * bump

    left, scores = left_of(kernel)
    assert (np.abs(left["fitted"]) < np.abs(left["kernel"]) + 0.04).all()
    assert (scores < 0.8).all()


def misfits(more, noise):
    """Return chi2 (freedom, fold) that exceeds 1000 by ``more``, with a scatter of ``noise`` of the sum."""
    folds = np.array([1.0, -1.0, 1.0, -1.0]) * np.sqrt(3.0) / 4.0  # of standard deviation 1 / 2
    return np.stack([250.0 + m / 4 + n * folds for m, n in zip(more, noise, strict=True)])


@pytest.mark.parametrize(
    ("more", "noise", "change", "table", "chosen"),
    [
        ((5, 0, 3), (0, 0, 0), (0, 0, 0), (1, 0, 0), 0),  # as good as the best
        ((40, 0, 3), (50, 0, 0), (0, 0, 0), (1, 0, 0), 0),  # within noise
        ((60, 0, 3), (40, 0, 0), (0.004, 0.007, 0), (1, 0, 0), 1),  # told, and alike where no gap sees it
        ((60, 0, 3), (40, 0, 0), (0.001, 0.009, 0), (1, 0, 0), 0),  # hardly told, and the other would change much
        ((90, 0, 3), (40, 0, 0), (0.001, 0.009, 0), (1, 0, 0), 1),  # clearly told
        ((400, 0, 3), (300, 0, 0), (0.001, 0.009, 0), (1, 0, 0), 1),  # noise is no excuse for any misfit
        ((60, 0, 3), (40, 0, 0), (0.001, 0.009, 0), (0, 0, 0), 1),  # not the table's
        ((60, 0, 40), (40, 0, 30), (0.003, 0.009, 0.001), (1, 0, 1), 2),  # the least change of two
    ],
)
def test_freedom_that_is_chosen(more, noise, change, table, chosen):
    misfit = misfits(more, noise)
    np.testing.assert_allclose(2.0 * np.std(misfit - misfit[1], axis=1, ddof=1), noise, atol=1e-9)
    assert shapes.best_freedom(misfit, np.array(change, float), np.array(table, bool)) == chosen


def parameters(rng):
    rows = rng.uniform(0.8, 1.2, (2, 6, 5)) * TABLE[None, :, None]
    return rows


def test_kernels_change_with_their_shape_as_the_formula_says():
    rng = np.random.default_rng(3)
    rows, s = parameters(rng), rng.normal(0, 0.2, (2, 4))
    d = np.arange(90.0)
    new = shapes.reshaped(rows, s)
    width, offset, sigma, scale = np.exp(s[1])
    old = rows[1, :, 2]
    wanted = made.kernel_at(d, width * old[0], old[1], sigma * old[2], offset * old[3], scale * old[4], scale * old[5])
    np.testing.assert_allclose(shapes.tables_of(new, 90)[0][1, 2], wanted, rtol=1e-4)
    changes = shapes.changes_of(rows, s, 90)
    step = 1e-3 * rng.normal(size=(2, 4))
    more, less = (shapes.tables_of(shapes.reshaped(rows, s + k * step), 90)[0].astype(float) for k in (1, -1))
    found = np.einsum("hf,fhyd->hyd", 2 * step, changes)
    np.testing.assert_allclose(found, more - less, atol=0.02 * np.abs(more - less).max())
    np.testing.assert_array_equal(rows, parameters(np.random.default_rng(3)))


def test_share_that_no_gap_sees():
    rng = np.random.default_rng(4)
    rows, knots = parameters(rng)[:, :, :1], np.array([-20.0, -3.0, 5.0, 20.0])
    r, amount = rng.normal(0, 0.3, (2, 4)), np.array([0.7, 1.4])
    found = shapes.unseen_share(rows, 1.3 * rows, amount, knots, r)
    for half in (0, 1):
        total = 0.0
        for d in range(-shapes.UNSEEN, shapes.UNSEEN + 1):
            more = np.interp(d, knots, r[half]) * made.kernel_at(abs(d), *(1.3 * rows[half, :, 0]))
            total += amount[half] * (made.kernel_at(abs(d), *rows[half, :, 0]) + more)
        np.testing.assert_allclose(found[half], total, rtol=1e-4)


def test_what_tables_scatter_against_numpy():
    rng = np.random.default_rng(7)
    light, tables = rng.normal(size=(3, made.NX)).astype("f4"), rng.random((2, 3, made.NX)).astype("f4")
    bins, columns = np.array([0, 0, 2, 2]), np.array([4, 700, 30, 1027])
    out = np.empty((4, 2), "f4")
    profile.scatter_to(light, tables, bins, columns, out)
    for k, (b, x) in enumerate(zip(bins, columns, strict=True)):
        for half, (first, last) in enumerate(((4, 516), (516, 1024))):
            wanted = sum(float(light[b, z]) * tables[half, b, abs(x - z)] for z in range(first, last))
            np.testing.assert_allclose(out[k, half], wanted, atol=1e-3)


def test_a_fit_that_does_not_settle_is_made_again_with_what_is_stiffer(monkeypatch):
    given, freedoms = [], straylight_fit.FREEDOMS

    def never(image, flags, plain, fit, first, last):
        given.append(tuple(fit.free))
        fit.freedom = given[-1][-1]
        return np.zeros_like(image), 0.0, np.zeros_like(image), 0.0, False

    monkeypatch.setattr(straylight_fit, "_free", never)
    ds = made.with_slices(made.frames(np.random.default_rng(1).normal(0, 0.05, (1, made.NY, made.NX))))
    out = subtract_straylight(ds, mrsxartcorr=made.one_kernel(), method="fitted")
    assert given == [freedoms, freedoms[:-1], freedoms[:1]]
    assert out.score_straylight.isnull().all()
    plain = subtract_straylight(ds, mrsxartcorr=made.one_kernel())
    np.testing.assert_array_equal(out.rate, plain.rate)


@pytest.mark.parametrize(
    ("deviations", "likely"),
    [((2.9, 0, -2.0, 0), True), ((-1.0, -3.0, 3.0, 1.5), False), ((2.3, 2.3, -2.3, 2.3), False)],
)
def test_numbers_far_from_the_table_together_are_not_believed(monkeypatch, deviations, likely):
    """Each may be far, all of them together make up for a shape that the numbers do not have."""
    found, given, old = np.array(deviations) * shapes.DEVIATIONS, [], straylight_fit._free

    def odd(image, flags, plain, fit, first, last):
        given.append(tuple(fit.free))
        out = old(image, flags, plain, fit, first, last)
        if any(freedom[0] for freedom in fit.free):
            fit.freedom = shapes.STIFF_SHAPE
            fit.found[fit.places[5] : fit.places[6]] = found
        return (*out[:-1], True)

    monkeypatch.setattr(straylight_fit, "_free", odd)
    direct = field(60.0)
    ds = made.with_slices(made.frames(made.noisy(direct, share_of(lambda d: made.kernel_at(d, *TABLE)), seed=5)[None]))
    subtract_straylight(ds, mrsxartcorr=made.one_kernel(), method="fitted").rate.values  # noqa: B018
    stiffer = shapes.FREEDOMS[: shapes.FREEDOMS.index(shapes.STIFF_SHAPE)]
    assert given == ([shapes.FREEDOMS] if likely else [shapes.FREEDOMS, stiffer])
