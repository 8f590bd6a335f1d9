"""clean_showers: equal to jwst on stored images, what the gated form takes and leaves, pathologies, errors."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_step, detector_attrs, dither_coords, make_reference, of_jwst
from parity.make_straylight_parity import SHOWER_CASES, made_image, regions_of
from scipy.ndimage import correlate
from xarray import Dataset

from mrsxr import dq
from mrsxr.cal import _clean_showers_kernels as kernels
from mrsxr.cal import _shower_fit_kernels as field
from mrsxr.cal import _shower_slices as slices
from mrsxr.cal.showers import clean_showers
from mrsxr.errors import MrsxrError, ReferenceFileError

SHAPE = (300, 420)
NOISE = 0.05


def frames(rates, flags=None):
    """Return a rate Dataset around images (dither, y, x) [DN/s]."""
    dims = ("dither", "y", "x")
    variance = np.full(rates.shape, 0.5 * NOISE**2)
    planes = {"rate": (rates, "DN/s"), "var_poisson": (variance, "DN2/s2"), "var_read": (variance, "DN2/s2")}
    ds = Dataset(
        {name: (dims, values.astype("f4"), {"units": unit}) for name, (values, unit) in planes.items()},
        coords={"y": np.arange(rates.shape[1]), "x": np.arange(rates.shape[2]), **dither_coords(rates.shape[0])},
        attrs=detector_attrs("rate", "12A", 10, 2),
    )
    ds["dq"] = (dims, np.zeros(rates.shape, "u4") if flags is None else flags, dq.PIXEL_DQ_ATTRS)
    return ds


def regions(planes):
    return make_reference("regions", regions=(("plane", "y", "x"), planes))


def lit():
    return np.broadcast_to((np.arange(SHAPE[1]) % 27) > 6, SHAPE).copy()


def labelled():
    return np.where(lit(), 101 + np.arange(SHAPE[1]) // 27, 0)


def sky(seed=1, glow=0.0, shower=0.0, line=0.0, source=0.0):
    """Return (rate, light, shower): ``line`` and ``source`` shine in the slices, 2 % of them between."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    light = glow + line * np.exp(-0.5 * ((y - 140) / 1.5) ** 2) * np.exp(-0.5 * ((x - 200) / 60) ** 2)
    light = light + source * np.exp(-0.5 * ((x - 200) / 40) ** 2)
    blob = shower * np.exp(-0.5 * (((y - 150) / 25) ** 2 + ((x - 210) / 45) ** 2))
    scattered = 0.02 * (light - glow)
    noise = np.random.default_rng(seed).normal(0, NOISE, SHAPE)
    return (np.where(lit(), light, scattered) + blob + noise).astype("f4"), light, blob


def run(rate, **options):
    planes = np.stack([labelled()] * 9).astype("i2")
    return clean_showers(frames(rate[None]), regions=regions(planes), **options)


@pytest.mark.parametrize("number", range(len(SHOWER_CASES)))
def test_equal_to_jwst(number):
    shape, plane, x_stddev, y_stddev, low, high = SHOWER_CASES[number]
    rate, flags, inside = made_image(20 + number, shape)
    ds = frames(rate[None], flags[None])
    stored = of_jwst("straylight")
    wanted = stored[f"showers_{number}"]
    out = clean_showers(
        ds, regions=regions(regions_of(inside)), shower_plane=plane, shower_x_stddev=x_stddev,
        shower_y_stddev=y_stddev, shower_low_reject=low, shower_high_reject=high,
    )  # fmt: skip
    same = np.isfinite(wanted)
    np.testing.assert_array_equal(np.isnan(out.rate[0]), ~same)
    found = (ds.rate - out.rate).values[0]
    bright = np.nanmax(rate[np.isfinite(rate)])
    np.testing.assert_allclose(found[same], wanted[same], rtol=0, atol=2e-7 * bright)
    assert np.abs(wanted[same]).max() > 0.05
    np.testing.assert_array_equal(out.dq, ds.dq)


@pytest.mark.parametrize("widths", [(4.0, 2.0), (1.5, 6.0), (11.0, 0.7)])
def test_smooth_equals_a_plain_correlation(widths):
    image = np.random.default_rng(2).normal(size=(37, 52)).astype("f4")
    taps = [kernels.gaussian_taps(*pair) for pair in (widths, widths[::-1])]
    both = [np.concatenate([t[:0:-1], t]) for t in taps]
    assert [t.sum() for t in both] == pytest.approx([1, 1], abs=1e-6)
    out = np.empty_like(image)
    kernels.smooth(image, *taps, out)
    slow = correlate(image.astype("f8"), np.outer(both[1], both[0]), mode="constant")
    np.testing.assert_allclose(out, slow, atol=2e-6)
    kernels.smooth(image, *taps, image)
    np.testing.assert_array_equal(image, out)


@pytest.mark.parametrize("method", ["smooth", "gated"])
def test_promises(method):
    rates = np.stack([sky(1, shower=0.4)[0], sky(2, line=40.0)[0]])
    planes = np.stack([labelled()] * 9).astype("i2")
    out = assert_step(clean_showers, frames(rates), regions=regions(planes), method=method)
    assert ("var_straylight" in out) == (method == "gated")


@pytest.mark.parametrize("method", ["smooth", "gated"])
def test_showers_go(method):
    rate, light, blob = sky(shower=0.5)
    out = run(rate, method=method).rate.values[0]
    inside = lit() & (blob > 0.1)
    before, after = ((image - light)[inside].mean() for image in (rate, out))
    assert before > 0.15
    assert abs(after) < 0.1 * before


def made_shower(profile, size, peak, at=(150.0, 210.0), ratio=1.0, tilt=0.0):
    """Return the light of a shower; profile of the distance over the FWHM [pix]."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    dy, dx = y - at[0], x - at[1]
    u, v = np.cos(tilt) * dx + np.sin(tilt) * dy, np.cos(tilt) * dy - np.sin(tilt) * dx
    return peak * profile(np.hypot(u / ratio, v) / size)


def gaussian(r):
    return np.exp(-2.7726 * r**2)


@pytest.mark.parametrize(
    ("profile", "size", "peak", "more", "limit"),
    [
        (gaussian, 30, 0.3, {}, 0.06),
        (gaussian, 28, 3.0, {"at": (140.0, 196.0)}, 0.05),
        (gaussian, 35, 0.7, {"ratio": 2.0, "tilt": 0.8}, 0.05),
        (gaussian, 80, 1.3, {}, 0.05),
        (lambda r: np.exp(-1.3863 * r), 32, 1.7, {}, 0.05),
        (lambda r: np.exp(-8.0 * (r - 0.6) ** 2), 60, 0.8, {}, 0.05),
        (lambda r: 0.5 - 0.5 * np.tanh(6 * (r - 0.5)), 45, 2.5, {}, 0.05),
        (gaussian, 40, 1.1, {"at": (3.0, 200.0)}, 0.05),
    ],
)
def test_gated_takes_showers_of_any_brightness_and_form(profile, size, peak, more, limit):
    rate, light, _ = sky(7)
    shower = made_shower(profile, size, peak, **more)
    out = run(rate + shower, method="gated")
    inside = lit() & (shower > 0.05 * peak)
    assert abs((out.rate.values[0] - light)[inside].sum()) < limit * shower[inside].sum()
    assert float(out.score_clean_showers[0]) < 0.7


def test_gated_takes_several_showers_of_one_image():
    rate, light, _ = sky(8)
    showers = [made_shower(gaussian, 30, p, at=a) for p, a in ((2.0, (70, 90)), (0.4, (70, 310)), (1.0, (240, 200)))]
    out = run(rate + sum(showers), method="gated").rate.values[0]
    for shower in showers:
        inside = lit() & (shower > 0.05 * shower.max())
        assert abs((out - light)[inside].sum()) < 0.07 * shower[inside].sum()


@pytest.mark.parametrize(
    ("size", "peaks", "apart"),
    [
        (25, (1.0, 0.7), (0.0, 32.0)),
        (25, (0.8, 0.8), (33.0, 8.0)),
        (30, (4.0, 1.6), (38.0, 12.0)),
        (45, (0.4, 0.3), (20.0, 60.0)),
    ],
)
def test_gated_takes_two_showers_beside_each_other(size, peaks, apart):
    rate, light, _ = sky(17)
    first, second = (
        made_shower(gaussian, size, p, (145 + k * apart[0], 190 + k * apart[1])) for k, p in enumerate(peaks)
    )
    out = run(rate + first + second, method="gated").rate.values[0]
    inside = lit() & (first + second > 0.05 * max(peaks))
    assert abs((out - light)[inside].sum()) < 0.06 * (first + second)[inside].sum()
    near_one = lit() & (second > 0.5 * peaks[1])
    assert abs((out - light)[near_one].sum()) < 0.1 * (first + second)[near_one].sum()


def test_gated_without_a_shower_is_the_input_and_says_so():
    for seed in range(4):
        ds_rate = sky(seed, glow=0.05 * (seed % 2))[0]
        out = run(ds_rate, method="gated")
        np.testing.assert_array_equal(out.rate[0], ds_rate)
        assert not out.var_straylight.any()
        assert not out.score_clean_showers[0] < 0.9


def test_single_hits_are_no_shower():
    rate = sky(5)[0]
    rng = np.random.default_rng(5)
    rate[rng.integers(0, SHAPE[0], 60), rng.integers(0, SHAPE[1], 60)] += rng.uniform(1, 50, 60).astype("f4")
    np.testing.assert_array_equal(run(rate, method="gated").rate[0], rate)


def test_gated_protects_lines_and_sources():
    rate = sky(line=60.0)[0]
    smooth, gated = (rate - run(rate, method=m).rate.values[0] for m in ("smooth", "gated"))
    row = (140, slice(150, 250))
    assert smooth[row].mean() > 0.15  # 2 % of the line, spread over five rows
    assert abs(gated[row].mean()) < 0.02
    rate = sky(source=30.0)[0]
    smooth, gated = (rate - run(rate, method=m).rate.values[0] for m in ("smooth", "gated"))
    assert smooth[:, 150:250].mean() > 0.3
    for protection in (0.0, 0.02):  # without it the slices say that what is scattered does not lie on them
        np.testing.assert_array_equal(run(rate, method="gated", protection=protection).rate[0], rate)


def test_gated_sees_a_shower_beside_a_line():
    rate, light, blob = sky(line=60.0, shower=0.5)
    out = run(rate, method="gated").rate.values[0]
    inside = lit() & (blob > 0.2)
    inside[136:145] = False
    assert abs((out - light)[inside].mean()) < 0.15 * blob[inside].mean()


@pytest.mark.slow
def test_variance_is_the_scatter():
    rates = np.stack([sky(seed, shower=0.5)[0] for seed in range(12)])
    planes = np.stack([labelled()] * 9).astype("i2")
    out = clean_showers(frames(rates), regions=regions(planes), method="gated")
    strong = sky(shower=0.5)[2] > 0.3
    model = rates - out.rate.values
    ratio = model.var(axis=0, ddof=1)[strong].mean() / out.var_straylight.values.mean(axis=0)[strong].mean()
    assert 0.4 < ratio < 1.6  # it holds what the field about the blob could be as well
    again = clean_showers(out, regions=regions(planes), method="gated")
    assert (again.var_straylight >= out.var_straylight).all()


def test_field_through_cells_against_numpy():
    rng = np.random.default_rng(9)
    n, form = 30, np.array([0.7, 14.0, 8.0, 0.4, 0.3])
    cells = np.stack([rng.normal(size=n), rng.uniform(0.01, 0.1, n), rng.uniform(0, 0.2, n),
                      rng.uniform(0, 60, n), rng.uniform(0, 40, n)])  # fmt: skip
    dx, dy = cells[3][:, None] - cells[3], cells[4][:, None] - cells[4]

    def slow(dx, dy):
        u, v = np.cos(0.4) * dx + np.sin(0.4) * dy, np.cos(0.4) * dy - np.sin(0.4) * dx
        q = (u / 14) ** 2 + (v / 8) ** 2
        return 0.49 * (0.7 * np.exp(-0.5 * q) + 0.3 * np.exp(-2 * q))

    common = np.outer(cells[2], cells[2]) * np.exp(-0.5 * ((dx / 60) ** 2 + (dy / 30) ** 2))
    matrix = slow(dx, dy) + common + np.diag(cells[1] + 0.49e-6)
    lower = np.empty((n, n))
    cost = field.misfit(cells, form, lower)
    np.testing.assert_allclose(np.tril(lower), np.linalg.cholesky(matrix), rtol=1e-8, atol=1e-10)
    weights = np.linalg.solve(matrix, cells[0])
    assert cost == pytest.approx(0.5 * cells[0] @ weights + 0.5 * np.linalg.slogdet(matrix)[1])
    xs, ys = np.array([3.0, 31.0]), np.array([12.0, 20.0, 44.0])
    mean, variance = np.empty((3, 2)), np.empty((3, 2))
    field.expect(cells, weights, form, xs, ys, mean)
    field.doubt_field(cells, lower, form, xs, ys, variance)
    there = slow(xs[None, :, None] - cells[3], ys[:, None, None] - cells[4])
    np.testing.assert_allclose(mean, there @ weights, rtol=1e-7)
    np.testing.assert_allclose(
        variance, 0.49 - np.einsum("yxi,yxi->yx", there, there @ np.linalg.inv(matrix)), rtol=1e-6
    )


def spilling(light, shift, seed, shape=SHAPE):
    """Return (rate, labels) of slices whose light leaks over their edges, these off the labels by ``shift`` pixels."""
    rng = np.random.default_rng(seed)
    x, row = np.arange(shape[1]), np.arange(shape[0])[:, None]
    bend = 3.0 * (row / shape[0]) ** 2
    rate, labels = rng.normal(0, NOISE, shape), np.zeros(shape, "i2")
    for k in range(shape[1] // 27):
        left, right = 8.3 + 27 * k + bend, 28.7 + 27 * k + bend
        labels[(x >= left) & (x <= right)] = 101 + k
        off = rng.normal(0, shift, 2)
        leak = [0.5 + 0.5 * np.tanh(z / 0.9) for z in (x - left - off[0] + 0.5, right - off[1] - x + 0.5)]
        rate += light * rng.uniform(0.8, 1.2) * (1 + 0.3 * np.sin(row / 90)) * leak[0] * leak[1]
    return rate.astype("f4"), labels


@pytest.mark.parametrize(("light", "shift", "seed"), [(0.5, 0.3, 21), (4.0, 0.3, 22), (20.0, 0.3, 23)])
def test_light_over_the_edges_of_slices_is_no_shower_and_hides_none(light, shift, seed):
    rate, labels = spilling(light, shift, seed)
    planes = np.stack([labels] * 9)
    alone = clean_showers(frames(rate[None]), regions=regions(planes), method="gated")
    np.testing.assert_array_equal(alone.rate[0], rate)
    shower = made_shower(gaussian, 35, 2.0)
    out = clean_showers(frames((rate + shower)[None]), regions=regions(planes), method="gated").rate.values[0]
    inside = (labels > 0) & (shower > 0.1)
    assert abs((out - rate)[inside].sum()) < 0.06 * shower[inside].sum()
    assert np.abs(out - rate)[(labels > 0) & (shower < 1e-4)].max() < 0.05


def test_what_slices_spill_is_found_where_left_out_rows_agree():
    rate, labels = spilling(20.0, 0.3, 31)
    near = np.any([np.roll(labels > 0, k, axis=1) for k in range(-2, 3)], axis=0)
    flags, noise = np.zeros(SHAPE, "u4"), np.full(SHAPE[0], NOISE)
    gaps = slices.gaps_of(labels, ~near)
    assert all(not near[gap.rows, gap.columns].any() for gap in gaps)
    spilled = slices.spilled_light(rate, ~near, noise, rate, flags, gaps)
    before, after = ((rate - off)[~near] for off in (0, spilled))
    assert np.std(before) > 5 * NOISE > 2 * np.std(after)
    dark = np.random.default_rng(3).normal(0, NOISE, SHAPE).astype("f4")
    assert np.mean(slices.spilled_light(dark, ~near, noise, rate, flags, gaps)[~near] != 0) < 0.1


@pytest.mark.parametrize("there", [True, False])
def test_slices_judge_what_is_found_between_them(there):
    rate, labels = spilling(0.0, 0.0, 11)
    shower = made_shower(gaussian, 40, 0.4).astype("f4")
    on = slices.Slices(rate + (shower if there else 0), np.zeros(SHAPE, "u4"), labels)
    box = (slice(90, 220), slice(140, 280))
    took = on.judge(shower[box], box)
    assert (took is not None) == there
    narrow = on.judge(made_shower(gaussian, 20, 0.4)[box], box)
    assert narrow is None or (there and narrow[1] > 2.0 * took[1])
    if there:
        on.take(took[3])
    plain = slices.Slices(rate, np.zeros(SHAPE, "u4"), labels)
    np.testing.assert_allclose(on.light, plain.light, atol=0.02)
    if there:
        assert took[0][0] < 0.5 * took[0][1]
        assert took[1] < 0.1
        assert took[2].all()


def amounts_of(rate, labels, shape):
    """Return the amounts of a shower (y, x) on slices that it lights, those on dark ones, and the variances left."""
    on = slices.Slices(rate, np.zeros(rate.shape, "u4"), labels)
    box = (slice(None), slice(None))
    light = on._sum(shape, box) / on.count
    amount, rest = on.amounts(light, np.full(rate.shape, (0.02 * shape.max()) ** 2), box)
    top = light.max(axis=1)
    return amount[top > 0.3 * top.max()], amount[top < 0.1 * top.max()], rest


@pytest.mark.parametrize(("part", "longer"), [(1.0, 1.0), (1.3, 1.0), (0.75, 1.0), (1.0, 1.25), (0.8, 0.85)])
def test_slices_correct_how_much_of_a_shower_lies_on_them(part, longer):
    rate, labels = spilling(0.0, 0.0, 12)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    shower, model = (
        height * np.exp(-0.5 * (((y - 150) / (12.0 * long)) ** 2 + ((x - 210) / 30.0) ** 2))
        for height, long in ((0.8 * part, 1.0), (0.8 / longer, longer))
    )
    amount, dark, rest = amounts_of((rate + shower).astype("f4"), labels, model)
    np.testing.assert_allclose(amount, part, atol=0.05)
    assert (dark == 1.0).all()
    assert (rest > 0.0).all()


def test_slices_with_light_of_their_own_or_beyond_the_border_leave_a_shower_as_it_is():
    rate, labels = spilling(0.0, 0.0, 13)
    shower = made_shower(gaussian, 40, 0.4)
    bumps = np.random.default_rng(4).normal(size=(SHAPE[0], 1)) * np.ones(SHAPE)
    bumps = correlate(bumps, np.exp(-0.5 * (np.arange(-40, 41)[:, None] / 12.0) ** 2), mode="nearest")
    source = rate + np.where(labels > 0, bumps, 0.0)
    np.testing.assert_allclose(amounts_of((source + shower).astype("f4"), labels, shower)[0], 1.0, atol=0.03)
    cut = made_shower(gaussian, 40, 0.4, at=(2.0, 210.0))
    assert (amounts_of((rate + 1.5 * cut).astype("f4"), labels, cut)[0] == 1.0).all()


def test_share_of_a_shape_at_other_rows_is_told_or_nan():
    rng = np.random.default_rng(6)
    y = np.arange(300)
    shape = np.exp(-0.5 * ((y - [[40.0], [260.0]]) / 6) ** 2).astype("f4")
    light = rng.normal(0, 0.01, (2, 300)) + 3.0 + 0.01 * y + 0.7 * np.roll(shape, 100, axis=1)
    lit = np.flatnonzero((shape > 0.02).any(axis=0))
    share, variance, least = slices._shares_of(light, shape, lit, 100)
    assert share[0] == pytest.approx(0.7, abs=4 * variance[0] ** 0.5)
    assert variance[0] ** 0.5 < 0.02
    assert least[0] > 100
    assert np.isnan(share[1])  # beyond the detector
    for away in (-250, 250, 600):
        assert not np.isfinite(slices._shares_of(light, shape, lit, away)[0]).all()


def test_cells_leave_out_hits():
    rng = np.random.default_rng(2)
    values = rng.normal(0, 0.1, (12, 15)).astype("f4")
    known = rng.random((12, 15)) < 0.8
    noise, doubts = np.full(12, 0.1), np.zeros((12, 15), "f4")
    values[5, 7], known[5, 7] = 40.0, True
    out = np.empty((5, 3, 3))
    field.fill_cells(values, known, noise, doubts, out)
    here = known[4:8, 6:12].copy()
    here[1, 1] = False
    y, x = np.nonzero(here)
    wanted = [values[4:8, 6:12][here].mean(), 0.01 / here.sum(), 0.0, 6 + x.mean(), 4 + y.mean()]
    np.testing.assert_allclose(out[:, 1, 1], wanted, rtol=1e-5, atol=1e-7)


def test_edges():
    rate = np.where(lit(), 0.0, 1.0) + np.random.default_rng(1).normal(0, 1e-3, SHAPE)
    dark = rate - run(rate).rate.values[0]
    assert dark[0, 200] < 0.3
    np.testing.assert_allclose(dark[150, 200], 1.0, atol=1e-3)


@pytest.mark.parametrize("method", ["smooth", "gated"])
def test_pathologies(method):
    rate = sky()[0]
    nothing = np.full(SHAPE, np.nan)
    gaps = np.where(lit(), rate, np.nan)
    rates = np.stack([nothing, gaps, np.zeros(SHAPE)])
    flags = np.where(np.isnan(rates), 1, 0).astype("u4")
    planes = np.stack([labelled()]).astype("i2")
    ds = frames(rates, flags)
    out = clean_showers(ds, regions=regions(planes), method=method)
    np.testing.assert_array_equal(out.rate, ds.rate)
    np.testing.assert_array_equal(out.dq, ds.dq)
    flagged = frames(rate[None], np.ones((1, *SHAPE), "u4"))
    np.testing.assert_array_equal(clean_showers(flagged, regions=regions(planes), method=method).rate, flagged.rate)


def test_errors():
    ds = frames(np.zeros((1, *SHAPE)))
    planes = regions(np.zeros((9, *SHAPE), "i2"))
    with pytest.raises(MrsxrError, match="expected one of smooth, gated"):
        clean_showers(ds, regions=planes, method="best")
    with pytest.raises(MrsxrError, match="shower_x_stddev is 0"):
        clean_showers(ds, regions=planes, shower_x_stddev=0.0)
    with pytest.raises(MrsxrError, match="percentiles in rising order"):
        clean_showers(ds, regions=planes, shower_low_reject=99.0, shower_high_reject=1.0)
    with pytest.raises(ReferenceFileError, match="plane 9 of regions asked for, it has 0 to 8"):
        clean_showers(ds, regions=planes, shower_plane=9)
    with pytest.raises(ReferenceFileError, match=r"regions has 300 x 420 pixels, the data 300 x 400"):
        clean_showers(ds.isel(x=slice(0, 400)), regions=planes)
